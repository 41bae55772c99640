"""Audit messages as XML (PS3.15 A.5): the schema of A.5.1, and what A.5.3 makes of it for each kind of event.

No clock and no I/O: who reports an event says when it was and who was there.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "APPLICATION_START",
    "APPLICATION_STOP",
    "DESTINATION",
    "LOGIN",
    "LOGOUT",
    "MAX_QUERY",
    "NODE_AUTHENTICATION",
    "SECURITY_CONFIGURATION",
    "SOURCE",
    "UNKNOWN",
    "USE_OF_RESTRICTED_FUNCTION",
    "AccessPoint",
    "AuditMessage",
    "Code",
    "Outcome",
    "Participant",
    "ParticipantObject",
    "application_activity",
    "begin_transferring",
    "clean",
    "instances_transferred",
    "query",
    "security_alert",
    "user_authentication",
]


class Code(NamedTuple):
    """A coded value (PS3.16 Annex D, unless another system is named)."""

    value: str
    meaning: str
    system: str = "DCM"


# CID 400, what happened
_APPLICATION_ACTIVITY = Code("110100", "Application Activity")
_BEGIN_TRANSFERRING = Code("110102", "Begin Transferring DICOM Instances")
_INSTANCES_TRANSFERRED = Code("110104", "DICOM Instances Transferred")
_QUERY = Code("110112", "Query")
_SECURITY_ALERT = Code("110113", "Security Alert")
_USER_AUTHENTICATION = Code("110114", "User Authentication")

# CID 401, of which type
APPLICATION_START = Code("110120", "Application Start")
APPLICATION_STOP = Code("110121", "Application Stop")
LOGIN = Code("110122", "Login")
LOGOUT = Code("110123", "Logout")
NODE_AUTHENTICATION = Code("110126", "Node Authentication")
SECURITY_CONFIGURATION = Code("110129", "Security Configuration")
USE_OF_RESTRICTED_FUNCTION = Code("110132", "Use of Restricted Function")

# CID 402, in which role
_APPLICATION = Code("110150", "Application")
DESTINATION = Code("110152", "Destination Role ID")
SOURCE = Code("110153", "Source Role ID")

# CID 404, by what an object is identified
_STUDY_INSTANCE_UID = Code("110180", "Study Instance UID")
_SOP_CLASS_UID = Code("110181", "SOP Class UID")
_NODE_ID = Code("110182", "Node ID")
_PATIENT_NUMBER = Code("2", "Patient Number", "RFC-3881")
_URI = Code("12", "URI", "RFC-3881")

UNKNOWN = "<none>"
"""Where the standard wants an identifier that nobody knows; other archives write the same."""

MAX_QUERY = 16 << 10
"""Bytes of a query that are reported: receivers need not take messages of more than 32 KiB (PS3.15 A.6)."""

_MAX_TEXT = 1024
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
"""What XML 1.0 forbids or a log would take for the end of a line."""


def clean(text: str) -> str:
    """Text from a peer as an XML document and a line of a log can have it; beyond 1,024 characters it is cut."""
    if len(text) > _MAX_TEXT:
        text = text[:_MAX_TEXT] + "..."
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode-escape").decode(), text)


class Outcome(IntEnum):
    """EventOutcomeIndicator."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    """Of a security alert: what was done against it was effective."""
    SERIOUS_FAILURE = 8
    MAJOR_FAILURE = 12


class AccessPoint(NamedTuple):
    """Where in the network somebody is."""

    id: str = ""
    type: str = "2"
    """1 machine name, 2 IP address."""


_NOWHERE = AccessPoint()


@dataclass(frozen=True, slots=True)
class Participant:
    """Who takes part in an event (ActiveParticipant)."""

    user_id: str
    ae_titles: Sequence[str] = ()
    name: str = ""
    is_requestor: bool = False
    role: Code | None = None
    access_point: AccessPoint = _NOWHERE

    def _add_to(self, parent: ET.Element) -> None:
        attributes = {"UserID": clean(self.user_id or UNKNOWN), "UserIsRequestor": str(self.is_requestor).lower()}
        if self.ae_titles:
            attributes["AlternativeUserID"] = clean("AETITLES=" + ";".join(self.ae_titles))
        if self.name:
            attributes["UserName"] = clean(self.name)
        if self.access_point.id:
            attributes["NetworkAccessPointID"] = clean(self.access_point.id)
            attributes["NetworkAccessPointTypeCode"] = self.access_point.type
        element = ET.SubElement(parent, "ActiveParticipant", attributes)
        if self.role is not None:
            _add_code(element, "RoleIDCode", self.role)


@dataclass(frozen=True, slots=True)
class ParticipantObject:
    """What an event is about (ParticipantObjectIdentification)."""

    id: str
    id_type: Code
    type: str
    """1 person, 2 system object."""
    role: str
    """1 patient, 3 report, 13 security resource, ... (A.5.1.2.2)."""
    name: str = ""
    query: bytes | None = None
    details: Sequence[tuple[str, bytes]] = ()
    sop_classes: Mapping[str, int] | None = None
    """Numbers of instances by SOP Class UID."""

    def _add_to(self, parent: ET.Element) -> None:
        attributes = {
            "ParticipantObjectID": clean(self.id or UNKNOWN),
            "ParticipantObjectTypeCode": self.type,
            "ParticipantObjectTypeCodeRole": self.role,
        }
        element = ET.SubElement(parent, "ParticipantObjectIdentification", attributes)
        _add_code(element, "ParticipantObjectIDTypeCode", self.id_type)
        if self.query is not None:  # the schema wants one of these two
            ET.SubElement(element, "ParticipantObjectQuery").text = b64encode(self.query).decode()
        else:
            ET.SubElement(element, "ParticipantObjectName").text = clean(self.name)
        for type_, value in self.details:
            detail = {"type": type_, "value": b64encode(value).decode()}
            ET.SubElement(element, "ParticipantObjectDetail", detail)
        if self.sop_classes:
            description = ET.SubElement(element, "ParticipantObjectDescription")
            for uid, number in self.sop_classes.items():
                ET.SubElement(description, "SOPClass", {"UID": clean(uid), "NumberOfInstances": str(number)})


@dataclass(frozen=True, slots=True)
class AuditMessage:
    """One event, and who and what belongs to it."""

    event: Code
    action: str
    """EventActionCode: C create, R read, U update, D delete, E execute."""
    participants: Sequence[Participant]
    objects: Sequence[ParticipantObject] = ()
    type: Code | None = None
    outcome: Outcome = Outcome.SUCCESS
    why: str = ""
    """EventOutcomeDescription."""

    def to_xml(self, *, time: str, source_id: str, enterprise_site_id: str = "") -> str:
        """The message as one line; ``time`` is of the event, with its time zone (A.5.2.5)."""
        root = ET.Element("AuditMessage")
        attributes = {
            "EventActionCode": self.action,
            "EventDateTime": time,
            "EventOutcomeIndicator": str(int(self.outcome)),
        }
        event = ET.SubElement(root, "EventIdentification", attributes)
        _add_code(event, "EventID", self.event)
        if self.type is not None:
            _add_code(event, "EventTypeCode", self.type)
        if self.why:
            ET.SubElement(event, "EventOutcomeDescription").text = clean(self.why)
        for participant in self.participants:
            participant._add_to(root)
        source = {"AuditEnterpriseSiteID": clean(enterprise_site_id)} if enterprise_site_id else {}
        element = ET.SubElement(root, "AuditSourceIdentification", source | {"AuditSourceID": clean(source_id)})
        ET.SubElement(element, "AuditSourceTypeCode", {"csd-code": "4"})  # application server process
        for each in self.objects:
            each._add_to(root)
        return '<?xml version="1.0" encoding="UTF-8"?>' + ET.tostring(root, encoding="unicode")


def _add_code(parent: ET.Element, name: str, code: Code) -> None:
    attributes = {"csd-code": code.value, "codeSystemName": code.system, "originalText": code.meaning}
    ET.SubElement(parent, name, attributes)


def application_activity(
    process: Participant, what: Code, outcome: Outcome = Outcome.SUCCESS, why: str = ""
) -> AuditMessage:
    """A process begins or ends to serve (A.5.3.1)."""
    application = Participant(
        process.user_id, process.ae_titles, process.name, role=_APPLICATION, access_point=process.access_point
    )
    return AuditMessage(_APPLICATION_ACTIVITY, "E", [application], type=what, outcome=outcome, why=why)


def begin_transferring(participants: Sequence[Participant], study: str, patient: str, sop_class: str) -> AuditMessage:
    """Instances of a study begin to go from one node to another (A.5.3.3); ``sop_class`` is of the first one."""
    objects = (_study(study, details=[("ContainsSOPClass", sop_class.encode())]), _patient(patient))
    return AuditMessage(_BEGIN_TRANSFERRING, "E", participants, objects)


def instances_transferred(
    participants: Sequence[Participant],
    studies: Mapping[str, Mapping[str, int]],
    patient: str,
    outcome: Outcome = Outcome.SUCCESS,
    why: str = "",
) -> AuditMessage:
    """Instances of one patient have gone from one node to another (A.5.3.7): their numbers by study and SOP class.

    The action is to read, as whoever reports does not know whether the receiver had them before.
    """
    objects = [_study(study, sop_classes) for study, sop_classes in studies.items()]
    return AuditMessage(
        _INSTANCES_TRANSFERRED, "R", participants, (*objects, _patient(patient)), outcome=outcome, why=why
    )


def query(participants: Sequence[Participant], sop_class: str, transfer_syntax: str, identifier: bytes) -> AuditMessage:
    """A query was made (A.5.3.10); what comes of it is another message's business."""
    asked = ParticipantObject(
        sop_class,
        _SOP_CLASS_UID,
        type="2",
        role="3",
        query=identifier[:MAX_QUERY],
        details=[("TransferSyntax", transfer_syntax.encode())],
    )
    why = f"the query has {len(identifier)} bytes, of which this is the beginning" * (len(identifier) > MAX_QUERY)
    return AuditMessage(_QUERY, "E", participants, [asked], why=why)


