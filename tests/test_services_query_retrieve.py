"""Information models, and what is negotiated about queries, retrievals and storage, against the standard's tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standard_tables import SERVICES

from asyncdicom import Context
from asyncdicom.presentation import (
    AcceptancePolicy,
    ExtendedNegotiation,
    ProposedContext,
    accept_contexts,
    proposed_extended,
)
from asyncdicom.services.query_retrieve import (
    MODEL_OF,
    MODELS,
    QueryOptions,
    RetrieveOptions,
    StorageOptions,
    WorklistOptions,
)
from asyncdicom.uids import MODALITY_WORKLIST_FIND, PATIENT_ROOT_GET, STUDY_ROOT_FIND, name_of

IMPLICIT, CT = "1.2.840.10008.1.2", "1.2.840.10008.5.1.4.1.1.2"
PATIENT, STUDY, SERIES, INSTANCE = 0x00100020, 0x0020000D, 0x0020000E, 0x00080018
EXTENDED = {name: service["negotiation"]["extended"] for name, service in SERVICES["services"].items()}
FIND_BYTES = EXTENDED["qr_patient_root"]["FIND"]["bytes"]
RETRIEVE_BYTES = EXTENDED["qr_patient_root"]["MOVE and GET"]["bytes"]
WORKLIST_BYTES = EXTENDED["modality_worklist"]["bytes"]
STORAGE_BYTES = EXTENDED["storage"]["bytes"]
every_operation = pytest.mark.parametrize(
    ("uid", "operation"),
    [
        pytest.param(each["uid"], dimse, id=f"{service['title']}: {each['name']}")
        for service in SERVICES["services"].values()
        if set(service["dimse_services"]) & {"C-MOVE", "C-GET"} or service["title"] == "Repository Query"
        for each in service["sop_classes"]
        for dimse in each["dimse"]
    ],
)


def negotiate(uid, wanted, supported):
    """What the acceptor answers to a proposal; None for no answer."""
    asked = proposed_extended([Context(uid, extended=wanted)])
    policy = AcceptancePolicy({uid: Context(uid, extended=supported)})
    answers = accept_contexts([ProposedContext(1, uid, (IMPLICIT,))], (), policy, asked).extended
    assert len(answers) < 2
    return answers[0].information if answers else None


# Models


@every_operation
def test_an_operation_belongs_to_a_model(uid, operation):
    model = MODEL_OF[uid]
    assert getattr(model, operation.removeprefix("C-").lower()) == uid
    assert uid in model.sop_classes


def test_every_sop_class_of_a_model_is_for_queries_or_retrievals():
    kinds = {"find": ("FIND", "Query"), "move": ("MOVE",), "get": ("GET",)}
    for model in MODELS:
        for kind, endings in kinds.items():
            assert not getattr(model, kind) or name_of(getattr(model, kind)).endswith(endings)
    assert len(MODEL_OF) == sum(len(model.sop_classes) for model in MODELS)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("patient root", {"PATIENT": PATIENT, "STUDY": STUDY, "SERIES": SERIES, "IMAGE": INSTANCE}),
        ("study root", {"STUDY": STUDY, "SERIES": SERIES, "IMAGE": INSTANCE}),
        ("patient/study only", {"PATIENT": PATIENT, "STUDY": STUDY}),
        ("repository query", {"STUDY": STUDY, "SERIES": SERIES, "IMAGE": INSTANCE}),
        ("composite instance root retrieve", {"IMAGE": INSTANCE, "FRAME": INSTANCE}),
        ("composite instance retrieve without bulk data", {"IMAGE": INSTANCE}),
        ("hanging protocol", {"": INSTANCE}),
        ("color palette", {"": INSTANCE}),
        ("generic implant template", {"": INSTANCE}),
        ("implant assembly template", {"": INSTANCE}),
        ("implant template group", {"": INSTANCE}),
        ("defined procedure protocol", {"": INSTANCE}),
        ("protocol approval", {"": INSTANCE}),
        ("inventory", {"": INSTANCE}),
    ],
)
def test_a_model_has_its_levels_with_their_unique_keys(name, keys):
    (model,) = (each for each in MODELS if each.name == name)
    assert list(model.levels.items()) == list(keys.items())


def test_the_unique_keys_of_a_level_come_after_those_above_it():
    patient_root, study_root = MODELS[:2]
    assert patient_root.keys("IMAGE") == (PATIENT, STUDY, SERIES, INSTANCE)
    assert patient_root.keys("PATIENT") == (PATIENT,)
    assert study_root.keys("SERIES") == (STUDY, SERIES)
    assert MODEL_OF["1.2.840.10008.5.1.4.1.2.4.3"].keys("FRAME") == (INSTANCE,)


def test_a_level_that_a_model_does_not_have_is_a_key_error_that_says_which_it_has():
    with pytest.raises(KeyError, match=r"study root has no level 'PATIENT', but 'STUDY', 'SERIES', 'IMAGE'"):
        MODELS[1].keys("PATIENT")


# The bytes of extended negotiation


def test_the_meanings_of_the_bytes_are_these():
    """What follows goes by place; the words are those of the standard's tables."""
    assert [FIND_BYTES[str(number)].split(" ")[0] for number in range(1, 6)] == [
        "relational",
        "combined",
        "fuzzy",
        "timezone",
        "enhanced",
    ]
    assert [RETRIEVE_BYTES[number].split(" ")[0] for number in "12"] == ["relational", "enhanced"]
    assert [WORKLIST_BYTES[number].split(" ")[0] for number in "1234"] == [
        "reserved,",
        "reserved,",
        "fuzzy",
        "timezone",
    ]
    assert [STORAGE_BYTES[number].split(" ")[0] for number in "135"] == ["level", "digital", "element"]


