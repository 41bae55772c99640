"""What is measured: the table of scenarios, and one function for each kind."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from .peers import ASYNCIO, C_BY_PDU, DCMTK, IGNORE, PYNETDICOM, RECEIVERS, SENDERS, UVLOOP, C, Job
from .processes import ENVIRONMENT, TIMEOUT, Process, empty, run_sender

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MB = 1e6
CT = 512 << 10
SMALL = 4096
ALL = (UVLOOP, ASYNCIO, IGNORE, C, C_BY_PDU, DCMTK, PYNETDICOM)
USUAL = (UVLOOP, ASYNCIO, C, DCMTK, PYNETDICOM)


@dataclass(frozen=True)
class Scenario:
    """One line of the table."""

    name: str
    kind: str = "receive"
    """Which function measures it."""
    unit: str = "MB/s"
    peers: tuple[str, ...] = USUAL
    mode: str = "store"
    """Of the C sender."""
    associations: int = 1
    size: int = CT
    pdu: int = 16384
    to_files: bool = False
    note: str = ""


SCENARIOS = (
    Scenario("512 KB CT, 1 association", peers=ALL),
    Scenario("512 KB CT, 1 association, 1 MiB PDUs", peers=ALL, pdu=1 << 20, note="DCMTK takes 128 KiB at the most"),
    Scenario("512 KB CT, 16 associations", peers=ALL, associations=16, note="DCMTK with --fork"),
    Scenario("4 KB objects, 1 association", unit="1/s", size=SMALL),
    Scenario("4 KB objects, 16 associations", unit="1/s", size=SMALL, associations=16, note="DCMTK with --fork"),
    Scenario("C-ECHO, 100 associations", unit="1/s", mode="echo", size=0, associations=100, note="DCMTK with --fork"),
    Scenario("512 KB CT, an association for each", unit="1/s", mode="associate"),
    Scenario("512 KB CT to files, 1 association", to_files=True),
    Scenario("512 KB CT to files, 16 associations", to_files=True, associations=16, note="DCMTK with --fork"),
    Scenario(
        "sending 512 KB CT files, 1 association",
        kind="send",
        note="storescu and dcmsend with TCP_NODELAY=1 in their environment; CPU with the start of the process",
        peers=(UVLOOP, ASYNCIO, C, "storescu", "dcmsend", PYNETDICOM),
    ),
    Scenario(
        "sending 4 KB files, 1 association",
        kind="send",
        unit="1/s",
        size=SMALL,
        peers=(UVLOOP, ASYNCIO, C, "storescu", "dcmsend", PYNETDICOM),
    ),
    Scenario(
        "open associations: memory each",
        kind="open",
        unit="KB",
        peers=(UVLOOP, ASYNCIO, DCMTK, PYNETDICOM),
        associations=1000,
        note="DCMTK (--fork) and pynetdicom with 100",
    ),
    Scenario(
        "1 GiB instance to a file: memory added at the peak",
        kind="peak",
        unit="MB",
        size=1 << 30,
        pdu=131072,
        to_files=True,
        peers=(UVLOOP, ASYNCIO, DCMTK, PYNETDICOM),
    ),
    Scenario("import time", kind="import", unit="ms", peers=("asyncdicom", "asyncio, ssl")),
)


@dataclass(frozen=True)
class Run:
    """How a scenario is measured."""

    peer: Path
    """The C program."""
    folder: Path
    """For files: in memory if the machine has such a file system."""
    rounds: int
    seconds: float
    """Each receiving run lasts this long."""


@dataclass
class Sample:
    """One run of one peer."""

    value: float
    """In the scenario's unit."""
    cpu: float | None = None
    """CPU seconds of the peer per GB, or per 1,000 operations where there are no bytes to speak of."""
    more: dict | None = None


Samples = dict[str, list[Sample]]
Errors = dict[str, str]


def measure(scenario: Scenario, run: Run) -> tuple[Samples, Errors]:
    """All runs of a scenario, and what went wrong with whom."""
    samples: Samples = {}
    errors: Errors = {}
    KINDS[scenario.kind](scenario, run, samples, errors)
    return samples, errors


