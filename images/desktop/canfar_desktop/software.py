"""A desktop's software menu: what the hub offers its user, and starts as sessions of their own.

The menu is made of what the hub's API answers, never of what is installed beside it, and choosing an entry
asks the hub to start the application. Titles and descriptions are the site's catalogue's: data.
"""

import argparse
import base64
import binascii
import hashlib
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from canfar_desktop import dialogs

XDG = Path(__file__).parent / "xdg"
"""Defaults for Xfce, which each user can change in their own settings."""
INTERVAL = 30.0  # seconds between two looks at what is on offer

_TIMEOUT = 60.0  # seconds that the hub may take to answer
_LARGEST_ANSWER = 16 * 2**20  # bytes
_LARGEST_ICON = 256 * 2**10  # bytes
_LONGEST_LINE = 300  # characters of a title or description
_ICON = "application-x-executable"
_ICON_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ICON_DATA = re.compile(r"data:image/(?P<type>png|svg\+xml);base64,(?P<data>[A-Za-z0-9+/=]+)")
_NO_CATEGORY = "Software"
_OWN = (
    "xfce4-terminal.desktop",
    "thunar.desktop",
    "org.xfce.mousepad.desktop",
    "xfce-settings-manager.desktop",
    "xfce4-session-logout.desktop",
)
"""What belongs to the desktop itself."""


class NotHad(Exception):
    """Something could not be had of the hub; the text is a sentence for the user."""


@dataclass(frozen=True)
class App:
    """One application on offer, with what this user may choose of it; a first choice is the default."""

    profile: str
    title: str
    description: str
    category: str
    icon: str
    images: tuple[str, ...]
    cores: tuple[float, ...]
    memory: tuple[float, ...]

    @property
    def key(self) -> str:
        """Its name in files and arguments: nothing of it is anybody's text."""
        return hashlib.sha256(self.profile.encode()).hexdigest()[:16]


# What the hub offers


def parse(answer: object) -> tuple[App, ...]:
    """The applications that the user may use, in an answer of the hub's API.

    Raises
    ------
    NotHad
        The answer is none of that API.
    """
    try:
        offered = [one for one in _mapping(answer)["apps"] if not one.get("refusal")]
        return tuple(_app(one) for one in offered)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotHad("The list of software could not be understood. Tell the site's help desk.") from error


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError("an object is wanted")
    return value


