"""Other people's programs as peers: started for one test, on loopback, with folders of their own."""

import asyncio
import contextlib
import socket
from pathlib import Path

import pydicom

import asyncdicom

DEADLINE = 30.0
"""Seconds for what takes well under one; only a hang meets it."""


def corpus():
    """The instances that ship inside pydicom, by path."""
    instances = []
    for path in sorted((Path(pydicom.__file__).parent / "data").rglob("*")):
        if path.is_file():
            with contextlib.suppress(asyncdicom.FileFormatError):
                instances.append(asyncdicom.read_instance(path))
    return instances


def batches(instances):
    """Groups in which every SOP instance stands once, so that no file replaces another at a receiver."""
    groups = []
    for instance in instances:
        for group in groups:
            if instance.sop_instance_uid not in group:
                group[instance.sop_instance_uid] = instance
                break
        else:
            groups.append({instance.sop_instance_uid: instance})
    return [list(group.values()) for group in groups]


def data_set_bytes(path):
    """The bytes of a file behind its file meta information."""
    content = Path(path).read_bytes()
    _, offset = asyncdicom.FileMeta.decode(content)
    return content[offset:]


def stored(folder):
    """What is in a receiver's folder: data set bytes by SOP Instance UID."""
    found = {}
    for path in Path(folder).iterdir():
        content = path.read_bytes()
        meta, offset = asyncdicom.FileMeta.decode(content)
        found[meta.sop_instance_uid] = content[offset:]
    return found


def even(data):
    """With the pad byte that fragments of even length need."""
    return data + b"\0" if len(data) % 2 else data


async def run(*command):
    """Run a program to its end; returns its exit code and all it printed."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), DEADLINE)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, output.decode("utf-8", "replace")


@contextlib.asynccontextmanager
async def running(*command):
    """A DCMTK server on a free port; PORT in the command is replaced by it. Gives the port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(str(port) if word == "PORT" else str(word) for word in command),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await _until_it_listens(port, process)
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def _until_it_listens(port, process):
    """Look whether a socket listens, without connecting: a connection would be its first, failed association."""
    line = f"{port:04X} "
    async with asyncio.timeout(DEADLINE):
        while process.returncode is None:
            tables = [Path(name).read_text() for name in ("/proc/net/tcp", "/proc/net/tcp6")]
            if any(f":{line}" in row and " 0A " in row for table in tables for row in table.splitlines()):
                return
            await asyncio.sleep(0.01)
    raise RuntimeError(f"the server ended with exit code {process.returncode}")
