"""This side's requests and what answers them: operations in flight, and their responses (PS3.7 8.1, 9.1, 10.1).

An operation is made and kept by its association; users see a :class:`Response`, or :class:`Responses` where there may
be several. Knows nothing of the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from typing import TYPE_CHECKING

from .command import Category, Command, Status
from .wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from types import TracebackType
    from typing import Self

    from pydicom import Dataset

    from .invoker import Invoker
    from .presentation import PresentationContext

__all__ = ["MAX_RESPONSE_LENGTH", "Operation", "Response", "Responses"]

MAX_RESPONSE_LENGTH = 64 << 20
"""Bytes of a response's data set that are taken."""

_RESPONSE_COST = 1024
"""Bytes that a response takes beside its data set."""


class Response:
    """One response to a request of this side."""

    __slots__ = ("_data_set", "command", "context", "data")

    def __init__(self, command: Command, context: PresentationContext, data: bytes = b"") -> None:
        self.command = command
        """Its command set."""
        self.context = context
        """The presentation context on which it came."""
        self.data = data
        """Its data set, encoded in the context's transfer syntax; empty if there is none."""
        self._data_set: Dataset | None = None

    def __repr__(self) -> str:
        return f"<Response {self.command.message.name} {self.status}>"

    @property
    def status(self) -> Status:
        """Failures are values, too."""
        command = self.command
        assert command.status is not None
        if not command.status and not command.error_comment:
            return Status.SUCCESS
        return Status(
            command.status,
            command.error_comment or "",
            command.offending_element or (),
            error_id=command.error_id,
            attribute_identifier_list=command.attribute_identifier_list or (),
        )

    @property
    def data_set(self) -> Dataset | None:
        """Its data set, decoded when it is asked for first; None if there is none.

        A match of a C-FIND, the attributes of an N-GET, ... Raises DataSetError if it cannot be decoded.
        """
        if self._data_set is None and self.data:
            from .instances import decode_data_set  # noqa: PLC0415 - brings pydicom

            self._data_set = decode_data_set(self.data, self.context.transfer_syntax)
        return self._data_set

    @property
    def sop_instance_uid(self) -> str:
        """Affected SOP Instance UID: of what an N-CREATE has made, for one."""
        return self.command.affected_sop_instance_uid or ""

    @property
    def remaining(self) -> int | None:
        """Sub-operations to be done (C-GET, C-MOVE); None where the performer did not say."""
        return self.command.number_of_remaining_suboperations

    @property
    def completed(self) -> int | None:
        """Sub-operations that were done."""
        return self.command.number_of_completed_suboperations

    @property
    def failed(self) -> int | None:
        """Sub-operations that have failed."""
        return self.command.number_of_failed_suboperations

    @property
    def warning(self) -> int | None:
        """Sub-operations that were done with a warning."""
        return self.command.number_of_warning_suboperations


