"""What an archive has: a table of instances in memory (SQLite), made from the heads of the files in a folder.

One row per instance, with the keys of PS3.4 C.6 of all levels; patients, studies and series are groups of rows. Where
instances disagree about their patient or study, the one that came last speaks. The files are the truth: the table is
made again from them. Nothing here is asynchronous, and all of it is for one thread at a time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from asyncdicom.data_set import sync_folder
from asyncdicom.elements import inflate_head, scan
from asyncdicom.errors import DataSetError, FileFormatError
from asyncdicom.part10 import FileMeta
from asyncdicom.services.matching import column_text
from asyncdicom.uids import MODALITY_PERFORMED_PROCEDURE_STEP, transfer_syntax

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pydicom import DataElement, Dataset

    from asyncdicom.services.matching import Matcher

__all__ = [
    "KEYS",
    "LEVELS",
    "UNIQUE_KEYS",
    "Index",
    "Page",
    "Selection",
    "available",
    "columns",
    "file_name",
    "files",
    "read_row",
    "sync",
]

_log = logging.getLogger("asyncdicom")

KEYS: Final[dict[str, dict[str, tuple[int, str]]]] = {
    "PATIENT": {  # Table C.6-1
        "PatientID": (0x00100020, "LO"),
        "PatientName": (0x00100010, "PN"),
        "IssuerOfPatientID": (0x00100021, "LO"),
        "PatientBirthDate": (0x00100030, "DA"),
        "PatientBirthTime": (0x00100032, "TM"),
        "PatientSex": (0x00100040, "CS"),
        "OtherPatientIDs": (0x00101000, "LO"),
        "OtherPatientNames": (0x00101001, "PN"),
        "EthnicGroup": (0x00102160, "SH"),
        "PatientComments": (0x00104000, "LT"),
    },
    "STUDY": {  # Table C.6-2
        "StudyInstanceUID": (0x0020000D, "UI"),
        "StudyDate": (0x00080020, "DA"),
        "StudyTime": (0x00080030, "TM"),
        "AccessionNumber": (0x00080050, "SH"),
        "StudyID": (0x00200010, "SH"),
        "ReferringPhysicianName": (0x00080090, "PN"),
        "StudyDescription": (0x00081030, "LO"),
        "NameOfPhysiciansReadingStudy": (0x00081060, "PN"),
        "AdmittingDiagnosesDescription": (0x00081080, "LO"),
        "PatientAge": (0x00101010, "AS"),
        "PatientSize": (0x00101020, "DS"),
        "PatientWeight": (0x00101030, "DS"),
        "Occupation": (0x00102180, "SH"),
        "AdditionalPatientHistory": (0x001021B0, "LT"),
        "TimezoneOffsetFromUTC": (0x00080201, "SH"),
    },
    "SERIES": {  # Table C.6-3
        "SeriesInstanceUID": (0x0020000E, "UI"),
        "Modality": (0x00080060, "CS"),
        "SeriesNumber": (0x00200011, "IS"),
        "SeriesDate": (0x00080021, "DA"),
        "SeriesTime": (0x00080031, "TM"),
        "SeriesDescription": (0x0008103E, "LO"),
        "BodyPartExamined": (0x00180015, "CS"),
        "Laterality": (0x00200060, "CS"),
        "ProtocolName": (0x00181030, "LO"),
        "Manufacturer": (0x00080070, "LO"),
        "InstitutionName": (0x00080080, "LO"),
        "StationName": (0x00081010, "SH"),
        "PerformingPhysicianName": (0x00081050, "PN"),
        "OperatorsName": (0x00081070, "PN"),
        "ManufacturerModelName": (0x00081090, "LO"),
        "FrameOfReferenceUID": (0x00200052, "UI"),
        "PerformedProcedureStepStartDate": (0x00400244, "DA"),
        "PerformedProcedureStepStartTime": (0x00400245, "TM"),
        "PerformedProcedureStepID": (0x00400253, "SH"),
    },
    "IMAGE": {  # Table C.6-4
        "SOPInstanceUID": (0x00080018, "UI"),
        "SOPClassUID": (0x00080016, "UI"),
        "InstanceNumber": (0x00200013, "IS"),
        "ImageType": (0x00080008, "CS"),
        "AcquisitionDate": (0x00080022, "DA"),
        "AcquisitionTime": (0x00080032, "TM"),
        "AcquisitionDateTime": (0x0008002A, "DT"),
        "AcquisitionNumber": (0x00200012, "IS"),
        "ContentDate": (0x00080023, "DA"),
        "ContentTime": (0x00080033, "TM"),
        "NumberOfFrames": (0x00280008, "IS"),
        "Rows": (0x00280010, "US"),
        "Columns": (0x00280011, "US"),
        "BitsAllocated": (0x00280100, "US"),
        "ContentLabel": (0x00700080, "CS"),
        "AvailableTransferSyntaxUID": (0x00083002, "UI"),
    },
}
"""The attributes of each level that are kept, each level's unique key first."""
LEVELS: Final = tuple(KEYS)
UNIQUE_KEYS: Final = {level: next(iter(keys)) for level, keys in KEYS.items()}

