import os
from pathlib import Path

import pytest

from canfar_spawner.catalogue import CatalogueFolder

GOOD = """
profiles:
  - profile: {name}
    title: "<b>Good</b>"
    description: Text.
    kinds: [notebook]
    images: ["example.org/good:1"]
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def names(folder: CatalogueFolder) -> list[str]:
    return [p.profile for p in folder.read().profiles]


def test_files_are_read_in_the_order_of_their_names(tmp_path):
    write(tmp_path, "b.yaml", GOOD.format(name="two"))
    write(tmp_path, "a.yml", GOOD.format(name="one"))
    write(tmp_path, "notes.txt", "not: [a catalogue")
    catalogue = CatalogueFolder(tmp_path).read()
    assert [p.profile for p in catalogue.profiles] == ["one", "two"]
    assert catalogue.profiles[0].title == "<b>Good</b>"  # text stays as it is
    assert catalogue.problems == ()


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (GOOD.format(name="x") + "    titel: typo\n", 8, "titel"),
        (GOOD.format(name="x").replace("[notebook]", "[notebok]"), 6, "kinds"),
        (GOOD.format(name="x").replace("good:1", "go od:1"), 7, "images"),
        (GOOD.format(name="x").replace("good:1", "good:1\\n"), 7, "images"),
        (GOOD.format(name="x").replace("title: ", "description: again\n    title: "), 6, "twice"),
        (GOOD.format(name="x").replace("[notebook]", "[notebook"), 7, ""),
        (GOOD.format(name="other"), 0, "already"),
        (
            GOOD.format(name="x").replace("[notebook]", "[notebook, contributed]")
            + "    program: {needs: sh, install: none}\n",
            3,
            "“contributed” has no command",
        ),
        ("profiles:\n  - profile: x\n", 2, "Field required"),
        ("- a list\n", 0, ""),
        ("profiles: !!python/object/apply:os.getcwd []\n", 1, ""),
        ("when: 2026-13-45\n", 0, ""),
    ],
)
def test_a_bad_file_is_named_with_its_line_and_the_others_work(tmp_path, text, line, said):
    write(tmp_path, "a.yaml", GOOD.format(name="other"))
    write(tmp_path, "bad.yaml", text)
    write(tmp_path, "c.yaml", GOOD.format(name="last"))
    catalogue = CatalogueFolder(tmp_path).read()
    assert [p.profile for p in catalogue.profiles] == ["other", "last"]
    (problem,) = catalogue.problems
    assert "bad.yaml" in problem
    assert said in problem
    assert "\n" not in problem
    if line:
        assert f"line {line}:" in problem


def test_a_change_is_seen_and_an_unchanged_folder_is_not_parsed_again(tmp_path):
    folder = CatalogueFolder(tmp_path)
    assert names(folder) == []
    path = write(tmp_path, "a.yaml", GOOD.format(name="one"))
    assert names(folder) == ["one"]
    before = folder.read()
    assert folder.read() is before
    write(tmp_path, "a.yaml", GOOD.format(name="two"))
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))  # whatever the clock's resolution
    assert names(folder) == ["two"]
    path.unlink()
    assert names(folder) == []


def test_a_missing_folder_is_an_empty_catalogue(tmp_path):
    assert names(CatalogueFolder(tmp_path / "none")) == []
