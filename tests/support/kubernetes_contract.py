"""What the hub relies on in a Kubernetes API, held against the fake one and against a real cluster alike.

Tests derive a class from ``KubernetesContract`` and give it the fixture ``cluster``. Nothing in here asks which
of the two it is talking to, and nothing is skipped.
"""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
from kubernetes_asyncio import client, config, watch
from kubernetes_asyncio.client.exceptions import ApiException

from tests.support.kubernetes_api import Behaviour, Crash, FakeKubernetes, Pull

PATIENCE = 120.0  # seconds; how long a cluster on a busy machine may take for one step
IMAGE = "docker.io/library/debian:bookworm-slim"
MERGE = "application/merge-patch+json"
TOO_FEW_CORES = "0/1 nodes are available: 1 Insufficient cpu."

Object = dict[str, Any]

# What the programs below do in a real pod, the fake is told: each pod says so in its label ``life``.
LIVES = {
    "exits": Behaviour(crash=Crash(code=3), log="one\ntwo\nthree\n"),
    "succeeds": Behaviour(crash=Crash(code=0), log="done\n"),
    "crashes": Behaviour(crash=Crash(code=4)),
    "stubborn": Behaviour(stop_seconds=3600),
    "greedy": Behaviour(crash=Crash(code=137, reason="OOMKilled")),
    "absent": Behaviour(pull=Pull(failure="ImagePullBackOff")),
    "misnamed": Behaviour(pull=Pull(failure="InvalidImageName", message="invalid reference format")),
    "large": Behaviour(unschedulable=TOO_FEW_CORES),
    "unready": Behaviour(ready_seconds=None),
    "uninitialised": Behaviour(init_crash=Crash(code=5)),
}


@dataclass(frozen=True)
class Cluster:
    """A namespace of its own in one of the two."""

    api: client.ApiClient
    namespace: str
    refuse_pods: Callable[[], Awaitable[None]]
    """Makes the cluster refuse further pods for want of quota."""

    @property
    def core(self) -> Any:
        return client.CoreV1Api(self.api)

    @property
    def batch(self) -> Any:
        return client.BatchV1Api(self.api)

    @property
    def policies(self) -> Any:
        return client.NetworkingV1Api(self.api)

    async def events(self, selector: str) -> list[Object]:
        """The Events that a field selector finds."""
        listed = await self.core.list_namespaced_event(self.namespace, field_selector=selector)
        return [raw(item) for item in listed.items]


async def quota_of_none(core: Any, namespace: str) -> None:
    """Makes a real cluster refuse pods in a namespace."""
    await core.create_namespaced_resource_quota(
        namespace, {"metadata": {"name": "sessions"}, "spec": {"hard": {"pods": "0"}}}
    )

    async def counted() -> bool:
        found = await core.read_namespaced_resource_quota("sessions", namespace)
        return bool(found.status.hard)

    await eventually(counted, "the quota in force")


@asynccontextmanager
async def real_cluster(kubeconfig: str) -> AsyncIterator[Cluster]:
    """A new namespace of the cluster that a kubeconfig file names."""
    configuration = client.Configuration()
    await config.load_kube_config(kubeconfig, client_configuration=configuration)
    async with client.ApiClient(configuration) as api:
        core = client.CoreV1Api(api)
        async with namespace(core) as name:
            yield Cluster(api, name, partial(quota_of_none, core, name))


@asynccontextmanager
async def fake_cluster(kube: FakeKubernetes, kubeconfig: str) -> AsyncIterator[Cluster]:
    """A new namespace of the fake, which is told how the contract's pods live."""
    for name, behaviour in LIVES.items():
        kube.behave(f"life={name}", behaviour)

    async def refuse() -> None:
        kube.quota("exceeded quota: sessions, requested: pods=1, used: pods=0, limited: pods=0")

    async with real_cluster(kubeconfig) as cluster:
        yield replace(cluster, refuse_pods=refuse)


@asynccontextmanager
async def namespace(core: Any) -> AsyncIterator[str]:
    name = f"contract-{uuid.uuid4().hex[:8]}"
    await core.create_namespace({"metadata": {"name": name}})
    try:

        async def has_account() -> bool:
            accounts = await core.list_namespaced_service_account(name)
            return any(account.metadata.name == "default" for account in accounts.items)

        await eventually(has_account, "the namespace's service account")
        yield name
    finally:
        await core.delete_namespace(name)


async def eventually(condition: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Asks until the answer is something true, and returns it."""
    try:
        async with asyncio.timeout(PATIENCE):
            found = await condition()
            while not found:
                await asyncio.sleep(0.05)
                found = await condition()
            return found
    except TimeoutError:
        raise AssertionError(f"{what} did not happen within {PATIENCE:.0f} s") from None


@asynccontextmanager
async def refused(code: int, reason: str) -> AsyncIterator[Object]:
    """Expects an answer that is a Status object, and gives it."""
    found: Object = {}
    with pytest.raises(ApiException) as caught:
        yield found
    found |= json.loads(caught.value.body or "{}")
    assert (caught.value.status, found["code"], found["reason"]) == (code, code, reason), found
    assert found["kind"] == "Status"
    assert found["status"] == "Failure"


def raw(item: Any) -> Object:
    """A model of the client as plain JSON."""
    found: Object = client.ApiClient().sanitize_for_serialization(item)
    return found


def secret(name: str, **metadata: Any) -> Object:
    return {"metadata": {"name": name, **metadata}, "data": {"token": encoded("one")}}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def pod(name: str, script: str = "exec sleep 3600", life: str = "", **spec: Any) -> Object:
    """A pod that runs a shell's script, and in the fake lives as LIVES has it."""
    container = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
        **spec.pop("container", {}),
    }
    own = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": False}
    labels = {"life": life or "plain", "app": name}
    return {"metadata": {"name": name, "labels": labels}, "spec": {**own, "containers": [container], **spec}}


