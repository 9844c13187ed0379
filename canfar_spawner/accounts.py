"""Homes and numbers of sessions that a hub run by root starts under their users' own ids."""

import contextlib
import grp
import os
import pwd
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from canfar_auth.identity import PosixIds
from canfar_auth.posix import is_usable
from canfar_spawner.spec import Refused

# A user's primary group is their own (or the site's provider decides otherwise), so that what is theirs alone
# stays so, and in a project's directory, whose group files inherit, its other members may write them.
_UMASK = 0o007


def as_account(ids: PosixIds) -> dict[str, Any]:
    """Arguments of ``subprocess.Popen`` that start a program under these ids, without the caller's own."""
    groups = [group.gid for group in ids.groups]
    return {"user": ids.uid, "group": ids.gid, "extra_groups": groups, "umask": _UMASK}


def check_free(ids: PosixIds, username: str) -> None:
    """Raises ``Refused`` (409) for a number that this machine uses for another account or group of its own.

    A session under such a number would have that account's files. One for the system is refused wherever it
    came from, root's above all.
    """
    named = (*((group.gid, group.name) for group in ids.groups), (ids.gid, username))
    uses = [(ids.uid, username, pwd.getpwuid), *((gid, name, grp.getgrgid) for gid, name in named)]
    for number, name, look_up in uses:
        owner = _name(look_up, number) if is_usable(number) else "the system"
        if owner not in ("", name):
            raise Refused(
                "ids",
                409,
                f"The numeric id {number} is that of “{owner}” on the machine that runs the sessions; ask the"
                " administrator to have other ones given out (`posix` in the site file).",
            )


def make_home(home: Path, ids: PosixIds) -> None:
    """Makes a home that its owner alone may enter; one that is there has to be theirs. No link is followed.

    Raises ``Refused`` (409) for a home of another account, and where others than root could exchange it; and
    ``OSError``.
    """
    home.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _directory(home.parent) as above:
        status = os.fstat(above)
        if status.st_uid != 0 or status.st_mode & 0o022:
            sentence = f"Homes cannot be made in {home.parent}, which others than root can change."
            raise Refused("storage", 409, f"{sentence} Tell the administrator.")
        with contextlib.suppress(FileExistsError):
            os.mkdir(home.name, 0o700, dir_fd=above)
        with _directory(home.name, above) as own:
            owner = os.fstat(own).st_uid
            if owner == 0 and not os.listdir(own):  # noqa: PTH208 - new, or left by a hub that ended
                os.fchown(own, ids.uid, ids.gid)
                os.fchmod(own, 0o700)
            elif owner != ids.uid:
                raise Refused(
                    "storage",
                    409,
                    f"Your home {home} belongs to another account, {owner}; ask the administrator to give all"
                    f" of it to {ids.uid}:{ids.gid}.",
                )


def let_pass(directory: Path, ids: PosixIds) -> None:
    """Lets one account pass through a directory of root's to what is theirs in it, and see nothing else."""
    directory.parent.chmod(0o711)
    os.chown(directory, 0, ids.gid)
    directory.chmod(0o710)


def _name(look_up: Callable[[int], Sequence[Any]], number: int) -> str:
    """The name that this machine has for a number; empty if none."""
    try:
        return str(look_up(number)[0])
    except KeyError:
        return ""


@contextlib.contextmanager
def _directory(path: Path | str, above: int | None = None) -> Iterator[int]:
    """An open directory; one within ``above`` is no link."""
    flags = os.O_RDONLY | os.O_DIRECTORY | (0 if above is None else os.O_NOFOLLOW)
    descriptor = os.open(path, flags, dir_fd=above)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
