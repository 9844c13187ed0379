"""Signing browsers in: one OAuth client for all sessions, whose callback is on the hub's host.

A visitor starts at the session's host, which gets a sealed cookie with the PKCE verifier (RFC 7636). The hub
sends the code to its own host; from there it goes on to the host that the sealed `state` names, where the
cookie is. Whoever else learns the code cannot use it without the verifier.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from aiohttp import web
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .auth import HubClient
from .headers import cookie_pairs
from .pages import Link, answer, redirect

CLIENT_ID = "service-gateway"
SIGN_IN_SECONDS = 600
COOKIE_SECONDS = 14 * 86400


class Seal:
    """Encrypts and authenticates small values with a key derived from the service's token."""

    def __init__(self, secret: str) -> None:
        key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"canfar-gateway cookies").derive(
            secret.encode()
        )
        self._box = Fernet(base64.urlsafe_b64encode(key))

    def close(self, purpose: str, value: dict[str, str]) -> str:
        """The sealed form, safe in cookies and query strings; opens only for the same purpose."""
        return self._box.encrypt(json.dumps([purpose, value]).encode()).decode()

    def open(self, purpose: str, text: str, *, seconds: int) -> dict[str, Any] | None:
        """The value if the seal is good, for this purpose, and at most `seconds` old."""
        try:
            found, value = json.loads(self._box.decrypt(text.encode(), ttl=seconds))
        except (InvalidToken, ValueError):
            return None
        return value if found == purpose and isinstance(value, dict) else None


@dataclass(frozen=True)
class PublicUrl:
    """Where visitors reach the hub."""

    scheme: str
    host: str
    """Host name in lower case, without port."""
    port: int | None
    path: str
    """The hub's base path without trailing slash."""

    @classmethod
    def parse(cls, text: str) -> PublicUrl:
        """Raises ValueError for anything but a http or https URL with a host."""
        url = urlsplit(text)
        if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
            raise ValueError(text)
        return cls(url.scheme, url.hostname.lower(), url.port, url.path.rstrip("/"))

    def origin(self, host: str = "") -> str:
        """Scheme, host and port of the hub, or of another host at the same port."""
        name = host or (f"[{self.host}]" if ":" in self.host else self.host)
        return f"{self.scheme}://{name}" + (f":{self.port}" if self.port is not None else "")

    @property
    def callback_path(self) -> str:
        """The path of the OAuth client's redirect_uri, the same on every host."""
        return f"{self.path}/services/gateway/oauth_callback"

    @property
    def redirect_uri(self) -> str:
        """What the hub knows as the client's redirect_uri."""
        return self.origin() + self.callback_path

    @property
    def home(self) -> Link:
        """The way back to the hub."""
        return Link(f"{self.origin()}{self.path}/hub/home", "Go to your sessions")


