"""What all tests share: every asynchronous test runs on asyncio's event loop and on uvloop."""

import asyncio
import sys


def pytest_asyncio_loop_factories(config, item):
    factories = {"asyncio": asyncio.new_event_loop}
    if sys.platform != "win32":
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    return factories
