"""Sessions as pods of a cluster whose API misbehaves: on a real hub and a fake cluster."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from traitlets import TraitError

from canfar_spawner.cluster.spawner import CanfarSpawner
from canfar_spawner.planned import _site
from tests.spawner.cluster.conftest import Hub, MakeHub
from tests.support.kubernetes_api import Behaviour, Crash, FakeKubernetes, Pull

PATIENCE = 60  # seconds; how long a condition may take on a busy machine


async def until(condition: Callable[[], Any], what: str) -> Any:
    """Waits for something to become true, on the loop that the hub runs on."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = condition()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.02)


async def ready(hub: Hub, server: str) -> Any:
    await until(lambda: hub.spawner(server).ready, f"{server} ready")
    return hub.spawner(server)


def begin(hub: Hub, server: str) -> None:
    """Asks for a session that cannot be ready soon: the hub's answer, which waits for it, is not waited for."""
    asked = asyncio.ensure_future(hub.start(server))
    asked.add_done_callback(lambda done: done.cancelled() or done.exception())


def stages(hub: Hub, server: str) -> str:
    """What has been told of a start; empty before it."""
    return str(getattr(hub.user.spawners.get(server), "_stages", ""))


async def over(hub: Hub, server: str) -> None:
    async def is_over() -> bool:
        return await hub.pending(server) is None

    await until(is_over, f"{server} over")


async def refused(hub: Hub, server: str, **options: Any) -> str:
    """Asks for a session that does not come about, and gives what its user is told."""
    answer = await hub.start(server, **options)
    if answer.status_code >= 400:
        return str(answer.json()["message"])
    await over(hub, server)
    told = (await hub.client.get(f"api/users/astronomer/servers/{server}/progress")).text
    return str(json.loads(told.rpartition("data:")[2].strip())["message"])


def sessions(kube: FakeKubernetes) -> list[dict[str, Any]]:
    return [pod for pod in kube.pods() if "canfar.net/id" in pod["metadata"]["labels"]]


# A start and its end


async def test_a_start_takes_three_calls_and_a_poll_none(make_hub: MakeHub, kube: FakeKubernetes) -> None:
    hub = await make_hub(k8s_api_request_timeout=60)  # none is made twice on a slow machine
    await hub.start("first")
    await ready(hub, "first")
    before = len(kube.requests)
    await hub.start("second", name="Deep field")
    spawner = await ready(hub, "second")
    asked = [(one.verb, one.resource) for one in kube.requests[before:]]
    assert sorted(asked) == [("create", "pods"), ("create", "secrets"), ("patch", "secrets")]
    assert await spawner.poll() is None
    assert len(kube.requests) == before + 3


def add_registries(site_file: Path, password: str = "pass") -> Path:
    """Has the site know a name and a password for the registry of its images."""
    path = site_file.parent / "registries.json"
    auth = base64.b64encode(f"robot:{password}".encode()).decode()
    other = base64.b64encode(b"other:other").decode()
    auths = {"example.org": {"auth": auth}, "other.example.org": {"auth": other}}
    path.write_text(json.dumps({"auths": auths}))
    settings = yaml.safe_load(site_file.read_text())
    settings["cluster"]["registries"] = path.name
    site_file.write_text(yaml.safe_dump(settings))
    _site.cache_clear()
    return path


async def test_a_private_image_takes_five_calls_and_has_a_pull_secret_of_its_own(
    site_file: Path, make_hub: MakeHub, kube: FakeKubernetes, caplog: pytest.LogCaptureFixture
) -> None:
    path = add_registries(site_file)
    hub = await make_hub(k8s_api_request_timeout=60)  # none is made twice on a slow machine
    CanfarSpawner.check(hub.app)
    await hub.start("first")
    await ready(hub, "first")
    before = len(kube.requests)
    add_registries(site_file, "n3w-passw0rd")  # which is read anew
    await hub.start("second")
    spawner = await ready(hub, "second")
    asked = sorted((one.verb, one.resource) for one in kube.requests[before:])
    assert asked == [("create", "pods"), *[("create", "secrets")] * 2, *[("patch", "secrets")] * 2]
    pod = next(one for one in sessions(kube) if one["metadata"]["name"] == spawner.pod_name)
    (named,) = pod["spec"]["imagePullSecrets"]
    found = kube.get("secrets", named["name"])
    assert found is not None
    assert found["type"] == "kubernetes.io/dockerconfigjson"
    auth = base64.b64encode(b"robot:n3w-passw0rd").decode()
    content = base64.b64decode(found["data"][".dockerconfigjson"]).decode()
    assert json.loads(content) == {"auths": {"example.org": {"auth": auth}}}
    assert found["metadata"]["labels"]["canfar.net/id"] == spawner.spec.id
    assert found["metadata"]["ownerReferences"][0]["uid"] == pod["metadata"]["uid"]
    told = json.dumps([spawner.get_state(), pod]) + caplog.text
    assert "n3w-passw0rd" not in told
    assert auth not in told
    await hub.stop("second")
    await over(hub, "second")
    assert not kube.get("secrets", named["name"])
    path.write_text("{")
    assert "private images is not usable; tell help@example.org" in await refused(hub, "third")
    with pytest.raises(TraitError, match=r"registries.json: is not JSON"):
        CanfarSpawner.check(hub.app)


