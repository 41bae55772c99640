"""Unified Procedure Step (PS3.4 annex CC): the standard's tables cell by cell, then real associations."""

import asyncio
import copy
import logging
import shelve
from contextlib import asynccontextmanager
from itertools import product

import pytest
from pydicom import Dataset
from raw_peer import raw_client
from standard_tables import DIMSE, SERVICES, attribute_rows, items_at, may_be_empty, to_be_sent

import asyncdicom
from asyncdicom.command import Command, CommandField
from asyncdicom.dimse import encode_command
from asyncdicom.errors import StatusError
from asyncdicom.presentation import Context
from asyncdicom.services.unified_procedure_step import (
    FILTERED_GLOBAL_SUBSCRIPTION,
    GLOBAL_SUBSCRIPTION,
    MEANINGS,
    UPS_CONTEXTS,
    EventType,
    GlobalSubscriber,
    State,
    Subscription,
    UpsClient,
    UpsEvents,
    UpsManager,
)
from asyncdicom.uids import UNIFIED_PROCEDURE_STEP_EVENT as UPS_EVENT
from asyncdicom.uids import UNIFIED_PROCEDURE_STEP_PULL as UPS_PULL
from asyncdicom.uids import UNIFIED_PROCEDURE_STEP_PUSH as UPS_PUSH
from asyncdicom.uids import UNIFIED_PROCEDURE_STEP_QUERY as UPS_QUERY
from asyncdicom.uids import UNIFIED_PROCEDURE_STEP_WATCH as UPS_WATCH

UPS = SERVICES["services"]["ups"]
UID, LOCK, WRONG_LOCK = "1.2.840.1", "1.2.840.2", "1.2.840.3"


def data_set(**values):
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def code(value="1"):
    return [data_set(CodeValue=value, CodingSchemeDesignator="99TEST", CodeMeaning="meaning")]


def scheduled(**values):
    return data_set(
        ProcedureStepState="SCHEDULED",
        ScheduledProcedureStepPriority="MEDIUM",
        ProcedureStepLabel="label",
        ScheduledProcedureStepStartDateTime="20260101120000",
        InputReadinessState="READY",
        PatientName="Doe^John",
        **values,
    )


PROGRESS = [
    data_set(
        ProcedureStepCancellationDateTime="20260101130000", ProcedureStepDiscontinuationReasonCodeSequence=code("9")
    )
]
PERFORMED = [
    data_set(
        PerformedStationNameCodeSequence=code(),
        PerformedProcedureStepStartDateTime="20260101120000",
        PerformedWorkitemCodeSequence=code(),
        PerformedProcedureStepEndDateTime="20260101130000",
        OutputInformationSequence=[],
    )
]


class Manager(UpsManager):
    """One that keeps the reports it would send."""

    def __init__(self, **options):
        super().__init__(**options)
        self.sent = []

    def _send(self, ae_titles, report):
        self.sent += [(ae_title, copy.deepcopy(report)) for ae_title in ae_titles]

    def reports(self):
        """What was reported since it was asked for: states, or event types."""
        sent, self.sent = self.sent, []
        return [
            report.information.ProcedureStepState if report.event_type == EventType.STATE_REPORT else report.event_type
            for _, report in sent
        ]


def manager_with(state, **options):
    """A manager whose only step is in that state (None: has no step), ready to become final, and watched."""
    manager = Manager(**options)
    if state is not None:
        manager.create(scheduled(), UID)
        manager.subscribe("WATCHER", UID)
    if state not in (None, "SCHEDULED"):
        manager.change_state(UID, State.IN_PROGRESS, LOCK)
        manager.update(UID, modifications(LOCK))
    if state in ("COMPLETED", "CANCELED"):
        manager.change_state(UID, State(state), LOCK)
    manager.reports()
    return manager


def modifications(transaction_uid=LOCK):
    return data_set(
        TransactionUID=transaction_uid,
        ProcedureStepProgressInformationSequence=PROGRESS,
        UnifiedProcedureStepPerformedProcedureSequence=PERFORMED,
    )


def status_of(call, *arguments, **options):
    """A failure status is raised where the network would be answered it."""
    try:
        return call(*arguments, **options)
    except StatusError as error:
        return error.status


# Table CC.1.1-2

STATES = [None, *UPS["state_transitions"]["columns"][1:]]
DONE = {
    "create, SCHEDULED, empty Transaction UID": ("SCHEDULED", []),
    "record Transaction UID, IN PROGRESS, report": ("IN PROGRESS", ["IN PROGRESS"]),
    "COMPLETED and report if final state requirements are met, else C304H": ("COMPLETED", ["COMPLETED"]),
    "CANCELED and report if final state requirements are met, else C304H": ("CANCELED", ["CANCELED"]),
    "report IN PROGRESS, report CANCELED, CANCELED": ("CANCELED", ["IN PROGRESS", "CANCELED"]),
    "report that a cancel was requested (performer decides)": ("IN PROGRESS", [EventType.CANCEL_REQUESTED]),
}
"""What a step is after a request that is granted, and what is reported."""


def locks(row, state):
    """The Transaction UIDs that a row of the table means."""
    if not row.endswith("not correct or absent"):
        return [LOCK]
    return [""] if state == "SCHEDULED" else ["", WRONG_LOCK]  # nothing is recorded yet that another would not be


CELLS = [
    (row, state, cell, lock)
    for row, cells in UPS["state_transitions"]["rows"].items()
    for state, cell in zip(STATES, cells, strict=True)
    for lock in locks(row, state)
]


