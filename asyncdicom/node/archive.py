"""An archive in a folder: stores, finds, and sends what it has (PS3.4 B, C).

Files are as they came, one per instance, under the SOP Instance UID; one that comes again replaces the earlier. The
index lives in one thread of its own, so that the event loop never waits for it. Queries are hierarchical (C.4.1.3.1.1)
unless relational ones were negotiated, and so are retrievals (C.4.2.2.1, C.4.3.2.1).
"""

from __future__ import annotations

import asyncio
import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from asyncdicom.command import Status
from asyncdicom.errors import FileFormatError, StatusError
from asyncdicom.presentation import Context
from asyncdicom.services.matching import Matcher, values_of
from asyncdicom.uids import SERVICE_CLASSES

from .index import KEYS, LEVELS, UNIQUE_KEYS, Index, Selection, available, columns

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType
    from typing import Self

    from pydicom import Dataset

    from asyncdicom.requests import CFindRequest, CGetRequest, CMoveRequest, CStoreRequest

__all__ = ["MODELS", "Archive"]

_LEVELS_OF: Final = {"patient root": LEVELS, "study root": LEVELS[1:], "patient/study only": LEVELS[:2]}
MODELS: Final = {uid: levels for service, levels in _LEVELS_OF.items() for uid in SERVICE_CLASSES[service]}
"""The levels of each information model, by the SOP classes of FIND, MOVE and GET (C.6.1.1, C.6.2.1, C.6.3.1)."""

_RELATIONAL, _COMBINED_DATETIME, _EMPTY_VALUES, _MULTIPLE_VALUES = 0, 1, 5, 6
_FIND_EXTENSIONS: Final = bytes(int(byte in (0, 1, 5, 6)) for byte in range(7))
"""What may be negotiated of queries (Table C.5-2), and of retrievals, which is the first of it (Table C.5-3)."""

_LEVEL = 0x00080052
_NOT_THE_MODEL = 0xA900
"""Identifier, or data set, does not match SOP class (Tables C.4-1 to C.4-3, B.2-1)."""


class Archive:
    """An archive in a folder; ``async with`` reads the folder, and it is a service for :func:`asyncdicom.serve`.

    It performs C-FIND, C-GET and C-MOVE; :meth:`store` is the C-STORE handler to go with it. Raises OSError, as the
    operating system does, for a folder that cannot be read.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder).absolute()
        self._thread = ThreadPoolExecutor(1, "archive")
        self._index: Index
        self.contexts = tuple(
            Context(uid, extended=_FIND_EXTENSIONS if uid.endswith(".1") else _FIND_EXTENSIONS[:1]) for uid in MODELS
        )
        self.handlers = {"c_find": self.find, "c_get": self.retrieve, "c_move": self.retrieve}
        self.instances = 0
        """How many the folder had in the beginning."""

    async def __aenter__(self) -> Self:
        self._index = await self._run(Index, self._folder)
        self.instances = await self._run(self._index.scan)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._run(self._index.close)
        self._thread.shutdown()

    async def store(self, request: CStoreRequest) -> Status:
        """C-STORE: the instance is in the folder, and found, when this is answered."""
        if request.sop_class_uid in MODELS:
            return Status.SOP_CLASS_NOT_SUPPORTED
        part = self._folder / f".{secrets.token_hex(8)}.new"
        try:
            await request.data_set.save_as(part)
            await self._run(self._index.take, part, request.sop_class_uid, request.sop_instance_uid)
        except FileFormatError as error:
            return _refusal(str(error))
        finally:
            part.unlink(missing_ok=True)
        return Status.SUCCESS

    async def find(self, request: CFindRequest) -> AsyncIterator[Dataset]:
        """C-FIND: what matches, a page of the index at a time (C.4.1)."""
        level = _level(request)
        identifier = _supported(request.identifier, level)
        try:
            matcher = Matcher(
                identifier,
                combined_datetime=_negotiated(request, _COMBINED_DATETIME),
                empty_values=_negotiated(request, _EMPTY_VALUES),
                multiple_values=_negotiated(request, _MULTIPLE_VALUES),
            )
        except ValueError as error:
            raise StatusError(_refusal(str(error))) from None
        selection = Selection(level, *matcher.conditions(columns(level)))
        tags = [int(element.tag) for element in identifier]
        after: str | None = None
        while True:
            page = await self._run(self._index.find, selection, matcher, tags, after)
            for match in page.matches:
                match.RetrieveAETitle = request.called_ae_title
                yield match
            after = page.after
            if after is None:
                return

    async def retrieve(self, request: CGetRequest | CMoveRequest) -> AsyncIterator[str]:
        """C-GET and C-MOVE: the files of what the unique keys name (C.4.2, C.4.3)."""
        level = _level(request)
        if not _unique(request.identifier, level):
            raise StatusError(_refusal(f"a retrieval at {level} level needs {UNIQUE_KEYS[level]}"))
        given = {UNIQUE_KEYS[each]: _unique(request.identifier, each) for each in LEVELS[: LEVELS.index(level) + 1]}
        conditions = [f"{name} IN (SELECT value FROM json_each(?))" for name, texts in given.items() if texts]  # noqa: S608 - names of ours
        selection = Selection(level, conditions, [json.dumps(texts) for texts in given.values() if texts])
        paths = await self._run(self._index.paths, selection)
        request.total = len(paths)
        for path in paths:
            yield path

    async def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Have the index's thread call a function; when this is cancelled it still does."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def _refusal(why: str, tag: int = 0) -> Status:
    return Status(_NOT_THE_MODEL, why[:64], (tag,) if tag else ())


def _negotiated(request: CFindRequest | CGetRequest, byte: int) -> bool:
    return request.association.extended.get(request.sop_class_uid, b"")[byte : byte + 1] == b"\1"


def _level(request: CFindRequest | CGetRequest) -> str:
    """The level of a query or retrieval, whose identifier has what the model asks for. Raises StatusError."""
    levels = MODELS[request.sop_class_uid]
    texts = values_of(request.identifier, _LEVEL)[1] if request.identifier else []
    if len(texts) != 1 or texts[0] not in levels:
        raise StatusError(_refusal(f"Query/Retrieve Level is one of {', '.join(levels)}", _LEVEL))
    level = str(texts[0])
    if not _negotiated(request, _RELATIONAL):
        for above in levels[: levels.index(level)]:
            if len(_unique(request.identifier, above)) != 1:
                raise StatusError(
                    _refusal(f"{level} level needs one {UNIQUE_KEYS[above]}", KEYS[above][UNIQUE_KEYS[above]][0])
                )
    return level


def _unique(identifier: Dataset, level: str) -> list[str]:
    """The values of a level's unique key; one with wild cards has none."""
    texts = [str(value) for value in values_of(identifier, KEYS[level][UNIQUE_KEYS[level]][0])[1]]
    return [] if any("*" in text or "?" in text for text in texts) else texts


def _supported(identifier: Dataset, level: str) -> Dataset:
    """The identifier without the values of keys that are not supported, which are answered empty (C.2.2.1.3)."""
    from pydicom import DataElement, Dataset  # noqa: PLC0415 - there already, as the identifier is

    known = {_LEVEL, 0x00080005, *available(level)}
    supported = Dataset()
    for tag in map(int, identifier.keys()):
        vr = values_of(identifier, tag)[0]
        supported.add(identifier[tag] if tag in known else DataElement(tag, vr, None))
    return supported
