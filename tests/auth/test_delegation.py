"""Certificates from the service: which are used, and which are refused with a sentence."""

from __future__ import annotations

import base64
import functools
import logging
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509 as x
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from canfar_auth.certificate import look_at, name_pattern
from canfar_auth.delegation import Certificate, CertificateRefused, CredClient, read_certificate
from canfar_auth.outbound import Outbound, Unavailable
from canfar_auth.x509 import make_proxy, name
from canfar_site.settings import Credentials
from tests.support.cred_server import FLAWS, NOW, CredServer, authority, person
from tests.support.faults import Delay, Fault, Garbage, Redirect, Status, Truncated

TOKEN = "secret-token-of-astronomer"
PROXY = x.UnrecognizedExtension(
    x.ObjectIdentifier("1.3.6.1.5.5.7.1.14"), bytes.fromhex("300c300a06082b06010505071501")
)


@functools.cache
def holder() -> Any:
    return person("astronomer")


def good() -> str:
    return str(holder().pem())


def read(pem: str, *, now: datetime = NOW, common_name: str | None = "astronomer") -> Certificate:
    return read_certificate(pem, now=now, common_name=common_name)


def refused(pem: str, **how: Any) -> str:
    with pytest.raises(CertificateRefused) as error:
        read(pem, **how)
    sentence = str(error.value)
    assert sentence.endswith(".")
    assert "PRIVATE" not in sentence
    assert sentence.isprintable()
    return sentence


# What is accepted


def test_a_good_certificate_says_whose_it_is_and_until_when() -> None:
    certificate = read(good())
    assert certificate.subject == certificate.identity == "CN=astronomer,O=Example"
    assert certificate.issuer == "CN=Test authority,O=Example"
    assert certificate.not_after == NOW + timedelta(days=7)
    assert certificate.not_after.tzinfo is UTC
    assert certificate.remaining(NOW + timedelta(days=8)) == timedelta(days=-1)
    assert not certificate.is_proxy
    assert "CN=astronomer,O=Example" in certificate.describe()
    assert "2026-06-08 09:00 UTC" in certificate.describe()


@pytest.mark.parametrize("key_first", [False, True])
def test_what_is_written_has_the_certificate_then_its_key_then_the_chain(key_first: bool) -> None:
    pem = read(holder().pem(key_first=key_first)).pem
    labels = [line.strip("-") for line in pem.splitlines() if line.startswith("-----BEGIN")]
    assert labels == ["BEGIN CERTIFICATE", "BEGIN RSA PRIVATE KEY", "BEGIN CERTIFICATE"]
    assert pem.startswith(holder().certificate_pem())
    assert pem.endswith(authority().certificate_pem())


def test_text_around_the_certificates_is_left_out() -> None:
    pem = f"subject=CN = astronomer\n{good()}\nBag Attributes: password=hunter2\n"
    assert read(pem).pem == read(good()).pem
    assert "hunter2" not in read(pem).pem


def test_line_ends_of_other_systems_are_understood() -> None:
    assert read(good().replace("\n", "\r\n")).pem == read(good()).pem


def test_openssl_takes_what_is_written(tmp_path: Path) -> None:
    file, trusted = tmp_path / "cadcproxy.pem", tmp_path / "authority.pem"
    proxy = make_proxy(holder(), now=NOW, lifetime=timedelta(days=1))
    file.write_text(read(proxy.pem()).pem)
    trusted.write_text(authority().certificate_pem())
    at = str(int(NOW.timestamp()))
    verify = ["openssl", "verify", "-attime", at, "-CAfile", str(trusted), "-untrusted", str(file)]
    assert subprocess.run([*verify, "-allow_proxy_certs", str(file)], check=False).returncode == 0
    assert subprocess.run([*verify, str(file)], check=False, capture_output=True).returncode != 0


def test_a_proxys_identity_is_its_persons() -> None:
    first = make_proxy(holder(), now=NOW, lifetime=timedelta(days=1))
    second = make_proxy(first, now=NOW, lifetime=timedelta(hours=1))
    certificate = read(second.pem())
    assert certificate.is_proxy
    assert certificate.identity == "CN=astronomer,O=Example"
    assert certificate.issuer == "CN=Test authority,O=Example"
    assert certificate.subject.endswith(",CN=astronomer,O=Example")
    assert certificate.not_after == NOW + timedelta(hours=1)


