import base64
import configparser
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from canfar_desktop import software
from canfar_desktop.software import App, NotHad, parse, publish, render

from tests.support.apps_api import AppsApi, an_app, apps_api
from tests.support.stack import ROOT, until

NASTY = [
    "Name\nExec=xterm",
    "a\r\nb\tc\x00d\x1b[31m",
    "100 % of %f and %u = a;b;c \\n \\s",
    "</Name></Menu><Menu>&amp;<!-- ]]>",
    "‮evil‬",
    "-- --button=x",
    "$(touch /tmp/x) `id` 'q' \"q\"",
    "é 星 😀",
]


def entries(files: dict[str, bytes]) -> list[dict[str, str]]:
    """The desktop entries, as a strict reader of key files sees them."""
    found = []
    for name, content in files.items():
        if name.startswith("data/applications/"):
            reader = configparser.ConfigParser(interpolation=None, delimiters="=", strict=True)
            reader.optionxform = str  # type: ignore[assignment,method-assign]
            reader.read_string(content.decode())
            assert reader.sections() == ["Desktop Entry"]
            found.append(dict(reader["Desktop Entry"]))
    return found


def menu(files: dict[str, bytes]) -> dict[str, list[str]]:
    """The names of the entries of each part of the menu, by its name as it is shown."""
    root = ElementTree.fromstring(files["config/menus/canfar-applications.menu"])
    parts = {}
    for part in root.findall("Menu"):
        directory = files.get(f"data/desktop-directories/{part.findtext('Directory')}")
        if directory:
            title = directory.decode().split("Name=")[1].split("\n")[0]
            parts[title] = [name.text or "" for name in part.findall("Include/Filename")]
    return parts


def rendered(*apps: dict[str, Any], folder: Path = Path("/run/software")) -> dict[str, bytes]:
    return render(parse({"apps": list(apps), "running": []}), folder, lambda name: name == "ds9")


@pytest.mark.parametrize("text", NASTY)
def test_text_of_the_catalogue_stays_text(text: str) -> None:
    files = rendered(an_app("one", text, description=text, category=text, icon=text))
    (entry,) = entries(files)
    key = software.parse({"apps": [an_app("one", "x")]})[0].key
    assert set(entry) == {"Type", "Name", "Comment", "Icon", "Exec", "Terminal", "StartupNotify"}
    assert entry["Exec"] == f"canfar-desktop-software start {key}"
    assert entry["Icon"] == "application-x-executable"
    shown = entry["Name"].replace("\\\\", "\\")
    assert shown == software.line(text)
    assert shown.isprintable()
    assert list(menu(files)) == [entry["Name"]]


def test_a_profiles_name_is_in_no_command() -> None:
    files = rendered(an_app("../../x; rm -rf ~ %f\nExec=y", "One"))
    assert all(".." not in name for name in files)
    (entry,) = entries(files)
    assert entry["Exec"].split()[:2] == ["canfar-desktop-software", "start"]
    assert entry["Exec"].split()[2].isalnum()


def test_entries_are_grouped_by_category_and_sorted() -> None:
    files = rendered(
        an_app("c", "topcat", category="Tables"),
        an_app("b", "Zoom", category="Images"),
        an_app("a", "aladin", category="Images"),
        an_app("d", "Other", category=""),
    )
    names = {app.title: f"canfar-app-{app.key}.desktop" for app in _apps("a", "b", "c", "d")}
    assert menu(files) == {
        "Images": [names["a"], names["b"]],
        "Software": [names["d"]],
        "Tables": [names["c"]],
    }


def _apps(*profiles: str) -> tuple[App, ...]:
    return parse({"apps": [an_app(profile, profile) for profile in profiles]})


def test_what_the_user_may_not_use_is_not_in_it() -> None:
    files = rendered(an_app("a", "Mine"), an_app("b", "Theirs", refusal="Open to members of x."))
    assert [entry["Name"] for entry in entries(files)] == ["Mine"]


def test_an_empty_menu_says_why() -> None:
    assert [entry["Exec"] for entry in entries(rendered())] == ["canfar-desktop-software why"]


def test_icons() -> None:
    png = base64.b64encode(b"\x89PNG picture").decode()
    files = rendered(
        an_app("a", "A", icon=f"data:image/png;base64,{png}"),
        an_app("b", "B", icon="ds9"),
        an_app("c", "C", icon="no-such-icon"),
        an_app("d", "D", icon="data:text/html;base64,AAAA"),
        an_app("e", "E", icon="/etc/passwd"),
    )
    a = _apps("a")[0].key
    icons = [entry["Icon"] for entry in sorted(entries(files), key=lambda entry: entry["Name"])]
    assert icons == [f"/run/software/data/icons/{a}.png", "ds9", *["application-x-executable"] * 3]
    assert files[f"data/icons/{a}.png"] == b"\x89PNG picture"


def test_only_what_may_be_had_is_a_choice() -> None:
    choices = [{"value": 1, "refusal": ""}, {"value": 2, "refusal": ""}, {"value": 8, "refusal": "At most 2."}]
    (app,) = parse({"apps": [an_app("a", "A", cores=choices, memory=[{"value": 4, "refusal": ""}])]})
    assert software._choices(app) == {"Cores": ("1", "2")}
    assert software._chosen(app, {"Cores": "2"}) == {"cores": 2}
    assert software._chosen(app, {"Cores": "8"}) == {}


@pytest.mark.parametrize("answer", [None, [], {}, {"apps": 3}, {"apps": [3]}, {"apps": [{"profile": 1}]}])
def test_an_answer_of_another_form_is_no_menu(answer: object) -> None:
    with pytest.raises(NotHad):
        parse(answer)


