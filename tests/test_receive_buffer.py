import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines import ACCEPT, DATA, FRAGMENT, MAX_LENGTH, REJECT, REQUEST, feed, receive_buffer

from asyncdicom.errors import AbortReason, ProtocolError
from asyncdicom.pdu import Abort, AssociateRQ, PDataTF, PresentationDataValue, ReleaseRP, ReleaseRQ
from asyncdicom.receive_buffer import ReceiveBuffer, SlabPool

SMALL_PDUS = [REQUEST, ACCEPT, REJECT, ReleaseRQ(), ReleaseRP(), Abort(2, 1)]


def data_pdu(*values):
    return PDataTF(tuple(PresentationDataValue(*value) for value in values)).encode()


def p_data(body, length=None):
    return b"\4\0" + (len(body) if length is None else length).to_bytes(4, "big") + body


def pdv(length, fragment=b"", context_id=1, control=0):
    return length.to_bytes(4, "big") + bytes((context_id, control)) + fragment


def joined(found):
    """With the fragments of one PDV put together again, errors by their words."""
    whole = []
    for each in found:
        item = (str(each), each.reason) if isinstance(each, ProtocolError) else each
        last = whole[-1] if whole else None
        if type(each) is tuple and last and type(last[0]) is int and last[:2] == (each[0], each[1] & ~2):
            whole[-1] = (*each[:2], last[2] + each[2])
        else:
            whole.append(item if type(item) is tuple else (item,))
    return whole


# PDUs and fragments


@pytest.mark.parametrize("pdu", SMALL_PDUS, ids=lambda pdu: pdu.type.name)
def test_a_pdu_that_is_whole_is_passed_on(pdu):
    it = receive_buffer()
    assert feed(it, pdu.encode()) == [pdu]
    assert it.is_between_pdus


@pytest.mark.parametrize("pdu", SMALL_PDUS, ids=lambda pdu: pdu.type.name)
def test_a_pdu_may_come_byte_by_byte(pdu):
    it = receive_buffer()
    data = pdu.encode()
    assert feed(it, data[:-1], cuts=range(1, len(data))) == []
    assert not it.is_between_pdus
    assert feed(it, data[-1:]) == [pdu]


def test_several_pdus_may_come_in_one_read():
    stream = b"".join(pdu.encode() for pdu in SMALL_PDUS) + DATA.encode() * 2
    assert feed(receive_buffer(), stream) == [*SMALL_PDUS, FRAGMENT, FRAGMENT]


def test_command_and_data_may_share_a_pdu():
    data = data_pdu((1, True, True, b"command"), (1, False, False, b"data"), (1, False, True, b"!"))
    assert feed(receive_buffer(), data) == [(1, 3, b"command"), (1, 0, b"data"), (1, 2, b"!")]


def test_what_is_there_of_a_fragment_is_passed_on_at_once():
    data = data_pdu((5, False, True, b"abcdef"))
    it = receive_buffer()
    assert feed(it, data[:15]) == [(5, 0, b"abc")]
    assert feed(it, data[15:16]) == [(5, 0, b"d")]
    assert feed(it, data[16:]) == [(5, 2, b"ef")]


def test_only_the_end_of_the_last_fragment_is_flagged_last():
    data = data_pdu((1, True, True, b"abcdef"))
    found = feed(receive_buffer(), data, cuts=range(1, len(data)))
    assert [control for _, control, _ in found] == [1, 1, 1, 1, 1, 3]


def test_a_fragment_is_a_view_of_the_receive_memory():
    pool = SlabPool(64)
    it = ReceiveBuffer(pool, MAX_LENGTH)
    data = DATA.encode()
    pool.current()[: len(data)] = data
    ((_, _, [view]),) = it.bytes_received(len(data))
    assert view.obj is pool.current().obj


@pytest.mark.parametrize("alike", [1, 2, 5])
@pytest.mark.parametrize(
    "then", [b"", DATA.encode(), p_data(pdv(2000, bytes(1998), context_id=3)), ReleaseRQ().encode()]
)
def test_pdus_with_the_same_headers_are_one_fragment(alike, then):
    pool = SlabPool(65536)
    stream = b"".join(p_data(pdv(2000, bytes([index]) * 1998)) for index in range(alike)) + then
    pool.current()[: len(stream)] = stream
    found = ReceiveBuffer(pool, 4096).bytes_received(len(stream))
    assert len(found) == 1 + bool(then)
    assert found[0][:2] == (1, 0)
    assert [view[0] for view in found[0][2]] == list(range(alike))


