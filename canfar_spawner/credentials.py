"""What sessions act with for their users elsewhere: a certificate and an access token, kept fresh.

`Renewer` decides when to ask a `CredentialSource` and keeps what it gets in a `CredentialStore`. Nothing secret
stays in memory, and whatever is told of a failure is a sentence without secrets.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from math import nan
from pathlib import Path
from typing import Protocol

from canfar_auth.delegation import Certificate, CertificateRefused
from canfar_auth.identity import PosixIds
from canfar_auth.outbound import Unavailable
from canfar_auth.refresh import Token
from canfar_site.settings import Credentials
from canfar_spawner import metrics

log = logging.getLogger("canfar.credentials")

CERTIFICATE = "cadcproxy.pem"
TOKEN = "access_token"  # noqa: S105 - a file's name
EXPIRES = "expires.json"
"""What there is and until when, as JSON, for users and for a hub that starts again; nothing secret."""
FILES = (CERTIFICATE, TOKEN, EXPIRES)

_NOUNS = {CERTIFICATE: "certificate", TOKEN: "access token"}
_LABELS = {CERTIFICATE: "certificate", TOKEN: "access_token"}
_CERTIFICATE_PART = 2 / 3  # of its life, after which a certificate is renewed,
_SPREAD = 0.1  # or earlier by up to this part, so that those of one morning are not renewed in one minute
_TOKEN_LEAD = timedelta(minutes=5)  # that a token is renewed before its end, or a third of its life
_TOKEN_UNKNOWN = timedelta(minutes=5)  # after which a token is asked for again whose end nobody said
_TOKEN_LEAST = 60  # seconds that a new session's token should live
_SOONEST = timedelta(seconds=10)
_PAUSE, _LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=1)


def environment(folder: Path | str, settings: Credentials) -> dict[str, str]:
    """The variables that tell programs where a session's credentials are; none for what the site has not."""
    variables = {}
    if settings.cred or settings.access_token:
        variables["CANFAR_CREDENTIALS"] = str(folder)
    if settings.cred:
        path = str(Path(folder) / CERTIFICATE)
        variables |= dict.fromkeys(("X509_USER_PROXY", "VOSPACE_CERTFILE", "CANFAR_CERTIFICATE"), path)
    return variables


class SignInNeeded(Exception):
    """The provider no longer takes the user's tokens: nothing can be had until they sign in."""


class CredentialSource(Protocol):
    """Where credentials come from. ``Unavailable`` and ``SignInNeeded`` may be raised by both."""

    async def access_token(self, owner: str, seconds: float) -> Token:
        """The user's access token; renewed, where that can be, if it would not live for ``seconds``."""

    async def certificate(self, owner: str) -> Certificate:
        """A new certificate of the user; raises ``CertificateRefused`` besides."""


# What somebody has


@dataclass(frozen=True, slots=True)
class Held:
    """One credential of a user, without itself. Times are aware, in UTC."""

    there: bool = False
    not_after: datetime | None = None
    """Its end; None if nobody said, or if there is none."""
    error: str = ""
    """Why the last attempt to get a new one failed: sentences for the user. Empty after a success."""
    due: datetime | None = None
    """When to get a new one; None for now."""
    failures: int = 0

    def is_valid(self, now: datetime) -> bool:
        """Whether it can be used."""
        return self.there and (self.not_after is None or now < self.not_after)

    def is_due(self, now: datetime) -> bool:
        """Whether a new one is to be had."""
        return self.due is None or now >= self.due

    def failed(self, error: str, now: datetime, chance: float) -> Held:
        """After an attempt that failed; ``chance`` is from 0 to 1. What has ended is no longer there."""
        pause = min(_PAUSE * 2 ** min(self.failures, 10), _LONGEST_PAUSE) * (0.5 + chance / 2)
        last = self if self.is_valid(now) else Held()
        due = min(now + pause, last.not_after or now + pause)  # at its end it is tried again, or removed
        return replace(last, error=error, due=due, failures=self.failures + 1)


@dataclass(frozen=True, slots=True)
class Status:
    """What a user's sessions have; None for what the site does not give."""

    certificate: Held | None
    token: Held | None
    checked: datetime


def refusal(status: Status, settings: Credentials) -> str:
    """Why a session must not start with these credentials; empty if it may."""
    if not settings.required or (status.certificate and status.certificate.is_valid(status.checked)):
        return ""
    why = status.certificate.error if status.certificate else "This site names no service that gives them."
    return (
        f"Sessions start only with a certificate here. {why} Try again in a few minutes, and tell the"
        " administrators of this site if it lasts."
    )


