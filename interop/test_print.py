"""Print management with DCMTK's print server and print clients, and with pynetdicom, both ways."""

import asyncio
import contextlib
import shlex
import sys
import threading
import time

import numpy as np
import pydicom
import pytest
from peers import DEADLINE, run, running
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from pynetdicom import AE, evt

import asyncdicom
from asyncdicom.services.print_images import image_item
from asyncdicom.services.print_management import (
    ANNOTATION_BOX,
    COLOR_IMAGE_BOX,
    COLOR_PRINT_MANAGEMENT,
    FILM_BOX,
    FILM_SESSION,
    GRAYSCALE_IMAGE_BOX,
    GRAYSCALE_PRINT_MANAGEMENT,
    PRESENTATION_LUT,
    PRINT_JOB,
    PRINTER,
    PRINTER_INSTANCE,
    PrintError,
    PrintEvents,
    PrintSession,
    print_contexts,
    printer_state,
)
from asyncdicom.services.printer import PrinterService
from asyncdicom.services.references import reference_item

CT = get_testdata_file("CT_small.dcm")
MR = get_testdata_file("MR_small.dcm")
RGB = get_testdata_file("SC_rgb_small_odd.dcm")
"""3 x 3 pixels, color by pixel."""
COMMAND = (sys.executable, "-m", "asyncdicom", "printscu")

CONFIGURATION = r"""
[[GENERAL]]
[APPLICATION]
LogDirectory = FOLDER/log
[PRINT]
Directory = FOLDER/spool
DeletePrintJobs = false
[DATABASE]
Directory = FOLDER/database
[NETWORK]
aetitle = THEIRS
[[COMMUNICATION]]
[NAME]
Aetitle = NAME
Description = NAME
Hostname = localhost
Port = PORT
Type = TYPE
Annotation = 2\LABEL
BorderDensity = 150\20\BLACK\WHITE
DisplayFormat=1,1\1,2\2,2
EmptyImageDensity = 20\BLACK\WHITE
FilmDestination = MAGAZINE\PROCESSOR
FilmSizeID = 8INX10IN\14INX17IN
MagnificationType = REPLICATE\BILINEAR\CUBIC\NONE
MaxDensity = 320
MinDensity = 20
MediumType = PAPER\BLUE FILM
PresentationLUTMatchRequired = false
PresentationLUTinFilmSession = false
ResolutionID = STANDARD\HIGH
SmoothingType = NONE
Supports12Bit = true
SupportsDecimateCrop = true
SupportsImageSize = true
SupportsPresentationLUT = true
SupportsTrim = true
"""
"""Of DCMTK's print programs; a printer that is theirs has no annotations."""


def configured(folder, name, port, kind):
    """A configuration file for DCMTK, with the folders that it names."""
    for each in ("log", "spool", "database"):
        (folder / each).mkdir(parents=True)
    text = CONFIGURATION
    if kind == "LOCALPRINTER":
        text = text.replace("Annotation = 2\\LABEL\n", "")
    for word, value in (("FOLDER", folder), ("NAME", name), ("PORT", port), ("TYPE", kind)):
        text = text.replace(word, str(value))
    path = folder / "print.cfg"
    path.write_text(text)
    return path


# Our printer


@contextlib.asynccontextmanager
async def our_printer(**options):
    """A printer of ours that keeps its films, and its port."""
    films = []

    async def keep(film):
        films.append(film)

    async with asyncio.timeout(2 * DEADLINE), PrinterService(keep, **options) as printer:
        async with asyncdicom.serve("127.0.0.1", 0, ae_title="OURS", services=[printer]) as server:
            yield films, server.port


async def dcmtk_prints(folder, port, *options, images=(CT,), scu=()):
    """DCMTK renders images into a stored print object and sends that; returns what the sender said."""
    configuration = configured(folder, "OURS", port, "PRINTER")
    rendered = await run("dcmpsprt", "-c", configuration, "-p", "OURS", *options, *images)
    assert rendered[0] == 0, rendered[1]
    (stored,) = (folder / "database").glob("SP_*.dcm")
    code, output = await run("dcmprscu", "-v", "-c", configuration, "-p", "OURS", *scu, stored)
    assert code == 0, output
    return output


def rendered(folder):
    """The pixels of the hardcopy images in DCMTK's folder."""
    hardcopies = [pydicom.dcmread(path) for path in (folder / "database").glob("HG_*.dcm")]
    return sorted(each.PixelData for each in hardcopies)


