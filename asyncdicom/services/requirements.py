"""What a data set shall have (PS3.4 5.4.2): attribute tables as data, and what either side does about a lack.

Who sends adds, empty, what is of type 2. Who receives refuses what lacks an attribute of type 1, and only takes note of
what lacks one of type 2: real peers leave them out.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from asyncdicom.command import Status
from asyncdicom.errors import StatusError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydicom.dataset import Dataset

__all__ = ["Required", "check_required", "fill_empty", "log_missing", "of_type", "tags"]

_log = logging.getLogger("asyncdicom")


class Required(NamedTuple):
    """One row of an attribute table."""

    keyword: str
    """Of PS3.6."""
    items: tuple[Required, ...] = ()
    """What each item shall have, when it is a sequence."""
    kind: int = 1
    """Its type: 1 shall be there with a value, 2 shall be there, 3 may be left out, and only its items matter."""


def of_type(kind: int, *keywords: str) -> tuple[Required, ...]:
    """Rows of one type."""
    return tuple(Required(keyword, kind=kind) for keyword in keywords)


def fill_empty(data_set: Dataset, rows: tuple[Required, ...]) -> None:
    """Add, empty, the attributes of type 2 that are not there, to the items of sequences too."""
    for lacking, keyword in _absent(data_set, rows):
        setattr(lacking, keyword, None)


def log_missing(peer: str, data_set: Dataset, rows: tuple[Required, ...]) -> None:
    """Say in the log which attributes of type 2 an AE has left out."""
    if missing := sorted({keyword for _, keyword in _absent(data_set, rows)}):
        _log.info("< %r left out what may be empty but shall be there: %s", peer, ", ".join(missing))


def _absent(data_set: Dataset, rows: tuple[Required, ...]) -> Iterator[tuple[Dataset, str]]:
    """Where an attribute of type 2 is not there, and which."""
    for keyword, items, kind in rows:
        if keyword not in data_set:
            if kind == 2:
                yield data_set, keyword
        elif items and data_set[keyword].VR == "SQ":
            for item in data_set[keyword].value:
                yield from _absent(item, items)


def check_required(data_set: Dataset, rows: tuple[Required, ...]) -> None:
    """Look for attributes of type 1, in the items of sequences of type 1 too.

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
    for keyword, items, kind in rows:
        if kind != 1:
            continue
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
