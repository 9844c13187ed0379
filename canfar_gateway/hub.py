"""The hub's side: the stock proxy class, which also tells the gateway what it must know about a session."""

from __future__ import annotations

from typing import Any

from jupyterhub.proxy import ConfigurableHTTPProxy

SESSION_KEYS = ("kind", "id", "prefix", "headers", "landing", "cookies", "compress", "interactive")


class GatewayProxy(ConfigurableHTTPProxy):
    """Drives the gateway through the REST API of configurable-http-proxy.

    Changes two upstream behaviours. The route of a user's server carries what the spawner's `route_data()`
    returns (some of `SESSION_KEYS`). Since `check_routes` compares only targets, a spawner
    must return the same after a restart of the hub as before. Servers of spawners without that method stay at
    the hub's own address. And where the spawner's `last_used` tells when the program was last used, that counts
    as its activity, rather than each request that passes: an open page asks for things without end.
    """

    async def add_route(self, routespec: str, target: str, data: dict[str, Any] | None) -> None:
        """Add a route, for a user's server with its session's data."""
        body = dict(data or {})
        if "user" in body:
            body |= self._session_data(body["user"], body.get("server_name", ""))
        await super().add_route(routespec, target, body)

    async def get_all_routes(self) -> dict[str, dict[str, Any]]:
        """All routes, each with its last activity."""
        routes: dict[str, dict[str, Any]] = await super().get_all_routes()
        used = self._last_used()
        for route in routes.values():
            data = route["data"]
            if when := used.get((data.get("user"), data.get("server_name"))):
                data["last_activity"] = when.isoformat()
        return routes

    def _last_used(self) -> dict[tuple[Any, Any], Any]:
        """When programs that say so were last used, by owner and server."""
        spawners = (s for user in list(self.app.users.values()) for s in user.spawners.values())
        return {(s.user.name, s.name): s.last_used for s in spawners if getattr(s, "last_used", None)}

    def _session_data(self, user: str, server_name: str) -> dict[str, Any]:
        spawner = self.app.users[user].spawners[server_name]
        route_data = getattr(spawner, "route_data", None)
        found = route_data() if route_data is not None else {}
        return {key: found[key] for key in SESSION_KEYS if key in found}
