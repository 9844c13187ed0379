"""Sign-in by OpenID Connect for a JupyterHub whose groups are IVOA groups.

A thin ``GenericOAuthenticator``. Each override says which upstream behaviour it changes and why.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import jwt
from tornado import web
from tornado.httpclient import HTTPClientError
from traitlets import Any as AnyTrait
from traitlets import List, Set, TraitError, Unicode, default, validate

from canfar_auth import binding, refusal
from canfar_auth.claims import ClaimsReader, is_group_identifier
from canfar_auth.discovery import DiscoveryError, Provider, discovery_url, is_safe_url, read_document
from canfar_auth.gms import GmsClient
from canfar_auth.handlers import (
    CanfarCallbackHandler,
    CanfarLoginHandler,
    CanfarLogoutHandler,
    nonce_of,
)
from canfar_auth.identity import STATE_KEY, USERNAME_PATTERN, Identity, Membership
from canfar_auth.outbound import Outbound, Unavailable
from canfar_auth.posix_sources import make_source
from canfar_auth.refresh import RefreshingOAuthenticator, reading, status_of
from canfar_auth.refusal import ProviderUnavailable, SignInRefused
from canfar_auth.resolver import Resolver
from canfar_auth.tokens import TokenRefused, TokenVerifier, is_jwt
from canfar_site.settings import Groups, Posix

# A sign-in waits for the provider, and a page waits for a refresh: neither may hang as long as tornado would.
_CONNECT_SECONDS = 5
_REQUEST_SECONDS = 10
# A longer ID token does not go into an address: proxies cut or refuse request lines above 8 KiB.
_LONGEST_HINT = 4096

_LONGEST_SUBJECT = 255  # OpenID Connect Core 1.0 section 2


class CanfarOAuthenticator(RefreshingOAuthenticator):
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
    groups = AnyTrait(
        Groups(),
        config=True,
        help="""
        Which claims and which group service list a person's groups, how their names become IVOA identifiers,
        and what holds while they do not answer: a mapping with the keys of the site file's `groups`.
        """,
    )
    posix = AnyTrait(
        None,
        allow_none=True,
        config=True,
        help="""
        Where numeric user and group ids come from: a mapping with the keys of the site file's `posix`. None,
        people have no such ids.
        """,
    )
    token_hosts = Set(
        Unicode(),
        config=True,
        help="""
        Hosts that may be sent a user's token, beside the provider: `host`, `host:port` or `*.example.org`.
        """,
    )
    audiences = Set(
        Unicode(),
        config=True,
        help="""
        Audiences of the provider's access tokens that clients may use here directly; empty, none may.
        """,
    )
    companions = List(
        config=True,
        help="""
        Callables that are given the hub (`JupyterHub`) before it serves: how a distribution starts work of its
        own beside the hub's, such as reading memberships again of users who make no requests.
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
    _bearers: TokenVerifier | None = None

    # Upstream leaves the first two off. The hub's groups are the point of this class, and without auth_state
    # there is neither an identity to keep nor a membership to read again.

    @default("manage_groups")
    def _manage_groups_default(self) -> bool:
        return True

    @default("enable_auth_state")
    def _enable_auth_state_default(self) -> bool:
        return True

    # A removal is to be effective for API tokens too, and before each start; upstream lets both pass.

    @default("auth_refresh_strict")
    def _auth_refresh_strict_default(self) -> bool:
        return True

    @default("refresh_pre_spawn")
    def _refresh_pre_spawn_default(self) -> bool:
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

    @validate("groups", "posix")
    def _validate_settings(self, proposal: Any) -> Groups | Posix | None:
        if proposal.value is None:
            return None
        model = Groups if proposal.trait.name == "groups" else Posix
        try:
            settings = model.model_validate(proposal.value)
            if isinstance(settings, Groups):
                ClaimsReader(settings)
            return settings
        except ValueError as error:
            raise TraitError(f"{proposal.trait.name}: {error}") from None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not self.issuer:
            name = type(self).__name__
            raise TraitError(f"{name}.issuer is not set; give the address of the OpenID provider.")
        self._discovering = asyncio.Lock()

    def get_handlers(self, app: Any) -> list[Any]:
        """Upstream's handlers behind ``first_handlers``: the hub takes the first pattern that fits."""
        for companion in self.companions:
            companion(app)
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
            self.log.warning("The identity provider refused a sign-in: %s.", status_of(error))
            raise refusal.refused_by_provider(self.contact) from None
        return auth_model

    async def get_authenticated_user(self, handler: Any, data: Any) -> Any:
        """Upstream's steps; then the name belongs to this account, since now it is known to be let in."""
        auth_model = await super().get_authenticated_user(handler, data)
        identity = auth_model and Identity.from_state(auth_model["auth_state"].get(STATE_KEY))
        if identity:
            try:
                binding.bind(self.db, identity.issuer, identity.subject, identity.username)
            except binding.Taken:
                raise refusal.taken_username(identity.username, self.contact) from None
        return auth_model

    def delete_user(self, user: Any) -> None:
        """Upstream's step; the name is free for another account."""
        super().delete_user(user)
        binding.release(self.db, user.name)

    async def get_token_info(self, handler: Any, params: dict[str, Any]) -> dict[str, Any]:
        """Upstream's tokens, of which the ID token has to answer this browser's request.

        Its nonce is checked (OpenID Connect Core 1.0 section 3.1.3.7, point 11).
        """
        token_info: dict[str, Any] = await super().get_token_info(handler, params)
        seconds = token_info.get("expires_in")
        if isinstance(seconds, (int, float)) and not isinstance(seconds, bool):
            token_info["expires_at"] = time.time() + seconds
        if params.get("grant_type") == "authorization_code":
            nonce = _claim_of(token_info.get("id_token"), "nonce")
            if nonce not in (_NO_ID_TOKEN, nonce_of(handler.get_state_cookie())):
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
        if not isinstance(subject, str) or not 0 < len(subject) <= _LONGEST_SUBJECT:
            self.log.error("The identity provider's answer about a user holds no usable subject.")
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

    @cached_property
    def db(self) -> Any:
        """The hub's database session."""
        session = self.parent.db
        binding.prepare(session)
        return session

    @cached_property
    def resolver(self) -> Resolver:
        """Asks this site's sources who somebody is."""
        # Somebody's page waits for these, so a service that hangs gets ten seconds in all.
        outbound = Outbound(self.token_hosts | {urlsplit(self.issuer).netloc}, seconds=5, attempts=2)
        return Resolver(
            self.issuer,
            self.groups,
            self._group_service(outbound),
            make_source(self.posix, outbound, self.parent.db_url) if self.posix else None,
        )

    def _group_service(self, outbound: Outbound) -> GmsClient | None:
        service = self.groups.gms
        if service is None or self.groups.merge == "claims":
            return None
        resource = service.resource or f"ivo://{self.groups.authority}/gms"
        longest = timedelta(seconds=self.groups.round_seconds)
        return GmsClient(service, outbound, resource=resource, longest=longest)

    async def update_auth_model(self, auth_model: dict[str, Any]) -> dict[str, Any]:
        """Put the identity under ``canfar`` into upstream's state, and the name it has here in the model.

        Raises ``SignInRefused`` for a name that another (issuer, subject) signed in with before: names can be
        handed on at a provider, and an account's files must not go with them.
        """
        state = auth_model["auth_state"]
        claims = state[self.user_auth_state_key]
        name = self.name_of(claims, auth_model["name"])
        if reading.get() not in ("", name):
            raise web.HTTPError(403, "The tokens are another account's by now.")
        known = await self.known_identity(name)
        identity = await self.resolver.resolve(claims, state["access_token"], name, known)
        return self._model(identity, {**state, STATE_KEY: identity.to_state()})

    def name_of(self, claims: Mapping[str, Any], claimed: str) -> str:
        """The hub's name for an account: that of its first sign-in, whatever it is called now."""
        try:
            return binding.name_for(self.db, self.issuer, claims["sub"], claimed)
        except binding.Taken:
            raise refusal.taken_username(claimed, self.contact) from None

    async def known_identity(self, username: str) -> Identity | None:
        """The identity from the user's last sign-in or refresh; ``None`` when none is kept of this provider."""
        user = self.parent.users.get(username)
        return Identity.from_state((await self.auth_state_of(user)).get(STATE_KEY)) if user else None

    def _model(self, identity: Identity, state: dict[str, Any]) -> dict[str, Any]:
        admin = True if identity.username in self.admin_users else None
        return {"name": identity.username, "admin": admin, "auth_state": state}

    # What they may

    def trusted(self, identity: Identity) -> Any:
        """The identity's groups without those that have been in doubt for too long."""
        return identity.groups.trusted(datetime.now(UTC), timedelta(seconds=self.groups.patience))

    async def get_user_groups(self, auth_state: dict[str, Any]) -> set[str]:
        """The identity's groups; ``auth_state_groups_key`` is not used.

        Upstream logs an error for an absent claim, and lets through any string as a group.
        """
        identity = Identity.from_state(auth_state.get(STATE_KEY))
        return set(self.trusted(identity).groups) if identity else set()

    async def check_allowed(self, username: str, auth_model: dict[str, Any] | None) -> bool:
        """Upstream's ways in, and ``platform_groups``.

        Raises ``SignInRefused``: 403 with the groups to join, or 503 when it cannot be known whether they are
        in one of them.
        """
        if await super().check_allowed(username, auth_model):
            return True
        identity = Identity.from_state(((auth_model or {}).get("auth_state") or {}).get(STATE_KEY))
        wanted = self.platform_groups | self.admin_groups
        member = self.trusted(identity).membership(wanted) if identity else Membership.NO
        if member is Membership.YES:
            return True
        if member is Membership.UNKNOWN and identity:
            raise refusal.undecided(identity.groups.reason, self.contact)
        raise refusal.not_a_member(username, self.platform_groups or self.admin_groups, self.contact)

    # Tokens that clients show

    async def verify_bearer(self, token: str) -> Identity:
        """Who holds an access token of the provider, shown to this site directly (RFC 6750).

        It has to be a JWT for one of ``audiences``: of an opaque token nobody here could tell for whose
        service it was made. Raises ``SignInRefused``: 401 for a token that is not accepted, and as at sign-in.
        """
        provider = await self.discover()
        if not self.audiences or not is_jwt(token):
            raise refusal.bad_token("It is no token for this site.")
        try:
            claims = dict(await self._verifier(provider).claims(token))
        except TokenRefused as error:
            raise refusal.bad_token(str(error)) from None
        except Unavailable as error:
            self.log.warning("The provider's keys cannot be had: %s", error)
            raise ProviderUnavailable(self.contact) from None
        if not isinstance(claims.get("sub"), str) or not 0 < len(claims["sub"]) <= _LONGEST_SUBJECT:
            raise refusal.bad_token("It has no subject.")
        if self.username_claim not in claims or self.resolver.asks_userinfo(claims):
            claims |= await self._user_info(token, claims["sub"])
        name = self.name_of(claims, self.normalize_username(self.user_info_to_username(claims)))
        identity = await self.resolver.resolve(claims, token, name, await self.known_identity(name))
        model = self._model(identity, {STATE_KEY: identity.to_state()})
        await self.check_allowed(name, await self._apply_managed_groups(model))
        return identity

    async def _user_info(self, token: str, subject: str) -> dict[str, Any]:
        """The user information for a token, which has to be about its subject."""
        try:
            claims = await self.token_to_user({"access_token": token, "token_type": "Bearer"})
        except (HTTPClientError, web.HTTPError) as error:
            if isinstance(error, SignInRefused):
                raise
            raise refusal.bad_token("The provider does not take it.") from None
        if claims["sub"] != subject:
            raise refusal.bad_token("It is another subject's.")
        return claims

    def _verifier(self, provider: Provider) -> TokenVerifier:
        if self._bearers is None:
            keys = Outbound({urlsplit(provider.jwks_uri).netloc})  # the provider's word, never a token's
            self._bearers = TokenVerifier(self.issuer, self.audiences, provider.jwks_uri, keys)
        return self._bearers


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
