"""Query and retrieve (PS3.4 annex C) with real archives and their clients: DCMTK's and Orthanc, both ways."""

import contextlib
import io
import json
import sys
import urllib.error
from pathlib import Path

import pydicom
import pytest
from peers import batches, corpus, data_set_bytes, even, free_ports, run, running_dcmqrscp, stored, write_worklist_entry

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cli_processes import run_beside
from small_archive import SmallArchive, both_ways, ct_slices

import asyncdicom
from asyncdicom import uids

STUDIES = {"P1": "1.2.826.0.1.3680043.10.999.1", "P2": "1.2.826.0.1.3680043.10.999.2"}
LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")
HIGHER_KEYS = {
    "PATIENT": {},
    "STUDY": {"PatientID": "P1"},
    "SERIES": {"PatientID": "P1", "StudyInstanceUID": STUDIES["P1"]},
    "IMAGE": {"PatientID": "P1", "StudyInstanceUID": STUDIES["P1"], "SeriesInstanceUID": f"{STUDIES['P1']}.1"},
}
"""The unique keys above a level, without which a hierarchical query (PS3.4 C.4.1.2.1) is none."""
FOUND = {"PATIENT": ["P1", "P2"], "STUDY": [STUDIES["P1"]], "SERIES": [f"{STUDIES['P1']}.1"]}
UNIQUE = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}


def identifier(level, **keys):
    query = pydicom.Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in {UNIQUE[level]: "", **keys}.items():
        setattr(query, keyword, value)
    return query


def words(query):
    """An identifier on a command line, ours or DCMTK's."""
    return [word for each in query for word in ("-k", f"{each.keyword}={each.value}")]


def study(patient="P1"):
    return identifier("STUDY", PatientID=patient, StudyInstanceUID=STUDIES[patient])


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """The files of two patients' studies, three and two slices, by SOP Instance UID."""
    folder = tmp_path_factory.mktemp("slices")
    return {
        **ct_slices(folder / "P1", 3, study=STUDIES["P1"]),
        **ct_slices(folder / "P2", 2, study=STUDIES["P2"], patient="P2"),
    }


@pytest.fixture
async def theirs(request, slices, tmp_path):
    """An archive with the slices in it: DCMTK's or Orthanc."""
    async with contextlib.AsyncExitStack() as stack:
        archive = request.getfixturevalue(request.param)
        if request.param == "dcmtk":
            archive = await stack.enter_async_context(running_dcmqrscp(tmp_path / "dcmqrscp"))
        contexts = asyncdicom.contexts_for([asyncdicom.read_instance(path) for path in slices.values()])
        async with connect(archive, contexts=contexts) as association:
            for path in slices.values():
                assert await association.c_store(path) == asyncdicom.Status.SUCCESS
        yield archive


archives = pytest.mark.parametrize("theirs", ["dcmtk", "orthanc"], indirect=True)
models = pytest.mark.parametrize("model", ["PATIENT_ROOT", "STUDY_ROOT"])
levels = pytest.mark.parametrize("level", LEVELS)


def connect(archive, **options):
    options = {"calling_ae_title": "OURS", "called_ae_title": archive.ae_title, **options}
    return asyncdicom.connect("127.0.0.1", archive.port, **options)


async def destination(archive):
    """The port where the archive's destination OURS is."""
    if hasattr(archive, "destinations"):
        return archive.destinations["OURS"]
    (port,) = free_ports(1)
    await archive.register("OURS", port)
    return port


def expected(slices, patient="P1"):
    return {uid: data_set_bytes(path) for uid, path in slices.items() if uid.startswith(STUDIES[patient])}


class Kept(dict):
    """A C-STORE handler that keeps data sets by SOP Instance UID."""

    async def __call__(self, request):
        self[request.sop_instance_uid] = await request.data_set.read()
        return asyncdicom.Status.SUCCESS


GET_CONTEXTS = [
    "study root",
    asyncdicom.Context(uids.uid_of("CTImageStorage"), (uids.EXPLICIT_VR_LITTLE_ENDIAN,), scu=False, scp=True),
]


