"""A gateway in the test's own event loop, between a fake hub and an echo program; all are real HTTP servers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from canfar_gateway.oauth import PublicUrl
from canfar_gateway.proxies import TrustedProxies
from canfar_gateway.server import InsideHosts, Settings, running
from tests.support.echo_app import Echo
from tests.support.ports import free_port

API_TOKEN = "rest-api-token"
SERVICE_TOKEN = "service-token"
READY = "/_canfar_ready"


async def until(condition: Callable[[], Any], *, seconds: float = 20) -> Any:
    """Wait for a condition, with a deadline instead of a guess."""
    async with asyncio.timeout(seconds):
        while not (found := condition()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return found


@asynccontextmanager
async def served(handler: Any, port: int) -> AsyncIterator[None]:
    runner = web.ServerRunner(
        web.Server(handler, max_field_size=1 << 17, max_line_size=1 << 17), shutdown_timeout=0.1
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield
    finally:
        await runner.cleanup()


@dataclass
class FakeHub:
    """The parts of the hub that the gateway asks, and its pages as an echo."""

    port: int
    told: list[dict[str, Any]] = field(default_factory=list)
    """Where gateways said that they are."""
    post_route: Callable[[str, dict[str, Any]], Awaitable[int]] | None = None
    running: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Routes that it posts when it is asked for them, beside its own."""
    asked: list[int] = field(default_factory=list)
    """What it answered when it was asked for them."""
    lets_ask: bool = True
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    shares: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    codes: dict[str, tuple[str, str]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    pages: list[dict[str, Any]] = field(default_factory=list)
    down: bool = False
    wait: asyncio.Event | None = None
    page_size: int = 200
    draws: bool = False

    def user(self, name: str, token: str, *scopes: str, groups: tuple[str, ...] = (), session: str = "") -> str:
        """A user with a token; by default with the scopes of an ordinary user."""
        self.tokens[token] = {
            "name": name,
            "groups": list(groups),
            "scopes": list(scopes) or [f"access:servers!user={name}"],
            "session_id": session or None,
        }
        return token

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path.startswith("/hub/error/") and self.draws:
            return web.Response(status=int(path[11:]), text="drawn by the hub", content_type="text/html")
        if not path.startswith("/hub/api/"):
            seen = {
                "method": request.method,
                "path": request.raw_path,
                "headers": list(map(list, request.headers.items())),
            }
            self.pages.append(seen)
            return web.json_response(seen)
        if path == "/hub/api/proxy":
            self.asked.append(await self._send_routes(request))
            return web.Response(status=self.asked[-1])
        self.calls.append(path)
        if self.wait is not None:
            await self.wait.wait()
        if self.down:
            return web.Response(status=502)
        if path == "/hub/api/oauth2/token":
            return await self._exchange(request)
        token = request.headers.get("Authorization", "").removeprefix("token ")
        if path == "/hub/api/user":
            return self._model(self.tokens.get(token))
        if token != SERVICE_TOKEN:
            return web.Response(status=403)
        kind, _, name = path.removeprefix("/hub/api/").partition("/")
        if kind == "users":
            return self._model(self.users.get(name))
        if kind == "shares" and name in self.shares:
            first = int(request.query.get("offset", "0"))
            found = self.shares[name]
            last = first + self.page_size
            following = {"offset": last} if last < len(found) else None
            return self._model({"items": found[first:last], "_pagination": {"next": following}})
        return web.Response(status=404)

    async def _send_routes(self, request: web.BaseRequest) -> int:
        if self.down or self.post_route is None:
            return 502
        allowed = request.headers.get("Authorization") == f"token {SERVICE_TOKEN}" and self.lets_ask
        if request.method not in ("POST", "PATCH") or not allowed:
            return 403
        if request.method == "PATCH":
            self.told.append(await request.json())
        own = {"target": f"http://127.0.0.1:{self.port}", "hub": True, "jupyterhub": True}
        for path, data in {"/": own, **self.running}.items():
            await self.post_route(path, data)
        return 200

    async def _exchange(self, request: web.BaseRequest) -> web.Response:
        form = {k: v[0] for k, v in parse_qs((await request.read()).decode()).items()}
        token, challenge = self.codes.pop(form["code"], ("", ""))
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        matching = base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == challenge
        if not token or not matching or form["client_secret"] != SERVICE_TOKEN:
            return web.json_response({"error": "invalid_grant"}, status=400)
        return web.json_response({"access_token": token})

    @staticmethod
    def _model(model: Any) -> web.Response:
        return web.Response(status=403) if model is None else web.json_response(model)


@dataclass
class Site:
    """Everything that runs, and how to reach it."""

    port: int
    api_port: int
    hub: FakeHub
    echo: Echo
    echo_port: int
    http: aiohttp.ClientSession
    settings: Settings

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    async def route(self, path: str, **data: Any) -> int:
        """Post a route as the hub does; by default to the echo program."""
        body = {"target": f"http://127.0.0.1:{self.echo_port}", "jupyterhub": True, **data}
        return await self.api("POST", path, body)

    async def session(self, name: str, kind: str = "notebook", *, host: str = "", **data: Any) -> str:
        """A session of `ada`; gives its address."""
        data = {"user": "ada", "prefix": f"/session/{kind}/{name}", **data}
        path = f"/user/{data['user']}/{name}"
        assert (
            await self.route(f"/{host}{path}" if host else path, server_name=name, kind=kind, id=name, **data)
            == 201
        )
        return f"/session/{kind}/{name}"

    async def api(self, method: str, path: str, body: Any = None) -> Any:
        url = f"http://127.0.0.1:{self.api_port}/api/routes{path}"
        headers = {"Authorization": f"token {API_TOKEN}"}
        async with self.http.request(method, url, headers=headers, json=body) as response:
            return await response.json() if method == "GET" and response.status == 200 else response.status

    def request(self, method: str, path: str, *, token: str = "", host: str = "", **options: Any) -> Any:
        """A request whose path goes out byte for byte."""
        headers = {"Host": host or self.host, **options.pop("headers", {})}
        if token:
            headers["Authorization"] = f"token {token}"
        url = URL(f"http://127.0.0.1:{self.port}{path}", encoded=True)
        return self.http.request(method, url, headers=headers, allow_redirects=False, **options)

    async def status(self, path: str, **options: Any) -> int:
        """What a request is answered."""
        async with self.request(options.pop("method", "GET"), path, **options) as response:
            await response.read()
            return int(response.status)

    async def seen(self, path: str, **options: Any) -> dict[str, Any]:
        """What the program saw of a request that must succeed."""
        async with self.request(options.pop("method", "GET"), path, **options) as response:
            assert response.status == 200, (response.status, await response.text())
            seen = await response.json()
            seen["headers"] = {name.lower(): value for name, value in seen["headers"]}
            return seen

    async def sign_in(self, path: str, token: str, *, host: str = "") -> str:
        """Walk through the whole sign-in as a browser would; gives the Cookie header for the session's host."""
        host = host or self.host
        async with self.request("GET", path, host=host, headers=PAGE) as response:
            assert response.status == 302, await response.text()
            authorize = urlsplit(response.headers["Location"])
            started = response.headers["Set-Cookie"].partition(";")[0]
        query = parse_qs(authorize.query)
        self.hub.codes["code"] = (token, query["code_challenge"][0])
        callback = f"{urlsplit(query['redirect_uri'][0]).path}?code=code&state={query['state'][0]}"
        async with self.request(
            "GET", callback, host=self.host, headers=PAGE | {"Cookie": started}
        ) as response:
            if host != self.host:
                bounced = urlsplit(response.headers["Location"])
                assert (response.status, bounced.netloc) == (302, host), await response.text()
                async with self.request(
                    "GET", f"{bounced.path}?{bounced.query}", host=host, headers=PAGE | {"Cookie": started}
                ) as last:
                    return self._signed_in(last, path)
            return self._signed_in(response, path)

    @staticmethod
    def _signed_in(response: aiohttp.ClientResponse, path: str) -> str:
        assert (response.status, response.headers["Location"]) == (302, path)
        return response.headers.getall("Set-Cookie")[0].partition(";")[0]


PAGE = {"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "none"}


@asynccontextmanager
async def site_running(
    tmp_path: Path,
    *,
    host_routing: bool = False,
    ttl: float = 30,
    error_pages: bool = False,
    prepare: Callable[[Site], None] = lambda site: None,
    await_hub: bool = True,
    linger: float = 0,
    own_api_url: str = "",
    trusted_proxies: str = "",
    inside_hosts: tuple[str, ...] = (),
) -> AsyncIterator[Site]:
    port, api_port, hub_port, echo_port = (free_port() for _ in range(4))
    hub, echo = FakeHub(hub_port), Echo()
    settings = Settings(
        ip="127.0.0.1",
        port=port,
        api_ip="127.0.0.1",
        api_port=api_port,
        hub_api_url=f"http://127.0.0.1:{hub_port}/hub/api",
        public=PublicUrl.parse(f"http://localhost:{port}"),
        host_routing=host_routing,
        state_file=tmp_path / "routes.json",
        error_target=f"http://127.0.0.1:{hub_port}/hub/error" if error_pages else "",
        decision_seconds=ttl,
        own_api_url=own_api_url,
        linger=linger,
        trusted_proxies=TrustedProxies.parse(trusted_proxies),
        inside_hosts=InsideHosts.parse(inside_hosts),
        api_token=API_TOKEN,
        service_token=SERVICE_TOKEN,
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(served(hub.handle, hub_port))
        await stack.enter_async_context(served(echo.handle, echo_port))
        http = await stack.enter_async_context(
            aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())
        )
        site = Site(port, api_port, hub, echo, echo_port, http, settings)
        hub.post_route = partial(site.api, "POST")
        prepare(site)
        await stack.enter_async_context(running(settings))
        hub.user("ada", "ada-token")
        hub.user("bob", "bob-token")
        if await_hub:
            async with asyncio.timeout(20):
                while await site.status(READY) != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        yield site


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """All sessions on the hub's own host."""
    async with site_running(tmp_path) as site:
        yield site


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Site]:
    """A host for each user."""
    async with site_running(tmp_path, host_routing=True) as site:
        yield site
