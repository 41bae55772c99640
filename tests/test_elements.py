import struct
import tracemalloc
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from asyncdicom.elements import (
    explicit_element,
    implicit_element,
    inflate_head,
    iterate_explicit,
    pad_text,
    pad_uid,
    scan,
)
from asyncdicom.errors import DataSetError
from asyncdicom.uids import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    transfer_syntax,
)

IMPLICIT = transfer_syntax(IMPLICIT_VR_LITTLE_ENDIAN)
EXPLICIT = transfer_syntax(EXPLICIT_VR_LITTLE_ENDIAN)
BIG_ENDIAN = transfer_syntax(EXPLICIT_VR_BIG_ENDIAN)
SYNTAXES = [IMPLICIT, EXPLICIT, BIG_ENDIAN]
SOP_CLASS, SOP_INSTANCE, STUDY = 0x00080016, 0x00080018, 0x0020000D
WANTED = (SOP_CLASS, SOP_INSTANCE, STUDY)
UNDEFINED = 0xFFFFFFFF
# fmt: off
SHORT_LENGTH = [
    "AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO",
    "LT", "PN", "SH", "SL", "SS", "ST", "TM", "UI", "UL", "US",
]
LONG_LENGTH = [
    "OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR",
    "UT", "UV",
]
# fmt: on
every_syntax = pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)


def element(tag, value, syntax, vr=b"UI", length=None):
    """An element as PS3.5 7.1 lays it out; ``length`` to announce another one than it has."""
    order = "<" if syntax.little_endian else ">"
    length = len(value) if length is None else length
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if not syntax.explicit_vr or tag >> 16 == 0xFFFE:
        return head + struct.pack(order + "I", length) + value
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return head + vr + b"\0\0" + struct.pack(order + "I", length) + value
    return head + vr + struct.pack(order + "H", length) + value


def sequence(tag, *items, syntax, undefined):
    """A sequence whose lengths are all undefined, or all defined."""
    length = UNDEFINED if undefined else None
    item_end = element(0xFFFEE00D, b"", syntax) if undefined else b""
    sequence_end = element(0xFFFEE0DD, b"", syntax) if undefined else b""
    value = b"".join(element(0xFFFEE000, item, syntax, length=length) + item_end for item in items)
    return element(tag, value, syntax, b"SQ", length) + sequence_end


# Writing


@pytest.mark.parametrize(("uid", "value"), [("", b""), ("1.2", b"1.2\0"), ("1.23", b"1.23")])
def test_a_uid_is_padded_with_a_nul(uid, value):
    assert pad_uid(uid) == value


@pytest.mark.parametrize(("text", "value"), [("", b""), ("odd", b"odd "), ("even", b"even"), ("\u4e2d", b"? ")])
def test_text_is_padded_with_a_space(text, value):
    assert pad_text(text) == value


def test_an_implicit_element_is_laid_out_as_the_standard_draws_it():
    assert implicit_element(0x00100020, b"ID") == bytes.fromhex("1000 2000 02000000") + b"ID"


@pytest.mark.parametrize("vr", SHORT_LENGTH)
def test_these_representations_have_a_16_bit_length(vr):
    assert explicit_element(0x00100020, vr.encode(), b"ID") == b"\x10\0\x20\0" + vr.encode() + b"\2\0ID"


@pytest.mark.parametrize("vr", LONG_LENGTH)
def test_these_representations_have_a_32_bit_length(vr):
    assert explicit_element(0x00100020, vr.encode(), b"ID") == b"\x10\0\x20\0" + vr.encode() + b"\0\0\2\0\0\0ID"


def test_flat_elements_are_found_with_their_ends():
    data = b"head" + explicit_element(0x00020001, b"OB", b"\0\1") + explicit_element(0x00020010, b"UI", b"1.2\0")
    found = [(tag, bytes(value), end) for tag, value, end in iterate_explicit(data, 4)]
    assert found == [(0x00020001, b"\0\1", 18), (0x00020010, b"1.2\0", 30)]


def test_a_flat_element_that_is_not_whole_ends_the_search():
    data = explicit_element(0x00020010, b"UI", b"1.2\0") + explicit_element(0x00020012, b"OB", b"ab")
    for cut in range(1, 14):
        assert len(list(iterate_explicit(data[:-cut]))) == 1


# Scanning


@every_syntax
def test_wanted_values_are_found_and_end_the_search(syntax):
    data = b"".join(element(tag, f"1.{tag}".encode(), syntax) for tag in WANTED)
    assert scan(data, syntax, WANTED) == ({tag: f"1.{tag}".encode() for tag in WANTED}, True)


@every_syntax
def test_a_tag_behind_the_wanted_ones_ends_the_search(syntax):
    data = element(SOP_CLASS, b"1.2\0", syntax) + element(0x00200010, b"ID", syntax, b"SH")
    assert scan(data, syntax, WANTED) == ({SOP_CLASS: b"1.2\0"}, True)


