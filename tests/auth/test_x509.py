"""Certificates that we make, as real OpenSSL judges them: which servers take which, and why.

The servers that users' certificates meet take no proxies (RFC 3820) unless their operators chose otherwise.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509 as cryptography_x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from canfar_auth import x509
from canfar_auth.certificate import CertificateRefused, read_certificate
from canfar_auth.x509 import Issued

NOW = datetime.now(UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
PROXY_INFORMATION = "1.3.6.1.5.5.7.1.14"


@cache
def authority() -> Issued:
    return x509.make_authority(x509.name("Test authority", organization="Example"), now=NOW)


@cache
def person() -> Issued:
    return x509.make_end_entity(
        authority(), x509.name("astronomer", organization="Example"), now=NOW, lifetime=DAY
    )


@cache
def proxy() -> Issued:
    return x509.make_proxy(person(), now=NOW, lifetime=HOUR)


@cache
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def remade(
    made: Issued,
    signer: Issued,
    *,
    subject: cryptography_x509.Name | None = None,
    without: str = "",
    added: cryptography_x509.ExtensionType | None = None,
) -> Issued:
    """The same certificate once more, with something wrong with it."""
    old = made.certificate
    builder = (
        cryptography_x509.CertificateBuilder()
        .subject_name(subject or old.subject)
        .issuer_name(old.issuer)
        .public_key(key().public_key())
        .serial_number(cryptography_x509.random_serial_number())
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(old.not_valid_after_utc)
    )
    for extension in old.extensions:
        if extension.oid.dotted_string != without:
            builder = builder.add_extension(extension.value, extension.critical)
    if added:
        builder = builder.add_extension(added, critical=False)
    return Issued(builder.sign(signer.key, hashes.SHA256()), key(), made.chain)


def without_signature() -> Issued:
    """A proxy of somebody whose certificate is not for signing."""
    usage = "2.5.29.15"
    weak = remade(person(), authority(), without=usage, added=x509._usage(key_encipherment=True))
    return x509.make_proxy(weak, now=NOW, lifetime=HOUR)


def with_another_name() -> Issued:
    return remade(proxy(), person(), subject=x509.name("somebody", organization="Example"))


def with_alternative_name() -> Issued:
    name = cryptography_x509.SubjectAlternativeName([cryptography_x509.DNSName("astronomer.example.org")])
    return remade(proxy(), person(), added=name)


def with_authority() -> Issued:
    return remade(proxy(), person(), added=cryptography_x509.BasicConstraints(ca=True, path_length=None))


def alone(made: Issued) -> str:
    """Without what is above it."""
    return Issued(made.certificate, made.key).pem()


# What it is, whether an ordinary server takes it, and whether one does that was told to take proxies.
TABLE: dict[str, tuple[Callable[[], str], bool, bool]] = {
    "ordinary certificate": (lambda: person().pem(), True, True),
    "ordinary, key first": (lambda: person().pem(key_first=True), True, True),
    "proxy": (lambda: proxy().pem(), False, True),
    "proxy, key first": (lambda: proxy().pem(key_first=True), False, True),
    "proxy, path length 0": (
        lambda: x509.make_proxy(person(), now=NOW, lifetime=HOUR, path_length=0).pem(),
        False,
        True,
    ),
    "proxy, not critical": (
        lambda: x509.make_proxy(person(), now=NOW, lifetime=HOUR, critical=False).pem(),
        False,
        True,
    ),
    "proxy of a proxy": (lambda: x509.make_proxy(proxy(), now=NOW, lifetime=HOUR).pem(), False, True),
    "proxy of a proxy that allows none": (
        lambda: x509.make_proxy(
            x509.make_proxy(person(), now=NOW, lifetime=HOUR, path_length=0), now=NOW, lifetime=HOUR
        ).pem(),
        False,
        False,
    ),
    "proxy without its person's certificate": (lambda: alone(proxy()), False, False),
    "proxy of a certificate that may not sign": (lambda: without_signature().pem(), False, False),
    "without proxy information": (
        lambda: remade(proxy(), person(), without=PROXY_INFORMATION).pem(),
        False,
        False,
    ),
    "proxy with another name": (lambda: with_another_name().pem(), False, False),
    "proxy with an alternative name": (lambda: with_alternative_name().pem(), False, False),
    "proxy that claims to be an authority": (lambda: with_authority().pem(), False, False),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("x509")
    (made / "authority.pem").write_text(authority().certificate_pem())
    server = x509.make_server(authority(), ["localhost"], now=NOW, lifetime=DAY)
    (made / "server.pem").write_text(server.pem())
    return made


@pytest.fixture(params=TABLE)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, bool, bool]:
    make, ordinary, told = TABLE[request.param]
    path = tmp_path / "cadcproxy.pem"
    path.write_text(make())
    return path, ordinary, told


def test_openssl_verifies_what_it_should(folder: Path, case: tuple[Path, bool, bool]) -> None:
    pem, ordinary, told = case
    for options, wanted in (((), ordinary), (("-allow_proxy_certs",), told)):
        command = ["openssl", "verify", *options, "-CAfile", folder / "authority.pem", "-untrusted", pem, pem]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode == 0) == wanted, done.stderr


def test_servers_that_demand_certificates_take_what_they_should(
    folder: Path, case: tuple[Path, bool, bool]
) -> None:
    pem, ordinary, told = case
    assert accepted(folder, pem, allow_proxies=False) == ordinary
    assert accepted(folder, pem, allow_proxies=True) == told


def accepted(folder: Path, pem: Path, *, allow_proxies: bool) -> bool:
    """Whether a TLS server that demands client certificates lets the holder of this file in."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "authority.pem")
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(folder / "server.pem")
    if allow_proxies:
        server.verify_flags |= ssl.VERIFY_ALLOW_PROXY_CERTS
    client = ssl.create_default_context(cafile=folder / "authority.pem")
    try:
        client.load_cert_chain(pem)
    except ssl.SSLError:
        return False  # OpenSSL's client does not even load it
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with contextlib.suppress(OSError), server.wrap_socket(theirs, server_side=True) as connection:
            connection.sendall(b"!")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname="localhost") as connection:
            return connection.recv(1) == b"!"  # with TLS 1.3 a refusal arrives here
    except OSError:
        return False
    finally:
        ours.close()
        thread.join()
        theirs.close()


