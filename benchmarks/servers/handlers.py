"""The handlers of asyncdicom's server, in a module that its worker processes can import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncdicom import CStoreRequest, Status

if TYPE_CHECKING:
    from pathlib import Path


async def consume(request: CStoreRequest) -> Status:
    async for _ in request.data_set:
        pass
    return Status.SUCCESS


async def ignore(request: CStoreRequest) -> Status:  # noqa: ARG001 - that is the point
    return Status.SUCCESS


async def save(folder: Path, request: CStoreRequest) -> Status:
    await request.data_set.save_as(folder / f"{request.sop_instance_uid}.dcm")
    return Status.SUCCESS


async def sync(folder: Path, request: CStoreRequest) -> Status:
    await request.data_set.save_as(folder / f"{request.sop_instance_uid}.dcm", sync=True)
    return Status.SUCCESS
