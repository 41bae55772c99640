import asyncio
import pickle

import numpy as np
import pytest
from printing import DEADLINE, after, pixels, printing
from pydicom import Dataset
from standard_tables import SERVICES

import asyncdicom
from asyncdicom import AssociationReleased, LocalProtocolError, Status
from asyncdicom.services import print_management
from asyncdicom.services.print_management import (
    PRINT_JOB,
    PRINTER,
    PRINTER_INSTANCE,
    PrintError,
    PrintEvents,
    PrintSession,
    count_image_boxes,
    print_contexts,
    printer_state,
)

# Facts of the standard


NAMES = "FILM_SESSION FILM_BOX GRAYSCALE_IMAGE_BOX COLOR_IMAGE_BOX ANNOTATION_BOX PRESENTATION_LUT PRINT_JOB PRINTER"


@pytest.mark.parametrize("name", NAMES.split())
def test_sop_classes_are_those_of_the_standard(name):
    table = {each["keyword"]: each["uid"] for each in SERVICES["services"]["print"]["sop_classes"]}
    words = name.title().replace("_", "").replace("Lut", "LUT")
    assert getattr(print_management, name) in {table.get(words), table.get(f"Basic{words}")}


def test_meta_sop_classes_and_the_printer_are_those_of_the_standard():
    table = SERVICES["services"]["print"]
    metas = [each["uid"] for each in table["sop_classes"] if each["type"] == "Meta SOP Class"]
    assert metas == [print_contexts()[0], print_contexts(color=True)[0]]
    assert table["well_known_instances"][0]["uid"] == PRINTER_INSTANCE


@pytest.mark.parametrize(
    ("display_format", "count"),
    [(r"STANDARD\1,1", 1), (r"STANDARD\2,3", 6), (r"ROW\1,2,3", 6), (r"COL\2,2", 4), (r"ROW\4", 4)],
)
def test_a_display_format_has_so_many_image_boxes(display_format, count):
    assert count_image_boxes(display_format) == count


@pytest.mark.parametrize(
    "display_format",
    ["", "STANDARD", r"STANDARD\2", r"STANDARD\0,1", r"STANDARD\1,2,3", r"ROW\-1", r"COL\1,x", "SLIDE", r"CUSTOM\1"],
)
def test_other_display_formats_are_refused(display_format):
    with pytest.raises(ValueError, match="STANDARD"):
        count_image_boxes(display_format)


# Films


async def test_a_film_reaches_the_printer_as_it_was_laid_out():
    async with printing() as peers:
        async with peers.session(copies=2, priority="HIGH", medium="BLUE FILM", FilmSessionLabel="CT") as session:
            film = await session.film(r"STANDARD\2,2", film_size_id="14INX17IN", orientation="PORTRAIT", MaxDensity=300)
            assert await film.place(1, pixels(), Polarity="REVERSE") == Status.SUCCESS
            await film.place(4, pixels(seed=100))
            (job,) = await film.print()
            assert (await job.wait()).status == "DONE"
    (printed,) = peers.films
    assert (printed.display_format, printed.copies, printed.session.MediumType) == (r"STANDARD\2,2", 2, "BLUE FILM")
    assert (printed.attributes.FilmSizeID, printed.attributes.MaxDensity, printed.session.FilmSessionLabel) == (
        "14INX17IN",
        300,
        "CT",
    )
    assert list(printed.images) == [1, 4]
    assert printed.images[1].Polarity == "REVERSE"
    assert printed.images[4].BasicGrayscaleImageSequence[0].PixelData == bytes(range(100, 106))


async def test_a_film_in_color_is_printed_plane_by_plane():
    async with printing(color=True) as peers, peers.session() as session:
        film = await session.film()
        await film.place(1, np.array([[[1, 2, 3], [4, 5, 6]]], "uint8"))
        await film.print()
        await peers.printer.drain()
    (printed,) = peers.films
    assert printed.color
    assert printed.images[1].BasicColorImageSequence[0].PixelData == bytes((1, 4, 2, 5, 3, 6))


