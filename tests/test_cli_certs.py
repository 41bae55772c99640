import stat
import sys
from pathlib import Path

import pytest
from cli_processes import run
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tls_wire import handshake

from asyncdicom import tls
from asyncdicom.cli import main

NAMES = ["ca.key", "ca.pem", "client.key", "client.pem", "server.key", "server.pem"]


def init(folder, *words):
    assert main(["certs", "init", *map(str, words), str(folder)]) == 0


def contexts(folder, **options):
    """A server and a client that know each other by the files of a folder."""
    server = tls.server_context(
        folder / "server.pem",
        folder / "server.key",
        trusted=folder / "ca.pem",
        client_certificate="required",
        **options,
    )
    client = tls.client_context(
        trusted=folder / "ca.pem", certificate=folder / "client.pem", key=folder / "client.key", **options
    )
    return client, server


def certificate(folder, name):
    return x509.load_pem_x509_certificate((folder / name).read_bytes())


def meet(folder, host, **options):
    outcome = handshake(*contexts(folder, **options), host)
    assert (outcome.client_error, outcome.server_error) == (None, None)
    return tls.certificate_of(outcome.server.getpeercert(binary_form=True))


def test_one_command_makes_all_that_mutual_authentication_takes(tmp_path):
    made = run("certs", "init", tmp_path / "new" / "folder")
    assert (made.returncode, made.stderr) == (0, "")
    assert sorted(Path(line).name for line in made.stdout.splitlines()) == NAMES
    assert meet(tmp_path / "new" / "folder", "localhost").subject == "CN=client"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
@pytest.mark.parametrize("profile", ["8996", "bcp195-ex"])
def test_the_server_is_good_for_this_machine(tmp_path, host, profile):
    init(tmp_path)
    assert meet(tmp_path, host, profile=profile).common_name == "client"


@pytest.mark.skipif(sys.platform == "win32", reason="files have no such modes there")
def test_only_the_owner_can_read_the_keys(tmp_path):
    init(tmp_path)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert {modes[name] for name in NAMES if name.endswith(".key")} == {0o600}


def test_names_hosts_days_and_the_kind_of_key_can_be_chosen(tmp_path):
    words = "--ca-name CA --server-name PACS --client-name CT --days 10 --key-type rsa"
    init(tmp_path, *words.split(), "--host", "pacs.example", "--host", "192.0.2.7", "--host", "bücher.example")
    server = tls.certificate_of(certificate(tmp_path, "server.pem").public_bytes(Encoding.DER))
    assert (server.subject, server.issuer) == ("CN=PACS", "CN=CA")
    assert server.dns_names == ("pacs.example", "xn--bcher-kva.example")
    assert server.ip_addresses == ("192.0.2.7",)
    assert (server.not_after - server.not_before).days == 10
    ca = certificate(tmp_path, "ca.pem")
    assert (ca.not_valid_after_utc - ca.not_valid_before_utc).days == 100
    assert certificate(tmp_path, "client.pem").public_key().key_size == 3072
    assert meet(tmp_path, "pacs.example").common_name == "CT"


def test_files_that_are_there_stay_unless_asked_for(tmp_path):
    init(tmp_path)
    before = (tmp_path / "server.key").read_bytes()
    again = run("certs", "init", tmp_path)
    assert again.returncode == 40
    assert "has ca.pem, ca.key" in again.stderr
    assert (tmp_path / "server.key").read_bytes() == before
    init(tmp_path, "--overwrite")
    assert (tmp_path / "server.key").read_bytes() != before
    assert meet(tmp_path, "localhost")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["init"],
        ["make", "x"],
        ["init", "x", "y"],
        ["init", "--days", "0", "x"],
        ["init", "--host", "a..b", "x"],
        ["init", "--host", "a b", "x"],
        ["init", "--host", "pacs.example:104", "x"],
        ["init", "--server-name", "x" * 65, "x"],
        ["init", "--key-type", "dsa", "x"],
    ],
)
def test_a_wrong_command_line_makes_nothing(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    assert main(["certs", *words]) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_exit_code_45(tmp_path):
    (tmp_path / "file").touch()
    assert main(["certs", "init", str(tmp_path / "file" / "folder")]) == 45


def test_certificates_are_those_of_the_strictest_verification(tmp_path):
    init(tmp_path)
    ca = certificate(tmp_path, "ca.pem")
    for name in ("server.pem", "client.pem"):
        leaf = certificate(tmp_path, name)
        leaf.verify_directly_issued_by(ca)
        issuer = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        assert issuer == ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
