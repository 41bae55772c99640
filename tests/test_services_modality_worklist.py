"""Modality worklist: queries, and a service that answers them (PS3.4 annex K)."""

import asyncio
import contextlib
import datetime as dt
from contextlib import aclosing

import pytest
from pydicom import Dataset

import asyncdicom
from asyncdicom import Status
from asyncdicom.errors import StatusError
from asyncdicom.services.modality_worklist import SOP_CLASS, Worklist, worklist_items, worklist_query

DEADLINE = 20.0


def entry(name, *, date="20260131", time="100000", modality="CT", station="CT1", **values):
    step, data_set = Dataset(), Dataset()
    step.ScheduledStationAETitle, step.Modality = station, modality
    step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime = date, time
    step.ScheduledProcedureStepID = f"SPS-{name}"
    data_set.PatientName, data_set.PatientID = name, name[:4]
    data_set.SpecificCharacterSet = "ISO_IR 192"
    data_set.ScheduledProcedureStepSequence = [step]
    for keyword, value in values.items():
        setattr(data_set, keyword, value)
    return data_set


ENTRIES = [
    entry("DOE^JANE", AccessionNumber="A1"),
    entry("DOE^JOHN", date="20260201", time="080000", modality="MR", station="MR1"),
    entry("MÜLLER^EVA", date="20260202", time="170000"),
]


@contextlib.asynccontextmanager
async def asked(items=ENTRIES, **options):
    services = [Worklist(items)] if items is not None else []
    async with asyncio.timeout(DEADLINE):
        async with asyncdicom.serve("127.0.0.1", 0, services=services, **options) as server:
            async with asyncdicom.connect("127.0.0.1", server.port, contexts=[SOP_CLASS]) as association:
                yield association


async def found(association, query):
    return [str(item.PatientName) async for item in worklist_items(association, query)]


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ({}, ["DOE^JANE", "DOE^JOHN", "MÜLLER^EVA"]),
        ({"date": "20260131"}, ["DOE^JANE"]),
        ({"date": dt.date(2026, 1, 31)}, ["DOE^JANE"]),
        ({"date": (dt.date(2026, 2, 1), None)}, ["DOE^JOHN", "MÜLLER^EVA"]),
        ({"date": (None, dt.date(2026, 2, 1))}, ["DOE^JANE", "DOE^JOHN"]),
        ({"date": "20260131-20260201", "time": "0900-1600"}, ["DOE^JANE", "DOE^JOHN"]),
        ({"date": "20260131-20260201", "time": "1100-1600"}, ["DOE^JOHN"]),
        ({"modality": "MR"}, ["DOE^JOHN"]),
        ({"station_ae_title": "CT1"}, ["DOE^JANE", "MÜLLER^EVA"]),
        ({"patient_name": "DOE*"}, ["DOE^JANE", "DOE^JOHN"]),
        ({"patient_name": "MÜLLER^*"}, ["MÜLLER^EVA"]),
        ({"patient_id": "MÜLL"}, ["MÜLLER^EVA"]),
        ({"accession_number": "A1"}, ["DOE^JANE"]),
        ({"modality": "?R", "time": "-0900"}, ["DOE^JOHN"]),
        ({"modality": "US"}, []),
    ],
)
async def test_a_query_finds_what_it_asks_for(keys, names):
    async with asked() as association:
        assert await found(association, worklist_query(**keys)) == names


async def test_an_item_has_all_that_was_asked_for():
    async with asked() as association:
        query = worklist_query(accession_number="A1")
        (item,) = [item async for item in worklist_items(association, query)]
    step = item.ScheduledProcedureStepSequence[0]
    assert (step.Modality, step.ScheduledProcedureStepID, step.ScheduledStationAETitle) == ("CT", "SPS-DOE^JANE", "CT1")
    assert {each.tag for each in query} <= {each.tag for each in item}


async def test_items_may_come_from_a_function_of_any_kind():
    def listed(request):
        return ENTRIES[:1]

    async def fetched(request):
        return ENTRIES[1:2]

    async def streamed(request):
        yield ENTRIES[2]

    names = []
    for items in (listed, fetched, streamed):
        async with asked(items) as association:
            names += await found(association, worklist_query())
    assert names == ["DOE^JANE", "DOE^JOHN", "MÜLLER^EVA"]


async def test_a_query_that_is_left_early_is_cancelled():
    cancelled = asyncio.Event()

    async def endless(request):
        try:
            while True:
                yield ENTRIES[0]
        finally:
            cancelled.set()

    async with asked(endless) as association:
        async with aclosing(worklist_items(association, worklist_query())) as items:
            async for _ in items:
                break
        await cancelled.wait()


async def test_a_failure_of_the_peer_is_an_error_with_its_status():
    async def refuse(request):
        yield Status(0xA700, "too busy")

    async with asked(None, contexts=[SOP_CLASS], c_find=refuse) as association:
        with pytest.raises(StatusError) as caught:
            await found(association, worklist_query())
    assert (caught.value.status, caught.value.status.error_comment) == (0xA700, "too busy")


async def test_a_query_with_a_value_that_is_none_is_refused():
    async with asked() as association:
        with pytest.raises(StatusError) as caught:
            await found(association, worklist_query(date="tomorrow"))
    assert caught.value.status == 0xA900


async def test_a_long_worklist_leaves_the_event_loop_to_others():
    turns = 0

    async def count_turns():
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    def items(request):
        for _ in range(1000):
            yield ENTRIES[0]
        done.append(turns)

    done = []
    async with asked(items) as association:
        others = asyncio.ensure_future(count_turns())
        assert await found(association, worklist_query(modality="US")) == []
        others.cancel()
    assert done[0] >= 10
