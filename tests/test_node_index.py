import contextlib
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_files import CT, NASTY, make, write, write_nasty
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.datadict import dictionary_VR, tag_for_keyword

import asyncdicom
from asyncdicom.instances import encode
from asyncdicom.node.index import KEYS, LEVELS, Index, Selection, available, columns, file_name, read_row
from asyncdicom.services.matching import Matcher

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")


@pytest.fixture
def index(tmp_path):
    made = Index(tmp_path)
    yield made
    made.close()


def find(index, level, **keys):
    """What is found at a level, all pages of it."""
    identifier = Dataset()
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    matcher = Matcher(identifier)
    selection = Selection(level, *matcher.conditions(columns(level)))
    found, after = [], None
    while True:
        page = index.find(selection, matcher, [int(element.tag) for element in identifier], after)
        found += page.matches
        after = page.after
        if after is None:
            return found


def select(index, **uids):
    return index.paths(Selection("IMAGE", [f"{name} = ?" for name in uids], list(uids.values())))


# The table


def test_a_folder_is_taken_up_with_its_folders(index, tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    write(tmp_path / "a" / "b" / "any name", make())
    assert index.scan() == 1
    assert select(index) == [str(tmp_path / "a" / "b" / "any name")]


def test_the_name_of_a_file_need_not_be_text(index, tmp_path):
    name = os.fsdecode(b"\xff\xfe.dcm")
    write(tmp_path / name, make())
    assert index.scan() == 1
    assert select(index) == [str(tmp_path / name)]
    assert index.holds([(CT, "1.2.3.1.1")]) == [True]


def test_what_is_no_instance_is_passed_over(index, tmp_path):
    (tmp_path / "text.txt").write_text("not DICOM")
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / ".hidden").mkdir()
    write(tmp_path / ".hidden", make(1))
    write(tmp_path / ".part", make(2))
    write(tmp_path / "no study", make(3, StudyInstanceUID=""))
    assert index.scan() == 0


def test_what_is_passed_over_is_told(index, tmp_path, caplog):
    caplog.set_level("INFO", "asyncdicom")
    (tmp_path / "broken").write_bytes(bytes(128) + b"DICM" + bytes(100))
    index.scan()
    assert "broken" in caplog.text


def test_of_several_files_of_an_instance_the_newest_counts(index, tmp_path):
    for name, time in (("b", 3), ("a", 1), ("c", 2)):
        os.utime(write(tmp_path / name, make(PatientName=name)), (time, time))
    index.scan()
    assert [match.PatientName for match in find(index, "PATIENT", PatientName="")] == ["b"]


def test_the_file_of_an_instance_is_replaced_where_it_is(index, tmp_path):
    place = write(tmp_path / "first", make(PatientName="old"))
    index.scan()
    part = write(tmp_path / ".part", make(PatientName="new"))
    assert index.take(part, CT, "1.2.3.1.1") == place
    assert dcmread(place).PatientName == "new"
    assert [match.PatientName for match in find(index, "PATIENT", PatientName="")] == ["new"]
    assert not part.exists()


def test_an_instance_whose_folder_is_gone_gets_another_place(index, tmp_path):
    (tmp_path / "sub").mkdir()
    place = write(tmp_path / "sub", make())
    index.scan()
    place.unlink()
    place.parent.rmdir()
    part = write(tmp_path / ".part", make())
    assert index.take(part, CT, "1.2.3.1.1") == tmp_path / "1.2.3.1.1.dcm"
    assert index.holds([(CT, "1.2.3.1.1")]) == [True]


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"SOPInstanceUID": "1.9"}, "another instance"),
        ({"SOPClassUID": "1.9"}, "another instance"),
        ({"StudyInstanceUID": ""}, "no StudyInstanceUID"),
        ({"SeriesInstanceUID": ""}, "no SeriesInstanceUID"),
    ],
)
def test_a_file_that_cannot_be_indexed_is_not_taken(index, tmp_path, elements, message):
    part = write(tmp_path / ".part", make(**elements))
    with pytest.raises(asyncdicom.FileFormatError, match=message):
        index.take(part, CT, "1.2.3.1.1")
    assert select(index) == []


@pytest.mark.parametrize(
    "uid", ["../../etc/passwd", "/etc/passwd", "1..2", "", "1" * 65, "1.2\0", "CON", "ä", "\udcff"]
)
def test_what_is_no_uid_leads_to_no_path(uid):
    name = file_name(uid)
    assert name.removesuffix(".dcm").isalnum()
    assert len(name) == 68


