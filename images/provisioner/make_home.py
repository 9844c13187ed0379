#!/usr/bin/python3 -I
"""Makes a user's home on a cluster's shared volume, or looks whether it is there.

    make_home.py make|check --root /export --homes home --user NAME --uid N --gid N

It runs as root with the capabilities CHOWN, FOWNER and DAC_OVERRIDE alone, and keeps to these rules:

* Below the volume's root no link is followed, whoever made it.
* A home that is there is looked at and never changed: what is in it is its user's doing.
* A new home is made whole under another name, where it is root's alone, and then renamed. A run that is
  interrupted leaves no home, and the next run removes what it left.
* Of two runs at once one makes the home, and the other finds it.

An answer is one line of JSON on standard output, which is also written to the file of ``--answer``:

* ``{"home": "made"}`` or ``{"home": "there"}``, with exit status 0.
* ``{"refused": CODE, "sentence": TEXT}``, with 3. CODE is `missing`, `owner`, `link`, `name` or `ids`.

Any other fault is a sentence on standard error, with exit status 1; the file then has ``{"sentence": TEXT}``.
"""

# Debian's python3-minimal has to do, which has neither json, dataclasses, pathlib, shutil nor ctypes.
from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import os
import signal
import stat
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple, NoReturn

SMALLEST, LARGEST = 1000, 2**31 - 1
# 65534 is `nobody`, 65535 is "no id" in 16 bits; above LARGEST some programs read a negative number.
RESERVED = frozenset({65534, 65535})

CERTIFICATE_FOLDER, CERTIFICATE_NAME = ".ssl", "cadcproxy.pem"
# Beside the homes, whose names have no leading dot.
LOCK, BEGUN = ".making", ".making-"

_LONGEST_NAME = 255  # bytes
_PIECE = 1 << 20  # bytes
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Refused(Exception):
    """A home that must not be made or used: a code for programs, and a sentence for its user."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class Fault(Exception):
    """Anything else that keeps a home from being made: a sentence for its user."""


class Home(NamedTuple):
    """The home that is asked for. ``homes`` are the names of the folders from the volume's root to it."""

    homes: tuple[str, ...]
    user: str
    uid: int
    gid: int

    @property
    def path(self) -> str:
        """Where it is on the volume."""
        return "/".join((*self.homes, self.user))


class Content(NamedTuple):
    """What a new home is made with: its mode, a folder to copy, and where the certificate's link leads.

    ``skeleton`` and ``certificate`` are empty for none.
    """

    mode: int
    skeleton: str
    certificate: str


# Decisions


def check_name(name: str) -> str:
    """Gives a folder's name back; raises ``Refused`` for one that is no plain name, or hidden."""
    plain = name.isprintable() and "/" not in name and not name.startswith(".")
    if not (name and plain and len(os.fsencode(name)) <= _LONGEST_NAME):
        raise Refused(
            "name", f"No home can be at the name {_shown(name)}; ask the administrator for another one."
        )
    return name


def check_ids(uid: int, gid: int) -> None:
    """Raises ``Refused`` for ids that are not for people's accounts, root's above all."""
    for what, number in (("user id", uid), ("primary group's id", gid)):
        if not SMALLEST <= number <= LARGEST or number in RESERVED:
            raise Refused(
                "ids",
                f"Your {what} is {number}, which is not for people’s accounts; ask whoever gives out the ids of"
                " your institute for another one.",
            )


def check_home(home: Home, status: os.stat_result) -> None:
    """Raises ``Refused`` unless what is in the home's place is a folder of the user's."""
    if not stat.S_ISDIR(status.st_mode):
        raise Refused("link", _no_folder(f"Your home {home.path}", status.st_mode))
    if status.st_uid != home.uid:
        raise Refused(
            "owner",
            f"Your home {home.path} belongs to another account, {status.st_uid}; ask the administrator to give"
            f" all of it to {home.uid}:{home.gid}.",
        )


