"""Numeric ids of this site's own, in the hub's database: given out once, kept for ever, never given again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    insert,
    make_url,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from canfar_auth.identity import Identity, PosixIds
from canfar_auth.outbound import Unavailable
from canfar_auth.posix import PosixRefused, checked, is_usable

log = logging.getLogger("canfar.posix")

_metadata = MetaData()
# One table for users and groups, since they share their numbers: a user's private group has the user's own.
_ids = Table(
    "canfar_posix_ids",
    _metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("issuer", Text, nullable=False),  # empty for a group
    Column("name", Text, nullable=False),  # a user's subject, or a group's identifier
    UniqueConstraint("issuer", "name"),
)
# The highest number that was ever given: what is deleted from the table above must not come to somebody else.
_marks = Table(
    "canfar_posix_marks",
    _metadata,
    Column("kind", String(8), primary_key=True),
    Column("highest", Integer, nullable=False),
)
_KINDS = ("gids", "uids")
_PATIENCE = 30  # seconds that a writer waits for others
_ATTEMPTS = 3

Key = tuple[str, str]
"""(issuer, subject) of a user, or (empty, identifier) of a group."""


class Allocator:
    """Gives each user and group a number, in SQLite or PostgreSQL, from any number of processes at once.

    ``uids`` and ``gids`` are the first and last number to give. Raises ``ValueError`` where they overlap, and
    for a database that would not last. Its calls wait for the database: an event loop calls them in a thread.
    """

    def __init__(self, database_url: str, uids: tuple[int, int], gids: tuple[int, int]) -> None:
        if uids[0] <= gids[1] and gids[0] <= uids[1]:
            raise ValueError(
                "posix.uids and posix.gids overlap; a user's own group has the user's number, so they must not."
            )
        self._ranges = {"uids": uids, "gids": gids}
        self._engine = _engine(database_url)
        self._is_prepared = False

    def groups(self, identifiers: Collection[str]) -> dict[str, int]:
        """The number of each group; raises as ``numbers``."""
        found = self.numbers([("", identifier) for identifier in identifiers])
        return {identifier: number for (_, identifier), number in found.items()}

    def numbers(self, keys: Sequence[Key]) -> dict[Key, int]:
        """The number of each user and group, given now, in one transaction, to whoever has none.

        Raises ``PosixRefused`` if none is left, and ``Unavailable`` while the database cannot be used.
        """
        if not keys:
            return {}
        try:
            self._prepare()
            with self._engine.connect() as connection:
                found = _find(connection, keys)
            return found if len(found) == len(set(keys)) else self._give(keys)
        except (
            SQLAlchemyError,
            UnicodeError,
        ) as error:
            # Its text may name the database's address and account.
            log.error("The database of numeric ids cannot be used: %s.", type(error).__name__)
            raise Unavailable("The database of numeric ids cannot be used.") from None

    def move_issuer(self, old: str, new: str) -> None:
        """Keep everybody's number where a provider has another address than before, and the same accounts."""
        self._prepare()
        with self._engine.execution_options(canfar_writes=True).begin() as connection:
            connection.execute(update(_ids).where(_ids.c.issuer == old).values(issuer=new))

    def _give(self, keys: Sequence[Key]) -> dict[Key, int]:
        with self._engine.execution_options(canfar_writes=True).begin() as connection:
            # The marks are locked, so writers follow one another (SQLite knows no such lock, and needs none).
            query = select(_marks).order_by(_marks.c.kind).with_for_update()
            marks = {row.kind: row.highest for row in connection.execute(query)}
            found = _find(connection, keys)
            for issuer, name in dict.fromkeys(keys):
                if (issuer, name) not in found:
                    kind = "uids" if issuer else "gids"
                    marks[kind] = found[issuer, name] = self._next(connection, kind, marks[kind])
                    connection.execute(insert(_ids).values(number=marks[kind], issuer=issuer, name=name))
            for kind, highest in marks.items():
                connection.execute(update(_marks).where(_marks.c.kind == kind).values(highest=highest))
        return found

    def _next(self, connection: Connection, kind: str, highest: int) -> int:
        """The first free number above ``highest``. Ranges may have been others before, so all are looked at."""
        low, high = self._ranges[kind]
        number = max(low, highest + 1)
        while number <= high:
            taken = connection.scalar(select(_ids.c.number).where(_ids.c.number == number))
            if taken is None and is_usable(number):
                return number
            number += 1
        raise PosixRefused(
            f"This site has no number left to give: posix.{kind} in its site file ends at {high}; ask its"
            " administrator to raise that."
        )

    def _prepare(self) -> None:
        """Makes what is missing of the tables. Of processes that do so at the same time, some try again."""
        attempts = 0 if self._is_prepared else _ATTEMPTS
        for attempt in range(attempts):
            try:
                with self._engine.execution_options(canfar_writes=True).begin() as connection:
                    _metadata.create_all(connection)
                    there = set(connection.scalars(select(_marks.c.kind)))
                    for kind in set(_KINDS) - there:
                        connection.execute(insert(_marks).values(kind=kind, highest=0))
                break
            except SQLAlchemyError:
                if attempt == attempts - 1:
                    raise
        self._is_prepared = True


class AllocatorSource:
    """The allocator as a source of ids; what it said is kept, since it never changes."""

    def __init__(self, allocator: Allocator) -> None:
        self._allocator = allocator
        self._known: dict[Key, int] = {}

    async def ids(
        self,
        person: Identity,
        groups: Collection[str],
        token: str,
        claims: Mapping[str, object],
        last: PosixIds | None,
    ) -> PosixIds:
        """As ``PosixSource`` says."""
        user = (person.issuer, person.subject)
        keys = [user, *(("", group) for group in sorted(groups))]
        if not self._known.keys() >= set(keys):
            self._known |= await asyncio.to_thread(self._allocator.numbers, keys)
        uid = self._known[user]
        return checked(person.username, uid, uid, {group: self._known["", group] for group in groups})


def _find(connection: Connection, keys: Sequence[Key]) -> dict[Key, int]:
    query = select(_ids).where(tuple_(_ids.c.issuer, _ids.c.name).in_(list(keys)))
    return {(row.issuer, row.name): row.number for row in connection.execute(query)}


def _engine(database_url: str) -> Engine:
    url = make_url(database_url)
    if url.get_backend_name() != "sqlite":
        return create_engine(url, poolclass=NullPool)
    if url.database in (None, "", ":memory:"):
        raise ValueError(
            "Numeric ids have to last: give a database in a file, as in sqlite:////srv/hub.sqlite."
        )
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": _PATIENCE})

    # A transaction that reads before it writes can fail half-way in SQLite, unless it says so at its beginning.
    @event.listens_for(engine, "connect")
    def _leave_transactions_to_us(connection: object, _record: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("canfar_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
