"""Performed procedure steps, storage commitment and worklists with pynetdicom, in both roles."""

import asyncio
import contextlib
import sys
import threading

import pytest
from peers import run
from pydicom import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (
    InstanceAvailabilityNotification,
    ModalityPerformedProcedureStep,
    ModalityPerformedProcedureStepNotification,
    ModalityPerformedProcedureStepRetrieve,
    ModalityWorklistInformationFind,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

import asyncdicom
from asyncdicom import Backoff
from asyncdicom.services import modality_performed_procedure_step as mpps
from asyncdicom.services.instance_availability import AvailabilityNotifications, notification, notify_availability
from asyncdicom.services.modality_worklist import Worklist, worklist_items, worklist_query
from asyncdicom.services.storage_commitment import CommitmentClient, CommitmentProvider, FailureReason

CT = "1.2.840.10008.5.1.4.1.1.2"
INSTANCES = [(CT, f"1.2.3.{number}") for number in range(3)]
DEADLINE = 30.0


@pytest.fixture(autouse=True)
async def deadline():
    """No dialogue takes longer."""
    async with asyncio.timeout(DEADLINE):
        yield


def item(**values):
    data_set = Dataset()
    for keyword, value in values.items():
        setattr(data_set, keyword, value)
    return data_set


@contextlib.contextmanager
def their_server(handlers, *classes, title="THEIRS"):
    ae = AE(title)
    for sop_class in classes:
        ae.add_supported_context(sop_class, scu_role=True, scp_role=True)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=list(handlers))
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


@contextlib.asynccontextmanager
async def their_association(port, *classes, roles=(), handlers=(), title="MODALITY"):
    """An association of theirs with us; its calls block, so they go to a thread."""
    ae = AE(title)
    for sop_class in classes:
        ae.add_requested_context(sop_class)
    association = await asyncio.to_thread(
        ae.associate, "127.0.0.1", port, ae_title="OURS", ext_neg=list(roles), evt_handlers=list(handlers)
    )
    assert association.is_established
    try:
        yield association
    finally:
        await asyncio.to_thread(association.release)


def our_server(*services, **options):
    return asyncdicom.serve("127.0.0.1", 0, ae_title="OURS", services=services, **options)


# Performed procedure steps


def step_attributes():
    return item(
        ScheduledStepAttributesSequence=[item(StudyInstanceUID="1.2.3")],
        PatientName="MÜLLER",
        SpecificCharacterSet="ISO_IR 192",
        PerformedProcedureStepID="PPS1",
        PerformedStationAETitle="CT1",
        Modality="CT",
    )


def end():
    return item(
        PerformedProcedureStepStatus="COMPLETED",
        PerformedProcedureStepEndDate="20260101",
        PerformedProcedureStepEndTime="1200",
        PerformedSeriesSequence=[item(ProtocolName="HEAD", SeriesInstanceUID="1.2.3.4")],
    )


async def test_our_step_is_created_and_completed_at_pynetdicom():
    steps = {}

    def create(event):
        steps[event.request.AffectedSOPInstanceUID] = event.attribute_list
        return 0x0000, event.attribute_list

    def change(event):
        steps[event.request.RequestedSOPInstanceUID].update(event.modification_list)
        return 0x0000, None

    handlers = [(evt.EVT_N_CREATE, create), (evt.EVT_N_SET, change)]
    with their_server(handlers, ModalityPerformedProcedureStep) as port:
        async with asyncdicom.connect("127.0.0.1", port, contexts=[mpps.SOP_CLASS]) as association:
            step = mpps.PerformedProcedureStep()
            assert await step.create(association, step_attributes()) == 0x0000
            assert steps[step.sop_instance_uid].PerformedProcedureStepStatus == "IN PROGRESS"
            assert await step.complete(association, end()) == 0x0000
    kept = steps[step.sop_instance_uid]
    assert (str(kept.PatientName), kept.PerformedProcedureStepStatus) == ("MÜLLER", "COMPLETED")


async def test_a_step_of_pynetdicom_is_created_completed_retrieved_and_final():
    service = mpps.PerformedProcedureSteps()
    created = item(
        **{element.keyword: element.value for element in step_attributes()},
        PerformedProcedureStepStatus="IN PROGRESS",
        PerformedProcedureStepStartDate="20260101",
        PerformedProcedureStepStartTime="1100",
    )
    classes = (ModalityPerformedProcedureStep, ModalityPerformedProcedureStepRetrieve)
    async with our_server(service) as server, their_association(server.port, *classes) as association:
        status, _ = await asyncio.to_thread(association.send_n_create, created, classes[0], "1.2.9")
        assert status.Status == 0x0000
        status, _ = await asyncio.to_thread(association.send_n_create, created, classes[0], "1.2.9")
        assert status.Status == 0x0111
        status, _ = await asyncio.to_thread(association.send_n_set, end(), classes[0], "1.2.9")
        assert status.Status == 0x0000
        status, _ = await asyncio.to_thread(association.send_n_set, end(), classes[0], "1.2.9")
        assert (status.Status, status.ErrorID) == (0x0110, 0xA710)
        status, found = await asyncio.to_thread(association.send_n_get, [0x00100010], classes[1], "1.2.9")
    assert (status.Status, str(found.PatientName)) == (0x0000, "MÜLLER")


