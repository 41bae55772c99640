"""Checks audit messages against the standard's schema and tables, and takes syslog messages apart."""

import base64
import datetime as dt
import re
from typing import NamedTuple
from xml.etree import ElementTree as ET

from standard_tables import AUDIT

__all__ = ["Message", "SyslogMessage", "parse_frames", "parse_syslog", "problems"]


class Message:
    """An audit message, checked, with what tests ask of it."""

    def __init__(self, xml):
        found = problems(xml)
        assert not found, f"{found} in {xml}"
        self.root = ET.fromstring(xml)
        self.event = self.root.find("EventIdentification")
        self.id = self.event.find("EventID").get("originalText")
        self.type = getattr(self.event.find("EventTypeCode"), "attrib", {}).get("originalText")
        self.outcome = int(self.event.get("EventOutcomeIndicator"))
        self.why = self.event.findtext("EventOutcomeDescription", "")
        self.participants = self.root.findall("ActiveParticipant")
        self.objects = self.root.findall("ParticipantObjectIdentification")

    def __repr__(self):
        return ET.tostring(self.root, encoding="unicode")

    @property
    def kind(self):
        return self.id, self.type, self.outcome

    def participant(self, role):
        """The one with a role, by its meaning."""
        (found,) = (each for each in self.participants if _code(each, "RoleIDCode") == role)
        return found

    @property
    def requestors(self):
        return [each.get("UserID") for each in self.participants if each.get("UserIsRequestor") == "true"]

    def ids(self, id_type):
        """What the objects are that are identified in one way, by its meaning."""
        return [
            each.get("ParticipantObjectID")
            for each in self.objects
            if _code(each, "ParticipantObjectIDTypeCode") == id_type
        ]

    @property
    def numbers(self):
        """Numbers of instances by study and SOP class."""
        return {
            each.get("ParticipantObjectID"): {
                one.get("UID"): int(one.get("NumberOfInstances")) for one in each.iter("SOPClass")
            }
            for each in self.objects
            if _code(each, "ParticipantObjectIDTypeCode") == "Study Instance UID"
        }

    def detail(self, name):
        (found,) = (each for each in self.root.iter("ParticipantObjectDetail") if each.get("type") == name)
        return base64.b64decode(found.get("value"), validate=True)


def _code(element, name):
    found = element.find(name)
    return found.get("originalText") if found is not None else None


def problems(xml):
    """What is wrong with a message, in words."""
    root = ET.fromstring(xml)
    if root.tag != "AuditMessage":
        return [f"the root is {root.tag}"]
    found = list(_schema_problems(root))
    return found or list(_table_problems(root))


# A.5.1


def _schema_problems(element):
    name = element.tag
    if name in AUDIT["coded"]:
        yield from _code_problems(element)
        return
    if name not in AUDIT["schema"]:
        yield f"no element is called {name}"
        return
    rules = AUDIT["schema"][name]
    for attribute in element.keys() - rules["attributes"].keys():
        yield f"{name} has no attribute {attribute}"
    for attribute, rule in rules["attributes"].items():
        value = element.get(attribute)
        if value is None:
            if not rule.get("optional"):
                yield f"{name} without {attribute}"
        elif not _fits(value, rule):
            yield f"{attribute}={value!r}"
    if not _fits(element.text or "", {"type": rules.get("text", "nothing")}):
        yield f"{name} contains {element.text!r}"
    pattern = "".join(_pattern(child) for child in rules["children"])
    children = "".join(f"{child.tag} " for child in element)
    if re.fullmatch(pattern, children) is None:
        yield f"{name} has the children {children!r}"
    for child in element:
        yield from _schema_problems(child)


def _pattern(child):
    """A part of a content model as a regular expression over names that end with a space."""
    quantity = child[-1] if child[-1] in "*+?" else ""
    return f"(?:(?:{child.rstrip('*+?')}) ){quantity}"


def _fits(value, rule):
    if "values" in rule:
        return value in rule["values"]
    try:
        return _TYPES[rule["type"]](value)
    except ValueError:
        return False


def _is_time(value):
    return dt.datetime.fromisoformat(value).tzinfo is not None  # A.5.2.5


_TYPES = {
    "text": lambda value: value.isprintable(),
    "nothing": lambda value: not value,
    "integer": lambda value: int(value) >= 0,
    "base64Binary": lambda value: base64.b64decode(value, validate=True) is not None,
    "dateTime": _is_time,
}