def request(manager, row, lock):
    if row == "N-CREATE":
        return status_of(manager.create, scheduled(), UID)
    if row == "Request Cancel":
        return status_of(manager.request_cancel, UID, None, "ASKER")
    state = row.removeprefix("Change State to ").partition(",")[0]
    return status_of(manager.change_state, UID, State(state), lock)


@pytest.mark.parametrize(("row", "state", "cell", "lock"), CELLS)
def test_a_request_does_to_a_step_what_the_table_of_states_says(row, state, cell, lock):
    manager = manager_with(state)
    status = request(manager, row, lock)
    after, reported = DONE.get(cell, (state, []))
    assert status == (0 if cell in DONE else int(cell[:4], 16))
    assert manager._state(UID) == after
    assert manager.reports() == reported


def test_every_status_that_the_standard_has_for_steps_has_a_meaning():
    services = DIMSE["status_by_service_class"]
    of_steps = [rows for name, kinds in services.items() if name.startswith("UPS: ") for rows in kinds.values()]
    codes = {int(row["from"][:4], 16) for rows in of_steps for row in rows}
    assert set(MEANINGS) == {each for each in codes if each >> 8 in (0xB3, 0xC3)}


def test_a_new_step_has_no_transaction_uid_and_the_first_one_locks_it():
    manager = manager_with("SCHEDULED")
    assert manager.steps[UID].transaction_uid == ""
    manager.change_state(UID, State.IN_PROGRESS, LOCK)
    assert manager.steps[UID].transaction_uid == LOCK


# Table CC.2.5-3: final states

REQUIRED = [
    # where                                          attribute                                    COMPLETED CANCELED
    (None, "ScheduledProcedureStepPriority", True, True),
    (None, "ScheduledProcedureStepModificationDateTime", True, True),
    (None, "ScheduledProcedureStepStartDateTime", True, True),
    (None, "InputReadinessState", True, True),
    (None, "ProcedureStepLabel", False, False),
    (None, "UnifiedProcedureStepPerformedProcedureSequence", True, False),
    ("UnifiedProcedureStepPerformedProcedureSequence", "PerformedStationNameCodeSequence", True, False),
    ("UnifiedProcedureStepPerformedProcedureSequence", "PerformedProcedureStepStartDateTime", True, False),
    ("UnifiedProcedureStepPerformedProcedureSequence", "PerformedWorkitemCodeSequence", True, False),
    ("UnifiedProcedureStepPerformedProcedureSequence", "PerformedProcedureStepEndDateTime", True, False),
    ("UnifiedProcedureStepPerformedProcedureSequence", "OutputInformationSequence", True, False),
]


@pytest.mark.parametrize("final", ["COMPLETED", "CANCELED"])
@pytest.mark.parametrize(("sequence", "keyword", "completed", "canceled"), REQUIRED)
def test_a_step_that_lacks_what_a_final_state_needs_does_not_get_there(sequence, keyword, completed, canceled, final):
    manager = manager_with("IN PROGRESS")
    step = manager.steps[UID].data_set
    delattr(step[sequence].value[0] if sequence else step, keyword)
    required = {"COMPLETED": completed, "CANCELED": canceled}[final]
    assert status_of(manager.change_state, UID, State(final), LOCK) == (0xC304 if required else 0)
    assert manager._state(UID) == ("IN PROGRESS" if required else final)


def test_a_step_that_lacks_something_says_what():
    manager = manager_with("IN PROGRESS")
    del manager.steps[UID].data_set.InputReadinessState
    assert status_of(manager.change_state, UID, State.COMPLETED, LOCK).offending_element == (0x00404041,)


def test_output_need_not_be_there_when_there_is_none():
    manager = manager_with("IN PROGRESS")
    performed = manager.steps[UID].data_set.UnifiedProcedureStepPerformedProcedureSequence[0]
    assert performed["OutputInformationSequence"].value == []
    assert manager.change_state(UID, State.COMPLETED, LOCK) == 0


def test_the_manager_says_when_and_why_a_step_was_canceled_if_nobody_else_does():
    manager = Manager()
    manager.create(scheduled(), UID)
    manager.change_state(UID, State.IN_PROGRESS, LOCK)
    assert manager.change_state(UID, State.CANCELED, LOCK) == 0
    progress = manager.get(UID).ProcedureStepProgressInformationSequence[0]
    assert progress.ProcedureStepCancellationDateTime
    assert progress.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "110513"


def test_the_reason_of_a_request_to_cancel_becomes_that_of_the_step():
    manager = manager_with("SCHEDULED")
    reason = data_set(ReasonForCancellation="no need", ProcedureStepDiscontinuationReasonCodeSequence=code("7"))
    manager.request_cancel(UID, reason, "ASKER")
    reports = [report.information for _, report in manager.sent]
    assert [each.ReasonForCancellation for each in reports] == ["no need", "no need"]
    assert reports[1].ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "7"


def test_a_request_to_cancel_that_reaches_nobody_says_so():
    manager = manager_with("IN PROGRESS")
    manager.unsubscribe("WATCHER", UID)
    assert status_of(manager.request_cancel, UID, None, "ASKER") == 0xC312


def test_those_who_watch_learn_who_wants_a_step_canceled_and_why():
    manager = manager_with("IN PROGRESS")
    manager.request_cancel(UID, data_set(ReasonForCancellation="r", ContactURI="u", PatientName="No^Matter"), "ASKER")
    (_, report), *_ = manager.sent
    assert report.event_type == EventType.CANCEL_REQUESTED
    assert report.information == data_set(ReasonForCancellation="r", ContactURI="u", RequestingAE="ASKER")


