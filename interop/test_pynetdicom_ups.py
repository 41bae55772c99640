"""Unified Procedure Step (PS3.4 annex CC), pynetdicom as the peer in both roles."""

import asyncio
import contextlib

import pytest
from pydicom import Dataset
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.sop_class import (
    UnifiedProcedureStepEvent,
    UnifiedProcedureStepPull,
    UnifiedProcedureStepPush,
    UnifiedProcedureStepQuery,
    UnifiedProcedureStepWatch,
)

import asyncdicom
from asyncdicom.services.unified_procedure_step import (
    GLOBAL_SUBSCRIPTION,
    UPS_CONTEXTS,
    EventType,
    State,
    UpsClient,
    UpsEvents,
    UpsManager,
)

DEADLINE = 30
UID, LOCK, WRONG_LOCK = "1.2.840.1", "1.2.840.2", "1.2.840.3"
CLASSES = [
    UnifiedProcedureStepPush,
    UnifiedProcedureStepPull,
    UnifiedProcedureStepWatch,
    UnifiedProcedureStepQuery,
]


def data_set(**values):
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def code():
    return [data_set(CodeValue="1", CodingSchemeDesignator="99TEST", CodeMeaning="meaning")]


def scheduled(**values):
    return data_set(
        ProcedureStepState="SCHEDULED",
        ScheduledProcedureStepPriority="MEDIUM",
        ProcedureStepLabel="label",
        ScheduledProcedureStepStartDateTime="20260101120000",
        InputReadinessState="READY",
        **values,
    )


PERFORMED = data_set(
    TransactionUID=LOCK,
    UnifiedProcedureStepPerformedProcedureSequence=[
        data_set(
            PerformedStationNameCodeSequence=code(),
            PerformedProcedureStepStartDateTime="20260101120000",
            PerformedWorkitemCodeSequence=code(),
            PerformedProcedureStepEndDateTime="20260101130000",
            OutputInformationSequence=[],
        )
    ],
)


# pynetdicom asks, we are the manager


def dialogue(port, calls, handlers=()):
    association = AE("WATCHER").associate(
        "127.0.0.1", port, contexts=[build_context(each) for each in CLASSES], evt_handlers=list(handlers)
    )
    assert association.is_established
    try:
        return calls(association)
    finally:
        association.release()


@contextlib.asynccontextmanager
async def our_manager(**options):
    async with asyncio.timeout(DEADLINE), UpsManager(ae_title="OURS", **options) as manager:
        async with asyncdicom.serve("127.0.0.1", 0, services=[manager]) as server:
            yield server.port


def change(association, state, lock=LOCK):
    information = data_set(ProcedureStepState=state, TransactionUID=lock)
    status, _ = association.send_n_action(
        information, 1, UnifiedProcedureStepPush, UID, meta_uid=UnifiedProcedureStepPull
    )
    return status.Status


async def test_pynetdicom_performs_a_step_of_ours():
    def calls(association):
        push, pull = UnifiedProcedureStepPush, UnifiedProcedureStepPull
        statuses = [association.send_n_create(scheduled(), push, UID)[0].Status]
        statuses.append(association.send_n_create(scheduled(), push, UID)[0].Status)
        statuses += [change(association, state) for state in ("COMPLETED", "IN PROGRESS", "IN PROGRESS")]
        statuses.append(change(association, "COMPLETED", WRONG_LOCK))
        statuses.append(change(association, "COMPLETED"))
        statuses.append(association.send_n_set(PERFORMED, push, UID, meta_uid=pull)[0].Status)
        statuses += [change(association, state) for state in ("COMPLETED", "COMPLETED", "CANCELED")]
        status, step = association.send_n_get([], push, UID, meta_uid=pull)
        return [*statuses, status.Status], step

    async with our_manager() as port:
        statuses, step = await asyncio.to_thread(dialogue, port, calls)
    assert statuses == [0, 0x0111, 0xC310, 0, 0xC302, 0xC301, 0xC304, 0, 0, 0xB306, 0xC300, 0]
    assert (step.ProcedureStepState, step.SOPInstanceUID, "TransactionUID" in step) == ("COMPLETED", UID, False)


