"""The services' calls. Whoever asks is known by a bearer token of the provider, or by a certificate of ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from canfar_auth.outbound import Outbound, Unavailable
from canfar_auth.x509 import Issued
from canfar_hub.grid_services import documents
from canfar_hub.grid_services.authority import certificate_of

MOST_DAYS = 30
"""The longest life of a certificate, and what one has if nothing is asked for, as at OpenCADC's `cred`."""


@dataclass(frozen=True, slots=True)
class Services:
    """What the calls answer from. ``url`` is the https address; ``groups`` are each account's."""

    url: str
    resource: str
    groups: Mapping[str, tuple[str, ...]]
    userinfo: str
    outbound: Outbound
    authority: Issued

    @property
    def gms(self) -> str:
        """The base of the group service."""
        return f"{self.url}/gms"

    @property
    def cred(self) -> str:
        """The base of the certificate service."""
        return f"{self.url}/cred"


def create_app(services: Services) -> web.Application:
    """The application that both listeners serve, the plain one and the one for certificates."""

    async def availability(_: web.Request) -> web.Response:
        return _xml(documents.AVAILABLE)

    async def registry(_: web.Request) -> web.Response:
        cred = f"{services.resource.rpartition('/')[0]}/cred"
        return web.Response(text=documents.registry([(services.resource, services.gms), (cred, services.cred)]))

    async def gms_capabilities(_: web.Request) -> web.Response:
        return _xml(documents.capabilities(services.gms, documents.GMS))

    async def cred_capabilities(_: web.Request) -> web.Response:
        return _xml(documents.capabilities(services.cred, documents.CRED))

    async def search(request: web.Request) -> web.Response:
        return _search(request, services.groups.get(await _caller(request, services), ()))

    async def generate(request: web.Request) -> web.Response:
        return await _generate(request, services)

    app = web.Application()
    app.on_response_prepare.append(_without_details)
    app.router.add_get("/reg/resource-caps", registry)
    app.router.add_get("/gms/capabilities", gms_capabilities)
    app.router.add_get("/cred/capabilities", cred_capabilities)
    for service in ("gms", "cred"):
        app.router.add_get(f"/{service}/availability", availability)
    app.router.add_get("/gms/search", search)
    app.router.add_get("/cred/generate", generate)
    return app


async def _without_details(_: web.Request, response: web.StreamResponse) -> None:
    """No versions in the answers, and none of them in a cache."""
    response.headers["Server"] = "canfar-hub"
    response.headers["Cache-Control"] = "no-store"


def _search(request: web.Request, own: tuple[str, ...]) -> web.Response:
    """The caller's groups, or those of the named ones that they are in."""
    wanted = request.query.getall("group", [])
    chosen = [group for group in own if not wanted or group.rpartition("?")[2] in wanted]
    return web.Response(text=documents.names(chosen))


async def _generate(request: web.Request, services: Services) -> web.Response:
    """A certificate for the caller, who has to come with a token: a certificate must not renew itself."""
    username = await _caller(request, services, by_certificate=False)
    days = request.query.get("daysValid", str(MOST_DAYS))
    if not days.isascii() or not days.isdecimal() or len(days) > 3 or not 1 <= int(days) <= MOST_DAYS:
        raise web.HTTPBadRequest(text=f"daysValid must be a whole number from 1 to {MOST_DAYS}.\n")
    made = await asyncio.to_thread(certificate_of, services.authority, username, int(days))
    return web.Response(
        body=made.encode(),
        content_type="application/x-pem-file",
        headers={"Content-Disposition": "inline; filename=cadcproxy.pem"},
    )


# Who is asking


async def _caller(request: web.Request, services: Services, by_certificate: bool = True) -> str:
    """The caller's name; raises 401 for nobody, 403 for a credential that does not do here, 503 for doubt."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return await _holder(token.strip(), services)
    if certified := _certified(request):
        if not by_certificate:
            raise web.HTTPForbidden(text="A certificate is given to the holder of a token only.\n")
        return certified
    raise web.HTTPUnauthorized(
        text="Say who you are, by a bearer token or a client certificate.\n",
        headers={"WWW-Authenticate": "Bearer"},
    )


async def _holder(token: str, services: Services) -> str:
    """Whose token it is, by the provider's user information (OpenID Connect Core 1.0 section 5.3)."""
    try:
        answer = await services.outbound.get(services.userinfo, token=token, accept="application/json")
        claims = json.loads(answer.text) if answer.status == 200 else None
    except (Unavailable, ValueError):
        raise web.HTTPServiceUnavailable(text="The identity provider does not answer.\n") from None
    name = claims.get("preferred_username") if isinstance(claims, dict) else None
    if not isinstance(name, str) or not name:
        raise web.HTTPForbidden(text="The identity provider does not know this token.\n")
    return name


def _certified(request: web.Request) -> str:
    """Whose certificate the connection was made with; empty without one. TLS has verified it.

    The authority gives one common name to each person; what a proxy adds (RFC 3820 section 3.4) follows it.
    """
    certificate = request.get_extra_info("peercert") or {}
    pairs = [pair for rdn in certificate.get("subject", ()) for pair in rdn]
    return next((str(value) for name, value in pairs if name == "commonName"), "")


def _xml(text: str) -> web.Response:
    return web.Response(text=text, content_type="text/xml")
