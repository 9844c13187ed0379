"""Embedded mode: the hub, its gateway, an identity provider and grid services, all on this machine."""

import argparse
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from canfar_auth import binding
from canfar_auth.allocator import Allocator
from canfar_auth.outbound import Unavailable
from canfar_auth.posix import PosixRefused
from canfar_hub.accounts import HERE, PRIVATE, accounts_for, closed_folder, open_data
from canfar_hub.admin_token import write_admin_token
from canfar_hub.loopback import open_locally
from canfar_hub.problem import Problem
from canfar_hub.projects import make_arc, sample_projects
from canfar_site.settings import Site, load_site
from canfar_site.yamlfile import FileError
from canfar_spawner.catalogue import CatalogueFolder
from canfar_spawner.kinds import kinds_of
from canfar_spawner.processes import RUNTIME_DIR, kill_marked, last_lines, write_private

DEMO = HERE / "demo"
EVERY_KIND = "all"
_PORTS = 6
_LAST_PORT = 65536 - _PORTS
_START_TIME = 60.0  # seconds until a program of ours must answer
_END_TIME = 10.0  # seconds for a program of ours to end after SIGTERM
_STEADY_TIME = 10.0  # seconds after which a program that ends is worth another start


@dataclass(frozen=True)
class Place:
    """Where everything of one embedded hub is."""

    data: Path
    port: int

    @property
    def url(self) -> str:
        """The hub's public address."""
        return f"http://localhost:{self.port}"

    @property
    def issuer(self) -> str:
        """The provider's; by number, since a cookie for `localhost` goes to every port of it."""
        return f"http://127.0.0.1:{self.port + 1}"

    @property
    def hub_url(self) -> str:
        """Where the hub itself listens."""
        return f"http://127.0.0.1:{self.port + 2}"

    @property
    def gateway_api_url(self) -> str:
        """Where the gateway takes routes."""
        return f"http://127.0.0.1:{self.port + 3}"

    @property
    def grid_url(self) -> str:
        """Where the group and certificate services answer the hub; clients find them one port further."""
        return f"http://127.0.0.1:{self.port + 4}"

    @property
    def site_file(self) -> Path:
        """The site file that is written for this start."""
        return self.data / "site.yaml"

    @property
    def sessions(self) -> Path:
        """What running sessions need."""
        return self.data / "sessions"

    @property
    def arc(self) -> Path:
        """Homes, projects and what all share, where sessions are processes of this machine."""
        return self.data / "arc"

    @property
    def database_url(self) -> str:
        """The hub's database, which also holds numeric ids."""
        return f"sqlite:///{self.data / 'hub.sqlite'}"

    @property
    def accounts(self) -> str:
        """`each` where sessions run under ids of their own, `own` where they run as this account."""
        return accounts_for(self.data)


