import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.cli.naming import FIELDS, Pattern, safe_text, safe_uid

FOLDER = Path("/folder")
EVERYTHING = Pattern("{PatientID}/{StudyInstanceUID}/{Modality}.{SOPInstanceUID}.dcm")
HOSTILE = (
    "..",
    ".",
    "../../etc/passwd",
    "/etc/passwd",
    "..\\..\\windows",
    "C:\\x",
    "C:x",
    "\\\\server\\share",
    "a/b",
    "a\\b",
    "a\0b",
    "a\nb",
    "\x1b[2J",
    "\x7f",
    ".hidden",
    "-rf",
    "~root",
    "name.",
    "name ",
    " . ",
    "CON",
    "con.txt",
    "NUL",
    "aux.dcm",
    "COM1",
    "lpt9.x.y",
    "CONIN$",
    "a:b",
    "a*b?",
    '"<>|',
    "$(id)",
    "`id`",
    "%2e%2e%2f",
    "x" * 65,
    "x" * 70000,
    "1." * 500,
    "Müller",
    "山田",
    "\u202egnp.exe",
    "\ud800",
    "a~b",
)
SEPARATORS = set("/\\:")


def path_of(**values):
    return EVERYTHING.path(FOLDER, {**dict.fromkeys(FIELDS, "1.2.3"), **values})


def is_harmless(name):
    return (
        0 < len(name) <= 255
        and name.isascii()
        and name.isprintable()
        and not SEPARATORS & set(name)
        and name[0] not in ".-~ "
        and name[-1] not in ". "
        and name.split(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT9", "CONIN$"}
    )


@pytest.mark.parametrize("field", ["PatientID", "StudyInstanceUID", "Modality", "SOPInstanceUID"])
@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_a_hostile_value_stays_one_harmless_part_of_the_path(field, value):
    path = path_of(**{field: value})
    assert path.is_relative_to(FOLDER)
    assert len(path.parts) == len(FOLDER.parts) + 3
    assert all(map(is_harmless, path.parts[len(FOLDER.parts) :]))


@pytest.mark.parametrize("safe", [safe_text, safe_uid])
def test_hostile_values_do_not_meet(safe):
    made = [safe(value) for value in HOSTILE]
    assert len({name.lower() for name in made}) == len({value.strip("\0 ") for value in HOSTILE})


@pytest.mark.parametrize("value", ["1.2.840.10008.1.2", "0", "2.25." + "9" * 59])
def test_a_uid_is_its_own_name(value):
    assert safe_uid(value) == value
    assert safe_uid(value + "\0") == value


@pytest.mark.parametrize("value", ["1..2", ".1", "1.", "1.a", "1" * 65, "1,2", "1 2"])
def test_what_is_no_uid_is_marked(value):
    assert "~" in safe_uid(value)


@pytest.mark.parametrize("value", ["P1", "ABC-12_3", "a.b", "12345678", "CONSOLE", "x"])
def test_an_ordinary_value_is_its_own_name(value):
    assert safe_text(value) == value


@pytest.mark.parametrize("value", ["", " ", "\0", "   \0"])
def test_a_missing_value_has_a_name_that_no_value_has(value):
    assert safe_text(value) == safe_uid(value) == "_"
    assert safe_text("_") != "_"


def test_a_made_up_name_is_nobodys_own():
    made = safe_text("a/b")
    assert safe_text(made) != made


@given(st.dictionaries(st.sampled_from(list(FIELDS)), st.text()))
def test_no_text_leads_out_of_the_folder(values):
    path = path_of(**values)
    inside = os.path.relpath(os.path.normpath(path), FOLDER)
    assert not inside.startswith("..")
    assert all(map(is_harmless, path.parts[len(FOLDER.parts) :]))


@given(st.text(), st.text())
def test_two_values_have_two_names(one, other):
    same = one.strip("\0 ") == other.strip("\0 ")
    assert (safe_text(one) == safe_text(other)) == same
    assert (safe_uid(one) == safe_uid(other)) == same


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/{SOPInstanceUID}",
        "../{SOPInstanceUID}",
        "a/../{SOPInstanceUID}",
        "a//b",
        "./a",
        ".{SOPInstanceUID}",
        "a/",
        "{Nothing}",
        "{SOPInstanceUID",
        "SOPInstanceUID}",
        "{{SOPInstanceUID}}",
        "C:{SOPInstanceUID}",
        "a\\{SOPInstanceUID}",
        "a\n",
        "{SOPInstanceUID}.",
        "x" * 201,
    ],
)
def test_a_pattern_that_leads_elsewhere_is_refused(text):
    with pytest.raises(ValueError, match=r"\w"):
        Pattern(text)


def test_a_pattern_asks_the_data_set_only_for_what_the_command_lacks():
    assert Pattern("{SOPInstanceUID}-{calling_ae_title}").tags == frozenset()
    assert Pattern("{StudyInstanceUID}/{Modality}").tags == {0x0020000D, 0x00080060}


def test_a_name_that_is_too_long_as_a_whole_is_cut_and_keeps_its_extension():
    pattern = Pattern("{PatientID}{PatientID}{PatientID}{PatientID}.dcm")
    one, other = (pattern.path(FOLDER, {"PatientID": "x" * 60 + end}).name for end in "ab")
    assert one != other
    assert len(one) <= 200
    assert one.endswith(".dcm")


def test_values_that_make_a_reserved_name_together_are_kept_apart_from_it():
    assert Pattern("{Modality}{PatientID}").path(FOLDER, {"Modality": "CO", "PatientID": "N"}).name == "_CON"
