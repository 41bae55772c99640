"""The peer's requests of one association: judged, queued, handed to handlers, answered (PS3.7 8.1, 9.3, 10.3).

Requests run in tasks of the association, as many at once as the asynchronous operations window allows (PS3.7 D.3.3.3),
one by default. A task goes on to the next request, which spares making one for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import inspect
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import asynccontextmanager
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from .command import Category, CommandField, DataSetPresence, Status
from .dimse import encode_command, encode_response, response_to
from .errors import AssociationError, DataSetError, ProtocolError, StatusError
from .receive_buffer import MAX_HELD
from .requests import REQUESTS, NCreateRequest, WholeRequest
from .uids import CONTEXTS_FOR, VERIFICATION
from .wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pydicom import Dataset

    from .access import Admission
    from .association import Association
    from .command import Command
    from .data_set import IncomingDataSet
    from .dimse import DataReceived
    from .presentation import PresentationContext
    from .requests import Handler, Handlers, Request

__all__ = ["MAX_WAITING_REQUESTS", "Performer", "encoded", "generated"]

_log = logging.getLogger("asyncdicom")

MAX_WAITING_REQUESTS = 1024
"""Requests of a peer that does not wait for answers; their data sets are bounded by the memory that they hold."""

_DECODE_IN_THREAD = 16 << 10
"""Bytes of a request's data set from which it is decoded in a thread: pydicom takes 25 microseconds for an element,
which may have 8 bytes."""

_MAX_DATA_SET = 64 << 20
"""Bytes of a request's data set that are gathered for a handler: an image box of the print service has 20 MB or so."""

_MAX_IDENTIFIER = 256 << 10
"""Bytes of a query: pydicom takes most of a second to decode what may be in so many, and nobody is served meanwhile."""

_WAITING_COST = 2048
"""Bytes that a request takes while it waits, beside its data set."""

_ALWAYS_GATHERED = 64 << 10
"""Bytes of each data set that do not count for what all may gather together: who asks for little is not refused."""

_OUT_OF_RESOURCES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_END = object()
_PENDING = 0xFF00


