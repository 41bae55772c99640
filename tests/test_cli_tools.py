import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from cli_processes import (
    COMMAND,
    DEADLINE,
    ENVIRONMENT,
    JPEG,
    MR,
    Receiver,
    data_set,
    run,
    run_here,
    start,
    wait_until,
    write_instance,
    write_instances,
)
from ports import free_port

import asyncdicom
from asyncdicom.cli.exit_codes import ExitCode
from asyncdicom.uids import STORAGE_SOP_CLASSES

LOOPS = ("asyncio",) if sys.platform == "win32" else ("asyncio", "uvloop")


@pytest.fixture
def receiver(tmp_path):
    with Receiver(tmp_path / "received") as running:
        yield running


@pytest.fixture
def closed_port():
    """A port that nobody listens on: it is bound."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


async def run_beside(*words):
    """A tool's whole run, while this loop goes on serving it."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *map(str, words), env=ENVIRONMENT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(DEADLINE):
        out, err = await process.communicate()
    return subprocess.CompletedProcess(words, process.returncode, out.decode(), err.decode())


# echoscu


@pytest.mark.parametrize("loop", LOOPS)
def test_echoscu_verifies(receiver, loop):
    echo = run("echoscu", "-aec", "X", *receiver.peer, "--loop", loop)
    assert (echo.returncode, echo.stderr) == (0, "")
    assert echo.stdout.startswith("X at 127.0.0.1 port ")


@pytest.mark.parametrize("form", ["dicom://ME@127.0.0.1:{}/YOU", "-c YOU@127.0.0.1:{}", "-aec YOU 127.0.0.1 {}"])
def test_every_form_of_a_peer_reaches_it(receiver, form):
    assert run("echoscu", *form.format(receiver.port).split()).stdout.startswith("YOU at 127.0.0.1")


def test_echoscu_repeats_and_aborts(receiver):
    echo = run("echoscu", *receiver.peer, "--repeat", 3, "--abort", "-i4", "-ba", "127.0.0.1")
    assert (echo.returncode, echo.stdout.count("\n")) == (0, 3)


def test_echoscu_shows_what_was_negotiated(receiver):
    echo = run("echoscu", *receiver.peer, "-v", "+v", "-pts", 3, "-ppc", 2)
    assert echo.stderr.count("Verification: Implicit VR Little Endian") == 2


def test_a_quiet_tool_says_nothing(receiver, closed_port):
    assert run("echoscu", "-q", *receiver.peer).stdout == ""
    failed = run("echoscu", "-q", "127.0.0.1", closed_port)
    assert (failed.returncode, failed.stdout, failed.stderr) == (60, "", "")


def test_a_peer_that_does_not_listen_is_exit_code_60(closed_port):
    echo = run("echoscu", "127.0.0.1", closed_port)
    assert echo.returncode == 60
    assert "is the peer running" in echo.stderr
    assert "Traceback" not in echo.stderr


def test_a_traceback_is_for_debugging(closed_port):
    assert "Traceback" in run("echoscu", "-d", "127.0.0.1", closed_port).stderr


@pytest.mark.parametrize("options", [(), ("-i4",)])
def test_a_host_that_is_not_known_is_exit_code_60(options):
    echo = run("echoscu", "host.invalid", 104, *options)
    assert echo.returncode == 60
    assert "check the host name" in echo.stderr


def test_a_peer_that_does_not_answer_is_exit_code_61():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        echo = run("echoscu", "127.0.0.1", silent.getsockname()[1], "-ta", "0.2")
    assert echo.returncode == 61
    assert "-ta sets how long to wait" in echo.stderr


def test_a_rejection_is_exit_code_61(tmp_path):
    with Receiver(tmp_path / "received", "--refuse") as receiver:
        echo = run("echoscu", *receiver.peer)
    assert echo.returncode == 61
    assert "no reason given" in echo.stderr
    assert "its log may say why" in echo.stderr


