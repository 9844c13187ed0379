"""A client of IVOA group services (GMS 1.0). They answer for the caller, so they get the user's own token."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from xml.etree import ElementTree

from canfar_auth.claims import AMBIGUOUS, colliding, is_group_identifier
from canfar_auth.identity import GroupSet
from canfar_auth.outbound import Answer, Outbound, Unavailable
from canfar_site.settings import GroupService

log = logging.getLogger("canfar.gms")

# The recommendation writes `gms`; every service in operation writes `GMS`.
_STANDARD = re.compile(r"ivo://ivoa\.net/std/gms#search-1\.\d+", re.IGNORECASE)
_BEARER = "ivo://ivoa.net/sso#token"
_KEPT = timedelta(hours=1)  # an address that was looked up

_SILENT = "The group service does not answer."
_REFUSED = "The group service does not accept your sign-in."
_LONGEST_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Listed:
    """The groups of one answer, and what in it is no group, as printable ASCII for a log."""

    groups: frozenset[str]
    dropped: tuple[str, ...] = ()


class GmsClient:
    """Asks one service, found by its address or through a registry.

    ``resource`` is what plain names in its answers belong to (``ivo://example.org/gms``). An answer is kept
    until it expires, but no longer than ``longest``.
    """

    def __init__(
        self,
        service: GroupService,
        outbound: Outbound,
        *,
        resource: str,
        longest: timedelta,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._service, self._outbound, self._resource = service, outbound, resource
        self._longest, self._now = longest, now
        self._found, self._found_at = "", datetime.min.replace(tzinfo=UTC)

    async def groups(self, token: str, last: GroupSet | None = None) -> GroupSet:
        """The groups of whoever ``token`` belongs to; what the service told ``last`` while it does not answer.

        Never raises for a fault of the service.
        """
        now = self._now()
        if last and last.complete and last.fresh_until and now < last.fresh_until:
            return last
        try:
            answer = await self._outbound.get(await self._address(), token=token, accept="text/plain")
            if answer.status in (401, 403):
                log.warning("The group service refused a user's token with HTTP %d.", answer.status)
                return GroupSet.unknown("gms", now, _REFUSED, last)
            listed = read_answer(answer, self._resource)
        except Unavailable as error:
            self._found = ""  # it may have moved
            log.warning("The group service cannot be asked: %s", error)
            return GroupSet.unknown("gms", now, _SILENT, last)
        if listed.dropped:
            log.warning("The group service names what is no group: %s.", ", ".join(listed.dropped[:5]))
        told = GroupSet(listed.groups, "gms", now, fresh_until=self._fresh_until(answer, now))
        same = colliding(listed.groups)
        if not same:
            return told
        log.warning("The group service names groups that differ only in case: %s.", ", ".join(sorted(same)[:5]))
        return replace(told, groups=listed.groups - same, complete=False, reason=AMBIGUOUS, fresh_until=None)

    def _fresh_until(self, answer: Answer, now: datetime) -> datetime | None:
        """When the answer expires (GMS 1.0 section 3); ``None`` without a time to come."""
        try:
            expires = parsedate_to_datetime(answer.headers.get("Expires", ""))
        except ValueError:
            return None
        if expires.tzinfo is None or expires <= now:
            return None
        return min(expires, now + self._longest)

    async def _address(self) -> str:
        """The address of ``search``: the site's own word, or what registry and service say, for an hour."""
        if self._service.search:
            return self._service.search
        if not self._found or self._now() - self._found_at > _KEPT:
            self._found, self._found_at = await self._look_up(), self._now()
        return self._found

    async def _look_up(self) -> str:
        """Asks the registry and then the service itself, neither with a token."""
        listing = await self._outbound.get(str(self._service.registry), accept="text/plain")
        capabilities = _listed_address(listing.text, str(self._service.resource))
        document = await self._outbound.get(capabilities, accept="text/xml, application/xml")
        return search_address(document.text)


def read_answer(answer: Answer, resource: str) -> Listed:
    """The groups in a service's answer: one name or identifier a line (GMS 1.0 section 3).

    Raises ``Unavailable`` for what is no such list: a page of a proxy must not pass for "in no group".
    """
    kind = answer.headers.get("Content-Type", "text/plain").partition(";")[0].strip().lower()
    if answer.status != 200 or kind != "text/plain":
        raise Unavailable(f"HTTP {answer.status} with {ascii(kind)[:_LONGEST_SHOWN]} is no list of groups")
    groups: set[str] = set()
    dropped: list[str] = []
    for line in re.split(r"\r?\n", answer.text):
        name = line.strip(" \t")
        if not name:
            continue
        if not name.isprintable() or any(char in name for char in " <>{}\"'"):
            raise Unavailable("a line of the answer is no name of a group")
        group = name if name.startswith("ivo://") else f"{resource}?{name}"
        if is_group_identifier(group):
            groups.add(group)
        else:
            dropped.append(ascii(name)[:_LONGEST_SHOWN])
    return Listed(frozenset(groups), tuple(dropped))


def search_address(capabilities: str) -> str:
    """Where a service's capabilities (VOSI 1.1 section 2.1) say that ``search`` takes a bearer token.

    Raises ``Unavailable`` for a document without such a place.
    """
    if "<!" in capabilities.replace("<!--", ""):
        raise Unavailable("the capabilities declare entities")  # nothing honest needs them
    try:
        root = ElementTree.fromstring(capabilities)  # noqa: S314
    except ElementTree.ParseError:
        raise Unavailable("the capabilities are no XML") from None
    found: list[tuple[bool, str]] = []
    for capability in root.iter():
        if _STANDARD.fullmatch(capability.get("standardID", "")):
            for interface in _children([capability], "interface"):
                methods = [m.get("standardID", "") for m in _children([interface], "securityMethod")]
                urls = [(url.text or "").strip() for url in _children([interface], "accessURL")]
                if urls and (_BEARER in methods or not any(methods)):
                    found.append((_BEARER not in methods, urls[0]))
    if not found:
        raise Unavailable("the capabilities name no search that takes a token")
    return min(found)[1]


def _children(elements: Iterable[ElementTree.Element], name: str) -> list[ElementTree.Element]:
    """The children of that name, whatever their namespace."""
    return [child for element in elements for child in element if child.tag.rpartition("}")[2] == name]


def _listed_address(listing: str, resource: str) -> str:
    """The address of a service's capabilities in a registry's list of ``identifier = address`` lines."""
    for line in listing.splitlines():
        identifier, _, address = line.partition("=")
        if identifier.strip() == resource and not line.lstrip().startswith("#"):
            return address.strip()
    raise Unavailable(f"the registry does not list {resource}")
