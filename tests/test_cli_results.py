import contextlib
import io
import json

import pydicom
import pytest

from asyncdicom.cli import results
from asyncdicom.cli.exit_codes import ToolError
from asyncdicom.cli.keys import read_keys
from asyncdicom.cli.results import Extraction, columns, lines

STEP = "ScheduledProcedureStepSequence"


def decoded(data):
    """A data set as it comes from a peer, in implicit VR little endian."""
    return pydicom.dcmread(io.BytesIO(data), force=True)


def shown(matches, *keys, output=None, **options):
    output = output or io.StringIO()
    with contextlib.redirect_stdout(output):
        shower = results.results(read_keys(keys), as_json=False, **options)
        for match in matches:
            shower.add(match)
        shower.end()
    return output.getvalue()


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "dumb")
    return Terminal()


def test_lines_are_keys_again():
    words = ["QueryRetrieveLevel=STUDY", "PatientName=Doe^Jane", r"ModalitiesInStudy=CT\MR", f"{STEP}[0].Modality=CT"]
    assert sorted(lines(read_keys(words))) == sorted(words)
    assert read_keys(list(lines(read_keys(words)))) == read_keys(words)


def test_empty_values_private_elements_and_bytes_have_lines_too():
    data_set = read_keys(["PatientName", "ReferencedStudySequence"])
    data_set.add_new(0x00091001, "UN", b"1234")
    assert list(lines(data_set)) == ["ReferencedStudySequence=", "(0009,1001)=4 bytes", "PatientName="]


def test_without_a_terminal_a_match_is_lines_and_an_empty_one():
    assert shown([read_keys(["PatientName=A", "PatientID=1"])], "PatientID") == "PatientName=A\nPatientID=1\n\n"


def test_nothing_that_a_terminal_would_obey_is_shown(terminal):
    match = read_keys(["PatientName=A\x1b[2J", "PatientID=\x07"])
    for output in (io.StringIO(), terminal):
        text = shown([match], "PatientName", "PatientID", output=output)
        assert "[2J" in text
        assert not {"\x1b", "\x07"} & set(text)


def test_hidden_matches_are_not_shown():
    assert shown([read_keys(["PatientID=1"])], hidden=True) == ""


def test_json_is_an_object_per_line_of_the_dicom_json_model():
    output = io.StringIO()
    matches = [read_keys(["PatientName=Yamada^Tarou", r"ModalitiesInStudy=CT\MR"]), read_keys([f"{STEP}[0].Modality"])]
    with contextlib.redirect_stdout(output):
        shower = results.results(matches[0], as_json=True)
        for number, match in enumerate(matches, 1):
            shower.add(match)
            assert output.getvalue().count("\n") == number
    assert [pydicom.Dataset.from_json(json.loads(line)) for line in output.getvalue().splitlines()] == matches


def test_columns_are_the_keys_as_they_are_asked_for_those_in_sequences_too():
    keys = ["QueryRetrieveLevel=STUDY", "PatientName", f"{STEP}[0].Modality=CT", "ReferencedStudySequence"]
    assert [column.heading for column in columns(read_keys(keys))] == [
        "PatientName",
        "Modality",
        "ReferencedStudySequence",
    ]


@pytest.mark.parametrize(
    ("key", "match", "cell"),
    [
        ("PatientName", ["PatientName=Doe^Jane^M^Dr^PhD"], "Dr Doe, Jane M PhD"),
        ("PatientName", ["PatientName=Doe"], "Doe"),
        (
            "PatientName",
            ["PatientName=Yamada^Tarou=山田^太郎=やまだ^たろう"],
            "Yamada, Tarou (山田, 太郎, やまだ, たろう)",
        ),
        ("PatientName", ["PatientName"], ""),
        ("PatientName", [], ""),
        ("OtherPatientNames", [r"0010,1001=A^B\C^D"], "A, B, C, D"),
        ("ModalitiesInStudy", [r"ModalitiesInStudy=CT\MR"], r"CT\MR"),
        ("AdditionalPatientHistory", [f"AdditionalPatientHistory={'x' * 65}"], "x" * 63 + "…"),
        ("ReferencedStudySequence", ["ReferencedStudySequence[0].StudyDate"], "1 item"),
        ("ReferencedStudySequence", ["ReferencedStudySequence[1]"], "2 items"),
        (f"{STEP}[0].Modality", [f"{STEP}[0].Modality=CT", f"{STEP}[1].Modality=MR"], "CT; MR"),
        (f"{STEP}[0].Modality", [STEP], ""),
    ],
)
def test_a_cell_is_readable(key, match, cell):
    key = {"OtherPatientNames": "0010,1001"}.get(key, key)
    (column,) = columns(read_keys([key]))
    assert column.cell(read_keys(match)) == cell


def test_names_in_the_peers_character_set_are_readable():
    data = bytes.fromhex("08000500 0a000000") + b"ISO_IR 100" + bytes.fromhex("10001000 06000000") + b"M\xfcller"
    (column,) = columns(read_keys(["PatientName"]))
    assert column.cell(decoded(data)) == "Müller"
    assert "PatientName=Müller" in lines(decoded(data))


def test_a_terminal_gets_a_table(terminal):
    pytest.importorskip("rich")
    matches = [read_keys([f"PatientID={number}", "PatientName=[b]Doe[/b]^J"]) for number in range(3)]
    text = shown(matches, "PatientName", "PatientID", output=terminal)
    heading, _, *rows = [line.split() for line in text.splitlines() if line.strip()]
    assert heading == ["PatientName", "PatientID"]
    assert rows == [["[b]Doe[/b],", "J", str(number)] for number in range(3)]


def test_a_long_table_comes_in_parts(terminal, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setattr(results, "_CHUNK_ROWS", 2)

    def matches():
        for number in range(4):
            yield read_keys([f"PatientID=P{number}"])
            assert ("P1" in terminal.getvalue()) == (number > 0)

    assert shown(matches(), "PatientID", output=terminal).count("PatientID") == 2


EXPLICIT = "1.2.840.10008.1.2.1"
WORKLIST = "1.2.840.10008.5.1.4.31"


def test_extracted_files_are_numbered_and_dicom(tmp_path):
    extraction = Extraction(tmp_path, WORKLIST, 2)
    for number in range(3):
        extraction.add(bytes.fromhex("10002000 4c4f0200") + b"%d " % number, EXPLICIT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rsp0001.dcm", "rsp0002.dcm"]
    for number in range(2):
        read = pydicom.dcmread(tmp_path / f"rsp000{number + 1}.dcm")
        assert read == read_keys([f"PatientID={number}"])
        assert (read.file_meta.MediaStorageSOPClassUID, read.file_meta.TransferSyntaxUID) == (WORKLIST, EXPLICIT)


def test_extraction_without_a_limit_takes_all(tmp_path):
    extraction = Extraction(tmp_path, WORKLIST, 0)
    for _ in range(5):
        extraction.add(b"", EXPLICIT)
    assert len(list(tmp_path.iterdir())) == 5


def test_extraction_into_a_folder_that_is_not_there_ends_the_tool(tmp_path):
    with pytest.raises(ToolError, match="cannot be written"):
        Extraction(tmp_path / "missing", WORKLIST, 0).add(b"", EXPLICIT)