# CC.2.6: N-SET

UPDATES = {
    # the Transaction UID is: absent, as recorded, another
    "SCHEDULED": (0, 0xC310, 0xC310),
    "IN PROGRESS": (0xC301, 0, 0xC301),
    "COMPLETED": (0xC300, 0xC300, 0xC300),
    "CANCELED": (0xC300, 0xC300, 0xC300),
    None: (0xC307, 0xC307, 0xC307),
}


@pytest.mark.parametrize(("state", "which"), list(product(UPDATES, range(3))))
def test_only_its_performer_changes_a_step(state, which):
    manager = manager_with(state)
    change = data_set(ProcedureStepLabel="new")
    if which:
        change.TransactionUID = (LOCK, WRONG_LOCK)[which - 1]
    expected = UPDATES[state][which]
    assert status_of(manager.update, UID, change) == expected
    if state is not None:
        assert (manager.get(UID).ProcedureStepLabel == "new") is (expected == 0)


@pytest.mark.parametrize(
    ("keyword", "value"), [("ProcedureStepState", "COMPLETED"), ("SOPClassUID", "1.2"), ("SOPInstanceUID", "1.2")]
)
def test_what_a_step_is_cannot_be_set(keyword, value):
    manager = manager_with("SCHEDULED")
    status = status_of(manager.update, UID, data_set(**{keyword: value}))
    assert (status, len(status.offending_element)) == (0x0106, 1)


def test_what_a_step_is_may_be_named_in_a_change():
    manager = manager_with("SCHEDULED")
    assert manager.update(UID, data_set(SOPInstanceUID=UID, ProcedureStepState="SCHEDULED", WorklistLabel="w")) == 0


def test_a_change_in_another_character_set_makes_the_step_utf_8():
    manager = Manager()
    manager.create(scheduled(SpecificCharacterSet="ISO_IR 100", WorklistLabel="Ä"), UID)
    manager.update(UID, data_set(SpecificCharacterSet="ISO_IR 144", ProcedureStepLabel="Ж"))
    step = manager.get(UID)
    assert (step.SpecificCharacterSet, step.WorklistLabel, step.ProcedureStepLabel) == ("ISO_IR 192", "Ä", "Ж")


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        ({"ProcedureStepLabel": "new"}, []),
        ({"InputReadinessState": "INCOMPLETE"}, ["SCHEDULED"]),
        ({"InputReadinessState": "READY"}, []),
        (
            {"ProcedureStepProgressInformationSequence": [data_set(ProcedureStepProgress="5")]},
            [EventType.PROGRESS_REPORT],
        ),
        ({"ScheduledStationNameCodeSequence": code()}, [EventType.ASSIGNED]),
        (
            {"ScheduledHumanPerformersSequence": [data_set(HumanPerformerCodeSequence=code(v)) for v in "ab"]},
            [EventType.ASSIGNED, EventType.ASSIGNED],
        ),
    ],
)
def test_a_change_is_reported_if_it_concerns_others(change, reported):
    manager = manager_with("SCHEDULED")
    manager.update(UID, data_set(**change))
    assert manager.reports() == reported
    manager.update(UID, data_set(**change))
    assert manager.reports() == []


# CC.2.5: N-CREATE


@pytest.mark.parametrize("state", ["IN PROGRESS", "COMPLETED", "CANCELED", "NONSENSE", ""])
def test_a_step_is_created_scheduled_or_not_at_all(state):
    step = scheduled()
    step.ProcedureStepState = state
    assert status_of(Manager().create, step, UID) == 0xC309


REQUIRED = [path[0] for path, cell in attribute_rows("ups", 1) if len(path) == 1 and cell == "1/1"]


@pytest.mark.parametrize("keyword", [keyword for keyword in REQUIRED if keyword != "ProcedureStepState"])
def test_a_step_has_what_is_required(keyword):
    without, empty = scheduled(), scheduled()
    delattr(without, keyword)
    setattr(empty, keyword, None)
    assert [status_of(Manager().create, each, UID) for each in (without, empty)] == [0x0120, 0x0121]


@pytest.mark.parametrize("uid", ["", "1.2/../3", "1" * 65])
def test_a_step_has_a_uid(uid):
    assert status_of(Manager().create, scheduled(), uid) == 0x0117


def test_a_lock_that_is_brought_along_is_dropped():
    manager = Manager()
    assert manager.create(scheduled(TransactionUID=WRONG_LOCK), UID) == 0xB300
    assert "TransactionUID" not in manager.get(UID)
    assert manager.change_state(UID, State.IN_PROGRESS, LOCK) == 0


def test_what_nobody_has_done_yet_is_dropped_of_a_new_step():
    manager = Manager()
    done = {keyword: value for keyword, value in vars_of(modifications()).items() if keyword != "TransactionUID"}
    for number, (keyword, value) in enumerate(done.items()):
        assert manager.create(scheduled(**{keyword: value}), f"1.2.{number}") == 0xB300
        assert manager.get(f"1.2.{number}")[keyword].is_empty


def vars_of(step):
    return {element.keyword: element.value for element in step}


def test_a_step_that_is_on_no_worklist_is_on_the_manager_s():
    manager = Manager(ae_title="MANAGER")
    assert [manager.create(scheduled(**more), f"1.2.{number}") for number, more in enumerate(LABELS)] == [0, 0, 0]
    assert [step.data_set.WorklistLabel for step in manager.steps.values()] == ["MANAGER", "MANAGER", "mine"]


