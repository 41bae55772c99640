"""Our archive with pynetdicom as its client."""

import asyncio
import sys
from pathlib import Path

from pydicom import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from node_files import CT, make, write
from test_qrscp import contents, our_archive, slices

from asyncdicom.uids import STUDY_ROOT_FIND, STUDY_ROOT_GET

__all__ = ["slices"]


def identifier(level, **keys):
    made = Dataset()
    made.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(made, keyword, value)
    return made


def relational(uid):
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid = uid
    item.service_class_application_information = b"\1"
    return item


def find(port, asked, extended=()):
    """In a thread: the statuses and matches of a C-FIND."""
    ae = AE("PYNETDICOM")
    ae.add_requested_context(STUDY_ROOT_FIND)
    association = ae.associate("127.0.0.1", port, ae_title="OURS", ext_neg=list(extended))
    assert association.is_established
    found = list(association.send_c_find(asked, STUDY_ROOT_FIND))
    association.release()
    return [status.Status for status, _ in found], [match for _, match in found if match]


def get(port, asked):
    """In a thread: the last status of a C-GET, and the data sets that came, encoded."""
    kept = {}

    def keep(event):
        kept[event.request.AffectedSOPInstanceUID] = event.request.DataSet.getvalue()
        return 0

    ae = AE("PYNETDICOM")
    ae.add_requested_context(STUDY_ROOT_GET)
    ae.add_requested_context(CT, "1.2.840.10008.1.2.1")
    association = ae.associate(
        "127.0.0.1",
        port,
        ae_title="OURS",
        ext_neg=[build_role(CT, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, keep)],
    )
    assert association.is_established
    *_, (status, _) = association.send_c_get(asked, STUDY_ROOT_GET)
    association.release()
    return status, kept


async def test_pynetdicom_finds(tmp_path):
    write(tmp_path, make())
    async with our_archive(tmp_path) as port:
        asked = identifier("STUDY", PatientName="doe*", StudyInstanceUID="", NumberOfStudyRelatedInstances=None)
        statuses, (match,) = await asyncio.to_thread(find, port, asked)
    assert statuses == [0xFF00, 0x0000]
    assert (match.PatientName, match.StudyInstanceUID, match.NumberOfStudyRelatedInstances) == ("Doe^John", "1.2.3", 1)


async def test_pynetdicom_asks_relationally_once_that_is_agreed(tmp_path):
    write(tmp_path, make())
    asked = identifier("IMAGE", SOPInstanceUID="", PatientID="P1")
    async with our_archive(tmp_path) as port:
        assert await asyncio.to_thread(find, port, asked) == ([0xA900], [])
        statuses, _ = await asyncio.to_thread(find, port, asked, [relational(STUDY_ROOT_FIND)])
    assert statuses == [0xFF00, 0x0000]


async def test_pynetdicom_gets_a_study_as_it_is(slices):
    async with our_archive(slices) as port:
        status, kept = await asyncio.to_thread(get, port, identifier("STUDY", StudyInstanceUID="1.2.3"))
    assert (status.Status, status.NumberOfCompletedSuboperations) == (0x0000, 100)
    assert kept == contents(slices)
