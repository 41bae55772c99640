"""Attribute matching of C-FIND: which candidates an identifier finds, and what is answered of them (PS3.4 C.2.2.2).

Pure functions over pydicom data sets. An identifier is compiled once (:class:`Matcher`) and then held against many
candidates; each costs time in proportion to its size, whatever the keys are. What the standard leaves to an
implementation is done thus:

- person names match without regard to case unless asked otherwise; a key without ``=`` may match any of the
  candidate's component groups, one with ``=`` is compared group by group, empty groups matching everything; missing
  components at the end of a name are empty ones (C.2.2.2.1, C.2.2.2.4);
- a date or time of less precision stands for all moments in it: the key ``10`` finds 10:30, and ``-10`` ends before 11;
- moments are compared in UTC where both sides say their offset, in the value or by Timezone Offset From UTC
  (0008,0201), and as they are written where one does not (C.2.2.2.5);
- several values of a key that is no UID find what has any of them, or all of them if that was negotiated (C.2.2.2.8);
- ``*`` alone finds everything in any value representation, as some ask for dates so.

Specific Character Set, Query/Retrieve Level, Timezone Offset From UTC, group lengths and private creators are no keys.
"""

from __future__ import annotations

import calendar
import datetime as dt
import json
import re
from collections.abc import MutableSequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from pydicom import DataElement, Dataset

__all__ = ["Matcher", "column_text", "matches", "response", "values_of"]

_SPECIFIC_CHARACTER_SET = 0x00080005
_QUERY_RETRIEVE_LEVEL = 0x00080052
_TIMEZONE_OFFSET = 0x00080201
_NO_KEYS: Final = frozenset((_SPECIFIC_CHARACTER_SET, _QUERY_RETRIEVE_LEVEL, _TIMEZONE_OFFSET))

_WILD_VRS: Final = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
"""Where ``*`` and ``?`` are wild cards (C.2.2.2.4)."""
_MULTIPLE_VRS: Final = frozenset(("AE", "AS", "AT", "CS", "LO", "PN", "SH", "UC"))
"""What multiple value matching is for (C.2.2.2.8)."""
_TIME_FORMS: Final = {
    "DA": r"\d{4}(?:\.?\d\d){0,2}",
    "TM": r"\d\d(?::?\d\d){0,2}(?:\.\d{1,6})?",
    "DT": r"\d{4}(?:\d\d){0,5}(?:\.\d{1,6})?(?:[+-](?:0\d|1[0-4])[0-5]\d)?",
}
"""Range matching is for these (C.2.2.2.5); the dots and colons are those of ACR-NEMA (PS3.5 6.2)."""
_SINGLE: Final = {vr: re.compile(form, re.ASCII) for vr, form in _TIME_FORMS.items()}
_RANGE: Final = {vr: re.compile(rf"({form})?\s*-\s*({form})?", re.ASCII) for vr, form in _TIME_FORMS.items()}
_EMPTY_KEY = '""'
"""Finds what has no value, if that was negotiated (C.2.2.2.7)."""
_MAX_LENGTH = 1024
"""Characters of a key with names, wild cards or times: each is compared with every one of a candidate."""


def matches(
    identifier: Dataset,
    candidate: Dataset,
    *,
    combined_datetime: bool = False,
    case_sensitive_names: bool = False,
    multiple_values: bool = False,
    empty_values: bool = False,
) -> bool:
    """Whether the candidate has what the identifier asks for; see :class:`Matcher`."""
    return Matcher(
        identifier,
        combined_datetime=combined_datetime,
        case_sensitive_names=case_sensitive_names,
        multiple_values=multiple_values,
        empty_values=empty_values,
    ).matches(candidate)


def response(identifier: Dataset, candidate: Dataset) -> Dataset:
    """What is answered of a candidate that matches; see :meth:`Matcher.response`."""
    return Matcher(identifier).response(candidate)


class _Options(NamedTuple):
    """How keys are understood."""

    combined_datetime: bool
    case_sensitive_names: bool
    multiple_values: bool
    empty_values: bool
    offset: int | None
    """Of the identifier, in microseconds."""


class _Key(NamedTuple):
    """One key of an identifier that does not match everything."""

    tag: int
    vr: str
    values: list[Any]
    exact: frozenset[Any]
    """Values that are looked for as they are."""
    predicates: list[Callable[[Any], bool]]
    """What else a value may be, in the form that ``_prepared`` gives it."""
    wants_all: bool
    """Whether all of it is to be found, or any."""


