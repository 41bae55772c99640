import contextlib
import os
import pty
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from certificates import DAY, PASSWORD, Certificates, load_key, write_key
from cli_processes import (
    COMMAND,
    DEADLINE,
    ENVIRONMENT,
    Receiver,
    run,
    run_here,
    start,
    wait_until,
    write_instance,
    write_instances,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from ports import free_port

from asyncdicom.cli import TOOLS
from asyncdicom.cli.exit_codes import ExitCode

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals and terminals")

STUDY = ("-S", "-L", "STUDY", "-k", "StudyInstanceUID=1.2.3.4")
NO_PEER = {"passwd", "demo", "storescp", "qrscp"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Certificates of all kinds."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def trust(files):
    return ("+cf", files.ca.file)


@pytest.fixture(scope="module")
def as_server(files, trust):
    return ("+tls", files.server.key, files.server.certificate, *trust)


@pytest.fixture(scope="module")
def as_client(files, trust):
    return ("+tls", files.client.key, files.client.certificate, *trust)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory, as_server):
    """Our storescp with TLS, for clients with a certificate."""
    with Receiver(tmp_path_factory.mktemp("receiver") / "received", *as_server) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def archive(tmp_path_factory, files, as_server):
    """Our qrscp with TLS: its port, and the port of MOVESCU, which it calls over TLS too."""
    folder = tmp_path_factory.mktemp("archive")
    worklist = folder / "worklist"
    for each in (folder / "files", worklist):
        each.mkdir()
    write_instances(folder / "files", 2)
    destination, port_file = free_port(), folder / "port"
    where = ("0", "-ba", "127.0.0.1", "--folder", folder / "files", "--port-file", port_file, "--worklist", worklist)
    process = start("qrscp", *where, "--peer", f"MOVESCU=127.0.0.1:{destination}", *as_server)
    wait_until(lambda: port_file.exists() or process.poll() is not None)
    yield int(port_file.read_text()), destination
    process.terminate()
    process.communicate(timeout=DEADLINE)


# Every tool

CALLS = {
    "echoscu": ("HOST", "PORT"),
    "storescu": ("HOST", "PORT", "FILE"),
    "findscu": ("-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID", "HOST", "PORT"),
    "getscu": (*STUDY, "-od", "FOLDER", "HOST", "PORT"),
    "movescu": (*STUDY, "+P", "DESTINATION", "-od", "FOLDER", "HOST", "PORT"),
    "wlmscu": ("HOST", "PORT"),
    "mppsscu": ("HOST", "PORT"),
    "stgcmtscu": ("HOST", "PORT", "FILE", "+P", "0"),
    "upsscu": ("find", "-k", "ProcedureStepState", "HOST", "PORT"),
    "printscu": ("--status", "HOST", "PORT"),
}
"""What each is called for; qrscp has no procedure steps to push and no printer, but says so over TLS."""
UNKNOWN_TO_QRSCP = {"upsscu", "printscu"}


@pytest.mark.parametrize("tool", CALLS)
def test_a_tool_makes_an_association_over_tls(tool, archive, as_client, tmp_path):
    port, destination = archive
    write_instance(tmp_path / "a.dcm", "1.2.3.0")
    words = {"HOST": "127.0.0.1", "PORT": port, "FILE": tmp_path / "a.dcm", "FOLDER": tmp_path}
    line = [{**words, "DESTINATION": destination}.get(word, word) for word in CALLS[tool]]
    result = run_here(tool, *line, *as_client)
    expected = ExitCode.NO_CONTEXT if tool in UNKNOWN_TO_QRSCP else ExitCode.OK
    assert result.returncode == expected, result.stderr
    if tool in ("getscu", "movescu"):
        assert len(list(tmp_path.glob("1.2.3.?.dcm"))) == 2


def test_there_is_no_other_tool_with_a_peer():
    assert set(TOOLS) - NO_PEER - {"certs"} == set(CALLS)


@pytest.mark.parametrize("tool", CALLS)
def test_a_tool_says_that_it_needs_a_certificate(tool, archive, trust, tmp_path):
    words = {"HOST": "127.0.0.1", "PORT": archive[0], "FILE": write_instance(tmp_path / "a.dcm")}
    alone = ("+P", "0", "DESTINATION", "-od", "FOLDER")  # to listen takes a certificate
    line = [words.get(word, word) for word in CALLS[tool] if word not in alone]
    result = run_here(tool, *line, "+tla", *trust)
    assert result.returncode == ExitCode.TLS
    assert "it requires a certificate, and none was sent" in result.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_instances_arrive_over_tls(tmp_path, as_server, as_client, workers):
    sent = write_instances(tmp_path / "sent", 8)
    with Receiver(tmp_path / "received", *as_server, "--workers", workers) as receiver:
        result = run_here("storescu", *receiver.peer, sent, "--associations", 4, *as_client)
    assert result.returncode == 0, result.stderr
    assert len(receiver.files()) == 8


# Which peer is taken


@pytest.mark.parametrize(
    ("options", "name", "words"),
    [
        ("-rc", "client", ""),
        ("-rc", "stranger", "does not trust the CA"),
        ("-rc", "expired", "has expired"),
        ("-vc", "", ""),
        ("-vc", "stranger", "does not trust the CA"),
        ("-ic", "", ""),
        ("-ic", "stranger", ""),
    ],
)
def test_a_server_looks_at_certificates_as_it_is_told(tmp_path, files, as_server, *, options, name, words):
    own = ("+tls", getattr(files, name).key, getattr(files, name).certificate) if name else ("+tla",)
    with Receiver(tmp_path / "received", *as_server, options) as receiver:
        result = run_here("echoscu", *receiver.peer, *own, "+cf", files.ca.file)
    assert result.returncode == (ExitCode.TLS if words else ExitCode.OK)
    assert words in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--check-host-name", "elsewhere|mismatch|not valid for"),
        ("--check-host-name --request-sni pacs.example", ""),
        ("", ""),
        ("--check-host-name --no-host-name-check", ""),
        ("--no-sni", ""),
    ],
)
def test_a_certificates_name_counts_when_it_is_asked_for(tmp_path, files, as_client, *, options, words):
    own = ("+tls", files.elsewhere.key, files.elsewhere.certificate, "+cf", files.ca.file)
    with Receiver(tmp_path / "received", *own) as receiver:
        result = run_here("echoscu", "localhost", receiver.port, "-i4", *as_client, *options.split())
    assert result.returncode == (ExitCode.TLS if words else ExitCode.OK), result.stderr
    assert not words or "localhost" in result.stderr


