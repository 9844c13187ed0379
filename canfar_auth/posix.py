"""Numeric user and group ids: which may be used, and the account files that name them. Pure."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from canfar_auth.identity import PosixGroup, PosixIds

log = logging.getLogger("canfar.posix")

NFS_GROUPS = 16
"""The groups beside the primary one that a request by NFS with AUTH_SYS can carry (RFC 5531 appendix A)."""
SMALLEST, LARGEST = 1000, 2**31 - 1
# 65534 is `nobody`, 65535 is "no id" in 16 bits; above LARGEST some programs read a negative number.
_RESERVED = frozenset({65534, 65535})

BASE_PASSWD = """\
root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
sys:x:3:3:sys:/dev:/usr/sbin/nologin
games:x:5:60:games:/usr/games:/usr/sbin/nologin
man:x:6:12:man:/var/cache/man:/usr/sbin/nologin
mail:x:8:8:mail:/var/mail:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""  # noqa: S105
"""The system's accounts in a session's ``/etc/passwd``, numbered as in Debian."""
BASE_GROUP = """\
root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
man:x:12:
sudo:x:27:
audio:x:29:
www-data:x:33:
shadow:x:42:
utmp:x:43:
video:x:44:
staff:x:50:
games:x:60:
users:x:100:
nogroup:x:65534:
"""
"""The system's groups in a session's ``/etc/group``, numbered as in Debian."""
# Groups that programs give rights to by name, where a system has them.
_POWERFUL = frozenset({"admin", "docker", "kvm", "lxd", "wheel"})

_SHORT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_LONGEST_NAME = 32  # as in groupadd(8)


class PosixRefused(Exception):
    """Ids that must not be used, or that there are none of: a sentence for people."""


# Numbers


def is_usable(number: int) -> bool:
    """Whether a person's account or group may have this number; the system's own may not be anybody's."""
    return SMALLEST <= number <= LARGEST and number not in _RESERVED


def checked(username: str, uid: int, gid: int, gids: Mapping[str, int]) -> PosixIds:
    """Ids that may be used, with short names of the groups; raises ``PosixRefused`` for the user's own."""
    for what, number in (("user id", uid), ("primary group's id", gid)):
        if not is_usable(number):
            raise PosixRefused(
                f"Your {what} is {number}, which is not for people’s accounts; ask whoever gives out the ids of"
                " your institute for another one."
            )
    usable = {group: number for group, number in gids.items() if is_usable(number)}
    if refused := sorted(gids.keys() - usable.keys()):
        log.warning("Left out for %s, since their ids are not for groups of people: %s.", username, refused)
    names = short_names(usable, _names(BASE_GROUP) | _POWERFUL | {username})
    return PosixIds(uid, gid, tuple(PosixGroup(g, names[g], usable[g]) for g in sorted(usable)))


def dropped_by_nfs(ids: PosixIds) -> tuple[PosixGroup, ...]:
    """The groups that an NFS server does not see when it is told them by AUTH_SYS.

    A request carries 16 groups beside the primary one (RFC 5531 appendix A), of a process that has more the
    first ones; Linux keeps a process's groups in the order of their numbers (setgroups in kernel/groups.c).
    """
    return tuple(sorted(ids.groups, key=lambda group: group.gid)[NFS_GROUPS:])


def read_id(value: object) -> int | None:
    """An id as services write them, an integer or decimal digits; ``None`` for all else, such as true."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 10:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


# Names


def short_names(groups: Collection[str], taken: Collection[str]) -> dict[str, str]:
    """Names for ``/etc/group``, all different and none of ``taken``.

    They are what is behind the ``?``, where that will do, or are made of it and a part of the identifier's
    hash, so that a name depends on no order.
    """
    plain = {group: group.rpartition("?")[2] for group in groups}
    often = Counter(plain.values())
    names = {g: n for g, n in plain.items() if _is_short(n) and often[n] == 1 and n not in taken}
    for group in sorted(plain.keys() - names.keys()):
        used = {*taken, *names.values()}
        names[group] = next(name for name in _marked(group, plain[group]) if name not in used)
    return names


def _is_short(name: str) -> bool:
    return len(name) <= _LONGEST_NAME and _SHORT_NAME.fullmatch(name) is not None


def _marked(identifier: str, name: str) -> Iterator[str]:
    """Names made of ``name`` and ever more of the identifier's hash."""
    digest = hashlib.sha256(identifier.encode()).hexdigest()
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    if not _SHORT_NAME.match(safe):
        safe = f"g{safe}"
    for length in range(8, _LONGEST_NAME - 1):
        mark = f"-{digest[:length]}"
        yield safe[: _LONGEST_NAME - len(mark)] + mark


# The account files


def passwd_file(
    base: str, username: str, uid: int, gid: int, full_name: str, home: str, shell: str = "/bin/bash"
) -> str:
    """The whole ``/etc/passwd`` (passwd(5)) of a session: entries of ``base``, and the user.

    ``base`` is text of the same form, such as ``BASE_PASSWD``. An entry of it with the user's number gives way.
    Raises ``PosixRefused`` for a name that ``base`` has, since names open doors as numbers do, and for a field
    that would not stay one.
    """
    ids = checked(username, uid, gid, {})
    _check_name(username)
    if username in _names(base):
        raise PosixRefused(f"“{username}” is the name of an account of the system; ask for another username.")
    for what, field in (("full name", full_name), ("home", home), ("shell", shell)):
        _check_field(what, field)
    line = f"{username}:x:{ids.uid}:{ids.gid}:{full_name}:{home}:{shell}"
    return _file([*_without(base, {uid}), line])


def group_file(base: str, username: str, ids: PosixIds) -> str:
    """The whole ``/etc/group`` (group(5)) of a session: entries of ``base``, the user's own group, and theirs.

    An entry of ``base`` with one of these numbers gives way, and a group with a name of ``base`` gets another.
    """
    _check_name(username)
    taken = _names(base) | _POWERFUL
    names = short_names([group.group for group in ids.groups], taken | {username})
    own = username if username not in taken else next(_marked(username, username))
    theirs = [f"{names[group.group]}:x:{group.gid}:{username}" for group in ids.groups]
    if all(group.gid != ids.gid for group in ids.groups):
        theirs.insert(0, f"{own}:x:{ids.gid}:")
    return _file([*_without(base, {ids.gid, *(group.gid for group in ids.groups)}), *theirs])


def _check_name(username: str) -> None:
    _check_field("username", username)
    # A number is taken for an id, and a sign begins an entry that brings others in (nsswitch's "compat").
    if not username or username.isdecimal() or username[0] in "+-" or "," in username:
        raise PosixRefused(f"“{username}” cannot be the name of an account; ask for another username.")


def _check_field(what: str, text: str) -> None:
    if ":" in text or not text.isprintable():
        raise PosixRefused(
            f"Your {what} holds a colon or a character that cannot be shown, so no account can be made of it;"
            " ask for it to be changed at your identity provider."
        )


def _names(base: str) -> set[str]:
    return {line.partition(":")[0] for line in base.splitlines()}


def _without(base: str, numbers: Collection[int]) -> list[str]:
    return [line for line in base.splitlines() if read_id((line.split(":") + [""] * 3)[2]) not in numbers]


def _file(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"
