"""A posix-mapper as OpenCADC's: it gives numbers to whoever is asked about, and never others."""

from __future__ import annotations

from tests.support.faults import FaultyServer, Received, Reply

TABLE = "text/tab-separated-values"


class PosixMapper(FaultyServer):
    """Users from 10000 and groups from 90000 on. A test may set numbers, and lines that are ``added``."""

    def __init__(self) -> None:
        super().__init__()
        self.users: dict[str, int] = {}
        self.groups: dict[str, int] = {}
        self.added = ""
        self.token = "a-token"

    @property
    def base(self) -> str:
        return f"{self.url}/posix-mapper"

    def answer(self, request: Received) -> Reply:
        if request.token != self.token:
            return Reply(401)
        table = request.headers.get("accept") == TABLE
        if request.path == "/posix-mapper/uid":
            for name in request.all("user"):
                self.users.setdefault(name, 10000 + len(self.users))
            form = "{0}\t{1}\t{1}\n" if table else "{0}:x:{1}:{1}:::\n"
            lines = [form.format(name, self.users[name]) for name in request.all("user")]
        elif request.path == "/posix-mapper/gid":
            for group in request.all("group"):
                self.groups.setdefault(group, 90000 + len(self.groups))
            form = "{0}\t{1}\n" if table else "{0}:x:{1}:\n"
            lines = [form.format(group, self.groups[group]) for group in request.all("group")]
        else:
            return Reply(404)
        return Reply(body="".join(lines) + self.added, content_type=TABLE if table else "text/plain")
