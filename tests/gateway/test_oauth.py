"""Who gets in: sign-in across hosts, cookies, tokens, shares, log-out and outages."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs, urlsplit

import pytest

from canfar_gateway.oauth import PublicUrl, Seal, SignIn
from tests.gateway.conftest import PAGE, SERVICE_TOKEN, site_running, until

ADA = "ada.localhost"


async def status(site, path, **options):
    async with site.request(options.pop("method", "GET"), path, **options) as response:
        await response.read()
        return response.status


async def test_sign_in_on_one_host(site):
    address = await site.session("abcd1234")
    cookie = await site.sign_in(f"{address}/lab?x=%2F", "ada-token")
    assert cookie.startswith("canfar-gateway=")
    assert "ada-token" not in cookie
    assert (await site.seen(f"{address}/lab", headers=PAGE | {"Cookie": cookie}))["path"] == f"{address}/lab"
    assert await status(site, "/user/ada/abcd1234/api", headers={"Cookie": cookie}) == 200


async def test_sign_in_across_hosts(hosts):
    host = f"{ADA}:{hosts.port}"
    address = await hosts.session("abcd1234", host=ADA)
    cookie = await hosts.sign_in(f"{address}/lab", "ada-token", host=host)
    seen = await hosts.seen(f"{address}/lab", host=host, headers=PAGE | {"Cookie": cookie})
    assert seen["headers"]["x-forwarded-host"] == host
    # The same path on another host is not this session.
    for other in (hosts.host, f"bob.localhost:{hosts.port}", f"{ADA}.evil:{hosts.port}"):
        assert await status(hosts, f"{address}/lab", host=other, headers=PAGE | {"Cookie": cookie}) == 404
    # However the host is spelled.
    assert await status(hosts, f"{address}/lab", host=f"ADA.localhost.:{hosts.port}", token="ada-token") == 200


async def test_cookie_is_good_on_its_own_host_only(hosts):
    await hosts.session("abcd1234", host=ADA)
    other = await hosts.session("efgh5678", host="bob.localhost", user="bob")
    hosts.hub.user("ada", "ada-token", "access:servers")
    cookie = await hosts.sign_in("/session/notebook/abcd1234/", "ada-token", host=f"{ADA}:{hosts.port}")
    assert (
        await status(hosts, f"{other}/x", host=f"bob.localhost:{hosts.port}", headers={"Cookie": cookie}) == 403
    )


async def start(site, path, host):
    async with site.request("GET", path, host=host, headers=PAGE) as response:
        cookie = response.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert "Domain" not in cookie
        assert response.headers["Referrer-Policy"] == "no-referrer"
        query = {k: v[0] for k, v in parse_qs(urlsplit(response.headers["Location"]).query).items()}
        return cookie.partition(";")[0], query


async def test_callback_refuses_what_it_did_not_start(hosts):
    host = f"{ADA}:{hosts.port}"
    address = await hosts.session("abcd1234", host=ADA)
    cookie, query = await start(hosts, f"{address}/", host)
    assert query["redirect_uri"] == f"http://localhost:{hosts.port}/services/gateway/oauth_callback"
    assert query["code_challenge_method"] == "S256"
    hosts.hub.codes["good"] = ("ada-token", "")
    callback = "/services/gateway/oauth_callback"
    state = query["state"]
    forged = Seal("another").close("state", {"host": "evil.example", "nonce": "x"})
    unknown = Seal(SERVICE_TOKEN).close("state", {"host": "evil.example", "nonce": "x"})
    wrong_purpose = Seal(SERVICE_TOKEN).close("start", {"host": ADA, "nonce": "x"})
    for where, given, cookies in [
        (host, f"code=good&state={state}", ""),  # the code alone, in another browser
        (host, f"code=good&state={state}", "canfar-gateway-state-forged=1"),
        (host, f"state={state}", cookie),
        (host, "code=good", cookie),
        (host, f"code=bad&state={state}", cookie),
        (host, f"code=good&state={wrong_purpose}", cookie),
        (hosts.host, f"code=good&state={forged}", cookie),
        (hosts.host, f"code=good&state={unknown}", cookie),
        (f"bob.localhost:{hosts.port}", f"code=good&state={state}", cookie),
    ]:
        async with hosts.request(
            "GET", f"{callback}?{given}", host=where, headers={"Cookie": cookies}
        ) as response:
            assert response.status == 403, given
            assert "Location" not in response.headers
            assert "Set-Cookie" not in response.headers
    assert "good" in hosts.hub.codes


async def test_nothing_of_the_hub_is_signed_in_to_on_a_users_host(hosts):
    host = f"{ADA}:{hosts.port}"
    await hosts.session("abcd1234", host=ADA)
    async with hosts.request("GET", "/hub/login?next=x", host=host, headers=PAGE) as response:
        assert response.status == 302
        assert response.headers["Location"] == f"http://localhost:{hosts.port}/hub/login?next=x"
    async with hosts.request("GET", "/user/ada/gone1234/", host=host, headers=PAGE) as response:
        assert response.headers["Location"] == f"http://localhost:{hosts.port}/user/ada/gone1234/"
    assert (await hosts.seen("/user/ada/gone1234/", headers=PAGE))["path"] == "/user/ada/gone1234/"


async def test_requests_without_credentials(site):
    address = await site.session("abcd1234")
    fetch = {"Accept": "text/html", "Sec-Fetch-Mode": "cors"}
    assert await status(site, f"{address}/", headers=PAGE) == 302
    assert await status(site, f"{address}/", headers={"Accept": "text/html"}) == 302
    assert await status(site, f"{address}/", headers={"Accept": "*/*"}) == 403
    assert await status(site, f"{address}/", headers=fetch) == 403
    assert await status(site, f"{address}/", headers=PAGE, method="POST") == 403
    assert await status(site, f"{address}/", headers=PAGE | {"Cookie": "canfar-gateway=forged"}) == 302
    for wrong in ("token wrong", "Bearer wrong", "token ", "bearer"):
        assert await status(site, f"{address}/", headers=PAGE | {"Authorization": wrong}) == 403
    assert site.echo.log == []


async def test_tokens(site):
    address = await site.session("abcd1234")
    for spelling in ("token ada-token", "Bearer ada-token", "TOKEN  ada-token"):
        assert await status(site, f"{address}/x", headers={"Authorization": spelling}) == 200
    assert await status(site, f"{address}/x", token="bob-token") == 403
    site.hub.user("ada", "narrow", "access:servers!server=ada/other")
    assert await status(site, f"{address}/x", token="narrow") == 403
    site.hub.user("ada", "exact", "access:servers!server=ada/abcd1234")
    assert await status(site, f"{address}/x", token="exact") == 200
    site.hub.user("root", "admin", "access:servers")
    assert await status(site, f"{address}/x", token="admin") == 200
    site.hub.user("carol", "group", "access:servers!group=team")
    assert await status(site, f"{address}/x", token="group") == 403


async def test_groups_and_shares(tmp_path):
    async with site_running(tmp_path) as site:
        address = await site.session("abcd1234")
        site.hub.users["ada"] = {"groups": ["team"]}
        site.hub.user("carol", "by-scope", "access:servers!group=team")
        site.hub.user("dave", "by-user-share")
        site.hub.user("erin", "by-group-share", groups=("readers",))
        site.hub.user("erin", "narrowed", "access:servers!server=erin/x", groups=("readers",))
        site.hub.user("frank", "stranger", groups=("others",))
        site.hub.page_size = 1
        scopes = ["access:servers!server=ada/abcd1234", "read:users:name!user=ada"]
        site.hub.shares["ada/abcd1234"] = [
            {"user": {"name": "frank"}, "group": None, "scopes": ["read:users:name!user=ada"]},
            {"user": {"name": "dave"}, "group": None, "scopes": scopes},
            {"user": None, "group": {"name": "readers"}, "scopes": scopes},
        ]
        expected = {
            "by-scope": 200,
            "by-user-share": 200,
            "by-group-share": 200,
            "narrowed": 403,
            "stranger": 403,
        }
        assert {token: await status(site, f"{address}/x", token=token) for token in expected} == expected


async def test_a_share_is_not_remembered_for_the_session_that_follows(site):
    address = await site.session("abcd1234")
    site.hub.user("dave", "by-share")
    site.hub.shares["ada/abcd1234"] = [
        {"user": {"name": "dave"}, "group": None, "scopes": ["access:servers!server=ada/abcd1234"]}
    ]
    assert await status(site, f"{address}/x", token="by-share") == 200
    assert await site.api("DELETE", "/user/ada/abcd1234") == 204
    del site.hub.shares["ada/abcd1234"]
    assert await site.session("abcd1234") == address
    assert await status(site, f"{address}/x", token="by-share") == 403


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("POST", {"Origin": "own"}, 200),
        ("POST", {}, 200),
        ("POST", {"Origin": "http://evil.example"}, 403),
        ("POST", {"Origin": "null"}, 403),
        ("DELETE", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("PUT", {"Sec-Fetch-Site": "same-site"}, 403),
        ("POST", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ("GET", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),
        ("GET", {"Origin": "http://bob.localhost"}, 403),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
        ("GET", {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Origin": "own"}, 200),
    ],
)
async def test_cookies_are_of_no_use_to_other_origins(site, method, headers, expected):
    address = await site.session("abcd1234")
    cookie = await site.sign_in(f"{address}/", "ada-token")
    sent = {name: f"http://{site.host}" if value == "own" else value for name, value in headers.items()}
    assert await status(site, f"{address}/x", method=method, headers=sent | {"Cookie": cookie}) == expected
    # A token is not sent by browsers on their own.
    assert await status(site, f"{address}/x", method=method, headers=sent, token="ada-token") == 200


async def test_programs_own_token_beside_the_cookie(site):
    """JupyterLab's page sends the token of its server: no caller's token, and the hub is not asked about it."""
    address = await site.session("abcd1234", headers={"Authorization": "token of-the-program"})
    cookie = {"Cookie": await site.sign_in(f"{address}/", "ada-token")}
    both = cookie | {"Authorization": "token of-the-program"}
    for _ in range(50):
        seen = await site.seen(f"{address}/x", headers=both)
    assert seen["headers"]["authorization"] == "token of-the-program"
    assert site.hub.calls.count("/hub/api/user") == 1
    assert await status(site, f"{address}/x", headers=both | {"Origin": "http://evil.example"}) == 403
    # A valid token counts where the cookie does not, or opens nothing.
    other = {"Cookie": await site.sign_in(f"{address}/", "bob-token"), "Authorization": "token ada-token"}
    assert await status(site, f"{address}/x", headers=other) == 200
    assert await status(site, f"{address}/x", headers=other | {"Authorization": "token x"}) == 403
    valid = cookie | {"Authorization": "token ada-token"}
    assert await status(site, f"{address}/x", headers=valid | {"Origin": "http://evil.example"}) == 200


@pytest.mark.parametrize("token", ["é", "\u4e2d", "a\tb", "x" * 5000, "a b"])
async def test_odd_tokens(site, token):
    address = await site.session("abcd1234")
    assert await status(site, f"{address}/x", headers={"Authorization": f"token {token}"}) == 403


async def test_log_out_ends_that_browser_session_at_once(site):
    address = await site.session("abcd1234")
    site.hub.user("ada", "browser", session="sid-1")
    site.hub.user("ada", "elsewhere", session="sid-2")
    cookie = await site.sign_in(f"{address}/", "browser")
    assert await status(site, f"{address}/x", headers={"Cookie": cookie}) == 200
    assert await status(site, f"{address}/x", token="elsewhere") == 200
    del site.hub.tokens["browser"]
    assert await status(site, f"{address}/x", headers={"Cookie": cookie}) == 200  # remembered
    asked = len(site.hub.calls)
    assert await status(site, "/hub/logout", headers=PAGE | {"Cookie": "jupyterhub-session-id=unknown"}) == 200
    assert await status(site, f"{address}/x", headers={"Cookie": cookie}) == 200  # nobody else's log-out
    assert (
        await status(site, "/hub/logout", headers=PAGE | {"Cookie": "a=b; jupyterhub-session-id=sid-1"}) == 200
    )
    assert await status(site, f"{address}/x", headers={"Cookie": cookie}) == 403
    assert await status(site, f"{address}/", headers=PAGE | {"Cookie": cookie}) == 302
    assert await status(site, f"{address}/x", token="elsewhere") == 200
    assert len(site.hub.calls) == asked + 1


async def test_answer_that_was_asked_for_before_a_log_out_is_not_kept(site):
    address = await site.session("abcd1234")
    site.hub.user("ada", "browser", session="sid-1")
    site.hub.wait = asyncio.Event()
    early = asyncio.create_task(status(site, f"{address}/x", token="browser"))
    await until(lambda: site.hub.calls)
    assert await status(site, "/hub/logout", headers={"Cookie": "jupyterhub-session-id=sid-1"}) == 200
    site.hub.wait.set()
    assert await early == 200
    del site.hub.tokens["browser"]
    assert await status(site, f"{address}/x", token="browser") == 403


async def test_hub_is_asked_once_for_many_requests(site):
    address = await site.session("abcd1234")
    site.hub.wait = asyncio.Event()
    requests = [asyncio.create_task(status(site, f"{address}/x", token="ada-token")) for _ in range(20)]
    await until(lambda: site.hub.calls)
    site.hub.wait.set()
    assert set(await asyncio.gather(*requests)) == {200}
    assert site.hub.calls == ["/hub/api/user"]


async def test_hub_that_is_down(tmp_path):
    async with site_running(tmp_path, ttl=0.01) as site:
        address = await site.session("abcd1234")
        assert await status(site, f"{address}/x", token="ada-token") == 200
        assert await status(site, f"{address}/x", token="wrong") == 403
        site.hub.down = True
        await asyncio.sleep(0.02)  # Longer than decisions are kept here.
        assert await status(site, f"{address}/x", token="ada-token") == 200
        assert await status(site, f"{address}/x", token="bob-token") == 503
        assert await status(site, f"{address}/x", token="wrong") == 503
        async with site.request("GET", f"{address}/", token="bob-token", headers=PAGE) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "5")


async def test_wrong_tokens_do_not_flood_the_hub(site):
    address = await site.session("abcd1234")
    cookie = await site.sign_in(f"{address}/", "ada-token")
    assert await status(site, f"{address}/x", token="ada-token") == 200
    statuses = [await status(site, f"{address}/x", token=f"wrong-{number}") for number in range(60)]
    assert statuses[0] == 403
    assert statuses[-1] == 429
    assert len(site.hub.calls) < 60
    # Neither who is known nor who signed in by browser is locked out with them.
    assert await status(site, f"{address}/x", token="ada-token") == 200
    assert await status(site, f"{address}/x", headers={"Cookie": cookie}) == 200


async def test_routes_come_back_from_the_file(tmp_path):
    async with site_running(tmp_path) as site:
        await site.session("abcd1234", headers={"X-Secret": "s3cret"})
    state = tmp_path / "routes.json"
    assert state.stat().st_mode & 0o777 == 0o600
    async with site_running(tmp_path) as site:
        routes = await site.api("GET", "")
        assert routes["/user/ada/abcd1234"]["headers"] == {"X-Secret": "s3cret"}
    state.write_text("{damaged")
    async with site_running(tmp_path) as site:
        assert set(await site.api("GET", "")) == {"/"}


async def test_nobody_takes_over_an_address(site):
    address = await site.session("abcd1234")
    await site.session("abcd1234", user="bob")
    assert await status(site, f"{address}/x", token="ada-token") == 200
    assert await status(site, f"{address}/x", token="bob-token") == 403
    assert await status(site, "/user/bob/abcd1234/x", token="bob-token") == 200
    assert await site.api("DELETE", "/user/ada/abcd1234") == 204
    assert await status(site, f"{address}/x", token="bob-token") == 200


async def test_secure_site_uses_host_cookies():
    sign_in = SignIn(PublicUrl.parse("https://hub.example.org/base/"), None, "secret")
    assert sign_in.cookie == "__Host-canfar-gateway"
    response = sign_in.start("ada.hub.example.org", "/session/x/y/")
    assert "Secure" in response.headers.getall("Set-Cookie", [str(response.cookies)])[0]
    assert response.headers["Location"].startswith("https://hub.example.org/base/hub/api/oauth2/authorize?")


async def test_very_long_address_still_leads_through_the_sign_in(site):
    address = await site.session("abcd1234")
    cookie, _ = await start(site, f"{address}/lab?{'x' * 20_000}", site.host)
    assert len(cookie) < 4000
