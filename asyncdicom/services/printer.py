"""A printer: the provider's side of print management (PS3.4 annex H).

:class:`PrinterService` keeps for each association the film session with its film boxes and image boxes, answers with
the statuses of the standard, and hands each film that is to be printed to a coroutine of the user's::

    async def print_film(film: Film) -> None:
        for position, box in film.images.items():
            ...

    async with PrinterService(print_film) as printer:
        async with asyncdicom.serve("0.0.0.0", 11112, ae_title="PRINTER", services=[printer]) as server:
            await server.serve_forever()

A print job has its films printed in a task, one job at a time. It goes on when the association is over, as what was
accepted for printing is printed; as long as the association lives, the job's events are reported on it.

More lenient than PS3.4 H.4.2: not only the last film box of a session may be changed, printed and deleted.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, Self, TypeAlias

from asyncdicom.command import Status
from asyncdicom.errors import DicomError, StatusError
from asyncdicom.instances import new_uid

from .print_management import (
    ANNOTATION_BOX,
    COLOR_IMAGE_BOX,
    COLOR_PRINT_MANAGEMENT,
    EVENTS,
    FILM_BOX,
    FILM_SESSION,
    GRAYSCALE_IMAGE_BOX,
    GRAYSCALE_PRINT_MANAGEMENT,
    PRESENTATION_LUT,
    PRINT,
    PRINT_JOB,
    PRINTER,
    PRINTER_INSTANCE,
    count_image_boxes,
)
from .references import reference_item, references
from .requirements import tags

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
    from types import TracebackType

    from pydicom import Dataset

    from asyncdicom.association import Association
    from asyncdicom.requests import (
        NActionRequest,
        NCreateRequest,
        NDeleteRequest,
        NGetRequest,
        NSetRequest,
    )

__all__ = ["Film", "FilmHandler", "PrinterLimits", "PrinterService"]

_log = logging.getLogger(__name__)


class PrinterLimits(NamedTuple):
    """What peers can have a printer keep."""

    films: int = 100
    """Film boxes of a session; a printer's magazine holds as many."""
    images: int = 400
    """Image boxes of a film, 20 by 20."""
    presentation_luts: int = 16
    """Of an association; each has up to 128 KiB."""
    jobs: int = 100
    """Print jobs that wait or are being printed."""
    memory: int = 1 << 30
    """Bytes of images in all sessions and jobs together; a film of 14 by 17 inches at 12 bits has 40 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """A film to be printed."""

    sop_instance_uid: str
    """Of the film box. It may be the peer's own: text that is not checked."""
    display_format: str
    r"""Image Display Format, such as ``STANDARD\2,3``."""
    attributes: Dataset
    """Of the film box (PS3.3 C.13.3): size, orientation, densities."""
    session: Dataset
    """Of the film session (PS3.3 C.13.1): copies, medium, destination."""
    images: Mapping[int, Dataset]
    """Image boxes by position, from 1, those that hold an image: their attributes (PS3.3 C.13.5), with the one item of
    Basic Grayscale or Color Image Sequence."""
    annotations: Mapping[int, str]
    """Texts by position, from 1."""
    presentation_lut: Dataset | None
    """Presentation LUT Sequence or Shape (PS3.3 C.11.4)."""
    color: bool
    calling_ae_title: str
    """Of whoever wants it printed."""

    @property
    def copies(self) -> int:
        """How many are wanted."""
        return int(self.session.get("NumberOfCopies") or 1)


FilmHandler: TypeAlias = "Callable[[Film], Awaitable[Status | int | None]]"
"""Prints a film, which may take its time. A failure status or an exception makes the job a FAILURE; if the status has a
comment of up to 16 capitals, such as ``Status(0x0110, "FILM JAM")`` (PS3.3 C.13.9.1), that is the reason reported."""

