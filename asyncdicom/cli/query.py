"""What findscu, getscu and movescu have in common: information models (PS3.4 C.6, K.6), keys, query files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asyncdicom.presentation import DEFAULT_TRANSFER_SYNTAXES
from asyncdicom.uids import (
    MODALITY_WORKLIST_FIND,
    PATIENT_ROOT_FIND,
    PATIENT_ROOT_GET,
    PATIENT_ROOT_MOVE,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
)

from .console import log
from .keys import key, read_keys, read_query_file
from .options import Effect, Option, UsageError, flag, value
from .shared import RequestorOptions, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom import Dataset

__all__ = ["JSON", "KEYS", "MODELS", "WORKLIST", "QueryOptions", "cancel", "identifiers", "sop_class"]


@dataclass(frozen=True, kw_only=True)
class QueryOptions(RequestorOptions):
    """What the command line of a query says."""

    model: str = "patient"
    keys: tuple[str, ...] = ()
    uncompressed: tuple[str, ...] = DEFAULT_TRANSFER_SYNTAXES
    cancel: int = 0
    json: bool = False


_SOP_CLASSES: Final = {
    ("worklist", "find"): MODALITY_WORKLIST_FIND,
    ("patient", "find"): PATIENT_ROOT_FIND,
    ("patient", "move"): PATIENT_ROOT_MOVE,
    ("patient", "get"): PATIENT_ROOT_GET,
    ("study", "find"): STUDY_ROOT_FIND,
    ("study", "move"): STUDY_ROOT_MOVE,
    ("study", "get"): STUDY_ROOT_GET,
    ("psonly", "find"): "1.2.840.10008.5.1.4.1.2.3.1",  # PS3.4-2004 C.6.3, retired
    ("psonly", "move"): "1.2.840.10008.5.1.4.1.2.3.2",
    ("psonly", "get"): "1.2.840.10008.5.1.4.1.2.3.3",
}

WORKLIST: Final = flag("-W --worklist", "model", "the modality worklist information model", "worklist")

MODELS: Final = (
    flag("-P --patient", "model", "the patient root information model", "patient"),
    flag("-S --study", "model", "the study root information model", "study"),
    flag("-O --psonly", "model", "the patient/study only information model (retired)", "psonly"),
)

KEYS: Final = (
    key(
        "a key of the identifier: 0008,0052=STUDY, PatientName=DOE*, StudyDate (asked for), "
        "ScheduledProcedureStepSequence[0].Modality=CT"
    ),
    Option(
        ("-L", "--level"),
        "the level: PATIENT, STUDY, SERIES or IMAGE, as -k QueryRetrieveLevel=LEVEL says it",
        "keys",
        ("QUERY-LEVEL",),
        read="QueryRetrieveLevel={}".format,
        effect=Effect.APPEND,
    ),
)


JSON: Final = flag("--json", "json", "print the summary as a JSON object")


def cancel(what: str) -> Option:
    """The option that says when to send a C-CANCEL; ``what`` is counted."""
    return value("--cancel", "cancel", "NUMBER", f"cancel after so many {what} (C-CANCEL)", number(1, 1_000_000_000))


def sop_class(options: QueryOptions, service: str) -> str:
    """The SOP class UID of the model that was chosen, for ``"find"``, ``"move"`` or ``"get"``."""
    return _SOP_CLASSES[options.model, service]


def identifiers(options: QueryOptions, paths: Sequence[str]) -> list[Dataset]:
    """The identifiers to send: one for each query file, changed by the keys, or one of the keys alone.

    Raises UsageError for files and keys that cannot be read, and when there are none.
    """
    if not paths and not options.keys:
        raise UsageError("nothing says what to look for: -k QueryRetrieveLevel=STUDY -k PatientID=..., or query files")
    found = [read_keys(options.keys, read_query_file(path)) for path in paths] or [read_keys(options.keys)]
    if options.model != "worklist" and not all(each.get("QueryRetrieveLevel") for each in found):
        log.warning("no Query/Retrieve Level is given (-L STUDY), without which most peers find nothing")
    return found
