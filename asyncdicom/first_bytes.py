"""What a connection begins with: which protocol its first bytes look like, and the header of the PROXY protocol.

A load balancer sends that header before what its client sends, to say who the client is (versions 1 and 2 of HAProxy's
specification). Nothing here does I/O.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from .errors import ProtocolError

__all__ = ["MAX_PROXY_HEADER", "ProxyHeader", "looks_like", "proxy_header"]

MAX_PROXY_HEADER = 4096
"""Bytes of a PROXY header that are taken: the addresses are 216 at most, the rest is for extensions (TLVs)."""


class ProxyHeader(NamedTuple):
    """What a proxy says of a connection."""

    length: int
    """In bytes; what follows is the client's."""
    client: str
    """IP address. Empty where the proxy has connected for itself (LOCAL), or does not say who its client is."""


_SIGNATURE_1 = b"PROXY "
_SIGNATURE_2 = b"\r\n\r\n\0\r\nQUIT\n"

_OPENINGS = {
    b"\x16": "a TLS handshake",
    b"\x01\x00": "an association request without TLS",
    _SIGNATURE_1: "a PROXY protocol header",
    _SIGNATURE_2: "a PROXY protocol header",
    **dict.fromkeys(
        (b"GET ", b"PUT ", b"HEAD ", b"POST ", b"PATCH ", b"TRACE ", b"DELETE ", b"OPTIONS ", b"CONNECT ", b"PRI * "),
        "an HTTP request",
    ),
}


def looks_like(data: bytes) -> str:
    """What a connection's first bytes look like, in words."""
    for opening, words in _OPENINGS.items():
        if data.startswith(opening):
            return words
    return f"neither DICOM nor TLS nor HTTP, it begins with {data[:4].hex(' ').upper()}H"


def proxy_header(data: bytes) -> ProxyHeader | None:
    """The PROXY header that a connection begins with; None while all of ``data`` belongs to one and more must come.

    Extensions are passed over, their checksum is not checked. Raises ProtocolError for what is not such a header.
    """
    if _SIGNATURE_2.startswith(data[: len(_SIGNATURE_2)]):
        return _version_2(data)
    if _SIGNATURE_1.startswith(data[: len(_SIGNATURE_1)]):
        return _version_1(data)
    raise ProtocolError(f"a PROXY protocol header was expected, this looks like {looks_like(data)}")


# Version 1: a line of text

_MAX_LINE = 107
_FAMILIES_1: dict[bytes, type[IPv4Address | IPv6Address]] = {b"TCP4": IPv4Address, b"TCP6": IPv6Address}


def _version_1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, _MAX_LINE)
    if end < 0:
        if len(data) >= _MAX_LINE:
            raise ProtocolError(f"a PROXY header without an end in {_MAX_LINE} bytes")
        return None
    length = end + 2
    _, family, *rest = data[:end].split(b" ")
    if family == b"UNKNOWN":
        return ProxyHeader(length, "")
    try:
        source, destination, *ports = rest
        client, _ = (_FAMILIES_1[family](each.decode("ascii")) for each in (source, destination))
        if b"%" in source or len(ports) != 2 or not all(each.isdigit() and int(each) <= 0xFFFF for each in ports):
            raise ValueError
    except (KeyError, ValueError):
        raise ProtocolError("a PROXY header without two addresses and two ports") from None
    return ProxyHeader(length, _text(client))


# Version 2: binary

_HEAD_2 = struct.Struct(">12sBBH")
_COMMANDS = {0x20: "LOCAL", 0x21: "PROXY"}
_FAMILIES_2 = {
    0x00: (0, None),  # unspecified
    0x11: (12, IPv4Address),  # TCP
    0x12: (12, None),  # UDP
    0x21: (36, IPv6Address),
    0x22: (36, None),
    0x31: (216, None),  # Unix sockets
    0x32: (216, None),
}
"""By family and transport the bytes of both addresses with their ports, and what an address is."""


def _version_2(data: bytes) -> ProxyHeader | None:
    if len(data) < _HEAD_2.size:
        return None
    _, command, family, length = _HEAD_2.unpack_from(data)
    if command not in _COMMANDS:
        raise ProtocolError(f"version and command {command:02X}H in a PROXY header, 20H or 21H were expected")
    length += _HEAD_2.size
    if length > MAX_PROXY_HEADER:
        raise ProtocolError(f"a PROXY header of {length} bytes, at most {MAX_PROXY_HEADER} are taken")
    if len(data) < length:
        return None
    if _COMMANDS[command] == "LOCAL":
        return ProxyHeader(length, "")
    size, kind = _FAMILIES_2.get(family, (MAX_PROXY_HEADER, None))
    if _HEAD_2.size + size > length:
        raise ProtocolError(f"a PROXY header of {length} bytes for address family {family:02X}H")
    if kind is None:
        return ProxyHeader(length, "")
    start = _HEAD_2.size
    return ProxyHeader(length, _text(kind(data[start : start + (size - 4) // 2])))


def _text(address: IPv4Address | IPv6Address) -> str:
    """As addresses are written elsewhere: an IPv4 address stays one where IPv6 carries it."""
    return str(getattr(address, "ipv4_mapped", None) or address)
