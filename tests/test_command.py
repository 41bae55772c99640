import re
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standard_tables import DIMSE, SERVICES, code_range, snake, tag_number

from asyncdicom.command import (
    MAX_COMMAND_LENGTH,
    MESSAGES,
    Category,
    Command,
    CommandDecoder,
    CommandField,
    DataSetPresence,
    Priority,
    Status,
)
from asyncdicom.errors import AbortReason, LocalProtocolError, ProtocolError
from asyncdicom.uids import CONTEXTS_FOR, SERVICE_CLASSES, STORAGE_SOP_CLASSES, name_of, uids_of

STRUCTURAL = {"CommandGroupLength", "CommandField", "CommandDataSetType"}
ANNEX_C = {"offending_element", "error_comment", "error_id", "attribute_identifier_list"}
ELEMENTS = {snake(keyword): (tag_number(e["tag"]), e["vr"]) for keyword, e in DIMSE["command_elements"].items()}
SAMPLES = {"UI": "1.2.840.1", "US": 0x0102, "AE": "TITLE", "LO": "odd", "AT": (0x00080018, 0x0020000D)}
WIRE = {"UI": b"1.2.840.1\0", "US": b"\2\1", "AE": b"TITLE ", "LO": b"odd ", "AT": b"\x08\0\x18\0\x20\0\x0d\0"}
PLACES = {element for message in MESSAGES.values() if message.is_response for element in message.optional}
"""The elements that responses may have."""
every_message = pytest.mark.parametrize("name", list(DIMSE["messages"]))


# The messages of PS3.7 9.3 and 10.3


def test_there_are_the_23_messages_of_the_standard():
    assert {message.name: message.field for message in MESSAGES.values()} == {
        name: message["command_field"] for name, message in DIMSE["messages"].items()
    }
    assert len(MESSAGES) == len(CommandField) == 23


@every_message
def test_a_message_is_kept_under_its_command_field(name):
    message = MESSAGES[DIMSE["messages"][name]["command_field"]]
    assert message.name == name
    assert message.field.name == name.replace("-", "_")
    assert message.is_response is (DIMSE["messages"][name]["kind"] == "response")


@every_message
def test_the_mandatory_elements_are_those_of_the_standard(name):
    assert set(of_standard(name, "M")) == set(ours(name).mandatory)


@every_message
def test_the_optional_elements_are_those_of_the_standard_and_in_responses_those_of_annex_c(name):
    annex_c = ANNEX_C if ours(name).is_response else set()
    assert set(of_standard(name, "U", "C")) | annex_c == set(ours(name).optional)


@every_message
def test_no_element_is_named_twice(name):
    names = ours(name).mandatory + ours(name).optional
    assert len(names) == len(set(names))


@every_message
def test_whether_a_data_set_follows_is_as_the_standard_says(name):
    presence = DIMSE["messages"][name]["data_set"]["presence"]
    assert ours(name).data_set is DataSetPresence[presence.upper()]


@pytest.mark.parametrize(
    ("name", "element"),
    [
        pytest.param(name, element, id=f"{name} {element['keyword']} {element['usage']}")
        for name, message in DIMSE["messages"].items()
        for element in message["elements"]
    ],
)
def test_an_element_of_a_message_has_the_usage_that_the_standard_gives_it(name, element):
    word = snake(element["keyword"])
    if element["keyword"] in STRUCTURAL:
        assert ELEMENTS[word][0] in dict(parse(full_command(name).encode()))
    else:
        assert (word in ours(name).mandatory, word in ours(name).optional) == (
            element["usage"] == "M",
            element["usage"] in ("U", "C"),
        )


def ours(name):
    return MESSAGES[DIMSE["messages"][name]["command_field"]]


def of_standard(name, *usages):
    elements = DIMSE["messages"][name]["elements"]
    return [snake(e["keyword"]) for e in elements if e["usage"] in usages and e["keyword"] not in STRUCTURAL]


def test_a_request_and_its_response_differ_in_bit_15():
    for name, message in DIMSE["messages"].items():
        if "pairs_with" in message:
            assert ours(name).field == ours(message["pairs_with"]).field | 0x8000


