"""Requests of this side: responses as they come, leaving early, the window, what peers answer wrongly."""

import asyncio
import contextlib
import gc

import pytest
from pydicom import Dataset
from raw_peer import DEADLINE, accept, pdv, raw_server

import asyncdicom
from asyncdicom import Status, Timeouts
from asyncdicom.command import Category, Command, CommandField
from asyncdicom.dimse import encode_command
from asyncdicom.pdu import Abort, AsyncOperationsWindow, PDataTF, ReleaseRP, ReleaseRQ

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
GET = "1.2.840.10008.5.1.4.1.2.2.3"
MOVE = "1.2.840.10008.5.1.4.1.2.2.2"


def keys(**values):
    data_set = Dataset()
    data_set.QueryRetrieveLevel = "STUDY"
    for name, value in values.items():
        setattr(data_set, name, value)
    return data_set


async def ten(request):
    for number in range(10):
        yield keys(StudyID=str(number))


async def without_end(request):
    while True:
        yield keys(StudyID="again")


async def never(request):
    await asyncio.Event().wait()
    yield


@contextlib.asynccontextmanager
async def asking(find=ten, **options):
    """An association with a server that has a C-FIND handler."""
    async with asyncdicom.serve("127.0.0.1", 0, c_find=find, contexts=[FIND, "verification"]) as server:
        contexts = [FIND, "verification"]
        async with asyncdicom.connect("127.0.0.1", server.port, contexts=contexts, **options) as association:
            yield association


async def until(condition):
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0)


# Several responses


async def test_a_find_gives_the_matches_and_then_the_last_response():
    async with asking() as association:
        responses = association.c_find(keys(), model=FIND)
        assert [each.data_set.StudyID async for each in responses] == [str(number) for number in range(10)]
        assert responses.status == Status.SUCCESS
        assert responses.final.data_set is None


async def test_a_find_that_is_awaited_gives_the_last_response():
    async with asking() as association:
        assert (await association.c_find(keys(), model=FIND)).status.is_success


async def test_a_failure_status_ends_the_loop_and_is_a_value():
    async def refuse(request):
        yield keys(StudyID="one")
        yield Status(0xA700, "busy")

    async with asking(refuse) as association:
        responses = association.c_find(keys(), model=FIND)
        assert len([each async for each in responses]) == 1
        assert (responses.status, responses.status.error_comment) == (0xA700, "busy")


async def test_leaving_the_loop_cancels_and_the_association_stays_usable():
    async with asking(without_end) as association:
        async with association.c_find(keys(), model=FIND) as responses:
            async for _ in responses:
                break
        assert not association._invoker.operations
        assert (await association.c_echo()).is_success


async def test_responses_that_nobody_holds_any_more_are_cancelled():
    async with asking(without_end) as association:
        async for _ in association.c_find(keys(), model=FIND):
            break
        gc.collect()
        assert (await association.c_echo()).is_success
        await until(lambda: not association._invoker.operations)
        assert (await association.c_echo()).is_success


async def test_cancelling_the_task_cancels_the_operation():
    async with asking(never) as association:
        task = asyncio.ensure_future(association.c_find(keys(), model=FIND)._run())
        await until(lambda: association._invoker.operations)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await association.c_echo()).is_success


async def test_responses_that_were_closed_have_the_last_one():
    async with asking(without_end) as association:
        responses = association.c_find(keys(), model=FIND)
        await anext(responses)
        await responses.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(responses)
        assert responses.status == Status.CANCEL
        assert (await responses).status == Status.CANCEL


async def test_responses_that_were_left_have_no_last_one():
    async with asking(never) as association:
        responses = association.c_find(keys(), model=FIND)
        task = asyncio.ensure_future(anext(responses))
        await until(lambda: association._invoker.operations)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with pytest.raises(RuntimeError, match="left"):
            await responses


async def much(request):
    while True:
        yield b"\x20\0\x10\0SH\2\0AB" * 10_000


