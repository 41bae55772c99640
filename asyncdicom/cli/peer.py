"""Who is called: the forms in which a command line names a peer.

DCMTK's ``HOST PORT``, dcm4che's ``-c AET@HOST:PORT``, and ``dicom://CALLING@HOST:PORT/CALLED``.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from asyncdicom.pdu import check_ae_title

from .options import UsageError

__all__ = ["Peer", "parse_at_form", "parse_peer", "read_port", "split_host_port"]

_DEFAULT_PORT = 104
"""Of DICOM (PS3.8 9.1.1); a URL and ``-c`` may leave the port out."""
_SCHEME = "dicom://"


class Peer(NamedTuple):
    """Where the peer is, and the AE titles that its name brings along; empty where it does not."""

    host: str
    port: int
    called: str = ""
    calling: str = ""


def parse_peer(words: list[str], connect: Peer | None) -> tuple[Peer, list[str]]:
    """The peer that a command line's words begin with, or that ``-c`` gave; and the words that are left.

    Raises UsageError when there is none.
    """
    if connect is not None:
        return connect, words
    if words and words[0].startswith(_SCHEME):
        try:
            return _parse_url(words[0]), words[1:]
        except ValueError as error:
            raise UsageError(f"{words[0]}: {error}") from None
    if len(words) < 2:
        raise UsageError("the peer is missing: HOST PORT, dicom://CALLING@HOST:PORT/CALLED, or -c CALLED@HOST:PORT")
    try:
        return Peer(words[0], read_port(words[1])), words[2:]
    except ValueError as error:
        raise UsageError(f"port {words[1]}: {error}") from None


def parse_at_form(text: str) -> Peer:
    """dcm4che's ``AET@HOST:PORT``. Raises ValueError."""
    title, at, where = text.rpartition("@")
    if not at:
        raise ValueError("CALLED@HOST:PORT is the form of it")
    host, port = split_host_port(where)
    return Peer(host, port, check_ae_title(title))


def _parse_url(text: str) -> Peer:
    url = urlsplit(text)
    if url.query or url.fragment or url.password is not None:
        raise ValueError("dicom://CALLING@HOST:PORT/CALLED is the form of it")
    host, port = split_host_port(url.netloc.rpartition("@")[2])
    calling, called = unquote(url.username or ""), unquote(url.path.strip("/"))
    return Peer(host, port, check_ae_title(called) if called else "", check_ae_title(calling) if calling else "")


def split_host_port(text: str, default_port: int = _DEFAULT_PORT) -> tuple[str, int]:
    """``HOST:PORT``, ``[ADDRESS]:PORT``, or either without a port. Raises ValueError."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("an IPv6 address stands in brackets: [::1]:104")
        port = rest[1:]
    else:
        host, _, port = text.partition(":")
    if not host:
        raise ValueError("the host is missing")
    return host, read_port(port) if port else default_port


def read_port(text: str) -> int:
    """A TCP port to connect to. Raises ValueError."""
    if not (text.isascii() and text.isdigit()) or not 0 < int(text) <= 65535:
        raise ValueError("a port is a number from 1 to 65535")
    return int(text)