def test_the_priorities_are_those_of_the_standard():
    assert {each.name: f"{each:04X}H" for each in Priority} == {
        name: code for name, code in DIMSE["priority"].items() if name != "note"
    }


# How a command set is written (PS3.7 6.3.1)


@every_message
def test_a_full_message_is_written_in_tag_order_with_every_element_once(name):
    names = [*ours(name).mandatory, *ours(name).optional]
    tags = [tag for tag, _ in parse(full_command(name).encode())]
    assert tags == sorted({0x0000, 0x0100, 0x0800, *(ELEMENTS[each][0] for each in names)})


@every_message
def test_a_full_message_has_the_values_in_their_representations(name):
    values = dict(parse(full_command(name).encode()))
    for each in (*ours(name).mandatory, *ours(name).optional):
        tag, vr = ELEMENTS[each]
        assert values[tag] == WIRE[vr], each
    assert values[0x0100] == DIMSE["messages"][name]["command_field"].to_bytes(2, "little")


@every_message
def test_the_group_length_comes_first_and_counts_what_follows_it(name):
    data = full_command(name).encode()
    assert data[:8] == b"\0\0\0\0\4\0\0\0"
    assert int.from_bytes(data[8:12], "little") == len(data) - 12


@every_message
def test_a_full_message_reads_back_as_itself(name):
    assert Command.decode(full_command(name).encode()) == full_command(name)


@every_message
@pytest.mark.parametrize("has_data_set", [False, True])
def test_the_data_set_type_is_0101h_only_without_a_data_set(name, has_data_set):
    presence = DIMSE["messages"][name]["data_set"]["presence"]
    command = full_command(name, has_data_set)
    if presence == ("forbidden" if has_data_set else "required"):
        with pytest.raises(LocalProtocolError, match="data set"):
            command.encode()
    else:
        data_set_type = dict(parse(command.encode()))[0x0800]
        assert (data_set_type != b"\1\1") is has_data_set


@pytest.mark.parametrize(
    ("name", "element"), [(name, each) for name in DIMSE["messages"] for each in of_standard(name, "M")]
)
def test_a_message_without_a_mandatory_element_is_not_sent(name, element):
    command = full_command(name)
    del command.__dict__[element]
    assert command.missing() == (element,)
    with pytest.raises(LocalProtocolError, match=element):
        command.encode()


@every_message
def test_a_message_with_an_element_of_another_is_not_sent(name):
    allowed = {*ours(name).mandatory, *ours(name).optional}
    foreign = {each: SAMPLES[vr] for each, (_, vr) in ELEMENTS.items() if vr in SAMPLES}
    for element in foreign.keys() - allowed - {"command_field", "command_data_set_type"}:
        command = full_command(name)
        command.__dict__[element] = foreign[element]
        with pytest.raises(LocalProtocolError, match=element):
            command.encode()


def full_command(name, has_data_set=None):
    message = ours(name)
    if has_data_set is None:
        has_data_set = message.data_set is not DataSetPresence.FORBIDDEN
    elements = {each: SAMPLES[ELEMENTS[each][1]] for each in (*message.mandatory, *message.optional)}
    return Command(message.field, has_data_set=has_data_set, **elements)


def parse(data):
    """The elements of an Implicit VR Little Endian data set, read the plain way."""
    found = []
    while data:
        group, element, length = struct.unpack_from("<HHI", data)
        assert len(data) >= 8 + length
        assert length % 2 == 0
        found.append((group << 16 | element, bytes(data[8 : 8 + length])))
        data = data[8 + length :]
    return found


def element(number, value, group=0):
    return struct.pack("<HHI", group, number, len(value)) + value


def test_the_bytes_of_an_echo_request_are_these():
    command = Command(CommandField.C_ECHO_RQ, affected_sop_class_uid="1.2.840.10008.1.1", message_id=7)
    assert command.encode() == bytes.fromhex(
        "0000 0000 04000000 38000000"
        "0000 0200 12000000 312e322e3834302e31303030382e312e3100"
        "0000 0001 02000000 3000"
        "0000 1001 02000000 0700"
        "0000 0008 02000000 0101"
    )


