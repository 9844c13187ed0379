"""Forwarding of HTTP requests: bodies stream both ways, and a broken one is never ended as if it were whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from . import files

LINE_LIMIT = 64 * 1024
"""Longest request line, and longest header field, in bytes."""
CONNECT_SECONDS = 10
# Below the idle time of common servers (node: 5 s), so that a request seldom meets a closing connection.
_KEEP_ALIVE_SECONDS = 4
_BUFFER = 256 * 1024


class UpstreamUnreachable(Exception):
    """The program gave no answer: nothing has been sent to the visitor yet."""


@dataclass(frozen=True)
class Upstream:
    """Where one request goes."""

    base: str
    """Scheme, host, port and base path of the program, without trailing slash."""
    path: str
    """Path and query, as the program shall see them."""
    headers: CIMultiDict[str]

    @property
    def url(self) -> URL:
        """The URL, byte for byte."""
        return URL(self.base + self.path, encoded=True)


class Clients:
    """The connections to programs: pooled for requests that may be repeated, else a fresh one for each."""

    def __init__(self) -> None:
        self._pooled = _session(aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS))
        # RFC 9112 section 9.3.1: a request that is not idempotent cannot be sent again when the idle
        # connection was being closed, and neither can a body that has been streamed.
        self._fresh = _session(aiohttp.TCPConnector(limit=0, force_close=True))

    def for_request(self, method: str, *, has_body: bool) -> aiohttp.ClientSession:
        """The session to send such a request with."""
        return self._pooled if method in ("GET", "HEAD", "OPTIONS") and not has_body else self._fresh

    @property
    def fresh(self) -> aiohttp.ClientSession:
        """The session whose connections are not shared; for WebSockets."""
        return self._fresh

    async def close(self) -> None:
        """Close all connections."""
        await self._pooled.close()
        await self._fresh.close()


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        max_field_size=LINE_LIMIT,
        max_line_size=LINE_LIMIT,
        read_bufsize=_BUFFER,
        requote_redirect_url=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
    )


async def forward(
    request: web.BaseRequest,
    upstream: Upstream,
    clients: Clients,
    *,
    response_headers: Callable[[CIMultiDict[str]], CIMultiDict[str]],
    answered: Callable[[int], None],
    moved: Callable[[], None],
    compressed: files.Compressed | None,
) -> web.StreamResponse:
    """Forward a request and stream the answer to the visitor.

    `answered` is called with the status before the visitor sees any of it, `moved` for each piece of the body.
    With `compressed`, static files are read to their end first, and compressed.
    Raises UpstreamUnreachable as long as nothing was sent to the visitor; later faults abort the connection.
    """
    has_body = request.body_exists
    if has_body and request.headers.get("Expect", "").lower() == "100-continue":
        # RFC 9110 section 10.1.1. The caller has authorised the request by now.
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    client = clients.for_request(request.method, has_body=has_body)
    try:
        received = await client.request(
            request.method,
            upstream.url,
            headers=upstream.headers,
            data=request.content if has_body else None,
            allow_redirects=False,
        )
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise UpstreamUnreachable from error
    try:
        if received.status < 200:
            raise UpstreamUnreachable("an upgrade that nobody asked for")
        answered(received.status)
        headers = response_headers(CIMultiDict(received.headers))
        status, beginning = received.status, b""
        if compressed and files.is_static(request.method, request.headers, status, received.headers):
            beginning = await _read(received, files.MOST_BYTES, moved)
            if len(beginning) <= files.MOST_BYTES:
                status, headers, beginning = await files.rendered(
                    beginning, request.headers, headers, compressed
                )
        reason = received.reason if status == received.status else None
        response = web.StreamResponse(status=status, reason=reason, headers=headers)
        if "Upgrade" in request.headers:
            # It was ignored (RFC 9110 section 7.8), but what follows on the wire may not be HTTP any more.
            response.force_close()
        await _stream(request, received, response, moved, beginning)
        return response
    finally:
        # Not release(): what is left of the body must not be read to the end for nobody.
        if received.content.at_eof():
            received.release()
        else:
            received.close()


async def _read(received: aiohttp.ClientResponse, most: int, moved: Callable[[], None]) -> bytes:
    """The whole body, or of one that is longer than `most` a beginning that is longer, too."""
    body = bytearray()
    try:
        async for piece in received.content.iter_any():
            moved()
            body += piece
            if len(body) > most:
                break
    except (aiohttp.ClientError, ConnectionError, asyncio.IncompleteReadError) as error:
        raise UpstreamUnreachable from error
    return bytes(body)


async def _stream(
    request: web.BaseRequest,
    received: aiohttp.ClientResponse,
    response: web.StreamResponse,
    moved: Callable[[], None],
    beginning: bytes,
) -> None:
    try:
        await response.prepare(request)
        if beginning:
            await response.write(beginning)
        if request.method != "HEAD":
            async for piece in received.content.iter_any():
                moved()
                await response.write(piece)
        await response.write_eof()
    except (aiohttp.ClientError, ConnectionError, asyncio.IncompleteReadError):
        # Either side broke. A clean end would make a truncated body look whole.
        if request.transport is not None:
            request.transport.abort()
