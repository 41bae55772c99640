import json

import pytest
from cli_processes import data_set, run, run_beside
from ports import free_port
from small_archive import SmallArchive, ct_slices

import asyncdicom

STUDY = ("-S", "-L", "STUDY", "-k", "PatientID=*")


@pytest.fixture
def port():
    """A port that nobody listens on."""
    return free_port()


@pytest.fixture
async def archive(tmp_path, port):
    """An archive that knows where MOVESCU is."""
    archive = SmallArchive(ct_slices(tmp_path / "slices", 3).values())
    destinations = {"MOVESCU": ("127.0.0.1", port)}
    async with asyncdicom.serve(
        "127.0.0.1", 0, contexts=["study root"], move_destinations=destinations, **archive.handlers()
    ) as server:
        archive.peer = ("127.0.0.1", server.port)
        yield archive


async def test_instances_arrive_here_byte_for_byte(archive, port, tmp_path):
    done = await run_beside("movescu", *STUDY, "+P", port, "-od", tmp_path, *archive.peer)
    assert done.returncode == 0, done
    assert done.stdout.startswith("3 completed; 3 received, ")
    expected = {f"{each.SOPInstanceUID}.dcm": data_set(path) for path, each in archive.files.items()}
    assert {path.name: data_set(path) for path in tmp_path.glob("*.dcm")} == expected


async def test_instances_arrive_at_another(archive, port, tmp_path):
    arrived = []

    async def store(request):
        arrived.append((request.sop_instance_uid, request.move_originator_ae_title))
        await request.data_set.drop()
        return 0

    async with asyncdicom.serve("127.0.0.1", port, c_store=store):
        done = await run_beside("movescu", *STUDY, "-aet", "ME", "-aem", "MOVESCU", "--json", *archive.peer)
    summary = json.loads(done.stdout)
    assert (summary["completed"], summary["received"], summary["status"]) == (3, 0, "0000"), done
    assert arrived == [(each.SOPInstanceUID, "ME") for each in archive.files.values()]


async def test_failed_instances_are_named(archive, port, tmp_path):
    async def refuse(request):
        await request.data_set.drop()
        return 0xA700 if request.sop_instance_uid.endswith(".2") else 0

    async with asyncdicom.serve("127.0.0.1", port, c_store=refuse):
        done = await run_beside("movescu", *STUDY, *archive.peer)
    assert done.returncode == 68
    assert done.stdout.startswith("2 completed, 1 failed in ")
    assert "failed 1.2.826.0.1.3680043.10.999.1.1.2\n" in done.stderr


async def test_a_destination_that_the_peer_does_not_know_is_explained(archive):
    done = await run_beside("movescu", *STUDY, "-aem", "NOBODY", *archive.peer)
    assert done.returncode == 69
    assert "has to know the AE title of the destination" in done.stderr


async def test_cancel_ends_it_and_says_what_was_left(archive, port, tmp_path):
    archive.hold = 1
    line = ("movescu", *STUDY, "--cancel", "1", "--json", "+P", port, "-od", tmp_path, *archive.peer)
    done = await run_beside(*line)
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["cancelled"], summary["remaining"]) == (0, True, 2), done
    assert archive.was_cancelled.is_set()


async def test_a_port_in_use_ends_it(archive, tmp_path):
    done = await run_beside("movescu", *STUDY, "+P", archive.peer[1], "-i4", "-od", tmp_path, *archive.peer)
    assert done.returncode == 64, done


def test_a_folder_without_a_port_is_an_error_of_usage(tmp_path):
    done = run("movescu", *STUDY, "-od", tmp_path, "127.0.0.1", "1")
    assert done.returncode == 1
    assert "--port" in done.stderr


async def test_that_there_is_no_connection_is_in_the_summary(port):
    done = await run_beside("movescu", *STUDY, "--json", "127.0.0.1", port)
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["exit_code"], "no connection" in summary["error"]) == (60, 60, True)
