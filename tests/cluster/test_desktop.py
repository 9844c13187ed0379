"""A desktop as a pod: reached through the gateway, and by nobody past it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from websockets import Subprotocol
from websockets.sync.client import connect

from tests.support.cluster import Ground
from tests.support.stack import Person, Stack, until

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def person(stack: Stack) -> Iterator[Person]:
    found = stack.sign_in("first.last@example.org")
    found.begin("desk", {"profile": "desktop"})
    yield found
    found.stop_all()


def test_it_is_seen_through_the_gateway(person: Person, cluster: Ground) -> None:
    page = person.browser.get(str(person.server("desk")["full_url"]))
    assert page.status_code == 200
    assert "desktop.js" in page.text
    viewer = connect(
        str(page.url.copy_with(scheme="ws")) + "socket",
        address=("127.0.0.1", person.stack.port),  # glibc does not resolve `*.localhost`
        subprotocols=[Subprotocol("binary")],
        additional_headers={"Authorization": f"token {person.token}"},
        proxy=None,
    )
    with viewer:
        assert viewer.recv(60) == b"RFB 003.008\n"


def test_nobody_else_sees_it(person: Person, stack: Stack, cluster: Ground) -> None:
    request = "import urllib.request as r; r.urlopen('http://127.0.0.1:6901/')"
    assert "403" in cluster.run("desk", "/opt/desktop/bin/python", "-c", request).stderr
    visitor = stack.sign_in("visitor")
    assert visitor.browser.get(str(person.server("desk")["full_url"])).status_code in {403, 404}


def test_xfce_runs_for_applications_of_other_pods(person: Person, cluster: Ground) -> None:
    own = 'export DISPLAY=:1 XAUTHORITY="$(echo /tmp/canfar-desktop.*/x)"; '

    def run(script: str) -> str:
        return cluster.run("desk", "sh", "-c", own + script).stdout

    until(lambda: "id #" in run("xprop -root _NET_SUPPORTING_WM_CHECK"), "Xfce")
    cookie = "set -- $(xauth list); xauth -q -f /tmp/there add $(hostname -i):1 . $3; "
    display = "-display $(hostname -i):1"
    assert "dimensions" in run(f"{cookie} XAUTHORITY=/tmp/there xdpyinfo {display}")
    assert "dimensions" not in run(f"XAUTHORITY=/dev/null xdpyinfo {display}")
    assert "CapEff:\t0000000000000000" in run("cat /proc/self/status")


def test_logging_out_ends_it(person: Person, cluster: Ground) -> None:
    bus = "tr '\\0' '\\n' </proc/$(pidof xfwm4)/environ | sed -n 's/^DBUS_SESSION_BUS_ADDRESS=//p'"
    script = f"DISPLAY=:1 DBUS_SESSION_BUS_ADDRESS=$({bus}) xfce4-session-logout --logout --fast"
    cluster.run("desk", "sh", "-c", f'export XAUTHORITY="$(echo /tmp/canfar-desktop.*/x)"; {script}')
    until(lambda: not person.server("desk").get("ready"), "the end noticed")
    until(lambda: not cluster.pod("desk"), "its pod gone")