class SignIn:
    """Both ends of the OAuth flow, and the cookie that it leaves."""

    def __init__(self, public: PublicUrl, hub: HubClient, service_token: str) -> None:
        self._public, self._hub, self._secret = public, hub, service_token
        self._seal = Seal(service_token)
        self._secure = public.scheme == "https"
        # With this prefix the browser itself refuses a cookie from another host (RFC 6265bis section 4.1.3.2).
        self.cookie = "__Host-canfar-gateway" if self._secure else "canfar-gateway"

    def token(self, cookie_header: str, host: str) -> str | None:
        """The hub token in the cookie for this host; of several cookies the first whose seal is good."""
        for name, value in cookie_pairs(cookie_header):
            if name == self.cookie:
                content = self._seal.open("token", value, seconds=COOKIE_SECONDS)
                if content is not None and content.get("host") == host:
                    return str(content["token"])
        return None

    def start(self, host: str, path: str) -> web.Response:
        """Send the visitor of `host` to the hub, to come back to `path`, which includes the query."""
        nonce, verifier = secrets.token_urlsafe(16), secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = urlencode(
            {
                "client_id": CLIENT_ID,
                "redirect_uri": self._public.redirect_uri,
                "response_type": "code",
                "state": self._seal.close("state", {"host": host, "nonce": nonce}),
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            }
        )
        response = redirect(f"{self._public.origin()}{self._public.path}/hub/api/oauth2/authorize?{query}")
        started = {"nonce": nonce, "verifier": verifier, "path": _short(path)}
        self._set(
            response,
            _state_cookie(nonce),
            self._seal.close("start", started),
            SIGN_IN_SECONDS,
            path=self._public.callback_path,
        )
        return response

    def state_host(self, query: Mapping[str, str]) -> str | None:
        """The host at which the sign-in of a callback began, or None when the state is not ours or too old."""
        state = self._seal.open("state", query.get("state", ""), seconds=SIGN_IN_SECONDS)
        return None if state is None else str(state["host"])

    def bounce(self, host: str, query: Mapping[str, str]) -> web.Response:
        """Send the hub's answer on to the host at which the sign-in began; the caller has checked it."""
        passed = {name: query[name] for name in ("code", "state", "error") if name in query}
        return redirect(f"{self._public.origin(host)}{self._public.callback_path}?{urlencode(passed)}")

    async def finish(self, host: str, query: Mapping[str, str], cookie_header: str) -> web.Response:
        """End a sign-in where it began: exchange the code, set the cookie, go to the wanted page.

        Raises HubUnreachable.
        """
        state = self._seal.open("state", query.get("state", ""), seconds=SIGN_IN_SECONDS)
        if state is None or state.get("host") != host:
            return self.failed("The sign-in took too long or was started elsewhere.")
        name = _state_cookie(str(state["nonce"]))
        started = self._started(name, str(state["nonce"]), cookie_header)
        if started is None:
            return self.failed("The sign-in took too long or was started in another browser.")
        if "code" not in query:
            return self.failed("The hub did not sign you in.")
        token = await self._hub.exchange(
            {
                "client_id": CLIENT_ID,
                "client_secret": self._secret,
                "grant_type": "authorization_code",
                "code": query["code"],
                "redirect_uri": self._public.redirect_uri,
                "code_verifier": str(started["verifier"]),
            }
        )
        if token is None:
            return self.failed("The hub did not accept the sign-in.")
        response = redirect(_local(str(started["path"])))
        self._set(
            response, self.cookie, self._seal.close("token", {"token": token, "host": host}), COOKIE_SECONDS
        )
        response.del_cookie(name, path=self._public.callback_path)
        return response

    def failed(self, sentence: str) -> web.Response:
        """The page for a sign-in that cannot go on."""
        return answer(
            403, "Sign-in failed", f"{sentence} Open the session again.", page=True, link=self._public.home
        )

    def _started(self, name: str, nonce: str, cookie_header: str) -> dict[str, Any] | None:
        for found, value in cookie_pairs(cookie_header):
            if found == name:
                started = self._seal.open("start", value, seconds=SIGN_IN_SECONDS)
                if started is not None and secrets.compare_digest(str(started["nonce"]), nonce):
                    return started
        return None

    def _set(self, response: web.Response, name: str, value: str, seconds: int, path: str = "/") -> None:
        response.set_cookie(
            name, value, max_age=seconds, path=path, secure=self._secure, httponly=True, samesite="Lax"
        )


def _state_cookie(nonce: str) -> str:
    # One for each sign-in, so that several tabs can sign in at the same time.
    return f"canfar-gateway-state-{nonce[:8]}"


def _short(path: str) -> str:
    """The path, or what of it fits into a cookie: browsers drop one of more than 4096 bytes."""
    if len(path) > 2000:
        path = path.partition("?")[0]
    return path if len(path) <= 2000 else "/"


def _local(path: str) -> str:
    """A path that no browser takes for another host."""
    return "/" + path.lstrip("/\\")


def parse_query(raw_query: str) -> dict[str, str]:
    """The first value of each parameter."""
    return {name: values[0] for name, values in parse_qs(raw_query, keep_blank_values=True).items()}
