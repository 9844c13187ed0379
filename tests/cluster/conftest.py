"""A hub beside the cluster, and two people who use it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Ground, ground, hub, new_data
from tests.support.stack import Person, Stack


@pytest.fixture(scope="session")
def kubeconfig() -> str:
    """The kubeconfig file of the cluster. Without one these tests fail: they were asked for by their marker."""
    found = os.environ.get("KUBECONFIG", "")
    if not found or not Path(found).is_file():
        pytest.fail(
            f"Set KUBECONFIG to the file of a cluster for tests, which {found!r} is not.", pytrace=False
        )
    return found


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hub's folder, in which `arc` is the volume."""
    return new_data(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="session")
def cluster(data: Path, kubeconfig: str) -> Iterator[Ground]:
    with ground(data / "arc") as found:
        yield found


@pytest.fixture(scope="session")
def stack(data: Path, cluster: Ground) -> Iterator[Stack]:
    with hub(data, cluster) as found:
        yield found


@pytest.fixture(scope="session")
def astronomer(stack: Stack) -> Iterator[Person]:
    found = stack.sign_in("astronomer")
    yield found
    found.stop_all()


@pytest.fixture(scope="session")
def notebook(astronomer: Person) -> str:
    """A session that the tests which leave it alone share."""
    astronomer.begin("shared", {"profile": "notebook", "name": "Deep field"})
    return "shared"


@pytest.fixture
def visitor(stack: Stack) -> Iterator[Person]:
    found = stack.sign_in("visitor")
    yield found
    found.stop_all()