# Our client, their archives


@archives
@models
@levels
async def test_our_client_finds_at_every_level(theirs, model, level, slices):
    keys = {} if model == "STUDY_ROOT" and level == "PATIENT" else HIGHER_KEYS[level]
    if model == "STUDY_ROOT" and level == "PATIENT":
        level = "STUDY"  # the top of this model
    sop_class = getattr(uids, f"{model}_FIND")
    query = identifier(level, **keys)
    async with connect(theirs, contexts=[sop_class]) as association:
        responses = association.c_find(query, model=sop_class)
        found = sorted([match.data_set.get(UNIQUE[level]) async for match in responses])
    expected_ = sorted(uid for uid in slices if uid.startswith(STUDIES["P1"])) if level == "IMAGE" else FOUND[level]
    assert found == (expected_ if keys or level == "PATIENT" else sorted(STUDIES.values()))
    assert responses.status == asyncdicom.Status.SUCCESS


@archives
async def test_our_client_gets_what_it_stored(theirs, slices):
    kept = Kept()
    async with connect(theirs, contexts=GET_CONTEXTS, c_store=kept) as association:
        final = await association.c_get(study(), model=uids.STUDY_ROOT_GET)
    assert (final.status, final.completed, final.failed) == (asyncdicom.Status.SUCCESS, 3, 0)
    assert kept == expected(slices)


@archives
async def test_our_client_has_instances_moved_to_our_server(theirs, slices):
    kept = Kept()
    port = await destination(theirs)
    async with asyncdicom.serve("127.0.0.1", port, ae_title="OURS", c_store=kept):
        async with connect(theirs, contexts=["study root"]) as association:
            final = await association.c_move(study(), destination="OURS", model=uids.STUDY_ROOT_MOVE)
    assert (final.status, final.completed, final.failed) == (asyncdicom.Status.SUCCESS, 3, 0)
    assert kept == expected(slices)


@archives
async def test_an_association_is_good_after_a_query_was_left(theirs):
    async with connect(theirs, contexts=["study root"]) as association:
        responses = association.c_find(identifier("STUDY"), model=uids.STUDY_ROOT_FIND)
        async for _ in responses:
            break
        await responses.aclose()
        final = await association.c_find(study(), model=uids.STUDY_ROOT_FIND)
        assert final.status == asyncdicom.Status.SUCCESS


@archives
async def test_an_association_is_good_after_a_retrieval_was_left(theirs):
    kept = Kept()
    async with connect(theirs, contexts=GET_CONTEXTS, c_store=kept) as association:
        async with contextlib.aclosing(association.c_get(study(), model=uids.STUDY_ROOT_GET)) as responses:
            async for _ in responses:
                break
        final = await association.c_get(study("P2"), model=uids.STUDY_ROOT_GET)
    assert final.completed == 2


@archives
async def test_a_destination_that_is_unknown_is_a_failure_status(theirs):
    async with connect(theirs, contexts=["study root"]) as association:
        final = await association.c_move(study(), destination="NOBODY", model=uids.STUDY_ROOT_MOVE)
    assert final.status.is_failure


# Our tools, their archives


def peer(archive):
    return ("-c", f"{archive.ae_title}@127.0.0.1:{archive.port}")


@archives
async def test_our_findscu_finds(theirs):
    done = await run_beside(
        "findscu", "-S", "--json", "-L", "STUDY", "-k", "PatientID=P1", "-k", "StudyInstanceUID", *peer(theirs)
    )
    (match,) = [pydicom.Dataset.from_json(json.loads(line)) for line in done.stdout.splitlines()]
    assert (match.PatientID, match.StudyInstanceUID) == ("P1", STUDIES["P1"])


@archives
async def test_our_findscu_cancels(theirs):
    done = await run_beside("findscu", "-S", "-L", "STUDY", "-k", "StudyInstanceUID", "--cancel", "1", *peer(theirs))
    assert (done.returncode, done.stdout.count("StudyInstanceUID")) == (0, 1), done


