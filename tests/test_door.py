"""The way in over TLS and behind a load balancer: what comes first, how much of it at a time, and what is left."""

import asyncio
import contextlib
import math
import os
import socket
import ssl
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from raw_peer import DEADLINE, raw_client, request

import asyncdicom
from asyncdicom import Status, Timeouts, door
from asyncdicom.pdu import Abort, AssociateAC
from asyncdicom.tls import client_context, server_context

LINE = b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 104\r\n"
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"


def serving(**options):
    return asyncdicom.serve("127.0.0.1", 0, **options)


async def settle(condition):
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.001)


async def echo(server, context=None, **options):
    tls = {"ssl": context, "server_hostname": "localhost"} if context else {}
    async with asyncdicom.connect("127.0.0.1", server.port, **tls, **options) as association:
        assert await association.c_echo() == Status.SUCCESS


def client_hello(context):
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


@contextlib.asynccontextmanager
async def stalled(server, count, data):
    """So many connections that send this, and nothing more."""
    async with contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(raw_client(server.port)) for _ in range(count)]
        for peer in peers:
            peer.send(data)
        yield peers


# The first byte


@pytest.mark.parametrize(
    ("sent", "words"),
    [(b"GET / HTTP/1.1\r\n\r\n", "an HTTP request"), (b"\x16\3\1\2\0" + bytes(512), "a TLS handshake")],
    ids=["HTTP", "TLS"],
)
async def test_what_is_not_dicom_on_a_plain_port_is_named_and_closed_at_once(sent, words, caplog):
    async with serving(timeouts=asyncdicom.Timeouts(acse=10 * DEADLINE)) as server, raw_client(server.port) as peer:
        peer.send(sent)
        assert await peer.receive_all() in ([Abort(0, 0)], [])  # AA-1; a reset may overtake it
        assert words in caplog.text


@pytest.mark.parametrize(
    ("sent", "answer", "words"),
    [
        (request().encode(), [Abort(2, 0)], "this looks like an association request without TLS"),
        (b"GET / HTTP/1.1\r\n\r\n", [], "this looks like an HTTP request"),
        (LINE, [], "this looks like a PROXY protocol header"),
        (b"\0\0\0\0", [], "this looks like neither DICOM nor TLS nor HTTP, it begins with 00 00 00 00H"),
    ],
    ids=["DICOM", "HTTP", "PROXY", "anything"],
)
async def test_what_is_not_tls_on_a_tls_port_is_named_and_closed_at_once(sent, answer, words, tls_contexts, caplog):
    async with serving(ssl=tls_contexts[0]) as server, raw_client(server.port) as peer:
        peer.send(sent)
        assert await peer.receive_all() == answer
        assert words in caplog.text
        assert not server._pending


async def test_who_only_looks_whether_anybody_listens_is_not_worth_a_line(tls_contexts, caplog):
    async with serving(ssl=tls_contexts[0]) as server:
        async with raw_client(server.port):
            await settle(lambda: server._pending)
        await settle(lambda: not server._pending)
    assert caplog.text == ""


async def test_a_handshake_that_fails_is_named_and_the_peer_gets_its_alert(certificates, caplog):
    context = server_context(*certificates.server)
    async with serving(ssl=context) as server, raw_client(server.port) as peer:
        peer.send(b"\x16\3\1\0\5\1\0\0\1\0")
        async with asyncio.timeout(DEADLINE):
            assert await peer.reader.read() == b"\x15\3\3\0\2\2\x32"  # fatal, decode_error (RFC 8446 6)
        await settle(lambda: not server._pending)
        assert "closing the connection from 127.0.0.1: no TLS connection: TLS failed: length too short" in caplog.text


# What it bears


@pytest.mark.parametrize("sent", ["nothing", "half a record", "a hello", "a handshake"])
async def test_one_deadline_holds_from_accepting_to_the_request(sent, tls_contexts):
    hello = client_hello(tls_contexts[1])
    async with serving(ssl=tls_contexts[0], timeouts=Timeouts(acse=0.2)) as server:
        if sent == "a handshake":
            opened = asyncio.open_connection("127.0.0.1", server.port, ssl=tls_contexts[1], server_hostname="localhost")
        else:
            opened = asyncio.open_connection("127.0.0.1", server.port)
        reader, writer = await opened
        began = asyncio.get_running_loop().time()
        writer.write({"half a record": hello[:20], "a hello": hello}.get(sent, b""))
        async with asyncio.timeout(DEADLINE):
            with contextlib.suppress(ConnectionError):
                await reader.read()
        assert asyncio.get_running_loop().time() - began < 5.0
        await settle(lambda: not server._pending)
        writer.close()


