"""The chart as Helm renders it, without a cluster."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.chart import CHART
from tests.support.stack import ROOT

LEAST: dict[str, Any] = {
    "site": {
        "public_url": "https://hub.example.org",
        "sign_in": {
            "issuer": "https://iam.example.org",
            "platform_groups": ["ivo://example.org/gms?canfar-users"],
        },
    },
    "secrets": {"clientSecret": "of-the-provider"},
    "storage": {"volume": {"nfs": {"server": "nfs.example.org", "path": "/arc"}}},
}
"""The least that has to be given."""


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The values with changes, as Helm joins files."""
    found = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = merged(found[key], value) if both else value
    return found


class Chart:
    """Runs one version of Helm on the chart."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program, self._folder = program, folder
        self.major = 3 if program.name == "helm3" else 4

    def run(self, command: str, *options: str, values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        file = self._folder / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        # No cluster may answer by chance.
        given = [str(self._program), *command.split(), str(CHART), "-n", "canfar", "-f", str(file), *options]
        environment = {"KUBECONFIG": "/dev/null", "HOME": str(self._folder), "PATH": "/usr/bin:/bin"}
        return subprocess.run(given, capture_output=True, text=True, timeout=60, env=environment)

    def render(self, **changes: Any) -> list[dict[str, Any]]:
        """The objects for the least values with changes."""
        done = self.run("template canfar", values=merged(LEAST, changes))
        assert done.returncode == 0, done.stderr
        return [found for found in yaml.safe_load_all(done.stdout) if found]

    def refusal(self, values: dict[str, Any]) -> str:
        """What is said where nothing is rendered."""
        done = self.run("template canfar", values=values)
        assert done.returncode != 0
        return done.stderr


@pytest.fixture(params=["helm", pytest.param("helm3", marks=pytest.mark.slow)])
def chart(request: pytest.FixtureRequest, tmp_path: Path) -> Chart:
    program = ROOT / ".venv/bin" / request.param
    if not program.exists():
        pytest.skip("Helm is not installed; “requirements/helm” gets it.")
    return Chart(program, tmp_path)
