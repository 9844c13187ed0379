"""The trial's group and certificate services, with OpenSSL and the client that users have."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from cryptography.x509 import load_pem_x509_certificate

from canfar_auth import x509
from canfar_auth.certificate import read_certificate
from canfar_auth.gms import GmsClient
from canfar_auth.outbound import Outbound
from canfar_hub.grid_services.authority import open_authority
from canfar_site.settings import GroupService
from tests.support.faults import FaultyServer, Received, Reply
from tests.support.ports import free_port
from tests.support.stack import ROOT, Stack, until

ACCOUNTS = """
authority: example.org
accounts:
  astronomer:
    full_name: An Astronomer
    email: astronomer@example.org
    groups: [from-claims]
    gms_groups: [survey-y, Deep~Field.2]
"""


class Provider(FaultyServer):
    """Tells whose a token is: `token of NAME` is that of NAME."""

    def answer(self, request: Received) -> Reply:
        who, _, name = request.token.partition("-of-")
        if request.path != "/userinfo" or who != "token":
            return Reply(401)
        return Reply(body=json.dumps({"preferred_username": name}), content_type="application/json")


class Services:
    """The running services."""

    def __init__(self, folder: Path, issuer: str) -> None:
        self.folder, self.issuer = folder, issuer
        self.port, self.tls_port = free_port(), free_port()
        self.url, self.tls_url = f"http://127.0.0.1:{self.port}", f"https://localhost:{self.tls_port}"
        self.public = folder / "public"
        self.authority = self.public / "authority.pem"
        self.process = self.start()

    def start(self) -> subprocess.Popen[str]:
        (self.folder / "accounts.yaml").write_text(ACCOUNTS)
        command = [
            *(sys.executable, "-m", "canfar_hub.grid_services", "--issuer", self.issuer),
            *("--accounts", str(self.folder / "accounts.yaml"), "--data", str(self.folder / "data")),
            *("--publish", str(self.public), "--port", str(self.port), "--tls-port", str(self.tls_port)),
        ]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        assert process.stderr
        assert "answer at" in process.stderr.readline()
        return process

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=30)
        assert (self.process.returncode, said) == (0, "")

    def get(self, path: str, token: str = "", **params: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.get(f"{self.url}{path}", headers=headers, params=params)

    def certified(self, path: str, pem: Path) -> httpx.Response:
        context = ssl.create_default_context(cafile=self.authority)
        context.load_cert_chain(pem)
        return httpx.get(f"{self.tls_url}{path}", verify=context)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with Provider() as provider:
        running = Services(tmp_path_factory.mktemp("services"), provider.url)
        yield running
        running.stop()


@pytest.fixture(scope="module")
def pem(services: Services) -> Path:
    """The astronomer's certificate, as the service gives it."""
    answer = services.get("/cred/generate", "token-of-astronomer", daysValid="2")
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/x-pem-file"
    path = services.folder / "cadcproxy.pem"
    path.write_text(answer.text)
    return path


def test_groups_are_told_to_the_holder_of_a_token(services):
    answer = services.get("/gms/search", "token-of-astronomer")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert answer.text == "survey-y\r\nDeep~Field.2\r\n"
    assert services.get("/gms/search", "token-of-astronomer", group="survey-y").text == "survey-y\r\n"
    assert services.get("/gms/search", "token-of-astronomer", group="other").text == ""
    assert services.get("/gms/search", "token-of-stranger").text == ""


