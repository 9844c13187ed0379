"""A stand-in for CARTA's program, where there is none: the same command line, HTTP, token rules and limits.

Run as `python -m tests.support.carta_backend`. All is as observed on a running one, also where that is odd.
What it says on its WebSocket is in `carta_session`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import secrets
import signal
import sys
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from websockets.frames import Opcode
from websockets.server import ServerProtocol

from tests.support.carta_session import Session

FRONTEND = "CARTA_FRONTEND_FOLDER"
"""The variable that names the front end's files, which the real program finds beside itself."""
MOST_HEADERS, MOST_BYTES_IN_PIECES = 48, 4096
_PREFIX = re.compile(r"[0-9A-Za-z+/@_-]*")
_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".wasm": "application/wasm",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".png": "image/png",
    ".woff2": "font/woff2",
}
_PIECE = 65536


class Request:
    """One head of a request."""

    def __init__(self, head: bytes) -> None:
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        self.head = head
        self.method, target, self.version = first.split(" ")
        self.url = urlsplit(target)
        self.path = unquote(self.url.path)
        pairs = (line.partition(":") for line in lines)
        self.headers = [(name.lower(), value.strip()) for name, _, value in pairs]

    def header(self, name: str) -> str:
        """The first header of that name; the others do not count."""
        return next((value for key, value in self.headers if key == name), "")


