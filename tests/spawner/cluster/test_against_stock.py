"""Where KubeSpawner 7.1 goes wrong and ours does not: both in a hub of the same kind, on the same fake cluster.

Each test shows first that the stock spawner has the defect. If that fails, upstream has mended it, and the
comparison can be dropped; what ours must do stays.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import httpx
import kubespawner.spawner
import pytest
import yaml
from jupyterhub import orm
from kubespawner import KubeSpawner
from tornado.ioloop import IOLoop
from tornado.web import create_signed_value

from tests.spawner.cluster.conftest import Hub, MakeHub
from tests.spawner.cluster.test_spawner import PATIENCE, over, ready, until
from tests.support.kubernetes_api import Behaviour, FakeKubernetes
from tests.support.kubernetes_pods import chooser

pytestmark = pytest.mark.slow

MENDED = "KubeSpawner no longer does this: the comparison with it can be dropped."
SERVERS = "component=singleuser-server"  # the label of stock pods, and of ours
is_server = chooser(SERVERS)


@pytest.fixture
async def hub_app(hub_app: Any) -> AsyncIterator[Any]:
    """Begins hubs; with `stock` among its traits, one has KubeSpawner itself."""
    apps: list[Any] = []

    async def begin(config: dict[str, Any]) -> Any:
        if config["CanfarSpawner"].pop("stock", False):
            config["KubeSpawner"] = config.pop("CanfarSpawner")
            config["JupyterHub"]["spawner_class"] = KubeSpawner
        apps.append(await hub_app(config))
        return apps[-1]

    yield begin
    await KubeSpawner._stop_all_reflectors()
    for app in apps[:-1]:  # the plugin ends the last
        app.http_server.stop()


@pytest.fixture
def make_stock(make_hub: MakeHub) -> MakeHub:
    """Begins a hub with KubeSpawner itself."""
    return partial(make_hub, stock=True)


def profiles(**options: Any) -> list[dict[str, Any]]:
    """A profile list of one profile, `listed`, with options."""
    override = {"image": "ok/default:1", "mem_limit": "2G", "cpu_limit": 1}
    profile = {"display_name": "Listed", "kubespawner_override": override, "profile_options": options}
    return [profile]


def choices(what: str, *values: Any) -> dict[str, Any]:
    """An option that sets one trait to one of some values."""
    listed = {
        f"choice-{number}": {"display_name": f"Choice {number}", "kubespawner_override": {what: value}}
        for number, value in enumerate(values, start=1)
    }
    return {"display_name": what, "choices": listed}


def typed(what: str, value: Any = "{value}", **more: Any) -> dict[str, Any]:
    """An option that may also be typed in."""
    return {"unlisted_choice": {"enabled": True, "kubespawner_override": {what: value}, **more}}


async def ask(hub: Hub, server: str, options: Any, **body: Any) -> httpx.Response:
    """Asks for a session with `user_options` as they are given."""
    return await hub.client.post(
        f"api/users/astronomer/servers/{server}", json={"user_options": options, **body}
    )


def servers(kube: FakeKubernetes) -> list[dict[str, Any]]:
    """The pods of sessions, stock or ours."""
    return [pod for pod in kube.pods() if is_server(pod)]


async def started(hub: Hub, kube: FakeKubernetes, server: str, options: Any, **body: Any) -> dict[str, Any]:
    """The main container of a session that comes about."""
    answer = await ask(hub, server, options, **body)
    is_stock = type(hub.spawner(server)) is KubeSpawner
    assert answer.status_code in {201, 202}, MENDED if is_stock else answer.text
    spawner = await ready(hub, server)
    pod = kube.get("pods", spawner.pod_name)
    assert pod is not None
    container: dict[str, Any] = pod["spec"]["containers"][0]
    return container


async def look(hub: Hub, query: str = "") -> httpx.Response:
    """The page on which its owner would start the session `mine`."""
    name, secret = hub.app.hub.cookie_name, hub.app.tornado_application.settings["cookie_secret"]
    signed = create_signed_value(secret, name, hub.user.cookie_id).decode()
    return await hub.client.get(f"spawn/astronomer/mine{query}", headers={"Cookie": f"{name}={signed}"})


async def within_reason(event: asyncio.Event, otherwise: str) -> None:
    """Waits for what does happen, on however slow a machine."""
    try:
        async with asyncio.timeout(PATIENCE):
            await event.wait()
    except TimeoutError:
        pytest.fail(otherwise)


async def stopped(hub: Hub, kube: FakeKubernetes, server: str) -> None:
    """Stops a session, so that none is left."""
    await hub.stop(server)
    await until(lambda: not hub.spawner(server).active and not servers(kube), f"{server} stopped")


async def refused(hub: Hub, kube: FakeKubernetes, options: Any, status: int = 400) -> str:
    """Asks for a session that is refused at once, and gives the sentence; nothing was made for it."""
    before = _made(kube)
    answer = await ask(hub, "refused", options)
    assert answer.status_code == status, answer.text
    assert _made(kube) == before
    assert _failures(hub) == 0
    return str(answer.json()["message"])


def _made(kube: FakeKubernetes) -> int:
    return kube.count("create") + kube.count("patch")


def _failures(hub: Hub) -> int:
    """How many failures in a row the hub has counted, of those that end it."""
    return int(hub.app.tornado_application.settings.get("failure_count", 0))


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one.get("value") for one in container["env"]}


# What may be asked for


async def test_an_image_that_is_not_on_offer(
    make_stock: MakeHub, make_hub: MakeHub, kube: FakeKubernetes
) -> None:
    """Stock checks what is typed in only if the request names a profile, and applies it all the same."""
    hidden = {"image--unlisted-choice": "evil/x:1"}
    image = choices("image", "ok/a:1", "ok/b:1")
    stock = await make_stock(profile_list=profiles(image=image | typed("image", validation_regex="^ok/.+$")))
    container = await started(stock, kube, "mine", hidden)
    assert container["image"] == "evil/x:1", MENDED
    await stopped(stock, kube, "mine")

    hub = await make_hub(profile_list=profiles(image=image))
    assert "no option “image--unlisted-choice”" in await refused(hub, kube, hidden)
    assert "no option “image--unlisted-choice”" in await refused(hub, kube, {"profile": "listed", **hidden})
    assert "is not on offer" in await refused(hub, kube, {"profile": "listed", "image": "evil/x:1"})
    assert (await started(hub, kube, "mine", {"profile": "listed"}))["image"] == "ok/a:1"


async def test_an_option_that_is_skipped(make_stock: MakeHub, make_hub: MakeHub, kube: FakeKubernetes) -> None:
    """Stock leaves an option out, and the limit that it sets, if something is typed in for it."""
    dodge = {"memory--unlisted-choice": "x"}
    memory = profiles(memory=choices("mem_limit", "1G", "2G"))
    del memory[0]["kubespawner_override"]["mem_limit"]
    stock = await make_stock(profile_list=memory)
    container = await started(stock, kube, "mine", dodge)
    assert "memory" not in container["resources"].get("limits", {}), MENDED
    await stopped(stock, kube, "mine")

    hub = await make_hub(profile_list=memory)
    assert "no option “memory--unlisted-choice”" in await refused(hub, kube, dodge)
    container = await started(hub, kube, "mine", {"profile": "listed"})
    assert int(container["resources"]["limits"]["memory"]) == 2**30


async def test_a_newline_after_an_image(make_stock: MakeHub, make_hub: MakeHub, kube: FakeKubernetes) -> None:
    """Stock's check takes a newline at the end for nothing, and passes it on."""
    image = choices("image", "ok/x")
    stock = await make_stock(profile_list=profiles(image=image | typed("image", validation_regex="^ok/.+$")))
    await ask(stock, "mine", {"profile": "listed", "image--unlisted-choice": "ok/x\n"})
    assert stock.spawner("mine").image == "ok/x\n", MENDED
    await over(stock, "mine")

    hub = await make_hub(profile_list=profiles(image=image))
    assert "is not on offer" in await refused(hub, kube, {"profile": "listed", "image": "ok/x\n"})
    assert "is not on offer" in await refused(hub, kube, {"profile": "open", "image": "example.org/open:2\n"})


