"""What is reported: the events of servers and associations, made audit messages and given to the sinks (PS3.15 A.5.3).

Instances are counted, by study, and reported once for each patient and direction when an association ends or a minute
has passed: a message for each would be a burden without use. Study and patient are read from the first bytes of a data
set. Nothing here waits, and nothing is done without a trail.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import socket
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from asyncdicom.elements import inflate_head, scan
from asyncdicom.errors import DataSetError
from asyncdicom.requests import CStoreRequest
from asyncdicom.uids import transfer_syntax

from .messages import (
    APPLICATION_START,
    APPLICATION_STOP,
    DESTINATION,
    LOGIN,
    LOGOUT,
    NODE_AUTHENTICATION,
    SECURITY_CONFIGURATION,
    SOURCE,
    UNKNOWN,
    USE_OF_RESTRICTED_FUNCTION,
    AccessPoint,
    AuditMessage,
    Outcome,
    Participant,
    application_activity,
    begin_transferring,
    instances_transferred,
    query,
    security_alert,
    user_authentication,
)
from .sinks import Record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Collection, Iterable, Sequence
    from types import TracebackType

    from asyncdicom.association import Association
    from asyncdicom.command import Command, Status
    from asyncdicom.data_set import IncomingDataSet
    from asyncdicom.instances import Instance
    from asyncdicom.operations import Response
    from asyncdicom.presentation import PresentationContext
    from asyncdicom.requests import Request

    from .messages import Code
    from .sinks import Sink

__all__ = ["AssociationAudit", "AuditTrail"]

_INTERVAL = 60.0
"""Seconds after which transfers are reported although the association goes on."""

_MAX_ENTRIES = 32
"""Studies, SOP classes and so on that are counted before they are reported: so that messages stay below 32 KiB."""

_MAX_ALERTS = 16
"""Refused requests of an association that are reported: a peer must not fill the trail."""

_FLUSH_TIME = 3.0
"""Seconds for what waits in the sinks when a server ends."""

_HEAD_LENGTH = 8192
_SUBJECT = _PATIENT_ID, _STUDY_INSTANCE_UID = 0x0010_0020, 0x0020_000D

_NAMES = (1, 2)
"""User identities that begin with a name; what those have that the standard does not know may be a secret."""
_CREDENTIALS = {3: "a Kerberos ticket", 4: "a SAML assertion", 5: "a JSON web token"}
"""User identities that say who it is only to those that can verify them (PS3.7 D.3.3.7)."""


class AuditTrail:
    """Where security-relevant events are reported, as audit messages of PS3.15 A.5.

    ``source_id`` says which system reports (AuditSourceID), ``enterprise_site_id`` where it is. ``associations`` has
    also each accepted association reported, as a successful node authentication, beside those that were refused; the
    standard expects that few want that (A.5.3.11).

    A trail may be shared by servers, pools and associations, also of several event loops; a server with ``workers``
    sends it to its processes, each of which opens the sinks anew and reports what it sees, while their parent reports
    what was read again, or could not be. Servers write out what waits when they are closed; who only connects uses the
    trail as an asynchronous context manager, or calls :meth:`close`.

    The messages name patients and users, and contain queries: that is their purpose. They never contain passcodes,
    tickets or tokens.
    """

    def __init__(
        self, source_id: str, sinks: Iterable[Sink], *, enterprise_site_id: str = "", associations: bool = False
    ) -> None:
        self.source_id = source_id
        self.sinks = tuple(sinks)
        self.enterprise_site_id = enterprise_site_id
        self.associations = associations
        self._users = 0
        """Servers and blocks in which it is in use."""

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_users": 0}

    def __repr__(self) -> str:
        return f"AuditTrail({self.source_id!r}, {list(self.sinks)!r})"

    async def __aenter__(self) -> Self:
        self._enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._leave(timeout=5.0)

    async def close(self, timeout: float = 5.0) -> None:
        """Write out what waits, for so many seconds at most; what is reported later opens the sinks anew.

        Cancellation only ends the waiting.
        """
        with contextlib.suppress(TimeoutError):  # where other work has all threads
            async with asyncio.timeout(timeout + 1.0):
                await asyncio.gather(*(asyncio.to_thread(sink.close, timeout) for sink in self.sinks))

    def _enter(self) -> None:
        """One more uses it."""
        self._users += 1

    async def _leave(self, timeout: float = _FLUSH_TIME) -> None:
        """One fewer; what waits is written out, if nobody else uses the trail."""
        self._users -= 1
        if self._users <= 0:
            await self.close(timeout)

    def record(self, message: AuditMessage) -> None:
        """Give a message to all sinks; returns at once, from any thread."""
        time = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        xml = message.to_xml(time=time, source_id=self.source_id, enterprise_site_id=self.enterprise_site_id)
        record = Record(xml, time, message.outcome is not Outcome.SUCCESS)
        for sink in self.sinks:
            sink.put(record)

    # Servers

    def application_started(self, ae_titles: Collection[str] = ()) -> None:
        """A process serves now (A.5.3.1), by these titles."""
        self._enter()
        self.record(application_activity(_process(ae_titles), APPLICATION_START))

    async def application_stopped(self, ae_titles: Collection[str] = ()) -> None:
        """It does so no more; what waits is written out, if nobody else uses the trail."""
        self.record(application_activity(_process(ae_titles), APPLICATION_STOP))
        await self._leave()

    def application_lost(self, process: int, why: str, ae_titles: Collection[str] = ()) -> None:
        """Another process, which served by these titles, has ended and not reported so itself (A.5.3.1)."""
        lost = replace(_process(ae_titles), user_id=str(process))
        self.record(application_activity(lost, APPLICATION_STOP, Outcome.SERIOUS_FAILURE, why))

    def configuration_changed(self, *what: str | os.PathLike[str], error: str = "") -> None:
        """Something that security depends on was read anew, or could not be (A.5.3.11): files, or what a URI names.

        Of several the first one is the participant object, and all are named in the text.
        """
        uri, *more = (Path(each).absolute().as_uri() if isinstance(each, os.PathLike) else each for each in what)
        outcome = Outcome.MINOR_FAILURE if error else Outcome.SUCCESS
        why = f"not read anew, the old one stays: {error}" if error else "read anew"
        why += f" (with {', '.join(more)})" if more else ""
        self.record(security_alert([_process()], SECURITY_CONFIGURATION, uri, outcome, why, is_node=False))

    def handshake_failed(self, address: str, why: str) -> None:
        """A TLS handshake with a node has failed (A.5.3.11)."""
        self.node_refused(address, f"TLS: {why}")

    def node_refused(self, address: str, why: str) -> None:
        """The connection of a node was closed for what came on it, before an association request (A.5.3.11)."""
        self._alert(Participant(address, access_point=AccessPoint(address)), NODE_AUTHENTICATION, why)

    # Associations

    def association_refused(self, association: Association, why: str) -> None:
        """A requestor was sent an A-ASSOCIATE-RJ (A.5.3.11)."""
        words = f"association for {association.called_ae_title!r} refused: {why}"
        self._alert(_peer(association), NODE_AUTHENTICATION, words)

    def association_accepted(self, association: Association, *, is_acceptor: bool) -> AssociationAudit:
        """An association is established; returns what is to be told of what happens on it."""
        if self.associations:
            why = f"association for {association.called_ae_title!r} established"
            peer = _peer(association, is_acceptor=is_acceptor)
            self._alert(peer, NODE_AUTHENTICATION, why, Outcome.SUCCESS)
        return AssociationAudit(self, association, is_acceptor=is_acceptor)

    def user_authenticated(self, association: Association, *, error: str = "") -> None:
        """A requestor's user is who it says it is, or is not (A.5.3.12)."""
        self._user(association, LOGIN, error)

    def _user(self, association: Association, what: Code, error: str = "") -> None:
        outcome = Outcome.MINOR_FAILURE if error else Outcome.SUCCESS
        place = AccessPoint(association.peer_address or UNKNOWN)
        user = Participant(
            _user_name(association), (association.calling_ae_title,), is_requestor=True, access_point=place
        )
        node = _process((association.called_ae_title,))
        self.record(user_authentication(user, node, what, outcome, error))

    def _alert(
        self,
        peer: Participant,
        what: Code,
        why: str,
        outcome: Outcome = Outcome.MINOR_FAILURE,
        users: Sequence[Participant] = (),
    ) -> None:
        self.record(security_alert([_process(), peer, *users], what, peer.access_point.id, outcome, why))


