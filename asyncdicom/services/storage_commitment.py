"""Storage Commitment, Push Model (PS3.4 annex J): who sent instances asks whether they are safe, and is told later.

The report may come on the association of the request or on one that the other side opens. :class:`CommitmentClient` is
ready for both, :class:`CommitmentProvider` sends it by the one or the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from asyncdicom.client import connect
from asyncdicom.command import Status
from asyncdicom.errors import AssociationError, DicomError, StatusError
from asyncdicom.instances import new_uid
from asyncdicom.pool import Backoff
from asyncdicom.presentation import Context
from asyncdicom.quirks import Quirks
from asyncdicom.retrieve import find_destination

from .references import Reference, reference, reference_item, references
from .tasks import end_tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from types import TracebackType

    from pydicom.dataset import Dataset

    from asyncdicom.association import Association, Timeouts
    from asyncdicom.operations import Response
    from asyncdicom.pool import ConnectOptions
    from asyncdicom.requests import Handler, NActionRequest, NEventReportRequest
    from asyncdicom.retrieve import Resolve

    from .references import Referable

__all__ = [
    "SOP_CLASS",
    "SOP_INSTANCE",
    "Commitment",
    "CommitmentClient",
    "CommitmentProvider",
    "FailedInstance",
    "FailureReason",
    "read_report",
    "request_commitment",
]

_log = logging.getLogger("asyncdicom")

SOP_CLASS: Final = "1.2.840.10008.1.20.1"
SOP_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
"""The only instance of it (PS3.4 J.3.5)."""
_REQUEST: Final = 1
"""Action Type ID (PS3.4 Table J.3-1)."""
_ALL_COMMITTED, _FAILURES_EXIST = 1, 2
"""Event Type IDs (PS3.4 Table J.3-2)."""


class FailureReason(enum.IntEnum):
    """Why an instance is not committed: Failure Reason (PS3.3 C.14.1.1)."""

    NOT_REPORTED = 0
    """Not of the standard: the report does not name the instance at all."""
    PROCESSING_FAILURE = 0x0110
    NO_SUCH_OBJECT_INSTANCE = 0x0112
    CLASS_INSTANCE_CONFLICT = 0x0119
    REFERENCED_SOP_CLASS_NOT_SUPPORTED = 0x0122
    DUPLICATE_TRANSACTION_UID = 0x0131
    RESOURCE_LIMITATION = 0x0213


class FailedInstance(NamedTuple):
    """An instance that is not committed."""

    sop_class_uid: str
    sop_instance_uid: str
    reason: int
    """A :class:`FailureReason`, or what else the peer sent."""

    @property
    def meaning(self) -> str:
        """The reason in words."""
        try:
            return FailureReason(self.reason).name.replace("_", " ").lower()
        except ValueError:
            return f"undefined failure reason {self.reason:04X}H"


@dataclass(frozen=True, slots=True)
class Commitment:
    """What a report says."""

    transaction_uid: str
    committed: tuple[Reference, ...]
    """The instances that are safe."""
    failed: tuple[FailedInstance, ...] = ()
    """Those that are not: keep them, and send them again."""
    retrieve_ae_title: str = ""
    """Where the instances can be retrieved, if the peer says so for all of them at once."""

    @property
    def is_complete(self) -> bool:
        """Whether all instances are safe."""
        return not self.failed


# The side that asks


async def request_commitment(
    association: Association, instances: Iterable[Referable], transaction_uid: str | None = None
) -> Response:
    """Ask for the commitment of instances (N-ACTION, PS3.4 J.3.2); returns the peer's response.

    Success only means that the peer will look: what it finds comes as an N-EVENT-REPORT with the Transaction UID, which
    is to be used for one request only. Raises ValueError for no instances.
    """
    from pydicom.dataset import Dataset  # noqa: PLC0415 - takes long to import

    information = Dataset()
    information.TransactionUID = transaction_uid or new_uid()
    information.ReferencedSOPSequence = [reference_item(each) for each in _each_once(instances)]
    return await association.n_action(SOP_CLASS, SOP_INSTANCE, _REQUEST, information)


def read_report(request: NEventReportRequest) -> Commitment:
    """What an N-EVENT-REPORT of a peer says (PS3.4 J.3.3).

    Raises StatusError, which a handler passes on, for another event (0113H) or one without a Transaction UID (0114H).
    """
    information = request.data_set
    if request.event_type_id not in (_ALL_COMMITTED, _FAILURES_EXIST):
        raise StatusError(Status(0x0113))
    if information is None or not information.get("TransactionUID"):
        raise StatusError(Status(0x0114, "Transaction UID is missing"))
    failed = information.get("FailedSOPSequence") or ()
    reasons = [int(item.get("FailureReason") or FailureReason.PROCESSING_FAILURE) for item in failed]
    return Commitment(
        str(information.TransactionUID),
        tuple(references(information.get("ReferencedSOPSequence"))),
        tuple(
            FailedInstance(*named, reason)
            for item, reason in zip(failed, reasons, strict=True)
            for named in references([item])
        ),
        str(information.get("RetrieveAETitle") or ""),
    )


class CommitmentClient:
    """Asks for commitments and waits for the reports, whichever way they come (SCU).

    It is a service: give it to :func:`~asyncdicom.connect` for reports on the same association, and to a server whose
    address the peer knows for those on an association that the peer opens; to both when the peer decides.

    ``on_report`` is a coroutine for reports that nobody waits for (any more); without it they are answered with 0115H.
    """

    contexts = (Context(SOP_CLASS, scu=True, scp=False),)  # as an acceptor too: then the peer proposes to be the SCP

    def __init__(self, on_report: Callable[[Commitment], Awaitable[None]] | None = None) -> None:
        self.handlers: Mapping[str, Handler] = {"n_event_report": self._report}
        self._on_report = on_report
        self._waiting: dict[str, asyncio.Future[Commitment]] = {}
        self._heard: deque[str] = deque(maxlen=100)
        """Transactions that were waited for and are reported, the last ones."""

    async def commit(
        self,
        association: Association,
        instances: Iterable[Referable],
        *,
        timeout: float | None = 60.0,
        release: bool = False,
        transaction_uid: str | None = None,
    ) -> Commitment:
        """Ask for the commitment of instances and wait for the report; that some are not safe is a result.

        With ``release`` the association is released once the peer has taken the request: the report then has to come
        on another one.

        Raises StatusError when the peer refuses the request, TimeoutError when there is no report after ``timeout``
        seconds, ValueError for no instances or a Transaction UID that is in use. Timeout and cancellation abort the
        association if the request is not even answered; a report that comes after them goes to ``on_report``.
        """
        wanted = _each_once(instances)
        uid = transaction_uid or new_uid()
        if uid in self._waiting:
            raise ValueError(f"the report for Transaction UID {uid} is being waited for already")
        report = self._waiting[uid] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                response = await request_commitment(association, wanted, uid)
                if response.status.is_failure:
                    raise StatusError(response.status)
                if release:
                    with contextlib.suppress(AssociationError):  # a report that comes meanwhile cannot be answered
                        await association.release()
                return _complete(await report, wanted)
        finally:
            del self._waiting[uid]

    async def _report(self, request: NEventReportRequest) -> Status:
        commitment = read_report(request)
        if commitment.transaction_uid in self._heard:
            return Status.SUCCESS  # the answer to the first one was lost
        waiting = self._waiting.get(commitment.transaction_uid)
        if waiting is not None and not waiting.done():
            self._heard.append(commitment.transaction_uid)
            waiting.set_result(commitment)
        elif self._on_report is not None:
            await self._on_report(commitment)
        else:
            return Status(0x0115, "nobody waits for this Transaction UID")
        return Status.SUCCESS


def _each_once(instances: Iterable[Referable]) -> list[Reference]:
    """The references; each instance may be named but once (PS3.4 J.3.2.1.1.3)."""
    if not (wanted := list(dict.fromkeys(map(reference, instances)))):
        raise ValueError("there are no instances to ask for")
    return wanted


def _complete(commitment: Commitment, wanted: Iterable[Reference]) -> Commitment:
    """What a report says of the instances that were asked for; what it does not call safe is not."""
    failed = {(each.sop_class_uid, each.sop_instance_uid) for each in commitment.failed}
    safe = set(commitment.committed) - failed
    left_out = tuple(
        FailedInstance(*each, FailureReason.NOT_REPORTED) for each in wanted if each not in safe and each not in failed
    )
    return Commitment(
        commitment.transaction_uid,
        tuple(each for each in wanted if each in safe),
        commitment.failed + left_out,
        commitment.retrieve_ae_title,
    )


# The side that is asked


class _Transaction(NamedTuple):
    """A request that is being looked after."""

    uid: str
    instances: tuple[Reference, ...]
    association: Association
    """On which it came."""
    ae_title: str
    """Of this side, as the request called it: the report comes from the same (PS3.4 J.3.3)."""
    peer_ae_title: str


class CommitmentProvider:
    """A service for :func:`~asyncdicom.serve`: answers requests for commitment and reports on them (SCP).

    ``check`` is a coroutine that gets the references to the instances, looks whether they are safe, for as long as that
    takes, and returns a mapping of SOP Instance UIDs to a :class:`FailureReason` for those that are not. When it
    raises, none of them is.

    The report goes on the association of the request while that is established, unless ``new_association`` is true. In
    all other cases this side opens one to where ``resolve`` says that the AE title is: a mapping to ``(host, port)`` or
    :class:`~asyncdicom.Destination`, or a function, which may be a coroutine function, that returns one of these or
    None. ``backoff`` says how often that is tried.
    ``timeouts`` are those of the new association. Requests beyond ``limit`` at a time are refused with 0213H.

    It owns the tasks that look and report: use it as an asynchronous context manager around the server, or close it.
    """

    contexts = (Context(SOP_CLASS),)

    def __init__(
        self,
        check: Callable[[Sequence[Reference]], Awaitable[Mapping[str, int]]],
        *,
        resolve: Resolve | None = None,
        new_association: bool = False,
        backoff: Backoff | None = None,
        timeouts: Timeouts | None = None,
        limit: int = 1000,
    ) -> None:
        self.handlers: Mapping[str, Handler] = {"n_action": self._action}
        self._check = check
        self._resolve = resolve
        self._new_association = new_association
        self._backoff = backoff or Backoff()
        self._timeouts = timeouts
        self._limit = limit
        self._closed = False
        self._tasks: dict[asyncio.Task[None], str] = {}
        """Each with its Transaction UID."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close(drain=10.0 if error is None else 0.0)

    async def close(self, drain: float = 10.0) -> None:
        """Give what is being looked after ``drain`` seconds to be reported, then give it up. No more is taken (0213H).

        On cancellation everything is given up at once.
        """
        self._closed = True
        await end_tasks(self._tasks, drain)

    async def _action(self, request: NActionRequest) -> Status:
        """Take a request; what is found is reported later (PS3.4 J.3.2.1.3)."""
        information = request.data_set
        if request.sop_instance_uid != SOP_INSTANCE:
            return Status(0x0112, f"the instance is {SOP_INSTANCE}")
        if request.action_type_id != _REQUEST:
            return Status(0x0123)
        if information is None or not information.get("TransactionUID"):
            return Status(0x0114, "Transaction UID is missing")
        if not (instances := references(information.get("ReferencedSOPSequence"))):
            return Status(0x0114, "Referenced SOP Sequence is missing or empty")
        if not all(map(all, instances)):
            return Status(0x0115, "a SOP Class UID or SOP Instance UID is missing")
        if self._closed or len(self._tasks) >= self._limit:
            why = "no more requests are" if self._closed else f"{self._limit} requests are being"
            return Status(0x0213, f"{why} looked after")
        transaction = _Transaction(
            str(information.TransactionUID),
            tuple(instances),
            request.association,
            request.called_ae_title,
            request.calling_ae_title,
        )
        duplicate = transaction.uid in self._tasks.values()
        task = asyncio.create_task(self._perform(transaction, duplicate=duplicate))
        self._tasks[task] = transaction.uid
        task.add_done_callback(self._tasks.pop)
        return Status.SUCCESS

    async def _perform(self, transaction: _Transaction, *, duplicate: bool) -> None:
        failures: Mapping[str, int]
        if duplicate:
            failures = _all(transaction, FailureReason.DUPLICATE_TRANSACTION_UID)
        else:
            try:
                failures = await self._check(transaction.instances)
            except Exception:  # noqa: BLE001 - it is the user's
                _log.exception("the check of a storage commitment request failed")
                failures = _all(transaction, FailureReason.PROCESSING_FAILURE)
        event, information = _report(transaction, failures)
        if not self._new_association and await self._report_here(transaction, event, information):
            return
        for failed in range(1, self._backoff.attempts + 1):
            if await self._report_there(transaction, event, information):
                return
            if failed < self._backoff.attempts:
                await asyncio.sleep(self._backoff.delay(failed))
        _log.error(
            "no storage commitment report reached %r, transaction %r", transaction.peer_ae_title, transaction.uid
        )

    async def _report_here(self, transaction: _Transaction, event: int, information: Dataset) -> bool:
        """Report on the association of the request; whether the peer took it."""
        if not transaction.association.is_established:
            return False
        return await _send(transaction.association, event, information)

    async def _report_there(self, transaction: _Transaction, event: int, information: Dataset) -> bool:
        """Report on a new association; whether the peer took it (PS3.4 J.3.3, role selection by J.3.3.1.3)."""
        peer = transaction.peer_ae_title
        try:
            destination = await find_destination(self._resolve, peer, peer)
            if destination is None:
                _log.warning("no address is known of %r, which awaits a storage commitment report", peer)
                return False
            options: ConnectOptions = {
                "called_ae_title": peer,
                "calling_ae_title": transaction.ae_title,
                "timeouts": self._timeouts,
                "quirks": Quirks(assume_roles=True),  # it is known to be forgotten in the answer
                **destination.options,
            }
            async with connect(
                destination.host,
                destination.port,
                contexts=[Context(SOP_CLASS, scu=False, scp=True)],
                **options,
            ) as association:
                return await _send(association, event, information)
        except Exception as error:  # noqa: BLE001 - of the network, or of the resolver: it is tried again
            _log.warning("the storage commitment report for %r could not be sent: %s", peer, error)
            return False


