"""What a particular peer does otherwise: off unless asked for, and of effect when it is."""

import contextlib
from pathlib import Path

import pytest
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.data import get_testdata_file
from raw_peer import accept, pdv, raw_server, response
from test_operations import FIND, asking, keys

import asyncdicom
from asyncdicom import Quirks, Status
from asyncdicom.command import Category, CommandField
from asyncdicom.pdu import PDataTF, ReleaseRP, ReleaseRQ


def worklist_keys():
    step = Dataset()
    step.Modality, step.ScheduledStationAETitle, step.StationName = "CT", "*", "CT?"
    step.add(DataElement("ScheduledProcedureStepStartDate", "DA", "202611*", validation_mode=IGNORE))
    query = Dataset()
    query.PatientName, query.PatientID, query.StudyDate = "*", "1*", "20261122-20261123"
    query.ScheduledProcedureStepSequence = [step]
    return query


def test_a_peer_that_keeps_to_the_standard_is_asked_as_it_is_said():
    query = worklist_keys()
    assert Quirks(assume_roles=True).mended(query) is query


def test_universal_matching_is_said_by_an_empty_key():
    mended = Quirks(no_universal_matching=True).mended(worklist_keys())
    step = mended.ScheduledProcedureStepSequence[0]
    assert (mended.PatientName, mended.PatientID, step.ScheduledStationAETitle) == ("", "1*", "")
    assert step.ScheduledProcedureStepStartDate == "202611*"


def test_dates_and_times_go_without_wildcards():
    mended = Quirks(no_wildcards_in_dates=True).mended(worklist_keys())
    step = mended.ScheduledProcedureStepSequence[0]
    assert (mended.PatientName, mended.StudyDate, step.StationName) == ("*", "20261122-20261123", "CT?")
    assert step.ScheduledProcedureStepStartDate == ""


def test_keys_are_left_out_at_every_level():
    mended = Quirks(omit_keys=(0x00100010, 0x00080060)).mended(worklist_keys())
    assert "PatientName" not in mended
    assert "Modality" not in mended.ScheduledProcedureStepSequence[0]
    assert len(mended) == 3


async def test_a_query_goes_out_without_what_the_peer_must_not_see():
    seen = []

    async def find(request):
        seen.append(request.identifier)
        return
        yield

    async with asking(find, quirks=Quirks(omit_keys=(0x00100010,))) as association:
        query = keys(PatientName="DOE*", PatientID="1")
        await association.c_find(query, model=FIND)
        assert query.PatientName == "DOE*"
    assert [element.keyword for element in seen[0]] == ["QueryRetrieveLevel", "PatientID"]


@pytest.mark.parametrize("kept", [False, True])
async def test_a_duplicate_is_a_warning_where_the_peer_has_it(kept):
    ct_file = Path(get_testdata_file("CT_small.dcm"))

    async def store(request):
        await request.data_set.drop()
        return Status(Status.DUPLICATE_SOP_INSTANCE, "have it")

    async with (
        asyncdicom.serve("127.0.0.1", 0, c_store=store) as server,
        asyncdicom.connect(
            "127.0.0.1", server.port, contexts=[ct_file], quirks=Quirks(duplicates_are_kept=kept)
        ) as association,
    ):
        status = await association.c_store(ct_file)
    assert (status, status.error_comment) == (0x0111, "have it")
    assert status.category is (Category.WARNING if kept else Category.FAILURE)


@pytest.mark.parametrize("taken", [False, True])
async def test_a_response_with_a_wrong_message_id_is_taken_from_who_is_known_for_it(taken):
    async def script(peer):
        await accept(peer)
        await peer.receive_command()
        await peer.receive()
        peer.send(response(CommandField.C_FIND_RSP, 77))
        if not taken:
            peer.send(response(CommandField.C_FIND_RSP, 1, 0xA700))
        await peer.receive()
        peer.send(ReleaseRP())

    async with (
        raw_server(script) as port,
        asyncdicom.connect("127.0.0.1", port, contexts=[FIND], quirks=Quirks(any_response_id=taken)) as association,
    ):
        assert (await association.c_find(keys(), model=FIND)).status == (0 if taken else 0xA700)


async def test_no_cancel_is_sent_to_who_would_close_the_association():
    received = []

    async def script(peer):
        await accept(peer)
        await peer.receive_command()
        await peer.receive()
        pending = response(CommandField.C_FIND_RSP, 1, 0xFF00, has_data_set=True)
        peer.send(*(pending + pdv(1, 2, b"\x20\0\x10\0SH\2\0001 ") for _ in range(3)))
        peer.send(response(CommandField.C_FIND_RSP, 1))
        received.append(await peer.receive())
        peer.send(ReleaseRP())

    async with (
        raw_server(script) as port,
        asyncdicom.connect("127.0.0.1", port, contexts=[FIND], quirks=Quirks(never_cancel=True)) as association,
    ):
        async with contextlib.aclosing(association.c_find(keys(), model=FIND)) as responses:
            async for _ in responses:
                break
    assert received == [ReleaseRQ()]
    assert not isinstance(received[0], PDataTF)
