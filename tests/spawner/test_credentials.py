"""Sessions' credentials: got at the start, fresh while they run, gone afterwards, and never shown."""

from __future__ import annotations

import asyncio
import itertools
import logging
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from canfar_auth.certificate import look_at
from canfar_auth.delegation import Certificate, CertificateRefused, CredClient
from canfar_auth.outbound import Outbound, Unavailable
from canfar_site.settings import Credentials
from canfar_spawner.credential_folders import FolderStore
from canfar_spawner.credentials import (
    CERTIFICATE,
    EXPIRES,
    TOKEN,
    Held,
    Renewer,
    Running,
    SignInNeeded,
    Status,
    certificate_due,
    environment,
    refusal,
    token_due,
)
from tests.support import faults
from tests.support.cred_server import NOW, CredServer
from tests.support.credential_source import (
    BOTH,
    CRED,
    DAY,
    HOUR,
    MINUTE,
    SECRET,
    Clock,
    FailingStore,
    Source,
    certificate_of,
    names,
    renewer_of,
    state,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def source(clock: Clock) -> Source:
    return Source(clock)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "credentials")


@pytest.fixture
def renewer(source: Source, store: FolderStore) -> Renewer:
    return renewer_of(source, store)


# What a session gets


async def test_a_session_starts_with_a_certificate_and_a_token(renewer: Renewer, store: FolderStore) -> None:
    status = await renewer.begin("astronomer", "s1", None)
    folder = store.folder("astronomer")
    assert (folder / CERTIFICATE).read_text() == f"certificate 1 of astronomer with {SECRET}\n"
    assert (folder / TOKEN).read_text() == f"token 1 of astronomer with {SECRET}"
    assert certificate_of(status).is_valid(NOW)
    assert certificate_of(status).not_after == NOW + 7 * DAY
    assert status == renewer.status("astronomer")
    assert state(store)[CERTIFICATE]["not_after"] == "2026-06-08T09:00:00+00:00"
    assert state(store)[TOKEN]["not_after"] == "2026-06-01T10:00:00+00:00"
    assert state(store)["checked"] == "2026-06-01T09:00:00+00:00"
    assert names(store) == {CERTIFICATE, TOKEN, EXPIRES}


async def test_files_and_folder_are_closed_to_others(renewer: Renewer, store: FolderStore) -> None:
    await renewer.begin("astronomer", "s1", None)
    folder = store.folder("astronomer")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_the_environment_names_what_the_site_gives() -> None:
    path = f"/run/x/{CERTIFICATE}"
    both = {"CANFAR_CREDENTIALS": "/run/x"} | dict.fromkeys(
        ("X509_USER_PROXY", "VOSPACE_CERTFILE", "CANFAR_CERTIFICATE"), path
    )
    assert environment("/run/x", BOTH) == both
    assert environment(Path("/run/x"), Credentials()) == {"CANFAR_CREDENTIALS": "/run/x"}
    assert environment("/run/x", Credentials(access_token=False)) == {}


async def test_what_the_site_does_not_give_is_not_asked_for(source: Source, store: FolderStore) -> None:
    status = await renewer_of(source, store, Credentials()).begin("astronomer", "s1", None)
    assert status.certificate is None
    assert names(store) == {TOKEN, EXPIRES}
    neither = renewer_of(source, store, Credentials(access_token=False))
    assert await neither.begin("visitor", "s1", None) == Status(None, None, NOW)
    assert names(store, "visitor") == set()
    assert source.certificates == []


@pytest.mark.parametrize("fails", [False, True])
async def test_many_sessions_that_start_at_once_ask_once(renewer: Renewer, source: Source, fails: bool) -> None:
    if fails:
        source.faults["astronomer"] = Unavailable("It is down.")
    statuses = await asyncio.gather(*(renewer.begin("astronomer", f"s{n}", None) for n in range(20)))
    assert source.certificates == ["astronomer"]
    assert [owner for owner, _ in source.tokens] == ["astronomer"]
    assert {certificate_of(status).is_valid(NOW) for status in statuses} == {not fails}
    assert {certificate_of(status).error for status in statuses} == {
        "There is no certificate for you. It is down." if fails else ""
    }
    await renewer.begin("astronomer", "later", None)
    assert len(source.certificates) == 1 + fails


async def test_a_start_that_failed_does_not_keep_the_next_from_trying(renewer: Renewer, source: Source) -> None:
    source.faults["astronomer"] = Unavailable("It is down.")
    await renewer.begin("astronomer", "s1", None)
    del source.faults["astronomer"]
    assert certificate_of(await renewer.begin("astronomer", "s2", None)).is_valid(NOW)


