"""mppsscu: steps of a modality on the command line."""

import contextlib
import json

import pytest
from cli_processes import run_beside, write_instances
from pydicom import Dataset

import asyncdicom
from asyncdicom import Status
from asyncdicom.services.modality_performed_procedure_step import PerformedProcedureSteps


async def tool(*words):
    """A run of the tool: exit code, what it printed, what it said of errors."""
    done = await run_beside("mppsscu", *words)
    return done.returncode, done.stdout, done.stderr


@contextlib.asynccontextmanager
async def served(**options):
    service = PerformedProcedureSteps(**options)
    async with asyncdicom.serve("127.0.0.1", 0, services=[service]) as server:
        yield service.steps, ("127.0.0.1", server.port)


async def created(peer, *words):
    code, output, errors = await tool("--json", *words, *peer)
    assert code == 0, errors
    return json.loads(output)["sop_instance_uid"]


async def test_a_step_is_created_of_keys():
    async with served() as (steps, peer):
        code, output, _ = await tool("-aet", "CT1", "-k", "PatientName=DOE^JANE", "-k", "Modality=CT", *peer)
        uid, state = output.split(maxsplit=1)
        step = steps[uid]
    assert (code, state.strip()) == (0, "IN PROGRESS")
    assert (str(step.PatientName), step.Modality, step.PerformedStationAETitle) == ("DOE^JANE", "CT", "CT1")


async def test_a_step_gets_the_uid_that_is_given():
    async with served() as (steps, peer):
        assert await created(peer, "--uid", "1.2.3.4") == "1.2.3.4"
        assert list(steps) == ["1.2.3.4"]


async def test_a_step_is_created_for_a_worklist_item(tmp_path):
    step, item = Dataset(), Dataset()
    step.Modality, step.ScheduledProcedureStepID = "MR", "SPS1"
    item.PatientName, item.StudyInstanceUID, item.ScheduledProcedureStepSequence = "DOE^JANE", "1.2.3", [step]
    (tmp_path / "item.json").write_text(item.to_json())
    async with served() as (steps, peer):
        step = steps[await created(peer, "--worklist", tmp_path / "item.json", "-k", "PerformedProcedureStepID=P1")]
    assert (step.Modality, step.PerformedProcedureStepID, str(step.PatientName)) == ("MR", "P1", "DOE^JANE")
    assert step.ScheduledStepAttributesSequence[0].ScheduledProcedureStepID == "SPS1"


async def test_a_step_is_completed_with_the_instances_that_it_made(tmp_path):
    folder = write_instances(tmp_path / "made", 2)
    async with served() as (steps, peer):
        uid = await created(peer)
        code, output, errors = await tool("--uid", uid, "--status", "completed", *peer, folder)
        assert (code, output) == (0, f"{uid} COMPLETED\n"), errors
        (series,) = steps[uid].PerformedSeriesSequence
    assert len(series.ReferencedNonImageCompositeSOPInstanceSequence) == 2


async def test_a_file_that_is_none_is_told_of_before_anything_is_sent(tmp_path):
    (tmp_path / "text").write_text("no instance")
    words = ("--uid", "1.2.3", "--status", "COMPLETED", "127.0.0.1", "1")
    assert (await tool(*words, tmp_path / "text"))[0] == 20
    assert (await tool(*words, tmp_path))[0] == 21


async def test_a_step_is_discontinued_for_a_reason():
    series = ("-k", "PerformedSeriesSequence[0].SeriesInstanceUID=1.2.3", "-k")
    async with served() as (steps, peer):
        uid = await created(peer)
        words = ("--reason", "110501^DCM^Equipment failure", *series, "PerformedSeriesSequence[0].ProtocolName=HEAD")
        code, _, errors = await tool("--uid", uid, "--status", "DISCONTINUED", *words, *peer)
        assert code == 0, errors
        step = steps[uid]
    assert step.PerformedProcedureStepStatus == "DISCONTINUED"
    assert step.PerformedProcedureStepDiscontinuationReasonCodeSequence[0].CodeMeaning == "Equipment failure"


async def test_a_step_is_changed_while_it_is_in_progress():
    async with served() as (steps, peer):
        uid = await created(peer)
        change = ("--status", "IN PROGRESS", "-k", "PerformedProcedureStepDescription=head")
        assert (await tool("--uid", uid, *change, *peer))[0] == 0
        assert steps[uid].PerformedProcedureStepDescription == "head"


async def test_a_refusal_is_told():
    async def refuse(request, step):
        return Status(0x0124, "not from you")

    async with served(created=refuse) as (_, peer):
        code, _, errors = await tool(*peer)
        assert (code, "not from you" in errors) == (62, True)
        code, output, errors = await tool("--json", *peer)
        assert (code, json.loads(output)["status"], json.loads(output)["state"]) == (62, "0124", None)
        assert "0124H" in errors


async def test_an_unknown_step_is_told():
    async with served() as (_, peer):
        code, _, errors = await tool("--uid", "1.2.3", "--status", "COMPLETED", *peer)
    assert (code, "0112H" in errors) == (62, True)


@pytest.mark.parametrize(
    "words",
    [
        ("--status", "COMPLETED"),
        ("--status", "DONE", "--uid", "1.2"),
        ("--reason", "110501^DCM^Equipment failure"),
        ("--reason", "110501", "--uid", "1.2", "--status", "DISCONTINUED"),
        ("--worklist", "x", "--uid", "1.2", "--status", "COMPLETED"),
        ("file.dcm",),
    ],
)
async def test_a_wrong_command_line_is_told_of(words):
    code, output, errors = await tool("127.0.0.1", "1", *words)
    assert (code, output) == (1, "")
    assert "mppsscu" in errors
