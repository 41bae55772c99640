"""Storage commitment: what is asked, how the report comes, and what becomes of it (PS3.4 annex J)."""

import asyncio
import contextlib

import pytest
from pydicom import Dataset
from standard_tables import DIMSE, SERVICES

import asyncdicom
from asyncdicom import Backoff, Context, Status
from asyncdicom.errors import AssociationReleased, StatusError
from asyncdicom.services.storage_commitment import (
    SOP_CLASS,
    SOP_INSTANCE,
    Commitment,
    CommitmentClient,
    CommitmentProvider,
    FailedInstance,
    FailureReason,
    read_report,
    request_commitment,
)

DEADLINE = 20.0
CT = "1.2.840.10008.5.1.4.1.1.2"
INSTANCES = [(CT, f"1.2.3.{number}") for number in range(3)]
AT_ONCE = Backoff(attempts=3, first=0.0)


async def all_safe(instances):
    return {}


async def one_is_missing(instances):
    return {instances[1].sop_instance_uid: FailureReason.NO_SUCH_OBJECT_INSTANCE}


def information(transaction="1.2.9", instances=INSTANCES):
    data_set = Dataset()
    data_set.TransactionUID = transaction
    data_set.ReferencedSOPSequence = []
    for sop_class, uid in instances:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        data_set.ReferencedSOPSequence.append(item)
    return data_set


@contextlib.asynccontextmanager
async def asked(provider, client=None):
    """An association with a provider; the client is there for reports on it."""
    services = [client] if client else []
    async with asyncio.timeout(DEADLINE):
        async with provider, asyncdicom.serve("127.0.0.1", 0, ae_title="ARCHIVE", services=[provider]) as server:
            options = {"called_ae_title": "ARCHIVE", "calling_ae_title": "MODALITY", "services": services}
            async with asyncdicom.connect("127.0.0.1", server.port, contexts=[SOP_CLASS], **options) as association:
                yield association


def listening(client):
    """Our server for reports on new associations."""
    return asyncdicom.serve("127.0.0.1", 0, ae_title="MODALITY", services=[client])


# Both ways


async def test_the_report_comes_on_the_same_association():
    client = CommitmentClient()
    async with asked(CommitmentProvider(all_safe), client) as association:
        commitment = await client.commit(association, INSTANCES)
    assert (commitment.committed, commitment.failed, commitment.is_complete) == (tuple(INSTANCES), (), True)


async def test_the_report_comes_on_a_new_association():
    client = CommitmentClient()
    async with listening(client) as ours:
        provider = CommitmentProvider(
            all_safe, resolve={"MODALITY": ("127.0.0.1", ours.port)}, new_association=True, backoff=AT_ONCE
        )
        async with asked(provider) as association:
            commitment = await client.commit(association, INSTANCES)
    assert commitment.committed == tuple(INSTANCES)


async def test_the_report_finds_another_way_when_the_association_is_released():
    client = CommitmentClient()
    gate = asyncio.Event()

    async def check(instances):
        await gate.wait()
        return {}

    async with listening(client) as ours:

        async def resolve(title):
            return ("127.0.0.1", ours.port) if title == "MODALITY" else None

        async with asked(CommitmentProvider(check, resolve=resolve, backoff=AT_ONCE), client) as association:
            task = asyncio.create_task(client.commit(association, INSTANCES, release=True))
            await association.wait_closed()
            gate.set()
            assert (await task).is_complete


async def test_the_report_calls_us_by_the_titles_of_the_request():
    seen = []
    client = CommitmentClient()
    report = client.handlers["n_event_report"]

    async def heard(request):
        seen.append((request.calling_ae_title, request.called_ae_title))
        return await report(request)

    contexts = [Context(SOP_CLASS, scu=True, scp=False)]
    async with asyncdicom.serve("127.0.0.1", 0, contexts=contexts, n_event_report=heard) as ours:
        where = {"MODALITY": ("127.0.0.1", ours.port)}
        async with asked(CommitmentProvider(all_safe, resolve=where, new_association=True)) as association:
            await client.commit(association, INSTANCES)
    assert seen == [("ARCHIVE", "MODALITY")]


