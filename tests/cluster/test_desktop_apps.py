"""Applications on a desktop, each a pod, where nothing in the namespace reaches another session by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.support.cluster import Ground, ground, hub, kubectl, listed, new_data
from tests.support.stack import Person, Stack, until

pytestmark = pytest.mark.cluster

SLOW = 180.0  # seconds that a program with windows may take on a busy machine
CLOSED = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "closed"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
}
# One more SAMP client of the desktop, which waits for the others, and has them do what a person would click.
SAMP = """
import json, os, sys, threading, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from astropy.samp import SAMPIntegratedClient
from astropy.table import Table

client = SAMPIntegratedClient(name="test", addr=os.environ["CANFAR_ADDRESS"])
client.connect()
deadline = time.monotonic() + 100

def wait(condition, what):
    while not (found := condition()):
        if time.monotonic() > deadline:
            sys.exit(f"{what} did not happen")
        time.sleep(0.2)
    return found

def find(name, mtype):
    for one in client.get_registered_clients():
        told = client.get_metadata(one).get("samp.name", "").lower()
        if name in told and mtype in client.get_subscriptions(one):
            return one

def ask(to, mtype, **params):
    return client.call_and_wait(to, {"samp.mtype": mtype, "samp.params": params}, "120")

ds9 = wait(lambda: find("ds9", "ds9.set"), "DS9 at the SAMP hub")
topcat = wait(lambda: find("topcat", "table.load.votable"), "TOPCAT at the SAMP hub")
sent = []
client.bind_receive_notification("table.load.votable", lambda *message: sent.append(message[4]))
table = os.path.expanduser("~/stars.vot")
Table({"ra": [250.42, 250.43], "dec": [36.46, 36.47]}).write(table, format="votable", overwrite=True)
assert ask(ds9, "ds9.set", cmd=f"catalog load {table}")["samp.status"] == "samp.ok"
assert ask(ds9, "ds9.set", cmd="catalog samp broadcast")["samp.status"] == "samp.ok"
wait(lambda: sent, "DS9's message")

def has(name):
    try:
        return ask(topcat, "table.highlight.row", **{"table-id": name, "row": "1"})["samp.status"] == "samp.ok"
    except Exception:
        return False

assert not has("a table that nobody sent")
wait(lambda: has(sent[0]["table-id"]), "the table in TOPCAT")

# And one that comes from a server as those of Java's SAMP clients are, which says no length.
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.wfile.write(b"HTTP/1.0 200 OK\\r\\nContent-Type: text/xml\\r\\n\\r\\n" + open(table, "rb").read())

