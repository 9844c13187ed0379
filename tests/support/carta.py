"""CARTA for tests: its front end from npm, and its program, or the stand-in where the machine has none."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.support.npm import unpacked
from tests.support.stack import ROOT

FRONTEND = "carta-frontend@6.0.0"
_SHA512 = "pEUMTfPc25C2vM2NcxZKpQ7Kwkp7s55yp2perS4YC6zXYswCgTVPBwWLgSRRSk5yyT/f/EwKqVRMjc8YEOclHQ=="


def frontend() -> Path:
    """The built files of the front end, which are under the GPL."""
    return unpacked(FRONTEND, _SHA512, "build")


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
