"""JupyterLab as a session: who it says works in it, when it was used, what a link opens, and who is invited."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from urllib.parse import urljoin

import httpx
import pytest
import yaml

from tests.support.kernel import Kernel
from tests.support.stack import ROOT, Person, Stack, running, until, write_catalogue


@pytest.fixture(scope="module")
def brisk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A hub that looks after running sessions every second."""
    folder = tmp_path_factory.mktemp("brisk")
    site = yaml.safe_load((ROOT / "demo/site.yaml").read_text())
    site["groups"]["refresh"] = 5
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    options = ("--site", str(folder / "site.yaml"), "--catalogue", str(write_catalogue(folder)))
    with running(folder / "data", *options) as stack:
        yield stack


@pytest.fixture(scope="module")
def owner(brisk: Stack) -> Iterator[Person]:
    """`astronomer`, with a running notebook `mine` that was asked to open one of theirs."""
    person = brisk.sign_in("astronomer")
    answer = person.start("mine", {"profile": "notebook", "open": "projects/survey-x/look at 100%.ipynb"})
    assert answer.status_code in (201, 202), answer.text
    person.ready("mine")
    yield person
    person.stop_all()


@pytest.fixture
def guest(brisk: Stack) -> Person:
    return brisk.sign_in("visitor")


def get(person: Person, path: str) -> httpx.Response:
    """An answer of the notebook's own API, by the person's browser."""
    return person.browser.get(f"http://astronomer.localhost:{person.stack.port}/user/astronomer/mine/{path}")


def invitation(owner: Person, server: str = "mine") -> str:
    """A code as the page's dialog gets it: with the browser's cookies, and without any other scope."""
    made = owner.browser.post(
        f"{owner.stack.url}/hub/api/share-codes/astronomer/{server}",
        json={"expires_in": 60},
        headers={"X-XSRFToken": owner.xsrf()},
    )
    assert made.status_code == 200, made.text
    return urljoin(owner.stack.url, made.json()["accept_url"])


def accept(guest: Person, address: str) -> httpx.Response:
    page = guest.browser.get(address)
    fields = dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', page.text))
    return guest.browser.post(address, data=fields)


def test_the_hub_leads_to_what_was_asked_for_first_and_keeps_other_addresses(owner: Person) -> None:
    landed = str(get(owner, "").url)
    assert landed.endswith("/lab/tree/projects/survey-x/look%20at%20100%25.ipynb")
    root = landed.partition("/lab/")[0]
    assert str(get(owner, "lab/tree/home").url) == f"{root}/lab/tree/home"
    assert str(owner.browser.get(f"{root}/").url) == landed


@pytest.mark.parametrize("path", ["../outside", "a//b", "a/./b", "a/", "/", "line\nbreak", "x" * 1025, 7])
def test_what_is_no_path_is_not_opened(brisk: Stack, owner: Person, path: object) -> None:
    answer = owner.start("other", {"profile": "notebook", "open": path})
    assert answer.status_code == 400
    assert not owner.server("other").get("started")


def test_a_program_that_cannot_open_a_file_says_so(owner: Person) -> None:
    answer = owner.start("other", {"profile": "open", "open": "projects/x.fits"})
    assert answer.status_code == 400
    assert "cannot open a file" in answer.json()["message"]


def test_jupyterlab_is_told_who_works_in_it(owner: Person) -> None:
    identity = get(owner, "api/me").json()["identity"]
    assert identity["username"] == "astronomer"
    assert identity["name"] == identity["display_name"] != ""
    assert len(identity["initials"]) in (1, 2)
    assert identity["color"].startswith("#")


def test_a_kernel_that_works_is_use_and_asking_is_not(owner: Person, brisk: Stack) -> None:
    def used() -> datetime | None:
        page = owner.browser.get(f"{brisk.url}/hub/home").text
        found = re.search(r'last used <time datetime="([^"]+)"', page)
        return datetime.fromisoformat(found[1]) if found else None

    with Kernel(owner, "mine") as kernel:
        kernel.run("print(1)")
        first = until(used, "a time of use")
        for _ in range(20):  # as an open page does
            get(owner, "api/kernels?no_track_activity=1")
        asked = until(used, "a time of use")
        assert asked >= first
        # A cell that prints nothing is work all the same.
        code = "import time\nend = time.time() + 4\nwhile time.time() < end: pass"
        kernel.run(code)
        until(lambda: used() > asked, "a later time of use")


def test_an_invited_person_works_in_the_session_until_it_is_taken_back(owner: Person, guest: Person) -> None:
    assert get(guest, "api/status").status_code == 403
    address = invitation(owner)
    shown = guest.browser.get(address)
    assert "astronomer invites you to" in shown.text
    opened = accept(guest, address)
    assert opened.status_code == 200, opened.text
    assert "/session/notebook/" in str(opened.url)
    # It is the guest whom Jupyter names, and other sessions of the owner stay closed.
    assert get(guest, "api/me").json()["identity"]["username"] == "visitor"
    listed = owner.browser.get(f"{owner.stack.url}/hub/api/shares/astronomer/mine").json()["items"]
    assert [share["user"]["name"] for share in listed] == ["visitor"]
    ended = owner.browser.patch(
        f"{owner.stack.url}/hub/api/shares/astronomer/mine",
        json={"user": "visitor"},
        headers={"X-XSRFToken": owner.xsrf()},
    )
    assert ended.status_code == 200
    until(lambda: get(guest, "api/status").status_code == 403, "closed to the guest")


def test_nobody_invites_into_a_session_of_somebody_else(owner: Person, guest: Person) -> None:
    refused = guest.browser.post(
        f"{owner.stack.url}/hub/api/share-codes/astronomer/mine",
        json={},
        headers={"X-XSRFToken": guest.xsrf()},
    )
    assert refused.status_code in (403, 404)


def test_sharing_ends_with_the_session(owner: Person, guest: Person) -> None:
    owner.start("brief", {"profile": "open"})
    owner.ready("brief")
    accept(guest, invitation(owner, "brief"))
    unused = invitation(owner, "brief")
    owner.api("DELETE", "/users/astronomer/servers/brief")
    until(lambda: not owner.server("brief").get("ready"), "stopped")
    owner.start("brief", {"profile": "open"})
    owner.ready("brief")
    page = guest.browser.get(owner.server("brief")["full_url"])
    assert page.status_code == 403
    assert guest.browser.get(unused).status_code == 404
