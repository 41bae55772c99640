"""``asyncdicom demo``: the main job on real input, for a first look.

It starts a storage server on a loopback port, sends it the DICOM files that pydicom brings along and a large one made
for the purpose, over several associations at once, and compares what was stored with what was sent, byte for byte.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, NamedTuple

from asyncdicom.client import connect
from asyncdicom.command import Status
from asyncdicom.errors import DicomError
from asyncdicom.instances import Instance, contexts_for, split_by_contexts
from asyncdicom.part10 import MAX_FILE_META_LENGTH, FileMeta
from asyncdicom.server import Server, serve
from asyncdicom.uids import name_of, transfer_syntax

from .console import say, to_stderr
from .exit_codes import ExitCode, ToolError
from .files import Found, find_files, read_instances
from .naming import safe_uid
from .options import Group, Tool, UsageError, flag, value
from .sample import write_multi_frame
from .shared import LOGGING, LOOP, CommonOptions, number, run_tool
from .summary import Problem, megabytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asyncdicom.requests import CStoreRequest

__all__ = ["TOOL", "DemoOptions", "main"]


@dataclass(frozen=True, kw_only=True)
class DemoOptions(CommonOptions):
    """What demo's command line sets."""

    folder: str = ""
    associations: int = 4
    megabytes: int = 64
    json: bool = False


TOOL: Final = Tool(
    "demo",
    "send real and large files to a server of its own, and compare what arrives",
    ("[OPTION]...",),
    DemoOptions,
    (
        Group(
            "what to do",
            (
                value("--folder", "folder", "FOLDER", "keep what was received there; a temporary folder otherwise"),
                value("--associations", "associations", "NUMBER", "send over so many at once", number(1, 100)),
                value("--megabytes", "megabytes", "NUMBER", "size of the large instance", number(1, 1024)),
                flag("--json", "json", "print the result as a JSON object"),
            ),
        ),
        LOGGING,
        LOOP,
    ),
    "Exit codes: 0 everything was stored and is identical, 62 it is not, 45 the folder cannot be made.",
)

_NO_DATA: Final = (".py", ".pyc")
"""Modules of pydicom that lie among its data."""
_CHUNK: Final = 1 << 20


def main(argv: Sequence[str]) -> int:
    """Run the tool; returns its exit code."""
    return run_tool(TOOL, _demo, argv)


async def _demo(options: DemoOptions, words: list[str]) -> int:
    if words:
        raise UsageError(f"one word too many: {words[0]}")
    with TemporaryDirectory(prefix="asyncdicom-demo-", ignore_cleanup_errors=True) as temporary:
        large = Path(temporary) / "multi-frame.dcm"
        try:
            await asyncio.to_thread(write_multi_frame, large, options.megabytes)
        except OSError as error:
            raise ToolError(ExitCode.CANNOT_WRITE, f"{large} cannot be written: {error.strerror}") from error
        folder = _folder(options.folder or str(Path(temporary) / "received"))
        instances, skipped, _ = read_instances((Found(str(large), named=True), *_real_files()))
        run = _Run(folder, options.associations)
        await run.send(instances)
        different = await asyncio.to_thread(run.compare)
        result = _Result(run, tuple(skipped), tuple(different))
        _report(options, result, kept=bool(options.folder))
    return ExitCode.OK if result.identical else ExitCode.SEND


def _folder(name: str) -> Path:
    folder = Path(name).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolError(ExitCode.OUTPUT_FOLDER, f"the folder {folder} cannot be made: {error.strerror}") from error
    return folder


def _real_files() -> Iterator[Found]:
    """The files in pydicom's data folder; pydicom itself need not be imported for that."""
    spec = find_spec("pydicom")
    if spec is None or not spec.submodule_search_locations:
        raise ToolError(ExitCode.NO_INPUT, "pydicom is not installed, its files are what is sent")
    data = Path(spec.submodule_search_locations[0]) / "data"
    return (found for found in find_files([str(data)], recurse=True, pattern=None) if not found.path.endswith(_NO_DATA))


@dataclass(slots=True)
class _Run:
    """Sends instances to a server of its own, and knows which file became which."""

    folder: Path
    associations: int
    stored: list[tuple[Instance, Path]] = field(default_factory=list)
    failed: list[Problem] = field(default_factory=list)
    seconds: float = 0.0
    _received: dict[str, Path] = field(default_factory=dict)
    """What came last from each sender, which are told apart by their AE titles and send one instance at a time."""
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def send(self, instances: list[Instance]) -> None:
        """Send them to a server that lives as long."""
        async with serve("127.0.0.1", 0, c_store=self._store, any_storage=True) as server:
            start = time.perf_counter()
            for group in split_by_contexts(instances):
                queue = deque(group)
                async with asyncio.TaskGroup() as tasks:
                    for index in range(min(self.associations, len(group))):
                        tasks.create_task(self._work(server, f"DEMO-{index + 1}", group, queue))
            self.seconds = time.perf_counter() - start

    async def _work(self, server: Server, title: str, group: list[Instance], queue: deque[Instance]) -> None:
        where = server.addresses[0]
        async with connect(*where, calling_ae_title=title, contexts=contexts_for(group)) as association:
            while queue:
                instance = queue.popleft()
                try:
                    status = await association.c_store(instance)
                except DicomError as error:
                    self.failed.append(Problem(instance.path, str(error)))
                    continue
                if status.is_failure:
                    self.failed.append(Problem(instance.path, f"the server answered {status}"))
                else:
                    self.stored.append((instance, self._received.pop(title)))

    async def _store(self, request: CStoreRequest) -> Status:
        # Some of pydicom's files share a SOP Instance UID: the number keeps them apart.
        path = self.folder / f"{next(self._numbers):04}-{safe_uid(request.sop_instance_uid)}.dcm"
        await request.data_set.save_as(path)
        self._received[request.calling_ae_title] = path
        return Status.SUCCESS

    def compare(self) -> list[Problem]:
        """What is not stored as it was sent."""
        return [Problem(each.path, f"differs from {path}") for each, path in self.stored if not _is_same(each, path)]


