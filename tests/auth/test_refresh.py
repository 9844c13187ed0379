"""After the sign-in: tokens that end, groups that change, services that do not answer. On a real hub."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest

from canfar_auth import binding
from canfar_auth.identity import Identity
from canfar_auth.refresh import Standing
from canfar_auth.refusal import ProviderUnavailable, SignInRefused
from tests.auth.conftest import RunHub
from tests.support.faults import FaultyServer
from tests.support.oidc_hub import ADMINS, CONTACT, USERS, Hub
from tests.support.oidc_stub import StubProvider

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Visitor:
    """Somebody who signed in at the stub, with a browser and an API token."""

    def __init__(self, hub: Hub, browser: httpx.AsyncClient) -> None:
        self.hub, self.browser = hub, browser
        self.token = self.user.new_api_token()

    @property
    def user(self) -> Any:
        return self.hub.app.users["visitor"]

    @property
    def authenticator(self) -> Any:
        return self.hub.app.authenticator

    async def page(self, later: bool = True) -> int:
        """The status of the hub's home page, after the refresh age if ``later``."""
        if later:
            self.hub.forget_freshness("visitor")
        return (await self.browser.get(f"{self.hub.url}/home")).status_code

    async def call(self, later: bool = True) -> int:
        """The status of an API call with the token, from another machine than the browser's."""
        if later:
            self.hub.forget_freshness("visitor")
        headers = {"Authorization": f"token {self.token}"}
        return (await self.hub.browser().get(f"{self.hub.url}/api/user", headers=headers)).status_code

    async def identity(self) -> Identity:
        found = Identity.from_state((await self.user.get_auth_state())["canfar"])
        assert found
        return found

    async def wait_out(self, lives: float) -> None:
        """As if the access token lived only so many seconds more."""
        state = await self.user.get_auth_state()
        state["token_response"]["expires_at"] = time.time() + lives
        await self.user.save_auth_state(state)

    @property
    def groups(self) -> set[str]:
        return {group.name for group in self.user.orm_user.groups}


async def signed_in(run_hub: RunHub, stub: StubProvider, **traits: Any) -> Visitor:
    hub = run_hub(stub, **traits)
    browser = hub.browser()
    answer = await hub.sign_in(stub, "", browser)
    assert answer.status_code == 302, answer.text
    stub.asked.clear()
    return Visitor(hub, browser)


# Tokens


async def test_tokens_are_renewed_only_near_their_end(run_hub: RunHub, stub: StubProvider) -> None:
    stub.lives = 3600
    visitor = await signed_in(run_hub, stub)
    assert await visitor.page() == 200
    assert stub.count("/token") == 0
    await visitor.wait_out(30)
    assert await visitor.page() == 200
    assert (stub.count("/token"), stub.count("/userinfo")) == (1, 2)
    assert await visitor.page() == 200
    assert stub.count("/token") == 1


async def test_a_refresh_token_is_used_once_however_many_need_it(run_hub: RunHub, stub: StubProvider) -> None:
    stub.lives = 3600
    visitor = await signed_in(run_hub, stub)
    await visitor.wait_out(5)
    wanted = [
        visitor.page(),
        visitor.call(),
        *(visitor.authenticator.access_token(visitor.user) for _ in range(8)),
    ]
    answers = await asyncio.gather(*wanted)
    assert answers[:2] == [200, 200]
    assert len({token.value for token in answers[2:]}) == 1
    assert stub.count("/token") == 1
    assert (await visitor.user.get_auth_state())["refresh_token"] == stub.refresh_token


async def test_a_new_refresh_token_is_kept_though_the_rest_fails(run_hub: RunHub, stub: StubProvider) -> None:
    stub.lives = 3600
    visitor = await signed_in(run_hub, stub)
    await visitor.wait_out(5)
    stub.answers["/userinfo"] = (500, "down")
    assert await visitor.page() == 200
    assert (await visitor.user.get_auth_state())["refresh_token"] == stub.refresh_token
    del stub.answers["/userinfo"]
    await visitor.wait_out(5)
    assert await visitor.page() == 200


async def test_a_token_that_is_refused_early_is_renewed(run_hub: RunHub, stub: StubProvider) -> None:
    stub.lives = 3600
    visitor = await signed_in(run_hub, stub)
    stub.answers["/userinfo"] = (401, "no")
    assert await visitor.page() == 302
    assert stub.count("/token") == 1