def placed(film):
    return {at: box.BasicGrayscaleImageSequence[0] for at, box in film.images.items()}


@pytest.mark.usefixtures("dcmtk")
async def test_dcmtk_prints_a_film_on_our_printer(tmp_path):
    async with our_printer() as (films, port):
        words = ("--layout", 1, 2, "--filmsize", "14INX17IN", "--landscape", "--trim")
        session = ("--copies", 2, "--medium-type", "BLUE FILM", "--label", "CT")
        output = await dcmtk_prints(tmp_path, port, *words, images=(CT, MR), scu=session)
    assert "E:" not in output
    (film,) = films
    assert (film.calling_ae_title, film.copies, film.session.MediumType) == ("THEIRS", 2, "BLUE FILM")
    assert (film.display_format, film.attributes.FilmSizeID) == (r"STANDARD\1,2", "14INX17IN")
    assert (film.attributes.FilmOrientation, film.attributes.Trim) == ("LANDSCAPE", "YES")
    assert sorted(image.PixelData for image in placed(film).values()) == rendered(tmp_path)
    assert {image.BitsStored for image in placed(film).values()} == {12}


@pytest.mark.usefixtures("dcmtk")
async def test_dcmtk_prints_a_session_on_our_printer(tmp_path):
    async with our_printer() as (films, port):
        await dcmtk_prints(tmp_path, port, scu=("--session-print",))
    assert [list(film.images) for film in films] == [[1]]


@pytest.mark.usefixtures("dcmtk")
async def test_dcmtk_prints_with_presentation_lut_and_annotation_on_our_printer(tmp_path):
    async with our_printer(annotation_formats={"LABEL": 6}) as (films, port):
        lut = ("--identity", "--illumination", 3000, "--reflection", 20)
        await dcmtk_prints(tmp_path, port, *lut, "-a", "left hand", "-pd", "-pn", "-pl")
    (film,) = films
    assert film.presentation_lut.PresentationLUTShape == "IDENTITY"
    assert (film.attributes.Illumination, film.attributes.ReflectedAmbientLight) == (3000, 20)
    assert film.annotations == {2: "left hand"}


# DCMTK's printer


@contextlib.asynccontextmanager
async def dcmtk_printer(folder):
    """DCMTK's printer, and its port."""
    configuration = configured(folder, "THEIRS", "PORT", "LOCALPRINTER")
    with_port = (
        f"sed -i s/PORT/$1/ {shlex.quote(str(configuration))}; exec dcmprscp -c {shlex.quote(str(configuration))}"
    )
    async with asyncio.timeout(2 * DEADLINE), running("sh", "-c", with_port, "dcmprscp", "PORT") as port:
        yield port


@contextlib.asynccontextmanager
async def associated(port, *, color=False, events=None):
    contexts = print_contexts(color=color)
    async with asyncdicom.connect(
        "127.0.0.1", port, called_ae_title="THEIRS", contexts=contexts, services=[events] if events else []
    ) as association:
        yield association


def hardcopies(folder):
    """What DCMTK's printer has kept: its stored print objects, and the hardcopy images by SOP Instance UID."""
    found = [pydicom.dcmread(path) for path in (folder / "database").glob("*.dcm")]
    images = {each.SOPInstanceUID: each for each in found if "PixelData" in each}
    return [each for each in found if "PixelData" not in each], images


@pytest.mark.usefixtures("dcmtk")
async def test_we_print_a_film_on_dcmtks_printer(tmp_path):
    async with dcmtk_printer(tmp_path) as port, associated(port) as association:
        assert (await printer_state(association)).status == "NORMAL"
        async with PrintSession(association, copies=2, medium="BLUE FILM", label="CT") as session:
            film = await session.film(r"STANDARD\1,2", film_size_id="14INX17IN", orientation="PORTRAIT")
            await film.place(1, CT, Polarity="REVERSE")
            await film.place(2, np.full((4, 4), 200, "uint8"))
            assert await film.print() == []
            assert film.status == 0
    (stored,), images = hardcopies(tmp_path)
    box = stored.FilmBoxContentSequence[0]
    assert (box.ImageDisplayFormat, box.FilmSizeID, box.FilmOrientation) == (r"STANDARD\1,2", "14INX17IN", "PORTRAIT")
    assert stored.PrintManagementCapabilitiesSequence
    first, second = (
        images[each.ReferencedImageSequence[0].ReferencedSOPInstanceUID] for each in stored.ImageBoxContentSequence
    )
    assert first.PixelData == image_item(CT).PixelData
    assert second.PixelData == bytes([200] * 16)


