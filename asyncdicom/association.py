"""An association: the coroutines that a user calls, and the requests that the peer makes (PS3.7 chapter 7, PS3.8 7).

The one place that knows both the upper layer (below the connection) and DIMSE. What comes from the network is handled
in the event loop's callback; a task is made only for a handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import logging
import math
import os
from collections import deque
from dataclasses import dataclass
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from .command import Command, CommandField, Priority, Status
from .dimse import (
    CommandReceived,
    MessageReader,
    data_head,
    encode_command,
    encode_response,
    encode_store,
    fragment_size,
    response_to,
)
from .errors import (
    AssociationAborted,
    AssociationError,
    AssociationLost,
    AssociationReleased,
    AssociationTimeout,
    DataSetError,
    FileFormatError,
    LocalProtocolError,
    NoAcceptedContext,
    ProtocolError,
)
from .file_sender import FileSender
from .instances import Instance, convert, describe_data_set, encode, read_instance
from .pdu import Abort
from .receive_buffer import MAX_HELD
from .requests import CStoreRequest
from .transport import Connection
from .uids import VERIFICATION, name_of
from .upper_layer import Indication, State, UpperLayer
from .wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from pydicom import Dataset

    from .data_set import IncomingDataSet
    from .dimse import DataReceived
    from .pdu import UserInformation
    from .presentation import PresentationContext
    from .receive_buffer import Fragment
    from .requests import CStoreHandler
    from .upper_layer import Indicated

__all__ = ["Association", "Timeouts"]

_log = logging.getLogger("asyncdicom")

_MAX_WAITING_REQUESTS = 1024
"""Requests of a peer that does not wait for answers; their data sets are bounded by the memory that they hold."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each kind of waiting lasts, in seconds; ``math.inf`` waits for ever."""

    connect: float = 30.0
    """For the transport connection, with its TLS handshake."""
    acse: float = 30.0
    """For the answer to an association request or a release; as ARTIM, for a request to come and the peer to close."""
    dimse: float = 60.0
    """For a response; for the rest of a message that has begun; for the peer to take what is sent."""
    idle: float = 300.0
    """Without any message, then the association is released."""


