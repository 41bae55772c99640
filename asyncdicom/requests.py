"""What a handler is given, the request of a peer (PS3.7 9.1, 10.1), and which handler is given it."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from .command import MESSAGES, Command, CommandField, Priority, Status
from .data_set import IncomingDataSet
from .part10 import FileMeta

if TYPE_CHECKING:
    import asyncio
    import os
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

    from pydicom import Dataset

    from .association import Association
    from .instances import Instance
    from .presentation import Context, PresentationContext
    from .tls import PeerCertificate

__all__ = [
    "NO_HANDLERS",
    "REQUESTS",
    "CFindRequest",
    "CGetRequest",
    "CMoveRequest",
    "CStoreHandler",
    "CStoreRequest",
    "Handler",
    "Handlers",
    "NActionRequest",
    "NCreateRequest",
    "NDeleteRequest",
    "NEventReportRequest",
    "NGetRequest",
    "NSetRequest",
    "Request",
    "Service",
    "WholeRequest",
]

CStoreHandler: TypeAlias = "Callable[[CStoreRequest], Awaitable[Status | int]]"
"""What a user registers for C-STORE; it starts when the command is here, before the data set is.

The requests of one association are handled in tasks that go on to the next request: context variables that a handler
sets are still set for it.
"""

Answer: TypeAlias = "Status | int | tuple[Status | int, Dataset | bytes | None] | Dataset"
Match: TypeAlias = "Dataset | bytes | Status | tuple[Status | int, Dataset | bytes]"
Sendable: TypeAlias = "str | os.PathLike[str] | Instance | Dataset"
Handler: TypeAlias = "Callable[[Any], Awaitable[Any] | AsyncIterator[Any]]"


class Request:
    """What the peer asks for."""

    __slots__ = ("association", "command", "context", "incoming")

    def __init__(self, association: Association, context: PresentationContext, command: Command) -> None:
        self.association = association
        self.context = context
        """The presentation context on which it came."""
        self.command = command
        self.incoming: IncomingDataSet | None = None
        """The data set as it comes, for whoever performs the request."""
        if command.has_data_set:
            calling = association.calling_ae_title
            meta = FileMeta(
                command.affected_sop_class_uid or "",
                command.affected_sop_instance_uid or "",
                context.transfer_syntax,
                source_ae_title=calling,
                sending_ae_title=calling,
                receiving_ae_title=association.called_ae_title,
            )
            performer = association._performer
            self.incoming = IncomingDataSet(meta, association._pool, performer.held_changed, association._loop)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.message_id} of {self.association!r}>"

    @property
    def sop_class_uid(self) -> str:
        """Affected or Requested SOP Class UID: text from the peer."""
        return self.command.affected_sop_class_uid or self.command.requested_sop_class_uid or ""

    @property
    def sop_instance_uid(self) -> str:
        """Affected or Requested SOP Instance UID: text from the peer, not checked; never make a path of it as it is."""
        return self.command.affected_sop_instance_uid or self.command.requested_sop_instance_uid or ""

    @property
    def transfer_syntax_uid(self) -> str:
        """In which the data set is encoded."""
        return self.context.transfer_syntax

    @property
    def message_id(self) -> int:
        """Message ID of the request."""
        return self.command.message_id or 0

    @property
    def priority(self) -> int:
        """A :class:`~asyncdicom.command.Priority`."""
        return self.command.priority or Priority.MEDIUM

    @property
    def calling_ae_title(self) -> str:
        """Of the association's requestor."""
        return self.association.calling_ae_title

    @property
    def called_ae_title(self) -> str:
        """By which the requestor called the acceptor."""
        return self.association.called_ae_title

    @property
    def peer_address(self) -> str:
        """IP address of the peer."""
        return self.association.peer_address

    @property
    def peer_certificate(self) -> PeerCertificate | None:
        """The peer's certificate, when the TLS context demanded and verified one."""
        return self.association.peer_certificate

    @property
    def user(self) -> str:
        """Name of the peer's user, verified; empty if there is none."""
        return self.association.user