def test_a_server_may_expect_a_name(tmp_path, as_server, as_client):
    with Receiver(tmp_path / "received", *as_server, "--expect-sni", "pacs.example") as receiver:
        codes = [
            run_here("echoscu", *receiver.peer, *as_client, *options).returncode
            for options in (("--request-sni", "pacs.example"), ("--request-sni", "other.example"), ("--no-sni",))
        ]
    assert codes == [ExitCode.OK, ExitCode.TLS, ExitCode.TLS]


def test_a_revoked_certificate_is_refused(tmp_path, files, trust, as_server, as_client):
    revoked = ("+tls", files.revoked.key, files.revoked.certificate, *trust)
    with Receiver(tmp_path / "received", *as_server, "+crl", files.crl) as receiver:
        assert run_here("echoscu", *receiver.peer, *as_client).returncode == ExitCode.OK
        assert "has been revoked" in run_here("echoscu", *receiver.peer, *revoked).stderr


def test_a_folder_of_certificates_is_trusted(tmp_path, files, receiver, as_client):
    folder = tmp_path / "trusted"
    folder.mkdir()
    (folder / "ca.pem").write_bytes(files.ca.file.read_bytes())
    assert run_here("echoscu", *receiver.peer, *as_client[:3], "+cd", folder).returncode == ExitCode.OK


