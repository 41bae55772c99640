import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines import feed, receive_buffer

from asyncdicom.command import MAX_COMMAND_LENGTH, Command, CommandField
from asyncdicom.dimse import (
    DEFAULT_PEER_MAX_LENGTH,
    PDU_OVERHEAD,
    CommandReceived,
    DataReceived,
    MessageReader,
    data_head,
    encode_command,
    encode_response,
    fragment_size,
    response_to,
)
from asyncdicom.errors import AbortReason, LocalProtocolError, ProtocolError
from asyncdicom.pdu import PDataTF
from asyncdicom.presentation import PresentationContext
from asyncdicom.uids import IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION

CONTEXT = PresentationContext(1, VERIFICATION, IMPLICIT_VR_LITTLE_ENDIAN, scu=False, scp=True)
OTHER = PresentationContext(3, "1.2.3", IMPLICIT_VR_LITTLE_ENDIAN, scu=False, scp=True)
ECHO = Command(CommandField.C_ECHO_RQ, affected_sop_class_uid=VERIFICATION, message_id=1)
STORE = Command(
    CommandField.C_STORE_RQ,
    has_data_set=True,
    affected_sop_class_uid="1.2.3",
    message_id=2,
    priority=0,
    affected_sop_instance_uid="1.2.3.4",
)
COMMAND, LAST = 1, 2


def reader():
    return MessageReader({1: CONTEXT, 3: OTHER})


def fragment(data, control=COMMAND | LAST, context_id=1):
    return context_id, control, [memoryview(data)]


def pieces(data, size, control, context_id=1):
    """The fragments of a command or data set, each of ``size`` bytes."""
    starts = range(0, len(data), size)
    return [
        fragment(data[start : start + size], control | (LAST if start == starts[-1] else 0), context_id)
        for start in starts
    ]


def plain(received):
    """Commands, and data sets as bytes: joined, with whether they are complete."""
    found = []
    for each in received:
        if isinstance(each, CommandReceived):
            found.append((each.context.id, each.command))
        elif found and type(found[-1][0]) is bytes and not found[-1][1]:
            found[-1] = (found[-1][0] + b"".join(each.views), each.is_last)
        else:
            found.append((b"".join(each.views), each.is_last))
    return found


# Messages


def test_a_message_without_a_data_set_ends_with_its_command():
    it = reader()
    assert it.receive([fragment(ECHO.encode())]) == [CommandReceived(CONTEXT, ECHO)]
    assert it.is_between_messages


def test_a_message_with_a_data_set_ends_with_its_last_fragment():
    it = reader()
    assert it.receive([fragment(STORE.encode())]) == [CommandReceived(CONTEXT, STORE)]
    assert not it.is_between_messages
    assert it.receive([fragment(b"ab", 0), fragment(b"cd", 0)]) == [DataReceived([b"ab", b"cd"], is_last=False)]
    assert not it.is_between_messages
    assert it.receive([fragment(b"ef", LAST)]) == [DataReceived([b"ef"], is_last=True)]
    assert it.is_between_messages


def test_the_views_of_a_data_set_are_passed_on_as_they_are():
    it = reader()
    it.receive([fragment(STORE.encode())])
    slab = memoryview(bytearray(b"pixels"))
    ((views, _),) = it.receive([(1, 0, [slab])])
    assert views[0] is slab


def test_a_message_comes_with_its_context():
    assert reader().receive([fragment(ECHO.encode(), context_id=3)])[0].context is OTHER


def test_nothing_is_received_from_nothing():
    assert reader().receive([]) == []


# What real peers send


def test_several_messages_may_come_in_one_pdu():
    found = reader().receive(
        [
            fragment(ECHO.encode()),
            fragment(STORE.encode()),
            fragment(b"data", LAST),
            fragment(ECHO.encode()),
        ]
    )
    assert plain(found) == [(1, ECHO), (1, STORE), (b"data", True), (1, ECHO)]


