"""Whether a session's program can be used: it answers over HTTP."""

import aiohttp

_SECONDS = 5  # that one answer may take


async def answers(http: aiohttp.ClientSession, url: str) -> bool:
    """Whether there is an answer of any status below 500; programs say 401 or 404 to strangers."""
    try:
        timeout = aiohttp.ClientTimeout(total=_SECONDS)
        async with http.get(url, allow_redirects=False, timeout=timeout) as answer:
            return answer.status < 500
    except (aiohttp.ClientError, TimeoutError):
        return False