def test_a_profile_without_a_common_suite_is_refused(receiver, files, trust):
    result = run_here("echoscu", *receiver.peer, "+tls", files.rsa.key, files.rsa.certificate, *trust, "+pa")
    assert result.returncode == ExitCode.TLS
    assert "cipher suite" in result.stderr


def test_a_client_without_tls_is_told_to_look_at_the_port(receiver):
    result = run_here("echoscu", *receiver.peer)
    assert result.returncode in (ExitCode.NETWORK, ExitCode.ABORTED)


def test_a_server_without_tls_is_named(tmp_path, as_client):
    with Receiver(tmp_path / "received") as plain:
        result = run_here("echoscu", *plain.peer, *as_client)
    assert result.returncode == ExitCode.TLS
    assert "TLS" in result.stderr


# Command lines


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("+cf CA", "need +tls"),
        ("-rc", ""),
        ("--check-host-name", "need +tls"),
        ("+tls KEY CERTIFICATE", "whose certificates are trusted"),
        ("+tla", "whose certificates are trusted"),
        ("+tla -ic --check-host-name", "does not go with"),
        ("+tla +cf CA --no-sni --check-host-name", "does not go with"),
        ("+tla +cf CA +crv", "+crl FILE"),
    ],
)
def test_options_that_do_not_go_together_are_refused(line, words, files):
    given = {"CA": files.ca.file, "KEY": files.client.key, "CERTIFICATE": files.client.certificate}
    result = run_here("echoscu", "127.0.0.1", free_port(), *(given.get(word, word) for word in line.split()))
    assert result.returncode == (ExitCode.SYNTAX if words else ExitCode.NETWORK)
    assert words in result.stderr


def test_a_handshake_that_does_not_end_is_exit_code_71(files):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        result = run_here("echoscu", "127.0.0.1", port, "+tla", "+cf", files.ca.file, "--tls-timeout", "0.1")
    assert result.returncode == ExitCode.TLS
    assert "SSL handshake is taking longer than 0.1 seconds" in result.stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("+tls ABSENT CERTIFICATE +cf CA", "cannot be read: No such file"),
        ("+tls CA CERTIFICATE +cf CA", "it holds a CERTIFICATE; name the file that has the key"),
        ("+tls SERVER CERTIFICATE +cf CA", "is not the one of the certificate"),
        ("+tls KEY CERTIFICATE +cf ABSENT", "cannot be read: No such file"),
        ("+tls KEY CERTIFICATE +cf KEY", "holds no certificate"),
        ("+tla +cf CA +cs NO_SUCH_SUITE", "cannot do NO_SUCH_SUITE"),
        ("+tla +cf CA +pz +cs TLS_RSA_WITH_AES_128_CBC_SHA", "permits no other suites"),
    ],
)
def test_files_that_cannot_be_used_are_exit_code_71(line, words, files, tmp_path):
    given = {
        "CA": files.ca.file,
        "KEY": files.client.key,
        "CERTIFICATE": files.client.certificate,
        "SERVER": files.server.key,
        "ABSENT": tmp_path / "absent",
    }
    result = run_here("echoscu", "127.0.0.1", free_port(), *(given.get(word, word) for word in line.split()))
    assert result.returncode == ExitCode.TLS
    assert words in result.stderr


def test_a_client_hears_that_its_certificate_is_for_servers_only(files, trust, receiver):
    pair = files.ca.issue("server-only", uses=[ExtendedKeyUsageOID.SERVER_AUTH])
    result = run_here("echoscu", *receiver.peer, "+tls", pair.key, pair.certificate, *trust)
    assert result.returncode != ExitCode.OK
    assert f"{pair.certificate} is not for clients" in result.stderr


