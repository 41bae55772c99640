"""``asyncdicom stgcmtscu``: ask whether instances are safe, and wait for the report (PS3.4 annex J)."""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asyncdicom.errors import AssociationError, LocalProtocolError, StatusError
from asyncdicom.presentation import DEFAULT_TRANSFER_SYNTAXES, Context
from asyncdicom.services.references import Reference, reference
from asyncdicom.services.storage_commitment import SOP_CLASS, Commitment, CommitmentClient
from asyncdicom.uids import VERIFICATION, name_of, uid_of

from .console import log, printable, say
from .exit_codes import ExitCode, ToolError
from .files import find_files, read_instances
from .options import Effect, Group, Option, Tool, UsageError, flag, value
from .peer import parse_peer
from .serving import DRAIN, listen
from .shared import LOGGING, LOOP, PEER, RequestorOptions, associate, finish, number, run_tool, seconds
from .syntaxes import PROPOSED_FOR_QUERIES
from .tls_options import BOTH_TLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncdicom.association import Association
    from asyncdicom.services.storage_commitment import FailedInstance

    from .peer import Peer

__all__ = ["TOOL", "CommitmentOptions", "main"]


@dataclass(frozen=True, kw_only=True)
class CommitmentOptions(RequestorOptions):
    """What stgcmtscu's command line sets."""

    uncompressed: tuple[str, ...] = DEFAULT_TRANSFER_SYNTAXES
    instances: tuple[Reference, ...] = ()
    recurse: bool = False
    pattern: str | None = None
    port: int | None = None
    release: bool = False
    wait: float = 60.0
    json: bool = False


def _instance(text: str) -> Reference:
    sop_class, _, uid = text.rpartition(",")
    if not uid or uid.strip("0123456789."):
        raise ValueError("SOP class and SOP Instance UID are expected: 1.2.840.10008.5.1.4.1.1.2,1.2.3.4")
    try:
        return Reference(uid_of(sop_class), uid)
    except LocalProtocolError as error:
        raise ValueError(str(error)) from None


TOOL: Final = Tool(
    "stgcmtscu",
    "ask whether instances are safe, and wait for the report (N-ACTION)",
    (
        "[OPTION]... HOST PORT FILE-OR-FOLDER...",
        "[OPTION]... --instance CLASS,UID HOST PORT",
        "[OPTION]... dicom://CALLING@HOST:PORT/CALLED FILE-OR-FOLDER...",
    ),
    CommitmentOptions,
    (
        LOGGING,
        Group(
            "instances",
            (
                Option(
                    ("--instance",),
                    "an instance, by the UIDs (or the name) of its class and its own",
                    "instances",
                    ("CLASS,UID",),
                    read=_instance,
                    effect=Effect.APPEND,
                ),
                value("+sp --scan-pattern", "pattern", "PATTERN", "of the files in folders only these: '*.dcm'"),
                flag("-r --no-recurse", "recurse", "leave out folders in folders (default)", constant=False),
                flag("+r --recurse", "recurse", "take folders in folders too"),
            ),
        ),
        Group(
            "report",
            (
                value("--wait", "wait", "SECONDS", "how long to wait for the report", seconds),
                value(
                    "+P --port",
                    "port",
                    "NUMBER",
                    "listen on this port, and take the report on a new association too",
                    number(0, 65535),
                ),
                flag("--release", "release", "release the association before the report comes (with --port)"),
                flag("--json", "json", "print the outcome as a JSON object"),
            ),
        ),
        PEER,
        Group("transfer syntaxes", PROPOSED_FOR_QUERIES),
        LOOP,
        BOTH_TLS,
    ),
    "The peer decides whether it reports on the association of the request or on a new one; for those it has to know "
    "address and port of -aet.\n\n"
    "Exit codes: 0 all instances are safe, 1 wrong command line, 20 cannot read a file, 21 no instance, 60 no "
    "connection, 61 rejected, 62 instances are not safe or the request was refused, 64 cannot listen, 65 storage "
    "commitment was not accepted, 70 aborted, lost, or no report in time, 71 TLS failed.",
)


def main(argv: Sequence[str]) -> int:
    """Run the tool; returns its exit code."""
    return run_tool(TOOL, _commit, argv)