def _no_folder(what: str, mode: int) -> str:
    is_link = stat.S_ISLNK(mode)
    found = "a link, which is not followed" if is_link else "not a folder"
    return f"{what} is {found}; ask the administrator to put a folder in its place."


def _shown(name: str) -> str:
    """A name for people's eyes, without what would change the line that it is in."""
    short = name if len(name) <= 60 else f"{name[:60]}…"
    return f"“{''.join(c if c.isprintable() else '�' for c in short)}”"


# Looking


def check(root: str, home: Home) -> str:
    """Looks whether the home is there, and changes nothing.

    Raises ``Refused``, with `missing` if there is none, and ``OSError``.
    """
    with _homes(root, home, make=False) as homes:
        if homes is None or not _is_there(homes, home):
            raise Refused(
                "missing", f"Your home {home.path} is not there; ask the administrator to have it made."
            )
    return "there"


def _is_there(homes: int, home: Home) -> bool:
    try:
        status = os.lstat(home.user, dir_fd=homes)
    except FileNotFoundError:
        return False
    check_home(home, status)
    return True


@contextlib.contextmanager
def _homes(root: str, home: Home, *, make: bool) -> Iterator[int | None]:
    """The open folder of the homes, which is made if missing and ``make``, and else None.

    The volume's root is the site's, may be a link, and is often open to all as its provisioner made it; no
    session sees it. Below, root alone must be able to change anything.
    """
    # Who only looks is a user, for whom folders need not be readable, but passable alone.
    flags = _FOLDER if make else _FOLDER | os.O_PATH
    with contextlib.ExitStack() as opened:
        above = opened.enter_context(_opened(root, flags))
        path = ""
        for name in home.homes:
            path = f"{path}/{name}".lstrip("/")
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=above)
            try:
                above = opened.enter_context(_opened(name, flags | os.O_NOFOLLOW, above))
            except FileNotFoundError:
                yield None
                return
            except NotADirectoryError:
                mode = os.lstat(name, dir_fd=above).st_mode
                raise Refused("link", _no_folder(f"The folder of homes {path}", mode)) from None
            status = os.fstat(above)
            if status.st_uid != 0 or status.st_mode & 0o022:
                sentence = f"Homes cannot be made in {path}, which others than root can change."
                raise Refused("owner", f"{sentence} Tell the administrator.")
        yield above


# Making


def make(root: str, home: Home, content: Content) -> str:
    """Makes the home, unless it is there.

    Raises ``Refused`` for something else in its place, ``Fault`` and ``OSError``.
    """
    with _homes(root, home, make=True) as homes:
        if homes is None:
            raise Fault("The folder of homes was removed while your home was made; try again.")
        if _is_there(homes, home):
            return "there"
        with _alone(homes) as alone:
            if alone:
                _remove_begun(homes)
            if not _is_there(homes, home) and _build(homes, home, content):
                return "made"
        if _is_there(homes, home):
            return "there"
        raise Fault("Your home was removed while it was made; try again.")


@contextlib.contextmanager
def _alone(homes: int) -> Iterator[bool]:
    """Waits until no other run makes a home here; gives False, without waiting, where the volume has no locks.

    Without them two runs still give one home, since no folder can be renamed to one that has something in it.
    """
    with _opened(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, homes) as lock:
        yield _lock(lock)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def _remove_begun(homes: int) -> None:
    """Removes what interrupted runs left; only while no other run is at work."""
    for name in os.listdir(homes):
        if name.startswith(BEGUN):
            _remove(homes, name)


def _build(homes: int, home: Home, content: Content) -> bool:
    """Makes the home under another name and renames it; False if another one was there first."""
    name = f"{BEGUN}{os.urandom(8).hex()}"
    os.mkdir(name, 0o700, dir_fd=homes)
    try:
        with _folder(name, homes) as fresh:
            if content.skeleton:
                with _opened(content.skeleton, _FOLDER) as skeleton:
                    _copy_all(skeleton, fresh, home)
            if content.certificate:
                _link_certificate(fresh, home, content.certificate)
            _give(fresh, home, content.mode)
        return _rename(homes, name, home.user)
    finally:
        # What cannot be removed now is by the next run.
        with contextlib.suppress(OSError):
            _remove(homes, name)


