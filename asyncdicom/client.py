"""The requestor's side: :func:`connect` (PS3.8 7.1)."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl as ssl_module
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from .association import Association, Timeouts, _finite
from .errors import (
    AssociationAborted,
    AssociationError,
    AssociationLost,
    AssociationRejected,
    AssociationTimeout,
    LocalProtocolError,
    NoConnection,
    TLSFailed,
)
from .instances import Instance, contexts_for
from .pdu import (
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    UserIdentity,
    UserInformation,
    check_ae_title,
    check_pdu_lengths,
)
from .presentation import (
    AsyncOperationsWindow,
    Context,
    agreed_window,
    as_contexts,
    established_contexts,
    propose_contexts,
    proposed_extended,
    proposed_roles,
)
from .quirks import NO_QUIRKS, Quirks
from .receive_buffer import SlabPool
from .requests import Handlers
from .uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, VERIFICATION
from .upper_layer import Indication, UpperLayer

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from types import TracebackType

    from .audit import AuditTrail
    from .presentation import ContextResult, ProposedContext
    from .requests import CStoreHandler, Handler, Service
    from .upper_layer import Indicated

    Proposal = str | Context | os.PathLike[str] | Instance | Iterable[Context | str | os.PathLike[str] | Instance]

__all__ = ["DEFAULT_MAX_PDU_LENGTH", "DEFAULT_MAX_SEND_PDU_LENGTH", "connect"]

_log = logging.getLogger("asyncdicom")

_HANDSHAKE_ERRORS = (ssl_module.SSLError, ConnectionResetError, BrokenPipeError, ConnectionAbortedError)
"""What a TLS handshake ends with that has begun; the last one is what asyncio makes of its timeout."""

DEFAULT_MAX_PDU_LENGTH = 131072
"""What this side announces. Longer PDUs cost it no memory; 128 KiB is the most that DCMTK's senders make of it."""

DEFAULT_MAX_SEND_PDU_LENGTH = 131072
"""The longest P-DATA-TF that is sent, also to peers that set no limit; some allocate what they are announced."""


_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, SlabPool] = WeakKeyDictionary()


def _pool_of(loop: asyncio.AbstractEventLoop) -> SlabPool:
    """The receive memory of all associations that a loop's user has asked for: they bring little."""
    if (pool := _pools.get(loop)) is None:
        pool = _pools[loop] = SlabPool()
    return pool


def _refused(proposed: Iterable[ProposedContext], results: Iterable[ContextResult]) -> dict[str, int]:
    syntaxes = {each.id: each.abstract_syntax for each in proposed}
    return {syntaxes[each.id]: each.result for each in results if each.result and each.id in syntaxes}


def _describe(error: OSError) -> str:
    from .tls import describe  # noqa: PLC0415 - seldom needed

    return describe(error)


def _offered(contexts: Proposal) -> list[Context]:
    """What to propose: contexts and names as they are, for files and instances what sending them takes."""
    if isinstance(contexts, (str, Context, os.PathLike, Instance)):
        contexts = (contexts,)
    several = list(contexts)
    to_send = [each for each in several if isinstance(each, (os.PathLike, Instance))]
    offered = as_contexts(each for each in several if not isinstance(each, (os.PathLike, Instance)))
    return offered + [each for each in contexts_for(to_send) if each not in offered]


