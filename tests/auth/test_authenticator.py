"""Signing in, over two real providers, a scripted one, and a real hub."""

from __future__ import annotations

import asyncio
import html
import logging
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import pytest_asyncio
import yaml
from traitlets import TraitError

from canfar_auth import binding
from canfar_auth.authenticator import CanfarOAuthenticator
from canfar_auth.identity import Identity
from tests.auth.conftest import RunHub
from tests.support.oidc_hub import ADMINS, CONTACT, USERS, Hub
from tests.support.oidc_provider import DEMO_ACCOUNTS, EmbeddedProvider, Provider
from tests.support.oidc_stub import StubProvider
from tests.support.ports import free_port

# One hub for all tests here: its authenticator is fresh for each.
pytestmark = pytest.mark.asyncio(loop_scope="module")

SURVEY = "ivo://example.org/gms?survey-x"
TRY_LATER = (
    "The identity provider does not answer, so nobody can sign in at the moment; "
    f"try again in a few minutes, and tell {CONTACT} if it lasts."
)
NOT_AS_EXPECTED = (
    "The identity provider does not describe itself as this site expects, so nobody can sign in; "
    f"tell {CONTACT}, whose log says more."
)
NOT_ACCEPTED = (
    "The identity provider did not accept this sign-in; "
    f"sign in again, and ask {CONTACT} if it is refused again."
)


def refused(answer: httpx.Response, status: int, sentence: str) -> bool:
    """Whether a page says exactly ``sentence``, once, as text."""
    paragraphs = re.findall(r"<p>(.*?)</p>", answer.text, re.DOTALL)
    assert "Traceback" not in answer.text
    assert answer.text.count(html.escape(sentence, quote=False).replace("'", "&#39;")) == 1, paragraphs
    return answer.status_code == status


async def refresh(hub: Hub, browser: httpx.AsyncClient, name: str) -> httpx.Response:
    """Open a page after the refresh age has passed."""
    hub.forget_freshness(name)
    return await browser.get(f"{hub.url}/home")


# Who comes in


async def test_a_member_comes_in_with_the_groups_of_the_claim(hub: Hub, provider: Provider) -> None:
    answer = await hub.sign_in(provider, "astronomer")
    assert answer.status_code == 302, answer.text
    user = await hub.user("astronomer")
    assert set(user["groups"]) == {USERS, SURVEY}
    assert not user["admin"]


async def test_a_member_of_an_admin_group_is_an_admin(hub: Hub, provider: Provider) -> None:
    answer = await hub.sign_in(provider, "admin")
    assert answer.status_code == 302, answer.text
    user = await hub.user("admin")
    assert user["groups"] == [ADMINS]
    assert user["admin"]


async def test_a_name_with_a_dot_and_an_at_sign(hub: Hub, provider: Provider) -> None:
    answer = await hub.sign_in(provider, "first.last@example.org")
    assert answer.status_code == 302, answer.text
    assert (await hub.user("first.last@example.org"))["groups"] == [USERS]


async def test_the_identity_is_kept_beside_upstreams_state(hub: Hub, provider: Provider) -> None:
    await hub.sign_in(provider, "astronomer")
    state = await hub.app.users["astronomer"].get_auth_state()
    assert {"access_token", "refresh_token", "id_token", "scope", "token_response", "oauth_user"} <= set(state)
    identity = Identity.from_state(state["canfar"])
    account = yaml.safe_load(DEMO_ACCOUNTS.read_text())["accounts"]["astronomer"]
    assert identity
    assert (identity.issuer, identity.subject) == (provider.issuer, "astronomer")
    assert (identity.username, identity.full_name) == ("astronomer", account["full_name"])
    assert identity.groups.groups == {USERS, SURVEY}


async def test_an_outsider_is_told_which_group_and_whom_to_ask(hub: Hub, provider: Provider) -> None:
    answer = await hub.sign_in(provider, "outsider")
    assert refused(
        answer,
        403,
        f"Your account “outsider” is not a member of {USERS}; ask {CONTACT} to be added, then sign in again.",
    )
    assert "outsider" not in hub.app.users


async def test_groups_come_from_the_configured_claim_only(run_hub: RunHub, provider: Provider) -> None:
    hub = run_hub(provider, groups={"authority": "example.org", "sources": [{"claim": "memberships"}]})
    assert (await hub.sign_in(provider, "astronomer")).status_code == 403