LABELS = ({}, {"WorklistLabel": ""}, {"WorklistLabel": "mine"})


def test_an_empty_lock_and_the_caller_s_data_set_are_left_alone():
    manager = Manager()
    step = scheduled(TransactionUID="")
    before = copy.deepcopy(step)
    assert manager.create(step, UID) == 0
    assert step == before


def test_the_oldest_step_that_is_done_makes_room_for_a_new_one():
    manager = manager_with("COMPLETED", max_steps=2)
    manager.create(scheduled(), "1.2.1")
    manager.create(scheduled(), "1.2.2")
    assert list(manager.steps) == ["1.2.1", "1.2.2"]
    assert status_of(manager.create, scheduled(), "1.2.3") == 0x0213


def test_a_deletion_lock_keeps_a_step_until_it_is_taken_back():
    manager = manager_with("CANCELED", max_steps=1)
    manager.subscribe("KEEPER", UID, lock=True)
    assert status_of(manager.create, scheduled(), "1.2.1") == 0x0213
    manager.subscribe("KEEPER", UID, lock=False)
    assert manager.create(scheduled(), "1.2.1") == 0


# Table CC.2.3-2

SUBSCRIPTIONS = {
    "Not subscribed": Subscription.NONE,
    "Subscribed with lock": Subscription.WITH_LOCK,
    "Subscribed without lock": Subscription.WITHOUT_LOCK,
}
BECOMES = {
    "subscribe with lock": Subscription.WITH_LOCK,
    "with lock": Subscription.WITH_LOCK,
    "subscribe without lock": Subscription.WITHOUT_LOCK,
    "without lock": Subscription.WITHOUT_LOCK,
    "not subscribed": Subscription.NONE,
}
GLOBALLY = {
    "with lock": Subscription.WITH_LOCK,
    "without lock": Subscription.WITHOUT_LOCK,
    "none": Subscription.NONE,
}
CALLS = {
    "Subscribe globally with lock": lambda manager: manager.subscribe("AE", lock=True),
    "Subscribe globally without lock": lambda manager: manager.subscribe("AE"),
    "Subscribe to one UPS with lock": lambda manager: manager.subscribe("AE", UID, lock=True),
    "Subscribe to one UPS without lock": lambda manager: manager.subscribe("AE", UID),
    "Unsubscribe from one UPS": lambda manager: manager.unsubscribe("AE", UID),
    "Unsubscribe globally": lambda manager: manager.unsubscribe("AE"),
    "Suspend global subscription": lambda manager: manager.suspend_global_subscription("AE"),
}
SUBSCRIPTION_CELLS = [
    (row, before, cell)
    for row, cells in UPS["subscription_transitions"]["rows"].items()
    for before, cell in zip(UPS["subscription_transitions"]["columns"], cells, strict=True)
]


@pytest.mark.parametrize("globally", list(Subscription))
@pytest.mark.parametrize(("row", "before", "cell"), SUBSCRIPTION_CELLS)
def test_a_subscription_becomes_what_the_table_of_subscriptions_says(row, before, cell, globally):
    manager = Manager()
    manager.create(scheduled(), UID)
    subscribers, everything = manager.steps[UID].subscribers, manager.global_subscribers
    if SUBSCRIPTIONS[before] is not Subscription.NONE:
        subscribers["AE"] = SUBSCRIPTIONS[before]
    if globally is not Subscription.NONE:
        everything["AE"] = GlobalSubscriber(globally)
    assert CALLS[row](manager) == 0
    of_one, _, of_all = cell.partition("; global state ")
    change = of_one.replace(" (every instance)", "").removesuffix(", initial event")
    assert subscribers.get("AE", Subscription.NONE) is BECOMES.get(change, SUBSCRIPTIONS[before])
    assert manager.reports() == ["SCHEDULED"] * ("initial event" in of_one)
    assert everything.get("AE", GlobalSubscriber(Subscription.NONE)).subscription is (
        GLOBALLY[of_all] if of_all else globally
    )


@pytest.mark.parametrize("globally", list(Subscription))
def test_a_new_step_takes_the_global_subscription_over(globally):
    manager = Manager()
    if globally is not Subscription.NONE:
        manager.global_subscribers["AE"] = GlobalSubscriber(globally)
    manager.create(scheduled(), UID)
    assert manager.steps[UID].subscribers.get("AE", Subscription.NONE) is globally
    assert manager.reports() == ["SCHEDULED"] * (globally is not Subscription.NONE)


def test_a_filtered_subscription_is_to_what_matches_now_and_later():
    manager = Manager()
    manager.create(scheduled(), "1.2.1")
    manager.create(scheduled(WorklistLabel="urgent"), "1.2.2")
    manager.subscribe("AE", FILTERED_GLOBAL_SUBSCRIPTION, matching_keys=data_set(WorklistLabel="urgent"))
    manager.create(scheduled(WorklistLabel="urgent"), "1.2.3")
    manager.create(scheduled(), "1.2.4")
    assert [uid for uid, step in manager.steps.items() if step.subscribers] == ["1.2.2", "1.2.3"]


def test_keys_that_are_none_are_refused_and_nobody_is_subscribed():
    manager = Manager()
    keys = data_set(ScheduledWorkitemCodeSequence=[*code("1"), *code("2")])  # one item is allowed
    assert status_of(manager.subscribe, "AE", FILTERED_GLOBAL_SUBSCRIPTION, matching_keys=keys) == 0x0115
    assert not manager.global_subscribers


