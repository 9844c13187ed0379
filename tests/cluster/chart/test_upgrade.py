"""A release with SQLite, from the chart's first version on: upgraded under running sessions, and removed."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.chart import CHART, RELEASE, Installed, helm, place, records_on_a_claim
from tests.support.cluster import kubectl, listed
from tests.support.kernel import Kernel
from tests.support.stack import ROOT, Person, until

pytestmark = pytest.mark.cluster

FIRST = "0.1.0"
"""The chart's first version, which is in the project's history."""


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart as it was in its first version: the last change before another version was written.

    A copy of the project without its history is upgraded from its own chart.
    """
    changes = _git("log", "--format=%H", f"-Sversion: {FIRST}\n", "--", "helm/canfar-hub/Chart.yaml").split()
    if len(changes) < 2:
        return CHART
    commit = f"{changes[0]}^"
    folder = tmp_path_factory.mktemp("first")
    archive = subprocess.run(
        ["git", "archive", commit, "helm/canfar-hub"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        packed.extractall(folder, filter="data")
    chart = folder / "helm/canfar-hub"
    assert f"\nversion: {FIRST}\n" in (chart / "Chart.yaml").read_text()
    return chart


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, kubeconfig: str, first: Path) -> Iterator[Installed]:
    """A release of the first version, whose records are in SQLite on a claim."""
    with place(tmp_path_factory.mktemp("small")) as found:
        (found.ground.folder / "projects").mkdir()
        values = records_on_a_claim(found)
        found.upgrade(values, first)
        yield found


@pytest.fixture(scope="module")
def person(small: Installed) -> Person:
    found = small.sign_in("astronomer")
    found.begin("kept", {"profile": "notebook"})
    return found


def test_an_upgrade_stops_no_session(small: Installed, person: Person) -> None:
    before = small.ground.pod("kept")
    with Kernel(person, "kept") as kernel:
        kernel.run("kept = 6 * 7")
        values = yaml.safe_load(small.file.read_text())
        for component in ("hub", "gateway"):  # whatever the versions differ in, both pods are replaced
            values[component]["nodeSelector"] = {"kubernetes.io/os": "linux"}
        old = {component: small.pod(component) for component in ("hub", "gateway")}
        small.upgrade(values, CHART)
        assert all(small.pod(component) != name for component, name in old.items())
        until(lambda: person.server("kept").get("ready"), "the session in the new hub")
        kernel.connect_again()
        assert kernel.run("print(kept)") == "42"
    after = small.ground.pod("kept")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert person.browser.get(str(person.server("kept")["full_url"])).status_code == 200


def test_a_database_that_cannot_be_had_is_told_in_the_hubs_first_line(small: Installed) -> None:
    url = "postgresql+psycopg://canfar:wrong@127.0.0.1:1/none"
    script = f"CANFAR_DATABASE_URL={url} jupyterhub -f /srv/canfar/jupyterhub_config.py"
    done = small.run("hub", "sh", "-c", script)
    assert done.returncode != 0
    said = (done.stdout + done.stderr).strip().splitlines()
    assert "database" in said[0].lower()
    assert "wrong" not in said[0]
    assert "Traceback" not in done.stdout + done.stderr


def test_removal_leaves_homes_and_the_databases_claim_and_nothing_else(
    small: Installed, person: Person
) -> None:
    assert small.ground.pods()
    helm("uninstall", RELEASE, "-n", small.name, "--wait", "--timeout=3m")
    until(lambda: not small.ground.pods(), "the sessions' end")

    def left(space: str) -> set[str]:
        kinds = "deployments,daemonsets,jobs,pods,services,configmaps,secrets,serviceaccounts,roles,"
        kinds += "rolebindings,networkpolicies,poddisruptionbudgets,ingresses,persistentvolumeclaims"
        names = kubectl("get", kinds, "-n", space, "-o", "name").split()
        usual = {"serviceaccount/default", "configmap/kube-root-ca.crt"}
        return set(names) - usual

    until(lambda: left(small.name) == {"persistentvolumeclaim/hub"}, "the end of all else")
    assert left(small.ground.sessions) == {"persistentvolumeclaim/data"}
    # Jobs that have made homes go by themselves, a while after they have ended.
    homes = {name for name in left(small.ground.homes) if not name.startswith(("job", "pod"))}
    assert homes == {"persistentvolumeclaim/data"}
    assert (small.ground.folder / "home/astronomer").is_dir()
    volumes = {one["metadata"]["name"] for one in listed("pv")}
    assert {f"{small.ground.sessions}-data", f"{small.ground.homes}-data"} <= volumes