@pytest.mark.usefixtures("dcmtk")
async def test_we_print_a_session_with_a_presentation_lut_on_dcmtks_printer(tmp_path):
    async with dcmtk_printer(tmp_path) as port, associated(port) as association:
        async with PrintSession(association) as session:
            film = await session.film(presentation_lut=await session.presentation_lut("LIN OD"))
            await film.place(1, MR)
            await session.print()
            assert session.status == 0
    (stored,), images = hardcopies(tmp_path)
    assert stored.PresentationLUTContentSequence[0].PresentationLUTShape == "LIN OD"
    assert [each.PixelData for each in images.values()] == [image_item(MR).PixelData]


@pytest.mark.usefixtures("dcmtk")
async def test_what_dcmtks_printer_refuses_is_an_exception(tmp_path):
    async with dcmtk_printer(tmp_path) as port, associated(port) as association:
        async with PrintSession(association) as session:
            with pytest.raises(PrintError) as caught:
                await session.film(r"STANDARD\9,9")
            assert caught.value.status == 0x0106


@pytest.mark.usefixtures("dcmtk")
async def test_our_tool_prints_on_dcmtks_printer(tmp_path):
    async with dcmtk_printer(tmp_path) as port:
        state = await run(*COMMAND, "--status", "-aec", "THEIRS", "127.0.0.1", port)
        words = ("--layout", 2, 2, "--medium-type", "PAPER", "--filmsize", "8INX10IN", "--no-trim")
        printed = await run(*COMMAND, *words, "-aec", "THEIRS", "127.0.0.1", port, CT, MR, CT, MR, CT)
    assert state == (0, "printer THEIRS: NORMAL (NORMAL)\n")
    assert printed[0] == 0, printed[1]
    stored, images = hardcopies(tmp_path)
    assert sorted(len(each.ImageBoxContentSequence) for each in stored) == [1, 4]
    assert len(images) == 5


# pynetdicom


def settle(association):
    """Let pynetdicom's thread go on after a request: else it may take the next answer for a request of the peer."""
    while association._is_paused:
        time.sleep(0.001)


def their_printing(port, color):
    """pynetdicom prints a film: N-GET, N-CREATE, N-SET, N-ACTION, N-DELETE; returns statuses and events."""
    done = threading.Event()
    events = []

    def take(event):
        events.append((event.event_type, event.event_information.ExecutionStatusInfo))
        if event.event_type > 2:
            done.set()
        return 0x0000, None

    meta = COLOR_PRINT_MANAGEMENT if color else GRAYSCALE_PRINT_MANAGEMENT
    image_class = f"{GRAYSCALE_IMAGE_BOX}.1" if color else GRAYSCALE_IMAGE_BOX
    ae = AE("THEIRS")
    for uid in (meta, PRINT_JOB):
        ae.add_requested_context(uid)
    association = ae.associate("127.0.0.1", port, ae_title="OURS", evt_handlers=[(evt.EVT_N_EVENT_REPORT, take)])
    statuses = []

    def answered(answer):
        settle(association)
        statuses.append(answer[0].Status)
        return answer[1]

    def data_set(**values):
        made = pydicom.Dataset()
        for keyword, value in values.items():
            setattr(made, keyword, value)
        return made

    state = answered(association.send_n_get([0x21100010], PRINTER, PRINTER_INSTANCE, meta_uid=meta))
    assert state.PrinterStatus == "NORMAL"
    session, film = generate_uid(), generate_uid()
    answered(association.send_n_create(data_set(NumberOfCopies=2), FILM_SESSION, session, meta_uid=meta))
    box = data_set(ImageDisplayFormat=r"STANDARD\1,1", FilmOrientation="PORTRAIT")
    box.ReferencedFilmSessionSequence = [reference_item((FILM_SESSION, session))]
    made = answered(association.send_n_create(box, FILM_BOX, film, meta_uid=meta))
    (item,) = made.ReferencedImageBoxSequence
    assert item.ReferencedSOPClassUID == image_class
    image = data_set(ImageBoxPosition=1)
    pixels = image_item(np.full((2, 2), 7, "uint8"), color=color)
    setattr(image, "BasicColorImageSequence" if color else "BasicGrayscaleImageSequence", [pixels])
    answered(association.send_n_set(image, image_class, item.ReferencedSOPInstanceUID, meta_uid=meta))
    printed = answered(association.send_n_action(None, 1, FILM_BOX, film, meta_uid=meta))
    assert printed.ReferencedPrintJobSequence[0].ReferencedSOPClassUID == PRINT_JOB
    assert done.wait(DEADLINE)
    statuses.append(association.send_n_delete(FILM_SESSION, session, meta_uid=meta).Status)
    association.release()
    return statuses, events


