"""A large instance to try with: a Multi-frame Grayscale Word Secondary Capture Image (PS3.3 A.8.4), frame by frame.

Valid as far as its IOD goes, so that receivers that look into what they store accept it; what it shows is a gradient
that moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from asyncdicom.elements import explicit_element, pad_text, pad_uid
from asyncdicom.instances import new_uid
from asyncdicom.part10 import FileMeta
from asyncdicom.uids import EXPLICIT_VR_LITTLE_ENDIAN

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write_multi_frame"]

_SOP_CLASS: Final = "1.2.840.10008.5.1.4.1.1.7.3"
_SIZE: Final = 512
"""Rows, and columns."""
_FRAME_LENGTH: Final = _SIZE * _SIZE * 2
"""Bytes of a frame: half a MiB."""


def write_multi_frame(path: Path, megabytes: int) -> None:
    """Write an image of so many MiB of pixels; half a MiB of them is in memory at a time."""
    frames = megabytes * (1 << 20) // _FRAME_LENGTH
    instance_uid = new_uid()
    ramp = b"".join(value.to_bytes(2, "little") for value in range(0, 4096, 8)) * (_SIZE + 1)
    with path.open("wb") as file:
        file.write(FileMeta(_SOP_CLASS, instance_uid, EXPLICIT_VR_LITTLE_ENDIAN).encode())
        for tag, vr, value in _elements(instance_uid, frames):
            file.write(explicit_element(tag, vr, value))
        # Pixel Data's header: its value follows in pieces.
        header = explicit_element(0x7FE00010, b"OW", b"")
        file.write(header[:-4] + (frames * _FRAME_LENGTH).to_bytes(4, "little"))
        view = memoryview(ramp)
        for frame in range(frames):
            start = frame * 2 % (_SIZE * 2)
            file.write(view[start : start + _FRAME_LENGTH])


def _elements(instance_uid: str, frames: int) -> list[tuple[int, bytes, bytes]]:
    """Everything in front of the pixel data, by tag."""
    short = {
        0x00280002: 1,  # Samples per Pixel
        0x00280010: _SIZE,  # Rows
        0x00280011: _SIZE,  # Columns
        0x00280100: 16,  # Bits Allocated
        0x00280101: 12,  # Bits Stored
        0x00280102: 11,  # High Bit
        0x00280103: 0,  # Pixel Representation
    }
    pages = "\\".join(str(page) for page in range(1, frames + 1))
    text = (
        (0x00080005, b"CS", "ISO_IR 192"),
        (0x00080008, b"CS", "ORIGINAL\\PRIMARY"),
        (0x00080020, b"DA", "20260101"),
        (0x00080023, b"DA", "20260101"),
        (0x00080030, b"TM", "120000"),
        (0x00080033, b"TM", "120000"),
        (0x00080050, b"SH", ""),  # Accession Number
        (0x00080060, b"CS", "OT"),
        (0x00080064, b"CS", "SYN"),  # Conversion Type: synthetic image
        (0x00080070, b"LO", "asyncdicom"),
        (0x00080090, b"PN", ""),  # Referring Physician's Name
        (0x00100010, b"PN", "Demo^Asyncdicom"),
        (0x00100020, b"LO", "ASYNCDICOM-DEMO"),
        (0x00100030, b"DA", ""),
        (0x00100040, b"CS", ""),
        (0x00182001, b"IS", pages),  # Page Number Vector, to which the Frame Increment Pointer points
        (0x00200010, b"SH", "1"),
        (0x00200011, b"IS", "1"),
        (0x00200013, b"IS", "1"),
        (0x00200020, b"CS", ""),  # Patient Orientation
        (0x00280004, b"CS", "MONOCHROME2"),
        (0x00280008, b"IS", str(frames)),
        (0x00280301, b"CS", "NO"),  # Burned In Annotation
        (0x00281052, b"DS", "0"),  # Rescale Intercept
        (0x00281053, b"DS", "1"),  # Rescale Slope
        (0x00281054, b"LO", "US"),  # Rescale Type
        (0x20500020, b"CS", "IDENTITY"),  # Presentation LUT Shape
    )
    uids = {
        0x00080016: _SOP_CLASS,
        0x00080018: instance_uid,
        0x0020000D: new_uid(),
        0x0020000E: new_uid(),
    }
    return sorted(
        (
            *((tag, vr, pad_text(value)) for tag, vr, value in text),
            *((tag, b"UI", pad_uid(value)) for tag, value in uids.items()),
            *((tag, b"US", value.to_bytes(2, "little")) for tag, value in short.items()),
            (0x00280009, b"AT", bytes.fromhex("18000120")),  # Frame Increment Pointer: (0018,2001)
        )
    )
