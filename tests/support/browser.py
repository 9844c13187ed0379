"""The browser of the tests, and how a person signs in with it."""

import shutil
from pathlib import Path

from playwright.sync_api import Page

from tests.support.npm import unpacked

CHROMIUM = "/usr/bin/chromium" if Path("/usr/bin/chromium").exists() else shutil.which("chromium")
ARGUMENTS = ["--no-sandbox", "--disable-background-networking"]
WEBGL = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
"""Draws WebGL without a graphics card."""
_AXE = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="


def sign_in(page: Page, url: str, name: str) -> None:
    """Signs a sample account in at the local provider, from the hub's first page on."""
    page.goto(url)
    page.get_by_text("Sign in with").first.click()
    page.get_by_label("Account name").fill(name)
    page.get_by_label("Password").fill(name)
    page.get_by_role("button", name="Sign in", exact=True).click()


def launch(page: Page, kind: str, image: str) -> None:
    """Picks a kind and an image on the page for a new session, and starts it."""
    page.locator(".picker-launch").wait_for()
    page.locator("#picker-kinds").get_by_role("radio", name=kind, exact=True).check(force=True)
    page.locator("#picker-profiles").get_by_role("radio", name=image, exact=True).check(force=True)
    page.get_by_role("button", name="Launch").click()


def barriers(page: Page) -> list[str]:
    """What of WCAG 2.2, levels A and AA, axe finds that a page does not keep."""
    script = unpacked("axe-core@4.14.1", _AXE) / "axe.min.js"
    page.evaluate(script.read_text(encoding="utf-8"))
    levels = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    found = page.evaluate("levels => axe.run({runOnly: levels})", levels)
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found["violations"]]
