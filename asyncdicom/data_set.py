"""A data set that is being received, on its way from the association to whoever wants it.

The association feeds views of the receive memory from the event loop's callback. A consumer with a sink
(:meth:`IncomingDataSet.save_as`, ``read``) gets them there and then, and no byte is kept. Until there is a consumer,
and for one that iterates, the slabs are held: a few of them, then the association stops reading.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from io import BytesIO
from typing import TYPE_CHECKING

from .elements import inflate_head, scan
from .errors import DataSetError
from .uids import transfer_syntax

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence

    from pydicom import Dataset

    from .part10 import FileMeta
    from .receive_buffer import Lease, SlabPool

__all__ = ["MAX_HELD", "IncomingDataSet"]

MAX_HELD = 1 << 20
"""Bytes of receive memory that the consumers of one association may hold before its reading pauses."""

_COPY_LIMIT = 16 * 1024
"""Up to here the bytes are copied and the slab stays free: a slab of 256 KiB is much to hold for a small object."""

_DECODE_IN_THREAD = 1 << 20
"""Bytes from which decoding is worth a thread, for the sake of the other associations."""

_writev: Callable[[int, Sequence[memoryview | bytes]], int] | None = getattr(os, "writev", None)  # not on Windows
_IOV_MAX = 1024


class IncomingDataSet:
    """The data set of a message that is being received; use one of its methods, once.

    ``async for`` gives the data set as read-only views in the order in which it came, without decoding. A view is good
    until the next one is asked for: copy what you keep. What nobody consumes is read from the network and dropped.
    """

    def __init__(self, meta: FileMeta, pool: SlabPool, held_changed: Callable[[int], None]) -> None:
        self._meta = meta
        self._pool = pool
        self._held_changed = held_changed
        self._kept: deque[tuple[Lease | None, int, list[memoryview]]] = deque()
        self._sink: Callable[[Sequence[memoryview]], object] | None = None
        self._consumer = False
        self._dropping = False
        self._ended = False
        self._lost: BaseException | None = None
        """Why the rest will never come."""
        self._refused: BaseException | None = None
        """Why the consumer does not want the rest."""
        self._waiter: asyncio.Future[None] | None = None
        self.received = 0
        """Bytes that have come so far."""

    @property
    def file_meta(self) -> FileMeta:
        """The file meta information that a file of this data set begins with (PS3.10 7.1)."""
        return self._meta

    @property
    def is_complete(self) -> bool:
        """Whether the whole data set has come."""
        return self._ended

    # For whoever uses it

    async def save_as(self, path: str | os.PathLike[str], *, sync: bool = False) -> int:
        """Write a DICOM file (PS3.10): preamble, file meta information, and the data set as it came.

        The file has its name only once it is whole; until then it is a hidden one in the same folder, which is removed
        when the association ends early, and on cancellation. An existing file is replaced. ``sync`` waits until the
        file is on stable storage. The writing itself happens in the event loop, straight from the receive memory.
        Returns the bytes written. Raises OSError as the operating system does, and the association's error when it
        ends before the data set does.
        """
        self._claim()
        part = os.path.join(os.path.dirname(os.fspath(path)), f".{os.urandom(8).hex()}.part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        header = self._meta.encode()
        try:
            try:
                _write(descriptor, [header])
                await self._pour(lambda views: _write(descriptor, views))
                if sync:
                    await asyncio.to_thread(os.fsync, descriptor)
            finally:
                os.close(descriptor)
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise
        return len(header) + self.received

    async def head(self, tags: Collection[int], limit: int = 64 * 1024) -> dict[int, bytes]:
        """Values of top-level elements that are among the first bytes, without consuming anything.

        Waits until all ``tags`` (0x0020_000D) have come or been passed, or ``limit`` bytes, at most 512 KiB, are here.
        What was not found is not in the result. Raises DataSetError if the bytes are no data set of the transfer
        syntax, and the association's error when it ends before.
        """
        if self._consumer:
            raise RuntimeError("the head of a data set can be read before the data set is consumed")
        syntax = transfer_syntax(self._meta.transfer_syntax_uid)
        limit = min(limit, MAX_HELD // 2)
        while True:
            self._copy_kept()
            head = b"".join(view for _, _, views in self._kept for view in views)[:limit]
            start = inflate_head(head, limit) if syntax.deflated else head
            found, is_over = scan(start, syntax, tags)
            if is_over or self._ended or len(head) == limit:
                return found
            if self._lost is not None:
                raise self._lost
            await self._wait()

    async def read(self, limit: int = 1 << 30) -> bytes:
        """The whole data set as bytes, without decoding. Raises DataSetError if it has more than ``limit``."""
        self._claim()
        gathered = BytesIO()

        def gather(views: Sequence[memoryview]) -> None:
            if self.received > limit:
                raise DataSetError(f"the data set has more than {limit} bytes, which is the limit given")
            for view in views:
                gathered.write(view)

        await self._pour(gather)
        return gathered.getvalue()

    async def decode(self, limit: int = 1 << 30) -> Dataset:
        """The whole data set as a pydicom ``Dataset`` with its file meta information.

        ``limit`` bounds its bytes, after inflating too. Raises DataSetError for more, and for what cannot be decoded.
        """
        from .instances import decode  # noqa: PLC0415 - brings pydicom

        data = await self.read(limit)
        if len(data) < _DECODE_IN_THREAD:
            return decode(data, self._meta, limit)
        return await asyncio.to_thread(decode, data, self._meta, limit)

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        self._claim()
        while True:
            while self._kept:
                lease, size, views = self._kept.popleft()
                try:
                    for view in views:
                        yield view
                finally:
                    self._release(lease, size)
            if self._lost is not None:
                raise self._lost
            if self._ended:
                return
            await self._wait()

    # For the association

    def feed(self, views: list[memoryview], *, is_last: bool) -> None:
        """More of the data set, in views that are good until this returns."""
        self.received += sum(map(len, views))
        if self._sink is not None:
            try:
                self._sink(views)
            except Exception as error:  # noqa: BLE001 - it is raised again, where the consumer waits
                self._refused = error
                self._sink = None
                self._dropping = True
        elif not self._dropping:
            self._keep(views)
        self._ended = is_last
        if is_last or self._kept or self._refused is not None:
            self._wake()

    def fail(self, error: BaseException) -> None:
        """No more will come."""
        if not self._ended:
            self._lost = error
            self._dropping = True
            self._forget()
            self._wake()

    async def drop(self) -> None:
        """Forget what is here, and wait until the rest has come and is forgotten too."""
        self._dropping = True
        self._forget()
        while not self._ended and self._lost is None:
            await self._wait()

    # Helpers

    def _claim(self) -> None:
        if self._consumer:
            raise RuntimeError("a data set can be consumed once")
        self._consumer = True

    async def _pour(self, sink: Callable[[Sequence[memoryview]], object]) -> None:
        try:
            while self._kept:
                lease, size, views = self._kept.popleft()
                try:
                    sink(views)
                finally:
                    self._release(lease, size)
            self._sink = sink
            while not self._ended and self._lost is None and self._refused is None:
                await self._wait()
        finally:
            self._sink = None
            self._dropping = True
            self._forget()
        if (error := self._refused or self._lost) is not None:
            raise error

    def _keep(self, views: list[memoryview]) -> None:
        size = sum(map(len, views))
        if not size:
            return
        if size <= _COPY_LIMIT:
            self._kept.append((None, size, [memoryview(b"".join(views))]))
        else:
            lease = self._pool.hold()
            size = lease.size
            self._kept.append((lease, size, views))
        self._held_changed(size)

    def _copy_kept(self) -> None:
        """Let the slabs go: small reads would hold so many that reading pauses before the head is here."""
        for index, (lease, size, views) in enumerate(self._kept):
            if lease is not None:
                copy = b"".join(views)
                self._kept[index] = (None, len(copy), [memoryview(copy)])
                lease.release()
                self._held_changed(len(copy) - size)

    def _forget(self) -> None:
        while self._kept:
            lease, size, _ = self._kept.popleft()
            self._release(lease, size)

    def _release(self, lease: Lease | None, size: int) -> None:
        if lease is not None:
            lease.release()
        self._held_changed(-size)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _write(descriptor: int, views: Sequence[memoryview | bytes]) -> None:
    """Write all of them; a file that takes only a part is tried again with the rest, and then says why."""
    if _writev is None:
        for view in views:
            left = memoryview(view)
            while left:
                left = left[os.write(descriptor, left) :]
        return
    views = [view for view in views if view]
    while views:
        written = _writev(descriptor, views[:_IOV_MAX])
        done = 0
        while done < len(views) and written >= len(views[done]):
            written -= len(views[done])
            done += 1
        views = views[done:]
        if written:
            views = [memoryview(views[0])[written:], *views[1:]]