def test_everybody_who_is_subscribed_learns_that_the_manager_goes_down():
    manager = manager_with("SCHEDULED")
    manager.subscribe("EVERYTHING")
    manager.announce("GOING DOWN", also=["FALLBACK"])
    assert [ae_title for ae_title, _ in manager.sent] == ["EVERYTHING", "FALLBACK", "WATCHER"]
    report = manager.sent[0][1]
    assert (report.sop_instance_uid, report.event_type) == (GLOBAL_SUBSCRIPTION, EventType.SCP_STATUS_CHANGE)
    assert report.information.SCPStatus == "GOING DOWN"


def test_steps_and_subscriptions_can_be_kept_in_a_file(tmp_path):
    files = [str(tmp_path / name) for name in ("steps", "subscribers")]
    with shelve.open(files[0]) as steps, shelve.open(files[1]) as subscribers:
        manager = Manager(steps=steps, global_subscribers=subscribers)
        manager.subscribe("AE", FILTERED_GLOBAL_SUBSCRIPTION, lock=True, matching_keys=data_set(WorklistLabel="a"))
        manager.create(scheduled(WorklistLabel="a"), UID)
        manager.change_state(UID, State.IN_PROGRESS, LOCK)
    with shelve.open(files[0]) as steps, shelve.open(files[1]) as subscribers:
        manager = Manager(steps=steps, global_subscribers=subscribers)
        assert manager.update(UID, modifications(LOCK)) == 0
        assert manager.change_state(UID, State.COMPLETED, LOCK) == 0
        assert manager.reports() == [EventType.PROGRESS_REPORT, "COMPLETED"]
        assert manager.global_subscribers["AE"].keys.WorklistLabel == "a"


def test_every_change_is_written_back_to_the_mapping():
    class Recorder(dict):
        written = 0

        def __setitem__(self, key, value):
            self.written += 1
            super().__setitem__(key, value)

    steps = Recorder()
    manager = Manager(steps=steps)
    calls = [
        lambda: manager.create(scheduled(), UID),
        lambda: manager.subscribe("AE", UID),
        lambda: manager.update(UID, data_set(ProcedureStepLabel="new")),
        lambda: manager.change_state(UID, State.IN_PROGRESS, LOCK),
    ]
    for number, call in enumerate(calls, 1):
        call()
        assert steps.written == number


# Over the network


@asynccontextmanager
async def worklist(manager, contexts=UPS_CONTEXTS):
    """A client of a manager, called WATCHER."""
    async with asyncio.timeout(30):
        async with asyncdicom.serve("127.0.0.1", 0, ae_title="MANAGER", services=[manager]) as server:
            async with asyncdicom.connect(
                "127.0.0.1",
                server.port,
                called_ae_title="MANAGER",
                calling_ae_title="WATCHER",
                contexts=contexts,
            ) as association:
                yield UpsClient(association)


@asynccontextmanager
async def watched(events, **options):
    """A client of a manager that reports to these events."""
    async with asyncdicom.serve("127.0.0.1", 0, ae_title="WATCHER", services=[events]) as watcher:
        destinations = {"WATCHER": ("127.0.0.1", watcher.port)}
        async with UpsManager(resolve=destinations, ae_title="MANAGER", **options) as manager:
            async with worklist(manager) as client:
                client.manager, client.watcher = manager, watcher
                yield client


async def test_a_step_is_created_performed_and_completed():
    async with worklist(UpsManager()) as client:
        created = await client.create(scheduled())
        uid = created.sop_instance_uid
        statuses = [
            created.status,
            (await client.change_state(uid, State.IN_PROGRESS, LOCK)).status,
            (await client.update(uid, modifications(LOCK))).status,
            (await client.change_state(uid, "COMPLETED", LOCK)).status,
        ]
        assert statuses == [0, 0, 0, 0]
        assert (await client.get(uid, ["ProcedureStepState"])).data_set == data_set(ProcedureStepState="COMPLETED")


def bare():
    """What its user has to say itself: type 1, in an item of each sequence."""
    issuer = [data_set(UniversalEntityID="1.2.3", UniversalEntityIDType="ISO")]
    others = [data_set(PatientID="1"), data_set(PatientID="2", IssuerOfPatientIDQualifiersSequence=issuer)]
    return scheduled(
        PatientID="1",
        IssuerOfPatientIDQualifiersSequence=issuer,
        OtherPatientIDsSequence=others,
        ReferencedRequestSequence=[data_set(StudyInstanceUID="1.2.3")],
    )


class Recorder(UpsManager):
    """One that keeps what it was asked to create."""

    def create(self, data_set, sop_instance_uid):
        self.asked = data_set
        return super().create(data_set, sop_instance_uid)


async def test_a_new_step_is_sent_with_all_that_the_standard_wants_to_be_there():
    manager, given = Recorder(), bare()
    before = copy.deepcopy(given)
    async with worklist(manager) as client:
        assert (await client.create(given)).status == 0
    paths = to_be_sent("ups", 1)
    paths = [path for path in paths if "ScheduledHumanPerformersSequence" not in path]
    assert all(items_at(manager.asked, path) for path in paths)
    lacking = [path for path in paths if any(path[-1] not in each for each in items_at(manager.asked, path))]
    assert (lacking, given) == ([], before)


