"""``asyncdicom printscu``: print images on films, and ask a printer how it is (print management, PS3.4 annex H).

Options have the names of DCMTK's dcmpsprt and dcmprscu. Each film is made, filled, printed and deleted before the next;
with ``--session-print`` all are made first, and printed together.
"""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from asyncdicom.command import Category, Status
from asyncdicom.errors import DicomError, FileFormatError, LocalProtocolError
from asyncdicom.presentation import DEFAULT_TRANSFER_SYNTAXES, Context
from asyncdicom.services.print_management import (
    COLOR_PRINT_MANAGEMENT,
    GRAYSCALE_PRINT_MANAGEMENT,
    PRINTER,
    PrintError,
    PrintEvent,
    PrintEvents,
    PrintSession,
    count_image_boxes,
    print_contexts,
    printer_state,
)

from .console import log, say
from .exit_codes import ExitCode, ToolError, explain
from .files import find_files, read_instances
from .options import Group, Tool, UsageError, flag, nothing_to_do, refused, value
from .peer import parse_peer
from .shared import LOGGING, LOOP, PEER, RequestorOptions, associate, delay, finish, number, one_of, run_tool
from .syntaxes import PROPOSED_UNCOMPRESSED
from .tls_options import REQUESTOR_TLS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from asyncdicom.association import Association
    from asyncdicom.services.print_management import FilmBox, PrintJob

__all__ = ["TOOL", "PrintOptions", "main"]


@dataclass(frozen=True, kw_only=True)
class PrintOptions(RequestorOptions):
    """What printscu's command line sets."""

    status: bool = False
    json: bool = False
    recurse: bool = False
    pattern: str | None = None
    uncompressed: tuple[str, ...] = DEFAULT_TRANSFER_SYNTAXES
    # What is done
    color: bool = False
    bits: int | None = None
    layout: str = r"STANDARD\1,1"
    session_print: bool = False
    no_print: bool = False
    wait: float | None = None
    lut: str = ""
    annotation: str = ""
    annotation_format: str = ""
    # Film session
    copies: int = 1
    priority: str = ""
    medium: str = ""
    destination: str = ""
    label: str = ""
    owner: str = ""
    # Film box and image box, by keyword below
    orientation: str = ""
    film_size: str = ""
    trim: str = ""
    magnification: str = ""
    smoothing: str = ""
    configuration: str = ""
    resolution: str = ""
    border: str = ""
    empty_image: str = ""
    max_density: int | None = None
    min_density: int | None = None
    illumination: int | None = None
    reflection: int | None = None
    polarity: str = ""
    size: str = ""
    decimate_crop: str = ""
    image_magnification: str = ""
    image_smoothing: str = ""
    image_configuration: str = ""

    def attributes(self, keywords: dict[str, str]) -> dict[str, Any]:
        """Attributes by keyword, those that the command line gives."""
        given = {keyword: getattr(self, name) for keyword, name in keywords.items()}
        return {keyword: value for keyword, value in given.items() if value not in ("", None)}


_FILM: Final = {
    "FilmOrientation": "orientation",
    "FilmSizeID": "film_size",
    "Trim": "trim",
    "MagnificationType": "magnification",
    "SmoothingType": "smoothing",
    "ConfigurationInformation": "configuration",
    "RequestedResolutionID": "resolution",
    "BorderDensity": "border",
    "EmptyImageDensity": "empty_image",
    "MaxDensity": "max_density",
    "MinDensity": "min_density",
    "Illumination": "illumination",
    "ReflectedAmbientLight": "reflection",
}
"""Attributes of a film box, and the options that give them."""

_IMAGE: Final = {
    "Polarity": "polarity",
    "RequestedImageSize": "size",
    "RequestedDecimateCropBehavior": "decimate_crop",
    "MagnificationType": "image_magnification",
    "SmoothingType": "image_smoothing",
    "ConfigurationInformation": "image_configuration",
}
"""Attributes of an image box."""


def _layout(columns: str, rows: str) -> str:
    read = number(1, 100)
    return rf"STANDARD\{read(columns)},{read(rows)}"


def _display_format(text: str) -> str:
    count_image_boxes(text)
    return text


def _upper(*words: str) -> Any:
    read = one_of(*(word.lower() for word in words))
    return lambda text: str(read(text)).upper()


_NOT_RENDERED: Final = "images are printed without presentation states, overlays and tables of one's own"
_DENSITY: Final = number(0, 65535)

