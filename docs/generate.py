"""Writes the parts of the reference that the code itself holds: settings, classes, kinds, command lines."""

import argparse
import ast
import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from traitlets.config import Configurable

from canfar_auth.authenticator import CanfarOAuthenticator
from canfar_gateway import __main__ as gateway
from canfar_gateway.hub import GatewayProxy
from canfar_hub import __main__ as hub
from canfar_hub import chart
from canfar_site import settings
from canfar_spawner import catalogue
from canfar_spawner.cluster.spawner import CanfarSpawner
from canfar_spawner.kinds import KINDS
from canfar_spawner.local import LocalCanfarSpawner
from canfar_spawner.planned import PlannedSpawner

ROOT = Path(__file__).resolve().parent.parent
RUNS_EMBEDDED = {"notebook", "carta", "desktop", "vscode", "contributed", "desktop-app"}
"""The kinds that the sample catalogue has programs for, and the tests run."""

_NAMED = {
    settings.GroupId: "group identifier",
    settings.KindName: "[kind](kinds.md)",
    settings.Url: "http or https address",
    catalogue.Text: "text",
    catalogue.Slug: "lower-case letters, digits and hyphens",
    catalogue.ImageRef: "image reference",
    settings.VariableName: "variable name",
    settings.UrlPath: "path",
    settings.DnsName | Literal[""]: "name",
    settings.DnsName: "name",
    chart.Kubernetes: "Kubernetes' form",
    chart.Image: "image reference",
    chart.Quantity: "quantity, such as `1Gi`",
    chart.Network: "network, such as `10.0.0.0/8`",
    chart.ScriptName: "name",
}
_PLAIN = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    Path: "path",
    Any: "any value",
}


