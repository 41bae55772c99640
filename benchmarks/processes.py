"""The processes of a measurement: start, wait for the port, look into /proc, end by their own PID."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import resource
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Self

HERE = Path(__file__).parent
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
BYTECODE = tempfile.TemporaryDirectory(prefix="bench-")
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "TCP_NODELAY"} | {
    "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(HERE.parent)))),
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONPYCACHEPREFIX": BYTECODE.name,
}
"""Of every process: this library is found, and is compiled once, as it is where it is installed.

DCMTK's switch against Nagle's algorithm is set by those who say so, and by nobody else.
"""
TIMEOUT = 60.0
"""Seconds that anything may take, at the most."""
RECEIVERS_CORE, SENDERS_CORE = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
"""For two processes that take turns, one each: left to itself, Linux has them on one core or on two as it likes, for
seconds at a time, and the C programs make 18,000 or 44,000 instances of 4 KB a second."""


def build_peer(folder: Path) -> tuple[Path, bool]:
    """Compile the C sender and receiver; whether it can speak TLS: that takes OpenSSL's headers."""
    program = folder / "peer"
    command = ["cc", "-O2", "-o", program, HERE / "peer.c"]
    with_tls = [*command, "-DTLS", "-lssl", "-lcrypto"]
    if subprocess.run(with_tls, capture_output=True, check=False, timeout=TIMEOUT).returncode == 0:
        return program, True
    subprocess.run(command, check=True, timeout=TIMEOUT)
    return program, False


class Process:
    """A process of ours whose output is lines; killed, with its children, when the block ends.

    With a core, it and its children run there and nowhere else.
    """

    def __init__(
        self, command: list[str], *, environment: dict[str, str] | None = None, core: int | None = None
    ) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            env=ENVIRONMENT | (environment or {}),
            preexec_fn=None if core is None else partial(os.sched_setaffinity, 0, {core}),  # noqa: PLW1509
        )
        self.pid = self._process.pid
        self._lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(3)
            except subprocess.TimeoutExpired:
                self._process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, 9)  # the session that began with it: its own children
        self._process.wait(TIMEOUT)
        self._errors.close()

    def line(self, timeout: float = TIMEOUT) -> str:
        """The next line of its output."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise RuntimeError(f"no answer within {timeout:g} s") from None
        if not line:
            raise RuntimeError(f"ended early: {self._last_words()}")
        return line.decode()

    def _last_words(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]

    def tell(self) -> None:
        """Let it go on."""
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def wait(self) -> float:
        """Until it has ended; returns the CPU seconds it took."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._process.stdin.close()
        descriptor = os.pidfd_open(self.pid)  # Popen.wait with a timeout looks every 50 ms only
        try:
            select.select([descriptor], [], [], TIMEOUT)
        finally:
            os.close(descriptor)
        if self._process.wait(1):
            raise RuntimeError(f"failed: {self._last_words()}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def tree(self) -> list[int]:
        """Its PID and those of its children."""
        pids = [self.pid]
        for pid in pids:
            with contextlib.suppress(OSError):
                pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return pids

    def cpu(self) -> float:
        """CPU seconds so far, children included, also those that have ended."""
        total = 0.0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                total += time.clock_gettime(~pid << 3 | 2)  # the other process's clock: /proc counts in 10 ms
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += sum(map(int, fields[13:15])) / CLOCK_TICKS
        return total

    def memory(self, key: str = "Pss") -> float:
        """Bytes of memory now, shared pages counted by their share; children included."""
        total = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith(f"{key}:"):
                        total += int(line.split()[1]) * 1024
        return total

    def peak(self) -> int:
        """Bytes of memory at the most since :meth:`reset_peak`, the process alone."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no VmHWM")

    def reset_peak(self) -> None:
        """Let the peak begin at what is used now."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


def python(*words: object) -> list[str]:
    """A script of ours in this interpreter."""
    return [sys.executable, *map(str, words)]


def free_port() -> int:
    """A loopback port for peers that cannot choose one themselves."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def wait_listening(port: int) -> None:
    """Until somebody listens, without connecting."""
    wanted, end = f":{port:04X} ", time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/net/{table}").read_text().splitlines():
                if wanted in line and " 0A " in line:
                    return
        time.sleep(0.02)
    raise RuntimeError(f"nobody listens on port {port}")


def start_sender(peer: Path, port: int, *, core: int | None = None, **options: object) -> Process:
    """Start the C sender."""
    return Process([peer, "send", port, *(f"{key}={value}" for key, value in options.items())], core=core)


def run_sender(peer: Path, port: int, *, core: int | None = None, **options: object) -> tuple[dict, Process]:
    """Start the C sender; its first line, and the process, which still holds its associations."""
    sender = start_sender(peer, port, core=core, **options)
    try:
        return json.loads(sender.line()), sender
    except BaseException:
        sender.__exit__()
        raise


def files(folder: Path) -> list[Path]:
    """What a receiver has written."""
    return [path for path in folder.rglob("*") if path.is_file()]


def empty(folder: Path) -> None:
    """Remove what a receiver has written."""
    for path in folder.iterdir():
        path.unlink() if path.is_file() else shutil.rmtree(path)


def file_system(folder: Path) -> str:
    """The type of the file system that a folder is on."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    on = max((words for words in mounts if folder.resolve().is_relative_to(words[1])), key=lambda words: len(words[1]))
    return on[2]