async def test_a_start_that_fails_leaves_no_pull_secret(
    site_file: Path, make_hub: MakeHub, kube: FakeKubernetes
) -> None:
    add_registries(site_file)
    hub = await make_hub(modify_pod_hook=lambda spawner, pod: 1 / 0)
    await hub.start("mine")
    await over(hub, "mine")
    assert kube.count("create", "secrets") == 2
    await until(lambda: not kube.secrets(), "no Secret left")


async def test_what_is_made(hub: Hub, kube: FakeKubernetes) -> None:
    await hub.start("mine", name="Deep field", cores=2)
    spawner = await ready(hub, "mine")
    (pod,) = sessions(kube)
    main = pod["spec"]["containers"][0]
    assert main["image"] == "example.org/open:2"
    assert main["command"] == ["/bin/sh", "/skaha-system/notebook.sh"]
    assert main["resources"]["limits"]["cpu"] == "2"
    assert float(main["resources"]["requests"]["cpu"]) == 1
    assert int(main["resources"]["limits"]["memory"]) == 2 * 10**9
    assert pod["metadata"]["annotations"]["hub.jupyter.org/servername"] == "mine"
    assert pod["metadata"]["labels"]["component"] == "singleuser-server"
    names = {one["name"] for one in main["env"]}
    assert not {name for name in names if name.startswith(("JUPYTERHUB", "JPY_", "JUPYTER_IMAGE"))}
    assert spawner.api_token not in json.dumps(pod)
    (secret,) = [s for s in kube.secrets() if s["metadata"]["name"].startswith("canfar-")]
    assert secret["metadata"]["ownerReferences"][0]["uid"] == pod["metadata"]["uid"]
    assert base64.b64decode(secret["data"]["session_secret"]).decode() == spawner.secret


async def test_a_stop_removes_pod_and_secret(hub: Hub, kube: FakeKubernetes) -> None:
    await hub.start("mine")
    await ready(hub, "mine")
    await hub.stop("mine")
    await over(hub, "mine")
    assert not sessions(kube)
    assert not kube.secrets()


async def start_with(hub: Hub, server: str, **options: Any) -> Any:
    answer = await hub.start(server, **options)
    assert answer.status_code in {201, 202}, answer.text
    return await ready(hub, server)


def offer_desktops(site_file: Path, *, policies: bool) -> None:
    """Has the site offer a desktop and an application."""
    settings = yaml.safe_load(site_file.read_text())
    settings["kinds"] = ["notebook", "desktop", "desktop-app"]
    settings["cluster"]["desktop_policies"] = policies
    site_file.write_text(yaml.safe_dump(settings))
    entries = [
        {
            "profile": kind,
            "title": kind,
            "description": "x",
            "kinds": [kind],
            "images": [f"example.org/{kind}:1"],
        }
        for kind in ("desktop", "desktop-app")
    ]
    (site_file.parent / "catalogue/desktops.yaml").write_text(yaml.safe_dump({"profiles": entries}))
    _site.cache_clear()