def test_who_listens_needs_a_certificate(trust, tmp_path):
    storescp = run_here("storescp", "0", "+tla", *trust)
    assert (storescp.returncode, "+tls KEY CERTIFICATE" in storescp.stderr) == (ExitCode.SYNTAX, True)
    line = (*STUDY, "127.0.0.1", free_port(), "+P", free_port(), "-od", tmp_path)
    movescu = run_here("movescu", *line, "+tla", *trust)
    assert (movescu.returncode, "+tls KEY CERTIFICATE" in movescu.stderr) == (ExitCode.SYNTAX, True)


def test_profiles_and_ciphers_are_listed_without_a_peer():
    assert "+pg --profile-8996 " in run_here("echoscu", "+ph").stdout
    assert "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\n" in run_here("storescp", "+cc").stdout


# Passwords


@pytest.fixture(scope="module")
def locked(files):
    """The client's key, with a password."""
    return write_key(files.folder / "locked.key", load_key(files.client), PASSWORD)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("+pw", PASSWORD), ""),
        (("+pw", "wrong"), "password is wrong"),
        (("-pw",), "password is wrong"),
        (("+ps",), "no terminal to ask"),
        ((), "no terminal to ask"),
    ],
)
def test_a_keys_password_is_given_or_asked_for(receiver, files, locked, *, options, words):
    line = ("echoscu", *receiver.peer, "+tls", locked, files.client.certificate, "+cf", files.ca.file, *options)
    read, write = os.pipe()  # nothing ever comes
    try:
        result = run(*line, stdin=read)
    finally:
        os.close(read)
        os.close(write)
    assert result.returncode == (ExitCode.TLS if words else ExitCode.OK)
    assert words in result.stderr
    assert PASSWORD not in result.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [(f"{PASSWORD}\n".encode(), ""), (b"wrong\n", "password is wrong"), (b"\xff", "UTF-8"), (None, "No such file")],
)
def test_a_keys_password_may_be_in_a_file(receiver, files, trust, locked, tmp_path, *, content, words):
    if content is not None:
        (tmp_path / "password").write_bytes(content)
    own = ("+tls", locked, files.client.certificate, "--key-password-file", tmp_path / "password")
    result = run_here("echoscu", *receiver.peer, *own, *trust)
    assert result.returncode == (ExitCode.TLS if words else ExitCode.OK)
    assert words in result.stderr


def test_a_keys_password_is_given_in_one_way(receiver, as_client):
    result = run_here("echoscu", *receiver.peer, *as_client, "+pw", "a", "--key-password-file", "b")
    assert result.returncode == ExitCode.SYNTAX


def test_a_password_file_that_is_gone_leaves_the_server_as_it_is(tmp_path, files, locked, trust, as_client):
    (tmp_path / "password").write_text(PASSWORD)
    own = ("+tls", locked, files.client.certificate, "--key-password-file", tmp_path / "password")
    with Receiver(tmp_path / "received", *own, *trust) as receiver:
        (tmp_path / "password").unlink()
        receiver.process.send_signal(signal.SIGHUP)
        client = (*as_client[:3], *trust)
        assert run_here("echoscu", *receiver.peer, *client, "-ic").returncode == ExitCode.OK
    assert "nothing is read again" in receiver.errors


def test_a_password_is_asked_for_on_a_terminal_and_not_shown(receiver, files, trust, locked):
    own, other = pty.openpty()
    words = ("echoscu", *receiver.peer, "+tls", locked, files.client.certificate, *trust)
    process = subprocess.Popen(
        [*COMMAND, *map(str, words)],
        env=ENVIRONMENT,
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
    )
    os.close(other)
    said = b""
    try:
        while b"password of the private key" not in said:
            assert select.select([own], [], [], DEADLINE)[0]
            said += os.read(own, 4096)
        os.write(own, f"{PASSWORD}\n".encode())
        assert process.wait(DEADLINE) == ExitCode.OK
        said += os.read(own, 4096)
    finally:
        process.kill()
        process.wait()
        os.close(own)
    assert PASSWORD.encode() not in said


