import asyncio
import json
import signal
import sys

import pydicom
import pytest
from cli_processes import DEADLINE, run, run_beside, start
from small_archive import SmallArchive, ct_slices

import asyncdicom
from asyncdicom.cli.findscu import TOOL, FindOptions
from asyncdicom.cli.options import UsageError, parse
from asyncdicom.cli.query import identifiers, sop_class

STUDY = ("-S", "-L", "STUDY")


@pytest.fixture
async def archive(tmp_path):
    """An archive of two patients with a study of two slices each."""
    one = ct_slices(tmp_path / "one", 2)
    two = ct_slices(tmp_path / "two", 2, study="1.2.826.0.1.3680043.10.999.2", patient="P2")
    archive = SmallArchive([*one.values(), *two.values()])
    contexts = ["patient root", "study root"]
    async with asyncdicom.serve("127.0.0.1", 0, contexts=contexts, **archive.handlers()) as server:
        archive.peer = ("127.0.0.1", server.port)
        yield archive


async def test_matches_are_lines_and_the_count_is_not_among_them(archive):
    done = await run_beside("findscu", *STUDY, "-k", "PatientID=P1", "-k", "StudyDate", *archive.peer)
    assert (done.returncode, done.stdout) == (0, "StudyDate=20240102\nQueryRetrieveLevel=STUDY\nPatientID=P1\n\n")
    assert done.stderr == "1 match\n"


async def test_json_lines_are_one_object_per_match(archive):
    done = await run_beside("findscu", *STUDY, "-r", "StudyInstanceUID", "--json", *archive.peer)
    found = [pydicom.Dataset.from_json(json.loads(line)) for line in done.stdout.splitlines()]
    assert [each.StudyInstanceUID[-1] for each in found] == ["1", "2"], done


async def test_no_match_is_no_failure(archive):
    done = await run_beside("findscu", *STUDY, "-k", "PatientID=P3", *archive.peer)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "0 matches\n")


async def test_quiet_says_nothing(archive):
    done = await run_beside("findscu", "-q", *STUDY, "-k", "PatientID", *archive.peer)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_matches_go_to_files_that_are_queries_again(archive, tmp_path):
    line = ("findscu", *STUDY, "-k", "StudyInstanceUID", "-X", "-od", tmp_path, "-sr", *archive.peer)
    assert (await run_beside(*line)).stdout == ""
    assert sorted(path.name for path in tmp_path.glob("rsp*")) == ["rsp0001.dcm", "rsp0002.dcm"]
    done = await run_beside("findscu", "-S", "-k", "PatientID", *archive.peer, tmp_path / "rsp0002.dcm")
    assert "PatientID=P2" in done.stdout


async def test_no_more_files_are_written_than_asked_for(archive, tmp_path):
    await run_beside("findscu", *STUDY, "-k", "PatientID", "-X", "-Xlo", "1", "-od", tmp_path, *archive.peer)
    assert [path.name for path in tmp_path.glob("rsp*")] == ["rsp0001.dcm"]


async def test_several_query_files_are_several_queries_with_the_same_keys(archive, tmp_path):
    for number in (1, 2):
        query = {"00100020": {"vr": "LO", "Value": [f"P{number}"]}}
        (tmp_path / f"{number}.json").write_text(json.dumps(query))
    files = (tmp_path / "1.json", tmp_path / "2.json")
    done = await run_beside("findscu", "-S", "--repeat", "2", "-L", "STUDY", *archive.peer, *files)
    assert done.stdout.replace("QueryRetrieveLevel=STUDY\n", "").split() == ["PatientID=P1", "PatientID=P2"] * 2


