"""Takes the documentation's pictures from a running hub: `python docs/screenshots.py`, from the top folder."""

import re
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.browser import CHROMIUM, launch, sign_in  # noqa: E402
from tests.support.stack import Stack, running, until  # noqa: E402

expect.set_options(timeout=90_000)
IMAGES = ROOT / "docs" / "images"


def main() -> None:
    """Walks through the hub as two users, and takes each page."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        with running(Path(folder) / "data") as stack:
            _astronomer(browser, stack)
            _visitor(browser, stack)
            _outsider(browser, stack)
            _desktop(browser, stack)
        browser.close()


def _page(browser: Browser, **settings: object) -> Page:
    page = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **settings}).new_page()
    page.set_default_timeout(90_000)
    return page


def _take(page: Page, name: str) -> None:
    page.wait_for_load_state("networkidle")
    page.screenshot(path=IMAGES / f"{name}.png")


def _sign_in(page: Page, stack: Stack, name: str) -> None:
    page.goto(stack.url)
    page.get_by_text("Sign in with").first.wait_for()
    if name == "astronomer":
        _take(page, "login")
    page.get_by_text("Sign in with").first.click()
    page.get_by_label("Account name").fill(name)
    page.get_by_label("Password").fill(name)
    if name == "astronomer":
        _take(page, "provider")
    page.get_by_role("button", name="Sign in", exact=True).click()


def _launch(page: Page, kind: str, profile: str, name: str) -> None:
    page.locator("#picker-kinds").get_by_role("radio", name=kind, exact=True).check(force=True)
    page.locator("#picker-profiles").get_by_role("radio", name=profile, exact=True).check(force=True)
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Launch").click()


def _astronomer(browser: Browser, stack: Stack) -> None:
    page = _page(browser)
    _sign_in(page, stack, "astronomer")
    page.locator(".picker-launch").wait_for()
    _take(page, "picker")
    _launch(page, "Notebook", "Astronomy notebook", "M 13")
    page.locator("#progress-bar, [role=progressbar]").first.wait_for()
    _take_now(page, "starting")
    page.wait_for_url(re.compile(r"/session/notebook/[a-z0-9]{8}/lab"))
    page.locator(".jp-LauncherCard").first.wait_for()
    page.goto(f"{page.url.partition('/lab')[0]}/lab/tree/projects/survey-x/look.ipynb")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    picture = page.locator(".jp-OutputArea-output img")
    expect(picture).to_be_visible()
    picture.scroll_into_view_if_needed()
    _take_now(page, "notebook")
    page.goto(f"{stack.url}/hub/spawn")
    page.locator(".picker-launch").wait_for()
    _launch(page, "Contributed", "marimo", "Reactive")
    page.wait_for_url(re.compile(r"/session/contributed/[a-z0-9]{8}/"))
    page.goto(f"{page.url.split('?')[0]}?file=__new__hello")
    editor = page.locator(".cm-content").first
    editor.click()
    editor.press_sequentially("6 * 7")
    editor.press("Control+Enter")
    expect(page.locator(".output, .output-area").filter(has_text="42").first).to_be_visible()
    _take_now(page, "marimo")
    _editor(page, stack)
    page.goto(f"{stack.url}/hub/home")
    page.get_by_text("Running").first.wait_for()
    _take(page, "home")


def _editor(page: Page, stack: Stack) -> None:
    home = stack.data / "arc/home/astronomer"
    (home / "distance.py").write_text(
        "from astropy.coordinates import SkyCoord\n\n"
        'm13 = SkyCoord("16h41m41.6s", "+36d27m41s")\n'
        'm92 = SkyCoord("17h17m07.4s", "+43d08m09s")\n'
        "print(m13.separation(m92))\n"
    )
    page.goto(f"{stack.url}/hub/spawn")
    page.locator(".picker-launch").wait_for()
    _launch(page, "VS Code", "VS Code", "Scripts")
    page.wait_for_url(re.compile(r"/session/vscode/[a-z0-9]{8}/"))
    page.locator(".explorer-folders-view").get_by_text("distance.py").dblclick()
    page.locator(".editor-instance .view-line").first.wait_for()
    page.keyboard.press("F1")
    page.locator(".quick-input-widget input").fill(">Terminal: Create New Terminal")
    page.locator(".quick-input-list .monaco-list-row").first.click()
    page.locator(".xterm-helper-textarea").first.wait_for(state="attached")
    page.locator(".xterm-screen").first.click()
    page.keyboard.type("python distance.py | tee answer.txt\n")
    until(lambda: "d" in _text(home / "answer.txt"), "the answer")
    _take_now(page, "vscode")


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _desktop(browser: Browser, stack: Stack) -> None:
    """Needs what `requirements/kinds/desktop` installs."""
    page = _page(browser)
    sign_in(page, stack.url, "first.last@example.org")
    launch(page, "Desktop", "Desktop")
    page.locator("html[data-state=connected]").wait_for(state="attached")
    page.wait_for_timeout(8000)  # nobody tells when all of Xfce is drawn
    page.mouse.click(35, 14)
    page.wait_for_timeout(4000)
    _take_now(page, "desktop")


def _take_now(page: Page, name: str) -> None:
    """For pages that never stop talking to their server."""
    page.screenshot(path=IMAGES / f"{name}.png")


def _visitor(browser: Browser, stack: Stack) -> None:
    dark = _page(browser, color_scheme="dark")
    _sign_in(dark, stack, "visitor")
    dark.locator(".picker-launch").wait_for()
    _take(dark, "picker-dark")
    phone = dark.context.new_page()
    phone.set_viewport_size({"width": 400, "height": 860})
    phone.goto(f"{stack.url}/hub/spawn")
    phone.locator(".picker-launch").wait_for()
    _take(phone, "picker-phone")


def _outsider(browser: Browser, stack: Stack) -> None:
    page = _page(browser)
    _sign_in(page, stack, "outsider")
    page.get_by_text("is not a member of").first.wait_for()
    _take(page, "refused")


main()
