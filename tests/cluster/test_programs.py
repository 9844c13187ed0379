"""VS Code, and a program whose image's labels say how it is served, in pods."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.support.cluster import Ground
from tests.support.stack import Person, Stack

pytestmark = pytest.mark.cluster

_DIRECTLY = """
import urllib.error, urllib.request
try:
    print(urllib.request.urlopen(f"http://127.0.0.1:5000{path}").status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


@pytest.fixture(scope="module")
def owner(stack: Stack) -> Iterator[Person]:
    found = stack.sign_in("first.last@example.org")
    yield found
    found.stop_all()


def directly(cluster: Ground, server: str, path: str) -> str:
    """The status that a program gives to what comes to its port without the session's secret."""
    done = cluster.run(server, "python3", "-c", f"path = {path!r}\n{_DIRECTLY}")
    return done.stdout.strip() or done.stderr


def test_vs_code_opens_in_the_home_and_for_the_gateway_alone(owner: Person, cluster: Ground) -> None:
    assert owner.start("code", {"profile": "vscode"}).status_code in {201, 202}
    page = owner.browser.get(str(owner.ready("code")["full_url"]))
    assert page.status_code == 200
    assert re.fullmatch(r"/session/vscode/[a-z0-9]{8}/", page.url.path)
    assert page.url.params["folder"] == f"/arc/home/{owner.name}"
    assert "workbench" in page.text
    assert directly(cluster, "code", "/proxy/5000/healthz") == "401"
    assert int(cluster.run("code", "id", "-u").stdout) >= 1000
    owner.stop("code")


def test_an_image_is_served_as_its_labels_say(owner: Person, cluster: Ground) -> None:
    assert owner.start("reactive", {"profile": "marimo"}).status_code in {201, 202}
    page = owner.browser.get(str(owner.ready("reactive")["full_url"]))
    assert page.status_code == 200
    assert page.url.path.startswith("/session/contributed/")
    assert "marimo" in page.text
    assert directly(cluster, "reactive", f"{page.url.path.rstrip('/')}/api/status") == "401"
    secret = cluster.run("reactive", "cat", "/run/canfar/secret/session_secret").stdout
    assert len(secret) == 64
    assert secret not in cluster.log("reactive")
    owner.stop("reactive")
