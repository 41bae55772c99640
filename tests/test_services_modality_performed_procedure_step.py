"""Performed procedure steps: what a modality reports, and what is taken of it (PS3.4 F.7 to F.9)."""

import asyncio
import contextlib
import copy
import logging

import pytest
from pydicom import Dataset
from standard_tables import DIMSE, SERVICES, attribute_rows, items_at, may_be_empty, to_be_sent

import asyncdicom
from asyncdicom import Context, Status
from asyncdicom.errors import LocalProtocolError, StatusError
from asyncdicom.instances import decode_data_set, encode
from asyncdicom.services.modality_performed_procedure_step import (
    NOTIFICATION_SOP_CLASS,
    RETRIEVE_SOP_CLASS,
    SOP_CLASS,
    Event,
    PerformedProcedureStep,
    PerformedProcedureSteps,
    RecentSteps,
    State,
    notify,
    performed_series,
    scheduled_step,
)
from asyncdicom.services.references import reference_item
from asyncdicom.uids import EXPLICIT_VR_LITTLE_ENDIAN

DEADLINE = 20.0


def item(**values):
    data_set = Dataset()
    for keyword, value in values.items():
        setattr(data_set, keyword, value)
    return data_set


def attributes(**values):
    """What N-CREATE needs, as far as it is not made up."""
    return item(
        **{
            "ScheduledStepAttributesSequence": [item(StudyInstanceUID="1.2.3")],
            "PatientName": "DOE^JANE",
            "PerformedProcedureStepID": "PPS1",
            "PerformedStationAETitle": "CT1",
            "Modality": "CT",
            **values,
        }
    )


def series(**values):
    return item(PerformedSeriesSequence=[item(ProtocolName="HEAD", SeriesInstanceUID="1.2.3.4", **values)])


def whole(**values):
    """What N-CREATE needs, for requests by hand."""
    start = {"PerformedProcedureStepStartDate": "20260101", "PerformedProcedureStepStartTime": "1200"}
    return attributes(**{**start, "PerformedProcedureStepStatus": "IN PROGRESS", **values})


@contextlib.asynccontextmanager
async def served(service=None, **options):
    """A service, and an association with it."""
    service = service or PerformedProcedureSteps(**options)
    contexts = [SOP_CLASS, RETRIEVE_SOP_CLASS, NOTIFICATION_SOP_CLASS]
    async with asyncio.timeout(DEADLINE):
        async with asyncdicom.serve("127.0.0.1", 0, services=[service]) as server:
            async with asyncdicom.connect("127.0.0.1", server.port, contexts=contexts) as association:
                yield service, association


async def test_a_step_is_created_changed_and_completed():
    async with served() as (service, association):
        step = PerformedProcedureStep()
        assert await step.create(association, attributes()) == 0x0000
        assert await step.set(association, item(PerformedProcedureStepDescription="head")) == 0x0000
        assert await step.complete(association, series()) == 0x0000
        kept = service.steps[step.sop_instance_uid]
    assert (kept.PerformedProcedureStepStatus, kept.PatientName) == ("COMPLETED", "DOE^JANE")
    assert kept.PerformedProcedureStepDescription == "head"
    assert kept.PerformedProcedureStepEndDate >= kept.PerformedProcedureStepStartDate


async def test_a_step_is_discontinued_for_a_reason():
    reason = ("110513", "DCM", "Discontinued for unspecified reason")
    async with served() as (service, association):
        step = PerformedProcedureStep()
        await step.create(association, attributes())
        assert await step.discontinue(association, series(), reason) == 0x0000
        kept = service.steps[step.sop_instance_uid]
    assert kept.PerformedProcedureStepStatus == "DISCONTINUED"
    assert kept.PerformedProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "110513"


async def test_a_step_goes_on_over_another_association_by_its_uid():
    service = PerformedProcedureSteps()
    async with served(service) as (_, association):
        step = PerformedProcedureStep()
        await step.create(association, attributes())
    async with served(service) as (_, association):
        again = PerformedProcedureStep(step.sop_instance_uid)
        assert await again.complete(association, series()) == 0x0000


