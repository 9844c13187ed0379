"""OpenID Connect claims -> IVOA group identifiers. Pure: nothing here fetches or logs, and no claim raises."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from canfar_auth.identity import GroupSet
from canfar_site.settings import GROUP_PATTERN, LONGEST_GROUP, ClaimSource, GroupRule, Groups

# IVOA GMS 1.0 section 2: a group name is made of letters, digits, "-", ".", "_", "~" and ",".
_NAME = re.compile(r"[A-Za-z0-9\-._~,]+")
_IDENTIFIER = re.compile(GROUP_PATTERN)
_SEPARATORS = re.compile(r"[ ,]+")
_PLACE = re.compile(r"\{(\w+)\}")

# Some providers let their users name groups, and the site's regular expressions read those names.
_LONGEST_NAME = 1024
_LONGEST_SHOWN = 80

_NO_GROUP, _TOO_LONG, _COLLIDES = "no group", "too long", "differs from another only in case"

AMBIGUOUS = "Two of your groups have names that differ only in case; ask for one of them to be renamed."
"""Why it is unknown whether somebody is in such a group: sure is only that one of the two is not meant."""

_TOO_MANY = "The identity provider has too many groups of yours to list them."
_NOT_SAID = "The identity provider did not say which groups you are in."
_UNREADABLE = "The identity provider's list of your groups cannot be read."


@dataclass(frozen=True, slots=True)
class Reading:
    """What somebody's claims say.

    ``ask_userinfo``: they are of a token, and leave it to the user information which groups there are.
    ``dropped``: what is there and gives no group, with why, as printable ASCII for a log.
    """

    groups: GroupSet
    ask_userinfo: bool = False
    dropped: tuple[str, ...] = ()


def is_group_identifier(text: str) -> bool:
    """Whether ``text`` is a GMS group identifier, ``ivo://<authority>/<path>?<name>`` (GMS 1.0 section 2)."""
    return not _fault(text)


def group_identifier(text: str, authority: str) -> str | None:
    """The identifier that ``text`` stands for, or ``None`` when it is no group.

    A plain name becomes ``ivo://<authority>/gms?<name>``; an identifier stands for itself.
    """
    candidate = _qualified(text, authority)
    return candidate if is_group_identifier(candidate) else None


def find_claim(claims: Mapping[str, object], name: str) -> object:
    """The value of the claim with this dotted name; ``None`` if it is absent or null.

    A key that itself holds the dots (``wlcg.groups``, ``https://example.org/groups``) is found first.
    """
    value = claims.get(name)
    if value is not None:
        return value
    for dot in (match.start() for match in re.finditer(r"\.", name)):
        inner = claims.get(name[:dot])
        if isinstance(inner, Mapping) and (found := find_claim(inner, name[dot + 1 :])) is not None:
            return found
    return None


def colliding(groups: Collection[str]) -> frozenset[str]:
    """Those of ``groups`` that differ from another one only in case, which not every database tells apart."""
    spellings: dict[str, set[str]] = {}
    for group in groups:
        spellings.setdefault(group.casefold(), set()).add(group)
    return frozenset(group for same in spellings.values() if len(same) > 1 for group in same)


class ClaimsReader:
    """Reads the groups in claims, as a site's settings say.

    Raises ``ValueError`` for a rule that is malformed or that can never give an identifier.
    """

    __slots__ = ("_authority", "_rules", "_sources")

    def __init__(self, settings: Groups) -> None:
        self._authority, self._sources = settings.authority, settings.sources
        claims = {source.claim for source in settings.sources}
        self._rules = tuple(_Rule.compile(rule, claims) for rule in settings.rules)

    def read(self, claims: Mapping[str, object], now: datetime, *, from_userinfo: bool) -> Reading:
        """The groups that ``claims`` state ``now``; ``from_userinfo`` if there is nobody left to ask.

        The answer is complete if every source is there, or absent where its absence means "no group", and no
        two groups collide.
        """
        groups: set[str] = set()
        dropped: list[str] = []
        reasons: list[str] = []
        for source in self._sources:
            names, reason = _listed(claims, source)
            reasons.append(reason)
            for name in names:
                candidate = self._candidate(source.claim, name) if isinstance(name, str) else ""
                if fault := _fault(candidate):
                    dropped.append(_shown(name, fault))
                else:
                    groups.add(candidate)
        same = colliding(groups)
        dropped.extend(_shown(group, _COLLIDES) for group in sorted(same))
        reasons.append(AMBIGUOUS if same else "")
        reason = " ".join(dict.fromkeys(filter(None, reasons)))
        return Reading(
            groups=GroupSet(frozenset(groups - same), "claims", now, complete=not reason, reason=reason),
            ask_userinfo=not from_userinfo and any(_leaves_it(claims, source) for source in self._sources),
            dropped=tuple(dropped),
        )

    def _candidate(self, claim: str, name: str) -> str:
        """What ``name`` becomes by the first rule that matches it, or by itself."""
        if len(name) > _LONGEST_NAME:
            return name
        for rule in self._rules:
            if rule.claim in ("", claim) and (match := rule.match.fullmatch(name)):
                return rule.expand(match)
        return _qualified(name, self._authority)


