"""What an association does for its peer: dispatch, answers, cancellation, the window."""

import asyncio
import contextlib
import logging

import pytest
from pydicom import Dataset
from raw_peer import CT, DEADLINE, data_set, pdv, raw_client, store_request

import asyncdicom
from asyncdicom import Context, Status, StatusError, Timeouts
from asyncdicom.command import Command, CommandField
from asyncdicom.dimse import encode_command
from asyncdicom.pdu import Abort, AsyncOperationsWindow, PDataTF, ReleaseRP, ReleaseRQ

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
MPPS = "1.2.840.10008.3.1.2.3.3"
FILM_SESSION = "1.2.840.10008.5.1.1.1"
GRAYSCALE_PRINT = "1.2.840.10008.5.1.1.9"
STUDY_ID = b"\x20\0\x10\0SH\2\x00AB"


def serving(**options):
    return asyncdicom.serve("127.0.0.1", 0, **{"contexts": [FIND, MPPS, GRAYSCALE_PRINT, CT]} | options)


@contextlib.asynccontextmanager
async def peer_of(asked=(FIND,), information=None, **handlers):
    """A raw requestor of a server with these handlers, and the server."""
    async with serving(**handlers) as server, raw_client(server.port) as peer:
        await peer.associate(*asked, **information or {})
        yield peer, server


def request(field, message_id=1, *, context_id=1, has_data_set=False, **elements):
    command = Command(field, message_id=message_id, has_data_set=has_data_set, **elements)
    return encode_command(context_id, command, 16378)


def find_request(message_id=1, sop_class=FIND):
    elements = {"affected_sop_class_uid": sop_class, "priority": 0}
    return request(CommandField.C_FIND_RQ, message_id, has_data_set=True, **elements) + pdv(1, 2, STUDY_ID)


def cancel(message_id=1):
    command = Command(CommandField.C_CANCEL_RQ, message_id_being_responded_to=message_id)
    return encode_command(1, command, 16378)


def normalized(field, *, sop_class=MPPS, instance="1.2.3", data=b"", message_id=1, **elements):
    kind = "affected" if field in (CommandField.N_CREATE_RQ, CommandField.N_EVENT_REPORT_RQ) else "requested"
    elements |= {f"{kind}_sop_class_uid": sop_class, f"{kind}_sop_instance_uid": instance or None}
    message = request(field, message_id, has_data_set=bool(data), **elements)
    return message + (pdv(1, 2, data) if data else b"")


async def until(condition):
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0)


async def succeed(request):
    return Status.SUCCESS


async def answer_to(message, asked=(MPPS,), **handlers):
    async with peer_of(asked, **handlers) as (peer, _):
        peer.send(message)
        return await peer.receive_command()


# Dispatch


@pytest.mark.parametrize(
    ("name", "field", "more"),
    [
        ("n_event_report", CommandField.N_EVENT_REPORT_RQ, {"event_type_id": 1}),
        ("n_get", CommandField.N_GET_RQ, {"attribute_identifier_list": (0x00100010,)}),
        ("n_set", CommandField.N_SET_RQ, {"data": STUDY_ID}),
        ("n_action", CommandField.N_ACTION_RQ, {"action_type_id": 2}),
        ("n_create", CommandField.N_CREATE_RQ, {}),
        ("n_delete", CommandField.N_DELETE_RQ, {}),
    ],
)
async def test_each_normalized_service_has_its_handler(name, field, more):
    seen = []

    async def handler(request):
        seen.append((type(request).__name__.lower(), request.sop_class_uid, request.sop_instance_uid))
        return Status.SUCCESS

    answer = await answer_to(normalized(field, **more), **{name: handler})
    assert (answer.message.field, answer.status) == (field | 0x8000, 0)
    assert seen == [(name.replace("_", "") + "request", MPPS, "1.2.3")]


async def test_a_handler_sees_what_is_asked_for():
    seen = []

    async def handler(request):
        seen.append((request.attributes, request.data_set, request.message_id, request.priority))
        return 0

    await answer_to(
        normalized(CommandField.N_GET_RQ, attribute_identifier_list=(0x00100010, 0x00080005)), n_get=handler
    )
    assert seen == [((0x00100010, 0x00080005), None, 1, 0)]


async def test_a_service_without_handler_is_not_recognized():
    answer = await answer_to(normalized(CommandField.N_DELETE_RQ), n_get=succeed)
    assert answer.status == Status.UNRECOGNIZED_OPERATION