@every_syntax
def test_a_head_without_all_wanted_values_asks_for_more(syntax):
    data = element(SOP_CLASS, b"1.2\0", syntax)
    assert scan(data, syntax, WANTED) == ({SOP_CLASS: b"1.2\0"}, False)
    assert scan(b"", syntax, WANTED) == ({}, False)


@every_syntax
def test_a_value_that_is_not_whole_is_not_found(syntax):
    data = element(SOP_CLASS, b"1.2\0", syntax) + element(SOP_INSTANCE, b"1.2.3.4.", syntax)
    for cut in range(1, 15):
        assert scan(data[:-cut], syntax, WANTED) == ({SOP_CLASS: b"1.2\0"}, False)


@every_syntax
@pytest.mark.parametrize("undefined", [False, True])
def test_values_inside_sequences_are_not_taken(syntax, undefined):
    inner = sequence(0x00081199, element(SOP_INSTANCE, b"9.9\0", syntax), syntax=syntax, undefined=undefined)
    items = (inner + element(STUDY, b"9.9\0", syntax), b"", element(STUDY, b"9.8\0", syntax))
    data = sequence(0x00081140, *items, syntax=syntax, undefined=undefined) + element(STUDY, b"1.2\0", syntax)
    assert scan(data, syntax, WANTED) == ({STUDY: b"1.2\0"}, False)


@every_syntax
@pytest.mark.parametrize("undefined", [False, True])
def test_an_empty_sequence_is_passed(syntax, undefined):
    data = sequence(0x00081140, syntax=syntax, undefined=undefined) + element(STUDY, b"1.2\0", syntax)
    assert scan(data, syntax, [STUDY]) == ({STUDY: b"1.2\0"}, True)


@every_syntax
def test_group_lengths_and_private_elements_are_passed(syntax):
    data = element(0x00080000, b"\x40\0\0\0", syntax, b"UL") + element(SOP_CLASS, b"1.2\0", syntax)
    data += element(0x00090010, b"PRIVATE ", syntax, b"LO") + element(0x00091001, b"1234", syntax, b"UN")
    assert scan(data + element(STUDY, b"1.3\0", syntax), syntax, [SOP_CLASS, STUDY])[0] == {
        SOP_CLASS: b"1.2\0",
        STUDY: b"1.3\0",
    }


@every_syntax
def test_a_view_can_be_scanned_like_bytes(syntax):
    data = memoryview(element(SOP_CLASS, b"1.2\0", syntax))
    assert scan(data, syntax, [SOP_CLASS]) == ({SOP_CLASS: b"1.2\0"}, True)


@pytest.mark.parametrize("vr", [b"\0\0", b"  ", b"1A", b"??"])
def test_without_a_value_representation_it_is_no_explicit_data_set(vr):
    with pytest.raises(DataSetError, match="at byte 12"):
        scan(element(SOP_CLASS, b"1.2\0", EXPLICIT) + element(SOP_INSTANCE, b"1.2\0", EXPLICIT, vr), EXPLICIT, WANTED)


@pytest.mark.parametrize("length", [0x7FFFFFFF, 0xFFFFFFFE])
def test_a_length_near_4_gib_takes_no_memory(length):
    data = element(SOP_CLASS, b"", EXPLICIT, b"OB", length=length)
    tracemalloc.start()
    try:
        assert scan(data, EXPLICIT, WANTED) == ({}, False)
        assert tracemalloc.get_traced_memory()[1] < 16384
    finally:
        tracemalloc.stop()


@every_syntax
def test_sequences_may_be_nested_64_deep_and_no_deeper(syntax):
    data = element(0x00081140, b"", syntax, b"SQ", UNDEFINED) + element(0xFFFEE000, b"", syntax, length=UNDEFINED)
    assert scan(data * 32, syntax, WANTED) == ({}, False)
    with pytest.raises(DataSetError, match="nested deeper than 64"):
        scan(data * 33, syntax, WANTED)


@every_syntax
def test_a_megabyte_of_nested_sequences_is_refused_at_once(syntax):
    data = element(0x00081140, b"", syntax, b"SQ", UNDEFINED) + element(0xFFFEE000, b"", syntax, length=UNDEFINED)
    with pytest.raises(DataSetError):
        scan(data * 50_000, syntax, WANTED)


@every_syntax
@pytest.mark.parametrize("undefined", [False, True])
def test_what_pydicom_writes_is_found(syntax, undefined):
    inner = Dataset()
    inner.ReferencedSOPInstanceUID = "1.2.3"
    inner.StudyInstanceUID = "9.9"
    data_set = Dataset()
    data_set.SOPClassUID, data_set.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5"
    data_set.ReferencedImageSequence = Sequence([inner, Dataset(), inner])
    data_set["ReferencedImageSequence"].is_undefined_length = undefined
    data_set.PatientName = "Doe^Jane"
    data_set.StudyInstanceUID, data_set.Rows = "1.2.3.4", 512
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = not syntax.explicit_vr, syntax.little_endian
    write_dataset(file, data_set)
    found, is_over = scan(file.getvalue(), syntax, [*WANTED, 0x00100010])
    assert is_over
    assert {tag: value.rstrip(b"\0 ").decode() for tag, value in found.items()} == {
        SOP_CLASS: "1.2.840.10008.5.1.4.1.1.2",
        SOP_INSTANCE: "1.2.3.4.5",
        STUDY: "1.2.3.4",
        0x00100010: "Doe^Jane",
    }


