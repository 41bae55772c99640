"""An archive in a folder: stores, finds, and sends what it has (PS3.4 B, C).

Files are as they came, one per instance, named by its SOP Instance UID; one that comes again replaces the earlier. The
index has a thread of its own, so that the event loop never waits for it.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from asyncdicom.command import Status
from asyncdicom.errors import FileFormatError, StatusError
from asyncdicom.presentation import Context
from asyncdicom.server import storage_contexts
from asyncdicom.services.matching import Matcher, values_of
from asyncdicom.services.query_retrieve import MODEL_OF, QueryOptions, RetrieveOptions
from asyncdicom.services.storage_commitment import FailureReason
from asyncdicom.uids import SERVICE_CLASSES

from .index import Index, Selection, available, columns, sync

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from pydicom import Dataset

    from asyncdicom.requests import CFindRequest, CGetRequest, CMoveRequest, CStoreRequest, Service
    from asyncdicom.services.references import Reference

__all__ = ["Archive"]

_log = logging.getLogger("asyncdicom")

_MODELS: Final = [MODEL_OF[SERVICE_CLASSES[name][0]] for name in ("patient root", "study root", "patient/study only")]
_QUERIES: Final = QueryOptions(relational=True, combined_datetime=True, empty_values=True, multiple_values=True)
_RETRIEVALS: Final = RetrieveOptions(relational=True)
"""What may be negotiated (C.5)."""

_LEVEL = 0x00080052


class _Service(NamedTuple):
    contexts: Sequence[Context]
    handlers: Mapping[str, Callable[[Any], Any]]


class Archive:
    """An archive in a folder: ``serve(services=archive.services, move_destinations={"AET": (host, port)})``.

    Patient root, study root and patient/study only models, with the keys of :data:`~asyncdicom.node.index.KEYS`;
    relational queries and retrievals where they are negotiated. ``async with`` reads the folder, with all folders in
    it; raises OSError if there is none.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder).absolute()
        self._thread = ThreadPoolExecutor(1, "archive")
        self._index: Index
        # For C-GET this side is the SCU of storage too (PS3.4 C.5.3).
        storage = [context._replace(scu=True) for context in storage_contexts()]
        queries = [
            Context(uid, extended=(_QUERIES if uid == model.find else _RETRIEVALS).encode())
            for model in _MODELS
            for uid in model.sop_classes
        ]
        self.services: list[Service] = [
            _Service(storage, {"c_store": self.store}),
            _Service(queries, {"c_find": self.find, "c_get": self.retrieve, "c_move": self.retrieve}),
        ]
        """For :func:`~asyncdicom.serve`."""
        self.count = 0
        """How many instances there were in the beginning."""

    async def __aenter__(self) -> Self:
        self._index = await self._run(Index, self._folder)
        self.count = await self._run(self._index.scan)
        await self._run(
            importlib.import_module, "pydicom"
        )  # else the first query would keep the event loop from others
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._run(self._index.close)
        self._thread.shutdown()

    async def store(self, request: CStoreRequest) -> Status:
        """C-STORE: when it is answered, the instance is in the folder and can be found."""
        part = self._folder / f".{secrets.token_hex(8)}.part"
        try:
            await request.data_set.save_as(part)
            await self._run(self._index.take, part, request.sop_class_uid, request.sop_instance_uid)
        except FileFormatError as error:
            return _mismatch(str(error))
        finally:
            part.unlink(missing_ok=True)
        _log.info("< %s stored %s", request.calling_ae_title, request.sop_instance_uid)
        return Status.SUCCESS

    async def find(self, request: CFindRequest) -> AsyncIterator[Dataset]:
        """C-FIND: what matches, a page of the index at a time (C.4.1)."""
        agreed = QueryOptions.decode(request.association.extended.get(request.sop_class_uid, b""))
        level = _level(request, relational=agreed.relational)
        tags = list(map(int, request.identifier.keys()))
        try:
            matcher = Matcher(
                request.identifier,
                combined_datetime=agreed.combined_datetime,
                multiple_values=agreed.multiple_values,
                empty_values=agreed.empty_values,
                supported=available(level),
            )
        except ValueError as error:
            raise StatusError(_mismatch(str(error))) from None
        selection = Selection(level, *matcher.conditions(columns(level)))
        _log.info("< %s searches at %s level", request.calling_ae_title, level)
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
        """C-GET and C-MOVE: the files of all that the unique keys name (C.4.2, C.4.3)."""
        agreed = RetrieveOptions.decode(request.association.extended.get(request.sop_class_uid, b""))
        level = _level(request, relational=agreed.relational)
        keys = MODEL_OF[request.sop_class_uid].keys(level)
        if not _texts(request.identifier, keys[-1]):
            raise StatusError(_mismatch(f"a retrieval needs the {level} level's unique key", keys[-1]))
        named = {columns(level)[key]: texts for key in keys if (texts := _texts(request.identifier, key))}
        conditions = list(map(_is_one_of, named))
        selection = Selection(level, conditions, [json.dumps(texts) for texts in named.values()])
        paths = await self._run(self._index.paths, selection)
        request.total = len(paths)
        _log.info("< %s retrieves %d instances", request.calling_ae_title, len(paths))
        for path in paths:
            yield path

    async def check(self, references: Sequence[Reference]) -> dict[str, FailureReason]:
        """Which of these instances are not here, and why not; what a storage commitment service asks (PS3.4 J).

        The others are on stable storage. Raises OSError if they cannot be brought there.
        """
        uids = json.dumps([each.sop_instance_uid for each in references])
        paths = await self._run(self._index.paths, Selection("IMAGE", [_is_one_of("SOPInstanceUID")], [uids]))
        await asyncio.to_thread(sync, paths)
        held = await self._run(self._index.holds, references)
        why = {False: FailureReason.NO_SUCH_OBJECT_INSTANCE, None: FailureReason.CLASS_INSTANCE_CONFLICT}
        return {
            each.sop_instance_uid: why[is_held] for each, is_held in zip(references, held, strict=True) if not is_held
        }

    async def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Have the index's thread call a function; it still does when this is cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def _is_one_of(column: str) -> str:
    return f"{column} IN (SELECT value FROM json_each(?))"  # noqa: S608 - a name of ours


def _mismatch(why: str, tag: int = 0) -> Status:
    """Identifier or data set does not match SOP class (Tables B.2-1, C.4-1 to C.4-3)."""
    return Status(0xA900, why, (tag,) if tag else ())


def _level(request: CFindRequest | CGetRequest, *, relational: bool) -> str:
    """The level of a query or retrieval; raises StatusError if the identifier lacks what the model wants.

    Unless it is relational, that is one value for the unique key of each level above (C.4.1.2.1, C.4.2.2.1).
    """
    model = MODEL_OF[request.sop_class_uid]
    identifier = request.identifier
    levels = _texts(identifier, _LEVEL) if identifier else []
    if len(levels) != 1 or levels[0] not in model.levels:
        raise StatusError(_mismatch(f"the level has to be one of {', '.join(model.levels)}", _LEVEL))
    *above, _ = model.keys(levels[0])
    for key in above:
        if not relational and len(_texts(identifier, key)) != 1:
            raise StatusError(_mismatch(f"{levels[0]} level needs one value of {columns(levels[0])[key]}", key))
    return levels[0]


def _texts(identifier: Dataset, tag: int) -> list[str]:
    """The values of a unique key; one with wild cards names nothing."""
    texts = [str(value) for value in values_of(identifier, tag)[1]]
    return [] if any("*" in text or "?" in text for text in texts) else texts
