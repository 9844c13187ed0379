"""Tokens that clients show here directly, good and bad. The keys come over a real connection."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from canfar_auth.outbound import Outbound, Unavailable
from canfar_auth.tokens import TokenRefused, TokenVerifier, is_jwt
from tests.support.faults import FaultyServer, Garbage, Received, Reply, Status

ISSUER = "https://login.example.org/"
AUDIENCE = "https://hub.example.org"


class Key:
    """A signing key of the provider's."""

    def __init__(self, name: str, kind: str = "RSA") -> None:
        self.name, self.algorithm = name, "RS256" if kind == "RSA" else "ES256"
        self.private: Any = (
            rsa.generate_private_key(65537, 2048) if kind == "RSA" else ec.generate_private_key(ec.SECP256R1())
        )
        algorithm = RSAAlgorithm if kind == "RSA" else ECAlgorithm
        self.public = {**algorithm.to_jwk(self.private.public_key(), as_dict=True), "kid": name, "use": "sig"}

    def sign(self, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        now = time.time()
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "u1", "exp": now + 300, "iat": now} | claims
        claims = {name: value for name, value in claims.items() if value is not None}
        headers = {"kid": self.name, **(headers or {})}
        return jwt.encode(claims, self.private, algorithm=headers.get("alg", self.algorithm), headers=headers)


ONE, TWO, CURVE = Key("one"), Key("two"), Key("curve", "EC")