def test_who_is_not_known_is_refused(services):
    anonymous = services.get("/gms/search")
    assert (anonymous.status_code, anonymous.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert services.get("/gms/search", "stolen").status_code == 403
    assert services.get("/cred/generate").status_code == 401
    assert services.get("/cred/generate", "stolen").status_code == 403


@pytest.mark.parametrize("days", ["0", "31", "-1", "1.5", "", "9" * 30, "²"])
def test_days_that_are_not_given(services, days):
    answer = services.get("/cred/generate", "token-of-astronomer", daysValid=days)
    assert answer.status_code == 400
    assert "1 to 30" in answer.text


def test_a_certificate_is_the_callers_for_the_days_asked_for(services, pem):
    read = read_certificate(pem.read_text(), now=datetime.now(UTC), common_name="astronomer")
    assert timedelta(days=2) - timedelta(minutes=1) < read.remaining(datetime.now(UTC)) <= timedelta(days=2)
    assert read.issuer == open_authority(services.folder / "data").certificate.subject.rfc4514_string()
    longest = services.get("/cred/generate", "token-of-astronomer").text
    assert read_certificate(longest, now=datetime.now(UTC)).remaining(datetime.now(UTC)).days in (29, 30)


def test_openssl_and_a_server_that_demands_client_certificates_accept_it(services, pem):
    verified = subprocess.run(
        ["openssl", "verify", "-CAfile", services.authority, "-purpose", "sslclient", pem],
        capture_output=True,
        text=True,
    )
    assert verified.returncode == 0, verified.stderr
    assert _subject_seen_by_a_demanding_server(services, pem) == "astronomer"


def _subject_seen_by_a_demanding_server(services: Services, pem: Path) -> str:
    """The common name that a TLS server with no ties to ours sees."""
    authority = open_authority(services.folder / "data")
    made = x509.make_server(authority, ["localhost"], now=datetime.now(UTC), lifetime=timedelta(days=1))
    own = services.folder / "other-server.pem"
    own.write_text(made.pem())
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=services.authority)
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(own)
    client = ssl.create_default_context(cafile=services.authority)
    client.load_cert_chain(pem)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        thread = threading.Thread(target=lambda: client.wrap_socket(ours, server_hostname="localhost").read(1))
        thread.start()
        with server.wrap_socket(theirs, server_side=True) as connection:
            connection.write(b"!")
            subject = dict(pair for rdn in (connection.getpeercert() or {})["subject"] for pair in rdn)
        thread.join()
    return str(subject["commonName"])


def test_groups_are_told_to_the_holder_of_a_certificate_or_a_proxy_of_it(services, pem):
    assert services.certified("/gms/search", pem).text == "survey-y\r\nDeep~Field.2\r\n"
    authority = open_authority(services.folder / "data")
    now = datetime.now(UTC)
    own = x509.make_end_entity(
        authority, x509.name("astronomer", organization="any"), now=now, lifetime=timedelta(days=1)
    )
    proxy = services.folder / "proxy.pem"
    proxy.write_text(x509.make_proxy(own, now=now, lifetime=timedelta(hours=1)).pem())
    assert services.certified("/gms/search", proxy).text == "survey-y\r\nDeep~Field.2\r\n"


def test_a_certificate_is_no_way_to_another(services, pem):
    refused = services.certified("/cred/generate", pem)
    assert refused.status_code == 403
    assert "token" in refused.text


@pytest.mark.parametrize("flaw", ["expired", "another authority's", "the server's own"])
def test_certificates_that_are_not_taken(services, flaw):
    now = datetime.now(UTC)
    authority = open_authority(services.folder / "data")
    if flaw == "another authority's":
        authority = x509.make_authority(authority.certificate.subject, now=now)
    begin = now - timedelta(days=3) if flaw == "expired" else now
    made = x509.make_end_entity(authority, x509.name("astronomer"), now=begin, lifetime=timedelta(days=1))
    path = services.folder / "flawed.pem"
    path.write_text(made.pem())
    if flaw == "the server's own":
        path = services.folder / "data/server.pem"
    with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)):
        services.certified("/gms/search", path)


async def test_the_hubs_own_client_finds_it_through_its_registry_and_capabilities(services):
    capabilities = services.get("/gms/capabilities").text
    assert f"{services.tls_url}/gms/search" in capabilities
    assert services.get("/reg/resource-caps").text.startswith("ivo://example.org/gms = https://")
    outbound = Outbound({f"127.0.0.1:{services.port}"})
    client = GmsClient(
        GroupService(search=f"{services.url}/gms/search"),
        outbound,
        resource="ivo://example.org/gms",
        longest=timedelta(0),
    )
    found = await client.groups("token-of-astronomer")
    assert found.groups == {"ivo://example.org/gms?survey-y", "ivo://example.org/gms?Deep~Field.2"}
    await outbound.close()