@pytest.mark.parametrize("model", CLASSES[1:])
async def test_pynetdicom_finds_our_steps_and_never_their_locks(model):
    def calls(association):
        for number in range(3):
            step = scheduled(WorklistLabel=f"list {number % 2}")
            association.send_n_create(step, UnifiedProcedureStepPush, f"1.2.{number}")
        keys = data_set(WorklistLabel="list 0", SOPInstanceUID="", TransactionUID="")
        return list(association.send_c_find(keys, model))

    async with our_manager() as port:
        found = await asyncio.to_thread(dialogue, port, calls)
    assert [status.Status for status, _ in found] == [0xFF00, 0xFF00, 0]
    assert [match.SOPInstanceUID for _, match in found[:2]] == ["1.2.0", "1.2.2"]


async def test_pynetdicom_is_told_what_happens_to_our_steps():
    seen = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def receive(event):
        report = event.request.AffectedSOPClassUID, event.request.AffectedSOPInstanceUID, event.event_type
        loop.call_soon_threadsafe(seen.put_nowait, (*report, event.event_information))
        return 0x0000, None

    def calls(association):
        watch = {"meta_uid": UnifiedProcedureStepWatch}
        subscription = data_set(ReceivingAE="WATCHER", DeletionLock="FALSE")
        push = UnifiedProcedureStepPush
        statuses = [association.send_n_action(subscription, 3, push, GLOBAL_SUBSCRIPTION, **watch)[0].Status]
        statuses.append(association.send_n_create(scheduled(), push, UID)[0].Status)
        statuses.append(change(association, "IN PROGRESS"))
        reason = data_set(ReasonForCancellation="late")
        statuses.append(association.send_n_action(reason, 2, push, UID, **watch)[0].Status)
        statuses.append(association.send_n_action(subscription, 4, push, GLOBAL_SUBSCRIPTION, **watch)[0].Status)
        return statuses

    watcher = AE("WATCHER")
    watcher.add_supported_context(UnifiedProcedureStepEvent, scu_role=True, scp_role=True)
    server = watcher.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, receive)])
    try:
        async with our_manager(resolve={"WATCHER": server.server_address[:2]}) as port:
            assert await asyncio.to_thread(dialogue, port, calls) == [0, 0, 0, 0, 0]
            reports = [await seen.get() for _ in range(3)]
    finally:
        server.shutdown()
    assert {report[:2] for report in reports} == {(UnifiedProcedureStepPush, UID)}
    assert [report[2] for report in reports] == [1, 1, 2]
    assert [report[3].get("ProcedureStepState") for report in reports] == ["SCHEDULED", "IN PROGRESS", None]
    assert reports[2][3].RequestingAE == "WATCHER"


# We ask, pynetdicom is the manager


class TheirManager:
    """Steps in a dictionary, and no more rules than the tests need."""

    def __init__(self):
        self.steps, self.seen = {}, []
        ae = AE("THEIRS")
        for each in CLASSES:
            ae.add_supported_context(each)
        handlers = [
            (evt.EVT_N_CREATE, self.create),
            (evt.EVT_N_GET, self.get),
            (evt.EVT_N_SET, self.set),
            (evt.EVT_N_ACTION, self.act),
            (evt.EVT_C_FIND, self.find),
        ]
        self.server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self.server.server_address[1]

    def note(self, event, uid):
        name = type(event.request).__name__
        request = event.request
        sop_class = getattr(request, "AffectedSOPClassUID", None) or request.RequestedSOPClassUID
        self.seen.append((name, event.context.abstract_syntax, sop_class))
        return self.steps.get(uid)

    def create(self, event):
        self.note(event, None)
        self.steps[event.request.AffectedSOPInstanceUID] = event.attribute_list
        return 0x0000, event.attribute_list

    def get(self, event):
        step = self.note(event, event.request.RequestedSOPInstanceUID)
        return (0xC307, None) if step is None else (0x0000, step)

    def set(self, event):
        step = self.note(event, event.request.RequestedSOPInstanceUID)
        step.update(event.modification_list)
        return 0x0000, None

    def act(self, event):
        step = self.note(event, event.request.RequestedSOPInstanceUID)
        if event.action_type == 1:
            step.ProcedureStepState = event.action_information.ProcedureStepState
        self.information = event.action_information
        return 0x0000, None

    def find(self, event):
        self.note(event, None)
        for step in self.steps.values():
            yield 0xFF00, step
        yield 0x0000, None