TOOL: Final = Tool(
    "printscu",
    "print images on films, or show a printer's status",
    (
        "[OPTION]... HOST PORT FILE-OR-FOLDER...",
        "[OPTION]... --status HOST PORT",
        "[OPTION]... dicom://CALLING@HOST:PORT/CALLED FILE-OR-FOLDER...",
        "[OPTION]... -c CALLED@HOST:PORT FILE-OR-FOLDER...",
    ),
    PrintOptions,
    (
        LOGGING,
        Group(
            "input",
            (
                value(
                    "+sp --scan-pattern", "pattern", "PATTERN", "of the files in folders only these, such as '*.dcm'"
                ),
                flag("-r --no-recurse", "recurse", "leave out folders in folders (default)", constant=False),
                flag("+r --recurse", "recurse", "take folders in folders too"),
                refused("+p --pstate", _NOT_RENDERED, "FILE"),
                refused("+O --overlay", _NOT_RENDERED, "FILE", "X", "Y"),
                refused("--plut", _NOT_RENDERED, "NAME"),
                refused("--inverse-plut", _NOT_RENDERED),
                refused("--monochrome1", "images keep their photometric interpretation"),
                refused("-p --printer", "the printer is the peer that the command line names", "NAME"),
            ),
        ),
        Group(
            "printing",
            (
                flag("--status", "status", "show the printer's status, and print nothing"),
                flag("--json", "json", "print what was done as a JSON object"),
                flag("--color", "color", "print in color (Basic Color Print Management)"),
                value(
                    "--bits",
                    "bits",
                    "NUMBER",
                    "grayscale in 8 or 12 bits (default: as the image has)",
                    number(8, 8, 12),
                ),
                flag("--session-print", "session_print", "print all films together, as a film session"),
                flag("--noprint", "no_print", "make the films, but do not print them"),
                value(
                    "--wait",
                    "wait",
                    "SECONDS",
                    "wait so long for the printer to report that its jobs are done, 0 without end",
                    lambda text: delay(text) or math.inf,
                ),
                nothing_to_do("-s --spool", "films go to the printer at once"),
            ),
        ),
        Group(
            "film session",
            (
                value("--copies", "copies", "NUMBER", "of each film", number(1, 100)),
                value("--medium-type", "medium", "NAME", "PAPER, CLEAR FILM, BLUE FILM, ..."),
                value("--destination", "destination", "NAME", "MAGAZINE, PROCESSOR, BIN_1, ..."),
                value("--label", "label", "TEXT", "of the film session"),
                value("--priority", "priority", "NAME", "HIGH, MED or LOW", _upper("HIGH", "MED", "LOW")),
                value("--owner", "owner", "TEXT", "owner of the film session"),
            ),
        ),
        Group(
            "film",
            (
                value("-l --layout", "layout", "COLUMNS ROWS", "images on each film", _layout),
                value(
                    "--display-format",
                    "layout",
                    "FORMAT",
                    r"the layout as the standard has it: ROW\1,2",
                    _display_format,
                ),
                value("--filmsize", "film_size", "NAME", "8INX10IN, 14INX17IN, A4, ..."),
                flag("--portrait", "orientation", "upright", "PORTRAIT"),
                flag("--landscape", "orientation", "lying", "LANDSCAPE"),
                flag("--default-orientation", "orientation", "as the printer has it (default)", ""),
                flag("--trim", "trim", "a trim box around each image", "YES"),
                flag("--no-trim", "trim", "no trim boxes", "NO"),
                flag("--default-trim", "trim", "as the printer has it (default)", ""),
                value("--magnification", "magnification", "NAME", "REPLICATE, BILINEAR, CUBIC or NONE"),
                value("--smoothing", "smoothing", "NAME", "smoothing type, as the printer knows it"),
                value("--configinfo", "configuration", "TEXT", "configuration information for the printer"),
                value("--resolution", "resolution", "NAME", "STANDARD or HIGH"),
                value("--border", "border", "NAME", "density of the border: BLACK, WHITE, or hundredths of OD"),
                value("--empty-image", "empty_image", "NAME", "density of empty image boxes, in the same way"),
                value("--max-density", "max_density", "NUMBER", "in hundredths of OD", _DENSITY),
                value("--min-density", "min_density", "NUMBER", "in hundredths of OD", _DENSITY),
                flag("--default-plut", "lut", "no Presentation LUT (default)", ""),
                flag("--identity", "lut", "with a Presentation LUT of this shape", "IDENTITY"),
                flag("--lin-od", "lut", "with a Presentation LUT of this shape", "LIN OD"),
                value("--illumination", "illumination", "NUMBER", "of the light box, in cd/m2", _DENSITY),
                value("--reflection", "reflection", "NUMBER", "ambient light reflected, in cd/m2", _DENSITY),
                value("-a --annotation", "annotation", "TEXT", "in the first annotation box of each film"),
                flag("--no-annotation", "annotation", "without (default)", ""),
                value("--annotation-format", "annotation_format", "NAME", "annotation display format, the printer's"),
            ),
        ),
        Group(
            "images",
            (
                value("--img-polarity", "polarity", "NAME", "NORMAL or REVERSE", _upper("NORMAL", "REVERSE")),
                value("--img-request-size", "size", "NUMBER", "width in mm"),
                flag("--request-decimate", "decimate_crop", "what is too large is decimated", "DECIMATE"),
                flag("--request-crop", "decimate_crop", "what is too large is cropped", "CROP"),
                flag("--request-fail", "decimate_crop", "what is too large is refused", "FAIL"),
                flag("--default-request", "decimate_crop", "as the printer has it (default)", ""),
                value("--img-magnification", "image_magnification", "NAME", "as --magnification, for the images"),
                value("--img-smoothing", "image_smoothing", "NAME", "as --smoothing, for the images"),
                value("--img-configinfo", "image_configuration", "TEXT", "as --configinfo, for the images"),
            ),
        ),
        PEER,
        Group("negotiation", PROPOSED_UNCOMPRESSED),
        LOOP,
        REQUESTOR_TLS,
    ),
    "Options may stand anywhere on the command line. Images fill the films in the order of the command line, each film "
    "from left to right and from top to bottom; of a multi-frame image the first frame is taken. Windows are applied "
    "here, as printers have none. Exit codes: 0 printed, 1 wrong command line, 20 cannot read a file, 21 no file, 22 a "
    "file that is no image, 60 no connection, 61 rejected, 62 a failure status or a job that has failed, 65 the "
    "printer's service was not accepted, 70 aborted, lost or timed out, "
    "71 TLS failed.",
)


