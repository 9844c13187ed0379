"""What the platform adds to the start of each kind, beside the same program alone, in turns in one run.

A session: from the request to the hub until the program answers through the gateway. Alone: the same command in
the same environment, at another port, until it answers there. Kinds that have no program here are left out.
"""

import os
import re
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil

from canfar_spawner.kinds import KINDS
from tests.support.ports import free_port
from tests.support.stack import PATIENCE, Person, running

RUNS = 7
LIMIT = 0.5  # seconds above the program alone, at the median
PROFILES = {
    "notebook": "astronomy-notebook",
    "carta": "carta",
    "desktop": "desktop",
    "vscode": "vscode",
    "contributed": "marimo",
}
READY = {"contributed": "health"}
"""Where the catalogue has another path than the kind."""


def measure() -> dict[str, Any]:
    """Seconds from the request to the first answer, as a session and alone, for each kind."""
    found: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder) / "data", "--kinds", " ".join(PROFILES)) as stack,
    ):
        person = stack.sign_in("astronomer")
        for kind, profile in PROFILES.items():
            if _session(person, kind, profile) is None:  # the first start makes caches that later ones find
                continue
            pairs = []
            for _ in range(RUNS):
                taken, process = _session(person, kind, profile, keep=True) or (0.0, None)
                command, environment, prefix = _described(person, process)
                person.stop("bench")
                pairs.append((taken, _alone(command, environment, f"{prefix}/{_ready(kind)}")))
            above = [session - alone for session, alone in pairs]
            found[kind] = {
                "session": [round(session, 2) for session, _ in pairs],
                "alone": [round(alone, 2) for _, alone in pairs],
                "median above": round(statistics.median(above), 2),
            }
    return {
        "what": "seconds until a program answers, through the platform and alone",
        **found,
        "limit": LIMIT,
        "within the limit": all(one["median above"] <= LIMIT for one in found.values()),
    }


def _ready(kind: str) -> str:
    return READY.get(kind, KINDS[kind].ready_path)


def _session(person: Person, kind: str, profile: str, *, keep: bool = False) -> Any:
    """Seconds, and the session's process; None where it is not on offer."""
    before = time.monotonic()
    answer = person.start("bench", {"profile": profile, "kind": kind})
    if answer.status_code == 400:
        return None
    ready = person.ready("bench")
    address = f"{ready['full_url']}{_ready(kind)}"
    headers = {"Authorization": f"token {person.token}"}
    with person.stack.client() as client:
        while client.get(address, headers=headers).status_code >= 500:
            time.sleep(0.01)
    taken = time.monotonic() - before
    process = _process(person)
    if not keep:
        person.stop("bench")
    return taken, process


def _process(person: Person) -> psutil.Process:
    """The oldest process of the running session."""
    mark = str(person.stack.data / "sessions")
    found = [p for p in psutil.process_iter() if _environment(p).get("CANFAR_RUNTIME_DIR") == mark]
    return min(found, key=lambda process: process.create_time())


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def _described(person: Person, process: psutil.Process) -> tuple[list[str], dict[str, str], str]:
    """How to run the session's program again: at another port, with a copy of its secret."""
    environment = process.environ()
    secret = Path(environment["CANFAR_SECRET_FILE"])
    copy = person.stack.data / "secret"
    copy.write_text(secret.read_text())
    old, new = environment["CANFAR_PORT"], str(free_port())
    changed = {name: value.replace(str(secret), str(copy)) for name, value in environment.items()}
    marks = ("CANFAR_RUNTIME_DIR", "CANFAR_START_ID")
    changed = {name: value for name, value in changed.items() if name not in marks}
    changed |= {"CANFAR_PORT": new, "CANFAR_DISPLAY": f":{int(new) - 2000}"}
    command = [word.replace(str(secret), str(copy)) for word in process.cmdline()]
    return (
        [re.sub(rf"\b{old}\b", new, word) for word in command],
        changed,
        (environment.get("CANFAR_PREFIX", "")),
    )


def _alone(command: list[str], environment: Mapping[str, str], path: str) -> float:
    address = f"http://127.0.0.1:{environment['CANFAR_PORT']}{path}"
    before = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=environment["HOME"],
        env=dict(environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with httpx.Client() as client:
            while not _answers(client, address):
                assert process.poll() is None, f"{command[0]} ended by itself"
                assert time.monotonic() < before + PATIENCE, f"{command[0]} does not answer at {address}"
                time.sleep(0.01)
        return time.monotonic() - before
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # some take long to end by themselves
        process.wait()


def _answers(client: httpx.Client, address: str) -> bool:
    try:
        return client.get(address).status_code < 500
    except httpx.TransportError:
        return False