@pytest.fixture
def their_manager():
    manager = TheirManager()
    yield manager
    manager.server.shutdown()


@contextlib.asynccontextmanager
async def our_client(port):
    async with asyncio.timeout(DEADLINE), asyncdicom.connect("127.0.0.1", port, contexts=UPS_CONTEXTS) as association:
        yield UpsClient(association)


async def test_we_perform_a_step_of_pynetdicom_s(their_manager):
    async with our_client(their_manager.port) as client:
        responses = [
            await client.create(scheduled(), UID),
            await client.change_state(UID, State.IN_PROGRESS, LOCK),
            await client.update(UID, PERFORMED),
            await client.change_state(UID, State.COMPLETED, LOCK),
            await client.get(UID),
            await client.get("1.2.999"),
        ]
    assert [response.status for response in responses] == [0, 0, 0, 0, 0, 0xC307]
    assert responses[4].data_set.ProcedureStepState == "COMPLETED"
    push, pull = UnifiedProcedureStepPush, UnifiedProcedureStepPull
    assert their_manager.seen == [("N_CREATE", push, push)] + [
        (name, pull, push) for name in ("N_ACTION", "N_SET", "N_ACTION", "N_GET", "N_GET")
    ]


async def test_we_find_steps_of_pynetdicom_s(their_manager):
    async with our_client(their_manager.port) as client:
        await client.create(scheduled(), UID)
        responses = client.find(data_set(ProcedureStepState=""))
        found = [response.data_set.ProcedureStepLabel async for response in responses]
    assert (found, responses.status) == (["label"], 0)
    assert their_manager.seen[1:] == [("C_FIND", UnifiedProcedureStepPull, UnifiedProcedureStepPull)]


async def test_pynetdicom_gets_our_subscription(their_manager):
    async with our_client(their_manager.port) as client:
        status = (await client.subscribe(lock=True)).status
    expected = data_set(ReceivingAE="ASYNCDICOM", DeletionLock="TRUE")
    assert (status, their_manager.information) == (0, expected)
    assert their_manager.seen == [("N_ACTION", UnifiedProcedureStepWatch, UnifiedProcedureStepPush)]


@pytest.mark.parametrize("roles", [[build_role(UnifiedProcedureStepEvent, scp_role=True)], []], ids=["role", "no role"])
async def test_we_receive_what_pynetdicom_reports(roles):
    def report(port):
        contexts = [build_context(UnifiedProcedureStepEvent)]
        association = AE("THEIRS").associate("127.0.0.1", port, contexts=contexts, ext_neg=roles)
        status, _ = association.send_n_event_report(
            data_set(ProcedureStepState="CANCELED"),
            1,
            UnifiedProcedureStepPush,
            UID,
            meta_uid=UnifiedProcedureStepEvent,
        )
        association.release()
        return status.Status

    events = UpsEvents()
    async with asyncio.timeout(DEADLINE), asyncdicom.serve("127.0.0.1", 0, services=[events]) as server:
        assert await asyncio.to_thread(report, server.port) == 0
        received = await anext(events)
    assert (received.sop_instance_uid, received.event_type) == (UID, EventType.STATE_REPORT)
    assert received.information.ProcedureStepState == "CANCELED"