class Operation:
    """A request of this side, until its last response has come."""

    __slots__ = (
        "_error",
        "_queued_changed",
        "_responses",
        "_waiter",
        "context",
        "drained",
        "due",
        "has_several",
        "is_abandoned",
        "last",
        "loop",
        "owner",
        "request",
    )

    def __init__(
        self,
        context: PresentationContext,
        request: Command,
        loop: asyncio.AbstractEventLoop,
        queued_changed: Callable[[int], None],
        *,
        has_several: bool,
    ) -> None:
        self.context = context
        self.request = request
        self.has_several = has_several
        """Whether pending responses may come before the last one."""
        self.due = math.inf
        """When the next response is overdue, in the loop's clock."""
        self.is_abandoned = False
        """Whether nobody waits for the responses any more."""
        self.owner = asyncio.current_task(loop) if has_several else None
        """The task that goes through the responses."""
        self.last: Response | None = None
        """The last response, once it is here."""
        self.drained: asyncio.Future[None] | None = None
        """For whoever waits until an abandoned one is over."""
        self.loop = loop
        self._queued_changed = queued_changed
        self._responses: deque[Response] = deque()
        self._waiter: Wakeup[Response] | None = None
        self._error: BaseException | None = None

    def deliver(self, response: Response) -> None:
        """A response has come; who waits for it goes on within this call."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.is_done:
            waiter.set_result(response)
        elif not self.is_abandoned:
            self._responses.append(response)
            self._queued_changed(len(response.data) + _RESPONSE_COST)

    def fail(self, error: BaseException) -> None:
        """No more will come."""
        self._error = error
        if self._waiter is not None:
            self._waiter.set_exception(error)
        self.finish()

    def finish(self) -> None:
        """It is over."""
        if self.drained is not None and not self.drained.done():
            self.drained.set_result(None)

    def abandon(self) -> None:
        """Forget what has come and what will."""
        self.is_abandoned = True
        while self._responses:
            self._queued_changed(-len(self._responses.popleft().data) - _RESPONSE_COST)

    async def next(self) -> Response:
        """The next response; raises why there is none."""
        if self._responses:
            response = self._responses.popleft()
            self._queued_changed(-len(response.data) - _RESPONSE_COST)
            return response
        if self._error is not None:
            raise self._error.with_traceback(None)
        if self.is_abandoned and self.last is not None:
            return self.last
        self._waiter = Wakeup(self.loop)
        self._queued_changed(0)
        return await self._waiter

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for its next response."""
        return self._waiter is not None and not self._waiter.is_done


class Responses:
    """The responses to a C-FIND, C-GET or C-MOVE (PS3.7 9.1.2 to 9.1.4): an asynchronous iterator of the pending ones.

    The request is sent when the first one is asked for. The last response ends the loop and is :attr:`final`, whatever
    its status is: a failure is a value. Awaited instead, it goes through all and gives the last one.

    Who leaves early, by :meth:`aclose`, at the end of an ``async with`` block, by cancellation, or by dropping the last
    reference, sends C-CANCEL; what is still on the way is dropped when it comes, within the DIMSE timeout, and the
    association can be used on. Responses that nobody takes are kept, up to 1 MiB, and then nothing is read any more; up
    to 64 MiB while the response to another request is awaited. Raises AssociationError when the association ends before
    the last response.
    """

    def __init__(self, invoker: Invoker, begin: Callable[[], Coroutine[None, None, Operation]]) -> None:
        self._invoker = invoker
        self._begin = begin
        self._operation: Operation | None = None
        self._is_over = False
        self.final: Response | None = None
        """The last response; None until it has come."""

    def __repr__(self) -> str:
        return f"<Responses, {self.final or ('over' if self._is_over else 'pending')}>"

    @property
    def status(self) -> Status | None:
        """Of the last response; None until it has come."""
        return self.final.status if self.final is not None else None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Response:
        if self._is_over:
            raise StopAsyncIteration
        if self._operation is not None and self._operation.is_awaited:
            raise RuntimeError("another task waits for the next of these responses")
        try:
            if self._operation is None:
                self._operation = await self._begin()
            response = await self._operation.next()
        except BaseException:
            self._abandon()
            raise
        if Status(response.command.status or 0).category is Category.PENDING:
            return response
        self.final = response
        self._is_over = True
        raise StopAsyncIteration

    def __await__(self) -> Generator[object, None, Response]:
        return self._run().__await__()

    async def _run(self) -> Response:
        async for _ in self:
            pass
        if self.final is None:
            raise RuntimeError("these responses were left before the last one came")
        return self.final

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel the operation (C-CANCEL, PS3.7 9.3.2.3) and wait for its last response. Does nothing if it is over.

        When the peer does not answer within the DIMSE timeout the association is aborted. Cancellation only ends the
        waiting.
        """
        operation = self._operation
        self._abandon()
        if operation is None:
            return
        if self._invoker.is_in_flight(operation):
            if operation.drained is None:
                operation.drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(operation.drained)
        self.final = operation.last

    def _abandon(self) -> None:
        self._is_over = True
        if self._operation is not None:
            self._invoker.abandon(self._operation)

    def __del__(self) -> None:
        if not self._is_over and self._operation is not None:
            self._operation.owner = None
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the association with it
                self._operation.loop.call_soon_threadsafe(self._invoker.abandon, self._operation)
