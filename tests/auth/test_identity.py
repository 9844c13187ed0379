"""An identity survives auth_state; what is no identity becomes none."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from canfar_auth.identity import (
    USERNAME_PATTERN,
    GroupSet,
    Identity,
    Membership,
    PosixGroup,
    PosixIds,
)

AS_OF = datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=UTC)
LATER = AS_OF + timedelta(hours=1)
A, B = "ivo://example.org/gms?a", "ivo://example.org/gms?b"
GROUPS = GroupSet(frozenset({A, B}), "claims", AS_OF)
DOUBTED = GroupSet(frozenset({A, B}), "gms", AS_OF, False, frozenset({B}), "No answer.", LATER)
POSIX = PosixIds(10001, 10001, (PosixGroup(A, "a", 900001), PosixGroup(B, "b", 900002)))
IDENTITY = Identity("https://iam.example.org/", "4f-1", "astronomer", "Ada Ästronomer", GROUPS)
FULL = dataclasses.replace(IDENTITY, groups=DOUBTED, answers=(GROUPS, DOUBTED), posix=POSIX)


@pytest.mark.parametrize(
    "identity",
    [
        IDENTITY,
        dataclasses.replace(IDENTITY, full_name=""),
        dataclasses.replace(IDENTITY, groups=GroupSet(frozenset(), "gms", AS_OF)),
        dataclasses.replace(IDENTITY, groups=GroupSet.unknown("claims", AS_OF, "No answer.")),
        dataclasses.replace(IDENTITY, posix=PosixIds(10001, 10001)),
        FULL,
    ],
)
def test_state_and_back_through_json(identity: Identity) -> None:
    assert Identity.from_state(json.loads(json.dumps(identity.to_state()))) == identity


def test_times_are_kept_in_utc() -> None:
    zone = timezone(timedelta(hours=-8))
    here = dataclasses.replace(DOUBTED, as_of=AS_OF.astimezone(zone), fresh_until=LATER.astimezone(zone))
    identity = dataclasses.replace(FULL, groups=here, answers=(GROUPS, here))
    assert identity.to_state() == FULL.to_state()


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        GroupSet(frozenset(), "claims", datetime(2026, 1, 2))


def test_a_doubt_about_a_group_that_nobody_told_is_refused() -> None:
    with pytest.raises(ValueError, match="doubted"):
        GroupSet(frozenset({A}), "claims", AS_OF, complete=False, doubted=frozenset({B}))


def test_what_a_later_hub_adds_is_passed_over() -> None:
    state: dict[str, Any] = IDENTITY.to_state()
    state["groups"] = {**state["groups"], "later": 1}
    assert Identity.from_state({**state, "later": {"uid": 1}}) == IDENTITY


def test_what_an_earlier_hub_wrote_is_read() -> None:
    state = {
        "issuer": "https://iam.example.org/",
        "subject": "4f-1",
        "username": "astronomer",
        "full_name": "Ada Ästronomer",
        "groups": {"groups": [A, B], "source": "claims", "as_of": AS_OF.isoformat()},
    }
    assert Identity.from_state(state) == IDENTITY


@pytest.mark.parametrize("answers", [None, "x", 5, {}, [None, 5, {}, {"groups": [A]}]])
def test_malformed_answers_are_none(answers: object) -> None:
    assert Identity.from_state({**IDENTITY.to_state(), "answers": answers}) == IDENTITY


def test_one_malformed_answer_costs_no_other() -> None:
    state: dict[str, Any] = FULL.to_state()
    state["answers"][0]["groups"] = "a"
    read = Identity.from_state(state)
    assert read
    assert read.answers == (DOUBTED,)


@pytest.mark.parametrize(
    "posix",
    [
        None,
        "x",
        5,
        [],
        {},
        {"uid": 10001},
        {"uid": None, "gid": 10001},
        {"uid": "x", "gid": 10001},
        {"uid": 10001, "gid": 10001, "groups": None},
        {"uid": 10001, "gid": 10001, "groups": 5},
        {"uid": 10001, "gid": 10001, "groups": [[A, "a"]]},
        {"uid": 10001, "gid": 10001, "groups": [[A, "a", "x"]]},
        {"uid": 10001, "gid": 10001, "groups": [A]},
    ],
)
def test_malformed_ids_are_none(posix: object) -> None:
    assert Identity.from_state({**FULL.to_state(), "posix": posix}) == dataclasses.replace(FULL, posix=None)


@pytest.mark.parametrize("state", [None, "", "x", 5, [], {}, {"issuer": "https://iam.example.org/"}])
def test_no_identity_at_all(state: object) -> None:
    assert Identity.from_state(state) is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *[((key,), value) for key in ("issuer", "subject", "username") for value in (None, "", 5, ["x"])],
        (("full_name",), None),
        (("groups",), None),
        (("groups",), []),
        *[(("groups", "groups"), value) for value in (None, "a", [5], {"a": 1})],
        *[(("groups", "source"), value) for value in (None, "", 5)],
        *[(("groups", "as_of"), value) for value in (None, "", 5, "yesterday", "2026-01-02T03:04:05")],
    ],
)
def test_a_malformed_part_is_no_identity(path: tuple[str, ...], value: object) -> None:
    state: dict[str, Any] = copy.deepcopy(IDENTITY.to_state())
    inner = state
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert Identity.from_state(state) is None
    del inner[path[-1]]
    assert Identity.from_state(state) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("doubted", value) for value in (None, "a", [5], {"a": 1}, ["ivo://example.org/gms?c"])],
        ("fresh_until", "tomorrow"),
    ],
)
def test_malformed_doubts_are_no_identity(key: str, value: object) -> None:
    state: dict[str, Any] = copy.deepcopy(FULL.to_state())
    state["groups"][key] = value
    assert Identity.from_state(state) is None


@pytest.mark.parametrize("value", [None, 0, 1, "true", "false", []])
def test_only_what_is_written_as_complete_is_complete(value: object) -> None:
    state: dict[str, Any] = copy.deepcopy(IDENTITY.to_state())
    state["groups"]["complete"] = value
    read = Identity.from_state(state)
    assert read
    assert read.groups.membership(["ivo://example.org/gms?c"]) is Membership.UNKNOWN


# Membership


@pytest.mark.parametrize(
    ("groups", "wanted", "answer"),
    [
        (GROUPS, [A], Membership.YES),
        (GROUPS, ["ivo://example.org/gms?c", B], Membership.YES),
        (GROUPS, ["ivo://example.org/gms?c"], Membership.NO),
        (GROUPS, ["ivo://example.org/gms?A"], Membership.NO),
        (GROUPS, [], Membership.NO),
        (DOUBTED, [A], Membership.YES),
        (DOUBTED, [B], Membership.YES),
        (DOUBTED, ["ivo://example.org/gms?c"], Membership.UNKNOWN),
        (GroupSet.unknown("claims", AS_OF, "No answer."), [A], Membership.UNKNOWN),
        (GroupSet.unknown("claims", AS_OF, "No answer.", GROUPS), [A], Membership.YES),
        (GroupSet(frozenset(), "claims", AS_OF), [A], Membership.NO),
    ],
)
def test_membership_has_three_answers(groups: GroupSet, wanted: list[str], answer: Membership) -> None:
    assert groups.membership(wanted) is answer
    assert groups.membership(frozenset(wanted)) is answer


def test_a_source_that_does_not_answer_leaves_what_it_told_last_in_doubt() -> None:
    unknown = GroupSet.unknown("claims", LATER, "No answer.", GROUPS)
    assert (unknown.groups, unknown.doubted, unknown.as_of) == (GROUPS.groups, GROUPS.groups, AS_OF)
    assert (unknown.complete, unknown.reason, unknown.fresh_until) == (False, "No answer.", None)
    again = GroupSet.unknown("claims", LATER + timedelta(hours=1), "Still no answer.", unknown)
    assert (again.groups, again.as_of) == (GROUPS.groups, AS_OF)


@pytest.mark.parametrize(
    ("groups", "hours", "trusted"),
    [
        (GROUPS, 1000, {A, B}),
        (DOUBTED, 0, {A, B}),
        (DOUBTED, 4, {A, B}),
        (DOUBTED, 4.001, {A}),
        (GroupSet.unknown("claims", AS_OF, "No answer.", GROUPS), 4, {A, B}),
        (GroupSet.unknown("claims", AS_OF, "No answer.", GROUPS), 4.001, set()),
    ],
)
def test_doubted_groups_are_trusted_for_a_while(groups: GroupSet, hours: float, trusted: set[str]) -> None:
    now = groups.trusted(AS_OF + timedelta(hours=hours), timedelta(hours=4))
    assert now.groups == trusted
    assert now.complete is groups.complete
    assert now.reason == groups.reason
    if trusted != groups.groups:
        assert now.membership([B]) is Membership.UNKNOWN


@pytest.mark.parametrize("name", ["astronomer", "first.last", "a@b.org", "a", "x" * 64, "a_b-c"])
def test_usable_names(name: str) -> None:
    assert re.fullmatch(USERNAME_PATTERN, name)


@pytest.mark.parametrize("name", ["", ".", "..", "-x", "x-", "A", "a b", "a/b", "a\n", "a{b}", "é", "x" * 65])
def test_unusable_names(name: str) -> None:
    assert not re.fullmatch(USERNAME_PATTERN, name)
