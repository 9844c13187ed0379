"""Wiring: takes each request through the decisions of the other modules, always in the same order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlencode

import aiohttp
from aiohttp import web

from . import files, http, websocket
from .api import RoutesApi
from .auth import Authority, Caller, Decision, HubClient, HubUnreachable, TooManyAttempts
from .connections import Listener
from .headers import (
    Inside,
    Outside,
    asks_for_websocket,
    cookie_pairs,
    downstream_headers,
    is_foreign,
    is_navigation,
    upstream_headers,
    websocket_fault,
)
from .keeper import Keeper
from .oauth import PublicUrl, SignIn, parse_query
from .pages import Link, answer, redirect
from .proxies import TrustedProxies
from .recovery import Recovery
from .routes import Match, Route, Routes, has_dot_segment

log = logging.getLogger(__name__)

_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?\Z")
_TARGET = re.compile(r"/[\x21\x22\x24-\x7e]*\Z")
_MAX_HEADERS = 256
_IDLE_SECONDS = 75
# How long a refused body is still read, so that its sender gets to read the refusal.
_LINGER_SECONDS = 2
# How long a request may still take when the gateway stops, and then to be cut off.
_STOP_SECONDS = 0.5
_HUB_SECONDS = 10
# aiohttp reports malformed requests with what was sent, secrets included; `handle` logs our own faults.
_quiet = logging.getLogger(f"{__name__}.malformed")
_quiet.setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True)
class InsideHosts:
    """Hosts by which programs of the platform, such as pods, reach the hub's API and nothing else."""

    names: frozenset[tuple[str, str]] = frozenset()
    """Name in lower case and port, which is empty for any."""

    @classmethod
    def parse(cls, texts: Iterable[str]) -> InsideHosts:
        """From names with or without a port. Raises ValueError for what is none."""
        return cls(frozenset(map(_split_host, texts)))

    def __contains__(self, host: tuple[str, str]) -> bool:
        return host in self.names or (host[0], "") in self.names


def _split_host(text: str) -> tuple[str, str]:
    parts = _HOST.match(text)
    if parts is None:
        raise ValueError(text)
    return parts["name"].lower().rstrip("."), parts["port"] or ""


@dataclass(frozen=True)
class Settings:
    """What the command line and the environment say."""

    ip: str
    port: int
    api_ip: str
    api_port: int
    hub_api_url: str
    own_api_url: str
    """Where the hub reaches the REST API of this very gateway; empty if it knows that."""
    public: PublicUrl
    host_routing: bool
    state_file: Path
    error_target: str
    decision_seconds: float
    linger: float
    """Seconds in which visitors are still answered after the word to stop."""
    trusted_proxies: TrustedProxies
    inside_hosts: InsideHosts
    api_token: str = field(repr=False)
    service_token: str = field(repr=False)


@dataclass(frozen=True)
class Visit:
    """A request that is well-formed, and what all decisions need of it."""

    request: web.BaseRequest
    outside: Outside
    host: str
    """Host name in lower case, without port."""
    port: str
    """As the Host header has it; empty if it has none."""
    path: str
    """As sent, without query."""
    query: str
    """As sent, with its question mark; empty when there is none."""
    page: bool
    """Whether a browser navigates."""
    websocket: bool


@dataclass(frozen=True)
class Credential:
    """A token for the hub's API and how it came."""

    token: str = field(repr=False)
    by_cookie: bool


def request_fault(request: web.BaseRequest) -> tuple[int, str] | None:
    """Status and sentence for a message that others could read differently (RFC 9112 sections 3.2, 6, 11.2)."""
    headers = request.headers
    if request.method in ("CONNECT", "TRACE"):
        return 405, "This method is not supported."
    if not _TARGET.match(request.raw_path):
        return 400, "The request target must be a path of printable ASCII characters."
    coding = headers.get("Transfer-Encoding")
    if coding is not None and (
        coding.lower() != "chunked" or request.version != (1, 1) or "Content-Length" in headers
    ):
        return 400, "The length of the body is not clear."
    if any(headers.getall(name, ())[1:] for name in ("Host", "Content-Length", "Transfer-Encoding")):
        return 400, "A header that may appear only once appears twice."
    if "Host" in headers and not _HOST.match(headers["Host"]):
        return 400, "The Host header is not valid."
    return None