def test_a_wrong_ae_title_is_rejected_where_the_right_one_is_required(tmp_path):
    with Receiver(tmp_path / "received", "--require-called-aet", "-aet", "ME") as receiver:
        assert run("echoscu", *receiver.peer, "-aec", "ME").returncode == 0
        assert "check the called AE title" in run("echoscu", *receiver.peer, "-aec", "YOU").stderr


def test_verification_that_is_not_accepted_is_exit_code_65(tmp_path):
    with Receiver(tmp_path / "received", "--no-echo") as receiver:
        assert run("echoscu", *receiver.peer).returncode == 65


def test_a_peer_that_does_not_confirm_the_user_is_exit_code_61(receiver):
    assert run("echoscu", *receiver.peer, "-usr", "me", "-pwd", "secret").returncode == 0
    echo = run("echoscu", *receiver.peer, "-usr", "me", "-epw", "-rsp")
    assert echo.returncode == 61
    assert "did not confirm the user" in echo.stderr


def test_a_password_without_a_user_is_exit_code_1(receiver):
    assert run("echoscu", *receiver.peer, "-pwd", "secret").returncode == 1


# storescu and storescp


@pytest.mark.parametrize("loop", LOOPS)
def test_a_folder_goes_over_several_associations_byte_by_byte(tmp_path, loop):
    sent = write_instances(tmp_path / "sent", 20, size=30_000)
    with Receiver(tmp_path / "received", "--loop", loop) as receiver:
        store = run("storescu", "--associations", 4, *receiver.peer, sent, "--json", "--loop", loop)
    summary = json.loads(store.stdout)
    assert (store.returncode, summary["sent"], summary["associations"], summary["failed"]) == (0, 20, 4, [])
    assert summary["bytes"] == sum(len(data_set(path)) for path in sent.iterdir())
    for path in sent.iterdir():
        assert data_set(receiver.folder / f"1.2.3.{int(path.stem)}.dcm") == data_set(path)


def test_both_ends_sum_up(tmp_path):
    sent = write_instances(tmp_path / "sent", 3)
    with Receiver(tmp_path / "received") as receiver:
        store = run("storescu", *receiver.peer, sent)
        code = receiver.end()
    assert store.stdout.startswith("3 sent; 0.0 MB in ")
    assert code == 0
    listening, last = receiver.output.splitlines()
    assert listening == f"listening on 127.0.0.1 port {receiver.port}"
    assert last == f"3 instances, {sum(len(data_set(path)) for path in sent.iterdir())} bytes, 0 failures"


def test_storescp_logs_a_line_per_instance(receiver, tmp_path):
    path = write_instance(tmp_path / "a.dcm", "1.2.3")
    run("storescu", "-aet", "MODALITY", *receiver.peer, path)
    receiver.end()
    line = receiver.errors.splitlines()[0]
    assert "MODALITY@127.0.0.1: CT Image Storage 1.2.3," in line
    assert line.endswith(str(receiver.folder / "1.2.3.dcm"))


def test_folders_in_folders_are_taken_when_asked_for(receiver, tmp_path):
    write_instance(write_instances(tmp_path / "sent", 0) / "top.dcm", "1.2.4")
    write_instances(tmp_path / "sent" / "below", 2)
    flat = run("storescu", *receiver.peer, "+sd", tmp_path / "sent")
    assert flat.stdout.startswith("1 sent")
    assert "+r takes them too" in flat.stderr
    assert run("storescu", *receiver.peer, "+sd", "+r", tmp_path / "sent").stdout.startswith("3 sent")


def test_a_pattern_chooses_among_the_files_of_a_folder(receiver, tmp_path):
    sent = write_instances(tmp_path / "sent", 2)
    write_instance(sent / "other.img", "1.2.4")
    assert run("storescu", *receiver.peer, sent, "+sp", "*.dcm").stdout.startswith("2 sent;")


def test_what_is_no_instance_in_a_folder_is_skipped_with_its_reason(receiver, tmp_path):
    sent = write_instances(tmp_path / "sent", 1)
    (sent / "notes.txt").write_text("hello")
    store = run("storescu", *receiver.peer, sent)
    assert (store.returncode, store.stdout.split(";")[0]) == (0, "1 sent, 1 skipped")
    assert "notes.txt: no DICM prefix" in store.stderr


