"""Where audit messages go: a log, a file, a syslog collector (PS3.15 A.6, A.7; RFC 5424, 5425, 5426).

Each sink has a thread and a bounded queue, so that whoever reports an event never waits for a disk or a collector.
The libraries for syslog that there are block whoever logs, lose what they cannot send at once, or cut messages and have
no octet counting (rfc5424-logging-handler 1.4.3 of 2019, aiosyslog 0.2.1), so the few lines that it takes stand here.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import socket
import ssl as ssl_module
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncdicom.tls import describe

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FileSink", "LogSink", "Record", "Sink", "SyslogSink"]

_log = logging.getLogger("asyncdicom")

QUEUE_LIMIT = 16 << 20
"""Bytes of messages that wait in one sink: some ten thousand."""

_RECORD_COST = 512
"""Bytes that a message takes beside its text."""

_SEND_TIMEOUT = 10.0
"""Seconds for a collector to be reached, and to take a message."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0
"""Seconds until what failed is tried again; twice as many each time."""


class Record(NamedTuple):
    """A message on its way."""

    xml: str
    time: str
    """As RFC 3339 has it."""
    is_failure: bool


class Sink:
    """What all sinks have in common. A sink can be sent to another process, which begins with an empty queue.

    ``limit`` is how many bytes of messages wait at most; what comes beyond it is lost, counted, and told in the log.
    """

    def __init__(self, *, limit: int = QUEUE_LIMIT) -> None:
        self.limit = limit
        self.lost = 0
        """Messages, since it was made."""
        self._change = threading.Condition()
        self._queue: deque[Record] = deque()
        self._size = 0
        self._losing = 0
        """How many were lost when the queue was last whole."""
        self._thread: threading.Thread | None = None
        self._deadline: float | None = None
        """By when it has to be done, once it is being closed."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")} | {"lost": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Sink.__init__(self)
        vars(self).update(state)

    def put(self, record: Record) -> None:
        """Have a message written, soon; never waits."""
        cost = len(record.xml) + _RECORD_COST
        with self._change:
            if self._size + cost > self.limit:
                if self._losing == self.lost:
                    _log.error("= audit messages for %r are being lost: %d bytes of them wait", self, self._size)
                self.lost += 1
                return
            self._queue.append(record)
            self._size += cost
            if self._thread is None or not self._thread.is_alive():
                self._deadline = None
                self._start()
            self._change.notify()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=f"asyncdicom {self!r}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has none left: whoever reports shall not fail for it
            _log.error("= audit messages for %r wait: %s", self, error)
        else:
            self._thread = thread

    def close(self, timeout: float = 5.0) -> None:
        """Write what waits, for so many seconds at most; what comes later begins anew. Blocks."""
        with self._change:
            thread = self._thread
            if thread is None:
                return
            self._deadline = time.monotonic() + timeout
            self._change.notify()
        thread.join(timeout)
        if thread.is_alive():
            self._interrupt()
            thread.join(timeout=0.5)
        with self._change:
            if self._thread is thread and self._queue:
                _log.error("= %d audit messages for %r were not written within %g s", len(self._queue), self, timeout)
                self.lost += len(self._queue)
                self._losing = self.lost
                self._queue.clear()
                self._size = 0

    # For the kinds of sinks, in the thread

    def _begin(self) -> None:
        """There is something to write. Raises OSError if that is not possible now."""

    def _write(self, record: Record) -> None:
        """Write one. Raises OSError when it was not written."""
        raise NotImplementedError

    def _end(self) -> None:
        """Nothing more is to be written for now. Raises OSError."""

    def _reset(self) -> None:
        """Let go of what is open."""

    def _interrupt(self) -> None:
        """From another thread: end what waits."""

    # The thread

    def _left(self) -> float:
        """Seconds that something may take."""
        deadline = self._deadline
        return _SEND_TIMEOUT if deadline is None else max(0.0, min(_SEND_TIMEOUT, deadline - time.monotonic()))

    def _wait(self, pause: float | None) -> bool:
        """Wait for something to write, or until it may be tried again; returns whether there is something to do."""
        with self._change:
            if pause is not None:
                self._change.wait_for(lambda: self._deadline is not None, pause)
            self._change.wait_for(lambda: self._queue or self._deadline is not None)
            return bool(self._queue) and (self._deadline is None or self._left() > 0)

    def _run(self) -> None:
        failures = 0
        pause: float | None = None
        try:
            while self._wait(pause):
                try:
                    self._begin()
                    while self._queue and self._left():
                        self._write_next()
                        failures = 0
                    self._end()
                    pause = None
                except Exception as error:  # noqa: BLE001 - a host or a context that cannot be one, too
                    self._reset()
                    if not failures:
                        _log.warning("= audit messages for %r wait: %s", self, _why(error))
                    failures += 1
                    pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(failures - 1, 32))
                    if self._deadline is not None:
                        pause = min(pause, self._left())
                        time.sleep(pause)
        finally:
            self._reset()

    def _write_next(self) -> None:
        record = self._queue[0]
        try:
            self._write(record)
        except OSError:
            raise
        except Exception:  # noqa: BLE001 - it must not stop the others
            _log.exception("= an audit message cannot be written to %r", self)
        with self._change:
            if self._queue and self._queue[0] is record:  # else it was given up meanwhile
                self._queue.popleft()
                self._size -= len(record.xml) + _RECORD_COST
            if self._losing != self.lost:
                _log.error("= %d audit messages for %r were lost", self.lost - self._losing, self)
                self._losing = self.lost


_UNTRUSTED = (18, 19, 20, 21)
"""X509_V_ERR_*: nobody who is trusted vouches for the certificate."""


def _why(error: Exception) -> str:
    """What went wrong, of TLS in words."""
    if not isinstance(error, ssl_module.SSLError):
        return str(error)
    hint = ""
    if isinstance(error, ssl_module.SSLCertVerificationError) and error.verify_code in _UNTRUSTED:
        hint = "; name its CA in ssl=, for the tools by +cf FILE, or in the environment's SSL_CERT_FILE without +tls"
    return describe(error).replace("the peer", "the collector", 1) + hint


class LogSink(Sink):
    """Messages to a logger: INFO, those of failures WARNING.

    They name patients, users and what was asked for: give the logger a handler of its own where others read the log.
    """

    def __init__(self, logger: str = "asyncdicom.audit", *, limit: int = QUEUE_LIMIT) -> None:
        super().__init__(limit=limit)
        self.logger = logger

    def __repr__(self) -> str:
        return f"LogSink({self.logger!r})"

    def _write(self, record: Record) -> None:
        level = logging.WARNING if record.is_failure else logging.INFO
        logging.getLogger(self.logger).log(level, "%s", record.xml)


class FileSink(Sink):
    """Messages to the end of a file, one in a line. Several processes may write to the same, on a local file system.

    A file that was renamed or removed, as to rotate it, is made anew. ``sync`` waits until messages are on stable
    storage before those behind them are written. The file is made for its owner alone: messages name patients. When
    the disk is full, a message may be torn; it comes again, but what another process writes first is in the same line.
    """

    def __init__(self, path: str | os.PathLike[str], *, sync: bool = False, limit: int = QUEUE_LIMIT) -> None:
        super().__init__(limit=limit)
        self.path = Path(path).absolute()
        self.sync = sync
        self._descriptor: int | None = None
        self._is_torn = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._descriptor = None
        self._is_torn = False

    def __repr__(self) -> str:
        return f"FileSink({str(self.path)!r})"

    def _begin(self) -> None:
        if self._descriptor is not None and not self._is_ours(self._descriptor):
            self._reset()
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
            self._descriptor = os.open(self.path, flags, 0o600)

    def _is_ours(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(self.path.stat(), os.fstat(descriptor))
        except FileNotFoundError:
            return False

    def _write(self, record: Record) -> None:
        assert self._descriptor is not None
        line = b"\n" * self._is_torn + record.xml.encode() + b"\n"
        written = os.write(self._descriptor, line)  # by one call, so that those of several processes do not mix
        self._is_torn = written < len(line)
        if self._is_torn:
            raise OSError(errno.ENOSPC, "only a part of a message could be written", str(self.path))

    def _end(self) -> None:
        if self.sync and self._descriptor is not None:
            os.fsync(self._descriptor)

    def _reset(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


_NOT_PRINTABLE = re.compile(r"[^\x21-\x7e]")


def _field(text: str, longest: int) -> str:
    """A field of the header (RFC 5424 6)."""
    return _NOT_PRINTABLE.sub("", text)[:longest] or "-"


class SyslogSink(Sink):
    """Messages to a syslog collector (RFC 5424).

    ``transport`` is "tls" (RFC 5425, by default at port 6514), "tcp" with the same framing (RFC 6587 3.4.1), or "udp"
    (RFC 5426), which loses and cuts messages without a word. ``ssl`` is a context, or a function that makes one, which
    is called for each connection; by default the system's authorities vouch for a collector of the name ``host``.

    While the collector cannot be reached messages wait, and go out in order when it can. What TCP had taken and not
    brought when a connection broke is lost: syslog has no acknowledgement.
    """

    def __init__(
        self,
        host: str,
        port: int = 6514,
        *,
        transport: str = "tls",
        ssl: ssl_module.SSLContext | Callable[[], ssl_module.SSLContext] | None = None,
        app_name: str = "asyncdicom",
        limit: int = QUEUE_LIMIT,
    ) -> None:
        if transport not in ("tls", "tcp", "udp"):
            raise ValueError(f"{transport!r} is no transport; there are tls, tcp and udp")
        if ssl is not None and transport != "tls":
            raise ValueError(f"ssl is of no use over {transport}; give transport='tls'")
        super().__init__(limit=limit)
        self.host = host
        self.port = port
        self.transport = transport
        self.ssl = ssl
        self.app_name = app_name
        self._socket: socket.socket | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._socket = None

    def __repr__(self) -> str:
        return f"SyslogSink({self.host!r}, {self.port}, transport={self.transport!r})"

    def _begin(self) -> None:
        if self._socket is not None and self.transport != "udp" and not _is_open(self._socket):
            self._reset()
        if self._socket is None:
            self._connect()

    def _connect(self) -> None:
        if self.transport == "udp":
            family, kind, protocol, _, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_DGRAM)[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.connect(address)
            return
        self._socket = socket.create_connection((self.host, self.port), timeout=max(self._left(), 0.01))
        if self.transport == "tls":
            self._socket = self._context().wrap_socket(self._socket, server_hostname=self.host)

    def _context(self) -> ssl_module.SSLContext:
        if self.ssl is None:
            return ssl_module.create_default_context()
        return self.ssl() if callable(self.ssl) else self.ssl

    def _write(self, record: Record) -> None:
        self._begin()  # the collector may have gone since the last one, and the first message to it would be lost
        assert self._socket is not None
        message = self._message(record)
        if self.transport == "udp":
            try:
                self._socket.send(message)
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                _log.exception("= an audit message of %d bytes is too long for %r", len(message), self)
            return
        self._socket.settimeout(max(self._left(), 0.01))
        self._socket.sendall(b"%d %b" % (len(message), message))

    def _message(self, record: Record) -> bytes:
        """Facility 10; severity 5, 4 for failures; the byte order mark says that it is UTF-8 (RFC 5424 6.4)."""
        priority = 10 * 8 + (4 if record.is_failure else 5)
        host, name = _field(socket.gethostname(), 255), _field(self.app_name, 48)
        header = f"<{priority}>1 {record.time} {host} {name} {os.getpid()} DICOM+RFC3881 - "
        return header.encode() + b"\xef\xbb\xbf" + record.xml.encode()

    def _reset(self) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            with contextlib.suppress(OSError, ValueError):
                if isinstance(sock, ssl_module.SSLSocket):
                    sock.settimeout(0)
                    sock.unwrap()  # close_notify (RFC 5425 4.4); nobody waits for the answer
            sock.close()

    def _interrupt(self) -> None:
        if (sock := self._socket) is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _is_open(sock: socket.socket) -> bool:
    """Whether a collector, which has nothing to say, has not closed the connection."""
    sock.settimeout(0)
    try:
        while sock.recv(1024):
            pass
    except OSError as error:
        return isinstance(error, (BlockingIOError, ssl_module.SSLWantReadError))
    return False
