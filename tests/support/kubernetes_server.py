"""The HTTP side of the fake Kubernetes: requests, faults and watches."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from aiohttp import web

from tests.support.kubernetes_events import NODE, Recorder
from tests.support.kubernetes_jobs import Jobs
from tests.support.kubernetes_objects import (
    RESOURCES,
    ApiError,
    Object,
    Resource,
    Target,
    bad_request,
    now,
    refusal,
    target,
    verb,
)
from tests.support.kubernetes_pods import Behaviour, Kubelet
from tests.support.kubernetes_status import NODE_ADDRESS, condition, fill_in
from tests.support.kubernetes_store import Change, Store, Watch, encode

WATCH_SECONDS = 1800.0  # how long a watch lasts that does not say so itself
FLOOD_PIECE = 100  # Events


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    verb: str
    """As RBAC has it: get, list, watch, create, update, patch, delete, deletecollection."""
    resource: str
    """As in ``pods`` and ``pods/log``."""
    name: str
    """Empty for a collection, and for what is created."""
    time: float
    """Seconds of ``time.monotonic``."""
    namespace: str = ""
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """What goes wrong with the requests that match. Names are patterns as of a shell."""

    verb: str = "*"
    resource: str = "*"
    name: str = "*"
    """Of the object, also of one that is created."""
    took_effect: bool = False
    """Whether the request is carried out first, so that only the answer is lost, late or wrong."""
    delay: float = 0.0
    """Seconds before anything else happens; it ends at once when the fault is taken back."""
    drop: bool = False
    """The connection is closed without an answer. Some clients then ask once more by themselves, aiohttp's what
    changes nothing or can be repeated: see ``times``."""
    status: int = 0
    """Answered in place of the right answer."""
    retry_after: int | None = None
    """Seconds, for the header of that name."""
    message: str = "the fake was told to fail"
    garbage: bytes = b""
    """Answered with 200 in place of the right answer."""
    times: int | None = 1
    """How many requests it meets; None: all until it is taken back."""

    def meets(self, request: Request, name: str) -> bool:
        pairs = ((request.verb, self.verb), (request.resource, self.resource), (name, self.name))
        return all(fnmatchcase(is_, pattern) for is_, pattern in pairs)


class _Armed:
    """A fault that is in force."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.healed = asyncio.Event()
        self._left = math.inf if fault.times is None else fault.times

    def takes(self, request: Request, name: str) -> bool:
        """Whether the fault meets a request, which then counts."""
        met = self._left > 0 and self.fault.meets(request, name)
        self._left -= met
        return met