async def test_what_the_caller_gave_is_not_changed():
    given = attributes(PerformedProcedureStepStatus="")
    before = given.to_json()
    async with served() as (_, association):
        assert await PerformedProcedureStep().create(association, given) == 0x0000
    assert given.to_json() == before


@pytest.mark.parametrize("state", [None, State.COMPLETED, State.DISCONTINUED])
async def test_a_step_that_is_not_in_progress_is_not_changed_by_its_modality(state):
    step = PerformedProcedureStep()
    step.state = state
    async with served() as (_, association):
        with pytest.raises(LocalProtocolError, match="in progress"):
            await step.set(association, item(PerformedProcedureStepDescription="head"))


async def test_a_state_that_there_is_not_is_not_sent():
    async with served() as (_, association):
        step = PerformedProcedureStep("1.2.3")
        with pytest.raises(ValueError, match="DONE"):
            await step.set(association, item(PerformedProcedureStepStatus="DONE"))


async def test_a_step_is_created_but_once_by_its_modality():
    async with served() as (_, association):
        step = PerformedProcedureStep()
        await step.create(association, attributes())
        with pytest.raises(LocalProtocolError, match="another step"):
            await step.create(association, attributes())


async def test_a_refused_end_leaves_the_step_in_progress():
    async with served() as (service, association):
        step = PerformedProcedureStep()
        await step.create(association, attributes())
        assert await step.complete(association, Dataset()) == 0x0121
        assert service.steps[step.sop_instance_uid].PerformedProcedureStepStatus == step.state == "IN PROGRESS"
        assert await step.complete(association, series()) == 0x0000


# What the keeper of steps refuses


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"PerformedProcedureStepStatus": "COMPLETED"}, 0x0106),
        ({"PerformedProcedureStepStatus": "DONE"}, 0x0106),
        ({"PerformedProcedureStepStatus": None}, 0x0121),
        ({"Modality": ""}, 0x0121),
        ({"ScheduledStepAttributesSequence": []}, 0x0121),
        ({"ScheduledStepAttributesSequence": [item(AccessionNumber="1")]}, 0x0120),
    ],
)
async def test_a_step_that_is_not_as_it_shall_be_is_not_created(change, status):
    async with served() as (service, association):
        response = await association.n_create(SOP_CLASS, whole(**change), "1.2.3.5")
        assert response.status == status
        assert not service.steps


async def test_what_is_missing_of_a_new_step_is_named():
    data_set = whole()
    del data_set.Modality
    async with served() as (_, association):
        response = await association.n_create(SOP_CLASS, data_set, "1.2.3.5")
    assert (response.status, response.status.error_comment) == (0x0120, "Modality is missing")
    assert response.command.attribute_identifier_list == (0x00080060,)


async def test_the_wrong_status_of_a_new_step_comes_back_with_the_refusal():
    async with served() as (_, association):
        response = await association.n_create(SOP_CLASS, whole(PerformedProcedureStepStatus="COMPLETED"), "1.2.3.5")
    assert [each.value for each in response.data_set] == ["COMPLETED"]


async def test_a_new_step_without_any_attribute_is_refused():
    async with served() as (_, association):
        response = await association.n_create(SOP_CLASS, None, "1.2.3.5")
    assert response.status == 0x0120


async def test_a_step_that_exists_is_not_created_again():
    async with served() as (service, association):
        assert (await association.n_create(SOP_CLASS, whole(), "1.2.3.5")).status == 0x0000
        response = await association.n_create(SOP_CLASS, whole(PatientName="OTHER"), "1.2.3.5")
        assert response.status == 0x0111
        assert service.steps["1.2.3.5"].PatientName == "DOE^JANE"


async def test_an_unknown_step_is_not_changed():
    async with served() as (_, association):
        response = await association.n_set(SOP_CLASS, "1.2.3.6", item(PerformedProcedureStepDescription="head"))
    assert response.status == 0x0112


