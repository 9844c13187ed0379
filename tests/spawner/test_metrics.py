"""What the end of a start means, and that labels are of closed sets."""

from __future__ import annotations

import asyncio
import re

import pytest
from jupyterhub.spawner import SpawnException

from canfar_spawner import metrics
from canfar_spawner.metrics import CODES, Outcome, outcome
from tests.support.stack import ROOT


def ended(code: str, status: int) -> SpawnException:
    return SpawnException("No.", reason=code, status_code=status)


@pytest.mark.parametrize(
    ("end", "found"),
    [
        (None, Outcome.READY),
        (ended("limit", 403), Outcome.REFUSED),
        (ended("storage", 409), Outcome.REFUSED),
        (ended("storage", 503), Outcome.SITE),
        (ended("credentials", 503), Outcome.SITE),
        (ended("group", 503), Outcome.SITE),  # it is not known who is a member
        (ended("died", 424), Outcome.IMAGE),
        (ended("slow", 503), Outcome.NO_ROOM),
        (ended("quota", 503), Outcome.NO_ROOM),
        (ended("cluster", 502), Outcome.CLUSTER),
        (ended("removed", 503), Outcome.CLUSTER),
        (asyncio.CancelledError(), Outcome.STOPPED),
        (TimeoutError(), Outcome.ERROR),
        (ValueError("unforeseen"), Outcome.ERROR),
    ],
)
def test_what_an_end_means(end: BaseException | None, found: Outcome) -> None:
    assert outcome(end) is found


def test_every_code_is_counted_from_the_start_and_in_the_reference() -> None:
    """The codes are those that the sources raise, and the reference has a line on each."""
    paths = [path for path in (ROOT / "canfar_spawner").rglob("*.py") if path.name != "metrics.py"]
    sources = "".join(path.read_text() for path in paths)
    assert set(re.findall(r'(?:Refused|_refusal)\(\s*"([a-z-]+)"', sources)) <= CODES
    assert [code for code in CODES if f'"{code}"' not in sources] == []
    counted = {sample.labels["code"] for family in metrics.REFUSALS.collect() for sample in family.samples}
    assert counted >= CODES
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/reference/refusals.md").read_text(), re.MULTILINE)
    assert {code for row in rows for code in re.findall(r"`([^`]+)`", row)} == CODES | {"died"}


def test_every_outcome_and_stage_is_in_the_reference() -> None:
    reference = (ROOT / "docs/reference/metrics.md").read_text()
    for value in (*Outcome, *metrics.Stage):
        assert f"| `{value}` |" in reference


def test_every_metric_is_in_the_reference() -> None:
    reference = (ROOT / "docs/reference/metrics.md").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "canfar_spawner").rglob("*.py"))
    names = re.findall(r'(?:Counter|Gauge|Histogram)\(\s*"(\w+)"', sources)
    assert len(names) > 8
    for name in names:
        assert f"`{name}" in reference