async def test_a_start_does_not_wait_for_a_renewal_that_hangs(
    source: Source, clock: Clock, store: FolderStore
) -> None:
    renewer = renewer_of(source, store, patience=3600)
    await renewer.begin("astronomer", "s1", None)
    clock.pass_(6 * DAY)
    source.token_life = 30 * DAY
    await renewer.renew_due()
    clock.pass_(6 * DAY)
    source.gate.clear()
    hanging = asyncio.ensure_future(renewer.renew_due())
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        status = await renewer.begin("astronomer", "s2", None)
    assert certificate_of(status).is_valid(clock())
    source.gate.set()
    await hanging


async def test_a_start_waits_only_so_long_and_the_rest_follows(source: Source, store: FolderStore) -> None:
    renewer = renewer_of(source, store, patience=0)
    source.gate.clear()
    status = await renewer.begin("astronomer", "s1", None)
    assert not certificate_of(status).there
    assert "will be put in place" in certificate_of(status).error
    source.gate.set()
    await renewer.renew_due()
    assert certificate_of(renewer.status("astronomer")).is_valid(NOW)
    assert len(source.certificates) == 1
    assert CERTIFICATE in names(store)


# Whether it may start


async def test_a_site_may_require_a_certificate(source: Source, store: FolderStore) -> None:
    required = Credentials(cred=CRED, required=True)
    source.faults["visitor"] = CertificateRefused("The certificate that came is somebody else's.")
    renewer = renewer_of(source, store, required)
    assert refusal(await renewer.begin("astronomer", "s1", None), required) == ""
    told = refusal(await renewer.begin("visitor", "s1", None), required)
    assert "somebody else's" in told
    assert "Try again" in told
    assert refusal(await renewer.begin("visitor", "s1", None), BOTH) == ""
    assert refusal(Status(None, None, NOW), Credentials(required=True))


# Renewal


@pytest.fixture
async def real(clock: Clock, store: FolderStore) -> AsyncIterator[tuple[CredServer, Renewer]]:
    """A service over HTTP, and credentials that come from it."""
    with CredServer(clock) as server:
        server.users["token"] = "astronomer_x1"
        outbound = Outbound([server.host], attempts=1)
        client = CredClient(Credentials(cred=server.generate), outbound, clock)

        class Real(Source):
            async def certificate(self, owner: str) -> Certificate:
                return await client.certificate("token", owner, "1")

        yield server, renewer_of(Real(clock), store)
        await outbound.close()


async def test_a_service_that_is_down_says_so_to_the_user(
    real: tuple[CredServer, Renewer], clock: Clock, store: FolderStore
) -> None:
    server, renewer = real
    server.fault = faults.Status(503)
    assert certificate_of(await renewer.begin("astronomer", "s1", None)).error == (
        "There is no certificate for you. The certificate service does not answer as it should."
    )
    server.fault = None
    clock.pass_(HOUR)
    await renewer.renew_due()
    assert certificate_of(renewer.status("astronomer")).error == ""
    found = look_at((store.folder("astronomer") / CERTIFICATE).read_text())
    assert found == ("CN=astronomer_x1,O=Example", clock() + 7 * DAY)


async def test_a_program_that_reads_again_sees_each_new_certificate(
    real: tuple[CredServer, Renewer], clock: Clock, store: FolderStore
) -> None:
    """One that runs over two renewals, and only opens the file again when it is told to."""
    server, renewer = real
    await renewer.begin("astronomer", "s1", None)
    path = environment(store.folder("astronomer"), BOTH)["X509_USER_PROXY"]
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", READS_WHEN_ASKED, path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert program.stdin
    assert program.stdout
    seen = []
    for _ in range(3):
        program.stdin.write(b"\n")
        seen.append((await program.stdout.readline()).decode().strip())
        clock.pass_(5 * DAY)
        await renewer.renew_due()
    await program.communicate(b"")
    assert program.returncode == 0
    assert seen == [(NOW + days * DAY).isoformat() for days in (7, 12, 17)]
    assert len(server.given) == 4


READS_WHEN_ASKED = """
import ssl, sys
from cryptography import x509
for _ in sys.stdin:
    ssl.create_default_context().load_cert_chain(sys.argv[1])
    with open(sys.argv[1], "rb") as file:
        print(x509.load_pem_x509_certificates(file.read())[0].not_valid_after_utc.isoformat(), flush=True)
"""


