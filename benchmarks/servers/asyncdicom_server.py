"""asyncdicom as a receiver, by its public API only: ``LOOP SINK PDU [key=value...]``; prints its port.

The keys are ``folder``, ``workers``, and ``key`` and ``cert`` for TLS. It ends with SIGTERM.
"""

import asyncio
import sys
from functools import partial
from pathlib import Path

import asyncdicom
from asyncdicom import tls
from benchmarks.servers import handlers


async def main(sink: str, pdu: str, **options: str) -> None:
    handler = getattr(handlers, sink)
    if "folder" in options:
        handler = partial(handler, Path(options["folder"]))
    context = None
    if "key" in options:
        context = tls.server_context(options["cert"], options["key"])
    workers = {"workers": int(options["workers"])} if "workers" in options else {}
    async with asyncdicom.serve(
        "127.0.0.1", 0, c_store=handler, max_pdu_length=int(pdu), max_associations=20_000, ssl=context, **workers
    ) as server:
        print(server.port, flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    loop, sink, pdu, *rest = sys.argv[1:]
    running = main(sink, pdu, **dict(word.split("=", 1) for word in rest))
    if loop == "uvloop":
        import uvloop

        uvloop.run(running)
    else:
        asyncio.run(running)
