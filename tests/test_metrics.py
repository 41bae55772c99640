"""Metrics through OpenTelemetry: what real servers do, collected by the SDK's own reader."""

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import weakref

import pytest
import worker_handlers
from raw_peer import CT, DEADLINE, data_set, raw_client, request

import asyncdicom
from asyncdicom import Status, metrics
from asyncdicom.audit import AuditTrail, FileSink
from asyncdicom.metrics import observe
from asyncdicom.pdu import ReleaseRQ
from asyncdicom.tls import client_context, server_context

pytest.importorskip("opentelemetry.sdk")
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

where_workers_are = pytest.mark.skipif(sys.platform == "win32", reason="no SCM_RIGHTS")
everywhere = pytest.mark.parametrize("workers", [1, pytest.param(2, marks=where_workers_are)])

NOTHING = {
    "association.count": 0,
    "association.requests accepted": 0,
    "association.requests rejected": 0,
    "association.aborted": 0,
    "instances stored": 0,
    "instances failed": 0,
    "received": 0,
    "connection.turned_away": 0,
}


class Monitoring:
    """A provider of the SDK's, and what its reader finds."""

    def __init__(self):
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self.meter = self.provider.get_meter("test")

    def metrics(self):
        data = self.reader.get_metrics_data()
        scopes = [scope for each in data.resource_metrics for scope in each.scope_metrics] if data else []
        return [metric for scope in scopes for metric in scope.metrics if metric.data.data_points]

    def by_server(self):
        """Values by the port of the server, and by name and outcome."""
        found = {}
        for metric in self.metrics():
            for point in metric.data.data_points:
                name = metric.name.removeprefix("dicom.server.")
                key = f"{name} {point.attributes.get('dicom.outcome', '')}".rstrip()
                found.setdefault(point.attributes["server.port"], {})[key] = point.value
        return found

    def values(self):
        """Those of the only server."""
        (values,) = self.by_server().values()
        return values

    async def until(self, **expected):
        """Collect until these are there: workers report twice a second."""
        async with asyncio.timeout(DEADLINE):
            while self.values() != NOTHING | expected:
                await asyncio.sleep(0.001)


@pytest.fixture
def monitoring():
    ours = Monitoring()
    yield ours
    ours.provider.shutdown()


@pytest.fixture(autouse=True)
def no_collector_has_failed(caplog):
    yield
    assert [each for each in caplog.get_records("call") if each.name.startswith("opentelemetry")] == []


def serving(handler=worker_handlers.drop_even, **options):
    return asyncdicom.serve("127.0.0.1", 0, c_store=handler, **options)


async def store(port, *numbers):
    """An association that sends these instances; gives whether they were stored."""
    async with asyncdicom.connect("127.0.0.1", port, contexts=[CT]) as association:
        instances = [asyncdicom.Instance(CT, f"1.2.{each}", "1.2.840.10008.1.2.1", data=data_set()) for each in numbers]
        return [await association.c_store(each) == Status.SUCCESS for each in instances]


# What is told


@everywhere
async def test_a_server_tells_of_its_associations_and_instances(monitoring, workers):
    async with serving(workers=workers) as server:
        observe(server, monitoring.meter)
        assert monitoring.values() == NOTHING
        assert await store(server.port, 2, 3, 4) == [True, False, True]
        accepted = {"association.requests accepted": 1}
        done = {"instances stored": 2, "instances failed": 1, "received": 2000}
        await monitoring.until(**accepted, **done)
        async with raw_client(server.port) as peer:
            await peer.associate()
            accepted["association.requests accepted"] = 2
            await monitoring.until(**accepted, **done, **{"association.count": 1})
            peer.reset()
        await monitoring.until(**accepted, **done, **{"association.aborted": 1})


@everywhere
async def test_a_server_tells_whom_it_refused(monitoring, workers):
    async with serving(workers=workers, calling_ae_titles="OTHER") as server:
        observe(server, monitoring.meter)
        for _ in range(3):
            with pytest.raises(asyncdicom.AssociationRejected):
                await store(server.port)
        await monitoring.until(**{"association.requests rejected": 3})


@everywhere
async def test_a_server_tells_how_many_did_not_come_to_a_tls_connection(certificates, monitoring, workers):
    context = server_context(*certificates.server, trusted=certificates.ca.file, client_certificate="required")
    shown = certificates.stranger
    stranger = client_context(certificate=shown.certificate, key=shown.key, trusted=certificates.ca.file)
    async with serving(workers=workers, ssl=context) as server:
        assert server.statistics.turned_away == 0
        with pytest.raises(asyncdicom.DicomError):
            async with asyncdicom.connect("127.0.0.1", server.port, ssl=stranger) as association:
                await association.c_echo()
        for sent in (request(), b"GET / HTTP/1.1\r\n\r\n"):
            async with raw_client(server.port) as peer:
                peer.send(sent)
                await peer.receive_all()
        async with raw_client(server.port):
            pass  # as those do that look whether anybody listens
        async with asyncio.timeout(DEADLINE):
            while server.statistics.turned_away < 3:
                await asyncio.sleep(0.001)
        observe(server, monitoring.meter)
        values = monitoring.values()
        del values["certificate.time_left"]
        assert values == NOTHING | {"connection.turned_away": 3}


