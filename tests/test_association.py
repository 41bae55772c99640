"""Associations over real sockets: what the peer sees, what handlers and callers see."""

import asyncio
import errno
import logging
import os
import re
import sys
from collections import deque
from itertools import zip_longest

import pytest
from raw_peer import (
    CT,
    DEADLINE,
    accept,
    data_set,
    echo_request,
    pdv,
    raw_client,
    raw_server,
    request,
    response,
    store_request,
)

import asyncdicom
from asyncdicom import Status, Timeouts
from asyncdicom.command import CommandField
from asyncdicom.pdu import Abort, AssociateRQ, PDataTF, ReleaseRP, ReleaseRQ

EXPLICIT = "1.2.840.10008.1.2.1"


def serving(handler=None, **options):
    return asyncdicom.serve("127.0.0.1", 0, c_store=handler, **options)


async def keep_nothing(request):
    return Status.SUCCESS


async def settle(condition):
    """Let the event loop run until the condition holds."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0)


# What comes in


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 999, 1000])
async def test_a_data_set_in_fragments_of_any_size_arrives_whole(size):
    received = []

    async def handler(request):
        received.append(await request.data_set.read())
        return Status.SUCCESS

    data = data_set(1000)
    async with serving(handler) as server, raw_client(server.port) as peer:
        await peer.associate()
        peer.send(store_request(size=size))
        for start in range(0, len(data), size):
            peer.send(pdv(3, 2 if start + size >= len(data) else 0, data[start : start + size]))
        assert (await peer.receive_command()).status == Status.SUCCESS
    assert received == [data]


async def test_command_and_data_in_one_pdu_and_two_messages_in_one_pdu_are_understood():
    data = data_set(500)
    values = b"".join(store_request(number)[6:] + pdv(3, 2, data)[6:] for number in (1, 2))
    pdu = b"\4\0" + len(values).to_bytes(4, "big") + values
    async with serving(keep_nothing) as server, raw_client(server.port) as peer:
        await peer.associate()
        peer.send(pdu)
        assert [(await peer.receive_command()).status for _ in range(2)] == [Status.SUCCESS] * 2


async def test_an_empty_last_fragment_ends_a_data_set():
    async def handler(request):
        assert await request.data_set.read() == b"abcd"
        return Status.SUCCESS

    async with serving(handler) as server, raw_client(server.port) as peer:
        await peer.associate()
        peer.send(store_request(), pdv(3, 0, b"abcd"), pdv(3, 2, b""))
        assert (await peer.receive_command()).status == Status.SUCCESS


async def test_requests_of_a_peer_that_does_not_wait_are_answered_one_after_the_other():
    running = most = 0

    async def handler(request):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await request.data_set.read()
        await asyncio.sleep(0)
        running -= 1
        return Status.SUCCESS

    async with serving(handler) as server, raw_client(server.port) as peer:
        await peer.associate()
        for number in range(1, 8):
            peer.send(store_request(number), pdv(3, 2, data_set(30000)[:16000]))
        answered = [(await peer.receive_command()).message_id_being_responded_to for _ in range(7)]
    assert (answered, most) == (list(range(1, 8)), 1)


async def test_the_handler_sees_what_the_command_and_the_association_say():
    seen = []

    async def handler(request):
        seen.append(request)
        return Status.SUCCESS

    async with serving(handler) as server, raw_client(server.port) as peer:
        await peer.associate()
        more = {"move_originator_application_entity_title": "MOVER", "move_originator_message_id": 9}
        peer.send(store_request(7, **more), pdv(3, 2, b"ab"))
        await peer.receive_command()
    (request,) = seen
    assert (request.sop_class_uid, request.sop_instance_uid, request.message_id) == (CT, "1.2.3.4", 7)
    assert (request.calling_ae_title, request.called_ae_title, request.peer_address) == ("RAW", "OURS", "127.0.0.1")
    assert (request.move_originator_ae_title, request.move_originator_message_id) == ("MOVER", 9)
    assert (request.context.id, request.priority) == (3, asyncdicom.Priority.MEDIUM)


async def test_the_handler_starts_before_the_data_set_has_come():
    started = asyncio.Event()

    async def handler(request):
        started.set()
        return Status.SUCCESS

    async with serving(handler) as server, raw_client(server.port) as peer:
        await peer.associate()
        peer.send(store_request())
        async with asyncio.timeout(DEADLINE):
            await started.wait()
        peer.send(pdv(3, 2, b"ab"))
        assert (await peer.receive_command()).status == Status.SUCCESS


# What is refused, and the association lives on


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (store_request(sop_class="1.2.840.10008.5.1.4.1.1.4"), 0x0122),
        (store_request(context_id=1, sop_class=CT), 0x0122),
        (store_request(sop_instance=""), 0x0117),
    ],
    ids=["another SOP class than the context's", "a storage class on Verification", "no SOP Instance UID"],
)
async def test_a_store_that_does_not_fit_its_context_is_refused_after_its_data(request_bytes, status):
    context = request_bytes[10]
    async with serving(keep_nothing) as server, raw_client(server.port) as peer:
        await peer.associate()
        peer.send(request_bytes, pdv(context, 0, b"ab"))
        peer.send(pdv(context, 2, b"cd"), echo_request(2))
        assert (await peer.receive_command()).status == status
        assert (await peer.receive_command()).status == Status.SUCCESS


async def test_an_operation_without_a_handler_is_unrecognized():
    async with serving() as server, raw_client(server.port) as peer:
        await peer.associate()
        peer.send(store_request(context_id=1), pdv(1, 2, b"ab"))
        assert (await peer.receive_command()).status == Status.UNRECOGNIZED_OPERATION


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("a secret"), 0xC000),
        (OSError(errno.ENOSPC, "No space left on device"), 0xA700),
        (OSError(errno.EACCES, "Permission denied"), 0xC000),
        (asyncdicom.DataSetError("not decodable"), 0xC000),
        (asyncdicom.AssociationLost("of another association"), 0xC000),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_a_handler_that_raises_answers_a_failure_and_the_association_lives_on(error, status, caplog):
    async def handler(request):
        raise error

    async with serving(handler) as server, raw_client(server.port) as peer:
        await peer.associate()
        peer.send(store_request(), pdv(3, 2, b"ab"), echo_request(2))
        statuses = {}
        for _ in range(2):
            answer = await peer.receive_command()
            statuses[answer.message_id_being_responded_to] = answer.status
            assert "secret" not in (answer.error_comment or "")
    assert statuses == {1: status, 2: 0}
    assert [record.levelno >= logging.WARNING for record in caplog.records] == [True]


async def test_a_handler_that_forgets_to_return_a_status_answers_a_failure():
    async def handler(request):
        await request.data_set.read()

    async with serving(handler) as server, raw_client(server.port) as peer:
        await peer.associate()
        peer.send(store_request(), pdv(3, 2, b"ab"))
        assert (await peer.receive_command()).status == Status.CANNOT_UNDERSTAND


# What ends the association


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (pdv(5, 3, b"ab"), 6),
        (pdv(1, 2, b"ab"), 5),
        (store_request() + pdv(1, 0, b"ab"), 5),
        (store_request() + echo_request(), 5),
        (pdv(1, 1, b"ab") + pdv(3, 1, b"ab"), 5),
        (b"\x04\0\xff\xff\xff\xff", 6),
        (b"\x04\0\0\0\0\x0a\xff\xff\xff\xfe\x01\x03abcd", 6),
        (b"\x04\0\0\0\0\0", 6),
        (b"\x2a\0\0\0\0\0", 1),
        (AssociateRQ("OURS", "RAW", ()).encode(), 2),
        (pdv(1, 1, bytes(16000)) * 5, 6),
    ],
    ids=[
        "a context that was not accepted",
        "data without a command",
        "data on another context",
        "a command inside a data set",
        "two commands mixed",
        "a PDU longer than announced",
        "a PDV longer than its PDU",
        "a PDU without a PDV",
        "an unknown PDU",
        "a second request",
        "a command that never ends",
    ],
)
async def test_what_breaks_the_protocol_is_aborted_with_the_right_source_and_reason(sent, reason):
    async with serving(keep_nothing) as server, raw_client(server.port) as peer:
        await peer.associate()
        peer.send(sent)
        assert await peer.receive() == Abort(2, reason)
        await peer.close()
        await settle(lambda: not server.associations)


async def test_the_end_of_the_association_cancels_the_handler_and_leaves_no_file(tmp_path):
    cancelled = asyncio.Event()

    async def handler(request):
        try:
            await request.data_set.save_as(tmp_path / "instance.dcm")
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return Status.SUCCESS

    async with serving(handler) as server:
        async with raw_client(server.port) as peer:
            await peer.associate()
            peer.send(store_request(), pdv(3, 0, b"ab" * 4000))
            await settle(lambda: list(tmp_path.iterdir()))
        async with asyncio.timeout(DEADLINE):
            await cancelled.wait()
        await settle(lambda: not list(tmp_path.iterdir()))


async def test_a_release_that_comes_while_a_handler_runs_is_answered_after_the_response():
    go_on = asyncio.Event()

    async def handler(request):
        await go_on.wait()
        return Status.SUCCESS

    async with serving(handler) as server, raw_client(server.port) as peer:
        await peer.associate()
        peer.send(store_request(), pdv(3, 2, b"ab"), ReleaseRQ())
        await settle(lambda: server.associations and server.associations[0]._release_requested)
        go_on.set()
        kinds = [type(pdu) for pdu in (await peer.receive(), await peer.receive())]
    assert kinds == [PDataTF, ReleaseRP]


@pytest.mark.parametrize("name", ["connect", "acse", "dimse", "idle", "tls"])
@pytest.mark.parametrize("given", [0, -1.5, float("nan"), None, "30"])
def test_a_timeout_that_is_none_is_named(name, given):
    with pytest.raises(ValueError, match=re.escape(f"Timeouts({name}={given!r}): seconds above 0 are expected")):
        Timeouts(**{name: given})
    assert getattr(Timeouts(**{name: float("inf")}), name) == float("inf")


async def test_an_idle_association_is_released_not_aborted():
    async with serving(timeouts=Timeouts(idle=0.02)) as server, raw_client(server.port) as peer:
        await peer.associate()
        assert await peer.receive() == ReleaseRQ()
        peer.send(ReleaseRP())
        assert await peer.receive() is None


async def test_a_message_that_stops_in_the_middle_is_aborted():
    async with serving(keep_nothing, timeouts=Timeouts(dimse=0.02)) as server, raw_client(server.port) as peer:
        await peer.associate()
        peer.send(store_request(), pdv(3, 0, b"ab"))
        assert await peer.receive() == Abort(0, 0)


async def test_a_peer_that_never_answers_our_release_is_aborted():
    timeouts = Timeouts(idle=0.02, acse=0.5)
    async with serving(timeouts=timeouts) as server, raw_client(server.port) as peer:
        await peer.associate()
        assert await peer.receive() == ReleaseRQ()
        assert await peer.receive() == Abort(0, 0)


# What goes out


async def store_at(script, instance, **options):
    async with raw_server(script) as port:
        async with asyncdicom.connect("127.0.0.1", port, contexts=[asyncdicom.Context(CT)], **options) as association:
            return await association.c_store(instance)


def instance(size):
    return asyncdicom.Instance(CT, "1.2.3.4", "1.2.840.10008.1.2.1", data=data_set(size), length=size)


@pytest.mark.parametrize("maximum", [8, 9, 50, 4096, 16384, 65535, 131072, 0])
async def test_fragments_are_even_and_within_the_peers_maximum(maximum):
    pdus = []

    async def script(peer):
        await accept(peer, maximum_length=maximum)
        while not pdus or not (pdus[-1].values[-1].is_last and not pdus[-1].values[-1].is_command):
            pdus.append(await peer.receive())
        peer.send(response(CommandField.C_STORE_RSP, 1))
        assert await peer.receive() == ReleaseRQ()
        peer.send(ReleaseRP())

    assert await store_at(script, instance(300_000 if maximum > 50 or not maximum else 400)) == Status.SUCCESS
    assert all(len(pdu.values) == 1 for pdu in pdus)
    assert all(len(pdu.values[0].fragment) % 2 == 0 for pdu in pdus)
    assert max(len(pdu.encode()) - 6 for pdu in pdus) <= (maximum or 131072)


@pytest.mark.parametrize("maximum", [1, 7])
async def test_a_peer_that_leaves_no_room_for_data_gets_an_abort_and_the_caller_the_reason(maximum):
    async def script(peer):
        await accept(peer, maximum_length=maximum)
        assert await peer.receive() == Abort(0, 0)

    with pytest.raises(asyncdicom.AssociationAborted, match="no room"):
        await store_at(script, instance(100))


async def test_a_response_is_the_value_of_the_call_with_the_peers_comment():
    async def script(peer):
        await accept(peer)
        await peer.receive()
        await peer.receive()
        more = {"error_comment": "disk full", "offending_element": (0x00100010,)}
        peer.send(response(CommandField.C_STORE_RSP, 1, 0xA700, **more))
        await peer.receive()
        peer.send(ReleaseRP())

    status = await store_at(script, instance(100))
    assert (status, status.error_comment, status.offending_element) == (0xA700, "disk full", (0x00100010,))
    assert status.is_failure


async def test_an_echo_that_is_answered_with_a_stale_message_id_is_answered(caplog):
    async def script(peer):
        await accept(peer)
        await peer.receive()
        peer.send(response(CommandField.C_ECHO_RSP, 77))
        await peer.receive()
        peer.send(ReleaseRP())

    async with raw_server(script) as port, asyncdicom.connect("127.0.0.1", port) as association:
        assert await association.c_echo() == Status.SUCCESS
    assert "77" in caplog.text


async def test_a_second_answer_to_an_earlier_store_is_not_taken_for_the_next():
    async def script(peer):
        await accept(peer)
        await peer.receive()
        await peer.receive()
        peer.send(response(CommandField.C_STORE_RSP, 1))
        await peer.receive()
        peer.send(response(CommandField.C_STORE_RSP, 1))
        await peer.receive()
        peer.send(response(CommandField.C_STORE_RSP, 2, 0xA700))
        await peer.receive()
        peer.send(ReleaseRP())

    async with raw_server(script) as port:
        async with asyncdicom.connect("127.0.0.1", port, contexts=[asyncdicom.Context(CT)]) as association:
            assert await association.c_store(instance(100)) == Status.SUCCESS
            assert await association.c_store(instance(100)) == Status.OUT_OF_RESOURCES


async def test_a_response_of_another_kind_is_a_protocol_error():
    async def script(peer):
        await accept(peer)
        await peer.receive()
        await peer.receive()
        peer.send(response(CommandField.C_FIND_RSP, 1))
        assert await peer.receive() == Abort(2, 6)

    with pytest.raises(asyncdicom.AssociationAborted, match="C-FIND-RSP"):
        await store_at(script, instance(100))


async def test_no_response_in_time_aborts_and_says_so():
    async def script(peer):
        await accept(peer)
        await peer.receive()
        await peer.receive()
        assert await peer.receive() == Abort(0, 0)

    with pytest.raises(asyncdicom.AssociationTimeout, match="C-STORE-RQ"):
        await store_at(script, instance(100), timeouts=Timeouts(dimse=0.02))


async def test_a_peer_that_takes_nothing_is_aborted_in_time():
    async def script(peer):
        await accept(peer, maximum_length=0)
        peer.writer.transport.pause_reading()
        await asyncio.Event().wait()

    with pytest.raises(asyncdicom.AssociationTimeout, match="taken"):
        await store_at(script, instance(20_000_000), timeouts=Timeouts(dimse=0.05, acse=0.5))


async def test_calls_of_several_tasks_go_out_one_after_the_other():
    async def script(peer):
        await accept(peer)
        for number in range(1, 6):
            await peer.receive()
            peer.send(response(CommandField.C_ECHO_RSP, number))
        await peer.receive()
        peer.send(ReleaseRP())

    async with raw_server(script) as port, asyncdicom.connect("127.0.0.1", port) as association:
        statuses = await asyncio.gather(*(association.c_echo() for _ in range(5)))
    assert statuses == [Status.SUCCESS] * 5


async def test_an_echo_that_the_peer_asks_for_while_we_send_does_not_cut_our_message():
    async def script(peer):
        await accept(peer, maximum_length=4096)
        peer.send(echo_request(9, 1))
        pdus = [await peer.receive()]
        while not (pdus[-1].values[0].is_last and not pdus[-1].values[0].is_command):
            pdus.append(await peer.receive())
        kinds = [(pdu.values[0].context_id, pdu.values[0].is_command) for pdu in pdus]
        assert kinds.index((3, True)) in (0, 1)
        assert (1, True) not in kinds[kinds.index((3, True)) :]
        peer.send(response(CommandField.C_STORE_RSP, 1, context_id=3))
        while not isinstance(await peer.receive(), ReleaseRQ):
            pass
        peer.send(ReleaseRP())

    contexts = ["1.2.840.10008.1.1", asyncdicom.Context(CT)]
    async with raw_server(script) as port, asyncdicom.connect("127.0.0.1", port, contexts=contexts) as association:
        assert await association.c_store(instance(3_000_000)) == Status.SUCCESS


async def test_a_peer_that_closes_instead_of_answering_the_release_is_taken_as_released():
    async def script(peer):
        await accept(peer)
        assert await peer.receive() == ReleaseRQ()

    async with raw_server(script) as port, asyncdicom.connect("127.0.0.1", port):
        pass


async def test_a_release_waits_for_the_rest_of_a_request_that_was_answered_early():
    refused, go_on, ends = asyncio.Event(), asyncio.Event(), []

    async def script(peer):
        await accept(peer)
        await peer.receive_command()
        peer.send(response(CommandField.C_STORE_RSP, 1, 0xA700))
        refused.set()
        await go_on.wait()
        while isinstance(pdu := await peer.receive(), PDataTF):
            ends.append(pdu.values[-1].is_last)
        assert isinstance(pdu, ReleaseRQ), pdu
        peer.send(ReleaseRP())

    async with raw_server(script) as port, asyncio.timeout(DEADLINE):
        association = await asyncdicom.connect("127.0.0.1", port, contexts=[CT])
        large = asyncdicom.Instance(CT, "1.2.3", EXPLICIT, length=20_000_000, data=data_set(20_000_000))
        store = asyncio.ensure_future(association.c_store(large))
        await refused.wait()
        while association._invoker.operations:
            await asyncio.sleep(0)
        release = asyncio.ensure_future(association.release())
        await asyncio.sleep(0)
        go_on.set()
        assert await store == 0xA700
        await release
    assert ends.index(True) == len(ends) - 1


async def test_a_release_collision_ends_released_on_both_sides():
    async def script(peer):
        await accept(peer)
        assert await peer.receive() == ReleaseRQ()
        peer.send(ReleaseRQ())
        assert await peer.receive() == ReleaseRP()
        peer.send(ReleaseRP())
        assert await peer.receive() is None

    async with raw_server(script) as port:
        association = await asyncdicom.connect("127.0.0.1", port)
        await association.release()
        assert isinstance(await association.wait_closed(), asyncdicom.AssociationReleased)


async def test_a_peer_that_releases_while_we_only_wait_is_answered():
    async def script(peer):
        await accept(peer)
        peer.send(ReleaseRQ())
        assert await peer.receive() == ReleaseRP()

    async with raw_server(script) as port:
        association = await asyncdicom.connect("127.0.0.1", port)
        assert isinstance(await association.wait_closed(), asyncdicom.AssociationReleased)
        with pytest.raises(asyncdicom.AssociationReleased):
            await association.c_echo()


async def test_an_abort_with_undefined_numbers_keeps_them():
    async def script(peer):
        await accept(peer)
        await peer.receive()
        peer.send(Abort(1, 99))

    async with raw_server(script) as port:
        association = await asyncdicom.connect("127.0.0.1", port)
        with pytest.raises(asyncdicom.AssociationAborted) as caught:
            await association.c_echo()
        await association.wait_closed()
    assert (caught.value.source, caught.value.reason, caught.value.by_peer) == (1, 99, True)


# Cancellation


async def test_cancelling_a_call_that_waits_for_its_answer_aborts_and_leaves_nothing():
    aborted = asyncio.get_running_loop().create_future()

    async def script(peer):
        await accept(peer)
        await peer.receive()
        task.cancel()
        aborted.set_result(await peer.receive())

    async with raw_server(script) as port:
        association = await asyncdicom.connect("127.0.0.1", port)
        task = asyncio.ensure_future(association.c_echo())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await aborted == Abort(0, 0)
        await association.wait_closed()
        with pytest.raises(asyncdicom.AssociationAborted):
            await association.c_echo()


async def test_cancelling_a_call_that_waits_for_its_turn_does_no_harm():
    async def script(peer):
        await accept(peer)
        await peer.receive()
        second.cancel()
        peer.send(response(CommandField.C_ECHO_RSP, 1))
        await peer.receive()
        peer.send(ReleaseRP())

    async with raw_server(script) as port, asyncdicom.connect("127.0.0.1", port) as association:
        first = asyncio.ensure_future(association.c_echo())
        second = asyncio.ensure_future(association.c_echo())
        await asyncio.wait([first, second])
        assert second.cancelled()
        assert first.result() == Status.SUCCESS


async def test_a_file_that_cannot_be_read_is_an_error_before_anything_is_sent(tmp_path):
    async with serving(keep_nothing) as server:
        async with asyncdicom.connect("127.0.0.1", server.port, contexts=[asyncdicom.Context(CT)]) as association:
            gone = instance(100)._replace(path=str(tmp_path / "gone.dcm"), data=b"")
            with pytest.raises(FileNotFoundError):
                await association.c_store(gone)
            assert association.is_established
            assert await association.c_store(instance(100)) == Status.SUCCESS


def a_file(path, content, uid):
    path.write_bytes(bytes(10) + content)
    return asyncdicom.Instance(CT, uid, EXPLICIT, str(path), 10, len(content))


@pytest.mark.parametrize("size", [2, 20_000, 600_000, 2_000_000])
async def test_what_is_upcoming_is_sent_as_it_is(size, tmp_path):
    received = {}

    async def handler(request):
        received[request.sop_instance_uid] = await request.data_set.read()
        return Status.SUCCESS

    contents = [os.urandom(size), b"short!", os.urandom(size)]
    instances = [a_file(tmp_path / str(i), content, f"1.{i}") for i, content in enumerate(contents)]
    async with serving(handler) as server, asyncdicom.connect("127.0.0.1", server.port, contexts=[CT]) as association:
        for instance, upcoming in zip_longest(instances, instances[1:]):
            assert await association.c_store(instance, upcoming=upcoming) == 0
    assert received == {f"1.{i}": content for i, content in enumerate(contents)}


async def test_what_was_upcoming_need_not_come_and_is_closed(tmp_path):
    received = []

    async def handler(request):
        received.append(await request.data_set.read())
        return Status.SUCCESS

    long = a_file(tmp_path / "long", bytes(2_000_000), "1.1")
    short = a_file(tmp_path / "short", b"short!", "1.2")
    gone = a_file(tmp_path / "gone", b"gone", "1.3")
    (tmp_path / "gone").unlink()
    async with serving(handler) as server:
        async with asyncdicom.connect("127.0.0.1", server.port, contexts=[CT]) as association:
            for upcoming in (long, gone, long._replace(transfer_syntax_uid="1.2.3"), long):
                assert await association.c_store(short, upcoming=upcoming) == 0
            with pytest.raises(FileNotFoundError):
                await association.c_store(gone, upcoming=long)
            assert await association.c_store(short, upcoming=long) == 0
            file_sender = association._file_sender
    assert received == [b"short!"] * 5
    assert file_sender._file == -1


async def test_a_file_that_has_changed_is_not_sent_and_the_association_lives_on(tmp_path):
    path = tmp_path / "file.dcm"
    path.write_bytes(asyncdicom.FileMeta(CT, "1.2.3.4", "1.2.840.10008.1.2.1").encode() + data_set(1000))
    looked_at = asyncdicom.read_instance(path)
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, ns=(0, 0))
    async with serving(keep_nothing) as server:
        async with asyncdicom.connect("127.0.0.1", server.port, contexts=[asyncdicom.Context(CT)]) as association:
            with pytest.raises(asyncdicom.FileFormatError, match="changed"):
                await association.c_store(looked_at)
            assert await association.c_store(instance(100)) == Status.SUCCESS


async def test_an_instance_without_a_data_set_is_refused_at_once():
    async with serving(keep_nothing) as server:
        async with asyncdicom.connect("127.0.0.1", server.port, contexts=[asyncdicom.Context(CT)]) as association:
            with pytest.raises(asyncdicom.FileFormatError, match="without a data set"):
                await association.c_store(asyncdicom.Instance(CT, "1.2", "1.2.840.10008.1.2.1"))


@pytest.mark.parametrize("how", ["raises", "refuses after the head", "ignores"])
async def test_a_handler_that_leaves_complete_data_sets_unread_can_go_on_for_ever(how):
    async def handler(request):
        while not request.data_set.is_complete:
            await asyncio.sleep(0)
        if how == "raises":
            raise asyncdicom.DataSetError("not wanted")
        if how == "refuses after the head":
            await request.data_set.head((0x0020000D,))
        return Status.DUPLICATE_SOP_INSTANCE

    async with serving(handler) as server:
        async with asyncdicom.connect("127.0.0.1", server.port, contexts=[asyncdicom.Context(CT)]) as association:
            for _ in range(60):
                assert (await association.c_store(instance(40_000))).is_failure
        assert server._pool.held == 0


@pytest.mark.parametrize(
    "segment",
    [
        (request(), Abort(0, 0)),
        (request(), echo_request()),
        (request(), ReleaseRQ()),
        (request(), ReleaseRQ(), Abort(0, 0)),
        (request(), b"GET / HTTP/1.1"),
    ],
    ids=["request, abort", "request, data", "request, release", "request, release, abort", "request, HTTP"],
)
async def test_several_pdus_in_one_segment_end_the_association_and_nothing_else(segment, caplog):
    async with serving() as server:
        async with raw_client(server.port) as peer:
            peer.send(b"".join(each if isinstance(each, bytes) else each.encode() for each in segment))
            await peer.receive()
            await peer.close()
        await settle(lambda: not server.associations and not server._pending)
    assert "error of our own" not in caplog.text


@pytest.mark.parametrize("before", [pdv(99, 3, b"xx"), store_request() + pdv(3, 0, b"ab")], ids=["error", "half"])
async def test_a_release_behind_what_is_wrong_or_unfinished_is_an_abort(before, caplog):
    async with serving(keep_nothing) as server, raw_client(server.port) as peer:
        await peer.associate()
        peer.send(before + ReleaseRQ().encode())
        assert isinstance(await peer.receive(), Abort)
    assert "error of our own" not in caplog.text


async def test_a_request_with_an_element_that_its_response_cannot_have_is_answered():
    command = b"\0\0\2\0\x12\0\0\x001.2.840.10008.1.1\0" + b"\0\0\0\1\2\0\0\0\x30\0" + b"\0\0\x10\1\2\0\0\0\1\0"
    command += b"\0\0\0\x08\2\0\0\0\1\1" + b"\0\0\0\x10\4\0\0\x001.2\0"
    async with serving() as server, raw_client(server.port) as peer:
        await peer.associate()
        peer.send(pdv(1, 3, command))
        assert (await peer.receive_command()).status == Status.SUCCESS


async def test_half_a_pdu_header_is_held_to_the_dimse_timeout():
    async with serving(timeouts=Timeouts(dimse=0.02)) as server, raw_client(server.port) as peer:
        await peer.associate()
        peer.send(b"\4\0\0")
        assert await peer.receive() == Abort(0, 0)


async def test_a_peer_that_reads_no_responses_is_aborted_although_it_owes_the_rest_of_a_message():
    async with serving(timeouts=Timeouts(dimse=0.5, acse=0.5)) as server, raw_client(server.port) as peer:
        await peer.associate()
        (association,) = server.associations
        peer.writer.transport.pause_reading()
        async with asyncio.timeout(DEADLINE):
            while server.associations:
                if not association._connection.is_reading_paused and not peer.writer.is_closing():
                    peer.writer.write(echo_request() * 1000)
                await asyncio.sleep(0)
        assert "read its responses" in str(await association.wait_closed())


async def test_a_server_that_releases_lets_its_handler_answer_first():
    go_on = asyncio.Event()

    async def handler(store):
        await go_on.wait()
        return Status.SUCCESS

    async with serving(handler) as server, raw_client(server.port) as peer:
        await peer.associate()
        peer.send(store_request(), pdv(3, 2, b"ab"))
        await settle(lambda: server.associations[0]._performer.is_busy)
        releasing = asyncio.ensure_future(server.associations[0].release())
        await asyncio.sleep(0)
        go_on.set()
        assert [type(await peer.receive()) for _ in range(2)] == [PDataTF, ReleaseRQ]
        peer.send(ReleaseRP())
        await releasing


async def test_a_user_learns_that_the_association_is_being_released():
    async def script(peer):
        await accept(peer)
        assert await peer.receive() == ReleaseRQ()
        while association.is_established:
            await asyncio.sleep(0)
        with pytest.raises(asyncdicom.AssociationReleased):
            await association.c_echo()
        peer.send(ReleaseRP())

    async with raw_server(script) as port:
        association = await asyncdicom.connect("127.0.0.1", port, timeouts=Timeouts(idle=0.02))
        await association.wait_closed()


async def test_sending_much_lets_others_have_the_loop(tmp_path):
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    path = tmp_path / "file"
    path.write_bytes(bytes(20_000_000))
    async with serving(keep_nothing) as server:
        async with asyncdicom.connect("127.0.0.1", server.port, contexts=[asyncdicom.Context(CT)]) as association:
            counting = asyncio.ensure_future(count())
            big = instance(100)._replace(path=str(path), length=20_000_000, data=b"")
            assert await association.c_store(big) == Status.SUCCESS
            counting.cancel()
    assert turns >= 30


async def test_a_handler_that_is_no_coroutine_function_is_named_in_the_log(caplog):
    async with serving(lambda request: Status.SUCCESS) as server:
        async with asyncdicom.connect("127.0.0.1", server.port, contexts=asyncdicom.Context(CT)) as association:
            assert (await association.c_store(instance(100))).is_failure
    assert "async def" in caplog.text


# Handlers go on within the read that brings what they wait for


async def first_stored(peer, server):
    """An association whose handlers' task is there and waits."""
    await peer.associate()
    peer.send(store_request(), pdv(3, 2, b"first!"))
    await peer.receive()
    return server.associations[0]


