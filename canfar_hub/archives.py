"""Images in files: layouts of the Open Container Initiative, as folders or archives, and what Docker saves."""

import json
import tarfile
from pathlib import Path
from typing import Any

from canfar_hub.problem import Problem

_LIMIT = 4 * 2**20  # bytes of one JSON file


class Files:
    """What is in a folder or a tar archive, by its path there."""

    def __init__(self, source: Path) -> None:
        self._source = source

    def whole(self) -> bytes:
        """The content of the file itself. Raises ``Problem``."""
        try:
            return self._source.read_bytes()
        except OSError as error:
            raise Problem(f"{self._source} cannot be read ({error.strerror}).") from None

    def read(self, name: str) -> bytes | None:
        """The content of a regular file; None if there is none. Raises ``Problem``."""
        try:
            if self._source.is_dir():
                found = self._source / name
                return found.read_bytes() if found.is_file() and found.stat().st_size <= _LIMIT else None
            with tarfile.open(self._source) as archive:
                for member in archive:
                    if member.name.removeprefix("./") == name and member.isfile() and member.size <= _LIMIT:
                        content = archive.extractfile(member)
                        return content.read() if content else None
        except (OSError, tarfile.TarError, EOFError):
            raise Problem(f"{self._source} cannot be read as an archive; give one of an image.") from None
        return None


class Layout:
    """An image in an OCI layout (image-layout.md of the image specification)."""

    def __init__(self, source: Path, files: Files) -> None:
        self._source, self._files = source, files
        self.top = self._only_one()

    def _only_one(self) -> dict[str, Any]:
        found = parsed(self._files.read("index.json") or b"", str(self._source))
        manifests = found.get("manifests")
        if not isinstance(manifests, list) or len(manifests) != 1 or not isinstance(manifests[0], dict):
            raise Problem(f"{self._source} does not hold exactly one image; save the image alone.")
        return dict(manifests[0])

    @property
    def digest(self) -> str:
        """The digest of its manifest, or of the index of its platforms' manifests."""
        return str(self.top.get("digest", ""))

    @property
    def name(self) -> str:
        """What its annotations call it; may be empty, or a tag alone."""
        annotations = self.top.get("annotations")
        given = annotations if isinstance(annotations, dict) else {}
        for key in ("io.containerd.image.name", "org.opencontainers.image.ref.name"):
            if isinstance(given.get(key), str):
                return str(given[key])
        return ""

    async def manifest(self, name: str, accept: str) -> bytes:
        """A manifest by digest, as it is. Raises ``Problem``."""
        return await self.blob(name)

    async def blob(self, digest: str) -> bytes:
        """A blob, as it is. Raises ``Problem``."""
        found = self._files.read(f"blobs/{digest.replace(':', '/')}")
        if found is None:
            raise Problem(f"{self._source} lacks {digest}; save the image again.")
        return found


def docker_archive(source: Path, files: Files) -> tuple[dict[str, Any], str] | None:
    """An image's configuration in what `docker save` writes, and its name there; None if it is nothing such."""
    listed = files.read("manifest.json")
    if listed is None:
        return None
    try:
        (only,) = json.loads(listed)
        config, tags = str(only["Config"]), only.get("RepoTags") or [""]
    except (ValueError, TypeError, KeyError):
        raise Problem(f"{source} does not hold exactly one image; save the image alone.") from None
    return parsed(files.read(config) or b"", str(source)), str(tags[0])


def parsed(content: bytes, where: str) -> dict[str, Any]:
    """The object in JSON text. Raises ``Problem``, which names `where` it comes from."""
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Problem(f"{where} holds no image: what should describe it is no JSON object.")
    return found
