"""The end of tasks that a service owns."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["end_tasks"]


async def end_tasks(tasks: Iterable[asyncio.Task[None]], drain: float) -> None:
    """Give tasks ``drain`` seconds, then cancel them and wait for their end. On cancellation that is at once."""
    tasks = tuple(tasks)
    try:
        if tasks:
            await asyncio.wait(tasks, timeout=drain)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