def _rename(homes: int, name: str, user: str) -> bool:
    try:
        os.rename(name, user, src_dir_fd=homes, dst_dir_fd=homes)
    except OSError as error:
        # A folder with something in it (the standard leaves the choice of the two), or no folder.
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            return False
        raise
    os.fsync(homes)
    return True


def _copy_all(source: int, target: int, home: Home) -> None:
    """Copies what is in a folder of the skeleton, as the user's. Links stay links.

    A mounted ConfigMap is copied as what it shows: its entries are links into `..data`, which is left out.
    """
    for name in sorted(os.listdir(source)):
        if name.startswith(".."):
            continue
        status, follow = os.lstat(name, dir_fd=source), os.O_NOFOLLOW
        if stat.S_ISLNK(status.st_mode):
            leads_to = os.readlink(name, dir_fd=source)
            if not leads_to.startswith("..data/"):
                _link(target, name, leads_to, home)
                continue
            status, follow = os.stat(name, dir_fd=source), 0
        if stat.S_ISDIR(status.st_mode):
            os.mkdir(name, 0o700, dir_fd=target)
            with _opened(name, _FOLDER | follow, source) as old, _folder(name, target) as new:
                _copy_all(old, new, home)
                _give(new, home, 0o700 | status.st_mode & 0o777)
        elif stat.S_ISREG(status.st_mode):
            with _opened(name, os.O_RDONLY | os.O_CLOEXEC | follow, source) as old:
                _copy_file(old, target, name, home, 0o600 | status.st_mode & 0o777)
        else:
            raise Fault(f"The skeleton of homes has {_shown(name)}, which is no file, folder or link.")


