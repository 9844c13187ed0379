"""Applications on a desktop, on a real hub: who may start them, what they get, and when they end."""

import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from tests.hub.test_sessions import session_processes, session_programs
from tests.support.stack import ROOT, Person, Stack, running, until

LIMIT = 3
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An embedded hub with desktops."""
    folder = tmp_path_factory.mktemp("desktops")
    catalogue = folder / "catalogue"
    catalogue.mkdir()
    text = (ROOT / "tests/support/desktops.yaml").read_text()
    text = text.replace("PYTHON", sys.executable).replace("SUPPORT", str(ROOT / "tests/support"))
    (catalogue / "desktops.yaml").write_text(text)
    site = yaml.safe_load((ROOT / "demo/site.yaml").read_text())
    site["kinds"] = ["desktop", "desktop-app"]
    site["limits"]["desktop_apps"] = LIMIT
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    more = ("--site", str(folder / "site.yaml"), "--catalogue", str(catalogue))
    with running(folder / "data", *more) as found:
        yield found


class Desk:
    """A running desktop session, and its calls to the hub."""

    def __init__(self, person: Person, server: str) -> None:
        self.person, self.server = person, server
        model = person.begin(server, {"profile": "desk"})
        self.environ = person.browser.get(f"{model['full_url']}environ").json()["environ"]
        self.url = self.environ["CANFAR_APPS_URL"]
        self.secret = Path(self.environ["CANFAR_SECRET_FILE"]).read_text()
        self.token = hashlib.sha256(f"apps:{self.secret}".encode()).hexdigest()

    @property
    def id(self) -> str:
        return str(self.environ["skaha_sessionid"])

    def call(
        self, method: str, path: str = "", body: object = None, token: str | None = None
    ) -> httpx.Response:
        """A call as the desktop makes it."""
        bearer = {"Authorization": f"Bearer {self.token if token is None else token}"}
        with self.person.stack.client(headers=bearer) as client:
            return client.request(method, f"{self.url}{path}", json=body)

    def start(self, **options: object) -> httpx.Response:
        return self.call("POST", body=options)

    def running(self) -> list[str]:
        return [app["id"] for app in self.call("GET").json()["running"]]


def apps(person: Person) -> set[str]:
    """The names of all applications in a person's list, stopped ones too."""
    servers = person.api("GET", f"/users/{person.name}?include_stopped_servers").json()["servers"]
    return {name for name, server in servers.items() if (server["user_options"] or {}).get("desktop")}


@pytest.fixture
def desk(visitor: Person) -> Desk:
    return Desk(visitor, "desk")


@pytest.mark.parametrize("name", ["visitor", "first.last@example.org"])
def test_a_desktop_starts_lists_and_ends_an_application(people, name):
    person = people[name]
    desk = Desk(person, "desk")
    before = session_programs(person.stack)
    started = desk.start(profile="viewer", cores=2)
    assert started.status_code == 201, started.text
    identifier = started.json()["id"]
    assert desk.call("GET").json()["running"] == [{"id": identifier, "profile": "viewer", "title": "Viewer"}]
    assert len(session_programs(person.stack).keys() - before.keys()) == 1
    model = person.server(identifier)
    assert model["ready"]
    assert model["user_options"] == {"profile": "viewer", "cores": 2, "desktop": desk.id}
    assert desk.call("DELETE", f"/{identifier}").status_code == 204
    assert session_processes(person.stack) == before  # nothing of it is left
    until(lambda: apps(person) == set(), "the application off the list")
    person.stop_all()


