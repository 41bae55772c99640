"""Several processes that serve one port: :class:`WorkerGroup`, which :func:`asyncdicom.serve` makes of ``workers=N``.

The parent listens, and hands each connection over to the worker that has the fewest (SCM_RIGHTS); it never reads from
one. Measured with 2 workers and 16 associations, opened one after the other or at once, 40 times on each event loop:
with a listening socket for each worker (SO_REUSEPORT) the busier one got 9 in the median and 13 at worst, with one
listening socket that all accept from 10 and 15, and on asyncio all 16; so it is 8, always, at the same throughput. And
no connection is lost that waits to be accepted by a worker that ends, as it would be with SO_REUSEPORT; only one that a
worker was given and has not looked at when it is killed.

Between the parent and each worker is a pair of sockets. To the worker go connections, and the wish that it close, with
the seconds that running associations have; back come reports. A worker ends when its parent's end of the pair does.
Workers are spawned: forked ones would take over the parent's event loop and locks, but not its threads.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import struct
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any, Final

from .door import Acceptor
from .reloading import RELOADED, Reloadable
from .server import Server, Statistics, _titles

if TYPE_CHECKING:
    import ssl as ssl_module
    from collections.abc import Callable, Sequence

    from .association import Association
    from .door import Visitor
    from .server import serve
    from .upper_layer import Indicated

__all__ = ["WorkerGroup"]

_log = logging.getLogger("asyncdicom")

_START_TIME = 60.0
"""Seconds for a worker to import what it needs and begin to serve."""
_GRACE = 5.0
"""Seconds beyond the draining for a worker to end by itself."""
_SETTLED = 10.0
"""Seconds after which the end of a worker is no reason to wait with the next."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
"""Seconds until a worker that did not live long is started again; twice as many each time."""
_MAX_STARTS = 5
"""So often in a row a worker may fail to come up; then the group has failed."""
_REPORT_INTERVAL = 0.5
"""Seconds between reports of a worker that has something to report; of associations it tells at once."""


