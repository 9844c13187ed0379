"""CARTA's start script, run by a plain shell, and the program that it starts."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import websockets
from astropy.io import fits

from canfar_spawner.kinds import KINDS, STARTS
from tests.support import carta
from tests.support import carta_messages as m
from tests.support.ports import free_port
from tests.support.raw_http import parse, request, send
from tests.support.stack import until

PREFIX = "/session/carta/abcd1234"
TOKEN = "Authorization: Bearer session-secret"


@dataclass
class Place:
    """What a session's variables name."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "arc/home/ada"

    @property
    def projects(self) -> Path:
        return self.folder / "arc/projects"

    def environment(self, **changed: str | None) -> dict[str, str]:
        found = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "CANFAR_IP": "127.0.0.1",
            "CANFAR_PORT": str(free_port()),
            "CANFAR_PREFIX": PREFIX,
            "CARTA_AUTH_TOKEN": "session-secret",
            "SKAHA_TOP_LEVEL_DIR": str(self.folder / "arc"),
            "SKAHA_PROJECTS_DIR": str(self.projects),
            "OMP_NUM_THREADS": "1",
            **changed,
        }
        return {name: value for name, value in found.items() if value is not None}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "index.html").write_text("<title>CARTA</title>")
    monkeypatch.setenv("PATH", carta.put_on_path(tmp_path / "bin", pages))
    found = Place(tmp_path)
    found.home.mkdir(parents=True)
    found.projects.mkdir()
    return found


@contextmanager
def started(environment: dict[str, str]) -> Iterator[int]:
    """Runs the script as a session does, and gives the port once the program answers."""
    port = int(environment["CANFAR_PORT"])
    process = subprocess.Popen(["/bin/sh", STARTS / "carta.sh"], env=environment, cwd=environment["HOME"])
    try:
        until(lambda: process.poll() is not None or is_up(port), "CARTA up")
        assert process.poll() is None
        yield port
    finally:
        process.terminate()
        process.wait(20)


def is_up(port: int) -> bool:
    try:
        return bool(asyncio.run(send(port, request(f"{PREFIX}/"))))
    except OSError:
        return False


def status(port: int, path: str, *headers: str, method: str = "GET") -> int:
    received = asyncio.run(send(port, request(path, method=method, headers=headers)))
    return parse(received).status


def test_it_is_served_below_the_prefix_alone_and_asks_for_the_token(place: Place):
    with started(place.environment()) as port:
        assert status(port, f"{PREFIX}/") == 200
        assert status(port, PREFIX) == 404
        assert status(port, "/") == 404
        assert status(port, f"{PREFIX}/", method="HEAD") == 404
        preferences = f"{PREFIX}/api/database/preferences"
        assert status(port, preferences, TOKEN) == 200
        assert status(port, preferences) == 403
        assert status(port, preferences, "Authorization: Bearer wrong", TOKEN) == 403
        received = asyncio.run(send(port, b"GET / HTTP/1.0\r\n\r\n"))
        assert parse(received).status == 505


