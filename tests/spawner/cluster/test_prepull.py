"""Which images the nodes have already: what is made of the pods, and what the picker is told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from canfar_spawner.cluster.prepull import OnNodes, on_nodes, reduce_pod
from canfar_spawner.planned import _site
from tests.spawner.cluster.conftest import Hub, MakeHub
from tests.spawner.cluster.test_spawner import ready, until
from tests.support.kubernetes_api import Behaviour, FakeKubernetes

ONE, TWO = "example.org/open:1", "example.org/open:2"
NAMESPACE = "canfar"

WAITING: dict[str, Any] = {"waiting": {"reason": "ContainerCreating"}}
THERE: dict[str, Any] = {"running": {}}
FAILED = {"terminated": {"exitCode": 128, "reason": "StartError"}}
NO_IMAGE = {"waiting": {"reason": "ImagePullBackOff"}}


def pod(name: str, node: str, images: list[str], *states: dict[str, Any]) -> dict[str, Any]:
    """A pod with one container for each image, in these states; its status spells images otherwise."""
    names = [f"image-{number}" for number in range(len(images))]
    containers = [{"name": one, "image": image} for one, image in zip(names, images, strict=True)]
    statuses = [
        {
            "name": one,
            "image": f"docker.io/library/{number}",
            "imageID": "" if "waiting" in state else f"sha256:{number}",
            "state": state,
        }
        for number, (one, state) in enumerate(zip(names, states, strict=False))
    ]
    spec = {"containers": containers, **({"nodeName": node} if node else {})}
    labels = {"app.kubernetes.io/component": "prepull"}
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
        "status": {"containerStatuses": statuses} if states else {},
    }


BOTH = [ONE, TWO]


@pytest.mark.parametrize(
    ("pods", "found"),
    [
        ([], {}),
        ([pod("a", "n1", BOTH, THERE, THERE)], {ONE: (1, 1), TWO: (1, 1)}),
        (
            [pod("a", "n1", BOTH, THERE, WAITING), pod("b", "n2", BOTH, THERE, THERE)],
            {ONE: (2, 2), TWO: (1, 2)},
        ),
        # Not yet: no status, no node, an image that cannot be had.
        ([pod("a", "n1", [ONE])], {ONE: (0, 1)}),
        ([pod("a", "", [ONE]), pod("b", "", [ONE])], {ONE: (0, 2)}),
        ([pod("a", "n1", [ONE], NO_IMAGE)], {ONE: (0, 1)}),
        # One that cannot be had keeps no other away. A program that is not there: the image is.
        ([pod("a", "n1", BOTH, NO_IMAGE, THERE)], {ONE: (0, 1), TWO: (1, 1)}),
        ([pod("a", "n1", [ONE], FAILED)], {ONE: (1, 1)}),
        # The DaemonSet is changed: an old pod ends beside a new one on its node, and on another comes later.
        ([pod("old", "n1", [ONE], THERE), pod("new", "n1", BOTH)], {ONE: (1, 1), TWO: (0, 1)}),
        ([pod("a", "n1", BOTH, THERE, THERE), pod("b", "n2", [ONE], THERE)], {ONE: (2, 2), TWO: (1, 2)}),
        # Whatever somebody labels so.
        ([{"metadata": {"name": "a"}}, pod("b", "n1", [ONE], THERE)], {ONE: (1, 2)}),
    ],
)
def test_how_many_nodes_have_an_image(pods: list[dict[str, Any]], found: dict[str, tuple[int, int]]) -> None:
    assert on_nodes(map(reduce_pod, pods)) == {image: OnNodes(*counts) for image, counts in found.items()}


@pytest.fixture
def pulling(kube: FakeKubernetes, site_file: Path) -> FakeKubernetes:
    """A cluster where two pods pull, on two nodes, and a site that says where."""
    settings = yaml.safe_load(site_file.read_text())
    settings["cluster"]["prepull_namespace"] = NAMESPACE
    site_file.write_text(yaml.safe_dump(settings))
    _site.cache_clear()
    kube.behave("app.kubernetes.io/component=prepull", Behaviour(unschedulable="The test says how they do."))
    kube.create("namespaces", {"metadata": {"name": NAMESPACE}})
    for made in (pod("a", "node-1", [TWO]), pod("b", "node-2", [TWO])):
        kube.create("pods", made, NAMESPACE)
    return kube


def tell(kube: FakeKubernetes, name: str, *states: dict[str, Any]) -> None:
    """What the kubelet says of a pod's containers."""
    kube.edit("pods", name, {"status": pod(name, "", [TWO], *states)["status"]}, NAMESPACE)


async def shown(hub: Hub) -> dict[str, Any]:
    """What the page “New session” says of nodes."""
    form = await hub.user.spawners[""].get_options_form()
    offer = re.search(r'<script type="application/json" id="picker-offer">(.*?)</script>', form, re.DOTALL)
    assert offer, form
    found: dict[str, Any] = json.loads(offer[1])["on_nodes"]
    return found


async def test_the_picker_follows_the_nodes(make_hub: MakeHub, pulling: FakeKubernetes) -> None:
    hub = await make_hub()

    async def says(nodes: int, of: int) -> None:
        async def it_does() -> bool:
            return await shown(hub) == {TWO: {"nodes": nodes, "of": of}}  # nothing of what nobody pulls

        await until(it_does, f"{nodes} of {of}")

    await says(0, 2)
    tell(pulling, "a", THERE)
    await says(1, 2)
    tell(pulling, "b", THERE)
    await says(2, 2)
    pulling.drop_watches()
    pulling.delete("pods", "b", grace=0, namespace=NAMESPACE)
    await says(1, 1)


async def test_the_picker_and_starts_need_none_of_it(make_hub: MakeHub, pulling: FakeKubernetes) -> None:
    hub = await make_hub(k8s_api_request_timeout=60)  # no call is made twice on a slow machine
    tell(pulling, "a", THERE)

    async def known() -> dict[str, Any]:
        return await shown(hub)

    before = await until(known, "known")
    await hub.start("first")
    await ready(hub, "first")
    asked = len(pulling.requests)
    await hub.start("second")
    await ready(hub, "second")
    assert len(pulling.requests) == asked + 3
    pulling.down()
    prepull = hub.spawner("first").shared.prepull
    await until(lambda: not prepull.is_connected, "the outage noticed")
    assert await shown(hub) == before
    pulling.up()
    await until(lambda: prepull.is_connected, "the API server back")
    tell(pulling, "b", THERE)

    async def both() -> bool:
        return await shown(hub) == {TWO: {"nodes": 2, "of": 2}}

    await until(both, "the change seen")


async def test_without_the_setting_nothing_is_watched_and_nothing_is_shown(
    hub: Hub, kube: FakeKubernetes
) -> None:
    kube.create("namespaces", {"metadata": {"name": NAMESPACE}})
    kube.create("pods", pod("a", "node-1", [TWO], THERE), NAMESPACE)
    await hub.start("first")
    await ready(hub, "first")
    assert await shown(hub) == {}
    assert not [one for one in kube.requests if one.namespace == NAMESPACE]