@pytest.mark.parametrize("color", [False, True])
async def test_pynetdicom_prints_on_our_printer(color):
    async with our_printer() as (films, port):
        statuses, events = await asyncio.to_thread(their_printing, port, color)
    assert statuses == [0] * 6
    assert events == [(1, "NORMAL"), (2, "NORMAL"), (3, "NORMAL")]
    (film,) = films
    assert (film.copies, film.color, film.calling_ae_title) == (2, color, "THEIRS")


class TheirPrinter:
    """A printer made of pynetdicom's handlers, with film boxes of two images; it keeps what it gets.

    It answers with these statuses: to a film box, to one image after the other, and to one N-ACTION after the other.
    Jobs are reported to have failed.
    """

    def __init__(self, *, color=False, film=0x0000, images=(0xB604, 0x0000), actions=(0x0000,)):
        self.meta = COLOR_PRINT_MANAGEMENT if color else GRAYSCALE_PRINT_MANAGEMENT
        self.image_box = COLOR_IMAGE_BOX if color else GRAYSCALE_IMAGE_BOX
        self.statuses = {FILM_BOX: film, self.image_box: iter(images), "print": iter(actions)}
        self.created = {}
        self.uids = {}
        self.boxes = [generate_uid(), generate_uid()]
        self.requests = []
        self.images = []
        self.annotations = []
        self.deleted = []
        self.actions = []
        self.threads = []

    def create(self, event):
        attributes, sop_class_uid = event.attribute_list, event.request.AffectedSOPClassUID
        uid = event.request.AffectedSOPInstanceUID or generate_uid()
        self.created[sop_class_uid], self.uids[sop_class_uid] = attributes, uid
        self.note(event, sop_class_uid, uid)
        answer = pydicom.Dataset()
        answer.update(attributes)
        answer.AffectedSOPInstanceUID = uid
        if sop_class_uid == FILM_BOX:
            answer.ReferencedImageBoxSequence = [reference_item((self.image_box, each)) for each in self.boxes]
            answer.ReferencedBasicAnnotationBoxSequence = [reference_item((ANNOTATION_BOX, generate_uid()))]
            return self.statuses[FILM_BOX], answer
        return 0x0000, answer

    def note(self, event, sop_class_uid, uid):
        """What a request was about, and on which presentation context it came."""
        self.requests.append((event.event.name, event.context.abstract_syntax, sop_class_uid, uid))

    def set(self, event):
        sop_class_uid = event.request.RequestedSOPClassUID
        self.note(event, sop_class_uid, event.request.RequestedSOPInstanceUID)
        if sop_class_uid == ANNOTATION_BOX:
            self.annotations.append(event.modification_list)
            return 0x0000, None
        self.images.append(event.modification_list)
        return next(self.statuses[self.image_box]), None

    def act(self, event):
        self.actions.append(event.action_type)
        self.note(event, event.request.RequestedSOPClassUID, event.request.RequestedSOPInstanceUID)
        status = next(self.statuses["print"])
        if status & 0xF000 == 0xC000:
            return status, None
        answer, uid = pydicom.Dataset(), generate_uid()
        answer.ReferencedPrintJobSequence = [reference_item((PRINT_JOB, uid))]
        thread = threading.Thread(target=self.report, args=(event.assoc, uid))
        self.threads.append(thread)
        thread.start()  # it waits until this is answered
        return status, answer

    def report(self, association, uid):
        for event_type, info in ((2, "NORMAL"), (4, "FILM JAM")):
            data_set = pydicom.Dataset()
            data_set.ExecutionStatusInfo = info
            status, _ = association.send_n_event_report(data_set, event_type, PRINT_JOB, uid)
            assert status.Status == 0x0000
            settle(association)

    def get(self, event):
        self.note(event, event.request.RequestedSOPClassUID, event.request.RequestedSOPInstanceUID)
        state = pydicom.Dataset()
        state.PrinterStatus, state.PrinterStatusInfo, state.PrinterName = "WARNING", "SUPPLY LOW", "THEIRS"
        return 0x0000, state

    def delete(self, event):
        self.deleted.append(event.request.RequestedSOPClassUID)
        self.note(event, event.request.RequestedSOPClassUID, event.request.RequestedSOPInstanceUID)
        return 0x0000

    @contextlib.contextmanager
    def running(self):
        ae = AE("THEIRS")
        for uid in (self.meta, PRINT_JOB, ANNOTATION_BOX, PRESENTATION_LUT):
            ae.add_supported_context(uid)
        handlers = [
            (evt.EVT_N_CREATE, self.create),
            (evt.EVT_N_SET, self.set),
            (evt.EVT_N_ACTION, self.act),
            (evt.EVT_N_GET, self.get),
            (evt.EVT_N_DELETE, self.delete),
        ]
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        try:
            yield server.server_address[1]
        finally:
            for thread in self.threads:
                thread.join(DEADLINE)
            server.shutdown()


