"""Sessions as pods beside stock KubeSpawner 7.1, in turns in one run against the same fake Kubernetes.

Pods run 2.0 s after they were made, their programs answer at once, and the hubs have no limits. So what is
measured is the hub's own part. Requests of users come by the hub's API from outside its process.
"""

import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.pods_stage import POD_SECONDS, Cluster, Hub, Place, calm, cluster, programs, until

USERS = int(os.environ.get("PODS_USERS", "1000"))
GROUP = int(os.environ.get("PODS_GROUP", "100"))  # users of the smaller crowd
STARTS = int(os.environ.get("PODS_STARTS", "20"))  # of one user, one after the other
EVENTS = int(os.environ.get("PODS_EVENTS", "50000"))
PATIENCE = 300.0  # seconds that a crowd may take; what is not ready by then has failed
PAUSE = 0.5  # seconds between two looks at a crowd
CALM = 0.1  # of a core; a hub that takes no more has worked off what it was told
POLLS = 11.0  # seconds, in which each session is polled twice

MEDIAN_LIMIT, P95_LIMIT = 0.3, 1.0  # seconds from a pod's running to the word that the session is ready
GROUP_LIMIT = POD_SECONDS + 6  # seconds until all are ready
STOP_LIMIT = 0.25  # seconds that the hub's loop may be blocked while a thousand start
CALLS_LIMIT = 3  # of the Kubernetes API for one start
MEMORY_LIMIT = 25  # kB for each session above those of a spawner that costs nothing
RESTART_LIMIT = 5.0  # seconds until the API of a hub with a thousand sessions answers


@dataclass(frozen=True)
class Crowd:
    """What became of users who all started a session at once."""

    ready: int
    refused: int
    """Requests that the hub did not accept."""
    seconds: float
    """Until the last one was ready."""
    stop: float
    """The longest stop of the hub's loop."""
    cpu: float
    """Seconds of the hub's CPU time."""
    calls: Counter[str]
    """Of the Kubernetes API."""

    def figures(self, users: int) -> dict[str, Any]:
        return {
            "ready": self.ready,
            "failed": users - self.ready,
            "refused": self.refused,
            "seconds until all are ready": round(self.seconds, 1),
            "pods made": self.calls["create pods"],
            "pods deleted": self.calls["delete pods"],
            "longest stop of the hub's loop": round(self.stop, 3),
            "hub's CPU time for each, ms": round(self.cpu / users * 1000, 1),
        }

    def is_well(self, users: int) -> bool:
        """Whether everybody got what they asked for, at once."""
        made, deleted = self.calls["create pods"], self.calls["delete pods"]
        return self.ready == made == users and not self.refused and not deleted


def measure() -> dict[str, Any]:
    """The figures of six measurements, each with its limits.

    Raises OSError where something else on the machine listens at the port of the pods' programs.
    """
    with tempfile.TemporaryDirectory() as folder, programs():
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> dict[str, Any]:
    place = await asyncio.to_thread(Place, folder, max(USERS, 2 * GROUP + 1))
    found = {
        "what": f"sessions as pods that run {POD_SECONDS} s after they were made, beside KubeSpawner's",
        **await _few(place, folder),
        **await _many(place, folder),
    }
    kept = [part["within the limit"] for part in found.values() if isinstance(part, dict)]
    return {**found, "within the limit": all(kept)}


# One user, and a hundred


async def _few(place: Place, folder: Path) -> dict[str, Any]:
    known, unknown = place.people[1 : GROUP + 1], place.people[-GROUP:]
    # A cluster each, so that it is known whose calls there were.
    async with (
        cluster(folder) as our_api,
        cluster(folder) as api,
        place.hub("ours", our_api) as ours,
        place.hub("stock", api) as stock,
    ):
        one, calls = await _one_at_a_time({ours: our_api, stock: api})
        stock_group = await _crowd(stock, known, api)
    async with cluster(folder) as api, place.hub("ours", api) as ours:
        await _warm_up(ours, homes=GROUP + 1)
        group = await _crowd(ours, known, api)
        strangers = await _crowd(ours, unknown, api)
    return {
        "one at a time": one,
        "calls": calls,
        f"{GROUP} at once": {
            "ours": group.figures(GROUP),
            "stock": stock_group.figures(GROUP),
            "ours, whose homes the hub has not seen": strangers.figures(GROUP),
            "limit": GROUP_LIMIT,
            "within the limit": group.is_well(GROUP) and group.seconds <= GROUP_LIMIT,
        },
    }


