"""Other people's programs as peers: started for one test, on loopback, with folders of their own."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

import pydicom

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from ports import free_ports

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
    (port,) = free_ports(1)
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
    async with asyncio.timeout(DEADLINE):
        while process.returncode is None:
            if listens(port):
                return
            await asyncio.sleep(0.01)
    raise RuntimeError(f"the server ended with exit code {process.returncode}")


def listens(port):
    """Whether a socket listens there, without connecting: a connection would be its first, failed association."""
    tables = [Path(name).read_text() for name in ("/proc/net/tcp", "/proc/net/tcp6")]
    return any(f":{port:04X} " in row and " 0A " in row for table in tables for row in table.splitlines())


# DCMTK's archive and worklist server


class Archive(NamedTuple):
    """A running archive."""

    port: int
    ae_title: str
    folder: Path
    """Where it keeps its files."""
    destinations: dict[str, int]
    """The AE titles that it moves instances to, and their ports on loopback; nobody listens there yet."""


DCMQRSCP_CONFIGURATION = """\
NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 16
HostTable BEGIN
{hosts}
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
{title} {folder} RW (200, 1024mb) ANY
AETable END
"""


@contextlib.asynccontextmanager
async def running_dcmqrscp(folder, destinations=("OURS",), *, options=()):
    """DCMTK's archive, empty, with AE title THEIRS; what it moves goes to free ports on loopback."""
    storage = folder / "THEIRS"
    storage.mkdir(parents=True)
    ports = dict(zip(destinations, free_ports(len(destinations)), strict=True))
    hosts = "\n".join(f"host{index} = ({title}, 127.0.0.1, {ports[title]})" for index, title in enumerate(ports))
    configuration = folder / "dcmqrscp.cfg"
    (port,) = free_ports(1)
    configuration.write_text(DCMQRSCP_CONFIGURATION.format(port=port, hosts=hosts, title="THEIRS", folder=storage))
    async with running("dcmqrscp", "-c", configuration, *options, "PORT") as port:
        yield Archive(port, "THEIRS", storage, ports)


@contextlib.asynccontextmanager
async def running_wlmscpfs(folder, worklist=(), *, options=()):
    """DCMTK's worklist server with AE title THEIRS, and these data sets as its worklist; gives port and folder.

    Files ``*.wl`` that are written into the folder later are found too.
    """
    entries = folder / "THEIRS"
    entries.mkdir(parents=True)
    (entries / "lockfile").touch()
    for index, entry in enumerate(worklist):
        write_worklist_entry(entries / f"{index:04}.wl", entry)
    async with running("wlmscpfs", *options, "-dfp", folder, "PORT") as port:
        yield Archive(port, "THEIRS", entries, {})


def write_worklist_entry(path, entry):
    """A data set as a worklist file of DCMTK's."""
    meta = asyncdicom.FileMeta("1.2.276.0.7230010.3.1.0.1", pydicom.uid.generate_uid(), "1.2.840.10008.1.2.1")
    buffer = pydicom.filebase.DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    pydicom.filewriter.write_dataset(buffer, entry)
    path.write_bytes(meta.encode() + buffer.getvalue())


# Orthanc


class Orthanc:
    """A running Orthanc: its DICOM port, and its REST API as coroutines."""

    ae_title = "ORTHANC"

    def __init__(self, port, http_port, folder):
        self.port = port
        self.http_port = http_port
        self.folder = folder
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    async def get(self, path):
        """What a GET of ``/...`` gives: decoded where it is JSON, else bytes."""
        return await asyncio.to_thread(self.call, "GET", path)

    async def post(self, path, body):
        """POST a dictionary or list (as JSON), a string, or bytes."""
        return await asyncio.to_thread(self.call, "POST", path, body)

    async def put(self, path, body):
        """PUT the same."""
        return await asyncio.to_thread(self.call, "PUT", path, body)

    async def delete(self, path):
        """DELETE it."""
        return await asyncio.to_thread(self.call, "DELETE", path)

    async def register(self, title, port, **more):
        """Tell it of a modality on loopback, by which it may be asked to find, store and move."""
        await self.put(f"/modalities/{title}", {"AET": title, "Host": "127.0.0.1", "Port": port, **more})

    async def upload(self, path):
        """Have it store a file."""
        return await self.post("/instances", Path(path).read_bytes())

    async def instance(self, sop_instance_uid):
        """The file that it has of an instance, or None."""
        found = await self.post("/tools/lookup", sop_instance_uid)
        paths = [each["Path"] for each in found if each["Type"] == "Instance"]
        return await self.get(f"{paths[0]}/file") if paths else None

    def call(self, method, path, body=None):
        """The same, from a thread."""
        if isinstance(body, str):
            body = body.encode()
        elif body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", body, method=method)
        with self._opener.open(request, timeout=DEADLINE) as response:
            content = response.read()
            is_json = response.headers.get_content_type() == "application/json"
        return json.loads(content) if is_json and content else content

    def clear(self):
        """Have it forget all instances and modalities."""
        for kind in ("patients", "modalities"):
            for name in self.call("GET", f"/{kind}"):
                self.call("DELETE", f"/{kind}/{name}")


ORTHANC_CONFIGURATION = {
    "Name": "Orthanc",
    "DicomAet": Orthanc.ae_title,
    "DicomCheckCalledAet": False,
    "DicomAlwaysAllowEcho": True,
    "DicomAlwaysAllowStore": True,
    "DicomAlwaysAllowFind": True,
    "DicomAlwaysAllowGet": True,
    "DicomAlwaysAllowMove": True,
    "UnknownSopClassAccepted": True,
    "OverwriteInstances": True,
    "AuthenticationEnabled": False,
    "RemoteAccessAllowed": False,
    "SaveJobs": False,
    "Plugins": [],
}


@contextlib.contextmanager
def running_orthanc(folder, **configuration):
    """Orthanc, empty, on free ports, its REST API open to loopback only; more of its configuration by name."""
    port, http_port = free_ports(2)
    storage = str(folder)
    places = {"DicomPort": port, "HttpPort": http_port, "StorageDirectory": storage, "IndexDirectory": storage}
    file = folder / "orthanc.json"
    file.write_text(json.dumps({**ORTHANC_CONFIGURATION, **places, **configuration}))
    process = subprocess.Popen(["Orthanc", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + DEADLINE
        while not (listens(port) and listens(http_port)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Orthanc did not start: exit code {process.poll()}")
            time.sleep(0.01)
        yield Orthanc(port, http_port, folder)
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
