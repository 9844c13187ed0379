"""The decisions: may this user start this session, and what exactly is it then. Pure functions.

The picker's offer comes from the same rules, so that it offers exactly what `plan` accepts.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from urllib.parse import quote

from canfar_auth.identity import GroupSet, Identity, Membership, PosixIds
from canfar_auth.posix import dropped_by_nfs
from canfar_site.settings import Ceiling, Site
from canfar_spawner.catalogue import Catalogue, Profile, Resources
from canfar_spawner.kinds import DESKTOP, Kind, Secret, kinds_of
from canfar_spawner.request import SessionRequest
from canfar_spawner.spec import Desktop, Placement, Refused, SessionSpec, expand
from canfar_spawner.storage import mounts, opened

_ID = re.compile(r"[a-z][a-z0-9]{7}")


@dataclass(frozen=True)
class Usage:
    """What the owner has already: interactive sessions that run, or whose start was decided."""

    active: int
    desktops: Mapping[Desktop, int] = field(default_factory=dict)
    """The desktops that run, and how many applications are on each."""


@dataclass(frozen=True)
class Choice:
    """One value of a resource, and why it cannot be had (empty if it can)."""

    value: float
    refusal: str


@dataclass(frozen=True)
class OfferedKind:
    """One kind as the picker shows it."""

    kind: str
    title: str
    description: str
    refusal: str


@dataclass(frozen=True)
class OfferedProfile:
    """One entry of the catalogue as the picker shows it to one user."""

    profile: str
    kinds: tuple[str, ...]
    title: str
    description: str
    category: str
    refusal: str
    images: tuple[str, ...]
    cores: tuple[Choice, ...]
    memory: tuple[Choice, ...]
    gpus: tuple[Choice, ...]
    opens: tuple[str, ...]
    """The kinds as which it can open a file that a link names."""


@dataclass(frozen=True)
class Offer:
    """Everything that the picker shows."""

    refusal: str
    kinds: tuple[OfferedKind, ...]
    profiles: tuple[OfferedProfile, ...]
    active: int
    limit: int
    notices: tuple[str, ...] = ()
    """What the user should know before they start something."""


def plan(
    request: SessionRequest,
    identity: Identity,
    site: Site,
    catalogue: Catalogue,
    usage: Usage,
    session_id: str,
) -> SessionSpec:
    """Decides one request by its owner's identity.

    Raises
    ------
    Refused
        With the first rule that is against it: 400 where the request could never be granted, 403 where this
        user, or the user just now, may not, 503 where that cannot be known now.
    """
    profile = catalogue.find(request.profile)
    platform = platform_refusal(identity, site)
    _refuse(platform, "platform", _status(_platform_membership(identity.groups, site)))
    if profile is None:
        raise Refused("profile", 400, "That profile is not in the catalogue; choose one that is on offer.")
    group = _group_refusal(profile, identity)
    _refuse(group, "group", _status(identity.groups.membership(profile.groups)))
    _refuse(catalogue.unavailable.get(profile.profile, ""), "unavailable", 400)
    kind = _kind(request, profile, site)
    image = _chosen(request.image, profile.images, "image", profile)
    cores, memory, gpus = _resources(request, profile.resources, ceiling(identity, site))
    desktop = _desktop(request, site, usage) if kind.on_desktop else None
    _refuse("" if desktop else limit_refusal(site, usage), "limit", 403)
    opens = _opens(profile, kind)
    if request.open and not opens:
        raise Refused("open", 400, f"“{profile.title}” cannot open a file that a link names; start it without.")
    prefix = f"/session/{kind.name}/{session_id}" if (profile.path or kind.path) == "keep" else ""
    home = home_of(identity.username, site)
    return SessionSpec(
        id=session_id,
        kind=kind.name,
        profile=profile.profile,
        image=image,
        name=request.name,
        owner=identity.username,
        cores=cores,
        memory=memory,
        gpus=int(gpus),
        home=home,
        port=kind.port,
        prefix=prefix,
        ready_path=kind.ready_path if profile.ready_path is None else profile.ready_path,
        secret=_secret(profile, kind),
        command=(*kind.command, *profile.command),
        program=profile.program.command_for(kind) if profile.program else (),
        landing=_landing(request.open, opens, site) or kind.landing,
        activity=kind.activity,
        files=kind.files,
        cookies=kind.cookies,
        compress=kind.compress,
        groups=_held(profile, identity, site),
        ids=_ids(identity),
        variables={
            **_variables(identity, session_id, prefix, home, site, cores),
            **_desktop_variables(kind, profile, desktop, session_id, home, site),
        },
        environment={**kind.environment, **profile.environment},
        mounts=mounts(identity, home, site),
        placement=_placement(profile, site, cores, memory),
        interactive=kind.interactive,
        desktop=desktop,
    )


def offer(identity: Identity, site: Site, catalogue: Catalogue, usage: Usage) -> Offer:
    """What the picker shows to this user: everything on offer, with the reason where `plan` would refuse."""
    most = ceiling(identity, site)
    known = kinds_of(site)
    kinds = [known[name] for name in site.kinds]
    entries = [p for p in catalogue.profiles if _kinds(p, site)]
    profiles = tuple(_offered(p, identity, site, catalogue, most) for p in entries)
    return Offer(
        refusal=platform_refusal(identity, site) or limit_refusal(site, usage),
        kinds=tuple(_offered_kind(kind, profiles) for kind in kinds if kind.interactive),
        profiles=profiles,
        active=usage.active,
        limit=site.limits.sessions,
        notices=notices(identity, site),
    )


def offer_apps(identity: Identity, site: Site, catalogue: Catalogue) -> tuple[OfferedProfile, ...]:
    """What a desktop shows of applications: those that its owner may use, with the reason if not now."""
    if _platform_membership(identity.groups, site) is Membership.NO:
        return ()
    refusal = platform_refusal(identity, site)
    most = ceiling(identity, site)
    entries = [
        _offered(entry, identity, site, catalogue, most)
        for entry in catalogue.profiles
        if _kinds(entry, site, on_desktop=True)
        and not (entry.groups and identity.groups.membership(entry.groups) is Membership.NO)
    ]
    return tuple(replace(entry, refusal=refusal or entry.refusal) for entry in entries)


def notices(identity: Identity, site: Site) -> tuple[str, ...]:
    """What a user should know about their groups: that they cannot be read, that a file server sees not all."""
    told = []
    groups = identity.groups
    if groups.doubted:
        until = groups.as_of + timedelta(seconds=site.groups.patience)
        told.append(
            f"Your groups could not be read again. {groups.reason} Those known at {groups.as_of:%H:%M} UTC"
            f" count until {until:%Y-%m-%d %H:%M} UTC."
        )
    elif not groups.complete:
        told.append(f"Not all of your groups are known. {groups.reason}".rstrip())
    if identity.posix and (beyond := dropped_by_nfs(identity.posix)):
        names = ", ".join(group.name for group in beyond)
        told.append(f"Where projects are on NFS, files are closed to you that only these groups open: {names}.")
    return tuple(told)


def nothing(refusal: str, site: Site) -> Offer:
    """The offer to somebody of whom it is not known what they may."""
    return Offer(refusal=refusal, kinds=(), profiles=(), active=0, limit=site.limits.sessions)


def platform_refusal(identity: Identity, site: Site) -> str:
    """Why this user may not use the platform at all; empty if they may."""
    member = _platform_membership(identity.groups, site)
    if member is Membership.YES:
        return ""
    if member is Membership.UNKNOWN:
        return _unknown("you may use this site", identity.groups, site)
    wanted = _either(site.sign_in.platform_groups)
    return f"You are not a member of {wanted}; ask {site.contact} to be added, then sign in again."


def removal(held: Collection[str], groups: GroupSet, site: Site) -> str:
    """Why a running session that was given the groups ``held`` is to end; empty if it may stay.

    Only a definite answer ends a session, and only where the site does not let it stay.
    """
    if _platform_membership(groups, site) is Membership.NO and site.removal.platform == "end":
        return f"You are no longer a member of {_either(site.sign_in.platform_groups)}."
    lost = [group for group in held if groups.membership([group]) is Membership.NO]
    if lost and site.removal.group == "end":
        return f"You are no longer a member of {' and '.join(sorted(lost))}, which it was given."
    return ""


def limit_refusal(site: Site, usage: Usage) -> str:
    """Why this user may have no further session now; empty if they may."""
    limit = site.limits.sessions
    if usage.active < limit:
        return ""
    return f"You have {usage.active} of {limit} sessions; stop one before you start another."


def ceiling(identity: Identity, site: Site) -> Ceiling:
    """The most that one session of this user may ask for."""
    groups = identity.groups.groups
    every = [site.limits.ceiling, *(c for c in site.limits.group_ceilings if c.group in groups)]
    return Ceiling(
        cores=max(c.cores for c in every),
        memory=max(c.memory for c in every),
        gpus=max(c.gpus for c in every),
    )


def home_of(username: str, site: Site) -> str:
    """The user's home directory.

    Raises
    ------
    Refused
        409: the name is not that of one directory, whatever let it become a user's name.
    """
    if not username or username.startswith(".") or any(c == "/" or not c.isprintable() for c in username):
        raise Refused("name", 409, f"Your account's name cannot be a directory's; ask {site.contact}.")
    return str(site.storage.homes / username)


def choose_id(owner: str, server_name: str, taken: Collection[str]) -> str:
    """A session's id: the server's name if it has the form of one, else derived; never one of `taken`."""
    if _ID.fullmatch(server_name) and server_name not in taken:
        return server_name
    attempt = 0
    while (derived := _derived_id(f"{owner}/{server_name}/{attempt}")) in taken:
        attempt += 1
    return derived


def _derived_id(text: str) -> str:
    number = int.from_bytes(hashlib.sha256(text.encode()).digest())
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    digits = [letters[number // 36**place % 36] for place in range(1, 8)]
    return letters[number % 26] + "".join(digits)


def _refuse(sentence: str, code: str, status: int) -> None:
    if sentence:
        raise Refused(code, status, sentence)


def _group_refusal(profile: Profile, identity: Identity) -> str:
    member = identity.groups.membership(profile.groups)
    if not profile.groups or member is Membership.YES:
        return ""
    if member is Membership.UNKNOWN:
        return f"Open to members of {_either(profile.groups)}. {identity.groups.reason}".rstrip()
    return f"Open to members of {_either(profile.groups)}."


def _ids(identity: Identity) -> PosixIds | None:
    """The user's numbers, of groups those that count now: ids are kept while their source does not answer."""
    if identity.posix is None:
        return None
    kept = (group for group in identity.posix.groups if group.group in identity.groups.groups)
    return replace(identity.posix, groups=tuple(kept))


