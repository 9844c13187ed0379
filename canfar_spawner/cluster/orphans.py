"""Pods that no session of the hub knows, as after the loss of its database: which they are, and their end."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from prometheus_client import Counter

from canfar_spawner.cluster.api import Api, ApiRefused, ApiUnavailable
from canfar_spawner.cluster.state import PodState

log = logging.getLogger("canfar.cluster")

ORPHANS = Counter(
    "canfar_orphans",
    "What was resolved: a `pod` without a session was removed, a `session` without a pod was ended.",
    ["what"],
)
for _what in ("pod", "session"):
    ORPHANS.labels(_what)  # from 0 on, so that the first one is a rise


def orphans(pods: Iterable[PodState], starts: Collection[str]) -> list[PodState]:
    """The pods of sessions that are of none of these starts, and are not being deleted. Pure."""
    return [one for one in pods if one.start and one.start not in starts and not one.is_deleting]


class Sweeper:
    """Removes the orphans of one namespace that were ones at the last round, too: a start may be under way."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api, self._path = api, f"/api/v1/namespaces/{namespace}/pods"
        self._suspects: frozenset[str] = frozenset()

    async def round(self, pods: Collection[PodState], starts: Collection[str]) -> None:
        """Judges what the watch knows now. A fault of the API server is for the next round to mend."""
        found = orphans(pods, starts)
        for one in found:
            if one.uid in self._suspects:
                await self._remove(one)
        self._suspects = frozenset(one.uid for one in found)

    async def _remove(self, orphan: PodState) -> None:
        log.warning("Pod %s of %s/%s is removed: no session.", orphan.name, orphan.owner, orphan.server)
        try:
            await self._api.delete(f"{self._path}/{orphan.name}", uid=orphan.uid)
            ORPHANS.labels("pod").inc()
        except (ApiUnavailable, ApiRefused) as error:
            log.warning("Pod %s was not removed: %s", orphan.name, error)
