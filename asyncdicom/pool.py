"""Associations to one peer that are kept warm, and sending over several of them at once.

A pool is of one peer and one calling AE title; who has several peers has several pools. It owns every association that
it makes: what is given out is in use until its block ends, then it is idle, and idle for too long it releases itself.
No task runs for a pool.

A place is the right to one association. Whoever has a place takes an idle association that has proposed what is needed,
or makes one; another idle one is released first when there are as many as may be. So places and idle associations
together are never more than the maximum.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypedDict, Unpack

from .association import Timeouts, _finite
from .client import connect
from .command import Priority
from .errors import (
    AssociationError,
    AssociationLost,
    AssociationRejected,
    LocalProtocolError,
    NoAcceptedContext,
    PoolTimeout,
)
from .instances import Instance, contexts_for, read_instance
from .presentation import MAX_CONTEXTS, Context, as_contexts
from .sending import Sending, SendResult, StoreOptions
from .uids import VERIFICATION

if TYPE_CHECKING:
    import ssl as ssl_module
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable
    from types import TracebackType
    from typing import Self

    from pydicom import Dataset

    from .association import Association
    from .audit import AuditTrail
    from .command import Status
    from .pdu import UserIdentity
    from .quirks import Quirks
    from .requests import CStoreHandler, Handler, Service
    from .sending import Sendable, Sendables

__all__ = ["AssociationPool", "Backoff", "ConnectOptions", "send_instances"]

_log = logging.getLogger("asyncdicom")

_AT_ONCE = 0.001
"""Seconds that an idle association is kept where none shall be: 0 is no timeout."""
_CHECK_PATIENCE = 5.0
"""Seconds for an idle association to answer a C-ECHO; a new one is made sooner than the DIMSE timeout."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often something is tried, and how long to wait between."""

    attempts: int = 4
    """Tries in all."""
    first: float = 0.5
    """Seconds before the second try; twice as long before each one after it."""
    longest: float = 30.0
    """Seconds that no wait exceeds."""

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many failures: up to half is left to chance, so that senders do not keep step."""
        chance = int.from_bytes(os.urandom(2)) / 0x10000  # the random module is slow to import
        return min(self.longest, self.first * 2.0 ** min(failures - 1, 64)) * (1 - chance / 2)


class ConnectOptions(TypedDict, total=False):
    """What a pool hands on to :func:`~asyncdicom.connect`, where it is explained."""

    called_ae_title: str
    calling_ae_title: str
    c_store: CStoreHandler | None
    n_event_report: Handler | None
    services: Iterable[Service]
    max_operations_invoked: int
    max_operations_performed: int
    quirks: Quirks
    ssl: ssl_module.SSLContext | bool | None
    server_hostname: str | None
    user_identity: UserIdentity | None
    timeouts: Timeouts | None
    max_pdu_length: int
    max_send_pdu_length: int
    local_address: tuple[str, int] | None
    implementation_class_uid: str
    implementation_version_name: str
    audit: AuditTrail | None


class AssociationPool:
    """Associations to one peer that are used again and again.

    As an asynchronous context manager it is closed at the end of the block, and terminated when the block ends with an
    exception. Nothing is opened before it is needed.

    ``contexts`` are proposed on every association. Without them a pool proposes what it is asked for and, where there
    is room, what it was asked for before, so that a few associations come to carry all that is sent. What the peer
    refused is not asked for again as long as that association lives.

    There are never more than ``max_associations`` associations; who needs one beyond it waits, in order. An association
    without a message for ``idle_timeout`` seconds is released. One that the peer ended meanwhile is not given out; one
    that was idle for ``check_after`` seconds has to answer a C-ECHO first, for firewalls that forget connections in
    silence.

    An association that could not be made is tried again, as ``backoff`` has it: without a connection, when it was lost
    while it was negotiated, and when it was rejected for the time being (result 2, PS3.8 Table 9-21).

    All times are in seconds. The other options are those of :func:`~asyncdicom.connect`.
    """

    def __init__(
        self,
        host: str,
        port: int = 104,
        *,
        contexts: str | Context | Iterable[Context | str] = (),
        max_associations: int = 4,
        idle_timeout: float = 30.0,
        check_after: float = math.inf,
        acquire_timeout: float = 60.0,
        backoff: Backoff | None = None,
        **options: Unpack[ConnectOptions],
    ) -> None:
        if max_associations < 1:
            raise ValueError(f"a pool needs at least one association, got {max_associations}")
        self._host = host
        self._port = port
        self._fixed = as_contexts(contexts)
        self._learns = not self._fixed
        if check_after < math.inf and not any(each.abstract_syntax == VERIFICATION for each in self._fixed):
            self._fixed.append(Context(VERIFICATION))
        self._max = max_associations
        self._check_after = check_after
        self._acquire_timeout = acquire_timeout
        self._backoff = backoff or Backoff()
        self._options = options
        self._timeouts = options.get("timeouts") or Timeouts()
        self._idle_timeouts = replace(self._timeouts, idle=min(self._timeouts.idle, max(idle_timeout, _AT_ONCE)))
        if self._fixed:
            connect(host, port, contexts=self._fixed, **options)  # what cannot be proposed is refused here
        self._asked: dict[Context, None] = {}
        """What was asked for, the latest last; at most as many as an association can have."""
        self._idle: list[Member] = []
        """The one that was used last at the end: it is used again first, so that too many become idle."""
        self._in_use: set[Member] = set()
        self._free = max_associations
        """Places that nobody has."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        """Who waits for a place, in order."""
        self._acquiring: set[asyncio.Timeout] = set()
        """Of those that have no association yet; closing the pool makes them run out."""
        self._trouble: AssociationError | None = None
        """Why the last association was not made."""
        self._closed = False
        self._all_back = asyncio.Event()
        """Set when nobody has a place."""

    def __repr__(self) -> str:
        return f"<AssociationPool {self._host} port {self._port}, {self.in_use} in use, {self.idle} idle>"

    @property
    def in_use(self) -> int:
        """How many associations are given out."""
        return len(self._in_use)

    @property
    def idle(self) -> int:
        """How many associations could be used at once."""
        return sum(member.association.is_established for member in self._idle)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await (self.close() if error is None else self.terminate())

    @asynccontextmanager
    async def acquire(
        self, contexts: str | Context | Iterable[Context | str] = (), *, timeout: float | None = None
    ) -> AsyncIterator[Association]:
        """An association for the block, which has proposed ``contexts``; what of them was accepted it says itself.

        When the block ends, in whatever way, the association stays warm if it is still established: each of its calls
        either ends or aborts it. ``timeout`` is for waiting and connecting together, by default the pool's.

        Raises PoolTimeout, what :func:`~asyncdicom.connect` raises for the last try, and LocalProtocolError once the
        pool is closed. Cancellation leaves nothing behind.
        """
        member = await self._take(as_contexts(contexts), timeout)
        try:
            yield member.association
        finally:
            await self._put_back(member)

    async def c_store(
        self,
        instance: Sendable,
        *,
        priority: Priority = Priority.MEDIUM,
        decompress: bool = False,
        resend: bool = False,
        timeout: float | None = None,
    ) -> Status:
        """Send an instance over an association of the pool; see :meth:`Association.c_store`.

        If the association turns out to be over before anything was sent, another one is taken. If it ends later the
        peer may or may not have the instance; then it is sent again only with ``resend``, which a peer that goes by
        SOP Instance UIDs takes as the same one. Either happens as often as the pool's ``backoff`` has it. ``timeout``
        is that of :meth:`acquire`.

        Raises what :meth:`acquire` and :meth:`Association.c_store` raise.
        """
        if isinstance(instance, (str, os.PathLike)):
            instance = read_instance(instance)
        contexts = self._contexts_for(instance)
        failures = 0
        while True:
            async with self.acquire(contexts, timeout=timeout) as association:
                writes = association._connection.writes
                try:
                    return await association.c_store(instance, priority=priority, decompress=decompress)
                except AssociationError:
                    failures += 1
                    if (association._connection.writes != writes and not resend) or failures >= self._tries:
                        raise
            await asyncio.sleep(self._backoff.delay(failures))

    def send(
        self,
        instances: Sendables,
        *,
        priority: Priority = Priority.MEDIUM,
        decompress: bool = False,
        resend: bool = False,
        halt: bool = False,
    ) -> AsyncGenerator[SendResult]:
        """Send instances over all associations of the pool; see :func:`send_instances`.

        Who waits for an association meanwhile gets one after the instance that is being sent on it.
        """
        options: StoreOptions = {"priority": priority, "decompress": decompress}
        return Sending(self, instances, options, resend=resend, halt=halt).results()

    async def close(self, drain: float = 10.0) -> None:
        """Release what is idle, give what is in use ``drain`` seconds to be done, then abort it.

        Who waits for an association gets LocalProtocolError. On cancellation everything is closed at once.
        """
        self._close()
        try:
            try:
                async with asyncio.timeout(_finite(drain)):
                    idle, self._idle = self._idle, []
                    await asyncio.gather(*(_let_go(member.association) for member in idle))
                    await self._wait_all_back()
            except TimeoutError:
                await asyncio.gather(*(member.association.abort() for member in self._in_use))
        except asyncio.CancelledError:
            for member in (*self._idle, *self._in_use):
                member.association._connection.kill()
            raise

    async def terminate(self) -> None:
        """Abort every association at once. On cancellation the connections are closed by force."""
        self._close()
        members, self._idle = (*self._idle, *self._in_use), []
        await asyncio.gather(*(member.association.abort() for member in members))

    def _close(self) -> None:
        self._closed = True
        for limit in self._acquiring:
            if not limit.expired():
                limit.reschedule(0.0)

    async def _wait_all_back(self) -> None:
        while self._free < self._max:
            self._all_back.clear()
            await self._all_back.wait()

    # Taking and putting back

    def _delay(self, failures: int) -> float:
        return self._backoff.delay(failures)

    async def _take(self, contexts: Iterable[Context], timeout: float | None = None) -> Member:
        """Wait for a place, and get an association for it."""
        if self._closed:
            raise LocalProtocolError("the pool is closed")
        timeout = self._acquire_timeout if timeout is None else timeout
        limit = asyncio.timeout(_finite(timeout))
        try:
            async with limit:
                self._acquiring.add(limit)
                try:
                    return await self._take_place_and_member(contexts)
                finally:
                    self._acquiring.discard(limit)
        except TimeoutError:
            if not limit.expired():
                raise  # the peer's
            if self._closed:
                raise LocalProtocolError("the pool was closed") from None
            why = (
                str(self._trouble)
                if self._trouble
                else f"{self._max - self._free} of {self._max} are in use or being made"
            )
            raise PoolTimeout(f"no association within {timeout:g} s: {why}") from self._trouble

    async def _take_place_and_member(self, contexts: Iterable[Context]) -> Member:
        await self._take_place()
        try:
            member = await self._idle_member(contexts) or await self._new_member(contexts)
        except BaseException:
            self._give_place()
            raise
        self._in_use.add(member)
        return member

    async def _put_back(self, member: Member) -> None:
        """What can be used again stays, the rest goes; the place is free either way."""
        association = member.association
        try:
            if not association.is_established:
                await association.abort()
            elif self._closed:
                await _let_go(association)
            else:
                association._forget_files()
                association._invoker.abandon_own()
                member.idle_since = association._connection.now()
                association.timeouts = self._idle_timeouts  # idle for too long, it releases itself
                association._connection.wake_at(member.idle_since + self._idle_timeouts.idle)
                self._idle.append(member)
        finally:
            self._in_use.discard(member)
            self._give_place()

    async def _take_place(self) -> None:
        if self._free:  # then nobody waits but those who were cancelled
            self._free -= 1
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except BaseException:
            if place.done() and not place.cancelled():
                self._give_place()  # it was handed over at the last moment
            else:
                self._waiting.remove(place)
            raise

    def _give_place(self) -> None:
        """Hand a place over to whoever has waited longest."""
        for place in self._waiting:
            if not place.done():
                place.set_result(None)
                self._waiting.remove(place)
                return
        self._free += 1
        if self._free == self._max:
            self._all_back.set()

    async def _idle_member(self, contexts: Iterable[Context]) -> Member | None:
        """The idle association that was used last, of those that have proposed the contexts and are alive."""
        self._idle = [member for member in self._idle if member.association.is_established]
        while member := next((each for each in reversed(self._idle) if each.has_proposed(contexts)), None):
            self._idle.remove(member)
            recent = member.idle_since + self._check_after > member.association._connection.now()
            if member.association.is_established and (recent or await self._check(member)):
                member.association.timeouts = self._timeouts
                return member
        return None

    async def _check(self, member: Member) -> bool:
        """Whether the peer still answers on an association."""
        association = member.association
        try:
            async with asyncio.timeout(min(self._timeouts.dimse, _CHECK_PATIENCE)):
                await association.c_echo()
        except NoAcceptedContext:  # it takes no C-ECHO
            return True
        except (AssociationError, TimeoutError):
            _log.info("= %r did not answer a C-ECHO, and is not used again", association)
            association._connection.kill()
            return False
        except BaseException:
            association._connection.kill()
            raise
        return association.is_established

    async def _new_member(self, contexts: Iterable[Context]) -> Member:
        while self._idle and self._max - self._free + len(self._idle) > self._max:
            await _let_go(self._idle.pop(0).association)
        proposal = self._proposal(contexts)
        failures = 0
        while True:
            try:
                association = await self._connect(proposal)
            except AssociationError as error:
                failures += 1
                if failures >= self._backoff.attempts or not _may_pass(error):
                    raise
                self._trouble = error
            else:
                self._trouble = None
                return Member(association, frozenset(proposal))
            delay = self._backoff.delay(failures)
            _log.info("= trying again in %.1f s: %s", delay, self._trouble)
            await asyncio.sleep(delay)

    async def _connect(self, contexts: list[Context]) -> Association:
        return await connect(self._host, self._port, contexts=contexts, **self._options)

    # Contexts

    def _contexts_for(self, instance: Instance | Dataset) -> tuple[Context, ...]:
        """What to ask for to send an instance: nothing, where the user has said what to propose."""
        return tuple(contexts_for([instance])) if self._learns else ()

    def _remember(self, contexts: Iterable[Context]) -> None:
        for context in contexts:
            self._asked.pop(context, None)
            self._asked[context] = None
        while len(self._asked) > MAX_CONTEXTS:
            del self._asked[next(iter(self._asked))]

    def _proposal(self, contexts: Iterable[Context]) -> list[Context]:
        """What is always proposed, what is needed now, and what was asked for last, as far as there is room."""
        self._remember(contexts)
        proposal = list(dict.fromkeys((*self._fixed, *contexts)))
        more = [context for context in reversed(self._asked) if context not in proposal]
        return proposal + more[: max(0, MAX_CONTEXTS - len(proposal))] or [Context(VERIFICATION)]

    @property
    def _tries(self) -> int:
        """How often an instance that may be sent again is tried; an association that is over should not spoil it."""
        return max(2, self._backoff.attempts)


def _may_pass(error: AssociationError) -> bool:
    """Whether trying again may help: nothing was asked of the peer yet, so that it does no harm."""
    if isinstance(error, AssociationRejected):
        return error.is_transient
    # A host or port that cannot be one stays so, and so does a certificate that is not trusted, a ValueError as well.
    return isinstance(error, AssociationLost) and not isinstance(error.__cause__, (ValueError, OverflowError))


async def _let_go(association: Association) -> None:
    """End an association on which everything is done; that the peer ends it badly changes nothing of that."""
    try:
        await association.release()
    except AssociationError as error:
        _log.warning("the association did not end in the ordinary way: %s", error)
    except asyncio.CancelledError:
        association._connection.kill()
        raise


@dataclass(slots=True, eq=False)
class Member:
    """An association of a pool."""

    association: Association
    proposed: frozenset[Context]
    idle_since: float = 0.0
    enough_for: set[tuple[Context, ...]] = field(default_factory=set)
    """What was asked about before, and is proposed: to ask again is to be quick."""

    def has_proposed(self, contexts: Iterable[Context]) -> bool:
        """Whether all of them were proposed, each as it is or its transfer syntaxes one by one."""
        asked = tuple(contexts)
        if asked in self.enough_for:
            return True
        enough = all(
            context in self.proposed
            or all(context._replace(transfer_syntaxes=(uid,)) in self.proposed for uid in context.transfer_syntaxes)
            for context in asked
        )
        if enough:
            self.enough_for.add(asked)
        return enough


# Sending over several associations


async def send_instances(
    instances: Sendables,
    host: str,
    port: int = 104,
    *,
    associations: int = 4,
    contexts: str | Context | Iterable[Context | str] = (),
    priority: Priority = Priority.MEDIUM,
    decompress: bool = False,
    resend: bool = False,
    halt: bool = False,
    backoff: Backoff | None = None,
    **options: Unpack[ConnectOptions],
) -> AsyncGenerator[SendResult]:
    """Send instances to a peer over several associations at once (C-STORE, PS3.4 annex B); one result for each.

    ``instances`` is an iterable or asynchronous iterable of what :meth:`Association.c_store` takes, or one path. The
    results come in the order in which the peer answers. Files are looked at a little ahead, 64 at most, and go out
    as they lie on disk; none is loaded. An iterable is advanced in the event loop.

    Unless ``contexts`` are given, each association proposes what the instances ahead need, and is followed by another
    one when an instance needs more. An association that ends costs the instance in flight, whose result tells whether
    the peer may have it; with ``resend`` that one is tried again. With ``halt`` nothing more is begun after the first
    failure. When fewer associations can be had, those do all; ``backoff`` says how often each is tried.

    Raises what :func:`~asyncdicom.connect` raises when no association is left and none can be had, and what
    ``instances`` raises, after the results of what was begun; what has no result was not sent. Who leaves early
    aborts what is in flight: ``async with contextlib.aclosing(...)`` makes sure that it is over then. Cancellation
    does the same.
    """
    pool = AssociationPool(host, port, contexts=contexts, max_associations=associations, backoff=backoff, **options)
    async with pool:
        results = pool.send(instances, priority=priority, decompress=decompress, resend=resend, halt=halt)
        try:
            async for result in results:
                yield result
        finally:
            await results.aclose()