_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class Server:
    """The HTTP side; all of it runs on the one event loop."""

    def __init__(self, namespace: str, behaviour: Behaviour, padding: bool) -> None:
        self.store = Store()
        self.record = Recorder(self.store)
        self.kubelet = Kubelet(self.store, self.record, behaviour)
        self.jobs = Jobs(self.store, self.record)
        self.requests: list[Request] = []
        self._armed: list[_Armed] = []
        self.quota = ""
        self.ready_times: dict[str, tuple[float, float]] = {}
        self._made: dict[str, float] = {}
        self._watching: set[asyncio.Transport] = set()
        self._working: set[asyncio.Task[web.StreamResponse]] = set()
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self.store.admission += [fill_in, self._admit]
        if padding:
            self.store.admission.append(pad)
        self.store.listeners.append(self._see)
        self.store.create(RESOURCES["nodes"], "", node(NODE))
        self.store.update("nodes", "", NODE, lambda found: found.update(status=node_status()))
        for name in sorted({"default", namespace}):
            self.store.create(RESOURCES["namespaces"], "", {"metadata": {"name": name}})

    async def start(self, port: int) -> None:
        application = web.Application(client_max_size=2**24)
        application.router.add_get("/-/counts", self._counts)
        application.router.add_get("/-/times", self._times)
        application.router.add_post("/-/flood", self._flood)
        for path in ("/healthz", "/livez", "/readyz"):
            application.router.add_get(path, self._healthy)
        application.router.add_get("/version", self._version)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=0.1,
            keepalive_timeout=3600,
        )
        await self._runner.setup()
        await self.up(port)

    async def up(self, port: int) -> None:
        if self._site is None and self._runner:
            self._site = web.TCPSite(self._runner, "127.0.0.1", port, reuse_address=True)
            await self._site.start()

    async def down(self) -> None:
        """Refuses connections and breaks those that there are."""
        site, self._site = self._site, None
        if site and self._runner and self._runner.server:
            await site.stop()
            for connection in list(self._runner.server.connections):
                if connection.transport:
                    connection.transport.abort()

    async def close(self) -> None:
        await self.down()
        for armed in self._armed:
            armed.healed.set()
        await self.kubelet.close()
        if self._runner:
            await self._runner.cleanup()

    def arm(self, fault: Fault) -> None:
        """Puts a fault in force."""
        self._armed.append(_Armed(fault))

    def heal(self, fault: Fault | None) -> None:
        """Takes back one fault, or all."""
        for armed in list(self._armed):
            if fault is None or armed.fault == fault:
                armed.healed.set()
                self._armed.remove(armed)

    def drop_watches(self) -> None:
        for transport in list(self._watching):
            transport.abort()

    def flood(self, count: int, namespace: str) -> None:
        """Emits Events about a pod that is nobody's."""
        metadata = {"name": "flood", "namespace": namespace, "uid": "flood", "resourceVersion": "1"}
        pod = {"kind": "Pod", "apiVersion": "v1", "metadata": metadata}
        for index in range(count):
            self.record(pod, "Flood", f"Event {index + 1} of {count}.")

    def set_quota(self, message: str) -> None:
        self.quota = message
        self.jobs.sync_all()

    # ---- what the API server and its controllers do on their own

    def _admit(self, resource: Resource, item: Object) -> None:
        if resource.plural == "pods" and self.quota:
            raise refusal(resource, item["metadata"]["name"], 403, "Forbidden", f"is forbidden: {self.quota}")
        if resource.plural == "namespaces":
            item["status"] = {"phase": "Active"}
            labels = item["metadata"].setdefault("labels", {})
            labels["kubernetes.io/metadata.name"] = item["metadata"]["name"]

    def _see(self, change: Change) -> None:
        plural, _, name = change.key
        if plural == "namespaces" and change.type == "ADDED":
            self.store.create(RESOURCES["serviceaccounts"], name, {"metadata": {"name": "default"}})
            certificates = {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": ""}}
            self.store.create(RESOURCES["configmaps"], name, certificates)
        if plural == "pods" and change.type == "ADDED":
            self._made[name] = time.time()
        if plural == "pods" and change.type == "MODIFIED" and name in self._made:
            conditions = change.object["status"].get("conditions", [])
            if any(one["type"] == "Ready" and one["status"] == "True" for one in conditions):
                self.ready_times[name] = (self._made.pop(name), time.time())

    # ---- requests

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        # Watches end with their clients. Everything else is carried out once it has arrived.
        try:
            asked = target(request.path, request.query)
            what = verb(request.method, asked)
            body = await _body(request)
            name = asked.name or str(body.get("metadata", {}).get("name", "") if isinstance(body, dict) else "")
            full = f"{asked.resource.plural}/{asked.subresource}".rstrip("/")
            noted = Request(what, full, asked.name, time.monotonic(), asked.namespace, asked.query)
            self.requests.append(noted)
            armed = next((armed for armed in self._armed if armed.takes(noted, name)), None)
            work = self._answer(request, noted, asked, body, armed)
            if what == "watch":
                return await work
            task = asyncio.create_task(work)
            self._working.add(task)
            task.add_done_callback(self._working.discard)
            return await asyncio.shield(task)
        except ApiError as error:
            return _refused(error)

    async def _answer(
        self, request: web.Request, noted: Request, asked: Target, body: Any, armed: _Armed | None
    ) -> web.StreamResponse:
        if armed is None:
            return await self._carry_out(request, noted, asked, body)
        fault, answer = armed.fault, None
        if fault.took_effect:
            answer = await self._carry_out(request, noted, asked, body)
        if fault.delay:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(armed.healed.wait(), fault.delay)
        if fault.drop:
            if request.transport:
                request.transport.abort()
            return web.Response(status=500)
        if fault.garbage:
            return web.Response(body=fault.garbage, content_type="application/json")
        if fault.status:
            error = ApiError(fault.status, _REASONS.get(fault.status, "Unknown"), fault.message)
            return _refused(error, fault.retry_after)
        return answer or await self._carry_out(request, noted, asked, body)

    async def _carry_out(
        self, request: web.Request, noted: Request, asked: Target, body: Any
    ) -> web.StreamResponse:
        try:
            if noted.verb == "watch":
                return await self._watch(request, asked)
            if asked.subresource == "log":
                return web.Response(text=self._log(asked), content_type="text/plain")
            done = self._do(noted.verb, asked, body)
            return web.json_response(done, status=201 if noted.verb == "create" else 200)
        except ApiError as error:
            return _refused(error)

    def _do(self, what: str, asked: Target, body: Any) -> Object:
        resource, namespace, name = asked.resource, asked.namespace, asked.name
        if asked.subresource not in {"", "status"} or (asked.subresource and not resource.has_status):
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        match what:
            case "list":
                return self.store.listing(resource, namespace, asked.query)
            case "get":
                return self.store.get(resource, namespace, name)
            case "create":
                return self.store.create(resource, namespace, body)
            case "update":
                return self.store.replace(resource, namespace, name, body, asked.subresource)
            case "patch":
                return self.store.patch(resource, namespace, name, body, asked.subresource)
            case "delete":
                return self.store.delete(resource, namespace, name, _options(asked, body))
        found = self.store.listing(resource, namespace, {**asked.query, "limit": ""})
        for item in found["items"]:
            place = item["metadata"].get("namespace", "")
            self.store.delete(resource, place, item["metadata"]["name"], _options(asked, body))
        return found

    def _log(self, asked: Target) -> str:
        pod = self.store.get(asked.resource, asked.namespace, asked.name)
        previous = asked.query.get("previous", "").lower() in {"true", "1"}
        text = self.kubelet.log(pod, asked.query.get("container", ""), previous)
        if "tailLines" in asked.query:
            count = int(asked.query["tailLines"])
            text = "".join(text.splitlines(keepends=True)[-count:] if count else [])
        if "limitBytes" in asked.query:
            text = text.encode()[: int(asked.query["limitBytes"])].decode(errors="ignore")
        return text

    # ---- watches

    async def _watch(self, request: web.Request, asked: Target) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        try:
            watch = self.store.watch(asked.resource, asked.namespace, asked.query)
        except ApiError as error:
            if error.code != 410 or self.store.gone_by_status:
                raise
            await response.prepare(request)
            await response.write(encode("ERROR", error.status()))
            return response
        transport = request.transport
        assert transport
        self._watching.add(transport)
        try:
            await response.prepare(request)
            seconds = float(asked.query.get("timeoutSeconds") or WATCH_SECONDS)
            async for lines in _lines(watch, seconds):
                await response.write(lines)
            if watch.bookmarks:
                await response.write(self.store.bookmark(watch))
        except ConnectionError:
            pass
        finally:
            self._watching.discard(transport)
            self.store.watches.discard(watch)
        return response

    # ---- beside the API

    async def _counts(self, _: web.Request) -> web.Response:
        counts = Counter(f"{request.verb} {request.resource}" for request in self.requests)
        return web.json_response(counts)

    async def _times(self, _: web.Request) -> web.Response:
        return web.json_response(self.ready_times)

    async def _flood(self, request: web.Request) -> web.Response:
        """Emits ``count`` Events in ``namespace``, in pieces, so that everybody else is served meanwhile."""
        count, namespace = int(request.query["count"]), request.query["namespace"]
        for first in range(0, count, FLOOD_PIECE):
            self.flood(min(FLOOD_PIECE, count - first), namespace)
            await asyncio.sleep(0)
        return web.json_response({"count": count})

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response(
            {"major": "1", "minor": "34", "gitVersion": "v1.34.4", "platform": "linux/amd64"}
        )


async def _lines(watch: Watch, seconds: float) -> AsyncIterator[bytes]:
    """What a watch has to say until its time is over, as much at once as there is."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                lines = [await watch.lines.get()]
                while not watch.lines.empty():
                    lines.append(watch.lines.get_nowait())
                yield b"".join(lines)


async def _body(request: web.Request) -> Any:
    """The body of a request; an empty object if it has none. Raises ApiError(400, 415)."""
    raw = await request.read()
    if request.method == "PATCH" and request.content_type not in {
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
    }:
        message = f"the body of the request was in an unknown format - {request.content_type}"
        raise ApiError(415, "UnsupportedMediaType", message)
    try:
        body = json.loads(raw) if raw else {}
    except ValueError as error:
        raise bad_request(f"the object provided is unrecognized: {error}") from error
    if isinstance(body, list) != (request.content_type == "application/json-patch+json"):
        raise bad_request("the object provided is unrecognized")
    return body


def _options(asked: Target, body: Any) -> Object:
    """How to delete: the body, or the query."""
    options = dict(body)
    if "gracePeriodSeconds" in asked.query:
        options.setdefault("gracePeriodSeconds", int(asked.query["gracePeriodSeconds"]))
    if "propagationPolicy" in asked.query:
        options.setdefault("propagationPolicy", asked.query["propagationPolicy"])
    return options


def _refused(error: ApiError, retry_after: int | None = None) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return web.json_response(error.status(), status=error.code, headers=headers)


def node(name: str) -> Object:
    return {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {}}


def node_status() -> Object:
    room = {"cpu": "2", "memory": "8Gi", "pods": "110"}
    ready = condition(
        [], "Ready", status="True", reason="KubeletReady", message="kubelet is posting ready status"
    )
    addresses = [{"type": "InternalIP", "address": NODE_ADDRESS}]
    return {"capacity": room, "allocatable": room, "conditions": [ready], "addresses": addresses}


_FIELDS: Object = {f"f:field-{index:03}": {".": {}, "f:name": {}, "f:value": {}} for index in range(92)}


def pad(resource: Resource, item: Object) -> None:
    """Makes an object as large as real ones are, by about 5 kB of ``managedFields``; Events have few."""
    fields = {} if resource.plural == "events" else _FIELDS
    entry = {"apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": fields}, "time": now()}
    item["metadata"]["managedFields"] = [{"manager": "fake", "operation": "Update", **entry}]
