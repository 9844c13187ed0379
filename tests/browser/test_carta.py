"""CARTA in a real browser, from the sign-in on: its own front end shows a FITS image that a link names."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support import carta
from tests.support.browser import ARGUMENTS, CHROMIUM, WEBGL, sign_in
from tests.support.npm import NPM
from tests.support.stack import ROOT, Stack, running, until

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.skipif(NPM is None, reason="npm is not installed, which fetches CARTA's front end"),
]
SLOW = 90_000  # milliseconds that a page may take on a busy machine
expect.set_options(timeout=SLOW)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("carta")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", carta.put_on_path(folder / "bin"))
        with running(folder / "data", "--kinds", "carta", "--catalogue", str(ROOT / "demo/catalogue")) as found:
            yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, *WEBGL])
        yield browser
        browser.close()


@pytest.mark.parametrize("name", ["astronomer", "first.last@example.org"])
def test_an_image_named_in_a_link_is_shown_with_its_coordinates(
    browser: Browser, stack: Stack, name: str, tmp_path: Path
) -> None:
    page = signed_in(browser, stack, name)
    page.get_by_role("radio", name="CARTA", exact=True).first.check(force=True)
    page.get_by_role("button", name="Launch").click()
    page.wait_for_url(re.compile(r"\.localhost:\d+/session/carta/[a-z0-9]{8}/"))
    address = page.url.split("?")[0]

    # A visitor who is not signed in at the session's host comes back to the very file.
    page.context.clear_cookies(domain=re.compile(r".+\.localhost"))
    page.goto(f"{address}?file=projects/survey-x/m13.fits")
    expect(page).to_have_url(f"{address}?file=projects/survey-x/m13.fits")
    expect(page.get_by_test_id("viewer-cursor-info-bar").first).to_be_visible()
    assert "token" not in page.url
    # Nothing is asked first.
    expect(page.get_by_role("dialog")).to_have_count(0)

    compare(told_at_picture(page), fits.open(stack.data / "arc/projects/survey-x/m13.fits")[0])
    until(lambda: colours(page, tmp_path) > 100, "the picture has its colours")
    page.context.close()
    stack.sign_in(name).stop_all()


def signed_in(browser: Browser, stack: Stack, name: str) -> Page:
    page = browser.new_context(viewport={"width": 1280, "height": 860}).new_page()
    page.set_default_timeout(SLOW)
    sign_in(page, stack.url, name)
    page.locator(".picker-launch").wait_for()
    return page


def told_at_picture(page: Page) -> str:
    """What the page says of a pixel of the picture, once the program has confirmed it.

    Where the file is open before the page has its layout, CARTA fits the picture into one dot and leaves it
    so: a person presses "Zoom to fit".
    """
    picture = page.locator(".raster-canvas").first
    until(lambda: (picture.bounding_box() or {"width": 0})["width"] > 300, "the page is laid out")
    box = picture.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] * 0.55, box["y"] + box["height"] * 0.45
    page.mouse.move(x, y, steps=4)
    page.get_by_test_id("zoom-to-fit-button").first.click()
    told = page.get_by_test_id("viewer-cursor-info-bar").first

    def confirmed() -> str:
        """The line, or nothing while a star marks the value as not confirmed; a move asks for it again."""
        for place in (x + 1, x):
            page.mouse.move(place, y)
        line = told.inner_text()
        return line if re.search(r"WCS: .*Image: .*Value:\s+\d[^*]*$", line) else ""

    line: str = until(confirmed, "the program tells a pixel's value")
    return line


def compare(told: str, hdu: fits.PrimaryHDU) -> None:
    """What the page says of the pixel under the cursor is what astropy says."""
    parts = re.search(r"WCS: \((\S+), (\S+)\);\s*Image: \((\d+), (\d+)\);\s*Value:\s+(\S+)", told)
    assert parts, told
    x, y = int(parts[3]), int(parts[4])
    assert float(parts[5]) == pytest.approx(hdu.data[y, x], rel=1e-2)
    sky = WCS(hdu.header).pixel_to_world(x, y)
    hours, degrees = (
        np.dot([float(part) for part in text.split(":")], [1, 1 / 60, 1 / 3600]) for text in parts.groups()[:2]
    )
    assert hours * 15 == pytest.approx(sky.ra.degree, abs=2 / 3600)
    assert degrees == pytest.approx(sky.dec.degree, abs=2 / 3600)


def colours(page: Page, folder: Path) -> int:
    """How many different colours the picture has: a colour map over a field of stars has many."""
    from matplotlib.image import imread

    page.screenshot(path=folder / "carta.png")
    pixels = imread(folder / "carta.png")[80:540, 150:620, :3]
    return len(np.unique((pixels * 255).astype(np.uint8).reshape(-1, 3), axis=0))
