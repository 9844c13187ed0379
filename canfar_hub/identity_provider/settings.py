"""What nanoidp reads: our accounts and options as its two configuration files, and their folder."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from canfar_hub.identity_provider.accounts import Accounts
from canfar_spawner.processes import write_private

CLIENT_ID = "canfar-hub"
CLIENT_SECRET_VARIABLE = "CANFAR_CLIENT_SECRET"  # noqa: S105 the variable's name, not the secret
CLAIMS = ("sub", "preferred_username", "name", "email", "groups")


@dataclass(frozen=True, slots=True)
class Options:
    """Where the provider listens and whom it sends people back to."""

    ip: str
    port: int
    redirect_uris: tuple[str, ...]

    @property
    def issuer(self) -> str:
        """The issuer, which is also the address of the start page."""
        host = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"http://{host}:{self.port}"


def settings_document(options: Options, data: Path, session_key: str) -> dict[str, Any]:
    """nanoidp's ``settings.yaml``.

    The profile ``oauth21`` is what requires PKCE with S256 (RFC 7636), rotates refresh tokens, has no
    password grant, and gates claims by scope. The client's secret stays out: nanoidp reads it from the
    environment.
    """
    return {
        "config_version": 1,
        "config_validation": "strict",
        "security_profile": "oauth21",
        "cors_allowed_origins": [],
        "server": {"host": options.ip, "port": options.port},
        "oauth": {
            "issuer": options.issuer,
            "audience": CLIENT_ID,
            "require_pkce": True,
            "refresh_token_rotation": True,
            "scopes_supported": ["openid", "profile", "email", "groups", "offline_access"],
            "clients": [
                {
                    "client_id": CLIENT_ID,
                    "client_secret": f"${{{CLIENT_SECRET_VARIABLE}}}",
                    "token_endpoint_auth_method": "client_secret_post",
                    "redirect_uris": list(options.redirect_uris),
                }
            ],
        },
        "jwt": {"keys_dir": str(data / "keys")},
        "runtime": {"store": "sqlite", "path": str(data / "state.sqlite")},
        # Nobody is ever given this secret: the pages and calls that it would open answer 404 besides.
        "session": {
            "secret_key": session_key,
            "require_ui_login": True,
            "management_secret": secrets.token_urlsafe(32),
        },
        "logging": {
            "level": "WARNING",
            "verbose_logging": False,
            "log_token_requests": False,
            "log_saml_requests": False,
        },
    }


def users_document(accounts: Accounts) -> dict[str, Any]:
    """nanoidp's ``users.yaml``. An account's name is its subject: it stays, and passes to nobody else."""
    return {
        "config_version": 1,
        "users": {
            name: {
                "password": accounts.password_of(name),
                "email": account.email,
                "groups": accounts.groups_of(name),
                "roles": [],
                "attributes": {"name": account.full_name},
            }
            for name, account in accounts.accounts.items()
        },
    }


def config_folder(data: Path) -> Path:
    """Where in ``data`` nanoidp's configuration is; it wants keys and state elsewhere."""
    return data / "config"


def prepare(options: Options, accounts: Accounts, data: Path) -> None:
    """Write nanoidp's configuration to ``data``, which only its owner may read; raises ``OSError``.

    Signing keys, the key of the browser's cookie and used refresh tokens stay over restarts.
    """
    config = config_folder(data)
    for folder in (data, config):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    session_key = data / "session.key"
    if not session_key.exists():
        write_private(session_key, secrets.token_urlsafe(48))
    settings = settings_document(options, data.resolve(), session_key.read_text(encoding="ascii"))
    write_private(config / "settings.yaml", yaml.safe_dump(settings, sort_keys=False))
    write_private(config / "users.yaml", yaml.safe_dump(users_document(accounts), sort_keys=False))
