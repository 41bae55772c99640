"""``asyncdicom wlmscu``: ask for a modality's worklist (C-FIND, PS3.4 annex K)."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asyncdicom.presentation import DEFAULT_TRANSFER_SYNTAXES, Context
from asyncdicom.services.modality_worklist import SOP_CLASS, worklist_query

from .exit_codes import ExitCode
from .finding import find
from .keys import key, read_keys, read_query_file
from .options import Group, Tool, UsageError, flag, value
from .peer import parse_peer
from .query import cancel
from .receiving import check_folder
from .results import Extraction, results
from .shared import LOGGING, LOOP, PEER, RequestorOptions, associate, run_tool
from .syntaxes import PROPOSED_FOR_QUERIES
from .tls_options import REQUESTOR_TLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom import Dataset

__all__ = ["TOOL", "WorklistOptions", "main"]


@dataclass(frozen=True, kw_only=True)
class WorklistOptions(RequestorOptions):
    """What wlmscu's command line sets."""

    uncompressed: tuple[str, ...] = DEFAULT_TRANSFER_SYNTAXES
    date: str = ""
    time: str = ""
    modality: str = ""
    station: str = ""
    physician: str = ""
    patient_name: str = ""
    patient_id: str = ""
    accession: str = ""
    procedure: str = ""
    keys: tuple[str, ...] = ()
    query_file: str = ""
    only_keys: bool = False
    cancel: int = 0
    json: bool = False
    hidden: bool = False
    extract: bool = False
    folder: str = "."


_RELATIVE: Final = {"yesterday": -1, "today": 0, "tomorrow": 1}


def _date(text: str) -> str:
    """A date, a range, or a day in words."""
    if text.lower() in _RELATIVE:
        day = dt.datetime.now().astimezone().date() + dt.timedelta(days=_RELATIVE[text.lower()])
        return f"{day:%Y%m%d}"
    return text


TOOL: Final = Tool(
    "wlmscu",
    "ask for a modality's worklist (C-FIND)",
    ("[OPTION]... HOST PORT", "[OPTION]... dicom://CALLING@HOST:PORT/CALLED", "[OPTION]... -c CALLED@HOST:PORT"),
    WorklistOptions,
    (
        LOGGING,
        Group(
            "query",
            (
                value("--date", "date", "DATE", "scheduled for: today, tomorrow, 20260131, 20260101-20260131", _date),
                value("--time", "time", "TIME", "scheduled at: 0800-1200"),
                value("--modality", "modality", "MODALITY", "scheduled modality: CT"),
                value("--station-aet", "station", "TITLE", "AE title of the scheduled station"),
                value("--physician", "physician", "NAME", "scheduled performing physician"),
                value("--patient-name", "patient_name", "NAME", "patient's name, with wild cards: 'DOE*'"),
                value("--patient-id", "patient_id", "ID", "patient ID"),
                value("--accession-number", "accession", "NUMBER", "accession number"),
                value("--procedure-id", "procedure", "ID", "requested procedure ID"),
                key(
                    "a further key: PatientSex=F, 0010,0040=F, ScheduledProcedureStepSequence[0].Modality=CT",
                ),
                value("-f --query-file", "query_file", "FILE", "take the query from a file (DICOM or DICOM JSON)"),
                flag("--only-keys", "only_keys", "ask for nothing but what -f and -k name"),
                cancel("matches"),
            ),
        ),
        Group(
            "items",
            (
                flag("--json", "json", "print each item as a line of DICOM JSON"),
                flag("--hide-responses", "hidden", "print no items"),
                flag("-X --extract", "extract", "write the items to files: rsp0001.dcm ..."),
                value("-od --output-directory", "folder", "FOLDER", "into which -X writes"),
            ),
        ),
        PEER,
        Group("transfer syntaxes", PROPOSED_FOR_QUERIES),
        LOOP,
        REQUESTOR_TLS,
    ),
    "All attributes of PS3.4 Table K.6-1 that a worklist server has to know are asked for, unless a query file or "
    "--only-keys is given.\n\n"
    "Exit codes: 0 the peer answered, with items or without, 1 wrong command line, 40 cannot write, 60 no connection, "
    "61 rejected, 62 a failure status, 65 worklists were not accepted, 70 aborted, lost or timed out, "
    "71 TLS failed.",
)

_SHOWN: Final = (
    "ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartDate",
    "ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartTime",
    "ScheduledProcedureStepSequence[0].Modality",
    "ScheduledProcedureStepSequence[0].ScheduledStationAETitle",
    "ScheduledProcedureStepSequence[0].ScheduledProcedureStepDescription",
    "PatientName",
    "PatientID",
    "AccessionNumber",
    "RequestedProcedureDescription",
)
"""The columns of a table; keys of the command line follow."""


def main(argv: Sequence[str]) -> int:
    """Run the tool; returns its exit code."""
    return run_tool(TOOL, _worklist, argv)


def _query(options: WorklistOptions) -> Dataset:
    given = {
        "date": options.date,
        "time": options.time,
        "modality": options.modality,
        "station_ae_title": options.station,
        "performing_physician": options.physician,
        "patient_name": options.patient_name,
        "patient_id": options.patient_id,
        "accession_number": options.accession,
        "requested_procedure_id": options.procedure,
    }
    if not (options.only_keys or options.query_file):
        return read_keys(options.keys, worklist_query(**given))
    if any(given.values()):
        raise UsageError("with -f or --only-keys the query is what -f and -k name; use -k for what has to match")
    if not (options.query_file or options.keys):
        raise UsageError("--only-keys leaves nothing to ask for without -k")
    return read_keys(options.keys, read_query_file(options.query_file) if options.query_file else None)


async def _worklist(options: WorklistOptions, words: list[str]) -> int:
    peer, rest = parse_peer(words, options.connect)
    if rest:
        raise UsageError(f"one word too many: {rest[0]}")
    query = _query(options)
    extraction = Extraction(check_folder(options.folder), SOP_CLASS, 0) if options.extract else None
    association = await associate(peer, options, "WLMSCU", [Context(SOP_CLASS, options.uncompressed)])
    columns = read_keys((*_SHOWN, *(key.partition("=")[0] for key in options.keys)))
    hidden = options.hidden or options.quiet
    begun = (
        (association.c_find(query, model=SOP_CLASS), results(columns, as_json=options.json, hidden=hidden))
        for _ in range(options.repeat)
    )
    await find(association, begun, options, limit=options.cancel, extraction=extraction)
    return ExitCode.OK
