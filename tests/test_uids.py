import pytest
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID
from standard_tables import SERVICES

from asyncdicom import uids
from asyncdicom.errors import LocalProtocolError
from asyncdicom.uids import (
    APPLICATION_CONTEXT,
    CONTEXTS_FOR,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    IMPLICIT_VR_LITTLE_ENDIAN,
    META_SOP_CLASSES,
    SERVICE_CLASSES,
    SOP_CLASSES,
    STORAGE_SOP_CLASSES,
    TRANSFER_SYNTAXES,
    VERIFICATION,
    WELL_KNOWN_INSTANCES,
    TransferSyntax,
    clean_uid,
    name_of,
    transfer_syntax,
    uid_of,
    uids_of,
)

REGISTERED_SYNTAXES = {uid: entry[0] for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"}
REGISTERED_CLASSES = {uid: entry[0] for uid, entry in UID_dictionary.items() if entry[1].endswith("SOP Class")}
NAMELESS = {uid for uid, name in REGISTERED_CLASSES.items() if not name}
"""Two retired storage classes whose names the registry has given up."""
NOT_COMPRESSED = ("JPIP", "SMPTE", "XML", "RFC 2557", "Papyrus")
SOP_CLASSES_OF_SERVICES = [
    pytest.param(service, sop_class, id=f"{facts['title']}: {sop_class['name']}")
    for service, facts in SERVICES["services"].items()
    if isinstance(facts["sop_classes"], list)
    for sop_class in facts["sop_classes"]
]
NAMES_OF_SERVICES = {
    "verification": "verification",
    "storage": "storage",
    "non_patient_object_storage": "non-patient object storage",
    "storage_commitment_push": "storage commitment",
    "qr_patient_root": "patient root",
    "qr_study_root": "study root",
    "qr_patient_study_only": "patient/study only",
    "repository_query": "repository query",
    "composite_instance_root_retrieve": "composite instance root retrieve",
    "composite_instance_without_bulk_data": "composite instance retrieve without bulk data",
    "modality_worklist": "modality worklist",
    "mpps": "modality performed procedure step",
    "mpps_retrieve": "modality performed procedure step retrieve",
    "mpps_notification": "modality performed procedure step notification",
    "print": "print management",
    "ups": "unified procedure step",
    "instance_availability_notification": "instance availability notification",
    "media_creation": "media creation management",
    "hanging_protocol_qr": "hanging protocol query/retrieve",
    "color_palette_qr": "color palette query/retrieve",
    "implant_template_qr": "implant template query/retrieve",
    "defined_procedure_protocol_qr": "defined procedure protocol query/retrieve",
    "protocol_approval_qr": "protocol approval query/retrieve",
    "inventory_qr": "inventory query/retrieve",
    "relevant_patient_information": "relevant patient information query",
    "substance_administration_query": "substance administration query",
    "application_event_logging": "application event logging",
    "storage_management": "storage management",
    "display_system": "display system management",
    "rt_machine_verification": "rt machine verification",
}
"""The names that users type for the service classes of services.json."""
every_service = pytest.mark.parametrize(
    ("service", "name"),
    [pytest.param(service, NAMES_OF_SERVICES[service], id=f"{facts['title']} (PS3.4 {facts['ps3_4_annex']})")
     for service, facts in SERVICES["services"].items()],
)  # fmt: skip


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
    """A name without what PS3.6 puts behind some of them."""
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


@pytest.mark.parametrize(("service", "sop_class"), SOP_CLASSES_OF_SERVICES)
def test_a_sop_class_of_a_service_class_is_known_and_is_storage_only_in_storage(service, sop_class):
    assert words(name_of(sop_class["uid"])) == words(sop_class["name"])
    assert (sop_class["uid"] in STORAGE_SOP_CLASSES) is (
        "storage" in service.split("_") and "C-STORE" in str(sop_class)
    )


def test_there_are_as_many_storage_classes_as_the_standard_has():
    storage = SERVICES["services"]["storage"]["sop_classes"]
    other = SERVICES["services"]["non_patient_object_storage"]["sop_classes"]
    assert len(STORAGE_SOP_CLASSES) == storage["count_active"] + storage["count_retired"] + len(other) + len(NAMELESS)


@every_service
def test_a_service_class_has_its_sop_classes(service, name):
    listed = SERVICES["services"][service]["sop_classes"]
    if service == "storage":
        other = set(SERVICE_CLASSES["non-patient object storage"])
        assert set(SERVICE_CLASSES[name]) == STORAGE_SOP_CLASSES - other
        assert len(SERVICE_CLASSES[name]) == listed["count_active"] + listed["count_retired"] + len(NAMELESS)
        assert set(listed["active_outside_1.2.840.10008.5.1.4.1.1"]) < set(SERVICE_CLASSES[name])
    else:
        ours = SERVICE_CLASSES[name]
        members = {each for uid in ours for each in META_SOP_CLASSES.get(uid, ())}
        assert len(set(ours)) == len(ours)
        assert set(ours) | members == {sop_class["uid"] for sop_class in listed}


def test_every_service_class_is_one_of_the_standard_or_a_part_or_a_sum_of_them():
    assert SERVICE_CLASSES.keys() - set(NAMES_OF_SERVICES.values()) == {
        "query/retrieve",
        "basic grayscale print management",
        "basic color print management",
    }
    assert SERVICE_CLASSES["query/retrieve"] == SERVICE_CLASSES["patient root"] + SERVICE_CLASSES["study root"]


@pytest.mark.parametrize(
    "meta",
    [each for each in SERVICES["services"]["print"]["sop_classes"] if "members" in each],
    ids=lambda meta: meta["name"],
)
def test_a_meta_sop_class_carries_its_members(meta):
    assert META_SOP_CLASSES[meta["uid"]] == tuple(meta["members"])
    assert all(meta["uid"] in CONTEXTS_FOR[member] for member in meta["members"])
    assert uids_of(meta["name"].replace(" Meta SOP Class", "")) == (meta["uid"],)


def test_only_print_and_ups_messages_may_come_on_contexts_of_other_classes():
    members = {member for members in META_SOP_CLASSES.values() for member in members}
    push, *others = SERVICE_CLASSES["unified procedure step"]
    assert CONTEXTS_FOR.keys() == members | {push}
    assert sorted(CONTEXTS_FOR[push]) == sorted(others)
    assert all(len(set(contexts)) == len(contexts) for contexts in CONTEXTS_FOR.values())


@pytest.mark.parametrize(
    "instance",
    [each for facts in SERVICES["services"].values() for each in facts["well_known_instances"]],
    ids=lambda instance: instance["name"],
)
def test_a_well_known_instance_is_found_by_name_and_by_keyword(instance):
    assert name_of(instance["uid"]) == WELL_KNOWN_INSTANCES[instance["uid"]] == instance["name"]
    assert uid_of(instance["name"]) == uid_of(instance["keyword"]) == instance["uid"]


# Names that users type


@pytest.mark.parametrize("uid", REGISTERED_CLASSES, ids=lambda uid: SOP_CLASSES[uid])
def test_a_sop_class_is_found_by_its_registered_keyword_and_name(uid):
    name, _, _, retired, keyword = UID_dictionary[uid]
    assert uid_of(uid) == uid_of(SOP_CLASSES[uid]) == uid
    if uid not in NAMELESS:
        assert uid_of(keyword) == uid_of(keyword.lower()) == uid
        assert uid_of(f"{name} (Retired)" if "(Retired)" in SOP_CLASSES[uid] else name) == uid, retired


@every_service
def test_a_service_class_is_found_by_its_name(service, name):
    assert uids_of(name) == uids_of(name.upper()) == uids_of(name.title().replace("/", " ")) == SERVICE_CLASSES[name]


@pytest.mark.parametrize("name", SERVICE_CLASSES)
def test_the_name_of_a_service_class_never_means_another_sop_class(name):
    letters = "".join(filter(str.isalnum, name))
    homonyms = [uid for uid in SOP_CLASSES if "".join(filter(str.isalnum, SOP_CLASSES[uid])).lower() == letters]
    assert not homonyms or tuple(homonyms) == SERVICE_CLASSES[name]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("study rot", "study root"),
        ("Modality Work-list Find", "Modality Worklist Information Model - FIND"),
        ("CTImage", "CT Image Storage"),
        ("PrinterInstanc", "Printer SOP Instance"),
        ("storrage", "'storage'"),
        ("qqq", "a UID"),
        ("", "a UID"),
    ],
)
def test_an_unknown_name_is_refused_with_names_that_come_near(name, near):
    with pytest.raises(LocalProtocolError, match=near) as caught:
        uids_of(name)
    assert repr(name) in str(caught.value)


