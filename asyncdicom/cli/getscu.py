"""``asyncdicom getscu``: retrieve instances on the association that asks for them (C-GET, PS3.4 C.4.3).

The storage SOP classes have to be proposed before it is known which will come, and an association has room for 127 of
the 200 or so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asyncdicom.errors import LocalProtocolError
from asyncdicom.presentation import DEFAULT_TRANSFER_SYNTAXES, MAX_CONTEXTS, STORAGE_TRANSFER_SYNTAXES, Context
from asyncdicom.uids import uids_of

from .exit_codes import ExitCode
from .options import Effect, Group, Option, Tool, UsageError
from .peer import parse_peer
from .query import JSON, KEYS, MODELS, QueryOptions, cancel, identifiers, sop_class
from .receiving import AS_RECEIVED, FILES, Files, FilesOptions
from .retrieving import Receiver, RetrieveSummary, retrieve
from .shared import LOGGING, LOOP, PEER, TLS, associate, run_tool
from .syntaxes import PROPOSED_FOR_QUERIES, RECEIVED

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


_USUAL: Final = """
    1 1.1 1.1.1 1.2 1.2.1 1.3 1.3.1 2 2.1 2.2 3 3.1 4 4.1 4.2 4.3 4.4 5 6 6.1 6.2 7 7.1 7.2 7.3 7.4
    9.1.1 9.1.2 9.1.3 9.1.4 9.2.1 9.3.1 9.4.1 9.4.2 9.5.1 9.6.1
    11.1 11.2 11.3 11.4 11.5 11.8 12.1 12.1.1 12.2 12.2.1 12.3 13.1.1 13.1.2 13.1.3 13.1.4 13.1.5 14.1 14.2
    20 30 40 66 66.1 66.2 66.3 66.4 66.5 66.6 67 68.1 68.2
    77.1.1 77.1.1.1 77.1.2 77.1.2.1 77.1.3 77.1.4 77.1.4.1 77.1.5.1 77.1.5.2 77.1.5.3 77.1.5.4 77.1.5.7 77.1.6 77.1.7
    78.1 78.2 78.3 78.4 78.5 78.6 78.7 78.8 79.1 80.1 81.1 82.1
    88.11 88.22 88.33 88.34 88.35 88.40 88.50 88.59 88.65 88.67 88.68 88.69 88.70 88.71 88.72 88.73 88.76 91.1
    104.1 104.2 104.3 128 128.1 130 131
    481.1 481.2 481.3 481.4 481.5 481.6 481.7 481.8 481.9
"""
"""The storage SOP classes that archives hold, in the order of their UIDs below 1.2.840.10008.5.1.4.1.1: left out are
those of security, of material testing, of protocols, RT's second generation, and most that are retired."""


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
        TLS,
    ),
    "What is retrieved is what the keys name, such as one study: -S -L STUDY -k StudyInstanceUID=1.2.3. Instances are "
    "written as they come. Without --sop-class the 127 usual storage SOP classes are proposed in explicit and implicit "
    "VR little endian, or what is preferred. With it, as far as there is room, each transfer syntax is proposed in a "
    "context of its own, so that the peer can send every instance as it has it: --sop-class CTImageStorage +xa.\n\n"
    "Exit codes: 0 all was retrieved, 1 wrong command line, 45 the folder is not there or cannot be written to, "
    "60 no connection, 61 rejected, 65 the information model was not accepted, 68 something was not retrieved, "
    "69 a failure status, 70 aborted, lost or timed out.",
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
    usual = (f"1.2.840.10008.5.1.4.1.1.{each}" for each in _USUAL.split())
    named = dict.fromkeys(uid for uids in options.sop_classes for uid in uids)
    classes = list(named or usual)
    most = MAX_CONTEXTS - 1
    if len(classes) > most:
        raise UsageError(f"--sop-class names {len(classes)} SOP classes, and an association has room for {most}")
    syntaxes = options.accepted or STORAGE_TRANSFER_SYNTAXES
    has_room = bool(named) and len(classes) * len(syntaxes) <= most
    offers = [(syntax,) for syntax in syntaxes] if has_room else [syntaxes]
    return [Context(uid, offer, scu=False, scp=True) for uid in classes for offer in offers]
