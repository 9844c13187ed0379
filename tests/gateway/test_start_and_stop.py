"""The gateway's start with and without a table, what probes are told, and its end."""

from __future__ import annotations

import asyncio
import json
import socket as socket_module

import aiohttp
import pytest
from aiohttp import WSMsgType

from canfar_gateway.keeper import Keeper
from canfar_gateway.routes import Routes, parse_route
from tests.gateway.conftest import PAGE, READY, site_running, until

ADDRESS = "/session/notebook/abcd1234"
TOKEN = {"Authorization": "token ada-token"}


def has_session(site):
    """The hub knows a session that runs, which nobody told the gateway of."""
    site.hub.running["/user/ada/abcd1234"] = {
        "target": f"http://127.0.0.1:{site.echo_port}",
        "user": "ada",
        "server_name": "abcd1234",
        "kind": "notebook",
        "id": "abcd1234",
        "prefix": ADDRESS,
        "headers": {"X-Secret": "s3cret"},
    }


async def test_empty_table_is_filled_at_the_start(tmp_path):
    async with site_running(tmp_path, prepare=has_session) as site:
        seen = await site.seen(f"{ADDRESS}/x", token="ada-token")
        assert seen["headers"]["x-secret"] == "s3cret"
        assert site.hub.asked == [200]


async def test_hub_that_is_away_is_asked_again(tmp_path):
    def away(site):
        has_session(site)
        site.hub.down = True

    async with site_running(tmp_path, prepare=away, await_hub=False) as site:
        await until(lambda: len(site.hub.asked) >= 3)
        assert await site.status("/_chp_healthz") == 200
        async with site.request("GET", READY) as response:
            assert (response.status, (await response.json())["message"][-1]) == (503, ".")
        # It may run, so nobody is told that it has ended; and the page comes again.
        for path, headers in ((f"{ADDRESS}/api", TOKEN), ("/user/ada/abcd1234/lab", PAGE)):
            async with site.request("GET", path, headers=headers) as response:
                assert (response.status, response.headers["Retry-After"]) == (503, "1")
                assert response.headers.get("Refresh") == ("1" if headers is PAGE else None)
                assert "just started" in await response.text()
        site.hub.down = False

        async def ready():
            while await site.status(READY) != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        await asyncio.wait_for(ready(), 20)
        assert await site.status(f"{ADDRESS}/x", token="ada-token") == 200
        assert await site.status("/session/notebook/gone1234/x", token="ada-token") == 404
        assert site.hub.asked[-1] == 200


async def test_routes_that_went_to_another_gateway_are_asked_for_again(tmp_path):
    def elsewhere(site):
        has_session(site)
        right = site.hub.post_route

        async def first_elsewhere(path, data):
            return await right(path, data) if 200 in site.hub.asked else 201

        site.hub.post_route = first_elsewhere

    async with site_running(tmp_path, prepare=elsewhere) as site:
        assert await site.status(f"{ADDRESS}/x", token="ada-token") == 200
        assert site.hub.asked == [200, 200]


async def test_hub_is_told_where_the_gateway_is(tmp_path):
    own = "http://10.1.2.3:8001"
    async with site_running(tmp_path, prepare=has_session, own_api_url=own) as site:
        assert await site.status(f"{ADDRESS}/x", token="ada-token") == 200
        assert site.hub.told == [{"api_url": own}]


async def test_role_without_the_scope_is_said_and_routes_come_by_themselves(tmp_path, caplog):
    def forbidden(site):
        site.hub.lets_ask = False

    async with site_running(tmp_path, prepare=forbidden, await_hub=False) as site:
        await until(lambda: "scope 'proxy'" in caplog.text)
        assert await site.status(READY) == 503
        hub = f"http://127.0.0.1:{site.hub.port}"
        await site.api("POST", "/", {"target": hub, "hub": True})
        assert await site.status(READY) == 200
        assert site.hub.asked == [403]


async def test_kept_table_serves_while_the_hub_is_away_and_is_compared_with_it_later(tmp_path):
    async with site_running(tmp_path, prepare=has_session):
        pass  # the table is kept from here on

    def away(site):
        site.hub.down = True

    async with site_running(tmp_path, prepare=away, await_hub=False) as site:
        assert await site.status(READY) == 200
        assert await site.status(f"{ADDRESS}/x", headers=PAGE) == 302  # to the sign-in
        assert await site.status("/session/notebook/gone1234/x", headers=PAGE) == 404
        site.hub.down = False
        await until(lambda: 200 in site.hub.asked)


async def test_end_is_quick_and_pages_come_back(tmp_path):
    async def comes_back(socket, port):
        message = await socket.receive(timeout=20)
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1012)
        # Not to the gateway that ends, although a visitor still holds it up.
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)

    async with aiohttp.ClientSession(headers=TOKEN) as outside:
        async with site_running(tmp_path) as site:
            url = f"http://127.0.0.1:{site.port}{await site.session('abcd1234')}"
            stream = await outside.get(f"{url}/stream")
            assert await stream.content.readline() == b"data: first\n"
            socket = await outside.ws_connect(f"{url}/ws", autoclose=False)
            coming = asyncio.create_task(comes_back(socket, site.port))
        await coming
        with pytest.raises(aiohttp.ClientPayloadError):  # the stream never ends by itself
            await stream.read()


async def test_visitors_are_served_on_while_the_hub_turns_to_the_next_gateway(tmp_path):
    async def seen(site, address, socket):
        def refuses_the_hub():
            with socket_module.socket() as probe:
                return probe.connect_ex(("127.0.0.1", site.api_port)) != 0

        await until(refuses_the_hub)
        assert await site.status(f"{address}/x", headers=TOKEN) == 200
        await socket.send_str("still here")
        assert await socket.receive_str(timeout=20) == "still here"
        message = await socket.receive(timeout=60)
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1012)

    async with aiohttp.ClientSession(headers=TOKEN) as outside:
        async with site_running(tmp_path, linger=3) as site:
            address = await site.session("abcd1234")
            socket = await outside.ws_connect(f"http://127.0.0.1:{site.port}{address}/ws", autoclose=False)
            seeing = asyncio.create_task(seen(site, address, socket))
        await seeing


async def test_many_changes_at_once_are_written_twice(tmp_path):
    class Counted(Routes):
        written = 0

        def save(self):
            super().save()
            self.written += 1

    routes = Counted(tmp_path / "routes.json", host_routing=False)
    keeper = Keeper(routes, clock=lambda: 0.0)  # at one moment
    for number in range(200):
        routes.add(
            parse_route(("user", f"u{number}"), {"target": "http://127.0.0.1:9"}, host_routing=False), 0.0
        )
        keeper.changed()
    assert routes.written == 1
    await until(lambda: routes.written == 2)
    assert len(json.loads((tmp_path / "routes.json").read_text())) == 200
    # A disk that is full, or gone, keeps nobody from coming in.
    (tmp_path / "routes.json").unlink()
    (tmp_path / "routes.json").mkdir()
    keeper.write()
    assert routes.written == 2
