import asyncio
import contextlib
import json
import signal
import sys

import pytest
from cli_processes import DEADLINE, data_set, run, run_beside, start, write_instance
from small_archive import SmallArchive, both_ways, ct_slices

import asyncdicom
from asyncdicom.cli.getscu import TOOL, GetOptions, proposed_contexts
from asyncdicom.cli.options import UsageError, parse
from asyncdicom.uids import STORAGE_SOP_CLASSES

STUDY = ("-S", "-L", "STUDY", "-k", "PatientID=*")
CT = "1.2.840.10008.5.1.4.1.1.2"
JPEG = "1.2.840.10008.1.2.4.50"


@pytest.fixture
async def archive(tmp_path):
    async with serving(SmallArchive(ct_slices(tmp_path / "slices", 3).values())) as archive:
        yield archive


@contextlib.asynccontextmanager
async def serving(archive):
    contexts = ["study root", *both_ways()]
    async with asyncdicom.serve("127.0.0.1", 0, contexts=contexts, **archive.handlers()) as server:
        archive.peer = ("127.0.0.1", server.port)
        yield archive


async def test_instances_arrive_byte_for_byte(archive, tmp_path):
    done = await run_beside("getscu", *STUDY, "-od", tmp_path, *archive.peer)
    assert done.returncode == 0, done
    assert done.stdout.startswith("3 completed; 3 received, ")
    expected = {f"{each.SOPInstanceUID}.dcm": data_set(path) for path, each in archive.files.items()}
    assert {path.name: data_set(path) for path in tmp_path.glob("*.dcm")} == expected


async def test_files_have_the_names_of_the_pattern(archive, tmp_path):
    done = await run_beside(
        "getscu", *STUDY, "-od", tmp_path, "--pattern", "{PatientID}/{Modality}/{SOPInstanceUID}", *archive.peer
    )
    assert done.returncode == 0, done
    assert len(list((tmp_path / "P1" / "CT").iterdir())) == 3


async def test_ignored_instances_are_counted_and_not_written(archive, tmp_path):
    done = await run_beside("getscu", *STUDY, "--ignore", "-od", tmp_path, *archive.peer)
    assert "3 received" in done.stdout, done
    assert not list(tmp_path.glob("*.dcm"))


async def test_the_summary_may_be_json(archive, tmp_path):
    done = await run_beside("getscu", *STUDY, "--json", "-od", tmp_path, *archive.peer)
    summary = json.loads(done.stdout)
    size = sum(len(data_set(path)) for path in archive.files)
    assert (summary["completed"], summary["received"], summary["bytes"]) == (3, 3, size)
    assert (summary["status"], summary["error"], summary["exit_code"]) == ("0000", None, 0)


async def test_compressed_instances_come_as_they_are_when_their_class_is_named(tmp_path):
    path = write_instance(tmp_path / "jpeg", "1.2.3.1", syntax=JPEG)
    (tmp_path / "out").mkdir()
    async with serving(SmallArchive([path])) as archive:
        line = ("getscu", *STUDY, "--sop-class", "CTImageStorage", "+xa", "-od", tmp_path / "out", *archive.peer)
        done = await run_beside(*line)
    assert done.returncode == 0, done
    assert data_set(tmp_path / "out" / "1.2.3.1.dcm") == data_set(path)


async def test_what_cannot_be_sent_is_named(tmp_path):
    path = write_instance(tmp_path / "jpeg", "1.2.3.1", syntax=JPEG)
    good = write_instance(tmp_path / "plain", "1.2.3.2")
    async with serving(SmallArchive([path, good])) as archive:
        done = await run_beside("getscu", *STUDY, "-od", tmp_path, *archive.peer)
    assert done.returncode == 68, done
    assert "failed 1.2.3.1\n" in done.stderr
    assert done.stdout.startswith("1 completed, 1 failed; 1 received")


