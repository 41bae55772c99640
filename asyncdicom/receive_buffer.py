"""Bytes in, PDUs and P-DATA fragments out, as views of the receive memory (PS3.8 9.3, annex E).

The core owns the memory and the transport only fills it. A :class:`SlabPool` holds it for many associations: what is
received lands in the pool's current slab, is read in place and consumed before the next read, so one slab serves all
associations of a loop. Only a consumer that must keep views past that holds the slab
(:meth:`SlabPool.hold`), and releases it when it is done.

A PDU never has to be whole and its length costs no memory: of each fragment, what is there is passed on at once. Only a
header that is cut by the end of a read is carried over, and the small PDUs other than P-DATA-TF are gathered.
"""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING, TypeAlias

from .errors import AbortReason, NotDicom, ProtocolError
from .pdu import MAX_ASSOCIATE_LENGTH, PDU, PDU_HEADER, PDV_HEADER, PduType, decode_pdu

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MAX_HELD", "MEMORY_LIMIT", "SLAB_SIZE", "Fragment", "Lease", "ReceiveBuffer", "SlabPool"]

MAX_HELD = 1 << 20
"""Bytes of receive memory that the consumers of one association may hold before its reading pauses."""

MEMORY_LIMIT = 256 << 20
"""Bytes of receive memory that the consumers of all associations of a pool may hold, unless it is told otherwise."""

_LEAST_MEMORY = 16 << 20
"""Half of a limit, where reading begins to pause, has to leave room for what is reserved."""
_SMALL, _LEAST_SMALL = 16 * 1024, 64
"""Bytes per read when memory is scarce: at most, and at least."""
_MOST_PER_BYTE = 10
"""Bytes that one byte received can cost: the slab, its copy, and the objects of data sets with a byte each, of which
every one needs 69 bytes with its command."""

SLAB_SIZE = 264 * 1024
"""Bytes per read at most. A CT of 512 KiB with its headers is two reads: 3,640 MB/s, with 256 KiB three and 3,301.
64 and 128 KiB were slower too, 528 KiB no faster on one association (C sender on loopback, uvloop)."""

_HEADERS = struct.Struct(">BxIIBB")
"""A PDU header and the PDV header behind it, in one unpacking."""
_PDV_OVERHEAD = 2
_P_DATA_TF = int(PduType.P_DATA_TF)
_LAST = 2  # message control header: bit 1
_FIXED_LENGTH = 4  # of every PDU but A-ASSOCIATE-RQ, -AC and P-DATA-TF

_MAX_LENGTHS = {
    PduType.A_ASSOCIATE_RQ.value: (_ASSOCIATE := range(MAX_ASSOCIATE_LENGTH + 1)),
    PduType.A_ASSOCIATE_AC.value: _ASSOCIATE,
    PduType.A_ASSOCIATE_RJ.value: (_FIXED := range(_FIXED_LENGTH, _FIXED_LENGTH + 1)),
    PduType.A_RELEASE_RQ.value: _FIXED,
    PduType.A_RELEASE_RP.value: _FIXED,
    PduType.A_ABORT.value: _FIXED,
}


Fragment: TypeAlias = tuple[int, int, list[memoryview]]
"""What has come of a PDV, or of several alike (PS3.8 annex E): presentation context ID, message control header, views.

Of the message control header, bit 0 is set for a command, and bit 1 only when the last fragment's end is here: several
PDVs that have come one after the other are one fragment when none is a command or ends its message. The bytes are views
of the receive memory, good until the consumer returns unless it holds the slab.
"""


_LONG = 1024
"""PDU length from which it is worth looking for more of the same."""


def _all_alike(view: memoryview, position: int, end: int, step: int) -> list[memoryview]:
    """What the PDUs hold that follow each other with the same headers: a data set is one PDU over and over.

    All headers in one unpacking: 1.2 microseconds for 16 PDUs and their views, 3.4 one by one.
    """
    count = (end - position) // step
    heads = _heads(step, count).unpack_from(view, position)
    same = heads.count(heads[0])
    if same != count:  # or more of the same after a different one
        same = next(index for index, head in enumerate(heads) if head != heads[0])
    start = position + _HEADERS.size
    size = step - _HEADERS.size
    return [view[first : first + size] for first in range(start, start + same * step, step)]


@functools.lru_cache(maxsize=512)
def _heads(step: int, count: int) -> struct.Struct:
    """The headers of PDUs of ``step`` bytes, each as one bytes object."""
    return struct.Struct(f"{_HEADERS.size}s{step - _HEADERS.size}x" * count)