async def test_a_release_cancels_what_its_task_has_left_in_the_midst():
    async with asyncio.timeout(DEADLINE), asking(much) as association:
        responses = association.c_find(keys(), model=FIND)
        await anext(responses)
        await until(lambda: association.connection.is_reading_paused)
        await association.release()
        assert [each async for each in responses] == []
        assert responses.status == Status.CANCEL


async def test_responses_that_were_over_before_they_were_closed_have_the_last_one():
    async with asking(never) as association:
        responses = association.c_find(keys(), model=FIND)
        task = asyncio.ensure_future(anext(responses))
        await until(lambda: association._invoker.operations)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: not association._invoker.operations)
        await responses.aclose()
        assert responses.status == Status.CANCEL


async def test_two_tasks_cannot_wait_for_the_same_response():
    async with asking(never) as association:
        responses = association.c_find(keys(), model=FIND)
        task = asyncio.ensure_future(anext(responses, None))
        await until(lambda: responses._operation and responses._operation.is_awaited)
        with pytest.raises(RuntimeError, match="another task"):
            await anext(responses)
        await responses.aclose()
        assert await task is None


@pytest.mark.parametrize("closing", [True, False])
async def test_responses_that_had_all_come_before_they_were_left_do_not_count_for_ever(closing):
    async with asking() as association:
        for _ in range(200):
            responses = association.c_find(keys(), model=FIND)
            async for _ in responses:
                async with asyncio.timeout(DEADLINE):
                    while association._invoker.operations:
                        await asyncio.sleep(0)
                break
            if closing:
                await responses.aclose()
            del responses
        await until(lambda: not association._invoker._queued)
        assert not association.connection.is_reading_paused


async def test_closing_what_has_not_begun_sends_nothing():
    async with asking() as association:
        writes = association.connection.writes
        await association.c_find(keys(), model=FIND).aclose()
        assert association.connection.writes == writes


async def test_who_would_wait_for_itself_is_told():
    async with asking(without_end) as association:
        async with association.c_find(keys(), model=FIND) as responses:
            await anext(responses)
            with pytest.raises(asyncdicom.LocalProtocolError, match="in the midst of responses"):
                await association.c_echo()
        assert (await association.c_echo()).is_success


async def test_a_request_in_the_midst_of_responses_waits_for_the_last_of_them():
    async with asking() as association:
        numbers = []
        async for response in association.c_find(keys(), model=FIND):
            numbers.append(response.data_set.StudyID)
            assert (await association.c_echo()).is_success
        assert numbers == [str(number) for number in range(10)]


async def test_a_request_in_the_midst_of_responses_may_be_cancelled():
    async with asking(never) as association:
        responses = association.c_find(keys(), model=FIND)
        responses._operation = await responses._begin()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await association.c_echo()
        await responses.aclose()
        assert (await association.c_echo()).is_success


async def test_an_identifier_needs_a_key():
    async with asking() as association:
        with pytest.raises(asyncdicom.LocalProtocolError, match="without a key"):
            association.c_find(Dataset(), model=FIND)


async def test_a_model_that_was_not_accepted_is_refused_at_once():
    async with asking() as association:
        with pytest.raises(asyncdicom.NoAcceptedContext, match="MOVE"):
            association.c_move(keys(), "THERE", model=MOVE)


async def test_responses_that_nobody_takes_stop_the_reading():
    async def much(request):
        for _ in range(100):
            yield keys(TextValue="x" * 60_000)

    async with asking(much) as association:
        responses = association.c_find(keys(), model=FIND)
        await anext(responses)
        await until(lambda: association.connection.is_reading_paused)
        assert association._invoker._queued < 3 << 20
        assert len([each async for each in responses]) == 99
        assert association._invoker._queued == 0


# The window


async def test_without_a_window_requests_are_sent_one_after_the_other():
    async def script(peer):
        await accept(peer)
        first = await peer.receive_command()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await peer.reader.readexactly(1)
        peer.send(answer(first))
        peer.send(answer(await peer.receive_command()))
        await peer.receive()
        peer.send(ReleaseRP())

    async with raw_server(script) as port, asyncdicom.connect("127.0.0.1", port) as association:
        assert await asyncio.gather(association.c_echo(), association.c_echo()) == [Status.SUCCESS] * 2


