"""A server whose files change while it runs."""

import asyncio
import datetime as dt
import os
import shutil

import pytest
from raw_peer import DEADLINE, raw_client, request

import asyncdicom
from asyncdicom import Status
from asyncdicom.pdu import AssociateRJ
from asyncdicom.tls import client_context, server_context


@pytest.fixture
def pair(certificates, tmp_path):
    """A certificate and its key, in files that may be written."""
    return [shutil.copy(each, tmp_path) for each in certificates.server]


@pytest.fixture
def client(certificates):
    return client_context(trusted=certificates.ca.file)


def serving(**options):
    return asyncdicom.serve("127.0.0.1", 0, **options)


def renew(pair, new):
    """As certificate managers do: whole files take the places of others."""
    for old, source in zip(pair, new, strict=True):
        shutil.copy(source, f"{old}.new")
        os.replace(f"{old}.new", old)


async def shown(server, client):
    async with asyncdicom.connect("127.0.0.1", server.port, ssl=client) as association:
        return association.peer_certificate.common_name


async def until_shown(server, client, name):
    async with asyncio.timeout(DEADLINE):
        while await shown(server, client) != name:
            await asyncio.sleep(0.005)


async def test_new_connections_get_the_new_certificate_and_running_ones_go_on(certificates, pair, client):
    async with serving(ssl=server_context(*pair)) as server:
        async with asyncdicom.connect("127.0.0.1", server.port, ssl=client) as association:
            renew(pair, certificates.rsa)
            assert await shown(server, client) == "server"
            server.reload_tls()
            assert await shown(server, client) == "rsa"
            assert await association.c_echo() == Status.SUCCESS
            assert association.peer_certificate.common_name == "server"


async def test_a_context_that_cannot_be_made_leaves_the_old_one(certificates, pair, client):
    async with serving(ssl=server_context(*pair)) as server:
        shutil.copy(certificates.stranger.key, pair[1])
        for reload in (server.reload_tls, server.reload):
            with pytest.raises(asyncdicom.TLSConfigurationError, match="is not the one of the certificate"):
                reload()
            assert await shown(server, client) == "server"


async def test_a_function_is_called_again(certificates, client):
    made = iter([server_context(*certificates.server), server_context(*certificates.rsa)])
    async with serving(ssl=made.__next__) as server:
        server.reload()
        assert await shown(server, client) == "rsa"
        with pytest.raises(StopIteration):
            server.reload()
        assert await shown(server, client) == "rsa"


async def test_a_function_that_makes_no_context_never_makes_a_server_without_tls(certificates, client):
    contexts = [server_context(*certificates.server), None]
    async with serving(ssl=lambda: contexts.pop(0)) as server:
        with pytest.raises(TypeError, match="ssl: the function returned None"):
            server.reload_tls()
        assert await shown(server, client) == "server"
    with pytest.raises(TypeError, match="ssl: the function returned None"):
        await serving(ssl=lambda: None)


async def test_what_cannot_be_looked_at_does_not_end_the_looking(tmp_path):
    class Gone(type(tmp_path)):
        def iterdir(self):
            raise PermissionError("a folder that is being replaced")

    class Check:
        def __init__(self, number):
            self.number = number
            self.files = (Gone(tmp_path), tmp_path / "users")

        def remade(self):
            return Check(self.number + 1)

        async def __call__(self, identity, association):
            return True

    async with serving(user_identity=Check(0), reload_interval=0.01) as server:
        (tmp_path / "users").touch()
        async with asyncio.timeout(DEADLINE):
            while not server._check_identity.number:
                await asyncio.sleep(0.005)


async def test_what_was_read_again_when_asked_for_is_not_read_again_once_more(tmp_path):
    file = tmp_path / "users"
    file.write_text("a")
    counts = {"looked": 0, "made": 0}

    class Check:
        @property
        def files(self):
            counts["looked"] += 1
            return (file,)

        def remade(self):
            counts["made"] += 1
            return Check()

    async with serving(user_identity=Check(), reload_interval=0.01) as server:
        file.write_text("longer")
        server.reload()
        looked = counts["looked"]
        async with asyncio.timeout(DEADLINE):
            while counts["looked"] < looked + 4:
                await asyncio.sleep(0.001)
    assert counts["made"] == 1


