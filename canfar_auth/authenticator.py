"""Sign-in by OpenID Connect for a JupyterHub whose groups are IVOA groups.

A thin ``GenericOAuthenticator``. Each override says which upstream behaviour it changes and why.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode, urljoin

import jwt
from oauthenticator.generic import GenericOAuthenticator
from oauthenticator.oauth2 import (
    OAuthCallbackHandler,
    OAuthLoginHandler,
    OAuthLogoutHandler,
    _deserialize_state,
)
from tornado import web
from tornado.httpclient import HTTPClientError
from traitlets import List, Set, TraitError, Unicode, default, validate

from canfar_auth import refusal
from canfar_auth.claims import is_group_identifier, read_groups_claim
from canfar_auth.discovery import DiscoveryError, Provider, discovery_url, is_safe_url, read_document
from canfar_auth.identity import STATE_KEY, USERNAME_PATTERN, GroupSet, Identity
from canfar_auth.refusal import ProviderUnavailable, SignInRefused

# A sign-in waits for the provider, and a page waits for a refresh: neither may hang as long as tornado would.
_CONNECT_SECONDS = 5
_REQUEST_SECONDS = 10
# A longer ID token does not go into an address: proxies cut or refuse request lines above 8 KiB.
_LONGEST_HINT = 4096

# Whether the provider failed to answer during the refresh that runs in this context.
_outage: ContextVar[bool] = ContextVar("canfar_provider_outage", default=False)


class CanfarLoginHandler(OAuthLoginHandler):
    """Finds the provider's endpoints first, which upstream has from configuration, and sends a nonce."""

    async def get(self) -> None:
        """Send the browser to the provider, or say in a sentence why not."""
        await self.authenticator.discover()
        super().get()

    def authorize_redirect(self, *args: Any, extra_params: dict[str, str], **kwargs: Any) -> None:
        """Upstream's redirect with a nonce (OpenID Connect Core 1.0 section 3.1.2.1); some providers insist."""
        extra_params = {"nonce": _nonce_of(extra_params["state"]), **extra_params}
        super().authorize_redirect(*args, extra_params=extra_params, **kwargs)


class CanfarCallbackHandler(OAuthCallbackHandler):
    """Says in sentences what upstream says in codes, and repeats nothing that a link's author wrote."""

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log a refusal without the address, which carries the code."""
        if isinstance(value, SignInRefused):
            self.log.warning("Sign-in refused: %s", value.jupyterhub_message)
        else:
            super().log_exception(typ, value, tb)

    def check_error(self) -> None:
        """Refuse an error response (RFC 6749 section 4.1.2.1); ``error_description`` is anybody's text."""
        error = self.get_argument("error", "")
        if error == "access_denied":
            raise refusal.cancelled()
        if error:
            self.log.warning("The identity provider ended a sign-in with error %s.", ascii(error)[:80])
            raise refusal.refused_by_provider(self.authenticator.contact)

    def check_arguments(self) -> None:
        """Upstream's checks of error, code and state, with one sentence for a state that is not ours."""
        try:
            super().check_arguments()
        except SignInRefused:
            raise
        except web.HTTPError:
            raise refusal.stale() from None


class CanfarLogoutHandler(OAuthLogoutHandler):
    """Signs out of the provider too, where it can; upstream only knows a fixed address for that."""

    _id_token = ""

    async def handle_logout(self) -> None:
        """Remember the ID token while the user is still known."""
        await super().handle_logout()
        state = await self.current_user.get_auth_state() if self.current_user else None
        self._id_token = str((state or {}).get("id_token") or "")

    async def render_logout_page(self) -> None:
        """Send the browser to the provider's end of session, or show the hub's own page."""
        authenticator = self.authenticator
        if not authenticator.logout_redirect_url:
            try:
                await authenticator.discover()
            except SignInRefused:
                self.log.warning("A user signed out of the hub only: the identity provider cannot be asked.")
            else:
                url = authenticator.end_session_url(self, self._id_token)
                if url:
                    self.redirect(url)
                    return
        await super().render_logout_page()


