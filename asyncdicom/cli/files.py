"""The files that a command line names: found in folders, looked at, and those that are instances kept."""

from __future__ import annotations

import os
import stat
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from asyncdicom.errors import FileFormatError
from asyncdicom.instances import Instance, read_instance

from .console import log
from .exit_codes import ExitCode, Failure
from .summary import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Found", "find_files", "read_instances"]


class Found(NamedTuple):
    """A path to look at."""

    path: str
    named: bool
    """Whether the command line names it; others were found in a folder."""
    error: str = ""
    """Why it cannot be looked at."""


def find_files(words: Iterable[str], *, recurse: bool, pattern: str | None) -> Iterator[Found]:
    """The files that ``words`` name and those in the folders that they name, sorted within a folder.

    ``pattern`` (``*.dcm``) chooses among files found in folders.
    """
    for word in words:
        if not os.path.isdir(word):  # noqa: PTH112 - a million paths are looked at
            yield Found(word, named=True)
            continue
        for folder, error in _folders(word, recurse=recurse):
            if error:
                yield Found(folder, named=folder == word, error=error)
                continue
            for name in sorted(_file_names(folder)):
                if pattern is None or fnmatch(name, pattern):
                    yield Found(os.path.join(folder, name), named=False)  # noqa: PTH118


def _folders(top: str, *, recurse: bool) -> Iterator[tuple[str, str]]:
    """A folder and, when asked for, those below it: path, and why it cannot be read. Each but once, links or not."""
    seen: set[tuple[int, int]] = set()
    left = [top]
    while left:
        folder = left.pop()
        try:
            status = os.stat(folder)  # noqa: PTH116
            with os.scandir(folder) as entries:
                below = sorted(entry.path for entry in entries if entry.is_dir())
        except OSError as error:
            yield folder, error.strerror or str(error)
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        yield folder, ""
        if recurse:
            left.extend(reversed(below))
        elif below:
            log.warning("%d folders in %s are left out; +r takes them too", len(below), folder)


def _file_names(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if not entry.is_dir()]


def read_instances(found: Iterable[Found]) -> tuple[list[Instance], list[Problem], Failure | None]:
    """The instances among files, what was wrong with the others, and the first failure if a named one is no instance.

    A file that was only found in a folder is no failure.
    """
    instances: list[Instance] = []
    skipped: list[Problem] = []
    failure: Failure | None = None
    for path, named, error in found:
        code, reason = ExitCode.CANNOT_READ, error
        if not reason:
            try:
                instances.append(_read(path))
                continue
            except FileFormatError as problem:
                code, reason = ExitCode.INVALID_INPUT, str(problem)
            except OSError as problem:
                reason = problem.strerror or str(problem)
        skipped.append(Problem(path, reason))
        if named and failure is None:
            failure = Failure(code, f"{path}: {reason}", "-nh leaves such files out")
    return instances, skipped, failure


def _read(path: str) -> Instance:
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise FileFormatError("not a regular file")  # to open a pipe could wait for ever
    return read_instance(path)