# Reading again


def served_certificates(peer, files, workers):
    """The certificates that a server shows on a connection to each worker: the one with the fewest gets the next."""
    context = ssl.create_default_context(cafile=files.ca.file)
    context.check_hostname = False
    context.load_cert_chain(*files.client)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection(peer, DEADLINE)) for _ in range(workers)]
        over_tls = [stack.enter_context(context.wrap_socket(each)) for each in connections]
        return {each.getpeercert(binary_form=True) for each in over_tls}


def as_der(pair):
    return ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())


@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_has_new_certificates_read(tmp_path, files, trust, workers):
    key, certificate = tmp_path / "own.key", tmp_path / "own.pem"

    def put(pair):
        key.write_bytes(pair.key.read_bytes())
        certificate.write_bytes(pair.certificate.read_bytes())

    put(files.server)
    renewed = files.ca.issue(f"renewed-{workers}", valid=(-DAY, 2 * DAY))
    with Receiver(tmp_path / "received", "-v", "+tls", key, certificate, *trust, "--workers", workers) as receiver:
        put(renewed)
        assert served_certificates(receiver.peer, files, workers) == {as_der(files.server)}
        receiver.process.send_signal(signal.SIGHUP)
        wait_until(lambda: served_certificates(receiver.peer, files, workers) == {as_der(renewed)})
        certificate.write_text("broken")
        receiver.process.send_signal(signal.SIGHUP)
        assert served_certificates(receiver.peer, files, workers) == {as_der(renewed)}
    assert "were read again" in receiver.errors
    assert "nothing is read again" in receiver.errors
    assert receiver.errors.count("read again: the TLS context") == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_sighup_to_all_processes_ends_no_worker(tmp_path, as_server, as_client):
    with Receiver(tmp_path / "received", *as_server, "--workers", 2) as receiver:
        pid = receiver.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (*map(int, children), pid):
            os.kill(each, signal.SIGHUP)
        assert [run_here("echoscu", *receiver.peer, *as_client).returncode for _ in range(4)] == [0] * 4
    assert "another is started" not in receiver.errors
    assert "were read again" in receiver.errors


POLICY = """
default = "deny"
[[rules]]
name = "modalities"
calling_ae_titles = ["{title}"]
"""


def test_sighup_has_a_new_access_policy_read(tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY.format(title="CT1"))
    with Receiver(tmp_path / "received", "--access-policy", policy) as receiver:
        assert run_here("echoscu", *receiver.peer, "-aet", "CT2").returncode == ExitCode.NEGOTIATION
        policy.write_text(POLICY.format(title="CT2"))
        receiver.process.send_signal(signal.SIGHUP)
        wait_until(lambda: run_here("echoscu", *receiver.peer, "-aet", "CT2").returncode == ExitCode.OK)
        assert run_here("echoscu", *receiver.peer, "-aet", "CT1").returncode == ExitCode.NEGOTIATION


# Access and audit


def test_a_certificate_may_be_what_the_policy_asks_for(tmp_path, files, trust, as_server, as_client):
    policy = tmp_path / "policy.toml"
    policy.write_text('[[rules]]\nname = "client"\ncertificates = ["cn:client"]\n')
    others = ("+tls", files.server.key, files.server.certificate, *trust)
    with Receiver(tmp_path / "received", *as_server, "--access-policy", policy) as receiver:
        assert run_here("echoscu", *receiver.peer, *as_client).returncode == ExitCode.OK
        assert run_here("echoscu", *receiver.peer, *others).returncode == ExitCode.NEGOTIATION


