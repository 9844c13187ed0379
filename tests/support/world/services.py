"""The trial's identity provider and grid services at public names: `services.py provider|grid PUBLIC-URL MORE`.

TLS ends at the web server in front of them.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from canfar_auth.outbound import Outbound
from canfar_hub.identity_provider.accounts import load_accounts
from canfar_hub.identity_provider.settings import Options, prepare

ACCOUNTS = Path("/etc/world/accounts.yaml")


@dataclass(frozen=True)
class Named(Options):
    """A provider that people and the hub know by another address than it listens at."""

    url: str = ""

    @property
    def issuer(self) -> str:
        return self.url


def provider(url: str, redirect_uri: str) -> None:
    from werkzeug.serving import make_server

    from canfar_hub.identity_provider.application import create_app

    data = Path("/tmp/provider")
    options = Named(urlsplit(url).netloc, 443, (redirect_uri,), url)
    accounts = load_accounts(ACCOUNTS)
    prepare(options, accounts, data)
    make_server("127.0.0.1", 8001, create_app(options, accounts, data), threaded=True).serve_forever()


def grid(url: str, issuer: str) -> None:
    from aiohttp import web

    from canfar_hub.grid_services.application import Services, create_app
    from canfar_hub.grid_services.authority import open_authority

    data = Path("/tmp/grid")
    data.mkdir(mode=0o700, exist_ok=True)
    accounts = load_accounts(ACCOUNTS)
    services = Services(
        url=url,
        resource=f"ivo://{accounts.authority}/gms",
        groups={name: tuple(accounts.gms_groups_of(name)) for name in accounts.accounts},
        userinfo=f"{issuer}/userinfo",
        outbound=Outbound({urlsplit(issuer).netloc}),
        authority=open_authority(data),
    )
    web.run_app(create_app(services), host="127.0.0.1", port=8004, print=None)


if __name__ == "__main__":
    os.umask(0o077)
    {"provider": provider, "grid": grid}[sys.argv[1]](*sys.argv[2:])
