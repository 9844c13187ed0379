"""A small web program as people contribute them: no authentication, and it knows no path."""

import errno
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.endswith("/environ"):
            body = json.dumps({"environ": dict(os.environ), "argv": sys.argv, "headers": dict(self.headers)})
        elif "/attempt?" in self.path:
            body = json.dumps(attempt(**{k: v[0] for k, v in parse_qs(urlsplit(self.path).query).items()}))
        elif self.path.endswith("/steal"):
            body = PAGE
        else:
            body = f"<h1>path {self.path}</h1>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


def attempt(path: str, text: str = "") -> dict[str, object]:
    """Writes `text` to a path, or reads or lists it, and says what came of it."""
    place = Path(path)
    try:
        if text:
            place.write_text(text)
            return {"written": text}
        names = sorted(found.name for found in place.iterdir()) if place.is_dir() else None
        return {"read": place.read_text(errors="replace") if names is None else names}
    except OSError as error:
        return {"error": errno.errorcode[error.errno or 0]}


# Tries what a hostile page would: read the page that makes tokens, as the visitor, on the hub's own origin.
PAGE = """<!doctype html><title>trying</title><script>
const hub = `http://localhost:${location.port}/hub/token`;
const attempts = [
  fetch(hub, {credentials: "include"}).then(r => r.text()),
  fetch("/hub/token", {credentials: "include"}).then(r => r.text()),
  fetch(`http://localhost:${location.port}/hub/api/user`, {credentials: "include"}).then(r => r.text()),
  new Promise((resolve, reject) => {
    const frame = document.createElement("iframe");
    frame.src = hub;
    frame.onload = () => { try { resolve(frame.contentDocument.body.innerHTML) } catch (e) { reject(e) } };
    frame.onerror = reject;
    document.documentElement.append(frame);
  }),
];
Promise.allSettled(attempts).then(results => {
  window.got = results.map(r => r.status === "fulfilled" ? String(r.value) : "");
  document.title = "tried";
});
</script>"""

ThreadingHTTPServer((os.environ["CANFAR_IP"], int(os.environ["CANFAR_PORT"])), Handler).serve_forever()
