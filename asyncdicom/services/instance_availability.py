"""Instance Availability Notification (PS3.4 annex R): tell, or be told, that instances can be retrieved, and where."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, NamedTuple

from asyncdicom.command import Status
from asyncdicom.instances import new_uid
from asyncdicom.presentation import Context

from .references import Reference, reference_item
from .requirements import Required, check_required

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from pydicom.dataset import Dataset

    from asyncdicom.association import Association
    from asyncdicom.requests import Handler, NCreateRequest

    from .references import Referable

__all__ = [
    "SOP_CLASS",
    "Availability",
    "AvailabilityNotifications",
    "AvailableInstance",
    "notification",
    "notify_availability",
    "read_notification",
]

SOP_CLASS: Final = "1.2.840.10008.5.1.4.33"


class Availability(enum.StrEnum):
    """Instance Availability (PS3.3 C.4.23.1.1)."""

    ONLINE = "ONLINE"
    """At once."""
    NEARLINE = "NEARLINE"
    """After it has been brought from a slower medium."""
    OFFLINE = "OFFLINE"
    """Only after somebody has done something by hand."""
    UNAVAILABLE = "UNAVAILABLE"
    """Not at all; it may not even exist."""


class AvailableInstance(NamedTuple):
    """What a notification says of one instance."""

    study_instance_uid: str
    series_instance_uid: str
    instance: Reference
    availability: str
    """An :class:`Availability`, or what else the peer sent."""
    retrieve_ae_title: str
    """Where it can be retrieved."""


# PS3.4 Table R.3.2-1
_ROWS: Final = (
    Required("StudyInstanceUID"),
    Required(
        "ReferencedSeriesSequence",
        (
            Required("SeriesInstanceUID"),
            Required(
                "ReferencedSOPSequence",
                (
                    Required("ReferencedSOPClassUID"),
                    Required("ReferencedSOPInstanceUID"),
                    Required("InstanceAvailability"),
                    Required("RetrieveAETitle"),
                ),
            ),
        ),
    ),
)


def notification(
    study_instance_uid: str,
    series: Mapping[str, Iterable[Referable]],
    *,
    retrieve_ae_title: str,
    availability: Availability = Availability.ONLINE,
    performed_procedure_step: Referable | None = None,
) -> Dataset:
    """The attributes of a notification about instances of one study.

    ``series`` maps Series Instance UIDs to their instances. Other attributes are forbidden by PS3.4 R.3.2.1.2, except
    those of Table R.3.2-1.
    """
    from pydicom.dataset import Dataset  # noqa: PLC0415 - takes long to import

    attributes = Dataset()
    step = [] if performed_procedure_step is None else [reference_item(performed_procedure_step)]
    for item in step:
        item.PerformedWorkitemCodeSequence = []
    attributes.ReferencedPerformedProcedureStepSequence = step
    attributes.StudyInstanceUID = study_instance_uid
    attributes.ReferencedSeriesSequence = []
    for uid, instances in series.items():
        one = Dataset()
        one.SeriesInstanceUID = uid
        one.ReferencedSOPSequence = [reference_item(instance) for instance in instances]
        for item in one.ReferencedSOPSequence:
            item.InstanceAvailability = availability.value
            item.RetrieveAETitle = retrieve_ae_title
        attributes.ReferencedSeriesSequence.append(one)
    return attributes


async def notify_availability(association: Association, attributes: Dataset, sop_instance_uid: str = "") -> Status:
    """Send a notification (N-CREATE, PS3.4 R.3.2.1) under a UID of its own; returns what the peer answers."""
    response = await association.n_create(SOP_CLASS, attributes, sop_instance_uid or new_uid())
    return response.status


def read_notification(attributes: Dataset) -> list[AvailableInstance]:
    """What a notification says, instance by instance.

    Raises StatusError, which a handler passes on, for attributes of type 1 that are missing (0120H) or empty (0121H).
    """
    check_required(attributes, _ROWS)
    return [
        AvailableInstance(
            str(attributes.StudyInstanceUID),
            str(series.SeriesInstanceUID),
            Reference(str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID)),
            str(item.InstanceAvailability),
            str(item.RetrieveAETitle),
        )
        for series in attributes.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]


class AvailabilityNotifications:
    """A service for :func:`~asyncdicom.serve`: has a coroutine told which instances are available (SCP).

    It gets the request and the instances, and may return a status, or raise StatusError.
    """

    contexts = (Context(SOP_CLASS),)

    def __init__(
        self, notified: Callable[[NCreateRequest, list[AvailableInstance]], Awaitable[Status | int | None]]
    ) -> None:
        self.handlers: Mapping[str, Handler] = {"n_create": self._create}
        self._notified = notified

    async def _create(self, request: NCreateRequest) -> Status | int:
        from pydicom.dataset import Dataset  # noqa: PLC0415 - takes long to import

        instances = read_notification(request.data_set or Dataset())
        return await self._notified(request, instances) or Status.SUCCESS
