"""How connections come in where there is more to it than accepting them: the PROXY protocol, and TLS (PS3.15 B).

What listens for TLS, or behind a load balancer, takes plain TCP connections, and first looks at what comes, without
taking it (MSG_PEEK): then there is no task, no TLS object and no association, only a socket and a timer. Who sends a
PROXY header has it taken, byte by byte exact. What does not begin as it has to is named in the log and closed.

TLS handshakes begin a few at a time, so that a thousand that come at once do not hold up the event loop, by turns of
their addresses and the newest of each first, so that nobody waits behind them. Beyond a limit of those that have begun,
as asyncio takes 256 KiB for each, the oldest of the address that has most is dropped for the newest. There is one
deadline for all of it, ARTIM's, until an association request is here (PS3.8 9.1.5); a handshake that has begun has one
of its own within it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from typing import TYPE_CHECKING, cast

from .errors import AbortReason, AbortSource, ProtocolError
from .first_bytes import MAX_PROXY_HEADER, looks_like, proxy_header
from .pdu import Abort
from .tls import describe
from .turns import Turns

if TYPE_CHECKING:
    import ssl as ssl_module
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["BACKLOG", "Acceptor", "Door", "Visitor", "can_watch", "listening_sockets", "networks_of"]

_log = logging.getLogger("asyncdicom")

BACKLOG = 4096
"""Connections that may wait to be accepted, if the system allows it (Linux: net.core.somaxconn, 4096 unless set): with
1,024, in floods of two thousand, nine of ten had some that came a second later, when their system tried again."""

_ACCEPTS = 64
"""Connections that are accepted at a time, so that other things come to their turn."""
_ACCEPT_PAUSE = 1.0
"""Seconds without accepting when the system has no descriptors or memory left for it."""
_STARTS = 4
"""TLS handshakes that begin in one turn of the event loop: each is about 1 ms of it."""
_MAX_HANDSHAKES = 256
"""TLS handshakes that have begun and not ended."""
_MANY_HANDSHAKES = 64
"""So many at once leave memory behind that the C library keeps: 75 MB after 256 of them on asyncio."""
_SETTLE_TIME = 1.0
"""Seconds until what asyncio has made for the last of them is gone too."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Acceptor:
    """Listening sockets, which it owns, and what takes the connections that come to them."""

    def __init__(self, sockets: Sequence[socket.socket], take: Callable[[socket.socket], None]) -> None:
        self.sockets = list(sockets)
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._is_accepting = False
        self._retry: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept, unless it does already, or waits until the system has the means."""
        if self._is_accepting or self._retry is not None:
            return
        self._is_accepting = True
        for listener in self.sockets:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def pause(self) -> None:
        """Let connections wait in the kernel."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._is_accepting:
            self._is_accepting = False
            for listener in self.sockets:
                self._loop.remove_reader(listener.fileno())

    def close(self) -> None:
        """Listen no more."""
        self.pause()
        while self.sockets:
            self.sockets.pop().close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS):
            if not self._is_accepting:
                return
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.warning("= no connection can be accepted for %g s: %s", _ACCEPT_PAUSE, error)
                self.pause()
                self._retry = self._loop.call_later(_ACCEPT_PAUSE, self._go_on)
                return
            self._take(connection)

    def _go_on(self) -> None:
        self._retry = None
        self.start()