async def test_a_final_step_is_not_changed_any_more():
    async with served() as (service, association):
        step = PerformedProcedureStep()
        await step.create(association, attributes())
        await step.complete(association, series())
        change = item(PerformedProcedureStepDescription="later")
        response = await association.n_set(SOP_CLASS, step.sop_instance_uid, change)
        assert not service.steps[step.sop_instance_uid].PerformedProcedureStepDescription
    assert (response.status, response.command.error_id) == (0x0110, 0xA710)
    assert response.status.error_comment == "Performed Procedure Step Object may no longer be updated"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"PatientName": "OTHER"}, 0x0105),
        ({"Modality": "MR"}, 0x0105),
        ({"ScheduledStepAttributesSequence": [item(StudyInstanceUID="9.9")]}, 0x0105),
        ({"AdmissionID": "new"}, 0x0105),
        ({"PatientName": "DOE^JANE"}, 0x0000),
        ({"PerformedProcedureStepStatus": "DONE"}, 0x0106),
        ({"PerformedProcedureStepStatus": "COMPLETED"}, 0x0120),
        ({"PerformedProcedureStepStatus": "IN PROGRESS"}, 0x0000),
    ],
)
async def test_what_may_be_changed_of_a_step(change, status):
    async with served() as (service, association):
        await association.n_create(SOP_CLASS, whole(), "1.2.3.5")
        assert (await association.n_set(SOP_CLASS, "1.2.3.5", item(**change))).status == status
        assert service.steps["1.2.3.5"].PerformedProcedureStepStatus == "IN PROGRESS"


async def test_an_end_without_a_series_is_refused():
    end = {"PerformedProcedureStepEndDate": "20260101", "PerformedProcedureStepEndTime": "1210"}
    async with served() as (_, association):
        await association.n_create(SOP_CLASS, whole(), "1.2.3.5")
        change = item(PerformedProcedureStepStatus="COMPLETED", PerformedSeriesSequence=[], **end)
        assert (await association.n_set(SOP_CLASS, "1.2.3.5", change)).status == 0x0121


async def test_texts_in_two_character_sets_become_one_data_set():
    async with served() as (_, association):
        first = whole(SpecificCharacterSet="ISO_IR 100", PatientName="MÜLLER")
        await association.n_create(SOP_CLASS, first, "1.2.3.5")
        change = item(SpecificCharacterSet="ISO_IR 144", PerformedProcedureStepDescription="голова")
        assert (await association.n_set(SOP_CLASS, "1.2.3.5", change)).status == 0x0000
        kept = (await association.n_get(RETRIEVE_SOP_CLASS, "1.2.3.5")).data_set
    assert (str(kept.PatientName), kept.PerformedProcedureStepDescription) == ("MÜLLER", "голова")


# Callbacks and the store


async def test_callbacks_see_the_whole_step_and_who_sent_it():
    seen = []

    async def created(request, step):
        seen.append((request.calling_ae_title, request.sop_instance_uid, step.PerformedProcedureStepStatus))

    async def changed(request, step):
        seen.append((str(step.PatientName), step.PerformedProcedureStepStatus))
        return Status.SUCCESS

    async with served(created=created, changed=changed) as (_, association):
        step = PerformedProcedureStep()
        await step.create(association, attributes())
        await step.complete(association, series())
    assert seen == [("ASYNCDICOM", step.sop_instance_uid, "IN PROGRESS"), ("DOE^JANE", "COMPLETED")]


@pytest.mark.parametrize("refusal", ["returned", "raised"])
async def test_a_callback_refuses_and_nothing_is_kept(refusal):
    async def created(request, step):
        if refusal == "raised":
            raise StatusError(Status(0x0124, "not from you"))
        return Status(0x0124, "not from you")

    async with served(created=created) as (service, association):
        status = await PerformedProcedureStep().create(association, attributes())
        assert (status, status.error_comment, dict(service.steps)) == (0x0124, "not from you", {})


