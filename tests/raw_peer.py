"""A peer that does exactly what a test says, byte by byte: the other end of a socket, in either role."""

import asyncio
import contextlib
import struct

from asyncdicom.command import Command, CommandField
from asyncdicom.dimse import encode_command
from asyncdicom.pdu import AssociateAC, AssociateRQ, PDataTF, UserInformation, decode_pdu
from asyncdicom.presentation import Context, ContextResult, propose_contexts
from asyncdicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, VERIFICATION

CT = "1.2.840.10008.5.1.4.1.1.2"
DEADLINE = 10.0
"""Seconds after which a test has hung."""


class RawPeer:
    """One connection, as streams."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    def send(self, *pdus):
        self.writer.write(b"".join(pdu if isinstance(pdu, bytes) else pdu.encode() for pdu in pdus))

    async def receive(self):
        """The next PDU; None when the connection has ended, in whatever way."""
        try:
            async with asyncio.timeout(DEADLINE):
                head = await self.reader.readexactly(6)
                return decode_pdu(head[0], await self.reader.readexactly(struct.unpack(">xxI", head)[0]))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def receive_command(self):
        """The command set of the next P-DATA-TF."""
        pdu = await self.receive()
        assert isinstance(pdu, PDataTF), pdu
        return Command.decode(pdu.values[0].fragment)

    async def receive_all(self):
        """Every PDU until the connection ends."""
        pdus = []
        while (pdu := await self.receive()) is not None:
            pdus.append(pdu)
        return pdus

    async def associate(self, *contexts, **information):
        """Ask for an association; contexts get the IDs 1, 3, 5 ..."""
        self.send(request(*contexts, **information))
        answer = await self.receive()
        assert isinstance(answer, AssociateAC), answer
        return answer

    async def close(self):
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    def reset(self):
        """End with a TCP reset."""
        self.writer.transport.abort()


def request(*contexts, called="OURS", calling="RAW", **more):
    offered = [Context(each) if isinstance(each, str) else each for each in contexts or (VERIFICATION, CT)]
    information = UserInformation(**{"maximum_length": 16384} | more)
    return AssociateRQ(called, calling, propose_contexts(offered), information)


@contextlib.asynccontextmanager
async def raw_client(port, **options):
    """A raw requestor, connected to a server of ours."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
    peer = RawPeer(reader, writer)
    try:
        yield peer
    finally:
        await peer.close()


@contextlib.asynccontextmanager
async def raw_server(script):
    """A raw acceptor that runs ``script(peer)`` for each connection; gives its port."""
    tasks = []
    failures = []

    async def run(reader, writer):
        peer = RawPeer(reader, writer)
        tasks.append(asyncio.current_task())
        try:
            await script(peer)
        except Exception as error:  # noqa: BLE001 - raised where the test sees it
            failures.append(error)
        finally:
            await peer.close()

    server = await asyncio.start_server(run, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            if not task.done():
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for failure in failures:
            raise failure


async def accept(peer, **information):
    """Accept whatever is asked, with the first transfer syntax of each context."""
    asked = await peer.receive()
    assert isinstance(asked, AssociateRQ), asked
    results = tuple(ContextResult(each.id, 0, each.transfer_syntaxes[0]) for each in asked.presentation_contexts)
    peer.send(AssociateAC(results, UserInformation(**{"maximum_length": 16384} | information)))
    return asked


def echo_request(message_id=1, context_id=1):
    command = Command(CommandField.C_ECHO_RQ, affected_sop_class_uid=VERIFICATION, message_id=message_id)
    return encode_command(context_id, command, 16378)


def store_request(message_id=1, context_id=3, sop_class=CT, sop_instance="1.2.3.4", size=16378, **more):
    command = Command(
        CommandField.C_STORE_RQ,
        has_data_set=True,
        affected_sop_class_uid=sop_class,
        message_id=message_id,
        priority=0,
        affected_sop_instance_uid=sop_instance,
        **more,
    )
    return encode_command(context_id, command, size)


def response(field, message_id, status=0, context_id=1, **more):
    command = Command(field, message_id_being_responded_to=message_id, status=status, **more)
    return encode_command(context_id, command, 16378)


def pdv(context_id, control, data):
    """One P-DATA-TF with one PDV."""
    return struct.pack(">BxIIBB", 4, len(data) + 6, len(data) + 2, context_id, control) + data


def data_set(size=1000, instance="1.2.3.4"):
    """A small data set in Explicit VR Little Endian, of exactly ``size`` bytes."""
    uid = instance.encode()
    head = element(0x0008, 0x0016, b"UI", CT.encode() + b"\0")
    head += element(0x0008, 0x0018, b"UI", uid + b"\0" * (len(uid) % 2))
    head += element(0x0020, 0x000D, b"UI", b"1.2.3\0") + element(0x0020, 0x000E, b"UI", b"1.2.3.1\0")
    return head + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, size - len(head) - 12) + bytes(size - len(head) - 12)


def element(group, number, vr, value):
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


SYNTAX = EXPLICIT_VR_LITTLE_ENDIAN
