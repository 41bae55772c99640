import contextlib
import json

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

import asyncdicom
from asyncdicom.cli.keys import read_keys, read_query_file
from asyncdicom.cli.options import UsageError


def encoded(data_set, *, implicit=False):
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    write_dataset(buffer, data_set)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "word", ["0008,0052=STUDY", "(0008,0052)=STUDY", "QueryRetrieveLevel=STUDY", "8,52=STUDY", "(0008,52)=STUDY"]
)
def test_a_tag_is_a_keyword_or_two_numbers(word):
    assert encoded(read_keys([word])) == bytes.fromhex("08005200 43530600") + b"STUDY "


@pytest.mark.parametrize("word", ["PatientName", "PatientName=", "0010,0010", "(0010,0010)="])
def test_a_key_without_a_value_is_empty(word):
    assert encoded(read_keys([word])) == bytes.fromhex("10001000 504e0000")


def test_the_value_is_all_behind_the_first_equals_sign():
    assert read_keys(["PatientName=Yamada^Tarou=X^Y"]).PatientName == "Yamada^Tarou=X^Y"


def test_values_stand_between_backslashes():
    assert read_keys([r"StudyInstanceUID=1.2\1.3"]).StudyInstanceUID == ["1.2", "1.3"]
    assert read_keys([r"Rows=512\1024"]).Rows == [512, 1024]


def test_in_long_texts_a_backslash_is_a_character():
    assert read_keys([r"AdditionalPatientHistory=a\b"]).AdditionalPatientHistory == r"a\b"


@pytest.mark.parametrize("word", ["StudyDate=20240101-20241231", "StudyDate=-2024", "PatientName=*", "StudyTime=10-"])
def test_wildcards_and_ranges_are_no_errors(word):
    data = encoded(read_keys([word]))
    assert word.partition("=")[2].encode() in data


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("Rows=512", b"US\x02\0\0\x02"),
        ("InstanceNumber=07", b"IS\x02\x0007"),
        ("SliceThickness=1.50", b"DS\x04\x001.50"),
        ("ReferencePixelX0=-1", b"SL\x04\0\xff\xff\xff\xff"),
        ("FrameIncrementPointer=(0018,1063)", b"AT\x04\0\x18\0\x63\x10"),
        ("FrameIncrementPointer=00181063", b"AT\x04\0\x18\0\x63\x10"),
        ("SmallestImagePixelValue=1", b"US\x02\0\x01\0"),
        ("Rows", b"US\0\0"),
    ],
)
def test_numbers_and_tags_are_in_the_form_of_their_vr(word, value):
    assert encoded(read_keys([word]))[4:] == value


@pytest.mark.parametrize(
    "path",
    [
        "ScheduledProcedureStepSequence[0].Modality",
        "(0040,0100)[0].Modality",
        "(0040,0100)[0].(0008,0060)",
        "0040,0100[0].0008,0060",
    ],
)
def test_a_path_leads_into_sequences(path):
    (item,) = read_keys([f"{path}=CT"]).ScheduledProcedureStepSequence
    assert item.Modality == "CT"


def test_keys_of_one_item_come_together_and_items_before_it_are_made():
    step = "ScheduledProcedureStepSequence"
    words = [f"{step}[1].Modality=CT", f"{step}[1].ScheduledStationAETitle", f"{step}[1].{step}[0].Modality=MR"]
    first, second = read_keys(words)[step]
    assert not first
    assert (second.Modality, second.ScheduledStationAETitle, second[step][0].Modality) == ("CT", "", "MR")


@pytest.mark.parametrize(("word", "items"), [("ReferencedStudySequence", 0), ("ReferencedStudySequence[1]", 2)])
def test_a_sequence_may_be_empty_or_have_empty_items(word, items):
    assert len(read_keys([word]).ReferencedStudySequence) == items


def test_the_later_of_two_keys_counts_and_replaces_what_is_in_the_file():
    query = pydicom.Dataset()
    query.PatientName, query.PatientID = "A", "1"
    assert read_keys(["PatientName=B", "PatientName=C"], query) is query
    assert (query.PatientName, query.PatientID) == ("C", "1")