class Backend:
    """What the command line says, and the answers."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.prefix = _prefix(options.http_url_prefix)
        self.token = _token(options)
        self.home = Path(os.environ["HOME"]) / ".carta"
        for folder in ("log", "config"):
            (self.home / folder).mkdir(parents=True, exist_ok=True)
        if not options.no_log:
            (self.home / "log/carta.log").write_text("started\n")
        self.frontend = Path(options.frontend_folder or os.environ[FRONTEND])
        self.top = Path(options.top_level_folder)
        self.start = Path(options.folder)

    # Who may

    def admits(self, request: Request) -> bool:
        """Whether any one of the four ways shows the token; an empty token admits everybody."""
        cookies = dict(part.strip().partition("=")[::2] for part in request.header("cookie").split(";"))
        shown = (
            *parse_qs(request.url.query).get("token", ()),
            request.header("authorization").removeprefix("Bearer "),
            request.header("carta-auth-token"),
            cookies.get("carta-auth-token", ""),
        )
        return not self.token or self.token in shown

    # HTTP

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the requests of one connection."""
        try:
            rest = b""
            while (found := await self._head(reader, writer, rest)) is not None:
                request, rest = found
                if request.header("upgrade").lower() == "websocket":
                    return await self._websocket(request, reader, writer)
                length = int(request.header("content-length") or 0)
                while len(rest) < length:
                    rest += await reader.read(_PIECE)
                body, rest = rest[:length], rest[length:]
                await self._answer(request, body, writer)
                if request.header("connection").lower() == "close":
                    return
        except (ConnectionError, ValueError):
            pass
        finally:
            writer.close()

    async def _head(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, received: bytes
    ) -> tuple[Request, bytes] | None:
        """The next request and what came after its head; None where there is none to be answered."""
        pieces = 0
        while b"\r\n\r\n" not in received:
            piece = await reader.read(_PIECE)
            received, pieces = received + piece, pieces + 1
            if not piece:
                return None
            if pieces > 1 and len(received.partition(b"\r\n\r\n")[0]) > MOST_BYTES_IN_PIECES:
                await self._send(writer, 431)
                return None
        head, _, rest = received.partition(b"\r\n\r\n")
        request = Request(head + b"\r\n\r\n")
        if request.version != "HTTP/1.1":
            await self._send(writer, 505)
            return None
        if len(request.headers) > MOST_HEADERS:
            await reader.read()  # never answered
            return None
        return request, rest

    async def _answer(self, request: Request, body: bytes, writer: asyncio.StreamWriter) -> None:
        path = request.path.removeprefix(self.prefix)
        if not request.path.startswith(f"{self.prefix}/"):
            await self._send(writer, 404)
        elif path.startswith("/api/"):
            allowed = self.admits(request)
            status, answer = self._api(request.method, path[5:], body) if allowed else (403, {})
            await self._send(writer, status, json.dumps(answer).encode(), ".json")
        elif request.method != "GET":
            await self._send(writer, 404)
        elif path == "/config":
            answer = {"apiAddress": f"{self.prefix}/api"}
            await self._send(writer, 200, json.dumps(answer).encode(), ".json")
        else:
            file = (self.frontend / (path[1:] or "index.html")).resolve()
            inside = file.is_relative_to(self.frontend.resolve()) and file.is_file()
            await self._send(writer, 200 if inside else 404, file.read_bytes() if inside else b"", file.suffix)

    def _api(self, method: str, name: str, body: bytes) -> tuple[int, dict[str, object]]:
        if name == "scripting/action":
            return (200 if self.options.enable_scripting else 501), {}
        if name == "database/preferences":
            file = self.home / "config/preferences.json"
            kept = json.loads(file.read_text()) if file.exists() else {"version": 2}
            if method == "PUT":
                file.write_text(json.dumps(kept | json.loads(body)))
            return 200, {"success": True, "preferences": kept}
        lists = ("layouts", "snippets", "workspaces")
        if method == "GET" and name in [f"database/list/{one}" for one in lists] + [
            f"database/{one}" for one in lists
        ]:
            return 200, {"success": True, name.rpartition("/")[2]: {}}
        return 404, {}

    async def _send(
        self, writer: asyncio.StreamWriter, status: int, body: bytes = b"", suffix: str = ".html"
    ) -> None:
        """An answer in chunks, without a length and without a word on caching."""
        kind = _TYPES.get(suffix, "application/octet-stream")
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {kind}\r\n"
        writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        for place in range(0, len(body), _PIECE):
            piece = body[place : place + _PIECE]
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    # WebSockets, of any path

    async def _websocket(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if not self.admits(request):
            return  # closed without any answer
        protocol = ServerProtocol(max_size=None)
        protocol.receive_data(request.head)
        (asked,) = protocol.events_received()
        protocol.send_response(protocol.accept(asked))
        session = Session(self.top, self.start)
        writer.write(b"".join(protocol.data_to_send()))
        while data := await reader.read(_PIECE):
            protocol.receive_data(data)
            for frame in protocol.events_received():
                if frame.opcode is Opcode.TEXT and frame.data == b"PING":
                    protocol.send_text(b"PONG")
                elif frame.opcode is Opcode.BINARY:
                    for answer in session.answers(bytes(frame.data)):
                        protocol.send_binary(answer)
            writer.write(b"".join(protocol.data_to_send()))
            await writer.drain()
            if protocol.close_expected():
                return


def _prefix(text: str) -> str:
    if not _PREFIX.fullmatch(text):
        print(f"[warning] the prefix {text} is ignored", flush=True)
        return ""
    return "/" + text.strip("/") if text.strip("/") else ""


def _token(options: argparse.Namespace) -> str:
    if options.debug_no_auth:
        return ""
    given = os.environ.get("CARTA_AUTH_TOKEN")
    if given is None:
        given = secrets.token_hex(16)
        print(f"The token is {given}", flush=True)
    return given


def parser() -> argparse.ArgumentParser:
    """The command line, as far as it is used."""
    found = argparse.ArgumentParser(prog="carta")
    for flag in ("no_browser", "enable_scripting", "debug_no_auth", "no_log", "read_only_mode"):
        found.add_argument(f"--{flag}", action="store_true")
    found.add_argument("--host", default="0.0.0.0")
    for name in ("port", "omp_threads", "idle_timeout", "initial_timeout", "exit_timeout"):
        found.add_argument(f"--{name}", type=int, default=3002 if name == "port" else None)
    found.add_argument("--http_url_prefix", default="")
    found.add_argument("--frontend_folder", default="")
    found.add_argument("--top_level_folder", default="/")
    found.add_argument("folder", nargs="?", default=".")
    return found


async def main() -> int:
    """Serves until it is told to end."""
    options = parser().parse_args()
    if "HOME" not in os.environ:
        print("Segmentation fault", file=sys.stderr)
        return 139
    try:
        server = await asyncio.start_server(Backend(options).serve, options.host, options.port)
    except OSError as error:
        print(f"The port {options.port} cannot be used: {error}", file=sys.stderr)
        return 1
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)  # SIGTERM ends it at once
    print(f"CARTA is at http://{options.host}:{options.port}{_prefix(options.http_url_prefix)}/", flush=True)
    await stop.wait()
    server.close()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