class Lease:
    """A slab that consumers hold on to: its views stay good until everyone who holds it has released it."""

    __slots__ = ("_pool", "_slab", "holders", "size")

    def __init__(self, pool: SlabPool, slab: memoryview) -> None:
        self._pool = pool
        self._slab = slab
        self.size = len(slab)
        self.holders = 0

    def release(self) -> None:
        """One holder is done with the views it got."""
        self.holders -= 1
        if not self.holders:
            self._pool.give_back(self, self._slab)


class SlabPool:
    """Receive memory for the associations of one event loop, and the count of what their consumers hold of it.

    They never hold more than ``limit`` bytes: slabs, copies, and the views and entries that go with them. From half of
    it on, an association that holds something reads no more (:meth:`may_read`) until it holds nothing, or all hold
    less than three eighths. One that holds nothing may always read, so that those who take what comes, C-ECHO and
    negotiation go on. Near three quarters reads become small: so small that the last quarter is enough for one of each
    of ``associations``, whatever it brings. Beside it, one read of full size is reserved, and what one association may
    hold: of those whose consumer needs more before it can let go, one at a time may read.

    Not in it: the current slab, the spare ones, and what of a PDU other than P-DATA-TF is gathered. The data sets that
    are gathered for handlers may take ``limit`` bytes again (:meth:`gather`).
    """

    def __init__(
        self, slab_size: int = SLAB_SIZE, spare: int = 32, *, limit: int = MEMORY_LIMIT, associations: int = 1
    ) -> None:
        """Raises ValueError for a limit below 16 MiB, or below 2,560 bytes for each of the associations."""
        least = max(_LEAST_MEMORY, 4 * _MOST_PER_BYTE * _LEAST_SMALL * associations)
        if limit < least:
            raise ValueError(f"a memory limit of {limit} bytes is too low for {associations} associations, not {least}")
        self._slab_size = slab_size
        self._small_size = min(_SMALL, slab_size, limit // 4 // _MOST_PER_BYTE // max(1, associations))
        self._limit = limit
        self._full_above = limit // 2
        self._room_below = limit // 8 * 3
        self._scarce_above = limit // 4 * 3 - _MOST_PER_BYTE * slab_size - MAX_HELD
        self._waiting: dict[Callable[[], None], bool] = {}
        """What to call for those who hold something and wait, in order; whether they need more before they let go."""
        self._favoured: Callable[[], None] | None = None
        """Of the one that reads all the same, as it needs more."""
        self.used = 0
        """Bytes that consumers hold."""
        self.gathered = 0
        """Bytes of data sets that were gathered for handlers."""
        self._spare = spare
        """Slabs that are kept for the next time when they come back: new ones cost page faults. With 16 associations
        whose handlers hold views, 8 spare slabs took a tenth of the rate, and 16 a twentieth."""
        self._free: list[memoryview] = []
        self.slab: memoryview | None = None
        """The one that :meth:`current` has given out last."""
        self._lease: Lease | None = None
        """Of the current slab, once somebody holds it."""
        self.held = 0
        """Slabs that consumers hold."""

    def current(self, sizehint: int = -1) -> memoryview:  # noqa: ARG002 - so that asyncio's get_buffer may be this
        """The slab for the next read; it stays the pool's."""
        if self._lease is not None:
            self._lease = self.slab = None
        size = self._slab_size if self.used <= self._scarce_above else self._small_size
        if self.slab is None or len(self.slab) != size:
            self._keep_spare(self.slab)
            self.slab = self._free.pop() if self._free and size == self._slab_size else memoryview(bytearray(size))
        return self.slab

    def hold(self) -> Lease:
        """Keep the slab of the last read, for one holder more: the next read goes elsewhere."""
        if self._lease is None:
            assert self.slab is not None
            self._lease = Lease(self, self.slab)
            self.held += 1
            self.charge(self._lease.size)
        self._lease.holders += 1
        return self._lease

    def give_back(self, lease: Lease, slab: memoryview) -> None:
        """A slab that nobody looks at any more."""
        self.held -= 1
        if lease is self._lease:  # no read has come since: it is still the current one
            self._lease = None
        else:
            self._keep_spare(slab)
        self.charge(-lease.size)

    def _keep_spare(self, slab: memoryview | None) -> None:
        if slab is not None and len(slab) == self._slab_size and len(self._free) < self._spare:
            self._free.append(slab)

    def charge(self, by: int) -> None:
        """Consumers hold more, or less, beside slabs."""
        self.used += by
        if by < 0 and self._waiting and self.used <= self._room_below:
            self._favoured = None
            waiting, self._waiting = self._waiting, {}
            for resume in waiting:
                resume()

    def gather(self, by: int) -> bool:
        """Whether so many bytes more may be gathered for handlers; if so they are, until as many less are."""
        if by > 0 and self.gathered + by > self._limit:
            return False
        self.gathered += by
        return True

    def may_read(self, resume: Callable[[], None], *, needs_more: bool) -> bool:
        """Whether an association that holds something may read; if not, ``resume`` is called when it may.

        ``needs_more`` says that its consumer cannot let go of anything before it has more.
        """
        if resume == self._favoured:
            if needs_more:
                return True
        elif self.used <= self._full_above and resume not in self._waiting:
            return True
        elif needs_more and self._favoured is None:
            self._favoured = resume
            self._waiting.pop(resume, None)
            return True
        self._waiting[resume] = needs_more
        return False

    def holds_nothing(self, resume: Callable[[], None]) -> None:
        """An association has let go of everything, and need not wait."""
        self._waiting.pop(resume, None)
        if resume == self._favoured:
            self._favoured = next((each for each, needs_more in self._waiting.items() if needs_more), None)
            if self._favoured is not None:
                del self._waiting[self._favoured]
                self._favoured()


class ReceiveBuffer:
    """The framing of one association: reads PDU and PDV headers, passes on the rest.

    Refuses from the header alone, before anything is kept: a PDU of unknown type, a P-DATA-TF above what this side
    announced, an A-ASSOCIATE above 1 MiB, any other PDU that has not its fixed length, a PDV that overruns its PDU.
    """

    def __init__(self, pool: SlabPool, max_pdu_length: int) -> None:
        """``max_pdu_length`` is what this side announces (PS3.8 D.1); 0 takes every length."""
        self.pool = pool
        # Some peers count the six bytes of the PDU header, which PS3.8 D.1 does not: one header more is let pass.
        self._max_length = max_pdu_length + PDU_HEADER.size if max_pdu_length else 0xFFFFFFFF
        self._carry = b""
        """A header's beginning that ended the last read."""
        self._pdu_left = 0
        """Bytes of the current P-DATA-TF that belong to no PDV yet."""
        self._pdv_left = 0
        """Bytes of the current PDV that are still to come."""
        self._context_id = 0
        self._control = 0
        self._body: bytearray | None = None
        """What is there of a PDU other than P-DATA-TF."""
        self._body_type = 0
        self._body_length = 0
        self._failed = False
        self.only_fragments = True
        """Whether the last read gave P-DATA fragments and nothing else."""

    @property
    def is_between_pdus(self) -> bool:
        """Whether the last PDU has ended and nothing of a next one has come."""
        return not (self._carry or self._pdu_left or self._pdv_left or self._body is not None)

    def bytes_received(self, count: int) -> list[Fragment | PDU | ProtocolError]:
        """What ``count`` bytes complete, in order; they are in the pool's current slab.

        A :class:`~asyncdicom.errors.ProtocolError` stands where the stream cannot be read further (Evt19); what comes
        after it is ignored. Fragments are views of the pool's current slab: use them, or hold the slab, before the
        next read.
        """
        slab = self.pool.slab
        assert slab is not None
        view = slab[:count].toreadonly()
        if self._carry:
            # At most 11 bytes moved in front of a read, and the read with them: rare, and cheaper than a second path.
            view = memoryview(self._carry + view)
            self._carry = b""
        found: list[Fragment | PDU | ProtocolError] = []
        self.only_fragments = True
        if not self._failed:
            try:
                self._read(view, found)
            except ProtocolError as error:
                self._failed = True
                self._body = None
                self.only_fragments = False
                found.append(error)
        return found

    def _read(self, view: memoryview, found: list[Fragment | PDU | ProtocolError]) -> None:
        position, end, headers = 0, len(view), _HEADERS.size
        while position < end:
            if self._pdv_left:
                position = self._continue_fragment(view, position, end, found)
            elif self._pdu_left:
                if end - position < PDV_HEADER.size:
                    self._carry = bytes(view[position:])
                    return
                position = self._begin_fragment(view, position, found)
            elif self._body is not None:
                taken = view[position : position + self._body_length - len(self._body)]
                self._body += taken
                position += len(taken)
                self._finish_body(found)
            elif end - position >= headers:
                pdu_type, length, pdv_length, context_id, control = _HEADERS.unpack_from(view, position)
                if pdu_type != _P_DATA_TF or not _PDV_OVERHEAD <= pdv_length == length - 4 <= self._max_length - 4:
                    position = self._begin_pdu(view, position, found)
                    continue
                # The usual PDU, with one PDV.
                start, after = position + headers, position + PDU_HEADER.size + length
                if after > end:
                    self._context_id, self._control, self._pdv_left = context_id, control, after - end
                    if start < end:
                        found.append((context_id, control & ~_LAST, [view[start:]]))
                    return
                if not control and length >= _LONG and end - after >= headers:
                    views = _all_alike(view, position, end, after - position)
                    found.append((context_id, control, views))
                    position += len(views) * (after - position)
                else:
                    found.append((context_id, control, [view[start:after]]))
                    position = after
            elif end - position >= PDU_HEADER.size:
                position = self._begin_pdu(view, position, found)
            else:
                self._carry = bytes(view[position:])
                return

    def _begin_pdu(self, view: memoryview, position: int, found: list[Fragment | PDU | ProtocolError]) -> int:
        pdu_type, length = PDU_HEADER.unpack_from(view, position)
        if pdu_type != _P_DATA_TF:
            self._begin_body(pdu_type, length)
            self._finish_body(found)
        elif length > self._max_length:
            announced = self._max_length - PDU_HEADER.size
            raise ProtocolError(f"P-DATA-TF of {length} bytes, this side announced a maximum of {announced}")
        elif length < PDV_HEADER.size:
            raise ProtocolError(f"P-DATA-TF of {length} bytes cannot hold a PDV")
        else:
            self._pdu_left = length
        return position + PDU_HEADER.size

    def _begin_fragment(self, view: memoryview, position: int, found: list[Fragment | PDU | ProtocolError]) -> int:
        length, self._context_id, self._control = PDV_HEADER.unpack_from(view, position)
        # Compared without adding: lengths near 2**32 must not slip through (and would in a language that wraps).
        if not _PDV_OVERHEAD <= length <= self._pdu_left - 4:
            raise ProtocolError(f"PDV length {length} in a P-DATA-TF that has {self._pdu_left - 4} bytes left for it")
        self._pdu_left -= length + 4
        if 0 < self._pdu_left < PDV_HEADER.size:
            raise ProtocolError(f"{self._pdu_left} bytes left in a P-DATA-TF where a PDV header was expected")
        self._pdv_left = length - _PDV_OVERHEAD
        if not self._pdv_left:  # an empty fragment, which a receiver is advised to take (PS3.8 annex E)
            end = position + PDV_HEADER.size
            found.append((self._context_id, self._control, [view[end:end]]))
        return position + PDV_HEADER.size

    def _continue_fragment(
        self, view: memoryview, position: int, end: int, found: list[Fragment | PDU | ProtocolError]
    ) -> int:
        if end - position >= self._pdv_left:
            end = position + self._pdv_left
            found.append((self._context_id, self._control, [view[position:end]]))
        else:
            found.append((self._context_id, self._control & ~_LAST, [view[position:end]]))
        self._pdv_left -= end - position
        return end

    def _begin_body(self, pdu_type: int, length: int) -> None:
        allowed = _MAX_LENGTHS.get(pdu_type)
        if allowed is None:
            message = f"unrecognized PDU type {pdu_type:02X}H"
            if pdu_type in _STRANGERS:
                raise NotDicom(f"{message}; it looks like {_STRANGERS[pdu_type]}", AbortReason.UNRECOGNIZED_PDU)
            raise ProtocolError(message, AbortReason.UNRECOGNIZED_PDU)
        if length not in allowed:
            name = PduType(pdu_type).name.replace("_", "-")
            raise ProtocolError(f"{name} announces {length} bytes, {allowed[-1]} are the most it may have")
        self._body = bytearray()
        self._body_type = pdu_type
        self._body_length = length

    def _finish_body(self, found: list[Fragment | PDU | ProtocolError]) -> None:
        assert self._body is not None
        if len(self._body) == self._body_length:
            body, self._body = bytes(self._body), None
            self.only_fragments = False
            found.append(decode_pdu(self._body_type, body))


_STRANGERS = {0x16: "a TLS handshake on a port without TLS", **dict.fromkeys(b"GPHDOC", "an HTTP request")}
