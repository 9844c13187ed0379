"""A real PostgreSQL server for tests, from Debian's package, in a folder of its own."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.ports import free_port

INSTALL = "apt-get install postgresql"


def programs() -> Path | None:
    """The folder of the newest server's programs, which are not on the path."""
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    return max(found, key=lambda path: int(path.parent.name), default=None)


@contextmanager
def running() -> Iterator[str]:
    """Runs a server until the block ends; gives the address of its database. Skips where there is none."""
    where = programs()
    if where is None:
        pytest.skip(f"PostgreSQL is not installed; “{INSTALL}” installs it.")
    account = _unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # pytest's folders are closed to other accounts
    port = free_port()
    run = {"user": account, "group": pwd.getpwnam(account).pw_gid, "extra_groups": []} if account else {}
    try:
        if account:
            shutil.chown(folder, account)
        data, log = folder / "data", folder / "log"
        initialise = [where / "initdb", "-D", data, "-U", "canfar", "--auth=trust", "-E", "UTF8"]
        initialise += ["--no-locale", "--no-sync"]
        subprocess.run(initialise, check=True, capture_output=True, cwd="/", **run)
        options = f"-h 127.0.0.1 -p {port} -c unix_socket_directories={folder} -c fsync=off"
        control = [where / "pg_ctl", "-D", data, "-l", log, "-w", "-t", "120"]
        subprocess.run([*control, "-o", options, "start"], check=True, capture_output=True, cwd="/", **run)
        try:
            yield f"postgresql+psycopg://canfar@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], capture_output=True, cwd="/", **run)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged() -> str:
    """The account for the server, which refuses to run as root; empty for the one that runs the tests."""
    if os.geteuid() != 0:
        return ""
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return "nobody"
