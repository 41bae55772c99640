"""Our command-line tools against DCMTK's, both ways, on the same command lines."""

import contextlib
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import jwt
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cli_processes import DEADLINE, Receiver, data_set, run, wait_until, write_instance, write_instances
from ports import free_port

from asyncdicom.cli import echoscu, findscu, getscu, movescu, storescp, storescu

pytestmark = pytest.mark.usefixtures("dcmtk")

TABLES = {module.TOOL.name: module.TOOL for module in (echoscu, storescu, storescp, findscu, getscu, movescu)}
NOT_OFFERED = {"--arguments"}


def dcmtk(*words):
    """The whole run of one of DCMTK's tools."""
    return subprocess.run(list(map(str, words)), check=False, capture_output=True, text=True, timeout=DEADLINE)


@contextlib.contextmanager
def dcmtk_receiver(folder, *options):
    """DCMTK's storescp, and the host and port where it listens."""
    folder.mkdir()
    port = free_port()
    words = ["storescp", "-od", str(folder), *options, str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: is_open(port) or process.poll() is not None)
        yield "127.0.0.1", port
    finally:
        process.kill()
        process.wait(DEADLINE)


def is_open(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@pytest.mark.parametrize("name", TABLES)
def test_every_option_of_dcmtk_is_known(name):
    found = re.findall(r"^\s+([-+]\S+)?\s+(--\S+) ", dcmtk(name, "--help").stdout, re.MULTILINE)
    options = {spelling for row in found for spelling in row if spelling} - NOT_OFFERED
    assert len(options) > 40
    assert options - set(TABLES[name].table()) == set()


@pytest.mark.parametrize("name", TABLES)
def test_options_with_values_take_as_many_words_as_dcmtks(name):
    for match in re.finditer(r"^\s+(?:[-+]\S+)?\s+(--\S+) +(\[.*)$", dcmtk(name, "--help").stdout, re.MULTILINE):
        if match[1] not in NOT_OFFERED:
            assert len(TABLES[name].table()[match[1]].values) == match[2].count("["), match[0]


ECHO = (
    "HOST PORT",
    "-v HOST PORT",
    "HOST PORT -aec X",
    "-aet ME HOST -to 5 PORT -ta 5 -td 5 -pdu 16384",
    "-pts 5 -ppc 3",
)


@pytest.mark.parametrize("line", ECHO)
def test_the_same_echo_command_line_does_for_both(tmp_path, line):
    with dcmtk_receiver(tmp_path / "theirs") as (host, port), Receiver(tmp_path / "ours") as ours:
        line = line if "PORT" in line else f"{line} HOST PORT"
        theirs = line.replace("HOST", host).replace("PORT", str(port)).split()
        mine = line.replace("HOST", host).replace("PORT", str(ours.port)).split()
        assert run("echoscu", *theirs).returncode == 0
        assert dcmtk("echoscu", *mine).returncode == 0


STORE = (
    "HOST PORT FOLDER +sd +r",
    "+sd HOST PORT -aet ME -aec YOU FOLDER +sp *.dcm",
    "-R HOST -nh PORT +sd FOLDER",
    "-xs HOST PORT +sd FOLDER --max-send-pdu 16384",
    "-xi +sd HOST PORT FOLDER",
    "+C -x= +sd HOST PORT FOLDER",
    "-xd --repeat 2 HOST PORT +sd FOLDER",
)


@pytest.mark.parametrize("line", STORE)
def test_the_same_store_command_line_does_for_both(tmp_path, line):
    sent = write_instances(tmp_path / "sent", 3)
    with dcmtk_receiver(tmp_path / "theirs") as (host, port), Receiver(tmp_path / "ours") as ours:
        words = [{"HOST": host, "FOLDER": str(sent)}.get(word, word) for word in line.split()]
        assert run("storescu", *(port if word == "PORT" else word for word in words)).returncode == 0
        assert dcmtk("storescu", *(ours.port if word == "PORT" else word for word in words)).returncode == 0
    assert len(list((tmp_path / "theirs").iterdir())) == 3
    assert len(ours.files()) == 3


def test_dcmtks_bit_preserving_receiver_gets_the_bytes_of_the_file(tmp_path):
    sent = write_instance(tmp_path / "a.dcm")
    with dcmtk_receiver(tmp_path / "theirs", "+B", "+xa") as peer:
        assert run("storescu", *peer, sent).returncode == 0
    (stored,) = (tmp_path / "theirs").iterdir()
    assert data_set(stored) == data_set(sent)


@pytest.mark.parametrize(("fault", "code"), [("--refuse", 61), ("--abort-after", 70), ("--abort-during", 70)])
def test_dcmtks_faults_have_their_exit_codes(tmp_path, fault, code):
    with dcmtk_receiver(tmp_path / "theirs", fault) as peer:
        assert run("storescu", *peer, write_instance(tmp_path / "a.dcm")).returncode == code


@pytest.mark.parametrize("options", ["+xa", "+x=", "+xi", "+xe -pm", "--fork -dhl -up", "+B -fe .img", "--workers 2"])
def test_dcmtks_sender_is_served_whatever_storescps_options(tmp_path, options):
    with Receiver(tmp_path / "ours", *options.split()) as ours:
        assert dcmtk("storescu", *ours.peer, write_instance(tmp_path / "a.dcm")).returncode == 0
    assert len(ours.files()) == 1


def test_dcmtks_sender_is_known_by_its_token(tmp_path):
    assert run("certs", "init", tmp_path / "lab", "--host", "localhost").returncode == 0
    key, certificate, instance = tmp_path / "lab/server.key", tmp_path / "lab/server.pem", tmp_path / "a.dcm"
    write_instance(instance)
    codes = []
    options = ("--jwt-key", certificate, "--jwt-algorithm", "ES256", "--jwt-issuer", "id", "--jwt-audience", "archive")
    with Receiver(tmp_path / "received", *options) as receiver:
        for audience in ("archive", "else"):
            claims = {"sub": "carol", "iss": "id", "aud": audience, "exp": time.time() + 3600}
            (tmp_path / "token").write_text(jwt.encode(claims, key.read_bytes(), "ES256"))
            codes.append(
                dcmtk("storescu", "-R", "--jwt", tmp_path / "token", "-rsp", *receiver.peer, instance).returncode
            )
    assert (codes[0], codes[1] != 0, len(receiver.files())) == (0, True, 1)
    assert "it is not for this audience" in receiver.errors