def test_none_is_the_same_as_absent():
    with_none = Command(0x8030, message_id_being_responded_to=1, status=0, affected_sop_class_uid=None)
    without = Command(0x8030, message_id_being_responded_to=1, status=0)
    assert with_none == without
    assert with_none.encode() == without.encode()


def test_a_command_shows_what_it_holds():
    assert repr(Command(0x0FFF, message_id_being_responded_to=3)) == (
        "Command(C-CANCEL-RQ, message_id_being_responded_to=3, has_data_set=False)"
    )


def test_an_element_that_is_not_there_reads_as_none():
    assert Command(0x0FFF).message_id is None


# What real peers send


@pytest.mark.parametrize("data_set_type", [0x0000, 0x0001, 0x0102, 0x0202, 0xFFFF])
def test_any_data_set_type_but_0101h_announces_a_data_set(data_set_type):
    assert Command.decode(echo_response(data_set_type=data_set_type)).has_data_set


def test_data_set_type_0101h_announces_none():
    assert not Command.decode(echo_response(data_set_type=0x0101)).has_data_set


@every_message
def test_without_a_data_set_type_only_a_message_that_must_have_a_data_set_has_one(name):
    data = element(0x0100, ours(name).field.to_bytes(2, "little"))
    assert Command.decode(data).has_data_set is (ours(name).data_set is DataSetPresence.REQUIRED)


@pytest.mark.parametrize("length", [None, 0, 1, 0xFFFFFFFF])
def test_the_group_length_is_not_relied_upon(length):
    group_length = b"" if length is None else element(0x0000, length.to_bytes(4, "little"))
    assert Command.decode(group_length + echo_response()).status == 0


@pytest.mark.parametrize("retired", DIMSE["retired_command_elements"], ids=lambda each: each["keyword"])
def test_retired_elements_are_skipped(retired):
    data = echo_response() + element(tag_number(retired["tag"]), b"abcd")
    assert Command.decode(data) == Command.decode(echo_response())


def test_elements_of_other_groups_are_skipped():
    data = echo_response() + element(0x0002, b"1.9\0", group=0x0008)
    assert Command.decode(data) == Command.decode(echo_response())


def test_elements_out_of_order_are_read():
    parts = [element(0x0900, b"\0\0"), element(0x0100, b"\x30\x80"), element(0x0120, b"\5\0")]
    assert Command.decode(b"".join(parts)) == Command(0x8030, status=0, message_id_being_responded_to=5)


@pytest.mark.parametrize("value", [b"1.2.3", b"1.2.3\0", b"1.2.3 ", b"1.2.3\0\0\0", b" 1.2.3"])
def test_uids_lose_any_padding(value):
    assert Command.decode(echo_response() + element(0x0002, value)).affected_sop_class_uid == "1.2.3"


@pytest.mark.parametrize("value", ["1.02.003", "1." + "2" * 80])
def test_uids_that_break_the_rules_are_passed_through(value):
    data = echo_response() + element(0x0002, value.encode())
    assert Command.decode(data).affected_sop_class_uid == value


def test_bytes_outside_ascii_are_read_as_latin_1():
    assert Command.decode(echo_response() + element(0x0902, b"Fehler \xfc\0")).error_comment == "Fehler \xfc"


def test_a_store_request_without_priority_is_read_and_says_so():
    parts = [(0x0002, b"1.2\0"), (0x0100, b"\1\0"), (0x0110, b"\1\0"), (0x0800, b"\1\0"), (0x1000, b"1.3\0")]
    assert Command.decode(b"".join(element(*part) for part in parts)).missing() == ("priority",)


def test_an_echo_request_without_sop_class_is_read_and_says_so():
    parts = [(0x0100, b"\x30\0"), (0x0110, b"\1\0"), (0x0800, b"\1\1")]
    assert Command.decode(b"".join(element(*part) for part in parts)).missing() == ("affected_sop_class_uid",)


