"""The objects of the fake Kubernetes API server: versions, history, watches, deletion and garbage collection.

Nothing here waits or locks: the store belongs to one event loop, and only that loop may touch it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.kubernetes_objects import (
    RESOURCES,
    ApiError,
    Object,
    Predicate,
    Resource,
    bad_request,
    clone,
    conflict,
    expired,
    field_selector,
    invalid,
    json_patch,
    label_selector,
    merge_patch,
    not_found,
    now,
    refusal,
    stamp,
    validate,
)

HISTORY = 20_000  # changes of one resource that a watch can still ask for
SUFFIX = "bcdfghjklmnpqrstvwxz2456789"  # the letters of generated names

Key = tuple[str, str, str]
"""Resource, namespace (empty for the cluster's own) and name."""


@dataclass(frozen=True)
class Change:
    """One change of one object. The objects are never altered."""

    version: int
    type: str
    key: Key
    object: Object
    previous: Object | None
    _lines: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)

    def line(self, matches: Predicate) -> bytes:
        """How a watch sees it: what no longer matches is gone. Empty if it does not concern the watch."""
        before = self.previous is not None and matches(self.previous)
        after = self.type != "DELETED" and matches(self.object)
        if after:
            return self._line("MODIFIED" if before else "ADDED", self.object)
        if not before or self.previous is None:
            return b""
        if self.type == "DELETED":
            return self._line("DELETED", self.object)
        metadata = {**self.previous["metadata"], "resourceVersion": str(self.version)}
        return self._line("DELETED", {**self.previous, "metadata": metadata})

    def _line(self, type: str, item: Object) -> bytes:
        if type not in self._lines:
            self._lines[type] = encode(type, item)
        return self._lines[type]


def encode(type: str, item: Object) -> bytes:
    """One line of a watch."""
    return json.dumps({"type": type, "object": item}, separators=(",", ":")).encode() + b"\n"


class Watch:
    """What one watch has still to say."""

    def __init__(self, resource: Resource, namespace: str, matches: Predicate, bookmarks: bool) -> None:
        self.resource = resource
        self.namespace = namespace
        self.matches = matches
        self.bookmarks = bookmarks
        self.lines: asyncio.Queue[bytes] = asyncio.Queue()

    def see(self, change: Change) -> None:
        plural, namespace, _ = change.key
        if plural == self.resource.plural and self.namespace in {"", namespace}:
            line = change.line(self.matches)
            if line:
                self.lines.put_nowait(line)


