"""What a groups claim may look like, and what becomes of it."""

from __future__ import annotations

from typing import Any

import pytest

from canfar_auth.claims import GroupsClaim, group_identifier, read_groups_claim

USERS = "ivo://example.org/gms?canfar-users"
SURVEY = "ivo://example.org/gms?survey-x"


@pytest.mark.parametrize(
    ("claims", "claim", "groups"),
    [
        ({}, "groups", set()),
        ({"groups": None}, "groups", set()),
        ({"groups": []}, "groups", set()),
        ({"groups": ""}, "groups", set()),
        ({"groups": ["canfar-users", "survey-x"]}, "groups", {USERS, SURVEY}),
        ({"groups": ["canfar-users", USERS]}, "groups", {USERS}),
        ({"groups": "canfar-users"}, "groups", {USERS}),
        ({"groups": "canfar-users survey-x"}, "groups", {USERS, SURVEY}),
        ({"groups": " canfar-users, survey-x ,"}, "groups", {USERS, SURVEY}),
        ({"groups": (USERS, SURVEY)}, "groups", {USERS, SURVEY}),
        (
            {"groups": ["ivo://cadc.nrc.ca/gms?Project.A_1~b"]},
            "groups",
            {"ivo://cadc.nrc.ca/gms?Project.A_1~b"},
        ),
        ({"realm_access": {"groups": ["survey-x"]}}, "realm_access.groups", {SURVEY}),
        ({"a": {"b": {"c": "survey-x"}}}, "a.b.c", {SURVEY}),
        ({"a": {"b.c": "survey-x"}}, "a.b.c", {SURVEY}),
        ({"wlcg.groups": ["survey-x"], "wlcg": {"groups": ["canfar-users"]}}, "wlcg.groups", {SURVEY}),
        ({"https://example.org/groups": ["survey-x"]}, "https://example.org/groups", {SURVEY}),
        ({"realm_access": "groups"}, "realm_access.groups", set()),
        ({"realm_access": {"groups": ["survey-x"]}}, "realm_access", set()),
        ({"others": ["canfar-users"]}, "groups", set()),
    ],
)
def test_shapes(claims: dict[str, Any], claim: str, groups: set[str]) -> None:
    assert read_groups_claim(claims, claim, "example.org").groups == groups


@pytest.mark.parametrize(
    "entry",
    [
        5,
        True,
        {"name": "canfar-users"},
        ["canfar-users"],
        "{x}",
        "{0.__class__}",
        "a b",
        "line\n",
        "\nline",
        "tab\t",
        "nul\x00",
        "<b>",
        "a/b",
        "/survey-x",
        "a?b",
        "a#b",
        "%41",
        "naïve",
        "",
        "..\\",
        "x" * 300,
        "ivo://example.org/gms?",
        "ivo://example.org/gms",
        "ivo://example.org?x",
        "ivo:///gms?x",
        "ivo://e/gms?x",
        "ivo://example.org/gms?a b",
        "ivo://example.org/gms?a?b",
        "ivo://example.org/gms?a#b",
        "ivo://example.org/gms?{a}",
        "ivo://example.org/gms?a\n",
        "ivo://exa mple.org/gms?a",
        "ivo://user@example.org/gms?a",
        "IVO://example.org/gms?a",
        "https://example.org/gms?a",
        " ivo://example.org/gms?a",
    ],
)
def test_what_is_no_group_is_dropped_and_shown_as_printable_text(entry: object) -> None:
    claim = read_groups_claim({"groups": ["canfar-users", entry]}, "groups", "example.org")
    assert claim.groups == {USERS}
    assert len(claim.dropped) == 1
    assert claim.dropped[0].isascii()
    assert claim.dropped[0].isprintable()
    assert len(claim.dropped[0]) <= 80


@pytest.mark.parametrize("value", [5, 1.5, True, {"canfar-users": True}, object()])
def test_a_claim_of_another_kind_is_dropped_whole(value: object) -> None:
    claim = read_groups_claim({"groups": value}, "groups", "example.org")
    assert not claim.groups
    assert len(claim.dropped) == 1


def test_an_absent_claim_drops_nothing() -> None:
    assert read_groups_claim({}, "groups", "example.org") == GroupsClaim(frozenset(), ())


@pytest.mark.parametrize("authority", ["", "x", "exa mple", "a\n.org", "a/b?c"])
def test_a_plain_name_needs_a_good_authority(authority: str) -> None:
    assert group_identifier("survey-x", authority) is None
    assert group_identifier(SURVEY, authority) == SURVEY
