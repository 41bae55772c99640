"""How a tool ends: DCMTK's exit codes (``EXIT CODES`` in the manual pages of dcmsend, dcmrecv, echoscu and movescu).

DCMTK's own storescu and storescp answer nearly everything with 1; the numbers are those that dcmsend and dcmrecv have
for the same work. They say more than dcmsend does: it gives 61 where there is no connection (here 60, as the list has
it), and 22 for a file that is not there (here 20). Also here: what is said of an error to whoever typed the command.
"""

from __future__ import annotations

import enum
import errno
import socket
from typing import Final, NamedTuple

from asyncdicom.errors import (
    AccessPolicyError,
    AssociationAborted,
    AssociationError,
    AssociationLost,
    AssociationRejected,
    AssociationTimeout,
    FileFormatError,
    IdentityConfigurationError,
    LocalProtocolError,
    NoAcceptedContext,
    NoConnection,
    TLSConfigurationError,
    TLSFailed,
)

__all__ = ["ExitCode", "Failure", "ToolError", "explain", "explain_connecting"]


class ExitCode(enum.IntEnum):
    """What a tool ends with."""

    OK = 0
    SYNTAX = 1
    """The command line is wrong."""
    CANNOT_READ = 20
    """A file that was named cannot be read."""
    NO_INPUT = 21
    """No file was found."""
    INVALID_INPUT = 22
    """A file that was named is no instance that could be sent."""
    NO_VALID_INPUT = 23
    """No file that was found is one."""
    CANNOT_WRITE = 40
    OUTPUT_FOLDER = 45
    """The folder is not there, or cannot be written to."""
    NETWORK = 60
    """No connection."""
    NEGOTIATION = 61
    """The peer rejected the association, or did not answer the request."""
    SEND = 62
    """The peer answered with a failure status."""
    LISTEN = 64
    """The port cannot be listened on."""
    NO_CONTEXT = 65
    """No presentation context that would do was accepted."""
    CONFIGURATION = 66
    """A file that says who may do what cannot be used; DCMTK's EXITCODE_INVALID_ASSOCIATION_CONFIG."""
    RETRIEVE_WARNING = 68
    """Not all that was to be retrieved was; movescu's EXITCODE_CMOVE_WARNING."""
    RETRIEVE_FAILED = 69
    """The peer answered a retrieval with a failure status; movescu's EXITCODE_CMOVE_ERROR."""
    ABORTED = 70
    """The association was aborted, lost, or timed out."""
    TLS = 71
    """TLS cannot be set up, or there was no agreement on it; DCMTK's EXITCODE_CANNOT_CREATE_TRANSPORT_LAYER."""
    INTERRUPTED = 130
    """Ended by Ctrl-C or SIGTERM; the shell's code for it."""
    INTERNAL = 99
    """An error of asyncdicom itself; not a code of DCMTK's."""


class ToolError(Exception):
    """Ends the tool: with this exit code, this message, and a hint at what to try."""

    def __init__(self, code: ExitCode, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class Failure(NamedTuple):
    """An error in the words of the command line."""

    code: ExitCode
    message: str
    hint: str = ""


_PLAIN: Final[tuple[tuple[type[BaseException], ExitCode, str], ...]] = (
    (TLSConfigurationError, ExitCode.TLS, ""),
    (AccessPolicyError, ExitCode.CONFIGURATION, ""),
    (IdentityConfigurationError, ExitCode.CONFIGURATION, ""),
    (AssociationRejected, ExitCode.NEGOTIATION, ""),
    (AssociationAborted, ExitCode.ABORTED, "the peer's log may say why; -d shows what was said until then"),
    (AssociationTimeout, ExitCode.ABORTED, "-ta and -td set how long to wait"),
    (AssociationError, ExitCode.ABORTED, "-d shows what was said until then"),
    (NoAcceptedContext, ExitCode.NO_CONTEXT, "-v +v shows what the peer accepted"),
    (LocalProtocolError, ExitCode.NEGOTIATION, ""),
    (FileFormatError, ExitCode.INVALID_INPUT, ""),
    (OSError, ExitCode.CANNOT_READ, ""),
)
"""The first that fits counts."""


def explain(error: BaseException) -> Failure:
    """What an error means for the tool; of several at once the first counts."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ToolError):
        return Failure(error.code, str(error), error.hint)
    for kind, code, hint in _PLAIN:
        if isinstance(error, kind):
            return Failure(code, str(error), hint)
    return Failure(ExitCode.INTERNAL, f"unexpected {type(error).__name__}: {error}", "-d shows where it comes from")


def explain_connecting(error: BaseException, *, over_tls: bool = False) -> Failure:
    """What an error of ``connect()`` means: there the same exceptions tell of the connection and of the negotiation."""
    if isinstance(error, TLSFailed):
        return Failure(ExitCode.TLS, str(error))  # what to try is there
    if isinstance(error, NoConnection):
        return Failure(ExitCode.NETWORK, str(error), _connection_hint(error.__cause__))
    if isinstance(error, AssociationTimeout):
        return Failure(ExitCode.NEGOTIATION, str(error), "is it a DICOM port? -ta sets how long to wait")
    if isinstance(error, AssociationRejected) and (error.result, error.reason) == (1, 1):
        return Failure(ExitCode.NEGOTIATION, str(error), _NO_REASON)
    if not over_tls and isinstance(error, (AssociationAborted, AssociationLost)):
        return Failure(ExitCode.ABORTED, str(error), "does its port want TLS (+tls)? the peer's log may say why")
    return explain(error)


_NO_REASON: Final = "its log may say why: a user or password, a certificate, an address or a title that it refuses"
_CONNECTION_HINTS: Final = {
    errno.ECONNREFUSED: "is the peer running, and is this its port?",
    errno.ECONNRESET: "is this a DICOM port without TLS, and may this host connect?",
    errno.ENETUNREACH: "check the network and the host's address",
    errno.EHOSTUNREACH: "check the network and the host's address",
    errno.EADDRNOTAVAIL: "the address to connect from (-ba) is none of this host",
}


def _connection_hint(cause: BaseException | None) -> str:
    if isinstance(cause, socket.gaierror):
        return "check the host name"
    number = cause.errno if isinstance(cause, OSError) else None
    if isinstance(cause, TimeoutError) and number is None:
        return "check host, port and firewall; -to sets how long to wait"
    return _CONNECTION_HINTS.get(number or 0, "check host and port")
