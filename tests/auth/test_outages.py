"""What each kind of outage does at each moment: the table of docs/explanation/groups.md, on a real hub.

Everybody is in the platform's group by a claim and in the survey's by the group service. Sessions are judged by
the plan itself, with the identity that the hub keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from canfar_auth.identity import Identity
from canfar_site.settings import Removal, Site
from canfar_spawner import policy
from canfar_spawner.catalogue import Catalogue
from canfar_spawner.request import parse_options
from canfar_spawner.spec import Refused
from tests.auth.conftest import RunHub
from tests.auth.test_refresh import Visitor
from tests.support.faults import Delay, Fault, Garbage, Status
from tests.support.gms_server import GmsServer
from tests.support.oidc_hub import SURVEY, USERS, Hub
from tests.support.oidc_stub import StubProvider

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENCE = timedelta(hours=4)


@dataclass(frozen=True)
class Outage:
    """Something that does not answer, and what of somebody's groups it puts in doubt."""

    name: str
    begin: Callable[[StubProvider, GmsServer], None]
    doubted: frozenset[str]
    sign_in: int
    """The status of a new sign-in in this outage; 302 is one that succeeds."""
    page: int = 200
    """The status of a page for somebody who signed in before it."""


def gms_with(fault: Fault) -> Callable[[StubProvider, GmsServer], None]:
    return lambda stub, gms: setattr(gms, "fault", fault)


def userinfo_with(status: int, body: Any) -> Callable[[StubProvider, GmsServer], None]:
    return lambda stub, gms: stub.answers.update({"/userinfo": (status, body)})


def without_claim(stub: StubProvider, gms: GmsServer) -> None:
    del stub.claims["groups"]


OUTAGES = [
    Outage("group service down", gms_with(Status(500)), frozenset({SURVEY}), sign_in=302),
    Outage("group service slow", gms_with(Delay()), frozenset({SURVEY}), sign_in=302),
    Outage("group service garbage", gms_with(Garbage()), frozenset({SURVEY}), sign_in=302),
    Outage("token refused", userinfo_with(401, "no"), frozenset({USERS, SURVEY}), sign_in=403, page=302),
    Outage("provider down", userinfo_with(500, "down"), frozenset({USERS}), sign_in=503),
    Outage("claim missing", without_claim, frozenset({USERS}), sign_in=503),
]


@pytest.fixture
def gms() -> Iterator[GmsServer]:
    with GmsServer() as server:
        server.everybody = ["survey-x"]
        yield server


@pytest.fixture(params=OUTAGES, ids=lambda outage: outage.name)
def outage(request: pytest.FixtureRequest) -> Outage:
    found: Outage = request.param
    return found


def traits(gms: GmsServer) -> dict[str, Any]:
    return {
        "groups": {
            "authority": "example.org",
            "sources": [{"claim": "groups", "absent": "unknown"}],
            "gms": {"search": gms.search},
        },
        "token_hosts": {gms.host},
    }


def hub_for(run_hub: RunHub, stub: StubProvider, gms: GmsServer) -> Hub:
    hub = run_hub(stub, **traits(gms))
    impatient(hub)
    return hub


def impatient(hub: Hub) -> None:
    """Slow services are left after half a second, and asked once."""
    service = hub.app.authenticator.resolver._gms
    service._outbound._seconds, service._outbound._attempts = 0.5, 1


async def signed_in(run_hub: RunHub, stub: StubProvider, gms: GmsServer) -> Visitor:
    hub = hub_for(run_hub, stub, gms)
    browser = hub.browser()
    assert (await hub.sign_in(stub, "", browser)).status_code == 302
    visitor = Visitor(hub, browser)
    assert (await visitor.identity()).groups.groups == {USERS, SURVEY}
    return visitor


