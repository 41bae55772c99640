"""Presentation contexts, roles and extensions, and their negotiation as pure functions (PS3.8 7.1.1.13, PS3.7 D.3).

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
    uids_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = [
    "DEFAULT_TRANSFER_SYNTAXES",
    "MAX_CONTEXTS",
    "STORAGE_TRANSFER_SYNTAXES",
    "AcceptancePolicy",
    "AsyncOperationsWindow",
    "Context",
    "ContextResult",
    "ExtendedNegotiation",
    "Negotiated",
    "PresentationContext",
    "ProposedContext",
    "Result",
    "RoleSelection",
    "accept_contexts",
    "agreed_window",
    "as_contexts",
    "established_contexts",
    "propose_contexts",
    "proposed_extended",
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
    """SOP class or meta SOP class UID; :func:`as_contexts` takes names too."""
    transfer_syntaxes: tuple[str, ...] = DEFAULT_TRANSFER_SYNTAXES
    """UIDs, the preferred one first."""
    scu: bool | None = None
    """Whether this side may be the SCU; None for the default, in which the requestor is (PS3.7 D.3.3.4)."""
    scp: bool | None = None
    """Whether this side may be the SCP; None for the default, in which the acceptor is."""
    extended: bytes | Callable[[bytes], bytes] | None = None
    """SOP class extended negotiation (PS3.7 D.3.3.5), the application information of the SOP class: what to propose;
    at the acceptor what is supported, which is answered as far as it was asked, or the answer for what was asked."""


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


class ExtendedNegotiation(NamedTuple):
    """SOP class extended negotiation (PS3.7 D.3.3.5)."""

    sop_class_uid: str
    information: bytes
    """Service-class-application-information; each service class of PS3.4 says what the bytes mean."""


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
    sends_storage: bool = False
    """Whether this side may be the SCU of those other storage SOP classes (C-GET)."""

    def supported(self, abstract_syntax: str) -> Context | None:
        """The context that answers a proposed abstract syntax, None to refuse it."""
        found = self.contexts.get(abstract_syntax)
        if (
            found is None
            and self.any_storage
            and (abstract_syntax in STORAGE_SOP_CLASSES or abstract_syntax not in SOP_CLASSES)
        ):
            return Context(abstract_syntax, self.any_storage, scu=self.sends_storage)
        return found


class Negotiated(NamedTuple):
    """The outcome at the acceptor: what the A-ASSOCIATE-AC says, and what it means here."""

    results: tuple[ContextResult, ...]
    roles: tuple[RoleSelection, ...]
    contexts: dict[int, PresentationContext]
    extended: tuple[ExtendedNegotiation, ...] = ()

    def restricted(self, permits: Callable[[str], bool]) -> Negotiated:
        """With the user's rejection of what was accepted for abstract syntaxes that are not permitted."""
        refused = {each.id for each in self.contexts.values() if not permits(each.abstract_syntax)}
        if not refused:
            return self
        return Negotiated(
            tuple(each._replace(result=Result.USER_REJECTION) if each.id in refused else each for each in self.results),
            tuple(each for each in self.roles if permits(each.sop_class_uid)),
            {id_: context for id_, context in self.contexts.items() if id_ not in refused},
            tuple(each for each in self.extended if permits(each.sop_class_uid)),
        )


def accept_contexts(
    proposed: Iterable[ProposedContext],
    roles: Iterable[RoleSelection],
    policy: AcceptancePolicy,
    extended: Iterable[ExtendedNegotiation] = (),
) -> Negotiated:
    """Answer every proposed context exactly once, and the roles and extensions that concern accepted ones."""
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
    accepted = {context.abstract_syntax for context in contexts.values()}
    extensions = _answer_extended([each for each in extended if each.sop_class_uid in accepted], policy)
    return Negotiated(tuple(results), tuple(answered.values()), contexts, extensions)


def _choose(proposed: Sequence[str], supported: Sequence[str], *, own_first: bool) -> str | None:
    first, second = (supported, proposed) if own_first else (proposed, supported)
    return next((uid for uid in first if uid in second), None)


