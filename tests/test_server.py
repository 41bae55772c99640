"""The acceptor: whom it takes, what it bears, and how it ends."""

import asyncio
import contextlib
import gc
import os
import socket

import pytest
from raw_peer import (
    CT,
    DEADLINE,
    data_set,
    echo_request,
    pdv,
    raw_client,
    request,
    store_request,
)

import asyncdicom
from asyncdicom import Context, Status, Timeouts, UserIdentity
from asyncdicom.pdu import Abort, AssociateAC, AssociateRJ, ReleaseRP, ReleaseRQ
from asyncdicom.uids import STORAGE_SOP_CLASSES, VERIFICATION


def serving(handler=None, **options):
    return asyncdicom.serve("127.0.0.1", 0, c_store=handler, **options)


async def drop(store_request):
    return Status.SUCCESS


async def settle(condition):
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0)


async def answer_to(server, pdu):
    async with raw_client(server.port) as peer:
        peer.send(pdu)
        return await peer.receive()


# Whom it takes


@pytest.mark.parametrize(
    ("options", "asked", "expected"),
    [
        ({"ae_title": "OURS"}, {}, None),
        ({"ae_title": ["A", "OURS"]}, {}, None),
        ({"ae_title": "OTHER"}, {}, AssociateRJ(1, 1, 7)),
        ({"ae_title": "ours"}, {}, AssociateRJ(1, 1, 7)),
        ({"calling_ae_titles": ["RAW"]}, {}, None),
        ({"calling_ae_titles": ["FRIEND"]}, {}, AssociateRJ(1, 1, 3)),
        ({"max_associations": 0}, {}, AssociateRJ(2, 3, 2)),
    ],
)
async def test_who_may_have_an_association(options, asked, expected):
    async with serving(drop, **options) as server:
        answer = await answer_to(server, request(**asked))
    assert isinstance(answer, AssociateAC) if expected is None else answer == expected


async def test_a_request_without_a_context_is_rejected_at_once():
    body = request().encode()
    start = body.index(b"\x20\x00", 74)
    end = body.index(b"\x50\x00", start)
    bare = body[:2] + (len(body) - 6 - (end - start)).to_bytes(4, "big") + body[6:start] + body[end:]
    async with serving(drop) as server:
        assert await answer_to(server, bare) == AssociateRJ(1, 1, 1)


