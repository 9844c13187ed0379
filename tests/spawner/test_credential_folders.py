"""Credentials' folders: replaced whole, one user's each, closed to others, and cleared of what is ours."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from canfar_auth.identity import PosixIds
from canfar_spawner.accounts import as_account
from canfar_spawner.credential_folders import FolderStore, folder_name
from canfar_spawner.credentials import CERTIFICATE, EXPIRES, TOKEN
from tests.support.credential_source import names

IDS = PosixIds(899_998, 899_998)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other accounts")


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "credentials")


async def test_a_reader_sees_each_file_whole_and_always(store: FolderStore) -> None:
    path = store.folder("astronomer") / CERTIFICATE
    versions = [str(number) * (20_000 + 7 * number) for number in range(10)]
    await store.write("astronomer", ["s1"], {CERTIFICATE: versions[0]}, None)
    wrong: list[str] = []
    seen: list[str] = []  # one entry for each change that was noticed
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                text = path.read_text()
            except OSError as error:
                wrong.append(str(error))
                continue
            if text not in versions:
                wrong.append(text[:50])
            if [text] != seen[-1:]:
                seen.append(text)

    reader = threading.Thread(target=read)
    reader.start()
    for number in itertools.count():
        await store.write("astronomer", ["s1"], {CERTIFICATE: versions[number % 10]}, None)
        if (number >= 300 and len(seen) >= 20) or wrong:
            break
    stop.set()
    reader.join()
    assert wrong == []
    assert names(store) == {CERTIFICATE}


@pytest.mark.parametrize(
    "owner",
    [
        "astronomer",
        "first.last@example.org",
        "..",
        ".",
        ".hidden",
        "a/b",
        "a%2Fb",
        "%2E",
        "a b",
        "A\n",
        "é",
        "~",
    ],
)
def test_a_folders_name_is_one_name_and_its_owners_alone(store: FolderStore, owner: str) -> None:
    folder = store.folder(owner)
    assert folder.parent == store.folder("x").parent
    assert not folder.name.startswith(".")
    assert folder.name.isprintable()


def test_no_two_users_share_a_folder() -> None:
    owners = [
        "a.b",
        "a%2Eb",
        "a%252Eb",
        ".a",
        "%2Ea",
        "%252Ea",
        "a/b",
        "a%2Fb",
        "..",
        "%2E.",
        ".",
        "A",
        "a",
        "a@b",
    ]
    assert len({folder_name(owner) for owner in owners}) == len(owners)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_place_that_others_can_change_is_refused(tmp_path: Path, mode: int) -> None:
    place = tmp_path / "credentials"
    place.mkdir()
    place.chmod(mode)
    with pytest.raises(PermissionError):
        FolderStore(place)


async def test_a_link_in_place_of_a_folder_is_not_followed(store: FolderStore, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / CERTIFICATE).write_text("mine")
    store.folder("astronomer").symlink_to(elsewhere)
    with pytest.raises(PermissionError):
        await store.write("astronomer", ["s1"], {CERTIFICATE: "new"}, None)
    await store.remove("astronomer", "s1", ())
    assert (elsewhere / CERTIFICATE).read_text() == "mine"


async def test_only_our_files_are_removed_and_nothing_keeps_the_rest(
    store: FolderStore, caplog: pytest.LogCaptureFixture
) -> None:
    for owner in ("astronomer", "tester", "visitor"):
        await store.write(owner, ["s1"], {CERTIFICATE: "x", TOKEN: "x"}, None)
        (store.folder(owner) / f"{TOKEN}.new").write_text("half of it")
    (store.folder("astronomer") / "notes").write_text("mine")
    (store.folder("tester") / CERTIFICATE).unlink()
    (store.folder("tester") / CERTIFICATE).mkdir()
    await store.sweep({})
    assert names(store) == {"notes"}
    assert names(store, "tester") == {CERTIFICATE}
    assert not store.folder("visitor").exists()
    assert caplog.text.count("stays") == 2


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that other accounts can enter, as pytest's own are not."""
    made = Path(tempfile.mkdtemp(prefix="canfar-credentials-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@needs_root
async def test_under_root_the_owner_reads_and_others_do_not(open_place: Path) -> None:
    store = FolderStore(open_place / "credentials")
    await store.write("astronomer", ["s1"], dict.fromkeys((CERTIFICATE, TOKEN, EXPIRES), "x"), IDS)
    folder = store.folder("astronomer")
    mine, theirs = as_account(IDS), as_account(PosixIds(899_999, 899_999))
    for name in (CERTIFICATE, TOKEN, EXPIRES):
        assert (folder / name).stat().st_uid == IDS.uid
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
        assert _runs("cat", folder / name, account=mine)
        assert not _runs("cat", folder / name, account=theirs)
    assert _runs("ls", folder, account=mine)
    assert not _runs("ls", folder, account=theirs)
    assert not _runs("ls", folder.parent, account=mine)
    # The folder is root's, so that nothing of a user's is ever where root writes.
    for command in (
        ["mkdir", folder / "x"],
        ["ln", "-s", "/etc/shadow", folder / "x"],
        ["mkfifo", folder / f"{CERTIFICATE}.new"],
        ["rm", folder / CERTIFICATE],
        ["mv", folder / CERTIFICATE, folder / "x"],
        ["mv", folder, folder.parent / "x"],
        ["chmod", "777", folder],
        ["ln", folder / CERTIFICATE, folder / "x"],
    ):
        assert not _runs(*command, account=mine)
    assert names(store) == {CERTIFICATE, TOKEN, EXPIRES}


@needs_root
async def test_root_does_not_write_into_a_folder_that_is_a_users(open_place: Path) -> None:
    store = FolderStore(open_place / "credentials")
    folder = store.folder("astronomer")
    folder.mkdir()
    os.chown(folder, IDS.uid, IDS.gid)
    with pytest.raises(PermissionError):
        await store.write("astronomer", ["s1"], {CERTIFICATE: "x"}, IDS)
    assert list(folder.iterdir()) == []


def _runs(*command: object, account: Mapping[str, Any]) -> bool:
    done = subprocess.run([str(word) for word in command], cwd="/", capture_output=True, check=False, **account)
    return done.returncode == 0
