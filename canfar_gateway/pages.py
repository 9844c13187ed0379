"""What people and programs read when the gateway answers by itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from aiohttp import web

# All of it in one answer: a page of the gateway may ask nobody for more. It looks as the hub's pages do.
_STYLE = """
:root { color-scheme: light dark; --bg: #f6f7fb; --card: #fff; --line: #dfe2ee; --text: #1b1e2d;
  --soft: #565b73; --accent: #3b3fb6; --on-accent: #fff }
@media (prefers-color-scheme: dark) { :root { --bg: #12131a; --card: #1c1e29; --line: #323547; --text: #eceef8;
  --soft: #a4a9c0; --accent: #9aa0ff; --on-accent: #12131a } }
body { margin: 0; background: var(--bg); color: var(--text);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
header { padding: 1rem max(1.25rem, 4vw); background: var(--card); border-bottom: 1px solid var(--line);
  font-size: 1.2rem; font-weight: 700 }
header span { font-weight: 400; color: var(--soft) }
main { max-width: 41rem; margin: 4rem auto; padding: 0 1.25rem }
h1 { margin: 0 0 .25rem; font-size: 2rem; line-height: 1.25 }
p { margin: 0 0 1.5rem; color: var(--soft) }
a { display: inline-block; padding: .6rem 1.3rem; border-radius: 12px; background: var(--accent);
  color: var(--on-accent); font-weight: 600; text-decoration: none }
a:focus-visible { outline: 3px solid var(--accent); outline-offset: 3px }
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · canfar-hub</title><style>{style}</style></head>
<body><header>canfar<span>-hub</span></header><main><h1>{title}</h1><p>{sentence}</p>{link}</main></body></html>
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
        anchor = f'<a href="{escape(link.url)}">{escape(link.text)}</a>' if link else ""
        body = _PAGE.format(style=_STYLE, title=escape(title), sentence=escape(sentence), link=anchor)
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