_SPECIFIC_CHARACTER_SET = 0x00080005
_INSTANCE_AVAILABILITY = 0x00080056
_COLUMNS: Final = {name: key for keys in KEYS.values() for name, key in keys.items()}
_WANTED: Final = frozenset((_SPECIFIC_CHARACTER_SET, *(tag for tag, _ in _COLUMNS.values())))


def _count(of: str, within: str) -> tuple[str, str]:
    return "IS", f"(SELECT count(DISTINCT {of}) FROM instances AS other WHERE other.{within} = instances.{within})"  # noqa: S608


def _list(of: str, within: str) -> str:
    return (
        f"(SELECT group_concat({of}, char(92)) FROM (SELECT DISTINCT {of} FROM instances AS other "  # noqa: S608
        f"WHERE other.{within} = instances.{within} AND {of} <> '' ORDER BY {of}))"
    )


_COMPUTED: Final[dict[str, dict[int, tuple[str, str]]]] = {
    "PATIENT": {
        0x00201200: _count("StudyInstanceUID", "PatientID"),
        0x00201202: _count("SeriesInstanceUID", "PatientID"),
        0x00201204: _count("SOPInstanceUID", "PatientID"),
    },
    "STUDY": {
        0x00080061: ("CS", _list("Modality", "StudyInstanceUID")),
        0x00080062: ("UI", _list("SOPClassUID", "StudyInstanceUID")),
        0x00201206: _count("SeriesInstanceUID", "StudyInstanceUID"),
        0x00201208: _count("SOPInstanceUID", "StudyInstanceUID"),
    },
    "SERIES": {0x00201209: _count("SOPInstanceUID", "SeriesInstanceUID")},
    "IMAGE": {},
}
"""What is counted and gathered where it is asked for (C.6): Modalities in Study, Number of ... Related ..."""

_HEAD_LENGTH = 64 * 1024
"""Bytes of a file that are looked at; real objects have what is wanted in the first few KiB."""


class Selection(NamedTuple):
    """What a query or retrieval is about: a level, and conditions with their parameters."""

    level: str
    conditions: Sequence[str] = ()
    parameters: Sequence[str] = ()

    @property
    def where(self) -> str:
        """The conditions as one."""
        return " AND ".join(("TRUE", *self.conditions))