def test_the_limits_that_the_gateway_has_to_keep(place: Place):
    async def unanswered(port: int) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(f"{PREFIX}/", headers=tuple(f"X-{n}: 1" for n in range(47))))
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return not answer

    async def in_pieces(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = request(f"{PREFIX}/", headers=(f"X-Long: {'x' * 4200}",))
        writer.write(head[:100])
        await writer.drain()
        await asyncio.sleep(0.2)  # lets the piece be read by itself; if it is not, the next lines say so
        writer.write(head[100:])
        answer = await asyncio.wait_for(reader.read(100), 20)
        writer.close()
        return answer

    with started(place.environment()) as port:
        assert status(port, f"{PREFIX}/", *(f"X-{n}: 1" for n in range(46))) == 200
        assert asyncio.run(unanswered(port))
        assert b" 431 " in asyncio.run(in_pieces(port))


def test_the_first_look_is_not_hidden_by_a_question(place: Place):
    with started(place.environment()):
        kept = json.loads((place.home / ".carta/config/preferences.json").read_text())
    assert kept == {
        "version": 2,
        "telemetryConsentShown": True,
        "telemetryMode": "none",
        "checkNewRelease": False,
    }


def test_a_users_preferences_stay(place: Place):
    file = place.home / ".carta/config/preferences.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"version": 2, "theme": "dark"}')
    with started(place.environment()):
        assert file.read_text() == '{"version": 2, "theme": "dark"}'


@pytest.mark.parametrize("missing", ["HOME", "CARTA_AUTH_TOKEN"])
@pytest.mark.parametrize("value", ["", None])
def test_it_does_not_start_without_home_or_token(place: Place, missing: str, value: str | None):
    command = ["/bin/sh", STARTS / "carta.sh"]
    environment = place.environment(**{missing: value})
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    assert "the session was given none" in ended.stderr


def test_it_takes_the_name_that_older_images_have(place: Place):
    if shutil.which("carta") != str(place.folder / "bin/carta"):
        pytest.skip("the machine has CARTA by its new name")
    (place.folder / "bin/carta").rename(place.folder / "bin/carta_backend")
    with started(place.environment()) as port:
        assert status(port, f"{PREFIX}/") == 200


async def viewer(port: int, *frames: bytes) -> list[tuple[int, bytes]]:
    """What a viewer is sent until the end of the tiles, or the first answer if it asks for none."""
    url = f"ws://127.0.0.1:{port}{PREFIX}/"
    headers = {"Authorization": "Bearer session-secret"}
    received: list[tuple[int, bytes]] = []
    async with asyncio.timeout(30), websockets.connect(url, additional_headers=headers, max_size=None) as sent:
        await sent.send(m.frame(m.REGISTER_VIEWER, 1, m.Register, {"session_id": 0}))
        for frame in frames:
            await sent.send(frame)
        while True:
            kind, _, message = m.parse(await sent.recv())
            received.append((kind, message))
            ended = kind == m.RASTER_TILE_SYNC and m.decode(m.TileSync, message).get("end")
            if ended or kind == m.FILE_LIST_RESPONSE:
                return received


def test_pixels_and_histogram_are_those_of_the_file(place: Place):
    rng = np.random.default_rng(13)
    pixels = rng.normal(10, 3, (300, 520)).astype(np.float32)
    pixels[5, 7] = np.nan
    fits.PrimaryHDU(pixels).writeto(place.projects / "field.fits")
    opening = m.frame(m.OPEN_FILE, 2, m.OpenFile, {"directory": "projects", "file": "field.fits", "file_id": 3})
    codes = [2 << 24 | y << 12 | x for y in range(2) for x in range(3)]
    tiles = {"file_id": 3, "tiles": codes, "compression": 0}
    showing = m.frame(m.SET_IMAGE_CHANNELS, 3, m.SetChannels, {"file_id": 3, "tiles": tiles})
    with started(place.environment()) as port:
        received = asyncio.run(viewer(port, opening, showing))
    found = np.full_like(pixels, -1)
    for kind, message in received:
        if kind == m.RASTER_TILE_DATA:
            for tile in m.decode(m.TileData, message)["tiles"]:
                y, x = 256 * tile.get("y", 0), 256 * tile.get("x", 0)
                part = np.frombuffer(tile["data"], "<f4").reshape(tile["height"], tile["width"])
                found[y : y + tile["height"], x : x + tile["width"]] = part
    np.testing.assert_array_equal(found, pixels)
    data = next(message for kind, message in received if kind == m.REGION_HISTOGRAM_DATA)
    histogram = m.decode(m.HistogramData, data)["histogram"]
    assert sum(histogram["bins"]) == np.isfinite(pixels).sum()
    assert histogram["mean"] == pytest.approx(np.nanmean(pixels), rel=1e-5)


def test_the_file_dialog_begins_with_the_projects_or_at_home(place: Place):
    listing = m.frame(m.FILE_LIST_REQUEST, 2, m.FileListRequest, {"directory": "$BASE"})
    for expected in ("projects", "home/ada"):
        with started(place.environment()) as port:
            kind, message = asyncio.run(viewer(port, listing))[-1]
        assert kind == m.FILE_LIST_RESPONSE
        assert m.decode(m.FileList, message)["directory"] == expected
        shutil.rmtree(place.projects, ignore_errors=True)


def test_prefixes_are_of_characters_that_carta_knows(place: Place):
    kind = KINDS["carta"]
    assert (kind.path, kind.cookies, kind.compress) == ("keep", False, True)
    # With any other, the program is served at its root, and nothing is where the gateway looks for it.
    with started(place.environment(CANFAR_PREFIX="/user/first.last")) as port:
        assert status(port, "/") == 200
        assert status(port, "/user/first.last/") == 404