class _Key(NamedTuple):
    """What is reported together, and what is counted in it."""

    is_sent: bool
    originator: str
    """Who asked for it with a C-MOVE; empty if it was the association's requestor."""
    patient: str
    study: str


class AssociationAudit:
    """What the trail is told of one association."""

    def __init__(self, trail: AuditTrail, association: Association, *, is_acceptor: bool) -> None:
        self.trail = trail
        self._association = association
        self._is_acceptor = is_acceptor
        self._subjects: dict[Request, tuple[str, str]] = {}
        """Patient and study of C-STOREs that are being performed."""
        self._counts: dict[_Key, Counter[tuple[bool, str]]] = {}
        """Instances, by whether they were stored, and SOP class."""
        self._entries = 0
        """In these."""
        self._timer: asyncio.TimerHandle | None = None
        self._alerts = 0
        self._has_ended = False
        self.has_user = False
        """Whether a user has logged in, who logs out when the association ends."""

    # The peer's requests

    async def store_begins(self, request: Request) -> None:
        """A C-STORE was received; waits for the bytes that say of whom."""
        assert request.incoming is not None
        found: dict[int, bytes] = {}
        with contextlib.suppress(DataSetError):
            found = await _head(request.incoming)
        self._subjects[request] = subject = _subject(found)
        originator = request.command.move_originator_application_entity_title or ""
        self._begin(_Key(False, originator, *subject), request.sop_class_uid)

    def handled(self, request: Request, answer: Status | None) -> None:
        """A request was performed, and answered with a status, or with nothing as the association has ended."""
        if isinstance(request, CStoreRequest) and (subject := self._subjects.pop(request, None)) is not None:
            key = _Key(False, request.move_originator_ae_title or "", *subject)
            self._add(key, request.sop_class_uid, is_stored=answer is not None and not answer.is_failure)

    def queried(self, context: PresentationContext, command: Command, identifier: bytes, *, is_sent: bool) -> None:
        """A C-FIND was received, or sent."""
        participants = self._participants(is_sent=is_sent)
        sop_class = command.affected_sop_class_uid or ""
        self.trail.record(query(participants, sop_class, context.transfer_syntax, identifier))

    def request_refused(self, command: Command, why: str) -> None:
        """A request is more than the peer, or its user, may do (A.5.3.11); some for each association are reported."""
        self._alerts += 1
        if self._alerts <= _MAX_ALERTS:
            sop_class = command.affected_sop_class_uid or command.requested_sop_class_uid or ""
            words = f"{command.message.name[:-3]} of {sop_class} refused: {why}"
            peer = _peer(self._association, is_acceptor=self._is_acceptor)
            users = [Participant(_user_name(self._association))] if self.has_user else []
            self.trail._alert(peer, USE_OF_RESTRICTED_FUNCTION, words, users=users)

    # The requests of this side

    async def sending(self, instance: Instance, originator: str, perform: Awaitable[Response]) -> Status:
        """Have an instance sent; returns with what it was answered."""
        key = _Key(True, originator, *_subject_of(instance))
        self._begin(key, instance.sop_class_uid)
        is_stored = False
        try:
            status = (await perform).status
            is_stored = not status.is_failure
        finally:
            self._add(key, instance.sop_class_uid, is_stored=is_stored)
        return status

    # Reports

    def ended(self) -> None:
        """The association is over."""
        self._has_ended = True
        self._report()
        if self.has_user:
            self.trail._user(self._association, LOGOUT)

    def _begin(self, key: _Key, sop_class: str) -> None:
        if key in self._counts:
            return
        self._counts[key] = Counter()
        self._entries += 1
        participants = self._participants(is_sent=key.is_sent, originator=key.originator)
        self.trail.record(begin_transferring(participants, key.study, key.patient, sop_class))

    def _add(self, key: _Key, sop_class: str, *, is_stored: bool) -> None:
        counts = self._counts.setdefault(key, Counter())
        self._entries += (is_stored, sop_class) not in counts
        counts[is_stored, sop_class] += 1
        if self._has_ended or self._entries >= _MAX_ENTRIES:
            self._report()
        elif self._timer is None:
            self._timer = self._association._loop.call_later(_INTERVAL, self._report)

    def _report(self) -> None:
        """A message for each patient, direction and outcome."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        counts, self._counts, self._entries = self._counts, {}, 0
        reports: defaultdict[tuple[bool, str, str, bool], defaultdict[str, dict[str, int]]]
        reports = defaultdict(lambda: defaultdict(dict))
        for key, numbers in counts.items():
            for (is_stored, sop_class), number in numbers.items():
                reports[key.is_sent, key.originator, key.patient, is_stored][key.study][sop_class] = number
        for (is_sent, originator, patient, is_stored), studies in reports.items():
            participants = self._participants(is_sent=is_sent, originator=originator)
            outcome = Outcome.SUCCESS if is_stored else Outcome.MINOR_FAILURE
            why = "" if is_stored else "refused by the receiver, or not answered"
            self.trail.record(instances_transferred(participants, studies, patient, outcome, why))

    def _participants(self, *, is_sent: bool, originator: str = "") -> list[Participant]:
        """Source, destination, and third parties."""
        association = self._association
        own, its = association.calling_ae_title, association.called_ae_title
        if self._is_acceptor:
            own, its = its, own
        ours = _process((own,), is_requestor=not self._is_acceptor and not originator)
        theirs = Participant(
            its,
            (its,),
            is_requestor=self._is_acceptor and not originator,
            access_point=AccessPoint(association.peer_address),
        )
        source, destination = (ours, theirs) if is_sent else (theirs, ours)
        participants = [replace(source, role=SOURCE), replace(destination, role=DESTINATION)]
        if originator:
            participants.append(Participant(originator, (originator,), is_requestor=True))
        if self.has_user:
            participants.append(Participant(_user_name(association)))
        return participants


def _process(ae_titles: Collection[str] = (), *, is_requestor: bool = False) -> Participant:
    """This process; a node has one name in all its messages (A.5.2.4)."""
    name = AccessPoint(socket.gethostname(), "1")
    return Participant(str(os.getpid()), sorted(ae_titles), "asyncdicom", is_requestor, access_point=name)


def _peer(association: Association, *, is_acceptor: bool = True) -> Participant:
    """The other side of an association; it has no role."""
    title = association.calling_ae_title if is_acceptor else association.called_ae_title
    return Participant(title, (title,), access_point=AccessPoint(association.peer_address))


def _user_name(association: Association) -> str:
    """Who the user is, or says it is; never what proves it."""
    if verified := getattr(association, "user", ""):
        return str(verified)
    identity = association.user_identity
    if identity is None:
        return UNKNOWN
    if identity.type in _NAMES:
        return identity.primary.decode("utf-8", "backslashreplace")
    credential = _CREDENTIALS.get(identity.type, f"an identity of type {identity.type}")
    return f"the user of {association.calling_ae_title} with {credential}"


async def _head(incoming: IncomingDataSet) -> dict[int, bytes]:
    """What the first bytes of a data set say of it; most often they are here, and in one piece."""
    syntax = transfer_syntax(incoming.file_meta.transfer_syntax_uid)
    if incoming._kept and not syntax.deflated:
        found, is_over = scan(incoming._kept[0].views[0], syntax, _SUBJECT)
        if is_over:
            return found
    return await incoming.head(_SUBJECT, _HEAD_LENGTH)


def _subject(found: dict[int, bytes]) -> tuple[str, str]:
    """Patient ID and Study Instance UID."""
    return _text(found.get(_PATIENT_ID, b"")), _text(found.get(_STUDY_INSTANCE_UID, b""))


def _text(value: bytes) -> str:
    try:
        return value.decode().strip("\0 ")
    except UnicodeDecodeError:
        return value.decode("latin-1").strip("\0 ")


def _subject_of(instance: Instance) -> tuple[str, str]:
    """Patient and study of what is to be sent; without them if it cannot be read, which sending it will tell."""
    syntax = transfer_syntax(instance.transfer_syntax_uid)
    try:
        if instance.path:
            with Path(instance.path).open("rb", buffering=0) as file:
                file.seek(instance.offset)
                head = file.read(_HEAD_LENGTH)
        else:
            head = bytes(instance.data[:_HEAD_LENGTH])
        if syntax.deflated:
            head = inflate_head(head, _HEAD_LENGTH)
        return _subject(scan(head, syntax, _SUBJECT)[0])
    except (OSError, DataSetError):
        return "", ""
