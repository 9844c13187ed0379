"""An identity survives auth_state; what is no identity becomes none."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from canfar_auth.identity import USERNAME_PATTERN, GroupSet, Identity

AS_OF = datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=UTC)
GROUPS = GroupSet(frozenset({"ivo://example.org/gms?a", "ivo://example.org/gms?b"}), "claim:groups", AS_OF)
IDENTITY = Identity("https://iam.example.org/", "4f-1", "astronomer", "Ada Ästronomer", GROUPS)


@pytest.mark.parametrize(
    "identity",
    [
        IDENTITY,
        dataclasses.replace(IDENTITY, full_name=""),
        dataclasses.replace(IDENTITY, groups=GroupSet(frozenset(), "gms", AS_OF)),
    ],
)
def test_state_and_back_through_json(identity: Identity) -> None:
    assert Identity.from_state(json.loads(json.dumps(identity.to_state()))) == identity


def test_times_are_kept_in_utc() -> None:
    here = AS_OF.astimezone(timezone(timedelta(hours=-8)))
    identity = dataclasses.replace(IDENTITY, groups=dataclasses.replace(GROUPS, as_of=here))
    assert identity.to_state() == IDENTITY.to_state()


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        GroupSet(frozenset(), "claim:groups", datetime(2026, 1, 2))


def test_what_a_later_hub_adds_is_passed_over() -> None:
    assert Identity.from_state({**IDENTITY.to_state(), "posix": {"uid": 1}}) == IDENTITY


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


def test_the_same_person_by_issuer_and_subject_only() -> None:
    assert IDENTITY.is_same_person(dataclasses.replace(IDENTITY, username="other", full_name="Other"))
    assert not IDENTITY.is_same_person(dataclasses.replace(IDENTITY, subject="4f-2"))
    assert not IDENTITY.is_same_person(dataclasses.replace(IDENTITY, issuer="https://iam.example.org"))


@pytest.mark.parametrize("name", ["astronomer", "first.last", "a@b.org", "a", "x" * 64, "a_b-c"])
def test_usable_names(name: str) -> None:
    assert re.fullmatch(USERNAME_PATTERN, name)


@pytest.mark.parametrize("name", ["", ".", "..", "-x", "x-", "A", "a b", "a/b", "a\n", "a{b}", "é", "x" * 65])
def test_unusable_names(name: str) -> None:
    assert not re.fullmatch(USERNAME_PATTERN, name)