class Performer:
    """What an association does for its peer."""

    def __init__(
        self,
        association: Association,
        handlers: Handlers,
        on_handled: Callable[[Request, Status | None], None] | None,
    ) -> None:
        self.window = 1
        """How many handlers may run at once."""
        self.most_outstanding = MAX_WAITING_REQUESTS
        """How many requests may be unanswered: who has agreed on a window is held to it (PS3.7 D.3.3.3). Others wait
        their turn: some stream without one."""
        self.has_resumed = False
        """Whether a task has gone on within the read that is being handled."""
        self._association = association
        self._handlers = handlers
        self._on_handled = on_handled
        """Told of each request that a handler had, and of the status that it was answered with."""
        self._loop = association._loop
        self._pool = association._pool
        self._incoming: IncomingDataSet | None = None
        """Of the message that is being received; None when its data set is of no interest."""
        self._refusal: tuple[int, Command, Status] | None = None
        """What to answer when the message that is being received has ended."""
        self._requests: dict[int, Request] = {}
        """What is not answered yet, by Message ID."""
        self._waiting: deque[tuple[Request, Handler]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = 0
        """Tasks that perform a request."""
        self._idle: list[Wakeup[None]] = []
        """For which the other tasks wait."""
        self._called = 0
        """Tasks that were told to look for a request and have not done it yet."""
        self._on_end: Callable[[], None] | None = None
        self._held = 0
        self._slowed: asyncio.TimerHandle | None = None
        """Set while nothing is read because of the rate of requests."""

    @property
    def is_busy(self) -> bool:
        """Whether requests wait or are performed."""
        return bool(self._running or self._waiting)

    @property
    def has_waiting(self) -> bool:
        """Whether there are more requests than may be performed at once."""
        return bool(self._waiting)

    def is_current(self) -> bool:
        """Whether it is one of its tasks that asks."""
        return bool(self._tasks) and asyncio.current_task(self._loop) in self._tasks

    # What the network brings

    def request_received(self, context: PresentationContext, command: Command) -> None:
        """A request has begun: its command is here."""
        self._incoming = self._refusal = None
        if command.message_id is None:
            raise ProtocolError(f"{command.message.name} without a Message ID cannot be answered")
        if self._association._admission is not None:
            self._slow_down(self._association._admission)
        handler = self._handlers.of_services.get(context.abstract_syntax, self._handlers.default).get(
            command.message.field
        )
        status = self._judge(context, command, handler)
        if status is None:
            assert handler is not None
            request = REQUESTS[command.message.field](self._association, context, command)
            self._incoming = request.incoming
            if len(self._requests) >= self.most_outstanding:
                raise ProtocolError(f"more requests than the {self.window} at a time that were agreed")
            self._requests[command.message_id] = request
            self._waiting.append((request, handler))
            if isinstance(request, WholeRequest):  # of a C-STORE the data set is counted
                self._charge(_WAITING_COST)
        elif command.has_data_set:
            # PS3.7 9.1.1: a refusal may come early, but a peer that is still sending may not read.
            self._refusal = context.id, command, status
        else:
            self.respond(context.id, command, status)

    def _judge(self, context: PresentationContext, command: Command, handler: Handler | None) -> Status | None:
        """The status that answers a request at once, None for one that a handler shall have."""
        field = command.message.field
        association = self._association
        if association._admission is not None:
            named = command.requested_sop_class_uid or command.affected_sop_class_uid or ""
            refusal = association._admission.rule.refusal(field, named, command.action_type_id)
            if refusal is not None:
                if association._on_refused is not None:
                    association._on_refused(association, command, refusal)
                return refusal
        if field is CommandField.C_ECHO_RQ:
            return Status.SUCCESS if context.abstract_syntax == VERIFICATION else Status.SOP_CLASS_NOT_SUPPORTED
        if handler is None:
            return Status.UNRECOGNIZED_OPERATION
        # Event reports in any role: managers that open an association for them often leave the roles as they are.
        if not context.scp and field is not CommandField.N_EVENT_REPORT_RQ:
            return Status.UNRECOGNIZED_OPERATION
        if command.message_id in self._requests:
            return Status.DUPLICATE_INVOCATION
        if field & 0x0100:  # DIMSE-N
            return _judge_normalized(context, command)
        if command.affected_sop_class_uid != context.abstract_syntax:
            return Status.SOP_CLASS_NOT_SUPPORTED  # else what was refused could come on another context
        if field is CommandField.C_STORE_RQ and not command.affected_sop_instance_uid:
            return Status.INVALID_SOP_INSTANCE
        if not command.has_data_set:
            return Status(Status.CANNOT_UNDERSTAND, "no data set")
        return None

    def data_received(self, received: DataReceived) -> None:
        """More of the data set of the request that has begun last."""
        if (incoming := self._incoming) is not None:
            incoming.feed(received.views, is_last=received.is_last)
            if self._waiting:
                self.start()
            incoming.settle()
            if received.is_last:
                self._incoming = None  # it is whole, whatever becomes of the association
        if received.is_last and self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            self.respond(*refusal)

    def start(self) -> None:
        """Have tasks look at what waits, as many as are needed and may be."""
        while len(self._waiting) > self._called:
            if self._idle:
                waiter = self._idle.pop()
                self._called += 1
                # At once for one request in each read: who sends many without waiting must not keep the loop from
                # others.
                at_once, self.has_resumed = not self.has_resumed, True
                waiter.set_result(None, at_once=at_once)
            elif len(self._tasks) < self.window:
                self._called += 1
                # Not by create_task: a task factory that begins at once would begin before it is known.
                task = asyncio.Task(self._run(), loop=self._loop)
                self._tasks.add(task)
                task.add_done_callback(self._task_done)
            else:
                return

    def cancel(self, message_id: int | None) -> None:
        """C-CANCEL (PS3.7 9.3.2.3); one that comes too late, or for what cannot be cancelled, has no effect."""
        request = self._requests.get(message_id or 0)
        if (
            isinstance(request, WholeRequest)
            and request.command.message.field in _CANCELLABLE
            and not request.is_cancelled  # a release cancels too
        ):
            request.is_cancelled = True
            if request.stop is not None:
                request.stop()

    def cancel_all(self) -> None:
        """The peer releases the association: it does not want the answers that are still to come."""
        for message_id in tuple(self._requests):
            self.cancel(message_id)

    def end(self, error: AssociationError) -> None:
        """The association is over."""
        for task in self._tasks:
            task.cancel()  # before its data set fails: it shall see the cancellation
        for request, _ in self._waiting:
            if request.incoming is not None:
                request.incoming.fail(error)
            if isinstance(request, WholeRequest):
                self._charge(-_WAITING_COST)
        self._waiting.clear()
        if self._incoming is not None:
            self._incoming.fail(error)
        self._pool.holds_nothing(self._look_at_held)
        self._association._connection.resume_reading("data sets")
        if self._slowed is not None:
            self._go_on_reading()

    def when_done(self, callback: Callable[[], None]) -> None:
        """Have a function called when no task is left, which may be now: a handler is given time to clean up."""
        if self._tasks:
            self._on_end = callback
        else:
            callback()

    # The receive memory that data sets hold

    def held_changed(self, by: int) -> None:
        """A consumer holds more, or less, receive memory."""
        self._held += by
        association = self._association
        if association._ended is not None:
            return
        if not self._held:
            self._pool.holds_nothing(self._look_at_held)
        elif self._held >= MAX_HELD * self.window or not self._pool.may_read(
            self._look_at_held, needs_more=self._incoming is not None and self._incoming.needs_more
        ):
            association._connection.pause_reading("data sets")
            return
        association._connection.resume_reading("data sets")

    def _charge(self, by: int) -> None:
        self._pool.charge(by)
        self.held_changed(by)

    def _look_at_held(self) -> None:
        """See whether reading may go on."""
        self.held_changed(0)

    # The rate of requests

    def _slow_down(self, admission: Admission) -> None:
        """Count a request, and read no more until the next one is due.

        Rather than refuse it: a peer that is too fast waits, and loses nothing.
        """
        now = self._loop.time()
        if (delay := admission.delay(now)) > 0:
            if self._slowed is not None:
                self._slowed.cancel()
            self._association._connection.pause_reading("request rate")
            self._slowed = self._loop.call_at(now + delay, self._go_on_reading)

    def _go_on_reading(self) -> None:
        assert self._slowed is not None
        self._slowed.cancel()
        self._slowed = None
        self._association._connection.resume_reading("request rate")

    # The tasks

    async def _run(self) -> None:
        """Perform one request after the other."""
        association = self._association
        self._called -= 1
        while association._ended is None:
            if not self._waiting:
                if association._waits_for_quiet and not self._running:
                    association._quiet()
                waiter: Wakeup[None] = Wakeup(self._loop)
                self._idle.append(waiter)
                try:
                    await waiter
                finally:
                    if self._idle and waiter in self._idle:
                        self._idle.remove(waiter)
                    else:
                        self._called -= 1
                continue
            request, handler = self._waiting.popleft()
            answered = None
            self._running += 1
            try:
                if isinstance(request, WholeRequest):
                    self._charge(-_WAITING_COST)
                    answered = await self._answer(request, handler)
                else:
                    answered = await self._store(request, handler)
            except (asyncio.CancelledError, AssociationError):
                if association._ended is None:
                    _log.warning("= aborting %r: its handler was cancelled", association)
                association._abort_now()
            except Exception:  # noqa: BLE001 - a status that cannot be encoded, say; logged
                _log.exception("answering a request of %r failed", request.calling_ae_title)
                association._abort_now()
            finally:
                if request.incoming is not None:
                    request.incoming.close()
                if answered is None:
                    self._answered(request)
                self._running -= 1
                if self._on_handled is not None:
                    self._on_handled(request, answered)
                if association._audit is not None:
                    association._audit.handled(request, answered)
                del request, handler  # which hold on to whatever an exception of the handler has seen
            if self._waiting:
                await asyncio.sleep(0)

    def _answered(self, request: Request) -> None:
        """The peer may use the Message ID again as soon as it has the answer."""
        message_id = request.command.message_id or 0
        if self._requests.get(message_id) is request:
            del self._requests[message_id]

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a task of %r failed", self._association, exc_info=error)
            self._association._abort_now()
        if self._association._ended is None:
            self.start()  # only this task was cancelled, by a stranger
        if not self.is_busy:
            self._association._quiet()
        if not self._tasks and self._on_end is not None:
            self._on_end()

    async def _store(self, request: Request, handler: Handler) -> Status | None:
        """Call a C-STORE handler, and answer; returns with what, None if the association has ended."""
        assert request.incoming is not None
        if self._association._audit is not None:
            await self._association._audit.store_begins(request)
        try:
            status = await _called(handler, request)
            if not isinstance(status, Status):
                status = _as_status(status)
            if status >= _PENDING:
                raise TypeError(f"the handler returned {status}, which is not the end")
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is answered
            status = self._status_for(request, error)
        if not request.incoming.is_complete:
            await request.incoming.drop()
        association = self._association
        self._answered(request)
        if association._ended is not None or not self.respond(request.context.id, request.command, status):
            return None
        association._last_message = association._connection.now()
        return status

    async def _answer(self, request: WholeRequest, handler: Handler) -> Status | None:
        """Call a handler that wants the whole request, and answer."""
        request.task = asyncio.current_task(self._loop)
        try:
            status, data, more = await self._perform(request, handler)
            self._answered(request)
            if self._association._ended is not None or not self._association._may_respond:
                return None
            await self._send(request, status, data, **more)
        finally:
            self._pool.gather(-request.gathered)
        return status

    async def _perform(self, request: WholeRequest, handler: Handler) -> tuple[Status, bytes, dict[str, Any]]:
        """What the last response says: status, data set, and elements of its command."""
        data_set: object = None
        more: dict[str, Any] = {}
        try:
            if request.incoming is not None:
                await self._gather(request, request.incoming)
            field = request.command.message.field
            if field is CommandField.C_FIND_RQ:
                if self._association._audit is not None:
                    self._association._audit.queried(request.context, request.command, request.data, is_sent=False)
                status = await self._find(request, handler)
            elif field in _CANCELLABLE:
                report = functools.partial(self._send, request, Status.PENDING, b"")
                status, data_set, more = await handler.retrieve(request, report)  # type: ignore[attr-defined]
            else:
                status, data_set = _as_answer(await _called(handler, request))
            if status.category is Category.PENDING:
                raise ValueError(f"the handler ended with {status}, which says that there is more")
            return status, encoded(data_set, request.context), more
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is answered
            status = self._status_for(request, error)
            return status, encoded(error.data_set, request.context) if isinstance(error, StatusError) else b"", {}

    async def _gather(self, request: WholeRequest, incoming: IncomingDataSet) -> None:
        """Have the whole data set; it is refused when it has come, if it is too long or all are together."""
        field = request.command.message.field
        limit = _MAX_IDENTIFIER if field in _CANCELLABLE else _MAX_DATA_SET
        too_long = StatusError(Status(_TOO_LONG[bool(field & 0x0100)], "too long"))

        def admit(size: int) -> None:
            counts = max(0, size - _ALWAYS_GATHERED)
            if size > limit or not self._pool.gather(counts - request.gathered):
                raise too_long
            request.gathered = counts

        try:
            request.data = await incoming.gather(admit)
        except StatusError:
            await incoming.drop()
            raise
        if len(request.data) >= _DECODE_IN_THREAD:
            with contextlib.suppress(DataSetError):  # the handler meets it, if it looks
                request._data_set = await asyncio.to_thread(request._decoded, in_thread=True)

    async def _find(self, request: WholeRequest, handler: Handler) -> Status:
        """Send what a C-FIND handler yields; returns the status of the last response."""
        async with generated(handler, request) as matches:
            while (match := await self._next(request, matches)) is not _END:
                if isinstance(match, int):
                    return _as_status(match)
                status, data_set = match if isinstance(match, tuple) else (Status.PENDING, match)
                status = _as_status(status)
                if status.category is not Category.PENDING:
                    return status
                if data_set is None:
                    raise TypeError("the C-FIND handler yielded None; a match is a data set")
                await self._send(request, status, encoded(data_set, request.context))
                await asyncio.sleep(0)  # a handler that never waits must not keep the loop from others, and C-CANCEL
        return Status.CANCEL if request.is_cancelled else Status.SUCCESS

    async def _next(self, request: WholeRequest, matches: AsyncIterator[object]) -> object:
        """What a handler yields next; :data:`_END` when that was all or the peer wants no more."""
        task = request.task
        assert task is not None
        if _is_unwanted(request):
            return _END
        request.stop = task.cancel
        match: object = _END
        try:
            match = await anext(matches, _END)
        except asyncio.CancelledError:
            if not _is_unwanted(request) or task.cancelling() > 1:  # then it is not for the C-CANCEL alone
                raise
        finally:
            request.stop = None
            if _is_unwanted(request):
                task.uncancel()  # the task goes on, whatever the handler has made of it
        return _END if _is_unwanted(request) else match

    # Answers

    def _status_for(self, request: Request, error: Exception) -> Status:
        """What a handler's exception is answered with; raises it again when it is that the association is over."""
        if isinstance(error, AssociationError) and self._association._ended is not None:
            raise error
        if isinstance(error, StatusError) and error.status < _PENDING:
            return _as_status(error.status)
        name = request.command.message.name[:-3]
        is_normalized = request.command.message.field & 0x0100
        failure = Status.PROCESSING_FAILURE if is_normalized else Status.CANNOT_UNDERSTAND
        if isinstance(error, DataSetError):
            # Not what the error says: it may quote the data set.
            _log.warning("a %s of %r was refused: its data set cannot be read", name, request.calling_ae_title)
            return Status(failure, "the data set cannot be read")
        _log.error("the %s handler failed on a request of %r", name, request.calling_ae_title, exc_info=error)
        if isinstance(error, OSError) and error.errno in _OUT_OF_RESOURCES and not is_normalized:
            return Status(Status.OUT_OF_RESOURCES, "no space left to store it")
        return Status(failure, "the handler failed")

    def respond(self, context_id: int, request: Command, status: Status) -> bool:
        """Answer a request with a status alone, at once or after the message that is going out.

        Returns whether that can be.
        """
        association = self._association
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("> %s of message %s: %s", request.message.name, request.message_id, status)
        if vars(status):
            response = response_to(request, status, **status.related)
            data = encode_command(context_id, response, association._fragment_size)
        else:
            data = encode_response(context_id, request, status, association._fragment_size)
        return association._write_between_messages(data)

    async def _send(self, request: Request, status: Status, data: bytes = b"", **elements: Any) -> None:
        """Answer a request, or say how it goes on; waits for a peer that leaves too much unread."""
        association = self._association
        command = request.command
        if isinstance(request, NCreateRequest) and not status.is_failure:
            elements["affected_sop_instance_uid"] = request.sop_instance_uid
        if data and command.message.field is CommandField.N_ACTION_RQ:
            elements["action_type_id"] = command.action_type_id
        if data and command.message.field is CommandField.N_EVENT_REPORT_RQ:
            elements["event_type_id"] = command.event_type_id
        response = response_to(command, status, has_data_set=bool(data), **status.related, **elements)
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("> %s", response)
        try:
            await association._send_message(request.context.id, response, data)
        except AssociationError as error:
            if association._ended is None:
                _log.warning("= aborting %r: %s", association, error)
                association._abort_now(error)  # a message that was cut off cannot be taken back
            raise
        association._last_message = association._connection.now()


_CANCELLABLE = frozenset((CommandField.C_FIND_RQ, CommandField.C_GET_RQ, CommandField.C_MOVE_RQ))
_TOO_LONG = {False: Status.OUT_OF_RESOURCES, True: Status.RESOURCE_LIMITATION}


def _is_unwanted(request: WholeRequest) -> bool:
    """Whether a C-CANCEL has come."""
    return request.is_cancelled


def _judge_normalized(context: PresentationContext, command: Command) -> Status | None:
    """What is wrong with a DIMSE-N request that no handler needs to see."""
    sop_class = command.requested_sop_class_uid or command.affected_sop_class_uid or ""
    # A context for a meta SOP class carries messages of its members, and UPS messages name UPS Push (PS3.7 10.1).
    if sop_class != context.abstract_syntax and context.abstract_syntax not in CONTEXTS_FOR.get(sop_class, ()):
        return Status.NO_SUCH_SOP_CLASS
    names = command.message.mandatory
    if any(name.endswith("_sop_instance_uid") and not getattr(command, name) for name in names):
        return Status.INVALID_SOP_INSTANCE
    for name, words in (("action_type_id", "no action type"), ("event_type_id", "no event type")):
        if name in names and getattr(command, name) is None:
            return Status(Status.PROCESSING_FAILURE, words)
    if command.message.data_set is DataSetPresence.REQUIRED and not command.has_data_set:
        return Status(Status.PROCESSING_FAILURE, "no data set")
    return None


def _called(handler: Handler, request: Request) -> Awaitable[Any]:
    """The coroutine that a handler is."""
    coroutine = handler(request)
    if type(coroutine) is not CoroutineType and not inspect.isawaitable(coroutine):
        name = request.command.message.name[:-3]
        raise TypeError(f"the {name} handler must be a coroutine function (async def)")
    return coroutine


def _as_status(answer: object) -> Status:
    """What a handler returned, which may be a plain number."""
    if isinstance(answer, Status):
        return answer
    if isinstance(answer, int) and not isinstance(answer, bool):
        return Status(answer)
    raise TypeError(f"the handler returned {answer!r}; return a Status")


def _as_answer(answer: object) -> tuple[Status, object]:
    """Status and data set of what a handler returned."""
    if isinstance(answer, tuple):
        status, data_set = answer
        return _as_status(status), data_set
    if answer is not None and not isinstance(answer, int):
        return Status.SUCCESS, answer
    return _as_status(answer), None


def encoded(data_set: Dataset | bytes | object, context: PresentationContext) -> bytes:
    """A data set as bytes of a context's transfer syntax, as which bytes are taken; none if it is empty."""
    if data_set is None:
        return b""
    if isinstance(data_set, (bytes, bytearray, memoryview)):
        return bytes(data_set)
    if not hasattr(data_set, "original_encoding"):
        raise TypeError(f"a data set is a pydicom Dataset or bytes, not {type(data_set).__name__}")
    from .instances import encode  # noqa: PLC0415 - brings pydicom

    return encode(data_set, context.transfer_syntax)  # type: ignore[arg-type]


@asynccontextmanager
async def generated(handler: Handler, request: Request) -> AsyncIterator[AsyncIterator[Any]]:
    """What the asynchronous generator yields that a handler is; it is closed at the end."""
    made = handler(request)
    if not isinstance(made, AsyncIterable):
        if inspect.iscoroutine(made):
            made.close()
        name = request.command.message.name[:-3]
        raise TypeError(f"the {name} handler must be an asynchronous generator (async def, with yield)")
    iterator = aiter(made)
    try:
        yield iterator
    finally:
        if isinstance(iterator, AsyncGenerator):
            await iterator.aclose()