def _code_problems(element):
    value = element.get("csd-code")
    system = "RFC-3881" if value in AUDIT["rfc_3881_codes"] else "DCM"
    meaning = AUDIT["codes"][element.tag].get(value)
    expected = {"csd-code": value, "codeSystemName": system, "originalText": meaning}
    if element.attrib != expected or len(element):
        yield f"{element.tag} is {element.attrib}"


# A.5.3


def _table_problems(root):
    event = root.find("EventIdentification")
    rules = AUDIT["messages"].get(event.find("EventID").get("csd-code"))
    if rules is None:
        yield "no such message"
        return
    if event.get("EventActionCode") not in rules["actions"]:
        yield f"the action is {event.get('EventActionCode')}"
    types = [each.get("csd-code") for each in event.findall("EventTypeCode")]
    if len(types) != bool(rules["types"]) or not set(types) <= set(rules["types"]):
        yield f"the types are {types}"
    participants = root.findall("ActiveParticipant")
    roles = [each.find("RoleIDCode").get("csd-code") if len(each) else "" for each in participants]
    yield from _number_problems(roles, rules["roles"], "role")
    if sum(each.get("UserIsRequestor") == "true" for each in participants) > 1:
        yield "several requestors"
    if event.find("EventID").get("csd-code") == "110113" and any(
        each.get("UserIsRequestor") == "true" for each in participants[1:]
    ):
        yield "who performed what is alerted of is a requestor"
    for each in participants:
        if (each.get("NetworkAccessPointID") is None) != (each.get("NetworkAccessPointTypeCode") is None):
            yield "half of an access point"
    yield from (f"no {name}" for name in rules.get("first_participant", ()) if participants[0].get(name) is None)
    yield from _object_problems(root, rules)


def _number_problems(found, allowed, what):
    for each in set(found) - allowed.keys():
        yield f"{what} {each!r} does not belong there"
    for each, (least, most) in allowed.items():
        if not least <= found.count(each) <= (most if most is not None else len(found)):
            yield f"{what} {each!r} is there {found.count(each)} times"


def _object_problems(root, rules):
    kinds = []
    for each in root.findall("ParticipantObjectIdentification"):
        id_type = each.find("ParticipantObjectIDTypeCode").get("csd-code")
        kind = each.get("ParticipantObjectTypeCode"), each.get("ParticipantObjectTypeCodeRole")
        rule = next((one for one in rules["objects"] if kind == (one["type"], one["role"])), None)
        kinds.append(kind)
        if rule is None or id_type not in rule["id_types"]:
            yield f"an object of kind {kind} by {id_type}"
            continue
        if not each.get("ParticipantObjectID"):
            yield "an object without an ID"
        if rule.get("query") and each.find("ParticipantObjectQuery") is None:
            yield "no query"
        details = [detail.get("type") for detail in each.iter("ParticipantObjectDetail")]
        yield from (f"no detail {name}" for name in rule.get("details", ()) if name not in details)
    allowed = {(one["type"], one["role"]): one["number"] for one in rules["objects"]}
    yield from _number_problems(kinds, allowed, "object")


# RFC 5424 to 5426


class SyslogMessage(NamedTuple):
    """One message."""

    facility: int
    severity: int
    time: dt.datetime
    host: str
    app_name: str
    process: str
    message_id: str
    text: str


_HEADER = re.compile(
    rb"<(0|[1-9][0-9]{0,2})>1 (\S+) "
    rb"([\x21-\x7e]{1,255}) ([\x21-\x7e]{1,48}) ([\x21-\x7e]{1,128}) ([\x21-\x7e]{1,32}) - "
)


def parse_syslog(data):
    """A message of RFC 5424 without structured data; ValueError if it is none."""
    header = _HEADER.match(data)
    if header is None or not data.startswith(b"\xef\xbb\xbf", header.end()):
        raise ValueError(f"no message: {data!r}")
    priority, time, *names = header.groups()
    if re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", time) is None:
        raise ValueError(f"no time: {time!r}")
    return SyslogMessage(
        *divmod(int(priority), 8),
        dt.datetime.fromisoformat(time.decode()),
        *(name.decode() for name in names),
        data[header.end() + 3 :].decode(),
    )


def parse_frames(data):
    """The messages in a stream with octet counting (RFC 5425 4.3), and what is left of an unfinished one."""
    messages = []
    while (head := re.match(rb"([1-9][0-9]*) ", data)) and len(data) >= head.end() + int(head[1]):
        end = head.end() + int(head[1])
        messages.append(data[head.end() : end])
        data = data[end:]
    if data and re.match(rb"[1-9][0-9]*( |$)", data) is None:
        raise ValueError(f"no frame: {data[:40]!r}")
    return messages, data
