"""The hub's API for a desktop's software, over HTTP, with what a test puts on offer."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def an_app(profile: str, title: str, **more: Any) -> dict[str, Any]:
    """One application as the API lists it: one image, and no choice of cores or memory."""
    return {
        "profile": profile,
        "title": title,
        "description": f"{title} for tests.",
        "category": "Images",
        "icon": "",
        "images": [f"example.org/{profile}:1"],
        "cores": [{"value": 1, "refusal": ""}],
        "memory": [{"value": 2, "refusal": ""}],
        "refusal": "",
        **more,
    }


class AppsApi:
    """What is on offer, what was asked for, and how the API answers."""

    def __init__(self) -> None:
        self.apps: list[dict[str, Any]] = []
        self.started: list[dict[str, Any]] = []
        self.tokens: list[str] = []
        self.refusal = ""
        """With a sentence, nothing is started."""
        self.status = 200
        """Another one, and nothing is listed."""
        self.url = ""

    def answer(self, method: str, body: Any) -> tuple[int, Any]:
        if self.status != 200:
            return self.status, {"message": "Out of order."}
        if method == "GET":
            return 200, {"apps": self.apps, "running": []}
        if self.refusal:
            return 403, {"message": self.refusal}
        self.started.append(body)
        return 201, {"id": f"a{len(self.started):07}"}


@contextmanager
def apps_api() -> Iterator[AppsApi]:
    """Serves the API until the block ends."""
    api = AppsApi()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: Any) -> None:
            api.tokens.append(self.headers.get("Authorization", ""))
            status, answer = api.answer(self.command, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            if status in (301, 302, 307):
                self.send_header("Location", f"{api.url}elsewhere")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api.url = f"http://127.0.0.1:{server.server_address[1]}/hub/api/canfar/apps"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
