"""The one client through which users' tokens leave the hub: where they may go, for how long, and how often."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

log = logging.getLogger("canfar.outbound")

_PORTS = {"https": 443, "http": 80}


class Unavailable(Exception):
    """A service gave no usable answer; the text says why, for a log, and holds nothing secret."""


class NotTrusted(Unavailable):
    """An address that must not be sent a token."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service said: ``status`` is 200 to 299, or a refusal from 400 to 499."""

    status: int
    headers: Mapping[str, str]
    """Looked up without regard to case."""
    text: str = field(repr=False)


@dataclass(slots=True)
class _Circuit:
    """Whether one origin is asked at all: not for a while after it failed often, then by one call at a time."""

    failures: int = 0
    closed_until: float = 0
    trying: bool = False


class Outbound:
    """Asks services over https, or http on this machine itself.

    ``hosts`` are the ones that may be asked: ``host`` (with the scheme's own port), ``host:port``, or
    ``*.example.org``. What the last form lets in has to be at public addresses, since names below a domain are
    not always its owner's. Redirects are not followed, and the machine's proxies are not used.

    An attempt takes ``seconds`` at most, body included, and there are ``attempts``, with pauses that double
    from ``pause`` seconds on and are jittered. An answer has at most ``limit`` bytes. After ``threshold``
    failed calls in a row an origin is left alone for about ``rest`` seconds.
    """

    def __init__(
        self,
        hosts: Collection[str],
        *,
        seconds: float = 10,
        attempts: int = 3,
        pause: float = 0.25,
        limit: int = 1_000_000,
        threshold: int = 5,
        rest: float = 30,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._named = frozenset(host.lower() for host in hosts if not host.startswith("*."))
        self._below = tuple(host[1:].lower() for host in hosts if host.startswith("*."))
        self._seconds, self._attempts, self._pause, self._limit = seconds, attempts, pause, limit
        self._threshold, self._rest, self._clock = threshold, rest, clock
        self._circuits: dict[str, _Circuit] = {}
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def get(
        self, url: str, *, token: str = "", params: Sequence[tuple[str, str]] = (), accept: str = ""
    ) -> Answer:
        """The answer of a service, which is sent ``token`` as a bearer (RFC 6750 section 2.1).

        Raises as ``ask``.
        """
        return await self.ask("GET", url, token=token, params=params, accept=accept)

    async def ask(
        self,
        method: str,
        url: str,
        *,
        token: str = "",
        params: Sequence[tuple[str, str]] = (),
        accept: str = "",
    ) -> Answer:
        """The answer to a request without a body, by a method that may be repeated.

        Raises ``Unavailable``: no connection, too slow, too long, not text, 3xx, 408, 429 or 5xx, all after
        the attempts; ``NotTrusted`` at once.
        """
        parts, public_only = self._checked(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        headers = {"Accept": accept or "*/*"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        circuit = self._circuits.setdefault(origin, _Circuit())
        self._enter(circuit, origin)
        try:
            answer = await self._persistently(method, url, origin, params, headers, public_only)
        except Unavailable as error:
            if not isinstance(error, NotTrusted):
                self._failed(circuit, origin)
            raise
        else:
            circuit.failures = 0
            return answer
        finally:
            circuit.trying = False

    async def close(self) -> None:
        """Close the connections."""
        while self._sessions:
            await self._sessions.popitem()[1].close()

    # Where to

    def _checked(self, url: str) -> tuple[SplitResult, bool]:
        """The parts of an address that may be asked, and whether it has to be public; raises ``NotTrusted``."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower(), parts.port
        except ValueError:
            raise NotTrusted("An address is malformed.") from None
        if parts.scheme not in _PORTS or not host or "@" in parts.netloc or not url.isprintable():
            raise NotTrusted(f"{parts.scheme!a}://{host!a} is no address that may be asked.")
        if parts.scheme == "http" and not _is_this_machine(host):
            raise NotTrusted(f"{host} would be asked without encryption; use https.")
        default = port in (None, _PORTS[parts.scheme])
        shown = f"[{host}]" if ":" in host else host
        names = {f"{shown}:{port or _PORTS[parts.scheme]}", *([shown] if default else ())}
        if names & self._named:
            return parts, False
        if default and host.endswith(self._below) and self._below:
            return parts, True
        raise NotTrusted(f"{parts.netloc} is not among the hosts that may be sent tokens (trusted_hosts).")

    # How often

    def _enter(self, circuit: _Circuit, origin: str) -> None:
        if circuit.failures < self._threshold:
            return
        if self._clock() < circuit.closed_until or circuit.trying:
            raise Unavailable(f"{origin} did not answer lately and is left alone for a while.")
        circuit.trying = True

    def _failed(self, circuit: _Circuit, origin: str) -> None:
        circuit.failures += 1
        if circuit.failures >= self._threshold:
            circuit.closed_until = self._clock() + self._rest * random.uniform(0.75, 1.25)  # noqa: S311
            log.warning("%s failed %d times in a row and is left alone.", origin, circuit.failures)

    async def _persistently(
        self,
        method: str,
        url: str,
        origin: str,
        params: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        public_only: bool,
    ) -> Answer:
        for attempt in range(self._attempts):
            if attempt:
                await asyncio.sleep(self._pause * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))  # noqa: S311
            try:
                return await self._once(method, url, params, headers, public_only)
            except Unavailable as error:
                # Asked for something that is elsewhere, it will say so again.
                if isinstance(error, (NotTrusted, _Moved)):
                    raise
                reason = str(error)
            except TimeoutError:
                reason = f"no whole answer within {self._seconds:g} s"
            except aiohttp.ClientError as error:
                reason = type(error).__name__
        raise Unavailable(f"{origin} gave no usable answer: {reason}.")

    async def _once(
        self,
        method: str,
        url: str,
        params: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        public_only: bool,
    ) -> Answer:
        async with (
            asyncio.timeout(self._seconds),
            self._session(public_only).request(
                method, url, params=list(params), headers=headers, allow_redirects=False
            ) as answer,
        ):
            if 300 <= answer.status < 400:
                raise _Moved(f"{answer.url.host} redirects, which is not followed.")
            if answer.status < 200 or answer.status in (408, 429) or answer.status >= 500:
                raise Unavailable(f"HTTP {answer.status}")
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > self._limit:
                    raise Unavailable(f"more than {self._limit} bytes")
            try:
                return Answer(answer.status, answer.headers, body.decode())
            except UnicodeDecodeError:
                raise Unavailable("the answer is not UTF-8") from None

    def _session(self, public_only: bool) -> aiohttp.ClientSession:
        if public_only not in self._sessions:
            self._sessions[public_only] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=_Public() if public_only else ThreadedResolver()),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                trust_env=False,
            )
        return self._sessions[public_only]


class _Moved(Unavailable):
    """A redirect: an answer, but none that is followed."""


class _Public(AbstractResolver):
    """Resolves names to public addresses only; what was checked is what is connected to."""

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for address in found:
            if not ip_address(address["host"].partition("%")[0]).is_global:
                raise NotTrusted(f"{host} is at a private address; name it in full where that is meant.")
        return found

    async def close(self) -> None:
        await self._resolver.close()


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
