"""The DICOM upper layer protocol machine (PS3.8 9.2): states, events, actions, Table 9-10, and ARTIM as a deadline.

It does no I/O and has no clock. Three things drive it: the local user (:meth:`UpperLayer.associate`, ``accept``,
``reject``, ``send_data``, ``release``, ``respond_to_release``, ``abort``), the transport (``transport_opened``,
``get_buffer`` and ``bytes_received``, ``transport_closed``), and time (``deadline``, ``handle_timer``). It answers with
indications (``indications()``), bytes (``data_to_send()``) and ``close_expected``. Actions only append to these.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from .errors import AbortReason, AbortSource, LocalProtocolError, ProtocolError
from .pdu import Abort, AssociateAC, AssociateRJ, AssociateRQ, PDataTF, ReleaseRP, ReleaseRQ
from .receive_buffer import ReceiveBuffer, SlabPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from .pdu import PDU
    from .receive_buffer import Fragment

__all__ = [
    "TABLE",
    "Event",
    "Indicated",
    "Indication",
    "State",
    "UpperLayer",
]


class State(enum.Enum):
    """PS3.8 Tables 9-1 to 9-5."""

    __hash__ = object.__hash__  # an enum's own is a function in Python

    STA1 = "Idle"
    STA2 = "Transport connection open (awaiting A-ASSOCIATE-RQ PDU)"
    STA3 = "Awaiting local A-ASSOCIATE response primitive"
    STA4 = "Awaiting transport connection opening to complete"
    STA5 = "Awaiting A-ASSOCIATE-AC or A-ASSOCIATE-RJ PDU"
    STA6 = "Association established and ready for data transfer"
    STA7 = "Awaiting A-RELEASE-RP PDU"
    STA8 = "Awaiting local A-RELEASE response primitive"
    STA9 = "Release collision requestor side; awaiting A-RELEASE response primitive"
    STA10 = "Release collision acceptor side; awaiting A-RELEASE-RP PDU"
    STA11 = "Release collision requestor side; awaiting A-RELEASE-RP PDU"
    STA12 = "Release collision acceptor side; awaiting A-RELEASE response primitive"
    STA13 = "Awaiting transport connection close indication"


class Event(enum.Enum):
    """The rows of PS3.8 Table 9-10."""

    __hash__ = object.__hash__

    EVT1 = "A-ASSOCIATE request (local user)"
    EVT2 = "Transport connect confirmation (local transport service)"
    EVT3 = "A-ASSOCIATE-AC PDU received on transport connection"
    EVT4 = "A-ASSOCIATE-RJ PDU received on transport connection"
    EVT5 = "Transport connection indication (local transport service)"
    EVT6 = "A-ASSOCIATE-RQ PDU received on transport connection"
    EVT7 = "A-ASSOCIATE response primitive (accept)"
    EVT8 = "A-ASSOCIATE response primitive (reject)"
    EVT9 = "P-DATA request primitive"
    EVT10 = "P-DATA-TF PDU received on transport connection"
    EVT11 = "A-RELEASE request primitive"
    EVT12 = "A-RELEASE-RQ PDU received on transport connection"
    EVT13 = "A-RELEASE-RP PDU received on transport connection"
    EVT14 = "A-RELEASE response primitive"
    EVT15 = "A-ABORT request primitive"
    EVT16 = "A-ABORT PDU received on transport connection"
    EVT17 = "Transport connection closed indication (local transport service)"
    EVT18 = "Association reject/release timer expired"
    EVT19 = "Unrecognized or invalid PDU received on transport connection"


class Indication(enum.Enum):
    """What the machine tells its user (PS3.8 chapter 7)."""

    ASSOCIATE = "A-ASSOCIATE indication"
    ASSOCIATE_ACCEPTED = "A-ASSOCIATE confirmation (accept)"
    ASSOCIATE_REJECTED = "A-ASSOCIATE confirmation (reject)"
    RELEASE = "A-RELEASE indication"
    RELEASE_COLLISION = "A-RELEASE indication (release collision)"
    RELEASED = "A-RELEASE confirmation"
    ABORT = "A-ABORT indication"
    PROVIDER_ABORT = "A-P-ABORT indication"
    DATA = "P-DATA indication"


class Indicated(NamedTuple):
    """An indication and what it is about."""

    what: Indication
    about: PDU | ProtocolError | list[Fragment] | None = None
    """The PDU that was received, the error in one, or fragments of P-DATA; for a provider abort None means that the
    connection was lost."""


class UpperLayer:
    """One association at the level of PS3.8, either side."""

    def __init__(
        self,
        *,
        requestor: bool,
        max_pdu_length: int,
        artim_timeout: float,
        pool: SlabPool | None = None,
        admit: Callable[[AssociateRQ, AssociateRJ | None], AssociateRJ | None] | None = None,
    ) -> None:
        """``artim_timeout`` is in seconds; ``admit`` is the service provider's judgement of a request (AE-6).

        ``admit`` is given the request, and the rejection for its protocol version, or None; it returns the rejection,
        None for a request that may go to the user. It is called within the action, and leaves the machine alone.
        """
        self.state = State.STA1
        self.is_requestor = requestor
        self.deadline: float | None = None
        """When ARTIM expires, in the caller's clock; None while it does not run."""
        self.close_expected = False
        """The transport connection shall be closed now; what is to be sent goes first."""
        self.error: ProtocolError | None = None
        """What the peer did wrong, once it did."""
        self.has_news = False
        """Something has been put into the outbox or inbox, or a deadline or ``close_expected`` was set."""
        self._artim_timeout = artim_timeout
        self.pool = pool if pool is not None else SlabPool()
        """The receive memory."""
        self._receive = ReceiveBuffer(self.pool, max_pdu_length)
        self._admit = admit
        self._outbox: list[bytes] = []
        self._inbox: list[Indicated] = []
        # What the event that is being handled is about
        self._now = 0.0
        self._pdu: PDU | None = None

    # The local user

    def associate(self, now: float) -> None:
        """A-ASSOCIATE request: the transport shall be opened."""
        self._handle(Event.EVT1, now)

    def accept(self, ac: AssociateAC, now: float) -> None:
        """A-ASSOCIATE response, accept."""
        self._handle(Event.EVT7, now, ac)

    def reject(self, rj: AssociateRJ, now: float) -> None:
        """A-ASSOCIATE response, reject."""
        self._handle(Event.EVT8, now, rj)

    def check_may_send_data(self) -> None:
        """P-DATA request, whose PDUs the caller writes itself (Evt9). Raises LocalProtocolError if it may not."""
        if Event.EVT9 not in TABLE[self.state]:
            raise LocalProtocolError(f"data cannot be sent in state {self.state.name}: {self.state.value}")

    def send_data(self, pdu: PDataTF, now: float) -> None:
        """P-DATA request."""
        self._handle(Event.EVT9, now, pdu)

    def release(self, now: float) -> None:
        """A-RELEASE request."""
        self._handle(Event.EVT11, now)

    def respond_to_release(self, now: float) -> None:
        """A-RELEASE response; it is always affirmative."""
        self._handle(Event.EVT14, now)

    def abort(self, now: float) -> None:
        """A-ABORT request."""
        self._handle(Event.EVT15, now)

    def protocol_error(self, error: ProtocolError, now: float) -> None:
        """The user of this machine found that a PDU it was given breaks the protocol (Evt19)."""
        self.error = error
        if Event.EVT19 in TABLE[self.state]:
            self._handle(Event.EVT19, now)

    # The transport

    def transport_opened(self, now: float, request: AssociateRQ | None = None) -> None:
        """The connection is open: the requestor sends its request (Evt2), the acceptor waits for one (Evt5)."""
        self._handle(Event.EVT2 if self.is_requestor else Event.EVT5, now, request)

    def transport_closed(self, now: float) -> None:
        """The connection is closed, by whomever."""
        if Event.EVT17 in TABLE[self.state]:
            self._handle(Event.EVT17, now)

    @property
    def is_between_pdus(self) -> bool:
        """Whether every PDU that has begun to come has ended."""
        return self._receive.is_between_pdus

    def bytes_received(self, count: int, now: float) -> list[Fragment]:
        """Handle the bytes in the last buffer; returns the P-DATA fragments that go up to the user (DT-2, AR-6).

        They come after the indications that are there; those that came before another PDU are an indication themselves.
        """
        found = self._receive.bytes_received(count)
        if self.state is State.STA6 and self._receive.only_fragments:
            return found  # type: ignore[return-value]
        fragments: list[Fragment] = []
        may_pass = self.state is State.STA6 or self.state is State.STA7
        for item in found:
            if isinstance(item, tuple):  # a fragment: the hot path, no look-up in the table
                if may_pass:
                    fragments.append(item)
                elif Event.EVT10 in TABLE[self.state]:
                    self._handle(Event.EVT10, now)
            else:
                if fragments:
                    self._indicate(Indication.DATA, fragments)
                    fragments = []
                self._handle_pdu(item, now)
                may_pass = self.state is State.STA6 or self.state is State.STA7
        return fragments

    def _handle_pdu(self, item: PDU | ProtocolError, now: float) -> None:
        if isinstance(item, ProtocolError):
            self.protocol_error(item, now)
        elif (event := _PDU_EVENTS[type(item)]) in TABLE[self.state]:
            self._handle(event, now, item)

    # Time

    def handle_timer(self, now: float) -> None:
        """To be called when ``deadline`` has come; earlier calls do nothing."""
        if self.deadline is not None and now >= self.deadline:
            self._handle(Event.EVT18, now)

    # What is owed

    def data_to_send(self) -> bytes:
        """The bytes of the PDUs that the machine has to send, joined: they are few and small. Empties the outbox."""
        data = b"".join(self._outbox)
        self._outbox.clear()
        return data

    def indications(self) -> list[Indicated]:
        """What the user is to be told, in order. Empties the inbox."""
        inbox, self._inbox = self._inbox, []
        return inbox

    # The machine

    def _handle(self, event: Event, now: float, pdu: PDU | None = None) -> None:
        try:
            action = TABLE[self.state][event]
        except KeyError:
            raise LocalProtocolError(f"{event.value}: not possible in {self.state.name}, {self.state.value}") from None
        self._now, self._pdu = now, pdu
        self.state = action(self)
        self._pdu = None
        self.has_news = True

    def _start_artim(self) -> None:
        self.deadline = self._now + self._artim_timeout

    def _stop_artim(self) -> None:
        self.deadline = None

    def _send(self, pdu: PDU) -> None:
        self._outbox.append(pdu.encode())

    def _send_pdu(self) -> None:
        assert self._pdu is not None
        self._send(self._pdu)

    def _indicate(self, what: Indication, about: PDU | ProtocolError | list[Fragment] | None = None) -> None:
        self._inbox.append(Indicated(what, about))

    def _abort_reason(self) -> AbortReason:
        return self.error.reason if self.error is not None else AbortReason.UNEXPECTED_PDU

    # Association establishment related actions (PS3.8 Table 9-6)

    def ae_1(self) -> State:
        """Issue TRANSPORT CONNECT request primitive to local transport service: the caller opens the connection."""
        return State.STA4

    def ae_2(self) -> State:
        """Send A-ASSOCIATE-RQ PDU."""
        self._send_pdu()
        return State.STA5

    def ae_3(self) -> State:
        """Issue A-ASSOCIATE confirmation (accept) primitive."""
        self._indicate(Indication.ASSOCIATE_ACCEPTED, self._pdu)
        return State.STA6

    def ae_4(self) -> State:
        """Issue A-ASSOCIATE confirmation (reject) primitive and close transport connection."""
        self._indicate(Indication.ASSOCIATE_REJECTED, self._pdu)
        self.close_expected = True
        return State.STA1

    def ae_5(self) -> State:
        """Issue transport connection response primitive; start ARTIM timer."""
        self._start_artim()
        return State.STA2

    def ae_6(self) -> State:
        """Stop ARTIM timer and, if the request is acceptable to the service provider, issue A-ASSOCIATE indication.

        Otherwise issue A-ASSOCIATE-RJ PDU and start ARTIM timer.
        """
        assert isinstance(self._pdu, AssociateRQ)
        rejection = None
        if not self._pdu.protocol_version & 1:
            rejection = AssociateRJ(1, 2, 2)  # permanent, ACSE, protocol version not supported
        if self._admit is not None:
            rejection = self._admit(self._pdu, rejection)
        self._stop_artim()
        if rejection is None:
            self._indicate(Indication.ASSOCIATE, self._pdu)
            return State.STA3
        self._send(rejection)
        self._start_artim()
        return State.STA13

    def ae_7(self) -> State:
        """Send A-ASSOCIATE-AC PDU."""
        self._send_pdu()
        return State.STA6

    def ae_8(self) -> State:
        """Send A-ASSOCIATE-RJ PDU and start ARTIM timer."""
        self._send_pdu()
        self._start_artim()
        return State.STA13

    # Data transfer related actions (PS3.8 Table 9-7)

    def dt_1(self) -> State:
        """Send P-DATA-TF PDU."""
        self._send_pdu()
        return State.STA6

    def dt_2(self) -> State:
        """Send P-DATA indication primitive: ``bytes_received`` returns the fragments."""
        return State.STA6

    # Association release related actions (PS3.8 Table 9-8)

    def ar_1(self) -> State:
        """Send A-RELEASE-RQ PDU."""
        self._send(ReleaseRQ())
        return State.STA7

    def ar_2(self) -> State:
        """Issue A-RELEASE indication primitive."""
        self._indicate(Indication.RELEASE)
        return State.STA8

    def ar_3(self) -> State:
        """Issue A-RELEASE confirmation primitive, and close transport connection."""
        self._indicate(Indication.RELEASED)
        self.close_expected = True
        return State.STA1

    def ar_4(self) -> State:
        """Issue A-RELEASE-RP PDU and start ARTIM timer."""
        self._send(ReleaseRP())
        self._start_artim()
        return State.STA13

    def ar_5(self) -> State:
        """Stop ARTIM timer."""
        self._stop_artim()
        return State.STA1

    def ar_6(self) -> State:
        """Issue P-DATA indication: ``bytes_received`` returns the fragments."""
        return State.STA7

    def ar_7(self) -> State:
        """Issue P-DATA-TF PDU."""
        self._send_pdu()
        return State.STA8

    def ar_8(self) -> State:
        """Issue A-RELEASE indication (release collision); the requestor of the association is to answer first."""
        self._indicate(Indication.RELEASE_COLLISION)
        return State.STA9 if self.is_requestor else State.STA10

    def ar_9(self) -> State:
        """Send A-RELEASE-RP PDU."""
        self._send(ReleaseRP())
        return State.STA11

    def ar_10(self) -> State:
        """Issue A-RELEASE confirmation primitive."""
        self._indicate(Indication.RELEASED)
        return State.STA12

    # Association abort related actions (PS3.8 Table 9-9)

    def aa_1(self) -> State:
        """Send A-ABORT PDU (service-user source) and start (or restart if already started) ARTIM timer."""
        if self.state is State.STA2 and self.error is None:
            self.error = ProtocolError("the first PDU is not an association request", AbortReason.UNEXPECTED_PDU)
        self._send(Abort(AbortSource.SERVICE_USER, AbortReason.NOT_SPECIFIED))
        self._start_artim()
        return State.STA13

    def aa_2(self) -> State:
        """Stop ARTIM timer if running. Close transport connection."""
        self._stop_artim()
        self.close_expected = True
        return State.STA1

    def aa_3(self) -> State:
        """Issue A-ABORT or A-P-ABORT indication, by the source in the PDU, and close transport connection."""
        assert isinstance(self._pdu, Abort)
        by_user = self._pdu.source == AbortSource.SERVICE_USER
        self._indicate(Indication.ABORT if by_user else Indication.PROVIDER_ABORT, self._pdu)
        self.close_expected = True
        return State.STA1

    def aa_4(self) -> State:
        """Issue A-P-ABORT indication primitive."""
        self._indicate(Indication.PROVIDER_ABORT)
        return State.STA1

    def aa_5(self) -> State:
        """Stop ARTIM timer."""
        self._stop_artim()
        return State.STA1

    def aa_6(self) -> State:
        """Ignore PDU."""
        return State.STA13

    def aa_7(self) -> State:
        """Send A-ABORT PDU."""
        self._send(Abort(AbortSource.SERVICE_PROVIDER, self._abort_reason()))
        return State.STA13

    def aa_8(self) -> State:
        """Send A-ABORT PDU (service-provider source), issue an A-P-ABORT indication, and start ARTIM timer."""
        reason = self._abort_reason()
        if self.error is None:
            self.error = ProtocolError(f"unexpected PDU in {self.state.name}: {self.state.value}", reason)
        self._send(Abort(AbortSource.SERVICE_PROVIDER, reason))
        self._indicate(Indication.PROVIDER_ABORT, self.error)
        self._start_artim()
        return State.STA13


