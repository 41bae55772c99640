"""Sending instances over several associations at once: who looks at them, who sends them, who hears of it.

Owns the order of things and no association: those come from a pool, or are the one on which a C-GET came.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypedDict

from .errors import AssociationError
from .instances import Instance, describe_data_set, read_instance

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sized

    from pydicom import Dataset

    from .association import Association
    from .command import Priority, Status
    from .presentation import Context

    Sendable = str | os.PathLike[str] | Instance | Dataset
    Sendables = Iterable[Sendable] | AsyncIterable[Sendable] | os.PathLike[str]

__all__ = ["Associations", "Member", "SendResult", "Sending", "StoreOptions"]

_log = logging.getLogger("asyncdicom")

_LOOK_AHEAD = 64
"""Instances that are looked at before their turn. They need two presentation contexts each at most, so that one
association can propose them all."""

_MAX_RESULTS = 64
"""Results that nobody has fetched; with more of them nothing is sent."""


class SendResult(NamedTuple):
    """What came of sending one instance."""

    instance: Sendable
    """What was to be sent, as it was given."""
    status: Status | None
    """The peer's answer; None when there was none."""
    error: Exception | None = None
    """Why there was no answer: what :meth:`Association.c_store` raises."""
    is_unknown: bool = False
    """Whether the peer may have it all the same: the association ended before the answer came."""
    sop_instance_uid: str = ""
    """Of the instance, if it could be read."""

    @property
    def is_success(self) -> bool:
        """Whether the peer has it, be it with a warning."""
        return self.status is not None and not self.status.is_failure


class Member(Protocol):
    """An association that sends."""

    association: Association

    def has_proposed(self, contexts: Iterable[Context]) -> bool:
        """Whether it has asked for all of these."""
        ...


class Associations(Protocol):
    """Where associations come from; for the package alone."""

    _max: int
    """How many there may be at once."""

    @property
    def _waiting(self) -> Sized:
        """Others who wait for one."""
        ...

    @property
    def _tries(self) -> int:
        """How often one instance is tried."""
        ...

    def _contexts_for(self, instance: Instance | Dataset) -> tuple[Context, ...]:
        """What an association has to have proposed for an instance."""
        ...

    def _remember(self, contexts: Iterable[Context]) -> None:
        """That these will be needed."""
        ...

    def _delay(self, failures: int) -> float:
        """Seconds to wait after so many failures."""
        ...

    async def _take(self, contexts: Iterable[Context]) -> Member:
        """An association. Raises AssociationError when there is none to be had."""
        ...

    async def _put_back(self, member: Any) -> None:
        """It is not needed any more."""
        ...


class StoreOptions(TypedDict, total=False):
    """What goes on to :meth:`Association.c_store`."""

    priority: Priority
    decompress: bool
    move_originator_ae_title: str
    move_originator_message_id: int


@dataclass(slots=True, eq=False)
class _Entry:
    """An instance to send."""

    given: Sendable
    instance: Instance | Dataset
    contexts: tuple[Context, ...]
    tries: int = 0

    @property
    def sop_instance_uid(self) -> str:
        """Of the instance."""
        if isinstance(self.instance, Instance):
            return self.instance.sop_instance_uid
        return str(self.instance.get("SOPInstanceUID", ""))


