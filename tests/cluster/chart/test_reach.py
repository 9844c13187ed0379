"""What somebody gets who has taken over the hub, the gateway or a session: tried there, and kept as a table.

The table is `docs/reference/reach.md`; with `CANFAR_WRITE_DOCS=1` it is written anew.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.support.chart import Installed, decoded, rights
from tests.support.cluster import kubectl
from tests.support.stack import ROOT, Person

pytestmark = pytest.mark.cluster

PAGE = ROOT / "docs/reference/reach.md"
MARK = "<!-- made by tests/cluster/chart/test_reach.py -->\n"

_CONNECT = """
import socket, sys
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 3).close()
        print(target, "yes")
    except OSError:
        print(target, "no")
"""
# Values never leave the pod: only which of the names that are asked for has the digest that is asked for.
_HOLDS = """
import hashlib, os, pathlib, sys
texts = list(os.environ.values())
for top in ("/etc/canfar", "/run", "/var/lib/canfar", "/srv"):
    for path in pathlib.Path(top).rglob("*"):
        try:
            texts.append(path.read_text())
        except (OSError, UnicodeDecodeError):
            pass
digests = {hashlib.sha256(text.strip().encode()).hexdigest() for text in texts}
for pair in sys.argv[1:]:
    name, digest = pair.split("=")
    if digest in digests:
        print(name)
"""
_WRITES = """
import os, sys
for path in sys.argv[1:]:
    print(path, "yes" if os.access(path, os.W_OK) else "no")
"""

Run = Callable[..., str]


@pytest.fixture(scope="module")
def places(installed: Installed, session: str) -> dict[str, Run]:
    """How to run a Python program in each place."""

    def hub(*arguments: str) -> str:
        return installed.run("hub", "python", "-c", *arguments).stdout

    def gateway(*arguments: str) -> str:
        return installed.run("gateway", "python", "-c", *arguments).stdout

    def inside(*arguments: str) -> str:
        return installed.ground.run(session, "/opt/venv/bin/python", "-c", *arguments).stdout

    def outside(*arguments: str) -> str:
        command = ["kubectl", "exec", "-n", installed.world.name, "deployment/web", "-c", "web", "--"]
        done = subprocess.run(
            [*command, "python", "-c", *arguments], capture_output=True, text=True, timeout=120
        )
        return done.stdout

    return {"hub": hub, "gateway": gateway, "session": inside, "another pod": outside}


@pytest.fixture(scope="module")
def other(installed: Installed) -> Iterator[str]:
    """The address of another user's session."""
    visitor = installed.sign_in("visitor")
    visitor.start("other", {"profile": "notebook"})
    visitor.ready("other")
    yield str(installed.ground.pod("other")["status"]["podIP"])
    visitor.stop_all()


@pytest.fixture(scope="module")
def targets(installed: Installed, other: str) -> dict[str, str]:
    """What can be connected to, by what it is."""

    def ip(component: str) -> str:
        name = installed.pod(component)
        return kubectl("get", "pod", "-n", installed.name, name, "-o", "jsonpath={.status.podIP}")

    node = kubectl("get", "nodes", "-o", "jsonpath={.items[0].status.addresses[0].address}")
    api = kubectl("get", "service", "-n", "default", "kubernetes", "-o", "jsonpath={.spec.clusterIP}")
    return {
        "the hub": f"{ip('hub')}:8081",
        "the gateway": f"{ip('gateway')}:8000",
        "the gateway's REST API": f"{ip('gateway')}:8001",
        "the public address": f"{installed.url.removeprefix('https://')}:443",
        "another session": f"{other}:8888",
        "the database": f"{installed.world.service_ip('postgres')}:5432",
        "the API server": f"{api}:443",
        "the node": f"{node}:10250",
    }


EXPECTED = {
    "hub": {"the hub", "the gateway's REST API", "the public address", "another session"}
    | {"the database", "the API server", "the node"},
    # Its own ports every pod reaches.
    "gateway": {"the hub", "the gateway", "the gateway's REST API", "another session"},
    "session": {"the gateway", "the public address"},
    "another pod": {"the gateway", "the public address", "the database", "the API server", "the node"},
}
"""What has to be reached, and all that may be."""


@pytest.fixture(scope="module")
def reached(places: Mapping[str, Run], targets: Mapping[str, str]) -> dict[str, dict[str, bool]]:
    found = {}
    for place, run in places.items():
        told = dict(line.split() for line in run(_CONNECT, *targets.values()).splitlines())
        found[place] = {what: told[address] == "yes" for what, address in targets.items()}
    return found


@pytest.mark.parametrize("place", EXPECTED)
def test_who_reaches_whom(place: str, reached: Mapping[str, Mapping[str, bool]]) -> None:
    assert {what for what, is_open in reached[place].items() if is_open} == EXPECTED[place]


