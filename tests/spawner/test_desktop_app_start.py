"""The start script of applications, in the shell that there is: what it runs, and the cookie that it writes."""

import os
import subprocess
from pathlib import Path

from canfar_spawner.desktops import apps_token, x_cookie
from canfar_spawner.kinds import STARTS


def _start(tmp_path: Path, *command: str, **more: str) -> str:
    cookie = x_cookie("a desktop's secret")
    (tmp_path / "secret").write_text(cookie)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "DISPLAY": ":7",
        "CANFAR_ADDRESS": "10.1.2.3",
        "CANFAR_SECRET": cookie,
        "CANFAR_SECRET_FILE": str(tmp_path / "secret"),
        **more,
    }
    script = ["/bin/sh", str(STARTS / "desktop-app.sh"), *command]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_program_runs_at_home_with_the_cookie_in_a_file_of_its_own(tmp_path):
    said = _start(
        tmp_path, "sh", "-c", 'pwd; echo "$XAUTHORITY"; echo "$JAVA_TOOL_OPTIONS"; env', "name with space"
    )
    home, authority, java, *environment = said.splitlines()
    assert home == str(tmp_path)
    assert "-Djsamp.localhost=10.1.2.3" in java
    held = Path(authority).read_bytes()
    assert held == b"\xff\xff\0\0\0\0\0\x12MIT-MAGIC-COOKIE-1\0\x10" + bytes.fromhex(
        x_cookie("a desktop's secret")
    )
    assert Path(authority).stat().st_mode & 0o077 == 0
    assert x_cookie("a desktop's secret") not in "\n".join(environment)


def test_arguments_are_no_shells(tmp_path):
    assert _start(tmp_path, "printf", "<%s>", "$HOME; `id`", "*") == "<$HOME; `id`><*>"


def _starting_hub(tmp_path: Path, each_second: str) -> dict[str, str]:
    """A desktop's SAMP hub without its lock file yet, and what happens in each second that is waited for it."""
    (tmp_path / "samp").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sleep").write_text(f"#!/bin/sh\necho waited >>'{tmp_path}/seconds'\n{each_second}\n")
    (tmp_path / "bin/sleep").chmod(0o755)
    return {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "SAMP_HUB": f"std-lockurl:file://{tmp_path}/samp/hub",
    }


def test_it_waits_for_its_desktops_samp_hub_and_begins_none_of_its_own(tmp_path):
    written = f"[ $(wc -l <'{tmp_path}/seconds') -lt 3 ] || echo there >'{tmp_path}/samp/hub'"
    assert _start(tmp_path, "cat", "samp/hub", **_starting_hub(tmp_path, written)) == "there\n"
    assert (tmp_path / "seconds").read_text().count("waited") == 3


def test_it_starts_without_a_hub_that_does_not_come(tmp_path):
    assert _start(tmp_path, "echo", "started", **_starting_hub(tmp_path, ":")) == "started\n"


def test_it_waits_for_no_hub_where_its_desktop_has_none(tmp_path):
    given = _starting_hub(tmp_path, ":") | {"SAMP_HUB": f"std-lockurl:file://{tmp_path}/none/hub"}
    assert _start(tmp_path, "echo", "started", **given) == "started\n"
    assert not (tmp_path / "seconds").exists()


def test_what_is_derived_from_a_secret_tells_nothing_of_the_rest():
    assert len(x_cookie("s")) == 32
    assert len(apps_token("s")) == 64
    assert len({x_cookie("s"), x_cookie("t"), apps_token("s")[:32], apps_token("t")[:32]}) == 4