async def test_a_new_sign_in(run_hub: RunHub, stub: StubProvider, gms: GmsServer, outage: Outage) -> None:
    hub = hub_for(run_hub, stub, gms)
    outage.begin(stub, gms)
    answer = await hub.sign_in(stub, "")
    assert answer.status_code == outage.sign_in, answer.text
    assert ("visitor" in hub.app.users) == (outage.sign_in == 302)


async def test_a_new_sign_in_that_depends_on_what_is_down(
    run_hub: RunHub, stub: StubProvider, gms: GmsServer
) -> None:
    hub = run_hub(stub, **traits(gms), platform_groups={SURVEY})
    impatient(hub)
    gms.fault = Status(500)
    answer = await hub.sign_in(stub, "")
    assert answer.status_code == 503
    assert "The group service does not answer." in answer.text
    gms.fault = None
    assert (await hub.sign_in(stub, "")).status_code == 302


@pytest.mark.parametrize("restarted", [False, True], ids=["", "hub restarted"])
async def test_a_refresh(
    run_hub: RunHub, stub: StubProvider, gms: GmsServer, outage: Outage, restarted: bool
) -> None:
    visitor = await signed_in(run_hub, stub, gms)
    outage.begin(stub, gms)
    if restarted:  # all that is remembered is what the database holds
        visitor.hub.sign_in_with(stub, **traits(gms))
        impatient(visitor.hub)
    assert await visitor.page() == outage.page
    assert await visitor.call() == 200
    groups = (await visitor.identity()).groups
    assert (groups.groups, groups.doubted, groups.complete) == ({USERS, SURVEY}, outage.doubted, False)
    assert groups.reason
    assert visitor.groups == {USERS, SURVEY}


async def test_its_end(run_hub: RunHub, stub: StubProvider, gms: GmsServer, outage: Outage) -> None:
    visitor = await signed_in(run_hub, stub, gms)
    outage.begin(stub, gms)
    await visitor.page()
    stub.answers.pop("/userinfo", None)
    stub.claims["groups"], gms.fault, gms.everybody = ["canfar-users"], None, []
    assert await visitor.call() == 200
    groups = (await visitor.identity()).groups
    assert (groups.groups, groups.complete, groups.reason) == ({USERS}, True, "")


@pytest.mark.parametrize("waited", [PATIENCE / 2, PATIENCE * 2], ids=["soon", "late"])
async def test_a_start(
    run_hub: RunHub,
    stub: StubProvider,
    gms: GmsServer,
    outage: Outage,
    site: Site,
    catalogue: Catalogue,
    waited: timedelta,
) -> None:
    visitor = await signed_in(run_hub, stub, gms)
    outage.begin(stub, gms)
    await visitor.call()
    who = await visitor.identity()
    for profile, needs in [("open", {USERS}), ("team", {USERS, SURVEY})]:
        status = start(who, profile, site, catalogue, waited)
        in_doubt = waited > PATIENCE and needs & outage.doubted
        assert status == (503 if in_doubt else 200), profile


def start(who: Identity, profile: str, site: Site, catalogue: Catalogue, waited: timedelta) -> int:
    now = datetime.now(UTC) + waited
    judged = replace(who, groups=who.groups.trusted(now, PATIENCE))
    try:
        policy.plan(parse_options({"profile": profile}), judged, site, catalogue, policy.Usage(0), "abcd1234")
    except Refused as refused:
        return refused.status if who.groups.reason in refused.sentence else 0
    return 200


async def test_a_running_session(
    run_hub: RunHub, stub: StubProvider, gms: GmsServer, outage: Outage, site: Site
) -> None:
    visitor = await signed_in(run_hub, stub, gms)
    outage.begin(stub, gms)
    await visitor.call()
    strict = site.model_copy(update={"removal": Removal(platform="end", group="end", grace=0)})
    who = await visitor.identity()
    for waited in (timedelta(), PATIENCE * 100):
        groups = who.groups.trusted(datetime.now(UTC) + waited, PATIENCE)
        assert policy.removal([SURVEY], groups, strict) == ""
