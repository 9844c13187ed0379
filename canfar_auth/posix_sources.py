"""Who says somebody's numeric ids: the provider's claims, a posix-mapper service, or our own allocator."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from canfar_auth.allocator import Allocator, AllocatorSource
from canfar_auth.claims import find_claim
from canfar_auth.identity import Identity, PosixIds
from canfar_auth.outbound import Outbound, Unavailable
from canfar_auth.posix import PosixRefused, checked, is_usable, read_id
from canfar_site.settings import Posix

log = logging.getLogger("canfar.posix")

_BATCH = 20  # groups in one request to a posix-mapper: request lines have a limit


class PosixSource(Protocol):
    """Whoever says which number somebody has."""

    async def ids(
        self,
        person: Identity,
        groups: Collection[str],
        token: str,
        claims: Mapping[str, object],
        last: PosixIds | None,
    ) -> PosixIds:
        """The ids of ``person`` in ``groups``; ``last`` are those told before, and ids never change.

        A group whose number is not known or must not be used is left out, and named in the log.

        Raises ``PosixRefused`` for a user's number that must not be used, and ``Unavailable`` while nobody
        can say it.
        """
        ...


def make_source(settings: Posix, outbound: Outbound, database_url: str) -> PosixSource:
    """The source that a site chose."""
    if settings.source == "claims":
        return ClaimsSource(settings)
    if settings.source == "mapper":
        return MapperSource(settings.mapper or "", outbound)
    return AllocatorSource(Allocator(database_url, settings.uids, settings.gids))


class ClaimsSource:
    """Ids that the provider states in a person's claims."""

    def __init__(self, settings: Posix) -> None:
        self._settings = settings

    async def ids(
        self,
        person: Identity,
        groups: Collection[str],
        token: str,
        claims: Mapping[str, object],
        last: PosixIds | None,
    ) -> PosixIds:
        """As ``PosixSource`` says; without any claims, since the provider is down, what it told last."""
        if not claims and last is not None:
            return _within(last, groups)
        uid = self._own(claims, self._settings.uid_claim)
        gid = self._own(claims, self._settings.gid_claim)
        gids = self._gids(claims, groups)
        _log_missing(person, groups, gids)
        return checked(person.username, uid, gid, gids)

    def _own(self, claims: Mapping[str, object], name: str) -> int:
        value = read_id(find_claim(claims, name))
        if value is None:
            raise PosixRefused(
                f"The identity provider says no number for you as “{name}”; ask for your account there to be"
                " given one."
            )
        return value

    def _gids(self, claims: Mapping[str, object], groups: Collection[str]) -> dict[str, int]:
        value = find_claim(claims, self._settings.gids_claim)
        if not isinstance(value, Mapping):
            return {}
        said = {group: read_id(value.get(_key_for(group, groups, value))) for group in groups}
        return {group: gid for group, gid in said.items() if gid is not None and group in groups}


def _key_for(group: str, groups: Collection[str], value: Mapping[str, object]) -> str:
    """The key of a group in an object: its identifier, else its name where no other group has that."""
    name = group.rpartition("?")[2]
    alone = sum(other.rpartition("?")[2] == name for other in groups) == 1
    return name if group not in value and alone else group


class MapperSource:
    """Ids of an OpenCADC posix-mapper, asked with the user's own token; what it has said is kept for ever."""

    def __init__(self, base: str, outbound: Outbound) -> None:
        self._base, self._outbound = base.rstrip("/"), outbound
        self._users: dict[str, tuple[int, int]] = {}
        self._gids: dict[str, int] = {}

    async def ids(
        self,
        person: Identity,
        groups: Collection[str],
        token: str,
        claims: Mapping[str, object],
        last: PosixIds | None,
    ) -> PosixIds:
        """As ``PosixSource`` says."""
        name = person.username
        try:
            await self._learn(name, groups, token)
        except Unavailable as error:
            if last is None and name not in self._users:
                raise
            log.warning("The posix-mapper does not say all ids of %s: %s", name, error)
        known = {group.group: group.gid for group in last.groups} if last else {}
        known |= {group: self._gids[group] for group in groups if group in self._gids}
        gids = {group: known[group] for group in groups if group in known}
        _log_missing(person, groups, gids)
        if name not in self._users and last is not None:
            return checked(name, last.uid, last.gid, gids)
        return checked(name, *self._users[name], gids)

    async def _learn(self, name: str, groups: Collection[str], token: str) -> None:
        """Asks for what was never said; of an answer that breaks off, what came is kept."""
        if name not in self._users:
            self._users[name] = await self._ask_user(name, token)
        asked = [group for group in groups if group not in self._gids]
        for start in range(0, len(asked), _BATCH):
            await self._ask_groups(asked[start : start + _BATCH], token)

    async def _ask_user(self, name: str, token: str) -> tuple[int, int]:
        rows = [row for row in await self._rows("uid", [("user", name)], 3, token) if row[0] == name]
        if len({*map(tuple, rows)}) != 1:
            raise Unavailable("The posix-mapper's answer does not say who the user is.")
        uid, gid = _numbers(rows[0][1:])
        checked(name, uid, gid, {})  # what must not be used is asked again, not kept
        return uid, gid

    async def _ask_groups(self, groups: Sequence[str], token: str) -> None:
        said: dict[str, int] = {}
        for group, text in await self._rows("gid", [("group", group) for group in groups], 2, token):
            (gid,) = _numbers([text])
            if group in groups and said.setdefault(group, gid) != gid:
                raise Unavailable("The posix-mapper's answer contradicts itself.")
        self._gids |= {group: gid for group, gid in said.items() if is_usable(gid)}

    async def _rows(
        self, what: str, params: list[tuple[str, str]], columns: int, token: str
    ) -> list[list[str]]:
        answer = await self._outbound.get(
            f"{self._base}/{what}", token=token, params=params, accept="text/tab-separated-values"
        )
        if answer.status != 200:
            raise Unavailable(f"The posix-mapper answered {answer.status} when asked for a {what}.")
        rows = [line.rstrip("\r").split("\t") for line in answer.text.split("\n") if line.strip()]
        if any(len(row) != columns for row in rows):
            raise Unavailable(f"The posix-mapper's answer is no table of {columns} columns.")
        return rows


def _numbers(texts: Sequence[str]) -> list[int]:
    numbers = [value for value in map(read_id, texts) if value is not None]
    if len(numbers) != len(texts):
        raise Unavailable("The posix-mapper's answer holds an id that is no number.")
    return numbers


def _within(ids: PosixIds, groups: Collection[str]) -> PosixIds:
    return PosixIds(ids.uid, ids.gid, tuple(group for group in ids.groups if group.group in groups))


def _log_missing(person: Identity, groups: Collection[str], gids: Mapping[str, int]) -> None:
    if missing := sorted(set(groups) - gids.keys()):
        log.warning("Left out for %s, since nobody says their ids: %s.", person.username, missing)
