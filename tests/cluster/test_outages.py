"""What outages of a real cluster's components do to sessions, and credentials that are renewed in a pod."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.cluster import Ground, ground, hub, kubectl, listed, new_data
from tests.support.cred_server import TrialCredServer
from tests.support.stack import Person, Stack, until

pytestmark = pytest.mark.cluster

PULL = "kubernetes.io/dockerconfigjson"
"""The type of pull Secrets."""


@contextmanager
def without(component: str) -> Iterator[None]:
    """Ends a component of the cluster, and brings it back at the end of the block.

    `CANFAR_TEST_COMPONENT` is a command that does that: `stop NAME` and `start`.
    """
    command = os.environ.get("CANFAR_TEST_COMPONENT", "")
    if not command:
        pytest.fail("Set CANFAR_TEST_COMPONENT to a command that stops and starts components of the cluster.")
    subprocess.run([command, "stop", component], check=True, timeout=120)
    try:
        yield
    finally:
        subprocess.run([command, "start"], check=True, timeout=300)


def test_the_api_server_is_away(
    astronomer: Person, visitor: Person, notebook: str, cluster: Ground, stack: Stack
) -> None:
    before = cluster.pod(notebook)["metadata"]["uid"]
    page = str(astronomer.server(notebook)["full_url"])
    with without("apiserver"):
        assert astronomer.browser.get(page).status_code == 200
        assert visitor.start("mine", {"profile": "notebook"}).status_code == 202
        stack.restart_hub(signal.SIGKILL)
        assert astronomer.server(notebook)["ready"]
        assert astronomer.browser.get(page).status_code == 200
        assert visitor.start("later", {"profile": "notebook"}).status_code == 202
    visitor.ready("later")
    assert cluster.pod(notebook)["metadata"]["uid"] == before
    assert astronomer.server(notebook)["ready"]
    names = [pod["metadata"]["annotations"]["hub.jupyter.org/servername"] for pod in cluster.pods()]
    assert len(names) == len(set(names))


def test_a_hub_that_dies_during_a_start_finds_the_pod_again(
    visitor: Person, cluster: Ground, stack: Stack
) -> None:
    visitor.start("mine", {"profile": "notebook"})
    until(lambda: cluster.pod("mine"), "its pod")
    before = cluster.pod("mine")["metadata"]["uid"]
    stack.restart_hub(signal.SIGKILL)
    page = until(lambda: opens(visitor, "mine"), "its page")
    assert "/session/notebook/" in page
    assert cluster.pod("mine")["metadata"]["uid"] == before


def opens(person: Person, server: str) -> str:
    """The address of a session's page that answers; empty while it does not."""
    model = person.server(server)
    page = person.browser.get(str(model["full_url"])) if model.get("ready") else None
    return str(page.url) if page is not None and page.status_code == 200 else ""


def test_a_lost_node_is_told_and_its_session_stays(
    astronomer: Person, notebook: str, cluster: Ground, stack: Stack
) -> None:
    pod = cluster.pod(notebook)
    node, address = pod["spec"]["nodeName"], str(astronomer.server(notebook)["full_url"])

    def is_told() -> bool:
        page = astronomer.browser.get(f"{stack.url}/hub/home")
        return f"The cluster has lost touch with {node}" in page.text

    assert not is_told()
    with without("kubelet"):
        # The cluster itself waits for a node: 50 s, unless it is told otherwise.
        until(lambda: ready(node) != "True", "the node given up", patience=120)
        until(is_told, "the user told")
        assert astronomer.browser.get(address).status_code == 200
        assert astronomer.server(notebook)["ready"]
    until(lambda: ready(node) == "True", "the node back")
    until(lambda: not is_told(), "the notice gone")
    assert cluster.pod(notebook)["metadata"]["uid"] == pod["metadata"]["uid"]
    assert astronomer.browser.get(address).status_code == 200


def ready(node: str) -> str:
    """What the cluster says of a node: `True`, `False` or `Unknown`."""
    (found,) = listed("nodes", "--field-selector", f"metadata.name={node}")
    (status,) = [one["status"] for one in found["status"]["conditions"] if one["type"] == "Ready"]
    return str(status)


def test_a_pod_sees_each_new_certificate_and_has_a_pull_secret(
    tmp_path_factory: pytest.TempPathFactory, kubeconfig: str
) -> None:
    data: Path = new_data(tmp_path_factory.mktemp("renewed"))
    with TrialCredServer(now=lambda: datetime.now(UTC)) as cred, ground(data / "arc") as found:
        cred.life = timedelta(seconds=100)
        credentials = {"cred": cred.generate}
        registries = {"auths": {"localhost": {"auth": b64encode(b"robot:password").decode()}}}
        (data.parent / "registries.json").write_text(json.dumps(registries))
        also = {
            "groups": {"refresh": 5},
            "cluster": {"image_accounts": True, "registries": "registries.json"},
        }
        with hub(data, found, credentials=credentials, **also) as stack:
            person = stack.sign_in("astronomer")
            person.start("mine", {"profile": "notebook"})
            person.ready("mine")
            assert found.run("mine", "getent", "passwd", "notebook").stdout.startswith("notebook:x:1000:")
            seen: set[str] = set()

            def look() -> bool:
                read = "sha256sum ~/.ssl/cadcproxy.pem"
                seen.add(found.run("mine", "sh", "-c", read).stdout)
                return len(seen - {""}) == 3

            until(look, "two new certificates", patience=600)
            (pod,) = found.pods()
            (pull,) = pod["spec"]["imagePullSecrets"]
            assert {one["metadata"]["name"]: one["type"] for one in found.secrets()}[pull["name"]] == PULL
            # The pod's end takes it along, whoever ends the pod.
            kubectl("delete", "pod", "-n", found.sessions, pod["metadata"]["name"], "--grace-period=0")
            until(lambda: not found.secrets(), "its Secrets gone")
            person.stop_all()
