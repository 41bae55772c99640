"""The acceptor's side: :func:`serve`, and the :class:`Server` that dispatches to handlers, limits, and drains.

Until a connection has sent a valid association request it costs no task and no place: ARTIM bounds its time, and when
there are too many of its kind the oldest goes first (PS3.8 9.1.4, 9.2).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import logging
import os
from typing import TYPE_CHECKING, Any

from .access import AccessPolicy, Limits, Refusal
from .association import Association, Timeouts, _finite
from .client import DEFAULT_MAX_PDU_LENGTH, DEFAULT_MAX_SEND_PDU_LENGTH
from .command import Category
from .door import BACKLOG, Acceptor, Door, Visitor, can_watch, listening_sockets, networks_of
from .errors import AssociationAborted, AssociationReleased, IdentityRefused, LocalProtocolError, describe_rejection
from .identity import User
from .pdu import AssociateAC, AssociateRJ, AssociateRQ, UserInformation, check_ae_title, check_pdu_lengths
from .presentation import (
    STORAGE_TRANSFER_SYNTAXES,
    AcceptancePolicy,
    AsyncOperationsWindow,
    Context,
    accept_contexts,
    agreed_window,
    as_contexts,
)
from .receive_buffer import MEMORY_LIMIT, SlabPool
from .reloading import Reloadable
from .requests import CStoreRequest, Handlers
from .retrieve import Retriever
from .transport import set_options
from .uids import (
    APPLICATION_CONTEXT,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    PATIENT_ROOT_FIND,
    PATIENT_ROOT_GET,
    PATIENT_ROOT_MOVE,
    STORAGE_SOP_CLASSES,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    VERIFICATION,
)
from .upper_layer import State, UpperLayer

if TYPE_CHECKING:
    import socket
    import ssl as ssl_module
    from collections.abc import Awaitable, Callable, Collection, Generator, Iterable, Sequence
    from types import TracebackType

    from .access import Admission
    from .audit import AuditTrail
    from .command import Command, Status
    from .door import Network
    from .pdu import UserIdentity
    from .presentation import Negotiated
    from .requests import CStoreHandler, Handler, Request, Service
    from .retrieve import MoveDestinations
    from .upper_layer import Indicated

    IdentityCheck = Callable[[UserIdentity | None, Association], Awaitable[User | bool | bytes | None]]

__all__ = ["Server", "Statistics", "serve", "storage_contexts"]

_log = logging.getLogger("asyncdicom")

_MAX_PENDING = 1000
"""Connections that have not sent an association request; beyond it the oldest is dropped for the newest."""


def storage_contexts(transfer_syntaxes: Iterable[str] = STORAGE_TRANSFER_SYNTAXES) -> list[Context]:
    """A context for every storage SOP class, by default with every transfer syntax that can be kept as it comes."""
    syntaxes = tuple(transfer_syntaxes)
    return [Context(uid, syntaxes) for uid in STORAGE_SOP_CLASSES]


@dataclasses.dataclass(slots=True)
class Statistics:
    """What a server has done since it began. Two of them can be added."""

    associations: int = 0
    """Established now."""
    accepted: int = 0
    """Associations, those that are over among them."""
    rejected: int = 0
    """Association requests."""
    aborted: int = 0
    """Associations that ended in another way than by a release."""
    instances: int = 0
    """C-STOREs that were answered with success or a warning."""
    failures: int = 0
    """C-STOREs that a handler had, and that were answered with a failure or not at all."""
    bytes: int = 0
    """Of the instances' data sets."""
    turned_away: int = 0
    """Connections that were closed with a line in the log before they could send an association request: as a TLS
    handshake failed or took too long, as it was no TLS where that is spoken, or a PROXY header was not as it has to be;
    or as there were too many. Plain servers without proxies count none.
    """

    def __add__(self, other: Statistics) -> Statistics:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Statistics(*(mine + its for mine, its in pairs))