def job(name: str, script: str, life: str, **spec: Any) -> Object:
    template = pod("unnamed", script, life)
    del template["metadata"]["name"]
    return {"metadata": {"name": name}, "spec": {"backoffLimit": 0, "template": template, **spec}}


def conditions(item: Object) -> dict[str, Object]:
    """The conditions of an object by their type."""
    return {one["type"]: one for one in item.get("status", {}).get("conditions") or []}


def state(item: Object, kind: str, key: str = "containerStatuses") -> Object:
    """The state of the first container, if it is of that kind; empty otherwise."""
    statuses = item["status"].get(key) or [{}]
    found: Object = statuses[0].get("state", {}).get(kind) or {}
    return found


def is_ready(item: Object) -> bool:
    return bool(conditions(item).get("Ready", {}).get("status") == "True")


Seen = list[tuple[str, Object]]


async def follow(
    listing: Any, version: str, done: Callable[[Seen], Any], **selectors: str
) -> list[tuple[str, Object]]:
    """Watches from a version on until ``done``, and returns the types and the objects."""
    seen: Seen = []
    try:
        async with asyncio.timeout(PATIENCE), watch.Watch() as watcher:
            stream = watcher.stream(
                listing, resource_version=version, timeout_seconds=int(2 * PATIENCE), **selectors
            )
            async for event in stream:
                seen.append((event["type"], event["raw_object"]))
                if done(seen):
                    return seen
    except TimeoutError:
        pass
    summary = [(type, item["metadata"]["name"], item.get("status")) for type, item in seen]
    raise AssertionError(f"not seen within {PATIENCE:.0f} s: {summary}")


async def until_pod(cluster: Cluster, name: str, met: Callable[[Object], Any]) -> Object:
    """Waits until a pod is as expected, by a watch, and returns it."""
    selector = f"metadata.name={name}"
    pods = cluster.core.list_namespaced_pod
    seen = await follow(listing_in(pods, cluster), "0", lambda seen: met(seen[-1][1]), field_selector=selector)
    return seen[-1][1]


def listing_in(method: Any, cluster: Cluster) -> Any:
    """The list method for the cluster's namespace; ``Watch`` reads its documentation."""
    found = partial(method, cluster.namespace)
    found.__doc__ = method.__doc__
    return found


async def until_event(cluster: Cluster, uid: str, reason: str) -> Object:
    """Waits for an Event about an object, and returns it."""

    async def find() -> Object | None:
        selector = f"involvedObject.uid={uid},reason={reason}"
        return next(iter(await cluster.events(selector)), None)

    found: Object = await eventually(find, f"an Event {reason}")
    return found


