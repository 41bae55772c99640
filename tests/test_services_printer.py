import asyncio
import re
from pathlib import Path

import pytest
from printing import DEADLINE, after, pixels, printing
from pydicom import Dataset
from standard_tables import DIMSE

import asyncdicom
from asyncdicom import Status
from asyncdicom.services import printer
from asyncdicom.services.print_images import image_item
from asyncdicom.services.print_management import (
    ANNOTATION_BOX,
    COLOR_IMAGE_BOX,
    COLOR_PRINT_MANAGEMENT,
    FILM_BOX,
    FILM_SESSION,
    GRAYSCALE_IMAGE_BOX,
    PRESENTATION_LUT,
    PRINT_JOB,
    PRINTER,
    PRINTER_INSTANCE,
)
from asyncdicom.services.printer import PrinterLimits
from asyncdicom.services.references import reference_item


def attributes(**values):
    data_set = Dataset()
    for keyword, value in values.items():
        setattr(data_set, keyword, value)
    return data_set


def film_box(session, display_format=r"STANDARD\1,1", **values):
    sessions = [reference_item((FILM_SESSION, session.sop_instance_uid))]
    return attributes(ImageDisplayFormat=display_format, ReferencedFilmSessionSequence=sessions, **values)


def image_box(position=1, **values):
    item = image_item(pixels())
    item.update(attributes(**values))
    return attributes(ImageBoxPosition=position, BasicGrayscaleImageSequence=[item])


async def code(awaitable):
    return int((await awaitable).status)


# Sessions and films


async def test_an_association_has_one_session():
    async with printing() as peers, peers.session():
        assert await code(peers.association.n_create(FILM_SESSION, attributes(NumberOfCopies=1))) == 0x0213


async def test_a_session_may_be_changed():
    async with printing() as peers, peers.session() as session:
        change = attributes(NumberOfCopies=5)
        assert await code(peers.association.n_set(FILM_SESSION, session.sop_instance_uid, change)) == 0
        await (await session.film()).print()
        await peers.printer.drain()
    assert peers.films[0].copies == 5


async def test_a_request_to_allocate_memory_is_warned_of():
    async with printing() as peers, peers.session(MemoryAllocation=100) as session:
        assert session.status == 0xB600
        assert "MemoryAllocation" not in session.attributes


async def test_an_instance_may_have_the_peers_uid_but_only_once():
    async with printing() as peers, peers.session() as session:
        made = await peers.association.n_create(FILM_BOX, film_box(session), "1.2.3")
        assert (made.status, made.sop_instance_uid) == (Status.SUCCESS, "1.2.3")
        for sop_class_uid in (FILM_BOX, PRESENTATION_LUT):
            assert await code(peers.association.n_create(sop_class_uid, film_box(session), "1.2.3")) == 0x0111


@pytest.mark.parametrize("display_format", ["SLIDE", r"CUSTOM\1", r"STANDARD\21,20", r"STANDARD\0,0"])
async def test_layouts_that_are_not_supported_are_refused(display_format):
    async with printing() as peers, peers.session() as session:
        made = await peers.association.n_create(FILM_BOX, film_box(session, display_format))
    assert (made.status, made.status.offending_element) == (0x0106, (0x20100010,))


async def test_a_film_needs_its_layout_and_its_session():
    async with printing() as peers, peers.session() as session:
        whole = film_box(session)
        for keyword, missing, empty in (
            ("ImageDisplayFormat", 0x0120, 0x0121),
            ("ReferencedFilmSessionSequence", 0x0120, 0x0121),
        ):
            lacking = film_box(session)
            lacking[keyword].value = None
            assert await code(peers.association.n_create(FILM_BOX, lacking)) == empty
            del lacking[keyword]
            assert await code(peers.association.n_create(FILM_BOX, lacking)) == missing
        whole.ReferencedFilmSessionSequence[0].ReferencedSOPInstanceUID = "1.2.3"
        assert await code(peers.association.n_create(FILM_BOX, whole)) == 0x0106


async def test_a_film_may_be_changed_but_not_its_layout():
    async with printing() as peers, peers.session() as session:
        film = await session.film()
        change = peers.association.n_set
        uid = film.sop_instance_uid
        assert await code(change(FILM_BOX, uid, attributes(Trim="YES", ImageDisplayFormat=r"STANDARD\1,1"))) == 0
        assert await code(change(FILM_BOX, uid, attributes(ImageDisplayFormat=r"STANDARD\1,2"))) == 0x0106
        await film.print()
        await peers.printer.drain()
    assert peers.films[0].attributes.Trim == "YES"


