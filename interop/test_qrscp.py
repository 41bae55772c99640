"""Our archive with the programs of others as its clients: DCMTK's, and Orthanc by its REST API."""

import asyncio
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from peers import DEADLINE, data_set_bytes, free_ports, run
from pydicom import dcmread
from pydicom.data import get_testdata_file

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from node_files import NASTY, make, scheduled, write, write_entry, write_nasty

import asyncdicom
from asyncdicom.node.archive import Archive
from asyncdicom.node.folders import WorklistFolder
from asyncdicom.services.modality_worklist import Worklist
from asyncdicom.services.storage_commitment import CommitmentProvider

LOCAL = "127.0.0.1"
FILES = [get_testdata_file(name) for name in ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "image_dfl.dcm")]


@asynccontextmanager
async def our_archive(folder, peers=None, worklist=None):
    """Our archive with AE title OURS; gives its port."""
    folder.mkdir(exist_ok=True)
    async with (
        Archive(folder) as archive,
        CommitmentProvider(archive.check, resolve=peers) as commitment,
        asyncdicom.serve(
            LOCAL,
            0,
            ae_title="OURS",
            services=[*archive.services, commitment, *([Worklist(WorklistFolder(worklist))] if worklist else ())],
            c_store=archive.store,
            contexts="verification",
            any_storage=True,
            move_destinations=peers,
        ) as server,
    ):
        yield server.port


async def ask(program, port, *options, files=(), code=0):
    """A program of DCMTK's with our archive as its peer; returns what it printed."""
    done, output = await run(program, "-aec", "OURS", *options, LOCAL, port, *files)
    assert done == code, output
    return output


def keys(**values):
    """The keys of a query as options of DCMTK's programs."""
    return [word for keyword, value in values.items() for word in ("-k", f"{keyword}={value}" if value else keyword)]