def test_a_uid_is_the_name_of_its_file():
    assert file_name("1.2.840.1") == "1.2.840.1.dcm"


def test_files_come_series_by_series(index, tmp_path):
    for number in (10, 9, 1):
        for series in ("2", "1"):
            write(tmp_path, make(number, series=series))
    index.scan()
    names = [os.path.basename(path) for path in select(index)]
    assert names == [f"1.2.3.{series}.{number}.dcm" for series in (1, 2) for number in (1, 9, 10)]


def test_an_instance_is_held_if_its_file_is_there(index, tmp_path):
    path = write(tmp_path, make())
    index.scan()
    references = [(CT, "1.2.3.1.1"), ("1.9", "1.2.3.1.1"), (CT, "1.9")]
    assert index.holds(references) == [True, None, False]
    path.unlink()
    assert index.holds(references) == [False, None, False]


# Queries


def test_each_level_has_an_entity_for_each_unique_key(index, tmp_path):
    for study, patient in (("1.1", "A"), ("1.2", "A"), ("1.3", "B")):
        for series in ("1", "2"):
            for number in (1, 2, 3):
                write(tmp_path, make(number, study=study, series=series, PatientID=patient))
    index.scan()
    assert [len(find(index, level, PatientID="")) for level in LEVELS] == [2, 3, 6, 18]
    assert [len(find(index, level, PatientID="B")) for level in LEVELS] == [1, 1, 2, 6]


def test_what_is_asked_for_is_counted_and_gathered(index, tmp_path):
    write(tmp_path, make(1, Modality="MR"))
    write(tmp_path, make(2, Modality="MR"))
    write(tmp_path, make(3, series="2", Modality="CT"))
    write(tmp_path, make(4, study="1.4"))
    index.scan()
    (patient,) = find(
        index,
        "PATIENT",
        NumberOfPatientRelatedStudies="",
        NumberOfPatientRelatedSeries="",
        NumberOfPatientRelatedInstances="",
    )
    assert [element.value for element in patient] == [2, 3, 4]
    (study,) = find(
        index,
        "STUDY",
        StudyInstanceUID="1.2.3",
        ModalitiesInStudy="",
        SOPClassesInStudy="",
        NumberOfStudyRelatedSeries="",
        NumberOfStudyRelatedInstances="",
    )
    assert [element.value for element in study] == [["CT", "MR"], CT, "1.2.3", 2, 3]
    series = find(index, "SERIES", StudyInstanceUID="1.2.3", NumberOfSeriesRelatedInstances="")
    assert [each.NumberOfSeriesRelatedInstances for each in series] == [2, 1]


def test_what_is_counted_and_gathered_can_be_a_key(index, tmp_path):
    write(tmp_path, make(1, Modality="MR"))
    write(tmp_path, make(2, study="1.4", Modality="CT"))
    index.scan()
    assert [match.StudyInstanceUID for match in find(index, "STUDY", StudyInstanceUID="", ModalitiesInStudy="MR")] == [
        "1.2.3"
    ]


def test_an_instance_tells_how_it_is_stored(index, tmp_path):
    write(tmp_path, make(Rows=512, ImageType=["ORIGINAL", "PRIMARY"]), "1.2.840.10008.1.2.2")
    index.scan()
    identifier = Dataset.from_json('{"00280010": {"vr": "US"}}')
    identifier.AvailableTransferSyntaxUID = identifier.InstanceAvailability = identifier.ImageType = ""
    (match,) = find(index, "IMAGE", **{element.keyword: element.value for element in identifier})
    assert match.AvailableTransferSyntaxUID == "1.2.840.10008.1.2.2"
    assert match.Rows == 512
    assert match.InstanceAvailability == "ONLINE"
    assert match.ImageType == ["ORIGINAL", "PRIMARY"]


def test_more_than_a_page_is_found_in_pages(index, tmp_path):
    for number in range(250):
        write(tmp_path, make(number))
    index.scan()
    numbers = [int(match.InstanceNumber) for match in find(index, "IMAGE", InstanceNumber="", StudyInstanceUID="1.2.3")]
    assert sorted(numbers) == list(range(250))
    assert [match.InstanceNumber for match in find(index, "IMAGE", InstanceNumber="249")] == [249]


@pytest.mark.parametrize("name", NASTY)
def test_nasty_values_are_found(index, tmp_path, name):
    write_nasty(tmp_path)
    index.scan()
    patient = NASTY[name]
    for keyword in ("PatientID", "PatientName"):
        found = find(index, "STUDY", StudyID="", **{keyword: patient[keyword]})
        assert name in [match.StudyID for match in found], keyword
        if patient[keyword] and "*" not in patient[keyword]:
            assert len(found) == 1
        assert getattr(next(each for each in found if each.StudyID == name), keyword) == patient[keyword]


