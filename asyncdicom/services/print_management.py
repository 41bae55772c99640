r"""Print management: films made on a printer, as its user sees it, and what both sides share (PS3.4 annex H).

A film session holds film boxes, a film box holds image boxes; the printer makes those when it makes the film box::

    events = PrintEvents()
    async with asyncdicom.connect("printer", 104, contexts=print_contexts(), services=[events]) as association:
        async with PrintSession(association, events=events, copies=1, medium="BLUE FILM") as session:
            film = await session.film(r"STANDARD\2,2", film_size_id="14INX17IN", orientation="PORTRAIT")
            await film.place(1, "first.dcm")
            await film.place(2, "second.dcm")
            for job in await film.print():
                await job.wait()

Pixels come from :mod:`asyncdicom.services.print_images`; the printer itself is in :mod:`asyncdicom.services.printer`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeAlias

from asyncdicom.command import Status
from asyncdicom.errors import AssociationReleased, DicomError, LocalProtocolError
from asyncdicom.instances import new_uid

from .print_images import image_item
from .references import reference_item, references

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from os import PathLike
    from types import TracebackType

    from pydicom import Dataset

    from asyncdicom.association import Association
    from asyncdicom.operations import Response
    from asyncdicom.requests import NEventReportRequest

__all__ = [
    "ANNOTATION_BOX",
    "COLOR_IMAGE_BOX",
    "COLOR_PRINT_MANAGEMENT",
    "EVENTS",
    "FILM_BOX",
    "FILM_SESSION",
    "GRAYSCALE_IMAGE_BOX",
    "GRAYSCALE_PRINT_MANAGEMENT",
    "PRESENTATION_LUT",
    "PRINT",
    "PRINTER",
    "PRINTER_INSTANCE",
    "PRINT_JOB",
    "FilmBox",
    "PrintError",
    "PrintEvent",
    "PrintEvents",
    "PrintJob",
    "PrintSession",
    "PrinterState",
    "count_image_boxes",
    "print_contexts",
    "printer_state",
]

GRAYSCALE_PRINT_MANAGEMENT: Final = "1.2.840.10008.5.1.1.9"
COLOR_PRINT_MANAGEMENT: Final = "1.2.840.10008.5.1.1.18"
FILM_SESSION: Final = "1.2.840.10008.5.1.1.1"
FILM_BOX: Final = "1.2.840.10008.5.1.1.2"
GRAYSCALE_IMAGE_BOX: Final = "1.2.840.10008.5.1.1.4"
COLOR_IMAGE_BOX: Final = "1.2.840.10008.5.1.1.4.1"
ANNOTATION_BOX: Final = "1.2.840.10008.5.1.1.15"
PRESENTATION_LUT: Final = "1.2.840.10008.5.1.1.23"
PRINT_JOB: Final = "1.2.840.10008.5.1.1.14"
PRINTER: Final = "1.2.840.10008.5.1.1.16"
PRINTER_INSTANCE: Final = "1.2.840.10008.5.1.1.17"
"""The well-known instance of the Printer SOP class (PS3.4 H.4.6)."""

PRINT: Final = 1
"""The action type of a film session's and a film box's N-ACTION (PS3.4 H.4.1.2.4, H.4.2.2.4)."""

EVENTS: Final[Mapping[str, Mapping[int, str]]] = {
    PRINT_JOB: {1: "PENDING", 2: "PRINTING", 3: "DONE", 4: "FAILURE"},
    PRINTER: {1: "NORMAL", 2: "WARNING", 3: "FAILURE"},
}
"""What the event types of N-EVENT-REPORT say (PS3.4 H.4.5.2.1, H.4.6.2.1)."""

_INFO: Final = {PRINT_JOB: "ExecutionStatusInfo", PRINTER: "PrinterStatusInfo"}
_MAX_JOBS: Final = 1000
"""Jobs whose last event is kept: none prints so many at once, and a printer must not fill the memory."""

Pixels: TypeAlias = "Dataset | str | PathLike[str] | Any"
"""What can be placed: an image instance, the path of one, or an array of pixels."""


def print_contexts(*, color: bool = False) -> tuple[str, ...]:
    """The abstract syntaxes to propose to a printer: one meta SOP class, and all that is optional (PS3.4 H.3.2)."""
    meta = COLOR_PRINT_MANAGEMENT if color else GRAYSCALE_PRINT_MANAGEMENT
    return (meta, PRINT_JOB, PRESENTATION_LUT, ANNOTATION_BOX)


def count_image_boxes(display_format: str) -> int:
    r"""How many image boxes a film of this Image Display Format has (PS3.3 C.13.3).

    ``STANDARD\C,R`` has C columns and R rows, ``ROW\R1,R2`` and ``COL\C1,C2`` rows or columns of so many images each.
    Raises ValueError for every other format: what those mean is the printer's affair.
    """
    kind, _, rest = display_format.partition("\\")
    numbers = [int(each) if each.isascii() and each.isdigit() else 0 for each in rest.split(",")]
    if kind not in ("STANDARD", "ROW", "COL") or not all(numbers) or (kind == "STANDARD" and len(numbers) != 2):
        raise ValueError(rf"the display format {display_format!r} is none of STANDARD\C,R, ROW\R1,R2, COL\C1,C2")
    return numbers[0] * numbers[1] if kind == "STANDARD" else sum(numbers)


def _data_set(**attributes: object) -> Dataset:
    """A data set of attributes by keyword, without those that are empty. Raises ValueError for an unknown keyword."""
    from pydicom import Dataset  # noqa: PLC0415
    from pydicom.datadict import tag_for_keyword  # noqa: PLC0415

    data_set = Dataset()
    for keyword, value in attributes.items():
        if tag_for_keyword(keyword) is None:
            raise ValueError(f"there is no attribute with the keyword {keyword}")
        if value is not None and value != "":
            setattr(data_set, keyword, value)
    return data_set


class PrintError(DicomError):
    """The printer answered with a failure status."""

    def __init__(self, operation: str, status: Status) -> None:
        super().__init__(f"the printer answered {status} to {operation}")
        self.operation = operation
        self.status = status

    def __reduce__(self) -> tuple[type[PrintError], tuple[str, Status]]:
        return type(self), (self.operation, self.status)


def _checked(operation: str, response: Response) -> Response:
    if response.status.is_failure:
        raise PrintError(operation, response.status)
    return response


# Events


class PrintEvent(NamedTuple):
    """What a printer reports of itself or of a print job (PS3.4 H.4.5.2.1, H.4.6.2.1)."""

    sop_class_uid: str
    """:data:`PRINTER` or :data:`PRINT_JOB`."""
    sop_instance_uid: str
    status: str
    """A printer's NORMAL, WARNING, FAILURE; a job's PENDING, PRINTING, DONE, FAILURE."""
    info: str
    """The reason, in the printer's words or those of PS3.3 C.13.9.1."""
    data_set: Dataset | None
    """Everything that came with it."""

    @property
    def is_final(self) -> bool:
        """Whether a job is over."""
        return self.sop_class_uid == PRINT_JOB and self.status in ("DONE", "FAILURE")