class WorkerGroup(Server):
    """Processes that serve the same port; made by :func:`asyncdicom.serve`, with the face of one server.

    A worker that ends is replaced, after a pause that grows if that happens again soon; its associations are lost, and
    what it did since its last report, half a second at most, is not counted. SIGINT, SIGTERM and SIGHUP do nothing to
    workers, as they are often sent to all processes of a service: it is the parent that ends them. In the audit trail
    workers are what serves, and the parent is who changes what they use.
    """

    def __init__(  # of what one process has, only what is read from files
        self, start: _Start, shares: list[int], listeners: list[socket.socket]
    ) -> None:
        Reloadable.__init__(self, ssl=start.ssl)
        self._check_identity, self._access = start.options["user_identity"], start.options.get("access")
        self._audit = start.options["audit"]
        if self._audit is not None:
            self._audit._enter()
        self._loop = asyncio.get_running_loop()
        self._start_with = start
        self._shares = shares
        """Associations at a time that each worker may have."""
        self._listener = self._acceptor = Acceptor(listeners, self._hand_over)
        self._workers: dict[int, _Worker] = {}
        """Those that live, by their number."""
        self._keepers: dict[int, asyncio.Task[None]] = {}
        """A task for each number, which starts and owns its processes."""
        self._past = Statistics()
        """Of workers that are gone."""
        self._counting = threading.Lock()
        """While a worker comes or goes: metrics are collected by other threads, and must not go back."""
        self._is_closing = False
        self._started: asyncio.Future[None] = self._loop.create_future()
        """Done when every worker has come up, or one has not."""
        self._closing: asyncio.Future[None] = self._loop.create_future()
        """Done when the group is being closed, or has failed."""
        for future in (self._started, self._closing):
            future.add_done_callback(_retrieve)

    @classmethod
    async def _start(cls, options: serve) -> WorkerGroup:
        """Listen, and start all workers. On an exception, and on cancellation, nothing of it is left."""
        if not hasattr(socket, "SCM_RIGHTS"):
            raise NotImplementedError("workers need a system that hands sockets over between processes")
        count, limit = options._workers, options._max_associations
        start = _checked(options)
        shares = [limit // count + (number < limit % count) for number in range(count)]
        group = cls(start, shares, await options._sockets())
        try:
            for number in range(count):
                group._keepers[number] = asyncio.ensure_future(group._keep(number))
            await asyncio.shield(group._started)
        except BaseException:
            await group._end()
            raise
        group._begin_reloading(options._reload_interval)
        return group

    @property
    def associations(self) -> tuple[Association, ...]:
        """None: they live in the workers. How many there are is in :attr:`statistics`."""
        return ()

    @property
    def processes(self) -> tuple[int, ...]:
        """The process IDs of the workers that serve."""
        return tuple(worker.pid for worker in self._workers.values() if worker.is_ready)

    @property
    def statistics(self) -> Statistics:
        """What all workers have done, those that are gone among them; half a second late at most."""
        with self._counting:
            return sum((worker.report.statistics for worker in self._workers.values()), self._past)

    async def close(self, drain: float = 10.0) -> None:
        """Take no new associations, give the running ones ``drain`` seconds to end, then abort them; end all workers.

        A second call while the first one waits can make the time shorter. On cancellation the workers are killed.
        """
        self._is_closing = True
        self._end_reloading()
        self._acceptor.close()
        if not self._closing.done():
            self._closing.set_result(None)
        try:
            for number, keeper in self._keepers.items():
                worker = self._workers.get(number)
                if worker is None or not worker.close(drain):
                    keeper.cancel()
            if self._keepers:
                await asyncio.wait(self._keepers.values(), timeout=drain + _GRACE)
        finally:
            await self._end()

    async def _end(self) -> None:
        """What still lives is killed, by its keeper."""
        self._is_closing = True
        self._end_reloading()
        self._acceptor.close()
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)
        audit, self._audit = self._audit, None
        if audit is not None:
            await audit._leave()

    # Workers

    async def _keep(self, number: int) -> None:
        """Keep a worker running."""
        unready = hasty = 0
        while True:
            began = self._loop.time()
            came_up, words = await self._run(number)
            if self._is_closing:
                return
            unready = 0 if came_up else unready + 1
            if unready == _MAX_STARTS or not self._started.done():
                self._fail(f"a worker {words}")
                return
            hasty = 0 if self._loop.time() - began > _SETTLED else hasty + 1
            pause = min(_FIRST_PAUSE * 2 ** (hasty - 2), _LONGEST_PAUSE) if hasty > 1 else 0.0
            _log.error("= a worker %s; another is started in %g s", words, pause)
            await asyncio.sleep(pause)

    async def _run(self, number: int) -> tuple[bool, str]:
        """Start a process and wait for its end; returns whether it came up, and how it ended."""
        try:
            worker = _Worker(pickle.dumps(self._start_with), self._shares[number], self._reported)
        except Exception as error:  # noqa: BLE001 - multiprocessing has many; it is told
            return False, f"could not be started: {error}"
        with self._counting:
            self._workers[number] = worker
        try:
            await worker.gone
        finally:
            worker.end()
            if worker.was_lost and self._audit is not None:
                titles = _titles(self._start_with.options["ae_title"]) or ()
                self._audit.application_lost(worker.pid, f"a worker {worker.last_words}", titles)
            with self._counting:
                del self._workers[number]
                self._past += replace(worker.report.statistics, associations=0)
            if not self.processes:
                self._acceptor.pause()  # until one reports
        return worker.is_ready, worker.last_words

    def _fail(self, message: str) -> None:
        """Has :meth:`serve_forever` raise it, or what started the group."""
        for future in (self._started, self._closing):
            if not future.done():
                future.set_exception(RuntimeError(message))

    def _reported(self) -> None:
        """A worker has come up, or has something to tell."""
        if not self._is_closing:
            self._acceptor.start()
        if not self._started.done() and len(self.processes) == len(self._shares):
            self._started.set_result(None)

    # Connections

    def _hand_over(self, connection: socket.socket) -> None:
        with connection:
            ready = [worker for worker in self._workers.values() if worker.is_ready]
            if not any(worker.take(connection) for worker in sorted(ready, key=_Worker.priority)):
                _log.warning("= a connection is closed, as no worker takes it")

    # What was read from files

    def _replace(self, fresh: dict[str, Any]) -> None:
        """Have all processes use it, those that are still to be started too."""
        super()._replace(fresh)
        own = {name: each for name, each in fresh.items() if name != "_ssl"}  # a TLS context is made in each process
        options = self._start_with.options
        self._start_with = replace(
            self._start_with, options=options | {_OPTIONS[name]: each for name, each in own.items() if each is not None}
        )
        for worker in self._workers.values():
            worker.reload(_Reload(own, makes_tls="_ssl" in fresh))


