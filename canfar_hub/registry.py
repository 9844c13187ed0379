"""Images in a registry, over the distribution API of the Open Container Initiative, without an account."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from types import TracebackType
from typing import Self
from urllib.parse import urlencode, urljoin, urlsplit

import aiohttp

from canfar_hub.problem import Problem
from canfar_hub.references import Reference

_HOSTS = {"docker.io": "registry-1.docker.io"}
"""Where the API is, of a registry that has it at another host than its references say."""
_LIMIT = 4 * 2**20  # bytes; registries take no longer manifests
_SECONDS = 30
_REDIRECTS = 3
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Registry:
    """One repository of a registry. Only its host is asked, and whom that names for a token or a blob.

    Nothing secret is sent anywhere: a token is one that the registry gives to everybody. All goes over https,
    or over http where the registry is on this machine. What comes is checked by its digest, wherever from.
    """

    def __init__(self, reference: Reference) -> None:
        host = _HOSTS.get(reference.host, reference.host)
        self._reference = reference
        self._scheme = "http" if _is_this_machine(host) else "https"
        self._base = f"{self._scheme}://{host}/v2/{reference.path}/"
        self._token = ""
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=_SECONDS),
            trust_env=True,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.close()

    async def manifest(self, name: str, accept: str) -> bytes:
        """A manifest by tag or digest, as it is. Raises ``Problem``."""
        return await self._read(f"manifests/{name}", accept)

    async def blob(self, digest: str) -> bytes:
        """A blob, as it is. Raises ``Problem``."""
        return await self._read(f"blobs/{digest}", "*/*")

    async def _read(self, path: str, accept: str) -> bytes:
        url = self._base + path
        answer = await self._get(url, accept, self._token)
        if answer.status == 401 and not self._token:
            self._token = await self._anonymous(answer.headers.get("WWW-Authenticate", ""))
            answer = await self._get(url, accept, self._token)
        if answer.status == 200:
            return answer.body
        where = f"{self._reference.host}/{self._reference.path}"
        if answer.status in (401, 403):
            raise Problem(
                f"{where} is not open to everybody (HTTP {answer.status}); give a file instead, such as"
                " `podman save --format oci-archive` writes."
            )
        if answer.status == 404:
            raise Problem(
                f"{self._reference.host} has no {path} of {self._reference.path}; check the reference."
            )
        raise Problem(f"{self._reference.host} gave no usable answer (HTTP {answer.status}); try again later.")

    async def _anonymous(self, challenge: str) -> str:
        """The token that a registry has for everybody, from where its challenge says (RFC 6750 section 3)."""
        scheme, _, rest = challenge.partition(" ")
        told = dict(_PARAMETER.findall(rest))
        if scheme.lower() != "bearer" or "realm" not in told:
            return ""
        query = {name: told[name] for name in ("service", "scope") if name in told}
        url = f"{told['realm']}?{urlencode(query)}"
        self._check(url)
        answer = await self._get(url, "application/json", "")
        found = re.search(rb'"(?:token|access_token)"\s*:\s*"([A-Za-z0-9._~+/=-]+)"', answer.body)
        return found[1].decode() if answer.status == 200 and found else ""

    async def _get(self, url: str, accept: str, token: str) -> _Answer:
        """One answer, after redirects, which go without the token."""
        for _ in range(_REDIRECTS):
            answer = await self._once(url, accept, token)
            if answer.status not in (301, 302, 303, 307, 308):
                return answer
            url, token = urljoin(url, answer.headers.get("Location", "")), ""
            self._check(url)
        raise Problem(f"{self._reference.host} redirects again and again; try again later.")

    def _check(self, url: str) -> None:
        """Refuses to go where the registry itself would not be asked; raises ``Problem``."""
        parts = urlsplit(url)
        local = self._scheme == "http" and parts.scheme == "http" and _is_this_machine(parts.netloc)
        if parts.scheme != "https" and not local:
            raise Problem(
                f"{self._reference.host} sends to an address without encryption, which is not followed."
            )

    async def _once(self, url: str, accept: str, token: str) -> _Answer:
        if self._http is None:
            raise RuntimeError("a registry is asked within `async with`")
        headers = {"Accept": accept, **({"Authorization": f"Bearer {token}"} if token else {})}
        try:
            async with self._http.get(url, headers=headers, allow_redirects=False) as answer:
                body = bytearray()
                async for piece in answer.content.iter_any():
                    body += piece
                    if len(body) > _LIMIT:
                        raise Problem(
                            f"{self._reference.host} sends more than {_LIMIT // 2**20} MiB; no image does."
                        )
                return _Answer(answer.status, answer.headers, bytes(body))
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            host = urlsplit(url).netloc
            raise Problem(f"{host} cannot be reached ({type(error).__name__}); check the reference.") from None


def _is_this_machine(netloc: str) -> bool:
    host = urlsplit(f"//{netloc}").hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