@archives
async def test_our_getscu_gets(theirs, slices, tmp_path):
    folder = tmp_path / "got"
    folder.mkdir()
    done = await run_beside("getscu", "-S", *words(study()), "-od", folder, *peer(theirs))
    assert done.returncode == 0, done
    assert stored(folder) == expected(slices)


@archives
async def test_our_movescu_receives(theirs, slices, tmp_path):
    folder = tmp_path / "moved"
    folder.mkdir()
    port = await destination(theirs)
    done = await run_beside("movescu", "-S", "-aem", "OURS", "+P", port, *words(study()), "-od", folder, *peer(theirs))
    assert done.returncode == 0, done
    assert stored(folder) == expected(slices)


@archives
async def test_our_movescu_cancels(theirs):
    kept = Kept()
    port = await destination(theirs)
    line = ("movescu", "-S", "-aem", "OURS", "--cancel", "1", "--json", *words(study()), *peer(theirs))
    async with asyncdicom.serve("127.0.0.1", port, c_store=kept):
        for _ in range(20):  # the archive may be done before it hears of it
            done = await run_beside(*line)
            summary = json.loads(done.stdout)
            assert done.returncode == 0, done
            if summary["cancelled"]:
                break
            assert summary["status"] == "0000"
    assert summary["cancelled"]
    assert 1 <= len(kept) <= 3


async def test_our_findscu_finds_in_dcmtks_worklist(wlmscpfs):
    step = pydicom.Dataset()
    step.ScheduledStationAETitle, step.Modality, step.ScheduledProcedureStepID = "CT1", "CT", "S1"
    step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime = "20240102", "1000"
    step.ScheduledProcedureStepDescription, step.ScheduledPerformingPhysicianName = "Thorax", "Doc^Tor"
    entry = pydicom.Dataset()
    entry.PatientName, entry.PatientID, entry.AccessionNumber = "Work^List", "W1", "A1"
    entry.StudyInstanceUID, entry.RequestedProcedureID = "1.2.3", "R1"
    entry.RequestedProcedureDescription, entry.ScheduledProcedureStepSequence = "Thorax", [step]
    write_worklist_entry(wlmscpfs.folder / "1.wl", entry)
    step_key = "ScheduledProcedureStepSequence[0]"
    line = (
        "findscu",
        "-k",
        "PatientName",
        "-k",
        f"{step_key}.Modality=CT",
        "-k",
        f"{step_key}.ScheduledStationAETitle",
    )
    done = await run_beside(*line, *peer(wlmscpfs))
    assert "PatientName=Work^List\n" in done.stdout, done
    assert f"{step_key}.ScheduledStationAETitle=CT1\n" in done.stdout


# Their clients, our server


@pytest.fixture
async def ours(slices):
    """Our server with the slices in it; it knows where MOVESCU is, and other destinations that a test adds."""
    archive = SmallArchive(slices.values())
    (archive.destination_port,) = free_ports(1)
    archive.destinations = {"MOVESCU": ("127.0.0.1", archive.destination_port)}
    contexts = ["verification", "query/retrieve", *both_ways()]
    async with asyncdicom.serve(
        "127.0.0.1", 0, ae_title="OURS", contexts=contexts, move_destinations=archive.destinations, **archive.handlers()
    ) as server:
        archive.port = server.port
        yield archive


def called(archive):
    return ("-aec", "OURS", "127.0.0.1", archive.port)


@pytest.mark.usefixtures("dcmtk")
@levels
async def test_dcmtks_findscu_finds_at_every_level(ours, level, slices, tmp_path):
    code, output = await run(
        "findscu", "-P", *words(identifier(level, **HIGHER_KEYS[level])), "-X", "-od", tmp_path, *called(ours)
    )
    assert code == 0, output
    found = sorted(pydicom.dcmread(path)[UNIQUE[level]].value for path in tmp_path.glob("rsp*.dcm"))
    assert found == (FOUND[level] if level != "IMAGE" else sorted(expected(slices)))


