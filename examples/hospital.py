"""What a modality talks to: a worklist, procedure steps, an archive that commits itself to what it has.

``python hospital.py [PORT]``; prints the port. Everything is kept in memory or in the folder ``hospital``.
"""

import asyncio
import datetime as dt
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydicom import Dataset

import asyncdicom
from asyncdicom.services.modality_performed_procedure_step import PerformedProcedureSteps
from asyncdicom.services.modality_worklist import Worklist
from asyncdicom.services.references import Reference
from asyncdicom.services.storage_commitment import CommitmentProvider, FailureReason

folder = Path("hospital")
kept: dict[str, Path] = {}


def scheduled() -> Dataset:
    """What is to be done today."""
    step = Dataset()
    step.Modality = "CT"
    step.ScheduledStationAETitle = "CT1"
    step.ScheduledProcedureStepStartDate = dt.datetime.now().astimezone().date()
    step.ScheduledProcedureStepStartTime = "090000"
    step.ScheduledProcedureStepID = "S1"
    step.ScheduledProcedureStepDescription = "Head"
    item = Dataset()
    item.PatientName, item.PatientID = "Doe^Jane", "42"
    item.AccessionNumber, item.RequestedProcedureID = "A1", "R1"
    item.StudyInstanceUID = "1.2.3"
    item.ScheduledProcedureStepSequence = [step]
    return item


async def store(request: asyncdicom.CStoreRequest) -> asyncdicom.Status:
    """Keep an instance."""
    path = folder / f"{len(kept)}.dcm"
    await request.data_set.save_as(path, sync=True)
    kept[request.sop_instance_uid] = path
    return asyncdicom.Status.SUCCESS


async def check(instances: Sequence[Reference]) -> Mapping[str, int]:
    """Which instances are not here, and why."""
    missing = [each.sop_instance_uid for each in instances if each.sop_instance_uid not in kept]
    return dict.fromkeys(missing, FailureReason.NO_SUCH_OBJECT_INSTANCE)


async def main(port: int) -> None:
    """Serve until the program is ended."""
    folder.mkdir(exist_ok=True)
    steps = PerformedProcedureSteps()
    async with CommitmentProvider(check) as commitment:
        services = [Worklist(lambda _: [scheduled()]), steps, commitment]
        async with asyncdicom.serve("127.0.0.1", port, c_store=store, services=services) as server:
            print("listening on port", server.port, flush=True)
            await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 11112))
