"""The keys of a query: ``-k`` in DCMTK's notation, and query files, made into identifiers (PS3.4 C.2.2.1).

A key is ``TAG=VALUE``; a tag is a keyword, ``gggg,eeee`` or ``(gggg,eeee)``; a path into sequences is
``SEQUENCE[ITEM].TAG``, items counted from 0 and made as they are needed. Without ``=`` the key is empty: an attribute
that is asked for. Several values stand between backslashes. VRs come from pydicom's dictionary.
"""

from __future__ import annotations

import json
import re
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .options import Effect, Option, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydicom import Dataset

__all__ = ["key", "read_keys", "read_query_file", "tag"]

_MAX_ITEMS: Final = 1000
"""Items that a path may have made; PS3.4 C.2.2.2.6 knows one."""

_NODE: Final = re.compile(
    r"(?:\((?P<group>[0-9a-fA-F]{1,4}),(?P<element>[0-9a-fA-F]{1,4})\)"
    r"|(?P<bare_group>[0-9a-fA-F]{1,4}),(?P<bare_element>[0-9a-fA-F]{1,4})"
    r"|(?P<keyword>[A-Za-z][A-Za-z0-9]*))"
    r"(?:\[(?P<item>[^\]]*)\])?(?P<more>\.|$)"
)


def key(description: str) -> Option:
    """The option that takes a key, or an attribute; may be given again."""
    return Option(("-k", "--key", "-m", "-r"), description, "keys", ("KEY",), effect=Effect.APPEND)


def read_keys(words: Sequence[str], into: Dataset | None = None) -> Dataset:
    """The identifier that the keys make; of two with the same path the later one counts.

    ``into`` (a query file's content) is changed and returned. Text outside of ASCII has the identifier say that it is
    in UTF-8, unless a key or ``into`` says something else. Raises UsageError for what is no key.
    """
    from pydicom import Dataset  # noqa: PLC0415 - not for every tool

    identifier = Dataset() if into is None else into
    for word in words:
        path, equals, text = word.partition("=")
        try:
            word.encode()  # not so for bytes that are no text in the terminal's encoding
            _put(identifier, path.strip(), text if equals else "")
        except ValueError as error:
            raise UsageError(f"-k {word}: {error}") from None
    if not all(map(str.isascii, words)) and "SpecificCharacterSet" not in identifier:
        identifier.SpecificCharacterSet = "ISO_IR 192"
    return identifier


def _put(data_set: Dataset, path: str, text: str) -> None:
    """Set the element at a path to what the text says. Raises ValueError."""
    from pydicom.dataelem import DataElement  # noqa: PLC0415

    position = 0
    while True:
        node = _NODE.match(path, position)
        if node is None:
            raise ValueError(
                f"{path[position:]!r} is no tag; such are PatientName, 0010,0010, ReferencedStudySequence[0].StudyDate"
            )
        tag, vr = _look_up(node)
        if node["item"] is None:
            break
        data_set = _item(data_set, tag, vr, node)
        position = node.end()
        if not node["more"]:
            if text:
                raise ValueError("an item has no value; name an element of it")
            return
    if node["more"]:
        raise ValueError(f"which item of {node[0][:-1]}? [0] is the first one")
    data_set[tag] = DataElement(tag, vr, _value(vr, text), validation_mode=_ignore())


def tag(text: str) -> int:
    """Reads the tag of an attribute: PatientName, or 0010,0010. Raises ValueError."""
    node = _NODE.fullmatch(text)
    if node is None or node["item"]:
        raise ValueError("a tag is expected, such as PatientName or 0010,0010")
    return _look_up(node)[0]


def _look_up(node: re.Match[str]) -> tuple[int, str]:
    """The tag of a step of a path, and its VR. Raises ValueError."""
    from pydicom.datadict import dictionary_VR, keyword_dict, tag_for_keyword  # noqa: PLC0415

    if keyword := node["keyword"]:
        tag = tag_for_keyword(keyword)
        if tag is None:
            from difflib import get_close_matches  # noqa: PLC0415

            close = get_close_matches(keyword, keyword_dict, 1)
            raise ValueError(f"there is no attribute {keyword}" + (f", did you mean {close[0]}?" if close else ""))
    else:
        group = int(node["group"] or node["bare_group"], 16)
        element = int(node["element"] or node["bare_element"], 16)
        tag = group << 16 | element
    if tag >> 16 < 8:
        raise ValueError("groups below 0008 are no part of a data set")
    try:
        return tag, dictionary_VR(tag).split(" ")[0]
    except KeyError:
        kind = "private" if tag >> 16 & 1 else "unknown"
        raise ValueError(
            f"({tag >> 16:04x},{tag & 0xFFFF:04x}) is {kind}, so its VR is not known; a query file can hold it"
        ) from None