@pytest.mark.parametrize("lacking", ["digitalSignature", "clientAuth"])
def test_a_certificate_that_no_server_takes_is_not_taken_here(
    folder: Path, tmp_path: Path, lacking: str
) -> None:
    usage = x509._usage(key_encipherment=True)
    purpose = cryptography_x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    extension = usage if lacking == "digitalSignature" else purpose
    made = remade(person(), authority(), without=extension.oid.dotted_string, added=extension)
    pem = tmp_path / "cadcproxy.pem"
    pem.write_text(made.pem())
    assert not accepted(folder, pem, allow_proxies=True)
    with pytest.raises(CertificateRefused, match="not one for signing in"):
        read_certificate(pem.read_text(), now=NOW)


def test_we_take_what_openssl_takes_from_a_proxy_on(case: tuple[Path, bool, bool]) -> None:
    pem, _, told = case
    if not told:
        with pytest.raises(CertificateRefused):
            read_certificate(pem.read_text(), now=NOW)
    else:
        read = read_certificate(pem.read_text(), now=NOW, common_name="astronomer")
        assert read.identity == "CN=astronomer,O=Example"


def test_nothing_outlives_what_is_above_it() -> None:
    end = authority().certificate.not_valid_after_utc
    long = x509.make_end_entity(authority(), x509.name("a"), now=NOW, lifetime=10_000 * DAY)
    assert long.certificate.not_valid_after_utc == end
    assert x509.make_server(authority(), ["localhost"], now=NOW, lifetime=10_000 * DAY).certificate
    of_a_day = x509.make_proxy(person(), now=NOW, lifetime=30 * DAY)
    assert of_a_day.certificate.not_valid_after_utc == person().certificate.not_valid_after_utc


def test_a_proxys_name_is_its_holders_and_a_number_of_its_own() -> None:
    one, other = proxy(), x509.make_proxy(person(), now=NOW, lifetime=HOUR)
    for made in (one, other):
        assert made.certificate.subject.rdns[:-1] == person().certificate.subject.rdns
        assert made.certificate.issuer == person().certificate.subject
    assert one.certificate.subject != other.certificate.subject


def test_the_key_shows_nowhere() -> None:
    assert "PRIVATE" not in repr(person())
    assert str(person().key) not in repr(person())