class connect:  # noqa: N801 - it is called like a function
    """Ask a peer for an association (A-ASSOCIATE, PS3.8 7.1).

    As an asynchronous context manager it releases the association at the end of the block, and aborts it when the block
    ends with an exception; awaited, it gives the :class:`~asyncdicom.association.Association`, to be released by hand.

    Nothing is done before it is awaited or entered.

    ``contexts`` are the presentation contexts to propose, at most 128: :class:`Context` objects, or UIDs, keywords and
    names of SOP classes and service classes ("modality worklist"), which stand for themselves with the default transfer
    syntaxes, or what is to be sent, as ``pathlib.Path`` or :class:`~asyncdicom.instances.Instance`. Without them, those
    of ``services`` are proposed, else Verification.

    ``c_store`` and ``n_event_report`` handle what the peer asks for on this association: sub-operations of a C-GET, and
    notifications. ``services`` are further handlers, with their contexts. See :func:`~asyncdicom.serve`.

    ``max_operations_invoked`` and ``max_operations_performed`` are the asynchronous operations window to propose (PS3.7
    D.3.3.3), 0 for any number. It is proposed only if one of them is not 1: some peers hang up on it. What was agreed
    is :attr:`Association.window`. ``quirks`` are what this peer is known to do otherwise than the standard has it.

    ``ssl`` and ``server_hostname`` mean what they mean in asyncio. ``max_pdu_length`` is the longest P-DATA-TF that
    this side announces to take, ``max_send_pdu_length`` the longest that it sends, in bytes; what the peer announces is
    obeyed anyway. ``local_address`` is where the connection comes from. ``audit`` is an
    :class:`~asyncdicom.audit.AuditTrail` that is told of queries and transfers.

    Raises ValueError for what PS3.8 does not allow or no PDU can hold (AE titles, lengths, UIDs), and
    LocalProtocolError for contexts that cannot be proposed. Awaiting raises AssociationRejected, AssociationAborted,
    AssociationTimeout or NoConnection, TLSFailed among them; cancellation closes what was opened.
    """

    def __init__(
        self,
        host: str,
        port: int = 104,
        *,
        called_ae_title: str = "ANY-SCP",
        calling_ae_title: str = "ASYNCDICOM",
        contexts: Proposal | None = None,
        c_store: CStoreHandler | None = None,
        n_event_report: Handler | None = None,
        services: Iterable[Service] = (),
        max_operations_invoked: int = 1,
        max_operations_performed: int = 1,
        quirks: Quirks = NO_QUIRKS,
        ssl: ssl_module.SSLContext | bool | None = None,
        server_hostname: str | None = None,
        user_identity: UserIdentity | None = None,
        timeouts: Timeouts | None = None,
        max_pdu_length: int = DEFAULT_MAX_PDU_LENGTH,
        max_send_pdu_length: int = DEFAULT_MAX_SEND_PDU_LENGTH,
        local_address: tuple[str, int] | None = None,
        implementation_class_uid: str = IMPLEMENTATION_CLASS_UID,
        implementation_version_name: str = IMPLEMENTATION_VERSION_NAME,
        audit: AuditTrail | None = None,
    ) -> None:
        self._host = host
        self._port = port
        check_pdu_lengths(max_pdu_length, max_send_pdu_length)
        self._called = check_ae_title(called_ae_title)
        self._calling = check_ae_title(calling_ae_title)
        served = [(as_contexts(service.contexts), service.handlers) for service in services]
        if contexts is None:
            offered = [each for its, _ in served for each in its] or [Context(VERIFICATION)]
        else:
            offered = _offered(contexts)
        self._handlers = Handlers.of({"c_store": c_store, "n_event_report": n_event_report}, served)
        window = AsyncOperationsWindow(max_operations_invoked, max_operations_performed)
        self._window = window if window != (1, 1) else None
        self._quirks = quirks
        self._proposed = propose_contexts(offered)
        self._roles = proposed_roles(offered)
        self._ssl = ssl
        self._server_hostname = server_hostname
        self._timeouts = timeouts or Timeouts()
        self._max_pdu_length = max_pdu_length
        self._max_send_pdu_length = max_send_pdu_length
        self._local_address = local_address
        self._audit = audit
        user_information = UserInformation(
            maximum_length=max_pdu_length,
            implementation_class_uid=implementation_class_uid,
            implementation_version_name=implementation_version_name,
            async_operations_window=self._window,
            roles=self._roles,
            extended=proposed_extended(offered),
            user_identity=user_identity,
        )
        self._request = AssociateRQ(self._called, self._calling, self._proposed, user_information)
        self._request.encode()  # what cannot be encoded is refused here, where no connection is left open by it
        self._association: Association | None = None

    def __await__(self) -> Generator[object, None, Association]:
        return self._connect().__await__()

    async def __aenter__(self) -> Association:
        self._association = await self._connect()
        return self._association

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._association is not None
        if error is not None:
            await self._association.abort()
            return
        try:
            await self._association.release()
        except asyncio.CancelledError:
            self._association._abort_now()  # nobody else would: the release may not have begun
            raise

    async def _connect(self) -> Association:
        loop = asyncio.get_running_loop()
        upper_layer = UpperLayer(
            requestor=True, max_pdu_length=self._max_pdu_length, artim_timeout=self._timeouts.acse, pool=_pool_of(loop)
        )
        association = Association(
            upper_layer,
            self._timeouts,
            max_send_pdu_length=self._max_send_pdu_length,
            handlers=self._handlers,
            quirks=self._quirks,
            on_associate=self._answered,
        )
        association.called_ae_title, association.calling_ae_title = self._called, self._calling
        association.user_identity = self._request.user_information.user_identity
        where = f"{self._host} port {self._port}"
        upper_layer.associate(loop.time())
        try:
            async with asyncio.timeout(_finite(self._timeouts.connect)):
                await loop.create_connection(
                    lambda: association._connection,
                    self._host,
                    self._port,
                    ssl=self._ssl,
                    server_hostname=self._server_hostname,
                    ssl_handshake_timeout=self._timeouts.tls if self._ssl else None,
                    local_addr=self._local_address,
                )
        except (OSError, UnicodeError, OverflowError) as error:  # a host or a port that cannot be one, too
            why = str(error) or f"none within {self._timeouts.connect:g} s"  # a timeout has no words of its own
            if self._ssl and isinstance(error, _HANDSHAKE_ERRORS):
                why = _describe(error)
                if self._audit is not None:
                    self._audit.handshake_failed(self._host, why)
                raise TLSFailed(f"no connection to {where}: {why}") from error
            raise NoConnection(f"no connection to {where}: {why}") from error
        association.peer_address = association._connection.peer_address()
        _log.debug("> %s", self._request)
        upper_layer.transport_opened(loop.time(), self._request)
        association._connection.flush()
        try:
            async with asyncio.timeout(_finite(self._timeouts.acse)):
                await association._negotiated
        except TimeoutError:
            await association.abort()
            message = f"{where} did not answer the association request within {self._timeouts.acse:g} s"
            raise AssociationTimeout(message) from None
        except asyncio.CancelledError:
            association._abort_now()
            association._connection.kill()
            raise
        except AssociationError as error:
            await association.abort()  # over already: this waits for the peer to close, not for long
            if isinstance(error, AssociationLost) and self._ssl:
                raise self._lost(error, association._connection.error, where) from association._connection.error
            raise
        return association

    def _lost(self, error: AssociationLost, cause: Exception | None, where: str) -> AssociationError:
        """With TLS 1.3, a server judges the client's certificate when that has its handshake behind it."""
        if isinstance(cause, ssl_module.SSLError):
            return TLSFailed(f"no connection to {where}: {_describe(cause)}")
        if getattr(self._ssl, "not_after", None) is None:
            return AssociationLost(f"{error}; so does a server that requires a certificate of this side, and got none")
        return error

    def _answered(self, association: Association, indicated: Indicated) -> None:
        """A-ASSOCIATE confirmation."""
        answer = indicated.about
        _log.debug("< %s", answer)
        if indicated.what is Indication.ASSOCIATE_REJECTED:
            assert isinstance(answer, AssociateRJ)
            association._end(AssociationRejected(answer.result, answer.source, answer.reason))
            return
        assert isinstance(answer, AssociateAC)
        user = answer.user_information
        contexts = established_contexts(
            self._proposed,
            self._roles,
            answer.presentation_contexts,
            user.roles,
            assume_roles=self._quirks.assume_roles,
        )
        association._refused = _refused(self._proposed, answer.presentation_contexts)
        window = agreed_window(self._window, user.async_operations_window)
        if self._audit is not None:
            association._audit = self._audit.association_accepted(association, is_acceptor=False)
        try:
            association._established(
                user,
                contexts,
                window,
                dict(user.extended),
                has_agreed=self._window is not None and user.async_operations_window is not None,
            )
        except LocalProtocolError as error:
            association._abort_now(AssociationAborted(0, 0, by_peer=False, detail=str(error)))