def certificate_due(not_after: datetime, owner: str, now: datetime) -> datetime:
    """When a certificate that came now is renewed."""
    number = int.from_bytes(hashlib.sha256(owner.encode()).digest()[:8]) / 2**64
    return max(now + (not_after - now) * (_CERTIFICATE_PART - _SPREAD * number), now + _SOONEST)


def token_due(not_after: datetime | None, now: datetime) -> datetime:
    """When an access token that came now is renewed."""
    if not_after is None:
        return now + _TOKEN_UNKNOWN
    return max(not_after - min(_TOKEN_LEAD, (not_after - now) / 3), now + _SOONEST)


class CredentialStore(Protocol):
    """Keeps the files of users' running sessions. Everything may raise ``OSError``, with its ``strerror``."""

    async def write(
        self,
        owner: str,
        sessions: Collection[str],
        files: Mapping[str, str | None],
        ids: PosixIds | None,
    ) -> None:
        """Replaces files, each whole, in all of the owner's ``sessions``; None removes one.

        Files that are not named stay, and a session that is new gets them, too.
        """

    async def remove(self, owner: str, session: str, left: Collection[str]) -> None:
        """Removes what belonged to a session that ended; ``left`` are the ones that the owner still has."""

    async def sweep(self, running: Mapping[str, Collection[str]]) -> None:
        """Removes whatever belongs to none of the running sessions of these owners."""

    async def read(self, owner: str) -> str:
        """The text of ``EXPIRES``; empty if there is none."""


# Keeping it fresh


@dataclass(frozen=True, slots=True)
class Running:
    """The sessions of one user that run, and the ids that they run under; None for the hub's own account."""

    sessions: frozenset[str]
    ids: PosixIds | None


