"""stgcmtscu: storage commitment on the command line."""

import asyncio
import contextlib
import json
import socket

import pytest
from cli_processes import CT, run_beside, write_instances
from ports import free_port

import asyncdicom
from asyncdicom import Backoff, Status
from asyncdicom.cli.stgcmtscu import CommitmentOptions
from asyncdicom.cli.stgcmtscu import _show as show
from asyncdicom.services.references import Reference
from asyncdicom.services.storage_commitment import (
    SOP_CLASS,
    Commitment,
    CommitmentProvider,
    FailedInstance,
    FailureReason,
)

MISSING = "1.2.3.1"


async def tool(*words):
    """A run of the tool: exit code, what it printed, what it said of errors."""
    done = await run_beside("stgcmtscu", *words)
    return done.returncode, done.stdout, done.stderr


async def check(instances):
    return {MISSING: FailureReason.NO_SUCH_OBJECT_INSTANCE}


@contextlib.asynccontextmanager
async def served(check=check, **options):
    provider = CommitmentProvider(check, backoff=Backoff(attempts=50, first=0.05, longest=0.05), **options)
    async with provider, asyncdicom.serve("127.0.0.1", 0, services=[provider]) as server:
        yield "127.0.0.1", server.port


async def test_instances_in_files_are_safe(tmp_path):
    folder = write_instances(tmp_path / "sent", 1)
    async with served() as peer:
        code, output, errors = await tool(*peer, folder)
    assert (code, output) == (0, "1.2.3.0 safe\n1 safe, 0 not\n"), errors


async def test_instances_that_are_not_safe_are_named_and_make_the_exit_code(tmp_path):
    folder = write_instances(tmp_path / "sent", 3)
    async with served() as peer:
        code, output, _ = await tool(*peer, folder)
    assert code == 62
    assert f"{MISSING} no such object instance" in output.splitlines()
    assert output.endswith("2 safe, 1 not\n")


async def test_the_outcome_is_json():
    async with served() as peer:
        code, output, _ = await tool("--json", "--instance", f"CT Image Storage,{MISSING}", *peer)
    outcome = json.loads(output)
    failed = {"sop_class_uid": CT, "sop_instance_uid": MISSING, "reason": "0112", "meaning": "no such object instance"}
    assert (code, outcome["exit_code"], outcome["committed"], outcome["failed"]) == (62, 62, [], [failed])


def test_the_outcome_is_a_table_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    commitment = Commitment("1.2.9", (Reference(CT, "1.2.3.0"),), (FailedInstance(CT, MISSING, 0x0112),))
    show(commitment, CommitmentOptions())
    rows = [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in capsys.readouterr().out.splitlines()
    ]
    assert ["CT Image Storage", "1.2.3.0", "safe"] in rows
    assert ["CT Image Storage", MISSING, "no such object instance"] in rows


@pytest.mark.parametrize("release", [False, True])
async def test_the_report_may_come_on_a_new_association(release):
    port = free_port()
    options = {"resolve": {"MODALITY": ("127.0.0.1", port)}, "new_association": not release}
    async with served(**options) as peer:
        words = ("-aet", "MODALITY", "--port", port, *(["--release"] if release else []))
        code, output, errors = await tool(*words, "--instance", f"{CT},1.2.3.0", *peer)
    assert (code, output) == (0, "1.2.3.0 safe\n1 safe, 0 not\n"), errors


async def test_no_report_in_time_is_told():
    async def never(instances):
        await asyncio.Event().wait()

    provider = CommitmentProvider(never)
    async with asyncdicom.serve("127.0.0.1", 0, services=[provider]) as server:
        code, _, errors = await tool("--wait", "0.2", "--instance", f"{CT},1.2", "127.0.0.1", server.port)
        await provider.close(drain=0.0)
    assert (code, "no report came" in errors, "--port" in errors) == (70, True, True)


async def test_a_refused_request_is_told():
    async def refuse(request):
        return Status(0x0124, "not for you")

    async with asyncdicom.serve("127.0.0.1", 0, contexts=[SOP_CLASS], n_action=refuse) as server:
        code, _, errors = await tool("--instance", f"{CT},1.2", "127.0.0.1", server.port)
    assert (code, "not for you" in errors) == (62, True)


async def test_a_port_that_is_taken_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = ("--port", port, "-ba", "127.0.0.1", "--instance", f"{CT},1.2", "127.0.0.1", "1")
        code, _, errors = await tool(*words)
    assert code == 64, errors


@pytest.mark.parametrize(
    "words", [(), ("--instance", "CT"), ("--instance", "NoClass,1.2"), ("--release", "--instance", f"{CT},1.2")]
)
async def test_a_wrong_command_line_is_told_of(words):
    code, output, errors = await tool("127.0.0.1", "1", *words)
    assert (code, output) == (1, "")
    assert "stgcmtscu" in errors


async def test_a_file_that_is_none_is_told_of(tmp_path):
    code, _, _ = await tool("127.0.0.1", "1", tmp_path / "nothing.dcm")
    assert code == 20
    assert (await tool("127.0.0.1", "1", tmp_path))[0] == 21