async def test_what_may_be_empty_may_be_missing_and_the_log_says_so(caplog):
    caplog.set_level(logging.INFO, "asyncdicom")
    manager = Recorder()
    async with worklist(manager) as client:
        await client.create(bare(), UID)
        assert "left out" not in caplog.text
        sent, paths = manager.asked, may_be_empty("ups", 1)
        for number, path in enumerate(paths):
            without = copy.deepcopy(sent)
            for each in items_at(without, path):
                del each[path[-1]]
            response = await client.association.n_create(UPS_PUSH, without, f"1.2.4.{number}")
            assert response.status == 0
            assert caplog.messages[-1].endswith(f"shall be there: {path[-1]}")
    assert len(paths) == 41
    assert "Doe" not in caplog.text


async def test_a_failure_comes_with_its_meaning_and_the_attributes():
    async with worklist(UpsManager()) as client:
        await client.create(scheduled(), UID)
        await client.change_state(UID, State.IN_PROGRESS, LOCK)
        status = (await client.change_state(UID, State.COMPLETED, LOCK)).status
    assert (status, status.error_comment) == (0xC304, MEANINGS[0xC304])
    assert 0x00404028 in status.offending_element


async def test_the_lock_is_never_given_out():
    async with worklist(UpsManager()) as client:
        await client.create(scheduled(), UID)
        await client.change_state(UID, State.IN_PROGRESS, LOCK)
        await client.update(UID, modifications(LOCK))
        answers = [await client.get(UID), await client.get(UID, ["TransactionUID", "ProcedureStepState"])]
        answers += [each async for each in client.find(data_set(TransactionUID="", ProcedureStepState=""))]
        answers += [each async for each in client.find(data_set(TransactionUID=WRONG_LOCK, SOPInstanceUID=""))]
    assert [answer.status for answer in answers] == [0, 1, 0xFF00, 0xFF00]
    assert not any(LOCK.encode() in answer.data for answer in answers)


async def test_texts_come_back_as_they_were_in_any_character_set():
    async with worklist(UpsManager()) as client:
        step = scheduled(SpecificCharacterSet="ISO_IR 100", WorklistLabel="Käse")
        step.PatientName = "Müller^Jürgen"
        await client.create(step, UID)
        await client.update(UID, data_set(SpecificCharacterSet="ISO_IR 144", ProcedureStepLabel="Сыр"))
        found = (await client.get(UID, ["PatientName", "WorklistLabel", "ProcedureStepLabel"])).data_set
    assert (found.PatientName, found.WorklistLabel, found.ProcedureStepLabel) == ("Müller^Jürgen", "Käse", "Сыр")


@pytest.mark.parametrize("context", [UPS_PULL, UPS_WATCH, UPS_QUERY])
async def test_steps_are_found_on_every_context_that_has_a_query(context):
    manager = UpsManager()
    for number in range(300):
        manager.create(scheduled(WorklistLabel=f"list {number % 2}"), f"1.2.{number}")
    async with worklist(manager, [context]) as client:
        keys = data_set(WorklistLabel="list 1", SOPInstanceUID="")
        found = [match.data_set.SOPInstanceUID async for match in client.find(keys)]
    assert found == [f"1.2.{number}" for number in range(1, 300, 2)]


async def test_a_query_that_is_none_is_refused():
    async with worklist(UpsManager()) as client:
        final = await client.find(data_set(ScheduledWorkitemCodeSequence=[*code("1"), *code("2")]))
    assert final.status == 0xA900


@pytest.mark.parametrize("context", UPS_CONTEXTS)
async def test_any_context_carries_messages_that_name_push(context):
    async with worklist(UpsManager(), [context]) as client:
        association = client.association
        created = await association.n_create(UPS_PUSH, scheduled(), UID, context=context)
        got = await association.n_get(UPS_PUSH, UID)
    assert (created.status, got.status) == (0, 0)


async def test_a_step_does_not_grow_without_end():
    async with worklist(UpsManager()) as client:
        await client.create(scheduled(), UID)
        statuses = []
        for element in range(0x1001, 0x1005):
            more = data_set()
            more.add_new(0x00091000 | element, "OB", bytes(400_000))
            statuses.append((await client.update(UID, more)).status)
        more.add_new(0x00091005, "OB", bytes(1 << 20))
        statuses += [(await client.update(UID, more)).status, (await client.create(scheduled(), "1.2.3")).status]
    assert statuses == [0, 0, 0x0213, 0x0213, 0x0213, 0]


async def test_what_was_not_negotiated_is_not_asked_for():
    async with worklist(UpsManager(), [UPS_QUERY]) as client:
        with pytest.raises(asyncdicom.NoAcceptedContext):
            await client.create(scheduled())


async def test_a_step_cannot_be_deleted():
    async with worklist(UpsManager()) as client:
        await client.create(scheduled(), UID)
        assert (await client.association.n_delete(UPS_PUSH, UID)).status == 0x0211


REFUSED = [
    (6, UID, {}, 0x0123),
    (1, UID, {"TransactionUID": LOCK}, 0x0115),
    (1, UID, {"TransactionUID": LOCK, "ProcedureStepState": "DONE"}, 0x0115),
    (1, "1.2.999", {"TransactionUID": LOCK, "ProcedureStepState": "IN PROGRESS"}, 0xC307),
    (1, UID, {"TransactionUID": [LOCK, LOCK], "ProcedureStepState": "IN PROGRESS"}, 0x0115),
    (3, UID, {"DeletionLock": "TRUE"}, 0x0115),
    (3, UID, {"ReceivingAE": "WATCHER"}, 0x0115),
    (3, UID, {"ReceivingAE": "WATCHER", "DeletionLock": "MAYBE"}, 0x0115),
    (3, UID, {"ReceivingAE": "STRANGER", "DeletionLock": "TRUE"}, 0xC308),
    (3, "1.2.999", {"ReceivingAE": "WATCHER", "DeletionLock": "TRUE"}, 0xC307),
    (4, FILTERED_GLOBAL_SUBSCRIPTION, {"ReceivingAE": "WATCHER"}, 0xC314),
    (5, FILTERED_GLOBAL_SUBSCRIPTION, {"ReceivingAE": "WATCHER"}, 0xC314),
    (5, UID, {"ReceivingAE": "WATCHER"}, 0xC314),
]


