"""Calls of the Kubernetes API in plain JSON, over the client library's configuration, TLS and authentication.

The library's models are not used: making them of thousands of pods takes most of a busy hub's time.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, TypeVar

import aiohttp
from kubernetes_asyncio.client import ApiClient
from kubernetes_asyncio.client.exceptions import ApiException
from kubespawner.clients import load_config, shared_client

_Answer = TypeVar("_Answer")

MERGE = "application/merge-patch+json"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # seconds between attempts
_PAGE = 500  # objects in one page of a list
_LONGEST_LINE = 16_000_000  # bytes; no object of the API is larger than 1.5 MB


class ApiUnavailable(Exception):
    """The API server gave no answer, or none that says anything; the text says why, for a log."""


class ApiRefused(Exception):
    """The API server answered with a 4xx; `message` is its own."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"HTTP {status} {reason}: {message}")
        self.status, self.reason, self.message = status, reason, message


class Api:
    """Calls by path. An attempt takes at most `seconds`.

    `connect` gives the library's client, and is asked within the event loop that uses it.
    """

    def __init__(self, connect: Callable[[], ApiClient], *, seconds: float = 10) -> None:
        self._connect, self._seconds = connect, seconds

    async def get(self, path: str, **query: object) -> dict[str, Any]:
        """An object, or a list of objects."""
        return await self._call("GET", path, query=query)

    async def pages(self, path: str, **query: object) -> AsyncIterator[dict[str, Any]]:
        """A list of objects, in as many pages as it takes; all are of one moment (API concepts, "Chunks")."""
        asked: dict[str, object] = {**query, "limit": _PAGE}
        while True:
            page = await self.get(path, **asked)
            yield page
            more = page["metadata"].get("continue")
            if not more:
                return
            asked["continue"] = more

    async def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Makes an object in the collection at `path`."""
        return await self._call("POST", path, body=body)

    async def patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Merges `body` into an object (RFC 7386)."""
        return await self._call("PATCH", path, body=body)

    async def delete(self, path: str, *, grace: int | None = None, uid: str = "") -> None:
        """Deletes an object, if given only the one of that uid; one that is gone already is no error."""
        body: dict[str, Any] = {"propagationPolicy": "Background"}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            await self._call("DELETE", path, body=body)
        except ApiRefused as refused:
            if refused.status != 404:
                raise

    async def text(self, path: str, **query: object) -> str:
        """What is there as text, such as a log."""
        async with asyncio.timeout(self._seconds):
            answer = await self._send("GET", path, query)
            body = await answer.text(errors="replace")
        _check(answer.status, body)
        return body

    def events(
        self, path: str, seconds: float, opened: Callable[[], None] = lambda: None, /, **query: object
    ) -> AbstractAsyncContextManager[AsyncGenerator[dict[str, Any]]]:
        """The events of a watch (API concepts, "Efficient detection of changes"), for about `seconds`.

        Its connection is held until the block ends. `opened` is called when the server takes it. Raises as
        the others; that it ends says nothing.
        """
        return aclosing(self._events(path, seconds, opened, query))

    async def _events(
        self, path: str, seconds: float, opened: Callable[[], None], query: Mapping[str, object]
    ) -> AsyncGenerator[dict[str, Any]]:
        asked = {**query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": int(seconds)}
        # Silence is usual; a connection that hangs beyond the server's own end is dead.
        timeout = aiohttp.ClientTimeout(total=seconds + 15, sock_connect=self._seconds)
        try:
            answer = await self._send("GET", path, asked, timeout)
            async with answer:
                if answer.status != 200:
                    _check(answer.status, await answer.text(errors="replace"))
                opened()
                async for line in _lines(answer):
                    yield json.loads(line)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ApiUnavailable(type(error).__name__) from None

    async def _call(
        self, method: str, path: str, *, query: Mapping[str, object] | None = None, body: Any = None
    ) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._seconds):
                answer = await self._send(method, path, query or {}, body=body)
                text = await answer.text(errors="replace")
            _check(answer.status, text)
            found: dict[str, Any] = json.loads(text)
            return found
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ApiUnavailable(type(error).__name__) from None

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, object],
        timeout: aiohttp.ClientTimeout | None = None,
        body: Any = None,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json, */*"}
        if body is not None:
            headers["Content-Type"] = MERGE if method == "PATCH" else "application/json"
        try:
            answer: aiohttp.ClientResponse = await self._connect().call_api(
                path,
                method,
                query_params=[(name, str(value)) for name, value in query.items()],
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=timeout,
            )
            return answer
        except ApiException as error:  # the library raises for some statuses by itself
            _check(error.status or 500, str(error.body or ""))
            raise ApiUnavailable(f"HTTP {error.status}") from None


def connected(**settings: Any) -> ApiClient:
    """The library's client, one for each event loop; `settings` are KubeSpawner's `host` and TLS traits."""
    load_config(**settings)
    return shared_client("CoreV1Api").api_client


def _check(status: int, body: str) -> None:
    """Raises for an answer that is none, or a refusal."""
    if status < 400:
        return
    if status >= 500 or status in (408, 429):
        raise ApiUnavailable(f"HTTP {status}")
    try:
        said = json.loads(body)
        raise ApiRefused(status, str(said.get("reason") or ""), str(said.get("message") or ""))
    except (ValueError, AttributeError):
        raise ApiRefused(status, "", "") from None


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The lines of a body of any length."""
    rest = b""
    async for chunk in answer.content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line
        if len(rest) > _LONGEST_LINE:
            raise ValueError("a line without end")


async def persistently(
    call: Callable[[], Awaitable[_Answer]], heard: Callable[[ApiUnavailable], None]
) -> _Answer:
    """The answer to `call`, which is made again while the API server does not answer; the caller bounds it.

    `heard` is told of each attempt that failed. `call` must be one that may be made twice.
    """
    pause = _FIRST_PAUSE
    while True:
        try:
            return await call()
        except ApiUnavailable as error:
            heard(error)
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
            pause = min(pause * 2, _LONGEST_PAUSE)
