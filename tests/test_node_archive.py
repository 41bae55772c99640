import asyncio
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from node_files import CT, EXPLICIT, NASTY, make, write, write_nasty
from pydicom import Dataset, dcmread

import asyncdicom
from asyncdicom import Context, Status
from asyncdicom.elements import implicit_element
from asyncdicom.node.archive import Archive
from asyncdicom.services.query_retrieve import MODEL_OF, QueryOptions, RetrieveOptions
from asyncdicom.services.references import Reference
from asyncdicom.uids import (
    PATIENT_ROOT_FIND,
    PATIENT_ROOT_GET,
    SERVICE_CLASSES,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
)

PATIENT_STUDY_FIND = SERVICE_CLASSES["patient/study only"][0]
QUERIES = [*SERVICE_CLASSES["query/retrieve"], *SERVICE_CLASSES["patient/study only"]]
GETTING = [*QUERIES, Context(CT, (EXPLICIT,), scu=True, scp=True)]


@asynccontextmanager
async def archive(folder, contexts=QUERIES, *, peers=None, **options):
    """An association with an archive of this folder, whose AE title is ARCHIVE."""
    async with (
        asyncio.timeout(60),
        Archive(folder) as node,
        asyncdicom.serve("127.0.0.1", 0, services=node.services, move_destinations=peers) as server,
        asyncdicom.connect(
            "127.0.0.1", server.port, called_ae_title="ARCHIVE", contexts=contexts, **options
        ) as association,
    ):
        association.port = server.port
        yield association


def identifier(level, **keys):
    made = Dataset()
    made.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(made, keyword, value)
    return made


async def find(association, level, model=STUDY_ROOT_FIND, **keys):
    """The matches; what ends with another status than success is an error."""
    responses = association.c_find(identifier(level, **keys), model=model)
    matches = [response.data_set async for response in responses]
    assert responses.final.status == Status.SUCCESS, responses.final.status
    return matches


class Keeper:
    """A C-STORE handler that keeps data sets, as they come, by SOP Instance UID."""

    def __init__(self):
        self.kept = {}

    async def store(self, request):
        self.kept[request.sop_instance_uid] = await request.data_set.read()
        return Status.SUCCESS


def data_sets(folder):
    """The data sets in the files of a folder, by SOP Instance UID."""
    found = {}
    for path in Path(folder).glob("*.dcm"):
        content = path.read_bytes()
        meta, offset = asyncdicom.FileMeta.decode(content)
        found[meta.sop_instance_uid] = content[offset:]
    return found


# Storage


async def test_what_is_stored_is_found(tmp_path):
    async with archive(tmp_path, [*QUERIES, CT]) as association:
        assert await association.c_store(make()) == Status.SUCCESS
        (match,) = await find(association, "STUDY", StudyInstanceUID="", PatientName="doe*")
    assert (match.StudyInstanceUID, match.PatientName) == ("1.2.3", "Doe^John")
    assert dcmread(tmp_path / "1.2.3.1.1.dcm").PatientName == "Doe^John"


async def test_an_instance_that_comes_again_replaces_the_earlier(tmp_path):
    async with archive(tmp_path, [*QUERIES, CT]) as association:
        for name in ("First", "Second"):
            assert await association.c_store(make(PatientName=name)) == Status.SUCCESS
        (match,) = await find(
            association, "IMAGE", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.1", PatientName=""
        )
    assert match.PatientName == "Second"
    assert [path.name for path in tmp_path.iterdir()] == ["1.2.3.1.1.dcm"]


async def test_an_instance_that_says_nothing_of_its_study_is_refused(tmp_path):
    async with archive(tmp_path, [*QUERIES, CT]) as association:
        status = await association.c_store(make(StudyInstanceUID=""))
        assert await find(association, "STUDY", StudyInstanceUID="") == []
    assert (status, status.error_comment) == (0xA900, "the data set has no StudyInstanceUID")
    assert list(tmp_path.iterdir()) == []


