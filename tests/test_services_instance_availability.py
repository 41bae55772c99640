"""Instance availability notification: what is told of instances, and what is taken (PS3.4 annex R)."""

import asyncio
import contextlib

import pytest
from pydicom import Dataset

import asyncdicom
from asyncdicom import Status
from asyncdicom.services.instance_availability import (
    SOP_CLASS,
    Availability,
    AvailabilityNotifications,
    AvailableInstance,
    notification,
    notify_availability,
)

DEADLINE = 20.0
CT = "1.2.840.10008.5.1.4.1.1.2"
STEP = "1.2.840.10008.3.1.2.3.3"


def told(**options):
    series = {"1.2.3.1": [(CT, "1.2.3.1.1"), (CT, "1.2.3.1.2")], "1.2.3.2": [(CT, "1.2.3.2.1")]}
    return notification("1.2.3", series, retrieve_ae_title="ARCHIVE", **options)


@contextlib.asynccontextmanager
async def listened(notified):
    async with asyncio.timeout(DEADLINE):
        async with asyncdicom.serve("127.0.0.1", 0, services=[AvailabilityNotifications(notified)]) as server:
            async with asyncdicom.connect("127.0.0.1", server.port, contexts=[SOP_CLASS]) as association:
                yield association


async def test_whoever_listens_is_told_of_each_instance():
    seen = []

    async def notified(request, instances):
        seen.extend(instances)

    async with listened(notified) as association:
        attributes = told(availability=Availability.NEARLINE, performed_procedure_step=(STEP, "1.2.9"))
        assert await notify_availability(association, attributes) == 0x0000
    assert [each.instance.sop_instance_uid for each in seen] == ["1.2.3.1.1", "1.2.3.1.2", "1.2.3.2.1"]
    assert seen[2] == AvailableInstance("1.2.3", "1.2.3.2", (CT, "1.2.3.2.1"), "NEARLINE", "ARCHIVE")


async def test_whoever_listens_may_refuse():
    async def notified(request, instances):
        return Status(0x0124, "not from you")

    async with listened(notified) as association:
        status = await notify_availability(association, told())
    assert (status, status.error_comment) == (0x0124, "not from you")


@pytest.mark.parametrize(
    ("spoil", "status"),
    [
        (lambda data_set: data_set.pop("StudyInstanceUID"), 0x0120),
        (lambda data_set: setattr(data_set, "ReferencedSeriesSequence", []), 0x0121),
        (lambda data_set: data_set.ReferencedSeriesSequence[0].pop("SeriesInstanceUID"), 0x0120),
        (lambda data_set: data_set.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].pop("RetrieveAETitle"), 0x0120),
        (Dataset.clear, 0x0120),
    ],
)
async def test_a_notification_that_lacks_something_is_refused(spoil, status):
    async def notified(request, instances):
        raise AssertionError("it was let through")

    attributes = told()
    spoil(attributes)
    async with listened(notified) as association:
        assert await notify_availability(association, attributes) == status
