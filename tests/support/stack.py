"""The whole embedded hub as a newcomer runs it: hub, gateway, identity provider and real sessions."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from ssl import SSLContext
from typing import Any, Protocol
from urllib.parse import urljoin

import httpx
import psutil

from tests.support.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 90.0  # seconds; how long a condition may take to come true on a busy machine


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Waits for `condition` to give something true, and returns it."""
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {patience:.0f} s"
        time.sleep(0.05)
    return found


class LocalTransport(httpx.HTTPTransport):
    """Connects to this machine whatever the host: glibc does not resolve `*.localhost`, browsers do."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        here = request.url.copy_with(host="127.0.0.1")
        sent = httpx.Request(
            request.method, here, headers=request.headers, stream=request.stream, extensions=request.extensions
        )
        answer = super().handle_request(sent)
        # Browsers take a cookie for the domain `localhost` as the host's own; Python's jar would lose it.
        answer.headers = httpx.Headers(
            [
                (k, v.replace("; Domain=localhost", "") if k.lower() == "set-cookie" else v)
                for k, v in answer.headers.multi_items()
            ]
        )
        return answer


class Place(Protocol):
    """Where people sign in: the embedded hub, or an installed one."""

    url: str
    address: tuple[str, int]
    """What is connected to, whatever the host."""
    tls: SSLContext | None

    def client(self, **settings: Any) -> httpx.Client:
        """A browser-like client that reaches every host of the place."""

    def host_of(self, user: str) -> str:
        """The host of a user's sessions, with the port if it is not the scheme's own."""


class Person:
    """One signed-in person: a browser's cookies, and an API token."""

    def __init__(self, stack: Place, name: str) -> None:
        self.name = name
        self.stack = stack
        self.browser = stack.client()
        self.arrived = self._sign_in()
        self.token = ""
        if self.arrived.status_code == 200:
            self.token = self._own_token()

    def _sign_in(self) -> httpx.Response:
        page = self.browser.get(f"{self.stack.url}/hub/oauth_login?next=%2Fhub%2Fspawn")
        action = re.search(r"<form[^>]*>", page.text)
        assert action, page.text[:500]
        target = re.search(r'action="([^"]*)"', action[0])
        fields = dict(re.findall(r'type="hidden"\s+name="([^"]+)"\s+value="([^"]*)"', page.text))
        fields |= {"username": self.name, "password": self.name}
        url = urljoin(str(page.url), target[1].replace("&amp;", "&")) if target and target[1] else str(page.url)
        return self.browser.post(url, data=fields)

    def _own_token(self) -> str:
        made = self.browser.post(
            f"{self.stack.url}/hub/api/users/{self.name}/tokens",
            json={"note": "test"},
            headers={"X-XSRFToken": self.xsrf()},
        )
        assert made.status_code == 201, made.text
        token: str = made.json()["token"]
        return token

    def xsrf(self) -> str:
        """The token against forged requests, as the hub's pages carry it."""
        page = self.browser.get(f"{self.stack.url}/hub/home").text
        found = re.search(r'xsrf_token: "([^"]+)"', page)
        assert found, page
        return found[1]

    def api(self, method: str, path: str, body: object = None) -> httpx.Response:
        """A call of the hub's API with this person's token."""
        with self.stack.client() as client:
            return client.request(
                method,
                f"{self.stack.url}/hub/api{path}",
                json=body,
                headers={"Authorization": f"token {self.token}"},
            )

    def start(self, server: str, options: object) -> httpx.Response:
        """Asks for a session under the server name `server`."""
        return self.api("POST", f"/users/{self.name}/servers/{server}", {"user_options": options})

    def server(self, server: str) -> dict[str, Any]:
        """The hub's model of one session; empty if there is none."""
        answer = self.api("GET", f"/users/{self.name}/servers/{server}")
        return dict(answer.json()) if answer.status_code == 200 else {}

    def ready(self, server: str) -> dict[str, Any]:
        """Waits until the session is ready."""
        found: dict[str, Any] = until(
            lambda: (model := self.server(server)) and model["ready"] and model, f"{server} ready"
        )
        return found

    def begin(self, server: str, options: object) -> dict[str, Any]:
        """Starts a session and waits until it is ready."""
        started = self.start(server, options)
        assert started.status_code in {201, 202}, started.text
        return self.ready(server)

    def stop(self, server: str) -> None:
        """Stops a session and waits until it is gone from the hub."""
        self.api("DELETE", f"/users/{self.name}/servers/{server}", {"remove": True})
        until(lambda: not self.server(server), f"{server} gone")

    def stop_all(self) -> None:
        """Stops every session of this person."""
        for server in self.api("GET", f"/users/{self.name}").json().get("servers", {}):
            if server:
                self.stop(server)