def credentials(request: web.BaseRequest, sign_in: SignIn, host: str) -> list[Credential]:
    """What the caller shows, the cookie for this host first.

    A page of a program may send a token of the program's own along with the visitor's cookie, as JupyterLab
    does, and the hub shall not be asked about that one.
    """
    sealed = (sign_in.token(header, host) for header in request.headers.getall("Cookie", ()))
    found = [Credential(token, by_cookie=True) for token in sealed if token is not None]
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() in ("token", "bearer") and token.strip():
        found.append(Credential(token.strip(), by_cookie=False))
    return found


class Gateway:
    """Answers every request that comes from outside."""

    def __init__(
        self,
        settings: Settings,
        routes: Routes,
        recovery: Recovery,
        authority: Authority,
        sign_in: SignIn,
        clients: http.Clients,
    ) -> None:
        self._public, self._error_target = settings.public, settings.error_target.rstrip("/")
        self._proxies, self._inside_hosts = settings.trusted_proxies, settings.inside_hosts
        self._routes, self._recovery, self._clients = routes, recovery, clients
        self._authority, self._sign_in = authority, sign_in
        self.sockets = websocket.OpenSockets()
        self._compressed = files.Compressed()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; a message that is not well-formed ends its connection."""
        try:
            return await self._handle(request)
        except Exception:
            log.exception("A request to %s failed.", request.headers.get("Host", "an unnamed host"))
            if request.writer.output_size and request.transport is not None:
                # A second answer must not follow the part of the first that was sent.
                request.transport.abort()
            response = answer(500, "Internal error", "The gateway failed. Tell the administrators.", page=False)
            response.force_close()
            return response

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        fault = request_fault(request)
        if fault is not None:
            response: web.StreamResponse = answer(fault[0], "Bad request", fault[1], page=False)
            response.force_close()
            return response
        visit = self._visit(request)
        response = await self._answer(visit)
        if "Upgrade" in request.headers and not response.prepared:
            # What follows a refused upgrade on the wire may not be HTTP.
            response.force_close()
        return response

    def _visit(self, request: web.BaseRequest) -> Visit:
        host_header = request.headers.get("Host") or self._public.origin().partition("://")[2]
        host, port = _split_host(host_header)
        chain = self._proxies.chain(request.remote or "", request.headers.getall("X-Forwarded-For", ()))
        path, mark, query = request.raw_path.partition("?")
        return Visit(
            request=request,
            outside=Outside(host_header, self._public.scheme, chain),
            host=host,
            port=port,
            path=path,
            query=mark + query,
            page=is_navigation(request.method, request.headers),
            websocket=asks_for_websocket(request.headers),
        )

    async def _answer(self, visit: Visit) -> web.StreamResponse:
        if visit.path == "/_chp_healthz":
            return web.json_response({"status": "OK"})
        if visit.path == "/_canfar_ready":
            return self._readiness()
        if (visit.host, visit.port) in self._inside_hosts:
            return await self._inside(visit)
        if visit.path == self._public.callback_path:
            return await self._callback(visit)
        match = self._routes.match(visit.host, visit.path)
        if match is not None and match.route.user is not None:
            return await self._session(visit, match)
        own = (f"{self._public.path}/", f"{self._public.path}/hub")
        for_hub = match is not None and (visit.path in own or visit.path.startswith(f"{own[1]}/"))
        if not self._recovery.complete and not for_hub:
            # To a page, 404 would mean that its session has ended, and it would not come again.
            sentence = "The gateway has just started and is learning which sessions run. Try again in a moment."
            return self._not_yet(visit, "Starting", sentence, seconds=1)
        segments = visit.path.split("/")
        if (match is None or not match.route.key) and segments[1] == "session" and len(segments) > 3:
            sentence = "This session is not running, or it never was. Start a new one from your sessions."
            return self._refuse(visit, 404, "Session not running", sentence)
        if match is None:
            return await self._error(visit, 404, "Not found", "There is nothing at this address.")
        return await self._platform(visit, match.route)

    # Sign-in

    async def _callback(self, visit: Visit) -> web.StreamResponse:
        query = parse_query(visit.query[1:])
        here = visit.host if self._routes.host_routing else ""
        started_at = self._sign_in.state_host(query)
        if started_at is None:
            return self._sign_in.failed("The sign-in took too long or was started elsewhere.")
        if started_at == here:
            try:
                cookies = "; ".join(visit.request.headers.getall("Cookie", ()))
                return await self._sign_in.finish(here, query, cookies)
            except HubUnreachable:
                return self._hub_unreachable(visit)
        if here == self._public.host and self._routes.has_session_host(started_at):
            return self._sign_in.bounce(started_at, query)
        return self._sign_in.failed("The session that you came from has ended.")

    # The hub and its services, which check their callers themselves

    async def _platform(self, visit: Visit, route: Route) -> web.StreamResponse:
        elsewhere = self._routes.host_routing and visit.host != self._public.host
        if elsewhere and not route.key:
            # The hub is at its own host alone: programs' pages share this one.
            if visit.page:
                return redirect(self._public.origin() + visit.path + visit.query)
            return self._refuse(
                visit, 404, "Not here", "Nothing runs at this address. Start the session again."
            )
        path = visit.path + visit.query
        then = partial(self._access_changed, visit)
        return await self._forward(visit, route, path, inside=None, credential=None, then=then)

    async def _inside(self, visit: Visit) -> web.StreamResponse:
        api = f"{self._public.path}/hub/api/"
        if visit.page or not visit.path.startswith(api) or has_dot_segment(visit.path):
            return self._refuse(visit, 404, "Not here", f"Only the hub's API, {api}, is at this address.")
        match = self._routes.match(visit.host, visit.path)
        if match is None:
            return self._hub_unreachable(visit)
        path = visit.path + visit.query
        return await self._forward(visit, match.route, path, inside=None, credential=None)

    def _access_changed(self, visit: Visit, status: int) -> None:
        """Forgets what was decided before, when the hub has answered one of the pages that change access."""
        page = unquote(visit.path).rstrip("/")
        if page == f"{self._public.path}/hub/logout":
            self._authority.end_session(_session_id(visit.request))
        elif page == f"{self._public.path}/hub/accept-share" and status == 302:  # it was accepted
            self._authority.forget_shares()

    # Sessions

    async def _session(self, visit: Visit, match: Match) -> web.StreamResponse:
        route, request = match.route, visit.request
        if has_dot_segment(match.tail):
            return self._refuse(visit, 400, "Bad request", "The path must not contain '.' or '..' segments.")
        shown = credentials(request, self._sign_in, route.host)
        if is_foreign(request.method, request.headers, visit.outside.origin, websocket=visit.websocket):
            usable = [one for one in shown if not one.by_cookie]
            if shown and not usable:
                return self._refuse(visit, 403, "Refused", "This request came from a page of another origin.")
            shown = usable
        try:
            found, decision = await self._decide(visit, route, shown)
        except HubUnreachable:
            return self._hub_unreachable(visit)
        except TooManyAttempts:
            sentence = "Too many wrong tokens came from your address. Wait a minute, then try again."
            return self._refuse(visit, 429, "Too many attempts", sentence)
        if found is None or decision.caller is None:
            return self._unknown(visit, match)
        if not decision.allowed:
            sentence = "You have no access to this session. Ask its owner to share it with you."
            return self._refuse(visit, 403, "No access", sentence)
        return await self._enter(visit, match, found, decision.caller)

    async def _decide(
        self, visit: Visit, route: Route, shown: list[Credential]
    ) -> tuple[Credential | None, Decision]:
        """The first credential that opens the session, else the first that the hub knows."""
        known: tuple[Credential | None, Decision] = (None, Decision(None, allowed=False))
        for one in shown:
            peer = "" if one.by_cookie else visit.outside.peer
            decision = await self._authority.decide(one.token, route.user or "", route.server_name, peer=peer)
            if decision.allowed:
                return one, decision
            if known[0] is None and decision.caller is not None:
                known = (one, decision)
        return known

    def _unknown(self, visit: Visit, match: Match) -> web.Response:
        if visit.page:
            route = match.route
            own = route.has_own_address and self._routes.holds_address(route)
            path = route.address + (match.tail or "/") if own else visit.path
            return self._sign_in.start(route.host, path + visit.query)
        return self._refuse(visit, 403, "Not signed in", "Sign in, or send an API token that is valid.")

    async def _enter(self, visit: Visit, match: Match, found: Credential, caller: Caller) -> web.StreamResponse:
        route, tail = match.route, match.tail
        if not route.interactive:
            sentence = "This application has no page of its own. Open the desktop that it was started on."
            return self._refuse(visit, 404, "Nothing to open", sentence)
        reading = visit.request.method in ("GET", "HEAD") and not visit.websocket
        own = route.has_own_address and self._routes.holds_address(route)
        if own and ((visit.page and not match.at_address) or (reading and match.at_address and not tail)):
            return redirect(route.address + (tail or "/") + visit.query)
        if own and visit.page and tail == "/" and (landing := route.landing_for(visit.query)):
            return redirect(landing)
        inside = Inside(
            route.address, route.prefix, route.origin, caller.name, route.headers, cookies=route.cookies
        )
        path = (route.prefix + tail or "/") + visit.query
        return await self._forward(visit, route, path, inside=inside, credential=found)

    # Forwarding

    async def _forward(
        self,
        visit: Visit,
        route: Route,
        path: str,
        *,
        inside: Inside | None,
        credential: Credential | None,
        then: Callable[[int], None] = lambda status: None,
    ) -> web.StreamResponse:
        request = visit.request
        headers = upstream_headers(request.headers.items(), visit.outside, inside)
        upstream = http.Upstream(route.target, path, headers)
        try:
            if visit.websocket:
                return await self._websocket(visit, route, upstream, credential)

            def answered(status: int) -> None:
                then(status)
                if status < 300:
                    self._routes.touch(route, time.time())

            return await http.forward(
                request,
                upstream,
                self._clients,
                response_headers=lambda received: downstream_headers(received.items(), visit.outside, inside),
                answered=answered,
                moved=lambda: self._routes.touch(route, time.time()),
                compressed=self._compressed if route.compress else None,
            )
        except http.UpstreamUnreachable:
            if inside is None:
                return self._hub_unreachable(visit)
            sentence = (
                "The program of this session does not answer. Wait a moment and reload, or restart the session."
            )
            return await self._error(visit, 503, "Session not answering", sentence)

    async def _websocket(
        self, visit: Visit, route: Route, upstream: http.Upstream, found: Credential | None
    ) -> web.StreamResponse:
        request = visit.request
        fault = websocket_fault(request.method, request.version, request.headers, has_body=request.body_exists)
        if fault is not None:
            return self._refuse(visit, 400, "Bad request", fault)

        try:
            return await websocket.forward(
                request,
                upstream,
                self._clients,
                self.sockets,
                until=partial(self._access_ends, route, found) if found is not None else None,
                moved=lambda: self._routes.touch(route, time.time()),
            )
        except websocket.UpstreamRefused as error:
            status = error.status if 400 <= error.status < 600 else 502
            return self._refuse(visit, status, "Refused", "The program did not accept the WebSocket.")

    async def _access_ends(self, route: Route, found: Credential) -> websocket.Close:
        """Return when the credential opens the session no more; asked again as often as for requests."""
        while True:
            await asyncio.sleep(self._authority.ttl)
            # Past the grace an outage of the hub leaves no decision to rely on.
            with contextlib.suppress(HubUnreachable):
                decision = await self._authority.decide(found.token, route.user or "", route.server_name)
                if decision.allowed:
                    continue
            return websocket.ACCESS_ENDED

    # Answers of our own

    def _refuse(self, visit: Visit, status: int, title: str, sentence: str) -> web.Response:
        return answer(status, title, sentence, page=visit.page, link=self._public.home)

    def _hub_unreachable(self, visit: Visit) -> web.Response:
        sentence = "The hub does not answer at the moment. Try again in a minute."
        return self._not_yet(visit, "Hub not answering", sentence, seconds=5)

    @staticmethod
    def _not_yet(visit: Visit, title: str, sentence: str, *, seconds: int) -> web.Response:
        link = Link(visit.path + visit.query, "Try again") if not visit.path.startswith("//") else None
        headers = {"Retry-After": str(seconds)}
        if visit.page:  # a browser's page comes again by itself
            headers["Refresh"] = str(seconds)
        return answer(503, title, sentence, page=visit.page, link=link, headers=headers)

    def _readiness(self) -> web.Response:
        if self._recovery.ready:
            return web.json_response({"status": "OK"})
        return answer(503, "Not ready", "The hub has not sent its routes yet.", page=False)

    async def _error(self, visit: Visit, status: int, title: str, sentence: str) -> web.Response:
        """The hub's own error page for a browser, where there is one and the hub can draw it."""
        if self._error_target and visit.page:
            url = f"{self._error_target}/{status}?{urlencode({'url': visit.path})}"
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                limit = aiohttp.ClientTimeout(total=5)
                client = self._clients.for_request("GET", has_body=False)
                async with client.get(url, headers={"Accept": "text/html"}, timeout=limit) as page:
                    if page.status == status and page.content_type == "text/html":
                        body = await page.read()
                        return web.Response(status=status, body=body, headers={"Content-Type": "text/html"})
        return self._refuse(visit, status, title, sentence)