async def test_a_handshake_that_has_begun_has_a_deadline_of_its_own(tls_contexts, caplog):
    timeouts = Timeouts(acse=math.inf, tls=0.2)
    async with serving(ssl=tls_contexts[0], timeouts=timeouts) as server:
        async with raw_client(server.port) as silent, raw_client(server.port) as stalls:
            stalls.send(client_hello(tls_contexts[1])[:-1])
            async with asyncio.timeout(DEADLINE):
                assert await stalls.reader.read() == b""
            await settle(lambda: len(server._pending) == 1)
            silent.send(client_hello(tls_contexts[1]))
            async with asyncio.timeout(DEADLINE):
                assert await silent.reader.read(1) == b"\x16"
    assert "no TLS connection: SSL handshake is taking longer than 0.2 seconds" in caplog.text


async def test_there_may_be_no_deadline(tls_contexts):
    async with serving(ssl=tls_contexts[0], timeouts=Timeouts(acse=math.inf)) as server:
        await echo(server, tls_contexts[1])


@pytest.mark.parametrize("kind", ["silent", "in a handshake"])
async def test_stalled_connections_do_not_delay_a_good_one(kind, tls_contexts):
    hello = client_hello(tls_contexts[1]) if kind == "in a handshake" else b""
    async with serving(ssl=tls_contexts[0]) as server, stalled(server, 150, hello):
        await settle(lambda: len(server._pending) == 150)
        await echo(server, tls_contexts[1])


ATTACK = """
import socket, sys
opened = []
for first in (sys.argv[2], ""):
    for _ in range(1000):
        opened.append(socket.create_connection(("127.0.0.1", int(sys.argv[1])), source_address=("127.0.0.2", 0)))
        opened[-1].sendall(bytes.fromhex(first))
print("done", flush=True)
sys.stdin.read()
"""


@pytest.mark.alone
@pytest.mark.skipif(sys.platform != "linux", reason="loopback has one address")
async def test_a_thousand_handshakes_that_stall_and_a_thousand_silent_ones_delay_nobody(certificates, caplog):
    caplog.set_level("ERROR", "asyncdicom")
    context = client_context(trusted=certificates.ca.file)
    loop, times = asyncio.get_running_loop(), []
    async with serving(ssl=server_context(*certificates.rsa)) as server:
        hello = client_hello(context).hex()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ATTACK, str(server.port), hello, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        attacking = asyncio.ensure_future(process.stdout.readline())
        try:
            while not attacking.done() or len(times) < 50:
                began = loop.time()
                await echo(server, context)
                times.append(loop.time() - began)
            assert len(server._pending) <= 1000
        finally:
            process.stdin.close()
            await process.wait()
            await attacking
        await settle(lambda: not server._pending)
    assert statistics.median(times) < 0.2
    assert max(times) < 1.0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how many may wait")
@pytest.mark.parametrize("is_tls", [False, True])
async def test_as_many_may_wait_to_be_accepted_as_the_system_allows(is_tls, tls_contexts):
    most = min(4096, int(Path("/proc/sys/net/core/somaxconn").read_text()))
    async with serving(ssl=tls_contexts[0] if is_tls else None) as server:
        for listener in server._listener.sockets:
            information = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
            assert int.from_bytes(information[28:32], sys.byteorder) == most  # tcpi_sacked, of a listener its backlog


async def test_silent_connections_over_tls_cost_no_task_and_the_oldest_goes_for_the_newest(tls_contexts, monkeypatch):
    monkeypatch.setattr("asyncdicom.server._MAX_PENDING", 30)
    async with serving(ssl=tls_contexts[0]) as server:
        before = len(asyncio.all_tasks())
        async with stalled(server, 31, b"") as peers:
            assert await peers[0].receive() is None
            assert server.statistics.turned_away == 1
            assert len(asyncio.all_tasks()) == before
            await echo(server, tls_contexts[1])


async def test_silent_connections_do_not_push_out_those_that_have_begun(tls_contexts, monkeypatch):
    monkeypatch.setattr("asyncdicom.server._MAX_PENDING", 4)
    async with serving(ssl=tls_contexts[0]) as server, stalled(server, 1, client_hello(tls_contexts[1])):
        await settle(lambda: server._door.tasks)
        async with stalled(server, 5, b"") as peers:
            assert await peers[0].receive() is None
            assert await peers[1].receive() is None
            assert server._door.tasks