async def test_what_is_no_group_is_dropped(hub: Hub, provider: Provider) -> None:
    hostile = ["{x}", "canfar\nadmins", "<b>bold</b>", "ivo://example.org/gms?canfar-admins\n", "ivo://x"]
    provider.set_groups("visitor", ["canfar-users", *hostile])
    try:
        assert (await hub.sign_in(provider, "visitor")).status_code == 302
    finally:
        provider.set_groups("visitor", ["canfar-users"])
    user = await hub.user("visitor")
    assert user["groups"] == [USERS]
    assert not user["admin"]


async def test_a_name_outside_the_pattern_is_refused(run_hub: RunHub, provider: Provider) -> None:
    hub = run_hub(provider, username_pattern="[a-m]+")
    sentence = f"Your account's name “visitor” cannot be used on this site; ask {CONTACT} for a name that can."
    assert refused(await hub.sign_in(provider, "visitor"), 403, sentence)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a/b", "a/b"), ("<b>\n", "<b>\N{REPLACEMENT CHARACTER}"), ("x" * 80, "x" * 63 + "…"), (["x"], "['x']")],
)
async def test_hostile_names_are_refused_as_text(
    run_hub: RunHub, stub: StubProvider, name: Any, shown: str
) -> None:
    stub.claims["preferred_username"] = name
    hub = run_hub(stub)
    sentence = f"Your account's name “{shown}” cannot be used on this site; ask {CONTACT} for a name that can."
    assert refused(await hub.sign_in(stub, ""), 403, sentence)


async def test_a_name_does_not_pass_to_another_subject(hub: Hub, provider: Provider) -> None:
    binding.bind(hub.app.authenticator.db, provider.issuer, "somebody-before", "visitor")
    sentence = (
        "The name “visitor” already belongs to another account on this site; "
        f"ask {CONTACT} to tell the two apart."
    )
    assert refused(await hub.sign_in(provider, "visitor"), 403, sentence)


# What the provider says of itself


async def test_another_issuer_than_configured_is_refused(run_hub: RunHub, provider: Provider) -> None:
    hub = run_hub(provider, issuer=f"{provider.issuer}/")
    assert refused(await hub.browser().get(f"{hub.url}/oauth_login"), 502, NOT_AS_EXPECTED)


@pytest.mark.parametrize("endpoint", ["authorization_endpoint", "token_endpoint", "userinfo_endpoint"])
@pytest.mark.parametrize("url", ["http://elsewhere.example.org/x", None])
async def test_unsafe_endpoints_are_refused(
    run_hub: RunHub, stub: StubProvider, endpoint: str, url: str | None
) -> None:
    stub.answers["/.well-known/openid-configuration"][1][endpoint] = url
    hub = run_hub(stub)
    assert refused(await hub.browser().get(f"{hub.url}/oauth_login"), 502, NOT_AS_EXPECTED)


async def test_a_secret_goes_into_the_header_where_the_body_is_not_taken(
    run_hub: RunHub, stub: StubProvider
) -> None:
    stub.answers["/.well-known/openid-configuration"][1].pop("token_endpoint_auth_methods_supported")
    hub = run_hub(stub)
    assert (await hub.sign_in(stub, "")).status_code == 302
    assert [headers.get("Authorization", "")[:6] for path, headers in stub.asked if path == "/token"] == [
        "Basic "
    ]


async def test_a_hub_whose_provider_comes_later(run_hub: RunHub, embedded: EmbeddedProvider) -> None:
    embedded.stop()
    hub = run_hub(embedded)
    try:
        assert refused(await hub.browser().get(f"{hub.url}/oauth_login"), 503, TRY_LATER)
        assert (await hub.browser().get(f"{hub.url}/login")).status_code == 200
    finally:
        embedded.start()
    assert (await hub.sign_in(embedded, "visitor")).status_code == 302


# What can go wrong on the way


async def test_cancelling_is_a_sentence_and_repeats_nothing(hub: Hub, provider: Provider) -> None:
    browser = hub.browser()
    await hub.to_provider(browser)
    answer = await browser.get(
        f"{hub.url}/oauth_callback?error=access_denied&error_description=<script>call+0900</script>"
    )
    sentence = "The sign-in was cancelled at the identity provider; go back to the start page to sign in again."
    assert refused(answer, 403, sentence)
    assert "0900" not in answer.text