async def test_the_handlers_of_a_service_get_what_comes_on_its_contexts():
    class Steps:
        contexts = (MPPS,)

        @property
        def handlers(self):
            return {"n_create": self.create}

        async def create(self, request):
            return 0x0111

    async def other(request):
        return 0x0112

    options = {"services": [Steps()], "n_create": other, "contexts": [GRAYSCALE_PRINT]}
    assert (await answer_to(normalized(CommandField.N_CREATE_RQ), **options)).status == 0x0111
    message = normalized(CommandField.N_CREATE_RQ, sop_class=FILM_SESSION)
    assert (await answer_to(message, [GRAYSCALE_PRINT], **options)).status == 0x0112


async def test_a_member_of_a_meta_class_comes_on_the_contexts_of_the_meta_class():
    message = normalized(CommandField.N_CREATE_RQ, sop_class=FILM_SESSION)
    assert (await answer_to(message, [GRAYSCALE_PRINT], n_create=succeed)).status == 0
    assert (await answer_to(message, [MPPS], n_create=succeed)).status == Status.NO_SUCH_SOP_CLASS


@pytest.mark.parametrize(
    ("field", "more", "status"),
    [
        (CommandField.N_GET_RQ, {"instance": ""}, Status.INVALID_SOP_INSTANCE),
        (CommandField.N_ACTION_RQ, {}, Status.PROCESSING_FAILURE),
        (CommandField.N_EVENT_REPORT_RQ, {}, Status.PROCESSING_FAILURE),
    ],
)
async def test_what_lacks_an_element_is_answered_without_a_handler(field, more, status, monkeypatch):
    monkeypatch.setattr(Command, "missing", lambda self: ())  # else it could not be encoded
    handlers = dict.fromkeys(("n_get", "n_action", "n_event_report"))
    assert (await answer_to(normalized(field, **more), **handlers | dict.fromkeys(handlers, succeed))).status == status


async def test_services_may_share_a_context_but_not_what_they_handle():
    class Steps:
        contexts = (MPPS,)
        handlers = {"n_create": succeed}  # noqa: RUF012

    class Changes:
        contexts = (MPPS,)
        handlers = {"n_set": succeed}  # noqa: RUF012

    services = [Steps(), Changes()]
    assert (await answer_to(normalized(CommandField.N_CREATE_RQ), services=services)).status == 0
    assert (await answer_to(normalized(CommandField.N_SET_RQ, data=STUDY_ID), services=services)).status == 0
    with pytest.raises(ValueError, match="two services handle N-SET"):
        serving(services=[Changes(), Changes()])


def test_an_unknown_handler_is_refused():
    class Wrong:
        contexts = (MPPS,)
        handlers = {"n_make": succeed}  # noqa: RUF012

    with pytest.raises(TypeError, match="no DIMSE service is called n_make"):
        serving(services=[Wrong()])


# Answers


async def test_an_answer_may_have_a_data_set():
    async def handler(request):
        answer = Dataset()
        answer.StudyID = request.data_set.StudyID
        return Status.SUCCESS, answer

    async with peer_of([MPPS], n_set=handler) as (peer, _):
        peer.send(normalized(CommandField.N_SET_RQ, data=STUDY_ID))
        assert (await peer.receive_command()).has_data_set
        assert (await peer.receive()).values[0].fragment == STUDY_ID


async def test_an_action_that_is_answered_with_a_data_set_names_its_type():
    async def handler(request):
        return Status.SUCCESS, STUDY_ID

    answer = await answer_to(normalized(CommandField.N_ACTION_RQ, action_type_id=7), n_action=handler)
    assert answer.action_type_id == 7


async def test_a_data_set_alone_is_a_success():
    async def handler(request):
        return Dataset()

    assert (await answer_to(normalized(CommandField.N_GET_RQ), n_get=handler)).status == 0


async def test_an_instance_without_uid_is_given_one_that_the_requestor_is_told():
    made = []

    async def handler(request):
        made.append(request.sop_instance_uid)
        return Status.SUCCESS

    answer = await answer_to(normalized(CommandField.N_CREATE_RQ, instance=""), n_create=handler)
    assert [answer.affected_sop_instance_uid] == made
    assert made[0].startswith("2.25.")


async def test_a_handler_may_raise_a_status():
    async def handler(request):
        raise StatusError(Status(0x0110, "final", error_id=0xA710))

    answer = await answer_to(normalized(CommandField.N_CREATE_RQ), n_create=handler)
    assert (answer.status, answer.error_comment, answer.error_id) == (0x0110, "final", 0xA710)


