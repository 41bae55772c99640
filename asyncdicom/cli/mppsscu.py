"""``asyncdicom mppsscu``: report a step that a modality performs (N-CREATE and N-SET, PS3.4 annex F.7)."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from asyncdicom.presentation import DEFAULT_TRANSFER_SYNTAXES, Context
from asyncdicom.services.modality_performed_procedure_step import (
    SOP_CLASS,
    PerformedProcedureStep,
    State,
    performed_series,
    scheduled_step,
)

from .console import say
from .exit_codes import ExitCode, ToolError
from .files import find_files
from .keys import key, read_keys, read_query_file
from .options import Group, Tool, UsageError, flag, value
from .peer import parse_peer
from .shared import LOGGING, LOOP, PEER, RequestorOptions, associate, finish, run_tool
from .syntaxes import PROPOSED_FOR_QUERIES
from .tls_options import REQUESTOR_TLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom import Dataset

    from asyncdicom.association import Association
    from asyncdicom.command import Status

__all__ = ["TOOL", "StepOptions", "main"]


@dataclass(frozen=True, kw_only=True)
class StepOptions(RequestorOptions):
    """What mppsscu's command line sets."""

    uncompressed: tuple[str, ...] = DEFAULT_TRANSFER_SYNTAXES
    status: State | None = None
    uid: str = ""
    keys: tuple[str, ...] = ()
    file: str = ""
    worklist: str = ""
    reason: tuple[str, str, str] | None = None
    json: bool = False


def _status(text: str) -> State:
    try:
        return State(text.upper())
    except ValueError:
        raise ValueError(f"one of {', '.join(State)} is expected") from None


def _reason(text: str) -> tuple[str, str, str]:
    parts = text.split("^")
    if len(parts) != 3 or not all(parts):
        raise ValueError("CODE^SCHEME^MEANING is expected")
    return parts[0], parts[1], parts[2]


TOOL: Final = Tool(
    "mppsscu",
    "report the steps that a modality performs (N-CREATE, N-SET)",
    (
        "[OPTION]... HOST PORT",
        "[OPTION]... --uid UID --status COMPLETED HOST PORT FILE-OR-FOLDER...",
        "[OPTION]... dicom://CALLING@HOST:PORT/CALLED",
    ),
    StepOptions,
    (
        LOGGING,
        Group(
            "step",
            (
                value("--uid", "uid", "UID", "the step's SOP Instance UID; a new step gets one when this is not given"),
                value(
                    "--status",
                    "status",
                    "STATUS",
                    f"change the step --uid: {', '.join(State)}; without it a step is created",
                    _status,
                ),
                value("--worklist", "worklist", "FILE", "create it for this worklist item (DICOM or DICOM JSON)"),
                value("-f --file", "file", "FILE", "take the attributes from a file (DICOM or DICOM JSON)"),
                key(
                    "an attribute: PatientID=4711, PerformedSeriesSequence[0].ProtocolName=HEAD",
                ),
                value(
                    "--reason",
                    "reason",
                    "CODE^SCHEME^MEANING",
                    "why it is discontinued: '110513^DCM^Discontinued for unspecified reason'",
                    _reason,
                ),
            ),
        ),
        Group("outcome", (flag("--json", "json", "print the outcome as a JSON object"),)),
        PEER,
        Group("transfer syntaxes", PROPOSED_FOR_QUERIES),
        LOOP,
        REQUESTOR_TLS,
    ),
    "What the standard wants to be there and no file or key gives is made up when a step is created: its ID and start "
    "(now), the station (-aet), the modality OT, a Study Instance UID. FILE-OR-FOLDER are the instances that the step "
    "has made; their series go into Performed Series Sequence.\n\n"
    "Exit codes: 0 the peer has it, 1 wrong command line, 20 cannot read a file, 60 no connection, 61 rejected, 62 a "
    "failure status, 65 performed procedure steps were not accepted, 70 aborted, lost or timed out, "
    "71 TLS failed.",
)


def main(argv: Sequence[str]) -> int:
    """Run the tool; returns its exit code."""
    return run_tool(TOOL, _report, argv)


