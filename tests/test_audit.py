"""The audit trail: messages as the standard has them, sinks that keep nobody waiting, events of real associations."""

import asyncio
import base64
import contextlib
import dataclasses
import functools
import logging
import os
import pickle
import signal
import socket
import ssl
import stat
import sys
import threading
import zlib
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import worker_handlers
from audit_rules import Message, parse_frames, parse_syslog, problems
from hypothesis import given
from hypothesis import strategies as st
from ports import free_port
from pydicom import Dataset
from raw_peer import CT, DEADLINE, element, pdv, raw_client, raw_server, request, store_request
from standard_tables import AUDIT

import asyncdicom
from asyncdicom import Context, Status, UserIdentity
from asyncdicom.audit import AuditTrail, FileSink, LogSink, Outcome, Sink, SyslogSink, messages, trail
from asyncdicom.audit.sinks import Record
from asyncdicom.pdu import AssociateRJ
from asyncdicom.tls import client_context, server_context
from asyncdicom.uids import STUDY_ROOT_FIND, STUDY_ROOT_GET, STUDY_ROOT_MOVE, VERIFICATION

MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
ALERT = "Security Alert", "Node Authentication"
BEGIN = "Begin Transferring DICOM Instances", None, 0
TRANSFERRED = "DICOM Instances Transferred", None, 0

US = messages.Participant("4711", ["OURS"], "archive", access_point=messages.AccessPoint("host", "1"))
THEM = messages.Participant("THEIRS", ["THEIRS"], access_point=messages.AccessPoint("192.0.2.1"))
SENT = [
    messages.Participant("A", ["A"], role=messages.SOURCE),
    messages.Participant("B", ["B"], role=messages.DESTINATION, is_requestor=True),
]
EVERY_MESSAGE = {
    "start": messages.application_activity(US, messages.APPLICATION_START),
    "stop": messages.application_activity(US, messages.APPLICATION_STOP),
    "begin": messages.begin_transferring(SENT, "1.2.3", "PAT1", CT),
    "transferred": messages.instances_transferred(SENT, {"1.2.3": {CT: 3, MR: 1}, "1.2.4": {CT: 1}}, "PAT1"),
    "not transferred": messages.instances_transferred(SENT, {"": {CT: 3}}, "", Outcome.MINOR_FAILURE, "refused"),
    "query": messages.query(SENT, STUDY_ROOT_FIND, EXPLICIT, b"\0\1\2"),
    "alert": messages.security_alert(
        [US, THEM], messages.NODE_AUTHENTICATION, "192.0.2.1", Outcome.MINOR_FAILURE, "who?"
    ),
    "configuration": messages.security_alert(
        [US], messages.SECURITY_CONFIGURATION, "file:///etc/x", Outcome.SUCCESS, "read anew", is_node=False
    ),
    "restricted": messages.security_alert(
        [US, THEM], messages.USE_OF_RESTRICTED_FUNCTION, "192.0.2.1", Outcome.MINOR_FAILURE, "not for you"
    ),
    "login": messages.user_authentication(THEM, US, messages.LOGIN),
    "logout": messages.user_authentication(THEM, US, messages.LOGOUT),
}


def xml_of(message, **more):
    return message.to_xml(time="2026-01-02T03:04:05.678Z", source_id="archive", **more)


def instance(number=1, sop_class=CT, *, study="1.2.3", patient="PAT1"):
    """An instance in memory; without a study or patient if they are empty."""
    uid = f"1.2.3.{number}"
    data = element(0x0008, 0x0016, b"UI", even(sop_class.encode()))
    data += element(0x0008, 0x0018, b"UI", even(uid.encode()))
    data += element(0x0010, 0x0020, b"LO", even(patient.encode(), b" ")) if patient else b""
    data += element(0x0020, 0x000D, b"UI", even(study.encode())) if study else b""
    data += element(0x0028, 0x0010, b"US", b"\1\0")
    return asyncdicom.Instance(sop_class, uid, EXPLICIT, length=len(data), data=data)


def even(value, pad=b"\0"):
    return value + pad if len(value) % 2 else value


class ListSink(Sink):
    """Keeps what it is given, until it is told not to."""

    def __init__(self, **options):
        super().__init__(**options)
        self.records = []
        self.may_write = threading.Event()
        self.may_write.set()
        self.error = None
        self.has_failed = threading.Event()

    def __repr__(self):
        return "ListSink()"

    def _write(self, record):
        self.may_write.wait(DEADLINE)
        if self.error is not None:
            self.has_failed.set()
            raise self.error
        self.records.append(record)

    @property
    def messages(self):
        return [Message(record.xml) for record in self.records]

    def kinds(self):
        return [message.kind for message in self.messages]

    def of(self, *kind):
        """The messages of a kind."""
        return [message for message in self.messages if message.kind[: len(kind)] == kind]


@pytest.fixture
def sink():
    """A sink that writes into a list."""
    sink = ListSink()
    yield sink
    sink.may_write.set()
    sink.close()


@pytest.fixture
def audit(sink):
    """A trail to that sink."""
    return AuditTrail("archive", [sink], enterprise_site_id="hospital")


async def until(condition):
    async with asyncio.timeout(DEADLINE):
        while not (found := condition()):
            await asyncio.sleep(0.001)
    return found


def record(text="<x/>", *, is_failure=False):
    return Record(text, "2026-01-02T03:04:05.678Z", is_failure)


async def drop(request):
    return Status.SUCCESS


# Messages


@pytest.mark.parametrize("name", EVERY_MESSAGE)
def test_every_message_is_as_the_schema_and_its_table_want_it(name):
    assert problems(xml_of(EVERY_MESSAGE[name], enterprise_site_id="hospital")) == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("start", 'EventDateTime="2026-01-02T03:04:05.678Z"', 'EventDateTime="2026-01-02T03:04:05.678"'),
        ("start", 'EventOutcomeIndicator="0"', 'EventOutcomeIndicator="1"'),
        ("start", ' AuditSourceID="archive"', ""),
        ("start", "Application Start", "Application Begin"),
        ("start", "<ActiveParticipant", '<ActiveParticipant Passcode="x"'),
        ("begin", 'EventActionCode="E"', 'EventActionCode="R"'),
        ("begin", "110153", "110152"),
        ("begin", 'ParticipantObjectTypeCodeRole="1"', 'ParticipantObjectTypeCodeRole="3"'),
        ("begin", "<ParticipantObjectName />", ""),
        ("query", "TransferSyntax", "Syntax"),
        ("query", ">AAEC<", ">not base64<"),
        ("transferred", 'NumberOfInstances="3"', 'NumberOfInstances="three"'),
        ("login", 'NetworkAccessPointID="192.0.2.1" ', ""),
        ("alert", "Alert Description", "Description"),
    ],
)
def test_a_message_that_is_not_is_found_out(name, old, new):
    xml = xml_of(EVERY_MESSAGE[name])
    assert xml.count(old)
    assert problems(xml.replace(old, new, 1)) != []


