"""What the hub must find around it: one line says what is missing, in place of a traceback."""

import re
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

_ROW = re.compile(r"^([A-Z][A-Z_]+) {2,}(\S.*)$", re.MULTILINE)
_CONNECT_SECONDS = 10
_DATABASE = "CANFAR_DATABASE_URL"
_FORMS = "such as postgresql+psycopg://USER:PASSWORD@HOST/NAME or sqlite:////srv/data/hub.sqlite"


def check_or_exit(table: str, environ: Mapping[str, str]) -> None:
    """Ends the program with one line if a variable of `table` is missing, or the database is out of reach.

    A line of the table is a name and its meaning, which begins with `optional` where the hub does without.
    """
    missing = [
        (name, meaning)
        for name, meaning in _ROW.findall(table)
        if not environ.get(name) and not meaning.startswith("optional")
    ]
    if missing:
        name, meaning = missing[0]
        raise SystemExit(f"{name} is not set. Set it in the hub's environment: {meaning}.")
    _reach_database(environ[_DATABASE])


def extra_files(folder: str) -> list[Path]:
    """The configuration files of `folder`, in the order of their names; none for an empty name.

    Ends the program with one line if the folder cannot be read.
    """
    if not folder:
        return []
    try:
        found = sorted(Path(folder).iterdir())
    except OSError as error:
        raise SystemExit(
            f"CANFAR_EXTRA_CONFIG is {folder}, which cannot be read ({error.strerror}). Set it to a folder."
        ) from None
    return [path for path in found if path.suffix == ".py"]


def _reach_database(url: str) -> None:
    try:
        engine = _engine(url)
    except (ArgumentError, NoSuchModuleError, ImportError):
        # The message of some of these holds the address, and so a password.
        raise SystemExit(f"{_DATABASE} is not usable. Set it to a database's address, {_FORMS}.") from None
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                # SQLite alone finds out when it writes that it may not: here what is there already.
                version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
                connection.exec_driver_sql(f"PRAGMA user_version = {int(version)}")
    except DBAPIError as error:
        reason = str(error.orig).strip().splitlines()[0].rstrip(".")
        address = engine.url.render_as_string(hide_password=True)
        raise SystemExit(
            f"The database {address} cannot be used: {reason}. Start it, or set {_DATABASE}, {_FORMS}."
        ) from None
    finally:
        engine.dispose()


def _engine(url: str) -> Engine:
    seconds = {"connect_timeout": _CONNECT_SECONDS} if url.startswith("postgresql") else {}
    return create_engine(url, connect_args=seconds)
