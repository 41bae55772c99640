"""Matches as they come: a table on a terminal, lines of ``TAG=VALUE`` elsewhere, DICOM JSON, and DICOM files.

Paths of elements are in the notation of :mod:`.keys`, so a line of the output is good for ``-k``. JSON comes as one
object per line (the DICOM JSON model, PS3.18 annex F), because an array is none before its end.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from asyncdicom.instances import new_uid
from asyncdicom.part10 import FileMeta

from .console import printable, say
from .exit_codes import ExitCode, ToolError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydicom import DataElement, Dataset

__all__ = ["Column", "Extraction", "Results", "columns", "lines", "results"]


class Results(Protocol):
    """Shows data sets, one after the other."""

    def add(self, match: Dataset) -> None:
        """Show one, or keep it until there are some."""

    def end(self) -> None:
        """Show what was kept."""


def results(identifier: Dataset, *, as_json: bool, hidden: bool = False) -> Results:
    """What shows matches of this identifier here; rich is imported only where a table can be shown."""
    if hidden:
        return _Nothing()
    if as_json:
        return _JsonLines()
    if sys.stdout.isatty():
        with contextlib.suppress(ImportError):
            return _Table(columns(identifier))
    return _Blocks()


class _Nothing:
    def add(self, match: Dataset) -> None:
        pass

    def end(self) -> None:
        pass


class _JsonLines:
    def add(self, match: Dataset) -> None:
        say(json.dumps(match.to_json_dict(suppress_invalid_tags=True)))

    def end(self) -> None:
        pass


# Lines


class _Blocks:
    """An element per line, an empty line after each match."""

    def add(self, match: Dataset) -> None:
        print("\n".join((*map(printable, lines(match)), "")), flush=True)

    def end(self) -> None:
        pass


def lines(data_set: Dataset, path: str = "") -> Iterator[str]:
    """A line for each element of a data set and of its sequences' items, as ``-k`` takes it."""
    for element in data_set:
        name = path + (element.keyword or f"({element.tag.group:04X},{element.tag.element:04X})")
        if element.VR != "SQ" or not element.value:
            yield f"{name}={_text(element)}"
            continue
        for index, item in enumerate(element.value):
            yield from lines(item, f"{name}[{index}].")


def _text(element: DataElement) -> str:
    """A value in DICOM's own form; of binary ones, how much there is."""
    value = element.value
    if element.VR == "SQ" or value is None:
        return ""
    if isinstance(value, bytes):
        return f"{len(value)} bytes" if value else ""
    if element.VM > 1:
        return "\\".join(map(str, value))
    return str(value)


# Tables

_CHUNK_ROWS: Final = 100
_CHUNK_SECONDS: Final = 1.0
"""A table is shown with so many rows, or when its first one is so old; those that come later are in a further one."""
_MAX_CELL: Final = 64
"""Characters of a value that a table shows; a UID has no more (PS3.5 9.1)."""
_SAME_IN_ALL: Final = frozenset((0x00080005, 0x00080052, 0x00080053, 0x00080054))
"""Of a match these say only what was asked, how, and of whom: no columns."""


class Column(NamedTuple):
    """A column of a table."""

    heading: str
    path: tuple[int, ...]
    """The tags of an element and, before it, of the sequences it is in."""

    def cell(self, match: Dataset) -> str:
        """What a match has there; the elements of several items one after the other."""
        text = "; ".join(filter(None, map(_readable, _found(match, self.path))))
        return text if len(text) <= _MAX_CELL else f"{text[: _MAX_CELL - 1]}…"


def columns(identifier: Dataset, path: tuple[int, ...] = ()) -> list[Column]:
    """A column for each attribute that is asked for, in the keys' order, those in a sequence's item among them."""
    found: list[Column] = []
    for tag in tuple(identifier.keys()):
        element = identifier[tag]
        here = (*path, int(element.tag))
        if element.VR == "SQ" and element.value and len(element.value[0]):
            found += columns(element.value[0], here)
        elif element.tag not in _SAME_IN_ALL:
            found.append(Column(element.keyword or str(element.tag), here))
    return found


def _found(data_set: Dataset, path: tuple[int, ...]) -> Iterator[DataElement]:
    if path[0] not in data_set:
        return
    element = data_set[path[0]]
    if len(path) == 1:
        yield element
    elif element.VR == "SQ":
        for item in element.value:
            yield from _found(item, path[1:])


def _readable(element: DataElement) -> str:
    """A value for people."""
    if element.VR == "SQ":
        count = len(element.value)
        return f"{count} item{'s' if count != 1 else ''}" if count else ""
    if element.VR == "PN" and element.value:
        names = element.value if element.VM > 1 else [element.value]
        return ", ".join(map(_name, names))
    return printable(_text(element))


def _name(name: Any) -> str:
    """A person name (PS3.5 6.2.1) for people; what is not in letters of the alphabet follows in parentheses."""
    first, *others = [_name_group(group) for group in str(name).split("=") if group.strip("^")] or [""]
    return printable(f"{first} ({', '.join(others)})" if others else first)


def _name_group(group: str) -> str:
    family, given, middle, prefix, suffix, *_ = (*group.split("^"), "", "", "", "")
    comma = "," if family and (given or middle) else ""
    return " ".join(filter(None, (prefix, family + comma, given, middle, suffix)))


class _Table:
    """Rows with rich's means, on a terminal."""

    def __init__(self, asked: list[Column]) -> None:
        from rich.console import Console  # noqa: PLC0415 - slow to import

        self._columns = asked
        self._console = Console(highlight=False, markup=False)
        self._rows: list[list[str]] = []
        self._since = 0.0

    def add(self, match: Dataset) -> None:
        now = time.monotonic()
        if not self._rows:
            self._since = now
        self._rows.append([column.cell(match) for column in self._columns])
        if len(self._rows) >= _CHUNK_ROWS or now - self._since >= _CHUNK_SECONDS:
            self.end()

    def end(self) -> None:
        from rich.box import SIMPLE_HEAD  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        if not self._rows:
            return
        table = Table(box=SIMPLE_HEAD)
        for column in self._columns:
            table.add_column(column.heading, no_wrap=True, overflow="ellipsis")
        for row in self._rows:
            table.add_row(*map(Text, row))
        self._console.print(table)
        self._rows.clear()


# Files


class Extraction:
    """Writes matches to ``rsp0001.dcm`` and so on (DCMTK's ``-X``), as the peer has encoded them."""

    def __init__(self, folder: Path, model: str, limit: int) -> None:
        self._folder = folder
        self._model = model
        self._limit = limit
        """How many are written at most; 0 for all."""
        self._count = 0

    def add(self, data: bytes, transfer_syntax_uid: str) -> None:
        """Write one. Raises ToolError when it cannot be written."""
        if self._limit and self._count >= self._limit:
            return
        self._count += 1
        path = self._folder / f"rsp{self._count:04}.dcm"
        instance = new_uid()  # a match is no instance, but a file has one (PS3.10 7.1)
        try:
            path.write_bytes(FileMeta(self._model, instance, transfer_syntax_uid).encode() + data)
        except OSError as error:
            raise ToolError(ExitCode.CANNOT_WRITE, f"{path} cannot be written: {error.strerror or error}") from error
