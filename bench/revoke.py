"""From a group that is taken from somebody at the provider until the platform refuses them."""

import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.support.identities import USERS
from tests.support.stack import ROOT, Person, Stack, running, until, write_catalogue

TRIALS = 5
REFRESH = 20.0  # seconds, `groups.refresh` of the site that is measured; the promise is that it is never more
GROUPS = ["canfar-users"]


def measure() -> dict[str, Any]:
    """Seconds for somebody who makes requests, and for somebody who has a session and makes none."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        site = yaml.safe_load((ROOT / "demo/site.yaml").read_text())
        site["groups"]["refresh"] = REFRESH
        site["removal"] = {"platform": "end", "grace": 0}
        (folder / "site.yaml").write_text(yaml.safe_dump(site))
        options = ("--site", str(folder / "site.yaml"), "--catalogue", str(write_catalogue(folder)))
        with running(folder / "data", *options) as stack:
            busy, idle = zip(*(_trial(stack) for _ in range(TRIALS)), strict=True)
    return {
        "what": "seconds from a removal at the provider until the platform refuses",
        "groups.refresh": REFRESH,
        "somebody who makes requests: page, API and gateway all refuse": _figures(busy),
        "somebody who makes none: the groups are gone and the session has ended": _figures(idle),
        "limit": REFRESH,
        "within the limit": max(*busy, *idle) <= REFRESH,
    }


def _figures(seconds: tuple[float, ...]) -> dict[str, Any]:
    return {
        "all": [round(one, 1) for one in seconds],
        "median": round(statistics.median(seconds), 1),
        "longest": round(max(seconds), 1),
    }


def _trial(stack: Stack) -> tuple[float, float]:
    """One removal of two people at once. Everything is as before afterwards."""
    _set_groups(stack, GROUPS)
    admin, visitor, idle = (stack.sign_in(n) for n in ("admin", "visitor", "first.last@example.org"))
    for person in (visitor, idle):
        person.start("mine", {"profile": "open"})
        page = str(person.ready("mine")["full_url"])
        assert "<h1>path" in person.browser.get(page).text
        if person is visitor:
            session = str(person.browser.get(page).url)
    time.sleep(random.uniform(0, REFRESH / 2))
    began = time.monotonic()
    _set_groups(stack, ["other-project"])
    taken: dict[str, float] = {}
    threads = [
        _timed(taken, "busy", began, lambda: _refused_everywhere(stack, visitor, session)),
        _timed(taken, "idle", began, lambda: _forgotten(stack, admin)),
    ]
    for thread in threads:
        thread.join()
    return taken["busy"], taken["idle"]


def _timed(taken: dict[str, float], name: str, began: float, condition: Callable[[], bool]) -> threading.Thread:
    def wait() -> None:
        until(condition, f"the removal of the {name} one", patience=REFRESH * 3)
        taken[name] = time.monotonic() - began

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def _refused_everywhere(stack: Stack, person: Person, session: str) -> bool:
    """Asks at every place, each time: whoever tries is somebody who makes requests."""
    answers = [
        person.api("GET", "/user").status_code == 403,
        person.browser.get(f"{stack.url}/hub/home").url.path == "/hub/login",
        "<h1>path" not in person.browser.get(session).text,
    ]
    return all(answers)


def _forgotten(stack: Stack, admin: Person) -> bool:
    model = admin.api("GET", "/users/first.last@example.org").json()
    return USERS not in model["groups"] and not any(server.get("ready") for server in model["servers"].values())


def _set_groups(stack: Stack, groups: list[str]) -> None:
    path = stack.data / "identity/config/users.yaml"
    document = yaml.safe_load(path.read_text())
    for name in ("visitor", "first.last@example.org"):
        document["users"][name]["groups"] = groups
    fresh = path.with_suffix(".new")
    fresh.write_text(yaml.safe_dump(document))
    fresh.replace(path)