class Store:
    """Every object by its key, and what became of it."""

    def __init__(self) -> None:
        self.version = 1
        self.gone_by_status = False
        """Whether a watch that asks too far back gets HTTP 410 and not an ERROR event."""
        self.admission: list[Callable[[Resource, Object], None]] = []
        """Asked before an object is made: they fill in defaults, or raise ApiError."""
        self.listeners: list[Callable[[Change], None]] = []
        """Told of every change, once it has taken effect."""
        self.watches: set[Watch] = set()
        self._objects: dict[Key, Object] = {}
        self._history: dict[str, deque[Change]] = {plural: deque() for plural in RESOURCES}
        self._compacted = 0
        self._owned: dict[str, set[Key]] = {}
        self._uids: set[str] = set()

    # ---- reading

    def all(self, plural: str, namespace: str = "") -> list[Object]:
        """The objects of one resource, in the order of their keys."""
        keys = sorted(key for key in self._objects if key[0] == plural and namespace in {"", key[1]})
        return [self._objects[key] for key in keys]

    def find(self, plural: str, namespace: str, name: str) -> Object | None:
        return self._objects.get((plural, namespace if RESOURCES[plural].namespaced else "", name))

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """One object. Raises ApiError(404)."""
        found = self.find(resource.plural, namespace, name)
        if found is None:
            raise not_found(resource, name)
        return found

    def listing(self, resource: Resource, namespace: str, query: Mapping[str, str]) -> Object:
        """The answer to a list request, in pages if it asks for them. Raises ApiError(400, 410, 504)."""
        asked = int(query.get("resourceVersion") or 0)
        if asked > self.version:
            message = f"Timeout: Too large resource version: {asked}, current: {self.version}"
            cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
            raise ApiError(504, "Timeout", message, {"causes": [cause], "retryAfterSeconds": 1})
        matches = selector(resource, query)
        items = [item for item in self.all(resource.plural, namespace) if matches(item)]
        version, after = self._resume(query.get("continue", ""))
        items = [item for item in items if _place(item) > after]
        metadata: Object = {"resourceVersion": str(version)}
        limit = int(query.get("limit") or 0)
        if limit and len(items) > limit:
            metadata["continue"] = _token(version, _place(items[limit - 1]))
            metadata["remainingItemCount"] = len(items) - limit
            items = items[:limit]
        # A real server's lists do not repeat the kind and the version of the API in each item.
        bare = [
            {key: value for key, value in item.items() if key not in {"kind", "apiVersion"}} for item in items
        ]
        kind = f"{resource.kind}List"
        return {"kind": kind, "apiVersion": resource.api_version, "metadata": metadata, "items": bare}

    def _resume(self, token: str) -> tuple[int, list[str]]:
        if not token:
            return self.version, []
        try:
            version, place = json.loads(base64.urlsafe_b64decode(token))
        except ValueError as error:
            raise bad_request("continue key is not valid") from error
        if version < self._compacted:
            raise expired(
                "The provided continue parameter is too old to display a consistent list result. "
                "You can start a new list without the continue parameter."
            )
        return version, place

    # ---- watching

    def watch(self, resource: Resource, namespace: str, query: Mapping[str, str]) -> Watch:
        """Opens a watch, filled with what came after the version that it names. Raises ApiError(400, 410)."""
        bookmarks = query.get("allowWatchBookmarks", "").lower() in {"true", "1"}
        watch = Watch(resource, namespace, selector(resource, query), bookmarks)
        asked = int(query.get("resourceVersion") or 0)
        if asked == 0:
            for item in self.all(resource.plural, namespace):
                if watch.matches(item):
                    watch.lines.put_nowait(encode("ADDED", item))
            if bookmarks:
                watch.lines.put_nowait(self.bookmark(watch, {"k8s.io/initial-events-end": "true"}))
        elif asked < self._compacted:
            raise expired(f"too old resource version: {asked} ({self._compacted})")
        else:
            for change in self._history[resource.plural]:
                if change.version > asked:
                    watch.see(change)
        self.watches.add(watch)
        return watch

    def bookmark(self, watch: Watch, annotations: Mapping[str, str] | None = None) -> bytes:
        """The line that says how far a watch has come."""
        metadata: Object = {"resourceVersion": str(self.version)}
        if annotations:
            metadata["annotations"] = dict(annotations)
        item = {"kind": watch.resource.kind, "apiVersion": watch.resource.api_version, "metadata": metadata}
        return encode("BOOKMARK", item)

    def compact(self) -> None:
        """Forgets the history. Watches that are open go on."""
        self._compacted = self.version
        for changes in self._history.values():
            changes.clear()

    # ---- writing

    def create(self, resource: Resource, namespace: str, body: Object) -> Object:
        """Makes an object. Raises ApiError(400, 403, 404, 409, 422)."""
        item = clone(body)
        metadata = item.setdefault("metadata", {})
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + "".join(random.choices(SUFFIX, k=5))
        name = metadata.get("name")
        if not name:
            raise invalid(resource, "", "metadata.name", "Required value: name or generateName is required")
        if resource.namespaced:
            if metadata.setdefault("namespace", namespace) != namespace:
                raise bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
            self._check_namespace(resource, namespace, name)
        for given in ("resourceVersion", "uid", "creationTimestamp", "deletionTimestamp", "managedFields"):
            metadata.pop(given, None)
        item |= {"kind": resource.kind, "apiVersion": resource.api_version}
        if resource.has_status:
            item.pop("status", None)
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
        _settle(resource, item)
        validate(resource, item)
        for admit in self.admission:
            admit(resource, item)
        if self.find(resource.plural, namespace, name) is not None:
            raise refusal(resource, name, 409, "AlreadyExists", "already exists")
        return self._put("ADDED", resource, item, None)

    def _check_namespace(self, resource: Resource, namespace: str, name: str) -> None:
        found = self.get(RESOURCES["namespaces"], "", namespace)
        if found["metadata"].get("deletionTimestamp"):
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise refusal(resource, name, 403, "Forbidden", f"is forbidden: {why}")

    def replace(
        self, resource: Resource, namespace: str, name: str, body: Object, subresource: str = ""
    ) -> Object:
        """What PUT does. Raises ApiError(404, 409, 422)."""
        found = self.get(resource, namespace, name)
        version = body.get("metadata", {}).get("resourceVersion")
        if version and version != found["metadata"]["resourceVersion"]:
            why = "the object has been modified; please apply your changes to the latest version and try again"
            raise conflict(resource, name, why)
        uid, own = body.get("metadata", {}).get("uid"), found["metadata"]["uid"]
        if uid and uid != own:
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {own}"
            raise conflict(resource, name, why)
        item = clone(body)
        if subresource == "status":
            item = {**found, "status": item.get("status", {})}
        elif resource.has_status:
            item["status"] = found.get("status", {})
        item["metadata"] = _kept(found["metadata"], item.get("metadata", {}))
        item |= {"kind": resource.kind, "apiVersion": resource.api_version}
        _settle(resource, item)
        validate(resource, item)
        if resource.plural == "pods" and item.get("spec") != found["spec"]:
            why = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`"
            raise invalid(resource, name, "spec", why)
        return self._changed(resource, found, item)

    def patch(self, resource: Resource, namespace: str, name: str, patch: Any, subresource: str = "") -> Object:
        """What PATCH does: a list is a JSON patch, an object a merge patch. Raises ApiError(404, 409, 422)."""
        found = self.get(resource, namespace, name)
        item = json_patch(found, patch) if isinstance(patch, list) else merge_patch(found, patch)
        return self.replace(resource, namespace, name, item, subresource)

    def update(self, plural: str, namespace: str, name: str, change: Callable[[Object], None]) -> Object | None:
        """Changes an object as a controller does, all parts of it. None if it is gone."""
        found = self.find(plural, namespace, name)
        if found is None:
            return None
        item = clone(found)
        change(item)
        return self._changed(RESOURCES[plural], found, item)

    def _changed(self, resource: Resource, found: Object, item: Object) -> Object:
        if item == found:
            return found
        metadata = item["metadata"]
        # What only finalizers held goes with the last of them.
        held = found["metadata"].get("finalizers") and not metadata.get("finalizers")
        if held and metadata.get("deletionTimestamp") and not metadata.get("deletionGracePeriodSeconds"):
            return self._pop(resource, item)
        return self._put("MODIFIED", resource, item, found)

    # ---- deleting

    def delete(self, resource: Resource, namespace: str, name: str, options: Object) -> Object:
        """What DELETE does. Raises ApiError(404, 409)."""
        found = self.get(resource, namespace, name)
        _check_preconditions(resource, found, options.get("preconditions") or {})
        policy = options.get("propagationPolicy") or ("Orphan" if resource.plural == "jobs" else "Background")
        if policy == "Orphan":
            self._orphan(found["metadata"]["uid"])
        if resource.plural == "namespaces":
            return self._delete_namespace(found)
        grace = _grace(found, options.get("gracePeriodSeconds")) if resource.plural == "pods" else 0
        if grace > 0:
            return self._terminate(resource, found, grace)
        gone = self.remove(resource, namespace, name) or found
        if resource.answers_deleted or self.find(resource.plural, namespace, name):
            return gone
        details = {
            "name": name,
            "group": resource.group,
            "kind": resource.plural,
            "uid": found["metadata"]["uid"],
        }
        details = {key: value for key, value in details.items() if value}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _terminate(self, resource: Resource, found: Object, grace: int) -> Object:
        already = found["metadata"].get("deletionGracePeriodSeconds")
        if already is not None and already <= grace:
            return found
        until = stamp(datetime.now(UTC) + timedelta(seconds=grace))
        ending = {"deletionTimestamp": until, "deletionGracePeriodSeconds": grace}
        return self._put("MODIFIED", resource, {**found, "metadata": {**found["metadata"], **ending}}, found)

    def remove(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """Takes an object away, or only marks it where finalizers hold it. None if it is gone already."""
        found = self.find(resource.plural, namespace, name)
        if found is None:
            return None
        if not found["metadata"].get("finalizers"):
            return self._pop(resource, found)
        ending = {"deletionTimestamp": now(), "deletionGracePeriodSeconds": 0}
        metadata = {**ending, **found["metadata"], "deletionGracePeriodSeconds": 0}
        return self._changed(resource, found, {**found, "metadata": metadata})

    def _delete_namespace(self, found: Object) -> Object:
        name = found["metadata"]["name"]
        ending = {"deletionTimestamp": now()}
        found = self._put(
            "MODIFIED",
            RESOURCES["namespaces"],
            {**found, "metadata": {**found["metadata"], **ending}, "status": {"phase": "Terminating"}},
            found,
        )
        for plural, _, member in [key for key in self._objects if key[1] == name]:
            if self.find(plural, name, member):
                self.delete(RESOURCES[plural], name, member, {})
        self._finish_namespace(name)
        return found

    def _finish_namespace(self, name: str) -> None:
        found = self.find("namespaces", "", name)
        if (
            found
            and found["metadata"].get("deletionTimestamp")
            and not any(key[1] == name for key in self._objects)
        ):
            self._pop(RESOURCES["namespaces"], found)

    # ---- the garbage collector

    def _orphan(self, uid: str) -> None:
        for plural, namespace, name in self._owned.pop(uid, set()):

            def disown(item: Object) -> None:
                owners = [owner for owner in item["metadata"].get("ownerReferences", []) if owner["uid"] != uid]
                item["metadata"]["ownerReferences"] = owners
                if not owners:
                    del item["metadata"]["ownerReferences"]

            self.update(plural, namespace, name, disown)

    def _collect(self, keys: Iterable[Key]) -> None:
        """Deletes those whose owners are all gone."""
        for plural, namespace, name in keys:
            found = self.find(plural, namespace, name)
            owners = found["metadata"].get("ownerReferences") if found else None
            if owners and not any(owner["uid"] in self._uids for owner in owners):
                self.delete(RESOURCES[plural], namespace, name, {"propagationPolicy": "Background"})

    # ---- the one place where anything changes

    def _put(self, type: str, resource: Resource, item: Object, previous: Object | None) -> Object:
        self.version += 1
        item = {**item, "metadata": {**item["metadata"], "resourceVersion": str(self.version)}}
        key = (resource.plural, item["metadata"].get("namespace", ""), item["metadata"]["name"])
        self._objects[key] = item
        self._uids.add(item["metadata"]["uid"])
        owners = item["metadata"].get("ownerReferences") or []
        for owner in owners:
            self._owned.setdefault(owner["uid"], set()).add(key)
        self._announce(Change(self.version, type, key, item, previous))
        if owners and not any(owner["uid"] in self._uids for owner in owners):
            asyncio.get_running_loop().call_soon(self._collect, [key])
        return item

    def _pop(self, resource: Resource, found: Object) -> Object:
        key = (resource.plural, found["metadata"].get("namespace", ""), found["metadata"]["name"])
        previous = self._objects.pop(key)
        self.version += 1
        item = {**found, "metadata": {**found["metadata"], "resourceVersion": str(self.version)}}
        uid = item["metadata"]["uid"]
        self._uids.discard(uid)
        self._announce(Change(self.version, "DELETED", key, item, previous))
        if dependants := self._owned.pop(uid, set()):
            asyncio.get_running_loop().call_soon(self._collect, sorted(dependants))
        if key[1]:
            self._finish_namespace(key[1])
        return item

    def _announce(self, change: Change) -> None:
        history = self._history[change.key[0]]
        history.append(change)
        if len(history) > HISTORY:
            self._compacted = max(self._compacted, history.popleft().version)
        for watch in self.watches:
            watch.see(change)
        for listener in self.listeners:
            listener(change)


def selector(resource: Resource, query: Mapping[str, str]) -> Predicate:
    """What the selectors of a request ask for, together. Raises ApiError(400)."""
    labels = label_selector(query.get("labelSelector", ""))
    fields = field_selector(resource, query.get("fieldSelector", ""))
    return lambda item: labels(item) and fields(item)


def _place(item: Object) -> list[str]:
    return [item["metadata"].get("namespace", ""), item["metadata"]["name"]]


def _token(version: int, place: list[str]) -> str:
    return base64.urlsafe_b64encode(json.dumps([version, place]).encode()).decode()


def _kept(before: Object, after: Object) -> Object:
    """Metadata as an update leaves it: the server's own part stays as it was."""
    own = ("name", "namespace", "uid", "creationTimestamp", "resourceVersion", "managedFields")
    ending = ("deletionTimestamp", "deletionGracePeriodSeconds")
    asked = {key: value for key, value in after.items() if key not in own + ending}
    return asked | {key: before[key] for key in own + ending if key in before}


def _settle(resource: Resource, item: Object) -> None:
    """Turns a Secret's ``stringData`` into data, and fills in its type. Raises ApiError(400)."""
    if resource.plural != "secrets":
        return
    item.setdefault("type", "Opaque")
    for key, value in (item.pop("stringData", None) or {}).items():
        item.setdefault("data", {})[key] = base64.b64encode(value.encode()).decode()
    for value in (item.get("data") or {}).values():
        try:
            base64.b64decode(value, validate=True)
        except (ValueError, TypeError) as error:
            message = (
                'Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte 0'
            )
            raise bad_request(message) from error


def _check_preconditions(resource: Resource, found: Object, preconditions: Mapping[str, str]) -> None:
    metadata = found["metadata"]
    for part, title, fate in (
        ("uid", "UID", "deleted and then recreated"),
        ("resourceVersion", "ResourceVersion", "modified"),
    ):
        asked = preconditions.get(part)
        if asked and asked != metadata[part]:
            why = (
                f"the {title} in the precondition ({asked}) does not match the {title} in record "
                f"({metadata[part]}). The object might have been {fate}"
            )
            raise conflict(replace(resource, plural=resource.kind, group=""), metadata["name"], why)


def _grace(pod: Object, asked: int | None) -> int:
    """Seconds that a pod has to end: none before it has a node, or when it is over."""
    if not pod["spec"].get("nodeName") or pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}:
        return 0
    return int(pod["spec"].get("terminationGracePeriodSeconds", 30) if asked is None else asked)