def _placement(profile: Profile, site: Site, cores: float, memory: float) -> Placement:
    """Where it runs in a cluster. Guarantees are never above what the session may use."""
    if site.cluster is None:
        return Placement()
    part = site.cluster.guaranteed
    return Placement(
        cpu_guarantee=min(cores, profile.cpu_guarantee or cores * part),
        memory_guarantee=min(memory, profile.memory_guarantee or memory * part),
        resources=dict(profile.extra_resources),
        selector=dict(profile.nodes.selector),
        tolerations=profile.nodes.tolerations,
    )


def _held(profile: Profile, identity: Identity, site: Site) -> tuple[str, ...]:
    """The groups that gave the session something: its image, ids of its processes, or a project."""
    ids = _ids(identity)
    given = {group.group for group in ids.groups} if ids else set()
    for project in opened(identity, site.cluster.volume) if site.cluster else ():
        given |= identity.groups.groups & (project.write | project.read)
    return tuple(sorted((profile.groups & identity.groups.groups) | given))


def _platform_membership(groups: GroupSet, site: Site) -> Membership:
    return groups.membership(site.sign_in.platform_groups | site.sign_in.admin_groups)


def _status(member: Membership) -> int:
    """The status of a refusal for want of membership: nobody is told "no" while nobody knows."""
    return 503 if member is Membership.UNKNOWN else 403


