"""The hub's database where its sessions are processes of the same machine: commits do not wait for the disk."""

from __future__ import annotations

import sqlite3
from typing import Any


class WriteAhead(sqlite3.Connection):
    """A connection whose commits outlast the program's end at once, and a loss of power half a minute later.

    Others of the same file are as durable as they were: numeric ids, which have to last, are given by one.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.execute("PRAGMA journal_mode=WAL")
        self.execute("PRAGMA synchronous=NORMAL")


def settings(url: str) -> dict[str, Any]:
    """What SQLAlchemy is told of the hub's database at `url`.

    A session's start takes a dozen commits, for each of which the hub's loop would stand still until the disk
    has it. What a loss of power takes from SQLite's file is the record of sessions that it ended, too.
    """
    if not url.startswith("sqlite:///"):
        return {}
    return {"connect_args": {"check_same_thread": False, "factory": WriteAhead}}