def _answer_extended(asked: Iterable[ExtendedNegotiation], policy: AcceptancePolicy) -> tuple[ExtendedNegotiation, ...]:
    """One answer for each SOP class that was asked about and has one: never more than was asked (PS3.7 D.3.3.5)."""
    answers = {}
    for uid, information in asked:
        own = policy.supported(uid)
        supported = own.extended if own else None
        if isinstance(supported, bytes):
            answers[uid] = ExtendedNegotiation(uid, bytes(map(min, information, supported)))
        elif supported is not None:
            answers[uid] = ExtendedNegotiation(uid, supported(information))
    return tuple(answers.values())


def as_contexts(contexts: str | Context | Iterable[str | Context | Iterable[str | Context]]) -> list[Context]:
    """Contexts as users write them: one thing, or an iterable of these (of iterables, too).

    A name stands for contexts with the default transfer syntaxes: a UID, a keyword or a name of PS3.6, or the name of
    a service class (:data:`~asyncdicom.uids.SERVICE_CLASSES`), which is all its SOP classes. A :class:`Context` may
    have such a name as its abstract syntax. Raises LocalProtocolError for a name that is unknown.
    """
    if isinstance(contexts, str):
        contexts = Context(contexts)
    if isinstance(contexts, Context):
        made = contexts._replace(transfer_syntaxes=_as_tuple(contexts.transfer_syntaxes))
        return [made._replace(abstract_syntax=uid) for uid in uids_of(made.abstract_syntax)]
    return [context for each in contexts for context in as_contexts(each)]


def _as_tuple(syntaxes: str | Iterable[str]) -> tuple[str, ...]:
    return (syntaxes,) if isinstance(syntaxes, str) else tuple(syntaxes)


def propose_contexts(contexts: Sequence[Context]) -> tuple[ProposedContext, ...]:
    """Number the contexts of a request 1, 3, 5, ... (PS3.8 9.3.2.2).

    Raises LocalProtocolError for none, for more than 128, or for one without a transfer syntax.
    """
    if not 0 < len(contexts) <= MAX_CONTEXTS:
        message = f"an association needs 1 to {MAX_CONTEXTS} presentation contexts, got {len(contexts)}"
        message += "; contexts_for() makes those that instances need" if contexts else ""
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


def proposed_extended(contexts: Iterable[Context]) -> tuple[ExtendedNegotiation, ...]:
    """The SOP class extended negotiation of a request: one for each SOP class that has bytes to propose.

    A function, which only an acceptor can use, proposes nothing.
    """
    return tuple(
        {
            context.abstract_syntax: ExtendedNegotiation(context.abstract_syntax, context.extended)
            for context in contexts
            if isinstance(context.extended, bytes)
        }.values()
    )


def established_contexts(
    proposed: Iterable[ProposedContext],
    roles: Iterable[RoleSelection],
    results: Iterable[ContextResult],
    granted: Iterable[RoleSelection],
    *,
    assume_roles: bool = False,
) -> dict[int, PresentationContext]:
    """What the requestor may use after an A-ASSOCIATE-AC.

    Results for contexts that were not proposed are ignored, and so is an acceptance with a transfer syntax that was
    not; a role that was not proposed is not granted (PS3.7 D.3.3.4). ``assume_roles`` takes a proposal that has no
    answer for granted: against the standard, but some acceptors of C-GET mean it.
    """
    asked = {context.id: context for context in proposed}
    wanted = {role.sop_class_uid: role for role in roles}
    given = (wanted if assume_roles else {}) | {role.sop_class_uid: role for role in granted}
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


class AsyncOperationsWindow(NamedTuple):
    """How many operations may be in flight at once, seen from one side; 0 for any number (PS3.7 D.3.3.3).

    In PDUs that side is the association requestor.
    """

    invoked: int
    performed: int


def agreed_window(one: AsyncOperationsWindow | None, other: AsyncOperationsWindow | None) -> AsyncOperationsWindow:
    """What both sides can do, seen from the association requestor; without a proposal or an answer, one at a time."""
    if one is None or other is None:
        return AsyncOperationsWindow(1, 1)
    return AsyncOperationsWindow(*(min(a or b, b or a) for a, b in zip(one, other, strict=True)))
