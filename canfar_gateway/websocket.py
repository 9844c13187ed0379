"""Forwarding of WebSockets by messages: data, ping, pong, close codes and subprotocols pass both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import WSCloseCode, WSMsgType, web
from multidict import CIMultiDict

from .http import CONNECT_SECONDS, Clients, Upstream, UpstreamUnreachable

_HANDSHAKE_SECONDS = 30
_CLOSE_SECONDS = 2
# RFC 6455 section 7.4.1: the others never appear on the wire.
_SENDABLE = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})

Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse
Moved = Callable[[], None]


class UpstreamRefused(Exception):
    """The program answered the handshake with another status than 101."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True)
class Close:
    """Why a WebSocket ends, as its close frame says."""

    code: int
    reason: bytes = b""


ACCESS_ENDED = Close(WSCloseCode.POLICY_VIOLATION, b"Your access to this session has ended.")
# JupyterLab connects again after this code, and not after 1001, "going away".
GATEWAY_STOPS = Close(WSCloseCode.SERVICE_RESTART, b"The gateway is restarting.")
_VISITOR_LOST = Close(WSCloseCode.GOING_AWAY)
_PROGRAM_LOST = Close(WSCloseCode.INTERNAL_ERROR, b"The program closed the connection.")


class OpenSockets:
    """The WebSockets that are open now, to be ended when the gateway stops."""

    def __init__(self) -> None:
        self._ends: set[asyncio.Future[Close]] = set()
        self._closed = False

    def opened(self) -> asyncio.Future[Close]:
        """A future that ends the new WebSocket when it is set."""
        end: asyncio.Future[Close] = asyncio.get_running_loop().create_future()
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)
        if self._closed:
            end.set_result(GATEWAY_STOPS)
        return end

    def close_all(self) -> None:
        """End them all, and those that are being opened."""
        self._closed = True
        for end in list(self._ends):
            end.set_result(GATEWAY_STOPS)


async def forward(
    request: web.BaseRequest,
    upstream: Upstream,
    clients: Clients,
    sockets: OpenSockets,
    *,
    until: Callable[[], Awaitable[Close]] | None,
    moved: Moved,
) -> web.WebSocketResponse:
    """Connect to the program, then to the visitor, and pass messages until one side ends or `until` returns.

    Raises UpstreamUnreachable or UpstreamRefused while the visitor can still be answered.
    """
    program = await _connect(request, upstream, clients)
    chosen = (program.protocol,) if program.protocol else ()
    visitor = web.WebSocketResponse(
        protocols=chosen,
        max_msg_size=0,
        autoping=False,
        autoclose=False,
        compress=False,
        timeout=_CLOSE_SECONDS,
    )
    try:
        await visitor.prepare(request)
    except BaseException:
        await program.close()
        raise
    end = sockets.opened()
    watch = asyncio.create_task(_watch(until, end)) if until else None
    try:
        await _pass_until_end(visitor, program, end, moved)
    finally:
        if watch is not None:
            watch.cancel()
        end.cancel()
    return visitor


async def _connect(
    request: web.BaseRequest, upstream: Upstream, clients: Clients
) -> aiohttp.ClientWebSocketResponse:
    offered = [
        protocol.strip()
        for header in request.headers.getall("Sec-WebSocket-Protocol", ())
        for protocol in header.split(",")
        if protocol.strip()
    ]
    headers = CIMultiDict(
        (k, v) for k, v in upstream.headers.items() if not k.lower().startswith("sec-websocket-")
    )
    try:
        async with asyncio.timeout(_HANDSHAKE_SECONDS + CONNECT_SECONDS):
            return await clients.fresh.ws_connect(
                upstream.url,
                protocols=offered,
                headers=headers,
                max_msg_size=0,
                autoping=False,
                autoclose=False,
                compress=0,
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_SECONDS),
            )
    except aiohttp.WSServerHandshakeError as error:
        raise UpstreamRefused(error.status) from None
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise UpstreamUnreachable from error


async def _watch(until: Callable[[], Awaitable[Close]], end: asyncio.Future[Close]) -> None:
    close = await until()
    if not end.done():
        end.set_result(close)


async def _pass_until_end(
    visitor: web.WebSocketResponse,
    program: aiohttp.ClientWebSocketResponse,
    end: asyncio.Future[Close],
    moved: Moved,
) -> None:
    upward = asyncio.create_task(_pass(visitor, program, moved))
    downward = asyncio.create_task(_pass(program, visitor, moved))
    to_visitor, to_program = _PROGRAM_LOST, _VISITOR_LOST
    try:
        ends: set[asyncio.Future[Any]] = {upward, downward, end}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if end.done() and not end.cancelled():
            to_visitor = to_program = end.result()
        elif upward.done():
            to_program = to_visitor = upward.result() or _VISITOR_LOST
        else:
            to_visitor = to_program = downward.result() or _PROGRAM_LOST
    finally:
        for task in (upward, downward):
            task.cancel()
        ended, _ = await asyncio.gather(upward, downward, return_exceptions=True)
        if to_program is _VISITOR_LOST and isinstance(ended, Close):
            # The connection was lost just after its close frame had come.
            to_program = ended
        await asyncio.gather(_close(program, to_program), _close(visitor, to_visitor))


async def _pass(source: Socket, sink: Socket, moved: Moved) -> Close | None:
    """Pass messages on until the source closes; None when it went away without a close frame."""
    with suppress(ConnectionError, aiohttp.ClientError):
        while True:
            message = await source.receive()
            if message.type is WSMsgType.TEXT:
                moved()
                await sink.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                moved()
                await sink.send_bytes(message.data)
            elif message.type in (WSMsgType.PING, WSMsgType.PONG):
                await sink.send_frame(bytes(message.data), message.type)
            elif message.type is WSMsgType.CLOSE:
                return Close(message.data or WSCloseCode.OK, str(message.extra or "").encode())
            else:
                return None
    return None


async def _close(socket: Socket, close: Close) -> None:
    code = close.code if close.code in _SENDABLE else WSCloseCode.OK
    with suppress(ConnectionError, aiohttp.ClientError, TimeoutError, RuntimeError):
        await socket.close(code=code, message=close.reason)
