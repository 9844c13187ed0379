"""Credentials of sessions on the whole embedded hub: what outages do, and that they stay where they belong."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from cryptography import x509
from cryptography.fernet import Fernet

from tests.support.cred_server import TrialCredServer
from tests.support.faults import Delay, Garbage, Status
from tests.support.identities import SURVEY
from tests.support.kernel import Kernel
from tests.support.stack import ROOT, Person, Stack, running, until, write_catalogue

DOWN = [Status(500), Garbage(), Status(403)]


@pytest.fixture(scope="module")
def cred() -> Iterator[TrialCredServer]:
    with TrialCredServer(now=lambda: datetime.now(UTC)) as server:
        yield server


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, cred: TrialCredServer) -> Iterator[Stack]:
    with started(tmp_path_factory.mktemp("cred"), cred) as stack:
        yield stack


def started(folder: Path, cred: TrialCredServer, **settings: Any) -> Any:
    site = yaml.safe_load((ROOT / "demo/site.yaml").read_text())
    site["credentials"] = {"cred": cred.generate, **settings}
    site["groups"]["refresh"] = 5
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    options = ("--site", str(folder / "site.yaml"), "--catalogue", str(write_catalogue(folder)))
    return running(folder / "data", *options)


@pytest.fixture
def person(hub: Stack, cred: TrialCredServer) -> Iterator[Person]:
    found = hub.sign_in("astronomer")
    yield found
    cred.fault, cred.flaw, cred.life = None, "", None
    found.stop_all()


def folder(stack: Stack) -> Path:
    """The astronomer's credentials."""
    return stack.data / "credentials/astronomer"


def home(person: Person) -> str:
    return person.browser.get(f"{person.stack.url}/hub/home").text


# The certificate service is down: the rows of docs/explanation/credentials.md


def test_sign_in_and_membership_do_not_depend_on_it(hub, cred, person):
    cred.fault = Status(500)
    asked = len(cred.requests)
    again = hub.sign_in("astronomer")
    assert again.arrived.status_code == 200
    groups = again.api("GET", "/user").json()["groups"]
    assert SURVEY in groups
    assert len(cred.requests) == asked


@pytest.mark.parametrize("fault", DOWN, ids=["500", "garbage", "refused"])
def test_a_session_starts_without_a_certificate_and_says_so(hub, cred, person, fault):
    cred.fault = fault
    assert person.start("mine", {"profile": "open"}).status_code in {201, 202}
    page = person.browser.get(str(person.ready("mine")["full_url"]))
    assert page.status_code == 200
    assert "There is no certificate for you. " in home(person)
    assert not (folder(hub) / "cadcproxy.pem").exists()
    assert (folder(hub) / "access_token").read_text()
    told = json.loads((folder(hub) / "expires.json").read_text())["cadcproxy.pem"]
    assert told["there"] is False
    assert told["error"].startswith("There is no certificate for you.")


@pytest.mark.parametrize("flaw", ["expired", "somebody else's", "an authority's"])
def test_a_certificate_that_must_not_be_used_is_not(hub, cred, person, flaw):
    cred.flaw = flaw
    person.start("mine", {"profile": "open"})
    person.ready("mine")
    assert not (folder(hub) / "cadcproxy.pem").exists()
    assert "There is no certificate for you. " in home(person)


def test_a_running_session_keeps_its_own_also_while_the_hub_restarts(hub, cred, person):
    person.start("mine", {"profile": "open"})
    page = str(person.ready("mine")["full_url"])
    before = (folder(hub) / "cadcproxy.pem").read_text()
    cred.fault = Delay()
    hub.restart_hub(signal.SIGKILL)
    assert person.browser.get(page).status_code == 200
    assert (folder(hub) / "cadcproxy.pem").read_text() == before
    until(lambda: "Certificate ends" in home(person), "the certificate taken over")
    person.stop("mine")
    until(lambda: not folder(hub).exists(), "removed")


READ = """
import os
from cryptography import x509
with open(os.environ["X509_USER_PROXY"], "rb") as file:
    print(x509.load_pem_x509_certificate(file.read()).not_valid_after_utc.isoformat())
"""


@pytest.mark.slow
def test_a_running_notebook_sees_each_new_certificate(hub, cred, person):
    """One kernel, which runs the same cell again over two renewals."""
    cred.life = timedelta(seconds=20)
    person.start("mine", {"profile": "notebook"})
    person.ready("mine")
    with Kernel(person, "mine") as kernel:
        seen = {kernel.run(READ)}
        until(lambda: seen.add(kernel.run(READ)) or len(seen) == 3, "two new certificates")
    ends = sorted(map(datetime.fromisoformat, seen))
    assert ends[2] - ends[0] > timedelta(seconds=20)
    given = {one.not_valid_after_utc for pem in cred.given for one in x509_of(pem)}
    assert set(ends) <= given


def x509_of(pem: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem.encode())


