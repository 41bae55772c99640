"""Unified Procedure Step: worklists whose items are created, performed and watched (PS3.4 annex CC).

:class:`UpsClient` asks, :class:`UpsManager` keeps the steps and reports what happens to them, :class:`UpsEvents`
receives the reports; :mod:`.states` has the standard's tables.
"""

from asyncdicom.retrieve import Resolve

from .client import UPS_CONTEXTS, UpsClient
from .events import EventReport, UpsEvents
from .manager import GlobalSubscriber, Step, UpsManager
from .states import (
    FILTERED_GLOBAL_SUBSCRIPTION,
    GLOBAL_SUBSCRIPTION,
    MEANINGS,
    Action,
    EventType,
    State,
    Subscription,
)

__all__ = [
    "FILTERED_GLOBAL_SUBSCRIPTION",
    "GLOBAL_SUBSCRIPTION",
    "MEANINGS",
    "UPS_CONTEXTS",
    "Action",
    "EventReport",
    "EventType",
    "GlobalSubscriber",
    "Resolve",
    "State",
    "Step",
    "Subscription",
    "UpsClient",
    "UpsEvents",
    "UpsManager",
]
