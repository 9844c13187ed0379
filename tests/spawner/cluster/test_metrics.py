"""What the hub's metrics tell of starts on a cluster, and of the cluster itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from canfar_spawner.cluster import spawner as module
from tests.spawner.cluster.conftest import Hub, MakeHub
from tests.spawner.cluster.test_spawner import begin, over, ready, refused, stages, until
from tests.support.kubernetes_api import Behaviour, Crash, FakeKubernetes, Pull
from tests.support.metrics import Metrics


async def metrics(hub: Hub) -> Metrics:
    answer = await hub.client.get("metrics")
    assert answer.status_code == 200
    return Metrics(answer.text)


async def test_a_start_that_gets_ready_is_measured_by_stage(hub: Hub) -> None:
    before = await metrics(hub)
    await hub.start("mine")
    await ready(hub, "mine")
    after = await metrics(hub)
    assert after.since(before, "canfar_starts_total") == {("notebook", "ready"): 1}
    assert after.since(before, "canfar_refusals_total") == {}
    stages = ("queue", "credentials", "home", "made", "node", "container", "answer", "whole")
    counts = after.since(before, "canfar_start_seconds_count")
    assert counts == {("notebook", stage): 1 for stage in stages}
    seconds = after.since(before, "canfar_start_seconds_sum")
    whole = seconds.pop(("notebook", "whole"))
    assert 0 < sum(seconds.values()) <= whole


QUOTA = "exceeded quota: people, requested: pods=1, used: pods=1, limited: pods=1"


@pytest.mark.parametrize(
    ("behaviour", "quota", "outcome", "codes"),
    [
        (Behaviour(crash=Crash(code=1)), "", "image", []),
        (Behaviour(pull=Pull(failure="ErrImagePull", message="manifest unknown")), "", "image", []),
        (Behaviour(), QUOTA, "no-room", ["quota"]),
        (Behaviour(), "limited to five pods on Mondays", "cluster", ["cluster"]),
    ],
)
async def test_a_start_that_fails_is_counted_by_its_outcome(
    hub: Hub, kube: FakeKubernetes, behaviour: Behaviour, quota: str, outcome: str, codes: list[str]
) -> None:
    await hub.start("first")  # whose home is looked at
    await ready(hub, "first")
    before = await metrics(hub)
    kube.behave("hub.jupyter.org/servername=mine", behaviour)
    kube.quota(quota)
    await refused(hub, "mine")
    after = await metrics(hub)
    assert after.since(before, "canfar_starts_total") == {("notebook", outcome): 1}
    assert after.since(before, "canfar_refusals_total") == {(code,): 1 for code in codes}
    assert ("notebook", "whole") not in after.since(before, "canfar_start_seconds_count")


async def test_a_start_that_finds_no_node_is_counted_as_one_without_room(
    make_hub: MakeHub, kube: FakeKubernetes
) -> None:
    hub = await make_hub(start_timeout=3)
    before = await metrics(hub)
    kube.behave("component=singleuser-server", Behaviour(unschedulable="0/1 nodes are available."))
    await refused(hub, "mine")
    after = await metrics(hub)
    assert after.since(before, "canfar_starts_total") == {("notebook", "no-room"): 1}
    assert after.since(before, "canfar_refusals_total") == {("slow",): 1}


async def test_a_start_that_its_owner_ends_is_no_failure(
    hub: Hub, kube: FakeKubernetes, session: Behaviour
) -> None:
    before = await metrics(hub)
    kube.behave("component=singleuser-server", replace(session, unschedulable="0/1 nodes are available."))
    begin(hub, "mine")
    await until(lambda: "0/1 nodes" in stages(hub, "mine"), "the wait told")
    await hub.stop("mine")
    await over(hub, "mine")
    assert (await metrics(hub)).since(before, "canfar_starts_total") == {("notebook", "stopped"): 1}


async def test_a_home_that_is_not_there_is_a_refusal(hub: Hub, kube: FakeKubernetes) -> None:
    before = await metrics(hub)
    missing = Crash(code=1, message='{"sentence": "There is no home for you."}')
    kube.behave("app.kubernetes.io/component=home", Behaviour(crash=missing))
    await refused(hub, "mine")
    after = await metrics(hub)
    assert after.since(before, "canfar_starts_total") == {("notebook", "refused"): 1}
    assert after.since(before, "canfar_refusals_total") == {("storage",): 1}


async def test_the_queue_is_told(
    make_hub: MakeHub, kube: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 1)
    hub = await make_hub(k8s_api_request_timeout=60)  # none is made twice on a slow machine
    await hub.start("first")  # whose home is looked at
    await ready(hub, "first")
    stuck = kube.fault(verb="create", resource="pods", delay=600, took_effect=True)
    for name in ("second", "third"):
        begin(hub, name)
    await until(lambda: "in the queue" in stages(hub, "second") + stages(hub, "third"), "the wait told")
    assert (await metrics(hub)).value("canfar_starts_queued") == 1
    kube.heal(stuck)
    for name in ("second", "third"):
        await until(lambda name=name: name in hub.user.spawners, "begun")
        await ready(hub, name)
    assert (await metrics(hub)).value("canfar_starts_queued") == 0


async def test_whether_the_api_server_answers_is_told(hub: Hub, kube: FakeKubernetes) -> None:
    await hub.start("mine")
    spawner = await ready(hub, "mine")
    name = "canfar_cluster_connected"

    async def both(value: float) -> bool:
        found = await metrics(hub)
        return [found.value(name, watch=watch) for watch in ("sessions", "events")] == [value] * 2

    await until(lambda: both(1), "connected")
    told: list[bool] = []
    spawner.shared.pods._note = told.append  # what it says of the whole outage
    kube.down()
    await until(lambda: len(told) > 2, "some attempts")
    assert set(told) == {False}  # though it tries again all the time
    del spawner.shared.pods._note
    await until(lambda: both(0), "not connected")
    kube.up()
    await until(lambda: both(1), "connected again")


async def test_a_watch_that_is_refused_is_not_connected(hub: Hub, kube: FakeKubernetes) -> None:
    await hub.start("mine")
    await ready(hub, "mine")
    kube.fault(verb="watch", resource="pods", status=403)
    kube.drop_watches()

    async def deaf() -> bool:
        return (await metrics(hub)).value("canfar_cluster_connected", watch="sessions") == 0

    await until(deaf, "told")
    kube.heal()

    async def hears() -> bool:
        return (await metrics(hub)).value("canfar_cluster_connected", watch="sessions") == 1

    await until(hears, "heals")


async def test_labels_hold_nobodys_name(hub: Hub, kube: FakeKubernetes) -> None:
    await hub.start("mine", name="Deep field")
    spawner = await ready(hub, "mine")
    await hub.start("other", image="evil.example.org/x:1")
    found = await metrics(hub)
    known: dict[str, Any] = {}
    for _, labels in found.own:
        for label, value in labels.items():
            known.setdefault(label, set()).add(value)
    assert known.keys() <= {"kind", "outcome", "stage", "le", "code", "credential", "what", "watch"}
    values = {value for label in known for value in known[label]}
    for private in ("astronomer", "mine", "Deep field", spawner.spec.id, "evil", "example.org", "/"):
        assert not [value for value in values if private in value]