async def test_the_oldest_handshake_goes_for_the_newest(tls_contexts, monkeypatch):
    monkeypatch.setattr(door, "_MAX_HANDSHAKES", 3)
    async with serving(ssl=tls_contexts[0]) as server:
        async with stalled(server, 20, client_hello(tls_contexts[1])):
            await settle(lambda: len(server._pending) == 3)
            await echo(server, tls_contexts[1])
            assert len(server._pending) == 2
        await settle(lambda: not server._door.tasks)


async def test_memory_is_given_back_after_many_handshakes(tls_contexts, monkeypatch):
    given = []
    monkeypatch.setattr(door, "_MANY_HANDSHAKES", 2)
    monkeypatch.setattr(door, "_SETTLE_TIME", 0.0)
    monkeypatch.setattr(door, "_give_memory_back", lambda: given.append(True))
    async with serving(ssl=tls_contexts[0]) as server:
        await echo(server, tls_contexts[1])
        async with stalled(server, 2, client_hello(tls_contexts[1])):
            await settle(lambda: len(server._door.tasks) == 2)
            assert not given
        await settle(lambda: given)
    assert given == [True]


async def test_handshakes_of_one_address_do_not_push_out_another_s(tls_contexts, monkeypatch):
    monkeypatch.setattr(door, "_MAX_HANDSHAKES", 3)
    hello = client_hello(tls_contexts[1])[:100]
    async with serving(ssl=tls_contexts[0]) as server:
        _, slow = await asyncio.open_connection("127.0.0.1", server.port, local_addr=("127.0.0.2", 0))
        slow.write(hello)
        await settle(lambda: server._door.tasks)
        (good,) = server._door._begun
        async with stalled(server, 6, hello):
            await settle(lambda: len(server._pending) == 3 and len(server._door.tasks) == 3)
            assert good in server._door._begun
        slow.transport.abort()


async def test_a_burst_of_handshakes_begins_a_few_at_a_time_the_newest_first(tls_contexts, monkeypatch):
    begun = []
    connect = door.Door._connect

    async def note(self, visitor):
        begun.append(visitor)
        await connect(self, visitor)

    monkeypatch.setattr(door.Door, "_connect", note)
    async with serving(ssl=tls_contexts[0]) as server:
        visitors = [door.Visitor(server._door, socket.socket(), "", is_proxy=False) for _ in range(10)]
        for visitor in visitors:
            server._door.let_in(visitor)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert begun == visitors[:-5:-1]
        await settle(lambda: len(begun) == 10 and not server._door.tasks)


async def test_each_address_has_its_turn(tls_contexts):
    async with serving(ssl=tls_contexts[0]) as server:
        visitors = [door.Visitor(server._door, socket.socket(), each, is_proxy=False) for each in "aaaaaab"]
        for visitor in (visitors[-1], *visitors[:-1]):
            server._door.let_in(visitor)
        await asyncio.sleep(0)
        assert visitors[-1] in server._door._begun
        for visitor in visitors:
            visitor.end()
        assert not server._door._waiting
        await settle(lambda: not server._door.tasks)


async def test_closing_ends_what_is_on_its_way_in_at_once(tls_contexts):
    hello = client_hello(tls_contexts[1])
    server = await serving(ssl=tls_contexts[0])
    async with stalled(server, 3, b"") as silent, stalled(server, 3, hello) as shaking:
        await settle(lambda: len(server._door.tasks) == 3)
        async with asyncio.timeout(5.0):
            await server.close()
        assert not server._pending
        assert not server._door.tasks
        for peer in silent:
            assert await peer.receive() is None
        for peer in shaking:
            async with asyncio.timeout(DEADLINE):
                with contextlib.suppress(ConnectionError):
                    await peer.reader.read()


async def test_connections_over_tls_leave_nothing_however_they_end(tls_contexts):
    hello = client_hello(tls_contexts[1])
    async with serving(ssl=tls_contexts[0]) as server:
        await echo(server, tls_contexts[1])
        before = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())
        for number in range(60):
            async with raw_client(server.port) as peer:
                peer.send((b"", hello[:9], hello, b"\x16\3\1\0\1\0")[number % 4])
                if number % 3:
                    await asyncio.sleep(0)
                    peer.reset()
        await settle(lambda: not server._pending and not server._door.tasks)
        await settle(lambda: (len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())) == before)


# Behind a proxy


