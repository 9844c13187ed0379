"""The session picker: turns an offer into the HTML fragment that JupyterHub places inside its form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).parent

DEFAULT_STATIC = "/hub/canfar/static"

# Everything that comes from a catalogue or from a request is text: escaping is on for all of it.
_ENVIRONMENT = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)


def render(offer: Mapping[str, Any], request_error: str = "") -> str:
    """Render the picker for one offer.

    `request_error` is why the last request was not started; its first line is the sentence, what follows
    are log lines.
    """
    sentence, _, log = request_error.strip().partition("\n")
    return _ENVIRONMENT.get_template("form.html").render(
        offer=dict(offer),
        static=str(offer.get("static") or DEFAULT_STATIC).rstrip("/"),
        error=sentence.strip(),
        log=log.strip("\n"),
    )
