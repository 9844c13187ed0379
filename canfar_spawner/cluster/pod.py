"""From a plan to a pod: what KubeSpawner's traits are set to, and the last word on what it builds. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from kubespawner.slugs import is_valid_default, is_valid_label, safe_slug

from canfar_auth.posix import BASE_GROUP, BASE_PASSWD, group_file, passwd_file
from canfar_site.settings import Cluster, Credentials
from canfar_spawner import credentials
from canfar_spawner.cluster.image_accounts import init_container
from canfar_spawner.cluster.state import CONTAINER, START, PodState
from canfar_spawner.kinds import DESKTOP, STARTS
from canfar_spawner.spec import SessionSpec, expand

CREDENTIALS = "/run/canfar/credentials"
"""Where a session finds its certificate and token."""
SECRET = "session_secret"  # noqa: S105 - a key's name
"""The key of the session's own secret in its Secret."""
PASSWD, GROUP = "passwd", "group"
ID = "canfar.net/id"
"""The label with a session's id, by which pods and Secrets of sessions are found."""
DESKTOP_OF = "canfar.net/desktop"
"""The label with the id of the desktop to which a session belongs: an application's, or the desktop's own."""

_SYSTEM = "/skaha-system"
"""Where CANFAR's images find the platform's start scripts."""
_SECRET_FOLDER = "/run/canfar/secret"  # noqa: S105 - a path
_SECRET_REFERENCE = "$(CANFAR_SECRET)"  # noqa: S105 - a reference
_DATA = "canfar-data"
_CREDENTIALS, _ACCOUNTS, _MERGED = "canfar-credentials", "canfar-accounts", "canfar-merged"
_STARTS = "canfar-starts"
_SCRATCH, _SHM = "canfar-scratch", "canfar-shm"
# A container that asks for no disk is given its limit, and whole disks would stay free for what few write.
_LEAST_DISK = "100M"
_LOCKED = {
    "privileged": False,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
_NOT_OURS = (
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "shareProcessNamespace",
    "serviceAccountName",
    "serviceAccount",
)


@dataclass(frozen=True)
class Start:
    """One start of a session: what the pod must carry beside the plan."""

    id: str
    """Random, and different for each start."""
    secret_name: str
    """The Secret with all that is secret of the session, and its account files."""
    environment: Mapping[str, str]
    """As `environment` gives it."""
    owner: PodState | None = None
    """The pod that it ends with, whether the hub sees to it or not."""
    pull_secret: str = ""
    """The Secret with which its image can be had; empty for a public image."""


def secret_name(session_id: str) -> str:
    """The name of a session's Secret."""
    return f"canfar-{session_id}"


def pull_secret_name(session_id: str) -> str:
    """The name of the Secret with which nodes get a session's image."""
    return f"{secret_name(session_id)}-pull"


def traits(spec: SessionSpec, cluster: Cluster) -> dict[str, Any]:
    """KubeSpawner's traits for a plan; those of its administrator that a plan says nothing about stay."""
    place = spec.placement
    devices = _devices(spec, cluster)
    ids = spec.ids
    found: dict[str, Any] = {
        "image": spec.image,
        "port": spec.port,
        "cpu_limit": spec.cores,
        "cpu_guarantee": place.cpu_guarantee,
        "mem_limit": _bytes(spec.memory),
        "mem_guarantee": _bytes(place.memory_guarantee),
        "extra_resource_limits": devices,
        "extra_resource_guarantees": devices,
    }
    if ids is not None:
        groups = [group.gid for group in ids.groups]
        found |= {"uid": ids.uid, "gid": ids.gid, "supplemental_gids": groups}
    return found


def _bytes(gigabytes: float) -> int:
    return round(gigabytes * 10**9)


def secret_data(spec: SessionSpec, secret: str) -> dict[str, str]:
    """What a session's Secret holds before any credentials: its own secret, account files, start scripts."""
    if spec.ids is None:
        raise ValueError("a session in a cluster has numeric ids")
    passwd = passwd_file(BASE_PASSWD, spec.owner, spec.ids.uid, spec.ids.gid, spec.owner, spec.home)
    starts = {name: (STARTS / name).read_text(encoding="utf-8") for name in spec.files}
    return {**starts, SECRET: secret, PASSWD: passwd, GROUP: group_file(BASE_GROUP, spec.owner, spec.ids)}


def environment(spec: SessionSpec, given: Mapping[str, str], settings: Credentials) -> dict[str, str]:
    """The session's variables for a container, in which Kubernetes replaces the session's secret alone.

    `given` are an administrator's, which hold where the session has none of that name. Text of users and
    images is data: of it every `$` is doubled, which Kubernetes undoes.
    """
    known = _variables(spec, settings)
    own = {name: _all_but_the_secret(value, known) for name, value in spec.environment.items()}
    return {**given, **{name: _literal(value) for name, value in known.items()}, **own}


def command(spec: SessionSpec, settings: Credentials) -> list[str]:
    """The command of the session's container, without the secret, which readers of pods would see."""
    known = _variables(spec, settings)
    return [_literal(expand(argument, known)) for argument in spec.command]


def _variables(spec: SessionSpec, settings: Credentials) -> dict[str, str]:
    """All that is public of what a session's environment and command may name."""
    return {
        **spec.variables,
        "LOGNAME": spec.owner,
        "CANFAR_IP": "0.0.0.0",  # noqa: S104 - in a pod of its own
        "CANFAR_PORT": str(spec.port),
        "CANFAR_DISPLAY": ":1",
        "CANFAR_SECRET_FILE": f"{_SECRET_FOLDER}/{SECRET}",
        "CANFAR_SYSTEM": _SYSTEM,
        **credentials.environment(CREDENTIALS, settings),
    }


def _all_but_the_secret(value: str, variables: Mapping[str, str]) -> str:
    pieces = value.split(_SECRET_REFERENCE)
    return _SECRET_REFERENCE.join(_literal(expand(piece, variables)) for piece in pieces)


def _literal(text: str) -> str:
    return text.replace("$", "$$")


def labels(spec: SessionSpec) -> dict[str, str]:
    """The labels of a session's pod and Secret, as the CANFAR Science Platform writes them, and its desktop."""
    desktop = spec.desktop.id if spec.desktop else spec.id if spec.kind == DESKTOP else ""
    return {
        **({DESKTOP_OF: desktop} if desktop else {}),
        ID: spec.id,
        "canfar.net/kind": spec.kind,
        "canfar.net/username": _label(spec.owner),
        "canfar.net/name": _label(spec.name or spec.id),
        "canfar.net/flavor": "fixed" if spec.placement.cpu_guarantee >= spec.cores else "flexible",
        "canfar.net/accelerator": "gpu" if spec.gpus else "none",
    }


def _label(text: str) -> str:
    return str(safe_slug(text, is_valid=is_valid_label))


def harden(pod: Mapping[str, Any], spec: SessionSpec, start: Start, cluster: Cluster) -> dict[str, Any]:
    """The pod as it is sent: what KubeSpawner built and hooks changed, with what a session must be.

    `pod` is an object of the core API's v1 in JSON. Nothing that a hook, a profile or an image says can take
    back what is set here: ids, capabilities, resources, mounts of the shared volume, environment and labels.
    """
    made = deepcopy(dict(pod))
    metadata, body = made["metadata"], made["spec"]
    metadata["labels"] = {**(metadata.get("labels") or {}), **labels(spec)}
    metadata["annotations"] = {**(metadata.get("annotations") or {}), START: start.id}
    if start.owner is not None:
        owner = {"apiVersion": "v1", "kind": "Pod", "name": start.owner.name, "uid": start.owner.uid}
        metadata["ownerReferences"] = [owner]
    for key in _NOT_OURS:
        body.pop(key, None)
    body |= {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",  # a program that ends is told to its user, not begun anew without their data
        "hostname": safe_slug(spec.name or spec.id, is_valid=is_valid_default),
        "securityContext": _pod_security(body.get("securityContext") or {}, spec, cluster),
        "nodeSelector": {**(body.get("nodeSelector") or {}), **spec.placement.selector},
        "tolerations": [*(body.get("tolerations") or ()), *map(dict, spec.placement.tolerations)],
        "volumes": [*(body.get("volumes") or ()), *_volumes(spec, start, cluster)],
    }
    if start.pull_secret:
        body["imagePullSecrets"] = [*(body.get("imagePullSecrets") or ()), {"name": start.pull_secret}]
    if cluster.image_accounts:
        body["volumes"].append({"name": _MERGED, "emptyDir": {"sizeLimit": "1M"}})
        merging = init_container(spec.image, _ACCOUNTS, _MERGED)
        body["initContainers"] = [*(body.get("initContainers") or ()), merging]
    for container in (*(body.get("initContainers") or ()), *body["containers"]):
        _lock(container)
    main = next(one for one in body["containers"] if one["name"] == CONTAINER)
    _complete(main, spec, start, cluster)
    return made


def _pod_security(given: Mapping[str, Any], spec: SessionSpec, cluster: Cluster) -> dict[str, Any]:
    """Without fsGroup: with it, nodes give everybody's files on the shared volume to one group."""
    kept = {key: value for key, value in given.items() if not key.startswith("fsGroup")}
    found = {**kept, "runAsNonRoot": True, "seccompProfile": _LOCKED["seccompProfile"]}
    if spec.ids is not None:
        groups = [group.gid for group in spec.ids.groups]
        found |= {"runAsUser": spec.ids.uid, "runAsGroup": spec.ids.gid, "supplementalGroups": groups}
    if cluster.strict_groups:
        found["supplementalGroupsPolicy"] = "Strict"
    return found


def _lock(container: dict[str, Any]) -> None:
    """No container of a session has more than a user's rights; its ids are the pod's."""
    context = container.get("securityContext") or {}
    own_ids = ("runAsUser", "runAsGroup", "runAsNonRoot", "procMount")
    kept = {key: value for key, value in context.items() if key not in own_ids}
    container["securityContext"] = {**kept, **_LOCKED}


def _volumes(spec: SessionSpec, start: Start, cluster: Cluster) -> list[dict[str, Any]]:
    files = [{"key": name, "path": name} for name in credentials.FILES]
    accounts = [{"key": name, "path": name} for name in (PASSWD, GROUP, SECRET)]

    def secret(name: str, items: list[dict[str, str]], *, optional: bool, mode: int = 0o444) -> dict[str, Any]:
        # Readable by the one account that there is in the pod.
        source = {"secretName": start.secret_name, "items": items, "defaultMode": mode, "optional": optional}
        return {"name": name, "secret": source}

    starts = [{"key": name, "path": name} for name in spec.files]
    return [
        *([secret(_STARTS, starts, optional=False, mode=0o555)] if starts else []),
        secret(_CREDENTIALS, files, optional=True),  # they come and go
        secret(_ACCOUNTS, accounts, optional=False),
        {"name": _SCRATCH, "emptyDir": {"sizeLimit": _size(cluster.scratch)}},
        {
            "name": _SHM,
            "emptyDir": {"medium": "Memory", "sizeLimit": _size(cluster.shared_memory)},
        },
        {"name": _DATA, "persistentVolumeClaim": {"claimName": cluster.volume.claim}},
    ]


def _size(gigabytes: float) -> str:
    return str(_bytes(gigabytes))


def _complete(main: dict[str, Any], spec: SessionSpec, start: Start, cluster: Cluster) -> None:
    """What the session's own container has beside what KubeSpawner gave it."""
    ours = {mount["mountPath"]: mount for mount in _mounts(spec, cluster)}
    theirs = [one for one in main.get("volumeMounts") or () if one["mountPath"] not in ours]
    main["volumeMounts"] = [*theirs, *ours.values()]
    main["workingDir"] = spec.home
    main.pop("envFrom", None)
    key = {"name": start.secret_name, "key": SECRET}
    taken = {"CANFAR_SECRET", "CANFAR_ADDRESS", *start.environment}
    theirs = [one for one in main.get("env") or () if one["name"] not in taken]
    named = [{"name": name, "value": value} for name, value in start.environment.items()]
    # First the secret, since Kubernetes replaces references to what came before.
    secret = {"name": "CANFAR_SECRET", "valueFrom": {"secretKeyRef": key}}
    address = {"name": "CANFAR_ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    main["env"] = [secret, address, *theirs, *named]
    if spec.command:
        # An image's entry point does not come between, as it does not where CANFAR runs the image.
        main["command"] = main.pop("args", None) or list(spec.command)
    given = main.get("resources") or {}
    main["resources"] = {
        "limits": {**_but(given.get("limits"), cluster.gpu), **_limits(spec, cluster)},
        "requests": {**_but(given.get("requests"), cluster.gpu), **_requests(spec, cluster)},
    }


def _but(given: Mapping[str, Any] | None, resource: str) -> dict[str, Any]:
    return {name: quantity for name, quantity in (given or {}).items() if name != resource}


def _limits(spec: SessionSpec, cluster: Cluster) -> dict[str, str]:
    own = {"cpu": f"{spec.cores:g}", "memory": _size(spec.memory), "ephemeral-storage": _size(cluster.disk)}
    return {**_devices(spec, cluster), **own}


def _requests(spec: SessionSpec, cluster: Cluster) -> dict[str, str]:
    place = spec.placement
    own = {
        "cpu": f"{place.cpu_guarantee:g}",
        "memory": _size(place.memory_guarantee),
        "ephemeral-storage": _LEAST_DISK,
    }
    return {**_devices(spec, cluster), **own}


def _devices(spec: SessionSpec, cluster: Cluster) -> dict[str, str]:
    return {**spec.placement.resources, **({cluster.gpu: str(spec.gpus)} if spec.gpus else {})}


def _mounts(spec: SessionSpec, cluster: Cluster) -> list[dict[str, Any]]:
    shared = [
        {"name": _DATA, "mountPath": one.path, "subPath": one.sub_path, "readOnly": one.read_only}
        for one in spec.mounts
    ]
    files = _MERGED if cluster.image_accounts else _ACCOUNTS
    accounts = [
        {"name": files, "mountPath": f"/etc/{name}", "subPath": name, "readOnly": True}
        for name in (PASSWD, GROUP)
    ]
    secret = {
        "name": _ACCOUNTS,
        "mountPath": f"{_SECRET_FOLDER}/{SECRET}",
        "subPath": SECRET,
        "readOnly": True,
    }
    starts = [{"name": _STARTS, "mountPath": _SYSTEM, "readOnly": True}] if spec.files else []
    return [
        *shared,
        *accounts,
        *starts,
        secret,
        {"name": _CREDENTIALS, "mountPath": CREDENTIALS, "readOnly": True},
        {"name": _SCRATCH, "mountPath": "/scratch"},
        {"name": _SHM, "mountPath": "/dev/shm"},  # noqa: S108 - where POSIX shared memory is
    ]
