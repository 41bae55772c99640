"""What the tools have in common that query: going through the matches of a C-FIND, and what came of it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Final

from asyncdicom.command import Category, Status
from asyncdicom.errors import DataSetError

from .console import log, to_stderr
from .exit_codes import ExitCode, ToolError
from .shared import finish

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydicom import Dataset

    from asyncdicom.association import Association
    from asyncdicom.operations import Response, Responses

    from .results import Extraction, Results
    from .shared import RequestorOptions

__all__ = ["find", "go_through"]


async def find(
    association: Association,
    queries: Iterable[tuple[Responses, Results]],
    options: RequestorOptions,
    *,
    limit: int = 0,
    extraction: Extraction | None = None,
) -> None:
    """Go through queries, one after the other, each with what shows its matches, and end the association.

    The first failure status is the end, and raises ToolError. The rest is as for :func:`go_through`.
    """
    status = None
    try:
        for responses, shown in queries:
            status = await go_through(responses, shown, quiet=options.quiet, limit=limit, extraction=extraction)
            if status is not None and not status.is_success:
                break
    except BaseException:
        await association.abort()
        raise
    await finish(association, abort=options.abort)
    if status is not None and not status.is_success:
        raise ToolError(ExitCode.SEND, f"{association.called_ae_title} answered {status}")


async def go_through(
    responses: Responses,
    shown: Results,
    *,
    quiet: bool = False,
    limit: int = 0,
    extraction: Extraction | None = None,
) -> Status | None:
    """Show the matches of a query, and write them, as they come; returns the final status.

    After ``limit`` matches it is cancelled (0: never); None is returned if that was in time.
    """
    count = 0
    ignored = is_left = False
    async with responses:
        try:
            async for response in responses:
                count += 1
                ignored = ignored or response.status == _KEYS_NOT_SUPPORTED
                if extraction is not None:
                    extraction.add(response.data, response.context.transfer_syntax)
                if match := _decoded(response, count):
                    shown.add(match)
                if is_left := count == limit:
                    break
        finally:
            shown.end()
    if ignored:
        log.warning("the peer does not match on all of the keys: there may be too many matches")
    status = responses.status
    is_cancelled = is_left and (status is None or status.category is Category.CANCEL)
    if not quiet:
        to_stderr(f"{count} match{'es' if count != 1 else ''}{', and then cancelled' if is_cancelled else ''}")
    return None if is_cancelled else status


def _decoded(response: Response, number: int) -> Dataset | None:
    """A match; None if it is empty, or cannot be decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, about values that are the peer's
        try:
            return response.data_set
        except DataSetError as error:
            log.warning("match %d cannot be decoded: %s", number, error)
            return None


_KEYS_NOT_SUPPORTED: Final = 0xFF01
"""Matches go on, and optional keys are not supported as they are for required ones (PS3.4 Table C.4-1)."""
