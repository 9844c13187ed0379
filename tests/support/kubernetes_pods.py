"""The lives of pods in the fake Kubernetes: what scheduler, kubelet and node controller make of them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from tests.support.kubernetes_events import NODE, Recorder
from tests.support.kubernetes_objects import RESOURCES, Object, bad_request, clone, label_selector, now
from tests.support.kubernetes_status import Phase, condition, status, terminated, waiting
from tests.support.kubernetes_store import Change, Store

PODS = RESOURCES["pods"]


@dataclass(frozen=True)
class Pull:
    """How the image comes to the node."""

    seconds: float = 0.0
    size: int = 0
    """Bytes; 0 with ``seconds`` 0 means that the image is there already."""
    failure: str = ""
    """``ErrImagePull``, ``ImagePullBackOff`` or ``InvalidImageName``, until the pod behaves anew."""
    message: str = "failed to resolve reference: not found"

    @property
    def present(self) -> bool:
        return not (self.seconds or self.size or self.failure)


@dataclass(frozen=True)
class Crash:
    """How the container ends by itself; code 0 is an end in peace."""

    code: int = 1
    seconds: float = 0.0
    """After the container's start."""
    reason: str = ""
    """As in ``OOMKilled``; empty: what belongs to the code."""
    message: str = ""
    times: int = 0
    """How often, before it runs on; 0: each time."""
    again_seconds: float | None = None
    """How long it is CrashLoopBackOff before it starts again; None: until the pod behaves anew."""


@dataclass(frozen=True)
class Behaviour:
    """How a pod lives. Its containers share one fate. Times are in seconds."""

    schedule_seconds: float = 0.0
    unschedulable: str = ""
    """As in ``0/1 nodes are available: 1 Insufficient cpu.``; the pod waits until it behaves anew."""
    pull: Pull = Pull()
    init_crash: Crash | None = None
    """How its first init container fails, if it has one."""
    start_seconds: float = 0.0
    """From the image to the running container."""
    ready_seconds: float | None = 0.0
    """From the container's start to its readiness; None: never."""
    crash: Crash | None = None
    stop_seconds: float = 0.0
    """From SIGTERM to the end; the grace period cuts it short, and the exit code is then 137."""
    log: str = ""
    address: str = "127.0.0.1"
    """The pod's address; empty: one of its own in 127.0.0.0/8, which on Linux all lead to this machine."""
    serve: Callable[[Object], int | None] | None = None
    """Starts the pod's program: called with the pod, its address in it, in a thread. The container runs when it
    has returned; a number is the exit code of a program that has ended already."""
    stopped: Callable[[Object], None] | None = None
    """Ends what ``serve`` began: called once in a thread, with the same pod, when the container has to end."""


Which = str | Callable[[Object], bool]


def chooser(which: Which) -> Callable[[Object], bool]:
    """A pod's name, a label selector (anything with ``=``), or a function of the pod."""
    if callable(which):
        return which
    if "=" in which:
        return label_selector(which)
    return lambda pod: pod["metadata"]["name"] == which


class _Stopping(Exception):
    """The pod was asked to stop."""


class _Over(Exception):
    """Somebody else has written that the pod is over."""


class _Overdue(Exception):
    """The pod's own deadline has passed."""


class _Program:
    """What a test runs as the program of a pod."""

    def __init__(self, behaviour: Behaviour, pod: Object) -> None:
        self._behaviour = behaviour
        self._pod = pod
        serve = behaviour.serve or (lambda pod: None)
        self._starting = asyncio.ensure_future(asyncio.to_thread(serve, pod))

    async def started(self) -> Crash | None:
        """Waits for ``serve``; how the program ended if it did."""
        try:
            code = await asyncio.shield(self._starting)
        except Exception as error:
            return Crash(1, message=repr(error))
        return None if code is None else Crash(code)

    async def stop(self) -> None:
        """Waits for ``serve``, which a thread may still be in, and calls ``stopped``."""
        await asyncio.wait([self._starting])
        if self._behaviour.stopped:
            await asyncio.to_thread(self._behaviour.stopped, self._pod)


