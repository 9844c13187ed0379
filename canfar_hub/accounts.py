"""Whether sessions of embedded mode can run under numbers of their own, and what those may enter."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

HERE = Path(__file__).resolve().parent.parent
_CLOSED = (
    "site.yaml",
    "secrets.json",
    "admin.token",
    "routes.json",
    "identity",
    "grid",
    "logs",
    "sessions",
    ".lock",
)
PRIVATE = 0o077
"""The umask of what the hub writes: all of it is its own but what is opened with intent."""


def accounts_for(data: Path) -> Literal["each", "own"]:
    """`each` if sessions can run under ids of their own, `own` if all have to run as this account."""
    return "each" if os.geteuid() == 0 and closed_folder(data) is None else "own"


def closed_folder(data: Path) -> Path | None:
    """The first folder that keeps other accounts from what sessions need; None if there is none.

    Sessions need this interpreter with its packages, what the project holds, and their homes below `data`.
    """
    python = Path(sys.executable)
    needed = (
        python.parent,
        python.resolve().parent,
        Path(sys.prefix),
        Path(sys.base_prefix),
        HERE,
        data.parent,
    )
    return next((folder for folder in _with_parents(needed) if not folder.stat().st_mode & 0o001), None)


def open_data(data: Path) -> None:
    """Lets other accounts pass through the data folder to `arc`, and nowhere else.

    Older hubs left files in it that only the folder itself protected.
    """
    for path in (*(data / name for name in _CLOSED), *data.glob("hub.sqlite*")):
        if path.exists() and not path.is_symlink():
            path.chmod(path.stat().st_mode & ~PRIVATE)
    data.chmod(data.stat().st_mode | 0o011)


def _with_parents(paths: Iterable[Path]) -> Iterable[Path]:
    return dict.fromkeys(folder for path in paths for folder in (*reversed(path.parents), path))
