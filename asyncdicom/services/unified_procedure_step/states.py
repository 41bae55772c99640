"""What a Unified Procedure Step may become, as data (PS3.4 CC.1.1, CC.2.3, CC.2.5.1.1, CC.2.6).

Tables stand as the standard prints them: a row per request, a column per state. Knows no data sets, no network, and
nobody who asks; whoever manages steps looks here what a request does to one.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, NamedTuple

from asyncdicom.services.requirements import Required, of_type

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CREATION",
    "FILTERED_GLOBAL_SUBSCRIPTION",
    "FINAL_STATE",
    "GLOBAL_SUBSCRIPTION",
    "MEANINGS",
    "STATES",
    "SUBSCRIPTIONS",
    "TRANSITIONS",
    "UPDATES",
    "Action",
    "EventType",
    "Request",
    "State",
    "Subscription",
    "SubscriptionChange",
    "Transition",
    "global_subscription",
    "is_appropriate",
    "is_correct",
    "subscription_change",
    "transition",
    "update_status",
]

GLOBAL_SUBSCRIPTION: Final = "1.2.840.10008.5.1.4.34.5"
"""The well-known instance that stands for all steps in a subscription (PS3.4 CC.2.3.2)."""
FILTERED_GLOBAL_SUBSCRIPTION: Final = "1.2.840.10008.5.1.4.34.5.1"
"""The one that stands for all that match the keys of the subscription."""


class State(enum.StrEnum):
    """Procedure Step State (0074,1000)."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"

    @property
    def is_final(self) -> bool:
        """Whether the step never changes again."""
        return self in (State.COMPLETED, State.CANCELED)


class Action(enum.IntEnum):
    """Action Type ID of an N-ACTION (PS3.4 CC.2.1 to CC.2.3)."""

    CHANGE_STATE = 1
    REQUEST_CANCEL = 2
    SUBSCRIBE = 3
    UNSUBSCRIBE = 4
    SUSPEND_GLOBAL_SUBSCRIPTION = 5


class EventType(enum.IntEnum):
    """Event Type ID of an N-EVENT-REPORT (PS3.4 Table CC.2.4-1)."""

    STATE_REPORT = 1
    CANCEL_REQUESTED = 2
    PROGRESS_REPORT = 3
    SCP_STATUS_CHANGE = 4
    ASSIGNED = 5


class Subscription(enum.Enum):
    """How an AE is subscribed to a step, or to all of them (PS3.4 CC.2.3.1)."""

    NONE = "not subscribed"
    WITH_LOCK = "subscribed with deletion lock"
    WITHOUT_LOCK = "subscribed without deletion lock"


MEANINGS: Final[Mapping[int, str]] = {
    0xB300: "created with modifications",
    0xB301: "deletion lock not granted",
    0xB304: "the step is CANCELED already",
    0xB305: "invalid values were coerced to valid ones",
    0xB306: "the step is COMPLETED already",
    0xC300: "the step may no longer be updated",
    0xC301: "the correct Transaction UID was not provided",
    0xC302: "the step is IN PROGRESS already",
    0xC303: "a step becomes SCHEDULED only when it is created",
    0xC304: "the step does not meet the final state requirements",
    0xC307: "there is no such step here",
    0xC308: "the receiving AE title is not known here",
    0xC309: "the Procedure Step State is not SCHEDULED",
    0xC310: "the step is not IN PROGRESS",
    0xC311: "the step is COMPLETED already",
    0xC312: "the performer cannot be contacted",
    0xC313: "the performer chooses not to cancel",
    0xC314: "the action is not appropriate for that instance",
    0xC315: "event reports are not supported here",
}
"""What the statuses of this service class say (PS3.4 Tables CC.2.1-2 to CC.2.6-1)."""


# State transitions, PS3.4 Table CC.1.1-2


class Request(enum.Enum):
    """The rows of the table; those that name a state are N-ACTIONs of type 1."""

    CREATE = "N-CREATE"
    SCHEDULE = "change state to SCHEDULED"
    START = "change state to IN PROGRESS"
    COMPLETE = "change state to COMPLETED"
    CANCEL = "change state to CANCELED"
    REQUEST_CANCEL = "request cancel"


class Transition(NamedTuple):
    """One cell of the table: what a request does to a step."""

    status: int = 0x0000
    """What is answered."""
    states: tuple[State, ...] = ()
    """What the step becomes, one after the other; each is reported to who is subscribed."""
    needs_final_state: bool = False
    """Whether it takes place only if the step meets the final state requirements; C304H otherwise."""
    reports_cancel_request: bool = False
    """Whether those who are subscribed learn that somebody wants the step canceled."""


STATES: Final = (None, State.SCHEDULED, State.IN_PROGRESS, State.COMPLETED, State.CANCELED)
"""The columns; None for a step that does not exist."""


def _row(*cells: int | Transition) -> tuple[Transition, ...]:
    return tuple(cell if isinstance(cell, Transition) else Transition(cell) for cell in cells)


