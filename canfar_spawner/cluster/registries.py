"""A site's credentials for private images, and which of them a session's image needs."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from canfar_site.yamlfile import FileError

_DOCKER_HUB = "docker.io"
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"
"""How container runtimes and their tools spell it."""
_DOCKER_HUB_HOSTS = frozenset({_DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})
Registries = Mapping[str, str]
"""By host: the name and password as `auth` has them. Not to be logged."""


def read(path: Path) -> Registries:
    """Reads a file of the form of Docker's `config.json`.

    Raises
    ------
    canfar_site.yamlfile.FileError
        The file is missing or unreadable, or is not of that form. It quotes nothing that is secret.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(path, f"cannot be read ({error.strerror}).") from None
    except ValueError:  # whose own words may quote a password
        raise FileError(path, "is not JSON; write it as `docker login` does.") from None
    listed = content.get("auths") if isinstance(content, dict) else None
    if not isinstance(listed, dict):
        raise FileError(path, "has no `auths`; write it as `docker login` does.")
    found: dict[str, str] = {}
    for key, entry in listed.items():
        host = _host_of_key(key)
        if not host:
            raise FileError(path, f"auths: “{key}” is not the host of a registry; name it without a path.")
        if host in found:
            raise FileError(path, f"auths: {host} is there twice; remove one.")
        auth = _auth(entry)
        if not auth:
            raise FileError(path, f"auths: {key} has no name and password; give them as `auth`.")
        found[host] = auth
    return found


def config_for(image: str, registries: Registries) -> str:
    """The content of the pull Secret for an image; empty if its registry asks for none."""
    host = host_of(image)
    if host not in registries:
        return ""
    key = _DOCKER_HUB_KEY if host == _DOCKER_HUB else host
    return json.dumps({"auths": {key: {"auth": registries[host]}}})


def host_of(image: str) -> str:
    """The registry of an image; as everywhere, Docker Hub if its name begins with none."""
    first, slash, _ = image.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        return _DOCKER_HUB
    return _one_spelling(first)


def _host_of_key(key: str) -> str:
    """The host of a key, which tools write as an address of the registry's API, too; empty if there is more."""
    plain = key.removeprefix("https://").removeprefix("http://")
    host, _, path = plain.partition("/")
    return _one_spelling(host) if path.strip("/") in ("", "v1", "v2") else ""


def _one_spelling(host: str) -> str:
    lower = host.lower()
    return _DOCKER_HUB if lower in _DOCKER_HUB_HOSTS else lower


def _auth(entry: Any) -> str:
    """An entry's name and password in base64; empty if it has none, as where a helper program keeps them."""
    if not isinstance(entry, dict):
        return ""
    given, name, password = (entry.get(key) or "" for key in ("auth", "username", "password"))
    if not all(isinstance(one, str) for one in (given, name, password)):
        return ""
    if name and password:
        return base64.b64encode(f"{name}:{password}".encode()).decode()
    try:
        return given if b":" in base64.b64decode(given, validate=True) else ""
    except (binascii.Error, ValueError):
        return ""
