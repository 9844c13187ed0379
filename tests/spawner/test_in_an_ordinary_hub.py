"""The classes in somebody else's JupyterHub: registered names, traits, and none of our pages or gateway."""

import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from jupyterhub import orm
from jupyterhub.spawner import SpawnException
from jupyterhub.utils import url_path_join

from canfar_site.settings import Credentials, Site
from canfar_spawner.credential_folders import FolderStore
from canfar_spawner.spec import Refused, SessionSpec
from canfar_spawner.upkeep import Upkeep
from tests.support.identities import USERS, identity
from tests.support.oidc_hub import NoProxy
from tests.support.ports import free_port
from tests.support.stack import write_catalogue

YEAR = timedelta(days=365)


@pytest.fixture
def site_file(tmp_path: Path, site: Site) -> Path:
    settings = site.model_dump(mode="json", exclude_defaults=True)
    settings["storage"] = {"top": str(tmp_path / "arc")}
    settings["catalogue"] = str(write_catalogue(tmp_path))
    settings["sign_in"]["platform_groups"] = [USERS]
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
async def hub(hub_app: Any, tmp_path: Path, site_file: Path) -> Any:
    """A hub of pytest-jupyterhub's with our authenticator and spawner, by their registered names."""
    app = await hub_app(
        {
            "JupyterHub": {
                "authenticator_class": "canfar",
                "spawner_class": "canfar-local",
                "proxy_class": NoProxy,
                "allow_named_servers": True,
                "bind_url": f"http://127.0.0.1:{free_port()}",
                "hub_bind_url": f"http://127.0.0.1:{free_port()}",
                "cookie_secret": secrets.token_bytes(32),
                "db_url": f"sqlite:///{tmp_path}/hub.sqlite",
            },
            "CryptKeeper": {"keys": [secrets.token_bytes(32)]},
            "CanfarOAuthenticator": {
                "issuer": "https://login.example.org",
                "platform_groups": {USERS},
                "groups": {"authority": "example.org"},
            },
            "PlannedSpawner": {"site_file": str(site_file), "site_key": secrets.token_hex(32)},
            "LocalCanfarSpawner": {"runtime_dir": str(tmp_path / "sessions"), "accounts": "own"},
        }
    )
    yield app
    for user in app.users.values():
        for name, spawner in list(user.spawners.items()):
            if spawner.active:
                await user.stop(name)


async def person(app: Any, known: bool = True) -> httpx.AsyncClient:
    """A client of the hub's API as the user `astronomer`, who has signed in if `known`."""
    record = orm.User(name="astronomer")
    app.db.add(record)
    app.db.commit()
    user = app.users[record]
    if known:
        await user.save_auth_state({"canfar": identity(USERS).to_state()})
    role = orm.Role.find(app.db, "user")
    role.users.append(record)
    app.db.commit()
    token = user.new_api_token(scopes=["inherit"])
    return httpx.AsyncClient(
        base_url=url_path_join(app.hub.host, app.hub.base_url),
        headers={"Authorization": f"token {token}"},
        timeout=60,
    )


async def test_a_session_starts_and_stops(hub: Any) -> None:
    async with await person(hub) as client:
        options = {"user_options": {"profile": "open", "name": "My work"}}
        answer = await client.post("api/users/astronomer/servers/mine", json=options)
        assert answer.status_code in {201, 202}, answer.text
        spawner = hub.users["astronomer"].spawners["mine"]
        assert await spawner.poll() is None
        (route,) = [r for r in (await hub.proxy.get_all_routes()).values() if r["data"].get("user")]
        assert route["data"]["server_name"] == "mine"
        assert "headers" not in route["data"]  # an ordinary proxy is told no secret
        answer = await client.delete("api/users/astronomer/servers/mine")
        assert answer.status_code in {202, 204}


@pytest.mark.parametrize("known", [True, False])
async def test_who_never_signed_in_gets_nothing(hub: Any, known: bool) -> None:
    async with await person(hub, known) as client:
        options = {"user_options": {"profile": "open"}}
        answer = await client.post("api/users/astronomer/servers/mine", json=options)
        assert answer.status_code in ({201, 202} if known else {409})


async def test_a_link_starts_nothing_on_the_hubs_own_page_either(hub: Any) -> None:
    async with await person(hub):
        with pytest.raises(SpawnException, match="A link cannot start a session"):
            hub.users["astronomer"].spawner.options_from_query({"profile": ["open"]})


async def test_a_hub_without_a_site_key_starts_nothing(hub: Any) -> None:
    hub.config.PlannedSpawner.site_key = ""
    async with await person(hub) as client:
        options = {"user_options": {"profile": "open"}}
        answer = await client.post("api/users/astronomer/servers/mine", json=options)
        assert answer.status_code == 500
        assert not hub.users["astronomer"].spawners["mine"].active


async def test_a_session_that_is_to_end_says_so_and_stays_when_its_owner_may_again(hub: Any) -> None:
    async with await person(hub) as client:
        options = {"user_options": {"profile": "open"}}
        await client.post("api/users/astronomer/servers/mine", json=options)
        user, now = hub.users["astronomer"], datetime.now(UTC)
        spawner = user.spawners["mine"]
        await spawner.review(now)
        assert (spawner.notices, spawner.is_over(now + YEAR)) == ([], False)

        await user.save_auth_state({"canfar": identity(name="astronomer").to_state()})
        await spawner.review(now)
        (notice,) = spawner.notices
        grace = timedelta(seconds=spawner.site.removal.grace)
        assert f"This session ends at {now + grace:%Y-%m-%d %H:%M} UTC." in notice
        assert (spawner.is_over(now), spawner.is_over(now + grace)) == (False, True)
        await spawner.review(now + grace / 2)
        assert spawner.ends_at == now + grace

        kept = spawner.get_state()
        spawner.clear_state()
        spawner.load_state(kept)
        assert (spawner.ends_at, spawner.notice) == (now + grace, notice)

        await user.save_auth_state({"canfar": identity(USERS).to_state()})
        await spawner.review(now + grace / 2)
        assert (spawner.notices, spawner.is_over(now + YEAR)) == ([], False)
        assert "ends_at" not in spawner.orm_spawner.state


async def test_a_session_without_ids_keeps_nobody_elses_credentials_from_being_taken_over(
    hub: Any, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = site.model_copy(update={"credentials": Credentials(access_token=False)})

    async def taken_over() -> bool:
        upkeep = Upkeep(nothing, FolderStore(tmp_path / "credentials"))
        upkeep.start(hub)
        await upkeep.credentials()
        upkeep.stop()
        return upkeep.credential_status("astronomer") is not None

    async with await person(hub) as client:
        await client.post("api/users/astronomer/servers/mine", json={"user_options": {"profile": "open"}})
        assert await taken_over()

        def account(spec: SessionSpec) -> None:
            raise Refused("ids", 503, "Not known.")

        monkeypatch.setattr(hub.users["astronomer"].spawners["mine"], "account", account)
        assert not await taken_over()