class KubernetesContract:
    """The contract. A test that a class leaves out or replaces would be a contract for one side only."""

    def __init_subclass__(cls) -> None:
        changed = [name for name in vars(cls) if name.startswith("test") and hasattr(KubernetesContract, name)]
        if changed:
            raise TypeError(f"The contract is the same for all. Take away: {', '.join(changed)}.")

    # ---- objects

    async def test_a_watch_sees_what_came_after_the_list(self, cluster: Cluster) -> None:
        await cluster.core.create_namespaced_secret(cluster.namespace, secret("before"))
        listed = await cluster.core.list_namespaced_secret(cluster.namespace)
        assert "before" in {item.metadata.name for item in listed.items}
        made = await cluster.core.create_namespaced_secret(cluster.namespace, secret("after"))
        await cluster.core.patch_namespaced_secret("after", cluster.namespace, {"data": {"more": encoded("x")}})
        await cluster.core.delete_namespaced_secret("after", cluster.namespace)
        listing = listing_in(cluster.core.list_namespaced_secret, cluster)
        seen = await follow(listing, listed.metadata.resource_version, lambda seen: len(seen) == 3)
        assert [(type, item["metadata"]["name"]) for type, item in seen] == [
            ("ADDED", "after"),
            ("MODIFIED", "after"),
            ("DELETED", "after"),
        ]
        versions = [int(item["metadata"]["resourceVersion"]) for _, item in seen]
        assert versions == sorted(set(versions))
        assert {item["metadata"]["uid"] for _, item in seen} == {made.metadata.uid}
        assert seen[0][1]["kind"] == "Secret"
        assert seen[0][1]["apiVersion"] == "v1"

    async def test_a_watch_that_is_open_sees_a_creation(self, cluster: Cluster) -> None:
        listed = await cluster.core.list_namespaced_secret(cluster.namespace)
        listing = listing_in(cluster.core.list_namespaced_secret, cluster)
        version = listed.metadata.resource_version
        watching = asyncio.create_task(follow(listing, version, lambda seen: len(seen) == 2))
        await cluster.core.create_namespaced_secret(cluster.namespace, secret("a"))
        await cluster.core.create_namespaced_secret(cluster.namespace, secret("b"))
        assert [(type, item["metadata"]["name"]) for type, item in await watching] == [
            ("ADDED", "a"),
            ("ADDED", "b"),
        ]

    async def test_a_watch_without_a_version_begins_with_what_is_there(self, cluster: Cluster) -> None:
        await cluster.core.create_namespaced_secret(cluster.namespace, secret("there"))
        listing = listing_in(cluster.core.list_namespaced_secret, cluster)
        for version in ("", "0"):
            seen = await follow(listing, version, lambda seen: seen[-1][1]["metadata"]["name"] == "there")
            assert seen[-1][0] == "ADDED"

    async def test_a_watch_ends_when_its_time_is_over(self, cluster: Cluster) -> None:
        listing = listing_in(cluster.core.list_namespaced_secret, cluster)
        async with asyncio.timeout(PATIENCE), watch.Watch() as watcher:
            async for _ in watcher.stream(listing, timeout_seconds=1):
                pass

    async def test_a_watch_with_a_selector_is_told_what_left_it(self, cluster: Cluster) -> None:
        listed = await cluster.core.list_namespaced_secret(cluster.namespace)
        await cluster.core.create_namespaced_secret(cluster.namespace, secret("in", labels={"of": "hub"}))
        await cluster.core.create_namespaced_secret(cluster.namespace, secret("out", labels={"of": "other"}))
        for name, label in (("in", "other"), ("out", "hub")):
            change = {"metadata": {"labels": {"of": label}}}
            await cluster.core.patch_namespaced_secret(name, cluster.namespace, change, _content_type=MERGE)
        listing = listing_in(cluster.core.list_namespaced_secret, cluster)
        version = listed.metadata.resource_version
        seen = await follow(listing, version, lambda seen: len(seen) == 3, label_selector="of=hub")
        assert [(type, item["metadata"]["name"]) for type, item in seen] == [
            ("ADDED", "in"),
            ("DELETED", "in"),
            ("ADDED", "out"),
        ]

    async def test_a_second_creation_is_refused(self, cluster: Cluster) -> None:
        await cluster.core.create_namespaced_secret(cluster.namespace, secret("one"))
        async with refused(409, "AlreadyExists") as status:
            await cluster.core.create_namespaced_secret(cluster.namespace, secret("one"))
        assert status["message"] == 'secrets "one" already exists'
        assert status["details"] == {"name": "one", "kind": "secrets"}

    async def test_the_server_gives_an_object_its_identity(self, cluster: Cluster) -> None:
        made = raw(await cluster.core.create_namespaced_secret(cluster.namespace, secret("one")))
        assert {"uid", "creationTimestamp", "resourceVersion"} <= made["metadata"].keys()
        assert made["metadata"]["namespace"] == cluster.namespace
        assert made["type"] == "Opaque"
        body = secret("")
        del body["metadata"]["name"]
        body["metadata"]["generateName"] = "some-"
        named = await cluster.core.create_namespaced_secret(cluster.namespace, body)
        assert named.metadata.name.startswith("some-")
        assert len(named.metadata.name) == len("some-") + 5

    async def test_what_is_written_as_text_is_kept_as_data(self, cluster: Cluster) -> None:
        body = {"metadata": {"name": "one"}, "stringData": {"token": "text"}}
        made = await cluster.core.create_namespaced_secret(cluster.namespace, body)
        assert made.data == {"token": encoded("text")}
        assert made.string_data is None

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param({"metadata": {"name": "Upper"}}, id="name"),
            pytest.param({"metadata": {"name": "a", "labels": {"user": "a@b.org"}}}, id="label"),
            pytest.param({"metadata": {"name": "a", "labels": {"user": "x" * 64}}}, id="long label"),
            pytest.param({"metadata": {"name": "a"}, "data": {"a/b": ""}}, id="key"),
            pytest.param({"metadata": {}}, id="no name"),
        ],
    )
    async def test_what_is_not_valid_is_refused(self, cluster: Cluster, body: Object) -> None:
        async with refused(422, "Invalid"):
            await cluster.core.create_namespaced_secret(cluster.namespace, body)

    @pytest.mark.parametrize(
        "data", [{"other": encoded("{}")}, {".dockerconfigjson": encoded("no JSON")}], ids=["key", "form"]
    )
    async def test_a_pull_secret_without_its_json_is_refused(self, cluster: Cluster, data: Object) -> None:
        body = {"metadata": {"name": "a"}, "type": "kubernetes.io/dockerconfigjson", "data": data}
        async with refused(422, "Invalid"):
            await cluster.core.create_namespaced_secret(cluster.namespace, body)

    async def test_a_pull_secret_keeps_its_type(self, cluster: Cluster) -> None:
        kind = "kubernetes.io/dockerconfigjson"
        body = {
            "metadata": {"name": "a"},
            "type": kind,
            "data": {".dockerconfigjson": encoded('{"auths": {}}')},
        }
        made = await cluster.core.create_namespaced_secret(cluster.namespace, body)
        assert made.type == kind

    async def test_what_cannot_be_read_is_refused(self, cluster: Cluster) -> None:
        body = {"metadata": {"name": "a"}, "data": {"token": "not base64!"}}
        async with refused(400, "BadRequest"):
            await cluster.core.create_namespaced_secret(cluster.namespace, body)

    async def test_a_merge_patch_changes_what_it_names(self, cluster: Cluster) -> None:
        owner = await cluster.core.create_namespaced_config_map(
            cluster.namespace, {"metadata": {"name": "owner"}}
        )
        made = await cluster.core.create_namespaced_secret(cluster.namespace, secret("one"))
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid}
        change = {
            "metadata": {"ownerReferences": [reference]},
            "data": {"token": None, "fresh": encoded("two")},
        }
        patched = raw(
            await cluster.core.patch_namespaced_secret("one", cluster.namespace, change, _content_type=MERGE)
        )
        assert patched["data"] == {"fresh": encoded("two")}
        assert [found["uid"] for found in patched["metadata"]["ownerReferences"]] == [owner.metadata.uid]
        assert patched["metadata"]["uid"] == made.metadata.uid
        assert patched["metadata"]["resourceVersion"] != made.metadata.resource_version

    async def test_a_patch_that_changes_nothing_makes_no_version(self, cluster: Cluster) -> None:
        made = await cluster.core.create_namespaced_secret(cluster.namespace, secret("one"))
        change = {"data": {"token": encoded("one")}}
        patched = await cluster.core.patch_namespaced_secret("one", cluster.namespace, change)
        assert patched.metadata.resource_version == made.metadata.resource_version

    async def test_a_json_patch_changes_what_it_names(self, cluster: Cluster) -> None:
        await cluster.core.create_namespaced_secret(cluster.namespace, secret("one"))
        change = [
            {"op": "test", "path": "/data/token", "value": encoded("one")},
            {"op": "replace", "path": "/data/token", "value": encoded("two")},
            {"op": "add", "path": "/metadata/labels", "value": {}},
            {"op": "add", "path": "/metadata/labels/example.org~1of", "value": "hub"},
        ]
        patched = await cluster.core.patch_namespaced_secret("one", cluster.namespace, change)
        assert patched.data == {"token": encoded("two")}
        assert patched.metadata.labels == {"example.org/of": "hub"}
        async with refused(422, "Invalid"):
            await cluster.core.patch_namespaced_secret("one", cluster.namespace, change)

    async def test_a_replacement_of_an_old_version_is_refused(self, cluster: Cluster) -> None:
        made = await cluster.core.create_namespaced_secret(cluster.namespace, secret("one"))
        body = {"metadata": {"name": "one", "resourceVersion": made.metadata.resource_version}, "data": {}}
        body["data"] = {"token": encoded("two")}
        replaced = await cluster.core.replace_namespaced_secret("one", cluster.namespace, body)
        assert replaced.data == {"token": encoded("two")}
        async with refused(409, "Conflict") as status:
            await cluster.core.replace_namespaced_secret("one", cluster.namespace, body)
        assert "the object has been modified" in status["message"]

    @pytest.mark.parametrize(
        ("selector", "found"),
        [
            ("app=a", {"one", "two"}),
            ("app==a,tier=front", {"one"}),
            ("app!=a", {"three", "none"}),
            ("app in (a, b)", {"one", "two", "three"}),
            ("app notin (a)", {"three", "none"}),
            ("tier", {"one", "three"}),
            ("!tier", {"two", "none"}),
            ("app,tier notin (back)", {"one", "two"}),
        ],
    )
    async def test_a_list_with_a_label_selector(self, cluster: Cluster, selector: str, found: set[str]) -> None:
        made = {
            "one": {"app": "a", "tier": "front"},
            "two": {"app": "a"},
            "three": {"app": "b", "tier": "back"},
            "none": {},
        }
        for name, labels in made.items():
            body = {"metadata": {"name": name, "labels": labels}}
            await cluster.core.create_namespaced_config_map(cluster.namespace, body)
        listed = await cluster.core.list_namespaced_config_map(cluster.namespace, label_selector=selector)
        assert {item.metadata.name for item in listed.items} - {"kube-root-ca.crt"} == found

    async def test_a_field_selector_that_is_not_known_is_refused(self, cluster: Cluster) -> None:
        async with refused(400, "BadRequest"):
            await cluster.core.list_namespaced_pod(cluster.namespace, field_selector="spec.nonsense=1")

    async def test_a_list_comes_in_pages(self, cluster: Cluster) -> None:
        for name in ("one", "two", "three"):
            await cluster.core.create_namespaced_secret(cluster.namespace, secret(name, labels={"of": "pages"}))
        first = await cluster.core.list_namespaced_secret(cluster.namespace, label_selector="of=pages", limit=2)
        assert [item.metadata.name for item in first.items] == ["one", "three"]
        rest = await cluster.core.list_namespaced_secret(
            cluster.namespace, label_selector="of=pages", limit=2, _continue=first.metadata._continue
        )
        assert [item.metadata.name for item in rest.items] == ["two"]
        assert not rest.metadata._continue

    async def test_what_is_not_there_is_not_found(self, cluster: Cluster) -> None:
        core, space = cluster.core, cluster.namespace
        calls: list[tuple[str, Callable[[], Awaitable[Any]]]] = [
            ("pods", lambda: core.read_namespaced_pod("none", space)),
            ("pods", lambda: core.delete_namespaced_pod("none", space)),
            ("pods", lambda: core.read_namespaced_pod_log("none", space)),
            ("secrets", lambda: core.patch_namespaced_secret("none", space, {"data": {}})),
            ("jobs.batch", lambda: cluster.batch.read_namespaced_job("none", space)),
            ("namespaces", lambda: core.create_namespaced_secret("none", secret("one"))),
        ]
        for title, call in calls:
            async with refused(404, "NotFound") as status:
                await call()
            assert status["message"] == f'{title} "none" not found'

    async def test_a_deletion_meant_for_another_object_is_refused(self, cluster: Cluster) -> None:
        await cluster.core.create_namespaced_secret(cluster.namespace, secret("one"))
        meant = str(uuid.uuid4())
        other = {"preconditions": {"uid": meant}}
        async with refused(409, "Conflict") as status:
            await cluster.core.delete_namespaced_secret("one", cluster.namespace, body=other)
        assert f"the UID in the precondition ({meant}) does not match the UID in record" in status["message"]
        await cluster.core.read_namespaced_secret("one", cluster.namespace)

    async def test_a_collection_is_deleted_by_selector(self, cluster: Cluster) -> None:
        for name in ("one", "two"):
            await cluster.core.create_namespaced_secret(cluster.namespace, secret(name, labels={"is": name}))
        await cluster.core.delete_collection_namespaced_secret(cluster.namespace, label_selector="is=one")
        left = await cluster.core.list_namespaced_secret(cluster.namespace)
        assert [item.metadata.name for item in left.items] == ["two"]

    async def test_a_finalizer_holds_an_object(self, cluster: Cluster) -> None:
        held = secret("one", finalizers=["example.org/held"])
        await cluster.core.create_namespaced_secret(cluster.namespace, held)
        await cluster.core.delete_namespaced_secret("one", cluster.namespace)
        found = await cluster.core.read_namespaced_secret("one", cluster.namespace)
        assert found.metadata.deletion_timestamp
        change = {"metadata": {"finalizers": None}}
        await cluster.core.patch_namespaced_secret("one", cluster.namespace, change, _content_type=MERGE)
        async with refused(404, "NotFound"):
            await cluster.core.read_namespaced_secret("one", cluster.namespace)

    async def test_what_an_object_owns_goes_with_it(self, cluster: Cluster) -> None:
        owner = await cluster.core.create_namespaced_pod(cluster.namespace, pod("owner"))
        reference = {"apiVersion": "v1", "kind": "Pod", "name": "owner", "uid": owner.metadata.uid}
        owned = secret("owned", ownerReferences=[reference])
        await cluster.core.create_namespaced_secret(cluster.namespace, owned)
        await cluster.core.create_namespaced_secret(cluster.namespace, secret("free"))
        await cluster.core.delete_namespaced_pod("owner", cluster.namespace, grace_period_seconds=0)

        async def gone() -> bool:
            left = await cluster.core.list_namespaced_secret(cluster.namespace)
            return [item.metadata.name for item in left.items] == ["free"]

        await eventually(gone, "the owned Secret's deletion")

    async def test_a_network_policy_is_made_once_and_goes_with_its_owner(self, cluster: Cluster) -> None:
        owner = await cluster.core.create_namespaced_pod(cluster.namespace, pod("owner"))
        reference = {"apiVersion": "v1", "kind": "Pod", "name": "owner", "uid": owner.metadata.uid}
        selected = {"matchLabels": {"of": "owner"}}
        ports = [{"protocol": "TCP", "port": 32768, "endPort": 60999}]
        body = {
            "metadata": {"name": "owned", "ownerReferences": [reference]},
            "spec": {
                "podSelector": selected,
                "policyTypes": ["Ingress"],
                "ingress": [{"from": [{"podSelector": selected}], "ports": ports}],
            },
        }
        made = raw(await cluster.policies.create_namespaced_network_policy(cluster.namespace, body))
        assert made["spec"] == body["spec"]
        async with refused(409, "AlreadyExists") as status:
            await cluster.policies.create_namespaced_network_policy(cluster.namespace, body)
        assert status["message"] == 'networkpolicies.networking.k8s.io "owned" already exists'
        await cluster.core.delete_namespaced_pod("owner", cluster.namespace, grace_period_seconds=0)

        async def gone() -> bool:
            return not (await cluster.policies.list_namespaced_network_policy(cluster.namespace)).items

        await eventually(gone, "the owned policy's deletion")

    async def test_what_nobody_owns_any_more_goes(self, cluster: Cluster) -> None:
        reference = {"apiVersion": "v1", "kind": "Pod", "name": "owner", "uid": str(uuid.uuid4())}
        orphan = secret("orphan", ownerReferences=[reference])
        await cluster.core.create_namespaced_secret(cluster.namespace, orphan)

        async def gone() -> bool:
            return not (await cluster.core.list_namespaced_secret(cluster.namespace)).items

        await eventually(gone, "the deletion of what a dead pod owned")

    # ---- pods

    async def test_a_pod_runs_and_is_ready(self, cluster: Cluster) -> None:
        made = raw(await cluster.core.create_namespaced_pod(cluster.namespace, pod("plain")))
        assert made["status"]["phase"] == "Pending"
        assert "nodeName" not in made["spec"]
        found = await until_pod(cluster, "plain", is_ready)
        assert found["status"]["phase"] == "Running"
        assert found["spec"]["nodeName"]
        assert found["status"]["podIP"] == found["status"]["podIPs"][0]["ip"]
        assert found["status"]["startTime"]
        for type in ("PodScheduled", "Initialized", "ContainersReady", "Ready", "PodReadyToStartContainers"):
            assert conditions(found)[type]["status"] == "True", type
        (container,) = found["status"]["containerStatuses"]
        assert container["name"] == "main"
        assert (container["ready"], container["started"], container["restartCount"]) == (True, True, 0)
        assert container["state"]["running"]["startedAt"]
        assert container["containerID"].startswith("containerd://")

    async def test_a_pod_that_starts_has_events(self, cluster: Cluster) -> None:
        made = await cluster.core.create_namespaced_pod(cluster.namespace, pod("plain"))
        uid = made.metadata.uid
        found = {
            reason: await until_event(cluster, uid, reason)
            for reason in ("Scheduled", "Pulled", "Created", "Started")
        }
        assert found["Scheduled"]["message"].startswith(f"Successfully assigned {cluster.namespace}/plain to ")
        assert found["Pulled"]["message"].startswith(f'Container image "{IMAGE}" already present on machine')
        assert found["Created"]["message"] == "Created container: main"
        assert found["Started"]["message"] == "Started container main"
        for event in found.values():
            assert event["type"] == "Normal"
            assert event["involvedObject"]["kind"] == "Pod"
            assert event["involvedObject"]["name"] == "plain"
            assert event["involvedObject"]["namespace"] == cluster.namespace
        # The scheduler's events are of the new style: their time is elsewhere.
        assert found["Scheduled"]["eventTime"]
        assert "lastTimestamp" not in found["Scheduled"]
        assert found["Scheduled"]["reportingComponent"] == "default-scheduler"
        assert "eventTime" not in found["Started"]
        assert found["Started"]["lastTimestamp"]
        assert found["Started"]["source"]["component"] == "kubelet"
        assert found["Started"]["involvedObject"]["fieldPath"] == "spec.containers{main}"

    async def test_the_events_of_a_pod_are_found_by_its_name(self, cluster: Cluster) -> None:
        await cluster.core.create_namespaced_pod(cluster.namespace, pod("one"))
        made = await cluster.core.create_namespaced_pod(cluster.namespace, pod("two"))
        await until_event(cluster, made.metadata.uid, "Started")
        selector = "involvedObject.kind=Pod,involvedObject.name=two"
        events = await cluster.events(selector)
        assert {event["involvedObject"]["uid"] for event in events} == {made.metadata.uid}

    async def test_pods_are_found_by_their_phase(self, cluster: Cluster) -> None:
        await cluster.core.create_namespaced_pod(cluster.namespace, pod("runs"))
        await cluster.core.create_namespaced_pod(cluster.namespace, pod("fails", "exit 3", "exits"))
        await until_pod(cluster, "runs", is_ready)
        await until_pod(cluster, "fails", lambda found: found["status"]["phase"] == "Failed")
        for selector, names in (
            ("status.phase=Running", ["runs"]),
            ("status.phase!=Running", ["fails"]),
            ("metadata.name=fails,status.phase=Failed", ["fails"]),
        ):
            listed = await cluster.core.list_namespaced_pod(cluster.namespace, field_selector=selector)
            assert [item.metadata.name for item in listed.items] == names, selector

    async def test_a_pod_goes_within_its_grace(self, cluster: Cluster) -> None:
        body = pod("stubborn", "trap '' TERM; while :; do sleep 0.1; done", "stubborn")
        await cluster.core.create_namespaced_pod(cluster.namespace, body)
        before = await until_pod(cluster, "stubborn", is_ready)
        answer = raw(
            await cluster.core.delete_namespaced_pod("stubborn", cluster.namespace, grace_period_seconds=2)
        )
        assert answer["metadata"]["deletionTimestamp"]
        assert answer["metadata"]["deletionGracePeriodSeconds"] == 2
        listing = listing_in(cluster.core.list_namespaced_pod, cluster)
        version = before["metadata"]["resourceVersion"]
        seen = await follow(
            listing,
            version,
            lambda seen: seen[-1][0] == "DELETED",
            field_selector="metadata.name=stubborn",
        )
        first, *_, last = seen
        assert first[0] == "MODIFIED"
        assert first[1]["metadata"]["deletionTimestamp"]
        assert first[1]["status"]["phase"] == "Running"
        assert state(first[1], "running")
        assert state(last[1], "terminated")["exitCode"] == 137
        assert last[1]["status"]["phase"] == "Failed"
        event = await until_event(cluster, before["metadata"]["uid"], "Killing")
        assert event["message"] == "Stopping container main"

    async def test_a_pod_that_may_not_wait_is_gone_at_once(self, cluster: Cluster) -> None:
        await cluster.core.create_namespaced_pod(cluster.namespace, pod("plain"))
        await until_pod(cluster, "plain", is_ready)
        await cluster.core.delete_namespaced_pod("plain", cluster.namespace, grace_period_seconds=0)
        async with refused(404, "NotFound"):
            await cluster.core.read_namespaced_pod("plain", cluster.namespace)

    async def test_a_pod_that_exits_has_its_code_and_its_log(self, cluster: Cluster) -> None:
        body = pod("exits", "printf 'one\\ntwo\\nthree\\n'; exit 3", "exits")
        await cluster.core.create_namespaced_pod(cluster.namespace, body)
        found = await until_pod(cluster, "exits", lambda found: found["status"]["phase"] == "Failed")
        ended = state(found, "terminated")
        assert (ended["exitCode"], ended["reason"]) == (3, "Error")
        assert ended["startedAt"] <= ended["finishedAt"]
        assert conditions(found)["Ready"]["reason"] == "PodFailed"
        assert conditions(found)["Ready"]["status"] == "False"
        read = cluster.core.read_namespaced_pod_log
        assert await read("exits", cluster.namespace) == "one\ntwo\nthree\n"
        assert await read("exits", cluster.namespace, tail_lines=2) == "two\nthree\n"
        async with refused(400, "BadRequest"):
            await read("exits", cluster.namespace, container="other")

    async def test_a_pod_that_is_done_has_succeeded(self, cluster: Cluster) -> None:
        await cluster.core.create_namespaced_pod(cluster.namespace, pod("done", "echo done", "succeeds"))
        found = await until_pod(cluster, "done", lambda found: found["status"]["phase"] == "Succeeded")
        assert state(found, "terminated")["reason"] == "Completed"
        assert conditions(found)["Ready"]["reason"] == "PodCompleted"

    async def test_a_pod_that_crashes_again_and_again_is_held_back(self, cluster: Cluster) -> None:
        body = pod("crashes", "exit 4", "crashes", restartPolicy="Always")
        made = await cluster.core.create_namespaced_pod(cluster.namespace, body)
        found = await until_pod(
            cluster, "crashes", lambda found: state(found, "waiting").get("reason") == "CrashLoopBackOff"
        )
        (container,) = found["status"]["containerStatuses"]
        assert found["status"]["phase"] == "Running"
        assert container["restartCount"] >= 1
        assert not container["ready"]
        assert container["lastState"]["terminated"]["exitCode"] == 4
        event = await until_event(cluster, made.metadata.uid, "BackOff")
        assert event["type"] == "Warning"
        assert event["message"].startswith("Back-off restarting failed container main in pod crashes_")

    async def test_a_pod_that_takes_too_much_memory_says_so(self, cluster: Cluster) -> None:
        greedy = "exec perl -e '$x = \"a\" x (200 << 20); sleep 3600'"
        limits = {"resources": {"limits": {"memory": "64Mi", "cpu": "100m"}}}
        body = pod("greedy", greedy, "greedy", container=limits)
        await cluster.core.create_namespaced_pod(cluster.namespace, body)
        found = await until_pod(cluster, "greedy", lambda found: found["status"]["phase"] == "Failed")
        assert state(found, "terminated")["reason"] == "OOMKilled"
        assert state(found, "terminated")["exitCode"] == 137

    async def test_a_pod_whose_init_container_fails_has_failed(self, cluster: Cluster) -> None:
        container = pod("x", "exit 5")["spec"]["containers"][0]
        body = pod("uninitialised", life="uninitialised", initContainers=[{**container, "name": "before"}])
        await cluster.core.create_namespaced_pod(cluster.namespace, body)
        found = await until_pod(cluster, "uninitialised", lambda found: found["status"]["phase"] == "Failed")
        assert state(found, "terminated", "initContainerStatuses")["exitCode"] == 5
        assert state(found, "waiting")["reason"] == "PodInitializing"

    async def test_a_pod_with_init_containers_runs(self, cluster: Cluster) -> None:
        container = pod("x", "exit 0")["spec"]["containers"][0]
        body = pod("initialised", initContainers=[{**container, "name": "before"}])
        await cluster.core.create_namespaced_pod(cluster.namespace, body)
        found = await until_pod(cluster, "initialised", is_ready)
        assert state(found, "terminated", "initContainerStatuses")["exitCode"] == 0
        assert found["status"]["initContainerStatuses"][0]["ready"] is True

    async def test_a_pod_that_is_not_ready_runs_nevertheless(self, cluster: Cluster) -> None:
        probe = {"readinessProbe": {"tcpSocket": {"port": 9}, "periodSeconds": 1}}
        made = await cluster.core.create_namespaced_pod(
            cluster.namespace, pod("unready", life="unready", container=probe)
        )
        event = await until_event(cluster, made.metadata.uid, "Unhealthy")
        assert event["message"].startswith("Readiness probe failed: ")
        found = await until_pod(cluster, "unready", lambda found: found["status"]["phase"] == "Running")
        assert found["status"]["podIP"]
        assert found["status"]["containerStatuses"][0]["ready"] is False
        assert conditions(found)["Ready"]["reason"] == "ContainersNotReady"
        assert conditions(found)["Ready"]["message"] == "containers with unready status: [main]"

    async def test_an_image_that_cannot_be_pulled_is_waited_for(self, cluster: Cluster) -> None:
        image = {"image": "registry.invalid/absent:1"}
        body = pod("absent", life="absent", container=image)
        made = await cluster.core.create_namespaced_pod(cluster.namespace, body)
        found = await until_pod(
            cluster,
            "absent",
            lambda found: state(found, "waiting").get("reason") in {"ErrImagePull", "ImagePullBackOff"},
        )
        assert "registry.invalid/absent:1" in state(found, "waiting")["message"]
        assert found["status"]["phase"] == "Pending"
        event = await until_event(cluster, made.metadata.uid, "Failed")
        assert event["type"] == "Warning"
        async with refused(400, "BadRequest") as status:
            await cluster.core.read_namespaced_pod_log("absent", cluster.namespace)
        assert status["message"].startswith('container "main" in pod "absent" is waiting to start: ')
        found = await until_pod(
            cluster, "absent", lambda found: state(found, "waiting").get("reason") == "ImagePullBackOff"
        )
        assert state(found, "waiting")["message"].startswith(
            'Back-off pulling image "registry.invalid/absent:1": ErrImagePull: '
        )

    async def test_an_image_with_no_valid_name_is_refused_by_the_node(self, cluster: Cluster) -> None:
        image = {"image": "NO/Image:Of This"}
        body = pod("misnamed", life="misnamed", container=image)
        await cluster.core.create_namespaced_pod(cluster.namespace, body)
        found = await until_pod(
            cluster, "misnamed", lambda found: state(found, "waiting").get("reason") == "InvalidImageName"
        )
        assert "couldn't parse image name" in state(found, "waiting")["message"]

    async def test_a_pod_that_no_node_can_hold_waits(self, cluster: Cluster) -> None:
        size = {"resources": {"requests": {"cpu": "1000"}}}
        body = pod("large", life="large", container=size)
        made = await cluster.core.create_namespaced_pod(cluster.namespace, body)
        found = await until_pod(cluster, "large", lambda found: "PodScheduled" in conditions(found))
        scheduled = conditions(found)["PodScheduled"]
        assert (scheduled["status"], scheduled["reason"]) == ("False", "Unschedulable")
        assert "Insufficient cpu" in scheduled["message"]
        assert found["status"]["phase"] == "Pending"
        assert "containerStatuses" not in found["status"]
        event = await until_event(cluster, made.metadata.uid, "FailedScheduling")
        assert event["type"] == "Warning"
        assert "Insufficient cpu" in event["message"]
        assert not await cluster.core.read_namespaced_pod_log("large", cluster.namespace)
        # Nothing runs yet that would need time to end.
        await cluster.core.delete_namespaced_pod("large", cluster.namespace)
        async with refused(404, "NotFound"):
            await cluster.core.read_namespaced_pod("large", cluster.namespace)

    async def test_a_pod_over_its_deadline_has_failed(self, cluster: Cluster) -> None:
        body = pod("overdue", activeDeadlineSeconds=1)
        await cluster.core.create_namespaced_pod(cluster.namespace, body)
        found = await until_pod(cluster, "overdue", lambda found: found["status"]["phase"] == "Failed")
        assert found["status"]["reason"] == "DeadlineExceeded"

    async def test_a_pod_over_quota_is_refused(self, cluster: Cluster) -> None:
        await cluster.refuse_pods()
        async with refused(403, "Forbidden") as status:
            await cluster.core.create_namespaced_pod(cluster.namespace, pod("more"))
        assert status["message"].startswith('pods "more" is forbidden: exceeded quota: sessions, requested: ')
        assert status["details"] == {"name": "more", "kind": "pods"}

    async def test_the_spec_of_a_pod_stays(self, cluster: Cluster) -> None:
        await cluster.core.create_namespaced_pod(cluster.namespace, pod("plain"))
        async with refused(422, "Invalid"):
            await cluster.core.patch_namespaced_pod("plain", cluster.namespace, {"spec": {"hostname": "other"}})
        change = {"metadata": {"annotations": {"note": "yes"}}, "status": {"phase": "Failed"}}
        patched = await cluster.core.patch_namespaced_pod("plain", cluster.namespace, change)
        assert patched.metadata.annotations["note"] == "yes"
        assert patched.status.phase != "Failed"

    async def test_a_pod_is_on_a_node_that_is_ready(self, cluster: Cluster) -> None:
        await cluster.core.create_namespaced_pod(cluster.namespace, pod("plain"))
        found = await until_pod(cluster, "plain", is_ready)
        nodes = {item.metadata.name: raw(item) for item in (await cluster.core.list_node()).items}
        node = nodes[found["spec"]["nodeName"]]
        assert conditions(node)["Ready"]["status"] == "True"
        assert found["status"]["hostIP"] in {one["address"] for one in node["status"]["addresses"]}

    # ---- Jobs

    async def _ended(self, cluster: Cluster, name: str) -> Object:
        async def over() -> Object | None:
            found = raw(await cluster.batch.read_namespaced_job(name, cluster.namespace))
            return found if conditions(found).keys() & {"Complete", "Failed"} else None

        found: Object = await eventually(over, f"the end of the Job {name}")
        return found

    async def test_a_job_that_succeeds_is_complete(self, cluster: Cluster) -> None:
        await cluster.batch.create_namespaced_job(cluster.namespace, job("done", "echo done", "succeeds"))
        found = await self._ended(cluster, "done")
        assert conditions(found)["Complete"]["status"] == "True"
        assert found["status"]["succeeded"] == 1
        assert found["status"]["startTime"]
        assert found["status"]["completionTime"]
        await until_event(cluster, found["metadata"]["uid"], "SuccessfulCreate")
        await until_event(cluster, found["metadata"]["uid"], "Completed")
        listed = await cluster.core.list_namespaced_pod(
            cluster.namespace, label_selector="batch.kubernetes.io/job-name=done"
        )
        (made,) = [raw(item) for item in listed.items]
        assert made["metadata"]["labels"]["job-name"] == "done"
        assert made["metadata"]["labels"]["life"] == "succeeds"
        assert made["metadata"]["name"].startswith("done-")
        (owner,) = made["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("Job", found["metadata"]["uid"], True)
        assert (
            await cluster.core.read_namespaced_pod_log(made["metadata"]["name"], cluster.namespace) == "done\n"
        )

    async def test_a_job_that_fails_has_failed(self, cluster: Cluster) -> None:
        await cluster.batch.create_namespaced_job(cluster.namespace, job("fails", "exit 3", "exits"))
        found = await self._ended(cluster, "fails")
        assert conditions(found)["Failed"]["status"] == "True"
        assert conditions(found)["Failed"]["reason"] == "BackoffLimitExceeded"
        assert conditions(found)["Failed"]["message"] == "Job has reached the specified backoff limit"
        assert found["status"]["failed"] == 1
        assert "completionTime" not in found["status"]
        await until_event(cluster, found["metadata"]["uid"], "BackoffLimitExceeded")

    async def test_a_job_over_its_deadline_has_failed(self, cluster: Cluster) -> None:
        body = job("overdue", "exec sleep 3600", "plain", activeDeadlineSeconds=1)
        await cluster.batch.create_namespaced_job(cluster.namespace, body)
        found = await self._ended(cluster, "overdue")
        assert conditions(found)["Failed"]["reason"] == "DeadlineExceeded"

        async def gone() -> bool:
            return not (await cluster.core.list_namespaced_pod(cluster.namespace)).items

        await eventually(gone, "the deletion of the Job's pod")

    @pytest.mark.parametrize("policy", ["Background", "Orphan", ""])
    async def test_a_job_takes_its_pods_along_if_asked_to(self, cluster: Cluster, policy: str) -> None:
        body = job("runs", "exec sleep 3600", "plain")
        made = await cluster.batch.create_namespaced_job(cluster.namespace, body)

        async def pods() -> list[Object]:
            listed = await cluster.core.list_namespaced_pod(cluster.namespace)
            return [raw(item) for item in listed.items]

        (running,) = await eventually(pods, "the Job's pod")
        await cluster.batch.delete_namespaced_job(
            "runs", cluster.namespace, body={"propagationPolicy": policy} if policy else None
        )
        if policy == "Background":

            async def gone() -> bool:
                return not await pods()

            await eventually(gone, "the deletion of the Job's pod")
            return

        # Also what a client gets that does not say: the pod stays, and is nobody's.
        async def disowned() -> bool:
            (left,) = await pods()
            assert left["metadata"]["uid"] == running["metadata"]["uid"]
            return not left["metadata"].get("ownerReferences")

        await eventually(disowned, "the pod set free")
        await self._without_job(cluster, made.metadata.uid)
        (left,) = await pods()
        assert "deletionTimestamp" not in left["metadata"]

    async def _without_job(self, cluster: Cluster, uid: str) -> None:
        async def gone() -> bool:
            jobs = await cluster.batch.list_namespaced_job(cluster.namespace)
            return uid not in {found.metadata.uid for found in jobs.items}

        await eventually(gone, "the deletion of the Job")

    async def test_a_job_over_quota_says_so(self, cluster: Cluster) -> None:
        await cluster.refuse_pods()
        made = await cluster.batch.create_namespaced_job(
            cluster.namespace, job("more", "echo done", "succeeds")
        )
        event = await until_event(cluster, made.metadata.uid, "FailedCreate")
        assert event["type"] == "Warning"
        assert "is forbidden: exceeded quota: sessions, requested: " in event["message"]
