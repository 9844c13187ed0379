"""Making certificates: authorities, short-lived end entities, RFC 3820 proxies, and servers for trial."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_EARLIER = timedelta(minutes=5)  # clocks differ
_PROXY_INFORMATION = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
_INHERIT_ALL = bytes.fromhex("06082b06010505071501")  # DER of 1.3.6.1.5.5.7.21.1 (RFC 3820 section 3.8.2)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its key, and the certificates above it."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()

    def pem(self, *, key_first: bool = False) -> str:
        """One file for clients: the certificate, its key, and what is above it."""
        own = [_pem(self.certificate), self.key_pem()]
        return "".join([*(reversed(own) if key_first else own), *map(_pem, self.chain)])

    def certificate_pem(self) -> str:
        """The certificate alone."""
        return _pem(self.certificate)

    def key_pem(self) -> str:
        """The key alone, as PKCS #8."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()


def name(*common_names: str, organization: str = "") -> x509.Name:
    """A distinguished name, its last attributes the common names in that order."""
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
    return x509.Name([*attributes, *(x509.NameAttribute(NameOID.COMMON_NAME, one) for one in common_names)])


def make_authority(subject: x509.Name, *, now: datetime, lifetime: timedelta = timedelta(days=3650)) -> Issued:
    """A self-signed authority (RFC 5280 section 4.2.1.9) that signs end entities only."""
    key = _new_key()
    builder = (
        _builder(subject, subject, key, now, now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
    )
    return Issued(builder.sign(key, hashes.SHA256()), key)


def make_end_entity(
    authority: Issued, subject: x509.Name, *, now: datetime, lifetime: timedelta, ca: bool = False
) -> Issued:
    """A person's certificate for TLS clients, as the `cred` service makes them; never outlives the authority.

    With ``ca`` it is one that nobody should accept from such a service, for tests.
    """
    key = _new_key()
    builder = (
        _builder(subject, authority.certificate.subject, key, now, _within(authority, now + lifetime))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True, key_encipherment=True, key_cert_sign=ca), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(_signer(authority), critical=False)
    )
    return Issued(builder.sign(authority.key, hashes.SHA256()), key, (authority.certificate,))


def make_proxy(
    holder: Issued, *, now: datetime, lifetime: timedelta, path_length: int | None = None, critical: bool = True
) -> Issued:
    """A proxy certificate signed by its holder, who inherits all to it (RFC 3820 section 3).

    Its subject is the holder's with one more common name, and it never outlives the holder's certificate.
    Of servers only those take it that were told to: OpenSSL's X509_V_FLAG_ALLOW_PROXY_CERTS.
    """
    key = _new_key()
    above = holder.certificate.subject
    number = x509.NameAttribute(NameOID.COMMON_NAME, str(secrets.randbits(63)))
    subject = x509.Name([*above.rdns, x509.RelativeDistinguishedName([number])])
    builder = (
        _builder(subject, above, key, now, _within(holder, now + lifetime))
        .add_extension(
            x509.UnrecognizedExtension(_PROXY_INFORMATION, _proxy_information(path_length)), critical=critical
        )
        .add_extension(_usage(digital_signature=True, key_encipherment=True), critical=True)
        .add_extension(_signer(holder), critical=False)
    )
    return Issued(builder.sign(holder.key, hashes.SHA256()), key, (holder.certificate, *holder.chain))


def make_server(authority: Issued, hosts: Sequence[str], *, now: datetime, lifetime: timedelta) -> Issued:
    """A server's certificate for these names and addresses."""
    key = _new_key()
    builder = (
        _builder(name(hosts[0]), authority.certificate.subject, key, now, _within(authority, now + lifetime))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        .add_extension(_signer(authority), critical=False)
    )
    return Issued(builder.sign(authority.key, hashes.SHA256()), key, (authority.certificate,))


def _new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: rsa.RSAPrivateKey,
    begin: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - _EARLIER)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(
    *,
    digital_signature: bool = False,
    key_encipherment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _signer(issuer: Issued) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())


def _within(issuer: Issued, end: datetime) -> datetime:
    return min(end, issuer.certificate.not_valid_after_utc)


def _proxy_information(path_length: int | None) -> bytes:
    """ProxyCertInfo in DER (RFC 3820 section 3.8); lengths are below 128."""
    limit = b"" if path_length is None else bytes([2, 1, path_length])
    policy = bytes([0x30, len(_INHERIT_ALL)]) + _INHERIT_ALL
    return bytes([0x30, len(limit) + len(policy)]) + limit + policy


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
