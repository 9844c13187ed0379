"""The trial's own certificate authority, kept in a folder, and what it vouches for."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509 import load_pem_x509_certificate

from canfar_auth import x509
from canfar_auth.x509 import Issued
from canfar_spawner.processes import write_private

ORGANIZATION = "canfar-hub trial"
HOSTS = ("localhost", "127.0.0.1")
_NAME = x509.name("Certificate authority of this machine", organization=ORGANIZATION)
_SERVER_LIFE = timedelta(days=397)


def open_authority(folder: Path) -> Issued:
    """The authority of this folder, made at the first start and kept, since certificates outlive a start.

    Raises ``OSError`` for a folder that cannot be used, and ``ValueError`` for files that are damaged or over.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "authority.key.pem"
    now = datetime.now(UTC)
    if not path.exists():
        write_private(path, x509.make_authority(_NAME, now=now).pem())
    text = path.read_bytes()
    with suppress(ValueError):
        certificate = load_pem_x509_certificate(text)
        key = serialization.load_pem_private_key(text, None)
        if isinstance(key, rsa.RSAPrivateKey) and certificate.not_valid_after_utc > now + _SERVER_LIFE:
            return Issued(certificate, key)
    raise ValueError(f"remove {path.name}, and a new authority is made")


def write_server(authority: Issued, folder: Path) -> Path:
    """Writes this start's certificate of the services, with its key, and returns the file."""
    made = x509.make_server(authority, HOSTS, now=datetime.now(UTC), lifetime=_SERVER_LIFE)
    path = folder / "server.pem"
    write_private(path, made.pem())
    return path


def certificate_of(authority: Issued, username: str, days: int) -> str:
    """A certificate, its key and its signer's certificate, for a user; takes a tenth of a second."""
    subject = x509.name(username, organization=ORGANIZATION)
    made = x509.make_end_entity(authority, subject, now=datetime.now(UTC), lifetime=timedelta(days=days))
    return made.pem()
