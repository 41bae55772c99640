"""Presentation contexts, roles, and their negotiation as pure functions (PS3.8 7.1.1.13, PS3.7 D.3).

Knows nothing of bytes: :mod:`asyncdicom.pdu` puts these values on the wire.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from .errors import LocalProtocolError
from .uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    SOP_CLASSES,
    STORAGE_SOP_CLASSES,
    TRANSFER_SYNTAXES,
    UNCOMPRESSED,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "DEFAULT_TRANSFER_SYNTAXES",
    "MAX_CONTEXTS",
    "STORAGE_TRANSFER_SYNTAXES",
    "AcceptancePolicy",
    "Context",
    "ContextResult",
    "Negotiated",
    "PresentationContext",
    "ProposedContext",
    "Result",
    "RoleSelection",
    "accept_contexts",
    "as_contexts",
    "established_contexts",
    "propose_contexts",
    "proposed_roles",
]

MAX_CONTEXTS = 128
"""Context IDs are the odd integers from 1 to 255 (PS3.8 9.3.2.2)."""

DEFAULT_TRANSFER_SYNTAXES = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)

STORAGE_TRANSFER_SYNTAXES = (
    *UNCOMPRESSED,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    *(uid for uid, syntax in TRANSFER_SYNTAXES.items() if syntax.encapsulated),
)
"""Every syntax whose data sets are whole by themselves, so that keeping the bytes keeps the instance."""


class Result(enum.IntEnum):
    """The answer to a proposed presentation context (PS3.8 Table 9-18)."""

    ACCEPTANCE = 0
    USER_REJECTION = 1
    NO_REASON = 2
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


class Context(NamedTuple):
    """What one side offers for an abstract syntax: the requestor proposes it, the acceptor supports it."""

    abstract_syntax: str
    """SOP class or meta SOP class UID."""
    transfer_syntaxes: tuple[str, ...] = DEFAULT_TRANSFER_SYNTAXES
    """UIDs, the preferred one first."""
    scu: bool | None = None
    """Whether this side may be the SCU; None for the default, in which the requestor is (PS3.7 D.3.3.4)."""
    scp: bool | None = None
    """Whether this side may be the SCP; None for the default, in which the acceptor is."""


class ProposedContext(NamedTuple):
    """One presentation context of an A-ASSOCIATE-RQ (PS3.8 9.3.2.2)."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


class ContextResult(NamedTuple):
    """One presentation context of an A-ASSOCIATE-AC (PS3.8 9.3.3.2)."""

    id: int
    result: int
    """A :class:`Result`, or what else the peer sent: anything but 0 is a refusal."""
    transfer_syntax: str
    """Of meaning only when the result is acceptance."""


class RoleSelection(NamedTuple):
    """SCP/SCU role selection (PS3.7 D.3.3.4): the roles of the association requestor."""

    sop_class_uid: str
    scu: bool
    scp: bool


class PresentationContext(NamedTuple):
    """An accepted presentation context, seen from this side."""

    id: int
    abstract_syntax: str
    transfer_syntax: str
    scu: bool
    """Whether this side may invoke operations."""
    scp: bool
    """Whether this side may perform operations."""


class AcceptancePolicy(NamedTuple):
    """What an acceptor says yes to."""

    contexts: Mapping[str, Context]
    """Keyed by abstract syntax."""
    any_storage: tuple[str, ...] = ()
    """Transfer syntaxes with which to accept every other storage SOP class too, and every UID that is in no registry:
    private ones, and those of editions to come. A registered class of another service stays refused."""
    prefer_own_syntax: bool = False
    """Choose by the acceptor's order of transfer syntaxes; otherwise by the requestor's."""

    def supported(self, abstract_syntax: str) -> Context | None:
        """The context that answers a proposed abstract syntax, None to refuse it."""
        found = self.contexts.get(abstract_syntax)
        if (
            found is None
            and self.any_storage
            and (abstract_syntax in STORAGE_SOP_CLASSES or abstract_syntax not in SOP_CLASSES)
        ):
            return Context(abstract_syntax, self.any_storage)
        return found


class Negotiated(NamedTuple):
    """The outcome at the acceptor: what the A-ASSOCIATE-AC says, and what it means here."""

    results: tuple[ContextResult, ...]
    roles: tuple[RoleSelection, ...]
    contexts: dict[int, PresentationContext]


