"""What all tests share: every asynchronous test runs on asyncio's event loop and on uvloop."""

import asyncio
import logging
import sys

import pytest


def pytest_asyncio_loop_factories(config, item):
    factories = {"asyncio": asyncio.new_event_loop}
    if sys.platform != "win32":
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """The tools set up logging for their process: no test shall have it from another."""
    loggers = [logging.getLogger(name) for name in ("asyncdicom", "asyncdicom.cli", "asyncio")]
    before = [(each.handlers, each.level, each.propagate) for each in loggers]
    yield
    for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
        each.handlers, each.propagate = handlers, propagate
        each.setLevel(level)