@given(st.text(st.characters()))
def test_any_text_of_a_peer_leaves_one_line_of_xml(text):
    peer = messages.Participant(text, [text], text, access_point=messages.AccessPoint(text))
    message = messages.security_alert([US, peer], messages.NODE_AUTHENTICATION, text, Outcome.MINOR_FAILURE, text)
    xml = xml_of(message)
    assert len(xml.splitlines()) == 1
    assert ET.fromstring(xml).findall("ActiveParticipant")[1].get("UserName", "") == messages.clean(text)
    xml.encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('<&">', '<&">'),
        ("a\0b\r\nc\x1b[31m", "a\\x00b\\r\\nc\\x1b[31m"),
        ("\ud800\ufffe\u2028", "\\ud800\\ufffe\\u2028"),
        ("Bücher 東京 \U0001f600", "Bücher 東京 \U0001f600"),
        ("x" * 2000, "x" * 1024 + "..."),
    ],
)
def test_what_xml_forbids_is_written_out(text, expected):
    assert messages.clean(text) == expected


def test_a_long_query_is_cut_and_the_message_says_so():
    message = Message(xml_of(messages.query(SENT, STUDY_ROOT_FIND, EXPLICIT, b"x" * 100_000)))
    assert base64.b64decode(message.root.find(".//ParticipantObjectQuery").text) == b"x" * messages.MAX_QUERY
    assert "100000 bytes" in message.why
    assert len(repr(message)) < AUDIT["syslog"]["message_size"]


def test_what_nobody_knows_is_said_to_be_unknown():
    message = Message(xml_of(messages.begin_transferring(SENT, "", "", CT)))
    assert message.ids("Study Instance UID") == message.ids("Patient Number") == ["<none>"]


# The queue of a sink


def test_messages_are_written_in_order(sink):
    for number in range(1000):
        sink.put(record(str(number)))
    sink.close()
    assert [int(each.xml) for each in sink.records] == list(range(1000))


def test_whoever_reports_does_not_wait_for_a_sink(sink):
    sink.may_write.clear()
    for number in range(100):
        sink.put(record(str(number)))
    assert sink.records == []


def test_what_is_too_much_is_lost_counted_and_told_once_at_each_end(caplog):
    sink = ListSink(limit=100_000)
    sink.may_write.clear()
    for _ in range(500):
        sink.put(record("x" * 500))
    kept = 100_000 // (500 + 512)
    assert sink.lost == 500 - kept
    sink.may_write.set()
    sink.close()
    assert len(sink.records) == kept
    assert [each.getMessage() for each in caplog.records] == [
        f"= audit messages for ListSink() are being lost: {kept * 1012} bytes of them wait",
        f"= {500 - kept} audit messages for ListSink() were lost",
    ]