class Index:
    """The table of the instances of a folder. Raises OSError if there is no such folder."""

    def __init__(self, folder: Path) -> None:
        folder.stat()
        self._folder = folder
        self._database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        columns = ", ".join(f"{name} TEXT NOT NULL" for name in _COLUMNS if name != "SOPInstanceUID")
        self._database.execute(
            "CREATE TABLE instances (number INTEGER PRIMARY KEY, path BLOB NOT NULL, character_set TEXT NOT NULL, "
            f"SOPInstanceUID TEXT NOT NULL UNIQUE, {columns})"
        )
        for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"):
            self._database.execute(f"CREATE INDEX by_{name} ON instances ({name}, number)")

    def close(self) -> None:
        """Forget the table."""
        self._database.close()

    def scan(self) -> int:
        """Take up all instances below the folder, of several with the same UID the newest; returns how many there are.

        Hidden files and folders, and what is no instance, are passed over.
        """
        self._database.execute("BEGIN")
        for _, path in sorted(_times(self._folder)):
            try:
                self._insert(path, read_row(path))
            except (FileFormatError, OSError) as error:
                _log.info("%s is passed over: %s", path, error)
        self._database.execute("COMMIT")
        (count,) = self._database.execute("SELECT count(*) FROM instances").fetchone()
        return int(count)

    def take(self, path: Path, sop_class_uid: str, sop_instance_uid: str) -> Path:
        """Put a new file of this instance in its place in the folder, and into the table; returns the place.

        The file replaces the one of the same instance. Raises FileFormatError for one that holds another instance, or
        that says nothing of its study and series.
        """
        row = read_row(path)
        if (row["SOPClassUID"], row["SOPInstanceUID"]) != (sop_class_uid, sop_instance_uid):
            raise FileFormatError("the data set is another instance than the request says")
        earlier = map(Path, self.paths(Selection("IMAGE", ("SOPInstanceUID = ?",), (sop_instance_uid,))))
        place = next(filter(Path.exists, earlier), self._folder / file_name(sop_instance_uid))
        path.replace(place)
        self._insert(place, row)
        return place

    def paths(self, selection: Selection) -> list[str]:
        """The files of the instances that are selected, series by series."""
        statement = (
            f"SELECT path FROM instances WHERE {selection.where} "  # noqa: S608
            "ORDER BY StudyInstanceUID, SeriesInstanceUID, CAST(InstanceNumber AS INTEGER), number"
        )
        return [os.fsdecode(path) for (path,) in self._database.execute(statement, selection.parameters)]

    def holds(self, references: Iterable[tuple[str, str]]) -> list[bool | None]:
        """Of SOP classes and instances, whether each is there and its file too; None if it is of another SOP class."""
        return [self._holds(*reference) for reference in references]

    def _holds(self, sop_class_uid: str, sop_instance_uid: str) -> bool | None:
        statement = "SELECT SOPClassUID, path FROM instances WHERE SOPInstanceUID = ?"
        for its_class, path in self._database.execute(statement, (sop_instance_uid,)):
            return Path(os.fsdecode(path)).is_file() if its_class == sop_class_uid else None
        return False

    def find(self, selection: Selection, matcher: Matcher, tags: Iterable[int], after: str | None) -> Page:
        """The next of what is selected and matches, behind the unique key ``after`` (None for the first ones).

        ``tags`` are the attributes that the matcher looks at and answers with.
        """
        unique = UNIQUE_KEYS[selection.level]
        known = available(selection.level)
        asked = {tag: known[tag] for tag in tags if tag in known}
        columns = "".join(f", {expression}" for _, expression in asked.values())
        statement = (
            f"SELECT {unique}, max(number), character_set{columns} FROM instances "  # noqa: S608
            f"WHERE {selection.where} AND {unique} {'>=' if after is None else '>'} ? "
            f"GROUP BY {unique} ORDER BY {unique} LIMIT {_PAGE}"
        )
        rows = self._database.execute(statement, (*selection.parameters, after or "")).fetchall()
        candidates = (_candidate(asked, character_set, texts) for _, _, character_set, *texts in rows)
        matches = [matcher.response(candidate) for candidate in candidates if matcher.matches(candidate)]
        return Page(matches, rows[-1][0] if len(rows) == _PAGE else None)

    def _insert(self, path: Path, row: Mapping[str, str]) -> None:
        values = (os.fsencode(path), *row.values())  # a name need not be text
        statement = f"INSERT OR REPLACE INTO instances (path, {', '.join(row)}) VALUES ({', '.join('?' * len(values))})"  # noqa: S608
        self._database.execute(statement, values)


_PAGE = 100
"""Entities that are matched in one go: no other query waits longer than for these."""


class Page(NamedTuple):
    """Some of what was found."""

    matches: list[Dataset]
    after: str | None
    """The unique key behind which there is more; None if there is no more."""


def available(level: str) -> dict[int, tuple[str, str]]:
    """What is known of an entity of this level: value representation and SQL expression by tag."""
    stored = {tag: (vr, name) for each in _down_to(level) for name, (tag, vr) in KEYS[each].items()}
    return {_INSTANCE_AVAILABILITY: ("CS", "'ONLINE'"), **stored, **_COMPUTED[level]}


def columns(level: str) -> dict[int, str]:
    """The columns of an entity of this level, by tag."""
    return {tag: name for each in _down_to(level) for name, (tag, _) in KEYS[each].items()}


def _down_to(level: str) -> tuple[str, ...]:
    return LEVELS[: LEVELS.index(level) + 1]


def files(folder: Path) -> Iterator[Path]:
    """The files below a folder, the hidden ones and those in hidden folders left out."""
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(where, name) for name in names if not name.startswith("."))
        yield from (path for path in paths if path.is_file())


def _times(folder: Path) -> Iterator[tuple[int, Path]]:
    """The files, and when they were changed last."""
    for path in files(folder):
        with contextlib.suppress(OSError):
            yield path.stat().st_mtime_ns, path


def sync(paths: Iterable[str]) -> None:
    """Have files and their names on stable storage; those that are gone are left out. Raises OSError."""
    folders = set()
    for path in paths:
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:  # noqa: PTH123 - text, of many
            if os.name != "nt":  # where only a file that is written can be
                os.fsync(file.fileno())
            folders.add(os.path.dirname(path))  # noqa: PTH120
    for folder in folders:
        sync_folder(folder)


_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*")


