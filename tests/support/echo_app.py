"""A program as sessions run them: no authentication, tells what it was sent, and keeps a log of it.

Runs inside a test, or as a process: `python echo_app.py PORT`.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web


@dataclass
class Echo:
    """Answers by the last segment of the path; everything else gets its own request back as JSON."""

    log: list[dict[str, Any]] = field(default_factory=list)
    closes: list[int | None] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    answers: dict[str, web.Response] = field(default_factory=dict)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        seen = {
            "method": request.method,
            "path": request.raw_path,
            "headers": [[name, value] for name, value in request.headers.items()],
        }
        self.log.append(seen)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._websocket(request, seen)
        name = request.path.rstrip("/").rpartition("/")[2]
        special = getattr(self, f"do_{name}", None)
        if special is not None:
            return await special(request)
        if name in self.answers:
            return self.answers[name]
        return web.json_response(seen)

    async def _websocket(self, request: web.BaseRequest, seen: dict[str, Any]) -> web.StreamResponse:
        if request.path.endswith("/refuse"):
            return web.Response(status=418)
        socket = web.WebSocketResponse(protocols=("second", "kernel"), max_msg_size=0)
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
            elif message.data == "request":
                await socket.send_json(seen)
            elif message.data.startswith("close "):
                await socket.close(code=int(message.data[6:]), message=b"as told")
            elif message.data == "abort":
                request.transport.abort()
            else:
                await socket.send_str(message.data)
        self.closes.append(socket.close_code)
        return socket

    async def do_upload(self, request: web.BaseRequest) -> web.StreamResponse:
        total, digest = 0, hashlib.sha256()
        try:
            async for piece in request.content.iter_any():
                total += len(piece)
                digest.update(piece)
        except Exception:
            self.uploads.append("broken")
            raise
        self.uploads.append("whole")
        return web.json_response({"bytes": total, "sha256": digest.hexdigest()})

    async def do_stream(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: first\n\n")
        await self.gate.wait()
        await response.write(b"data: second\n\n")
        return response

    async def do_endless(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65536)
                await asyncio.sleep(0)
        finally:
            self.gate.set()

    async def do_broken(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={} if "chunked" in request.path else {"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"not all of it")
        request.transport.abort()
        return response

    async def do_switch(self, request: web.BaseRequest) -> web.StreamResponse:
        request.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n"
        )
        return web.Response()


async def main(port: int) -> None:
    echo = Echo()
    runner = web.ServerRunner(web.Server(echo.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
