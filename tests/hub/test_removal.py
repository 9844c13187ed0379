"""What becomes of people and their sessions when groups are taken from them, on the whole embedded hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.identities import SURVEY, USERS
from tests.support.stack import ROOT, Person, Stack, running, until, write_catalogue


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A hub that reads groups again every few seconds and ends at once what somebody may no longer have."""
    folder = tmp_path_factory.mktemp("strict")
    site = yaml.safe_load((ROOT / "demo/site.yaml").read_text())
    site["groups"]["refresh"] = 5
    site["removal"] = {"platform": "end", "group": "end", "grace": 0}
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    options = ("--site", str(folder / "site.yaml"), "--catalogue", str(write_catalogue(folder)))
    with running(folder / "data", *options) as stack:
        yield stack


@pytest.fixture
def person(strict: Stack) -> Iterator[Person]:
    found = strict.sign_in("astronomer")
    yield found
    set_groups(strict, "astronomer", ["canfar-users", "survey-x"])
    found = strict.sign_in("astronomer")
    found.stop_all()


def set_groups(stack: Stack, name: str, groups: list[str]) -> None:
    users: Path = stack.data / "identity/config/users.yaml"
    document = yaml.safe_load(users.read_text())
    document["users"][name]["groups"] = groups
    fresh = users.with_suffix(".new")
    fresh.write_text(yaml.safe_dump(document))
    fresh.replace(users)


def test_a_removal_is_effective_in_the_gateway_the_api_and_for_sessions(strict: Stack, person: Person) -> None:
    person.start("mine", {"profile": "open"})
    page = str(person.ready("mine")["url"])
    assert "/session/" in str(person.browser.get(page).url)
    set_groups(strict, "astronomer", ["other-project"])
    until(lambda: person.api("GET", "/user").status_code == 403, "refused by the API")
    until(lambda: "/hub/login" in str(person.browser.get(page).url), "sent to sign in by the gateway")
    assert "/hub/login" in str(person.browser.get(f"{strict.url}/hub/home").url)
    refused = strict.sign_in("astronomer").arrived
    assert refused.status_code == 403
    assert f"not a member of {USERS}" in refused.text
    set_groups(strict, "astronomer", ["canfar-users"])
    until(lambda: person.api("GET", "/user").status_code == 200, "a member again")
    assert not person.server("mine").get("ready")


def test_a_removal_ends_the_sessions_of_somebody_who_makes_no_requests(strict: Stack, person: Person) -> None:
    person.start("mine", {"profile": "team"})
    person.ready("mine")
    runtime = strict.data / "sessions"
    assert list(runtime.iterdir())
    set_groups(strict, "astronomer", ["canfar-users"])
    until(lambda: not list(runtime.iterdir()), "the session ended")
    answer = person.start("again", {"profile": "team"})
    assert answer.status_code == 403
    assert SURVEY in answer.text