def test_the_name_of_several_sop_classes_is_not_the_name_of_one():
    assert uid_of("modality worklist") == uids.MODALITY_WORKLIST_FIND
    with pytest.raises(LocalProtocolError, match=r"'study root' names 3 SOP classes"):
        uid_of("study root")


CONSTANTS = {
    "VERIFICATION": "Verification",
    "STORAGE_COMMITMENT_PUSH_MODEL": "StorageCommitmentPushModel",
    "PATIENT_ROOT_FIND": "PatientRootQueryRetrieveInformationModelFind",
    "PATIENT_ROOT_MOVE": "PatientRootQueryRetrieveInformationModelMove",
    "PATIENT_ROOT_GET": "PatientRootQueryRetrieveInformationModelGet",
    "STUDY_ROOT_FIND": "StudyRootQueryRetrieveInformationModelFind",
    "STUDY_ROOT_MOVE": "StudyRootQueryRetrieveInformationModelMove",
    "STUDY_ROOT_GET": "StudyRootQueryRetrieveInformationModelGet",
    "MODALITY_WORKLIST_FIND": "ModalityWorklistInformationModelFind",
    "MODALITY_PERFORMED_PROCEDURE_STEP": "ModalityPerformedProcedureStep",
    "INSTANCE_AVAILABILITY_NOTIFICATION": "InstanceAvailabilityNotification",
    "UNIFIED_PROCEDURE_STEP_PUSH": "UnifiedProcedureStepPush",
    "UNIFIED_PROCEDURE_STEP_WATCH": "UnifiedProcedureStepWatch",
    "UNIFIED_PROCEDURE_STEP_PULL": "UnifiedProcedureStepPull",
    "UNIFIED_PROCEDURE_STEP_EVENT": "UnifiedProcedureStepEvent",
    "UNIFIED_PROCEDURE_STEP_QUERY": "UnifiedProcedureStepQuery",
}


@pytest.mark.parametrize(("constant", "keyword"), CONSTANTS.items(), ids=CONSTANTS)
def test_a_constant_has_the_uid_of_its_keyword(constant, keyword):
    assert UID_dictionary[getattr(uids, constant)][4] == keyword
    assert constant in uids.__all__


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
