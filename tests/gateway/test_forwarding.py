"""HTTP through the gateway: paths, headers, bodies and what happens when one side breaks."""

from __future__ import annotations

import asyncio
import hashlib

import aiohttp
import pytest
from aiohttp import web

from tests.gateway.conftest import PAGE, site_running, until
from tests.support.raw_http import parse, request, send

TOKEN = "Authorization: token ada-token"
EXACT = [
    "a%2Fb/c%20d",
    "a//b///",
    "%41%7e%C3%A9",
    "x;y=1/@:!$&'()*+,=",
    "a%252e%252e/b",
    "...",
    "%2e%2ex",
    '[a]|b^`{}"<>',
]


@pytest.mark.parametrize("tail", EXACT)
@pytest.mark.parametrize("prefix", ["/session/notebook/abcd1234", ""])
@pytest.mark.parametrize("address", ["/session/notebook/abcd1234/", "/user/ada/abcd1234/"])
async def test_path_is_exact(site, tail, prefix, address):
    await site.session("abcd1234", prefix=prefix)
    query = "?a=%2F&b=//&c=..%2f"
    await send(site.port, request(f"{address}{tail}{query}", headers=(TOKEN,)))
    assert [seen["path"] for seen in site.echo.log] == [f"{prefix}/{tail}{query}"]


async def test_route_without_kind_keeps_the_hubs_path(site):
    await site.route("/user/ada/plain", user="ada", server_name="plain")
    assert (await site.seen("/user/ada/plain/a/b?c", token="ada-token"))["path"] == "/user/ada/plain/a/b?c"
    assert (await site.seen("/user/ada/plain/", token="ada-token", headers=PAGE))["path"] == "/user/ada/plain/"
    async with site.request("GET", "/user/ada/plain/", token="bob-token") as response:
        assert response.status == 403


async def test_program_sees_who_and_where_but_no_credentials(site):
    address = await site.session("abcd1234", headers={"X-Secret": "s3cret", "Authorization": "token jupyter"})
    sent = {
        "X-Secret": "forged",
        "X_Secret": "forged",
        "X-Forwarded-User": "root",
        "X_Forwarded_User": "root",
        "X-Forwarded-Prefix": "/evil",
        "X-Forwarded-Proto": "gopher",
        "X-Forwarded-For": "192.0.2.1",
        "Remote-User": "root",
        "X-Remote-User": "root",
        "Forwarded": "for=root",
        "Cookie": "_xsrf=1; jupyterhub-session-id=2; canfar-gateway=3; __Host-canfar-gateway=4; own=5; JupyterHub-x=6",  # noqa: E501
        "Connection": "keep-alive, X-Hop",
        "X-Hop": "1",
    }
    headers = (await site.seen(f"{address}/x", token="ada-token", headers=sent))["headers"]
    assert headers["x-secret"] == "s3cret"
    assert headers["authorization"] == "token jupyter"
    assert headers["x-forwarded-user"] == "ada"
    assert headers["x-forwarded-prefix"] == address
    assert headers["x-forwarded-proto"] == "http"
    assert headers["x-forwarded-host"] == headers["host"] == site.host
    assert headers["x-forwarded-for"] == "192.0.2.1, 127.0.0.1"
    assert headers["cookie"] == "_xsrf=1; own=5"
    gone = {"x_secret", "x_forwarded_user", "remote-user", "x-remote-user", "forwarded", "x-hop"}
    assert not gone & set(headers)


async def test_hub_sees_everything_but_the_connection(site):
    seen = await site.seen(
        "/hub/api-like/../x", headers={"Authorization": "token t", "Cookie": "jupyterhub-x=1"}
    )
    assert seen["path"] == "/hub/api-like/../x"
    assert (seen["headers"]["authorization"], seen["headers"]["cookie"]) == ("token t", "jupyterhub-x=1")
    assert "x-forwarded-user" not in seen["headers"]


