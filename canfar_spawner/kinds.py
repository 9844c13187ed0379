"""The kinds of session, as data.

Ports, variables and path rules are the launch contract of the CANFAR Science Platform's images, so that images
built for it run unmodified.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

PathRule = Literal["keep", "strip"]


@dataclass(frozen=True)
class Secret:
    """How a program expects the session's secret, which the gateway adds to every request.

    `header` is the request header, `scheme` the word before the secret in it (may be empty).
    """

    header: str = "Authorization"
    scheme: str = "Bearer"

    def headers(self, secret: str) -> dict[str, str]:
        """The request headers that carry `secret`."""
        return {self.header: f"{self.scheme} {secret}".strip()}


@dataclass(frozen=True)
class Kind:
    """One kind of session.

    Values of `command` and `environment` may name variables of the session as `$(NAME)`, as in a Kubernetes
    container: `CANFAR_PORT`, `CANFAR_PREFIX`, `CANFAR_SECRET`, `HOME`, and the others of `policy.environment`.
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
    command: tuple[str, ...] = ()
    """What to run; empty for the image's own."""
    environment: Mapping[str, str] = field(default_factory=dict)
    secret: Secret | None = None
    """None where the program cannot check one."""
    interactive: bool = True
    """Whether a person picks it and opens it in a browser."""


_THREADS = {
    "JULIA_NUM_THREADS": "$(OMP_NUM_THREADS)",
    "OPENBLAS_NUM_THREADS": "$(OMP_NUM_THREADS)",
    "MKL_NUM_THREADS": "$(OMP_NUM_THREADS)",
}

_KINDS = (
    Kind(
        name="notebook",
        title="Notebook",
        description="JupyterLab in your home, beside your projects’ data.",
        port=8888,
        ready_path="api",
        # Jupyter's own token stays on and is the session's secret: what reaches the port past the gateway
        # is refused. The gateway has checked the visitor and the Origin, so Jupyter need not.
        command=(
            "jupyter",
            "lab",
            "--no-browser",
            "--ServerApp.ip=$(CANFAR_IP)",
            "--ServerApp.port=$(CANFAR_PORT)",
            "--ServerApp.port_retries=0",
            "--ServerApp.base_url=$(CANFAR_PREFIX)/",
            "--ServerApp.root_dir=$(SKAHA_TOP_LEVEL_DIR)",
            "--ServerApp.preferred_dir=$(HOME)",
            "--ServerApp.allow_root=True",
            "--ServerApp.allow_remote_access=True",
            "--ServerApp.quit_button=False",
            "--ServerApp.use_redirect_file=False",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            "--LabApp.news_url=",
        ),
        environment={
            **_THREADS,
            "JUPYTER_TOKEN": "$(CANFAR_SECRET)",
            "NB_USER": "$(skaha_username)",
            "XDG_CACHE_HOME": "$(HOME)/.cache",
        },
        secret=Secret(scheme="token"),
    ),
    Kind(
        name="carta",
        title="CARTA",
        description="The Cube Analysis and Rendering Tool, for images and cubes.",
        port=6901,
    ),
    Kind(
        name="desktop",
        title="Desktop",
        description="A Linux desktop in the browser, with the software that your groups may use.",
        port=6901,
        path="strip",
    ),
    Kind(
        name="vscode",
        title="VS Code",
        description="A code editor with terminal and extensions, in your home.",
        port=5000,
        path="strip",
    ),
    Kind(
        name="firefly",
        title="Firefly",
        description="Catalogues, images and tables from archives.",
        port=8080,
        environment=_THREADS,
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
        interactive=False,
    ),
)

KINDS: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in _KINDS})
"""All kinds by name, in the order in which people see them."""
