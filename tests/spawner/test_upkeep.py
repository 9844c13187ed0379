"""What the hub's upkeep spares the hub at its start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from jupyterhub import orm
from sqlalchemy import Engine, event

from canfar_site.settings import Site
from canfar_spawner import collector
from canfar_spawner.credential_folders import FolderStore
from canfar_spawner.planned import PlannedSpawner
from canfar_spawner.upkeep import Upkeep
from tests.support.oidc_hub import USERS, hub_config, start_hub, stop_hub
from tests.support.ports import free_port

ISSUER = "http://127.0.0.1:9"
"""Nobody is asked."""


class Runs(PlannedSpawner):
    """Runs for ever."""

    async def poll(self) -> int | None:
        return None


@contextmanager
def statements() -> Iterator[list[str]]:
    """The SQL statements of the block."""
    found: list[str] = []

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        found.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def with_sessions(folder: Path, count: int) -> None:
    """A hub's database in which so many people have one session each."""
    folder.mkdir()
    db = orm.new_session_factory(f"sqlite:///{folder}/hub.sqlite")()
    for number in range(count):
        user = orm.User(name=f"user{number}")
        db.add_all([user, orm.Spawner(name="", user=user)])
        db.add(orm.Spawner(name="mine", user=user, server=orm.Server(), state={}))
    db.commit()
    db.close()


async def started(folder: Path, count: int) -> int:
    """How often a hub with so many sessions reads users from its database at its start."""
    with_sessions(folder, count)
    port = free_port()
    store = FolderStore(folder / "credentials")
    upkeep = Upkeep(Site(contact="us", sign_in={"issuer": ISSUER, "platform_groups": [USERS]}), store)
    config = hub_config(folder, port, issuer=ISSUER, platform_groups={USERS}, companions=[upkeep.start])
    config.JupyterHub.update(spawner_class=Runs, allow_named_servers=True, cleanup_servers=False)
    config.JupyterHub.init_spawners_timeout = -1  # until all are taken back
    with statements() as found:
        hub = await start_hub(config, port)
    try:
        spawners = [user.spawners["mine"] for user in hub.app.users.values()]
        assert [spawner.ready for spawner in spawners] == [True] * count
    finally:
        upkeep.stop()
        await stop_hub(hub)
    return sum(1 for one in found if "FROM users" in one)


async def test_a_hub_takes_any_number_of_sessions_back_with_the_same_queries(tmp_path: Path) -> None:
    assert await started(tmp_path / "many", 30) == await started(tmp_path / "few", 10)


@pytest.mark.parametrize(
    ("busy", "runs", "made"), [(False, 49, 0), (False, 50, 1), (True, 50, 0), (True, 5000, 0)]
)
def test_a_full_run_of_the_collector_waits_until_nobody_starts(
    monkeypatch: pytest.MonkeyPatch, busy: bool, runs: int, made: int
) -> None:
    full: list[None] = []
    monkeypatch.setattr(collector.gc, "get_count", lambda: (0, 0, runs))
    monkeypatch.setattr(collector.gc, "collect", lambda: full.append(None))
    collector.rest(busy=busy)
    assert len(full) == made