# What passes between the parent and a worker


@dataclass(frozen=True, slots=True)
class _Start:
    """What a worker begins with."""

    options: dict[str, Any]
    """Of :class:`Server`."""
    ssl: ssl_module.SSLContext | Callable[[], ssl_module.SSLContext] | None
    initializer: Callable[[], object] | None


@dataclass(frozen=True, slots=True)
class _Reload:
    """What a worker is to use from now on."""

    fresh: dict[str, Any]
    makes_tls: bool


_OPTIONS = {"_access": "access", "_check_identity": "user_identity"}
"""Of what is reloaded, the options of :class:`Server`."""


@dataclass(frozen=True, slots=True)
class _Report:
    """What a worker tells; its first one says that it serves, or why it does not."""

    taken: int = 0
    """Connections that were handed to it until now."""
    open: int = 0
    """Of these."""
    statistics: Statistics = field(default_factory=Statistics)
    failure: str = ""


def _checked(options: serve) -> _Start:
    """What workers begin with. Raises TypeError for what cannot be sent to another process."""
    advice = "what workers share is defined at the top level of a module; a functools.partial, or a method of an object"
    for name, thing, hint in (
        *((name, thing, f"{advice} that can be pickled, brings arguments") for name, thing in options._shared.items()),
        ("initializer", options._initializer, advice),
        (
            "ssl",
            options._ssl,
            "give a context of asyncdicom.tls.server_context(), or a function that makes one",
        ),
    ):
        try:
            pickle.dumps(thing)
        except Exception as error:
            raise TypeError(f"{name}={thing!r} cannot be sent to a worker process ({error}); {hint}") from error
    return _Start(options._options, options._ssl, options._initializer)


_LENGTH: Final = struct.Struct(">I")
_RECEIVE_SIZE = 64 * 1024
_MAX_DESCRIPTORS = 64
"""In one read; Linux gives those of one message."""
_MAX_UNSENT = 64
"""Messages that wait for a longer one to be sent."""


class _Channel:
    """One end of the pair of sockets between the parent and a worker: pickled messages, connections beside them."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        told: Callable[[Any], None],
        handed: Callable[[socket.socket], None] | None = None,
        ended: Callable[[], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._told = told
        self._handed = handed
        self._ended = ended
        self._buffer = bytearray()
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        """The rest of a message that was too long to be sent at once, and those behind it; with our own descriptors."""
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self.read)

    def send(self, message: object, *descriptors: int, must: bool = False) -> bool:
        """Whether it is on its way; else the other end is gone, or has not read for a long time unless it ``must``."""
        data = pickle.dumps(message)
        frame = _LENGTH.pack(len(data)) + data
        sent = 0
        try:
            if not self._unsent:
                sent = self._write(frame, descriptors)
            elif len(self._unsent) >= _MAX_UNSENT and not must:
                return False
        except BlockingIOError:
            if not must:
                return False
        except OSError:
            return False
        if sent < len(frame):
            if not self._unsent:
                self._loop.add_writer(self._sock.fileno(), self._send_rest)
            self._unsent.append((frame[sent:], [] if sent else list(map(os.dup, descriptors))))
        return True

    def _write(self, frame: bytes, descriptors: Sequence[int]) -> int:
        return socket.send_fds(self._sock, [frame], descriptors) if descriptors else self._sock.send(frame)

    def _send_rest(self) -> None:
        while self._unsent:
            frame, descriptors = self._unsent[0]
            try:
                sent = self._write(frame, descriptors)
            except BlockingIOError:
                return
            except OSError:  # reading tells that the other end is gone
                break
            while descriptors:
                os.close(descriptors.pop())
            if sent < len(frame):
                self._unsent[0] = frame[sent:], descriptors
            else:
                self._unsent.popleft()
        self._forget_rest()

    def _forget_rest(self) -> None:
        self._loop.remove_writer(self._sock.fileno())
        while self._unsent:
            for descriptor in self._unsent.pop()[1]:
                os.close(descriptor)

    def read(self) -> None:
        """Take what is there."""
        while self._sock.fileno() >= 0:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._sock, _RECEIVE_SIZE, _MAX_DESCRIPTORS, _CLOSE_ON_EXEC)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            for descriptor in descriptors:
                connection = socket.socket(fileno=descriptor)
                if self._handed is None:
                    connection.close()
                else:
                    self._handed(connection)
            self._buffer += data
            while len(self._buffer) >= _LENGTH.size:
                end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
                if len(self._buffer) < end:
                    break
                frame = self._buffer[_LENGTH.size : end]
                del self._buffer[:end]
                try:
                    message = pickle.loads(frame)  # noqa: S301 - of our own process
                except Exception:  # noqa: BLE001 - of a user's object; what is behind it has to be heard
                    _log.exception("= what another process has sent cannot be read, and is left out")
                else:
                    self._told(message)
            if not data:
                self.close()
                if self._ended is not None:
                    self._ended()

    def close(self) -> None:
        """Close this end, and so the other."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._forget_rest()
            self._sock.close()


