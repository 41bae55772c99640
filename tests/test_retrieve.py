"""C-GET and C-MOVE from their performer's side: sub-operations, counters, the last status."""

import asyncio
import contextlib
import socket

import pytest
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from raw_peer import CT, DEADLINE, pdv, raw_client, store_request

import asyncdicom
from asyncdicom import Context, Destination, Status
from asyncdicom.command import Category, CommandField
from asyncdicom.dimse import encode_command
from asyncdicom.pdu import RoleSelection

GET = "1.2.840.10008.5.1.4.1.2.2.3"
MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = "1.2.840.10008.1.2.1"
KEYS = b"\x20\0\x10\0SH\2\x00AB"


def instance(number, sop_class=CT):
    data_set = Dataset()
    data_set.SOPClassUID = sop_class
    data_set.SOPInstanceUID = f"1.2.3.{number}"
    data_set.PatientName = "Nobody"
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = EXPLICIT
    return data_set


@pytest.fixture(autouse=True)
def _a_response_for_each_instance(request, monkeypatch):
    """Unless a test is about how often they come."""
    if "seldom" not in request.function.__name__:
        monkeypatch.setattr("asyncdicom.retrieve._PENDING_INTERVAL", 0.0)


class Receiver:
    """A C-STORE handler that remembers what it was given."""

    def __init__(self, answers=()):
        self.requests = []
        self.uids = []
        self.answers = dict(answers)
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def __call__(self, request):
        self.requests.append(request)
        await self.may_go_on.wait()
        await request.data_set.read()
        self.uids.append(request.sop_instance_uid)
        return self.answers.get(request.sop_instance_uid, Status.SUCCESS)


@contextlib.asynccontextmanager
async def getting(handler, receiver, *, proposed=(CT,)):
    """An association on which C-GET can be asked for."""
    contexts = [GET, Context(CT, scu=True), Context(MR, scu=True)]
    async with asyncdicom.serve("127.0.0.1", 0, c_get=handler, contexts=contexts) as server:
        asked = [GET, *(Context(each, scp=True) for each in proposed)]
        async with asyncdicom.connect("127.0.0.1", server.port, contexts=asked, c_store=receiver) as association:
            yield association


@contextlib.asynccontextmanager
async def moving(handler, receiver=None, destinations=None, **options):
    """An association on which C-MOVE to THERE can be asked for."""
    async with asyncdicom.serve("127.0.0.1", 0, c_store=receiver, **options) as there:
        destinations = destinations or {"THERE": ("127.0.0.1", there.port)}
        async with asyncdicom.serve(
            "127.0.0.1", 0, c_move=handler, contexts=[MOVE], move_destinations=destinations
        ) as server:
            options = {"contexts": [MOVE], "called_ae_title": "ARCHIVE", "calling_ae_title": "ASKING"}
            async with asyncdicom.connect("127.0.0.1", server.port, **options) as association:
                yield association


async def three(request):
    request.total = 3
    for number in range(3):
        yield instance(number)


def counters(response):
    return response.remaining, response.completed, response.failed, response.warning


async def until(condition):
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0)


async def test_a_get_brings_the_instances_over_its_own_association():
    receiver = Receiver()
    async with getting(three, receiver) as association:
        responses = association.c_get(KEYS, model=GET)
        pending = [counters(each) async for each in responses]
        assert pending == [(2, 1, 0, 0), (1, 2, 0, 0), (0, 3, 0, 0)]
        assert counters(responses.final) == (None, 3, 0, 0)
        assert responses.status.is_success
    assert receiver.uids == ["1.2.3.0", "1.2.3.1", "1.2.3.2"]
    assert {each.association for each in receiver.requests} == {association}


async def test_a_move_sends_the_instances_elsewhere_and_says_for_whom():
    receiver = Receiver()
    async with moving(three, receiver) as association:
        responses = association.c_move(KEYS, "THERE", model=MOVE)
        assert [each.remaining async for each in responses] == [2, 1, 0]
        assert counters(responses.final) == (None, 3, 0, 0)
    (first, *_) = receiver.requests
    assert (first.move_originator_ae_title, first.move_originator_message_id) == ("ASKING", 1)
    assert (first.calling_ae_title, first.called_ae_title) == ("ARCHIVE", "THERE")


