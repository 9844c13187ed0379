"""From the gateway's command to the first answer of a session whose route is in its file, and its end."""

import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.ports import free_port
from tests.support.stack import ROOT

RUNS = 10
SESSIONS = 500
LIMIT = 1.0  # seconds
END_LIMIT = 2.0  # seconds, with a visitor who does not go


class _Inside(BaseHTTPRequestHandler):
    """The hub, which knows one token, and the program of every session, one of whose answers never ends."""

    def do_GET(self) -> None:
        answer = {"name": "ada", "groups": [], "scopes": ["access:servers"]} if "/hub/api" in self.path else {}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) + self.path.endswith("/endless")))
        self.end_headers()
        self.wfile.write(body)
        if self.path.endswith("/endless"):
            self.rfile.read()

    def log_message(self, *_: Any) -> None:
        pass


def measure() -> dict[str, Any]:
    """Seconds over several starts with a table of many sessions."""
    with tempfile.TemporaryDirectory() as folder, _inside() as inside:
        file = Path(folder) / "routes.json"
        file.write_text(json.dumps(_table(inside)))
        runs = [_run(file, inside) for _ in range(RUNS)]
    starts, ends = zip(*runs, strict=True)
    return {
        "what": f"seconds from the gateway's command to a session's answer, of {SESSIONS} in its file",
        "seconds": [round(t, 2) for t in starts],
        "median": round(statistics.median(starts), 2),
        "limit": LIMIT,
        "seconds from SIGTERM to the end": [round(t, 2) for t in ends],
        "limit of the end": END_LIMIT,
        "within the limit": max(starts) < LIMIT and max(ends) < END_LIMIT,
    }


@contextmanager
def _inside() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", free_port()), _Inside)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def _table(inside: str) -> dict[str, Any]:
    table: dict[str, Any] = {"/": {"data": {"target": inside, "hub": True}}}
    for number in range(SESSIONS):
        name = f"sess{number:04}"
        data = {"target": inside, "user": "ada", "server_name": name, "kind": "notebook", "id": name}
        data |= {"prefix": f"/session/notebook/{name}", "headers": {"Authorization": f"token {'0' * 64}"}}
        table[f"/user/ada/{name}"] = {"data": data}
    return table


def _run(file: Path, inside: str) -> tuple[float, float]:
    port = free_port()
    command = [sys.executable, "-m", "canfar_gateway", "--port", str(port), "--api-port", str(free_port())]
    command += ["--hub-api-url", f"{inside}/hub/api", "--state-file", str(file), "--log-level", "error"]
    secrets = {"CONFIGPROXY_AUTH_TOKEN": "routes", "CANFAR_GATEWAY_TOKEN": "service"}
    before = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **secrets})
    while not _answers(port):
        assert process.poll() is None, "the gateway ended"
        assert time.monotonic() - before < 60, "the gateway did not answer within a minute"
        time.sleep(0.005)
    started = time.monotonic() - before
    visitor = _ask(port, "endless")
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    ended = time.monotonic() - asked
    visitor.close()
    return started, ended


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    _ask(port, "x").close()
    return True


def _ask(port: int, page: str) -> http.client.HTTPConnection:
    """A connection on which a session has answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"Authorization": "token any", "Host": f"localhost:{port}"}
    connection.request("GET", f"/session/notebook/sess{SESSIONS - 1:04}/{page}", headers=headers)
    answer = connection.getresponse()
    assert answer.status == 200, answer.status
    return connection