class PrintEvents:
    """Receives what printers report: a service for ``connect(services=[...])``.

    Jobs wait by it for their end; ``on_event`` is called with every event, in the order in which they come.
    """

    contexts = (GRAYSCALE_PRINT_MANAGEMENT, COLOR_PRINT_MANAGEMENT, PRINTER, PRINT_JOB)

    def __init__(self, on_event: Callable[[PrintEvent], object] | None = None) -> None:
        self.handlers = {"n_event_report": self._take}
        self._on_event = on_event
        self._jobs: OrderedDict[str, PrintEvent] = OrderedDict()
        self._changed = asyncio.Event()

    async def _take(self, request: NEventReportRequest) -> Status:
        names = EVENTS.get(request.sop_class_uid)
        if names is None:
            return Status(0x0118, "only printers and print jobs report events here")
        if request.event_type_id not in names:
            return Status(0x0113)
        data_set = request.data_set
        event = PrintEvent(
            request.sop_class_uid,
            request.sop_instance_uid,
            names[request.event_type_id],
            str(data_set.get(_INFO[request.sop_class_uid], "") or "") if data_set is not None else "",
            data_set,
        )
        if event.sop_class_uid == PRINT_JOB:
            self._keep(event)
        if self._on_event is not None:
            self._on_event(event)
        return Status.SUCCESS

    def _keep(self, event: PrintEvent) -> None:
        self._jobs[event.sop_instance_uid] = event
        self._jobs.move_to_end(event.sop_instance_uid)
        if len(self._jobs) > _MAX_JOBS:
            self._jobs.popitem(last=False)
        self._changed.set()
        self._changed = asyncio.Event()

    def last(self, sop_instance_uid: str) -> PrintEvent | None:
        """The last event of a print job, None when there was none yet."""
        return self._jobs.get(sop_instance_uid)

    async def final(self, sop_instance_uid: str) -> PrintEvent:
        """Wait until a print job is done or has failed; without end if its association is over before."""
        while (event := self.last(sop_instance_uid)) is None or not event.is_final:
            await self._changed.wait()
        return event