@pytest.mark.parametrize(
    ("options", "place"),
    [
        pytest.param(QueryOptions(relational=True), 1, id=FIND_BYTES["1"]),
        pytest.param(QueryOptions(combined_datetime=True), 2, id=FIND_BYTES["2"]),
        pytest.param(QueryOptions(fuzzy_names=True), 3, id=FIND_BYTES["3"]),
        pytest.param(QueryOptions(timezone=True), 4, id=FIND_BYTES["4"]),
        pytest.param(QueryOptions(multiframe_conversion=True), 5, id=FIND_BYTES["5"]),
        pytest.param(QueryOptions(empty_values=True), 6, id="empty value matching"),
        pytest.param(QueryOptions(multiple_values=True), 7, id="multiple value matching"),
        pytest.param(RetrieveOptions(relational=True), 1, id=f"retrieve: {RETRIEVE_BYTES['1']}"),
        pytest.param(RetrieveOptions(multiframe_conversion=True), 2, id=f"retrieve: {RETRIEVE_BYTES['2']}"),
    ],
)
def test_an_option_is_the_byte_at_its_place_and_what_follows_is_left_out(options, place):
    assert options.encode() == bytes(place - 1) + b"\1"
    assert type(options).decode(options.encode()) == options


@pytest.mark.parametrize(
    ("options", "information"),
    [
        (WorklistOptions(), b"\1\1\0"),
        (WorklistOptions(fuzzy_names=True), b"\1\1\1"),
        (WorklistOptions(timezone=True), b"\1\1\0\1"),
        (WorklistOptions(fuzzy_names=True, timezone=True), b"\1\1\1\1"),
    ],
)
def test_worklists_have_three_or_four_bytes_the_first_two_always_1(options, information):
    assert options.encode() == information
    assert WorklistOptions.decode(information) == options


@pytest.mark.parametrize("options", [QueryOptions, RetrieveOptions])
def test_without_options_one_byte_is_proposed(options):
    assert options().encode() == b"\0"


@pytest.mark.parametrize("options", [QueryOptions, RetrieveOptions, WorklistOptions])
@pytest.mark.parametrize("information", [b"", b"\0", b"\0\0\0\0\0\0\0\0", b"\2\2\2\2\2\2\2", b"\0" * 7 + b"\1" * 9])
def test_what_was_not_agreed_does_not_hold(options, information):
    assert options.decode(information) == options()


KINDS = {
    "relational queries": QueryOptions(*[True] * 5),
    "relational retrieval": RetrieveOptions(True, True),
    "unused: sent 0 in the request, not tested in the answer": RetrieveOptions(multiframe_conversion=True),
    "reserved, always 1": WorklistOptions(True, True),
    "level of support: 0, 1, 2 SCP level; 3 = requestor/acceptor is SCU only "
    "(default when absent: 3 for the requestor)": StorageOptions(),
}
"""The options that have a byte 1 of this meaning, as many as there are."""


def extension(service, dimse):
    """The bytes that a service negotiates for a DIMSE service, by the standard's tables; None if it has none."""
    rule = EXTENDED[service]
    if rule == "as Patient Root":
        rule = EXTENDED["qr_patient_root"]
    if rule == "as Modality Worklist (PS3.4 K.5)":
        rule = EXTENDED["modality_worklist"] if dimse == "C-FIND" else "none"
    if isinstance(rule, dict) and "FIND" in rule:
        rule = rule["FIND" if dimse == "C-FIND" else "MOVE and GET"]
    return rule["bytes"] if isinstance(rule, dict) else None


