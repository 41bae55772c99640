"""A worklist manager: the SCP of UPS Push, Pull, Watch and Query, who reports as the SCP of UPS Event (PS3.4 CC).

Every decision is made by the tables of :mod:`.states`, and between a decision and what it does nothing is awaited: one
event loop, so no locks. A step's Transaction UID is kept beside its data set and not in it, so that nothing that gives
out a data set can give it away (PS3.4 CC.2.7.3).
"""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from asyncdicom.command import Status
from asyncdicom.errors import StatusError
from asyncdicom.instances import encode
from asyncdicom.services.requirements import check_required, log_missing
from asyncdicom.uids import IMPLICIT_VR_LITTLE_ENDIAN
from asyncdicom.uids import UNIFIED_PROCEDURE_STEP_PULL as UPS_PULL
from asyncdicom.uids import UNIFIED_PROCEDURE_STEP_PUSH as UPS_PUSH
from asyncdicom.uids import UNIFIED_PROCEDURE_STEP_QUERY as UPS_QUERY
from asyncdicom.uids import UNIFIED_PROCEDURE_STEP_WATCH as UPS_WATCH

from .events import EventReport, EventSender, reports_of
from .states import (
    CREATION,
    FILTERED_GLOBAL_SUBSCRIPTION,
    FINAL_STATE,
    GLOBAL_SUBSCRIPTION,
    MEANINGS,
    Action,
    EventType,
    Request,
    State,
    Subscription,
    global_subscription,
    is_appropriate,
    is_correct,
    subscription_change,
    transition,
    update_status,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, MutableMapping
    from types import TracebackType
    from typing import Self

    from pydicom import Dataset

    from asyncdicom.pool import Backoff
    from asyncdicom.requests import (
        CFindRequest,
        NActionRequest,
        NCreateRequest,
        NGetRequest,
        NSetRequest,
    )
    from asyncdicom.requests import WholeRequest as AnyRequest
    from asyncdicom.retrieve import Resolve
    from asyncdicom.services.matching import Matcher


__all__ = ["GlobalSubscriber", "Step", "UpsManager"]

_T = TypeVar("_T")

DEFAULT_MAX_STEPS: Final = 10_000
"""A step of 20 attributes takes 16 KB as a pydicom data set: 160 MB."""
_MAX_LENGTH: Final = 1 << 20
"""Bytes of an encoded step, and of what comes with a request: enough to refer to 5,000 instances."""
_MAX_SUBSCRIBERS: Final = 1000
"""AEs that are subscribed globally, or to one step."""
_STEPS_AT_A_TIME: Final = 100
"""How many steps are looked at before the event loop has its turn."""

_UID: Final = re.compile("[0-9.]{1,64}")
"""As tolerant as UIDs in use require it (PS3.5 9.1)."""
_NONE: Final = Subscription.NONE
_CHARACTER_SET: Final = "SpecificCharacterSet"
_TRANSACTION_UID: Final = "TransactionUID"
_PROGRESS: Final = "ProcedureStepProgressInformationSequence"
_REASON: Final = "ProcedureStepDiscontinuationReasonCodeSequence"
_PERFORMED: Final = "UnifiedProcedureStepPerformedProcedureSequence"
_FIXED: Final = ("SOPClassUID", "SOPInstanceUID", "ProcedureStepState")
"""What an N-SET may name only as it is (PS3.4 CC.2.6.2)."""
_TOLD: Final = (
    (("InputReadinessState",), EventType.STATE_REPORT),
    ((_PROGRESS,), EventType.PROGRESS_REPORT),
    (("ScheduledStationNameCodeSequence", "ScheduledHumanPerformersSequence"), EventType.ASSIGNED),
)
"""Attributes whose change is reported (PS3.4 CC.2.4.3)."""
_REQUESTED_STATES: Final = {
    State.SCHEDULED: Request.SCHEDULE,
    State.IN_PROGRESS: Request.START,
    State.COMPLETED: Request.COMPLETE,
    State.CANCELED: Request.CANCEL,
}
_UNSPECIFIED_REASON: Final = ("110513", "DCM", "Discontinued for unspecified reason")
"""PS3.16 CID 9300: the reason of a cancellation for which none is given."""


@dataclass(slots=True)
class Step:
    """A Unified Procedure Step as the manager keeps it."""

    data_set: Dataset
    """All that the step is, without its Transaction UID."""
    transaction_uid: str = ""
    """The lock of whoever performs it; empty as long as nobody does."""
    subscribers: dict[str, Subscription] = field(default_factory=dict)
    """AE titles of those who are subscribed."""

    @property
    def state(self) -> State:
        """Its Procedure Step State."""
        return State(self.data_set.ProcedureStepState)

    @property
    def is_locked(self) -> bool:
        """Whether somebody's deletion lock keeps it."""
        return Subscription.WITH_LOCK in self.subscribers.values()


class GlobalSubscriber(NamedTuple):
    """An AE that is to be subscribed to steps when they are created."""

    subscription: Subscription
    keys: Dataset | None = None
    """Of a filtered subscription: what a step has to match."""


class UpsManager:
    """A service that keeps Unified Procedure Steps; for ``serve(services=[...])`` in one process, without ``workers``.

    Steps are created, performed, watched and queried over the network, and by the program itself with the methods of
    the same meaning, which raise StatusError where the network is answered a failure.

    ``resolve`` says where the AEs are that want event reports: a mapping of AE titles to ``(host, port)`` or
    :class:`~asyncdicom.Destination`, or a function, which may be a coroutine function, from the title to one of these
    or None. Who is not found there cannot be subscribed, and without ``resolve`` nobody can. ``ae_title`` is this
    side's on the associations that carry the reports. Reports for an AE are sent in order; what cannot be delivered is
    tried again as ``backoff`` has it and then given up, which changes no subscription.

    ``steps`` and ``global_subscribers`` are where steps (SOP Instance UID to :class:`Step`) and subscribers (AE title
    to :class:`GlobalSubscriber`) are kept: dictionaries unless others are given, to which every change is written
    back. There are never more than ``max_steps``: for a new one, the oldest is deleted that is COMPLETED or CANCELED
    and has no deletion lock; where there is none, the new one is refused (0213H).

    What the standard leaves to a manager: a Transaction UID, progress and performed procedures in an N-CREATE are
    dropped (B300H); what is of type 2 may be missing there, which the log says; a step without a Worklist Label gets
    ``ae_title`` as one; a step that is canceled without a time or reason gets them; who asks to cancel a step in
    progress to which nobody is subscribed learns that the performer cannot be contacted (C312H).

    As an asynchronous context manager it is closed at the end of the block.
    """

    def __init__(
        self,
        *,
        resolve: Resolve | None = None,
        ae_title: str = "ASYNCDICOM",
        steps: MutableMapping[str, Step] | None = None,
        global_subscribers: MutableMapping[str, GlobalSubscriber] | None = None,
        max_steps: int = DEFAULT_MAX_STEPS,
        backoff: Backoff | None = None,
    ) -> None:
        self.steps: MutableMapping[str, Step] = {} if steps is None else steps
        """Every step, by SOP Instance UID; to be changed with the methods only."""
        self.global_subscribers: MutableMapping[str, GlobalSubscriber] = (
            {} if global_subscribers is None else global_subscribers
        )
        """Who is subscribed to steps to come, by AE title."""
        self.contexts = (UPS_PUSH, UPS_PULL, UPS_WATCH, UPS_QUERY)
        self.handlers: dict[str, Callable[[Any], Any]] = {
            "n_create": self._n_create,
            "n_get": self._n_get,
            "n_set": self._n_set,
            "n_action": self._n_action,
            "c_find": self._c_find,
        }
        self._label = ae_title
        self._max_steps = max_steps
        self._sender = EventSender(resolve, ae_title, backoff)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close(drain=10.0 if error is None else 0.0)

    async def close(self, drain: float = 10.0) -> None:
        """Send no more event reports; those that wait have ``drain`` seconds. On cancellation they are given up."""
        await self._sender.close(drain)

    # What a program may do itself

    def create(self, data_set: Dataset, sop_instance_uid: str) -> Status:
        """Create a step, SCHEDULED (PS3.4 CC.2.5); B300H says that it is not as it was given.

        Raises StatusError: 0111H, 0117H for what is no UID, C309H, 0120H and 0121H for what is missing, 0213H.
        """
        if not _UID.fullmatch(sop_instance_uid):
            raise StatusError(Status.INVALID_SOP_INSTANCE)
        _answer(transition(Request.CREATE, self._state(sop_instance_uid)).status)
        created = _read(data_set)
        if created.get("ProcedureStepState") != State.SCHEDULED:
            raise _failure(0xC309)
        check_required(created, CREATION)
        _check_length(encode(created, IMPLICIT_VR_LITTLE_ENDIAN))
        self._make_room()
        modified = any(created.get(keyword) for keyword in (_TRANSACTION_UID, _PROGRESS, _PERFORMED))
        created.pop(_TRANSACTION_UID, None)
        created.SOPClassUID, created.SOPInstanceUID = UPS_PUSH, sop_instance_uid
        created.ScheduledProcedureStepModificationDateTime = _now()
        created.WorklistLabel = created.get("WorklistLabel") or self._label
        created.ProcedureStepProgressInformationSequence = []
        created.UnifiedProcedureStepPerformedProcedureSequence = []
        step = Step(created)
        for ae_title, subscriber in self.global_subscribers.items():
            if subscriber.keys is None or _matcher(subscriber.keys).matches(created):
                step.subscribers[ae_title] = subscriber.subscription
        self.steps[sop_instance_uid] = step
        self._report(EventType.STATE_REPORT, step)
        self._report_changes(step, _selected(created, ("InputReadinessState",)))
        return _answer(0xB300 if modified else 0x0000)

    def get(self, sop_instance_uid: str, attributes: Iterable[int] = ()) -> Dataset:
        """The attributes of those tags that the step has, or all of them (PS3.4 CC.2.7); to be read and not changed.

        Raises StatusError: C307H.
        """
        step = self._step(sop_instance_uid).data_set
        wanted = tuple(attributes)
        return _selected(step, (_CHARACTER_SET, *wanted)) if wanted else step

    def update(self, sop_instance_uid: str, modifications: Dataset) -> Status:
        """Set attributes of a step (PS3.4 CC.2.6); its Transaction UID is among them when it is IN PROGRESS.

        Sequences are replaced as a whole. Raises StatusError: C300H, C301H, C307H, C310H, 0106H for what is not to be
        set, 0213H for more than a step may have.
        """
        modifications = _read(modifications)
        step = self.steps.get(sop_instance_uid)
        given = str(modifications.get(_TRANSACTION_UID) or "")
        _answer(update_status(self._state(sop_instance_uid), given, step.transaction_uid if step else ""))
        assert step is not None
        modifications.pop(_TRANSACTION_UID, None)
        before = step.data_set
        fixed = [each for each in _FIXED if each in modifications and modifications.get(each) != before.get(each)]
        if fixed:
            raise _failure(0x0106, fixed)
        merged = _merged(before, modifications)
        _check_length(encode(merged, IMPLICIT_VR_LITTLE_ENDIAN))
        step.data_set = merged
        self.steps[sop_instance_uid] = step
        self._report_changes(step, before)
        return Status.SUCCESS

    def change_state(self, sop_instance_uid: str, state: State, transaction_uid: str) -> Status:
        """Change the state of a step (PS3.4 CC.2.1); B304H and B306H say that it is there already.

        Raises StatusError: C300H to C304H, C307H, C310H, and 0115H for a Transaction UID that is none.
        """
        if transaction_uid and not _UID.fullmatch(transaction_uid):
            raise _failure(0x0115, [_TRANSACTION_UID])
        step = self.steps.get(sop_instance_uid)
        correct = is_correct(transaction_uid, step.transaction_uid if step else "")
        cell = transition(_REQUESTED_STATES[state], self._state(sop_instance_uid), correct=correct)
        answer = _answer(cell.status)
        if step is None or not cell.states:
            return answer
        data_set = copy.deepcopy(step.data_set)
        if state is State.CANCELED:
            _explain_cancellation(data_set)
        if cell.needs_final_state and (missing := _missing_for(state, data_set)):
            raise _failure(0xC304, missing)
        step.data_set, step.transaction_uid = data_set, transaction_uid
        self._enter(step, cell.states)
        return answer

    def request_cancel(self, sop_instance_uid: str, information: Dataset | None, requesting_ae: str) -> Status:
        """Ask for a step to be canceled (PS3.4 CC.2.2): done at once unless it is IN PROGRESS.

        ``information`` may have a reason and a contact. Raises StatusError: C307H, C311H, C312H.
        """
        information = _nothing() if information is None else _read(information)
        cell = transition(Request.REQUEST_CANCEL, self._state(sop_instance_uid))
        answer = _answer(cell.status)
        step = self._step(sop_instance_uid)
        if cell.states:
            _explain_cancellation(step.data_set, information)
            self._enter(step, cell.states)
        elif cell.reports_cancel_request:
            if not step.subscribers:
                raise _failure(0xC312)
            report = _selected(information, _REQUESTED)
            report.RequestingAE = requesting_ae
            self._send(step.subscribers, EventReport(sop_instance_uid, EventType.CANCEL_REQUESTED, report))
        return answer

    def subscribe(
        self,
        receiving_ae: str,
        sop_instance_uid: str = GLOBAL_SUBSCRIPTION,
        *,
        lock: bool = False,
        matching_keys: Dataset | None = None,
    ) -> Status:
        """Subscribe an AE to a step, or to all there are and will be (PS3.4 CC.2.3).

        ``matching_keys`` go with the filtered global subscription. Raises StatusError: C307H, 0213H.
        """
        return self._change_subscription(
            Action.SUBSCRIBE, receiving_ae, sop_instance_uid, lock=lock, matching_keys=matching_keys
        )

    def unsubscribe(self, receiving_ae: str, sop_instance_uid: str = GLOBAL_SUBSCRIPTION) -> Status:
        """Unsubscribe an AE from a step, or from everything (PS3.4 CC.2.3). Raises StatusError: C307H."""
        return self._change_subscription(Action.UNSUBSCRIBE, receiving_ae, sop_instance_uid)

    def suspend_global_subscription(self, receiving_ae: str) -> Status:
        """Subscribe an AE to no more new steps; it stays subscribed to those that are there (PS3.4 CC.2.3)."""
        return self._change_subscription(Action.SUSPEND_GLOBAL_SUBSCRIPTION, receiving_ae, GLOBAL_SUBSCRIPTION)

    def announce(
        self, status: str, *, subscriptions: str = "WARM START", steps: str = "WARM START", also: Iterable[str] = ()
    ) -> None:
        """Report a change of the manager itself (PS3.4 CC.2.4.3): RESTARTED or GOING DOWN.

        Everybody learns it who is subscribed to anything, and those whose AE titles ``also`` names. ``subscriptions``
        and ``steps`` say what was kept of either: WARM START all, COLD START nothing.
        """
        information = _nothing()
        information.SCPStatus = status
        information.SubscriptionListStatus = subscriptions
        information.UnifiedProcedureStepListStatus = steps
        concerned = {*also, *self.global_subscribers}
        concerned.update(*(step.subscribers for step in self.steps.values()))
        self._send(sorted(concerned), EventReport(GLOBAL_SUBSCRIPTION, EventType.SCP_STATUS_CHANGE, information))

    # What the network asks for

    async def _n_create(self, request: NCreateRequest) -> Status:
        data_set = _data_set_of(request)
        status = self.create(data_set, request.sop_instance_uid)
        log_missing(request.calling_ae_title, data_set, CREATION)
        return status

    async def _n_get(self, request: NGetRequest) -> tuple[Status, Dataset]:
        wanted = request.attributes
        # 0001H: the Transaction UID is not to be asked for, and never supported (PS3.4 CC.2.7.2)
        status = Status(0x0001) if _TRANSACTION_UID_TAG in wanted else Status.SUCCESS
        return status, self.get(request.sop_instance_uid, wanted)

    async def _n_set(self, request: NSetRequest) -> Status:
        return self.update(request.sop_instance_uid, _data_set_of(request))

    async def _n_action(self, request: NActionRequest) -> Status:
        uid = request.sop_instance_uid
        try:
            action = Action(request.action_type_id)
        except ValueError:
            raise StatusError(Status(0x0123)) from None
        information = _data_set_of(request)
        if action is Action.CHANGE_STATE:
            return self.change_state(uid, _state_of(information), str(information.get(_TRANSACTION_UID) or ""))
        if action is Action.REQUEST_CANCEL:
            return self.request_cancel(uid, information, request.calling_ae_title)
        if not is_appropriate(action, uid):
            raise _failure(0xC314)
        receiving_ae = _required(information, "ReceivingAE").strip()
        if action is not Action.SUBSCRIBE:
            return self._change_subscription(action, receiving_ae, uid)
        lock = _LOCKS.get(_required(information, "DeletionLock"))
        if lock is None:
            raise _failure(0x0115, ["DeletionLock"])
        if not self._sender.can_report:
            raise _failure(0xC315)
        if await self._sender.destination(receiving_ae) is None:
            raise _failure(0xC308)
        return self.subscribe(receiving_ae, uid, lock=lock, matching_keys=_without(information, _SUBSCRIBING))

    async def _c_find(self, request: CFindRequest) -> AsyncIterator[Dataset]:
        matcher = _matcher(_without(_data_set_of(request), (_TRANSACTION_UID,)), 0xA900)
        for number, step in enumerate(list(self.steps.values()), 1):
            if matcher.matches(step.data_set):
                yield matcher.response(step.data_set)
            if number % _STEPS_AT_A_TIME == 0:
                await asyncio.sleep(0)

    # What both come to

    def _state(self, uid: str) -> State | None:
        step = self.steps.get(uid)
        return None if step is None else step.state

    def _step(self, uid: str) -> Step:
        step = self.steps.get(uid)
        if step is None:
            raise _failure(0xC307)
        return step

    def _make_room(self) -> None:
        if len(self.steps) < self._max_steps:
            return
        for uid, step in self.steps.items():
            if step.state.is_final and not step.is_locked:
                del self.steps[uid]
                return
        raise StatusError(Status(0x0213, f"there are {self._max_steps} steps, none of which may be deleted"))

    def _enter(self, step: Step, states: Iterable[State]) -> None:
        for state in states:
            step.data_set.ProcedureStepState = str(state)
            self._report(EventType.STATE_REPORT, step)
        self.steps[step.data_set.SOPInstanceUID] = step

    def _change_subscription(
        self,
        action: Action,
        ae_title: str,
        uid: str,
        *,
        lock: bool = False,
        matching_keys: Dataset | None = None,
    ) -> Status:
        globally = uid in (GLOBAL_SUBSCRIPTION, FILTERED_GLOBAL_SUBSCRIPTION)
        if not globally:
            concerned = [(uid, self._step(uid))]
        elif uid == GLOBAL_SUBSCRIPTION:
            concerned = list(self.steps.items())
        else:
            matcher = _matcher(matching_keys or _nothing())
            concerned = [(each, step) for each, step in self.steps.items() if matcher.matches(step.data_set)]
        if globally:
            keys = matching_keys if uid == FILTERED_GLOBAL_SUBSCRIPTION else None
            state = global_subscription(action, lock=lock)
            _put(self.global_subscribers, ae_title, None if state is _NONE else GlobalSubscriber(state, keys))
        for each, step in concerned:
            before = step.subscribers.get(ae_title, _NONE)
            change = subscription_change(action, before, globally=globally, lock=lock)
            if change.subscription is not before:
                _put(step.subscribers, ae_title, None if change.subscription is _NONE else change.subscription)
                self.steps[each] = step
            if change.initial_event:
                self._report(EventType.STATE_REPORT, step, (ae_title,))
        return Status.SUCCESS

    # What is told

    def _report(self, event_type: EventType, step: Step, to: Iterable[str] | None = None) -> None:
        concerned = step.subscribers if to is None else to
        for report in reports_of(event_type, step.data_set) if concerned else ():
            self._send(concerned, report)

    def _report_changes(self, step: Step, before: Dataset) -> None:
        for keywords, event_type in _TOLD:
            after = step.data_set
            if any((after.get(keyword) or None) != (before.get(keyword) or None) for keyword in keywords):
                self._report(event_type, step)

    def _send(self, ae_titles: Iterable[str], report: EventReport) -> None:
        self._sender.send(ae_titles, report)


# Answers


def _answer(code: int) -> Status:
    """The status of that code. Raises StatusError if it is a failure."""
    status = Status(code, MEANINGS.get(code, ""))
    if status.is_failure:
        raise StatusError(status)
    return status


def _failure(code: int, keywords: Iterable[str] = ()) -> StatusError:
    from pydicom.datadict import tag_for_keyword  # noqa: PLC0415 - only where something is wrong

    names = list(keywords)
    comment = MEANINGS.get(code, "") or ", ".join(names)[:64]
    return StatusError(Status(code, comment, tuple(tag_for_keyword(name) or 0 for name in names)))


# Requests

_TRANSACTION_UID_TAG: Final = 0x00081195
_LOCKS: Final = {"TRUE": True, "FALSE": False}
_SUBSCRIBING: Final = ("ReceivingAE", "DeletionLock")
"""What a subscription has beside matching keys (PS3.4 Table CC.2.3-1)."""
_REQUESTED: Final = (
    _CHARACTER_SET,
    "ReasonForCancellation",
    _REASON,
    "ContactURI",
    "ContactDisplayName",
)
"""What is handed on of a request to cancel (PS3.4 Table CC.2.4-1)."""


def _data_set_of(request: AnyRequest) -> Dataset:
    _check_length(request.data)
    data_set: Dataset | None = request.data_set
    return _nothing() if data_set is None else data_set


def _check_length(data: bytes) -> None:
    if len(data) > _MAX_LENGTH:
        raise StatusError(Status(Status.RESOURCE_LIMITATION, f"a step may have {_MAX_LENGTH} bytes, got {len(data)}"))


def _required(information: Dataset, keyword: str) -> str:
    value = information.get(keyword)
    if not value:
        raise _failure(0x0115, [keyword])
    return str(value)


def _state_of(information: Dataset) -> State:
    try:
        return State(_required(information, "ProcedureStepState"))
    except ValueError:
        raise _failure(0x0115, ["ProcedureStepState"]) from None


# Data sets


def _nothing() -> Dataset:
    from pydicom import Dataset  # noqa: PLC0415 - whoever has a step has pydicom

    return Dataset()


def _read(data_set: Dataset) -> Dataset:
    """A copy, with all its values decoded: what cannot be read is refused before anything is done with it."""
    read = copy.deepcopy(data_set)
    read.decode()
    return read


def _selected(data_set: Dataset, attributes: Iterable[int | str]) -> Dataset:
    """Those of the attributes that are there; shared, not copied."""
    selected = _nothing()
    for attribute in attributes:
        if attribute in data_set:
            selected.add(data_set[attribute])
    return selected


def _without(data_set: Dataset, keywords: Iterable[str]) -> Dataset:
    rest = copy.deepcopy(data_set)
    for keyword in keywords:
        rest.pop(keyword, None)
    return rest


def _merged(step: Dataset, modifications: Dataset) -> Dataset:
    merged = copy.deepcopy(step)
    _adopt_character_set(merged, modifications)
    merged.update(_without(modifications, (_CHARACTER_SET,)))
    merged.ScheduledProcedureStepModificationDateTime = _now()
    return merged


def _adopt_character_set(step: Dataset, other: Dataset) -> None:
    """Have a step take texts of another data set: in UTF-8 if their character sets differ (PS3.4 CC.2.6.3)."""
    own, others = step.get(_CHARACTER_SET), other.get(_CHARACTER_SET)
    if others and others != own:
        step.SpecificCharacterSet = "ISO_IR 192" if own else others


def _now() -> str:
    return dt.datetime.now().astimezone().strftime("%Y%m%d%H%M%S.%f%z")


def _matcher(keys: Dataset, status: int = Status.INVALID_ARGUMENT_VALUE) -> Matcher:
    """What compares steps with keys. Raises StatusError with that status for keys that are none."""
    from asyncdicom.services.matching import Matcher  # noqa: PLC0415 - few need it

    try:
        return Matcher(keys)
    except ValueError as error:
        raise StatusError(Status(status, str(error)[:64])) from None


def _put(mapping: MutableMapping[str, _T], ae_title: str, value: _T | None) -> None:
    """Set or, with None, remove what is kept for an AE. Raises StatusError when there are too many of them."""
    if value is None:
        mapping.pop(ae_title, None)
        return
    if ae_title not in mapping and len(mapping) >= _MAX_SUBSCRIBERS:
        raise StatusError(Status(Status.RESOURCE_LIMITATION, f"{_MAX_SUBSCRIBERS} AEs are subscribed"))
    mapping[ae_title] = value


def _missing_for(state: State, step: Dataset) -> list[str]:
    """The attributes without which a step may not become final (PS3.4 CC.2.5.1.1)."""
    return [path[-1] for path, states, value in FINAL_STATE if state in states and not _has(step, path, value=value)]


def _has(data_set: Dataset, path: tuple[str, ...], *, value: bool) -> bool:
    for keyword in path[:-1]:
        items = data_set.get(keyword)
        if not items:
            return False
        data_set = items[0]
    return bool(data_set.get(path[-1])) if value else path[-1] in data_set


def _explain_cancellation(step: Dataset, information: Dataset | None = None) -> None:
    """Say why and when a step was canceled: as was requested, else as the step says, else that nobody said."""
    item = (step.get(_PROGRESS) or [_nothing()])[0]
    if information is not None:
        _adopt_character_set(step, information)
        item.update(_selected(information, ("ReasonForCancellation", _REASON)))
    if not item.get("ProcedureStepCancellationDateTime"):
        item.ProcedureStepCancellationDateTime = _now()
    if not item.get(_REASON):
        reason = _nothing()
        reason.CodeValue, reason.CodingSchemeDesignator, reason.CodeMeaning = _UNSPECIFIED_REASON
        item.ProcedureStepDiscontinuationReasonCodeSequence = [reason]
    step.ProcedureStepProgressInformationSequence = [item]
