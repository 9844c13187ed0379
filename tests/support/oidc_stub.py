"""A provider that says whatever a test tells it to, for the answers that a real one never gives."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
from tornado import web
from tornado.httpserver import HTTPServer

from tests.support.ports import free_port


class StubProvider:
    """Answers by path: a status and a body; a dictionary is sent as JSON."""

    def __init__(self) -> None:
        self.client_secret = "stub-secret"
        self.scope = ["openid", "profile"]
        self.port = free_port()
        self.issuer = f"http://127.0.0.1:{self.port}"
        self.claims: dict[str, Any] = {"sub": "u1", "preferred_username": "visitor", "groups": "canfar-users"}
        self.id_token: dict[str, Any] = {"sub": "u1"}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.answers: dict[str, tuple[int, Any]] = {
            "/.well-known/openid-configuration": (
                200,
                {
                    "issuer": self.issuer,
                    "authorization_endpoint": f"{self.issuer}/authorize",
                    "token_endpoint": f"{self.issuer}/token",
                    "userinfo_endpoint": f"{self.issuer}/userinfo",
                    "token_endpoint_auth_methods_supported": ["client_secret_post"],
                },
            )
        }
        self._server: HTTPServer | None = None

    def start(self) -> StubProvider:
        self._server = HTTPServer(web.Application([(r"/.*", _Handler, {"provider": self})]))
        self._server.listen(self.port, "127.0.0.1")
        return self

    async def stop(self) -> None:
        if self._server:
            self._server.stop()
            await self._server.close_all_connections()

    def set_groups(self, name: str, groups: list[str]) -> None:
        self.claims["groups"] = groups

    async def answer(self, browser: httpx.AsyncClient, url: str, name: str) -> str:
        query = {key: values[0] for key, values in parse_qs(urlsplit(url).query).items()}
        self.id_token.setdefault("nonce", query["nonce"])
        return f"{query['redirect_uri']}?code=a-code&state={query['state']}"

    def respond(self, path: str) -> tuple[int, Any]:
        if path in self.answers:
            return self.answers[path]
        if path == "/userinfo":
            return 200, self.claims
        if path == "/token":
            id_token = jwt.encode(self.id_token, "a-key-of-thirty-two-bytes-or-more", algorithm="HS256")
            return 200, {"access_token": "an-access-token", "token_type": "Bearer", "id_token": id_token}
        return 404, "nothing here"


class _Handler(web.RequestHandler):
    def initialize(self, provider: StubProvider) -> None:
        self.provider = provider

    def get(self) -> None:
        self.provider.asked.append((self.request.path, dict(self.request.headers)))
        status, body = self.provider.respond(self.request.path)
        self.set_status(status)
        self.finish(json.dumps(body) if isinstance(body, dict) else body)

    post = get
