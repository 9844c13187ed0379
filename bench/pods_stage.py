"""What the benchmark of pods runs beside itself: a cluster, the programs of its pods, and hubs."""

import asyncio
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from bench.pods_hub import ISSUER, NAMESPACE, PORT
from tests.support.ports import free_port, free_ports
from tests.support.stack import ROOT

POD_SECONDS = 2.0  # from a pod's creation to its running
# Connections to a hub. What comes by all of them in one moment is one stop of its loop, whatever the spawner.
_AT_ONCE = int(os.environ.get("PODS_CONNECTIONS", "100"))
_PATIENCE = 60.0  # seconds for what takes one or two


async def until(
    condition: Callable[[], Awaitable[Any]], what: str, patience: float, pause: float = 0.05
) -> Any:
    """Waits for `condition` to give something true, and returns it. Raises TimeoutError."""
    deadline = time.monotonic() + patience
    while not (found := await condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {patience:.0f} s")
        await asyncio.sleep(pause)
    return found


@contextmanager
def process(arguments: list[str], log: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python module that runs until the block ends, whose output goes to `log`."""
    with log.open("ab") as output:
        command = [sys.executable, "-m", *arguments]
        environment = {**os.environ, **variables}
        started = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


class Cluster:
    """A Kubernetes API in which pods run `POD_SECONDS` after they were made."""

    def __init__(self, url: str, kubeconfig: Path, http: aiohttp.ClientSession) -> None:
        self.url, self.kubeconfig, self._http = url, kubeconfig, http

    async def counts(self) -> Counter[str]:
        """How many requests there were, as in `create pods`; watches, which go on for ever, apart."""
        found = Counter(await _json(self._http, f"{self.url}/-/counts"))
        return Counter({what: count for what, count in found.items() if not what.startswith("watch ")})

    async def last_running(self) -> float:
        """When the last pod that runs began to, in seconds of `time.time`."""
        times = await _json(self._http, f"{self.url}/-/times")
        return float(max(running for _, running in times.values()))

    async def flood(self, events: int) -> None:
        """Emits events about a pod that is nobody's."""
        query = {"count": str(events), "namespace": NAMESPACE}
        async with self._http.post(f"{self.url}/-/flood", params=query) as answer:
            answer.raise_for_status()

    async def is_up(self) -> bool:
        return await _answers(self._http, f"{self.url}/healthz")


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    """A cluster of its own, whose objects are as large as real ones."""
    port = free_port()
    kubeconfig = folder / f"kubeconfig-{port}"
    arguments = [
        "tests.support.kubernetes_api",
        *("--port", str(port), "--namespace", NAMESPACE, "--pod-seconds", str(POD_SECONDS)),
        *("--own-addresses", "--padding", "--homes", "--kubeconfig", str(kubeconfig)),
    ]
    async with _session() as http:
        with process(arguments, folder / f"cluster-{port}.log"):
            made = Cluster(f"http://127.0.0.1:{port}", kubeconfig, http)
            await until(made.is_up, "the cluster", _PATIENCE)
            await until(lambda: asyncio.to_thread(kubeconfig.exists), "its kubeconfig", _PATIENCE)
            yield made


@contextmanager
def programs() -> Iterator[None]:
    """One program that answers at once, at the address of every pod: all of 127.0.0.0/8 is this machine.

    It is the identity provider, too, as far as that is asked for anything.
    """
    with socket.create_server(("0.0.0.0", PORT), backlog=1024) as listening:
        running = multiprocessing.Process(target=_serve, args=(listening,), daemon=True)
        running.start()
    try:
        yield
    finally:
        running.kill()
        running.join()


def _serve(listening: socket.socket) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def provider(_: web.Request) -> web.Response:
        names = ("authorization", "token", "userinfo")
        return web.json_response(
            {"issuer": ISSUER, **{f"{name}_endpoint": f"{ISSUER}/{name}" for name in names}}
        )

    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", provider)
    app.router.add_route("*", "/{path:.*}", answer)
    web.run_app(app, sock=listening, print=None, access_log=None)


class Hub:
    """A hub whose spawner is of one kind, and the people who use it."""

    def __init__(self, kind: str, url: str, tokens: dict[str, str], http: aiohttp.ClientSession) -> None:
        self.kind, self.url, self._tokens, self._http = kind, url, tokens, http

    @property
    def people(self) -> list[str]:
        """The names of its users."""
        return list(self._tokens)

    async def told(self, what: str) -> dict[str, Any]:
        """What the hub tells of itself; see `pods_hub`."""
        found: dict[str, Any] = await _json(self._http, f"{self.url}/bench/{what}")
        return found

    async def is_up(self) -> bool:
        """Whether the API answers."""
        return await _answers(self._http, f"{self.url}/api/")

    async def is_settled(self) -> bool:
        """Whether no session starts or stops."""
        return not (await self.told("state"))["pending"]

    async def start(self, name: str) -> int:
        """Asks for a session, and gives the status of the answer; 0 if there was none."""
        body = {"user_options": {"profile": "open"}} if self.kind == "ours" else {}
        try:
            async with self._http.post(self._server(name), json=body, headers=self._as(name)) as answer:
                return answer.status
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0

    async def ready(self, name: str) -> float:
        """Waits for the word on the progress page that a session is ready, and gives its `time.time`."""
        async with self._http.get(f"{self._server(name)}/progress", headers=self._as(name)) as answer:
            async for line in answer.content:
                event = json.loads(line[5:]) if line.startswith(b"data:") else {}
                if event.get("ready"):
                    return time.time()
                if event.get("failed"):
                    raise RuntimeError(f"{self.kind}: {event}")
        raise RuntimeError(f"{self.kind}: no word of the session")

    async def stop(self, name: str) -> None:
        """Stops a session, and returns when nothing is left of it in the hub."""
        async with self._http.delete(self._server(name), headers=self._as(name)) as answer:
            answer.raise_for_status()
        await until(self.is_settled, "the session's end", _PATIENCE)

    def _server(self, name: str) -> str:
        return f"{self.url}/api/users/{name}/servers/{self.kind}"

    def _as(self, name: str) -> dict[str, str]:
        return {"Authorization": f"token {self._tokens[name]}"}


class Place:
    """A folder with people in it, from which hubs are started."""

    def __init__(self, folder: Path, people: int) -> None:
        self._folder = folder
        arguments = ["bench.pods_hub", "people", str(folder), str(free_ports(2)), "--people", str(people)]
        with process(arguments, folder / "people.log") as making:
            making.wait(_PATIENCE)
        if making.returncode:
            raise RuntimeError((folder / "people.log").read_text())
        self._tokens: dict[str, str] = json.loads((folder / "tokens.json").read_text())

    @property
    def people(self) -> list[str]:
        """The names of all users."""
        return list(self._tokens)

    def fresh(self, kind: str) -> Path:
        """A folder for one hub, with the people and no sessions."""
        made = self._folder / f"{kind}-{time.monotonic_ns()}"
        made.mkdir()
        shutil.copy(self._folder / "hub.sqlite", made)
        return made

    @asynccontextmanager
    async def hub(self, kind: str, cluster: Cluster, folder: Path | None = None) -> AsyncIterator[Hub]:
        """A hub that is killed when the block ends, and may then be started again in its `folder`."""
        folder, port = folder or self.fresh(kind), free_ports(2)
        arguments = ["bench.pods_hub", kind, str(folder), str(port), "--cluster", cluster.url]
        async with _session() as http:
            with process(arguments, folder / "hub.log", KUBECONFIG=str(cluster.kubeconfig)) as running:
                hub = Hub(kind, f"http://127.0.0.1:{port}/hub", self._tokens, http)

                async def is_up() -> bool:
                    if running.poll() is not None:
                        raise RuntimeError((folder / "hub.log").read_text()[-5000:])
                    return await hub.is_up()

                await until(is_up, "the hub", _PATIENCE, pause=0.01)
                yield hub


async def calm(hub: Hub, share: float, patience: float = _PATIENCE) -> float:
    """Waits, not for ever, until the hub takes no more than `share` of a core, and gives what it takes then."""
    deadline = time.monotonic() + patience
    while (taken := await _taken(hub)) > share and time.monotonic() < deadline:
        pass
    return taken


async def _taken(hub: Hub) -> float:
    """The share of a core that the hub takes for 2 s."""
    before = float((await hub.told("state"))["cpu"])
    await asyncio.sleep(2)
    return (float((await hub.told("state"))["cpu"]) - before) / 2


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_AT_ONCE), timeout=aiohttp.ClientTimeout(total=120)
    )


async def _json(http: aiohttp.ClientSession, url: str) -> Any:
    async with http.get(url) as answer:
        answer.raise_for_status()
        return await answer.json()


async def _answers(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(url) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, OSError):
        return False