_PDU_EVENTS: dict[type, Event] = {
    AssociateAC: Event.EVT3,
    AssociateRJ: Event.EVT4,
    AssociateRQ: Event.EVT6,
    PDataTF: Event.EVT10,
    ReleaseRQ: Event.EVT12,
    ReleaseRP: Event.EVT13,
    Abort: Event.EVT16,
}


def _table() -> dict[State, dict[Event, Callable[[UpperLayer], State]]]:
    """PS3.8 Table 9-10, row by row as it is printed; a dash is a blank cell."""
    rows = """
        Evt1   AE-1 -    -    -    -    -    -    -    -    -     -    -    -
        Evt2   -    -    -    AE-2 -    -    -    -    -    -     -    -    -
        Evt3   -    AA-1 AA-8 -    AE-3 AA-8 AA-8 AA-8 AA-8 AA-8  AA-8 AA-8 AA-6
        Evt4   -    AA-1 AA-8 -    AE-4 AA-8 AA-8 AA-8 AA-8 AA-8  AA-8 AA-8 AA-6
        Evt5   AE-5 -    -    -    -    -    -    -    -    -     -    -    -
        Evt6   -    AE-6 AA-8 -    AA-8 AA-8 AA-8 AA-8 AA-8 AA-8  AA-8 AA-8 AA-7
        Evt7   -    -    AE-7 -    -    -    -    -    -    -     -    -    -
        Evt8   -    -    AE-8 -    -    -    -    -    -    -     -    -    -
        Evt9   -    -    -    -    -    DT-1 -    AR-7 -    -     -    -    -
        Evt10  -    AA-1 AA-8 -    AA-8 DT-2 AR-6 AA-8 AA-8 AA-8  AA-8 AA-8 AA-6
        Evt11  -    -    -    -    -    AR-1 -    -    -    -     -    -    -
        Evt12  -    AA-1 AA-8 -    AA-8 AR-2 AR-8 AA-8 AA-8 AA-8  AA-8 AA-8 AA-6
        Evt13  -    AA-1 AA-8 -    AA-8 AA-8 AR-3 AA-8 AA-8 AR-10 AR-3 AA-8 AA-6
        Evt14  -    -    -    -    -    -    -    AR-4 AR-9 -     -    AR-4 -
        Evt15  -    -    AA-1 AA-2 AA-1 AA-1 AA-1 AA-1 AA-1 AA-1  AA-1 AA-1 -
        Evt16  -    AA-2 AA-3 -    AA-3 AA-3 AA-3 AA-3 AA-3 AA-3  AA-3 AA-3 AA-2
        Evt17  -    AA-5 AA-4 AA-4 AA-4 AA-4 AA-4 AA-4 AA-4 AA-4  AA-4 AA-4 AR-5
        Evt18  -    AA-2 -    -    -    -    -    -    -    -     -    -    AA-2
        Evt19  -    AA-1 AA-8 -    AA-8 AA-8 AA-8 AA-8 AA-8 AA-8  AA-8 AA-8 AA-7
    """
    table: dict[State, dict[Event, Callable[[UpperLayer], State]]] = {state: {} for state in State}
    for row in rows.split("\n")[1:-1]:
        name, *cells = row.split()
        for state, cell in zip(State, cells, strict=True):
            if cell != "-":
                table[state][Event[name.upper()]] = getattr(UpperLayer, cell.lower().replace("-", "_"))
    return table


TABLE = _table()
"""PS3.8 Table 9-10: by state and event the action, which returns the next state. A blank cell is a missing key."""