def run(options: argparse.Namespace) -> int:
    """Runs everything until Ctrl-C, and stops what it started.

    Raises
    ------
    canfar_hub.problem.Problem
        A port that is taken, a folder that cannot be written, a setting that is wrong, a program that ends.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    place = Place(_data_folder(options.data), _port(options.port))
    with _alone_in(place.data):
        return _run(options, place, stop)


def _run(options: argparse.Namespace, place: Place, stop: threading.Event) -> int:
    os.umask(PRIVATE)
    if place.accounts == "each":
        open_data(place.data)
    _refuse_taken_ports(place.port)
    former = _issuer(place.site_file)
    site = _write_site(place, options.site, options.kinds.split(), options.catalogue)
    if former not in ("", place.issuer):
        _move_accounts(place, site, former)
    keys = _keys(place.data)
    make_arc(place.arc, _project_gids(place, site))
    programs = Programs(place.data / "logs", stop)
    try:
        _say(f"Starting {site.name} …")
        _start_all(programs, place, site, keys, options.admin_token)
        if options.admin_token and not stop.is_set():
            write_admin_token(place.hub_url, keys["CANFAR_ADMIN_TOKEN"], place.data / "admin.token")
        if not stop.is_set():
            _banner(place, site, options.admin_token)
        programs.watch()
    finally:
        programs.end()
        kill_marked(RUNTIME_DIR, str(place.sessions), _END_TIME)
    _say("Stopped. Users, homes and records are kept for the next start.")
    return 0


# Before anything starts


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _LAST_PORT:
        raise Problem(f"PORT={text} is no port; give a number from 1 to {_LAST_PORT}, such as PORT=8000.")
    return int(text)


def _data_folder(path: Path) -> Path:
    path = path.resolve()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        problem = f"The folder {path} cannot be written ({error.strerror}); choose another one with DATA=."
        raise Problem(problem) from None
    return path


@contextmanager
def _alone_in(data: Path) -> Iterator[None]:
    """Holds a lock on the folder, which ends with this process however it ends."""
    with open(data / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Problem(f"Another hub uses the folder {data}; choose another one with DATA=.") from None
        yield


def _refuse_taken_ports(first: int) -> None:
    for port in range(first, first + _PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise Problem(
                    f"Port {port} of this machine cannot be used ({error.strerror}); end what uses it, or"
                    f" choose another with PORT=: {_PORTS} ports from that one on are needed."
                ) from None


def _write_site(place: Place, template: Path, kinds: Sequence[str], catalogue: Path) -> Site:
    """Completes a site file with what this start decides."""
    try:
        given = load_site(template)  # so that a mistake is named where it can be mended
        known = kinds_of(given)
        for kind in kinds:
            if kind not in (*known, EVERY_KIND):
                raise Problem(
                    f"KINDS= names “{kind}”, which is no kind of session; the kinds are {', '.join(known)},"
                    f" and “{EVERY_KIND}” stands for those of the site file."
                )
        settings = yaml.safe_load(template.read_text())
        settings["public_url"] = place.url
        settings["sign_in"]["issuer"] = place.issuer
        if "cluster" not in settings:
            settings["storage"] = {"top": str(place.arc)}
        settings["catalogue"] = str(catalogue.resolve())
        if given.cluster and given.cluster.registries:  # relative to the file that names it
            settings["cluster"]["registries"] = str(given.cluster.registries)
        _name_services(place, settings)
        if kinds and EVERY_KIND not in kinds:
            settings["kinds"] = list(kinds)
        place.site_file.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        return load_site(place.site_file)
    except FileError as error:
        raise Problem(f"The site file is not usable. {error}") from None


def _name_services(place: Place, settings: dict[str, Any]) -> None:
    """Names our group and certificate services, where the file names none of its own."""
    groups = settings.setdefault("groups", {})
    resource = f"ivo://{groups.get('authority')}/gms"
    groups.setdefault("gms", {"search": f"{place.grid_url}/gms/search", "resource": resource})
    settings.setdefault("credentials", {}).setdefault("cred", f"{place.grid_url}/cred/generate")


def _issuer(site_file: Path) -> str:
    """The provider's address in a site file that an earlier start wrote; empty if there is none."""
    try:
        return load_site(site_file).sign_in.issuer
    except FileError:
        return ""


def _move_accounts(place: Place, site: Site, former: str) -> None:
    """With another PORT= our provider has another address, and people stay who they were."""
    with Session(create_engine(place.database_url)) as db:
        binding.prepare(db)
        binding.move_issuer(db, former, place.issuer)
    Allocator(place.database_url, site.posix.uids, site.posix.gids).move_issuer(former, place.issuer)


def _keys(data: Path) -> dict[str, str]:
    """The site's secrets, made at the first start and kept, readable by this account only."""
    path = data / "secrets.json"
    names = (
        "CANFAR_CLIENT_SECRET",
        "CANFAR_SITE_KEY",
        "CANFAR_GATEWAY_TOKEN",
        "CANFAR_ADMIN_TOKEN",
        "CONFIGPROXY_AUTH_TOKEN",
        "JUPYTERHUB_CRYPT_KEY",
        "JPY_COOKIE_SECRET",
    )
    try:
        kept: dict[str, str] = json.loads(path.read_text())
    except FileNotFoundError:
        kept = {}
    except (OSError, ValueError):
        raise Problem(
            f"{path} cannot be read; remove it to make new secrets, which signs everybody out."
        ) from None
    every = {name: kept.get(name) or secrets.token_hex(32) for name in names}
    if every != kept:
        write_private(path, json.dumps(every))
    return every