def test_text_outside_of_ascii_says_its_character_set():
    identifier = read_keys(["PatientName=Müller*"])
    assert identifier.SpecificCharacterSet == "ISO_IR 192"
    assert "Müller*".encode() in encoded(identifier)
    assert "SpecificCharacterSet" not in read_keys(["PatientName=Muller*"])
    assert read_keys(["0008,0005=ISO_IR 100", "PatientName=Müller"]).SpecificCharacterSet == "ISO_IR 100"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("PatientNam=A", "did you mean PatientName"),
        ("=A", "is no tag"),
        ("", "is no tag"),
        ("00080052=STUDY", "is no tag"),
        ("0008,0052,STUDY", "is no tag"),
        ("(0009,1001)=A", "private"),
        ("0008,0fff=A", "unknown"),
        ("0002,0010=A", "no part of a data set"),
        ("Modality[0].PatientName=A", "no sequence"),
        ("ReferencedStudySequence.PatientName=A", "which item"),
        ("ReferencedStudySequence[*].PatientName=A", "count from 0"),
        ("ReferencedStudySequence[1000].PatientName=A", "count from 0"),
        ("ReferencedStudySequence[0]=A", "an item has no value"),
        ("ReferencedStudySequence[0].", "is no tag"),
        ("ReferencedStudySequence=A", "a sequence has items"),
        ("Rows=many", "a whole number"),
        ("Rows=65536", "a whole number"),
        ("InstanceNumber=*", "without a value it matches all"),
        ("SliceThickness=thin", "a number"),
        ("FrameIncrementPointer=Rows", "a tag"),
        ("PixelData=A", "no text can say"),
        ("StudyDate=٢٠٢٤", "ASCII"),
        ("PatientName=\udc80", "not allowed"),
    ],
)
def test_what_is_wrong_with_a_key_is_said(word, message):
    with pytest.raises(UsageError, match=message) as caught:
        read_keys([word])
    assert str(caught.value).startswith("-k ")


@given(st.text())
def test_any_text_is_a_key_or_an_error_of_usage(word):
    with contextlib.suppress(UsageError):
        encoded(read_keys([word]))


@given(st.sampled_from(["PatientName=", "Rows=", "SliceThickness=", "0040,0100[0].", "AT=", "StudyDate="]), st.text())
def test_any_value_is_one_or_an_error_of_usage(start, rest):
    with contextlib.suppress(UsageError):
        encoded(read_keys([start + rest]))


QUERY = read_keys(["QueryRetrieveLevel=STUDY", "PatientName=A*", "ReferencedStudySequence[0].ReferencedSOPInstanceUID"])


def contents():
    meta = asyncdicom.FileMeta("1.2.3", "1.2.4", "1.2.840.10008.1.2.1").encode()
    yield "with meta", meta + encoded(QUERY)
    yield (
        "with implicit meta",
        meta.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0") + encoded(QUERY, implicit=True),
    )
    yield "explicit", encoded(QUERY)
    yield "implicit", encoded(QUERY, implicit=True)
    yield "JSON", json.dumps(QUERY.to_json_dict()).encode()
    yield "JSON array", json.dumps([QUERY.to_json_dict()]).encode()


@pytest.mark.parametrize(("form", "content"), list(contents()))
def test_a_query_file_is_dicom_or_json(tmp_path, form, content):
    file = tmp_path / "query"
    file.write_bytes(content)
    assert encoded(read_query_file(str(file))) == encoded(QUERY)


def test_a_query_file_loses_its_group_lengths(tmp_path):
    file = tmp_path / "query"
    file.write_bytes(bytes.fromhex("08000000 554c0400 0e000000") + encoded(QUERY))
    assert 0x00080000 not in read_query_file(str(file))


@pytest.mark.parametrize("content", [b"", b"no query at all", b"{", b"[]", b"[{}, {}]", b"\x02\0\x10\0UI\x02\x001\0"])
def test_another_file_is_an_error_of_usage(tmp_path, content):
    file = tmp_path / "query"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="query"):
        read_query_file(str(file))


def test_a_query_file_that_is_not_there_is_one_too(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_query_file(str(tmp_path / "missing"))