_IMAGE: Final = (
    "ImageBoxPosition Polarity MagnificationType SmoothingType ConfigurationInformation MinDensity MaxDensity "
    "RequestedImageSize RequestedDecimateCropBehavior"
)
_ATTRIBUTES: Final[Mapping[str, str]] = {
    FILM_SESSION: "NumberOfCopies PrintPriority MediumType FilmDestination FilmSessionLabel MemoryAllocation OwnerID",
    FILM_BOX: "ImageDisplayFormat AnnotationDisplayFormatID FilmOrientation FilmSizeID MagnificationType "
    "SmoothingType BorderDensity EmptyImageDensity MinDensity MaxDensity Trim ConfigurationInformation Illumination "
    "ReflectedAmbientLight RequestedResolutionID ReferencedFilmSessionSequence ReferencedPresentationLUTSequence",
    GRAYSCALE_IMAGE_BOX: f"{_IMAGE} BasicGrayscaleImageSequence",
    COLOR_IMAGE_BOX: f"{_IMAGE} BasicColorImageSequence",
    ANNOTATION_BOX: "AnnotationPosition TextString",
    PRESENTATION_LUT: "PresentationLUTShape PresentationLUTSequence",
}
"""What is kept of the attributes that a peer gives (the tables of PS3.4 H.4), by SOP class."""
_MAX_ATTRIBUTES: Final = 256 * 1024
"""Bytes of a data set without images; a Presentation LUT of 64 K entries has 128 KiB."""

_REASON: Final = re.compile(r"[A-Z0-9_ ]{1,16}")
"""A value of CS (PS3.5 6.2)."""


class _Box:
    """An image box or an annotation box, and what is in it."""

    __slots__ = ("attributes", "position", "size")

    def __init__(self, position: int) -> None:
        self.position = position
        self.attributes: Dataset | None = None
        """None as long as nothing is in it."""
        self.size = 0
        """Bytes that the attributes take."""


@dataclass(slots=True)
class _FilmBox:
    uid: str
    attributes: Dataset
    color: bool
    presentation_lut: Dataset | None
    images: dict[str, _Box]
    """By SOP Instance UID."""
    annotations: dict[str, _Box]
    """By SOP Instance UID."""


@dataclass(slots=True)
class _Session:
    uid: str
    attributes: Dataset
    films: dict[str, _FilmBox] = field(default_factory=dict)


@dataclass(slots=True)
class _Kept:
    """What an association has made."""

    session: _Session | None = None
    presentation_luts: dict[str, Dataset] = field(default_factory=dict)

    @property
    def films(self) -> dict[str, _FilmBox]:
        return self.session.films if self.session else {}

    def uids(self) -> Iterable[str]:
        """Every SOP Instance UID that is in use."""
        yield from self.presentation_luts
        if self.session is not None:
            yield self.session.uid
            for uid, film in self.films.items():
                yield from (uid, *film.images, *film.annotations)


class _Job:
    """A print job (PS3.4 H.4.5)."""

    def __init__(self, association: Association, films: list[tuple[Film, int]]) -> None:
        self.uid = new_uid()
        self.association = association
        self.films = films
        """And the bytes of each one's images."""
        self.created = dt.datetime.now().astimezone()
        self.status = "PENDING"
        self.info = "NORMAL"
        self.events: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        """Types and reasons that are still to be reported; a job has three."""

    def enter(self, event_type: int, info: str = "NORMAL") -> None:
        """Change the state, and have it reported."""
        self.status, self.info = EVENTS[PRINT_JOB][event_type], info
        self.events.put_nowait((event_type, info))


