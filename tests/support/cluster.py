"""A hub beside a real Kubernetes cluster: namespaces and volumes for it, and what runs in its pods."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from astropy.utils.data import get_pkg_data_filename

from canfar_auth.allocator import Allocator
from canfar_site.settings import Posix
from canfar_spawner.labels import entry
from tests.support.identities import SURVEY
from tests.support.stack import ROOT, Stack, running

NOTEBOOK = os.environ.get("CANFAR_TEST_NOTEBOOK", "localhost/canfar/notebook:test")
VSCODE = os.environ.get("CANFAR_TEST_VSCODE", "localhost/canfar/vscode:test")
MARIMO = os.environ.get("CANFAR_TEST_MARIMO", "localhost/canfar/marimo:test")
DESKTOP = os.environ.get("CANFAR_TEST_DESKTOP", "localhost/canfar/desktop:test")
DS9 = os.environ.get("CANFAR_TEST_DS9", "localhost/canfar/ds9:test")
TOPCAT = os.environ.get("CANFAR_TEST_TOPCAT", "localhost/canfar/topcat:test")
STAND_INS = os.environ.get("CANFAR_TEST_STAND_INS", "localhost/canfar/test-{}:test")
"""The images of tests/support/stand_ins, each by its name."""
PROVISIONER = os.environ.get("CANFAR_TEST_PROVISIONER", "localhost/canfar/provisioner:test")
BASE = "docker.io/library/debian:bookworm-slim"
OTHER = "ivo://example.org/gms?other-project"
"""The group of a project that none of the tests' people is in."""