async def test_pages_are_sent_from_the_hubs_address_to_the_sessions(site):
    address = await site.session("abcd1234")
    cookie = await site.sign_in(f"{address}/", "ada-token")
    for path, goal in [
        ("/user/ada/abcd1234/lab/tree/a%2Fb?x=1", f"{address}/lab/tree/a%2Fb?x=1"),
        ("/user/ada/abcd1234", f"{address}/"),
        (f"{address}?x=1", f"{address}/?x=1"),
        ("/user/ada/abcd1234//evil.example/", f"{address}//evil.example/"),
    ]:
        async with site.request("GET", path, headers=PAGE | {"Cookie": cookie}) as response:
            assert (response.status, response.headers["Location"]) == (302, goal)
    assert site.echo.log == []


async def test_people_come_to_a_programs_landing(site):
    address = await site.session("abcd1234", landing="firefly/")
    cookie = await site.sign_in(f"{address}/", "ada-token")
    async with site.request("GET", f"{address}/?a=b", headers=PAGE | {"Cookie": cookie}) as response:
        assert (response.status, response.headers["Location"]) == (302, f"{address}/firefly/?a=b")
    assert site.echo.log == []
    # What is no page, or is further down, is the program's own.
    assert (await site.seen(f"{address}/", token="ada-token"))["path"] == f"{address}/"
    below = await site.seen(f"{address}/firefly/", headers=PAGE | {"Cookie": cookie})
    assert below["path"] == f"{address}/firefly/"


async def test_a_programs_cookies_stand_beside_the_one_that_is_its_secret(site):
    address = await site.session("abcd1234", headers={"Cookie": "key=s3cret"})
    sent = {"Cookie": "key=forged; own=5; canfar-gateway=3"}
    assert (await site.seen(f"{address}/x", token="ada-token", headers=sent))["headers"]["cookie"] == (
        "key=s3cret; own=5"
    )
    socket = await site.http.ws_connect(
        f"http://127.0.0.1:{site.port}{address}/ws",
        headers={"Authorization": "token ada-token", "Host": site.host, "Cookie": "own=5"},
    )
    async with socket:
        await socket.send_str("request")
        headers = dict((await socket.receive_json())["headers"])
        assert headers["Cookie"] == "key=s3cret; own=5"


@pytest.mark.parametrize("prefix", ["/session/notebook/abcd1234", ""])
async def test_redirects_and_cookies_stay_inside(site, prefix):
    address = await site.session("abcd1234", prefix=prefix)
    origin = f"http://127.0.0.1:{site.echo_port}"
    headers = [
        ("Location", f"{origin}{prefix}/next?a=b"),
        ("Strict-Transport-Security", "max-age=1"),
        ("Set-Cookie", "own=1; Path=/; Domain=localhost; HttpOnly"),
        ("Set-Cookie", "canfar-gateway=evil; Path=/"),
        ("Set-Cookie", "=canfar-gateway=evil"),
        ("Clear-Site-Data", '"*"'),
        ("Service-Worker-Allowed", "/"),
        ("X-Fine", "1"),
        ("Connection", "X-Hop"),
        ("X-Hop", "1"),
    ]
    site.echo.answers["r"] = web.Response(status=302, headers=headers)
    async with site.request("GET", f"{address}/r", token="ada-token") as response:
        assert response.status == 302
        assert response.headers["Location"] == f"{address}/next?a=b"
        assert response.headers.getall("Set-Cookie") == [f"own=1; HttpOnly; Path={address}/"]
        assert response.headers["X-Fine"] == "1"
        gone = {"Strict-Transport-Security", "Clear-Site-Data", "Service-Worker-Allowed", "X-Hop"}
        assert not gone & set(response.headers)


