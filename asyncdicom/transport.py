"""One transport connection: the upper layer machine of PS3.8 on an asyncio transport (PS3.8 9.1).

Owns the socket, the timer and the writing; knows nothing of DIMSE. What the peer sends goes up through
:class:`ConnectionUser`, in one call chain from the event loop's callback: no task, no queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import socket
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from .errors import AssociationLost, AssociationTimeout, NotDicom, ProtocolError

if TYPE_CHECKING:
    import ssl as ssl_module
    from collections.abc import Callable, Sequence

    from .receive_buffer import Fragment
    from .upper_layer import Indicated, UpperLayer

__all__ = ["Connection", "ConnectionUser", "TLSInfo", "set_options"]

_log = logging.getLogger("asyncdicom")

_MAX_UNREAD_RESPONSES = 256 * 1024
"""Bytes of small messages that may wait for a peer that does not read. Beyond it nothing is read from it either."""

_KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""Seconds of silence, seconds between probes, probes: address translators forget a connection after minutes."""

_WHOLE_MESSAGE = 64 * 1024
"""Bytes in one read from which the peer is not waiting for an acknowledgement, but sending as fast as it can."""

_TLS_PIECE = 128 * 1024
"""Bytes handed to TLS at once, whole records: measured in docs/design.md."""

_TLS_HIGH_WATER = 1  # asyncio's TLS pauses at "as many as", its TCP at "more than"


_TCP = (socket.AF_INET, socket.AF_INET6)
_QUICK_ACK = (socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1) if hasattr(socket, "TCP_QUICKACK") else None


def set_options(sock: Any) -> None:
    """Make a TCP socket what DICOM needs: nothing is held back, and a peer that has vanished is noticed.

    A socket that listens gives this on to those that it accepts, on Linux and the BSDs: five calls less for each.
    """
    if sock.family in _TCP:
        with contextlib.suppress(OSError):  # gone already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, number in _KEEP_ALIVE.items():
                if (option := getattr(socket, name, None)) is not None:
                    sock.setsockopt(socket.IPPROTO_TCP, option, number)


class TLSInfo(NamedTuple):
    """What was agreed in a TLS handshake."""

    version: str
    """As OpenSSL has it: "TLSv1.2", "TLSv1.3"."""
    cipher: str
    """The cipher suite, by OpenSSL's name."""


class ConnectionUser(Protocol):
    """Whoever uses a connection: an association."""

    def _fragments_received(self, fragments: list[Fragment], now: float) -> None:
        """P-DATA has come. Raises ProtocolError if it cannot be."""

    def _indicated(self, indicated: Indicated) -> None:
        """The upper layer has something to say."""

    def _rest_due(self, now: float) -> float | None:
        """When the rest of what the peer has begun is overdue; None when nothing has begun."""

    def _handle_timer(self, now: float) -> float | None:
        """See what is overdue; returns when to look again, at the latest."""

    def _connection_lost(self, error: Exception | None) -> None:
        """The connection is gone; the last call there is."""


