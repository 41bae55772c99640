"""What a data set shall have (PS3.4 5.4.2): type 1 of an attribute table, and the statuses that answer a lack."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from asyncdicom.command import Status
from asyncdicom.errors import StatusError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydicom.dataset import Dataset

__all__ = ["Required", "check_required", "tags"]


class Required(NamedTuple):
    """One row of an attribute table: an attribute that shall be there and shall not be empty (type 1)."""

    keyword: str
    """Of PS3.6."""
    items: tuple[Required, ...] = ()
    """What each item shall have, when it is a sequence."""


def check_required(data_set: Dataset, rows: tuple[Required, ...]) -> None:
    """Look for attributes of type 1, in the items of sequences too.

    Raises StatusError: 0120H for attributes that are not there, 0121H for those without a value.
    """
    lacking = list(_lacking(data_set, rows))
    if missing := [keyword for code, keyword in lacking if code == _MISSING]:
        raise StatusError(Status(_MISSING, f"{missing[0]} is missing", attribute_identifier_list=tags(missing)))
    if lacking:
        raise StatusError(Status(_EMPTY, f"{lacking[0][1]} has no value"))


_MISSING, _EMPTY = 0x0120, 0x0121


def _lacking(data_set: Dataset, rows: tuple[Required, ...]) -> Iterator[tuple[int, str]]:
    """Status and keyword of what is not there or empty."""
    for keyword, items in rows:
        if keyword not in data_set:
            yield _MISSING, keyword
        elif data_set[keyword].is_empty:
            yield _EMPTY, keyword
        elif items:
            for item in data_set[keyword].value:
                yield from _lacking(item, items)


def tags(keywords: Iterable[str]) -> tuple[int, ...]:
    """The tags of keywords that PS3.6 has."""
    from pydicom.datadict import tag_for_keyword  # noqa: PLC0415 - takes long to import

    return tuple(filter(None, map(tag_for_keyword, keywords)))
