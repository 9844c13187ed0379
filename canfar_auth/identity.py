"""Who a user is: frozen data, and its place in a hub user's ``auth_state``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

STATE_KEY = "canfar"
"""The key of ``auth_state`` under which an ``Identity`` is kept."""

USERNAME_PATTERN = r"[a-z0-9](?:[a-z0-9._@-]{0,62}[a-z0-9])?"
"""The names a site accepts unless it says otherwise; matched against the whole name.

Such a name has no separator of paths, of URLs or of shells, and escapes without loss to a DNS label.
"""


@dataclass(frozen=True, slots=True)
class GroupSet:
    """The groups somebody is in, as one source told at one time.

    ``groups`` are IVOA group identifiers (``ivo://<authority>/gms?<name>``), ``source`` names who said so
    (for a claim ``claim:<name>``), and ``as_of`` is an aware UTC time.
    """

    groups: frozenset[str]
    source: str
    as_of: datetime

    def __post_init__(self) -> None:
        if self.as_of.utcoffset() is None:
            raise ValueError("GroupSet.as_of has no time zone.")


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

    def is_same_person(self, other: Identity) -> bool:
        """Whether both are one (issuer, subject), whatever their names and groups say."""
        return (self.issuer, self.subject) == (other.issuer, other.subject)

    def to_state(self) -> dict[str, object]:
        """The JSON object kept in ``auth_state`` under ``STATE_KEY``; ``from_state`` reads it back."""
        return {
            "issuer": self.issuer,
            "subject": self.subject,
            "username": self.username,
            "full_name": self.full_name,
            "groups": {
                "groups": sorted(self.groups.groups),
                "source": self.groups.source,
                "as_of": self.groups.as_of.astimezone(UTC).isoformat(),
            },
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
        if groups and issuer and subject and username and isinstance(full_name, str):
            return cls(issuer, subject, username, full_name, groups)
        return None


def _groups_from_state(state: object) -> GroupSet | None:
    if not isinstance(state, Mapping):
        return None
    names, source, as_of = state.get("groups"), _text(state.get("source")), _text(state.get("as_of"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    if not source or not as_of:
        return None
    try:
        return GroupSet(frozenset(names), source, datetime.fromisoformat(as_of))
    except ValueError:
        return None


def _text(value: object) -> str | None:
    """``value`` if it is a string with something in it."""
    return value if isinstance(value, str) and value else None
