"""A fake Kubernetes API server on a thread of its own, with faults and pod lives at the test's command.

It speaks the real protocol over plain HTTP, so that the real clients are tested. What it does is held against a
real API server by ``tests/support/kubernetes_contract.py``. ``python -m tests.support.kubernetes_api --help``
runs it as a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import threading
from collections.abc import Callable, Coroutine
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.support.kubernetes_objects import RESOURCES, ApiError, Object, Resource, clone, merge_patch
from tests.support.kubernetes_pods import Behaviour, Crash, Pull, Which
from tests.support.kubernetes_server import Fault, Request, Server
from tests.support.ports import free_port

__all__ = ["ApiError", "Behaviour", "Crash", "FakeKubernetes", "Fault", "Pull", "Request"]

Answer = TypeVar("Answer")

HOME_IS_THERE = Crash(code=0, message='{"home": "there"}')
"""How the container of a Job ends that looked at a home."""


class FakeKubernetes:
    """The server as tests see it. Every method may be called from any thread.

    ``behaviour`` is how pods live that ``behave`` says nothing of: they run and are ready at once.
    ``padding`` adds ``managedFields`` as real objects have, for measurements of memory.
    """

    def __init__(
        self,
        namespace: str = "sessions",
        port: int = 0,
        behaviour: Behaviour | None = None,
        padding: bool = False,
    ) -> None:
        self.namespace = namespace
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._behaviour = behaviour or Behaviour()
        self._padding = padding
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="fake-kubernetes", daemon=True)
        self._server: Server

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._wait(self._start())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._server.close())
        errors = self._server.kubelet.errors
        self._end()
        if errors:
            raise RuntimeError("the fake Kubernetes has failed") from errors[0]

    async def _start(self) -> None:
        self._server = Server(self.namespace, self._behaviour, self._padding)
        await self._server.start(self.port)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _wait(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _do(self, work: Callable[[], Answer]) -> Answer:
        """Does something on the server's loop, where nothing else happens meanwhile."""
        if threading.current_thread() is self._thread:
            return work()

        async def there() -> Answer:
            return work()

        return self._wait(there())

    def kubeconfig(self, path: Path) -> Path:
        """Writes a kubeconfig file for this server."""
        place = {"name": "fake", "cluster": {"server": self.url}}
        context = {"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": self.namespace}}
        user = {"name": "fake", "user": {"token": "fake"}}
        head = {"apiVersion": "v1", "kind": "Config", "current-context": "fake"}
        # JSON is YAML.
        path.write_text(json.dumps({**head, "clusters": [place], "contexts": [context], "users": [user]}))
        return path

    # ---- what happens in the cluster

    def behave(self, which: Which, behaviour: Behaviour) -> None:
        """How pods live, from now on: by name, by label selector (with ``=``), or by a function of the pod."""
        self._do(lambda: self._server.kubelet.behave(which, behaviour))

    def node_ready(self, name: str, ready: bool) -> None:
        """A node goes, and its kubelet with it, or comes back."""
        self._do(lambda: self._server.kubelet.node_ready(name, ready))

    def quota(
        self, message: str = "exceeded quota: sessions, requested: pods=1, used: pods=10, limited: pods=10"
    ) -> None:
        """Refuses new pods: ``pods "x" is forbidden: <message>``. Empty: accepts them again."""
        self._do(lambda: self._server.set_quota(message))

    def expire_jobs(self) -> int:
        """Deletes the finished Jobs that have ``ttlSecondsAfterFinished``, and returns how many."""
        return self._do(lambda: self._server.jobs.expire())

    def flood(self, count: int, namespace: str = "") -> None:
        """Emits Events about a pod that is nobody's."""
        self._do(lambda: self._server.flood(count, namespace or self.namespace))

    def create(self, resource: str, body: Object, namespace: str = "") -> Object:
        """Makes an object behind everybody's back. Raises ApiError."""
        kind = RESOURCES[resource]
        place = self._place(kind, namespace)
        made: Object = self._do(lambda: clone(self._server.store.create(kind, place, body)))
        return made

    def edit(self, resource: str, name: str, patch: Object, namespace: str = "") -> Object:
        """Merges a patch into an object, its status too. Raises KeyError if there is none."""
        kind = RESOURCES[resource]

        def change(item: Object) -> None:
            item |= merge_patch(item, patch)

        place = self._place(kind, namespace)
        found = self._do(lambda: clone(self._server.store.update(resource, place, name, change)))
        if found is None:
            raise KeyError(name)
        return dict(found)

    def delete(self, resource: str, name: str, grace: int | None = None, namespace: str = "") -> None:
        """Deletes an object as somebody else would; ``grace`` is in seconds. Raises ApiError(404)."""
        kind = RESOURCES[resource]
        options = {"propagationPolicy": "Background", "gracePeriodSeconds": grace}
        self._do(lambda: self._server.store.delete(kind, self._place(kind, namespace), name, options))

    # ---- what goes wrong with the API

    def fault(self, fault: Fault | None = None, **what: Any) -> Fault:
        """Puts a fault in force: one that was made, or the arguments of one."""
        made = fault or Fault(**what)
        self._do(lambda: self._server.arm(made))
        return made

    def heal(self, fault: Fault | None = None) -> None:
        """Takes back a fault, or all of them, and ends their delays."""
        self._do(lambda: self._server.heal(fault))

    def drop_watches(self) -> None:
        """Breaks the connection of every watch."""
        self._do(lambda: self._server.drop_watches())

    def bookmark(self) -> None:
        """Sends a bookmark to every watch that allows it."""

        def send() -> None:
            for watch in self._server.store.watches:
                if watch.bookmarks:
                    watch.lines.put_nowait(self._server.store.bookmark(watch))

        self._do(send)

    def compact(self, by_status: bool = False) -> None:
        """Forgets the history: who watches from before gets 410, as an event or ``by_status`` of the answer."""

        def forget() -> None:
            self._server.store.gone_by_status = by_status
            self._server.store.compact()

        self._do(forget)

    def down(self) -> None:
        """Refuses connections and breaks those that there are. What is stored stays, and pods live on."""
        self._wait(self._server.down())

    def up(self) -> None:
        """Serves again, on the same port."""
        self._wait(self._server.up(self.port))

    # ---- what tests ask

    @property
    def requests(self) -> list[Request]:
        """Every request so far, with those that went wrong."""
        return self._do(lambda: list(self._server.requests))

    def count(self, verb: str = "*", resource: str = "*") -> int:
        """How many requests there were; both are patterns as of a shell."""
        return sum(
            fnmatchcase(request.verb, verb) and fnmatchcase(request.resource, resource)
            for request in self.requests
        )

    def watching(self, resource: str) -> int:
        """How many watches of a resource are open."""
        return self._do(lambda: sum(watch.resource.plural == resource for watch in self._server.store.watches))

    def get(self, resource: str, name: str, namespace: str = "") -> Object | None:
        """An object as it is now; None if there is none."""
        kind = RESOURCES[resource]
        place = self._place(kind, namespace)
        found: Object | None = self._do(lambda: clone(self._server.store.find(resource, place, name)))
        return found

    def all(self, resource: str, namespace: str = "") -> list[Object]:
        """The objects of a resource in one namespace, by name."""
        place = self._place(RESOURCES[resource], namespace)
        found: list[Object] = self._do(lambda: clone(self._server.store.all(resource, place)))
        return found

    def pods(self) -> list[Object]:
        """The pods of the namespace."""
        return self.all("pods")

    def secrets(self) -> list[Object]:
        """The Secrets of the namespace."""
        return self.all("secrets")

    def events(self, name: str) -> list[str]:
        """The reasons of the Events about an object, in their order."""
        found = [event for event in self.all("events") if event["involvedObject"]["name"] == name]
        found.sort(key=lambda event: int(event["metadata"]["resourceVersion"]))
        return [event["reason"] for event in found]

    def _place(self, resource: Resource, namespace: str) -> str:
        return (namespace or self.namespace) if resource.namespaced else ""


