"""What goes upstream and what comes back: pure functions over headers, cookies and redirects."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from multidict import CIMultiDict

Headers = Iterable[tuple[str, str]]

# RFC 9110 section 7.6.1, RFC 9112 section 6.1, and what is answered at this hop.
HOP_BY_HOP = frozenset(
    {
        "connection", "expect", "http2-settings", "keep-alive", "proxy-authenticate", "proxy-authorization",
        "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
# Programs believe these when a proxy sends them, so a caller must not.
_SAID_BY_PROXIES = ("x-forwarded-", "x-auth-request-", "x-remote-", "remote-")
_CALLERS_OWN = frozenset(
    {"authorization", "forwarded", "x-real-ip", "x-scheme", "x-original-url", "x-rewrite-url", "x-forwarded"}
)
# These act on the whole origin, which a program shares with the visitor's other sessions.
_OWN_THE_ORIGIN = frozenset(
    {
        "alt-svc", "clear-site-data", "nel", "public-key-pins", "public-key-pins-report-only",
        "service-worker-allowed", "strict-transport-security",
    }
)  # fmt: skip
# For programs that are sent no cookies. CARTA's server never answers a head of more than 48 headers, and may
# refuse one of more than 4096 bytes; the connection itself and the request line need some of both.
_SMALL_COUNT = 40
_SMALL_BYTES = 3072
_FRAMES = frozenset({"content-length", "content-type", "host", "origin"})
_MEANS_SOMETHING = frozenset(
    {
        "accept", "accept-encoding", "accept-language", "cache-control", "content-encoding", "if-match",
        "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "pragma", "range",
        "user-agent", "x-forwarded-for", "x-forwarded-host", "x-forwarded-prefix", "x-forwarded-proto",
        "x-forwarded-user",
    }
)  # fmt: skip
_ONLY_TELLS = ("dnt", "priority", "referer", "sec-ch-", "sec-fetch-", "upgrade-insecure-requests", "via")
_OUR_COOKIES = ("jupyterhub-", "canfar-")


@dataclass(frozen=True)
class Outside:
    """How a request looks from outside: what the caller typed and where from."""

    host: str
    """The Host header, with port."""
    scheme: str
    """`http` or `https`, as the visitor's browser sees it."""
    chain: tuple[str, ...]
    """The addresses that the request came by, the visitor's last; the visitor may have invented the others."""

    @property
    def peer(self) -> str:
        """The visitor's address."""
        return self.chain[-1]

    @property
    def origin(self) -> str:
        """The origin (RFC 6454) of a page served here."""
        return normal_origin(f"{self.scheme}://{self.host}")


@dataclass(frozen=True)
class Inside:
    """What a program may know and own."""

    address: str
    """Its public path, without trailing slash."""
    prefix: str
    """The path it believes in."""
    origin: str
    """Its own scheme, host and port."""
    user: str
    """Name of the caller."""
    headers: Mapping[str, str]
    """Added to each request in place of the caller's."""
    cookies: bool = True
    """Whether it is sent cookies, and heads of any size."""


def repaired(value: str) -> str:
    """A header value whose bytes were not UTF-8, read as Latin-1 instead of losing those bytes."""
    if value.isascii():
        return value
    return value if _is_unicode(value) else value.encode("utf-8", "surrogateescape").decode("latin-1")


def _is_unicode(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)


def tokens(value: str) -> list[str]:
    """The lower-case members of a comma-separated header."""
    return [token.strip().lower() for token in value.split(",") if token.strip()]


def _hop_by_hop(headers: CIMultiDict[str]) -> frozenset[str]:
    named = {token for value in headers.getall("Connection", ()) for token in tokens(value)}
    # A caller could otherwise name a header that the gateway itself relies on.
    return HOP_BY_HOP | (named - {"host", "content-length", "cookie", "authorization"})


def is_our_cookie(name: str) -> bool:
    """Whether a cookie of this name is the hub's or the gateway's. One without a name could pose as such."""
    name = name.strip().lower()
    for marker in ("__host-", "__secure-", "__http-", "__host-http-"):
        name = name.removeprefix(marker)
    return not name or name.startswith(_OUR_COOKIES)


def cookie_pairs(header: str) -> list[tuple[str, str]]:
    """Names and values of a Cookie header, in order and with duplicates (RFC 6265 section 5.4)."""
    pairs = (part.strip().partition("=") for part in header.split(";"))
    return [
        (name if equals else "", value if equals else name) for name, equals, value in pairs if name or equals
    ]


