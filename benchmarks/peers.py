"""Who is measured: how each receiver and sender is started, and whether it is installed."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .processes import HERE, TIMEOUT, Process, free_port, python, wait_listening

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

C, C_BY_PDU = "C", "C by PDU"
DCMTK, PYNETDICOM, ORTHANC = "DCMTK", "pynetdicom", "Orthanc"
UVLOOP, ASYNCIO, IGNORE = "asyncdicom uvloop", "asyncdicom asyncio", "asyncdicom uvloop, not consumed"
TWO_WORKERS = "asyncdicom uvloop, 2 workers"
RAW_UVLOOP, RAW_ASYNCIO = "ssl on uvloop", "ssl on asyncio"
STOCK, STOCK_DCMTK = "asyncdicom storescp", "DCMTK storescp"
STORESCU, QRSCP = "asyncdicom storescu", "asyncdicom qrscp"

NO_NAGLE = (("TCP_NODELAY", "1"),)
"""DCMTK's way to turn Nagle's algorithm off; without it, each instance waits 40 ms for an acknowledgement."""


_OURS = (sys.executable, "-m", "asyncdicom")


@dataclass(frozen=True)
class Job:
    """What a receiver is started for."""

    peer: Path
    """The C program."""
    scratch: Path
    """For whatever the receiver itself needs: its configuration, its database."""
    pdu: int
    size: int = 0
    """Of the instances; only the receiver that does not parse wants to know it."""
    associations: int = 1
    folder: Path | None = None
    """Where the instances shall go; None drops them. Of an archive, where they are."""
    sync: bool = False
    """Whether they shall be on stable storage before they are answered."""
    tls: tuple[Path, Path] | None = None
    """Private key and certificate."""
    destination: int = 0
    """Of an archive, the port on loopback of the AE title DESTINATION."""
    core: int | None = None
    """The only one that it may use."""

    @property
    def sink(self) -> str:
        """What our scripts call it."""
        return "ignore" if self.folder is None else "sync" if self.sync else "save"

    def options(self) -> list[str]:
        """For our scripts."""
        words = [f"folder={self.folder}"] if self.folder else []
        return words + ([f"key={self.tls[0]}", f"cert={self.tls[1]}"] if self.tls else [])


@dataclass(frozen=True)
class Receiver:
    """A storage server, or an archive."""

    name: str
    command: Callable[[Job, int], list]
    """The command line for a job and a port; it prints the port that it has, unless ``takes_port``."""
    needs: str = ""
    takes_port: bool = False
    indexes: bool = False
    """It keeps a database of its files, so that they must stay."""
    has_threads: bool = False
    """It is given all cores, where others have one."""
    slow: bool = False
    """Of an archive: twenty files are enough."""
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def installed(self) -> bool:
        """Whether it can be started here."""
        return not self.needs or bool(shutil.which(self.needs) or importlib.util.find_spec(self.needs))

    @contextmanager
    def running(self, job: Job) -> Iterator[tuple[Process, int]]:
        """The server and its port."""
        port = free_port() if self.takes_port else 0
        core = None if self.has_threads else job.core
        with Process(self.command(job, port), environment=dict(self.environment), core=core) as process:
            if self.takes_port:
                wait_listening(port)
            else:
                port = int(process.line())
            yield process, port


@dataclass(frozen=True)
class Sender:
    """A storage client that sends the files of a folder on one association."""

    name: str
    command: Callable[[Path, int, Path], list]
    needs: str = ""
    slow: bool = False
    """Twenty files are enough."""
    environment: tuple[tuple[str, str], ...] = ()
    tells_seconds: bool = False
    """It prints how long it took without the interpreter's start."""
    has_threads: bool = False
    """As of a receiver."""

    installed = Receiver.installed


def _gather(job: Job, _: int, *more: str) -> list:
    sync = ["sync=1"] if job.sync else []
    return [job.peer, "gather", f"pdu={job.pdu}", *more, *sync, *([f"folder={job.folder}"] if job.folder else [])]


def _asyncdicom(loop: str, sink: str, *more: str) -> Callable[[Job, int], list]:
    def command(job: Job, _: int) -> list:
        script = HERE / "servers" / "asyncdicom_server.py"
        return python(script, loop, job.sink if job.folder else sink, job.pdu, *job.options(), *more)

    return command


def _pynetdicom(job: Job, _: int) -> list:
    return python(HERE / "servers" / "pynetdicom_server.py", job.sink, job.pdu, *job.options())


def _raw_tls(loop: str) -> Callable[[Job, int], list]:
    return lambda job, _: python(HERE / "servers" / "raw_tls_server.py", loop, *job.tls, job.size, job.pdu)


def _storescp(job: Job, port: int) -> list:
    fork = ["--fork"] if job.associations > 1 else []
    sink = ["-od", job.folder] if job.folder else ["--ignore"]
    tls = ["+tls", *job.tls, "-ic"] if job.tls else []
    return ["storescp", "+B", *sink, *fork, *tls, "-pdu", max(4096, min(job.pdu, 131072)), port]


def _orthanc(job: Job, port: int) -> list:
    own = Path(tempfile.mkdtemp(prefix="orthanc-", dir=job.scratch))
    configuration = {
        "StorageDirectory": str(job.folder or own),
        "IndexDirectory": str(own),
        "Plugins": [],
        "HttpServerEnabled": False,
        "DicomPort": port,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowEcho": True,
        "OverwriteInstances": True,
    }
    file = own / "orthanc.json"
    file.write_text(json.dumps(configuration))
    return ["Orthanc", file]


