"""Where a received instance is written: file names from a pattern, made safe.

All that a name is made of comes from peers. A value keeps its place in a name only if nothing in it can mean anything
to a file system, on any of them; otherwise what is unsafe becomes ``_``, and a hash of the value follows after ``~``.
No safe value has a ``~``, so no value's made-up name is another one's own, and two of them differ as their values do.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from asyncdicom.requests import CStoreRequest

__all__ = ["DEFAULT_PATTERN", "FIELDS", "Pattern", "safe_text", "safe_uid"]

DEFAULT_PATTERN: Final = "{SOPInstanceUID}.dcm"

_MAX_VALUE = 64
"""Characters of a value that are kept; a UID has no more (PS3.5 9.1), and a Patient ID neither (PS3.5 6.2)."""
_MAX_KEPT = 32
"""Characters of a longer or unsafe one that are kept, for people to recognize it."""
_MAX_PART = 200
"""Characters of a file or folder name; 255 bytes is what file systems allow."""

_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*")
_SAFE: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9_-])?")
_UNSAFE_CHARACTER: Final = re.compile(r"[^A-Za-z0-9._-]")
_RESERVED: Final = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
"""Names of devices on Windows, with any extension."""
_MISSING: Final = "_"
"""Stands for a value that is empty or not there; no safe value begins so."""


def safe_text(value: str) -> str:
    """A value as part of a file name: itself if it is harmless, otherwise what is harmless of it, and a hash."""
    value = value.strip("\0 ")
    if not value:
        return _MISSING
    if len(value) <= _MAX_VALUE and _SAFE.fullmatch(value) and not _RESERVED.fullmatch(value):
        return value
    return _replaced(value)


def safe_uid(value: str) -> str:
    """A UID as part of a file name; what is none is treated as any text is, and marked."""
    value = value.strip("\0 ")
    if not value:
        return _MISSING
    return value if len(value) <= _MAX_VALUE and _UID.fullmatch(value) else _replaced(value)


def _replaced(value: str) -> str:
    kept = _UNSAFE_CHARACTER.sub("_", value[:_MAX_KEPT]).replace("..", "__")
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"_{kept}~{digest}"


class _Field(NamedTuple):
    """What a pattern may name, and where it comes from."""

    get: Callable[[CStoreRequest], str] | None
    """From the command or the association; None for what only the data set says."""
    tag: int = 0
    """Of the data set."""
    safe: Callable[[str], str] = safe_text


FIELDS: Final[dict[str, _Field]] = {
    "StudyInstanceUID": _Field(None, 0x0020000D, safe_uid),
    "SeriesInstanceUID": _Field(None, 0x0020000E, safe_uid),
    "SOPInstanceUID": _Field(lambda request: request.sop_instance_uid, safe=safe_uid),
    "SOPClassUID": _Field(lambda request: request.sop_class_uid, safe=safe_uid),
    "PatientID": _Field(None, 0x00100020),
    "Modality": _Field(None, 0x00080060),
    "calling_ae_title": _Field(lambda request: request.calling_ae_title),
    "called_ae_title": _Field(lambda request: request.called_ae_title),
}
"""What stands in braces in a pattern."""

_PLACE: Final = re.compile(r"\{([^{}]*)\}")


class Pattern:
    """A pattern for file names: text with fields in braces, folders separated by ``/``."""

    def __init__(self, text: str) -> None:
        """Check a pattern. Raises ValueError for one that names an unknown field or leads out of the folder."""
        self._text = text
        self._names = tuple(dict.fromkeys(_PLACE.findall(text)))
        for name in self._names:
            if name not in FIELDS:
                raise ValueError(f"there is no field {{{name}}}; there are {', '.join(FIELDS)}")
        literal = _PLACE.sub("x", text)
        if "{" in literal or "}" in literal:
            raise ValueError("a brace has no partner")
        if "\\" in literal or ":" in literal or not literal.isprintable():
            raise ValueError("a pattern has no backslash, colon or control character; folders are separated by '/'")
        self._parts = tuple(text.split("/"))
        for part in _PLACE.sub("x", text).split("/"):
            if part in ("", ".", "..") or part.startswith(".") or part.endswith((".", " ")) or len(part) > _MAX_PART:
                raise ValueError(f"{part!r} cannot be a part of the path: the path stays below the folder, and visible")
        self.tags = frozenset(FIELDS[name].tag for name in self._names if FIELDS[name].get is None)
        """Elements that have to be looked up in the data set; often none."""

    def __str__(self) -> str:
        return self._text

    def values(self, request: CStoreRequest, head: Mapping[int, bytes]) -> dict[str, str]:
        """The fields of a request; ``head`` has the elements of :attr:`tags` that the data set has."""
        values: dict[str, str] = {}
        for name in self._names:
            field = FIELDS[name]
            values[name] = field.get(request) if field.get else head.get(field.tag, b"").decode("latin-1")
        return values

    def path(self, folder: Path, values: Mapping[str, str]) -> Path:
        """The file below ``folder`` for these values, whatever they hold."""
        parts = [_part(_PLACE.sub(lambda match: FIELDS[match[1]].safe(values[match[1]]), part)) for part in self._parts]
        path = folder.joinpath(*parts)
        inside = Path(os.path.normpath(path)).relative_to(os.path.normpath(folder))
        assert inside.parts == tuple(parts), f"{path} is not where the pattern puts it"
        return path


def _part(text: str) -> str:
    """A file or folder name whose values are safe each by itself; put together they may still be too long."""
    if len(text) > _MAX_PART:
        stem, dot, extension = text.rpartition(".")
        extension = f".{extension}" if dot and len(extension) <= 8 else ""
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        text = f"{(stem or text)[: _MAX_PART - 40]}~{digest}{extension}"
    return f"_{text}" if _RESERVED.fullmatch(text) else text