def _is_same(sent: Instance, path: Path) -> bool:
    """Whether the data set in a file is, byte for byte, the one that was sent."""
    with path.open("rb") as stored, open(sent.path, "rb") as source:  # noqa: PTH123 - its path is a string
        _, offset = FileMeta.decode(stored.read(MAX_FILE_META_LENGTH))
        stored.seek(offset)
        source.seek(sent.offset)
        while chunk := source.read(_CHUNK):
            if stored.read(len(chunk)) != chunk:
                return False
        # Fragments are of even length (PS3.8 annex E), so a deflated data set may have got a pad byte.
        padded = sent.length % 2 and transfer_syntax(sent.transfer_syntax_uid).deflated
        return stored.read(2) == (b"\0" if padded else b"")


class _Row(NamedTuple):
    """The instances of a SOP class in a transfer syntax."""

    sop_class: str
    transfer_syntax: str
    files: int
    bytes: int


class _Result(NamedTuple):
    """What came of it."""

    run: _Run
    skipped: tuple[Problem, ...]
    different: tuple[Problem, ...]

    @property
    def identical(self) -> bool:
        """Whether everything was stored, and as it was sent."""
        return bool(self.run.stored) and not self.run.failed and not self.different

    @property
    def bytes(self) -> int:
        """Of the data sets that were stored."""
        return sum(instance.length for instance, _ in self.run.stored)

    @property
    def megabytes_per_second(self) -> float:
        """While sending."""
        return self.bytes / 1e6 / self.run.seconds

    def rows(self) -> list[_Row]:
        """The table, by names."""
        sizes: dict[tuple[str, str], list[int]] = {}
        for instance, _ in self.run.stored:
            key = (name_of(instance.sop_class_uid), name_of(instance.transfer_syntax_uid))
            sizes.setdefault(key, []).append(instance.length)
        return [_Row(*key, len(each), sum(each)) for key, each in sorted(sizes.items())]

    def json(self) -> str:
        """All of it as a JSON object."""
        return json.dumps(
            {
                "identical": self.identical,
                "files": len(self.run.stored),
                "bytes": self.bytes,
                "seconds": round(self.run.seconds, 6),
                "mb_per_second": round(self.megabytes_per_second, 3),
                "associations": self.run.associations,
                "table": [row._asdict() for row in self.rows()],
                "not_sent": [{"path": each.path, "reason": each.reason} for each in self.skipped],
                "failed": [{"path": each.path, "reason": each.reason} for each in (*self.run.failed, *self.different)],
            }
        )

    def totals(self) -> str:
        """The last line."""
        return (
            f"{len(self.run.stored)} files, {megabytes(self.bytes)} in {self.run.seconds:.2f} s over "
            f"{self.run.associations} associations ({self.megabytes_per_second:.0f} MB/s); "
            f"identical: {'yes' if self.identical else 'no'}"
        )


def _report(options: DemoOptions, result: _Result, *, kept: bool) -> None:
    for problem in (*result.run.failed, *result.different):
        to_stderr(f"failed {problem.path}: {problem.reason}")
    if options.json:
        say(result.json())
    elif not options.quiet:
        if result.skipped:
            say(f"not sent, as they are no instances ({len(result.skipped)}):")
        for problem in result.skipped:
            say(f"  {Path(problem.path).name}: {problem.reason}")
        _print_table(result.rows())
        if kept:
            say(f"received files are in {result.run.folder}")
        say(result.totals())


_HEADINGS: Final = ("SOP class", "transfer syntax", "files", "bytes")


def _print_table(rows: list[_Row]) -> None:
    cells = [(row.sop_class, row.transfer_syntax, str(row.files), f"{row.bytes:,}") for row in rows]
    if sys.stdout.isatty():
        try:
            from rich.console import Console  # noqa: PLC0415 - slow to import, and not always there
            from rich.table import Table  # noqa: PLC0415
        except ImportError:
            pass
        else:
            table = Table()
            for index, heading in enumerate(_HEADINGS):
                table.add_column(heading, justify="left" if index < 2 else "right")
            for row in cells:
                table.add_row(*row)
            Console().print(table)
            return
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *cells, strict=True)]
    for row in (_HEADINGS, *cells):
        left = "  ".join(cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True))
        right = "  ".join(cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True))
        say(f"{left}  {right}")