@pytest.mark.parametrize("cut", [None, 1, 5, 20, 30])
@pytest.mark.parametrize("header", [LINE, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\xc0\0\2\7\xc0\0\2\1\1\0\0\x68\4\0\0"])
async def test_the_peer_is_whom_the_proxy_names(header, cut):
    async with serving(proxies="127.0.0.0/8") as server, raw_client(server.port) as peer:
        data = header + request().encode()
        if cut is not None:
            peer.send(data[:cut])
            await peer.writer.drain()
            await settle(lambda: server._pending and all(each._header for each in server._pending))
        peer.send(data[cut or 0 :])
        assert isinstance(await peer.receive(), AssociateAC)
        (association,) = server.associations
        assert (association.peer_address, association.proxy_address) == ("192.0.2.7", "127.0.0.1")
        assert "192.0.2.7 by 127.0.0.1" in repr(association)
        peer.reset()


async def test_a_proxy_that_names_no_client_is_the_peer_itself():
    async with serving(proxies=["127.0.0.1"]) as server, raw_client(server.port) as peer:
        peer.send(LOCAL + request().encode())
        assert isinstance(await peer.receive(), AssociateAC)
        (association,) = server.associations
        assert (association.peer_address, association.proxy_address) == ("127.0.0.1", "")
        peer.reset()


async def test_tls_comes_after_the_header(tls_contexts):
    loop = asyncio.get_running_loop()
    async with serving(proxies="127.0.0.1", ssl=tls_contexts[0]) as server:
        sock = socket.create_connection(("127.0.0.1", server.port))
        sock.sendall(LINE)
        sock.setblocking(False)
        reader = asyncio.StreamReader()
        transport, _ = await loop.create_connection(
            lambda: asyncio.StreamReaderProtocol(reader), sock=sock, ssl=tls_contexts[1], server_hostname="localhost"
        )
        transport.write(request().encode())
        async with asyncio.timeout(DEADLINE):
            assert (await reader.readexactly(1)) == b"\2"
        assert server.associations[0].peer_address == "192.0.2.7"
        transport.abort()
        await settle(lambda: not server.associations)


@pytest.mark.parametrize(
    ("proxies", "sent", "words"),
    [
        (
            "127.0.0.1",
            request().encode(),
            "a PROXY protocol header was expected, this looks like an association request",
        ),
        ("127.0.0.1", LOCAL[:12] + b"\x30\0\0\0", "version and command 30H"),
        ("192.0.2.0/24", LINE, "a PROXY protocol header from an address that is not among proxies"),
    ],
)
async def test_only_proxies_send_a_header_and_they_have_to(proxies, sent, words, caplog):
    async with serving(proxies=proxies) as server, raw_client(server.port) as peer:
        peer.send(sent)
        assert await peer.receive() is None
        assert words in caplog.text


async def test_who_is_no_proxy_connects_as_ever():
    async with serving(proxies="192.0.2.0/24") as server:
        await echo(server)


async def test_half_a_header_ends_with_artim():
    async with serving(proxies="127.0.0.1", timeouts=Timeouts(acse=0.1)) as server, raw_client(server.port) as peer:
        peer.send(LINE[:10])
        assert await peer.receive() is None
        assert not server._pending


def test_a_network_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/33"):
        serving(proxies="10.0.0.0/33")


# Listening


async def test_without_descriptors_connections_wait_and_are_accepted_later(tls_contexts, monkeypatch, caplog):
    monkeypatch.setattr(door, "_ACCEPT_PAUSE", 0.01)
    failures = [OSError(24, "Too many open files")] * 2

    class Listener(socket.socket):
        def accept(self):
            if failures:
                raise failures.pop()
            return super().accept()

    async with serving(ssl=tls_contexts[0]) as server:
        acceptor = server._listener
        acceptor.pause()
        acceptor.sockets = [Listener(fileno=each.detach()) for each in acceptor.sockets]
        acceptor.start()
        await echo(server, tls_contexts[1])
    assert caplog.text.count("no connection can be accepted for 0.01 s: [Errno 24] Too many open files") == 2


def test_tls_works_on_an_event_loop_that_cannot_watch_sockets_but_proxies_and_reloading_do_not(tls_contexts):
    class Loop(asyncio.SelectorEventLoop):
        add_reader = asyncio.AbstractEventLoop.add_reader  # as of Windows's ProactorEventLoop

    async def main():
        async with serving(ssl=tls_contexts[0]) as server:
            await echo(server, tls_contexts[1])
            with pytest.raises(NotImplementedError, match="SelectorEventLoop"):
                server.reload_tls()
        with pytest.raises(NotImplementedError, match="SelectorEventLoop"):
            await serving(proxies="127.0.0.1")

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())


async def test_it_listens_on_every_address_that_it_is_given(tls_contexts):
    async with asyncdicom.serve(["127.0.0.1", "::1"], 0, ssl=tls_contexts[0]) as server:
        assert sorted(host for host, _ in server.addresses) == ["127.0.0.1", "::1"]
    assert server.addresses == []