async def test_with_a_window_as_many_requests_are_in_flight_and_answers_may_come_in_any_order():
    seen = []

    async def script(peer):
        asked = await accept(peer, async_operations_window=AsyncOperationsWindow(3, 1))
        seen.append(asked.user_information.async_operations_window)
        commands = [await peer.receive_command() for _ in range(3)]
        seen.extend(command.message_id for command in commands)
        for command in reversed(commands):
            peer.send(answer(command, status=command.message_id))
        peer.send(answer(await peer.receive_command(), status=4))
        await peer.receive()
        peer.send(ReleaseRP())

    options = {"max_operations_invoked": 3}
    async with raw_server(script) as port, asyncdicom.connect("127.0.0.1", port, **options) as association:
        assert association.window == (3, 1)
        assert await asyncio.gather(*(association.c_echo() for _ in range(4))) == [1, 2, 3, 4]
    assert seen == [(3, 1), 1, 2, 3]


async def test_a_window_that_is_not_answered_is_one():
    async with asking(max_operations_invoked=5) as association:
        assert association.window == (1, 1)


async def test_no_window_is_proposed_unless_it_is_asked_for():
    async def script(peer):
        asked = await accept(peer)
        assert asked.user_information.async_operations_window is None
        await peer.receive()
        peer.send(ReleaseRP())

    async with raw_server(script) as port, asyncdicom.connect("127.0.0.1", port):
        pass


async def test_with_a_window_matches_that_wait_do_not_stand_in_the_way_of_other_responses():
    async def much(request):
        for _ in range(40):
            yield b"\x20\0\x10\0SH\2\0AB" * 10_000

    contexts = [FIND, "verification"]
    async with (
        asyncdicom.serve("127.0.0.1", 0, c_find=much, contexts=contexts, max_operations_invoked=2) as server,
        asyncdicom.connect("127.0.0.1", server.port, contexts=contexts, max_operations_invoked=2) as association,
    ):
        matches = 0
        async with asyncio.timeout(DEADLINE):
            async for _ in association.c_find(keys(), model=FIND):
                if not matches:
                    await until(lambda: association.connection.is_reading_paused)
                assert (await association.c_echo()).is_success
                matches += 1
        assert matches == 40


# What peers answer


def answer(command, *, status=0, message_id=None, field=None, **more):
    elements = {
        "message_id_being_responded_to": message_id or command.message_id,
        "affected_sop_class_uid": command.affected_sop_class_uid,
        "status": status,
    }
    return encode_command(1, Command(field or command.message.field | 0x8000, **elements, **more), 16378)


@contextlib.asynccontextmanager
async def peer_that_answers(*make, contexts=(FIND,), **options):
    """An association with a peer that answers its first request with what is made of it."""

    async def script(peer):
        await accept(peer)
        command = await peer.receive_command()
        if command.has_data_set:
            await peer.receive()
        for each in make:
            peer.send(each(command) if callable(each) else each)
        while not isinstance(pdu := await peer.receive(), ReleaseRQ):
            if pdu is None or isinstance(pdu, Abort):
                return
        peer.send(ReleaseRP())

    async with raw_server(script) as port:
        async with asyncdicom.connect("127.0.0.1", port, contexts=contexts, **options) as association:
            yield association


async def test_a_pending_response_without_identifier_is_passed_on():
    pending = lambda command: answer(command, status=0xFF00)  # noqa: E731
    async with peer_that_answers(pending, answer) as association:
        assert [each.data_set async for each in association.c_find(keys(), model=FIND)] == [None]


async def test_an_unknown_response_is_ignored_with_its_data_set():
    def stranger(command):
        return answer(command, status=0xFF00, message_id=99, has_data_set=True) + pdv(
            1, 2, b"\x08\0\x18\0\2\0\0\x001\0"
        )

    async with peer_that_answers(stranger, answer) as association:
        responses = association.c_find(keys(), model=FIND)
        assert [each async for each in responses] == []
        assert responses.status.is_success