def test_command_and_data_may_come_in_one_pdu():
    found = reader().receive([fragment(STORE.encode()), fragment(b"data", LAST)])
    assert plain(found) == [(1, STORE), (b"data", True)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 12, 50])
def test_a_command_may_come_in_fragments_of_any_size(size):
    assert reader().receive(pieces(ECHO.encode(), size, COMMAND)) == [CommandReceived(CONTEXT, ECHO)]


@pytest.mark.parametrize("size", [1, 3])
def test_a_data_set_may_come_in_odd_fragments(size):
    found = reader().receive([fragment(STORE.encode()), *pieces(b"odd data!", size, 0)])
    assert plain(found) == [(1, STORE), (b"odd data!", True)]


def test_an_empty_fragment_may_end_a_data_set():
    found = reader().receive([fragment(STORE.encode()), fragment(b"data", 0), fragment(b"", LAST)])
    assert plain(found) == [(1, STORE), (b"data", True)]


def test_a_data_set_may_be_one_empty_fragment():
    it = reader()
    assert plain(it.receive([fragment(STORE.encode()), fragment(b"", LAST)])) == [(1, STORE), (b"", True)]
    assert it.is_between_messages


def test_an_empty_fragment_may_end_a_command():
    found = reader().receive([fragment(ECHO.encode(), COMMAND), fragment(b"")])
    assert found == [CommandReceived(CONTEXT, ECHO)]


@pytest.mark.parametrize("reserved", [0x04, 0x80, 0xFC])
def test_reserved_bits_of_the_control_header_are_not_tested(reserved):
    it = reader()
    assert plain(
        it.receive([fragment(STORE.encode(), COMMAND | LAST | reserved), fragment(b"x", LAST | reserved)])
    ) == [
        (1, STORE),
        (b"x", True),
    ]


def test_a_pending_move_response_with_a_data_set_is_read_to_its_end():
    response = Command(CommandField.C_MOVE_RSP, has_data_set=True, message_id_being_responded_to=1, status=0xFF00)
    found = reader().receive([fragment(response.encode()), fragment(b"ids", LAST), fragment(ECHO.encode())])
    assert plain(found) == [(1, response), (b"ids", True), (1, ECHO)]


def test_a_cancel_may_come_between_messages_at_any_time():
    cancel = Command(CommandField.C_CANCEL_RQ, message_id_being_responded_to=9)
    assert plain(reader().receive([fragment(cancel.encode())] * 2)) == [(1, cancel), (1, cancel)]


# What is not allowed (PS3.8 annex E)

ERRORS = {
    "context that was not accepted": ([fragment(ECHO.encode(), context_id=5)], 6),
    "context 0": ([fragment(ECHO.encode(), context_id=0)], 6),
    "data before a command": ([fragment(b"data", LAST)], 5),
    "data after a message without a data set": ([fragment(ECHO.encode()), fragment(b"data", LAST)], 5),
    "data inside a command": ([fragment(STORE.encode()[:20], COMMAND), fragment(b"data", 0)], 5),
    "command inside a data set": ([fragment(STORE.encode()), fragment(b"a", 0), fragment(ECHO.encode())], 5),
    "command where the data set was expected": ([fragment(STORE.encode()), fragment(ECHO.encode())], 5),
    "another context inside a command": ([fragment(ECHO.encode()[:20], COMMAND), fragment(b"", context_id=3)], 5),
    "another context inside a data set": ([fragment(STORE.encode()), fragment(b"a", LAST, context_id=3)], 5),
    "unknown context inside a data set": ([fragment(STORE.encode()), fragment(b"a", LAST, context_id=99)], 5),
    "command that is none": ([fragment(b"nonsense")], 6),
    "empty command": ([fragment(b"")], 4),
    "unknown command field": ([fragment(b"\0\0\0\1\2\0\0\0\x77\x77")], 4),
}


@pytest.mark.parametrize(("fragments", "reason"), list(ERRORS.values()), ids=list(ERRORS))
def test_what_breaks_the_rules_is_a_protocol_error(fragments, reason):
    error = reader().receive(fragments)[-1]
    assert isinstance(error, ProtocolError)
    assert error.reason is AbortReason(reason)


