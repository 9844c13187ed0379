"""A queue for starts, so that many at once are slow together instead of failing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from canfar_spawner.metrics import QUEUED


class Turns:
    """Lets at most `at_once` through at a time, the others in the order in which they came."""

    def __init__(self, at_once: int) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._waiting = 0

    @asynccontextmanager
    async def taken(self, announce: Callable[[str], None]) -> AsyncIterator[None]:
        """Holds a turn for the block; who has to wait for it is told behind how many others."""
        if self._free.locked():
            before = f"{self._waiting} others are" if self._waiting != 1 else "1 other is"
            announce(f"Many sessions start now: {before} before yours in the queue.")
        self._waiting += 1
        try:
            with QUEUED.track_inprogress():
                await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()