def kubectl(*arguments: str, given: object = None, check: bool = True) -> str:
    """What kubectl says; `given` is applied as JSON on its standard input."""
    done = subprocess.run(
        ["kubectl", *arguments],
        input=json.dumps(given) if given is not None else None,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def listed(*arguments: str) -> list[dict[str, Any]]:
    """The objects that `kubectl get` lists."""
    return list(json.loads(kubectl("get", *arguments, "-o", "json"))["items"])


@dataclass(frozen=True)
class Ground:
    """Two namespaces, and one folder of the node that both see as a volume."""

    sessions: str
    homes: str
    folder: Path

    def pods(self) -> list[dict[str, Any]]:
        """The sessions' pods."""
        return listed("pods", "-n", self.sessions, "-l", "canfar.net/id")

    def pod(self, server: str) -> dict[str, Any]:
        """The pod of one session, by its server's name; empty if there is none."""
        named = "hub.jupyter.org/servername"
        found = [pod for pod in self.pods() if pod["metadata"]["annotations"].get(named) == server]
        return found[0] if found else {}

    def secrets(self) -> list[dict[str, Any]]:
        """The sessions' Secrets."""
        return listed("secrets", "-n", self.sessions, "-l", "canfar.net/id")

    def run(self, server: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the pod of one session."""
        name = self.pod(server)["metadata"]["name"]
        return subprocess.run(
            ["kubectl", "exec", "-n", self.sessions, name, "-c", "notebook", "--", *command],
            capture_output=True,
            text=True,
            timeout=120,
        )

    def log(self, server: str) -> str:
        """What the program of one session has printed."""
        return kubectl("logs", "-n", self.sessions, self.pod(server)["metadata"]["name"], "-c", "notebook")


@contextmanager
def ground(folder: Path) -> Iterator[Ground]:
    """Makes namespaces and volumes on `folder`, which the cluster's node has to see, and removes them."""
    mark = secrets.token_hex(3)
    found = Ground(f"canfar-test-{mark}", f"canfar-test-{mark}-homes", folder)
    names = {found.sessions: "restricted", found.homes: "privileged"}
    try:
        for name, level in names.items():
            enforce = {"pod-security.kubernetes.io/enforce": level}
            metadata = {"name": name, "labels": enforce}
            kubectl("apply", "-f", "-", given={"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
            for body in _volume(name, folder):
                kubectl("apply", "-f", "-", given=body)
        yield found
    finally:
        kubectl("delete", "namespace", *names, "--wait=false", check=False)
        kubectl("delete", "pv", *names, "--wait=false", check=False)


def _volume(name: str, folder: Path) -> list[dict[str, Any]]:
    """A volume on the folder, for the claim of one namespace alone."""
    common = {"accessModes": ["ReadWriteMany"], "storageClassName": "shared"}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                **common,
                "capacity": {"storage": "1Gi"},
                "hostPath": {"path": str(folder)},
                "claimRef": {"namespace": name, "name": "data"},
                "persistentVolumeReclaimPolicy": "Retain",
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"namespace": name, "name": "data"},
            "spec": {**common, "resources": {"requests": {"storage": "1Gi"}}, "volumeName": name},
        },
    ]


def write_site(data: Path, found: Ground, **changes: Any) -> Path:
    """The site file of a hub whose sessions are pods, and its catalogue; returns the folder of both."""
    folder = data.parent
    site = yaml.safe_load((ROOT / "demo/site.yaml").read_text())
    site["limits"] = {"sessions": 4, "ceiling": {"cores": 2, "memory": 4}}
    site["cluster"] = {
        "volume": {
            "claim": "data",
            "projects": [
                {"name": "survey-x", "write": [SURVEY]},
                {"name": "other-project", "write": [OTHER]},
            ],
        },
        "homes": {
            "source": "provisioner",
            "image": PROVISIONER,
            "namespace": found.homes,
            "claim": "data",
        },
        "scratch": 0.1,
        "shared_memory": 0.1,
        "disk": 1,
        "guaranteed": 0.05,
    }
    for key, value in changes.items():
        site[key] = {**site.get(key, {}), **value} if isinstance(value, dict) else value
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    (folder / "catalogue").mkdir(exist_ok=True)
    (folder / "catalogue/tests.yaml").write_text(yaml.safe_dump({"profiles": profiles()}))
    return folder


def profiles() -> list[dict[str, Any]]:
    small = {"cores": [0.5], "memory": [1]}
    return [
        {
            "profile": "notebook",
            "title": "Notebook",
            "description": "JupyterLab.",
            "kinds": ["notebook"],
            "images": [NOTEBOOK],
            "resources": small,
            "environment": {"BRACES": "{username} $(skaha_username) $$(HOME) $(NOTHING) $HOME"},
        },
        {
            "profile": "desktop",
            "title": "Desktop",
            "description": "Xfce.",
            "kinds": ["desktop"],
            "images": [DESKTOP],
            "resources": small,
        },
        *(
            {
                "profile": program,
                "title": title,
                "description": "Shows its windows on a desktop.",
                "kinds": ["desktop-app"],
                "images": [image],
                "command": [program],
                "resources": small,
            }
            for program, title, image in (("ds9", "SAOImage DS9", DS9), ("topcat", "TOPCAT", TOPCAT))
        ),
        *(
            {
                "profile": name,
                "title": name.title(),
                "description": "An image that stands in for another one.",
                "kinds": [kind],
                "images": [STAND_INS.format(name)],
                "resources": small,
            }
            for name, kind in (("carta", "carta"), ("firefly", "firefly"), ("hostile", "contributed"))
        ),
        {
            "profile": "dies",
            "title": "Dies",
            "description": "Debian's image has no program to run.",
            "kinds": ["contributed"],
            "images": [BASE],
            "resources": small,
        },
        {
            "profile": "missing",
            "title": "Missing",
            "description": "An image that nobody made.",
            "kinds": ["notebook"],
            "images": ["localhost/canfar/no-such-image:1"],
            "resources": small,
        },
        {
            "profile": "team",
            "title": "Team",
            "description": "For a group that nobody is in.",
            "kinds": ["notebook"],
            "images": [NOTEBOOK],
            "groups": [OTHER],
            "resources": small,
        },
        {
            "profile": "large",
            "title": "Large",
            "description": "More than any node has.",
            "kinds": ["notebook"],
            "images": [NOTEBOOK],
            "resources": {"cores": [2], "memory": [1]},
            "extra_resources": {"example.org/telescope": "1"},
        },
        {
            "profile": "vscode",
            "title": "VS Code",
            "description": "An editor.",
            "kinds": ["vscode"],
            "images": [VSCODE],
            "resources": small,
        },
        {**_said_by_labels("marimo", MARIMO), "resources": small},
    ]


def _said_by_labels(name: str, image: str) -> dict[str, Any]:
    """The entry of one of our images, as the labels in its Dockerfile say."""
    text = (ROOT / "images" / name / "Dockerfile").read_text()
    labels = dict(re.findall(r'([a-z.-]+)="([^"]*)"', text))
    return entry(image, labels).model_dump(mode="json", exclude_unset=True)


def project(arc: Path, name: str, group: str, database: str) -> None:
    """Makes a project's directory with a FITS file for its group, under the number that the hub will know."""
    posix = Posix()
    gids = Allocator(database, posix.uids, posix.gids).groups([group])
    folder = arc / "projects" / name
    folder.mkdir(parents=True)
    shutil.copy(get_pkg_data_filename("data/m13.fits", "astropy.io.fits.hdu.compressed.tests"), folder)
    for path, mode in ((folder, 0o2770), (folder / "m13.fits", 0o640)):
        os.chown(path, 0, gids[group])
        path.chmod(mode)


def new_data(top: Path) -> Path:
    """A hub's folder in `top`, with two projects; pods of any account can get to it."""
    open_path(top)
    data = top / "data"
    data.mkdir(mode=0o711)
    projects(data / "arc", f"sqlite:///{data / 'hub.sqlite'}")
    return data


def open_path(top: Path) -> None:
    """Lets pods of any account get to a folder."""
    for folder in (top, *top.parents):
        if folder.stat().st_mode & 0o001 == 0:
            folder.chmod(folder.stat().st_mode | 0o111)


def projects(arc: Path, database: str) -> None:
    """Makes the two projects of the tests on a volume."""
    project(arc, "survey-x", SURVEY, database)
    project(arc, "other-project", OTHER, database)


@contextmanager
def hub(data: Path, found: Ground, **changes: Any) -> Iterator[Stack]:
    """The embedded hub, with pods of the cluster as its sessions."""
    folder = write_site(data, found, **changes)
    before = os.environ.get("CANFAR_NAMESPACE")
    os.environ["CANFAR_NAMESPACE"] = found.sessions
    try:
        options = ("--site", str(folder / "site.yaml"), "--catalogue", str(folder / "catalogue"))
        with running(data, *options) as stack:
            yield stack
    finally:
        os.environ.pop("CANFAR_NAMESPACE")
        if before is not None:
            os.environ["CANFAR_NAMESPACE"] = before
