"""The hub's handlers that ours replace: the spawn page, starts by the API, and where a visitor arrives."""

import secrets
import string
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from jupyterhub import orm
from jupyterhub.apihandlers.users import UserServerAPIHandler
from jupyterhub.handlers.pages import SpawnHandler
from jupyterhub.handlers.static import CacheControlStaticFilesHandler
from tornado import web

from canfar_spawner import turnstile
from canfar_spawner.request import FIELDS, is_name

_PICKER = Path(__file__).parent / "picker"


class OneAtATime:
    """Requests that start sessions: of many at once, one is looked at in each turn of the hub's event loop."""

    async def prepare(self) -> None:
        """Upstream's step, which finds out who asks."""
        await turnstile.passed()
        await super().prepare()  # type: ignore[misc]

    async def spawn_single_user(self, *arguments: Any, **named: Any) -> Any:
        """Upstream's step, which writes the start to the database."""
        await turnstile.passed()
        return await super().spawn_single_user(*arguments, **named)  # type: ignore[misc]


class ServerHandler(OneAtATime, UserServerAPIHandler):
    """Upstream's calls that start and stop servers."""


class PickerHandler(OneAtATime, SpawnHandler):
    """The spawn page with the picker.

    Upstream behaviour that it changes: query arguments start nothing, they only fill the form; a form posted
    for no server in particular starts a new session with a name of its own; a session that was refused, or
    died at once, leaves nothing behind in the list; and the form comes back as it was sent.
    """

    def _get_user_options(self, query_options: dict[str, list[str]]) -> dict[str, Any]:
        """Upstream starts a server when this gives anything."""
        return {}

    @web.authenticated
    async def post(
        self, user_name: str | None = None, server_name: str | None = "", display_name: str = ""
    ) -> None:
        """Starts a session from the posted form."""
        user_name = user_name or self.current_user.name
        fresh = not server_name
        server_name = server_name or new_server_name(self.db)
        display_name = await self._display_name() or server_name
        await self._post(user_name=user_name, server_name=server_name, display_name=display_name)
        if fresh and self.get_status() >= 400:
            self._forget(user_name, server_name)

    def _get_pending_url(self, user: Any, server_name: str) -> str:
        """Upstream passes the query on; ours is for the form, and holds the token against forgery."""
        url: str = super()._get_pending_url(user, server_name)
        address, _, query = url.partition("?")
        kept = [(name, value) for name, value in parse_qsl(query) if name == "next"]
        return f"{address}?{urlencode(kept)}" if kept else address

    async def _display_name(self) -> str:
        """The name that was given, or else the image's title. A bad one is for the parser to refuse."""
        name: str = self.get_body_argument("name", "")
        if name and is_name(name):
            return name
        catalogue = await self.current_user.spawner.catalogue()
        entry = catalogue.find(self.get_body_argument("profile", ""))
        return entry.title if entry else ""

    def _forget(self, user_name: str, server_name: str) -> None:
        user = self.find_user(user_name)
        if user is not None and (record := user.orm_spawners.get(server_name)) and record.server is None:
            user.spawners.pop(server_name, None)
            self.db.delete(record)
            self.db.commit()

    async def _render_form(
        self, for_user: Any, spawner_options_form: str, message: str = "", html_message: str = ""
    ) -> str:
        if self.request.method == "POST":
            sent = {key: self.get_body_argument(key, "") for key in FIELDS}
            spawner_options_form = await for_user.spawner.get_options_form(sent)
        page: str = await super()._render_form(for_user, spawner_options_form, message, html_message)
        return page


def new_server_name(db: Any) -> str:
    """A name for a new session that is a session's id too: no server of the site has it."""
    while True:
        first = secrets.choice(string.ascii_lowercase)
        name = first + "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(7))
        if db.query(orm.Spawner).filter_by(name=name).first() is None:
            return name


def landing_page(handler: Any) -> str:
    """Where a visitor arrives: at their sessions, or at the picker if none runs (`JupyterHub.default_url`)."""
    user = handler.current_user
    running = user is not None and any(spawner.active for spawner in user.spawners.values())
    return f"{handler.hub.base_url}{'home' if running else 'spawn'}"


def handlers(portal_static: Path) -> list[tuple[Any, ...]]:
    """The handlers that go before the hub's own, as `CanfarOAuthenticator.first_handlers` takes them."""
    return [
        (r"/spawn", PickerHandler),
        (r"/spawn/([^/]+)", PickerHandler),
        (r"/spawn/([^/]+)/([^/]+)", PickerHandler),
        (r"/api/users/([^/]+)/server", ServerHandler),
        (r"/api/users/([^/]+)/servers/([^/]*)", ServerHandler),
        (r"/canfar/static/picker/(.*)", CacheControlStaticFilesHandler, {"path": str(_PICKER)}),
        (r"/canfar/static/portal/(.*)", CacheControlStaticFilesHandler, {"path": str(portal_static)}),
    ]
