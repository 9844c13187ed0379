"""`make run` as people meet it: what it says when something is in the way, what it keeps, what it leaves."""

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
from pathlib import Path

import pytest
import yaml

from canfar_hub import demo
from canfar_hub.problem import Problem
from tests.support.stack import ROOT, Stack, demo_command, demo_port, running, until


def refused(*command: str, **environment: str) -> str:
    """Runs a command that must end by itself with one clear line. Returns the line."""
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("offset", range(6))
def test_a_port_that_is_taken(tmp_path, offset):
    port = demo_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + offset))
        taken.listen()
        line = refused(*demo_command(port, tmp_path / "data"))
    assert f"Port {port + offset}" in line
    assert "PORT=" in line


@pytest.mark.parametrize("port", ["http", "0", "65531", "-1"])
def test_a_port_that_is_none(tmp_path, port):
    assert "PORT=" in refused(*demo_command(0, tmp_path)[:4], f"--port={port}")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    line = refused(*demo_command(demo_port(), tmp_path / "file" / "data"))
    assert "cannot be written" in line
    assert "DATA=" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    assert "cannot be written" in refused(*demo_command(demo_port(), tmp_path / "data"))


def test_a_folder_that_another_hub_uses(stack):
    line = refused(*demo_command(demo_port(), stack.data))
    assert "Another hub uses the folder" in line


def test_a_kind_that_there_is_not(tmp_path):
    line = refused(*demo_command(demo_port(), tmp_path / "data", "--kinds", "notebook spreadsheet"))
    assert "“spreadsheet”" in line
    assert "notebook" in line


def test_a_mistake_in_the_site_file_is_named_there(tmp_path):
    (tmp_path / "site.yaml").write_text("contact: [me\n")
    with pytest.raises(Problem, match=r"site\.yaml, line 2: this is not YAML"):
        demo._write_site(demo.Place(tmp_path, 8000), tmp_path / "site.yaml", [], tmp_path)


def test_everything_ends_with_ctrl_c_and_is_there_at_the_next_start(tmp_path):
    data = tmp_path / "data"
    with running(data) as stack:
        person = stack.sign_in("first.last@example.org")
        model = person.begin("work", {"profile": "marimo", "name": "My work"})
        page = person.browser.get(model["full_url"])
        assert page.status_code == 200
        host = page.url.host
        assert host.endswith(".localhost")
        assert "/session/contributed/" in page.url.path
        (data / "arc/home/first.last@example.org/kept.txt").write_text("kept")
        ports = range(stack.port, stack.port + 6)
        numbers = _numbers(data)
    assert not [port for port in ports if _listens(port)]
    assert not _processes(data)
    with running(data) as stack:
        again = stack.sign_in("first.last@example.org")
        assert again.server("work")["user_options"]["name"] == "My work"
        assert again.server("work")["stopped"]
        assert (data / "arc/home/first.last@example.org/kept.txt").read_text() == "kept"
        assert ports.start != stack.port
        assert _numbers(data) == numbers != []


def _numbers(data: Path) -> list[tuple[str, int]]:
    """Who has which number."""
    query = "select name, number from canfar_posix_ids order by name"
    return list(sqlite3.connect(data / "hub.sqlite").execute(query))


def test_an_administrators_token_is_narrow_and_ends(tmp_path):
    data = tmp_path / "data"
    with running(data, "--admin-token") as stack:
        path = data / "admin.token"
        token = until(lambda: path.exists() and path.read_text().strip(), "the token")
        assert path.stat().st_mode & 0o777 == 0o600
        headers = {"Authorization": f"token {token}"}
        with stack.client(headers=headers) as client:
            assert client.get(f"{stack.url}/hub/api/users").status_code == 200
            me = client.get(f"{stack.url}/hub/api/user").json()
            assert not [
                scope for scope in me["scopes"] if scope.startswith(("access:", "admin:", "tokens", "self"))
            ]
            made = client.post(f"{stack.url}/hub/api/users/admin/tokens", json={})
            assert made.status_code == 403
            page = client.get(f"{stack.url}/hub/metrics")
            assert page.status_code == 200


def test_secrets_stay_out_of_logs_and_arguments(stack: Stack):
    person = stack.sign_in("visitor")
    person.start("quiet", {"profile": "open"})
    person.ready("quiet")
    secrets = json.loads((stack.data / "secrets.json").read_text())
    secrets |= {"session": (_only(stack.data / "sessions") / "secret").read_text(), "token": person.token}
    written = [path.read_text(errors="replace") for path in (stack.data / "logs").iterdir()]
    listed = subprocess.run(["ps", "axww", "-o", "args="], capture_output=True, text=True, check=True).stdout
    person.stop_all()
    for name, secret in secrets.items():
        assert not [text for text in (*written, listed) if secret in text], name


def _only(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _processes(data: Path) -> list[str]:
    """Command lines of all processes that have to do with a data folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if str(data).encode() in path.read_bytes():
                found.append((path.parent / "cmdline").read_text())
    return found


def test_a_path_in_the_site_file_stays_relative_to_it(tmp_path):
    template = yaml.safe_load((ROOT / "demo/site.yaml").read_text())
    template["cluster"] = {"volume": {"claim": "data"}, "registries": "registries.json"}
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(template))
    (tmp_path / "data").mkdir()
    written = demo._write_site(demo.Place(tmp_path / "data", 8000), tmp_path / "site.yaml", [], tmp_path)
    assert written.cluster is not None
    assert written.cluster.registries == tmp_path / "registries.json"
