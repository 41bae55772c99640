"""``asyncdicom storescp``: receive instances into a folder (C-STORE, PS3.4 annex B).

A data set goes to its file as it comes, in the transfer syntax that was negotiated; nothing is decoded. On SIGTERM and
SIGINT no association is taken any more, and those that run have time to end; a second signal ends them.
"""

from __future__ import annotations

import asyncio
import functools
import os
import secrets
import signal
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asyncdicom.command import Status
from asyncdicom.errors import AssociationError
from asyncdicom.pdu import check_ae_title
from asyncdicom.presentation import STORAGE_TRANSFER_SYNTAXES, Context
from asyncdicom.server import serve, storage_contexts
from asyncdicom.uids import VERIFICATION, name_of

from .console import log, say, set_up_logging
from .exit_codes import ExitCode, ToolError
from .options import Group, Tool, UsageError, flag, nothing_to_do, refused, value
from .receiving import AS_RECEIVED_IN_FULL, FILES, Files, FilesOptions
from .shared import ADDRESS_FAMILIES, LOGGING, LOOP, TIMEOUTS, TLS, NetworkOptions, number, run_tool, seconds
from .syntaxes import ACCEPTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncdicom.requests import CStoreRequest
    from asyncdicom.server import Server, Statistics

__all__ = ["TOOL", "StoreScpOptions", "main"]


@dataclass(frozen=True, kw_only=True)
class StoreScpOptions(FilesOptions, NetworkOptions):
    """What storescp's command line sets."""

    aet: str = "STORESCP"
    require_called_aet: bool = False
    bind_address: str = ""
    max_associations: int = 1000
    workers: int = 1
    accepted: tuple[str, ...] = ()
    any_storage: bool = False
    refuse: bool = False
    echo: bool = True
    sleep_after: float = 0.0
    sleep_during: float = 0.0
    abort: str = ""
    drain: float = 30.0
    port_file: str = ""


def _delay(text: str) -> float:
    time = seconds(text)
    return 0.0 if time == float("inf") else time


_NO_COMMANDS: Final = "commands on events are not in this version of the tool"

TOOL: Final = Tool(
    "storescp",
    "receive DICOM instances into a folder (C-STORE, C-ECHO)",
    ("[OPTION]... PORT", "[OPTION]... 0 --port-file FILE"),
    StoreScpOptions,
    (
        LOGGING,
        Group(
            "files",
            (
                *FILES,
                *AS_RECEIVED_IN_FULL,
                nothing_to_do("-uc --retain-un", "instances are written as they are received"),
                refused("+uc --convert-un", "instances are written as they are received"),
                refused("-ss --sort-conc-studies", "use --pattern", "PREFIX"),
                refused("-sp --sort-on-patientname", "use --pattern"),
                nothing_to_do("-uf --default-filenames", "names come from the SOP Instance UID, or from --pattern"),
                refused("+uf --unique-filenames", "an instance that comes again replaces its file"),
                refused("-tn --timenames", "use --pattern"),
            ),
        ),
        Group(
            "network",
            (
                value(
                    "-aet --aetitle --ae-title",
                    "aet",
                    "TITLE",
                    "own AE title (any is answered without the next flag)",
                    check_ae_title,
                ),
                flag(
                    "--require-called-aet", "require_called_aet", "reject those who call by another AE title than -aet"
                ),
                value("-ba --bind-address", "bind_address", "ADDRESS", "listen on this local address only"),
                *ADDRESS_FAMILIES,
                value(
                    "--max-associations",
                    "max_associations",
                    "NUMBER",
                    "associations at a time; more are rejected as a local limit",
                    number(1, 1_000_000),
                ),
                value(
                    "--workers",
                    "workers",
                    "NUMBER",
                    "processes that share the associations",
                    number(1, 256),
                ),
                *TIMEOUTS,
                value(
                    "--network-timeout",
                    "idle_timeout",
                    "SECONDS",
                    "how long an association may be without any message",
                    seconds,
                ),
                flag("+v --verbose-pc", "verbose_contexts", "show how each instance was negotiated, with -v"),
                value("--port-file", "port_file", "FILE", "write the port into this file once it listens"),
                value(
                    "--drain",
                    "drain",
                    "SECONDS",
                    "on SIGTERM or SIGINT, how long associations may go on (0: abort them)",
                    _delay,
                ),
                flag("--no-echo", "echo", "do not accept Verification (C-ECHO)", constant=False),
                flag("-pm --promiscuous", "any_storage", "accept unknown and private storage SOP classes too"),
                nothing_to_do("-dhl --disable-host-lookup", "names are never looked up"),
                nothing_to_do("-up --uid-padding", "padding of UIDs is always taken off"),
                nothing_to_do("--single-process", "a process serves many associations; see --workers"),
                nothing_to_do("--fork", "a process serves many associations; see --workers"),
                nothing_to_do("-ac --access-full", "every host may connect"),
                refused("+ac --access-control", "use the firewall"),
                refused("-id --inetd", "it listens itself"),
                refused("-xf --config-file", "association configuration files are not read", "FILE", "PROFILE"),
            ),
        ),
        ACCEPTED,
        Group(
            "for tests of senders",
            (
                flag("--refuse", "refuse", "reject every association"),
                refused("--reject", "requestors without implementation class UID are accepted here"),
                value("--sleep-after", "sleep_after", "SECONDS", "wait before the answer", _delay),
                value("--sleep-during", "sleep_during", "SECONDS", "wait before the data set is read", _delay),
                flag("--abort-after", "abort", "abort the association instead of answering", "after"),
                flag("--abort-during", "abort", "abort the association while the data set comes", "during"),
            ),
        ),
        Group(
            "events",
            (
                refused("-xcr --exec-on-reception", _NO_COMMANDS, "COMMAND"),
                refused("-xcs --exec-on-eostudy", _NO_COMMANDS, "COMMAND"),
                refused("-xs --exec-sync", _NO_COMMANDS),
                refused("-rns --rename-on-eostudy", _NO_COMMANDS),
                refused("-tos --eostudy-timeout", _NO_COMMANDS, "SECONDS"),
            ),
        ),
        LOOP,
        TLS,
    ),
    "It prints 'listening on ADDRESS port PORT' once it does, then a line per instance, and a summary when it ends. "
    "SIGTERM and SIGINT end it: no association is taken any more, those that run may end; a second one aborts them.\n\n"
    "Values of the fields are made harmless before they become part of a path: nothing that a peer sends leads out of "
    "the folder. Two instances with the same path replace each other.\n\n"
    "Exit codes: 0 ended by a signal, 1 wrong command line, 45 the folder is not there or cannot be written to, "
    "64 the port cannot be listened on.",
)


