"""Work beside the hub's requests: memberships of users who make none, and sessions that are to end."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from canfar_site.settings import Site
from canfar_spawner.planned import PlannedSpawner

log = logging.getLogger("canfar.upkeep")

_AT_ONCE = 10  # users whose memberships are read side by side: the provider has others to serve


class Upkeep:
    """Rounds over the users with running sessions. The hub itself reads memberships only upon requests."""

    _app: Any

    def __init__(self, site: Site) -> None:
        self._site = site
        self._task: asyncio.Task[None] | None = None

    def start(self, app: Any) -> None:
        """Begin rounds in this hub; they end with its event loop."""
        self._app = app
        self._task = asyncio.ensure_future(self._rounds())

    async def _rounds(self) -> None:
        spare_the_loop()
        while True:
            await asyncio.sleep(self._site.groups.round_seconds)
            try:
                await self.round()
            except Exception:  # one round that fails must not be the last
                log.exception("A round over the running sessions failed; the next one follows.")

    async def round(self) -> None:
        """Reads again what is due, and ends the sessions whose time has come."""
        running = self._running()
        users = {spawner.user.name: spawner.user for spawner in running}
        await each(users.values(), self._app.authenticator.reread_if_due, "membership of")
        await each(running, self._review, "session of")

    def _running(self) -> list[PlannedSpawner]:
        users = list(self._app.users.values())
        spawners = (spawner for user in users for spawner in user.spawners.values())
        return [s for s in spawners if isinstance(s, PlannedSpawner) and s.ready and s.spec]

    async def _review(self, spawner: PlannedSpawner) -> None:
        await spawner.review(datetime.now(UTC))
        if spawner.is_over(datetime.now(UTC)) and not spawner.pending:
            log.warning("Session %s ends: %s", spawner._log_name, spawner.notice)
            await self._app.proxy.delete_user(spawner.user, spawner.name)
            await spawner.user.stop(spawner.name)


def spare_the_loop() -> None:
    """Spare Python's collector what the hub has loaded: full runs would stop the loop for 0.1 s and more."""
    gc.collect()
    gc.freeze()


async def each(things: Iterable[Any], work: Callable[[Any], Awaitable[Any]], what: str) -> None:
    """Does the work for all, some at a time; a failure of one is logged and stops no other."""
    left = iter(things)

    async def worker() -> None:
        for thing in left:
            try:
                await work(thing)
            except Exception:
                log.exception("The round failed for the %s %s.", what, getattr(thing, "user", thing).name)

    await asyncio.gather(*(worker() for _ in range(_AT_ONCE)))
