import zlib
from contextlib import suppress
from dataclasses import fields
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset

from asyncdicom.elements import explicit_element, implicit_element
from asyncdicom.errors import FileFormatError
from asyncdicom.part10 import FileMeta
from asyncdicom.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
META = FileMeta(CT, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN, "1.9.8", "V1", "FROM", "SENDER", "RECEIVER")
META_BYTES = (
    bytes(128) + b"DICM"
    + b"\2\0\0\0UL\4\0" + (156).to_bytes(4, "little")
    + b"\2\0\1\0OB\0\0\2\0\0\0\0\1"
    + b"\2\0\2\0UI\x1a\x001.2.840.10008.5.1.4.1.1.2\0"
    + b"\2\0\3\0UI\6\x001.2.3\0"
    + b"\2\0\x10\0UI\x14\x001.2.840.10008.1.2.1\0"
    + b"\2\0\x12\0UI\6\x001.9.8\0"
    + b"\2\0\x13\0SH\2\0V1"
    + b"\2\0\x16\0AE\4\0FROM"
    + b"\2\0\x17\0AE\6\0SENDER"
    + b"\2\0\x18\0AE\x08\0RECEIVER"
)  # fmt: skip
DATA_SETS = {
    "explicit": explicit_element(0x00080016, b"UI", b"1.2\0"),
    "implicit": implicit_element(0x00080016, b"1.2\0"),
    "implicit with a long first element": implicit_element(0x00080001, bytes(70_000)),
    "big endian": b"\0\x08\0\x16UI\0\x041.2\0",
    "deflated": zlib.compress(explicit_element(0x00080016, b"UI", b"1.2\0"), wbits=-15),
}


def file_with(*elements):
    return bytes(128) + b"DICM" + b"".join(explicit_element(*each) for each in elements) + DATA_SETS["explicit"]


SYNTAX_ELEMENT = (0x00020010, b"UI", b"1.2.840.10008.1.2\0")


def test_file_meta_information_is_laid_out_as_the_standard_draws_it():
    assert META.encode() == META_BYTES


@pytest.mark.parametrize("data_set", list(DATA_SETS.values()), ids=list(DATA_SETS))
def test_file_meta_information_ends_where_the_data_set_begins(data_set):
    assert FileMeta.decode(META_BYTES + data_set) == (META, len(META_BYTES))


def test_a_view_is_read_like_bytes():
    assert FileMeta.decode(memoryview(META_BYTES + DATA_SETS["explicit"]))[0] == META


def test_what_is_not_given_is_this_implementation_or_left_out():
    meta, _ = FileMeta.decode(FileMeta(CT, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN).encode() + DATA_SETS["explicit"])
    assert meta.implementation_class_uid == IMPLEMENTATION_CLASS_UID
    assert meta.implementation_version_name == IMPLEMENTATION_VERSION_NAME
    assert (meta.source_ae_title, meta.sending_ae_title, meta.receiving_ae_title) == ("", "", "")


def test_pydicom_reads_what_is_written():
    read = dcmread(BytesIO(META_BYTES + DATA_SETS["explicit"]))
    assert read.file_meta.FileMetaInformationGroupLength == 156
    assert read.file_meta.FileMetaInformationVersion == b"\0\1"
    assert read.file_meta.MediaStorageSOPClassUID == CT
    assert read.file_meta.TransferSyntaxUID == EXPLICIT_VR_LITTLE_ENDIAN
    assert (read.file_meta.SourceApplicationEntityTitle, read.SOPClassUID) == ("FROM", "1.2")


@pytest.mark.parametrize(
    "syntax",
    [
        IMPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_BIG_ENDIAN,
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    ],
)
def test_what_pydicom_writes_is_read(syntax):
    data_set = Dataset()
    data_set.SOPClassUID, data_set.SOPInstanceUID, data_set.PatientID = CT, "1.2.3.4", "X"
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = syntax
    data_set.file_meta.PrivateInformationCreatorUID = "1.2.9"
    data_set.file_meta.PrivateInformation = bytes(300)
    file = BytesIO()
    dcmwrite(file, data_set, enforce_file_format=True)
    meta, offset = FileMeta.decode(file.getvalue())
    assert (meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid) == (CT, "1.2.3.4", syntax)
    assert offset == 144 + int.from_bytes(file.getvalue()[140:144], "little")


