"""Work beside the hub's requests: memberships of users who make none, sessions' ends and use, credentials."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from jupyterhub import orm
from sqlalchemy.orm import Session, selectinload

from canfar_auth.delegation import Certificate, CredClient
from canfar_auth.outbound import Outbound, Unavailable
from canfar_auth.refresh import Token
from canfar_auth.refusal import ProviderUnavailable, SignInRefused
from canfar_site.settings import Site
from canfar_spawner import collector, desktops, metrics
from canfar_spawner.credentials import CredentialStore, Renewer, Running, SignInNeeded, Status
from canfar_spawner.planned import UPKEEP, PlannedSpawner
from canfar_spawner.spec import Refused

log = logging.getLogger("canfar.upkeep")

_LEAST_SECONDS = 60  # that a token should live which a certificate is asked for with
_AT_ONCE = 5  # users whose memberships are read side by side: the provider and the loop have others to serve


class Upkeep:
    """Rounds over the users with running sessions. The hub itself reads memberships only upon requests.

    ``store`` is where the credentials of sessions are kept.
    """

    _app: Any
    _renewer: Renewer
    _delegation: Delegation

    def __init__(self, site: Site, store: CredentialStore) -> None:
        self._site, self.store = site, store
        self._adopting, self._adopted = asyncio.Lock(), False
        self._task: asyncio.Task[None] | None = None
        self._held: list[orm.User] = []

    def start(self, app: Any) -> None:
        """Begin rounds in this hub; they end with its event loop, or with `stop`."""
        self._app, self._held = app, owners(app.db)
        app.tornado_settings[UPKEEP] = self  # where sessions find their credentials
        self._delegation = Delegation(app, self._site)
        self._renewer = Renewer(self._site.credentials, self._delegation, self.store)
        self._renewer.measure()
        metrics.expect(self._site.kinds)
        self._task = asyncio.ensure_future(self._rounds())

    def stop(self) -> None:
        """End the rounds."""
        if self._task:
            self._task.cancel()

    async def _rounds(self) -> None:
        collector.settle()
        while True:
            await asyncio.sleep(self._site.groups.round_seconds)
            self._held = []
            try:
                await self.round()
            except Exception:  # one round that fails must not be the last
                log.exception("A round over the running sessions failed; the next one follows.")
            collector.rest(busy=any(spawner.pending for spawner in self._every()))

    async def round(self) -> None:
        """Reads again what is due, and ends the sessions whose time has come."""
        every = [s for s in self._every() if isinstance(s, PlannedSpawner)]
        for kind in {type(spawner) for spawner in every}:
            await kind.sweep(every)
        apps = [spawner for spawner in every if spawner.ready and desktops.is_app(spawner)]
        await desktops.end_all(app for app in apps if desktops.desktop_of(app) is None)
        running = [spawner for spawner in every if spawner.ready and spawner.spec]
        users = {spawner.user.name: spawner.user for spawner in running}
        await each(users.values(), self._app.authenticator.reread_if_due, "membership of")
        unknown: dict[str, datetime] = {}
        await each(running, partial(self._review, unknown), "session of")
        metrics.groups_unknown(unknown.values())
        now = datetime.now(UTC)
        await each(running, lambda spawner: spawner.look_for_use(now), "use of")
        await (await self.credentials()).renew_due()

    async def credentials(self) -> Renewer:
        """What keeps credentials fresh; it has taken over those of sessions that run since before the hub."""
        async with self._adopting:
            if not self._adopted:
                await self._renewer.adopt(self._adoptable())
                self._adopted = True
        return self._renewer

    async def access_token(self, owner: str) -> str:
        """A user's access token, for a request in their name; raises ``Unavailable`` where there is none."""
        try:
            return (await self._delegation.access_token(owner, _LEAST_SECONDS)).value
        except SignInNeeded as needed:
            raise Unavailable(str(needed)) from None

    def credential_status(self, owner: str) -> Status | None:
        """What a user's running sessions have; None if none runs."""
        return self._renewer.status(owner)

    def _adoptable(self) -> dict[str, Running]:
        found: dict[str, Running] = {}
        for record in self._app.db.query(orm.Spawner).filter(orm.Spawner.server != None):  # noqa: E711
            spawner = self._app.users[record.user].spawners[record.name]
            if isinstance(spawner, PlannedSpawner) and spawner.spec:
                owner = spawner.user.name
                others = found[owner].sessions if owner in found else frozenset()
                try:
                    ids = spawner.account(spawner.spec)
                except Refused:  # it began when the hub ran under another account
                    log.warning("Session %s has no credentials any more.", spawner._log_name)
                    continue
                found[owner] = Running(others | {spawner.spec.id}, ids)
        return found

    def _every(self) -> list[Any]:
        return [spawner for user in list(self._app.users.values()) for spawner in user.spawners.values()]

    async def _review(self, unknown: dict[str, datetime], spawner: PlannedSpawner) -> None:
        groups = await spawner.review(datetime.now(UTC))
        if groups is not None and not groups.complete:
            unknown[spawner.user.name] = groups.as_of
        if spawner.is_over(datetime.now(UTC)) and not spawner.pending:
            log.warning("Session %s ends: %s", spawner._log_name, spawner.notice)
            await self._app.proxy.delete_user(spawner.user, spawner.name)
            await spawner.user.stop(spawner.name)


def owners(db: Session) -> list[orm.User]:
    """The users with running sessions, read at once.

    The hub holds them too loosely as it takes its sessions back: it reads each again, with five queries. While
    somebody holds them, it does not.
    """
    running = orm.User._orm_spawners.any(orm.Spawner.server != None)  # noqa: E711
    found = db.query(orm.User).filter(running).options(selectinload(orm.User._orm_spawners))
    return list(found)


class Delegation:
    """Gets credentials with the users' own tokens; see ``CredentialSource``."""

    def __init__(self, app: Any, site: Site) -> None:
        self._app = app
        self._cred = CredClient(site.credentials, Outbound(site.token_hosts)) if site.credentials.cred else None

    async def access_token(self, owner: str, seconds: float) -> Token:
        """The user's access token; raises ``Unavailable`` and ``SignInNeeded``."""
        try:
            token: Token = await self._app.authenticator.access_token(self._app.users[owner], seconds)
            return token
        except ProviderUnavailable:
            raise Unavailable("The identity provider does not answer.") from None
        except SignInRefused as refused:
            raise SignInNeeded(refused.jupyterhub_message) from None

    async def certificate(self, owner: str) -> Certificate:
        """A new certificate; raises ``CertificateRefused`` besides."""
        identity = await self._app.authenticator.known_identity(owner)
        if identity is None or self._cred is None:
            raise SignInNeeded("It is not known who you are at the identity provider; sign in again.")
        token = await self.access_token(owner, _LEAST_SECONDS)
        return await self._cred.certificate(token.value, identity.username, identity.subject)


async def each(things: Iterable[Any], work: Callable[[Any], Awaitable[Any]], what: str) -> None:
    """Does the work for all, some at a time; a failure of one is logged and stops no other."""
    left = iter(things)

    async def worker() -> None:
        for thing in left:
            try:
                await work(thing)
            except Exception:
                log.exception("The round failed for the %s %s.", what, getattr(thing, "user", thing).name)

    await asyncio.gather(*(worker() for _ in range(_AT_ONCE)))
