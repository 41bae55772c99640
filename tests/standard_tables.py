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
