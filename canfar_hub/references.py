"""References to images: `host/path:tag@digest`, as people type them. Pure."""

import re
from dataclasses import dataclass

from canfar_hub.problem import Problem

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<host>(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|(?=[^/]*:)[A-Za-z0-9-]+)(?::[0-9]{{1,5}})?)"
    rf"/(?P<path>{_PART}(?:/{_PART})*)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?"
    rf"(?:@(?P<digest>{DIGEST.pattern}))?"
)


@dataclass(frozen=True)
class Reference:
    """Where an image is: a registry's host, the path of a repository there, and which of its images."""

    host: str
    path: str
    tag: str = ""
    digest: str = ""

    def pinned(self, digest: str) -> str:
        """The reference with its digest, and with the tag for people, whom a digest tells nothing."""
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.path}{tag}" + (f"@{digest}" if digest else "")


def parse_reference(text: str) -> Reference:
    """The parts of a reference.

    Raises
    ------
    canfar_hub.problem.Problem
        It is not one, or names no host: nothing is looked for anywhere that was not named.
    """
    found = _REFERENCE.fullmatch(text)
    if found is None:
        raise Problem(
            f"{text!r} names no image; give host, path, and tag or digest, such as example.org/team/marimo:1.0."
        )
    parts = {name: value or "" for name, value in found.groupdict().items()}
    return Reference(**parts)
