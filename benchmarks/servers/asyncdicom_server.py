"""asyncdicom as a receiver, by its public API only: ``LOOP SINK PDU [FOLDER]``; prints its port, ends with SIGTERM."""

import asyncio
import sys
from pathlib import Path

import asyncdicom

loop, sink, pdu, *rest = sys.argv[1:]
folder = Path(*rest)


async def consume(request: asyncdicom.CStoreRequest) -> asyncdicom.Status:
    async for _ in request.data_set:
        pass
    return asyncdicom.Status.SUCCESS


async def ignore(request: asyncdicom.CStoreRequest) -> asyncdicom.Status:  # noqa: ARG001 - that is the point
    return asyncdicom.Status.SUCCESS


async def save(request: asyncdicom.CStoreRequest) -> asyncdicom.Status:
    await request.data_set.save_as(folder / f"{request.sop_instance_uid}.dcm")
    return asyncdicom.Status.SUCCESS


async def main() -> None:
    handler = {"consume": consume, "ignore": ignore, "save": save}[sink]
    async with asyncdicom.serve(
        "127.0.0.1", 0, c_store=handler, max_pdu_length=int(pdu), max_associations=20_000
    ) as server:
        print(server.port, flush=True)
        await server.serve_forever()


if loop == "uvloop":
    import uvloop

    uvloop.run(main())
else:
    asyncio.run(main())