class CStoreRequest(Request):
    """A C-STORE (PS3.7 9.1.1). The data set may still be coming: :attr:`data_set` streams it, once."""

    __slots__ = ()

    @property
    def data_set(self) -> IncomingDataSet:
        """The data set, to be consumed once."""
        return self.incoming  # type: ignore[return-value]  # a C-STORE without one has no handler

    @property
    def move_originator_ae_title(self) -> str | None:
        """The C-MOVE requestor, when this is a sub-operation of a C-MOVE."""
        return self.command.move_originator_application_entity_title

    @property
    def move_originator_message_id(self) -> int | None:
        """Message ID of that C-MOVE."""
        return self.command.move_originator_message_id


class WholeRequest(Request):
    """A request whose handler begins when all of it is here: of all services but C-STORE."""

    __slots__ = ("_data_set", "data", "gathered", "is_cancelled", "stop", "task")

    def __init__(self, association: Association, context: PresentationContext, command: Command) -> None:
        super().__init__(association, context, command)
        self.data = b""
        """Its data set, encoded in the context's transfer syntax; empty if there is none."""
        self.gathered = 0
        """Bytes of it that count for what all may gather together."""
        self._data_set: Dataset | None = None
        self.is_cancelled = False
        """Whether the peer wants no more of it (C-CANCEL)."""
        self.stop: Callable[[], object] | None = None
        """What a C-CANCEL calls; None if there is nothing to cancel."""
        self.task: asyncio.Task[None] | None = None
        """In which the handler runs."""

    @property
    def data_set(self) -> Any:
        """Its data set, decoded when it is asked for first; None if there is none.

        Raises DataSetError if it cannot be decoded, which answers the request with a failure unless it is caught.
        """
        if self._data_set is None and self.data:
            self._data_set = self._decoded()
        return self._data_set

    def _decoded(self, *, in_thread: bool = False) -> Dataset:
        from .instances import decode_data_set  # noqa: PLC0415 - brings pydicom

        return decode_data_set(self.data, self.context.transfer_syntax, validate=in_thread)


class _QueryRequest(WholeRequest):
    """What C-FIND, C-GET and C-MOVE have in common."""

    __slots__ = ()

    @property
    def identifier(self) -> Dataset:
        """What is asked for: keys and their values, perhaps none. Raises DataSetError if it cannot be decoded."""
        if not self.data:
            from pydicom import Dataset  # noqa: PLC0415

            return Dataset()
        return self.data_set  # type: ignore[no-any-return]


class CFindRequest(_QueryRequest):
    """A C-FIND (PS3.7 9.1.2); its SOP class is the information model."""

    __slots__ = ()


class CGetRequest(_QueryRequest):
    """A C-GET (PS3.7 9.1.3)."""

    __slots__ = ("decompress", "total")

    def __init__(self, association: Association, context: PresentationContext, command: Command) -> None:
        super().__init__(association, context, command)
        self.total: int | None = None
        """How many instances there will be; to be set before the first one, if that is known.

        Otherwise the responses give as remaining what the handler has yielded and is not sent yet.
        """
        self.decompress = False
        """Whether an instance may be decompressed for a receiver that does not accept its transfer syntax."""


class CMoveRequest(CGetRequest):
    """A C-MOVE (PS3.7 9.1.4)."""

    __slots__ = ()

    @property
    def destination(self) -> str:
        """AE title of the receiver: text from the peer."""
        return self.command.move_destination or ""


class NEventReportRequest(WholeRequest):
    """An N-EVENT-REPORT (PS3.7 10.1.1): a notification of the SCP to the SCU."""

    __slots__ = ()

    @property
    def event_type_id(self) -> int:
        """What has happened, as the SOP class defines it."""
        return self.command.event_type_id or 0


class NGetRequest(WholeRequest):
    """An N-GET (PS3.7 10.1.2)."""

    __slots__ = ()

    @property
    def attributes(self) -> tuple[int, ...]:
        """Tags of the attributes that are asked for; none means all."""
        return self.command.attribute_identifier_list or ()


