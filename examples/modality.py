"""A modality's day: ask for the worklist, report the step, store the images, have them committed.

``python modality.py HOST PORT``
"""

import asyncio
import contextlib
import sys

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset

import asyncdicom
from asyncdicom.services.modality_performed_procedure_step import (
    PerformedProcedureStep,
    performed_series,
    scheduled_step,
)
from asyncdicom.services.modality_worklist import worklist_items, worklist_query
from asyncdicom.services.storage_commitment import CommitmentClient

CT = asyncdicom.uid_of("CT Image Storage")


def scan(item: Dataset, slices: int = 3) -> list[Dataset]:
    """What the scanner makes of a worklist item."""
    series = asyncdicom.new_uid()
    images = []
    for number in range(slices):
        image = Dataset()
        image.SOPClassUID, image.SOPInstanceUID = CT, asyncdicom.new_uid()
        image.PatientName, image.PatientID = item.PatientName, item.PatientID
        image.StudyInstanceUID, image.SeriesInstanceUID = item.StudyInstanceUID, series
        image.Modality, image.InstanceNumber = "CT", number + 1
        image.ProtocolName, image.SeriesDescription = "Head", "Axial"
        image.Rows = image.Columns = 64
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
        image.PixelData = (number * 100).to_bytes(2, "little") * 64 * 64
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        images.append(image)
    return images


async def main(host: str, port: int) -> None:
    """One examination."""
    client = CommitmentClient()
    contexts = ["modality worklist", "ModalityPerformedProcedureStep", "StorageCommitmentPushModel", CT]
    async with asyncdicom.connect(host, port, contexts=contexts, services=[client]) as association:
        query = worklist_query(modality="CT", station_ae_title="CT1")
        async with contextlib.aclosing(worklist_items(association, query)) as items:
            item = await anext(items)
        print("to do:", item.ScheduledProcedureStepSequence[0].ScheduledProcedureStepDescription)

        step = PerformedProcedureStep()
        print("begun:", await step.create(association, scheduled_step(item)))
        images = scan(item)
        for image in images:
            print("stored:", await association.c_store(image))
        done = Dataset()
        done.PerformedSeriesSequence = performed_series(images)
        print("done:", await step.complete(association, done))

        commitment = await client.commit(association, images)
        print("safe:", len(commitment.committed), "lost:", len(commitment.failed))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
