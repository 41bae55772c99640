from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.errors import AbortReason, ProtocolError
from asyncdicom.pdu import (
    MAX_ASSOCIATE_LENGTH,
    Abort,
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    AsyncOperationsWindow,
    CommonExtendedNegotiation,
    PDataTF,
    PduType,
    PresentationDataValue,
    ReleaseRP,
    ReleaseRQ,
    UserIdentity,
    UserInformation,
    check_ae_title,
    decode_pdu,
)
from asyncdicom.presentation import ContextResult, ExtendedNegotiation, ProposedContext, RoleSelection

VERIFICATION, IMPLICIT, EXPLICIT = "1.2.840.10008.1.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
ECHO = b"ACCEPTOR        REQUESTOR       " + bytes(32)

REQUEST = AssociateRQ(
    "ACCEPTOR",
    "REQUESTOR",
    (ProposedContext(1, VERIFICATION, (IMPLICIT,)),),
    UserInformation(maximum_length=16384, implementation_class_uid="1.2.3"),
)
REQUEST_BYTES = (
    bytes.fromhex("0100 000000a4 0001 0000")
    + ECHO
    + bytes.fromhex("1000 0015") + b"1.2.840.10008.3.1.1.1"
    + bytes.fromhex("2000 002e 01000000")
    + bytes.fromhex("3000 0011") + b"1.2.840.10008.1.1"
    + bytes.fromhex("4000 0011") + b"1.2.840.10008.1.2"
    + bytes.fromhex("5000 0011")
    + bytes.fromhex("5100 0004 00004000")
    + bytes.fromhex("5200 0005") + b"1.2.3"
)  # fmt: skip

ACCEPT = AssociateAC(
    (ContextResult(1, 0, IMPLICIT), ContextResult(3, 4, "")),
    UserInformation(maximum_length=0, implementation_class_uid="1.2.3", implementation_version_name="V1"),
    echo=ECHO,
)
ACCEPT_BYTES = (
    bytes.fromhex("0200 000000a1 0001 0000")
    + ECHO
    + bytes.fromhex("1000 0015") + b"1.2.840.10008.3.1.1.1"
    + bytes.fromhex("2100 0019 01000000 4000 0011") + b"1.2.840.10008.1.2"
    + bytes.fromhex("2100 0008 03000400 4000 0000")
    + bytes.fromhex("5000 0017")
    + bytes.fromhex("5100 0004 00000000")
    + bytes.fromhex("5200 0005") + b"1.2.3"
    + bytes.fromhex("5500 0002") + b"V1"
)  # fmt: skip

GOLDEN = [
    (REQUEST, REQUEST_BYTES),
    (ACCEPT, ACCEPT_BYTES),
    (AssociateRJ(1, 1, 7), bytes.fromhex("0300 00000004 00 01 01 07")),
    (AssociateRJ(2, 3, 2), bytes.fromhex("0300 00000004 00 02 03 02")),
    (
        PDataTF(
            (
                PresentationDataValue(1, is_command=True, is_last=True, fragment=b"cmnd"),
                PresentationDataValue(1, is_command=False, is_last=False, fragment=b"da"),
            )
        ),
        bytes.fromhex("0400 00000012 00000006 01 03") + b"cmnd" + bytes.fromhex("00000004 01 00") + b"da",
    ),
    (ReleaseRQ(), bytes.fromhex("0500 00000004 00000000")),
    (ReleaseRP(), bytes.fromhex("0600 00000004 00000000")),
    (Abort(0, 0), bytes.fromhex("0700 00000004 0000 00 00")),
    (Abort(2, 6), bytes.fromhex("0700 00000004 0000 02 06")),
]