def test_where_no_thread_can_be_started_messages_wait(sink, monkeypatch, caplog):
    def start(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        sink.put(record("<first/>"))
    assert "can't start new thread" in caplog.text
    sink.put(record("<second/>"))
    sink.close()
    assert [each.xml for each in sink.records] == ["<first/>", "<second/>"]


def test_what_cannot_be_written_now_is_tried_again_in_order(caplog):
    sink = ListSink()
    sink.error = OSError("no space")
    for number in range(10):
        sink.put(record(str(number)))
    assert sink.has_failed.wait(DEADLINE)
    sink.error = None
    sink.close(timeout=DEADLINE)
    assert [int(each.xml) for each in sink.records] == list(range(10))
    assert [each.getMessage() for each in caplog.records] == ["= audit messages for ListSink() wait: no space"]


def test_a_message_that_a_sink_fails_on_does_not_stop_the_others(caplog):
    class Fussy(ListSink):
        def _write(self, record):
            if record.xml == "1":
                raise ValueError("not this one")
            super()._write(record)

    sink = Fussy()
    for number in range(3):
        sink.put(record(str(number)))
    sink.close()
    assert [each.xml for each in sink.records] == ["0", "2"]
    assert "cannot be written" in caplog.text


def test_closing_is_bounded_and_what_was_not_written_is_counted(caplog):
    sink = ListSink()
    sink.error = OSError("no space")
    for _ in range(10):
        sink.put(record())
    sink.close(timeout=0.1)
    assert sink.lost == 10
    assert "10 audit messages for ListSink() were not written within 0.1 s" in caplog.text


def test_a_closed_sink_begins_anew(sink):
    for text in "ab":
        sink.put(record(text))
        sink.close()
    assert [each.xml for each in sink.records] == ["a", "b"]


@pytest.mark.parametrize(
    "sink",
    [FileSink("audit.xml", sync=True), LogSink("x"), SyslogSink("localhost", 1, transport="tcp", limit=7)],
    ids=lambda sink: type(sink).__name__,
)
def test_a_trail_can_be_sent_to_another_process(sink):
    sent = pickle.loads(pickle.dumps(AuditTrail("archive", [sink], enterprise_site_id="hospital")))
    assert (sent.source_id, sent.enterprise_site_id) == ("archive", "hospital")
    assert repr(sent.sinks[0]) == repr(sink)
    assert sent.sinks[0].limit == sink.limit


# A file, a log


def test_a_file_has_a_message_in_each_line_and_is_nobody_elses_business(tmp_path):
    sink = FileSink(tmp_path / "audit.xml", sync=True)
    for message in EVERY_MESSAGE.values():
        sink.put(record(xml_of(message)))
    sink.close()
    lines = (tmp_path / "audit.xml").read_text("utf-8").splitlines()
    assert lines == [xml_of(message) for message in EVERY_MESSAGE.values()]
    assert stat.S_IMODE((tmp_path / "audit.xml").stat().st_mode) == 0o600


async def test_a_file_that_was_rotated_is_made_anew(tmp_path):
    path = tmp_path / "audit.xml"
    sink = FileSink(path)
    sink.put(record("<first/>"))
    await until(lambda: path.exists() and path.read_text() == "<first/>\n")
    path.rename(tmp_path / "audit.xml.1")
    sink.put(record("<second/>"))
    await until(path.exists)
    sink.close()
    assert (tmp_path / "audit.xml.1").read_text() == "<first/>\n"
    assert path.read_text() == "<second/>\n"


def test_several_writers_of_a_file_do_not_mix_their_lines(tmp_path):
    sinks = [FileSink(tmp_path / "audit.xml") for _ in range(4)]
    for _ in range(200):
        for name, sink in zip("abcd", sinks, strict=True):
            sink.put(record(name * 3000))
    for sink in sinks:
        sink.close()
    lines = (tmp_path / "audit.xml").read_text().splitlines()
    assert sorted(lines) == sorted([name * 3000 for name in "abcd"] * 200)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_told_and_waited_for(caplog):
    sink = FileSink("/dev/full")
    sink.put(record())
    sink.close(timeout=0.2)
    assert sink.lost == 1
    assert "No space left on device" in caplog.text


def test_a_log_gets_failures_as_warnings(caplog):
    caplog.set_level(logging.INFO, "asyncdicom.audit")
    sink = LogSink()
    sink.put(record("<good/>"))
    sink.put(record("<bad/>", is_failure=True))
    sink.close()
    assert caplog.record_tuples == [
        ("asyncdicom.audit", logging.INFO, "<good/>"),
        ("asyncdicom.audit", logging.WARNING, "<bad/>"),
    ]


# Syslog


def _shut(raw):
    with contextlib.suppress(OSError, ValueError), socket.fromfd(raw.fileno(), raw.family, raw.type) as copy:
        copy.shutdown(socket.SHUT_RDWR)


class Collector:
    """A small syslog collector over TCP or TLS, which can be stopped and started again at the same port."""

    def __init__(self, context=None):
        self.context = context
        self.received = []
        self.reads = True
        self.connections = 0
        self.port = 0
        self._server = None
        self._writers = []
        self._tasks = []
        self._may_read = asyncio.Event()

    @property
    def texts(self):
        return [parse_syslog(each).text for each in self.received]

    async def start(self):
        self._server = await asyncio.start_server(self._collect, "127.0.0.1", self.port, ssl=self.context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self):
        """Close all; when it returns nobody can connect, and the connections are gone."""
        for raw in (*self._server.sockets, *(raw for _, raw in self._writers)):
            _shut(raw)  # uvloop closes some turns later, and a message would be lost
        self._server.close()
        self._may_read.set()
        async with asyncio.timeout(DEADLINE):
            for writer, _ in self._writers:
                if not writer.is_closing():
                    writer.transport.abort()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._server.wait_closed()
        self._writers.clear()
        self._tasks.clear()

    async def __aenter__(self):
        await self.start()
        return self

    async def __aexit__(self, *_):
        await self.stop()

    async def _collect(self, reader, writer):
        self.connections += 1
        self._writers.append((writer, writer.get_extra_info("socket")))
        self._tasks.append(asyncio.current_task())
        if not self.reads:
            writer.transport.pause_reading()
            await self._may_read.wait()
            return
        left = b""
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                found, left = parse_frames(left + data)
                self.received += found
            writer.close()


@pytest.mark.parametrize(("is_failure", "severity"), [(False, 5), (True, 4)])
def test_a_syslog_message_is_as_rfc_5424_has_it(is_failure, severity):
    xml = xml_of(EVERY_MESSAGE["begin"])
    sink = SyslogSink("localhost", app_name="our archive\n")
    found = parse_syslog(sink._message(record(xml, is_failure=is_failure)))
    assert (found.facility, found.severity) == (AUDIT["syslog"]["facility"], severity)
    assert (found.app_name, found.process) == ("ourarchive", str(os.getpid()))
    assert (found.host, found.message_id) == (socket.gethostname(), AUDIT["syslog"]["msgid"])
    assert (found.time.isoformat(), found.text) == ("2026-01-02T03:04:05.678000+00:00", xml)


def test_over_udp_each_datagram_is_a_message():
    with socket.socket(type=socket.SOCK_DGRAM) as collector:
        collector.settimeout(DEADLINE)
        collector.bind(("127.0.0.1", 0))
        sink = SyslogSink("127.0.0.1", collector.getsockname()[1], transport="udp")
        for text in ("<a/>", "<b/>"):
            sink.put(record(text))
        assert [parse_syslog(collector.recv(65536)).text for _ in range(2)] == ["<a/>", "<b/>"]
        sink.close()


def test_what_is_too_long_for_udp_is_told_and_the_next_one_sent(caplog):
    with socket.socket(type=socket.SOCK_DGRAM) as collector:
        collector.settimeout(DEADLINE)
        collector.bind(("127.0.0.1", 0))
        sink = SyslogSink("127.0.0.1", collector.getsockname()[1], transport="udp")
        sink.put(record("x" * 100_000))
        sink.put(record("<b/>"))
        assert parse_syslog(collector.recv(65536)).text == "<b/>"
        sink.close()
    assert "too long" in caplog.text


@pytest.mark.parametrize("transport", ["tcp", "tls"])
async def test_over_a_stream_messages_come_in_frames_and_in_order(transport, tls_contexts):
    server, client = tls_contexts if transport == "tls" else (None, None)
    async with Collector(server) as collector:
        sink = SyslogSink("localhost", collector.port, transport=transport, ssl=client)
        sent = [f"<m>{'ü' * (number % 50)}{number}</m>" for number in range(500)]
        for text in sent:
            sink.put(record(text))
        await until(lambda: len(collector.received) == len(sent))
        await asyncio.to_thread(sink.close)
        assert collector.texts == sent
        assert collector.connections == 1


async def test_a_function_makes_the_context_for_each_connection(tls_contexts):
    made = []

    def context():
        made.append(True)
        return tls_contexts[1]

    async with Collector(tls_contexts[0]) as collector:
        sink = SyslogSink("localhost", collector.port, ssl=context)
        for text in ("<a/>", "<b/>"):
            sink.put(record(text))
            await asyncio.to_thread(sink.close)
        await until(lambda: len(collector.received) == 2)
    assert len(made) == 2


def test_a_context_that_cannot_be_made_is_told_and_tried_again(caplog):
    def context():
        raise ValueError("no key")

    with socket.create_server(("127.0.0.1", 0)) as collector:
        sink = SyslogSink("localhost", collector.getsockname()[1], ssl=context)
        sink.put(record())
        sink.close(timeout=0.3)
    assert "wait: no key" in caplog.text
    assert sink.lost == 1


async def test_a_collector_with_a_certificate_that_nobody_vouches_for_gets_nothing(tls_contexts, caplog):
    async with Collector(tls_contexts[0]) as collector:
        sink = SyslogSink("localhost", collector.port)
        sink.put(record())
        await until(lambda: "the collector's certificate was not accepted: it is self-signed" in caplog.text)
        assert "name its CA in ssl=, for the tools by +cf FILE" in caplog.text
        await asyncio.to_thread(sink.close, 0.1)
        assert collector.received == []
    assert sink.lost == 1


async def test_a_collector_with_another_name_gets_nothing(tls_contexts, caplog):
    async with Collector(tls_contexts[0]) as collector:
        sink = SyslogSink("127.0.0.1", collector.port, ssl=tls_contexts[1])
        sink.put(record())
        await until(lambda: "the collector's certificate was not accepted: IP address mismatch" in caplog.text)
        await asyncio.to_thread(sink.close, 0.1)
        assert collector.received == []


async def test_what_is_reported_while_a_collector_is_away_comes_when_it_is_back():
    async with Collector() as collector:
        sink = SyslogSink("localhost", collector.port, transport="tcp")  # over TLS it is seen with rsyslog
        try:
            sink.put(record("before"))
            await until(lambda: collector.received)
            await collector.stop()
            for number in range(100):
                sink.put(record(str(number)))
            await collector.start()
            await until(lambda: len(collector.received) == 101)
        finally:
            await asyncio.to_thread(sink.close)
    assert collector.texts == ["before", *map(str, range(100))]
    assert sink.lost == 0


async def test_a_collector_that_takes_nothing_delays_no_association(caplog):
    async with Collector() as collector:
        collector.reads = False
        sink = SyslogSink("localhost", collector.port, transport="tcp", limit=1 << 20)
        audit = AuditTrail("archive", [sink])
        async with asyncdicom.serve("127.0.0.1", 0, audit=audit) as server:
            async with asyncio.timeout(DEADLINE):
                while not sink.lost:
                    audit.handshake_failed("192.0.2.1", "x" * 1000)
                    await asyncio.sleep(0)
            async with asyncio.timeout(5), asyncdicom.connect("127.0.0.1", server.port) as association:
                assert await association.c_echo() == Status.SUCCESS
            assert sink._size <= sink.limit
            await asyncio.to_thread(sink.close, 0.1)
        await asyncio.to_thread(sink.close, 0.1)
    assert "are being lost" in caplog.text


def test_what_makes_no_sense_for_syslog_is_refused_at_once():
    with pytest.raises(ValueError, match="there are tls, tcp and udp"):
        SyslogSink("localhost", transport="smoke")
    with pytest.raises(ValueError, match="transport='tls'"):
        SyslogSink("localhost", transport="tcp", ssl=ssl.create_default_context())


# Events of servers


async def test_a_server_says_where_it_begins_and_ends(sink, audit):
    async with asyncdicom.serve("127.0.0.1", 0, ae_title=["B", "A"], audit=audit):
        pass
    assert sink.kinds() == [
        ("Application Activity", "Application Start", 0),
        ("Application Activity", "Application Stop", 0),
    ]
    for message in sink.messages:
        (us,) = message.participants
        assert (us.get("UserID"), us.get("AlternativeUserID")) == (str(os.getpid()), "AETITLES=A;B")
        source = message.root.find("AuditSourceIdentification")
        assert (source.get("AuditSourceID"), source.get("AuditEnterpriseSiteID")) == ("archive", "hospital")


async def test_two_servers_may_share_a_trail(sink, audit):
    async with asyncdicom.serve("127.0.0.1", 0, audit=audit):
        thread = sink._thread
        async with asyncdicom.serve("127.0.0.1", 0, audit=audit):
            pass
        assert sink._thread is thread  # the first one's sinks were left as they are
        assert thread.is_alive()
    assert [kind[1] for kind in sink.kinds()] == ["Application Start"] * 2 + ["Application Stop"] * 2


@pytest.mark.parametrize(
    ("options", "called", "why"),
    [
        ({"ae_title": "OURS"}, "OTHER", "called AE title"),
        ({"calling_ae_titles": "FRIEND"}, "OURS", "calling AE title"),
        ({"ae_title": "OURS"}, '<&">', "called AE title"),
        ({"max_associations": 0}, "OURS", "local limit exceeded; 0 associations, 0 allowed"),
    ],
)
async def test_who_is_refused_is_an_alert(sink, audit, options, called, why):
    async with asyncdicom.serve("127.0.0.1", 0, audit=audit, **options) as server:
        with pytest.raises(asyncdicom.AssociationRejected):
            await asyncdicom.connect("127.0.0.1", server.port, called_ae_title=called, calling_ae_title="STRANGER")
    (alert,) = sink.of(*ALERT)
    assert alert.outcome == 4
    assert why in alert.why
    assert repr(called) in alert.detail("Alert Description").decode()
    assert alert.ids("Node ID") == ["127.0.0.1"]
    stranger = alert.participants[1]
    assert (stranger.get("UserID"), stranger.get("NetworkAccessPointID")) == ("STRANGER", "127.0.0.1")


async def test_who_comes_while_a_server_is_closing_is_an_alert(sink, audit):
    server = await asyncdicom.serve("127.0.0.1", 0, audit=audit)
    late = await asyncio.get_running_loop().create_server(server._make_connection, "127.0.0.1", 0)
    async with late, asyncdicom.connect("127.0.0.1", server.port):
        closing = asyncio.ensure_future(server.close(drain=DEADLINE))
        await server.serve_forever()
        with pytest.raises(asyncdicom.AssociationRejected):
            await asyncdicom.connect("127.0.0.1", late.sockets[0].getsockname()[1])
    await closing
    (alert,) = sink.of(*ALERT, 4)
    assert "local limit exceeded; the server is closing" in alert.why
    assert sink.kinds()[-1][1] == "Application Stop"


async def test_a_request_of_another_protocol_version_is_an_alert(sink, audit):
    async with asyncdicom.serve("127.0.0.1", 0, audit=audit) as server, raw_client(server.port) as peer:
        peer.send(dataclasses.replace(request(), protocol_version=2))
        assert await peer.receive() == AssociateRJ(1, 2, 2)
    (alert,) = sink.of(*ALERT, 4)
    assert "protocol version not supported" in alert.why
    assert alert.participants[1].get("UserID") == "RAW"
    assert server.statistics.rejected == 1


async def test_accepted_associations_are_reported_where_that_is_asked_for(sink):
    audit = AuditTrail("archive", [sink], associations=True)
    titles = {"called_ae_title": "OURS", "calling_ae_title": "THEIRS"}
    async with asyncdicom.serve("127.0.0.1", 0, audit=audit) as server:
        async with asyncdicom.connect("127.0.0.1", server.port, audit=audit, **titles):
            pass
    found = sink.of(*ALERT, 0)
    assert sorted(each.participants[1].get("UserID") for each in found) == ["OURS", "THEIRS"]


async def test_a_user_logs_in_and_out(sink, audit):
    async def check(identity, association):
        return True

    async with asyncdicom.serve("127.0.0.1", 0, user_identity=check, audit=audit) as server:
        user = UserIdentity.of_user("smith", "swordfish")
        async with asyncdicom.connect("127.0.0.1", server.port, user_identity=user):
            pass
    login, logout = sink.messages[1:-1]
    assert login.kind == ("User Authentication", "Login", 0)
    assert logout.kind == ("User Authentication", "Logout", 0)
    assert login.requestors == logout.requestors == ["smith"]
    assert "swordfish" not in repr(sink.messages)


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        (UserIdentity.of_user("smith", "swordfish"), "smith"),
        (UserIdentity(2, b"\xffsm\0ith", b"swordfish"), "\\xffsm\\x00ith"),
        (UserIdentity(3, b"swordfish"), "the user of MODALITY with a Kerberos ticket"),
        (UserIdentity(4, b"swordfish"), "the user of MODALITY with a SAML assertion"),
        (UserIdentity(5, b"swordfish"), "the user of MODALITY with a JSON web token"),
        (UserIdentity(6, b"swordfish"), "the user of MODALITY with an identity of type 6"),
    ],
)
async def test_a_user_who_is_not_believed_is_reported_and_never_what_was_shown(sink, audit, identity, name):
    async def check(identity, association):
        return False

    async with asyncdicom.serve("127.0.0.1", 0, user_identity=check, audit=audit) as server:
        options = {"user_identity": identity, "calling_ae_title": "MODALITY"}
        with pytest.raises(asyncdicom.AssociationRejected):
            await asyncdicom.connect("127.0.0.1", server.port, **options)
    (login,) = sink.of("User Authentication", "Login")
    assert login.outcome == 4
    assert login.requestors == [name]
    assert len(sink.of(*ALERT, 4)) == 1
    assert "swordfish" not in repr(sink.messages)


