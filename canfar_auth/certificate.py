"""The certificates that sessions act with, judged before they are used. Pure: nothing is fetched here.

RFC 5280 for certificates, RFC 3820 for proxies, RFC 7468 for the text that holds them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise, takewhile
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LONGEST = 65_536
"""Characters that a file may have: some twenty certificates."""

_PROXY = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")  # ProxyCertInfo (RFC 3820 section 3.8)
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,40})-----[^-]*-----END \1-----")
_KEYS = frozenset({"PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"})
_RSA_BITS, _EC_BITS = 2048, 256
_SKEW = timedelta(minutes=5)
"""How far the issuer's clock may be ahead. None is granted at the end: clients on this machine would not."""


_MALFORMED = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What reading a certificate raises."""

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


class CertificateRefused(Exception):
    """What came back must not be used; the text is a sentence for the user and the log, and holds no key."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its key and its chain, found good. Names are as in RFC 4514, times aware, in UTC."""

    pem: str = field(repr=False)
    """What is written to a file: the certificate, its private key, the chain, in this order."""
    subject: str
    identity: str
    """The person's own subject: for a proxy the one without the common names that proxies add."""
    issuer: str
    """The authority that vouches for the identity."""
    not_before: datetime
    not_after: datetime
    """The end of whichever ends first, the certificate or one of its chain."""
    is_proxy: bool

    def remaining(self, now: datetime) -> timedelta:
        """How long it can still be used; negative when it is over."""
        return self.not_after - now

    def describe(self) -> str:
        """Whose it is, by whom, and until when, for a log or a page."""
        what = "proxy certificate" if self.is_proxy else "certificate"
        return f"{what} of {self.identity} by {self.issuer}, valid until {self.not_after:%Y-%m-%d %H:%M} UTC"


def read_certificate(pem: str, *, now: datetime, common_name: str | None = None) -> Certificate:
    """Reads a certificate with its private key, before or after it, and its chain in order.

    ``common_name`` is a regular expression for the whole of the common name in the person's own certificate.
    The chain is checked as far as it goes: whether its end is trusted, only those who are shown it can say.

    Raises ``CertificateRefused``.
    """
    certificates, key = _blocks(pem)
    chain = [_certificate(text) for text in certificates]
    key_text = _checked_key(key, chain[0])
    own = _checked_chain(chain)
    _check_validity(chain, now)
    _check_purpose(own)
    if common_name is not None:
        _check_name(own, common_name)
    texts = [certificate.public_bytes(Encoding.PEM).decode() for certificate in chain]
    return Certificate(
        pem="".join([texts[0], key_text, *texts[1:]]),
        subject=_text(chain[0].subject),
        identity=_text(own.subject),
        issuer=_text(own.issuer),
        not_before=max(certificate.not_valid_before_utc for certificate in chain),
        not_after=min(certificate.not_valid_after_utc for certificate in chain),
        is_proxy=_is_proxy(chain[0]),
    )


def name_pattern(common_name: str, username: str, subject: str) -> str:
    """The expression of ``common_name`` for one user, whose names stand for themselves in it."""
    values = {"username": username, "subject": subject}
    return re.sub(r"\{(username|subject)\}", lambda found: re.escape(values[found[1]]), common_name)


def look_at(pem: str) -> tuple[str, datetime] | None:
    """Whose a file with a certificate says it is, and until when it is valid (UTC), as clients read it.

    Nothing is verified. ``None`` for what is no certificate.
    """
    try:
        chain = x509.load_pem_x509_certificates(pem.encode())
        own = next((certificate for certificate in chain if not _is_proxy(certificate)), None)
        name = own.subject if own else x509.Name(chain[-1].subject.rdns[:-1])
        return _text(name), chain[0].not_valid_after_utc
    except _MALFORMED:
        return None


# What the text holds


def _blocks(pem: str) -> tuple[list[str], str]:
    """The certificates and the one private key, as text."""
    if len(pem) > LONGEST:
        raise CertificateRefused(f"What came is longer than a certificate is ({LONGEST} characters).")
    found = [(block[1], block[0]) for block in _BLOCK.finditer(pem)]
    certificates = [text for label, text in found if label == "CERTIFICATE"]
    keys = [text for label, text in found if label in _KEYS]
    if re.search("BEGIN ENCRYPTED |4,ENCRYPTED", pem):
        raise CertificateRefused("The private key that came is encrypted, so that no program could use it.")
    if not certificates:
        what = "is a web page" if re.search(r"<!doctype|<html", pem[:2000], re.IGNORECASE) else "holds none"
        raise CertificateRefused(f"Instead of a certificate something came that {what}.")
    if len(found) != pem.count("-----BEGIN ") or len(found) != len(certificates) + len(keys):
        raise CertificateRefused("The certificate came cut off, or mixed with something else.")
    if len(keys) != 1:
        raise CertificateRefused(f"With the certificate came {len(keys)} private keys instead of one.")
    return certificates, keys[0]


def _certificate(text: str) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(text.encode())
        _ = certificate.extensions, certificate.subject.rdns, certificate.issuer.rdns  # read when asked for
    except _MALFORMED:
        raise CertificateRefused("The certificate that came is malformed.") from None
    return certificate