SUB_ITEMS = [
    ({"maximum_length": 0x00012345}, bytes.fromhex("5100 0004 00012345")),
    ({"implementation_class_uid": "1.2.34"}, bytes.fromhex("5200 0006") + b"1.2.34"),
    ({"async_operations_window": AsyncOperationsWindow(5, 1)}, bytes.fromhex("5300 0004 0005 0001")),
    ({"roles": (RoleSelection("1.2", scu=False, scp=True),)}, bytes.fromhex("5400 0007 0003") + b"1.2\0\1"),
    ({"implementation_version_name": "ODD"}, bytes.fromhex("5500 0003") + b"ODD"),
    ({"extended": (ExtendedNegotiation("1.2", b"\1\0\2"),)}, bytes.fromhex("5600 0008 0003") + b"1.2\1\0\2"),
    (
        {"common_extended": (CommonExtendedNegotiation("1.2", "1.34", ("1.5", "1.67")),)},
        bytes.fromhex("5700 0018 0003") + b"1.2" + bytes.fromhex("0004") + b"1.34"
        + bytes.fromhex("000b 0003") + b"1.5" + bytes.fromhex("0004") + b"1.67",
    ),
    ({"common_extended": (CommonExtendedNegotiation("1.2", "1.3"),)}, bytes.fromhex("5700 000c 0003") + b"1.2"
     + bytes.fromhex("0003") + b"1.3" + bytes.fromhex("0000")),
    ({"user_identity": UserIdentity(1, b"user")}, bytes.fromhex("5800 000a 01 00 0004") + b"user" + bytes(2)),
    (
        {"user_identity": UserIdentity(2, b"user", b"key", positive_response_requested=True)},
        bytes.fromhex("5800 000d 02 01 0004") + b"user" + bytes.fromhex("0003") + b"key",
    ),
    ({"user_identity_response": b"ticket"}, bytes.fromhex("5900 0008 0006") + b"ticket"),
    ({"user_identity_response": b""}, bytes.fromhex("5900 0002 0000")),
]  # fmt: skip


def item(kind, value):
    return bytes((kind, 0)) + len(value).to_bytes(2, "big") + value


CONTEXT_BYTES = item(0x20, bytes((1, 0, 0, 0)) + item(0x30, b"1.2.840.10008.1.1") + item(0x40, b"1.2.840.10008.1.2"))
APPLICATION_CONTEXT_BYTES = item(0x10, b"1.2.840.10008.3.1.1.1")


def request_body(*items, application_context=APPLICATION_CONTEXT_BYTES, echo=ECHO, version=b"\0\1"):
    return version + bytes(2) + echo + application_context + b"".join(items)


accept_body = request_body


# The layout of PS3.8 9.3, byte by byte


@pytest.mark.parametrize(("pdu", "data"), GOLDEN, ids=lambda each: getattr(type(each), "__name__", ""))
def test_a_pdu_is_laid_out_as_the_standard_draws_it(pdu, data):
    assert pdu.encode() == data


@pytest.mark.parametrize(("pdu", "data"), GOLDEN, ids=lambda each: getattr(type(each), "__name__", ""))
def test_a_pdu_is_read_from_the_layout_that_the_standard_draws(pdu, data):
    assert int.from_bytes(data[2:6], "big") == len(data) - 6
    assert decode_pdu(data[0], data[6:]) == pdu


@pytest.mark.parametrize(("fields", "data"), SUB_ITEMS, ids=lambda each: ", ".join(each) if type(each) is dict else "")
def test_a_sub_item_is_laid_out_as_the_standard_draws_it(fields, data):
    assert UserInformation(**fields).encode() == item(0x50, data)


@pytest.mark.parametrize(("fields", "data"), SUB_ITEMS, ids=lambda each: ", ".join(each) if type(each) is dict else "")
def test_a_sub_item_is_read_from_the_layout_that_the_standard_draws(fields, data):
    assert UserInformation.decode(data) == UserInformation(**fields)


def test_sub_items_are_written_in_ascending_order():
    fields = {name: value for each, _ in SUB_ITEMS for name, value in each.items()}
    kinds = []
    data = UserInformation(**fields).encode()[4:]
    while data:
        kinds.append(data[0])
        data = data[4 + int.from_bytes(data[2:4], "big") :]
    assert kinds == list(range(0x51, 0x5A))