def test_a_mandatory_element_without_a_value_is_missing():
    parts = [(0x0002, b""), (0x0100, b"\x30\0"), (0x0110, b"\1\0"), (0x0800, b"\1\1")]
    assert Command.decode(b"".join(element(*part) for part in parts)).missing() == ("affected_sop_class_uid",)


def test_a_response_without_sop_uids_lacks_nothing():
    parts = [(0x0100, b"\1\x80"), (0x0120, b"\1\0"), (0x0800, b"\1\1"), (0x0900, b"\0\0")]
    assert Command.decode(b"".join(element(*part) for part in parts)).missing() == ()


def test_of_several_numbers_of_suboperations_the_first_counts():
    data = element(0x0100, b"\x21\x80") + element(0x1021, b"\7\0\x09\0")
    assert Command.decode(data).number_of_completed_suboperations == 7


def test_a_pending_move_response_may_claim_a_data_set():
    data = element(0x0100, b"\x21\x80") + element(0x0800, b"\1\0") + element(0x0900, b"\0\xff")
    command = Command.decode(data)
    assert (command.has_data_set, Status(command.status).category) == (True, Category.PENDING)


def test_a_retrieve_that_succeeded_tells_its_failed_suboperations_all_the_same():
    data = element(0x0100, b"\x10\x80") + element(0x0900, b"\0\0") + element(0x1022, b"\3\0")
    command = Command.decode(data)
    assert (command.status, command.number_of_failed_suboperations) == (0, 3)


def echo_response(data_set_type=0x0101):
    parts = [(0x0100, b"\x30\x80"), (0x0120, b"\1\0"), (0x0800, data_set_type.to_bytes(2, "little")), (0x0900, b"\0\0")]
    return b"".join(element(*part) for part in parts)


# What is no command set


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(element(0x0110, b"\1\0"), id="no command field"),
        pytest.param(element(0x0100, b""), id="command field without a value"),
        pytest.param(element(0x0100, b"\x99\0"), id="unknown command field"),
        pytest.param(element(0x0100, b"\xff\x8f"), id="response to a cancel"),
    ],
)
def test_a_command_set_of_no_known_message_is_refused(data):
    with pytest.raises(ProtocolError) as refused:
        Command.decode(data)
    assert refused.value.reason is AbortReason.UNRECOGNIZED_PDU_PARAMETER


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_command_set_that_ends_inside_an_element_is_refused(cut):
    data = element(0x0100, b"\x30\0") + element(0x0002, b"1.2\0")
    with pytest.raises(ProtocolError):
        Command.decode(data[:-cut])


@pytest.mark.parametrize("length", [5, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF])
def test_an_element_longer_than_the_command_set_is_refused(length):
    with pytest.raises(ProtocolError, match=f"announces {length} bytes, 4 left"):
        Command.decode(element(0x0100, b"\x30\0") + struct.pack("<HHI", 0, 2, length) + b"1.2\0")


# Statuses (PS3.7 annex C)


def test_every_code_is_in_the_class_that_annex_c_gives_it():
    classes = {
        code: name.upper()
        for name, texts in DIMSE["status_classes"].items()
        if name != "rules"
        for text in texts
        for code in code_range(text)
    }
    # No other values are allowed; a receiver that meets one treats it as a failure.
    wrong = [code for code in range(0x10000) if Status(code).category.name != classes.get(code, "FAILURE")]
    assert wrong == []


@pytest.mark.parametrize("general", DIMSE["general_statuses"], ids=lambda each: each["hex"])
def test_a_general_status_has_the_class_and_the_name_of_annex_c(general):
    status = Status(general["code"])
    assert status.category.value.lower() == general["class"]
    assert status.meaning.casefold().startswith(general["name"].casefold())


@pytest.mark.parametrize(
    ("general", "keyword"),
    [
        pytest.param(general, keyword, id=f"{general['hex']} {general['name']}: {keyword}")
        for general in DIMSE["general_statuses"]
        for keyword in re.findall(r"\w+", " ".join(general["may_also_carry"]))
        if keyword in DIMSE["command_elements"]
    ],
)
def test_what_goes_with_a_general_status_has_its_place_in_a_response(general, keyword):
    assert snake(keyword) in PLACES


