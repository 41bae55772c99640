"""The data set of a file to the network: read into one slab with gaps for the headers, written from it.

PS3.8 annex E. The file is never mapped, decoded or loaded: a slab of about 256 KiB holds several PDUs, a scatter read
fills the places between their headers, and the whole is one write. The slab is used again once the transport has let go
of it.
"""

from __future__ import annotations

import asyncio
import os
import stat
from typing import TYPE_CHECKING

from .dimse import PDU_OVERHEAD, data_head
from .errors import FileFormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .instances import Instance
    from .transport import Connection

__all__ = ["FileSender"]

_SLAB_SIZE = 552 * 1024
"""A CT of 512 KiB with its headers is one read and one write: 2,691 MB/s where 264 KiB gave 2,440."""
_MAX_VIEWS = 1024
"""Places that one scatter read can fill (IOV_MAX)."""

_COMMAND_ROOM = 1024
"""Bytes in front for the command's PDU, so that a small message is one write."""


class FileSender:
    """Sends the data sets of files on one association, one at a time."""

    def __init__(self, connection: Connection, fragment_size: int) -> None:
        self._connection = connection
        self._fragment_size = fragment_size
        pdu = PDU_OVERHEAD + fragment_size
        count = min(max(1, _SLAB_SIZE // pdu), _MAX_VIEWS)
        self._slab = memoryview(bytearray(_COMMAND_ROOM + count * pdu))
        self._room = count * fragment_size
        starts = [_COMMAND_ROOM + index * pdu for index in range(count)]
        self._heads = [self._slab[start : start + PDU_OVERHEAD] for start in starts]
        self._gaps = [self._slab[start + PDU_OVERHEAD : start + pdu] for start in starts]
        self._context_id = 0
        """Whose heads stand in the slab, which are :attr:`_head`."""
        self._head = b""
        self._odd = -1
        """Which of the heads is another one: of a last fragment; -1 if none is."""
        self._ready: tuple[int, Instance] | None = None
        """The context and the file of which the first bytes are in the slab."""
        self._file = -1
        """Descriptor of the file that is being sent, or will be; -1 when all of it is in the slab."""
        self._position = self._left = self._length = 0
        """In the file: where to go on, how much is left; and how much of it is in the slab."""

    def prepare(self, context_id: int, instance: Instance) -> None:
        """Read the first bytes of a file, for the :meth:`send` to come. Raises what that raises."""
        self.close()
        if instance.path:
            self._begin(context_id, instance)

    def forget(self) -> None:
        """Let go of what was prepared; a file that is being sent is closed by who sends it."""
        if self._ready is not None:
            self.close()

    def close(self) -> None:
        """Close the file."""
        self._ready = None
        if self._file >= 0:
            descriptor, self._file = self._file, -1
            os.close(descriptor)

    async def send(self, context_id: int, command: bytes, instance: Instance, timeout: float) -> None:
        """Send the PDUs of a command, which are ``command``, and the data set behind it.

        Raises FileFormatError if the file is not the one that was looked at; if it becomes shorter while it is sent,
        the message is cut off and the association good for an A-ABORT only.
        """
        if self._ready is None or self._ready != (context_id, instance):
            self.close()
            self._begin(context_id, instance)
        self._ready = None
        try:
            if len(command) > _COMMAND_ROOM:
                await self._connection.write_and_drain((command,), timeout)
                command = b""
            while True:
                start = _COMMAND_ROOM - len(command)
                self._slab[start:_COMMAND_ROOM] = command
                end = _COMMAND_ROOM + self._span(self._length)
                await self._connection.write_and_drain((self._slab[start:end],), timeout)
                if not self._left:
                    return
                await asyncio.sleep(0)  # a peer that takes all at once must not keep the loop from the others
                command = b""
                self._read(context_id)
        finally:
            self.close()

    def _begin(self, context_id: int, instance: Instance) -> None:
        self._file = os.open(instance.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            status = os.fstat(self._file)
            if (
                status.st_size != instance.offset + instance.length
                or instance.modified not in (0, status.st_mtime_ns)
                or not stat.S_ISREG(status.st_mode)
            ):
                raise FileFormatError("the file has changed since it was looked at")
            self._position, self._left = instance.offset, instance.length
            self._read(context_id)
        except BaseException:
            self.close()
            raise
        if not self._left:
            self.close()
        self._ready = context_id, instance

    def _read(self, context_id: int) -> None:
        """Put the next bytes of the file into the slab."""
        self._length = length = min(self._left, self._room)
        self._left -= length
        self._write_heads(context_id, length, is_last=not self._left)
        _fill(self._file, self._views(length), self._position, length)
        self._position += length

    def _write_heads(self, context_id: int, length: int, *, is_last: bool) -> None:
        size = self._fragment_size
        if context_id != self._context_id:
            self._head = data_head(context_id, size, is_last=False)
            for place in self._heads:
                place[:] = self._head
            self._context_id = context_id
        elif self._odd >= 0:
            self._heads[self._odd][:] = self._head
        self._odd = -1
        if is_last:
            index = (length - 1) // size
            rest = length - index * size
            # A data set of odd length, which only a deflated one may have, gets a pad byte: fragments are even.
            self._heads[index][:] = data_head(context_id, rest + rest % 2, is_last=True)
            if rest % 2:
                self._gaps[index][rest] = 0
            self._odd = index

    def _views(self, length: int) -> list[memoryview]:
        full, rest = divmod(length, self._fragment_size)
        views = self._gaps[:full]
        if rest:
            views.append(self._gaps[full][:rest])
        return views

    def _span(self, length: int) -> int:
        full, rest = divmod(length, self._fragment_size)
        return full * (PDU_OVERHEAD + self._fragment_size) + (PDU_OVERHEAD + rest + rest % 2 if rest else 0)


def _fill(descriptor: int, views: Sequence[memoryview], position: int, length: int) -> None:
    """Read ``length`` bytes from ``position`` into the views."""
    if hasattr(os, "preadv"):
        if os.preadv(descriptor, views, position) == length:
            return
    os.lseek(descriptor, position, os.SEEK_SET)
    for view in views:
        left = view
        while left:
            piece = os.read(descriptor, len(left))
            if not piece:
                raise FileFormatError("the file has become shorter while it was sent")
            left[: len(piece)] = piece
            left = left[len(piece) :]