def test_every_pdu_is_at_least_ten_bytes_long():
    assert min(len(data) for _, data in GOLDEN) == 10


def test_the_pdu_types_are_1_to_7():
    assert [pdu_type.value for pdu_type in PduType] == [1, 2, 3, 4, 5, 6, 7]


def test_the_acceptance_sends_the_requests_reserved_bytes_back_unchanged():
    echo = bytes(range(100, 164))
    request = AssociateRQ.decode(request_body(CONTEXT_BYTES, echo=echo))
    assert AssociateAC((), echo=request.echo).encode()[10:74] == echo


def test_credentials_are_not_shown():
    shown = repr(UserInformation(user_identity=UserIdentity(2, b"user", b"passcode")))
    assert "passcode" not in shown
    assert "user'" not in shown


# What a receiver tolerates


RESERVED_IN_REQUEST = [1, 8, 9, *range(42, 74), 75, 100, 104, 105, 106, 108, 129, 150, 154, 162]


@pytest.mark.parametrize("value", [0x01, 0x20, 0xFF])
def test_reserved_fields_of_a_request_are_not_tested(value):
    data = bytearray(REQUEST_BYTES)
    for position in RESERVED_IN_REQUEST:
        assert data[position] == 0
        data[position] = value
    assert decode_pdu(data[0], bytes(data[6:])) == REQUEST


def test_the_ae_titles_in_an_acceptance_are_not_tested():
    data = ACCEPT_BYTES[:10] + bytes(range(192, 256)) + ACCEPT_BYTES[74:]
    assert AssociateAC.decode(data[6:]).presentation_contexts == ACCEPT.presentation_contexts


@pytest.mark.parametrize("pdu", [AssociateRJ(1, 1, 1), ReleaseRQ(), ReleaseRP(), Abort(0, 0)], ids=type)
def test_reserved_fields_of_short_pdus_are_not_tested(pdu):
    data = bytearray(pdu.encode())
    for position in {AssociateRJ: [6], Abort: [6, 7]}.get(type(pdu), range(6, 10)):
        data[position] = 0xAA
    assert decode_pdu(data[0], bytes(data[6:])) == pdu


@pytest.mark.parametrize("kind", [0x00, 0x11, 0x21, 0x22, 0x30, 0x51, 0x7F, 0xFF])
def test_unknown_items_are_skipped(kind):
    body = request_body(item(kind, b"whatever"), CONTEXT_BYTES, item(kind, b""))
    assert AssociateRQ.decode(body).presentation_contexts == REQUEST.presentation_contexts


@pytest.mark.parametrize("kind", [0x00, 0x50, 0x5A, 0x60, 0xFF])
def test_unknown_sub_items_are_skipped(kind):
    data = item(kind, b"whatever") + item(0x51, b"\0\0\x40\0") + item(kind, b"")
    assert UserInformation.decode(data) == UserInformation(maximum_length=16384)


def test_unknown_sub_items_of_a_presentation_context_are_skipped():
    context = item(
        0x20, bytes((1, 0, 0, 0)) + item(0x31, b"?") + item(0x30, b"1.2") + item(0x41, b"") + item(0x40, b"1.3")
    )
    assert AssociateRQ.decode(request_body(context)).presentation_contexts == (ProposedContext(1, "1.2", ("1.3",)),)


def test_items_may_come_in_any_order():
    user_information = item(0x50, item(0x52, b"1.2.3") + item(0x51, b"\0\0\x40\0"))
    body = request_body(user_information, CONTEXT_BYTES, APPLICATION_CONTEXT_BYTES, application_context=b"")
    assert AssociateRQ.decode(body) == REQUEST