async def test_whoever_asks_for_a_token_is_told_why_there_is_none(run_hub: RunHub, stub: StubProvider) -> None:
    stub.lives = 3600
    visitor = await signed_in(run_hub, stub)
    await visitor.wait_out(-5)
    stub.answers["/token"] = (503, "down")
    with pytest.raises(ProviderUnavailable):
        await visitor.authenticator.access_token(visitor.user)
    stub.answers["/token"] = (400, {"error": "invalid_grant"})
    with pytest.raises(SignInRefused, match="Your sign-in has expired"):
        await visitor.authenticator.access_token(visitor.user)


# Removal


async def test_a_removal_is_effective_for_cookies_and_tokens(run_hub: RunHub, stub: StubProvider) -> None:
    visitor = await signed_in(run_hub, stub)
    stub.claims["groups"] = ["other-project"]
    assert await visitor.call() == 403
    assert await visitor.call(later=False) == 403
    assert await visitor.page(later=False) == 302
    assert visitor.groups == {"ivo://example.org/gms?other-project"}
    stub.claims["groups"] = ["canfar-users"]
    assert await visitor.call(later=False) == 200


async def test_a_removal_found_without_a_request_refuses_the_next_one(
    run_hub: RunHub, stub: StubProvider
) -> None:
    visitor = await signed_in(run_hub, stub)
    assert await visitor.call() == 200
    stub.claims["groups"] = []
    assert await visitor.authenticator.reread(visitor.user) is Standing.REMOVED
    assert await visitor.call(later=False) == 403
    assert await visitor.page(later=False) == 302


async def test_administrators_come_and_go_with_their_group(run_hub: RunHub, stub: StubProvider) -> None:
    visitor = await signed_in(run_hub, stub)
    assert not visitor.user.admin
    for groups, admin in [(["canfar-users", "canfar-admins"], True), (["canfar-users"], False)]:
        stub.claims["groups"] = groups
        assert await visitor.page() == 200
        assert visitor.user.admin is admin
        assert ("admin" in {role.name for role in visitor.user.orm_user.roles}) is admin


async def test_blocked_users_are_refused_at_the_next_reading(run_hub: RunHub, stub: StubProvider) -> None:
    visitor = await signed_in(run_hub, stub)
    visitor.authenticator.blocked_users = {"visitor"}
    assert await visitor.call() == 403


# No answer


@pytest.mark.parametrize("patience", [3600, 0])
async def test_a_sign_in_that_has_expired_lasts_for_programs_as_long_as_the_site_is_patient(
    run_hub: RunHub, stub: StubProvider, patience: float
) -> None:
    visitor = await signed_in(run_hub, stub, groups={"authority": "example.org", "patience": patience})
    stub.answers["/userinfo"] = (401, "expired")
    assert await visitor.page() == 302
    assert await visitor.call() == (200 if patience else 403)
    groups = (await visitor.identity()).groups
    assert groups.doubted == ({USERS} if patience else set())
    assert groups.reason == "Your sign-in has expired; sign in again."


@pytest.mark.parametrize("patience", [3600, 0])
async def test_an_outage_lets_everybody_go_on_however_long(
    run_hub: RunHub, stub: StubProvider, patience: float
) -> None:
    visitor = await signed_in(run_hub, stub, groups={"authority": "example.org", "patience": patience})
    stub.answers["/userinfo"] = (500, "down")
    assert (await visitor.page(), await visitor.call()) == (200, 200)
    groups = (await visitor.identity()).groups
    assert groups.doubted == groups.groups == ({USERS} if patience else set())
    assert groups.reason == "The identity provider does not answer."
    del stub.answers["/userinfo"]
    assert await visitor.page() == 200
    assert (await visitor.identity()).groups.complete


UNKNOWN_IF_ABSENT = {"authority": "example.org", "sources": [{"claim": "groups", "absent": "unknown"}]}


async def test_a_sign_in_that_cannot_be_decided_is_not_refused_for_good(
    run_hub: RunHub, stub: StubProvider
) -> None:
    hub = run_hub(stub, groups=UNKNOWN_IF_ABSENT)
    del stub.claims["groups"]
    answer = await hub.sign_in(stub, "")
    assert answer.status_code == 503
    assert "It is not known at the moment whether you may use this site." in answer.text
    assert CONTACT in answer.text
    assert "visitor" not in hub.app.users


async def test_nothing_is_asked_where_a_claim_says(run_hub: RunHub, stub: StubProvider) -> None:
    with FaultyServer() as elsewhere:
        stub.claims |= {
            "_claim_names": {"groups": "src"},
            "_claim_sources": {"src": {"endpoint": elsewhere.url, "access_token": "a-token"}},
        }
        hub = run_hub(stub, token_hosts={elsewhere.host})
        browser = hub.browser()
        assert (await hub.sign_in(stub, "", browser)).status_code == 302
        visitor = Visitor(hub, browser)
        assert await visitor.page() == 200
        assert elsewhere.requests == []