def can_watch(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether an event loop can watch sockets, as this module has to: Windows' usual one cannot."""
    return type(loop).add_reader is not asyncio.AbstractEventLoop.add_reader


def listening_sockets(server: asyncio.Server) -> list[socket.socket]:
    """The sockets of a server that has not begun to serve, for an :class:`Acceptor`; the server is closed."""
    sockets = [socket.fromfd(each.fileno(), each.family, each.type) for each in server.sockets]
    server.close()
    try:
        for each in sockets:
            each.setblocking(False)
            each.listen(BACKLOG)
    except BaseException:
        for each in sockets:
            each.close()
        raise
    return sockets


def networks_of(addresses: Iterable[str]) -> tuple[Network, ...]:
    """Networks in CIDR notation, or addresses. Raises ValueError."""
    if isinstance(addresses, str):
        addresses = (addresses,)
    return tuple(map(ipaddress.ip_network, addresses))


class Door:
    """Every connection from its acceptance until it has the protocol of an association.

    ``make_protocol`` is called when it has come so far; ``entered`` when a visitor has come, ``left`` when it is gone
    or has its protocol, ``refused`` with the reason if it is not let in. ``context`` gives the TLS context, or None.
    ``timeout``, for all of it, and ``tls_timeout``, for a handshake that has begun, are in seconds.
    """

    def __init__(
        self,
        *,
        make_protocol: Callable[[Visitor], asyncio.BufferedProtocol],
        entered: Callable[[Visitor], None],
        left: Callable[[Visitor], None],
        refused: Callable[[Visitor, str], None],
        context: Callable[[], ssl_module.SSLContext | None],
        proxies: Sequence[Network],
        timeout: float,
        tls_timeout: float,
    ) -> None:
        self.make_protocol = make_protocol
        self.left = left
        self.refused = refused
        self.context = context
        self.timeout = timeout
        self._tls_timeout = tls_timeout
        self._entered = entered
        self._proxies = proxies
        self._loop = asyncio.get_running_loop()
        self.silent: dict[Visitor, None] = {}
        """Those that have not sent what they have to begin with, the oldest first."""
        self._waiting: Turns[Visitor] = Turns()
        """Those whose handshake may begin."""
        self._begun: Turns[Visitor] = Turns()
        """Those whose handshake has."""
        self._most = 0
        """How many these were at once, since memory was given back."""
        self.tasks: set[asyncio.Task[None]] = set()
        """Of those."""
        self._next: asyncio.Handle | None = None
        """Begins some of those that wait."""

    def admit(self, connection: socket.socket) -> None:
        """Take a connection, which is this door's from now on."""
        try:
            address = _plain(connection.getpeername()[0])
        except OSError:  # gone already
            connection.close()
            return
        connection.setblocking(False)
        visitor = Visitor(self, connection, address, is_proxy=self._is_proxy(address))
        self.silent[visitor] = None
        self._entered(visitor)
        if self._proxies or self.context() is not None:
            visitor.wait()
        else:
            self.let_in(visitor)

    def _is_proxy(self, address: str) -> bool:
        return bool(self._proxies) and any(ipaddress.ip_address(address) in network for network in self._proxies)

    def let_in(self, visitor: Visitor) -> None:
        """Its first bytes are as they should be: with TLS the handshake begins when it is its turn."""
        self.silent.pop(visitor, None)
        self._waiting.add(visitor.address, visitor)
        if self._next is None:
            self._next = self._loop.call_soon(self._begin_some)

    def forget(self, visitor: Visitor) -> None:
        """It is over with it."""
        self.silent.pop(visitor, None)
        self._waiting.discard(visitor.address, visitor)
        self._begun.discard(visitor.address, visitor)
        if not self._begun and self._most >= _MANY_HANDSHAKES:
            self._most = 0
            self._loop.call_later(_SETTLE_TIME, _give_memory_back)

    def _begin_some(self) -> None:
        for _ in range(_STARTS):
            if not self._waiting:
                break
            visitor = self._waiting.take()
            self._begun.add(visitor.address, visitor)
            count = len(self._begun)
            self._most = max(self._most, count)
            if count > _MAX_HANDSHAKES:
                self._begun.drop().end(f"one of {count} TLS handshakes, and the oldest of its address")
            visitor.task = asyncio.ensure_future(self._connect(visitor))
            self.tasks.add(visitor.task)
        self._next = self._loop.call_soon(self._begin_some) if self._waiting else None

    async def _connect(self, visitor: Visitor) -> None:
        context = self.context()
        sock = None
        try:
            sock = visitor.sock.dup()  # asyncio's; by the other one it can be ended, and told why
            await self._loop.connect_accepted_socket(
                lambda: visitor,
                sock,
                ssl=context,
                ssl_handshake_timeout=self._tls_timeout if context is not None else None,
            )
        except Exception as error:  # noqa: BLE001 - it is told
            if sock is not None:
                sock.close()
            visitor.failed(error.with_traceback(None))  # which would keep asyncio's 256 KiB until the next collection
        finally:
            assert visitor.task is not None
            self.tasks.discard(visitor.task)
            visitor.done()


class Visitor(asyncio.Protocol):
    """A connection without an association's protocol; it gets one as soon as there is a transport for it."""

    def __init__(self, door: Door, sock: socket.socket, address: str, *, is_proxy: bool) -> None:
        self._door = door
        self.sock = sock
        self.address = address
        """Of the client, as far as it is known."""
        self.proxy_address = ""
        """Of the proxy, when it has said who its client is."""
        self.task: asyncio.Task[None] | None = None
        self._expects_header = is_proxy
        self._header = b""
        """What has been taken of the PROXY header."""
        self.has_failed = False
        """Whether it was closed for what it has sent: no TLS, a wrong PROXY header, a TLS handshake that failed."""
        self._is_over = False
        self._is_watched = False
        self._loop = asyncio.get_running_loop()
        self.arrived = self._loop.time()
        """When it was accepted, in the loop's clock."""
        self._timer = self._loop.call_at(self.arrived + door.timeout, self.end, f"{door.timeout:g} s without a request")

    def wait(self) -> None:
        """Look at what comes, when it comes."""
        self._is_watched = True
        self._loop.add_reader(self.sock.fileno(), self._look)

    def end(self, why: str = "") -> None:
        """Close at once, whatever is going on."""
        if self._is_over:
            return
        self._is_over = True
        if why:
            self._door.refused(self, why)
        self._timer.cancel()
        self._door.forget(self)
        self._unwatch()
        if self.task is None:
            self.sock.close()
            self._door.left(self)
        else:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)  # its transport is asyncio's, and hears of it

    def failed(self, error: Exception) -> None:
        """There was no handshake."""
        if not self._is_over:
            self._say(getattr(error, "alert", b""))  # asyncio does not
            self._refuse(f"no TLS connection: {describe(error) if isinstance(error, OSError) else repr(error)}")

    def _refuse(self, why: str) -> None:
        """Close, as it has shown that it does not belong here."""
        self.has_failed = True
        self.end(why)

    def done(self) -> None:
        """Its task is over."""
        self._timer.cancel()
        self.sock.close()
        self._door.forget(self)
        self._door.left(self)

    # What has come

    def _look(self) -> None:
        try:
            data = self.sock.recv(MAX_PROXY_HEADER, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.end()  # as those do that look whether anybody listens
        elif self._expects_header:
            self._take_header(data)
        elif self._door.context() is not None and data[0] != _TLS_HANDSHAKE:
            if data[0] == _ASSOCIATE_RQ:  # a requestor without TLS, which understands that
                self._say(Abort(AbortSource.SERVICE_PROVIDER, AbortReason.NOT_SPECIFIED).encode())
            self._refuse(f"TLS is spoken here, and this looks like {looks_like(data)}")
        elif looks_like(data) == _HEADER:
            self._refuse(f"{_HEADER} from an address that is not among proxies")
        else:
            self._unwatch()
            self._door.let_in(self)

    def _take_header(self, data: bytes) -> None:
        known = len(self._header)
        try:
            header = proxy_header(self._header + data)
        except ProtocolError as error:
            self._refuse(str(error))
            return
        self._header += self.sock.recv(header.length - known if header is not None else len(data))
        if header is not None:
            self._expects_header = False
            if header.client:
                self.address, self.proxy_address = header.client, self.address

    def _say(self, last_words: bytes) -> None:
        with contextlib.suppress(OSError):
            self.sock.send(last_words)
            self.sock.recv(_UNREAD)  # else the peer is reset, and what was sent may be lost there

    def _unwatch(self) -> None:
        if self._is_watched:
            self._is_watched = False
            self._loop.remove_reader(self.sock.fileno())

    # asyncio's callback

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the transport to the association's protocol."""
        self._timer.cancel()
        if self._is_over:
            cast(asyncio.Transport, transport).abort()
            return
        self._is_over = True
        protocol = self._door.make_protocol(self)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


_TLS_HANDSHAKE = 0x16
_ASSOCIATE_RQ = 0x01
_HEADER = "a PROXY protocol header"
_UNREAD = 64 * 1024


def _give_memory_back() -> None:
    """Have glibc return what was freed to the system; others do so by themselves, or not at all."""
    import ctypes  # noqa: PLC0415 - after attacks only

    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _plain(address: str) -> str:
    """An IPv4 address stays one where it came by an IPv6 socket."""
    return address.removeprefix("::ffff:") if "." in address else address.partition("%")[0]
