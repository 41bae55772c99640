"""``asyncdicom storescu``: send files and folders to a peer (C-STORE, PS3.4 annex B).

The files are looked at first, as the presentation contexts have to be proposed before anything is sent. Files that need
more than 128 contexts together go in groups, one after the other. Within a group one or several associations take
files from one queue; no file is ever held in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from asyncdicom.command import Category, Status
from asyncdicom.errors import DicomError
from asyncdicom.instances import split_by_contexts
from asyncdicom.pool import AssociationPool, Backoff
from asyncdicom.presentation import DEFAULT_TRANSFER_SYNTAXES
from asyncdicom.uids import name_of

from .console import log, say, to_stderr
from .exit_codes import ExitCode, Failure, ToolError, explain
from .files import find_files, read_instances
from .options import Group, Tool, UsageError, flag, nothing_to_do, refused, value
from .peer import parse_peer
from .progress import progress
from .shared import LOGGING, LOOP, PEER, RequestorOptions, associate, number, run_tool
from .summary import Problem, Summary
from .syntaxes import PROPOSED, Proposal
from .tls_options import REQUESTOR_TLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncdicom.association import Association
    from asyncdicom.instances import Instance
    from asyncdicom.presentation import Context
    from asyncdicom.sending import SendResult

    from .peer import Peer
    from .progress import Progress

__all__ = ["TOOL", "StoreOptions", "main"]


@dataclass(frozen=True, kw_only=True)
class StoreOptions(RequestorOptions):
    """What storescu's command line sets."""

    recurse: bool = False
    scan: bool = False
    pattern: str | None = None
    rename: bool = False
    halt: bool = True
    associations: int = 1
    decompress: bool = False
    json: bool = False
    uncompressed: tuple[str, ...] = DEFAULT_TRANSFER_SYNTAXES
    also: tuple[str, ...] = ()
    only_required: bool = False
    combine: bool = False

    @property
    def proposal(self) -> Proposal:
        """What to propose for the files."""
        return Proposal(self.uncompressed, self.also, self.only_required, self.combine)


_NO_FILES_WITHOUT_META: Final = "a file needs its file meta information"
_NO_NEW_UIDS: Final = "instances are sent as they are, UIDs are not made up"

TOOL: Final = Tool(
    "storescu",
    "send DICOM files and folders to a peer (C-STORE)",
    (
        "[OPTION]... HOST PORT FILE-OR-FOLDER...",
        "[OPTION]... dicom://CALLING@HOST:PORT/CALLED FILE-OR-FOLDER...",
        "[OPTION]... -c CALLED@HOST:PORT FILE-OR-FOLDER...",
    ),
    StoreOptions,
    (
        LOGGING,
        Group(
            "input",
            (
                nothing_to_do("+sd --scan-directories", "folders are always looked into"),
                value(
                    "+sp --scan-pattern", "pattern", "PATTERN", "of the files in folders only these, such as '*.dcm'"
                ),
                flag("-r --no-recurse", "recurse", "leave out folders in folders (default)", constant=False),
                flag("+r --recurse", "recurse", "take folders in folders too"),
                flag("-rn --no-rename", "rename", "leave files their names (default)", constant=False),
                flag("+rn --rename", "rename", "append .done or .bad to the names of files that were tried"),
                nothing_to_do("+f --read-file", "files are read with their file meta information"),
                nothing_to_do("+fo --read-file-only", "files are read with their file meta information"),
                refused("-f --read-dataset", _NO_FILES_WITHOUT_META),
                flag("--decompress", "decompress", "decompress what the peer does not accept compressed"),
                nothing_to_do("+u --enable-new-vr", "data sets are sent as they are"),
                refused("-u --disable-new-vr", "data sets are sent as they are"),
                refused("+cl --compression-level", "data sets are sent as they are", "LEVEL"),
                nothing_to_do("-up --uid-padding", "padding of UIDs is always taken off"),
                refused("+II --invent-instance", _NO_NEW_UIDS),
                refused("+IR --invent-series", _NO_NEW_UIDS, "NUMBER"),
                refused("+IS --invent-study", _NO_NEW_UIDS, "NUMBER"),
                refused("+IP --invent-patient", _NO_NEW_UIDS, "NUMBER"),
            ),
        ),
        Group(
            "sending",
            (
                value("--associations", "associations", "NUMBER", "send over so many associations", number(1, 1000)),
                flag("--halt", "halt", "end at the first failure (default)"),
                flag("-nh --no-halt", "halt", "go on after failures; the exit code tells of the first", constant=False),
                flag("--json", "json", "print the summary as a JSON object"),
            ),
        ),
        PEER,
        PROPOSED,
        Group(
            "association profiles",
            (refused("-xf --config-file", "association configuration files are not read", "FILE", "PROFILE"),),
        ),
        LOOP,
        REQUESTOR_TLS,
    ),
    "Options may stand anywhere on the command line. A file goes in the transfer syntax that it is in, if the peer "
    "takes that; uncompressed files are converted to another uncompressed one otherwise. Files in folders that are no "
    "instances are skipped; one that the command line names ends it before anything is sent, unless -nh is given.\n\n"
    "Exit codes: 0 everything was sent, 1 wrong command line, 20 cannot read a file, 21 no file, 22 a file that is no "
    "instance, 23 no instance among the files, 60 no connection, 61 rejected, 62 a failure status, 65 a presentation "
    "context that was not accepted, 70 aborted, lost or timed out, "
    "71 TLS failed.",
)