def test_a_certificate_ends_with_its_chain() -> None:
    short = person("astronomer", days=1)
    proxy = sign("astronomer", "1", issuer=short, extensions=[PROXY], days=5)
    assert read(proxy).not_after == NOW + timedelta(days=1)


def test_an_elliptic_key_is_as_good() -> None:
    assert read(sign("astronomer")).subject == "CN=astronomer,O=Example"


def test_the_issuers_clock_may_be_ahead_a_little() -> None:
    pem = sign("astronomer", begin=NOW + timedelta(minutes=4))
    assert read(pem).not_before == NOW + timedelta(minutes=4)
    assert "valid only from" in refused(sign("astronomer", begin=NOW + timedelta(minutes=6)))


def test_a_certificate_is_over_at_its_end() -> None:
    end = read(good()).not_after
    assert read(good(), now=end - timedelta(seconds=1))
    assert "ended on 2026-06-08 09:00 UTC" in refused(good(), now=end)


# Whose it is


@pytest.mark.parametrize(
    ("common_name", "in_certificate", "taken"),
    [
        (r"{username}(_[0-9a-z]+)?", "first.last", True),
        (r"{username}(_[0-9a-z]+)?", "first.last_a3f", True),
        (r"{username}(_[0-9a-z]+)?", "firstxlast", False),
        (r"{username}(_[0-9a-z]+)?", "first.last-admin", False),
        (r"{username}(_[0-9a-z]+)?", "first.last\nx", False),
        (r"{username}", "first.last\n", False),
        (r"{subject}", "{username}|.*", True),
        (r"{subject}", "first.last", False),
        (r"[a-z]{2,}|{username}", "first.last", True),
        (r".{3,}", "whoever", True),
    ],
)
def test_the_common_name_is_the_users(common_name: str, in_certificate: str, taken: bool) -> None:
    pattern = name_pattern(common_name, "first.last", "{username}|.*")
    pem = sign(in_certificate)
    if taken:
        assert read(pem, common_name=pattern)
    else:
        assert "somebody else's" in refused(pem, common_name=pattern)


def test_with_two_common_names_nobody_knows_who_it_is() -> None:
    assert "somebody else's" in refused(sign("astronomer", "visitor"))
    assert "somebody else's" in refused(sign("visitor", "astronomer"))


# What is refused


@pytest.mark.parametrize("flaw", FLAWS)
def test_what_the_service_must_not_give_is_refused(flaw: str) -> None:
    refused(FLAWS[flaw]("astronomer"))


def sign(
    *names: str,
    issuer: Any = None,
    begin: datetime = NOW,
    days: float = 7,
    key: Any = None,
    extensions: Any = (),
    subject: x.Name | None = None,
    password: bytes | None = None,
) -> str:
    """A certificate, its key and its chain, wrong in whatever way a test wants."""
    issuer = issuer or authority()
    key = key or ec.generate_private_key(ec.SECP256R1())
    is_proxy = PROXY in extensions
    subject = subject or (
        x.Name([*issuer.certificate.subject.rdns, *name(*names[1:]).rdns])
        if is_proxy
        else name(*names, organization="Example")
    )
    builder = (
        x.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=days))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    made = builder.sign(issuer.key, hashes.SHA256())
    chain = [made, *([] if issuer is authority() else [issuer.certificate]), authority().certificate]
    texts = [one.public_bytes(serialization.Encoding.PEM).decode() for one in chain]
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    key_text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how).decode()
    return "".join([texts[0], key_text, *texts[1:]])


CA = x.BasicConstraints(ca=True, path_length=None)
SAN = x.SubjectAlternativeName([x.DNSName("example.org")])

