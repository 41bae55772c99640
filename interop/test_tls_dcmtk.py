"""TLS between DCMTK's tools and ours, both ways: profiles, who has which certificate, and who looks at it.

What DCMTK does with DCMTK is found out first, in the same session, and ours does the same; only where a host name is
looked for, which DCMTK never does, and where it would fall back to 3DES, it refuses more.
"""

import contextlib
import re
import shutil
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from peers import listens

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from certificates import DAY, PASSWORD, Authority, load_key, write_key
from cli_processes import COMMAND, DEADLINE, ENVIRONMENT, Receiver, run_here, wait_until, write_instance
from ports import free_port

pytestmark = pytest.mark.usefixtures("dcmtk")


def profiles_of_dcmtk():
    """The options that the help of its tools names: +pb, which is 3DES, only if its OpenSSL has that."""
    if not shutil.which("storescp"):
        return set()
    text = subprocess.run(["storescp", "--help"], check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"^\s+(\+p\w) +--profile-", text, re.MULTILINE))


def has_3des():
    """Whether our OpenSSL has it, which may be another one than DCMTK's."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ciphers("DES-CBC3-SHA:@SECLEVEL=0")
    except ssl.SSLError:
        return False
    return True


HAS_BASIC = "+pb" in profiles_of_dcmtk() and has_3des()
PROFILES = ("+py", "+px", "+pz", "+pa", "+pn", *(("+pb",) if HAS_BASIC else ()))
"""Those of 3.6.7."""
FALL_BACK = ("+px", "+pa")
"""Those that DCMTK adds 3DES to, where it has it; ours have none."""
BAD = ("stranger", "expired", "early")


class Server(NamedTuple):
    """How a server is started."""

    profile: str
    certificate: str = "server"
    verify: str = "-rc"
    """Clients: required (-rc), verified if there is one (-vc), ignored (-ic)."""


class Client(NamedTuple):
    """How a client is started; without a name it has no certificate."""

    profile: str
    certificate: str = "client"
    trusted: str = "ca"
    verify: str = "-rc"


class Cell(NamedTuple):
    """One of the matrix."""

    server: Server
    client: Client

    def __str__(self):
        return " ".join((*self.server, "<", *(each or "nothing" for each in self.client)))


def cells():
    """Every profile with itself, with all that can be right and wrong of certificates; then the profiles crosswise."""
    for profile in PROFILES:
        for verify in ("-rc", "-vc", "-ic"):
            for name in ("client", "", *BAD):
                yield Cell(Server(profile, verify=verify), Client(profile, name))
        for verify in ("-rc", "-ic"):
            yield Cell(Server(profile), Client(profile, trusted="other-ca", verify=verify))
            for name in (*BAD, "elsewhere"):
                yield Cell(Server(profile, name, "-ic"), Client(profile, verify=verify))
        for other in PROFILES:
            if other != profile and not ("+pb" in {profile, other} and {profile, other} & {*FALL_BACK}):
                yield Cell(Server(profile), Client(other))


CELLS = sorted(cells(), key=lambda cell: (PROFILES.index(cell.server.profile), cell.server))


def reason(cell):
    """Why a cell is refused, in a word."""
    server, client = cell
    if server.profile != client.profile:
        return "profile"
    if client.verify == "-rc" and (client.trusted != "ca" or server.certificate in BAD):
        return f"server {server.certificate if client.trusted == 'ca' else 'stranger'}"
    return f"client {client.certificate or 'nothing'}"


NO_AGREEMENT = "no (TLS version or )?cipher suite that both sides permit"
SAID_BY_CLIENT = {
    "profile": NO_AGREEMENT,
    "server stranger": "CA (that )?is not among the trusted certificates",
    "server expired": "it has expired",
    "server early": "it is not yet valid",
    "client nothing": "requires a certificate, and none was sent|or misses a certificate",
    "client stranger": "does not trust the CA of this side's certificate",
    "client expired": "this side's certificate has expired",
    "client early": "it takes this side's certificate for bad",
}
SAID_BY_SERVER = {
    "profile": NO_AGREEMENT,
    "server stranger": "does not trust the CA of this side's certificate",
    "server expired": "this side's certificate has expired",
    "server early": "it takes this side's certificate for bad",
    "client nothing": "sent no certificate, and one is required",
    "client stranger": "CA (that )?is not among the trusted certificates",
    "client expired": "it has expired",
    "client early": "it is not yet valid",
}
CLOSED = "closed the connection during the TLS handshake"
"""What is known of a client of ours that refuses: asyncio and uvloop do not send its alert (CPython's issue 98078)."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The folder with all certificates; RSA, as the oldest profiles know nothing else."""
    folder = tmp_path_factory.mktemp("certificates")
    ca, other = (Authority(folder, name, kind="rsa") for name in ("CA", "Other CA"))
    for name in ("server", "client"):
        ca.issue(name, kind="rsa")
    other.issue("stranger", kind="rsa")
    ca.issue("expired", kind="rsa", valid=(-3 * DAY, -DAY))
    ca.issue("early", kind="rsa", valid=(DAY, 3 * DAY))
    ca.issue("elsewhere", kind="rsa", dns=("pacs.example",), ip=("192.0.2.1",))
    locked = ca.issue("locked", kind="rsa")
    write_key(locked.key, load_key(locked), PASSWORD)
    ca.revoke(ca.issue("revoked", kind="rsa"))
    return folder


def server_options(server, files):
    own = (files / f"{server.certificate}.key", files / f"{server.certificate}.pem")
    return ["+tls", *own, "+cf", files / "ca.pem", server.verify, server.profile]


def client_options(client, files):
    own = ("+tls", files / f"{client.certificate}.key", files / f"{client.certificate}.pem")
    trusted = ("+cf", files / f"{client.trusted}.pem", client.verify, client.profile)
    return [*(own if client.certificate else ("+tla",)), *trusted]


class Running(NamedTuple):
    """A server that runs."""

    process: subprocess.Popen
    port: int
    log: Path

    def end(self):
        self.process.terminate()
        self.process.wait(DEADLINE)


class Pool:
    """Servers of a kind; the latest ones go on running, as the cells stand in their order."""

    def __init__(self, folder, start):
        self._folder = folder
        self._start = start
        self._running = {}
        self._started = 0

    def __getitem__(self, options):
        if options not in self._running:
            if len(self._running) == 3:
                self._running.pop(next(iter(self._running))).end()
            self._started += 1
            folder = self._folder / str(self._started)
            folder.mkdir()
            self._running[options] = self._start(folder, options)
        return self._running[options]

    def close(self):
        for each in self._running.values():
            each.end()


def start(folder, words, environment=None):
    log = folder / "log"
    with log.open("wb") as stream:
        return subprocess.Popen(list(map(str, words)), stdout=stream, stderr=stream, env=environment), log


@pytest.fixture(scope="module")
def ours(files, tmp_path_factory):
    """Our storescp, by its options."""

    def run(folder, server):
        port_file = folder / "port"
        words = ("storescp", "0", "-i4", "--ignore", "-od", folder, "--port-file", port_file)
        process, log = start(folder, (*COMMAND, *words, *server_options(server, files)), ENVIRONMENT)
        wait_until(lambda: port_file.exists() or process.poll() is not None)
        assert port_file.exists(), log.read_text()
        return Running(process, int(port_file.read_text()), log)

    with contextlib.closing(Pool(tmp_path_factory.mktemp("ours"), run)) as pool:
        yield pool


@pytest.fixture(scope="module")
def theirs(files, tmp_path_factory):
    """DCMTK's storescp, by its options."""

    def run(folder, server):
        port = free_port()
        process, log = start(folder, ("storescp", "--ignore", *server_options(server, files), port))
        wait_until(lambda: listens(port) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        return Running(process, port, log)

    with contextlib.closing(Pool(tmp_path_factory.mktemp("theirs"), run)) as pool:
        yield pool


def dcmtk(*words):
    return subprocess.run(list(map(str, words)), check=False, capture_output=True, text=True, timeout=DEADLINE)


def dcmtk_echo(port, words):
    return dcmtk("echoscu", *words, "127.0.0.1", port)


def our_echo(port, words):
    return run_here("echoscu", *words, "127.0.0.1", port)


@pytest.fixture(scope="module")
def expected(theirs, files):
    """Whether DCMTK's client is served by DCMTK's server, by cell."""
    known = {}

    def find(cell):
        if cell not in known:
            known[cell] = dcmtk_echo(theirs[cell.server].port, client_options(cell.client, files)).returncode == 0
        return known[cell]

    return find


def assert_said(server, before, pattern):
    """The server's log has it since then; what DCMTK's client is told may be there earlier than the log's line."""
    deadline = time.monotonic() + 5.0
    while not re.search(pattern, said := server.log.read_text()[before:]):
        assert time.monotonic() < deadline, (pattern, said)
        time.sleep(0.005)


every_cell = pytest.mark.parametrize("cell", CELLS, ids=str)


def is_refused(result, expected):
    """Whether it was; the outcome is the one that DCMTK with DCMTK has, in every cell."""
    assert (result.returncode == 0) == expected, (result.stdout, result.stderr)
    return not expected


@every_cell
def test_our_client_with_dcmtks_server(cell, theirs, files, expected):
    result = our_echo(theirs[cell.server].port, client_options(cell.client, files))
    if is_refused(result, expected(cell)):
        assert result.returncode == 71
        assert re.search(SAID_BY_CLIENT[reason(cell)], result.stderr), result.stderr


@every_cell
def test_dcmtks_client_with_our_server(cell, ours, files, expected):
    server = ours[cell.server]
    before = server.log.stat().st_size
    if is_refused(dcmtk_echo(server.port, client_options(cell.client, files)), expected(cell)):
        assert_said(server, before, SAID_BY_SERVER[reason(cell)])


@every_cell
def test_our_client_with_our_server(cell, ours, files, expected):
    server = ours[cell.server]
    before = server.log.stat().st_size
    result = our_echo(server.port, client_options(cell.client, files))
    if is_refused(result, expected(cell)):
        why = reason(cell)
        assert result.returncode == 71
        assert re.search(SAID_BY_CLIENT[why], result.stderr), result.stderr
        assert_said(
            server, before, f"{SAID_BY_SERVER[why]}|{CLOSED}" if why.startswith("server") else SAID_BY_SERVER[why]
        )


# Beside the matrix


@pytest.mark.parametrize("profile", PROFILES)
def test_our_default_profile_goes_with_theirs_unless_that_is_retired_for_good(profile, ours, theirs, files):
    good = profile in ("+py", "+px", "+pz")
    options = client_options(Client(profile), files)
    result = our_echo(theirs[Server(profile)].port, [word for word in options if word != profile])
    assert (result.returncode == 0) == good, result.stderr
    assert (dcmtk_echo(ours[Server("+pg")].port, options).returncode == 0) == good


@pytest.mark.parametrize("profile", PROFILES)
def test_instances_go_both_ways(profile, files, tmp_path):
    instance = write_instance(tmp_path / "a.dcm")
    client = client_options(Client(profile), files)
    server = server_options(Server(profile), files)
    (tmp_path / "theirs").mkdir()
    port = free_port()
    process, _ = start(tmp_path, ("storescp", "-od", tmp_path / "theirs", *server, port))
    try:
        wait_until(lambda: listens(port))
        assert run_here("storescu", "127.0.0.1", port, instance, *client).returncode == 0
    finally:
        process.kill()
        process.wait()
    with Receiver(tmp_path / "ours", *server) as receiver:
        assert dcmtk("storescu", *client, *receiver.peer, instance).returncode == 0
    assert len(list((tmp_path / "theirs").iterdir())) == len(receiver.files()) == 1


def test_dcmtks_client_is_served_by_workers(files, tmp_path):
    with Receiver(tmp_path / "ours", *server_options(Server("+py"), files), "--workers", 2) as receiver:
        for _ in range(4):
            assert dcmtk_echo(receiver.port, client_options(Client("+py"), files)).returncode == 0


def test_our_client_is_served_by_dcmrecv(files, tmp_path):
    port = free_port()
    process, log = start(tmp_path, ("dcmrecv", *server_options(Server("+py"), files), "-od", tmp_path, port))
    try:
        wait_until(lambda: listens(port) or process.poll() is not None)
        result = our_echo(port, client_options(Client("+py"), files))
        assert result.returncode == 0, (result.stderr, log.read_text())
    finally:
        process.kill()
        process.wait()


def test_dcmtks_findscu_asks_our_archive(files, tmp_path):
    write_instance(tmp_path / "a.dcm")
    port_file = tmp_path / "port"
    words = ("qrscp", "0", "-i4", "--folder", tmp_path, "--port-file", port_file, *server_options(Server("+py"), files))
    process, log = start(tmp_path, (*COMMAND, *words), ENVIRONMENT)
    try:
        wait_until(lambda: port_file.exists() or process.poll() is not None)
        query = ("-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID")
        where = ("127.0.0.1", port_file.read_text().strip())
        result = dcmtk("findscu", "-v", *client_options(Client("+py"), files), *query, *where)
        assert "1.2.3.4" in result.stdout + result.stderr, log.read_text()
    finally:
        process.terminate()
        process.wait(DEADLINE)


def test_a_wrong_host_name_is_refused_where_it_is_looked_for(theirs, files):
    port = theirs[Server("+py", "elsewhere", "-ic")].port
    options = client_options(Client("+py"), files)
    assert dcmtk_echo(port, options).returncode == 0
    assert our_echo(port, options).returncode == 0
    result = our_echo(port, [*options, "--check-host-name"])
    assert result.returncode == 71
    assert "127.0.0.1" in result.stderr.partition("certificate")[2]


def test_a_keys_password_is_given_as_dcmtk_takes_it(theirs, files):
    port = theirs[Server("+py")].port
    options = client_options(Client("+py", "locked"), files)
    for password, is_right in ((PASSWORD, True), ("wrong", False)):
        assert (dcmtk_echo(port, [*options, "+pw", password]).returncode == 0) is is_right
        assert (our_echo(port, [*options, "+pw", password]).returncode == 0) is is_right


@pytest.mark.parametrize("certificate", ["client", "revoked"])
@pytest.mark.parametrize("more", [("+crv",), ("+cra",), ()])
def test_a_revoked_certificate_is_refused_as_by_dcmtk(certificate, more, files, tmp_path):
    server = [*server_options(Server("+py"), files), "+crl", files / "revoked.crl", *more]
    client = client_options(Client("+py", certificate), files)
    port = free_port()
    process, _ = start(tmp_path, ("storescp", "--ignore", *server, port))
    try:
        wait_until(lambda: listens(port))
        expected = dcmtk_echo(port, client).returncode == 0
        assert (our_echo(port, client).returncode == 0) == expected
    finally:
        process.kill()
        process.wait()
    with Receiver(tmp_path / "ours", *server) as receiver:
        assert (dcmtk_echo(receiver.port, client).returncode == 0) == expected
    assert expected == (certificate == "client")


@pytest.mark.skipif(not HAS_BASIC, reason="there is no 3DES")
@pytest.mark.parametrize("profile", FALL_BACK)
def test_only_dcmtk_falls_back_to_3des(profile, ours, theirs, files, expected):
    ordinary, basic = client_options(Client(profile), files), client_options(Client("+pb"), files)
    assert expected(Cell(Server("+pb"), Client(profile)))
    assert expected(Cell(Server(profile), Client("+pb")))
    assert dcmtk_echo(ours[Server("+pb")].port, ordinary).returncode == 0
    assert our_echo(theirs[Server(profile)].port, basic).returncode == 0
    assert our_echo(theirs[Server("+pb")].port, ordinary).returncode == 71
    assert dcmtk_echo(ours[Server(profile)].port, basic).returncode != 0


def test_these_are_all_profiles_of_dcmtk():
    assert profiles_of_dcmtk() - {"+pb"} == set(PROFILES) - {"+pb"}