def _copy_file(source: int, target: int, name: str, home: Home, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with _opened(name, flags, target) as new:
        with open(new, "wb", closefd=False) as file:
            while piece := os.read(source, _PIECE):
                file.write(piece)
        _give(new, home, mode)


def _link_certificate(fresh: int, home: Home, target: str) -> None:
    """Makes ``~/.ssl/cadcproxy.pem`` lead to ``target``, unless the skeleton has something in its place."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(CERTIFICATE_FOLDER, 0o700, dir_fd=fresh)
    if not stat.S_ISDIR(os.lstat(CERTIFICATE_FOLDER, dir_fd=fresh).st_mode):
        return
    with _folder(CERTIFICATE_FOLDER, fresh) as folder:
        with contextlib.suppress(FileExistsError):
            _link(folder, CERTIFICATE_NAME, target, home)
        _give(folder, home, 0o700)


def _link(folder: int, name: str, target: str, home: Home) -> None:
    os.symlink(target, name, dir_fd=folder)
    os.chown(name, home.uid, home.gid, dir_fd=folder, follow_symlinks=False)


def _give(descriptor: int, home: Home, mode: int) -> None:
    """Makes a finished file or folder the user's, and has it on the disk before it can be seen."""
    os.fchmod(descriptor, mode)
    os.fchown(descriptor, home.uid, home.gid)
    os.fsync(descriptor)


def _remove(above: int, name: str) -> None:
    """Removes a file, or a folder with all that is in it; one that is not there is no matter."""
    try:
        mode = os.lstat(name, dir_fd=above).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        os.unlink(name, dir_fd=above)
        return
    with _folder(name, above) as folder:
        for entry in os.listdir(folder):  # noqa: PTH208 - there is no pathlib
            _remove(folder, entry)
    os.rmdir(name, dir_fd=above)


@contextlib.contextmanager
def _opened(path: str, flags: int, above: int | None = None) -> Iterator[int]:
    """An open file or folder; one that is made is root's alone."""
    descriptor = os.open(path, flags, 0o600, dir_fd=above)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _folder(name: str, above: int) -> contextlib.AbstractContextManager[int]:
    """An open folder within ``above``, which is no link."""
    return _opened(name, _FOLDER | os.O_NOFOLLOW, above)


# The command


def main(arguments: Sequence[str]) -> int:
    """Does what the arguments say and answers; gives the exit status."""
    options = _parse(arguments)
    os.umask(0o022)
    # As a container's first process it would ignore SIGTERM, which has no handler by default.
    signal.signal(signal.SIGTERM, _stop)
    try:
        answer = {"home": _do(options)}
    except Refused as refused:
        _write(options.answer, {"refused": refused.code, "sentence": str(refused)})
        return 3
    except (Fault, OSError) as fault:
        sentence = str(fault) if isinstance(fault, Fault) else _sentence(fault)
        print(sentence, file=sys.stderr)
        _write(options.answer, {"sentence": sentence}, aloud=False)
        return 1
    _write(options.answer, answer)
    return 0


def _do(options: argparse.Namespace) -> str:
    homes = tuple(map(check_name, options.homes.split("/")))
    home = Home(homes, check_name(options.user), options.uid, options.gid)
    check_ids(home.uid, home.gid)
    if options.action == "check":
        return check(options.root, home)
    return make(options.root, home, Content(options.mode, options.skeleton, options.certificate))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Makes a user's home on a shared volume, or looks whether it is there.", allow_abbrev=False
    )
    parser.add_argument("action", choices=("make", "check"), help="what to do")
    parser.add_argument("--root", required=True, help="folder where the volume is mounted")
    parser.add_argument("--homes", required=True, help="folder of the homes, below the root")
    parser.add_argument("--user", required=True, help="name of the user and of the home")
    parser.add_argument("--uid", required=True, type=int, help="user id that the home is to have")
    parser.add_argument("--gid", required=True, type=int, help="group id that a new home is to have")
    parser.add_argument("--mode", default=0o700, type=_mode, help="mode of a new home, in octal (0700)")
    parser.add_argument("--skeleton", default="", help="folder with what is copied into a new home")
    parser.add_argument("--certificate", default="", help="where ~/.ssl/cadcproxy.pem of a new home leads")
    parser.add_argument("--answer", default="", help="file that the answer is written to as well")
    return parser.parse_args(arguments)


def _mode(text: str) -> int:
    mode = int(text, 8)
    # Special bits would need one more capability.
    if mode & ~0o777 or mode & 0o700 != 0o700 or mode & 0o002:
        raise argparse.ArgumentTypeError(f"{text} is no mode of a home: 0700 to 0775 are")
    return mode


def _stop(*_: object) -> NoReturn:
    raise Fault("The making of your home was stopped; try again.")


def _sentence(error: OSError) -> str:
    if error.errno in _FULL:
        return "There is no space for your home, since the volume or a quota is full; tell the administrator."
    about = f" ({_shown(error.filename)})" if isinstance(error.filename, str) else ""
    return f"Your home could not be made or looked at: {error.strerror}{about}. Tell the administrator."


def _write(path: str, answer: dict[str, str], *, aloud: bool = True) -> None:
    """Answers, on standard output unless not ``aloud``, and in a file if it can be written."""
    line = "{" + ", ".join(f"{_quoted(key)}: {_quoted(value)}" for key, value in answer.items()) + "}"
    if aloud:
        print(line, flush=True)
    if path:
        with contextlib.suppress(OSError), open(path, "w", encoding="utf-8") as file:
            file.write(f"{line}\n")


def _quoted(text: str) -> str:
    """A string of JSON (RFC 8259 section 7)."""
    safe = (f"\\u{ord(c):04x}" if c < " " or c in '"\\' else c for c in text)
    return f'"{"".join(safe)}"'


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