def main() -> None:
    """Runs the server until SIGINT or SIGTERM; ``/-/counts`` and ``/-/times`` tell what has happened.

    ``POST /-/flood?count=N&namespace=NAME`` emits Events about a pod that is nobody's.
    """
    parser = argparse.ArgumentParser(prog="kubernetes_api", description="A fake Kubernetes API server.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--namespace", default="sessions")
    parser.add_argument("--pod-seconds", type=float, default=0.0, help="from a pod's creation to its readiness")
    parser.add_argument("--own-addresses", action="store_true", help="each pod gets an address of its own")
    parser.add_argument("--padding", action="store_true", help="objects are as large as real ones")
    parser.add_argument("--homes", action="store_true", help="Jobs that look at homes find them, at once")
    parser.add_argument("--kubeconfig", type=Path, help="where to write a kubeconfig file")
    chosen = parser.parse_args()
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    address = "" if chosen.own_addresses else "127.0.0.1"
    behaviour = Behaviour(start_seconds=chosen.pod_seconds, address=address)
    with FakeKubernetes(chosen.namespace, chosen.port, behaviour, chosen.padding) as kube:
        if chosen.homes:
            kube.behave("app.kubernetes.io/component=home", Behaviour(crash=HOME_IS_THERE))
        if chosen.kubeconfig:
            kube.kubeconfig(chosen.kubeconfig)
        print(kube.url, flush=True)
        signal.sigwait(signals)


if __name__ == "__main__":
    main()