async def test_files_go_out_as_they_lie_on_disk(tmp_path):
    data_set = instance(1)
    dcmwrite(tmp_path / "one.dcm", data_set, enforce_file_format=True)
    sent = asyncdicom.read_instance(tmp_path / "one.dcm")
    received = []

    async def handler(request):
        yield tmp_path / "one.dcm"

    async def receiver(request):
        received.append(await request.data_set.read())
        return 0

    async with moving(handler, receiver) as association:
        assert (await association.c_move(KEYS, "THERE", model=MOVE)).completed == 1
    assert received == [(tmp_path / "one.dcm").read_bytes()[sent.offset :]]


async def test_nothing_to_send_is_a_success():
    async def nothing(request):
        return
        yield

    async with getting(nothing, Receiver()) as association:
        assert counters(await association.c_get(KEYS, model=GET)) == (None, 0, 0, 0)


async def test_without_a_total_what_is_ahead_is_what_remains():
    async def unknown(request):
        for number in range(3):
            yield instance(number)

    async with getting(unknown, Receiver()) as association:
        responses = association.c_get(KEYS, model=GET)
        remaining = [each.remaining async for each in responses]
        assert remaining[-1] == 0
        assert responses.final.completed == 3


async def test_failures_and_warnings_are_counted_and_named():
    receiver = Receiver({"1.2.3.0": Status(0xA700), "1.2.3.1": Status(0xB000)})
    async with moving(three, receiver) as association:
        final = await association.c_move(KEYS, "THERE", model=MOVE)
        assert counters(final) == (None, 1, 1, 1)
        assert final.status.category is Category.WARNING
        assert final.data_set.FailedSOPInstanceUIDList == "1.2.3.0"


async def test_a_warning_alone_makes_a_warning():
    async with moving(three, Receiver({f"1.2.3.{number}": Status(0xB000) for number in range(3)})) as association:
        final = await association.c_move(KEYS, "THERE", model=MOVE)
        assert (final.status, final.warning, final.data_set) == (0xB000, 3, None)


async def test_when_all_have_failed_so_has_the_operation():
    async with moving(three, Receiver({f"1.2.3.{number}": Status(0xC000) for number in range(3)})) as association:
        final = await association.c_move(KEYS, "THERE", model=MOVE)
        assert (final.status, final.failed) == (Status.SUBOPERATIONS_NOT_PERFORMED, 3)
        assert len(final.data_set.FailedSOPInstanceUIDList) == 3


async def test_an_instance_without_context_has_failed():
    async def two_classes(request):
        yield instance(1)
        yield instance(2, MR)

    receiver = Receiver()
    async with getting(two_classes, receiver) as association:
        final = await association.c_get(KEYS, model=GET)
        assert (final.completed, final.failed, final.data_set.FailedSOPInstanceUIDList) == (1, 1, "1.2.3.2")
    assert receiver.uids == ["1.2.3.1"]


async def test_a_move_proposes_what_its_instances_need():
    async def two_classes(request):
        yield instance(1)
        yield instance(2, MR)

    async with moving(two_classes, Receiver()) as association:
        assert (await association.c_move(KEYS, "THERE", model=MOVE)).completed == 2


async def test_a_file_that_is_gone_has_failed(tmp_path):
    async def handler(request):
        yield tmp_path / "missing.dcm"
        yield instance(1)

    async with moving(handler, Receiver()) as association:
        final = await association.c_move(KEYS, "THERE", model=MOVE)
        assert (final.status, final.completed, final.failed) == (0xB000, 1, 1)


async def test_what_is_logged_of_a_failure_tells_of_no_patient(tmp_path, caplog):
    async def handler(request):
        yield tmp_path / "Doe^Jane.dcm"
        yield instance(1)
        yield instance(2, MR)

    receiver = Receiver({"1.2.3.1": Status(0xA700, "no room for Doe^Jane\nERROR forged")})
    async with getting(handler, receiver) as association:
        assert (await association.c_get(KEYS, model=GET)).failed == 3
    assert caplog.text.count("a sub-operation for 'ASYNCDICOM' failed") == 3
    assert "FileNotFoundError" in caplog.text
    assert "A700H" in caplog.text
    assert "Doe" not in caplog.text