BAD: dict[str, tuple[Callable[[], str], str]] = {
    "nothing": (lambda: "", "Instead of a certificate"),
    "a page": (lambda: "<!DOCTYPE html><html>Sign in</html>", "web page"),
    "a sentence": (lambda: "permission denied", "holds none"),
    "a key alone": (lambda: holder().key_pem(), "holds none"),
    "no key": (lambda: holder().certificate_pem(), "0 private keys"),
    "two keys": (lambda: good() + holder().key_pem(), "2 private keys"),
    "an encrypted key": (lambda: sign("astronomer", password=b"x"), "encrypted"),
    "a broken key": (
        lambda: good().replace(holder().key_pem()[40:80], "A" * 40, 1),
        "malformed",
    ),
    "a broken certificate": (
        lambda: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + holder().key_pem(),
        "malformed",
    ),
    "cut off": (lambda: good()[:-30], "cut off"),
    "something else with it": (
        lambda: good() + "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
        "something else",
    ),
    "endless": (lambda: good() + "\n" * 100_000, "longer"),
    "many beginnings": (lambda: "-----BEGIN CERTIFICATE-----" * 2000, "Instead of"),
    "a weak key": (lambda: sign("astronomer", key=rsa.generate_private_key(65537, 1024)), "too weak"),
    "a weak curve": (lambda: sign("astronomer", key=ec.generate_private_key(ec.SECP192R1())), "too weak"),
    "another kind of key": (
        lambda: sign("astronomer", key=ed25519.Ed25519PrivateKey.generate()),
        "neither an RSA key",
    ),
    "a chain of others": (
        lambda: holder().certificate_pem() + holder().key_pem() + person("visitor").certificate_pem(),
        "did not sign",
    ),
    "signed by a person": (lambda: sign("astronomer", issuer=holder()), "which is no authority"),
    "an old proxy without its extension": (
        lambda: sign(
            subject=x.Name([*holder().certificate.subject.rdns, *name("proxy").rdns]), issuer=holder()
        ),
        "which is no authority",
    ),
    "a proxy of an authority": (lambda: sign("a", "1", extensions=[PROXY]), "by an authority"),
    "a proxy of another name": (
        lambda: sign(subject=name("astronomer", "1"), issuer=holder(), extensions=[PROXY]),
        "one common name",
    ),
    "a proxy of two more names": (
        lambda: sign("a", "1", "2", issuer=holder(), extensions=[PROXY]),
        "one common name",
    ),
    "a proxy of no more names": (
        lambda: sign(subject=holder().certificate.subject, issuer=holder(), extensions=[PROXY]),
        "one common name",
    ),
    "a proxy that is an authority": (
        lambda: sign("a", "1", issuer=holder(), extensions=[PROXY, CA]),
        "of an authority",
    ),
    "a proxy with an alternative name": (
        lambda: sign("a", "1", issuer=holder(), extensions=[PROXY, SAN]),
        "alternative name",
    ),
    "a proxy alone": (lambda: _alone(), "without the certificate"),
}


def _alone() -> str:
    proxy = make_proxy(holder(), now=NOW, lifetime=timedelta(days=1))
    return proxy.certificate_pem() + proxy.key_pem()


@pytest.mark.parametrize("case", BAD)
def test_what_must_not_be_used_is_refused_with_its_reason(case: str) -> None:
    make, reason = BAD[case]
    assert reason in refused(make())


def test_versions_that_nobody_knows_are_refused() -> None:
    der = holder().certificate.public_bytes(serialization.Encoding.DER)
    broken = der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020107"), 1)
    text = f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(broken).decode()}-----END CERTIFICATE-----\n"
    assert "malformed" in refused(text + holder().key_pem())
    assert look_at(text) is None


def test_a_name_cannot_forge_a_line_of_a_log() -> None:
    assert "\n" not in refused(sign("x\nINFO all is well"))


def test_the_key_shows_nowhere() -> None:
    certificate = read(good())
    body = good().split("PRIVATE KEY-----")[1][:40]
    assert body.strip()
    for shown in (repr(certificate), str(certificate), certificate.describe()):
        assert "PRIVATE" not in shown
        assert body not in shown


def test_a_file_is_looked_at_without_trust() -> None:
    proxy = make_proxy(holder(), now=NOW, lifetime=timedelta(days=1))
    assert look_at(good()) == ("CN=astronomer,O=Example", NOW + timedelta(days=7))
    assert look_at(proxy.pem()) == ("CN=astronomer,O=Example", NOW + timedelta(days=1))
    assert look_at(_alone()) == ("CN=astronomer,O=Example", NOW + timedelta(days=1))
    assert look_at("no certificate") is None
    assert look_at("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n") is None


# The service


@pytest.fixture
def server() -> Iterator[CredServer]:
    with CredServer() as started:
        started.users[TOKEN] = "astronomer"
        yield started


@pytest.fixture
async def outbound(server: CredServer) -> AsyncIterator[Outbound]:
    made = Outbound([server.host], seconds=5, attempts=2, pause=0)
    yield made
    await made.close()