@pytest.mark.parametrize(
    ("uid", "meanings"),
    [
        pytest.param(each["uid"], meanings, id=f"{facts['title']}: {each['name']} {dimse}")
        for service, facts in SERVICES["services"].items()
        for each in (
            facts["sop_classes"] if service != "storage" else [{"uid": CT, "name": "CT", "dimse": ["C-STORE"]}]
        )
        for dimse in each.get("dimse", ())
        if (meanings := extension(service, dimse))
    ],
)
def test_a_service_that_has_an_extension_has_options_for_all_its_bytes(uid, meanings):
    options = KINDS[meanings["1"]]
    information = options.encode()
    assert len(information) == len(meanings)
    assert negotiate(uid, information, information) == information
    assert type(options).decode(information) == options


@pytest.mark.parametrize(
    "service",
    [
        pytest.param(name, id=f"{SERVICES['services'][name]['title']}: {rule}")
        for name, rule in EXTENDED.items()
        if not isinstance(rule, dict) and not rule.startswith("as ")
    ],
)
def test_a_service_without_extensions_proposes_and_answers_none(service):
    for each in SERVICES["services"][service]["sop_classes"]:
        assert negotiate(each["uid"], None, b"\1") is None
        assert negotiate(each["uid"], b"\1", None) is None


# What is agreed (PS3.4 C.5.1.1, C.5.2, C.5.3, K.5)


def test_an_acceptor_accepts_what_it_supports():
    wanted = QueryOptions(relational=True, fuzzy_names=True, timezone=True)
    supported = QueryOptions(fuzzy_names=True, timezone=True, combined_datetime=True)
    answer = negotiate(STUDY_ROOT_FIND, wanted.encode(), supported.encode())
    assert answer == b"\0\0\1\1"
    assert QueryOptions.decode(answer) == QueryOptions(fuzzy_names=True, timezone=True)


@pytest.mark.parametrize("uid", [STUDY_ROOT_FIND, PATIENT_ROOT_GET])
def test_one_byte_offered_is_answered_with_exactly_one_byte(uid):
    assert negotiate(uid, b"\1", QueryOptions(*[True] * 7).encode()) == b"\1"
    assert negotiate(uid, b"\1", QueryOptions().encode()) == b"\0"


def test_missing_bytes_of_an_answer_count_as_0():
    answer = negotiate(STUDY_ROOT_FIND, QueryOptions(*[True] * 7).encode(), QueryOptions(relational=True).encode())
    assert len(answer) == 1
    assert QueryOptions.decode(answer) == QueryOptions(relational=True)


def test_no_answer_means_that_nothing_is_supported():
    assert negotiate(STUDY_ROOT_FIND, QueryOptions(relational=True).encode(), None) is None
    assert QueryOptions.decode(b"") == QueryOptions()


@pytest.mark.parametrize(
    ("wanted", "supported", "answer"),
    [
        (b"\1\1\1", WorklistOptions(True, True), b"\1\1\1"),
        (b"\1\1\1\1", WorklistOptions(True, True), b"\1\1\1\1"),
        (b"\1\1\1\1", WorklistOptions(True, False), b"\1\1\1"),
        (b"\1\1\1\1", WorklistOptions(False, True), b"\1\1\0\1"),
        (b"\1\1\1", WorklistOptions(False, False), b"\1\1\0"),
    ],
)
def test_three_bytes_for_a_worklist_are_answered_with_three_and_four_with_three_or_four(wanted, supported, answer):
    assert negotiate(MODALITY_WORKLIST_FIND, wanted, supported.encode()) == answer


@given(st.builds(QueryOptions, *[st.booleans()] * 7), st.builds(QueryOptions, *[st.booleans()] * 7))
def test_what_both_sides_want_is_agreed_and_nothing_else(wanted, supported):
    answer = negotiate(STUDY_ROOT_FIND, wanted.encode(), supported.encode())
    both = [ours and theirs for ours, theirs in zip(wanted, supported, strict=True)]
    assert QueryOptions.decode(answer) == QueryOptions(*both)
    assert len(answer) <= len(wanted.encode())


# Storage (PS3.4 B.3.1)


def test_storage_has_six_bytes_every_other_one_reserved():
    options = StorageOptions(level=2, signatures=1, coercion=1)
    assert len(options.encode()) == EXTENDED["storage"]["length"]
    assert options.encode() == b"\2\0\1\0\1\0"
    assert StorageOptions.decode(options.encode()) == options


@pytest.mark.parametrize("information", [b"", StorageOptions().encode()])
def test_an_scu_of_storage_is_what_tells_nothing(information):
    assert StorageOptions.decode(information) == (3, 0, 2)
    assert StorageOptions.decode(b"\1\0") == StorageOptions(level=1)


def test_an_acceptor_of_storage_tells_what_it_does_whatever_the_requestor_does():
    own = StorageOptions(level=2, signatures=3, coercion=1)
    answer = negotiate(CT, StorageOptions().encode(), own.answer)
    assert StorageOptions.decode(answer) == own
    assert ExtendedNegotiation(CT, answer) == (CT, b"\2\0\3\0\1\0")