@pytest.mark.parametrize(
    ("service", "code"),
    [
        pytest.param(service, code, id=f"{service} {code}")
        for service, facts in DIMSE["status_by_dimse_service"].items()
        for code in facts["codes"]
    ],
)
def test_a_status_of_a_dimse_service_has_its_class_and_words(service, code):
    status = Status(int(code[:4], 16))
    general = next(each for each in DIMSE["general_statuses"] if each["hex"] == code)
    assert status.category.name.lower() == general["class"]
    assert status.meaning.casefold().startswith(general["name"].casefold())


def classes_of(title):
    """The SOP classes of the services that have their statuses under a title of dimse.json."""
    if title.startswith("Application Event Logging"):
        return uids_of("ProceduralEventLogging" if "Procedural" in title else "SubstanceAdministrationLogging")
    found = []
    for service in SERVICES["services"].values():
        where = service["statuses_in_dimse_json"]
        if where == title or where == f"the '{title.split(':')[0]}: ...' entries":
            listed = service["sop_classes"]
            found += [each["uid"] for each in listed] if isinstance(listed, list) else SERVICE_CLASSES["storage"]
    return found


SERVICE_STATUSES = [
    pytest.param(title, status, id=f"{title}: {dimse} {status['from']}")
    for title, of_service in DIMSE["status_by_service_class"].items()
    for dimse, statuses in of_service.items()
    if dimse != "note"
    for status in statuses
]
every_service_status = pytest.mark.parametrize(("title", "status"), SERVICE_STATUSES)


@every_service_status
def test_a_status_of_a_service_class_is_in_the_class_given_there(title, status):
    codes = code_range(f"{status['from']}-{status['to']}")
    assert {Status(code).category.name.lower() for code in codes} == {status["class"]}


@every_service_status
def test_a_status_of_a_service_class_has_the_words_given_there(title, status):
    classes = classes_of(title)
    codes = code_range(f"{status['from']}-{status['to']}")
    if len(codes) > 1:
        codes -= named_singly(title)  # a UPS C-FIND may fail with any of C000H-CFFFH; C300H means more in an N-SET
    for code in codes:
        described = {Status(code).describe(uid) for uid in classes}
        assert len(described) == 1, "one service class, one meaning"
        if same_everywhere(code):
            assert described == {Status(code).meaning}
        elif not status["meaning"].startswith("as for "):
            ours, theirs = words(*described), words(status["meaning"])
            assert ours <= theirs or theirs <= ours


def named_singly(title):
    """The codes that the same service names one by one, for any of its DIMSE services."""
    rows = [param.values for param in SERVICE_STATUSES if param.values[0].split(":")[0] == title.split(":")[0]]
    return {int(status["from"][:4], 16) for _, status in rows if status["from"] == status["to"]}


def same_everywhere(code):
    """Whether the standard gives a status one meaning for all services: 01xxH, 02xxH, success, cancel and pending."""
    return not 0xA000 <= code <= 0xCFFF and code != 0x0001


def words(text):
    spelled = "".join(each if each.isalnum() else " " for each in text.casefold())
    return set(spelled.split()) - {"error", "failed", "refused", "identifier"}


@every_service_status
def test_what_goes_with_a_status_of_a_service_class_has_its_place_in_a_response(title, status):
    for field in status.get("related_fields", []):
        keyword = field.split(" ")[0]
        assert keyword in ("Identifier", "Attribute") or snake(keyword) in PLACES


@pytest.mark.parametrize("title", DIMSE["status_by_service_class"])
def test_a_service_class_with_statuses_has_sop_classes(title):
    assert classes_of(title)
    assert all(name_of(uid) != uid for uid in classes_of(title))


def test_words_of_a_service_class_are_not_used_for_another():
    assert Status(0xC201).describe("1.2.840.10008.5.1.1.33") == "request already completed"
    assert Status(0xC201).describe("1.2.840.10008.5.1.4.1.1.2") == Status(0xC201).meaning
    assert Status(0xC201).describe("1.2.3") == Status(0xC201).meaning


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0xA123, "failure of the service class"),
        (0xB123, "warning of the service class"),
        (0xC123, "cannot understand, or unable to process"),
        (0x0199, "undefined status"),
        (0xFFFF, "undefined status"),
    ],
)
def test_a_status_that_nobody_defines_has_the_words_of_its_range(code, words):
    assert Status(code).meaning == Status(code).describe("1.2.840.10008.1.1") == words


