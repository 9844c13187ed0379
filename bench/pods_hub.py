"""One hub for the benchmark of pods, as a process of its own, that tells of itself under `/hub/bench`.

`python -m bench.pods_hub --help`. A hub of the spawner `people` makes the people, and ends.
"""

import argparse
import asyncio
import gc
import json
import resource
import time
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import psutil
import yaml
from jupyterhub import orm
from jupyterhub.crypto import encrypt
from jupyterhub.roles import assign_default_roles
from jupyterhub.spawner import Spawner
from tornado.web import RequestHandler
from traitlets.config import Config

import canfar_portal
from canfar_auth.identity import STATE_KEY, PosixIds
from canfar_site.settings import load_site
from canfar_spawner import collector, handlers
from canfar_spawner.cluster.api import Api, connected
from canfar_spawner.cluster.session_secrets import SessionSecrets
from canfar_spawner.upkeep import Upkeep
from tests.support.identities import USERS, identity
from tests.support.oidc_hub import NoProxy, TestHub

NAMESPACE = "sessions"
PORT = 5000  # of the program in every pod, as the kind `contributed` has it
_KEY = "11" * 32  # nothing that is worth a secret is in these hubs, and each is to read the others' database
_IDS = 10_000  # the first numeric id
_POLL_SECONDS = 5  # as `jupyterhub_config.py` has it
_IMAGE = "example.org/open:2"
ISSUER = f"http://127.0.0.1:{PORT}"
"""The identity provider, of which there is but its description: the program of all pods gives it."""


class Routes(NoProxy):
    """Notes when a session can be used: the hub calls it ready as soon as its route is there."""

    times: ClassVar[dict[str, float]] = {}

    async def add_route(self, routespec: str, target: str, data: dict[str, Any]) -> None:
        await super().add_route(routespec, target, data)
        if "user" in data:
            self.times[data["user"]] = time.time()


class NoCost(Spawner):
    """Starts nothing, and says that it runs."""

    async def start(self) -> str:
        return f"http://127.0.0.1:{PORT}"

    async def poll(self) -> int | None:
        return None if self.server else 0

    async def stop(self, now: bool = False) -> None:
        pass


class Loop:
    """How late the loop comes back to one who asks for it every 5 ms."""

    longest = 0.0

    @classmethod
    async def watch(cls) -> None:
        while True:
            asked = time.monotonic()
            await asyncio.sleep(0.005)
            cls.longest = max(cls.longest, time.monotonic() - asked - 0.005)


class _Handler(RequestHandler):
    def _spawners(self) -> list[Any]:
        return [spawner for user in self.settings["users"].values() for spawner in user.spawners.values()]


class State(_Handler):
    """What the hub has, and took; with `fresh` the longest stop of the loop counts anew."""

    def get(self) -> None:
        spawners = self._spawners()
        cpu = resource.getrusage(resource.RUSAGE_SELF)
        found = {
            "ready": sum(1 for spawner in spawners if spawner.ready),
            "pending": sum(1 for spawner in spawners if spawner.pending),
            "longest stop": Loop.longest,
            "cpu": cpu.ru_utime + cpu.ru_stime,
        }
        if self.get_query_argument("fresh", ""):
            Loop.longest = 0.0
            Routes.times.clear()
        self.write(found)


class Times(_Handler):
    """When the session of each user became ready, in seconds of `time.time`."""

    def get(self) -> None:
        self.write(Routes.times)


class Memory(_Handler):
    """The memory that the hub holds, in kB, without what Python has not yet collected."""

    def get(self) -> None:
        gc.collect()
        self.write({"kB": psutil.Process().memory_info().rss / 1000})


class Polls(_Handler):
    """Asks every session whether it runs."""

    async def get(self) -> None:
        asked = [await spawner.poll() for spawner in self._spawners() if spawner.ready]
        self.write({"asked": len(asked), "running": asked.count(None)})


class KnownHomes(_Handler):
    """Has the hub know the homes of the first `count` people, as after a first session of theirs."""

    def get(self) -> None:
        shared = self.settings["users"][person(0)].spawners["ours"].shared
        numbers = range(int(self.get_query_argument("count")))
        shared.homes._seen.update((person(number), _IDS + number, _IDS + number) for number in numbers)
        self.write({})


_HANDLERS = MappingProxyType(
    {"state": State, "times": Times, "memory": Memory, "polls": Polls, "homes": KnownHomes}
)


def person(number: int) -> str:
    """The name of a user."""
    return f"user{number:04}"


