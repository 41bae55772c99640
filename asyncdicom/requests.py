"""What a handler is given: the request of a peer, with its data set (PS3.7 9.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from .command import Command, Priority, Status
from .data_set import IncomingDataSet
from .part10 import FileMeta

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .association import Association
    from .presentation import PresentationContext

__all__ = ["CStoreHandler", "CStoreRequest"]

CStoreHandler: TypeAlias = "Callable[[CStoreRequest], Awaitable[Status | int]]"
"""What a user registers for C-STORE; it starts when the command is here, before the data set is.

The requests of one association are handled in one task, one after the other: context variables that a handler sets are
still set for the next one.
"""


class CStoreRequest:
    """A C-STORE that the peer asks for (PS3.7 9.1.1). The data set may still be coming: :attr:`data_set` streams it."""

    __slots__ = ("association", "command", "context", "data_set")

    def __init__(self, association: Association, context: PresentationContext, command: Command) -> None:
        self.association = association
        self.context = context
        """The presentation context on which it came."""
        self.command = command
        calling = association.calling_ae_title
        self.data_set = IncomingDataSet(
            FileMeta(
                command.affected_sop_class_uid or "",
                command.affected_sop_instance_uid or "",
                context.transfer_syntax,
                source_ae_title=calling,
                sending_ae_title=calling,
                receiving_ae_title=association.called_ae_title,
            ),
            association._pool,
            association._held_changed,
        )
        """The data set, to be consumed once."""

    @property
    def sop_class_uid(self) -> str:
        """Affected SOP Class UID; it is the context's abstract syntax."""
        return self.command.affected_sop_class_uid or ""

    @property
    def sop_instance_uid(self) -> str:
        """Affected SOP Instance UID: text from the peer, not checked; never make a path of it as it is."""
        return self.command.affected_sop_instance_uid or ""

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
    def move_originator_ae_title(self) -> str | None:
        """The C-MOVE requestor, when this is a sub-operation of a C-MOVE."""
        return self.command.move_originator_application_entity_title

    @property
    def move_originator_message_id(self) -> int | None:
        """Message ID of that C-MOVE."""
        return self.command.move_originator_message_id

    @property
    def calling_ae_title(self) -> str:
        """Of the association's requestor."""
        return self.association.calling_ae_title

    @property
    def called_ae_title(self) -> str:
        """By which the requestor called this side."""
        return self.association.called_ae_title

    @property
    def peer_address(self) -> str:
        """Where the request comes from: an IP address."""
        return self.association.peer_address
