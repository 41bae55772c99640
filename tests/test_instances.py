"""Files and data sets to be sent: what is read of them, which contexts they take, how they are converted."""

import io
import os
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from raw_peer import CT, data_set

import asyncdicom
from asyncdicom import Context, DataSetError, Instance
from asyncdicom.instances import convert, decode, decode_data_set, describe_data_set, encode, new_uid
from asyncdicom.part10 import FileMeta
from asyncdicom.uids import TRANSFER_SYNTAXES

FILES = sorted((Path(pydicom.__file__).parent / "data").rglob("*.dcm"))
# pydicom warns of values in its own test data, whenever it looks at them.
pytestmark = pytest.mark.filterwarnings("ignore:.*(Invalid value|got exception|MultiPixel):UserWarning")

IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_is_read_as_pydicom_reads_it_or_refused_with_a_reason(path):
    try:
        instance = asyncdicom.read_instance(path)
    except asyncdicom.FileFormatError as error:
        assert len(str(error)) > 20  # noqa: PT017 - which files are refused is pydicom's choice
        return
    theirs = pydicom.dcmread(path, stop_before_pixels=True)
    assert instance.sop_class_uid == theirs.get("SOPClassUID", theirs.file_meta.get("MediaStorageSOPClassUID"))
    assert instance.sop_instance_uid == theirs.get("SOPInstanceUID", theirs.file_meta.get("MediaStorageSOPInstanceUID"))
    assert instance.transfer_syntax_uid == theirs.file_meta.TransferSyntaxUID
    assert instance.offset + instance.length == path.stat().st_size


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "DICM"),
        (bytes(128) + b"DICM", "end|transfer syntax"),
        (FileMeta(CT, "1.2", EXPLICIT).encode(), "no data set"),
        (FileMeta(CT, "1.2", EXPLICIT).encode() + data_set(200)[:-1], "odd byte"),
        (FileMeta("", "", EXPLICIT).encode() + b"\x10\0\x10\0PN\2\0AB", "SOP Class UID"),
        (FileMeta("1.2.840.10008.1.3.10", "1.2", EXPLICIT).encode() + data_set(200), "DICOMDIR"),
        (FileMeta(CT, "1.2", DEFLATED).encode() + b"\xff" * 100, "deflated"),
    ],
    ids=["empty", "cut off", "no data set", "truncated", "no UIDs", "DICOMDIR", "not deflated"],
)
def test_what_cannot_be_sent_is_refused_with_the_reason(content, reason, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(asyncdicom.FileFormatError, match=reason):
        asyncdicom.read_instance(path)


def test_the_data_sets_uids_count_where_the_file_meta_information_says_otherwise(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(FileMeta("1.2.840.10008.5.1.4.1.1.4", "9.9.9", EXPLICIT).encode() + data_set(300))
    assert asyncdicom.read_instance(path)[:2] == (CT, "1.2.3.4")


def test_file_meta_information_longer_than_the_first_read_is_read_to_its_end(tmp_path):
    meta = FileMeta(CT, "1.2.3.4", EXPLICIT).encode()
    private = b"\2\0\2\1OB\0\0" + (50_000).to_bytes(4, "little") + bytes(50_000)
    path = tmp_path / "file"
    path.write_bytes(meta + private + data_set(300))
    assert asyncdicom.read_instance(path).length == 300


def shipped(name):
    """A file that ships inside pydicom; its own look-up would go to the network for others."""
    return Path(pydicom.__file__).parent / "data" / "test_files" / name


def an_instance(sop_class, syntax=EXPLICIT):
    return Instance(sop_class, "1.2.3", syntax)


def test_each_syntax_has_a_context_of_its_own_with_the_defaults_beside():
    jpeg = "1.2.840.10008.1.2.4.50"
    contexts = asyncdicom.contexts_for([an_instance("1.1", jpeg), an_instance("1.1"), an_instance("1.1")])
    assert contexts == [Context("1.1", (jpeg,)), Context("1.1", (EXPLICIT,)), Context("1.1", (IMPLICIT,))]
    assert asyncdicom.contexts_for([an_instance("1.1")], only_required=True) == [Context("1.1", (EXPLICIT,))]


@pytest.mark.parametrize("only_required", [True, False])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 128, 129, 400])
def test_instances_that_take_more_than_128_contexts_are_split(count, only_required):
    instances = [an_instance(f"1.2.{number}") for number in range(count)]
    groups = asyncdicom.split_by_contexts(instances, only_required=only_required)
    assert [instance for group in groups for instance in group] == instances
    counts = [len(asyncdicom.contexts_for(group, only_required=only_required)) for group in groups]
    assert max(counts) <= 128
    assert len(groups) == -(-count * (1 if only_required else 2) // 128)


def pixels(data, syntax):
    return pydicom.dcmread(io.BytesIO(FileMeta(CT, "1.2", syntax).encode() + data)).pixel_array


# None of more than 16 bits: in big endian we turn words of 16 bits as PS3.5 says and DCMTK does, pydicom whole pixels.
@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_bigendian.dcm", "ExplVR_BigEnd.dcm", "image_dfl.dcm"])
@pytest.mark.parametrize("target", [IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN])
def test_uncompressed_instances_are_converted_with_their_pixels_kept(name, target):
    path = shipped(name)
    syntax, data = convert(asyncdicom.read_instance(path), [target], decompress=False)
    assert syntax == target
    assert np.array_equal(pixels(data, target), pydicom.dcmread(path).pixel_array)


def test_a_compressed_instance_is_decompressed_only_when_that_is_allowed():
    path = shipped("MR_small_RLE.dcm")
    instance = asyncdicom.read_instance(path)
    with pytest.raises(asyncdicom.NoAcceptedContext, match="not allowed"):
        convert(instance, [EXPLICIT], decompress=False)
    syntax, data = convert(instance, [IMPLICIT, EXPLICIT], decompress=True)
    assert syntax == EXPLICIT
    assert np.array_equal(pixels(data, EXPLICIT), pydicom.dcmread(path).pixel_array)


def test_what_no_codec_can_decompress_says_so(tmp_path):
    data_set = pydicom.dcmread(shipped("JPEG2000.dcm"))
    data_set.file_meta.TransferSyntaxUID = (
        "1.2.840.10008.1.2.4.100"  # MPEG2: no codec of pydicom's, whatever is installed
    )
    data_set.save_as(tmp_path / "video.dcm")
    instance = asyncdicom.read_instance(tmp_path / "video.dcm")
    with pytest.raises(asyncdicom.NoAcceptedContext, match="cannot decompress"):
        convert(instance, [EXPLICIT], decompress=True)


def test_nothing_to_convert_to_says_so():
    instance = asyncdicom.read_instance(shipped("CT_small.dcm"))
    with pytest.raises(asyncdicom.NoAcceptedContext, match="no syntax"):
        convert(instance, ["1.2.840.10008.1.2.4.50"], decompress=True)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN])
