"""Where tokens may go, and how patient the hub is with services."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from canfar_auth.outbound import NotTrusted, Outbound, Unavailable
from tests.support.faults import (
    Delay,
    Fault,
    FaultyServer,
    Garbage,
    Received,
    Redirect,
    Reply,
    SlowDrip,
    Status,
    Truncated,
)
from tests.support.stack import until

TOKEN = "a-secret-token"


class Service(FaultyServer):
    def answer(self, request: Received) -> Reply:
        return Reply(body="fine")


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as running:
        yield running


@pytest.fixture
def elsewhere() -> Iterator[Service]:
    with Service() as running:
        yield running


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def ask(outbound: Outbound, url: str) -> str:
    try:
        return (await outbound.get(url, token=TOKEN)).text
    finally:
        await outbound.close()


async def test_a_named_host_gets_the_token(service: Service) -> None:
    assert await ask(Outbound({service.host}), f"{service.url}/x") == "fine"
    assert service.tokens == [TOKEN]


async def test_arguments_are_encoded_and_repeated(service: Service) -> None:
    outbound = Outbound({service.host})
    await outbound.get(f"{service.url}/x", params=[("group", "ivo://a.org/gms?b&c"), ("group", "d e")])
    await outbound.close()
    assert service.requests[0].all("group") == ["ivo://a.org/gms?b&c", "d e"]
    assert service.requests[0].token == ""


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        ([], "https://gms.example.org/search"),
        (["gms.example.org"], "http://gms.example.org/search"),
        (["gms.example.org"], "https://gms.example.org:8443/search"),
        (["gms.example.org:8443"], "https://gms.example.org/search"),
        (["gms.example.org"], "https://gms.example.org.evil.org/search"),
        (["gms.example.org"], "https://user:word@gms.example.org/search"),
        (["gms.example.org"], "https://evil.org#@gms.example.org/"),
        (["gms.example.org"], "https://evil.org\\@gms.example.org/"),
        (["gms.example.org"], "ftp://gms.example.org/search"),
        (["gms.example.org"], "file:///etc/passwd"),
        (["gms.example.org"], "https:///search"),
        (["gms.example.org"], "https://gms.example.org:99999/"),
        (["gms.example.org"], "https://gms.example.org/\nHost: evil.org"),
        (["*.example.org"], "https://example.org/"),
        (["*.example.org"], "https://evilexample.org/"),
        (["*.example.org"], "https://gms.example.org:8443/"),
        (["localhost"], "http://localhost.example.org/"),
        (["[::1]"], "http://[::2]/"),
        (["*.example.org"], ""),
    ],
)
async def test_no_other_address_is_asked(hosts: list[str], url: str) -> None:
    with pytest.raises(NotTrusted) as refused:
        await ask(Outbound(hosts), url)
    assert "word" not in str(refused.value)


async def test_names_below_a_domain_have_to_be_at_public_addresses(service: Service) -> None:
    outbound = Outbound({"*.localhost"}, attempts=1)
    with pytest.raises(Unavailable):
        await ask(outbound, f"https://x.localhost:{service.port}/")
    # `localhost` itself is resolved on every machine, by the resolver that wildcards go through.
    with pytest.raises(NotTrusted, match="private address"):
        await outbound._session(True).connector._resolver.resolve("localhost", 443)  # type: ignore[union-attr]
    await outbound.close()
    assert service.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_takes_the_token_nowhere(service: Service, elsewhere: Service, status: int) -> None:
    service.fault = Redirect(f"{elsewhere.url}/x", status)
    with pytest.raises(Unavailable, match="redirects"):
        await ask(Outbound({service.host, elsewhere.host}), service.url)
    assert elsewhere.requests == []
    assert len(service.requests) == 1


@pytest.mark.parametrize("code", [400, 401, 403, 404])
async def test_a_refusal_is_an_answer(service: Service, code: int) -> None:
    service.fault = Status(code)
    outbound = Outbound({service.host})
    assert (await outbound.get(service.url)).status == code
    await outbound.close()
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    "fault",
    [Status(500), Status(503), Status(429), Status(408), Truncated(), Garbage(b"\xff\xfe")],
    ids=str,
)
async def test_what_is_no_answer_is_asked_for_again(service: Service, fault: Fault) -> None:
    service.fault = fault
    with pytest.raises(Unavailable) as failed:
        await ask(Outbound({service.host}, attempts=3, pause=0.001), f"{service.url}/x?secret=1")
    assert len(service.requests) == 3
    assert "secret" not in str(failed.value)


async def test_an_answer_that_comes_late_is_taken(service: Service) -> None:
    service.fault = Status(503)
    outbound = Outbound({service.host}, attempts=50, pause=0.001)
    asking = asyncio.create_task(outbound.get(service.url))
    await asyncio.to_thread(until, lambda: len(service.requests) >= 2, "the second request")
    service.fault = None
    assert (await asking).text == "fine"
    await outbound.close()


@pytest.mark.parametrize("fault", [Delay(), SlowDrip()], ids=str)
async def test_a_slow_service_is_left(service: Service, fault: Fault) -> None:
    service.fault = fault
    with pytest.raises(Unavailable, match=r"no whole answer within 0\.2 s"):
        await ask(Outbound({service.host}, seconds=0.2, attempts=1), service.url)


async def test_a_long_answer_is_not_read_to_its_end(service: Service) -> None:
    service.fault = Garbage(b"x" * 100_000)
    with pytest.raises(Unavailable, match="more than 1000 bytes"):
        await ask(Outbound({service.host}, limit=1000, attempts=1), service.url)


async def test_nobody_there(service: Service) -> None:
    service.stop()
    with pytest.raises(Unavailable, match=str(service.port)):
        await ask(Outbound({service.host}, attempts=1), service.url)


async def test_a_service_that_keeps_failing_is_left_alone_for_a_while(service: Service) -> None:
    clock = Clock()
    outbound = Outbound({service.host}, attempts=1, threshold=3, rest=30, clock=clock)

    async def get() -> str:
        return (await outbound.get(service.url)).text

    service.fault = Status(500)
    for _ in range(3):
        with pytest.raises(Unavailable, match="HTTP 500"):
            await get()
    for _ in range(5):
        with pytest.raises(Unavailable, match="left alone"):
            await get()
    assert len(service.requests) == 3
    clock.now += 40
    with pytest.raises(Unavailable, match="HTTP 500"):  # the one call that tries
        await get()
    with pytest.raises(Unavailable, match="left alone"):
        await get()
    clock.now += 40
    service.fault = None
    assert await get() == "fine"
    service.fault = Status(500)
    with pytest.raises(Unavailable, match="HTTP 500"):
        await get()
    await outbound.close()


async def test_while_one_call_tries_the_others_are_refused(service: Service) -> None:
    clock = Clock()
    outbound = Outbound({service.host}, attempts=1, threshold=1, rest=30, clock=clock)
    service.fault = Status(500)
    with pytest.raises(Unavailable):
        await outbound.get(service.url)
    clock.now += 40
    service.fault = Delay()
    trying = asyncio.create_task(outbound.get(service.url))
    await asyncio.to_thread(until, lambda: len(service.requests) >= 2, "the second request")
    with pytest.raises(Unavailable, match="left alone"):
        await outbound.get(service.url)
    service.fault = None
    assert (await trying).text == "fine"
    await outbound.close()


async def test_the_token_is_in_no_log(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    service.fault = Status(500)
    with pytest.raises(Unavailable) as failed:
        await ask(Outbound({service.host}, attempts=2, pause=0.001, threshold=1), service.url)
    assert TOKEN not in caplog.text
    assert TOKEN not in repr(failed.value)