async def test_we_print_on_pynetdicoms_printer():
    printer, events = TheirPrinter(), PrintEvents()
    with printer.running() as port:
        async with asyncio.timeout(DEADLINE), associated(port, events=events) as association:
            assert (await printer_state(association))[:3] == ("WARNING", "SUPPLY LOW", "THEIRS")
            async with PrintSession(association, events=events, copies=3) as session:
                lut = await session.presentation_lut()
                film = await session.film(r"STANDARD\1,2", presentation_lut=lut, annotation_format="LABEL")
                assert await film.place(1, CT) == 0xB604
                assert await film.place(2, MR) == 0
                await film.annotate(1, "left hand")
                (job,) = await film.print()
                assert (await job.wait())[2:4] == ("FAILURE", "FILM JAM")
    assert printer.created[FILM_SESSION].NumberOfCopies == 3
    assert printer.created[PRESENTATION_LUT].PresentationLUTShape == "IDENTITY"
    assert [each.BasicGrayscaleImageSequence[0].Rows for each in printer.images] == [128, 64]
    assert printer.annotations[0].TextString == "left hand"
    assert (printer.actions, printer.deleted) == ([1], [FILM_SESSION, PRESENTATION_LUT])


ARRAY = np.arange(4 * 6 * 3, dtype="uint8").reshape(4, 6, 3)


def by_plane(interleaved):
    """Pixels of three samples as a printer gets them: all red, all green, all blue, and padding."""
    planes = b"".join(interleaved[sample::3] for sample in range(3))
    return planes + b"\0" * (len(planes) % 2)


async def test_we_print_in_color_on_pynetdicoms_printer():
    printer, events = TheirPrinter(color=True, images=(0, 0)), PrintEvents()
    asked = {"copies": 2, "priority": "HIGH", "medium": "PAPER", "label": "RGB"}
    with printer.running() as port:
        async with asyncio.timeout(DEADLINE), associated(port, color=True, events=events) as association:
            assert (await printer_state(association)).name == "THEIRS"
            async with PrintSession(association, color=True, events=events, **asked) as session:
                film = await session.film(
                    r"STANDARD\1,2", orientation="PORTRAIT", film_size_id="A4", magnification="CUBIC"
                )
                assert [await film.place(1, RGB), await film.place(2, ARRAY)] == [0, 0]
                (job,) = await film.print()
                assert (film.status, (await job.wait()).status) == (0, "FAILURE")
    session, box = printer.created[FILM_SESSION], printer.created[FILM_BOX]
    assert (session.NumberOfCopies, session.PrintPriority, session.MediumType) == (2, "HIGH", "PAPER")
    assert session.FilmSessionLabel == "RGB"
    assert (box.ImageDisplayFormat, box.FilmOrientation, box.FilmSizeID) == (r"STANDARD\1,2", "PORTRAIT", "A4")
    assert box.MagnificationType == "CUBIC"
    (reference,) = box.ReferencedFilmSessionSequence
    assert reference.ReferencedSOPClassUID == FILM_SESSION
    assert reference.ReferencedSOPInstanceUID == printer.uids[FILM_SESSION]
    about = [(FILM_SESSION, printer.uids[FILM_SESSION]), (FILM_BOX, printer.uids[FILM_BOX])]
    about += [(COLOR_IMAGE_BOX, uid) for uid in printer.boxes]
    requests = [("EVT_N_GET", PRINTER, PRINTER_INSTANCE)]
    requests += [(name, *each) for name, each in zip(("EVT_N_CREATE",) * 2 + ("EVT_N_SET",) * 2, about, strict=True)]
    requests += [("EVT_N_ACTION", *about[1]), ("EVT_N_DELETE", *about[0])]
    assert printer.requests == [(name, COLOR_PRINT_MANAGEMENT, *rest) for name, *rest in requests]