@pytest.mark.parametrize("workers", [1, 2])
def test_users_of_the_password_file_are_let_in(tmp_path, workers):
    users = tmp_path / "users"
    assert run("passwd", users, "meier", input="open sesame\n").returncode == 0
    with Receiver(tmp_path / "received", "--password-file", users, "--workers", workers) as receiver:
        codes = [
            run_here("echoscu", *receiver.peer, *options).returncode
            for options in (("-usr", "meier", "-pwd", "open sesame"), ("-usr", "meier", "-pwd", "wrong"), ())
        ]
    assert codes == [ExitCode.OK, ExitCode.NEGOTIATION, ExitCode.NEGOTIATION]
    assert "sesame" not in receiver.errors
    assert "the passwords cross the network in the clear" in receiver.errors


def test_a_profile_that_encrypts_nothing_is_warned_of(tmp_path, files, trust):
    with Receiver(tmp_path / "received", "+tls", files.rsa.key, files.rsa.certificate, *trust, "+pn") as receiver:
        pass
    assert "encrypts nothing" in receiver.errors


def test_users_may_be_let_in_beside_devices_that_have_none(tmp_path):
    users, policy = tmp_path / "users", tmp_path / "policy.toml"
    assert run("passwd", users, "meier", input="open sesame\n").returncode == 0
    policy.write_text('[[rules]]\nname = "CT"\ncalling_ae_titles = "CT*"\n[[rules]]\nname = "users"\nusers = "meier"\n')
    options = ("--password-file", users, "--users-optional", "--access-policy", policy)
    with Receiver(tmp_path / "received", *options) as receiver:
        codes = [
            run_here("echoscu", *receiver.peer, *options).returncode
            for options in (("-aet", "CT1"), ("-usr", "meier", "-pwd", "open sesame"), ("-aet", "CT1", "-usr", "x"), ())
        ]
    assert codes == [ExitCode.OK, ExitCode.OK, ExitCode.NEGOTIATION, ExitCode.NEGOTIATION]


def test_users_can_be_optional_only_where_there_are_users(tmp_path):
    result = run_here("storescp", "0", "-od", tmp_path, "--users-optional")
    assert result.returncode == ExitCode.SYNTAX
    assert "--password-file" in result.stderr


SECRET = "a secret of as many bytes as SHA-512 has, which is more than 63 of them"


def token(path, **more):
    """A file with a token that is signed with the secret."""
    jwt = pytest.importorskip("jwt")
    claims = {"sub": "meier", "iss": "id", "aud": "archive", "exp": time.time() + 3600}
    path.write_text(jwt.encode(claims | more, SECRET, "HS256"))
    return path


@pytest.fixture
def jwt_key(tmp_path):
    """The options for tokens that are signed with the secret."""
    (tmp_path / "key").write_text(SECRET)
    return ("--jwt-key", tmp_path / "key", "--jwt-algorithm", "HS512", "--jwt-algorithm", "HS256")


@pytest.mark.parametrize("workers", [1, 2])
def test_users_with_a_token_are_let_in_and_known_to_the_policy(tmp_path, jwt_key, workers):
    policy = tmp_path / "policy.toml"
    policy.write_text('[[rules]]\nname = "users"\nusers = "meier"\n')
    files = [
        token(tmp_path / "good"),
        token(tmp_path / "late", exp=1),
        token(tmp_path / "foreign", iss="else"),
        token(tmp_path / "astray", aud="else"),
        token(tmp_path / "stranger", sub="else"),
    ]
    names = ("--jwt-issuer", "id", "--jwt-audience", "archive")
    options = (*jwt_key, *names, "--access-policy", policy, "--workers", workers)
    with Receiver(tmp_path / "received", *options) as receiver:
        codes = [run_here("echoscu", *receiver.peer, "--jwt", each).returncode for each in files]
        codes.append(run_here("echoscu", *receiver.peer).returncode)
    assert codes == [ExitCode.OK, *[ExitCode.NEGOTIATION] * 5]
    for words in ("it has expired", "from another issuer", "not for this audience", "no user identity was sent"):
        assert words in receiver.errors
    assert "without +tls, the tokens cross the network in the clear" in receiver.errors
    assert "fits nobody" not in receiver.errors