def _archive(script: str, *words: object) -> Callable[[Job, int], list]:
    return lambda job, _: python(HERE / "servers" / script, *words, job.pdu, job.folder, job.destination)


def _qrscp(job: Job, port: int) -> list:
    peer = f"DESTINATION=127.0.0.1:{job.destination}"
    return [*_OURS, "qrscp", "-pdu", job.pdu, "--folder", job.folder, "--peer", peer, port]


_DCMQRSCP = """\
NetworkTCPPort = {port}
MaxPDUSize = {pdu}
MaxAssociations = 16
HostTable BEGIN
host = (DESTINATION, 127.0.0.1, {destination})
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
ARCHIVE {folder} RW (200, 1024mb) ANY
AETable END
"""


def _dcmqrscp(job: Job, port: int) -> list:
    own = job.scratch / f"dcmqrscp-{port}"
    own.mkdir()
    index = ["dcmqridx", own, *sorted(job.folder.iterdir())]
    subprocess.run(index, capture_output=True, check=True, timeout=TIMEOUT)
    file = own / "dcmqrscp.cfg"
    file.write_text(_DCMQRSCP.format(port=port, pdu=job.pdu, destination=job.destination, folder=own))
    return ["dcmqrscp", "-c", file, port]


RECEIVERS = {
    receiver.name: receiver
    for receiver in (
        Receiver(UVLOOP, _asyncdicom("uvloop", "consume"), "uvloop"),
        Receiver(ASYNCIO, _asyncdicom("asyncio", "consume")),
        Receiver(IGNORE, _asyncdicom("uvloop", "ignore"), "uvloop"),
        Receiver(TWO_WORKERS, _asyncdicom("uvloop", "consume", "workers=2"), "uvloop"),
        Receiver(C, _gather),
        Receiver(C_BY_PDU, lambda job, port: _gather(job, port, "by_pdu=1")),
        Receiver(DCMTK, _storescp, "storescp", takes_port=True),
        Receiver(ORTHANC, _orthanc, "Orthanc", takes_port=True, indexes=True, has_threads=True),
        Receiver(PYNETDICOM, _pynetdicom, "pynetdicom", has_threads=True),
        Receiver(RAW_UVLOOP, _raw_tls("uvloop"), "uvloop"),
        Receiver(RAW_ASYNCIO, _raw_tls("asyncio")),
        Receiver(STOCK, lambda _, port: [*_OURS, "storescp", "--ignore", port], takes_port=True),
        Receiver(STOCK_DCMTK, lambda _, port: ["storescp", "--ignore", port], "storescp", takes_port=True),
    )
}

ARCHIVES = {
    archive.name: archive
    for archive in (
        Receiver(UVLOOP, _archive("asyncdicom_archive.py", "uvloop"), "uvloop"),
        Receiver(ASYNCIO, _archive("asyncdicom_archive.py", "asyncio")),
        Receiver(QRSCP, _qrscp, takes_port=True),
        Receiver(DCMTK, _dcmqrscp, "dcmqrscp", takes_port=True, environment=NO_NAGLE),
        Receiver(PYNETDICOM, _archive("pynetdicom_archive.py"), "pynetdicom", slow=True),
    )
}

SENDERS = {
    sender.name: sender
    for sender in (
        Sender(UVLOOP, lambda _, port, folder: _client("uvloop", port, folder), "uvloop"),
        Sender(ASYNCIO, lambda _, port, folder: _client("asyncio", port, folder)),
        Sender(C, lambda peer, port, folder: [peer, "send", port, "mode=files", f"folder={folder}"]),
        Sender(
            "storescu",
            lambda _, port, folder: ["storescu", "+sd", "127.0.0.1", port, folder],
            "storescu",
            environment=NO_NAGLE,
        ),
        Sender(
            "dcmsend",
            lambda _, port, folder: ["dcmsend", "+sd", "127.0.0.1", port, folder],
            "dcmsend",
            environment=NO_NAGLE,
        ),
        Sender(
            PYNETDICOM,
            lambda _, port, folder: python(HERE / "clients" / "pynetdicom_client.py", port, folder),
            "pynetdicom",
            slow=True,
            tells_seconds=True,
            has_threads=True,
        ),
        Sender(STORESCU, lambda _, port, folder: [*_OURS, "storescu", "--json", "127.0.0.1", port, folder]),
    )
}


def _client(loop: str, port: int, folder: Path) -> list:
    return python(HERE / "clients" / "asyncdicom_client.py", loop, port, folder)


def retriever(mode: str, port: int, pdu: int) -> list:
    """Our ``getscu`` or ``movescu``, which asks an archive for the one study that it has, and prints a summary."""
    more = {"get": ["--ignore", "-pdu", pdu, "--sop-class", "CTImageStorage"], "move": ["-aem", "DESTINATION"]}[mode]
    study = ["-S", "-L", "STUDY", "-k", "StudyInstanceUID=2.25.1"]
    return [*_OURS, f"{mode}scu", "--json", *study, *more, "-aec", "ARCHIVE", "127.0.0.1", port]