async def test_nothing_is_asked_for_before_it_is_due(renewer: Renewer, source: Source, clock: Clock) -> None:
    source.token_life = None
    await renewer.begin("astronomer", "s1", None)
    clock.pass_(7 * DAY * 0.56)
    await renewer.renew_due()
    assert len(source.certificates) == 1
    clock.pass_(7 * DAY * 0.11)
    await renewer.renew_due()
    assert len(source.certificates) == 2


def test_renewals_of_one_morning_are_spread() -> None:
    end = NOW + 7 * DAY
    dues = {certificate_due(end, f"user{n}", NOW) for n in range(100)}
    assert len(dues) == 100
    assert NOW + 7 * DAY * 0.56 < min(dues) < NOW + 7 * DAY * 0.59
    assert NOW + 7 * DAY * 0.64 < max(dues) < NOW + 7 * DAY * 0.67
    assert certificate_due(end, "astronomer", NOW) == certificate_due(end, "astronomer", NOW)


@pytest.mark.parametrize(
    ("life", "due"),
    [
        (HOUR, HOUR - 5 * MINUTE),
        (6 * MINUTE, 4 * MINUTE),
        (MINUTE, 40 * MINUTE / 60),
        (None, 5 * MINUTE),
        (MINUTE / 60, MINUTE / 6),
    ],
)
def test_tokens_are_renewed_shortly_before_their_end(life: timedelta | None, due: timedelta) -> None:
    assert token_due(NOW + life if life else None, NOW) == NOW + due


async def test_a_due_token_is_asked_for_so_that_it_is_a_new_one(
    renewer: Renewer, source: Source, clock: Clock, store: FolderStore
) -> None:
    await renewer.begin("astronomer", "s1", None)
    clock.pass_(56 * MINUTE)
    await renewer.renew_due()
    assert source.tokens == [("astronomer", 60), ("astronomer", 300)]
    assert (store.folder("astronomer") / TOKEN).read_text().startswith("token 2")


async def test_the_failure_of_one_stops_no_other(
    renewer: Renewer, source: Source, clock: Clock, store: FolderStore
) -> None:
    owners = [f"user{n}" for n in range(30)]
    for owner in owners:
        await renewer.begin(owner, "s1", None)
    source.faults = {
        "user3": Unavailable("It is down."),
        "user4": CertificateRefused("It is bad."),
        "user5": SignInNeeded("Sign in again."),
        "user6": RuntimeError(SECRET),
        "user7": OSError(28, "No space left on device"),
    }
    clock.pass_(5 * DAY)
    source.most_at_once = 0
    await renewer.renew_due()
    for owner in owners:
        held = certificate_of(renewer.status(owner))
        assert held.is_valid(clock())
        assert bool(held.error) == (owner in source.faults)
        assert (held.not_after == NOW + 12 * DAY) == (owner not in source.faults)
    assert 1 < source.most_at_once <= 8
    assert state(store, "user3")[CERTIFICATE]["error"] == (
        "Your certificate could not be renewed. The one that you have is valid until 2026-06-08 09:00 UTC."
        " It is down."
    )
    assert SECRET not in certificate_of(renewer.status("user6")).error


async def test_after_failures_it_is_asked_for_less_and_less_often(
    renewer: Renewer, source: Source, clock: Clock
) -> None:
    source.days = 300
    await renewer.begin("astronomer", "s1", None)
    source.faults["astronomer"] = Unavailable("It is down.")
    clock.pass_(250 * DAY)
    asked = []
    for minute in range(600):
        before = len(source.certificates)
        await renewer.renew_due()
        if len(source.certificates) > before:
            asked.append(minute)
        clock.pass_(MINUTE)
    assert asked[:7] == [0, 1, 3, 7, 15, 31, 63]
    assert {later - earlier for earlier, later in itertools.pairwise(asked[6:])} == {60}
    del source.faults["astronomer"]
    clock.pass_(HOUR)
    await renewer.renew_due()
    assert certificate_of(renewer.status("astronomer")).error == ""


def test_back_off_is_jittered() -> None:
    failed = [Held().failed("", NOW, chance).due for chance in (0.0, 0.5, 1.0)]
    assert failed == [NOW + 30 * MINUTE / 60, NOW + 45 * MINUTE / 60, NOW + MINUTE]


