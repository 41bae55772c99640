import json

import pytest
from cli_processes import data_set, run, write_instance

from asyncdicom.cli.demo import _is_same
from asyncdicom.cli.sample import write_multi_frame
from asyncdicom.instances import read_instance

DEFLATED = "1.2.840.10008.1.2.1.99"


def test_the_demo_stores_everything_as_it_was_sent(tmp_path):
    demo = run("demo", "--megabytes", 4, "--folder", tmp_path / "kept", "--json")
    result = json.loads(demo.stdout)
    assert (demo.returncode, result["identical"], result["failed"]) == (0, True, [])
    assert result["files"] == len(list((tmp_path / "kept").iterdir())) > 100
    assert sum(row["files"] for row in result["table"]) == result["files"]
    assert all(each["reason"] for each in result["not_sent"])


def test_the_demo_prints_a_table_and_totals(tmp_path):
    demo = run("demo", "--megabytes", 1, "--associations", 2)
    assert demo.returncode == 0
    assert "SOP class" in demo.stdout
    assert "over 2 associations" in demo.stdout
    assert demo.stdout.rstrip().endswith("identical: yes")


def test_the_demo_takes_no_words():
    assert run("demo", "x").returncode == 1


def test_a_folder_that_cannot_be_made_is_exit_code_45(tmp_path):
    (tmp_path / "file").touch()
    assert run("demo", "--folder", tmp_path / "file", "--megabytes", 1).returncode == 45


def test_the_large_instance_is_an_image(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    write_multi_frame(tmp_path / "large.dcm", 3)
    image = pydicom.dcmread(tmp_path / "large.dcm")
    assert image.pixel_array.shape == (6, 512, 512)
    assert image.SOPClassUID.name == "Multi-frame Grayscale Word Secondary Capture Image Storage"
    assert list(image.PageNumberVector) == [1, 2, 3, 4, 5, 6]
    assert (image.pixel_array[0] != image.pixel_array[1]).any()


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda data: data, True),
        (lambda data: data[:-1], False),
        (lambda data: data + b"\0", False),
        (lambda data: data[:-1] + b"x", False),
    ],
)
def test_a_changed_byte_is_a_difference(tmp_path, change, same):
    sent = write_instance(tmp_path / "sent.dcm", size=2 << 20)
    (tmp_path / "stored.dcm").write_bytes(change(sent.read_bytes()))
    assert _is_same(read_instance(sent), tmp_path / "stored.dcm") is same


@pytest.mark.parametrize(("pad", "same"), [(b"", False), (b"\0", True), (b"x", False), (b"\0\0", False)])
def test_a_deflated_data_set_of_odd_length_has_one_pad_byte(tmp_path, pad, same):
    sent = write_instance(tmp_path / "sent.dcm", syntax=DEFLATED)
    instance = read_instance(write_instance(tmp_path / "plain.dcm"))
    sent.write_bytes(sent.read_bytes() + (b"" if len(data_set(sent)) % 2 else b"\1"))
    length = len(data_set(sent))
    odd = instance._replace(
        path=str(sent), transfer_syntax_uid=DEFLATED, length=length, offset=sent.stat().st_size - length
    )
    (tmp_path / "stored.dcm").write_bytes(sent.read_bytes() + pad)
    assert _is_same(odd, tmp_path / "stored.dcm") is same