@pytest.mark.parametrize("lost", [False, True])
async def test_a_desktop_has_a_network_policy_that_goes_with_it(
    site_file: Path, make_hub: MakeHub, kube: FakeKubernetes, *, lost: bool
) -> None:
    offer_desktops(site_file, policies=True)
    hub = await make_hub()
    if lost:
        kube.fault(verb="create", resource="networkpolicies", took_effect=True, status=503)
    desk = await start_with(hub, "desk", profile="desktop")
    await start_with(hub, "app", profile="desktop-app", desktop=desk.spec.id)
    await start_with(hub, "notebook", profile="open")
    (policy,) = kube.all("networkpolicies")
    own = policy["spec"]["podSelector"]["matchLabels"].items()
    theirs = {
        pod["metadata"]["annotations"]["hub.jupyter.org/servername"]
        for pod in sessions(kube)
        if own <= pod["metadata"]["labels"].items()
    }
    assert theirs == {"desk", "app"}
    # A start anew does not meet what the one before has left.
    await hub.stop("desk")
    desk = await start_with(hub, "desk", profile="desktop")
    await until(lambda: len(kube.all("networkpolicies")) == 1, "the earlier policy gone")
    (owner,) = kube.all("networkpolicies")[0]["metadata"]["ownerReferences"]
    assert owner["uid"] == kube.get("pods", desk.pod_name)["metadata"]["uid"]
    await hub.stop("desk")
    await until(lambda: not kube.all("networkpolicies"), "the policy gone")


async def test_a_site_whose_namespace_is_open_makes_no_policy(
    site_file: Path, make_hub: MakeHub, kube: FakeKubernetes
) -> None:
    offer_desktops(site_file, policies=False)
    await start_with(await make_hub(), "desk", profile="desktop")
    assert kube.count("*", "networkpolicies") == 0


async def test_a_desktop_whose_policy_is_refused_does_not_start(
    site_file: Path, make_hub: MakeHub, kube: FakeKubernetes
) -> None:
    offer_desktops(site_file, policies=True)
    hub = await make_hub()
    kube.fault(verb="create", resource="networkpolicies", status=403, message="may not make them")
    assert "whose log says why" in await refused(hub, "desk", profile="desktop")
    await until(lambda: not sessions(kube), "its pod gone")


async def test_a_home_is_looked_at_once(hub: Hub, kube: FakeKubernetes) -> None:
    for name in ("one", "two"):
        await hub.start(name)
        await ready(hub, name)
    assert kube.count("create", "jobs") == 1
    (job,) = kube.all("jobs")
    arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[0] == "check"
    assert "--user=astronomer" in arguments
    assert "--uid=10001" in arguments


async def test_a_home_that_is_not_the_users_is_a_refusal(hub: Hub, kube: FakeKubernetes) -> None:
    said = json.dumps({"refused": "owner", "sentence": "Your home belongs to another account."})
    kube.behave("app.kubernetes.io/component=home", Behaviour(crash=Crash(code=3, message=said)))
    told = await refused(hub, "mine")
    assert "Your home belongs to another account. Tell help@example.org." in told
    assert not sessions(kube)
    assert not kube.secrets()


async def test_many_starts_wait_for_their_turn_and_are_told(
    make_hub: MakeHub, kube: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("canfar_spawner.cluster.spawner._AT_ONCE", 1)
    hub = await make_hub()
    await hub.start("other")
    turns = (await ready(hub, "other")).shared.turns
    async with turns.taken(lambda stage: None):
        begin(hub, "first")
        await until(lambda: "0 others are before yours" in stages(hub, "first"), "the queue told")
        begin(hub, "second")
        await until(lambda: "1 other is before yours" in stages(hub, "second"), "the queue told")
        assert len(sessions(kube)) == 1
        assert hub.spawner("second").start_timeout > 60  # what it waits is not charged
    await ready(hub, "first")
    spawner = await ready(hub, "second")
    assert spawner.start_timeout == 60


# Faults of images and clusters


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (Behaviour(crash=Crash(code=3), log="no such\nfile <x>"), "ended with status 3"),
        (Behaviour(crash=Crash(code=137, reason="OOMKilled")), "used more than its 2 GB"),
        (
            Behaviour(crash=Crash(code=128, reason="StartError", message="jupyter: not found")),
            "jupyter: not found",
        ),
        (Behaviour(pull=Pull(failure="ErrImagePull", message="manifest unknown")), "manifest unknown"),
        (Behaviour(pull=Pull(failure="InvalidImageName", message="couldn't parse")), "cannot be had"),
    ],
)
async def test_an_image_at_fault_ends_the_start_at_once(
    make_hub: MakeHub, kube: FakeKubernetes, behaviour: Behaviour, words: str
) -> None:
    hub = await make_hub()
    kube.behave("component=singleuser-server", behaviour)
    assert words in await refused(hub, "mine")
    await until(lambda: not sessions(kube), "no pod left")
    await until(lambda: not kube.secrets(), "no Secret left")
    assert hub.app.tornado_settings.get("failure_count", 0) == 0


