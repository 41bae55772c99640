"""An association: the coroutines that a user calls, and the requests that the peer makes (PS3.7 chapter 7, PS3.8 7).

The one place that knows both the upper layer (below the connection) and DIMSE. What comes from the network is handled
in the event loop's callback; a task is made only for a handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import logging
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .command import Command, CommandField, Priority, Status
from .dimse import CommandReceived, MessageReader, data_head, encode_command, encode_store, fragment_size
from .errors import (
    AssociationAborted,
    AssociationError,
    AssociationLost,
    AssociationReleased,
    AssociationTimeout,
    FileFormatError,
    LocalProtocolError,
    NoAcceptedContext,
    ProtocolError,
)
from .file_sender import FileSender
from .instances import Instance, convert, describe_data_set, encode, read_instance
from .invoker import Invoker
from .pdu import Abort, check_ae_title
from .performer import MAX_WAITING_REQUESTS, Performer
from .presentation import AsyncOperationsWindow, Result
from .quirks import NO_QUIRKS
from .requests import NO_HANDLERS
from .transport import Connection
from .uids import CONTEXTS_FOR, VERIFICATION, name_of, uid_of
from .upper_layer import Indication, State, UpperLayer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator

    from pydicom import Dataset

    from .access import Admission
    from .audit.trail import AssociationAudit
    from .operations import Response, Responses
    from .pdu import UserIdentity, UserInformation
    from .presentation import PresentationContext
    from .quirks import Quirks
    from .receive_buffer import Fragment
    from .requests import Handlers, Request
    from .tls import PeerCertificate
    from .transport import TLSInfo
    from .upper_layer import Indicated

__all__ = ["Association", "Timeouts"]

_log = logging.getLogger("asyncdicom")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each kind of waiting lasts, in seconds; ``math.inf`` waits for ever.

    Raises ValueError for what is not above 0.
    """

    connect: float = 30.0
    """For the transport connection, all that belongs to its TLS handshake included."""
    acse: float = 30.0
    """For the answer to an association request or a release; as ARTIM, for a request to come and the peer to close."""
    dimse: float = 60.0
    """For a response; for the rest of a message that has begun; for the peer to take what is sent."""
    idle: float = 300.0
    """Without any message, then the association is released."""
    tls: float = 15.0
    """For a TLS handshake, of either side, once it has begun; within ``connect``, and within ``acse`` of a server."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            given: Any = getattr(self, name)
            if not (isinstance(given, (int, float)) and given > 0):
                raise ValueError(f"Timeouts({name}={given!r}): seconds above 0 are expected, or math.inf for no limit")


class Association:
    """One association, on either side. Made by :func:`asyncdicom.connect` and by a server; not by hand.

    Requests may be made by several tasks at once: as many are in flight as the asynchronous operations window has
    (PS3.7 D.3.3.3), one if none was negotiated, and the others wait their turn. Once the association is over, every
    method that needs it raises the same :class:`~asyncdicom.errors.AssociationError`, which says why.

    A data set of a request is a pydicom ``Dataset``, or bytes in the transfer syntax of the presentation context.
    ``context`` is the abstract syntax of the presentation context to use, where it is not the SOP class: by default it
    is, or a meta SOP class to which it belongs (:data:`~asyncdicom.uids.CONTEXTS_FOR`).
    """

    def __init__(
        self,
        upper_layer: UpperLayer,
        timeouts: Timeouts,
        *,
        max_send_pdu_length: int,
        handlers: Handlers = NO_HANDLERS,
        quirks: Quirks = NO_QUIRKS,
        on_associate: Callable[[Association, Indicated], None],
        on_handled: Callable[[Request, Status | None], None] | None = None,
        on_refused: Callable[[Association, Command, Status], None] | None = None,
        on_end: Callable[[Association], None] | None = None,
        on_close: Callable[[Association], None] | None = None,
    ) -> None:
        self._connection = Connection(upper_layer, self)
        self.timeouts = timeouts
        self.called_ae_title = ""
        self.calling_ae_title = ""
        self.peer_address = ""
        """IP address of the peer."""
        self.proxy_address = ""
        """IP address of the proxy through which it came, if that has said so (PROXY protocol)."""
        self.contexts: dict[int, PresentationContext] = {}
        """The accepted presentation contexts by ID."""
        self.peer_information: UserInformation | None = None
        """What the peer said of itself when the association was negotiated."""
        self.window = AsyncOperationsWindow(1, 1)
        """How many operations this side may have in flight, and how many it performs at once; 0 for any number."""
        self.extended: dict[str, bytes] = {}
        """SOP class extended negotiation: what the acceptor has answered, by SOP class UID (PS3.7 D.3.3.5)."""
        self._refused: dict[str, int] = {}
        """Abstract syntaxes that were proposed and not accepted, with the peer's result (PS3.8 Table 9-18)."""
        self.user_identity: UserIdentity | None = None
        """Who the requestor says its user is (PS3.7 D.3.3.7), when it says so; checked by ``serve(user_identity=)``."""
        self.user = ""
        """The name of that user, as the check has verified it; empty if it did not name one."""
        self._admission: Admission | None = None
        """What the peer may do, where the server has an access policy."""
        self._quirks = quirks
        self._upper_layer = upper_layer
        self._pool = upper_layer.pool
        self._max_send_pdu_length = max_send_pdu_length
        self._fragment_size = 0
        self._on_associate = on_associate
        self._on_refused = on_refused
        self._on_end = on_end
        self._on_close = on_close
        self._reader = MessageReader(self.contexts)
        self._is_established = False
        self._ended: AssociationError | None = None
        self._loop = loop = asyncio.get_running_loop()
        self._negotiated: asyncio.Future[None] = loop.create_future()
        """Done when the association is established, or never will be."""
        self._negotiated.add_done_callback(_retrieve)
        self._closed: asyncio.Future[None] = loop.create_future()
        self._sending = asyncio.Lock()
        """Held while a message goes out: messages do not interleave."""
        self._deferred: list[bytes] = []
        """Messages that wait for the one that is going out."""
        self._file_sender: FileSender | None = None
        self._invoker = Invoker(self)
        self._performer = Performer(self, handlers, on_handled)
        self._silence: asyncio.Future[None] | None = None
        """For whoever waits until nothing is in flight."""
        self._audit: AssociationAudit | None = None
        """What the audit trail, if there is one, is told of it."""
        self._release_requested = False
        self._release_due: float | None = None
        self._last_message = self._connection.now()

    def __repr__(self) -> str:
        state = "established" if self.is_established else "over" if self._ended else "being negotiated"
        titles = f"{self.calling_ae_title!r} -> {self.called_ae_title!r}"  # text from the peer, so escaped
        where = f"{self.peer_address} by {self.proxy_address}" if self.proxy_address else self.peer_address
        if (certificate := self.peer_certificate) is not None:
            where += f", {certificate.subject!r}"
        if self.peer_certificate_sha256:
            where += f", SHA-256 {self.peer_certificate_sha256}"
        return f"<Association {titles} ({where}), {state}>"

    # What a user asks and does

    @property
    def is_established(self) -> bool:
        """Whether it can be used."""
        return self._is_established and self._upper_layer.state is State.STA6

    @property
    def tls(self) -> TLSInfo | None:
        """Version and cipher suite; None without TLS."""
        return self._connection.tls

    @property
    def peer_certificate(self) -> PeerCertificate | None:
        """The peer's certificate, when the TLS context demanded and verified one, and it can be read."""
        return self._verified_certificate[0]

    @property
    def peer_certificate_sha256(self) -> str:
        """The fingerprint of a verified certificate, of one that cannot be read too; empty without one."""
        return self._verified_certificate[1]

    @functools.cached_property
    def _verified_certificate(self) -> tuple[PeerCertificate | None, str]:
        if (der := self._connection.peer_certificate()) is None:
            return None, ""
        from .tls import certificate_of  # noqa: PLC0415 - brings cryptography, which takes its time

        fingerprint = hashlib.sha256(der).hexdigest()
        try:
            return certificate_of(der), fingerprint
        except ValueError as error:
            _log.warning("= the certificate of %s is known by its fingerprint only: %s", self.peer_address, error)
            return None, fingerprint

    def accepted(self, sop_class_uid: str) -> list[PresentationContext]:
        """The presentation contexts on which this side may be SCU of a SOP class."""
        return [each for each in self.contexts.values() if each.abstract_syntax == sop_class_uid and each.scu]

    async def c_echo(self) -> Status:
        """Verify that the peer answers (C-ECHO, PS3.7 9.1.5). Returns the response's status.

        Raises NoAcceptedContext without an accepted context for Verification, and AssociationError. Cancellation while
        the answer is awaited aborts the association; if other requests are in flight, it only drops the answer.
        """
        context = self._context_for(VERIFICATION)
        response = await self._invoker.request(context, CommandField.C_ECHO_RQ, affected_sop_class_uid=VERIFICATION)
        return response.status

    async def c_store(
        self,
        instance: str | os.PathLike[str] | Instance | Dataset,
        *,
        priority: Priority = Priority.MEDIUM,
        move_originator_ae_title: str | None = None,
        move_originator_message_id: int | None = None,
        decompress: bool = False,
        upcoming: Instance | None = None,
    ) -> Status:
        """Send an instance (C-STORE, PS3.7 9.1.1). Returns the response's status; failures are values, not exceptions.

        ``instance`` is a DICOM file, a pydicom ``Dataset``, or an :class:`~asyncdicom.instances.Instance`, which may
        also hold an encoded data set in memory. A file's data set goes out as it lies on disk if its transfer syntax
        was accepted. Otherwise it is converted in a thread: between uncompressed syntaxes always, from a compressed one
        only when ``decompress`` allows it and pydicom has a codec. Files are read in the event loop, about 550 KiB at a
        time. ``upcoming`` is the instance that the next call will send, if that is known: the beginning of its file is
        read while this one's response is awaited.

        Raises NoAcceptedContext when nothing that was accepted can carry it, FileFormatError or OSError for a file that
        cannot be read, and AssociationError. Nothing was sent then, unless a file fails while it is sent: that aborts
        the association, and so does cancellation while it is sent, or as of :meth:`c_echo`.
        """
        if isinstance(instance, (str, os.PathLike)):
            instance = read_instance(instance)
        context = self._context_that_carries(instance)
        if context is None or not isinstance(instance, Instance):
            context, instance = await self._convert(instance, decompress=decompress)
        request = Command(
            CommandField.C_STORE_RQ,
            has_data_set=True,
            affected_sop_class_uid=instance.sop_class_uid,
            priority=priority,
            affected_sop_instance_uid=instance.sop_instance_uid,
            move_originator_application_entity_title=move_originator_ae_title,
            move_originator_message_id=move_originator_message_id,
        )
        perform = self._invoker.perform(
            context, request, lambda: self._send_instance(context.id, request, instance), upcoming
        )
        if self._audit is not None:
            status = await self._audit.sending(instance, move_originator_ae_title or "", perform)
        else:
            status = (await perform).status
        return self._quirks.judged(status)

    def c_find(
        self,
        identifier: Dataset | bytes,
        *,
        model: str,
        priority: Priority = Priority.MEDIUM,
        context: str | None = None,
    ) -> Responses:
        """Query (C-FIND, PS3.7 9.1.2): an asynchronous iterator; each response has a match as its ``data_set``.

        ``model`` is the SOP class of the information model, by its UID, keyword or name. Raises NoAcceptedContext.
        """
        if not isinstance(identifier, (bytes, bytearray, memoryview)):
            identifier = self._quirks.mended(identifier)
        return self._several(CommandField.C_FIND_RQ, identifier, model, context, priority=priority)

    def c_get(
        self,
        identifier: Dataset | bytes,
        *,
        model: str,
        priority: Priority = Priority.MEDIUM,
        context: str | None = None,
    ) -> Responses:
        """Retrieve over this association (C-GET, PS3.7 9.1.3): an asynchronous iterator that tells how far it is.

        The instances go to the C-STORE handler that :func:`~asyncdicom.connect` was given, on presentation contexts of
        their SOP classes for which this side proposed the SCP role, as
        :func:`~asyncdicom.services.query_retrieve.retrieval_contexts` does. Raises NoAcceptedContext, also when no such
        context was accepted.
        """
        if not any(each.scp for each in self.contexts.values()):
            self._check_established()
            raise NoAcceptedContext(
                "no presentation context was accepted in which this side may take instances; "
                "connect(contexts=[..., *retrieval_contexts()]) proposes some"
            )
        return self._several(CommandField.C_GET_RQ, identifier, model, context, priority=priority)

    def c_move(
        self,
        identifier: Dataset | bytes,
        destination: str,
        *,
        model: str,
        priority: Priority = Priority.MEDIUM,
        context: str | None = None,
    ) -> Responses:
        """Have instances sent to the AE ``destination`` (C-MOVE, PS3.7 9.1.4); an iterator as of :meth:`c_get`.

        Which address that AE has, the peer must know. Raises NoAcceptedContext.
        """
        move_destination = check_ae_title(destination)
        return self._several(
            CommandField.C_MOVE_RQ, identifier, model, context, priority=priority, move_destination=move_destination
        )

    async def n_event_report(
        self,
        sop_class_uid: str,
        sop_instance_uid: str,
        event_type_id: int,
        information: Dataset | bytes | None = None,
        *,
        context: str | None = None,
    ) -> Response:
        """Tell the SCU of an event (N-EVENT-REPORT, PS3.7 10.1.1); this side has to be the SCP.

        Raises NoAcceptedContext and AssociationError, as the other ``n_`` methods do; a failure status is a value.
        Cancellation is as of :meth:`c_echo`.
        """
        return await self._invoker.request(
            self._context_for(sop_class_uid, context, scp=True),
            CommandField.N_EVENT_REPORT_RQ,
            information,
            affected_sop_class_uid=sop_class_uid,
            affected_sop_instance_uid=sop_instance_uid,
            event_type_id=event_type_id,
        )

    async def n_get(
        self,
        sop_class_uid: str,
        sop_instance_uid: str,
        attributes: Iterable[int] = (),
        *,
        context: str | None = None,
    ) -> Response:
        """Ask for attributes of an instance, by their tags; for all without (N-GET, PS3.7 10.1.2)."""
        return await self._invoker.request(
            self._context_for(sop_class_uid, context),
            CommandField.N_GET_RQ,
            requested_sop_class_uid=sop_class_uid,
            requested_sop_instance_uid=sop_instance_uid,
            attribute_identifier_list=tuple(map(int, attributes)) or None,
        )

    async def n_set(
        self,
        sop_class_uid: str,
        sop_instance_uid: str,
        modifications: Dataset | bytes,
        *,
        context: str | None = None,
    ) -> Response:
        """Change attributes of an instance (N-SET, PS3.7 10.1.3)."""
        return await self._invoker.request(
            self._context_for(sop_class_uid, context),
            CommandField.N_SET_RQ,
            modifications,
            requested_sop_class_uid=sop_class_uid,
            requested_sop_instance_uid=sop_instance_uid,
        )

    async def n_action(
        self,
        sop_class_uid: str,
        sop_instance_uid: str,
        action_type_id: int,
        information: Dataset | bytes | None = None,
        *,
        context: str | None = None,
    ) -> Response:
        """Have something done (N-ACTION, PS3.7 10.1.4)."""
        return await self._invoker.request(
            self._context_for(sop_class_uid, context),
            CommandField.N_ACTION_RQ,
            information,
            requested_sop_class_uid=sop_class_uid,
            requested_sop_instance_uid=sop_instance_uid,
            action_type_id=action_type_id,
        )

    async def n_create(
        self,
        sop_class_uid: str,
        attributes: Dataset | bytes | None = None,
        sop_instance_uid: str | None = None,
        *,
        context: str | None = None,
    ) -> Response:
        """Make an instance (N-CREATE, PS3.7 10.1.5); without a UID the peer chooses one, which the response has."""
        return await self._invoker.request(
            self._context_for(sop_class_uid, context),
            CommandField.N_CREATE_RQ,
            attributes,
            affected_sop_class_uid=sop_class_uid,
            affected_sop_instance_uid=sop_instance_uid,
        )

    async def n_delete(self, sop_class_uid: str, sop_instance_uid: str, *, context: str | None = None) -> Response:
        """Delete an instance (N-DELETE, PS3.7 10.1.6)."""
        return await self._invoker.request(
            self._context_for(sop_class_uid, context),
            CommandField.N_DELETE_RQ,
            requested_sop_class_uid=sop_class_uid,
            requested_sop_instance_uid=sop_instance_uid,
        )

    async def release(self) -> None:
        """Release the association in the ordinary way (A-RELEASE, PS3.8 7.2), after the operations in flight.

        Those whose responses the calling task has begun to go through are cancelled (C-CANCEL). Does nothing if the
        association is over already. Raises AssociationTimeout when the peer does not answer within the ACSE timeout;
        the association is aborted then, as it is when the call is cancelled after the release has begun.
        """
        self._invoker.abandon_own()
        while (self._invoker.operations or self._performer.is_busy) and not self._performer.is_current():
            if self._silence is None:
                self._silence = self._loop.create_future()
            await asyncio.shield(self._silence)
        async with self._sending:  # of a request that was answered before its end the rest still goes out
            if self._ended is not None or not self._is_established:
                return
            self._request_release()
        try:
            async with asyncio.timeout(_finite(self.timeouts.acse)):
                await self._wait_closed()
        except TimeoutError:
            await self.abort()
            raise AssociationTimeout(f"no answer to the release for {self.timeouts.acse:g} s") from None
        except asyncio.CancelledError:
            self._abort_now()
            raise
        if isinstance(self._ended, AssociationAborted):
            raise _again(self._ended)

    async def abort(self) -> None:
        """Abort the association (A-ABORT, PS3.8 7.3): what is in flight fails. Waits until the connection is closed.

        Does nothing if it is over already. The peer has two seconds to close, less if the ACSE timeout is shorter;
        then, and on cancellation, the connection is closed by force.
        """
        self._abort_now()
        try:
            async with asyncio.timeout(min(self.timeouts.acse, _ABORT_PATIENCE)):
                await self._wait_closed()
        except TimeoutError:
            self._connection.kill()
            await self._wait_closed()
        except asyncio.CancelledError:
            self._connection.kill()
            raise

    async def wait_closed(self) -> AssociationError | None:
        """Wait until the association is over and its connection closed; returns why it ended."""
        await self._wait_closed()
        return self._ended

    # Requests of this side

    def _context_for(
        self, sop_class_uid: str, abstract_syntax: str | None = None, *, scp: bool = False
    ) -> PresentationContext:
        self._check_established()
        wanted = (abstract_syntax,) if abstract_syntax else (sop_class_uid, *CONTEXTS_FOR.get(sop_class_uid, ()))
        for uid in wanted:
            for context in self.contexts.values():
                if context.abstract_syntax == uid and (context.scp if scp else context.scu):
                    return context
        role = " in which this side is the SCP" if scp else ""
        what = name_of(abstract_syntax or sop_class_uid)
        why = next((f", {_REFUSALS.get(each, each)}" for uid in wanted if (each := self._refused.get(uid))), "")
        raise NoAcceptedContext(f"the association has no accepted presentation context for {what}{role}{why}")

    def _check_established(self) -> None:
        if self._ended is not None:
            raise _again(self._ended)
        if not self._is_established:
            raise LocalProtocolError("the association is not established")
        if self._upper_layer.state is not State.STA6:
            raise AssociationReleased("the association is being released")

    def _context_that_carries(self, instance: Instance | Dataset) -> PresentationContext | None:
        """The context on which an instance can go as it is."""
        self._check_established()
        if isinstance(instance, Instance):
            sop_class, _, syntax = instance[:3]
            if not (instance.length if instance.path else len(instance.data)):
                raise FileFormatError("an instance without a data set cannot be sent")
        else:
            sop_class, _, syntax = describe_data_set(instance)
        for context in self.contexts.values():
            if context.abstract_syntax == sop_class and context.transfer_syntax == syntax and context.scu:
                return context
        return None

    async def _convert(self, instance: Instance | Dataset, *, decompress: bool) -> tuple[PresentationContext, Instance]:
        """The instance encoded for a context that was accepted."""
        sop_class, sop_instance, syntax = (
            instance[:3] if isinstance(instance, Instance) else describe_data_set(instance)
        )
        accepted = {context.transfer_syntax: context for context in reversed(self.accepted(sop_class))}
        if not accepted:
            message = f"no presentation context for {name_of(sop_class)} was proposed and accepted"
            raise NoAcceptedContext(f"{message}; connect(contexts=contexts_for(...)) proposes what instances need")
        if syntax in accepted and not isinstance(instance, Instance):
            data = await asyncio.to_thread(encode, instance, syntax)
        else:
            syntax, data = await asyncio.to_thread(convert, instance, accepted, decompress=decompress)
        return accepted[syntax], Instance(sop_class, sop_instance, syntax, length=len(data), data=data)

    def _several(
        self,
        field: CommandField,
        identifier: Dataset | bytes,
        model: str,
        abstract_syntax: str | None,
        **elements: object,
    ) -> Responses:
        sop_class = uid_of(model)
        context = self._context_for(sop_class, abstract_syntax)
        return self._invoker.several(context, field, identifier, affected_sop_class_uid=sop_class, **elements)

    # Sending

    async def _send(self, send: Callable[[], Coroutine[None, None, None]]) -> None:
        """Send one message, and what waits for its end."""
        async with self._sending:
            await send()
        self._send_deferred()

    def _send_deferred(self) -> None:
        deferred, self._deferred = self._deferred, []
        for data in deferred:
            self._write_message(data)

    async def _send_message(self, context_id: int, command: Command, data: bytes) -> None:
        """A message of the peer's operation; none goes out any more once this side has asked for the release."""

        async def send() -> None:
            if self._ended is not None or self._may_respond:
                await self._send_data(context_id, command, data)

        await self._send(send)

    def _write_between_messages(self, data: bytes) -> bool:
        """Send a small message at once or after the one that is going out; returns whether that can be."""
        if self._sending.locked():
            self._deferred.append(data)
            if len(self._deferred) > MAX_WAITING_REQUESTS:
                raise ProtocolError(f"{MAX_WAITING_REQUESTS} requests came while one message was sent")
            return True
        return self._write_message(data)

    @property
    def _may_respond(self) -> bool:
        """Whether the peer can be answered: after our A-RELEASE-RQ its requests may come, answers may not go."""
        return self._upper_layer.state in _MAY_RESPOND

    def _write_message(self, data: bytes) -> bool:
        if not self._may_respond:
            return False
        self._connection.write(data)
        return True

    async def _send_data(self, context_id: int, command: Command, data: bytes | memoryview) -> None:
        head = encode_command(context_id, command, self._fragment_size)
        if data:
            await self._send_pieces(context_id, head, memoryview(data).cast("B"))
        elif self._upper_layer.state is State.STA6 and self._connection.unread_since is None:
            self._connection.write(head)
        else:
            await self._connection.write_and_drain((head,), self.timeouts.dimse)

    async def _send_instance(self, context_id: int, command: Command, instance: Instance) -> None:
        head = encode_store(context_id, command, self._fragment_size)
        if instance.path:
            if self._file_sender is None:
                self._file_sender = FileSender(self._connection, self._fragment_size)
            await self._file_sender.send(context_id, head, instance, self.timeouts.dimse)
            return
        await self._send_pieces(context_id, head, memoryview(instance.data).cast("B"))

    async def _send_pieces(self, context_id: int, head: bytes, data: memoryview) -> None:
        """Send the PDUs of a command, and a data set behind it."""
        if len(data) % 2:
            data = memoryview(bytes(data) + b"\0")  # fragments are of even length; only a deflated data set may be odd
        pieces: list[memoryview | bytes] = [head]
        gathered = 0
        for start in range(0, len(data), self._fragment_size):
            piece = data[start : start + self._fragment_size]
            is_last = start + len(piece) == len(data)
            pieces += (data_head(context_id, len(piece), is_last=is_last), piece)
            gathered += len(piece)
            if is_last or gathered >= _WRITE_SIZE:
                await self._connection.write_and_drain(pieces, self.timeouts.dimse)
                pieces, gathered = [], 0
                if not is_last:
                    await asyncio.sleep(0)  # a peer that takes all at once must not keep the loop from the others

    def _forget_files(self) -> None:
        """Let go of the memory that sending files takes, and of a file that was upcoming."""
        if self._file_sender is not None:
            self._file_sender.forget()
            self._file_sender = None

    def _prepare(self, instance: Instance) -> None:
        """Read the beginning of what will be sent next; what is wrong with it is said when it is sent."""
        if self._file_sender is not None and self._ended is None:
            with contextlib.suppress(OSError, FileFormatError, AssociationReleased):
                if (context := self._context_that_carries(instance)) is not None:
                    self._file_sender.prepare(context.id, instance)

    def _request_release(self) -> None:
        if self._upper_layer.state is State.STA6:
            self._upper_layer.release(self._connection.now())
            self._connection.flush()

    def _abort_now(self, error: AssociationError | None = None) -> None:
        if self._ended is None:
            self._end(error or AssociationAborted(0, 0, by_peer=False))
            if self._upper_layer.state in _MAY_ABORT:
                self._upper_layer.abort(self._connection.now())
                self._connection.flush()
            else:
                self._connection.kill()

    async def _wait_closed(self) -> None:
        await asyncio.shield(self._closed)

    # What the network brings (ConnectionUser)

    def _established(
        self,
        peer: UserInformation,
        contexts: dict[int, PresentationContext],
        window: AsyncOperationsWindow,
        extended: dict[str, bytes],
        *,
        has_agreed: bool,
    ) -> None:
        """The negotiation has succeeded, with an answer about the window if it ``has_agreed`` on one.

        Raises LocalProtocolError if the peer's maximum length leaves no room.
        """
        self.peer_information = peer
        self.window = window
        self._invoker.open_window(window.invoked)
        self._performer.window = min(window.performed or MAX_WAITING_REQUESTS, MAX_WAITING_REQUESTS)
        if has_agreed:
            self._performer.most_outstanding = self._performer.window
        self.extended.update(extended)
        self.contexts.update(contexts)
        self._fragment_size = fragment_size(peer.maximum_length, self._max_send_pdu_length)
        self._is_established = True
        self._last_message = self._connection.now()
        self._connection.wake_at(self._last_message + min(self.timeouts.idle, self.timeouts.dimse))
        if not self._negotiated.done():
            self._negotiated.set_result(None)

    def _fragments_received(self, fragments: list[Fragment], now: float) -> None:
        """P-DATA has come."""
        performer = self._performer
        performer.has_resumed = False
        for received in self._reader.receive(fragments):
            if self._ended is not None:  # also by a handler that has gone on
                return
            if isinstance(received, CommandReceived):
                self._last_message = now
                self._command_received(received.context, received.command)
            elif isinstance(received, ProtocolError):
                raise received
            elif self._invoker.incoming is None:
                performer.data_received(received)
            else:
                self._invoker.data_received(received)
        if performer._waiting:
            performer.start()

    def _indicated(self, indicated: Indicated) -> None:
        """The upper layer says how the association goes on, or that it does not."""
        what, about = indicated
        if self._ended is not None:
            return  # something in the same read has ended it
        if what in _NEGOTIATION:
            self._on_associate(self, indicated)
        elif what is Indication.RELEASE and self._upper_layer.state is State.STA8:
            if not self._reader.is_between_messages:
                self._abort_now(AssociationAborted(0, 0, by_peer=False, detail="a release in the middle of a message"))
                return
            self._release_requested = True
            self._release_due = self._connection.now() + self.timeouts.acse
            self._connection.wake_at(self._release_due)
            self._performer.cancel_all()
            self._quiet()
        elif what is Indication.RELEASE_COLLISION:
            # PS3.8 9.2.2: the requestor of the association answers first, the acceptor after it was answered.
            if self._upper_layer.state is State.STA9:
                self._upper_layer.respond_to_release(self._connection.now())
                self._connection.flush()
        elif what is Indication.RELEASED:
            if self._upper_layer.state is State.STA12:
                self._upper_layer.respond_to_release(self._connection.now())
                self._connection.flush()
            self._end(AssociationReleased("the association was released"))
        elif what is Indication.ABORT or what is Indication.PROVIDER_ABORT:
            self._end(_end_error(about))

    def _rest_due(self, now: float) -> float | None:
        """When the rest of a message, or of a PDU, is overdue; None when none has begun."""
        if self._reader.context_id is None and self._upper_layer.is_between_pdus:
            return None
        return now + self.timeouts.dimse

    def _handle_timer(self, now: float) -> float | None:
        """See which deadline has passed; what is overdue ends the association, and silence releases it."""
        if self._ended is not None or not self._is_established:
            return None
        soonest = math.inf
        for due, message in self._deadlines():
            if now >= due:
                _log.warning("= aborting %r: %s", self, message)
                self._abort_now(AssociationTimeout(message))
                return None
            soonest = min(soonest, due)
        idle = now if self._is_busy() else max(self._last_message, self._connection.last_received)
        if now < idle + self.timeouts.idle:
            return min(soonest, idle + self.timeouts.idle)
        if self._upper_layer.state is State.STA6:
            _log.info("= releasing %r, idle", self)
            self._release_due = now + self.timeouts.acse
            self._request_release()
        return min(soonest, self._release_due or now + self.timeouts.idle)

    def _deadlines(self) -> Iterator[tuple[float, str]]:
        """By when the peer owes something, and what to say when it comes too late."""
        dimse, connection = self.timeouts.dimse, self._connection
        if connection.unread_since is not None:
            yield connection.unread_since + dimse, f"the peer has not read its responses for {dimse:g} s"
        elif not connection.is_reading_paused and (due := self._rest_due(connection.last_received)) is not None:
            yield due, f"the peer has sent nothing for {dimse:g} s in the middle of a message"
        # A response may stand behind requests that wait for a handler, which may wait for just that response.
        if not connection.is_reading_paused or self._performer.has_waiting:
            for operation in self._invoker.operations.values():
                due = max(operation.due, connection.reading_since + dimse)
                if operation.request.message.field is CommandField.C_GET_RQ and not operation.is_abandoned:
                    # It goes on also when its performer does not say so, and while it waits for this side.
                    due = max(due, (connection.now() if self._performer.is_busy else self._last_message) + dimse)
                yield due, f"no response to {operation.request.message.name} for {dimse:g} s"
        if self._release_due is not None:
            yield self._release_due, f"the release was not done for {self.timeouts.acse:g} s"

    def _connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        self._end(AssociationLost(f"the connection was lost{f': {error}' if error else ''}"))
        self._performer.when_done(self._close)

    def _close(self) -> None:
        if not self._closed.done():
            self._closed.set_result(None)
        if self._on_close is not None:
            self._on_close(self)

    # Helpers of these

    def _command_received(self, context: PresentationContext, command: Command) -> None:
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("< %s on context %d", command, context.id)
        if command.message.is_response:
            self._invoker.response_received(context, command)
        elif command.message.field is CommandField.C_CANCEL_RQ:
            self._performer.cancel(command.message_id_being_responded_to)
        else:
            self._performer.request_received(context, command)

    @property
    def _waits_for_quiet(self) -> bool:
        return self._release_requested or self._silence is not None

    def _quiet(self) -> None:
        """Something is over; perhaps all is that somebody waits for."""
        if self._performer.is_busy:
            return
        if self._release_requested and self._ended is None:
            self._release_requested = False
            self._upper_layer.respond_to_release(self._connection.now())
            self._end(AssociationReleased("the association was released by the peer"))
            self._connection.flush()
        if self._silence is not None and not self._invoker.operations:
            self._silence.set_result(None)
            self._silence = None

    def _is_busy(self) -> bool:
        return self._performer.is_busy or bool(self._invoker.operations) or not self._reader.is_between_messages

    def _end(self, error: AssociationError) -> None:
        """The association is over; every wait ends, once."""
        if self._ended is not None:
            return
        self._ended = error
        if self._on_end is not None:
            self._on_end(self)
        if self._audit is not None:
            self._audit.ended()
        if not self._negotiated.done():
            self._negotiated.set_exception(error)
        self._invoker.end(error)
        self._performer.end(error)
        self._forget_files()
        self._quiet()