def _project_gids(place: Place, site: Site) -> dict[str, int] | None:
    """The group id of each sample project; None where sessions have no ids of their own."""
    if place.accounts == "own":
        return None
    if site.posix.source != "allocator":
        return {}  # of which group a project is, its administrator has to say
    groups = {name: f"ivo://{site.groups.authority}/gms?{name}" for name in sample_projects()}
    try:
        gids = Allocator(place.database_url, site.posix.uids, site.posix.gids).groups(groups.values())
    except (Unavailable, PosixRefused, ValueError) as error:
        raise Problem(f"The sample projects have no group. {error}") from None
    return {name: gids[group] for name, group in groups.items()}


# The programs


@dataclass(frozen=True)
class Program:
    """One running program of ours."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes]
    began: float
    """By the monotonic clock, in seconds."""


class Programs:
    """The programs of this start: begun, watched and ended together."""

    def __init__(self, logs: Path, stop: threading.Event) -> None:
        self._logs = logs
        self._stop = stop
        self._running: dict[str, Program] = {}
        logs.mkdir(exist_ok=True)

    def start(self, name: str, command: Sequence[str], keys: Mapping[str, str]) -> None:
        """Starts one program with `keys` in its environment, and its output in a log file."""
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
        environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **keys}
        with open(self._logs / f"{name}.log", "ab") as output:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=self._logs.parent,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us alone, who end them in order
            )
        self._running[name] = Program(name, tuple(command), keys, process, time.monotonic())

    def wait(self, ready: Callable[[], bool]) -> None:
        """Returns once `ready`, or when asked to stop; raises if a program ends or it takes too long."""
        deadline = time.monotonic() + _START_TIME
        while not self._stop.is_set() and not ready():
            for program in self._ended():
                raise self._problem(program)
            if time.monotonic() > deadline:
                raise Problem(f"The hub did not answer within {_START_TIME:.0f} seconds; see {self._logs}.")
            self._stop.wait(0.1)

    def watch(self) -> None:
        """Returns when asked to stop. A program that ends before is started again: sessions outlive it."""
        while not self._stop.wait(0.5):
            for program in self._ended():
                if time.monotonic() - program.began < _STEADY_TIME:
                    raise self._problem(program)
                _say(f"The {program.name} ended and is started again; see {self._logs / program.name}.log.")
                self.start(program.name, program.command, program.environment)

    def _ended(self) -> list[Program]:
        return [p for p in self._running.values() if p.process.poll() is not None]

    def _problem(self, program: Program) -> Problem:
        log = self._logs / f"{program.name}.log"
        said = last_lines(log, lines=1) or "It said nothing."
        return Problem(f"The {program.name} ended, so everything stops. {said} ({log} may say more.)")

    def end(self) -> None:
        """Ends all, the last begun first."""
        processes = [program.process for program in reversed(self._running.values())]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + _END_TIME
        for process in processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start_all(programs: Programs, place: Place, site: Site, keys: Mapping[str, str], admin: bool) -> None:
    programs.start(
        "identity-provider",
        [
            *("-m", "canfar_hub.identity_provider", "--accounts", str(DEMO / "accounts.yaml")),
            *("--data", str(place.data / "identity")),
            *("--ip", "127.0.0.1", "--port", str(place.port + 1)),
            *("--redirect-uri", f"{place.url}/hub/oauth_callback"),
        ],
        _some(keys, "CANFAR_CLIENT_SECRET"),
    )
    programs.start(
        "grid-services",
        [
            *("-m", "canfar_hub.grid_services", "--accounts", str(DEMO / "accounts.yaml")),
            *("--data", str(place.data / "grid"), "--publish", str(place.arc / "software/grid")),
            *("--issuer", place.issuer, "--ip", "127.0.0.1"),
            *("--port", str(place.port + 4), "--tls-port", str(place.port + 5)),
        ],
        {},
    )
    programs.start(
        "gateway",
        [
            *("-m", "canfar_gateway", "--ip", "127.0.0.1", "--port", str(place.port)),
            *("--api-ip", "127.0.0.1", "--api-port", str(place.port + 3)),
            *("--hub-api-url", f"{place.hub_url}/hub/api", "--public-url", place.url),
            *(["--host-routing"] if site.subdomains else []),
            *("--state-file", str(place.data / "routes.json")),
            *("--decision-seconds", str(site.groups.decision_seconds)),
        ],
        _some(keys, "CANFAR_GATEWAY_TOKEN", "CONFIGPROXY_AUTH_TOKEN"),
    )
    hidden = () if admin else ("CANFAR_ADMIN_TOKEN",)
    programs.start(
        "hub",
        ["-m", "jupyterhub", "-f", str(HERE / "jupyterhub_config.py")],
        {
            **{name: value for name, value in keys.items() if name not in hidden},
            "CANFAR_SITE": str(place.site_file),
            **_sessions(place, site),
            "CANFAR_HUB_URL": place.hub_url,
            "CANFAR_GATEWAY_API_URL": place.gateway_api_url,
            "CANFAR_DATABASE_URL": place.database_url,
        },
    )
    discovery = f"{place.issuer}/.well-known/openid-configuration"
    ours = (f"{place.url}/hub/login", f"{place.url}/_canfar_ready")
    needed = (discovery, f"{place.grid_url}/gms/availability", *ours)
    programs.wait(lambda: all(map(_answers, needed)))


def _sessions(place: Place, site: Site) -> dict[str, str]:
    """What the hub needs to start sessions: pods where the site file has a cluster, else processes."""
    if site.cluster:
        return {"CANFAR_SPAWNER": "canfar", "CANFAR_NAMESPACE": os.environ.get("CANFAR_NAMESPACE", "default")}
    return {
        "CANFAR_SPAWNER": "canfar-local",
        "CANFAR_SESSIONS_DIR": str(place.sessions),
        "CANFAR_CREDENTIALS_DIR": str(place.data / "credentials"),
        "CANFAR_SESSION_ACCOUNTS": place.accounts,
    }


def _some(keys: Mapping[str, str], *names: str) -> dict[str, str]:
    """Only those secrets that a program needs."""
    return {name: keys[name] for name in names}


def _answers(url: str) -> bool:
    """Whether `url` of this machine answers with 200."""
    try:
        with open_locally(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


# What the person reads


def _banner(place: Place, site: Site, admin: bool) -> None:
    accounts = yaml.safe_load((DEMO / "accounts.yaml").read_text())["accounts"]
    _say(f"\n  {site.name} is at {place.url}\n")
    _say("  Sample accounts, each with its own name as password:")
    for name, account in accounts.items():
        _say(f"    {name:<24} {', '.join([*account['groups'], *account.get('gms_groups', [])])}")
    _say(f"\n  Homes and projects   {site.storage.top}")
    _say(f"  Logs                 {place.data / 'logs'}")
    if admin:
        _say(f"  Administrator's token  {place.data / 'admin.token'}")
    _say(f"\n  {_apart(place)}")
    if open_to_all := _without_secret(site):
        _say(f"  Every account of this machine can reach, past the gateway: {', '.join(open_to_all)}.")
    _say("  Ctrl-C stops everything.\n")


def _apart(place: Place) -> str:
    """Whether the machine's file system keeps people apart, and if root could have that, how."""
    if place.accounts == "each":
        return "Sessions run under ids of their own: accounts are kept apart on this machine’s file system."
    if os.geteuid() != 0:
        return "Sessions run as your own account: accounts are not kept apart on this machine’s file system."
    return (
        "Sessions run as root, so each can read and change all of this machine: other accounts cannot enter\n"
        f"  {closed_folder(place.data)}. To keep accounts apart, put this project, its Python and DATA= where\n"
        "  every account can, such as below /opt."
    )


def _without_secret(site: Site) -> list[str]:
    """The titles of what checks no secret, so that its port is open to whoever is on the machine."""
    kinds = kinds_of(site)
    entries = CatalogueFolder(site.catalogue, kinds).read().profiles
    return [
        entry.title
        for entry in entries
        if entry.program
        and not entry.secret
        and any(kinds[name].interactive and not kinds[name].secret for name in entry.kinds)
    ]


def _say(text: str) -> None:
    print(text, flush=True)
