"""What is measured: the table of scenarios, and one function for each kind."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .peers import (
    ARCHIVES,
    ASYNCIO,
    C_BY_PDU,
    DCMTK,
    IGNORE,
    ORTHANC,
    PYNETDICOM,
    QRSCP,
    RAW_ASYNCIO,
    RAW_UVLOOP,
    RECEIVERS,
    SENDERS,
    STOCK,
    STOCK_DCMTK,
    STORESCU,
    TWO_WORKERS,
    UVLOOP,
    C,
    Job,
    Receiver,
    retriever,
)
from .processes import (
    ENVIRONMENT,
    RECEIVERS_CORE,
    SENDERS_CORE,
    TIMEOUT,
    Process,
    empty,
    files,
    run_sender,
    start_sender,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

MB, GIB = 1e6, 1 << 30
CT = 512 << 10
SMALL = 4096
ALL = (UVLOOP, ASYNCIO, IGNORE, C, C_BY_PDU, DCMTK, PYNETDICOM)
USUAL = (UVLOOP, ASYNCIO, C, C_BY_PDU, DCMTK, PYNETDICOM)
FILES = (UVLOOP, ASYNCIO, C, DCMTK, ORTHANC, PYNETDICOM)
SENDING = (UVLOOP, ASYNCIO, C, "storescu", "dcmsend", PYNETDICOM)
RETRIEVING = (STORESCU, UVLOOP, ASYNCIO, QRSCP, DCMTK, PYNETDICOM)
FORK = "DCMTK with --fork"


@dataclass(frozen=True)
class Scenario:
    """One line of the table."""

    name: str
    kind: str = "receive"
    """Which function measures it."""
    unit: str = "MB/s"
    peers: tuple[str, ...] = USUAL
    mode: str = "store"
    """Of the C sender; or ``get`` or ``move``."""
    associations: int = 1
    size: int = CT
    pdu: int = 16384
    sink: str = "discard"
    """Or ``write``: files in memory if the machine has a file system for it; or ``fsync``: files on a disk."""
    sender: str = ""
    rounds: int = 1000
    """At the most."""
    note: str = ""

    def core(self, which: int) -> int | None:
        """That core for one end, where it is one process that takes turns with another one; else any."""
        return which if self.associations == 1 else None


_PDU = "DCMTK takes PDUs of 128 KiB at the most"
_RATE = {"unit": "1/s"}
_OPEN = {"kind": "open", "unit": "KB", "mode": "idle", "size": 0}
_FAIR = {"kind": "fair", "unit": "ms", "rounds": 3, "peers": (UVLOOP, ASYNCIO, C, DCMTK, PYNETDICOM)}
_STOCK = {"kind": "stock", "unit": "1/s", "peers": (STOCK, STOCK_DCMTK), "note": "the whole command, start included"}
_RETRIEVE = {"kind": "retrieve", "peers": RETRIEVING}
_TLS = {"mode": "tls", "peers": (UVLOOP, ASYNCIO, RAW_UVLOOP, RAW_ASYNCIO, DCMTK, PYNETDICOM)}

SCENARIOS = (
    Scenario("512 KB CT, 1 association", peers=ALL),
    Scenario("512 KB CT, 1 association, 64 KiB PDUs", peers=ALL, pdu=1 << 16),
    Scenario("512 KB CT, 1 association, 1 MiB PDUs", peers=ALL, pdu=1 << 20, note=_PDU),
    Scenario("512 KB CT, 16 associations", peers=ALL, associations=16, note=FORK),
    Scenario("512 KB CT, 100 associations", associations=100, note=FORK),
    Scenario(
        "64 MB multi-frame, 1 association",
        size=64 << 20,
        note="C gathers all of it, which goes beyond the processor's caches; those who drop it stay inside",
    ),
    Scenario("64 MB multi-frame, 1 association, 1 MiB PDUs", size=64 << 20, pdu=1 << 20, note=_PDU),
    Scenario("4 KB objects, 1 association", **_RATE, size=SMALL),
    Scenario("4 KB objects, 16 associations", **_RATE, size=SMALL, associations=16, note=FORK),
    Scenario("4 KB objects, 100 associations", **_RATE, size=SMALL, associations=100, note=FORK),
    Scenario(
        "C-ECHO, 100 associations", **_RATE, mode="echo", size=0, associations=100, peers=(*USUAL, ORTHANC), note=FORK
    ),
    Scenario("512 KB CT, an association for each of 500", **_RATE, mode="associate"),
    Scenario("512 KB CT to files, 1 association", sink="write", peers=FILES),
    Scenario(
        "512 KB CT to files, 16 associations",
        sink="write",
        associations=16,
        peers=(*FILES, TWO_WORKERS),
        note=f"{FORK}, which uses as many cores as there are",
    ),
    Scenario("64 MB multi-frame to files, 1 association", sink="write", size=64 << 20, peers=FILES),
    Scenario(
        "512 KB CT to files with fsync, 1 association",
        sink="fsync",
        peers=(UVLOOP, ASYNCIO, C, PYNETDICOM),
        note="C waits for one file after the other, whatever the associations; DCMTK has no such switch",
    ),
    Scenario(
        "512 KB CT to files with fsync, 16 associations",
        sink="fsync",
        associations=16,
        peers=(UVLOOP, ASYNCIO, C, PYNETDICOM),
    ),
    Scenario(
        "512 KB CT over TLS 1.3, 1 association",
        **_TLS,
        note="*ssl on uvloop* and *on asyncio* is Python's ssl with nothing above it but the counting of bytes",
    ),
    Scenario(
        "512 KB CT over TLS 1.3, 16 associations", **_TLS, associations=16, note=f"{FORK}; a sending process for each"
    ),
    Scenario(
        "sending 512 KB CT files, 1 association",
        kind="send",
        note="storescu and dcmsend with TCP_NODELAY=1 in their environment; the clock runs from the first data to the "
        "last response, so it leaves out what all but C and pynetdicom do before: look into every file; the CPU time "
        "is that of the whole process",
        peers=SENDING,
    ),
    Scenario("sending 4 KB files, 1 association", kind="send", unit="1/s", size=SMALL, peers=SENDING),
    Scenario(
        "C-MOVE of 1,000 CT",
        **_RETRIEVE,
        mode="move",
        note="to C; asked for by our movescu. Here and in C-GET the clock runs from before the association to the last "
        "response, in storescu, which sends the same files, with looking into them, as the archives have to do it; "
        "DCMTK is dcmqrscp with TCP_NODELAY=1 in its environment, pynetdicom has 20 files",
    ),
    Scenario("C-MOVE of 1,000 objects of 4 KB", **_RETRIEVE, **_RATE, mode="move", size=SMALL, note="to C"),
    Scenario(
        "C-GET of 1,000 CT",
        **_RETRIEVE,
        mode="get",
        note="to our getscu --ignore, and storescu to asyncdicom on uvloop",
    ),
    Scenario("C-GET of 1,000 objects of 4 KB", **_RETRIEVE, **_RATE, mode="get", size=SMALL, note="as of CT"),
    Scenario("stock storescu, 50 CT files", **_STOCK, sender="storescu"),
    Scenario("stock dcmsend, 50 CT files", **_STOCK, sender="dcmsend"),
    Scenario(
        "stock pynetdicom, 50 CT files", **{**_STOCK, "note": "from connecting to the release"}, sender=PYNETDICOM
    ),
    Scenario(
        "100 open associations",
        **_OPEN,
        associations=100,
        rounds=2,
        peers=(UVLOOP, ASYNCIO, C, DCMTK, PYNETDICOM),
        note="opened one after the other; memory is that of the processes, not the kernel's, and comes in steps; C-"
        f"ECHO goes round 100 of them, one each millisecond; {FORK}",
    ),
    Scenario(
        "1,000 open associations", **_OPEN, associations=1000, rounds=3, peers=(UVLOOP, ASYNCIO, C, DCMTK), note=FORK
    ),
    Scenario("5,000 open associations", **_OPEN, associations=5000, rounds=3, peers=(UVLOOP, ASYNCIO, C)),
    Scenario("10,000 open associations", **_OPEN, associations=10000, peers=(UVLOOP, ASYNCIO, C)),
    Scenario("C-ECHO p99 beside 1 bulk sender", **_FAIR, note=FORK),
    Scenario("C-ECHO p99 beside 16 bulk senders", **_FAIR, associations=16, note=FORK),
    Scenario(
        "memory added at the peak, 1 GiB instance to a file",
        kind="peak",
        unit="MB",
        size=GIB,
        pdu=131072,
        sink="write",
        rounds=1,
        peers=(UVLOOP, ASYNCIO, DCMTK, PYNETDICOM),
    ),
    Scenario(
        "memory added at the peak, 16 associations with a 1 GiB instance each",
        kind="peak",
        unit="MB",
        associations=16,
        size=GIB,
        sink="disk",
        rounds=1,
        peers=(UVLOOP, ASYNCIO, DCMTK),
        note=f"{FORK}, looked at 50 times a second; the rates are the disk's",
    ),
    Scenario("import time", kind="import", unit="ms", peers=("asyncdicom", "asyncio, ssl")),
)


@dataclass(frozen=True)
class Run:
    """How a scenario is measured."""

    peer: Path
    """The C program."""
    has_tls: bool
    """Whether it can send over TLS."""
    folder: Path
    """For files: in memory if the machine has such a file system."""
    disk: Path
    """For files that have to reach one."""
    rounds: int
    seconds: float
    """Each receiving run lasts this long."""
    quick: bool = False

    def rounds_of(self, scenario: Scenario) -> int:
        """How often each peer is measured."""
        return min(self.rounds, scenario.rounds)


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
    try:
        KINDS[scenario.kind](scenario, run, samples, errors)
    except Exception as error:  # the others are measured all the same
        errors["all"] = _words(error)
    return {name: samples[name] for name in scenario.peers if name in samples}, errors


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, RuntimeError) else f"{type(error).__name__}: {error}"


def _alternate(
    scenario: Scenario,
    rounds: int,
    samples: Samples,
    errors: Errors,
    once: Callable[[str], Sample],
    *,
    warm: bool = True,
) -> None:
    """Everybody once in each round, in another order each time; the first round warms up and is not kept.

    The order is shuffled, the same way in each run of the program: who comes behind one that has just given much memory
    back finds warm pages for its files, and must not be the same each time. Whoever fails once has failed, and nothing
    is kept of it: ratios are made of runs that stand side by side.
    """
    peers = [name for name in scenario.peers if name not in errors]
    for turn in range(0 if warm else 1, rounds + 1):
        for name in random.Random(turn).sample(peers, len(peers)):
            if name in errors:
                continue
            try:
                sample = once(name)
            except Exception as error:
                errors[name] = _words(error)
                samples.pop(name, None)
                continue
            if turn:
                samples.setdefault(name, []).append(sample)


def _mark_missing(names: Iterable[str], table: dict, errors: Errors) -> None:
    for name in names:
        if not table[name].installed:
            errors[name] = "not installed"


def _start(
    stack: contextlib.ExitStack, name: str, job: Job, errors: Errors, table: dict[str, Receiver] = RECEIVERS
) -> tuple[Process, int] | None:
    try:
        return stack.enter_context(table[name].running(job))
    except Exception as error:
        errors[name] = _words(error)
        return None


def _rate(scenario: Scenario, messages: int, size: float, seconds: float) -> float:
    return size / MB / seconds if scenario.unit == "MB/s" else messages / seconds


def _per(scenario: Scenario, messages: int, size: float) -> float:
    """GB, or thousands of operations where there are no bytes to speak of."""
    return size / 1e9 if scenario.size >= CT else messages / 1e3


def receive(scenario: Scenario, run: Run, samples: Samples, errors: Errors) -> None:
    """The C sender to each server."""
    _mark_missing(scenario.peers, RECEIVERS, errors)
    tls = None
    if scenario.mode == "tls":
        if not run.has_tls:
            errors.update(dict.fromkeys(scenario.peers, "the C sender was built without OpenSSL's headers"))
            return
        tls = _certificate(run.folder)
    with contextlib.ExitStack() as stack:
        servers = {}
        for index, name in enumerate(scenario.peers):
            if name in errors:
                continue
            folder = None
            if scenario.sink != "discard":
                folder = (run.disk if scenario.sink == "fsync" else run.folder) / f"received-{index}"
                folder.mkdir()
                stack.callback(shutil.rmtree, folder)
            job = Job(
                run.peer,
                run.folder,
                scenario.pdu,
                scenario.size,
                scenario.associations,
                folder,
                sync=scenario.sink == "fsync",
                tls=tls,
                core=scenario.core(RECEIVERS_CORE),
            )
            if started := _start(stack, name, job, errors):
                servers[name] = *started, folder

        def once(name: str) -> Sample:
            server, port, folder = servers[name]
            before, there = server.cpu(), len(files(folder)) if folder else 0
            result, sender = run_sender(
                run.peer,
                port,
                core=scenario.core(SENDERS_CORE),
                mode=scenario.mode,
                associations=scenario.associations,
                size=scenario.size,
                pdu=scenario.pdu,
                seconds=TIMEOUT if scenario.mode == "associate" else run.seconds,
                messages=_most_messages(scenario, run),
            )
            with sender:
                cpu = server.cpu() - before
            if result["failures"]:
                raise RuntimeError(f"{result['failures']} of {result['messages']} were refused")
            if folder:
                if len(files(folder)) - there < result["messages"]:
                    raise RuntimeError("not every instance was written")
                if not RECEIVERS[name].indexes:
                    empty(folder)
            value = _rate(scenario, result["messages"], result["bytes"], result["seconds"])
            more = {key: result[key] for key in ("pdu", "tls") if key in result}
            return Sample(value, cpu / _per(scenario, result["messages"], result["bytes"]), more)

        _alternate(scenario, run.rounds_of(scenario), samples, errors, once)


def _most_messages(scenario: Scenario, run: Run) -> int:
    if scenario.mode == "associate":
        return 50 if run.quick else 500
    return 1_000_000_000 if scenario.sink == "discard" else (2 << 30) // scenario.size


def send(scenario: Scenario, run: Run, samples: Samples, errors: Errors) -> None:
    """Each client to the C receiver, which looks at the clock from the first data to the last response."""
    _mark_missing(scenario.peers, SENDERS, errors)
    many = 400 if scenario.size >= CT else 4000
    folders = {count: _make_files(run.folder / f"sent-{count}", count, scenario.size) for count in (20, many)}

    def once(name: str) -> Sample:
        client = SENDERS[name]
        count = 20 if client.slow else many
        with Process([run.peer, "gather", "pdu=16384"], core=RECEIVERS_CORE) as receiver:
            port = int(receiver.line())
            start = time.perf_counter()
            command, environment = client.command(run.peer, port, folders[count]), dict(client.environment)
            core = None if client.has_threads else SENDERS_CORE
            with Process(command, environment=environment, core=core) as process:
                cpu = process.wait()
            whole = time.perf_counter() - start
            result = json.loads(receiver.line())
        if result["messages"] != count:
            raise RuntimeError(f"{result['messages']} of {count} were sent")
        value = _rate(scenario, count, result["bytes"], result["seconds"])
        more = {"whole command": _rate(scenario, count, result["bytes"], whole)}
        return Sample(value, cpu / _per(scenario, count, result["bytes"]), more)

    _alternate(scenario, run.rounds_of(scenario), samples, errors, once)
    for folder in folders.values():
        shutil.rmtree(folder)


def retrieve(scenario: Scenario, run: Run, samples: Samples, errors: Errors) -> None:
    """A study from each archive: to our client (C-GET), or at its request to the C receiver (C-MOVE).

    Beside them our storescu sends the same files to the same receiver, or to one of ours, as the client is.
    """
    names = [name for name in scenario.peers if name != STORESCU]
    _mark_missing(names, ARCHIVES, errors)
    counts = {name: 20 if name != STORESCU and ARCHIVES[name].slow else 1000 for name in scenario.peers}
    with contextlib.ExitStack() as stack:
        folders = {}
        for count in {*counts.values()}:
            folders[count] = _make_files(run.folder / f"study-{count}", count, scenario.size)
            stack.callback(shutil.rmtree, folders[count])
        receiver = RECEIVERS[C if scenario.mode == "move" else UVLOOP]
        _, destination = stack.enter_context(receiver.running(Job(run.peer, run.folder, scenario.pdu)))
        archives = {}
        for name in names:
            if name not in errors:
                job = Job(run.peer, run.folder, scenario.pdu, folder=folders[counts[name]], destination=destination)
                archives[name] = _start(stack, name, job, errors, ARCHIVES)

        def once(name: str) -> Sample:
            count, before, server = counts[name], 0.0, None
            if name == STORESCU:
                command = SENDERS[name].command(run.peer, destination, folders[count])
            else:
                server, port = archives[name]
                command, before = retriever(scenario.mode, port, scenario.pdu), server.cpu()
            start = time.perf_counter()
            with Process(command) as process:
                cpu = process.wait()
                whole = time.perf_counter() - start
                summary = json.loads(process.line())
            if server:
                cpu = server.cpu() - before
            if summary.get("completed", summary.get("sent")) != count:
                raise RuntimeError(f"not all of {count} were sent: {summary}")
            size = count * scenario.size
            more = {"whole command": _rate(scenario, count, size, whole)}
            return Sample(_rate(scenario, count, size, summary["seconds"]), cpu / _per(scenario, count, size), more)

        _alternate(scenario, run.rounds_of(scenario), samples, errors, once)


def stock(scenario: Scenario, run: Run, samples: Samples, errors: Errors) -> None:
    """A client as its users have it to a server as its users have it, with nothing set for the one or the other."""
    _mark_missing(scenario.peers, RECEIVERS, errors)
    client, count = SENDERS[scenario.sender], 50
    if not client.installed:
        errors.update(dict.fromkeys(scenario.peers, f"{client.name} is not installed"))
        return
    folder = _make_files(run.folder / "stock", count, scenario.size)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        servers = {}
        for name in scenario.peers:
            if name not in errors:
                servers[name] = _start(stack, name, Job(run.peer, run.folder, 16384), errors)

        def once(name: str) -> Sample:
            server, port = servers[name]
            before, start = server.cpu(), time.perf_counter()
            with Process(client.command(run.peer, port, folder)) as process:
                process.wait()
                seconds = float(process.line()) if client.tells_seconds else time.perf_counter() - start
            return Sample(count / seconds, (server.cpu() - before) / (count * scenario.size / 1e9))

        _alternate(scenario, run.rounds_of(scenario), samples, errors, once)


def _memory(name: str) -> str:
    """How to count: the share of pages that processes have in common also changes with what else is running."""
    return "Pss" if name == DCMTK else "Rss"


def open_associations(scenario: Scenario, run: Run, samples: Samples, errors: Errors) -> None:
    """Open many, look at the memory, then C-ECHO on a hundred of them, one each millisecond; a new server each time."""
    _mark_missing(scenario.peers, RECEIVERS, errors)

    def once(name: str) -> Sample:
        count = scenario.associations
        job = Job(run.peer, run.folder, scenario.pdu, associations=count)
        with RECEIVERS[name].running(job) as (server, port):
            _, warm = run_sender(run.peer, port, mode="idle", seconds=0.1, associations=1)
            with warm:
                warm.tell()
                warm.line()
            time.sleep(0.3)
            before = server.memory(_memory(name))
            opened, sender = run_sender(run.peer, port, mode="idle", seconds=1, associations=count)
            with sender:
                time.sleep(0.3)
                memory = (server.memory(_memory(name)) - before) / count
                cpu, start = server.cpu(), time.monotonic()
                time.sleep(1)
                idle = (server.cpu() - cpu) / (time.monotonic() - start)
                sender.tell()
                latency = json.loads(sender.line())
        return Sample(
            memory / 1024,
            None,
            {
                "opened in s": opened["seconds"],
                "idle CPU %": 100 * idle,
                "C-ECHO p50 ms": latency["p50"] * 1e3,
                "C-ECHO p99 ms": latency["p99"] * 1e3,
                "C-ECHO max ms": latency["max"] * 1e3,
            },
        )

    _alternate(scenario, run.rounds_of(scenario), samples, errors, once, warm=False)


def fairness(scenario: Scenario, run: Run, samples: Samples, errors: Errors) -> None:
    """C-ECHO on an association of its own, one each millisecond, while others send as much as they can."""
    _mark_missing(scenario.peers, RECEIVERS, errors)
    with contextlib.ExitStack() as stack:
        servers = {}
        for name in scenario.peers:
            if name not in errors:
                job = Job(run.peer, run.folder, scenario.pdu, associations=1 + scenario.associations)
                servers[name] = _start(stack, name, job, errors)

        def once(name: str) -> Sample:
            _, port = servers[name]
            seconds = max(1.0, run.seconds)
            _, echo = run_sender(run.peer, port, mode="idle", seconds=seconds, associations=1)
            with (
                echo,
                start_sender(
                    run.peer, port, associations=scenario.associations, size=scenario.size, seconds=seconds + 0.5
                ) as bulk,
            ):
                time.sleep(0.25)
                echo.tell()
                latency = json.loads(echo.line())
                result = json.loads(bulk.line())
            return Sample(
                latency["p99"] * 1e3,
                None,
                {
                    "p50 ms": latency["p50"] * 1e3,
                    "max ms": latency["max"] * 1e3,
                    "MB/s meanwhile": result["bytes"] / MB / result["seconds"],
                },
            )

        _alternate(scenario, run.rounds_of(scenario), samples, errors, once, warm=False)


def peak(scenario: Scenario, run: Run, samples: Samples, errors: Errors) -> None:
    """Large instances to files, one on each association, in a process that has just begun."""
    _mark_missing(scenario.peers, RECEIVERS, errors)
    folder = (run.disk if scenario.sink == "disk" else run.folder) / "large"
    folder.mkdir()
    count = scenario.associations
    room = shutil.disk_usage(folder).free / count / 1.3
    size = min(scenario.size, 1 << int(room).bit_length() - 1, 64 << 20 if run.quick else GIB)

    def once(name: str) -> Sample:
        try:
            with RECEIVERS[name].running(Job(run.peer, run.folder, scenario.pdu, size, count, folder)) as (
                server,
                port,
            ):
                _, warm = run_sender(run.peer, port, messages=count, associations=count, size=SMALL)
                with warm:
                    pass
                empty(folder)
                time.sleep(0.3)
                server.reset_peak()
                forks = count > 1 and name == DCMTK
                before = server.memory(_memory(name) if forks else "Rss")
                with start_sender(
                    run.peer, port, messages=count, associations=count, size=size, pdu=scenario.pdu, seconds=TIMEOUT
                ) as sender:
                    watched = _watch(server) if forks else None
                    result = json.loads(sender.line(timeout=5 * TIMEOUT))
                    added = ((watched() if watched else server.peak()) - before) / MB
                if result["failures"] or sum(path.stat().st_size for path in files(folder)) < count * size:
                    raise RuntimeError("not every instance was written")
                return Sample(added, None, {"MB/s": result["bytes"] / MB / result["seconds"], "MiB each": size >> 20})
        finally:
            empty(folder)

    _alternate(scenario, run.rounds_of(scenario), samples, errors, once, warm=False)
    shutil.rmtree(folder)


def _watch(server: Process) -> Callable[[], float]:
    """The most memory that a server and its children have had until the returned function is called."""
    most, done = [0.0], threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            most[0] = max(most[0], server.memory())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()

    def stop() -> float:
        done.set()
        thread.join(TIMEOUT)
        return most[0]

    return stop


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


def _make_files(folder: Path, count: int, size: int) -> Path:
    """CT images with nothing in them but what makes them valid; they differ in their SOP Instance UID."""
    from pydicom.dataset import Dataset, FileMetaDataset

    folder.mkdir()
    data_set = Dataset()
    data_set.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    data_set.SOPInstanceUID = "2.25.1987654321"
    data_set.StudyInstanceUID = data_set.SeriesInstanceUID = "2.25.1"
    data_set.PatientName, data_set.PatientID, data_set.Modality = "Benchmark", "1", "CT"
    data_set.SamplesPerPixel, data_set.PhotometricInterpretation = 1, "MONOCHROME2"
    data_set.Rows, data_set.Columns = (512, 512) if size >= CT else (size // 128, 64)
    data_set.BitsAllocated, data_set.BitsStored, data_set.HighBit, data_set.PixelRepresentation = 16, 16, 15, 0
    data_set.PixelData = bytes(range(256)) * (size // 256)
    data_set["PixelData"].VR = "OW"
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    data_set.save_as(folder / "00000.dcm", enforce_file_format=True)
    model = (folder / "00000.dcm").read_bytes()
    for index in range(count):
        (folder / f"{index:05d}.dcm").write_bytes(model.replace(b"2.25.1987654321", b"2.25.1%09d" % index))
    return folder


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A private key and a certificate that it has signed itself."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key_file, certificate_file = folder / "key.pem", folder / "certificate.pem"
    if not key_file.exists():
        key = rsa.generate_private_key(65537, 2048)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(key, hashes.SHA256())
        )
        private = serialization.PrivateFormat.TraditionalOpenSSL
        key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
        certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return key_file, certificate_file


KINDS = {
    "receive": receive,
    "send": send,
    "retrieve": retrieve,
    "stock": stock,
    "open": open_associations,
    "fair": fairness,
    "peak": peak,
    "import": import_time,
}
