"""`canfar-hub image`: a catalogue entry from what an image says of itself, in a registry or a file."""

import argparse
import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from canfar_hub.archives import Files, Layout, docker_archive, parsed
from canfar_hub.problem import Problem
from canfar_hub.references import DIGEST, Reference, parse_reference
from canfar_hub.registry import Registry
from canfar_spawner.labels import LabelError, entry

_PLATFORM = ("linux", "amd64")
"""What CANFAR's nodes run."""
_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


class Store(Protocol):
    """Where the parts of an image are, by digest."""

    async def manifest(self, name: str, accept: str) -> bytes:
        """A manifest, as it is."""

    async def blob(self, digest: str) -> bytes:
        """A blob, as it is."""


@dataclass(frozen=True)
class Image:
    """An image's name for the catalogue, and its configuration (config.md of the image specification)."""

    reference: str
    config: Mapping[str, Any]

    @property
    def labels(self) -> dict[str, str]:
        """Its labels. Raises ``Problem``."""
        inner = self.config.get("config") or {}
        labels = (inner.get("Labels") if isinstance(inner, dict) else None) or {}
        if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
            raise Problem(f"The labels of {self.reference} are no mapping of names to text.")
        return dict(labels)


def run(options: argparse.Namespace) -> int:
    """Prints the entry, ready for a file of the catalogue.

    Raises
    ------
    canfar_hub.problem.Problem
        The image cannot be read, or its labels cannot be used.
    """
    image = read(options.source, options.name)
    _refuse_foreign(image)
    try:
        found = entry(image.reference, image.labels)
    except LabelError as error:
        raise Problem(f"{image.reference} cannot be offered. {error}") from None
    given = found.model_dump(mode="json", exclude_unset=True)
    print(yaml.safe_dump({"profiles": [given]}, sort_keys=False, allow_unicode=True, width=1000), end="")
    return 0


def read(source: str, name: str) -> Image:
    """The image that `source` is: a file or folder, else a reference. `name` is its own where a file has none.

    Raises
    ------
    canfar_hub.problem.Problem
        It cannot be had, or is not whole.
    """
    path = Path(source)
    if path.exists():
        return _from_file(path, name)
    if name:
        raise Problem(f"There is no file {source}; --name is for files, whose image may have no name.")
    return asyncio.run(_from_registry(parse_reference(source)))


async def _from_registry(reference: Reference) -> Image:
    async with Registry(reference) as registry:
        wanted = reference.digest or reference.tag or "latest"
        digest, config = await _config(registry, wanted, reference.pinned(reference.digest))
    return Image(reference.pinned(digest), config)


def _from_file(path: Path, name: str) -> Image:
    files = Files(path)
    if path.suffix == ".json":
        return Image(_named(name, "", path).pinned(""), parsed(files.whole(), str(path)))
    if files.read("oci-layout") is not None:
        layout = Layout(path, files)
        digest, config = asyncio.run(_config(layout, layout.digest, str(path)))
        return Image(_named(name, layout.name, path).pinned(digest), config)
    found = docker_archive(path, files)
    if found is None:
        raise Problem(f"{path} is no archive of an image; write one with `podman save --format oci-archive`.")
    # Its manifest is written when it is pushed, so its digest is not known yet.
    return Image(_named(name, found[1], path).pinned(""), found[0])


def _named(given: str, own: str, path: Path) -> Reference:
    try:
        return parse_reference(given or own)
    except Problem:
        if given:
            raise
        raise Problem(
            f"{path} does not say where its image is pulled from; say it with --name, such as"
            " --name example.org/team/marimo:1.0."
        ) from None


async def _config(store: Store, name: str, where: str) -> tuple[str, dict[str, Any]]:
    """The digest of what `name` stands for, and the configuration of its image for our platform."""
    accept = ", ".join((*_INDEXES, *_MANIFESTS))
    content = await store.manifest(name, accept)
    digest = _digest(content)
    _check(content, name if DIGEST.fullmatch(name) else digest, where)
    found = parsed(content, where)
    if isinstance(found.get("manifests"), list):
        chosen = _for_our_platform(found["manifests"], where)
        content = await store.manifest(chosen, accept)
        _check(content, chosen, where)
        found = parsed(content, where)
    config = _digest_of(found.get("config"), where)
    content = await store.blob(config)
    _check(content, config, where)
    return digest, parsed(content, where)


def _for_our_platform(manifests: list[Any], where: str) -> str:
    platforms = []
    for one in manifests:
        platform = one.get("platform") if isinstance(one, dict) else None
        given = platform if isinstance(platform, dict) else {}
        if (given.get("os"), given.get("architecture")) == _PLATFORM:
            return _digest_of(one, where)
        platforms.append(f"{given.get('os')}/{given.get('architecture')}")
    raise Problem(f"{where} is for {', '.join(platforms)}, and sessions run on {'/'.join(_PLATFORM)}.")


def _digest_of(descriptor: Any, where: str) -> str:
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise Problem(f"{where} holds no image: what should name its parts names none.")
    return digest


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _check(content: bytes, digest: str, where: str) -> None:
    if _digest(content) != digest:
        raise Problem(f"{where} is not whole: a part of it is not what its digest {digest} says.")


def _refuse_foreign(image: Image) -> None:
    platform = image.config.get("os", "linux"), image.config.get("architecture", "amd64")
    if platform != _PLATFORM:
        told = "/".join(map(str, platform))
        raise Problem(f"{image.reference} is for {told}, and sessions run on {'/'.join(_PLATFORM)}.")