def test_contexts_may_be_numbered_in_any_order():
    contexts = [
        item(0x20, bytes((number, 0, 0, 0)) + item(0x30, b"1.2") + item(0x40, b"1.3")) for number in (255, 1, 9)
    ]
    assert [each.id for each in AssociateRQ.decode(request_body(*contexts)).presentation_contexts] == [255, 1, 9]


def test_all_bits_of_the_protocol_version_are_kept():
    assert AssociateRQ.decode(request_body(CONTEXT_BYTES, version=b"\xff\xfd")).protocol_version == 0xFFFD


@pytest.mark.parametrize("control", [0x03, 0x07, 0x83, 0xFF])
def test_only_two_bits_of_the_message_control_header_have_a_meaning(control):
    pdu = PDataTF.decode(bytes((0, 0, 0, 4, 1, control)) + b"ab")
    assert pdu.values == (PresentationDataValue(1, is_command=True, is_last=True, fragment=b"ab"),)


def test_an_empty_fragment_is_taken_even_as_the_last():
    pdu = PDataTF.decode(bytes((0, 0, 0, 2, 1, 2)))
    assert pdu.values == (PresentationDataValue(1, is_command=False, is_last=True, fragment=b""),)


def test_what_a_later_version_of_common_extended_negotiation_adds_is_skipped():
    data = bytes.fromhex("5701 0010 0003") + b"1.2" + bytes.fromhex("0003") + b"1.3" + bytes.fromhex("0000") + b"more"
    assert UserInformation.decode(data).common_extended == (CommonExtendedNegotiation("1.2", "1.3"),)


def test_of_a_sub_item_that_may_stand_once_the_last_counts():
    data = item(0x51, b"\0\0\x40\0") + item(0x51, b"\0\0\x80\0")
    assert UserInformation.decode(data).maximum_length == 0x8000


# What real peers send


@pytest.mark.parametrize(
    "title", [b"STORE\0\0\0\0\0\0\0\0\0\0\0", b"STORE           ", b"  STORE         ", b"STORE \0 \0 \0 \0 \0 \0"[:16]]
)
def test_ae_titles_lose_nuls_and_spaces_on_both_sides(title):
    body = request_body(CONTEXT_BYTES, echo=title.ljust(16) * 2 + bytes(32))
    request = AssociateRQ.decode(body)
    assert (request.called_ae_title, request.calling_ae_title) == ("STORE", "STORE")


@pytest.mark.parametrize("title", [b" " * 16, bytes(16)])
def test_an_ae_title_of_blanks_is_empty_and_no_error(title):
    request = AssociateRQ.decode(request_body(CONTEXT_BYTES, echo=title * 2 + bytes(32)))
    assert (request.called_ae_title, request.calling_ae_title) == ("", "")


def test_an_ae_title_outside_ascii_is_read_as_latin_1():
    request = AssociateRQ.decode(request_body(CONTEXT_BYTES, echo=b"R\xd6NTGEN".ljust(16) + b"\xff" * 16 + bytes(32)))
    assert (request.called_ae_title, request.calling_ae_title) == ("R\xd6NTGEN", "\xff" * 16)


@pytest.mark.parametrize("padding", [b"\0", b" ", b"\0\0", b" \0"])
def test_uids_of_items_lose_the_padding_that_they_should_not_have(padding):
    context = item(0x20, bytes((1, 0, 0, 0)) + item(0x30, b"1.2" + padding) + item(0x40, b"1.3" + padding))
    user_information = item(0x50, item(0x52, b"1.4" + padding) + item(0x54, b"\0\4" + (b"1.5" + padding)[:4] + b"\1\1"))
    request = AssociateRQ.decode(
        request_body(context, user_information, application_context=item(0x10, b"1.6" + padding))
    )
    assert request.presentation_contexts == (ProposedContext(1, "1.2", ("1.3",)),)
    assert request.user_information.implementation_class_uid == "1.4"
    assert request.user_information.roles[0].sop_class_uid == "1.5"
    assert request.application_context == "1.6"


