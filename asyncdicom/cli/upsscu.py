"""``asyncdicom upsscu``: create, perform, look up and watch Unified Procedure Steps (PS3.4 annex CC)."""

from __future__ import annotations

import datetime as dt
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from asyncdicom.instances import new_uid
from asyncdicom.presentation import DEFAULT_TRANSFER_SYNTAXES, Context
from asyncdicom.services.unified_procedure_step import (
    GLOBAL_SUBSCRIPTION,
    MEANINGS,
    UPS_CONTEXTS,
    EventReport,
    EventType,
    State,
    UpsClient,
    UpsEvents,
)

from .console import log, printable, say, to_stderr
from .exit_codes import ExitCode, ToolError
from .finding import go_through
from .keys import key, read_keys, read_query_file
from .options import Group, Tool, UsageError, flag, value
from .peer import parse_peer
from .results import lines, results
from .serving import listen
from .shared import LOGGING, LOOP, PEER, RequestorOptions, associate, finish, number, run_tool
from .syntaxes import PROPOSED_UNCOMPRESSED
from .tls_options import BOTH_TLS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from pydicom import Dataset

    from asyncdicom.command import Status

    from .peer import Peer

__all__ = ["TOOL", "UpsOptions", "main"]

_TITLE: Final = "UPSSCU"


@dataclass(frozen=True, kw_only=True)
class UpsOptions(RequestorOptions):
    """What upsscu's command line sets."""

    keys: tuple[str, ...] = ()
    file: str = ""
    transaction: str = ""
    receiver: str = ""
    lock: bool = False
    suspend: bool = False
    port: int = 11112
    events: int = 0
    keep: bool = False
    json: bool = False
    uncompressed: tuple[str, ...] = DEFAULT_TRANSFER_SYNTAXES


TOOL: Final = Tool(
    "upsscu",
    "create, perform, look up and watch unified procedure steps",
    (
        "create [OPTION]... -k KEY... HOST PORT [UID]",
        "get [OPTION]... [-k KEY]... HOST PORT UID",
        "set [OPTION]... -k KEY... [-t TRANSACTION-UID] HOST PORT UID",
        "state [OPTION]... [-t TRANSACTION-UID] HOST PORT UID in-progress|completed|canceled",
        "cancel [OPTION]... [-k KEY]... HOST PORT UID",
        "subscribe [OPTION]... [-k KEY]... HOST PORT [UID]",
        "unsubscribe [OPTION]... HOST PORT [UID]",
        "find [OPTION]... -k KEY... HOST PORT",
        "watch [OPTION]... [-k KEY]... HOST PORT [UID]",
    ),
    UpsOptions,
    (
        LOGGING,
        Group(
            "steps",
            (
                key(
                    "an attribute: ProcedureStepLabel=CT, ScheduledStationNameCodeSequence[0].CodeValue=CT1; for get "
                    "and find without '=' one that is asked for; for subscribe and watch what a step has to match",
                ),
                value("-f --file", "file", "FILE", "attributes from this DICOM or DICOM JSON file; -k changes them"),
                value(
                    "-t --transaction",
                    "transaction",
                    "UID",
                    "the transaction UID: the one that was printed when the step became in progress",
                ),
                flag("--json", "json", "print a JSON object per step or event, in a line (the DICOM JSON model)"),
            ),
        ),
        Group(
            "subscriptions",
            (
                value("--receiver", "receiver", "TITLE", "report to this AE (default: this tool's own AE title)"),
                flag("--lock", "lock", "have the steps kept until it is unsubscribed"),
                flag("--suspend", "suspend", "unsubscribe from steps to come only"),
                value(
                    "+P --port",
                    "port",
                    "NUMBER",
                    "where watch listens; the peer has to know it for this AE title",
                    number(0, 65535),
                ),
                value("--events", "events", "NUMBER", "events to wait for; 0 for no end", number(0, 1 << 31)),
                flag("--keep", "keep", "stay subscribed when watching ends"),
            ),
        ),
        PEER,
        Group("transfer syntaxes", PROPOSED_UNCOMPRESSED),
        LOOP,
        BOTH_TLS,
    ),
    "create prints the step's UID; priority MEDIUM, readiness READY and the present time as its start are given where "
    "no key says otherwise. state prints the transaction UID with which a step has become in progress: one is made "
    "unless -t gives it, and who performs the step needs it until the end. Without UID, subscribe, unsubscribe and "
    "watch mean all steps. watch unsubscribes when it ends.\n\n"
    "Exit codes: 0 done, 1 wrong command line, 60 no connection, 61 rejected, 62 a failure status, 64 the port cannot "
    "be listened on, 65 no presentation context was accepted, 70 aborted, lost or timed out, 71 TLS failed, "
    "130 ended by a signal.",
)


