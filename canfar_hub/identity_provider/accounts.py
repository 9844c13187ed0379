"""The accounts file and its models."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from canfar_auth.claims import group_identifier
from canfar_auth.identity import USERNAME_PATTERN
from canfar_site.settings import Settings
from canfar_site.yamlfile import load


def _plain_line(text: str) -> str:
    # nanoidp puts the value of an environment variable where it reads ${...}.
    if not text.isprintable() or "${" in text:
        raise ValueError("may hold printable characters only, and no ${")
    return text


def _account_name(name: str) -> str:
    if re.fullmatch(USERNAME_PATTERN, name) is None:
        raise ValueError("is no account name: use lower-case letters, digits and . _ - @ between them")
    return name


def _group_name(group: str) -> str:
    # Which authority it will be of does not matter here.
    if group_identifier(group, "example.org") is None:
        raise ValueError(
            f"{group!r} is no group; write a name such as survey-x, or an identifier such as"
            " ivo://example.org/gms?survey-x"
        )
    return group


_Line = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_plain_line)]
_Group = Annotated[_Line, AfterValidator(_group_name)]
_AccountName = Annotated[str, AfterValidator(_account_name)]


class Account(Settings):
    """One account. Without ``password`` the account's name is the password.

    ``groups`` the provider tells in a claim, ``gms_groups`` only the group service.
    """

    full_name: _Line
    email: _Line
    password: _Line | None = None
    groups: tuple[_Group, ...] = ()
    gms_groups: tuple[_Group, ...] = ()


class Accounts(Settings):
    """The whole file: ``authority`` is that of the groups given by plain name."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    authority: _Line
    accounts: dict[_AccountName, Account] = Field(min_length=1)

    def groups_of(self, name: str) -> list[str]:
        """The identifiers of the groups that the provider tells of one account, in the file's order."""
        return self._identifiers(self.accounts[name].groups)

    def gms_groups_of(self, name: str) -> list[str]:
        """Those that the group service tells."""
        return self._identifiers(self.accounts[name].gms_groups)

    def _identifiers(self, groups: Iterable[str]) -> list[str]:
        identifiers = (group_identifier(group, self.authority) for group in groups)
        return [identifier for identifier in identifiers if identifier]

    def password_of(self, name: str) -> str:
        """The password of one account."""
        return self.accounts[name].password or name


def load_accounts(path: Path) -> Accounts:
    """Reads an accounts file.

    Raises
    ------
    canfar_site.yamlfile.FileError
        The first fault, with its line.
    """
    return load(path, Accounts)
