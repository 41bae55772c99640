"""A printer that keeps the images of each film as they came, and somebody who prints on it.

``python printer.py`` does both, over loopback.
"""

import asyncio
import tempfile
from pathlib import Path

from pydicom.data import get_testdata_file

import asyncdicom
from asyncdicom.services.print_management import PrintEvents, PrintSession, print_contexts, printer_state
from asyncdicom.services.printer import Film, PrinterService


async def main() -> None:
    """Print a film, and wait until it is done."""
    with tempfile.TemporaryDirectory() as folder:

        async def print_film(film: Film) -> None:
            for position, box in film.images.items():
                image = box.BasicGrayscaleImageSequence[0]
                Path(folder, f"{position}.raw").write_bytes(image.PixelData)
                print("printing image", position, f"of {film.calling_ae_title}: {image.Columns} x {image.Rows}")

        async with PrinterService(print_film) as printer:
            async with asyncdicom.serve("127.0.0.1", 0, ae_title="PRINTER", services=[printer]) as server:
                await print_one("127.0.0.1", server.port)


async def print_one(host: str, port: int) -> None:
    """What a workstation does."""
    events = PrintEvents()
    options = {"called_ae_title": "PRINTER", "contexts": print_contexts(), "services": [events]}
    async with asyncdicom.connect(host, port, **options) as association:
        print("the printer is", (await printer_state(association)).status)
        async with PrintSession(association, events=events, copies=1, medium="PAPER") as session:
            film = await session.film(r"STANDARD\1,2")
            for position in (1, 2):
                await film.place(position, get_testdata_file("CT_small.dcm"))
            for job in await film.print():
                print("the job is", (await job.wait()).status)


if __name__ == "__main__":
    asyncio.run(main())
