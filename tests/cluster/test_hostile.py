"""What a hostile image does in a pod: its session ends or goes on, and others do not notice."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from tests.support.cluster import Ground
from tests.support.stack import Person, Stack, until

pytestmark = pytest.mark.cluster

LOG = 200_000_000  # bytes


@pytest.fixture
def hostile(stack: Stack) -> Iterator[Person]:
    found = stack.sign_in("first.last@example.org")
    found.begin("bad", {"profile": "hostile"})
    yield found
    found.stop_all()


@pytest.fixture
def neighbour(astronomer: Person, notebook: str) -> Iterator[Person]:
    """Somebody whose session answers after the test as before."""
    yield astronomer
    assert astronomer.browser.get(f"{astronomer.server(notebook)['full_url']}api").status_code == 200
    assert astronomer.browser.get(f"{astronomer.stack.url}/hub/home").status_code == 200


def act(person: Person, what: str) -> str:
    return person.browser.get(f"{person.server('bad')['full_url']}{what}", timeout=300).text


def processes() -> list[int]:
    """The processes of hostile sessions on the node, which is this machine."""
    program = "/src/tests/support/hostile.py"
    return [one.pid for one in psutil.process_iter(["cmdline"]) if program in (one.info["cmdline"] or ())]


def test_a_chain_of_forks_that_ignores_sigterm_ends_with_its_pod(
    hostile: Person, neighbour: Person, cluster: Ground
) -> None:
    act(hostile, "fork")
    assert len(processes()) > 100
    hostile.stop("bad")
    until(lambda: not cluster.pod("bad"), "its pod gone")
    until(lambda: not processes(), "its processes gone")


def test_who_takes_more_memory_than_asked_for_ends_alone_and_is_told(
    hostile: Person, neighbour: Person, cluster: Ground
) -> None:
    page = str(hostile.server("bad")["full_url"])
    assert act(hostile, "memory?gigabytes=4") == "eating"
    until(lambda: not hostile.server("bad").get("ready"), "its end noticed")
    until(lambda: "is not running" in hostile.browser.get(page).text, "a page that says so")
    sessions = hostile.browser.get(f"{hostile.stack.url}/hub/home").text
    assert "used more than its 1 GB of memory, and was ended" in sessions
    until(lambda: not cluster.pod("bad"), "its pod gone")


def test_much_output_disturbs_nobody(hostile: Person, neighbour: Person) -> None:
    assert act(hostile, f"log?size={LOG}") == "written"
    model = hostile.server("bad")
    if model.get("ready"):  # nodes may as well put an end to it
        assert act(hostile, "") != ""
        hostile.stop("bad")