async def test_another_application_context_is_rejected():
    pdu = request().encode().replace(b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.2")
    async with serving(drop) as server:
        assert await answer_to(server, pdu) == AssociateRJ(1, 1, 2)


async def test_a_protocol_version_without_bit_0_is_rejected_by_the_provider():
    pdu = bytearray(request().encode())
    pdu[6:8] = b"\0\2"
    async with serving(drop) as server:
        assert await answer_to(server, bytes(pdu)) == AssociateRJ(1, 2, 2)


async def test_a_request_with_nothing_acceptable_is_accepted_unless_that_was_forbidden():
    asked = request("1.2.3.4")
    async with serving(drop) as lenient, serving(drop, require_context=True) as strict:
        answer = await answer_to(lenient, asked)
        assert [each.result for each in answer.presentation_contexts] == [3]
        assert await answer_to(strict, asked) == AssociateRJ(1, 1, 1)


async def test_any_storage_takes_private_classes_and_no_other_service():
    query = "1.2.840.10008.5.1.4.1.2.2.1"
    async with serving(drop, any_storage=True) as server:
        answer = await answer_to(server, request("1.3.6.1.4.1.99999.7", query, CT))
    assert [each.result for each in answer.presentation_contexts] == [0, 3, 0]


async def test_the_answer_gives_back_the_titles_byte_for_byte():
    pdu = bytearray(request().encode())
    pdu[10:26] = b"OURS\0\0\0\0\0\0\0\0\0\0\0\0"
    pdu[42:74] = bytes(range(32))
    async with serving(drop, ae_title="OURS") as server:
        answer = await answer_to(server, bytes(pdu))
    assert answer.echo == bytes(pdu[10:74])


async def test_every_storage_class_is_supported_by_default():
    async with serving(drop) as server:
        for start in range(0, 210, 105):
            classes = sorted(STORAGE_SOP_CLASSES)[start : start + 105]
            answer = await answer_to(server, request(*classes))
            assert {each.result for each in answer.presentation_contexts} == {0}


async def test_the_transfer_syntax_is_the_requestors_first_or_the_acceptors():
    offered = Context(CT, ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1"))
    own = [Context(CT, ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2"))]
    for prefer, expected in ((False, "1.2.840.10008.1.2"), (True, "1.2.840.10008.1.2.1")):
        async with serving(drop, contexts=own, prefer_own_syntax=prefer) as server:
            answer = await answer_to(server, request(offered))
            assert answer.presentation_contexts[0].transfer_syntax == expected


async def test_400_transfer_syntaxes_in_a_context_and_unknown_items_are_no_hindrance():
    syntaxes = tuple(f"1.2.3.{number}" for number in range(400))
    pdu = request(Context(CT, (*syntaxes, "1.2.840.10008.1.2"))).encode() + b"\x77\0\0\x02ab"
    pdu = pdu[:2] + (len(pdu) - 6).to_bytes(4, "big") + pdu[6:]
    async with serving(drop) as server:
        answer = await answer_to(server, pdu)
    assert answer.presentation_contexts[0].result == 0


# What it bears


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\1\0\0\x10\0\0",
        request().encode()[:-1],
        b"\x04\0\0\0\0\x0a",
    ],
    ids=["nothing", "one byte after another of 1 MiB", "a request but for its last byte", "data that does not come"],
)
async def test_artim_is_one_deadline_over_the_whole_request(sent):
    async with serving(drop, timeouts=Timeouts(acse=0.05)) as server, raw_client(server.port) as peer:
        peer.send(sent)

        async def trickle():
            with contextlib.suppress(ConnectionError):
                while True:
                    if sent.startswith(b"\1\0\0\x10"):
                        peer.send(b"\0")
                    await peer.writer.drain()
                    await asyncio.sleep(0.001)

        trickling = asyncio.ensure_future(trickle())
        assert [pdu for pdu in await peer.receive_all() if not isinstance(pdu, Abort)] == []
        trickling.cancel()
        await asyncio.wait([trickling])


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"\1\0\0\x10\0\1", Abort(0, 0)),
        (b"\1\0\xff\xff\xff\xff", Abort(0, 0)),
        (b"GET / HTTP/1.1\r\n\r\n", Abort(0, 0)),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc", Abort(0, 0)),
        (b"\x05\0\0\0\0\x05", Abort(0, 0)),
        (ReleaseRQ().encode(), Abort(0, 0)),
        (echo_request(), Abort(0, 0)),
    ],
    ids=["a request above 1 MiB", "4 GiB announced", "HTTP", "TLS", "a long release", "a release", "data"],
)
async def test_what_is_no_request_is_aborted_from_its_header_and_closed(sent, expected):
    async with serving(drop, timeouts=Timeouts(acse=0.5)) as server, raw_client(server.port) as peer:
        peer.send(sent)
        assert await peer.receive_all() == [expected]


@pytest.mark.parametrize("how", ["rejected", "released", "aborted"])
async def test_a_peer_that_does_not_close_after_the_end_is_closed(how):
    titles = {"ae_title": "OTHER"} if how == "rejected" else {}
    async with serving(drop, timeouts=Timeouts(acse=0.5), **titles) as server, raw_client(server.port) as peer:
        peer.send(request())
        await peer.receive()
        if how == "released":
            peer.send(ReleaseRQ())
            assert await peer.receive() == ReleaseRP()
        elif how == "aborted":
            peer.send(b"\xff" * 10)
            assert await peer.receive() == Abort(2, 1)
        assert await peer.receive() is None
        await settle(lambda: not server.associations)