async def test_pynetdicom_refuses_our_step():
    with their_server([(evt.EVT_N_CREATE, lambda event: (0x0213, None))], ModalityPerformedProcedureStep) as port:
        async with asyncdicom.connect("127.0.0.1", port, contexts=[mpps.SOP_CLASS]) as association:
            step = mpps.PerformedProcedureStep()
            assert await step.create(association, step_attributes()) == 0x0213
    assert step.state is None


async def test_pynetdicom_hears_of_a_step():
    heard = []

    def report(event):
        heard.append((event.request.AffectedSOPInstanceUID, event.event_type))
        return 0x0000, None

    asked = ModalityPerformedProcedureStepNotification
    async with our_server(mpps.PerformedProcedureSteps()) as server:
        async with their_association(server.port, asked, handlers=[(evt.EVT_N_EVENT_REPORT, report)]):
            (association,) = server.associations
            assert await mpps.notify(association, "1.2.9", mpps.Event.COMPLETED) == 0x0000
    assert heard == [("1.2.9", 2)]


async def test_mppsscu_creates_a_step_at_pynetdicom():
    steps = {}

    def create(event):
        steps[event.request.AffectedSOPInstanceUID] = event.attribute_list
        return 0x0000, None

    with their_server([(evt.EVT_N_CREATE, create)], ModalityPerformedProcedureStep) as port:
        words = ("mppsscu", "-k", "PatientName=DOE^JANE", "127.0.0.1", port)
        code, output = await run(sys.executable, "-m", "asyncdicom", *words)
    assert (code, output.split()[0]) == (0, *steps)
    assert [str(step.PatientName) for step in steps.values()] == ["DOE^JANE"]


# Instance availability


def available():
    return notification("1.2.3", {"1.2.3.1": INSTANCES}, retrieve_ae_title="ARCHIVE")


async def test_pynetdicom_hears_of_our_instances():
    heard = []

    def create(event):
        heard.append(event.attribute_list)
        return 0x0000, event.attribute_list

    with their_server([(evt.EVT_N_CREATE, create)], InstanceAvailabilityNotification) as port:
        async with asyncdicom.connect("127.0.0.1", port, contexts="instance availability notification") as association:
            assert await notify_availability(association, available()) == 0x0000
    assert heard == [available()]


async def test_we_hear_of_the_instances_of_pynetdicom():
    heard = []

    async def notified(request, instances):
        heard.extend(each.instance for each in instances)

    asked = InstanceAvailabilityNotification
    async with our_server(AvailabilityNotifications(notified)) as server:
        async with their_association(server.port, asked) as association:
            status, _ = await asyncio.to_thread(association.send_n_create, available(), asked, "1.2.9")
    assert (status.Status, heard) == (0x0000, INSTANCES)


# Storage commitment


def their_report(request):
    """What they answer: the second instance is missing."""
    report = item(TransactionUID=request.TransactionUID)
    first, second, *others = request.ReferencedSOPSequence
    second.FailureReason = 0x0112
    report.ReferencedSOPSequence, report.FailedSOPSequence = [first, *others], [second]
    return report