async def _one_at_a_time(hubs: dict[Hub, Cluster]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The times of one user's starts, and the calls of the API that they took."""
    times: dict[str, list[float]] = {"ours": [], "stock": []}
    calls: dict[str, Counter[str]] = {"ours": Counter(), "stock": Counter()}
    for hub, api in hubs.items():  # the first start of all makes what later ones find
        await _one(hub, hub.people[0], api)
    for _ in range(STARTS):
        for hub, api in hubs.items():
            before = await api.counts()
            taken, after = await _one(hub, hub.people[0], api)
            times[hub.kind].append(taken)
            calls[hub.kind] += after - before
    median, p95 = _median(times["ours"]), _p95(times["ours"])
    one = {
        "what": "seconds from a pod's running until the user is told that the session is ready",
        "starts of each": STARTS,
        **{kind: {"median": _median(found), "95 %": _p95(found)} for kind, found in times.items()},
        "limit": [MEDIAN_LIMIT, P95_LIMIT],
        "within the limit": median <= MEDIAN_LIMIT and p95 <= P95_LIMIT,
    }
    for_one = {kind: round(found.total() / STARTS, 2) for kind, found in calls.items()}
    what = "calls of the Kubernetes API for one start, whose user's home is known"
    told = {
        "what": what,
        **for_one,
        "of ours": dict(calls["ours"]),
        "limit": CALLS_LIMIT,
        "within the limit": for_one["ours"] <= CALLS_LIMIT,
    }
    return one, told


async def _one(hub: Hub, name: str, api: Cluster) -> tuple[float, Counter[str]]:
    """One start and stop: seconds from running to ready, and the calls of the API until then."""
    status = await hub.start(name)
    if status not in (201, 202):
        raise RuntimeError(f"{hub.kind}: HTTP {status}")
    ready = await hub.ready(name)
    found = ready - await api.last_running(), await api.counts()
    await hub.stop(name)
    return found


def _median(seconds: list[float]) -> float:
    return round(statistics.median(seconds), 3)


def _p95(seconds: list[float]) -> float:
    return round(sorted(seconds)[-1 - len(seconds) // 20], 3)


async def _warm_up(hub: Hub, homes: int) -> None:
    """A first session, which makes what later ones find; and the first `homes` users' homes are known."""
    name = hub.people[0]
    await hub.start(name)
    await hub.ready(name)
    if hub.kind == "ours":
        await hub.told(f"homes?count={homes}")
    await hub.stop(name)


async def _crowd(hub: Hub, names: list[str], api: Cluster) -> Crowd:
    """Has everybody start a session at once, and waits until all are ready or have failed."""
    calls = await api.counts()
    before = await hub.told("state?fresh=yes")
    began = time.time()
    answers = await asyncio.gather(*(hub.start(name) for name in names))
    with contextlib.suppress(TimeoutError):  # those that are not ready by then have failed
        await until(hub.is_settled, "the crowd ready", PATIENCE - (time.time() - began), PAUSE)
    after, times = await hub.told("state"), await hub.told("times")
    return Crowd(
        ready=after["ready"] - before["ready"],
        refused=sum(1 for status in answers if status not in (201, 202)),
        seconds=max(times.values(), default=began) - began,
        stop=after["longest stop"],
        cpu=after["cpu"] - before["cpu"],
        calls=await api.counts() - calls,
    )


# A thousand


@dataclass(frozen=True)
class Full:
    """A hub with sessions of everybody."""

    crowd: Crowd
    memory: float
    """kB for each session."""
    flood: float
    """kB more after many events."""


async def _many(place: Place, folder: Path) -> dict[str, Any]:
    names = place.people[:USERS]
    async with cluster(folder) as api, place.hub("none", api) as hub:
        nothing = await _fill(hub, names, api)
    async with cluster(folder) as api, place.hub("stock", api) as hub:
        stock = await _fill(hub, names, api, events=EVENTS)
    async with cluster(folder) as api:
        kept = place.fresh("ours")
        async with place.hub("ours", api, kept) as hub:
            ours = await _fill(hub, names, api, events=EVENTS)
            polls = await _polls(hub, api)
        restart = await _restart(place, kept, api)
    above = ours.memory - nothing.memory
    return {
        f"{USERS} at once": {
            "ours": ours.crowd.figures(USERS),
            "stock": stock.crowd.figures(USERS),
            "a spawner that costs nothing": nothing.crowd.figures(USERS),
            "limit": STOP_LIMIT,
            "within the limit": ours.crowd.is_well(USERS) and ours.crowd.stop <= STOP_LIMIT,
        },
        "polls": polls,
        "memory": {
            "what": f"kB of the hub's memory for each of {USERS} sessions",
            "ours": round(ours.memory, 1),
            "stock": round(stock.memory, 1),
            "a spawner that costs nothing": round(nothing.memory, 1),
            f"ours, MB more after {EVENTS} events": round(ours.flood / 1000, 1),
            f"stock, MB more after {EVENTS} events": round(stock.flood / 1000, 1),
            "ours above nothing": round(above, 1),
            "limit": MEMORY_LIMIT,
            "within the limit": above <= MEMORY_LIMIT,
        },
        "restart": restart,
    }


async def _fill(hub: Hub, names: list[str], api: Cluster, events: int = 0) -> Full:
    await _warm_up(hub, homes=len(names))
    empty = (await hub.told("memory"))["kB"]
    crowd = await _crowd(hub, names, api)
    usual = await calm(hub, CALM)
    full = (await hub.told("memory"))["kB"]
    if events:
        await api.flood(events)
        await calm(hub, usual + CALM)
    flooded = (await hub.told("memory"))["kB"]
    return Full(crowd, (full - empty) / max(crowd.ready, 1), flooded - full)


async def _polls(hub: Hub, api: Cluster) -> dict[str, Any]:
    """Calls of the API while all sessions are polled, by the hub as usual and once more by us.

    Credentials that are renewed meanwhile are none of them: each is one patch of a Secret.
    """
    before = await api.counts()
    asked = await hub.told("polls")
    await asyncio.sleep(POLLS)
    made = await api.counts() - before
    renewed = made.pop("patch secrets", 0)
    calls = made.total()
    return {
        "what": f"calls of the Kubernetes API while each of {asked['asked']} sessions is polled 3 times",
        "ours": calls,
        "patches of Secrets by renewals meanwhile": renewed,
        "limit": 0,
        "within the limit": calls == 0 and asked["running"] == asked["asked"],
    }


async def _restart(place: Place, kept: Path, api: Cluster) -> dict[str, Any]:
    """Starts again a hub that was killed, and sees what becomes of its sessions."""
    before, began = await api.counts(), time.monotonic()
    async with place.hub("ours", api, kept) as hub:
        seconds = time.monotonic() - began

        async def all_ready() -> bool:
            return int((await hub.told("state"))["ready"]) == USERS

        with contextlib.suppress(TimeoutError):  # the figures tell
            await until(all_ready, "all sessions ready", PATIENCE / 5)
        all_seconds = time.monotonic() - began
        await asyncio.sleep(POLLS)  # in which the hub sees how they do
        state, calls = await hub.told("state"), await api.counts() - before
    return {
        "what": f"a hub with {USERS} sessions that is killed and started again",
        "seconds until the API answers": round(seconds, 1),
        "seconds until all sessions are ready": round(all_seconds, 1),
        "sessions ready after two polls of each": state["ready"],
        "pods made": calls["create pods"],
        "pods deleted": calls["delete pods"],
        "longest stop of the hub's loop": round(state["longest stop"], 3),
        "limit": RESTART_LIMIT,
        "within the limit": seconds <= RESTART_LIMIT
        and state["ready"] == USERS
        and not calls["create pods"] + calls["delete pods"],
    }