async def test_changes_of_one_step_come_one_after_the_other():
    running, most = 0, 0
    gate = asyncio.Event()

    async def changed(request, step):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1

    service = PerformedProcedureSteps(changed=changed)
    async with served(service) as (_, one), served(service) as (_, other):
        await one.n_create(SOP_CLASS, whole(), "1.2.3.5")
        change = item(PerformedProcedureStepDescription="x")
        tasks = [asyncio.create_task(each.n_set(SOP_CLASS, "1.2.3.5", change)) for each in (one, other)]
        while not (running and service._locks["1.2.3.5"]._waiters):
            await asyncio.sleep(0)
        gate.set()
        assert [(await task).status for task in tasks] == [0x0000, 0x0000]
    assert most == 1


async def test_an_abort_while_a_callback_decides_keeps_nothing():
    deciding, cancelled = asyncio.Event(), asyncio.Event()

    async def created(request, step):
        deciding.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with served(created=created) as (service, association):
        task = asyncio.create_task(PerformedProcedureStep().create(association, attributes()))
        await deciding.wait()
        await association.abort()
        await cancelled.wait()
        with pytest.raises(asyncdicom.AssociationError):
            await task
        assert not service.steps


async def test_steps_are_kept_where_the_user_wants_them():
    store = {}
    async with served(store=store) as (_, association):
        step = PerformedProcedureStep()
        await step.create(association, attributes())
    assert list(store) == [step.sop_instance_uid]


def test_steps_in_memory_have_a_bound():
    steps = RecentSteps(limit=2)
    for uid in ("1", "2", "2", "3"):
        steps[uid] = Dataset()
    assert list(steps) == ["2", "3"]


# Retrieval and notification


async def test_a_step_is_retrieved_whole_or_in_part():
    async with served() as (_, association):
        await association.n_create(SOP_CLASS, whole(), "1.2.3.5")
        response = await association.n_get(RETRIEVE_SOP_CLASS, "1.2.3.5")
        assert (response.status, response.data_set.PatientName) == (0x0000, "DOE^JANE")
        response = await association.n_get(RETRIEVE_SOP_CLASS, "1.2.3.5", [0x00080060])
    assert (response.status, [each.value for each in response.data_set]) == (0x0000, ["CT"])


async def test_of_a_step_what_it_does_not_have_is_warned_of():
    async with served() as (_, association):
        await association.n_create(SOP_CLASS, whole(), "1.2.3.5")
        response = await association.n_get(RETRIEVE_SOP_CLASS, "1.2.3.5", [0x00080060, 0x00100030])
    assert (response.status, response.data_set.Modality) == (0x0001, "CT")


async def test_an_unknown_step_is_not_retrieved():
    async with served() as (_, association):
        assert (await association.n_get(RETRIEVE_SOP_CLASS, "1.2.3.5")).status == 0x0112


async def test_a_peer_is_notified_on_the_association_that_it_asked_for():
    seen = []

    async def heard(request):
        seen.append((request.sop_instance_uid, request.event_type_id))
        return Status.SUCCESS

    async with asyncio.timeout(DEADLINE):
        async with asyncdicom.serve("127.0.0.1", 0, services=[PerformedProcedureSteps()]) as server:
            contexts = [NOTIFICATION_SOP_CLASS]
            async with asyncdicom.connect("127.0.0.1", server.port, contexts=contexts, n_event_report=heard):
                (theirs,) = server.associations
                assert await notify(theirs, "1.2.3.5", Event.COMPLETED) == 0x0000
    assert seen == [("1.2.3.5", 2)]


async def test_a_peer_is_notified_on_an_association_that_the_keeper_opens():
    async def heard(request):
        return Status.SUCCESS if request.event_type_id == Event.IN_PROGRESS else Status(0x0113)

    listens = Context(NOTIFICATION_SOP_CLASS, scu=True, scp=False)
    asks = Context(NOTIFICATION_SOP_CLASS, scu=False, scp=True)
    async with asyncio.timeout(DEADLINE):
        async with asyncdicom.serve("127.0.0.1", 0, contexts=[listens], n_event_report=heard) as server:
            async with asyncdicom.connect("127.0.0.1", server.port, contexts=[asks]) as association:
                assert await notify(association, "1.2.3.5", Event.IN_PROGRESS) == 0x0000


# The standard