def accept_contexts(
    proposed: Iterable[ProposedContext], roles: Iterable[RoleSelection], policy: AcceptancePolicy
) -> Negotiated:
    """Answer every proposed context exactly once, and every role selection that concerns an accepted one."""
    asked = {role.sop_class_uid: role for role in roles}
    results: list[ContextResult] = []
    contexts: dict[int, PresentationContext] = {}
    answered: dict[str, RoleSelection] = {}
    for context in proposed:
        own = policy.supported(context.abstract_syntax)
        syntax = own and _choose(context.transfer_syntaxes, own.transfer_syntaxes, own_first=policy.prefer_own_syntax)
        if own is None or not syntax:
            refusal = Result.TRANSFER_SYNTAXES_NOT_SUPPORTED if own else Result.ABSTRACT_SYNTAX_NOT_SUPPORTED
            # The transfer syntax of a refusal means nothing, but old requestors read it: send one that was proposed.
            named = context.transfer_syntaxes[0] if context.transfer_syntaxes else IMPLICIT_VR_LITTLE_ENDIAN
            results.append(ContextResult(context.id, refusal, named))
            continue
        # PS3.7 D.3.3.4.2: a role is granted only when it was proposed; without a proposal the requestor is SCU.
        own_scu, own_scp = bool(own.scu), own.scp is not False
        role = asked.get(context.abstract_syntax)
        if role is not None:
            role = RoleSelection(role.sop_class_uid, scu=role.scu and own_scp, scp=role.scp and own_scu)
            answered[role.sop_class_uid] = role
            own_scu, own_scp = role.scp, role.scu
        else:
            own_scu = False
        results.append(ContextResult(context.id, Result.ACCEPTANCE, syntax))
        contexts[context.id] = PresentationContext(context.id, context.abstract_syntax, syntax, own_scu, own_scp)
    return Negotiated(tuple(results), tuple(answered.values()), contexts)


def _choose(proposed: Sequence[str], supported: Sequence[str], *, own_first: bool) -> str | None:
    first, second = (supported, proposed) if own_first else (proposed, supported)
    return next((uid for uid in first if uid in second), None)


def as_contexts(contexts: str | Context | Iterable[Context | str]) -> list[Context]:
    """Contexts as users write them: a UID stands for itself with the default syntaxes, one thing for a list of it."""
    several = [contexts] if isinstance(contexts, (str, Context)) else contexts
    made = [Context(each) if isinstance(each, str) else each for each in several]
    return [each._replace(transfer_syntaxes=_as_tuple(each.transfer_syntaxes)) for each in made]


def _as_tuple(syntaxes: str | Iterable[str]) -> tuple[str, ...]:
    return (syntaxes,) if isinstance(syntaxes, str) else tuple(syntaxes)


def propose_contexts(contexts: Sequence[Context]) -> tuple[ProposedContext, ...]:
    """Number the contexts of a request 1, 3, 5, ... (PS3.8 9.3.2.2).

    Raises LocalProtocolError for none, for more than 128, or for one without a transfer syntax.
    """
    if not 0 < len(contexts) <= MAX_CONTEXTS:
        message = f"an association needs 1 to {MAX_CONTEXTS} presentation contexts, got {len(contexts)}"
        raise LocalProtocolError(message)
    for context in contexts:
        if not context.transfer_syntaxes:
            message = f"the context for {context.abstract_syntax} names no transfer syntax"
            raise LocalProtocolError(message)
    return tuple(
        ProposedContext(2 * index + 1, context.abstract_syntax, tuple(context.transfer_syntaxes))
        for index, context in enumerate(contexts)
    )


def proposed_roles(contexts: Iterable[Context]) -> tuple[RoleSelection, ...]:
    """The role selections that a request needs: none for a SOP class that keeps the default roles."""
    return tuple(
        {
            context.abstract_syntax: RoleSelection(
                context.abstract_syntax, scu=context.scu is not False, scp=bool(context.scp)
            )
            for context in contexts
            if context.scp or context.scu is False
        }.values()
    )


def established_contexts(
    proposed: Iterable[ProposedContext],
    roles: Iterable[RoleSelection],
    results: Iterable[ContextResult],
    granted: Iterable[RoleSelection],
) -> dict[int, PresentationContext]:
    """What the requestor may use after an A-ASSOCIATE-AC.

    Results for contexts that were not proposed are ignored, and so is an acceptance with a transfer syntax that was
    not; a role that was not proposed is not granted (PS3.7 D.3.3.4).
    """
    asked = {context.id: context for context in proposed}
    wanted = {role.sop_class_uid: role for role in roles}
    given = {role.sop_class_uid: role for role in granted}
    contexts: dict[int, PresentationContext] = {}
    for result in results:
        context = asked.get(result.id)
        if context is None or result.result != Result.ACCEPTANCE:
            continue
        if result.transfer_syntax not in context.transfer_syntaxes:
            continue
        uid = context.abstract_syntax
        scu, scp = True, False
        if uid in wanted and uid in given:
            scu, scp = wanted[uid].scu and given[uid].scu, wanted[uid].scp and given[uid].scp
        contexts[result.id] = PresentationContext(result.id, uid, result.transfer_syntax, scu, scp)
    return contexts