def _unknown(what: str, groups: GroupSet, site: Site) -> str:
    why = f" {groups.reason}" if groups.reason else ""
    return (
        f"It is not known at the moment whether {what}.{why}"
        f" Try again in a few minutes, and tell {site.contact} if it lasts."
    )


def _kinds(profile: Profile, site: Site, *, on_desktop: bool = False) -> tuple[str, ...]:
    """The kinds that this entry can be here: as an interactive session, or as an application on a desktop."""
    known = kinds_of(site)
    here = [known[name] for name in profile.kinds if name in site.kinds]
    return tuple(kind.name for kind in here if (kind.on_desktop if on_desktop else kind.interactive))


def _kind(request: SessionRequest, profile: Profile, site: Site) -> Kind:
    on_desktop = request.desktop is not None
    choices = _kinds(profile, site, on_desktop=on_desktop)
    if not choices and not on_desktop and _kinds(profile, site, on_desktop=True):
        sentence = f"“{profile.title}” shows its windows on a desktop; start it from the menu of one of yours."
        raise Refused("desktop", 400, sentence)
    return kinds_of(site)[_chosen(request.kind, choices, "kind", profile)]


def _desktop(request: SessionRequest, site: Site, usage: Usage) -> Desktop:
    """The desktop of the request's owner that it names, if it has room for another application."""
    desktop = next((one for one in usage.desktops if one.id == request.desktop), None)
    if desktop is None:
        sentence = "You have no running desktop of that id; start a desktop, and the application from its menu."
        raise Refused("desktop", 409, sentence)
    used, limit = usage.desktops[desktop], site.limits.desktop_apps
    if used >= limit:
        sentence = f"This desktop has {used} of {limit} applications; close one before you start another."
        raise Refused("limit", 403, sentence)
    return desktop