async def test_who_is_refused_without_a_reason_has_not_logged_in(sink, audit):
    async def check(identity, association):
        raise asyncdicom.IdentityRefused

    async with asyncdicom.serve("127.0.0.1", 0, user_identity=check, audit=audit) as server:
        with pytest.raises(asyncdicom.AssociationRejected):
            await asyncdicom.connect("127.0.0.1", server.port, user_identity=UserIdentity.of_user("smith", "x"))
    (login,) = sink.of("User Authentication", "Login")
    assert (login.outcome, login.why) == (4, "the user identity was not confirmed")


async def test_what_cannot_be_read_again_for_no_reason_has_not_been_read(sink, audit, tls_contexts):
    made = iter([tls_contexts[0]])
    async with asyncdicom.serve("127.0.0.1", 0, audit=audit, ssl=lambda: next(made)) as server:
        with pytest.raises(StopIteration):
            server.reload_tls()
    (change,) = sink.of("Security Alert", "Security Configuration")
    assert (change.outcome, change.why) == (4, "not read anew, the old one stays: StopIteration()")


async def test_a_change_of_what_security_depends_on_is_an_alert(sink, audit, tmp_path):
    audit.configuration_changed(tmp_path / "access.toml")
    audit.configuration_changed("tls", error="no such file")
    audit.configuration_changed(tmp_path / "users", tmp_path / "key.pem")
    await audit.close()
    good, bad, several = sink.messages
    assert good.kind == ("Security Alert", "Security Configuration", 0)
    assert good.ids("URI") == [(tmp_path / "access.toml").as_uri()]
    assert several.ids("URI") == [(tmp_path / "users").as_uri()]
    assert several.why == f"read anew (with {(tmp_path / 'key.pem').as_uri()})"
    assert bad.kind == ("Security Alert", "Security Configuration", 4)
    assert "no such file" in bad.why


