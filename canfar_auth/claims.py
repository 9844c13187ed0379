"""OpenID Connect claims -> IVOA group identifiers. Pure: nothing here fetches, logs or raises."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from canfar_site.settings import GROUP_PATTERN, LONGEST_GROUP

# IVOA GMS 1.0 section 2: a group name is made of letters, digits, "-", ".", "_", "~" and ",".
_NAME = re.compile(r"[A-Za-z0-9\-._~,]+")
_IDENTIFIER = re.compile(GROUP_PATTERN)
_SEPARATORS = re.compile(r"[ ,]+")

_LONGEST_SHOWN = 80


@dataclass(frozen=True, slots=True)
class GroupsClaim:
    """What a claim says: the groups, and what in it is no group, as printable ASCII for a log."""

    groups: frozenset[str]
    dropped: tuple[str, ...] = ()


def is_group_identifier(text: str) -> bool:
    """Whether ``text`` is a GMS group identifier, ``ivo://<authority>/<path>?<name>`` (GMS 1.0 section 2)."""
    return len(text) <= LONGEST_GROUP and _IDENTIFIER.fullmatch(text) is not None


def group_identifier(text: str, authority: str) -> str | None:
    """The identifier that ``text`` stands for, or ``None`` when it is no group.

    A plain name becomes ``ivo://<authority>/gms?<name>``; an identifier stands for itself.
    """
    candidate = f"ivo://{authority}/gms?{text}" if _NAME.fullmatch(text) else text
    return candidate if is_group_identifier(candidate) else None


def read_groups_claim(claims: Mapping[str, object], claim: str, authority: str) -> GroupsClaim:
    """Read the groups that ``claims`` state under ``claim``.

    ``claim`` may be dotted (``realm_access.groups``); a key that itself holds dots is found first. The value
    is an array, or a string in which spaces or commas separate the groups. An absent claim states no groups.
    What is no group identifier and no group name is left out and listed in ``dropped``.
    """
    value = _look_up(claims, claim)
    if value is None:
        return GroupsClaim(frozenset())
    groups: set[str] = set()
    dropped: list[str] = []
    for entry in _entries(value):
        group = group_identifier(entry, authority) if isinstance(entry, str) else None
        if group is None:
            dropped.append(ascii(entry)[:_LONGEST_SHOWN])
        else:
            groups.add(group)
    return GroupsClaim(frozenset(groups), tuple(dropped))


def _look_up(claims: Mapping[str, object], name: str) -> object:
    if name in claims:
        return claims[name]
    for dot in (match.start() for match in re.finditer(r"\.", name)):
        inner = claims.get(name[:dot])
        if isinstance(inner, Mapping) and (found := _look_up(inner, name[dot + 1 :])) is not None:
            return found
    return None


def _entries(value: object) -> Iterable[object]:
    if isinstance(value, str):
        return [part for part in _SEPARATORS.split(value) if part]
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    return [value]