def _app(one: Mapping[str, Any]) -> App:
    return App(
        profile=_text(one["profile"]),
        title=line(_text(one.get("title") or one["profile"])),
        description=line(_text(one.get("description") or "")),
        category=line(_text(one.get("category") or "")) or _NO_CATEGORY,
        icon=_text(one.get("icon") or ""),
        images=tuple(_text(image) for image in one.get("images") or ()),
        cores=_open(one.get("cores") or ()),
        memory=_open(one.get("memory") or ()),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text is wanted")
    return value


def _open(choices: Iterable[Mapping[str, Any]]) -> tuple[float, ...]:
    return tuple(float(choice["value"]) for choice in choices if not choice.get("refusal"))


def line(text: str) -> str:
    """One line of what can be seen: no control characters, none that turn the direction of writing."""
    seen = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(seen.split())[:_LONGEST_LINE]


# What Xfce reads: freedesktop.org's Desktop Entry and Desktop Menu specifications


def render(apps: Sequence[App], folder: Path, icons: Callable[[str], bool]) -> dict[str, bytes]:
    """The files below `folder`, by their relative names, that make a menu of `apps`.

    `icons` tells whether the icon themes have an icon of that name.
    """
    files: dict[str, bytes] = {}
    categories: dict[str, list[App]] = {}
    for app in sorted(apps, key=lambda app: app.title.casefold()):
        categories.setdefault(app.category, []).append(app)
        icon = _ICON
        if image := _image(app.icon):
            name = f"data/icons/{app.key}.{image[0]}"
            files[name], icon = image[1], str(folder / name)
        elif _ICON_NAME.fullmatch(app.icon) and icons(app.icon):
            icon = app.icon
        files[f"data/applications/{_entry_name(app)}"] = _entry(app, icon)
    if not apps:
        files["data/applications/canfar-none.desktop"] = _entry_none()
        categories[_NO_CATEGORY] = []
    for category in categories:
        files[f"data/desktop-directories/{_category_name(category)}"] = _keyfile(
            {"Type": "Directory", "Name": category, "Icon": "applications-science"}
        )
    files["config/menus/canfar-applications.menu"] = _menu(categories)
    return files


def _entry_name(app: App) -> str:
    return f"canfar-app-{app.key}.desktop"


def _category_name(category: str) -> str:
    return f"canfar-{hashlib.sha256(category.encode()).hexdigest()[:16]}.directory"


def _entry(app: App, icon: str) -> bytes:
    entry = {
        "Type": "Application",
        "Name": app.title,
        "Comment": app.description,
        "Icon": icon,
        "Exec": f"canfar-desktop-software start {app.key}",
        "Terminal": "false",
        "StartupNotify": "false",
    }
    return _keyfile(entry)


def _entry_none() -> bytes:
    entry = {
        "Type": "Application",
        "Name": "No software yet",
        "Comment": "Says why there is none.",
        "Icon": "dialog-information",
        "Exec": "canfar-desktop-software why",
        "Terminal": "false",
    }
    return _keyfile(entry)


def _keyfile(entry: Mapping[str, str]) -> bytes:
    """A file of one group `Desktop Entry`; values are one line each, and a backslash stands for itself."""
    lines = (f"{key}={line(value)}".replace("\\", r"\\") for key, value in entry.items() if value)
    return ("[Desktop Entry]\n" + "\n".join(lines) + "\n").encode()


def _image(icon: str) -> tuple[str, bytes] | None:
    """File type and content of an icon that is a data: URL of an image."""
    if not (match := _ICON_DATA.fullmatch(icon)) or len(icon) > 2 * _LARGEST_ICON:
        return None
    with suppress(binascii.Error):
        return match["type"].partition("+")[0], base64.b64decode(match["data"], validate=True)
    return None


def _menu(categories: Mapping[str, Sequence[App]]) -> bytes:
    """The menu: software by category, then what belongs to the desktop."""
    menu = ElementTree.Element("Menu")
    _add(menu, "Name", "Xfce")
    _add(menu, "DefaultAppDirs")
    _add(menu, "DefaultDirectoryDirs")
    _include(menu, _OWN)
    for number, (category, apps) in enumerate(sorted(categories.items(), key=lambda c: c[0].casefold())):
        part = _add(menu, "Menu")
        _add(part, "Name", f"category-{number}")
        _add(part, "Directory", _category_name(category))
        _include(part, [_entry_name(app) for app in apps] or ["canfar-none.desktop"])
    layout = _add(menu, "Layout")
    _add(layout, "Merge", type="menus")
    _add(layout, "Separator")
    for name in _OWN:
        _add(layout, "Filename", name)
    doctype = b'<!DOCTYPE Menu PUBLIC "-//freedesktop//DTD Menu 1.0//EN"\n'
    doctype += b' "http://www.freedesktop.org/standards/menu-spec/1.0/menu.dtd">\n'
    ElementTree.indent(menu)
    written: bytes = ElementTree.tostring(menu, encoding="utf-8")
    return doctype + written + b"\n"


def _add(parent: ElementTree.Element, name: str, text: str = "", **attributes: str) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, name, attributes)
    child.text = text or None
    return child


def _include(menu: ElementTree.Element, names: Sequence[str]) -> None:
    include = _add(menu, "Include")
    for name in names:
        _add(include, "Filename", name)


# Where it is: in the desktop's runtime folder, so that two desktops on one home do not meet


def _folder() -> Path:
    return Path(os.environ["XDG_RUNTIME_DIR"]) / "software"


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The environment in which Xfce finds the menu, and our defaults."""
    folder = Path(given.get("XDG_RUNTIME_DIR", "")) / "software"
    configs = given.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    data = given.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    return {
        **given,
        "NO_AT_BRIDGE": "1",  # nothing here speaks for programs, and looking for it takes time
        "XDG_CURRENT_DESKTOP": "XFCE",
        "XDG_MENU_PREFIX": "canfar-",
        "XDG_CONFIG_DIRS": f"{folder / 'config'}:{XDG}:{configs}",
        "XDG_DATA_DIRS": f"{folder / 'data'}:{data}",
    }


def publish(files: Mapping[str, bytes], folder: Path) -> None:
    """Makes `folder` hold `files` and no others. Each changes at once, and the menu after what it names."""
    for name, content in sorted(files.items(), key=lambda file: file[0].endswith(".menu")):
        path = folder / name
        with suppress(FileNotFoundError):
            if path.read_bytes() == content:
                continue
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_name(f".{path.name}.new")
        written.write_bytes(content)
        written.replace(path)
    wanted = {folder / name for name in files}
    for path in [path for path in folder.rglob("*") if path.is_file() and path not in wanted]:
        path.unlink()


def _known_icons() -> frozenset[str]:
    """The names of all icons that are installed."""
    places = (environment(os.environ)["XDG_DATA_DIRS"]).split(":")
    folders = [Path(place) / part for place in places for part in ("icons", "pixmaps")]
    return frozenset(path.stem for folder in folders for path in folder.rglob("*.*"))


# The hub's API


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The token is for one address."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _ask(body: Mapping[str, Any] | None = None) -> Any:
    """The hub's answer: what is on offer, or, to a `body`, what was started.

    Raises
    ------
    NotHad
        With the hub's own sentence where it gave one.
    """
    url = os.environ.get("CANFAR_APPS_URL", "")
    if not url.startswith(("http://", "https://")):
        raise NotHad("This site offers no software for desktops.")
    headers = {
        "Authorization": f"Bearer {os.environ.get('CANFAR_APPS_TOKEN', '')}",
        "Accept": "application/json",
    }
    data = None if body is None else json.dumps(body).encode()
    if data is not None:
        headers["Content-Type"] = "application/json"
    request = urllib.request.Request(url, data, headers)  # noqa: S310 - looked at above
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=_TIMEOUT) as answer:
            return json.loads(answer.read(_LARGEST_ANSWER))
    except urllib.error.HTTPError as error:
        raise NotHad(_sentence(error)) from error
    except (OSError, ValueError) as error:
        raise NotHad("The hub does not answer. Try again in a few minutes.") from error


def _sentence(error: urllib.error.HTTPError) -> str:
    """What the hub says against it, or what its status means."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        if sentence := line(_text(_mapping(json.loads(error.read(_LARGEST_ANSWER)))["message"])):
            return sentence
    return f"The hub answered with status {error.code}. Try again in a few minutes."