@pytest.mark.parametrize(("action", "uid", "information", "status"), REFUSED)
async def test_an_action_that_makes_no_sense_is_refused(action, uid, information, status):
    async with worklist(UpsManager(resolve={"WATCHER": ("127.0.0.1", 1)})) as client:
        await client.create(scheduled(), UID)
        answer = await client.association.n_action(UPS_PUSH, uid, action, data_set(**information), context=UPS_WATCH)
    assert answer.status == status


async def test_a_manager_that_cannot_report_subscribes_nobody():
    async with worklist(UpsManager()) as client:
        assert (await client.subscribe()).status == 0xC315


async def test_all_that_happens_to_a_step_is_reported_in_order():
    events = UpsEvents()
    async with watched(events) as client:
        assert (await client.subscribe(lock=True)).status == 0
        await client.create(scheduled(ScheduledStationNameCodeSequence=code("CT1")), UID)
        await client.change_state(UID, State.IN_PROGRESS, LOCK)
        await client.request_cancel(UID, data_set(ReasonForCancellation="late"))
        await client.update(UID, modifications(LOCK))
        await client.change_state(UID, State.COMPLETED, LOCK)
        client.manager.announce("GOING DOWN")
        reports = [await anext(events) for _ in range(7)]
    assert [report.event_type for report in reports] == [1, 5, 1, 2, 3, 1, 4]
    states = [report.information.ProcedureStepState for report in reports if report.event_type == 1]
    assert states == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    assert reports[3].information.RequestingAE == "WATCHER"
    assert [report.sop_instance_uid for report in reports] == [UID] * 6 + [GLOBAL_SUBSCRIPTION]
    assert client.watcher.statistics.accepted == 1


async def test_a_subscription_to_one_step_begins_with_its_state_and_ends_when_it_is_taken_back():
    events = UpsEvents()
    async with watched(events) as client:
        await client.create(scheduled(), UID)
        await client.create(scheduled(), "1.2.999")
        assert (await client.subscribe(UID)).status == 0
        assert (await client.unsubscribe(UID)).status == 0
        await client.change_state(UID, State.IN_PROGRESS, LOCK)
        assert (await client.subscribe("1.2.999")).status == 0
        reports = [await anext(events) for _ in range(2)]
    assert [report.sop_instance_uid for report in reports] == [UID, "1.2.999"]


async def test_a_filtered_subscription_goes_to_the_instance_that_is_for_it():
    events = UpsEvents()
    async with watched(events) as client:
        assert (await client.subscribe(matching_keys=data_set(WorklistLabel="urgent"))).status == 0
        await client.create(scheduled(), "1.2.1")
        await client.create(scheduled(WorklistLabel="urgent"), "1.2.2")
        assert (await anext(events)).sop_instance_uid == "1.2.2"
        assert (await client.suspend_global_subscription()).status == 0
    assert client.manager.global_subscribers == {}


async def test_a_report_can_go_to_a_callback_and_to_another_ae_than_the_one_that_asked():
    seen = asyncio.Queue()
    async with asyncdicom.serve("127.0.0.1", 0, ae_title="OTHER", services=[UpsEvents(seen.put)]) as other:
        destination = asyncdicom.Destination("127.0.0.1", other.port, options={"calling_ae_title": "MANAGER 2"})
        async with UpsManager(resolve={"OTHER": destination}.get) as manager, worklist(manager) as client:
            await client.subscribe(receiving_ae="OTHER")
            await client.create(scheduled(), UID)
            assert (await seen.get()).sop_instance_uid == UID
            assert other.associations[0].calling_ae_title == "MANAGER 2"


async def test_reports_come_on_an_association_that_the_watcher_has_opened():
    async def act(request):
        await request.association.n_event_report(
            UPS_PUSH, UID, EventType.STATE_REPORT, data_set(ProcedureStepState="SCHEDULED"), context=UPS_EVENT
        )
        return 0

    events = UpsEvents()
    async with (
        asyncio.timeout(30),
        asyncdicom.serve("127.0.0.1", 0, contexts=[UPS_EVENT, UPS_WATCH], n_action=act) as server,
    ):
        async with asyncdicom.connect(
            "127.0.0.1", server.port, contexts=[UPS_WATCH, *events.contexts], services=[events]
        ) as association:
            await UpsClient(association).subscribe()
            assert (await anext(events)).information.ProcedureStepState == "SCHEDULED"


async def test_a_manager_that_leaves_the_roles_as_they_are_can_report():
    events = UpsEvents()
    report = Command(
        CommandField.N_EVENT_REPORT_RQ,
        affected_sop_class_uid=UPS_PUSH,
        message_id=1,
        affected_sop_instance_uid=UID,
        event_type_id=1,
    )
    async with asyncio.timeout(30), asyncdicom.serve("127.0.0.1", 0, services=[events]) as watcher:
        async with raw_client(watcher.port) as manager:
            await manager.associate(Context(UPS_EVENT))
            manager.send(encode_command(1, report, 16378))
            assert (await manager.receive_command()).status == 0
        assert (await anext(events)).sop_instance_uid == UID