async def test_a_failed_handshake_is_an_alert(sink, audit):
    audit.handshake_failed("192.0.2.1", "no certificate was sent")
    await audit.close()
    (alert,) = sink.messages
    assert alert.kind == (*ALERT, 4)
    assert alert.ids("Node ID") == ["192.0.2.1"]
    assert alert.detail("Alert Description") == b"TLS: no certificate was sent"


async def test_a_server_reports_a_handshake_that_fails(sink, audit, certificates):
    tls = server_context(*certificates.server, trusted=certificates.ca.file, client_certificate="required")
    async with asyncdicom.serve("127.0.0.1", 0, audit=audit, ssl=tls) as server:
        with pytest.raises(asyncdicom.NoConnection):
            await asyncdicom.connect("127.0.0.1", server.port, ssl=client_context(trusted=certificates.ca.file))
    (alert,) = sink.of(*ALERT)
    assert alert.ids("Node ID") == ["127.0.0.1"]
    assert "certificate" in alert.why


@pytest.mark.parametrize(
    ("sent", "what"),
    [
        (request().encode(), "an association request without TLS"),
        (b"GET / HTTP/1.1\r\n\r\n", "an HTTP request"),
        (b"PROXY TCP4 ", "a PROXY protocol header"),
    ],
    ids=["DICOM", "HTTP", "PROXY"],
)
async def test_what_is_not_tls_on_a_tls_port_is_an_alert(sink, audit, tls_contexts, sent, what):
    async with asyncdicom.serve("127.0.0.1", 0, audit=audit, ssl=tls_contexts[0]) as server:
        async with raw_client(server.port) as peer:
            peer.send(sent)
            await peer.receive_all()
    (alert,) = sink.of(*ALERT, 4)
    assert alert.ids("Node ID") == ["127.0.0.1"]
    assert alert.why == f"TLS is spoken here, and this looks like {what}"


@pytest.mark.parametrize(
    ("proxies", "sent", "why"),
    [
        ("127.0.0.1", b"\x16\3\1", "a PROXY protocol header was expected, this looks like a TLS handshake"),
        ("192.0.2.1", b"PROXY TCP4 ", "a PROXY protocol header from an address that is not among proxies"),
    ],
)
async def test_a_proxy_header_that_is_missing_or_not_believed_is_an_alert(sink, audit, proxies, sent, why):
    async with asyncdicom.serve("127.0.0.1", 0, audit=audit, proxies=proxies) as server:
        async with raw_client(server.port) as peer:
            peer.send(sent)
            await peer.receive_all()
    (alert,) = sink.of(*ALERT, 4)
    assert alert.ids("Node ID") == ["127.0.0.1"]
    assert alert.why == why


@pytest.mark.parametrize("sent", [b"", b"PROXY"])
async def test_who_says_nothing_or_not_enough_is_none(sink, audit, tls_contexts, sent):
    options = {"ssl": tls_contexts[0], "proxies": "127.0.0.1", "timeouts": asyncdicom.Timeouts(acse=0.1)}
    async with asyncdicom.serve("127.0.0.1", 0, audit=audit, **options) as server:
        for does_wait in (False, True):
            async with raw_client(server.port) as peer:
                peer.send(sent)
                await until(lambda: server._pending)
                if does_wait:
                    assert await peer.receive() is None
            await until(lambda: not server._pending)
    assert sink.of("Security Alert") == []


