"""Modality Worklist (PS3.4 annex K): what a modality asks for, and a service that answers from a list of data sets."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from asyncdicom.command import Status
from asyncdicom.errors import StatusError
from asyncdicom.presentation import Context

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping

    from pydicom.dataset import Dataset

    from asyncdicom.association import Association
    from asyncdicom.requests import CFindRequest, Handler

__all__ = ["SOP_CLASS", "Worklist", "worklist_items", "worklist_query"]

SOP_CLASS: Final = "1.2.840.10008.5.1.4.31"

_ITEMS_AT_A_TIME: Final = 100
"""How many items are looked at before the event loop has its turn."""

# PS3.4 Table K.6-1: the attributes of return key types 1, 1C, 2 and 2C
_STEP_KEYS: Final = (
    "ScheduledStationAETitle",
    "ScheduledProcedureStepStartDate",
    "ScheduledProcedureStepStartTime",
    "Modality",
    "ScheduledPerformingPhysicianName",
    "ScheduledProcedureStepDescription",
    "ScheduledStationName",
    "ScheduledProcedureStepLocation",
    "ScheduledProtocolCodeSequence",
    "PreMedication",
    "ScheduledProcedureStepID",
    "RequestedContrastAgent",
)
_KEYS: Final = (
    "RequestedProcedureID",
    "RequestedProcedureDescription",
    "RequestedProcedureCodeSequence",
    "StudyInstanceUID",
    "ReferencedStudySequence",
    "RequestedProcedurePriority",
    "PatientTransportArrangements",
    "AccessionNumber",
    "RequestingPhysician",
    "ReferringPhysicianName",
    "AdmissionID",
    "CurrentPatientLocation",
    "ReferencedPatientSequence",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientWeight",
    "ConfidentialityConstraintOnPatientDataDescription",
    "PatientState",
    "PregnancyStatus",
    "MedicalAlerts",
    "Allergies",
    "SpecialNeeds",
)


def worklist_query(
    *,
    date: str | dt.date | tuple[dt.date | None, dt.date | None] = "",
    time: str = "",
    modality: str = "",
    station_ae_title: str = "",
    performing_physician: str = "",
    patient_name: str = "",
    patient_id: str = "",
    accession_number: str = "",
    requested_procedure_id: str = "",
) -> Dataset:
    """The identifier of a worklist query: what is given has to match, all else of PS3.4 Table K.6-1 is asked for.

    ``date`` is one day, a pair from the first to the last of which one may be None, or DICOM's text as ``time`` is:
    ``"20260101-20260131"``. Names may have the wildcards ``*`` and ``?``. The identifier is an ordinary data set: add
    other keys, or take away those that the peer does not bear.
    """
    from pydicom.config import IGNORE  # noqa: PLC0415 - takes long to import
    from pydicom.dataelem import DataElement  # noqa: PLC0415
    from pydicom.dataset import Dataset  # noqa: PLC0415

    query, step = Dataset(), Dataset()
    for data_set, keywords in ((step, _STEP_KEYS), (query, _KEYS)):
        for keyword in keywords:
            setattr(data_set, keyword, None)
    for data_set, keyword, value in (
        (step, "ScheduledProcedureStepStartDate", _date_text(date)),
        (step, "ScheduledProcedureStepStartTime", time),
        (step, "Modality", modality),
        (step, "ScheduledStationAETitle", station_ae_title),
        (step, "ScheduledPerformingPhysicianName", performing_physician),
        (query, "PatientName", patient_name),
        (query, "PatientID", patient_id),
        (query, "AccessionNumber", accession_number),
        (query, "RequestedProcedureID", requested_procedure_id),
    ):  # wild cards are in no value representation's repertoire
        element = data_set[keyword]
        data_set[keyword] = DataElement(element.tag, element.VR, value, validation_mode=IGNORE)
    query.ScheduledProcedureStepSequence = [step]
    if not all(map(str.isascii, (patient_name, performing_physician))):
        query.SpecificCharacterSet = "ISO_IR 192"
    return query


def _date_text(date: str | dt.date | tuple[dt.date | None, dt.date | None]) -> str:
    if isinstance(date, str):
        return date
    if isinstance(date, tuple):
        return "-".join(f"{each:%Y%m%d}" if each else "" for each in date)
    return f"{date:%Y%m%d}"


async def worklist_items(association: Association, query: Dataset) -> AsyncGenerator[Dataset, None]:
    """The worklist items that match, as they come (C-FIND, PS3.4 K.4.1).

    Raises StatusError when the peer ends with a failure. Whoever may leave the loop early should do so within
    :func:`contextlib.aclosing`: that cancels the query at once.
    """
    async with association.c_find(query, model=SOP_CLASS) as responses:
        async for response in responses:
            if response.data_set is not None:
                yield response.data_set
        final = responses.final
        if final is not None and final.status.is_failure:
            raise StatusError(final.status)


class Worklist:
    """A service for :func:`~asyncdicom.serve`: answers queries from worklist items (SCP).

    ``items`` is an iterable of data sets, each with one Scheduled Procedure Step, or a function of the request that
    returns one; the function may be a coroutine function, and the iterable asynchronous. It need not match itself.
    """

    contexts = (Context(SOP_CLASS),)

    def __init__(self, items: Iterable[Dataset] | Callable[[CFindRequest], Any]) -> None:
        self.handlers: Mapping[str, Handler] = {"c_find": self._find}
        self._items = items

    async def _find(self, request: CFindRequest) -> AsyncIterator[Dataset]:
        from .matching import Matcher  # noqa: PLC0415 - not for who only asks

        try:
            matcher = Matcher(request.identifier, combined_datetime=True)  # PS3.4 K.2.2.2
        except ValueError as error:
            raise StatusError(Status(0xA900, str(error))) from error
        async with aclosing(self._candidates(request)) as candidates:
            count = 0
            async for item in candidates:
                if matcher.matches(item):
                    yield matcher.response(item)
                count += 1
                if count % _ITEMS_AT_A_TIME == 0:
                    await asyncio.sleep(0)

    async def _candidates(self, request: CFindRequest) -> AsyncGenerator[Dataset, None]:
        items = self._items(request) if callable(self._items) else self._items
        if inspect.isawaitable(items):
            items = await items
        if isinstance(items, AsyncIterable):
            async for item in items:
                yield item
        else:
            for item in items:
                yield item