def _item(data_set: Dataset, tag: int, vr: str, node: re.Match[str]) -> Dataset:
    """The item that a step of a path names, made with those before it if need be."""
    from pydicom import Dataset  # noqa: PLC0415
    from pydicom.sequence import Sequence as Items  # noqa: PLC0415

    if vr != "SQ":
        raise ValueError(f"{node[0].partition('[')[0]} is no sequence")
    if not (node["item"].isascii() and node["item"].isdigit()) or int(node["item"]) >= _MAX_ITEMS:
        raise ValueError(f"[{node['item']}] names no item; they count from 0")
    if tag not in data_set:
        data_set.add_new(tag, vr, Items())
    items = data_set[tag].value
    while len(items) <= int(node["item"]):
        items.append(Dataset())
    found: Dataset = items[int(node["item"])]
    return found


# Values


def _tag(text: str) -> int:
    pair = re.fullmatch(r"\(?([0-9a-fA-F]{4}),?([0-9a-fA-F]{4})\)?", text)
    if pair is None:
        raise ValueError("a tag as (gggg,eeee) is expected")
    return int(pair[1] + pair[2], 16)


_NUMBERS: Final[dict[str, tuple[Callable[[str], object], str]]] = {
    **dict.fromkeys(("US", "SS", "UL", "SL", "UV", "SV"), (int, "a whole number")),
    **dict.fromkeys(("FL", "FD"), (float, "a number")),
    "AT": (_tag, "a tag as (gggg,eeee)"),
}
"""VRs whose values are binary, how one is read, and what it is."""

_TEXT_NUMBERS: Final = {"IS": "a whole number", "DS": "a number"}
_ONE_TEXT: Final = frozenset(("LT", "ST", "UR", "UT"))
"""VRs in which a backslash is a character as any other (PS3.5 6.2)."""
_INTERNATIONAL: Final = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
"""VRs to which the Specific Character Set applies (PS3.5 6.1.2.2)."""
_OPAQUE: Final = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))


def _value(vr: str, text: str) -> object:
    """A value as pydicom takes it. Raises ValueError."""
    if vr == "SQ":
        if text:
            raise ValueError("a sequence has items: [0].ELEMENT=VALUE")
        return []
    if not text.isascii() and vr not in _INTERNATIONAL:
        raise ValueError(f"its VR is {vr}, which has ASCII characters only")
    if vr in _OPAQUE and text:
        raise ValueError(f"its VR is {vr}: no text can say what its value is")
    if not text or vr in _ONE_TEXT:
        return text if vr not in _NUMBERS else None
    read, wanted = _NUMBERS.get(vr, (str, ""))
    try:
        values = [read(part) for part in text.split("\\")]
        _check(vr, values)
    except (ValueError, TypeError, OverflowError):
        wanted = wanted or _TEXT_NUMBERS[vr]
        raise ValueError(f"its VR is {vr}: {wanted} is expected; without a value it matches all") from None
    return values[0] if len(values) == 1 else values


def _check(vr: str, values: list[Any]) -> None:
    """Raise for numbers that pydicom would refuse, or that have no place in their bytes."""
    if vr in _TEXT_NUMBERS:
        from pydicom.valuerep import DS, IS  # noqa: PLC0415

        for each in values:
            (IS if vr == "IS" else DS)(each, validation_mode=_ignore())
    elif vr in _RANGES and not all(_RANGES[vr][0] <= each <= _RANGES[vr][1] for each in values):
        raise OverflowError


_RANGES: Final = {
    **{vr: (0, (1 << bits) - 1) for vr, bits in (("US", 16), ("UL", 32), ("UV", 64))},
    **{vr: (-(1 << bits - 1), (1 << bits - 1) - 1) for vr, bits in (("SS", 16), ("SL", 32), ("SV", 64))},
}


def _ignore() -> int:
    """The word of pydicom for leaving values alone: wildcards and ranges are in no VR's repertoire."""
    from pydicom import config  # noqa: PLC0415

    return config.IGNORE


# Files


def read_query_file(path: str) -> Dataset:
    """The identifier in a file: DICOM with or without file meta information, or the DICOM JSON model (PS3.18 F).

    Raises UsageError for a file that cannot be read or holds nothing of these.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    read = _from_json if content.lstrip()[:1] in (b"{", b"[") else _from_dicom
    try:
        identifier = read(content)
    except Exception as error:  # noqa: BLE001 - pydicom raises what it meets
        raise UsageError(f"{path} is no query file (DICOM, or DICOM JSON): {error}") from None
    return identifier


def _from_json(content: bytes) -> Dataset:
    from pydicom import Dataset  # noqa: PLC0415

    found = json.loads(content)
    if isinstance(found, list):
        if len(found) != 1:
            raise ValueError(f"{len(found)} data sets are in it; one is a query")
        found = found[0]
    return Dataset.from_json(found)


def _from_dicom(content: bytes) -> Dataset:
    from pydicom import Dataset, dcmread  # noqa: PLC0415

    read = dcmread(BytesIO(content), force=True)
    identifier = Dataset(
        {element.tag: element for element in read if element.tag.element}
    )  # PS3.5 7.2: no group lengths
    if not identifier or min(identifier.keys()) < 0x00080000:
        raise ValueError("there is no data set in it")
    return identifier
