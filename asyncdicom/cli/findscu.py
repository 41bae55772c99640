"""``asyncdicom findscu``: look up what a peer has, or is to do (C-FIND, PS3.4 annexes C and K)."""

from __future__ import annotations

import warnings
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asyncdicom.errors import DataSetError
from asyncdicom.presentation import Context

from .console import log, to_stderr
from .exit_codes import ExitCode, ToolError
from .options import Group, Tool, flag, nothing_to_do, refused, value
from .peer import parse_peer
from .query import KEYS, MODELS, WORKLIST, QueryOptions, cancel, identifiers, sop_class
from .receiving import check_folder
from .results import Extraction, results
from .shared import LOGGING, LOOP, PEER, TLS, associate, finish, number, run_tool
from .syntaxes import PROPOSED_FOR_QUERIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom import Dataset

    from asyncdicom.association import Association
    from asyncdicom.command import Status
    from asyncdicom.operations import Response

    from .results import Results

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
        TLS,
    ),
    "Matches come as they are found: in a table with a column per key on a terminal, otherwise as lines of KEY=VALUE "
    "with an empty line after each match. What is said of them goes to stderr. Several query files are several "
    "queries; -k sets keys in each.\n\n"
    "Exit codes: 0 it was looked up, 1 wrong command line, 40 and 45 files cannot be written, 60 no connection, "
    "61 rejected, 62 a failure status, 65 the information model was not accepted, 70 aborted, lost or timed out.",
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
    status = None
    try:
        for query in queries * options.repeat:
            status = await _look_up(association, query, model, options, extraction)
            if status is not None and not status.is_success:
                break
    except BaseException:
        await association.abort()
        raise
    await finish(association, abort=options.abort)
    if status is not None and not status.is_success:
        raise ToolError(ExitCode.SEND, f"{association.called_ae_title} answered {status}")
    return ExitCode.OK


async def _look_up(
    association: Association, query: Dataset, model: str, options: FindOptions, extraction: Extraction | None
) -> Status | None:
    """Show what one identifier matches; returns the final status, None if it was cancelled."""
    shown = results(query, as_json=options.json, hidden=options.hidden or options.quiet)
    count = 0
    ignored = is_cancelled = False
    responses = association.c_find(query, model=model)
    async with aclosing(responses):
        try:
            async for response in responses:
                count += 1
                ignored = ignored or response.status == _KEYS_NOT_SUPPORTED
                if extraction is not None:
                    extraction.add(response.data, response.context.transfer_syntax)
                _show(response, count, shown)
                if is_cancelled := count == options.cancel:
                    break
        finally:
            shown.end()
    if ignored:
        log.warning("%s does not match on all of the keys: there may be too many matches", association.called_ae_title)
    if not options.quiet:
        cancelled = ", and then cancelled" if is_cancelled else ""
        to_stderr(f"{count} match{'es' if count != 1 else ''}{cancelled}")
    return None if is_cancelled else responses.status


def _show(response: Response, number: int, shown: Results) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, about values that are the peer's
        try:
            if match := response.data_set:
                shown.add(match)
        except DataSetError as error:
            log.warning("match %d cannot be decoded: %s", number, error)


_KEYS_NOT_SUPPORTED: Final = 0xFF01
"""Matches go on, and optional keys are not supported as they are for required ones (PS3.4 Table C.4-1)."""
