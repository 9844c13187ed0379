"""Credentials on the hub's own machine: a folder for each user, and the link in their home that leads there."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import stat
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, unquote

from canfar_auth.identity import PosixIds
from canfar_spawner.accounts import as_account
from canfar_spawner.credentials import CERTIFICATE, EXPIRES, FILES
from canfar_spawner.home import Notice
from canfar_spawner.processes import write_private

log = logging.getLogger("canfar.credentials")

_STATE_LIMIT = 65_536  # bytes
_OUTPUT_LIMIT = 8192  # bytes
_LINK_TIME = 10  # seconds; a home may be on a file server that does not answer


class FolderStore:
    """One folder for each user on the hub's machine, for all of their sessions.

    Under a hub that root runs, the folder is root's and its user may only enter it and read: so no user can put
    a link, a pipe or a folder where root writes. The files in it are their user's, closed to others, as
    programs want them that check this.

    Raises ``OSError`` when ``root``, the folder above, cannot be made, or when others could change it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_own(self._root)
        self._root.chmod(0o711 if os.geteuid() == 0 else 0o700)

    def folder(self, owner: str) -> Path:
        """A user's folder: the same for all of their sessions, now and later."""
        return self._root / folder_name(owner)

    async def write(
        self,
        owner: str,
        sessions: Collection[str],
        files: Mapping[str, str | None],
        ids: PosixIds | None,
    ) -> None:
        """Replaces files in the owner's folder; None removes one."""
        await asyncio.to_thread(self._write, self.folder(owner), files, ids)

    async def remove(self, owner: str, session: str, left: Collection[str]) -> None:
        """Removes the folder with the owner's last session."""
        if not left:
            await asyncio.to_thread(_remove, self.folder(owner))

    async def sweep(self, running: Mapping[str, Collection[str]]) -> None:
        """Removes the folders of all but these owners."""
        await asyncio.to_thread(self._sweep, {owner for owner, sessions in running.items() if sessions})

    async def read(self, owner: str) -> str:
        """The text of ``EXPIRES``; empty if there is none."""
        return await asyncio.to_thread(_read, self.folder(owner) / EXPIRES)

    def _write(self, folder: Path, files: Mapping[str, str | None], ids: PosixIds | None) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        _check_own(folder)
        if ids:
            os.chown(folder, 0, ids.gid)
            folder.chmod(0o750)
        for name, text in files.items():
            if text is None:
                (folder / name).unlink(missing_ok=True)
            else:
                write_private(folder / name, text, (ids.uid, ids.gid) if ids else None)

    def _sweep(self, owners: Collection[str]) -> None:
        kept = {folder_name(owner) for owner in owners}
        for folder in self._root.iterdir():
            if folder.name not in kept:
                log.info("Credentials of %s are removed: no session of theirs runs.", unquote(folder.name))
                _remove(folder)


def folder_name(owner: str) -> str:
    """A name that no two users share, of letters, digits and ``-._~@%``, and that does not begin with a dot."""
    name = quote(owner, safe="@")
    return f"%2E{name[1:]}" if name.startswith(".") else name or "%"


def _check_own(folder: Path) -> None:
    """Raises ``PermissionError`` for what is no directory of the hub's account, or can be changed by others."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        reason = "it is not a directory that the hub's account alone can change"
        raise PermissionError(errno.EPERM, reason, str(folder))


def _remove(folder: Path) -> None:
    """Removes our files, and the folder unless there is something else in it."""
    if folder.is_symlink():
        return
    for name in (*FILES, *(f"{name}.new" for name in FILES)):
        with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            (folder / name).unlink()
    try:
        folder.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("%s stays: %s.", folder, error.strerror)


def _read(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(_STATE_LIMIT).decode("utf-8", "replace")
    finally:
        os.close(descriptor)


async def link_in_home(home: Path, folder: Path, ids: PosixIds | None) -> Notice:
    """Makes ``~/.ssl/cadcproxy.pem`` lead to the certificate in ``folder``; see ``canfar_spawner.home``.

    Runs as the session's account in a process of its own: what is in a home is its user's doing. Never raises.
    """
    command = [sys.executable, "-I", "-m", "canfar_spawner.home", str(home), str(folder / CERTIFICATE)]
    account: dict[str, Any] = as_account(ids) if ids else {}
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd="/",
            env={},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            **account,
        )
    except OSError as error:
        log.error("The link to the certificate in %s was not made: %s.", home, error.strerror)
        return Notice("failed", "The link ~/.ssl/cadcproxy.pem to your certificate could not be made.")
    try:
        async with asyncio.timeout(_LINK_TIME):
            said = await _said(process)
        return Notice(**json.loads(said))
    except TimeoutError:
        why = f"no answer within {_LINK_TIME} s"
    except (ValueError, TypeError):
        why = said.decode("utf-8", "replace") or "it said nothing"
    finally:
        await _ended(process)
    log.error("The link to the certificate in %s was not made: %s", home, why)
    return Notice("failed", "The link ~/.ssl/cadcproxy.pem to your certificate could not be made.")


async def _said(process: asyncio.subprocess.Process) -> bytes:
    """The output of a process, as far as it can be meant: its account may have made it say anything."""
    output = cast(asyncio.StreamReader, process.stdout)
    try:
        return await output.readexactly(_OUTPUT_LIMIT)
    except asyncio.IncompleteReadError as error:
        return error.partial


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Ends a process that has not; one that a file server holds cannot be ended, and is not waited for."""
    with suppress(ProcessLookupError, TimeoutError):
        if process.returncode is None:
            process.kill()
        await asyncio.wait_for(process.wait(), 1)