async def test_what_is_accepted_for_printing_does_not_change_any_more():
    may_print = asyncio.Event()
    films = []

    async def keep(film):
        await may_print.wait()
        films.append(film)

    async with printing(keep) as peers, peers.session() as session:
        film = await session.film(orientation="PORTRAIT")
        await film.place(1, pixels())
        await film.print()
        await film.place(1, pixels(seed=9))
        await peers.association.n_set(FILM_BOX, film.sop_instance_uid, attributes(FilmOrientation="LANDSCAPE"))
        await film.delete()
        may_print.set()
    assert films[0].attributes.FilmOrientation == "PORTRAIT"
    assert films[0].images[1].BasicGrayscaleImageSequence[0].PixelData[0] == 0


async def test_a_film_with_an_unknown_presentation_lut_is_refused():
    async with printing() as peers, peers.session() as session:
        box = film_box(session, ReferencedPresentationLUTSequence=[reference_item((PRESENTATION_LUT, "1.2.3"))])
        assert await code(peers.association.n_create(FILM_BOX, box)) == 0x0106


async def test_a_presentation_lut_needs_a_shape_or_a_table():
    async with printing() as peers, peers.session():
        assert await code(peers.association.n_create(PRESENTATION_LUT, attributes(Illumination=1))) == 0x0120


async def test_an_annotation_format_that_is_not_known_is_refused():
    async with printing(annotation_formats={"LABEL": 1}) as peers, peers.session() as session:
        box = film_box(session, AnnotationDisplayFormatID="COMBINED")
        assert await code(peers.association.n_create(FILM_BOX, box)) == 0x0106


async def test_an_annotation_has_its_position():
    async with printing(annotation_formats={"LABEL": 1}) as peers, peers.session() as session:
        (uid,) = (await session.film(annotation_format="LABEL")).annotation_boxes
        change = peers.association.n_set
        assert await code(change(ANNOTATION_BOX, uid, attributes(AnnotationPosition=2, TextString="x"))) == 0x0106
        assert await code(change(ANNOTATION_BOX, uid, attributes(TextString="x"))) == 0x0120


# Images


@pytest.mark.parametrize(
    ("values", "tag"),
    [
        ({"SamplesPerPixel": 3}, 0x00280002),
        ({"PhotometricInterpretation": "RGB"}, 0x00280004),
        ({"BitsAllocated": 32}, 0x00280100),
        ({"BitsStored": 7}, 0x00280101),
        ({"HighBit": 6}, 0x00280101),
        ({"PixelRepresentation": 1}, 0x00280103),
        ({"Rows": 3}, 0x7FE00010),
        ({"Columns": 0}, 0x7FE00010),
    ],
)
async def test_an_image_that_no_printer_takes_is_refused(values, tag):
    async with printing() as peers, peers.session() as session:
        (uid,) = (await session.film()).image_boxes
        response = await peers.association.n_set(GRAYSCALE_IMAGE_BOX, uid, image_box(**values))
    assert (response.status, response.status.offending_element) == (0x0106, (tag,))


async def test_a_box_may_be_moved_to_a_position_where_nothing_is():
    async with printing() as peers, peers.session() as session:
        film = await session.film(r"STANDARD\1,3")
        change = peers.association.n_set
        assert await code(change(GRAYSCALE_IMAGE_BOX, film.image_boxes[0], image_box(3))) == 0
        assert await code(change(GRAYSCALE_IMAGE_BOX, film.image_boxes[1], image_box(3))) == 0x0106
        assert await code(change(GRAYSCALE_IMAGE_BOX, film.image_boxes[2], image_box(1))) == 0
        await film.print()
        await peers.printer.drain()
    assert list(peers.films[0].images) == [1, 3]


async def test_an_image_needs_its_position_and_its_pixels():
    async with printing() as peers, peers.session() as session:
        (uid,) = (await session.film()).image_boxes
        change = peers.association.n_set
        assert await code(change(GRAYSCALE_IMAGE_BOX, uid, image_box(2))) == 0x0106
        assert await code(change(GRAYSCALE_IMAGE_BOX, uid, attributes(ImageBoxPosition=1))) == 0x0120
        box = image_box()
        del box.ImageBoxPosition
        assert await code(change(GRAYSCALE_IMAGE_BOX, uid, box)) == 0x0120


