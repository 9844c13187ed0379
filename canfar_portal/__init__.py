"""The portal: the hub's pages, as templates over JupyterHub's own and the files they load."""

from __future__ import annotations

from pathlib import Path

TEMPLATES: Path = Path(__file__).parent / "templates"
"""Goes into `JupyterHub.template_paths`."""

STATIC: Path = Path(__file__).parent / "static"
"""Served at `<hub>/canfar/static/portal/`."""

__all__ = ["STATIC", "TEMPLATES"]
