"""People and their sessions on a real cluster: what a pod is, what it sees, and what outages do to it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.support.cluster import Ground, kubectl
from tests.support.kernel import Kernel
from tests.support.stack import Person, Stack, until

pytestmark = pytest.mark.cluster


# What a session is


def test_its_page_opens_through_the_gateway(astronomer: Person, notebook: str) -> None:
    page = astronomer.browser.get(str(astronomer.server(notebook)["full_url"]))
    assert page.status_code == 200
    assert "/session/notebook/" in page.url.path
    assert "JupyterLab" in page.text


def test_a_kernel_reads_the_project_and_writes_the_home(astronomer: Person, notebook: str, data: Path) -> None:
    with Kernel(astronomer, notebook) as kernel:
        shape = kernel.run(
            "from astropy.io import fits\nprint(fits.getdata('/arc/projects/survey-x/m13.fits').shape)"
        )
        kernel.run("from pathlib import Path\nPath('/arc/home/astronomer/made.txt').write_text('here')")
        kernel.run("Path('/arc/projects/survey-x/shared.txt').write_text('there')")
    assert shape == "(300, 300)"
    home = data / "arc/home/astronomer"
    assert (home / "made.txt").read_text() == "here"
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / "made.txt").stat().st_uid == home.stat().st_uid >= 1000
    shared = data / "arc/projects/survey-x/shared.txt"
    assert shared.stat().st_gid == shared.parent.stat().st_gid


def test_it_sees_nothing_of_others(astronomer: Person, notebook: str, cluster: Ground, data: Path) -> None:
    (data / "arc/home/somebody").mkdir(exist_ok=True)
    seen = cluster.run(notebook, "sh", "-c", "ls /arc/home /arc/projects").stdout.split()
    assert seen == ["/arc/home:", "astronomer", "/arc/projects:", "survey-x"]
    for path in ("/arc/home/somebody", "/arc/home/astronomer/../somebody", "/arc/projects/other-project"):
        assert cluster.run(notebook, "ls", path).returncode != 0


def test_who_it_is_inside(astronomer: Person, notebook: str, cluster: Ground, data: Path) -> None:
    uid = str((data / "arc/home/astronomer").stat().st_uid)
    said = cluster.run(notebook, "id").stdout
    assert said.startswith(f"uid={uid}(astronomer) gid={uid}(astronomer)")
    assert "(survey-x)" in said
    assert cluster.run(notebook, "grep", "-c", "CapEff:.*0000000000000000", "/proc/self/status").returncode == 0
    assert cluster.run(notebook, "sh", "-c", "echo x >> /etc/passwd").returncode != 0
    assert cluster.run(notebook, "hostname").stdout.strip().startswith("deep-field")


def test_nothing_of_the_hub_is_in_it(astronomer: Person, notebook: str, cluster: Ground, stack: Stack) -> None:
    environment = cluster.run(notebook, "env", "-0").stdout
    names = {line.partition("=")[0] for line in environment.split("\0")}
    assert not [name for name in names if name.startswith(("JUPYTERHUB", "JPY_"))]
    secrets = json.loads((stack.data / "secrets.json").read_text())
    assert not [name for name, value in secrets.items() if value in environment]
    assert astronomer.token not in environment
    assert cluster.run(notebook, "ls", "/var/run/secrets/kubernetes.io").returncode != 0


def test_braces_and_references_stay_text(astronomer: Person, notebook: str, cluster: Ground) -> None:
    said = cluster.run(notebook, "sh", "-c", 'printf %s "$BRACES"').stdout
    assert said == "{username} astronomer $(HOME) $(NOTHING) $HOME"


def test_its_secret_is_in_no_pod(astronomer: Person, notebook: str, cluster: Ground) -> None:
    secret = cluster.run(notebook, "cat", "/run/canfar/secret/session_secret").stdout
    assert len(secret) == 64
    assert secret not in json.dumps(cluster.pods())
    assert secret not in json.dumps(astronomer.server(notebook))
    assert secret not in cluster.run(notebook, "sh", "-c", "cat /proc/[0-9]*/cmdline").stdout


def test_its_credentials(astronomer: Person, notebook: str, cluster: Ground) -> None:
    script = """
