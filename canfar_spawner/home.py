"""The link ``~/.ssl/cadcproxy.pem``, which clients read, to the certificate that the hub keeps fresh.

Run as ``python -m canfar_spawner.home HOME TARGET`` under the account whose home it is, never as root there:
whatever is in a home is its user's doing. Says as JSON on standard output what it did. It loads little, since
it runs at each start of a session.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePath

FOLDER, NAME, OLD = ".ssl", "cadcproxy.pem", "cadcproxy.pem.old"
_FRESH = ".cadcproxy.pem.new"
_LIMIT = 65_536  # bytes, above which a file is no certificate


@dataclass(frozen=True, slots=True)
class Notice:
    """What became of the link.

    ``change`` is `linked`, when it was made or led to where the certificate was before; `same`; `kept`, when
    something of the user's stays in its place; `moved`, when an old certificate was moved aside for it; or
    `failed`. ``text`` is what the user should know; empty if nothing.
    """

    change: str
    text: str = ""


def link_certificate(home: Path, target: Path, identity: str, now: datetime) -> Notice:
    """Makes the link in ``home`` lead to ``target``, unless the user has something else in its place.

    * A link to a file of ``target``'s name in a folder of its folder's name is ours, and is made to lead to
      ``target``. Other links stay.
    * A file stays, unless it is a certificate of ``identity`` (see ``canfar_auth.certificate``) that has ended:
      that is moved to `cadcproxy.pem.old`, where it takes the place of such another, but of nothing else.
    * Anything else stays.

    Only one level is looked at: a ``.ssl`` that is itself a link stays as it is. Never raises ``OSError``.
    """
    try:
        own = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(FileExistsError):
                os.mkdir(FOLDER, 0o700, dir_fd=own)
            if not stat.S_ISDIR(os.lstat(FOLDER, dir_fd=own).st_mode):
                return Notice("kept", _kept("~/.ssl is no folder", target))
            folder = os.open(FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=own)
        finally:
            os.close(own)
        try:
            return _link(folder, target, identity, now)
        finally:
            os.close(folder)
    except OSError as error:
        return Notice("failed", _kept(f"~/.ssl/{NAME} could not be made ({error.strerror})", target))


def _link(folder: int, target: Path, identity: str, now: datetime) -> Notice:
    try:
        mode = os.lstat(NAME, dir_fd=folder).st_mode
    except FileNotFoundError:
        os.symlink(target, NAME, dir_fd=folder)
        return Notice("linked")
    if stat.S_ISLNK(mode):
        return _relink(folder, target)
    if not stat.S_ISREG(mode):
        return Notice("kept", _kept(f"~/.ssl/{NAME} is no file", target))
    whose, end = _look(folder, NAME)
    if end is None or now < end:
        return Notice("kept")  # a good certificate, or what nobody but the user understands
    ended = f"Your certificate ~/.ssl/{NAME} ended on {end:%Y-%m-%d}"
    if not identity:
        return Notice("kept")  # there is none that could take its place
    if whose != identity:
        return Notice("kept", _kept(f"{ended}, and is not of the account that you have here", target))
    if not _may_replace_old(folder, identity, now):
        return Notice("kept", _kept(f"{ended}, and ~/.ssl/{OLD} is in use", target))
    os.replace(NAME, OLD, src_dir_fd=folder, dst_dir_fd=folder)
    os.symlink(target, NAME, dir_fd=folder)
    return Notice("moved", f"{ended}. It was moved to ~/.ssl/{OLD}, and one that is kept fresh took its place.")


def _relink(folder: int, target: Path) -> Notice:
    old = os.readlink(NAME, dir_fd=folder)
    if old == str(target):
        return Notice("same")
    path = PurePath(old)
    if not path.is_absolute() or path.parts[-2:] != target.parts[-2:]:
        return Notice("kept", _kept(f"~/.ssl/{NAME} is a link of your own", target))
    with suppress(FileNotFoundError):
        os.unlink(_FRESH, dir_fd=folder)
    os.symlink(target, _FRESH, dir_fd=folder)
    os.replace(_FRESH, NAME, src_dir_fd=folder, dst_dir_fd=folder)
    return Notice("linked")


def _may_replace_old(folder: int, identity: str, now: datetime) -> bool:
    try:
        whose, end = _look(folder, OLD)
    except FileNotFoundError:
        return True
    return whose == identity and end is not None and end <= now


def _look(folder: int | None, name: str) -> tuple[str, datetime | None]:
    """Whose certificate a file holds, and its end; nobody's and None for anything but a readable certificate.

    Raises ``FileNotFoundError``.
    """
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError:  # a link, a socket, or closed to its own user
        return "", None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return "", None
        with open(descriptor, "rb", closefd=False) as file:
            text = file.read(_LIMIT + 1)
    finally:
        os.close(descriptor)
    if len(text) > _LIMIT or b"-----BEGIN CERTIFICATE-----" not in text:
        return "", None
    from canfar_auth.certificate import look_at  # takes longer to load than all else here

    return look_at(text.decode("utf-8", "replace")) or ("", None)


def _kept(why: str, target: Path) -> str:
    return f"{why}, so that programs which look there do not find the certificate of your sessions, {target}."


def main(arguments: list[str]) -> int:
    """Makes the link; the certificate at TARGET says whose it is."""
    home, target = map(Path, arguments)
    try:
        identity, _ = _look(None, str(target))
    except FileNotFoundError:
        identity = ""
    print(json.dumps(asdict(link_certificate(home, target, identity, datetime.now(UTC)))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
