"""Preamble and file meta information to and from bytes (PS3.10 chapter 7.1)."""

from __future__ import annotations

import functools
from typing import NamedTuple

from .elements import explicit_element, iterate_explicit, pad_text, pad_uid
from .errors import FileFormatError
from .uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

__all__ = ["MAX_FILE_META_LENGTH", "FileMeta"]

MAX_FILE_META_LENGTH = 1 << 20
"""Bytes of preamble and file meta information that are looked at; private information (0002,0102) may be long."""

_PREAMBLE_LENGTH = 128
_PREFIX = b"DICM"
_FILE_META_GROUP = 0x0002
_GROUP_LENGTH = 0x00020000
_INSTANCE = 0x00020003

_TEXT = {
    0x00020002: "sop_class_uid",
    0x00020003: "sop_instance_uid",
    0x00020010: "transfer_syntax_uid",
    0x00020012: "implementation_class_uid",
    0x00020013: "implementation_version_name",
    0x00020016: "source_ae_title",
    0x00020017: "sending_ae_title",
    0x00020018: "receiving_ae_title",
}
_VRS = {0x00020013: b"SH", 0x00020016: b"AE", 0x00020017: b"AE", 0x00020018: b"AE"}


class FileMeta(NamedTuple):
    """File meta information (PS3.10 Table 7.1-1)."""

    sop_class_uid: str
    """Media Storage SOP Class UID (0002,0002)."""
    sop_instance_uid: str
    """Media Storage SOP Instance UID (0002,0003)."""
    transfer_syntax_uid: str
    implementation_class_uid: str = IMPLEMENTATION_CLASS_UID
    """Of the program that wrote the file."""
    implementation_version_name: str = IMPLEMENTATION_VERSION_NAME
    source_ae_title: str = ""
    """Where the content came from (0002,0016)."""
    sending_ae_title: str = ""
    """Who sent it over a network (0002,0017)."""
    receiving_ae_title: str = ""
    """Who received it (0002,0018)."""

    def encode(self) -> bytes:
        """The beginning of a file: preamble of zeros, prefix, file meta information. The data set follows."""
        instance = pad_uid(self.sop_instance_uid)
        # Of many files that are received, only this element differs.
        before, after = _around_instance(self._replace(sop_instance_uid=""), len(instance))
        return before + instance + after

    @classmethod
    def decode(cls, head: bytes | memoryview) -> tuple[FileMeta, int]:
        """From the first bytes of a file; also returns the offset of its data set.

        The group length counts only where the bytes end with it. Raises FileFormatError if there is no file meta
        information, if it is not all there, or if it does not name the transfer syntax.
        """
        position = _PREAMBLE_LENGTH + len(_PREFIX)
        if bytes(head[_PREAMBLE_LENGTH:position]) != _PREFIX:
            raise FileFormatError("no DICM prefix at byte 128: not a DICOM file, or one without file meta information")
        found: dict[str, str] = {}
        announced = 0
        for tag, value, end in iterate_explicit(head, position):
            if tag >> 16 != _FILE_META_GROUP:
                break
            if name := _TEXT.get(tag):
                found[name] = bytes(value).decode("latin-1").strip("\0 ")
            position = end
            if tag == _GROUP_LENGTH:
                announced = position + int.from_bytes(value, "little")
        else:
            if position + 8 > len(head) and position != announced:
                raise FileFormatError(f"file meta information does not end within {len(head)} bytes")
        if head[position : position + 2] == b"\2\0":
            raise FileFormatError(f"file meta information cannot be read beyond byte {position}")
        if not found.get("transfer_syntax_uid"):
            raise FileFormatError("file meta information names no transfer syntax (0002,0010)")
        names = ("sop_class_uid", "sop_instance_uid", "implementation_class_uid", "implementation_version_name")
        return cls(**{**dict.fromkeys(names, ""), **found}), position


@functools.lru_cache(maxsize=64)
def _around_instance(meta: FileMeta, length: int) -> tuple[bytes, bytes]:
    """What stands before and behind a SOP Instance UID of ``length`` bytes."""
    before, after = explicit_element(0x00020001, b"OB", b"\0\1"), b""
    for tag, name in _TEXT.items():
        if tag == _INSTANCE:
            if length:
                before += after + explicit_element(tag, b"UI", bytes(length))[:-length]
                after = b""
        elif text := getattr(meta, name):
            vr = _VRS.get(tag, b"UI")
            after += explicit_element(tag, vr, pad_uid(text) if vr == b"UI" else pad_text(text))
    group_length = (len(before) + length + len(after)).to_bytes(4, "little")
    return bytes(_PREAMBLE_LENGTH) + _PREFIX + explicit_element(0x00020000, b"UL", group_length) + before, after
