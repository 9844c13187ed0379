"""Sessions as pods: KubeSpawner builds them, the plan decides what they are, and a watch says how they do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
from jupyterhub.spawner import SpawnException
from kubespawner import KubeSpawner
from traitlets import TraitError, default

from canfar_auth.identity import PosixIds
from canfar_auth.outbound import Unavailable
from canfar_site.settings import Cluster, load_site
from canfar_site.yamlfile import FileError
from canfar_spawner import desktops, turnstile
from canfar_spawner.catalogue import Catalogue, Profile
from canfar_spawner.cluster import pod, registries
from canfar_spawner.cluster.api import Api, ApiRefused, ApiUnavailable, connected, persistently
from canfar_spawner.cluster.desktop_policy import desktop_policy
from canfar_spawner.cluster.homes import Homes
from canfar_spawner.cluster.orphans import ORPHANS, Sweeper
from canfar_spawner.cluster.prepull import OnNodes, PrepullWatch
from canfar_spawner.cluster.profile_list import ProfileListError, read_profile_list, resolve
from canfar_spawner.cluster.session_secrets import SessionSecrets
from canfar_spawner.cluster.state import CONTAINER, START, PodEvent, PodState
from canfar_spawner.cluster.turns import Turns
from canfar_spawner.cluster.watch import EventWatch, PodWatch
from canfar_spawner.kinds import DESKTOP
from canfar_spawner.metrics import Stage
from canfar_spawner.planned import PlannedSpawner, as_spawn_exception
from canfar_spawner.readiness import answers
from canfar_spawner.spec import Refused, SessionSpec

_AT_ONCE = 32  # starts that write to the cluster at a time: with more, answers get slow, and none is sooner
_LONGEST_QUEUE = 3600  # seconds that a start may wait for its turn
_PATIENCE = 0.95  # of start_timeout: told by us, since the hub would take it for a fault of its own
_PROBE, _LONGEST_PROBE = 0.02, 0.5  # seconds between two requests to a program that does not answer yet
_STOP_PATIENCE = 60  # seconds beyond the grace period that a stop may take
_LOG_LINES = 20
_FIRST_LOOK = 0.5  # seconds
# What will not change by itself, of what container runtimes say of an image that they cannot have.
_FINAL = re.compile(
    r"not found|manifest unknown|unauthorized|denied|forbidden|invalid reference|couldn't parse|not present"
    r"|no match for platform|InvalidImageName|ErrImageNeverPull",
    re.IGNORECASE,
)
_SIZE = re.compile(r"Image size: (\d+) bytes")

_SILENT = "The cluster does not answer at the moment; it is asked again."


@dataclass(frozen=True)
class Namespace:
    """What all sessions of one namespace share."""

    api: Api
    pods: PodWatch
    events: EventWatch
    secrets: SessionSecrets
    homes: Homes
    sweeper: Sweeper
    turns: Turns
    prepull: PrepullWatch | None


class CanfarSpawner(PlannedSpawner, KubeSpawner):
    """Renders a plan as a pod.

    Upstream behaviour that it changes: profiles and options come from the plan alone; the pod is hardened after
    every hook; a start, a stop and the end of a session are told by a watch instead of being polled; a pod that
    is there already is adopted if it is this start's, never killed; nothing of the hub goes into the pod.
    """

    _shared: ClassVar[dict[tuple[Any, str], Namespace]] = {}
    _pod_uid = ""
    _environment: dict[str, str] | None = None
    """What `get_env` gave for the present start."""
    _is_private = False
    """Whether the image needs a pull Secret."""
    _patience = 0.0
    """Seconds that the present start may take once it has its turn."""
    _deadline = 0.0
    """When it has to be ready, by the event loop's clock."""

    @default("start_timeout")
    def _start_timeout_default(self) -> int:
        return 600  # an image that a node has not yet takes minutes

    @default("delete_pvc")
    def _delete_pvc_default(self) -> bool:
        return False  # data are on the shared volume, which is nobody's to delete

    @classmethod
    def check(cls, app: Any) -> None:
        """Tells at the hub's start what its administrator set and must not: raises ``TraitError``."""
        for section in cls.section_names():
            config = app.config.get(section, {})
            listed = config.get("profile_list")
            if sentence := cls._misconfigured(config.get("fs_gid"), listed if not callable(listed) else None):
                raise TraitError(f"c.{section}: {sentence}")
            if path := config.get("site_file"):
                cls._check_site(Path(path))

    @staticmethod
    def _check_site(path: Path) -> None:
        """Reads what the site file names. Raises ``TraitError``."""
        try:
            site = load_site(path)
            if site.cluster and site.cluster.registries:
                registries.read(site.cluster.registries)
        except FileError as error:
            raise TraitError(f"A file of this site is not usable. {error}") from None

    @staticmethod
    def _misconfigured(fs_gid: object, profile_list: object) -> str:
        """What is wrong with traits of an administrator, as a sentence; empty if nothing is."""
        if fs_gid is not None:
            return (
                "fs_gid must not be set: nodes would give the files of all users on the shared volume to that"
                " group. Numeric ids come from the site file's `posix`."
            )
        try:
            read_profile_list(profile_list or [], "example.org/default:1")
        except ProfileListError as error:
            return str(error)
        return ""

    # What is on offer

    async def catalogue(self) -> Catalogue:
        """The catalogue, and behind it what the administrator's `profile_list` offers this user now.

        Raises ``Refused`` (503): a callable `profile_list` gave what cannot be read.
        """
        found = await super().catalogue()
        try:
            listed = self._read(await resolve(self.profile_list, self))
        except Exception as error:  # a callable is an administrator's own code
            told = isinstance(error, ProfileListError)
            self.log.error("profile_list cannot be read: %s", error, exc_info=not told)
            sentence = f"What is on offer cannot be read; tell {self.site.contact}, whose log says why."
            raise Refused("catalogue", 503, sentence) from None
        names = {entry.profile for entry in found.profiles}
        return replace(found, profiles=(*found.profiles, *(e for e in listed if e.profile not in names)))

    def _read(self, profile_list: object) -> tuple[Profile, ...]:
        if not profile_list:
            return ()
        gpu = self.site.cluster.gpu if self.site.cluster else "nvidia.com/gpu"
        return read_profile_list(profile_list, self.image, gpu=gpu)

    async def on_nodes(self) -> Mapping[str, OnNodes]:
        """As last told by the pods that pull images ahead, where the site has such.

        The first page since the hub began waits a moment for what there is.
        """
        prepull = self.shared.prepull
        if prepull is None:
            return {}
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_LOOK):
                await prepull.listed.wait()
        return prepull.on_nodes

    # What is shared

    @property
    def cluster(self) -> Cluster:
        """The site's cluster.

        Raises ``TraitError`` where the site file has none.
        """
        if self.site.cluster is None:
            raise TraitError("The site file has no `cluster`, which sessions as pods need.")
        return self.site.cluster

    @cached_property
    def shared(self) -> Namespace:
        """What the sessions of this namespace share, made by the first; its watches run from then on."""
        key = (asyncio.get_running_loop(), self.namespace)
        if key not in self._shared:
            api = Api(self._client, seconds=self.k8s_api_request_timeout)
            selector = f"component={self.component_label},{pod.ID}"
            store = getattr(self.upkeep, "store", None)
            secrets = store if isinstance(store, SessionSecrets) else SessionSecrets(api, self.namespace)
            self._shared[key] = Namespace(
                api,
                PodWatch(api, self.namespace, selector),
                EventWatch(api, self.namespace),
                secrets,
                Homes(api, self.site, self.namespace, self._token_of),
                Sweeper(api, self.namespace),
                Turns(_AT_ONCE),
                PrepullWatch(api, ahead) if (ahead := self.cluster.prepull_namespace) else None,
            )
        found = self._shared[key]
        found.pods.start()
        found.events.start()
        if found.prepull:
            found.prepull.start()
        return found

    async def _token_of(self, owner: str) -> str:
        if self.upkeep is None:
            raise Unavailable("this hub keeps no tokens")
        token: str = await self.upkeep.access_token(owner)
        return token

    def _client(self) -> Any:
        return connected(
            host=self.k8s_api_host,
            ssl_ca_cert=self.k8s_api_ssl_ca_cert,
            verify_ssl=self.k8s_api_verify_ssl,
        )

    @property
    def _pods(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    @property
    def _pod(self) -> str:
        return f"{self._pods}/{self.pod_name}"

    def _own(self) -> PodState | None:
        """The pod of this start, as last told."""
        found = self.shared.pods.pods.get(self.pod_name)
        return found if found and found.start == self.start_id else None

    # What the pod is made of

    def get_env(self) -> dict[str, str]:
        """The session's variables and the administrator's; none of the hub, and no token."""
        if self.spec is None:
            return {}
        if self._environment is None:
            self._environment = self._made_environment(self.spec)
        return dict(self._environment)

    def _made_environment(self, spec: SessionSpec) -> dict[str, str]:
        # As upstream: what an administrator wrote is a template, what a callable gives is text.
        given = {
            name: str(value(self) if callable(value) else self._expand_all(value))
            for name, value in self.environment.items()
        }
        return pod.environment(spec, given, self.site.credentials)

    def get_args(self) -> list[str]:
        """None: the command is the plan's."""
        return []

    async def get_pod_manifest(self) -> Any:
        """KubeSpawner's pod, with its traits set from the plan."""
        if self.spec is not None:
            for name, value in pod.traits(self.spec, self.cluster).items():
                setattr(self, name, self._with_given(name, value))
            self.cmd = pod.command(self.spec, self.site.credentials)
        return await super().get_pod_manifest()

    def _with_given(self, name: str, value: Any) -> Any:
        """The plan's value; of resources, those that the administrator adds stay."""
        given = getattr(self, name)
        return {**given, **value} if isinstance(value, dict) and isinstance(given, dict) else value

    async def _manifest(self, spec: SessionSpec) -> dict[str, Any]:
        self._environment = None  # of each start once, though upstream asks for it, too
        made = await self.get_pod_manifest()
        if self.modify_pod_hook:
            made = self.modify_pod_hook(self, made)
            made = await made if asyncio.iscoroutine(made) else made
        plain: dict[str, Any] = self._client().sanitize_for_serialization(made)
        desktop = desktops.desktop_of(self) if spec.desktop else None
        start = pod.Start(
            self.start_id,
            pod.secret_name(spec.id),
            self.get_env(),
            owner=desktop._own() if isinstance(desktop, CanfarSpawner) else None,
            pull_secret=pod.pull_secret_name(spec.id) if self._is_private else "",
        )
        return pod.harden(plain, spec, start, self.cluster)

    def account(self, spec: SessionSpec) -> PosixIds | None:
        """The ids of the session's pod; a session without is none that may start.

        Raises ``Refused`` (503).
        """
        if spec.ids is None:
            sentence = (
                "It is not known under which numeric ids to run your session. Try again in a few minutes, and"
                f" tell {self.site.contact} if it lasts."
            )
            raise Refused("ids", 503, sentence)
        return spec.ids

    # Starting

    async def _delegate(self, spec: SessionSpec) -> None:
        self.account(spec)
        if sentence := self._misconfigured(self.fs_gid, None):
            self.log.error("%s: %s", type(self).__name__, sentence)
            raise Refused("config", 503, f"This site is not set up rightly; tell {self.site.contact}.")
        pull = self._pull_config(spec)
        self._is_private = bool(pull)
        self.shared.secrets.prepare(spec, self.secret, pull)
        await super()._delegate(spec)

    def _pull_config(self, spec: SessionSpec) -> str:
        """What nodes need for a private image; empty for others. The file is read anew, since passwords change.

        Raises ``Refused`` (503).
        """
        if self.cluster.registries is None:
            return ""
        try:
            return registries.config_for(spec.image, registries.read(self.cluster.registries))
        except FileError as error:
            self.log.error("cluster.registries: %s", error)
            sentence = f"The site's file for private images is not usable; tell {self.site.contact}."
            raise Refused("registries", 503, sentence) from None

    def start(self) -> Coroutine[Any, Any, str]:
        """As the plan has it. The time that a start waits for its turn is not charged to `start_timeout`."""
        self._patience = self.start_timeout * _PATIENCE
        self.start_timeout += _LONGEST_QUEUE  # the hub reads it when this has returned
        return self._started()

    async def _started(self) -> str:
        self.shared.events.listen(self.pod_name, self._heard)
        try:
            return await super().start()
        finally:
            self.shared.events.forget(self.pod_name)
            self.start_timeout -= _LONGEST_QUEUE

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Bounds how many starts write to the cluster at a time."""
        async with self.shared.turns.taken(self.announce):
            self._deadline = asyncio.get_running_loop().time() + self._patience
            yield

    async def make(self, spec: SessionSpec) -> None:
        """Makes home, Secret and pod. Raises ``SpawnException`` as `launch`."""
        with self._told():
            async with asyncio.timeout_at(self._deadline):
                self.announce("Looking at your home.")
                await persistently(lambda: self.shared.homes.ensure(spec), self._unanswered)
                self._passed(Stage.HOME)
                await persistently(lambda: self.shared.secrets.make(spec.id), self._unanswered)
                await turnstile.passed()
                manifest = await self._manifest(spec)
                self._record()
                self.announce("Asking the cluster for a place.")
                made = await self._created(manifest)
                self._pod_uid = made["metadata"]["uid"]
                await self._give_secret(spec)
                self._passed(Stage.MADE)
                if spec.kind == DESKTOP and self.cluster.desktop_policies:
                    await persistently(lambda: self._open_to_its_applications(spec), self._unanswered)

    async def _open_to_its_applications(self, spec: SessionSpec) -> None:
        """Makes the desktop's NetworkPolicy."""
        path = f"/apis/networking.k8s.io/v1/namespaces/{self.namespace}/networkpolicies"
        policy = desktop_policy(spec, self.start_id, self.pod_name, self._pod_uid)
        try:
            await self.shared.api.create(path, policy)
        except ApiRefused as refused:
            if refused.status != 409:  # made by a call whose answer was lost
                raise

    async def _give_secret(self, spec: SessionSpec) -> None:
        """Makes the Secret the pod's. One that stays the hub's own is swept when its session has ended."""
        try:
            await self.shared.secrets.give_to(spec.id, self.pod_name, self._pod_uid)
        except (ApiUnavailable, ApiRefused) as error:
            self.log.warning("The Secret of %s is not its pod's: %s", self._log_name, error)

    async def launch(self, spec: SessionSpec) -> str:
        """Returns the program's address once it answers, or, where it has none to open, once it runs.

        Raises ``SpawnException``: 424, the image's fault; 503, the cluster has no room, or does not answer;
        502, the cluster does not take the pod.
        """
        with self._told():
            async with asyncio.timeout_at(self._deadline):
                url = self._url(await self._running(spec))
                self._passed(Stage.CONTAINER)
                if spec.interactive:
                    self.announce("Waiting for the program to answer.")
                    await self._answers(spec, url)
                    self._passed(Stage.ANSWER)
                return url

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Says in words what ends a start."""
        try:
            yield
        except TimeoutError:
            last = f" {self._stages[-1]}" if self._stages else ""
            sentence = f"The session was not ready within {self._patience:.0f} seconds.{last}"
            raise self._refusal("slow", 503, sentence) from None
        except ApiRefused as refused:
            raise self._not_taken(refused) from None

    def _record(self) -> None:
        """Commits what the pod is called, so that a hub that dies during the start finds it again."""
        self.server.ip, self.server.port = self.pod_name, self.spec.port if self.spec else self.port
        self.orm_spawner.state = self.get_state()
        self.db.commit()

    async def _created(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """The pod, made now or by an earlier attempt whose answer was lost."""
        while True:
            try:
                return await persistently(
                    lambda: self.shared.api.create(self._pods, manifest), self._unanswered
                )
            except ApiRefused as refused:
                if refused.status != 409:
                    raise
            found = await persistently(self._there, self._unanswered)
            if found is None:
                continue
            if (found["metadata"].get("annotations") or {}).get(START) == self.start_id:
                self.log.info("Pod %s is there already, by this start.", self.pod_name)
                return found
            await self._remove_earlier(found["metadata"]["uid"])

    async def _there(self) -> dict[str, Any] | None:
        try:
            return await self.shared.api.get(self._pod)
        except ApiRefused as refused:
            if refused.status == 404:
                return None
            raise

    async def _remove_earlier(self, uid: str) -> None:
        """Ends a pod of this name that an earlier start left."""
        self.log.warning("Pod %s of an earlier start is removed.", self.pod_name)
        self.announce("An earlier session of this name is still ending.")
        try:
            await persistently(lambda: self.shared.api.delete(self._pod, grace=0, uid=uid), self._unanswered)
        except ApiRefused as refused:
            if refused.status != 409:  # another one is there by now
                raise
        state = self.shared.pods.pods.get(self.pod_name)
        while state is not None and state.uid == uid:
            state = await self.shared.pods.changed(self.pod_name, state)

    async def _running(self, spec: SessionSpec) -> PodState:
        """The pod once its program runs."""
        seen = has_node = False
        while True:
            told = self.shared.pods.pods.get(self.pod_name)
            state = told if told and told.start == self.start_id else None
            if state is not None:
                seen = True
                await self._judge(spec, state)
                if state.node and not has_node:
                    has_node = True
                    self._passed(Stage.NODE)
                if state.is_running:
                    return state
            elif seen:
                raise self._refusal("removed", 503, "The session was removed from the cluster as it started.")
            await self.shared.pods.changed(self.pod_name, told)

    async def _judge(self, spec: SessionSpec, state: PodState) -> None:
        """Ends the start where it cannot succeed, and else tells its user what it waits for."""
        if state.ended is not None:
            told = _ending(spec, state, " before it answered")
            raise self.fault(told, await self._last_lines(state))
        if state.is_deleting:
            raise self._refusal("removed", 503, "The session was removed from the cluster as it started.")
        if state.pull_fault:
            sentence = f"The image {spec.image} cannot be had: {state.pull_fault}"
            if _FINAL.search(state.pull_fault):
                raise self.fault(sentence)
            self.announce(f"{sentence} It is tried again.")
        elif state.start_fault:
            self.announce(f"The session cannot be started yet: {state.start_fault}")
        elif state.no_node:
            self.announce(f"Waiting for a node with room: {state.no_node}")
        elif not state.is_running:
            self.announce("Waiting for a node." if not state.node else f"Preparing it on {state.node}.")

    def _heard(self, event: PodEvent) -> None:
        """Tells what the pod's events say beyond its state."""
        image = self.spec.image if self.spec else ""
        if event.reason == "Pulling":
            self.announce(f"The node gets the image {image}, which it has not yet.")
        elif event.reason == "Pulled" and (size := _SIZE.search(event.message)):
            self.announce(f"The image is there ({int(size[1]) / 10**9:.1f} GB).")

    async def _answers(self, spec: SessionSpec, url: str) -> None:
        """Returns once the program answers; raises as soon as it has ended."""
        address = f"{url}{spec.prefix}/{spec.ready_path}"
        pause = _PROBE
        async with aiohttp.ClientSession(headers=self.secret_headers) as http:
            while not await answers(http, address):
                state = self._own()
                if state is None or state.ended is not None or state.is_deleting:
                    await self._running(spec)  # says why
                await asyncio.sleep(pause)
                pause = min(pause * 1.2, _LONGEST_PROBE)

    def _url(self, state: PodState) -> str:
        """The program's address, as KubeSpawner's traits have it."""
        port = self.spec.port if self.spec else self.port
        ports = [{"name": "notebook-port", "containerPort": port}]
        found: str = self._get_pod_url(
            {
                "metadata": {"name": state.name},
                "spec": {"containers": [{"ports": ports}]},
                "status": {"podIP": state.ip},
            }
        )
        return found

    async def _last_lines(self, state: PodState) -> str:
        try:
            query = {"container": CONTAINER, "tailLines": _LOG_LINES}
            return (await self.shared.api.text(f"{self._pod}/log", **query)).strip()
        except (ApiUnavailable, ApiRefused, TimeoutError):
            return ""

    def _unanswered(self, error: ApiUnavailable) -> None:
        self.log.warning("The cluster gave no answer for %s: %s", self._log_name, error)
        self.announce(_SILENT)

    def _not_taken(self, refused: ApiRefused) -> SpawnException:
        """What a refusal by the API server means for the user."""
        if refused.status == 403 and "exceeded quota" in refused.message:
            used = refused.message.partition("exceeded quota")[2].strip(": ")
            sentence = f"The cluster has no room left for this session ({used}). Stop a session, or try later."
            return self._refusal("quota", 503, sentence)
        self.log.error("The cluster does not take %s: %s", self._log_name, refused)
        sentence = f"The cluster does not take this session; tell {self.site.contact}, whose log says why."
        return self._refusal("cluster", 502, sentence)

    def _refusal(self, code: str, status: int, sentence: str) -> SpawnException:
        return as_spawn_exception(Refused(code, status, sentence))

    # Running and ending

    @property
    def display(self) -> str:
        """The first one on the desktop's pod; CANFAR's desktops have it, too."""
        state = self._own()
        return f"{state.ip if state else ''}:1"

    async def poll(self) -> int | None:
        """None while the pod is there and has not ended, or nobody can say; else its status, or 0."""
        watch = self.shared.pods
        if self.spec is None or not self.start_id:
            return 0
        if not watch.listed.is_set():
            return None
        state = self._own()
        if state is None:
            if self.ready:
                self.log.warning("Session %s ends, since its pod is gone.", self._log_name)
                ORPHANS.labels("session").inc()
            return 0
        if state.ended is not None:
            self.ending = _ending(self.spec, state)
            return state.ended.status
        if state.is_running:
            self._follow_address(state)
        return None

    def _follow_address(self, state: PodState) -> None:
        """Keeps the address of a pod whose start another hub began."""
        host, port = self._url(state).rpartition("//")[2].rsplit(":", 1)
        server = self.server
        if server is not None and (server.ip, server.port) != (host, int(port)):
            self.log.info("Session %s is at %s:%s.", self._log_name, host, port)
            server.ip, server.port = host, int(port)
            self.db.commit()

    async def stop(self, now: bool = False) -> None:
        """Ends the pod, and returns when it is gone; raises ``TimeoutError`` if the cluster does not answer."""
        grace = 0 if now else self.delete_grace_period
        async with asyncio.timeout(grace + _STOP_PATIENCE):
            state = self._own()
            uid = state.uid if state else self._pod_uid
            await self._delete(grace, uid)
            while (state := self._own()) is not None:
                await self.shared.pods.changed(self.pod_name, state)

    async def _delete(self, grace: int, uid: str) -> None:
        if not uid:
            found = await persistently(self._there, self._unanswered)
            ours = found and (found["metadata"].get("annotations") or {}).get(START) == self.start_id
            if not found or not ours:
                return
            uid = found["metadata"]["uid"]
        try:
            await persistently(
                lambda: self.shared.api.delete(self._pod, grace=grace, uid=uid), self._unanswered
            )
        except ApiRefused as refused:
            if refused.status != 409:  # it is gone, and another one has its name
                raise

    async def run_post_stop_hook(self) -> None:
        """Removes the pod of a session that ended by itself, or died as it started."""
        if self.spec is not None and self.start_id and self.delete_stopped_pods:
            try:
                async with asyncio.timeout(self.k8s_api_request_retry_timeout):
                    await self._delete(0, self._pod_uid)
            except (ApiRefused, TimeoutError) as error:
                self.log.warning("Pod %s was not removed: %s", self.pod_name, error)
            if self.upkeep is None:  # which else removes it
                with suppress(OSError):
                    await self.shared.secrets.remove(self.user.name, self.spec.id, ())
        await super().run_post_stop_hook()

    @classmethod
    async def sweep(cls, spawners: Collection[PlannedSpawner]) -> None:
        """Removes pods of which the hub has no session; what it has no pod for ends by `poll`."""
        starts = {spawner.start_id for spawner in spawners}
        for (loop, _), shared in cls._shared.items():
            if loop is asyncio.get_running_loop() and shared.pods.is_connected:
                await shared.sweeper.round(list(shared.pods.pods.values()), starts)

    @property
    def notices(self) -> list[str]:
        """What the owner should know of the running session."""
        told = super().notices
        state = self._own() if self.active else None
        if state is not None and not state.is_reached:
            told.append(
                f"The cluster has lost touch with {state.node}, where this session runs. It may come back by"
                " itself; if you cannot wait, stop the session and start another."
            )
        return told


def _ending(spec: SessionSpec, state: PodState, when: str = "") -> str:
    """How a session ended, for its user; empty if it ended well after it had been ready."""
    end = state.ended
    if end is None or (not when and end.reason == "Completed"):
        return ""
    if end.reason == "OOMKilled":
        return f"The program of {spec.image} used more than its {spec.memory:g} GB of memory, and was ended."
    if end.reason in ("StartError", "ContainerCannotRun", "ContainerStatusUnknown"):
        return f"The program of {spec.image} could not be started: {end.message or end.reason}"
    if end.reason in ("Error", "Completed", ""):
        return f"The program of {spec.image} ended with status {end.status}{when}."
    return f"The session was ended by the cluster: {end.message or end.reason}"