class Matcher:
    """An identifier, compiled to be held against many candidates.

    ``combined_datetime`` takes the ranges of a date and its time together (C.2.2.2.5.4; for worklists always, K.2.2.2),
    ``multiple_values`` lets each value of a key ask for a value (C.2.2.2.8), ``empty_values`` lets ``""`` find what has
    none (C.2.2.2.7): options that are negotiated. Keys beside the ``supported`` tags find everything, and are answered
    empty unless the candidate has them (C.2.2.1.3).

    Raises ValueError, which names the attribute and never its value, for a date, time or range that is none, for names,
    times and wild cards of more than 1,024 characters, and for a sequence of several items.
    """

    def __init__(
        self,
        identifier: Dataset,
        *,
        combined_datetime: bool = False,
        case_sensitive_names: bool = False,
        multiple_values: bool = False,
        empty_values: bool = False,
        supported: Collection[int] | None = None,
    ) -> None:
        self._identifier = identifier
        offset = _offset_of(identifier)
        self._options = _Options(combined_datetime, case_sensitive_names, multiple_values, empty_values, offset)
        self._keys: list[_Key] = []
        self._sequences: dict[int, Matcher] = {}
        self._pairs: list[tuple[int, int, _Range]] = []
        self._hints: list[_Key] = []
        """Keys that are conditions and nothing else."""
        self._must_be_empty: list[int] = []
        for tag in map(int, identifier.keys()):
            if _is_key(tag) and (supported is None or tag in supported):
                self._compile(tag)
        if combined_datetime:
            self._combine()

    @property
    def is_universal(self) -> bool:
        """Whether everything matches (C.2.2.2.3)."""
        own = self._keys or self._pairs or self._must_be_empty
        return not own and all(matcher.is_universal for matcher in self._sequences.values())

    def matches(self, candidate: Dataset) -> bool:
        """Whether the candidate has what the identifier asks for. A value that it lacks matches no key with a value."""
        return (
            all(_has(candidate, key, self._options) for key in self._keys)
            and all(_is_within(candidate, *pair) for pair in self._pairs)
            and all(not values_of(candidate, tag)[1] for tag in self._must_be_empty)
            and all(
                matcher.is_universal or any(map(matcher.matches, _items(candidate, tag)))
                for tag, matcher in self._sequences.items()
            )
        )

    def response(self, candidate: Dataset) -> Dataset:
        """The keys that were asked for, with the candidate's values (C.2.2.3); empty where it has none.

        Of a sequence, the items that match, with what was asked for of them; all of it if nothing was (C.2.2.2.6). The
        Query/Retrieve Level is the identifier's, the Specific Character Set the candidate's. Elements are shared with
        the candidate, not copied.
        """
        from pydicom import DataElement, Dataset, Sequence  # noqa: PLC0415 - imported by whoever made the identifier

        answer = Dataset()
        for tag in map(int, self._identifier.keys()):
            if tag == _QUERY_RETRIEVE_LEVEL:
                answer.add(self._identifier[tag])
            elif not tag & 0xFFFF or tag == _SPECIFIC_CHARACTER_SET:
                continue
            elif matcher := self._sequences.get(tag):
                items = [matcher.response(item) for item in _items(candidate, tag) if matcher.matches(item)]
                answer.add(DataElement(tag, "SQ", Sequence(items)))
            else:
                answer.add(_element(candidate, tag) or DataElement(tag, values_of(self._identifier, tag)[0], None))
        if values_of(candidate, _SPECIFIC_CHARACTER_SET)[1]:
            answer.add(candidate[_SPECIFIC_CHARACTER_SET])
        return answer

    def conditions(self, columns: Mapping[int, str]) -> tuple[list[str], list[str]]:
        """The keys as conditions of SQLite and the parameters to bind, for columns that hold :func:`column_text`.

        ``columns`` names the columns by tag; names are used as they are. Every candidate that matches fulfils them;
        what fulfils them is still to be matched.
        """
        conditions: list[str] = []
        parameters: list[str] = []
        for key in (*self._keys, *self._hints):
            found = _condition(columns[key.tag], key) if key.tag in columns else None
            if found:
                conditions.append(found[0])
                parameters += found[1]
        return conditions, parameters

    def _compile(self, tag: int) -> None:
        vr, values = values_of(self._identifier, tag)
        if vr == "SQ":
            items = _items(self._identifier, tag)
            if len(items) > 1:
                raise ValueError(f"{_name(tag)}: a key has one item, got {len(items)}")
            if items and len(items[0]):
                own = {name: value for name, value in self._options._asdict().items() if name != "offset"}
                self._sequences[tag] = Matcher(items[0], **own)
        elif self._options.empty_values and values == [_EMPTY_KEY]:
            self._must_be_empty.append(tag)
        elif values and not any(isinstance(value, str) and not value.strip("*") for value in values):
            try:
                self._keys.append(_key(tag, vr, values, self._options))
            except ValueError as error:
                raise ValueError(f"{_name(tag)}: {error}") from None

    def _combine(self) -> None:
        """Make one range of a date's key and its time's (C.2.2.2.5.4)."""
        by_tag = {key.tag: key for key in self._keys if len(key.values) == 1}
        for tag, date in by_tag.items():
            time = by_tag.get(_time_of(tag)) if date.vr == "DA" else None
            if time and "-" in time.values[0]:
                first, last = (_join(*parts) for parts in zip(_ends(date), _ends(time), strict=True))
                self._pairs.append((tag, time.tag, _Range.of(first, last, "DT", self._options.offset)))
                self._keys.remove(time)
                self._keys.remove(date)
                if self._options.offset is None:  # else the date may be another one in the candidate's zone
                    self._hints.append(date)


