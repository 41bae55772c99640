"""``asyncdicom storescp``: receive instances into a folder (C-STORE, PS3.4 annex B).

A data set goes to its file as it comes, in the transfer syntax that was negotiated; nothing is decoded.
"""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from asyncdicom.command import Status
from asyncdicom.errors import AssociationError
from asyncdicom.presentation import STORAGE_TRANSFER_SYNTAXES, Context
from asyncdicom.server import storage_contexts
from asyncdicom.uids import VERIFICATION, name_of

from .console import log, say, set_up_logging
from .exit_codes import ExitCode, ToolError
from .options import Group, Tool, flag, nothing_to_do, refused, value
from .receiving import AS_RECEIVED_IN_FULL, FILES, Files, FilesOptions
from .serving import ACCESS, LISTENING, ListeningOptions, Signals, listen, listening_port, run_server
from .shared import LOGGING, LOOP, delay, number, run_tool
from .syntaxes import ACCEPTED
from .tls_options import ACCEPTOR_TLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncdicom.requests import CStoreRequest
    from asyncdicom.server import Server, Statistics

__all__ = ["TOOL", "StoreScpOptions", "main"]


@dataclass(frozen=True, kw_only=True)
class StoreScpOptions(FilesOptions, ListeningOptions):
    """What storescp's command line sets."""

    aet: str = "STORESCP"
    workers: int = 1
    accepted: tuple[str, ...] = ()
    any_storage: bool = False
    refuse: bool = False
    echo: bool = True
    sleep_after: float = 0.0
    sleep_during: float = 0.0
    abort: str = ""


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
                *LISTENING,
                value(
                    "--workers",
                    "workers",
                    "NUMBER",
                    "processes that share the associations",
                    number(1, 256),
                ),
                flag("+v --verbose-pc", "verbose_contexts", "show how each instance was negotiated, with -v"),
                flag("--no-echo", "echo", "do not accept Verification (C-ECHO)", constant=False),
                flag("-pm --promiscuous", "any_storage", "accept unknown and private storage SOP classes too"),
                nothing_to_do("-dhl --disable-host-lookup", "names are never looked up"),
                nothing_to_do("-up --uid-padding", "padding of UIDs is always taken off"),
                nothing_to_do("--single-process", "a process serves many associations; see --workers"),
                nothing_to_do("--fork", "a process serves many associations; see --workers"),
                nothing_to_do("-ac --access-full", "every host may connect that --access-policy does not refuse"),
                refused("+ac --access-control", "use --access-policy"),
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
                value("--sleep-after", "sleep_after", "SECONDS", "wait before the answer", delay),
                value("--sleep-during", "sleep_during", "SECONDS", "wait before the data set is read", delay),
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
        ACCESS,
        LOOP,
        ACCEPTOR_TLS,
    ),
    "It prints 'listening on ADDRESS port PORT' once it does, then a line per instance, and a summary when it ends. "
    "SIGTERM and SIGINT end it: no association is taken any more, those that run may end; a second one aborts them. "
    "SIGHUP has it read certificates, access policy, passwords and keys of tokens again.\n\n"
    "Values of the fields are made harmless before they become part of a path: nothing that a peer sends leads out of "
    "the folder. Two instances with the same path replace each other.\n\n"
    "Exit codes: 0 ended by a signal, 1 wrong command line, 40 the audit file cannot be written, 45 the folder "
    "is not there or cannot be written to, "
    "64 the port cannot be listened on, "
    "66 the access policy, the password file or the tokens' key cannot be used, or what --metrics needs is missing, "
    "71 TLS cannot be set up.",
)


def main(argv: Sequence[str]) -> int:
    """Run the tool; returns its exit code."""
    return run_tool(TOOL, _serve, argv)


async def _serve(options: StoreScpOptions, words: list[str]) -> int:
    port = listening_port(words)
    receiver = _Receiver(options, Files(options))
    signals = Signals()
    server = await _listen(options, port, receiver)
    try:
        await run_server(server, options, signals)
    finally:
        await receiver.wait_for_aborts()
    if not options.quiet:
        say(_summary(server.statistics))
    return ExitCode.OK


async def _listen(options: StoreScpOptions, port: int, receiver: _Receiver) -> Server:
    syntaxes = options.accepted or STORAGE_TRANSFER_SYNTAXES
    contexts = [*((Context(VERIFICATION),) if options.echo else ()), *storage_contexts(syntaxes)]
    try:
        return await listen(
            options,
            port,
            **options.acceptance,
            c_store=receiver.store,
            contexts=() if options.refuse else contexts,
            any_storage=syntaxes if options.any_storage and not options.refuse else (),
            prefer_own_syntax=bool(options.accepted),
            require_context=options.refuse,
            workers=options.workers,
            initializer=functools.partial(set_up_logging, options.log_level),
        )
    except (RuntimeError, NotImplementedError) as error:
        raise ToolError(ExitCode.INTERNAL, str(error), "without --workers one process serves") from error


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
