"""Connections from outside: those that send no request are closed, so that nobody can hold all there are."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

FIRST_REQUEST_SECONDS = 30
"""How long the head of a connection's first request may take."""


class Listener(web.Server):
    """aiohttp's server, which by itself waits for the first request for ever."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, request_factory=self._received, **settings)
        self._silent: dict[RequestHandler, asyncio.TimerHandle] = {}

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Upstream's step; then the time runs."""
        super().connection_made(handler, transport)
        loop = asyncio.get_running_loop()
        self._silent[handler] = loop.call_later(FIRST_REQUEST_SECONDS, transport.abort)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Upstream's step."""
        self._heard(handler)
        super().connection_lost(handler, exc)

    def _received(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        self._heard(protocol)
        return self._make_request(message, payload, protocol, writer, task)

    def _heard(self, handler: RequestHandler) -> None:
        if timer := self._silent.pop(handler, None):
            timer.cancel()


def allow_many() -> None:
    """Lets this process have as many connections as the machine's administrator allows it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
