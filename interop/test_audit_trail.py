"""The audit trail beside other people's programs: DCMTK's tools as peers, rsyslog as the collector."""

import asyncio
import base64
import contextlib
import datetime as dt
import functools
import os
import ssl
import subprocess
from pathlib import Path

import pytest
from audit_rules import Message
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from peers import DEADLINE, corpus, listens, run
from ports import free_ports

import asyncdicom
from asyncdicom import Status
from asyncdicom.audit import AuditTrail, FileSink, SyslogSink
from asyncdicom.tls import server_context
from asyncdicom.uids import STUDY_ROOT_FIND
from conftest import require

TO = ("-aet", "MODALITY", "-aec", "ARCHIVE", "127.0.0.1")

RSYSLOG = """\
global(workDirectory="{folder}" maxMessageSize="64k"
       defaultNetstreamDriverCAFile="{certificate}"
       defaultNetstreamDriverCertFile="{certificate}"
       defaultNetstreamDriverKeyFile="{key}")
module(load="imtcp" StreamDriver.Name="gtls" StreamDriver.Mode="1" StreamDriver.AuthMode="anon")
module(load="imudp")
template(name="fields" type="list") {{
    property(name="pri") constant(value=" ")
    property(name="app-name") constant(value=" ")
    property(name="procid") constant(value=" ")
    property(name="msgid") constant(value=" ")
    property(name="msg") constant(value="\\n")
}}
input(type="imtcp" port="{tls}" address="127.0.0.1")
input(type="imudp" port="{udp}" address="127.0.0.1")
action(type="omfile" file="{folder}/received" template="fields")
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Files with the certificate of a collector called localhost, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    folder = tmp_path_factory.mktemp("tls")
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "certificate.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return folder / "certificate.pem", folder / "key.pem"


class Rsyslog:
    """An rsyslog of our own: its ports for TLS and UDP, and what it has received."""

    def __init__(self, folder, certificate, key):
        self.folder = folder
        self.tls, self.udp = free_ports(2)
        self.context = ssl.create_default_context(cafile=certificate)
        (folder / "rsyslog.conf").write_text(
            RSYSLOG.format(folder=folder, certificate=certificate, key=key, tls=self.tls, udp=self.udp)
        )
        self._process = None

    async def start(self):
        with (self.folder / "errors").open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *("rsyslogd", "-n", "-f", self.folder / "rsyslog.conf", "-i", self.folder / "rsyslog.pid"),
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        await until(lambda: listens(self.tls) or self._process.returncode is not None)
        assert self._process.returncode is None, (self.folder / "errors").read_text()

    async def stop(self):
        if self._process.returncode is None:
            self._process.terminate()
            await asyncio.wait_for(self._process.wait(), DEADLINE)

    @property
    def received(self):
        """PRI, APP-NAME, PROCID, MSGID and text of each message."""
        path = self.folder / "received"
        return [line.split(" ", 4) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


@pytest.fixture
async def rsyslog(tmp_path, certificate):
    """A collector on loopback, with the certificate of localhost."""
    has_tls = any(Path("/usr/lib").glob("*/rsyslog/lmnsd_gtls.so"))
    require("rsyslogd" if has_tls else "lmnsd_gtls.so", "rsyslog-gnutls", "ASYNCDICOM_REQUIRE_RSYSLOG")
    folder = tmp_path / "rsyslog"
    folder.mkdir()
    collector = Rsyslog(folder, *certificate)
    await collector.start()
    try:
        yield collector
    finally:
        await collector.stop()


async def until(condition):
    async with asyncio.timeout(DEADLINE):
        while not (found := condition()):
            await asyncio.sleep(0.01)
    return found


async def keep(request):
    await request.data_set.read()
    return Status.SUCCESS


async def nothing(request):
    return
    yield


@contextlib.asynccontextmanager
async def serving(*sinks, **options):
    """Our server, whose trail goes there."""
    audit = AuditTrail("archive", sinks)
    options = {"ae_title": "ARCHIVE", "c_store": keep, "c_find": nothing, "any_storage": True} | options
    async with asyncdicom.serve("127.0.0.1", 0, audit=audit, **options) as server:
        yield server


def messages(path):
    return [Message(line) for line in path.read_text("utf-8").splitlines()]


async def test_what_storescu_stores_is_in_the_file(dcmtk, tmp_path):
    sent = [each for each in corpus() if each.transfer_syntax_uid == "1.2.840.10008.1.2.1"][:5]
    async with serving(FileSink(tmp_path / "audit.xml")) as server:
        code, output = await run("storescu", *TO, server.port, *(each.path for each in sent))
        assert code == 0, output
    found = [each for each in messages(tmp_path / "audit.xml") if each.id == "DICOM Instances Transferred"]
    numbers = {}
    for each in found:
        assert each.outcome == 0
        assert each.requestors == ["MODALITY"]
        for classes in each.numbers.values():
            for uid, number in classes.items():
                numbers[uid] = numbers.get(uid, 0) + number
    assert numbers == {uid: [each.sop_class_uid for each in sent].count(uid) for uid in numbers}
    assert sum(numbers.values()) == len(sent)
    for each in sent:
        data_set = await asyncio.to_thread(read, each.path)
        assert any(
            data_set.StudyInstanceUID in one.numbers and (data_set.PatientID or "<none>") in one.ids("Patient Number")
            for one in found
        )


def read(path):
    import pydicom

    return pydicom.dcmread(path, stop_before_pixels=True)


async def test_a_wrong_called_title_is_an_alert(dcmtk, tmp_path):
    async with serving(FileSink(tmp_path / "audit.xml"), ae_title="OTHER") as server:
        code, _ = await run("echoscu", *TO, server.port)
        assert code != 0
    _, alert, _ = messages(tmp_path / "audit.xml")
    assert alert.kind == ("Security Alert", "Node Authentication", 4)
    assert alert.participants[1].get("UserID") == "MODALITY"
    assert "'ARCHIVE'" in alert.detail("Alert Description").decode()


async def test_echoscu_that_finds_no_place_or_speaks_no_tls_is_an_alert(dcmtk, tmp_path, certificate):
    options = {"max_associations": 0}, {"ssl": server_context(*certificate)}
    whys = []
    for number, each in enumerate(options):
        file = tmp_path / f"audit-{number}.xml"
        async with serving(FileSink(file), **each) as server:
            code, _ = await run("echoscu", *TO, server.port)
            assert code != 0
        _, alert, _ = messages(file)
        assert alert.kind == ("Security Alert", "Node Authentication", 4)
        whys.append(alert.why)
    assert "local limit exceeded" in whys[0]
    assert "an association request without TLS" in whys[1]


async def test_what_findscu_asks_for_is_in_the_file(dcmtk, tmp_path):
    async with serving(FileSink(tmp_path / "audit.xml")) as server:
        key = ("-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientID=PAT1")
        code, output = await run("findscu", *TO, server.port, *key)
        assert code == 0, output
    _, query, _ = messages(tmp_path / "audit.xml")
    assert query.ids("SOP Class UID") == [STUDY_ROOT_FIND]
    assert query.requestors == ["MODALITY"]
    identifier = query.root.findtext(".//ParticipantObjectQuery")
    assert b"PAT1" in base64.b64decode(identifier)


async def test_rsyslog_takes_messages_over_tls(rsyslog, tmp_path):
    sinks = SyslogSink("localhost", rsyslog.tls, ssl=rsyslog.context), FileSink(tmp_path / "audit.xml")
    async with serving(*sinks) as server:
        async with asyncdicom.connect("127.0.0.1", server.port, called_ae_title="ARCHIVE") as association:
            assert await association.c_echo() == Status.SUCCESS
        with pytest.raises(asyncdicom.AssociationRejected):
            await asyncdicom.connect("127.0.0.1", server.port, called_ae_title="BÄD".replace("Ä", "<&>"))
    lines = (tmp_path / "audit.xml").read_text("utf-8").splitlines()
    received = await until(lambda: len(rsyslog.received) == len(lines) and rsyslog.received)
    assert [each[4].removeprefix("\ufeff") for each in received] == lines
    assert [each[0] for each in received] == ["85", "84", "85"]
    assert {(each[1], each[3]) for each in received} == {("asyncdicom", "DICOM+RFC3881")}


async def test_rsyslog_hears_of_all_processes_of_a_server(rsyslog, tmp_path, certificate):
    policy = tmp_path / "access.toml"
    policy.write_text('default = "allow"')
    make = functools.partial(ssl.create_default_context, cafile=certificate[0])
    audit = AuditTrail("archive", [SyslogSink("localhost", rsyslog.tls, ssl=make)])
    options = {"workers": 2, "access": policy, "audit": audit}
    async with asyncdicom.serve("127.0.0.1", 0, contexts="1.2.840.10008.1.1", **options) as server:
        processes = server.processes
        server.reload()
    received = await until(lambda: len(rsyslog.received) == 5 and rsyslog.received)
    assert sorted(int(each[2]) for each in received) == sorted([*processes * 2, os.getpid()])
    (change,) = (each for each in received if int(each[2]) == os.getpid())
    assert Message(change[4].removeprefix("\ufeff")).kind == ("Security Alert", "Security Configuration", 0)


async def test_rsyslog_takes_long_messages_and_datagrams(rsyslog):
    sinks = (
        SyslogSink("localhost", rsyslog.tls, ssl=rsyslog.context),
        SyslogSink("127.0.0.1", rsyslog.udp, transport="udp"),
    )
    async with AuditTrail("archive", sinks) as audit:
        for number in range(20):
            audit.handshake_failed("192.0.2.1", f"{number} {'ü' * 1000}")
    received = await until(lambda: len(rsyslog.received) == 40 and rsyslog.received)
    found = [Message(each[4].removeprefix("\ufeff")).why for each in received]
    assert sorted(set(found)) == sorted(f"TLS: {number} {'ü' * 1000}" for number in range(20))


async def test_messages_wait_for_rsyslog_to_come_back(rsyslog):
    sink = SyslogSink("localhost", rsyslog.tls, ssl=rsyslog.context)
    async with AuditTrail("archive", [sink]) as audit:
        audit.handshake_failed("192.0.2.1", "before")
        await until(lambda: rsyslog.received)
        await rsyslog.stop()
        for number in range(50):
            audit.handshake_failed("192.0.2.1", str(number))
        await rsyslog.start()
        received = await until(lambda: len(rsyslog.received) == 51 and rsyslog.received)
    whys = [Message(each[4].removeprefix("\ufeff")).why for each in received]
    assert whys == [f"TLS: {text}" for text in ("before", *map(str, range(50)))]
    assert sink.lost == 0