async def _commit(options: CommitmentOptions, words: list[str]) -> int:
    peer, files = parse_peer(words, options.connect)
    instances = [*options.instances, *_read(files, options)]
    if not instances:
        raise UsageError("no instance is named: give files, folders or --instance")
    if options.release and options.port is None:
        raise UsageError("with --release the report can only come to --port NUMBER")
    client = CommitmentClient()
    async with AsyncExitStack() as stack:
        if options.port is not None:
            server = await listen(options, options.port, contexts=[VERIFICATION], services=[client])
            stack.push_async_callback(server.close, DRAIN)
            log.info("listening on port %d", server.port)
        commitment = await _ask(client, peer, instances, options)
    _show(commitment, options)
    return ExitCode.OK if commitment.is_complete else ExitCode.SEND


def _read(words: list[str], options: CommitmentOptions) -> list[Reference]:
    """The instances in files; those in folders that are none are left out."""
    found = find_files(words, recurse=options.recurse, pattern=options.pattern)
    instances, _, failure = read_instances(found)
    if failure is not None:
        raise ToolError(failure.code, failure.message)
    if words and not instances:
        raise ToolError(ExitCode.NO_INPUT, "no instance was found")
    return list(map(reference, instances))


_TITLE: Final = "STGCMTSCU"


async def _ask(
    client: CommitmentClient, peer: Peer, instances: list[Reference], options: CommitmentOptions
) -> Commitment:
    contexts = [Context(SOP_CLASS, options.uncompressed)]
    association: Association = await associate(peer, options, _TITLE, contexts, services=[client])
    try:
        commitment = await client.commit(association, instances, timeout=_finite(options.wait), release=options.release)
    except AssociationError:
        await association.abort()
        raise
    except StatusError as error:
        await finish(association, abort=options.abort)
        raise ToolError(ExitCode.SEND, f"{association.called_ae_title} refused the request: {error.status}") from error
    except TimeoutError as error:
        await finish(association, abort=options.abort)
        hint = "" if options.port is not None else "it may be on its way to another port: see --port"
        raise ToolError(ExitCode.ABORTED, f"no report came within {options.wait:g} s", hint) from error
    except BaseException:
        await association.abort()
        raise
    if not options.release:
        await finish(association, abort=options.abort)
    return commitment


def _finite(time: float) -> float | None:
    return None if time == float("inf") else time


def _show(commitment: Commitment, options: CommitmentOptions) -> None:
    if options.json:
        say(_json(commitment))
        return
    if options.quiet:
        return
    rows = [(each.sop_class_uid, each.sop_instance_uid, "safe") for each in commitment.committed]
    rows += [(each.sop_class_uid, each.sop_instance_uid, each.meaning) for each in commitment.failed]
    if not (sys.stdout.isatty() and _table(rows)):
        for _, uid, outcome in rows:
            say(f"{uid} {outcome}")
    say(f"{len(commitment.committed)} safe, {len(commitment.failed)} not")


def _table(rows: list[tuple[str, str, str]]) -> bool:
    """Show a table; whether that can be done."""
    try:
        from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - slow to import
        from rich.console import Console  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415
    except ImportError:
        return False
    table = Table("SOP class", "SOP Instance UID", "outcome", box=SIMPLE_HEAD)
    for sop_class, uid, outcome in rows:
        table.add_row(*(Text(printable(cell)) for cell in (name_of(sop_class), uid, outcome)))
    Console(highlight=False, markup=False).print(table)
    return True


def _json(commitment: Commitment) -> str:
    return json.dumps(
        {
            "transaction_uid": commitment.transaction_uid,
            "committed": [each._asdict() for each in commitment.committed],
            "failed": [_failed(each) for each in commitment.failed],
            "exit_code": int(ExitCode.OK if commitment.is_complete else ExitCode.SEND),
        }
    )


def _failed(instance: FailedInstance) -> dict[str, str]:
    return {
        "sop_class_uid": instance.sop_class_uid,
        "sop_instance_uid": instance.sop_instance_uid,
        "reason": f"{instance.reason:04X}",
        "meaning": instance.meaning,
    }
