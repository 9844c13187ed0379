"""The commands of the how-to guides, taken from the pages and run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass

from tests.support.chart import CHART, HELM, Installed
from tests.support.stack import ROOT

PAGES = ROOT / "docs/how-to"
_FENCE = re.compile(r"^( *)```(bash|console)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def commands(page: str) -> dict[str, list[str]]:
    """The blocks of commands on a page, by the heading that they stand under."""
    found: dict[str, list[str]] = {}
    for section in re.split(r"^#+ ", (PAGES / page).read_text(), flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        blocks = [_typed(*match.groups()) for match in _FENCE.finditer(text)]
        if blocks:
            found[heading] = blocks
    return found


def _typed(indent: str, language: str, text: str) -> str:
    """What an administrator types of a block: of a console's, what follows the prompt."""
    lines = [line.removeprefix(indent) for line in text.splitlines()]
    if language == "bash":
        return "\n".join(lines)
    typed = []
    for line in lines:
        if line.startswith("$ ") or (typed and typed[-1].endswith("\\")):
            typed.append(line.removeprefix("$ "))
    return "\n".join(typed)


@dataclass(frozen=True)
class Guide:
    """An administrator at a shell, with the guides at hand, and a release in another namespace than theirs."""

    release: Installed
    """In its namespace; the guides' is `canfar`. The administrator is where its `values.yaml` is."""

    def here(self, command: str) -> str:
        """A command with this release's names for the guides'."""
        named = re.sub(r"\bcanfar-(sessions|homes)\b", rf"{self.release.name}-\1", command)
        named = re.sub(r"(-n|--namespace|delete namespace) canfar(?![\w-])", rf"\1 {self.release.name}", named)
        return named.replace("helm/canfar-hub", str(CHART))

    def type(self, command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command of a guide, or one like it, in a shell that stops at the first failure."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.here(command)],
            cwd=self.release.top,
            env={**os.environ, "PATH": f"{HELM.parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done
