"""What is read in a pod, as the API server sends it."""

from __future__ import annotations

from typing import Any

import pytest

from canfar_spawner.cluster.state import Ended, reduce_event, reduce_pod

RUNNING = {"name": "notebook", "ready": True, "state": {"running": {"startedAt": "2026-06-01T09:00:00Z"}}}


def pod(status: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    annotations = {
        "canfar.net/start": "s1",
        "hub.jupyter.org/username": "first.last",
        "hub.jupyter.org/servername": "mine",
    }
    return {
        "metadata": {"name": "p", "uid": "u", "annotations": annotations, **metadata},
        "spec": {"nodeName": "node-1"},
        "status": status if status is not None else {"phase": "Pending"},
    }


def waiting(reason: str, message: str = "", name: str = "notebook") -> dict[str, Any]:
    return {"name": name, "state": {"waiting": {"reason": reason, "message": message}}}


def terminated(code: int, reason: str, message: str = "", name: str = "notebook") -> dict[str, Any]:
    return {"name": name, "state": {"terminated": {"exitCode": code, "reason": reason, "message": message}}}


def test_a_pod_that_runs() -> None:
    state = reduce_pod(
        pod(
            {
                "phase": "Running",
                "podIP": "10.0.0.7",
                "containerStatuses": [RUNNING],
                "conditions": [{"type": "Ready", "status": "True"}],
            }
        )
    )
    assert (state.owner, state.server, state.start, state.node) == ("first.last", "mine", "s1", "node-1")
    assert (state.ip, state.is_running, state.is_reached, state.is_deleting) == ("10.0.0.7", True, True, False)
    assert state.ended is None


def test_a_pod_without_an_address_does_not_run_yet() -> None:
    assert not reduce_pod(pod({"phase": "Running", "containerStatuses": [RUNNING]})).is_running


def test_a_pod_of_somebody_else() -> None:
    state = reduce_pod({"metadata": {"name": "p"}})
    assert (state.start, state.owner, state.phase) == ("", "", "Pending")


def test_a_pod_that_is_deleted() -> None:
    assert reduce_pod(pod(deletionTimestamp="2026-06-01T09:00:00Z")).is_deleting


def test_a_lost_node() -> None:
    status = {
        "phase": "Running",
        "podIP": "10.0.0.7",
        "containerStatuses": [RUNNING],
        "conditions": [{"type": "Ready", "status": "False"}],
    }
    state = reduce_pod(pod(status))
    assert state.is_running
    assert not state.is_reached


@pytest.mark.parametrize(
    ("status", "ended"),
    [
        ({"containerStatuses": [terminated(3, "Error")]}, Ended(3, "Error")),
        ({"containerStatuses": [terminated(0, "Completed")]}, Ended(0, "Completed")),
        ({"containerStatuses": [terminated(137, "OOMKilled")]}, Ended(137, "OOMKilled")),
        (
            {
                "containerStatuses": [
                    {"name": "notebook", "state": {}, "lastState": terminated(1, "Error")["state"]}
                ]
            },
            Ended(1, "Error"),
        ),
        ({"containerStatuses": [terminated(9, "Error", name="side")]}, None),
        ({"initContainerStatuses": [terminated(0, "Completed", name="init")]}, None),
        (
            {"initContainerStatuses": [terminated(2, "Error", "no\nhome", name="init")]},
            Ended(2, "Error", "no home"),
        ),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."},
            Ended(1, "Evicted", "The node was low on resource: memory."),
        ),
        ({"phase": "Succeeded"}, Ended(0, "Succeeded")),
        ({"phase": "Pending"}, None),
    ],
)
def test_how_it_ended(status: dict[str, Any], ended: Ended | None) -> None:
    assert reduce_pod(pod({"phase": "Running", **status})).ended == ended


@pytest.mark.parametrize(
    ("container", "fault"),
    [
        (waiting("ErrImagePull", "manifest unknown"), "manifest unknown"),
        (waiting("ImagePullBackOff", "Back-off\n pulling"), "Back-off pulling"),
        (waiting("InvalidImageName"), "InvalidImageName"),
        (waiting("ContainerCreating"), ""),
        (RUNNING, ""),
    ],
)
def test_an_image_that_cannot_be_had(container: dict[str, Any], fault: str) -> None:
    assert reduce_pod(pod({"phase": "Pending", "containerStatuses": [container]})).pull_fault == fault
    assert reduce_pod(pod({"phase": "Pending", "initContainerStatuses": [container]})).pull_fault == fault


def test_no_node() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    assert reduce_pod(pod({"phase": "Pending", "conditions": [condition]})).no_node == "0/1 nodes"
    condition["status"] = "True"
    assert reduce_pod(pod({"phase": "Pending", "conditions": [condition]})).no_node == ""


def test_long_messages_are_cut() -> None:
    status = {"phase": "Pending", "containerStatuses": [waiting("ErrImagePull", "x" * 10_000)]}
    assert len(reduce_pod(pod(status)).pull_fault) == 400


def test_an_event() -> None:
    event = reduce_event(
        {
            "involvedObject": {"kind": "Pod", "name": "p", "uid": "u"},
            "reason": "Pulling",
            "message": "Pulling image",
            "count": 2,
        }
    )
    assert (event.pod, event.uid, event.reason, event.message, event.count) == (
        "p",
        "u",
        "Pulling",
        "Pulling image",
        2,
    )
    assert reduce_event({}).pod == ""
