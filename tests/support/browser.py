"""The browser of the tests, and how a person signs in with it."""

import shutil
from pathlib import Path

from playwright.sync_api import Page

CHROMIUM = "/usr/bin/chromium" if Path("/usr/bin/chromium").exists() else shutil.which("chromium")
ARGUMENTS = ["--no-sandbox", "--disable-background-networking"]
WEBGL = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
"""Draws WebGL without a graphics card."""


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
