"""From what the provider, the group service and the source of ids say to one Identity."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from canfar_auth.claims import ClaimsReader
from canfar_auth.gms import GmsClient
from canfar_auth.identity import GroupSet, Identity, PosixIds
from canfar_auth.membership import merge, with_last
from canfar_auth.outbound import Unavailable
from canfar_auth.posix import PosixRefused
from canfar_auth.posix_sources import PosixSource
from canfar_site.settings import Groups

log = logging.getLogger("canfar.identity")


class Resolver:
    """Asks every source of a site, and keeps what each told last while it does not answer."""

    def __init__(
        self,
        issuer: str,
        groups: Groups,
        gms: GmsClient | None,
        posix: PosixSource | None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.issuer, self.now = issuer, now
        self._merge, self._gms, self._posix = groups.merge, gms, posix
        self._patience = timedelta(seconds=groups.patience)
        self._claims = ClaimsReader(groups)

    def asks_userinfo(self, claims: Mapping[str, object]) -> bool:
        """Whether the claims of a token leave to the user information which groups there are."""
        return self._claims.read(claims, self.now(), from_userinfo=False).ask_userinfo

    async def resolve(
        self, claims: Mapping[str, object], token: str, username: str, known: Identity | None
    ) -> Identity:
        """The identity that the provider's ``claims`` state now; ``known`` is the same person's last one."""
        reading = self._claims.read(claims, self.now(), from_userinfo=True)
        if reading.dropped:
            log.warning("Claims of %s hold what is no group: %s.", username, ", ".join(reading.dropped[:5]))
        full_name = claims.get("name")
        identity = Identity(
            issuer=self.issuer,
            subject=str(claims["sub"]),
            username=username,
            full_name=full_name if isinstance(full_name, str) and full_name.isprintable() else username,
            groups=reading.groups,
        )
        told = with_last(reading.groups, self._last(known, "claims"))
        return await self._complete(identity, told, token, claims, known)

    async def in_doubt(self, known: Identity, token: str, reason: str) -> Identity:
        """The identity of somebody of whom the provider tells nothing now, nor without a token anybody else."""
        told = GroupSet.unknown("claims", self.now(), reason, self._last(known, "claims"))
        if token:
            return await self._complete(known, told, token, {}, known)
        answers = [told]
        if last := self._last(known, "gms"):
            answers.append(GroupSet.unknown("gms", self.now(), reason, last))
        return replace(known, answers=tuple(answers), groups=self._merged(answers))

    async def _complete(
        self,
        identity: Identity,
        told: GroupSet,
        token: str,
        claims: Mapping[str, object],
        known: Identity | None,
    ) -> Identity:
        answers = [told]
        if self._gms is not None:
            answers.append(await self._gms.groups(token, self._last(known, "gms")))
        groups = self._merged(answers)
        posix = await self._ids(identity, groups, token, claims, known.posix if known else None)
        return replace(identity, groups=groups, answers=tuple(answers), posix=posix)

    def _merged(self, answers: list[GroupSet]) -> GroupSet:
        return merge(answers[0], answers[1] if len(answers) > 1 else None, self._merge)

    async def _ids(
        self,
        identity: Identity,
        groups: GroupSet,
        token: str,
        claims: Mapping[str, object],
        last: PosixIds | None,
    ) -> PosixIds | None:
        """The numeric ids; the last known ones while their source does not answer, since they never change."""
        if self._posix is None:
            return None
        try:
            return await self._posix.ids(identity, sorted(groups.groups), token, claims, last)
        except (PosixRefused, Unavailable) as error:
            log.warning("No numeric ids for %s: %s", identity.username, error)
            return last

    def _last(self, known: Identity | None, source: str) -> GroupSet | None:
        """What a source told last, as far as it still counts: an old doubt would make what is told now old."""
        for answer in known.answers if known else ():
            if answer.source == source:
                return answer.trusted(self.now(), self._patience)
        return None