async def test_waiting_is_told_and_ends_with_the_reason(make_hub: MakeHub, kube: FakeKubernetes) -> None:
    hub = await make_hub(start_timeout=3)
    kube.behave("component=singleuser-server", Behaviour(unschedulable="0/1 nodes are available."))
    assert "0/1 nodes are available." in await refused(hub, "mine")
    assert not sessions(kube)


async def test_a_quota_is_told(hub: Hub, kube: FakeKubernetes) -> None:
    await hub.start("first")
    await ready(hub, "first")
    kube.quota("exceeded quota: people, requested: pods=1, used: pods=1, limited: pods=1")
    assert "The cluster has no room left" in await refused(hub, "mine")


async def test_a_lost_node_is_told(hub: Hub, kube: FakeKubernetes) -> None:
    await hub.start("mine")
    spawner = await ready(hub, "mine")
    assert spawner.notices == []
    kube.node_ready("node-1", False)
    await until(lambda: spawner.notices, "the notice")
    assert "lost touch with node-1" in spawner.notices[0]
    assert await spawner.poll() is None
    kube.node_ready("node-1", True)
    await until(lambda: not spawner.notices, "no notice")


# Faults of the API


async def test_a_create_whose_answer_is_lost_makes_one_pod(hub: Hub, kube: FakeKubernetes) -> None:
    kube.fault(verb="create", resource="pods", drop=True, took_effect=True)
    await hub.start("mine")
    await ready(hub, "mine")
    assert len(sessions(kube)) == 1
    assert kube.count("delete", "pods") == 0


async def test_a_create_that_is_slow_is_not_killed(hub: Hub, kube: FakeKubernetes) -> None:
    kube.fault(verb="create", resource="pods", delay=30, took_effect=True)
    await hub.start("mine")
    await ready(hub, "mine")
    assert len(sessions(kube)) == 1
    assert kube.count("delete", "pods") == 0


async def test_a_pod_of_an_earlier_start_gives_way(hub: Hub, kube: FakeKubernetes) -> None:
    await hub.start("mine")
    spawner = await ready(hub, "mine")
    (old,) = sessions(kube)
    name = spawner.pod_name
    await hub.stop("mine")
    await over(hub, "mine")
    left = {key: old["metadata"][key] for key in ("name", "labels", "annotations")}
    kube.create("pods", {"metadata": left, "spec": old["spec"]})
    await hub.start("mine")
    await ready(hub, "mine")
    (new,) = sessions(kube)
    assert new["metadata"]["name"] == name
    assert new["metadata"]["annotations"]["canfar.net/start"] == hub.spawner("mine").start_id


@pytest.mark.parametrize("moment", ["before", "running", "stopping"])
async def test_an_outage_of_the_api_loses_nothing(hub: Hub, kube: FakeKubernetes, moment: str) -> None:
    await hub.start("other")
    await ready(hub, "other")
    uid = sessions(kube)[0]["metadata"]["uid"]
    if moment == "before":
        kube.down()
        begin(hub, "mine")
        await until(lambda: "does not answer" in stages(hub, "mine"), "the outage told")
        kube.up()
    else:
        await hub.start("mine")
    await ready(hub, "mine")
    if moment != "before":
        kube.down()
        assert await hub.spawner("other").poll() is None
        stopping = asyncio.ensure_future(hub.stop("mine"))
        if moment == "stopping":
            await until(lambda: hub.spawner("mine").pending == "stop", "the stop begun")
        kube.up()
        await stopping
        await over(hub, "mine")
        assert len(sessions(kube)) == 1
    assert uid in {pod["metadata"]["uid"] for pod in sessions(kube)}
    assert hub.spawner("other").ready


@pytest.mark.parametrize(
    ("verb", "resource"), [("create", "jobs"), ("create", "secrets"), ("create", "pods"), ("patch", "secrets")]
)
@pytest.mark.parametrize("took_effect", [False, True], ids=["undone", "done"])
async def test_an_outage_at_each_stage_of_a_start_loses_and_doubles_nothing(
    hub: Hub, kube: FakeKubernetes, verb: str, resource: str, took_effect: bool
) -> None:
    """The API server breaks off at one call, and is away from then on until the user has been told."""
    kube.fault(verb=verb, resource=resource, drop=True, took_effect=took_effect)
    begin(hub, "mine")
    await until(lambda: kube.count(verb, resource), "the call")
    kube.down()
    if (verb, resource) != ("patch", "secrets"):
        await until(lambda: "does not answer" in stages(hub, "mine"), "the outage told")
    kube.up()
    await until(lambda: "mine" in hub.user.spawners, "the start begun")
    await ready(hub, "mine")
    assert len(sessions(kube)) == 1
    assert len([one for one in kube.secrets() if one["metadata"]["name"].startswith("canfar-")]) == 1
    assert kube.count("delete", "pods") == 0