async def test_bad_requests_take_no_place_from_good_ones():
    async with serving(drop, max_associations=1) as server, contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            peer = await stack.enter_async_context(raw_client(server.port))
            peer.send(b"\1\0\0\0\0\x44")
            bad = await stack.enter_async_context(raw_client(server.port))
            bad.send(b"\1\0\0\0\0\x02ab")
        async with asyncdicom.connect("127.0.0.1", server.port) as association:
            assert await association.c_echo() == Status.SUCCESS


async def test_the_limit_counts_established_associations_and_a_place_is_free_at_once():
    async with serving(drop, max_associations=1) as server:
        async with raw_client(server.port) as peer:
            await peer.associate()
            assert await answer_to(server, request()) == AssociateRJ(2, 3, 2)
            peer.send(ReleaseRQ())
            await peer.receive()
        await settle(lambda: not server.associations)
        assert isinstance(await answer_to(server, request()), AssociateAC)


async def test_too_many_silent_connections_cost_the_oldest_of_them(monkeypatch):
    monkeypatch.setattr("asyncdicom.server._MAX_PENDING", 3)
    async with serving(drop) as server, contextlib.AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(raw_client(server.port)) for _ in range(5)]
        assert await silent[0].receive() is None
        assert await silent[1].receive() is None
        assert isinstance(await answer_to(server, request()), AssociateAC)


async def test_200_silent_connections_do_not_delay_a_good_one():
    async with serving(drop) as server, contextlib.AsyncExitStack() as stack:
        for _ in range(200):
            await stack.enter_async_context(raw_client(server.port))
        before = len(asyncio.all_tasks())
        async with asyncdicom.connect("127.0.0.1", server.port) as association:
            assert await association.c_echo() == Status.SUCCESS
        assert len(asyncio.all_tasks()) == before


async def test_a_peer_that_asks_without_reading_is_not_read_either():
    async with serving(drop, timeouts=Timeouts(dimse=1)) as server, raw_client(server.port) as peer:
        await peer.associate()
        (association,) = server.associations
        peer.writer.transport.pause_reading()
        echoes = echo_request() * 1000
        async with asyncio.timeout(DEADLINE):
            while not association._connection.is_reading_paused:
                peer.writer.write(echoes)
                await asyncio.sleep(0)
        peer.writer.transport.resume_reading()
        assert (await peer.receive_command()).status == Status.SUCCESS
        peer.reset()


async def test_a_slow_consumer_pauses_the_peer_and_loses_nothing():
    go_on = asyncio.Event()
    received = []

    async def handler(store_request):
        await go_on.wait()
        async for view in store_request.data_set:
            received.append(bytes(view))
            await asyncio.sleep(0)
        return Status.SUCCESS

    data = os.urandom(8_000_000)
    async with serving(handler, max_pdu_length=0) as server, raw_client(server.port) as peer:
        await peer.associate()
        peer.send(store_request(), pdv(3, 2, data))
        await settle(lambda: server.associations[0]._connection.is_reading_paused)
        assert server._pool.held * 256 * 1024 < 2_000_000
        go_on.set()
        assert (await peer.receive_command()).status == Status.SUCCESS
        assert server._pool.held == 0
    assert b"".join(received) == data


async def test_a_handler_that_never_returns_disturbs_its_own_association_alone():
    async def handler(store_request):
        await asyncio.Event().wait()

    async with serving(handler) as server:
        async with raw_client(server.port) as peer:
            await peer.associate()
            peer.send(store_request(), pdv(3, 2, b"ab"))
            async with asyncdicom.connect("127.0.0.1", server.port) as association:
                assert await association.c_echo() == Status.SUCCESS
        await settle(lambda: not server.associations)


