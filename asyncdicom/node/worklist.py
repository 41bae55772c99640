"""A modality worklist in a folder: one DICOM file per entry, as DCMTK's ``wlmscpfs`` has them too (PS3.4 K).

Files are looked at for each query, and read again when they have changed.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from asyncdicom.command import Status
from asyncdicom.errors import StatusError
from asyncdicom.presentation import Context
from asyncdicom.services.matching import Matcher
from asyncdicom.uids import MODALITY_WORKLIST_FIND

from .index import files

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Iterator

    from pydicom import Dataset

    from asyncdicom.requests import CFindRequest

__all__ = ["Worklist"]

_log = logging.getLogger("asyncdicom")

_EXTENSIONS = b"\1\1\0\0"
"""Combined date and time is what worklists always have (Table K.5-2)."""


class Worklist:
    """The worklist of a folder, as a service for :func:`asyncdicom.serve`. Hidden files are passed over."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._entries: dict[Path, tuple[tuple[int, int], Dataset | None]] = {}
        """What was read of a file, and its size and time then."""
        self._lock = asyncio.Lock()
        self.contexts = (Context(MODALITY_WORKLIST_FIND, extended=_EXTENSIONS),)
        self.handlers = {"c_find": self.find}

    async def find(self, request: CFindRequest) -> AsyncIterator[Dataset]:
        """C-FIND: a match for each Scheduled Procedure Step (K.4.1)."""
        from pydicom import Dataset  # noqa: PLC0415 - there already, as an identifier is

        try:
            matcher = Matcher(request.identifier or Dataset(), combined_datetime=True)
        except ValueError as error:
            raise StatusError(Status(0xA900, str(error)[:64])) from None
        async with self._lock:
            found = await asyncio.to_thread(self._find, matcher)
        for match in found:
            yield match

    def _find(self, matcher: Matcher) -> list[Dataset]:
        earlier, self._entries = self._entries, {}
        for path in sorted(files(self._folder)):
            status = path.stat()
            seen = status.st_size, status.st_mtime_ns
            known = earlier.get(path)
            self._entries[path] = known if known and known[0] == seen else (seen, _read(path))
        entries = (entry for _, entry in self._entries.values() if entry is not None)
        return [matcher.response(step) for entry in entries for step in _steps(entry) if matcher.matches(step)]


def _read(path: Path) -> Dataset | None:
    """The entry in a file; None if there is none."""
    from pydicom import dcmread  # noqa: PLC0415 - as above

    try:
        entry = dcmread(path)
    except Exception as error:  # noqa: BLE001 - pydicom raises what it comes across
        _log.warning("no worklist entry in %s: %s", path, error)
        return None
    return entry if entry.get("ScheduledProcedureStepSequence") else None


def _steps(entry: Dataset) -> Iterator[Dataset]:
    """The entry once for each of its Scheduled Procedure Steps."""
    from pydicom import Dataset  # noqa: PLC0415 - as above

    for step in entry.ScheduledProcedureStepSequence:
        one = Dataset(entry)
        one.ScheduledProcedureStepSequence = [step]
        yield one