class PrinterService:
    """A printer for ``serve(services=[...])``.

    As an async context manager it waits in the end until all that was accepted is printed.
    """

    def __init__(
        self,
        film: FilmHandler,
        *,
        name: str = "ASYNCDICOM",
        color: bool = True,
        annotation_formats: Mapping[str, int] | None = None,
        limits: PrinterLimits | None = None,
    ) -> None:
        """``annotation_formats`` are the Annotation Display Format IDs that are known, with the number of boxes."""
        self.contexts = (
            GRAYSCALE_PRINT_MANAGEMENT,
            *((COLOR_PRINT_MANAGEMENT,) if color else ()),
            PRINTER,
            PRINT_JOB,
            PRESENTATION_LUT,
            *((ANNOTATION_BOX,) if annotation_formats else ()),
        )
        self.handlers = {
            "n_create": self._create,
            "n_set": self._set,
            "n_get": self._get,
            "n_action": self._action,
            "n_delete": self._delete,
        }
        self.name = name
        self.status = "NORMAL"
        self.info = "NORMAL"
        self._film = film
        self._annotation_formats = dict(annotation_formats or {})
        self._limits = limits or PrinterLimits()
        self._kept: dict[Association, _Kept] = {}
        self._jobs: dict[str, _Job] = {}
        self._printing = asyncio.Lock()
        self._prints: set[asyncio.Task[None]] = set()
        self._watches: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.drain()
        for watch in self._watches:  # of associations that live on without the printer
            watch.cancel()

    async def drain(self) -> None:
        """Wait until every job that was accepted is printed. Cancellation cancels the printing."""
        await asyncio.gather(*self._prints)

    async def report(self, status: str, info: str = "NORMAL") -> None:
        """Change how the printer is, and tell it to every association that has used it (N-EVENT-REPORT).

        ``status`` is NORMAL, WARNING or FAILURE, ``info`` one of the reasons of PS3.3 C.13.9.1. Returns when all have
        answered; an association on which it cannot be told is left out. Cancellation while an answer is awaited aborts
        that association.
        """
        types = {name: number for number, name in EVENTS[PRINTER].items()}
        if status not in types:
            raise ValueError(f"a printer is NORMAL, WARNING or FAILURE, not {status}")
        self.status, self.info = status, info
        information = None if status == "NORMAL" else _with(PrinterName=self.name, PrinterStatusInfo=info)
        reports = (
            _report(association, PRINTER, PRINTER_INSTANCE, types[status], information) for association in self._kept
        )
        await asyncio.gather(*reports)

    # N-CREATE

    async def _create(self, request: NCreateRequest) -> tuple[Status, Dataset]:
        create = self._CREATE.get(request.sop_class_uid) or _refuse(0x0211)
        kept = self._of(request.association)
        if request.sop_instance_uid in kept.uids():
            _refuse(0x0111)
        return create(self, request, kept)

    def _create_session(self, request: NCreateRequest, kept: _Kept) -> tuple[Status, Dataset]:
        if kept.session is not None:
            _refuse(0x0213, "one film session at a time: delete the other first")
        attributes = _taken(request)
        attributes.setdefault("NumberOfCopies", 1)
        attributes.setdefault("PrintPriority", "MED")
        kept.session = _Session(request.sop_instance_uid, attributes)
        return Status(0xB600 if attributes.pop("MemoryAllocation", None) else 0), attributes

    def _create_film(self, request: NCreateRequest, kept: _Kept) -> tuple[Status, Dataset]:
        attributes = _taken(request, "ImageDisplayFormat", "ReferencedFilmSessionSequence")
        if kept.session is None or kept.session.uid not in _referenced(attributes, "ReferencedFilmSessionSequence"):
            _refuse_value("ReferencedFilmSessionSequence", "that is not the film session of this association")
        if len(kept.films) >= self._limits.films:
            _refuse(0x0213, f"a film session has {self._limits.films} films at most")
        color = request.context.abstract_syntax == COLOR_PRINT_MANAGEMENT
        film = _FilmBox(
            request.sop_instance_uid,
            attributes,
            color,
            _presentation_lut(attributes, kept),
            _boxes(self._count_images(attributes)),
            _boxes(self._count_annotations(request, attributes)),
        )
        kept.films[film.uid] = film
        image_class = COLOR_IMAGE_BOX if color else GRAYSCALE_IMAGE_BOX
        answer = _with(ReferencedImageBoxSequence=[reference_item((image_class, uid)) for uid in film.images])
        if film.annotations:
            boxes = [reference_item((ANNOTATION_BOX, uid)) for uid in film.annotations]
            answer.ReferencedBasicAnnotationBoxSequence = boxes
        answer.update(attributes)
        return Status.SUCCESS, answer

    def _count_images(self, attributes: Dataset) -> int:
        try:
            count = count_image_boxes(str(attributes.ImageDisplayFormat))
        except ValueError:
            count = 0
        if not 0 < count <= self._limits.images:
            _refuse_value("ImageDisplayFormat", r"STANDARD\C,R, ROW\... and COL\... are supported")
        return count

    def _count_annotations(self, request: NCreateRequest, attributes: Dataset) -> int:
        wanted = str(attributes.get("AnnotationDisplayFormatID") or "")
        if not wanted or not _negotiated(request.association, ANNOTATION_BOX):
            return 0
        if wanted not in self._annotation_formats:
            _refuse_value("AnnotationDisplayFormatID", "that format is not known")
        return self._annotation_formats[wanted]

    def _create_presentation_lut(self, request: NCreateRequest, kept: _Kept) -> tuple[Status, Dataset]:
        attributes = _taken(request)
        if not attributes:
            raise StatusError(Status(0x0120, "a shape or a table is needed", tags(["PresentationLUTShape"])))
        if len(kept.presentation_luts) >= self._limits.presentation_luts:
            _refuse(0x0213, f"there are {self._limits.presentation_luts} Presentation LUTs at most")
        kept.presentation_luts[request.sop_instance_uid] = attributes
        return Status.SUCCESS, attributes

    _CREATE: Final[Mapping[str, Callable[[Any, NCreateRequest, _Kept], tuple[Status, Dataset]]]] = {
        FILM_SESSION: _create_session,
        FILM_BOX: _create_film,
        PRESENTATION_LUT: _create_presentation_lut,
    }

    # N-SET

    async def _set(self, request: NSetRequest) -> Status:
        change = self._SET.get(request.sop_class_uid) or _refuse(0x0211)
        change(self, request, self._of(request.association))
        return Status.SUCCESS

    def _set_session(self, request: NSetRequest, kept: _Kept) -> None:
        self._session(request, kept).attributes.update(_taken(request))

    def _set_film(self, request: NSetRequest, kept: _Kept) -> None:
        film = kept.films.get(request.sop_instance_uid) or _refuse(0x0112)
        attributes = _taken(request)
        layout = film.attributes.ImageDisplayFormat
        if attributes.get("ImageDisplayFormat", layout) != layout:
            _refuse_value("ImageDisplayFormat", "the layout of a film box cannot be changed")  # PS3.4 Table H.4-4
        film.presentation_lut = _presentation_lut(attributes, kept) or film.presentation_lut
        film.attributes.update(attributes)

    def _set_image(self, request: NSetRequest, kept: _Kept) -> None:
        color = request.sop_class_uid == COLOR_IMAGE_BOX
        boxes, box = _found(request, [film.images for film in kept.films.values() if film.color == color])
        size = len(request.data)
        if self._memory() - box.size + size > self._limits.memory:
            _refuse(0xC605, "the printer has no memory for the image")
        keyword = "BasicColorImageSequence" if color else "BasicGrayscaleImageSequence"
        attributes = _taken(request, "ImageBoxPosition", limit=self._limits.memory)
        if keyword not in attributes:
            raise StatusError(Status(0x0120, "there is no image", tags([keyword])))
        images = attributes[keyword].value
        if images:
            _check_image(images[0], color=color)
        _move(boxes, box, attributes, "ImageBoxPosition")
        # Without an item the image is taken from the box (PS3.4 H.4.3.1.2.1).
        box.attributes, box.size = (attributes, size) if images else (None, 0)

    def _set_annotation(self, request: NSetRequest, kept: _Kept) -> None:
        boxes, box = _found(request, [film.annotations for film in kept.films.values()])
        attributes = _taken(request, "AnnotationPosition")
        _move(boxes, box, attributes, "AnnotationPosition")
        box.attributes = attributes

    _SET: Final[Mapping[str, Callable[[Any, NSetRequest, _Kept], None]]] = {
        FILM_SESSION: _set_session,
        FILM_BOX: _set_film,
        GRAYSCALE_IMAGE_BOX: _set_image,
        COLOR_IMAGE_BOX: _set_image,
        ANNOTATION_BOX: _set_annotation,
    }

    # N-GET

    async def _get(self, request: NGetRequest) -> tuple[Status, Dataset]:
        if request.sop_class_uid == PRINTER:
            if request.sop_instance_uid != PRINTER_INSTANCE:
                _refuse(0x0112)
            self._of(request.association)
            data_set = _with(PrinterStatus=self.status, PrinterStatusInfo=self.info, PrinterName=self.name)
        elif request.sop_class_uid == PRINT_JOB:
            data_set = self._job_attributes(self._jobs.get(request.sop_instance_uid) or _refuse(0x0112))
        else:
            _refuse(0x0211)
        if not request.attributes:
            return Status.SUCCESS, data_set
        unknown = [tag for tag in request.attributes if tag not in data_set]
        for tag in [element.tag for element in data_set if element.tag not in request.attributes]:
            del data_set[tag]
        return Status(0x0107 if unknown else 0), data_set

    def _job_attributes(self, job: _Job) -> Dataset:
        return _with(
            ExecutionStatus=job.status,
            ExecutionStatusInfo=job.info,
            CreationDate=f"{job.created:%Y%m%d}",
            CreationTime=f"{job.created:%H%M%S}",
            PrintPriority=job.films[0][0].session.get("PrintPriority"),
            PrinterName=self.name,
            Originator=job.association.calling_ae_title,
        )

    # N-ACTION

    async def _action(self, request: NActionRequest) -> tuple[Status, Dataset | None]:
        is_session = request.sop_class_uid == FILM_SESSION
        if not is_session and request.sop_class_uid != FILM_BOX:
            _refuse(0x0211)
        kept = self._of(request.association)
        if is_session:
            boxes = list(self._session(request, kept).films.values())
        else:
            boxes = [kept.films.get(request.sop_instance_uid) or _refuse(0x0112)]
        if request.action_type_id != PRINT:
            _refuse(0x0123)
        if not boxes:
            _refuse(0xC600, "the film session has no film boxes")
        if len(self._jobs) >= self._limits.jobs:
            _refuse(0xC601 if is_session else 0xC602, "the print queue is full")
        assert kept.session is not None
        session = kept.session.attributes
        job = _Job(request.association, [(_film(box, session, request.calling_ae_title), _size(box)) for box in boxes])
        self._jobs[job.uid] = job
        job.enter(1)
        _own(self._prints, self._print(job))
        empty = not any(film.images for film, _ in job.films)
        status = Status((0xB602 if is_session else 0xB603) if empty else 0)
        if not _negotiated(request.association, PRINT_JOB):
            return status, None
        return status, _with(ReferencedPrintJobSequence=[reference_item((PRINT_JOB, job.uid))])

    # N-DELETE

    async def _delete(self, request: NDeleteRequest) -> Status:
        kept = self._of(request.association)
        if request.sop_class_uid == FILM_SESSION:
            self._session(request, kept)
            kept.session = None
        else:
            instances: dict[str, dict[str, Any]] = {
                FILM_BOX: kept.films,
                PRESENTATION_LUT: kept.presentation_luts,
            }
            found = instances.get(request.sop_class_uid)
            if found is None:
                _refuse(0x0211)
            if found.pop(request.sop_instance_uid, None) is None:
                _refuse(0x0112)
        return Status.SUCCESS

    # What is kept

    def _of(self, association: Association) -> _Kept:
        """What the association has made; it is forgotten when the association ends."""
        kept = self._kept.get(association)
        if kept is None:
            kept = self._kept[association] = _Kept()
            _own(self._watches, self._forget(association))
        return kept

    async def _forget(self, association: Association) -> None:
        await association.wait_closed()
        del self._kept[association]

    def _session(self, request: NSetRequest | NActionRequest | NDeleteRequest, kept: _Kept) -> _Session:
        if kept.session is None or kept.session.uid != request.sop_instance_uid:
            _refuse(0x0112)
        return kept.session

    def _memory(self) -> int:
        """Bytes of the images that are kept; what waits to be printed counts beside what could be printed again."""
        films = sum(_size(film) for kept in self._kept.values() for film in kept.films.values())
        return films + sum(size for job in self._jobs.values() for _, size in job.films)

    # Printing

    async def _print(self, job: _Job) -> None:
        reports = asyncio.create_task(self._report_job(job))
        try:
            async with self._printing:
                job.enter(2)
                reason = ""
                for film, _ in job.films:
                    reason = reason or await self._print_film(film)
            if reason:
                job.enter(4, reason)
            else:
                job.enter(3)
            await reports
        finally:
            reports.cancel()
            del self._jobs[job.uid]

    async def _print_film(self, film: Film) -> str:
        """Have a film printed; returns the reason if that failed."""
        try:
            status = await self._film(film)
        except Exception:  # noqa: BLE001 - the user's; it must not end the job's task
            _log.exception("= printing a film failed")
            return "UNKNOWN"
        if status is None or not Status(status).is_failure:
            return ""
        comment = status.error_comment if isinstance(status, Status) else ""
        return comment if _REASON.fullmatch(comment) else "UNKNOWN"

    async def _report_job(self, job: _Job) -> None:
        """Report what becomes of a job, in order, while somebody is there to hear it."""
        while True:
            event_type, info = await job.events.get()
            information = _with(
                ExecutionStatusInfo=info,
                FilmSessionLabel=job.films[0][0].session.get("FilmSessionLabel"),
                PrinterName=self.name,
            )
            if _negotiated(job.association, PRINT_JOB):
                await _report(job.association, PRINT_JOB, job.uid, event_type, information)
            if event_type > 2:
                return


