"""What getscu and movescu have in common: going through a retrieval, its counters, and what came of it."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from asyncdicom.command import Category, Status
from asyncdicom.errors import DataSetError
from asyncdicom.uids import name_of

from .console import log, say, to_stderr
from .exit_codes import ExitCode, Failure, ToolError, explain
from .progress import counting
from .shared import finish
from .summary import Outcome, megabytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncdicom.association import Association
    from asyncdicom.operations import Response, Responses
    from asyncdicom.requests import CStoreRequest

    from .progress import Counting
    from .query import QueryOptions
    from .receiving import Files

__all__ = ["Receiver", "RetrieveSummary", "retrieve"]


@dataclass(slots=True)
class RetrieveSummary(Outcome):
    """What a run of getscu or movescu did; of several retrievals the sums."""

    completed: int = 0
    """Sub-operations that the peer has done."""
    warning: int = 0
    """Of the others, those that it has done with a warning."""
    failed: int = 0
    failed_instances: list[str] = field(default_factory=list)
    """SOP Instance UIDs that it names as failed; it need not name all."""
    remaining: int = 0
    """Sub-operations that were left when it was cancelled."""
    received: int = 0
    """Instances that have come here."""
    is_cancelled: bool = False
    status: Status | None = None
    """Of the last retrieval; None while it has no end."""

    def text(self) -> str:
        """In one line."""
        parts = [f"{self.completed} completed"]
        for count, words in (
            (self.warning, "with warning"),
            (self.failed, "failed"),
            (self.remaining, "left when it was cancelled" if self.is_cancelled else "left"),
        ):
            if count:
                parts.append(f"{count} {words}")
        here = f"; {self.received} received, {megabytes(self.bytes)}" if self.received else ""
        return f"{', '.join(parts)}{here} in {self.seconds:.2f} s"

    def json(self) -> str:
        """As one JSON object."""
        return json.dumps(
            {
                "completed": self.completed,
                "warning": self.warning,
                "failed": self.failed,
                "failed_sop_instance_uids": self.failed_instances,
                "remaining": self.remaining,
                "received": self.received,
                "bytes": self.bytes,
                "seconds": round(self.seconds, 6),
                "cancelled": self.is_cancelled,
                "status": None if self.status is None else f"{int(self.status):04X}",
                "error": self.failure.message if self.failure else None,
                "exit_code": int(self.exit_code),
            }
        )


class Receiver:
    """Takes the instances that come, and counts them."""

    def __init__(self, files: Files, summary: RetrieveSummary, *, verbose: bool) -> None:
        self._files = files
        self._summary = summary
        self._verbose = verbose

    async def store(self, request: CStoreRequest) -> Status:
        """The C-STORE handler."""
        path = await self._files.save(request)
        self._summary.received += 1
        self._summary.bytes += request.data_set.received
        if self._verbose:
            where = f" -> {path}" if path else ", ignored"
            what = name_of(request.sop_class_uid)
            log.info("%s %s, %d bytes%s", what, request.sop_instance_uid, request.data_set.received, where)
        return Status.SUCCESS


async def retrieve(
    association: Association, retrievals: Iterable[Responses], options: QueryOptions, summary: RetrieveSummary
) -> None:
    """Go through retrievals, one after the other, end the association, and say what came of it.

    The first failure status is the end. Raises ToolError when not all was retrieved.
    """
    start = time.perf_counter()
    try:
        with counting(quiet=options.quiet, lines_only=options.verbose or options.json) as shown:
            for responses in retrievals:
                await _go_through(responses, options, summary, association.called_ae_title, shown)
                if summary.failure and summary.failure.code is ExitCode.RETRIEVE_FAILED:
                    break
    except BaseException as error:
        is_interrupted = isinstance(error, asyncio.CancelledError)
        summary.fail(Failure(ExitCode.INTERRUPTED, "interrupted") if is_interrupted else explain(error))
        await association.abort()
        raise
    finally:
        summary.seconds = time.perf_counter() - start
        _report(options, summary)
    await finish(association, abort=options.abort)
    if summary.failure:
        raise ToolError(*summary.failure)


async def _go_through(
    responses: Responses, options: QueryOptions, summary: RetrieveSummary, peer: str, shown: Counting
) -> None:
    before = _done(summary)
    last = None
    count = 0
    is_left = False
    try:
        async with responses:
            async for last in responses:
                count += 1
                shown.update(before + _done(last), _total(before, last), summary.bytes)
                if is_left := count == options.cancel:
                    break
    except BaseException:
        _add(summary, last)
        raise
    _note(summary, responses.final, last, peer, is_left=is_left)


def _done(counted: Response | RetrieveSummary) -> int:
    return (counted.completed or 0) + (counted.warning or 0) + (counted.failed or 0)


def _total(before: int, response: Response) -> int | None:
    return None if response.remaining is None else before + _done(response) + response.remaining


def _note(summary: RetrieveSummary, final: Response | None, last: Response | None, peer: str, *, is_left: bool) -> None:
    """Add what a retrieval has come to, which may have been left before its end: with what is known then."""
    # What was cancelled may end without counters, but has had some.
    _add(summary, last if final is None or (final.completed is None and last is not None) else final)
    if final is not None:
        summary.status = final.status
        summary.failed_instances += _failed_instances(final)
    if final is None or (is_left and final.status.category is Category.CANCEL):
        summary.is_cancelled = True
    elif final.status.category in (Category.SUCCESS, Category.WARNING):
        if final.failed or final.status:  # success with failures has been seen
            summary.fail(
                Failure(ExitCode.RETRIEVE_WARNING, f"{peer} answered {final.status}, {final.failed or 0} failed")
            )
    elif not (summary.is_cancelled and final.status.category is Category.CANCEL):
        summary.fail(Failure(ExitCode.RETRIEVE_FAILED, f"{peer} answered {final.status}", _HINTS.get(final.status, "")))


def _add(summary: RetrieveSummary, counted: Response | None) -> None:
    """Add the counters of a response, if there was one."""
    if counted is not None:
        summary.completed += counted.completed or 0
        summary.warning += counted.warning or 0
        summary.failed += counted.failed or 0
        summary.remaining += counted.remaining or 0


def _failed_instances(final: Response) -> list[str]:
    """The Failed SOP Instance UID List (0008,0058) of PS3.4 C.4.2.1.4.2."""
    try:
        data_set = final.data_set
    except DataSetError as error:
        log.warning("the list of failed instances cannot be decoded: %s", error)
        return []
    value = data_set.get("FailedSOPInstanceUIDList") if data_set else None
    return [] if not value else [str(value)] if isinstance(value, str) else list(map(str, value))


_HINTS: Final[dict[int, str]] = {
    0xA801: "the peer has to know the AE title of the destination (-aem), and where that listens",
    0xA702: "the peer could not send anything: does the destination accept what it has?",
}
"""By status (PS3.4 Table C.4-2)."""


def _report(options: QueryOptions, summary: RetrieveSummary) -> None:
    if options.json:
        say(summary.json())
    elif not options.quiet:
        to_stderr(*(f"failed {uid}" for uid in summary.failed_instances))
        say(summary.text())
