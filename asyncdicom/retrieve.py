"""The performer's side of C-GET and C-MOVE: sub-operations, counters, the last status (PS3.7 9.1.3, 9.1.4, PS3.4 C.4).

A handler says which instances there are; they are sent as :mod:`asyncdicom.sending` sends everything, over the
association on which a C-GET came, or over a pool of associations with the destination of a C-MOVE.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Mapping
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from .command import Category, Status
from .errors import AssociationError, LocalProtocolError, NoAcceptedContext
from .performer import generated
from .pool import AssociationPool, Backoff, ConnectOptions
from .requests import CMoveRequest
from .sending import Sending, SendResult, StoreOptions

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable

    from pydicom import Dataset

    from .association import Association
    from .instances import Instance
    from .presentation import Context
    from .requests import CGetRequest, Handler
    from .sending import Sendable

    Report = Callable[..., Awaitable[None]]
__all__ = ["Destination", "MoveDestinations", "Resolve", "Retriever", "find_destination"]

_log = logging.getLogger("asyncdicom")

_NO_OPTIONS: ConnectOptions = {}

_PENDING_INTERVAL = 0.05
"""Seconds from one pending response to the next: they tell a user how far it is, and each is a message of its own."""


class Destination(NamedTuple):
    """Where a C-MOVE's instances go."""

    host: str
    port: int
    associations: int = 1
    """At most, at once."""
    options: ConnectOptions = _NO_OPTIONS
    """Of :func:`~asyncdicom.connect`. By default the move destination is the called AE title, and the title by which
    the C-MOVE's requestor called is the calling one."""


_Address: TypeAlias = "Destination | tuple[str, int]"
Resolve: TypeAlias = "Mapping[str, _Address] | Callable[[str], _Address | Awaitable[_Address | None] | None]"
"""Where the AE of a title is: host and port, or a :class:`Destination`; None, or no entry, if that is not known."""
MoveDestinations: TypeAlias = (
    "Mapping[str, _Address] | Callable[[CMoveRequest], _Address | Awaitable[_Address | None] | None]"
)
"""The same for the destination of a C-MOVE; functions are called with its request."""


async def find_destination(
    destinations: Mapping[str, Any] | Callable[[Any], Any] | None, ae_title: str, asked: object
) -> Destination | None:
    """Where the AE of a title is, None if that is not known.

    A mapping is asked for the title; a function, which may be a coroutine function, is called with ``asked``.
    """
    if isinstance(destinations, Mapping):
        found = destinations.get(ae_title)
    else:
        found = destinations(asked) if destinations is not None else None
        if inspect.isawaitable(found):
            found = await found
    return Destination(*found) if found is not None else None


class Retriever:
    """A handler of C-GET or C-MOVE with what it takes to send what it yields."""

    def __init__(self, handler: Handler, destinations: MoveDestinations | None = None) -> None:
        self._handler = handler
        self._destinations = destinations

    async def retrieve(self, request: CGetRequest, report: Report) -> tuple[Status, Dataset | None, dict[str, int]]:
        """Send all; returns the last status, the failed instances, and the counters.

        ``report`` sends a pending response: after the first instance, and then twenty a second at most. A C-CANCEL lets
        the instances end that are being sent.
        """
        count = _Count(request)
        async with self._associations(request) as associations:
            if associations is None:
                _log.warning("a C-MOVE of %r to an unknown destination", request.calling_ae_title)
                return Status(Status.MOVE_DESTINATION_UNKNOWN, "move destination unknown"), None, {}
            async with aclosing(count.instances(self._handler)) as instances:
                await self._send(
                    request,
                    report,
                    count,
                    Sending(associations, instances, _store_options(request), resend=False, halt=False),
                )
        return count.status(), count.failed_instances(), count.elements(is_last=True)

    async def _send(self, request: CGetRequest, report: Report, count: _Count, sending: Sending) -> None:
        count.sending = sending
        request.stop = sending.halt
        if request.is_cancelled:
            sending.halt()
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            async with aclosing(sending.results()) as results:
                async for result in results:
                    count.add(result)
                    if not request.is_cancelled and loop.time() >= due:
                        due = loop.time() + _PENDING_INTERVAL
                        await report(**count.elements())
        except AssociationError as error:
            if request.association._ended is not None or error not in sending.refusals:
                raise  # which may be the handler's own, of another association
            _log.warning("a C-MOVE of %r failed: %s", request.calling_ae_title, error)
            count.give_up()
        finally:
            request.stop = None

    @asynccontextmanager
    async def _associations(self, request: CGetRequest) -> AsyncIterator[Any]:
        if not isinstance(request, CMoveRequest):
            yield _ThisAssociation(request.association)
            return
        destination = await find_destination(self._destinations, request.destination, request)
        if destination is None:
            yield None
            return
        options: ConnectOptions = {
            "called_ae_title": request.destination,
            "calling_ae_title": request.called_ae_title,
            "timeouts": request.association.timeouts,
            "audit": request.association._audit.trail if request.association._audit is not None else None,
            **destination.options,
        }
        async with AssociationPool(
            destination.host,
            destination.port,
            max_associations=destination.associations,
            backoff=Backoff(attempts=1),
            **options,
        ) as pool:
            yield pool


