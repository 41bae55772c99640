"""A printer and its user, connected; images for them."""

import asyncio
import contextlib
from types import SimpleNamespace

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

import asyncdicom
from asyncdicom.services.print_management import PrintEvents, PrintSession, print_contexts
from asyncdicom.services.printer import PrinterService

DEADLINE = 30.0
"""Seconds for what takes well under one; only a hang meets it."""


@contextlib.asynccontextmanager
async def printing(handler=None, *, contexts=None, color=False, **options):
    """A printer that keeps its films, and an association with it."""
    films, reported = [], []

    async def keep(film):
        films.append(film)

    async with asyncio.timeout(DEADLINE), PrinterService(handler or keep, **options) as printer:
        async with asyncdicom.serve("127.0.0.1", 0, services=[printer]) as server:
            events = PrintEvents(reported.append)
            proposed = contexts or print_contexts(color=color)
            async with asyncdicom.connect(
                "127.0.0.1", server.port, contexts=proposed, services=[events]
            ) as association:

                def session(**attributes):
                    return PrintSession(association, color=color, events=events, **attributes)

                yield SimpleNamespace(
                    printer=printer,
                    association=association,
                    films=films,
                    events=events,
                    reported=reported,
                    session=session,
                    port=server.port,
                )


def after(event):
    """A printer that begins when something has happened."""

    async def print_film(film):
        await event.wait()

    return print_film


def pixels(rows=2, columns=3, bits=8, seed=0):
    """An array that a printer takes as it is."""
    values = (np.arange(rows * columns) + seed).reshape(rows, columns)
    return values.astype("uint8" if bits == 8 else "uint16")


def image(values, **attributes):
    """An image instance in memory."""
    values = np.asarray(values)
    instance = Dataset()
    instance.file_meta = FileMetaDataset()
    instance.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    instance.PhotometricInterpretation = "MONOCHROME2"
    instance.SamplesPerPixel = 1
    instance.Rows, instance.Columns = values.shape[-2:]
    instance.BitsAllocated = instance.BitsStored = 8 * values.itemsize
    instance.PixelRepresentation = int(values.dtype.kind == "i")
    data = values.tobytes()
    instance.PixelData = data + bytes(len(data) % 2)
    for keyword, value in attributes.items():
        setattr(instance, keyword, value)
    instance.HighBit = instance.BitsStored - 1
    instance["PixelData"].VR = "OW"
    return instance
