"""A real hub in the test's own process, without a proxy: requests go to the hub's port."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from jupyterhub import orm
from jupyterhub.app import JupyterHub
from jupyterhub.proxy import Proxy
from sqlalchemy import text
from traitlets.config import Config

from canfar_auth import binding
from canfar_auth.authenticator import CanfarOAuthenticator
from tests.support.oidc_provider import CLIENT_ID, Provider
from tests.support.ports import free_port

USERS = "ivo://example.org/gms?canfar-users"
SURVEY = "ivo://example.org/gms?survey-x"
ADMINS = "ivo://example.org/gms?canfar-admins"
CONTACT = "help@example.org"


class NoProxy(Proxy):
    """Routes in a dictionary."""

    should_start = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.routes: dict[str, dict[str, Any]] = {}

    async def add_route(self, routespec: str, target: str, data: dict[str, Any]) -> None:
        self.routes[routespec] = {"routespec": routespec, "target": target, "data": data}

    async def delete_route(self, routespec: str) -> None:
        self.routes.pop(routespec, None)

    async def get_all_routes(self) -> dict[str, dict[str, Any]]:
        return self.routes


class TestHub(JupyterHub):
    """Reads no file of the machine and takes no signals."""

    __test__ = False

    def load_config_file(self, *args: Any, **kwargs: Any) -> None:
        pass

    def init_signal(self) -> None:
        pass

    def _stop_event_loop(self) -> None:
        pass


def hub_config(folder: Path, port: int, **traits: Any) -> Config:
    """A hub that keeps its data in ``folder`` and signs people in by ``traits``."""
    config = Config()
    config.JupyterHub.update(
        authenticator_class=CanfarOAuthenticator,
        bind_url=f"http://127.0.0.1:{free_port()}",
        cookie_secret=secrets.token_bytes(32),
        db_url=f"sqlite:///{folder}/hub.sqlite",
        hub_bind_url=f"http://127.0.0.1:{port}",
        proxy_class=NoProxy,
        spawner_class="simple",
    )
    config.CryptKeeper.keys = [secrets.token_bytes(32)]
    config.CanfarOAuthenticator.update(traits)
    return config


def sign_in_traits(provider: Provider, callback: str) -> dict[str, Any]:
    """What a site would configure for ``provider``."""
    return {
        "issuer": provider.issuer,
        "client_id": CLIENT_ID,
        "client_secret": provider.client_secret,
        "scope": provider.scope,
        "oauth_callback_url": callback,
        "groups": {"authority": "example.org"},
        "platform_groups": {USERS},
        "admin_groups": {ADMINS},
        "contact": CONTACT,
    }


@dataclass
class Hub:
    """A running hub and what tests ask of it."""

    app: TestHub
    url: str
    browsers: list[httpx.AsyncClient] = field(default_factory=list)

    def browser(self) -> httpx.AsyncClient:
        """A browser with its own cookies, that follows nothing by itself."""
        browser = httpx.AsyncClient(trust_env=False, timeout=20)
        self.browsers.append(browser)
        return browser

    async def to_provider(self, browser: httpx.AsyncClient) -> str:
        """Press the sign-in button: the address of the provider's page."""
        sent = await browser.get(f"{self.url}/oauth_login")
        assert sent.status_code == 302, sent.text
        return sent.headers["location"]

    async def sign_in(
        self, provider: Provider, name: str, browser: httpx.AsyncClient | None = None
    ) -> httpx.Response:
        """The whole code flow; the hub's answer to the callback."""
        browser = browser or self.browser()
        back = await provider.answer(browser, await self.to_provider(browser), name)
        return await browser.get(back)

    async def user(self, name: str) -> dict[str, Any]:
        """The hub's own record of a user, by its REST API."""
        user = self.app.users[name]
        token = user.new_api_token(scopes=["self", "read:users:groups!user", "read:users!user"])
        headers = {"Authorization": f"token {token}"}
        answer = await self.browser().get(f"{self.url}/api/users/{name}", headers=headers)
        answer.raise_for_status()
        return dict(answer.json())

    def sign_in_with(self, provider: Provider, **traits: Any) -> Hub:
        """Put a fresh authenticator into the running hub, with a site's traits for ``provider``."""
        settings = {**sign_in_traits(provider, f"{self.url}/oauth_callback"), **traits}
        authenticator = CanfarOAuthenticator(parent=self.app, **settings)
        self.app.authenticator = authenticator
        self.app.tornado_settings["authenticator"] = authenticator
        self.app.tornado_application.settings["authenticator"] = authenticator
        return self

    async def forget_people(self) -> None:
        """No users, no groups, no open browsers."""
        while self.browsers:
            await self.browsers.pop().aclose()
        for user in list(self.app.users.values()):
            self.app.users.delete(user)
        for group in self.app.db.query(orm.Group):
            self.app.db.delete(group)
        binding.prepare(self.app.db)
        self.app.db.execute(text("DELETE FROM canfar_bindings"))
        self.app.db.commit()

    def forget_freshness(self, name: str) -> None:
        """As if the refresh age had passed."""
        self.app.users[name]._auth_refreshed = None


async def start_hub(config: Config, port: int) -> Hub:
    TestHub.clear_instance()
    app = TestHub.instance(config=config)
    await app.initialize([])
    app.log.propagate = True
    await app.start()
    return Hub(app, f"http://127.0.0.1:{port}/hub")


async def stop_hub(hub: Hub) -> None:
    await hub.forget_people()
    app = hub.app
    app.http_server.stop()
    await app.http_server.close_all_connections()
    app.metrics_collector.stop()
    for callback in app._periodic_callbacks.values():
        callback.stop()
    await app.cleanup()
    app.db.close()
    app.session_factory.kw["bind"].dispose()
    app.log.handlers = []
    TestHub.clear_instance()
    await asyncio.sleep(0)
