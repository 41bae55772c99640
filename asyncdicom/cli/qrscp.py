"""``asyncdicom qrscp``: an archive in a folder, with worklist, procedure steps and storage commitment.

A node for tests and laboratories, and what the library's services are when they are put together.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asyncdicom.node.archive import Archive
from asyncdicom.node.folders import StepFolder, WorklistFolder
from asyncdicom.pdu import check_ae_title
from asyncdicom.retrieve import Destination
from asyncdicom.services.modality_performed_procedure_step import PerformedProcedureSteps
from asyncdicom.services.modality_worklist import Worklist
from asyncdicom.services.storage_commitment import CommitmentProvider

from .console import log, say
from .exit_codes import ExitCode, ToolError
from .options import Effect, Group, Option, Tool, UsageError, flag, value
from .peer import split_host_port
from .receiving import check_folder
from .serving import ACCESS, LISTENING, ListeningOptions, Signals, listen, listening_port, run_server
from .shared import LOGGING, LOOP, run_tool
from .tls_options import BOTH_TLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncdicom.requests import Service

__all__ = ["TOOL", "QrScpOptions", "main"]


@dataclass(frozen=True, kw_only=True)
class QrScpOptions(ListeningOptions):
    """What qrscp's command line sets."""

    aet: str = "QRSCP"
    folder: str = ""
    worklist: str = ""
    peers: tuple[tuple[str, tuple[str, int]], ...] = ()
    json: bool = False

    def check(self) -> None:
        """Also read what TLS needs to call others."""
        super().check()
        _ = self.requestor_tls

    @property
    def destinations(self) -> dict[str, Destination]:
        """Where the peers are, and with TLS if this side listens with it."""
        return {
            title: Destination(
                host, port, options={"ssl": self.requestor_tls, "server_hostname": self.server_name(host)}
            )
            for title, (host, port) in self.peers
        }


def _peer(text: str) -> tuple[str, tuple[str, int]]:
    title, equals, where = text.partition("=")
    if not equals:
        raise ValueError("TITLE=HOST:PORT is the form of it")
    return check_ae_title(title), split_host_port(where)


TOOL: Final = Tool(
    "qrscp",
    "an archive in a folder (C-STORE, C-FIND, C-MOVE, C-GET), with a worklist and storage commitment",
    ("[OPTION]... PORT", "PORT --folder FOLDER --peer TITLE=HOST:PORT --worklist FOLDER"),
    QrScpOptions,
    (
        LOGGING,
        Group(
            "archive",
            (
                value("--folder -od --output-directory", "folder", "FOLDER", "what it has, and where it stores"),
                Option(
                    ("--peer",),
                    "where this AE title is, for C-MOVE and reports of storage commitment; may be given again",
                    "peers",
                    ("TITLE=HOST:PORT",),
                    read=_peer,
                    effect=Effect.APPEND,
                ),
                value("--worklist", "worklist", "FOLDER", "serve these worklist files; changes count at once"),
                flag("--json", "json", "print the summary as JSON"),
            ),
        ),
        Group("network", LISTENING),
        ACCESS,
        LOOP,
        BOTH_TLS,
    ),
    "Files are as they came, named by SOP Instance UID; an instance that comes again replaces its file. When it starts "
    "it takes up all DICOM files below the folder. Performed procedure steps are kept in 'mpps' there.\n\n"
    "Patient root, study root and patient/study only models, relational where that is negotiated. Every storage SOP "
    "class is accepted, private ones too, in every transfer syntax. With TLS, peers are called over TLS too.\n\n"
    "SIGTERM and SIGINT end it: no association is taken any more, those that run may end; a second one aborts them. "
    "SIGHUP has it read certificates, access policy, passwords and keys of tokens again.\n\n"
    "Exit codes: 0 ended by a signal, 1 wrong command line, 20 the worklist's folder is not there, 40 the audit file "
    "cannot be written, 45 the folder is "
    "not there or cannot be written to, 64 the port cannot be listened on, "
    "66 the access policy, the password file or the tokens' key cannot be used, or what --metrics needs is missing, "
    "71 TLS cannot be set up.",
)


def main(argv: Sequence[str]) -> int:
    """Run the tool; returns its exit code."""
    return run_tool(TOOL, _serve, argv)


async def _serve(options: QrScpOptions, words: list[str]) -> int:
    port = listening_port(words)
    if not options.folder:
        raise UsageError("--folder names where the archive is: what is in it can be asked for by everybody")
    folder = check_folder(options.folder)
    peers = options.destinations
    signals = Signals()
    steps = PerformedProcedureSteps(store=StepFolder(folder / "mpps"))
    async with Archive(folder) as archive, CommitmentProvider(archive.check, resolve=peers) as commitment:
        log.info("%d instances in %s", archive.count, folder)
        services: list[Service] = [*archive.services, steps, commitment]
        if options.worklist:
            services.append(Worklist(_worklist(options.worklist)))
        server = await listen(
            options,
            port,
            **options.acceptance,
            services=services,
            move_destinations=peers,
            c_store=archive.store,
            contexts="verification",
            any_storage=True,
        )
        await run_server(server, options, signals)
    done = server.statistics
    if options.json:
        say(json.dumps(asdict(done)))
    elif not options.quiet:
        say(f"{done.accepted} associations, {done.instances} instances stored, {done.failures} failures")
    return ExitCode.OK


def _worklist(name: str) -> WorklistFolder:
    if not Path(name).is_dir():
        raise ToolError(ExitCode.CANNOT_READ, f"the worklist's folder {name} does not exist", "create it")
    return WorklistFolder(name)