def test_what_an_application_gets(desk):
    home = Path(desk.environ["HOME"])
    for earlier in ("viewer-env", "viewer-x"):
        (home / earlier).unlink(missing_ok=True)
    assert desk.start(profile="viewer").status_code == 201
    until(lambda: (home / "viewer-x").exists() and (home / "viewer-x").stat().st_size, "the application")
    until(lambda: "DISPLAY=" in (home / "viewer-env").read_text(), "all of its environment")
    given = dict(line.split("=", 1) for line in (home / "viewer-env").read_text().splitlines() if "=" in line)
    assert given["DISPLAY"] == f":{int(desk.environ['CANFAR_PORT']) - 2000}"
    assert given["SAMP_HUB"] == desk.environ["SAMP_HUB"]
    assert given["CANFAR_TITLE"] == "Viewer"
    assert "CANFAR_APPS_URL" not in given
    # The X cookie of its desktop it has in a file of its own alone, and of the desktop's secret nothing.
    cookie = hashlib.sha256(f"x11:{desk.secret}".encode()).hexdigest()[:32]
    wild = b"\xff\xff\0\0\0\0\0\x12MIT-MAGIC-COOKIE-1\0\x10"
    assert (home / "viewer-x").read_bytes() == wild + bytes.fromhex(cookie)
    assert Path(given["XAUTHORITY"]).stat().st_mode & 0o077 == 0
    assert cookie not in (home / "viewer-env").read_text()
    assert desk.secret not in (home / "viewer-env").read_text()
    for pid in session_processes(desk.person.stack):
        line = " ".join(psutil.Process(pid).cmdline())
        assert cookie not in line
        assert desk.secret not in line


def test_the_menu_holds_what_its_owner_may_use_here(people, desk, astronomer):
    menu = {app["profile"]: app for app in desk.call("GET").json()["apps"]}
    assert list(menu) == ["viewer", "absent"]
    assert menu["absent"]["refusal"].endswith("“make run KINDS=desktop-app” installs it.")
    viewer = menu["viewer"]
    assert (viewer["title"], viewer["category"], viewer["refusal"]) == ("Viewer", "Viewers", "")
    assert viewer["images"] == ["example.org/viewer:2", "example.org/viewer:1"]
    assert [choice["value"] for choice in viewer["cores"] if not choice["refusal"]] == [1, 2]
    members = Desk(astronomer, "desk").call("GET").json()["apps"]
    assert [app["profile"] for app in members] == ["viewer", "team-app", "absent"]