async def test_colors_come_to_pynetdicoms_printer_byte_by_byte():
    printer = TheirPrinter(color=True)
    with printer.running() as port:
        async with asyncio.timeout(DEADLINE), associated(port, color=True) as association:
            async with PrintSession(association, color=True) as session:
                film = await session.film(r"STANDARD\1,2")
                await film.place(1, RGB)
                await film.place(2, ARRAY)
    assert [each.ImageBoxPosition for each in printer.images] == [1, 2]
    assert not any("BasicGrayscaleImageSequence" in each for each in printer.images)
    images = [each.BasicColorImageSequence[0] for each in printer.images]
    source = pydicom.dcmread(RGB)
    assert (source.PhotometricInterpretation, source.PlanarConfiguration) == ("RGB", 0)
    assert [each.PixelData for each in images] == [by_plane(source.PixelData[:27]), by_plane(ARRAY.tobytes())]
    assert [(each.Rows, each.Columns) for each in images] == [(3, 3), (4, 6)]
    for image in images:  # PS3.3 Table C.13-5
        assert (image.PhotometricInterpretation, image.SamplesPerPixel, image.PlanarConfiguration) == ("RGB", 3, 1)
        assert (image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation) == (8, 8, 7, 0)


async def test_warnings_of_pynetdicoms_printer_are_passed_on():
    printer, events = TheirPrinter(color=True, film=0xB605, images=(0xB604, 0xB60A), actions=(0xB603,)), PrintEvents()
    with printer.running() as port:
        async with asyncio.timeout(DEADLINE), associated(port, color=True, events=events) as association:
            async with PrintSession(association, color=True, events=events) as session:
                film = await session.film(r"STANDARD\1,2", MaxDensity=999)
                assert film.status == 0xB605
                assert [await film.place(1, RGB), await film.place(2, ARRAY)] == [0xB604, 0xB60A]
                (job,) = await film.print()
                assert (film.status, (await job.wait()).status) == (0xB603, "FAILURE")
    assert printer.created[FILM_BOX].MaxDensity == 999


async def test_a_film_that_pynetdicoms_printer_does_not_print_is_an_exception_and_can_be_printed_later():
    printer, events = TheirPrinter(color=True, actions=(0xC602, 0x0000)), PrintEvents()
    with printer.running() as port:
        async with asyncio.timeout(DEADLINE), associated(port, color=True, events=events) as association:
            async with PrintSession(association, color=True, events=events) as session:
                film = await session.film(r"STANDARD\1,2")
                await film.place(1, RGB)
                with pytest.raises(PrintError, match="N-ACTION of the film box") as caught:
                    await film.print()
                assert (caught.value.status, film.status) == (0xC602, 0)
                (job,) = await film.print()
                assert (await job.wait()).info == "FILM JAM"
    assert (printer.actions, printer.deleted) == ([1, 1], [FILM_SESSION])


async def printed_in_vain(association):
    async with PrintSession(association, color=True) as session:
        await session.film()
        await session.print()


async def test_a_session_that_pynetdicoms_printer_does_not_print_is_deleted():
    printer = TheirPrinter(color=True, actions=(0xC601,))
    with printer.running() as port:
        async with asyncio.timeout(DEADLINE), associated(port, color=True) as association:
            with pytest.raises(PrintError) as caught:
                await printed_in_vain(association)
            assert caught.value.status == 0xC601
            assert association.is_established
    assert printer.deleted == [FILM_SESSION]


async def test_a_printer_that_accepts_nothing_is_no_accepted_context():
    with TheirPrinter().running() as port:
        async with asyncio.timeout(DEADLINE), associated(port, color=True) as association:
            with pytest.raises(asyncdicom.NoAcceptedContext):
                async with PrintSession(association, color=True):
                    pass