def test_users_may_have_a_password_or_a_token_or_nothing(tmp_path, jwt_key):
    users = tmp_path / "users"
    assert run("passwd", users, "meier", input="open sesame\n").returncode == 0
    anybody = token(tmp_path / "token", iss="whoever", aud="")
    with Receiver(tmp_path / "received", "--password-file", users, *jwt_key, "--users-optional") as receiver:
        codes = [
            run_here("echoscu", *receiver.peer, *options).returncode
            for options in (("-usr", "meier", "-pwd", "open sesame"), ("--jwt", anybody), (), ("-usr", "meier"))
        ]
    assert codes == [ExitCode.OK, ExitCode.OK, ExitCode.OK, ExitCode.NEGOTIATION]
    assert "the passwords and tokens cross the network in the clear" in receiver.errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--jwt-key", "key"), "--jwt-key needs --jwt-algorithm"),
        (("--jwt-algorithm", "RS256"), "--jwt-key, which is missing"),
        (("--jwt-issuer", ""), "--jwt-key, which is missing"),
        (("--jwt-audience", "archive"), "--jwt-key, which is missing"),
    ],
)
def test_what_is_said_of_tokens_has_to_be_complete(tmp_path, options, words):
    result = run_here("storescp", "0", "-od", tmp_path, *options)
    assert (result.returncode, words in result.stderr) == (ExitCode.SYNTAX, True)


@pytest.mark.parametrize("algorithm", ["RS256", "none"])
def test_a_key_that_cannot_be_used_for_tokens_is_named(tmp_path, jwt_key, algorithm):
    result = run_here("storescp", "0", "--ignore", *jwt_key[:3], algorithm)
    assert result.returncode == ExitCode.CONFIGURATION
    assert str(tmp_path / "key") in result.stderr
    assert SECRET not in result.stderr


@pytest.mark.parametrize("tool", ["storescp", "qrscp"])
def test_without_pyjwt_it_is_said_what_to_install(tmp_path, jwt_key, tool, monkeypatch):
    monkeypatch.setitem(sys.modules, "jwt", None)
    folder = ("--ignore",) if tool == "storescp" else ("--folder", tmp_path)
    result = run_here(tool, "0", *folder, *jwt_key)
    assert (result.returncode, "install asyncdicom[jwt]" in result.stderr) == (ExitCode.CONFIGURATION, True)


@pytest.mark.parametrize(("options", "words"), [("", "; the peer: CN="), ("-ic", "not verified")])
def test_what_was_agreed_over_tls_is_shown(receiver, as_client, options, words):
    result = run_here("echoscu", *receiver.peer, *as_client, "-v", *options.split())
    assert "TLSv1.3, TLS_AES_" in result.stderr
    assert words in result.stderr


def test_who_calls_without_tls_hears_that_it_may_be_wanted(receiver):
    result = run_here("echoscu", *receiver.peer)
    assert (result.returncode, "+tls" in result.stderr) == (ExitCode.ABORTED, True)


@pytest.mark.parametrize("option", ["--access-policy", "--password-file"])
def test_a_file_for_access_that_cannot_be_used_is_exit_code_66(tmp_path, option):
    (tmp_path / "broken").write_text("what = [")
    for name in ("broken", "absent"):
        result = run_here("storescp", "0", "--ignore", "-od", tmp_path, option, tmp_path / name)
        assert result.returncode == ExitCode.CONFIGURATION
        assert name in result.stderr


@pytest.mark.parametrize("key", ["certificates", "users"])
def test_rules_that_fit_nobody_are_warned_of(tmp_path, key):
    policy = tmp_path / "policy.toml"
    policy.write_text(f'[[rules]]\nname = "device"\n{key} = "cn:*"\n')
    with Receiver(tmp_path / "received", "--access-policy", policy) as receiver:
        pass
    assert f"rule 'device' fits nobody: {key} are verified with" in receiver.errors


