"""The one way to a session in the hub: every start goes through the strict parser and the plan.

`PlannedSpawner` is a mixin for a JupyterHub spawner. Upstream behaviour that it changes:

* `start` plans first, so options are judged however they came in: form, API, stored, or changed by PATCH.
* The default (unnamed) server is refused: a session has a name of its own.
* Query arguments of the spawn page never start anything.
* The hub does not ask the program over HTTP whether it is up, since our `start` has seen it answer, and since
  the hub stops whatever does not answer after a restart, a frozen program included.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jupyterhub
from jupyterhub import orm
from jupyterhub.spawner import Spawner, SpawnException
from jupyterhub.utils import maybe_future
from traitlets import Any as Any_
from traitlets import TraitError, Unicode, default

from canfar_auth.identity import STATE_KEY, GroupSet, Identity, PosixGroup, PosixIds
from canfar_site.settings import Site, load_site
from canfar_spawner import credentials, desktops, metrics, policy, turnstile
from canfar_spawner.activity import last_used
from canfar_spawner.catalogue import Catalogue, CatalogueFolder
from canfar_spawner.kinds import DESKTOP, Activity, Secret, kinds_of
from canfar_spawner.metrics import Stage
from canfar_spawner.picker import render
from canfar_spawner.request import FIELDS, options_from_form, parse_options
from canfar_spawner.spec import Desktop, Mount, Placement, Refused, SessionSpec

UPKEEP = "canfar_upkeep"
"""The key of the hub's settings under which its `Upkeep` is."""


@lru_cache
def _site(path: str) -> Site:
    return load_site(Path(path))


@lru_cache
def _folder(site_file: str) -> CatalogueFolder:
    site = _site(site_file)
    return CatalogueFolder(site.catalogue, kinds_of(site))


def as_spawn_exception(refused: Refused) -> SpawnException:
    """The hub's form of a refusal, which it neither logs as a fault nor counts towards its failure limit.

    It is for somebody to be told, and counted.
    """
    metrics.refused(refused.code)
    exception = SpawnException(refused.sentence, reason=refused.code, status_code=refused.status)
    exception.jupyterhub_message = refused.sentence  # what the hub's pages show
    return exception