def test_names_and_states_are_those_of_the_standard():
    for service, uid in (("mpps", SOP_CLASS), ("mpps_retrieve", RETRIEVE_SOP_CLASS)):
        assert [each["uid"] for each in SERVICES["services"][service]["sop_classes"]] == [uid]
    notification = SERVICES["services"]["mpps_notification"]
    assert notification["sop_classes"][0]["uid"] == NOTIFICATION_SOP_CLASS
    assert list(State) == SERVICES["services"]["mpps"]["states"]
    words = ", ".join(f"{each.value} {each.name.replace('_', ' ').title()}" for each in Event)
    assert words in notification["facts"][0]


async def test_the_refusal_of_a_late_change_is_that_of_the_standard():
    (row,) = DIMSE["status_by_service_class"]["Modality Performed Procedure Step (PS3.4 F.7)"]["N-SET"]
    async with served() as (_, association):
        step = PerformedProcedureStep()
        await step.create(association, attributes())
        await step.discontinue(association, series())
        command = (await association.n_set(SOP_CLASS, step.sop_instance_uid, series())).command
    assert f"{command.status:04X}H" == row["from"]
    assert row["meaning"].lower().startswith(command.error_comment.lower())
    assert f"ErrorID = {command.error_id:04X}H" in row["related_fields"]


REFERENCE = [reference_item(("1.2", "1.2.3"))]


def bare():
    """What the modality has to say itself: type 1, in an item of each sequence."""
    return attributes(
        ScheduledStepAttributesSequence=[item(StudyInstanceUID="1.2.3", ReferencedStudySequence=REFERENCE)],
        ReferencedPatientSequence=REFERENCE,
        **bare_series(),
    )


def bare_series():
    references = ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence")
    first = item(ProtocolName="HEAD", SeriesInstanceUID="1.2.3.4")
    second = item(ProtocolName="HEAD", SeriesInstanceUID="1.2.3.5", **dict.fromkeys(references, REFERENCE))
    return {"PerformedSeriesSequence": [first, second]}


async def created_by_us(association, service):
    step = PerformedProcedureStep()
    assert await step.create(association, bare()) == 0x0000
    return service.steps[step.sop_instance_uid]


async def test_a_new_step_is_sent_with_all_that_the_standard_wants_to_be_there():
    async with served() as (service, association):
        sent = await created_by_us(association, service)
    paths = to_be_sent("mpps", 1)
    assert all(items_at(sent, path) for path in paths)
    assert [path for path in paths if any(path[-1] not in each for each in items_at(sent, path))] == []


async def test_a_changed_series_is_sent_with_all_that_the_standard_wants_to_be_there():
    async with served() as (service, association):
        step = PerformedProcedureStep()
        await step.create(association, attributes())
        given = item(**bare_series())
        before = copy.deepcopy(given)
        assert await step.set(association, given) == 0x0000
        sent = service.steps[step.sop_instance_uid]
    paths = to_be_sent("mpps", 2)
    assert len(paths) == 12
    assert [path for path in paths if any(path[-1] not in each for each in items_at(sent, path))] == []
    assert given == before


async def test_what_may_be_empty_may_be_missing_and_the_log_says_so(caplog):
    async with served() as (service, association):
        sent = await created_by_us(association, service)
        caplog.set_level(logging.INFO, "asyncdicom")
        assert (await association.n_create(SOP_CLASS, sent, "1.2.3")).status == 0x0000
        assert "left out" not in caplog.text
        for number, path in enumerate(may_be_empty("mpps", 1)):
            without = copy.deepcopy(sent)
            for each in items_at(without, path):
                del each[path[-1]]
            assert (await association.n_create(SOP_CLASS, without, f"1.2.4.{number}")).status == 0x0000
            assert caplog.messages[-1].endswith(f"shall be there: {path[-1]}")
    assert "DOE" not in caplog.text