def main(argv: Sequence[str]) -> int:
    """Run the tool; returns its exit code."""
    return run_tool(TOOL, _run, argv)


async def _run(options: UpsOptions, words: list[str]) -> int:
    command = _COMMANDS.get(words[0]) if words else None
    if command is None:
        raise UsageError(f"the first word is one of {', '.join(_COMMANDS)}")
    peer, rest = parse_peer(words[1:], options.connect)
    if len(rest) not in command.words:
        raise UsageError(f"{words[0]} takes {command.takes} after the peer, got {' '.join(rest) or 'nothing'}")
    if command.needs_keys and not (options.keys or options.file):
        raise UsageError(f"{words[0]} needs attributes: -k, or -f")
    for _ in range(options.repeat):
        await command.run(peer, options, rest)
    return ExitCode.OK


# The commands


async def _create(peer: Peer, options: UpsOptions, words: list[str]) -> None:
    step = _attributes(options)
    for keyword, default in (
        ("ScheduledProcedureStepPriority", "MEDIUM"),
        ("InputReadinessState", "READY"),
        ("ScheduledProcedureStepStartDateTime", dt.datetime.now().astimezone().strftime("%Y%m%d%H%M%S")),
    ):
        if keyword not in step:
            setattr(step, keyword, default)
    async with _client(peer, options) as client:
        uid = words[0] if words else new_uid()
        _check((await client.create(step, uid)).status)
        if not options.quiet:
            say(uid)


async def _get(peer: Peer, options: UpsOptions, words: list[str]) -> None:
    async with _client(peer, options) as client:
        response = await client.get(words[0], list(map(int, _attributes(options).keys())))
        _check(response.status)
        if response.data_set and not options.quiet:
            _show(response.data_set, options)


async def _set(peer: Peer, options: UpsOptions, words: list[str]) -> None:
    async with _client(peer, options) as client:
        _check((await client.update(words[0], _attributes(options), options.transaction)).status)


async def _change_state(peer: Peer, options: UpsOptions, words: list[str]) -> None:
    try:
        state = State(words[1].upper().replace("-", " ").replace("_", " "))
    except ValueError:
        raise UsageError(f"{words[1]} is no state: in-progress, completed, canceled") from None
    begins = state is State.IN_PROGRESS and not options.transaction
    transaction = new_uid() if begins else options.transaction
    async with _client(peer, options) as client:
        _check((await client.change_state(words[0], state, transaction)).status)
        if begins and not options.quiet:
            say(transaction)


async def _cancel(peer: Peer, options: UpsOptions, words: list[str]) -> None:
    async with _client(peer, options) as client:
        _check((await client.request_cancel(words[0], _attributes(options) or None)).status)


async def _subscribe(peer: Peer, options: UpsOptions, words: list[str]) -> None:
    keys = _attributes(options) or None
    if keys is not None and words:
        raise UsageError("keys say which steps, so there can be no UID")
    async with _client(peer, options) as client:
        response = await client.subscribe(
            words[0] if words else GLOBAL_SUBSCRIPTION,
            lock=options.lock,
            matching_keys=keys,
            receiving_ae=options.receiver,
        )
        _check(response.status)