async def test_images_beyond_the_memory_are_refused():
    async with printing(limits=PrinterLimits(memory=3000)) as peers, peers.session() as session:
        film = await session.film(r"STANDARD\1,2")
        await film.place(1, pixels(50, 50))
        response = await peers.association.n_set(GRAYSCALE_IMAGE_BOX, film.image_boxes[1], _large())
        assert response.status == 0xC605
        await film.place(1, pixels(50, 50))  # in place of the other
        await film.clear(1)
        await film.place(2, pixels(50, 50))


def _large():
    return attributes(ImageBoxPosition=2, BasicGrayscaleImageSequence=[image_item(pixels(50, 50))])


# What is not there


async def test_what_does_not_exist_is_not_found():
    async with printing(annotation_formats={"LABEL": 1}) as peers, peers.session():
        association = peers.association
        for sop_class_uid in (FILM_SESSION, FILM_BOX, GRAYSCALE_IMAGE_BOX, ANNOTATION_BOX):
            assert await code(association.n_set(sop_class_uid, "1.2.3", image_box())) == 0x0112
        for sop_class_uid in (FILM_SESSION, FILM_BOX):
            assert await code(association.n_action(sop_class_uid, "1.2.3", 1)) == 0x0112
        for sop_class_uid in (FILM_SESSION, FILM_BOX, PRESENTATION_LUT):
            assert await code(association.n_delete(sop_class_uid, "1.2.3")) == 0x0112
        for sop_class_uid in (PRINTER, PRINT_JOB):
            assert await code(association.n_get(sop_class_uid, "1.2.3")) == 0x0112


async def test_what_a_sop_class_does_not_have_is_not_done():
    async with printing() as peers, peers.session():
        association = peers.association
        assert await code(association.n_create(PRINTER, attributes(PrinterName="x"))) == 0x0211
        assert await code(association.n_set(PRINTER, PRINTER_INSTANCE, attributes(PrinterName="x"))) == 0x0211
        assert await code(association.n_get(FILM_SESSION, "1.2.3")) == 0x0211
        assert await code(association.n_action(PRINTER, PRINTER_INSTANCE, 1)) == 0x0211
        assert await code(association.n_delete(PRINTER, PRINTER_INSTANCE)) == 0x0211


async def test_a_session_goes_with_all_that_is_in_it():
    async with printing() as peers, peers.session() as session:
        film = await session.film()
        assert await code(peers.association.n_delete(FILM_SESSION, session.sop_instance_uid)) == 0
        assert await code(peers.association.n_set(GRAYSCALE_IMAGE_BOX, film.image_boxes[0], image_box())) == 0x0112


async def test_an_image_box_in_color_is_none_in_grayscale():
    async with printing(color=True) as peers, peers.session() as session:
        (uid,) = (await session.film()).image_boxes
        sequence = [image_item(pixels(), color=True)]
        box = attributes(ImageBoxPosition=1, BasicColorImageSequence=sequence)
        assert await code(peers.association.n_set(COLOR_IMAGE_BOX, uid, box)) == 0
        change = peers.association.n_set(GRAYSCALE_IMAGE_BOX, uid, image_box(), context=COLOR_PRINT_MANAGEMENT)
        assert await code(change) == 0x0118


async def test_only_attributes_that_are_asked_for_are_given():
    async with printing() as peers:
        asked = (0x21100010, 0x00100010)
        response = await peers.association.n_get(PRINTER, PRINTER_INSTANCE, asked)
    assert response.status == 0x0107
    assert [element.keyword for element in response.data_set] == ["PrinterStatus"]


# Printing


async def test_only_printing_is_an_action():
    async with printing() as peers, peers.session() as session:
        film = await session.film()
        assert await code(peers.association.n_action(FILM_BOX, film.sop_instance_uid, 2)) == 0x0123


async def test_a_session_without_films_cannot_be_printed():
    async with printing() as peers, peers.session() as session:
        assert await code(peers.association.n_action(FILM_SESSION, session.sop_instance_uid, 1)) == 0xC600


async def test_an_empty_session_is_printed_with_a_warning():
    async with printing() as peers, peers.session() as session:
        await session.film()
        await session.print()
        assert session.status == 0xB602


async def test_printing_is_answered_before_the_first_event():
    async with printing() as peers, peers.session() as session:
        film = await session.film()
        for _ in range(3):
            (job,) = await film.print()
            assert job.last is None
            await job.wait()