def _chosen(asked: str | None, choices: tuple[str, ...], what: str, profile: Profile) -> str:
    """The asked value if it is one of the choices, the first of them if none is asked."""
    if asked is None and choices:
        return choices[0]
    if asked is None or asked not in choices:
        sentence = f"That {what} is not on offer for “{profile.title}”; choose one that is."
        raise Refused(what, 400, sentence)
    return asked


def _resources(request: SessionRequest, resources: Resources, most: Ceiling) -> tuple[float, float, float]:
    def decide(what: str, asked: float | None, choices: tuple[float, ...], highest: float) -> float:
        allowed = [c for c in choices if c <= highest]
        if asked is None and allowed:
            return allowed[0]
        value = choices[0] if asked is None else asked
        if value not in choices:
            listed = ", ".join(f"{c:g}" for c in choices)
            raise Refused(what, 400, f"The choices of {_unit(what)} are {listed}; choose one of them.")
        _refuse(_ceiling_refusal(what, value, highest), what, 403)
        return value

    return (
        decide("cores", request.cores, resources.cores, most.cores),
        decide("memory", request.memory, resources.memory, most.memory),
        decide("gpus", request.gpus, resources.gpus, most.gpus),
    )


def _ceiling_refusal(what: str, value: float, highest: float) -> str:
    if value <= highest:
        return ""
    if not highest:
        return f"No {_unit(what)} are open to you here."
    return f"At most {highest:g} {_unit(what)} are open to you."


def _unit(what: str) -> str:
    return {"cores": "cores", "memory": "GB of memory", "gpus": "GPUs"}[what]


def _secret(profile: Profile, kind: Kind) -> Secret | None:
    if profile.secret is None:
        return kind.secret
    return Secret(profile.secret.header, profile.secret.scheme)