async def test_upload_streams(site):
    address = await site.session("abcd1234")
    piece, count = b"u" * (1 << 20), 24
    expected = {"bytes": count << 20, "sha256": hashlib.sha256(piece * count).hexdigest()}

    async def pieces():
        for _ in range(count):
            yield piece

    async with site.request("POST", f"{address}/upload", token="ada-token", data=pieces()) as response:
        assert await response.json() == expected
    async with site.request("PUT", f"{address}/upload", token="ada-token", data=piece * count) as response:
        assert await response.json() == expected


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
async def test_broken_upload_is_not_ended_cleanly(site, framing):
    address = await site.session("abcd1234")
    head = f"POST {address}/upload HTTP/1.1\r\nHost: {site.host}\r\n{TOKEN}\r\n{framing}\r\n\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(f"{head}5\r\nhello\r\n".encode())
    await until(lambda: site.echo.log)
    writer.close()
    await until(lambda: site.echo.uploads)
    assert site.echo.uploads == ["broken"]


async def test_stream_is_not_buffered(site):
    address = await site.session("abcd1234")
    async with asyncio.timeout(20), site.request("GET", f"{address}/stream", token="ada-token") as response:
        assert await response.content.readline() == b"data: first\n"
        site.echo.gate.set()
        assert b"data: second\n" in await response.content.read()


@pytest.mark.parametrize("path", ["broken", "chunked/broken"])
async def test_broken_answer_is_not_ended_cleanly(site, path):
    address = await site.session("abcd1234")
    async with site.request("GET", f"{address}/{path}", token="ada-token") as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_visitor_who_leaves_ends_the_programs_work(site, caplog):
    address = await site.session("abcd1234")
    async with site.request("GET", f"{address}/endless", token="ada-token") as response:
        await response.content.readexactly(100_000)
        response.close()
    async with asyncio.timeout(20):
        await site.echo.gate.wait()
    assert "canfar_gateway" not in {
        record.name.partition(".")[0] for record in caplog.records if record.levelno > 30
    }


async def test_program_that_does_not_answer(site):
    address = await site.session("abcd1234", target="http://127.0.0.1:1")
    cookie = await site.sign_in(f"{address}/", "ada-token")
    async with site.request("GET", f"{address}/", headers=PAGE | {"Cookie": cookie}) as response:
        assert response.status == 503
        assert "does not answer" in await response.text()
    async with site.request("POST", f"{address}/", token="ada-token", data=b"x") as response:
        assert response.status == 503


async def test_program_cannot_switch_protocols_by_itself(site):
    address = await site.session("abcd1234")
    async with site.request("GET", f"{address}/switch", token="ada-token") as response:
        assert response.status == 503


async def test_compressed_and_empty_answers_pass_untouched(site):
    address = await site.session("abcd1234")
    site.echo.answers["zip"] = web.Response(body=b"\x1f\x8bnot really", headers={"Content-Encoding": "gzip"})
    site.echo.answers["none"] = web.Response(status=204)
    site.echo.answers["same"] = web.Response(status=304, headers={"ETag": '"1"'})
    async with site.request("GET", f"{address}/zip", token="ada-token") as response:
        assert await response.read() == b"\x1f\x8bnot really"
    for name, status in (("none", 204), ("same", 304)):
        async with site.request("GET", f"{address}/{name}", token="ada-token") as response:
            assert (response.status, await response.read()) == (status, b"")
    async with site.request("HEAD", f"{address}/x", token="ada-token") as response:
        assert (response.status, await response.read()) == (200, b"")
        assert int(response.headers["Content-Length"]) > 0


async def test_header_bytes_that_are_not_utf_8_are_not_lost(site):
    address = await site.session("abcd1234")
    await send(site.port, request(f"{address}/x", headers=(TOKEN, "X-Name: caf\xe9")))
    assert dict(map(tuple, site.echo.log[0]["headers"]))["X-Name"] == "café"