class NSetRequest(WholeRequest):
    """An N-SET (PS3.7 10.1.3); the data set has the attributes to change."""

    __slots__ = ()


class NActionRequest(WholeRequest):
    """An N-ACTION (PS3.7 10.1.4)."""

    __slots__ = ()

    @property
    def action_type_id(self) -> int:
        """What is to be done, as the SOP class defines it."""
        return self.command.action_type_id or 0


class NCreateRequest(WholeRequest):
    """An N-CREATE (PS3.7 10.1.5)."""

    __slots__ = ("_made_uid",)

    def __init__(self, association: Association, context: PresentationContext, command: Command) -> None:
        super().__init__(association, context, command)
        self._made_uid = ""

    @property
    def sop_instance_uid(self) -> str:
        """Of the instance to make; if the requestor leaves it to the performer, a new one, which it is told."""
        if given := self.command.affected_sop_instance_uid:
            return given
        if not self._made_uid:
            from .instances import new_uid  # noqa: PLC0415 - few need it

            self._made_uid = new_uid()
        return self._made_uid


class NDeleteRequest(WholeRequest):
    """An N-DELETE (PS3.7 10.1.6)."""

    __slots__ = ()


REQUESTS: dict[int, type[Request]] = {
    CommandField.C_STORE_RQ: CStoreRequest,
    CommandField.C_FIND_RQ: CFindRequest,
    CommandField.C_GET_RQ: CGetRequest,
    CommandField.C_MOVE_RQ: CMoveRequest,
    CommandField.N_EVENT_REPORT_RQ: NEventReportRequest,
    CommandField.N_GET_RQ: NGetRequest,
    CommandField.N_SET_RQ: NSetRequest,
    CommandField.N_ACTION_RQ: NActionRequest,
    CommandField.N_CREATE_RQ: NCreateRequest,
    CommandField.N_DELETE_RQ: NDeleteRequest,
}
"""What a handler is given for a request, by command field."""


class Service(Protocol):
    """Handlers that belong together, with the presentation contexts on which they serve."""

    @property
    def contexts(self) -> Sequence[Context | str]:
        """What is accepted for them."""
        ...

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the DIMSE service: ``c_find``, ``n_create``, ..."""
        ...


_NO_HANDLERS: Mapping[int, Handler] = MappingProxyType({})
_FIELDS = {MESSAGES[field].name[:-3].replace("-", "_").lower(): field for field in REQUESTS}


class Handlers(NamedTuple):
    """Who performs what."""

    default: Mapping[int, Handler] = _NO_HANDLERS
    """By command field."""
    of_services: Mapping[str, Mapping[int, Handler]] = MappingProxyType({})
    """By abstract syntax; for the contexts that belong to a service, and what it leaves to the others."""

    @classmethod
    def of(
        cls,
        handlers: Mapping[str, Handler | None],
        services: Iterable[tuple[Sequence[Context], Mapping[str, Handler]]] = (),
    ) -> Handlers:
        """From handlers by name, None for none, and those of services, which may share contexts.

        Raises TypeError for an unknown name, ValueError for two that would handle the same.
        """
        default = _by_field(handlers)
        of_services: dict[str, dict[int, Handler]] = {}
        for contexts, its in services:
            by_field = _by_field(its)
            for uid in {context.abstract_syntax for context in contexts}:
                known = of_services.setdefault(uid, {})
                if both := known.keys() & by_field.keys():
                    names = ", ".join(MESSAGES[field].name[:-3] for field in sorted(both))
                    raise ValueError(f"two services handle {names} on the context {uid}")
                known |= by_field
        return cls(default, {uid: default | its for uid, its in of_services.items()})


NO_HANDLERS = Handlers()
"""Nothing but C-ECHO is performed."""


def _by_field(handlers: Mapping[str, Handler | None]) -> dict[int, Handler]:
    if unknown := handlers.keys() - _FIELDS.keys():
        raise TypeError(f"no DIMSE service is called {', '.join(sorted(unknown))}; there are {', '.join(_FIELDS)}")
    return {_FIELDS[name]: handler for name, handler in handlers.items() if handler is not None}