async def test_all_films_of_a_session_are_one_job_in_their_order():
    async with printing() as peers, peers.session() as session:
        for seed in range(3):
            await (await session.film()).place(1, pixels(seed=seed))
        (job,) = await session.print()
        assert (await job.wait()).status == "DONE"
    assert [film.images[1].BasicGrayscaleImageSequence[0].PixelData[0] for film in peers.films] == [0, 1, 2]


async def test_an_image_can_be_taken_back():
    async with printing() as peers, peers.session() as session:
        film = await session.film()
        await film.place(1, pixels())
        assert await film.clear(1) == Status.SUCCESS
        await film.print()
        assert film.status == 0xB603
        await peers.printer.drain()
    assert peers.films[0].images == {}


async def test_the_printers_answer_has_the_attributes_of_session_and_film():
    async with printing() as peers, peers.session(copies=3) as session:
        film = await session.film(orientation="LANDSCAPE")
        assert (session.attributes.NumberOfCopies, session.attributes.PrintPriority) == (3, "MED")
        assert film.attributes.FilmOrientation == "LANDSCAPE"


async def test_a_presentation_lut_goes_with_the_film():
    async with printing() as peers, peers.session() as session:
        lut = await session.presentation_lut("LIN OD")
        film = await session.film(presentation_lut=lut, Illumination=3000)
        assert (film.attributes.Illumination, film.attributes.ReflectedAmbientLight) == (3000, 10)
        await film.print()
        await peers.printer.drain()
    assert peers.films[0].presentation_lut.PresentationLUTShape == "LIN OD"


async def test_a_presentation_lut_may_be_a_table():
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 12], b"\0\1" * 256
    table["LUTDescriptor"].VR = "US"
    table["LUTData"].VR = "OW"
    async with printing() as peers, peers.session() as session:
        await (await session.film(presentation_lut=await session.presentation_lut(table))).print()
        await peers.printer.drain()
    assert len(peers.films[0].presentation_lut.PresentationLUTSequence[0].LUTData) == 512


async def test_annotations_go_into_their_boxes():
    async with printing(annotation_formats={"LABEL": 2}) as peers, peers.session() as session:
        film = await session.film(annotation_format="LABEL")
        assert len(film.annotation_boxes) == 2
        await film.annotate(2, "left hand")
        await film.print()
        await peers.printer.drain()
    assert peers.films[0].annotations == {2: "left hand"}


async def test_there_is_no_position_beyond_the_last():
    async with printing() as peers, peers.session() as session:
        film = await session.film(r"STANDARD\1,2")
        for position in (0, 3):
            with pytest.raises(LocalProtocolError, match="2 image boxes"):
                await film.place(position, pixels())
        with pytest.raises(LocalProtocolError, match="0 annotation boxes"):
            await film.annotate(1, "text")


async def test_a_failure_status_is_an_exception_that_has_it():
    async with printing() as peers, peers.session() as session:
        with pytest.raises(PrintError, match="N-CREATE of the film box") as caught:
            await session.film("SLIDE")
        assert caught.value.status == 0x0106
        assert pickle.loads(pickle.dumps(caught.value)).status == 0x0106


async def test_an_unknown_keyword_is_refused_before_anything_is_sent():
    async with printing() as peers:
        with pytest.raises(ValueError, match="FilmColour"):
            async with peers.session(FilmColour="BLUE"):
                pass


async def test_a_session_deletes_itself_so_that_the_next_can_begin():
    async with printing() as peers:
        for _ in range(2):
            async with peers.session() as session:
                await session.presentation_lut()
        with pytest.raises(RuntimeError):
            async with peers.session():
                raise RuntimeError
        async with peers.session():
            pass


