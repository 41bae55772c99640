"""Python's ``ssl`` on an event loop and next to nothing above it: ``LOOP KEY CERT SIZE PDU``; prints its port.

What a receiver in Python cannot go beyond: it counts the bytes of messages whose length it knows beforehand, and
answers each with the same bytes.
"""

import asyncio
import ssl
import sys

loop_name, key, cert, *numbers = sys.argv[1:]
size, pdu = map(int, numbers)


def item(kind: int, value: bytes) -> bytes:
    return bytes((kind, 0)) + len(value).to_bytes(2, "big") + value


def element(number: int, value: bytes) -> bytes:
    return b"\0\0" + number.to_bytes(2, "little") + len(value).to_bytes(4, "little") + value


variable = (
    b"\0\1\0\0"
    + bytes(64)
    + item(0x10, b"1.2.840.10008.3.1.1.1")
    + item(0x21, b"\1\0\0\0" + item(0x40, b"1.2.840.10008.1.2.1"))
    + item(0x50, item(0x51, pdu.to_bytes(4, "big")) + item(0x52, b"2.25.1"))
)
ACCEPTED = b"\2\0" + len(variable).to_bytes(4, "big") + variable
elements = element(0x0100, b"\1\x80") + element(0x0120, b"\1\0") + element(0x0800, b"\1\1") + element(0x0900, b"\0\0")
command = element(0, len(elements).to_bytes(4, "little")) + elements
RESPONSE = b"\4\0" + (len(command) + 6).to_bytes(4, "big") + (len(command) + 2).to_bytes(4, "big") + b"\1\3" + command
RELEASED = b"\6\0\0\0\0\4\0\0\0\0"
fragment = (pdu - 6) & ~1
DATA = size + 12 * -(-size // fragment)
BUFFER = memoryview(bytearray(256 << 10))


class Counter(asyncio.BufferedProtocol):
    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport, self.left, self.answer = transport, 0, b""

    def get_buffer(self, hint: int) -> memoryview:  # noqa: ARG002
        return BUFFER

    def buffer_updated(self, count: int) -> None:
        at = 0
        while at < count:
            if not self.left:
                self.left = 6 + int.from_bytes(BUFFER[at + 2 : at + 6], "big")
                self.answer = {1: ACCEPTED, 4: RESPONSE, 5: RELEASED}[BUFFER[at]]
                if self.answer is RESPONSE:
                    self.left += DATA
            step = min(self.left, count - at)
            at += step
            self.left -= step
            if not self.left:
                self.transport.write(self.answer)


async def main() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    server = await asyncio.get_running_loop().create_server(Counter, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if loop_name == "uvloop":
    import uvloop

    uvloop.run(main())
else:
    asyncio.run(main())
