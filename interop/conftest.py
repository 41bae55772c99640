"""Fixtures of the interoperability tests."""

import os
import shutil

import pytest
from peers import running_dcmqrscp, running_orthanc, running_wlmscpfs

import asyncdicom


def require(program, name, variable):
    """Without the program the test fails where it is required, and is skipped elsewhere."""
    if shutil.which(program) is None:
        if os.environ.get(variable):
            pytest.fail(f"{name} is required here, and {program} was not found")
        pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="session")
def dcmtk():
    """DCMTK's tools are there."""
    require("storescu", "DCMTK", "ASYNCDICOM_REQUIRE_DCMTK")


@pytest.fixture(scope="session")
def haproxy():
    """HAProxy is there."""
    require("haproxy", "HAProxy", "ASYNCDICOM_REQUIRE_HAPROXY")


@pytest.fixture(scope="session", autouse=True)
def pynetdicom_hears_its_responses():
    """Keep pynetdicom's reactor off the response that a ``send_...()`` waits for.

    It looks whether it is to pause, then takes what has come: on a busy machine the pause and the response come in
    between, "Received unexpected ... service message" (its issue 875).
    """
    from pynetdicom.dimse import DIMSEServiceProvider

    take = DIMSEServiceProvider.get_msg

    def take_unless_paused(self, *, block):
        return take(self, block) if block or self.assoc._reactor_checkpoint.is_set() else (None, None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DIMSEServiceProvider, "get_msg", take_unless_paused)
        yield


@pytest.fixture
async def dcmqrscp(dcmtk, tmp_path):
    """DCMTK's archive, empty; it moves instances to OURS, at a port where the test may listen."""
    async with running_dcmqrscp(tmp_path / "dcmqrscp") as archive:
        yield archive


@pytest.fixture
async def wlmscpfs(dcmtk, tmp_path):
    """DCMTK's worklist server; peers.write_worklist_entry() puts entries into its folder."""
    async with running_wlmscpfs(tmp_path / "wlmscpfs") as server:
        yield server


@pytest.fixture(scope="module")
def orthanc_process(tmp_path_factory):
    """Orthanc, which takes seconds to start and to end: one for all tests of a module."""
    require("Orthanc", "Orthanc", "ASYNCDICOM_REQUIRE_ORTHANC")
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as orthanc:
        yield orthanc


@pytest.fixture
def orthanc(orthanc_process):
    """Orthanc without instances and modalities; orthanc.register() tells it of ours."""
    orthanc_process.clear()
    return orthanc_process


@pytest.fixture
async def receiver(tmp_path):
    """Our server, which keeps all that it gets in ``folder``."""
    folder = tmp_path / "ours"
    folder.mkdir()

    async def store(request):
        await request.data_set.save_as(folder / f"{request.sop_instance_uid}.dcm")
        return asyncdicom.Status.SUCCESS

    async with asyncdicom.serve("127.0.0.1", 0, ae_title="OURS", c_store=store, any_storage=True) as server:
        server.folder = folder
        yield server
