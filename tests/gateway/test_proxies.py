"""Behind proxies: whose address the visitor's is, and hosts for the platform's own programs."""

from __future__ import annotations

import pytest

from canfar_gateway.proxies import TrustedProxies
from tests.gateway.conftest import PAGE, site_running

INGRESS = "10.1.0.0/24,fd00:1::/64"
INSIDE = "gateway.canfar.svc"


@pytest.mark.parametrize(
    ("networks", "peer", "sent", "chain"),
    [
        # No proxy is trusted: what stands before the peer is anybody's word.
        ("", "192.0.2.7", [], ["192.0.2.7"]),
        ("", "10.1.0.2", ["198.51.100.1"], ["198.51.100.1", "10.1.0.2"]),
        (INGRESS, "192.0.2.7", ["198.51.100.1"], ["198.51.100.1", "192.0.2.7"]),
        (INGRESS, "10.1.0.2", [], ["10.1.0.2"]),
        (INGRESS, "10.1.0.2", ["192.0.2.7"], ["192.0.2.7"]),
        (INGRESS, "10.1.0.2", ["2001:db8::7"], ["2001:db8::7"]),
        # The visitor invents a visitor, or poses as a proxy.
        (INGRESS, "10.1.0.2", ["198.51.100.1, 192.0.2.7"], ["198.51.100.1", "192.0.2.7"]),
        (
            INGRESS,
            "10.1.0.2",
            ["198.51.100.1, 10.1.0.9", "192.0.2.7"],
            ["198.51.100.1", "10.1.0.9", "192.0.2.7"],
        ),
        # Two proxies, one behind the other.
        (INGRESS, "10.1.0.2", ["192.0.2.7, fd00:1::2"], ["192.0.2.7"]),
        (INGRESS, "fd00:1::3", ["x, 192.0.2.7, fd00:1::2,10.1.0.2"], ["x", "192.0.2.7"]),
        # The proxies themselves ask.
        (INGRESS, "10.1.0.2", ["10.1.0.3"], ["10.1.0.3"]),
        # As some proxies write them.
        (INGRESS, "::ffff:10.1.0.2", ["192.0.2.7:4711"], ["192.0.2.7"]),
        (INGRESS, "10.1.0.2", ["[2001:db8::7]:4711"], ["2001:db8::7"]),
        (INGRESS, "10.1.0.2", ["2001:DB8:0::7"], ["2001:db8::7"]),
        # What is no address names nobody.
        (INGRESS, "10.1.0.2", ["192.0.2.7, unknown"], ["192.0.2.7", "unknown", "10.1.0.2"]),
        (INGRESS, "10.1.0.2", [" , ,"], ["10.1.0.2"]),
        (INGRESS, "", ["192.0.2.7"], ["192.0.2.7", ""]),
    ],
)
def test_the_visitors_address_is_the_last(networks, peer, sent, chain):
    assert list(TrustedProxies.parse(networks).chain(peer, sent)) == chain


@pytest.mark.parametrize("text", ["10.1.0.5/24", "ingress", "10.1.0.0/33", "10.1.0.0/24;10.2.0.0/24"])
def test_what_is_no_network(text):
    with pytest.raises(ValueError, match=r"."):
        TrustedProxies.parse(text)


async def guess(site, address, visitor):
    """Show wrong tokens until there were too many; `visitor` is what the n-th says of where it comes from."""
    for n in range(200):
        headers = {"X-Forwarded-For": visitor(n)}
        if await site.status(f"{address}/x", token=f"wrong-{n}", headers=headers) == 429:
            return
    pytest.fail("200 wrong tokens were not too many")


async def test_a_visitor_who_guesses_stops_nobody_else_behind_the_proxy(tmp_path):
    async with site_running(tmp_path, trusted_proxies="127.0.0.0/8") as site:
        address = await site.session("abcd1234")
        await guess(site, address, lambda n: f"198.51.100.{n}, 192.0.2.7")
        other = {"X-Forwarded-For": "192.0.2.8"}
        assert await site.status(f"{address}/x", token="another", headers=other) == 403
        seen = await site.seen(f"{address}/x", token="ada-token", headers=other)
        assert seen["headers"]["x-forwarded-for"] == "192.0.2.8"


async def test_without_a_trusted_proxy_nobody_chooses_an_address(site):
    await guess(site, await site.session("abcd1234"), lambda n: f"192.0.2.{n}")


async def test_inside_hosts_have_the_hubs_api_and_nothing_else(tmp_path):
    async with site_running(tmp_path, host_routing=True, inside_hosts=(INSIDE, "10.96.0.7:8000")) as site:
        await site.session("abcd1234", host="ada.localhost")
        await site.session("abcd1234", host=INSIDE)  # even if the hub would have it so
        await site.route(f"/{INSIDE}/services/portal", service="portal")
        for host in (INSIDE, f"{INSIDE}:8000", f"{INSIDE.upper()}.", "10.96.0.7:8000"):
            async with site.request("GET", "/hub/api/user?x=1", token="ada-token", host=host) as response:
                assert (response.status, (await response.json())["name"]) == (200, "ada")
        for path in (
            "/", "/hub", "/hub/", "/hub/home", "/hub/login", "/hub/logout", "/hub/api", "/hub/apis/user",
            "/hub/api/../home", "/hub/api/%2e%2e/home", "/hub/api%2F..%2Fhome", "//hub/api/user",
            "/Hub/api/user", "/session/notebook/abcd1234/x", "/user/ada/abcd1234/x", "/services/portal/x",
            "/services/gateway/oauth_callback?code=x&state=y",
        ):  # fmt: skip
            async with site.request("GET", path, token="ada-token", host=INSIDE) as response:
                assert (response.status, "Only the hub's API" in await response.text()) == (404, True), path
        assert await site.status("/hub/api/oauth2/authorize", headers=PAGE, host=INSIDE) == 404
        assert not site.hub.pages
        assert not site.echo.log
        assert await site.status("/hub/api/user", token="ada-token", host="10.96.0.7:8001") == 404
        assert await site.status("/_canfar_ready", host=INSIDE) == 200


async def test_inside_hosts_wait_for_the_hub(tmp_path):
    def away(site):
        site.hub.down = True

    async with site_running(tmp_path, prepare=away, await_hub=False, inside_hosts=(INSIDE,)) as site:
        assert await site.status("/hub/api/user", token="ada-token", host=INSIDE) == 503