def test_what_a_session_leaves_that_ends_while_the_hub_is_away_is_removed(hub, cred, person):
    person.start("mine", {"profile": "open"})
    person.ready("mine")
    session = next(
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get("CANFAR_RUNTIME_DIR") == str(hub.data / "sessions")
    )
    stranger = hub.data / "credentials/nobody"
    stranger.mkdir(mode=0o700)
    (stranger / "access_token").write_text("left")
    hub_process = psutil.Process(hub.program("jupyterhub"))
    until(lambda: datetime.now().timestamp() - hub_process.create_time() > 11, "a steady hub")
    os.kill(hub_process.pid, signal.SIGSTOP)
    session.kill()
    hub.restart_hub(signal.SIGKILL)
    until(lambda: not stranger.exists() and not folder(hub).exists(), "removed")


def test_where_a_certificate_is_required_nothing_starts_without(tmp_path, cred):
    cred.fault = Status(500)
    with started(tmp_path, cred, required=True) as stack:
        person = stack.sign_in("astronomer")
        refused = person.start("mine", {"profile": "open"})
        assert refused.status_code == 503
        assert "Sessions start only with a certificate here." in refused.json()["message"]
        assert not folder(stack).exists()
        assert not list((stack.data / "sessions").glob("*"))
        cred.fault = None
        person.begin("mine", {"profile": "open"})
        person.stop_all()


# Where secrets are


def test_no_secret_is_anywhere_but_where_it_belongs(hub, cred, person):
    """Drives the hub through starts, failures and restarts, and searches all that came of it for secrets."""
    shown: list[str] = []
    for number, flaw in enumerate(["", "mismatched key", "out of order", "key first"]):
        cred.flaw = flaw
        answer = person.start(f"s{number}", {"profile": "open"})
        shown.append(answer.text)
        person.ready(f"s{number}")
        shown += [home(person), json.dumps(person.server(f"s{number}"))]
        person.stop(f"s{number}")
    cred.flaw, cred.fault = "", None
    cred.users.clear()
    shown.append(person.start("dying", {"profile": "dies"}).text)
    person.start("mine", {"profile": "open", "name": "Kept"})
    person.ready("mine")
    hub.restart_hub()
    person.ready("mine")
    secrets = every_secret(hub, cred, person)
    shown += everything_shown(hub, person)
    found = [name for name, secret in secrets.items() if any(secret in text for text in shown)]
    assert not found


def every_secret(hub: Stack, cred: TrialCredServer, person: Person) -> dict[str, str]:
    """What must not be shown, by name; of keys one line each."""
    kept = json.loads((hub.data / "secrets.json").read_text())
    secrets = {name: str(value) for name, value in kept.items()}
    secrets["the session's own"] = next((hub.data / "sessions").glob("*/secret")).read_text()
    secrets["the hub's API token"] = person.token
    secrets["access token in use"] = (folder(hub) / "access_token").read_text()
    secrets |= {f"access token {count}": token for count, token in enumerate(sorted(set(cred.tokens)))}
    for count, pem in enumerate(cred.given):
        key = re.search(r"PRIVATE KEY-----\n(?:\S+\n){2}(\S+)\n", pem)
        assert key
        secrets[f"certificate key {count}"] = key[1]
    key = re.search(r"PRIVATE KEY-----\n(?:\S+\n){2}(\S+)\n", (folder(hub) / "cadcproxy.pem").read_text())
    assert key
    secrets["certificate key in use"] = key[1]
    fernet = Fernet(base64.urlsafe_b64encode(bytes.fromhex(kept["JUPYTERHUB_CRYPT_KEY"])))
    state = {}
    for (sealed,) in sqlite3.connect(hub.data / "hub.sqlite").execute("select encrypted_auth_state from users"):
        state |= json.loads(fernet.decrypt(sealed)) if sealed else {}
    secrets |= {name: state[name] for name in ("access_token", "refresh_token", "id_token")}
    assert len(secrets) > 15
    assert all(len(secret) > 20 for secret in secrets.values())
    return secrets


def everything_shown(hub: Stack, person: Person) -> list[str]:
    """Logs, process arguments, the hub's database, pages, events, and what the API says to whom it concerns."""
    shown = [path.read_text(errors="replace") for path in (hub.data / "logs").iterdir()]
    shown.append(subprocess.run(["ps", "axww", "-o", "args="], capture_output=True, text=True).stdout)
    shown += [path.read_bytes().decode("latin-1") for path in hub.data.glob("hub.sqlite*")]
    pages = ("home", "spawn", "token", "spawn/astronomer/mine", "no-such-page", "spawn-pending/astronomer/mine")
    shown += [person.browser.get(f"{hub.url}/hub/{page}").text for page in pages]
    for who in (person, hub.sign_in("visitor")):  # administrators may read what the hub keeps of everybody
        paths = ("", "/astronomer", "/astronomer/servers/mine", "/astronomer/servers/mine/progress")
        shown += [who.api("GET", f"/users{path}").text for path in paths]
        shown.append(who.api("GET", "/user").text)
    shown.append((folder(hub) / "expires.json").read_text())
    return shown