def _own(tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
    # Not by create_task: a task factory that begins at once would report a job before its N-ACTION is answered.
    task = asyncio.Task(work, loop=asyncio.get_running_loop())
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def _negotiated(association: Association, sop_class_uid: str) -> bool:
    """Whether there is a presentation context for an optional SOP class."""
    return any(context.abstract_syntax == sop_class_uid for context in association.contexts.values())


async def _report(
    association: Association, sop_class_uid: str, uid: str, event_type: int, data: Dataset | None
) -> None:
    """Report an event to whoever is still there."""
    if not association.is_established:
        return
    try:
        response = await association.n_event_report(sop_class_uid, uid, event_type, data)
    except DicomError as error:
        _log.debug("= an event could not be reported: %s", error)
    else:
        if response.status.is_failure:
            _log.warning("< %r answered %s to an event", association.calling_ae_title, response.status)


# Data sets


def _with(**attributes: object) -> Dataset:
    """A data set of these attributes, without those that are None."""
    from pydicom import Dataset  # noqa: PLC0415

    data_set = Dataset()
    for keyword, value in attributes.items():
        if value is not None:
            setattr(data_set, keyword, value)
    return data_set


def _taken(request: NCreateRequest | NSetRequest, *mandatory: str, limit: int = _MAX_ATTRIBUTES) -> Dataset:
    """The attributes of a request that its SOP class has; others are left out (PS3.4 5.4.2: 0120H, 0121H)."""
    if len(request.data) > limit:
        _refuse(0x0213, f"more than {limit} bytes of attributes are not taken")
    data_set = request.data_set
    taken = _with()
    for keyword in _ATTRIBUTES[request.sop_class_uid].split():
        if data_set is not None and keyword in data_set:
            taken.add(data_set[keyword])
    for keyword in mandatory:
        if keyword not in taken:
            raise StatusError(Status(0x0120, f"{keyword} is missing", tags([keyword])))
        if taken[keyword].is_empty:
            raise StatusError(Status(0x0121, f"{keyword} is empty", tags([keyword])))
    return taken


def _refuse(code: int, comment: str = "") -> NoReturn:
    raise StatusError(Status(code, comment))


def _refuse_value(keyword: str, comment: str) -> NoReturn:
    raise StatusError(Status(0x0106, comment, tags([keyword])))


def _referenced(attributes: Dataset, keyword: str) -> list[str]:
    """The instances that a sequence refers to."""
    return [each.sop_instance_uid for each in references(attributes.get(keyword))]


def _presentation_lut(attributes: Dataset, kept: _Kept) -> Dataset | None:
    for uid in _referenced(attributes, "ReferencedPresentationLUTSequence"):
        if uid not in kept.presentation_luts:
            _refuse_value("ReferencedPresentationLUTSequence", "there is no such Presentation LUT")
        return kept.presentation_luts[uid]
    return None


_PIXELS: Final[Mapping[bool, Mapping[str, tuple[object, ...]]]] = {
    False: {
        "SamplesPerPixel": (1,),
        "PhotometricInterpretation": ("MONOCHROME1", "MONOCHROME2"),
        "BitsAllocated": (8, 16),
        "PixelRepresentation": (0,),
    },
    True: {
        "SamplesPerPixel": (3,),
        "PhotometricInterpretation": ("RGB",),
        "BitsAllocated": (8,),
        "PixelRepresentation": (0,),
    },
}
"""What an image for a printer may be (PS3.3 C.13.5), by whether it is in color."""
_BITS: Final = {8: (8, 7), 16: (12, 11)}
"""Bits Stored and High Bit, by Bits Allocated."""


def _check_image(item: Dataset, *, color: bool) -> None:
    """Raises StatusError for an image that is not as PS3.3 C.13.5 has it, or whose pixels are not all there."""
    for keyword, allowed in _PIXELS[color].items():
        if item.get(keyword) not in allowed:
            _refuse_value(keyword, f"{keyword} of an image is one of {', '.join(map(str, allowed))}")
    if (item.get("BitsStored"), item.get("HighBit")) != _BITS[item.BitsAllocated]:
        _refuse_value("BitsStored", "8 bits, or 12 in 16, are stored, the highest first")
    samples = (item.get("Rows") or 0) * (item.get("Columns") or 0) * item.SamplesPerPixel
    if not samples or len(item.get("PixelData") or b"") < samples * item.BitsAllocated // 8:
        _refuse_value("PixelData", "there are fewer pixels than rows and columns say")


def _boxes(count: int) -> dict[str, _Box]:
    return {new_uid(): _Box(position) for position in range(1, count + 1)}


def _found(request: NSetRequest, candidates: Iterable[dict[str, _Box]]) -> tuple[dict[str, _Box], _Box]:
    """The box that a request means, and those of the same film."""
    for boxes in candidates:
        if (box := boxes.get(request.sop_instance_uid)) is not None:
            return boxes, box
    _refuse(0x0112)


def _move(boxes: dict[str, _Box], box: _Box, attributes: Dataset, keyword: str) -> None:
    """Put a box where the peer wants it: DCMTK takes the first annotation box for every position."""
    position = attributes[keyword].value
    other = next((each for each in boxes.values() if each.position == position), None)
    if other is None or (other is not box and other.attributes is not None):
        _refuse_value(keyword, "there is no such position, or something else is in it")
    other.position, box.position = box.position, other.position


def _size(film: _FilmBox) -> int:
    return sum(box.size for box in film.images.values())


def _film(box: _FilmBox, session: Dataset, calling_ae_title: str) -> Film:
    """A film as it is now: what the peer does with the film box later does not change it."""
    return Film(
        sop_instance_uid=box.uid,
        display_format=str(box.attributes.ImageDisplayFormat),
        attributes=_copy(box.attributes),
        session=_copy(session),
        images=_filled(box.images),
        annotations={at: str(each.get("TextString") or "") for at, each in _filled(box.annotations).items()},
        presentation_lut=box.presentation_lut,
        color=box.color,
        calling_ae_title=calling_ae_title,
    )


def _filled(boxes: dict[str, _Box]) -> dict[int, Dataset]:
    """What is in boxes, in the order of their positions."""
    found = {box.position: box.attributes for box in boxes.values() if box.attributes is not None}
    return dict(sorted(found.items()))


def _copy(data_set: Dataset) -> Dataset:
    copied = _with()
    copied.update(data_set)
    return copied