async def test_a_report_that_crosses_the_release_is_heard():
    client = CommitmentClient()
    async with listening(client) as ours:
        provider = CommitmentProvider(all_safe, resolve={"MODALITY": ("127.0.0.1", ours.port)}, backoff=AT_ONCE)
        async with asked(provider, client) as association:
            assert (await client.commit(association, INSTANCES, release=True)).is_complete
            assert isinstance(await association.wait_closed(), AssociationReleased)


# What it says


async def test_some_instances_may_not_be_safe():
    client = CommitmentClient()
    async with asked(CommitmentProvider(one_is_missing), client) as association:
        commitment = await client.commit(association, INSTANCES)
    assert commitment.committed == (INSTANCES[0], INSTANCES[2])
    assert commitment.failed == (FailedInstance(*INSTANCES[1], 0x0112),)
    assert commitment.failed[0].meaning == "no such object instance"
    assert not commitment.is_complete


async def test_when_the_check_fails_no_instance_is_safe():
    async def check(instances):
        raise RuntimeError("the disk is gone")

    client = CommitmentClient()
    async with asked(CommitmentProvider(check), client) as association:
        commitment = await client.commit(association, INSTANCES)
    assert [each.reason for each in commitment.failed] == [0x0110] * 3


async def test_an_instance_that_is_named_twice_is_asked_for_once():
    seen = []

    async def check(instances):
        seen.extend(instances)
        return {}

    client = CommitmentClient()
    async with asked(CommitmentProvider(check), client) as association:
        await client.commit(association, [INSTANCES[0], *INSTANCES])
    assert seen == INSTANCES


def failing(reference, reason=0x0110):
    item = information(instances=[reference]).ReferencedSOPSequence[0]
    item.FailureReason = reason
    return item


@pytest.mark.parametrize(
    ("named", "failed", "reason"),
    [
        (INSTANCES[:1], [], 0),
        ([INSTANCES[0], ("1.2.9", INSTANCES[1][1]), (CT, "1.2.9"), (CT, "1.2.8")], [], 0),
        (INSTANCES, [failing(INSTANCES[1]), failing(INSTANCES[2])], 0x0110),
    ],
    ids=["left out", "of another class or instance", "in both sequences"],
)
async def test_what_the_report_does_not_call_safe_is_not(named, failed, reason):
    async def action(request):
        data_set = information(request.data_set.TransactionUID, named)
        data_set.FailedSOPSequence = failed
        answers.append(asyncio.create_task(request.association.n_event_report(SOP_CLASS, SOP_INSTANCE, 2, data_set)))
        return Status.SUCCESS

    answers = []
    client = CommitmentClient()
    async with asyncio.timeout(DEADLINE):
        async with asyncdicom.serve("127.0.0.1", 0, contexts=[SOP_CLASS], n_action=action) as server:
            async with asyncdicom.connect("127.0.0.1", server.port, services=[client]) as association:
                commitment = await client.commit(association, INSTANCES)
                assert (await answers[0]).status == 0x0000
    assert commitment.committed == (INSTANCES[0],)
    assert [each[:] for each in commitment.failed] == [(*each, reason) for each in INSTANCES[1:]]


async def test_a_report_may_fail_to_name_what_has_failed():
    nameless = failing(INSTANCES[1])
    del nameless.ReferencedSOPInstanceUID
    reported = information("1.2.9", INSTANCES[:1])
    reported.FailedSOPSequence = [nameless]

    class Request:
        event_type_id, data_set = 2, reported

    assert [each[:] for each in read_report(Request).failed] == [(CT, "", 0x0110)]


def test_failure_reasons_are_those_of_the_standard():
    known = {f"{each:04X}H" for each in FailureReason if each}
    assert known == set(DIMSE["failure_reason_values"]["values"])


def test_uids_are_those_of_the_standard():
    service = SERVICES["services"]["storage_commitment_push"]
    assert [each["uid"] for each in service["sop_classes"]] == [SOP_CLASS]
    assert [each["uid"] for each in service["well_known_instances"]] == [SOP_INSTANCE]