REFUSED = {
    "an application of another group": ({"profile": "team-app"}, 403, "survey-x"),
    "no application": ({"profile": "desk"}, 400, "not on offer"),
    "one that is not installed": ({"profile": "absent"}, 400, "installs it"),
    "too many cores": ({"profile": "viewer", "cores": 64}, 403, "At most 2 cores"),
    "an unlisted image": ({"profile": "viewer", "image": "evil.example.org/x:1"}, 400, "not on offer"),
    "an unknown key": ({"profile": "viewer", "command": "sh"}, 400, "no option"),
    "no object": (["viewer"], 400, "JSON object"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why_and_leave_nothing(desk, case):
    body, status, said = REFUSED[case]
    answer = desk.call("POST", body=body)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["message"]
    assert apps(desk.person) == set()


def test_applications_have_a_limit_of_their_own(desk):
    for _ in range(LIMIT):
        assert desk.start(profile="viewer").status_code == 201
    refused = desk.start(profile="viewer")
    assert refused.status_code == 403
    assert f"{LIMIT} of {LIMIT} applications" in refused.json()["message"]
    assert len(desk.running()) == LIMIT
    # They do not count among the sessions, of which this person may have three.
    assert desk.person.start("second", {"profile": "desk"}).status_code in {201, 202}


def test_only_the_token_of_this_start_of_this_desktop_opens_its_applications(people, desk, astronomer):
    other = Desk(astronomer, "desk")
    second = Desk(desk.person, "second")
    for token in (other.token, second.token, desk.secret, desk.person.token, "wrong"):
        for method, path, body in (
            ("GET", "", None),
            ("POST", "", {"profile": "viewer"}),
            ("DELETE", "/x", None),
        ):
            assert desk.call(method, path, body, token=token).status_code == 403
    # A signed-in browser opens nothing either.
    assert desk.person.browser.get(desk.url).status_code == 403
    assert desk.running() == []
    # What is on one desktop, another one cannot end.
    app = desk.start(profile="viewer").json()["id"]
    assert second.call("DELETE", f"/{app}").status_code == 404
    assert desk.running() == [app]
    desk.person.api("DELETE", "/users/visitor/servers/desk")
    until(lambda: desk.call("GET").status_code == 404, "the desktop stopped")
    again = Desk(desk.person, "desk")
    assert again.call("GET", token=desk.token).status_code == 403
    assert again.call("GET").status_code == 200


def test_an_application_needs_a_desktop_of_its_owner(desk, astronomer):
    alone = desk.person.start("alone", {"profile": "viewer"})
    assert alone.status_code == 400
    assert "from the menu" in alone.json()["message"]
    theirs = astronomer.start("theirs", {"profile": "viewer", "desktop": desk.id})
    assert theirs.status_code == 409
    assert "no running desktop" in theirs.json()["message"]
    assert not astronomer.server("theirs").get("ready")


def test_it_is_no_kind_that_the_picker_offers(visitor):
    page = visitor.browser.get(f"{visitor.stack.url}/hub/spawn/visitor").text
    assert '"kind": "desktop"' in page
    assert '"kind": "desktop-app"' not in page
    assert "Viewer" not in page


def test_its_address_opens_nothing_and_says_so(desk, astronomer):
    app = desk.start(profile="viewer").json()["id"]
    address = desk.person.server(app)["full_url"]
    answer = desk.person.browser.get(address)
    assert answer.status_code == 404
    assert "Open the desktop" in answer.text
    assert astronomer.browser.get(address).status_code == 403


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_applications_end_with_their_desktop(desk, how):
    other = Desk(desk.person, "other")
    kept = other.start(profile="viewer").json()["id"]
    for _ in range(2):
        assert desk.start(profile="viewer").status_code == 201
    if how == "stopped":
        desk.person.api("DELETE", "/users/visitor/servers/desk")
    else:
        (pid,) = [
            p
            for p, start in session_processes(desk.person.stack).items()
            if start == desk.environ["CANFAR_START_ID"]
        ]
        os.kill(pid, signal.SIGKILL)
    until(lambda: apps(desk.person) == {kept}, "the end of its applications")
    assert other.running() == [kept]
    assert len(session_programs(desk.person.stack)) == 2


def test_an_application_that_ends_by_itself_leaves_the_list(desk):
    desktops = session_programs(desk.person.stack)
    app = desk.start(profile="viewer").json()["id"]
    (pid,) = session_programs(desk.person.stack).keys() - desktops.keys()
    os.kill(pid, signal.SIGTERM)
    until(lambda: apps(desk.person) == set(), f"{app} off the list")
    assert desk.running() == []


def test_it_can_be_stopped_by_the_hubs_own_api(desk):
    app = desk.start(profile="viewer").json()["id"]
    desk.person.api("DELETE", f"/users/visitor/servers/{app}")
    until(lambda: apps(desk.person) == set(), "the application off the list")


def test_a_hub_restart_keeps_both_and_still_ends_both(desk):
    app = desk.start(profile="viewer").json()["id"]
    before = session_programs(desk.person.stack)
    desk.person.stack.restart_hub(signal.SIGKILL)
    desk.person.ready(app)
    assert desk.running() == [app]
    assert session_programs(desk.person.stack) == before
    desk.person.stop("desk")
    until(lambda: not session_processes(desk.person.stack), "the end of the application")
    until(lambda: not apps(desk.person), "an empty list")


def test_a_desktop_that_dies_while_the_hub_is_down_takes_its_applications_along(desk):
    desk.start(profile="viewer")
    stack = desk.person.stack
    desktops = [p for p, start in session_processes(stack).items() if start == desk.environ["CANFAR_START_ID"]]
    hub = stack.program("jupyterhub")
    os.kill(hub, signal.SIGSTOP)  # it notices nothing more
    for pid in desktops:
        os.kill(pid, signal.SIGKILL)
    stack.restart_hub(signal.SIGKILL)
    until(lambda: not session_processes(stack), "the end of the application")
    until(lambda: apps(desk.person) == set(), "the application off the list")
