"""The link to the certificate in a home: made, renewed, and never at the cost of what a user put there."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from canfar_auth.identity import PosixIds
from canfar_auth.x509 import make_proxy
from canfar_spawner import credential_folders
from canfar_spawner.credential_folders import link_in_home
from canfar_spawner.credentials import CERTIFICATE
from canfar_spawner.home import Notice, link_certificate
from tests.support.cred_server import NOW, person

OWN = "CN=astronomer,O=Example"
WEEK = timedelta(days=7)
PROJECT = Path(__file__).resolve().parents[2]
GOOD = person("astronomer").pem()
ENDED = person("astronomer", begin=NOW - 2 * WEEK).pem()
THEIRS = person("visitor", begin=NOW - 2 * WEEK).pem()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home" / "astronomer"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "credentials" / "astronomer"
    folder.mkdir(parents=True)
    (folder / CERTIFICATE).write_text(GOOD)
    return folder / CERTIFICATE


def put(home: Path, text: str, name: str = CERTIFICATE) -> Path:
    path = home / ".ssl" / name
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text(text)
    return path


def link(home: Path, target: Path, identity: str = OWN, now: datetime = NOW) -> Notice:
    return link_certificate(home, target, identity, now)


# Where nothing is


def test_a_link_is_made_to_where_the_certificate_is(home: Path, target: Path) -> None:
    assert link(home, target) == Notice("linked")
    assert (home / ".ssl").stat().st_mode & 0o777 == 0o700
    assert (home / ".ssl" / CERTIFICATE).readlink() == target
    assert (home / ".ssl" / CERTIFICATE).read_text() == GOOD
    assert link(home, target) == Notice("same")


def test_a_link_is_made_before_there_is_a_certificate(home: Path, target: Path) -> None:
    target.unlink()
    assert link(home, target, "") == Notice("linked")
    assert link(home, target, "") == Notice("same")


def test_a_folder_that_is_there_stays_as_it_is(home: Path, target: Path) -> None:
    (home / ".ssl").mkdir(mode=0o755)
    (home / ".ssl" / "other.pem").write_text("x")
    assert link(home, target) == Notice("linked")
    assert (home / ".ssl").stat().st_mode & 0o777 == 0o755
    assert (home / ".ssl" / "other.pem").read_text() == "x"


# Links


def test_a_link_of_ours_to_another_place_is_renewed(home: Path, target: Path) -> None:
    (home / ".ssl").mkdir()
    (home / ".ssl" / CERTIFICATE).symlink_to("/srv/old/credentials/astronomer/cadcproxy.pem")
    (home / ".ssl" / ".cadcproxy.pem.new").symlink_to("/left/behind")
    assert link(home, target) == Notice("linked")
    assert (home / ".ssl" / CERTIFICATE).readlink() == target
    assert [path.name for path in (home / ".ssl").iterdir()] == [CERTIFICATE]


@pytest.mark.parametrize(
    "where",
    [
        "/arc/projects/survey-x/cadcproxy.pem",
        "../keys/mine.pem",
        "astronomer/cadcproxy.pem",
        "/srv/old/credentials/visitor/cadcproxy.pem",
        "cadcproxy.pem",
        "/dev/zero",
    ],
)
def test_a_link_of_the_users_stays(home: Path, target: Path, where: str) -> None:
    (home / ".ssl").mkdir()
    (home / ".ssl" / CERTIFICATE).symlink_to(where)
    told = link(home, target)
    assert told.change == "kept"
    assert str(target) in told.text
    assert (home / ".ssl" / CERTIFICATE).readlink() == Path(where)


# Files


def test_a_good_certificate_of_the_users_stays(home: Path, target: Path) -> None:
    path = put(home, GOOD)
    assert link(home, target) == Notice("kept")
    assert path.read_text() == GOOD
    assert not path.is_symlink()


def test_one_that_ended_is_moved_aside_and_the_user_told(home: Path, target: Path) -> None:
    path = put(home, ENDED)
    told = link(home, target)
    assert told.change == "moved"
    assert "ended on 2026-05-25" in told.text
    assert "~/.ssl/cadcproxy.pem.old" in told.text
    assert (home / ".ssl" / "cadcproxy.pem.old").read_text() == ENDED
    assert path.readlink() == target


def test_so_is_a_proxy_of_it(home: Path, target: Path) -> None:
    proxy = make_proxy(person("astronomer"), now=NOW - WEEK, lifetime=timedelta(days=1))
    put(home, proxy.pem(key_first=True))
    assert link(home, target).change == "moved"


def test_of_those_that_ended_one_is_kept(home: Path, target: Path) -> None:
    put(home, "older " + ENDED, "cadcproxy.pem.old")
    put(home, ENDED)
    assert link(home, target).change == "moved"
    assert (home / ".ssl" / "cadcproxy.pem.old").read_text() == ENDED
    assert len(list((home / ".ssl").iterdir())) == 2


@pytest.mark.parametrize("old", [GOOD, THEIRS, "notes", ""])
def test_nothing_else_is_overwritten(home: Path, target: Path, old: str) -> None:
    put(home, old, "cadcproxy.pem.old")
    path = put(home, ENDED)
    told = link(home, target)
    assert told.change == "kept"
    assert "cadcproxy.pem.old is in use" in told.text
    assert path.read_text() == ENDED
    assert (home / ".ssl" / "cadcproxy.pem.old").read_text() == old


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_nor_what_is_no_file(home: Path, target: Path, kind: str) -> None:
    path = put(home, ENDED)
    old = home / ".ssl" / "cadcproxy.pem.old"
    old.mkdir() if kind == "directory" else old.symlink_to("/etc/passwd")
    assert link(home, target).change == "kept"
    assert path.read_text() == ENDED


def test_somebody_elses_that_ended_stays(home: Path, target: Path) -> None:
    path = put(home, THEIRS)
    told = link(home, target)
    assert told.change == "kept"
    assert "not of the account" in told.text
    assert path.read_text() == THEIRS


def test_without_a_certificate_of_a_session_nothing_is_moved(home: Path, target: Path) -> None:
    path = put(home, ENDED)
    assert link(home, target, "") == Notice("kept")
    assert path.read_text() == ENDED


@pytest.mark.parametrize(
    "text",
    [
        "",
        "notes",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ENDED[:200],
        ENDED + "\n" * 70_000,
    ],
)
def test_what_nobody_understands_stays(home: Path, target: Path, text: str) -> None:
    path = put(home, text)
    assert link(home, target) == Notice("kept")
    assert path.read_text() == text


def test_a_huge_file_is_not_read(home: Path, target: Path) -> None:
    path = put(home, ENDED)
    os.truncate(path, 2**40)
    assert link(home, target) == Notice("kept")
    assert path.stat().st_size == 2**40


# What is neither


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    where = os.open(path.parent, os.O_RDONLY)
    socket.socket(socket.AF_UNIX).bind(f"/proc/self/fd/{where}/{path.name}")
    os.close(where)


def _directory(path: Path) -> None:
    path.mkdir()


STRANGE = [_fifo, _socket, _directory]


@pytest.mark.parametrize("make", STRANGE)
def test_what_is_no_file_stays(home: Path, target: Path, make: Callable[[Path], None]) -> None:
    (home / ".ssl").mkdir()
    make(home / ".ssl" / CERTIFICATE)
    kind = stat.S_IFMT((home / ".ssl" / CERTIFICATE).lstat().st_mode)
    assert link(home, target).change == "kept"
    assert stat.S_IFMT((home / ".ssl" / CERTIFICATE).lstat().st_mode) == kind


@pytest.mark.parametrize("make", [*STRANGE[:2], Path.touch, lambda path: path.symlink_to(path.name)])
def test_what_is_no_folder_stays(home: Path, target: Path, make: Callable[[Path], None]) -> None:
    make(home / ".ssl")
    told = link(home, target)
    assert told.change == "kept"
    assert "~/.ssl is no folder" in told.text


def test_a_folder_elsewhere_is_not_entered(home: Path, target: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (home / ".ssl").symlink_to(elsewhere)
    assert link(home, target).change == "kept"
    assert list(elsewhere.iterdir()) == []


def test_a_home_that_is_not_there_fails_with_a_sentence(home: Path, target: Path) -> None:
    assert link(home / "x", target).change == "failed"
    assert "No such file" in link(home / "x", target).text


# As another account


async def test_it_runs_in_a_process_of_its_own(home: Path, target: Path) -> None:
    ended = person("astronomer", begin=datetime.now(UTC) - 2 * WEEK, days=7).pem()
    put(home, ended)
    told = await link_in_home(home, target.parent, None)
    assert told.change == "moved"
    assert (home / ".ssl" / CERTIFICATE).readlink() == target
    assert await link_in_home(home, target.parent, None) == Notice("same")


async def test_one_that_does_not_run_is_told(
    home: Path, target: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for program in ("/nonexistent", "/bin/false", "/bin/echo"):
        monkeypatch.setattr(sys, "executable", program)
        assert (await link_in_home(home, target.parent, None)).change == "failed"
    assert caplog.text.count("was not made") == 3


async def test_one_that_does_not_end_is_given_up(
    home: Path, target: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "hangs"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(credential_folders, "_LINK_TIME", 0.2)
    assert (await link_in_home(home, target.parent, None)).change == "failed"


async def test_one_that_says_too_much_is_given_up(
    home: Path, target: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "talks"
    program.write_text("#!/bin/sh\nexec yes\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    assert (await link_in_home(home, target.parent, None)).change == "failed"


@pytest.fixture
def open_place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="canfar-home-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start programs as other accounts")
async def test_under_root_only_what_the_user_may_change_is_changed(
    open_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an interpreter that other accounts can run; it needs one file only, since nothing else is loaded."""
    program = open_place / "python"
    shutil.copy(PROJECT / "canfar_spawner" / "home.py", open_place / "home.py")
    program.write_text(f'#!/bin/sh\nshift 3\nexec /usr/bin/python3 -I {open_place}/home.py "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    ids = PosixIds(899_998, 899_998)
    for name, uid in (("astronomer", ids.uid), ("visitor", 899_999)):
        (open_place / name).mkdir(mode=0o700)
        os.chown(open_place / name, uid, uid)
    folder = open_place / "credentials" / "astronomer"
    assert await link_in_home(open_place / "astronomer", folder, ids) == Notice("linked")
    made = (open_place / "astronomer" / ".ssl" / CERTIFICATE).lstat()
    assert (made.st_uid, made.st_gid) == (ids.uid, ids.gid)
    assert (await link_in_home(open_place / "visitor", folder, ids)).change == "failed"
    assert list((open_place / "visitor").iterdir()) == []


def test_it_starts_fast() -> None:
    """What takes long to load is loaded only where a certificate has to be read."""
    code = "import sys, canfar_spawner.home; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert not {"cryptography", "jupyterhub", "aiohttp", "pydantic", "tornado"} & set(loaded.stdout.split())