@pytest.mark.parametrize(
    ("name", "hint"),
    [("nowhere/audit.xml", "make its folder"), (".", "it is a folder: name a file in it"), ("file/a", "file before")],
)
def test_an_audit_file_that_cannot_be_written_is_exit_code_40(tmp_path, name, hint):
    (tmp_path / "file").touch()
    result = run_here("storescp", "0", "-od", tmp_path, "--audit-file", tmp_path / name)
    assert result.returncode == ExitCode.CANNOT_WRITE
    assert "cannot be written" in result.stderr
    assert hint in result.stderr


def test_accepted_associations_are_audited_where_that_is_asked_for(tmp_path):
    file = tmp_path / "audit.xml"
    with Receiver(tmp_path / "received", "--audit-file", file, "--audit-associations") as receiver:
        assert run_here("echoscu", *receiver.peer, "-aet", "CT1", "-aec", "US").returncode == ExitCode.OK
    assert "association for 'US' established" in file.read_text()


def test_what_is_audited_of_associations_needs_a_trail(tmp_path):
    result = run_here("qrscp", "0", "--folder", tmp_path, "--audit-associations")
    assert result.returncode == ExitCode.SYNTAX
    assert "--audit-file or --audit-syslog, which are missing" in result.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_files_are_looked_at_as_often_as_is_said_and_a_change_is_audited_once(tmp_path, workers):
    policy, file = tmp_path / "policy.toml", tmp_path / "audit.xml"
    policy.write_text(POLICY.format(title="CT1"))
    options = ("--access-policy", policy, "--audit-file", file, "--reload-interval", "0.05", "--workers", workers)
    with Receiver(tmp_path / "received", *options) as receiver:
        (tmp_path / "new").write_text(POLICY.format(title="CT2"))
        (tmp_path / "new").replace(policy)
        wait_until(lambda: run_here("echoscu", *receiver.peer, "-aet", "CT2").returncode == ExitCode.OK)
    assert file.read_text().count("Security Configuration") == 1


def test_a_proxy_says_for_whom_it_connects(tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text('[[rules]]\nname = "site"\nnetworks = ["192.0.2.0/24"]\n')
    with Receiver(tmp_path / "received", "--proxy", "127.0.0.0/8", "--access-policy", policy) as receiver:
        codes = []
        for address in ("192.0.2.7", "198.51.100.7"):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                echo = start("echoscu", "127.0.0.1", listener.getsockname()[1])
                client, _ = listener.accept()
            with client, socket.create_connection(receiver.peer) as server:
                server.sendall(f"PROXY TCP4 {address} 127.0.0.1 4000 104\r\n".encode())
                relay(client, server)
            echo.communicate(timeout=DEADLINE)
            codes.append(echo.returncode)
    assert codes == [ExitCode.OK, ExitCode.NEGOTIATION]


def relay(one, other):
    """Hand on what each side sends until one ends."""
    while readable := select.select([one, other], [], [], DEADLINE)[0]:
        for each in readable:
            if not (data := each.recv(65536)):
                return
            (other if each is one else one).sendall(data)


def test_audit_messages_go_to_a_file_and_to_a_collector(tmp_path):
    file = tmp_path / "audit.xml"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
        collector.bind(("127.0.0.1", 0))
        collector.settimeout(DEADLINE)
        where = f"udp:127.0.0.1:{collector.getsockname()[1]}"
        with Receiver(tmp_path / "received", "--audit-file", file, "--audit-syslog", where) as receiver:
            run_here("storescu", *receiver.peer, write_instance(tmp_path / "a.dcm"))
        assert b"AuditMessage" in collector.recv(65536)
    assert "1.2.3.4" in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
