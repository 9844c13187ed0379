"""The accounts file: its models, and errors that name the line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from canfar_auth.claims import group_identifier
from canfar_auth.identity import USERNAME_PATTERN


class AccountsError(ValueError):
    """An accounts file that cannot be used; the text names the file and the line."""


def _plain_line(text: str) -> str:
    # nanoidp puts the value of an environment variable where it reads ${...}.
    if not text.isprintable() or "${" in text:
        raise ValueError("may hold printable characters only, and no ${")
    return text


def _account_name(name: str) -> str:
    if re.fullmatch(USERNAME_PATTERN, name) is None:
        raise ValueError("is no account name: use lower-case letters, digits and . _ - @ between them")
    return name


_Line = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_plain_line)]
_AccountName = Annotated[str, AfterValidator(_account_name)]


class Account(BaseModel):
    """One account. Without ``password`` the account's name is the password."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    full_name: _Line
    email: _Line
    password: _Line | None = None
    groups: tuple[_Line, ...] = ()


class Accounts(BaseModel):
    """The whole file: ``authority`` is that of the groups given by plain name."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    authority: _Line
    accounts: dict[_AccountName, Account] = Field(min_length=1)

    def groups_of(self, name: str) -> list[str]:
        """The group identifiers of one account, in the file's order."""
        identifiers = (group_identifier(group, self.authority) for group in self.accounts[name].groups)
        return [identifier for identifier in identifiers if identifier]

    def password_of(self, name: str) -> str:
        """The password of one account."""
        return self.accounts[name].password or name


def load_accounts(path: Path) -> Accounts:
    """Read and check an accounts file; raises ``AccountsError`` with the first fault and its line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise AccountsError(f"{path}: The accounts file cannot be read ({reason}).") from None
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_repeated_keys(path, tree)
        accounts = Accounts.model_validate(yaml.safe_load(text))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise AccountsError(f"{path}, line {line}: This is not YAML ({error.problem}).") from None
    except yaml.YAMLError:
        raise AccountsError(f"{path}, line 1: This is not YAML.") from None
    except ValidationError as error:
        # A key misspelt is missing as well; its own line says more.
        faults = error.errors(include_url=False, include_context=False)
        fault = min(faults, key=lambda fault: fault["type"] == "missing")
        where = ".".join(str(part) for part in fault["loc"] if part != "[key]") or "the file"
        line = _line_of(tree, fault["loc"])
        raise AccountsError(f"{path}, line {line}: {where}: {fault['msg']}.") from None
    _refuse_unknown_groups(path, tree, accounts)
    return accounts


def _refuse_unknown_groups(path: Path, tree: yaml.Node | None, accounts: Accounts) -> None:
    for name, account in accounts.accounts.items():
        for index, group in enumerate(account.groups):
            if group_identifier(group, accounts.authority) is None:
                line = _line_of(tree, ("accounts", name, "groups", index))
                raise AccountsError(
                    f"{path}, line {line}: {group!r} is no group; write a name such as survey-x, "
                    "or an identifier such as ivo://example.org/gms?survey-x."
                )


def _refuse_repeated_keys(path: Path, node: yaml.Node | None) -> None:
    """YAML readers keep the last of two equal keys in silence; the first account would be gone."""
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _refuse_repeated_keys(path, child)
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, child in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise AccountsError(f"{path}, line {line}: {key.value!r} is there twice; keep one of them.")
            seen.add(key.value)
            _refuse_repeated_keys(path, child)


def _line_of(node: yaml.Node | None, location: tuple[int | str, ...]) -> int:
    """The line, from 1, of the deepest part of ``location`` that the document has."""
    line = node.start_mark.line + 1 if node else 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = [(key, child) for key, child in node.value if key.value == str(part)]
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line
