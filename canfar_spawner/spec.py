"""What a plan gives: a session's complete description, or a refusal."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from canfar_auth.identity import PosixIds
from canfar_spawner.kinds import Activity, Secret


class Refused(Exception):
    """A decision against a request.

    `code` is for machines, `status` the HTTP status (4xx), and `sentence` what the user reads.
    """

    def __init__(self, code: str, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.status = status
        self.sentence = sentence


@dataclass(frozen=True)
class Mount:
    """One directory of the site's shared volume in a session."""

    path: str
    """Where the session sees it."""
    sub_path: str
    """Where it is in the volume."""
    read_only: bool = False


@dataclass(frozen=True)
class Placement:
    """Where in a cluster a session may run, and what is kept free for it there."""

    cpu_guarantee: float = 0
    """Cores; 0 leaves it to the administrator's traits."""
    memory_guarantee: float = 0
    """Gigabytes (10⁹ bytes); 0 as above."""
    resources: Mapping[str, str] = field(default_factory=dict)
    """Further resources of nodes, by name, with their quantity."""
    selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Desktop:
    """A running desktop session, as the applications on it know it."""

    id: str
    """The session's id."""
    server: str
    """The name of its server."""
    start: str
    """Which of its starts it is."""
    display: str
    """Its X display, as applications name it."""


@dataclass(frozen=True)
class SessionSpec:
    """The decided, complete description of one session, ready to be rendered.

    `variables` are given to the program as they are. `command` and the values of `environment` may name them as
    `$(NAME)`, and beside them what only rendering knows: `CANFAR_IP`, `CANFAR_PORT`,
    `CANFAR_ADDRESS`, `CANFAR_SYSTEM` and `CANFAR_SECRET`.
    An empty `command` is the image's own.
    """

    id: str
    """Eight characters of `[a-z0-9]`, unique in the site."""
    kind: str
    profile: str
    image: str
    name: str
    """What the user calls it; may be empty."""
    owner: str
    cores: float
    memory: float
    """Gigabytes (10⁹ bytes)."""
    gpus: int
    home: str
    port: int
    """The port in a container."""
    prefix: str
    """The path under which the program believes to live, without a slash at its end; empty if it knows none."""
    ready_path: str
    secret: Secret | None
    command: tuple[str, ...]
    program: tuple[str, ...]
    """What a machine itself runs in place of the image; empty where the catalogue gives nothing."""
    groups: tuple[str, ...]
    """The groups that it was given something for: those that opened its image, and those of its processes."""
    ids: PosixIds | None
    """The numbers under which its processes run, where the site has such."""
    variables: Mapping[str, str]
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...] = ()
    """What it sees of the shared volume; none where the whole file system is the machine's own."""
    placement: Placement = Placement()
    landing: str = ""
    """What of it a person is led to who comes to its address itself; empty for the program's own start."""
    activity: Activity | None = None
    """Where its program says when it was last used."""
    files: tuple[str, ...] = ()
    """The start scripts of its kind, which it finds at `$(CANFAR_SYSTEM)`."""
    cookies: bool = True
    """Whether its program is sent the cookies that it has set."""
    compress: bool = False
    """Whether the gateway compresses and keeps its program's static files."""
    interactive: bool = True
    """Whether it is opened in a browser. If not, it is ready when its program runs."""
    desktop: Desktop | None = None
    """The desktop that an application is on."""

    @property
    def address(self) -> str:
        """The session's path on its owner's host, with a slash at its end."""
        return f"/session/{self.kind}/{self.id}/"


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replaces each `$(NAME)` in `text` once, as Kubernetes does for containers.

    `$$(NAME)` becomes `$(NAME)`, and names that are not known stay.

    Values are never expanded again, so a value that looks like a reference remains text.
    """

    def value(match: re.Match[str]) -> str:
        if match["escaped"]:
            return match[0][1:]
        return variables.get(match["name"], match[0])

    return re.sub(r"(?P<escaped>\$)?\$\((?P<name>[A-Za-z_][A-Za-z0-9_]*)\)", value, text)