class Stack:
    """A running `canfar-hub demo`."""

    def __init__(self, data: Path, port: int, process: "subprocess.Popen[str]") -> None:
        self.data = data
        self.port = port
        self.process = process
        self.url = f"http://localhost:{port}"
        self.address = ("127.0.0.1", port)  # glibc does not resolve `*.localhost`
        self.tls: SSLContext | None = None

    def host_of(self, user: str) -> str:
        """The host of a user's sessions."""
        return f"{user}.localhost:{self.port}"

    def client(self, **settings: Any) -> httpx.Client:
        """A browser-like client that reaches every host of the stack."""
        settings = {"follow_redirects": True, "timeout": 60, "headers": {"Accept": "text/html"}} | settings
        return httpx.Client(transport=LocalTransport(), **settings)

    def sign_in(self, name: str) -> Person:
        """Signs somebody in at the provider."""
        return Person(self, name)

    def program(self, name: str) -> int:
        """The process id of the hub (`jupyterhub`), the gateway or the provider, by its module's name."""
        listed = subprocess.run(
            ["ps", "-o", "pid=,args=", "--ppid", str(self.process.pid)], capture_output=True, text=True
        ).stdout
        return next(int(line.split()[0]) for line in listed.splitlines() if name in line)

    def is_up(self) -> bool:
        """Whether the sign-in page answers, and the gateway knows its sessions."""
        pages = (f"{self.url}/hub/login", f"{self.url}/_canfar_ready")
        try:
            with self.client() as client:
                return all(client.get(page).status_code == 200 for page in pages)
        except httpx.HTTPError:
            return False

    def restart_hub(self, with_signal: int = signal.SIGTERM) -> None:
        """Ends the hub alone; what runs it starts it again."""
        old = self.program("jupyterhub")
        steady = 11  # seconds; what ends sooner is not started again
        until(lambda: time.time() - psutil.Process(old).create_time() > steady, "a steady hub")
        os.kill(old, with_signal)
        until(lambda: self._new_hub(old), "a new hub")
        until(self.is_up, "the hub up again")

    def _new_hub(self, old: int) -> bool:
        try:
            return self.program("jupyterhub") != old
        except StopIteration:
            return False


def demo_port() -> int:
    """A port for the embedded hub, which uses the five after it, too."""
    return free_ports(6)


def demo_command(port: int, data: Path, *more: str) -> list[str]:
    """The command line of the embedded hub."""
    return [sys.executable, "-m", "canfar_hub", "demo", "--port", str(port), "--data", str(data), *more]


def write_catalogue(folder: Path, root: Path = ROOT) -> Path:
    """Writes the tests' catalogue, with this machine's paths and the project's `root`; returns its folder."""
    catalogue = folder / "catalogue"
    catalogue.mkdir()
    text = (ROOT / "tests/support/catalogue.yaml").read_text()
    text = text.replace("PYTHON", sys.executable).replace("SUPPORT", str(root / "tests/support"))
    (catalogue / "tests.yaml").write_text(text)
    shutil.copy(ROOT / "demo/catalogue/contributed.yaml", catalogue / "marimo.yaml")
    return catalogue


@contextmanager
def running(data: Path, *more: str, root: Path = ROOT) -> Iterator[Stack]:
    """Runs the embedded hub of the project at `root` until the block ends, and checks that it ends well."""
    port = demo_port()
    environment = {**os.environ, "HOME": str(data.parent)}
    process = subprocess.Popen(
        demo_command(port, data, *more),
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    stack = Stack(data, port, process)
    try:
        until(lambda: process.poll() is not None or stack.is_up(), "the hub up")
        assert process.poll() is None, process.stdout and process.stdout.read()
        yield stack
    finally:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
