import pytest
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID
from standard_tables import SERVICES

from asyncdicom import uids
from asyncdicom.uids import (
    APPLICATION_CONTEXT,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    IMPLICIT_VR_LITTLE_ENDIAN,
    SOP_CLASSES,
    STORAGE_SOP_CLASSES,
    TRANSFER_SYNTAXES,
    VERIFICATION,
    TransferSyntax,
    clean_uid,
    name_of,
    transfer_syntax,
)

REGISTERED_SYNTAXES = {uid: entry[0] for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"}
REGISTERED_CLASSES = {uid: entry[0] for uid, entry in UID_dictionary.items() if entry[1].endswith("SOP Class")}
NAMELESS = {uid for uid, name in REGISTERED_CLASSES.items() if not name}
"""Two retired storage classes whose names the registry has given up."""
NOT_COMPRESSED = ("JPIP", "SMPTE", "XML", "RFC 2557", "Papyrus")
SERVICE_CLASSES = [
    pytest.param(service, sop_class, id=sop_class["name"])
    for service, facts in SERVICES["services"].items()
    if isinstance(facts["sop_classes"], list)
    for sop_class in facts["sop_classes"]
]


# The registry of PS3.6, as pydicom has it


def test_the_transfer_syntaxes_are_the_registered_ones():
    assert TRANSFER_SYNTAXES.keys() == REGISTERED_SYNTAXES.keys()


def test_the_sop_classes_are_the_registered_ones():
    assert SOP_CLASSES.keys() == REGISTERED_CLASSES.keys()


def test_the_sop_classes_have_their_registered_names():
    ours = {uid: words(name) for uid, name in SOP_CLASSES.items() if uid not in NAMELESS}
    assert ours == {uid: words(name) for uid, name in REGISTERED_CLASSES.items() if name}


def test_the_transfer_syntaxes_have_their_registered_names():
    differing = {
        uid
        for uid, name in REGISTERED_SYNTAXES.items()
        if TRANSFER_SYNTAXES[uid].name.removesuffix(" (retired)") != name
    }
    assert differing == {"1.2.840.10008.1.2.4.70"}  # its registered name has 90 characters


def words(name):
    return name.replace(" SOP Class", "").replace(" UID", "").replace(" (Retired)", "").strip()


@pytest.mark.parametrize(
    "uid", [uid for uid, name in REGISTERED_SYNTAXES.items() if not name.startswith(NOT_COMPRESSED)]
)
def test_a_transfer_syntax_has_the_properties_that_pydicom_knows(uid):
    ours, theirs = TRANSFER_SYNTAXES[uid], UID(uid)
    assert ours.explicit_vr is not theirs.is_implicit_VR
    assert ours.little_endian is theirs.is_little_endian
    assert ours.deflated is theirs.is_deflated
    assert ours.encapsulated is theirs.is_encapsulated


@pytest.mark.parametrize("uid", [uid for uid, name in REGISTERED_SYNTAXES.items() if name.startswith(NOT_COMPRESSED)])
def test_what_has_no_pixel_fragments_is_not_encapsulated(uid):
    assert not TRANSFER_SYNTAXES[uid].encapsulated


@pytest.mark.parametrize(("service", "sop_class"), SERVICE_CLASSES)
def test_a_sop_class_of_a_service_class_is_known_and_is_storage_only_in_storage(service, sop_class):
    assert words(name_of(sop_class["uid"])) == words(sop_class["name"])
    assert (sop_class["uid"] in STORAGE_SOP_CLASSES) is (
        "storage" in service.split("_") and "C-STORE" in str(sop_class)
    )


def test_there_are_as_many_storage_classes_as_the_standard_has():
    storage = SERVICES["services"]["storage"]["sop_classes"]
    other = SERVICES["services"]["non_patient_object_storage"]["sop_classes"]
    assert len(STORAGE_SOP_CLASSES) == storage["count_active"] + storage["count_retired"] + len(other) + len(NAMELESS)


# Single UIDs


def test_the_uids_that_the_protocol_is_made_of_are_these():
    assert SERVICES["application_context"]["uid"] == APPLICATION_CONTEXT
    assert [VERIFICATION, IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN] == [
        "1.2.840.10008.1.1",
        "1.2.840.10008.1.2",
        "1.2.840.10008.1.2.1",
    ]
    assert TRANSFER_SYNTAXES[DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN].deflated
    assert not TRANSFER_SYNTAXES[EXPLICIT_VR_BIG_ENDIAN].little_endian
    assert uids.UNCOMPRESSED == (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN)


def test_the_name_of_the_implementation_is_as_ps3_7_wants_it():
    assert UID(IMPLEMENTATION_CLASS_UID).is_valid
    assert IMPLEMENTATION_CLASS_UID.startswith("2.25.")
    assert 1 <= len(IMPLEMENTATION_VERSION_NAME) <= 16
    assert IMPLEMENTATION_VERSION_NAME.isascii()


def test_an_unknown_transfer_syntax_is_taken_for_an_encapsulated_one():
    assert transfer_syntax("1.2.3") == TransferSyntax("1.2.3", "1.2.3", encapsulated=True)


def test_a_uid_without_a_name_is_its_own_name():
    assert name_of("1.2.3") == "1.2.3"
    assert name_of(VERIFICATION) == "Verification"
    assert name_of(IMPLICIT_VR_LITTLE_ENDIAN) == "Implicit VR Little Endian"


@pytest.mark.parametrize("value", [b"1.2.3", b"1.2.3\0", b"1.2.3 ", b"1.2.3\0\0", b" 1.2.3\0 "])
def test_a_uid_loses_its_padding(value):
    assert clean_uid(value) == "1.2.3"


@pytest.mark.parametrize("value", [b"", b"\0", b"\xff\xfe", b"1." + b"2" * 200])
def test_what_is_no_uid_is_passed_through(value):
    assert clean_uid(value) == value.decode("latin-1").strip("\0")