@dataclass(frozen=True, slots=True)
class _Rule:
    """``parts`` of the identifier are in turn literal text and the name of a capture."""

    claim: str
    match: re.Pattern[str]
    parts: tuple[str, ...]

    @classmethod
    def compile(cls, rule: GroupRule, claims: Collection[str]) -> _Rule:
        where = f"groups.rules, {rule.match!r}"
        try:
            # Without ASCII, "s" in a case-insensitive expression also matches a letter that only looks like it.
            match = re.compile(rule.match, re.ASCII)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{where}: it is no regular expression: {error}.") from None
        parts = tuple(_PLACE.split(rule.group))
        for name in parts[1::2]:
            if name not in match.groupindex:
                raise ValueError(f"{where}: it has no capture (?P<{name}>…) for {rule.group!r}.")
        # A provider must not choose whose group it is, so only the name behind the "?" may hold captures.
        if "?" not in parts[0] or not is_group_identifier("x".join(parts[::2])):
            raise ValueError(f"{where}: {rule.group!r} is no group; write ivo://example.org/gms?{{name}}.")
        if rule.claim and rule.claim not in claims:
            raise ValueError(f"{where}: the claim {rule.claim!r} is not among groups.sources.")
        return cls(rule.claim, match, parts)

    def expand(self, match: re.Match[str]) -> str:
        """The identifier, or an empty text if a capture that it needs is empty."""
        captured = [match[name] for name in self.parts[1::2]]
        if not all(captured):
            return ""
        return "".join(text for pair in zip(self.parts[::2], [*captured, ""], strict=True) for text in pair)


def _listed(claims: Mapping[str, object], source: ClaimSource) -> tuple[Iterable[object], str]:
    """What ``source`` lists, and if that may not be all, why."""
    value = find_claim(claims, source.claim)
    reason = _TOO_MANY if _is_elsewhere(claims, source.claim) else ""
    if value is None:
        return (), reason or ("" if source.absent == "none" else _NOT_SAID)
    if isinstance(value, str):
        return filter(None, _SEPARATORS.split(value)), reason
    if isinstance(value, Mapping):
        # Without a key the names are those of the members: {"survey-x": {…}}, but not {"survey-x": false}.
        return ([value.get(source.key)] if source.key else [name for name in value if value[name]]), reason
    if isinstance(value, (list, tuple)):
        return (_named(entry, source.key) for entry in value), reason
    return (value,), _UNREADABLE


def _named(entry: object, key: str) -> object:
    return entry.get(key) if key and isinstance(entry, Mapping) else entry


def _is_elsewhere(claims: Mapping[str, object], claim: str) -> bool:
    """Whether the provider says that it keeps (the rest of) the claim elsewhere.

    As a distributed claim (OpenID Connect Core 1.0 section 5.6.2), or with Entra's ``hasgroups``. Nothing is
    fetched from there: whoever makes the token would choose where the hub sends requests.
    """
    names = claims.get("_claim_names")
    if isinstance(names, Mapping) and (claim in names or claim.split(".", 1)[0] in names):
        return True
    return claim == "groups" and bool(claims.get("hasgroups"))


def _leaves_it(claims: Mapping[str, object], source: ClaimSource) -> bool:
    return source.absent == "ask_userinfo" and find_claim(claims, source.claim) is None


def _qualified(text: str, authority: str) -> str:
    return f"ivo://{authority}/gms?{text}" if _NAME.fullmatch(text) else text


def _fault(text: str) -> str:
    """Why ``text`` is no group identifier; empty if it is one."""
    if len(text) > LONGEST_GROUP:
        return _TOO_LONG
    return "" if _IDENTIFIER.fullmatch(text) else _NO_GROUP


def _shown(name: object, fault: str) -> str:
    # Only of texts is the content shown: that of numbers and lists may be too long, or too deep, to be written.
    text = ascii(name[:_LONGEST_SHOWN]) if isinstance(name, str) else f"a value of type {type(name).__name__}"
    return f"{text[:_LONGEST_SHOWN]} ({fault})"