_CLOSE_ON_EXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


# The parent's side


class _Worker:
    """A worker's process; whoever makes it calls :meth:`end`."""

    def __init__(self, payload: bytes, share: int, reported: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._share = share
        self._reported = reported
        self._handed = 0
        self.report = _Report()
        self.is_ready = False
        """Whether it has come up."""
        self.last_words = ""
        """How it ended."""
        self.was_lost = False
        """Whether it served until it ended, other than by closing: it has not told the audit trail."""
        ours, theirs = socket.socketpair()
        try:
            self._process = _spawn(theirs, payload, share, uses_uvloop=_is_uvloop(self._loop))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._channel = _Channel(ours, told=self._told)
        self.pid: int = self._process.pid or 0
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._process.sentinel, self._exited)
        self._timer = self._loop.call_later(_START_TIME, self._process.kill)
        atexit.register(self._process.kill)  # multiprocessing would wait for it when the program ends

    def priority(self) -> tuple[int, int]:
        """The lowest gets the next connection: who has most room, and among these who has had fewest."""
        return self._handed - self.report.taken + self.report.open - self._share, self._handed

    def take(self, connection: socket.socket) -> bool:
        """Hand over a connection, which is still to be closed here; whether that was possible."""
        if not self._channel.send(None, connection.fileno()):
            return False
        self._handed += 1
        return True

    def close(self, drain: float) -> bool:
        """Tell it to end; whether it will hear."""
        return self.is_ready and self._channel.send(drain, must=True)

    def reload(self, message: _Reload) -> None:
        """Tell it what to use from now on, also one that is still being started: with what there was before."""
        self._channel.send(message, must=True)

    def end(self) -> None:
        """Leave nothing of it, whether it has ended or not."""
        self._timer.cancel()
        self._loop.remove_reader(self._process.sentinel)
        self._process.kill()
        self._process.join()  # not long: it is dead
        atexit.unregister(self._process.kill)
        self._channel.read()
        self._channel.close()
        code = self._process.exitcode or 0
        self.was_lost = self.is_ready and code != 0
        self._process.close()
        if self.report.failure:
            self.last_words = f"could not begin: {self.report.failure}"
        else:
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            self.last_words = f"(process {self.pid}) ended {how}{'' if self.is_ready else _NOT_READY}"

    def _told(self, report: _Report) -> None:
        self.report = report
        if not report.failure:
            self._timer.cancel()
            self.is_ready = True
            self._reported()

    def _exited(self) -> None:
        self._loop.remove_reader(self._process.sentinel)
        if not self.gone.done():
            self.gone.set_result(None)


