"""The connection between an asyncio transport and the protocol machine."""

import asyncio
import socket

import pytest
from raw_peer import DEADLINE, accept, pdv, raw_server, response

import asyncdicom
from asyncdicom.command import CommandField
from asyncdicom.errors import AssociationLost
from asyncdicom.pdu import Abort, PDataTF, ReleaseRP


async def echo_once(peer):
    await accept(peer)
    if isinstance(await peer.receive(), PDataTF):
        peer.send(response(CommandField.C_ECHO_RSP, 1))
        await peer.receive()
        peer.send(ReleaseRP())


async def test_the_socket_sends_at_once_and_is_kept_alive():
    async with raw_server(echo_once) as port, asyncdicom.connect("127.0.0.1", port) as association:
        sock = association._connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert isinstance(association._connection.get_buffer(-1), memoryview)
        await association.c_echo()


async def test_a_small_message_is_one_write():
    async with raw_server(echo_once) as port, asyncdicom.connect("127.0.0.1", port) as association:
        before = association._connection.writes
        await association.c_echo()
        assert association._connection.writes == before + 1


async def test_memory_that_was_written_may_be_used_again_after_draining():
    received = []

    async def script(peer):
        await accept(peer, maximum_length=0)
        peer.writer.transport.pause_reading()
        await filled.wait()
        peer.writer.transport.resume_reading()
        received.extend([(await peer.receive()).values[0].fragment for _ in range(40)])
        await peer.receive()
        peer.send(ReleaseRP())

    filled = asyncio.Event()
    async with raw_server(script) as port, asyncdicom.connect("127.0.0.1", port) as association:
        slab = bytearray(500_000)
        for number in range(40):
            slab[:] = bytes([number]) * len(slab)
            buffers = [pdv(1, 1, b"")[:12], memoryview(slab)]
            buffers[0] = b"\4\0" + (len(slab) + 6).to_bytes(4, "big") + (len(slab) + 2).to_bytes(4, "big") + b"\1\1"
            writing = asyncio.ensure_future(association._connection.write_and_drain(buffers, 10))
            await asyncio.sleep(0)
            if not writing.done():
                filled.set()
            await writing
        filled.set()
    assert [set(fragment) for fragment in received] == [{number} for number in range(40)]


async def test_writing_to_a_closed_connection_is_an_error():
    async with raw_server(echo_once) as port:
        association = await asyncdicom.connect("127.0.0.1", port, timeouts=asyncdicom.Timeouts(acse=0.5))
        await association.abort()
        with pytest.raises(AssociationLost):
            await association._connection.write_and_drain([b"ab"], 1)


async def test_a_timer_that_is_asked_for_later_does_not_postpone_an_earlier_one():
    async with raw_server(echo_once) as port, asyncdicom.connect("127.0.0.1", port) as association:
        connection = association._connection
        now = connection.now()
        connection.wake_at(now + 5)
        connection.wake_at(now + 50)
        assert connection._timer.when() == pytest.approx(now + 5, abs=1.5)
        connection.wake_at(now + 1)
        connection.wake_at(float("inf"))
        assert connection._timer.when() == pytest.approx(now + 1, abs=1.5)
        await association.c_echo()


async def test_reading_goes_on_when_every_reason_to_pause_is_gone():
    async with raw_server(echo_once) as port, asyncdicom.connect("127.0.0.1", port) as association:
        connection = association._connection
        connection.pause_reading("one")
        connection.pause_reading("two")
        connection.resume_reading("one")
        assert connection.is_reading_paused
        connection.resume_reading("two")
        connection.resume_reading("never paused")
        assert not connection.is_reading_paused
        assert await association.c_echo() == asyncdicom.Status.SUCCESS


async def test_an_abort_gets_out_and_the_connection_is_closed_although_the_peer_does_not():
    seen = []

    async def script(peer):
        await accept(peer)
        seen.extend(await peer.receive_all())

    async with raw_server(script) as port:
        association = await asyncdicom.connect("127.0.0.1", port, timeouts=asyncdicom.Timeouts(acse=0.5))
        await association.abort()
        async with asyncio.timeout(DEADLINE):
            while not seen:
                await asyncio.sleep(0)
    assert seen == [Abort(0, 0)]
