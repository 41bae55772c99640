import asyncio
import json

import pytest
from cli_processes import DEADLINE, run, start, wait_until
from node_files import CT, make, scheduled, write, write_entry
from pydicom import Dataset

import asyncdicom
from asyncdicom import Context, Status
from asyncdicom.cli.exit_codes import ExitCode
from asyncdicom.services.modality_performed_procedure_step import (
    PerformedProcedureStep,
    performed_series,
    scheduled_step,
)
from asyncdicom.services.modality_worklist import worklist_items, worklist_query
from asyncdicom.services.storage_commitment import CommitmentClient, FailureReason
from asyncdicom.uids import (
    MODALITY_PERFORMED_PROCEDURE_STEP,
    MODALITY_WORKLIST_FIND,
    STORAGE_COMMITMENT_PUSH_MODEL,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
)


class Node:
    """A running qrscp on a free port of the loopback address."""

    def __init__(self, folder, *options):
        port_file = folder.with_name(f"{folder.name}.port")
        port_file.unlink(missing_ok=True)
        self.process = start("qrscp", "0", "-ba", "127.0.0.1", "--folder", folder, "--port-file", port_file, *options)
        wait_until(lambda: port_file.exists() or self.process.poll() is not None)
        assert port_file.exists(), self.process.communicate()
        self.port = int(port_file.read_text())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def connect(self, *contexts, **options):
        return asyncdicom.connect("127.0.0.1", self.port, called_ae_title="QRSCP", contexts=contexts, **options)

    def end(self):
        """Have it end; returns exit code, output and errors."""
        self.process.terminate()
        output, errors = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, output, errors


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "archive"
    path.mkdir()
    return path


def study(uid="1.2.3"):
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = uid
    return identifier


async def test_what_is_stored_is_found_and_retrieved(folder):
    kept = []

    async def keep(request):
        kept.append(await request.data_set.decode())
        return Status.SUCCESS

    with Node(folder) as node:
        async with (
            asyncio.timeout(DEADLINE),
            node.connect(CT, STUDY_ROOT_FIND) as storing,
            node.connect(STUDY_ROOT_GET, Context(CT, scu=True, scp=True), c_store=keep) as getting,
        ):
            assert await storing.c_store(make()) == Status.SUCCESS
            found = [each.data_set async for each in storing.c_find(study(""), model=STUDY_ROOT_FIND)]
            assert [each.StudyInstanceUID for each in found] == ["1.2.3"]
            assert (await getting.c_get(study(), model=STUDY_ROOT_GET)).status == Status.SUCCESS
    assert kept == [make()]


async def test_what_it_has_is_moved_to_peers(folder):
    write(folder, make())
    kept = []

    async def keep(request):
        kept.append((request.sop_instance_uid, request.calling_ae_title, request.move_originator_ae_title))
        await request.data_set.drop()
        return Status.SUCCESS

    async with asyncio.timeout(DEADLINE), asyncdicom.serve("127.0.0.1", 0, ae_title="DEST", c_store=keep) as server:
        with Node(folder, "--peer", "OTHER=127.0.0.1:1", "--peer", f"DEST=127.0.0.1:{server.port}") as node:
            async with node.connect(STUDY_ROOT_MOVE, calling_ae_title="ASKING") as association:
                final = await association.c_move(study(), destination="DEST", model=STUDY_ROOT_MOVE)
                assert (final.status, final.completed) == (Status.SUCCESS, 1)
                final = await association.c_move(study(), destination="NOBODY", model=STUDY_ROOT_MOVE)
                assert final.status == 0xA801
    assert kept == [("1.2.3.1.1", "QRSCP", "ASKING")]


async def test_private_storage_classes_are_taken_too(folder):
    private = "1.3.6.1.4.1.9999.1"
    with Node(folder) as node:
        async with asyncio.timeout(DEADLINE), node.connect(private, STUDY_ROOT_FIND) as association:
            assert await association.c_store(make(sop_class=private)) == Status.SUCCESS
            assert len([_ async for _ in association.c_find(study(""), model=STUDY_ROOT_FIND)]) == 1