def test_publishing_leaves_what_is_wanted_and_nothing_else(tmp_path: Path) -> None:
    publish(rendered(an_app("a", "A"), folder=tmp_path), tmp_path)
    before = next(tmp_path.glob("data/applications/*"))
    publish(rendered(an_app("b", "B", category="Other"), folder=tmp_path), tmp_path)
    assert not before.exists()
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == set(rendered(an_app("b", "B", category="Other")))


# The programs, with the API and the dialogs that they talk to


@pytest.fixture
def api() -> Iterator[AppsApi]:
    with apps_api() as found:
        yield found


class Desk:
    """A runtime folder, and programs in place of yad and notify-send that write down what they are given."""

    def __init__(self, folder: Path, api: AppsApi) -> None:
        self.folder = folder
        programs = folder / "bin"
        programs.mkdir()
        self.answer = folder / "answer"
        for name in ("yad", "notify-send"):
            script = f'#!/bin/sh\nprintf "%s\\n" "$@" >>{folder}/{name}\ncat {self.answer} 2>/dev/null\n'
            script += f"[ ! -e {folder}/cancel ]\n"
            (programs / name).write_text(script)
            (programs / name).chmod(0o755)
        self.environment = {
            "PATH": f"{programs}:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT / "images/desktop"),
            "XDG_RUNTIME_DIR": str(folder),
            "XDG_DATA_DIRS": str(folder / "none"),
            "CANFAR_APPS_URL": api.url,
            "CANFAR_APPS_TOKEN": "the-token",
        }

    def run(self, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "canfar_desktop.software", *arguments],
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )

    def told(self, program: str) -> str:
        path = self.folder / program
        return path.read_text() if path.exists() else ""

    def titles(self) -> list[str]:
        folder = self.folder / "software"
        try:
            files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.desktop")}
        except FileNotFoundError:
            return []  # it changes just now
        return sorted(entry["Name"] for entry in entries(files))


@pytest.fixture
def desk(tmp_path: Path, api: AppsApi) -> Desk:
    return Desk(tmp_path, api)


def test_an_app_without_choices_is_started_at_once(desk: Desk, api: AppsApi) -> None:
    api.apps = [an_app("ds9", "DS9")]
    desk.run("start", _apps("ds9")[0].key)
    assert api.started == [{"profile": "ds9"}]
    assert set(api.tokens) == {"Bearer the-token"}
    assert "Starting DS9" in desk.told("notify-send")
    assert not desk.told("yad")


def test_choices_are_asked_for(desk: Desk, api: AppsApi) -> None:
    cores = [{"value": value, "refusal": ""} for value in (1, 2, 4)]
    api.apps = [an_app("ds9", "D<b>S</b>9", cores=cores)]
    desk.answer.write_text("4\x1f\n")
    desk.run("start", _apps("ds9")[0].key)
    assert api.started == [{"profile": "ds9", "cores": 4}]
    assert "1\x1f2\x1f4" in desk.told("yad")
    assert "D&lt;b&gt;S&lt;/b&gt;9" in desk.told("yad")


def test_thinking_better_of_it_starts_nothing(desk: Desk, api: AppsApi) -> None:
    api.apps = [an_app("ds9", "DS9", images=["x:1", "x:2"])]
    (desk.folder / "cancel").touch()
    desk.run("start", _apps("ds9")[0].key)
    assert api.started == []


def test_a_refusal_is_shown_with_its_sentence(desk: Desk, api: AppsApi) -> None:
    api.apps = [an_app("ds9", "DS9")]
    api.refusal = "You have 3 of 3 <sessions>; stop one."
    desk.run("start", _apps("ds9")[0].key)
    assert "DS9 could not be started" in desk.told("yad")
    assert "You have 3 of 3 &lt;sessions&gt;; stop one." in desk.told("yad")


def test_what_is_gone_is_said(desk: Desk, api: AppsApi) -> None:
    desk.run("start", _apps("ds9")[0].key)
    assert "not on offer any more" in desk.told("yad")
    assert api.started == []


def test_a_hub_that_is_away_is_said(desk: Desk) -> None:
    desk.run("why", CANFAR_APPS_URL="http://127.0.0.1:1/")
    assert "The hub does not answer." in desk.told("yad")


def test_a_redirect_is_not_followed_with_the_token(desk: Desk, api: AppsApi) -> None:
    api.status = 302
    desk.run("why")
    assert len(api.tokens) == 1
    assert "Out of order." in desk.told("yad")


def test_other_addresses_than_a_hubs_are_not_read(desk: Desk) -> None:
    desk.run("why", CANFAR_APPS_URL="file:///etc/passwd")
    assert "offers no software" in desk.told("yad")


def test_the_menu_follows_the_api_and_keeps_the_last(desk: Desk, api: AppsApi) -> None:
    desk.run("prepare")
    assert desk.titles() == ["No software yet"]
    program = "from canfar_desktop import software\nsoftware.INTERVAL = 0.05\nsoftware.watch()"
    api.apps = [an_app("ds9", "DS9")]
    watching = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, **desk.environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: desk.titles() == ["DS9"], "the first menu")
        api.status = 500
        asked = len(api.tokens)
        until(lambda: len(api.tokens) > asked + 2, "questions without an answer")
        assert desk.titles() == ["DS9"]
        api.apps = [an_app("ds9", "DS9"), an_app("topcat", "TOPCAT")]
        api.status = 200
        until(lambda: desk.titles() == ["DS9", "TOPCAT"], "the new menu")
        api.apps = []
        until(lambda: desk.titles() == ["No software yet"], "the empty menu")
    finally:
        watching.terminate()
        _, said = watching.communicate()
    assert said.count("The software menu was not refreshed.") == 1