@pytest.mark.parametrize("uid", ["1.02.003", "1." + "2" * 100, "not a UID", "\xe9"])
def test_uids_that_break_the_rules_are_passed_through(uid):
    context = item(0x20, bytes((1, 0, 0, 0)) + item(0x30, uid.encode("latin-1")) + item(0x40, b"1.3"))
    assert AssociateRQ.decode(request_body(context)).presentation_contexts[0].abstract_syntax == uid


def test_an_empty_transfer_syntax_name_in_front_is_skipped():
    context = item(0x20, bytes((1, 0, 0, 0)) + item(0x30, b"1.2") + item(0x40, b"") + item(0x40, b"1.3"))
    assert AssociateRQ.decode(request_body(context)).presentation_contexts == (ProposedContext(1, "1.2", ("1.3",)),)


def test_a_context_without_a_transfer_syntax_is_read():
    context = item(0x20, bytes((1, 0, 0, 0)) + item(0x30, b"1.2"))
    assert AssociateRQ.decode(request_body(context)).presentation_contexts == (ProposedContext(1, "1.2", ()),)


def test_a_request_without_contexts_is_read():
    assert AssociateRQ.decode(request_body()).presentation_contexts == ()


def test_a_request_without_user_information_is_read():
    assert AssociateRQ.decode(request_body(CONTEXT_BYTES)).user_information == UserInformation()


def test_a_peer_may_name_neither_its_implementation_nor_its_version():
    information = AssociateAC.decode(accept_body(item(0x50, item(0x51, b"\0\0\x40\0")))).user_information
    assert (information.implementation_class_uid, information.implementation_version_name) == ("", "")


def test_a_request_may_have_128_contexts():
    contexts = tuple(
        ProposedContext(number, "1.2", (IMPLICIT, EXPLICIT, "1.2.3", "1.2.4")) for number in range(1, 256, 2)
    )
    request = AssociateRQ("A", "B", contexts)
    assert decode_pdu(1, request.encode()[6:]).presentation_contexts == contexts


def test_a_context_may_have_400_transfer_syntaxes():
    syntaxes = tuple(f"1.2.840.10008.1.2.4.{number}" for number in range(400))
    request = AssociateRQ("A", "B", (ProposedContext(1, "1.2", syntaxes),))
    assert decode_pdu(1, request.encode()[6:]).presentation_contexts[0].transfer_syntaxes == syntaxes


@pytest.mark.parametrize(
    "rest", [b"", item(0x40, b""), item(0x40, b"1.2.840.10008.1.2"), item(0x40, b"\xff\xfe"), b"\x40"]
)
@pytest.mark.parametrize("result", [1, 2, 3, 4, 5, 255])
def test_a_refused_context_may_have_any_transfer_syntax_or_none(result, rest):
    accept = AssociateAC.decode(accept_body(item(0x21, bytes((1, 0, result, 0)) + rest)))
    assert accept.presentation_contexts == (ContextResult(1, result, ""),)


def test_an_acceptance_may_refuse_every_context():
    body = accept_body(item(0x21, b"\1\0\3\0"), item(0x21, b"\3\0\4\0"))
    assert [each.result for each in AssociateAC.decode(body).presentation_contexts] == [3, 4]


def test_an_acceptance_without_application_context_is_read():
    assert AssociateAC.decode(accept_body(application_context=b"")).application_context == ""


@pytest.mark.parametrize("codes", [(0, 0, 0), (3, 9, 9), (255, 255, 255)])
def test_a_rejection_with_undefined_codes_is_read_as_it_is(codes):
    assert AssociateRJ.decode(bytes((0, *codes))) == AssociateRJ(*codes)


@pytest.mark.parametrize("codes", [(1, 0), (0, 77), (255, 255)])
def test_an_abort_with_undefined_codes_is_read_as_it_is(codes):
    assert Abort.decode(bytes((0, 0, *codes))) == Abort(*codes)


def test_an_asynchronous_window_that_is_not_there_is_none_and_0_is_kept():
    assert UserInformation.decode(b"").async_operations_window is None
    assert UserInformation.decode(item(0x53, bytes(4))).async_operations_window == (0, 0)


