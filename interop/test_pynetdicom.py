"""pynetdicom as the peer, in both roles."""

import asyncio
import contextlib

import pydicom
import pytest
from peers import batches, corpus, data_set_bytes, even, stored
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import Verification

import asyncdicom

INSTANCES = corpus()


@contextlib.contextmanager
def their_server(handlers=(), instances=()):
    ae = AE("THEIRS")
    ae.add_supported_context(Verification)
    for instance in instances:
        ae.add_supported_context(instance.sop_class_uid, instance.transfer_syntax_uid)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=list(handlers))
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def their_client(port, contexts):
    return AE("THEIRS").associate("127.0.0.1", port, contexts=contexts, ae_title="OURS")


def echo(port):
    association = their_client(port, [build_context(Verification)])
    status = association.send_c_echo().Status
    association.release()
    return status, association.is_released


async def test_pynetdicom_gets_an_echo_and_a_release_from_us(receiver):
    assert await asyncio.to_thread(echo, receiver.port) == (0, True)


async def test_our_echo_gets_an_answer_from_pynetdicom():
    with their_server() as port:
        async with asyncdicom.connect("127.0.0.1", port, called_ae_title="THEIRS") as association:
            assert await association.c_echo() == asyncdicom.Status.SUCCESS


def store(port, instances):
    pairs = {(each.sop_class_uid, each.transfer_syntax_uid) for each in instances}
    association = their_client(port, [build_context(*pair) for pair in pairs])
    statuses = [association.send_c_store(each.path).get("Status") for each in instances]
    association.release()
    return statuses


def sendable(instance):
    """Whether pynetdicom can encode it: it reads the whole file, and goes by the file meta information."""
    meta = pydicom.dcmread(instance.path, stop_before_pixels=True).file_meta
    return meta.get("MediaStorageSOPInstanceUID") == instance.sop_instance_uid


async def test_what_pynetdicom_sends_arrives_byte_for_byte(receiver, monkeypatch):
    monkeypatch.setattr("pynetdicom._config.STORE_SEND_CHUNKED_DATASET", True)
    batch = [each for each in batches(INSTANCES)[0] if sendable(each)][:60]
    assert set(await asyncio.to_thread(store, receiver.port, batch)) == {0}
    expected = {each.sop_instance_uid: even(data_set_bytes(each.path)) for each in batch}
    assert {uid: even(data) for uid, data in stored(receiver.folder).items()} == expected


async def test_what_we_send_arrives_at_pynetdicom_byte_for_byte():
    received = {}

    def keep(event):
        received[event.request.AffectedSOPInstanceUID] = event.request.DataSet.getvalue()
        return 0x0000

    batch = batches(INSTANCES)[0]
    with their_server([(evt.EVT_C_STORE, keep)], batch) as port:
        async with asyncdicom.connect("127.0.0.1", port, contexts=asyncdicom.contexts_for(batch)) as association:
            for instance in batch:
                assert await association.c_store(instance) == asyncdicom.Status.SUCCESS
    assert received == {each.sop_instance_uid: even(data_set_bytes(each.path)) for each in batch}


async def test_a_warning_status_of_pynetdicom_is_a_value():
    instance = INSTANCES[0]
    with their_server([(evt.EVT_C_STORE, lambda event: 0xB000)], [instance]) as port:
        async with asyncdicom.connect("127.0.0.1", port, contexts=asyncdicom.contexts_for([instance])) as association:
            status = await association.c_store(instance)
    assert status.category is asyncdicom.Category.WARNING


async def test_an_abort_by_pynetdicom_is_an_exception():
    with their_server([(evt.EVT_C_ECHO, lambda event: event.assoc.abort() or 0)]) as port:
        association = await asyncdicom.connect("127.0.0.1", port)
        with pytest.raises(asyncdicom.AssociationError):
            await association.c_echo()
        await association.wait_closed()


async def test_our_abort_reaches_pynetdicom():
    aborted = asyncio.Event()
    loop = asyncio.get_running_loop()
    handler = (evt.EVT_ABORTED, lambda event: loop.call_soon_threadsafe(aborted.set))
    with their_server([handler]) as port:
        association = await asyncdicom.connect("127.0.0.1", port)
        await association.abort()
        async with asyncio.timeout(10):
            await aborted.wait()
