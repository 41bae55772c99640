"""Event reports about Unified Procedure Steps: what is in them, receiving them, sending them (PS3.4 CC.2.4).

The manager is the SCP of the UPS Event class: it opens an association to the AE that is subscribed and proposes the SCP
role there. Some managers report on an association that the subscriber has opened instead; a receiver takes both.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from asyncdicom.client import connect
from asyncdicom.command import Status
from asyncdicom.errors import DicomError
from asyncdicom.pool import Backoff
from asyncdicom.presentation import Context
from asyncdicom.retrieve import find_destination
from asyncdicom.services.tasks import end_tasks
from asyncdicom.uids import IMPLICIT_VR_LITTLE_ENDIAN
from asyncdicom.uids import UNIFIED_PROCEDURE_STEP_EVENT as UPS_EVENT
from asyncdicom.uids import UNIFIED_PROCEDURE_STEP_PUSH as UPS_PUSH

from .states import EventType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from pydicom import Dataset

    from asyncdicom.association import Association
    from asyncdicom.pool import ConnectOptions
    from asyncdicom.requests import NEventReportRequest
    from asyncdicom.retrieve import Destination, Resolve

__all__ = ["EventReport", "EventSender", "UpsEvents", "reports_of"]

_log = logging.getLogger("asyncdicom")


class EventReport(NamedTuple):
    """Something that happened to a step, or to its manager (PS3.4 Table CC.2.4-1)."""

    sop_instance_uid: str
    """Of the step; of the global subscription when it is about the manager."""
    event_type: int
    """An :class:`EventType`, or what else the peer sent."""
    information: Dataset | None
    """The attributes that the table has for the event."""


# What is in them

_PROGRESS: Final = "ProcedureStepProgressInformationSequence"
_CANCELLATION: Final = ("ReasonForCancellation", "ProcedureStepDiscontinuationReasonCodeSequence")
_PERFORMER: Final = ("HumanPerformerCodeSequence", "HumanPerformerOrganization")


def reports_of(event_type: EventType, step: Dataset) -> list[EventReport]:
    """The reports that tell of a step: one, or as many as it is assigned to human performers."""
    return [EventReport(step.SOPInstanceUID, event_type, information) for information in _MAKERS[event_type](step)]


def _state(step: Dataset) -> list[Dataset]:
    information = _selected(step, "ProcedureStepState", "InputReadinessState")
    for item in (step.get(_PROGRESS) or [])[:1]:
        information.update(_selected(item, *_CANCELLATION))
    return [information]


def _progress(step: Dataset) -> list[Dataset]:
    return [_selected(step, _PROGRESS)]


def _assignments(step: Dataset) -> list[Dataset]:
    assigned = []
    for performer in step.get("ScheduledHumanPerformersSequence") or [None]:
        assigned.append(_selected(step, "ScheduledStationNameCodeSequence"))
        if performer is not None:
            assigned[-1].update(_selected(performer, *_PERFORMER))
    return assigned


_MAKERS: Final = {
    EventType.STATE_REPORT: _state,
    EventType.PROGRESS_REPORT: _progress,
    EventType.ASSIGNED: _assignments,
}


def _selected(data_set: Dataset, *keywords: str) -> Dataset:
    """Those attributes that have a value; shared, not copied."""
    from pydicom import Dataset  # noqa: PLC0415 - only where a data set is made

    selected = Dataset()
    for keyword in ("SpecificCharacterSet", *keywords):
        if data_set.get(keyword):
            selected.add(data_set[keyword])
    return selected


# Receiving

_MAX_RECEIVED = 1000
"""Reports that nobody has taken; with more of them the manager waits for its answers."""


class UpsEvents:
    """A service that receives event reports; for ``serve(services=[...])`` and ``connect(services=[...])``.

    With a ``callback`` each report goes to it, and is answered when it is done. Without one the reports are iterated
    over, in the order in which they came::

        async for report in events:
            ...

    The manager learns that a report has come, not what is thought of it (PS3.4 CC.2.4.2). When 1,000 reports wait to be
    taken, the next one is answered only when there is room for it again.
    """

    def __init__(self, callback: Callable[[EventReport], Awaitable[None]] | None = None) -> None:
        self.contexts = (Context(UPS_EVENT, scu=True),)
        self.handlers = {"n_event_report": self._receive}
        self._reports: asyncio.Queue[EventReport] = asyncio.Queue(_MAX_RECEIVED)
        self._callback = callback or self._reports.put

    def __aiter__(self) -> AsyncIterator[EventReport]:
        return self

    async def __anext__(self) -> EventReport:
        """The next report; it waits for one without end. Cancellation loses none."""
        return await self._reports.get()

    async def _receive(self, request: NEventReportRequest) -> Status:
        await self._callback(EventReport(request.sop_instance_uid, request.event_type_id, request.data_set))
        return Status.SUCCESS


# Sending

_MAX_WAITING = 16 << 20
"""Bytes of the reports that wait for one AE: 10,000 steps, which somebody has subscribed to, make 3 MB."""
_COST = 256
"""Bytes that a report takes beside its information."""
_LINGER = 5.0
"""Seconds that an association to an AE is kept when all is reported: changes tend to come several at a time."""


class EventSender:
    """Reports events to AEs: in order for each of them, over one association to each, opened when there is something.

    What cannot be delivered is tried again as ``backoff`` has it; then all that waits for that AE is given up and
    logged. The standard asks for neither (PS3.4 CC.2.4.3). When 16 MiB wait for an AE, the oldest reports make room.

    A report is encoded once, when it is handed over: so it tells what was, whatever the step becomes. That is why only
    the default transfer syntax is proposed, which nobody may refuse (PS3.5 10.1).
    """

    def __init__(self, resolve: Resolve | None, ae_title: str, backoff: Backoff | None = None) -> None:
        self._resolve = resolve
        self._ae_title = ae_title
        self._backoff = backoff or Backoff()
        self._deliveries: dict[str, _Delivery] = {}
        self._closed = False

    @property
    def can_report(self) -> bool:
        """Whether there is a way to find anybody."""
        return self._resolve is not None

    async def destination(self, ae_title: str) -> Destination | None:
        """Where an AE is, None if that is not known."""
        return await find_destination(self._resolve, ae_title, ae_title)

    def send(self, ae_titles: Iterable[str], report: EventReport) -> None:
        """Have a report sent, to each AE after what waits for it; to be called in the event loop."""
        from asyncdicom.instances import encode  # noqa: PLC0415 - brings pydicom, which whoever reports has

        data = encode(report.information, IMPLICIT_VR_LITTLE_ENDIAN) if report.information else b""
        encoded = _Encoded(report.sop_instance_uid, report.event_type, data)
        for ae_title in () if self._closed else ae_titles:
            delivery = self._deliveries.get(ae_title)
            if delivery is None:
                delivery = self._deliveries[ae_title] = _Delivery(ae_title)
                delivery.task = asyncio.create_task(self._deliver(delivery), name=f"event reports for {ae_title}")
            delivery.add(encoded)

    async def close(self, drain: float = 10.0) -> None:
        """Give what waits ``drain`` seconds to be sent, then give it up. On cancellation it is given up at once."""
        self._closed = True
        await end_tasks([delivery.finish() for delivery in self._deliveries.values()], drain)

    async def _deliver(self, delivery: _Delivery) -> None:
        failures = 0
        try:
            while delivery.waiting:
                sent = delivery.sent
                try:
                    await self._deliver_once(delivery)
                except (DicomError, OSError) as error:
                    failures = failures + 1 if delivery.sent == sent else 1
                    if failures >= self._backoff.attempts:
                        delivery.give_up(str(error))
                    else:
                        await asyncio.sleep(self._backoff.delay(failures))
        except Exception:  # noqa: BLE001 - whatever the caller's resolve raises; logged
            _log.exception("= event reports for %s are given up", delivery.ae_title)
        finally:
            del self._deliveries[delivery.ae_title]

    async def _deliver_once(self, delivery: _Delivery) -> None:
        """Send what waits, and what comes soon after it, over one association."""
        destination = await self.destination(delivery.ae_title)
        if destination is None:
            delivery.give_up("nobody knows where it is")
            return
        options: ConnectOptions = {
            "called_ae_title": delivery.ae_title,
            "calling_ae_title": self._ae_title,
            **destination.options,
        }
        contexts = [Context(UPS_EVENT, (IMPLICIT_VR_LITTLE_ENDIAN,), scu=False, scp=True)]
        async with connect(destination.host, destination.port, contexts=contexts, **options) as association:
            while await delivery.has_more():
                await delivery.send_next(association)


class _Encoded(NamedTuple):
    """A report, ready to be sent."""

    sop_instance_uid: str
    event_type: int
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data) + _COST


class _Delivery:
    """What waits for one AE."""

    def __init__(self, ae_title: str) -> None:
        self.ae_title = ae_title
        self.waiting: deque[_Encoded] = deque()
        self.size = 0
        self.sent = 0
        self.task: asyncio.Task[None]
        self._more = asyncio.Event()
        self._linger = _LINGER

    def add(self, report: _Encoded) -> None:
        self.size += report.size
        self.waiting.append(report)
        while self.size > _MAX_WAITING:
            self.size -= self.waiting.popleft().size
            _log.warning("= too much waits to be reported to %s, the oldest is given up", self.ae_title)
        self._more.set()

    def finish(self) -> asyncio.Task[None]:
        """Send what is there, and wait for nothing more."""
        self._linger = 0
        self._more.set()
        return self.task

    def give_up(self, reason: str) -> None:
        _log.warning("= %d event reports for %s are given up: %s", len(self.waiting), self.ae_title, reason)
        self.waiting.clear()
        self.size = 0

    async def has_more(self) -> bool:
        """Whether there is a report to be sent, or one comes soon."""
        if not self.waiting and self._linger:
            self._more.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._linger):
                    await self._more.wait()
        return bool(self.waiting)

    async def send_next(self, association: Association) -> None:
        report = self.waiting.popleft()
        try:
            response = await association.n_event_report(
                UPS_PUSH, report.sop_instance_uid, report.event_type, report.data or None, context=UPS_EVENT
            )
        except BaseException:
            self.waiting.appendleft(report)
            raise
        self.size -= report.size
        self.sent += 1
        if response.status.is_failure:
            _log.warning("= %s answered an event report with %04XH", self.ae_title, response.status)