def test_a_data_set_is_described_encoded_and_decoded_again(syntax):
    theirs = pydicom.dcmread(shipped("CT_small.dcm"))
    assert describe_data_set(theirs) == (CT, theirs.SOPInstanceUID, EXPLICIT)
    if syntax != BIG_ENDIAN:
        again = decode(encode(theirs, syntax), FileMeta(CT, "1.2", syntax), 1 << 20)
        assert again.PixelData == theirs.PixelData


def test_a_data_set_made_by_hand_is_explicit_vr_and_needs_its_uids():
    made = pydicom.Dataset()
    with pytest.raises(asyncdicom.FileFormatError, match="SOP Class UID"):
        describe_data_set(made)
    made.SOPClassUID, made.SOPInstanceUID = CT, "1.2.3"
    assert describe_data_set(made) == (CT, "1.2.3", EXPLICIT)


async def test_a_pydicom_data_set_is_sent_as_it_is_and_converted():
    received = []

    async def handler(request):
        received.append((request.transfer_syntax_uid, await request.data_set.decode()))
        return asyncdicom.Status.SUCCESS

    theirs = pydicom.dcmread(shipped("CT_small.dcm"))
    async with asyncdicom.serve("127.0.0.1", 0, c_store=handler) as server:
        for syntaxes in ((EXPLICIT,), (IMPLICIT,)):
            async with asyncdicom.connect("127.0.0.1", server.port, contexts=[Context(CT, syntaxes)]) as association:
                assert await association.c_store(theirs) == asyncdicom.Status.SUCCESS
    assert [syntax for syntax, _ in received] == [EXPLICIT, IMPLICIT]
    assert all(each.PixelData == theirs.PixelData for _, each in received)


def test_every_file_of_the_test_data_is_in_a_registered_syntax():
    found = set()
    for path in FILES:
        try:
            found.add(asyncdicom.read_instance(path).transfer_syntax_uid)
        except asyncdicom.FileFormatError:
            continue
    assert len(found & TRANSFER_SYNTAXES.keys()) > 10


def test_a_data_set_that_is_converted_is_not_changed_for_its_owner():
    theirs = pydicom.dcmread(shipped("MR_small_bigendian.dcm"))
    before = theirs.PixelData
    once = convert(theirs, [EXPLICIT], decompress=False)
    assert convert(theirs, [EXPLICIT], decompress=False) == once
    assert theirs.PixelData == before
    compressed = pydicom.dcmread(shipped("MR_small_RLE.dcm"))
    convert(compressed, [EXPLICIT], decompress=True)
    assert compressed.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.5"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(asyncdicom.FileFormatError, match="regular"):
        asyncdicom.read_instance(tmp_path / "pipe")


def test_contexts_are_for_files_and_data_sets_too():
    path = shipped("CT_small.dcm")
    instance = asyncdicom.read_instance(path)
    expected = asyncdicom.contexts_for([instance])
    for one in ([path], [str(path)], [pydicom.dcmread(path)], instance):
        assert asyncdicom.contexts_for(one) == expected


def test_what_cannot_be_sent_at_all_is_a_type_error_that_says_what_can():
    with pytest.raises(TypeError, match="path, an Instance or a pydicom Dataset"):
        describe_data_set(object())


def test_a_new_uid_is_a_valid_one_and_another_each_time():
    made = [new_uid() for _ in range(100)]
    assert len(set(made)) == 100
    assert all(pydicom.uid.UID(uid).is_valid and uid.startswith("2.25.") and len(uid) <= 44 for uid in made)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"])
def test_a_data_set_without_meta_comes_back_with_its_wild_cards(syntax):
    keys = Dataset()
    with pydicom.config.disable_value_validation():
        keys.StudyInstanceUID = "1.2.*"
        keys.InstanceNumber = ""
        keys.PatientName = "DOE*"
    decoded = decode_data_set(encode(keys, syntax), syntax)
    assert (decoded.StudyInstanceUID, decoded.PatientName, decoded.InstanceNumber) == ("1.2.*", "DOE*", None)


def test_a_data_set_without_meta_that_inflates_without_end_is_an_error():
    data = zlib.compress(bytes(1 << 20), wbits=-15)
    with pytest.raises(DataSetError, match="inflates to more"):
        decode_data_set(data, "1.2.840.10008.1.2.1.99", 1000)
