"""What goes upstream and what comes back, as tables."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from canfar_gateway.headers import (
    Inside,
    Outside,
    confined_cookie,
    cookie_pairs,
    downstream_headers,
    is_foreign,
    is_navigation,
    is_our_cookie,
    normal_origin,
    program_cookies,
    public_location,
    upstream_headers,
    websocket_fault,
)

ADDRESS = "/session/carta/x1"
EXPIRES = "Expires=Wed, 21 Oct 2026 07:28:00 GMT"
OUTSIDE = Outside("ada.hub.org", "https", ("192.0.2.7",))
KEPT = Inside(ADDRESS, ADDRESS, "http://10.0.0.1:8888", "ada", {})
STRIPPED = Inside(ADDRESS, "", "http://10.0.0.1:8888", "ada", {})
OTHER = Inside(ADDRESS, "/app", "http://10.0.0.1:8888", "ada", {})


@pytest.mark.parametrize(
    ("inside", "location", "expected"),
    [
        (KEPT, f"{ADDRESS}/lab?x=%2F", f"{ADDRESS}/lab?x=%2F"),
        (KEPT, f"http://10.0.0.1:8888{ADDRESS}/lab", f"{ADDRESS}/lab"),
        (KEPT, f"HTTP://10.0.0.1:8888{ADDRESS}", ADDRESS),
        (KEPT, f"http://ada.hub.org{ADDRESS}/lab", f"{ADDRESS}/lab"),
        (KEPT, "/elsewhere", "/elsewhere"),
        (KEPT, "lab", "lab"),
        (KEPT, "?x", "?x"),
        (KEPT, "../x", "../x"),
        (KEPT, "https://example.org/a", "https://example.org/a"),
        (KEPT, "//example.org/a", "//example.org/a"),
        (KEPT, "http://10.0.0.1:8889/a", "http://10.0.0.1:8889/a"),
        (KEPT, "mailto:a@b", "mailto:a@b"),
        (KEPT, "http://[bad", "http://[bad"),
        (STRIPPED, "/", f"{ADDRESS}/"),
        (STRIPPED, "/next?a=b#c", f"{ADDRESS}/next?a=b#c"),
        (STRIPPED, f"{ADDRESS}/next", f"{ADDRESS}/next"),
        (STRIPPED, f"{ADDRESS}2/next", f"{ADDRESS}{ADDRESS}2/next"),
        (STRIPPED, "http://10.0.0.1:8888", f"{ADDRESS}/"),
        (STRIPPED, "http://10.0.0.1:8888/a", f"{ADDRESS}/a"),
        (STRIPPED, "//10.0.0.1:8888/a", f"{ADDRESS}/a"),
        (STRIPPED, "http://10.0.0.1:8888//evil.org/", f"{ADDRESS}/evil.org/"),
        (STRIPPED, "https://ada.hub.org/a", f"{ADDRESS}/a"),
        (STRIPPED, "https://example.org/a", "https://example.org/a"),
        (STRIPPED, "next", "next"),
        (OTHER, "/app/x", f"{ADDRESS}/x"),
        (OTHER, "/application", "/application"),
    ],
)
def test_location(inside, location, expected):
    assert public_location(location, OUTSIDE, inside) == expected


@pytest.mark.parametrize(
    ("inside", "cookie", "expected"),
    [
        (KEPT, "a=b", f"a=b; Path={ADDRESS}/"),
        (KEPT, "a=b; Path=/", f"a=b; Path={ADDRESS}/"),
        (KEPT, f"a=b; Path={ADDRESS}/lab; HttpOnly", f"a=b; HttpOnly; Path={ADDRESS}/lab"),
        (KEPT, f"a=b; path={ADDRESS}", f"a=b; Path={ADDRESS}"),
        (KEPT, f"a=b; Path={ADDRESS}2/", f"a=b; Path={ADDRESS}/"),
        (KEPT, "a=b; Path=/x; Path=/session/", f"a=b; Path={ADDRESS}/"),
        (KEPT, "a=b; DOMAIN=hub.org; Secure", f"a=b; Secure; Path={ADDRESS}/"),
        (KEPT, f"a=b; {EXPIRES}", f"a=b; {EXPIRES}; Path={ADDRESS}/"),
        (KEPT, "_xsrf=1", f"_xsrf=1; Path={ADDRESS}/"),
        (STRIPPED, "a=b; Path=/", f"a=b; Path={ADDRESS}/"),
        (STRIPPED, "a=b; Path=/sub", f"a=b; Path={ADDRESS}/sub"),
        (OTHER, "a=b; Path=/app/sub", f"a=b; Path={ADDRESS}/sub"),
        (KEPT, "jupyterhub-session-id=x", None),
        (KEPT, "canfar-gateway=x; Path=/", None),
        (KEPT, " Canfar-Gateway = x", None),
        (KEPT, "__Host-canfar-gateway=x; Secure; Path=/", None),
        (KEPT, "=canfar-gateway=x", None),
        (KEPT, "canfar-gateway", None),
        (KEPT, "", None),
    ],
)  # fmt: skip
def test_set_cookie(inside, cookie, expected):
    assert confined_cookie(cookie, inside) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("a=1; b=2", "a=1; b=2"),
        ("a=1;b=2; a=3", "a=1; b=2; a=3"),
        ("a=x=y; jupyterhub-user-ada=1", "a=x=y"),
        ("canfar-gateway=1; __Secure-jupyterhub-x=2", ""),
        ("nameless; =nameless; a=", "a="),
        ('a="q; canfar-gateway=1"', 'a="q'),
    ],
)
def test_cookies_for_programs(header, expected):
    assert program_cookies(header) == expected


def test_cookie_pairs_keep_order_and_duplicates():
    assert cookie_pairs(" a=1;; a=2 ; b ") == [("a", "1"), ("a", "2"), ("", "b")]
    assert is_our_cookie("")


def test_connection_names_more_hop_by_hop_headers_but_not_vital_ones():
    sent = [
        ("Connection", "close, X-Hop"),
        ("connection", "Host"),
        ("X-Hop", "1"),
        ("Host", "h"),
        ("TE", "trailers"),
    ]
    forwarded = {f"X-Forwarded-{name}" for name in ("For", "Proto", "Host", "Prefix", "User")}
    assert set(upstream_headers(sent, OUTSIDE, KEPT)) == {"Host"} | forwarded


def test_connection_cannot_remove_what_the_gateway_adds():
    inside = Inside(ADDRESS, ADDRESS, "http://h", "ada", {"X-Secret": "s"})
    headers = upstream_headers([("Connection", "X-Secret, X-Forwarded-User")], OUTSIDE, inside)
    assert (headers["X-Secret"], headers["X-Forwarded-User"]) == ("s", "ada")


def test_an_added_cookie_joins_the_programs_own_and_nobody_else_can_set_it():
    inside = Inside(ADDRESS, ADDRESS, "http://h", "ada", {"cookie": "key=secret"})
    sent = [("Cookie", "key=forged; a=1; canfar-gateway=2"), ("Cookie", "key =again"), ("Cookie", "b=2")]
    assert upstream_headers(sent, OUTSIDE, inside).getall("Cookie") == ["key=secret; a=1; b=2"]
    assert upstream_headers([], OUTSIDE, inside).getall("Cookie") == ["key=secret"]


def test_a_program_without_cookies_is_sent_a_small_head_with_what_matters():
    inside = Inside(ADDRESS, ADDRESS, "http://h", "ada", {"X-Secret": "s"}, cookies=False)
    sent = [
        ("Cookie", "own=1; canfar-gateway=2"),
        ("Cookie", "other=3"),
        *((f"X-Cloud-{n}", "y" * 20) for n in range(60)),
        ("Referer", "https://hub/" + "x" * 5000),
        ("Sec-Fetch-Mode", "cors"),
        ("Accept-Encoding", "gzip"),
        ("X-Custom", "1" * 4000),
        ("Host", "h"),
        ("Content-Length", "3"),
        ("If-None-Match", '"1"'),
    ]
    headers = upstream_headers(sent, OUTSIDE, inside)
    assert len(headers) <= 40
    assert sum(len(name) + len(value) + 4 for name, value in headers.items()) <= 3072
    for name in ("X-Secret", "Host", "Content-Length", "Accept-Encoding", "If-None-Match", "X-Forwarded-User"):
        assert name in headers
    assert "X-Cloud-0" in headers
    assert not {"cookie", "referer", "sec-fetch-mode", "x-custom"} & {name.lower() for name in headers}


def test_a_small_head_loses_nothing_but_cookies():
    inside = Inside(ADDRESS, ADDRESS, "http://h", "ada", {"X-Secret": "s"}, cookies=False)
    sent = [("Accept", "a"), ("Accept", "b"), ("Referer", "https://h/"), ("X-Own", "1"), ("Cookie", "a=1")]
    headers = upstream_headers(sent, OUTSIDE, inside)
    assert headers.getall("Accept") == ["a", "b"]
    assert (headers["Referer"], headers["X-Own"]) == ("https://h/", "1")
    assert "Cookie" not in headers


def test_several_headers_of_one_name_stay_several():
    headers = upstream_headers(
        [("Accept", "a"), ("Accept", "b"), ("Cookie", "a=1"), ("Cookie", "b=2")], OUTSIDE, KEPT
    )
    assert headers.getall("Accept") == ["a", "b"]
    assert headers.getall("Cookie") == ["a=1", "b=2"]


def test_hubs_answers_keep_what_programs_may_not_send():
    received = [("Set-Cookie", "jupyterhub-session-id=1; Path=/"), ("Strict-Transport-Security", "max-age=1")]
    passed = downstream_headers([*received, ("Connection", "close")], OUTSIDE, None)
    assert list(passed.items()) == [*received, ("Server", "canfar-gateway")]


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("GET", {"Accept": "text/html,*/*"}, True),
        ("GET", {"Accept": "*/*"}, False),
        ("GET", {}, False),
        ("GET", {"Sec-Fetch-Mode": "navigate", "Accept": "*/*"}, True),
        ("GET", {"Sec-Fetch-Mode": "cors", "Accept": "text/html"}, False),
        ("POST", {"Sec-Fetch-Mode": "navigate", "Accept": "text/html"}, False),
        ("GET", {"Accept": "text/html", "Authorization": "token x"}, False),
        ("GET", {"Accept": "text/html", "Upgrade": "websocket"}, False),
    ],
)
def test_navigation(method, headers, expected):
    assert is_navigation(method, CIMultiDict(headers)) is expected


def test_origins():
    assert OUTSIDE.origin == "https://ada.hub.org"
    assert normal_origin("HTTPS://Ada.hub.org:443") == "https://ada.hub.org"
    assert normal_origin("http://ada.hub.org:443") == "http://ada.hub.org:443"
    assert normal_origin("null") == "null"
    own = {"Origin": "https://ada.hub.org:443"}
    assert not is_foreign("GET", own, OUTSIDE.origin, websocket=True)
    assert is_foreign("GET", {}, OUTSIDE.origin, websocket=True)
    assert is_foreign("GET", {"Origin": "https://bob.hub.org"}, OUTSIDE.origin, websocket=True)


GOOD = {
    "Connection": "keep-alive, Upgrade",
    "Upgrade": "WebSocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


@pytest.mark.parametrize(
    "change",
    [
        {"Connection": "keep-alive"},
        {"Connection": "not-upgrade"},
        {"Upgrade": "websocket, h2c"},
        {"Upgrade": "websocket/13"},
        {"Sec-WebSocket-Version": "12"},
        {"Sec-WebSocket-Version": ""},
        {"Sec-WebSocket-Key": ""},
        {"Sec-WebSocket-Key": "AAAA"},
        {"Sec-WebSocket-Key": "!" * 24},
        {"Sec-WebSocket-Key": "é" * 24},
    ],
)
def test_websocket_handshake(change):
    assert websocket_fault("GET", (1, 1), CIMultiDict(GOOD), has_body=False) is None
    assert websocket_fault("GET", (1, 1), CIMultiDict(GOOD | change), has_body=False)
    assert websocket_fault("POST", (1, 1), CIMultiDict(GOOD), has_body=False)
    assert websocket_fault("GET", (1, 0), CIMultiDict(GOOD), has_body=False)
    assert websocket_fault("GET", (1, 1), CIMultiDict(GOOD), has_body=True)