class Sending:
    """One run: a feeder that looks at instances, a worker per association, and whoever iterates over the results.

    The iterating side owns the tasks, and ends them.
    """

    def __init__(
        self,
        pool: Associations,
        instances: Sendables,
        options: StoreOptions,
        *,
        resend: bool,
        halt: bool,
    ) -> None:
        self._pool = pool
        # What is iterable itself would come in pieces.
        self._instances = [instances] if isinstance(instances, (str, os.PathLike, Instance)) else instances
        self._options = options
        self._resend = resend
        self._halt = halt
        self._feeder: asyncio.Task[None] | None = None
        self._window: deque[_Entry] = deque()
        """What was looked at, the next one first."""
        self._results: deque[SendResult] = deque()
        self._in_flight = 0
        self._connecting = 0
        """Workers that wait for an association."""
        self._exhausted = False
        """Whether nothing comes into the window any more."""
        self._halted = False
        self.refusals: list[Exception] = []
        """Why associations could not be made."""
        self._may_read = asyncio.Event()
        self._may_send = asyncio.Event()
        self._news = asyncio.Event()

    @property
    def ahead(self) -> int:
        """How many were looked at and have no result yet."""
        return len(self._window) + self._in_flight

    def uids_ahead(self) -> list[str]:
        """The instances that were looked at and not begun."""
        return [entry.sop_instance_uid for entry in self._window]

    def halt(self) -> None:
        """Begin nothing more; the results of what was begun still come."""
        self._halted = self._exhausted = True
        self._window.clear()
        self._news.set()
        if self._feeder is not None:
            self._feeder.cancel()

    async def results(self) -> AsyncGenerator[SendResult]:
        """One result for each instance, as they come."""
        feeder = self._feeder = asyncio.create_task(self._feed())
        workers = [asyncio.create_task(self._work()) for _ in range(self._pool._max)]
        for task in workers:
            task.add_done_callback(lambda _: self._news.set())
        try:
            while True:
                while self._results:
                    was_full = len(self._results) >= _MAX_RESULTS
                    yield self._results.popleft()
                    if was_full:
                        self._may_send.set()
                        self._may_read.set()
                for task in workers:
                    if task.done():
                        task.result()  # raises what should not have happened
                if self._exhausted and not self._window and not self._in_flight:
                    break
                if all(task.done() for task in workers):
                    raise self.refusals[0]
                self._news.clear()
                await self._news.wait()
            if feeder.done() and not self._halted:
                feeder.result()  # raises what the iterable has raised
            if self.refusals:
                _log.warning("fewer than %d associations: %s", len(workers), self.refusals[0])
        finally:
            for task in (feeder, *workers):
                task.cancel()
            await asyncio.gather(feeder, *workers, return_exceptions=True)

    # The feeder

    async def _feed(self) -> None:
        try:
            if isinstance(self._instances, AsyncIterable):
                async for given in self._instances:
                    if not await self._take_in(given):
                        break
            else:
                for given in self._instances:
                    if not await self._take_in(given):
                        break
        finally:
            self._exhausted = True
            self._news.set()

    def _look_at(self, given: Sendable) -> None:
        try:
            instance = read_instance(given) if isinstance(given, (str, os.PathLike)) else given
            if not isinstance(instance, Instance):
                describe_data_set(instance)  # raises if it cannot be sent
            contexts = self._pool._contexts_for(instance)
        except Exception as error:  # noqa: BLE001 - it is the result
            self._add_result(SendResult(given, None, error))
            return
        self._pool._remember(contexts)
        self._window.append(_Entry(given, instance, contexts))
        self._may_send.set()

    async def _take_in(self, given: Sendable) -> bool:
        """Look at an instance, and wait until there is room for another; returns whether it is wanted."""
        if self._halted:
            return False
        self._look_at(given)
        if len(self._window) >= _LOOK_AHEAD or len(self._results) >= _MAX_RESULTS:
            while len(self._window) > _LOOK_AHEAD // 2 or len(self._results) >= _MAX_RESULTS:
                self._may_read.clear()
                await self._may_read.wait()
        elif self._in_flight and isinstance(given, (str, os.PathLike)):
            await asyncio.sleep(0)  # looking at files must not keep answers waiting
        return not self._halted

    # The workers

    async def _work(self) -> None:
        """One association after the other, as long as there is something to send: most often just one."""
        losses = 0
        while True:
            if losses > 1:
                await asyncio.sleep(self._pool._delay(losses - 1))
            while len(self._window) <= self._connecting or len(self._results) >= _MAX_RESULTS:
                self._may_send.clear()
                await self._may_send.wait()
            self._connecting += 1
            try:
                member = await self._pool._take(self._window[0].contexts)
            except Exception as error:  # noqa: BLE001 - raised when nobody is left
                self.refusals.append(error)
                return
            finally:
                self._connecting -= 1
                self._may_send.set()
            try:
                successes = await self._send_over(member)
            finally:
                await self._pool._put_back(member)
            losses = 0 if successes or member.association.is_established else losses + 1

    async def _send_over(self, member: Member) -> int:
        """Send what is next as long as it can go over an association; returns how many answers came."""
        answers = 0
        while (entry := self._next(member)) is not None:
            self._in_flight += 1
            try:
                result = await self._send(entry, member.association)
            finally:
                self._in_flight -= 1
            if result is None:
                self._window.appendleft(entry)
                break
            answers += result.status is not None
            self._add_result(result)
            if self._pool._waiting or not member.association.is_established:
                break
        self._news.set()
        return answers

    def _next(self, member: Member) -> _Entry | None:
        """The next instance, if this association can carry it."""
        if not self._window or len(self._results) >= _MAX_RESULTS:
            return None
        if not member.has_proposed(self._window[0].contexts):
            return None
        if len(self._window) <= _LOOK_AHEAD // 2:
            self._may_read.set()
        return self._window.popleft()

    async def _send(self, entry: _Entry, association: Association) -> SendResult | None:
        """Send an instance; returns None when it is to be tried again."""
        writes = association.connection.writes
        # With several associations it is not known which one will take what is next.
        following = self._window[0].instance if self._window and self._pool._max == 1 else None
        upcoming = following if isinstance(following, Instance) else None
        try:
            status = await association.c_store(entry.instance, upcoming=upcoming, **self._options)
        except AssociationError as error:
            sent = association.connection.writes != writes
            entry.tries += 1
            if (not sent or self._resend) and entry.tries < self._pool._tries and not self._halted:
                return None
            return SendResult(entry.given, None, error, is_unknown=sent, sop_instance_uid=entry.sop_instance_uid)
        except Exception as error:  # noqa: BLE001 - it is the result
            return SendResult(entry.given, None, error, sop_instance_uid=entry.sop_instance_uid)
        return SendResult(entry.given, status, sop_instance_uid=entry.sop_instance_uid)

    def _add_result(self, result: SendResult) -> None:
        self._results.append(result)
        self._news.set()
        if self._halt and not result.is_success:
            self._halted = self._exhausted = True
            self._window.clear()
            self._may_read.set()
