"""Query and retrieve with pynetdicom as the peer, in both roles."""

import asyncio
import contextlib
import sys
import time
from pathlib import Path

import pydicom
import pytest
from peers import data_set_bytes, free_ports
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from small_archive import SmallArchive, both_ways, ct_slices

import asyncdicom
from asyncdicom import uids

MODELS = (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
FIND, GET, MOVE = MODELS
EXPLICIT = uids.EXPLICIT_VR_LITTLE_ENDIAN
GET_CONTEXTS = ["study root", asyncdicom.Context(CTImageStorage, (EXPLICIT,), scu=False, scp=True)]
FF00 = 0xFF00


@pytest.fixture
def slices(tmp_path):
    return ct_slices(tmp_path / "slices", 3)


def query(**keys):
    identifier = pydicom.Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", ""
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    return identifier


def expected(slices):
    return {uid: data_set_bytes(path) for uid, path in slices.items()}


class Kept(dict):
    """A C-STORE handler that keeps data sets by SOP Instance UID."""

    async def __call__(self, request):
        self[request.sop_instance_uid] = await request.data_set.read()
        return asyncdicom.Status.SUCCESS


# pynetdicom as the archive


@contextlib.contextmanager
def their_archive(handlers):
    ae = AE("THEIRS")
    for model in MODELS:
        ae.add_supported_context(model)
    ae.add_supported_context(CTImageStorage, EXPLICIT, scu_role=True, scp_role=True)
    ae.add_requested_context(CTImageStorage, EXPLICIT)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def answer_three(event):
    for number in range(3):
        if event.is_cancelled:
            yield 0xFE00, None
            return
        yield FF00, query(StudyInstanceUID=f"1.2.{number}")


async def test_our_find_gets_pynetdicoms_matches():
    with their_archive([(evt.EVT_C_FIND, answer_three)]) as port:
        async with asyncdicom.connect("127.0.0.1", port, contexts=["study root"]) as association:
            responses = association.c_find(query(), model=FIND)
            found = [match.data_set.StudyInstanceUID async for match in responses]
    assert found == ["1.2.0", "1.2.1", "1.2.2"]
    assert responses.status == asyncdicom.Status.SUCCESS


async def test_our_cancel_reaches_pynetdicom():
    cancelled = asyncio.Event()
    loop = asyncio.get_running_loop()

    def answer_until_cancelled(event):
        while not event.is_cancelled:
            yield FF00, query(StudyInstanceUID="1.2")
            time.sleep(0.01)  # its threads share the interpreter: one that only sends does not let it hear
        loop.call_soon_threadsafe(cancelled.set)
        yield 0xFE00, None

    with their_archive([(evt.EVT_C_FIND, answer_until_cancelled)]) as port:
        async with asyncdicom.connect("127.0.0.1", port, contexts=["study root"]) as association:
            async with asyncio.timeout(20):
                async with contextlib.aclosing(association.c_find(query(), model=FIND)) as responses:
                    async for _ in responses:
                        break
                await cancelled.wait()


async def test_a_failure_of_pynetdicom_is_a_status_with_its_words():
    def refuse(event):
        failure = pydicom.Dataset()
        failure.Status, failure.ErrorComment = 0xA700, "no room"
        yield failure, None

    with their_archive([(evt.EVT_C_FIND, refuse)]) as port:
        async with asyncdicom.connect("127.0.0.1", port, contexts=["study root"]) as association:
            final = await association.c_find(query(), model=FIND)
    assert (final.status, final.status.error_comment) == (0xA700, "no room")


def send_all(slices):
    def send(event):
        yield len(slices)
        for path in slices.values():
            yield FF00, pydicom.dcmread(path)

    return send


async def test_our_get_receives_from_pynetdicom(slices):
    kept = Kept()
    with their_archive([(evt.EVT_C_GET, send_all(slices))]) as port:
        async with asyncdicom.connect("127.0.0.1", port, contexts=GET_CONTEXTS, c_store=kept) as association:
            final = await association.c_get(query(), model=GET)
    assert (final.status, final.completed, final.failed) == (0, 3, 0)
    assert kept == expected(slices)


async def test_pynetdicom_moves_to_our_server(slices):
    kept = Kept()
    async with asyncdicom.serve("127.0.0.1", 0, c_store=kept) as ours:

        def move(event):
            yield "127.0.0.1", ours.port
            yield from send_all(slices)(event)

        with their_archive([(evt.EVT_C_MOVE, move)]) as port:
            async with asyncdicom.connect("127.0.0.1", port, contexts=["study root"]) as association:
                final = await association.c_move(query(), destination="OURS", model=MOVE)
    assert (final.status, final.completed, final.failed) == (0, 3, 0)
    assert kept == expected(slices)


# pynetdicom as the client


@contextlib.asynccontextmanager
async def our_archive(archive, **options):
    contexts = ["study root", *both_ways()]
    handlers = archive.handlers()
    async with asyncdicom.serve("127.0.0.1", 0, contexts=contexts, **handlers, **options) as server:
        yield server.port


def their_association(port, handlers=()):
    contexts = [*map(build_context, MODELS), build_context(CTImageStorage, EXPLICIT)]
    roles = [build_role(CTImageStorage, scp_role=True)]
    return AE("THEIRS").associate("127.0.0.1", port, contexts=contexts, ext_neg=roles, evt_handlers=list(handlers))


def theirs_with(port, do, handlers=()):
    """What pynetdicom's client is answered, run in a thread: status and identifier of each response."""
    association = their_association(port, handlers)
    answers = [(status, identifier) for status, identifier in do(association)]
    association.release()
    return answers


async def test_pynetdicom_finds_with_us(slices):
    async with our_archive(SmallArchive(slices.values())) as port:
        answers = await asyncio.to_thread(theirs_with, port, lambda each: each.send_c_find(query(PatientID="P1"), FIND))
    assert [status.Status for status, _ in answers] == [FF00, 0]
    assert answers[0][1].PatientID == "P1"


async def test_pynetdicom_cancels_our_find(slices):
    archive = SmallArchive(slices.values())
    archive.hold = 1

    def find(association):
        identifier = query(SOPInstanceUID="")
        identifier.QueryRetrieveLevel = "IMAGE"
        for status, match in association.send_c_find(identifier, FIND, msg_id=7):
            yield status, match
            if status.Status == FF00:
                association.send_c_cancel(7, query_model=FIND)

    async with our_archive(archive) as port:
        answers = await asyncio.to_thread(theirs_with, port, find)
    assert [status.Status for status, _ in answers] == [FF00, 0xFE00]
    assert archive.was_cancelled.is_set()


def keep_theirs(received):
    def keep(event):
        received[event.request.AffectedSOPInstanceUID] = event.request.DataSet.getvalue()
        return 0

    return (evt.EVT_C_STORE, keep)


async def test_pynetdicom_gets_from_us(slices):
    received = {}
    async with our_archive(SmallArchive(slices.values())) as port:
        answers = await asyncio.to_thread(
            theirs_with, port, lambda each: each.send_c_get(query(), GET), [keep_theirs(received)]
        )
    assert answers[-1][0].Status == 0
    assert answers[-1][0].NumberOfCompletedSuboperations == 3
    assert received == expected(slices)


async def test_pynetdicom_has_us_move_to_its_server(slices):
    received = {}
    ae = AE("THEIRS")
    ae.add_supported_context(CTImageStorage, EXPLICIT)
    receiver = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[keep_theirs(received)])
    try:
        destinations = {"THEIRS": receiver.server_address[:2]}
        async with our_archive(SmallArchive(slices.values()), move_destinations=destinations) as port:
            answers = await asyncio.to_thread(theirs_with, port, lambda each: each.send_c_move(query(), "THEIRS", MOVE))
    finally:
        receiver.shutdown()
    assert answers[-1][0].Status == 0
    assert received == expected(slices)


async def test_pynetdicom_hears_which_instances_have_failed(slices):
    (port_of_nobody,) = free_ports(1)
    destinations = {"THEIRS": ("127.0.0.1", port_of_nobody)}
    async with our_archive(SmallArchive(slices.values()), move_destinations=destinations) as port:
        answers = await asyncio.to_thread(theirs_with, port, lambda each: each.send_c_move(query(), "THEIRS", MOVE))
    status, identifier = answers[-1]
    assert status.Status == 0xA702
    assert sorted(identifier.FailedSOPInstanceUIDList) == sorted(slices)