def test_what_came_before_the_error_is_not_lost():
    *messages, error = reader().receive([fragment(ECHO.encode()), fragment(b"nonsense")])
    assert messages == [CommandReceived(CONTEXT, ECHO)]
    assert isinstance(error, ProtocolError)


def test_a_command_set_of_64_kib_is_taken():
    tags = tuple(range((MAX_COMMAND_LENGTH - 200) // 4))
    command = Command(
        CommandField.N_GET_RQ,
        requested_sop_class_uid="1.2",
        message_id=1,
        requested_sop_instance_uid="1.3",
        attribute_identifier_list=tags,
    )
    assert plain(reader().receive(pieces(command.encode(), 1000, COMMAND))) == [(1, command)]


@pytest.mark.parametrize("size", [1000, MAX_COMMAND_LENGTH, MAX_COMMAND_LENGTH + 1])
def test_a_command_set_over_64_kib_is_refused_before_its_end(size):
    it = reader()
    (error,) = it.receive(fragment(bytes(size), COMMAND) for _ in range(MAX_COMMAND_LENGTH // size + 1))
    assert "does not end within 65536 bytes" in str(error)
    assert len(it._command) <= MAX_COMMAND_LENGTH


def test_a_command_set_over_64_kib_in_one_last_fragment_is_refused():
    (error,) = reader().receive([fragment(bytes(MAX_COMMAND_LENGTH + 1))])
    assert "does not end within" in str(error)


def test_endless_empty_fragments_of_a_command_are_refused():
    it = reader()
    it.receive([fragment(b"", COMMAND)] * MAX_COMMAND_LENGTH)
    (error,) = it.receive([fragment(b"", COMMAND)])
    assert "as many fragments" in str(error)


def test_a_message_begins_a_new_count_of_fragments():
    it = reader()
    half = [fragment(b"", COMMAND)] * (MAX_COMMAND_LENGTH // 2 + 1)
    for _ in range(2):
        assert plain(it.receive([*half, fragment(ECHO.encode())])) == [(1, ECHO)]


def test_endless_empty_fragments_of_a_data_set_take_no_memory():
    it = reader()
    it.receive([fragment(STORE.encode())])
    empty = [fragment(b"", 0)] * 100
    tracemalloc.start()
    try:
        for _ in range(1000):
            it.receive(empty)
        assert tracemalloc.get_traced_memory()[1] < 16384
    finally:
        tracemalloc.stop()


# Sending


@pytest.mark.parametrize(
    ("peer", "cap", "size"),
    [
        pytest.param(16384, 1 << 20, 16378, id="the peer's maximum holds the PDV header"),
        pytest.param(16384, 4096, 4090, id="the cap of this side"),
        pytest.param(0, 131072, 131066, id="no limit means the cap"),
        pytest.param(None, 1 << 20, DEFAULT_PEER_MAX_LENGTH - 6, id="nothing announced"),
        pytest.param(None, 4096, 4090, id="nothing announced and a lower cap"),
        pytest.param(65535, 1 << 20, 65528, id="an odd maximum"),
        pytest.param(4194304, 1 << 20, (1 << 20) - 6, id="a very large maximum"),
        pytest.param(8, 1 << 20, 2, id="the least that can carry data"),
        pytest.param(9, 1 << 20, 2, id="the least odd"),
    ],
)
def test_fragments_are_even_and_fit_what_the_peer_announced(peer, cap, size):
    assert fragment_size(peer, cap) == size


@pytest.mark.parametrize("peer", [1, 2, 6, 7])
def test_a_maximum_without_room_for_data_is_refused(peer):
    with pytest.raises(LocalProtocolError, match=f"PDUs of {peer} bytes at most"):
        fragment_size(peer, 1 << 20)


def test_a_command_goes_in_one_fragment_when_it_fits():
    data = encode_command(1, ECHO, len(ECHO.encode()))
    (value,) = PDataTF.decode(data[6:]).values
    assert value == (1, True, True, ECHO.encode())
    assert len(data) == PDU_OVERHEAD + len(ECHO.encode())


@pytest.mark.parametrize("size", [2, 10, 66])
def test_a_command_that_does_not_fit_goes_in_even_fragments(size):
    data = encode_command(1, ECHO, size)
    found = feed(receive_buffer(max_length=size + 6), data)
    assert {len(each) % 2 for _, _, each in found} == {0}
    assert [control for _, control, _ in found] == [COMMAND] * (len(found) - 1) + [COMMAND | LAST]
    assert reader().receive([(*each[:2], [each[2]]) for each in found]) == [CommandReceived(CONTEXT, ECHO)]


@pytest.mark.parametrize("is_last", [False, True])
def test_the_head_of_a_data_fragment_is_one_pdu_and_one_pdv_header(is_last):
    head = data_head(3, 4, is_last=is_last)
    assert head == bytes.fromhex("0400 0000000a 00000006 03") + bytes((LAST if is_last else 0,))
    assert len(head) == PDU_OVERHEAD


# Properties

messages = st.lists(
    st.tuples(st.sampled_from((1, 3)), st.sampled_from((ECHO, STORE)), st.binary(max_size=60)), max_size=4
)


def stream_of(sent, size):
    data = b""
    for context_id, command, data_set in sent:
        data += encode_command(context_id, command, size)
        if command.has_data_set:
            starts = range(0, max(len(data_set), 1), size)
            for start in starts:
                part = data_set[start : start + size]
                data += data_head(context_id, len(part), is_last=start == starts[-1]) + part
    return data


@given(messages, st.integers(8, 80), st.data())
def test_any_messages_arrive_whole_whatever_the_maximum_and_the_cuts(sent, max_length, data):
    stream = stream_of(sent, fragment_size(max_length, 1 << 20))
    cuts = data.draw(st.sets(st.integers(0, len(stream)), max_size=10))
    buffer, it, edges = receive_buffer(max_length), reader(), [0, *sorted(cuts), len(stream)]
    received = []
    for start, end in pairwise(edges):
        received += it.receive((*each[:2], [each[2]]) for each in feed(buffer, stream[start:end]))
    expected = []
    for context_id, command, data_set in sent:
        expected += [(context_id, command)] + ([(data_set, True)] if command.has_data_set else [])
    assert plain(received) == expected
    assert it.is_between_messages


any_fragment = st.builds(
    fragment,
    st.sampled_from((ECHO.encode(), STORE.encode(), b"")) | st.binary(max_size=30),
    st.integers(0, 255) | st.integers(0, 3),
    st.sampled_from((1, 3)) | st.integers(0, 255),
)


@given(st.lists(st.lists(any_fragment, max_size=5), max_size=5))
def test_any_fragments_are_messages_or_a_protocol_error(reads):
    it = reader()
    for fragments in reads:
        received = it.receive(fragments)
        if received and isinstance(received[-1], ProtocolError):
            received.pop()
        assert all(isinstance(each, CommandReceived | DataReceived) for each in received)


@pytest.mark.parametrize("instance", ["", "1", "1.2", "1.2.3.4.5", "1" * 64, "1" * 65, "1" * 1000])
@pytest.mark.parametrize("sop_class", ["", "1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.1.2", "2" * 65])
@pytest.mark.parametrize("size", [16378, 100])
def test_a_response_from_a_template_is_the_one_that_is_encoded(instance, sop_class, size):
    for field in (CommandField.C_STORE_RQ, CommandField.N_SET_RQ):
        names = ("affected", "requested")[field == CommandField.N_SET_RQ]
        uids = {f"{names}_sop_class_uid": sop_class or None, f"{names}_sop_instance_uid": instance or None}
        request = Command(field, message_id=4711, **uids)
        expected = encode_command(5, response_to(request, 0xA700), size)
        assert encode_response(5, request, 0xA700, size) == expected
