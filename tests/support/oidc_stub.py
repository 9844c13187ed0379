"""A provider that says whatever a test tells it to, for the answers that a real one never gives."""

from __future__ import annotations

import json
import secrets
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
        self.lives: float | None = None
        """Seconds that access tokens live; with them come refresh tokens that are taken once."""
        self.refresh_token = ""
        self.keys: list[dict[str, Any]] = []
        self.answers: dict[str, tuple[int, Any]] = {
            "/.well-known/openid-configuration": (
                200,
                {
                    "issuer": self.issuer,
                    "authorization_endpoint": f"{self.issuer}/authorize",
                    "token_endpoint": f"{self.issuer}/token",
                    "userinfo_endpoint": f"{self.issuer}/userinfo",
                    "jwks_uri": f"{self.issuer}/keys",
                    "token_endpoint_auth_methods_supported": ["client_secret_post"],
                },
            )
        }
        self._nonce = ""
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
        if self.id_token.get("nonce") in (None, self._nonce):  # unless a test gave another one
            self.id_token["nonce"] = self._nonce = query["nonce"]
        return f"{query['redirect_uri']}?code=a-code&state={query['state']}"

    def respond(self, path: str, sent: dict[str, str]) -> tuple[int, Any]:
        if path in self.answers:
            return self.answers[path]
        if path == "/userinfo":
            return 200, self.claims
        if path == "/keys":
            return 200, {"keys": self.keys}
        if path == "/token":
            return self._tokens(sent)
        return 404, "nothing here"

    def _tokens(self, sent: dict[str, str]) -> tuple[int, Any]:
        if sent.get("grant_type") == "refresh_token" and sent["refresh_token"] != self.refresh_token:
            return 400, {"error": "invalid_grant"}
        id_token = jwt.encode(self.id_token, "a-key-of-thirty-two-bytes-or-more", algorithm="HS256")
        answer = {"access_token": "an-access-token", "token_type": "Bearer", "id_token": id_token}
        if self.lives is not None:
            self.refresh_token = secrets.token_hex()
            answer |= {"access_token": secrets.token_hex(), "refresh_token": self.refresh_token}
            return 200, {**answer, "expires_in": self.lives}
        return 200, answer

    def count(self, path: str) -> int:
        """How often a path was asked for."""
        return sum(1 for asked, _ in self.asked if asked == path)


class _Handler(web.RequestHandler):
    def initialize(self, provider: StubProvider) -> None:
        self.provider = provider

    def get(self) -> None:
        self.provider.asked.append((self.request.path, dict(self.request.headers)))
        sent = {name: self.get_body_argument(name) for name in self.request.body_arguments}
        status, body = self.provider.respond(self.request.path, sent)
        self.set_status(status)
        self.finish(json.dumps(body) if isinstance(body, dict) else body)

    post = get
