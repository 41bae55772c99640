"""Modality Performed Procedure Step (PS3.4 F.7), its retrieval (F.8) and the notifications of its changes (F.9).

A modality keeps a :class:`PerformedProcedureStep` for as long as the examination takes, over as many associations as
that may be; whoever keeps the steps of modalities serves a :class:`PerformedProcedureSteps`.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import datetime as dt
import enum
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from asyncdicom.command import Status
from asyncdicom.errors import LocalProtocolError, StatusError
from asyncdicom.instances import new_uid
from asyncdicom.presentation import Context

from .references import reference_item
from .requirements import Required, check_required, fill_empty, log_missing, of_type, tags

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping

    from pydicom.dataset import Dataset

    from asyncdicom.association import Association
    from asyncdicom.requests import Handler, NCreateRequest, NGetRequest, NSetRequest

__all__ = [
    "NOTIFICATION_SOP_CLASS",
    "RETRIEVE_SOP_CLASS",
    "SOP_CLASS",
    "Event",
    "PerformedProcedureStep",
    "PerformedProcedureSteps",
    "RecentSteps",
    "State",
    "notify",
    "performed_series",
    "scheduled_step",
]

SOP_CLASS: Final = "1.2.840.10008.3.1.2.3.3"
RETRIEVE_SOP_CLASS: Final = "1.2.840.10008.3.1.2.3.4"
NOTIFICATION_SOP_CLASS: Final = "1.2.840.10008.3.1.2.3.5"


class State(enum.StrEnum):
    """Performed Procedure Step Status (PS3.3 C.4.14); the last two are final."""

    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


class Event(enum.IntEnum):
    """What a notification says of a step (PS3.4 Table F.9.2-1)."""

    IN_PROGRESS = 1
    COMPLETED = 2
    DISCONTINUED = 3
    UPDATED = 4
    DELETED = 5


# PS3.4 Table F.7.2-1
_SCHEDULED: Final = (
    Required("StudyInstanceUID"),
    *of_type(
        2,
        "ReferencedStudySequence",
        "AccessionNumber",
        "RequestedProcedureID",
        "RequestedProcedureDescription",
        "ScheduledProcedureStepID",
        "ScheduledProcedureStepDescription",
        "ScheduledProtocolCodeSequence",
    ),
)
_SERIES: Final = (
    *of_type(1, "ProtocolName", "SeriesInstanceUID"),
    *of_type(
        2,
        "PerformingPhysicianName",
        "OperatorsName",
        "SeriesDescription",
        "RetrieveAETitle",
        "ReferencedImageSequence",
        "ReferencedNonImageCompositeSOPInstanceSequence",
    ),
)
_CREATION: Final = (
    Required("ScheduledStepAttributesSequence", _SCHEDULED),
    *of_type(
        1,
        "PerformedProcedureStepID",
        "PerformedStationAETitle",
        "PerformedProcedureStepStartDate",
        "PerformedProcedureStepStartTime",
        "PerformedProcedureStepStatus",
        "Modality",
    ),
    *of_type(
        2,
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "ReferencedPatientSequence",
        "PerformedStationName",
        "PerformedLocation",
        "PerformedProcedureStepDescription",
        "PerformedProcedureTypeDescription",
        "ProcedureCodeSequence",
        "PerformedProcedureStepEndDate",
        "PerformedProcedureStepEndTime",
        "StudyID",
        "PerformedProtocolCodeSequence",
    ),
    Required("PerformedSeriesSequence", _SERIES, kind=2),
)
_CHANGE: Final = (Required("PerformedSeriesSequence", _SERIES, kind=3),)
_FINAL: Final = (
    *of_type(1, "PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime"),
    Required("PerformedSeriesSequence", _SERIES),
)
"""Of type 1 once the step is in a final state."""
_NOT_SET: Final = (
    "ScheduledStepAttributesSequence",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "OtherPatientIDsSequence",
    "PatientBirthDate",
    "PatientSex",
    "ReferencedPatientSequence",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "ServiceEpisodeID",
    "IssuerOfServiceEpisodeIDSequence",
    "ServiceEpisodeDescription",
    "PerformedProcedureStepID",
    "PerformedStationAETitle",
    "PerformedStationName",
    "PerformedLocation",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "Modality",
    "StudyID",
)
"""What N-SET may not change."""
_REASON: Final = "PerformedProcedureStepDiscontinuationReasonCodeSequence"
"""Of type 3, but it may be set only where it was created (its note 5)."""


# The modality


class PerformedProcedureStep:
    """A step that this side performs and reports (SCU).

    Failure statuses are values. Cancellation of a call aborts the association, and leaves unknown whether the peer has
    done it.
    """

    def __init__(self, sop_instance_uid: str = "") -> None:
        """A new step with a UID of its own, or one that was created earlier and is still in progress."""
        self.sop_instance_uid = sop_instance_uid or new_uid()
        self.state: State | None = State.IN_PROGRESS if sop_instance_uid else None
        """As far as the peer has agreed; None before the step is created."""

    async def create(self, association: Association, attributes: Dataset) -> Status:
        """Tell that the step has begun (N-CREATE, PS3.4 F.7.2.1); returns what the peer answers.

        Left out and added: the status, the start (now), and, empty, all that the standard wants to be there.
        :func:`scheduled_step` makes the attributes of a worklist item. Raises LocalProtocolError when it was created
        already.
        """
        if self.state is not None:
            raise LocalProtocolError(f"the step is {self.state} already, another one is another step")
        whole = _with(attributes, {_REASON: None}, _moment("Start"))
        whole.PerformedProcedureStepStatus = State.IN_PROGRESS.value
        fill_empty(whole, _CREATION)
        response = await association.n_create(SOP_CLASS, whole, self.sop_instance_uid)
        return self._became(State.IN_PROGRESS, response.status)

    async def set(self, association: Association, modifications: Dataset) -> Status:
        """Change the step while it is in progress (N-SET, PS3.4 F.7.2.2); returns what the peer answers.

        A sequence is replaced, so it has to come with all its items; those of the Performed Series Sequence get, empty,
        all that the standard wants to be there. Raises LocalProtocolError when the step is not in progress, ValueError
        for a status that is no :class:`State`.
        """
        return await self._change(association, _with(modifications))

    async def _change(self, association: Association, modifications: Dataset) -> Status:
        """As :meth:`set`, with modifications that may be added to."""
        if self.state is not State.IN_PROGRESS:
            raise LocalProtocolError(f"only a step that is in progress can be changed, this one is {self.state}")
        state = State(modifications.get("PerformedProcedureStepStatus") or self.state)
        fill_empty(modifications, _CHANGE)
        response = await association.n_set(SOP_CLASS, self.sop_instance_uid, modifications)
        return self._became(state, response.status)

    async def complete(self, association: Association, modifications: Dataset) -> Status:
        """Tell that the step is completed; as :meth:`set`, and it is final.

        The modifications need a Performed Series Sequence (:func:`performed_series`) unless it was set before. The end
        is now if they do not name it.
        """
        return await self._end(association, modifications, State.COMPLETED)

    async def discontinue(
        self, association: Association, modifications: Dataset, reason: tuple[str, str, str] | None = None
    ) -> Status:
        """Tell that the step ended before its time; as :meth:`complete`.

        ``reason`` is a code of PS3.16 CID 9300: value, scheme, meaning, as ``("110513", "DCM", "Discontinued for
        unspecified reason")``.
        """
        codes = {_REASON: [_code(*reason)]} if reason else {}
        return await self._end(association, _with(modifications, codes), State.DISCONTINUED)

    async def _end(self, association: Association, modifications: Dataset, state: State) -> Status:
        whole = _with(modifications, _moment("End"))
        whole.PerformedProcedureStepStatus = state.value
        return await self._change(association, whole)

    def _became(self, state: State, status: Status) -> Status:
        if not status.is_failure:
            self.state = state
        return status


def scheduled_step(item: Dataset) -> Dataset:
    """The attributes with which to create a step that a worklist item schedules (PS3.4 F.7.2.1.2, IHE RAD TF-2 4.6).

    Performed Procedure Step ID is the scheduled one's, and the station its first scheduled one: change what was
    otherwise. Made up where the item has none is the Study Instance UID.
    """
    from pydicom.dataset import Dataset  # noqa: PLC0415 - takes long to import

    item = copy.deepcopy(item)
    planned = (item.get("ScheduledProcedureStepSequence") or [Dataset()])[0]
    scheduled, step = Dataset(), Dataset()
    for target, source, keywords in (
        (scheduled, item, _FROM_REQUEST),
        (scheduled, planned, _FROM_STEP),
        (step, item, _FROM_PATIENT),
    ):
        for keyword in keywords:
            if keyword in source:
                target[keyword] = source[keyword]
    fill_empty(scheduled, _SCHEDULED)
    if not scheduled.get("StudyInstanceUID"):
        scheduled.StudyInstanceUID = new_uid()
    step.ScheduledStepAttributesSequence = [scheduled]
    for source, names in ((planned, _PERFORMED_AS_PLANNED), (item, _PERFORMED_AS_REQUESTED)):
        for performed, asked in names:
            if source.get(asked):
                element = source[asked]
                several = element.VM > 1 and element.VR != "SQ"  # station names and titles
                setattr(step, performed, element.value[0] if several else element.value)
    return step


_FROM_PATIENT: Final = (
    "SpecificCharacterSet",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "ReferencedPatientSequence",
)
_FROM_REQUEST: Final = (
    "StudyInstanceUID",
    "ReferencedStudySequence",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
    "RequestedProcedureCodeSequence",
)
_FROM_STEP: Final = ("ScheduledProcedureStepID", "ScheduledProcedureStepDescription", "ScheduledProtocolCodeSequence")
_PERFORMED_AS_PLANNED: Final = (
    ("PerformedProcedureStepID", "ScheduledProcedureStepID"),
    ("PerformedProcedureStepDescription", "ScheduledProcedureStepDescription"),
    ("PerformedProtocolCodeSequence", "ScheduledProtocolCodeSequence"),
    ("PerformedStationAETitle", "ScheduledStationAETitle"),
    ("PerformedStationName", "ScheduledStationName"),
    ("Modality", "Modality"),
)
_PERFORMED_AS_REQUESTED: Final = (
    ("ProcedureCodeSequence", "RequestedProcedureCodeSequence"),
    ("StudyID", "RequestedProcedureID"),
)


def performed_series(instances: Iterable[Dataset]) -> list[Dataset]:
    """The items of Performed Series Sequence for the instances that a step has made (PS3.4 F.7.2.2.2).

    Their data sets need no more than the attributes of the series and their UIDs.
    """
    from pydicom.dataset import Dataset  # noqa: PLC0415 - takes long to import

    series: dict[str, Dataset] = {}
    for instance in instances:
        item = series.get(instance.SeriesInstanceUID)
        if item is None:
            item = series[instance.SeriesInstanceUID] = Dataset()
            for keyword in ("PerformingPhysicianName", "OperatorsName", "SeriesDescription", "SeriesInstanceUID"):
                setattr(item, keyword, instance.get(keyword))
            item.ProtocolName = instance.get("ProtocolName") or instance.get("SeriesDescription") or "UNKNOWN"
            item.RetrieveAETitle = None
            item.ReferencedImageSequence = []
            item.ReferencedNonImageCompositeSOPInstanceSequence = []
        is_image = "Rows" in instance
        name = "ReferencedImageSequence" if is_image else "ReferencedNonImageCompositeSOPInstanceSequence"
        item[name].value.append(reference_item(instance))
    return list(series.values())


def _with(data_set: Dataset, *defaults: Mapping[str, Any]) -> Dataset:
    """A copy with what it lacks."""
    whole = copy.deepcopy(data_set)
    for keyword, value in (each for mapping in defaults for each in mapping.items()):
        if keyword not in whole or (value is not None and whole[keyword].is_empty):
            setattr(whole, keyword, value)
    return whole


def _moment(which: str) -> dict[str, str]:
    """Date and time of the step's start or end: now, here."""
    now = dt.datetime.now().astimezone()
    prefix = f"PerformedProcedureStep{which}"
    return {f"{prefix}Date": f"{now:%Y%m%d}", f"{prefix}Time": f"{now:%H%M%S}"}


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    from pydicom.dataset import Dataset  # noqa: PLC0415 - takes long to import

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


# Whoever keeps the steps


class RecentSteps(dict[str, "Dataset"]):
    """Steps in memory by their UID, at most so many: the oldest makes room for a new one."""

    def __init__(self, limit: int = 1_000) -> None:
        super().__init__()
        self.limit = limit

    def __setitem__(self, uid: str, step: Dataset) -> None:
        if uid not in self and len(self) >= self.limit:
            del self[next(iter(self))]
        super().__setitem__(uid, step)


class PerformedProcedureSteps:
    """A service for :func:`~asyncdicom.serve`: keeps the steps of modalities, and answers who asks for one (SCP).

    ``created`` and ``changed`` are coroutines that get the request and the whole step as it will be. They may return a
    status, or raise StatusError; with a failure nothing is kept. Requests for one step come one after the other.

    ``store`` is any mutable mapping of UIDs to data sets; by default the last 1,000 steps are kept in memory.

    Refused are: a step that exists already, one that is created in another state than IN PROGRESS or without the
    attributes of type 1, changes of a step that is unknown or final, of attributes that N-SET may not change, and the
    end of a step without the attributes that are of type 1 then (PS3.4 Table F.7.2-1). What is of type 2 may be
    missing, which the log says, and N-SET may bring what N-CREATE did not: modalities do that.
    """

    contexts = (Context(SOP_CLASS), Context(RETRIEVE_SOP_CLASS), Context(NOTIFICATION_SOP_CLASS))

    def __init__(
        self,
        created: Callable[[NCreateRequest, Dataset], Awaitable[Status | int | None]] | None = None,
        changed: Callable[[NSetRequest, Dataset], Awaitable[Status | int | None]] | None = None,
        *,
        store: MutableMapping[str, Dataset] | None = None,
    ) -> None:
        self.steps: MutableMapping[str, Dataset] = RecentSteps() if store is None else store
        self.handlers: Mapping[str, Handler] = {
            "n_create": self._create,
            "n_set": self._set,
            "n_get": self._get,
        }
        self._created = created
        self._changed = changed
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Of the steps that a request is about now."""

    async def _create(self, request: NCreateRequest) -> Status:
        from pydicom.dataset import Dataset  # noqa: PLC0415 - takes long to import

        step = request.data_set or Dataset()
        check_required(step, _CREATION)
        log_missing(request.calling_ae_title, step, _CREATION)
        if _state_of(step) is not State.IN_PROGRESS:  # PS3.4 F.7.2.1.3
            raise _invalid(step)
        async with self._alone(request.sop_instance_uid):
            if request.sop_instance_uid in self.steps:
                raise StatusError(Status(0x0111))
            return await self._keep(request, step, self._created)

    async def _set(self, request: NSetRequest) -> Status:
        from pydicom.dataset import Dataset  # noqa: PLC0415 - takes long to import

        async with self._alone(request.sop_instance_uid):
            step = self._step(request.sop_instance_uid)
            if _state_of(step) is not State.IN_PROGRESS:  # PS3.4 Table F.7.2-2
                text = "Performed Procedure Step Object may no longer be updated"
                raise StatusError(Status(0x0110, text, error_id=0xA710))
            return await self._keep(request, _changed(step, request.data_set or Dataset()), self._changed)

    async def _get(self, request: NGetRequest) -> tuple[Status, Dataset]:
        from pydicom.dataset import Dataset  # noqa: PLC0415 - takes long to import

        step = self._step(request.sop_instance_uid)
        if not request.attributes:
            return Status.SUCCESS, step
        found = Dataset()
        for tag in (0x00080005, *request.attributes):
            if tag in step:
                found[tag] = step[tag]
        complete = all(tag in step for tag in request.attributes)
        return Status(0x0000 if complete else 0x0001), found  # PS3.4 F.8.2.1.4

    async def _keep(
        self,
        request: Any,
        step: Dataset,
        callback: Callable[[Any, Dataset], Awaitable[Status | int | None]] | None,
    ) -> Status:
        answer = (await callback(request, step) if callback else None) or 0
        status = answer if isinstance(answer, Status) else Status(answer)
        if not status.is_failure:
            self.steps[request.sop_instance_uid] = step
        return status

    def _step(self, uid: str) -> Dataset:
        try:
            return self.steps[uid]
        except KeyError:
            raise StatusError(Status(0x0112)) from None

    def _alone(self, uid: str) -> asyncio.Lock:
        """Held while a request about a step is performed."""
        return self._locks.setdefault(uid, asyncio.Lock())


def _state_of(step: Dataset) -> State | None:
    with contextlib.suppress(ValueError):
        return State(step.get("PerformedProcedureStepStatus") or "")
    return None


def _invalid(step: Dataset) -> StatusError:
    """0106H with the attribute that is wrong (PS3.7 C.5.11)."""
    from pydicom.dataset import Dataset  # noqa: PLC0415 - takes long to import

    wrong = Dataset()
    wrong["PerformedProcedureStepStatus"] = step["PerformedProcedureStepStatus"]
    return StatusError(Status(0x0106, "this Performed Procedure Step Status is not possible here"), wrong)


def _changed(step: Dataset, changes: Dataset) -> Dataset:
    """The step with the modifications; raises StatusError for those that are not allowed, or not enough for its end."""
    new = copy.deepcopy(step)
    if "SpecificCharacterSet" in changes and changes.SpecificCharacterSet != new.get("SpecificCharacterSet"):
        for each in (new, changes):  # the two make one data set now (PS3.4 F.7.2.2.3)
            each.decode()
            each.SpecificCharacterSet = "ISO_IR 192"
    if forbidden := [name for name in _NOT_SET if name in changes and (name not in new or changes[name] != new[name])]:
        raise StatusError(Status(0x0105, f"{forbidden[0]} cannot be set", attribute_identifier_list=tags(forbidden)))
    new.update(changes)
    state = _state_of(new)
    if state is None:
        raise _invalid(new)
    if state is not State.IN_PROGRESS:
        check_required(new, _FINAL)
    return new


async def notify(association: Association, sop_instance_uid: str, event: Event) -> Status:
    """Tell a peer that has asked for notifications what became of a step (N-EVENT-REPORT, PS3.4 F.9).

    The association has a context of :data:`NOTIFICATION_SOP_CLASS` on which this side is the SCP: the peer has asked
    for it, or this side with ``Context(NOTIFICATION_SOP_CLASS, scu=False, scp=True)``; NoAcceptedContext is raised
    otherwise.
    """
    response = await association.n_event_report(NOTIFICATION_SOP_CLASS, sop_instance_uid, event)
    return response.status
