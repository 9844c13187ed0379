"""The picker and the hub's pages, as a browser shows them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Locator, Page, Route, async_playwright, expect

from tests.support.browser import ARGUMENTS, CHROMIUM
from tests.support.picker_page import PickerHub, running_hub, sample_offer

pytestmark = [
    pytest.mark.browser,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]

expect.set_options(timeout=60_000)  # milliseconds, for a busy machine

HOSTILE = '<script>window.hurt = 1</script><img src=x onerror="window.hurt = 2">"\'</textarea>'
SESSION = re.compile(r"/user/[^/]+/s[0-9a-f]{8}/$")
FIELDS = {"kind", "profile", "image", "cores", "memory", "gpus", "name"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PickerHub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture
def hub(running: PickerHub) -> PickerHub:
    running.reset()
    return running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        await browser.close()


async def new_page(context: BrowserContext, hub: PickerHub) -> Page:
    """A page that notes in `page.complaints` what its console says, dialogs, and requests to anywhere else."""
    page = await context.new_page()
    page.set_default_timeout(60_000)
    complaints: list[str] = []

    def heard(text: str) -> None:
        # The status of a page that was asked for is the test's own business.
        if "the server responded with a status of" not in text:
            complaints.append(text)

    page.on("console", lambda message: heard(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
    inside = re.compile(re.escape(hub.url) + "/|data:")
    page.on("request", lambda request: None if inside.match(request.url) else complaints.append(request.url))
    page.complaints = complaints  # type: ignore[attr-defined]

    async def session(route: Route) -> None:
        # There is no proxy: what a session itself would show is not looked at here.
        await route.fulfill(body="the session", content_type="text/plain")

    await page.route(SESSION, session)
    return page


async def signed_in(browser: Browser, hub: PickerHub, user: str, **options: Any) -> Page:
    page = await new_page(await browser.new_context(**options), hub)
    await page.goto(f"{hub.url}/hub/login")
    await page.get_by_label("Username").fill(user)
    await page.locator("#password_input").fill("any")
    await page.locator("#login_submit").click()
    await page.wait_for_url("**/hub/home")
    return page


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def astronomer(browser: Browser, running: PickerHub) -> AsyncIterator[BrowserContext]:
    page = await signed_in(browser, running, "astronomer")
    await page.close()
    yield page.context
    await page.context.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(astronomer: BrowserContext, hub: PickerHub) -> AsyncIterator[Page]:
    """A page of a user whom the tests share."""
    page = await new_page(astronomer, hub)
    yield page
    assert page.complaints == []  # type: ignore[attr-defined]
    await page.close()


@pytest_asyncio.fixture(loop_scope="module")
async def newcomer(browser: Browser, hub: PickerHub, request: pytest.FixtureRequest) -> AsyncIterator[Page]:
    """A page of a user who has no sessions yet."""
    page = await signed_in(browser, hub, "u" + re.sub(r"[^a-z0-9]", "", request.node.name.lower())[-24:])
    yield page
    assert page.complaints == []  # type: ignore[attr-defined]
    await page.context.close()


async def open_picker(page: Page, hub: PickerHub, query: str = "") -> None:
    await page.goto(f"{hub.url}/hub/spawn{query}")
    await expect(page.locator("#picker")).to_be_visible()


async def start(page: Page, hub: PickerHub, name: str) -> None:
    await open_picker(page, hub)
    await page.get_by_label("Name").fill(name)
    await page.get_by_role("button", name="Launch").click()


async def focused(page: Page) -> str:
    return await page.evaluate("`${document.activeElement.name}=${document.activeElement.value}`")


async def test_the_keyboard_alone_chooses_and_launches(page: Page, hub: PickerHub) -> None:
    await open_picker(page, hub)
    await page.get_by_role("radio", name="Notebook", exact=True).focus()
    await page.keyboard.press("ArrowRight")
    assert await focused(page) == "kind=desktop"  # CARTA is refused, and passed over
    await page.keyboard.press("ArrowLeft")
    await page.keyboard.press("Tab")
    assert await focused(page) == "profile=astronomy-notebook"
    await page.keyboard.press("ArrowDown")
    assert await focused(page) == "profile=casa-notebook"
    await page.keyboard.press("ArrowUp")
    await page.keyboard.press("Tab")
    await page.keyboard.press("ArrowDown")  # the version's select
    await page.keyboard.press("Tab")
    await page.keyboard.press("ArrowRight")
    assert await focused(page) == "cores=2"
    await page.keyboard.press("Tab")
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("ArrowRight")
    assert await focused(page) == "memory=8"
    await page.keyboard.press("Tab")
    assert await focused(page) == "gpus=0"
    await page.keyboard.press("Tab")
    await page.keyboard.type("M31 mosaic")
    await page.keyboard.press("Enter")
    await page.wait_for_url(re.compile("/(spawn-pending|user)/"))
    assert hub.posted() == [
        {
            "kind": ["notebook"], "profile": ["astronomy-notebook"],
            "image": ["local/astronomy-notebook:2025.2"],
            "cores": ["2"], "memory": ["8"], "gpus": ["0"], "name": ["M31 mosaic"],
        }
    ]  # fmt: skip


async def test_what_is_refused_cannot_be_chosen_and_says_why(page: Page, hub: PickerHub) -> None:
    await open_picker(page, hub)
    reasons = {
        "CARTA": "CARTA is not installed on this machine",
        "Survey pipelines": "Open to members of the group survey-team.",
        "16 GB": "16 GB: At most 8 GB are open to your groups.",
        "8": "At most 4 cores are open to your groups.",
    }
    for name, reason in reasons.items():
        choice = page.get_by_role("radio", name=name, exact=True)
        await expect(choice).to_be_disabled()
        await expect(choice).to_have_accessible_description(re.compile(re.escape(reason)))
        await expect(page.get_by_text(reason).first).to_be_visible()
        await choice.click(force=True)
        await expect(choice).not_to_be_checked()
    # Who tabs into the group hears it too, though a disabled choice takes no focus.
    cores = page.get_by_role("group", name="CPU cores")
    await expect(cores).to_have_accessible_description("8, 16: At most 4 cores are open to your groups.")


async def test_a_refused_picker_says_so_and_does_not_launch(page: Page, hub: PickerHub) -> None:
    sentence = "You run 3 sessions, which is the limit."
    hub.set("offer", sample_offer() | {"refusal": sentence, "sessions": {"active": 3, "limit": 3}})
    await open_picker(page, hub)
    await expect(page.get_by_role("button", name="Launch")).to_be_disabled()
    await expect(page.get_by_role("button", name="Launch")).to_have_accessible_description(re.compile(sentence))
    await expect(page.get_by_text("3 of 3 running")).to_be_visible()
    await page.get_by_label("Name").press("Enter")
    await expect(page).to_have_url(f"{hub.url}/hub/spawn")
    assert hub.posted() == []


async def test_a_link_fills_the_form_and_starts_nothing(page: Page, hub: PickerHub) -> None:
    await open_picker(
        page, hub, "?opt-image=local/astronomy-notebook:2025.2&opt-cores=4&memory=8&name=From+a+link"
    )
    await expect(page.locator("#picker-line")).to_have_text(
        "Notebook · Astronomy notebook · 2025.2 · 4 cores · 8 GB"
    )
    await expect(page.get_by_label("Name")).to_have_value("From a link")
    await expect(page.locator("#picker-notice")).to_be_hidden()
    assert hub.posted() == []
    # What is posted is the form, and the link does not come back after it.
    await page.get_by_role("radio", name="2", exact=True).check()
    await page.get_by_role("button", name="Launch").click()
    await page.wait_for_url(re.compile("/(spawn-pending|user)/"))
    assert "opt-" not in page.url
    assert [posted["cores"] for posted in hub.posted()] == [["2"]]


LINKS = {
    "?opt-image=<b>nope</b>&kind=carta&cores=16&memory=3": [
        "The link asks for the image “<b>nope</b>”, which is not on offer here.",
        "The link asks for CARTA. CARTA is not installed on this machine",
        "The link asks for 16 cores. At most 4 cores are open to your groups.",
        "The link asks for 3 GB, which is not on offer here.",
    ],
    "?opt-profile=survey-notebook&profile=nope": ["Open to members of the group survey-team."],
    "?kind=desktop&profile=casa-notebook": ["It does not go with the chosen kind."],
}


async def test_a_link_to_what_is_not_on_offer_says_so(page: Page, hub: PickerHub) -> None:
    for query, sentences in LINKS.items():
        await open_picker(page, hub, query)
        for sentence in sentences:
            await expect(page.locator("#picker-notice")).to_contain_text(sentence)
        await expect(page.get_by_role("button", name="Launch")).to_be_enabled()


async def test_a_hostile_catalogue_is_text(page: Page, hub: PickerHub) -> None:
    offer = sample_offer()
    for entry in [*offer["kinds"], *offer["profiles"]]:
        entry["title"] = entry["description"] = HOSTILE
    offer["profiles"][0]["images"] = [HOSTILE, "local/other:1"]
    offer["profiles"][0]["cores"][3]["refusal"] = HOSTILE
    offer["request"]["name"] = HOSTILE
    offer["kinds"][0]["kind"] = offer["profiles"][0]["kinds"][0] = "__proto__"
    hub.set("offer", offer)
    hub.set("request_error", f"{HOSTILE}\nline {HOSTILE}")
    await open_picker(page, hub)
    await expect(page.get_by_role("alert").filter(has_text="Not started.")).to_contain_text(HOSTILE)
    assert await page.locator("#picker").get_by_text(HOSTILE).count() > 10
    assert await page.evaluate("window.hurt") is None
    assert await page.locator("#spawn_form :is(img, script:not([type]), textarea)").count() == 0


async def test_an_error_of_the_last_request_is_read_out_with_its_log(page: Page, hub: PickerHub) -> None:
    hub.set("request_error", "The program ended.\nTraceback:\n  ImportError: casa")
    await open_picker(page, hub)
    alert = page.locator("#picker-error")
    await expect(alert).to_be_focused()
    await expect(alert).to_contain_text("Not started. The program ended.")
    await expect(alert.locator("pre")).to_have_text("Traceback:\n  ImportError: casa")


async def test_a_double_click_posts_once(page: Page, hub: PickerHub) -> None:
    await open_picker(page, hub)
    await page.get_by_label("Name").fill("slow")
    await page.get_by_role("button", name="Launch").dblclick()
    await page.wait_for_url("**/spawn-pending/**")
    await expect(page.locator("#progress-message")).to_have_text("Waiting for the program to answer")
    assert len(hub.posted()) == 1
    assert set(hub.posted()[0]) == FIELDS


async def test_launch_says_that_it_starts_and_back_makes_it_usable(page: Page, hub: PickerHub) -> None:
    await open_picker(page, hub)
    await page.locator("form").first.evaluate(
        "form => form.addEventListener('submit', e => e.preventDefault())"
    )
    await page.locator("#picker-launch").click()
    await expect(page.locator("#picker-launch")).to_have_text("Starting…")
    await expect(page.locator("#picker-launch")).to_be_disabled()
    await page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    await expect(page.locator("#picker-launch")).to_have_text("Launch")
    await expect(page.locator("#picker-launch")).to_be_enabled()


async def test_a_large_catalogue_can_be_filtered(page: Page, hub: PickerHub) -> None:
    offer = sample_offer()
    base = offer["profiles"][0]
    offer["profiles"] += [
        base | {"profile": f"p{n}", "title": f"Image {n}", "images": [f"local/p{n}:1"]} for n in range(30)
    ]
    hub.set("offer", offer)
    await open_picker(page, hub)
    box = page.get_by_label("Filter images")
    await box.fill("image 17")
    await expect(page.get_by_text("1 of 33")).to_be_visible()
    await expect(page.locator(".picker-cards-profiles .picker-card:visible")).to_have_count(1)
    await box.press("Enter")
    await expect(page.get_by_role("radio", name="Image 17")).to_be_checked()
    assert hub.posted() == []


async def test_an_image_with_fewer_cores_takes_what_is_near(page: Page, hub: PickerHub) -> None:
    await open_picker(page, hub, "?cores=4")
    await page.get_by_role("radio", name="Desktop", exact=True).check()
    await expect(page.locator("#picker-line")).to_contain_text("Astronomy desktop · 24.04 · 2 cores")
    await expect(page.get_by_role("group", name="GPUs")).to_have_count(0)
    await page.get_by_role("radio", name="Notebook", exact=True).check()
    await expect(page.locator("#picker-line")).to_contain_text("4 cores")


NODES = {
    "local/astronomy-notebook:2026.11": {"nodes": 3, "of": 3},
    "local/astronomy-notebook:2025.2": {"nodes": 1, "of": 3},
    "local/survey:1.4": {"nodes": 0, "of": 3},
}
"""What is known of nodes in some tests; of other images nothing is."""


async def test_an_image_says_on_which_nodes_it_is(page: Page, hub: PickerHub) -> None:
    hub.set("offer", {**sample_offer(), "on_nodes": NODES})
    await open_picker(page, hub)
    cards = page.locator("#picker-profiles .picker-card")

    def nodes(title: str) -> Locator:
        return cards.filter(has_text=title).locator(".picker-nodes")

    await expect(nodes("Astronomy notebook")).to_have_text("On the nodes already")
    await expect(nodes("CASA notebook")).to_be_hidden()
    await expect(nodes("Survey pipelines")).to_have_text("Not on the nodes yet")
    version = page.get_by_label("Version of Astronomy notebook")
    await version.focus()
    await version.select_option("local/astronomy-notebook:2025.2")
    await expect(nodes("Astronomy notebook")).to_have_text("On 1 of 3 nodes")
    await expect(version).to_be_focused()  # it was not drawn anew under somebody's hands
    await page.get_by_role("radio", name="CASA notebook").check()
    await expect(nodes("Astronomy notebook")).to_have_text("On 1 of 3 nodes")


async def test_without_a_word_on_nodes_nothing_is_said_of_them(page: Page, hub: PickerHub) -> None:
    await open_picker(page, hub)
    await expect(page.locator("#picker-profiles .picker-card")).not_to_have_count(0)
    assert not await page.locator(".picker-nodes").filter(visible=True).count()


async def test_nothing_on_offer_says_what_to_do(page: Page, hub: PickerHub) -> None:
    hub.set("offer", sample_offer() | {"profiles": [], "kinds": []})
    await page.goto(f"{hub.url}/hub/spawn")
    await expect(page.get_by_role("heading", name="No images yet")).to_be_visible()
    await expect(page.get_by_role("button", name="Launch")).to_have_count(0)


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_nothing_sticks_out_of_a_narrow_page(browser: Browser, hub: PickerHub, theme: Any) -> None:
    page = await signed_in(
        browser, hub, f"narrow-{theme}", viewport={"width": 400, "height": 800}, color_scheme=theme
    )
    offer = sample_offer() | {"on_nodes": NODES}
    for entry in offer["profiles"]:
        entry["title"] = entry["description"] = "W" * 200
    hub.set("offer", offer)
    for path in ("spawn", "home", "token", "nonsense"):
        await page.goto(f"{hub.url}/hub/{path}")
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        assert await page.locator("main").count() == 1
        assert await page.evaluate("document.documentElement.dataset.bsTheme") == theme
    assert page.complaints == []  # type: ignore[attr-defined]
    await page.context.close()


async def test_home_without_sessions_has_one_way_on(newcomer: Page, hub: PickerHub) -> None:
    page = newcomer
    await page.goto(f"{hub.url}/hub/home")
    await page.get_by_role("link", name="Start your first session").click()
    await expect(page.get_by_role("heading", name="New session")).to_be_visible()


async def test_home_stops_and_deletes(newcomer: Page, hub: PickerHub) -> None:
    page = newcomer
    await start(page, hub, HOSTILE)
    await page.wait_for_url(SESSION)
    await page.goto(f"{hub.url}/hub/home")
    row = page.locator(".cf-session")
    await expect(row.get_by_role("heading")).to_have_text(HOSTILE)
    await expect(row).to_contain_text("Notebooklocal/astronomy-notebook:2026.11")
    await expect(row.get_by_text("Running")).to_be_visible()
    await row.get_by_role("button", name="Stop").click()
    await page.get_by_role("dialog").get_by_role("button", name="Stop").click()
    await expect(row.get_by_text("Stopped")).to_be_visible()
    await expect(row.get_by_role("link", name="Open")).to_be_hidden()
    again = row.get_by_role("link", name="again")
    assert re.search(r"/hub/spawn/[^/]+/s[0-9a-f]{8}$", await again.get_attribute("href") or "")
    await row.get_by_role("button", name="Delete").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(page.get_by_role("heading", name="No sessions yet")).to_be_visible()
    assert await page.evaluate("window.hurt") is None


async def test_a_start_can_be_cancelled(newcomer: Page, hub: PickerHub) -> None:
    page = newcomer
    await start(page, hub, "slow")
    await page.get_by_role("button", name="Cancel the start").click()
    await page.wait_for_url("**/hub/home")
    await expect(page.locator(".cf-session").get_by_text("Stopped")).to_be_visible()


async def test_a_failed_start_shows_the_sentence_and_the_log(page: Page, hub: PickerHub) -> None:
    await start(page, hub, "broken")
    alert = page.locator("#progress-failure")
    await expect(alert.locator("p")).to_have_text("The program ended before it was ready.")
    await expect(alert.locator("pre")).to_contain_text("line 8 of <b>the log</b>")
    await expect(page.get_by_role("heading", name="“broken” did not start")).to_be_visible()
    await expect(page.get_by_role("button", name="Cancel the start")).to_be_hidden()
    # The same is there after a reload, and goes to the form.
    await page.reload()
    await expect(page.locator(".cf-failure pre")).to_contain_text("line 8 of <b>the log</b>")
    await page.get_by_role("link", name="Back to the form").click()
    await expect(page.get_by_role("heading", name="Start “broken” again")).to_be_visible()
    assert len(hub.posted()) == 1


async def test_a_refused_request_comes_back_with_its_sentence(page: Page, hub: PickerHub) -> None:
    await start(page, hub, "refused")
    await expect(page.locator(".spawn-error-msg")).to_have_text(
        "Not started. At most 3 sessions may run at once."
    )
    await expect(page.get_by_role("button", name="Launch")).to_be_enabled()


async def test_a_stopped_session_is_not_started_by_its_address(page: Page, hub: PickerHub) -> None:
    await start(page, hub, "M33")
    await page.wait_for_url(SESSION)
    address = page.url
    await page.goto(f"{hub.url}/hub/home")
    await page.get_by_role("button", name="Stop M33").click()
    await page.get_by_role("dialog").get_by_role("button", name="Stop").click()
    await expect(page.locator(".cf-session", has_text="M33").get_by_text("Stopped")).to_be_visible()
    await page.unroute(SESSION)
    await page.goto(address)
    await expect(page.get_by_role("heading", name="“M33” is not running")).to_be_visible()
    await expect(page.get_by_role("link", name="Start again")).to_have_attribute(
        "href", re.compile("^/hub/spawn/")
    )


async def test_signing_in_keeps_where_one_wanted_to_go(browser: Browser, hub: PickerHub) -> None:
    hub.set("login_service", "CANFAR & friends")
    page = await browser.new_page()
    await page.goto(f"{hub.url}/hub/spawn?opt-cores=2")
    button = page.get_by_role("link", name="Sign in with CANFAR & friends")
    await expect(button).to_have_attribute("href", re.compile("next=.*opt-cores"))
    await expect(page.get_by_role("heading", level=1)).to_have_count(1)
    await page.context.close()


async def test_an_administrator_sees_for_whom(
    browser: Browser, astronomer: BrowserContext, hub: PickerHub
) -> None:
    user = "astronomer"
    director = await signed_in(browser, hub, "director")
    await open_picker(director, hub, f"/{user}")
    await expect(director.get_by_role("note")).to_have_text(f"This session will belong to {user}, not to you.")
    await director.goto(f"{hub.url}/hub/admin")
    await expect(director.locator("main")).to_contain_text("Add Users")
    await director.context.close()


async def test_an_error_page_says_it_in_a_sentence_and_leads_on(page: Page, hub: PickerHub) -> None:
    response = await page.goto(f"{hub.url}/hub/nonsense")
    assert response is not None
    assert response.status == 404
    await expect(page.get_by_role("heading", level=1)).to_have_text("There is nothing here")
    await expect(page.locator("main").get_by_role("link", name="Your sessions")).to_be_visible()