async def test_an_instance_whose_uid_is_a_path_stays_in_the_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.warns(UserWarning, match="Invalid value for VR UI"):
        hostile = make(SOPInstanceUID="../escaped")
    async with archive(tmp_path / "folder", [*QUERIES, CT]) as association:
        assert await association.c_store(hostile) == Status.SUCCESS
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert len(list((tmp_path / "folder").glob("*.dcm"))) == 1


async def test_an_archive_begins_with_what_its_folder_has(tmp_path):
    write(tmp_path, make())
    async with archive(tmp_path) as association:
        assert len(await find(association, "STUDY", StudyInstanceUID="")) == 1


async def test_what_does_not_come_whole_leaves_nothing(tmp_path):
    async with archive(tmp_path, [*QUERIES, CT]) as association:
        large = make(PixelData=bytes(1 << 20))
        large.BitsAllocated, large["PixelData"].VR = 16, "OW"
        storing = asyncio.ensure_future(association.c_store(large))
        while not storing.done() and not list(tmp_path.iterdir()):
            await asyncio.sleep(0)
        storing.cancel()
        await asyncio.gather(storing, return_exceptions=True)
        await association.abort()
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


async def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        async with Archive(tmp_path / "nowhere"):
            pass


# Queries


async def test_a_match_says_its_level_and_where_to_retrieve_it(tmp_path):
    write(tmp_path, make())
    async with archive(tmp_path) as association:
        (match,) = await find(association, "STUDY", StudyInstanceUID="", InstanceAvailability="")
    assert [element.value for element in match] == ["STUDY", "ARCHIVE", "ONLINE", "1.2.3"]


