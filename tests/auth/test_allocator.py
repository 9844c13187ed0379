"""The site's own numbers: for ever, for one alone, and from several hubs at once, in both databases."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from canfar_auth.allocator import Allocator
from canfar_auth.identity import PosixIds
from canfar_auth.outbound import Outbound, Unavailable
from canfar_auth.posix import PosixRefused
from canfar_auth.posix_sources import make_source
from canfar_site.settings import Posix
from tests.support import postgres
from tests.support.identities import SURVEY, USERS, identity
from tests.support.ports import free_port

UIDS, GIDS = (10000, 899999), (900000, 1999999)
ASTRONOMER, VISITOR = ("https://login.example.org", "1"), ("https://login.example.org", "2")
OTHER_PROVIDER = ("https://iam.example.org", "1")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres.running() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each sort."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'hub.sqlite'}"
    server = make_url(request.getfixturevalue("server"))
    name = f"test{free_port()}"
    with create_engine(server, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    return server.set(database=name).render_as_string(hide_password=False)


def allocator(url: str, uids: tuple[int, int] = UIDS, gids: tuple[int, int] = GIDS) -> Allocator:
    return Allocator(url, uids, gids)


def group(name: str) -> tuple[str, str]:
    return ("", f"ivo://example.org/gms?{name}")


def test_a_number_stays_and_is_nobody_elses(url: str) -> None:
    keys = [ASTRONOMER, VISITOR, OTHER_PROVIDER, group("a"), group("b"), group("A")]
    first = allocator(url).numbers(keys)
    assert len(set(first.values())) == len(keys)
    assert allocator(url).numbers([VISITOR, group("new"), *reversed(keys)]).items() >= first.items()
    assert all(UIDS[0] <= first[who] <= UIDS[1] for who in (ASTRONOMER, VISITOR, OTHER_PROVIDER))
    assert all(GIDS[0] <= first[group(name)] <= GIDS[1] for name in "abA")


def test_a_deleted_users_number_is_not_given_again(url: str) -> None:
    old = allocator(url).numbers([ASTRONOMER, group("a")])
    with create_engine(url).begin() as connection:
        connection.execute(text("DELETE FROM canfar_posix_ids"))
    new = allocator(url).numbers([VISITOR, group("b"), ASTRONOMER, group("a")])
    assert not set(new.values()) & set(old.values())


def test_numbers_of_the_system_are_passed_over(url: str) -> None:
    people = [("https://login.example.org", str(count)) for count in range(4)]
    found = allocator(url, uids=(65533, 70000)).numbers(people)
    assert sorted(found.values()) == [65533, 65536, 65537, 65538]


@pytest.mark.parametrize("kind", ["uids", "gids"])
def test_a_full_range_names_its_setting_and_gives_nothing_half(url: str, kind: str) -> None:
    few = Allocator(url, (10000, 10000), (20000, 20000))
    kept = few.numbers([ASTRONOMER, group("a")])
    with pytest.raises(PosixRefused, match=rf"posix\.{kind}.*administrator"):
        few.numbers([ASTRONOMER, VISITOR] if kind == "uids" else [ASTRONOMER, group("a"), group("b")])
    assert few.numbers([ASTRONOMER, group("a")]) == kept
    more = Allocator(url, (10000, 10001), (20000, 20001)).numbers([VISITOR, group("b")])
    assert more == {VISITOR: 10001, group("b"): 20001}


def test_ranges_that_change_do_not_meet(url: str) -> None:
    gid = allocator(url, gids=(900000, 900010)).numbers([group("a")])[group("a")]
    people = [("https://login.example.org", str(count)) for count in range(3)]
    found = allocator(url, uids=(899999, 900005), gids=(910000, 920000)).numbers(people)
    assert gid not in found.values()


def test_ranges_that_overlap_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="overlap"):
        Allocator(f"sqlite:///{tmp_path / 'x'}", (10000, 20000), (20000, 30000))


def test_a_database_that_does_not_last_is_refused() -> None:
    with pytest.raises(ValueError, match="file"):
        Allocator("sqlite://", UIDS, GIDS)


MANY = 40
# Each process meets the same users and groups in another order, and none finds the tables made.
WRITER = """
import json, random, sys
from canfar_auth.allocator import Allocator
url, seed, many = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
people = [("https://login.example.org", str(n)) for n in range(many)]
random.Random(seed).shuffle(people)
allocator = Allocator(url, (10000, 19999), (20000, 29999))
sys.stdin.readline()
found = {}
for issuer, subject in people:
    groups = [("", f"ivo://example.org/gms?{subject}-{n}") for n in range(3)]
    found |= {name: number for (_, name), number in allocator.numbers([(issuer, subject), *groups]).items()}
json.dump(found, sys.stdout)
"""


def test_several_processes_at_once_agree(url: str) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, url, str(seed), str(MANY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(4)
    ]
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("go\n")
        writer.stdin.flush()
    said = [json.loads(writer.communicate(timeout=120)[0]) for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * len(writers)
    assert all(found == said[0] for found in said)
    assert len(set(said[0].values())) == len(said[0]) == 4 * MANY
    assert sorted(said[0].values()) == [*range(10000, 10000 + MANY), *range(20000, 20000 + 3 * MANY)]


def test_another_writer_of_the_file_is_waited_for(tmp_path: Path) -> None:
    """JupyterHub's own tables may be in the same file."""
    file = tmp_path / "hub.sqlite"
    hub = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    hub.execute("CREATE TABLE users (name TEXT)")
    hub.execute("BEGIN IMMEDIATE")
    found: list[dict[tuple[str, str], int]] = []
    waiting = threading.Thread(
        target=lambda: found.append(allocator(f"sqlite:///{file}").numbers([ASTRONOMER]))
    )
    waiting.start()
    hub.execute("INSERT INTO users VALUES ('x')")
    hub.execute("COMMIT")
    waiting.join(timeout=60)
    assert found == [{ASTRONOMER: UIDS[0]}]


def test_a_database_that_does_not_answer_is_told_without_its_address(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = f"postgresql+psycopg://canfar:hidden-word@127.0.0.1:{free_port()}/hub"
    with pytest.raises(Unavailable) as raised:
        allocator(gone).numbers([ASTRONOMER])
    assert "hidden-word" not in f"{raised.value!r} {caplog.text}"
    with pytest.raises(Unavailable):
        allocator(f"sqlite:///{tmp_path / 'no-such-folder' / 'hub.sqlite'}").numbers([ASTRONOMER])


async def test_the_source_gives_the_subject_a_number_and_not_the_name(url: str) -> None:
    source = make_source(Posix(), Outbound([]), url)
    first = await source.ids(identity(), [USERS, SURVEY], "", {}, None)
    assert first.uid == first.gid == UIDS[0]
    assert {g.group: g.name for g in first.groups} == {USERS: "canfar-users", SURVEY: "survey-x"}
    assert await source.ids(identity(name="renamed"), [SURVEY], "", {}, None) == PosixIds(
        first.uid, first.gid, tuple(g for g in first.groups if g.group == SURVEY)
    )
    namesake = replace(identity(), subject="another")
    assert (await source.ids(namesake, [], "", {}, first)).uid != first.uid
    after_a_restart = make_source(Posix(), Outbound([]), url)
    assert await after_a_restart.ids(identity(), [SURVEY, USERS], "", {}, None) == first
