"""The DICOM network stack for asyncio: the names that are public, and nothing else."""

from typing import TYPE_CHECKING

from .association import Association, Timeouts
from .client import connect
from .command import Category, Command, Priority, Status
from .data_set import IncomingDataSet
from .errors import (
    AccessPolicyError,
    AssociationAborted,
    AssociationError,
    AssociationLost,
    AssociationRejected,
    AssociationReleased,
    AssociationTimeout,
    DataSetError,
    DicomError,
    FileFormatError,
    IdentityConfigurationError,
    IdentityRefused,
    LocalProtocolError,
    NoAcceptedContext,
    NoConnection,
    PoolTimeout,
    ProtocolError,
    StatusError,
    TLSConfigurationError,
    TLSFailed,
)
from .instances import Instance, contexts_for, new_uid, read_instance, split_by_contexts
from .operations import Response, Responses
from .part10 import FileMeta
from .pdu import UserIdentity
from .presentation import AsyncOperationsWindow, Context, PresentationContext
from .quirks import Quirks
from .requests import (
    CFindRequest,
    CGetRequest,
    CMoveRequest,
    CStoreHandler,
    CStoreRequest,
    NActionRequest,
    NCreateRequest,
    NDeleteRequest,
    NEventReportRequest,
    NGetRequest,
    NSetRequest,
    Request,
    Service,
)
from .transport import TLSInfo
from .uids import uid_of

if TYPE_CHECKING:
    from .access import AccessPolicy, Rule
    from .identity import JWTVerifier, PasswordFile, User
    from .pool import AssociationPool, Backoff, ConnectOptions, send_instances
    from .retrieve import Destination
    from .sending import SendResult
    from .server import Server, Statistics, serve, storage_contexts

__all__ = [
    "AccessPolicy",
    "AccessPolicyError",
    "Association",
    "AssociationAborted",
    "AssociationError",
    "AssociationLost",
    "AssociationPool",
    "AssociationRejected",
    "AssociationReleased",
    "AssociationTimeout",
    "AsyncOperationsWindow",
    "Backoff",
    "CFindRequest",
    "CGetRequest",
    "CMoveRequest",
    "CStoreHandler",
    "CStoreRequest",
    "Category",
    "Command",
    "ConnectOptions",
    "Context",
    "DataSetError",
    "Destination",
    "DicomError",
    "FileFormatError",
    "FileMeta",
    "IdentityConfigurationError",
    "IdentityRefused",
    "IncomingDataSet",
    "Instance",
    "JWTVerifier",
    "LocalProtocolError",
    "NActionRequest",
    "NCreateRequest",
    "NDeleteRequest",
    "NEventReportRequest",
    "NGetRequest",
    "NSetRequest",
    "NoAcceptedContext",
    "NoConnection",
    "PasswordFile",
    "PoolTimeout",
    "PresentationContext",
    "Priority",
    "ProtocolError",
    "Quirks",
    "Request",
    "Response",
    "Responses",
    "Rule",
    "SendResult",
    "Server",
    "Service",
    "Statistics",
    "Status",
    "StatusError",
    "TLSConfigurationError",
    "TLSFailed",
    "TLSInfo",
    "Timeouts",
    "User",
    "UserIdentity",
    "__version__",
    "connect",
    "contexts_for",
    "new_uid",
    "read_instance",
    "send_instances",
    "serve",
    "split_by_contexts",
    "storage_contexts",
    "uid_of",
]

__version__ = "0.1.0"

_LATER = {
    "AccessPolicy": "access",
    "AssociationPool": "pool",
    "Backoff": "pool",
    "ConnectOptions": "pool",
    "Destination": "retrieve",
    "JWTVerifier": "identity",
    "PasswordFile": "identity",
    "Rule": "access",
    "SendResult": "sending",
    "Server": "server",
    "Statistics": "server",
    "User": "identity",
    "send_instances": "pool",
    "serve": "server",
    "storage_contexts": "server",
}
"""Names that not every program needs, with their modules: who only asks a peer shall not wait for a server to load."""


def __getattr__(name: str) -> object:
    """One of those names, imported when it is asked for first (PEP 562)."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    found: object = getattr(import_module(f".{_LATER[name]}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