async def test_a_plain_context_stays_and_so_does_no_context(tls_contexts):
    for context in (tls_contexts[0], None):
        async with serving(ssl=context) as server:
            server.reload()
            server.reload_tls()
            assert server._ssl is context
            assert server.certificate_not_after is None
            assert server._reloading is None


async def test_files_that_change_are_read_again(certificates, pair, client):
    async with serving(ssl=server_context(*pair), reload_interval=0.01) as server:
        renew(pair, certificates.rsa)
        await until_shown(server, client, "rsa")


async def test_a_certificate_that_comes_before_its_key_waits_for_it(certificates, pair, client, caplog):
    async with serving(ssl=server_context(*pair), reload_interval=0.01) as server:
        renew(pair[:1], certificates.rsa[:1])
        async with asyncio.timeout(DEADLINE):
            while "the TLS context cannot be read again, and stays as it is: " not in caplog.text:
                await asyncio.sleep(0.005)
        assert await shown(server, client) == "server"
        renew(pair[1:], certificates.rsa[1:])
        await until_shown(server, client, "rsa")


async def test_a_folder_changes_with_its_files(certificates, client, tmp_path):
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    shutil.copy(certificates.other_ca.file, trusted)
    context = server_context(*certificates.server, trusted=trusted, client_certificate="required")
    mine = client_context(
        trusted=certificates.ca.file, certificate=certificates.client.certificate, key=certificates.client.key
    )
    async with serving(ssl=context, reload_interval=0.01) as server:
        with pytest.raises(asyncdicom.NoConnection, match="does not trust"):
            await shown(server, mine)
        shutil.copy(certificates.ca.file, trusted)
        async with asyncio.timeout(DEADLINE):
            while True:
                try:
                    assert await shown(server, mine) == "server"
                    break
                except asyncdicom.NoConnection:
                    await asyncio.sleep(0.005)


async def test_who_is_let_in_is_read_again_too(tmp_path):
    class Passwords:
        def __init__(self):
            self.files = (tmp_path / "users",)
            self.allowed = self.files[0].read_text() == "all"

        def remade(self):
            return Passwords()

        async def __call__(self, identity, association):
            return self.allowed

    (tmp_path / "users").write_text("all")
    async with serving(user_identity=Passwords(), reload_interval=0.01) as server:
        async with asyncdicom.connect("127.0.0.1", server.port) as association:
            (tmp_path / "users").write_text("nobody")
            async with asyncio.timeout(DEADLINE):
                while server._check_identity.allowed:
                    await asyncio.sleep(0.005)
            assert await association.c_echo() == Status.SUCCESS
        async with raw_client(server.port) as peer:
            peer.send(request())
            assert await peer.receive() == AssociateRJ(1, 2, 1)


@pytest.mark.parametrize(
    ("days", "words"),
    [(29, "the server's certificate expires in 28 days"), (-1, "the server's certificate has expired"), (31, "")],
)
async def test_the_end_of_the_certificate_is_announced(days, words, certificates, caplog):
    day = dt.timedelta(days=1)
    pair = certificates.ca.issue(f"ends-{days}", valid=(-40 * day, days * day))
    async with serving(ssl=server_context(*pair), reload_interval=0) as server:
        assert server.certificate_not_after - dt.datetime.now(dt.UTC) < days * day
        assert server._reloading is not None
    assert words in caplog.text
    assert bool(caplog.text) == bool(words)


@pytest.mark.parametrize("names", [{}, {"other": "client_only"}])
async def test_a_certificate_that_is_not_for_servers_is_announced(names, certificates, caplog):
    others = {name: getattr(certificates, each) for name, each in names.items()}
    first = certificates.server if others else certificates.client_only
    async with serving(ssl=server_context(*first, server_names=others), reload_interval=0):
        pass
    assert f"{certificates.client_only.certificate} is not for servers" in caplog.text


async def test_the_end_of_the_certificate_is_announced_every_day(certificates, caplog, monkeypatch):
    monkeypatch.setattr("asyncdicom.reloading._DAY", 0.01)
    async with serving(ssl=server_context(*certificates.server), reload_interval=0):
        async with asyncio.timeout(DEADLINE):
            while caplog.text.count("the server's certificate expires in 0 days") < 3:
                await asyncio.sleep(0.005)
