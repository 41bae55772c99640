"""Metrics of servers through OpenTelemetry: what they count anyway, read when somebody collects it.

So nothing is done for them on the way of an association, and there is no task. Names and units follow the rules of
OpenTelemetry's semantic conventions, which know no DICOM: https://opentelemetry.io/docs/specs/semconv/general/naming/
"""

from __future__ import annotations

import datetime as dt
import weakref
from functools import cache, partial
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from opentelemetry.metrics import CallbackOptions, Meter, Observation

    from .server import Server

__all__ = ["observe"]


def observe(server: Server, meter: Meter | None = None) -> None:
    """Have the metrics of a server collected, by a meter of OpenTelemetry; by default one of the global provider.

    The attributes ``server.address`` and ``server.port`` say where it listens. What its workers count is added up. The
    server is not kept alive; once it is closed and its associations are over it is reported no more, so for its last
    values have the provider collect them (``force_flush``, ``shutdown``) before.

    A meter that was got before the global provider was set has to be the same object for all servers.

    Raises ImportError without ``asyncdicom[metrics]``, IndexError for a server that is closed already.
    """
    meter = meter if meter is not None else _own_meter()
    if meter not in _observed:
        _observed[meter] = _Observed(meter)
    _observed[meter].add(server)


class _Instrument(NamedTuple):
    kind: str
    name: str
    unit: str
    description: str
    values: Mapping[str, Callable[[Server], float | None]]
    """By outcome, "" for all of them; None is not reported."""


def _seconds_left(server: Server) -> float | None:
    end = server.certificate_not_after
    return (end - dt.datetime.now(dt.UTC)).total_seconds() if end is not None else None


def _lost_messages(server: Server) -> int | None:
    trail = server._audit  # of a group the one of its parent; each worker has its own
    return sum(sink.lost for sink in trail.sinks) if trail is not None else None


def _count(name: str) -> Callable[[Server], float]:
    return attrgetter(f"statistics.{name}")


_INSTRUMENTS = (
    _Instrument(
        "up_down_counter",
        "dicom.server.association.count",
        "{association}",
        "Associations that are established now",
        {"": _count("associations")},
    ),
    _Instrument(
        "counter",
        "dicom.server.association.requests",
        "{request}",
        "Association requests that were answered",
        {"accepted": _count("accepted"), "rejected": _count("rejected")},
    ),
    _Instrument(
        "counter",
        "dicom.server.association.aborted",
        "{association}",
        "Associations that ended in another way than by a release",
        {"": _count("aborted")},
    ),
    _Instrument(
        "counter",
        "dicom.server.instances",
        "{instance}",
        "Instances that peers sent by C-STORE",
        {"stored": _count("instances"), "failed": _count("failures")},
    ),
    _Instrument(
        "counter",
        "dicom.server.received",
        "By",
        "Data sets of the instances that were stored",
        {"": _count("bytes")},
    ),
    _Instrument(
        "counter",
        "dicom.server.connection.turned_away",
        "{connection}",
        "Connections that were closed before an association request, as TLS failed or was not spoken",
        {"": _count("turned_away")},
    ),
    _Instrument(
        "gauge",
        "dicom.server.certificate.time_left",
        "s",
        "Time until the server's certificate expires, negative afterwards",
        {"": _seconds_left},
    ),
    _Instrument(
        "counter",
        "dicom.server.audit.lost",
        "{message}",
        "Audit messages that could not be kept until they were written",
        {"": _lost_messages},
    ),
)


class _Observed:
    """The servers of one meter: who makes an instrument of the same name again is not heard."""

    def __init__(self, meter: Meter) -> None:
        self._servers: tuple[tuple[weakref.ref[Server], dict[str, str | int]], ...] = ()
        """With their attributes; replaced as a whole, as collectors have threads of their own."""
        for each in _INSTRUMENTS:
            make = getattr(meter, f"create_observable_{each.kind}")
            make(each.name, callbacks=[partial(self._read, each)], unit=each.unit, description=each.description)

    def add(self, server: Server) -> None:
        address, port = server.addresses[0]
        others = ((reference, its) for reference, its in self._servers if reference() not in (None, server))
        self._servers = (*others, (weakref.ref(server), {"server.address": address, "server.port": port}))

    def _read(self, instrument: _Instrument, options: CallbackOptions) -> Iterator[Observation]:  # noqa: ARG002
        from opentelemetry.metrics import Observation  # noqa: PLC0415 - an extra

        for reference, attributes in self._servers:
            server = reference()
            if server is None or _is_over(server):
                continue
            for outcome, read in instrument.values.items():
                if (value := read(server)) is not None:
                    yield Observation(value, {**attributes, "dicom.outcome": outcome} if outcome else attributes)


def _is_over(server: Server) -> bool:
    listens = server._listener is not None and server._listener.sockets
    return not listens and not server.statistics.associations


_observed: weakref.WeakKeyDictionary[Meter, _Observed] = weakref.WeakKeyDictionary()


@cache
def _own_meter() -> Meter:
    """One for all: before a provider is set, each call would make another."""
    from . import __version__  # noqa: PLC0415 - beside what needs it

    try:
        from opentelemetry.metrics import get_meter  # noqa: PLC0415 - an extra
    except ImportError:
        raise ImportError("opentelemetry-api is needed for metrics; install asyncdicom[metrics]") from None
    return get_meter("asyncdicom", __version__)
