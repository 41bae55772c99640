"""What a tool says: results on stdout, log lines and errors on stderr.

Text from peers and files is made harmless for a terminal; nothing that cannot be written, as its reader has gone, ends
a server.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from io import TextIOWrapper
from typing import Final

__all__ = ["LEVELS", "log", "printable", "say", "set_up_logging", "to_stderr"]

log: Final = logging.getLogger("asyncdicom.cli")
"""The tools' own lines; they show at the ordinary level, the library's from warnings on."""

LEVELS: Final = {
    "fatal": logging.CRITICAL,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG,
}
"""DCMTK's names of log levels."""


def printable(text: object) -> str:
    """The text with everything escaped that a terminal would obey."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in str(text))


def say(line: str) -> None:
    """A line of the result, on stdout, at once."""
    print(printable(line), flush=True)


def to_stderr(*lines: str) -> None:
    """Lines for whoever watches, those that are not empty; lost when nobody does."""
    with contextlib.suppress(OSError, ValueError):
        for line in filter(None, lines):
            print(printable(line), file=sys.stderr, flush=True)


class _Formatter(logging.Formatter):
    """Lines with their time; of an exception its words, the traceback only when debugging."""

    def __init__(self, *, debugging: bool) -> None:
        super().__init__("%(asctime)s %(levelname).1s %(message)s")
        self._debugging = debugging

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = printable(record.message)
        if record.exc_info and record.exc_info[1] is not None and not self._debugging:
            record.message += f": {printable(record.exc_info[1])}"
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:  # noqa: N802 - logging's name
        return super().formatException(ei) if self._debugging else ""  # type: ignore[arg-type]

    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = None
        return super().format(record).rstrip("\n")


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to stderr; a reader that has gone is no error of the program."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def set_up_logging(level: str) -> None:
    """Log to stderr: the library from ``level`` on (a name of DCMTK's), the tool one level more."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # not where a test has put its own
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks is no error
    number = LEVELS[level]
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Formatter(debugging=number <= logging.DEBUG))
    for name in ("asyncdicom", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(number)
        logger.propagate = False
    log.setLevel(logging.INFO if number == logging.WARNING else number)
