"""HAProxy before our server: the PROXY protocol as it sends it, versions 1 and 2, with TLS behind it and without."""

import asyncio
import contextlib

import pytest
from peers import DEADLINE, free_ports, listens, run

import asyncdicom
from conftest import require

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


@pytest.fixture(scope="session", autouse=True)
def haproxy():
    """HAProxy is there."""
    require("haproxy", "HAProxy", "ASYNCDICOM_REQUIRE_HAPROXY")


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
async def test_tls_goes_through_haproxy_to_our_server(how, tmp_path, dcmtk, tls_files, tls_contexts):
    async with behind_haproxy(how, tmp_path, ssl=tls_contexts[0]) as (port, peers):
        options = {"ssl": tls_contexts[1], "server_hostname": "localhost", "local_address": ("127.0.0.3", 0)}
        async with asyncdicom.connect("127.0.0.1", port, **options) as association:
            assert await association.c_echo() == asyncdicom.Status.SUCCESS
        code, output = await run("echoscu", "-v", "+tla", "+cf", tls_files[0], "127.0.0.1", port)
        assert code == 0, output
        assert peers == [("127.0.0.3", "127.0.0.2"), ("127.0.0.1", "127.0.0.2")]


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("how", ["send-proxy", "send-proxy-v2"])
async def test_checks_of_health_are_quiet_and_find_the_server_well(how, tls, tmp_path, tls_contexts, caplog):
    context = tls_contexts[0] if tls else None
    how = f"{how} check check-send-proxy inter 20ms"
    async with behind_haproxy(how, tmp_path, ssl=context) as (port, peers):
        await asyncio.sleep(0.2)
        options = {"ssl": tls_contexts[1], "server_hostname": "localhost"} if tls else {}
        async with asyncdicom.connect("127.0.0.1", port, **options) as association:
            assert await association.c_echo() == asyncdicom.Status.SUCCESS
        assert peers == [("127.0.0.1", "127.0.0.2")]
    assert [record.message for record in caplog.records if record.name == "asyncdicom"] == []


async def test_without_a_header_haproxy_is_not_let_in(tmp_path, caplog):
    async with behind_haproxy("", tmp_path) as (port, _):
        with pytest.raises(asyncdicom.AssociationLost):
            await asyncdicom.connect("127.0.0.1", port)
    assert "closing the connection from 127.0.0.2: a PROXY protocol header was expected" in caplog.text