class PlannedSpawner(Spawner):
    """Plans each start. Subclasses render `self.spec` in `launch`, and may override `available`."""

    site_file = Unicode(
        help="""Path of the site file: what this installation offers, to whom, and where its data are.

        The same file configures `CanfarOAuthenticator` through `jupyterhub_config.py`.
        """
    ).tag(config=True)

    site_key = Unicode(
        help="""Secret from which each session's own secret is derived; 32 random bytes as hexadecimal digits.

        Keep it over restarts of the hub: with another key, the gateway could not reach running sessions.
        """
    ).tag(config=True)

    spec: SessionSpec | None = None
    """The decided session; None before its plan."""
    start_id = ""
    """Random and different for each start, so that a session's secret is."""
    ends_at: datetime | None = None
    """When the session ends, since its owner lost a group; None while it may stay."""
    notice = ""
    """What the owner is told about that."""
    ending = ""
    """Why the last session of this name ended by itself, for its owner; empty if it did not."""
    last_used: datetime | None = None
    """When the program was last used, by what it says itself; None where it did not say."""
    _link_notice: tuple[str, ...] = ()
    _stages: tuple[str, ...] = ()
    _forgetting: asyncio.Future[None] | None = None
    _news = Any_()

    @default("_news")
    def _no_news(self) -> asyncio.Event:
        return asyncio.Event()

    @default("apply_user_options")
    def _no_apply_user_options(self) -> Any:
        """Options are applied by the plan alone. Without a hook, the hub would warn that nobody reads them."""
        return lambda spawner, options: None

    @cached_property
    def site(self) -> Site:
        """The site's settings."""
        return _site(self.site_file)

    async def catalogue(self) -> Catalogue:
        """The catalogue as it is now for this user, as far as it can run here."""
        return self.available(_folder(self.site_file).read())

    def available(self, catalogue: Catalogue) -> Catalogue:
        """Marks what cannot run here."""
        return catalogue

    async def on_nodes(self) -> Mapping[str, Any]:
        """By image, how many `nodes`, and `of` how many, have it already; nothing where that is not known."""
        return {}

    # What the owner may, and has

    async def identity(self) -> Identity:
        """The owner's identity, whoever presses the button.

        Raises
        ------
        Refused
            409: the owner never signed in, so that nobody can say what they may.
        """
        state = await self.user.get_auth_state()
        identity = Identity.from_state((state or {}).get(STATE_KEY))
        if identity is None:
            sentence = f"It is not known what {self.user.name} may use; they need to sign in once."
            raise Refused("identity", 409, sentence)
        patience = timedelta(seconds=self.site.groups.patience)
        return replace(identity, groups=identity.groups.trusted(datetime.now(UTC), patience))

    def usage(self) -> policy.Usage:
        """The owner's other sessions. A start counts from its plan on, so that two at once cannot both pass."""
        others = [s for s in self.user.spawners.values() if s is not self]
        sessions = [s for s in others if s.active and getattr(s, "spec", None) and not desktops.is_app(s)]
        running = filter(desktops.is_desktop, sessions)
        return policy.Usage(
            active=len(sessions),
            desktops={desktops.as_desktop(s): len(desktops.apps_on(s)) for s in running},
        )

    def _taken_ids(self) -> set[str]:
        """The ids of all other sessions of the site."""
        spawners = (s for user in self.user.settings["users"].values() for s in user.spawners.values())
        specs = (getattr(s, "spec", None) for s in spawners if s is not self)
        return {spec.id for spec in specs if spec}

    # From request to session

    async def start(self) -> str:
        """Plans and launches. Returns the program's address.

        Raises
        ------
        jupyterhub.spawner.SpawnException
            The plan's refusal, or a fault of the image, each with the sentence for the user.
        """
        self.spec, self._stages, self.ending = None, (), ""
        with metrics.start() as counted:
            await turnstile.passed()
            try:
                identity = await self.identity()
                catalogue = await self.catalogue()
                # No await between counting and deciding: this is what reserves the session.
                self.spec = self.plan(self.user_options, identity, catalogue)
                counted.kind = self.spec.kind
                self.start_id = secrets.token_hex(8)
                async with self.turn():
                    self._passed(Stage.QUEUE)
                    await self._delegate(self.spec)
                    self._passed(Stage.CREDENTIALS)
                    await self.make(self.spec)
                address = await self.launch(self.spec)
                if self.spec.desktop and desktops.desktop_of(self) is None:
                    raise Refused("desktop", 409, "The desktop ended before the application was on it.")
                await turnstile.passed()  # what the hub does next takes its time
                return address
            except Refused as refused:
                raise as_spawn_exception(refused) from None

    def _passed(self, stage: Stage) -> None:
        """Notes that a stage of this start is over."""
        if self.spec is not None:
            metrics.passed(self.spec.kind, stage)

    def plan(self, options: Mapping[str, Any], identity: Identity, catalogue: Catalogue) -> SessionSpec:
        """Parses and plans `options` for this server, and changes nothing.

        Raises
        ------
        Refused
            By the parser or the policy; also 400 for the default (unnamed) server.
        """
        if not self.name:
            sentence = "Sessions have names of their own; start one from the page “New session”."
            raise Refused("unnamed", 400, sentence)
        session_id = policy.choose_id(self.user.name, self.name, self._taken_ids())
        request = parse_options(options)
        return policy.plan(request, identity, self.site, catalogue, self.usage(), session_id)

    def turn(self) -> AbstractAsyncContextManager[object]:
        """What a start waits for before it makes anything; nothing, unless a subclass says so."""
        return nullcontext()

    async def make(self, spec: SessionSpec) -> None:
        """Makes what the session needs elsewhere; nothing, unless a subclass says so."""

    async def launch(self, spec: SessionSpec) -> str:
        """Starts the session and returns the program's address once it can be used."""
        raise NotImplementedError

    def fault(self, sentence: str, log: str = "") -> SpawnException:
        """The start's end by the image's doing, with the last lines of its log: no fault of the hub's."""
        lines = log.replace(self.secret, "…")
        fault = SpawnException(sentence, reason="died", status_code=424)
        fault.jupyterhub_message = f"{sentence}\n{lines}" if lines else sentence
        shown = f"<pre>{escape(lines)}</pre>" if lines else ""
        fault.jupyterhub_html_message = f"<p>{escape(sentence)}</p>{shown}"
        return fault

    # Progress

    def announce(self, stage: str) -> None:
        """Tells who waits for the start what happens now; once, however often it is said in a row."""
        if self._stages[-1:] == (stage,):
            return
        self._stages += (stage,)
        before, self._news = self._news, asyncio.Event()
        before.set()

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Each stage of the start, for the hub's progress page."""
        shown = 0
        while True:
            news = self._news
            for stage in self._stages[shown:]:
                shown += 1
                # Nobody knows how many there will be: each is a third of the way that is left to 90 %.
                yield {"progress": int(90 * (1 - (2 / 3) ** shown)), "message": stage}
            await news.wait()

    # What it acts with elsewhere

    @property
    def upkeep(self) -> Any:
        """The hub's `Upkeep`, which keeps credentials fresh; None in a hub without one."""
        return self.user.settings.get(UPKEEP)

    def account(self, spec: SessionSpec) -> PosixIds | None:
        """The ids that own the session's files on the hub's machine; None for the hub's own account."""
        return None

    async def _delegate(self, spec: SessionSpec) -> None:
        """Gets the session its credentials, and refuses it where the site starts none without."""
        if self.upkeep is None:
            return
        if self.site.credentials.cred:
            self.announce("Getting your certificate.")
        renewer = await self.upkeep.credentials()
        status = await renewer.begin(self.user.name, spec.id, self.account(spec))
        if refusal := credentials.refusal(status, self.site.credentials):
            raise Refused("credentials", 503, refusal)

    async def run_post_stop_hook(self) -> None:
        """Takes credentials and invitations back, also of a session that ended by itself or never began.

        The applications on a desktop end with it, however it ended.
        """
        self._end_sharing()
        if self.spec is not None and self.spec.kind == DESKTOP:
            await desktops.end_all(desktops.apps_on(self))
        if self.spec is not None and self.spec.desktop:
            self._forgetting = asyncio.ensure_future(desktops.forget(self))
        if self.spec is not None and self.upkeep is not None:
            await (await self.upkeep.credentials()).end(self.user.name, self.spec.id)
        await maybe_future(super().run_post_stop_hook())

    def _end_sharing(self) -> None:
        """Who was invited was invited to what ran then, not to what its owner may start under that name."""
        for kind in (orm.Share, orm.ShareCode):
            self.db.query(kind).filter_by(spawner_id=self.orm_spawner.id).delete()
        self.db.commit()

    @property
    def notices(self) -> list[str]:
        """What the owner should know of the running session."""
        status = self.upkeep.credential_status(self.user.name) if self.upkeep and self.active else None
        held = (status.certificate, status.token) if status else ()
        failed = [f"{one.error} It is asked for again by itself." for one in held if one and one.error]
        return [sentence for sentence in (self.notice, *self._link_notice, *failed) if sentence]

    @property
    def certificate_until(self) -> datetime | None:
        """When the owner's certificate ends; None if there is none."""
        status = self.upkeep.credential_status(self.user.name) if self.upkeep and self.active else None
        return status.certificate.not_after if status and status.certificate else None

    async def stop(self, now: bool = False) -> None:
        """Left to the spawner that this is mixed into."""
        await super().stop(now)

    async def poll(self) -> int | None:
        """Left to the spawner that this is mixed into."""
        status: int | None = await super().poll()
        return status

    @classmethod
    async def sweep(cls, spawners: Collection[PlannedSpawner]) -> None:
        """Removes what runs of sessions of which the hub has no record; `spawners` are all that it has."""

    async def review(self, now: datetime) -> GroupSet | None:
        """Judges the running session by its owner's groups as last read: it may get an end, or lose it.

        Returns those groups; None if nothing is known of its owner.
        """
        state = await self.user.get_auth_state()
        identity = Identity.from_state((state or {}).get(STATE_KEY))
        if identity is None:
            return None
        if self.spec is not None:
            self._take_reason(policy.removal(self.spec.groups, identity.groups, self.site), now)
        return identity.groups

    def _take_reason(self, reason: str, now: datetime) -> None:
        """Gives the session an end if there is a reason for one, and takes it back if there is none."""
        if bool(reason) == bool(self.ends_at):
            return
        self.ends_at = now + timedelta(seconds=self.site.removal.grace) if reason else None
        self.notice = f"{reason} This session ends at {self.ends_at:%Y-%m-%d %H:%M} UTC." if reason else ""
        self.orm_spawner.state = self.get_state()
        self.db.commit()

    def is_over(self, now: datetime) -> bool:
        """Whether the time that a session was left has passed."""
        return self.ends_at is not None and now >= self.ends_at

    @property
    def display(self) -> str:
        """The X display of a running desktop, as the applications on it name it."""
        raise NotImplementedError

    @property
    def secret(self) -> str:
        """The session's own secret, derived from the site's key, the session and its start.

        An application's is the X cookie of its desktop, and tells it nothing of the desktop's own secret.
        """
        if self.spec is not None and (desktop := self.spec.desktop):
            return desktops.x_cookie(self._derived(desktop.server, desktop.start))
        return self._derived(self.name, self.start_id)

    def _derived(self, server: str, start: str) -> str:
        if not self.site_key:
            raise TraitError("PlannedSpawner.site_key is not set; give 32 random bytes as hexadecimal digits.")
        message = f"{self.user.name}/{server}/{start}"
        return hmac.new(self.site_key.encode(), message.encode(), hashlib.sha256).hexdigest()

    @property
    def secret_headers(self) -> dict[str, str]:
        """The headers of a request that the program takes; none where it checks no secret."""
        return self.spec.secret.headers(self.secret) if self.spec and self.spec.secret else {}

    def route_data(self) -> dict[str, Any]:
        """What the gateway must know of a running session beside its address."""
        spec = self.spec
        if spec is None:
            return {}
        return {
            "kind": spec.kind,
            "id": spec.id,
            "prefix": spec.prefix,
            "headers": self.secret_headers,
            "landing": spec.landing,
            "cookies": spec.cookies,
            "compress": spec.compress,
            "interactive": spec.interactive,
        }

    # The form

    async def get_options_form(self, sent: Mapping[str, Any] | None = None) -> str:
        """The picker for this user, filled with what was `sent`, else with what was asked last."""
        filled = self._remembered() if sent is None else sent
        try:
            offer = policy.offer(await self.identity(), self.site, await self.catalogue(), self.usage())
        except Refused as refused:
            metrics.refused(refused.code)
            offer = policy.nothing(refused.sentence, self.site)
        return render(self._shown(offer, filled, await self.on_nodes()))

    def _shown(
        self, offer: policy.Offer, filled: Mapping[str, Any], on_nodes: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The offer as the picker's page takes it."""
        shown = asdict(offer)
        images = {image for profile in offer.profiles for image in profile.images}
        return {
            "user": self.user.name,
            "static": f"{self.hub.base_url}canfar/static",
            "refusal": shown["refusal"],
            "sessions": {"active": offer.active, "limit": offer.limit},
            "kinds": shown["kinds"],
            "profiles": shown["profiles"],
            "notices": shown["notices"],
            "on_nodes": {image: asdict(on_nodes[image]) for image in images & on_nodes.keys()},
            "request": {key: filled.get(key) for key in FIELDS},
        }

    def _remembered(self) -> dict[str, Any]:
        """What was asked for this server, or, on the page for a new one, for the owner's last."""
        record = self.orm_spawner
        if not self.name:
            started = [s for s in self.user.orm_user._orm_spawners if s.name and s.last_activity]
            picked = [s for s in started if "desktop" not in (s.user_options or {})]
            record = max(picked, key=lambda s: s.last_activity, default=record)
        options = record.user_options
        # What a link opened was meant for that session alone.
        return {k: v for k, v in options.items() if k != "open"} if isinstance(options, dict) else {}

    def run_options_from_form(self, form_data: Mapping[str, list[Any]]) -> dict[str, Any]:
        """Reads the posted picker; raises its refusal as the hub expects it."""
        try:
            return options_from_form(form_data)
        except Refused as refused:
            raise as_spawn_exception(refused) from None

    def options_from_query(self, query_options: Mapping[str, list[str]]) -> dict[str, Any]:
        """Refuses: a link fills the form and starts nothing."""
        raise as_spawn_exception(Refused("link", 400, "A link cannot start a session; choose Launch."))

    async def look_for_use(self, now: datetime) -> None:
        """Asks the running program when it was last used, if it is of a kind that says so."""
        if self.spec is None or self.spec.activity is None or self.server is None:
            return
        base = f"http://{self.server.ip}:{self.server.port}{self.spec.prefix}"
        told = await last_used(self.spec.activity, base, self.secret_headers, now)
        self.last_used = told or self.last_used

    # What lasts over a restart of the hub

    def get_state(self) -> dict[str, Any]:
        """The spawner's state as JSON. It holds no secret."""
        state: dict[str, Any] = super().get_state()
        if self.spec is not None:
            state |= {"spec": asdict(self.spec), "start_id": self.start_id}
        if self.ends_at is not None:
            state |= {"ends_at": self.ends_at.isoformat(), "notice": self.notice}
        if self.ending:
            state["ending"] = self.ending
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes back what `get_state` gave."""
        super().load_state(state)
        if stored := state.get("spec"):
            secret = Secret(**stored["secret"]) if stored["secret"] else None
            lists = {name: tuple(stored.get(name, ())) for name in ("command", "program", "groups", "files")}
            ids = _stored_ids(stored.get("ids"))
            mounts = tuple(Mount(**mount) for mount in stored.get("mounts", ()))
            placement = _stored_placement(stored.get("placement", {}))
            parts = {
                "secret": secret,
                "ids": ids,
                "mounts": mounts,
                "placement": placement,
                "activity": _stored_activity(stored.get("activity")),
                "desktop": Desktop(**stored["desktop"]) if stored.get("desktop") else None,
            }
            self.spec = SessionSpec(**{**stored, **lists, **parts})
            self.start_id = state.get("start_id", "")
        if ends_at := state.get("ends_at"):
            self.ends_at, self.notice = datetime.fromisoformat(ends_at), state.get("notice", "")

    def clear_state(self) -> None:
        """Forgets the session."""
        super().clear_state()
        self.spec = None
        self.start_id = ""
        self.ends_at, self.notice, self._link_notice = None, "", ()
        self.last_used = None

    @property
    def server(self) -> Any:
        """The hub's record of where the program listens."""
        server = Spawner.server.fget(self)
        if server is not None:
            server.wait_up = _is_up
        return server

    @server.setter
    def server(self, server: Any) -> None:
        Spawner.server.fset(self, server)


def _stored_activity(stored: Mapping[str, Any] | None) -> Activity | None:
    if stored is None:
        return None
    return Activity(tuple(stored["paths"]), stored["time"], tuple(stored["busy"]))


def _stored_placement(stored: Mapping[str, Any]) -> Placement:
    return Placement(**{**stored, "tolerations": tuple(stored.get("tolerations", ()))})


def _stored_ids(stored: Mapping[str, Any] | None) -> PosixIds | None:
    if stored is None:
        return None
    return PosixIds(stored["uid"], stored["gid"], tuple(PosixGroup(**group) for group in stored["groups"]))


async def _is_up(**_: Any) -> SimpleNamespace:
    """Stands in for `Server.wait_up`. The hub reads one header of the answer: the version it should match."""
    await asyncio.sleep(0)
    return SimpleNamespace(headers={"X-JupyterHub-Version": jupyterhub.__version__})
