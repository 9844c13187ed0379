"""Asking a group service, over a real connection."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import pytest_asyncio

from canfar_auth.gms import GmsClient, search_address
from canfar_auth.identity import GroupSet
from canfar_auth.outbound import Outbound, Unavailable
from canfar_site.settings import GroupService
from tests.support.faults import (
    Delay,
    Fault,
    FaultyServer,
    Garbage,
    Redirect,
    SlowDrip,
    Status,
    Truncated,
)
from tests.support.gms_server import CAPABILITIES, GmsServer
from tests.support.identities import SURVEY, USERS

TOKEN = "the-users-token"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LAST = GroupSet(frozenset({SURVEY}), "gms", NOW - timedelta(hours=1))


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def gms() -> Iterator[GmsServer]:
    with GmsServer() as server:
        server.groups[TOKEN] = [USERS, SURVEY]
        yield server


@pytest_asyncio.fixture
async def outbound(gms: GmsServer) -> AsyncIterator[Outbound]:
    client = Outbound({gms.host}, seconds=0.3, attempts=2, pause=0.001, threshold=1000)
    yield client
    await client.close()


def client(gms: GmsServer, outbound: Outbound, clock: Clock | None = None, **settings: str | None) -> GmsClient:
    service = GroupService.model_validate({"search": gms.search} | settings)
    return GmsClient(
        service,
        outbound,
        resource=service.resource or "ivo://example.org/gms",
        longest=timedelta(minutes=5),
        now=clock or Clock(),
    )


async def test_the_groups_of_the_tokens_holder(gms: GmsServer, outbound: Outbound) -> None:
    told = await client(gms, outbound).groups(TOKEN)
    assert told == GroupSet(frozenset({USERS, SURVEY}), "gms", NOW)
    assert gms.tokens == [TOKEN]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
async def test_plain_names_and_both_line_ends(gms: GmsServer, outbound: Outbound, line_end: str) -> None:
    gms.groups[TOKEN], gms.line_end = ["canfar-users", "ivo://other.org/gms?x"], line_end
    told = await client(gms, outbound).groups(TOKEN)
    assert told.groups == {USERS, "ivo://other.org/gms?x"}


async def test_plain_names_are_the_services_own(gms: GmsServer, outbound: Outbound) -> None:
    gms.groups[TOKEN] = ["canfar-users"]
    told = await client(gms, outbound, resource="ivo://cadc.nrc.ca/gms").groups(TOKEN)
    assert told.groups == {"ivo://cadc.nrc.ca/gms?canfar-users"}


async def test_no_line_is_no_group_for_sure(gms: GmsServer, outbound: Outbound) -> None:
    gms.groups[TOKEN] = []
    assert await client(gms, outbound).groups(TOKEN, LAST) == GroupSet(frozenset(), "gms", NOW)


async def test_thousands_of_groups(gms: GmsServer, outbound: Outbound) -> None:
    gms.groups[TOKEN] = [f"ivo://example.org/gms?group-{number}" for number in range(10_000)]
    assert len((await client(gms, outbound).groups(TOKEN)).groups) == 10_000


async def test_names_outside_the_grammar_are_left_out(
    gms: GmsServer, outbound: Outbound, caplog: pytest.LogCaptureFixture
) -> None:
    gms.groups[TOKEN] = ["canfar-users", "a/b", "x" * 300, "ivo://x", "naïve"]
    told = await client(gms, outbound).groups(TOKEN)
    assert told.groups == {USERS}
    assert told.complete
    assert "a/b" in caplog.text


async def test_names_that_differ_in_case_are_nobodys(gms: GmsServer, outbound: Outbound) -> None:
    gms.groups[TOKEN] = ["canfar-users", "Survey-X", "survey-x"]
    told = await client(gms, outbound).groups(TOKEN)
    assert told.groups == {USERS}
    assert not told.complete
    assert "differ only in case" in told.reason


FAULTS: list[Fault] = [
    Status(500),
    Status(503),
    Status(404),
    Delay(),
    SlowDrip(),
    Truncated(),
    Garbage(),
    Garbage(b"canfar-users\nThe service is down for maintenance.\n"),
    Garbage(b"canfar-users\n<html>\n"),
]


@pytest.mark.parametrize("last", [LAST, None])
@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_no_answer_leaves_what_was_told_last_in_doubt(
    gms: GmsServer, outbound: Outbound, fault: Fault, last: GroupSet | None
) -> None:
    gms.fault = fault
    told = await client(gms, outbound).groups(TOKEN, last)
    assert told == GroupSet.unknown("gms", NOW, "The group service does not answer.", last)
    assert told.as_of == (last.as_of if last else NOW)


@pytest.mark.parametrize("code", [401, 403])
async def test_a_token_that_is_not_taken_says_nothing_about_groups(
    gms: GmsServer, outbound: Outbound, code: int
) -> None:
    gms.fault = Status(code)
    told = await client(gms, outbound).groups(TOKEN, LAST)
    assert (told.complete, told.doubted) == (False, {SURVEY})
    assert told.reason == "The group service does not accept your sign-in."


# How long an answer is kept


async def test_an_answer_is_kept_until_it_expires(gms: GmsServer, outbound: Outbound) -> None:
    clock = Clock()
    asking = client(gms, outbound, clock)
    gms.expires = format_datetime(NOW + timedelta(minutes=2), usegmt=True)
    first = await asking.groups(TOKEN)
    clock.now += timedelta(minutes=1)
    assert await asking.groups(TOKEN, first) is first
    clock.now += timedelta(minutes=1)
    assert (await asking.groups(TOKEN, first)).as_of == clock.now
    assert len(gms.requests) == 2


async def test_no_answer_is_kept_for_longer_than_a_removal_may_take(gms: GmsServer, outbound: Outbound) -> None:
    gms.expires = format_datetime(NOW + timedelta(days=365), usegmt=True)
    assert (await client(gms, outbound).groups(TOKEN)).fresh_until == NOW + timedelta(minutes=5)


@pytest.mark.parametrize("expires", ["", "0", "never", format_datetime(NOW - timedelta(hours=1), usegmt=True)])
async def test_an_answer_without_a_time_to_come_is_not_kept(
    gms: GmsServer, outbound: Outbound, expires: str
) -> None:
    gms.expires = expires
    asking = client(gms, outbound)
    first = await asking.groups(TOKEN)
    assert first.fresh_until is None
    await asking.groups(TOKEN, first)
    assert len(gms.requests) == 2


async def test_what_is_in_doubt_is_asked_for_again(gms: GmsServer, outbound: Outbound) -> None:
    doubted = replace(LAST, complete=False, doubted=LAST.groups, fresh_until=NOW + timedelta(hours=1))
    assert (await client(gms, outbound).groups(TOKEN, doubted)).complete


# Finding the service

BY_REGISTRY = {"search": None, "resource": "ivo://example.org/gms"}


async def test_found_through_the_registry_once(gms: GmsServer, outbound: Outbound) -> None:
    asking = client(gms, outbound, **BY_REGISTRY, registry=f"{gms.url}/reg")
    for _ in range(2):
        assert (await asking.groups(TOKEN)).groups == {USERS, SURVEY}
    assert [r.path for r in gms.requests] == ["/reg", "/gms/capabilities", "/gms/search", "/gms/search"]
    assert [r.token for r in gms.requests] == ["", "", TOKEN, TOKEN]


async def test_a_service_that_moved_is_found_again(gms: GmsServer, outbound: Outbound) -> None:
    asking = client(gms, outbound, **BY_REGISTRY, registry=f"{gms.url}/reg")
    await asking.groups(TOKEN)
    gms.fault = Status(500)
    await asking.groups(TOKEN)
    gms.fault = None
    gms.requests.clear()
    assert (await asking.groups(TOKEN)).complete
    assert gms.requests[0].path == "/reg"


async def test_a_registry_sends_the_token_nowhere_that_is_not_named(gms: GmsServer, outbound: Outbound) -> None:
    with FaultyServer() as thief:
        asking = client(gms, outbound, **BY_REGISTRY, registry=f"{gms.url}/reg")
        gms.search = f"{thief.url}/search"
        assert not (await asking.groups(TOKEN)).complete
        gms.search = f"{gms.url}/gms/search"
        gms.listing = f"ivo://example.org/gms = {thief.url}/capabilities\n"
        assert not (await asking.groups(TOKEN)).complete
        gms.listing = ""
        gms.fault = Redirect(f"{thief.url}/search")
        assert not (await asking.groups(TOKEN)).complete
        assert thief.requests == []
    assert gms.tokens == []


@pytest.mark.parametrize(
    "listing",
    ["", "# ivo://example.org/gms = URL\n", "ivo://example.org/gms\n", "ivo://example.org/gms2 = URL\n"],
)
async def test_a_service_that_no_registry_lists(gms: GmsServer, outbound: Outbound, listing: str) -> None:
    gms.listing = listing.replace("URL", f"{gms.url}/gms/capabilities")
    told = await client(gms, outbound, **BY_REGISTRY, registry=f"{gms.url}/reg").groups(TOKEN)
    assert not told.complete


def test_capabilities_prefer_the_way_in_for_tokens() -> None:
    assert search_address(CAPABILITIES.replace("SEARCH", "https://example.org/s")) == "https://example.org/s"
    lower = CAPABILITIES.replace("std/GMS#", "std/gms#").replace("SEARCH", "https://example.org/s")
    assert search_address(lower) == "https://example.org/s"


@pytest.mark.parametrize(
    "document",
    [
        "",
        "<html>",
        "<a/>",
        CAPABILITIES.replace("sso#token", "sso#cookie"),
        CAPABILITIES.replace("GMS#search-1.0", "GMS#create-1.0"),
        '<!DOCTYPE x [<!ENTITY e "https://evil.org/">]>' + CAPABILITIES.partition("?>")[2],
    ],
)
def test_capabilities_that_lead_nowhere(document: str) -> None:
    with pytest.raises(Unavailable):
        search_address(document)


async def test_the_token_is_in_no_log(
    gms: GmsServer, outbound: Outbound, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for fault in FAULTS:
        gms.fault = fault
        await client(gms, outbound).groups(TOKEN)
    assert TOKEN not in caplog.text
