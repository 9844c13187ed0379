"""WebSockets through the gateway."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import WSMsgType

from tests.gateway.conftest import PAGE, site_running, until
from tests.support.raw_http import request

KEY, VERSION = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 13"
TOKEN = {"Authorization": "token ada-token"}


def open_socket(site, path, headers, *, host="", **options):
    url = f"http://127.0.0.1:{site.port}{path}"
    return site.http.ws_connect(url, headers={"Host": host or site.host, **headers}, max_msg_size=0, **options)


async def refused(site, path, headers, **options):
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await open_socket(site, path, headers, **options)
    return caught.value.status


@pytest.mark.parametrize("path", ["/session/notebook/abcd1234/ws", "/user/ada/abcd1234/ws"])
@pytest.mark.parametrize("prefix", ["/session/notebook/abcd1234", ""])
async def test_messages_pass_both_ways(site, path, prefix):
    await site.session("abcd1234", prefix=prefix, headers={"X-Secret": "s3cret"})
    async with open_socket(site, path, TOKEN, protocols=("first", "second")) as socket:
        assert socket.protocol == "second"
        await socket.send_str("héllo")
        assert await socket.receive_str(timeout=20) == "héllo"
        large = bytes(range(256)) * 20_000
        await socket.send_bytes(large)
        assert await socket.receive_bytes(timeout=20) == large
        await socket.send_str("")
        assert await socket.receive_str(timeout=20) == ""
        await socket.send_str("request")
        seen = await socket.receive_json(timeout=20)
    headers = {name.lower(): value for name, value in seen["headers"]}
    assert seen["path"] == f"{prefix}/ws"
    assert headers["x-secret"] == "s3cret"
    assert headers["x-forwarded-user"] == "ada"
    assert "authorization" not in headers


async def test_ping_reaches_the_program_and_its_pong_comes_back(site):
    address = await site.session("abcd1234")
    async with open_socket(site, f"{address}/ws", TOKEN, autoping=False) as socket:
        await socket.ping(b"are you there")
        message = await socket.receive(timeout=20)
        assert (message.type, bytes(message.data)) == (WSMsgType.PONG, b"are you there")


async def test_close_codes_pass_both_ways(site):
    address = await site.session("abcd1234")
    async with open_socket(site, f"{address}/ws", TOKEN, autoclose=False) as socket:
        await socket.send_str("close 4321")
        message = await socket.receive(timeout=20)
        assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, 4321, "as told")
    async with open_socket(site, f"{address}/ws", TOKEN) as socket:
        await socket.close(code=4001)
    await until(lambda: 4001 in site.echo.closes)


async def test_lost_connections_end_the_other_side(site):
    address = await site.session("abcd1234")
    async with open_socket(site, f"{address}/ws", TOKEN) as socket:
        await socket.send_str("abort")
        await socket.receive(timeout=20)
        assert socket.close_code == 1011
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    headers = ("Authorization: token ada-token", "Connection: Upgrade", "Upgrade: websocket", KEY, VERSION)
    writer.write(request(f"{address}/ws", headers=headers))
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()
    await until(lambda: len(site.echo.closes) == 2)


async def test_program_refuses_or_is_not_there(site):
    address = await site.session("abcd1234")
    assert await refused(site, f"{address}/refuse", TOKEN) == 418
    dead = await site.session("dead1234", target="http://127.0.0.1:1")
    assert await refused(site, f"{dead}/ws", TOKEN) == 503


async def test_who_may_open_one(site):
    address = await site.session("abcd1234")
    own = {"Origin": f"http://{site.host}"}
    cookie = {"Cookie": await site.sign_in(f"{address}/", "ada-token")}
    other = {"Cookie": await site.sign_in(f"{address}/", "bob-token")}
    async with open_socket(site, f"{address}/ws", cookie | own) as socket:
        await socket.send_str("request")
        assert "cookie" not in str(await socket.receive_json(timeout=20)).lower()
    async with open_socket(site, f"{address}/ws", cookie | {"Origin": f"HTTP://{site.host.upper()}"}):
        pass
    site.echo.log.clear()
    for headers in (
        {},
        own,
        {"Authorization": "token wrong"},
        {"Authorization": "token bob-token"},
        other | own,
        cookie,
        cookie | {"Origin": "null"},
        cookie | {"Origin": "http://evil.example"},
        cookie | {"Origin": f"http://{site.host}.evil.example"},
        cookie | {"Origin": f"https://{site.host}"},
        cookie | {"Origin": "http://localhost"},
    ):
        assert await refused(site, f"{address}/ws", PAGE | headers) == 403, headers
    assert site.echo.log == []


async def test_end_of_access_closes_open_ones(tmp_path):
    async with site_running(tmp_path, ttl=0.1) as site:
        address = await site.session("abcd1234")
        async with open_socket(site, f"{address}/ws", TOKEN, autoclose=False) as socket:
            asked = len(site.hub.calls)
            await until(lambda: len(site.hub.calls) > asked + 2)  # Checked again, and still open.
            await socket.send_str("still here")
            assert await socket.receive_str(timeout=20) == "still here"
            site.hub.down = True  # An outage is no end of access.
            asked = len(site.hub.calls)
            await until(lambda: len(site.hub.calls) > asked)
            await socket.send_str("still here")
            assert await socket.receive_str(timeout=20) == "still here"
            site.hub.down = False
            del site.hub.tokens["ada-token"]
            message = await socket.receive(timeout=20)
            assert (message.type, message.data) == (WSMsgType.CLOSE, 1008)


async def test_stopping_gateway_tells_its_visitors(tmp_path):
    async with site_running(tmp_path) as site:
        address = await site.session("abcd1234")
        outside = aiohttp.ClientSession()
        url = f"http://127.0.0.1:{site.port}{address}/ws"
        socket = await outside.ws_connect(url, headers=TOKEN)
        received = asyncio.create_task(socket.receive(timeout=20))
        await until(lambda: site.echo.log)
    async with outside:
        await received
        assert socket.close_code == 1012


async def test_hubs_websockets_pass_unchecked(site):
    assert await site.route("/services/portal", service="portal") == 201
    async with open_socket(site, "/services/portal/ws", {"Authorization": "token any"}) as socket:
        await socket.send_str("request")
        seen = await socket.receive_json(timeout=20)
    assert ["Authorization", "token any"] in seen["headers"]
    assert seen["path"] == "/services/portal/ws"
