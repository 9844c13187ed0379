"""When a program was last used, by what it says itself. An open page that nobody looks at is no use."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import aiohttp

from canfar_spawner.kinds import Activity

_SECONDS = 5.0  # that a program may take to say it
_LIMIT = 1_000_000  # bytes of an answer that are read


async def last_used(
    activity: Activity, base: str, headers: Mapping[str, str], now: datetime
) -> datetime | None:
    """The latest use that the program at `base` tells; None where it does not say."""
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    async with aiohttp.ClientSession(headers=dict(headers), timeout=timeout) as http:
        answers = await asyncio.gather(*(_asked(http, f"{base}/{path}") for path in activity.paths))
    told = [when for answer in answers if (when := told_by(answer, activity, now))]
    return max(told, default=None)


def told_by(answer: object, activity: Activity, now: datetime) -> datetime | None:
    """The latest time in one answer, `now` if it says that the program is busy, and never one to come. Pure."""
    entries = [one for one in (answer if isinstance(answer, list) else [answer]) if isinstance(one, Mapping)]
    key, value = activity.busy
    if key and any(one.get(key) == value for one in entries):
        return now
    times = [when for one in entries if (when := _time(one.get(activity.time)))]
    return min(max(times), now) if times else None


async def _asked(http: aiohttp.ClientSession, url: str) -> Any:
    try:
        async with http.get(url, allow_redirects=False) as answer:
            body = bytearray()
            async for piece in answer.content.iter_any():
                body += piece
                if len(body) > _LIMIT:
                    return None
            return json.loads(body) if answer.status == 200 else None
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError):
        return None  # whatever a program answers, it is its own doing


def _time(value: object) -> datetime | None:
    try:
        if isinstance(value, str):
            found = datetime.fromisoformat(value)
            return found if found.tzinfo else found.replace(tzinfo=UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None
