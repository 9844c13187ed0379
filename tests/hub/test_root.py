"""A hub that root runs: the kernel keeps its users apart."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from traitlets import TraitError

from canfar_auth.allocator import Allocator
from canfar_auth.certificate import read_certificate
from canfar_auth.identity import PosixGroup, PosixIds
from canfar_hub import demo
from canfar_hub.accounts import closed_folder, open_data
from canfar_hub.projects import make_arc
from canfar_site.settings import Site
from canfar_spawner.accounts import as_account, check_free, let_pass, make_home
from canfar_spawner.local import LocalCanfarSpawner
from canfar_spawner.processes import write_private
from canfar_spawner.spec import Refused, SessionSpec
from tests.support.identities import SURVEY, SURVEY_Y, USERS
from tests.support.stack import ROOT, Person, Stack, running, until, write_catalogue

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start programs as other accounts")

GID = 1_999_999
ASTRONOMER = PosixIds(899_998, 899_998, (PosixGroup(SURVEY, "survey-x", GID),))
VISITOR = PosixIds(899_999, 899_999)
DENIED = {"error": "EACCES"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other accounts can enter, as pytest's own are not."""
    made = Path(tempfile.mkdtemp(prefix="canfar-root-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def under(ids: PosixIds, *command: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd="/", capture_output=True, text=True, **as_account(ids))


# The parts


def test_a_program_has_the_ids_and_none_of_roots_groups():
    said = under(ASTRONOMER, "cat", "/proc/self/status").stdout
    assert f"Uid:\t{899_998}\t{899_998}\t{899_998}\t{899_998}\n" in said
    assert f"Gid:\t{899_998}\t{899_998}\t{899_998}\t{899_998}\n" in said
    assert f"Groups:\t{GID} \n" in said
    assert "CapEff:\t0000000000000000\n" in said
    assert "Umask:\t0007\n" in said
    assert "Groups:\t \n" in under(VISITOR, "cat", "/proc/self/status").stdout


def test_a_home_is_its_owners_alone(folder):
    home = folder / "home" / "astronomer"
    make_home(home, ASTRONOMER)
    make_home(home, ASTRONOMER)
    status = home.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o700, 899_998, 899_998)
    assert under(ASTRONOMER, "touch", home / "mine").returncode == 0
    make_home(home, ASTRONOMER)
    assert under(VISITOR, "ls", home).returncode != 0


def test_an_empty_home_of_roots_is_finished(folder):
    (folder / "home" / "astronomer").mkdir(parents=True)
    make_home(folder / "home" / "astronomer", ASTRONOMER)
    assert (folder / "home" / "astronomer").stat().st_uid == 899_998


@pytest.mark.parametrize("owner", [0, 899_999])
def test_a_home_of_somebody_else_is_refused(folder, owner):
    home = folder / "home" / "astronomer"
    home.mkdir(parents=True)
    (home / "theirs").touch()
    os.chown(home, owner, owner)
    with pytest.raises(Refused, match=f"another account, {owner}.*899998:899998") as refused:
        make_home(home, ASTRONOMER)
    assert refused.value.status == 409
    assert home.stat().st_uid == owner


def test_a_home_that_is_a_link_is_not_followed(folder):
    (folder / "home").mkdir()
    (folder / "target").mkdir()
    (folder / "home" / "astronomer").symlink_to(folder / "target")
    with pytest.raises(OSError, match="director"):
        make_home(folder / "home" / "astronomer", ASTRONOMER)
    assert (folder / "target").stat().st_uid == 0


@pytest.mark.parametrize(("owner", "mode"), [(899_999, 0o755), (0, 0o777), (0, 0o1777), (0, 0o775)])
def test_homes_where_others_could_exchange_them_are_refused(folder, owner, mode):
    (folder / "home").mkdir()
    os.chown(folder / "home", owner, 0)
    (folder / "home").chmod(mode)
    with pytest.raises(Refused, match="others than root"):
        make_home(folder / "home" / "astronomer", ASTRONOMER)
    assert not list((folder / "home").iterdir())


def test_a_sessions_secret_is_its_own(folder):
    directory = folder / "sessions" / "abcdefgh"
    directory.mkdir(parents=True)
    let_pass(directory, ASTRONOMER)
    write_private(directory / "secret", "word", (ASTRONOMER.uid, ASTRONOMER.gid))
    assert under(ASTRONOMER, "cat", directory / "secret").stdout == "word"
    assert under(VISITOR, "cat", directory / "secret").returncode != 0
    assert under(ASTRONOMER, "touch", directory / "log").returncode != 0
    assert under(ASTRONOMER, "ls", directory).returncode != 0
    assert under(ASTRONOMER, "ls", directory.parent).returncode != 0


def test_numbers_that_the_machine_uses_are_refused():
    check_free(ASTRONOMER, "astronomer")
    for ids in (PosixIds(65534, 899_998), PosixIds(899_998, 65534), PosixIds(1, 1)):
        with pytest.raises(Refused, match="on the machine"):
            check_free(ids, "astronomer")
    with pytest.raises(Refused, match="on the machine"):
        check_free(PosixIds(0, 0), "root")
    with pytest.raises(Refused, match="on the machine"):
        check_free(PosixIds(899_998, 899_998, (PosixGroup(SURVEY, "survey-x", 65534),)), "astronomer")


async def test_nothing_runs_as_root_for_want_of_ids(folder):
    site = Site.model_validate(
        {"contact": "help@example.org", "sign_in": {"issuer": "https://x.org", "platform_groups": [USERS]}}
    )
    spawner = LocalCanfarSpawner(runtime_dir=str(folder / "sessions"))
    spawner.site = site
    spec = SessionSpec(
        **dict.fromkeys(("id", "kind", "profile", "image", "name", "prefix", "ready_path"), "abcdefgh"),
        **{"owner": "astronomer", "home": str(folder / "home"), "cores": 1, "memory": 1, "gpus": 0, "port": 0},
        **dict.fromkeys(("command", "groups"), ()),
        **{"program": ("touch", str(folder / "ran")), "secret": None, "variables": {}, "environment": {}},
        ids=None,
    )
    with pytest.raises(Refused, match=r"help@example\.org") as refused:
        await spawner.launch(spec)
    assert refused.value.status == 503
    assert not list(folder.iterdir())


def test_ids_need_root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert LocalCanfarSpawner().accounts == "own"
    with pytest.raises(TraitError, match="root"):
        LocalCanfarSpawner(accounts="each")


def test_a_project_is_its_members(folder):
    make_arc(folder / "arc", {"survey-x": GID})
    project = folder / "arc/projects/survey-x"
    assert "survey" in under(ASTRONOMER, "cat", project / "README.md").stdout.lower()
    assert under(ASTRONOMER, "touch", project / "new").returncode == 0
    assert ((project / "new").stat().st_gid, (project / "new").stat().st_mode & 0o077) == (GID, 0o060)
    for path in (project, project / "README.md"):
        assert "denied" in under(VISITOR, "cat", path).stderr
    settings = next((folder / "arc/software").rglob("*.json"))
    assert under(VISITOR, "cat", settings).returncode == 0
    assert under(VISITOR, "touch", settings).returncode != 0
    assert under(VISITOR, "ls", folder / "arc/projects").stdout == "survey-x\nsurvey-y\n"
    assert under(VISITOR, "ls", folder / "arc/home").returncode != 0


def test_a_project_without_a_group_is_closed(folder):
    make_arc(folder / "arc", {})
    assert "denied" in under(ASTRONOMER, "ls", folder / "arc/projects/survey-x").stderr


def test_a_member_cannot_have_root_write_elsewhere(folder):
    make_arc(folder / "arc", {"survey-x": GID})
    project, target = folder / "arc/projects/survey-x", folder / "target"
    (project / "README.md").unlink()
    assert under(ASTRONOMER, "ln", "-s", target, project / "README.md").returncode == 0
    make_arc(folder / "arc", {"survey-x": GID})
    assert not target.exists()


def test_what_an_older_hub_left_open_is_closed(folder):
    data = folder / "data"
    data.mkdir(mode=0o700)
    for name in ("secrets.json", "hub.sqlite", "hub.sqlite-wal", "routes.json", ".lock", "foreign"):
        (data / name).touch()
    for name in ("logs", "identity", "arc"):
        (data / name).mkdir()
    open_data(data)
    assert data.stat().st_mode & 0o777 == 0o711
    still = {path.name for path in data.iterdir() if path.stat().st_mode & 0o077}
    assert still == {"arc", "foreign"}


def test_a_closed_folder_is_named(folder, monkeypatch):
    monkeypatch.setattr("canfar_hub.accounts.HERE", folder)
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    monkeypatch.setattr(sys, "prefix", "/usr")
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    (folder / "closed" / "more").mkdir(parents=True)
    assert closed_folder(folder / "closed" / "more" / "data") is None
    (folder / "closed").chmod(0o750)
    assert closed_folder(folder / "closed" / "more" / "data") == folder / "closed"
    (folder / "bin").mkdir(mode=0o700)
    monkeypatch.setattr(sys, "executable", str(folder / "bin" / "python"))
    assert closed_folder(folder / "data") == folder / "bin"


def test_a_newcomer_whose_folder_is_closed_is_told_that_sessions_are_roots(tmp_path):
    place = demo.Place(tmp_path / "data", 8000)
    assert place.accounts == "own"
    said = demo._apart(place)
    assert "Sessions run as root" in said
    assert str(closed_folder(place.data)) in said


# The whole


def is_open(path: Path) -> bool:
    """Whether every account can get to it."""
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


def open_project(folder: Path) -> Path:
    """The project where every account can read it: where it is, or a copy of what sessions and hub need."""
    if is_open(ROOT):
        return ROOT
    copy = folder / "project"
    for name in (
        "canfar_auth",
        "canfar_gateway",
        "canfar_hub",
        "canfar_portal",
        "canfar_site",
        "canfar_spawner",
    ):
        shutil.copytree(ROOT / name, copy / name)
    shutil.copytree(ROOT / "demo", copy / "demo")
    shutil.copytree(ROOT / "tests/support", copy / "tests/support")
    shutil.copy(ROOT / "jupyterhub_config.py", copy)
    return copy


def open_interpreter(folder: Path, root: Path) -> str:
    """An interpreter that every account may use: this one, or Debian's with a copy of this one's packages.

    The project itself is that at `root`.
    """
    if all(is_open(Path(path)) for path in (sys.prefix, sys.base_prefix, Path(sys.executable).parent)):
        return sys.executable
    version = "import sys; print(*sys.version_info[:2])"
    theirs = subprocess.run(["/usr/bin/python3", "-c", version], capture_output=True, text=True).stdout.split()
    if theirs != [str(part) for part in sys.version_info[:2]]:
        pytest.skip("Other accounts cannot enter the folder of this Python.")
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (packages,) = (folder / "venv/lib").glob("python*/site-packages")
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    # Sessions' accounts import them, too, and cannot enter the folder that these are in.
    left_out = shutil.ignore_patterns("__editable__*", "__pycache__")
    shutil.copytree(ours, packages, dirs_exist_ok=True, ignore=left_out)
    (folder / "venv/share").symlink_to(Path(sys.prefix) / "share")  # the hub's pages, which root reads
    (packages / "project.pth").write_text(f"{root}\n")
    return str(folder / "venv/bin/python")


@pytest.fixture(scope="module")
def hub() -> Iterator[Stack]:
    folder = Path(tempfile.mkdtemp(prefix="canfar-root-"))
    folder.chmod(0o755)
    try:
        with pytest.MonkeyPatch.context() as patch:
            root = open_project(folder)
            patch.setattr(sys, "executable", open_interpreter(folder, root))
            catalogue = write_catalogue(folder, root)
            with running(folder / "data", "--catalogue", str(catalogue), root=root) as found:
                yield found
    finally:
        shutil.rmtree(folder)


class Session:
    """A running session, in which paths can be tried."""

    def __init__(self, person: Person, name: str) -> None:
        answer = person.start(name, {"profile": "open"})
        assert answer.status_code in {201, 202}, answer.text
        self.person = person
        self.url = person.ready(name)["full_url"]
        self.environ: dict[str, str] = json.loads(person.browser.get(f"{self.url}environ").text)["environ"]

    def attempt(self, path: str | Path, text: str = "") -> dict[str, Any]:
        """Reads or writes a path as the session's user."""
        params = {"path": str(path)} | ({"text": text} if text else {})
        found: dict[str, Any] = json.loads(self.person.browser.get(f"{self.url}attempt", params=params).text)
        return found

    def process(self) -> psutil.Process:
        """The program itself."""
        start = self.environ["CANFAR_START_ID"]
        return next(p for p in psutil.process_iter() if _environ(p).get("CANFAR_START_ID") == start)


def _environ(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


@pytest.fixture(scope="module")
def sessions(hub: Stack) -> Iterator[dict[str, Session]]:
    people = {name: hub.sign_in(name) for name in ("astronomer", "visitor")}
    yield {name: Session(person, "work") for name, person in people.items()}
    for person in people.values():
        person.stop_all()


def test_members_work_in_their_project_and_nobody_else(hub, sessions):
    project = hub.data / "arc/projects/survey-x"
    astronomer, visitor = sessions["astronomer"], sessions["visitor"]
    assert "README.md" in astronomer.attempt(project)["read"]
    assert "error" not in astronomer.attempt(project / "README.md")
    assert "error" not in astronomer.attempt(project / "new", "of the survey")
    assert visitor.attempt(project) == DENIED
    assert visitor.attempt(project / "new") == DENIED
    assert visitor.attempt(project / "other", "x") == DENIED


def test_neither_reads_what_is_the_others_or_the_hubs(hub, sessions):
    for own, other in (("astronomer", "visitor"), ("visitor", "astronomer")):
        session = sessions[own]
        assert "error" not in session.attempt(hub.data / "arc/home" / own / "notes", "mine")
        assert session.attempt(hub.data / "arc/home" / own / "notes") == {"read": "mine"}
        assert session.attempt(hub.data / "arc/home" / other) == DENIED
        assert session.attempt(hub.data / "arc/home" / other / "notes") == DENIED
        assert len(session.attempt(session.environ["CANFAR_SECRET_FILE"])["read"]) == 64
        assert session.attempt(sessions[other].environ["CANFAR_SECRET_FILE"]) == DENIED
        assert session.attempt(f"/proc/{sessions[other].process().pid}/environ") == DENIED
        assert session.attempt(hub.data / "secrets.json") == DENIED
        assert session.attempt(hub.data / "sessions") == DENIED
        assert session.attempt(f"/proc/{hub.program('jupyterhub')}/environ") == DENIED


def test_the_processes_have_the_numbers_that_were_given(hub, sessions):
    allocator = Allocator(f"sqlite:///{hub.data / 'hub.sqlite'}", (10000, 899999), (900000, 1999999))
    known = {"astronomer": [USERS, SURVEY, SURVEY_Y], "visitor": [USERS]}
    gids = allocator.groups(known["astronomer"])
    uids = set()
    for name, groups in known.items():
        said = sessions[name].attempt("/proc/self/status")["read"]
        status = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
        home = (hub.data / "arc/home" / name).stat()
        assert status["Uid"].split() == [str(home.st_uid)] * 4
        assert status["Gid"].split() == [str(home.st_gid)] * 4
        assert status["Groups"].split() == [str(gid) for gid in sorted(gids[group] for group in groups)]
        assert home.st_uid == home.st_gid >= 10000
        assert sessions[name].environ["USER"] == sessions[name].environ["LOGNAME"] == name
        uids.add(home.st_uid)
    assert len(uids) == 2


def test_a_group_that_only_the_group_service_knows_opens_its_project(hub, sessions):
    project = hub.data / "arc/projects/survey-y"
    assert sessions["astronomer"].attempt(project) == {"read": ["README.md"]}
    assert sessions["visitor"].attempt(project) == DENIED


def test_credentials_are_their_owners_alone_and_their_folder_is_the_hubs(hub, sessions):
    for own, other in (("astronomer", "visitor"), ("visitor", "astronomer")):
        session = sessions[own]
        folder = Path(session.environ["CANFAR_CREDENTIALS"])
        assert session.attempt(folder) == {"read": ["access_token", "cadcproxy.pem", "expires.json"]}
        linked = Path(session.environ["HOME"]) / ".ssl/cadcproxy.pem"
        read = read_certificate(session.attempt(linked)["read"], now=datetime.now(UTC), common_name=own)
        assert read.identity.startswith(f"CN={own},")
        assert (folder / "cadcproxy.pem").stat().st_uid == session.process().uids().real
        assert session.attempt(folder / "planted", "x") == DENIED
        theirs = sessions[other].environ["CANFAR_CREDENTIALS"]
        assert session.attempt(theirs) == DENIED
        assert session.attempt(f"{theirs}/access_token") == DENIED


# Walks a folder and prints all that is not a directory and can be read, and what can be written.
WALK = """
import os, sys
for folder, _, files in os.walk(sys.argv[1]):
    if os.access(folder, os.W_OK): print("writable", folder)
    for name in files:
        path = os.path.join(folder, name)
        if os.access(path, os.R_OK): print("readable", path)
for name in sys.argv[2:]:
    if os.access(name, os.R_OK) or (os.path.isdir(name) and os.access(name, os.X_OK)): print("open", name)
"""


OPEN = {"arc", "sessions", "credentials"}  # others may pass through these


def test_of_the_hubs_folder_others_see_the_shared_files_only(hub, sessions):
    # What cannot be listed can still be opened by its name.
    names = [path for path in hub.data.iterdir() if path.name not in OPEN]
    hidden = [*names, *(path for name in names if name.is_dir() for path in name.rglob("*"))]
    for pattern in ("sessions/*", "sessions/*/*", "credentials/*", "credentials/*/*", "arc/home/*"):
        hidden += hub.data.glob(pattern)
    wanted = {"secrets.json", "hub.sqlite", "logs", "identity", "authority.key.pem", "cadcproxy.pem"}
    assert wanted <= {path.name for path in hidden}
    said = under(VISITOR, "/usr/bin/python3", "-c", WALK, hub.data, *hidden).stdout.splitlines()
    assert said == []
    said = under(VISITOR, "/usr/bin/python3", "-c", WALK, hub.data / "arc").stdout.splitlines()
    assert said
    assert all(line.startswith(f"readable {hub.data}/arc/software/") for line in said)


def test_a_session_is_adopted_and_ends(hub, sessions):
    person = sessions["visitor"].person
    session = Session(person, "kept")
    pid = session.process().pid
    hub.restart_hub()
    until(lambda: person.server("kept").get("ready"), "the session ready after the restart")
    assert session.attempt("/proc/self/status")["read"]
    assert session.process().pid == pid
    person.stop("kept")
    assert not psutil.pid_exists(pid)


def test_the_output_of_a_program_is_open_to_it(hub, sessions):
    assert sessions["visitor"].attempt("/dev/stderr", "a line") == {"written": "a line"}