@pytest.mark.parametrize(
    ("line", "code", "sent"),
    [
        ("absent.dcm", 20, 0),
        ("-nh absent.dcm", 20, 1),
        ("notes.txt", 22, 0),
        ("-nh notes.txt", 22, 1),
        ("-nh pipe", 22, 1),
    ],
)
def test_a_file_that_was_named_and_cannot_be_sent_is_a_failure(receiver, tmp_path, line, code, sent):
    (tmp_path / "notes.txt").write_text("hello")
    if "pipe" in line:
        pytest.importorskip("posix").mkfifo(tmp_path / "pipe")
    write_instance(tmp_path / "good.dcm")
    store = run("storescu", *receiver.peer, "good.dcm", *line.split(), "--json", cwd=tmp_path)
    summary = json.loads(store.stdout)
    assert (store.returncode, summary["exit_code"], summary["sent"]) == (code, code, sent)


def test_a_folder_without_files_is_exit_code_21(receiver, tmp_path):
    (tmp_path / "sent").mkdir()
    assert run("storescu", *receiver.peer, tmp_path / "sent").returncode == 21


def test_a_folder_without_instances_is_exit_code_23(receiver, tmp_path):
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent" / "notes.txt").write_text("hello")
    assert run("storescu", *receiver.peer, tmp_path / "sent").returncode == 23


def test_storescu_without_a_peer_that_listens_is_exit_code_60_and_says_what_was_not_tried(closed_port, tmp_path):
    store = run("storescu", "127.0.0.1", closed_port, write_instances(tmp_path / "sent", 2), "--json")
    summary = json.loads(store.stdout)
    assert (store.returncode, summary["sent"], summary["not_sent"]) == (60, 0, 2)
    assert "Connection refused" in summary["error"]


def test_a_syntax_that_is_not_accepted_is_exit_code_65(tmp_path):
    path = write_instance(tmp_path / "a.dcm", syntax=JPEG)
    with Receiver(tmp_path / "received", "+x=") as receiver:
        store = run("storescu", *receiver.peer, path)
    assert store.returncode == 65
    assert "decompressing it was not allowed" in store.stderr