@pytest.mark.parametrize("query", ["", "?code=x", "?code=x&state=y", "?state=y"])
async def test_an_answer_to_no_sign_in_of_this_browser(run_hub: RunHub, stub: StubProvider, query: str) -> None:
    hub = run_hub(stub)
    sentence = (
        "This sign-in has expired or was started in another browser; "
        "go back to the start page to sign in again."
    )
    assert refused(await hub.browser().get(f"{hub.url}/oauth_callback{query}"), 400, sentence)


async def test_a_wrong_client_secret_is_told_without_telling_it(
    run_hub: RunHub, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hub = run_hub(provider, client_secret="a-wrong-secret")
    browser = hub.browser()
    back = await provider.answer(browser, await hub.to_provider(browser), "visitor")
    answer = await browser.get(back)
    assert refused(answer, 403, NOT_ACCEPTED)
    hub_log = "\n".join(record.getMessage() for record in caplog.records if record.name == "TestHub")
    assert "a-wrong-secret" not in hub_log
    assert parse_qs(urlsplit(back).query)["code"][0] not in hub_log


@pytest.mark.parametrize(
    "spoil",
    [
        {"id_token": {"sub": "u1", "nonce": "of another sign-in"}},
        {"id_token": {"sub": "somebody-else"}},
        {"answers": {"/token": (200, {"error_description": "<b>no</b>", "error": "x"})}},
        {"answers": {"/token": (200, {"token_type": "Bearer"})}},
        {"answers": {"/token": (400, {"error": "invalid_grant"})}},
        {"answers": {"/userinfo": (403, "no")}},
    ],
    ids=str,
)
async def test_a_provider_that_contradicts_itself(
    run_hub: RunHub, stub: StubProvider, spoil: dict[str, Any]
) -> None:
    stub.id_token.update(spoil.get("id_token", {}))
    stub.answers.update(spoil.get("answers", {}))
    hub = run_hub(stub)
    assert refused(await hub.sign_in(stub, ""), 403, NOT_ACCEPTED)


NO_ANSWERS = [
    (500, "down"),
    (503, {}),
    (429, "later"),
    (302, "elsewhere"),
    (200, "<html>maintenance</html>"),
    (200, ""),
    (200, {"groups": []}),
]


@pytest.mark.parametrize(
    ("path", "no_answer"),
    [("/userinfo", answer) for answer in NO_ANSWERS]
    + [("/token", answer) for answer in NO_ANSWERS if isinstance(answer[1], str)],
    ids=str,
)
async def test_no_answer_at_sign_in(
    run_hub: RunHub, stub: StubProvider, path: str, no_answer: tuple[int, Any]
) -> None:
    hub = run_hub(stub)
    stub.answers[path] = no_answer
    assert refused(await hub.sign_in(stub, ""), 503, TRY_LATER)


# Reading the membership again


async def test_a_definite_answer_changes_the_groups(hub: Hub, provider: Provider) -> None:
    browser = hub.browser()
    assert (await hub.sign_in(provider, "astronomer", browser)).status_code == 302
    provider.set_groups("astronomer", ["canfar-users", "survey-y"])
    try:
        assert (await refresh(hub, browser, "astronomer")).status_code == 200
        assert set((await hub.user("astronomer"))["groups"]) == {USERS, "ivo://example.org/gms?survey-y"}
    finally:
        provider.set_groups("astronomer", ["canfar-users", "survey-x"])


async def test_an_outage_leaves_the_groups(hub: Hub, provider: Provider) -> None:
    browser = hub.browser()
    assert (await hub.sign_in(provider, "astronomer", browser)).status_code == 302
    hub.app.authenticator.userdata_url = f"http://127.0.0.1:{free_port()}/userinfo"
    assert (await refresh(hub, browser, "astronomer")).status_code == 200
    assert set((await hub.user("astronomer"))["groups"]) == {USERS, SURVEY}


@pytest_asyncio.fixture(loop_scope="module")
async def signed_in(run_hub: RunHub, stub: StubProvider) -> AsyncIterator[tuple[Hub, httpx.AsyncClient]]:
    hub = run_hub(stub)
    browser = hub.browser()
    assert (await hub.sign_in(stub, "", browser)).status_code == 302
    yield hub, browser


@pytest.mark.parametrize("no_answer", NO_ANSWERS, ids=str)
async def test_what_is_no_answer_leaves_the_groups(
    signed_in: tuple[Hub, httpx.AsyncClient], stub: StubProvider, no_answer: tuple[int, Any]
) -> None:
    hub, browser = signed_in
    stub.answers["/userinfo"] = no_answer
    assert (await refresh(hub, browser, "visitor")).status_code == 200
    assert (await hub.user("visitor"))["groups"] == [USERS]


@pytest.mark.parametrize(
    ("token_answer", "status"), [((500, "down"), 200), ((400, {"error": "invalid_grant"}), 302)]
)
async def test_an_expired_token_needs_a_new_one_and_only_a_refusal_signs_out(
    signed_in: tuple[Hub, httpx.AsyncClient], stub: StubProvider, token_answer: tuple[int, Any], status: int
) -> None:
    hub, browser = signed_in
    user = hub.app.users["visitor"]
    await user.save_auth_state({**(await user.get_auth_state()), "refresh_token": "a-refresh-token"})
    stub.answers.update({"/userinfo": (401, "expired"), "/token": token_answer})
    assert (await refresh(hub, browser, "visitor")).status_code == status
    assert (await hub.user("visitor"))["groups"] == [USERS]


async def test_requests_that_arrive_together_share_one_refresh(
    signed_in: tuple[Hub, httpx.AsyncClient], stub: StubProvider
) -> None:
    hub, browser = signed_in
    stub.asked.clear()
    pages = await asyncio.gather(*(refresh(hub, browser, "visitor") for _ in range(5)))
    assert [page.status_code for page in pages] == [200] * 5
    assert [path for path, _ in stub.asked] == ["/userinfo"]


async def test_another_subject_at_a_refresh_signs_out(
    signed_in: tuple[Hub, httpx.AsyncClient], stub: StubProvider
) -> None:
    hub, browser = signed_in
    user = hub.app.users["visitor"]
    state = await user.get_auth_state()
    state["token_response"].pop("id_token")
    await user.save_auth_state(state)
    stub.claims.update({"sub": "u2", "groups": "canfar-admins"})
    assert (await refresh(hub, browser, "visitor")).status_code == 302
    assert (await hub.user("visitor"))["groups"] == [USERS]


# Signing out, and the hub around it


async def test_signing_out_of_the_hub_signs_out_of_the_provider(hub: Hub, provider: Provider) -> None:
    browser = hub.browser()
    await hub.sign_in(provider, "visitor", browser)
    out = await browser.get(f"{hub.url}/logout")
    assert out.status_code == 302
    query = parse_qs(urlsplit(out.headers["location"]).query)
    assert query["client_id"] == ["canfar-hub"]
    assert query["post_logout_redirect_uri"] == [f"{hub.url}/login"]
    back = await browser.get(out.headers["location"])
    while back.is_redirect and not back.headers["location"].startswith(hub.url):
        back = await browser.get(str(httpx.URL(out.headers["location"]).join(back.headers["location"])))
    assert back.headers["location"].split("?")[0] == f"{hub.url}/login"
    assert (await browser.get(f"{hub.url}/home")).status_code == 302


async def test_signing_out_with_the_provider_down(run_hub: RunHub, stub: StubProvider) -> None:
    hub = run_hub(stub)
    await stub.stop()
    out = await hub.browser().get(f"{hub.url}/logout")
    assert (out.status_code, out.headers["location"]) == (302, "/hub/login")


async def test_first_handlers_come_before_the_hubs_own(run_hub: RunHub, stub: StubProvider) -> None:
    hub = run_hub(stub)
    assert (await hub.browser().get(f"{hub.url}/spawn")).text == "our page"


async def test_the_hubs_sign_in_page_has_one_button(run_hub: RunHub, stub: StubProvider) -> None:
    hub = run_hub(stub, login_service="Example IAM")
    page = await hub.browser().get(f"{hub.url}/login")
    assert page.text.count("Example IAM") == 1
    assert "/hub/oauth_login" in page.text


@pytest.mark.parametrize(
    ("traits", "words"),
    [
        ({}, "issuer is not set"),
        ({"issuer": "http://iam.example.org"}, "https"),
        ({"issuer": "https://iam.example.org/?x"}, "without a query"),
        ({"issuer": "https://iam.example.org", "platform_groups": {"canfar-users"}}, "platform_groups"),
        ({"issuer": "https://iam.example.org", "admin_groups": {"canfar-admins"}}, "admin_groups"),
    ],
)
async def test_a_wrong_configuration_is_told_at_start(traits: dict[str, Any], words: str) -> None:
    with pytest.raises(TraitError, match=words):
        CanfarOAuthenticator(**traits)
