"""The hub's calls with which a desktop lists, starts and ends the applications on it.

A desktop shows a token that it derives from its own secret (`desktops.apps_token`). The token is good for this
start of this desktop, it is none of the hub's, and cookies are not looked at.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from dataclasses import asdict
from typing import Any

from jupyterhub.apihandlers.base import APIHandler
from tornado import web

from canfar_spawner import desktops, policy
from canfar_spawner.handlers import OneAtATime, new_server_name
from canfar_spawner.planned import as_spawn_exception
from canfar_spawner.spec import Refused

_SHOWN = ("profile", "title", "description", "category", "refusal", "images", "cores", "memory")


class _DesktopHandler(OneAtATime, APIHandler):  # type: ignore[misc]
    """What both handlers share: which desktop asks."""

    def check_xsrf_cookie(self) -> None:
        """Nothing to check: a cookie opens nothing here."""

    def desktop(self, session_id: str) -> Any:
        """The spawner of the desktop that asks; 404 when it does not run, 403 for anybody else's token."""
        found = desktops.find(self.settings["users"].values(), session_id)
        if found is None:
            raise web.HTTPError(404, "This desktop is not running.")
        scheme, _, token = self.request.headers.get("Authorization", "").partition(" ")
        expected = desktops.apps_token(found.secret)
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), expected.encode()):
            raise web.HTTPError(403, "This is not the token of this desktop.")
        return found


class AppsHandler(_DesktopHandler):
    """`/api/desktops/<id>/apps`: what can be started on a desktop, what runs there, and a start."""

    async def get(self, session_id: str) -> None:
        """The applications that the desktop's owner may use, and those that run on it."""
        desktop = self.desktop(session_id)
        try:
            identity = await desktop.identity()
            offered = policy.offer_apps(identity, desktop.site, await desktop.catalogue())
        except Refused as refused:
            raise as_spawn_exception(refused) from None
        entries = [asdict(entry) for entry in offered]
        running = [
            {"id": app.spec.id, "profile": app.spec.profile, "title": app.orm_spawner.display_name}
            for app in desktops.apps_on(desktop)
        ]
        apps = [{key: entry[key] for key in _SHOWN} for entry in entries]
        self.write(json.dumps({"apps": apps, "running": running}))

    async def post(self, session_id: str) -> None:
        """Starts an application. The answer comes when its program runs, or says why it does not."""
        desktop = self.desktop(session_id)
        body = self.get_json_body()
        if not isinstance(body, dict):
            raise web.HTTPError(400, "The request must be a JSON object with the “profile” to start.")
        user, name = desktop.user, new_server_name(self.db)
        app = user.get_or_create_spawner(name, await self._title(desktop, body) or name, replace_failed=True)
        try:
            await self.spawn_single_user(user, name, options={**body, "desktop": session_id})
            await _started(app)
        except Exception:
            await desktops.forget(app)
            raise
        self.set_status(201)
        self.write(json.dumps({"id": app.spec.id}))

    async def _title(self, desktop: Any, body: dict[str, Any]) -> str:
        try:
            catalogue = await desktop.catalogue()
        except Refused as refused:
            raise as_spawn_exception(refused) from None
        entry = catalogue.find(body.get("profile", ""))
        return entry.title if entry else ""


class AppHandler(_DesktopHandler):
    """`/api/desktops/<id>/apps/<id>`: the end of one application."""

    async def delete(self, session_id: str, app_id: str) -> None:
        """Ends an application on this desktop."""
        running = desktops.apps_on(self.desktop(session_id))
        app = next((one for one in running if one.spec.id == app_id), None)
        if app is None:
            raise web.HTTPError(404, "No application of that id is on this desktop.")
        await desktops.end(app)
        self.set_status(204)


async def _started(app: Any) -> None:
    """Returns when a start that the hub goes on with by itself is done; raises what ended it."""
    if (future := app._spawn_future) is not None:
        await asyncio.wait([future])
        future.result()
    if not desktops.is_app(app):
        raise web.HTTPError(409, "The application was stopped as it started.")


def handlers() -> list[tuple[Any, ...]]:
    """The handlers, as `CanfarOAuthenticator.first_handlers` takes them."""
    return [
        (r"/api/desktops/([a-z0-9]+)/apps", AppsHandler),
        (r"/api/desktops/([a-z0-9]+)/apps/([a-z0-9]+)", AppHandler),
    ]