class PrintJob:
    """A print job of the printer (PS3.4 H.4.5)."""

    def __init__(self, association: Association, sop_instance_uid: str, events: PrintEvents | None) -> None:
        self.sop_instance_uid = sop_instance_uid
        self._association = association
        self._events = events

    @property
    def last(self) -> PrintEvent | None:
        """What the printer has reported of it last; None if that is nothing, or the session has no ``events``."""
        return self._events.last(self.sop_instance_uid) if self._events is not None else None

    async def get(self, attributes: tuple[int, ...] = ()) -> Dataset | None:
        """Its attributes, asked of the printer (N-GET); all of them if none is named.

        Raises PrintError: a job that is over, and was reported to be, exists no more.
        """
        response = await self._association.n_get(PRINT_JOB, self.sop_instance_uid, attributes)
        return _checked("N-GET of the print job", response).data_set

    async def wait(self) -> PrintEvent:
        """Wait until the printer reports that it is done, or has failed; the event says which.

        That may take as long as the printer does: bound it with ``asyncio.timeout``. Cancelling it changes nothing.
        Raises LocalProtocolError if the session has no ``events``, and AssociationReleased when the association ends
        before the job: nothing more is reported then.
        """
        if self._events is None:
            raise LocalProtocolError("a job is waited for by events: PrintSession(association, events=PrintEvents())")
        final = asyncio.ensure_future(self._events.final(self.sop_instance_uid))
        closed = asyncio.ensure_future(self._association.wait_closed())
        try:
            await asyncio.wait((final, closed), return_when=asyncio.FIRST_COMPLETED)
            if final.done():
                return final.result()
            raise AssociationReleased("the association ended before the print job did; its end is not known")
        finally:
            final.cancel()
            closed.cancel()


# The printer


class PrinterState(NamedTuple):
    """How a printer is (PS3.4 H.4.6.2.2)."""

    status: str
    """NORMAL, WARNING or FAILURE."""
    info: str
    """The reason for the status (PS3.3 C.13.9.1), such as SUPPLY LOW."""
    name: str
    data_set: Dataset
    """All that the printer says of itself."""


async def printer_state(association: Association) -> PrinterState:
    """Ask a printer how it is (N-GET of the Printer SOP class). Raises PrintError, and what ``n_get`` raises."""
    response = await association.n_get(PRINTER, PRINTER_INSTANCE)
    data_set = _checked("N-GET of the printer", response).data_set
    if data_set is None:
        data_set = _data_set()
    status, info, name = (
        str(data_set.get(keyword, "") or "") for keyword in ("PrinterStatus", "PrinterStatusInfo", "PrinterName")
    )
    return PrinterState(status, info, name, data_set)


# Sessions and films


