"""Packages of npm that tests use, fetched once, and known by their digest."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tests.support.stack import ROOT

NPM = shutil.which("npm", path=f"{ROOT}/.venv/bin:{os.environ.get('PATH', os.defpath)}")


def unpacked(package: str, sha512: str, inside: str = "") -> Path:
    """The files of a package, or of one folder in it. They are no part of the project."""
    folder = ROOT / ".venv/share" / package.replace("@", "-")
    if not folder.exists():
        assert NPM, "npm is not installed"
        folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as draft:
            packing = [NPM, "pack", "--silent", "--pack-destination", draft, package]
            subprocess.run(packing, check=True, timeout=300, cwd=draft)
            (packed,) = Path(draft).glob("*.tgz")
            digest = hashlib.sha512(packed.read_bytes()).digest()
            assert base64.b64encode(digest).decode() == sha512, "the package is not the one that is known"
            with tarfile.open(packed) as archive:
                archive.extractall(draft, filter="data")
            (Path(draft) / "package" / inside).rename(folder)
    return folder
