"""``asyncdicom movescu``: have a peer send instances to somebody, or to this tool itself (C-MOVE, PS3.4 C.4.2)."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asyncdicom.pdu import check_ae_title
from asyncdicom.presentation import STORAGE_TRANSFER_SYNTAXES, Context
from asyncdicom.server import storage_contexts
from asyncdicom.uids import VERIFICATION

from .exit_codes import ExitCode
from .options import Group, Tool, UsageError, flag, nothing_to_do, refused, value
from .peer import parse_peer
from .query import JSON, KEYS, MODELS, QueryOptions, cancel, identifiers, sop_class
from .receiving import AS_RECEIVED_IN_FULL, FILES, Files, FilesOptions
from .retrieving import Receiver, RetrieveSummary, retrieve
from .serving import DRAIN, listen
from .shared import LOGGING, LOOP, PEER, associate, number, run_tool
from .syntaxes import PROPOSED_FOR_QUERIES, RECEIVED
from .tls_options import BOTH_TLS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asyncdicom.association import Association
    from asyncdicom.operations import Responses

__all__ = ["TOOL", "MoveOptions", "main"]


@dataclass(frozen=True, kw_only=True)
class MoveOptions(FilesOptions, QueryOptions):
    """What movescu's command line sets."""

    destination: str = ""
    port: int = 0
    accepted: tuple[str, ...] = ()


TOOL: Final = Tool(
    "movescu",
    "have a peer send instances to another, or to this tool (C-MOVE)",
    (
        "[OPTION]... -aem DESTINATION -k KEY... HOST PORT [QUERY-FILE]...",
        "[OPTION]... --port OWN-PORT -k KEY... HOST PORT [QUERY-FILE]...",
        "[OPTION]... -k KEY... dicom://CALLING@HOST:PORT/CALLED [QUERY-FILE]...",
        "[OPTION]... -k KEY... -c CALLED@HOST:PORT [QUERY-FILE]...",
    ),
    MoveOptions,
    (
        LOGGING,
        Group(
            "query (without -P, -S or -O: -P)",
            (
                *KEYS,
                *MODELS,
                value(
                    "-aem --move --dest",
                    "destination",
                    "TITLE",
                    "the AE title that the peer is to send to (default: the own one, -aet)",
                    check_ae_title,
                ),
                cancel("pending responses"),
                JSON,
                nothing_to_do("-pi --pending-ignore", "a data set of a pending response is read and dropped"),
                nothing_to_do("-pr --pending-read", "a data set of a pending response is read and dropped"),
            ),
        ),
        Group(
            "receiving",
            (
                value("+P --port", "port", "NUMBER", "listen on this port, and receive there", number(1, 65535)),
                flag("--no-port", "port", "receive nothing (default)", 0),
                *FILES,
                *RECEIVED,
                *AS_RECEIVED_IN_FULL,
                nothing_to_do("-dhl --disable-host-lookup", "names are never looked up"),
                nothing_to_do("-up --uid-padding", "padding of UIDs is always taken off"),
                nothing_to_do("-ac --access-full", "every host may connect"),
                refused("+ac --access-control", "use the firewall, or TLS with certificates"),
            ),
        ),
        PEER,
        Group("transfer syntaxes of identifiers", PROPOSED_FOR_QUERIES),
        LOOP,
        BOTH_TLS,
    ),
    "What is sent is what the keys name, such as one study: -S -L STUDY -k StudyInstanceUID=1.2.3. The peer must know "
    "where the destination listens. With --port that is here, from before the request until its end: instances are "
    "written as they come.\n\n"
    "Exit codes: 0 all was sent, 1 wrong command line, 45 the folder is not there or cannot be written to, 60 no "
    "connection, 61 rejected, 64 the port cannot be listened on, 65 the information model was not accepted, "
    "68 something was not sent, 69 a failure status, 70 aborted, lost or timed out, "
    "71 TLS failed.",
)


def main(argv: Sequence[str]) -> int:
    """Run the tool; returns its exit code."""
    return run_tool(TOOL, _move, argv)


async def _move(options: MoveOptions, words: list[str]) -> int:
    peer, paths = parse_peer(words, options.connect)
    queries = identifiers(options, paths) * options.repeat
    model = sop_class(options, "move")
    summary = RetrieveSummary()
    async with AsyncExitStack() as stack:
        if options.port:
            receiver = Receiver(Files(options), summary, verbose=options.verbose)
            server = await listen(
                options,
                options.port,
                c_store=receiver.store,
                contexts=[VERIFICATION, *storage_contexts(options.accepted or STORAGE_TRANSFER_SYNTAXES)],
                prefer_own_syntax=bool(options.accepted),
            )
            stack.push_async_callback(server.close, DRAIN)
        elif options.folder != MoveOptions.folder:
            raise UsageError("files are written with --port only: otherwise somebody else receives them")

        def begin(association: Association) -> Iterator[Responses]:
            destination = options.destination or association.calling_ae_title
            return (association.c_move(query, destination=destination, model=model) for query in queries)

        associating = associate(peer, options, "MOVESCU", [Context(model, options.uncompressed)])
        await retrieve(associating, begin, options, summary)
    return ExitCode.OK
