"""Stands in for Firefly: a servlet container that serves below the base path that its image is told.

Like Tomcat, it makes absolute redirects of what a proxy says of itself, and answers nothing at its own root. It
ends at once when it is not told where to serve.
"""

import asyncio
import json
import os
import re
import sys

from aiohttp import WSMsgType, web

BASE = os.environ.get("baseURL", "")  # noqa: SIM112


async def page(request: web.Request) -> web.Response:
    """What it was told, and sent."""
    told = {name: os.environ.get(name) for name in ("baseURL", "DEBUG", "XDG_CACHE_HOME", "HOME")}
    return web.json_response({"path": request.path, "headers": dict(request.headers), "environment": told})


async def without_slash(request: web.Request) -> web.Response:
    """A redirect as a servlet container makes it: to scheme and host as the proxy tells them."""
    outside = f"{request.headers['X-Forwarded-Proto']}://{request.headers['X-Forwarded-Host']}"
    raise web.HTTPFound(f"{outside}{BASE}firefly/")


async def events(request: web.Request) -> web.WebSocketResponse:
    """The WebSocket over which a page and its server talk."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(json.dumps({"heard": message.data}))
    return socket


async def main() -> None:
    if not re.fullmatch(r"/session/firefly/[a-z0-9]{8}/", BASE):
        sys.exit(f"baseURL is {BASE!r}, under which no session of Firefly is served")
    app = web.Application()
    app.router.add_get(f"{BASE}firefly", without_slash)
    app.router.add_get(f"{BASE}firefly/", page)
    app.router.add_get(f"{BASE}firefly/sticky/firefly/events", events)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, os.environ["CANFAR_IP"], int(os.environ["CANFAR_PORT"])).start()
    await asyncio.Event().wait()


asyncio.run(main())
