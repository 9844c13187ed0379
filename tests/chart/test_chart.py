"""What Helm makes of the chart: valid, narrow, restricted, and refused with a path where a value is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from canfar_hub.chart import schema
from canfar_site.settings import load_site
from canfar_spawner.catalogue import CatalogueFolder
from tests.chart.conftest import LEAST, Chart, merged
from tests.support.chart import CHART

SCHEMAS = ("1.37.0", "1.36.0")
"""The two newest versions of Kubernetes whose schemas the validator brings."""
MUCH: dict[str, Any] = {
    "hub": {
        "database": {"secret": "database"},
        "extraConfig": {"pods": "c.KubeSpawner.priority_class_name = 'sessions'\n"},
        "env": {"TZ": "UTC"},
        "nodeSelector": {"role": "platform"},
        "tolerations": [{"key": "platform", "operator": "Exists"}],
    },
    "gateway": {"service": {"type": "LoadBalancer"}, "trustedProxies": ["10.244.0.0/16"]},
    "ingress": {"className": "nginx", "tlsSecret": "tls", "annotations": {"a": "b"}},
    "images": {"hub": "registry.example.org/hub@sha256:" + "0" * 64, "pullSecrets": ["pull"]},
    "trust": {"certificates": "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"},
    "registries": {"secret": "registries"},
    "networkPolicy": {
        "ingressFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "web"}}}],
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "metrics"}}}],
        "sessions": {"egress": [{"to": [{"ipBlock": {"cidr": "10.2.3.4/32"}}], "ports": [{"port": 443}]}]},
    },
    "prepull": {"pullSecrets": ["pull"]},
    "monitoring": {"serviceMonitor": {"enabled": True}, "rules": {"enabled": True, "labels": {"team": "site"}}},
    "site": {"subdomains": False, "groups": {"refresh": 60}, "posix": {"gids": [900000, 1999999]}},
}


def _named(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    return next(found for found in objects if (found["kind"], found["metadata"]["name"]) == (kind, name))


def _pod_specs(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for found in objects:
        spec = (
            found["spec"] if found["kind"] == "Pod" else found.get("spec", {}).get("template", {}).get("spec")
        )
        if spec and "containers" in spec:
            yield found["metadata"]["name"], spec


def test_its_schema_is_that_of_the_models() -> None:
    kept = json.loads((CHART / "values.schema.json").read_text())
    assert kept == schema(), "run `make schema`"


@pytest.mark.parametrize("changes", [{}, MUCH], ids=["least", "much"])
def test_helm_lints_it_strictly(chart: Chart, changes: dict[str, Any]) -> None:
    done = chart.run("lint --strict", values=merged(LEAST, changes))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", SCHEMAS)
@pytest.mark.parametrize("changes", [{}, MUCH], ids=["least", "much"])
def test_what_it_makes_is_valid(chart: Chart, tmp_path: Path, changes: dict[str, Any], version: str) -> None:
    operators = ("ServiceMonitor", "PrometheusRule")  # no part of Kubernetes
    objects = [found for found in chart.render(**changes) if found["kind"] not in operators]
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    command = [sys.executable, "-m", "kubernetes_validate", "-k", version, "--strict", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" passed ") + done.stderr.count(" passed ") == len(objects)


@pytest.mark.parametrize("changes", [{}, MUCH], ids=["least", "much"])
def test_every_pod_keeps_to_the_restricted_level(chart: Chart, changes: dict[str, Any]) -> None:
    specs = dict(_pod_specs(chart.render(**changes)))
    assert {"hub", "gateway", "prepull", "test", "uninstall"} == set(specs)
    for name, spec in specs.items():
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not spec.get("hostNetwork")
        assert spec["enableServiceLinks"] is False
        assert bool(spec.get("serviceAccountName")) == (name in {"hub", "uninstall"}), name
        assert spec.get("automountServiceAccountToken", True) == (name in {"hub", "uninstall"}), name
        assert not [volume for volume in spec.get("volumes", ()) if "hostPath" in volume]
        for container in (*spec["containers"], *spec.get("initContainers", ())):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["requests"], name
            assert container["resources"]["limits"]["memory"], name


def test_the_namespaces_enforce_pod_security_and_stay(chart: Chart) -> None:
    objects = chart.render()
    for name, level in (("canfar-sessions", "restricted"), ("canfar-homes", "baseline")):
        metadata = _named(objects, "Namespace", name)["metadata"]
        assert metadata["labels"]["pod-security.kubernetes.io/enforce"] == level
        assert metadata["annotations"]["helm.sh/resource-policy"] == "keep"


@pytest.mark.parametrize("source", ["made", "provisioner"])
def test_rights_are_of_namespaces_and_few(chart: Chart, source: str) -> None:
    objects = chart.render(site={"cluster": {"homes": {"source": source}}})
    assert not [found for found in objects if found["kind"].startswith("ClusterRole")]
    roles = [found for found in objects if found["kind"] == "Role" and "annotations" not in found["metadata"]]
    rights = {
        (role["metadata"]["namespace"], resource): set(rule["verbs"])
        for role in roles
        for rule in role["rules"]
        for resource in rule["resources"]
    }
    jobs = "canfar-homes" if source == "provisioner" else "canfar-sessions"
    expected = {
        ("canfar", "pods"): {"list", "watch"},
        ("canfar-sessions", "pods"): {"get", "list", "watch", "create", "delete"},
        ("canfar-sessions", "pods/log"): {"get"},
        ("canfar-sessions", "events"): {"list", "watch"},
        ("canfar-sessions", "secrets"): {"get", "list", "create", "patch", "delete"},
        ("canfar-sessions", "networkpolicies"): {"create"},
        (jobs, "jobs"): {"create", "watch"},
    }
    if source == "provisioner":
        expected["canfar-homes", "pods"] = {"list"}
    assert rights == expected


@pytest.mark.parametrize("changes", [{}, MUCH], ids=["least", "much"])
def test_the_hub_reads_the_site_file_and_the_catalogue(
    chart: Chart, tmp_path: Path, changes: dict[str, Any]
) -> None:
    objects = chart.render(**changes)
    file = tmp_path / "site.yaml"
    file.write_text(_named(objects, "ConfigMap", "hub")["data"]["site.yaml"])
    site = load_site(file)
    assert site.public_url == "https://hub.example.org"
    assert site.cluster is not None
    assert site.cluster.volume.claim == "data"
    assert site.cluster.homes.namespace == "canfar-homes"
    assert site.posix.gids == (900000, 1999999)
    folder = tmp_path / "catalogue"
    folder.mkdir()
    for name, text in _named(objects, "ConfigMap", "catalogue")["data"].items():
        (folder / name).write_text(text)
    catalogue = CatalogueFolder(folder).read()
    assert not catalogue.problems
    assert [entry.profile for entry in catalogue.profiles] == ["notebook"]


def test_the_gateway_relies_on_the_hub_as_long_as_the_site_says(chart: Chart) -> None:
    def arguments(**changes: Any) -> list[str]:
        spec = dict(_pod_specs(chart.render(**changes)))["gateway"]
        return list(spec["containers"][0]["args"])

    assert "--decision-seconds=30" in arguments()
    assert "--decision-seconds=6" in arguments(site={"groups": {"refresh": 60}})
    assert "--host-routing" in arguments()
    assert "--host-routing" not in arguments(site={"subdomains": False})


WRONG: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "typo": ({"site": {"public_ur": "https://x.example.org"}}, ("site", "public_ur")),
    "typo below": ({"site": {"cluster": {"homes": {"sorce": "made"}}}}, ("homes", "sorce")),
    "what the chart decides": ({"site": {"catalogue": "/etc"}}, ("site", "catalogue")),
    "a claim of the site's": ({"site": {"cluster": {"volume": {"claim": "x"}}}}, ("volume", "claim")),
    "address with a path": ({"site": {"sign_in": {"issuer": "iam.example.org"}}}, ("sign_in", "issuer")),
    "no group": ({"site": {"sign_in": {"platform_groups": []}}}, ("platform_groups",)),
    "a number as text": ({"site": {"limits": {"sessions": "five"}}}, ("limits", "sessions")),
    "an entry without images": (
        {"catalogue": {"mine.yaml": {"profiles": [{"profile": "x"}]}}},
        ("catalogue", "images"),
    ),
    "a file's name": ({"catalogue": {"Mine": {"profiles": []}}}, ("catalogue", "Mine")),
    "a value of the chart's": ({"hub": {"replicas": 2}}, ("hub", "replicas")),
    "camels": ({"networkPolicy": {"ingress_from": []}}, ("networkPolicy", "ingress_from")),
    "a database's place": ({"hub": {"database": {"secret": "Not A Name"}}}, ("database", "secret")),
    "a network": ({"gateway": {"trustedProxies": ["everybody"]}}, ("gateway", "trustedProxies")),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_refused_with_its_path(chart: Chart, name: str) -> None:
    changes, parts = WRONG[name]
    told = chart.refusal(merged(LEAST, changes))
    for part in parts:
        assert part in told


@pytest.mark.parametrize(
    ("missing", "part"),
    [
        (("site", "public_url"), "public_url"),
        (("site", "sign_in"), "sign_in"),
        (("secrets",), "Set secrets.clientSecret"),
        (("storage",), "Say where homes and projects are"),
    ],
)
def test_a_missing_value_is_asked_for(chart: Chart, missing: tuple[str, ...], part: str) -> None:
    values = json.loads(json.dumps(LEAST))
    inner = values
    for key in missing[:-1]:
        inner = inner[key]
    del inner[missing[-1]]
    assert part in chart.refusal(values)


def test_one_origin_is_warned_of(chart: Chart) -> None:
    if chart.major < 4:
        pytest.skip("Helm 3 renders notes for a cluster that answers only.")

    def notes(**changes: Any) -> str:
        done = chart.run("install canfar", "--dry-run=client", values=merged(LEAST, changes))
        assert done.returncode == 0, done.stderr
        return done.stdout.partition("NOTES:")[2]

    assert "WARNING" not in notes()
    assert "one origin" in notes(site={"subdomains": False})
    assert "https://hub.example.org/hub/oauth_callback" in notes()
    hosts = _named(chart.render(site={"subdomains": False}), "Ingress", "gateway")["spec"]["rules"]
    assert [rule["host"] for rule in hosts] == ["hub.example.org"]


def test_an_ingress_leads_both_hosts_to_the_gateway(chart: Chart) -> None:
    spec = _named(chart.render(ingress={"tlsSecret": "wildcard"}), "Ingress", "gateway")["spec"]
    hosts = ["hub.example.org", "*.hub.example.org"]
    assert [rule["host"] for rule in spec["rules"]] == hosts
    assert spec["tls"] == [{"secretName": "wildcard", "hosts": hosts}]


def test_secrets_differ_between_installations_and_are_in_no_other_object(chart: Chart) -> None:
    first, second = chart.render(), chart.render()
    data, other = (_named(objects, "Secret", "hub")["data"] for objects in (first, second))
    assert {name for name in data if data[name] == other[name]} == {"CANFAR_CLIENT_SECRET"}
    rest = json.dumps([found for found in first if found["kind"] != "Secret"])
    assert not [name for name, value in data.items() if value in rest]
    assert "of-the-provider" not in rest


def test_ones_own_secret_and_claims_are_taken(chart: Chart) -> None:
    objects = chart.render(
        secrets={"existing": "ours", "clientSecret": ""},
        storage={"volume": {}, "claims": {"sessions": "cephfs", "homes": "cephfs"}},
    )
    kinds = [found["kind"] for found in objects]
    assert "Secret" not in kinds
    assert "PersistentVolume" not in kinds
    hub = dict(_pod_specs(objects))["hub"]["containers"][0]
    assert hub["env"][0]["valueFrom"]["secretKeyRef"]["name"] == "ours"
    assert "claim: cephfs" in _named(objects, "ConfigMap", "hub")["data"]["site.yaml"]