def _config(kind: str, folder: Path, port: int, cluster: str) -> Config:
    config = Config()
    config.JupyterHub.update(
        authenticator_class="null",
        bind_url=f"http://127.0.0.1:{port + 1}",
        hub_bind_url=f"http://127.0.0.1:{port}",
        cookie_secret=bytes.fromhex(_KEY),
        db_url=f"sqlite:///{folder}/hub.sqlite",
        proxy_class=Routes,
        spawner_class=NoCost,
        allow_named_servers=True,
        cleanup_servers=False,
        concurrent_spawn_limit=0,
        active_server_limit=0,
        extra_handlers=[(f"/bench/{name}", handler) for name, handler in _HANDLERS.items()],
        # A request for a start is answered at once; that the session is ready is learnt otherwise.
        tornado_settings={"slow_spawn_timeout": 0},
    )
    config.CryptKeeper.keys = [bytes.fromhex(_KEY)]
    config.Spawner.consecutive_failure_limit = 0
    if kind in ("ours", "stock"):
        config.KubeSpawner.update(namespace=NAMESPACE, k8s_api_host=cluster, start_timeout=300)
    if kind == "stock":
        config.JupyterHub.spawner_class = "kubespawner.KubeSpawner"
        config.KubeSpawner.update(image=_IMAGE, port=PORT)
    if kind == "ours":
        _configure_ours(config, folder, cluster)
    return config


def _configure_ours(config: Config, folder: Path, cluster: str) -> None:
    """As `jupyterhub_config.py` has it, but that nobody's groups are read again."""
    collector.spare_the_loop()
    site_file = _site_file(folder)
    store = SessionSecrets(Api(lambda: connected(host=cluster, ssl_ca_cert="", verify_ssl=True)), NAMESPACE)
    config.JupyterHub.update(authenticator_class="canfar", spawner_class="canfar")
    config.CanfarOAuthenticator.update(
        issuer=ISSUER,
        platform_groups={USERS},
        groups={"authority": "example.org"},
        refresh_pre_spawn=False,
        auth_refresh_age=0,
        companions=[Upkeep(load_site(site_file), store).start],
        first_handlers=handlers.handlers(canfar_portal.STATIC),
    )
    config.PlannedSpawner.update(site_file=str(site_file), site_key=_KEY, poll_interval=_POLL_SECONDS)


def _site_file(folder: Path) -> Path:
    entry = {
        "profile": "open",
        "title": "Open",
        "description": "For all.",
        "kinds": ["contributed"],
        "images": [_IMAGE],
        "resources": {"cores": [1, 2], "memory": [2]},
    }
    site = {
        "contact": "help@example.org",
        "public_url": "https://hub.example.org",
        "sign_in": {"issuer": ISSUER, "platform_groups": [USERS]},
        "storage": {"top": "/arc"},
        "cluster": {"volume": {"claim": "data"}, "guaranteed": 0.5},
        "catalogue": str(folder / "catalogue"),
    }
    (folder / "catalogue").mkdir(exist_ok=True)
    (folder / "catalogue/open.yaml").write_text(yaml.safe_dump({"profiles": [entry]}))
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump(site))
    return path


async def _make_people(app: Any, count: int, place: Path) -> None:
    """Users who have signed in, with a token each, all of which is in `tokens.json`."""
    made = [orm.User(name=person(number)) for number in range(count)]
    app.db.add_all(made)
    tokens: dict[str, str] = {}
    for number, record in enumerate(made):
        known = replace(identity(USERS, name=record.name), posix=PosixIds(_IDS + number, _IDS + number))
        record.encrypted_auth_state = await encrypt({**_token(), STATE_KEY: known.to_state()})
        assign_default_roles(app.db, entity=record)
        tokens[record.name] = record.new_api_token(scopes=["inherit"])
    app.db.commit()
    (place / "tokens.json").write_text(json.dumps(tokens))


def _token() -> dict[str, Any]:
    """An access token, which sessions get, and which lives longer than the benchmark."""
    token = {"access_token": "access", "token_type": "Bearer", "expires_at": time.time() + 86_400}
    return {**token, "token_response": token}


async def _run(kind: str, folder: Path, port: int, cluster: str, people: int) -> None:
    app = TestHub.instance(config=_config(kind, folder, port, cluster))
    await app.initialize([])
    if kind == "people":
        await _make_people(app, people, folder)
        return
    watch = asyncio.create_task(Loop.watch())
    await app.start()
    await watch  # until the process is ended


def main() -> None:
    """Runs the hub until it is ended."""
    parser = argparse.ArgumentParser(prog="pods_hub", description="A hub that is measured.")
    parser.add_argument("spawner", choices=("ours", "stock", "none", "people"))
    parser.add_argument("folder", type=Path, help="for the database and all else")
    parser.add_argument("port", type=int, help="of the hub; the next one is the proxy's, which there is not")
    parser.add_argument("--cluster", default="", help="address of the Kubernetes API")
    parser.add_argument("--people", type=int, default=0, help="how many to make")
    chosen = parser.parse_args()
    asyncio.run(_run(chosen.spawner, chosen.folder, chosen.port, chosen.cluster, chosen.people))


if __name__ == "__main__":
    main()