class PrintSession:
    """A film session: what is printed with the same copies, medium and destination (PS3.4 H.4.1).

    An async context manager that makes the session on the printer and deletes it, with its films, in the end; what was
    printed is printed. An association has one session at a time. Everything here raises PrintError for a failure status
    of the printer; warnings are in ``status``. Cancelling a coroutine of a session leaves the association as
    ``n_create`` and its sisters do; leaving the session then still asks the printer to delete it.
    """

    def __init__(
        self,
        association: Association,
        *,
        color: bool = False,
        events: PrintEvents | None = None,
        copies: int = 1,
        priority: str = "",
        medium: str = "",
        destination: str = "",
        label: str = "",
        owner: str = "",
        **attributes: object,
    ) -> None:
        """Attributes that are left out are the printer's to choose; others are given by their DICOM keyword."""
        self.color = color
        self.sop_instance_uid = ""
        self.attributes: Dataset | None = None
        """As the printer has set them, if it says so."""
        self.status = Status.SUCCESS
        """Of the last response about the session."""
        self._association = association
        self._events = events
        self._meta = COLOR_PRINT_MANAGEMENT if color else GRAYSCALE_PRINT_MANAGEMENT
        self._luts: list[str] = []
        self._asked = {
            "NumberOfCopies": copies,
            "PrintPriority": priority,
            "MediumType": medium,
            "FilmDestination": destination,
            "FilmSessionLabel": label,
            "OwnerID": owner,
            **attributes,
        }

    async def __aenter__(self) -> Self:
        uid, response = await self._create(FILM_SESSION, _data_set(**self._asked), "the film session")
        self.sop_instance_uid = uid
        self.attributes = response.data_set
        self.status = response.status
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        doomed = [(FILM_SESSION, self.sop_instance_uid, self._meta)]
        doomed += [(PRESENTATION_LUT, uid, PRESENTATION_LUT) for uid in self._luts]
        for sop_class_uid, uid, context in doomed:
            if self._association.is_established:  # else it is gone already
                await self._association.n_delete(sop_class_uid, uid, context=context)

    async def film(
        self,
        display_format: str = r"STANDARD\1,1",
        *,
        orientation: str = "",
        film_size_id: str = "",
        magnification: str = "",
        annotation_format: str = "",
        presentation_lut: str = "",
        **attributes: object,
    ) -> FilmBox:
        r"""A new film, whose images are laid out in ``display_format``.

        ``STANDARD\C,R`` is C columns and R rows; image 1 is top left, the next is on its right. ``annotation_format``
        is one of the printer's, ``presentation_lut`` what :meth:`presentation_lut` has given. Other attributes are
        given by their DICOM keyword (PS3.4 Table H.4-4): ``MaxDensity=300``.
        """
        wanted: dict[str, object] = {
            "ImageDisplayFormat": display_format,
            "FilmOrientation": orientation,
            "FilmSizeID": film_size_id,
            "MagnificationType": magnification,
            "AnnotationDisplayFormatID": annotation_format,
            "ReferencedFilmSessionSequence": [reference_item((FILM_SESSION, self.sop_instance_uid))],
        }
        if presentation_lut:  # light box and room are mandatory with it; the values are PS3.14's example
            wanted["ReferencedPresentationLUTSequence"] = [reference_item((PRESENTATION_LUT, presentation_lut))]
            wanted |= {"Illumination": 2000, "ReflectedAmbientLight": 10}
        uid, created = await self._create(FILM_BOX, _data_set(**{**wanted, **attributes}), "the film box")
        return FilmBox(self, uid, created)

    async def presentation_lut(self, shape: str | Dataset = "IDENTITY") -> str:
        """Make a Presentation LUT (PS3.4 H.4.9): ``IDENTITY``, ``LIN OD``, or an item of a Presentation LUT Sequence.

        Returns its UID, for :meth:`film`. It is deleted with the session.
        """
        key = "PresentationLUTShape" if isinstance(shape, str) else "PresentationLUTSequence"
        data_set = _data_set(**{key: shape if isinstance(shape, str) else [shape]})
        uid, _ = await self._create(PRESENTATION_LUT, data_set, "the Presentation LUT", PRESENTATION_LUT)
        self._luts.append(uid)
        return uid

    async def print(self) -> list[PrintJob]:
        """Print all films of the session, in the order in which they were made.

        Returns the print job; none if the printer does not support that.
        """
        response = await self._association.n_action(FILM_SESSION, self.sop_instance_uid, PRINT, context=self._meta)
        self.status = _checked("N-ACTION of the film session", response).status
        return self._jobs(response)

    async def _create(
        self, sop_class_uid: str, attributes: Dataset, what: str, context: str = ""
    ) -> tuple[str, Response]:
        """Have the printer make an instance; returns its UID too: this side's, unless the printer names another.

        Left to the printer, it may be missing in a response that is a warning (pynetdicom).
        """
        uid = new_uid()
        response = await self._association.n_create(sop_class_uid, attributes, uid, context=context or self._meta)
        return _checked(f"N-CREATE of {what}", response).sop_instance_uid or uid, response

    def _jobs(self, response: Response) -> list[PrintJob]:
        data_set = response.data_set
        jobs = data_set.get("ReferencedPrintJobSequence") if data_set is not None else None
        return [PrintJob(self._association, each.sop_instance_uid, self._events) for each in references(jobs)]