@pytest.mark.usefixtures("dcmtk")
@pytest.mark.parametrize(
    "keys",
    [
        ["0008,0052=STUDY", "(0010,0010)=DOE*", "PatientID", "0020,000d=", "8,50=A"],
        [r"StudyInstanceUID=1.2\1.3", "StudyDate=20240101-20240131", "StudyTime=-12", r"0008,0061=CT\MR"],
        ["(0040,0100)[0].Modality=CT", "ScheduledProcedureStepSequence[0].(0040,0001)=X"],
        ["ReferencedStudySequence[1].ReferencedSOPInstanceUID=1.2", "RequestAttributesSequence[0]", "(0032,1064)"],
        ["ScheduledProcedureStepSequence[0].ScheduledProtocolCodeSequence[0].CodeValue=1", "PatientComments=a=b"],
        ["Rows=512", "InstanceNumber=7", "(0028,0009)=(0018,1063)", "PatientName=A", "PatientName=B"],
        ["PatientName=Yamada^Tarou=X", "PatientWeight=70.5", "AdditionalPatientHistory=a"],
    ],
)
async def test_a_query_on_the_command_line_is_the_same_of_dcmtks_findscu(ours, keys):
    line = [word for key in keys for word in ("-k", key)]
    await run("findscu", "-P", *line, *called(ours))
    await run_beside("findscu", "-P", *line, *called(ours))
    theirs_, ours_ = ours.identifiers
    assert ours_ == theirs_


@pytest.mark.usefixtures("dcmtk")
async def test_dcmtks_findscu_cancels(ours):
    ours.hold = 1
    code, output = await run("findscu", "-v", "-S", "--cancel", "1", *words(identifier("STUDY")), *called(ours))
    assert code == 0, output
    assert "Cancel" in output
    assert ours.was_cancelled.is_set()


@pytest.mark.usefixtures("dcmtk")
async def test_dcmtks_getscu_gets(ours, slices, tmp_path):
    code, output = await run("getscu", "-v", "-S", "+B", *words(study()), "-od", tmp_path, *called(ours))
    assert code == 0, output
    assert "Number of Completed Suboperations : 3" in output
    assert stored(tmp_path) == expected(slices)


REAL = [each for each in corpus() if each.transfer_syntax_uid == uids.EXPLICIT_VR_LITTLE_ENDIAN]
"""Real files, of many classes and with sequences of every form."""
NOT_PROPOSED = uids.uid_of("ColorPaletteStorage")
"""By DCMTK's getscu."""


@pytest.mark.usefixtures("dcmtk")
async def test_real_files_arrive_at_dcmtks_getscu_byte_for_byte(tmp_path):
    for number, batch in enumerate(batches(REAL)):
        folder = tmp_path / f"got{number}"
        folder.mkdir()
        archive = SmallArchive(each.path for each in batch)
        async with asyncdicom.serve(
            "127.0.0.1", 0, contexts=["study root", *both_ways()], **archive.handlers()
        ) as server:
            query = ("-k", "QueryRetrieveLevel=IMAGE", "-k", "SOPInstanceUID")
            _, output = await run("getscu", "-S", "+B", *query, "-od", folder, "127.0.0.1", server.port)
        known = {each.sop_instance_uid: even(data_set_bytes(each.path)) for each in batch}
        got = {uid: even(data) for uid, data in stored(folder).items()}
        assert got.items() <= known.items(), output
        assert set(got) == {each.sop_instance_uid for each in batch if each.sop_class_uid != NOT_PROPOSED}


@pytest.mark.usefixtures("dcmtk")
async def test_dcmtks_movescu_receives(ours, slices, tmp_path):
    line = ("movescu", "-v", "-S", "+P", ours.destination_port, *words(study()), "-od", tmp_path, *called(ours))
    code, output = await run(*line)
    assert code == 0, output
    assert stored(tmp_path) == expected(slices)