def test_nasty_values_harm_nobody(index, tmp_path):
    write_nasty(tmp_path)
    index.scan()
    for patient in NASTY.values():
        find(index, "PATIENT", PatientID=patient["PatientID"])
    assert len(find(index, "PATIENT", PatientID="")) == len(NASTY)


@pytest.mark.parametrize("name", NASTY)
def test_what_is_found_can_be_encoded_as_it_was(index, tmp_path, name):
    write_nasty(tmp_path)
    index.scan()
    (match,) = find(index, "STUDY", PatientName="", PatientID="", StudyID=name)
    original = make(**NASTY[name])
    for keyword in ("PatientName", "PatientID"):
        one, other = Dataset(), Dataset()
        for target, source in ((one, match), (other, original)):
            target[keyword] = source[keyword]
            if charset := source.get("SpecificCharacterSet"):
                target.SpecificCharacterSet = charset
        assert encode(one, "1.2.840.10008.1.2") == encode(other, "1.2.840.10008.1.2")


def test_characters_without_a_character_set_are_taken_for_latin(index, tmp_path):
    content = write(tmp_path / "file", make(PatientID="X_Y")).read_bytes()
    (tmp_path / "file").write_bytes(content.replace(b"X_Y", b"X\xe4Y"))
    index.scan()
    (match,) = find(index, "PATIENT", PatientID="")
    assert (match.PatientID, match.SpecificCharacterSet) == ("XäY", "ISO_IR 100")


def test_an_answer_names_a_character_set_only_if_it_needs_one(index, tmp_path):
    write(tmp_path, make(PatientName="Müller", SpecificCharacterSet="ISO_IR 100"))
    index.scan()
    assert "SpecificCharacterSet" not in find(index, "PATIENT", PatientID="")[0]
    assert find(index, "PATIENT", PatientName="")[0].SpecificCharacterSet == "ISO_IR 100"


def test_a_number_that_is_none_is_answered_empty(index, tmp_path):
    content = write(tmp_path / "file", make(987)).read_bytes()
    (tmp_path / "file").write_bytes(content.replace(b"IS\x04\x00987 ", b"IS\x04\x00abc "))
    index.scan()
    (match,) = find(index, "IMAGE", InstanceNumber="")
    assert match.InstanceNumber is None


@given(st.data())
def test_a_damaged_file_has_a_row_or_is_refused(data):
    name = data.draw(st.sampled_from(["CT_small.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm"]))
    content = bytearray(Path(get_testdata_file(name)).read_bytes()[:4000])
    for at, value in data.draw(st.lists(st.tuples(st.integers(132, 3999), st.integers(0, 255)), max_size=20)):
        content[at : at + value // 128] = bytes([value])
    with tempfile.NamedTemporaryFile() as file, contextlib.suppress(asyncdicom.FileFormatError):
        file.write(content)
        file.flush()
        assert all(isinstance(text, str) for text in read_row(Path(file.name)).values())


# Tables


def test_every_key_is_what_the_dictionary_says():
    for keys in KEYS.values():
        for keyword, (tag, vr) in keys.items():
            assert tag_for_keyword(keyword) == tag
            assert dictionary_VR(tag) == vr


def test_computed_keys_are_what_the_dictionary_says():
    for level in LEVELS:
        for tag, (vr, _) in available(level).items():
            assert dictionary_VR(tag) == vr


def test_the_required_and_unique_keys_of_the_standard_are_kept():
    required = {  # Tables C.6-1 to C.6-4
        "PATIENT": {"PatientName", "PatientID"},
        "STUDY": {"StudyDate", "StudyTime", "AccessionNumber", "StudyID", "StudyInstanceUID"},
        "SERIES": {"Modality", "SeriesNumber", "SeriesInstanceUID"},
        "IMAGE": {"InstanceNumber", "SOPInstanceUID"},
    }
    for level, keywords in required.items():
        assert keywords <= KEYS[level].keys()


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm", "JPEG2000.dcm"])
def test_a_row_is_read_in_every_transfer_syntax(name):
    path = Path(get_testdata_file(name))
    row, data_set = read_row(path), dcmread(path)
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "PatientID", "Modality", "Rows", "InstanceNumber"):
        assert row[keyword] == str(data_set.get(keyword) or "").strip()
    assert row["AvailableTransferSyntaxUID"] == data_set.file_meta.TransferSyntaxUID
