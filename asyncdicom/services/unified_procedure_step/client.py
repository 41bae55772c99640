"""What a user asks a worklist manager for: the SCU of UPS Push, Pull, Watch and Query (PS3.4 CC.2).

Nothing but the right messages: every DIMSE-N message names UPS Push as its SOP class and goes on a presentation context
of a UPS class that has the operation (PS3.4 Tables CC.2-1 to CC.2-5).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final

from asyncdicom.services.requirements import fill_empty
from asyncdicom.uids import UNIFIED_PROCEDURE_STEP_PULL as UPS_PULL
from asyncdicom.uids import UNIFIED_PROCEDURE_STEP_PUSH as UPS_PUSH
from asyncdicom.uids import UNIFIED_PROCEDURE_STEP_QUERY as UPS_QUERY
from asyncdicom.uids import UNIFIED_PROCEDURE_STEP_WATCH as UPS_WATCH

from .states import CREATION, FILTERED_GLOBAL_SUBSCRIPTION, GLOBAL_SUBSCRIPTION, Action, State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydicom import Dataset

    from asyncdicom.association import Association
    from asyncdicom.operations import Response, Responses

__all__ = ["UPS_CONTEXTS", "UpsClient"]

UPS_CONTEXTS: Final = (UPS_PUSH, UPS_PULL, UPS_WATCH, UPS_QUERY)
"""What to propose for all that :class:`UpsClient` does."""

_CREATE = (UPS_PUSH,)
_GET = (UPS_PULL, UPS_WATCH, UPS_PUSH)
_PERFORM = (UPS_PULL,)
_REQUEST_CANCEL = (UPS_WATCH, UPS_PUSH)
_SUBSCRIBE = (UPS_WATCH,)
_FIND = (UPS_PULL, UPS_WATCH, UPS_QUERY)
"""The classes that have an operation; the first one is taken that the peer has accepted."""


class UpsClient:
    """Unified Procedure Steps over an association that the caller has and keeps.

    The calls answer with a :class:`~asyncdicom.operations.Response`, whose status may be a failure; what the codes
    mean, :data:`~asyncdicom.services.unified_procedure_step.MEANINGS` says. They raise what the association's ``n_``
    methods raise: NoAcceptedContext for what was not negotiated, AssociationError. Cancellation while a response is
    awaited aborts the association.
    """

    def __init__(self, association: Association) -> None:
        self.association = association

    async def create(self, step: Dataset, sop_instance_uid: str = "") -> Response:
        """Create a step (N-CREATE, PS3.4 CC.2.5); its UID is made here if none is given, and in the response.

        The Procedure Step State is SCHEDULED unless the data set has one, and what else the standard wants to be there
        (type 2 of PS3.4 Table CC.2.5-3) is empty unless the data set has it.
        """
        from asyncdicom.instances import new_uid  # noqa: PLC0415 - few need it

        attributes = _changed(step, ProcedureStepState=step.get("ProcedureStepState") or str(State.SCHEDULED))
        fill_empty(attributes, CREATION)
        uid = sop_instance_uid or new_uid()
        return await self.association.n_create(UPS_PUSH, attributes, uid, context=self._context(_CREATE))

    async def get(self, sop_instance_uid: str, attributes: Iterable[int | str] = ()) -> Response:
        """Ask for attributes of a step, by tags or keywords; for all without (N-GET, PS3.4 CC.2.7)."""
        from pydicom.tag import Tag  # noqa: PLC0415 - whoever asks for attributes has pydicom

        tags = [Tag(attribute) for attribute in attributes]
        return await self.association.n_get(UPS_PUSH, sop_instance_uid, tags, context=self._context(_GET))

    async def update(self, sop_instance_uid: str, modifications: Dataset, transaction_uid: str = "") -> Response:
        """Set attributes of a step (N-SET, PS3.4 CC.2.6).

        Of one that is IN PROGRESS only with its Transaction UID; of one that is SCHEDULED only without. Sequences are
        replaced: all their items have to be there.
        """
        if transaction_uid:
            modifications = _changed(modifications, TransactionUID=transaction_uid)
        return await self.association.n_set(UPS_PUSH, sop_instance_uid, modifications, context=self._context(_PERFORM))

    async def change_state(self, sop_instance_uid: str, state: State | str, transaction_uid: str) -> Response:
        """Begin, complete or cancel a step (N-ACTION type 1, PS3.4 CC.2.1).

        The Transaction UID is the lock: who gives one to begin has to give the same one from then on, and should keep
        it where it outlives a crash. :func:`~asyncdicom.instances.new_uid` makes one.
        """
        information = _data_set(ProcedureStepState=str(State(state)), TransactionUID=transaction_uid)
        return await self._act(Action.CHANGE_STATE, sop_instance_uid, information, _PERFORM)

    async def request_cancel(self, sop_instance_uid: str, information: Dataset | None = None) -> Response:
        """Ask for somebody else's step to be canceled (N-ACTION type 2, PS3.4 CC.2.2): its performer may not do it.

        ``information`` may have Reason For Cancellation, Procedure Step Discontinuation Reason Code Sequence, Contact
        URI and Contact Display Name.
        """
        return await self._act(Action.REQUEST_CANCEL, sop_instance_uid, information, _REQUEST_CANCEL)

    async def subscribe(
        self,
        sop_instance_uid: str = GLOBAL_SUBSCRIPTION,
        *,
        lock: bool = False,
        matching_keys: Dataset | None = None,
        receiving_ae: str = "",
    ) -> Response:
        """Have events reported of one step, or of all that there are and will be (N-ACTION type 3, PS3.4 CC.2.3).

        With ``matching_keys`` only of those that match (the filtered global subscription). ``lock`` keeps steps that
        are done from being deleted until it is taken back. Reports go to the AE of that title, by default this side's;
        the manager has to know where it is.
        """
        if matching_keys is not None and sop_instance_uid == GLOBAL_SUBSCRIPTION:
            sop_instance_uid = FILTERED_GLOBAL_SUBSCRIPTION
        information = _changed(matching_keys or _data_set(), DeletionLock="TRUE" if lock else "FALSE")
        information.ReceivingAE = receiving_ae or self.association.calling_ae_title
        return await self._act(Action.SUBSCRIBE, sop_instance_uid, information, _SUBSCRIBE)

    async def unsubscribe(self, sop_instance_uid: str = GLOBAL_SUBSCRIPTION, *, receiving_ae: str = "") -> Response:
        """Have no more events reported of a step, or of any (N-ACTION type 4, PS3.4 CC.2.3)."""
        information = _data_set(ReceivingAE=receiving_ae or self.association.calling_ae_title)
        return await self._act(Action.UNSUBSCRIBE, sop_instance_uid, information, _SUBSCRIBE)

    async def suspend_global_subscription(self, *, receiving_ae: str = "") -> Response:
        """Have no events reported of steps to come, but of those that there are (N-ACTION type 5, PS3.4 CC.2.3)."""
        information = _data_set(ReceivingAE=receiving_ae or self.association.calling_ae_title)
        return await self._act(Action.SUSPEND_GLOBAL_SUBSCRIPTION, GLOBAL_SUBSCRIPTION, information, _SUBSCRIBE)

    def find(self, identifier: Dataset) -> Responses:
        """Query (C-FIND, PS3.4 CC.2.8): an asynchronous iterator; each response has a match as its ``data_set``."""
        return self.association.c_find(identifier, model=self._context(_FIND))

    async def _act(
        self, action: Action, sop_instance_uid: str, information: Dataset | None, classes: tuple[str, ...]
    ) -> Response:
        context = self._context(classes)
        return await self.association.n_action(UPS_PUSH, sop_instance_uid, action, information, context=context)

    def _context(self, classes: tuple[str, ...]) -> str:
        return next((uid for uid in classes if self.association.accepted(uid)), classes[0])


def _data_set(**values: str) -> Dataset:
    from pydicom import Dataset  # noqa: PLC0415 - only where a data set is made

    data_set = Dataset()
    for keyword, value in values.items():
        setattr(data_set, keyword, value)
    return data_set


def _changed(data_set: Dataset, **values: str) -> Dataset:
    """A copy with other values."""
    changed = copy.deepcopy(data_set)
    for keyword, value in values.items():
        setattr(changed, keyword, value)
    return changed