ASK = """
import sys
from cadcutils.net import Subject
from cadcutils.net.groups_client import GroupsClient

host, resource, how, credential = sys.argv[1:]
client = GroupsClient(Subject(**{how: credential}), resource, host, insecure=True)
print(client.is_member("survey-y"), client.is_member(["other", "Deep~Field.2"]), client.is_member("other"))
"""


@pytest.mark.parametrize("how", ["certificate", "token"])
def test_the_client_that_users_have_finds_it_by_a_registry_and_asks_for_groups(services, pem, tmp_path, how):
    credential = str(pem) if how == "certificate" else "token-of-astronomer"
    arguments = [f"localhost:{services.tls_port}", "ivo://example.org/gms", how, credential]
    said = subprocess.run(
        [sys.executable, "-c", ASK, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert said.stdout == "True True False\n", said.stderr


def test_the_authority_stays_and_its_key_is_private(services):
    before = services.authority.read_text()
    services.stop()
    services.process = services.start()
    assert services.authority.read_text() == before
    assert load_pem_x509_certificate(before.encode()).subject.rfc4514_string().startswith("CN=")
    assert "KEY" not in before
    for path in (services.folder / "data").iterdir():
        assert path.stat().st_mode & 0o077 == 0
    assert services.authority.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("damage", ["", "no certificate at all"])
def test_a_damaged_authority_is_named(services, tmp_path, damage):
    (tmp_path / "authority.key.pem").write_text(damage)
    command = [
        *(sys.executable, "-m", "canfar_hub.grid_services", "--issuer", services.issuer),
        *("--accounts", str(services.folder / "accounts.yaml"), "--data", str(tmp_path)),
        *("--publish", str(tmp_path / "p"), "--port", str(free_port()), "--tls-port", str(free_port())),
    ]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 1
    assert said.stderr.count("\n") == 1
    assert "authority.key.pem" in said.stderr


# On the whole hub


def session_environment(stack: Stack) -> dict[str, str]:
    """The variables that the program of the only session has."""
    every = [process.info["environ"] or {} for process in psutil.process_iter(["environ"])]
    return next(one for one in every if one.get("CANFAR_RUNTIME_DIR") == str(stack.data / "sessions"))


def test_a_session_has_groups_of_both_and_a_notebook_that_shows_its_credentials_working(stack, astronomer):
    groups = astronomer.api("GET", "/users/astronomer").json()["groups"]
    assert {"ivo://example.org/gms?survey-x", "ivo://example.org/gms?survey-y"} <= set(groups)
    astronomer.start("mine", {"profile": "open"})
    astronomer.ready("mine")
    environment = session_environment(stack)
    notebook = stack.data / "arc/projects/survey-x/credentials.ipynb"
    executed = stack.data.parent / "executed.ipynb"
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute"),
            *("--output", str(executed), str(notebook)),
        ],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    text = executed.read_text()
    assert "CN=astronomer" in text
    assert text.count("survey-y") == 2


def test_a_sessions_credentials_are_where_the_environment_says_and_go_with_it(stack, astronomer):
    astronomer.start("mine", {"profile": "open"})
    astronomer.ready("mine")
    environment = session_environment(stack)
    folder = Path(environment["CANFAR_CREDENTIALS"])
    certificate = folder / "cadcproxy.pem"
    names = ("X509_USER_PROXY", "VOSPACE_CERTFILE", "CANFAR_CERTIFICATE")
    assert {environment[name] for name in names} == {str(certificate)}
    assert Path(environment["HOME"], ".ssl/cadcproxy.pem").resolve() == certificate
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "cadcproxy.pem": 0o600,
        "access_token": 0o600,
        "expires.json": 0o600,
    }
    told = json.loads((folder / "expires.json").read_text())
    read = read_certificate(certificate.read_text(), now=datetime.now(UTC), common_name="astronomer")
    assert datetime.fromisoformat(told["cadcproxy.pem"]["not_after"]) == read.not_after
    home = astronomer.browser.get(f"{stack.url}/hub/home").text
    assert f'Certificate ends <time datetime="{read.not_after.isoformat()}"' in home
    astronomer.stop("mine")
    until(lambda: not folder.exists(), "the credentials removed")
