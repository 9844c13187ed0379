"""Which account of the provider a name of the hub belongs to, in the hub's own database.

A user is (issuer, subject), which stays and passes to nobody else (OpenID Connect Core 1.0 section 5.7). Names
do neither, so the name of the first sign-in is kept whatever the provider calls the account later.
"""

from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Taken(Exception):
    """The name belongs to another account."""


class _Base(DeclarativeBase):
    pass


class _Binding(_Base):
    __tablename__ = "canfar_bindings"

    issuer: Mapped[str] = mapped_column(String(255), primary_key=True)
    subject: Mapped[str] = mapped_column(String(255), primary_key=True)
    username: Mapped[str] = mapped_column(String(255), unique=True)


def prepare(db: Session) -> None:
    """Make the table where the database has none yet."""
    _Base.metadata.create_all(db.get_bind())


def username_of(db: Session, issuer: str, subject: str) -> str | None:
    """The name under which this account signed in first; ``None`` if it never did."""
    found = db.get(_Binding, (issuer, subject))
    return found.username if found else None


def is_bound(db: Session, username: str) -> bool:
    """Whether somebody signed in under this name."""
    return db.query(_Binding).filter_by(username=username).first() is not None


def name_for(db: Session, issuer: str, subject: str, claimed: str) -> str:
    """The account's name on the hub: the one it has, else the one it claims; raises ``Taken``."""
    known = username_of(db, issuer, subject)
    if known is None and is_bound(db, claimed):
        raise Taken(claimed)
    return known or claimed


def bind(db: Session, issuer: str, subject: str, username: str) -> None:
    """Keep ``username`` for this account; raises ``Taken`` if another one was faster."""
    if name_for(db, issuer, subject, username) != username:
        raise Taken(username)
    if not is_bound(db, username):
        db.add(_Binding(issuer=issuer, subject=subject, username=username))
        db.commit()


def move_issuer(db: Session, old: str, new: str) -> None:
    """Keep everybody's name where a provider has another address than before, and the same accounts."""
    db.query(_Binding).filter_by(issuer=old).update({"issuer": new})
    db.commit()


def release(db: Session, username: str) -> None:
    """Forget whose the name is, as when an administrator deletes the user."""
    db.query(_Binding).filter_by(username=username).delete()
    db.commit()
