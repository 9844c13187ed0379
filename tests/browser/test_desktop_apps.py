"""Applications on a real desktop, seen in a real browser: DS9 with an image, and a table for TOPCAT by SAMP."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from astropy.samp import SAMPIntegratedClient
from astropy.table import Table
from playwright.sync_api import Page, ViewportSize, expect

from tests.support.browser import CHROMIUM, launch, sign_in
from tests.support.stack import ROOT, Person, Stack, running, until

BRIDGE = Path(sys.executable).with_name("canfar-desktop-bridge")
NEEDED = ("Xvnc", "ds9", "topcat")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.skipif(
        not (BRIDGE.exists() and all(map(shutil.which, NEEDED))),
        reason="no desktop and applications here: requirements/programs desktop desktop-app",
    ),
]
SLOW = 180_000  # milliseconds that a page may take on a busy machine


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The sample catalogue, of which DS9 shows the sample image at once."""
    folder = tmp_path_factory.mktemp("desktops")
    catalogue = folder / "catalogue"
    shutil.copytree(ROOT / "demo/catalogue", catalogue)
    apps = catalogue / "desktop-apps.yaml"
    image = "$(SKAHA_PROJECTS_DIR)/survey-x/m13.fits"
    apps.write_text(apps.read_text().replace("command: [ds9]\n", f"command: [ds9, {image}]\n"))
    with running(folder / "data", "--catalogue", str(catalogue), "--kinds", "desktop desktop-app") as found:
        yield found


@pytest.fixture
def viewport() -> ViewportSize:
    return {"width": 1280, "height": 800}


def environment(hub: Stack) -> dict[str, str]:
    """What programs of the desktop find in their environment."""
    sessions = str(hub.data / "sessions")
    for process in psutil.process_iter():
        try:
            found = process.environ()
        except psutil.Error:
            continue
        if found.get("CANFAR_RUNTIME_DIR") == sessions and "CANFAR_APPS_TOKEN" in found:
            return found
    return {}


class Menu:
    """The desktop's menu: what it may ask the hub with the desktop's token."""

    def __init__(self, given: dict[str, str]) -> None:
        self._url = given["CANFAR_APPS_URL"]
        self._headers = {"Authorization": f"Bearer {given['CANFAR_APPS_TOKEN']}"}

    def start(self, profile: str) -> str:
        answer = httpx.post(self._url, json={"profile": profile}, headers=self._headers, timeout=180)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def running(self) -> list[str]:
        listed = httpx.get(self._url, headers=self._headers, timeout=60).json()
        return sorted(one["profile"] for one in listed["running"])


def client(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> SAMPIntegratedClient:
    """One more program of the desktop."""
    monkeypatch.setenv("SAMP_HUB", given["SAMP_HUB"])
    found = SAMPIntegratedClient(name="test")
    lock = Path(given["SAMP_HUB"].removeprefix("std-lockurl:file://"))
    until(lock.exists, "the desktop's SAMP hub")
    found.connect()
    return found


def ready(samp: SAMPIntegratedClient, name: str, mtype: str) -> str | None:
    """The id of a program that registered under `name` and takes messages of that type."""
    ids = (
        i for i in samp.get_registered_clients() if name in samp.get_metadata(i).get("samp.name", "").lower()
    )
    return next((i for i in ids if mtype in samp.get_subscriptions(i)), None)


def holds(samp: SAMPIntegratedClient, topcat: str, table: str) -> bool:
    """Whether TOPCAT has a table; it refuses to highlight a row of another one."""
    message = {"samp.mtype": "table.highlight.row", "samp.params": {"table-id": table, "row": "0"}}
    return bool(samp.call_and_wait(topcat, message, "60")["samp.status"] == "samp.ok")


def test_ds9_shows_an_image_and_exchanges_tables_with_topcat(
    page: Page, hub: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.set_default_timeout(SLOW)
    sign_in(page, hub.url, "astronomer")
    launch(page, "Desktop", "Desktop")
    page.locator("html[data-state=connected]").wait_for(state="attached")
    given = until(lambda: environment(hub), "the desktop's programs")
    menu = Menu(given)
    menu.start("ds9")
    menu.start("topcat")
    samp = client(given, monkeypatch)
    try:
        topcat = until(lambda: ready(samp, "topcat", "table.load.votable"), "TOPCAT at the SAMP hub", 300)
        ds9 = until(lambda: ready(samp, "ds9", "ds9.get"), "DS9 at the SAMP hub", 300)
        table = hub.data / "arc/home/astronomer/stars.vot"
        Table({"ra": [250.42, 250.43], "dec": [36.46, 36.47]}).write(table, format="votable")
        message = {"samp.mtype": "table.load.votable", "samp.params": {"url": table.as_uri(), "name": "stars"}}
        assert samp.call_and_wait(topcat, message, "120")["samp.status"] == "samp.ok"
        sent: list[dict[str, str]] = []
        samp.bind_receive_notification("table.load.votable", lambda *message: sent.append(message[4]))
        for command in (f"catalog load {table}", "catalog samp broadcast"):
            asked = {"samp.mtype": "ds9.set", "samp.params": {"cmd": command}}
            assert samp.call_and_wait(ds9, asked, "60")["samp.status"] == "samp.ok"
        until(lambda: sent, "DS9's message")
        until(lambda: holds(samp, topcat, sent[0]["table-id"]), "DS9's table in TOPCAT")
        shown = {"samp.mtype": "ds9.get", "samp.params": {"cmd": "file"}}
        assert "m13.fits" in str(samp.call_and_wait(ds9, shown, "60")["samp.result"])
    finally:
        samp.disconnect()
    if picture := os.environ.get("CANFAR_SCREENSHOT"):
        page.wait_for_timeout(5000)  # for a person's eyes: nobody tells when all is drawn
        page.screenshot(path=picture)

    # Each is a session of its own on the page of sessions, and ends with the desktop.
    person = Person(hub, "astronomer")
    assert menu.running() == ["ds9", "topcat"]
    page.goto(f"{hub.url}/hub/home")
    for title in ("SAOImage DS9", "TOPCAT"):
        expect(page.get_by_text(title).first).to_be_visible()
    person.stop_all()
    until(lambda: not person.api("GET", "/users/astronomer").json()["servers"], "an end of all")
    assert not environment(hub)
