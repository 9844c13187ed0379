"""What the embedded hub's metrics tell of sessions, credentials and groups."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import yaml

from tests.support.cred_server import TrialCredServer
from tests.support.faults import Status
from tests.support.gms_server import GmsServer
from tests.support.metrics import Metrics
from tests.support.stack import ROOT, Person, Stack, running, until, write_catalogue


@pytest.fixture(scope="module")
def cred() -> Iterator[TrialCredServer]:
    with TrialCredServer(now=lambda: datetime.now(UTC)) as server:
        yield server


@pytest.fixture(scope="module")
def gms() -> Iterator[GmsServer]:
    with GmsServer() as server:
        server.everybody = ["survey-x"]
        yield server


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, cred: TrialCredServer, gms: GmsServer) -> Iterator[Stack]:
    """A hub with a certificate service and a group service that fail when a test says so."""
    folder = tmp_path_factory.mktemp("metrics")
    site = yaml.safe_load((ROOT / "demo/site.yaml").read_text())
    site["credentials"] = {"cred": cred.generate}
    site["groups"] |= {"refresh": 5, "gms": {"search": gms.search}}
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    options = ("--site", str(folder / "site.yaml"), "--catalogue", str(write_catalogue(folder)))
    with running(folder / "data", *options) as stack:
        yield stack


@pytest.fixture(scope="module")
def admin(hub: Stack) -> Person:
    return hub.sign_in("admin")


@pytest.fixture
def person(hub: Stack, cred: TrialCredServer, gms: GmsServer) -> Iterator[Person]:
    found = hub.sign_in("astronomer")
    yield found
    cred.fault = gms.fault = None
    found.stop_all()


def metrics(admin: Person) -> Metrics:
    answer = admin.api("GET", "/metrics")
    assert answer.status_code == 200
    return Metrics(answer.text)


def test_only_who_may_read_metrics_does(hub: Stack, person: Person, admin: Person) -> None:
    assert person.api("GET", "/metrics").status_code == 403
    assert hub.client().get(f"{hub.url}/hub/metrics").status_code == 403
    assert metrics(admin).value("canfar_starts_total", kind="contributed", outcome="error") == 0


def test_starts_are_counted_by_kind_and_outcome_and_measured(person: Person, admin: Person) -> None:
    before = metrics(admin)
    person.start("mine", {"profile": "open"})
    person.ready("mine")
    assert person.start("dying", {"profile": "dies"}).status_code == 424
    assert person.start("unlisted", {"profile": "open", "image": "evil.example.org/x:1"}).status_code == 400
    assert person.start("unlisted", {"profile": "open", "cores": 64}).status_code == 400
    after = metrics(admin)
    assert after.since(before, "canfar_starts_total") == {
        ("contributed", "ready"): 1,
        ("contributed", "image"): 1,
        ("none", "refused"): 2,
    }
    assert after.since(before, "canfar_refusals_total") == {("image",): 1, ("cores",): 1}
    counts = after.since(before, "canfar_start_seconds_count")
    stages = {"queue": 2, "credentials": 2, "made": 2, "answer": 1, "whole": 1}
    assert counts == {("contributed", stage): count for stage, count in stages.items()}


def test_a_slow_start_that_its_owner_stops_is_no_failure(person: Person, admin: Person) -> None:
    before = metrics(admin)
    person.start("late", {"profile": "dies-late"})
    until(
        lambda: metrics(admin).since(before, "canfar_start_seconds_count").get(("contributed", "made")), "made"
    )
    person.stop("late")
    assert metrics(admin).since(before, "canfar_starts_total") == {("contributed", "stopped"): 1}


def test_a_form_that_cannot_be_read_is_counted(person: Person, admin: Person) -> None:
    before = metrics(admin)
    answer = person.browser.post(
        f"{person.stack.url}/hub/spawn",
        data={"profile": "open", "cores": "many", "_xsrf": person.xsrf()},
    )
    assert "must be a number" in answer.text
    risen = metrics(admin).since(before, "canfar_refusals_total")
    assert risen == {("bad-request",): 1}


CERTIFICATE = {"credential": "certificate"}


def test_credentials_that_end_are_missing_or_fail_are_told(
    person: Person, admin: Person, cred: TrialCredServer
) -> None:
    before = metrics(admin)
    assert before.value("canfar_credentials_missing", **CERTIFICATE) == 0
    person.start("mine", {"profile": "open"})
    person.ready("mine")
    after = metrics(admin)
    ends = after.value("canfar_credentials_end_timestamp_seconds", **CERTIFICATE)
    assert ends is not None
    assert ends > time.time()
    assert after.value("canfar_credentials_end_timestamp_seconds", credential="access_token") > time.time()
    assert after.since(before, "canfar_credentials_failures_total") == {}

    person.stop("mine")
    cred.fault = Status(500)
    for name in ("one", "two"):
        person.start(name, {"profile": "open"})
        person.ready(name)
    without = metrics(admin)
    assert without.value("canfar_credentials_missing", **CERTIFICATE) == 2
    assert without.value("canfar_credentials_missing", credential="access_token") == 0
    ends = without.value("canfar_credentials_end_timestamp_seconds", **CERTIFICATE)
    assert ends != ends  # NaN: there is none
    assert without.since(after, "canfar_credentials_failures_total")[("certificate",)] >= 1


def test_users_whose_groups_are_unknown_are_told(person: Person, admin: Person, gms: GmsServer) -> None:
    users, since = "canfar_groups_unknown_users", "canfar_groups_unknown_since_timestamp_seconds"
    for name in ("one", "two"):
        person.start(name, {"profile": "open"})
        person.ready(name)
    assert metrics(admin).value(users) == 0
    began = time.time()
    gms.fault = Status(500)
    until(lambda: metrics(admin).value(users) == 1, "one user, with two sessions")
    told = metrics(admin).value(since)
    assert told is not None
    assert began - 60 < told < time.time()
    gms.fault = None
    until(lambda: metrics(admin).value(users) == 0, "known again")
    until(lambda: (value := metrics(admin).value(since)) != value, "no time left")