@everywhere
async def test_a_server_tells_when_the_certificate_expires_that_it_shows_now(
    certificates, monitoring, workers, tmp_path
):
    pair = [shutil.copy(each, tmp_path) for each in certificates.expired]
    async with serving(workers=workers, ssl=server_context(*pair)) as server:
        observe(server, monitoring.meter)
        assert -2 < monitoring.values()["certificate.time_left"] / 86400 < -1
        for old, new in zip(pair, certificates.server, strict=True):
            shutil.copy(new, old)
        server.reload_tls()
        assert 0 < monitoring.values()["certificate.time_left"] / 86400 < 1


async def test_a_server_tells_how_many_audit_messages_were_lost(monitoring, tmp_path):
    sink = FileSink(tmp_path / "audit.xml", limit=0)
    async with serving(audit=AuditTrail("TEST", [sink])) as server:
        observe(server, monitoring.meter)
        assert monitoring.values() == NOTHING | {"audit.lost": sink.lost}
        assert sink.lost


async def test_units_and_attributes_are_those_of_opentelemetrys_conventions(monitoring):
    async with serving() as server:
        observe(server, monitoring.meter)
        found = {each.name: each for each in monitoring.metrics()}
        its = {"server.address": "127.0.0.1", "server.port": server.port}
    assert {each.unit for each in found.values()} == {"By", "{association}", "{request}", "{instance}", "{connection}"}
    assert [dict(each.attributes) for each in found["dicom.server.received"].data.data_points] == [its]
    monotonic = {name for name, each in found.items() if each.data.is_monotonic}
    assert set(found) - monotonic == {"dicom.server.association.count"}


# Which servers, and how long


async def test_servers_of_one_process_are_told_apart(monitoring):
    async with serving() as one, serving() as other:
        for server in (one, other, one):
            observe(server, monitoring.meter)
        await store(one.port, 2, 4)
        await store(other.port, 3)
        accepted = NOTHING | {"association.requests accepted": 1}
        assert monitoring.by_server() == {
            one.port: accepted | {"instances stored": 2, "received": 2000},
            other.port: accepted | {"instances failed": 1},
        }


@everywhere
async def test_a_server_is_told_of_until_its_last_association_is_over(monitoring, workers):
    async with serving(workers=workers) as server, raw_client(server.port) as peer:
        observe(server, monitoring.meter)
        await peer.associate()
        closing = asyncio.create_task(server.close(drain=DEADLINE))
        while server.addresses:
            await asyncio.sleep(0)
        await monitoring.until(**{"association.count": 1, "association.requests accepted": 1})
        peer.send(ReleaseRQ())
        await closing
        assert monitoring.metrics() == []


@everywhere
async def test_a_server_is_not_kept_alive(monitoring, workers):
    async with serving(workers=workers) as server:
        observe(server, monitoring.meter)
        assert monitoring.values() == NOTHING
    reference = weakref.ref(server)
    del server
    while reference() is not None:
        await asyncio.sleep(0)
        gc.collect()
    assert monitoring.metrics() == []


async def test_after_a_server_another_one_is_told_of(monitoring):
    for _ in range(2):
        async with serving() as server:
            observe(server, monitoring.meter)
            assert monitoring.by_server() == {server.port: NOTHING}


async def test_a_closed_server_cannot_be_observed(monitoring):
    async with serving() as server:
        pass
    with pytest.raises(IndexError):
        observe(server, monitoring.meter)


@where_workers_are
async def test_numbers_do_not_go_back_when_a_worker_dies_while_a_thread_collects(monitoring):
    async with serving(workers=2) as server:
        observe(server, monitoring.meter)
        await store(server.port, *range(0, 20, 2))
        async with asyncio.timeout(DEADLINE):
            while server.statistics.instances < 10:
                await asyncio.sleep(0.001)
        seen = []
        with collecting(lambda: seen.append(monitoring.values()["instances stored"])):
            before = server.processes
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(DEADLINE):
                while len(server.processes) < 2 or set(before) & set(server.processes):
                    await asyncio.sleep(0.001)
    assert set(seen) == {10}


@contextlib.contextmanager
def collecting(collect):
    """Meanwhile a thread does so, as fast as it can."""
    is_over = threading.Event()

    def run():
        while not is_over.is_set():
            collect()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


# What it takes


PROGRAM = """
import asyncio, asyncdicom
from asyncdicom.metrics import observe
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

async def main():
    async with asyncdicom.serve("127.0.0.1", 0) as one, asyncdicom.serve("127.0.0.1", 0) as other:
        observe(one)
        observe(other)
        reader = InMemoryMetricReader()
        set_meter_provider(MeterProvider([reader]))
        (scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
        print(scope.scope.name, *sorted({len(metric.data.data_points) for metric in scope.metrics}))

asyncio.run(main())
"""


def test_the_global_provider_may_be_set_later():
    assert run(PROGRAM) == "asyncdicom 2 4"


def test_opentelemetry_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
    metrics._own_meter.cache_clear()
    with pytest.raises(ImportError, match=r"install asyncdicom\[metrics\]"):
        observe(None)


def run(program):
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