async def _send(association: Association, event: int, information: Dataset) -> bool:
    """Send a report; whether the peer took it."""
    try:
        response = await association.n_event_report(SOP_CLASS, SOP_INSTANCE, event, information)
    except DicomError as error:
        _log.warning("the storage commitment report for %r could not be sent: %s", association, error)
        return False
    if response.status.is_failure:
        _log.warning("the storage commitment report for %r was answered with %s", association, response.status)
    return not response.status.is_failure


def _all(transaction: _Transaction, reason: FailureReason) -> dict[str, int]:
    return {each.sop_instance_uid: reason for each in transaction.instances}


def _report(transaction: _Transaction, failures: Mapping[str, int]) -> tuple[int, Dataset]:
    """Event type and event information; together the two sequences name every instance (PS3.4 J.3.3.1.2)."""
    from pydicom.dataset import Dataset  # noqa: PLC0415 - takes long to import

    information = Dataset()
    information.TransactionUID = transaction.uid
    committed, failed = [], []
    for instance in transaction.instances:
        item = reference_item(instance)
        if (reason := failures.get(instance.sop_instance_uid)) is None:
            committed.append(item)
        else:
            item.FailureReason = int(reason)
            failed.append(item)
    if committed:
        information.ReferencedSOPSequence = committed
    if failed:
        information.FailedSOPSequence = failed
    return (_FAILURES_EXIST if failed else _ALL_COMMITTED), information