async def test_an_outage_while_the_pod_is_prepared_is_waited_out(
    make_hub: MakeHub, kube: FakeKubernetes, session: Behaviour
) -> None:
    hub = await make_hub()
    kube.behave("component=singleuser-server", replace(session, unschedulable="0/1 nodes are available."))
    begin(hub, "mine")
    await until(lambda: "0/1 nodes" in stages(hub, "mine"), "the wait told")
    kube.down()
    kube.behave("component=singleuser-server", session)
    await until(lambda: not hub.spawner("mine").shared.pods.is_connected, "the outage noticed")
    kube.up()
    await ready(hub, "mine")
    assert len(sessions(kube)) == 1


@pytest.mark.parametrize("how", ["drop", "compact"])
async def test_a_watch_that_breaks_misses_nothing(hub: Hub, kube: FakeKubernetes, how: str) -> None:
    await hub.start("mine")
    spawner = await ready(hub, "mine")
    if how == "compact":
        kube.compact()
    kube.drop_watches()
    kube.delete("pods", spawner.pod_name, grace=0)
    await until(lambda: not hub.spawner("mine").active, "the end noticed")


async def test_a_pod_that_nobody_knows_is_removed(hub: Hub, kube: FakeKubernetes) -> None:
    await hub.start("mine")
    spawner = await ready(hub, "mine")
    (pod,) = sessions(kube)
    metadata = {**pod["metadata"], "name": "stray"}
    metadata = {key: metadata[key] for key in ("name", "labels", "annotations")}
    metadata["annotations"] = {**metadata["annotations"], "canfar.net/start": "another"}
    kube.create("pods", {"metadata": metadata, "spec": pod["spec"]})
    await until(lambda: "stray" in spawner.shared.pods.pods, "the stray seen")
    await type(spawner).sweep([spawner])
    assert len(sessions(kube)) == 2
    await type(spawner).sweep([spawner])
    await until(lambda: len(sessions(kube)) == 1, "the stray removed")
    assert sessions(kube)[0]["metadata"]["name"] == spawner.pod_name


async def test_many_events_leave_nothing_behind(hub: Hub, kube: FakeKubernetes) -> None:
    await hub.start("mine")
    spawner = await ready(hub, "mine")
    kube.flood(2000)
    await hub.start("next")
    await ready(hub, "next")
    assert not spawner.shared.events._listeners


# What users may not


NOT_ON_OFFER: list[dict[str, Any]] = [
    {"image": "example.org/open@sha256:" + "0" * 64},
    {"image": "example.org/open:2\n"},
    {"image": "example.org/open:2 "},
    {"image": "evil.example.org/x:1"},
    {"volumes": [{"hostPath": {"path": "/"}}]},
    {"profile": "open", "kubespawner_override": {"uid": 0}},
    {"image--unlisted-choice": "evil.example.org/x:1"},
    {"home": "/arc/home/somebody"},
    {"cores": 64},
    {"memory": -1},
    {"name": "a: b\n- c"},
    {"name": "$(id)"},
    {"name": "../../somebody"},
    {"name": "{username}"},
    {"name": "x" * 64},
    {"kind": "desktop"},
]


async def test_what_is_not_on_offer_starts_nothing(hub: Hub, kube: FakeKubernetes) -> None:
    for options in NOT_ON_OFFER:  # on one hub, whose start takes longer than all of them
        answer = await hub.start("mine", **options)
        assert answer.status_code in {400, 403}, options
        assert answer.json()["message"].endswith("."), options
    assert not sessions(kube)
    assert not kube.secrets()
    assert not kube.all("jobs")


async def test_every_name_that_is_one_starts(hub: Hub, kube: FakeKubernetes) -> None:
    for name in ("größe.x", "a--b", "A_B", "0", "x" * 63):
        await hub.start("mine", name=name)
        await ready(hub, "mine")
        assert len(sessions(kube)) == 1, name
        await hub.stop("mine")
        await over(hub, "mine")