def test_an_uncompressed_file_is_converted_to_what_is_accepted(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    path = write_instance(tmp_path / "a.dcm")
    with Receiver(tmp_path / "received", "+xi") as receiver:
        assert run("storescu", *receiver.peer, path).returncode == 0
    received = pydicom.dcmread(receiver.folder / "1.2.3.dcm")
    assert received.file_meta.TransferSyntaxUID == pydicom.uid.ImplicitVRLittleEndian
    assert received.PatientID == "P1"


@pytest.mark.parametrize("fault", ["--abort-during", "--abort-after"])
def test_an_abort_is_exit_code_70(tmp_path, fault):
    with Receiver(tmp_path / "received", fault) as receiver:
        store = run("storescu", *receiver.peer, write_instances(tmp_path / "sent", 2), "--json")
        assert store.returncode == 70
        assert json.loads(store.stdout)["not_sent"] == 1


def test_without_halting_every_file_is_tried_though_each_is_aborted(tmp_path):
    with Receiver(tmp_path / "received", "--abort-after") as receiver:
        store = run("storescu", "-nh", *receiver.peer, write_instances(tmp_path / "sent", 3), "--json")
    summary = json.loads(store.stdout)
    assert (store.returncode, len(summary["failed"]), summary["associations"]) == (70, 3, 3)


def answer(*codes):
    """A C-STORE handler that answers with these statuses."""
    left = list(codes)

    async def store(request):
        await request.data_set.read()
        return asyncdicom.Status(left.pop(0) if left else 0, "so it is")

    return store


@pytest.mark.parametrize(("options", "sent", "failed", "not_sent"), [((), 1, 1, 1), (("-nh",), 2, 1, 0)])
async def test_a_failure_status_is_exit_code_62(tmp_path, options, sent, failed, not_sent):
    folder = write_instances(tmp_path / "sent", 3)
    async with asyncdicom.serve("127.0.0.1", 0, c_store=answer(0, 0xA700)) as server:
        store = await run_beside("storescu", *server.addresses[0], folder, "--json", *options)
    summary = json.loads(store.stdout)
    assert (store.returncode, summary["sent"], summary["not_sent"]) == (62, sent, not_sent)
    assert [each["status"] for each in summary["failed"]] == ["A700"] * failed
    assert "out of resources" in store.stderr


async def test_a_warning_is_a_success_that_is_told(tmp_path):
    path = write_instance(tmp_path / "a.dcm")
    async with asyncdicom.serve("127.0.0.1", 0, c_store=answer(0xB000)) as server:
        store = await run_beside("storescu", *server.addresses[0], path)
    assert store.returncode == 0
    assert store.stdout.startswith("1 sent, 1 with warning")
    assert "so it is" in store.stderr


async def test_what_a_peer_says_cannot_steer_the_terminal(tmp_path):
    async def store(request):
        return asyncdicom.Status(0xC000, "\x1b[2J\nfine")

    path = write_instance(tmp_path / "a.dcm")
    async with asyncdicom.serve("127.0.0.1", 0, c_store=store) as server:
        result = await run_beside("storescu", *server.addresses[0], path)
    assert result.stderr.endswith(": \\x1b[2J\\x0afine\n")
    assert len(result.stderr.splitlines()) == 1


async def test_a_file_is_sent_as_often_as_asked_for(tmp_path):
    path = write_instance(tmp_path / "a.dcm")
    async with asyncdicom.serve("127.0.0.1", 0, c_store=answer()) as server:
        store = await run_beside("storescu", "--repeat", 3, *server.addresses[0], path, "--json")
    assert json.loads(store.stdout)["sent"] == 3


async def test_an_association_that_is_lost_costs_one_file(tmp_path):
    store = answer()

    async def abort_once(request):
        if request.sop_instance_uid == "1.2.3.7":
            await request.association.abort()
        return await store(request)

    folder = write_instances(tmp_path / "sent", 20)
    async with asyncdicom.serve("127.0.0.1", 0, c_store=abort_once) as server:
        words = ("storescu", "-nh", "--associations", 2, *server.addresses[0], folder, "--json")
        summary = json.loads((await run_beside(*words)).stdout)
    assert (summary["exit_code"], summary["sent"], summary["not_sent"]) == (70, 19, 0)
    assert [each["path"] for each in summary["failed"]] == [str(folder / "007.dcm")]


async def test_associations_are_aborted_in_the_end_when_asked_for(tmp_path):
    associations = set()

    async def store(request):
        associations.add(request.association)
        return asyncdicom.Status.SUCCESS

    folder = write_instances(tmp_path / "sent", 10)
    async with asyncdicom.serve("127.0.0.1", 0, c_store=store) as server:
        sent = await run_beside("storescu", "--abort", "--associations", 2, *server.addresses[0], folder)
        ends = {type(await each.wait_closed()) for each in associations}
    assert (sent.returncode, sent.stderr, ends) == (0, "", {asyncdicom.AssociationAborted})


async def test_a_file_that_is_sent_several_times_is_renamed_once(tmp_path):
    folder = write_instances(tmp_path / "sent", 3)
    async with asyncdicom.serve("127.0.0.1", 0, c_store=answer(0, 0, 0, 0xA700)) as server:
        words = ("storescu", "-nh", "+rn", "--repeat", 2, *server.addresses[0], folder, "--json")
        summary = json.loads((await run_beside(*words)).stdout)
    assert summary["sent"] == 5
    assert sorted(path.name for path in folder.iterdir()) == ["000.dcm.done", "001.dcm.bad", "002.dcm.done"]


async def test_a_peer_with_fewer_places_gets_everything_over_those(tmp_path):
    folder = write_instances(tmp_path / "sent", 20)
    async with asyncdicom.serve("127.0.0.1", 0, c_store=answer(), max_associations=1) as server:
        store = await run_beside("storescu", "--associations", 3, *server.addresses[0], folder, "--json")
    assert (store.returncode, json.loads(store.stdout)["sent"]) == (0, 20)
    assert "fewer than 3 associations" in store.stderr


async def test_more_than_128_contexts_go_over_several_associations(tmp_path):
    (tmp_path / "sent").mkdir()
    for number, uid in enumerate(sorted(STORAGE_SOP_CLASSES)[:100]):
        write_instance(tmp_path / "sent" / f"{number:03}.dcm", f"1.2.{number}", sop_class=uid)
    async with asyncdicom.serve("127.0.0.1", 0, c_store=answer()) as server:
        store = await run_beside("storescu", *server.addresses[0], tmp_path / "sent", "--json", "-xs")
    summary = json.loads(store.stdout)
    assert (store.returncode, summary["sent"], summary["associations"]) == (0, 100, 3)


def test_files_that_were_tried_are_renamed_when_asked_for(tmp_path):
    sent = write_instances(tmp_path / "sent", 1)
    write_instance(sent / "jpeg", "1.2.9", sop_class=MR, syntax=JPEG)
    with Receiver(tmp_path / "received", "+x=") as receiver:
        run("storescu", "+rn", "-nh", *receiver.peer, sent)
    assert sorted(path.name for path in sent.iterdir()) == ["000.dcm.done", "jpeg.bad"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sender_says_what_it_has_done(number, tmp_path):
    with Receiver(tmp_path / "received", "--sleep-after", 1000, "--drain", 0) as receiver:
        store = start("storescu", *receiver.peer, "--json", write_instances(tmp_path / "sent", 2))
        wait_until(receiver.files)
        store.send_signal(number)
        out, errors = store.communicate(timeout=DEADLINE)
    summary = json.loads(out)
    assert (store.returncode, summary["exit_code"], summary["sent"]) == (130, 130, 0)
    assert (summary["error"], summary["not_sent"] + len(summary["failed"])) == ("interrupted", 2)
    assert "interrupted" in errors


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell that closes streams")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_closed_standard_streams_do_no_harm(closed, loop, receiver):
    command = f"{sys.executable} -m asyncdicom echoscu --loop {loop} {receiver.peer[0]} {receiver.peer[1]} {closed}"
    assert subprocess.run(command, shell=True, env=ENVIRONMENT, check=False).returncode == 0


def test_a_broken_pipe_ends_quietly(receiver, tmp_path):
    store = start("storescu", *receiver.peer, write_instances(tmp_path / "sent", 5), "--json")
    store.stdout.close()
    errors = store.stderr.read()
    store.stderr.close()
    assert (store.wait(DEADLINE), errors) == (141, "")


# Where storescp writes


def test_a_pattern_sorts_into_folders_by_the_data_sets_head(tmp_path):
    pattern = "{calling_ae_title}/{PatientID}/{StudyInstanceUID}/{SeriesInstanceUID}/{Modality}.{SOPInstanceUID}"
    path = write_instance(tmp_path / "a.dcm", "1.2.3", study="1.9", patient="P 7")
    with Receiver(tmp_path / "received", "--pattern", pattern) as receiver:
        assert run("storescu", "-aet", "CT1", *receiver.peer, path).returncode == 0
    (name,) = receiver.files()
    parts = name.split("/")
    assert (parts[0], parts[2:]) == ("CT1", ["1.9", "1.9.5", "CT.1.2.3"])
    assert parts[1].startswith("_P_7~")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("-fe", ".img"), ["1.2.3.img"]),
        (("-fe", ""), ["1.2.3"]),
        (("-su", "study"), ["study_1.2.3.4/1.2.3.dcm"]),
        (("-su", ""), ["1.2.3.4/1.2.3.dcm"]),
        (("--ignore",), []),
        (("--sync",), ["1.2.3.dcm"]),
    ],
)
def test_options_say_what_is_written(tmp_path, options, expected):
    with Receiver(tmp_path / "received", *options) as receiver:
        assert run("storescu", *receiver.peer, write_instance(tmp_path / "a.dcm")).returncode == 0
    assert receiver.files() == expected


