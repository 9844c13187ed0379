"""Reading a membership again and keeping tokens fresh: after the sign-in, without the user's browser."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from jupyterhub import roles
from oauthenticator.generic import GenericOAuthenticator
from tornado import web
from tornado.httpclient import HTTPClientError

from canfar_auth import binding, refusal
from canfar_auth.identity import STATE_KEY, Identity, Membership
from canfar_auth.refusal import ProviderUnavailable, SignInRefused

# An access token is renewed when it would not live this long: nothing that is done with it takes longer.
_TOKEN_SECONDS = 60

_EXPIRED = "Your sign-in has expired; sign in again."
_NO_ANSWER = "The identity provider does not answer."

# Whose membership is being read in this context: none at a sign-in, whose account is not known before.
reading: ContextVar[str] = ContextVar("canfarreading", default="")


class Standing(Enum):
    """What reading somebody's membership again came to."""

    MEMBER = "member"
    """They may go on, as far as anybody knows."""
    REMOVED = "removed"
    """They are definitely no member any more."""
    EXPIRED = "expired"
    """The provider no longer takes their tokens, so they have to sign in."""
    NEW = "new"
    """They never signed in: an administrator made the user."""


@dataclass(frozen=True, slots=True)
class Token:
    """A user's access token, and when it ends (aware, UTC), where the provider said so."""

    value: str = field(repr=False)
    expires: datetime | None