async def test_what_else_a_handler_raises_is_logged_and_a_processing_failure(caplog):
    async def handler(request):
        raise KeyError("lost")

    answer = await answer_to(normalized(CommandField.N_CREATE_RQ), n_create=handler)
    assert answer.status == Status.PROCESSING_FAILURE
    assert "N-CREATE handler failed" in caplog.text


async def test_a_data_set_that_cannot_be_decoded_is_a_failure():
    async def handler(request):
        return Status(request.data_set and 0)

    answer = await answer_to(normalized(CommandField.N_SET_RQ, data=b"\x10\0\x20\0ZZ\2\0AB"), n_set=handler)
    assert (answer.status, answer.error_comment) == (Status.PROCESSING_FAILURE, "the data set cannot be read")


async def test_a_request_whose_id_is_in_use_is_refused():
    async with peer_of(n_create=succeed, c_find=forever) as (peer, _):
        peer.send(find_request(5), find_request(5))
        assert (await peer.receive_command()).status == Status.DUPLICATE_INVOCATION


# What is gathered for handlers


def long_data_set(size):
    data = b"\x20\0\x10\0OB\0\0" + (size - 12).to_bytes(4, "little") + bytes(size - 12)
    pieces = [data[start : start + 16378] for start in range(0, size, 16378)]
    return b"".join(pdv(1, 2 if piece is pieces[-1] else 0, piece) for piece in pieces)


def long_set(size, message_id=1):
    elements = {"requested_sop_class_uid": MPPS, "requested_sop_instance_uid": "1.2.3"}
    return request(CommandField.N_SET_RQ, message_id, has_data_set=True, **elements) + long_data_set(size)


async def test_a_query_that_is_too_long_is_refused():
    elements = {"affected_sop_class_uid": FIND, "priority": 0, "has_data_set": True}
    async with peer_of(c_find=two) as (peer, server):
        for size, status in ((1 << 18, [0xFF00, 0xFF01, 0]), ((1 << 18) + 2, [Status.OUT_OF_RESOURCES])):
            peer.send(request(CommandField.C_FIND_RQ, size & 0xFF, **elements) + long_data_set(size))
            found = [await peer.receive_command()]
            while found[-1].status >= 0xFF00:
                while isinstance(pdu := await peer.receive(), PDataTF) and not pdu.values[0].is_command:
                    pass
                found.append(Command.decode(pdu.values[0].fragment))
            assert [each.status for each in found] == status
        assert server._pool.gathered == 0


async def test_all_together_gather_no_more_than_the_limit():
    go_on = asyncio.Event()
    begun = []

    async def handler(request):
        begun.append(len(request.data))
        await go_on.wait()
        return Status.SUCCESS

    size = 10 << 20
    async with peer_of([MPPS], n_set=handler, memory_limit=16 << 20, max_associations=10) as (first, server):
        first.send(long_set(size))
        await until(lambda: begun)
        async with raw_client(server.port) as other:
            await other.associate(MPPS)
            other.send(long_set(size))
            assert (await other.receive_command()).status == Status.RESOURCE_LIMITATION
            other.send(long_set(1 << 16, 2))
            await until(lambda: len(begun) == 2)
            go_on.set()
            assert [(await each.receive_command()).status for each in (first, other)] == [0, 0]
            other.send(long_set(size, 3))
            assert (await other.receive_command()).status == 0
        await until(lambda: server._pool.gathered == server._pool.used == 0)


async def test_requests_that_wait_count_for_the_memory_too():
    go_on = asyncio.Event()

    async def slow(request):
        await go_on.wait()
        return Status.SUCCESS

    async with peer_of([MPPS], n_get=slow) as (peer, server):
        peer.send(*(normalized(CommandField.N_GET_RQ, message_id=number) for number in range(1, 800)))
        await until(lambda: server.associations[0]._connection.is_reading_paused)
        assert server._pool.used >= 1 << 20
        go_on.set()
        for _ in range(1, 800):
            assert (await peer.receive_command()).status == 0
        assert server._pool.used == 0


async def test_the_end_of_the_association_frees_what_waits():
    async def never(request):
        await asyncio.Event().wait()

    async with peer_of([MPPS], n_get=never) as (peer, server):
        peer.send(*(normalized(CommandField.N_GET_RQ, message_id=number) for number in range(1, 100)))
        await until(lambda: server._pool.used)
        peer.send(Abort(0, 0))
        await until(lambda: server._pool.used == 0 and not server.associations)


