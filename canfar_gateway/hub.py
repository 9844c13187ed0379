"""The hub's side: the stock proxy class, which also tells the gateway what it must know about a session."""

from __future__ import annotations

from typing import Any

from jupyterhub.proxy import ConfigurableHTTPProxy

SESSION_KEYS = ("kind", "id", "prefix", "headers", "cookies", "compress", "interactive")


class GatewayProxy(ConfigurableHTTPProxy):
    """Drives the gateway through the REST API of configurable-http-proxy.

    Changes one upstream behaviour: the route of a user's server carries what the spawner's `route_data()`
    returns (some of `SESSION_KEYS`). Since `check_routes` compares only targets, a spawner
    must return the same after a restart of the hub as before. Servers of spawners without that method stay at
    the hub's own address.
    """

    async def add_route(self, routespec: str, target: str, data: dict[str, Any] | None) -> None:
        """Add a route, for a user's server with its session's data."""
        body = dict(data or {})
        if "user" in body:
            body |= self._session_data(body["user"], body.get("server_name", ""))
        await super().add_route(routespec, target, body)

    def _session_data(self, user: str, server_name: str) -> dict[str, Any]:
        spawner = self.app.users[user].spawners[server_name]
        route_data = getattr(spawner, "route_data", None)
        found = route_data() if route_data is not None else {}
        return {key: found[key] for key in SESSION_KEYS if key in found}