async def test_a_claim_that_is_missing_later_takes_nothing_away(run_hub: RunHub, stub: StubProvider) -> None:
    visitor = await signed_in(run_hub, stub, groups=UNKNOWN_IF_ABSENT)
    del stub.claims["groups"]
    assert (await visitor.page(), await visitor.call()) == (200, 200)
    assert visitor.groups == {USERS}
    again = await visitor.hub.sign_in(stub, "")
    assert again.status_code == 302


async def test_what_was_known_survives_a_restart_of_the_hub(run_hub: RunHub, stub: StubProvider) -> None:
    visitor = await signed_in(run_hub, stub)
    stub.answers["/userinfo"] = (500, "down")
    visitor.hub.sign_in_with(stub)  # nothing is remembered but what the database holds
    assert (await visitor.page(), await visitor.call()) == (200, 200)
    assert (await visitor.identity()).groups.doubted == {USERS}


# Who is who


async def test_a_renamed_account_keeps_its_user(run_hub: RunHub, stub: StubProvider) -> None:
    visitor = await signed_in(run_hub, stub)
    stub.claims["preferred_username"] = "astronomer"
    assert await visitor.page() == 200
    assert (await visitor.hub.sign_in(stub, "")).status_code == 302
    assert "astronomer" not in visitor.hub.app.users
    assert (await visitor.identity()).username == "visitor"


async def test_a_name_that_was_given_up_goes_to_nobody_else(run_hub: RunHub, stub: StubProvider) -> None:
    visitor = await signed_in(run_hub, stub)
    stub.claims["sub"] = stub.id_token["sub"] = "u2"
    answer = await visitor.hub.sign_in(stub, "")
    assert answer.status_code == 403
    assert "already belongs to another account" in answer.text
    visitor.authenticator.delete_user(visitor.user)
    assert (await visitor.hub.sign_in(stub, "")).status_code == 302
    assert (await visitor.identity()).subject == "u2"


async def test_a_refused_account_takes_no_name(run_hub: RunHub, stub: StubProvider) -> None:
    hub = run_hub(stub)
    stub.claims["groups"] = []
    assert (await hub.sign_in(stub, "")).status_code == 403
    assert not binding.is_bound(hub.app.authenticator.db, "visitor")


async def test_a_user_whose_record_cannot_be_read_has_to_sign_in(run_hub: RunHub, stub: StubProvider) -> None:
    visitor = await signed_in(run_hub, stub)
    await visitor.user.save_auth_state(None)
    assert await visitor.call() == 403
    assert await visitor.page() == 302


async def test_another_provider_is_shown_no_tokens_of_the_former_one(
    run_hub: RunHub, stub: StubProvider
) -> None:
    stub.lives = 3600
    visitor = await signed_in(run_hub, stub)
    await visitor.wait_out(0)
    other = StubProvider().start()
    try:
        visitor.hub.sign_in_with(other)
        assert await visitor.call() == 403
        assert await visitor.page() == 302
        with pytest.raises(SignInRefused):
            await visitor.authenticator.access_token(visitor.user)
        assert await visitor.authenticator.known_identity("visitor") is None
        told = [value for path, sent in other.asked for value in (path, *sent.values())]
        assert not {"/token", "/userinfo", visitor.token, stub.refresh_token} & set(told)
        # Its accounts are others, whatever they are called.
        assert (await visitor.hub.sign_in(other, "")).status_code == 403
    finally:
        await other.stop()


async def test_a_user_made_by_an_administrator_may_use_the_api_and_has_no_identity(
    run_hub: RunHub, stub: StubProvider
) -> None:
    visitor = await signed_in(run_hub, stub)
    await visitor.user.save_auth_state(None)
    binding.release(visitor.authenticator.db, "visitor")
    assert await visitor.call() == 200
    assert await visitor.authenticator.reread(visitor.user) is Standing.NEW


async def test_an_administrators_start_for_somebody_removed_is_for_the_plan_to_refuse(
    run_hub: RunHub, stub: StubProvider
) -> None:
    visitor = await signed_in(run_hub, stub)
    stub.claims["groups"] = []
    assert await visitor.authenticator.refresh_user(visitor.user, None)
    assert not (await visitor.identity()).groups.groups
    assert ADMINS not in visitor.groups
