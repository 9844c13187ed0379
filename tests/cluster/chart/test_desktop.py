"""A desktop of an installed chart, whose menu starts an application through the gateway's Service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.chart import Installed
from tests.support.stack import Person, until

pytestmark = pytest.mark.cluster

SLOW = 180.0  # seconds that a program with windows may take on a busy machine
# As the menu calls: with the desktop's own token, from within its pod.
_START = """
import hashlib, json, os, urllib.request
secret = open("/run/canfar/secret/session_secret").read()
token = hashlib.sha256(f"apps:{secret}".encode()).hexdigest()
headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
body = json.dumps({"profile": "ds9"}).encode()
request = urllib.request.Request(os.environ["CANFAR_APPS_URL"], body, headers)
print(os.environ["CANFAR_APPS_URL"], urllib.request.urlopen(request, timeout=180).status)
"""
_PAGE = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=30).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


@pytest.fixture(scope="module")
def person(installed: Installed) -> Iterator[Person]:
    found = installed.sign_in("first.last@example.org")
    found.begin("desk", {"profile": "desktop"})
    yield found
    found.stop_all()


def test_an_application_of_its_menu_shows_on_it(person: Person, installed: Installed) -> None:
    told = installed.ground.run("desk", "/opt/desktop/bin/python", "-c", _START)
    assert told.stdout.startswith(f"http://gateway.{installed.name}.svc/hub/api/desktops/"), told.stderr
    assert told.stdout.strip().endswith("201")
    own = 'XAUTHORITY="$(echo /tmp/canfar-desktop.*/x)" xwininfo -display :1 -root -tree'
    until(lambda: "SAOImage ds9" in installed.ground.run("desk", "sh", "-c", own).stdout, "its window", SLOW)


def test_the_gateways_service_opens_the_api_to_pods_and_no_page(person: Person, installed: Installed) -> None:
    def status(path: str) -> str:
        url = f"http://gateway.{installed.name}.svc{path}"
        return installed.ground.run("desk", "/opt/desktop/bin/python", "-c", _PAGE, url).stdout.strip()

    assert status("/hub/api/") == "200"
    assert status("/hub/login") == "404"
    assert status("/hub/home") == "404"
