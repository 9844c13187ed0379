"""Identities for tests."""

from datetime import UTC, datetime

from canfar_auth.identity import GroupSet, Identity

USERS = "ivo://example.org/gms?canfar-users"
ADMINS = "ivo://example.org/gms?canfar-admins"
SURVEY = "ivo://example.org/gms?survey-x"
SURVEY_Y = "ivo://example.org/gms?survey-y"
"""One that the trial's group service tells, and its provider does not."""


def identity(*groups: str, name: str = "astronomer") -> Identity:
    told = GroupSet(frozenset(groups), "claims", datetime.now(UTC))
    return Identity(
        issuer="https://login.example.org",
        subject="1",
        username=name,
        full_name="A",
        groups=told,
        answers=(told,),
    )
