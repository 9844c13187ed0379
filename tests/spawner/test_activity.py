"""When a program was last used, by what it says itself, whatever it says."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web

from canfar_spawner.activity import last_used, told_by
from canfar_spawner.kinds import Activity

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
JUPYTER = Activity(("api/status", "api/kernels"), "last_activity", ("execution_state", "busy"))
HEARTBEAT = Activity(("healthz",), "lastHeartbeat")


@pytest.mark.parametrize(
    ("answer", "activity", "told"),
    [
        ({"last_activity": "2026-11-24T11:00:00.5Z"}, JUPYTER, NOW - timedelta(hours=1, seconds=-0.5)),
        ({"last_activity": "2026-11-24T11:00:00"}, JUPYTER, NOW - timedelta(hours=1)),
        ([{"last_activity": "2026-11-24T10:00:00Z"}, {"last_activity": "2026-11-24T11:00:00Z"}], JUPYTER,
         NOW - timedelta(hours=1)),
        ([{"execution_state": "busy", "last_activity": "2026-11-01T00:00:00Z"}], JUPYTER, NOW),
        ([{"execution_state": "idle", "last_activity": "2026-11-24T11:00:00Z"}], JUPYTER,
         NOW - timedelta(hours=1)),
        ({"last_activity": "2999-01-01T00:00:00Z"}, JUPYTER, NOW),
        ({"lastHeartbeat": (NOW - timedelta(minutes=1)).timestamp() * 1000}, HEARTBEAT,
         NOW - timedelta(minutes=1)),
        ({"lastHeartbeat": 1e300}, HEARTBEAT, None),
        ({"lastHeartbeat": True}, HEARTBEAT, None),
        ({"lastHeartbeat": "soon"}, HEARTBEAT, None),
        ([], JUPYTER, None),
        ("text", JUPYTER, None),
        ([1, None, "x"], JUPYTER, None),
        (None, JUPYTER, None),
    ],
)  # fmt: skip
def test_an_answer_tells_a_time_that_is_not_to_come_or_nothing(
    answer: object, activity: Activity, told: datetime | None
) -> None:
    assert told_by(answer, activity, NOW) == told


BODIES = {
    "good": b'{"last_activity": "2026-11-24T11:00:00Z"}',
    "no-json": b"<html>",
    "deep": b"[" * 100_000,
    "long": b'{"last_activity": "' + b"x" * 2_000_000 + b'"}',
    "not-utf-8": b"\xff\xfe\xfd",
}


@pytest.fixture
async def program() -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.headers.get("X-Secret") != "word":
            raise web.HTTPForbidden
        name = request.match_info["name"]
        if name == "elsewhere":
            raise web.HTTPFound("good")
        return web.Response(body=BODIES[name]) if name in BODIES else web.Response(status=404)

    app = web.Application()
    app.router.add_get("/{name}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        (("good",), True),
        (("missing", "good"), True),
        (("missing",), False),
        (("no-json",), False),
        (("deep",), False),
        (("long",), False),
        (("not-utf-8",), False),
        (("elsewhere",), False),
    ],
)
async def test_whatever_a_program_answers_is_a_time_or_none(
    program: str, paths: tuple[str, ...], told: bool
) -> None:
    activity = Activity(paths, "last_activity")
    found = await last_used(activity, program, {"X-Secret": "word"}, NOW)
    assert found == (NOW - timedelta(hours=1) if told else None)


async def test_nothing_is_known_of_a_program_that_is_not_there() -> None:
    assert await last_used(HEARTBEAT, "http://127.0.0.1:9", {}, NOW) is None