class Life:
    """One pod from its creation to its end."""

    def __init__(self, kubelet: Kubelet, pod: Object) -> None:
        self.wake = asyncio.Event()
        self._kubelet = kubelet
        self._store = kubelet.store
        self._uid = pod["metadata"]["uid"]
        self._namespace = pod["metadata"]["namespace"]
        self._name = pod["metadata"]["name"]
        self._containers = [container["name"] for container in pod["spec"]["containers"]]
        self._has_inits = bool(pod["spec"].get("initContainers"))
        self._policy = pod["spec"]["restartPolicy"]
        self._deadline = math.inf  # seconds of the loop's clock
        self._since = now()
        self._phase = Phase(init=waiting("PodInitializing") if self._has_inits else None)
        self._program: _Program | None = None

    # what is known

    @property
    def pod(self) -> Object | None:
        """The pod as it is now; None if it is gone."""
        found = self._store.find("pods", self._namespace, self._name)
        return found if found and found["metadata"]["uid"] == self._uid else None

    @property
    def behaviour(self) -> Behaviour:
        pod = self.pod
        return self._kubelet.behaviour(pod) if pod else Behaviour()

    @property
    def _stopping(self) -> bool:
        pod = self.pod
        return pod is None or "deletionTimestamp" in pod["metadata"]

    @property
    def _is_over(self) -> bool:
        pod = self.pod
        return pod is not None and pod["status"]["phase"] in {"Succeeded", "Failed"}

    def _behaves_anew(self) -> Callable[[], bool]:
        before = self.behaviour
        return lambda: self.behaviour != before

    # what it does

    async def run(self) -> None:
        try:
            await self._live()
        except _Stopping:
            await self._stop()
        except _Over:
            pass
        except _Overdue:
            await self._stop_program()
            message = "Pod was active on the node longer than the specified deadline"
            self._write(
                phase="Failed",
                ready=False,
                state=terminated(137, self._since),
                reason="DeadlineExceeded",
                message=message,
            )
        finally:
            self._kubelet.afterwards(self._stop_program())

    async def _live(self) -> None:
        await self._schedule()
        self._write()
        await self._pause(0)
        self._write(address=self._address())
        if self._has_inits and not await self._initialise():
            return
        await self._pull()
        await self._pause(self.behaviour.start_seconds)
        restarts = 0
        while True:
            end = await self._start() or await self._run(restarts)
            await self._stop_program()
            state = terminated(end.code, self._since, end.reason, end.message)
            if self._policy == "Never" or (self._policy == "OnFailure" and end.code == 0):
                self._write(phase="Failed" if end.code else "Succeeded", state=state, ready=False)
                return
            self._write(phase="Running", state=state, ready=False)
            if restarts:
                await self._back_off(state, end)
            restarts += 1
            self._phase = replace(self._phase, last=state, restarts=restarts)

    async def _schedule(self) -> None:
        await self._pause(self.behaviour.schedule_seconds)
        while why := self.behaviour.unschedulable:
            self._update(lambda pod: _set_condition(pod, status="False", reason="Unschedulable", message=why))
            self._event("FailedScheduling", why, by="default-scheduler", warn=True)
            await self._pause(None, lambda: self.behaviour.unschedulable != why)

        def bind(pod: Object) -> None:
            pod["spec"]["nodeName"] = NODE
            _set_condition(pod, status="True")

        pod = self._update(bind)
        seconds = pod["spec"].get("activeDeadlineSeconds") if pod else None
        if seconds is not None:
            self._deadline = asyncio.get_running_loop().time() + seconds
        said = f"Successfully assigned {self._namespace}/{self._name} to {NODE}"
        self._event("Scheduled", said, by="default-scheduler")

    def _address(self) -> str:
        return self.behaviour.address or self._kubelet.new_address()

    async def _initialise(self) -> bool:
        self._write(init={"running": {"startedAt": now()}})
        crash = self.behaviour.init_crash
        await self._pause(crash.seconds if crash else 0)
        if crash is None or crash.code == 0:
            self._write(init=terminated(0, self._since))
            return True
        ended = terminated(crash.code, self._since, crash.reason, crash.message)
        if self._policy == "Never":
            self._write(phase="Failed", init=ended)
            return False
        self._write(init=ended)
        said = f"back-off 10s restarting failed container in pod {self._name}_{self._namespace}({self._uid})"
        self._write(init=waiting("CrashLoopBackOff", said))
        await self._pause(None, lambda: self.behaviour.init_crash is None)
        return await self._initialise()

    async def _pull(self) -> None:
        while failure := self.behaviour.pull.failure:
            await self._fail_to_pull(self.behaviour.pull)
            await self._pause(None, lambda: self.behaviour.pull.failure != failure)
        pull = self.behaviour.pull
        if pull.present:
            for name, image in self._images():
                self._event("Pulled", f'Container image "{image}" already present on machine', part=name)
            return
        for name, image in self._images():
            self._event("Pulling", f'Pulling image "{image}"', part=name)
        await self._pause(pull.seconds)
        took = f"{pull.seconds:g}s"
        for name, image in self._images():
            said = f'Successfully pulled image "{image}" in {took} ({took} including waiting).'
            self._event("Pulled", f"{said} Image size: {pull.size} bytes.", part=name)

    async def _fail_to_pull(self, pull: Pull) -> None:
        name, image = self._images()[0]
        if pull.failure == "InvalidImageName":
            why = f'couldn\'t parse image name "{image}": {pull.message}'
            said = f'Failed to apply default image tag "{image}": {why}'
            self._event("InspectFailed", said, warn=True, part=name)
            self._event("Failed", "Error: InvalidImageName", warn=True, part=name)
            return self._write(state=waiting("InvalidImageName", said))
        self._event("Pulling", f'Pulling image "{image}"', part=name)
        await self._pause(pull.seconds)
        said = f'failed to pull and unpack image "{image}": {pull.message}'
        self._event("Failed", f'Failed to pull image "{image}": {said}', warn=True, part=name)
        self._event("Failed", "Error: ErrImagePull", warn=True, part=name)
        self._write(state=waiting("ErrImagePull", said))
        if pull.failure == "ImagePullBackOff":
            await self._pause(0)
            again = f'Back-off pulling image "{image}"'
            self._event("BackOff", again, part=name)
            self._event("Failed", "Error: ImagePullBackOff", warn=True, part=name)
            self._write(state=waiting("ImagePullBackOff", f"{again}: ErrImagePull: {said}"))

    def _images(self) -> list[tuple[str, str]]:
        pod = self.pod
        return (
            [(container["name"], container["image"]) for container in pod["spec"]["containers"]] if pod else []
        )

    async def _start(self) -> Crash | None:
        """Starts the containers; how they ended if their program ended at once."""
        behaviour, pod = self.behaviour, self.pod
        for name in self._containers:
            self._event("Created", f"Created container: {name}", part=name)
        end = None
        self._since = now()
        if behaviour.serve and pod:
            self._program = _Program(behaviour, clone(pod))
            end = await self._program.started()
        for name in self._containers:
            self._event("Started", f"Started container {name}", part=name)
        return end

    async def _run(self, restarts: int) -> Crash:
        """Runs the containers until they end by themselves."""
        clock = asyncio.get_running_loop().time
        began = clock()
        running = {"running": {"startedAt": self._since}}
        ready: bool | None = None
        while True:
            behaviour, passed = self.behaviour, clock() - began
            crash = behaviour.crash
            if crash and crash.times and restarts >= crash.times:
                crash = None
            due = behaviour.ready_seconds is not None and passed >= behaviour.ready_seconds
            if due != ready:
                ready = due
                self._write(phase="Running", state=running, ready=ready)
                if behaviour.ready_seconds is None:
                    said = "Readiness probe failed: connection refused"
                    self._event("Unhealthy", said, warn=True, part=self._containers[0])
            if crash and passed >= crash.seconds:
                return crash
            waits = [crash.seconds - passed] if crash else []
            if not ready and behaviour.ready_seconds is not None:
                waits.append(behaviour.ready_seconds - passed)
            await self._pause(min(waits, default=None), self._behaves_anew())

    async def _back_off(self, ended: Object, crash: Crash) -> None:
        where = f"{self._containers[0]} in pod {self._name}_{self._namespace}({self._uid})"
        self._event(
            "BackOff", f"Back-off restarting failed container {where}", warn=True, part=self._containers[0]
        )
        said = f"back-off 10s restarting failed container={self._containers[0]} pod={self._name}"
        self._write(state=waiting("CrashLoopBackOff", said), last=ended)
        await self._pause(crash.again_seconds, lambda: self.behaviour.crash != crash)

    async def _stop(self) -> None:
        """Ends within the grace period, which may be shortened on the way, and takes the pod away."""
        clock = asyncio.get_running_loop().time
        running = self._phase.state is not None and "running" in self._phase.state
        began, killed = clock(), False
        if running:
            for name in self._containers:
                self._event("Killing", f"Stopping container {name}", part=name)
        while running and (pod := self.pod):
            grace = pod["metadata"].get("deletionGracePeriodSeconds", 0)
            killed = self.behaviour.stop_seconds > grace
            left = began + min(self.behaviour.stop_seconds, grace) - clock()
            if left <= 0:
                break
            self.wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wake.wait(), left)
        await self._node()
        await self._stop_program()
        if running:
            code = 137 if killed else 0
            state = terminated(code, self._since)
            self._write(phase="Failed" if code else "Succeeded", state=state, ready=False)
        if self.pod:
            self._store.remove(PODS, self._namespace, self._name)

    async def _stop_program(self) -> None:
        program, self._program = self._program, None
        if program:
            await program.stop()

    # how it does it

    async def _node(self) -> None:
        """Waits while the node is down: its kubelet does and says nothing then."""
        await self._kubelet.up.wait()

    async def _pause(self, seconds: float | None, until: Callable[[], bool] = lambda: False) -> None:
        """Lets time pass, or None: waits for ``until``. Raises when the pod shall stop or is overdue."""
        clock = asyncio.get_running_loop().time
        end = clock() + (math.inf if seconds is None else seconds)
        await asyncio.sleep(0)
        while True:
            await self._node()
            if self._stopping:
                raise _Stopping
            if self._is_over:
                raise _Over
            if clock() >= self._deadline:
                raise _Overdue
            left = min(end, self._deadline) - clock()
            if until() or clock() >= end:
                return
            self.wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wake.wait(), None if left == math.inf else max(left, 0))

    def _write(self, **what: Any) -> None:
        """Writes the pod's status with what is new."""
        self._phase = replace(self._phase, **what)

        def change(pod: Object) -> None:
            pod["status"] = status(pod, self._phase)

        self._update(change)

    def rewrite(self) -> None:
        """Writes what the kubelet knows once more, as it does when its node is back."""
        pod = self.pod
        if pod and pod["spec"].get("nodeName"):
            self._write()

    def _update(self, change: Callable[[Object], None]) -> Object | None:
        return self._store.update("pods", self._namespace, self._name, change) if self.pod else None

    def _event(self, reason: str, message: str, **how: Any) -> None:
        pod = self.pod
        if pod:
            self._kubelet.record(pod, reason, message, **how)


