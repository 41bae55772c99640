import asyncio
import os

import pytest
from node_files import make, scheduled, write, write_entry
from pydicom import Dataset

import asyncdicom
from asyncdicom.node.folders import StepFolder, WorklistFolder
from asyncdicom.node.index import Index
from asyncdicom.services.modality_worklist import Worklist, worklist_items, worklist_query
from asyncdicom.uids import MODALITY_WORKLIST_FIND


async def ids(worklist):
    """The Patient IDs of what a worklist has."""
    return [entry.PatientID for entry in await worklist()]


# Worklists


async def test_a_worklist_has_the_entries_of_its_files(tmp_path):
    (tmp_path / "STATION").mkdir()
    write_entry(tmp_path / "STATION" / "1.wl", scheduled(1))
    write_entry(tmp_path / "2.wl", scheduled(2))
    assert sorted(await ids(WorklistFolder(tmp_path))) == ["P1", "P2"]


async def test_what_is_no_entry_is_passed_over(tmp_path, caplog):
    (tmp_path / "lockfile").touch()
    (tmp_path / "notes.txt").write_text("no DICOM")
    write(tmp_path, make())
    write_entry(tmp_path / ".hidden", scheduled())
    assert await ids(WorklistFolder(tmp_path)) == []
    assert "notes.txt" in caplog.text


async def test_files_are_read_again_when_they_have_changed(tmp_path):
    worklist = WorklistFolder(tmp_path)
    assert await ids(worklist) == []
    path = write_entry(tmp_path / "1.wl", scheduled(1))
    assert await ids(worklist) == ["P1"]
    write_entry(path, scheduled(23456))
    assert await ids(worklist) == ["P23456"]
    path.unlink()
    assert await ids(worklist) == []


async def test_files_that_have_not_changed_are_not_read_again(tmp_path):
    path = write_entry(tmp_path / "1.wl", scheduled(1))
    worklist = WorklistFolder(tmp_path)
    (first,) = await worklist()
    assert (await worklist())[0] is first
    os.utime(path, (1, 1))
    assert (await worklist())[0] is not first


async def test_each_scheduled_step_is_an_item(tmp_path):
    entry = scheduled(1)
    second = Dataset()
    second.Modality = "MR"
    entry.ScheduledProcedureStepSequence.append(second)
    write_entry(tmp_path / "1.wl", entry)
    items = await WorklistFolder(tmp_path)()
    assert [[step.Modality for step in item.ScheduledProcedureStepSequence] for item in items] == [["CT"], ["MR"]]


async def test_an_entry_is_in_its_own_character_set(tmp_path):
    write_entry(tmp_path / "1.wl", scheduled(1, PatientName="Müller^Jürgen", SpecificCharacterSet="ISO_IR 100"))
    (item,) = await WorklistFolder(tmp_path)()
    assert (item.PatientName, item.SpecificCharacterSet) == ("Müller^Jürgen", "ISO_IR 100")


async def test_a_modality_finds_its_steps(tmp_path):
    write_entry(tmp_path / "1.wl", scheduled(1, modality="CT", date="20200110"))
    write_entry(tmp_path / "2.wl", scheduled(2, modality="MR", date="20200110"))
    write_entry(tmp_path / "3.wl", scheduled(3, modality="CT", date="20200112"))
    services = [Worklist(WorklistFolder(tmp_path))]
    async with (
        asyncdicom.serve("127.0.0.1", 0, services=services) as server,
        asyncdicom.connect("127.0.0.1", server.port, contexts=[MODALITY_WORKLIST_FIND]) as association,
    ):
        query = worklist_query(modality="CT", date="20200110-20200111")
        assert [item.PatientID async for item in worklist_items(association, query)] == ["P1"]


# Performed procedure steps


def step(state="IN PROGRESS"):
    made = Dataset()
    made.PatientName = "Doe^John"
    made.PerformedProcedureStepStatus = state
    return made


def test_a_folder_of_steps_is_a_mapping(tmp_path):
    steps = StepFolder(tmp_path / "mpps")
    assert list(steps) == []
    steps["1.2.3"] = step()
    steps["1.2.4"] = step("COMPLETED")
    assert "1.2.3" in steps
    assert "1.9" not in steps
    assert (len(steps), set(steps)) == (2, {"1.2.3", "1.2.4"})
    assert steps["1.2.4"].PerformedProcedureStepStatus == "COMPLETED"
    del steps["1.2.3"]
    assert list(steps) == ["1.2.4"]
    for missing in (steps.__getitem__, steps.__delitem__):
        with pytest.raises(KeyError):
            missing("1.2.3")


def test_steps_are_still_there_later(tmp_path):
    StepFolder(tmp_path)["1.2.3"] = step()
    assert StepFolder(tmp_path)["1.2.3"] == step()


def test_a_step_is_replaced_as_a_whole(tmp_path):
    steps = StepFolder(tmp_path)
    steps["1.2.3"] = step()
    steps["1.2.3"] = step("DISCONTINUED")
    assert steps["1.2.3"].PerformedProcedureStepStatus == "DISCONTINUED"
    assert [path.name for path in tmp_path.iterdir()] == ["1.2.3.dcm"]


def test_a_step_whose_uid_is_a_path_stays_in_the_folder(tmp_path):
    StepFolder(tmp_path / "mpps")["../../x"] = step()
    assert [path.name for path in tmp_path.iterdir()] == ["mpps"]


def test_a_step_is_no_instance_of_the_archive(tmp_path):
    StepFolder(tmp_path / "mpps")["1.2.3"] = step()
    index = Index(tmp_path)
    assert index.scan() == 0
    index.close()


def test_a_step_that_names_a_series_is_no_instance_either(tmp_path):
    named = step()
    named.update(make())
    StepFolder(tmp_path / "mpps")["1.2.3"] = named
    index = Index(tmp_path)
    assert index.scan() == 0
    index.close()


async def test_a_worklist_whose_folder_is_gone_is_an_error_and_not_empty(tmp_path):
    (tmp_path / "worklist").mkdir()
    worklist = WorklistFolder(tmp_path / "worklist")
    assert await worklist() == []
    (tmp_path / "worklist").rmdir()
    with pytest.raises(FileNotFoundError):
        await worklist()


async def test_a_query_that_is_cancelled_does_not_disturb_the_next(tmp_path):
    for number in range(300):
        write_entry(tmp_path / f"{number}.wl", scheduled(number))
    worklist = WorklistFolder(tmp_path)
    known = set(map(id, await worklist()))
    left = asyncio.ensure_future(worklist())
    await asyncio.sleep(0)
    left.cancel()
    assert set(map(id, await worklist())) == known
