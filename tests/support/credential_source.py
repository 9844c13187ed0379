"""A source of credentials, a store of them and a clock that do as tests say, and what tests look at."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from canfar_auth.delegation import Certificate
from canfar_auth.identity import PosixIds
from canfar_auth.refresh import Token
from canfar_site.settings import Credentials
from canfar_spawner.credential_folders import FolderStore
from canfar_spawner.credentials import EXPIRES, CredentialStore, Held, Renewer, Status
from tests.support.cred_server import NOW

CRED = "https://cred.example.org/cred/generate"
BOTH = Credentials(cred=CRED)
SECRET = "hunter2"
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)


class Clock:
    """A clock that moves when a test says so."""

    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> datetime:
        return self.time

    def pass_(self, time: timedelta) -> None:
        self.time += time


class Source:
    """Gives numbered credentials, or what `faults` says for an owner; waits while `gate` is closed."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.faults: dict[str, Exception] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.certificates: list[str] = []
        self.tokens: list[tuple[str, float]] = []
        self.days: float = 7
        self.token_life: timedelta | None = HOUR
        self.at_once = self.most_at_once = 0

    async def certificate(self, owner: str) -> Certificate:
        self.certificates.append(owner)
        await self._turn(owner)
        end = self.clock() + self.days * DAY
        pem = f"certificate {len(self.certificates)} of {owner} with {SECRET}\n"
        names = ("CN=1,CN=" + owner, "CN=" + owner, "CN=Test authority")
        return Certificate(pem, *names, self.clock(), end, is_proxy=True)

    async def access_token(self, owner: str, seconds: float) -> Token:
        self.tokens.append((owner, seconds))
        await self._turn(owner)
        end = self.clock() + self.token_life if self.token_life else None
        return Token(f"token {len(self.tokens)} of {owner} with {SECRET}", end)

    async def _turn(self, owner: str) -> None:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await asyncio.sleep(0)
            await self.gate.wait()
            if owner in self.faults:
                raise self.faults[owner]
        finally:
            self.at_once -= 1


class FailingStore(FolderStore):
    """Fails for the owners that a test names."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.faults: dict[str, Exception] = {}

    async def write(
        self,
        owner: str,
        sessions: Collection[str],
        files: Mapping[str, str | None],
        ids: PosixIds | None,
    ) -> None:
        self._fail(owner)
        await super().write(owner, sessions, files, ids)

    async def remove(self, owner: str, session: str, left: Collection[str]) -> None:
        self._fail(owner)
        await super().remove(owner, session, left)

    async def read(self, owner: str) -> str:
        self._fail(owner)
        return await super().read(owner)

    def _fail(self, owner: str) -> None:
        if owner in self.faults:
            raise self.faults[owner]


def renewer_of(source: Source, store: CredentialStore, settings: Credentials = BOTH, **how: Any) -> Renewer:
    return Renewer(settings, source, store, now=source.clock, chance=lambda: 1.0, **how)


def state(store: FolderStore, owner: str = "astronomer") -> dict[str, Any]:
    told: dict[str, Any] = json.loads((store.folder(owner) / EXPIRES).read_text())
    return told


def names(store: FolderStore, owner: str = "astronomer") -> set[str]:
    folder = store.folder(owner)
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def certificate_of(status: Status | None) -> Held:
    assert status is not None
    assert status.certificate is not None
    return status.certificate