async def test_the_response_to_another_service_ends_the_association():
    wrong = lambda command: answer(command, field=CommandField.C_MOVE_RSP)  # noqa: E731
    async with peer_that_answers(wrong) as association:
        with pytest.raises(asyncdicom.AssociationAborted, match="C-MOVE-RSP where the response to C-FIND-RQ"):
            await association.c_find(keys(), model=FIND)


async def test_a_peer_that_does_not_answer_a_cancel_is_aborted():
    pending = lambda command: answer(command, status=0xFF00)  # noqa: E731
    async with peer_that_answers(pending, timeouts=Timeouts(dimse=0.05)) as association:
        responses = association.c_find(keys(), model=FIND)
        await anext(responses)
        await responses.aclose()
        assert not association.is_established


async def test_a_peer_that_goes_on_after_a_cancel_is_aborted_in_time():
    async def script(peer):
        await accept(peer)
        command = await peer.receive_command()
        with contextlib.suppress(ConnectionError):
            while not peer.reader.at_eof():
                peer.send(answer(command, status=0xFF00))
                await peer.writer.drain()
                await asyncio.sleep(0.01)

    async with raw_server(script) as port, asyncio.timeout(DEADLINE):
        options = {"contexts": [FIND], "timeouts": Timeouts(dimse=0.2)}
        async with asyncdicom.connect("127.0.0.1", port, **options) as association:
            async with association.c_find(keys(), model=FIND) as responses:
                await anext(responses)
            assert not association.is_established


async def test_a_pending_response_gives_the_peer_more_time():
    times = Timeouts(dimse=0.2)

    async def script(peer):
        await accept(peer)
        command = await peer.receive_command()
        await peer.receive()
        for _ in range(4):
            await asyncio.sleep(0.1)
            peer.send(answer(command, status=0xFF00))
        peer.send(answer(command))
        await peer.receive()
        peer.send(ReleaseRP())

    async with raw_server(script) as port:
        async with asyncdicom.connect("127.0.0.1", port, contexts=[FIND], timeouts=times) as association:
            assert (await association.c_find(keys(), model=FIND)).status.is_success


async def test_the_end_of_the_association_is_raised_in_the_loop():
    pending = lambda command: answer(command, status=0xFF00)  # noqa: E731
    async with peer_that_answers(pending, Abort(0, 0)) as association:
        with pytest.raises(asyncdicom.AssociationAborted):
            await association.c_find(keys(), model=FIND)


async def test_a_cancel_names_the_message_it_cancels():
    seen = []

    async def script(peer):
        await accept(peer)
        command = await peer.receive_command()
        await peer.receive()
        peer.send(answer(command, status=0xFF00))
        cancel = await peer.receive_command()
        seen.append((cancel.message.field, cancel.message_id_being_responded_to == command.message_id))
        peer.send(answer(command, status=0xFF00), answer(command, status=0xFE00))
        assert isinstance(await peer.receive(), ReleaseRQ)
        peer.send(ReleaseRP())

    async with raw_server(script) as port:
        async with asyncdicom.connect("127.0.0.1", port, contexts=[FIND]) as association:
            async with association.c_find(keys(), model=FIND) as responses:
                await anext(responses)
    assert seen == [(CommandField.C_CANCEL_RQ, True)]


async def test_the_last_response_of_what_was_cancelled_has_its_data_set():
    async def script(peer):
        await accept(peer)
        command = await peer.receive_command()
        await peer.receive()
        peer.send(answer(command, status=0xFF00))
        await peer.receive_command()
        peer.send(answer(command, status=0xFE00, has_data_set=True), pdv(1, 2, b"\x20\0\x10\0SH\2\0AB"))
        assert isinstance(await peer.receive(), ReleaseRQ)
        peer.send(ReleaseRP())

    async with raw_server(script) as port:
        async with asyncdicom.connect("127.0.0.1", port, contexts=[FIND]) as association:
            async with association.c_find(keys(), model=FIND) as responses:
                await anext(responses)
            assert responses.final.data_set.StudyID == "AB"


