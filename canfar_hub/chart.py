"""The values of the Helm chart as models, from which its `values.schema.json` is made.

`python -m canfar_hub.chart` prints the schema. Below `site` the keys are the site file's own, without those
that the chart itself decides: a typo, or one of these, is refused with its path before anything is installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from canfar_site.settings import DnsName, Site, VariableName
from canfar_spawner.catalogue import CatalogueFile

DECIDED = {
    "Site": ("catalogue",),
    "Cluster": ("registries", "hub_url", "desktop_policies", "prepull_namespace"),
    "Volume": ("claim",),
    "Homes": ("image", "namespace", "claim"),
}
"""Keys of the site file that the chart writes itself, by model."""

Image = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$")]
Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?([EPTGMk]i?|m)?$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]*\.ya?ml$")]
ScriptName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Network = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f:.]+/[0-9]{1,3}$")]
Kubernetes = dict[str, Any]
"""An object whose form is Kubernetes' own."""


class Values(BaseModel):
    """Base of the chart's own values: camelCase, as in other charts; a key that is not known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


class Scheduling(Values):
    """Where pods of one kind run, and what they take."""

    resources: Kubernetes = Field(default_factory=dict, description="`requests` and `limits`.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels of their nodes.")
    tolerations: list[Kubernetes] = Field(default_factory=list, description="Taints that they bear.")
    affinity: Kubernetes = Field(default_factory=dict, description="Affinity, in Kubernetes' form.")


class Secrets(Values):
    """The secrets of hub and gateway."""

    existing: DnsName | Literal[""] = Field("", description="A Secret of yours instead of the chart's.")
    client_secret: str = Field("", description="The hub's secret at the identity provider.")


class Claim(Values):
    """A volume that only the hub mounts."""

    size: Quantity = Field("1Gi", description="Its size.")
    storage_class_name: str | None = Field(None, description="Its class; the cluster's default if absent.")


class Database(Values):
    """Where the hub keeps its records."""

    secret: DnsName | Literal[""] = Field(
        "", description="A Secret whose key `url` is the address of a PostgreSQL database; empty for SQLite."
    )
    claim: Claim = Claim()


class Images(Values):
    """The images of hub, gateway and provisioner; without a tag, the chart's version is taken."""

    hub: Image = Field("canfar-hub/hub", description="Of the hub.")
    gateway: Image = Field("canfar-hub/gateway", description="Of the gateway.")
    provisioner: Image = Field("canfar-hub/provisioner", description="Of the Jobs for homes.")
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        "IfNotPresent", description="When nodes ask for them again."
    )
    pull_secrets: list[DnsName] = Field(default_factory=list, description="Secrets of the release's namespace.")


class Hub(Scheduling):
    """The hub."""

    database: Database = Database()
    extra_config: dict[ScriptName, str] = Field(
        default_factory=dict, description="Python that follows `jupyterhub_config.py`, by name, in their order."
    )
    env: dict[VariableName, str] = Field(default_factory=dict, description="Further variables.")
    labels: dict[str, str] = Field(default_factory=dict, description="Further labels of its pod.")


class Service(Values):
    """The gateway's Service."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field("ClusterIP", description="Its type.")
    annotations: dict[str, str] = Field(default_factory=dict, description="Its annotations.")
    node_port: int | None = Field(None, ge=1, le=65535, description="Its port on nodes, for a NodePort.")
    load_balancer_source_ranges: list[Network] = Field(
        default_factory=list, description="From where a LoadBalancer may be reached; empty, from everywhere."
    )


class Gateway(Scheduling):
    """The gateway."""

    service: Service = Service()
    trusted_proxies: list[Network] = Field(
        default_factory=list, description="Networks of the ingress controller, which says who a visitor is."
    )


class Ingress(Values):
    """The way from outside to the gateway."""

    enabled: bool = Field(True, description="Whether there is an Ingress.")
    class_name: str = Field("", description="The ingress class; the cluster's default if empty.")
    annotations: dict[str, str] = Field(default_factory=dict, description="Its annotations.")
    tls_secret: DnsName | Literal[""] = Field(
        "", description="The Secret with the certificate for the hub's host and `*.` below it."
    )


class Claims(Values):
    """Claims of yours for the shared volume, one in each namespace."""

    sessions: DnsName | Literal[""] = Field("", description="In the namespace of sessions.")
    homes: DnsName | Literal[""] = Field("", description="In the namespace of homes.")


class SharedVolume(Values):
    """The shared volume with homes and projects."""

    volume: Kubernetes = Field(
        default_factory=dict,
        description="The source of a PersistentVolume, in Kubernetes' form: `nfs`, `csi`, `hostPath`."
        " On a cluster of one node it may be absent: a folder of the node.",
    )
    mount_options: list[str] = Field(default_factory=list, description="Of the volume.")
    capacity: Quantity = Field("1Ti", description="A number that Kubernetes asks for.")
    claims: Claims = Claims()


class Namespaces(Values):
    """The namespaces beside the release's own."""

    create: bool = Field(True, description="Whether the chart makes them, with Pod Security's labels.")
    sessions: DnsName | Literal[""] = Field("", description="Of sessions, which holds nothing else.")
    homes: DnsName | Literal[""] = Field("", description="Of the Jobs that make homes.")


