"""A hostile page's service worker: it gets no power over its origin, where its owner's other sessions are."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from tests.support.browser import CHROMIUM, sign_in
from tests.support.stack import Person, Stack

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
REGISTER = """async ([script, scope]) => {
  try {
    await navigator.serviceWorker.register(script, scope ? {scope} : {});
    return "registered";
  } catch (error) {
    return error.name;
  }
}"""
SCOPES = (
    "async () => (await navigator.serviceWorker.getRegistrations()).map(one => new URL(one.scope).pathname)"
)
RULES = "navigator.serviceWorker.ready.then(one => one.active.state === 'activated')"


@pytest.fixture
def person(stack: Stack) -> Iterator[Person]:
    """`astronomer`, with a hostile session, and one that others' pages are not to change."""
    found = stack.sign_in("astronomer")
    for server, profile in (("bad", "hostile"), ("good", "open")):
        found.begin(server, {"profile": profile})
    yield found
    found.stop_all()


def test_it_rules_over_nothing_but_its_own_address(page: Page, stack: Stack, person: Person) -> None:
    sign_in(page, stack.url, "astronomer")
    page.locator(".picker-launch").wait_for()
    page.goto(str(person.server("good")["full_url"]))
    page.wait_for_url(re.compile(r"/session/contributed/[a-z0-9]{8}/$"))
    good, text = page.url, page.content()
    page.goto(str(person.server("bad")["full_url"]))
    page.wait_for_function("document.title === 'tried'")
    own = re.sub(r"^https?://[^/]+", "", page.url)
    assert page.evaluate("window.got") == "SecurityError"

    assert page.evaluate(REGISTER, ["worker.js", "/session/"]) == "SecurityError"
    assert page.evaluate(REGISTER, ["worker.js", good]) == "SecurityError"
    for elsewhere in ("/worker.js", f"{good}worker.js", "/session/worker.js", f"{own}..%2F..%2F..%2Fworker.js"):
        assert page.evaluate(REGISTER, [elsewhere, "/"]) != "registered", elsewhere
    assert page.evaluate(SCOPES) == []

    # One for its own address is the program's good right, and stays there.
    assert page.evaluate(REGISTER, ["worker.js", ""]) == "registered"
    assert page.evaluate(SCOPES) == [own]
    page.wait_for_function(RULES)
    page.goto(f"{page.url}below")
    assert "taken over" in page.content()
    for address in (good, f"{stack.url}/hub/home", re.sub(r"/session/.*", "/", good)):
        page.goto(address)
        assert "taken over" not in page.content()
    page.goto(good)
    assert page.content() == text