@pytest.mark.parametrize("nonsense", [None, 5.5, b"bytes", object()])
async def test_what_is_no_instance_has_failed(nonsense):
    async def handler(request):
        yield nonsense
        yield instance(1)

    async with getting(handler, Receiver()) as association:
        final = await association.c_get(KEYS, model=GET)
        assert (final.status, final.completed, final.failed) == (0xB000, 1, 1)


async def test_an_unknown_destination_is_refused_before_the_handler_begins():
    begun = []

    async def handler(request):
        begun.append(request)
        yield instance(1)

    async with moving(handler) as association:
        final = await association.c_move(KEYS, "NOWHERE", model=MOVE)
        assert (final.status, begun) == (Status.MOVE_DESTINATION_UNKNOWN, [])


async def test_a_destination_may_be_found_by_a_coroutine():
    receiver = Receiver()
    asked = []
    async with asyncdicom.serve("127.0.0.1", 0, ae_title="OTHER", c_store=receiver) as there:

        async def resolve(request):
            asked.append((request.destination, request.calling_ae_title))
            return Destination("127.0.0.1", there.port, associations=2, options={"called_ae_title": "OTHER"})

        async with moving(three, destinations=resolve) as association:
            assert (await association.c_move(KEYS, "SOME", model=MOVE)).completed == 3
    assert asked == [("SOME", "ASKING")]


async def test_a_destination_where_nobody_listens_makes_all_fail():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        destinations = {"THERE": free.getsockname()}
        async with moving(three, destinations=destinations) as association:
            final = await association.c_move(KEYS, "THERE", model=MOVE)
            assert (final.status, final.completed, final.failed) == (Status.SUBOPERATIONS_NOT_PERFORMED, 0, 3)
            assert sorted(final.data_set.FailedSOPInstanceUIDList) == ["1.2.3.0", "1.2.3.1", "1.2.3.2"]


async def test_a_handler_may_say_why_it_ends():
    async def handler(request):
        yield instance(1)
        yield Status(0xC001, "no more")

    async with getting(handler, Receiver()) as association:
        final = await association.c_get(KEYS, model=GET)
        assert (final.status, final.status.error_comment, final.completed) == (0xC001, "no more", 1)


async def test_a_handler_that_fails_is_a_failure():
    async def handler(request):
        yield instance(1)
        raise KeyError("lost")

    receiver = Receiver()
    async with getting(handler, receiver) as association:
        assert (await association.c_get(KEYS, model=GET)).status == Status.CANNOT_UNDERSTAND
    assert receiver.uids == ["1.2.3.1"]


async def test_a_handler_whose_own_peer_is_lost_is_a_failure_too():
    async def handler(request):
        raise asyncdicom.AssociationLost("the archive behind")
        yield

    async with getting(handler, Receiver()) as association:
        assert (await association.c_get(KEYS, model=GET)).status == Status.CANNOT_UNDERSTAND
    async with moving(handler) as association:
        assert (await association.c_move(KEYS, "THERE", model=MOVE)).status == Status.CANNOT_UNDERSTAND


async def test_a_service_that_sends_storage_goes_with_a_handler_that_takes_it():
    class Retrieval:
        contexts = (GET, Context(CT, scu=True))
        handlers = {"c_get": three}  # noqa: RUF012

    stored, fetched = Receiver(), Receiver()
    async with asyncdicom.serve("127.0.0.1", 0, services=[Retrieval()], c_store=stored) as server:
        contexts = [GET, Context(CT, scu=True, scp=True)]
        options = {"contexts": contexts, "c_store": fetched}
        async with asyncdicom.connect("127.0.0.1", server.port, **options) as association:
            assert (await association.c_get(KEYS, model=GET)).completed == 3
            assert (await association.c_store(instance(4))).is_success
    assert (len(fetched.uids), stored.uids) == (3, ["1.2.3.4"])


async def test_who_sends_so_much_that_its_own_answer_is_never_read_is_aborted_in_time():
    contexts = [GET, Context(CT, scu=True, scp=True)]
    options = {"c_store": Receiver(), "contexts": contexts, "timeouts": asyncdicom.Timeouts(dimse=0.2)}
    async with asyncdicom.serve("127.0.0.1", 0, c_get=three, **options) as server, raw_client(server.port) as peer:
        await peer.associate(GET, CT, roles=(RoleSelection(CT, scu=True, scp=True),))
        elements = {"affected_sop_class_uid": GET, "message_id": 1, "priority": 0}
        get = asyncdicom.Command(CommandField.C_GET_RQ, has_data_set=True, **elements)
        peer.send(encode_command(1, get, 16378), pdv(1, 2, KEYS))
        await peer.receive_command()
        peer.send(store_request(2), *(pdv(3, 0, bytes(16000)) for _ in range(200)))
        await until(lambda: not server.associations)