@dataclass(slots=True)
class _Owner:
    sessions: set[str] = field(default_factory=set)
    served: set[str] = field(default_factory=set)
    """The sessions that the store has been told of."""
    ids: PosixIds | None = None
    held: dict[str, Held] = field(default_factory=dict)
    flights: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """Attempts under way: at most one for each credential, shared by all who want it."""
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Renewer:
    """Gets credentials at the start of sessions, renews them in time, and removes them with the last session.

    What is still valid is kept while its renewal fails; when it has ended, its file is removed. A start waits
    for what is missing for ``patience`` seconds; what comes later is put in place while the session runs.
    ``chance`` gives numbers from 0 to 1, and at most ``at_once`` renewals of one round run side by side.
    """

    def __init__(
        self,
        settings: Credentials,
        source: CredentialSource,
        store: CredentialStore,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        chance: Callable[[], float] = random.random,
        patience: float = 20,
        at_once: int = 8,
    ) -> None:
        self._source, self._store = source, store
        self._now, self._chance, self._patience, self._at_once = now, chance, patience, at_once
        self._names = [
            *([CERTIFICATE] if settings.cred else []),
            *([TOKEN] if settings.access_token else []),
        ]
        self._owners: dict[str, _Owner] = {}
        self._adopting = asyncio.Lock()  # nobody's session begins while leftovers are removed

    async def begin(self, owner: str, session: str, ids: PosixIds | None) -> Status:
        """Gives a session that starts what there is for its owner, and gets what is missing or due.

        ``ids`` are those that the owner's sessions run under; None for the hub's own account. Never raises for
        a fault of a service or of the store.
        """
        async with self._adopting:
            entry = self._owners.setdefault(owner, _Owner())
            entry.sessions.add(session)
            entry.ids = ids
        now = self._now()
        held = {name: entry.held.get(name, Held()) for name in self._names}
        missing = [name for name in self._names if not held[name].is_valid(now)]
        flights = {
            name: self._flight(owner, entry, name)
            for name in self._names
            if name in missing or held[name].is_due(now)
        }
        if missing:
            await asyncio.wait([flights[name] for name in missing], timeout=self._patience)
        if self._names:
            await self._tell(owner, entry, session)
        return self._status(entry, "It is still being asked for, and will be put in place when it comes.")

    async def end(self, owner: str, session: str) -> None:
        """Removes what a session had that ended; with the owner's last one, everything. Logs what stays."""
        entry = self._owners.setdefault(owner, _Owner())
        async with entry.writing:
            entry.sessions.discard(session)
            entry.served.discard(session)
            if not entry.sessions:
                entry.held = {}
            with _logged(f"Credentials of {owner} were not removed"):
                await self._store.remove(owner, session, frozenset(entry.sessions))
            if not entry.sessions and self._owners.get(owner) is entry:
                del self._owners[owner]

    async def adopt(self, running: Mapping[str, Running]) -> None:
        """After a start of the hub: takes over what its running sessions have, and removes all else.

        Asks nobody; the next round gets what is missing.
        """
        async with self._adopting:
            for owner, found in running.items():
                if found.sessions and owner not in self._owners:
                    entry = _Owner(set(found.sessions), set(found.sessions), found.ids)
                    self._owners[owner] = entry
                    await self._take_over(owner, entry)
            with _logged("Credentials that nobody uses were not removed"):
                await self._store.sweep({owner: set(entry.sessions) for owner, entry in self._owners.items()})

    async def renew_due(self) -> None:
        """One round: renews what is due for the owners of running sessions. One failure stops no other."""
        now = self._now()
        limit = asyncio.Semaphore(self._at_once)

        async def renew(owner: str, entry: _Owner, name: str) -> None:
            async with limit:
                if entry.sessions:
                    await asyncio.wait([self._flight(owner, entry, name)])

        await asyncio.gather(
            *(
                renew(owner, entry, name)
                for owner, entry in self._owners.items()
                for name in self._names
                if entry.held.get(name, Held()).is_due(now)
            )
        )

    def measure(self) -> None:
        """Has the hub's metrics tell, whenever they are read, what the sessions have."""
        for name in self._names:
            label = _LABELS[name]
            metrics.CREDENTIAL_END.labels(label).set_function(partial(self._first_end, name))
            metrics.CREDENTIALS_MISSING.labels(label).set_function(partial(self._missing, name))
            metrics.CREDENTIAL_FAILURES.labels(label)

    def _first_end(self, name: str) -> float:
        now = self._now()
        held = (entry.held.get(name) for entry in self._owners.values())
        ends = (one.not_after.timestamp() for one in held if one and one.not_after and one.is_valid(now))
        return min(ends, default=nan)

    def _missing(self, name: str) -> float:
        now = self._now()
        without = (e for e in self._owners.values() if not e.held.get(name, Held()).is_valid(now))
        return sum(len(entry.sessions) for entry in without)

    def status(self, owner: str) -> Status | None:
        """What the owner's running sessions have; None if none runs."""
        entry = self._owners.get(owner)
        return self._status(entry) if entry else None

    def _status(self, entry: _Owner, waiting: str = "") -> Status:
        now = self._now()

        def shown(name: str) -> Held | None:
            if name not in self._names:
                return None
            held = entry.held.get(name, Held())
            pending = waiting if name in entry.flights and not held.error else ""
            there = held.is_valid(now)
            not_after = held.not_after if there else None
            return replace(held, there=there, not_after=not_after, error=held.error or pending)

        return Status(shown(CERTIFICATE), shown(TOKEN), now)

    # One attempt

    def _flight(self, owner: str, entry: _Owner, name: str) -> asyncio.Task[None]:
        flight = entry.flights.get(name)
        if flight is None:
            flight = asyncio.ensure_future(self._renew(owner, entry, name))
            entry.flights[name] = flight
            flight.add_done_callback(lambda _: entry.flights.pop(name, None))
        return flight

    async def _renew(self, owner: str, entry: _Owner, name: str) -> None:
        """Gets one credential and puts it in place. Raises nothing."""
        before = entry.held.get(name, Held())
        try:
            text, not_after, due = await self._get(owner, name, before)
            if not_after is not None and not_after <= self._now():
                raise Unavailable("What came had ended already.")
            after, files = Held(True, not_after, due=due), {name: text}
            async with entry.writing:
                if entry.sessions:
                    await self._write(owner, entry, {**entry.held, name: after}, files)
        except Exception as error:
            why = _sentence(error, owner, name)
            log.warning("No new %s for %s: %s", _NOUNS[name], owner, why)
            metrics.CREDENTIAL_FAILURES.labels(_LABELS[name]).inc()
            await self._note_failure(owner, entry, name, why)

    async def _get(self, owner: str, name: str, before: Held) -> tuple[str, datetime | None, datetime]:
        """A new credential, its end, and when to renew it."""
        if name == CERTIFICATE:
            certificate = await self._source.certificate(owner)
            end = certificate.not_after
            return certificate.pem, end, certificate_due(end, owner, self._now())
        lead = (before.not_after - before.due).total_seconds() if before.not_after and before.due else 0
        token = await self._source.access_token(owner, max(lead, _TOKEN_LEAST))
        return token.value, token.expires, token_due(token.expires, self._now())

    async def _note_failure(self, owner: str, entry: _Owner, name: str, why: str) -> None:
        async with entry.writing:
            if not entry.sessions:
                return
            before = entry.held.get(name, Held())
            after = before.failed(f"{_told(name, before, self._now())} {why}", self._now(), self._chance())
            entry.held = {**entry.held, name: after}
            with _logged(f"Credentials of {owner} cannot be kept"):
                await self._write(owner, entry, entry.held, {} if after.there else {name: None})

    # The store

    async def _write(
        self, owner: str, entry: _Owner, held: dict[str, Held], files: Mapping[str, str | None]
    ) -> None:
        sessions = frozenset(entry.sessions)
        state = json.dumps(_to_state(held, self._now()), indent=1)
        await self._store.write(owner, sessions, {**files, EXPIRES: state + "\n"}, entry.ids)
        entry.held = held
        entry.served |= sessions

    async def _tell(self, owner: str, entry: _Owner, session: str) -> None:
        """Makes what there is known to a session that came after it."""
        async with entry.writing:
            if session in entry.served or session not in entry.sessions:
                return
            with _logged(f"Credentials of {owner} cannot be kept"):
                await self._write(owner, entry, entry.held, {})

    async def _take_over(self, owner: str, entry: _Owner) -> None:
        """What an earlier hub left to running sessions; without what the site no longer gives."""
        async with entry.writing:
            with _logged(f"Credentials of {owner} cannot be taken over"):
                found = _from_state(await self._store.read(owner))
                entry.held = {name: held for name, held in found.items() if name in self._names}
                if gone := {name: None for name in found if name not in self._names}:
                    await self._write(owner, entry, entry.held, gone)


