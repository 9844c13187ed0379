"""Sessions as processes of the hub's own machine, for embedded mode.

Under a hub that root runs, each runs under its user's own numeric ids, and the file system keeps users apart.
Otherwise all run as the account that runs the hub, for one person's machine and for trial.
"""

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
from jupyterhub.spawner import LocalProcessSpawner
from traitlets import Enum, TraitError, Unicode, default, validate

from canfar_auth.identity import PosixIds
from canfar_spawner import credentials
from canfar_spawner.accounts import as_account, check_free, let_pass, make_home
from canfar_spawner.catalogue import Catalogue, Profile
from canfar_spawner.credential_folders import folder_name, link_in_home
from canfar_spawner.kinds import STARTS
from canfar_spawner.metrics import Stage
from canfar_spawner.planned import PlannedSpawner
from canfar_spawner.processes import (
    RUNTIME_DIR,
    START_ID,
    is_marked,
    kill_marked,
    last_lines,
    shorten,
    terminate_marked,
    write_private,
)
from canfar_spawner.readiness import answers
from canfar_spawner.spec import Refused, SessionSpec, expand

_PASSED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "TMPDIR")
_LOG_LIMIT = 10_000_000  # bytes of what a session prints; kept is the last half
_DISPLAY_OFFSET = 2000  # X displays are free where ports are, and their number plus 6000 has to be a port's
_PROBE_INTERVAL = 0.02  # seconds; a start takes on average half of it longer than its program