def their_commitment(send):
    """Their handler of N-ACTION; the report goes out in a thread of its own."""

    def action(event):
        arguments = (their_report(event.action_information), 2)
        uids = (StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
        threading.Thread(target=send, args=(event.assoc, *arguments, *uids)).start()
        return 0x0000, None

    return [(evt.EVT_N_ACTION, action)]


def assert_second_is_missing(commitment):
    assert commitment.committed == (INSTANCES[0], INSTANCES[2])
    assert [each[:] for each in commitment.failed] == [(*INSTANCES[1], FailureReason.NO_SUCH_OBJECT_INSTANCE)]


async def test_pynetdicom_reports_to_us_on_the_same_association():
    def send(association, information, event, *uids):
        association.send_n_event_report(information, event, *uids)

    client = CommitmentClient()
    with their_server(their_commitment(send), StorageCommitmentPushModel) as port:
        async with asyncdicom.connect("127.0.0.1", port, services=[client]) as association:
            assert_second_is_missing(await client.commit(association, INSTANCES))


async def test_pynetdicom_reports_to_us_on_a_new_association():
    client = CommitmentClient()
    async with our_server(client) as ours:

        def send(association, information, event, *uids):
            ae = AE("THEIRS")
            ae.add_requested_context(StorageCommitmentPushModel)
            role = build_role(StorageCommitmentPushModel, scp_role=True)
            back = ae.associate("127.0.0.1", ours.port, ae_title="OURS", ext_neg=[role])
            back.send_n_event_report(information, event, *uids)
            back.release()

        with their_server(their_commitment(send), StorageCommitmentPushModel) as port:
            association = await asyncdicom.connect("127.0.0.1", port, services=[client])
            assert_second_is_missing(await client.commit(association, INSTANCES, release=True))


async def one_is_missing(instances):
    return {instances[1].sop_instance_uid: FailureReason.NO_SUCH_OBJECT_INSTANCE}


def their_request():
    references = [item(ReferencedSOPClassUID=each[0], ReferencedSOPInstanceUID=each[1]) for each in INSTANCES]
    return item(TransactionUID="1.2.77", ReferencedSOPSequence=references)


def ask(association):
    uids = (StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
    return association.send_n_action(their_request(), 1, *uids)[0].Status


def queued():
    """Handlers of theirs that put reports into a queue of ours."""
    reports, loop = asyncio.Queue(), asyncio.get_running_loop()

    def report(event):
        loop.call_soon_threadsafe(reports.put_nowait, (event.event_type, event.event_information))
        return 0x0000, None

    return reports, [(evt.EVT_N_EVENT_REPORT, report)]


def assert_report_is_right(event, information):
    assert (event, information.TransactionUID) == (2, "1.2.77")
    assert [each.ReferencedSOPInstanceUID for each in information.ReferencedSOPSequence] == ["1.2.3.0", "1.2.3.2"]
    assert [each.FailureReason for each in information.FailedSOPSequence] == [0x0112]


async def test_we_report_to_pynetdicom_on_the_same_association():
    reports, handlers = queued()
    async with CommitmentProvider(one_is_missing) as provider, our_server(provider) as server:
        async with their_association(server.port, StorageCommitmentPushModel, handlers=handlers) as association:
            assert await asyncio.to_thread(ask, association) == 0x0000
            assert_report_is_right(*await reports.get())


async def test_we_report_to_pynetdicom_on_a_new_association():
    reports, handlers = queued()
    with their_server(handlers, StorageCommitmentPushModel, title="MODALITY") as port:
        provider = CommitmentProvider(
            one_is_missing,
            resolve={"MODALITY": ("127.0.0.1", port)},
            new_association=True,
            backoff=Backoff(attempts=2, first=0.0),
        )
        async with provider, our_server(provider) as server:
            async with their_association(server.port, StorageCommitmentPushModel) as association:
                assert await asyncio.to_thread(ask, association) == 0x0000
            assert_report_is_right(*await reports.get())


# Worklists


def entry(name, modality):
    step = item(
        Modality=modality,
        ScheduledStationAETitle="CT1",
        ScheduledProcedureStepStartDate="20260131",
        ScheduledProcedureStepStartTime="1000",
        ScheduledProcedureStepID="SPS1",
    )
    return item(PatientName=name, PatientID="4711", ScheduledProcedureStepSequence=[step])


async def test_our_query_finds_worklist_items_at_pynetdicom():
    asked = []

    def find(event):
        asked.append(event.identifier)
        for name in ("DOE^JANE", "DOE^JOHN"):
            yield 0xFF00, entry(name, "CT")

    with their_server([(evt.EVT_C_FIND, find)], ModalityWorklistInformationFind) as port:
        async with asyncdicom.connect("127.0.0.1", port, contexts="modality worklist") as association:
            query = worklist_query(modality="CT", date="20260131")
            names = [str(each.PatientName) async for each in worklist_items(association, query)]
    assert names == ["DOE^JANE", "DOE^JOHN"]
    assert asked[0].ScheduledProcedureStepSequence[0].Modality == "CT"


async def test_pynetdicom_finds_our_worklist_items():
    def find(association, query):
        found = list(association.send_c_find(query, ModalityWorklistInformationFind))
        return [status.Status for status, _ in found], [str(each.PatientName) for _, each in found if each]

    items = [entry("DOE^JANE", "CT"), entry("DOE^JOHN", "MR")]
    async with our_server(Worklist(items)) as server:
        async with their_association(server.port, ModalityWorklistInformationFind) as association:
            found = await asyncio.to_thread(find, association, worklist_query(modality="MR"))
    assert found == ([0xFF00, 0x0000], ["DOE^JOHN"])