def security_alert(
    participants: Sequence[Participant], what: Code, subject: str, outcome: Outcome, why: str, *, is_node: bool = True
) -> AuditMessage:
    """Something that concerns security (A.5.3.11): ``subject`` is the address of a node, or else a URI."""
    about = ParticipantObject(
        subject,
        _NODE_ID if is_node else _URI,
        type="2",
        role="13",
        details=[("Alert Description", clean(why).encode())],
    )
    return AuditMessage(_SECURITY_ALERT, "E", participants, [about], what, outcome, why)


def user_authentication(
    user: Participant, node: Participant, what: Code, outcome: Outcome = Outcome.SUCCESS, why: str = ""
) -> AuditMessage:
    """A user has come, has tried to, or has left (A.5.3.12)."""
    return AuditMessage(_USER_AUTHENTICATION, "E", [user, node], type=what, outcome=outcome, why=why)


def _study(
    uid: str, sop_classes: Mapping[str, int] | None = None, details: Sequence[tuple[str, bytes]] = ()
) -> ParticipantObject:
    return ParticipantObject(uid, _STUDY_INSTANCE_UID, type="2", role="3", sop_classes=sop_classes, details=details)


def _patient(identifier: str) -> ParticipantObject:
    return ParticipantObject(identifier, _PATIENT_NUMBER, type="1", role="1")