# The commands


def prepare() -> None:
    """Writes a menu without software, for Xfce to find one when it starts."""
    publish(render((), _folder(), lambda _: False), _folder())


def watch() -> None:
    """Keeps the menu as the hub's API says. While that fails, the menu stays as it is."""
    seen: tuple[App, ...] | None = None
    said = ""
    while True:
        try:
            apps, problem = parse(_ask()), ""
        except NotHad as failed:
            apps, problem = seen or (), str(failed)
        if problem and problem != said:
            print(f"The software menu was not refreshed. {problem}", file=sys.stderr, flush=True)
        said = problem
        if apps != (seen or ()):
            publish(render(apps, _folder(), _known_icons().__contains__), _folder())
        seen = apps
        time.sleep(INTERVAL)


def start(key: str) -> None:
    """Asks what is to be chosen, and has the hub start that application."""
    try:
        app = next((app for app in parse(_ask()) if app.key == key), None)
    except NotHad as failed:
        return dialogs.problem("No software could be started", str(failed))
    if app is None:
        return dialogs.problem("It is not on offer any more", "The menu will show so in a moment.")
    asked = dialogs.choose(app.title, _choices(app))
    if asked is None:
        return None
    dialogs.tell(f"Starting {app.title}", "Its window appears in a moment.")
    try:
        _ask({"profile": app.profile, **_chosen(app, asked)})
    except NotHad as failed:
        dialogs.problem(f"{app.title} could not be started", str(failed))


def _choices(app: App) -> dict[str, tuple[str, ...]]:
    """What there is to be chosen, as people read it."""
    every = {
        "Version": app.images,
        "Cores": tuple(f"{value:g}" for value in app.cores),
        "Memory (GB)": tuple(f"{value:g}" for value in app.memory),
    }
    return {name: values for name, values in every.items() if len(values) > 1}


def _chosen(app: App, asked: Mapping[str, str]) -> dict[str, Any]:
    """The answers as the hub takes them; what nobody was asked is the hub's to decide."""
    chosen: dict[str, Any] = {}
    if (image := asked.get("Version")) in app.images:
        chosen["image"] = image
    for name, key, values in (("Cores", "cores", app.cores), ("Memory (GB)", "memory", app.memory)):
        for value in values:
            if f"{value:g}" == asked.get(name):
                chosen[key] = value
    return chosen


def why() -> None:
    """Says why the menu is empty."""
    try:
        apps = parse(_ask())
    except NotHad as failed:
        return dialogs.problem("There is no software yet", str(failed))
    if apps:
        return dialogs.tell("Software is on offer now", "The menu shows it in a moment.")
    return dialogs.problem("There is no software yet", "This site offers none that you may use on a desktop.")


def main() -> None:
    """`canfar-desktop-software prepare | watch | start KEY | why`."""
    parser = argparse.ArgumentParser(description="The software menu of a desktop.")
    commands = parser.add_subparsers(required=True)
    for command in (prepare, watch, why):
        commands.add_parser(command.__name__, help=command.__doc__).set_defaults(run=lambda _, c=command: c())
    starting = commands.add_parser("start", help=start.__doc__)
    starting.add_argument("key", help="the application's name in the menu's files")
    starting.set_defaults(run=lambda options: start(options.key))
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
