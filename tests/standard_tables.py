"""The standard's tables as data, and the small notations that they are written in."""

import json
import re
from pathlib import Path

_FOLDER = Path(__file__).parent / "standard"


def _load(name):
    return json.loads((_FOLDER / name).read_text("utf-8"))


UL = _load("ul_state_table.json")
"""PS3.8 9.2: states, events, actions, Table 9-10."""

DIMSE = _load("dimse.json")
"""PS3.7: messages, command elements, statuses."""

SERVICES = _load("services.json")
"""PS3.4: service classes and their SOP classes."""

ATTRIBUTES = _load("attributes.json")
"""PS3.4: what steps have to have, Tables F.7.2-1 and CC.2.5-3."""

AUDIT = _load("audit.json")
"""PS3.15 A.5: the schema of audit messages, and what each kind of them has."""

TLS_PROFILES = _load("tls_profiles.json")
"""PS3.15 annex B: what the profiles require and permit of TLS."""


def snake(keyword):
    """The attribute name for a keyword of PS3.6: AffectedSOPClassUID is affected_sop_class_uid."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", keyword).lower()


def tag_number(tag):
    """(0008,0018) as 0x00080018."""
    return int(tag[1:5] + tag[6:10], 16)


def code_range(text):
    """The codes in "FE00H", "B000H-BFFFH" or "0100H-01FFH except 0107H and 0116H"."""
    first, *others = re.findall(r"([0-9A-F]{4})H", text)
    if "-" not in text:
        return {int(first, 16)}
    last, *excepted = others
    return set(range(int(first, 16), int(last, 16) + 1)) - {int(code, 16) for code in excepted}


def attribute_rows(service, column):
    """Paths of keywords and what that column of an attribute table says of them: 1 is N-CREATE, 2 N-SET, 3 the end."""
    path = []
    for name, *cells in ATTRIBUTES[service]["rows"]:
        keyword = name.lstrip(">")
        path[len(name) - len(keyword) :] = [keyword]
        yield tuple(path), cells[column - 1]


def to_be_sent(service, column):
    """The paths of all that who sends has to bring: of types 1 and 2 for the SCU."""
    return [path for path, cell in attribute_rows(service, column) if cell.partition("/")[0] in ("1", "2")]


def may_be_empty(service, column):
    """The paths of what is of type 2 for the SCU."""
    return [path for path, cell in attribute_rows(service, column) if cell.partition("/")[0] == "2"]


def items_at(data_set, path):
    """The data sets, or items of them, in which the attribute of a path stands."""
    found = [data_set]
    for keyword in path[:-1]:
        found = [item for each in found for item in each.get(keyword) or ()]
    return found
