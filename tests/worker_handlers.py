"""What the tests give to workers: all of it can be imported, as it has to be."""

import asyncio
import contextlib
import multiprocessing
import os
import ssl
import time
from pathlib import Path

from asyncdicom import Status, workers


class Store:
    """A handler that writes each instance into a file with its worker's process ID in the name."""

    def __init__(self, folder):
        self.folder = folder

    async def __call__(self, request):
        await request.data_set.save_as(self.folder / f"{os.getpid()}-{request.sop_instance_uid}")
        return Status.SUCCESS


async def drop(request):
    return Status.SUCCESS


async def drop_even(request):
    return Status.SUCCESS if int(request.sop_instance_uid[-1]) % 2 == 0 else Status(0xA700)


async def never_return(request):
    Path(request.sop_instance_uid).touch()
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


async def block(request):
    Path(request.sop_instance_uid).touch()
    time.sleep(1000)


async def block_soon():
    workers._GRACE = 0.2
    asyncio.get_running_loop().call_later(0.1, time.sleep, 1000)


async def note(folder):
    Path(folder, str(os.getpid())).touch()


def fail():
    raise ValueError("not today")


def fail_if(path):
    if os.path.exists(path):
        os._exit(3)


def tls_once(folder, certificate, key):
    """Makes a context; in a worker only the first time."""
    made = Path(folder, str(os.getpid()))
    if multiprocessing.parent_process() is not None:
        made.touch(exist_ok=False)
    return tls(certificate, key)


def tls(certificate, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
