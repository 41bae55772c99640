"""Data elements to and from bytes: just enough for command sets, file meta information, and a few index keys.

PS3.5 chapter 7. Not a data set model: :mod:`pydicom` is that. A tag is one integer, group and element: 0x0008_0018.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from .errors import DataSetError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from .uids import TransferSyntax

__all__ = ["explicit_element", "implicit_element", "inflate_head", "iterate_explicit", "pad_text", "pad_uid", "scan"]

_LONG_HEADER_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
"""Two reserved bytes and a 32-bit length follow these (PS3.5 7.1.2); a 16-bit length follows all others."""

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_MAX_DEPTH = 64
"""Nesting that :func:`scan` follows. It needs no stack for it; real objects stay below ten."""

_IMPLICIT = struct.Struct("<HHI")
_EXPLICIT_LONG = struct.Struct("<HH2sHI")
_EXPLICIT_SHORT = struct.Struct("<HH2sH")


def pad_uid(uid: str) -> bytes:
    """A UID of even length, with a trailing NUL if need be (PS3.5 9.1)."""
    value = uid.encode("latin-1")
    return value + b"\0" if len(value) % 2 else value


def pad_text(text: str) -> bytes:
    """Text of even length, with a trailing space if need be (PS3.5 6.2)."""
    value = text.encode("latin-1", "replace")
    return value + b" " if len(value) % 2 else value


def implicit_element(tag: int, value: bytes) -> bytes:
    """An element in Implicit VR Little Endian (PS3.5 7.1.3); the value is already of even length."""
    return _IMPLICIT.pack(tag >> 16, tag & 0xFFFF, len(value)) + value


def explicit_element(tag: int, vr: bytes, value: bytes) -> bytes:
    """An element in Explicit VR Little Endian (PS3.5 7.1.2); the value is already of even length."""
    if vr in _LONG_HEADER_VRS:
        return _EXPLICIT_LONG.pack(tag >> 16, tag & 0xFFFF, vr, 0, len(value)) + value
    return _EXPLICIT_SHORT.pack(tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def iterate_explicit(data: bytes | memoryview, position: int = 0) -> Iterator[tuple[int, memoryview, int]]:
    """The elements of a flat Explicit VR Little Endian data set: tag, value, and where the value ends.

    Ends silently before the first element that is not there as a whole.
    """
    data = memoryview(data)
    while len(data) - position >= _EXPLICIT_SHORT.size:
        group, element, vr, length = _EXPLICIT_SHORT.unpack_from(data, position)
        start = position + _EXPLICIT_SHORT.size
        if vr in _LONG_HEADER_VRS:
            if len(data) - position < _EXPLICIT_LONG.size:
                return
            length = _EXPLICIT_LONG.unpack_from(data, position)[4]
            start = position + _EXPLICIT_LONG.size
        if length > len(data) - start:
            return
        position = start + length
        yield group << 16 | element, data[start:position], position


def scan(head: bytes | memoryview, syntax: TransferSyntax, wanted: Collection[int]) -> tuple[dict[int, bytes], bool]:
    """Values of a data set's top-level elements, from its first bytes.

    ``head`` is what is there of the data set, inflated already if its syntax is deflated. Returns the values found,
    and whether the search is over: every wanted tag was found or passed. False means that more bytes may tell more.
    Sequences are walked through without recursion. Raises DataSetError for nesting beyond 64 or an element that
    cannot be one.
    """
    if not all(isinstance(tag, int) for tag in wanted):
        raise TypeError(f"tags are integers, group and element in one (0x00080060), got {wanted!r}")
    order = "<" if syntax.little_endian else ">"
    tag_format, short_format, long_format = (
        struct.Struct(order + "HH"),
        struct.Struct(order + "H"),
        struct.Struct(order + "I"),
    )
    last = max(wanted, default=0)
    found: dict[int, bytes] = {}
    position, end, depth = 0, len(head), 0
    explicit_vr = syntax.explicit_vr
    implicit_until = 0
    """The depth at which an element of unknown VR began: its content has implicit VR (PS3.5 6.2.2)."""
    while end - position >= 8:
        group, element = tag_format.unpack_from(head, position)
        tag = group << 16 | element
        if not depth and tag > last:
            return found, True
        if not explicit_vr or group == 0xFFFE:
            (length,) = long_format.unpack_from(head, position + 4)
            start = position + 8
        else:
            vr = bytes(head[position + 4 : position + 6])
            if vr in _LONG_HEADER_VRS:
                if end - position < 12:
                    break
                (length,) = long_format.unpack_from(head, position + 8)
                start = position + 12
                if vr == b"UN" and length == _UNDEFINED and syntax.little_endian:
                    explicit_vr, implicit_until = False, depth
            elif vr.isalpha():
                (length,) = short_format.unpack_from(head, position + 6)
                start = position + 8
            else:
                raise DataSetError(f"no value representation at byte {position} of the data set: {vr!r}")
        if tag in (_ITEM_END, _SEQUENCE_END):
            depth = max(depth - 1, 0)
            if depth == implicit_until:
                explicit_vr = syntax.explicit_vr
            position = start
        elif length == _UNDEFINED:
            depth += 1
            if depth > _MAX_DEPTH:
                raise DataSetError(f"sequences nested deeper than {_MAX_DEPTH}")
            position = start
        else:
            if not depth and tag in wanted:
                if length > end - start:
                    break
                found[tag] = bytes(head[start : start + length])
                if len(found) == len(wanted):
                    return found, True
            position = start + length
    return found, False


def inflate_head(head: bytes | memoryview, limit: int) -> bytes:
    """At most ``limit`` bytes of what a raw deflate stream (PS3.5 A.5) begins with.

    Raises DataSetError if it is none.
    """
    if limit <= 0:
        return b""  # for zlib 0 is no limit
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(head, limit)
    except zlib.error as error:
        raise DataSetError(f"not a deflated data set: {error}") from None