_STATUS_CONTEXTS: Final = (PRINTER, GRAYSCALE_PRINT_MANAGEMENT, COLOR_PRINT_MANAGEMENT)
"""Most printers are asked for their status on the context of what they print."""


@dataclass
class _Film:
    """What became of a film."""

    images: list[str]
    sop_instance_uid: str = ""
    status: str = ""
    """Of printing it, in hexadecimal; empty until it is."""
    warnings: list[str] = field(default_factory=list)


@dataclass
class _Report:
    """What is said in the end, as JSON."""

    printer: dict[str, str] | None = None
    films: list[_Film] = field(default_factory=list)
    jobs: list[dict[str, str]] = field(default_factory=list)
    error: str | None = None
    exit_code: int = ExitCode.OK


def main(argv: Sequence[str]) -> int:
    """Run the tool; returns its exit code."""
    return run_tool(TOOL, _run, argv)


async def _run(options: PrintOptions, words: list[str]) -> int:
    peer, paths = parse_peer(words, options.connect)
    if options.status and paths:
        raise UsageError(f"one word too many: {paths[0]}; --status prints nothing")
    if not options.status and not paths:
        raise UsageError("no file or folder to print is named")
    options.user_identity()
    report = _Report()
    try:
        images = _images(options, paths)
        contexts = _STATUS_CONTEXTS if options.status else print_contexts(color=options.color)
        events = PrintEvents(_teller(options))
        proposed = [Context(uid, options.uncompressed) for uid in contexts]
        association = await associate(peer, options, "PRINTSCU", proposed, services=[events])
        try:
            if options.status:
                await _show_status(association, options, report)
            for _ in range(0 if options.status else options.repeat):
                await _print(association, events, options, images, report)
        except PrintError as error:
            await finish(association, abort=options.abort)
            raise ToolError(ExitCode.SEND, str(error)) from error
        except BaseException:
            await association.abort()
            raise
        await finish(association, abort=options.abort)
    except (DicomError, ToolError, OSError) as error:
        failure = explain(error)
        report.error, report.exit_code = failure.message, failure.code
        raise
    finally:
        if options.json:
            say(json.dumps(asdict(report)))
    return ExitCode.OK


def _images(options: PrintOptions, paths: list[str]) -> list[str]:
    """The files to print. Raises ToolError for a named one that is no instance, and for none at all."""
    found = list(find_files(paths, recurse=options.recurse, pattern=options.pattern))
    if paths and not found:
        raise ToolError(ExitCode.NO_INPUT, "there is no file to print", "+r looks into folders in folders")
    instances, skipped, failure = read_instances(found)
    if failure is not None:
        raise ToolError(failure.code, failure.message)
    if paths and not instances:
        raise ToolError(ExitCode.NO_VALID_INPUT, "no file is an image that could be printed")
    for problem in skipped:
        log.info("left out %s: %s", problem.path, problem.reason)
    return [instance.path for instance in instances]