class Server(Reloadable):
    """A running server; made by :func:`serve`."""

    def __init__(
        self,
        *,
        ae_title: str | Collection[str] | None,
        calling_ae_titles: str | Collection[str] | None,
        handlers: Handlers,
        window: AsyncOperationsWindow,
        user_identity: IdentityCheck | None,
        policy: AcceptancePolicy,
        timeouts: Timeouts,
        max_associations: int,
        memory_limit: int,
        max_pdu_length: int,
        max_send_pdu_length: int,
        require_context: bool,
        access: AccessPolicy | None,
        processes: int,
        ssl: ssl_module.SSLContext | Callable[[], ssl_module.SSLContext] | None = None,
        proxies: Sequence[Network] = (),
        audit: AuditTrail | None = None,
    ) -> None:
        super().__init__(ssl=ssl)
        check_pdu_lengths(max_pdu_length, max_send_pdu_length)
        self._ae_titles = _titles(ae_title)
        self._calling_ae_titles = _titles(calling_ae_titles)
        self._handlers = handlers
        self._window = window
        self._check_identity = user_identity
        self._policy = policy
        self._timeouts = timeouts
        self._max_associations = max_associations
        self._max_pdu_length = max_pdu_length
        self._max_send_pdu_length = max_send_pdu_length
        self._require_context = require_context
        self._access: AccessPolicy | None = access
        self._limits = Limits(processes)
        self._audit = audit
        self._pool = SlabPool(limit=memory_limit, associations=max_associations)
        self._pending: dict[Association | Visitor, Callable[[], None]] = {}
        """Connections without an association, not yet or no more, the oldest first; and how to close them at once."""
        self._associations: dict[Association, None] = {}
        self._statistics = Statistics()
        self._checks: dict[Association, asyncio.Task[None]] = {}
        """Of identities of users, while associations wait for them."""
        self._waiting: list[asyncio.Future[None]] = []
        """For whoever waits until there are fewer associations or connections."""
        self._closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._listener: asyncio.Server | Acceptor | None = None
        self._proxies = proxies
        self._door = Door(
            make_protocol=self._make_connection,
            entered=lambda visitor: self._enter(visitor, visitor.end),
            left=self._gone,
            refused=self._turn_away,
            context=lambda: self._ssl,
            proxies=proxies,
            timeout=timeouts.acse,
            tls_timeout=timeouts.tls,
        )

    @property
    def associations(self) -> tuple[Association, ...]:
        """The established ones of this process, the oldest first."""
        return tuple(self._associations)

    @property
    def processes(self) -> tuple[int, ...]:
        """The IDs of the processes that serve."""
        return (os.getpid(),)

    @property
    def statistics(self) -> Statistics:
        """What it has done until now."""
        return dataclasses.replace(self._statistics, associations=len(self._associations))

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each listening socket."""
        sockets = self._listener.sockets if self._listener is not None else ()
        return [sock.getsockname()[:2] for sock in sockets]

    @property
    def port(self) -> int:
        """The port that it listens on; useful when 0 was asked for."""
        return self.addresses[0][1]

    @property
    def access(self) -> AccessPolicy | None:
        """The access policy by which associations are judged that begin now."""
        return self._access

    def replace_access(self, policy: AccessPolicy) -> None:
        """Judge what begins from now on by another access policy.

        Running associations keep theirs; what rules have counted goes on under their names. :meth:`reload` reads the
        file of the present one again.
        """
        self._replace({"_access": policy})

    async def serve_forever(self) -> None:
        """Wait until the server is closed. Cancellation only ends the waiting.

        Raises RuntimeError when a worker has ended and its successors do not come up.
        """
        await asyncio.shield(self._closing)

    async def close(self, drain: float = 10.0) -> None:
        """Take no new associations, give the running ones ``drain`` seconds to end, then abort them.

        On cancellation everything is closed at once.
        """
        if self._listener is not None:
            self._listener.close()
        if not self._closing.done():
            self._closing.set_result(None)
        self._end_reloading()
        for each, kill in tuple(self._pending.items()):
            if not isinstance(each, Association) or each._connection.upper_layer.state in (State.STA2, State.STA3):
                kill()
        for task in self._checks.values():
            task.cancel()
        try:
            await self._wait_until(lambda: not self._associations, drain)
            for association in tuple(self._associations):
                association._abort_now()
            await self._wait_until(lambda: not self._pending, _ABORT_TIME)
        finally:
            for kill in (*self._pending.values(), *(each._connection.kill for each in self._associations)):
                kill()
        await self._wait_until(lambda: not self._pending and not self._door.tasks, _ABORT_TIME)
        audit, self._audit = self._audit, None
        if audit is not None:
            await audit.application_stopped(self._ae_titles or ())

    async def _wait_until(self, condition: Callable[[], bool], timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not condition():
                    change = asyncio.get_running_loop().create_future()
                    self._waiting.append(change)
                    await change

    def _changed(self) -> None:
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            if not change.done():
                change.set_result(None)

    def _audit_start(self) -> None:
        """It serves now."""
        if self._audit is not None:
            self._audit.application_started(self._ae_titles or ())

    # Connections

    def _enter(self, connection: Association | Visitor, kill: Callable[[], None]) -> None:
        """One more without an association."""
        self._pending[connection] = kill
        if len(self._pending) > _MAX_PENDING:
            silent = self._door.silent  # if it is they that are many, those who have begun to speak shall not suffer
            oldest = next(iter(silent if len(silent) > _MAX_PENDING // 2 else self._pending))
            _log.warning("= dropping the oldest of %d connections without an association request", len(self._pending))
            self._statistics.turned_away += isinstance(oldest, Visitor)
            self._pending.pop(oldest)()

    def _make_connection(self, visitor: Visitor | None = None) -> asyncio.BufferedProtocol:
        """The protocol of a new connection: state Sta2, ARTIM running, nothing else."""
        upper_layer = UpperLayer(
            requestor=False,
            max_pdu_length=self._max_pdu_length,
            artim_timeout=self._timeouts.acse,
            pool=self._pool,
            admit=lambda request, rejection: self._admit(association, request, rejection),
        )
        association = Association(
            upper_layer,
            self._timeouts,
            max_send_pdu_length=self._max_send_pdu_length,
            handlers=self._handlers,
            on_associate=self._associate,
            on_handled=self._handled,
            on_refused=self._refused,
            on_end=self._ended,
            on_close=self._gone,
        )
        opened = association._connection.now()
        if visitor is not None:
            self._pending.pop(visitor, None)
            opened = visitor.arrived
            association._connection.origin, association.proxy_address = visitor.address, visitor.proxy_address
        self._enter(association, association._connection.kill)
        upper_layer.transport_opened(opened)
        association._connection.wake_at(upper_layer.deadline or 0.0)
        return association._connection

    def _turn_away(self, visitor: Visitor, why: str) -> None:
        """A connection is closed before it has sent an association request."""
        self._statistics.turned_away += 1
        _log.warning("= closing the connection from %s: %s", visitor.address, why)
        if visitor.has_failed and self._audit is not None:
            self._audit.node_refused(visitor.address, why)

    def _admit(
        self, association: Association, request: AssociateRQ, rejection: AssociateRJ | None
    ) -> AssociateRJ | None:
        """The service provider's judgement of a request (AE-6): a version that we speak, and a place for it."""
        association.called_ae_title = request.called_ae_title
        association.calling_ae_title = request.calling_ae_title
        association.peer_address = association._connection.peer_address()
        refusal = self._lacks_place() if rejection is None else Refusal(rejection, "")
        if refusal is None:
            return None
        self._tell_of_rejection(association, *refusal)
        return refusal.rejection

    def _lacks_place(self) -> Refusal | None:
        """Whether nobody can be taken now."""
        if self._closing.done():
            return Refusal(_LOCAL_LIMIT, "the server is closing")
        if len(self._associations) >= self._max_associations:
            whose = " in this process" if self._limits.processes > 1 else ""
            words = f"{len(self._associations)} associations, {self._max_associations} allowed{whose}"
            return Refusal(_LOCAL_LIMIT, words)
        return None

    def _associate(self, association: Association, indicated: Indicated) -> None:
        """A-ASSOCIATE indication: accept or reject, there and then."""
        request = indicated.about
        assert isinstance(request, AssociateRQ)
        if association._connection.upper_layer.state is not State.STA3:
            return  # what came behind the request has ended it already
        _log.debug("< %s", request)
        user = request.user_information
        association.user_identity = user.user_identity
        negotiated = accept_contexts(request.presentation_contexts, user.roles, self._policy, user.extended)
        access = self._access  # by which all of it is judged, whatever comes meanwhile
        refusal = self._refuse(request, accepted=bool(negotiated.contexts))
        if refusal is None and access is not None and self._check_identity is not None:
            judged = access.judge(association, user_known=False)  # who cannot be admitted need not be checked
            refusal = judged if isinstance(judged, Refusal) else None
        if refusal is not None:
            self._reject_association(association, *refusal)
        elif self._check_identity is not None:
            task = asyncio.create_task(self._check(association, request, negotiated, access))
            self._checks[association] = task
            task.add_done_callback(lambda task: self._checked(association, task))
        else:
            self._admit_association(association, request, negotiated, access)

    async def _check(
        self, association: Association, request: AssociateRQ, negotiated: Negotiated, access: AccessPolicy | None
    ) -> None:
        """Ask whether the user is who it says (PS3.7 D.3.3.7), and go on."""
        assert self._check_identity is not None
        identity = association.user_identity
        refusal: Refusal | None = None
        response: bytes | None = None
        try:
            async with asyncio.timeout(_finite(self._timeouts.acse)):
                answer: object = await self._check_identity(identity, association)
            if isinstance(answer, User):
                association.user, answer = answer.name, answer.response
            if answer is False or answer is None:
                refusal = Refusal(_NOT_AUTHENTICATED, _NOT_CONFIRMED)
            elif answer is not True and not isinstance(answer, bytes):
                kind = type(answer).__name__
                raise TypeError(f"the check of a user identity returned {kind}, not a bool or bytes, and no User")
            elif identity is not None and identity.positive_response_requested:
                response = answer if isinstance(answer, bytes) else b""
        except TimeoutError:
            refusal = Refusal(AssociateRJ(2, 3, 1), "the user identity was not checked in time")
        except IdentityRefused as error:
            rejection = AssociateRJ(2, 3, 1) if error.is_transient else _NOT_AUTHENTICATED
            refusal = Refusal(rejection, str(error) or _NOT_CONFIRMED)
        except Exception:  # noqa: BLE001 - logged; nobody is let in by a mistake
            _log.exception("= checking the identity of a user of %r failed", association)
            refusal = Refusal(_NOT_AUTHENTICATED, "checking the user identity failed")
        if association._ended is not None or association._connection.upper_layer.state is not State.STA3:
            return
        if self._audit is not None and identity is not None:
            self._audit.user_authenticated(association, error=refusal.why if refusal is not None else "")
        refusal = refusal or self._lacks_place()
        if refusal is not None:
            self._reject_association(association, *refusal)
        else:
            self._admit_association(association, request, negotiated, access, response)

    def _checked(self, association: Association, task: asyncio.Task[None]) -> None:
        """A check is over; one that did not say how it goes on leaves nothing to be done but close."""
        del self._checks[association]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("= checking the identity of a user of %r failed", association, exc_info=error)
        if association._connection.upper_layer.state is State.STA3:
            association._connection.kill()

    def _admit_association(
        self,
        association: Association,
        request: AssociateRQ,
        negotiated: Negotiated,
        access: AccessPolicy | None,
        identity_response: bytes | None = None,
    ) -> None:
        """Judge it by the access policy, now that the user is known, and answer."""
        admitted: Admission | Refusal | None = None
        if access is not None:
            judged = access.judge(association)
            if isinstance(judged, Refusal):
                admitted = judged
            else:
                negotiated = negotiated.restricted(judged.permits)
                if self._require_context and not negotiated.contexts:
                    admitted = Refusal(_NO_REASON, f"rule {judged.name!r} allows none of the SOP classes")
                else:
                    admitted = self._limits.admit(judged, association._connection.now())
        if isinstance(admitted, Refusal):
            self._reject_association(association, *admitted)
        else:
            association._admission = admitted
            self._accept_association(association, request, negotiated, identity_response)

    def _reject_association(self, association: Association, rejection: AssociateRJ, why: str = "") -> None:
        """Refuse it, on behalf of the service user."""
        self._tell_of_rejection(association, rejection, why)
        association._connection.upper_layer.reject(rejection, association._connection.now())
        association._connection.flush()

    def _tell_of_rejection(self, association: Association, rejection: AssociateRJ, why: str = "") -> None:
        """Every refusal of an association passes here, with the reason in words; its PDU is another's business."""
        self._statistics.rejected += 1
        words = describe_rejection(rejection.result, rejection.source, rejection.reason)
        _log.warning("> A-ASSOCIATE-RJ to %r: %s%s", association, words, why and f"; {why}")
        if self._audit is not None:
            self._audit.association_refused(association, f"{words}{why and f'; {why}'}")

    def _accept_association(
        self,
        association: Association,
        request: AssociateRQ,
        negotiated: Negotiated,
        identity_response: bytes | None = None,
    ) -> None:
        user = request.user_information
        window = agreed_window(user.async_operations_window, self._window)
        answer = AssociateAC(
            negotiated.results,
            UserInformation(
                maximum_length=self._max_pdu_length,
                implementation_class_uid=IMPLEMENTATION_CLASS_UID,
                implementation_version_name=IMPLEMENTATION_VERSION_NAME,
                async_operations_window=window if user.async_operations_window is not None else None,
                roles=negotiated.roles,
                extended=negotiated.extended,
                user_identity_response=identity_response,
            ),
            echo=request.echo,
        )
        _log.debug("> %s", answer)
        association._connection.upper_layer.accept(answer, association._connection.now())
        self._pending.pop(association, None)
        self._associations[association] = None
        if association._admission is not None:
            association._admission.enter()
        self._statistics.accepted += 1
        if self._audit is not None:
            association._audit = self._audit.association_accepted(association, is_acceptor=True)
            association._audit.has_user = self._check_identity is not None and user.user_identity is not None
        own_window = AsyncOperationsWindow(window.performed, window.invoked)
        try:
            association._established(
                user,
                negotiated.contexts,
                own_window,
                dict(negotiated.extended),
                has_agreed=user.async_operations_window is not None,
            )
        except LocalProtocolError as error:
            association._abort_now(AssociationAborted(0, 0, by_peer=False, detail=str(error)))
        _log.debug("= established: %r", association)
        association._connection.flush()

    def _refuse(self, request: AssociateRQ, *, accepted: bool) -> Refusal | None:
        """The service user's judgement of a request (PS3.8 Table 9-21)."""
        if request.application_context != APPLICATION_CONTEXT:
            return Refusal(AssociateRJ(1, 1, 2), f"application context {request.application_context!r}")
        if self._ae_titles is not None and request.called_ae_title not in self._ae_titles:
            return Refusal(AssociateRJ(1, 1, 7), "nobody here has this called AE title")
        if self._calling_ae_titles is not None and request.calling_ae_title not in self._calling_ae_titles:
            return Refusal(AssociateRJ(1, 1, 3), "this calling AE title is none of those that may call")
        if not request.presentation_contexts or (self._require_context and not accepted):
            return Refusal(_NO_REASON, "no presentation context can be accepted")
        return None

    def _refused(self, association: Association, request: Command, status: Status) -> None:
        """A request is answered with a status as its service is not allowed on the association."""
        name = request.message.name.removesuffix("-RQ")
        _log.warning("> %04XH to %r: %s is not allowed", status, association, name)
        if association._audit is not None:
            association._audit.request_refused(request, "the access policy does not allow it")

    def _handled(self, request: Request, answer: Status | None) -> None:
        """A handler is done with a request, and this is what the peer was told."""
        if not isinstance(request, CStoreRequest):
            return
        if answer is None or answer.category is Category.FAILURE:
            self._statistics.failures += 1
        else:
            self._statistics.instances += 1
            self._statistics.bytes += request.data_set.received

    def _ended(self, association: Association) -> None:
        """Only its connection is left, until the peer closes or ARTIM ends: that is no place taken."""
        if (check := self._checks.get(association)) is not None:
            check.cancel()
        if association in self._associations:
            self._statistics.aborted += not isinstance(association._ended, AssociationReleased)
            del self._associations[association]
            if association._admission is not None:
                association._admission.leave()
            self._pending[association] = association._connection.kill
            self._changed()

    def _gone(self, connection: Association | Visitor) -> None:
        self._pending.pop(connection, None)
        self._changed()