# What the services of PS3.4 need of DIMSE

USES = [
    (service, sop_class["uid"], *use)
    for service in SERVICES["services"].values()
    if isinstance(service["sop_classes"], list)
    for sop_class in service["sop_classes"]
    for use in sop_class.get("dimse", {}).items()
] + [(SERVICES["services"]["storage"], uid, "C-STORE", "M/M") for uid in SERVICE_CLASSES["storage"]]


@pytest.mark.parametrize(
    ("service", "uid", "dimse", "usage"),
    [pytest.param(*use, id=f"{use[0]['title']}: {name_of(use[1])} {use[1]}: {use[2]} {use[3]}") for use in USES],
)
def test_a_dimse_service_of_a_sop_class_has_its_messages_and_a_context_to_carry_them(service, uid, dimse, usage):
    name = dimse.split(" ")[0]
    assert name in service["dimse_services"]
    assert usage in SERVICES["legend"]
    request, response = ours(f"{name}-RQ"), ours(f"{name}-RSP")
    assert {"affected_sop_class_uid", "requested_sop_class_uid"} & set(request.mandatory)
    assert "affected_sop_class_uid" in response.optional
    proposed = {each for uids in SERVICE_CLASSES.values() for each in uids}
    assert proposed & {uid, *CONTEXTS_FOR.get(uid, ())}
    assert (uid in STORAGE_SOP_CLASSES) is (name == "C-STORE")


@pytest.mark.parametrize("code", [-1, 0x10000])
def test_a_status_has_16_bits(code):
    with pytest.raises(ValueError, match="0 to 65535"):
        Status(code)


def test_a_status_is_an_integer_that_knows_its_words():
    status = Status(0xA700, "disk full", (0x00100010,))
    assert status == 0xA700
    assert status.is_failure
    assert str(status) == "A700H Failure (refused: out of resources): disk full"
    assert repr(status) == "<Status A700H Failure (refused: out of resources): disk full>"
    assert status.offending_element == (0x00100010,)


def test_the_named_statuses_carry_nothing_from_a_response():
    Status(0x0110, "once", (1,))
    assert (Status.PROCESSING_FAILURE.error_comment, Status.PROCESSING_FAILURE.offending_element) == ("", ())


@pytest.mark.parametrize("general", DIMSE["general_statuses"], ids=lambda each: f"{each['hex']} {each['name']}")
def test_every_general_status_is_an_attribute_of_status(general):
    names = [name for name, value in vars(Status).items() if isinstance(value, Status) and value == general["code"]]
    assert len(names) == 1
    assert words(names[0].replace("_", " ")) <= words(general["name"])


def test_only_0000h_is_success_and_a_warning_is_no_failure():
    assert Status.SUCCESS.is_success
    assert not Status.COERCION_OF_DATA_ELEMENTS.is_success
    assert not Status.COERCION_OF_DATA_ELEMENTS.is_failure
    assert not Status.PENDING.is_failure


def test_a_status_can_be_sent_as_it_is():
    command = Command(0x8030, message_id_being_responded_to=1, status=Status.OUT_OF_RESOURCES)
    assert Command.decode(command.encode()).status == 0xA700


# Properties

VALUES = {
    "UI": st.text("0123456789.", min_size=1, max_size=64),
    "US": st.integers(0, 0xFFFF),
    "AE": st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=16),
    "LO": st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF), min_size=1, max_size=64),
    "AT": st.lists(st.integers(0, 0xFFFFFFFF), min_size=1, max_size=9).map(tuple),
}


