"""A desktop in a real browser: picked, seen, resized, copied from and to, cut off, and logged out of."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psutil
import pytest
from PIL import Image
from playwright.sync_api import Page, ViewportSize, expect

from tests.support.apps_api import AppsApi, an_app, apps_api
from tests.support.browser import CHROMIUM, barriers, launch, sign_in
from tests.support.npm import NPM
from tests.support.stack import Stack, running, until

BRIDGE = Path(sys.executable).with_name("canfar-desktop-bridge")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.skipif(
        not (BRIDGE.exists() and shutil.which("Xvnc")), reason="no desktop here: requirements/programs desktop"
    ),
]
SLOW = 90_000  # milliseconds that a page may take on a busy machine
ENTRY = """
profiles:
  - profile: desktop
    title: Desktop
    description: A desktop for tests.
    kinds: [desktop]
    images: ["example.org/desktop:1"]
    environment: {CANFAR_APPS_URL: "ADDRESS"}
    program: {needs: canfar-desktop-bridge, install: none}
"""


@pytest.fixture(scope="module")
def api() -> Iterator[AppsApi]:
    with apps_api() as found:
        found.apps = [an_app("ds9", "SAOImage DS9"), an_app("topcat", "TOPCAT", category="Tables")]
        yield found


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, api: AppsApi) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("desktops")
    (folder / "catalogue").mkdir()
    (folder / "catalogue/desktop.yaml").write_text(ENTRY.replace("ADDRESS", api.url))
    more = ("--catalogue", str(folder / "catalogue"), "--kinds", "desktop")
    with running(folder / "data", *more) as found:
        yield found


@pytest.fixture
def viewport() -> ViewportSize:
    return {"width": 1280, "height": 800}


class Desk:
    """A desktop on a page, and a program's view of its X server."""

    def __init__(self, page: Page, hub: Stack, name: str) -> None:
        self.page = page
        sign_in(page, hub.url, name)
        launch(page, "Desktop", "Desktop")
        page.wait_for_url(re.compile(r"/session/desktop/[a-z0-9]{8}/$"))
        self.id = page.url.rstrip("/").rpartition("/")[2]
        self.connected()
        self.server = next(self.processes("Xvnc"))

    def connected(self) -> None:
        self.page.locator("html[data-state=connected]").wait_for(state="attached", timeout=SLOW)

    def processes(self, name: str) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            try:
                if process.name() == name and process.environ().get("skaha_sessionid") == self.id:
                    yield process
            except psutil.Error:
                continue

    def run(self, *command: str, given: str = "") -> str:
        """What a program says that shows its windows there."""
        own = self.server.environ()
        names = ("DISPLAY", "XAUTHORITY", "XDG_RUNTIME_DIR")
        environment = {**os.environ, **{name: own[name] for name in names}, "LC_ALL": "C.UTF-8"}
        # xclip stays to serve what it was given, and must not keep the pipe.
        out = subprocess.DEVNULL if given else subprocess.PIPE
        done = subprocess.run(command, input=given, stdout=out, text=True, env=environment, timeout=60)
        return done.stdout or ""

    def size(self) -> str:
        found = re.search(r"current (\d+) x (\d+)", self.run("xrandr"))
        return "x".join(found.groups()) if found else ""

    def colours(self) -> int:
        picture = Image.open(io.BytesIO(self.page.locator("#screen canvas").screenshot()))
        return len(picture.convert("RGB").getcolors(2**24) or ())

    def is_drawn(self) -> bool:
        """The panel's icons and the background's shades are there."""
        return self.colours() > 200


@pytest.fixture
def desk(request: pytest.FixtureRequest, page: Page, hub: Stack) -> Iterator[Desk]:
    name = getattr(request, "param", "astronomer")
    yield Desk(page, hub, name)
    hub.sign_in(name).stop_all()


def choose(desk: Desk, words: str) -> None:
    """Looks `words` up in the panel's menu, and takes what is found first."""
    desk.page.keyboard.press("Escape")
    desk.page.mouse.click(35, 14)
    desk.page.keyboard.type(words, delay=40)
    desk.page.keyboard.press("Enter")


