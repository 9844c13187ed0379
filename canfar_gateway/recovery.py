"""The table after a start: it may be empty or old, so the hub is asked for all routes."""

from __future__ import annotations

import asyncio
import logging

from .auth import HubClient, HubUnreachable
from .routes import Routes

log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 1.0


class Recovery:
    """Whether the table holds all routes, and how it comes to."""

    def __init__(self, routes: Routes, hub: HubClient) -> None:
        self._routes, self._hub = routes, hub
        self.complete = routes.has_hub()
        """False until the hub has sent its routes, if there was no table at the start."""

    @property
    def ready(self) -> bool:
        """Whether visitors may come: the way to the hub is known, and so are all sessions."""
        return self.complete and self._routes.has_hub()

    async def run(self) -> None:
        """Have the hub send what is missing and remove what is stale; asks again until it has."""
        pause = _FIRST_PAUSE
        while not await self._sent():
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        self.complete = True

    async def _sent(self) -> bool:
        try:
            allowed = await self._hub.send_routes()
        except HubUnreachable:
            return False
        if not allowed:
            log.warning(
                "The hub did not let the gateway ask for its routes, which come later by themselves."
                " Check CANFAR_GATEWAY_TOKEN, and that the service's role has the scope 'proxy'."
            )
            return True
        # The hub may have sent them to a gateway before this one, whose address it had still open.
        return self._routes.has_hub()