# C-FIND and its cancellation


async def two(request):
    yield request.identifier
    yield Status.PENDING_WITHOUT_OPTIONAL_KEYS, STUDY_ID


async def forever(request):
    await asyncio.Event().wait()
    yield


async def statuses(peer):
    """Of the responses, until the last one."""
    found = []
    while not found or found[-1] >= 0xFF00:
        command = await peer.receive_command()
        found.append(command.status)
        if command.has_data_set:
            assert isinstance(await peer.receive(), PDataTF)
    return found


async def test_matches_are_pending_responses_with_identifiers():
    async with peer_of(c_find=two) as (peer, _):
        peer.send(find_request())
        assert await statuses(peer) == [0xFF00, 0xFF01, 0]


async def test_a_cancel_ends_the_handler_and_is_answered():
    ended = []

    async def handler(request):
        try:
            yield STUDY_ID
            await asyncio.Event().wait()
        finally:
            ended.append(type(asyncio.current_task()))

    async with peer_of(c_find=handler) as (peer, _):
        peer.send(find_request(), cancel())
        assert await statuses(peer) in ([0xFF00, 0xFE00], [0xFE00])
        assert len(ended) in (0, 1)
        peer.send(find_request(2), cancel(2))
        assert (await statuses(peer))[-1] == 0xFE00


async def test_a_handler_that_waits_for_ever_is_cancelled():
    ended = asyncio.Event()

    async def handler(request):
        try:
            await asyncio.Event().wait()
            yield
        except asyncio.CancelledError:
            ended.set()
            raise

    async with peer_of(c_find=handler) as (peer, server):
        peer.send(find_request())
        await until(lambda: server.associations[0]._performer._running)
        peer.send(cancel())
        assert await statuses(peer) == [0xFE00]
        assert ended.is_set()
        peer.send(find_request(2))
        await until(lambda: server.associations[0]._performer._running)
        ended.clear()
        peer.send(Abort(0, 0))
        async with asyncio.timeout(DEADLINE):
            await ended.wait()


async def test_a_handler_that_swallows_its_cancellation_is_over_all_the_same():
    async def handler(request):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        yield STUDY_ID

    async with peer_of(c_find=handler) as (peer, server):
        peer.send(find_request())
        await until(lambda: server.associations[0]._performer._running)
        peer.send(cancel())
        assert await statuses(peer) == [0xFE00]
        peer.send(find_request(2), cancel(2))
        assert await statuses(peer) == [0xFE00]


@pytest.mark.parametrize("again", [cancel(), ReleaseRQ().encode()])
async def test_what_is_cancelled_may_be_cancelled_again(again):
    async with peer_of(c_find=forever) as (peer, server):
        peer.send(find_request())
        await until(lambda: server.associations[0]._performer._running)
        peer.send(cancel(), again)
        assert await statuses(peer) == [0xFE00]


async def test_a_handler_that_fails_when_it_is_cancelled_leaves_its_task_uncancelled():
    async def handler(request):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise KeyError("lost") from None
        yield

    async with peer_of(c_find=handler) as (peer, server):
        for number in range(1, 4):
            peer.send(find_request(number))
            await until(lambda: server.associations[0]._performer._running)
            peer.send(cancel(number))
            assert await statuses(peer) == [Status.CANNOT_UNDERSTAND]
            await until(lambda: not server.associations[0]._performer._running)
            assert [task.cancelling() for task in server.associations[0]._performer._tasks] == [0]


async def test_a_late_cancel_and_a_stranger_have_no_effect():
    async with peer_of(c_find=two) as (peer, _):
        peer.send(cancel(1), find_request(1))
        assert (await statuses(peer))[-1] == 0
        peer.send(cancel(1), cancel(77), find_request(2))
        assert (await statuses(peer))[-1] == 0


async def test_a_reset_ends_the_handler():
    ended = asyncio.Event()

    async def handler(request):
        try:
            await asyncio.Event().wait()
            yield
        finally:
            ended.set()

    async with peer_of(c_find=handler) as (peer, server):
        peer.send(find_request())
        await until(lambda: server.associations and server.associations[0]._performer._running)
        peer.reset()
        async with asyncio.timeout(DEADLINE):
            await ended.wait()


async def test_a_release_ends_what_nobody_waits_for():
    async with peer_of(c_find=forever) as (peer, server):
        peer.send(find_request())
        await until(lambda: server.associations[0]._performer._running)
        peer.send(ReleaseRQ())
        assert await statuses(peer) == [0xFE00]
        assert isinstance(await peer.receive(), ReleaseRP)


