"""A real hub and a real gateway process, walked through as a browser does."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
import pytest
from aiohttp.abc import AbstractResolver

from tests.gateway.conftest import PAGE
from tests.support.ports import free_port

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TESTER = "tester-token"
DECISION_SECONDS = 3.0


class Loopback(AbstractResolver):
    """Every name is this machine, as browsers have it for `*.localhost` and the C library has not."""

    async def resolve(self, host, port=0, family=socket.AF_INET):
        return [
            {
                "hostname": host,
                "host": "127.0.0.1",
                "port": port,
                "family": socket.AF_INET,
                "proto": 0,
                "flags": 0,
            }
        ]

    async def close(self):
        pass


def browser() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=Loopback()), headers=PAGE, requote_redirect_url=False
    )


@dataclass
class Installation:
    folder: Path
    host_routing: bool
    port: int
    api_port: int
    hub_port: int
    hub: subprocess.Popen | None = None
    gateway: subprocess.Popen | None = None

    @property
    def public(self) -> str:
        return f"http://localhost:{self.port}"

    def origin(self, user: str) -> str:
        return f"http://{user}.localhost:{self.port}" if self.host_routing else self.public

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "CONFIGPROXY_AUTH_TOKEN": "rest-api-token",
            "CANFAR_GATEWAY_TOKEN": "service-token",
            "TEST_TOKEN": TESTER,
            "TEST_ECHO": str(ROOT / "tests/support/echo_app.py"),
            "TEST_FOLDER": str(self.folder),
            "TEST_HUB_PORT": str(self.hub_port),
            "TEST_PUBLIC_URL": self.public,
            "TEST_GATEWAY_API": f"http://127.0.0.1:{self.api_port}",
            "TEST_HOST_ROUTING": "1" if self.host_routing else "",
        }

    def _start(self, name: str, *command: str) -> subprocess.Popen:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *command], cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )

    def start_gateway(self) -> None:
        command = ["-m", "canfar_gateway", "--port", str(self.port), "--api-port", str(self.api_port),
            "--hub-api-url", f"http://127.0.0.1:{self.hub_port}/hub/api", "--public-url", self.public,
            "--state-file", str(self.folder / "routes.json"), "--decision-seconds", str(DECISION_SECONDS),
            "--error-target", f"http://127.0.0.1:{self.hub_port}/hub/error"]  # fmt: skip
        self.gateway = self._start("gateway", *command, *(["--host-routing"] if self.host_routing else []))

    def start_hub(self) -> None:
        self.hub = self._start("hub", "-m", "jupyterhub", "-f", str(HERE / "jupyterhub_config.py"))

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in self.folder.glob("*.log"))

    async def ready(self, tester: aiohttp.ClientSession) -> None:
        async def up() -> bool:
            assert self.hub.poll() is None, self.logs()
            assert self.gateway.poll() is None, self.logs()
            try:
                async with tester.get(
                    f"{self.public}/hub/api/proxy", headers={"Authorization": f"token {TESTER}"}
                ) as r:
                    return r.status == 200
            except aiohttp.ClientError:
                return False

        await eventually(up, self)

    def stop(self) -> None:
        for process in (self.hub, self.gateway):
            if process is not None:
                process.terminate()
        for process in (self.hub, self.gateway):
            if process is not None:
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        # Sessions outlive the hub here; they are known by the folder that only this test uses.
        for process in psutil.process_iter(["cmdline"]):
            if str(self.folder) in (process.info["cmdline"] or ()):
                process.kill()


async def eventually(check, installation, *, seconds: float = 60) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not await check():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(installation.logs())


@asynccontextmanager
async def installed(folder: Path, *, host_routing: bool) -> AsyncIterator[Installation]:
    installation = Installation(folder, host_routing, free_port(), free_port(), free_port())
    try:
        installation.start_gateway()
        installation.start_hub()
        yield installation
    finally:
        installation.stop()


async def api(client, installation, method: str, path: str, body=None):
    headers = {"Authorization": f"token {TESTER}", "Accept": "application/json"}
    async with client.request(
        method, f"{installation.public}/hub/api{path}", headers=headers, json=body
    ) as response:
        text = await response.text()
        assert response.status < 400, (response.status, text, installation.logs())
        return await response.json() if text else None


async def start_session(client, installation, user: str, name: str) -> None:
    await api(client, installation, "POST", f"/users/{user}/servers/{name}")

    async def ready() -> bool:
        model = await api(client, installation, "GET", f"/users/{user}?include_stopped_servers=1")
        return model["servers"][name]["ready"]

    await eventually(ready, installation)


async def sign_in(client, installation, user: str, url: str) -> aiohttp.ClientResponse:
    """Open a page, fill in the hub's form that it leads to, and arrive where the hub sends us."""
    async with client.get(url) as page:
        text = await page.text()
        assert page.url.host == "localhost"
        assert page.url.path == "/hub/login", (str(page.url), text[:500])
        xsrf = re.search(r'name="_xsrf" value="([^"]+)"', text)[1]
    form = {"username": user, "password": "x", "_xsrf": xsrf}
    headers = {"Sec-Fetch-Site": "same-origin", "Origin": installation.public}
    async with client.post(page.url, data=form, headers=headers) as response:
        await response.read()
        return response