async def _unsubscribe(peer: Peer, options: UpsOptions, words: list[str]) -> None:
    if options.suspend and words:
        raise UsageError("--suspend is of all steps, so there can be no UID")
    async with _client(peer, options) as client:
        if options.suspend:
            response = await client.suspend_global_subscription(receiving_ae=options.receiver)
        else:
            uid = words[0] if words else GLOBAL_SUBSCRIPTION
            response = await client.unsubscribe(uid, receiving_ae=options.receiver)
        _check(response.status)


async def _find(peer: Peer, options: UpsOptions, _words: list[str]) -> None:
    identifier = _attributes(options)
    shown = results(identifier, as_json=options.json, hidden=options.quiet)
    async with _client(peer, options) as client:
        _check(await go_through(client.find(identifier), shown, quiet=options.quiet))


async def _watch(peer: Peer, options: UpsOptions, words: list[str]) -> None:
    events = UpsEvents()
    title = options.receiver or options.aet or peer.calling or _TITLE
    server = await listen(options, options.port, ae_title=title, services=[events])
    try:
        await _subscribe(peer, options, words)
        if not options.quiet:
            to_stderr(f"watching as {title} on port {server.port}")
        try:
            await _show_events(events, options)
        finally:
            if not options.keep:
                await _unsubscribe(peer, options, words)
    finally:
        await server.close(0)


async def _show_events(events: UpsEvents, options: UpsOptions) -> None:
    count = 0
    async for report in events:
        if not options.quiet:
            _show_event(report, options)
        count += 1
        if count == options.events:
            break


class _Command(NamedTuple):
    run: Callable[[Peer, UpsOptions, list[str]], Awaitable[None]]
    words: range
    """How many stand behind the peer."""
    takes: str
    needs_keys: bool = False


_NONE, _PERHAPS, _ONE, _TWO = range(1), range(2), range(1, 2), range(2, 3)
_COMMANDS: Final = {
    "create": _Command(_create, _PERHAPS, "[UID]", needs_keys=True),
    "get": _Command(_get, _ONE, "UID"),
    "set": _Command(_set, _ONE, "UID", needs_keys=True),
    "state": _Command(_change_state, _TWO, "UID STATE"),
    "cancel": _Command(_cancel, _ONE, "UID"),
    "subscribe": _Command(_subscribe, _PERHAPS, "[UID]"),
    "unsubscribe": _Command(_unsubscribe, _PERHAPS, "[UID]"),
    "find": _Command(_find, _NONE, "nothing", needs_keys=True),
    "watch": _Command(_watch, _PERHAPS, "[UID]"),
}


# What they have in common


@asynccontextmanager
async def _client(peer: Peer, options: UpsOptions) -> AsyncIterator[UpsClient]:
    """An association for one command."""
    contexts = [Context(uid, options.uncompressed) for uid in UPS_CONTEXTS]
    association = await associate(peer, options, _TITLE, contexts)
    try:
        yield UpsClient(association)
    except BaseException:
        await association.abort()
        raise
    await finish(association, abort=options.abort)


def _attributes(options: UpsOptions) -> Dataset:
    return read_keys(options.keys, read_query_file(options.file) if options.file else None)


def _check(status: Status | None) -> None:
    """Say what is to be said of a status. Raises ToolError if it is a failure."""
    if status is None or status.is_success:
        return
    words = f"{MEANINGS[status]} ({status:04X}H)" if status in MEANINGS else str(status)
    if status.is_failure:
        raise ToolError(ExitCode.SEND, f"the peer answered: {words}")
    log.warning("the peer answered: %s", words)


def _show(data_set: Dataset, options: UpsOptions) -> None:
    if options.json:
        results(data_set, as_json=True).add(data_set)
    else:
        print("\n".join(map(printable, lines(data_set))), flush=True)


def _show_event(report: EventReport, options: UpsOptions) -> None:
    try:
        kind = EventType(report.event_type).name.replace("_", " ")
    except ValueError:
        kind = f"EVENT {report.event_type}"
    if options.json:
        information = report.information.to_json_dict(suppress_invalid_tags=True) if report.information else {}
        say(json.dumps({"event": kind, "uid": report.sop_instance_uid, "information": information}))
        return
    say(f"{kind} {report.sop_instance_uid}")
    if report.information:
        _show(report.information, options)
