"""Homes on a shared volume, made by root with three capabilities: whole or not at all, and through no link."""

import errno
import fcntl
import importlib.util
import itertools
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.stack import ROOT, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make homes for other accounts")

SCRIPT = ROOT / "images/provisioner/make_home.py"
UID, GID, OTHER = 899_998, 899_997, 899_999
CERTIFICATE = "/run/canfar/credentials/cadcproxy.pem"
# What the script has in a cluster: every test of this module that runs it shows that it needs no more.
CAPABLE = (
    *("setpriv", "--bounding-set=-all,+chown,+fowner,+dac_override", "--inh-caps=-all", "--no-new-privs"),
    *(sys.executable, "-IB"),
)
# Runs the script up to the Nth step that changes or opens something, and kills it before that.
KILLED = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("make_home", sys.argv[2])
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
left = int(sys.argv[1])
STEPS = {"open", "os.mkdir", "os.symlink", "os.chmod", "os.chown", "os.rename", "os.remove", "os.rmdir"}
def count(event, _):
    global left
    if event in STEPS:
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
os._exit(script.main(sys.argv[3:]))
"""


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    made = tmp_path / "volume"
    made.mkdir()
    made.chmod(0o777)  # as provisioners leave it
    return made


@pytest.fixture
def home(volume: Path) -> Path:
    return volume / "home" / "astronomer"


@pytest.fixture
def skeleton(tmp_path: Path) -> Path:
    made = tmp_path / "skeleton"
    (made / "bin").mkdir(parents=True)
    (made / "bin" / "hello").write_text("#!/bin/sh\necho hello\n")
    (made / "bin" / "hello").chmod(0o755)
    (made / ".private").mkdir(mode=0o500)
    (made / ".private" / "token").touch(mode=0o400)
    (made / ".bashrc").write_text("alias ll='ls -l'\n")
    (made / "projects").symlink_to("/arc/projects")
    return made


@pytest.fixture
def script() -> ModuleType:
    """The script as a module, for what a process of its own cannot show."""
    spec = importlib.util.spec_from_file_location("make_home", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(action: str, volume: Path, *more: str | Path, **changed: object) -> list[str]:
    options = {"root": volume, "homes": "home", "user": "astronomer", "uid": UID, "gid": GID, **changed}
    return [action, *(f"--{name}={value}" for name, value in options.items()), *map(str, more)]


def run(action: str, volume: Path, *more: str | Path, **changed: object) -> "subprocess.CompletedProcess[str]":
    command = (*CAPABLE, SCRIPT, *arguments(action, volume, *more, **changed))
    return subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=300)


def answer(action: str, volume: Path, *more: str | Path, **changed: object) -> str:
    """What became of the home."""
    done = run(action, volume, *more, **changed)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)["home"]


def refusal(action: str, volume: Path, *more: str | Path, **changed: object) -> tuple[str, str]:
    """The code and the sentence."""
    done = run(action, volume, *more, **changed)
    assert (done.returncode, done.stderr) == (3, "")
    said = json.loads(done.stdout)
    assert set(said) == {"refused", "sentence"}
    return said["refused"], said["sentence"]


def fault(action: str, volume: Path, *more: str | Path, **changed: object) -> str:
    """The sentence."""
    done = run(action, volume, *more, **changed)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    return done.stderr.rstrip()


def look(path: Path) -> tuple[int, int, int]:
    """Mode, owner and group, of a link its own."""
    status = path.lstat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def everything(folder: Path) -> dict[str, tuple[tuple[int, int, int], str]]:
    """All that is below a folder, with what is in it or where it leads."""

    def content(path: Path) -> str:
        if path.is_symlink():
            return str(path.readlink())
        return path.read_text() if path.is_file() else ""

    return {str(path.relative_to(folder)): (look(path), content(path)) for path in folder.rglob("*")}


def test_it_has_three_capabilities():
    said = subprocess.run(
        (*CAPABLE, "-c", "print(open('/proc/self/status').read())"), capture_output=True, text=True, check=True
    ).stdout
    chown, dac_override, fowner = 0, 1, 3
    expected = 1 << chown | 1 << dac_override | 1 << fowner
    assert f"CapPrm:\t{expected:016x}\nCapEff:\t{expected:016x}\nCapBnd:\t{expected:016x}\n" in said


# Homes


def test_a_home_is_made_once(volume, home):
    assert refusal("check", volume) == (
        "missing",
        "Your home home/astronomer is not there; ask the administrator to have it made.",
    )
    assert not (volume / "home").exists()
    assert answer("make", volume) == "made"
    assert look(home) == (0o700, UID, GID)
    assert look(volume / "home") == (0o755, 0, 0)
    assert answer("make", volume) == "there"
    assert answer("check", volume) == "there"
    assert list(home.iterdir()) == []


def test_a_missing_home_among_others_is_missing(volume):
    answer("make", volume)
    assert refusal("check", volume, user="visitor")[0] == "missing"


def test_a_home_is_made_with_what_the_skeleton_has(volume, home, skeleton):
    options = ("--skeleton", skeleton, "--certificate", CERTIFICATE, "--mode", "0750")
    assert answer("make", volume, *options) == "made"
    assert look(home) == (0o750, UID, GID)
    assert everything(home) == {
        ".bashrc": ((0o644, UID, GID), "alias ll='ls -l'\n"),
        ".private": ((0o700, UID, GID), ""),
        ".private/token": ((0o600, UID, GID), ""),
        ".ssl": ((0o700, UID, GID), ""),
        ".ssl/cadcproxy.pem": ((0o777, UID, GID), CERTIFICATE),
        "bin": ((0o755, UID, GID), ""),
        "bin/hello": ((0o755, UID, GID), "#!/bin/sh\necho hello\n"),
        "projects": ((0o777, UID, GID), "/arc/projects"),
    }


def test_a_home_that_is_there_is_not_touched(volume, home, skeleton):
    home.mkdir(parents=True)
    (home / "mine").write_text("mine")
    home.chmod(0o755)
    os.chown(home, UID, OTHER)
    before = look(home), home.stat().st_ctime_ns
    assert answer("make", volume, "--skeleton", skeleton, "--certificate", CERTIFICATE) == "there"
    assert answer("check", volume) == "there"
    assert [path.name for path in home.iterdir()] == ["mine"]
    assert (look(home), home.stat().st_ctime_ns) == before
    assert [path.name for path in home.parent.iterdir()] == ["astronomer"]


def test_homes_may_be_deeper_and_the_volume_behind_a_link(volume, tmp_path):
    (tmp_path / "export").symlink_to(volume)
    assert answer("make", tmp_path / "export", homes="arc/home") == "made"
    assert look(volume / "arc/home/astronomer") == (0o700, UID, GID)


def test_a_mounted_config_map_is_copied_as_what_it_shows(volume, home, tmp_path):
    mounted = tmp_path / "mounted"
    (mounted / "..2026_11_24" / "sub").mkdir(parents=True)
    (mounted / "..2026_11_24" / ".bashrc").write_text("umask 007\n")
    (mounted / "..2026_11_24" / ".bashrc").chmod(0o444)
    (mounted / "..2026_11_24" / "sub" / "notes").write_text("notes")
    (mounted / "..data").symlink_to("..2026_11_24")
    (mounted / ".bashrc").symlink_to("..data/.bashrc")
    (mounted / "sub").symlink_to("..data/sub")
    assert answer("make", volume, "--skeleton", mounted) == "made"
    assert everything(home) == {
        ".bashrc": ((0o644, UID, GID), "umask 007\n"),
        "sub": ((0o755, UID, GID), ""),
        "sub/notes": ((0o644, UID, GID), "notes"),
    }


@pytest.mark.parametrize("put", ["link", "file", "folder", "certificate"])
def test_what_the_skeleton_has_in_the_certificates_place_stays(volume, home, skeleton, put):
    ssl = skeleton / ".ssl"
    if put == "link":
        ssl.symlink_to("/elsewhere")
    elif put == "file":
        ssl.write_text("a file")
    else:
        ssl.mkdir(mode=0o755)
        (ssl / "other.pem").write_text("other")
    if put == "certificate":
        (ssl / "cadcproxy.pem").write_text("own")
    answer("make", volume, "--skeleton", skeleton, "--certificate", CERTIFICATE)
    found = {name: what for name, what in everything(home).items() if name.startswith(".ssl")}
    assert (
        found
        == {
            "link": {".ssl": ((0o777, UID, GID), "/elsewhere")},
            "file": {".ssl": ((0o644, UID, GID), "a file")},
            "folder": {
                ".ssl": ((0o700, UID, GID), ""),
                ".ssl/other.pem": ((0o644, UID, GID), "other"),
                ".ssl/cadcproxy.pem": ((0o777, UID, GID), CERTIFICATE),
            },
            "certificate": {
                ".ssl": ((0o700, UID, GID), ""),
                ".ssl/other.pem": ((0o644, UID, GID), "other"),
                ".ssl/cadcproxy.pem": ((0o644, UID, GID), "own"),
            },
        }[put]
    )


# Refusals


@pytest.mark.parametrize("action", ["make", "check"])
@pytest.mark.parametrize("target", ["../home/visitor", "nowhere", "/etc"])
def test_a_home_that_is_a_link_is_not_followed(volume, home, action, target):
    assert answer("make", volume, user="visitor", uid=OTHER) == "made"
    home.symlink_to(target)
    assert refusal(action, volume, "--certificate", CERTIFICATE) == (
        "link",
        "Your home home/astronomer is a link, which is not followed; ask the administrator to put a folder in"
        " its place.",
    )
    assert str(home.readlink()) == target
    assert look(home.with_name("visitor")) == (0o700, OTHER, GID)
    assert list(home.with_name("visitor").iterdir()) == []


@pytest.mark.parametrize("action", ["make", "check"])
def test_a_users_own_home_behind_a_link_is_refused_too(volume, home, action):
    (volume / "home" / "elsewhere").mkdir(parents=True)
    os.chown(volume / "home" / "elsewhere", UID, GID)
    home.symlink_to("elsewhere")
    assert refusal(action, volume)[0] == "link"


@pytest.mark.parametrize("action", ["make", "check"])
def test_a_file_in_a_homes_place_is_refused(volume, home, action):
    home.parent.mkdir()
    home.touch()
    os.chown(home, UID, GID)
    code, sentence = refusal(action, volume)
    assert (code, "is not a folder" in sentence) == ("link", True)


@pytest.mark.parametrize("action", ["make", "check"])
@pytest.mark.parametrize(("name", "shown"), [("arc", "arc"), ("arc/home", "arc/home")])
def test_a_link_on_the_way_is_not_followed(volume, tmp_path, action, name, shown):
    real = tmp_path / "real"
    (real / "home").mkdir(parents=True)
    (volume / name).parent.mkdir(exist_ok=True)
    (volume / name).symlink_to(real if name == "arc" else real / "home")
    code, sentence = refusal(action, volume, homes="arc/home")
    assert code == "link"
    assert sentence.startswith(f"The folder of homes {shown} is a link, which is not followed;")
    assert list((real / "home").iterdir()) == []


@pytest.mark.parametrize("action", ["make", "check"])
@pytest.mark.parametrize("owner", [0, OTHER])
def test_a_home_of_another_account_is_refused(volume, home, action, owner):
    home.mkdir(parents=True)
    os.chown(home, owner, GID)
    assert refusal(action, volume) == (
        "owner",
        f"Your home home/astronomer belongs to another account, {owner}; ask the administrator to give all of"
        f" it to {UID}:{GID}.",
    )
    assert look(home) == (0o755, owner, GID)


@pytest.mark.parametrize("action", ["make", "check"])
@pytest.mark.parametrize(("owner", "mode"), [(OTHER, 0o755), (0, 0o777), (0, 0o1777), (0, 0o775)])
def test_homes_that_others_could_exchange_are_refused(volume, action, owner, mode):
    homes = volume / "home"
    homes.mkdir()
    os.chown(homes, owner, 0)
    homes.chmod(mode)
    assert refusal(action, volume) == (
        "owner",
        "Homes cannot be made in home, which others than root can change. Tell the administrator.",
    )
    assert list(homes.iterdir()) == []


@pytest.mark.parametrize("action", ["make", "check"])
@pytest.mark.parametrize(
    "name", ["", ".", "..", ".ssh", "../other", "a/b", "/etc", "a\nb", "a\x7f", "a\u202eb", "n" * 256, b"\xff"]
)
def test_names_that_lead_elsewhere_are_refused(volume, action, name):
    name = os.fsdecode(name)
    code, sentence = refusal(action, volume, user=name)
    assert code == "name"
    assert sentence.startswith("No home can be at the name “")
    assert sentence.isprintable()
    if name != "a/b":
        assert refusal(action, volume, homes=name)[0] == "name"
    assert list(volume.iterdir()) == []


def test_no_name_has_a_nul(script):
    with pytest.raises(script.Refused, match="“a�b”"):
        script.check_name("a\0b")


@pytest.mark.parametrize("name", ["first.last", "a@b.org", "a..b", "with space", 'a"b\\c', "Zoë", "n" * 255])
def test_plain_names_are_homes(volume, name):
    assert answer("make", volume, user=name) == "made"
    assert look(volume / "home" / name) == (0o700, UID, GID)
    code, sentence = refusal("check", volume, user=name, uid=OTHER)
    assert (code, name in sentence) == ("owner", True)


@pytest.mark.parametrize("action", ["make", "check"])
@pytest.mark.parametrize("number", [-1, 0, 1, 999, 65534, 65535, 2**31, 2**32, 2**64])
@pytest.mark.parametrize(("option", "what"), [("uid", "user id"), ("gid", "primary group's id")])
def test_ids_of_the_system_are_refused(volume, action, number, option, what):
    code, sentence = refusal(action, volume, **{option: number})
    assert code == "ids"
    assert sentence.startswith(f"Your {what} is {number}, which is not for people’s accounts;")
    assert list(volume.iterdir()) == []


@pytest.mark.parametrize("number", [1000, 65533, 65536, 2**31 - 1])
def test_other_ids_are_peoples(volume, home, number):
    assert answer("make", volume, uid=number, gid=number) == "made"
    assert look(home) == (0o700, number, number)


@pytest.mark.parametrize("mode", ["0600", "0777", "4700", "2770", "rwx", "-700"])
def test_modes_that_no_home_has_are_no_arguments(volume, mode):
    done = run("make", volume, mode=mode)
    assert (done.returncode, done.stdout) == (2, "")
    assert list(volume.iterdir()) == []


# Answers


def test_every_answer_is_in_the_file(volume, tmp_path):
    file = tmp_path / "termination-log"
    options = ("--answer", file)
    for action, more in (("make", {}), ("make", {}), ("check", {"user": "visitor"})):
        assert run(action, volume, *options, **more).stdout == file.read_text()
    sentence = fault("check", tmp_path / "nowhere", *options)
    assert sentence.startswith("Your home could not be made or looked at: No such file or directory")
    assert json.loads(file.read_text()) == {"sentence": sentence}


def test_an_answer_that_cannot_be_written_is_still_given(volume, tmp_path):
    assert answer("make", volume, "--answer", tmp_path / "nowhere" / "file") == "made"
    assert refusal("make", volume, "--answer", tmp_path, uid=OTHER)[0] == "owner"


# Interruptions


def test_a_run_that_is_killed_at_any_step_leaves_no_home_and_is_repeated(volume, home, skeleton):
    options = arguments("make", volume, "--skeleton", skeleton, "--certificate", CERTIFICATE)
    answer("make", volume, *options[-4:])
    whole = everything(home)
    for step in itertools.count(1):
        shutil.rmtree(home.parent)
        killed = subprocess.run((*CAPABLE, "-c", KILLED, str(step), SCRIPT, *options), capture_output=True)
        if killed.returncode == 0:
            break
        assert killed.returncode == -signal.SIGKILL, (step, killed)
        assert not home.exists()
        begun = list(home.parent.glob(".making-*")) if home.parent.exists() else []
        assert all(look(path)[0] == 0o700 for path in begun)
        assert answer("make", volume, *options[-4:]) == "made"
        assert (look(home), everything(home)) == ((0o700, UID, GID), whole)
        assert {path.name for path in home.parent.iterdir()} == {".making", "astronomer"}
    assert step > 40
    assert everything(home) == whole


def test_of_many_runs_at_once_one_makes_the_home(volume, home, skeleton):
    options = arguments("make", volume, "--skeleton", skeleton, "--certificate", CERTIFICATE)
    running = [
        subprocess.Popen(
            (*CAPABLE, SCRIPT, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    said = sorted(process.communicate(timeout=300) for process in running)
    assert said == [('{"home": "made"}\n', "")] + 7 * [('{"home": "there"}\n', "")]
    assert {path.name for path in home.parent.iterdir()} == {".making", "astronomer"}


@contextmanager
def waiting(volume: Path) -> Iterator["tuple[subprocess.Popen[str], int]"]:
    """A run that waits for another one, and the lock that it waits for."""
    (volume / "home").mkdir()
    with open(volume / "home" / ".making", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = (*CAPABLE, SCRIPT, *arguments("make", volume))
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

        def waits() -> bool:
            lines = Path("/proc/locks").read_text().splitlines()
            return any(line.split()[1] == "->" and str(process.pid) in line.split() for line in lines)

        until(waits, "waiting for the lock")
        yield process, lock.fileno()


def test_a_run_waits_for_another_one_and_finds_its_home(volume, home):
    with waiting(volume) as (process, lock):
        home.mkdir()
        os.chown(home, UID, GID)
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert process.communicate(timeout=300) == ('{"home": "there"}\n', "")


def test_a_run_that_is_stopped_says_so(volume):
    with waiting(volume) as (process, _):
        process.terminate()
        assert process.communicate(timeout=300) == ("", "The making of your home was stopped; try again.\n")
        assert process.returncode == 1


def test_without_locks_the_first_home_stays(volume, home, skeleton, script, monkeypatch, capsys):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    def rename(source: str, target: str, **folders: int) -> None:
        monkeypatch.setattr(os, "rename", renamed)
        assert script.main(arguments("make", volume, "--certificate", CERTIFICATE)) == 0
        renamed(source, target, **folders)

    renamed = os.rename
    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(os, "rename", rename)
    assert script.main(arguments("make", volume, "--skeleton", skeleton)) == 0
    assert capsys.readouterr().out == '{"home": "made"}\n{"home": "there"}\n'
    assert [path.name for path in home.iterdir()] == [".ssl"]
    assert {path.name for path in home.parent.iterdir()} == {".making", "astronomer"}


def test_without_locks_what_others_have_begun_stays(volume, home, script, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    (volume / "home" / ".making-another").mkdir(parents=True)
    assert script.main(arguments("make", volume)) == 0
    assert {path.name for path in home.parent.iterdir()} == {".making", ".making-another", "astronomer"}


# Faults


def test_a_full_volume_is_said_and_nothing_is_left(tmp_path, skeleton):
    (skeleton / "large").write_bytes(bytes(1 << 20))
    full = tmp_path / "full"
    full.mkdir()
    # In a mount namespace of its own, which goes with it.
    command = """
        mount --make-rprivate / 2>/dev/null # not in a chroot, whose root is no mount
        mount -t tmpfs -o size=256k,mode=755 tmpfs "$1" || exit 77
        shift
        "$@"
        echo "$? $(ls -A "${FULL}/home")"
    """
    make = (*CAPABLE, SCRIPT, *arguments("make", full, "--skeleton", skeleton))
    mounting = ("unshare", "--mount", "--propagation", "unchanged", "sh", "-c", command, "sh", full, *make)
    done = subprocess.run(mounting, capture_output=True, text=True, env={**os.environ, "FULL": str(full)})
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr}")
    sentence = "There is no space for your home, since the volume or a quota is full; tell the administrator.\n"
    assert (done.stdout, done.stderr) == ("1 .making\n", sentence)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_fault_while_it_is_written_leaves_nothing(volume, home, script, monkeypatch, capsys, number):
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    assert script.main(arguments("make", volume, "--certificate", CERTIFICATE)) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert ("no space" in said.err) == (number != errno.EIO)
    assert said.err.endswith("ell the administrator.\n")
    assert [path.name for path in home.parent.iterdir()] == [".making"]


def test_a_skeleton_of_something_else_is_a_fault(volume, home, skeleton):
    os.mkfifo(skeleton / "zero")
    assert fault("make", volume, "--skeleton", skeleton) == (
        "The skeleton of homes has “zero”, which is no file, folder or link."
    )
    assert [path.name for path in home.parent.iterdir()] == [".making"]
    assert fault("make", volume, "--skeleton", skeleton / "nowhere").startswith(
        "Your home could not be made or looked at: No such file or directory"
    )
