"""A container registry: the distribution API over HTTP, with tokens for everybody and redirects."""

import hashlib
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass
class Registry:
    """One repository's images, and how it answers."""

    port: int = 0
    blobs: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Paths, each with its Authorization header."""
    open_to_all: bool = True
    realm: str = ""
    elsewhere: str = ""
    """Where blobs are, if not here."""
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def put(self, content: Any) -> dict[str, Any]:
        """Stores an object as JSON, and gives its descriptor."""
        text = json.dumps(content).encode()
        self.blobs[digest_of(text)] = text
        return {"digest": digest_of(text), "size": len(text)}

    def image(self, labels: Any, tag: str = "", architecture: str = "amd64") -> dict[str, Any]:
        """Stores an image with those labels, and gives its manifest's descriptor."""
        config = {"os": "linux", "architecture": architecture, "config": {"Labels": labels}}
        descriptor = {"mediaType": "application/vnd.oci.image.config.v1+json", **self.put(config)}
        made = self.put({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor, "layers": []})
        if tag:
            self.tags[tag] = made["digest"]
        platform = {"os": "linux", "architecture": architecture}
        return {"mediaType": MANIFEST, **made, "platform": platform}

    def index(self, tag: str, *manifests: dict[str, Any]) -> str:
        """Stores an image of several platforms, and gives its digest."""
        made = self.put({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
        self.tags[tag] = made["digest"]
        return str(made["digest"])


class _Handler(BaseHTTPRequestHandler):
    registry: Registry

    def do_GET(self) -> None:
        registry, url = self.registry, urlsplit(self.path)
        authorization = self.headers.get("Authorization", "")
        registry.asked.append((self.path, authorization))
        if url.path == "/token":
            scope = parse_qs(url.query).get("scope", [""])[0]
            usable = registry.open_to_all and scope == "repository:team/tool:pull"
            return self._say(200, json.dumps({"token": registry.token if usable else "of-nobody"}).encode())
        if url.path.startswith("/storage/"):
            return self._blob(url.path.removeprefix("/storage/"))
        if authorization != f"Bearer {registry.token}":
            realm = registry.realm or f"http://{registry.host}/token"
            challenge = f'Bearer realm="{realm}",service="test",scope="repository:team/tool:pull"'
            return self._say(401, b"{}", ("WWW-Authenticate", challenge))
        what, _, name = url.path.removeprefix("/v2/team/tool/").partition("/")
        if what == "blobs" and registry.elsewhere:
            return self._say(307, b"", ("Location", f"{registry.elsewhere}/storage/{name}"))
        return self._blob(registry.tags.get(name, name) if what in ("manifests", "blobs") else "")

    def _blob(self, name: str) -> None:
        found = self.registry.blobs.get(name)
        self._say(404, b"{}") if found is None else self._say(200, found)

    def _say(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def registry_running() -> Iterator[Registry]:
    """A registry with the repository `team/tool`, until the block ends."""
    registry = Registry()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"registry": registry}))
    registry.port = server.server_address[1]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
