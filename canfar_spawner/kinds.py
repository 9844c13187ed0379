"""The kinds of session, as data.

Ports, variables and path rules are the launch contract of the CANFAR Science Platform's images, so that images
built for it run unmodified.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from canfar_site.settings import OwnKind, Site

PathRule = Literal["keep", "strip"]


@dataclass(frozen=True)
class Secret:
    """How a program expects the session's secret, which the gateway adds to every request.

    `header` is the request header, `scheme` the word before the secret in it (may be empty, and after one that
    ends with `=` the secret follows at once).
    """

    header: str = "Authorization"
    scheme: str = "Bearer"

    def headers(self, secret: str) -> dict[str, str]:
        """The request headers that carry `secret`."""
        between = "" if self.scheme.endswith("=") else " "
        return {self.header: f"{self.scheme}{between}{secret}".strip()}


@dataclass(frozen=True)
class Activity:
    """Where a program says when it was last used, so that an open page alone does not count as use.

    Each path answers a JSON object, or a list of such. `time` is the key of an ISO 8601 time, or of
    milliseconds since 1970; `busy` a key and its value while the program works, whether or not somebody looks.
    """

    paths: tuple[str, ...]
    time: str
    busy: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Kind:
    """One kind of session.

    Values of `command` and `environment` may name variables of the session as `$(NAME)`, as in a Kubernetes
    container: `CANFAR_PORT`, `CANFAR_PREFIX`, `CANFAR_SECRET`, `HOME`, and the others of `policy.environment`.
    A command that needs a shell is a script of the folder `starts`, which sessions find at `$(CANFAR_SYSTEM)`.
    """

    name: str
    title: str
    description: str
    port: int
    """TCP port that the program listens on in a container."""
    path: PathRule = "keep"
    """Whether the program knows the path that it is served under, or must be given paths without it."""
    ready_path: str = ""
    """Path below the prefix that answers, with any status below 500, once the program can be used."""
    landing: str = ""
    """What of it a person is led to who comes to its address itself; empty for the program's own start."""
    command: tuple[str, ...] = ()
    """What to run; empty for the image's own."""
    files: tuple[str, ...] = ()
    """What of the folder `starts` its sessions have at `$(CANFAR_SYSTEM)`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    secret: Secret | None = None
    """None where the program cannot check one."""
    cookies: bool = True
    """Whether the program is sent the cookies that it has set."""
    compress: bool = False
    """Whether the gateway compresses and keeps its static files, since it does not do so itself."""
    opens: str = ""
    """The part of its address that opens a file or folder, whose path below the top folder, escaped, is
    `$(CANFAR_OPEN)`; empty if there is none."""
    activity: Activity | None = None
    """None where the program does not say: then every request to it counts as use."""
    interactive: bool = True
    """Whether a person picks it and opens it in a browser. If not, it is ready when its program runs."""
    on_desktop: bool = False
    """Whether its sessions show their windows on a desktop of their owner, belong to it, and end with it.

    Their command is followed by the program that the catalogue names.
    """


_THREADS = {
    "JULIA_NUM_THREADS": "$(OMP_NUM_THREADS)",
    "OPENBLAS_NUM_THREADS": "$(OMP_NUM_THREADS)",
    "MKL_NUM_THREADS": "$(OMP_NUM_THREADS)",
}


def _start(script: str) -> tuple[str, ...]:
    return ("/bin/sh", f"$(CANFAR_SYSTEM)/{script}")


_KINDS = (
    Kind(
        name="notebook",
        title="Notebook",
        description="JupyterLab in your home, beside your projects’ data.",
        port=8888,
        ready_path="api",
        command=_start("notebook.sh"),
        files=("notebook.sh", "jupyter_server_config.py"),
        environment={
            **_THREADS,
            "JUPYTER_TOKEN": "$(CANFAR_SECRET)",
            "NB_USER": "$(skaha_username)",
            "XDG_CACHE_HOME": "$(HOME)/.cache",
        },
        secret=Secret(scheme="token"),
        opens="lab/tree/$(CANFAR_OPEN)",
        activity=Activity(("api/status", "api/kernels"), "last_activity", ("execution_state", "busy")),
    ),
    Kind(
        name="carta",
        title="CARTA",
        description="The Cube Analysis and Rendering Tool, for images and cubes.",
        port=6901,
        command=_start("carta.sh"),
        files=("carta.sh",),
        environment={"CARTA_AUTH_TOKEN": "$(CANFAR_SECRET)"},
        secret=Secret(),
        cookies=False,
        compress=True,
    ),
    Kind(
        name="desktop",
        title="Desktop",
        description="A Linux desktop in the browser, with the software that your groups may use.",
        port=6901,
        path="strip",
        command=_start("desktop.sh"),
        files=("desktop.sh", "samp.sh"),
        secret=Secret(header="X-Canfar-Secret", scheme=""),
        cookies=False,
    ),
    Kind(
        name="vscode",
        title="VS Code",
        description="A code editor with terminal and extensions, in your home.",
        port=5000,
        path="strip",
        ready_path="healthz",
        command=_start("vscode.sh"),
        files=("vscode.sh",),
        environment={**_THREADS, "HASHED_PASSWORD": "$(CANFAR_SECRET)"},
        secret=Secret(header="Cookie", scheme="code-server-session="),
        opens="?folder=$(SKAHA_TOP_LEVEL_DIR)/$(CANFAR_OPEN)",
        activity=Activity(("healthz",), "lastHeartbeat"),
    ),
    Kind(
        name="firefly",
        title="Firefly",
        description="Catalogues, images and tables from archives.",
        port=8080,
        ready_path="firefly/",
        landing="firefly/",
        environment={
            **_THREADS,
            "baseURL": "$(CANFAR_PREFIX)/",
            "DEBUG": "FALSE",
            "XDG_CACHE_HOME": "$(HOME)/.cache",
        },
    ),
    Kind(
        name="contributed",
        title="Contributed",
        description="A web program that somebody of the community provides.",
        port=5000,
        path="strip",
        environment=_THREADS,
    ),
    Kind(
        name="headless",
        title="Headless job",
        description="A program that runs by itself to its end.",
        port=0,
        interactive=False,
    ),
    Kind(
        name="desktop-app",
        title="Desktop application",
        description="A program that shows its windows on a desktop session.",
        port=6000,
        command=_start("desktop-app.sh"),
        files=("desktop-app.sh", "desktop-terminal.sh"),
        interactive=False,
        on_desktop=True,
    ),
)

DESKTOP = "desktop"
"""The kind of the sessions that applications are on."""

STARTS = Path(__file__).parent / "starts"
"""The folder of start scripts, which have to run in `/bin/sh` of any image."""

KINDS: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in _KINDS})
"""All kinds by name, in the order in which people see them."""


def kinds_of(site: Site) -> Mapping[str, Kind]:
    """All kinds that there are at a site: the built-in ones, and those that its site file defines."""
    return {**KINDS, **{own.name: _own(own) for own in site.own_kinds}}


def _own(kind: OwnKind) -> Kind:
    secret = Secret(kind.secret.header, kind.secret.scheme) if kind.secret else None
    given = {name: getattr(kind, name) for name in OwnKind.model_fields if name != "secret"}
    return Kind(**given, secret=secret)