class Provider(FaultyServer):
    """Publishes keys."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[dict[str, Any]] = [ONE.public, CURVE.public]

    def answer(self, request: Received) -> Reply:
        return Reply(body=json.dumps({"keys": self.keys}), content_type="application/json")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def verifier(provider: Provider, clock: Clock) -> AsyncIterator[TokenVerifier]:
    outbound = Outbound({provider.host}, attempts=1, threshold=1000)
    yield TokenVerifier(ISSUER, {AUDIENCE, "canfar"}, f"{provider.url}/keys", outbound, clock=clock)
    await outbound.close()


def unsigned(header: dict[str, Any], key: bytes = b"") -> str:
    """A token made by hand, as an attacker would."""
    now = time.time()
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "u1", "exp": now + 300}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    signed = b".".join(parts)
    seal = hmac.new(key, signed, hashlib.sha256).digest() if key else b""
    return (signed + b"." + base64.urlsafe_b64encode(seal).rstrip(b"=")).decode()


@pytest.mark.parametrize("key", [ONE, CURVE], ids=lambda key: key.algorithm)
@pytest.mark.parametrize("audience", [AUDIENCE, "canfar", ["other", "canfar"]])
async def test_a_good_token(verifier: TokenVerifier, key: Key, audience: Any) -> None:
    assert (await verifier.claims(key.sign(aud=audience, groups=["x"])))["groups"] == ["x"]


PUBLIC = ONE.private.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (ONE.sign(exp=time.time() - 3600), "expired"),
        (ONE.sign(exp=None), "not good"),
        (ONE.sign(sub=None), "not good"),
        (ONE.sign(nbf=time.time() + 3600), "not good"),
        (ONE.sign(iat=time.time() + 3600), "not good"),
        (ONE.sign(iss="https://login.example.org"), "another"),
        (ONE.sign(iss=None), "not good"),
        (ONE.sign(aud="somebody-else"), "another"),
        (ONE.sign(aud=None), "not good"),
        (ONE.sign(aud=[]), "not good|another"),
        (ONE.sign(at_hash="x"), "ID token"),
        (ONE.sign(headers={"kid": "curve"}), "does not fit"),
        (TWO.sign(headers={"kid": "one"}), "not good"),
        (TWO.sign(), "does not publish"),
        (ONE.sign(headers={"crit": ["x"], "x": 1}), "not a signed JWT|not good|not accepted"),
        (unsigned({"alg": "none", "kid": "one"}), "not accepted"),
        (unsigned({"alg": "HS256", "kid": "one"}, PUBLIC), "not accepted"),
        (unsigned({"alg": "RS256", "kid": "one"}), "not good"),
        (unsigned({"alg": "RS256", "kid": ["one"]}), "not a signed JWT|not accepted"),
        (ONE.sign()[:-8] + "AAAAAAAA", "not good"),
        ("", "not a signed JWT"),
        ("opaque", "not a signed JWT"),
        ("a.b.c", "not a signed JWT"),
        ("." * 20, "not a signed JWT"),
        ("x" * 20_000 + "..", "not a signed JWT"),
    ],
)
async def test_a_bad_token(verifier: TokenVerifier, token: str, why: str) -> None:
    with pytest.raises(TokenRefused, match=why) as refused:
        await verifier.claims(token)
    assert not token or token not in str(refused.value)


@pytest.mark.parametrize("name", ["jku", "x5u"])
async def test_nothing_is_fetched_from_where_a_token_says(
    verifier: TokenVerifier, provider: Provider, name: str
) -> None:
    with Provider() as thief:
        thief.keys = [TWO.public]
        with pytest.raises(TokenRefused):
            await verifier.claims(TWO.sign(headers={name: f"{thief.url}/keys"}))
        assert thief.requests == []
    with pytest.raises(TokenRefused):
        await verifier.claims(TWO.sign(headers={"jwk": TWO.public}))
    assert provider.tokens == []


async def test_a_new_key_is_found_and_an_old_one_ends(
    verifier: TokenVerifier, provider: Provider, clock: Clock
) -> None:
    await verifier.claims(ONE.sign())
    provider.keys = [TWO.public]
    clock.now += 61
    await verifier.claims(TWO.sign())
    with pytest.raises(TokenRefused, match="does not publish"):
        await verifier.claims(ONE.sign())
    assert len(provider.requests) == 2


async def test_a_key_that_was_taken_back_ends_though_no_new_one_is_used(
    verifier: TokenVerifier, provider: Provider, clock: Clock
) -> None:
    await verifier.claims(ONE.sign())
    provider.keys = [TWO.public]
    clock.now += 3601
    with pytest.raises(TokenRefused, match="does not publish"):
        await verifier.claims(ONE.sign())


async def test_tokens_with_unknown_keys_do_not_make_the_hub_ask_again_and_again(
    verifier: TokenVerifier, provider: Provider, clock: Clock
) -> None:
    for number in range(20):
        with pytest.raises(TokenRefused):
            await verifier.claims(TWO.sign(headers={"kid": f"made-up-{number}"}))
    assert len(provider.requests) == 1
    clock.now += 61
    with pytest.raises(TokenRefused):
        await verifier.claims(TWO.sign())
    assert len(provider.requests) == 2


@pytest.mark.parametrize(
    "fault", [Status(500), Status(404), Garbage(), Garbage(b"[]"), Garbage(b'{"keys": 1}')], ids=str
)
async def test_without_keys_nothing_is_decided(
    verifier: TokenVerifier, provider: Provider, clock: Clock, fault: Any
) -> None:
    provider.fault = fault
    with pytest.raises(Unavailable):
        await verifier.claims(ONE.sign())
    with pytest.raises(Unavailable):
        await verifier.claims(ONE.sign())
    assert len(provider.requests) == 1
    provider.fault = None
    clock.now += 61
    assert await verifier.claims(ONE.sign())


async def test_keys_that_cannot_be_used_spoil_no_others(verifier: TokenVerifier, provider: Provider) -> None:
    odd: list[Any] = [{}, "x", {"kty": "RSA"}, {"kty": "oct", "k": "c2VjcmV0", "kid": "one"}]
    provider.keys = [*odd, {**TWO.public, "use": "enc"}, ONE.public]
    assert await verifier.claims(ONE.sign())
    with pytest.raises(TokenRefused):
        await verifier.claims(TWO.sign())


async def test_a_key_for_one_algorithm_is_for_no_other(verifier: TokenVerifier, provider: Provider) -> None:
    provider.keys = [{**ONE.public, "alg": "RS512"}]
    with pytest.raises(TokenRefused):
        await verifier.claims(ONE.sign())
    assert await verifier.claims(ONE.sign(headers={"alg": "RS512"}))


def test_what_looks_like_a_jwt() -> None:
    assert is_jwt(ONE.sign())
    assert not is_jwt("b3BhcXVl")
