"""A person works in VS Code: the editor, its files, a terminal, a port of their own, and who else gets in."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.support.browser import ARGUMENTS, CHROMIUM, launch, sign_in
from tests.support.ports import free_port
from tests.support.stack import ROOT, Stack, running, until

CODE_SERVER = ROOT / ".venv/bin/code-server"
SLOW = 90_000  # milliseconds that a page may take on a busy machine
NAME = "first.last@example.org"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.skipif(not CODE_SERVER.exists(), reason="requirements/kinds/vscode has not installed it"),
]
expect.set_options(timeout=SLOW)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("vscode") / "data", "--kinds", "notebook vscode firefly") as found:
        yield found


@pytest.fixture(scope="module")
def editor(hub: Stack) -> Iterator[Page]:
    """The editor as it opens, in the one session that these tests share."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_context(viewport={"width": 1280, "height": 860}).new_page()
        page.set_default_timeout(SLOW)
        sign_in(page, hub.url, NAME)
        launch(page, "VS Code", "VS Code")
        page.wait_for_url(re.compile(r"/session/vscode/[a-z0-9]{8}/"))
        page.locator(".explorer-folders-view").wait_for()
        yield page
        browser.close()


@pytest.fixture(scope="module")
def home(hub: Stack) -> Path:
    return hub.data / "arc/home" / NAME


@pytest.fixture(scope="module")
def terminal(editor: Page, home: Path) -> Page:
    """The editor with a terminal that takes commands."""
    command(editor, ">Terminal: Create New Terminal")
    editor.locator(".xterm-helper-textarea").first.wait_for(state="attached")
    editor.locator(".xterm-screen").first.click()
    say(editor, "touch ready")
    until((home / "ready").exists, "the terminal's first command")
    return editor


def command(page: Page, text: str) -> None:
    """Chooses the first of what the command palette finds."""
    page.locator(".explorer-folders-view").click(position={"x": 100, "y": 300})
    page.keyboard.press("F1")
    page.locator(".quick-input-widget input").fill(text)
    page.locator(".quick-input-list .monaco-list-row").first.click()


def say(page: Page, line: str) -> None:
    page.keyboard.type(f"{line}\n")


def told(home: Path, name: str) -> str:
    """What a command has written, once it has written a whole line."""
    path = home / name
    until(lambda: path.exists() and path.read_text().endswith("\n"), name)
    return path.read_text().strip()


def root(page: Page) -> str:
    """The session's address."""
    return page.url.partition("?")[0]


def test_the_editor_opens_in_the_home_and_asks_for_nothing(editor: Page, home: Path) -> None:
    expect(editor.locator(".explorer-folders-view")).to_contain_text(".ssl")
    expect(editor).to_have_title(re.compile(re.escape(NAME)))
    assert editor.url.endswith(NAME.replace("@", "%40"))
    for noise in ("Welcome", "Do you trust", "Build with Agent", "Sign out"):
        expect(editor.get_by_text(noise)).to_have_count(0)
    assert (home / ".local/share/code-server/User/settings.json").exists()


def test_a_command_runs_in_the_home_with_the_images_path_and_without_the_secret(
    terminal: Page, home: Path
) -> None:
    say(terminal, "pwd > where.txt; env > env.txt; echo >> env.txt")
    assert told(home, "where.txt") == str(home)
    environment = dict(line.partition("=")[::2] for line in told(home, "env.txt").splitlines())
    assert str(CODE_SERVER.parent) in environment["PATH"].split(":")
    assert "HASHED_PASSWORD" not in environment
    assert environment["VSCODE_PROXY_URI"] == f"{root(terminal)}proxy/{{{{port}}}}/"


def test_a_file_is_edited_and_saved(terminal: Page, home: Path) -> None:
    say(terminal, "echo distance > notes.txt")
    told(home, "notes.txt")
    terminal.keyboard.press("Control+p")
    terminal.locator(".quick-input-widget input").fill("notes.txt")
    terminal.locator(".quick-input-list .monaco-list-row").first.click()
    terminal.locator(".editor-instance .view-line").first.click()
    terminal.keyboard.press("Control+Home")
    terminal.keyboard.type("M 13 ")
    terminal.keyboard.press("Control+s")
    until(lambda: (home / "notes.txt").read_text() == "M 13 distance\n", "the saved file")


def test_a_port_of_the_users_own_is_forwarded_to_them_alone(terminal: Page, home: Path, hub: Stack) -> None:
    port = free_port()
    (home / "served").mkdir()
    (home / "served/index.html").write_text("<h1>A plot</h1>")
    terminal.locator(".xterm-screen").first.click()
    say(terminal, f"(cd served && python3 -m http.server --bind 127.0.0.1 {port}) & touch began")
    until((home / "began").exists, "the command")
    until(lambda: reached(f"http://127.0.0.1:{port}/"), "the user's server")
    page = terminal.context.new_page()
    page.goto(f"{root(terminal)}proxy/{port}/")
    expect(page.get_by_role("heading", name="A plot")).to_be_visible()
    page.close()
    visitor = hub.sign_in("visitor")
    assert visitor.browser.get(f"{root(terminal)}proxy/{port}/").status_code == 403


def reached(url: str) -> bool:
    try:
        return httpx.get(url).status_code < 500
    except httpx.HTTPError:
        return False


def test_nothing_gets_in_past_the_gateway(terminal: Page, home: Path) -> None:
    terminal.locator(".xterm-screen").first.click()
    say(terminal, "echo $CANFAR_PORT > port.txt")
    port = told(home, "port.txt")
    direct = f"http://127.0.0.1:{port}"
    page = httpx.get(f"{direct}/")
    assert (page.status_code, page.headers["location"]) == (302, "./login")
    assert httpx.get(f"{direct}/proxy/{port}/healthz").status_code == 401
    forged = {"Cookie": "code-server-session=" + "0" * 64}
    assert httpx.get(f"{direct}/stable/static/out/x.js", headers=forged).status_code == 401
    signed_in = httpx.post(f"{direct}/login", data={"password": "0" * 64})
    assert "set-cookie" not in signed_in.headers
    # It says when it was last used to whoever asks, and nothing more.
    assert set(httpx.get(f"{direct}/healthz").json()) == {"status", "lastHeartbeat"}


def test_the_secret_is_on_no_page_and_in_no_cookie_of_the_visitor(
    terminal: Page, home: Path, hub: Stack
) -> None:
    secret = next((hub.data / "sessions").glob("*/secret")).read_text().strip()
    assert len(secret) == 64
    assert secret not in terminal.content()
    assert secret not in str(terminal.context.cookies())


def test_what_needs_a_cluster_says_so(hub: Stack) -> None:
    person = hub.sign_in("visitor")
    page = person.browser.get(f"{hub.url}/hub/spawn").text
    assert "It can run in a cluster only" in page