async def status(client, url: str, **options) -> int:
    async with client.get(url, **options) as response:
        await response.read()
        return response.status


@pytest.mark.parametrize(
    "host_routing",
    [pytest.param(True, id="hosts"), pytest.param(False, id="one-host", marks=pytest.mark.slow)],
)
async def test_life_of_a_session(tmp_path, host_routing):
    async with (
        installed(tmp_path, host_routing=host_routing) as site,
        browser() as tester,
        browser() as ada,
        browser() as bob,
    ):
        await site.ready(tester)
        for user in ("ada", "bob"):
            await api(tester, site, "POST", f"/users/{user}")
        names = ("abcd1234", "strip123", "plain123")
        await asyncio.gather(*(start_session(tester, site, "ada", name) for name in names))
        await addresses_and_sign_in(site, ada)
        await others(site, tester, bob)
        if host_routing:
            await restarts(site, tester, ada)
        await log_out_and_stop(site, tester, ada)


FETCH = {"Accept": "*/*", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}


async def addresses_and_sign_in(site, ada):
    origin = site.origin("ada")
    address = f"{origin}/session/notebook/abcd1234"
    response = await sign_in(ada, site, "ada", f"{origin}/user/ada/abcd1234/lab?x=1")
    assert (response.status, str(response.url)) == (200, f"{address}/lab?x=1"), site.logs()
    seen = await response.json()
    headers = {name.lower(): value for name, value in seen["headers"]}
    assert seen["path"] == "/session/notebook/abcd1234/lab?x=1"
    assert (headers["x-secret"], headers["x-forwarded-user"]) == ("of-abcd1234", "ada")
    assert "jupyterhub-" not in str(seen)
    assert "canfar-" not in str(seen)
    for path, inside in [
        ("/session/notebook/strip123/a/b", "/a/b"),
        ("/user/ada/plain123/a/b", "/user/ada/plain123/a/b"),
        ("/user/ada/strip123/a/b", "/a/b"),
    ]:
        async with ada.get(origin + path, headers=FETCH) as response:
            assert (await response.json())["path"] == inside
    async with ada.ws_connect(f"{address}/ws", headers={"Origin": origin}) as socket:
        await socket.send_str("hello")
        assert await socket.receive_str(timeout=20) == "hello"
    async with ada.get(f"{origin}/user/ada/gone1234/") as response:
        assert (response.url.host, response.url.path) == ("localhost", "/hub/user/ada/gone1234/")
        assert response.status in (404, 424)
    assert await status(ada, f"{site.public}/hub/home") == 200


async def others(site, tester, bob):
    origin = site.origin("ada")
    address = f"{origin}/session/notebook/abcd1234"
    assert (await sign_in(bob, site, "bob", f"{address}/")).status == 403
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await bob.ws_connect(f"{address}/ws", headers={"Origin": origin})
    assert refused.value.status == 403
    await api(tester, site, "POST", "/shares/ada/abcd1234", {"user": "bob"})

    async def shared() -> bool:
        return await status(bob, f"{address}/x") == 200

    await eventually(shared, site)
    assert await status(bob, f"{origin}/session/notebook/strip123/") == 403
    await api(tester, site, "PATCH", "/shares/ada/abcd1234", {"user": "bob"})

    async def revoked() -> bool:
        return await status(bob, f"{address}/x") == 403

    await eventually(revoked, site)


