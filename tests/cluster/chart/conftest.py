"""The chart, installed with a database of its own, and a person who uses it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.chart import Installed, apply, place, site_values
from tests.support.cluster import projects
from tests.support.stack import Person


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, kubeconfig: str) -> Iterator[Installed]:
    """A release whose records are in PostgreSQL."""
    with place(tmp_path_factory.mktemp("chart")) as found:
        projects(found.ground.folder, found.world.database(found.world.service_ip("postgres")))
        url = found.world.database(f"postgres.{found.world.name}.svc.cluster.local")
        secret = {"metadata": {"name": "database", "namespace": found.name}, "stringData": {"url": url}}
        apply({"apiVersion": "v1", "kind": "Secret", **secret})
        values = site_values(found.world, found.ground.folder)
        values["hub"]["database"] = {"secret": "database"}
        found.upgrade(values)
        yield found


@pytest.fixture(scope="session")
def astronomer(installed: Installed) -> Iterator[Person]:
    found = installed.sign_in("astronomer")
    yield found
    found.stop_all()


@pytest.fixture(scope="session")
def session(astronomer: Person) -> str:
    """A notebook that the tests which leave it alone share."""
    astronomer.begin("shared", {"profile": "notebook", "name": "Deep field"})
    return "shared"