def _opens(profile: Profile, kind: Kind) -> str:
    return kind.opens if profile.opens is None else profile.opens


def _landing(path: str, opens: str, site: Site) -> str:
    """The part of a session's address that opens `path`, which is below the top folder, or is given whole."""
    if not path:
        return ""
    top = str(site.storage.top)
    inside = path.removeprefix(f"{top}/").removeprefix("/")
    known = {"CANFAR_OPEN": quote(inside), "SKAHA_TOP_LEVEL_DIR": quote(top)}
    return expand(opens, known)


def _variables(
    identity: Identity, session_id: str, prefix: str, home: str, site: Site, cores: float
) -> Mapping[str, str]:
    """The variables that every session has, as CANFAR's images expect them."""
    return {
        "HOME": home,
        "PWD": home,
        "USER": identity.username,
        "OMP_NUM_THREADS": str(max(1, int(cores))),
        "CANFAR_PREFIX": prefix,
        "CANFAR_FULL_NAME": identity.full_name,
        "SKAHA_SESSION_URL_PATH": prefix,
        "SKAHA_TOP_LEVEL_DIR": str(site.storage.top),
        "SKAHA_PROJECTS_DIR": str(site.storage.projects),
        "skaha_hostname": site.public_url.partition("://")[2].rstrip("/"),
        "skaha_sessionid": session_id,
        "skaha_username": identity.username,
    }


def _desktop_variables(
    kind: Kind, profile: Profile, desktop: Desktop | None, session_id: str, home: str, site: Site
) -> Mapping[str, str]:
    """What a desktop and the applications on it know of each other. Its SAMP hub's lock file is in the home."""
    if desktop is not None:
        samp = _samp_hub(home, desktop.id)
        return {"DISPLAY": desktop.display, "SAMP_HUB": samp, "CANFAR_TITLE": profile.title}
    if kind.name != DESKTOP:
        return {}
    hub = (site.cluster.hub_url if site.cluster else None) or site.public_url
    apps = f"{hub.rstrip('/')}/hub/api/desktops/{session_id}/apps"
    return {"CANFAR_APPS_URL": apps, "SAMP_HUB": _samp_hub(home, session_id)}


def _samp_hub(home: str, desktop: str) -> str:
    """Where SAMP clients find their hub (SAMP 1.3 section 4.2.2): each desktop has its own, in one home."""
    return f"std-lockurl:file://{home}/.cache/canfar/samp/{desktop}/hub"


def _offered(
    profile: Profile, identity: Identity, site: Site, catalogue: Catalogue, most: Ceiling
) -> OfferedProfile:
    def choices(what: str, values: Iterable[float], highest: float) -> tuple[Choice, ...]:
        return tuple(Choice(value, _ceiling_refusal(what, value, highest)) for value in values)

    resources, kinds, known = profile.resources, _kinds(profile, site), kinds_of(site)
    return OfferedProfile(
        profile=profile.profile,
        kinds=kinds,
        title=profile.title,
        description=profile.description,
        category=profile.category,
        refusal=_group_refusal(profile, identity) or catalogue.unavailable.get(profile.profile, ""),
        images=profile.images,
        cores=choices("cores", resources.cores, most.cores),
        memory=choices("memory", resources.memory, most.memory),
        gpus=choices("gpus", resources.gpus, most.gpus),
        opens=tuple(name for name in kinds if _opens(profile, known[name])),
    )


def _offered_kind(kind: Kind, profiles: tuple[OfferedProfile, ...]) -> OfferedKind:
    refusals = [p.refusal for p in profiles if kind.name in p.kinds]
    if not refusals:
        reason = "No image of this kind is in the catalogue."
    else:
        reason = "" if "" in refusals else refusals[0]
    return OfferedKind(kind.name, kind.title, kind.description, reason)


def _either(groups: Iterable[str]) -> str:
    return " or ".join(sorted(groups))