def write_all(folder: Path) -> None:
    """Writes every generated part into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    parts: Mapping[str, Callable[[], str]] = {
        "site": lambda: _models(
            settings.Site,
            settings.SignIn,
            settings.Groups,
            settings.ClaimSource,
            settings.GroupRule,
            settings.GroupService,
            settings.Removal,
            settings.Posix,
            settings.Credentials,
            settings.Storage,
            settings.Cluster,
            settings.Volume,
            settings.Project,
            settings.Homes,
            settings.Limits,
            settings.Ceiling,
            settings.GroupCeiling,
            settings.OwnKind,
            settings.SecretHeader,
        ),
        "catalogue": lambda: _models(
            catalogue.CatalogueFile,
            catalogue.Profile,
            catalogue.Resources,
            catalogue.Nodes,
            settings.SecretHeader,
            catalogue.Program,
        ),
        "chart": _chart,
        "classes": lambda: _classes(
            CanfarOAuthenticator, PlannedSpawner, CanfarSpawner, LocalCanfarSpawner, GatewayProxy
        ),
        "kinds": _kinds,
        "commands": _commands,
        "environment": _environment,
    }
    for name, text in parts.items():
        path = folder / f"{name}.md"
        new = text()
        if not path.exists() or path.read_text() != new:  # an unchanged file is not built again
            path.write_text(new)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"

    head = list(head)
    return "\n".join([line(head), line("---" for _ in head), *map(line, rows)]) + "\n"


# Models


def _models(*models: type[BaseModel]) -> str:
    return "\n".join(_model(model) for model in models)


def _model(model: type[BaseModel]) -> str:
    hints = get_type_hints(model, include_extras=True)
    rows = [
        (f"`{name}`", _type(hints[name]), _default(field), field.description or _about(hints[name]))
        for name, field in model.model_fields.items()
    ]
    table = _table(("Setting", "Value", "Default", "Meaning"), rows)
    return f"## {model.__name__}\n\n{inspect.getdoc(model)}\n\n{table}"


def _about(hint: Any) -> str:
    """What a model or a named type says of itself."""
    if inspect.isclass(hint) and issubclass(hint, BaseModel):
        return inspect.getdoc(hint) or ""
    found = (getattr(item, "description", None) for item in get_args(hint)[1:])
    return next((text for text in found if text), "")


def _type(hint: Any) -> str:
    for named, title in _NAMED.items():
        if hint == named:
            return title
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_type(part) for part in arguments if part is not NoneType)
    if origin in (list, tuple, frozenset):
        return f"list of: {_type(arguments[0])}"
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return f"mapping of {_type(arguments[0])} to {_type(arguments[1])}"
    if inspect.isclass(hint) and issubclass(hint, BaseModel):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    return _PLAIN[hint]


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return "none"
    if isinstance(value, BaseModel) and value == type(value).model_construct():
        return "its defaults"
    if value == "":
        return "empty"
    return f"`{_value(value)}`"


def _value(value: Any) -> str:
    """A value as a YAML file may hold it."""
    if value == "":
        return '""'
    if isinstance(value, BaseModel):
        return "{" + ", ".join(f"{key}: {_value(item)}" for key, item in value) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple | frozenset):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


# The chart


def _chart() -> str:
    """Every value by its whole name, with the default of `values.yaml`."""
    values = yaml.safe_load((ROOT / "helm/canfar-hub/values.yaml").read_text())
    sections = []
    for name, field in chart.ChartValues.model_fields.items():
        hint = get_type_hints(chart.ChartValues, include_extras=True)[name]
        if inspect.isclass(hint) and issubclass(hint, chart.Values):
            key = field.alias or name
            head = ("Value", "Form", "Default", "Meaning")
            table = _table(head, _chart_rows(hint, key, values.get(key, {})))
            sections.append(f"## {key}\n\n{inspect.getdoc(hint)}\n\n{table}")
    return "\n".join(sections)


def _chart_rows(model: type[BaseModel], above: str, values: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    hints = get_type_hints(model, include_extras=True)
    for name, field in model.model_fields.items():
        key = field.alias or name
        hint, path = hints[name], f"{above}.{key}"
        if inspect.isclass(hint) and issubclass(hint, BaseModel):
            yield from _chart_rows(hint, path, values.get(key, {}))
        else:
            value = values.get(key, field.get_default(call_default_factory=True))
            yield f"`{path}`", _type(hint), _chart_default(value), field.description or ""


def _chart_default(value: Any) -> str:
    if value is None:
        return "none"
    return f"`{_value(value)}`" if value or isinstance(value, bool | int) else "empty"


# Classes


def _classes(*classes: type[Configurable]) -> str:
    return "\n".join(_class(cls) for cls in classes)


def _class(cls: type[Configurable]) -> str:
    about = (inspect.getdoc(cls) or "").partition("\n\n")[0]
    bases = ", ".join(f"`{base.__name__}`" for base in cls.__bases__)
    traits = sorted(cls.class_own_traits(config=True).items())
    body = "\n".join(_trait(cls, name, trait) for name, trait in traits if trait.help)
    return f"## {cls.__name__}\n\n{about} Extends {bases}.\n\n{body or 'It has no settings of its own.'}\n"


def _trait(cls: type[Configurable], name: str, trait: Any) -> str:
    default = trait.default() if callable(getattr(trait, "default", None)) else trait.default_value
    shown = f"`{default!r}`" if default else "empty"
    text = inspect.cleandoc(trait.help)
    return f"### c.{cls.__name__}.{name}\n\n{type(trait).__name__}; default {shown}.\n\n{text}\n"


# Kinds


def _kinds() -> str:
    rows = [
        (
            f"`{kind.name}`",
            kind.title,
            str(kind.port) if kind.port else "none",
            f"`{kind.path}`" if kind.interactive else "none",
            f"`/{kind.ready_path}`" if kind.interactive else "none",
            f"`{kind.secret.header}: {kind.secret.scheme} …`" if kind.secret else "none",
            "runs in embedded mode" if kind.name in RUNS_EMBEDDED else "in the data model",
        )
        for kind in KINDS.values()
    ]
    head = ("Kind", "Title", "Port in a container", "Path", "Ready when this answers", "Secret", "State")
    return _table(head, rows)


# Programs


def _commands() -> str:
    with_width, before = "COLUMNS", os.environ.get("COLUMNS")
    os.environ[with_width] = "100"
    try:
        sections = [*_sections(hub._parser()), *_sections(gateway._parser())]
    finally:
        if before is None:
            del os.environ[with_width]
        else:
            os.environ[with_width] = before
    return "\n".join(f"## {name}\n\n```text\n{text.rstrip()}\n```\n" for name, text in sections)


def _sections(parser: argparse.ArgumentParser) -> Iterable[tuple[str, str]]:
    yield parser.prog, parser.format_help()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _sections(command)


def _environment() -> str:
    """The table in the docstring of the hub's configuration."""
    text = ast.get_docstring(ast.parse((ROOT / "jupyterhub_config.py").read_text())) or ""
    found = re.findall(r"^([A-Z][A-Z_]+) {2,}(\S.*(?:\n {10,}\S.*)*)$", text, re.MULTILINE)
    return _table(("Variable", "Meaning"), [(f"`{name}`", meaning) for name, meaning in found])
