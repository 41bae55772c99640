"""HAProxy before our server: the PROXY protocol as it sends it, versions 1 and 2, with TLS behind it and without."""

import asyncio
import contextlib

import pytest
from certificates import DAY, Authority
from peers import DEADLINE, free_ports, listens, run

import asyncdicom
from asyncdicom.door import Door
from asyncdicom.tls import client_context, server_context

pytestmark = pytest.mark.usefixtures("haproxy")

CONFIGURATION = """\
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen dicom
    bind 127.0.0.1:{port}
    server ours 127.0.0.1:{behind} source 127.0.0.2 {how}
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A CA."""
    return Authority(tmp_path_factory.mktemp("haproxy"))


@pytest.fixture(scope="module")
def tls(authority):
    """TLS contexts for a server and its clients."""
    server = server_context(*authority.issue("server", valid=(-DAY, 60 * DAY)))
    return server, client_context(trusted=authority.file)


@contextlib.asynccontextmanager
async def proxied(server, how, folder):
    """The port of a HAProxy that connects to the server from 127.0.0.2."""
    (port,) = free_ports(1)
    file = folder / "haproxy.cfg"
    file.write_text(CONFIGURATION.format(port=port, behind=server.port, how=how))
    process = await asyncio.create_subprocess_exec("haproxy", "-q", "-db", "-f", file)
    try:
        async with asyncio.timeout(DEADLINE):
            while not listens(port):
                assert process.returncode is None
                await asyncio.sleep(0.01)
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


@contextlib.asynccontextmanager
async def behind_haproxy(how, folder, **options):
    """The port of a HAProxy before our server, and who the server's peers were."""
    peers = []

    async def note(identity, association):
        peers.append((association.peer_address, association.proxy_address))
        return True

    async with (
        asyncdicom.serve("127.0.0.1", 0, user_identity=note, proxies="127.0.0.2", **options) as server,
        proxied(server, how, folder) as port,
    ):
        yield port, peers


@pytest.mark.parametrize("how", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"])
async def test_the_peer_is_the_client_and_not_haproxy(how, tmp_path):
    async with behind_haproxy(how, tmp_path) as (port, peers):
        options = {"local_address": ("127.0.0.3", 0)}
        async with asyncdicom.connect("127.0.0.1", port, **options) as association:
            assert await association.c_echo() == asyncdicom.Status.SUCCESS
        assert peers == [("127.0.0.3", "127.0.0.2")]


@pytest.mark.parametrize("how", ["send-proxy", "send-proxy-v2"])
async def test_echoscu_gets_an_answer_through_haproxy(how, tmp_path, dcmtk):
    async with behind_haproxy(how, tmp_path) as (port, peers):
        code, output = await run("echoscu", "-v", "127.0.0.1", port)
        assert code == 0, output
        assert peers == [("127.0.0.1", "127.0.0.2")]


@pytest.mark.parametrize("how", ["send-proxy", "send-proxy-v2"])
async def test_tls_goes_through_haproxy_to_our_server(how, tmp_path, dcmtk, authority, tls):
    async with behind_haproxy(how, tmp_path, ssl=tls[0]) as (port, peers):
        options = {"ssl": tls[1], "local_address": ("127.0.0.3", 0)}
        async with asyncdicom.connect("127.0.0.1", port, **options) as association:
            assert await association.c_echo() == asyncdicom.Status.SUCCESS
        code, output = await run("echoscu", "-v", "+tla", "+cf", authority.file, "127.0.0.1", port)
        assert code == 0, output
        assert peers == [("127.0.0.3", "127.0.0.2"), ("127.0.0.1", "127.0.0.2")]


@pytest.mark.parametrize(("how", "over"), [("send-proxy", "plain"), ("send-proxy-v2", "TLS")])
async def test_checks_of_health_are_quiet_and_find_the_server_well(how, over, tmp_path, tls, caplog):
    server_side, client_side = tls if over == "TLS" else (None, None)
    checks = []  # most are reset before anybody can look at them
    admit = Door.admit
    async with contextlib.AsyncExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(Door, "admit", lambda door, connection: (checks.append(connection), admit(door, connection)))
        serving = asyncdicom.serve("127.0.0.1", 0, proxies="127.0.0.2", ssl=server_side)
        server = await stack.enter_async_context(serving)
        async with proxied(server, f"{how} check check-send-proxy inter 20ms", tmp_path) as port:
            async with asyncio.timeout(DEADLINE):
                while len(checks) < 5:
                    await asyncio.sleep(0.01)
            async with asyncdicom.connect("127.0.0.1", port, ssl=client_side) as association:
                assert await association.c_echo() == asyncdicom.Status.SUCCESS
    assert [record.message for record in caplog.records if record.name == "asyncdicom"] == []


async def test_without_a_header_haproxy_is_not_let_in(tmp_path, caplog):
    async with behind_haproxy("", tmp_path) as (port, _):
        with pytest.raises(asyncdicom.AssociationLost):
            await asyncdicom.connect("127.0.0.1", port)
    assert "closing the connection from 127.0.0.2: a PROXY protocol header was expected" in caplog.text
