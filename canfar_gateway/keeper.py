"""When the table is written to its file: at once, but of many changes in a row not each by itself."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from .routes import Routes

log = logging.getLogger(__name__)

# All routes are written each time. When the hub sends them anew, that would be their number squared.
_APART_SECONDS = 0.2
# Keeps the times of last activity over a crash.
_REGULARLY_SECONDS = 60


class Keeper:
    """Keeps the file like the table."""

    def __init__(self, routes: Routes, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._routes, self._clock = routes, clock
        self._written = -_APART_SECONDS
        self._soon: asyncio.TimerHandle | None = None

    def changed(self) -> None:
        """The table is another: write it now, or soon if it was written a moment ago."""
        if self._soon is not None:
            return
        wait = self._written + _APART_SECONDS - self._clock()
        if wait <= 0:
            self.write()
        else:
            self._soon = asyncio.get_running_loop().call_later(wait, self.write)

    def write(self) -> None:
        """Write it now. A full disk must not keep sessions from starting: the hub can put every route back."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        try:
            self._routes.save()
        except OSError as error:
            log.error("The state file could not be written: %s", error.strerror)
        self._written = self._clock()

    async def run(self) -> None:
        """Write it now and then."""
        while True:
            await asyncio.sleep(_REGULARLY_SECONDS)
            self.write()
