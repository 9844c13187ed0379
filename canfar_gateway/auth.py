"""Who calls and what they may enter: asks the hub, remembers its answers for a while, decides from scopes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import aiohttp

log = logging.getLogger(__name__)

T = TypeVar("T")

_SCOPE = "access:servers"
_PAGE = 200
_MAX_PAGES = 20
# The hub answers when it has posted every route.
_ROUTES_SECONDS = 60


class HubUnreachable(Exception):
    """The hub gave no usable answer, and none that was good before is still remembered."""


class TooManyAttempts(Exception):
    """This peer has shown too many tokens that the hub does not know."""


@dataclass(frozen=True)
class Caller:
    """The holder of a token, as the hub's `GET /user` describes it."""

    name: str
    groups: frozenset[str]
    scopes: frozenset[str]
    session_id: str
    """The hub's browser session that the token belongs to; empty for API tokens."""


@dataclass(frozen=True)
class Share:
    """Somebody with whom a server is shared: a user or a group, the other empty."""

    user: str
    group: str


@dataclass(frozen=True)
class Decision:
    """Whether a caller may enter; `caller` is None when the hub does not know the token."""

    caller: Caller | None
    allowed: bool


def scopes_allow(scopes: Collection[str], owner: str, server: str) -> bool:
    """Whether scopes alone open the server `owner/server`."""
    wanted = (_SCOPE, f"{_SCOPE}!user={owner}", f"{_SCOPE}!server={owner}/{server}")
    return any(scope in scopes for scope in wanted)


def scoped_groups(scopes: Collection[str]) -> frozenset[str]:
    """The groups whose members' servers the scopes open."""
    marker = f"{_SCOPE}!group="
    return frozenset(scope.removeprefix(marker) for scope in scopes if scope.startswith(marker))


def is_whole_user(caller: Caller) -> bool:
    """Whether the token stands for all that its user may enter; a narrowed one gets nothing from shares."""
    return f"{_SCOPE}!user={caller.name}" in caller.scopes


def shares_allow(shares: Collection[Share], caller: Caller) -> bool:
    """Whether one of a server's shares is with the caller or a group of theirs."""
    return any(
        (share.user and share.user == caller.name) or (share.group and share.group in caller.groups)
        for share in shares
    )


@dataclass(frozen=True)
class _Answer(Generic[T]):
    value: T | None
    asked: float
    fresh_until: float


class Memory(Generic[T]):
    """Answers by key: asked once at a time, kept `ttl` seconds, in an outage of the hub for `grace` seconds.

    None is an answer too ("the hub knows no such thing"), kept for at most `miss_ttl` seconds and never
    through an outage.
    """

    def __init__(
        self,
        ttl: float,
        *,
        miss_ttl: float = 5,
        grace: float = 600,
        retry: float = 2,
        size: int = 20_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl, self._miss_ttl, self._grace, self._retry = ttl, min(ttl, miss_ttl), grace, retry
        self._size, self._clock = size, clock
        self._answers: OrderedDict[object, _Answer[T]] = OrderedDict()
        self._asking: dict[object, asyncio.Task[T | None]] = {}
        self._epoch = 0

    def has_fresh(self, key: object) -> bool:
        """Whether `get` would answer without asking."""
        answer = self._answers.get(key)
        return answer is not None and self._clock() < answer.fresh_until

    def has_good(self, key: object) -> bool:
        """Whether the hub has ever answered for this key with something, and it is still remembered."""
        answer = self._answers.get(key)
        return answer is not None and answer.value is not None

    async def get(self, key: object, ask: Callable[[], Awaitable[T | None]]) -> T | None:
        """The remembered or a new answer. Raises HubUnreachable, as `ask` does, when there is neither."""
        answer = self._answers.get(key)
        if answer is not None and self._clock() < answer.fresh_until:
            return answer.value
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._ask(key, ask))
            task.add_done_callback(lambda done: self._asked(key, done))
        # A caller that goes away must not cancel the others' answer.
        return await asyncio.shield(task)

    def forget(self, matching: Callable[[T], bool]) -> None:
        """Drop the answers that match, and do not keep those being asked for now: they may be older."""
        for key in [k for k, a in self._answers.items() if a.value is not None and matching(a.value)]:
            del self._answers[key]
        self._asking.clear()
        self._epoch += 1

    def drop(self, key: object) -> None:
        """Drop the answer for one key, and do not keep one that is being asked for now."""
        self._answers.pop(key, None)
        self._asking.pop(key, None)
        self._epoch += 1

    async def _ask(self, key: object, ask: Callable[[], Awaitable[T | None]]) -> T | None:
        epoch, now = self._epoch, self._clock()
        try:
            value = await ask()
        except HubUnreachable:
            known = self._answers.get(key)
            if known is None or known.value is None or now - known.asked > self._grace:
                raise
            self._keep(key, replace(known, fresh_until=self._clock() + self._retry))
            return known.value
        if epoch == self._epoch:
            ttl = self._ttl if value is not None else self._miss_ttl
            self._keep(key, _Answer(value, now, self._clock() + ttl))
        return value

    def _keep(self, key: object, answer: _Answer[T]) -> None:
        self._answers[key] = answer
        self._answers.move_to_end(key)
        while len(self._answers) > self._size:
            self._answers.popitem(last=False)

    def _asked(self, key: object, done: asyncio.Task[T | None]) -> None:
        if self._asking.get(key) is done:
            del self._asking[key]
        if not done.cancelled():
            done.exception()  # Everybody who waited may be gone; that is no news for the log.