# Values


def _is_key(tag: int) -> bool:
    is_private_creator = bool(tag & 0x10000) and 0x10 <= tag & 0xFFFF <= 0xFF
    return bool(tag & 0xFFFF) and tag not in _NO_KEYS and not is_private_creator


def _element(data_set: Dataset, tag: int) -> DataElement | None:
    """The element, or None if it is not there or cannot be decoded."""
    try:
        return data_set.get(tag)
    except Exception:  # noqa: BLE001 - pydicom raises what its converters and codecs raise
        return None


def values_of(data_set: Dataset, tag: int) -> tuple[str, list[Any]]:
    """The value representation of an element, and those of its values that are not empty: text without padding."""
    if tag not in data_set:
        return "UN", []
    try:
        element = data_set[tag]
        vr, value = element.VR[:2], element.value
        if vr == "SQ":
            return vr, []
        values = list(value) if isinstance(value, MutableSequence) else [value]
        return vr, [plain for each in values if (plain := _plain(vr, each)) not in ("", b"", None)]
    except Exception:  # noqa: BLE001 - as above; a key such as * in a number
        raw = data_set.get_item(tag)
        vr, value = (raw.VR or _dictionary_vr(tag))[:2], raw.value
        text = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
        return vr, [part for each in text.split("\\") if (part := each.strip(" \0"))]


_NUMBERS: Final = frozenset(("AT", "DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"))


def _plain(vr: str, value: Any) -> Any:
    if value is None or isinstance(value, bytes) or vr in _NUMBERS:
        return value
    return str(value).strip(" \0")  # UIDs and person names have classes of their own


def _items(data_set: Dataset, tag: int) -> list[Dataset]:
    element = _element(data_set, tag)
    return list(element.value or ()) if element is not None and element.VR == "SQ" else []


def _dictionary_vr(tag: int) -> str:
    from pydicom.datadict import dictionary_VR  # noqa: PLC0415

    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def _name(tag: int) -> str:
    from pydicom.datadict import keyword_for_tag  # noqa: PLC0415

    return keyword_for_tag(tag) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _time_of(tag: int) -> int:
    """The time that belongs to a date, by their names: Study Time to Study Date; 0 if there is none."""
    from pydicom.datadict import keyword_for_tag, tag_for_keyword  # noqa: PLC0415

    keyword = keyword_for_tag(tag)
    return (keyword.endswith("Date") and tag_for_keyword(f"{keyword[:-4]}Time")) or 0


# Predicates


def _key(tag: int, vr: str, values: list[Any], options: _Options) -> _Key:
    exact = [value for value in values if not _is_compared(vr, value)]
    others = [value for value in values if _is_compared(vr, value)]
    if (length := sum(map(len, others))) > _MAX_LENGTH:
        raise ValueError(f"names, times and wild cards may have {_MAX_LENGTH} characters, got {length}")
    wants_all = options.multiple_values and len(values) > 1 and vr in _MULTIPLE_VRS
    return _Key(tag, vr, values, frozenset(exact), [_predicate(vr, value, options) for value in others], wants_all)


def _is_compared(vr: str, value: Any) -> bool:
    """Whether a key's value may match another one than itself."""
    return vr in _TIME_FORMS or vr == "PN" or (vr in _WILD_VRS and _is_wild(value))


def _predicate(vr: str, value: str, options: _Options) -> Callable[[Any], bool]:
    if vr in _TIME_FORMS:
        return _Range.parse(value, vr, options.offset).includes
    if vr == "PN":
        return _Name(value if options.case_sensitive_names else value.lower())
    return _Wild(value)