def _session_id(request: web.BaseRequest) -> str:
    for header in request.headers.getall("Cookie", ()):
        for name, value in cookie_pairs(header):
            if name == "jupyterhub-session-id":
                return value
    return ""


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Gateway]:
    """A gateway that listens. Raises OSError when a port is taken or the state file cannot be written."""
    routes = Routes(settings.state_file, host_routing=settings.host_routing)
    try:
        routes.load(time.time())
    except (ValueError, KeyError, TypeError, AttributeError):
        log.warning("The state file is damaged; the hub will send its routes again.")
    routes.save()
    limit = aiohttp.ClientTimeout(total=_HUB_SECONDS)
    async with contextlib.AsyncExitStack() as stack:
        to_hub = await stack.enter_async_context(
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=limit)
        )
        clients = http.Clients()
        stack.push_async_callback(clients.close)
        hub = HubClient(to_hub, settings.hub_api_url, settings.service_token, own_url=settings.own_api_url)
        authority = Authority(hub, ttl=settings.decision_seconds)
        sign_in = SignIn(settings.public, hub, settings.service_token)
        recovery = Recovery(routes, hub)
        gateway = Gateway(settings, routes, recovery, authority, sign_in, clients)
        keeper = Keeper(routes)
        stack.callback(keeper.write)
        api = RoutesApi(routes, keeper, settings.api_token, authority.begins_or_ends)
        await _listen(stack, gateway, api, settings)
        for task in (keeper.run(), recovery.run()):
            stack.callback(asyncio.create_task(task).cancel)
        yield gateway