async def test_a_certificate_stays_until_its_end_and_is_then_removed(
    renewer: Renewer, source: Source, clock: Clock, store: FolderStore
) -> None:
    source.token_life = None
    await renewer.begin("astronomer", "s1", None)
    source.faults["astronomer"] = Unavailable("It is down.")
    clock.pass_(7 * DAY - MINUTE)
    await renewer.renew_due()
    assert CERTIFICATE in names(store)
    assert certificate_of(renewer.status("astronomer")).is_valid(clock())
    clock.pass_(MINUTE)
    ended = certificate_of(renewer.status("astronomer"))
    assert (ended.there, ended.not_after) == (False, None)
    await renewer.renew_due()
    assert CERTIFICATE not in names(store)
    assert state(store)[CERTIFICATE] | {"renewal": ""} == {
        "there": False,
        "not_after": None,
        "renewal": "",
        "error": "Your certificate has ended, and there is no new one. It is down.",
    }
    del source.faults["astronomer"]
    clock.pass_(HOUR)
    await renewer.renew_due()
    assert CERTIFICATE in names(store)
    assert certificate_of(renewer.status("astronomer")).is_valid(clock())


async def test_what_comes_and_has_ended_already_is_not_used(
    renewer: Renewer, source: Source, store: FolderStore
) -> None:
    source.token_life = -MINUTE
    status = await renewer.begin("astronomer", "s1", None)
    assert status.token
    assert "ended already" in status.token.error
    assert TOKEN not in names(store)


STORE_FAULTS = [OSError(28, "No space left on device"), RuntimeError(f"unforeseen: {SECRET}")]


