"""What a connection begins with, byte by byte."""

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.errors import ProtocolError
from asyncdicom.first_bytes import MAX_PROXY_HEADER, ProxyHeader, looks_like, proxy_header
from asyncdicom.pdu import ReleaseRQ

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
ADDRESSES = st.ip_addresses().filter(lambda each: getattr(each, "ipv4_mapped", None) is None)
PORTS = st.integers(0, 0xFFFF)


def line(source, destination, *ports):
    family = "TCP4" if isinstance(source, IPv4Address) else "TCP6"
    return f"PROXY {family} {source} {destination} {ports[0]} {ports[1]}\r\n".encode()


def binary(body, *, command=0x21, family=0x11, length=None):
    return SIGNATURE + struct.pack(">BBH", command, family, len(body) if length is None else length) + body


def of_tcp(source, destination, *ports, more=b""):
    family = 0x11 if isinstance(source, IPv4Address) else 0x21
    return binary(source.packed + destination.packed + struct.pack(">HH", *ports) + more, family=family)


@st.composite
def headers(draw):
    """A header and the address of the client that it names."""
    source = draw(ADDRESSES)
    destination = draw(ADDRESSES.filter(lambda each: each.version == source.version))
    if draw(st.booleans()):
        return line(source, destination, draw(PORTS), draw(PORTS)), str(source)
    return of_tcp(source, destination, draw(PORTS), draw(PORTS), more=draw(st.binary(max_size=300))), str(source)


@given(headers(), st.binary(max_size=50))
def test_a_header_ends_where_it_ends_and_names_the_client(header, behind):
    data, client = header
    assert proxy_header(data + behind) == ProxyHeader(len(data), client)


@given(headers(), st.data())
def test_every_beginning_of_a_header_waits_for_the_rest(header, cut):
    data, _ = header
    assert proxy_header(data[: cut.draw(st.integers(0, len(data) - 1))]) is None


@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21"]))
def test_any_bytes_are_a_header_or_the_beginning_of_one_or_an_error(data, begin):
    try:
        found = proxy_header(begin + data)
    except ProtocolError:
        return
    assert found is None or 0 < found.length <= len(begin + data)


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n",
        binary(b"", command=0x20, family=0),
        binary(IPv4Address("1.2.3.4").packed * 2 + bytes(4), command=0x20),
        binary(b"", family=0),
        binary(bytes(12), family=0x12),
        binary(bytes(36), family=0x22),
        binary(b"/run/socket".ljust(216, b"\0"), family=0x31),
    ],
    ids=["UNKNOWN", "UNKNOWN with addresses", "LOCAL", "LOCAL with addresses", "none", "UDP4", "UDP6", "Unix"],
)
def test_a_proxy_may_name_no_client(header):
    assert proxy_header(header + b"\1") == ProxyHeader(len(header), "")


def test_an_ipv4_address_stays_one_where_ipv6_carries_it():
    mapped = IPv6Address("::ffff:192.0.2.7")
    assert proxy_header(of_tcp(mapped, mapped, 1, 2)).client == "192.0.2.7"
    assert proxy_header(b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n").client == "192.0.2.7"


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
        b"PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
        b"PROXY TCP4 \xff 5.6.7.8 1 2\r\n",
        b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4 " + b"1" * 96,
        b"PROXX",
        b"GET / HTTP/1.1\r\n",
        b"\x16\3\1",
        ReleaseRQ().encode(),
        binary(bytes(12), command=0x11),
        binary(bytes(12), command=0x22),
        binary(bytes(11)),
        binary(bytes(35), family=0x21),
        binary(bytes(12), family=0x41),
        binary(b"", length=MAX_PROXY_HEADER),
    ],
)
def test_what_is_no_header_is_an_error(data):
    with pytest.raises(ProtocolError, match="PROXY"):
        proxy_header(data)


def test_the_longest_headers_are_taken():
    longest = b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n"
    assert proxy_header(longest) == ProxyHeader(107, "")
    extended = binary(bytes(MAX_PROXY_HEADER - 16))
    assert proxy_header(extended) == ProxyHeader(MAX_PROXY_HEADER, "0.0.0.0")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x16\3\1\2\0", "a TLS handshake"),
        (b"\1\0\0\0", "an association request without TLS"),
        (b"GET / HTTP/1.1", "an HTTP request"),
        (b"PROXY TCP4", "a PROXY protocol header"),
        (SIGNATURE + b"\x21", "a PROXY protocol header"),
        (b"\xff\xfb\1\2\3", "neither DICOM nor TLS nor HTTP, it begins with FF FB 01 02H"),
    ],
)
def test_what_begins_otherwise_is_named(data, words):
    assert looks_like(data) == words