async def test_the_counters_of_a_move_are_those_of_its_responses():
    def counted(command):
        counters = ("remaining", "completed", "failed", "warning")
        more = {f"number_of_{name}_suboperations": number for number, name in enumerate(counters, 1)}
        return answer(command, status=0xFF00, **more)

    async with peer_that_answers(counted, answer, contexts=[MOVE]) as association:
        (each,) = [each async for each in association.c_move(keys(), "THERE", model=MOVE)]
    assert (each.remaining, each.completed, each.failed, each.warning) == (1, 2, 3, 4)
    assert each.status.category is Category.PENDING


async def test_a_normalized_response_brings_its_data_set_and_what_goes_with_its_status():
    mpps = "1.2.840.10008.3.1.2.3.3"
    seen = []

    def failed(command):
        seen.append(command)
        more = {"error_comment": "final", "error_id": 0xA710, "attribute_identifier_list": (0x00100010,)}
        return answer(command, status=0x0110, has_data_set=True, **more) + pdv(1, 2, b"\x10\0\x20\0LO\2\0AB")

    async with peer_that_answers(failed, contexts=[mpps]) as association:
        response = await association.n_set(mpps, "1.2.3", keys())
    assert response.data_set.PatientID == "AB"
    assert (response.status.error_id, response.status.attribute_identifier_list) == (0xA710, (0x00100010,))
    assert (seen[0].requested_sop_class_uid, seen[0].requested_sop_instance_uid) == (mpps, "1.2.3")


async def test_a_response_that_cannot_be_decoded_says_so_when_it_is_looked_at():
    def broken(command):
        return answer(command, status=0xFF00, has_data_set=True) + pdv(1, 2, b"\x10\0\x20\0ZZ\2\0AB")

    async with peer_that_answers(broken, answer) as association:
        async for each in association.c_find(keys(), model=FIND):
            with pytest.raises(asyncdicom.DataSetError, match="cannot be decoded"):
                each.data_set  # noqa: B018
            assert each.data


async def test_data_sets_of_any_size_fit_the_peers_pdus():
    received = bytearray()

    async def script(peer):
        await accept(peer, maximum_length=1000)
        command = await peer.receive_command()
        while True:
            pdu = await peer.receive()
            assert isinstance(pdu, PDataTF)
            assert len(pdu.encode()) <= 1006
            (value,) = pdu.values
            received.extend(value.fragment)
            if value.is_last:
                break
        peer.send(answer(command))
        await peer.receive()
        peer.send(ReleaseRP())

    async with raw_server(script) as port:
        async with asyncdicom.connect("127.0.0.1", port, contexts=[FIND]) as association:
            await association.c_find(b"x" * 5001, model=FIND)
    assert received == b"x" * 5001 + b"\0"


async def test_cancelling_one_of_several_requests_leaves_the_others_alone():
    async def script(peer):
        await accept(peer, async_operations_window=AsyncOperationsWindow(2, 1))
        commands = [await peer.receive_command() for _ in range(2)]
        cancelled.set()
        await dropped.wait()
        peer.send(*(answer(command) for command in commands))
        peer.send(answer(await peer.receive_command()))
        await peer.receive()
        peer.send(ReleaseRP())

    cancelled, dropped = asyncio.Event(), asyncio.Event()
    options = {"max_operations_invoked": 2}
    async with raw_server(script) as port, asyncdicom.connect("127.0.0.1", port, **options) as association:
        first, second = (asyncio.ensure_future(association.c_echo()) for _ in range(2))
        await cancelled.wait()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        dropped.set()
        assert await second == 0
        assert await association.c_echo() == 0


async def test_cancelling_what_waits_for_its_turn_to_be_sent_changes_nothing():
    async with asking() as association:
        async with association._sending:
            waiting = asyncio.ensure_future(association.c_echo())
            await until(lambda: association._invoker.operations)
            association.connection.writes += 1  # by others
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert (await association.c_echo()).is_success
