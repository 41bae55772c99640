"""The command-line tools as processes, and files for them to send."""

import asyncio
import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import asyncdicom
from asyncdicom.cli import main
from asyncdicom.elements import explicit_element, pad_text, pad_uid

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = "1.2.840.10008.1.2.1"
JPEG = "1.2.840.10008.1.2.4.50"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(asyncdicom.__file__).parents[1])}
COMMAND = (sys.executable, "-m", "asyncdicom")
DEADLINE = 60.0
"""Seconds after which a process hangs."""


def run(*words, **options):
    """A tool's whole run."""
    options = {"capture_output": True, "text": True, "timeout": DEADLINE, "env": ENVIRONMENT, **options}
    return subprocess.run([*COMMAND, *map(str, words)], check=False, **options)


def run_here(*words):
    """A tool's whole run in this process, which takes a tenth of the time."""
    loggers = [logging.getLogger(name) for name in ("asyncdicom", "asyncio", "asyncdicom.cli")]
    before = [(each, each.handlers, each.level, each.propagate) for each in loggers]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = main(list(map(str, words)))
        finally:
            for logger, handlers, level, propagates in before:
                logger.handlers, logger.propagate = handlers, propagates
                logger.setLevel(level)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def start(*words):
    """A tool that goes on running, and hears Ctrl-C: where the tests run in the background, children ignore it."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)  # what is ignored would be inherited
    try:
        return subprocess.Popen(
            [*COMMAND, *map(str, words)], env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    finally:
        signal.signal(signal.SIGINT, earlier)


def wait_until(condition):
    """Poll until something can be observed."""
    deadline = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{condition} did not come true within {DEADLINE:g} s"
        time.sleep(0.01)
    return found


class Receiver:
    """A running storescp on a free port of the loopback address; its folder is made."""

    def __init__(self, folder, *options):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        port_file = folder.with_name(f"{folder.name}.port")
        words = ("storescp", "0", "-ba", "127.0.0.1", "-od", folder, "--port-file", port_file, *options)
        self.process = start(*words)
        wait_until(lambda: port_file.exists() or self.process.poll() is not None)
        assert port_file.exists(), self.process.communicate()
        self.port = int(port_file.read_text())
        self.peer = ("127.0.0.1", self.port)
        self.output = self.errors = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None and not self.output:
            self.end()

    def end(self):
        """Have it end, and take what it said."""
        self.process.terminate()
        return self.finish()

    def finish(self):
        """Wait until it ends; returns its exit code."""
        try:
            self.output, self.errors = self.process.communicate(timeout=DEADLINE)
        finally:
            self.process.kill()
        return self.process.returncode

    def files(self):
        """What it has stored, as paths below its folder."""
        paths = (path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())
        return sorted(path for path in paths if not path.endswith(".part"))


def write_instance(path, uid="1.2.3", *, sop_class=CT, syntax=EXPLICIT, study="1.2.3.4", patient="P1", size=100):
    """A small file that is an instance as far as sending goes."""
    meta = asyncdicom.FileMeta(sop_class, uid, syntax)
    elements = (
        (0x00080016, b"UI", pad_uid(sop_class)),
        (0x00080018, b"UI", pad_uid(uid)),
        (0x00080060, b"CS", b"CT"),
        (0x00100020, b"LO", pad_text(patient)),
        (0x0020000D, b"UI", pad_uid(study)),
        (0x0020000E, b"UI", pad_uid(f"{study}.5")),
        (0x00420011, b"OB", bytes(size)),
    )
    path.write_bytes(meta.encode() + b"".join(explicit_element(*each) for each in elements))
    return path


def write_instances(folder, count, **values):
    """A folder with several of them."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        write_instance(folder / f"{number:03}.dcm", f"1.2.3.{number}", **values)
    return folder


def data_set(path):
    """The data set's bytes of a file."""
    data = path.read_bytes()
    return data[asyncdicom.FileMeta.decode(data)[1] :]


async def run_beside(*words):
    """A tool's whole run, while the caller's loop goes on serving it."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *map(str, words), env=ENVIRONMENT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(DEADLINE):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return subprocess.CompletedProcess(words, process.returncode, out.decode(), err.decode())