def _has(candidate: Dataset, key: _Key, options: _Options) -> bool:
    values = _prepared(candidate, key, options)
    found = (any(map(predicate, values)) for predicate in key.predicates)
    if key.wants_all:
        return key.exact <= frozenset(values) and all(found)
    return not key.exact.isdisjoint(values) or any(found)


def _prepared(candidate: Dataset, key: _Key, options: _Options) -> list[Any]:
    """A candidate's values in the form that is compared; those that cannot be are left out."""
    _, values = values_of(candidate, key.tag)
    if key.vr in _TIME_FORMS:
        offset = _offset_of(candidate)
        return [moment for value in values if (moment := _moment(str(value), key.vr, offset))]
    if key.vr == "PN" and not options.case_sensitive_names:
        return [str(value).lower() for value in values]
    return values


def _is_wild(text: str) -> bool:
    return "*" in text or "?" in text


class _Wild:
    """Wild card matching (C.2.2.2.4) in one pass over the text, without going back.

    All ways in which the pattern may have come to a character are followed at once: bit n of the state says that the
    first n characters of the pattern, ``*`` not counted, are what was read so far.
    """

    def __init__(self, pattern: str) -> None:
        self._accepts: dict[str, int] = {}
        """By character: where in the pattern it stands."""
        self._any = 0
        """Where in the pattern ``?`` stands."""
        self._waits = 0
        """Where in the pattern ``*`` stands: there any number of characters may be read."""
        bit = 1
        for char in pattern:
            if char == "*":
                self._waits |= bit
                continue
            if char == "?":
                self._any |= bit
            else:
                self._accepts[char] = self._accepts.get(char, 0) | bit
            bit <<= 1
        self._end = bit

    def __call__(self, text: str) -> bool:
        state = 1
        for char in text:
            state = (state & (self._accepts.get(char, 0) | self._any)) << 1 | state & self._waits
            if not state:
                return False
        return bool(state & self._end)


class _Name:
    """Matching of a person's name with or without wild cards, by component groups (PS3.5 6.2.1.1)."""

    def __init__(self, key: str) -> None:
        self._groups = [self._group(group) for group in key.split("=")]

    def __call__(self, name: str) -> bool:
        groups = name.split("=")
        if len(self._groups) == 1:
            return any(map(self._groups[0], groups))
        groups += [""] * (len(self._groups) - len(groups))
        return all(wanted(group) for wanted, group in zip(self._groups, groups, strict=False))

    @staticmethod
    def _group(key: str) -> Callable[[str], bool]:
        key = key.rstrip("^ ")
        if not key.strip("*"):
            return lambda _: True
        if not _is_wild(key):
            return lambda group: group.rstrip("^ ") == key
        wild, carets = _Wild(key), key.count("^")

        def is_wanted(group: str) -> bool:
            group = group.rstrip("^ ")
            return wild(group + "^" * (carets - group.count("^")))

        return is_wanted


# Dates and times


class _Moment(NamedTuple):
    """All the time that a value may mean, as it says no more of it; in microseconds of the local calendar."""

    start: int
    end: int
    offset: int | None
    """Of local time from UTC, in microseconds; None if nothing says it."""


class _Range(NamedTuple):
    """Range matching (C.2.2.2.5); of a single value, the time that it means."""

    first: _Moment | None
    last: _Moment | None

    @classmethod
    def parse(cls, text: str, vr: str, offset: int | None) -> _Range:
        """Raises ValueError for what is no value and no range of values."""
        return cls.of(*_split(text, vr), vr, offset)

    @classmethod
    def of(cls, first: str, last: str, vr: str, offset: int | None) -> _Range:
        """From its ends; an empty one is open. Raises ValueError for what is no value."""
        ends = [_moment(text, vr, offset) if text else None for text in (first, last)]
        if (first and ends[0] is None) or (last and ends[1] is None):
            raise ValueError(f"the key is no value of {vr}")
        return cls(*ends)

    def includes(self, moment: _Moment) -> bool:
        """Whether the moment begins within the range."""
        after = self.first is None or moment.start >= self.first.start + _difference(moment, self.first)
        return after and (self.last is None or moment.start <= self.last.end + _difference(moment, self.last))


def _difference(one: _Moment, other: _Moment) -> int:
    """How much later local time is with the first one."""
    return 0 if one.offset is None or other.offset is None else one.offset - other.offset


