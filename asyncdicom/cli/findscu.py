"""``asyncdicom findscu``: look up what a peer has, or is to do (C-FIND, PS3.4 annexes C and K)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asyncdicom.presentation import Context

from .exit_codes import ExitCode
from .finding import find
from .options import Group, Tool, flag, nothing_to_do, refused, value
from .peer import parse_peer
from .query import KEYS, MODELS, WORKLIST, QueryOptions, cancel, identifiers, sop_class
from .receiving import check_folder
from .results import Extraction, results
from .shared import LOGGING, LOOP, PEER, associate, number, run_tool
from .syntaxes import PROPOSED_FOR_QUERIES
from .tls_options import REQUESTOR_TLS

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["TOOL", "FindOptions", "main"]


@dataclass(frozen=True, kw_only=True)
class FindOptions(QueryOptions):
    """What findscu's command line sets."""

    model: str = "worklist"
    folder: str = "."
    extract: bool = False
    limit: int = 0
    hidden: bool = False


_NO_XML: Final = "use --json (the DICOM JSON model), or -X"

TOOL: Final = Tool(
    "findscu",
    "look up what a peer has, or is to do (C-FIND)",
    (
        "[OPTION]... -k KEY... HOST PORT [QUERY-FILE]...",
        "[OPTION]... -k KEY... dicom://CALLING@HOST:PORT/CALLED [QUERY-FILE]...",
        "[OPTION]... -k KEY... -c CALLED@HOST:PORT [QUERY-FILE]...",
    ),
    FindOptions,
    (
        LOGGING,
        Group(
            "query (without -W, -P, -S or -O: -W)",
            (
                *KEYS,
                WORKLIST,
                *MODELS,
                cancel("matches"),
                nothing_to_do("+u --enable-new-vr", "VRs are those of the data dictionary"),
                refused("-u --disable-new-vr", "VRs are those of the data dictionary"),
                refused("+cl --compression-level", "identifiers are too small for that to count", "LEVEL"),
            ),
        ),
        Group(
            "output",
            (
                flag("--json", "json", "print a JSON object per match, in a line (the DICOM JSON model, PS3.18 F)"),
                flag("+sr --show-responses", "hidden", "print the matches (default)", constant=False),
                flag("-sr --hide-responses", "hidden", "do not print the matches"),
                flag("-X --extract", "extract", "write the matches to DICOM files rsp0001.dcm, rsp0002.dcm, ..."),
                value("-od --output-directory", "folder", "FOLDER", "write them into this folder"),
                value(
                    "-Xlo --limit-output", "limit", "NUMBER", "write at most so many files", number(1, 1_000_000_000)
                ),
                refused("-Xx --extract-xml", _NO_XML),
                refused("-Xs --extract-xml-single", _NO_XML, "FILE"),
                nothing_to_do("-dc --disable-correction", "matches are shown and written as they come"),
                refused("+dc --enable-correction", "matches are shown and written as they come"),
            ),
        ),
        PEER,
        Group("transfer syntaxes", PROPOSED_FOR_QUERIES),
        LOOP,
        REQUESTOR_TLS,
    ),
    "Matches come as they are found: in a table with a column per key on a terminal, otherwise as lines of KEY=VALUE "
    "with an empty line after each match. What is said of them goes to stderr. Several query files are several "
    "queries; -k sets keys in each.\n\n"
    "Exit codes: 0 it was looked up, 1 wrong command line, 40 and 45 files cannot be written, 60 no connection, "
    "61 rejected, 62 a failure status, 65 the information model was not accepted, 70 aborted, lost or timed out, "
    "71 TLS failed.",
)


def main(argv: Sequence[str]) -> int:
    """Run the tool; returns its exit code."""
    return run_tool(TOOL, _find, argv)


async def _find(options: FindOptions, words: list[str]) -> int:
    peer, paths = parse_peer(words, options.connect)
    queries = identifiers(options, paths)
    model = sop_class(options, "find")
    extraction = Extraction(check_folder(options.folder), model, options.limit) if options.extract else None
    association = await associate(peer, options, "FINDSCU", [Context(model, options.uncompressed)])
    hidden = options.hidden or options.quiet
    begun = (
        (association.c_find(query, model=model), results(query, as_json=options.json, hidden=hidden))
        for query in queries * options.repeat
    )
    await find(association, begun, options, limit=options.cancel, extraction=extraction)
    return ExitCode.OK
