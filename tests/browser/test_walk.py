"""A new user's walk in a real browser: sign in, pick, work. And what a session's page cannot do."""

import os
import re
import signal
import struct
import time
from collections.abc import Iterator

import psutil
import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import CHROMIUM, launch, sign_in
from tests.support.stack import Stack, until

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
SLOW = 90_000  # milliseconds that a page may take on a busy machine
expect.set_options(timeout=SLOW)


@pytest.fixture
def astronomer(page: Page, stack: Stack) -> Iterator[Page]:
    sign_in(page, stack.url, "astronomer")
    yield page
    stack.sign_in("astronomer").stop_all()


def test_sign_in_pick_and_plot_a_real_image_with_its_coordinates(astronomer: Page, stack: Stack) -> None:
    page = astronomer
    figure = stack.data / "arc/home/astronomer/m13.png"
    assert not figure.exists()
    expect(page).to_have_url(f"{stack.url}/hub/spawn")
    launch(page, "Notebook", "Notebook")
    page.wait_for_url(
        re.compile(rf"http://astronomer\.localhost:{stack.port}/session/notebook/[a-z0-9]{{8}}/lab")
    )
    page.locator(".jp-LauncherCard").first.wait_for()
    root = page.url.partition("/lab")[0]

    page.goto(f"{root}/lab/tree/projects/survey-x/look.ipynb")
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    picture = page.locator(".jp-OutputArea-output img")
    expect(picture).to_be_visible()
    size = picture.evaluate("image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])")
    assert min(size) > 300
    # The coordinates of the image's centre, from its header.
    expect(page.locator(".jp-OutputArea-output").filter(has_text="CRVAL").first).to_contain_text("250.4226")
    # Nobody is asked about news on their first look.
    expect(page.get_by_text("Jupyter news")).to_have_count(0)

    until(figure.exists, "the saved figure")
    until(lambda: figure.read_bytes()[-8:-4] == b"IEND", "the whole figure")
    assert struct.unpack(">II", figure.read_bytes()[16:24]) >= (600, 600)

    page.goto(f"{stack.url}/hub/home")
    expect(page.get_by_text("Running").first).to_be_visible()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["told to end", "killed"])
def test_a_notebook_computes_on_after_a_restart_of_the_gateway(
    astronomer: Page, stack: Stack, number: signal.Signals
) -> None:
    page = astronomer
    launch(page, "Notebook", "Notebook")
    page.wait_for_url(re.compile(r"/session/notebook/[a-z0-9]{8}/lab"))
    page.goto(f"{page.url.partition('/lab')[0]}/lab/tree/projects/survey-x/look.ipynb")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    gateway = stack.program("canfar_gateway")
    steady = 11  # seconds; what ends sooner is not started again
    until(lambda: time.time() - psutil.Process(gateway).create_time() > steady, "a steady gateway")
    os.kill(gateway, number)
    until(lambda: not psutil.pid_exists(gateway), "the end of the gateway")
    (stack.data / "routes.json").unlink()
    until(stack.is_up, "another gateway")
    # Nobody loads the page anew.
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    expect(page.locator(".jp-OutputArea-output").filter(has_text="CRVAL").first).to_contain_text("250.4226")


def test_a_contributed_program_works_behind_the_gateway(astronomer: Page, stack: Stack) -> None:
    launch(astronomer, "Contributed", "marimo")
    astronomer.wait_for_url(re.compile(r"/session/contributed/[a-z0-9]{8}/"))
    opened: list[str] = []
    astronomer.on("websocket", lambda socket: socket.on("framereceived", lambda _: opened.append(socket.url)))
    root = astronomer.url.split("?")[0]
    astronomer.goto(f"{root}?file=__new__hello")
    editor = astronomer.locator(".cm-content").first
    editor.click()
    editor.press_sequentially("6 * 7")
    editor.press("Control+Enter")
    expect(astronomer.locator(".output, .output-area").filter(has_text="42").first).to_be_visible()
    assert opened


def test_a_sessions_page_cannot_read_the_page_that_makes_tokens(astronomer: Page, stack: Stack) -> None:
    launch(astronomer, "Contributed", "Open")
    astronomer.wait_for_url(re.compile(r"/session/contributed/[a-z0-9]{8}/"))
    astronomer.goto(f"{astronomer.url.split('?')[0]}steal")
    astronomer.wait_for_function("document.title === 'tried'")
    got = astronomer.evaluate("window.got")
    assert len(got) == 4
    assert not [text for text in got if "token" in text.lower() or "astronomer" in text.lower()], got
    # The same visitor can read it where it belongs.
    astronomer.goto(f"{stack.url}/hub/token")
    assert "token" in astronomer.content().lower()
    cookies = {cookie["name"] for cookie in astronomer.context.cookies("http://astronomer.localhost")}
    assert cookies
    assert not [name for name in cookies if "hub-login" in name]


def test_an_account_outside_the_platform_is_refused_with_a_sentence(page: Page, stack: Stack) -> None:
    sign_in(page, stack.url, "outsider")
    sentence = "is not a member of ivo://example.org/gms?canfar-users"
    expect(page.get_by_text(sentence).first).to_be_visible()


def test_what_a_visitor_may_not_use_is_shown_with_the_reason(page: Page, stack: Stack) -> None:
    sign_in(page, stack.url, "visitor")
    page.locator(".picker-launch").wait_for()
    page.get_by_role("radio", name="Contributed", exact=True).check(force=True)
    team = page.get_by_role("radio", name="Team", exact=True)
    expect(team).to_be_disabled()
    expect(page.get_by_text("ivo://example.org/gms?survey-x").first).to_be_visible()


def test_a_program_that_dies_is_told_on_the_page_with_its_last_lines(page: Page, stack: Stack) -> None:
    sign_in(page, stack.url, "visitor")
    launch(page, "Contributed", "Dies")
    expect(page.get_by_text("ended with status 3").first).to_be_visible()
    expect(page.get_by_text("cannot open <table>").first).to_be_visible()