class FilmBox:
    """A film of a session (PS3.4 H.4.2); :meth:`PrintSession.film` makes it."""

    def __init__(self, session: PrintSession, sop_instance_uid: str, created: Response) -> None:
        self.sop_instance_uid = sop_instance_uid
        self.attributes = created.data_set if created.data_set is not None else _data_set()
        """As the printer has set them."""
        self.status = created.status
        """Of the last response about the film: B605H for a density that the printer does not reach, B603H for an empty
        film, and so on (PS3.4 H.4.2)."""
        self.image_boxes = self._references("ReferencedImageBoxSequence")
        """UIDs, in the order of their positions."""
        self.annotation_boxes = self._references("ReferencedBasicAnnotationBoxSequence")
        """UIDs, in the order of their positions; none if the printer or the format has none."""
        self._session = session

    def _references(self, keyword: str) -> tuple[str, ...]:
        return tuple(each.sop_instance_uid for each in references(self.attributes.get(keyword)))

    async def place(
        self, position: int, source: Pixels, *, frame: int = 1, bits: int | None = None, **attributes: object
    ) -> Status:
        """Put an image at a position, from 1; returns the status, which may be a warning.

        ``source`` is an image instance, its path, or an array of pixels; :func:`~.print_images.image_item` says how it
        becomes what a printer takes, and what it raises. That is done in a thread. Other attributes of the image box
        are given by their DICOM keyword: ``Polarity="REVERSE"``. Warnings are B604H (demagnified), B609H (cropped),
        B60AH (decimated) and B605H (PS3.4 H.4.3.1.2.2).
        """
        item = await asyncio.to_thread(image_item, source, color=self._session.color, frame=frame, bits=bits)
        return await self._set_image(position, [item], attributes)

    async def clear(self, position: int) -> Status:
        """Take the image from a position (PS3.4 H.4.3.1.2.1)."""
        return await self._set_image(position, [], {})

    async def annotate(self, position: int, text: str) -> Status:
        """Put a text of up to 64 characters at one of the positions that the annotation format has, from 1."""
        uid = _at(self.annotation_boxes, position, "annotation boxes")
        data_set = _data_set(AnnotationPosition=position, TextString=text)
        response = await self._session._association.n_set(ANNOTATION_BOX, uid, data_set, context=ANNOTATION_BOX)
        return _checked(f"N-SET of annotation box {position}", response).status

    async def print(self) -> list[PrintJob]:
        """Print the film; returns the print job, none if the printer does not support that."""
        session = self._session
        response = await session._association.n_action(FILM_BOX, self.sop_instance_uid, PRINT, context=session._meta)
        self.status = _checked("N-ACTION of the film box", response).status
        return session._jobs(response)

    async def delete(self) -> None:
        """Delete the film on the printer, of a session the last one (PS3.4 H.4.2.2.3); what was printed is printed."""
        session = self._session
        response = await session._association.n_delete(FILM_BOX, self.sop_instance_uid, context=session._meta)
        _checked("N-DELETE of the film box", response)

    async def _set_image(self, position: int, images: list[Dataset], attributes: dict[str, object]) -> Status:
        uid = _at(self.image_boxes, position, "image boxes")
        session = self._session
        sop_class_uid, keyword = _IMAGE_BOXES[session.color]
        data_set = _data_set(**{"ImageBoxPosition": position, keyword: images, **attributes})
        response = await session._association.n_set(sop_class_uid, uid, data_set, context=session._meta)
        return _checked(f"N-SET of image box {position}", response).status


_IMAGE_BOXES: Final = {
    False: (GRAYSCALE_IMAGE_BOX, "BasicGrayscaleImageSequence"),
    True: (COLOR_IMAGE_BOX, "BasicColorImageSequence"),
}
"""By whether the session is in color."""


def _at(uids: tuple[str, ...], position: int, what: str) -> str:
    if not 1 <= position <= len(uids):
        raise LocalProtocolError(f"there is no position {position}: the film has {len(uids)} {what}")
    return uids[position - 1]