@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
@pytest.mark.parametrize(
    ("model", "level", "above"),
    [
        (PATIENT_ROOT_FIND, "PATIENT", {}),
        (PATIENT_ROOT_FIND, "STUDY", {"PatientID": "P1"}),
        (PATIENT_ROOT_FIND, "SERIES", {"PatientID": "P1", "StudyInstanceUID": "1.2.3"}),
        (
            PATIENT_ROOT_FIND,
            "IMAGE",
            {"PatientID": "P1", "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.1"},
        ),
        (STUDY_ROOT_FIND, "STUDY", {}),
        (STUDY_ROOT_FIND, "SERIES", {"StudyInstanceUID": "1.2.3"}),
        (STUDY_ROOT_FIND, "IMAGE", {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.1"}),
        (PATIENT_STUDY_FIND, "PATIENT", {}),
        (PATIENT_STUDY_FIND, "STUDY", {"PatientID": "P1"}),
    ],
)
async def test_a_query_names_one_entity_of_each_level_above(tmp_path, model, level, above):
    write(tmp_path, make())
    async with archive(tmp_path) as association:
        assert len(await find(association, level, model, **above)) == 1
        for keyword, value in above.items():
            for wrong in ("", "*", [value, "1.9"]):
                responses = association.c_find(identifier(level, **{**above, keyword: wrong}), model=model)
                status = (await responses).status
                assert (status, status.error_comment) == (0xA900, f"{level} level needs one value of {keyword}")


@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
@pytest.mark.parametrize(
    ("model", "level"),
    [(STUDY_ROOT_FIND, "PATIENT"), (PATIENT_STUDY_FIND, "SERIES"), (STUDY_ROOT_FIND, ""), (STUDY_ROOT_FIND, "study")],
)
async def test_a_level_that_the_model_does_not_have_is_refused(tmp_path, model, level):
    async with archive(tmp_path) as association:
        status = (await association.c_find(identifier(level), model=model)).status
    assert status == 0xA900
    assert status.offending_element == (0x00080052,)


async def test_relational_queries_may_be_negotiated(tmp_path):
    for study in ("1.1", "1.2"):
        write(tmp_path, make(study=study))
    wanted = Context(STUDY_ROOT_FIND, extended=QueryOptions(relational=True).encode())
    async with archive(tmp_path, [wanted]) as association:
        assert QueryOptions.decode(association.extended[STUDY_ROOT_FIND]).relational
        assert len(await find(association, "IMAGE", SOPInstanceUID="", PatientID="P1")) == 2


async def test_date_and_time_may_be_negotiated_to_be_one(tmp_path):
    write(tmp_path, make(StudyDate="20200111", StudyTime="08"))
    keys = {"StudyDate": "20200110-20200112", "StudyTime": "12-13"}
    async with archive(tmp_path) as association:
        assert len(await find(association, "STUDY", **keys)) == 0
    wanted = Context(STUDY_ROOT_FIND, extended=QueryOptions(combined_datetime=True).encode())
    async with archive(tmp_path, [wanted]) as association:
        assert len(await find(association, "STUDY", **keys)) == 1


async def test_only_what_there_is_is_agreed_to(tmp_path):
    wanted = Context(STUDY_ROOT_FIND, extended=bytes([1] * 9))
    async with archive(tmp_path, [wanted]) as association:
        agreed = QueryOptions.decode(association.extended[STUDY_ROOT_FIND])
    assert agreed == QueryOptions(relational=True, combined_datetime=True, empty_values=True, multiple_values=True)


async def test_keys_that_are_not_supported_find_everything_and_are_answered_empty(tmp_path):
    write(tmp_path, make())
    keys = identifier("STUDY", StudyInstanceUID="", Modality="US", PatientMotherBirthName="Roe")
    keys.ReferencedStudySequence = [Dataset()]
    keys.ReferencedStudySequence[0].ReferencedSOPInstanceUID = "1.9"
    keys.add_new(0x00091001, "LO", "private")
    async with archive(tmp_path) as association:
        responses = association.c_find(keys, model=STUDY_ROOT_FIND)
        (match,) = [response.data_set async for response in responses]
    assert match.Modality == match.PatientMotherBirthName == ""
    assert list(match.ReferencedStudySequence) == []
    assert 0x00091001 in match


@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
async def test_a_key_that_makes_no_sense_is_refused_with_its_name(tmp_path):
    async with archive(tmp_path) as association:
        status = (await association.c_find(identifier("STUDY", StudyDate="TODAY"), model=STUDY_ROOT_FIND)).status
    assert status == 0xA900
    assert status.error_comment.startswith("StudyDate: ")


@pytest.mark.filterwarnings("ignore:Invalid value for VR IS:UserWarning")
async def test_a_star_in_a_number_finds_everything(tmp_path):
    write(tmp_path, make())
    keys = {0x00080052: b"IMAGE ", 0x0020000D: b"1.2.3\0", 0x0020000E: b"1.2.3.1\0", 0x00200013: b"* ", 0x00280010: b""}
    query = b"".join(implicit_element(tag, value) for tag, value in sorted(keys.items()))
    async with archive(tmp_path, [Context(STUDY_ROOT_FIND, ("1.2.840.10008.1.2",))]) as association:
        (match,) = [each.data_set async for each in association.c_find(query, model=STUDY_ROOT_FIND)]
    assert match.InstanceNumber == 1


@pytest.mark.parametrize("name", NASTY)
async def test_nasty_patients_are_stored_and_found(tmp_path, name):
    write_nasty(tmp_path)
    patient = dict(NASTY[name])
    charset = patient.pop("SpecificCharacterSet", "ISO_IR 192")
    async with archive(tmp_path) as association:
        for keyword, value in patient.items():
            found = await find(association, "STUDY", SpecificCharacterSet=charset, StudyID="", **{keyword: value})
            (match,) = [each for each in found if each.StudyID == name]
            assert getattr(match, keyword) == value


async def test_a_name_is_found_in_another_character_set_than_it_has(tmp_path):
    write_nasty(tmp_path)
    async with archive(tmp_path) as association:
        found = await find(association, "STUDY", SpecificCharacterSet="ISO_IR 192", StudyID="", PatientName="=山田*")
    assert {match.StudyID: match.SpecificCharacterSet for match in found} == {
        "utf8": "ISO_IR 192",
        "japanese": ["", "ISO 2022 IR 87"],
    }


async def test_a_query_that_is_cancelled_ends(tmp_path):
    for number in range(250):
        write(tmp_path, make(number, study=f"1.2.{number}"))
    async with archive(tmp_path) as association:
        responses = association.c_find(identifier("STUDY", StudyInstanceUID=""), model=STUDY_ROOT_FIND)
        async for _ in responses:
            break
        await responses.aclose()
        assert len(await find(association, "STUDY", StudyInstanceUID="")) == 250


# Retrieval


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """A thousand small slices: two studies of ten series."""
    folder = tmp_path_factory.mktemp("slices")
    for number in range(1000):
        study = "1.2.1" if number < 500 else "1.2.2"
        made = make(number, study=study, series=str(number // 50), PixelData=bytes([number % 251]) * 512)
        made.BitsAllocated, made["PixelData"].VR = 16, "OW"
        write(folder, made)
    return folder


async def test_a_thousand_slices_come_by_c_get_as_they_are(slices):
    keeper = Keeper()
    async with archive(slices, GETTING, c_store=keeper.store) as association:
        wanted = identifier("PATIENT", PatientID="P1")
        final = await association.c_get(wanted, model=PATIENT_ROOT_GET)
    assert (final.status, final.completed, final.failed, final.warning) == (Status.SUCCESS, 1000, 0, 0)
    assert keeper.kept == data_sets(slices)


async def test_a_thousand_slices_go_by_c_move_as_they_are(slices):
    keeper = Keeper()
    async with asyncdicom.serve("127.0.0.1", 0, ae_title="DEST", c_store=keeper.store) as destination:
        async with archive(slices, peers={"DEST": ("127.0.0.1", destination.port)}) as association:
            wanted = identifier("STUDY", StudyInstanceUID=["1.2.1", "1.2.2"])
            final = await association.c_move(wanted, destination="DEST", model=STUDY_ROOT_MOVE)
    assert (final.status, final.completed, final.failed, final.warning) == (Status.SUCCESS, 1000, 0, 0)
    assert keeper.kept == data_sets(slices)


@pytest.mark.parametrize(
    ("level", "keys", "count"),
    [
        ("STUDY", {"StudyInstanceUID": "1.2.1"}, 500),
        ("STUDY", {"StudyInstanceUID": ["1.2.1", "1.2.2", "1.9"]}, 1000),
        ("SERIES", {"StudyInstanceUID": "1.2.1", "SeriesInstanceUID": ["1.2.1.0", "1.2.1.1", "1.2.2.12"]}, 100),
        (
            "IMAGE",
            {"StudyInstanceUID": "1.2.1", "SeriesInstanceUID": "1.2.1.0", "SOPInstanceUID": ["1.2.1.0.1", "1.2.1.0.2"]},
            2,
        ),
        ("STUDY", {"StudyInstanceUID": "1.9"}, 0),
        ("STUDY", {"StudyInstanceUID": "1.2.1", "PatientName": "Nobody"}, 500),
    ],
)
async def test_what_the_unique_keys_name_is_retrieved(slices, level, keys, count):
    keeper = Keeper()
    async with archive(slices, GETTING, c_store=keeper.store) as association:
        final = await association.c_get(identifier(level, **keys), model=STUDY_ROOT_GET)
    assert (final.status, final.completed) == (Status.SUCCESS, count)
    assert len(keeper.kept) == count


@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
@pytest.mark.parametrize(
    ("level", "keys"),
    [
        ("PATIENT", {"PatientID": "P1"}),
        ("STUDY", {}),
        ("STUDY", {"StudyInstanceUID": ""}),
        ("STUDY", {"StudyInstanceUID": "*"}),
        ("SERIES", {"SeriesInstanceUID": "1.2.1.0"}),
        ("SERIES", {"StudyInstanceUID": ["1.2.1", "1.2.2"], "SeriesInstanceUID": "1.2.1.0"}),
        ("IMAGE", {"SOPInstanceUID": "1.2.1.0.1"}),
    ],
)
async def test_a_retrieval_without_its_unique_keys_is_refused(slices, level, keys):
    async with archive(slices, GETTING, c_store=Keeper().store) as association:
        assert (await association.c_get(identifier(level, **keys), model=STUDY_ROOT_GET)).status == 0xA900


async def test_relational_retrievals_may_be_negotiated(slices):
    keeper = Keeper()
    relational = Context(STUDY_ROOT_GET, extended=RetrieveOptions(relational=True).encode())
    async with archive(slices, [relational, GETTING[-1]], c_store=keeper.store) as association:
        await association.c_get(identifier("IMAGE", SOPInstanceUID="1.2.1.0.1"), model=STUDY_ROOT_GET)
    assert list(keeper.kept) == ["1.2.1.0.1"]


async def test_a_patient_whose_id_has_wild_cards_is_one_of_those_found_but_not_retrieved_by_it(tmp_path):
    write_nasty(tmp_path)
    async with archive(tmp_path, GETTING, c_store=Keeper().store) as association:
        final = await association.c_get(identifier("PATIENT", PatientID="a*b?"), model=PATIENT_ROOT_GET)
    assert final.status == 0xA900


async def test_an_unknown_move_destination_is_refused(slices):
    async with archive(slices) as association:
        wanted = identifier("STUDY", StudyInstanceUID="1.2.1")
        final = await association.c_move(wanted, destination="NOBODY", model=STUDY_ROOT_MOVE)
    assert final.status == 0xA801


async def test_a_file_that_has_gone_is_a_failed_sub_operation(tmp_path):
    paths = [write(tmp_path, make(number)) for number in (1, 2)]
    keeper = Keeper()
    async with archive(tmp_path, GETTING, c_store=keeper.store) as association:
        paths[0].unlink()
        final = await association.c_get(identifier("STUDY", StudyInstanceUID="1.2.3"), model=STUDY_ROOT_GET)
    assert (final.status, final.completed, final.failed) == (0xB000, 1, 1)


async def test_a_retrieval_that_is_cancelled_ends(slices):
    keeper = Keeper()
    async with archive(slices, GETTING, c_store=keeper.store) as association:
        responses = association.c_get(identifier("STUDY", StudyInstanceUID="1.2.1"), model=STUDY_ROOT_GET)
        async for _ in responses:
            break
        await responses.aclose()
        assert 0 < len(keeper.kept) < 500
        assert await association.c_get(identifier("STUDY", StudyInstanceUID="1.2.2"), model=STUDY_ROOT_GET)


# Side by side


async def test_storing_and_finding_go_on_side_by_side(tmp_path):
    async with archive(tmp_path, [*QUERIES, CT]) as one:
        async with asyncdicom.connect("127.0.0.1", one.port, contexts=QUERIES) as other:

            async def store():
                for number in range(100):
                    assert await one.c_store(make(number)) == Status.SUCCESS

            async def ask():
                keys = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.1"}
                while len(await find(other, "IMAGE", SOPInstanceUID="", **keys)) < 100:
                    pass

            await asyncio.gather(store(), ask())


def test_every_model_of_the_archive_has_three_services():
    services = Archive(".").services
    assert {context.abstract_syntax for context in services[1].contexts} == set(QUERIES)
    assert all(uid in MODEL_OF for uid in QUERIES)


async def test_what_is_committed_is_on_stable_storage(tmp_path, monkeypatch):
    synced, fsync = set(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.add(os.fstat(file).st_ino), fsync(file)))
    path = write(tmp_path, make())
    async with Archive(tmp_path) as node:
        assert await node.check([Reference(CT, "1.2.3.1.1"), Reference(CT, "1.9")]) == {"1.9": 0x0112}
    assert synced == {path.stat().st_ino, tmp_path.stat().st_ino}


async def test_the_first_query_need_not_import(tmp_path):
    code = f"""if True:
        import asyncio, sys
        from asyncdicom.node.archive import Archive
        async def main():
            async with Archive({str(tmp_path)!r}):
                print("pydicom.datadict" in sys.modules)
        asyncio.run(main())"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert (await process.communicate())[0].split() == [b"True"]
