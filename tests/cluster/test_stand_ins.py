"""CARTA and Firefly as pods, by images that behave as theirs: command, prefix, token, account and mounts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.hub.test_carta import opened
from tests.support.cluster import Ground
from tests.support.stack import Person, Stack

pytestmark = pytest.mark.cluster

DIRECTLY = """
import sys, urllib.error, urllib.request
address, token = sys.argv[1:]
request = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"} if token else {})
try:
    print(urllib.request.urlopen(request).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


@pytest.fixture(scope="module", params=["astronomer", "first.last@example.org"])
def person(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Person]:
    found = stack.sign_in(request.param)
    yield found
    found.stop_all()


@pytest.fixture(scope="module")
def carta(person: Person) -> Iterator[str]:
    """The address of a session of CARTA that runs."""
    assert person.start("look", {"profile": "carta"}).status_code in {201, 202}
    yield str(person.ready("look")["full_url"])
    person.stop("look")


def test_carta_is_served_below_its_prefix_to_the_gateway_alone(
    person: Person, carta: str, cluster: Ground
) -> None:
    browser = person.browser
    page = browser.get(carta)
    path = page.url.path
    assert (page.status_code, "CARTA" in page.text) == (200, True)
    assert browser.get(str(page.url).rstrip("/")).url.path == path
    api = browser.get(page.url.join("config")).json()["apiAddress"]
    assert api == f"{path}api"
    preferences = f"{api}/database/preferences"
    assert browser.get(page.url.join(preferences)).json()["preferences"]["telemetryConsentShown"] is True
    secret = cluster.run("look", "cat", "/run/canfar/secret/session_secret").stdout
    for token, status in (("", "403"), ("wrong", "403"), (secret, "200")):
        own = f"http://127.0.0.1:6901{preferences}"
        assert cluster.run("look", "python3", "-c", DIRECTLY, own, token).stdout.strip() == status
    for pod in (cluster.pod("look"), cluster.log("look")):
        assert secret not in json.dumps(pod)


def test_carta_opens_what_its_owner_may_read_and_has_nothing_else(
    person: Person, carta: str, cluster: Ground, data: Path
) -> None:
    home = f"/arc/home/{person.name}"
    told = cluster.run("look", "sh", "-c", "id -u; tr '\\0' '\\n' </proc/1/cmdline; ls /arc/home /arc/projects")
    uid, *lines = told.stdout.splitlines()
    assert int(uid) == (data / f"arc/home/{person.name}").stat().st_uid >= 1000
    assert "--debug_no_auth" not in lines
    assert person.name in lines
    assert "other-project" not in lines
    mine = "projects/survey-x" if "survey-x" in lines else home.removeprefix("/arc/")
    if mine.startswith("home"):
        copy = "from astropy.io import fits; import numpy; fits.writeto('m13.fits', numpy.ones((300, 300)))"
        assert cluster.run("look", "sh", "-c", f'cd "$HOME" && python3 -c "{copy}"').returncode == 0
    page = person.browser.get(carta).url
    there = asyncio.run(opened(person, str(page), mine, "m13.fits"))
    assert (there["success"], there["extended"]["width"]) == (True, 300)
    for closed in ("projects/other-project", "../arc/projects/other-project"):
        assert not asyncio.run(opened(person, str(page), closed, "m13.fits")).get("success")


def test_firefly_runs_by_its_own_entry_point(person: Person, cluster: Ground) -> None:
    assert person.start("sky", {"profile": "firefly"}).status_code in {201, 202}
    page = person.browser.get(str(person.ready("sky")["full_url"]))
    path = page.url.path.removesuffix("firefly/")
    seen = page.json()
    assert seen["path"] == f"{path}firefly/"
    home = f"/arc/home/{person.name}"
    assert seen["environment"] == {
        "baseURL": path,
        "DEBUG": "FALSE",
        "XDG_CACHE_HOME": f"{home}/.cache",
        "HOME": home,
    }
    assert seen["headers"]["X-Forwarded-Host"] == urlsplit(str(page.url)).netloc
    redirected = person.browser.get(str(page.url).rstrip("/"))
    assert (redirected.status_code, redirected.url.path) == (200, f"{path}firefly/")
    assert int(cluster.run("sky", "id", "-u").stdout) >= 1000
    assert cluster.run("sky", "sh", "-c", "ls /arc/home").stdout.split() == [person.name]
    person.stop("sky")
