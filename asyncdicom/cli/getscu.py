"""``asyncdicom getscu``: retrieve instances on the association that asks for them (C-GET, PS3.4 C.4.3).

The storage SOP classes have to be proposed before it is known which will come, and an association has room for 127 of
the 200 or so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asyncdicom.errors import LocalProtocolError
from asyncdicom.presentation import DEFAULT_TRANSFER_SYNTAXES, MAX_CONTEXTS, STORAGE_TRANSFER_SYNTAXES, Context
from asyncdicom.services.query_retrieve import USUAL_STORAGE, retrieval_contexts
from asyncdicom.uids import uids_of

from .exit_codes import ExitCode
from .options import Effect, Group, Option, Tool, UsageError
from .peer import parse_peer
from .query import JSON, KEYS, MODELS, QueryOptions, cancel, identifiers, sop_class
from .receiving import AS_RECEIVED, FILES, Files, FilesOptions
from .retrieving import Receiver, RetrieveSummary, retrieve
from .shared import LOGGING, LOOP, PEER, associate, run_tool
from .syntaxes import PROPOSED_FOR_QUERIES, RECEIVED
from .tls_options import REQUESTOR_TLS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asyncdicom.association import Association
    from asyncdicom.operations import Responses

__all__ = ["TOOL", "GetOptions", "main", "proposed_contexts"]


@dataclass(frozen=True, kw_only=True)
class GetOptions(FilesOptions, QueryOptions):
    """What getscu's command line sets."""

    accepted: tuple[str, ...] = DEFAULT_TRANSFER_SYNTAXES
    sop_classes: tuple[tuple[str, ...], ...] = ()


def _sop_class(text: str) -> tuple[str, ...]:
    try:
        return uids_of(text)
    except LocalProtocolError as error:
        raise ValueError(str(error)) from None


TOOL: Final = Tool(
    "getscu",
    "retrieve instances on the association that asks for them (C-GET)",
    (
        "[OPTION]... -k KEY... HOST PORT [QUERY-FILE]...",
        "[OPTION]... -k KEY... dicom://CALLING@HOST:PORT/CALLED [QUERY-FILE]...",
        "[OPTION]... -k KEY... -c CALLED@HOST:PORT [QUERY-FILE]...",
    ),
    GetOptions,
    (
        LOGGING,
        Group("query (without -P, -S or -O: -P)", (*KEYS, *MODELS, cancel("pending responses"), JSON)),
        Group("files", (*FILES, *AS_RECEIVED)),
        Group(
            "storage",
            (
                Option(
                    ("--sop-class",),
                    "propose this SOP class (a name, a keyword or a UID), and no other that is not named so",
                    "sop_classes",
                    ("SOP-CLASS",),
                    read=_sop_class,
                    effect=Effect.APPEND,
                ),
                *RECEIVED,
            ),
        ),
        PEER,
        Group("transfer syntaxes of identifiers", PROPOSED_FOR_QUERIES),
        LOOP,
        REQUESTOR_TLS,
    ),
    "What is retrieved is what the keys name, such as one study: -S -L STUDY -k StudyInstanceUID=1.2.3. Instances are "
    "written as they come. Without --sop-class the 127 usual storage SOP classes are proposed in explicit and implicit "
    "VR little endian, or what is preferred. With it, as far as there is room, each transfer syntax is proposed in a "
    "context of its own, so that the peer can send every instance as it has it: --sop-class CTImageStorage +xa.\n\n"
    "Exit codes: 0 all was retrieved, 1 wrong command line, 45 the folder is not there or cannot be written to, "
    "60 no connection, 61 rejected, 65 the information model was not accepted, 68 something was not retrieved, "
    "69 a failure status, 70 aborted, lost or timed out, "
    "71 TLS failed.",
)


def main(argv: Sequence[str]) -> int:
    """Run the tool; returns its exit code."""
    return run_tool(TOOL, _get, argv)


async def _get(options: GetOptions, words: list[str]) -> int:
    peer, paths = parse_peer(words, options.connect)
    queries = identifiers(options, paths) * options.repeat
    model = sop_class(options, "get")
    contexts = [Context(model, options.uncompressed), *proposed_contexts(options)]
    summary = RetrieveSummary()
    receiver = Receiver(Files(options), summary, verbose=options.verbose)

    def begin(association: Association) -> Iterator[Responses]:
        return (association.c_get(query, model=model) for query in queries)

    await retrieve(associate(peer, options, "GETSCU", contexts, receiver.store), begin, options, summary)
    return ExitCode.OK


def proposed_contexts(options: GetOptions) -> list[Context]:
    """The storage contexts to propose, in which this side is the SCP. Raises UsageError for too many SOP classes."""
    named = dict.fromkeys(uid for uids in options.sop_classes for uid in uids)
    most = MAX_CONTEXTS - 1
    if len(named) > most:
        raise UsageError(f"--sop-class names {len(named)} SOP classes, and an association has room for {most}")
    syntaxes = options.accepted or STORAGE_TRANSFER_SYNTAXES
    if named and len(named) * len(syntaxes) <= most:
        return [each for syntax in syntaxes for each in retrieval_contexts(named, (syntax,))]
    return retrieval_contexts(named or USUAL_STORAGE, syntaxes)