class Association:
    """One association, on either side. Made by :func:`asyncdicom.connect` and by a server; not by hand.

    Requests may be made by several tasks at once; they are sent one after the other, as no asynchronous operations
    window was negotiated. Once the association is over, every method that needs it raises the same
    :class:`~asyncdicom.errors.AssociationError`, which says why.
    """

    def __init__(
        self,
        upper_layer: UpperLayer,
        timeouts: Timeouts,
        *,
        max_send_pdu_length: int,
        c_store: CStoreHandler | None = None,
        on_associate: Callable[[Association, Indicated], None],
        on_handled: Callable[[CStoreRequest, Status | None], None] | None = None,
        on_end: Callable[[Association], None] | None = None,
        on_close: Callable[[Association], None] | None = None,
    ) -> None:
        self.connection = Connection(upper_layer, self)
        self.timeouts = timeouts
        self.called_ae_title = ""
        self.calling_ae_title = ""
        self.peer_address = ""
        """IP address of the peer."""
        self.contexts: dict[int, PresentationContext] = {}
        """The accepted presentation contexts by ID."""
        self.peer_information: UserInformation | None = None
        """What the peer said of itself when the association was negotiated."""
        self._upper_layer = upper_layer
        self._pool = upper_layer.pool
        self._max_send_pdu_length = max_send_pdu_length
        self._fragment_size = 0
        self._c_store = c_store
        self._on_associate = on_associate
        self._on_handled = on_handled
        """Told of each request that a handler had, and of the status that it was answered with."""
        self._on_end = on_end
        self._on_close = on_close
        self._reader = MessageReader(self.contexts)
        self._is_established = False
        self._ended: AssociationError | None = None
        self._loop = loop = asyncio.get_running_loop()
        self.negotiated: asyncio.Future[None] = loop.create_future()
        """Done when the association is established, or never will be."""
        self.negotiated.add_done_callback(_retrieve)
        self._closed: asyncio.Future[None] = loop.create_future()
        # This side's requests
        self._message_id = 0
        self._operation = asyncio.Lock()
        """Held from a request to its response: the window is one."""
        self._sending = asyncio.Lock()
        """Held while a message goes out: messages do not interleave."""
        self._deferred: list[bytes] = []
        """Responses that wait for the message that is going out."""
        self._response: Wakeup[Command] | None = None
        self._request: Command | None = None
        self._response_due: float | None = None
        self._file_sender: FileSender | None = None
        # The peer's requests
        self._incoming: IncomingDataSet | None = None
        """Of the message that is being received; None when its data set is of no interest."""
        self._refusal: tuple[int, Command, Status] | None = None
        """What to answer when the message that is being received has ended."""
        self._waiting: deque[CStoreRequest] = deque()
        self._handler: asyncio.Task[None] | None = None
        """The task in which handlers run, one after the other, from the first request on."""
        self._is_handling = False
        self._next_request: Wakeup[None] | None = None
        """For which the handlers' task waits."""
        self._has_resumed = False
        """Whether the handlers' task has gone on within the read that is being handled."""
        self._handled: asyncio.Future[None] | None = None
        """For whoever waits until no handler runs."""
        self._held = 0
        self._release_requested = False
        self._release_due: float | None = None
        self._last_message = self.connection.now()

    def __repr__(self) -> str:
        state = "established" if self.is_established else "over" if self._ended else "being negotiated"
        titles = f"{self.calling_ae_title!r} -> {self.called_ae_title!r}"  # text from the peer, so escaped
        return f"<Association {titles} ({self.peer_address}), {state}>"

    # What a user asks and does

    @property
    def is_established(self) -> bool:
        """Whether it can be used."""
        return self._is_established and self._upper_layer.state is State.STA6

    def accepted(self, sop_class_uid: str) -> list[PresentationContext]:
        """The presentation contexts on which this side may be SCU of a SOP class."""
        return [each for each in self.contexts.values() if each.abstract_syntax == sop_class_uid and each.scu]

    async def c_echo(self) -> Status:
        """Verify that the peer answers (C-ECHO, PS3.7 9.1.5). Returns the response's status.

        Raises NoAcceptedContext without an accepted context for Verification, and AssociationError. Cancellation while
        the answer is awaited aborts the association.
        """
        context = self._context_for(VERIFICATION)
        request = Command(
            CommandField.C_ECHO_RQ, affected_sop_class_uid=VERIFICATION, message_id=self._next_message_id()
        )
        return await self._perform(context, request, lambda: self._send_command(context.id, request))

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
        the association, and so does cancellation once sending has begun.
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
            message_id=self._next_message_id(),
            priority=priority,
            affected_sop_instance_uid=instance.sop_instance_uid,
            move_originator_application_entity_title=move_originator_ae_title,
            move_originator_message_id=move_originator_message_id,
        )
        return await self._perform(
            context, request, lambda: self._send_instance(context.id, request, instance), upcoming
        )

    async def release(self) -> None:
        """Release the association in the ordinary way (A-RELEASE, PS3.8 7.2), after the operations in flight.

        Does nothing if it is over already. Raises AssociationTimeout when the peer does not answer within the ACSE
        timeout; the association is aborted then, as it is when the call is cancelled after the release has begun.
        """
        async with self._operation:
            while (self._is_handling or self._waiting) and self._handler is not asyncio.current_task():
                if self._handled is None:
                    self._handled = asyncio.get_running_loop().create_future()
                await asyncio.shield(self._handled)
            if self._ended is not None or not self._is_established:
                return
            try:
                async with asyncio.timeout(_finite(self.timeouts.acse)):
                    self._request_release()
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
            self.connection.kill()
            await self._wait_closed()
        except asyncio.CancelledError:
            self.connection.kill()
            raise

    async def wait_closed(self) -> AssociationError | None:
        """Wait until the association is over and its connection closed; returns why it ended."""
        await self._wait_closed()
        return self._ended

    # Requests of this side

    def _next_message_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def _context_for(self, sop_class_uid: str) -> PresentationContext:
        self._check_established()
        if contexts := self.accepted(sop_class_uid):
            return contexts[0]
        raise NoAcceptedContext(f"the association has no accepted presentation context for {name_of(sop_class_uid)}")

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

    async def _perform(
        self,
        context: PresentationContext,
        request: Command,
        send: Callable[[], Coroutine[None, None, None]],
        upcoming: Instance | None = None,
    ) -> Status:
        """Send a request and wait for its response, one at a time."""
        async with self._operation:
            self._check_established()
            self._response = Wakeup(self._loop)
            self._request = request
            writes = self.connection.writes
            try:
                if _log.isEnabledFor(logging.DEBUG):
                    _log.debug("> %s on context %d", request, context.id)
                async with self._sending:
                    await send()
                self._send_deferred()
                self._response_due = self.connection.now() + self.timeouts.dimse
                self.connection.wake_at(self._response_due)
                if upcoming is not None:
                    self._prepare(upcoming)
                response = await self._response
            except BaseException as error:
                if self._ended is not None and isinstance(error, (AssociationError, LocalProtocolError)):
                    raise _again(self._ended) from None  # why it ended says more than that it did
                if self.connection.writes != writes:
                    # A message that was cut off cannot be taken back; a late response must not meet another request.
                    self._abort_now(error if isinstance(error, AssociationError) else None)
                raise
            finally:
                self._response = self._request = self._response_due = None
            return _status_of(response)

    async def _send_command(self, context_id: int, command: Command) -> None:
        self.connection.write(encode_command(context_id, command, self._fragment_size))

    async def _send_instance(self, context_id: int, command: Command, instance: Instance) -> None:
        head = encode_store(context_id, command, self._fragment_size)
        if instance.path:
            if self._file_sender is None:
                self._file_sender = FileSender(self.connection, self._fragment_size)
            await self._file_sender.send(context_id, head, instance, self.timeouts.dimse)
            return
        data = memoryview(instance.data).cast("B")
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
                await self.connection.write_and_drain(pieces, self.timeouts.dimse)
                pieces, gathered = [], 0
                if not is_last:
                    await asyncio.sleep(0)  # a peer that takes all at once must not keep the loop from the others

    def forget_files(self) -> None:
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
            self._upper_layer.release(self.connection.now())
            self.connection.flush()

    def _abort_now(self, error: AssociationError | None = None) -> None:
        if self._ended is None:
            self._end(error or AssociationAborted(0, 0, by_peer=False))
            if self._upper_layer.state in _MAY_ABORT:
                self._upper_layer.abort(self.connection.now())
                self.connection.flush()
            else:
                self.connection.kill()

    async def _wait_closed(self) -> None:
        await asyncio.shield(self._closed)

    # What the network brings (ConnectionUser)

    def established(self, peer: UserInformation, contexts: dict[int, PresentationContext]) -> None:
        """The negotiation has succeeded; raises LocalProtocolError if the peer's maximum length leaves no room."""
        self.peer_information = peer
        self.contexts.update(contexts)
        self._fragment_size = fragment_size(peer.maximum_length, self._max_send_pdu_length)
        self._is_established = True
        self._last_message = self.connection.now()
        self.connection.wake_at(self._last_message + min(self.timeouts.idle, self.timeouts.dimse))
        if not self.negotiated.done():
            self.negotiated.set_result(None)

    def fragments_received(self, fragments: list[Fragment], now: float) -> None:
        """P-DATA has come."""
        self._has_resumed = False
        for received in self._reader.receive(fragments):
            if self._ended is not None:  # also by a handler that has gone on
                return
            if isinstance(received, CommandReceived):
                self._last_message = now
                self._command_received(received.context, received.command)
            elif isinstance(received, ProtocolError):
                raise received
            else:
                self._data_received(received)
        if self._waiting:
            self._start_handler()

    def indicated(self, indicated: Indicated) -> None:
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
            self._release_due = self.connection.now() + self.timeouts.acse
            self.connection.wake_at(self._release_due)
            self._answer_release_if_done()
        elif what is Indication.RELEASE_COLLISION:
            # PS3.8 9.2.2: the requestor of the association answers first, the acceptor after it was answered.
            if self._upper_layer.state is State.STA9:
                self._upper_layer.respond_to_release(self.connection.now())
                self.connection.flush()
        elif what is Indication.RELEASED:
            if self._upper_layer.state is State.STA12:
                self._upper_layer.respond_to_release(self.connection.now())
                self.connection.flush()
            self._end(AssociationReleased("the association was released"))
        elif what is Indication.ABORT or what is Indication.PROVIDER_ABORT:
            self._end(_end_error(about))

    def rest_due(self, now: float) -> float | None:
        """When the rest of a message, or of a PDU, is overdue; None when none has begun."""
        if self._reader.context_id is None and self._upper_layer.is_between_pdus:
            return None
        return now + self.timeouts.dimse

    def handle_timer(self, now: float) -> float | None:
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
        idle = now if self._is_busy() else max(self._last_message, self.connection.last_received)
        if now < idle + self.timeouts.idle:
            return min(soonest, idle + self.timeouts.idle)
        if self._upper_layer.state is State.STA6:
            _log.info("= releasing %r, idle", self)
            self._release_due = now + self.timeouts.acse
            self._request_release()
        return min(soonest, self._release_due or now + self.timeouts.idle)

    def _deadlines(self) -> Iterator[tuple[float, str]]:
        """By when the peer owes something, and what to say when it comes too late."""
        dimse, connection = self.timeouts.dimse, self.connection
        if connection.unread_since is not None:
            yield connection.unread_since + dimse, f"the peer has not read its responses for {dimse:g} s"
        elif not connection.is_reading_paused and (due := self.rest_due(connection.last_received)) is not None:
            yield due, f"the peer has sent nothing for {dimse:g} s in the middle of a message"
        if self._response_due is not None and self._request is not None:
            yield self._response_due, f"no response to {self._request.message.name} for {dimse:g} s"
        if self._release_due is not None:
            yield self._release_due, f"the release was not done for {self.timeouts.acse:g} s"

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        self._end(AssociationLost(f"the connection was lost{f': {error}' if error else ''}"))
        if self._handler is not None:
            self._handler.add_done_callback(lambda _: self._close())  # a handler is given time to clean up
        else:
            self._close()

    def _close(self) -> None:
        if not self._closed.done():
            self._closed.set_result(None)
        if self._on_close is not None:
            self._on_close(self)

    # Helpers of these

    def _command_received(self, context: PresentationContext, command: Command) -> None:
        self._incoming = self._refusal = None
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("< %s on context %d", command, context.id)
        if command.message.is_response:
            self._response_received(command)
        elif command.message.field is CommandField.C_CANCEL_RQ:
            pass  # nothing that could be cancelled is offered, and one that is late has no effect (PS3.7 9.3.2.3)
        elif command.message_id is None:
            raise ProtocolError(f"{command.message.name} without a Message ID cannot be answered")
        else:
            self._request_received(context, command)

    def _request_received(self, context: PresentationContext, command: Command) -> None:
        status = self._judge(context, command)
        if status is None:
            request = CStoreRequest(self, context, command)
            self._incoming = request.data_set
            if len(self._waiting) >= _MAX_WAITING_REQUESTS:
                raise ProtocolError(f"{_MAX_WAITING_REQUESTS} requests are waiting, one at a time was negotiated")
            self._waiting.append(request)
            return
        if command.has_data_set:  # PS3.7 9.1.1: a refusal may come early, but a peer that is still sending may not read
            self._refusal = context.id, command, status
        else:
            self._respond(context.id, command, status)

    def _judge(self, context: PresentationContext, command: Command) -> Status | None:
        """The status that answers a request at once, None for a C-STORE that a handler shall have."""
        field = command.message.field
        if field is CommandField.C_ECHO_RQ:
            return Status.SUCCESS if context.abstract_syntax == VERIFICATION else Status.SOP_CLASS_NOT_SUPPORTED
        if field is not CommandField.C_STORE_RQ or self._c_store is None or not context.scp:
            return Status.UNRECOGNIZED_OPERATION
        if command.affected_sop_class_uid != context.abstract_syntax:
            return Status.SOP_CLASS_NOT_SUPPORTED  # else what was refused could come on another context
        if not command.affected_sop_instance_uid:
            return Status.INVALID_SOP_INSTANCE
        if not command.has_data_set:
            return Status(Status.CANNOT_UNDERSTAND, "no data set")
        return None

    def _response_received(self, command: Command) -> None:
        if command.status is None:
            raise ProtocolError(f"{command.message.name} without a Status")
        request, waiting = self._request, self._response
        if request is None or waiting is None or waiting.is_done:
            _log.warning("< %s, but no request waits for a response; ignored", command)
            return
        if command.message.field != request.message.field | 0x8000:
            raise ProtocolError(f"{command.message.name} where the response to {request.message.name} was expected")
        if command.message_id_being_responded_to != request.message_id:
            # dicom-rs answers an echo with the ID of an earlier message; nothing is kept or lost by believing it.
            taken = request.message.field is CommandField.C_ECHO_RQ
            _log.warning("< %s, but message %s waits; %s", command, request.message_id, "taken" if taken else "ignored")
            if not taken:
                return
        waiting.set_result(command)

    def _data_received(self, received: DataReceived) -> None:
        if (incoming := self._incoming) is not None:
            incoming.feed(received.views, is_last=received.is_last)
            if self._waiting:
                self._start_handler()
            incoming.settle()
            if received.is_last:
                self._incoming = None  # it is whole, whatever becomes of the association
        if received.is_last and self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            self._respond(*refusal)

    def _start_handler(self) -> None:
        if self._handler is None:
            # Not by create_task: a task factory that begins at once would begin before it is known.
            self._handler = asyncio.Task(self._handle_requests(), loop=self._loop)
        elif self._next_request is not None:
            waiter, self._next_request = self._next_request, None
            # At once for one request in each read: who sends many without waiting must not keep the loop from others.
            waiter.set_result(None, at_once=not self._has_resumed)
            self._has_resumed = True

    async def _handle_requests(self) -> None:
        """Run the handler for one request after the other; it waits for the next where a task for each would begin."""
        try:
            while self._ended is None:
                if not self._waiting:
                    self._handlers_done()
                    self._next_request = Wakeup(self._loop)
                    await self._next_request
                    continue
                request = self._waiting.popleft()
                self._is_handling = True
                answered = None
                try:
                    answered = await self._handle(request)
                except (asyncio.CancelledError, AssociationError):
                    if self._ended is None:
                        _log.warning("= aborting %r: its handler was cancelled", self)
                    self._abort_now()
                except Exception:  # noqa: BLE001 - a status that cannot be encoded, say; logged
                    _log.exception("answering a request of %r failed", request.calling_ae_title)
                    self._abort_now()
                finally:
                    request.data_set.close()
                    self._is_handling = False
                    if self._on_handled is not None:
                        self._on_handled(request, answered)
                    del request  # which holds on to whatever its handler's exception has seen
                if self._waiting:
                    await asyncio.sleep(0)
        finally:
            self._handler = None
            if self._waiting and self._ended is None:
                self._start_handler()  # only this task was cancelled, by a stranger
            else:
                self._handlers_done()

    def _handlers_done(self) -> None:
        self._answer_release_if_done()
        if self._handled is not None:
            self._handled.set_result(None)
            self._handled = None

    async def _handle(self, request: CStoreRequest) -> Status | None:
        """Call the handler, and answer; returns with what, None if the association has ended."""
        assert self._c_store is not None
        try:
            answer = self._c_store(request)
            if type(answer) is not CoroutineType and not inspect.isawaitable(answer):
                raise TypeError("the C-STORE handler must be a coroutine function (async def)")
            status = await answer
            if not isinstance(status, Status):
                status = _as_status(status)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is answered
            status = self._status_for(request, error)
        if not request.data_set.is_complete:
            await request.data_set.drop()
        if self._ended is not None or not self._respond(request.context.id, request.command, status):
            return None
        self._last_message = self.connection.now()
        return status

    def _status_for(self, request: CStoreRequest, error: Exception) -> Status:
        """What a handler's exception is answered with; raises it again when it is that the association is over."""
        if isinstance(error, AssociationError) and self._ended is not None:
            raise error
        if isinstance(error, DataSetError):
            _log.warning("an instance from %r was refused: %s", request.calling_ae_title, error)
            return Status(Status.CANNOT_UNDERSTAND, "the data set cannot be read")
        _log.error("the C-STORE handler failed on an instance from %r", request.calling_ae_title, exc_info=error)
        if isinstance(error, OSError) and error.errno in _OUT_OF_RESOURCES:
            return Status(Status.OUT_OF_RESOURCES, "no space left to store it")
        return Status(Status.CANNOT_UNDERSTAND, "the handler failed")

    def _respond(self, context_id: int, request: Command, status: Status) -> bool:
        """Answer a request of the peer, at once or after the message that is going out; returns whether that can be."""
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("> %s of message %s: %s", request.message.name, request.message_id, status)
        if status.error_comment or status.offending_element:
            more = {
                "offending_element": status.offending_element or None,
                "error_comment": status.error_comment or None,
            }
            data = encode_command(context_id, response_to(request, status, **more), self._fragment_size)
        else:
            data = encode_response(context_id, request, status, self._fragment_size)
        if self._sending.locked():
            self._deferred.append(data)
            if len(self._deferred) > _MAX_WAITING_REQUESTS:
                raise ProtocolError(f"{_MAX_WAITING_REQUESTS} requests came while one message was sent")
            return True
        return self._send_response(data)

    def _send_response(self, data: bytes) -> bool:
        if self._upper_layer.state not in _MAY_RESPOND:
            return False
        self.connection.write(data)
        return True

    def _send_deferred(self) -> None:
        deferred, self._deferred = self._deferred, []
        for data in deferred:
            self._send_response(data)

    def _answer_release_if_done(self) -> None:
        if self._release_requested and self._ended is None and not self._is_handling and not self._waiting:
            self._release_requested = False
            self._upper_layer.respond_to_release(self.connection.now())
            self._end(AssociationReleased("the association was released by the peer"))
            self.connection.flush()

    def _held_changed(self, by: int) -> None:
        """A consumer holds more, or less, receive memory."""
        self._held += by
        if self._ended is not None:
            return
        if not self._held:
            self._pool.holds_nothing(self._look_at_held)
        elif self._held >= MAX_HELD or not self._pool.may_read(
            self._look_at_held, needs_more=self._incoming is not None and self._incoming.needs_more
        ):
            self.connection.pause_reading("data sets")
            return
        self.connection.resume_reading("data sets")

    def _look_at_held(self) -> None:
        """See whether reading may go on."""
        self._held_changed(0)

    def _is_busy(self) -> bool:
        return self._is_handling or self._operation.locked() or not self._reader.is_between_messages

    def _end(self, error: AssociationError) -> None:
        """The association is over; every wait ends, once."""
        if self._ended is not None:
            return
        self._ended = error
        if self._on_end is not None:
            self._on_end(self)
        if not self.negotiated.done():
            self.negotiated.set_exception(error)
        if self._response is not None:
            self._response.set_exception(error)
        if self._handler is not None:
            self._handler.cancel()  # before its data set fails: it shall see the cancellation
        for request in self._waiting:
            request.data_set.fail(error)
        self._waiting.clear()
        if self._incoming is not None:
            self._incoming.fail(error)
        self.forget_files()
        self._pool.holds_nothing(self._look_at_held)
        self.connection.resume_reading("data sets")


_NEGOTIATION = (Indication.ASSOCIATE, Indication.ASSOCIATE_ACCEPTED, Indication.ASSOCIATE_REJECTED)
_ABORT_PATIENCE = 2.0
_WRITE_SIZE = 256 * 1024
_OUT_OF_RESOURCES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_MAY_ABORT = frozenset(State) - {State.STA1, State.STA2, State.STA13}
_MAY_RESPOND = frozenset((State.STA6, State.STA8))  # Evt9 in Table 9-10


def _as_status(answer: object) -> Status:
    """What a handler returned, which may be a plain number."""
    if isinstance(answer, int):
        return Status(answer)
    _log.error("the C-STORE handler returned %r; return a Status", answer)
    return Status(Status.CANNOT_UNDERSTAND, "the handler failed")


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


def _status_of(response: Command) -> Status:
    assert response.status is not None
    return Status(response.status, response.error_comment or "", response.offending_element or ())
