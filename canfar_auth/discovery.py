"""An OpenID provider's own description of itself (OpenID Connect Discovery 1.0). Pure: no fetching here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit


class DiscoveryError(ValueError):
    """A provider's document that must not be used; the text says why, for the administrator."""


@dataclass(frozen=True, slots=True)
class Provider:
    """The endpoints of one provider; ``end_session_endpoint`` and ``jwks_uri`` are empty where it has none."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    userinfo_endpoint: str
    end_session_endpoint: str
    jwks_uri: str
    token_auth_methods: frozenset[str]


def discovery_url(issuer: str) -> str:
    """Where the document of ``issuer`` is; a terminating ``/`` is removed first (section 4.1)."""
    return issuer.rstrip("/") + "/.well-known/openid-configuration"


def is_safe_url(url: str) -> bool:
    """Whether a token or a code may be sent to ``url``: https, or plain http that stays on this machine."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))


def read_document(document: object, issuer: str) -> Provider:
    """Read the document that the provider of ``issuer`` served (section 3).

    Raises ``DiscoveryError`` when it is no object, when its issuer is not exactly ``issuer`` (section 4.3),
    or when an endpoint is missing or unsafe.
    """
    if not isinstance(document, Mapping):
        raise DiscoveryError("The discovery document is not a JSON object.")
    if document.get("issuer") != issuer:
        said = ascii(document.get("issuer"))[:200]
        raise DiscoveryError(f"The discovery document's issuer is {said}, and the configured one {issuer!r}.")
    methods = document.get("token_endpoint_auth_methods_supported")
    return Provider(
        issuer=issuer,
        authorization_endpoint=_endpoint(document, "authorization_endpoint"),
        token_endpoint=_endpoint(document, "token_endpoint"),
        userinfo_endpoint=_endpoint(document, "userinfo_endpoint"),
        end_session_endpoint=_endpoint(document, "end_session_endpoint", required=False),
        jwks_uri=_endpoint(document, "jwks_uri", required=False),
        # "If omitted, the default is client_secret_basic" (section 3).
        token_auth_methods=frozenset(
            (method for method in methods if isinstance(method, str))
            if isinstance(methods, list)
            else ["client_secret_basic"]
        ),
    )


def _endpoint(document: Mapping[str, object], name: str, *, required: bool = True) -> str:
    url = document.get(name)
    if url is None and not required:
        return ""
    if not isinstance(url, str) or not is_safe_url(url):
        said = ascii(url)[:200]
        raise DiscoveryError(f"The discovery document's {name} is {said}; it has to be an https address.")
    return url


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
