"""What a hostile image can do to the platform and to others' sessions, on the whole embedded hub: nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import psutil
import pytest

from tests.support.stack import Person, Stack, until

pytestmark = pytest.mark.slow


@pytest.fixture
def hostile(astronomer: Person) -> Person:
    """`astronomer`, with a hostile session `bad`."""
    answer = astronomer.start("bad", {"profile": "hostile"})
    assert answer.status_code in (201, 202), answer.text
    astronomer.ready("bad")
    return astronomer


@pytest.fixture
def neighbour(visitor: Person) -> Iterator[Person]:
    """`visitor`, with a session `good` that answers before and after the test."""
    visitor.start("good", {"profile": "open"})
    visitor.ready("good")
    yield visitor
    assert get(visitor, "good", "x").status_code == 200
    assert visitor.browser.get(f"{visitor.stack.url}/hub/home").status_code == 200


def get(person: Person, server: str, path: str) -> httpx.Response:
    return person.browser.get(f"{person.server(server)['full_url']}{path}")


def marked(stack: Stack) -> list[psutil.Process]:
    """The processes of hostile sessions."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(stack.data) in process.environ().get("CANFAR_RUNTIME_DIR", "") and any(
                "hostile.py" in word for word in process.cmdline()
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_gigabyte_of_log_is_not_kept(hostile: Person, neighbour: Person, stack: Stack) -> None:
    log = log_of(stack, hostile)
    with hostile.browser.stream("GET", f"{hostile.server('bad')['full_url']}log?size={10**9}") as answer:
        assert answer.status_code == 200
    until(lambda: log.stat().st_size < 20_000_000, "a short log")
    assert get(neighbour, "good", "x").status_code == 200


def log_of(stack: Stack, person: Person) -> Path:
    address = str(get(person, "bad", "").url)
    return stack.data / "sessions" / address.rstrip("/").rpartition("/")[2] / "log"


def test_ten_thousand_sockets_leave_room_for_others(hostile: Person, neighbour: Person, stack: Stack) -> None:
    told = get(hostile, "bad", f"sockets?port={stack.port}&number=10000").text
    assert int(told.split(",")[0]) > 1000
    for _ in range(5):
        assert get(neighbour, "good", "x").status_code == 200
    assert neighbour.browser.get(f"{stack.url}/hub/home").status_code == 200


def test_what_forks_for_ever_and_ignores_sigterm_ends_with_its_session(
    hostile: Person, neighbour: Person, stack: Stack
) -> None:
    assert get(hostile, "bad", "fork").text == "300"
    assert get(neighbour, "good", "x").status_code == 200
    hostile.stop("bad")
    assert not marked(stack)
    assert not marked(stack)  # each look takes a while, and they move


def test_what_dies_after_it_answered_is_told(hostile: Person, neighbour: Person) -> None:
    page = hostile.server("bad")["full_url"]
    assert get(hostile, "bad", "die").text == "dying"
    until(lambda: not hostile.server("bad").get("ready"), "the hub knows")
    until(lambda: "is not running" in hostile.browser.get(page).text, "a page that says so")
    sessions = f"{hostile.stack.url}/hub/home"
    assert "ended with status 7." in hostile.browser.get(sessions).text
    # Not of a session that was started anew, and stopped by its owner.
    hostile.begin("bad", {"profile": "hostile"})
    hostile.api("DELETE", f"/users/{hostile.name}/servers/bad")
    until(lambda: not hostile.server("bad").get("ready"), "its end")
    assert "ended with" not in hostile.browser.get(sessions).text


def test_a_redirect_elsewhere_is_the_visitors_alone(hostile: Person, neighbour: Person) -> None:
    address = f"{hostile.server('bad')['full_url']}elsewhere"
    inside = urljoin(address, hostile.browser.get(address, follow_redirects=False).headers["Location"])
    answer = hostile.browser.get(inside, follow_redirects=False)
    assert answer.status_code == 302
    # The gateway followed nothing, and gave nothing of the visitor's away.
    assert answer.headers["Location"] == "https://evil.example.org/"
    assert "Set-Cookie" not in answer.headers


def test_its_cookies_stay_at_its_own_address(hostile: Person, neighbour: Person) -> None:
    page = get(hostile, "bad", "")
    path = page.url.path
    cookies = page.headers.get_list("Set-Cookie")
    assert len(cookies) == 2  # that with the hub's name is gone
    for cookie in cookies:
        assert "domain" not in cookie.lower()
        assert cookie.rpartition("Path=")[2].startswith(path)
    assert "Service-Worker-Allowed" not in page.headers
