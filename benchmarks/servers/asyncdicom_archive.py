"""asyncdicom as an archive of one study, by its public API only: ``LOOP PDU FOLDER DESTINATION-PORT``; prints its port.

Whatever is asked for, by C-GET or by C-MOVE to DESTINATION, it sends the files of the folder. It ends with SIGTERM.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncdicom
from asyncdicom.uids import STUDY_ROOT_GET, STUDY_ROOT_MOVE

loop, pdu, folder, destination = sys.argv[1:]
CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"


async def give(request: asyncdicom.CGetRequest) -> AsyncIterator[Path]:
    paths = sorted(Path(folder).iterdir())
    request.total = len(paths)
    for path in paths:
        yield path


async def main() -> None:
    async with asyncdicom.serve(
        "127.0.0.1",
        0,
        c_get=give,
        c_move=give,
        contexts=[STUDY_ROOT_GET, STUDY_ROOT_MOVE, asyncdicom.Context(CT, (EXPLICIT,), scu=True)],
        move_destinations={"DESTINATION": ("127.0.0.1", int(destination))},
        max_pdu_length=int(pdu),
    ) as server:
        print(server.port, flush=True)
        await server.serve_forever()


if loop == "uvloop":
    import uvloop

    uvloop.run(main())
else:
    asyncio.run(main())