async def test_a_session_does_not_ask_an_association_that_is_over():
    async with printing() as peers:
        async with peers.session():
            await peers.association.release()


async def test_a_film_can_be_deleted():
    async with printing() as peers, peers.session() as session:
        film = await session.film()
        await film.delete()
        with pytest.raises(PrintError) as caught:
            await film.print()
        assert caught.value.status == 0x0112


# Jobs and events


async def test_a_job_reports_what_becomes_of_it():
    async with printing() as peers, peers.session() as session:
        (job,) = await (await session.film()).print()
        end = await job.wait()
    assert [event.status for event in peers.reported] == ["PENDING", "PRINTING", "DONE"]
    assert {event.sop_instance_uid for event in peers.reported} == {job.sop_instance_uid}
    assert (end, end.is_final, end.data_set.PrinterName) == (job.last, True, "ASYNCDICOM")


async def test_a_job_can_be_asked_how_it_is():
    printed = asyncio.Event()
    async with printing(after(printed)) as peers, peers.session() as session:
        (job,) = await (await session.film()).print()
        attributes = await job.get()
        assert (attributes.Originator, attributes.PrintPriority) == ("ASYNCDICOM", "MED")
        assert attributes.ExecutionStatus in ("PENDING", "PRINTING")
        printed.set()
        await job.wait()


async def test_no_job_is_made_for_who_did_not_ask_for_the_print_job_class():
    async with printing(contexts=print_contexts()[:1]) as peers, peers.session() as session:
        film = await session.film()
        await film.place(1, pixels())
        assert await film.print() == []
        await peers.printer.drain()
    assert (len(peers.films), peers.reported) == (1, [])


async def test_a_job_is_not_waited_for_without_events():
    async with printing() as peers, PrintSession(peers.association) as session:
        (job,) = await (await session.film()).print()
        assert job.last is None
        with pytest.raises(LocalProtocolError, match="PrintEvents"):
            await job.wait()


async def test_waiting_for_a_job_ends_with_the_association():
    printed = asyncio.Event()
    async with printing(after(printed)) as peers:
        async with peers.session() as session:
            (job,) = await (await session.film()).print()
            waiting = asyncio.create_task(job.wait())
            await peers.association.abort()
            with pytest.raises(AssociationReleased):
                await waiting
        printed.set()


async def test_a_printer_says_how_it_is():
    async with printing(name="LASER") as peers:
        assert (await printer_state(peers.association))[:3] == ("NORMAL", "NORMAL", "LASER")


async def test_a_printer_reports_how_it_is():
    async with printing() as peers:
        await printer_state(peers.association)
        await peers.printer.report("WARNING", "SUPPLY LOW")
        await peers.printer.report("NORMAL")
        assert (await printer_state(peers.association))[:2] == ("NORMAL", "NORMAL")
    assert [event[:4] for event in peers.reported] == [
        (PRINTER, PRINTER_INSTANCE, "WARNING", "SUPPLY LOW"),
        (PRINTER, PRINTER_INSTANCE, "NORMAL", ""),
    ]


@pytest.mark.parametrize(("sop_class_uid", "event_type", "status"), [(PRINTER, 4, 0x0113), (PRINT_JOB, 5, 0x0113)])
async def test_events_that_are_not_defined_are_refused(sop_class_uid, event_type, status):
    answers = []

    async def report(request):
        answers.append(await request.association.n_event_report(sop_class_uid, "1.2.3", event_type))
        return Status.SUCCESS

    contexts = (PRINTER, PRINT_JOB)
    async with asyncio.timeout(DEADLINE), asyncdicom.serve("127.0.0.1", 0, contexts=contexts, n_get=report) as server:
        services = [PrintEvents()]
        async with asyncdicom.connect("127.0.0.1", server.port, contexts=contexts, services=services) as association:
            await association.n_get(PRINTER, PRINTER_INSTANCE)
    assert [answer.status for answer in answers] == [status]