async def test_a_handler_that_never_waits_does_not_keep_the_loop_to_itself():
    async def endless(request):
        while True:
            yield STUDY_ID

    async with peer_of(c_find=endless) as (peer, server):
        peer.send(find_request())
        await peer.receive_command()
        async with raw_client(server.port) as other:
            await other.associate(FIND)
        peer.send(cancel())
        assert (await statuses_after_fragment(peer))[-1] == 0xFE00


async def statuses_after_fragment(peer):
    await peer.receive()
    return await statuses(peer)


@pytest.mark.parametrize("nonsense", [None, (Status.PENDING, None), "match", (1, 2, 3), 1.5])
async def test_what_is_no_match_is_a_failure(nonsense):
    async def handler(request):
        yield nonsense

    async with peer_of(c_find=handler) as (peer, _):
        peer.send(find_request())
        assert await statuses(peer) == [Status.CANNOT_UNDERSTAND]


async def test_the_last_response_is_never_a_pending_one(caplog):
    async def handler(request):
        yield Status.PENDING

    async with peer_of(c_find=handler) as (peer, _):
        peer.send(find_request())
        assert await statuses(peer) == [Status.CANNOT_UNDERSTAND]
    assert "says that there is more" in caplog.text


async def test_a_peer_that_takes_no_matches_is_aborted_in_time():
    ended = asyncio.Event()

    async def handler(request):
        try:
            while True:
                yield bytes(1 << 20)
        finally:
            ended.set()

    async with peer_of(c_find=handler, timeouts=Timeouts(dimse=0.1)) as (peer, server):
        peer.send(find_request())
        async with asyncio.timeout(DEADLINE):
            await ended.wait()
        await until(lambda: not server.associations)


async def test_matches_without_identifier_do_not_pile_up_either():
    long = Status(Status.PENDING, offending_element=(0x00100010,) * 1000)

    async def handler(request):
        while True:
            yield long, b""

    async with peer_of(c_find=handler, timeouts=Timeouts(dimse=0.1)) as (peer, server):
        peer.send(find_request())
        await until(lambda: server.associations[0]._connection.unread_since is not None)
        transport = server.associations[0]._connection._transport
        sizes = []
        await until(lambda: sizes.append(transport.get_write_buffer_size()) or not server.associations)
        assert max(sizes) < 300_000


async def test_a_find_handler_has_to_be_a_generator(caplog):
    async with peer_of(c_find=succeed) as (peer, _):
        peer.send(find_request())
        assert await statuses(peer) == [Status.CANNOT_UNDERSTAND]
    assert "asynchronous generator" in caplog.text


async def test_many_finds_that_are_left_leave_no_task_behind():
    async with serving(c_find=forever) as server:
        before = len(asyncio.all_tasks())

        async def ask():
            async with asyncdicom.connect("127.0.0.1", server.port, contexts=[FIND]) as association:
                task = asyncio.ensure_future(association.c_find(STUDY_ID, model=FIND)._run())
                await until(lambda: association._invoker.operations)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        await asyncio.gather(*(ask() for _ in range(50)))
        await until(lambda: not server.associations)
        await until(lambda: len(asyncio.all_tasks()) == before)


# The window


@contextlib.asynccontextmanager
async def storing(window, *, granted=8):
    """A raw requestor that asks for a window, and a server whose handlers wait; with the handlers' number."""
    running = []
    most = []
    go_on = asyncio.Event()

    async def handler(request):
        running.append(request.message_id)
        most.append(len(running))
        try:
            await go_on.wait()
        finally:
            running.remove(request.message_id)
        return Status.SUCCESS

    information = {"async_operations_window": AsyncOperationsWindow(window, 1)} if window != 1 else {}
    options = {"c_store": handler, "max_operations_invoked": granted, "contexts": None}
    async with peer_of(["verification", CT], information, **options) as (peer, server):
        yield peer, server, running, most, go_on


@pytest.mark.parametrize(
    ("window", "granted", "agreed"), [(1, 8, 1), (3, 8, 3), (20, 8, 8), (0, 4, 4), (5, 0, 5), (9, 1, 1)]
)
async def test_as_many_handlers_run_at_once_as_were_agreed(window, granted, agreed):
    async with storing(window, granted=granted) as (peer, _server, running, most, go_on):
        count = agreed if window != 1 else 5  # who has agreed on nothing is not held to it
        peer.send(*(store_request(number) + pdv(3, 2, data_set(100)) for number in range(count)))
        await until(lambda: len(running) == agreed)
        go_on.set()
        answers = [(await peer.receive_command()).message_id_being_responded_to for _ in range(count)]
        assert sorted(answers) == list(range(count))
        assert max(most) == agreed