async def test_cancel_ends_it_and_leaves_the_rest(archive, tmp_path):
    archive.hold = 2
    done = await run_beside("getscu", *STUDY, "--cancel", "1", "--json", "-od", tmp_path, *archive.peer)
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["cancelled"], summary["status"]) == (0, True, "FE00")
    assert archive.was_cancelled.is_set()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
async def test_a_signal_ends_it_and_what_came_is_said(archive, tmp_path):
    archive.hold = 2
    process = start("getscu", *STUDY, "--json", "-od", tmp_path, *archive.peer)
    async with asyncio.timeout(DEADLINE):
        while len(list(tmp_path.glob("*.dcm"))) < 2:
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        await archive.was_cancelled.wait()
        out, _ = await asyncio.to_thread(process.communicate)
    summary = json.loads(out)
    assert (process.returncode, summary["exit_code"], summary["error"]) == (130, 130, "interrupted")
    assert summary["received"] == 2
    assert summary["completed"] >= 1


async def test_a_failure_status_is_an_exit_code_and_ends_it(tmp_path):
    async def refuse(request):
        yield asyncdicom.Status(0xA701, "too many")

    contexts = ["study root", asyncdicom.Context("CT Image Storage", scu=True)]
    async with asyncdicom.serve("127.0.0.1", 0, contexts=contexts, c_get=refuse) as server:
        done = await run_beside("getscu", *STUDY, "--repeat", "2", "-od", tmp_path, "127.0.0.1", server.port)
    assert done.returncode == 69
    assert done.stderr.count("too many") == 1


async def test_an_abort_in_between_is_an_exit_code_and_what_came_is_said(archive, tmp_path):
    async def abort(request):
        yield next(iter(archive.files))
        while not list(tmp_path.glob("*.dcm")):
            await asyncio.sleep(0.01)  # until it is there, within the deadline of the tool's run
        await request.association.abort()

    contexts = ["study root", *both_ways()]
    async with asyncdicom.serve("127.0.0.1", 0, contexts=contexts, c_get=abort) as server:
        done = await run_beside("getscu", *STUDY, "--json", "-od", tmp_path, "127.0.0.1", server.port)
    assert done.returncode == 70
    summary = json.loads(done.stdout)
    assert (summary["received"], summary["exit_code"]) == (1, 70)


def contexts(*words):
    return proposed_contexts(GetOptions(**parse(TOOL, words).fields))


def test_with_the_model_the_usual_classes_fill_an_association():
    proposed = contexts()
    assert len(proposed) == 127
    assert {each.abstract_syntax for each in proposed} < STORAGE_SOP_CLASSES
    assert {(each.scu, each.scp) for each in proposed} == {(False, True)}


def test_named_classes_are_proposed_with_a_context_per_transfer_syntax():
    assert [each[:2] for each in contexts("--sop-class", "CTImageStorage", "+xs")] == [
        (CT, ("1.2.840.10008.1.2.4.70",)),
        (CT, ("1.2.840.10008.1.2.1",)),
        (CT, ("1.2.840.10008.1.2",)),
        (CT, ("1.2.840.10008.1.2.2",)),
    ]


def test_named_classes_that_are_many_have_one_context_each():
    uids = sorted(STORAGE_SOP_CLASSES)[:100]
    proposed = contexts(*(word for uid in uids for word in ("--sop-class", uid)))
    assert [each[:2] for each in proposed] == [(uid, ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")) for uid in uids]


def test_too_many_classes_are_an_error_of_usage():
    with pytest.raises(UsageError, match="room for 127"):
        contexts("--sop-class", "storage")


def test_a_class_that_is_unknown_is_an_error_of_usage():
    with pytest.raises(UsageError, match="CT Image Storage"):
        contexts("--sop-class", "CTImageStorag")


def test_a_folder_that_is_not_there_ends_it_before_anything_is_sent(tmp_path):
    done = run("getscu", *STUDY, "-od", tmp_path / "missing", "127.0.0.1", "1")
    assert done.returncode == 45
