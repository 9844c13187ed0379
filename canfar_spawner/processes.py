"""Processes that are known by a mark in their environment, and the files that they use."""

import logging
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

log = logging.getLogger("canfar.processes")

_LOOK_AGAIN = 0.02  # seconds

START_ID = "CANFAR_START_ID"
"""Variable that marks one session's processes. It outlives the hub, and no reused process id has it."""
RUNTIME_DIR = "CANFAR_RUNTIME_DIR"
"""Variable that marks the processes of all sessions of one hub."""


def last_lines(path: Path, lines: int = 20, limit: int = 8192) -> str:
    """The last lines of a log, at most `limit` bytes of it, without control characters."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - limit))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    kept = text.rstrip().splitlines()[-lines:]
    return "\n".join("".join(c for c in line if c.isprintable() or c == "\t") for line in kept).rstrip()


def shorten(path: Path, limit: int) -> None:
    """Cuts a log that is longer than `limit` bytes to its last half of that, while it is written at its end."""
    try:
        with open(path, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size <= limit:
                return
            file.seek(size - limit // 2)
            kept = file.read(limit // 2)
            file.truncate(0)
    except OSError:
        return
    with open(path, "ab") as file:
        file.write(kept)


def kill_marked(variable: str, value: str, timeout: float) -> None:
    """Kills every process with `variable` set to `value` in its environment, and waits for their end.

    Each is killed as soon as it is seen, since some leave their place to a child all the time. Returns after
    two looks in a row that find none, or after `timeout` seconds.
    """
    entry = f"{variable}={value}".encode()
    deadline = time.monotonic() + timeout
    quiet = 0
    with _first_in_line():
        while value and quiet < 2:
            newest, began = _newest(), time.monotonic()
            quiet = 0 if _kill_seen(entry, psutil.pids()) else quiet + 1
            if not quiet:
                _kill_newer(entry, newest, time.monotonic() - began, deadline)
            if time.monotonic() > deadline:
                log.warning("Processes of %s=%s are still there.", variable, value)
                return
            time.sleep(_LOOK_AGAIN if quiet else 0)


@contextmanager
def _first_in_line() -> Iterator[None]:
    """Has this thread run before others, sched(7), if its account may: who multiplies keeps a machine busy."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def _kill_newer(entry: bytes, newest: int, patience: float, deadline: float) -> None:
    """Kills those that come after the process `newest`, until `patience` seconds have brought none.

    A look at all processes takes long enough for one to leave its place to a child; one at the newest does not.
    """
    last = time.monotonic()
    while time.monotonic() < min(last + patience, deadline):
        newest, before = _newest(), newest
        if _kill_seen(entry, range(before + 1, newest + 1)):
            last = time.monotonic()


def _newest() -> int:
    """The id that was given to a process last, proc(5), /proc/loadavg."""
    return int(Path("/proc/loadavg").read_text().split()[-1])


def _kill_seen(entry: bytes, pids: Iterable[int]) -> int:
    """Kills those of the processes `pids` that have `entry` in their environment; their number."""
    found = 0
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)  # of this process, whichever gets its number later
        except OSError:
            continue
        try:
            if entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found += 1
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        except OSError:  # gone, or another account's
            continue
        finally:
            os.close(handle)
    return found


def terminate_marked(pid: int, variable: str, value: str, timeout: float) -> None:
    """Ends the process `pid`, frozen or not, with SIGTERM if it has the mark; waits up to `timeout` seconds."""
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    if _variable(process, variable) != value:
        return
    _signal(process, "terminate")
    _signal(process, "resume")  # a frozen program can end, too
    psutil.wait_procs([process], timeout=timeout)


def _signal(process: psutil.Process, name: str) -> None:
    try:
        getattr(process, name)()
    except psutil.Error as error:
        log.debug("Process %s cannot be sent %s: %s", process.pid, name, error)


def is_marked(pid: int, variable: str, value: str) -> bool:
    """Whether the process `pid` is there and has `variable` set to `value`; a reused process id has not."""
    try:
        return _variable(psutil.Process(pid), variable) == value
    except psutil.NoSuchProcess:
        return False


def _variable(process: psutil.Process, name: str) -> str | None:
    try:
        return process.environ().get(name)
    except (psutil.Error, OSError):  # gone, a zombie, or another account's
        return None


def write_private(path: Path, text: str, owner: tuple[int, int] | None = None) -> None:
    """Replaces a file whole, never readable by others, so that a crash leaves the old one or the new.

    With `owner`, user and group id, it is theirs, and the caller has to be root.
    """
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        if owner:
            os.fchown(file.fileno(), *owner)
    fresh.replace(path)