@pytest.mark.parametrize(("window", "granted", "agreed"), [(3, 8, 3), (9, 1, 1)])
async def test_more_requests_than_were_agreed_end_the_association(window, granted, agreed):
    async with storing(window, granted=granted) as (peer, _server, running, _, _):
        peer.send(*(store_request(number) + pdv(3, 2, data_set(100)) for number in range(agreed)))
        await until(lambda: len(running) == agreed)
        peer.send(store_request(4))
        assert await peer.receive() == Abort(2, 6)


async def test_the_answer_to_a_window_is_no_more_than_was_asked_for():
    async with serving(max_operations_invoked=8, max_operations_performed=4) as server, raw_client(server.port) as peer:
        answer = await peer.associate(FIND, async_operations_window=AsyncOperationsWindow(3, 9))
        assert answer.user_information.async_operations_window == (3, 4)
    async with serving() as server, raw_client(server.port) as peer:
        answer = await peer.associate(FIND, async_operations_window=AsyncOperationsWindow(0, 0))
        assert answer.user_information.async_operations_window == (1, 1)


async def test_no_window_is_answered_that_was_not_asked_for():
    async with serving(max_operations_invoked=8) as server, raw_client(server.port) as peer:
        assert (await peer.associate(FIND)).user_information.async_operations_window is None


async def test_a_window_lets_handlers_hold_more_data_sets():
    async with storing(4) as (peer, _server, running, _, go_on):
        peer.send(*(store_request(number) + b"".join(large(600_000)) for number in range(4)))
        await until(lambda: len(running) == 4)
        go_on.set()
        assert [(await peer.receive_command()).status for _ in range(4)] == [0] * 4


def large(length, size=16378):
    for start in range(0, length, size):
        yield pdv(3, 2 if start + size >= length else 0, bytes(min(size, length - start)))


async def test_a_requestor_may_be_asked_too(caplog):
    caplog.set_level(logging.ERROR)
    seen = []

    async def event(request):
        seen.append((request.event_type_id, request.data_set.StudyID))
        return Status.SUCCESS

    async def action(request):
        response = await request.association.n_event_report(MPPS, "1.2.3", 4, STUDY_ID)
        return response.status

    contexts = [Context(MPPS, scu=True, scp=True)]
    async with serving(n_action=action, contexts=contexts) as server:
        async with asyncdicom.connect("127.0.0.1", server.port, contexts=[MPPS], n_event_report=event) as association:
            # The acceptor is the SCP, who sends event reports; that needs no role selection (PS3.7 D.3.3.4).
            assert (await association.n_action(MPPS, "1.2.3", 1)).status == 0
    assert seen == [(4, "AB")]


async def test_a_large_data_set_is_decoded_beside_the_loop():
    seen = []

    async def handler(request):
        seen.append(request._data_set is not None)
        return Status(len(request.data_set.TextValue) == 300_000 and 0)

    large_text = Dataset()
    large_text.TextValue = "x" * 300_000
    async with serving(n_set=handler) as server:
        async with asyncdicom.connect("127.0.0.1", server.port, contexts=[MPPS]) as association:
            assert (await association.n_set(MPPS, "1.2.3", large_text)).status == 0
            assert (await association.n_set(MPPS, "1.2.3", STUDY_ID + bytes(300_000))).status.is_failure
    assert seen[0]


@pytest.mark.parametrize("answer", [True, Status.PENDING, None, "0000H"])
async def test_nonsense_for_a_status_is_a_failure(answer, caplog):
    async def handler(request):
        return answer

    async with storing_with(handler) as peer:
        peer.send(store_request(1) + pdv(3, 2, data_set(100)))
        assert (await peer.receive_command()).status == Status.CANNOT_UNDERSTAND
    assert "the handler returned" in caplog.text


@contextlib.asynccontextmanager
async def storing_with(handler):
    async with serving(c_store=handler, contexts=None) as server, raw_client(server.port) as peer:
        await peer.associate()
        yield peer


async def test_a_pending_status_that_is_raised_is_a_failure():
    async def handler(request):
        raise StatusError(Status.PENDING)

    answer = await answer_to(normalized(CommandField.N_DELETE_RQ), n_delete=handler)
    assert answer.status == Status.PROCESSING_FAILURE
