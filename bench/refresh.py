"""A thousand users whose memberships are all read again within one period, while they make requests."""

import asyncio
import json
import multiprocessing
import secrets
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
from aiohttp import web
from jupyterhub import orm

from canfar_auth import binding
from canfar_auth.identity import STATE_KEY, GroupSet, Identity
from canfar_spawner import collector
from canfar_spawner.upkeep import each
from tests.support.oidc_hub import USERS, Hub, hub_config, start_hub, stop_hub
from tests.support.ports import free_port

PEOPLE = 1000
REQUESTS = 2000
AT_ONCE = 10  # requests that are under way at a time
PERIOD = 300.0  # seconds; the refresh age that sites have unless they choose another
LIMIT = 0.1  # seconds that the hub's loop may be blocked


def measure() -> dict[str, Any]:
    """Seconds for one reading of everybody, the longest stop of the loop, and readings at once of one user."""
    port = free_port()
    provider = multiprocessing.Process(target=_provide, args=(port,), daemon=True)
    provider.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            return asyncio.run(_measure(f"http://127.0.0.1:{port}", Path(folder)))
    finally:
        provider.terminate()
        provider.join()


async def _measure(issuer: str, folder: Path) -> dict[str, Any]:
    hub = await _hub(issuer, folder)
    collector.settle()  # as at the hub's start
    hub.app.log.setLevel("WARNING")
    users = await _people(hub, issuer)
    tokens = [user.new_api_token() for user in users[: REQUESTS // 10]]
    visitors = multiprocessing.Process(target=_requests, args=(hub.url, tokens), daemon=True)
    visitors.start()
    stops: list[float] = []
    watch = asyncio.create_task(_watch(stops))
    began = time.monotonic()
    await _rounds(hub, users)
    seconds = time.monotonic() - began
    await asyncio.to_thread(visitors.join)
    watch.cancel()
    async with httpx.AsyncClient(trust_env=False) as client:
        seen = (await client.get(f"{issuer}/seen")).json()
    await stop_hub(hub)
    return {
        "what": f"{PEOPLE} users read again once, half of them with tokens that end soon, during"
        f" {REQUESTS} requests to the hub, {AT_ONCE} at a time",
        "seconds for all": round(seconds, 1),
        "period": PERIOD,
        "users read": seen["people"],
        "refresh tokens used twice": seen["used twice"],
        "most requests to the provider at once for one user": seen["most"],
        "longest stop of the hub's loop": round(max(stops), 3),
        "limit": LIMIT,
        "within the limit": max(stops) < LIMIT
        and visitors.exitcode == 0
        and seconds < PERIOD
        and seen == {"people": PEOPLE, "used twice": 0, "most": 1},
    }


async def _hub(issuer: str, folder: Path) -> Hub:
    port = free_port()
    config = hub_config(
        folder,
        port,
        issuer=issuer,
        client_id="hub",
        client_secret="hub",
        oauth_callback_url=f"http://127.0.0.1:{port}/hub/oauth_callback",
        groups={"authority": "example.org"},
        platform_groups={USERS},
    )
    return await start_hub(config, port)


async def _people(hub: Hub, issuer: str) -> list[Any]:
    """Users as if they had signed in a while ago; every second one's access token is about to end."""
    db, users = hub.app.db, []
    told = GroupSet(frozenset({USERS}), "claims", datetime.now(UTC) - timedelta(hours=1))
    for number in range(PEOPLE):
        name = f"user{number}"
        db.add(orm.User(name=name))
        db.commit()
        user = hub.app.users[name]
        identity = Identity(issuer, name, name, name, told, answers=(told,))
        token = {"access_token": f"{name}.0", "refresh_token": f"{name}.0", "token_type": "Bearer"}
        token["expires_at"] = time.time() + (10 if number % 2 else 3600)  # type: ignore[assignment]
        state = {**token, "token_response": token, STATE_KEY: identity.to_state()}
        await user.save_auth_state(state)
        user.sync_groups({USERS})
        binding.bind(hub.app.authenticator.db, issuer, name, name)
        users.append(user)
    return users


async def _rounds(hub: Hub, users: list[Any]) -> None:
    await each(users, hub.app.authenticator.reread_if_due, "membership of")


def _requests(url: str, tokens: list[str]) -> None:
    """In a process of its own, so that the hub's loop has the hub's work alone."""
    asyncio.run(_ask(url, tokens))


async def _ask(url: str, tokens: list[str]) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        gate = asyncio.Semaphore(AT_ONCE)

        async def ask(token: str) -> None:
            async with gate:
                answer = await client.get(f"{url}/api/user", headers={"Authorization": f"token {token}"})
                answer.raise_for_status()

        await asyncio.gather(*(ask(secrets.choice(tokens)) for _ in range(REQUESTS)))


async def _watch(stops: list[float]) -> None:
    """How much later than asked for the loop comes back."""
    while True:
        asked = time.monotonic()
        await asyncio.sleep(0.005)
        stops.append(time.monotonic() - asked - 0.005)


# The provider, in a process of its own


def _provide(port: int) -> None:
    issuer = f"http://127.0.0.1:{port}"
    now: Counter[str] = Counter()
    seen: dict[str, Any] = {"people": set(), "used": set(), "used twice": 0, "most": 0}

    async def busy(name: str) -> None:
        now[name] += 1
        seen["most"] = max(seen["most"], now[name])
        await asyncio.sleep(0.02)  # a provider's own work
        now[name] -= 1

    async def discovery(_: web.Request) -> web.Response:
        names = ("authorization", "token", "userinfo")
        endpoints = {f"{name}_endpoint": f"{issuer}/{name}" for name in names}
        methods = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
        return web.json_response({"issuer": issuer, **endpoints, **methods})

    async def token(request: web.Request) -> web.Response:
        used = parse_qs(await request.text())["refresh_token"][0]
        name, _, count = used.partition(".")
        seen["used twice"] += used in seen["used"]
        seen["used"].add(used)
        await busy(name)
        fresh = f"{name}.{int(count) + 1}"
        body = {"access_token": fresh, "refresh_token": fresh, "token_type": "Bearer", "expires_in": 3600}
        return web.json_response(body)

    async def userinfo(request: web.Request) -> web.Response:
        name = request.headers["Authorization"].split()[1].partition(".")[0]
        seen["people"].add(name)
        await busy(name)
        return web.json_response({"sub": name, "preferred_username": name, "groups": ["canfar-users"]})

    async def report(_: web.Request) -> web.Response:
        text = json.dumps({"people": len(seen["people"]), **{k: seen[k] for k in ("used twice", "most")}})
        return web.Response(text=text, content_type="application/json")

    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", discovery)
    app.router.add_post("/token", token)
    app.router.add_get("/userinfo", userinfo)
    app.router.add_get("/seen", report)
    web.run_app(app, host="127.0.0.1", port=port, print=None)
