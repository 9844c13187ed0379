"""A real hub whose cluster is the fake one."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from jupyterhub import orm
from jupyterhub.utils import url_path_join

from canfar_auth.identity import PosixGroup, PosixIds
from canfar_site.settings import Site
from canfar_spawner.cluster.spawner import CanfarSpawner
from tests.support.identities import SURVEY, USERS, identity
from tests.support.kubernetes_api import Behaviour, Crash, FakeKubernetes
from tests.support.oidc_hub import NoProxy
from tests.support.ports import free_port

IDS = PosixIds(10001, 10001, (PosixGroup(SURVEY, "survey-x", 900001),))


class Programs:
    """The programs of pods: each answers at its pod's address and port until the pod ends."""

    def __init__(self) -> None:
        self._servers: dict[str, ThreadingHTTPServer] = {}
        self.status = 200
        """What they answer."""

    def serve(self, pod: dict[str, Any]) -> None:
        programs = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(programs.status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                pass

        ports = pod["spec"]["containers"][0].get("ports")
        if not ports:  # no session
            return
        port = ports[0]["containerPort"]
        server = ThreadingHTTPServer((pod["status"]["podIP"], port), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self._servers[pod["metadata"]["uid"]] = server

    def stop(self, pod: dict[str, Any]) -> None:
        server = self._servers.pop(pod["metadata"]["uid"], None)
        if server:
            server.shutdown()
            server.server_close()

    def stop_all(self) -> None:
        for uid in list(self._servers):
            self.stop({"metadata": {"uid": uid}})


@pytest.fixture
def programs() -> Iterator[Programs]:
    found = Programs()
    yield found
    found.stop_all()


@pytest.fixture
def session(programs: Programs) -> Behaviour:
    """How the pod of a session lives that is well."""
    return Behaviour(address="", serve=programs.serve, stopped=programs.stop, log="first\nlast <line>")


@pytest.fixture
def kube(session: Behaviour) -> Iterator[FakeKubernetes]:
    with FakeKubernetes(behaviour=session) as found:
        there = Behaviour(crash=Crash(code=0, message='{"home": "there"}'))
        found.behave("app.kubernetes.io/component=home", there)
        yield found


@pytest.fixture
def site_file(tmp_path: Path, site: Site) -> Path:
    settings = site.model_dump(mode="json", exclude_defaults=True)
    settings["cluster"] = {
        "volume": {"claim": "data", "projects": [{"name": "survey-x", "write": [SURVEY]}]},
        "guaranteed": 0.5,
    }
    settings["limits"]["sessions"] = 4
    settings["catalogue"] = str(tmp_path / "catalogue")
    (tmp_path / "catalogue").mkdir()
    entry = {
        "profile": "open",
        "title": "Open",
        "description": "For all.",
        "kinds": ["notebook"],
        "images": ["example.org/open:2", "example.org/open:1"],
        "resources": {"cores": [1, 2], "memory": [2]},
    }
    (tmp_path / "catalogue/a.yaml").write_text(yaml.safe_dump({"profiles": [entry]}))
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@dataclass
class Hub:
    """A running hub, and the one user that it has."""

    app: Any
    client: httpx.AsyncClient

    @property
    def user(self) -> Any:
        return self.app.users["astronomer"]

    def spawner(self, server: str) -> Any:
        return self.user.spawners[server]

    async def start(self, server: str, **options: Any) -> httpx.Response:
        body = {"user_options": {"profile": "open", **options}}
        return await self.client.post(f"api/users/astronomer/servers/{server}", json=body)

    async def stop(self, server: str) -> httpx.Response:
        return await self.client.delete(f"api/users/astronomer/servers/{server}")

    async def pending(self, server: str) -> str | None:
        """What the hub is about with a session."""
        answer = await self.client.get(f"api/users/astronomer/servers/{server}?include_stopped_servers")
        found: str | None = answer.json().get("pending")
        return found


MakeHub = Callable[..., Any]


@pytest.fixture
async def make_hub(
    hub_app: Any, kube: FakeKubernetes, tmp_path: Path, site_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Begins the hub, with an administrator's traits for the spawner."""
    # The client library reads KUBECONFIG when it is imported.
    place = "kubernetes_asyncio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
    monkeypatch.setattr(place, str(kube.kubeconfig(tmp_path / "kubeconfig")))
    keys = {
        "cookie_secret": secrets.token_bytes(32),
        "crypt": secrets.token_bytes(32),
        "site": secrets.token_hex(32),
    }
    hubs: list[Hub] = []

    async def make(**traits: Any) -> Hub:
        app = await hub_app(
            {
                "JupyterHub": {
                    "authenticator_class": "canfar",
                    "spawner_class": "canfar",
                    "proxy_class": NoProxy,
                    "allow_named_servers": True,
                    "bind_url": f"http://127.0.0.1:{free_port()}",
                    "hub_bind_url": f"http://127.0.0.1:{free_port()}",
                    "cookie_secret": keys["cookie_secret"],
                    "cleanup_servers": False,
                    "authenticate_prometheus": False,
                },
                "CryptKeeper": {"keys": [keys["crypt"]]},
                "CanfarOAuthenticator": {
                    "issuer": "https://login.example.org",
                    "platform_groups": {USERS},
                    "groups": {"authority": "example.org"},
                    "refresh_pre_spawn": False,
                    "auth_refresh_age": 0,
                },
                "PlannedSpawner": {"site_file": str(site_file), "site_key": keys["site"]},
                "CanfarSpawner": {
                    "namespace": "sessions",
                    "k8s_api_host": kube.url,
                    "k8s_api_request_timeout": 1,
                    "poll_interval": 1,
                    "start_timeout": 60,
                    **traits,
                },
            }
        )
        hubs.append(Hub(app, await _client(app)))
        return hubs[-1]

    yield make
    for hub in hubs:
        for name, spawner in list(hub.user.spawners.items()):
            if spawner.active:
                await hub.user.stop(name)
        await hub.client.aclose()
    for shared in CanfarSpawner._shared.values():
        await shared.pods.stop()
        await shared.events.stop()
        if shared.prepull:
            await shared.prepull.stop()
    CanfarSpawner._shared.clear()


async def _client(app: Any) -> httpx.AsyncClient:
    record = orm.User.find(app.db, "astronomer") or orm.User(name="astronomer")
    app.db.add(record)
    app.db.commit()
    user = app.users[record]
    known = replace(identity(USERS, SURVEY), posix=IDS)
    await user.save_auth_state({"canfar": known.to_state()})
    role = orm.Role.find(app.db, "user")
    if record not in role.users:
        role.users.append(record)
    app.db.commit()
    return httpx.AsyncClient(
        base_url=url_path_join(app.hub.host, app.hub.base_url),
        headers={"Authorization": f"token {user.new_api_token(scopes=['inherit'])}"},
        timeout=60,
    )


@pytest.fixture
async def hub(make_hub: MakeHub) -> Hub:
    found: Hub = await make_hub()
    return found
