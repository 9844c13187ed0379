"""The Job controller of the fake Kubernetes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from tests.support.kubernetes_events import Recorder
from tests.support.kubernetes_objects import RESOURCES, ApiError, Object, clone, now
from tests.support.kubernetes_status import condition
from tests.support.kubernetes_store import SUFFIX, Change, Store

PODS, JOBS = RESOURCES["pods"], RESOURCES["jobs"]


class Jobs:
    """Makes one pod after another until enough have succeeded, too many have failed, or time is up."""

    def __init__(self, store: Store, record: Recorder) -> None:
        self._store = store
        self._record = record
        self._failed: dict[str, set[str]] = {}
        self._due: set[tuple[str, str]] = set()
        store.listeners.append(self._see)

    def sync_all(self) -> None:
        """Looks at every Job, as when a quota has changed."""
        for job in self._store.all("jobs"):
            self._soon(job["metadata"]["namespace"], job["metadata"]["name"])

    def expire(self) -> int:
        """Deletes the finished Jobs that say ``ttlSecondsAfterFinished``, and returns how many."""
        over = [job for job in self._store.all("jobs") if finished(job)]
        over = [job for job in over if job["spec"].get("ttlSecondsAfterFinished") is not None]
        for job in over:
            options = {"propagationPolicy": "Background"}
            self._store.delete(JOBS, job["metadata"]["namespace"], job["metadata"]["name"], options)
        return len(over)

    def _see(self, change: Change) -> None:
        metadata = change.object["metadata"]
        if change.key[0] == "jobs" and change.type != "DELETED":
            self._soon(metadata["namespace"], metadata["name"])
        elif change.key[0] == "pods":
            for owner in metadata.get("ownerReferences", []):
                if owner["kind"] == "Job":
                    # A pod that is being deleted counts as failed, unless it has succeeded before.
                    gone = change.type == "DELETED" or "deletionTimestamp" in metadata
                    phase = change.object["status"]["phase"]
                    if phase == "Failed" or (gone and phase != "Succeeded"):
                        self._failed.setdefault(owner["uid"], set()).add(metadata["uid"])
                    self._soon(metadata["namespace"], owner["name"])

    def _soon(self, namespace: str, name: str) -> None:
        if (namespace, name) not in self._due:
            self._due.add((namespace, name))
            asyncio.get_running_loop().call_soon(self._sync, namespace, name)

    def _sync(self, namespace: str, name: str) -> None:
        self._due.discard((namespace, name))
        job = self._store.find("jobs", namespace, name)
        if job is None or finished(job) or "deletionTimestamp" in job["metadata"] or job["spec"]["suspend"]:
            return
        if "startTime" not in job["status"]:
            self._begin(job)
        failed = self._failed.get(job["metadata"]["uid"], set())
        pods = self._pods(job)
        succeeded = [pod for pod in pods if pod["status"]["phase"] == "Succeeded"]
        active = [pod for pod in pods if _is_active(pod)]
        counts = _counts(active, len(succeeded), len(failed))
        if len(succeeded) >= job["spec"]["completions"]:
            return self._finish(job, counts, "Complete", "CompletionsReached")
        if len(failed) > job["spec"]["backoffLimit"]:
            return self._finish(job, counts, "Failed", "BackoffLimitExceeded")
        if not active and self._create_pod(job):
            counts["active"] = 1
        self._write(job, lambda status: status.update(counts))

    def _begin(self, job: Object) -> None:
        self._write(job, lambda status: status.update(startTime=now()))
        seconds = job["spec"].get("activeDeadlineSeconds")
        if seconds is not None:
            asyncio.get_running_loop().call_later(seconds, self._overdue, job)

    def _overdue(self, job: Object) -> None:
        found = self._store.find("jobs", job["metadata"]["namespace"], job["metadata"]["name"])
        if found and found["metadata"]["uid"] == job["metadata"]["uid"] and not finished(found):
            failed = self._failed.setdefault(found["metadata"]["uid"], set())
            failed |= {pod["metadata"]["uid"] for pod in self._pods(found) if _is_active(pod)}
            self._finish(found, _counts([], 0, len(failed)), "Failed", "DeadlineExceeded")

    def _finish(self, job: Object, counts: Object, type: str, reason: str) -> None:
        for pod in self._pods(job):
            if _is_active(pod):
                self._store.delete(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"], {})
        message = {
            "CompletionsReached": "Reached expected number of succeeded pods",
            "BackoffLimitExceeded": "Job has reached the specified backoff limit",
            "DeadlineExceeded": "Job was active longer than specified deadline",
        }[reason]
        before = "SuccessCriteriaMet" if type == "Complete" else "FailureTarget"

        def write(status: Object) -> None:
            status |= {**counts, "active": 0, "ready": 0}
            status["conditions"] = [
                condition([], one, status="True", reason=reason, message=message) for one in (before, type)
            ]
            if type == "Complete":
                status["completionTime"] = now()

        self._write(job, write)
        if type == "Complete":
            self._record(job, "Completed", "Job completed", by="job-controller")
        else:
            self._record(job, reason, message, by="job-controller", warn=True)

    def _create_pod(self, job: Object) -> bool:
        template, metadata = clone(job["spec"]["template"]), job["metadata"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
        owner |= {"controller": True, "blockOwnerDeletion": True}
        name = f"{metadata['name'][:57]}-{''.join(random.choices(SUFFIX, k=5))}"
        own = {"name": name, "generateName": f"{metadata['name']}-", "ownerReferences": [owner]}
        pod = {"metadata": template["metadata"] | own, "spec": template["spec"]}
        try:
            self._store.create(PODS, metadata["namespace"], pod)
        except ApiError as error:
            self._record(job, "FailedCreate", f"Error creating: {error}", by="job-controller", warn=True)
            return False
        self._record(job, "SuccessfulCreate", f"Created pod: {name}", by="job-controller")
        return True

    def _pods(self, job: Object) -> list[Object]:
        uid = job["metadata"]["uid"]
        pods = self._store.all("pods", job["metadata"]["namespace"])
        return [pod for pod in pods if any(o["uid"] == uid for o in pod["metadata"].get("ownerReferences", []))]

    def _write(self, job: Object, change: Callable[[Object], None]) -> None:
        def apply(found: Object) -> None:
            change(found["status"])

        self._store.update("jobs", job["metadata"]["namespace"], job["metadata"]["name"], apply)


def _is_active(pod: Object) -> bool:
    over = pod["status"]["phase"] in {"Succeeded", "Failed"}
    return not over and "deletionTimestamp" not in pod["metadata"]


def _counts(active: list[Object], succeeded: int, failed: int) -> Object:
    ready = sum(
        any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", []))
        for pod in active
    )
    counts = {"active": len(active), "ready": ready}
    return {
        **counts,
        **({"succeeded": succeeded} if succeeded else {}),
        **({"failed": failed} if failed else {}),
    }


def finished(job: Object) -> bool:
    """Whether a Job is over."""
    conditions = job.get("status", {}).get("conditions", [])
    return any(one["type"] in {"Complete", "Failed"} and one["status"] == "True" for one in conditions)