async def test_nothing_is_handled_that_comes_behind_the_end():
    handled = []

    async def handler(request):
        handled.append(await request.data_set.read())
        if len(handled) == 2:
            await request.association.abort()
        return Status.SUCCESS

    async with serving(handler) as server, raw_client(server.port) as peer:
        association = await first_stored(peer, server)
        peer.send(*(store_request(number) + pdv(3, 2, b"x" * 20_000) for number in range(5)))
        await association.wait_closed()
        assert len(handled) == 2
        assert (association._performer._waiting, server._pool.held, server._pool.used) == (deque(), 0, 0)


async def test_what_has_come_whole_survives_the_end_of_its_association(tmp_path):
    go_on, kept = asyncio.Event(), []

    async def keep(request):
        await go_on.wait()
        kept.append(await request.data_set.save_as(tmp_path / "whole"))

    async def handler(request):
        keeping = asyncio.ensure_future(keep(request))
        try:
            await asyncio.shield(keeping)
        finally:
            go_on.set()
            await keeping
        return Status.SUCCESS

    async with serving(handler) as server:
        async with raw_client(server.port) as peer:
            association = await first_stored_later(peer, server, b"x" * 50_000)
        await association.wait_closed()
    assert (tmp_path / "whole").read_bytes().endswith(b"x" * 50_000)
    assert kept == [(tmp_path / "whole").stat().st_size]


