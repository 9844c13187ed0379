"""Desktops and the applications on them: who belongs to whom, what only they know, and their common end.

An application is a server of the hub like every session. It belongs to one start of a desktop of its owner, and
when it ends, nothing is left of it in its owner's list.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable
from typing import Any

from canfar_spawner.kinds import DESKTOP
from canfar_spawner.spec import Desktop

log = logging.getLogger("canfar.desktops")

_PAUSE = 0.05  # seconds between two looks at whether the hub is done with a server


def x_cookie(secret: str) -> str:
    """The MIT-MAGIC-COOKIE-1 of a desktop's X server, from its secret; the desktop derives it, too."""
    return hashlib.sha256(f"x11:{secret}".encode()).hexdigest()[:32]


def apps_token(secret: str) -> str:
    """What opens a desktop's applications to the desktop itself, and is good for nothing else."""
    return hashlib.sha256(f"apps:{secret}".encode()).hexdigest()


def is_desktop(spawner: Any) -> bool:
    """Whether this is a desktop that runs, or has come so far that it can ask for its applications."""
    spec = getattr(spawner, "spec", None)
    return bool(spec and spec.kind == DESKTOP and spawner.active and spawner.pending != "stop")


def is_app(spawner: Any) -> bool:
    """Whether this is an application that runs, or whose start was decided."""
    spec = getattr(spawner, "spec", None)
    return bool(spec and spec.desktop and spawner.active)


def as_desktop(spawner: Any) -> Desktop:
    """What the applications on a running desktop know of it."""
    return Desktop(spawner.spec.id, spawner.name, spawner.start_id, spawner.display)


def find(users: Iterable[Any], session_id: str) -> Any:
    """The running desktop with that id; None if there is none."""
    spawners = (spawner for user in users for spawner in user.spawners.values())
    return next((s for s in spawners if is_desktop(s) and s.spec.id == session_id), None)


def desktop_of(app: Any) -> Any:
    """The desktop that an application is on; None once it has ended, or was started anew."""
    wanted = app.spec.desktop
    others = (s for s in app.user.spawners.values() if is_desktop(s))
    return next((s for s in others if (s.spec.id, s.start_id) == (wanted.id, wanted.start)), None)


def apps_on(desktop: Any) -> list[Any]:
    """The applications on a desktop, the first started first."""
    session, start = desktop.spec.id, desktop.start_id
    found = [s for s in desktop.user.spawners.values() if is_app(s)]
    ours = [s for s in found if (s.spec.desktop.id, s.spec.desktop.start) == (session, start)]
    return sorted(ours, key=lambda app: str(app.orm_spawner.started))


async def end(app: Any) -> None:
    """Ends one application, also one that is still starting."""
    if app.pending == "stop":
        return
    if app._spawn_future and not app._spawn_future.done():
        app._spawn_future.cancel()
        await asyncio.wait([app._spawn_future])
    await app.user.settings["proxy"].delete_user(app.user, app.name)
    await app.user.stop(app.name)


async def end_all(apps: Iterable[Any]) -> None:
    """Ends applications side by side; a failure of one is logged, and stops no other."""
    ending = list(apps)
    for app, fault in zip(ending, await asyncio.gather(*map(end, ending), return_exceptions=True), strict=True):
        if fault is not None:
            log.error("The application %s was not ended: %r", app._log_name, fault)


async def forget(app: Any) -> None:
    """Takes an application that ended off its owner's list, as soon as the hub is done with it."""
    while app.pending:  # noqa: ASYNC110 - the hub says nothing when it is done
        await asyncio.sleep(_PAUSE)
    record = app.user.orm_spawners.get(app.name)
    if record is not None and record.server is None:
        app.user.spawners.pop(app.name, None)
        app.db.delete(record)
        app.db.commit()