class Monitors(Values):
    """What a Prometheus operator is told."""

    enabled: bool = Field(False, description="Whether it is made.")
    labels: dict[str, str] = Field(default_factory=dict, description="By which the operator finds it.")


class Monitoring(Values):
    """Metrics and alerts."""

    service_monitor: Monitors = Monitors()
    rules: Monitors = Monitors()


class SessionPolicy(Values):
    """What sessions may reach beside DNS and the gateway."""

    internet: bool = Field(True, description="Public addresses.")
    blocked: list[Network] = Field(description="Networks that are no internet.")
    egress: list[Kubernetes] = Field(
        default_factory=list, description="Further rules, in the form of a NetworkPolicy's `egress`."
    )


class NetworkPolicy(Values):
    """Who may talk to whom."""

    enabled: bool = Field(True, description="Whether policies are made.")
    ingress_from: list[Kubernetes] = Field(
        default_factory=list,
        description="The ingress controller's pods, in the form of a NetworkPolicy's `from`; empty, all.",
    )
    metrics_from: list[Kubernetes] = Field(
        default_factory=list, description="The pods of Prometheus, likewise."
    )
    dns: list[Kubernetes] = Field(description="The cluster's DNS, in the form of a NetworkPolicy's `to`.")
    sessions: SessionPolicy


class Prepull(Values):
    """Images that nodes get before anybody asks for them."""

    enabled: bool = Field(True, description="Whether nodes get images ahead.")
    pull_secrets: list[DnsName] = Field(default_factory=list, description="For private images.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels of those nodes.")
    tolerations: list[Kubernetes] = Field(default_factory=list, description="Taints that the pods bear.")


class Trust(Values):
    """Certificate authorities."""

    certificates: str = Field("", description="Further ones, in PEM, that the hub trusts.")


class Registries(Values):
    """Passwords for private images."""

    secret: DnsName | Literal[""] = Field(
        "", description="A Secret of the type kubernetes.io/dockerconfigjson."
    )


class ChartValues(Values):
    """All values of the chart."""

    site: Site
    catalogue: dict[FileName, CatalogueFile | None] = Field(description="Files by name; null removes one.")
    secrets: Secrets = Secrets()
    images: Images = Images()
    hub: Hub = Hub()
    gateway: Gateway = Gateway()
    ingress: Ingress = Ingress()
    storage: SharedVolume = SharedVolume()
    namespaces: Namespaces = Namespaces()
    registries: Registries = Registries()
    trust: Trust = Trust()
    network_policy: NetworkPolicy
    prepull: Prepull = Prepull()
    monitoring: Monitoring = Monitoring()
    global_: dict[str, Any] = Field(default_factory=dict, alias="global", description="Helm's own; not read.")


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the chart's values."""
    made = ChartValues.model_json_schema()
    found = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_without_defaults(made)}
    definitions = found["$defs"]
    for name, keys in DECIDED.items():
        _drop(definitions[name], keys)
    definitions["Cluster"].pop("required", None)
    definitions["Volume"].pop("required", None)
    definitions["Site"]["required"].append("public_url")
    return found


def _drop(model: dict[str, Any], keys: tuple[str, ...]) -> None:
    for key in keys:
        model["properties"].pop(key, None)
    if "required" in model:
        model["required"] = [key for key in model["required"] if key not in keys]


def _without_defaults(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without defaults, which are `values.yaml`'s to say, and without titles, which say nothing."""
    found = deepcopy(dict(schema))

    def walk(node: Any, named: bool) -> None:
        # Directly below `properties` and `$defs`, keys are names.
        if isinstance(node, dict):
            if not named:
                node.pop("default", None)
                node.pop("title", None)
                if "patternProperties" in node:  # other names are refused, as the models do
                    node["additionalProperties"] = False
            for key, value in node.items():
                walk(value, not named and key in ("properties", "$defs"))
        elif isinstance(node, list):
            for value in node:
                walk(value, False)

    walk(found, False)
    return found


if __name__ == "__main__":
    print(json.dumps(schema(), indent=1, ensure_ascii=False))