_CREATED = Transition(states=(State.SCHEDULED,))
_STARTED = Transition(states=(State.IN_PROGRESS,))
_COMPLETED = Transition(states=(State.COMPLETED,), needs_final_state=True)
_CANCELED = Transition(states=(State.CANCELED,), needs_final_state=True)
_BOTH = Transition(states=(State.IN_PROGRESS, State.CANCELED))
_ASKED = Transition(reports_cancel_request=True)
_INCORRECT = _row(0xC307, 0xC301, 0xC301, 0xC301, 0xC301)
_IRRELEVANT = (True, False)

# fmt: off
_TRANSITIONS = (
    # Transaction UID correct?              does not exist  SCHEDULED  IN PROGRESS  COMPLETED  CANCELED
    (Request.CREATE, _IRRELEVANT,       _row(_CREATED,      0x0111,    0x0111,      0x0111,    0x0111)),
    (Request.START, (True,),            _row(0xC307,        _STARTED,  0xC302,      0xC300,    0xC300)),
    (Request.START, (False,),           _INCORRECT),
    (Request.SCHEDULE, _IRRELEVANT,     _row(0xC307,        0xC303,    0xC303,      0xC303,    0xC303)),
    (Request.COMPLETE, (True,),         _row(0xC307,        0xC310,    _COMPLETED,  0xB306,    0xC300)),
    (Request.COMPLETE, (False,),        _INCORRECT),
    (Request.REQUEST_CANCEL, _IRRELEVANT, _row(0xC307,      _BOTH,     _ASKED,      0xC311,    0xB304)),
    (Request.CANCEL, (True,),           _row(0xC307,        0xC310,    _CANCELED,   0xC300,    0xB304)),
    (Request.CANCEL, (False,),          _INCORRECT),
)
# fmt: on

TRANSITIONS: Final[Mapping[tuple[Request, bool], tuple[Transition, ...]]] = {
    (request, correct): cells for request, corrects, cells in _TRANSITIONS for correct in corrects
}
"""By request and whether the Transaction UID is correct: a cell for each of :data:`STATES`."""


def transition(request: Request, state: State | None, *, correct: bool = True) -> Transition:
    """What a request does to a step of that state; ``correct`` is :func:`is_correct` of its Transaction UID."""
    return TRANSITIONS[request, correct][STATES.index(state)]


def is_correct(given: str, recorded: str) -> bool:
    """Whether a Transaction UID opens the lock (PS3.4 CC.1.1).

    The first one that is given becomes the lock, so that any is correct where none is recorded.
    """
    return bool(given) and recorded in ("", given)


# N-SET, PS3.4 CC.2.6 and Table CC.2.6-1

# fmt: off
UPDATES: Final[Mapping[State, tuple[int, int, int]]] = {
    # the Transaction UID is  absent  correct incorrect
    State.SCHEDULED:         (0x0000, 0xC310, 0xC310),
    State.IN_PROGRESS:       (0xC301, 0x0000, 0xC301),
    State.COMPLETED:         (0xC300, 0xC300, 0xC300),
    State.CANCELED:          (0xC300, 0xC300, 0xC300),
}
"""What is answered to an N-SET, by the state of the step."""
# fmt: on


def update_status(state: State | None, given: str, recorded: str) -> int:
    """What is answered to an N-SET that brings the Transaction UID ``given``."""
    if state is None:
        return 0xC307
    return UPDATES[state][(1 if given == recorded else 2) if given else 0]


# Subscriptions, PS3.4 Table CC.2.3-2


class SubscriptionChange(NamedTuple):
    """One cell of the table: what becomes of an AE's subscription to a step."""

    subscription: Subscription
    initial_event: bool = False
    """Whether the AE is told the state of the step at once."""


_NONE, _LOCK, _FREE = Subscription
_COLUMNS = (_NONE, _LOCK, _FREE)


def _changes(*cells: tuple[Subscription, bool]) -> tuple[SubscriptionChange, ...]:
    return tuple(SubscriptionChange(*cell) for cell in cells)


_UNCHANGED = _changes((_NONE, False), (_LOCK, False), (_FREE, False))
_NO_MORE = _changes((_NONE, False), (_NONE, False), (_NONE, False))

# fmt: off
_SUBSCRIPTIONS = (
    # globally? with lock?                    not subscribed           with lock      without lock   global state
    (Action.SUBSCRIBE, True, True,   _changes((_LOCK, True), (_LOCK, False), (_FREE, False)), _LOCK),
    (Action.SUBSCRIBE, True, False,  _changes((_FREE, False), (_LOCK, False), (_FREE, False)), _FREE),
    (Action.SUBSCRIBE, False, True,  _changes((_LOCK, True), (_LOCK, True), (_LOCK, True)), None),
    (Action.SUBSCRIBE, False, False, _changes((_FREE, True), (_FREE, True), (_FREE, True)), None),
    (Action.UNSUBSCRIBE, False, False, _NO_MORE, None),
    (Action.UNSUBSCRIBE, True, False, _NO_MORE, _NONE),
    (Action.SUSPEND_GLOBAL_SUBSCRIPTION, True, False, _UNCHANGED, _NONE),
)
# fmt: on

