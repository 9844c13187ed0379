"""All pages at one origin, as where no wildcard name can be had: a person signs in, picks and works."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import yaml
from playwright.sync_api import Page, expect

from tests.support.browser import CHROMIUM, launch, sign_in
from tests.support.stack import ROOT, Stack, running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
expect.set_options(timeout=90_000)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("one-origin")
    site = yaml.safe_load((ROOT / "demo/site.yaml").read_text())
    site["subdomains"] = False
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    with running(folder / "data", "--site", str(folder / "site.yaml")) as found:
        yield found


def test_a_person_signs_in_picks_works_and_signs_out(page: Page, stack: Stack) -> None:
    sign_in(page, stack.url, "astronomer")
    launch(page, "Notebook", "Astronomy notebook")
    page.wait_for_url(re.compile(rf"{stack.url}/session/notebook/[a-z0-9]{{8}}/lab"))
    session = page.url.partition("/lab")[0]
    page.goto(f"{session}/lab/tree/projects/survey-x/look.ipynb")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.locator(".jp-CodeCell").first.click()
    page.keyboard.press("Shift+Enter")
    expect(page.locator(".jp-CodeCell .jp-InputPrompt").first).to_have_text("[1]:")
    page.goto(f"{stack.url}/hub/home")
    expect(page.get_by_text("Running").first).to_be_visible()
    page.goto(f"{stack.url}/hub/logout")
    page.goto(f"{session}/lab")
    expect(page.get_by_text("Sign in with").first).to_be_visible()
    stack.sign_in("astronomer").stop_all()