class RefreshingOAuthenticator(GenericOAuthenticator):
    """Upstream's refresh, with three differences.

    Its outcome is kept here, also for users who make no requests; an outage takes nothing away; and whoever is
    no member any more is refused. Subclasses give ``issuer``, ``discover``, ``resolver``, ``trusted`` and
    ``_model``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._refreshing: dict[str, asyncio.Task[Standing]] = {}
        self._renewing: dict[str, asyncio.Lock] = {}

    # Reading the membership again

    async def refresh_user(self, user: Any, handler: Any = None, **kwargs: Any) -> bool:
        """Whether the request may go on. Upstream's refresh, whose outcome this class keeps by itself.

        Upstream raises in an outage, which fails the request, or asks for a new sign-in, which is as
        impossible; and it lets pass whoever is no member any more.
        """
        standing = await self.reread(user)
        own = getattr(handler, "_jupyterhub_user", None) is user
        if standing is Standing.REMOVED:
            return not own  # a start for them by somebody else is refused by the plan, with the reason
        if standing is Standing.EXPIRED:
            # A page can send its visitor to sign in. Nobody else can, so what was known counts for a while.
            with_cookie = own and not getattr(handler, "_token_authenticated", False)
            return not with_cookie and await self._was_member_lately(user)
        return True

    async def reread(self, user: Any) -> Standing:
        """Read the membership again now; the requests of one user that arrive together share one reading.

        Never raises for a fault of a service. Groups, administrator's rights and identity are kept in the hub.
        """
        task = self._refreshing.get(user.name)
        if task is None:
            task = asyncio.ensure_future(self._reread(user))
            self._refreshing[user.name] = task
            task.add_done_callback(lambda _: self._refreshing.pop(user.name, None))
        return await asyncio.shield(task)

    async def reread_if_due(self, user: Any) -> Standing | None:
        """``reread`` for a user without requests, when the last reading is ``auth_refresh_age`` seconds old."""
        age = self.auth_refresh_age
        if not age or (user._auth_refreshed and time.monotonic() - user._auth_refreshed < age):
            return None
        return await self.reread(user)

    async def _reread(self, user: Any) -> Standing:
        known = Identity.from_state((await self.auth_state_of(user)).get(STATE_KEY))
        if known is None:
            return Standing.EXPIRED if binding.is_bound(self.db, user.name) else Standing.NEW
        standing = Standing.MEMBER
        reading.set(user.name)
        try:
            await self.discover()
            auth_model = await self._read_again(user)
        except ProviderUnavailable:
            auth_model = await self._doubted(user, known, await self._token_in_hand(user), _NO_ANSWER)
        except (web.HTTPError, HTTPClientError) as error:
            self.log.warning("%s has to sign in again: %s.", user.name, status_of(error))
            standing = Standing.EXPIRED
            auth_model = await self._doubted(user, known, "", _EXPIRED)
        auth_model = await self._apply_managed_groups(auth_model)
        if not await self._still_allowed(user.name, auth_model):
            standing = Standing.REMOVED
        await self._keep(user, auth_model)
        # A request after the removal of its user asks again, instead of relying on the last good reading.
        user._auth_refreshed = time.monotonic() if standing is Standing.MEMBER else None
        return standing

    async def auth_state_of(self, user: Any) -> dict[str, Any]:
        """What is kept of the user's sign-in: nothing if that was at another provider than the present one.

        Its tokens are not for others, and what it said of a subject says nothing of one here.
        """
        state = await user.get_auth_state() or {}
        known = Identity.from_state(state.get(STATE_KEY))
        return state if known and known.issuer == self.issuer else {}

    async def _read_again(self, user: Any) -> dict[str, Any]:
        """Upstream's model from tokens that are renewed only when they end soon or are not taken any more."""
        tokens = await self._tokens(user, _TOKEN_SECONDS)
        try:
            return dict(await self._token_to_auth_model(tokens))
        except HTTPClientError:
            renewed = await self._tokens(user, _TOKEN_SECONDS, refused=tokens["access_token"])
            return dict(await self._token_to_auth_model(renewed))

    async def _doubted(self, user: Any, known: Identity, token: str, reason: str) -> dict[str, Any]:
        identity = await self.resolver.in_doubt(known, token, reason)
        return dict(self._model(identity, {**await self.auth_state_of(user), STATE_KEY: identity.to_state()}))

    async def _still_allowed(self, username: str, auth_model: dict[str, Any]) -> bool:
        """Whether nothing definite is against them."""
        try:
            blocked = not self.check_blocked_users(username, auth_model)
            return not blocked and await self.check_allowed(username, auth_model)
        except SignInRefused as refused:
            return refused.status_code == refusal.UNDECIDED

    async def _was_member_lately(self, user: Any) -> bool:
        identity = await self.known_identity(user.name)
        if identity is None:
            return False
        return self.trusted(identity).membership(self.platform_groups | self.admin_groups) is Membership.YES

    async def _keep(self, user: Any, auth_model: dict[str, Any]) -> None:
        """What the hub does with an answer to its own refresh; here also for users without requests."""
        admin = auth_model["admin"]
        if admin is not None and admin != user.admin:
            user.admin = admin
            roles.assign_default_roles(user.db, entity=user.orm_user)
        if self.manage_groups:
            user.sync_groups(auth_model["groups"])
        await user.save_auth_state(auth_model["auth_state"])

    # Tokens

    async def access_token(self, user: Any, seconds: float = _TOKEN_SECONDS) -> Token:
        """The user's access token, renewed if it would not live for ``seconds``.

        Raises ``ProviderUnavailable``, and ``SignInRefused`` when the user has to sign in again.
        """
        try:
            tokens = await self._tokens(user, seconds)
        except (HTTPClientError, web.HTTPError) as error:
            if isinstance(error, SignInRefused):
                raise
            raise refusal.expired() from None
        ends = _ends(tokens)
        if ends is not None and ends <= time.time():
            raise refusal.expired()
        return Token(tokens["access_token"], datetime.fromtimestamp(ends, UTC) if ends else None)

    async def _tokens(self, user: Any, seconds: float, refused: str = "") -> dict[str, Any]:
        """The user's tokens, renewed where the access token ends within ``seconds`` or is the ``refused`` one.

        One at a time for each user, and kept before they are used: a provider takes a refresh token once.
        """
        async with self._renewing.setdefault(user.name, asyncio.Lock()):
            state = await self.auth_state_of(user)
            tokens = dict(state.get("token_response") or {})
            current, ends = tokens.get("access_token"), _ends(tokens)
            if current and current != refused and (ends is None or ends - time.time() > seconds):
                return tokens
            if not state.get("refresh_token"):
                if not current or current == refused:
                    raise web.HTTPError(403, "There is no token left.")
                return tokens
            try:
                return await self._renewed(user, state, tokens)
            except (ProviderUnavailable, HTTPClientError):
                if current and current != refused and ends and ends > time.time():
                    return tokens
                raise

    async def _renewed(self, user: Any, state: dict[str, Any], tokens: dict[str, Any]) -> dict[str, Any]:
        await self.discover()
        params = self.build_refresh_token_request_params(state["refresh_token"])
        tokens.pop("expires_at", None)
        tokens |= {"refresh_token": state["refresh_token"], **await self.get_token_info(None, params)}
        if not isinstance(tokens.get("access_token"), str):
            raise ProviderUnavailable(self.contact)
        names = ("access_token", "refresh_token", "id_token")
        fresh = {name: tokens[name] for name in names if tokens.get(name)}
        await user.save_auth_state({**state, **fresh, "token_response": tokens})
        return tokens

    async def _token_in_hand(self, user: Any) -> str:
        """The access token if it has not ended; nothing is asked."""
        tokens = (await self.auth_state_of(user)).get("token_response") or {}
        ends = _ends(tokens)
        return str(tokens.get("access_token") or "") if ends is None or ends > time.time() else ""


def _ends(tokens: Mapping[str, Any]) -> float | None:
    """When an access token ends, in seconds since the epoch, as far as the provider said."""
    ends = tokens.get("expires_at")
    return float(ends) if isinstance(ends, (int, float)) else None


def status_of(error: web.HTTPError | HTTPClientError) -> str:
    """An error's status for a log, without its text, which may hold a token response."""
    return f"HTTP {error.code if isinstance(error, HTTPClientError) else error.status_code}"