def test_names_are_looked_up_everywhere(places: Mapping[str, Run], installed: Installed) -> None:
    lookup = "import socket, sys; print(socket.gethostbyname(sys.argv[1]))"
    for run in places.values():
        assert run(lookup, f"hub.{installed.name}.svc.cluster.local").strip()


def test_the_table_of_the_documentation_is_what_was_tried(
    installed: Installed,
    places: Mapping[str, Run],
    reached: Mapping[str, Mapping[str, bool]],
    astronomer: Person,
    session: str,
) -> None:
    made = "\n".join((_connections(reached), _secrets(installed, places), _files(places), _rights(installed)))
    if os.environ.get("CANFAR_WRITE_DOCS"):
        head = PAGE.read_text().partition(MARK)[0]
        PAGE.write_text(f"{head}{MARK}\n{made}")
    kept = PAGE.read_text().partition(MARK)[2].strip()
    assert kept == made.strip(), "run it with CANFAR_WRITE_DOCS=1, and read what has changed"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _connections(reached: Mapping[str, Mapping[str, bool]]) -> str:
    names = list(reached)
    rows = [[what, *("yes" if reached[name][what] else "–" for name in names)] for what in reached["hub"]]
    return "## Connections\n\n" + _table(["to", *(f"from {_place(name)}" for name in names)], rows)


def _place(name: str) -> str:
    return name if name.startswith("another") else f"the {name}" if name != "session" else "a session"


def _secrets(installed: Installed, places: Mapping[str, Run]) -> str:
    own = decoded("hub", installed.name)
    every = installed.ground.secrets()
    mine = next(one for one in every if one["metadata"]["labels"]["canfar.net/username"] == "astronomer")
    session = decoded(mine["metadata"]["name"], installed.ground.sessions)
    known = {
        **own,
        "address of the database, with its password": decoded("database", installed.name)["url"],
        "its own session's secret": session["session_secret"],
        "its user's certificate": session["cadcproxy.pem"],
        "its user's access token": session["access_token"],
    }
    pairs = [f"{name}={hashlib.sha256(text.strip().encode()).hexdigest()}" for name, text in known.items()]
    ours = ("hub", "gateway", "session")
    held = {name: set(places[name](_HOLDS, *pairs).splitlines()) for name in ours}
    assert held["gateway"] == {"CANFAR_GATEWAY_TOKEN", "CONFIGPROXY_AUTH_TOKEN"}
    assert not held["session"] & {*own, "address of the database, with its password"}
    rows = [[f"`{what}`" if what.isupper() else what, *_marks(held, what)] for what in known]
    return "## Secrets in its environment and files\n\n" + _table(["", *map(_place, held)], rows)


def _marks(held: Mapping[str, set[str]], what: str) -> list[str]:
    return ["yes" if what in found else "–" for found in held.values()]


def _files(places: Mapping[str, Run]) -> str:
    paths = ["/", "/etc", "/opt", "/tmp", "/etc/canfar/site", "/var/lib/canfar", "/arc/home/astronomer"]
    paths += ["/arc/home", "/arc/projects/survey-x", "/scratch", "/run/canfar/credentials"]
    told = {
        name: dict(line.split() for line in run(_WRITES, *paths).splitlines())
        for name, run in places.items()
        if name != "another pod"
    }
    rows = [
        [f"`{path}`", *("yes" if told[name][path] == "yes" else "–" for name in told)]
        for path in paths
        if any(told[name][path] == "yes" for name in told)
    ]
    return "## Folders that it can write to\n\n" + _table(["", *map(_place, told)], rows)


def _rights(installed: Installed) -> str:
    """Of the API server, by the account whose token is in the pod."""
    token = "import os; print(os.path.exists('/var/run/secrets/kubernetes.io/serviceaccount/token'))"
    assert installed.run("hub", "python", "-c", token).stdout.strip() == "True"
    assert installed.run("gateway", "python", "-c", token).stdout.strip() == "False"
    rows = []
    spaces = {
        "its own": installed.name,
        "sessions": installed.ground.sessions,
        "homes": installed.ground.homes,
        "another": installed.world.name,
    }
    for name, space in spaces.items():
        for what, verbs in rights(f"{installed.name}:hub", space):
            rows.append([name, f"`{what}`", verbs])
    text = "Gateway and sessions have no account: no token is in their pods. The hub's may, by namespace:\n\n"
    return "## Rights at the API server\n\n" + text + _table(["namespace", "what", "verbs"], rows)


def test_no_token_of_the_cluster_is_in_a_session(installed: Installed, session: str) -> None:
    found = installed.ground.run(session, "ls", "/var/run/secrets/kubernetes.io/serviceaccount")
    assert found.returncode != 0