async def test_a_procedure_goes_from_worklist_to_commitment(folder, tmp_path):
    (tmp_path / "worklist").mkdir()
    write_entry(tmp_path / "worklist" / "1.wl", scheduled(1))
    contexts = (MODALITY_WORKLIST_FIND, MODALITY_PERFORMED_PROCEDURE_STEP, STORAGE_COMMITMENT_PUSH_MODEL, CT)
    client = CommitmentClient()
    with Node(folder, "--worklist", tmp_path / "worklist") as node:
        async with asyncio.timeout(DEADLINE), node.connect(*contexts, services=[client]) as association:
            (item,) = [each async for each in worklist_items(association, worklist_query(modality="CT"))]
            assert item.PatientID == "P1"
            step = PerformedProcedureStep()
            assert not (await step.create(association, scheduled_step(item))).is_failure
            instance = make(study=item.StudyInstanceUID, ProtocolName="head")
            assert await association.c_store(instance) == Status.SUCCESS
            done = Dataset()
            done.PerformedSeriesSequence = performed_series([instance])
            assert not (await step.complete(association, done)).is_failure
            wanted = [
                (CT, instance.SOPInstanceUID),
                (CT, "1.9"),
                ("1.2.840.10008.5.1.4.1.1.4", instance.SOPInstanceUID),
            ]
            commitment = await client.commit(association, wanted[:2])
    assert [each.sop_instance_uid for each in commitment.committed] == [instance.SOPInstanceUID]
    assert commitment.failed == ((CT, "1.9", FailureReason.NO_SUCH_OBJECT_INSTANCE),)
    assert (folder / "mpps" / f"{step.sop_instance_uid}.dcm").exists()


async def test_it_goes_on_with_what_it_had(folder):
    for _ in range(2):
        with Node(folder) as node:
            async with asyncio.timeout(DEADLINE), node.connect(CT, STUDY_ROOT_FIND) as association:
                await association.c_store(make())
                assert len([_ async for _ in association.c_find(study(""), model=STUDY_ROOT_FIND)]) == 1


async def test_it_ends_with_a_summary(folder):
    with Node(folder) as node:
        async with asyncio.timeout(DEADLINE), node.connect(CT) as association:
            await association.c_store(make(1))
            await association.c_store(make(2, StudyInstanceUID=""))
        code, output, errors = node.end()
    assert code == ExitCode.OK, errors
    assert output.splitlines()[-1] == "1 associations, 1 instances stored, 1 failures"


async def test_its_summary_may_be_json(folder):
    with Node(folder, "--json", "-q") as node:
        async with asyncio.timeout(DEADLINE), node.connect(CT) as association:
            await association.c_store(make())
        code, output, _ = node.end()
    assert code == ExitCode.OK
    assert json.loads(output)["instances"] == 1


def test_nothing_of_a_patient_is_logged(folder):
    write(folder, make(PatientName="Secret^Name", PatientID="SECRETID"))
    with Node(folder, "-v") as node:

        async def ask():
            identifier = study("")
            identifier.PatientName = "Secret*"
            identifier.PatientID = "SECRETID"
            async with asyncio.timeout(DEADLINE), node.connect(CT, STUDY_ROOT_FIND) as association:
                await association.c_store(make(2, PatientName="Secret^Name"))
                assert len([_ async for _ in association.c_find(identifier, model=STUDY_ROOT_FIND)]) == 1

        asyncio.run(ask())
        _, output, errors = node.end()
    assert "secret" not in (output + errors).lower()
    assert "searches at STUDY level" in errors


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), ExitCode.SYNTAX, "the port to listen on is missing"),
        (("0", "--peer", "TITLE"), ExitCode.SYNTAX, "TITLE=HOST:PORT"),
        (("0", "--peer", "TITLE="), ExitCode.SYNTAX, "the host is missing"),
        (("0", "--peer", f"{'T' * 17}=h:1"), ExitCode.SYNTAX, "16"),
        (("0", "--folder", "/does/not/exist"), ExitCode.OUTPUT_FOLDER, "does not exist"),
        (("0",), ExitCode.SYNTAX, "--folder names where the archive is"),
        (
            ("0", "--folder", ".", "--worklist", "/does/not/exist"),
            ExitCode.CANNOT_READ,
            "the worklist's folder /does/not/exist",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path, words, code, message):
    done = run("qrscp", *words, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
