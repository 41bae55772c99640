"""A data set that is being received, on its way from the association to whoever wants it.

The association feeds views of the receive memory from the event loop's callback. A consumer that waits for them goes on
there and then, and no byte is kept. What it does not take at once is: slabs are held, a few of them, or small amounts
copied; then the association stops reading.
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
from .receive_buffer import MAX_HELD
from .uids import transfer_syntax
from .wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence

    from pydicom import Dataset

    from .part10 import FileMeta
    from .receive_buffer import Lease, SlabPool

__all__ = ["IncomingDataSet", "sync_folder"]

_COPY_LIMIT = 16 * 1024
"""Up to here the bytes are copied and the slab stays free: a slab of 256 KiB is much to hold for a small object."""

_DECODE_IN_THREAD = 1 << 20
"""Bytes from which decoding is worth a thread, for the sake of the other associations."""

_writev: Callable[[int, Sequence[memoryview]], int] | None = getattr(os, "writev", None)  # not on Windows
_IOV_MAX = 1024


_ENTRY_COST, _VIEW_COST = 512, 200
"""Bytes that an entry, and each view in it, takes beside the bytes of the data set."""


class _Entry:
    """What came in one read, until the consumer is done with it."""

    __slots__ = ("charge", "is_copy", "is_in_hand", "is_released", "lease", "size", "views")

    def __init__(self, views: list[memoryview], size: int) -> None:
        self.views = views
        self.size = size
        """Bytes of the data set."""
        self.charge = 0
        """Bytes of memory that it holds beside the slab; none while the views are only borrowed for a callback."""
        self.is_copy = False
        """Whether the views show no slab."""
        self.lease: Lease | None = None
        """Of the slab that the views show; None if they are borrowed or show a copy."""
        self.is_in_hand = False
        """Whether the consumer has begun with it."""
        self.is_released = False

    def copy(self) -> None:
        """Make one view of them that shows a copy."""
        self.views = [memoryview(b"".join(self.views))]
        self.is_copy = True


class IncomingDataSet:
    """The data set of a message that is being received; use one of its methods, once.

    ``async for`` gives the data set as read-only views in the order in which it came, without decoding. A view is good
    until the next one is asked for: copy what you keep. What nobody consumes is read from the network and dropped.
    """

    # As every data set begins: what stands in the class is not written for each.
    _borrowed: _Entry | None = None
    """The last one, until it is settled who has it."""
    _charge = 0
    _sink: Callable[[Sequence[memoryview]], object] | None = None
    _consumer = False
    _dropping = False
    _ended = False
    _lost: BaseException | None = None
    """Why the rest will never come."""
    _refused: BaseException | None = None
    """Why the consumer does not want the rest."""
    _waiter: Wakeup[None] | None = None
    needs_more = False
    """Whether the consumer waits, and lets go of nothing of what is kept before more has come."""
    received = 0
    """Bytes that have come so far."""

    def __init__(
        self,
        meta: FileMeta,
        pool: SlabPool,
        held_changed: Callable[[int], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._meta = meta
        self._pool = pool
        self._held_changed = held_changed
        self._loop = loop
        self._kept: deque[_Entry] = deque()

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
        folder = os.path.dirname(os.fspath(path)) or "."
        part = os.path.join(folder, f".{os.urandom(8).hex()}.part")
        header = self._meta.encode()
        self._check_unclaimed()
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            try:
                self._claim()
                first = [memoryview(header)]

                def write(views: Sequence[memoryview]) -> None:
                    if first:
                        views = [first.pop(), *views]  # the file meta information goes with the first bytes behind it
                    _write(descriptor, views)

                await self._pour(write)
                if first:
                    _write(descriptor, first)
                if sync:
                    await asyncio.to_thread(os.fsync, descriptor)
            finally:
                os.close(descriptor)
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise
        if sync:
            await asyncio.to_thread(sync_folder, folder)  # else the name may be lost although the bytes are not
        return len(header) + self.received

    async def head(self, tags: Collection[int], limit: int = 64 * 1024) -> dict[int, bytes]:
        """Values of top-level elements that are among the first bytes, without consuming anything.

        Waits until all ``tags`` (0x0020_000D) have come or been passed, or ``limit`` bytes, at most 256 KiB, are here.
        What was not found is not in the result. Raises DataSetError if the bytes are no data set of the transfer
        syntax, and the association's error when it ends before.
        """
        self._check_unclaimed()
        syntax = transfer_syntax(self._meta.transfer_syntax_uid)
        limit = min(limit, MAX_HELD // 4)
        looked_at = 0
        try:
            while True:
                # Looked at again when there is twice as much: small reads would make it quadratic.
                if self._ended or self.received >= min(limit, 2 * looked_at):
                    head = self._join_kept()[:limit]
                    looked_at = len(head)
                    found, is_over = scan(inflate_head(head, limit) if syntax.deflated else head, syntax, tags)
                    if is_over or self._ended or looked_at == limit:
                        return found
                if self._lost is not None:
                    raise self._lost
                if self._charge > MAX_HELD // 2:
                    self._join_kept()  # many small reads hold more than they bring, and reading must not pause for it
                self._tell_needs_more(needs_more=True)
                await self._wait()
        finally:
            self._tell_needs_more(needs_more=False)

    async def read(self, limit: int = 1 << 30) -> bytes:
        """The whole data set as bytes, without decoding. Raises DataSetError if it has more than ``limit``."""

        def admit(size: int) -> None:
            if size > limit:
                raise DataSetError(f"the data set has more than {limit} bytes, which is the limit given")

        return await self.gather(admit)

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
        kept = self._kept
        try:
            while True:
                while kept:
                    entry = kept.popleft()
                    if entry.size < _VIEW_COST * len(entry.views):
                        entry.copy()  # who is busy with it would hold more for the views than for the bytes
                    entry.is_in_hand = True
                    try:
                        for view in entry.views:
                            yield view
                    finally:
                        self._release(entry)
                if self._lost is not None:
                    raise self._lost
                if self._dropping:
                    raise DataSetError(_DROPPED)
                if self._ended:
                    return
                await self._wait()
        finally:
            self.close()

    # For the association

    async def gather(self, admit: Callable[[int], object]) -> bytes:
        """The whole data set as bytes; ``admit`` is told how many they are so far, and raises when it is enough."""
        self._claim()
        gathered = BytesIO()

        def gather(views: Sequence[memoryview]) -> None:
            admit(self.received)
            for view in views:
                gathered.write(view)

        await self._pour(gather)
        return gathered.getvalue()

    def feed(self, views: list[memoryview], *, is_last: bool) -> None:
        """More of the data set, in views that are good until the caller returns.

        A consumer that waits has them now. What it does not take until :meth:`settle` is kept.
        """
        self.received += (size := sum(map(len, views)))
        self._ended = is_last
        if self._sink is not None:
            try:
                self._sink(views)
            except Exception as error:  # noqa: BLE001 - it is raised again, where the consumer waits
                self._refused = error
                self._sink = None
                self._dropping = True
            else:
                if not is_last:
                    return
        elif size and not self._dropping:
            self._borrowed = entry = _Entry(views, size)
            self._kept.append(entry)
        elif not is_last:
            return
        self._wake()

    def settle(self) -> None:
        """To be called after :meth:`feed`: the consumer has had its chance, and the views are not good any longer."""
        if self._borrowed is not None:
            if not self._borrowed.is_released:
                self._secure(self._borrowed)
            self._borrowed = None

    def fail(self, error: BaseException) -> None:
        """No more will come."""
        self.close()
        if not self._ended:
            self._lost = error
            if self._waiter is not None:
                self._waiter.set_exception(error)

    def close(self) -> None:
        """Forget what is here, and what is still to come."""
        self._dropping = True
        self._sink = None
        while self._kept:
            self._release(self._kept.popleft())

    async def drop(self) -> None:
        """Forget what is here, and wait until the rest has come and is forgotten too."""
        self.close()
        while not self._ended and self._lost is None:
            await self._wait()

    # Helpers

    def _check_unclaimed(self) -> None:
        if self._consumer:
            raise RuntimeError("a data set can be consumed once")
        if self._dropping:
            raise self._lost or DataSetError(_DROPPED)

    def _claim(self) -> None:
        self._check_unclaimed()
        self._consumer = True

    async def _pour(self, sink: Callable[[Sequence[memoryview]], object]) -> None:
        try:
            while self._kept:
                entry = self._kept.popleft()
                try:
                    sink(entry.views)
                finally:
                    self._release(entry)
            self._sink = sink
            while not self._ended and self._lost is None and self._refused is None:
                await self._wait()
            if self._dropping and self._refused is None:
                raise self._lost or DataSetError(_DROPPED)
        finally:
            self.close()
        if (error := self._refused or self._lost) is not None:
            raise error

    def _secure(self, entry: _Entry) -> None:
        """Keep what the consumer has not taken, or is still busy with."""
        # A slab is much to hold for few bytes, and so are very many views for the bytes that they show.
        if entry.size <= max(_COPY_LIMIT, _VIEW_COST * len(entry.views)) and not entry.is_in_hand:
            entry.copy()
        before = self._charge
        if entry.is_copy:
            self._hold(entry, entry.size + _ENTRY_COST)
        else:
            entry.lease = self._pool.hold()
            self._charge += entry.lease.size
            self._hold(entry, _VIEW_COST * len(entry.views))
        self._held_changed(self._charge - before)

    def _hold(self, entry: _Entry, charge: int) -> None:
        entry.charge = charge
        self._charge += charge
        self._pool.charge(charge)

    def _release(self, entry: _Entry) -> None:
        if entry.charge:
            before = self._charge
            self._let_go(entry)
            self._held_changed(self._charge - before)
        else:
            entry.is_released = True

    def _let_go(self, entry: _Entry) -> None:
        entry.is_released = True
        if entry.charge:
            self._charge -= entry.charge
            self._pool.charge(-entry.charge)
        if entry.lease is not None:
            self._charge -= entry.lease.size
            entry.lease.release()

    def _tell_needs_more(self, *, needs_more: bool) -> None:
        if needs_more != self.needs_more:
            self.needs_more = needs_more
            self._held_changed(0)

    def _join_kept(self) -> bytes:
        """All that is kept as one copy, so that slabs are free: many small reads would hold them all."""
        joined = b"".join(view for entry in self._kept for view in entry.views)
        before = self._charge
        while self._kept:
            self._let_go(self._kept.popleft())
        if joined:
            entry = _Entry([memoryview(joined)], len(joined))
            entry.is_copy = True
            self._kept.append(entry)
            self._hold(entry, len(joined) + _VIEW_COST)  # never more than what it replaces
        if self._charge != before:
            self._held_changed(self._charge - before)
        return joined

    def _wait(self) -> Wakeup[None]:
        """To be awaited: something has happened. The consumer goes on within the callback that brings it."""
        if self._waiter is not None:
            self._waiter.set_exception(RuntimeError("another task waits for this data set now"))
        self._waiter = Wakeup(self._loop)
        return self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.set_result(None)


_DROPPED = "the data set was dropped before all of it was read: the handler of its request has ended"


def sync_folder(folder: str) -> None:
    """Have the names in a folder on stable storage, where a system lets folders be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(descriptor: int, views: Sequence[memoryview]) -> None:
    """Write all of them; a file that takes only a part is tried again with the rest, and then says why."""
    if _writev is None:
        for view in views:
            left = view
            while left:
                left = left[os.write(descriptor, left) :]
        return
    if len(views) <= _IOV_MAX:
        written = _writev(descriptor, views)
        if written == sum(map(len, views)):
            return
    else:
        written = 0
    left_over = list(views)
    while left_over:
        done = 0
        while done < len(left_over) and written >= len(left_over[done]):
            written -= len(left_over[done])
            done += 1
        left_over = left_over[done:]
        if left_over:
            if written:
                left_over[0] = left_over[0][written:]
            written = _writev(descriptor, left_over[:_IOV_MAX])