@pytest.mark.parametrize("hostile", ["../../escaped", "/tmp/escaped", "..", "a/b", "1.2\\..\\3", "CON", ".bashrc"])
def test_a_hostile_uid_stays_in_the_folder(tmp_path, hostile):
    path = write_instance(tmp_path / "a.dcm", hostile, study=hostile, patient=hostile)
    pattern = "{PatientID}/{StudyInstanceUID}/{SOPInstanceUID}.dcm"
    with Receiver(tmp_path / "received", "--pattern", pattern) as receiver:
        assert run("storescu", *receiver.peer, path).returncode == 0
    (name,) = receiver.files()
    assert name.count("/") == 2
    assert {each.name for each in tmp_path.iterdir()} == {"a.dcm", "received", "received.port"}


def test_an_instance_that_comes_again_replaces_its_file(receiver, tmp_path):
    for size in (100, 200):
        run("storescu", *receiver.peer, write_instance(tmp_path / "a.dcm", size=size))
    assert receiver.files() == ["1.2.3.dcm"]
    assert data_set(receiver.folder / "1.2.3.dcm") == data_set(tmp_path / "a.dcm")


def test_an_instance_that_cannot_be_written_is_refused_and_counted(receiver, tmp_path):
    receiver.folder.rmdir()
    store = run("storescu", *receiver.peer, write_instance(tmp_path / "a.dcm"))
    receiver.end()
    assert store.returncode == 62
    assert receiver.output.endswith("0 instances, 0 bytes, 1 failures\n")
    assert "Traceback" not in receiver.errors