async def test_behind_a_proxy_it_is_the_client_that_is_reported(sink, audit, tls_contexts):
    options = {"ssl": tls_contexts[0], "proxies": "127.0.0.1"}
    async with asyncdicom.serve("127.0.0.1", 0, audit=audit, **options) as server, raw_client(server.port) as peer:
        peer.send(b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 104\r\n", request())
        await peer.receive_all()
    (alert,) = sink.of(*ALERT)
    assert alert.ids("Node ID") == ["192.0.2.7"]


async def test_a_server_reports_what_it_reads_again(sink, audit, tmp_path):
    policy = tmp_path / "access.toml"
    policy.write_text('default = "allow"')
    async with asyncdicom.serve("127.0.0.1", 0, audit=audit, access=policy) as server:
        server.reload()
        policy.write_text("default = 1")
        with pytest.raises(asyncdicom.AccessPolicyError):
            server.reload()
    alerts = sink.of("Security Alert", "Security Configuration")
    assert [alert.outcome for alert in alerts] == [0, 4]
    assert alerts[0].ids("URI") == alerts[1].ids("URI") == [policy.as_uri()]


async def test_a_server_reports_a_request_that_its_policy_refuses(sink, audit):
    policy = asyncdicom.AccessPolicy([asyncdicom.Rule(name="stores", services="C-STORE")])
    async with (
        asyncdicom.serve("127.0.0.1", 0, audit=audit, access=policy) as server,
        asyncdicom.connect("127.0.0.1", server.port) as association,
    ):
        assert (await association.c_echo()).is_failure
    (alert,) = sink.of("Security Alert", "Use of Restricted Function")
    assert "C-ECHO" in alert.detail("Alert Description").decode()


async def test_a_request_that_is_refused_names_the_user(sink, audit):
    async def check(identity, association):
        return asyncdicom.User("smith")

    policy = asyncdicom.AccessPolicy([asyncdicom.Rule(name="stores", services="C-STORE")])
    user = UserIdentity.of_user("smith")
    async with (
        asyncdicom.serve("127.0.0.1", 0, audit=audit, access=policy, user_identity=check) as server,
        asyncdicom.connect("127.0.0.1", server.port, user_identity=user) as association,
    ):
        assert (await association.c_echo()).is_failure
    (alert,) = sink.of("Security Alert", "Use of Restricted Function")
    assert [each.get("UserID") for each in alert.participants[1:]] == ["ASYNCDICOM", "smith"]


async def test_a_peer_that_asks_for_what_it_may_not_fills_no_trail(sink, audit):
    async def find(request):
        for _ in range(100):
            request.association._audit.request_refused(request.command, "not for you")
        yield Status(0xA700)

    async with asyncdicom.serve("127.0.0.1", 0, c_find=find, audit=audit) as server:
        async with asyncdicom.connect("127.0.0.1", server.port, contexts=[STUDY_ROOT_FIND]) as association:
            await association.c_find(keys(), model=STUDY_ROOT_FIND)
    alerts = sink.of("Security Alert", "Use of Restricted Function", 4)
    assert 0 < len(alerts) < 100
    assert alerts[0].detail("Alert Description").decode() == f"C-FIND of {STUDY_ROOT_FIND} refused: not for you"


# Transfers


@contextlib.asynccontextmanager
async def storing(audit, /, handler=drop, **options):
    async with asyncdicom.serve("127.0.0.1", 0, c_store=handler, audit=audit) as server:
        titles = {"called_ae_title": "ARCHIVE", "calling_ae_title": "MODALITY"}
        options = titles | {"contexts": [CT, MR]} | options
        async with asyncdicom.connect("127.0.0.1", server.port, **options) as association:
            yield association


async def test_instances_that_are_received_are_counted_by_study_and_class(sink, audit):
    async with storing(audit) as association:
        for number in range(5):
            await association.c_store(instance(number, CT if number < 3 else MR))
        await association.c_store(instance(9, study="1.2.4"))
    assert sink.kinds()[1:-1] == [BEGIN, BEGIN, TRANSFERRED]
    begin, _, transferred = sink.messages[1:-1]
    assert begin.ids("Study Instance UID") == ["1.2.3"]
    assert begin.detail("ContainsSOPClass").decode() == CT
    assert transferred.numbers == {"1.2.3": {CT: 3, MR: 2}, "1.2.4": {CT: 1}}
    assert transferred.ids("Patient Number") == ["PAT1"]
    for message in (begin, transferred):
        assert message.participant("Source Role ID").get("AlternativeUserID") == "AETITLES=MODALITY"
        assert message.participant("Destination Role ID").get("AlternativeUserID") == "AETITLES=ARCHIVE"
        assert message.requestors == ["MODALITY"]


async def test_a_message_is_about_one_patient(sink, audit):
    async with storing(audit) as association:
        for patient in ("PAT1", "PAT2"):
            await association.c_store(instance(patient=patient))
    assert [each.ids("Patient Number") for each in sink.of(*TRANSFERRED)] == [["PAT1"], ["PAT2"]]


async def test_an_instance_that_does_not_say_of_whom_it_is_is_counted_too(sink, audit):
    async with storing(audit) as association:
        await association.c_store(instance(study="", patient=""))
    (transferred,) = sink.of(*TRANSFERRED)
    assert transferred.numbers == {"<none>": {CT: 1}}
    assert transferred.ids("Patient Number") == ["<none>"]


async def test_a_data_set_that_cannot_be_read_is_counted_too(sink, audit):
    data = b"\x08\0\x16\0??" + bytes(100)
    async with storing(audit) as association:
        await association.c_store(asyncdicom.Instance(CT, "1.2", EXPLICIT, length=len(data), data=data))
    assert sink.of(*TRANSFERRED)[0].numbers == {"<none>": {CT: 1}}


@pytest.mark.parametrize("size", [8, 50, 1000])
async def test_a_study_is_found_in_whatever_pieces_it_comes(sink, audit, size):
    data = instance(study="1.2.826.0.1.3680043.2.1125.1.75064541463040").data
    async with asyncdicom.serve("127.0.0.1", 0, c_store=drop, audit=audit) as server, raw_client(server.port) as peer:
        peer.send(request())
        await peer.receive()
        peer.send(store_request())
        for start in range(0, len(data), size):
            peer.send(pdv(3, 2 * (start + size >= len(data)), data[start : start + size]))
            await asyncio.sleep(0)
        await peer.receive()
    (transferred,) = sink.of(*TRANSFERRED)
    assert transferred.numbers == {"1.2.826.0.1.3680043.2.1125.1.75064541463040": {CT: 1}}
    assert transferred.ids("Patient Number") == ["PAT1"]


@pytest.mark.parametrize("who", ["receiver", "sender"])
async def test_a_study_is_found_in_a_deflated_data_set(sink, audit, who):
    one = instance()
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = deflater.compress(one.data) + deflater.flush()
    one = one._replace(transfer_syntax_uid=DEFLATED, length=len(data), data=data)
    receiver, sender = (audit, {}) if who == "receiver" else (None, {"audit": audit})
    async with audit, storing(receiver, contexts=[Context(CT, [DEFLATED])], **sender) as association:
        assert await association.c_store(one) == Status.SUCCESS
    assert sink.of(*TRANSFERRED)[0].numbers == {"1.2.3": {CT: 1}}


async def test_what_was_not_stored_is_another_message(sink, audit):
    async def store(request):
        return Status.SUCCESS if request.sop_instance_uid == "1.2.3.0" else Status.OUT_OF_RESOURCES

    async with storing(audit, store) as association:
        for number in range(3):
            await association.c_store(instance(number))
    good, bad = sink.of("DICOM Instances Transferred")
    assert (good.outcome, good.numbers) == (0, {"1.2.3": {CT: 1}})
    assert (bad.outcome, bad.numbers) == (4, {"1.2.3": {CT: 2}})


async def test_an_association_that_breaks_is_told_of(sink, audit):
    async def store(request):
        await request.association.abort()

    with pytest.raises(asyncdicom.AssociationError):
        async with storing(audit, store) as association:
            await association.c_store(instance())
    await until(lambda: sink.of("DICOM Instances Transferred"))
    (transferred,) = sink.of("DICOM Instances Transferred")
    assert (transferred.outcome, transferred.numbers) == (4, {"1.2.3": {CT: 1}})


async def test_a_handler_still_gets_the_whole_data_set(audit):
    received = []

    async def store(request):
        received.append(await request.data_set.read())
        return Status.SUCCESS

    async with storing(audit, store) as association:
        await association.c_store(instance())
    assert received == [instance().data]


async def test_an_association_that_goes_on_is_told_of_in_time(sink, audit, monkeypatch):
    monkeypatch.setattr(trail, "_INTERVAL", 0.01)
    async with storing(audit) as association:
        for _ in range(2):
            await association.c_store(instance())
            await until(lambda: TRANSFERRED in sink.kinds()[-1:])
            sink.records.clear()


async def test_many_studies_on_one_association_make_no_message_too_long(sink, audit):
    async with storing(audit) as association:
        for number in range(100):
            await association.c_store(instance(number, study=f"1.2.3.{number}"))
    found = sink.of(*TRANSFERRED)
    assert len(found) > 1
    assert sum(len(each.numbers) for each in found) == 100
    assert max(len(each.xml) for each in sink.records) < AUDIT["syslog"]["message_size"]


async def test_who_sends_is_told_of_what_it_sends(sink, audit, tmp_path):
    one = instance(patient="PÄT1")
    path = tmp_path / "one.dcm"
    path.write_bytes(asyncdicom.FileMeta(one.sop_class_uid, one.sop_instance_uid, EXPLICIT).encode() + one.data)
    data_set = Dataset()
    data_set.SOPClassUID, data_set.SOPInstanceUID = MR, "1.2.5"
    data_set.StudyInstanceUID, data_set.PatientID = "1.2.3", "PÄT1"
    data_set.SpecificCharacterSet = "ISO_IR 192"
    async with audit, storing(None, audit=audit) as association:
        assert await association.c_store(path) == Status.SUCCESS
        assert await association.c_store(data_set) == Status.SUCCESS
    begin, transferred = sink.messages
    assert (begin.kind, transferred.kind) == (BEGIN, TRANSFERRED)
    assert transferred.numbers == {"1.2.3": {CT: 1, MR: 1}}
    assert transferred.ids("Patient Number") == ["PÄT1"]
    assert transferred.participant("Source Role ID").get("AlternativeUserID") == "AETITLES=MODALITY"
    assert transferred.requestors == [str(os.getpid())]


async def three(request):
    for number in range(3):
        yield instance(number)


async def test_a_c_get_is_a_transfer_that_the_receiver_asked_for(sink, audit):
    contexts = [STUDY_ROOT_GET, Context(CT, scu=True)]
    async with asyncdicom.serve("127.0.0.1", 0, c_get=three, contexts=contexts, audit=audit) as server:
        options = {"contexts": [STUDY_ROOT_GET, Context(CT, scp=True)], "c_store": drop, "calling_ae_title": "VIEWER"}
        async with asyncdicom.connect("127.0.0.1", server.port, **options) as association:
            await association.c_get(keys(), model=STUDY_ROOT_GET)
    (transferred,) = sink.of(*TRANSFERRED)
    assert transferred.numbers == {"1.2.3": {CT: 3}}
    assert transferred.participant("Destination Role ID").get("UserID") == "VIEWER"
    assert transferred.requestors == ["VIEWER"]


async def test_a_c_move_is_a_transfer_that_a_third_party_asked_for(sink, audit):
    there = ListSink()
    async with asyncdicom.serve("127.0.0.1", 0, c_store=drop, audit=AuditTrail("there", [there])) as destination:
        known = {"THERE": ("127.0.0.1", destination.port)}
        options = {"contexts": [STUDY_ROOT_MOVE], "called_ae_title": "ARCHIVE", "calling_ae_title": "VIEWER"}
        async with (
            asyncdicom.serve("127.0.0.1", 0, c_move=three, move_destinations=known, audit=audit) as server,
            asyncdicom.connect("127.0.0.1", server.port, **options) as association,
        ):
            await association.c_move(keys(), "THERE", model=STUDY_ROOT_MOVE)
    for each in (sink, there):
        (transferred,) = each.of(*TRANSFERRED)
        assert transferred.numbers == {"1.2.3": {CT: 3}}
        assert transferred.participant("Source Role ID").get("AlternativeUserID") == "AETITLES=ARCHIVE"
        assert transferred.participant("Destination Role ID").get("AlternativeUserID") == "AETITLES=THERE"
        assert transferred.requestors == ["VIEWER"]


# Queries


def keys():
    data_set = Dataset()
    data_set.QueryRetrieveLevel = "STUDY"
    data_set.PatientID = "PAT1"
    return data_set


@pytest.mark.parametrize("who", ["server", "client"])
async def test_a_query_is_reported_with_what_was_asked(sink, audit, who):
    asked = []

    async def find(request):
        asked.append((request.data, request.transfer_syntax_uid))
        return
        yield

    ours = {"audit": audit}
    async with asyncdicom.serve("127.0.0.1", 0, c_find=find, **(ours if who == "server" else {})) as server:
        options = {"contexts": [STUDY_ROOT_FIND], "calling_ae_title": "VIEWER", "called_ae_title": "ARCHIVE"}
        options |= ours if who == "client" else {}
        async with asyncdicom.connect("127.0.0.1", server.port, **options) as association:
            await association.c_find(keys(), model=STUDY_ROOT_FIND)
    await audit.close()
    (query,) = sink.of("Query")
    ((data, syntax),) = asked
    assert query.ids("SOP Class UID") == [STUDY_ROOT_FIND]
    assert base64.b64decode(query.root.find(".//ParticipantObjectQuery").text) == data
    assert query.detail("TransferSyntax").decode() == syntax
    assert query.participant("Source Role ID").get("AlternativeUserID") == "AETITLES=VIEWER"
    assert query.participant("Destination Role ID").get("AlternativeUserID") == "AETITLES=ARCHIVE"
    assert query.requestors == ["VIEWER" if who == "server" else str(os.getpid())]


# Further


async def test_a_collector_of_dicom_that_nobody_vouches_for_is_an_alert(sink, audit, tls_contexts):
    async with asyncdicom.serve("127.0.0.1", 0, ssl=tls_contexts[0]) as server:
        with pytest.raises(asyncdicom.NoConnection):
            await asyncdicom.connect("localhost", server.port, ssl=True, audit=audit)
    await audit.close()
    (alert,) = sink.messages
    assert alert.kind == (*ALERT, 4)
    assert "it is self-signed" in alert.why


@pytest.mark.parametrize(
    ("timeout", "why"), [(0.1, "handshake is taking longer than 0.1"), (DEADLINE, "closed the connection during")]
)
async def test_a_server_that_does_not_go_on_with_its_handshake_is_an_alert(sink, audit, timeout, why):
    async def script(peer):
        await peer.reader.read(1)
        if timeout < DEADLINE:
            await peer.reader.read()

    timeouts = asyncdicom.Timeouts(tls=timeout)
    async with raw_server(script) as port:
        with pytest.raises(asyncdicom.NoConnection):
            await asyncdicom.connect("127.0.0.1", port, ssl=True, audit=audit, timeouts=timeouts)
    await audit.close()
    (alert,) = sink.messages
    assert alert.kind == (*ALERT, 4)
    assert why in alert.why


@pytest.mark.parametrize("ssl", [None, True])
async def test_a_port_where_nobody_listens_is_none(sink, audit, ssl):
    with pytest.raises(asyncdicom.NoConnection, match=r"\[Errno"):
        await asyncdicom.connect("127.0.0.1", free_port(), audit=audit, ssl=ssl)
    await audit.close()
    assert sink.records == []


@pytest.mark.skipif(sys.platform == "win32", reason="no SCM_RIGHTS")
async def test_every_process_of_a_server_reports(tmp_path):
    audit = AuditTrail("archive", [FileSink(tmp_path / "audit.xml")])
    async with asyncdicom.serve("127.0.0.1", 0, contexts=[VERIFICATION], workers=2, audit=audit) as server:
        processes = {str(process) for process in server.processes}
        for _ in range(4):
            async with asyncdicom.connect("127.0.0.1", server.port, user_identity=UserIdentity.of_user("smith")):
                pass
    found = lines_of(tmp_path / "audit.xml")
    assert sorted(each.type for each in found) == ["Application Start"] * 2 + ["Application Stop"] * 2
    assert {each.participants[0].get("UserID") for each in found} == processes


@pytest.mark.skipif(sys.platform == "win32", reason="no SCM_RIGHTS")
async def test_the_parent_reports_that_a_process_was_killed(tmp_path):
    audit, trail = AuditTrail("archive", [FileSink(tmp_path / "audit.xml")]), tmp_path / "audit.xml"
    async with asyncdicom.serve("127.0.0.1", 0, ae_title="PACS", workers=2, audit=audit) as server:
        killed = server.processes[0]
        await until(lambda: len(lines_of(trail)) == 2)
        os.kill(killed, signal.SIGKILL)
        await until(lambda: len(lines_of(trail)) == 4)
    stops = [each for each in lines_of(trail) if each.type == "Application Stop"]
    lost = {each.participants[0].get("UserID"): each for each in stops}[str(killed)]
    assert (len(stops), lost.outcome) == (3, 8)
    assert lost.participants[0].get("AlternativeUserID") == "AETITLES=PACS"
    assert "ended by signal 9" in lost.why


def lines_of(path):
    return [Message(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def changes_in(path):
    """Who reported what of the configuration: process ID and outcome."""
    found = [each for each in lines_of(path) if each.type == "Security Configuration"]
    return [(each.participants[0].get("UserID"), each.outcome) for each in found]


@pytest.mark.skipif(sys.platform == "win32", reason="no SCM_RIGHTS")
async def test_what_processes_share_is_reported_once_when_it_changes(tmp_path):
    policy, trail, ours = tmp_path / "access.toml", tmp_path / "audit.xml", str(os.getpid())
    policy.write_text('default = "allow"')
    audit = AuditTrail("archive", [FileSink(trail)])
    options = {"contexts": [VERIFICATION], "workers": 2, "access": policy, "audit": audit, "reload_interval": 0.01}
    async with asyncdicom.serve("127.0.0.1", 0, **options) as server:
        for number, text in enumerate(['default = "deny"', "default = 1"], 1):
            (tmp_path / "new").write_text(text)
            (tmp_path / "new").replace(policy)
            await until(lambda number=number: len(changes_in(trail)) == number)
        with pytest.raises(asyncdicom.AccessPolicyError):
            server.reload()
        server.replace_access(asyncdicom.AccessPolicy())  # nothing waits: it is written when the server ends
    assert changes_in(trail) == [(ours, 0), (ours, 4), (ours, 4), (ours, 0)]
    assert audit._users == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no SCM_RIGHTS")
async def test_what_a_process_cannot_make_again_it_reports_itself(tmp_path, tls_files):
    trail = tmp_path / "audit.xml"
    options = {"ssl": functools.partial(worker_handlers.tls_once, tmp_path, *tls_files), "workers": 2}
    audit = AuditTrail("archive", [FileSink(trail)])
    async with asyncdicom.serve("127.0.0.1", 0, contexts=[VERIFICATION], **options, audit=audit) as server:
        processes = {str(process) for process in server.processes}
        server.reload_tls()
    found = changes_in(trail)
    assert min(found, key=lambda each: each[1]) == (str(os.getpid()), 0)
    assert {process for process, outcome in found if outcome == 4} == processes
    assert len(found) == 3


async def test_what_cannot_be_sent_to_a_process_is_refused_with_advice():
    sink = SyslogSink("localhost", ssl=ssl.create_default_context())
    with pytest.raises(TypeError, match="audit=AuditTrail"):
        await asyncdicom.serve("127.0.0.1", 0, workers=2, audit=AuditTrail("archive", [sink]))
