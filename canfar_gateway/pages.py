"""What people and programs read when the gateway answers by itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from aiohttp import web

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>body{{font:1.1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:15vh auto;padding:0 1rem}}</style>
</head><body><h1>{title}</h1><p>{sentence}</p>{link}</body></html>
"""


@dataclass(frozen=True)
class Link:
    """Where a page leads next."""

    url: str
    text: str


def answer(
    status: int,
    title: str,
    sentence: str,
    *,
    page: bool,
    link: Link | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """A page for a browser's navigation, else JSON. Never cached; all text is escaped here."""
    if page:
        anchor = f'<p><a href="{escape(link.url)}">{escape(link.text)}</a></p>' if link else ""
        body = _PAGE.format(title=escape(title), sentence=escape(sentence), link=anchor)
        content_type = "text/html"
    else:
        body = json.dumps({"status": status, "message": sentence}) + "\n"
        content_type = "application/json"
    response = web.Response(
        status=status, text=body, content_type=content_type, charset="utf-8", headers=headers
    )
    response.headers["Cache-Control"] = "no-store"
    response.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Server"] = "canfar-gateway"
    return response


def redirect(location: str) -> web.Response:
    """A 302 that no cache keeps and that tells the next host nothing of where it came from."""
    return web.Response(
        status=302,
        headers={
            "Location": location,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "Server": "canfar-gateway",
        },
    )