async def _report(options: StepOptions, words: list[str]) -> int:
    peer, files = parse_peer(words, options.connect)
    _check(options, files)
    attributes = read_keys(options.keys, read_query_file(options.file) if options.file else None)
    if files:
        attributes.PerformedSeriesSequence = performed_series(_read(files))
    if options.status is None:
        attributes = _with_defaults(attributes, options)
    association = await associate(peer, options, "MPPSSCU", [Context(SOP_CLASS, options.uncompressed)])
    try:
        step = PerformedProcedureStep(options.uid)
        status = await _tell(association, step, attributes, options)
    except BaseException:
        await association.abort()
        raise
    await finish(association, abort=options.abort)
    return _show(step, status, options)


def _check(options: StepOptions, files: list[str]) -> None:
    if options.status is None:
        if files:
            raise UsageError("instances are named when the step ends: --uid UID --status COMPLETED")
    elif not options.uid:
        raise UsageError("--status changes a step that --uid names; it is printed when the step is created")
    elif options.worklist:
        raise UsageError("--worklist is for creating a step, --status changes one")
    if options.reason and options.status is not State.DISCONTINUED:
        raise UsageError("--reason goes with --status DISCONTINUED")


def _with_defaults(given: Dataset, options: StepOptions) -> Dataset:
    """The attributes of a new step: what is given, the worklist item's, what has to be there."""
    from pydicom import Dataset  # noqa: PLC0415 - slow to import

    attributes = scheduled_step(read_query_file(options.worklist) if options.worklist else Dataset())
    attributes.update(given)
    for keyword, default in (
        ("Modality", "OT"),
        ("PerformedStationAETitle", options.aet or "MPPSSCU"),
        ("PerformedProcedureStepID", f"{dt.datetime.now().astimezone():%Y%m%d%H%M%S}"),
    ):
        if not attributes.get(keyword):
            setattr(attributes, keyword, default)
    return attributes


_READ: Final = (
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "SeriesDescription",
    "ProtocolName",
    "PerformingPhysicianName",
    "OperatorsName",
    "Rows",
)
"""What is taken of an instance."""


def _read(words: list[str]) -> list[Dataset]:
    """The instances that a step has made, no more of them than is needed."""
    from pydicom import dcmread  # noqa: PLC0415 - slow to import

    found: list[Dataset] = []
    for path, named, error in find_files(words, recurse=True, pattern=None):
        try:
            if error:
                raise OSError(error)
            instance = dcmread(path, specific_tags=list(_READ))
            if not all(keyword in instance for keyword in _READ[1:4]):
                raise ValueError("it is no instance of a series")
            found.append(instance)
        except Exception as problem:
            if named:
                raise ToolError(ExitCode.CANNOT_READ, f"{path} cannot be read: {problem}") from problem
    if not found:
        raise ToolError(ExitCode.NO_INPUT, "no instance was found")
    return found


async def _tell(
    association: Association, step: PerformedProcedureStep, attributes: Dataset, options: StepOptions
) -> Status:
    if options.status is None:
        step.state = None  # --uid is the one that it gets
        return await step.create(association, attributes)
    if options.status is State.COMPLETED:
        return await step.complete(association, attributes)
    if options.status is State.DISCONTINUED:
        return await step.discontinue(association, attributes, options.reason)
    return await step.set(association, attributes)


def _show(step: PerformedProcedureStep, status: Status, options: StepOptions) -> int:
    code = ExitCode.SEND if status.is_failure else ExitCode.OK
    if options.json:
        outcome: dict[str, Any] = {
            "sop_instance_uid": step.sop_instance_uid,
            "state": step.state,
            "status": f"{int(status):04X}",
            "meaning": status.meaning,
            "error_comment": status.error_comment,
            "exit_code": int(code),
        }
        say(json.dumps(outcome))
    if status.is_failure:
        raise ToolError(code, f"the peer answered {status}")
    if not (options.json or options.quiet):
        say(f"{step.sop_instance_uid} {step.state}")
    return code
