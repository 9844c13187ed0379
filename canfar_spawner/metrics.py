"""What operators see of sessions in the hub's metrics: starts, refusals, credentials, and unknown groups.

Labels are of small closed sets. No user, session, image or path is in one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from enum import StrEnum
from math import nan

from jupyterhub.spawner import SpawnException
from prometheus_client import Counter, Gauge, Histogram

NO_KIND = "none"
"""The kind of a start that was refused before it had one."""


class Outcome(StrEnum):
    """How a start ended."""

    READY = "ready"
    REFUSED = "refused"
    """It was decided against."""
    IMAGE = "image"
    """The image cannot be had, or its program ended or did not answer in time."""
    NO_ROOM = "no-room"
    """It was not ready within its time, mostly as no node had room, or a quota is used up."""
    STOPPED = "stopped"
    """Its owner, or the desktop that it was on, ended it before it was ready."""
    SITE = "site"
    """Something that the site needs gave no answer, or is not set up rightly."""
    CLUSTER = "cluster"
    """The cluster did not take it, or removed it."""
    ERROR = "error"
    """Nobody foresaw it: a fault of the hub, whose log has it."""


class Stage(StrEnum):
    """A part of a start, in this order; each takes from the end of the one before that it has."""

    QUEUE = "queue"
    """Planned, and its turn has come."""
    CREDENTIALS = "credentials"
    HOME = "home"
    """The home was looked at, or made."""
    MADE = "made"
    """Secret and pod are made, or the process is."""
    NODE = "node"
    """A node takes it."""
    CONTAINER = "container"
    """The image is on the node, and its program runs."""
    ANSWER = "answer"
    """The program answers."""
    WHOLE = "whole"
    """All of a start that got ready."""


CODES = frozenset(
    {
        *("bad-request", "catalogue", "cluster", "config", "cores", "credentials", "desktop", "group", "gpus"),
        *("identity", "ids", "image", "kind", "limit", "link", "memory", "name", "open", "platform", "profile"),
        *("quota", "registries", "removed", "slow", "storage", "unavailable", "unnamed"),
    }
)
"""The codes of refusals; see docs/reference/refusals.md."""

_OF_CODES = {
    "died": Outcome.IMAGE,
    "slow": Outcome.NO_ROOM,
    "quota": Outcome.NO_ROOM,
    "cluster": Outcome.CLUSTER,
    "removed": Outcome.CLUSTER,
}

STARTS = Counter("canfar_starts", "Starts of sessions, by how they ended.", ["kind", "outcome"])
START_SECONDS = Histogram(
    "canfar_start_seconds",
    "How long the stages of starts took, and the whole of those that got ready.",
    ["kind", "stage"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, float("inf")),
)
QUEUED = Gauge("canfar_starts_queued", "Starts that wait for their turn.")
REFUSALS = Counter("canfar_refusals", "Refusals that somebody was told, by code.", ["code"])
CREDENTIAL_END = Gauge(
    "canfar_credentials_end_timestamp_seconds",
    "When the first credential of a session ends, of those whose end is known; NaN without any.",
    ["credential"],
)
CREDENTIALS_MISSING = Gauge(
    "canfar_credentials_missing", "Sessions without a valid credential that the site gives.", ["credential"]
)
CREDENTIAL_FAILURES = Counter(
    "canfar_credentials_failures", "Attempts to get a credential that failed.", ["credential"]
)
GROUPS_UNKNOWN = Gauge(
    "canfar_groups_unknown_users", "Users with running sessions of whom not all groups are known."
)
GROUPS_UNKNOWN_SINCE = Gauge(
    "canfar_groups_unknown_since_timestamp_seconds",
    "When the oldest answer was given that still counts for one of them; NaN while there are none.",
)

for _code in CODES:
    REFUSALS.labels(_code)  # from 0 on, so that the first one is a rise
GROUPS_UNKNOWN_SINCE.set(nan)


def expect(kinds: Iterable[str]) -> None:
    """Has the counters of starts there from 0 on, for the kinds that a site offers."""
    for kind in (*kinds, NO_KIND):
        for outcome in Outcome:
            STARTS.labels(kind, outcome)


def refused(code: str) -> None:
    """Counts a refusal that somebody is told."""
    REFUSALS.labels(code).inc()


def groups_unknown(since: Collection[datetime]) -> None:
    """Tells of whom not all groups are known: of each user, the time of the oldest answer."""
    GROUPS_UNKNOWN.set(len(since))
    GROUPS_UNKNOWN_SINCE.set(min(one.timestamp() for one in since) if since else nan)


# A start

_passed: ContextVar[float] = ContextVar("canfar_start_passed")
"""When the last stage of the start in this context was over; of a start nothing else is kept."""


def outcome(end: BaseException | None) -> Outcome:
    """What the end of a start means: None for one that got ready."""
    if end is None:
        return Outcome.READY
    if isinstance(end, asyncio.CancelledError):
        return Outcome.STOPPED
    if not isinstance(end, SpawnException):
        return Outcome.ERROR
    by_status = Outcome.SITE if end.status_code >= 500 else Outcome.REFUSED
    return _OF_CODES.get(end.reason, by_status)


def passed(kind: str, stage: Stage) -> None:
    """Notes that a stage of the start in this context is over."""
    now = time.perf_counter()
    START_SECONDS.labels(kind, stage).observe(now - _passed.get(now))
    _passed.set(now)


class Start:
    """One start, whose kind is known once it is planned."""

    kind = NO_KIND


@contextmanager
def start() -> Iterator[Start]:
    """Counts and measures the block as a start."""
    began, found = time.perf_counter(), Start()
    _passed.set(began)
    try:
        yield found
    except BaseException as end:
        STARTS.labels(found.kind, outcome(end)).inc()
        raise
    STARTS.labels(found.kind, Outcome.READY).inc()
    START_SECONDS.labels(found.kind, Stage.WHOLE).observe(time.perf_counter() - began)
