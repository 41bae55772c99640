"""How far sending has come: a bar on a terminal when rich is there, a line now and then otherwise."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Protocol, Self

from .console import to_stderr
from .summary import megabytes

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Counting", "Progress", "counting", "progress"]

_LINE_INTERVAL = 5.0
"""Seconds between two lines."""


class Progress(Protocol):
    """Shows progress between its beginning and end."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End."""

    def advance(self, size: int) -> None:
        """One more file is done, of so many bytes."""


def progress(files: int, size: int, *, quiet: bool, lines_only: bool) -> Progress:
    """What shows progress here; rich is imported only where a bar can be shown, for it takes its time."""
    if quiet:
        return _Lines(files, interval=float("inf"))
    if not lines_only and sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            return _Bar(files, size)
    return _Lines(files, interval=_LINE_INTERVAL)


class Counting(Protocol):
    """Shows how many instances the peer has dealt with, between its beginning and end."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End."""

    def update(self, done: int, total: int | None, size: int) -> None:
        """So many are done of so many (None if the peer does not say), and so many bytes have come here."""


def counting(*, quiet: bool, lines_only: bool) -> Counting:
    """What shows progress here, as :func:`progress` does."""
    if quiet:
        return _CountLines(interval=float("inf"))
    if not lines_only and sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            return _CountBar()
    return _CountLines(interval=_LINE_INTERVAL)


class _CountLines:
    def __init__(self, *, interval: float) -> None:
        self._interval = interval
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def update(self, done: int, total: int | None, size: int) -> None:
        now = time.monotonic()
        if now - self._last >= self._interval:
            self._last = now
            to_stderr(_count(done, total, size))


class _CountBar:
    def __init__(self) -> None:
        from rich import progress as bars  # noqa: PLC0415 - slow to import
        from rich.console import Console  # noqa: PLC0415

        self._bar = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(_count(0, None, 0), total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, done: int, total: int | None, size: int) -> None:
        self._bar.update(self._task, completed=done, total=total, description=_count(done, total, size))


def _count(done: int, total: int | None, size: int) -> str:
    of = "" if total is None else f" of {total}"
    return f"{done}{of} instances{f', {megabytes(size)}' if size else ''}"


class _Lines:
    def __init__(self, files: int, *, interval: float) -> None:
        self._files = files
        self._interval = interval
        self._done = self._bytes = 0
        self._start = self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def advance(self, size: int) -> None:
        self._done += 1
        self._bytes += size
        now = time.monotonic()
        if now - self._last >= self._interval:
            self._last = now
            rate = self._bytes / 1e6 / (now - self._start)
            to_stderr(f"{self._done} of {self._files} files, {megabytes(self._bytes)}, {rate:.1f} MB/s")


class _Bar:
    def __init__(self, files: int, size: int) -> None:
        from rich import progress as bars  # noqa: PLC0415 - slow to import
        from rich.console import Console  # noqa: PLC0415

        self._bar = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.DownloadColumn(),
            bars.TransferSpeedColumn(),
            bars.TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._files = files
        self._done = 0
        self._task = self._bar.add_task(self._words(), total=size)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, size: int) -> None:
        self._done += 1
        self._bar.update(self._task, advance=size, description=self._words())

    def _words(self) -> str:
        return f"{self._done} of {self._files} files"