@pytest.mark.parametrize("service", ["c_get", "c_move"])
async def test_a_cancel_lets_the_instance_end_that_is_being_sent(service):
    ended = asyncio.Event()

    async def many(request):
        request.total = 100
        try:
            for number in range(100):
                yield instance(number)
        finally:
            ended.set()

    receiver = Receiver()
    receiver.may_go_on.clear()
    peers = getting(many, receiver) if service == "c_get" else moving(many, receiver)
    async with peers as association:
        if service == "c_get":
            responses = association.c_get(KEYS, model=GET)
        else:
            responses = association.c_move(KEYS, "THERE", model=MOVE)
        task = asyncio.ensure_future(anext(responses))
        await until(lambda: receiver.requests)
        receiver.may_go_on.set()
        await task
        await responses.aclose()
        async with asyncio.timeout(DEADLINE):
            await ended.wait()
        assert association.is_established
        assert len(receiver.uids) < 100


async def test_a_cancelled_move_tells_what_remains():
    go_on = asyncio.Event()

    async def slow(request):
        request.total = 5
        yield instance(0)
        await go_on.wait()

    async with moving(slow, Receiver()) as association:
        responses = association.c_move(KEYS, "THERE", model=MOVE)
        await anext(responses)
        operation = responses._operation
        cancel = asyncdicom.Command(0x0FFF, message_id_being_responded_to=operation.request.message_id)
        await association._send_message(operation.context.id, cancel, b"")
        assert [each async for each in responses] == []
        assert (responses.status, counters(responses.final)) == (Status.CANCEL, (4, 1, 0, 0))


async def test_without_a_total_a_cancelled_move_tells_what_was_ahead():
    ahead = asyncio.Event()
    cancelled = []

    async def five(request):
        cancelled.append(request)
        for number in range(5):
            yield instance(number)
        ahead.set()

    receiver = Receiver()
    receiver.may_go_on.clear()
    async with moving(five, receiver) as association:
        responses = association.c_move(KEYS, "THERE", model=MOVE)
        task = asyncio.ensure_future(responses._run())
        await until(lambda: receiver.requests and ahead.is_set())
        operation = responses._operation
        cancel = asyncdicom.Command(0x0FFF, message_id_being_responded_to=operation.request.message_id)
        await association._send_message(operation.context.id, cancel, b"")
        await until(lambda: cancelled[0].is_cancelled)
        receiver.may_go_on.set()
        final = await task
        assert (final.status, counters(final)) == (Status.CANCEL, (4, 1, 0, 0))


async def test_an_abort_ends_the_handler_and_the_other_association():
    ended = asyncio.Event()

    async def slow(request):
        try:
            yield instance(0)
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with moving(slow, Receiver()) as association:
        responses = association.c_move(KEYS, "THERE", model=MOVE)
        await anext(responses)
        await association.abort()
        async with asyncio.timeout(DEADLINE):
            await ended.wait()


@pytest.mark.parametrize("seconds", [0.1, 0.3])
async def test_a_get_goes_on_while_its_instances_are_stored_slowly(seconds):
    async def handler(request):
        await asyncio.sleep(seconds)
        return 0

    contexts = [GET, Context(CT, scu=True)]
    async with asyncdicom.serve("127.0.0.1", 0, c_get=three, contexts=contexts) as server:
        options = {"contexts": [GET, Context(CT, scp=True)], "timeouts": asyncdicom.Timeouts(dimse=0.2)}
        async with asyncdicom.connect("127.0.0.1", server.port, c_store=handler, **options) as association:
            assert (await association.c_get(KEYS, model=GET)).completed == 3


async def test_pending_responses_come_after_the_first_instance_and_then_seldom():
    async def many(request):
        request.total = 100
        for number in range(100):
            yield instance(number)

    async with getting(many, Receiver()) as association:
        responses = association.c_get(KEYS, model=GET)
        completed = [each.completed async for each in responses]
        assert completed[0] == 1
        assert len(completed) < 50
        assert responses.final.completed == 100
