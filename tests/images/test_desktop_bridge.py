import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from canfar_desktop.bridge import SECRET_HEADER, application

from canfar_spawner.kinds import KINDS
from tests.support.ports import free_ports
from tests.support.stack import ROOT, until

SECRET = "b5" * 32
PATHS = ("/", "/page/desktop.js", "/novnc/core/rfb.js", "/socket", "/nothing")


@pytest.fixture
def novnc(tmp_path: Path) -> Path:
    folder = tmp_path / "novnc"
    (folder / "core").mkdir(parents=True)
    (folder / "core/rfb.js").write_text("export default 0;")
    return folder


@pytest.fixture
async def vnc(tmp_path: Path) -> AsyncIterator[Path]:
    """A server that says hello and sends back what it is sent, in capitals."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"RFB 003.008\n")
        while data := await reader.read(2**16):
            writer.write(data.upper())
            if data == b"end":
                break
        writer.close()

    path = tmp_path / "vnc"
    async with await asyncio.start_unix_server(answer, path):
        yield path


@pytest.fixture
async def url(vnc: Path, novnc: Path) -> AsyncIterator[str]:
    runner = web.AppRunner(application(SECRET, vnc, novnc))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {SECRET_HEADER: ""},
        {SECRET_HEADER: SECRET[:-1]},
        {SECRET_HEADER: SECRET + "0"},
        {SECRET_HEADER: "é"},
        {"Authorization": f"Bearer {SECRET}"},
        {"Cookie": f"{SECRET_HEADER}={SECRET}"},
    ],
)
async def test_what_comes_past_the_gateway_is_refused(url: str, path: str, headers: dict[str, str]) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"{url}{path}", headers=headers) as answer:
        assert answer.status == 403
        assert "Your sessions" in await answer.text()


async def test_a_websocket_past_the_gateway_is_refused(url: str) -> None:
    async with aiohttp.ClientSession() as http:
        for address in (f"{url}/socket", f"{url}/socket?{SECRET_HEADER}={SECRET}"):
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await http.ws_connect(address)


async def test_the_gateways_header_opens_it(url: str) -> None:
    secret = KINDS["desktop"].secret
    assert secret is not None
    async with aiohttp.ClientSession(headers=secret.headers(SECRET)) as http:
        for path in ("/", "/page/desktop.css", "/novnc/core/rfb.js"):
            async with http.get(f"{url}{path}") as answer:
                assert answer.status == 200
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        async with http.get(f"{url}/page/../bridge.py") as answer:
            assert answer.status == 404
        async with http.get(f"{url}/page/..%2fbridge.py") as answer:
            assert answer.status == 404


async def test_bytes_pass_both_ways(url: str) -> None:
    async with (
        aiohttp.ClientSession(headers={SECRET_HEADER: SECRET}) as http,
        http.ws_connect(f"{url}/socket", protocols=("binary",), max_msg_size=0) as viewer,
    ):
        assert await viewer.receive_bytes() == b"RFB 003.008\n"
        sent = b"x" * 5_000_000
        await viewer.send_bytes(sent)
        got = b""
        while len(got) < len(sent):
            got += await viewer.receive_bytes()
        assert got == sent.upper()
        await viewer.send_bytes(b"end")
        assert await viewer.receive_bytes() == b"END"
        assert (await viewer.receive()).type is aiohttp.WSMsgType.CLOSE


async def test_a_desktop_that_is_gone_is_told(url: str, vnc: Path) -> None:
    await asyncio.to_thread(vnc.unlink)
    async with aiohttp.ClientSession(headers={SECRET_HEADER: SECRET}) as http:
        with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
            await http.ws_connect(f"{url}/socket")


def test_no_secret_is_no_open_door() -> None:
    with pytest.raises(ValueError, match="secret"):
        application("", Path("vnc"), Path())


# The program


@contextmanager
def bridge(folder: Path, novnc: Path, *command: str) -> Iterator["subprocess.Popen[bytes]"]:
    program = "import sys, pathlib, canfar_desktop.bridge as b\n"
    program += "b.application.__defaults__ = (pathlib.Path(sys.argv.pop(1)),)\nsys.exit(b.main())"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "images/desktop"),
        "CANFAR_SECRET_FILE": str(folder / "secret"),
        "CANFAR_IP": "127.0.0.1",
        "CANFAR_PORT": str(free_ports(1)),
        "XDG_RUNTIME_DIR": str(folder),
    }
    (folder / "secret").write_text(SECRET)
    arguments = [sys.executable, "-c", program, str(novnc), str(folder / "vnc"), *command]
    process = subprocess.Popen(arguments, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)])
def test_it_ends_with_the_sessions_status(tmp_path: Path, novnc: Path, script: str, status: int) -> None:
    with bridge(tmp_path, novnc, "sh", "-c", script) as process:
        assert process.wait(60) == status


def test_it_ends_the_session_when_told_to(tmp_path: Path, novnc: Path) -> None:
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    script = f"trap 'touch {ended}; exit 5' TERM; touch {begun}; while :; do sleep 0.05; done"
    with bridge(tmp_path, novnc, "sh", "-c", script) as process:
        until(begun.exists, "the session begun")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 5
        assert ended.exists()


def test_the_session_finds_its_menu(tmp_path: Path, novnc: Path) -> None:
    with bridge(tmp_path, novnc, "sh", "-c", f"env >{tmp_path}/environment") as process:
        assert process.wait(60) == 0
    environment = (tmp_path / "environment").read_text()
    assert f"XDG_CONFIG_DIRS={tmp_path}/software/config:" in environment
    assert SECRET not in environment