server = HTTPServer((os.environ["CANFAR_ADDRESS"], 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
sent.clear()
url = f"http://{os.environ['CANFAR_ADDRESS']}:{server.server_port}/stars.vot"
assert ask(ds9, "table.load.votable", url=url, **{"table-id": "back"})["samp.status"] == "samp.ok"

def shown():
    ask(ds9, "ds9.set", cmd="catalog samp broadcast")
    urls = [one["url"].removeprefix("file://localhost") for one in sent if one["name"] == "back"]
    return urls and os.path.exists(urls[-1]) and len(Table.read(urls[-1], format="votable")) == 2

wait(shown, "the table in DS9")
client.disconnect()
print("arrived")
"""
REACHES = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5).close()
    print("open")
except OSError:
    print("closed")
"""


@dataclass
class Desk:
    """A desktop that runs, and its calls to the hub."""

    person: Person
    place: Ground

    def environment(self) -> dict[str, str]:
        lines = self.place.run("desk", "env", "-0").stdout.split("\0")
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def call(self, method: str, path: str = "", body: object = None) -> httpx.Response:
        """A call as the desktop's menu makes it."""
        secret = self.place.run("desk", "cat", "/run/canfar/secret/session_secret").stdout
        token = hashlib.sha256(f"apps:{secret}".encode()).hexdigest()
        url = f"{self.person.stack.url}/hub/api/desktops/{self.environment()['skaha_sessionid']}/apps"
        with self.person.stack.client(headers={"Authorization": f"Bearer {token}"}, timeout=180) as client:
            return client.request(method, f"{url}{path}", json=body)

    def start(self, profile: str) -> str:
        answer = self.call("POST", body={"profile": profile})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def windows(self) -> str:
        own = 'XAUTHORITY="$(echo /tmp/canfar-desktop.*/x)" xwininfo -display :1 -root -tree'
        return self.place.run("desk", "sh", "-c", own).stdout

    def address(self) -> str:
        return str(self.place.pod("desk")["status"]["podIP"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, kubeconfig: str) -> Iterator[tuple[Ground, Stack]]:
    """A hub that makes desktops' policies, and a namespace in which all else is closed."""
    data = new_data(tmp_path_factory.mktemp("closed"))
    with ground(data / "arc") as found:
        kubectl("apply", "-n", found.sessions, "-f", "-", given=CLOSED)
        with hub(data, found, cluster={"desktop_policies": True}) as stack:
            yield found, stack


@pytest.fixture(scope="module")
def desk(place: tuple[Ground, Stack]) -> Iterator[Desk]:
    found, stack = place
    person = stack.sign_in("first.last@example.org")
    person.begin("desk", {"profile": "desktop"})
    yield Desk(person, found)
    person.stop_all()


@pytest.fixture(scope="module")
def apps(desk: Desk) -> dict[str, str]:
    """DS9 and TOPCAT, and the ids of their sessions."""
    return {name: desk.start(name) for name in ("ds9", "topcat")}


def test_windows_of_two_pods_are_on_one_desktop(desk: Desk, apps: dict[str, str]) -> None:
    def shown() -> bool:
        windows = desk.windows()
        return "SAOImage ds9" in windows and "TOPCAT" in windows

    until(shown, "the windows", SLOW)
    addresses = {desk.place.pod(name)["status"]["podIP"] for name in apps.values()}
    assert len(addresses | {desk.address()}) == 3


def test_ds9_and_topcat_exchange_tables(desk: Desk, apps: dict[str, str]) -> None:
    done = desk.place.run("desk", "/usr/bin/python3", "-W", "ignore", "-c", SAMP)
    assert done.stdout == "arrived\n", done.stdout + done.stderr


def test_another_session_reaches_neither_its_screen_nor_its_samp_hub(desk: Desk, apps: dict[str, str]) -> None:
    lock = desk.environment()["SAMP_HUB"].removeprefix("std-lockurl:file://")
    lines = desk.place.run("desk", "cat", lock).stdout.splitlines()
    samp = next(line for line in lines if line.startswith("samp.hub.xmlrpc.url=")).replace("\\", "")
    port = samp.rstrip("/").rpartition(":")[2]
    stranger = desk.person.stack.sign_in("visitor")
    try:
        stranger.begin("near", {"profile": "notebook"})
        own = desk.person
        own.begin("beside", {"profile": "notebook"})
        for server in ("near", "beside"):  # also of the same person, since it is on no desktop
            for number in ("6001", port, "6901"):
                tried = desk.place.run(server, "python3", "-c", REACHES, desk.address(), number)
                assert tried.stdout == "closed\n", tried.stderr
        # What is closed there is open here.
        for number in ("6001", port):
            tried = desk.place.run("desk", "/usr/bin/python3", "-c", REACHES, desk.address(), number)
            assert tried.stdout == "open\n", tried.stderr
    finally:
        stranger.stop_all()
        desk.person.stop("beside")


def test_each_is_listed_and_ends_by_itself_or_with_its_desktop(desk: Desk, apps: dict[str, str]) -> None:
    running = {one["profile"]: one["id"] for one in desk.call("GET").json()["running"]}
    assert running == apps
    page = desk.person.browser.get(f"{desk.person.stack.url}/hub/home").text
    assert "SAOImage DS9" in page
    assert "TOPCAT" in page
    assert desk.call("DELETE", f"/{apps['topcat']}").status_code == 204
    until(lambda: not desk.place.pod(apps["topcat"]), "its pod gone")
    assert [one["id"] for one in desk.call("GET").json()["running"]] == [apps["ds9"]]
    until(lambda: "TOPCAT" not in desk.windows(), "its window gone")
    assert "SAOImage ds9" in desk.windows()
    policies = ("networkpolicies", "-n", desk.place.sessions, "-l", "canfar.net/kind=desktop")
    assert len(listed(*policies)) == 1
    desk.person.stop("desk")
    until(lambda: not desk.place.pods(), "all pods gone")
    until(lambda: not listed(*policies), "the policy gone")
    servers = desk.person.api("GET", f"/users/{desk.person.name}?include_stopped_servers").json()["servers"]
    assert set(servers) <= {""}  # the unnamed one, which is nobody's session
