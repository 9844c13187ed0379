"""An access token of the provider, shown to the hub directly: who is it?"""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from canfar_auth import binding
from canfar_auth.refusal import SignInRefused
from tests.auth.conftest import RunHub
from tests.support.gms_server import GmsServer
from tests.support.oidc_hub import SURVEY, USERS, Hub
from tests.support.oidc_stub import StubProvider

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUDIENCE = "https://hub.example.org"
KEY = rsa.generate_private_key(65537, 2048)


def token(stub: StubProvider, **claims: Any) -> str:
    stub.keys = [{**RSAAlgorithm.to_jwk(KEY.public_key(), as_dict=True), "kid": "k", "use": "sig"}]
    claims = {"iss": stub.issuer, "aud": AUDIENCE, "sub": "u1", "exp": time.time() + 300} | claims
    return jwt.encode(claims, KEY, algorithm="RS256", headers={"kid": "k"})


def hub_for(run_hub: RunHub, stub: StubProvider, **traits: Any) -> Hub:
    sources = [{"claim": "groups", "absent": "ask_userinfo"}]
    groups = {"authority": "example.org", "sources": sources} | traits.pop("groups", {})
    return run_hub(stub, **{"audiences": {AUDIENCE}, "groups": groups, **traits})


async def test_the_claims_of_the_token_say_who_it_is(run_hub: RunHub, stub: StubProvider) -> None:
    hub = hub_for(run_hub, stub)
    shown = token(stub, preferred_username="visitor", groups=["canfar-users"])
    identity = await hub.app.authenticator.verify_bearer(shown)
    assert (identity.username, identity.subject, identity.groups.groups) == ("visitor", "u1", {USERS})
    assert stub.count("/userinfo") == 0


async def test_what_the_token_leaves_out_the_user_information_says(run_hub: RunHub, stub: StubProvider) -> None:
    hub = hub_for(run_hub, stub)
    identity = await hub.app.authenticator.verify_bearer(token(stub))
    assert (identity.username, identity.groups.groups) == ("visitor", {USERS})
    assert stub.count("/userinfo") == 1


async def test_the_group_service_is_asked_with_the_same_token(run_hub: RunHub, stub: StubProvider) -> None:
    with GmsServer() as gms:
        shown = token(stub)
        gms.groups[shown] = [SURVEY]
        hub = hub_for(run_hub, stub, groups={"gms": {"search": gms.search}}, token_hosts={gms.host})
        identity = await hub.app.authenticator.verify_bearer(shown)
        assert identity.groups.groups == {USERS, SURVEY}


async def test_the_name_is_that_of_the_first_sign_in(run_hub: RunHub, stub: StubProvider) -> None:
    hub = hub_for(run_hub, stub)
    binding.bind(hub.app.authenticator.db, stub.issuer, "u1", "known-as")
    assert (await hub.app.authenticator.verify_bearer(token(stub))).username == "known-as"


@pytest.mark.parametrize(
    ("spoil", "status"),
    [
        ({"aud": "somebody-else"}, 401),
        ({"iss": "https://evil.org"}, 401),
        ({"exp": 1}, 401),
        ({"sub": "u2"}, 401),
        ({"sub": "x" * 300}, 401),
        ({"preferred_username": "visitor", "groups": []}, 403),
        ({"preferred_username": "../visitor", "groups": ["canfar-users"]}, 403),
    ],
)
async def test_a_token_that_is_not_good_enough(
    run_hub: RunHub, stub: StubProvider, spoil: dict[str, Any], status: int
) -> None:
    hub = hub_for(run_hub, stub)
    shown = token(stub, **spoil)
    with pytest.raises(SignInRefused) as refused:
        await hub.app.authenticator.verify_bearer(shown)
    assert refused.value.status_code == status
    assert shown not in str(refused.value)


async def test_a_name_of_somebody_else(run_hub: RunHub, stub: StubProvider) -> None:
    hub = hub_for(run_hub, stub)
    binding.bind(hub.app.authenticator.db, stub.issuer, "u7", "visitor")
    with pytest.raises(SignInRefused, match="already belongs to another account"):
        await hub.app.authenticator.verify_bearer(token(stub))


async def test_opaque_tokens_and_sites_without_an_audience(run_hub: RunHub, stub: StubProvider) -> None:
    hub = hub_for(run_hub, stub)
    with pytest.raises(SignInRefused, match="no token for this site"):
        await hub.app.authenticator.verify_bearer("an-access-token")
    hub = hub_for(run_hub, stub, audiences=set())
    with pytest.raises(SignInRefused, match="no token for this site"):
        await hub.app.authenticator.verify_bearer(token(stub))


@pytest.mark.parametrize("path", ["/userinfo", "/keys"])
async def test_in_an_outage_nobody_is_refused_for_good(run_hub: RunHub, stub: StubProvider, path: str) -> None:
    hub = hub_for(run_hub, stub)
    shown = token(stub)
    stub.answers[path] = (500, "down")
    with pytest.raises(SignInRefused) as refused:
        await hub.app.authenticator.verify_bearer(shown)
    assert refused.value.status_code == 503