@pytest.mark.parametrize("value", [0, 4096, 16378, 65535, 65536, 4194304, 0xFFFFFFFF])
def test_any_maximum_length_is_kept(value):
    data = item(0x51, value.to_bytes(4, "big"))
    assert UserInformation.decode(data).maximum_length == value


def test_a_role_is_given_by_1_only():
    roles = UserInformation.decode(item(0x54, b"\0\0031.2\2\1") + item(0x54, b"\0\0031.3\1\0")).roles
    assert roles == (RoleSelection("1.2", scu=False, scp=True), RoleSelection("1.3", scu=True, scp=False))


def test_a_user_identity_may_end_without_a_secondary_field():
    identity = UserInformation.decode(item(0x58, b"\3\0\0\6ticket")).user_identity
    assert identity == UserIdentity(3, b"ticket")


# What is an error


@pytest.mark.parametrize("pdu_type", [0x00, 0x08, 0x16, 0x47, 0x80, 0xFF])
def test_an_unknown_pdu_type_is_unrecognized(pdu_type):
    with pytest.raises(ProtocolError) as refused:
        decode_pdu(pdu_type, bytes(4))
    assert refused.value.reason is AbortReason.UNRECOGNIZED_PDU


ERRORS = {
    "request shorter than its fixed fields": (1, bytes(67)),
    "acceptance shorter than its fixed fields": (2, bytes(67)),
    "no application context": (1, request_body(CONTEXT_BYTES, application_context=b"")),
    "context ID 0": (1, request_body(CONTEXT_BYTES.replace(b"\x2e\1", b"\x2e\0"))),
    "even context ID": (1, request_body(CONTEXT_BYTES.replace(b"\x2e\1", b"\x2e\2"))),
    "context ID twice": (1, request_body(CONTEXT_BYTES, CONTEXT_BYTES)),
    "no abstract syntax": (1, request_body(item(0x20, b"\1\0\0\0" + item(0x40, b"1.3")))),
    "empty abstract syntax": (1, request_body(item(0x20, b"\1\0\0\0" + item(0x30, b"")))),
    "context shorter than its fixed fields": (1, request_body(item(0x20, b"\1\0\0"))),
    "context result shorter than its fixed fields": (2, accept_body(item(0x21, b"\1\0\0"))),
    "half an item header": (1, request_body(b"\x20\0\0")),
    "item longer than the PDU": (1, request_body(CONTEXT_BYTES[:-1])),
    "sub-item longer than its item": (1, request_body(item(0x20, b"\1\0\0\0\x30\0\0\x091.2"))),
    "half a sub-item header": (1, request_body(item(0x50, b"\x51\0"))),
    "maximum length of 3 bytes": (1, request_body(item(0x50, item(0x51, bytes(3))))),
    "maximum length of 5 bytes": (1, request_body(item(0x50, item(0x51, bytes(5))))),
    "asynchronous window of 2 bytes": (1, request_body(item(0x50, item(0x53, bytes(2))))),
    "role selection without roles": (1, request_body(item(0x50, item(0x54, b"\0\0031.2\1")))),
    "role selection shorter than its UID": (1, request_body(item(0x50, item(0x54, b"\0\x081.2\1\1")))),
    "extended negotiation shorter than its UID": (1, request_body(item(0x50, item(0x56, b"\xff\xff1.2")))),
    "extended negotiation without a length": (1, request_body(item(0x50, item(0x56, b"\0")))),
    "common extended negotiation cut": (1, request_body(item(0x50, item(0x57, b"\0\0031.2\0\x091.3")))),
    "related UIDs beyond their block": (1, request_body(item(0x50, item(0x57, b"\0\0031.2\0\0031.3\0\4\0\x091.")))),
    "user identity of 1 byte": (1, request_body(item(0x50, item(0x58, b"\1")))),
    "user identity shorter than its field": (1, request_body(item(0x50, item(0x58, b"\1\0\0\x09user")))),
    "identity response shorter than its field": (2, accept_body(item(0x50, item(0x59, b"\0\x09user")))),
    "rejection of 3 bytes": (3, bytes(3)),
    "rejection of 5 bytes": (3, bytes(5)),
    "data without a PDV": (4, b""),
    "half a PDV header": (4, bytes(5)),
    "PDV of length 0": (4, b"\0\0\0\0\1\3"),
    "PDV of length 1": (4, b"\0\0\0\1\1\3"),
    "PDV longer than its PDU": (4, b"\0\0\0\5\1\3ab"),
    "PDV of nearly 4 GiB": (4, b"\xff\xff\xff\xff\1\3ab"),
    "bytes behind the last PDV": (4, b"\0\0\0\4\1\3ab\0"),
    "release request of 0 bytes": (5, b""),
    "release response of 5 bytes": (6, bytes(5)),
    "abort of 2 bytes": (7, bytes(2)),
}