async def test_session_that_is_not_running(site):
    async with site.request("GET", "/session/notebook/gone1234/lab", headers=PAGE) as response:
        text = await response.text()
        assert response.status == 404
        assert "not running" in text
        assert f"http://localhost:{site.port}/hub/home" in text
    async with site.request("GET", "/session/notebook/gone1234/api", headers={"Accept": "*/*"}) as response:
        assert response.status == 404
        assert (await response.json())["status"] == 404
    assert site.hub.pages == []


async def test_hub_draws_the_error_pages_where_it_can(tmp_path):
    async with site_running(tmp_path, error_pages=True) as site:
        address = await site.session("abcd1234", target="http://127.0.0.1:1")
        cookie = await site.sign_in(f"{address}/", "ada-token")
        for page in (True, False):
            site.hub.draws = page
            async with site.request("GET", f"{address}/", headers=PAGE | {"Cookie": cookie}) as response:
                assert response.status == 503
                assert ("drawn by the hub" in await response.text()) == page


async def test_hub_draws_the_page_of_a_server_that_is_not_running(site):
    assert (await site.seen("/user/ada/gone/", headers=PAGE))["path"] == "/user/ada/gone/"
    assert len(site.hub.pages) == 1


async def test_health(site):
    async with site.request("GET", "/_chp_healthz") as response:
        assert (response.status, await response.json()) == (200, {"status": "OK"})


async def test_rest_api(site):
    address = await site.session("abcd1234", headers={"X-Secret": "s3cret"})
    routes = await site.api("GET", "")
    assert set(routes) == {"/", "/user/ada/abcd1234"}
    assert routes["/user/ada/abcd1234"]["headers"] == {"X-Secret": "s3cret"}
    assert set(await site.api("GET", "?inactive_since=2100-01-01T00:00:00Z")) == set(routes)
    assert await site.api("GET", "?inactiveSince=2000-01-01T00:00:00.000Z") == {}
    assert await site.api("GET", "?inactive_since=yesterday") == 400
    before = routes["/user/ada/abcd1234"]["last_activity"]
    await asyncio.sleep(0.002)  # The resolution of that time.
    await site.seen(f"{address}/", token="ada-token")
    assert (await site.api("GET", "/user/ada/abcd1234"))["last_activity"] > before
    assert await site.api("DELETE", "/user/ada/abcd1234") == 204
    assert await site.api("DELETE", "/user/ada/abcd1234") == 404
    for body in ({}, {"target": "ftp://x"}, {"target": "http://x", "user": "a", "kind": "../.."}, [1]):
        assert await site.api("POST", "/user/ada/abcd1234", body) == 400
    url = f"http://127.0.0.1:{site.api_port}/api/routes"
    for wrong in ({}, {"Authorization": "token nope"}, {"Authorization": "Bearer rest-api-token"}):
        async with site.http.get(url, headers=wrong) as response:
            assert response.status == 403


async def test_answers_of_the_gateway_escape_what_they_quote(site):
    received = await send(site.port, request("/session/notebook/<script>/x", headers=("Accept: text/html",)))
    assert parse(received).status == 404
    assert b"<script>" not in received


async def test_activity_of_streams_counts(site):
    address = await site.session("abcd1234")
    async with site.request("GET", f"{address}/stream", token="ada-token") as response:
        await response.content.readline()
        before = (await site.api("GET", "/user/ada/abcd1234"))["last_activity"]
        await asyncio.sleep(0.002)
        site.echo.gate.set()
        await response.read()
    assert (await site.api("GET", "/user/ada/abcd1234"))["last_activity"] > before
    assert await until(lambda: site.echo.log)


async def test_fault_of_the_gateway_after_the_answer_began_aborts_the_connection(site, monkeypatch):
    address = await site.session("abcd1234")
    monkeypatch.setattr("canfar_gateway.routes.Routes.touch", _fails_late)
    async with site.request("GET", f"{address}/stream", token="ada-token") as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


def _fails_late(self, route, now, calls=[]):  # noqa: B006
    calls.append(now)
    if len(calls) > 1:
        raise RuntimeError("a defect")
