"""Who is measured: how each receiver and sender is started, and whether it is installed."""

from __future__ import annotations

import importlib.util
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .processes import HERE, Process, free_port, python, wait_listening

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

C, C_BY_PDU = "C", "C by PDU"
DCMTK, PYNETDICOM = "DCMTK", "pynetdicom"
UVLOOP, ASYNCIO, IGNORE = "asyncdicom uvloop", "asyncdicom asyncio", "asyncdicom uvloop, not consumed"

NO_NAGLE = (("TCP_NODELAY", "1"),)
"""DCMTK's way to turn Nagle's algorithm off; without it, each instance waits 40 ms for an acknowledgement."""


@dataclass(frozen=True)
class Job:
    """What a receiver is started for."""

    peer: Path
    """The C program."""
    pdu: int
    associations: int = 1
    folder: Path | None = None
    """Where the instances shall go; None drops them."""


@dataclass(frozen=True)
class Receiver:
    """A storage server."""

    name: str
    command: Callable[[Job, int], list]
    """The command line for a job and a port; it prints the port that it has, unless ``takes_port``."""
    needs: str = ""
    takes_port: bool = False

    @property
    def installed(self) -> bool:
        """Whether it can be started here."""
        return not self.needs or bool(shutil.which(self.needs) or importlib.util.find_spec(self.needs))

    @contextmanager
    def running(self, job: Job) -> Iterator[tuple[Process, int]]:
        """The server and its port."""
        port = free_port() if self.takes_port else 0
        with Process(self.command(job, port)) as process:
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
    files: int = 400
    """How many it sends in a run of a second or two."""
    environment: tuple[tuple[str, str], ...] = ()

    installed = Receiver.installed


def _gather(job: Job, _: int, *more: str) -> list:
    return [job.peer, "gather", f"pdu={job.pdu}", *more, *([f"folder={job.folder}"] if job.folder else [])]


def _asyncdicom(loop: str, sink: str) -> Callable[[Job, int], list]:
    def command(job: Job, _: int) -> list:
        script = HERE / "servers" / "asyncdicom_server.py"
        if job.folder:
            return python(script, loop, "save", job.pdu, job.folder)
        return python(script, loop, sink, job.pdu)

    return command


def _pynetdicom(job: Job, _: int) -> list:
    script = HERE / "servers" / "pynetdicom_server.py"
    return python(script, *(("save", job.pdu, job.folder) if job.folder else ("ignore", job.pdu)))


def _storescp(job: Job, port: int) -> list:
    fork = ["--fork"] if job.associations > 1 else []
    sink = ["-od", job.folder] if job.folder else ["--ignore"]
    return ["storescp", "+B", *sink, *fork, "-pdu", max(4096, min(job.pdu, 131072)), port]


RECEIVERS = {
    receiver.name: receiver
    for receiver in (
        Receiver(UVLOOP, _asyncdicom("uvloop", "consume"), "uvloop"),
        Receiver(ASYNCIO, _asyncdicom("asyncio", "consume")),
        Receiver(IGNORE, _asyncdicom("uvloop", "ignore"), "uvloop"),
        Receiver(C, _gather),
        Receiver(C_BY_PDU, lambda job, port: _gather(job, port, "by_pdu=1")),
        Receiver(DCMTK, _storescp, "storescp", takes_port=True),
        Receiver(PYNETDICOM, _pynetdicom, "pynetdicom"),
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
            files=20,
        ),
    )
}


def _client(loop: str, port: int, folder: Path) -> list:
    return python(HERE / "clients" / "asyncdicom_client.py", loop, port, folder)
