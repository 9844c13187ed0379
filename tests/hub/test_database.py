"""The hub's SQLite file where sessions are local: what is committed outlasts the program that wrote it."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from canfar_auth.allocator import _engine
from canfar_hub import database

WRITER = """
import sys, time
from jupyterhub import orm
from canfar_hub import database
url = sys.argv[1]
db = orm.new_session_factory(url, **database.settings(url))()
db.add(orm.User(name="astronomer"))
db.commit()
print("committed", flush=True)
time.sleep(3600)
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'hub.sqlite'}"


def test_a_commit_outlasts_the_program_and_waits_for_no_disk(url: str, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout
            assert writer.stdout.readline() == "committed\n"
            assert (tmp_path / "hub.sqlite-wal").exists()
        finally:
            os.kill(writer.pid, signal.SIGKILL)
    with sqlite3.connect(tmp_path / "hub.sqlite") as reader:
        assert reader.execute("select name from users").fetchall() == [("astronomer",)]
    with create_engine(url, **database.settings(url)).connect() as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 1


def test_numeric_ids_wait_for_the_disk_in_the_same_file(url: str) -> None:
    with create_engine(url, **database.settings(url)).connect() as hub:
        hub.execute(text("PRAGMA journal_mode"))
        with _engine(url).connect() as allocator:
            assert allocator.execute(text("PRAGMA synchronous")).scalar() == 2


def test_another_database_is_left_as_it_is() -> None:
    assert database.settings("postgresql+psycopg://hub@db.example.org/hub") == {}