def _titles(titles: str | Collection[str] | None) -> frozenset[str] | None:
    """AE titles to compare with, None for any."""
    if titles is None:
        return None
    return frozenset(map(check_ae_title, (titles,) if isinstance(titles, str) else titles))


_MODELS = {
    "c_find": (PATIENT_ROOT_FIND, STUDY_ROOT_FIND),
    "c_get": (PATIENT_ROOT_GET, STUDY_ROOT_GET),
    "c_move": (PATIENT_ROOT_MOVE, STUDY_ROOT_MOVE),
}
"""What is accepted for a handler unless contexts are given."""

_NO_REASON = AssociateRJ(1, 1, 1)
_LOCAL_LIMIT = AssociateRJ(2, 3, 2)
"""Transient; PS3.8 has no number of its own for a server that is closing."""
_NOT_AUTHENTICATED = AssociateRJ(1, 2, 1)
"""Not by the service user: that is how PS3.7 D.3.3.7 has it for user identities."""
_NOT_CONFIRMED = "the user identity was not confirmed"
"""Where the check says no more: the audit trail takes no reason for a success."""

_ABORT_TIME = 1.0
"""Seconds for an A-ABORT to get out, and for the loop to close what was killed."""


def _retriever(handler: Handler | None, destinations: MoveDestinations | None) -> Any:
    return Retriever(handler, destinations) if handler is not None else None


