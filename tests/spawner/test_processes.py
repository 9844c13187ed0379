"""The end of all processes of a session, also of those that leave their place to a child all the time."""

from __future__ import annotations

import os
import select
import subprocess
import sys

import pytest

from canfar_spawner.processes import START_ID, kill_marked

_CHAINS = """
import os, sys, time
number, pause, end = int(sys.argv[1]), float(sys.argv[2]), time.monotonic() + 60
for _ in range(number):
    if os.fork() == 0:
        os.setsid()
        while time.monotonic() < end:  # whatever becomes of the test
            time.sleep(pause)
            if os.fork():
                os._exit(0)
        os._exit(0)
"""


@pytest.mark.parametrize(
    ("number", "pause"),
    [
        pytest.param(200, 0.2, id="many"),
        pytest.param(
            4,
            0.0,
            id="without a pause",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="root alone runs before others"),
        ),
    ],
)
def test_chains_of_forks_end_and_nothing_else_does(number: int, pause: float) -> None:
    mark = f"test-{os.getpid()}-{number}"
    reader, writer = os.pipe()  # which every process of the chains holds open
    other = subprocess.Popen(["sleep", "600"], env={**os.environ, START_ID: f"{mark}-other"})
    try:
        command = [sys.executable, "-c", _CHAINS, str(number), str(pause)]
        subprocess.run(command, env={**os.environ, START_ID: mark}, pass_fds=[writer], check=True)
        os.close(writer)
        kill_marked(START_ID, mark, 30)
        # Those that are killed close it a moment later; chains that go on hold it open for longer than this.
        assert select.select([reader], [], [], 20)[0], "Some hold the pipe open still."
        assert os.read(reader, 1) == b""
        assert other.poll() is None
    finally:
        os.close(reader)
        other.kill()
        other.wait()
