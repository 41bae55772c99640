"""This side's requests on one association: as many in flight as the window has, and what answers them (PS3.7 8.1).

What a request is and how it is sent, the association says. Cancellation and errors in the midst of a message end the
association; responses that nobody waits for any more are dropped when they come.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from .command import Category, Command, CommandField, Status
from .dimse import encode_command
from .errors import AssociationError, LocalProtocolError, ProtocolError
from .operations import MAX_RESPONSE_LENGTH, Operation, Response, Responses
from .performer import encoded

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pydicom import Dataset

    from .association import Association
    from .dimse import DataReceived
    from .instances import Instance
    from .presentation import PresentationContext

__all__ = ["Invoker"]

_log = logging.getLogger("asyncdicom")

_MAX_QUEUED = 1 << 20
"""Bytes of responses that nobody has taken, from which on nothing is read."""

_MOST_QUEUED = MAX_RESPONSE_LENGTH
"""The same while somebody waits for the response to another request, which may be behind them."""

_PENDING = 0xFF00
_UNLIMITED = 0xFFFF
"""Operations in flight: there are no more Message IDs."""


class Invoker:
    """What an association asks of its peer."""

    def __init__(self, association: Association) -> None:
        self.operations: dict[int, Operation] = {}
        """In flight, by Message ID."""
        self.incoming: tuple[Operation | None, Command, PresentationContext] | None = None
        """The response whose data set is being received."""
        self._association = association
        self._message_id = 0
        self._places = asyncio.Semaphore(1)
        """For operations."""
        self._queued = 0
        """Bytes of responses that nobody has taken."""
        self._response_data = bytearray()
        self._stuck: list[asyncio.Future[None]] = []
        """Of tasks that wait for a place that their own operation has; done when that cannot go on."""

    def open_window(self, size: int) -> None:
        """So many operations may be in flight, 0 for any number."""
        self._places = asyncio.Semaphore(size or _UNLIMITED)

    def end(self, error: AssociationError) -> None:
        """The association is over."""
        operations, self.operations = self.operations, {}
        for operation in operations.values():
            operation.fail(error)
            self._places.release()
        self._association._connection.resume_reading("responses")

    def _next_message_id(self) -> int:
        while True:
            self._message_id = self._message_id % 0xFFFF + 1
            if self._message_id not in self.operations:
                return self._message_id

    async def request(
        self,
        context: PresentationContext,
        field: CommandField,
        data_set: Dataset | bytes | None = None,
        **elements: object,
    ) -> Response:
        """A request that has one response."""
        data = encoded(data_set, context)
        request = Command(field, has_data_set=bool(data), **elements)
        return await self.perform(context, request, lambda: self._association._send_data(context.id, request, data))

    def several(
        self, context: PresentationContext, field: CommandField, identifier: Dataset | bytes, **elements: object
    ) -> Responses:
        """A request that has several responses."""
        if not (data := encoded(identifier, context)):
            raise LocalProtocolError("an identifier without a key cannot be sent")
        request = Command(field, has_data_set=True, **elements)

        async def begin() -> Operation:
            send = lambda: self._association._send_data(context.id, request, data)  # noqa: E731
            operation = await self._begin(context, request, send, has_several=True)
            if self._association._audit is not None and field is CommandField.C_FIND_RQ:
                self._association._audit.queried(context, request, data, is_sent=True)
            return operation

        return Responses(self, begin)

    async def perform(
        self,
        context: PresentationContext,
        request: Command,
        send: Callable[[], Coroutine[None, None, None]],
        upcoming: Instance | None = None,
    ) -> Response:
        """Send a request, and wait for its only response."""
        operation = await self._begin(context, request, send)
        try:
            if upcoming is not None:
                self._association._prepare(upcoming)
            return await operation.next()
        except BaseException as error:
            is_last = self.is_in_flight(operation) and len(self.operations) == 1
            if isinstance(error, asyncio.CancelledError) and not is_last:
                self._leave(operation)  # the others shall not suffer for it
                raise
            raise self._cut_short(operation, error) from None

    async def _begin(
        self,
        context: PresentationContext,
        request: Command,
        send: Callable[[], Coroutine[None, None, None]],
        *,
        has_several: bool = False,
    ) -> Operation:
        """Wait for a place in the window, and send a request."""
        association = self._association
        operation = Operation(context, request, association._loop, self._queued_changed, has_several=has_several)
        if self.operations and self._places.locked() and self._own_loop() is not None:
            await self._acquire_in_own_loop()
        else:
            await self._places.acquire()
        request.message_id = self._next_message_id()
        self.operations[request.message_id] = operation
        writes: int | None = None
        try:
            association._check_established()
            if _log.isEnabledFor(logging.DEBUG):
                _log.debug("> %s on context %d", request, context.id)
            async with association._sending:
                writes = association._connection.writes
                await send()
            if association._deferred:
                association._send_deferred()
        except BaseException as error:
            if writes not in (None, association._connection.writes) or association._ended is not None:
                raise self._cut_short(operation, error) from None  # a message that was cut off cannot be taken back
            self._finish(operation)
            raise
        self._wait_on(operation)
        return operation

    def _own_loop(self) -> Operation | None:
        """The operation whose responses the current task is going through."""
        task = asyncio.current_task(self._association._loop)
        found = (each for each in self.operations.values() if each.owner is task and not each.is_abandoned)
        return next(found, None)

    async def _acquire_in_own_loop(self) -> None:
        """Wait for a place that the task's own operation has, until its responses have come: as many as are kept."""
        loop = self._association._loop
        stuck: asyncio.Future[None] = loop.create_future()
        self._stuck.append(stuck)
        if self._queued >= _MAX_QUEUED:
            stuck.set_result(None)
        acquiring = loop.create_task(self._places.acquire())
        try:
            await asyncio.wait((stuck, acquiring), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if not acquiring.cancel() and not acquiring.cancelled():
                self._places.release()
            raise
        finally:
            self._stuck.remove(stuck)
        if not acquiring.done():
            acquiring.cancel()
            raise LocalProtocolError(
                "this task is in the midst of responses on this association, whose window is full; more are to come "
                "than are kept: end it first (aclose), or use another association"
            )

    def _cut_short(self, operation: Operation, error: BaseException) -> BaseException:
        """An operation has failed in the midst; returns what to raise: why the association ended says more."""
        if self._association._ended is None:
            self._association._abort_now(error if isinstance(error, AssociationError) else None)
        elif isinstance(error, (AssociationError, LocalProtocolError)):
            error = self._association._ended.with_traceback(None)
        self._finish(operation)
        return error

    def _finish(self, operation: Operation) -> None:
        """An operation is over, and its place is free."""
        if self.is_in_flight(operation):
            del self.operations[operation.request.message_id or 0]
            self._places.release()
            operation.finish()
            self._association._quiet()

    def _wait_on(self, operation: Operation) -> None:
        """The next response has to come within the DIMSE timeout."""
        association = self._association
        operation.due = association._connection.now() + association.timeouts.dimse
        association._connection.wake_at(operation.due)

    def is_in_flight(self, operation: Operation) -> bool:
        """Whether its last response has not come yet."""
        return self.operations.get(operation.request.message_id or 0) is operation

    def abandon(self, operation: Operation) -> None:
        """Nobody wants the responses that are still to come: C-CANCEL, and drop them (PS3.7 9.3.2.3)."""
        if operation.is_abandoned:
            return
        self._leave(operation)
        if self.is_in_flight(operation) and not self._association._quirks.never_cancel:
            cancel = Command(CommandField.C_CANCEL_RQ, message_id_being_responded_to=operation.request.message_id)
            _log.debug("> %s", cancel)
            association = self._association
            association._write_between_messages(
                encode_command(operation.context.id, cancel, association._fragment_size)
            )

    def abandon_own(self) -> None:
        """The task that calls goes on with something else: nobody takes the responses it has left in the midst."""
        task = asyncio.current_task(self._association._loop)
        for operation in tuple(self.operations.values()):
            if operation.owner is task:
                self.abandon(operation)

    def _leave(self, operation: Operation) -> None:
        """Nobody waits for the response any more; what comes of it is dropped, and its place is free then."""
        operation.abandon()  # also one whose response has come: it is there, and counts
        if self.is_in_flight(operation):
            self._wait_on(operation)

    def _queued_changed(self, by: int) -> None:
        self._queued += by
        connection = self._association._connection
        if self._queued < _MAX_QUEUED // 2 or (self._queued < _MOST_QUEUED and self._is_awaited()):
            connection.resume_reading("responses")
        elif self._queued >= _MAX_QUEUED:
            connection.pause_reading("responses")
            for stuck in self._stuck:
                if not stuck.done():
                    stuck.set_result(None)

    def _is_awaited(self) -> bool:
        return any(operation.is_awaited for operation in self.operations.values())

    def response_received(self, context: PresentationContext, command: Command) -> None:
        """A response has begun: its command is here."""
        if command.status is None:
            raise ProtocolError(f"{command.message.name} without a Status")
        operation = self.operations.get(command.message_id_being_responded_to or 0)
        if operation is None:
            operation = self._operation_meant(command)
        elif command.message.field != operation.request.message.field | 0x8000:
            message = operation.request.message.name
            raise ProtocolError(f"{command.message.name} where the response to {message} was expected")
        if command.has_data_set:
            self.incoming = operation, command, context
            self._response_data.clear()
        elif operation is not None:
            self._answered(operation, Response(command, context))

    def _operation_meant(self, command: Command) -> Operation | None:
        """What a response with an unknown Message ID answers."""
        # dicom-rs answers an echo with the ID of an earlier message; nothing is kept or lost by believing it.
        is_echo = command.message.field is CommandField.C_ECHO_RSP
        if len(self.operations) == 1 and (is_echo or self._association._quirks.any_response_id):
            (operation,) = self.operations.values()
            if operation.request.message.field | 0x8000 == command.message.field:
                _log.warning("< %s, but message %s waits; taken", command, operation.request.message_id)
                return operation
        _log.warning("< %s, but no request waits for it; ignored", command)
        return None

    def data_received(self, received: DataReceived) -> None:
        """More of the data set of a response."""
        assert self.incoming is not None
        operation, command, context = self.incoming
        if operation is not None:  # also one that is abandoned: it may be its last response
            for view in received.views:
                self._response_data += view
            if len(self._response_data) > MAX_RESPONSE_LENGTH:
                raise ProtocolError(f"the data set of {command.message.name} exceeds {MAX_RESPONSE_LENGTH} bytes")
        if received.is_last:
            self.incoming = None
            if operation is not None:
                self._answered(operation, Response(command, context, bytes(self._response_data)))
            self._response_data.clear()

    def _answered(self, operation: Operation, response: Response) -> None:
        if not self.is_in_flight(operation):
            return
        status = response.command.status or 0
        if operation.has_several and status >= _PENDING and Status(status).category is Category.PENDING:
            if (
                not operation.is_abandoned or self._association._quirks.never_cancel
            ):  # else a peer that heeds no C-CANCEL would never have to end
                self._wait_on(operation)
        else:
            operation.last = response
            self._finish(operation)
        operation.deliver(response)
