"""Every exception of asyncdicom, and the codes that PS3.8 gives refusals and aborts.

A :class:`ProtocolError` carries the A-ABORT that it becomes on the wire (PS3.8 9.3.8). Nothing here does I/O.
"""

from __future__ import annotations

import enum
import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "AbortReason",
    "AbortSource",
    "AccessPolicyError",
    "AssociationAborted",
    "AssociationError",
    "AssociationLost",
    "AssociationRejected",
    "AssociationReleased",
    "AssociationTimeout",
    "DataSetError",
    "DicomError",
    "FileFormatError",
    "IdentityConfigurationError",
    "IdentityRefused",
    "LocalProtocolError",
    "NoAcceptedContext",
    "NoConnection",
    "NotDicom",
    "PoolTimeout",
    "ProtocolError",
    "StatusError",
    "TLSConfigurationError",
    "TLSFailed",
    "describe_abort",
    "describe_rejection",
]


class AbortSource(enum.IntEnum):
    """Who aborts (PS3.8 Table 9-26)."""

    SERVICE_USER = 0
    SERVICE_PROVIDER = 2


class AbortReason(enum.IntEnum):
    """Why the service provider aborts (PS3.8 Table 9-26); meaningful with source 2 only."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PDU_PARAMETER = 4
    UNEXPECTED_PDU_PARAMETER = 5
    INVALID_PDU_PARAMETER_VALUE = 6


_ABORT_SOURCES = {0: "service user", 2: "service provider"}
_ABORT_REASONS = {
    0: "reason not specified",
    1: "unrecognized PDU",
    2: "unexpected PDU",
    4: "unrecognized PDU parameter",
    5: "unexpected PDU parameter",
    6: "invalid PDU parameter value",
}
_REJECT_RESULTS = {1: "permanent", 2: "transient"}
_REJECT_SOURCES = {1: "service user", 2: "service provider, ACSE", 3: "service provider, presentation"}
_REJECT_REASONS = {
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    (1, 3): "calling AE title not recognized",
    (1, 7): "called AE title not recognized",
    (2, 1): "no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}


def describe_abort(source: int, reason: int) -> str:
    """The words of PS3.8 Table 9-26 for an A-ABORT; numbers that it does not define are named as they are."""
    who = _ABORT_SOURCES.get(source, f"undefined source {source}")
    if source == AbortSource.SERVICE_USER:
        return who  # the reason is not significant then
    return f"{who}: {_ABORT_REASONS.get(reason, f'undefined reason {reason}')}"


def describe_rejection(result: int, source: int, reason: int) -> str:
    """The words of PS3.8 Table 9-21 for an A-ASSOCIATE-RJ; undefined numbers are named as they are."""
    return ", ".join(
        (
            _REJECT_RESULTS.get(result, f"undefined result {result}"),
            _REJECT_SOURCES.get(source, f"undefined source {source}"),
            _REJECT_REASONS.get((source, reason), f"undefined reason {reason}"),
        )
    )


class DicomError(Exception):
    """The base of every error that asyncdicom raises on its own account."""


class LocalProtocolError(DicomError):
    """The local user asked for something that the association's state or the standard does not allow.

    Nothing was sent, nothing has changed.
    """


class ProtocolError(DicomError):
    """The peer broke the protocol; the association ends with the A-ABORT that this error carries."""

    def __init__(self, message: str, reason: AbortReason = AbortReason.INVALID_PDU_PARAMETER_VALUE) -> None:
        super().__init__(message)
        self.reason = reason
        """The reason of the A-ABORT that answers it; its source is the service provider."""


class NotDicom(ProtocolError):
    """The peer speaks something else; there is no point in waiting until it has read the A-ABORT."""


class AssociationError(DicomError):
    """The association could not be made, or is over; the requests that were in flight have failed."""


class AssociationRejected(AssociationError):
    """The peer refused the association (A-ASSOCIATE-RJ, PS3.8 9.3.4). The numbers are the peer's, unchecked."""

    def __init__(self, result: int, source: int, reason: int) -> None:
        hint = _REJECT_HINTS.get((source, reason), "")
        super().__init__(f"association rejected ({describe_rejection(result, source, reason)}){hint}")
        self.result = result
        self.source = source
        self.reason = reason

    def __reduce__(self) -> tuple[type[AssociationRejected], tuple[int, int, int]]:
        return type(self), (self.result, self.source, self.reason)

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed later (result 2)."""
        return self.result == 2


_REJECT_HINTS = {
    (1, 3): "; the peer must know this calling AE title",
    (1, 7): "; check the called AE title, most peers compare it case-sensitively",
    (3, 1): "; try again later",
    (3, 2): "; try again later, or with fewer associations at once",
}


class AssociationAborted(AssociationError):
    """The association was aborted, by the peer or by this side (A-ABORT, PS3.8 9.3.8)."""

    def __init__(self, source: int, reason: int, *, by_peer: bool = True, detail: str = "") -> None:
        who = "the peer" if by_peer else "this side"
        super().__init__(
            f"association aborted by {who} ({describe_abort(source, reason)})" + (detail and f": {detail}")
        )
        self.source = source
        self.reason = reason
        self.by_peer = by_peer
        """False when this side sent the A-ABORT."""
        self.detail = detail
        """What was wrong, when this side knows more than the numbers say."""

    def __reduce__(self) -> tuple[Callable[..., AssociationAborted], tuple[int, int]]:
        again = functools.partial(type(self), by_peer=self.by_peer, detail=self.detail)
        return again, (self.source, self.reason)


class AssociationLost(AssociationError):
    """The transport connection ended without release or abort."""


class NoConnection(AssociationLost):
    """There is no transport connection: nobody listens, the name is not known, TLS failed, or it took too long."""


class TLSFailed(NoConnection):
    """Somebody listens, but TLS with it has failed; the text says why, and what to try. The cause is Python's error."""


class AssociationReleased(AssociationError):
    """The association was released in the ordinary way while something still wanted to use it."""


class AssociationTimeout(AssociationError, TimeoutError):
    """The peer did not do in time what the protocol makes it do; the association is aborted (PS3.8 9.1.4)."""


class PoolTimeout(AssociationError, TimeoutError):
    """No association of a pool could be had in time. Nothing was sent."""


class NoAcceptedContext(DicomError):
    """No accepted presentation context can carry this SOP class, or this transfer syntax. Nothing was sent."""


class FileFormatError(DicomError):
    """A file is not what PS3.10 chapter 7 says, or lacks what is needed to send it."""


class DataSetError(DicomError):
    """A data set could not be read: too long for the limit given, ended early, or not decodable."""


class TLSConfigurationError(DicomError, ValueError):
    """TLS cannot be set up as asked: a file, a certificate, or what Python's ``ssl`` cannot do. Nothing has changed."""


class StatusError(DicomError):
    """Raised by a handler to answer the request with a status, and with a data set where the response may have one."""

    def __init__(self, status: int, data_set: object = None) -> None:
        super().__init__(str(status))
        self.status = status
        self.data_set = data_set


class AccessPolicyError(DicomError, ValueError):
    """An access policy has no meaning: names the file, the rule and the key."""


class IdentityConfigurationError(DicomError, ValueError):
    """What user identities are to be verified with cannot be used: a password file, or a key."""


class IdentityRefused(DicomError):
    """Raised by a check of user identities: the user is not who it says, or says nothing.

    The text says why, for the log and the audit trail of this side; it never holds what the user sent. It is
    ``transient`` where it says nothing of the user: the same request may succeed later.
    """

    def __init__(self, why: str = "", *, transient: bool = False) -> None:
        super().__init__(why)
        self.is_transient = transient
