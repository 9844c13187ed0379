"""Checks of access tokens that are JWTs (RFC 7519), for where clients show them here directly."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jwt
from jwt import PyJWK
from jwt.exceptions import (
    ExpiredSignatureError,
    InvalidAudienceError,
    InvalidIssuerError,
    InvalidKeyError,
    InvalidTokenError,
    PyJWKError,
)

from canfar_auth.outbound import Outbound, Unavailable

# Asymmetric ones only: with HS256 a public key would do for signing (RFC 8725 section 2.1).
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_LONGEST = 16_384  # characters; real tokens with many groups have a few thousand
_REQUIRED = ["exp", "iss", "aud", "sub"]


class TokenRefused(Exception):
    """A token that is not accepted; the text is a sentence that says why, without the token."""


def is_jwt(token: str) -> bool:
    """Whether a token has the form of a signed JWT (RFC 7515 section 3.1)."""
    return token.count(".") == 2 and len(token) <= _LONGEST and token.isascii()


class TokenVerifier:
    """Checks issuer, audience, times and signature (RFC 8725, RFC 9068 section 4).

    Keys come from ``jwks_url`` alone, whatever a token names in its header (``jku``, ``jwk``, ``x5u``). They
    are fetched again, at most every ``refetch`` seconds, when a token is signed with one that is not among
    them, and after ``keep`` seconds in any case, so that a key which was taken back ends.
    """

    def __init__(
        self,
        issuer: str,
        audiences: Collection[str],
        jwks_url: str,
        outbound: Outbound,
        *,
        leeway: float = 30,
        refetch: float = 60,
        keep: float = 3600,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer, self._audiences = issuer, sorted(audiences)
        self._jwks_url, self._outbound = jwks_url, outbound
        self._leeway, self._refetch, self._keep, self._clock = leeway, refetch, keep, clock
        self._keys: dict[str, PyJWK] = {}
        self._fetched: float | None = None
        self._tried: float | None = None
        self._fetching = asyncio.Lock()

    async def claims(self, token: str) -> Mapping[str, Any]:
        """The claims of a good token.

        Raises ``TokenRefused``, and ``Unavailable`` while the keys cannot be had.
        """
        if not is_jwt(token):
            raise TokenRefused("It is not a signed JWT.")
        key_id, algorithm = _read_header(token)
        key = await self._key(key_id)
        if key is None:
            raise TokenRefused("It is signed with a key that the provider does not publish.")
        if key.key_type != _KEY_TYPES[algorithm[:2]]:
            raise TokenRefused("Its algorithm does not fit the key.")
        try:
            # The key's own algorithm, where it states one, is the only one that holds.
            allowed = [algorithm] if _states(key) in ("", algorithm) else []
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=allowed,
                audience=self._audiences,
                issuer=self._issuer,
                leeway=self._leeway,
                options={"require": _REQUIRED, "enforce_minimum_key_length": True},
            )
        except ExpiredSignatureError:
            raise TokenRefused("It has expired.") from None
        except (InvalidAudienceError, InvalidIssuerError):
            raise TokenRefused("It was made for another service or by another provider.") from None
        except (InvalidTokenError, InvalidKeyError):
            raise TokenRefused("Its signature or its claims are not good.") from None
        if "at_hash" in claims or "c_hash" in claims:
            raise TokenRefused("It is an ID token, which is for the client alone that signed its user in.")
        return claims

    async def _key(self, key_id: str) -> PyJWK | None:
        """The published key of that name, asked for anew where it is unknown or was fetched long ago."""
        async with self._fetching:
            now = self._clock()
            stale = self._fetched is None or now - self._fetched > self._keep
            if stale or key_id not in self._keys:
                await self._fetch(now, stale)
        return self._keys.get(key_id)

    async def _fetch(self, now: float, stale: bool) -> None:
        if self._tried is not None and now - self._tried < self._refetch:
            if stale:
                raise Unavailable("the provider's keys could not be fetched a moment ago")
            return
        self._tried = now
        answer = await self._outbound.get(self._jwks_url, accept="application/json")
        self._keys = _read_keys(answer.text if answer.status == 200 else "")
        self._fetched = now


def _read_header(token: str) -> tuple[str, str]:
    """The key's name and the algorithm; nothing else in a header is used."""
    try:
        header = jwt.get_unverified_header(token)
    except InvalidTokenError:
        raise TokenRefused("It is not a signed JWT.") from None
    key_id, algorithm = header.get("kid", ""), header.get("alg")
    if algorithm not in ALGORITHMS or not isinstance(key_id, str):
        raise TokenRefused("It is signed in a way that is not accepted.")
    return key_id, algorithm


def _read_keys(text: str) -> dict[str, PyJWK]:
    """The keys for signatures in a set (RFC 7517 section 5), by name; those that cannot be used are left out.

    Raises ``Unavailable`` for what is no set of keys.
    """
    try:
        listed = json.loads(text)["keys"]
        keys = [key for key in listed if isinstance(key, dict) and key.get("use", "sig") == "sig"]
    except (ValueError, TypeError, KeyError):
        raise Unavailable("the provider's keys are no JSON Web Key Set") from None
    found: dict[str, PyJWK] = {}
    for key in keys:
        try:
            if key.get("kty") in _KEY_TYPES.values():
                found[str(key.get("kid", ""))] = PyJWK(key)
        except (PyJWKError, InvalidKeyError, InvalidTokenError, ValueError, TypeError):
            continue
    return found


def _states(key: PyJWK) -> str:
    """The algorithm that a published key states for itself; empty if none."""
    return str(key._jwk_data.get("alg") or "")
