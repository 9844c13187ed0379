"""What is known of a session's pod, reduced from what the API server tells to what is read. Pure.

A pod as the server sends it has ten kilobytes and more; of thousands of sessions the hub keeps this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

START = "canfar.net/start"
"""The annotation that holds the random id of the start that made the pod."""
CONTAINER = "notebook"
"""KubeSpawner's name for the session's own container, whatever runs in it."""

_PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_START = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff"}
)
_LONGEST = 400  # characters of a message that are kept


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container ended: `status` as of a process, and what Kubernetes calls the reason (`OOMKilled`)."""

    status: int
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class PodState:
    """One pod, as last told."""

    name: str
    uid: str
    start: str
    """Of which start it is; empty for a pod of somebody else."""
    owner: str
    server: str
    phase: str
    ip: str = ""
    node: str = ""
    is_running: bool = False
    """Whether the session's own container runs, and has an address."""
    is_deleting: bool = False
    is_reached: bool = True
    """False while the pod's node does not answer to the cluster."""
    ended: Ended | None = None
    """The session's own container has ended, or an init container has failed."""
    pull_fault: str = ""
    """Why an image cannot be had; empty if it can, as far as anybody knows."""
    start_fault: str = ""
    """Why a container cannot be started, though its image is there."""
    no_node: str = ""
    """Why no node takes the pod for now."""


def reduce_pod(pod: Mapping[str, Any]) -> PodState:
    """What is kept of a pod, an object of the core API's v1 in JSON."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    annotations = metadata.get("annotations") or {}
    own = [c for c in status.get("containerStatuses") or () if c.get("name") == CONTAINER]
    init = list(status.get("initContainerStatuses") or ())
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    is_running = any("running" in (c.get("state") or {}) for c in own) and bool(status.get("podIP"))
    waiting = [(c.get("state") or {}).get("waiting") or {} for c in (*init, *own)]
    return PodState(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        start=annotations.get(START, ""),
        owner=annotations.get("hub.jupyter.org/username", ""),
        server=annotations.get("hub.jupyter.org/servername", ""),
        phase=status.get("phase", "Pending"),
        ip=status.get("podIP") or "",
        node=(pod.get("spec") or {}).get("nodeName") or "",
        is_running=is_running,
        is_deleting="deletionTimestamp" in metadata,
        # Our pods have no readiness probe: only the loss of its node makes one that runs not ready.
        is_reached=not (is_running and conditions.get("Ready", {}).get("status", "True") != "True"),
        ended=_ended(status, own, init),
        pull_fault=_waits(waiting, _PULL),
        start_fault=_waits(waiting, _START),
        no_node=_no_node(conditions.get("PodScheduled", {})),
    )


def _ended(
    status: Mapping[str, Any], own: list[Mapping[str, Any]], init: list[Mapping[str, Any]]
) -> Ended | None:
    """How the session ended; a pod can fail without any container's doing, as when its node evicts it."""
    ends = [e for c in own if (e := _terminated(c))] + [e for c in init if (e := _terminated(c)) and e.status]
    if ends:
        return ends[0]
    if status.get("phase") in ("Failed", "Succeeded"):
        failed = status["phase"] == "Failed"
        return Ended(int(failed), status.get("reason") or status["phase"], _short(status.get("message")))
    return None


def _terminated(container: Mapping[str, Any]) -> Ended | None:
    """How a container ended, or ended before it was started again."""
    for state in (container.get("state") or {}, container.get("lastState") or {}):
        if end := state.get("terminated"):
            return Ended(int(end.get("exitCode", 0)), end.get("reason") or "", _short(end.get("message")))
    return None


def _waits(waiting: list[Mapping[str, Any]], reasons: frozenset[str]) -> str:
    for state in waiting:
        if state.get("reason") in reasons:
            return _short(state.get("message")) or str(state["reason"])
    return ""


def _no_node(scheduled: Mapping[str, Any]) -> str:
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        return _short(scheduled.get("message")) or "No node takes it."
    return ""


def _short(message: object) -> str:
    """A message of the cluster on one line, cut."""
    return " ".join(str(message or "").split())[:_LONGEST]


@dataclass(frozen=True, slots=True)
class PodEvent:
    """One event about a pod; `count` tells repetitions apart."""

    pod: str
    uid: str
    reason: str
    message: str = field(repr=False)
    count: int = 1


def reduce_event(event: Mapping[str, Any]) -> PodEvent:
    """What is kept of an event, an object of the core API's v1 in JSON."""
    about = event.get("involvedObject") or {}
    count = (event.get("series") or {}).get("count") or event.get("count") or 1
    reason, message = event.get("reason") or "", _short(event.get("message"))
    return PodEvent(about.get("name") or "", about.get("uid") or "", reason, message, int(count))
