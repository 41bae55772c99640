"""Worklist entries and performed procedure steps as files in folders."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

from asyncdicom.instances import encode
from asyncdicom.part10 import FileMeta
from asyncdicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, MODALITY_PERFORMED_PROCEDURE_STEP

from .index import file_name, files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom import Dataset

__all__ = ["StepFolder", "WorklistFolder"]

_log = logging.getLogger("asyncdicom")

_STEPS = 0x00400100
"""Scheduled Procedure Step Sequence."""


class WorklistFolder:
    """Worklist entries in files, one DICOM file each, as DCMTK's ``wlmscpfs`` has them too (PS3.4 K).

    The files are looked at for each query, and read again when they have changed. Hidden ones are passed over, and
    those without Scheduled Procedure Steps.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._entries: dict[Path, tuple[tuple[int, int], list[Dataset]]] = {}
        """What was read of a file, and its size and time then."""
        self._lock = asyncio.Lock()

    async def __call__(self, _: object = None) -> list[Dataset]:
        """What the worklist has now, an item for each Scheduled Procedure Step; raises OSError without the folder."""
        async with self._lock:
            return await asyncio.to_thread(self._look)

    def _look(self) -> list[Dataset]:
        os.scandir(self._folder).close()  # a folder that cannot be read is no empty worklist
        entries = {}
        for path in sorted(files(self._folder)):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                seen = status.st_size, status.st_mtime_ns
                known = self._entries.get(path)
                entries[path] = known if known and known[0] == seen else (seen, _steps(path))
        self._entries = entries  # at once: who was cancelled has left a thread that still looks
        return [step for _, steps in entries.values() for step in steps]


def _steps(path: Path) -> list[Dataset]:
    """The entry in a file, once for each of its Scheduled Procedure Steps."""
    from pydicom import DataElement, Dataset, dcmread  # noqa: PLC0415 - takes long to import

    try:
        entry = dcmread(path)
        entry.decode()
        items = []
        for step in entry.get("ScheduledProcedureStepSequence") or ():
            item = Dataset()
            item.update(entry)
            item.add(DataElement(_STEPS, "SQ", [step]))  # not by its name: that would change the entry's
            items.append(item)
    except Exception as error:  # noqa: BLE001 - pydicom raises what it comes across
        _log.warning("no worklist entry in %s: %s", path, error)
        return []
    return items


class StepFolder(MutableMapping[str, "Dataset"]):
    """Modality performed procedure steps as files, by UID (PS3.4 F.7); the folder is made for the first one."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)

    def __getitem__(self, uid: str) -> Dataset:
        from pydicom import dcmread  # noqa: PLC0415 - takes long to import

        try:
            step = dcmread(self._path(uid))
        except FileNotFoundError:
            raise KeyError(uid) from None
        step.decode()
        return step

    def __setitem__(self, uid: str, step: Dataset) -> None:
        meta = FileMeta(MODALITY_PERFORMED_PROCEDURE_STEP, uid, EXPLICIT_VR_LITTLE_ENDIAN)
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / f".{secrets.token_hex(8)}.part"
        try:
            part.write_bytes(meta.encode() + encode(step, EXPLICIT_VR_LITTLE_ENDIAN))
            part.replace(self._path(uid))
        finally:
            part.unlink(missing_ok=True)

    def __delitem__(self, uid: str) -> None:
        try:
            self._path(uid).unlink()
        except FileNotFoundError:
            raise KeyError(uid) from None

    def __iter__(self) -> Iterator[str]:
        for path in files(self._folder):
            yield FileMeta.decode(path.read_bytes())[0].sop_instance_uid

    def __len__(self) -> int:
        return sum(1 for _ in files(self._folder))

    def _path(self, uid: str) -> Path:
        return self._folder / file_name(uid)