def open_descriptors():
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


async def test_300_good_300_refused_and_500_reset_connections_leave_nothing():
    async with serving(drop, ae_title="OURS") as server:
        await answer_to(server, request())
        await settle(lambda: not server.associations)
        gc.collect()
        before = open_descriptors(), len(asyncio.all_tasks())
        for number in range(1100):
            async with raw_client(server.port) as peer:
                peer.send(request(called="OURS" if number % 2 else "NOBODY"))
                if number < 600:
                    await peer.receive()
                else:
                    peer.reset()
        await settle(lambda: not server.associations and not server._pending)
        gc.collect()
        assert (open_descriptors(), len(asyncio.all_tasks())) == before


async def test_an_end_at_every_byte_of_a_store_leaves_nothing_and_keeps_no_half_file(tmp_path):
    async def handler(store_request):
        await store_request.data_set.save_as(tmp_path / "instance")
        return Status.SUCCESS

    whole = request().encode() + store_request() + pdv(3, 0, data_set(200)[:100]) + pdv(3, 2, data_set(200)[100:])
    async with serving(handler) as server:
        for cut in range(1, len(whole), 3):
            async with raw_client(server.port) as peer:
                peer.send(whole[:cut])
                if cut % 2:
                    await peer.writer.drain()
                    peer.reset()
        await settle(lambda: not server.associations and not server._pending)
        await settle(lambda: len(asyncio.all_tasks()) == 1)
    assert list(tmp_path.iterdir()) == []


# How it ends


async def test_closing_lets_a_running_association_end():
    done = []

    async def handler(store_request):
        done.append(await store_request.data_set.read())
        return Status.SUCCESS

    server = await serving(handler)
    async with raw_client(server.port) as peer:
        await peer.associate()
        peer.send(store_request(), pdv(3, 0, b"ab"))
        closing = asyncio.ensure_future(server.close(drain=DEADLINE))
        await asyncio.sleep(0)
        peer.send(pdv(3, 2, b"cd"))
        assert (await peer.receive_command()).status == Status.SUCCESS
        peer.send(ReleaseRQ())
        assert await peer.receive() == ReleaseRP()
        await peer.close()
        await closing
    assert done == [b"abcd"]


async def test_closing_aborts_what_does_not_end_in_time_and_takes_nobody_new():
    server = await serving(drop)
    async with raw_client(server.port) as peer:
        await peer.associate()
        port = server.port
        await server.close(drain=0.01)
        assert await peer.receive() == Abort(0, 0)
        with pytest.raises(asyncdicom.AssociationLost):
            await asyncdicom.connect("127.0.0.1", port)


async def test_serve_forever_ends_when_the_server_is_closed():
    server = await serving(drop)
    waiting = asyncio.ensure_future(server.serve_forever())
    await server.close()
    await waiting


async def test_a_port_in_use_is_an_os_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            await asyncdicom.serve("127.0.0.1", taken.getsockname()[1])


async def test_an_ae_title_that_the_standard_does_not_allow_is_refused():
    with pytest.raises(ValueError, match="17 characters"):
        await serving(ae_title="A" * 17)


async def test_only_verification_is_supported_without_a_handler():
    async with serving() as server:
        answer = await answer_to(server, request(VERIFICATION, CT))
    assert [each.result for each in answer.presentation_contexts] == [0, 3]


async def test_two_that_close_are_both_done_when_the_last_association_is_gone():
    server = await serving(drop)
    async with raw_client(server.port) as peer:
        await peer.associate()
        closing = [asyncio.ensure_future(server.close(drain=DEADLINE)) for _ in range(2)]
        await asyncio.sleep(0)
        peer.send(ReleaseRQ())
        await peer.receive()
        await peer.close()
        async with asyncio.timeout(DEADLINE / 2):
            await asyncio.gather(*closing)