async def first_stored_later(peer, server, content):
    await peer.associate()
    peer.send(store_request(), pdv(3, 2, content))
    await settle(lambda: server.associations[0]._performer._running)
    return server.associations[0]


async def test_what_was_dropped_is_no_short_data_set():
    reading = []

    async def read_late(data_set):
        await asyncio.sleep(0)
        return await data_set.read()

    async def handler(request):
        reading.append(asyncio.ensure_future(read_late(request.data_set)))
        return Status.SUCCESS

    async with serving(handler) as server, raw_client(server.port) as peer:
        await first_stored(peer, server)
        with pytest.raises(asyncdicom.DataSetError, match="dropped"):
            await reading[0]


async def test_an_abort_while_a_long_file_is_sent_is_an_abort(tmp_path):
    path = tmp_path / "long"
    path.write_bytes(bytes(20_000_010))
    long = asyncdicom.Instance(CT, "1.2", EXPLICIT, str(path), 10, 20_000_000)

    async def script(peer):
        await accept(peer)
        await peer.receive()
        peer.send(Abort(0, 0))
        await peer.close()

    async with raw_server(script) as port:
        association = await asyncdicom.connect("127.0.0.1", port, contexts=[CT])
        with pytest.raises(asyncdicom.AssociationError):
            await association.c_store(long)
        await association.abort()