@pytest.mark.usefixtures("dcmtk")
async def test_dcmtks_movescu_cancels(ours, tmp_path):
    ours.hold = 1
    line = ("movescu", "-d", "-S", "--cancel", "1", "+P", ours.destination_port, *words(study()), "-od", tmp_path)
    _, output = await run(*line, *called(ours))
    assert "0xfe00" in output.lower(), output
    assert ours.was_cancelled.is_set()
    assert len(stored(tmp_path)) == 1


@pytest.mark.usefixtures("dcmtk")
async def test_dcmtks_movescu_hears_of_an_unknown_destination(ours):
    code, output = await run("movescu", "-v", "-S", "-aem", "NOBODY", *words(study()), *called(ours))
    assert code == 69, output
    assert "MoveDestinationUnknown" in output or "a801" in output.lower()


@pytest.fixture
async def orthanc_knows_ours(orthanc, ours):
    ours.destinations["ORTHANC"] = ("127.0.0.1", orthanc.port)
    await orthanc.register("OURS", ours.port)
    return orthanc


async def test_real_files_come_from_orthanc_as_it_has_them(orthanc):
    batch = batches(REAL)[0]
    known = {}
    for instance in batch:
        with contextlib.suppress(urllib.error.HTTPError):  # some have no Patient ID, which Orthanc must have
            await orthanc.upload(instance.path)
            known[instance.sop_instance_uid] = even(data_set_of(await orthanc.instance(instance.sop_instance_uid)))
    classes = {each.sop_class_uid for each in batch}
    contexts = [asyncdicom.Context(each, (uids.EXPLICIT_VR_LITTLE_ENDIAN,), scu=False, scp=True) for each in classes]
    kept = Kept()
    async with connect(orthanc, contexts=["study root", *contexts], c_store=kept) as association:
        for each in await orthanc.get("/studies?expand"):
            query = identifier("STUDY", StudyInstanceUID=each["MainDicomTags"]["StudyInstanceUID"])
            assert (await association.c_get(query, model=uids.STUDY_ROOT_GET)).status.is_success
    assert kept.keys() == known.keys()
    anew = {uid: data for uid, data in kept.items() if even(data) != known[uid]}
    assert len(anew) < len(kept) / 4, "most come byte for byte"
    for uid, data in anew.items():
        assert content(data) == content(known[uid])


def content(data):
    """A data set without what DCMTK's encoder makes anew: group lengths, lengths of sequences, trailing padding."""
    read = pydicom.dcmread(io.BytesIO(data), force=True)
    return pydicom.Dataset({each.tag: each for each in read if each.tag.element and each.tag != 0xFFFCFFFC})


async def test_orthanc_queries_us_and_retrieves_the_answers(orthanc_knows_ours, slices):
    orthanc = orthanc_knows_ours
    query = {"Level": "Study", "Query": {"PatientID": "P1", "StudyInstanceUID": ""}}
    found = await orthanc.post("/modalities/OURS/query", query)
    (index,) = await orthanc.get(f"{found['Path']}/answers")
    answer = await orthanc.get(f"{found['Path']}/answers/{index}/content?simplify")
    assert answer["StudyInstanceUID"] == STUDIES["P1"]
    await orthanc.post(f"{found['Path']}/answers/{index}/retrieve", "ORTHANC")
    for uid, data in expected(slices).items():
        assert data_set_of(await orthanc.instance(uid)) == data


async def test_orthanc_has_us_move_to_it(orthanc_knows_ours, slices):
    orthanc = orthanc_knows_ours
    move = {"Level": "Study", "Resources": [{"StudyInstanceUID": STUDIES["P2"]}], "TargetAet": "ORTHANC"}
    await orthanc.post("/modalities/OURS/move", move)
    for uid, data in expected(slices, "P2").items():
        assert data_set_of(await orthanc.instance(uid)) == data


def data_set_of(content):
    _, offset = asyncdicom.FileMeta.decode(content)
    return content[offset:]