async def test_what_shall_have_a_value_is_refused_without_one():
    required = [path for path, cell in attribute_rows("mpps", 1) if cell == "1/1"]
    paths = [path for path in required if path[0] == "ScheduledStepAttributesSequence" or len(path) == 1]
    paths = [path for path in paths if "ReferencedStudySequence" not in path]
    async with served() as (service, association):
        sent = await created_by_us(association, service)
        for path in paths:
            missing, empty = copy.deepcopy(sent), copy.deepcopy(sent)
            del items_at(missing, path)[0][path[-1]]
            setattr(items_at(empty, path)[0], path[-1], None)
            statuses = [(await association.n_create(SOP_CLASS, each, "1.2.3")).status for each in (missing, empty)]
            assert statuses == [0x0120, 0x0121], path
    assert len(paths) == 8


# Data sets


def worklist_item():
    code = item(CodeValue="C1", CodingSchemeDesignator="99X", CodeMeaning="CT of the head")
    step = item(
        Modality="CT",
        ScheduledStationAETitle=["CT1", "CT2"],
        ScheduledStationName="ROOM 1",
        ScheduledProcedureStepID="SPS1",
        ScheduledProcedureStepDescription="head",
        ScheduledProtocolCodeSequence=[code],
    )
    return item(
        SpecificCharacterSet="ISO_IR 192",
        PatientName="MÜLLER",
        PatientID="4711",
        StudyInstanceUID="1.2.3",
        AccessionNumber="A1",
        RequestedProcedureID="RP1",
        RequestedProcedureDescription="CT head",
        ScheduledProcedureStepSequence=[step],
    )


async def test_a_step_is_made_of_a_worklist_item():
    async with served() as (service, association):
        step = PerformedProcedureStep()
        assert await step.create(association, scheduled_step(worklist_item())) == 0x0000
        kept = service.steps[step.sop_instance_uid]
    scheduled = kept.ScheduledStepAttributesSequence[0]
    assert (str(kept.PatientName), kept.PerformedStationAETitle, kept.Modality) == ("MÜLLER", "CT1", "CT")
    assert (scheduled.StudyInstanceUID, scheduled.AccessionNumber) == ("1.2.3", "A1")
    assert scheduled.ScheduledProcedureStepID == kept.PerformedProcedureStepID == "SPS1"
    assert kept.PerformedProtocolCodeSequence[0].CodeValue == "C1"


async def test_a_step_of_a_worklist_item_in_another_character_set_says_the_same():
    entry = worklist_item()
    entry.SpecificCharacterSet = "ISO_IR 100"
    entry.ScheduledProcedureStepSequence[0].ScheduledProcedureStepDescription = "Schädel"
    received = decode_data_set(encode(entry, EXPLICIT_VR_LITTLE_ENDIAN), EXPLICIT_VR_LITTLE_ENDIAN)
    async with served() as (service, association):
        step = PerformedProcedureStep()
        assert await step.create(association, scheduled_step(received)) == 0x0000
        kept = service.steps[step.sop_instance_uid]
    assert (str(kept.PatientName), kept.PerformedProcedureStepDescription) == ("MÜLLER", "Schädel")
    assert kept.ScheduledStepAttributesSequence[0].ScheduledProcedureStepDescription == "Schädel"


def test_a_step_that_nobody_scheduled_has_a_study_of_its_own():
    one, other = scheduled_step(Dataset()), scheduled_step(Dataset())
    uids = {each.ScheduledStepAttributesSequence[0].StudyInstanceUID for each in (one, other)}
    assert len(uids) == 2
    assert all(uid.startswith("2.25.") for uid in uids)


def test_series_are_made_of_the_instances():
    made = [
        item(SOPClassUID="1.2", SOPInstanceUID=f"1.2.3.{number}", SeriesInstanceUID=uid, **more)
        for number, (uid, more) in enumerate(
            [("1.9.1", {"Rows": 2, "ProtocolName": "HEAD"}), ("1.9.1", {"Rows": 2}), ("1.9.2", {})]
        )
    ]
    first, second = performed_series(made)
    assert (first.SeriesInstanceUID, first.ProtocolName) == ("1.9.1", "HEAD")
    assert [each.ReferencedSOPInstanceUID for each in first.ReferencedImageSequence] == ["1.2.3.0", "1.2.3.1"]
    assert [len(second.ReferencedImageSequence), len(second.ReferencedNonImageCompositeSOPInstanceSequence)] == [0, 1]