@st.composite
def commands(draw):
    message = draw(st.sampled_from(list(MESSAGES.values())))
    chosen = draw(st.sets(st.sampled_from(message.optional))) if message.optional else set()
    elements = {name: draw(VALUES[ELEMENTS[name][1]]) for name in (*message.mandatory, *sorted(chosen))}
    has_data_set = message.data_set is DataSetPresence.REQUIRED
    if message.data_set is DataSetPresence.CONDITIONAL:
        has_data_set = draw(st.booleans())
    return Command(message.field, has_data_set=has_data_set, **elements)


@given(commands())
def test_any_command_reads_back_as_itself(command):
    assert Command.decode(command.encode()) == command


@given(commands())
def test_any_command_is_written_by_the_rules(command):
    tags = [tag for tag, _ in parse(command.encode())]
    assert tags == sorted(set(tags))
    assert tags[0] == 0


@given(
    st.binary(max_size=200)
    | st.lists(st.tuples(st.sampled_from([tag for tag, _ in ELEMENTS.values()]), st.binary(max_size=12))).map(
        lambda parts: b"".join(element(*part) for part in parts)
    )
)
def test_any_bytes_are_a_command_or_a_protocol_error(data):
    try:
        command = Command.decode(data)
    except ProtocolError:
        return
    assert command.message in MESSAGES.values()
    assert len(data) <= MAX_COMMAND_LENGTH


@given(commands(), st.data())
def test_a_damaged_command_is_a_command_or_a_protocol_error(command, data):
    damaged = bytearray(command.encode())
    for position in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=4)):
        damaged[position] = data.draw(st.integers(0, 255))
    with suppress(ProtocolError):
        assert repr(Command.decode(damaged)).startswith("Command(")


# Command sets that repeat

stores = st.builds(
    lambda number, uid, priority, more: Command(
        CommandField.C_STORE_RQ,
        has_data_set=True,
        affected_sop_class_uid="1.2.840.1",
        message_id=number,
        priority=priority,
        affected_sop_instance_uid=uid,
        **more,
    ).encode(),
    st.integers(0, 0xFFFF),
    st.sampled_from(["1.2.3", "1.2.4", "1.2.34", "1.2.345", " 1.2"]),
    st.sampled_from([0, 1]),
    st.sampled_from([{}, {"move_originator_message_id": 7, "move_originator_application_entity_title": "A"}]),
)
responses = st.builds(
    lambda number, status: Command(
        CommandField.C_ECHO_RSP, message_id_being_responded_to=number, status=status
    ).encode(),
    st.integers(0, 0xFFFF),
    st.sampled_from([0, 0x0110]),
)


@given(st.lists(stores | responses, max_size=12))
def test_a_decoder_decodes_what_repeats_as_if_it_did_not(command_sets):
    decoder = CommandDecoder()
    for data in command_sets:
        decoded, expected = decoder.decode(data), Command.decode(data)
        assert decoded == expected
        assert decoded.__dict__ is not expected.__dict__
        assert decoded.has_data_set == expected.has_data_set


@given(st.lists(st.binary(max_size=40) | stores, max_size=6), st.data())
def test_a_decoder_refuses_what_cannot_be_decoded(command_sets, data):
    decoder = CommandDecoder()
    for each in command_sets:
        broken = bytearray(each)
        for _ in range(data.draw(st.integers(0, 2)) if broken else 0):
            broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
        outcomes = []
        for decode in (decoder.decode, Command.decode):
            try:
                outcomes.append(decode(bytes(broken)))
            except ProtocolError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]


def test_a_decoder_keeps_few_layouts():
    decoder = CommandDecoder()
    for length in range(1, 60):
        decoder.decode(Command(CommandField.C_ECHO_RQ, affected_sop_class_uid="1" * length, message_id=1).encode())
    assert len(decoder._layouts) <= 8


def test_a_decoder_keeps_nothing_of_long_command_sets():
    decoder = CommandDecoder()
    tags = tuple(range(1000))
    command = Command(
        CommandField.N_GET_RQ,
        message_id=1,
        requested_sop_class_uid="1",
        requested_sop_instance_uid="2",
        attribute_identifier_list=tags,
    ).encode()
    assert [decoder.decode(command).attribute_identifier_list for _ in range(3)] == [tags] * 3
    assert not decoder._layouts