async def restarts(site, tester, ada):
    address = f"{site.origin('ada')}/session/notebook/abcd1234"
    async with ada.ws_connect(f"{address}/ws", headers={"Origin": site.origin("ada")}) as socket:
        site.hub.send_signal(signal.SIGTERM)
        await asyncio.to_thread(site.hub.wait, 30)
        assert await status(ada, f"{address}/x") == 200
        assert await status(ada, f"{site.public}/hub/home") == 503
        site.start_hub()
        await site.ready(tester)
        assert await status(ada, f"{address}/x") == 200
        await socket.send_str("still here")
        assert await socket.receive_str(timeout=20) == "still here"
    site.gateway.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(site.gateway.wait, 30) == 0
    site.start_gateway()
    await site.ready(tester)
    assert await status(ada, f"{address}/x") == 200
    await loses_its_table(site, ada, address)


async def loses_its_table(site, ada, address):
    """A gateway without its file: the page answers again, and its WebSocket can be opened again."""

    async def connects() -> bool:
        try:
            socket = await ada.ws_connect(f"{address}/ws", headers={"Origin": site.origin("ada")})
        except aiohttp.ClientConnectorError:
            return False
        except aiohttp.WSServerHandshakeError as error:
            if error.status == 503:
                return False
            raise
        async with socket:
            await socket.send_str("back again")
            return await socket.receive_str(timeout=20) == "back again"

    async with ada.ws_connect(f"{address}/ws", headers={"Origin": site.origin("ada")}) as socket:
        site.gateway.kill()
        await asyncio.to_thread(site.gateway.wait, 30)
        await socket.receive(timeout=20)
        assert socket.close_code == 1006
    (site.folder / "routes.json").unlink()
    site.start_gateway()
    # The hub's own check of its routes is far off, at its default of five minutes.
    await eventually(connects, site)
    assert await status(ada, f"{address}/x") == 200
    assert await status(ada, f"{site.public}/_canfar_ready") == 200


async def log_out_and_stop(site, tester, ada):
    origin = site.origin("ada")
    address = f"{origin}/session/notebook/abcd1234"
    socket = await ada.ws_connect(f"{address}/ws", headers={"Origin": origin})
    assert await status(ada, f"{address}/x", headers=FETCH) == 200
    async with ada.get(f"{site.public}/hub/logout") as response:
        assert response.url.path == "/hub/login"
    assert await status(ada, f"{address}/x", headers=FETCH) == 403
    await socket.receive(timeout=20)
    assert socket.close_code == 1008
    async with ada.get(f"{address}/") as response:
        assert response.url.path == "/hub/login"
    names = ("abcd1234", "strip123", "plain123")
    await asyncio.gather(*(api(tester, site, "DELETE", f"/users/ada/servers/{name}") for name in names))

    async def gone() -> bool:
        return await status(ada, f"{address}/", headers=FETCH) == 404

    await eventually(gone, site)
    async with ada.get(f"{address}/") as response:
        assert response.status == 404
        assert f"{site.public}/hub/home" in await response.text()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"CONFIGPROXY_AUTH_TOKEN": ""}, "Set CONFIGPROXY_AUTH_TOKEN in the environment"),
        ({"CANFAR_GATEWAY_TOKEN": ""}, "Set CANFAR_GATEWAY_TOKEN in the environment"),
        ({"--trusted-proxies": "10.0.0.1/8"}, "--trusted-proxies must be networks"),
        ({"--inside-host": "http://hub"}, "--inside-host must be a host's name"),
        ({"--inside-host": "localhost:9"}, "--inside-host must not be the host of --public-url"),
        ({"taken": "--port"}, "Choose another one."),
        ({"taken": "--api-port"}, "Choose another one."),
        ({"folder": "missing"}, "missing"),
    ],
    ids=[
        "no-api-token",
        "no-service-token",
        "proxies",
        "inside",
        "inside-is-public",
        "port",
        "api-port",
        "state-file",
    ],
)
def test_gateway_that_cannot_start(tmp_path, change, complaint):
    change = dict(change)
    ports = {"--port": free_port(), "--api-port": free_port()}
    options = {name: change.pop(name) for name in list(change) if name.startswith("--")}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        if "taken" in change:
            ports[change.pop("taken")] = taken.getsockname()[1]
        state = tmp_path / change.pop("folder", "") / "routes.json"
        environment = Installation(tmp_path, False, 1, 1, 1).environment | change
        command = [sys.executable, "-m", "canfar_gateway", "--state-file", str(state)]
        command += [str(part) for pair in (ports | options).items() for part in pair]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 1
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
