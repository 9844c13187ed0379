"""YAML files read strictly into models, with the line of whatever is wrong."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)


class FileError(Exception):
    """A file that cannot be used. `str()` is one line: the file, the line where known, and what to mend."""

    def __init__(self, path: Path, problem: str, line: int | None = None) -> None:
        where = f"{path}, line {line}" if line else str(path)
        super().__init__(f"{where}: {' '.join(problem.split())}")


class _Repeated(yaml.MarkedYAMLError):
    """A key that is given twice."""


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that is given twice, which YAML 1.2 section 3.2.1.3 forbids and PyYAML lets pass."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise _Repeated(problem=f"“{key.value}” is given twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def load(path: Path, model: type[Model], context: Any = None) -> Model:
    """Reads `path` into `model`, whose validators see `context`.

    Raises
    ------
    FileError
        The file is missing or unreadable, is not YAML, or does not fit the model.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(path, f"cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise FileError(path, "is not UTF-8 text.") from error
    loader = None
    try:
        loader = _StrictLoader(text)
        root = loader.get_single_node()
        data = {} if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem if isinstance(error, _Repeated) else f"this is not YAML ({error.problem})"
        raise FileError(path, f"{problem}.", mark.line + 1 if mark else None) from error
    except yaml.YAMLError as error:
        raise FileError(path, f"this is not YAML ({error}).") from error
    except ValueError as error:  # such as a date with a thirteenth month
        raise FileError(path, f"holds a value that YAML cannot take ({error}).") from error
    finally:
        if loader is not None:
            loader.dispose()
    try:
        return model.model_validate(data, context=context)
    except ValidationError as error:
        # A key that is misspelt is missing, too; the misspelling is what to mend.
        first = min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
        name = ".".join(str(part) for part in first["loc"] if part != "[key]") or "the file"
        raise FileError(path, f"{name}: {_plain(first)}", _line(root, first["loc"])) from error


def _plain(error: Any) -> str:
    """One pydantic error as a sentence."""
    if error["type"] == "extra_forbidden":
        return "there is no such setting; check its spelling."
    return f"{str(error['msg']).removeprefix('Value error, ').rstrip('.')}."


def _line(node: yaml.Node | None, location: Sequence[int | str]) -> int:
    """The line, counted from 1, of the deepest part of `location` that the file has."""
    line = 1
    for found in _walk(node, location):
        line = found.start_mark.line + 1
    return line


def _walk(node: yaml.Node | None, location: Sequence[int | str]) -> Iterator[yaml.Node]:
    """The nodes along `location`: for a mapping's entry its key, whose line a reader looks for."""
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if pair is None:  # a key that is missing: its parent's line is the best there is
                return
            yield pair[0]
            node = pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            yield node
        else:
            return