@pytest.mark.parametrize("desk", ["first.last@example.org"], indirect=True)
def test_a_desktop_to_work_with(desk: Desk, api: AppsApi) -> None:
    page = desk.page
    until(desk.is_drawn, "the desktop drawn")

    # It is as large as the window.
    assert desk.size() == "1280x800"
    page.set_viewport_size({"width": 1013, "height": 707})
    until(lambda: desk.size() == "1013x707", "the window's size")

    # What is copied on one side is on the other.
    sent = "é∂ 星 😀 one line\n" * 4000
    page.get_by_role("button", name="Menu").click()
    box = page.get_by_label("Clipboard", exact=True)
    box.evaluate("(box, text) => { box.value = text; box.dispatchEvent(new Event('input')); }", sent)
    until(lambda: desk.run("xclip", "-selection", "clipboard", "-out") == sent, "the text on the desktop")
    back = "from the désktop ✓\n" * 4000
    desk.run("xclip", "-selection", "clipboard", given=back)
    until(lambda: box.input_value() == back, "the text on the page")
    page.keyboard.press("Escape")
    expect(box).to_be_hidden()

    # Selecting text is not copying it.
    desk.run("xclip", "-selection", "primary", given="only selected")
    desk.run("xclip", "-selection", "clipboard", given="copied")
    until(lambda: box.input_value() == "copied", "the copied text")

    # The menu starts what the hub offers, and asks the hub to do it.
    def started() -> bool:
        choose(desk, "ds9")
        deadline = time.monotonic() + 5
        while not api.started and time.monotonic() < deadline:
            page.wait_for_timeout(100)  # the page must go on
        return bool(api.started)

    until(started, "the application asked for")
    assert api.started[0] == {"profile": "ds9"}
    assert len(set(api.tokens)) == 1
    assert re.fullmatch("Bearer [0-9a-f]{64}", api.tokens[0])


def test_the_browsers_own_clipboard_is_shared_where_it_may_be(desk: Desk) -> None:
    page = desk.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("navigator.clipboard.writeText('from elsewhere ✓')")
    page.evaluate("window.dispatchEvent(new Event('focus'))")
    until(lambda: desk.run("xclip", "-selection", "clipboard", "-out") == "from elsewhere ✓", "it there")
    desk.run("xclip", "-selection", "clipboard", given="und zurück")
    until(lambda: page.evaluate("navigator.clipboard.readText()") == "und zurück", "it here")


@pytest.mark.skipif(NPM is None, reason="npm is not installed, which fetches axe")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_its_page_has_no_barriers(desk: Desk, scheme: Literal["light", "dark"]) -> None:
    desk.page.emulate_media(color_scheme=scheme)
    until(desk.is_drawn, "the desktop drawn")
    assert barriers(desk.page) == []
    desk.page.get_by_role("button", name="Menu").click()
    assert barriers(desk.page) == []
    desk.page.keyboard.press("Escape")
    # Also while there is nothing to be seen of the desktop.
    desk.page.evaluate("document.getElementById('notice').hidden = false")
    assert barriers(desk.page) == []


def test_no_secret_is_on_a_command_line(desk: Desk) -> None:
    own = desk.server.environ()
    secret = Path(own["CANFAR_SECRET_FILE"]).read_text()
    lines = "\0".join("\0".join(_arguments(process)) for process in psutil.process_iter())
    assert secret not in lines
    cookie = desk.run("xauth", "list").split()[-1]
    assert re.fullmatch("[0-9a-f]{32}", cookie)
    assert cookie not in lines
    session = until(lambda: next(desk.processes("xfce4-session"), None), "Xfce")
    assert secret not in session.environ().values()
    # Nobody without the cookie sees the screen.
    denied = subprocess.run(
        ["xrandr", "-display", own["CANFAR_DISPLAY"]],
        env={"PATH": os.environ["PATH"], "XAUTHORITY": "/dev/null"},
        capture_output=True,
        text=True,
    )
    assert denied.returncode != 0


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_it_comes_back_after_the_way_to_it_was_lost(desk: Desk, hub: Stack) -> None:
    until(desk.is_drawn, "the desktop drawn")
    gateway = hub.program("canfar_gateway")
    steady = 11  # seconds; what ends sooner is not started again
    until(lambda: time.time() - psutil.Process(gateway).create_time() > steady, "a steady gateway")
    os.kill(gateway, signal.SIGKILL)
    expect(desk.page.get_by_text("is lost. It goes on running")).to_be_visible()
    desk.connected()
    expect(desk.page.locator("#notice")).to_be_hidden()
    until(desk.is_drawn, "the desktop drawn again")
    assert desk.server.is_running()


def test_two_on_one_home_and_a_log_out(desk: Desk, hub: Stack) -> None:
    person = hub.sign_in("astronomer")
    person.begin("second", {"profile": "desktop"})
    until(desk.is_drawn, "the desktop drawn")
    manager = until(lambda: next(desk.processes("xfwm4"), None), "the window manager")
    folder = Path(desk.server.environ()["XDG_RUNTIME_DIR"])
    assert folder.stat().st_mode & 0o777 == 0o700
    bus = manager.environ()["DBUS_SESSION_BUS_ADDRESS"]
    desk.run("env", f"DBUS_SESSION_BUS_ADDRESS={bus}", "xfce4-session-logout", "--logout", "--fast")
    expect(desk.page.get_by_text("it has ended")).to_be_visible()
    until(lambda: not desk.server.is_running(), "the X server gone")
    until(lambda: not folder.exists(), "its folder gone")
    until(lambda: not person.server(desk.id).get("ready"), "the end noticed")
    assert person.server("second")["ready"]
