"""Who gets to a session, on the whole stack: pages, API calls and WebSockets."""

import base64
import os
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.stack import Person, Stack


@pytest.fixture
def address(astronomer: Person) -> str:
    """The address of a running session of `astronomer`, as its page shows it."""
    astronomer.start("mine", {"profile": "open"})
    astronomer.ready("mine")
    page = astronomer.browser.get(astronomer.server("mine")["full_url"])
    assert page.status_code == 200
    assert urlsplit(str(page.url)).hostname == "astronomer.localhost"
    return str(page.url)


@pytest.fixture
def nobody(stack: Stack) -> Iterator[Any]:
    with stack.client(follow_redirects=False) as client:
        yield client


def upgrade(url: str, **headers: str) -> int:
    """The status that a WebSocket's opening handshake (RFC 6455 section 4.1) gets."""
    parts = urlsplit(url)
    lines = [
        f"GET {parts.path} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    with socket.create_connection(("127.0.0.1", parts.port or 80), timeout=60) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return int(connection.recv(1024).split()[1])


def cookie(person: Person) -> str:
    """The cookie that the person's browser shows to the session's host."""
    return "; ".join(f"{c.name}={c.value}" for c in person.browser.cookies.jar if "astronomer." in c.domain)


def test_nobody(nobody, address):
    page = nobody.get(address)
    assert page.status_code == 302
    assert "/hub/api/oauth2/authorize" in page.headers["Location"]
    for headers in (
        {"Accept": "application/json"},
        {"Authorization": "token nonsense"},
        {"Sec-Fetch-Mode": "cors"},
    ):
        assert nobody.get(address, headers=headers).status_code == 403
    assert nobody.post(address).status_code == 403
    assert upgrade(address, Origin=address) == 403


def test_another_user(stack, people, address):
    visitor = people["visitor"]
    assert visitor.browser.get(address).status_code == 403
    assert "canfar-gateway" in cookie(visitor)
    origin = address.partition("/session")[0]
    assert upgrade(address, Origin=origin, Cookie=cookie(visitor)) == 403
    assert upgrade(address, Authorization=f"token {visitor.token}") == 403
    with stack.client(headers={"Authorization": f"token {visitor.token}"}) as client:
        assert client.get(address).status_code == 403


def test_the_owner_by_cookie_and_by_token(stack, astronomer, address):
    with stack.client(headers={"Authorization": f"token {astronomer.token}"}) as client:
        assert client.get(address).status_code == 200
    # The program itself knows no WebSockets: what counts is that the gateway let it answer.
    origin = address.partition("/session")[0]
    assert upgrade(address, Origin=origin, Cookie=cookie(astronomer)) not in {401, 403}


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:1", "null"])
def test_a_foreign_origin(astronomer, address, origin):
    assert upgrade(address, Origin=origin, Cookie=cookie(astronomer)) == 403
    answer = astronomer.browser.post(address, headers={"Origin": origin})
    assert answer.status_code == 403


def test_an_administrator_may_look(people, address):
    assert people["admin"].browser.get(address).status_code == 200


def test_the_hub_is_not_on_a_users_host(stack, astronomer, address):
    origin = address.partition("/session")[0]
    with stack.client(follow_redirects=False, headers={"Accept": "application/json"}) as client:
        for path in ("/hub/api/user", "/hub/token", "/hub/login"):
            answer = client.get(f"{origin}{path}", headers={"Sec-Fetch-Mode": "cors"})
            assert answer.status_code == 404
            assert "Set-Cookie" not in answer.headers


def test_a_session_that_has_ended(astronomer, address):
    astronomer.stop("mine")
    page = astronomer.browser.get(address)
    assert page.status_code == 404
    assert "not running" in page.text
    assert "/hub/home" in page.text