def client(server: CredServer, outbound: Outbound, **settings: Any) -> CredClient:
    return CredClient(Credentials(cred=server.generate, **settings), outbound, lambda: NOW)


async def test_a_certificate_is_asked_for_with_the_users_own_token(
    server: CredServer, outbound: Outbound
) -> None:
    certificate = await client(server, outbound).certificate(TOKEN, "astronomer", "1")
    assert certificate.identity == "CN=astronomer,O=Example"
    [request] = server.requests
    assert request.token == TOKEN
    assert request.query == [("daysValid", "7")]


@pytest.mark.parametrize(("days", "asked"), [(7, "7"), (0.25, "1"), (1.5, "2"), (30, "30")])
async def test_days_are_asked_for_as_whole_ones(
    server: CredServer, outbound: Outbound, days: float, asked: str
) -> None:
    await client(server, outbound, days=days).certificate(TOKEN, "astronomer", "1")
    assert server.requests[0].all("daysValid") == [asked]


async def test_key_first_and_proxies_are_taken(server: CredServer, outbound: Outbound) -> None:
    server.flaw = "key first"
    assert (await client(server, outbound).certificate(TOKEN, "astronomer", "1")).pem.startswith(
        "-----BEGIN CERT"
    )
    server.flaw = "proxy"
    assert (await client(server, outbound).certificate(TOKEN, "astronomer", "1")).is_proxy


@pytest.mark.parametrize("flaw", FLAWS)
async def test_flawed_certificates_are_refused(server: CredServer, outbound: Outbound, flaw: str) -> None:
    server.flaw = flaw
    with pytest.raises(CertificateRefused):
        await client(server, outbound).certificate(TOKEN, "astronomer", "1")


async def test_somebody_elses_certificate_is_never_given_to_a_user(
    server: CredServer, outbound: Outbound
) -> None:
    with pytest.raises(CertificateRefused, match="somebody else's"):
        await client(server, outbound).certificate(TOKEN, "visitor", "1")


@pytest.mark.parametrize(
    ("token", "days", "status", "said"),
    [("unknown", 7, "HTTP 403", "does not give you one"), (TOKEN, 31, "HTTP 400", "credentials.days")],
)
async def test_a_refusal_is_told_without_what_the_service_wrote(
    server: CredServer, outbound: Outbound, token: str, days: float, status: str, said: str
) -> None:
    with pytest.raises(Unavailable) as error:
        await client(server, outbound, days=days).certificate(token, "astronomer", "1")
    assert status in str(error.value)
    assert said in str(error.value)
    assert token not in str(error.value)


@pytest.mark.parametrize(
    "fault", [Status(500), Status(503), Status(429), Garbage(), Truncated(), Redirect("https://example.org/")]
)
async def test_a_service_that_fails_is_unavailable(
    server: CredServer, outbound: Outbound, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.fault = fault
    with pytest.raises((Unavailable, CertificateRefused)) as error:
        await client(server, outbound).certificate(TOKEN, "astronomer", "1")
    assert TOKEN not in str(error.value) + caplog.text


async def test_a_page_in_place_of_a_certificate_is_told_as_such(server: CredServer, outbound: Outbound) -> None:
    server.fault = Garbage(b"<html>Please sign in</html>")
    with pytest.raises(CertificateRefused, match="web page"):
        await client(server, outbound).certificate(TOKEN, "astronomer", "1")


async def test_a_service_that_says_nothing_is_given_up(server: CredServer) -> None:
    server.fault = Delay()
    outbound = Outbound([server.host], seconds=0.05, attempts=1)
    with pytest.raises(Unavailable):
        await client(server, outbound).certificate(TOKEN, "astronomer", "1")
    await outbound.close()


async def test_a_service_that_the_site_does_not_trust_is_not_asked(server: CredServer) -> None:
    outbound = Outbound(["cred.example.org"])
    with pytest.raises(Unavailable):
        await client(server, outbound).certificate(TOKEN, "astronomer", "1")
    assert server.requests == []
    await outbound.close()


@pytest.mark.parametrize(
    "settings", [Credentials(), Credentials(cred="https://cred.example.org/x", common_name="(")]
)
def test_settings_that_cannot_work_are_told_at_the_start(settings: Credentials) -> None:
    with pytest.raises(ValueError, match=r"credentials\."):
        CredClient(settings, Outbound([]))