# Inflating


def raw_deflate(data):
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def test_the_head_of_a_deflated_data_set_is_inflated():
    data = bytes(range(256)) * 10
    assert inflate_head(raw_deflate(data), 10_000) == data
    assert inflate_head(raw_deflate(data), 100) == data[:100]


def test_a_deflated_head_may_be_cut_anywhere():
    data = bytes(range(256)) * 4
    stream = raw_deflate(data)
    for end in range(len(stream)):
        assert data.startswith(inflate_head(stream[:end], 10_000))


@pytest.mark.parametrize("trailer", [b"\0", b"\0\0\0", b"rubbish"])
def test_what_follows_the_end_of_the_deflated_stream_is_ignored(trailer):
    assert inflate_head(raw_deflate(b"data set") + trailer, 100) == b"data set"


def test_a_deflate_bomb_is_inflated_to_the_limit_only():
    bomb = raw_deflate(bytes(20_000_000))
    tracemalloc.start()
    try:
        assert inflate_head(bomb, 4096) == bytes(4096)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("data", [b"\xff\xff\xff", zlib.compress(b"with a header")])
def test_what_is_not_deflated_is_a_data_set_error(data):
    with pytest.raises(DataSetError, match="deflated"):
        inflate_head(data, 100)


# Properties

tags = st.sampled_from([*WANTED, 0x00080005, 0x00081140, 0x00100010, 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0x7FE00010])
lengths = st.none() | st.just(UNDEFINED) | st.integers(0, 40)
syntaxes = st.sampled_from(SYNTAXES)


@st.composite
def heads(draw):
    syntax = draw(syntaxes)
    data = b""
    for _ in range(draw(st.integers(0, 8))):
        vr = draw(st.sampled_from((b"UI", b"SQ", b"OB", b"UN", b"LO", b"\0\0")))
        length = draw(lengths)
        if syntax.explicit_vr and vr in (b"UI", b"LO", b"\0\0") and length == UNDEFINED:
            length = 0xFFFF
        data += element(draw(tags), draw(st.binary(max_size=10)), syntax, vr, length)
    return syntax, data


@given(heads() | st.tuples(syntaxes, st.binary(max_size=100)))
def test_any_bytes_are_scanned_or_are_a_data_set_error(head):
    syntax, data = head
    with suppress(DataSetError):
        found, is_over = scan(data, syntax, WANTED)
        assert found.keys() <= set(WANTED)
        assert is_over in (True, False)


@given(st.lists(st.tuples(st.integers(0x00080001, 0x0020FFFF), st.binary(max_size=9)), max_size=8), syntaxes)
def test_more_bytes_never_take_back_what_fewer_have_told(elements, syntax):
    data = b"".join(element(tag, value, syntax, b"LO") for tag, value in sorted(dict(elements).items()))
    wanted = [tag for tag, _ in elements[::2]] or [STUDY]
    whole, _ = scan(data, syntax, wanted)
    for end in range(len(data)):
        found, is_over = scan(data[:end], syntax, wanted)
        assert found.items() <= whole.items()
        assert not is_over or found == whole


@given(
    st.lists(
        st.tuples(st.integers(0, 0xFFFFFFFF), st.sampled_from((b"OB", b"UI", b"UT", b"LO")), st.binary(max_size=9))
    )
)
def test_flat_elements_read_back_as_they_were_written(elements):
    data = b"".join(explicit_element(*each) for each in elements)
    assert [(tag, bytes(value)) for tag, value, _ in iterate_explicit(data)] == [
        (tag, value) for tag, _, value in elements
    ]


@given(st.binary(max_size=100))
def test_any_bytes_are_flat_elements_up_to_a_point(data):
    ends = [end for _, _, end in iterate_explicit(data)]
    assert ends == sorted(set(ends))
    assert all(end <= len(data) for end in ends)


@given(st.binary(max_size=100), st.integers(1, 1000))
def test_any_bytes_inflate_within_the_limit_or_are_a_data_set_error(data, limit):
    with suppress(DataSetError):
        assert len(inflate_head(data, limit)) <= limit


def test_an_element_of_unknown_vr_and_length_is_walked_through_as_implicit_vr():
    head = b"\x09\0\x01\x10UN\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff"
    head += b"\x08\0\x18\0\2\0\0\0ab" + b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    head += b"\x20\0\x0d\0UI\4\x001.2\0"
    assert scan(head, EXPLICIT, (0x0020000D,)) == ({0x0020000D: b"1.2\0"}, True)