def main(argv: Sequence[str]) -> int:
    """Run the tool; returns its exit code."""
    return run_tool(TOOL, _store, argv)


async def _store(options: StoreOptions, words: list[str]) -> int:
    peer, paths = parse_peer(words, options.connect)
    if not paths:
        raise UsageError("no file or folder to send is named")
    options.user_identity()
    summary = Summary()
    start = time.perf_counter()
    instances = _look(paths, options, summary)
    size = sum(instance.length for instance in instances) * options.repeat
    try:
        if instances:
            lines_only = options.verbose or options.json
            shown = progress(len(instances) * options.repeat, size, quiet=options.quiet, lines_only=lines_only)
            with shown as bar:
                await _Sender(peer, options, summary, bar).send(instances)
    except asyncio.CancelledError:  # what was sent was sent
        summary.fail(Failure(ExitCode.INTERRUPTED, "interrupted"))
        summary.not_sent = max(0, len(instances) - summary.sent - len(summary.failed))
        raise
    finally:
        summary.seconds = time.perf_counter() - start
        _report(options, summary)
    return summary.exit_code


def _look(paths: list[str], options: StoreOptions, summary: Summary) -> list[Instance]:
    """The instances to send; none if the files do not allow to begin."""
    found = list(find_files(paths, recurse=options.recurse, pattern=options.pattern))
    if not found:
        summary.fail(Failure(ExitCode.NO_INPUT, "there is no file to send", "+r looks into folders in folders"))
    instances, summary.skipped, failure = read_instances(found)
    if found and not instances:
        code = failure.code if failure and len(found) == 1 else ExitCode.NO_VALID_INPUT
        summary.fail(Failure(code, "no file is an instance that could be sent"))
    elif failure:
        summary.fail(failure)
        if options.halt:
            summary.not_sent = len(instances)
            return []
    return instances


def _report(options: StoreOptions, summary: Summary) -> None:
    problems = summary.problems()
    if options.json:
        say(summary.json())
    elif not options.quiet:
        to_stderr(*problems)
        say(summary.text())
    if summary.failure and not options.quiet:
        message = summary.failure.message
        told = not options.json and any(line.endswith(message) for line in problems)
        to_stderr("" if told else f"asyncdicom storescu: {message}", summary.failure.hint)


