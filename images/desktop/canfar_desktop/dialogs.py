"""What the software menu asks and tells the user, by yad and the desktop's notifications."""

import html
import subprocess
from collections.abc import Mapping, Sequence

_WIDTH = "--width=420"
_SEPARATOR = "\x1f"  # in no value


def choose(title: str, choices: Mapping[str, Sequence[str]]) -> dict[str, str] | None:
    """Asks for one value of each of `choices`, the first preset; None if the user thinks better of it."""
    if not choices:
        return {}
    fields = [f"--field={name}:CB" for name in choices]
    values = [_SEPARATOR.join(values) for values in choices.values()]
    answer = _yad(
        f"--title={title}",
        f"--text=<b>{_shown(title)}</b>\n\nHow much may it use?",
        "--form",
        f"--separator={_SEPARATOR}",
        f"--item-separator={_SEPARATOR}",
        *fields,
        "--button=Cancel:1",
        "--button=Start:0",
        "--",
        *values,
    )
    if answer.returncode:
        return None
    return dict(zip(choices, answer.stdout.rstrip("\n").split(_SEPARATOR), strict=False))


def problem(title: str, sentence: str) -> None:
    """Shows what went wrong, until it is read."""
    _yad(
        f"--title={title}",
        f"--text=<b>{_shown(title)}</b>\n\n{_shown(sentence)}",
        "--image=dialog-warning",
        "--button=Close:0",
    )


def tell(title: str, sentence: str) -> None:
    """Shows news, which goes by itself."""
    command = [
        "notify-send",
        "--app-name=Software",
        "--icon=dialog-information",
        "--",
        title,
        _markup(sentence),
    ]
    subprocess.run(command, check=False)


def _yad(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = ["yad", "--center", "--fixed", "--borders=12", _WIDTH, "--text-width=48", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)


def _markup(text: str) -> str:
    """Text that is data, as Pango's markup."""
    return html.escape(text, quote=False)


def _shown(text: str) -> str:
    """Text that is data, as yad takes it: with markup, and a backslash before what is to be one."""
    return _markup(text).replace("\\", "\\\\")