# What files in the field have


@pytest.mark.parametrize("length", [None, 0, 1, 0xFFFFFFFF])
def test_the_group_length_is_not_relied_upon(length):
    group_length = [] if length is None else [(0x00020000, b"UL", length.to_bytes(4, "little"))]
    meta, offset = FileMeta.decode(data := file_with(*group_length, SYNTAX_ELEMENT))
    assert meta.transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
    assert data[offset:] == DATA_SETS["explicit"]


def test_unknown_elements_of_the_group_are_passed():
    data = file_with(SYNTAX_ELEMENT, (0x00020026, b"UR", b"http://a"), (0x00020102, b"OB", bytes(100_000)))
    assert data[FileMeta.decode(data)[1] :] == DATA_SETS["explicit"]


def test_only_the_transfer_syntax_is_needed():
    meta, _ = FileMeta.decode(file_with(SYNTAX_ELEMENT))
    assert meta == FileMeta("", "", IMPLICIT_VR_LITTLE_ENDIAN, "", "")


@pytest.mark.parametrize("padding", [b"\0", b" ", b"\0\0\0"])
def test_values_lose_any_padding(padding):
    meta, _ = FileMeta.decode(file_with((0x00020003, b"UI", b"1.3" + padding), SYNTAX_ELEMENT))
    assert meta.sop_instance_uid == "1.3"


def test_the_preamble_may_hold_anything():
    data = b"MZ" + bytes(range(126)) + META_BYTES[128:] + DATA_SETS["explicit"]
    assert FileMeta.decode(data)[0] == META


# What is no DICOM file


@pytest.mark.parametrize("data", [b"", bytes(200), b"DICM" + bytes(200), bytes(128) + b"DICN" + bytes(50)])
def test_without_the_prefix_it_is_no_dicom_file(data):
    with pytest.raises(FileFormatError, match="DICM"):
        FileMeta.decode(data)


def test_file_meta_information_that_is_not_all_there_is_refused_wherever_it_ends():
    for end in range(len(META_BYTES)):
        with pytest.raises(FileFormatError):
            FileMeta.decode(META_BYTES[:end])


def test_an_element_longer_than_the_file_is_refused():
    data = file_with(SYNTAX_ELEMENT)[:-12] + b"\2\0\2\1OB\0\0\xff\xff\xff\xff" + bytes(100)
    with pytest.raises(FileFormatError, match="cannot be read beyond byte"):
        FileMeta.decode(data)


@pytest.mark.parametrize("elements", [[], [(0x00020003, b"UI", b"1.3\0")], [(0x00020010, b"UI", b"")]])
def test_without_a_transfer_syntax_it_is_refused(elements):
    with pytest.raises(FileFormatError, match="names no transfer syntax"):
        FileMeta.decode(file_with(*elements))


# Properties

uids = st.text("0123456789.", min_size=1, max_size=64)
texts = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=16)


@given(
    st.builds(FileMeta, uids, uids, uids, uids, texts, texts, texts, texts),
    st.sampled_from(list(DATA_SETS.values())),
)
def test_any_file_meta_information_reads_back_as_itself(meta, data_set):
    data = meta.encode()
    assert len(data) % 2 == 0
    assert FileMeta.decode(data + data_set) == (meta, len(data))


@given(st.binary(max_size=120), st.booleans())
def test_any_bytes_are_file_meta_information_or_a_file_format_error(data, with_prefix):
    with suppress(FileFormatError):
        meta, offset = FileMeta.decode(bytes(128) + b"DICM" + data if with_prefix else data)
        assert all(isinstance(getattr(meta, field.name), str) for field in fields(meta))
        assert 132 <= offset <= 132 + len(data)


@given(st.data())
def test_damaged_file_meta_information_is_read_or_is_a_file_format_error(data):
    damaged = bytearray(META_BYTES + DATA_SETS["explicit"])
    for position in data.draw(st.lists(st.integers(128, len(damaged) - 1), min_size=1, max_size=4)):
        damaged[position] = data.draw(st.integers(0, 255))
    with suppress(FileFormatError):
        assert FileMeta.decode(damaged)[1] <= len(damaged)