def _alternate(
    scenario: Scenario, rounds: int, samples: Samples, errors: Errors, once: Callable[[str], Sample | None]
) -> None:
    """Everybody once in each round, each round beginning with another; the first round warms up and is not kept."""
    peers = [name for name in scenario.peers if name not in errors]
    for turn in range(rounds + 1):
        for name in peers[turn % len(peers) :] + peers[: turn % len(peers)]:
            if name in errors:
                continue
            try:
                sample = once(name)
            except Exception as error:
                errors[name] = f"{type(error).__name__}: {error}"
                continue
            if turn and sample is not None:
                samples.setdefault(name, []).append(sample)


def receive(scenario: Scenario, run: Run, samples: Samples, errors: Errors) -> None:
    """The C sender to each server."""
    with contextlib.ExitStack() as stack:
        servers = {}
        for index, name in enumerate(scenario.peers):
            if not RECEIVERS[name].installed:
                continue
            folder = run.folder / f"received-{index}" if scenario.to_files else None
            if folder:
                folder.mkdir(exist_ok=True)
            job = Job(run.peer, scenario.pdu, scenario.associations, folder)
            try:
                servers[name] = *stack.enter_context(RECEIVERS[name].running(job)), folder
            except Exception as error:
                errors[name] = f"{type(error).__name__}: {error}"

        def once(name: str) -> Sample | None:
            if name not in servers:
                return None
            server, port, folder = servers[name]
            before = server.cpu()
            result, sender = run_sender(
                run.peer,
                port,
                mode=scenario.mode,
                associations=scenario.associations,
                size=scenario.size,
                pdu=scenario.pdu,
                seconds=run.seconds,
                messages=4000 if folder else 1e9,
            )
            with sender:
                cpu = server.cpu() - before
            if result["failures"]:
                raise RuntimeError(f"{result['failures']} of {result['messages']} were refused")
            if folder:
                if len(list(folder.iterdir())) < result["messages"]:
                    raise RuntimeError("not every instance was written")
                empty(folder)
            per = result["bytes"] / 1e9 if scenario.size >= CT else result["messages"] / 1e3
            amount = result["bytes"] / MB if scenario.unit == "MB/s" else result["messages"]
            return Sample(amount / result["seconds"], cpu / per, {"pdu": result.get("pdu")})

        _alternate(scenario, run.rounds, samples, errors, once)


def send(scenario: Scenario, run: Run, samples: Samples, errors: Errors) -> None:
    """Each client to the C receiver, which looks at the clock from the first data to the last response."""
    folders = {
        count: _make_files(run.folder / f"sent-{count}", count, scenario.size)
        for count in {SENDERS[name].files for name in scenario.peers}
    }

    def once(name: str) -> Sample | None:
        client = SENDERS[name]
        if not client.installed:
            return None
        with Process([run.peer, "gather", "pdu=16384"]) as receiver:
            port = int(receiver.line())
            command = client.command(run.peer, port, folders[client.files])
            with Process(command, environment=dict(client.environment)) as process:
                cpu = process.wait()
            result = json.loads(receiver.line())
        if result["messages"] != client.files:
            raise RuntimeError(f"{result['messages']} of {client.files} were sent")
        per = result["bytes"] / 1e9 if scenario.size >= CT else result["messages"] / 1e3
        amount = result["bytes"] / MB if scenario.unit == "MB/s" else result["messages"]
        return Sample(amount / result["seconds"], cpu / per)

    _alternate(scenario, run.rounds, samples, errors, once)