# How storescp begins and ends


@pytest.mark.parametrize("name", ["absent", "file"])
def test_a_folder_that_is_none_is_exit_code_45(tmp_path, name):
    (tmp_path / "file").touch()
    assert run("storescp", 0, "-ba", "127.0.0.1", "-od", tmp_path / name).returncode == 45


def test_a_port_that_is_taken_is_exit_code_64(receiver, tmp_path):
    second = run("storescp", receiver.port, "-ba", "127.0.0.1", "-od", tmp_path)
    assert second.returncode == 64
    assert "cannot listen on 127.0.0.1" in second.stderr
    assert "is another one running?" in second.stderr


@pytest.mark.parametrize("line", ["", "x", "70000", "0 1", "0 --pattern ../x", "0 -fe /x", "0 -xf a b", "0 +tls k c"])
def test_a_wrong_command_line_is_exit_code_1(line):
    result = run("storescp", *line.split())
    assert result.returncode == 1
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_associations_end_and_takes_no_new_ones(tmp_path, number):
    path = write_instance(tmp_path / "a.dcm")
    with Receiver(tmp_path / "received", "--sleep-after", 1) as receiver:
        store = start("storescu", *receiver.peer, path)
        wait_until(receiver.files)
        receiver.process.send_signal(number)
        wait_until(lambda: run("echoscu", *receiver.peer).returncode == 60)
        store.communicate(timeout=DEADLINE)
        assert (store.returncode, receiver.finish()) == (0, 0)
    assert receiver.output.endswith("bytes, 0 failures\n")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_second_signal_ends_it_at_once(tmp_path):
    with Receiver(tmp_path / "received", "--sleep-after", 1000, "--drain", 1000) as receiver:
        store = start("storescu", *receiver.peer, write_instance(tmp_path / "a.dcm"))
        wait_until(receiver.files)
        receiver.process.terminate()
        wait_until(lambda: run("echoscu", *receiver.peer).returncode == 60)
        receiver.process.terminate()
        assert receiver.finish() == 0
        store.communicate(timeout=DEADLINE)
        assert store.returncode == 70


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_draining_has_an_end(tmp_path):
    with Receiver(tmp_path / "received", "--sleep-after", 1000, "--drain", 0) as receiver:
        store = start("storescu", *receiver.peer, write_instance(tmp_path / "a.dcm"))
        wait_until(receiver.files)
        assert receiver.end() == 0
        store.communicate(timeout=DEADLINE)
        assert store.returncode == 70