async def test_one_request_in_each_read_is_handled_at_once_and_others_later():
    turns, turn = [], 0

    async def handler(request):
        turns.append(turn)
        return Status.SUCCESS

    async with serving(handler) as server, raw_client(server.port) as peer:
        await first_stored(peer, server)
        peer.send(*(store_request(number) + pdv(3, 2, b"ab") for number in range(50)))
        async with asyncio.timeout(DEADLINE):
            while len(turns) < 51:
                await asyncio.sleep(0)
                turn += 1
    assert max(turns.count(each) for each in turns) <= 3


async def test_a_task_factory_that_begins_at_once_changes_nothing():
    def begin_at_once(loop, coroutine, **options):
        if sys.version_info >= (3, 12):
            options["eager_start"] = True
        return asyncio.Task(coroutine, loop=loop, **options)

    async def handler(request):
        await request.association.abort()
        return Status.SUCCESS

    asyncio.get_running_loop().set_task_factory(begin_at_once)
    async with serving(handler) as server, raw_client(server.port) as peer:
        await peer.associate()
        association = server.associations[0]
        peer.send(store_request(), pdv(3, 2, b"ab"))
        async with asyncio.timeout(DEADLINE):
            await association.wait_closed()
        assert not server._pending


async def test_only_the_handlers_task_that_is_cancelled_by_a_stranger_is_replaced():
    async with serving(keep_nothing) as server, raw_client(server.port) as peer:
        association = await first_stored(peer, server)
        (task,) = association._performer._tasks
        task.cancel()
        peer.send(store_request(), pdv(3, 2, b"second"))
        await peer.receive()
        assert association.is_established