def test_an_unknown_failure_reason_is_named_by_its_number():
    assert FailedInstance(CT, "1.2", FailureReason.NOT_REPORTED).meaning == "not reported"
    assert FailedInstance(CT, "1.2", 0xABCD).meaning == "undefined failure reason ABCDH"


async def test_instances_are_named_by_files_data_sets_and_pairs():
    seen = []

    async def check(instances):
        seen.extend(instances)
        return {}

    data_set = Dataset()
    data_set.SOPClassUID, data_set.SOPInstanceUID = CT, "1.2.3.1"
    instance = asyncdicom.Instance(CT, "1.2.3.0", "1.2.840.10008.1.2.1")
    client = CommitmentClient()
    async with asked(CommitmentProvider(check), client) as association:
        await client.commit(association, [instance, data_set, INSTANCES[2]])
    assert seen == INSTANCES


# What goes wrong for who asks


async def test_no_report_in_time_is_a_timeout_and_a_late_one_is_heard_all_the_same():
    gate = asyncio.Event()
    late = asyncio.get_running_loop().create_future()

    async def check(instances):
        await gate.wait()
        return {}

    async def heard(commitment):
        late.set_result(commitment)

    client = CommitmentClient(heard)
    async with asked(CommitmentProvider(check), client) as association:
        with pytest.raises(TimeoutError):
            await client.commit(association, INSTANCES, timeout=0.05, transaction_uid="1.2.77")
        gate.set()
        assert await late == Commitment("1.2.77", tuple(INSTANCES))


async def test_a_report_that_nobody_awaits_is_refused():
    client = CommitmentClient()
    async with asyncio.timeout(DEADLINE), listening(client) as ours:
        contexts = [Context(SOP_CLASS, scu=False, scp=True)]
        async with asyncdicom.connect("127.0.0.1", ours.port, called_ae_title="MODALITY", contexts=contexts) as them:
            response = await them.n_event_report(SOP_CLASS, SOP_INSTANCE, 1, information())
    assert response.status == 0x0115


async def test_a_report_that_comes_again_is_taken_again():
    client = CommitmentClient()
    async with listening(client) as ours, asked(CommitmentProvider(all_safe), client) as association:
        await client.commit(association, INSTANCES, transaction_uid="1.2.9")
        contexts = [Context(SOP_CLASS, scu=False, scp=True)]
        async with asyncdicom.connect("127.0.0.1", ours.port, called_ae_title="MODALITY", contexts=contexts) as them:
            assert (await them.n_event_report(SOP_CLASS, SOP_INSTANCE, 1, information("1.2.9"))).status == 0x0000


@pytest.mark.parametrize(("event", "data_set", "status"), [(3, information(), 0x0113), (1, None, 0x0114)])
async def test_a_report_that_is_none_is_refused(event, data_set, status):
    async with asyncio.timeout(DEADLINE), listening(CommitmentClient()) as ours:
        contexts = [Context(SOP_CLASS, scu=False, scp=True)]
        async with asyncdicom.connect("127.0.0.1", ours.port, called_ae_title="MODALITY", contexts=contexts) as them:
            assert (await them.n_event_report(SOP_CLASS, SOP_INSTANCE, event, data_set)).status == status


async def test_a_refused_request_is_an_error_with_the_status():
    async def action(request):
        return Status(0x0124, "not for you")

    client = CommitmentClient()
    async with asyncio.timeout(DEADLINE):
        async with asyncdicom.serve("127.0.0.1", 0, contexts=[SOP_CLASS], n_action=action) as server:
            async with asyncdicom.connect("127.0.0.1", server.port, contexts=[SOP_CLASS]) as association:
                with pytest.raises(StatusError) as caught:
                    await client.commit(association, INSTANCES)
    assert (caught.value.status, caught.value.status.error_comment) == (0x0124, "not for you")


async def test_nothing_to_ask_for_is_an_error():
    async with asked(CommitmentProvider(all_safe)) as association:
        with pytest.raises(ValueError, match="no instances"):
            await CommitmentClient().commit(association, [])
        with pytest.raises(ValueError, match="no instances"):
            await request_commitment(association, [])


