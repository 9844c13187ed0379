"""What a user asks for: one strict parser for the form, the hub's API and stored options."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from canfar_spawner.spec import Refused

MAX_NAME = 63
MAX_OPEN = 1024
_TEXTS = ("profile", "kind", "image", "name", "open", "desktop")
_NUMBERS = ("cores", "memory", "gpus")
FIELDS = (*_TEXTS, *_NUMBERS)


@dataclass(frozen=True)
class SessionRequest:
    """A request that has the right form; what None leaves open, the profile's default fills."""

    profile: str
    kind: str | None = None
    image: str | None = None
    name: str = ""
    open: str = ""
    """A file or folder to open in it, by its path: below the site's top folder, or absolute."""
    cores: float | None = None
    memory: float | None = None
    gpus: float | None = None
    desktop: str | None = None
    """The id of the desktop session that an application is for."""


def parse_options(options: object) -> SessionRequest:
    """Reads `user_options` as the hub's API and database hold them.

    Raises
    ------
    Refused
        400: not an object, an unknown key, a wrong type, no profile, or a name of other than letters, digits,
        spaces, dots, hyphens and underscores.
    """
    if not isinstance(options, Mapping):
        raise _bad("The options of a session must be a JSON object.")
    unknown = sorted(str(key) for key in options if key not in FIELDS)
    if unknown:
        raise _bad(f"There is no option {_quoted(unknown[0])}; the options are {', '.join(FIELDS)}.")
    texts = {key: _text(key, options[key]) for key in _TEXTS if options.get(key) is not None}
    numbers = {key: _number(key, options[key]) for key in _NUMBERS if options.get(key) is not None}
    if not texts.get("profile"):
        raise _bad("The request names no profile; choose an image, or give its “profile”.")
    if not is_name(texts.get("name", "")):
        raise _bad(
            f"A session's name is at most {MAX_NAME} letters, digits, spaces, dots, hyphens and underscores,"
            " and begins with a letter or digit."
        )
    if not is_path(texts.get("open", "")):
        raise _bad(
            f"What a session opens is a path of at most {MAX_OPEN} characters, such as"
            " projects/survey/look.ipynb, without “..” and without a slash at its end."
        )
    return SessionRequest(**texts, **numbers)  # type: ignore[arg-type]


def options_from_form(form: Mapping[str, list[Any]]) -> dict[str, str | float]:
    """Turns a posted form into `user_options`; empty fields are left out.

    Raises
    ------
    Refused
        400: a field that is given twice, or a number that is none. All else is for `parse_options`.
    """
    options: dict[str, str | float] = {}
    for key, values in form.items():
        if key == "_xsrf":  # the hub's own, already checked by it
            continue
        if len(values) != 1:
            raise _bad(f"The field {_quoted(key)} is given more than once.")
        value = values[0]
        if key in _NUMBERS and value != "":
            try:
                options[key] = _whole(float(value))
            except (TypeError, ValueError):
                raise _bad(f"The value of {_quoted(key)} must be a number.") from None
        elif value != "":
            options[key] = value
    return options


def is_name(name: str) -> bool:
    """Whether `name` can be a session's name. Empty is no name, and allowed."""
    allowed = all(c.isalnum() or c in " ._-" for c in name)
    return not name or (len(name) <= MAX_NAME and allowed and name[0].isalnum() and name == name.strip())


def is_path(path: str) -> bool:
    """Whether `path` can name a file or folder of a session. Empty is none, and allowed."""
    parts = path.removeprefix("/").split("/")
    plain = all(part not in ("", ".", "..") and part.isprintable() for part in parts)
    return not path or (len(path) <= MAX_OPEN and plain)


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise _bad(f"The value of {_quoted(key)} must be text.")
    return value


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _bad(f"The value of {_quoted(key)} must be a number.")
    return value


def _whole(value: float) -> float:
    """An int where `value` is whole, so that stored options read as people write them."""
    return int(value) if math.isfinite(value) and value == int(value) else value


def _quoted(text: str) -> str:
    """What a user sent, fit for a sentence: short and on one line."""
    return f"“{''.join(c if c.isprintable() else '�' for c in text[:60])}”"


def _bad(sentence: str) -> Refused:
    return Refused("bad-request", 400, sentence)