# Traits of administrators


async def test_fs_gid_is_refused_with_a_sentence(make_hub: MakeHub) -> None:
    hub = await make_hub(fs_gid=100)
    assert "not set up rightly" in await refused(hub, "mine")
    with pytest.raises(TraitError, match="nodes would give the files of all users"):
        CanfarSpawner.check(hub.app)


async def test_a_profile_list_is_read_at_the_hubs_start_and_for_each_request(make_hub: MakeHub) -> None:
    listed = [{"display_name": "Listed", "kubespawner_override": {"image": "example.org/listed:1"}}]
    hub = await make_hub(profile_list=lambda spawner: listed)
    await hub.start("mine", profile="listed")
    await ready(hub, "mine")
    listed[0] = {"display_name": "Listed", "kubespawner_override": {"privileged": True}}
    assert "cannot be read" in await refused(hub, "next")
    with pytest.raises(TraitError, match="privileged"):
        CanfarSpawner.check(SimpleNamespace(config={"CanfarSpawner": {"profile_list": listed}}))


async def test_a_profile_list_that_raises_is_no_fault_of_the_hub(make_hub: MakeHub) -> None:
    hub = await make_hub(profile_list=lambda spawner: 1 / 0)
    assert "cannot be read" in await refused(hub, "mine")
    assert hub.app.tornado_settings.get("failure_count", 0) == 0


async def test_text_that_a_callable_gives_is_no_template(make_hub: MakeHub, kube: FakeKubernetes) -> None:
    asked: list[Any] = []

    def title(spawner: Any) -> str:
        asked.append(spawner)
        return "{unescaped_username.__class__}"

    hub = await make_hub(environment={"TITLE": title, "N": 3})
    await hub.start("mine")
    await ready(hub, "mine")
    found = {one["name"]: one.get("value") for one in sessions(kube)[0]["spec"]["containers"][0]["env"]}
    assert (found["TITLE"], found["N"]) == ("{unescaped_username.__class__}", "3")
    assert len(asked) == 1


async def test_a_hook_that_fails_leaves_nothing_behind(make_hub: MakeHub, kube: FakeKubernetes) -> None:
    hub = await make_hub(modify_pod_hook=lambda spawner, pod: 1 / 0)
    await hub.start("mine")
    await over(hub, "mine")
    assert not sessions(kube)
    await until(lambda: not kube.secrets(), "no Secret left")


async def test_traits_keep_their_meaning(make_hub: MakeHub, kube: FakeKubernetes) -> None:
    hub = await make_hub(
        node_selector={"zone": "a"},
        extra_labels={"owner": "{username}"},
        environment={"SITE": "ours {username}", "HOME": "/elsewhere"},
        volumes=[{"name": "software", "emptyDir": {}}],
        volume_mounts=[{"name": "software", "mountPath": "/software"}],
        priority_class_name="people",
        modify_pod_hook=_run_as_root,
    )
    await hub.start("mine")
    await ready(hub, "mine")
    (pod,) = sessions(kube)
    main = pod["spec"]["containers"][0]
    environment = {one["name"]: one.get("value") for one in main["env"]}
    assert pod["spec"]["nodeSelector"] == {"zone": "a"}
    assert pod["metadata"]["labels"]["owner"] == "astronomer"
    assert environment["SITE"] == "ours astronomer"
    assert environment["HOME"] == "/arc/home/astronomer"
    assert "/software" in [one["mountPath"] for one in main["volumeMounts"]]
    assert pod["spec"]["priorityClassName"] == "people"
    assert pod["spec"]["securityContext"]["runAsUser"] == 10001
    assert "runAsUser" not in main["securityContext"]
    assert main["resources"]["limits"]["cpu"] == "1"
    assert int(main["resources"]["limits"]["memory"]) == 2 * 10**9
    assert "nvidia.com/gpu" not in main["resources"]["limits"]


def _run_as_root(spawner: Any, pod: Any) -> Any:
    pod.spec.security_context = {"runAsUser": 0, "fsGroup": 0}
    pod.spec.containers[0].security_context = {"runAsUser": 0, "privileged": True}
    pod.spec.containers[0].resources = {"limits": {"cpu": "640", "memory": "640G", "nvidia.com/gpu": "8"}}
    pod.spec.containers[0].env = [
        {"name": "HOME", "value": "/root"},
        {"name": "SITE", "value": "ours astronomer"},
    ]
    return pod