class LocalCanfarSpawner(PlannedSpawner, LocalProcessSpawner):
    """Renders a plan as a process.

    Upstream behaviour that it changes: the program's output goes to a file; its environment is made anew,
    without the hub's and without a hub token; the process is watched from its start on, so that one that dies
    is told at once with its last lines; ending reaches everything that the session started.
    """

    runtime_dir = Unicode(
        "sessions",
        help="""Directory for what running sessions need: one directory for each, with its log and secret.""",
    ).tag(config=True)

    credentials_dir = Unicode(
        "credentials",
        help="""Directory of users' credentials: one directory for each user with running sessions.""",
    ).tag(config=True)

    accounts = Enum(
        ["each", "own"],
        help="""Under which account sessions run: `each` under its user's own ids, or all as the hub's `own`.

        `each` needs a hub that root runs, and is then the default: a user without ids starts nothing.
        """,
    ).tag(config=True)

    @default("accounts")
    def _accounts_default(self) -> str:
        return "each" if os.geteuid() == 0 else "own"

    @validate("accounts")
    def _validate_accounts(self, proposal: Any) -> str:
        if proposal.value == "each" and os.geteuid() != 0:
            raise TraitError("LocalCanfarSpawner.accounts is `each`, for which root has to run the hub.")
        return str(proposal.value)

    # What can run here

    def available(self, catalogue: Catalogue) -> Catalogue:
        """Marks what the machine cannot run, with the command that installs it."""
        reasons = {entry.profile: unavailable(entry) for entry in catalogue.profiles}
        return catalogue.without({name: reason for name, reason in reasons.items() if reason})

    # Starting

    async def launch(self, spec: SessionSpec) -> str:
        """Starts the program and returns its address once it answers.

        Raises
        ------
        jupyterhub.spawner.SpawnException
            424, with the last lines of the log: the program ended, or did not answer within `start_timeout`.
        """
        self.ip, self.port = "127.0.0.1", _free_port()
        directory = self._prepare(spec)
        if self.site.credentials.cred:
            notice = await link_in_home(Path(spec.home), self._credentials(), self.account(spec))
            self._link_notice = (notice.text,)
        self.announce(f"Starting {spec.image}.")
        self.proc = self._run(spec, directory)
        self.pid = self.proc.pid
        self._record()
        self._passed(Stage.MADE)
        if spec.interactive:
            self.announce("Waiting for the program to answer.")
            await self._answers(spec, directory / "log")
            self._passed(Stage.ANSWER)
        self._judge(spec, directory / "log")
        return f"http://{self.ip}:{self.port}"

    def _record(self) -> None:
        """Commits where the program is, so that a hub that dies during the start finds it again."""
        self.server.ip, self.server.port = self.ip, self.port
        self.orm_spawner.state = self.get_state()
        self.db.commit()

    def _prepare(self, spec: SessionSpec) -> Path:
        """Makes the home and the session's runtime directory, closed to other accounts."""
        directory = Path(self.runtime_dir).resolve() / spec.id
        ids = self.account(spec)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if ids is None:
                Path(spec.home).mkdir(mode=0o700, parents=True, exist_ok=True)
                write_private(directory / "secret", self.secret)
            else:
                check_free(ids, spec.owner)
                make_home(Path(spec.home), ids)
                let_pass(directory, ids)
                write_private(directory / "secret", self.secret, (ids.uid, ids.gid))
        except OSError as error:
            raise Refused("storage", 409, f"Your home could not be made ({error.strerror}).") from error
        return directory

    def account(self, spec: SessionSpec) -> PosixIds | None:
        """The ids to run under; None for the hub's own account, which is root's only if the site says so."""
        if self.accounts == "own":
            return None
        if spec.ids is None:
            raise Refused(
                "ids",
                503,
                "It is not known under which numeric ids to run your session. Try again in a few minutes, and"
                f" tell {self.site.contact} if it lasts.",
            )
        return spec.ids

    def _run(self, spec: SessionSpec, directory: Path) -> subprocess.Popen[bytes]:
        command, environment = render(spec, self._runtime_variables(directory))
        ids = self.account(spec)
        own = {name: os.environ[name] for name in _PASSED if name in os.environ}
        if ids is not None:
            own.pop("TMPDIR", None)  # the hub's own, which others may not write to
        # The administrator's variables, as upstream takes them: a callable is given the spawner.
        site = {name: v(self) if callable(v) else v for name, v in self.environment.items()}
        with open(directory / "log", "ab") as output:  # at its end, also after it was shortened
            if ids is not None:
                os.fchown(output.fileno(), ids.uid, ids.gid)  # so that a program can open its /dev/stderr
            try:
                return subprocess.Popen(
                    command,
                    cwd=spec.home,
                    env={**own, **site, "LOGNAME": spec.owner, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # the hub's signals are not for it
                    **(as_account(ids) if ids else {}),
                )
            except OSError as error:
                sentence = f"The program “{command[0]}” could not be started ({error.strerror})."
                raise Refused("unavailable", 400, sentence) from error

    def _runtime_variables(self, directory: Path) -> dict[str, str]:
        """What only rendering knows. Commands may name all of it but the secret: arguments are public."""
        return {
            "CANFAR_IP": self.ip,
            "CANFAR_PORT": str(self.port),
            "CANFAR_DISPLAY": f":{self.port - _DISPLAY_OFFSET}",
            "CANFAR_SECRET": self.secret,
            "CANFAR_SECRET_FILE": str(directory / "secret"),
            "CANFAR_SYSTEM": str(STARTS),
            "CANFAR_ADDRESS": self.ip,
            RUNTIME_DIR: str(directory.parent),
            START_ID: self.start_id,
            **credentials.environment(self._credentials(), self.site.credentials),
        }

    def _credentials(self) -> Path:
        return Path(self.credentials_dir).resolve() / folder_name(self.user.name)

    async def _answers(self, spec: SessionSpec, output: Path) -> None:
        """Returns once the program answers with any status below 500; raises if it ends or takes too long."""
        url = f"http://{self.ip}:{self.port}{spec.prefix}/{spec.ready_path}"
        patience = self.start_timeout * 0.95  # told by us, since the hub would take it for a fault of its own
        try:
            async with asyncio.timeout(patience), aiohttp.ClientSession(headers=self.secret_headers) as http:
                while not await answers(http, url):
                    self._judge(spec, output)
                    await asyncio.sleep(_PROBE_INTERVAL)
        except TimeoutError:
            sentence = f"The program of {spec.image} did not answer within {patience:.0f} seconds."
            raise self.fault(sentence, last_lines(output)) from None

    def _judge(self, spec: SessionSpec, output: Path) -> None:
        """Ends the start if the program has ended."""
        if (status := self.proc.poll()) is not None:
            sentence = f"The program of {spec.image} {_end(status)} before it answered."
            raise self.fault(sentence, last_lines(output))

    # Running and ending

    @property
    def display(self) -> str:
        """As `CANFAR_DISPLAY` has it."""
        return f":{self.server.port - _DISPLAY_OFFSET}"

    async def poll(self) -> int | None:
        """None while the program runs, frozen or not; else its exit status, or 0 where nobody knows it."""
        if self.spec is not None:
            await asyncio.to_thread(shorten, Path(self.runtime_dir) / self.spec.id / "log", _LOG_LIMIT)
        if self.proc is not None:
            status: int | None = self.proc.poll()
            if status and self.spec is not None:
                self.ending = f"The program of {self.spec.image} {_end(status)}."
            return status
        return None if self.pid and is_marked(self.pid, START_ID, self.start_id) else 0

    async def stop(self, now: bool = False) -> None:
        """Ends the program, with SIGTERM unless `now`, and then whatever the session left running."""
        if self.pid and not now:
            await asyncio.to_thread(terminate_marked, self.pid, START_ID, self.start_id, self.term_timeout)
        await self._kill_rest()

    async def run_post_stop_hook(self) -> None:
        """Clears away what a session left, also one whose program ended by itself."""
        if self.spec is not None:
            await self._kill_rest()
            shutil.rmtree(Path(self.runtime_dir) / self.spec.id, ignore_errors=True)
        await super().run_post_stop_hook()

    async def _kill_rest(self) -> None:
        await asyncio.to_thread(kill_marked, START_ID, self.start_id, self.kill_timeout)
        if self.proc is not None:
            self.proc.poll()  # reaps it


def _end(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


def unavailable(entry: Profile) -> str:
    """Why this machine cannot run an entry of the catalogue; empty if it can."""
    if entry.program is None:
        return "It can run in a cluster only: the catalogue gives no program for it."
    if shutil.which(entry.program.needs) is None:
        return f"It is not installed on this machine; “{entry.program.install}” installs it."
    return ""


def render(spec: SessionSpec, runtime: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """The argument list and the environment of a session's program.

    References are replaced once. The secret stays out of the argument list, which every account can read.
    """
    variables = {**spec.variables, **runtime}
    public = {name: value for name, value in variables.items() if name != "CANFAR_SECRET"}
    environment = {name: expand(value, variables) for name, value in spec.environment.items()}
    return [expand(argument, public) for argument in spec.program], {**public, **environment}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