import os, ssl, json
folder = os.environ["CANFAR_CREDENTIALS"]
ssl.create_default_context().load_cert_chain(os.environ["X509_USER_PROXY"])
ssl.create_default_context().load_cert_chain(os.path.expanduser("~/.ssl/cadcproxy.pem"))
told = json.load(open(folder + "/expires.json"))
token = open(folder + "/access_token").read()
print(sorted(os.listdir(folder))[-3:], told["cadcproxy.pem"]["there"], len(token) > 100)
"""
    ran = cluster.run(notebook, "python3", "-c", script)
    assert ran.stdout.split("\n")[0] == "['access_token', 'cadcproxy.pem', 'expires.json'] True True", (
        ran.stderr
    )


def test_two_sessions_share_a_home(astronomer: Person, notebook: str, cluster: Ground) -> None:
    astronomer.start("second", {"profile": "notebook"})
    astronomer.ready("second")
    cluster.run("second", "sh", "-c", "echo both > ~/both.txt")
    assert cluster.run(notebook, "sh", "-c", "cat ~/both.txt").stdout == "both\n"
    names = {pod["metadata"]["labels"]["canfar.net/username"] for pod in cluster.pods()}
    assert names == {"astronomer"}
    astronomer.stop("second")
    until(lambda: not cluster.pod("second"), "its pod gone")
    until(lambda: len(cluster.secrets()) == 1, "its Secret gone")


# What cannot start


@pytest.mark.parametrize(
    ("profile", "status", "words"),
    [
        ("team", 403, "Open to members of"),
        ("nope", 400, "not in the catalogue"),
    ],
)
def test_refusals_start_nothing(
    visitor: Person, cluster: Ground, profile: str, status: int, words: str
) -> None:
    before = len(cluster.pods())
    answer = visitor.start("refused", {"profile": profile})
    assert answer.status_code == status
    assert words in answer.json()["message"]
    assert len(cluster.pods()) == before


def test_a_program_that_dies_is_told_and_leaves_no_pod(visitor: Person, cluster: Ground) -> None:
    assert visitor.start("bad", {"profile": "dies"}).status_code in {201, 202, 424}
    until(lambda: not visitor.server("bad").get("pending"), "the start over")
    page = visitor.browser.get(f"{visitor.stack.url}/hub/spawn-pending/visitor/bad").text
    assert "ended with status 0 before it answered" in page
    until(lambda: not cluster.pod("bad"), "its pod gone")


def test_an_image_that_cannot_be_had_is_told(visitor: Person, cluster: Ground) -> None:
    visitor.start("bad", {"profile": "missing"})
    assert until(lambda: _stages(visitor, "bad", "cannot be had"), "the reason told")
    visitor.stop("bad")
    until(lambda: not cluster.pod("bad"), "its pod gone")


def test_waiting_for_a_node_is_told_and_can_be_cancelled(visitor: Person, cluster: Ground) -> None:
    visitor.start("large", {"profile": "large"})
    told = until(lambda: _stages(visitor, "large", "Waiting for a node with room"), "the stage told")
    assert "example.org/telescope" in told
    visitor.stop("large")
    until(lambda: not cluster.pod("large"), "its pod gone")


def _stages(person: Person, server: str, wanted: str) -> str:
    """The line of the progress with these words; empty if there is none yet."""
    with person.stack.client() as client:
        address = f"{person.stack.url}/hub/api/users/{person.name}/servers/{server}/progress"
        headers = {"Authorization": f"token {person.token}"}
        with client.stream("GET", address, headers=headers) as answer:
            for line in answer.iter_lines():
                if wanted in line:
                    return line
    return ""


# Faults


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGKILL])
def test_a_hub_restart_stops_no_session(
    astronomer: Person, notebook: str, cluster: Ground, stack: Stack, with_signal: int
) -> None:
    before = cluster.pod(notebook)["metadata"]["uid"]
    cluster.run(notebook, "sh", "-c", "kill -STOP $(pgrep -o jupyter-lab)")
    stack.restart_hub(with_signal)
    assert astronomer.server(notebook)["ready"]
    cluster.run(notebook, "sh", "-c", "kill -CONT $(pgrep -o jupyter-lab)")
    assert cluster.pod(notebook)["metadata"]["uid"] == before
    assert astronomer.browser.get(str(astronomer.server(notebook)["full_url"])).status_code == 200


def test_a_pod_that_somebody_deletes_is_noticed(visitor: Person, cluster: Ground) -> None:
    visitor.start("mine", {"profile": "notebook"})
    visitor.ready("mine")
    kubectl(
        "delete",
        "pod",
        "-n",
        cluster.sessions,
        cluster.pod("mine")["metadata"]["name"],
        "--grace-period=0",
    )
    until(lambda: not visitor.server("mine").get("ready"), "the end noticed")
    until(
        lambda: (
            not [s for s in cluster.secrets() if s["metadata"]["annotations"]["canfar.net/owner"] == "visitor"]
        ),
        "its Secret gone",
    )