async def test_a_full_queue_takes_no_more():
    may_print = asyncio.Event()
    async with printing(after(may_print), limits=PrinterLimits(jobs=1)) as peers:
        async with peers.session() as session:
            film = await session.film()
            (job,) = await film.print()
            assert await code(peers.association.n_action(FILM_BOX, film.sop_instance_uid, 1)) == 0xC602
            assert await code(peers.association.n_action(FILM_SESSION, session.sop_instance_uid, 1)) == 0xC601
            may_print.set()
            await job.wait()


async def test_one_job_is_printed_at_a_time_in_their_order():
    at_once, most, printed = 0, 0, []

    async def keep(film):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        printed.append(film.attributes.ConfigurationInformation)

    async with printing(keep) as peers, peers.session() as session:
        for name in "ABC":
            await (await session.film(ConfigurationInformation=name)).print()
    assert (most, printed) == (1, ["A", "B", "C"])


@pytest.mark.parametrize(
    ("status", "end"),
    [
        (Status(0x0110, "FILM JAM"), ("FAILURE", "FILM JAM")),
        (Status(0x0110, "there is no film"), ("FAILURE", "UNKNOWN")),
        (0xC605, ("FAILURE", "UNKNOWN")),
        (0xB604, ("DONE", "NORMAL")),
        (None, ("DONE", "NORMAL")),
    ],
)
async def test_a_job_ends_as_the_handler_says(status, end):
    async def print_film(film):
        return status

    async with printing(print_film) as peers, peers.session() as session:
        (job,) = await (await session.film()).print()
        assert (await job.wait())[2:4] == end


async def test_a_handler_that_raises_fails_its_job_and_no_other(caplog):
    async def print_film(film):
        if film.attributes.Trim == "YES":
            raise RuntimeError("the printer is on fire")

    async with printing(print_film) as peers, peers.session() as session:
        (bad,) = await (await session.film(Trim="YES")).print()
        (good,) = await (await session.film(Trim="NO")).print()
        assert ((await bad.wait()).status, (await good.wait()).status) == ("FAILURE", "DONE")
    assert "printing a film failed" in caplog.text


async def test_what_was_accepted_is_printed_although_the_association_is_over():
    may_print, films = asyncio.Event(), []

    async def keep(film):
        await may_print.wait()
        films.append(film)

    async with printing(keep) as peers:
        async with peers.session() as session:
            await (await session.film()).print()
            await peers.association.abort()
        may_print.set()
    assert len(films) == 1


async def test_an_association_that_is_over_is_forgotten():
    async with printing() as peers:
        async with peers.session() as session:
            await (await session.film()).place(1, pixels())
            assert peers.printer._memory() > 0
            await peers.association.abort()
        while peers.printer._kept:
            await asyncio.sleep(0)
        assert peers.printer._memory() == 0


async def test_associations_have_sessions_of_their_own():
    async with printing() as peers, peers.session() as session:
        contexts = ("1.2.840.10008.5.1.1.9",)
        async with asyncio.timeout(DEADLINE), asyncdicom.connect("127.0.0.1", peers.port, contexts=contexts) as other:
            assert await code(other.n_delete(FILM_SESSION, session.sop_instance_uid)) == 0x0112
            assert await code(other.n_create(FILM_SESSION, attributes(NumberOfCopies=1))) == 0


async def test_a_status_of_a_printer_has_one_of_three_words():
    async with printing() as peers:
        with pytest.raises(ValueError, match="BROKEN"):
            await peers.printer.report("BROKEN")


@pytest.mark.parametrize("limits", [{"films": 1}, {"presentation_luts": 1}])
async def test_there_is_no_end_of_films_only_up_to_a_limit(limits):
    async with printing(limits=PrinterLimits(**limits)) as peers, peers.session() as session:
        await session.film()
        await session.presentation_lut()
        boxes = {"films": (FILM_BOX, film_box(session))}
        luts = {"presentation_luts": (PRESENTATION_LUT, attributes(PresentationLUTShape="IDENTITY"))}
        (sop_class_uid, data_set), *_ = [(boxes | luts)[name] for name in limits]
        assert await code(peers.association.n_create(sop_class_uid, data_set)) == 0x0213


def test_every_status_of_the_service_is_in_the_standards_tables():
    tables = [table for name, table in DIMSE["status_by_service_class"].items() if name.startswith("Print: Basic")]
    known = {row["from"] for table in tables for rows in table.values() for row in rows}
    given = {f"{code}H" for code in re.findall(r"0x([BC]6\w\w)", Path(printer.__file__).read_text("utf-8"))}
    assert len(given) == 7
    assert given <= known