class CanfarOAuthenticator(GenericOAuthenticator):
    """Signs people in at one OpenID provider and mirrors their IVOA groups as the hub's groups."""

    login_handler = CanfarLoginHandler
    callback_handler = CanfarCallbackHandler
    logout_handler = CanfarLogoutHandler

    issuer = Unicode(
        config=True,
        help="""
        The OpenID provider, exactly as its discovery document names itself: `https://iam.example.org/`.

        The endpoints are read from `<issuer>/.well-known/openid-configuration` when somebody first signs in,
        so the hub starts while the provider is down. An endpoint that is configured (`authorize_url`,
        `token_url`, `userdata_url`) is used instead of the discovered one.
        """,
    )
    groups_claim = Unicode(
        "groups",
        config=True,
        help="""
        The claim that lists a person's groups; dots reach into nested claims, as in `realm_access.groups`.

        An array, or a string separated by spaces or commas. Entries are group identifiers
        (`ivo://example.org/gms?survey-x`) or plain names (`survey-x`); others are left out and logged.
        An absent claim means that the person is in no group.
        """,
    )
    groups_authority = Unicode(
        config=True,
        help="""
        The authority of groups that the claim gives by plain name: with `example.org`, `survey-x` is the
        group `ivo://example.org/gms?survey-x`. When empty, plain names are no groups.
        """,
    )
    platform_groups = Set(
        Unicode(),
        config=True,
        help="""
        The groups whose members may sign in, as IVOA identifiers: being in one of them is enough. Members of
        `admin_groups` may sign in too. Everybody else is refused with the names of these groups.
        """,
    ).tag(allow_config=True)
    contact = Unicode(
        config=True,
        help="""
        Whom people ask when they are refused, such as `help@example.org`: the sentence "ask ... to be added"
        names it.
        """,
    )
    username_pattern = Unicode(
        USERNAME_PATTERN,
        config=True,
        help="""
        Regular expression that the whole of a normalised name has to match; others are refused at sign-in.
        """,
    )
    first_handlers = List(
        config=True,
        help="""
        Handlers that come before every handler of the hub, as `(pattern, handler)` or
        `(pattern, handler, {keyword: value})`, with patterns below the hub's prefix. This is how a
        distribution replaces one of the hub's own pages, such as `/spawn`.
        """,
    )

    _provider: Provider | None = None

    # Upstream leaves the first two off. The hub's groups are the point of this class, and without auth_state
    # there is neither an identity to keep nor a membership to read again.

    @default("manage_groups")
    def _manage_groups_default(self) -> bool:
        return True

    @default("enable_auth_state")
    def _enable_auth_state_default(self) -> bool:
        return True

    @default("scope")
    def _scope_default(self) -> list[str]:
        return ["openid", "profile", "email"]

    @default("username_claim")
    def _username_claim_default(self) -> str:
        return "preferred_username"

    @default("login_service")
    def _login_service_default(self) -> str:
        return "OpenID Connect"

    @validate("issuer")
    def _validate_issuer(self, proposal: Any) -> str:
        issuer = str(proposal.value)
        if issuer and (not is_safe_url(issuer) or "?" in issuer):
            raise TraitError(f"issuer is {issuer!r}; it has to be an https address without a query.")
        return issuer

    @validate("platform_groups", "admin_groups")
    def _validate_groups(self, proposal: Any) -> set[str]:
        for group in proposal.value:
            if not is_group_identifier(group):
                raise TraitError(
                    f"{proposal.trait.name} has {group!r}; a group is written ivo://example.org/gms?name."
                )
        return set(proposal.value)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not self.issuer:
            name = type(self).__name__
            raise TraitError(f"{name}.issuer is not set; give the address of the OpenID provider.")
        self._discovering = asyncio.Lock()
        self._refreshing: dict[str, asyncio.Task[Any]] = {}

    def get_handlers(self, app: Any) -> list[Any]:
        """Upstream's handlers behind ``first_handlers``: the hub takes the first pattern that fits."""
        return [tuple(handler) for handler in self.first_handlers] + list(super().get_handlers(app))

    # The provider

    async def discover(self) -> Provider:
        """The provider's endpoints, fetched once and kept; tried again at each sign-in until it answers.

        Raises ``SignInRefused``: 503 while the provider is down, 502 when its document must not be used
        (OpenID Connect Discovery 1.0 section 4).
        """
        async with self._discovering:
            if self._provider is None:
                try:
                    document = await self.httpfetch(discovery_url(self.issuer), "fetching its description")
                    self.use_provider(read_document(document, self.issuer))
                except (DiscoveryError, HTTPClientError) as error:
                    self.log.error("The provider %s cannot be used. %s", self.issuer, error)
                    raise refusal.provider_misconfigured(self.contact) from None
            assert self._provider is not None  # noqa: S101
            return self._provider

    def use_provider(self, provider: Provider) -> None:
        """Set upstream's endpoint traits from ``provider``; what the site configured stays."""
        endpoints = {
            "authorize_url": provider.authorization_endpoint,
            "token_url": provider.token_endpoint,
            "userdata_url": "" if self.userdata_from_id_token else provider.userinfo_endpoint,
        }
        for trait, url in endpoints.items():
            if url and not getattr(self, trait):
                setattr(self, trait, url)
        # A provider that takes no secret in the body gets it in the header.
        if "client_secret_post" not in provider.token_auth_methods:
            self.basic_auth = True
        self._provider = provider

    def end_session_url(self, handler: Any, id_token: str) -> str:
        """Where signing out of the provider starts (OpenID Connect RP-Initiated Logout 1.0 section 2).

        Empty when the provider has no such place. The person comes back to the hub's sign-in page, an
        address that has to be registered with the provider.
        """
        if self._provider is None or not self._provider.end_session_endpoint:
            return ""
        query = {
            "client_id": self.client_id,
            "post_logout_redirect_uri": urljoin(self.get_callback_url(handler), "login"),
        }
        if 0 < len(id_token) <= _LONGEST_HINT:
            query["id_token_hint"] = id_token
        endpoint = self._provider.end_session_endpoint
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"

    async def httpfetch(self, url: str, label: str = "fetching", **kwargs: Any) -> Any:
        """Upstream's fetch with time limits, no redirects, and one exception for "no answer".

        A redirect could carry a token elsewhere. A 4xx stays upstream's ``HTTPClientError``, because it is an
        answer (but for "too slow" and "too many"); all else (no connection, 5xx, no JSON object) is
        ``ProviderUnavailable``.
        """
        limits = {
            "connect_timeout": _CONNECT_SECONDS,
            "request_timeout": _REQUEST_SECONDS,
            "follow_redirects": False,
        }
        try:
            answer = await super().httpfetch(url, label, **{**limits, **self.http_request_kwargs, **kwargs})
            if isinstance(answer, dict) or not kwargs.get("parse_json", True):
                return answer
            reason = "the answer is no JSON object"
        except HTTPClientError as error:
            if 400 <= error.code < 500 and error.code not in (408, 429):
                raise
            reason = str(error)
        except (OSError, json.JSONDecodeError) as error:
            reason = type(error).__name__
        _outage.set(True)
        self.log.warning("No answer from the identity provider while %s: %s.", label, reason)
        raise ProviderUnavailable(self.contact)

    # Who it is

    async def authenticate(self, handler: Any, data: Any = None, **kwargs: Any) -> Any:
        """Upstream's steps, after discovery, and with a sentence where the provider says no.

        Raises ``SignInRefused``.
        """
        await self.discover()
        try:
            auth_model = await super().authenticate(handler, data, **kwargs)
        except SignInRefused:
            raise
        except (web.HTTPError, HTTPClientError) as error:
            # Upstream's own text may hold the token response, so it stays out of the page and the log.
            self.log.warning("The identity provider refused a sign-in: %s.", _status_of(error))
            raise refusal.refused_by_provider(self.contact) from None
        await self.check_binding(handler, auth_model)
        return auth_model

    async def get_token_info(self, handler: Any, params: dict[str, Any]) -> dict[str, Any]:
        """Upstream's tokens, of which the ID token has to answer this browser's request.

        Its nonce is checked (OpenID Connect Core 1.0 section 3.1.3.7, point 11).
        """
        token_info: dict[str, Any] = await super().get_token_info(handler, params)
        if params.get("grant_type") == "authorization_code":
            nonce = _claim_of(token_info.get("id_token"), "nonce")
            if nonce not in (_NO_ID_TOKEN, _nonce_of(handler.get_state_cookie())):
                raise web.HTTPError(403, "The ID token answers another sign-in.")
        return token_info

    async def token_to_user(self, token_info: dict[str, Any]) -> dict[str, Any]:
        """Upstream's claims, of which the subject is checked.

        A subject is required, and has to be the ID token's (OpenID Connect Core 1.0 section 5.3.2).
        """
        if not isinstance(token_info, dict) or not isinstance(token_info.get("access_token"), str):
            raise web.HTTPError(403, "The token response holds no access token.")
        token_info.setdefault("token_type", "Bearer")
        claims = await super().token_to_user(token_info)
        subject = claims.get("sub")
        if not isinstance(subject, str) or not subject:
            _outage.set(True)
            self.log.error("The identity provider's answer about a user holds no subject.")
            raise ProviderUnavailable(self.contact)
        if _claim_of(token_info.get("id_token"), "sub") not in (_NO_ID_TOKEN, subject):
            raise web.HTTPError(403, "The ID token is about another subject than the user information.")
        return dict(claims)

    def user_info_to_username(self, user_info: Mapping[str, Any]) -> str:
        """Upstream's claim, or the subject where it is absent.

        Raises ``SignInRefused`` for a name that cannot be used here.
        """
        claim = self.username_claim
        name = claim(user_info) if callable(claim) else user_info.get(claim)
        name = name or user_info["sub"]
        if not isinstance(name, str) or not self.validate_username(self.normalize_username(name)):
            raise refusal.bad_username(name, self.contact)
        return name

    def validate_username(self, username: str) -> bool:
        """Upstream's rules, with ``username_pattern`` for the whole name (upstream: its beginning)."""
        if not username.isprintable() or not super().validate_username(username):
            return False
        return not self.username_pattern or re.fullmatch(self.username_pattern, username) is not None

    def identity_of(self, user_info: Mapping[str, Any]) -> Identity:
        """The identity that a set of claims states, as of now."""
        username = self.normalize_username(self.user_info_to_username(user_info))
        claim = read_groups_claim(user_info, self.groups_claim, self.groups_authority)
        if claim.dropped:
            self.log.warning(
                "The claim %s of %s holds what is no group: %s.",
                self.groups_claim,
                username,
                ", ".join(claim.dropped[:5]),
            )
        full_name = user_info.get("name")
        return Identity(
            issuer=self.issuer,
            subject=user_info["sub"],
            username=username,
            full_name=full_name if isinstance(full_name, str) and full_name.isprintable() else username,
            groups=GroupSet(claim.groups, f"claim:{self.groups_claim}", datetime.now(UTC)),
        )

    def build_auth_state_dict(self, token_info: dict[str, Any], user_info: dict[str, Any]) -> dict[str, Any]:
        """Upstream's keys, and the identity under ``canfar``."""
        state = dict(super().build_auth_state_dict(token_info, user_info))
        state[STATE_KEY] = self.identity_of(user_info).to_state()
        return state

    # What they may

    async def get_user_groups(self, auth_state: dict[str, Any]) -> set[str]:
        """The identity's groups; ``auth_state_groups_key`` is not used.

        Upstream logs an error for an absent claim, and lets through any string as a group.
        """
        identity = Identity.from_state(auth_state.get(STATE_KEY))
        return set(identity.groups.groups) if identity else set()

    async def check_allowed(self, username: str, auth_model: dict[str, Any] | None) -> bool:
        """Upstream's ways in, and ``platform_groups``; raises ``SignInRefused`` with the groups to join."""
        if await super().check_allowed(username, auth_model):
            return True
        if self.platform_groups & set((auth_model or {}).get("groups") or ()):
            return True
        raise refusal.not_a_member(username, self.platform_groups or self.admin_groups, self.contact)

    async def check_binding(self, handler: Any, auth_model: dict[str, Any]) -> None:
        """Refuse a name that another (issuer, subject) signed in with before.

        Names can be handed on at a provider, and an account's files must not go with them.
        """
        user = handler.find_user(auth_model["name"])
        known = await self.known_identity(user) if user else None
        fresh = Identity.from_state(auth_model["auth_state"].get(STATE_KEY))
        if known and fresh and not known.is_same_person(fresh):
            raise refusal.taken_username(auth_model["name"], self.contact)

    async def known_identity(self, user: Any) -> Identity | None:
        """The identity from the user's last sign-in or refresh; ``None`` when none is kept."""
        return Identity.from_state((await user.get_auth_state() or {}).get(STATE_KEY))

    # Reading the membership again

    async def refresh_user(self, user: Any, handler: Any = None, **kwargs: Any) -> Any:
        """Upstream's refresh, shared by the requests of one user that arrive together.

        A refresh token that is used up by one request must not sign out the others.
        """
        task = self._refreshing.get(user.name)
        if task is None:
            task = asyncio.ensure_future(self._refresh_user(user, handler, **kwargs))
            self._refreshing[user.name] = task
            task.add_done_callback(lambda _: self._refreshing.pop(user.name, None))
        refreshed = await asyncio.shield(task)
        return dict(refreshed) if isinstance(refreshed, dict) else refreshed

    async def _refresh_user(self, user: Any, handler: Any, **kwargs: Any) -> Any:
        """Upstream's answer, except that "no answer" keeps the user as they are.

        Upstream raises, which fails the user's request, or asks for a new sign-in, which is as impossible.
        """
        _outage.set(False)
        known = await self.known_identity(user)
        try:
            await self.discover()
            refreshed = await super().refresh_user(user, handler, **kwargs)
        except ProviderUnavailable:
            return True
        except (web.HTTPError, HTTPClientError) as error:
            self.log.warning("%s has to sign in again: %s.", user.name, _status_of(error))
            return _outage.get()
        if isinstance(refreshed, dict):
            fresh = Identity.from_state((refreshed.get("auth_state") or {}).get(STATE_KEY))
            return refreshed if not (known and fresh) or known.is_same_person(fresh) else False
        return refreshed or _outage.get()


_NO_ID_TOKEN = object()


def _claim_of(id_token: object, claim: str) -> object:
    """A claim of an ID token that came straight from the token endpoint, hence unchecked signature.

    ``_NO_ID_TOKEN`` when the provider sent none, ``None`` when it lacks the claim or is none.
    """
    if not id_token:
        return _NO_ID_TOKEN
    try:
        return jwt.decode(str(id_token), options={"verify_signature": False}).get(claim)
    except jwt.InvalidTokenError:
        return None


def _nonce_of(state: str) -> str:
    """The nonce of the sign-in that ``state`` belongs to; the cookie and the address hold the same state."""
    state_id = str(_deserialize_state(state).get("state_id"))
    return hashlib.sha256(f"nonce {state_id}".encode()).hexdigest()


def _status_of(error: web.HTTPError | HTTPClientError) -> str:
    return f"HTTP {error.code if isinstance(error, HTTPClientError) else error.status_code}"