def _split(text: str, vr: str) -> tuple[str, str]:
    """The first and last value of a range, empty where it is open; of a single value, that one twice.

    An offset from UTC may begin with the hyphen of a range: what could be a single value is one.
    """
    if _SINGLE[vr].fullmatch(text):
        return text, text
    found = _RANGE[vr].fullmatch(text)
    if found is None:
        raise ValueError(f"the key is no value of {vr} and no range of them")
    return found[1] or "", found[2] or ""


def _ends(key: _Key) -> tuple[str, str]:
    first, last = _split(key.values[0], key.vr)
    return _digits(first, key.vr), _digits(last, key.vr)


def _join(date: str, time: str) -> str:
    """A date and a time as a value of DT; a time means nothing without a date, nor after a part of one."""
    return date + time if len(date) == 8 else date


def _digits(text: str, vr: str) -> str:
    """A date without dots, a time without colons."""
    return text.replace("." if vr == "DA" else ":", "")


_DATE_OF_TIMES = "00010101"
_EARLIEST, _LATEST = "00010101000000000000", "99991231235959999999"


def _moment(text: str, vr: str, offset: int | None) -> _Moment | None:
    """The time that a value of DA, TM or DT means; None if it means none."""
    if not _SINGLE[vr].fullmatch(text):
        return None
    digits = _digits(text, vr)
    if vr != "DT":
        digits, offset = (_DATE_OF_TIMES if vr == "TM" else "") + digits, None
    elif digits[-5:-4] in ("+", "-"):
        digits, offset = digits[:-5], _microseconds(digits[-5:])
    digits = digits.replace(".", "")
    try:
        start, end = (_count(digits + padding[len(digits) :]) for padding in (_EARLIEST, _LATEST))
    except ValueError:
        return None
    return _Moment(start, end, offset)


def _count(digits: str) -> int:
    """Microseconds for YYYYMMDDHHMMSSFFFFFF; days beyond the end of a month are its last one."""
    year, month, day = int(digits[:4]), int(digits[4:6]), int(digits[6:8])
    hour, minute, second, fraction = (int(digits[at : at + width]) for at, width in ((8, 2), (10, 2), (12, 2), (14, 6)))
    if not 1 <= month <= 12:
        raise ValueError("no such month")
    day = min(day, calendar.monthrange(year, month)[1])
    days = dt.date(year, month, day).toordinal()
    return (((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + fraction


def _microseconds(offset: str) -> int:
    """Of an offset from UTC, ``+0130``."""
    minutes = int(offset[1:3]) * 60 + int(offset[3:5])
    return (-minutes if offset[0] == "-" else minutes) * 60_000_000


_OFFSET: Final = re.compile(r"[+-]\d{4}", re.ASCII)


def _offset_of(data_set: Dataset) -> int | None:
    """Timezone Offset From UTC (PS3.3 C.12.1.1.8)."""
    _, values = values_of(data_set, _TIMEZONE_OFFSET)
    return _microseconds(values[0]) if values and _OFFSET.fullmatch(str(values[0])) else None


def _is_within(candidate: Dataset, date_tag: int, time_tag: int, wanted: _Range) -> bool:
    dates, times = values_of(candidate, date_tag)[1], values_of(candidate, time_tag)[1]
    text = _join(_digits(str(dates[0]), "DA"), _digits(str(times[0]), "TM") if times else "") if dates else ""
    moment = _moment(text, "DT", _offset_of(candidate))
    return moment is not None and wanted.includes(moment)


# SQL


def column_text(vr: str, values: Iterable[object]) -> str:
    """What a column of an index holds of an element with these values, for :meth:`Matcher.conditions`."""
    return "\\".join(_digits(str(value), vr) if vr in _TIME_FORMS else str(value) for value in values)


def _condition(column: str, key: _Key) -> tuple[str, list[str]] | None:
    """A condition that every matching candidate fulfils, and its parameters."""
    is_one_of = f"{column} IN (SELECT value FROM json_each(?))"  # noqa: S608 - a name of ours, and a parameter
    if key.vr == "UI":
        return is_one_of, [json.dumps(key.values)]
    if key.vr in _TIME_FORMS.keys() - {"DT"} and len(key.values) == 1:
        first, last = _ends(key)
        condition = f"{column} < ? AND ({column} >= ? OR length({column}) < length(?))"
        parameters = [f"{last}:", first, first]  # the colon comes after all digits
    elif key.exact and not key.predicates and key.vr in _WILD_VRS:
        condition, parameters = is_one_of, [json.dumps(key.values)]
    else:
        return None
    return f"({condition} OR instr({column}, char(92)))", parameters  # one of several values may be the one