@pytest.mark.parametrize("fault", STORE_FAULTS)
async def test_a_store_that_fails_for_one_leaves_what_was_there_and_stops_no_other(
    source: Source, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    store = FailingStore(tmp_path / "credentials")
    renewer = renewer_of(source, store)
    for owner in ("astronomer", "visitor"):
        await renewer.begin(owner, "s1", None)
    store.faults["astronomer"] = fault
    clock.pass_(5 * DAY)
    await renewer.renew_due()
    held = certificate_of(renewer.status("astronomer"))
    assert held.is_valid(clock())
    assert held.not_after == NOW + 7 * DAY
    assert (isinstance(fault, OSError) and "No space left on device" in held.error) or "log" in held.error
    assert (store.folder("astronomer") / CERTIFICATE).read_text().startswith("certificate 1")
    assert certificate_of(renewer.status("visitor")).not_after == clock() + 7 * DAY
    asked = len(source.certificates)
    await renewer.renew_due()
    assert len(source.certificates) == asked  # it is not asked at each round
    store.faults.clear()
    clock.pass_(HOUR)
    await renewer.renew_due()
    assert certificate_of(renewer.status("astronomer")).not_after == clock() + 7 * DAY
    assert SECRET not in caplog.text


@pytest.mark.parametrize("fault", STORE_FAULTS)
async def test_with_a_store_that_fails_sessions_start_end_and_are_taken_over(
    source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    store = FailingStore(tmp_path / "credentials")
    store.faults["astronomer"] = fault
    renewer = renewer_of(source, store)
    status = await renewer.begin("astronomer", "s1", None)
    assert not certificate_of(status).there
    assert certificate_of(status).error
    await renewer.end("astronomer", "s1")
    assert renewer.status("astronomer") is None
    await renewer.adopt({owner: Running(frozenset({"s1"}), None) for owner in ("astronomer", "visitor")})
    await renewer.renew_due()
    assert certificate_of(renewer.status("visitor")).is_valid(NOW)
    assert not certificate_of(renewer.status("astronomer")).there
    assert SECRET not in caplog.text


# The end


async def test_credentials_go_with_the_last_session(renewer: Renewer, store: FolderStore) -> None:
    await renewer.begin("astronomer", "s1", None)
    await renewer.begin("astronomer", "s2", None)
    await renewer.end("astronomer", "s1")
    assert CERTIFICATE in names(store)
    await renewer.end("astronomer", "s2")
    assert not store.folder("astronomer").exists()
    assert renewer.status("astronomer") is None
    await renewer.end("astronomer", "s2")
    await renewer.end("nobody", "s1")


async def test_what_comes_after_the_end_is_not_kept(source: Source, store: FolderStore) -> None:
    renewer = renewer_of(source, store, patience=0)
    source.gate.clear()
    await renewer.begin("astronomer", "s1", None)
    await renewer.end("astronomer", "s1")
    source.gate.set()
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
    assert not store.folder("astronomer").exists()


async def test_a_session_that_starts_while_the_last_one_ends_has_all(
    renewer: Renewer, store: FolderStore
) -> None:
    for number in range(20):
        await renewer.begin("astronomer", f"a{number}", None)
        _, status = await asyncio.gather(
            renewer.end("astronomer", f"a{number}"), renewer.begin("astronomer", f"b{number}", None)
        )
        assert certificate_of(status).is_valid(NOW)
        assert names(store) == {CERTIFICATE, TOKEN, EXPIRES}
        await renewer.end("astronomer", f"b{number}")


# After a restart of the hub


async def test_a_new_hub_takes_over_and_removes_what_nobody_uses(
    renewer: Renewer, source: Source, clock: Clock, store: FolderStore
) -> None:
    for owner in ("astronomer", "visitor", "first.last@example.org"):
        await renewer.begin(owner, "s1", None)
    (store.folder("visitor") / f"{CERTIFICATE}.new").write_text(SECRET)
    asked = len(source.certificates)
    again = renewer_of(source, store)
    await again.adopt(
        {
            "astronomer": Running(frozenset({"s1"}), None),
            "first.last@example.org": Running(frozenset({"s1"}), None),
            "visitor": Running(frozenset(), None),
        }
    )
    assert not store.folder("visitor").exists()
    assert again.status("visitor") is None
    assert certificate_of(again.status("astronomer")).not_after == NOW + 7 * DAY
    await again.renew_due()
    assert len(source.certificates) == asked
    clock.pass_(5 * DAY)
    await again.renew_due()
    assert len(source.certificates) == asked + 2
    await again.end("astronomer", "s1")
    assert not store.folder("astronomer").exists()


async def test_a_session_that_starts_meanwhile_keeps_what_it_got(source: Source, store: FolderStore) -> None:
    for number in range(20):
        renewer = renewer_of(source, store)
        await store.write("visitor", ["left"], {CERTIFICATE: "left"}, None)
        await asyncio.gather(renewer.adopt({}), renewer.begin("astronomer", f"s{number}", None))
        assert names(store) == {CERTIFICATE, TOKEN, EXPIRES}
        assert not store.folder("visitor").exists()
        await renewer.end("astronomer", f"s{number}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"cadcproxy.pem": 1, "access_token": []}',
        '{"cadcproxy.pem": {"there": true, "not_after": "tomorrow", "renewal": null, "error": ""}}',
        '{"cadcproxy.pem": {"there": true, "not_after": "2026-06-08T09:00:00", "renewal": null, "error": ""}}',
        '{"cadcproxy.pem": {"there": true, "not_after": "9999-12-31T23:59:59-23:00", "renewal": null,'
        ' "error": ""}}',
        "[" * 60_000,
        "\x00" * 100_000,
    ],
)
async def test_a_spoilt_record_is_made_anew(
    renewer: Renewer, source: Source, store: FolderStore, text: str
) -> None:
    await renewer.begin("astronomer", "s1", None)
    (store.folder("astronomer") / EXPIRES).write_text(text)
    again = renewer_of(source, store)
    await again.adopt({"astronomer": Running(frozenset({"s1"}), None)})
    await again.renew_due()
    assert certificate_of(again.status("astronomer")).is_valid(NOW)
    assert state(store)[CERTIFICATE]["there"] is True


async def test_what_a_site_no_longer_gives_is_taken_from_running_sessions(
    renewer: Renewer, source: Source, store: FolderStore
) -> None:
    await renewer.begin("astronomer", "s1", None)
    again = renewer_of(source, store, Credentials(cred=CRED, access_token=False))
    await again.adopt({"astronomer": Running(frozenset({"s1"}), None)})
    assert names(store) == {CERTIFICATE, EXPIRES}


# Nothing secret is told


async def test_nothing_secret_is_logged_or_shown(
    renewer: Renewer, source: Source, clock: Clock, store: FolderStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await renewer.begin("astronomer", "s1", None)
    source.faults["astronomer"] = RuntimeError(f"unforeseen: {SECRET}")
    clock.pass_(6 * DAY)
    await renewer.renew_due()
    again = renewer_of(source, store)
    await again.adopt({"astronomer": Running(frozenset({"s1"}), None)})
    await renewer.end("astronomer", "s1")
    assert "RuntimeError" in caplog.text
    assert "astronomer" in caplog.text
    shown = [caplog.text, repr(renewer.__dict__), repr(again.status("astronomer"))]
    assert SECRET not in "".join(shown)


async def test_the_record_holds_nothing_secret(renewer: Renewer, store: FolderStore) -> None:
    await renewer.begin("astronomer", "s1", None)
    assert SECRET not in (store.folder("astronomer") / EXPIRES).read_text()