class Connection(asyncio.BufferedProtocol):
    """The glue between an asyncio transport and an :class:`~asyncdicom.upper_layer.UpperLayer`."""

    def __init__(self, upper_layer: UpperLayer, user: ConnectionUser) -> None:
        self.upper_layer = upper_layer
        self._user = user
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = math.inf
        """When the timer will fire."""
        self._reading_paused: set[str] = set()
        """Why nothing is read."""
        self._writing_paused = False
        self._drained: asyncio.Future[None] | None = None
        self._closing = False
        self._over_tls = False
        self._quick_ack: Callable[[], None] | None = None
        self.last_received = 0.0
        """When bytes came last, in the loop's clock."""
        self.reading_since = 0.0
        """When reading was resumed last."""
        self.unread_since: float | None = None
        """Since when the peer has left so many responses unread that nothing is read from it either."""
        self._told_error = False
        self._flushing = False
        self.writes = 0
        """How often something was handed to the transport."""
        self.error: Exception | None = None
        """What ended the connection, where it was not one of the two sides."""
        self.origin = ""
        """Where the peer is, if that is known better than from the transport: behind a proxy."""

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket as it should be for DICOM; what the machine does then is the user's business."""
        self._transport = cast(asyncio.Transport, transport)
        if self._closing:  # killed before there was a transport
            self._transport.abort()
            return
        self.last_received = self._loop.time()
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family in _TCP:
            if self.upper_layer.is_requestor:
                set_options(sock)  # an acceptor's socket has them from the one that listened
            if _QUICK_ACK is not None:
                self._quick_ack = functools.partial(sock.setsockopt, *_QUICK_ACK)
        # Paused means: the transport still holds bytes of ours, so memory that was written may not be used again.
        self._over_tls = self._transport.get_extra_info("sslcontext") is not None
        self._transport.set_write_buffer_limits(high=_TLS_HIGH_WATER if self._over_tls else 0, low=0)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Receive memory; always a memoryview, a bytearray would be sliced into a copy by asyncio's TLS."""
        return self.upper_layer.pool.current(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come. Whatever goes wrong ends this connection and no other."""
        try:
            self.last_received = now = self._loop.time()
            upper_layer = self.upper_layer
            fragments = upper_layer.bytes_received(nbytes, now)
            if upper_layer.has_news:
                self.flush()
            if fragments:
                self._deliver(fragments)
            due = self._user._rest_due(now)
            if due is not None:
                self._await_rest(due, nbytes)
        except Exception:  # noqa: BLE001 - logged
            _log.exception("= closing a connection after an error of our own")
            self.kill()

    def _await_rest(self, due: float, nbytes: int) -> None:
        if due < self._wakes_at:
            self.wake_at(due)
        # A sender with Nagle's algorithm on keeps back the rest of what it has begun until this end acknowledges, which
        # the kernel delays by 40 ms: DCMTK and pynetdicom, as requestors and acceptors. Linux forgets the option.
        if nbytes < _WHOLE_MESSAGE and self._quick_ack is not None and self.is_open:
            with contextlib.suppress(OSError):  # the peer has reset the connection
                self._quick_ack()

    def eof_received(self) -> bool:
        """Close this half too: an association needs both."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the machine, and the user; nothing of this connection is left after."""
        self._closing = True
        self.error = exc
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wakes_at = -math.inf
        self.upper_layer.transport_closed(self._loop.time())
        for indicated in self.upper_layer.indications():
            if not isinstance(indicated.about, list):
                self._user._indicated(indicated)
        self._wake_writer()
        self._user._connection_lost(exc)

    def pause_writing(self) -> None:
        """The transport holds bytes that the peer has not taken."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """The transport's buffer is empty."""
        self._writing_paused = False
        self.unread_since = None
        self.resume_reading("unread responses")
        self._wake_writer()

    # The user's side

    @property
    def is_open(self) -> bool:
        """Whether there is a transport connection that is not being closed."""
        return self._transport is not None and not self._closing

    @property
    def is_reading_paused(self) -> bool:
        """Whether nothing is read at present, so that silence is not the peer's."""
        return bool(self._reading_paused)

    def peer_address(self) -> str:
        """Where the peer is: an IP address, or what the transport has instead."""
        if self.origin:
            return self.origin
        name = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(name[0]) if isinstance(name, tuple) else str(name or "")

    @property
    def tls(self) -> TLSInfo | None:
        """What was agreed with the peer; None without TLS."""
        return TLSInfo(found.version() or "", (found.cipher() or ("",))[0]) if (found := self._ssl_object()) else None

    def peer_certificate(self) -> bytes | None:
        """The peer's certificate (DER), if it was verified: without that anybody can have made it."""
        found = self._ssl_object()
        return found.getpeercert(True) if found is not None and found.context.verify_mode else None

    def _ssl_object(self) -> ssl_module.SSLObject | None:
        return self._transport.get_extra_info("ssl_object") if self._over_tls and self._transport is not None else None

    def now(self) -> float:
        """The loop's clock."""
        return self._loop.time()

    def flush(self) -> None:
        """Do what the machine owes: send its PDUs, tell its user, close, set the timer; until it owes nothing."""
        if self._flushing:
            return  # what the user has done in an indication is seen to after it
        self._flushing = True
        try:
            while self.upper_layer.has_news:
                self._flush()
        finally:
            self._flushing = False

    def _flush(self) -> None:
        upper_layer = self.upper_layer
        upper_layer.has_news = False
        data = upper_layer.data_to_send()
        if data and self.is_open:
            self._write(data)
        if upper_layer.error is not None and not self._told_error:
            self._told_error = True
            _log.warning("> A-ABORT to %s: %s", self.peer_address(), upper_layer.error)
        for indicated in upper_layer.indications():
            if isinstance(indicated.about, list):
                self._deliver(indicated.about)
            else:
                self._user._indicated(indicated)
        if upper_layer.deadline is not None:
            self.wake_at(upper_layer.deadline)
        if upper_layer.close_expected or isinstance(upper_layer.error, NotDicom):
            self._close()

    def write(self, data: bytes) -> None:
        """Send a small message, in one piece."""
        self._write(data)
        if (
            self._writing_paused
            and cast(asyncio.Transport, self._transport).get_write_buffer_size() > _MAX_UNREAD_RESPONSES
        ):
            self.pause_reading("unread responses")
            if self.unread_since is None:
                self.unread_since = self._loop.time()
                self.wake_at(self._user._handle_timer(self.unread_since) or 0.0)

    async def write_and_drain(self, buffers: Sequence[memoryview | bytes], timeout: float) -> None:
        """Send buffers, none of them empty, and wait until the transport holds none of them any more.

        They are P-DATA-TF PDUs (Evt9): raises LocalProtocolError where none may be sent, AssociationTimeout if the peer
        takes nothing for ``timeout`` seconds, AssociationLost if the connection ends. Cancelled, it leaves
        bytes in the transport: the connection is good for an A-ABORT only.
        """
        if not self.is_open:
            raise AssociationLost("the connection is closed")
        self.upper_layer.check_may_send_data()
        transport = cast(asyncio.Transport, self._transport)
        self.writes += 1
        if len(buffers) == 1:
            buffer = buffers[0]
            if self._over_tls:
                # One write is encrypted as a whole before its first byte leaves: piece by piece both ends work at once.
                while len(buffer) > _TLS_PIECE:
                    transport.write(buffer[:_TLS_PIECE])
                    buffer = buffer[_TLS_PIECE:]
            transport.write(buffer)
        else:
            transport.writelines(buffers)
            # CVE-2024-12254: before CPython 3.12.9 and 3.13.2 writelines does not pause; setting the limits does.
            if not self._writing_paused and transport.get_write_buffer_size():
                transport.set_write_buffer_limits(high=0, low=0)
        while self._writing_paused:
            before = transport.get_write_buffer_size()
            self._drained = self._loop.create_future()
            try:
                async with asyncio.timeout(timeout):
                    await self._drained
            except TimeoutError:
                if transport.get_write_buffer_size() == before:  # else the peer is slow, but it takes
                    raise AssociationTimeout(f"the peer has taken nothing of what was sent for {timeout:g} s") from None
            finally:
                self._drained = None
            if not self.is_open:
                raise AssociationLost("the connection was closed while sending")

    def pause_reading(self, reason: str) -> None:
        """Read nothing until every reason for it is gone; TCP tells the peer to wait."""
        if not self._reading_paused and self.is_open:
            cast(asyncio.Transport, self._transport).pause_reading()
        self._reading_paused.add(reason)

    def resume_reading(self, reason: str) -> None:
        """One reason to pause is gone."""
        if reason in self._reading_paused:
            self._reading_paused.discard(reason)
            if not self._reading_paused and self.is_open:
                cast(asyncio.Transport, self._transport).resume_reading()
                # The silence until now was not the peer's.
                self.last_received = self.reading_since = self._loop.time()

    def wake_at(self, when: float) -> None:
        """Have the deadlines looked at, then or earlier."""
        if when >= self._wakes_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._wakes_at = when
        self._timer = self._loop.call_at(when, self._on_timer)

    def kill(self) -> None:
        """Close at once, whatever is still to be sent."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()
        else:
            self.connection_lost(None)  # a TLS handshake that never ended: nobody else will say so

    # Helpers

    def _deliver(self, fragments: list[Fragment]) -> None:
        try:
            self._user._fragments_received(fragments, self.last_received)
        except ProtocolError as error:
            self.upper_layer.protocol_error(error, self.last_received)
        if self.upper_layer.has_news:
            self.flush()

    def _on_timer(self) -> None:
        try:
            self._see_to_deadlines()
        except Exception:  # noqa: BLE001 - logged
            _log.exception("= closing a connection after an error of our own")
            self.kill()

    def _see_to_deadlines(self) -> None:
        self._timer = None
        self._wakes_at = math.inf
        now = self._loop.time()
        if self.upper_layer.deadline is not None and now >= self.upper_layer.deadline:
            # ARTIM (AA-2): who did not answer or close in time is not given time to take what is left to send.
            self.upper_layer.handle_timer(now)
            self.kill()
            return
        when = self._user._handle_timer(now)
        if when is not None:
            self.wake_at(when)
        self.flush()
        if self.upper_layer.deadline is not None and not self._closing:
            self.wake_at(self.upper_layer.deadline)  # ARTIM was started again since the timer was set

    def _write(self, data: bytes) -> None:
        self.writes += 1
        if self._transport is not None:
            self._transport.write(data)

    def _close(self) -> None:
        if self._transport is None or self._closing:
            return
        self._closing = True
        if not self._transport.is_closing():  # a second time would leave asyncio's TLS of 3.11.2 unable to abort
            self._transport.close()
        if self._timer is not None:
            self._timer.cancel()
        self._wakes_at = -math.inf  # nothing else is waited for
        self._timer = self._loop.call_later(_CLOSE_TIMEOUT, self._transport.abort)

    def _wake_writer(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)


_CLOSE_TIMEOUT = 5.0
"""Seconds for a closing connection to get its last bytes out."""
