"""wlmscu: a modality's worklist on the command line."""

import contextlib
import json

import pytest
from cli_processes import run_beside
from pydicom import Dataset, dcmread

import asyncdicom
from asyncdicom import Status
from asyncdicom.services.modality_worklist import SOP_CLASS, Worklist


def entry(name, modality):
    step, data_set = Dataset(), Dataset()
    step.Modality, step.ScheduledStationAETitle = modality, "CT1"
    step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime = "20260131", "1000"
    data_set.PatientName, data_set.PatientID = name, "4711"
    data_set.ScheduledProcedureStepSequence = [step]
    return data_set


ENTRIES = [entry("DOE^JANE", "CT"), entry("DOE^JOHN", "MR")]


async def tool(*words):
    """A run of the tool: exit code, what it printed, what it said of errors."""
    done = await run_beside("wlmscu", *words)
    return done.returncode, done.stdout, done.stderr


@contextlib.asynccontextmanager
async def served(items=ENTRIES, **options):
    services = [Worklist(items)] if items else []
    async with asyncdicom.serve("127.0.0.1", 0, services=services, **options) as server:
        yield "127.0.0.1", server.port


async def test_items_are_lines_that_are_good_for_keys():
    async with served() as peer:
        code, output, _ = await tool("--modality", "MR", *peer)
    assert code == 0
    lines = output.splitlines()
    assert "PatientName=DOE^JOHN" in lines
    assert "ScheduledProcedureStepSequence[0].Modality=MR" in lines


async def test_items_are_json_lines():
    async with served() as peer:
        code, output, _ = await tool("--json", "-k", "PatientName=DOE*", "--date", "20260101-20260131", *peer)
    found = [Dataset.from_json(json.loads(line)) for line in output.splitlines()]
    assert (code, [str(each.PatientName) for each in found]) == (0, ["DOE^JANE", "DOE^JOHN"])


async def test_items_are_files(tmp_path):
    async with served() as peer:
        code, _, _ = await tool("-X", "-od", tmp_path, "--hide-responses", *peer)
    names = [str(dcmread(path).PatientName) for path in sorted(tmp_path.iterdir())]
    assert (code, names) == (0, ["DOE^JANE", "DOE^JOHN"])


async def test_a_query_is_cancelled_after_so_many_items():
    async def endless(request):
        while True:
            yield ENTRIES[0]

    async with served(endless) as peer:
        code, output, _ = await tool("--json", "--cancel", "2", *peer)
    assert (code, len(output.splitlines())) == (0, 2)


async def test_a_query_may_consist_of_keys_alone(tmp_path):
    seen = []

    async def listed(request):
        seen.append(request.identifier)
        return []

    async with served(listed) as peer:
        code, _, _ = await tool("--only-keys", "-k", "PatientName=X", *peer)
    assert (code, [element.keyword for element in seen[0]]) == (0, ["PatientName"])


async def test_a_failure_status_is_told():
    async def refuse(request):
        yield Status(0xA700, "too busy")

    async with served(None, contexts=[SOP_CLASS], c_find=refuse) as peer:
        code, _, errors = await tool(*peer)
    assert code == 62
    assert "A700H" in errors
    assert "too busy" in errors


async def test_a_peer_without_worklists_is_told_of():
    async with served(None) as peer:
        code, _, errors = await tool(*peer)
    assert code == 65, errors


@pytest.mark.parametrize(
    "words", [("--only-keys", "--modality", "CT"), ("--only-keys",), ("-k", "NoSuchKeyword=1"), ("x",)]
)
async def test_a_wrong_command_line_is_told_of(words):
    code, output, errors = await tool("127.0.0.1", "1", *words)
    assert (code, output) == (1, "")
    assert "wlmscu" in errors


async def test_dates_may_be_named_by_words():
    seen = []

    async def listed(request):
        seen.append(request.identifier.ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartDate)
        return []

    async with served(listed) as peer:
        for word in ("yesterday", "today", "tomorrow"):
            assert (await tool("--date", word, *peer))[0] == 0
    assert all(len(each) == 8 for each in seen)
    assert sorted(seen) == seen
