"""CARTA's sessions through the embedded hub, and past its gateway."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import websockets

from tests.support import carta
from tests.support import carta_messages as m
from tests.support.npm import NPM
from tests.support.stack import ROOT, Person, Stack, running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NPM is None, reason="npm is not installed, which fetches CARTA's front end"),
]
DOTS = "first.last@example.org"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The embedded hub as `make run KINDS=carta` starts it on a machine with CARTA."""
    folder = tmp_path_factory.mktemp("carta")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", carta.put_on_path(folder / "bin"))
        with running(folder / "data", "--kinds", "carta", "--catalogue", str(ROOT / "demo/catalogue")) as found:
            yield found


@pytest.fixture(scope="module", params=["astronomer", DOTS])
def person(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Person]:
    found = stack.sign_in(request.param)
    found.begin("look", {"profile": "carta"})
    yield found
    found.stop_all()


def route(stack: Stack) -> tuple[str, dict[str, Any]]:
    """The host and the data of the one session that runs."""
    routes = json.loads((stack.data / "routes.json").read_text())
    ((key, data),) = [(key, one["data"]) for key, one in routes.items() if one["data"].get("kind") == "carta"]
    return key.split("/")[1], data


@pytest.fixture
def address(person: Person) -> str:
    host, data = route(person.stack)
    return f"http://{host}:{person.stack.port}/session/carta/{data['id']}/"


def past_the_gateway(stack: Stack, head: str) -> bytes:
    target = urlsplit(route(stack)[1]["target"])
    with socket.create_connection((target.hostname, target.port), timeout=20) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        return connection.recv(65536)


def test_page_and_files_come_compressed_and_only_once(person: Person, address: str):
    with person.stack.client(headers={"Authorization": f"token {person.token}"}) as client:
        page = client.get(address)
        assert page.status_code == 200
        name = next(part for part in page.text.split('"') if "/js/" in part and part.endswith(".js"))
        raw = client.build_request("GET", page.url.join(name), headers={"Accept-Encoding": "gzip"})
        sent = client.send(raw, stream=True)
        body = b"".join(sent.iter_raw())
        assert sent.headers["Content-Encoding"] == "gzip"
        assert len(body) < len(gzip.decompress(body)) / 3
        known = {"If-None-Match": sent.headers["ETag"], "Accept-Encoding": "gzip"}
        again = client.get(page.url.join(name), headers=known)
        assert (again.status_code, again.content) == (304, b"")


def test_the_api_answers_through_the_gateway_and_is_never_kept(person: Person, address: str):
    with person.stack.client(headers={"Authorization": f"token {person.token}"}) as client:
        api = client.get(f"{address}config").json()["apiAddress"]
        assert address.endswith(f"{api.removesuffix('/api')}/")
        where = str(client.get(address).url.join(f"{api}/database/preferences"))
        before = client.get(where).json()["preferences"]
        # Nobody's first image is hidden by a question about telemetry.
        assert before["telemetryConsentShown"] is True
        for theme in ("dark", "light"):
            assert client.put(where, json={"theme": theme}).json()["success"]
            assert client.get(where).json()["preferences"]["theme"] == theme
        assert client.post(where.replace("database/preferences", "scripting/action")).status_code == 200


def test_a_visitor_with_many_cookies_and_headers_is_answered(person: Person, address: str):
    headers = {f"X-Cloud-{n}": "x" * 60 for n in range(70)}
    cookies = "; ".join(f"c{n}={'y' * 200}" for n in range(30))
    with person.stack.client(timeout=20) as client:
        sent = headers | {"Cookie": cookies, "Authorization": f"token {person.token}"}
        assert client.get(address, headers=sent).status_code == 200


def test_the_program_refuses_who_comes_past_the_gateway(person: Person, address: str):
    prefix = "/session/" + address.partition("/session/")[2].rstrip("/")
    for shown in ("", "\nAuthorization: Bearer wrong", "\nAuthorization: Bearer "):
        head = f"GET {prefix}/api/database/preferences HTTP/1.1\nHost: h{shown}"
        assert b" 403 " in past_the_gateway(person.stack, head)
    upgrade = (
        f"GET {prefix}/ HTTP/1.1\nHost: h\nUpgrade: websocket\nConnection: Upgrade"
        "\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
    )
    assert past_the_gateway(person.stack, upgrade) == b""


def test_only_the_gateway_knows_the_secret(person: Person, stack: Stack):
    scheme, _, secret = route(stack)[1]["headers"]["Authorization"].partition(" ")
    assert scheme == "Bearer"
    assert len(secret) == 64
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert secret.encode() not in process.read_bytes()
        except OSError:
            continue
    assert secret not in (stack.data / "logs/gateway.log").read_text()


def test_an_image_is_opened_over_the_websocket(person: Person, address: str):
    sent = asyncio.run(opened(person, address, "projects/survey-x", "m13.fits"))
    assert sent["success"], sent
    assert (sent["extended"]["width"], sent["extended"]["height"]) == (300, 300)
    header = {entry["name"]: entry for entry in sent["extended"]["header"]}
    assert header["CTYPE1"]["value"].startswith("RA---")


async def opened(person: Person, address: str, folder: str, file: str) -> dict[str, Any]:
    host = urlsplit(address).netloc
    connecting = websockets.connect(
        address.replace("http:", "ws:"),
        host="127.0.0.1",
        port=person.stack.port,
        additional_headers={"Authorization": f"token {person.token}"},
        origin=f"http://{host}",
        max_size=None,
    )
    async with asyncio.timeout(30), connecting as connection:
        await connection.send("PING")
        assert await connection.recv() == "PONG"
        await connection.send(m.frame(m.REGISTER_VIEWER, 1, m.Register, {"session_id": 0}))
        kind, _, _ = m.parse(await connection.recv())
        assert kind == m.REGISTER_VIEWER_ACK
        asked = {"directory": folder, "file": file, "file_id": 0}
        await connection.send(m.frame(m.OPEN_FILE, 2, m.OpenFile, asked))
        while True:
            kind, _, message = m.parse(await connection.recv())
            if kind == m.OPEN_FILE_ACK:
                return m.decode(m.OpenFileAck, message)


def test_preferences_that_are_there_stay(stack: Stack):
    visitor = stack.sign_in("visitor")
    config = stack.data / "arc/home/visitor/.carta/config"
    config.mkdir(parents=True)
    (config / "preferences.json").write_text('{"version": 2, "theme": "dark"}')
    visitor.start("own", {"profile": "carta"})
    visitor.ready("own")
    assert json.loads((config / "preferences.json").read_text()) == {"version": 2, "theme": "dark"}
    visitor.stop_all()