SUBSCRIPTIONS: Final[Mapping[tuple[Action, bool, bool], tuple[tuple[SubscriptionChange, ...], Subscription | None]]] = {
    (action, globally, lock): (cells, state) for action, globally, lock, cells, state in _SUBSCRIPTIONS
}
"""By action, whether it is of all steps, and whether with lock: a cell for each former subscription, and what becomes
of the AE's global subscription, None where it stays."""


def subscription_change(
    action: Action, before: Subscription, *, globally: bool, lock: bool = False
) -> SubscriptionChange:
    """What an action does to the subscription of an AE to one step."""
    return SUBSCRIPTIONS[action, globally, lock][0][_COLUMNS.index(before)]


def global_subscription(action: Action, *, lock: bool = False) -> Subscription:
    """What a global action makes of the AE's global subscription, which new steps take over."""
    state = SUBSCRIPTIONS[action, True, lock][1]
    assert state is not None
    return state


_WELL_KNOWN_ACTIONS = {
    GLOBAL_SUBSCRIPTION: (Action.SUBSCRIBE, Action.UNSUBSCRIBE, Action.SUSPEND_GLOBAL_SUBSCRIPTION),
    FILTERED_GLOBAL_SUBSCRIPTION: (Action.SUBSCRIBE,),
}


def is_appropriate(action: Action, sop_instance_uid: str) -> bool:
    """Whether a subscription action may name that instance; C314H otherwise (PS3.4 CC.2.3.2)."""
    return action in _WELL_KNOWN_ACTIONS.get(sop_instance_uid, (Action.SUBSCRIBE, Action.UNSUBSCRIBE))


# Attributes, PS3.4 Table CC.2.5-3

_PROGRESS = "ProcedureStepProgressInformationSequence"
_PERFORMED = "UnifiedProcedureStepPerformedProcedureSequence"
_ISSUER = (
    *of_type(2, "IssuerOfPatientID"),
    Required(
        "IssuerOfPatientIDQualifiersSequence",
        of_type(
            2,
            "UniversalEntityID",
            "IdentifierTypeCode",
            "AssigningFacilitySequence",
            "AssigningJurisdictionCodeSequence",
            "AssigningAgencyOrDepartmentCodeSequence",
        ),
        kind=2,
    ),
)
"""PS3.4 Table CC.2.5-2e."""

CREATION: Final = (
    *of_type(
        1,
        "ScheduledProcedureStepPriority",
        "ProcedureStepLabel",
        "ScheduledProcedureStepStartDateTime",
        "InputReadinessState",
    ),
    *of_type(
        2,
        "TransactionUID",
        "WorklistLabel",
        "ScheduledProcessingParametersSequence",
        "ScheduledStationNameCodeSequence",
        "ScheduledStationClassCodeSequence",
        "ScheduledStationGeographicLocationCodeSequence",
        "ScheduledWorkitemCodeSequence",
        "CommentsOnTheScheduledProcedureStep",
        "InputInformationSequence",
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "AdmissionID",
        "IssuerOfAdmissionIDSequence",
        "AdmittingDiagnosesDescription",
        "AdmittingDiagnosesCodeSequence",
        _PROGRESS,
        _PERFORMED,
    ),
    *_ISSUER,
    Required("OtherPatientIDsSequence", _ISSUER, kind=2),
    Required(
        "ReferencedRequestSequence",
        of_type(
            2,
            "AccessionNumber",
            "IssuerOfAccessionNumberSequence",
            "OrderPlacerIdentifierSequence",
            "OrderFillerIdentifierSequence",
            "RequestedProcedureID",
            "RequestedProcedureDescription",
            "RequestedProcedureCodeSequence",
        ),
        kind=2,
    ),
)
"""What an N-CREATE has to bring, beside the state; what is conditional for its sender only the sender can know."""

_ANY = (State.COMPLETED, State.CANCELED)
_P = (State.COMPLETED,)
_X = (State.CANCELED,)

FINAL_STATE: Final = (
    (("ScheduledProcedureStepPriority",), _ANY, True),
    (("ScheduledProcedureStepModificationDateTime",), _ANY, True),
    (("ScheduledProcedureStepStartDateTime",), _ANY, True),
    (("InputReadinessState",), _ANY, True),
    ((_PROGRESS, "ProcedureStepCancellationDateTime"), _X, True),
    ((_PROGRESS, "ProcedureStepDiscontinuationReasonCodeSequence"), _X, True),
    ((_PERFORMED, "PerformedStationNameCodeSequence"), _P, True),
    ((_PERFORMED, "PerformedProcedureStepStartDateTime"), _P, True),
    ((_PERFORMED, "PerformedWorkitemCodeSequence"), _P, True),
    ((_PERFORMED, "PerformedProcedureStepEndDateTime"), _P, True),
    ((_PERFORMED, "OutputInformationSequence"), _P, False),
)
"""Where an attribute is, which final states need it (codes R, P and X), and whether with a value or just present.

Those of code RC are not here: but for the character set, their condition is that the performer knows them, which nobody
else can tell.
"""