@pytest.mark.parametrize(("pdu_type", "body"), list(ERRORS.values()), ids=list(ERRORS))
def test_what_cannot_be_understood_is_a_protocol_error(pdu_type, body):
    with pytest.raises(ProtocolError) as refused:
        decode_pdu(pdu_type, body)
    assert refused.value.reason is AbortReason.INVALID_PDU_PARAMETER_VALUE


@pytest.mark.parametrize("data", [REQUEST_BYTES, ACCEPT_BYTES], ids=["request", "acceptance"])
def test_an_associate_pdu_cut_anywhere_is_never_read_as_the_whole(data):
    whole = decode_pdu(data[0], data[6:])
    for end in range(6, len(data)):
        with suppress(ProtocolError):
            assert decode_pdu(data[0], data[6:end]) != whole


# AE titles of this side


@pytest.mark.parametrize("title", ["A", "SIXTEEN_CHARS_16", "lower case", "a.b-c_d", "#!~"])
def test_an_ae_title_may_have_1_to_16_printable_characters(title):
    assert check_ae_title(title) == title


def test_spaces_around_an_ae_title_carry_no_meaning():
    assert check_ae_title("  STORE             ") == "STORE"


@pytest.mark.parametrize(
    "title", ["", " ", " " * 16, "SEVENTEEN_CHARS_1", "A\\B", "A\tB", "A\n", "A\0", "R\xd6NTGEN", "\x7f"]
)
def test_other_ae_titles_are_refused(title):
    with pytest.raises(ValueError, match="AE title"):
        check_ae_title(title)
    with pytest.raises(ValueError, match="AE title"):
        AssociateRQ("STORE", title, REQUEST.presentation_contexts).encode()


# Properties