def program_cookies(header: str, added: str = "") -> str:
    """A Cookie header without what belongs to the hub and the gateway, and without the names in `added`."""
    names = {name for name, _ in cookie_pairs(added)}
    kept = [(n, v) for n, v in cookie_pairs(header) if not is_our_cookie(n) and n.strip() not in names]
    return "; ".join(f"{name}={value}" for name, value in kept)


def _is_refused(name: str) -> bool:
    return name in _CALLERS_OWN or name.startswith(_SAID_BY_PROXIES)


def upstream_headers(sent: Headers, outside: Outside, inside: Inside | None) -> CIMultiDict[str]:
    """The headers for the program; with `inside` None those for the hub or a service.

    CGI and WSGI programs cannot tell `X_User` from `X-User`, so both spellings are refused alike. A Cookie
    header that is added stands before the program's own cookies, in one header (RFC 6265 section 5.4).
    """
    received = CIMultiDict(sent)
    dropped = _hop_by_hop(received)
    added = CIMultiDict(inside.headers if inside else {})
    replaced = {name.lower().replace("_", "-") for name in added} - {"cookie"}
    passed: CIMultiDict[str] = CIMultiDict()
    for name, value in received.items():
        plain = name.lower().replace("_", "-")
        if name.lower() in dropped or plain in dropped or plain.startswith("x-forwarded-"):
            continue
        if inside is not None:
            if _is_refused(plain) or plain in replaced:
                continue
            if plain == "cookie":
                value = program_cookies(value, added.get("Cookie", "")) if inside.cookies else ""
                if not value:
                    continue
        passed.add(name, repaired(value))
    passed["X-Forwarded-For"] = ", ".join(repaired(address) for address in outside.chain if address)
    passed["X-Forwarded-Proto"] = outside.scheme
    passed["X-Forwarded-Host"] = outside.host
    if inside is not None:
        passed["X-Forwarded-Prefix"] = inside.address
        passed["X-Forwarded-User"] = inside.user.encode("ascii", "backslashreplace").decode()
        if "Cookie" in added:
            added["Cookie"] = "; ".join([added["Cookie"], *passed.getall("Cookie", ())])
        passed.update(added)
        if not inside.cookies:
            return small_head(passed, inside.headers)
    return passed


def small_head(headers: CIMultiDict[str], secrets: Iterable[str]) -> CIMultiDict[str]:
    """As many of the headers as a server with little room reads, the most important ones first.

    `secrets` are names of headers that the program must get.
    """
    always = {name.lower() for name in secrets}

    def rank(name: str) -> int:
        plain = name.lower()
        if plain in always or plain in _FRAMES:
            return 0
        return 1 if plain in _MEANS_SOMETHING else 2 if not plain.startswith(_ONLY_TELLS) else 3

    kept: CIMultiDict[str] = CIMultiDict()
    size = 0
    for name, value in sorted(headers.items(), key=lambda header: rank(header[0])):
        longer = size + len(name) + len(value.encode("utf-8", "surrogateescape")) + 4
        if rank(name) == 0 or (len(kept) < _SMALL_COUNT and longer <= _SMALL_BYTES):
            kept.add(name, value)
            size = longer
    return kept


def downstream_headers(received: Headers, outside: Outside, inside: Inside | None) -> CIMultiDict[str]:
    """The headers for the visitor; a program's cookies and redirects are kept to its own address."""
    sent = CIMultiDict(received)
    dropped = _hop_by_hop(sent)
    passed: CIMultiDict[str] = CIMultiDict()
    for name, value in sent.items():
        plain = name.lower()
        if plain in dropped or (inside is not None and plain in _OWN_THE_ORIGIN):
            continue
        value = repaired(value)
        if inside is not None and plain == "location":
            value = public_location(value, outside, inside)
        elif inside is not None and plain == "set-cookie":
            confined = confined_cookie(value, inside)
            if confined is None:
                continue
            value = confined
        passed.add(name, value)
    passed.setdefault("Server", "canfar-gateway")
    return passed


def confined_cookie(header: str, inside: Inside) -> str | None:
    """A Set-Cookie header bound to the session's host and address; None when a program may not set it."""
    pair, *attributes = header.split(";")
    name, equals, _ = pair.partition("=")
    if not equals or is_our_cookie(name):
        return None
    kept, path = [pair], ""
    for attribute in attributes:
        key, _, value = attribute.partition("=")
        if key.strip().lower() == "path":
            path = value.strip()
        elif key.strip().lower() != "domain":
            kept.append(attribute)
    return f"{';'.join(kept)}; Path={_public_cookie_path(path, inside)}"


