"""Events of the fake Kubernetes, as its scheduler (new style) and its other parts (old style) write them."""

from __future__ import annotations

import contextlib
import uuid
from datetime import UTC, datetime

from tests.support.kubernetes_objects import RESOURCES, ApiError, Object, now
from tests.support.kubernetes_store import Store

NODE = "node-1"


class Recorder:
    """Writes Events into the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __call__(
        self, about: Object, reason: str, message: str, by: str = "kubelet", warn: bool = False, part: str = ""
    ) -> None:
        """An Event about an object; ``part`` is a container's name."""
        metadata = about["metadata"]
        namespace = metadata.get("namespace", "default")
        involved = {
            "kind": about["kind"],
            "namespace": namespace,
            "name": metadata["name"],
            "uid": metadata["uid"],
            "apiVersion": about["apiVersion"],
            "resourceVersion": metadata["resourceVersion"],
            **({"fieldPath": f"spec.containers{{{part}}}"} if part else {}),
        }
        event = {
            "metadata": {"name": f"{metadata['name']}.{uuid.uuid4().hex[:16]}"},
            "involvedObject": involved,
            "reason": reason,
            "message": message,
            "type": "Warning" if warn else "Normal",
            **(_new_style(by) if by == "default-scheduler" else _old_style(by)),
        }
        # As in a real cluster, an Event that cannot be written is lost.
        with contextlib.suppress(ApiError):
            self._store.create(RESOURCES["events"], namespace, event)


def _new_style(by: str) -> Object:
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    times = {"eventTime": moment, "firstTimestamp": None, "lastTimestamp": None}
    source = {"source": {}, "reportingComponent": by, "reportingInstance": f"{by}-{NODE}"}
    return {**times, **source, "action": "Scheduling"}


def _old_style(by: str) -> Object:
    source: Object = {"component": by, **({"host": NODE} if by == "kubelet" else {})}
    times = {"eventTime": None, "firstTimestamp": now(), "lastTimestamp": now(), "count": 1}
    instance = NODE if by == "kubelet" else ""
    return {**times, "source": source, "reportingComponent": by, "reportingInstance": instance}