async def test_closing_waits_for_handlers_to_clean_up():
    steps = []

    async def handler(store_request):
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            steps.append("cleaned up")

    server = await serving(handler)
    async with raw_client(server.port) as peer:
        await peer.associate()
        peer.send(store_request(), pdv(3, 2, b"ab"))
        await settle(lambda: server.associations[0]._performer.is_busy)
        await server.close(drain=0)
    assert steps == ["cleaned up"]


@pytest.mark.parametrize(
    ("sent", "words"), [(b"GET / HTTP/1.1\r\n", "HTTP"), (b"\x16\x03\x01\x02\0\x01\0\x01\xfc", "TLS")]
)
async def test_who_speaks_another_protocol_is_named_in_the_log(sent, words, caplog):
    async with serving(drop) as server, raw_client(server.port) as peer:
        peer.send(sent)
        await peer.receive()
    assert words in caplog.text


async def test_text_from_a_peer_cannot_make_lines_of_its_own_in_the_log(caplog):
    pdu = bytearray(request().encode())
    pdu[26:42] = b"A\n2026 ERROR x  "
    async with serving(drop, calling_ae_titles="FRIEND") as server:
        caplog.set_level("DEBUG")
        assert await answer_to(server, bytes(pdu)) == AssociateRJ(1, 1, 3)
    assert "\n" not in "".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("lengths", [{"max_pdu_length": 1 << 32}, {"max_pdu_length": 5}, {"max_send_pdu_length": 0}])
async def test_lengths_that_cannot_be_are_refused_at_once(lengths):
    with pytest.raises(ValueError, match="PDU"):
        await serving(drop, **lengths)


# Identities of users


async def asking_as(identity, check, **options):
    """The answer to an association request with a user identity."""
    async with serving(user_identity=check, **options) as server, raw_client(server.port) as peer:
        peer.send(request(user_identity=identity))
        return await peer.receive()


@pytest.mark.parametrize(
    ("answer", "positive", "response"),
    [(True, False, None), (True, True, b""), (b"ticket", True, b"ticket"), (b"ticket", False, None)],
)
async def test_an_identity_that_is_confirmed_is_accepted(answer, positive, response):
    seen = []

    async def check(identity, association):
        seen.append((identity, association.calling_ae_title, association.peer_address))
        return answer

    identity = UserIdentity(2, b"user", b"secret", positive)
    accepted = await asking_as(identity, check)
    assert isinstance(accepted, AssociateAC)
    assert accepted.user_information.user_identity_response == response
    assert seen == [(identity, "RAW", "127.0.0.1")]


async def test_an_identity_that_is_not_confirmed_is_rejected():
    async def deny(identity, association):
        return False

    assert await asking_as(UserIdentity(1, b"user"), deny) == AssociateRJ(1, 2, 1)


async def test_an_identity_check_that_fails_lets_nobody_in(caplog):
    async def fail(identity, association):
        raise KeyError("no such user")

    assert await asking_as(UserIdentity(1, b"user"), fail) == AssociateRJ(1, 2, 1)
    assert "checking the identity" in caplog.text


@pytest.mark.parametrize("answer", ["yes", 5, 0])
async def test_an_identity_check_that_answers_nonsense_lets_nobody_in(answer, caplog):
    async def check(identity, association):
        return answer

    assert await asking_as(UserIdentity(1, b"user", b"", True), check) == AssociateRJ(1, 2, 1)
    assert "not a bool or bytes" in caplog.text


class Unexpected(BaseException):
    """What nobody catches."""


@pytest.mark.parametrize("answer", [b"x" * 70_000, asyncio.CancelledError(), Unexpected()])
async def test_an_identity_check_that_ends_without_an_answer_closes_the_connection(answer):
    async def check(identity, association):
        if isinstance(answer, BaseException):
            raise answer
        return answer

    assert await asking_as(UserIdentity(1, b"user", b"", True), check) is None


