"""The chart, installed on a real cluster, and the world around it: web server, identity services, database."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import trustme
import yaml

from tests.support.cluster import OTHER, Ground, kubectl, listed, open_path, profiles
from tests.support.identities import SURVEY
from tests.support.stack import ROOT, Person, until

CHART = ROOT / "helm/canfar-hub"
HELM = ROOT / ".venv/bin/helm"
RELEASE = "canfar"
IMAGES = {
    "hub": "localhost/canfar/hub:test",
    "gateway": "localhost/canfar/gateway:test",
    "provisioner": "localhost/canfar/provisioner:test",
}
_WORLD = "localhost/canfar/world:test"
_SUPPORT = ROOT / "tests/support/world"
_HOSTS = ("hub", "idp", "grid")
_LOCKED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def helm(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs Helm."""
    done = subprocess.run([HELM, *arguments], capture_output=True, text=True, timeout=600)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def apply(body: Mapping[str, Any]) -> None:
    """Makes an object, or changes it."""
    kubectl("apply", "-f", "-", given=body)


def namespace(name: str, level: str = "restricted") -> None:
    """Makes a namespace that enforces a level of Pod Security."""
    labels = {"pod-security.kubernetes.io/enforce": level}
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})


class _Through(httpx.HTTPTransport):
    """Connects to one address whatever the host."""

    def __init__(self, ip: str, context: ssl.SSLContext) -> None:
        super().__init__(verify=context)
        self._ip = ip

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        there = request.url.copy_with(host=self._ip)
        extensions = {**request.extensions, "sni_hostname": request.url.host}
        return super().handle_request(
            httpx.Request(
                request.method, there, headers=request.headers, stream=request.stream, extensions=extensions
            )
        )


@dataclass
class World:
    """What a site has beside the hub, in a namespace of its own."""

    name: str
    authority: trustme.CA = field(default_factory=trustme.CA)
    password: str = field(default_factory=lambda: secrets.token_hex(16))

    def url(self, service: str) -> str:
        """The public address of `hub`, `idp` or `grid`."""
        return f"https://{service}.{self.name}.svc.cluster.local"

    @property
    def certificates(self) -> str:
        """The authority of all these addresses, in PEM."""
        return self.authority.cert_pem.bytes().decode()

    def context(self) -> ssl.SSLContext:
        """Trusts that authority alone."""
        return ssl.create_default_context(cadata=self.certificates)

    @property
    def web(self) -> dict[str, Any]:
        """The web server's pod, as a NetworkPolicy names it."""
        space = {"matchLabels": {"kubernetes.io/metadata.name": self.name}}
        return {"namespaceSelector": space, "podSelector": {"matchLabels": {"app": "web"}}}

    def database(self, host: str) -> str:
        """The address of a database of that name's host."""
        return f"postgresql+psycopg://canfar:{self.password}@{host}/postgres"

    def service_ip(self, service: str) -> str:
        """The address of a Service in the cluster."""
        return kubectl("get", "service", "-n", self.name, service, "-o", "jsonpath={.spec.clusterIP}")

    def make(self, gateway: str) -> None:
        """Makes all, in front of the Service `gateway`, and waits until it runs."""
        namespace(self.name)
        issued = self.authority.issue_cert(
            *(f"{host}.{self.name}.svc.cluster.local" for host in (*_HOSTS, "*.hub"))
        )
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        self._secret("tls", {"tls.crt": chain, "tls.key": issued.private_key_pem.bytes()})
        self._secret("database", {"password": self.password.encode()})
        dns = kubectl("get", "service", "-n", "kube-system", "kube-dns", "-o", "jsonpath={.spec.clusterIP}")
        conf = (_SUPPORT / "nginx.conf").read_text().replace("@RESOLVER@", dns).replace("@GATEWAY@", gateway)
        files = {
            "nginx.conf": conf,
            "services.py": (_SUPPORT / "services.py").read_text(),
            "postgres.sh": (_SUPPORT / "postgres.sh").read_text(),
            "accounts.yaml": (ROOT / "demo/accounts.yaml").read_text(),
            "authorities.pem": self.certificates,
        }
        apply(self._object("v1", "ConfigMap", "world", data=files))
        for name, commands in self._programs().items():
            apply(self._deployment(name, commands))
        for host in _HOSTS:
            apply(self._service(host, "web", 443, 8443))
        apply(self._service("postgres", "postgres", 5432, 5432))
        for name in self._programs():
            kubectl("rollout", "status", "-n", self.name, f"deployment/{name}", "--timeout=110s")
        for name, port in (("hub", 443), ("postgres", 5432)):
            address = (self.service_ip(name), port)
            until(lambda address=address: _takes(address), f"connections to {name}")

    def _object(self, version: str, kind: str, name: str, **rest: Any) -> dict[str, Any]:
        metadata = {"namespace": self.name, "name": name}
        return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}

    def _secret(self, name: str, data: Mapping[str, bytes]) -> None:
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        apply(self._object("v1", "Secret", name, data=encoded))

    def _service(self, name: str, app: str, port: int, target: int) -> dict[str, Any]:
        spec = {"selector": {"app": app}, "ports": [{"port": port, "targetPort": target}]}
        return self._object("v1", "Service", name, spec=spec)

    def _programs(self) -> dict[str, dict[str, tuple[list[str], int | None]]]:
        """The commands of each pod's containers, with the port that is there once one is ready."""
        services = ["python", "/etc/world/services.py"]
        provider = [*services, "provider", self.url("idp"), f"{self.url('hub')}/hub/oauth_callback"]
        web: dict[str, tuple[list[str], int | None]] = {
            "web": (["nginx", "-c", "/etc/world/nginx.conf"], 8443),
            "provider": (provider, None),
            "grid": ([*services, "grid", self.url("grid"), self.url("idp")], None),
        }
        return {"web": web, "postgres": {"postgres": (["sh", "/etc/world/postgres.sh"], 5432)}}

    def _deployment(self, app: str, commands: Mapping[str, tuple[list[str], int | None]]) -> dict[str, Any]:
        labels = {"app": app}
        volumes = [
            {"name": "files", "configMap": {"name": "world"}},
            {"name": "tls", "secret": {"secretName": "tls"}},
            *({"name": f"tmp-{name}", "emptyDir": {}} for name in commands),
        ]
        spec = {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 1,
            "containers": [_container(name, *what) for name, what in commands.items()],
            "volumes": volumes,
        }
        template = {"metadata": {"labels": labels}, "spec": spec}
        body = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
        return self._object("apps/v1", "Deployment", app, spec=body)