_NOT_READY: Final = (
    " before it could serve; workers import the program, whose own start has to stand below"
    " 'if __name__ == \"__main__\":'"
)

_SIGNALS: Final = tuple(each for each in signal.Signals if each.name in ("SIGINT", "SIGTERM", "SIGHUP"))


def _spawn(sock: socket.socket, payload: bytes, share: int, *, uses_uvloop: bool) -> Any:
    """Start a worker's process; the signals that it shall not heed are blocked in it from the beginning."""
    process = multiprocessing.get_context("spawn").Process(
        target=_work, args=(sock, payload, share, uses_uvloop), name="asyncdicom worker", daemon=True
    )
    resource_tracker.ensure_running()  # else it is started by process.start, and unblocks these signals
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return process


def _is_uvloop(loop: asyncio.AbstractEventLoop) -> bool:
    return type(loop).__module__.partition(".")[0] == "uvloop"


def _retrieve(future: asyncio.Future[None]) -> None:
    """Look at a future's exception, whether anybody awaits it or not."""
    if not future.cancelled():
        future.exception()


# The worker's side


def _work(sock: socket.socket, payload: bytes, share: int, uses_uvloop: bool) -> None:  # noqa: FBT001 - by position
    """A worker's whole life."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    threading.Thread(target=_outlive_parent, daemon=True).start()
    loop_factory = None
    if uses_uvloop:
        import uvloop  # noqa: PLC0415 - where the parent has it

        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        sys.exit(runner.run(_begin(sock, payload, share)))


def _outlive_parent() -> None:
    """End the process some time after the parent, even where a handler holds up the event loop."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    time.sleep(_GRACE)
    os._exit(1)


async def _begin(sock: socket.socket, payload: bytes, share: int) -> int:
    """Serve until told to end; returns the exit code."""
    try:
        start: _Start = pickle.loads(payload)  # noqa: S301 - of our own process
        if start.initializer is not None and inspect.isawaitable(done := start.initializer()):
            await done
        server = _WorkerServer(sock, ssl=start.ssl, **start.options | {"max_associations": share})
    except Exception as error:  # noqa: BLE001 - it is told
        _log.exception("= a worker could not begin")
        _Channel(sock, told=lambda _: None).send(_Report(failure=f"{type(error).__name__}: {error}"))
        return 1
    await server.run()
    return 0


class _WorkerServer(Server):
    """A server whose connections come from the parent."""

    def __init__(self, sock: socket.socket, **options: Any) -> None:
        super().__init__(**options)
        self._taken = 0
        self._last_report: _Report | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        """Closing."""
        self._channel = _Channel(sock, told=self._told, handed=self._door.admit, ended=self._orphaned)

    async def run(self) -> None:
        """Serve until the parent says otherwise, or is gone."""
        self._audit_start()
        self._report()
        while not self._closing.done():
            await asyncio.wait((self._closing,), timeout=_REPORT_INTERVAL)
            self._report()
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._report()

    def _told(self, message: float | _Reload | None) -> None:
        if message is None:
            self._taken += 1
        elif isinstance(message, _Reload):
            self._use(message)
        else:
            self._start(self.close(message))

    def _orphaned(self) -> None:
        self._start(self.close(0))

    def _use(self, message: _Reload) -> None:
        self._replace(message.fresh)
        if message.makes_tls:
            try:
                self.reload_tls()
            except Exception as error:  # noqa: BLE001 - the parent could, just now
                _log.error("= %s cannot be made again, and stays as it is: %s", RELOADED["_ssl"], error)

    def _tell_change(self, name: str) -> None:
        """What has been read again the parent tells, once; here is told only what cannot be used in this process."""

    def _warn_of_certificates(self) -> None:
        """The parent does."""

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _associate(self, association: Association, indicated: Indicated) -> None:
        super()._associate(association, indicated)
        self._report()

    def _gone(self, connection: Association | Visitor) -> None:
        super()._gone(connection)
        self._report()

    def _report(self) -> None:
        """Tell the parent what is new."""
        count = len(self._pending) + len(self._associations)
        report = _Report(self._taken, count, self.statistics)
        if report != self._last_report and self._channel.send(report):
            self._last_report = report