def _teller(options: PrintOptions) -> Callable[[PrintEvent], None]:
    """Says what the printer reports: what is wrong always, what is well when details are wanted."""

    def tell(event: PrintEvent) -> None:
        what = "printer" if event.sop_class_uid == PRINTER else "print job"
        if event.status in ("WARNING", "FAILURE"):
            log.warning("the %s reports %s (%s)", what, event.status, event.info)
        elif options.verbose:
            log.info("the %s is %s (%s)", what, event.status, event.info)

    return tell


async def _show_status(association: Association, options: PrintOptions, report: _Report) -> None:
    state = await printer_state(association)
    report.printer = {"status": state.status, "info": state.info, "name": state.name}
    if not options.json and not options.quiet:
        info = f" ({state.info})" if state.info else ""
        say(f"printer {state.name or association.called_ae_title}: {state.status}{info}")


async def _print(
    association: Association, events: PrintEvents, options: PrintOptions, images: list[str], report: _Report
) -> None:
    """Print the images in a film session of their own."""
    session = PrintSession(
        association,
        color=options.color,
        events=events,
        copies=options.copies,
        priority=options.priority,
        medium=options.medium,
        destination=options.destination,
        label=options.label,
        owner=options.owner,
    )
    jobs: list[PrintJob] = []
    films: list[_Film] = []
    async with session:
        lut = await session.presentation_lut(options.lut) if options.lut else ""
        for page in _pages(images, count_image_boxes(options.layout)):
            film, told = await _fill(session, options, lut, page)
            films.append(told)
            report.films.append(told)
            if not options.session_print and not options.no_print:
                jobs += await film.print()
                _printed(options, film.status, [told])
                await film.delete()
        if options.session_print and not options.no_print:
            jobs += await session.print()
            _printed(options, session.status, films)
    await _follow(options, jobs, report)


def _pages(images: list[str], size: int) -> Iterator[list[str]]:
    return (images[start : start + size] for start in range(0, len(images), size))


async def _fill(session: PrintSession, options: PrintOptions, lut: str, page: list[str]) -> tuple[FilmBox, _Film]:
    """Make a film with images on it."""
    film = await session.film(
        options.layout,
        annotation_format=options.annotation_format,
        presentation_lut=lut,
        **options.attributes(_FILM),
    )
    told = _Film(page, film.sop_instance_uid)
    attributes = options.attributes(_IMAGE)
    for position, path in enumerate(page, 1):
        try:
            status = await film.place(position, path, bits=options.bits, **attributes)
        except (FileFormatError, LocalProtocolError) as error:
            raise ToolError(ExitCode.INVALID_INPUT, f"{path}: {error}") from error
        if status.category is Category.WARNING:
            told.warnings.append(f"{path}: {status}")
            log.warning("%s: the printer answered %s", path, status)
    if options.annotation:
        if film.annotation_boxes:
            await film.annotate(1, options.annotation)
        else:
            log.warning("the printer has no annotation box for the film; --annotation-format names one of its formats")
    return film, told


def _printed(options: PrintOptions, status: Status, films: list[_Film]) -> None:
    for film in films:
        film.status = f"{int(status):04X}"
    if not options.json and not options.quiet:
        images = sum(len(film.images) for film in films)
        say(f"printed {len(films)} film{'s'[: len(films) > 1]} with {images} image{'s'[: images > 1]}: {status}")


async def _follow(options: PrintOptions, jobs: list[PrintJob], report: _Report) -> None:
    """Wait for the jobs, if that is wanted, and note what is known of each."""
    ends: list[PrintEvent] = []
    try:
        if options.wait is not None:
            async with asyncio.timeout(options.wait if math.isfinite(options.wait) else None):
                ends += [await job.wait() for job in jobs]
    except TimeoutError as error:
        message = f"the printer did not report within {options.wait:g} s that its jobs are done"
        raise ToolError(ExitCode.ABORTED, message) from error
    finally:
        for job in jobs:
            last = job.last
            report.jobs.append(
                {
                    "sop_instance_uid": job.sop_instance_uid,
                    "status": last.status if last else "",
                    "info": last.info if last else "",
                }
            )
    for end in ends:
        if end.status == "FAILURE":
            raise ToolError(ExitCode.SEND, f"a print job has failed ({end.info})")