def _retrieving(service: Service, destinations: MoveDestinations | None) -> dict[str, Any]:
    """The handlers of a service, those that retrieve with what it takes."""
    own = {"c_get": None, "c_move": destinations}
    return {
        name: _retriever(handler, own[name]) if name in own else handler for name, handler in service.handlers.items()
    }


class serve:  # noqa: N801 - it is called like a function
    """Accept associations, and have handlers perform what peers ask for.

    As an asynchronous context manager it closes the server at the end of the block: with time for running associations
    to end, or at once when the block ends with an exception. Awaited, it gives the :class:`Server`.

    It listens once it is awaited or entered.

    ``ae_title`` is the title, or the titles, by which it may be called, None for any; ``calling_ae_titles`` are those
    who may call, None for anybody.

    ``c_store``, ``c_find``, ``n_create``, ... handle what peers ask for; C-ECHO needs no handler. All but three are
    coroutine functions that take the request and return a :class:`Status`, or a status and a data set for the response.
    ``c_find`` is an asynchronous generator that yields matches (a data set, or a pending status and a data set);
    ``c_get`` and ``c_move`` are asynchronous generators that yield what to send (a path, a data set, an
    :class:`~asyncdicom.instances.Instance`), and the sub-operations are done for them. Each of these may end by
    yielding a status, else it is success; any handler may raise :class:`~asyncdicom.errors.StatusError`. What else it
    raises is logged, and answered with a failure. A handler is cancelled when the association ends, those three also by
    C-CANCEL.

    ``services`` are objects that bring handlers together with the contexts on which they serve; the other handlers get
    the rest, also of what comes on those contexts. ``move_destinations`` says where a C-MOVE's destination is: a
    mapping of AE titles to (host, port) or :class:`~asyncdicom.retrieve.Destination`, or a function, which may be a
    coroutine function, from the request to one of these or None. An unknown one is answered with A801H.

    ``max_operations_invoked`` and ``max_operations_performed`` bound the asynchronous operations window that is granted
    to requestors that ask for one (PS3.7 D.3.3.3), seen from them: how many of a requestor's requests are handled at
    once, and how many it is asked to do; 0 for any number.

    ``user_identity`` is a coroutine function that is asked about the user identity in each association request (PS3.7
    D.3.3.7), None if there is none, and the :class:`Association` to be: it returns whether it is accepted, or what to
    answer to it as bytes, or a :class:`~asyncdicom.identity.User`, which is both and names the user. False, None and an
    exception reject the association; an :class:`~asyncdicom.errors.IdentityRefused` says why. Without it identities are
    not looked at. :mod:`asyncdicom.identity` has such functions for password files and JSON web tokens.

    ``contexts`` are the supported presentation contexts beside those of the services; by default Verification, and with
    a C-STORE or C-GET handler every storage SOP class with every transfer syntax, for C-GET in the role of the SCU;
    with one for queries or retrieval the patient root and study root models. ``any_storage`` accepts those that are in
    no registry too, private ones; instead of True it may be the transfer syntaxes to accept for them. The transfer
    syntax is chosen by the requestor's order unless ``prefer_own_syntax``. A request of which no context can be
    accepted is accepted all the same unless ``require_context``.

    ``max_associations`` counts established ones; more are refused as transient. Lengths are in bytes.

    ``memory_limit`` is how many bytes of receive memory the handlers of all associations may hold together: views that
    they have not let go, and what has come before they ask for it. Nobody is refused for it: associations whose
    handlers hold some wait with reading, the others go on. What ``read`` and ``decode`` gather is the handler's own,
    and bounded by their own limits. The data sets of other requests than C-STORE are gathered before their handlers
    begin: queries up to 256 KiB, others up to 64 MiB, and all together as much as ``memory_limit`` again; beyond it
    they are refused, except those of 64 KiB and less. Raises ValueError for less than 16 MiB, or 2,560 bytes for each
    association.

    ``ssl`` is a context, of :func:`~asyncdicom.tls.server_context` or Python's own, or a function that makes one. What
    begins otherwise than TLS on such a port is named in the log and closed at once. New connections get a new context
    after :meth:`Server.reload_tls`. Each ``reload_interval`` seconds the files are looked at from which it was read,
    those of the other options too, and what has changed is read again, while the server runs; 0 for never.

    ``proxies`` are the networks ("10.0.0.0/8") and addresses of load balancers: from these, and from nobody else, a
    header of the PROXY protocol is demanded and believed, version 1 or 2. ``peer_address`` is then the client's, and
    :attr:`Association.proxy_address` the load balancer's. ValueError is raised for what is no network.

    ``workers`` is the number of processes that share the work; more than one gives a :class:`WorkerGroup`. Each of them
    imports what it needs, so the handler has to be a function at the top level of a module (or a method of an object
    that can be pickled, or a ``functools.partial``), ``ssl`` one too, or what ``server_context`` has made, and the
    program's own start has to stand below ``if __name__ == "__main__":``. Otherwise TypeError or RuntimeError is
    raised. ``max_associations`` and ``memory_limit`` are shared out among them. Not on Windows. ``initializer``, which
    may be a coroutine function, is called in each process before it serves.

    ``access`` is an :class:`~asyncdicom.access.AccessPolicy`, or the path of its TOML file: who may have an
    association, and what may be done on it. It is judged beside ``ae_title`` and ``calling_ae_titles``, and once the
    user is checked; who would be refused whatever the user is, is not checked. Each association keeps the policy with
    which it began. Raises AccessPolicyError for a file that cannot be used.

    ``audit`` is an :class:`~asyncdicom.audit.AuditTrail`: where it begins and ends to serve, who was refused or logged
    in, queries and transfers are reported as audit messages (PS3.15 A.5).
    """

    def __init__(
        self,
        host: str | Sequence[str] | None = None,
        port: int = 11112,
        *,
        ae_title: str | Collection[str] | None = None,
        calling_ae_titles: str | Collection[str] | None = None,
        c_store: CStoreHandler | None = None,
        c_find: Handler | None = None,
        c_get: Handler | None = None,
        c_move: Handler | None = None,
        n_event_report: Handler | None = None,
        n_get: Handler | None = None,
        n_set: Handler | None = None,
        n_action: Handler | None = None,
        n_create: Handler | None = None,
        n_delete: Handler | None = None,
        services: Iterable[Service] = (),
        move_destinations: MoveDestinations | None = None,
        user_identity: IdentityCheck | None = None,
        max_operations_invoked: int = 1,
        max_operations_performed: int = 1,
        contexts: str | Context | Iterable[Context | str] | None = None,
        any_storage: bool | Iterable[str] = False,
        prefer_own_syntax: bool = False,
        require_context: bool = False,
        ssl: ssl_module.SSLContext | Callable[[], ssl_module.SSLContext] | None = None,
        timeouts: Timeouts | None = None,
        max_associations: int = 1000,
        memory_limit: int = MEMORY_LIMIT,
        max_pdu_length: int = DEFAULT_MAX_PDU_LENGTH,
        max_send_pdu_length: int = DEFAULT_MAX_SEND_PDU_LENGTH,
        reuse_port: bool | None = None,
        workers: int | None = None,
        initializer: Callable[[], object] | None = None,
        proxies: str | Iterable[str] = (),
        reload_interval: float = 60.0,
        access: AccessPolicy | str | os.PathLike[str] | None = None,
        audit: AuditTrail | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"{workers} workers cannot serve")
        count = workers or 1
        SlabPool(limit=memory_limit // count, associations=-(-max_associations // count))  # or raises ValueError
        handlers = {
            "c_store": c_store,
            "c_find": c_find,
            "c_get": _retriever(c_get, None),
            "c_move": _retriever(c_move, move_destinations),
            "n_event_report": n_event_report,
            "n_get": n_get,
            "n_set": n_set,
            "n_action": n_action,
            "n_create": n_create,
            "n_delete": n_delete,
        }
        services = tuple(services)
        self._shared: dict[str, object] = {
            **handlers,
            "services": services,
            "user_identity": user_identity,
            "audit": audit,
        }
        """What workers need too."""
        served = [(as_contexts(service.contexts), _retrieving(service, move_destinations)) for service in services]
        supported = [each for its, _ in served for each in its]
        if contexts is not None:
            supported += as_contexts(contexts)  # the last one for an abstract syntax counts
        else:
            # Who answers C-GET is the SCU of the storage classes (PS3.7 D.3.3.4).
            storage = storage_contexts() if c_store is not None or c_get is not None else ()
            scu, scp = c_get is not None, None if c_store is not None else False
            models = [uid for name, uids in _MODELS.items() if handlers[name] is not None for uid in uids]
            usual = [
                Context(VERIFICATION),
                *(each._replace(scu=scu, scp=scp) for each in storage),
                *map(Context, models),
            ]
            supported[:0] = usual  # what services say of the same counts
        self._host = host
        self._port = port
        self._ssl = ssl
        self._reuse_port = reuse_port
        self._workers = count
        self._max_associations = max_associations
        self._initializer = initializer
        self._timeouts = timeouts or Timeouts()
        self._options = {
            "ae_title": ae_title,
            "calling_ae_titles": calling_ae_titles,
            "handlers": Handlers.of(handlers, served),
            "window": AsyncOperationsWindow(max_operations_invoked, max_operations_performed),
            "user_identity": user_identity,
            "policy": AcceptancePolicy(
                {each.abstract_syntax: each for each in supported},
                tuple(STORAGE_TRANSFER_SYNTAXES if any_storage is True else any_storage or ()),
                prefer_own_syntax,
                sends_storage=c_get is not None,
            ),
            "timeouts": self._timeouts,
            "max_associations": max_associations,
            "memory_limit": memory_limit // self._workers,
            "max_pdu_length": max_pdu_length,
            "max_send_pdu_length": max_send_pdu_length,
            "require_context": require_context,
            "proxies": networks_of(proxies),
            "access": AccessPolicy.from_toml(access) if isinstance(access, (str, os.PathLike)) else access,
            "processes": count,
            "audit": audit,
        }
        self._reload_interval = reload_interval
        self._server: Server | None = None

    def __await__(self) -> Generator[object, None, Server]:
        return self._serve().__await__()

    async def __aenter__(self) -> Server:
        self._server = await self._serve()
        return self._server

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        await self._server.close(drain=10.0 if error is None else 0.0)

    async def _serve(self) -> Server:
        if self._workers > 1:
            from .workers import WorkerGroup  # noqa: PLC0415 - brings multiprocessing, which takes its time

            return await WorkerGroup._start(self)
        await self._initialize()
        server = Server(ssl=self._ssl, **self._options)  # type: ignore[arg-type]
        if server._ssl is None and not server._proxies:
            server._listener = await self._listen(server._make_connection)
        elif not can_watch(asyncio.get_running_loop()):
            server._listener = await self._listen_for_tls(server)
        else:
            server._listener = Acceptor(await self._sockets(), server._door.admit)
            server._listener.start()
        server._begin_reloading(self._reload_interval)
        server._audit_start()
        return server

    async def _initialize(self) -> None:
        if self._initializer is not None and inspect.isawaitable(done := self._initializer()):
            await done

    async def _listen_for_tls(self, server: Server) -> asyncio.Server:
        """As the event loop does it, where sockets cannot be watched."""
        if server._proxies:
            raise NotImplementedError("proxies need an event loop with add_reader, on Windows the SelectorEventLoop")
        server._keeps_tls = True
        return await self._listen(server._make_connection, ssl=server._ssl, ssl_handshake_timeout=self._timeouts.tls)

    async def _sockets(self) -> list[socket.socket]:
        """Listening ones, as the event loop makes them."""
        return listening_sockets(await self._listen(asyncio.Protocol, start_serving=False))

    async def _listen(self, protocol_factory: Callable[[], asyncio.BaseProtocol], **options: Any) -> asyncio.Server:
        listener = await asyncio.get_running_loop().create_server(
            protocol_factory, self._host, self._port, backlog=BACKLOG, reuse_port=self._reuse_port, **options
        )
        for sock in listener.sockets:
            set_options(sock)
        return listener
