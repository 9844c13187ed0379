"""Merging the answers of two sources: nothing untold is granted, and no outage takes anything away."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations, product
from typing import Literal, get_args

import pytest

from canfar_auth.identity import GroupSet, Membership
from canfar_auth.membership import merge, with_last

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EARLIER = NOW - timedelta(hours=1)
LONG_AGO = NOW - timedelta(hours=5)
PATIENCE = timedelta(hours=4)

A, B, C = (f"ivo://example.org/gms?{name}" for name in "abc")
YES, NO, UNKNOWN = Membership
Rule = Literal["union", "gms", "claims"]
RULES: tuple[Rule, ...] = get_args(Rule)


def these(*groups: str) -> frozenset[str]:
    return frozenset(groups)


def told(source: str, *groups: str, as_of: datetime = NOW) -> GroupSet:
    return GroupSet(these(*groups), source, as_of)


def silent(source: str, *last: str, as_of: datetime = EARLIER) -> GroupSet:
    """A source that does not answer, and told ``last`` when it did."""
    before = told(source, *last, as_of=as_of) if last else None
    return GroupSet.unknown(source, NOW, f"No answer from {source}.", before)


def partly(source: str, firm: list[str], doubted: list[str], as_of: datetime = EARLIER) -> GroupSet:
    part = GroupSet(frozenset(firm), source, NOW, complete=False, reason=f"Not all from {source}.")
    return with_last(part, told(source, *doubted, as_of=as_of)) if doubted else part


# The table of the documentation

TABLE: list[tuple[GroupSet, GroupSet, tuple[Membership, Membership, Membership]]] = [
    # claims say about A, gms says about A, and the answer by union, gms, claims
    (told("claims", A), told("gms", A), (YES, YES, YES)),
    (told("claims", A), told("gms"), (YES, NO, YES)),
    (told("claims", A), silent("gms"), (YES, UNKNOWN, YES)),
    (told("claims", A), silent("gms", A), (YES, YES, YES)),
    (told("claims"), told("gms", A), (YES, YES, NO)),
    (told("claims"), told("gms"), (NO, NO, NO)),
    (told("claims"), silent("gms"), (UNKNOWN, UNKNOWN, NO)),
    (told("claims"), silent("gms", A), (YES, YES, NO)),
    (silent("claims"), told("gms", A), (YES, YES, UNKNOWN)),
    (silent("claims"), told("gms"), (UNKNOWN, NO, UNKNOWN)),
    (silent("claims"), silent("gms"), (UNKNOWN, UNKNOWN, UNKNOWN)),
    (silent("claims"), silent("gms", A), (YES, YES, UNKNOWN)),
    (silent("claims", A), told("gms", A), (YES, YES, YES)),
    (silent("claims", A), told("gms"), (YES, NO, YES)),
    (silent("claims", A), silent("gms"), (YES, UNKNOWN, YES)),
    (silent("claims", A), silent("gms", A), (YES, YES, YES)),
]


@pytest.mark.parametrize(("claims", "gms", "answers"), TABLE)
def test_the_table_of_the_documentation(
    claims: GroupSet, gms: GroupSet, answers: tuple[Membership, Membership, Membership]
) -> None:
    assert tuple(merge(claims, gms, rule).membership([A]) for rule in RULES) == answers


# Every combination of answers about two groups

SUBSETS = [frozenset(some) for size in range(3) for some in combinations([A, B], size)]
STATES = [
    GroupSet(firm | doubted, "", as_of, complete=False, doubted=doubted - firm, reason="No answer.")
    if not complete
    else GroupSet(firm, "", NOW)
    for firm, doubted, as_of, complete in product(SUBSETS, SUBSETS, (EARLIER, LONG_AGO), (True, False))
    if not complete or (not doubted and as_of is EARLIER)
]
PAIRS = [
    (replace(claims, source="claims"), replace(gms, source="gms"), rule)
    for claims, gms, rule in product(STATES, STATES, RULES)
]


def firm(groups: GroupSet) -> frozenset[str]:
    return groups.groups - groups.doubted


def leading(claims: GroupSet, gms: GroupSet, rule: Rule) -> list[GroupSet]:
    return {"union": [claims, gms], "gms": [gms], "claims": [claims]}[rule]


def test_all_combinations_are_there() -> None:
    assert len(STATES) == 4 + 4 * 4 * 2
    assert len(PAIRS) == len(STATES) ** 2 * 3


def test_nothing_is_granted_that_no_source_told() -> None:
    for claims, gms, rule in PAIRS:
        merged = merge(claims, gms, rule)
        sources = leading(claims, gms, rule)
        assert merged.groups <= frozenset().union(*(source.groups for source in sources))
        assert firm(merged) <= firm(claims) | firm(gms)


def test_nothing_is_lost_that_a_source_told_and_did_not_take_back() -> None:
    for claims, gms, rule in PAIRS:
        merged = merge(claims, gms, rule)
        for source in leading(claims, gms, rule):
            assert source.groups <= merged.groups
            assert firm(source) <= firm(merged)


def test_no_is_said_only_if_everybody_who_matters_says_so() -> None:
    for claims, gms, rule in PAIRS:
        merged = merge(claims, gms, rule)
        sources = leading(claims, gms, rule)
        assert merged.complete is all(source.complete for source in sources)
        for group in (A, B, C):
            if merged.membership([group]) is NO:
                assert all(source.membership([group]) is NO for source in sources)


def test_a_source_that_stops_answering_changes_no_membership() -> None:
    for claims, gms, rule in PAIRS:
        before = merge(claims, gms, rule)
        outages = [
            (GroupSet.unknown("claims", NOW, "No answer.", claims), gms),
            (claims, GroupSet.unknown("gms", NOW, "No answer.", gms)),
            (
                GroupSet.unknown("claims", NOW, "No answer.", claims),
                GroupSet.unknown("gms", NOW, "No answer.", gms),
            ),
        ]
        for outage in outages:
            after = merge(*outage, rule)
            assert after.groups == before.groups
            assert firm(after) <= firm(before)


def test_a_source_of_which_nothing_is_known_grants_nothing() -> None:
    for claims, gms, rule in PAIRS:
        assert merge(silent("claims"), gms, rule).groups <= gms.groups
        assert merge(claims, silent("gms"), rule).groups <= claims.groups


def test_what_is_firm_outlasts_any_patience_and_what_is_in_doubt_none_beyond_its_own() -> None:
    for claims, gms, rule in PAIRS:
        merged = merge(claims, gms, rule)
        later = merged.trusted(NOW + timedelta(days=365), PATIENCE)
        assert later.groups == firm(merged)
        for group in merged.trusted(NOW, PATIENCE).doubted:
            assert any(group in part.trusted(NOW, PATIENCE).groups for part in leading(claims, gms, rule))


def test_the_order_of_sources_does_not_matter_to_the_union() -> None:
    for claims, gms, _ in PAIRS:
        one, other = merge(claims, gms, "union"), merge(gms, claims, "union")
        assert replace(one, reason="") == replace(other, reason="")


# Details that somebody would notice


def test_union_of_two_complete_answers() -> None:
    merged = merge(told("claims", A), told("gms", B, as_of=EARLIER), "union")
    assert merged == GroupSet(frozenset({A, B}), "claims+gms", EARLIER)


def test_union_says_why_something_is_unknown_and_since_when_something_is_in_doubt() -> None:
    merged = merge(silent("claims", A, B, as_of=LONG_AGO), silent("gms", B, as_of=EARLIER), "union")
    assert merged.reason == "No answer from claims. No answer from gms."
    assert (merged.doubted, merged.as_of) == (these(A, B), LONG_AGO)
    assert merge(told("claims", C), silent("gms", B), "union").as_of == EARLIER


def test_doubts_that_the_other_source_removes_do_not_age_the_answer() -> None:
    merged = merge(silent("claims", A, as_of=LONG_AGO), told("gms", A), "union")
    assert not merged.doubted
    assert merged.trusted(NOW, PATIENCE).groups == {A}
    merged = merge(partly("claims", [C], [A], as_of=LONG_AGO), silent("gms", B), "union")
    assert merged.doubted == {A, B}


def test_an_older_answer_of_which_nothing_is_in_doubt_does_not_age_the_doubts() -> None:
    merged = merge(silent("claims", A, as_of=EARLIER), told("gms", B, as_of=LONG_AGO), "union")
    assert merged.as_of == EARLIER
    assert merged.trusted(NOW, PATIENCE).groups == {A, B}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (
            "gms",
            GroupSet(frozenset({A, B}), "claims+gms", EARLIER, False, frozenset({B}), "No answer from gms."),
        ),
        ("claims", told("claims", A, C)),
    ],
)
def test_the_other_source_confirms_and_adds_nothing(rule: Rule, expected: GroupSet) -> None:
    assert merge(told("claims", A, C), silent("gms", A, B), rule) == expected


def test_a_doubted_group_confirms_nothing() -> None:
    assert merge(silent("claims", A), silent("gms", A), "gms").doubted == {A}


@pytest.mark.parametrize("rule", RULES)
def test_without_a_group_service_the_claims_hold(rule: Rule) -> None:
    for claims in (told("claims", A), silent("claims", A), silent("claims")):
        assert merge(claims, None, rule) == claims


@pytest.mark.parametrize("rule", RULES)
def test_what_is_merged_is_not_kept_fresh_by_one_source(rule: Rule) -> None:
    gms = replace(told("gms", A), fresh_until=NOW + timedelta(hours=1))
    assert merge(told("claims", A), gms, rule).fresh_until is None


def test_groups_of_two_sources_that_differ_only_in_case_are_both_left_out() -> None:
    upper = A.replace("?a", "?A")
    merged = merge(told("claims", upper, B), told("gms", A, C), "union")
    assert (merged.groups, merged.complete) == (these(B, C), False)
    assert merged.membership([A]) is UNKNOWN
    assert "differ only in case" in merged.reason
    merged = merge(told("claims", upper, B), silent("gms", A, C), "union")
    assert (merged.groups, merged.doubted) == (these(B, C), these(C))
    assert merge(told("claims", upper, B), told("gms", A, C), "gms").groups == {A, C}
    assert merge(told("claims", upper, A, B), None, "claims").groups == {B}


def test_ten_thousand_groups_of_each() -> None:
    one = [f"ivo://example.org/gms?one-{number}" for number in range(10_000)]
    two = [f"ivo://example.org/gms?two-{number}" for number in range(10_000)]
    assert len(merge(told("claims", *one), silent("gms", *two), "union").doubted) == 10_000


# What a source told last


def test_a_complete_answer_needs_no_memory() -> None:
    assert with_last(told("claims", A), told("claims", B)) == told("claims", A)
    assert with_last(told("claims"), told("claims", B)) == told("claims")


def test_nothing_is_remembered_of_somebody_new() -> None:
    part = partly("claims", [A], [])
    assert with_last(part, None) == part


def test_an_incomplete_answer_keeps_what_was_told_last_in_doubt() -> None:
    part = partly("claims", [A], [])
    kept = with_last(part, told("claims", A, B, as_of=EARLIER))
    assert (kept.groups, kept.doubted, kept.complete) == (these(A, B), these(B), False)
    assert (kept.as_of, kept.reason) == (EARLIER, part.reason)


def test_doubts_stay_doubts_and_end_when_the_source_tells() -> None:
    first = with_last(silent("claims"), told("claims", A, B, as_of=EARLIER))
    second = with_last(replace(silent("claims"), as_of=NOW + timedelta(hours=1)), first)
    assert (second.groups, second.doubted, second.as_of) == (these(A, B), these(A, B), EARLIER)
    third = with_last(partly("claims", [A, B], []), second)
    assert (third.doubted, third.as_of) == (frozenset(), NOW)


def test_what_was_told_now_is_not_aged_by_what_is_not_trusted_any_more() -> None:
    old = with_last(silent("claims"), told("claims", B, as_of=LONG_AGO))
    now = with_last(partly("claims", [A], []), old.trusted(NOW, PATIENCE))
    outage = GroupSet.unknown("claims", NOW, "No answer.", now)
    assert outage.trusted(NOW + timedelta(hours=1), PATIENCE).groups == {A}
