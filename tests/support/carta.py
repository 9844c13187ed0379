"""CARTA for tests: its front end from npm, and its program, or the stand-in where the machine has none."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tests.support.stack import ROOT

FRONTEND = "carta-frontend@6.0.0"
_SHA512 = "pEUMTfPc25C2vM2NcxZKpQ7Kwkp7s55yp2perS4YC6zXYswCgTVPBwWLgSRRSk5yyT/f/EwKqVRMjc8YEOclHQ=="
_FOLDER = ROOT / ".venv/share" / FRONTEND.replace("@", "-")
NPM = shutil.which("npm", path=f"{ROOT}/.venv/bin:{os.environ.get('PATH', os.defpath)}")


def frontend() -> Path:
    """The built files of the front end, fetched once; under the GPL, and no part of the project."""
    if not _FOLDER.exists():
        assert NPM, "npm is not installed"
        _FOLDER.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_FOLDER.parent) as draft:
            packing = [NPM, "pack", "--silent", "--pack-destination", draft, FRONTEND]
            subprocess.run(packing, check=True, timeout=300, cwd=draft)
            (packed,) = Path(draft).glob("*.tgz")
            digest = hashlib.sha512(packed.read_bytes()).digest()
            assert base64.b64encode(digest).decode() == _SHA512, "the package is not the one that is known"
            with tarfile.open(packed) as archive:
                archive.extractall(draft, filter="data")
            (Path(draft) / "package/build").rename(_FOLDER)
    return _FOLDER


def put_on_path(folder: Path, files: Path | None = None) -> str:
    """A PATH on which `carta` is found: the machine's own, or the stand-in, which this puts into `folder`.

    The stand-in serves the front end, or other `files`.
    """
    path = os.environ.get("PATH", os.defpath)
    if shutil.which("carta"):
        return path
    folder.mkdir(exist_ok=True)
    program = folder / "carta"
    program.write_text(
        f"#!/bin/sh\nCARTA_FRONTEND_FOLDER='{files or frontend()}' PYTHONPATH='{ROOT}'"
        f" exec '{sys.executable}' -m tests.support.carta_backend \"$@\"\n"
    )
    program.chmod(0o755)
    return f"{folder}{os.pathsep}{path}"
