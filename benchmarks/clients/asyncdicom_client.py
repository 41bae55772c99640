"""asyncdicom as a sender: ``LOOP PORT FOLDER``."""

import asyncio
import sys
from itertools import zip_longest
from pathlib import Path

import asyncdicom

loop, port, folder = sys.argv[1:]


async def main() -> None:
    instances = [asyncdicom.read_instance(path) for path in sorted(Path(folder).iterdir())]
    contexts = asyncdicom.contexts_for(instances)
    async with asyncdicom.connect("127.0.0.1", int(port), contexts=contexts) as association:
        for instance, upcoming in zip_longest(instances, instances[1:]):
            status = await association.c_store(instance, upcoming=upcoming)
            assert status.is_success


if loop == "uvloop":
    import uvloop

    uvloop.run(main())
else:
    asyncio.run(main())
