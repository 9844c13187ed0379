"""A real HTTP server on a thread of its own, for fakes of services, with faults at the test's command."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Received:
    """One request as it arrived."""

    path: str
    query: list[tuple[str, str]]
    headers: Mapping[str, str]
    """Names in lower case."""
    certificate: Mapping[str, Any] = field(default_factory=dict)
    method: str = "GET"

    @property
    def token(self) -> str:
        """The bearer token; empty if none was sent."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token if scheme.lower() == "bearer" else ""

    def all(self, name: str) -> list[str]:
        """Every value of a query argument."""
        return [value for key, value in self.query if key == name]


@dataclass(frozen=True)
class Reply:
    """What the server says."""

    status: int = 200
    body: str = ""
    content_type: str = "text/plain"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Delay:
    """Says nothing until the server stops or the fault is taken back, at most ``seconds``."""

    seconds: float = 60


@dataclass(frozen=True)
class Status:
    """Answers with a status and nothing else."""

    code: int = 500


@dataclass(frozen=True)
class Garbage:
    """Answers with 200 and what nobody asked for."""

    body: bytes = b"<html><body>Welcome to the maintenance page \xff\xfe</body></html>"


@dataclass(frozen=True)
class Truncated:
    """Promises the whole answer and ends in the middle of it."""


@dataclass(frozen=True)
class SlowDrip:
    """Sends the headers, and then one byte of the body every now and then."""

    pause: float = 0.05


@dataclass(frozen=True)
class Redirect:
    """Sends the client elsewhere."""

    url: str
    status: int = 302


Fault = Delay | Status | Garbage | Truncated | SlowDrip | Redirect


class FaultyServer:
    """Serves ``answer`` at ``url``, or ``fault`` where a test has set one; keeps what was asked."""

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Received] = []
        self.fault: Fault | None = None
        self._stopped = threading.Event()
        server = self

        class Handler(_Handler):
            owner = server

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._thread: threading.Thread | None = None

    def answer(self, request: Received) -> Reply:
        """What the fake says when nothing is wrong."""
        return Reply(404)

    @property
    def host(self) -> str:
        """`host:port`, as lists of trusted hosts name it."""
        return f"127.0.0.1:{self.port}"

    @property
    def tokens(self) -> list[str]:
        """Every token that anybody has sent here."""
        return [request.token for request in self.requests if request.token]

    def start(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stopped.set()
        if self._thread:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait(self, seconds: float, while_: Callable[[], bool]) -> None:
        """Returns when the server stops, `while_` is false, or the time is over."""
        end = time.monotonic() + seconds
        while not self._stopped.wait(0.01) and while_() and time.monotonic() < end:
            pass


class _Handler(BaseHTTPRequestHandler):
    owner: FaultyServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        peer = getattr(self.connection, "getpeercert", lambda: None)() or {}
        request = Received(
            parts.path,
            parse_qsl(parts.query, keep_blank_values=True),
            {name.lower(): value for name, value in self.headers.items()},
            peer,
            self.command,
        )
        self.owner.requests.append(request)
        with contextlib.suppress(OSError):
            self._respond(request, self.owner.fault)

    do_PUT = do_GET

    def _respond(self, request: Received, fault: Fault | None) -> None:
        if isinstance(fault, Delay):
            self.owner.wait(fault.seconds, lambda: self.owner.fault is fault)
        if isinstance(fault, Status):
            return self._send(Reply(fault.code), b"")
        if isinstance(fault, Redirect):
            return self._send(Reply(fault.status, headers={"Location": fault.url}), b"")
        if isinstance(fault, Garbage):
            return self._send(Reply(content_type="text/html"), fault.body)
        reply = self.owner.answer(request)
        body = reply.body.encode()
        if isinstance(fault, Truncated):
            return self._send(reply, body[: len(body) // 2], length=len(body) + 1)
        if isinstance(fault, SlowDrip):
            return self._drip(reply, body or b" ", fault)
        return self._send(reply, body)

    def _send(self, reply: Reply, body: bytes, length: int | None = None) -> None:
        self._head(reply, len(body) if length is None else length)
        self.wfile.write(body)
        self.close_connection = length is not None

    def _drip(self, reply: Reply, body: bytes, fault: SlowDrip) -> None:
        self._head(reply, len(body) + 1000)
        for byte in body + b" " * 1000:
            if self.owner.fault is not fault:
                break
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            self.owner.wait(fault.pause, lambda: self.owner.fault is fault)
        self.close_connection = True

    def _head(self, reply: Reply, length: int) -> None:
        self.send_response(reply.status)
        for name, value in {"Content-Type": reply.content_type, **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Tests look at `requests`."""
