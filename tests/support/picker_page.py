"""A real JupyterHub with the portal's pages and the picker, for tests that look at them in a browser.

The hub runs as its own process without a proxy: the browser talks to the hub's port. What it offers, and what
its log-in page is called, are files that a test writes; what was posted is a file that a test reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]

CONFIG = '''
import asyncio, json, os, secrets
from pathlib import Path

from jupyterhub.auth import DummyAuthenticator
from jupyterhub.handlers.pages import SpawnHandler
from jupyterhub.proxy import Proxy
from jupyterhub.spawner import SpawnException, Spawner
from tornado.web import StaticFileHandler

import canfar_portal
from canfar_spawner import picker

FOLDER = Path(os.environ["PICKER_PAGE_FOLDER"])


def setting(name, fallback):
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else fallback


class NoProxy(Proxy):
    """Routes in memory: nothing is forwarded, the browser asks the hub itself."""

    should_start = False

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table = {}

    async def get_all_routes(self):
        return dict(self.table)

    async def add_route(self, routespec, target, data):
        self.table[routespec] = {"routespec": routespec, "target": target, "data": data}

    async def delete_route(self, routespec):
        self.table.pop(routespec, None)


class FormOnly(SpawnHandler):
    """A link fills the form and starts nothing; a session without a name gets one."""

    def _get_user_options(self, query_options):
        return {}

    def post(self, user_name=None, server_name=""):
        return super().post(user_name, server_name or "s" + secrets.token_hex(4))


class PickerAuthenticator(DummyAuthenticator):
    @property
    def login_service(self):
        return setting("login_service", "")

    def get_handlers(self, app):
        static = {"picker": Path(picker.__file__).parent, "portal": canfar_portal.STATIC}
        return [
            *super().get_handlers(app),
            *(
                (rf"/canfar/static/{name}/(.*)", StaticFileHandler, {"path": str(path)})
                for name, path in static.items()
            ),
            (r"/spawn", FormOnly),
            (r"/spawn/([^/]+)", FormOnly),
            (r"/spawn/([^/]+)/([^/]+)", FormOnly),
        ]


class PickerSpawner(Spawner):
    """Sessions that do as their name says: "slow" never gets ready, "broken" dies with a log."""

    listener = None

    def _options_form_default(self):
        return lambda spawner: picker.render(setting("offer", {}), setting("request_error", ""))

    def options_from_form(self, form):
        with (FOLDER / "posted.jsonl").open("a") as posted:
            posted.write(json.dumps(form) + "\\n")
        options = {name: values[0] for name, values in form.items()}
        if options["name"] == "refused":
            refusal = SpawnException("At most 3 sessions may run at once.", reason="limit", status_code=403)
            raise refusal
        self.orm_spawner.display_name = options["name"] or options["kind"] + "-1"
        return options

    async def start(self):
        wanted = self.user_options.get("name")
        if wanted == "slow":
            await asyncio.Event().wait()
        if wanted == "broken":
            # The form's answer comes after one second: this fails on the progress page.
            await asyncio.sleep(1.2)
            log = "\\n".join(f"[E 11:0{n}] line {n} of <b>the log</b>" for n in range(9))
            raise SpawnException(f"The program ended before it was ready.\\n{log}", reason="image")
        self.listener = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        return "http://127.0.0.1:%d" % self.listener.sockets[0].getsockname()[1]

    async def answer(self, reader, writer):
        await reader.readuntil(b"\\r\\n\\r\\n")
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\nok")
        await writer.drain()
        writer.close()

    async def progress(self):
        yield {"progress": 10, "message": "Preparing your home"}
        html = "Getting the <b>image</b><script>x</script>"
        yield {"progress": 40, "message": "Getting the image", "html_message": html}
        yield {"progress": 60, "message": "Waiting for the program to answer"}

    async def poll(self):
        return None if self.listener else 0

    async def stop(self, now=False):
        if self.listener:
            self.listener.close()
            self.listener = None


c = get_config()
c.JupyterHub.authenticator_class = PickerAuthenticator
c.JupyterHub.spawner_class = PickerSpawner
c.JupyterHub.proxy_class = NoProxy
c.JupyterHub.template_paths = [str(canfar_portal.TEMPLATES)]
c.JupyterHub.allow_named_servers = True
c.JupyterHub.named_server_limit_per_user = 40
c.JupyterHub.bind_url = os.environ["PICKER_PAGE_URL"]
c.JupyterHub.hub_ip = "127.0.0.1"
c.JupyterHub.hub_port = int(os.environ["PICKER_PAGE_PORT"])
c.JupyterHub.db_url = "sqlite://"
c.JupyterHub.cookie_secret_file = str(FOLDER / "cookie_secret")
c.JupyterHub.default_url = "/hub/home"
c.JupyterHub.log_level = "INFO"
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {"director"}
c.Spawner.start_timeout = 30
'''


def sample_offer() -> dict[str, Any]:
    """An offer with a bit of everything: several kinds, one refused, several tags, refused resources."""
    no_carta = (
        "CARTA is not installed on this machine: install it with “make carta”, then load this page again."
    )
    cores = [
        {"value": n, "refusal": "" if n <= 4 else "At most 4 cores are open to your groups."}
        for n in (1, 2, 4, 8, 16)
    ]
    memory = [
        {"value": n, "refusal": "" if n <= 8 else "At most 8 GB are open to your groups."}
        for n in (2, 4, 8, 16)
    ]
    gpus = [{"value": 0, "refusal": ""}, {"value": 1, "refusal": "This machine has no GPU."}]
    nothing = [{"value": 0, "refusal": ""}]

    def profile(
        name: str, kinds: list[str], title: str, text: str, images: list[str], **more: Any
    ) -> dict[str, Any]:
        resources = {"cores": cores, "memory": memory, "gpus": nothing}
        return {
            "profile": name, "kinds": kinds, "title": title, "description": text, "refusal": "",
            "images": images, **resources, "opens": ["notebook"], **more,
        }  # fmt: skip

    def kind(name: str, title: str, text: str, refusal: str = "") -> dict[str, str]:
        return {"kind": name, "title": title, "description": text, "refusal": refusal}

    return {
        "user": "astronomer",
        "static": "/hub/canfar/static",
        "refusal": "",
        "sessions": {"active": 1, "limit": 3},
        "kinds": [
            kind("notebook", "Notebook", "JupyterLab in your home, beside your project data."),
            kind("carta", "CARTA", "Look at images and cubes of any size.", no_carta),
            kind("desktop", "Desktop", "A Linux desktop with CASA, DS9 and TOPCAT."),
            kind("vscode", "VS Code", "The editor, with a terminal."),
            kind("firefly", "Firefly", "Explore catalogues, images and tables from archives."),
            kind("contributed", "Contributed", "Web applications that projects have made."),
        ],
        "profiles": [
            profile("astronomy-notebook", ["notebook"], "Astronomy notebook",
                    "Astropy, photutils, reproject and the usual scientific stack.",
                    ["local/astronomy-notebook:2026.11", "local/astronomy-notebook:2025.2"], gpus=gpus),
            profile("casa-notebook", ["notebook"], "CASA notebook", "Radio astronomy with modular CASA 6.",
                    ["local/casa-notebook:6.7"]),
            profile("survey-notebook", ["notebook"], "Survey pipelines",
                    "The survey's own stack, for its members.", ["local/survey:1.4"],
                    refusal="Open to members of the group survey-team."),
            profile("carta", ["carta"], "CARTA 5", "The released CARTA.", ["local/carta:5.0"]),
            profile("desktop", ["desktop"], "Astronomy desktop", "CASA, DS9, TOPCAT and a terminal.",
                    ["local/desktop:24.04"], cores=cores[:2], memory=memory[:2]),
            profile("code", ["vscode"], "VS Code", "With Python and Fortran.", ["local/code:1.105"]),
            profile("firefly", ["firefly"], "Firefly", "The archive's viewer.", ["local/firefly:2026.1"]),
            profile("marimo", ["contributed"], "marimo", "Reactive notebooks.", ["local/marimo:0.20"]),
        ],
        "request": {"kind": "notebook", "profile": "astronomy-notebook",
                    "image": "local/astronomy-notebook:2026.11",
                    "cores": 1, "memory": 2, "gpus": 0, "name": ""},
    }  # fmt: skip


@dataclass(frozen=True)
class PickerHub:
    """A running hub and the files it reads."""

    url: str
    folder: Path

    def set(self, name: str, value: object) -> None:
        """Write a setting: `offer`, `request_error` or `login_service`."""
        (self.folder / f"{name}.json").write_text(json.dumps(value))

    def reset(self) -> None:
        """The sample offer, nothing posted, the ordinary log-in form."""
        self.set("offer", sample_offer())
        self.set("request_error", "")
        self.set("login_service", "")
        (self.folder / "posted.jsonl").write_text("")

    def posted(self) -> list[dict[str, list[str]]]:
        """The forms that reached the hub, in order."""
        return [json.loads(line) for line in (self.folder / "posted.jsonl").read_text().splitlines()]


def wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the hub answers; raise with its log when it does not."""
    end = time.monotonic() + 40
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError, urllib.error.URLError), urllib.request.urlopen(f"{url}/hub/health"):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the hub did not start:\n{log.read_text()[-4000:]}")


@contextlib.contextmanager
def running_hub(folder: Path) -> Iterator[PickerHub]:
    """Start a hub in `folder`; end it, and only it, afterwards."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    config = folder / "jupyterhub_config.py"
    config.write_text(CONFIG)
    hub = PickerHub(url, folder)
    hub.reset()
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(folder),
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PICKER_PAGE_FOLDER": str(folder),
        "PICKER_PAGE_URL": f"{url}/",
        "PICKER_PAGE_PORT": str(port),
    }
    log = folder / "hub.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "-f", str(config)],
            cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            wait_until_up(url, process, log)
            yield hub
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
