"""The route table: which program answers for a host and path. Only `load` and `save` touch a file.

Keys are those of configurable-http-proxy: a decoded path, in host routing with the host as its first segment.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, unquote, urlsplit

Key = tuple[str, ...]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_PREFIX = re.compile(r"(/[!$&-.0-;=@-Z_a-z~%]+)*\Z")
_LANDING = re.compile(r"(?!/)[!#-;=?-Z_a-z~]*\Z")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*\Z")
_FRAMING = frozenset(
    {"connection", "content-length", "expect", "host", "te", "trailer", "transfer-encoding", "upgrade"}
)


class BadRoute(ValueError):
    """Route data that cannot be used; the message is a sentence for the caller of the REST API."""


@dataclass(frozen=True)
class Route:
    """One entry of the table, with everything a request needs worked out in advance."""

    key: Key
    target: str
    """Scheme, host and port of the program, with the path of the target URL; no trailing slash."""
    user: str | None
    """Owner of the session; None for the hub and services, which check their callers themselves."""
    server_name: str
    kind: str
    id: str
    prefix: str
    """The path under which the program believes to live; empty when it knows none."""
    landing: str
    """What of the session a person is led to who comes to its address itself; may be empty."""
    headers: Mapping[str, str] = field(repr=False)
    """Added to every request to the program. Holds the session's secret."""
    cookies: bool
    """Whether the program is sent cookies, and heads of any size."""
    compress: bool
    """Whether its static files are compressed for it."""
    data: Mapping[str, Any] = field(repr=False)
    """What was posted, to be given back to the holder of the REST API's token."""
    host: str
    """Host of the route in host routing, else empty."""
    address: str
    """Public path of a session without trailing slash; empty for the hub and services."""
    interactive: bool = True
    """Whether there is anything to open at the address."""

    @property
    def path(self) -> str:
        """The key as the REST API writes it."""
        return "/" + "/".join(self.key)

    @property
    def has_own_address(self) -> bool:
        """Whether the session is at `/session/<kind>/<id>/` instead of the hub's `/user/...`."""
        return bool(self.kind)

    def landing_for(self, query: str) -> str:
        """Where a page of the address itself is, for a query as sent; empty if the program shall answer it."""
        if not self.landing or (query and "?" in self.landing):
            return ""
        return f"{self.address}/{self.landing}{query}"

    @property
    def origin(self) -> str:
        """Scheme, host and port of the program, in lower case."""
        url = urlsplit(self.target)
        return f"{url.scheme}://{url.netloc}".lower()


@dataclass(frozen=True)
class Match:
    """A route and the rest of the path below it."""

    route: Route
    tail: str
    """What follows the route's part of the path, byte for byte as sent: empty or beginning with a slash."""
    at_address: bool
    """Whether the request came to the session's own address rather than to the hub's for it."""


def split_key(path: str) -> Key:
    """The key for a path of the REST API, which is percent-encoded there.

    Raises BadRoute when a decoded segment holds a slash, which a key could not tell from a separator.
    """
    segments = tuple(unquote(part) for part in path.split("/") if part)
    if any("/" in segment for segment in segments):
        raise BadRoute("A segment of a route cannot contain an encoded slash.")
    return segments


def parse_route(key: Key, data: object, *, host_routing: bool) -> Route:
    """A route from what the hub posted. Raises BadRoute with a sentence that names the faulty part."""
    if not isinstance(data, dict) or not isinstance(data.get("target"), str):
        raise BadRoute("Must specify 'target' as string.")
    user = _text(data, "user") if data.get("user") is not None else None
    kind, id_ = _text(data, "kind"), _text(data, "id")
    if bool(kind) != bool(id_) or (kind and not (_NAME.match(kind) and _NAME.match(id_))):
        raise BadRoute("'kind' and 'id' must both be given, of letters, digits, '-' and '_'.")
    if kind and user is None:
        raise BadRoute("A session needs a 'user'.")
    host = key[0].lower() if host_routing and key else ""
    below = key[1:] if host else key
    own = "/" + "/".join(quote(part, safe="@~!$&'()*+,;=:") for part in below) if below else ""
    address = f"/session/{kind}/{id_}" if kind else own if user is not None else ""
    prefix = _text(data, "prefix") if kind or "prefix" in data else address
    if not _PREFIX.match(prefix):
        raise BadRoute("'prefix' must be empty, or a path that begins with a slash and does not end with one.")
    landing = _text(data, "landing")
    if not _LANDING.match(landing):
        raise BadRoute("'landing' must be the end of an address: no slash at its begin, and printable ASCII.")
    return Route(
        key=(host, *below) if host else below,
        target=_target(data["target"]),
        user=user,
        server_name=_text(data, "server_name"),
        kind=kind,
        id=id_,
        prefix=prefix,
        landing=landing,
        headers=MappingProxyType(_headers(data)),
        cookies=_flag(data, "cookies", default=True),
        compress=_flag(data, "compress", default=False),
        data=MappingProxyType(dict(data)),
        host=host,
        address=address,
        interactive=_flag(data, "interactive", default=True),
    )


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRoute(f"'{name}' must be a string.")
    return value