def _public_cookie_path(path: str, inside: Inside) -> str:
    if _is_below(path, inside.address):
        return path
    if inside.prefix and _is_below(path, inside.prefix):
        path = path[len(inside.prefix) :]
    elif inside.prefix or not path.startswith("/"):
        path = ""
    return inside.address + (path or "/")


def _is_below(path: str, address: str) -> bool:
    return path == address or path.startswith((address + "/", address + "?", address + "#"))


def public_location(location: str, outside: Outside, inside: Inside) -> str:
    """A redirect of a program, as the visitor must see it; one to elsewhere stays as it is.

    A program names its own pages by path, by the address at which it listens, or by the Host that it was sent.
    """
    text = location.strip()
    try:
        url = urlsplit(text)
    except ValueError:
        return location
    if url.netloc:
        # A scheme is absent in a network-path reference (RFC 3986 section 4.2).
        here = {inside.origin.partition("://")[2], outside.host.lower()}
        if url.scheme not in ("http", "https", "") or url.netloc.lower() not in here:
            return location
        path = url._replace(scheme="", netloc="").geturl() or "/"
        # More than one slash would make the path a host.
        path = "/" + path.lstrip("/") if path.startswith("//") else path
        if not path.startswith("/"):
            path = "/" + path
    elif text.startswith("/"):
        path = text
    else:
        return location
    if _is_below(path, inside.address):
        return path
    if inside.prefix and _is_below(path, inside.prefix):
        return inside.address + path[len(inside.prefix) :]
    return path if inside.prefix else inside.address + path


def normal_origin(origin: str) -> str:
    """An origin in lower case, without a default port; for comparison only."""
    scheme, separator, rest = origin.strip().lower().partition("://")
    default = {"http": ":80", "https": ":443"}.get(scheme, "")
    return scheme + separator + (rest.removesuffix(default) if default else rest)


def is_navigation(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a person's browser asks for a page, so that a redirect to a sign-in makes sense.

    Fetch Metadata decides where the browser sends it; an older one or a command line is judged by Accept.
    """
    if method not in ("GET", "HEAD") or "Authorization" in headers or "Upgrade" in headers:
        return False
    mode = headers.get("Sec-Fetch-Mode")
    if mode is not None:
        return mode.lower() == "navigate"
    return "text/html" in headers.get("Accept", "").lower()


def is_foreign(method: str, headers: Mapping[str, str], own_origin: str, *, websocket: bool) -> bool:
    """Whether a request with a cookie was caused by another origin's page, and must be refused.

    A WebSocket has no protection by the browser (RFC 6455 section 10.2), so it must name its Origin. Hosts of
    other users are the same site, so a SameSite cookie comes along and only these headers tell.
    """
    origin = headers.get("Origin")
    if websocket:
        return origin is None or normal_origin(origin) != own_origin
    if method in ("GET", "HEAD") and headers.get("Sec-Fetch-Mode", "").lower() == "navigate":
        return False
    if origin is not None and normal_origin(origin) != own_origin:
        return True
    return headers.get("Sec-Fetch-Site", "none").lower() not in ("same-origin", "none")


def asks_for_websocket(headers: CIMultiDict[str] | Mapping[str, str]) -> bool:
    """Whether any spelling of Upgrade names a WebSocket, well-formed or not."""
    return any("websocket" in value.lower() for name, value in headers.items() if name.lower() == "upgrade")


def websocket_fault(
    method: str, version: tuple[int, int], headers: Mapping[str, str], *, has_body: bool
) -> str | None:
    """What is wrong with a WebSocket handshake (RFC 6455 section 4.2.1), as a sentence, or None."""
    if method != "GET" or version != (1, 1) or has_body:
        return "A WebSocket is opened by a GET request of HTTP/1.1 without a body."
    upgrades = [value for name, value in headers.items() if name.lower() == "upgrade"]
    if [token for value in upgrades for token in tokens(value)] != ["websocket"]:
        return "The Upgrade header of a WebSocket must be exactly 'websocket'."
    connections = [value for name, value in headers.items() if name.lower() == "connection"]
    if "upgrade" not in {token for value in connections for token in tokens(value)}:
        return "The Connection header of a WebSocket must contain 'Upgrade'."
    if headers.get("Sec-WebSocket-Version") != "13":
        return "Only version 13 of the WebSocket protocol is supported."
    try:
        key = base64.b64decode(headers.get("Sec-WebSocket-Key", ""), validate=True)
    except ValueError:
        key = b""
    return None if len(key) == 16 else "Sec-WebSocket-Key must be 16 bytes in base64."
