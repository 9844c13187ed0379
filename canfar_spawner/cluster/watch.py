"""Lists and watches of the Kubernetes API: what is known of all sessions' pods, and who waits for which."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from prometheus_client import Gauge

from canfar_spawner.cluster.api import Api, ApiRefused, ApiUnavailable
from canfar_spawner.cluster.state import PodEvent, PodState, reduce_event, reduce_pod

log = logging.getLogger("canfar.cluster")

_Kept = TypeVar("_Kept")

CONNECTED = Gauge(
    "canfar_cluster_connected", "Whether the API server answers a watch: 1, or 0 if it does not.", ["watch"]
)

_SECONDS = 300  # of one watch; then the server ends it, and the next goes on from there
_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # seconds before another attempt


class Watch:
    """Follows one collection for as long as it runs: a list, and watches from there on.

    A watch that breaks off goes on from where it was. A new list follows only where the server has forgotten
    that place (410 Gone). Subclasses say what they keep, and what the metrics call it.
    """

    name = ""

    def __init__(self, api: Api, path: str, **query: str) -> None:
        self._api, self._path, self._query = api, path, query
        self._version = ""
        self._task: asyncio.Task[None] | None = None
        self.is_connected = False
        """Whether the server answered last; if not, what is known may have changed."""
        self.listed = asyncio.Event()
        """Set once all is known that there was at the start."""

    def start(self) -> None:
        """Begin, unless it has begun."""
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        pause = _PAUSE
        while True:
            try:
                if not self._version:
                    self._version = await self._list()
                    self.listed.set()
                    self._connected(True)
                await self._follow()
                pause = _PAUSE
            except ApiRefused as refused:
                if refused.status != 410:
                    log.error("%s cannot be watched: %s", self._path, refused)
                    self._note(False)
                    await asyncio.sleep(_LONGEST_PAUSE)
                self._version = ""
            except ApiUnavailable as error:
                self._connected(False, str(error))
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
                pause = min(2 * pause, _LONGEST_PAUSE)
            except Exception:  # an answer that nobody foresaw must not make the hub deaf
                log.exception("A watch of %s failed; it begins anew.", self._path)
                self._note(False)
                self._version = ""
                await asyncio.sleep(_LONGEST_PAUSE)

    async def _follow(self) -> None:
        query = {**self._query, "resourceVersion": self._version}
        opened = partial(self._connected, True)
        async with self._api.events(self._path, _SECONDS, opened, **query) as events:
            async for event in events:
                found = event["object"]
                if event["type"] == "ERROR":
                    raise ApiRefused(int(found.get("code") or 410), "", str(found.get("message")))
                self._version = found["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    self.apply(event["type"], found)

    def _connected(self, now: bool, why: str = "") -> None:
        if now != self.is_connected and (self.listed.is_set() or not now):
            log.info("The API server answers again.") if now else log.warning(
                "The API server does not answer (%s); sessions run on.", why
            )
        self._note(now)

    def _note(self, now: bool) -> None:
        self.is_connected = now
        CONNECTED.labels(self.name).set(now)

    async def _all(self, reduce: Callable[[Mapping[str, Any]], _Kept]) -> tuple[dict[str, _Kept], str]:
        """What is kept of each object there is, by its name, and the version to watch from."""
        found: dict[str, _Kept] = {}
        version = ""
        async for page in self._api.pages(self._path, **self._query):
            found |= {one["metadata"]["name"]: reduce(one) for one in page.get("items") or ()}
            version = page["metadata"]["resourceVersion"]
        return found, version

    async def _list(self) -> str:
        """Reads the collection, and gives the version to watch from."""
        raise NotImplementedError

    def apply(self, kind: str, found: Mapping[str, Any]) -> None:
        """Takes one event: `kind` is ADDED, MODIFIED or DELETED."""
        raise NotImplementedError


class PodWatch(Watch):
    """The pods of one namespace that carry the labels of sessions."""

    name = "sessions"

    def __init__(self, api: Api, namespace: str, selector: str) -> None:
        super().__init__(api, f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector)
        self.pods: dict[str, PodState] = {}
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)

    async def changed(self, name: str, seen: PodState | None) -> PodState | None:
        """The pod once it is other than `seen`; None when it is gone."""
        while (now := self.pods.get(name)) == seen:
            future = asyncio.get_running_loop().create_future()
            self._waiting[name].add(future)
            try:
                await future
            finally:
                self._forget(name, future)
        return now

    def _forget(self, name: str, future: asyncio.Future[None]) -> None:
        self._waiting[name].discard(future)
        if not self._waiting[name]:
            del self._waiting[name]

    async def _list(self) -> str:
        found, version = await self._all(reduce_pod)
        before, self.pods = self.pods, found
        for name in before.keys() | found.keys():
            if before.get(name) != found.get(name):
                self._tell(name)
        return version

    def apply(self, kind: str, found: Mapping[str, Any]) -> None:
        """Keeps what is new of a pod, and wakes who waits for it."""
        name = found["metadata"]["name"]
        before = self.pods.get(name)
        if kind == "DELETED":
            self.pods.pop(name, None)
        else:
            self.pods[name] = reduce_pod(found)
        if self.pods.get(name) != before:
            self._tell(name)

    def _tell(self, name: str) -> None:
        for future in self._waiting.get(name, ()):
            if not future.done():
                future.set_result(None)


class EventWatch(Watch):
    """The events about pods of one namespace, for those whose start is followed. Nothing is kept of others."""

    name = "events"

    def __init__(self, api: Api, namespace: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/events"
        super().__init__(api, path, fieldSelector="involvedObject.kind=Pod")
        self._listeners: dict[str, Callable[[PodEvent], None]] = {}

    def listen(self, pod: str, listener: Callable[[PodEvent], None]) -> None:
        """Has `listener` called with each event of that pod from now on, until `forget`."""
        self._listeners[pod] = listener

    def forget(self, pod: str) -> None:
        """Ends what `listen` began."""
        self._listeners.pop(pod, None)

    async def _list(self) -> str:
        """Only asks where the present is: what was, nobody waits for."""
        page = await self._api.get(self._path, limit=1, **self._query)
        return str(page["metadata"]["resourceVersion"])

    def apply(self, kind: str, found: Mapping[str, Any]) -> None:
        """Tells who listens."""
        listener = self._listeners.get((found.get("involvedObject") or {}).get("name", ""))
        if listener is not None and kind != "DELETED":
            listener(reduce_event(found))