@pytest.mark.parametrize("control", [1, 2, 3])
def test_neither_commands_nor_ends_of_messages_are_joined(control):
    found = ReceiveBuffer(pool := SlabPool(65536), 4096).bytes_received(
        _put(pool, p_data(pdv(2000, bytes(1998), control=control)) * 3)
    )
    assert [len(views) for _, _, views in found] == [1, 1, 1]


def _put(pool, stream):
    pool.current()[: len(stream)] = stream
    return len(stream)


def test_the_header_that_ends_a_read_is_carried_over():
    data = DATA.encode() + DATA.encode()
    for cut in range(1, len(data)):
        assert joined(feed(receive_buffer(), data, cuts=[cut])) == [FRAGMENT, FRAGMENT]


@pytest.mark.parametrize("control", [0, 1, 2, 3])
def test_an_empty_fragment_is_passed_on(control):
    it = receive_buffer()
    assert feed(it, p_data(pdv(2, control=control))) == [(1, control, b"")]
    assert it.is_between_pdus


def test_a_fragment_of_odd_length_is_passed_on():
    assert feed(receive_buffer(), p_data(pdv(5, b"odd", control=2))) == [(1, 2, b"odd")]


def test_reserved_bits_of_the_message_control_header_change_nothing():
    assert feed(receive_buffer(), p_data(pdv(4, b"ab", control=0xFF))) == [(1, 0xFF, b"ab")]


# The maximum length (PS3.8 D.1)


@pytest.mark.parametrize("over", [-1, 0, 1, 6])
def test_a_pdu_may_fill_the_maximum_and_count_its_header_in(over):
    body = pdv(MAX_LENGTH + over - 4, bytes(MAX_LENGTH + over - 6))
    found = feed(receive_buffer(), p_data(body))
    assert sum(len(fragment) for _, _, fragment in found) == MAX_LENGTH + over - 6


def test_a_pdu_above_the_maximum_is_refused_from_its_header():
    (error,) = feed(receive_buffer(), p_data(b"", MAX_LENGTH + 7))
    assert str(error) == f"P-DATA-TF of {MAX_LENGTH + 7} bytes, this side announced a maximum of {MAX_LENGTH}"


def test_with_no_maximum_a_pdu_may_have_any_length():
    it = receive_buffer(max_length=0)
    assert feed(it, p_data(pdv(0xFFFFFFFB, b"first"), 0xFFFFFFFF)) == [(1, 0, b"first")]
    assert feed(it, b"more") == [(1, 0, b"more")]


# Lengths are checked before they are believed


@pytest.mark.parametrize("length", [0, 1, 5, 100, 0x7FFFFFFF, 0xFFFFFFFC, 0xFFFFFFFE, 0xFFFFFFFF])
def test_a_pdv_that_does_not_fit_its_pdu_is_refused_from_its_header(length):
    for rest in (b"", b"ab"):
        it = receive_buffer()
        (error,) = feed(it, p_data(pdv(length), 8) + rest)
        assert str(error) == f"PDV length {length} in a P-DATA-TF that has 4 bytes left for it"


@pytest.mark.parametrize("length", range(6))
def test_a_pdu_without_room_for_a_pdv_is_refused(length):
    (error,) = feed(receive_buffer(), p_data(b"", length))
    assert "cannot hold a PDV" in str(error)


@pytest.mark.parametrize("rest", range(1, 6))
def test_a_pdu_with_less_than_a_header_behind_its_last_pdv_is_refused(rest):
    (error,) = feed(receive_buffer(), p_data(pdv(4), 8 + rest))
    assert "where a PDV header was expected" in str(error)


