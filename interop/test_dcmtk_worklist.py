"""Modality worklists with DCMTK: findscu asks us, and we ask wlmscpfs."""

import sys

import pytest
from peers import run, write_worklist_entry
from pydicom import Dataset, dcmread

import asyncdicom
from asyncdicom.services.modality_worklist import SOP_CLASS, Worklist, worklist_items, worklist_query


def entry(name, modality="CT", date="20260131"):
    """A worklist item with all that wlmscpfs wants of one."""
    step, item = Dataset(), Dataset()
    step.Modality, step.ScheduledStationAETitle = modality, "CT1"
    step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime = date, "1000"
    step.ScheduledProcedureStepID, step.ScheduledProcedureStepDescription = "SPS1", "head"
    step.ScheduledPerformingPhysicianName = "HOUSE"
    item.PatientName, item.PatientID, item.AccessionNumber = name, "4711", "A1"
    item.StudyInstanceUID, item.RequestedProcedureID = "1.2.3", "RP1"
    item.RequestedProcedureDescription = "CT head"
    item.ScheduledProcedureStepSequence = [step]
    return item


ENTRIES = [entry("DOE^JANE"), entry("DOE^JOHN", "MR"), entry("ROE^EVA", date="20260201")]

KEYS = [
    ({}, ["DOE^JANE", "DOE^JOHN", "ROE^EVA"]),
    ({"patient_name": "DOE*"}, ["DOE^JANE", "DOE^JOHN"]),
    ({"modality": "MR"}, ["DOE^JOHN"]),
    ({"date": "20260201-"}, ["ROE^EVA"]),
    ({"station_ae_title": "XX"}, []),
]


@pytest.fixture
def filled(wlmscpfs):
    """DCMTK's worklist server with three items."""
    for number, item in enumerate(ENTRIES):
        write_worklist_entry(wlmscpfs.folder / f"{number}.wl", item)
    return wlmscpfs


@pytest.mark.parametrize(("keys", "names"), KEYS)
async def test_our_query_finds_what_wlmscpfs_has(filled, keys, names):
    options = {"called_ae_title": filled.ae_title, "contexts": [SOP_CLASS]}
    async with asyncdicom.connect("127.0.0.1", filled.port, **options) as association:
        found = [str(item.PatientName) async for item in worklist_items(association, worklist_query(**keys))]
    assert sorted(found) == names


async def test_wlmscu_shows_what_wlmscpfs_has(filled):
    words = ("wlmscu", "--json", "--modality", "CT", "-aec", filled.ae_title, "127.0.0.1", filled.port)
    code, output = await run(sys.executable, "-m", "asyncdicom", *words)
    assert code == 0, output
    found = [Dataset.from_json(line) for line in output.splitlines() if line.startswith("{")]
    assert sorted(str(each.PatientName) for each in found) == ["DOE^JANE", "ROE^EVA"]
    assert {each.ScheduledProcedureStepSequence[0].Modality for each in found} == {"CT"}


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ([], ["DOE^JANE", "DOE^JOHN", "ROE^EVA"]),
        (["PatientName=DOE*"], ["DOE^JANE", "DOE^JOHN"]),
        (["(0040,0100)[0].Modality=MR"], ["DOE^JOHN"]),
        (["(0040,0100)[0].(0040,0002)=20260101-20260131"], ["DOE^JANE", "DOE^JOHN"]),
        (["PatientID=0815"], []),
    ],
)
async def test_findscu_finds_what_our_worklist_has(dcmtk, tmp_path, keys, names):
    asked = ["PatientName", "(0040,0100)[0].(0040,0002)", *keys]
    async with asyncdicom.serve("127.0.0.1", 0, ae_title="OURS", services=[Worklist(ENTRIES)]) as server:
        words = [word for key in asked for word in ("-k", key)]
        code, output = await run(
            "findscu", "-W", "-X", "-od", tmp_path, *words, "-aec", "OURS", "127.0.0.1", server.port
        )
    assert code == 0, output
    found = [dcmread(path, force=True) for path in sorted(tmp_path.glob("rsp*.dcm"))]
    assert [str(each.PatientName) for each in found] == names
    assert all(each.ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartDate for each in found)


async def test_findscu_cancels_our_worklist(dcmtk):
    async def endless(request):
        while True:
            yield ENTRIES[0]

    async with asyncdicom.serve("127.0.0.1", 0, services=[Worklist(endless)]) as server:
        words = ("-W", "--cancel", "3", "-k", "PatientName", "127.0.0.1", server.port)
        code, output = await run("findscu", "-v", *words)
    assert code == 0, output
