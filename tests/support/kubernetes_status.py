"""What a kubelet writes about pods, and an API server fills in for pods and Jobs. Pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.support.kubernetes_objects import RESOURCES, Object, Resource, now

NODE_ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class Phase:
    """What the kubelet knows of a pod; from it follows the whole status."""

    phase: str = "Pending"
    state: Object | None = None
    """The state of the containers; None: none was ever seen."""
    ready: bool = False
    restarts: int = 0
    last: Object | None = None
    init: Object | None = None
    """The state of the init containers, if the pod has some."""
    address: str = ""
    reason: str = ""
    message: str = ""


def status(pod: Object, phase: Phase) -> Object:
    """The status of a pod that has a node."""
    before, spec = pod["status"], pod["spec"]
    address = phase.address or before.get("podIP", "")
    states = [_container_status(pod, container, phase) for container in spec["containers"]]
    inits = [_init_status(pod, container, phase) for container in spec.get("initContainers", [])]
    return {
        "phase": phase.phase,
        "conditions": _conditions(pod, phase, bool(address)),
        **({"reason": phase.reason, "message": phase.message} if phase.reason else {}),
        "hostIP": NODE_ADDRESS,
        "hostIPs": [{"ip": NODE_ADDRESS}],
        **({"podIP": address, "podIPs": [{"ip": address}]} if address else {}),
        "startTime": before.get("startTime") or now(),
        **({"initContainerStatuses": inits} if inits else {}),
        "containerStatuses": states,
        "qosClass": before["qosClass"],
    }


def _conditions(pod: Object, phase: Phase, has_address: bool) -> list[Object]:
    names = [container["name"] for container in pod["spec"]["containers"]]
    unready: Object = {"status": "False", "reason": "ContainersNotReady"}
    unready["message"] = f"containers with unready status: [{' '.join(names)}]"
    initialised: Object = {"status": "True"}
    if (phase.init is not None and "terminated" not in phase.init) or _exit_code(phase.init):
        missing = [container["name"] for container in pod["spec"]["initContainers"]]
        initialised = {"status": "False", "reason": "ContainersNotInitialized"}
        initialised["message"] = f"containers with incomplete status: [{' '.join(missing)}]"
    if phase.phase in {"Succeeded", "Failed"}:
        unready = {"status": "False", "reason": "PodCompleted" if phase.phase == "Succeeded" else "PodFailed"}
    if phase.phase == "Succeeded":
        initialised = {"status": "True", "reason": "PodCompleted"}
    ready = {"status": "True"} if phase.ready else unready
    sandbox = has_address and phase.phase not in {"Succeeded", "Failed"}
    found = {
        "PodReadyToStartContainers": {"status": "True" if sandbox else "False"},
        "Initialized": initialised,
        "Ready": ready,
        "ContainersReady": ready,
        "PodScheduled": {"status": "True"},
    }
    return [condition(pod["status"].get("conditions", []), type, **what) for type, what in found.items()]


def condition(before: Iterable[Object], type: str, **what: Any) -> Object:
    """A condition; its transition time stays where its status stays."""
    old = next((one for one in before if one["type"] == type), {})
    same = old.get("status") == what["status"]
    since = old["lastTransitionTime"] if same else now()
    return {"type": type, "lastProbeTime": None, "lastTransitionTime": since, **what}


def _exit_code(state: Object | None) -> int:
    return int(((state or {}).get("terminated") or {}).get("exitCode", 0))


def _container_status(pod: Object, container: Object, phase: Phase) -> Object:
    waiting = "PodInitializing" if phase.init is not None else "ContainerCreating"
    state = phase.state or {"waiting": {"reason": waiting}}
    ran = "waiting" not in state or phase.last is not None
    return {
        "name": container["name"],
        "state": state,
        "lastState": phase.last or {},
        "ready": phase.ready,
        "restartCount": phase.restarts,
        "image": container["image"],
        "imageID": _digest(container["image"]) if ran else "",
        **({"containerID": _container_id(pod, container, phase.restarts)} if ran else {}),
        "started": "running" in state,
    }


def _init_status(pod: Object, container: Object, phase: Phase) -> Object:
    state = phase.init or {"waiting": {"reason": "PodInitializing"}}
    return {
        "name": container["name"],
        "state": state,
        "lastState": {},
        "ready": "terminated" in state and not _exit_code(state),
        "restartCount": 0,
        "image": container["image"],
        "imageID": "" if "waiting" in state else _digest(container["image"]),
        **({} if "waiting" in state else {"containerID": _container_id(pod, container, 0)}),
        "started": False,
    }


def _digest(image: str) -> str:
    return f"{image.partition(':')[0]}@sha256:{hashlib.sha256(image.encode()).hexdigest()}"


def _container_id(pod: Object, container: Object, restarts: int) -> str:
    seed = f"{pod['metadata']['uid']} {container['name']} {restarts}"
    return f"containerd://{hashlib.sha256(seed.encode()).hexdigest()}"


def terminated(code: int, since: str, reason: str = "", message: str = "") -> Object:
    """The state of a container that has ended."""
    return {
        "terminated": {
            "exitCode": code,
            "reason": reason or ("Error" if code else "Completed"),
            **({"message": message} if message else {}),
            "startedAt": since,
            "finishedAt": now(),
            "containerID": f"containerd://{hashlib.sha256(f'{since} {code}'.encode()).hexdigest()}",
        }
    }


def waiting(reason: str, message: str = "") -> Object:
    """The state of a container that is not there yet."""
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


# ---- what the API server fills in


def fill_in(resource: Resource, item: Object) -> None:
    """The defaults of a new pod or Job."""
    if resource is RESOURCES["pods"]:
        fill_in_pod(item)
    elif resource is RESOURCES["jobs"]:
        fill_in_job(item)


def fill_in_pod(pod: Object) -> None:
    spec = pod["spec"]
    for key, value in {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "securityContext": {},
        "schedulerName": "default-scheduler",
        "serviceAccountName": "default",
        "enableServiceLinks": True,
    }.items():
        spec.setdefault(key, value)
    for container in spec.get("initContainers", []) + spec["containers"]:
        tag = container["image"].rpartition("/")[2].partition("@")[0].partition(":")[2]
        container.setdefault("imagePullPolicy", "Always" if tag in {"", "latest"} else "IfNotPresent")
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        container.setdefault("resources", {})
    pod["status"] = {"phase": "Pending", "qosClass": "BestEffort"}


def fill_in_job(job: Object) -> None:
    metadata, spec = job["metadata"], job["spec"]
    for key, value in {"backoffLimit": 6, "completions": 1, "parallelism": 1, "suspend": False}.items():
        spec.setdefault(key, value)
    own = {
        "batch.kubernetes.io/controller-uid": metadata["uid"],
        "batch.kubernetes.io/job-name": metadata["name"],
    }
    old = {"controller-uid": metadata["uid"], "job-name": metadata["name"]}
    template = spec["template"].setdefault("metadata", {})
    template["labels"] = (template.get("labels") or {}) | own | old
    template.setdefault("creationTimestamp", None)
    spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": metadata["uid"]}}
    metadata.setdefault("labels", {})
    job["status"] = {}