UNREACHABLE = {"WATCHER": ("127.0.0.1", 1)}
"""Nobody listens on that port."""


async def test_reports_that_cannot_be_delivered_are_given_up_and_change_no_subscription(caplog):
    async with UpsManager(resolve=UNREACHABLE, backoff=asyncdicom.Backoff(2, 0.01)) as manager:
        manager.subscribe("WATCHER")
        manager.create(scheduled(), UID)
        async with asyncio.timeout(10):
            await asyncio.gather(*(each.task for each in manager._sender._deliveries.values()))
        assert (list(manager.global_subscribers), manager._sender._deliveries) == (["WATCHER"], {})
    assert "1 event reports for WATCHER are given up" in caplog.text


async def test_a_watcher_that_is_away_for_a_while_misses_nothing():
    events, resolved = UpsEvents(), asyncio.Event()
    addresses = [("127.0.0.1", 1)]

    async def resolve(ae_title):
        resolved.set()
        return addresses[-1]

    async with asyncio.timeout(30), UpsManager(resolve=resolve, backoff=asyncdicom.Backoff(100, 0.01)) as manager:
        manager.subscribe("WATCHER")
        manager.create(scheduled(), UID)
        await resolved.wait()
        async with asyncdicom.serve("127.0.0.1", 0, services=[events]) as watcher:
            addresses.append(("127.0.0.1", watcher.port))
            assert (await anext(events)).sop_instance_uid == UID
            await manager.close()


async def test_a_report_that_is_not_answered_is_sent_again():
    answered = asyncio.Queue()
    came = []

    async def receive(request):
        came.append(request.sop_instance_uid)
        if len(came) == 1:
            await request.association.abort()
        await answered.put(request.sop_instance_uid)
        return 0

    async with (
        asyncio.timeout(30),
        asyncdicom.serve("127.0.0.1", 0, contexts=[Context(UPS_EVENT, scu=True)], n_event_report=receive) as watcher,
    ):
        destinations = {"WATCHER": ("127.0.0.1", watcher.port)}
        async with UpsManager(resolve=destinations, backoff=asyncdicom.Backoff(2, 0.01)) as manager:
            manager.subscribe("WATCHER")
            for uid in ("1.2.1", "1.2.2"):
                manager.create(scheduled(), uid)
            assert [await answered.get() for _ in range(2)] == ["1.2.1", "1.2.2"]
    assert came == ["1.2.1", "1.2.1", "1.2.2"]


@pytest.mark.parametrize("failure", [None, ValueError("directory is away")])
async def test_an_ae_that_cannot_be_found_gets_no_reports(failure, caplog):
    def resolve(ae_title):
        if failure is not None:
            raise failure

    async with UpsManager(resolve=resolve) as manager:
        manager.subscribe("WATCHER")
        manager.create(scheduled(), UID)
        await asyncio.gather(*(each.task for each in manager._sender._deliveries.values()))
        assert manager._sender._deliveries == {}
    assert "event reports for WATCHER are given up" in caplog.text


async def test_closing_a_manager_sends_what_waits_and_leaves_no_task_behind():
    events = UpsEvents()
    async with watched(events) as client:
        client.manager.subscribe("WATCHER")
        for number in range(20):
            client.manager.create(scheduled(), f"1.2.{number}")
        delivery = client.manager._sender._deliveries["WATCHER"]
        async with asyncio.timeout(4):  # less than an idle association is kept
            await client.manager.close()
        assert (delivery.size, delivery.task.done()) == (0, True)
        reports = [await anext(events) for _ in range(20)]
        client.manager.create(scheduled(), UID)
        assert client.manager._sender._deliveries == {}
    assert [report.sop_instance_uid for report in reports] == [f"1.2.{number}" for number in range(20)]


async def test_closing_a_manager_does_not_wait_for_a_watcher_that_hangs():
    async with watched(UpsEvents(lambda report: asyncio.Event().wait())) as client:
        client.manager.subscribe("WATCHER")
        client.manager.create(scheduled(), UID)
        async with asyncio.timeout(10):
            await client.manager.close(drain=0.01)
        assert client.manager._sender._deliveries == {}


async def test_the_oldest_report_makes_room_for_a_new_one(caplog, monkeypatch):
    monkeypatch.setattr("asyncdicom.services.unified_procedure_step.events._MAX_WAITING", 1000)
    async with UpsManager(resolve=UNREACHABLE) as manager:
        manager.subscribe("WATCHER")
        for number in range(100):
            manager.create(scheduled(), f"1.2.{number}")
        delivery = manager._sender._deliveries["WATCHER"]
        assert [report.sop_instance_uid for report in delivery.waiting] == ["1.2.97", "1.2.98", "1.2.99"]
        assert delivery.size == sum(report.size for report in delivery.waiting)
        await manager.close(drain=0)
    assert "the oldest is given up" in caplog.text


async def test_a_watcher_that_takes_no_reports_makes_the_manager_wait(monkeypatch):
    monkeypatch.setattr("asyncdicom.services.unified_procedure_step.events._MAX_RECEIVED", 1)
    events = UpsEvents()
    async with watched(events) as client:
        client.manager.subscribe("WATCHER")
        for number in range(5):
            client.manager.create(scheduled(), f"1.2.{number}")
        first = await anext(events)
        assert events._reports.qsize() <= 1
        rest = [(await anext(events)).sop_instance_uid for _ in range(4)]
    assert [first.sop_instance_uid, *rest] == [f"1.2.{number}" for number in range(5)]