def _store_options(request: CGetRequest) -> StoreOptions:
    options: StoreOptions = {"priority": request.priority, "decompress": request.decompress}  # type: ignore[typeddict-item]
    if isinstance(request, CMoveRequest):
        options["move_originator_ae_title"] = request.calling_ae_title
        options["move_originator_message_id"] = request.message_id
    return options


class _Count:
    """Sub-operations, counted (PS3.7 9.1.4.1.7 to 10)."""

    def __init__(self, request: CGetRequest) -> None:
        self.sending: Sending | None = None
        self._request = request
        self._completed = self._failed = self._warning = 0
        self._failed_uids: list[str] = []
        self._ending: Status | None = None
        """What the handler says is the end of it."""

    async def instances(self, handler: Handler) -> AsyncGenerator[Sendable]:
        """What the handler yields to be sent."""
        async with generated(handler, self._request) as instances:
            async for each in instances:
                if isinstance(each, int):
                    self._ending = each if isinstance(each, Status) else Status(each)
                    return
                yield each

    def add(self, result: SendResult) -> None:
        """One was sent, or was not."""
        if not result.is_success:
            self._failed += 1
            if result.sop_instance_uid:
                self._failed_uids.append(result.sop_instance_uid)
            _log.warning("a sub-operation for %r failed: %s", self._request.calling_ae_title, _why(result))
        elif result.status is not None and result.status.category is Category.WARNING:
            self._warning += 1
        else:
            self._completed += 1

    @property
    def _remaining(self) -> int:
        if self._request.total is not None:
            return max(0, self._request.total - self._completed - self._failed - self._warning)
        return self.sending.ahead if self.sending is not None else 0

    def give_up(self) -> None:
        """What remains has failed."""
        if self.sending is not None:
            self._failed_uids += self.sending.uids_ahead()
        self._failed += self._remaining

    def elements(self, *, is_last: bool = False) -> dict[str, int]:
        """For a response; the last one has what remains only when it was cancelled."""
        elements = {
            "number_of_completed_suboperations": self._completed,
            "number_of_failed_suboperations": self._failed,
            "number_of_warning_suboperations": self._warning,
        }
        if not is_last or self._request.is_cancelled:
            elements["number_of_remaining_suboperations"] = self._remaining
        return elements

    def status(self) -> Status:
        """Of the last response (PS3.4 C.4.2.1.5, C.4.3.1.4)."""
        if self._request.is_cancelled:
            return Status.CANCEL
        if self._ending is not None:
            return self._ending
        if not self._failed and not self._warning:
            return Status.SUCCESS
        if not self._completed and not self._warning:
            return Status(Status.SUBOPERATIONS_NOT_PERFORMED, "no sub-operation succeeded")
        return Status(_SUBOPERATIONS_FAILED)

    def failed_instances(self) -> Dataset | None:
        """The identifier of the last response: Failed SOP Instance UID List."""
        if not self._failed_uids:
            return None
        from pydicom import Dataset  # noqa: PLC0415

        data_set = Dataset()
        data_set.FailedSOPInstanceUIDList = self._failed_uids
        return data_set


_SUBOPERATIONS_FAILED = 0xB000


def _why(result: SendResult) -> object:
    """For the log: a peer's comment, the name of a file and an error in a data set may tell of a patient."""
    if result.status is not None:
        return f"status {int(result.status):04X}H"
    return (
        result.error if isinstance(result.error, (AssociationError, NoAcceptedContext)) else type(result.error).__name__
    )


class _ThisAssociation:
    """The association on which a C-GET came, in place of a pool."""

    _max = 1
    _tries = 1
    _waiting = ()

    def __init__(self, association: Association) -> None:
        self.association = association

    def _contexts_for(self, instance: Instance | Dataset) -> tuple[Context, ...]:  # noqa: ARG002
        """Nothing more can be proposed."""
        return ()

    def _remember(self, contexts: Iterable[Context]) -> None:
        """Nothing can."""

    def _delay(self, failures: int) -> float:  # noqa: ARG002
        """There is no second try."""
        return 0.0

    def has_proposed(self, contexts: Iterable[Context]) -> bool:  # noqa: ARG002
        """All that there will be."""
        return True

    async def _take(self, contexts: Iterable[Context]) -> _ThisAssociation:  # noqa: ARG002
        """It is its own member."""
        if not self.association.is_established:
            raise self.association._ended or LocalProtocolError("the association is being released")
        return self

    async def _put_back(self, member: _ThisAssociation) -> None:
        """It stays where it is."""
