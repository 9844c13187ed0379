"""Lets the steps of many starts through one at a time, so that the hub's loop serves others in between.

When a hundred starts arrive together, a hundred of the hub's own steps of some ten milliseconds each fall into
one turn of its event loop, and nobody else is served for a second. Behind a turnstile, one falls into each.
"""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


async def passed() -> None:
    """Returns when it is one's turn: nobody else's is in the same turn of the event loop."""
    lock = _locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())
    async with lock:
        await asyncio.sleep(0)