class Attempts:
    """A token bucket for each peer's wrong tokens, so that nobody makes the gateway flood the hub."""

    def __init__(
        self,
        *,
        burst: int = 30,
        per_second: float = 1,
        size: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._burst, self._rate, self._size, self._clock = burst, per_second, size, clock
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def _level(self, peer: str) -> float:
        spent, at = self._spent.get(peer, (0.0, 0.0))
        return max(0.0, spent - (self._clock() - at) * self._rate)

    def exhausted(self, peer: str) -> bool:
        """Whether the peer has to wait."""
        return self._level(peer) >= self._burst

    def failed(self, peer: str) -> None:
        """Note a wrong token."""
        self._spent[peer] = (self._level(peer) + 1, self._clock())
        self._spent.move_to_end(peer)
        while len(self._spent) > self._size:
            self._spent.popitem(last=False)


class HubClient:
    """The few calls of the hub's REST API that decisions need.

    With `own_url`, the address of this gateway's REST API, the hub posts routes there.
    """

    def __init__(
        self, http: aiohttp.ClientSession, api_url: str, token: str, *, own_url: str = "", parallel: int = 16
    ) -> None:
        self._http, self._url, self._token = http, api_url.rstrip("/"), token
        self._own_url = own_url
        self._gate = asyncio.Semaphore(parallel)

    async def caller(self, token: str) -> Caller | None:
        """Whom a token belongs to, or None when the hub refuses it. Raises HubUnreachable."""
        if not (token.isascii() and token.isprintable()):
            return None
        model = await self._get("/user", token)
        if model is None:
            return None
        try:
            return Caller(
                name=str(model["name"]),
                groups=frozenset(map(str, model.get("groups") or ())),
                scopes=frozenset(map(str, model["scopes"])),
                session_id=str(model.get("session_id") or ""),
            )
        except (KeyError, TypeError):
            raise HubUnreachable from None

    async def groups(self, user: str) -> frozenset[str] | None:
        """The groups of a user; None when there is no such user. Raises HubUnreachable."""
        model = await self._get(f"/users/{quote(user, safe='')}", self._token)
        return None if model is None else frozenset(map(str, model.get("groups") or ()))

    async def shares(self, owner: str, server: str) -> tuple[Share, ...] | None:
        """With whom a server is shared; None when there is no such server. Raises HubUnreachable."""
        shares: list[Share] = []
        offset: int | None = 0
        for _ in range(_MAX_PAGES):
            path = f"/shares/{quote(owner, safe='')}/{quote(server, safe='')}?limit={_PAGE}&offset={offset}"
            model = await self._get(path, self._token)
            if model is None:
                return None
            shares += _shares_of(model)
            following = (model.get("_pagination") or {}).get("next")
            if not following:
                break
            offset = int(following["offset"])
        return tuple(shares)

    async def exchange(self, form: dict[str, str]) -> str | None:
        """An access token for an authorisation code, or None when the hub refuses it. Raises HubUnreachable."""
        try:
            async with self._http.post(f"{self._url}/oauth2/token", data=form) as response:
                if response.status >= 500:
                    raise HubUnreachable
                if response.status != 200:
                    return None
                return str((await response.json())["access_token"])
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise HubUnreachable from error

    async def send_routes(self) -> bool:
        """Have the hub compare the table with what runs and post what is missing; it answers when that is done.

        With an own address the hub is told it first, and posts routes there from now on.

        False when it does not let the gateway ask for that. Raises HubUnreachable.
        """
        headers = {"Authorization": f"token {self._token}"}
        limit = aiohttp.ClientTimeout(total=_ROUTES_SECONDS)
        try:
            method, body = ("PATCH", {"api_url": self._own_url}) if self._own_url else ("POST", None)
            async with self._http.request(
                method, f"{self._url}/proxy", json=body, headers=headers, timeout=limit
            ) as response:
                if response.status in (401, 403, 404):
                    return False
                if response.status != 200:
                    raise HubUnreachable
                return True
        except (aiohttp.ClientError, TimeoutError) as error:
            raise HubUnreachable from error

    async def _get(self, path: str, token: str) -> dict[str, Any] | None:
        headers = {"Authorization": f"token {token}"}
        try:
            async with (
                self._gate,
                self._http.get(self._url + path, headers=headers, allow_redirects=False) as response,
            ):
                if response.status in (400, 401, 403, 404):
                    if response.status == 403 and token == self._token and path != "/user":
                        log.warning("The hub does not let the gateway read %s: check its role.", path)
                    return None
                if response.status != 200:
                    raise HubUnreachable
                model = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise HubUnreachable from error
        if not isinstance(model, dict):
            raise HubUnreachable
        return model


def _shares_of(model: dict[str, Any]) -> list[Share]:
    return [
        Share((item.get("user") or {}).get("name", ""), (item.get("group") or {}).get("name", ""))
        for item in model.get("items", ())
        if any(str(scope).partition("!")[0] == _SCOPE for scope in item.get("scopes", ()))
    ]


class Authority:
    """Decides who enters which session."""

    def __init__(self, hub: HubClient, *, ttl: float) -> None:
        self.ttl = ttl
        self._hub = hub
        self._callers: Memory[Caller] = Memory(ttl)
        self._groups: Memory[frozenset[str]] = Memory(ttl)
        self._shares: Memory[tuple[Share, ...]] = Memory(ttl)
        self._attempts = Attempts()

    async def decide(self, token: str, owner: str, server: str, *, peer: str = "") -> Decision:
        """Whether the token opens the server `owner/server`; `peer` is set for tokens of unknown origin.

        Raises HubUnreachable, and TooManyAttempts for a peer that shows many wrong tokens.
        """
        caller = await self._caller(token, peer)
        if caller is None:
            return Decision(None, allowed=False)
        return Decision(caller, await self._may_enter(caller, owner, server))

    def end_session(self, session_id: str) -> None:
        """Forget the decisions of one browser session of the hub, at once."""
        if session_id:
            self._callers.forget(lambda caller: caller.session_id == session_id)

    def forget_shares(self) -> None:
        """Forget with whom sessions are shared, at once: somebody may have been let in."""
        self._shares.forget(lambda shares: True)

    def begins_or_ends(self, owner: str, server: str) -> None:
        """Forget with whom one server is shared: an invitation is for what ran, not for what runs next."""
        self._shares.drop((owner, server))

    async def _caller(self, token: str, peer: str) -> Caller | None:
        asks = not self._callers.has_fresh(token)
        if asks and peer and self._attempts.exhausted(peer) and not self._callers.has_good(token):
            raise TooManyAttempts
        caller = await self._callers.get(token, lambda: self._hub.caller(token))
        if caller is None and asks and peer:
            self._attempts.failed(peer)
        return caller

    async def _may_enter(self, caller: Caller, owner: str, server: str) -> bool:
        if scopes_allow(caller.scopes, owner, server):
            return True
        groups = scoped_groups(caller.scopes)
        if groups:
            members = await self._groups.get(owner, lambda: self._hub.groups(owner))
            if groups & (members or frozenset()):
                return True
        if not is_whole_user(caller):
            return False
        shares = await self._shares.get((owner, server), lambda: self._hub.shares(owner, server))
        return shares_allow(shares or (), caller)