# storescp with several processes

several_processes = pytest.mark.skipif(not hasattr(socket, "SCM_RIGHTS"), reason="no SCM_RIGHTS")


def children(pid):
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@several_processes
@pytest.mark.parametrize("loop", LOOPS)
def test_workers_share_the_associations_and_have_one_summary(tmp_path, loop):
    sent = write_instances(tmp_path / "sent", 8)
    with Receiver(tmp_path / "received", "--workers", 2, "--loop", loop, "-v") as receiver:
        assert run("storescu", *receiver.peer, sent, "--associations", 4).returncode == 0
        assert receiver.end() == 0
    size = sum(len(data_set(path)) for path in sent.iterdir())
    assert receiver.output.splitlines()[1:] == [f"8 instances, {size} bytes, 0 failures"]
    assert receiver.errors.count(" -> ") == 8
    assert len(receiver.files()) == 8


@several_processes
@pytest.mark.parametrize("workers", [1, 2])
def test_prometheus_finds_what_all_processes_count(tmp_path, workers):
    pytest.importorskip("opentelemetry.exporter.prometheus")
    port, sent = free_port(), write_instances(tmp_path / "sent", 4)
    with Receiver(tmp_path / "received", "--workers", workers, "--metrics", port) as receiver:
        assert run("storescu", *receiver.peer, sent, "--associations", 2).returncode == 0
        wait_until(lambda: stored(port) == 4)


def stored(port):
    """What Prometheus would read."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE) as answer:
        lines = answer.read().decode().splitlines()
    found = [line for line in lines if line.startswith("dicom_server_instances_total") and '"stored"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def test_metrics_that_cannot_be_served_are_said_before_it_listens(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        pytest.importorskip("opentelemetry.exporter.prometheus")
        result = run_here("storescp", "0", "--ignore", "--metrics", other.getsockname()[1])
        assert (result.returncode, result.stdout) == (ExitCode.LISTEN, "")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.prometheus", None)
    result = run_here("qrscp", "0", "--folder", tmp_path, "--metrics", 1)
    assert (result.returncode, "install asyncdicom[prometheus]" in result.stderr) == (ExitCode.CONFIGURATION, True)


@several_processes
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_lets_running_associations_of_workers_end(tmp_path, number):
    path = write_instance(tmp_path / "a.dcm")
    with Receiver(tmp_path / "received", "--workers", 2, "--sleep-after", 1) as receiver:
        store = start("storescu", *receiver.peer, path)
        wait_until(receiver.files)
        for pid in (*children(receiver.process.pid), receiver.process.pid):
            os.kill(pid, number)
        store.communicate(timeout=DEADLINE)
        assert (store.returncode, receiver.finish()) == (0, 0)
    assert receiver.output.endswith(f"1 instances, {len(data_set(path))} bytes, 0 failures\n")
    assert "ending: 1 associations" in receiver.errors
    assert "Traceback" not in receiver.errors


@several_processes
def test_a_second_signal_ends_workers_at_once_and_what_they_did_is_counted(tmp_path):
    with Receiver(tmp_path / "received", "--workers", 2, "--sleep-after", 1000, "--drain", 1000) as receiver:
        store = start("storescu", *receiver.peer, write_instance(tmp_path / "a.dcm"))
        wait_until(receiver.files)
        receiver.process.terminate()
        wait_until(lambda: run("echoscu", *receiver.peer).returncode == 60)
        receiver.process.terminate()
        assert receiver.finish() == 0
        store.communicate(timeout=DEADLINE)
        assert store.returncode == 70
    assert receiver.output.endswith("0 instances, 0 bytes, 1 failures\n")
