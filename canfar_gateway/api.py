"""The REST API of configurable-http-proxy, by which the hub keeps the route table.

https://github.com/jupyterhub/configurable-http-proxy#rest-api
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from .keeper import Keeper
from .routes import BadRoute, Route, Routes, parse_route, split_key

log = logging.getLogger(__name__)

_ROOT = "/api/routes"


class RoutesApi:
    """Answers requests to the REST API."""

    def __init__(
        self, routes: Routes, keeper: Keeper, token: str, session_changed: Callable[[str, str], None]
    ) -> None:
        self._routes, self._keeper, self._session_changed = routes, keeper, session_changed
        self._expected = f"token {token}".encode()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; only the holder of the token learns or changes anything."""
        sent = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not secrets.compare_digest(sent, self._expected):
            return _problem(403, "The Authorization header must hold the token of this API.")
        path = request.raw_path.partition("?")[0]
        if path != _ROOT and not path.startswith(_ROOT + "/"):
            return _problem(404, f"This API has only {_ROOT}.")
        try:
            key = split_key(path.removeprefix(_ROOT))
            return await self._answer(request, key)
        except BadRoute as error:
            return _problem(400, str(error))

    async def _answer(self, request: web.BaseRequest, key: tuple[str, ...]) -> web.Response:
        if request.method == "GET":
            # The hub asks for all routes at the root, where its own default route is too.
            return self._list(request) if not key else self._one(key)
        if request.method == "POST":
            return self._add(key, await request.read())
        if request.method == "DELETE":
            route = self._routes.get(key)
            if route is None:
                return _problem(404, "There is no such route.")
            self._routes.remove(key)
            self._changed(route)
            return web.Response(status=204)
        return _problem(405, "Use GET, POST or DELETE.")

    def _one(self, key: tuple[str, ...]) -> web.Response:
        route = self._routes.get(key)
        return (
            _problem(404, "There is no such route.") if route is None else web.json_response(self._model(route))
        )

    def _list(self, request: web.BaseRequest) -> web.Response:
        text = request.query.get("inactive_since", request.query.get("inactiveSince"))
        since = None if text is None else _parse_time(text)
        return web.json_response(
            {
                route.path: self._model(route)
                for route in self._routes
                if since is None or self._routes.last_activity(route) < since
            }
        )

    def _add(self, key: tuple[str, ...], body: bytes) -> web.Response:
        try:
            data = json.loads(body)
        except ValueError:
            raise BadRoute("The body must be JSON.") from None
        route = parse_route(key, data, host_routing=self._routes.host_routing)
        if not self._routes.add(route, time.time()):
            log.warning(
                "%s asks for the address %s of another session; it gets none.", route.path, route.address
            )
        self._changed(route)
        log.info("Added route %s to %s", route.path, route.target)
        return web.Response(status=201)

    def _changed(self, route: Route) -> None:
        self._keeper.changed()
        if route.user is not None:
            self._session_changed(route.user, route.server_name)

    def _model(self, route: Route) -> dict[str, Any]:
        active = datetime.fromtimestamp(self._routes.last_activity(route), UTC)
        text = active.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {**route.data, "last_activity": text}


def _parse_time(text: str) -> float:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise BadRoute("'inactive_since' must be a time in ISO 8601.") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _problem(status: int, sentence: str) -> web.Response:
    return web.json_response({"status": status, "message": sentence}, status=status)
