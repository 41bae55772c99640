import asyncio
import contextlib
import json
import subprocess

import numpy as np
import pytest
from cli_processes import COMMAND, ENVIRONMENT, write_instance
from printing import DEADLINE, image
from pydicom.uid import CTImageStorage

import asyncdicom
from asyncdicom import Status
from asyncdicom.services.printer import PrinterService


@contextlib.asynccontextmanager
async def printer(status=None, **options):
    """A printer that keeps its films; gives them and the words that name it."""
    films = []

    async def keep(film):
        films.append(film)
        return status

    async with asyncio.timeout(2 * DEADLINE), PrinterService(keep, **options) as service:
        async with asyncdicom.serve("127.0.0.1", 0, ae_title="PRINTER", services=[service]) as server:
            yield films, ("-aec", "PRINTER", "127.0.0.1", server.port)


async def printscu(*words):
    """The tool's whole run, while this loop goes on serving it."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        "printscu",
        *map(str, words),
        env=ENVIRONMENT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return subprocess.CompletedProcess(words, process.returncode, out.decode(), err.decode())


@pytest.fixture
def images(tmp_path):
    """A folder with five images; the value of their pixels is their number."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(5):
        instance = image(np.full((2, 2), number, "uint8"), SOPClassUID=CTImageStorage, SOPInstanceUID=f"1.2.{number}")
        instance.file_meta.MediaStorageSOPClassUID = CTImageStorage
        instance.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number}"
        instance.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return folder


def shown(film):
    """The images of a film, by position."""
    return {at: box.BasicGrayscaleImageSequence[0].PixelData[0] for at, box in film.images.items()}


async def test_images_fill_films_in_their_order(images):
    async with printer() as (films, peer):
        run = await printscu(*peer, images, "--layout", 1, 2)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.count("printed 1 film") == 3
    assert [(film.display_format, shown(film)) for film in films] == [
        (r"STANDARD\1,2", {1: 0, 2: 1}),
        (r"STANDARD\1,2", {1: 2, 2: 3}),
        (r"STANDARD\1,2", {1: 4}),
    ]


async def test_options_reach_session_film_and_image(images):
    words = "--copies 3 --medium-type PAPER --destination BIN_1 --label L --priority high --owner O --filmsize A4 "
    words += "--landscape --trim --max-density 300 --border BLACK --img-polarity reverse --request-crop --identity"
    async with printer(annotation_formats={"LABEL": 1}) as (films, peer):
        run = await printscu(*peer, images / "0.dcm", *words.split(), "-a", "text", "--annotation-format", "LABEL")
    assert (run.returncode, run.stderr) == (0, "")
    (film,) = films
    session = film.session
    assert (film.copies, session.PrintPriority, session.MediumType) == (3, "HIGH", "PAPER")
    assert (session.FilmDestination, session.FilmSessionLabel, session.OwnerID) == ("BIN_1", "L", "O")
    box = film.attributes
    assert (box.FilmSizeID, box.FilmOrientation, box.Trim) == ("A4", "LANDSCAPE", "YES")
    assert (box.MaxDensity, box.BorderDensity) == (300, "BLACK")
    assert (film.images[1].Polarity, film.images[1].RequestedDecimateCropBehavior) == ("REVERSE", "CROP")
    assert (film.presentation_lut.PresentationLUTShape, film.annotations) == ("IDENTITY", {1: "text"})


async def test_what_was_done_is_told_as_json(images):
    async with printer() as (_, peer):
        run = await printscu(*peer, images, "--display-format", r"ROW\1,2", "--json", "--wait", 20)
    told = json.loads(run.stdout)
    assert (run.returncode, told["exit_code"], told["error"]) == (0, 0, None)
    assert [(len(film["images"]), film["status"]) for film in told["films"]] == [(3, "0000"), (2, "0000")]
    assert [job["status"] for job in told["jobs"]] == ["DONE", "DONE"]


async def test_films_of_a_session_are_printed_together(images):
    async with printer() as (films, peer):
        run = await printscu(*peer, images, "--session-print", "--repeat", 2)
    assert (run.returncode, run.stdout.splitlines()) == (
        0,
        ["printed 5 films with 5 images: 0000H Success (success)"] * 2,
    )
    assert [shown(film)[1] for film in films] == [0, 1, 2, 3, 4] * 2


async def test_nothing_is_printed_when_that_is_asked_for(images):
    async with printer() as (films, peer):
        run = await printscu(*peer, images, "--noprint")
    assert (run.returncode, run.stdout, films) == (0, "", [])


async def test_color_is_printed_in_color(images):
    async with printer() as (films, peer):
        run = await printscu(*peer, "--color", images / "3.dcm")
    assert (run.returncode, films[0].images[1].BasicColorImageSequence[0].PixelData) == (0, bytes([3] * 12))


async def test_the_status_is_shown():
    async with printer(name="LASER") as (_, peer):
        run, machine = await printscu("--status", *peer), await printscu("--status", "--json", *peer)
    assert (run.returncode, run.stdout) == (0, "printer LASER: NORMAL (NORMAL)\n")
    assert json.loads(machine.stdout)["printer"] == {"status": "NORMAL", "info": "NORMAL", "name": "LASER"}


async def test_a_job_that_fails_is_a_failure_for_who_waits(images):
    async with printer(Status(0x0110, "FILM JAM")) as (_, peer):
        waited = await printscu(*peer, images / "0.dcm", "--wait", 0)
        left = await printscu(*peer, images / "0.dcm")
    assert (waited.returncode, left.returncode) == (62, 0)
    assert "FILM JAM" in waited.stderr


async def test_a_failure_status_is_told(images):
    async with printer() as (_, peer):
        run = await printscu(*peer, images / "0.dcm", "--layout", 99, 99, "--json")
    assert run.returncode == 62
    assert "0106H" in run.stderr
    assert "0106H" in json.loads(run.stdout)["error"]


async def test_a_file_that_is_no_image_is_named(tmp_path):
    path = write_instance(tmp_path / "report.dcm")
    async with printer() as (films, peer):
        run = await printscu(*peer, path)
    assert (run.returncode, films) == (22, [])
    assert "report.dcm" in run.stderr


async def test_a_printer_without_color_refuses_it(images):
    async with printer(color=False) as (_, peer):
        run = await printscu(*peer, "--color", images / "0.dcm")
    assert run.returncode == 65


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["127.0.0.1", "1"], 1),
        (["--status", "127.0.0.1", "1", "x"], 1),
        (["127.0.0.1", "1", "missing.dcm"], 20),
        (["--layout", "0", "1", "127.0.0.1", "1", "x"], 1),
        (["--layout", "1", "127.0.0.1", "1", "x"], 1),
        (["--display-format", "SLIDE", "127.0.0.1", "1", "x"], 1),
        (["--plut", "x", "127.0.0.1", "1", "x"], 1),
    ],
)
async def test_command_lines_that_cannot_be_are_refused(words, code):
    assert (await printscu(*words)).returncode == code


async def test_a_folder_without_images_prints_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "x.txt").write_text("no image")
    assert (await printscu("127.0.0.1", "1", tmp_path / "empty")).returncode == 21
    assert (await printscu("127.0.0.1", "1", tmp_path / "text")).returncode == 23