def main(argv: Sequence[str]) -> int:
    """Run the tool; returns its exit code."""
    return run_tool(TOOL, _serve, argv)


async def _serve(options: StoreScpOptions, words: list[str]) -> int:
    port = _port(words)
    receiver = _Receiver(options, Files(options))
    signals = _Signals()
    server = await _listen(options, port, receiver)
    serving = asyncio.ensure_future(server.serve_forever())
    serving.add_done_callback(signals.end)
    try:
        _announce(options, server)
        await signals.first()
        if serving.done():
            await serving
        log.info("ending: %d associations have %g s to end", server.statistics.associations, options.drain)
        await _drain(server, options, signals)
    except RuntimeError as error:
        raise ToolError(ExitCode.INTERNAL, str(error)) from error
    finally:
        await server.close(0)
        await asyncio.gather(serving, return_exceptions=True)
        await receiver.wait_for_aborts()
    if not options.quiet:
        say(_summary(server.statistics))
    return ExitCode.OK


def _port(words: list[str]) -> int:
    if not words:
        raise UsageError("the port to listen on is missing (0 for any free one)")
    if len(words) > 1:
        raise UsageError(f"one word too many: {words[1]}")
    try:
        return number(0, 65535)(words[0])
    except ValueError as error:
        raise UsageError(f"port {words[0]}: {error}") from None


async def _listen(options: StoreScpOptions, port: int, receiver: _Receiver) -> Server:
    host = options.bind_address or _ANY_ADDRESS.get(options.family)
    if host is None and not port:
        host = "0.0.0.0"  # noqa: S104 - a free port is one of one address family
    syntaxes = options.accepted or STORAGE_TRANSFER_SYNTAXES
    contexts = [*((Context(VERIFICATION),) if options.echo else ()), *storage_contexts(syntaxes)]
    try:
        return await serve(
            host,
            port,
            ae_title=options.aet if options.require_called_aet else None,
            c_store=receiver.store,
            contexts=() if options.refuse else contexts,
            any_storage=syntaxes if options.any_storage and not options.refuse else (),
            prefer_own_syntax=bool(options.accepted),
            require_context=options.refuse,
            timeouts=options.timeouts,
            max_associations=options.max_associations,
            max_pdu_length=options.max_pdu,
            max_send_pdu_length=options.max_send_pdu,
            workers=options.workers,
            initializer=functools.partial(set_up_logging, options.log_level),
        )
    except (RuntimeError, NotImplementedError) as error:
        raise ToolError(ExitCode.INTERNAL, str(error), "without --workers one process serves") from error
    except OSError as error:
        where = f"{host or 'any address'} port {port}"
        message = f"cannot listen on {where}: {os.strerror(error.errno) if error.errno else error}"
        raise ToolError(
            ExitCode.LISTEN, message, "port 0 takes a free one; ports below 1024 may need rights"
        ) from error


