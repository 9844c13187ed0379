"""Who a user is: frozen data, and its place in a hub user's ``auth_state``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TypeGuard

STATE_KEY = "canfar"
"""The key of ``auth_state`` under which an ``Identity`` is kept."""

USERNAME_PATTERN = r"[a-z0-9](?:[a-z0-9._@-]{0,62}[a-z0-9])?"
"""The names a site accepts unless it says otherwise; matched against the whole name.

Such a name has no separator of paths, of URLs or of shells, and escapes without loss to a DNS label.
"""


class Membership(Enum):
    """Whether somebody is in a group. ``UNKNOWN`` grants nothing new and takes nothing away."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class GroupSet:
    """The groups somebody is in, as one source told at one time, or as merged from several.

    ``groups`` are IVOA group identifiers (``ivo://<authority>/gms?<name>``), and ``source`` names who said so
    (``claims``, ``gms`` or both). Times are aware, in UTC: ``as_of`` is when the oldest answer in it was given,
    and until ``fresh_until``, where its source said one, it need not be asked again.

    ``complete`` says whether somebody who is not listed is known to be no member. ``doubted`` are those of
    ``groups`` that were told the last time their source answered, which it does no longer; ``reason`` then says
    why, as a sentence for the user.
    """

    groups: frozenset[str]
    source: str
    as_of: datetime
    complete: bool = True
    doubted: frozenset[str] = frozenset()
    reason: str = ""
    fresh_until: datetime | None = None

    def __post_init__(self) -> None:
        if self.as_of.utcoffset() is None:
            raise ValueError("GroupSet.as_of has no time zone.")
        if not self.doubted <= self.groups:
            raise ValueError("GroupSet.doubted holds what is not in groups.")

    @classmethod
    def unknown(cls, source: str, now: datetime, reason: str, last: GroupSet | None = None) -> GroupSet:
        """What is known while ``source`` does not answer: the groups it told last, all of them in doubt."""
        if last is None:
            return cls(frozenset(), source, now, complete=False, reason=reason)
        return cls(last.groups, source, last.as_of, complete=False, doubted=last.groups, reason=reason)

    def membership(self, wanted: Collection[str]) -> Membership:
        """Whether in at least one of ``wanted``; a doubted group still counts (see ``trusted``)."""
        if self.groups & set(wanted):
            return Membership.YES
        return Membership.NO if self.complete else Membership.UNKNOWN

    def trusted(self, now: datetime, patience: timedelta) -> GroupSet:
        """This set without the groups that have been in doubt for longer than ``patience``."""
        if not self.doubted or now - self.as_of <= patience:
            return self
        return replace(self, groups=self.groups - self.doubted, doubted=frozenset())


@dataclass(frozen=True, slots=True)
class PosixGroup:
    """A group as the file system knows it: ``name`` is its short name in ``/etc/group``."""

    group: str
    name: str
    gid: int


@dataclass(frozen=True, slots=True)
class PosixIds:
    """Numeric ids: of the user, of their private primary group, and of the groups they are in."""

    uid: int
    gid: int
    groups: tuple[PosixGroup, ...] = ()


@dataclass(frozen=True, slots=True)
class Identity:
    """One person as the provider knows them.

    ``issuer`` and ``subject`` together never change and never pass to another person (OpenID Connect
    Core 1.0 section 5.7); ``username`` is the hub's name, already normalised.
    """

    issuer: str
    subject: str
    username: str
    full_name: str
    groups: GroupSet
    answers: tuple[GroupSet, ...] = ()
    """What each source told last; ``groups`` is merged from them."""
    posix: PosixIds | None = None

    def to_state(self) -> dict[str, object]:
        """The JSON object kept in ``auth_state`` under ``STATE_KEY``; ``from_state`` reads it back."""
        return {
            "issuer": self.issuer,
            "subject": self.subject,
            "username": self.username,
            "full_name": self.full_name,
            "groups": _groups_to_state(self.groups),
            "answers": [_groups_to_state(answer) for answer in self.answers],
            "posix": _posix_to_state(self.posix),
        }

    @classmethod
    def from_state(cls, state: object) -> Identity | None:
        """The identity that ``to_state`` wrote; ``None`` for anything absent or malformed.

        Keys it does not know are passed over, so that an older hub reads what a newer one wrote.
        """
        if not isinstance(state, Mapping):
            return None
        groups = _groups_from_state(state.get("groups"))
        issuer, subject = _text(state.get("issuer")), _text(state.get("subject"))
        username, full_name = _text(state.get("username")), state.get("full_name")
        if not (groups and issuer and subject and username and isinstance(full_name, str)):
            return None
        told = state.get("answers")
        answers = [_groups_from_state(answer) for answer in told] if isinstance(told, list) else []
        return cls(
            issuer=issuer,
            subject=subject,
            username=username,
            full_name=full_name,
            groups=groups,
            answers=tuple(answer for answer in answers if answer),
            posix=_posix_from_state(state.get("posix")),
        )


def _groups_to_state(told: GroupSet) -> dict[str, object]:
    return {
        "groups": sorted(told.groups),
        "source": told.source,
        "as_of": told.as_of.astimezone(UTC).isoformat(),
        "complete": told.complete,
        "doubted": sorted(told.doubted),
        "reason": told.reason,
        "fresh_until": told.fresh_until.astimezone(UTC).isoformat() if told.fresh_until else None,
    }


def _groups_from_state(state: object) -> GroupSet | None:
    if not isinstance(state, Mapping):
        return None
    names, doubted = state.get("groups"), state.get("doubted", [])
    source, as_of = _text(state.get("source")), _text(state.get("as_of"))
    reason, fresh_until = _text(state.get("reason")), _text(state.get("fresh_until"))
    if not (source and as_of and _are_texts(names) and _are_texts(doubted)):
        return None
    try:
        return GroupSet(
            groups=frozenset(names),
            source=source,
            as_of=datetime.fromisoformat(as_of),
            complete=state.get("complete", True) is True,
            doubted=frozenset(doubted),
            reason=reason or "",
            fresh_until=datetime.fromisoformat(fresh_until) if fresh_until else None,
        )
    except ValueError:
        return None


def _posix_to_state(posix: PosixIds | None) -> dict[str, object] | None:
    if posix is None:
        return None
    return {
        "uid": posix.uid,
        "gid": posix.gid,
        "groups": [[group.group, group.name, group.gid] for group in posix.groups],
    }


def _posix_from_state(state: object) -> PosixIds | None:
    if not isinstance(state, Mapping) or not isinstance(state.get("groups"), list):
        return None
    uid, gid = state.get("uid"), state.get("gid")
    groups = [_posix_group_from_state(group) for group in state["groups"]]
    if not (_is_number(uid) and _is_number(gid)) or None in groups:
        return None
    return PosixIds(uid, gid, tuple(group for group in groups if group))


def _posix_group_from_state(state: object) -> PosixGroup | None:
    if not isinstance(state, list) or len(state) != 3 or not _are_texts(state[:2]) or not _is_number(state[2]):
        return None
    return PosixGroup(*state)


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _text(value: object) -> str | None:
    """``value`` if it is a string with something in it."""
    return value if isinstance(value, str) and value else None