@contextmanager
def _logged(failure: str) -> Iterator[None]:
    """Goes on after a fault of the store, and logs it; of what nobody foresaw without its text."""
    try:
        yield
    except Exception as error:
        log.error("%s: %s.", failure, getattr(error, "strerror", None) or _place(error))


def _place(error: Exception) -> str:
    """The kind of an error and where it was raised, without its text, which may hold secrets."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__)).rstrip()}"


def _sentence(error: Exception, owner: str, name: str) -> str:
    """Why an attempt failed, for the user; what nobody foresaw goes to the log, without its text."""
    if isinstance(error, (Unavailable, CertificateRefused, SignInNeeded)):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"It could not be written ({error.strerror})."
    log.error("Unforeseen for the %s of %s: %s", _NOUNS[name], owner, _place(error))
    return "Something went wrong that the administrators' log says more about."


def _told(name: str, before: Held, now: datetime) -> str:
    """What a failure means, before its reason."""
    noun = _NOUNS[name]
    if before.is_valid(now):
        until = (
            f" The one that you have is valid until {before.not_after:%Y-%m-%d %H:%M} UTC."
            if before.not_after
            else ""
        )
        return f"Your {noun} could not be renewed.{until}"
    if before.there:
        return f"Your {noun} has ended, and there is no new one."
    return f"There is no {noun} for you."


def _to_state(held: Mapping[str, Held], now: datetime) -> dict[str, object]:
    return {
        "checked": now.isoformat(),
        **{
            name: {
                "there": one.there,
                "not_after": one.not_after.isoformat() if one.not_after else None,
                "renewal": one.due.isoformat() if one.due else None,
                "error": one.error,
            }
            for name, one in held.items()
        },
    }


def _from_state(text: str) -> dict[str, Held]:
    """What `_to_state` wrote, as far as it can be read: what cannot is got again."""
    with suppress(ValueError, RecursionError):
        state = json.loads(text)
        if isinstance(state, dict):
            return {name: _held(state.get(name)) for name in _NOUNS if name in state}
    return {}


def _held(state: object) -> Held:
    match state:
        case {
            "there": True,
            "not_after": str() | None as end,
            "renewal": str() | None as due,
            "error": str() as error,
        }:
            with suppress(ValueError, OverflowError):
                return Held(True, _time(end), error, _time(due))
    return Held()


def _time(text: str | None) -> datetime | None:
    """An aware time; raises ``ValueError`` and ``OverflowError``."""
    if text is None:
        return None
    time = datetime.fromisoformat(text)
    if time.utcoffset() is None:
        raise ValueError("a time without its zone")
    return time.astimezone(UTC)
