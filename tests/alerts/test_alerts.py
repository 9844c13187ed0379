"""The alert rules: that they are rules, that they fire when they should, and that they say what to do."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY

import canfar_spawner.cluster.orphans
import canfar_spawner.cluster.watch
import canfar_spawner.metrics  # noqa: F401 - whose metrics are in the registry
from canfar_spawner.metrics import Outcome
from tests.support.stack import ROOT

RULES = ROOT / "helm/canfar-hub/files/alerts.yaml"
STORIES = Path(__file__).parent / "alerts.test.yaml"
BESIDE_PYTHON = Path(sys.executable).parent / "promtool"
PROMTOOL = str(BESIDE_PYTHON) if BESIDE_PYTHON.exists() else shutil.which("promtool")

ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing; requirements/promtool gets it")
@pytest.mark.parametrize("command", [["check", "rules", str(RULES)], ["test", "rules", str(STORIES)]])
def test_prometheus_takes_the_rules_and_they_fire_when_they_should(command: list[str]) -> None:
    done = subprocess.run([PROMTOOL, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_stories_in_which_it_comes_and_in_which_it_does_not() -> None:
    told = [case for story in yaml.safe_load(STORIES.read_text())["tests"] for case in story["alert_rule_test"]]
    names = {alert["alert"] for alert in ALERTS}
    assert {case["alertname"] for case in told if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in told if not case.get("exp_alerts")} == names


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_how_bad_it_is_and_what_to_do(alert: dict) -> None:
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert set(alert["annotations"]) == {"summary", "description"}
    for sentence in alert["annotations"].values():
        assert re.fullmatch(r"[A-Z{].*\.", sentence), sentence
    assert re.search(r"\b([Ss]ee|[Ll]ook|Start)\b", alert["annotations"]["description"])


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_asks_for_metrics_and_labels_that_there_are(alert: dict) -> None:
    ends = ("", "_total", "_bucket", "_count")
    known = {family.name + end for family in REGISTRY.collect() for end in ends}
    asked = set(re.findall(r"\b(?:canfar|jupyterhub)_\w+", alert["expr"]))
    assert asked
    assert asked <= known
    named = {one for found in re.findall(r'outcome[=!]~?"([^"]+)"', alert["expr"]) for one in found.split("|")}
    assert named <= set(Outcome)