def _takes(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, 2).close()
        return True
    except OSError:
        return False


def _container(name: str, command: list[str], port: int | None) -> dict[str, Any]:
    password = {"secretKeyRef": {"name": "database", "key": "password"}}
    client = {"name": "CANFAR_CLIENT_SECRET", "value": "client-secret-of-the-tests"}
    return {
        "name": name,
        "image": _WORLD,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "env": [
            {"name": "PASSWORD", "valueFrom": password} if name == "postgres" else client,
            {"name": "SSL_CERT_FILE", "value": "/etc/world/authorities.pem"},
        ],
        "securityContext": _LOCKED,
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "volumeMounts": [
            {"name": "files", "mountPath": "/etc/world"},
            {"name": "tls", "mountPath": "/etc/world-tls"},
            {"name": f"tmp-{name}", "mountPath": "/tmp"},
        ],
        **({"readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1}} if port else {}),
    }


@dataclass
class Installed:
    """A release of the chart, as people and administrators meet it."""

    name: str
    """The release's namespace."""
    world: World
    ground: Ground
    top: Path
    """A folder of its own on this machine, which the node sees, too."""

    def __post_init__(self) -> None:
        self.url = self.world.url("hub")
        self.address = (self.world.service_ip("hub"), 443)
        self.tls = self.world.context()

    @property
    def file(self) -> Path:
        """The release's values file."""
        return self.top / "values.yaml"

    def host_of(self, user: str) -> str:
        """The host of a user's sessions."""
        return f"{user}.{self.url.removeprefix('https://')}"

    def client(self, **settings: Any) -> httpx.Client:
        """A browser-like client that reaches every host of the place."""
        settings = {"follow_redirects": True, "timeout": 60, "headers": {"Accept": "text/html"}} | settings
        return httpx.Client(transport=_Through(self.address[0], self.tls), **settings)

    def sign_in(self, name: str) -> Person:
        """Signs somebody in at the provider."""
        return Person(self, name)

    def pods(self, component: str) -> list[dict[str, Any]]:
        """The pods of `hub` or `gateway`, those that end included."""
        return listed("pods", "-n", self.name, "-l", f"app.kubernetes.io/component={component}")

    def pod(self, component: str) -> str:
        """The name of the pod of `hub` or `gateway`."""
        found = [pod for pod in self.pods(component) if "deletionTimestamp" not in pod["metadata"]]
        return str(found[0]["metadata"]["name"]) if found else ""

    def run(self, component: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the pod of `hub` or `gateway`."""
        return subprocess.run(
            ["kubectl", "exec", "-n", self.name, self.pod(component), "--", *command],
            capture_output=True,
            text=True,
            timeout=120,
        )

    def upgrade(self, values: Mapping[str, Any], chart: Path = CHART) -> None:
        """Installs or upgrades the release, and waits until hub and gateway are ready."""
        self.file.write_text(yaml.safe_dump(dict(values)))
        helm("upgrade", "--install", RELEASE, str(chart), "-n", self.name, "-f", str(self.file))
        self.is_up()

    def is_up(self) -> None:
        """Waits until hub and gateway are ready; fails with what they said."""
        for component in ("hub", "gateway"):
            what = f"deployment/{component}"
            told = kubectl("rollout", "status", "-n", self.name, what, "--timeout=100s", check=False)
            said = "" if "successfully" in told else kubectl("logs", "-n", self.name, what, check=False)
            assert "successfully" in told, f"{component}: {said}"
        # The cluster's network follows a little later.
        until(lambda: self.answers(f"{self.url}/hub/login"), "the page for signing in")

    def answers(self, url: str) -> bool:
        """Whether there is a page."""
        with self.client() as client, contextlib.suppress(httpx.TransportError):
            return client.get(url).status_code == 200
        return False


def site_values(world: World, folder: Path) -> dict[str, Any]:
    """Values as an administrator writes them, with resources for a small node."""
    projects = [{"name": "survey-x", "write": [SURVEY]}, {"name": "other-project", "write": [OTHER]}]
    catalogue = {"tests.yaml": {"profiles": profiles()}, "notebooks.yaml": None}
    return {
        "site": {
            "public_url": world.url("hub"),
            "kinds": ["notebook", "desktop", "desktop-app", "vscode", "carta", "firefly", "contributed"],
            "sign_in": {
                "issuer": world.url("idp"),
                "platform_groups": ["ivo://example.org/gms?canfar-users"],
                "admin_groups": ["ivo://example.org/gms?canfar-admins"],
            },
            "groups": {
                "authority": "example.org",
                "gms": {"search": f"{world.url('grid')}/gms/search", "resource": "ivo://example.org/gms"},
            },
            "credentials": {"cred": f"{world.url('grid')}/cred/generate"},
            "limits": {"sessions": 4, "ceiling": {"cores": 2, "memory": 4}},
            "cluster": {
                "volume": {"projects": projects},
                **{"scratch": 0.1, "shared_memory": 0.1, "disk": 1, "guaranteed": 0.05},
            },
        },
        "catalogue": catalogue,
        "secrets": {"clientSecret": "client-secret-of-the-tests"},
        "images": IMAGES,
        "storage": {"volume": {"hostPath": {"path": str(folder)}}, "capacity": "1Gi"},
        "hub": {"resources": {"requests": {"cpu": "10m", "memory": "128Mi"}}},
        "gateway": {
            "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
            "trustedProxies": ["10.244.0.0/16"],
        },
        "trust": {"certificates": world.certificates},
        "networkPolicy": {"ingressFrom": [world.web]},
    }


def records_on_a_claim(found: Installed) -> dict[str, Any]:
    """Values of a small site: no projects, and records in SQLite on a claim, whose volume this makes."""
    records = found.top / "records"
    records.mkdir()
    os.chown(records, 10101, 10101)  # volumes of this kind take no fsGroup
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "shared",
        "hostPath": {"path": str(records)},
        "claimRef": {"namespace": found.name, "name": "hub"},
    }
    metadata = {"name": f"{found.name}-hub"}
    apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec})
    values = site_values(found.world, found.ground.folder)
    values["site"]["cluster"]["volume"]["projects"] = []
    values["hub"]["database"] = {"claim": {"storageClassName": "shared"}}
    return values


@contextlib.contextmanager
def place(top: Path) -> Iterator[Installed]:
    """The world for a release in namespaces of its own, without the release; all is removed at the end."""
    open_path(top)
    name = f"canfar-chart-{secrets.token_hex(3)}"
    world = World(f"{name}-world")
    folder = top / "arc"
    folder.mkdir(mode=0o755)
    try:
        namespace(name)
        world.make(f"gateway.{name}.svc.cluster.local")
        yield Installed(name, world, Ground(f"{name}-sessions", f"{name}-homes", folder), top)
    finally:
        names = [name, world.name, f"{name}-sessions", f"{name}-homes"]
        helm("uninstall", RELEASE, "-n", name, "--no-hooks", check=False)
        kubectl("delete", "namespace", *names, "--wait=false", "--ignore-not-found", check=False)
        volumes = [f"{space}-data" for space in names[2:]]
        kubectl("delete", "pv", *volumes, f"{name}-hub", "--wait=false", "--ignore-not-found", check=False)


def rights(account: str, space: str) -> list[tuple[str, str]]:
    """What a service account (`namespace:name`) may do in a namespace: resources and verbs.

    That everybody may ask what they may do, and read about the API itself, is left out.
    """
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": space},
    }
    asked = ["create", "-f", "-", "-o", "json", "--validate=false", f"--as=system:serviceaccount:{account}"]
    rules = json.loads(kubectl(*asked, given=review))["status"]["resourceRules"]
    found: dict[str, set[str]] = {}
    for rule in rules:
        for resource in rule["resources"]:
            if not resource.startswith("selfsubject"):
                found.setdefault(resource, set()).update(rule["verbs"])
    return [(what, ", ".join(sorted(verbs))) for what, verbs in sorted(found.items())]


def decoded(secret: str, space: str) -> dict[str, str]:
    """The data of a Secret."""
    found = json.loads(kubectl("get", "secret", "-n", space, secret, "-o", "json"))["data"]
    return {key: base64.b64decode(value).decode() for key, value in found.items()}
