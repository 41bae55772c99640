"""Fixtures of the interoperability tests."""

import os
import shutil

import pytest

import asyncdicom


@pytest.fixture(scope="session")
def dcmtk():
    """DCMTK's tools are there. Without them the test fails where they are required, and is skipped elsewhere."""
    if shutil.which("storescu") is None:
        if os.environ.get("ASYNCDICOM_REQUIRE_DCMTK"):
            pytest.fail("DCMTK is required here, and storescu was not found")
        pytest.skip("DCMTK is not installed")


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