async def _listen(
    stack: contextlib.AsyncExitStack, gateway: Gateway, api: RoutesApi, settings: Settings
) -> None:
    front = Listener(
        gateway.handle,
        handler_cancellation=True,
        access_log=None,
        auto_decompress=False,
        logger=_quiet,
        keepalive_timeout=_IDLE_SECONDS,
        lingering_time=_LINGER_SECONDS,
        max_field_size=http.LINE_LIMIT,
        max_headers=_MAX_HEADERS,
        max_line_size=http.LINE_LIMIT,
    )
    back = web.Server(api.handle, access_log=None)
    runners: list[web.ServerRunner] = []
    stack.push_async_callback(_stop, gateway.sockets, runners, settings.linger)
    for server, ip, port in ((front, settings.ip, settings.port), (back, settings.api_ip, settings.api_port)):
        runner = web.ServerRunner(server, shutdown_timeout=_STOP_SECONDS)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, ip, port, backlog=1024).start()


async def _stop(sockets: websocket.OpenSockets, runners: list[web.ServerRunner], linger: float) -> None:
    if linger:
        # What is new, the hub shall tell the next gateway, which has no routes until then.
        await runners.pop().cleanup()
        await asyncio.sleep(linger)
    # Nobody may come back before the next gateway is there, so listening ends first.
    for runner in runners:
        for site in runner.sites:
            await site.stop()
    sockets.close_all()
    await asyncio.gather(*(runner.cleanup() for runner in runners))