async def test_cancel_ends_it_after_so_many_matches(archive):
    archive.hold = 1
    done = await run_beside("findscu", *STUDY, "-k", "PatientID", "--cancel", "1", *archive.peer)
    assert (done.returncode, done.stdout.count("PatientID"), done.stderr) == (0, 1, "1 match, and then cancelled\n")
    assert archive.was_cancelled.is_set()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_cancels_it_after_what_was_found(archive, number):
    archive.hold = 1
    process = start("findscu", *STUDY, "-k", "PatientID", *archive.peer)
    async with asyncio.timeout(DEADLINE):
        with process.stdout as out, process.stderr as errors:
            assert await asyncio.to_thread(out.readline) == "QueryRetrieveLevel=STUDY\n"
            process.send_signal(number)
            await archive.was_cancelled.wait()
            assert await asyncio.to_thread(out.read) == "PatientID=P1\n\n"
            assert await asyncio.to_thread(errors.read) == ""
        assert await asyncio.to_thread(process.wait) == 130


async def test_a_failure_status_is_an_exit_code_with_the_peers_words(archive):
    done = await run_beside("findscu", "-S", "-k", "PatientID", *archive.peer)
    assert done.returncode == 62
    assert "no level" in done.stderr
    assert "no Query/Retrieve Level" in done.stderr


async def test_a_model_that_is_not_accepted_is_an_exit_code(archive):
    done = await run_beside("findscu", "-W", "-k", "PatientID", *archive.peer)
    assert done.returncode == 65, done


async def test_optional_keys_that_are_not_supported_are_said():
    async def find(request):
        yield asyncdicom.Status(0xFF01), request.identifier

    async with asyncdicom.serve("127.0.0.1", 0, contexts=["modality worklist"], c_find=find) as server:
        done = await run_beside("findscu", "-k", "PatientID=1", "127.0.0.1", server.port)
    assert done.returncode == 0
    assert "does not match on all of the keys" in done.stderr


async def find_bytes(request):
    yield bytes.fromhex("20001300 49530400") + b"abc " + bytes.fromhex("20001000 53480200") + b"1 "
    yield bytes.fromhex("18007390 46440400") + b"1234"
    yield request.identifier


async def test_a_match_with_a_wrong_value_is_shown_and_one_of_wrong_length_is_left_out():
    async with asyncdicom.serve("127.0.0.1", 0, contexts=["modality worklist"], c_find=find_bytes) as server:
        done = await run_beside("findscu", "-k", "PatientID=1", "127.0.0.1", server.port)
    assert done.stdout == "StudyID=1\nInstanceNumber=abc\n\nPatientID=1\n\n"
    warning, count = done.stderr.splitlines()
    assert "match 2 cannot be decoded" in warning
    assert count == "3 matches"


async def test_deflated_identifiers_find_the_same(archive):
    done = await run_beside("findscu", "-xd", *STUDY, "-k", "PatientID=P1", *archive.peer)
    assert "PatientID=P1" in done.stdout, done


@pytest.mark.parametrize("line", ["-S host 104", "-k Nonsense=1 host 104", "-k PatientID host", "-Xx -k PatientID h 1"])
def test_a_wrong_command_line_ends_it(line):
    done = run("findscu", *line.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert "asyncdicom findscu: " in done.stderr


def test_a_folder_that_is_not_there_ends_it_before_anything_is_sent(tmp_path):
    done = run("findscu", "-k", "PatientID", "-X", "-od", tmp_path / "missing", "127.0.0.1", "1")
    assert done.returncode == 45


@pytest.mark.parametrize(
    ("flag", "name"),
    [("-W", "Modality Worklist"), ("-P", "Patient Root"), ("-S", "Study Root"), ("-O", "Patient/Study Only")],
)
def test_a_model_has_its_sop_class(flag, name):
    options = FindOptions(**parse(TOOL, [flag]).fields)
    assert asyncdicom.uids.SOP_CLASSES[sop_class(options, "find")].startswith(name)


def test_without_keys_and_files_there_is_nothing_to_ask():
    with pytest.raises(UsageError, match="what to look for"):
        identifiers(FindOptions(), [])
