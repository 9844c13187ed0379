"""Which images the cluster's nodes have already: told by the pods of a DaemonSet that pulls them ahead.

Each of its pods has one container for each image, which sleeps.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from canfar_spawner.cluster.api import Api
from canfar_spawner.cluster.watch import Watch

SELECTOR = "app.kubernetes.io/component=prepull"


@dataclass(frozen=True, slots=True)
class PrepullPod:
    """One pod of the DaemonSet, as last told."""

    node: str
    """Its node; until it has one, its own name, which stands for a node just as well."""
    named: frozenset[str]
    """The images that it pulls, spelled as in the catalogue."""
    pulled: frozenset[str]


@dataclass(frozen=True, slots=True)
class OnNodes:
    """How many of the nodes have an image."""

    nodes: int
    of: int


def reduce_pod(pod: Mapping[str, Any]) -> PrepullPod:
    """What is kept of a pod, an object of the core API's v1 in JSON. Pure.

    A container's status may spell its image in another way, so the pod's specification says which it is.
    """
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    images = {one["name"]: one["image"] for one in spec.get("containers") or ()}
    # A kubelet names the image's id as soon as it has made the container, whatever becomes of that.
    there = {one["name"] for one in status.get("containerStatuses") or () if one.get("imageID")}
    return PrepullPod(
        spec.get("nodeName") or pod["metadata"]["name"],
        frozenset(images.values()),
        frozenset(image for name, image in images.items() if name in there),
    )


def on_nodes(pods: Iterable[PrepullPod]) -> dict[str, OnNodes]:
    """How many nodes have each image that a pod names. Pure.

    While the DaemonSet is changed, a node has an old pod and a new one: what either has pulled, it has.
    """
    pulled: defaultdict[str, set[str]] = defaultdict(set)
    named: set[str] = set()
    for pod in pods:
        pulled[pod.node] |= pod.pulled
        named |= pod.named
    having = Counter(image for images in pulled.values() for image in images)
    return {image: OnNodes(having[image], len(pulled)) for image in named}


class PrepullWatch(Watch):
    """The pods of the DaemonSet. What was told last counts while the API server does not answer."""

    name = "prepull"

    def __init__(self, api: Api, namespace: str) -> None:
        super().__init__(api, f"/api/v1/namespaces/{namespace}/pods", labelSelector=SELECTOR)
        self._pods: dict[str, PrepullPod] = {}
        self._found: dict[str, OnNodes] | None = None

    @property
    def on_nodes(self) -> Mapping[str, OnNodes]:
        """See `on_nodes`; counted again only after a change."""
        if self._found is None:
            self._found = on_nodes(self._pods.values())
        return self._found

    async def _list(self) -> str:
        self._pods, version = await self._all(reduce_pod)
        self._found = None
        return version

    def apply(self, kind: str, found: Mapping[str, Any]) -> None:
        """Keeps what is new of a pod."""
        name = found["metadata"]["name"]
        if kind == "DELETED":
            self._pods.pop(name, None)
        else:
            self._pods[name] = reduce_pod(found)
        self._found = None