def _checked_key(text: str, certificate: x509.Certificate) -> str:
    """The key in the older form, which also the older grid tools read."""
    try:
        key = load_pem_private_key(text.encode(), None)
        public = certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CertificateRefused("The private key that came is malformed.") from None
    if not isinstance(key, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey)):
        raise CertificateRefused(
            "The private key that came is neither an RSA key nor one of an elliptic curve."
        )
    if key.key_size < (_RSA_BITS if isinstance(key, rsa.RSAPrivateKey) else _EC_BITS):
        raise CertificateRefused(f"The private key that came is too weak: {key.key_size} bits.")
    if key.public_key() != public:
        raise CertificateRefused("The private key that came is not that of the certificate.")
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


# What the certificates say


def _checked_chain(chain: Sequence[x509.Certificate]) -> x509.Certificate:
    """The person's own certificate: the first, or behind proxies the first that is none."""
    if _is_authority(chain[0]):
        raise CertificateRefused("The certificate that came is that of an authority, not a person's.")
    for child, parent in pairwise(chain):
        try:
            child.verify_directly_issued_by(parent)
        except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
            raise CertificateRefused(
                "The chain that came with the certificate is broken: in it,"
                f" {_shown(parent.subject)} did not sign {_shown(child.subject)}."
            ) from None
        if _is_proxy(child):
            _check_proxy(child, parent)
        else:
            _check_issued(child, parent)
    proxies = list(takewhile(_is_proxy, chain))
    if len(proxies) == len(chain):
        raise CertificateRefused("A proxy certificate came without the certificate that it stands for.")
    if any(below > _most_below(proxy) for below, proxy in enumerate(proxies)):
        raise CertificateRefused("The proxy certificate that came breaks the rules: its issuer allows none.")
    return chain[len(proxies)]


def _check_proxy(proxy: x509.Certificate, parent: x509.Certificate) -> None:
    """The rules of RFC 3820 section 3 that servers rely on."""
    added = proxy.subject.rdns[-1:]
    named = [attribute.oid for name in added for attribute in name] == [NameOID.COMMON_NAME]
    usage = _extension(parent, x509.KeyUsage)
    for broken, why in (
        (_is_authority(parent), "it is signed by an authority instead of a person"),
        (_is_authority(proxy), "it claims to be an authority"),
        (_extension(proxy, x509.SubjectAlternativeName), "it has an alternative name"),
        (
            not named or proxy.subject.rdns[:-1] != parent.subject.rdns,
            "its name is not that of its issuer and one common name",
        ),
        (usage and not usage.digital_signature, "its issuer may not sign"),
    ):
        if broken:
            raise CertificateRefused(f"The proxy certificate that came breaks the rules: {why}.")


def _check_issued(child: x509.Certificate, parent: x509.Certificate) -> None:
    usage = _extension(parent, x509.KeyUsage)
    if not _is_authority(parent) or (usage and not usage.key_cert_sign):
        raise CertificateRefused(
            f"{_shown(child.subject)} is signed by {_shown(parent.subject)}, which is no authority."
        )


def _check_validity(chain: Sequence[x509.Certificate], now: datetime) -> None:
    for certificate in chain:
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if now + _SKEW < begin:
            raise CertificateRefused(
                f"The certificate of {_shown(certificate.subject)} is valid only from"
                f" {begin:%Y-%m-%d %H:%M} UTC on."
            )
        if end <= now:
            raise CertificateRefused(
                f"The certificate of {_shown(certificate.subject)} ended on {end:%Y-%m-%d %H:%M} UTC already."
            )


def _check_purpose(own: x509.Certificate) -> None:
    """What TLS servers ask of a client's certificate (RFC 5280 sections 4.2.1.3 and 4.2.1.12)."""
    usage = _extension(own, x509.KeyUsage)
    purposes = _extension(own, x509.ExtendedKeyUsage)
    for_clients = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    if (usage and not usage.digital_signature) or (purposes and not for_clients & set(purposes)):
        raise CertificateRefused("The certificate that came is not one for signing in, so no server takes it.")


def _check_name(own: x509.Certificate, common_name: str) -> None:
    names = [str(name.value) for name in own.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    # With several, services differ in which of them is the person.
    if len(names) != 1 or not re.fullmatch(common_name, names[0]):
        raise CertificateRefused(f"The certificate that came is somebody else's: {_shown(own.subject)}.")


def _is_authority(certificate: x509.Certificate) -> bool:
    constraints = _extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def _is_proxy(certificate: x509.Certificate) -> bool:
    return any(extension.oid == _PROXY for extension in certificate.extensions)


def _most_below(proxy: x509.Certificate) -> float:
    """How many proxies may follow this one: the first member of ProxyCertInfo (RFC 3820 section 3.8)."""
    information = next(extension.value for extension in proxy.extensions if extension.oid == _PROXY)
    _, _, tag, length, *rest = information.public_bytes().ljust(4, b"\0")
    return int.from_bytes(bytes(rest[:length]), "big") if tag == 2 else math.inf  # 2: INTEGER


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _text(name: x509.Name) -> str:
    """A name as in RFC 4514, without what could not be shown on one line."""
    text = name.rfc4514_string()
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _shown(name: x509.Name) -> str:
    """A name in a sentence."""
    return _text(name)[:200]