async def find(port, folder, *options, **values):
    """What findscu finds."""
    folder.mkdir()
    await ask("findscu", port, "-X", "-od", folder, *options, *keys(**values))
    return [dcmread(path, force=True) for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """A study of a hundred slices, in two series."""
    folder = tmp_path_factory.mktemp("slices")
    for number in range(100):
        made = make(number, series=str(number % 2), PixelData=bytes([number]) * 512)
        made.BitsAllocated, made["PixelData"].VR = 16, "OW"
        write(folder, made)
    return folder


def contents(folder):
    """The data sets of a folder's files, by SOP Instance UID."""
    return {dcmread(path).SOPInstanceUID: data_set_bytes(path) for path in Path(folder).iterdir()}


# DCMTK


async def test_what_storescu_sends_is_found_by_findscu(dcmtk, tmp_path):
    async with our_archive(tmp_path / "archive") as port:
        for path, option in zip(FILES, ("-xe", "-xe", "-xw", "-xd"), strict=True):
            await ask("storescu", port, option, files=[path])
        for number, path in enumerate(FILES):
            data_set = dcmread(path)
            (match,) = await find(
                port,
                tmp_path / f"found{number}",
                "-S",
                QueryRetrieveLevel="IMAGE",
                StudyInstanceUID=data_set.StudyInstanceUID,
                SeriesInstanceUID=data_set.SeriesInstanceUID,
                SOPInstanceUID="",
                AvailableTransferSyntaxUID="",
            )
            assert match.SOPInstanceUID == data_set.SOPInstanceUID
            assert match.AvailableTransferSyntaxUID == data_set.file_meta.TransferSyntaxUID


@pytest.mark.parametrize(
    ("options", "values", "count"),
    [
        (["-P"], {"QueryRetrieveLevel": "PATIENT", "PatientID": ""}, 1),
        (["-P"], {"QueryRetrieveLevel": "STUDY", "PatientID": "P1", "StudyInstanceUID": ""}, 1),
        (["-O"], {"QueryRetrieveLevel": "STUDY", "PatientID": "P1", "StudyInstanceUID": ""}, 1),
        (["-S"], {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "", "PatientName": "doe*"}, 1),
        (["-S"], {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "", "StudyDate": "20200101-20200131"}, 1),
        (["-S"], {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "", "StudyDate": "-20191231"}, 0),
        (["-S"], {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": ""}, 2),
        (
            ["-S"],
            {"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": r"1.2.3.1"},
            50,
        ),
        (
            ["-S"],
            {
                "QueryRetrieveLevel": "IMAGE",
                "StudyInstanceUID": "1.2.3",
                "SeriesInstanceUID": "1.2.3.1",
                "SOPInstanceUID": r"1.2.3.1.1\1.2.3.1.3\1.9",
            },
            2,
        ),
    ],
)
async def test_findscu_asks_at_all_levels(  # noqa: PLR0917 - fixtures
    dcmtk, slices, tmp_path, options, values, count
):
    async with our_archive(slices) as port:
        assert len(await find(port, tmp_path / "found", *options, **values)) == count


async def test_findscu_may_cancel(dcmtk, tmp_path):
    (tmp_path / "archive").mkdir()
    for number in range(1500):
        write(tmp_path / "archive", make(study=f"1.2.{number}"))
    async with our_archive(tmp_path / "archive") as port:
        output = await ask(
            "findscu", port, "-v", "-S", "--cancel", "3", *keys(QueryRetrieveLevel="STUDY", StudyInstanceUID="")
        )
    assert "Received Final Find Response (Cancel: MatchingTerminatedDueToCancelRequest)" in output
    assert output.count("(Pending)") < 1500


async def test_findscu_is_told_what_is_wrong(dcmtk, slices):
    async with our_archive(slices) as port:
        output = await ask("findscu", port, "-d", "-S", *keys(QueryRetrieveLevel="SERIES", Modality=""))
    assert "[SERIES level needs one value of StudyInstanceUID]" in output


@pytest.mark.parametrize("name", NASTY)
async def test_findscu_finds_nasty_patients(dcmtk, tmp_path, name):
    (tmp_path / "archive").mkdir()
    write_nasty(tmp_path / "archive")
    patient = NASTY[name]
    async with our_archive(tmp_path / "archive") as port:
        found = await find(
            port,
            tmp_path / "found",
            "-S",
            QueryRetrieveLevel="STUDY",
            SpecificCharacterSet="ISO_IR 192",
            StudyID="",
            PatientName="",
            PatientID=patient["PatientID"],
        )
    (match,) = [each for each in found if each.StudyID == name]
    assert (match.PatientID, match.PatientName) == (patient["PatientID"], patient["PatientName"])
    assert match.get("SpecificCharacterSet") == patient.get("SpecificCharacterSet")


async def test_getscu_gets_a_study_as_it_is(dcmtk, slices, tmp_path):
    (tmp_path / "got").mkdir()
    async with our_archive(slices) as port:
        await ask(
            "getscu",
            port,
            "-S",
            "+B",
            "-od",
            tmp_path / "got",
            *keys(QueryRetrieveLevel="STUDY", StudyInstanceUID="1.2.3"),
        )
    assert contents(tmp_path / "got") == contents(slices)


async def test_movescu_moves_a_study_as_it_is(dcmtk, slices, tmp_path):
    # not +B: then it writes into the current directory whatever -od says
    (tmp_path / "got").mkdir()
    (receiving,) = free_ports(1)
    async with our_archive(slices, {"MOVER": (LOCAL, receiving)}) as port:
        await ask(
            "movescu",
            port,
            "-S",
            "+xe",
            "-aet",
            "MOVER",
            "-aem",
            "MOVER",
            "+P",
            receiving,
            "-od",
            tmp_path / "got",
            *keys(QueryRetrieveLevel="STUDY", StudyInstanceUID="1.2.3"),
        )
    assert contents(tmp_path / "got") == contents(slices)


async def test_movescu_may_cancel(dcmtk, slices, tmp_path):
    (tmp_path / "got").mkdir()
    (receiving,) = free_ports(1)
    async with our_archive(slices, {"MOVER": (LOCAL, receiving)}) as port:
        output = await ask(
            "movescu",
            port,
            "-v",
            "-S",
            "--cancel",
            "1",
            "-aem",
            "MOVER",
            "+P",
            receiving,
            "-od",
            tmp_path / "got",
            *keys(QueryRetrieveLevel="STUDY", StudyInstanceUID="1.2.3"),
        )
    assert "Cancel: SubOperationsTerminatedDueToCancelIndication" in output
    assert len(list((tmp_path / "got").iterdir())) < 100


async def test_movescu_is_told_of_an_unknown_destination(dcmtk, slices):
    async with our_archive(slices) as port:
        output = await ask(
            "movescu",
            port,
            "-S",
            "-aem",
            "NOBODY",
            *keys(QueryRetrieveLevel="STUDY", StudyInstanceUID="1.2.3"),
            code=69,
        )
    assert "MoveDestinationUnknown" in output


async def test_findscu_finds_the_worklist(dcmtk, tmp_path):
    (tmp_path / "worklist").mkdir()
    for number, modality in ((1, "CT"), (2, "MR"), (3, "CT")):
        write_entry(tmp_path / "worklist" / f"{number}.wl", scheduled(number, modality=modality))
    step = "ScheduledProcedureStepSequence[0]"
    async with our_archive(tmp_path / "archive", worklist=tmp_path / "worklist") as port:
        found = await find(
            port,
            tmp_path / "found",
            "-W",
            **{
                "PatientID": "",
                f"{step}.Modality": "CT",
                f"{step}.ScheduledProcedureStepStartDate": "20200101-",
                f"{step}.ScheduledProcedureStepStartTime": "",
            },
        )
        assert [match.PatientID for match in found] == ["P1", "P3"]
        assert found[0].ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartTime == "1015"
        (tmp_path / "worklist" / "1.wl").unlink()
        (match,) = await find(port, tmp_path / "again", "-W", **{"PatientID": "", f"{step}.Modality": "CT"})
        assert match.PatientID == "P3"


# Orthanc


@asynccontextmanager
async def known_to(orthanc, folder):
    """Our archive, and Orthanc; each is a peer of the other."""
    async with our_archive(folder, {orthanc.ae_title: (LOCAL, orthanc.port)}) as port:
        await orthanc.register("ours", port, AET="OURS")
        yield port


async def query(orthanc, level, **values):
    """A query of Orthanc's: its path, and its answers by keyword."""
    path = (await orthanc.post("/modalities/ours/query", {"Level": level, "Query": values}))["Path"]
    return path, [
        await orthanc.get(f"{path}/answers/{number}/content?simplify")
        for number in await orthanc.get(f"{path}/answers")
    ]


async def test_orthanc_finds_and_retrieves_a_study(orthanc, slices):
    async with known_to(orthanc, slices):
        path, answers = await query(orthanc, "Study", PatientName="DOE*", StudyDescription="", ModalitiesInStudy="CT")
        assert [answer["StudyInstanceUID"] for answer in answers] == ["1.2.3"]
        await orthanc.post(f"{path}/answers/0/retrieve", orthanc.ae_title)
    arrived = {
        (await orthanc.get(f"/instances/{name}"))["MainDicomTags"]["SOPInstanceUID"]
        for name in await orthanc.get("/instances")
    }
    assert arrived == {path.stem for path in slices.iterdir()}


async def test_orthanc_retrieves_all_that_it_found(orthanc, slices):
    async with known_to(orthanc, slices):
        path, answers = await query(orthanc, "Series", StudyInstanceUID="1.2.3", SeriesInstanceUID="")
        assert len(answers) == 2
        await orthanc.post(f"{path}/retrieve", orthanc.ae_title)
    assert len(await orthanc.get("/instances")) == 100


async def test_orthanc_moves_what_it_names(orthanc, slices):
    resources = [
        {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.1", "SOPInstanceUID": f"1.2.3.1.{number}"}
        for number in (1, 3)
    ]
    async with known_to(orthanc, slices):
        await orthanc.post(
            "/modalities/ours/move", {"Level": "Instance", "TargetAet": orthanc.ae_title, "Resources": resources}
        )
    assert len(await orthanc.get("/instances")) == 2
    assert data_set_bytes(slices / "1.2.3.1.1.dcm") in await orthanc.instance("1.2.3.1.1")


async def test_orthanc_finds_nasty_patients(orthanc, tmp_path):
    write_nasty(tmp_path)
    async with known_to(orthanc, tmp_path):
        _, answers = await query(orthanc, "Study", StudyID="")
        assert len(answers) == len(NASTY)
        for name in ("sql", "like", "latin"):  # it shows all that it gets in one character set, by default Latin 1
            _, answers = await query(orthanc, "Study", PatientID="", StudyID=name, PatientName="")
            assert [answer["PatientID"] for answer in answers] == [NASTY[name]["PatientID"]]


async def test_what_orthanc_sends_is_kept_and_committed(orthanc, tmp_path):
    for path in FILES[:2]:
        await orthanc.upload(path)
    async with known_to(orthanc, tmp_path):
        names = await orthanc.get("/instances")
        await orthanc.post("/modalities/ours/store", names)
        assert len(contents(tmp_path)) == 2
        wanted = {"Resources": names, "DicomInstances": [["1.2.840.10008.5.1.4.1.1.2", "1.9"]]}
        report = (await orthanc.post("/modalities/ours/storage-commitment", wanted))["Path"]
        async with asyncio.timeout(DEADLINE):
            while (done := await orthanc.get(report))["Status"] == "Pending":
                await asyncio.sleep(0.05)
    assert done["Status"] == "Failure"
    assert {each["SOPInstanceUID"] for each in done["Success"]} == set(contents(tmp_path))
    assert [(each["SOPInstanceUID"], each["FailureReason"]) for each in done["Failures"]] == [("1.9", 0x0112)]
