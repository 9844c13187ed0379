"""From what several sources tell of somebody's groups to one answer. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from canfar_auth.claims import AMBIGUOUS, colliding
from canfar_auth.identity import GroupSet


def with_last(told: GroupSet, last: GroupSet | None) -> GroupSet:
    """What a source tells now, and where that is not all, what it told last, in doubt.

    What it tells now stays firm. ``as_of`` becomes that of ``last`` as long as anything is in doubt, so give
    ``last`` without what is no longer trusted: what was told long ago would else age what was told just now.
    """
    if told.complete or last is None or last.groups <= told.groups:
        return told
    missing = last.groups - told.groups
    return replace(
        told,
        groups=told.groups | missing,
        doubted=told.doubted | missing,
        as_of=min(told.as_of, last.as_of),
    )


def merge(claims: GroupSet, gms: GroupSet | None, rule: Literal["union", "gms", "claims"]) -> GroupSet:
    """One answer from that of the provider and that of the group service (``None``: there is none).

    ``union``: the groups of both; whoever is not listed is known to be no member only if both answers are
    complete. ``gms`` and ``claims``: the groups of that source alone; the other one can take the doubt from
    them, but adds none.

    No group is in the result that no source told, and a source that does not answer neither adds nor removes
    any. Of identifiers that differ only in case none is in the result, which then is not complete: nobody is
    told "no" because somebody else made a group with nearly the same name. ``as_of`` is that of the oldest
    answer that is in doubt, if any is, so that ``trusted`` of the result trusts no longer than that of a part.
    """
    if gms is None:
        merged = replace(claims, fresh_until=None)
    elif rule == "union":
        merged = _union(claims, gms)
    else:
        merged = _confirmed(gms, claims) if rule == "gms" else _confirmed(claims, gms)
    if same := colliding(merged.groups):
        return replace(
            merged,
            groups=merged.groups - same,
            doubted=merged.doubted - same,
            complete=False,
            reason=_sentences(merged.reason, AMBIGUOUS),
        )
    return merged


def _union(one: GroupSet, other: GroupSet) -> GroupSet:
    groups = one.groups | other.groups
    doubted = groups - _firm(one) - _firm(other)
    in_doubt = [answer for answer in (one, other) if answer.doubted & doubted]
    return GroupSet(
        groups=groups,
        source=_both(one, other),
        as_of=min(answer.as_of for answer in in_doubt or (one, other)),
        complete=one.complete and other.complete,
        doubted=doubted,
        reason=_sentences(one.reason, other.reason),
    )


def _confirmed(told: GroupSet, other: GroupSet) -> GroupSet:
    doubted = told.doubted - _firm(other)
    if doubted == told.doubted:
        return replace(told, fresh_until=None)
    return replace(
        told,
        source=_both(told, other),
        doubted=doubted,
        as_of=told.as_of if doubted else min(told.as_of, other.as_of),
        fresh_until=None,
    )


def _firm(told: GroupSet) -> frozenset[str]:
    return told.groups - told.doubted


def _both(one: GroupSet, other: GroupSet) -> str:
    return "+".join(sorted({one.source, other.source}))


def _sentences(*reasons: str) -> str:
    return " ".join(dict.fromkeys(filter(None, reasons)))