async def test_one_transaction_is_awaited_once():
    gate = asyncio.Event()

    async def check(instances):
        await gate.wait()
        return {}

    client = CommitmentClient()
    async with asked(CommitmentProvider(check), client) as association:
        first = asyncio.create_task(client.commit(association, INSTANCES, transaction_uid="1.2.77"))
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="already"):
            await client.commit(association, INSTANCES, transaction_uid="1.2.77")
        gate.set()
        assert (await first).is_complete


async def test_cancellation_leaves_the_association_usable():
    gate, checking = asyncio.Event(), asyncio.Event()

    async def check(instances):
        checking.set()
        await gate.wait()
        return {}

    client = CommitmentClient()
    async with asked(CommitmentProvider(check), client) as association:
        task = asyncio.create_task(client.commit(association, INSTANCES))
        await checking.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()
        assert (await client.commit(association, INSTANCES)).is_complete


# What goes wrong for who is asked


@pytest.mark.parametrize(
    ("instance", "action", "data_set", "status"),
    [
        ("1.2.3", 1, information(), 0x0112),
        (SOP_INSTANCE, 2, information(), 0x0123),
        (SOP_INSTANCE, 1, None, 0x0114),
        (SOP_INSTANCE, 1, information(transaction=None), 0x0114),
        (SOP_INSTANCE, 1, information(instances=[]), 0x0114),
        (SOP_INSTANCE, 1, information(instances=[*INSTANCES, (CT, None)]), 0x0115),
    ],
)
async def test_a_request_that_is_none_is_refused(instance, action, data_set, status):
    async with asked(CommitmentProvider(all_safe)) as association:
        response = await association.n_action(SOP_CLASS, instance, action, data_set)
    assert response.status == status


async def test_requests_have_a_limit():
    provider = CommitmentProvider(all_safe, limit=0)
    async with asked(provider) as association:
        assert (await request_commitment(association, INSTANCES)).status == 0x0213


async def test_a_transaction_that_is_under_way_fails_when_it_comes_again():
    gate = asyncio.Event()
    reports = asyncio.Queue()

    async def check(instances):
        await gate.wait()
        return {}

    client = CommitmentClient(reports.put)
    async with asked(CommitmentProvider(check), client) as association:
        for _ in range(2):
            assert (await request_commitment(association, INSTANCES, "1.2.77")).status == 0x0000
        assert {each.reason for each in (await reports.get()).failed} == {FailureReason.DUPLICATE_TRANSACTION_UID}
        gate.set()
        assert (await reports.get()).is_complete


async def test_a_report_that_is_not_taken_is_sent_so_often_and_no_more():
    calls = []

    async def heard(request):
        calls.append(request.event_type_id)
        return Status(0x0110)

    contexts = [Context(SOP_CLASS, scu=True, scp=False)]
    async with asyncdicom.serve("127.0.0.1", 0, contexts=contexts, n_event_report=heard) as ours:
        where = {"MODALITY": ("127.0.0.1", ours.port)}
        async with asked(CommitmentProvider(all_safe, resolve=where, backoff=AT_ONCE)) as association:
            assert (await request_commitment(association, INSTANCES)).status == 0x0000
    assert calls == [1] * 3


async def test_a_report_is_sent_again_until_somebody_listens():
    client = CommitmentClient()
    asked_for = 0

    async with listening(client) as ours:

        async def resolve(title):
            nonlocal asked_for
            asked_for += 1
            if asked_for == 1:
                return None
            if asked_for == 2:
                raise OSError("the directory does not answer")
            return "127.0.0.1", ours.port

        provider = CommitmentProvider(all_safe, resolve=resolve, new_association=True, backoff=AT_ONCE)
        async with asked(provider) as association:
            assert (await client.commit(association, INSTANCES)).is_complete
    assert asked_for == 3


async def test_closing_gives_up_what_takes_too_long():
    cancelled = asyncio.Event()

    async def check(instances):
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    provider = CommitmentProvider(check)
    async with asked(provider) as association:
        await request_commitment(association, INSTANCES)
        await provider.close(drain=0.0)
        assert cancelled.is_set()


async def test_nothing_is_looked_after_once_it_is_closed():
    provider = CommitmentProvider(all_safe)
    async with asked(provider) as association:
        await provider.close()
        assert (await request_commitment(association, INSTANCES)).status == 0x0213