def _set_condition(pod: Object, **what: Any) -> None:
    others = [one for one in pod["status"].get("conditions", []) if one["type"] != "PodScheduled"]
    pod["status"]["conditions"] = [
        condition(pod["status"].get("conditions", []), "PodScheduled", **what),
        *others,
    ]


class Kubelet:
    """Runs the lives of all pods, on the one node that there is."""

    def __init__(self, store: Store, record: Recorder, default: Behaviour) -> None:
        self.store = store
        self.record = record
        self.up = asyncio.Event()
        self.up.set()
        self.errors: list[BaseException] = []
        """What went wrong in here; there should be nothing."""
        self._default = default
        self._chosen: list[tuple[Callable[[Object], bool], Behaviour]] = []
        self._lives: dict[str, tuple[Life, asyncio.Task[None]]] = {}
        self._after: set[asyncio.Task[None]] = set()
        self._addresses = 0
        store.listeners.append(self._see)

    def behave(self, which: Which, behaviour: Behaviour) -> None:
        """Chooses how pods live, also those that live already. What is said last counts."""
        self._chosen.insert(0, (chooser(which), behaviour))
        for life, _ in self._lives.values():
            life.wake.set()

    def behaviour(self, pod: Object) -> Behaviour:
        return next((behaviour for matches, behaviour in self._chosen if matches(pod)), self._default)

    def new_address(self) -> str:
        # From anywhere on: several fakes of one machine must not give the same ones.
        self._addresses = (self._addresses or random.randrange(62500 * 200)) + 1
        return f"127.{self._addresses // 62500 + 1}.{self._addresses // 250 % 250}.{self._addresses % 250 + 1}"

    def node_ready(self, name: str, ready: bool) -> None:
        """What the kubelet and the node lifecycle controller write when a node goes or comes back."""
        reason, message = ("KubeletReady", "kubelet is posting ready status")
        if not ready:
            reason, message = ("NodeStatusUnknown", "Kubelet stopped posting node status.")
        what = {"status": "True" if ready else "Unknown", "reason": reason, "message": message}
        taint = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": now()}

        def change(node: Object) -> None:
            node["status"]["conditions"] = [condition(node["status"]["conditions"], "Ready", **what)]
            node["spec"] = {} if ready else {"taints": [taint]}

        if self.store.update("nodes", "", name, change) is None:
            raise KeyError(name)
        if ready:
            self.up.set()
            for life, _ in self._lives.values():
                life.rewrite()
            return
        self.up.clear()
        for pod in self.store.all("pods"):
            if pod["spec"].get("nodeName") == name:
                self.store.update(
                    "pods", pod["metadata"]["namespace"], pod["metadata"]["name"], _mark_not_ready
                )
                self.record(pod, "NodeNotReady", "Node is not ready", by="node-controller", warn=True)

    def log(self, pod: Object, container: str, previous: bool) -> str:
        """What a container has written. Raises ApiError(400)."""
        name = pod["metadata"]["name"]
        names = [one["name"] for one in pod["spec"]["containers"]]
        if not container and len(names) > 1:
            message = f"a container name must be specified for pod {name}, choose one of: [{' '.join(names)}]"
            raise bad_request(message)
        container = container or names[0]
        status = pod["status"]
        states = {one["name"]: one for one in status.get("containerStatuses", [])}
        states |= {one["name"]: one for one in status.get("initContainerStatuses", [])}
        every = names + [one["name"] for one in pod["spec"].get("initContainers", [])]
        if container not in every:
            raise bad_request(f"container {container} is not valid for pod {name}")
        if not pod["spec"].get("nodeName"):
            return ""
        found = states.get(container)
        if previous and not (found and found["lastState"]):
            raise bad_request(f'previous terminated container "{container}" in pod "{name}" not found')
        if found is None or ("waiting" in found["state"] and not found["lastState"]):
            reason = found["state"]["waiting"]["reason"] if found else "ContainerCreating"
            said = {
                "ErrImagePull": "image can't be pulled",
                "ImagePullBackOff": "trying and failing to pull image",
            }.get(reason, reason)
            raise bad_request(f'container "{container}" in pod "{name}" is waiting to start: {said}')
        return self.behaviour(pod).log

    def afterwards(self, work: Coroutine[Any, Any, None]) -> None:
        """Does something that the end of a life shall not wait for."""
        task = asyncio.get_running_loop().create_task(work)
        self._after.add(task)
        task.add_done_callback(self._done)

    async def close(self) -> None:
        """Ends every life and every program."""
        tasks = [task for _, task in self._lives.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*self._after, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._after.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.errors.append(error)

    def _see(self, change: Change) -> None:
        if change.key[0] != "pods":
            return
        uid = change.object["metadata"]["uid"]
        if change.type == "ADDED":
            life = Life(self, change.object)
            task = asyncio.get_running_loop().create_task(life.run())
            task.add_done_callback(self._done)
            self._lives[uid] = (life, task)
        elif uid in self._lives:
            life, task = self._lives[uid]
            life.wake.set()
            if change.type == "DELETED":
                del self._lives[uid]
                if task is not asyncio.current_task():
                    task.cancel()


def _mark_not_ready(pod: Object) -> None:
    for one in pod["status"].get("conditions", []):
        if one["type"] == "Ready" and one["status"] == "True":
            one |= {"status": "False", "lastTransitionTime": now()}
