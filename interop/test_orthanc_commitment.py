"""Storage commitment with Orthanc, in both roles: it always reports on a new association."""

import asyncio
import json
import sys

import pytest
from peers import corpus, free_ports, run

import asyncdicom
from asyncdicom.services.storage_commitment import CommitmentClient, CommitmentProvider, FailureReason

DEADLINE = 30.0
MISSING = ("1.2.840.10008.5.1.4.1.1.2", "1.2.3.4")


@pytest.fixture(autouse=True)
async def deadline():
    """No dialogue takes longer."""
    async with asyncio.timeout(DEADLINE):
        yield


@pytest.fixture
async def stored(orthanc):
    """Two instances that Orthanc has."""
    instances = [each for each in corpus() if each.path.endswith(("CT_small.dcm", "MR_small.dcm"))]
    assert len(instances) == 2
    for instance in instances:
        await orthanc.upload(instance.path)
    return [each[:2] for each in instances]


def asking(orthanc):
    return asyncdicom.connect(
        "127.0.0.1",
        orthanc.port,
        calling_ae_title="OURS",
        called_ae_title=orthanc.ae_title,
        contexts="storage commitment",
    )


async def test_orthanc_commits_to_what_it_has_and_not_to_what_it_has_not(orthanc, stored):
    client = CommitmentClient()
    async with asyncdicom.serve("127.0.0.1", 0, ae_title="OURS", services=[client]) as server:
        await orthanc.register("OURS", server.port)
        async with asking(orthanc) as association:
            commitment = await client.commit(association, [*stored, MISSING])
    assert set(commitment.committed) == set(stored)
    assert [each[:] for each in commitment.failed] == [(*MISSING, FailureReason.NO_SUCH_OBJECT_INSTANCE)]


async def test_orthanc_reports_after_our_release(orthanc, stored):
    client = CommitmentClient()
    async with asyncdicom.serve("127.0.0.1", 0, ae_title="OURS", services=[client]) as server:
        await orthanc.register("OURS", server.port)
        association = await asking(orthanc)
        commitment = await client.commit(association, stored, release=True)
    assert commitment.is_complete


async def test_stgcmtscu_hears_what_orthanc_has(orthanc, stored):
    (port,) = free_ports(1)
    await orthanc.register("OURS", port)
    instances = [word for each in (*stored, MISSING) for word in ("--instance", ",".join(each))]
    words = ("stgcmtscu", "--json", "-aet", "OURS", "--port", port, *instances)
    code, output = await run(sys.executable, "-m", "asyncdicom", *words, "127.0.0.1", orthanc.port)
    outcome = json.loads(output.splitlines()[-1])
    assert (code, len(outcome["committed"]), [each["reason"] for each in outcome["failed"]]) == (62, 2, ["0112"])


async def test_orthanc_asks_us_and_hears_what_is_missing(orthanc):
    asked = []

    async def check(instances):
        asked.extend(instances)
        return {MISSING[1]: FailureReason.NO_SUCH_OBJECT_INSTANCE}

    where = {orthanc.ae_title: ("127.0.0.1", orthanc.port)}
    async with CommitmentProvider(check, resolve=where) as provider:
        async with asyncdicom.serve("127.0.0.1", 0, ae_title="OURS", services=[provider]) as server:
            await orthanc.register("OURS", server.port)
            instances = [("1.2.840.10008.5.1.4.1.1.4", "1.2.3.5"), MISSING]
            request = [{"SOPClassUID": each[0], "SOPInstanceUID": each[1]} for each in instances]
            answer = await orthanc.post("/modalities/OURS/storage-commitment", {"DicomInstances": request})
            outcome = await until_it_is_decided(orthanc, answer["Path"])
    assert asked == instances
    assert (outcome["Status"], outcome["RemoteAET"]) == ("Failure", "OURS")
    assert [each["SOPInstanceUID"] for each in outcome["Success"]] == ["1.2.3.5"]
    assert [(each["SOPInstanceUID"], each["FailureReason"]) for each in outcome["Failures"]] == [("1.2.3.4", 0x0112)]


async def until_it_is_decided(orthanc, path):
    while (outcome := await orthanc.get(path))["Status"] == "Pending":
        await asyncio.sleep(0.05)
    return outcome