@pytest.mark.parametrize("pdu_type", [1, 2])
@pytest.mark.parametrize("length", [(1 << 20) + 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_an_associate_pdu_above_1_mib_is_refused_from_its_header(pdu_type, length):
    (error,) = feed(receive_buffer(), bytes((pdu_type, 0)) + length.to_bytes(4, "big"))
    assert f"announces {length} bytes" in str(error)


@pytest.mark.parametrize("pdu_type", [3, 5, 6, 7])
@pytest.mark.parametrize("length", [0, 3, 5, 0xFFFFFFFF])
def test_a_short_pdu_has_its_fixed_length(pdu_type, length):
    (error,) = feed(receive_buffer(), bytes((pdu_type, 0)) + length.to_bytes(4, "big"))
    assert f"announces {length} bytes" in str(error)


@pytest.mark.parametrize("length", [0, 67])
def test_an_associate_pdu_shorter_than_its_fixed_fields_is_refused(length):
    (error,) = feed(receive_buffer(), b"\1\0" + length.to_bytes(4, "big") + bytes(length))
    assert "at least 68 are needed" in str(error)


@pytest.mark.parametrize("pdu_type", [1, 2, 4])
def test_what_is_only_announced_takes_no_memory(pdu_type):
    it = receive_buffer(max_length=0)
    announced = 1 << 20 if pdu_type < 4 else 0xFFFFFFFF
    data = bytes((pdu_type, 0)) + announced.to_bytes(4, "big") + pdv(announced - 4)
    it.pool.current()
    tracemalloc.start()
    try:
        feed(it, data)
        assert tracemalloc.get_traced_memory()[1] < 16384
    finally:
        tracemalloc.stop()


def test_a_long_pdu_is_not_kept():
    it = receive_buffer(max_length=0)
    feed(it, p_data(pdv(0x7FFFFFFB), 0x7FFFFFFF))
    chunk = bytes(4096)
    tracemalloc.start()
    try:
        for _ in range(200):
            assert sum(len(fragment) for _, _, fragment in feed(it, chunk)) == len(chunk)
        assert tracemalloc.get_traced_memory()[1] < 65536
    finally:
        tracemalloc.stop()


def test_the_largest_request_that_is_taken_is_read():
    body = REQUEST.encode()[6:]
    body += (b"\xff\0\0\x3c" + bytes(60)) * (((1 << 20) - len(body)) // 64)
    found = feed(receive_buffer(), b"\1\0" + len(body).to_bytes(4, "big") + body)
    assert found == [REQUEST]


# What is no PDU


@pytest.mark.parametrize("pdu_type", [0x00, 0x08, 0x10, 0x80, 0xFF])
def test_an_unknown_pdu_type_is_refused_from_its_header(pdu_type):
    (error,) = feed(receive_buffer(), bytes((pdu_type, 0, 0, 0, 0, 4)))
    assert error.reason is AbortReason.UNRECOGNIZED_PDU


@pytest.mark.parametrize("method", [b"GET / H", b"POST / ", b"HEAD / ", b"OPTIONS", b"DELETE ", b"CONNECT"])
def test_http_is_named_in_the_error(method):
    (error,) = feed(receive_buffer(), method)
    assert str(error) == f"unrecognized PDU type {method[0]:02X}H; it looks like an HTTP request"


def test_tls_is_named_in_the_error():
    (error,) = feed(receive_buffer(), bytes.fromhex("16030100c8010000c40303"))
    assert str(error) == "unrecognized PDU type 16H; it looks like a TLS handshake on a port without TLS"


def test_nothing_is_read_behind_an_error():
    it = receive_buffer()
    found = feed(it, DATA.encode() + b"\x09\0\0\0\0\0" + DATA.encode())
    assert [type(each) for each in found] == [tuple, ProtocolError]
    assert feed(it, DATA.encode() + ReleaseRQ().encode()) == []


# Memory


def test_one_slab_serves_all_associations():
    pool = SlabPool(64)
    first, second = ReceiveBuffer(pool, MAX_LENGTH), ReceiveBuffer(pool, MAX_LENGTH)
    half = len(DATA.encode()) // 2
    assert feed(first, DATA.encode()[:half]) + feed(second, DATA.encode()[:half]) == []
    assert joined(feed(first, DATA.encode()[half:])) == [FRAGMENT]
    assert joined(feed(second, DATA.encode()[half:])) == [FRAGMENT]
    assert first.pool.current().obj is second.pool.current().obj


def test_views_of_a_slab_that_is_held_stay_good():
    pool = SlabPool(64)
    it = ReceiveBuffer(pool, MAX_LENGTH)
    data = DATA.encode()
    pool.current()[: len(data)] = data
    ((_, _, [view]),) = it.bytes_received(len(data))
    lease = pool.hold()
    feed(it, Abort(2, 1).encode())
    assert bytes(view) == b"abcd"
    assert pool.held == 1
    lease.release()
    assert pool.held == 0


def test_a_slab_that_two_hold_comes_back_when_both_have_released_it():
    pool = SlabPool(64)
    slab = pool.current()
    first, second = pool.hold(), pool.hold()
    assert first is second
    first.release()
    assert pool.current() is not slab
    assert pool.held == 1
    second.release()
    assert pool.held == 0
    pool.hold()
    assert pool.current() is slab


def test_no_more_slabs_are_kept_than_the_pool_is_told():
    pool = SlabPool(64, spare=2)
    leases = [pool.hold() for _ in range(5) if pool.current()]
    for lease in leases:
        lease.release()
    assert len(pool._free) == 2


def test_the_receive_buffer_hands_out_a_memoryview():
    buffer = receive_buffer(slab_size=4096).pool.current()
    assert isinstance(buffer, memoryview)
    assert (len(buffer), buffer.readonly) == (4096, False)


# Properties

small = st.sampled_from(SMALL_PDUS).map(lambda pdu: pdu.encode())
values = st.tuples(st.sampled_from((1, 3)), st.booleans(), st.booleans(), st.binary(max_size=30))
data_pdus = st.lists(values, min_size=1, max_size=4).map(lambda each: data_pdu(*each))
broken = st.one_of(
    st.binary(min_size=1, max_size=20),
    st.builds(p_data, st.binary(max_size=20), st.integers(0, 40)),
    st.builds(lambda length, fragment: p_data(pdv(length, fragment)), st.integers(0, 12), st.binary(max_size=10)),
)


@given(st.lists(small | data_pdus, max_size=6), st.data())
def test_any_cut_of_a_stream_gives_the_same_events(parts, data):
    stream = b"".join(parts)
    cuts = data.draw(st.sets(st.integers(0, len(stream)), max_size=20))
    assert joined(feed(receive_buffer(), stream, cuts=cuts)) == joined(feed(receive_buffer(), stream))


@given(st.lists(small | data_pdus | broken, max_size=6), st.data())
def test_any_cut_of_a_broken_stream_gives_the_same_events_and_the_same_error(parts, data):
    stream = b"".join(parts)
    cuts = data.draw(st.sets(st.integers(0, len(stream)), max_size=20))
    whole, cut = feed(receive_buffer(), stream), feed(receive_buffer(), stream, cuts=cuts)
    assert joined(cut) == joined(whole)


@given(st.lists(data_pdus, max_size=5))
def test_the_fragments_are_those_that_a_whole_pdu_holds(parts):
    expected = [value for part in parts for value in PDataTF.decode(part[6:]).values]
    found = feed(receive_buffer(), b"".join(parts))
    assert [
        PresentationDataValue(number, bool(control & 1), bool(control & 2), data) for number, control, data in found
    ] == expected


@given(st.lists(st.binary(max_size=80) | broken | small, max_size=6), st.integers(0, 64))
def test_any_bytes_are_pdus_fragments_or_one_protocol_error_at_the_end(parts, max_length):
    found = feed(receive_buffer(max_length, slab_size=16), b"".join(parts))
    errors = [each for each in found if isinstance(each, ProtocolError)]
    assert errors in ([], found[-1:])
    assert all(isinstance(each, ProtocolError | tuple | AssociateRQ) or each in SMALL_PDUS for each in found)


def test_a_slab_that_was_released_within_the_same_read_can_be_held_again():
    pool = SlabPool(64)
    slab = pool.current()
    pool.hold().release()
    lease = pool.hold()
    assert pool.current() is not slab
    assert pool.held == 1
    lease.release()
    assert pool.held == 0