class _Pool(AssociationPool):
    """Associations as the command line wants them; each is tried once."""

    def __init__(self, peer: Peer, options: StoreOptions, summary: Summary, contexts: list[Context], most: int) -> None:
        super().__init__(
            peer.host,
            peer.port,
            contexts=contexts,
            max_associations=min(options.associations, most),
            idle_timeout=options.idle_timeout,
            acquire_timeout=math.inf,  # each step of it has its bound
            backoff=Backoff(attempts=1, first=0.0),
            timeouts=options.timeouts,
        )
        self._peer = peer
        self._tool_options = options
        self._summary = summary

    async def _connect(self, contexts: list[Context]) -> Association:
        association = await associate(self._peer, self._tool_options, "STORESCU", contexts)
        self._summary.associations += 1
        return association


class _Sender:
    """Sends instances to a peer, over one or several associations."""

    def __init__(self, peer: Peer, options: StoreOptions, summary: Summary, bar: Progress) -> None:
        self._peer = peer
        self._options = options
        self._summary = summary
        self._bar = bar
        self._halted = False
        self._tried: dict[str, list[bool]] = {}
        """What came of each file, as long as it is to be sent again."""

    async def send(self, instances: list[Instance]) -> None:
        """Send them; what comes of it is in the summary."""
        proposal = self._options.proposal
        groups = split_by_contexts(instances, only_required=proposal.only_required, limit=proposal.limit)
        for group in groups:
            left = len(group) * self._options.repeat
            if not self._halted:
                left -= await self._send_group(group, proposal.contexts(group))
            self._summary.not_sent += left

    async def _send_group(self, group: list[Instance], contexts: list[Context]) -> int:
        """Send what fits on one association; returns how many were tried."""
        options = self._options
        again = (instance for instance in group for _ in range(options.repeat))
        tried = 0
        async with _Pool(self._peer, options, self._summary, contexts, len(group) * options.repeat) as pool:
            results = pool.send(again, decompress=options.decompress, halt=options.halt)
            try:
                async with contextlib.aclosing(results):
                    async for result in results:
                        tried += 1
                        self._note(result)
            except (ToolError, DicomError) as error:  # no association, and none left
                self._summary.fail(explain(error))
                self._halted = True
            if options.abort:
                await pool.terminate()
        return tried

    def _note(self, result: SendResult) -> None:
        instance, options = cast("Instance", result.instance), self._options
        status = result.status
        if status is None:
            code, reason, hint = explain(cast(Exception, result.error))
            self._fail(_problem(instance, reason), Failure(code, f"{instance.path}: {reason}", hint))
        else:
            self._bar.advance(instance.length)
            said = f"the peer answered {status}" if status else ""
            if status.is_failure:
                self._fail(_problem(instance, said, status), Failure(ExitCode.SEND, f"{instance.path}: {said}"))
            else:
                self._summary.sent += 1
                self._summary.bytes += instance.length
                if status.category is Category.WARNING:
                    self._summary.warnings.append(_problem(instance, said, status))
                if options.verbose:
                    what = name_of(instance.sop_class_uid)
                    log.info("sent %s (%s, %d bytes): %s", instance.path, what, instance.length, status)
        if options.rename:
            self._rename(instance.path, done=result.is_success)

    def _fail(self, problem: Problem, failure: Failure) -> None:
        self._summary.failed.append(problem)
        self._summary.fail(failure)
        self._halted = self._halted or self._options.halt

    def _rename(self, path: str, *, done: bool) -> None:
        """Rename a file that has been tried as often as it is to be."""
        tried = self._tried.setdefault(path, [])
        tried.append(done)
        if len(tried) == self._options.repeat or self._halted:
            del self._tried[path]
            _rename(path, ".done" if all(tried) else ".bad")


def _problem(instance: Instance, reason: str, status: Status | None = None) -> Problem:
    code = "" if status is None else f"{int(status):04X}"
    return Problem(instance.path, reason, code, instance.sop_instance_uid)


def _rename(path: str, suffix: str) -> None:
    try:
        Path(path).rename(path + suffix)
    except OSError as error:
        log.warning("%s cannot be renamed: %s", path, error.strerror)