def file_name(uid: str) -> str:
    """The file of an instance: its UID if it is one, of anything else a hash."""
    if not _UID.fullmatch(uid) or len(uid) > 64:
        uid = sha256(uid.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{uid}.dcm"


# From files


def read_row(path: Path) -> dict[str, str]:
    """The row of the instance in a file, from its first bytes. Raises FileFormatError if it cannot be in the table."""
    with path.open("rb") as file:
        head = file.read(_HEAD_LENGTH)
    meta, offset = FileMeta.decode(head)
    if meta.sop_class_uid == MODALITY_PERFORMED_PROCEDURE_STEP:
        raise FileFormatError("a performed procedure step is no composite instance")
    syntax = transfer_syntax(meta.transfer_syntax_uid)
    data = head[offset:]
    try:
        found, _ = scan(inflate_head(data, _HEAD_LENGTH) if syntax.deflated else data, syntax, _WANTED)
    except DataSetError as error:
        raise FileFormatError(f"the data set is not {syntax.name}: {error}") from None
    character_sets = _character_sets(found)
    row = {"character_set": "\\".join(character_sets)}
    for name, (tag, vr) in _COLUMNS.items():
        value = found.get(tag, b"")
        if vr == "US":
            row[name] = str(int.from_bytes(value[:2], "little" if syntax.little_endian else "big")) if value else ""
        else:
            text = _decode(value, vr, character_sets)
            row[name] = column_text(vr, [text.strip(" \0")] if vr == "LT" else _split(text))
    row["AvailableTransferSyntaxUID"] = meta.transfer_syntax_uid
    row["SOPClassUID"] = row["SOPClassUID"] or meta.sop_class_uid
    row["SOPInstanceUID"] = row["SOPInstanceUID"] or meta.sop_instance_uid
    for name in _REQUIRED:
        if not row[name]:
            raise FileFormatError(f"the data set has no {name}")
    return row


_REQUIRED: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_ENCODED_VRS: Final = frozenset(("LO", "LT", "PN", "SH"))
"""Those of the columns that Specific Character Set is about (PS3.5 6.1.2.2)."""


_DELIMITERS: Final = (set(b"\t\n\f\r"), set(b"^="))
"""Of text and of names: what follows is in the first character set again (PS3.5 6.1.2.5.3)."""


def _split(text: str) -> list[str]:
    return [part.strip(" \0") for part in text.split("\\")]


def _character_sets(found: Mapping[int, bytes]) -> list[str]:
    """Specific Character Set; of a data set that has other characters and does not say it, Latin 1."""
    named = found.get(_SPECIFIC_CHARACTER_SET, b"").strip(b" \0")
    if named:
        return _split(named.decode("latin-1"))
    texts = (found.get(tag, b"") for tag, vr in _COLUMNS.values() if vr in _ENCODED_VRS)
    return [] if all(map(bytes.isascii, texts)) else ["ISO_IR 100"]


def _decode(value: bytes, vr: str, character_sets: list[str]) -> str:
    """A value in these character sets; as Latin 1 what cannot be one."""
    if vr not in _ENCODED_VRS or (value.isascii() and b"\x1b" not in value):
        return value.decode("latin-1")
    from pydicom.charset import convert_encodings, decode_bytes  # noqa: PLC0415 - for few

    try:
        return decode_bytes(value, convert_encodings(character_sets), _DELIMITERS[vr == "PN"])
    except Exception:  # noqa: BLE001 - pydicom raises what its codecs raise
        return value.decode("latin-1")


# To data sets


def _candidate(asked: Mapping[int, tuple[str, str]], character_set: str, texts: Iterable[object]) -> Dataset:
    """What the table has of an entity, as a data set; with its Specific Character Set if it takes one."""
    from pydicom import Dataset  # noqa: PLC0415 - there already, as an identifier is

    candidate = Dataset()
    for (tag, (vr, _)), value in zip(asked.items(), texts, strict=True):
        text = str(value or "")
        candidate.add(_element(tag, vr, text))
        if not text.isascii():
            candidate.add(_element(_SPECIFIC_CHARACTER_SET, "CS", character_set))
    return candidate


def _element(tag: int, vr: str, text: str) -> DataElement:
    from pydicom import DataElement, config  # noqa: PLC0415 - as above

    try:
        return DataElement(tag, vr, _value(vr, text), validation_mode=config.IGNORE)
    except (ValueError, OverflowError):  # a number that is none
        return DataElement(tag, vr, None)


def _value(vr: str, text: str) -> object:
    if vr == "US" and text:
        return int(text)
    return text.split("\\") if "\\" in text and vr != "LT" else text
