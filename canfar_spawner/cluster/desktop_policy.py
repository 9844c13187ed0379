"""The NetworkPolicy of a desktop: it and its applications reach each other, and no other session. Pure."""

from __future__ import annotations

from typing import Any

from canfar_spawner.cluster.pod import DESKTOP_OF, labels
from canfar_spawner.spec import SessionSpec

_X = 6001
"""The X server of a desktop shows display 1, at 6000 and the display's number."""
_SAMP = (32768, 60999)
"""Where the SAMP hub and its clients listen. All take a free port of the kernel's choice, and in a network of
its own, as each pod has, Linux chooses among these, however the node is set."""


def desktop_policy(spec: SessionSpec, start: str, pod: str, uid: str) -> dict[str, Any]:
    """The policy of one start of a desktop, which goes with its pod.

    It opens, beside what other policies of the namespace open: to a pod that any selects, all else is closed.
    """
    selected = {"matchLabels": {DESKTOP_OF: spec.id}}
    first, last = _SAMP
    ports = [{"protocol": "TCP", "port": _X}, {"protocol": "TCP", "port": first, "endPort": last}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            # Of each start its own: one that an earlier start left is about to go with its pod.
            "name": f"canfar-{spec.id}-{start}",
            "labels": {"app.kubernetes.io/part-of": "canfar", **labels(spec)},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}],
        },
        "spec": {
            "podSelector": selected,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": selected}], "ports": ports}],
            "egress": [{"to": [{"podSelector": selected}], "ports": ports}],
        },
    }
