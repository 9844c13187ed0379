"""A desktop's page, and the WebSocket from it to the VNC server, for as long as the desktop's session runs.

The VNC server listens on a socket that only this account can open, and asks for nothing. Who may see it was
decided by the gateway, which adds the session's secret to each request; what comes without it is refused here.
"""

import asyncio
import hmac
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from aiohttp import WSCloseCode, WSMsgType, web

from canfar_desktop import software

SECRET_HEADER = "X-Canfar-Secret"  # noqa: S105 - a header's name
PAGE = Path(__file__).parent / "page"
NOVNC = Path(sys.prefix) / "lib/node_modules/@novnc/novnc"
"""Where `npm install --global --prefix` with this Python's prefix puts noVNC."""

_REFUSED = "This desktop is open to requests through the hub only; open it from the page “Your sessions”.\n"
_LONGEST_MESSAGE = 32 * 2**20  # bytes; the clipboard's text comes in one
_HEARTBEAT = 30.0  # seconds; a viewer that is gone is noticed, and proxies see that the connection is used
_CHUNK = 2**16
_PATIENCE = 5.0  # seconds for the desktop's session to end after SIGTERM
_HEADERS = {
    "Cache-Control": "no-cache",
    # Cursors are images in data: URLs.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(secret: str, vnc: Path, novnc: Path = NOVNC) -> web.Application:
    """The page, noVNC, and the WebSocket to the VNC server's socket `vnc`, for requests that carry `secret`."""
    if not secret:
        raise ValueError("a desktop without a secret would be open to everybody")
    viewers: set[web.WebSocketResponse] = set()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get(SECRET_HEADER, "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, secret.encode()):
            return web.Response(status=403, text=_REFUSED)
        return await handler(request)

    async def page(_: web.Request) -> web.StreamResponse:
        return web.FileResponse(PAGE / "index.html")

    async def socket(request: web.Request) -> web.StreamResponse:
        return await _view(request, vnc, viewers)

    async def dismiss(_: web.Application) -> None:
        for viewer in tuple(viewers):
            await viewer.close(code=WSCloseCode.GOING_AWAY)

    app = web.Application(middlewares=[check])
    app.on_response_prepare.append(_add_headers)
    app.on_shutdown.append(dismiss)
    app.add_routes(
        [
            web.get("/", page),
            web.get("/socket", socket),
            web.static("/page", PAGE),
            web.static("/novnc", novnc),
        ]
    )
    return app


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


async def _view(request: web.Request, vnc: Path, viewers: set[web.WebSocketResponse]) -> web.StreamResponse:
    """Passes bytes between one viewer and the VNC server, until either ends."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(vnc))
    except OSError:
        return web.Response(status=503, text="The desktop does not run any more.\n")
    viewer = web.WebSocketResponse(
        protocols=("binary",), max_msg_size=_LONGEST_MESSAGE, heartbeat=_HEARTBEAT, compress=False
    )
    await viewer.prepare(request)
    viewers.add(viewer)
    downwards = asyncio.create_task(_to_viewer(reader, viewer))
    try:
        async for message in viewer:
            if message.type is not WSMsgType.BINARY:
                break
            writer.write(message.data)
            await writer.drain()
    except ConnectionError:
        pass  # the VNC server ended
    finally:
        viewers.discard(viewer)
        downwards.cancel()
        writer.close()
        await viewer.close()
    return viewer


async def _to_viewer(reader: asyncio.StreamReader, viewer: web.WebSocketResponse) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(_CHUNK):
            await viewer.send_bytes(data)
    await viewer.close()


async def serve(app: web.Application, host: str, port: int, command: Sequence[str]) -> int:
    """Serves `app` while `command` runs, and returns its status; SIGTERM ends both."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    session = await asyncio.create_subprocess_exec(*command, env=software.environment(os.environ))
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    ended, stopped = asyncio.create_task(session.wait()), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            session.terminate()
            await asyncio.wait((ended,), timeout=_PATIENCE)
    finally:
        stopped.cancel()
        await runner.cleanup()
    if not ended.done():
        session.kill()
    status = await ended
    return status if status >= 0 else 128 - status


def main() -> int:
    """`canfar-desktop-bridge SOCKET COMMAND...`: shows the desktop behind SOCKET while COMMAND runs."""
    if len(sys.argv) < 3:
        sys.exit("Usage: canfar-desktop-bridge SOCKET COMMAND...")
    secret = Path(os.environ["CANFAR_SECRET_FILE"]).read_text().strip()
    app = application(secret, Path(sys.argv[1]))
    host, port = os.environ["CANFAR_IP"], int(os.environ["CANFAR_PORT"])
    return asyncio.run(serve(app, host, port, sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