def _flag(data: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = data.get(name, default)
    if not isinstance(value, bool):
        raise BadRoute(f"'{name}' must be true or false.")
    return value


def _target(text: str) -> str:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise BadRoute("'target' is not a URL.") from None
    if url.scheme not in ("http", "https") or not url.hostname or url.username is not None or port == 0:
        raise BadRoute("'target' must be a http or https URL with a host.")
    return f"{url.scheme}://{url.netloc}{url.path.rstrip('/')}"


def _headers(data: Mapping[str, Any]) -> dict[str, str]:
    headers = {} if data.get("headers") is None else data["headers"]
    if not isinstance(headers, dict):
        raise BadRoute("'headers' must be an object of strings.")
    for name, value in headers.items():
        if not isinstance(value, str) or not _HEADER_NAME.match(name) or not _HEADER_VALUE.match(value):
            raise BadRoute("'headers' must hold valid header names and printable ASCII values.")
        if name.lower() in _FRAMING:
            raise BadRoute("'headers' cannot hold headers that frame or route a message.")
    return dict(headers)


def has_dot_segment(path: str) -> bool:
    """Whether a program that decodes or normalises the path could leave its own prefix by it.

    RFC 3986 section 5.2.4 removes `.` and `..`; programs also do so after decoding `%2e`, `%2f` and `%5c`, and
    servlet containers after dropping `;parameters`.
    """
    segments = unquote(path).replace("\\", "/").split("/")
    return any(segment.partition(";")[0] in (".", "..") for segment in segments)


class Routes:
    """The table, kept in a file that only its owner may read, since injected headers are secrets."""

    def __init__(self, state_file: Path, *, host_routing: bool) -> None:
        self._file = state_file
        self.host_routing = host_routing
        self._routes: dict[Key, Route] = {}
        self._sessions: dict[tuple[str, str, str], Route] = {}
        self._activity: dict[Key, float] = {}
        self._depth = 0

    def __iter__(self) -> Iterator[Route]:
        return iter(list(self._routes.values()))

    def get(self, key: Key) -> Route | None:
        """The route with exactly this key."""
        return self._routes.get(self._normal(key))

    def add(self, route: Route, now: float) -> bool:
        """Put a route in place of the one with its key; `now` (seconds since the epoch) is its last activity.

        False when another route already has the session's address: that one keeps it, so that nobody takes over
        an address by choosing a name, and the new one is not at any address.
        """
        self.remove(route.key)
        self._routes[route.key] = route
        self._activity[route.key] = now
        self._depth = max(self._depth, len(route.key))
        if not route.has_own_address:
            return True
        return self._sessions.setdefault((route.host, route.kind, route.id), route) is route

    def remove(self, key: Key) -> bool:
        """Forget a route; False when there was none."""
        route = self._routes.pop(self._normal(key), None)
        if route is None:
            return False
        self._activity.pop(route.key, None)
        place = (route.host, route.kind, route.id)
        if self._sessions.get(place) is route:
            del self._sessions[place]
            # Another route may have waited for this address.
            heir = next((r for r in self._routes.values() if (r.host, r.kind, r.id) == place), None)
            if heir is not None:
                self._sessions[place] = heir
        return True

    def holds_address(self, route: Route) -> bool:
        """Whether requests to the route's own address reach it."""
        return self._sessions.get((route.host, route.kind, route.id)) is route

    def has_hub(self) -> bool:
        """Whether the way to the hub itself is known."""
        return any(route.data.get("hub") for route in self._routes.values())

    def has_session_host(self, host: str) -> bool:
        """Whether a session has its address on this host."""
        return any(route.user is not None and route.host == host for route in self._routes.values())

    def touch(self, route: Route, now: float) -> None:
        """Note that the route was used at `now`, in seconds since the epoch."""
        if route.key in self._activity:
            self._activity[route.key] = now

    def last_activity(self, route: Route) -> float:
        """When the route was last used, in seconds since the epoch."""
        return self._activity[route.key]

    def match(self, host: str, raw_path: str) -> Match | None:
        """The route for a request: a session's own address first, then the longest prefix of whole segments.

        `host` is the lower-case host name without port, `raw_path` the path as sent, without query. Segments
        are compared decoded, so that `%2F` separates nothing.
        """
        raw = raw_path.split("/")[1:]
        parts = tuple(unquote(part) for part in raw[: max(self._depth, 3)])
        base = (host,) if self.host_routing else ()
        if parts[:1] == ("session",) and len(parts) >= 3:
            session = self._sessions.get((host if self.host_routing else "", parts[1], parts[2]))
            if session is not None:
                return Match(session, _tail(raw, 3), at_address=True)
        for length in range(len(parts), -1, -1):
            route = self._routes.get(base + parts[:length])
            if route is not None:
                return Match(route, _tail(raw, length), at_address=not route.has_own_address)
        default = self._routes.get(())
        return None if default is None else Match(default, raw_path, at_address=True)

    def load(self, now: float) -> None:
        """Read the table back. Raises OSError or ValueError when there is a file that cannot be used."""
        try:
            stored = json.loads(self._file.read_text("utf-8"))
        except FileNotFoundError:
            return
        if not isinstance(stored, dict):
            raise BadRoute("The file does not hold a table of routes.")
        for path, entry in stored.items():
            route = parse_route(
                tuple(path.split("/")[1:]) if path != "/" else (), entry["data"], host_routing=self.host_routing
            )
            self.add(route, float(entry.get("last_activity", now)))

    def save(self) -> None:
        """Write the table, whole or not at all, with mode 0600. Raises OSError."""
        stored = {
            route.path: {"data": dict(route.data), "last_activity": self._activity[route.key]}
            for route in self._routes.values()
        }
        draft = self._file.with_name(self._file.name + ".new")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(stored, file)
        draft.replace(self._file)

    def _normal(self, key: Key) -> Key:
        return (key[0].lower(), *key[1:]) if self.host_routing and key else key


def _tail(raw: list[str], used: int) -> str:
    rest = raw[used:]
    return "/" + "/".join(rest) if rest else ""