_NEGOTIATION = (Indication.ASSOCIATE, Indication.ASSOCIATE_ACCEPTED, Indication.ASSOCIATE_REJECTED)
_ABORT_PATIENCE = 2.0
_WRITE_SIZE = 256 * 1024
_REFUSALS: dict[int, str] = {
    Result.USER_REJECTION: "the peer has rejected it",
    Result.NO_REASON: "the peer has rejected it without a reason",
    Result.ABSTRACT_SYNTAX_NOT_SUPPORTED: "which the peer does not support",
    Result.TRANSFER_SYNTAXES_NOT_SUPPORTED: "of which the peer supports none of the proposed transfer syntaxes",
}
_MAY_ABORT = frozenset(State) - {State.STA1, State.STA2, State.STA13}
_MAY_RESPOND = frozenset((State.STA6, State.STA8))  # Evt9 in Table 9-10


def _retrieve(future: asyncio.Future[Any] | None) -> None:
    """Look at a future's exception, which is raised elsewhere, so that asyncio does not complain of it."""
    if future is not None and future.done() and not future.cancelled():
        future.exception()


def _finite(timeout: float) -> float | None:
    return None if timeout == float("inf") else timeout


def _again(error: AssociationError) -> AssociationError:
    """The same error for another raise, without the traceback of the first."""
    return error.with_traceback(None)


def _end_error(about: object) -> AssociationError:
    if isinstance(about, Abort):
        return AssociationAborted(about.source, about.reason)
    if isinstance(about, ProtocolError):
        return AssociationAborted(2, about.reason, by_peer=False, detail=str(about))
    return AssociationLost("the peer closed the connection without releasing the association")