async def test_an_identity_is_not_checked_any_longer_when_the_requestor_is_gone():
    ended = asyncio.Event()

    async def check(identity, association):
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serving(user_identity=check) as server, raw_client(server.port) as peer:
        peer.send(request(user_identity=UserIdentity(1, b"user")))
        await settle(lambda: server._checks)
        await asyncio.sleep(0)
        peer.reset()
        async with asyncio.timeout(DEADLINE):
            await ended.wait()
        await settle(lambda: not server._checks and not server._pending)


async def test_an_identity_check_has_its_time():
    async def never(identity, association):
        await asyncio.Event().wait()

    answer = await asking_as(UserIdentity(1, b"user"), never, timeouts=Timeouts(acse=0.05))
    assert answer == AssociateRJ(2, 3, 1)


async def test_a_requestor_that_goes_away_meanwhile_leaves_nothing():
    begun = asyncio.Event()

    async def slow(identity, association):
        begun.set()
        await asyncio.sleep(0)
        return True

    async with serving(user_identity=slow) as server:
        async with raw_client(server.port) as peer:
            peer.send(request(user_identity=UserIdentity(1, b"user")))
            await begun.wait()
            peer.send(Abort(0, 0))
        await settle(lambda: not server._pending and not server._associations)
        assert server.statistics.accepted in (0, 1)


async def test_who_says_nothing_of_its_user_is_asked_about_too():
    async def check(identity, association):
        return identity is not None

    assert await asking_as(None, check) == AssociateRJ(1, 2, 1)
    assert isinstance(await asking_as(UserIdentity.of_user("alice", "secret"), check), AssociateAC)


async def test_handlers_know_the_user():
    seen = []

    async def check(identity, association):
        return True

    async def store(request):
        seen.append(request.association.user_identity)
        return Status.SUCCESS

    identity = UserIdentity.of_user("alice")
    async with serving(store, user_identity=check) as server:
        async with asyncdicom.connect("127.0.0.1", server.port, contexts=[CT], user_identity=identity) as association:
            await association.c_store(asyncdicom.Instance(CT, "1.2.3", "1.2.840.10008.1.2.1", length=2, data=b"ab"))
    assert seen == [UserIdentity(1, b"alice")]


async def test_a_place_is_not_taken_twice_while_identities_are_checked():
    go_on = asyncio.Event()

    async def slow(identity, association):
        await go_on.wait()
        return True

    async with serving(user_identity=slow, max_associations=1) as server:
        async with raw_client(server.port) as one, raw_client(server.port) as other:
            for peer in (one, other):
                peer.send(request(user_identity=UserIdentity(1, b"user")))
            await settle(lambda: len(server._checks) == 2)
            go_on.set()
            answers = [await one.receive(), await other.receive()]
            assert sorted(type(each).__name__ for each in answers) == ["AssociateAC", "AssociateRJ"]
            assert AssociateRJ(2, 3, 2) in answers


async def test_closing_ends_the_checks():
    async def never(identity, association):
        await asyncio.Event().wait()

    server = await serving(user_identity=never)
    async with raw_client(server.port) as peer:
        peer.send(request(user_identity=UserIdentity(1, b"user")))
        await settle(lambda: server._checks)
        await server.close(drain=0)
        assert await peer.receive() is None
    await settle(lambda: not server._checks)


async def test_a_server_that_answers_c_get_may_send_every_storage_class():
    async def get(request):
        yield

    private = "1.2.3.4"
    proposed = [Context(CT, scp=True), Context(private, scp=True)]
    for options, roles in (({"c_store": drop}, True), ({}, False)):
        async with asyncdicom.serve("127.0.0.1", 0, c_get=get, any_storage=True, **options) as server:
            async with asyncdicom.connect("127.0.0.1", server.port, contexts=proposed) as association:
                assert (association.contexts[1].scp, association.contexts[1].scu) == (True, roles)
                assert association.contexts[3].scp
