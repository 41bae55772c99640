"""TLS handshakes as bytes: what a client offers, what a server chooses, and both without a network."""

import contextlib
import ssl
from typing import NamedTuple

VERSIONS = {0x0301: "1.0", 0x0302: "1.1", 0x0303: "1.2", 0x0304: "1.3"}
SCSV = "00FF"
"""Signals secure renegotiation (RFC 5746), and is no suite."""
CLIENT_HELLO, SERVER_HELLO, SERVER_KEY_EXCHANGE = 1, 2, 12
HANDSHAKE, ALERT = 22, 21


class Hello(NamedTuple):
    """Of either side; codes are four hexadecimal digits."""

    version: str
    """The highest that is offered, or the chosen one, as it stands in the fixed part."""
    versions: set
    """What is offered or chosen, extension included."""
    suites: list
    groups: list
    signature_algorithms: list
    alpn: list
    server_name: str


class Reader:
    def __init__(self, data):
        self.data, self.at = memoryview(data), 0

    def take(self, count):
        self.at += count
        assert self.at <= len(self.data)
        return bytes(self.data[self.at - count : self.at])

    def number(self, size):
        return int.from_bytes(self.take(size))

    def vector(self, size):
        return self.take(self.number(size))

    def __bool__(self):
        return self.at < len(self.data)


def codes(data):
    return [data[at : at + 2].hex().upper() for at in range(0, len(data), 2)]


def messages(stream):
    """The handshake messages at the beginning of a stream, as (type, body), and the alert after them or None."""
    reader, handshake = Reader(stream), b""
    alert = None
    while reader:
        kind, _, body = reader.number(1), reader.number(2), reader.vector(2)
        if kind == ALERT:
            alert = body[1]
        if kind != HANDSHAKE:
            break  # what follows is encrypted
        handshake += body
    found, reader = [], Reader(handshake)
    while reader:
        found.append((reader.number(1), reader.vector(3)))
    return found, alert


def hello(body, *, of_client):
    reader = Reader(body)
    version = VERSIONS[reader.number(2)]
    reader.take(32)
    reader.vector(1)
    suites = codes(reader.vector(2) if of_client else reader.take(2))
    reader.vector(1) if of_client else reader.take(1)
    extensions, reader = {}, Reader(reader.vector(2) if reader else b"")
    while reader:
        kind = reader.number(2)
        extensions[kind] = reader.vector(2)
    at = 1 if of_client else 0
    numbers = codes(extensions[43][at:]) if 43 in extensions else []
    alpn, name = [], ""
    if 16 in extensions:
        reader = Reader(extensions[16][2:])
        while reader:
            alpn.append(reader.vector(1).decode())
    if extensions.get(0):
        name = extensions[0][5:].decode()
    return Hello(
        version,
        {VERSIONS[int(each, 16)] for each in numbers},
        suites,
        codes(extensions.get(10, b"")[2:]),
        codes(extensions.get(13, b"")[2:]),
        alpn,
        name,
    )


def client_hello_bytes(context, server_hostname="localhost"):
    out = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=server_hostname)
    try:
        connection.do_handshake()
    except ssl.SSLWantReadError:
        return out.read()
    raise AssertionError("a client that does not wait for an answer")


def client_hello(context, server_hostname="localhost"):
    ((kind, body),), _ = messages(client_hello_bytes(context, server_hostname))
    assert kind == CLIENT_HELLO
    return hello(body, of_client=True)


def answer(context, offer):
    """What a server answers to a ClientHello: its hello or None, its other messages by type, its alert or None."""
    incoming, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, out, server_side=True)
    incoming.write(offer)
    with contextlib.suppress(ssl.SSLError):  # it waits for more, or has refused
        connection.do_handshake()
    found, alert = messages(out.read())
    by_kind = dict(found)
    chosen = hello(by_kind[SERVER_HELLO], of_client=False) if SERVER_HELLO in by_kind else None
    return chosen, by_kind, alert


def offering(offer, suite, version=None):
    """A ClientHello with one suite only, in all places of its list; and of another version, where one is given."""
    data = bytearray(offer)
    if version is not None:
        data[9:11] = version.to_bytes(2)
    at = 5 + 4 + 2 + 32
    at += 1 + data[at]
    count = int.from_bytes(data[at : at + 2]) // 2
    data[at + 2 : at + 2 + 2 * count] = bytes.fromhex(suite) * count
    return bytes(data)


class Outcome(NamedTuple):
    """A handshake's two ends, and what each of them says went wrong."""

    client: ssl.SSLObject
    server: ssl.SSLObject
    client_error: ssl.SSLError | None
    server_error: ssl.SSLError | None


def handshake(client_context, server_context, server_hostname="localhost"):
    """Client and server until both are done or one has given up, and then a byte each way: TLS 1.3 refuses late."""
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(one, other, server_hostname=server_hostname)
    server = server_context.wrap_bio(other, one, server_side=True)
    steps = {
        client: [client.do_handshake, lambda: client.write(b"c"), lambda: client.read(1)],
        server: [server.do_handshake, lambda: server.write(b"s"), lambda: server.read(1)],
    }
    errors = {client: None, server: None}
    for _ in range(10):
        for end in (client, server):
            while steps[end] and errors[end] is None:
                try:
                    steps[end][0]()
                except ssl.SSLWantReadError:
                    break
                except ssl.SSLError as error:
                    errors[end] = error
                else:
                    del steps[end][0]
    assert not any(steps[end] and errors[client] is None and errors[server] is None for end in steps), "nobody is done"
    return Outcome(client, server, errors[client], errors[server])
