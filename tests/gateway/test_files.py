"""Static files of programs that neither compress nor cache them."""

from __future__ import annotations

import asyncio
import gzip
import hashlib

import pytest
from aiohttp import web
from multidict import CIMultiDict

from canfar_gateway.files import MOST_BYTES, Compressed, is_known, is_static, takes_gzip
from tests.gateway.conftest import site_running

SCRIPT = b"function look(at) { return at.sky; }\n" * 4000
JS = {"Content-Type": "text/javascript; charset=utf-8"}


def serve(site, name, body, **headers):
    """Lets the program answer as CARTA does: without a length, and without a word on caching."""

    async def answer(request):
        response = web.StreamResponse(headers=JS | headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(body)
        return response

    setattr(site.echo, f"do_{name}", answer)


async def get(site, path, **headers):
    async with site.request("GET", path, token="ada-token", headers=headers) as response:
        return response.status, response.headers.copy(), await response.read()


async def test_a_static_file_is_compressed_tagged_and_not_sent_again(site):
    address = await site.session("abcd1234", compress=True)
    serve(site, "a.js", SCRIPT)
    status, headers, body = await get(site, f"{address}/a.js", **{"Accept-Encoding": "gzip, br"})
    assert (status, gzip.decompress(body)) == (200, SCRIPT)
    assert len(body) < len(SCRIPT) / 20
    assert headers["Content-Encoding"] == "gzip"
    assert headers["Content-Length"] == str(len(body))
    assert headers["Vary"] == "Accept-Encoding"
    assert headers["Cache-Control"] == "private, no-cache"
    assert headers["ETag"].startswith('"')
    again = {"Accept-Encoding": "gzip, br", "If-None-Match": headers["ETag"]}
    status, known, body = await get(site, f"{address}/a.js", **again)
    assert (status, body, known["ETag"]) == (304, b"", headers["ETag"])
    status, plain, body = await get(site, f"{address}/a.js", **{"Accept-Encoding": "identity"})
    assert (status, body) == (200, SCRIPT)
    assert "Content-Encoding" not in plain
    assert plain["ETag"] != headers["ETag"]


async def test_what_is_shown_is_always_what_the_program_has_now(site):
    address = await site.session("abcd1234", compress=True)
    other = await site.session("efgh5678", compress=True)
    serve(site, "a.js", SCRIPT)
    _, first, _ = await get(site, f"{address}/a.js", **{"Accept-Encoding": "gzip"})
    serve(site, "a.js", SCRIPT + b"// new")
    asked = {"Accept-Encoding": "gzip", "If-None-Match": first["ETag"]}
    for one in (address, other):
        status, _, body = await get(site, f"{one}/a.js", **asked)
        assert (status, gzip.decompress(body)) == (200, SCRIPT + b"// new")
    del site.echo.__dict__["do_a.js"]
    site.echo.answers["a.js"] = web.Response(status=403)
    assert (await get(site, f"{address}/a.js", **asked))[0] == 403
    assert await site.api("DELETE", "/user/ada/abcd1234") == 204
    assert (await get(site, f"{address}/a.js", **asked))[0] == 404


async def test_files_are_open_to_those_who_may_enter_alone(site):
    address = await site.session("abcd1234", compress=True)
    serve(site, "a.js", SCRIPT)
    _, headers, _ = await get(site, f"{address}/a.js")
    asked = {"If-None-Match": headers["ETag"]}
    async with site.request("GET", f"{address}/a.js", token="bob-token", headers=asked) as response:
        assert response.status == 403


@pytest.mark.parametrize(
    "said",
    [
        {"Cache-Control": "no-store"},
        {"Cache-Control": "private"},
        {"ETag": '"own"'},
        {"Set-Cookie": "a=1"},
        {"Content-Encoding": "br"},
        {"Content-Type": "text/event-stream"},
        {"Content-Type": "text/html"},
        {"Content-Type": "image/png"},
    ],
)
async def test_what_a_program_decides_itself_passes_untouched(site, said):
    address = await site.session("abcd1234", compress=True)
    serve(site, "a.js", SCRIPT, **said)
    status, headers, body = await get(site, f"{address}/a.js", **{"Accept-Encoding": "gzip"})
    assert (status, body) == (200, SCRIPT)
    assert headers.get("ETag") == said.get("ETag")
    assert headers.get("Cache-Control") == said.get("Cache-Control")
    assert headers.get("Content-Encoding") == said.get("Content-Encoding")


async def test_a_route_that_does_not_ask_for_it_is_left_alone(site):
    address = await site.session("abcd1234")
    serve(site, "a.js", SCRIPT)
    _, headers, body = await get(site, f"{address}/a.js", **{"Accept-Encoding": "gzip"})
    assert body == SCRIPT
    assert "ETag" not in headers


async def test_answers_of_other_methods_statuses_and_ranges_are_left_alone(site):
    address = await site.session("abcd1234", compress=True)
    serve(site, "a.js", SCRIPT)
    site.echo.answers["gone.js"] = web.Response(status=404, body=SCRIPT, headers=JS)
    async with site.request("POST", f"{address}/a.js", token="ada-token", data=b"x") as response:
        assert (await response.read(), "ETag" in response.headers) == (SCRIPT, False)
    assert (await get(site, f"{address}/gone.js"))[0] == 404
    _, headers, body = await get(site, f"{address}/a.js", Range="bytes=0-3")
    assert (body, "ETag" in headers) == (SCRIPT, False)


async def test_a_body_that_is_too_long_is_streamed(tmp_path):
    async with site_running(tmp_path) as site:
        address = await site.session("abcd1234", compress=True)
        long = bytes(MOST_BYTES + 1)
        serve(site, "long.js", long)
        status, headers, body = await get(site, f"{address}/long.js", **{"Accept-Encoding": "gzip"})
        assert (status, len(body), "ETag" in headers) == (200, len(long), False)


async def test_a_file_that_breaks_off_is_told(site):
    address = await site.session("abcd1234", compress=True)

    async def broken(request):
        response = web.StreamResponse(headers=JS)
        await response.prepare(request)
        await response.write(SCRIPT)
        request.transport.abort()
        return response

    site.echo.do_half = broken
    assert (await get(site, f"{address}/half"))[0] == 503


async def test_compressing_does_not_hold_up_others(site):
    address = await site.session("abcd1234", compress=True)
    body = hashlib.shake_256(b"noise").digest(8_000_000)
    serve(site, "large.js", body)
    large = asyncio.create_task(get(site, f"{address}/large.js", **{"Accept-Encoding": "gzip"}))
    answered = 0
    while not large.done():
        assert (await get(site, f"{address}/x"))[0] == 200
        answered += 1
    assert answered > 1
    assert gzip.decompress((await large)[2]) == body


async def test_the_memory_of_how_files_compress_is_bounded():
    compressed = Compressed(limit=300_000)
    bodies = [hashlib.shake_256(bytes([n])).digest(100_000) for n in range(5)]
    for body in bodies:
        assert gzip.decompress(await compressed.gzip(hashlib.sha256(body).digest(), body)) == body
    assert compressed._size <= 300_000
    assert len(compressed._kept) == 2
    assert compressed._size == sum(map(len, compressed._kept.values()))


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("*", True),
        ("br", False),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000, *", False),
        ("gzip;q=0.001", True),
    ],
)
def test_accept_encoding(accepted, expected):
    assert takes_gzip(accepted) is expected


def test_if_none_match():
    assert is_known('"a"', '"b", W/"a"')
    assert is_known('"a"', "*")
    assert not is_known('"a"', '"b"')
    assert not is_known('"a"', "")


def test_a_length_that_is_none_is_left_alone():
    headers = CIMultiDict(JS | {"Content-Length": "1"})
    assert is_static("GET", {}, 200, headers)
    assert not is_static("GET", {}, 200, CIMultiDict(JS | {"Content-Length": "many"}))
    assert not is_static("GET", {}, 200, CIMultiDict(JS | {"Content-Length": str(MOST_BYTES + 1)}))