_ANY_ADDRESS: Final[dict[int, str]] = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}  # noqa: S104 - what a server is for


def _announce(options: StoreScpOptions, server: Server) -> None:
    for host, port in dict.fromkeys(server.addresses):
        if not options.quiet:
            say(f"listening on {host} port {port}")
    if options.port_file:
        target = Path(options.port_file).absolute()
        part = target.with_name(f".{secrets.token_hex(8)}.part")
        try:
            part.write_text(f"{server.port}\n")
            part.replace(target)
        except OSError as error:
            message = f"the port file {target} cannot be written: {error.strerror}"
            raise ToolError(ExitCode.CANNOT_WRITE, message) from error


class _Signals:
    """SIGTERM and SIGINT, counted; where the loop knows no signals (Windows) Ctrl-C cancels the tool's task."""

    def __init__(self) -> None:
        self._came = asyncio.Event()
        self._came_again = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number_ in (signal.SIGTERM, signal.SIGINT):
            try:
                loop.add_signal_handler(number_, self._take)
            except NotImplementedError:  # Windows
                return

    def _take(self) -> None:
        (self._came_again if self._came.is_set() else self._came).set()

    async def first(self) -> None:
        """Wait for the first one."""
        try:
            await self._came.wait()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not task.uncancel():
                return
            raise

    def end(self, _: object) -> None:
        """Do as if one had come."""
        self._came.set()

    async def second(self) -> None:
        """Wait for another one."""
        await self._came_again.wait()


async def _drain(server: Server, options: StoreScpOptions, signals: _Signals) -> None:
    """Give the running associations their time, unless a second signal comes."""
    closing = asyncio.ensure_future(server.close(options.drain))
    again = asyncio.ensure_future(signals.second())
    try:
        await asyncio.wait((closing, again), return_when=asyncio.FIRST_COMPLETED)
        await server.close(0)  # in order, that is: a closing that is cancelled kills workers, and what they counted
    finally:
        for task in (closing, again):
            task.cancel()
        await asyncio.gather(closing, again, return_exceptions=True)


@dataclass(slots=True)
class _Receiver:
    """Stores what comes; sent to workers where there are some."""

    options: StoreScpOptions
    files: Files
    _aborts: set[asyncio.Task[None]] = field(default_factory=set)

    async def store(self, request: CStoreRequest) -> Status:
        """The C-STORE handler."""
        try:
            if self.options.abort == "during":
                await self._abort(request)
            if self.options.sleep_during:
                await asyncio.sleep(self.options.sleep_during)
            path = await self.files.save(request)
        except BaseException as error:
            if isinstance(error, AssociationError) or not isinstance(error, Exception):  # the library logs the others
                log.error("%s: %s did not come whole", _from(request), request.sop_instance_uid)
            raise
        log.info(
            "%s: %s %s, %d bytes%s",
            _from(request),
            name_of(request.sop_class_uid),
            request.sop_instance_uid,
            request.data_set.received,
            f" -> {path}" if path else ", ignored",
        )
        if self.options.verbose and self.options.verbose_contexts:
            log.info("context %d, %s", request.context.id, name_of(request.transfer_syntax_uid))
        if self.options.abort == "after":
            await self._abort(request)
        if self.options.sleep_after:
            await asyncio.sleep(self.options.sleep_after)
        return Status.SUCCESS

    async def _abort(self, request: CStoreRequest) -> None:
        """Abort the association in a task of its own, as the handler's is cancelled by it: this does not return."""
        task = asyncio.ensure_future(request.association.abort())
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)
        await asyncio.wait((task,))

    async def wait_for_aborts(self) -> None:
        """Wait until the aborts that were begun are done."""
        await asyncio.gather(*self._aborts, return_exceptions=True)


def _summary(done: Statistics) -> str:
    """What was done, in one line."""
    return f"{done.instances} instances, {done.bytes} bytes, {done.failures} failures"


def _from(request: CStoreRequest) -> str:
    return f"{request.calling_ae_title}@{request.peer_address}"
