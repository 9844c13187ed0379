"""Odd spellings on the wire: whatever is sent, nothing reaches a program without a decision."""

from __future__ import annotations

import asyncio
import re

import pytest

from tests.support.raw_http import parse, request, send

KEY = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
VERSION = "Sec-WebSocket-Version: 13"
TOKEN = "Authorization: token ada-token"


@pytest.fixture
async def address(site):
    return await site.session("abcd1234")


UPGRADES = [
    ("Connection: Upgrade", "Upgrade: websocket", KEY, VERSION),
    ("Connection: upgrade", "Upgrade: WEBSOCKET", KEY, VERSION),
    ("Connection: keep-alive, Upgrade", "Upgrade: WebSocket", KEY, VERSION),
    ("connection: UPGRADE", "upgrade: websocket", KEY, VERSION),
    ("Connection: Upgrade", "Upgrade: websocket, h2c", KEY, VERSION),
    ("Connection: Upgrade", "Upgrade: h2c, websocket", KEY, VERSION),
    ("Connection: Upgrade", "Upgrade: h2c", "Upgrade: websocket", KEY, VERSION),
    ("Connection: close", "Upgrade: websocket", KEY, VERSION),
    ("Connection: close", "Connection: Upgrade", "Upgrade: websocket", KEY, VERSION),
    ("Connection: Upgrade", "Upgrade: websocket/13", KEY, VERSION),
    ("Connection: Upgrade", "Upgrade:  websocket ", KEY, VERSION),
    ("Connection: Upgrade", "Upgrade: websocket"),
    ("Connection: Upgrade", "Upgrade: websocket", KEY),
    ("Connection: Upgrade", "Upgrade: websocket", VERSION),
    ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: short", VERSION),
    ("Connection: Upgrade", "Upgrade: websocket", KEY, "Sec-WebSocket-Version: 8"),
    ("Connection: Upgrade", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
    ("Connection: Upgrade", "Upgrade: tcp"),
    ("Connection: Upgrade, HTTP2-Settings", "Upgrade: TLS/1.0"),
]


@pytest.mark.parametrize("headers", UPGRADES)
@pytest.mark.parametrize("path", ["/session/notebook/abcd1234/ws", "/user/ada/abcd1234/ws"])
async def test_upgrade_without_credentials(site, address, headers, path):
    followed = request(path, headers=("Accept: */*",))
    data = await send(site.port, request(path, headers=headers) + followed)
    # Refused, and whatever follows on the same connection is refused as well or never answered.
    assert parse(data).status in (400, 403)
    assert b" 101 " not in data
    assert b" 200 " not in data
    assert site.echo.log == []


@pytest.mark.parametrize("headers", UPGRADES[4:])
async def test_upgrade_that_is_malformed_never_reaches_the_program_as_one(site, address, headers):
    data = await send(
        site.port, request(f"{address}/x", headers=(*headers, TOKEN)) + b"\x81\x00garbage", until_close=False
    )
    well_formed = "Upgrade:  websocket " in headers or "Connection: Upgrade" in headers[1:]
    answer = parse(data)
    if well_formed:
        assert answer.status == 101
        return
    assert answer.status in (200, 400)
    names = {name.lower() for seen in site.echo.log for name, _ in seen["headers"]}
    assert not names & {"upgrade", "http2-settings", "sec-websocket-key"} or not site.echo.log
    # Only an upgrade to something that the gateway does not speak may be ignored (RFC 9110 section 7.8).
    assert (answer.status == 200) == (not any("websocket" in header.lower() for header in headers))


async def test_upgrade_over_http_1_0(site, address):
    lines = (f"GET {address}/ws HTTP/1.0", "Host: localhost", *UPGRADES[0], "")
    head = "\r\n".join(lines)
    assert parse(await send(site.port, f"{head}\r\n".encode())).status == 403
    assert parse(await send(site.port, f"{head}{TOKEN}\r\n\r\n".encode())).status == 400
    assert site.echo.log == []


@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS"])
async def test_upgrade_with_another_method(site, address, method):
    headers = (*UPGRADES[0], TOKEN)
    assert parse(await send(site.port, request(f"{address}/", method=method, headers=headers))).status == 400
    assert site.echo.log == []


POST = "POST {p} HTTP/1.1\r\nHost: h\r\n"
MALFORMED = {
    "two lengths": POST + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "same length twice": POST + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "list of lengths": POST + "Content-Length: 3, 3\r\n\r\nabc",
    "signed length": POST + "Content-Length: +3\r\n\r\nabc",
    "length and chunked": POST + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": POST + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "two codings": POST + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding in two headers": POST + "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
    "unknown coding": POST + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked not last": POST + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": "POST {p} HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "folded header": "GET {p} HTTP/1.1\r\nHost: h\r\nX-A: b\r\n c\r\n\r\n",
    "bare line feeds": "GET {p} HTTP/1.1\nHost: h\n\n",
    "bare line feed in a header": "GET {p} HTTP/1.1\r\nHost: h\r\nX-A: b\nX-B: c\r\n\r\n",
    "bare carriage return": "GET {p} HTTP/1.1\r\nHost: h\r\nX-A: b\rX-B: c\r\n\r\n",
    "space before colon": "GET {p} HTTP/1.1\r\nHost: h\r\nX-A : b\r\n\r\n",
    "space before length's colon": POST + "Content-Length : 3\r\n\r\nabc",
    "two hosts": "GET {p} HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n",
    "no host": "GET {p} HTTP/1.1\r\nAccept: */*\r\n\r\n",
    "host with path": "GET {p} HTTP/1.1\r\nHost: h/x\r\n\r\n",
    "host with user": "GET {p} HTTP/1.1\r\nHost: a@h\r\n\r\n",
    "absolute target": "GET http://localhost{p} HTTP/1.1\r\nHost: h\r\n\r\n",
    "absolute target, upper case": "GET HTTP://localhost{p} HTTP/1.1\r\nHost: h\r\n\r\n",
    "target without slash": "GET session/notebook/abcd1234/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "asterisk target": "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
    "fragment": "GET {p}#x HTTP/1.1\r\nHost: h\r\n\r\n",
    "space in the target": "GET {p} x HTTP/1.1\r\nHost: h\r\n\r\n",
    "bytes in the target": "GET {p}\xe9 HTTP/1.1\r\nHost: h\r\n\r\n",
    "null in a header": "GET {p} HTTP/1.1\r\nHost: h\r\nX-A: a\0b\r\n\r\n",
    "version 2": "GET {p} HTTP/2.0\r\nHost: h\r\n\r\n",
    "version 0.9": "GET {p}\r\n\r\n",
    "unknown method": "GRAB {p} HTTP/1.1\r\nHost: h\r\n\r\n",
    "long target": "GET {p}" + "x" * 70_000 + " HTTP/1.1\r\nHost: h\r\n\r\n",
    "long header": "GET {p} HTTP/1.1\r\nHost: h\r\nX-A: " + "x" * 70_000 + "\r\n\r\n",
    "many headers": "GET {p} HTTP/1.1\r\nHost: h\r\n" + "".join(f"X-{i}: x\r\n" for i in range(400)) + "\r\n",
    "connect": "CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n",
    "trace": "TRACE {p} HTTP/1.1\r\nHost: h\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_request(site, address, name):
    text = MALFORMED[name].format(p=f"{address}/")
    # With a valid token, so that only the form can be the reason.
    first, separator, rest = text.partition("\r\n") if "\r\n" in text else text.partition("\n")
    data = f"{first}{separator}{TOKEN}{separator}{rest}".encode("latin-1")
    smuggled = request(f"{address}/smuggled", headers=(TOKEN,))
    received = await send(site.port, data + smuggled)
    assert parse(received).status in (400, 405, 414, 431)
    # One answer, then the connection is closed: what follows is not taken for a request.
    assert received.count(b"HTTP/1.1 ") + received.count(b"HTTP/1.0 ") == 1
    assert site.echo.log == []


async def test_bad_chunk_reaches_no_program_as_a_whole_body(site, address):
    head = f"POST {address}/upload HTTP/1.1\r\nHost: h\r\n{TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n"
    received = await send(site.port, f"{head}3\r\nabc\r\nzz\r\n0\r\n\r\n".encode())
    assert b" 200 " not in received


async def test_each_pipelined_request_is_authorised_on_its_own(site, address):
    first = request(f"{address}/one", headers=(TOKEN, "Connection: keep-alive"))
    second = request(f"{address}/two")
    received = await send(site.port, first + second)
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"403"]
    assert [seen["path"] for seen in site.echo.log] == [f"{address}/one"]


async def test_websocket_frames_sent_too_early_are_no_request(site, address):
    early = request(f"{address}/stolen", headers=(TOKEN,))
    received = await send(site.port, request(f"{address}/ws", headers=UPGRADES[0]) + early)
    assert parse(received).status == 403
    assert site.echo.log == []


DOTTED = [
    "../x",
    "a/../../x",
    ".",
    "..",
    "%2e%2e/x",
    "%2E./x",
    "a/%2e/x",
    "..%2fx",
    "a%2f..%2fx",
    "..%5cx",
    "..;a/x",
    ".%2e;/x",
]


@pytest.mark.parametrize("tail", DOTTED)
async def test_dot_segments(site, address, tail):
    received = await send(site.port, request(f"{address}/{tail}", headers=(TOKEN,)))
    assert parse(received).status == 400
    assert site.echo.log == []


NO_SESSION = [
    "//session/notebook/abcd1234/",
    "/session%2fnotebook%2fabcd1234/",
    "/x/../session/notebook/abcd1234/",
    "/session/notebook%2Fabcd1234/x",
]


@pytest.mark.parametrize("path", NO_SESSION)
async def test_spellings_that_are_no_session(site, address, path):
    await send(site.port, request(path, headers=(TOKEN,)))
    assert site.echo.log == []


async def test_expect_is_answered_only_after_authorisation(site, address):
    headers = ("Expect: 100-continue", "Content-Length: 5")
    refused = await send(site.port, request(f"{address}/upload", method="POST", headers=headers))
    assert parse(refused).status == 403
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(request(f"{address}/upload", method="POST", headers=(*headers, TOKEN)))
    async with asyncio.timeout(20):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hello")
        answer = parse(await reader.read())
    writer.close()
    assert answer.status == 200
    assert b'"bytes": 5' in answer.rest
    assert "expect" not in {name.lower() for name, _ in site.echo.log[0]["headers"]}


async def test_no_answer_is_a_500_and_nothing_secret_is_logged(site, address, caplog):
    for text in MALFORMED.values():
        await send(site.port, text.format(p=f"{address}/?token=s3cret").encode("latin-1"))
    assert "s3cret" not in caplog.text