@pytest.mark.parametrize(
    "options",
    [
        {"profile": "nope"},
        {"profile": "listed", "image": "nope"},
        {"profile": "listed", "image": ["choice-1"]},
    ],
)
async def test_requests_that_stop_the_hub(
    make_stock: MakeHub,
    make_hub: MakeHub,
    kube: FakeKubernetes,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    """Stock answers a bad request with 500, which the hub counts, and after five it ends itself."""
    ends: list[str] = []
    later = IOLoop.call_later

    def call_later(loop: IOLoop, delay: float, callback: Callable[..., Any], *args: Any, **more: Any) -> object:
        if callback.__qualname__.endswith("_track_failure_count.<locals>.abort"):
            return ends.append("the hub")
        return later(loop, delay, callback, *args, **more)

    monkeypatch.setattr(IOLoop, "call_later", call_later)
    offer: dict[str, Any] = {
        "profile_list": profiles(image=choices("image", "ok/a:1")),
        "consecutive_failure_limit": 5,
    }
    stock = await make_stock(**offer)
    assert [(await ask(stock, "mine", options)).status_code for _ in range(5)] == [500] * 5, MENDED
    assert _failures(stock) == 5, MENDED
    assert ends == ["the hub"], MENDED

    ends.clear()
    hub = await make_hub(**offer)
    for _ in range(5):
        assert await refused(hub, kube, options)
    assert not ends


async def test_an_override_above_a_groups_ceiling(
    make_stock: MakeHub, make_hub: MakeHub, kube: FakeKubernetes
) -> None:
    """Stock applies a profile after the overrides for groups, so that it may have more than they allow."""
    listed = profiles()
    listed[0]["kubespawner_override"] |= {"mem_limit": "64G", "cpu_limit": 32}
    cap = {"cap": {"groups": ["students"], "spawner_override": {"mem_limit": "1G", "cpu_limit": 1}}}
    stock = await make_stock(profile_list=listed, group_overrides=cap)
    _join(stock, "students")
    container = await started(stock, kube, "mine", {"profile": "listed"})
    assert int(container["resources"]["limits"]["memory"]) == 64 * 2**30, MENDED
    assert container["resources"]["limits"]["cpu"] == 32, MENDED
    await stopped(stock, kube, "mine")

    more = {"more": {"groups": ["students"], "spawner_override": {"mem_limit": "64G", "cpu_limit": 32}}}
    hub = await make_hub(profile_list=listed, group_overrides=more)
    _join(hub, "students")
    assert "At most 4 cores are open to you" in await refused(hub, kube, {"profile": "listed"}, 403)
    container = await started(hub, kube, "mine", {"profile": "open"})
    assert container["resources"]["limits"]["cpu"] == "1"
    assert int(container["resources"]["limits"]["memory"]) == 2 * 10**9


def _join(hub: Hub, name: str) -> None:
    group = orm.Group(name=name)
    hub.app.db.add(group)
    hub.user.orm_user.groups.append(group)
    hub.app.db.commit()


# Options that are remembered, and pages


async def test_options_that_are_remembered(
    make_stock: MakeHub, make_hub: MakeHub, kube: FakeKubernetes
) -> None:
    """Stock says that it drops remembered options that no longer hold, gives them to its form, and fails."""
    stored = {"profile": "gone", "surprise": "here"}
    heavy = {"display_name": "Heavy", "kubespawner_override": {"cpu_limit": 64}}
    listed = [*profiles(), heavy]
    stock = await make_stock(profile_list=listed)
    assert await _stored(stock, stored) == stored
    page = await look(stock)
    assert page.status_code == 200
    assert f"userOptions = {json.dumps(stored)}" in page.text, MENDED
    assert (await stock.client.post("api/users/astronomer/servers/mine")).status_code == 500, MENDED
    assert _failures(stock) == 1, MENDED

    hub = await make_hub(profile_list=listed)
    await _stored(hub, stored)
    page = await look(hub)
    assert page.status_code == 200
    assert "surprise" not in page.text
    for options, status in [
        (stored, 400),
        ({"profile": "gone"}, 400),
        ({"profile": "listed", "image": "example.org/gone:1"}, 400),
        ({"profile": "heavy"}, 403),
    ]:
        await hub.client.patch("api/users/astronomer/servers/mine", json={"user_options": options})
        before = _made(kube)
        answer = await hub.client.post("api/users/astronomer/servers/mine")
        assert answer.status_code == status, answer.text
        assert _made(kube) == before
    assert _failures(hub) == 0


async def _stored(hub: Hub, options: dict[str, Any]) -> Any:
    """Makes a server with options, and starts nothing."""
    answer = await hub.client.put("api/users/astronomer/servers/mine", json={"user_options": options})
    assert answer.status_code == 201, answer.text
    return answer.json()["user_options"]


async def test_what_a_look_at_the_page_does(
    make_stock: MakeHub, make_hub: MakeHub, kube: FakeKubernetes
) -> None:
    """Stock starts a session by a mere link, and runs the hook that prepares starts at each look."""
    runs: list[str] = []
    listed = profiles()
    stock = await make_stock(profile_list=listed, auth_state_hook=lambda spawner, _: runs.append(spawner.name))
    for _ in range(3):
        assert (await look(stock)).status_code == 200
    assert runs == ["mine"] * 3, MENDED
    assert not servers(kube)
    await look(stock, "?opt-profile=listed")
    await ready(stock, "mine")
    assert len(servers(kube)) == 1, MENDED
    await stopped(stock, kube, "mine")

    # The hook is the hub's, and runs as often with ours, where credentials and homes come with a start alone.
    hub = await make_hub(profile_list=listed)
    before = _made(kube)
    for query in ("", "", "?opt-profile=listed", "?profile=listed", "?opt-profile=open&opt-name=x"):
        page = await look(hub, query)
        assert page.status_code == (400 if query else 200)
        assert ("A link cannot start a session" in page.text) == bool(query)
        assert not hub.spawner("mine").active
    assert _made(kube) == before
    assert _failures(hub) == 0


# Text that people write


async def test_braces_in_text(make_stock: MakeHub, make_hub: MakeHub, kube: FakeKubernetes) -> None:
    """Stock runs `str.format` over what people typed in: it reads attributes there, or answers with 500."""
    text = "{username} {unescaped_username.__class__} {__class__} {"
    title = choices("environment", {"TITLE": "none"}) | typed("environment", {"TITLE": "{value}"})
    stock = await make_stock(profile_list=profiles(title=title))
    options = {"profile": "listed", "title--unlisted-choice": "{unescaped_username.__class__}"}
    container = await started(stock, kube, "mine", options)
    assert environment(container)["TITLE"] == "<class 'str'>", MENDED
    await stopped(stock, kube, "mine")
    for number, broken in enumerate(("{__class__}", "{"), start=1):
        answer = await ask(stock, "mine", {"profile": "listed", "title--unlisted-choice": broken})
        assert answer.status_code == 500, MENDED
        assert _failures(stock) == number, MENDED

    listed = profiles()
    listed[0] |= {"display_name": text, "slug": "braces"}
    hub = await make_hub(profile_list=listed)
    _write(
        hub,
        {
            "profile": "text",
            "title": text,
            "description": text,
            "kinds": ["notebook"],
            "images": ["example.org/text:1"],
            "environment": {"TITLE": text},
        },
    )
    container = await started(hub, kube, "mine", {"profile": "text"}, display_name=text)
    assert environment(container)["TITLE"] == text
    assert hub.spawner("mine").display_name == text
    assert (await started(hub, kube, "other", {"profile": "braces"}))["image"] == "ok/default:1"
    assert "A session's name is" in await refused(hub, kube, {"profile": "text", "name": text})


def _write(hub: Hub, entry: dict[str, Any]) -> None:
    """Adds an entry to the catalogue."""
    folder = hub.user.spawner.site.catalogue
    (folder / f"{entry['profile']}.yaml").write_text(yaml.safe_dump({"profiles": [entry]}))


# What happens in the cluster


async def test_a_pod_whose_making_is_slow(make_stock: MakeHub, make_hub: MakeHub, kube: FakeKubernetes) -> None:
    """Stock kills its own pod if the answer to its making comes late, and makes another."""
    slow = {"verb": "create", "resource": "pods", "delay": 600, "took_effect": True}
    pods = _uids(kube)
    stock = await make_stock(profile_list=profiles())
    kube.fault(**slow)
    await started(stock, kube, "mine", {"profile": "listed"})
    assert kube.count("delete", "pods") >= 1, MENDED
    assert len(pods) >= 2, MENDED
    await stopped(stock, kube, "mine")
    kube.heal()

    hub = await make_hub(profile_list=profiles())
    before, deleted = set(pods), kube.count("delete", "pods")
    kube.fault(**slow)
    await started(hub, kube, "mine", {"profile": "listed"})
    assert kube.count("delete", "pods") == deleted
    assert pods - before == {pod["metadata"]["uid"] for pod in servers(kube)}


def _uids(kube: FakeKubernetes) -> set[str]:
    """The uids of all pods that sessions get from now on, also of those that end."""
    found: set[str] = set()

    def see(pod: dict[str, Any]) -> bool:
        if is_server(pod):
            found.add(pod["metadata"]["uid"])
        return False  # it lives as it would

    kube.behave(see, Behaviour())
    return found


async def test_a_pod_that_runs_is_noticed(
    make_stock: MakeHub,
    make_hub: MakeHub,
    kube: FakeKubernetes,
    session: Behaviour,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stock is told that the pod runs, and sleeps on until it happens to look again."""
    waiting = Behaviour(unschedulable="0/1 nodes are available.")
    asleep, awake = asyncio.Event(), asyncio.Event()
    backoff = kubespawner.spawner.exponential_backoff

    async def sleeps_until_told(check: Callable[[], Any], message: str, *args: Any, **more: Any) -> Any:
        if "did not start in" not in message:
            return await backoff(check, message, *args, **more)
        assert not check()
        asleep.set()
        await awake.wait()  # stands for a sleep of up to five seconds
        return check()

    kube.behave(SERVERS, waiting)
    stock = await make_stock(profile_list=profiles())
    with monkeypatch.context() as patch:
        patch.setattr(kubespawner.spawner, "exponential_backoff", sleeps_until_told)
        asking = asyncio.ensure_future(ask(stock, "mine", {"profile": "listed"}))
        await within_reason(asleep, MENDED)
        kube.behave(SERVERS, session)
        spawner = stock.spawner("mine")
        await until(lambda: _knows_that_it_runs(spawner), "the hub told that the pod runs")
        for _ in range(100):
            await asyncio.sleep(0)  # whoever was woken has its turn
        assert not spawner._start_future.done(), MENDED
        awake.set()
        await ready(stock, "mine")
        await asking
    await stopped(stock, kube, "mine")

    async def never(*args: Any, **more: Any) -> Any:
        raise AssertionError("ours waits for the pod by looking again and again")

    kube.behave(SERVERS, waiting)
    hub = await make_hub(profile_list=profiles())
    with monkeypatch.context() as patch:
        patch.setattr(kubespawner.spawner, "exponential_backoff", never)
        asking = asyncio.ensure_future(ask(hub, "mine", {"profile": "listed"}))
        await until(lambda: servers(kube), "the pod made")
        kube.behave(SERVERS, session)
        await ready(hub, "mine")
        await asking


def _knows_that_it_runs(spawner: Any) -> bool:
    pod = spawner.pod_reflector.pods.get(f"{spawner.namespace}/{spawner.pod_name}")
    return bool(spawner.is_pod_running(pod))