def open_associations(scenario: Scenario, run: Run, samples: Samples, errors: Errors) -> None:
    """Open many, look at the memory, then C-ECHO on a hundred of them, one each millisecond."""
    for name in scenario.peers:
        receiver = RECEIVERS[name]
        count = scenario.associations if name in (UVLOOP, ASYNCIO) else 100
        if not receiver.installed:
            continue
        try:
            with receiver.running(Job(run.peer, scenario.pdu, count)) as (server, port):
                _, warm = run_sender(run.peer, port, mode="idle", seconds=0.1, associations=1)
                with warm:
                    warm.tell()
                    warm.line()
                time.sleep(0.3)
                before = server.memory()
                opened, sender = run_sender(run.peer, port, mode="idle", seconds=1, associations=count)
                with sender:
                    time.sleep(0.3)
                    memory = (server.memory() - before) / count
                    cpu, start = server.cpu(), time.monotonic()
                    time.sleep(1)
                    idle = (server.cpu() - cpu) / (time.monotonic() - start)
                    sender.tell()
                    latency = json.loads(sender.line())
                more = {
                    "associations": count,
                    "opened per second": round(count / opened["seconds"]),
                    "idle CPU": round(idle, 3),
                    "C-ECHO p50 ms": round(latency["p50"] * 1e3, 3),
                    "C-ECHO p99 ms": round(latency["p99"] * 1e3, 3),
                }
                samples[name] = [Sample(memory / 1024, None, more)]
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {error}"


def peak(scenario: Scenario, run: Run, samples: Samples, errors: Errors) -> None:
    """One large instance to a file, once, in a process that has just begun."""
    for name in scenario.peers:
        receiver = RECEIVERS[name]
        if not receiver.installed:
            continue
        folder = run.folder / "large"
        folder.mkdir(exist_ok=True)
        try:
            with receiver.running(Job(run.peer, scenario.pdu, 1, folder)) as (server, port):
                server.reset_peak()
                before = server.memory("Rss")
                result, sender = run_sender(
                    run.peer, port, messages=1, size=scenario.size, pdu=scenario.pdu, seconds=TIMEOUT
                )
                with sender:
                    added = (server.peak() - before) / MB
                if sum(path.stat().st_size for path in folder.iterdir()) < scenario.size:
                    raise RuntimeError("the instance was not written")
                samples[name] = [Sample(added, None, {"MB/s": round(result["bytes"] / MB / result["seconds"])})]
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {error}"
        finally:
            empty(folder)


def import_time(scenario: Scenario, run: Run, samples: Samples, errors: Errors) -> None:
    """A fresh interpreter for each import."""

    def once(name: str) -> Sample:
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", f"import {name}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=TIMEOUT,
            env=ENVIRONMENT,
        )
        wall = time.perf_counter() - start
        wanted = {f" {module}" for module in name.split(", ")}
        rows = [line.split("|")[1:] for line in done.stderr.splitlines()]
        total = sum(int(cumulative) for cumulative, module in rows[1:] if module in wanted)
        return Sample(total / 1e3, None, {"whole process ms": wall * 1e3})

    _alternate(scenario, 20 if run.rounds >= 5 else 5, samples, errors, once)
    for name, several in samples.items():
        several[0].more = {"whole process ms": round(median(each.more["whole process ms"] for each in several), 1)}
        samples[name] = several


def _make_files(folder: Path, count: int, size: int) -> Path:
    """CT images with nothing in them but what makes them valid."""
    from pydicom.dataset import Dataset, FileMetaDataset

    empty(folder) if folder.exists() else folder.mkdir()
    for index in range(count):
        data_set = Dataset()
        data_set.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        data_set.SOPInstanceUID = f"2.25.1{index:09d}"
        data_set.StudyInstanceUID = data_set.SeriesInstanceUID = "2.25.1"
        data_set.PatientName, data_set.PatientID, data_set.Modality = "Benchmark", "1", "CT"
        data_set.SamplesPerPixel, data_set.PhotometricInterpretation = 1, "MONOCHROME2"
        data_set.Rows, data_set.Columns = (512, 512) if size >= CT else (size // 128, 64)
        data_set.BitsAllocated, data_set.BitsStored, data_set.HighBit, data_set.PixelRepresentation = 16, 16, 15, 0
        data_set.PixelData = bytes(range(256)) * (size // 256)
        data_set["PixelData"].VR = "OW"
        data_set.file_meta = FileMetaDataset()
        data_set.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        data_set.save_as(folder / f"{index:05d}.dcm", enforce_file_format=True)
    return folder


KINDS = {"receive": receive, "send": send, "open": open_associations, "peak": peak, "import": import_time}