uids = st.text("0123456789.", min_size=1, max_size=64)
texts = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="\\"), min_size=1, max_size=16)
short_bytes = st.binary(max_size=20)
user_informations = st.builds(
    UserInformation,
    maximum_length=st.none() | st.integers(0, 0xFFFFFFFF),
    implementation_class_uid=uids | st.just(""),
    implementation_version_name=texts | st.just(""),
    async_operations_window=st.none() | st.builds(AsyncOperationsWindow, *[st.integers(0, 0xFFFF)] * 2),
    roles=st.lists(st.builds(RoleSelection, uids, st.booleans(), st.booleans()), max_size=3).map(tuple),
    extended=st.lists(st.builds(ExtendedNegotiation, uids, short_bytes), max_size=3).map(tuple),
    common_extended=st.lists(
        st.builds(CommonExtendedNegotiation, uids, uids, st.lists(uids, max_size=3).map(tuple)), max_size=3
    ).map(tuple),
    user_identity=st.none() | st.builds(UserIdentity, st.integers(0, 255), short_bytes, short_bytes, st.booleans()),
    user_identity_response=st.none() | short_bytes,
)
context_ids = st.integers(0, 127).map(lambda number: 2 * number + 1)
byte = st.integers(0, 255)
requests = st.builds(
    AssociateRQ,
    texts,
    texts,
    st.lists(
        st.builds(ProposedContext, context_ids, uids, st.lists(uids, max_size=4).map(tuple)),
        max_size=5,
        unique_by=lambda context: context.id,
    ).map(tuple),
    user_informations,
    uids,
    st.integers(0, 0xFFFF),
)
results = st.builds(ContextResult, byte, st.just(0), uids) | st.builds(
    ContextResult, byte, st.integers(1, 255), st.just("")
)
accepts = st.builds(
    AssociateAC,
    st.lists(results, max_size=5).map(tuple),
    user_informations,
    uids,
    st.integers(0, 0xFFFF),
    st.binary(min_size=64, max_size=64),
)
values = st.builds(PresentationDataValue, byte, st.booleans(), st.booleans(), short_bytes)
any_pdu = st.one_of(
    requests,
    accepts,
    st.builds(AssociateRJ, byte, byte, byte),
    st.builds(PDataTF, st.lists(values, min_size=1, max_size=5).map(tuple)),
    st.just(ReleaseRQ()),
    st.just(ReleaseRP()),
    st.builds(Abort, byte, byte),
)


@given(any_pdu)
def test_any_pdu_reads_back_as_itself(pdu):
    data = pdu.encode()
    assert int.from_bytes(data[2:6], "big") == len(data) - 6
    assert decode_pdu(data[0], data[6:]) == pdu


@given(requests)
def test_a_request_keeps_the_bytes_to_be_sent_back(request):
    data = request.encode()
    assert decode_pdu(1, data[6:]).echo == data[10:74]


@given(byte, st.binary(max_size=200))
def test_any_bytes_are_a_pdu_or_a_protocol_error(pdu_type, body):
    with suppress(ProtocolError):
        assert decode_pdu(pdu_type, body).type == pdu_type


@given(any_pdu, st.data())
def test_a_damaged_pdu_is_a_pdu_or_a_protocol_error(pdu, data):
    damaged = bytearray(pdu.encode()[6:])
    for position in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=4)):
        damaged[position] = data.draw(st.sampled_from((0, 1, 2, 0x10, 0x50, 0x7F, 0xFE, 0xFF)) | byte)
    with suppress(ProtocolError):
        assert repr(decode_pdu(pdu.type, bytes(damaged)))


@given(st.sampled_from([0x10, 0x20, 0x21, 0x30, 0x40, 0x50, *range(0x51, 0x5B)]), st.integers(0, 40), short_bytes)
def test_any_item_with_any_length_is_read_or_is_a_protocol_error(kind, length, value):
    broken = bytes((kind, 0)) + length.to_bytes(2, "big") + value
    for body in (
        request_body(broken),
        request_body(item(0x50, broken)),
        request_body(item(0x20, b"\1\0\0\0" + broken)),
    ):
        for pdu_type in (1, 2):
            with suppress(ProtocolError):
                assert decode_pdu(pdu_type, body).type == pdu_type


def test_a_request_of_the_largest_length_taken_is_read():
    transfer_syntaxes = item(0x40, b"1.2.840.10008.1.2") * 1000
    contexts = [
        item(0x20, bytes((number, 0, 0, 0)) + item(0x30, b"1.2") + transfer_syntaxes) for number in range(1, 33, 2)
    ]
    body = request_body(*contexts)
    body += (MAX_ASSOCIATE_LENGTH - len(body)) // 1024 * (b"\xff\0\x03\xfc" + bytes(1020))
    assert len(AssociateRQ.decode(body).presentation_contexts) == 16


def test_a_request_of_very_many_items_is_refused_before_it_keeps_the_loop_busy():
    body = REQUEST.encode()[6:] + b"\xff\0\0\0" * 21_000
    with pytest.raises(ProtocolError, match="items"):
        AssociateRQ.decode(body)
