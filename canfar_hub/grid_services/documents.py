"""What the services say about themselves and of groups, as their clients read it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

_VOSI = "http://www.ivoa.net/xml/VOSICapabilities/v1.0"
_VODATASERVICE = "http://www.ivoa.net/xml/VODataService/v1.1"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_TOKEN, _CERTIFICATE = "ivo://ivoa.net/sso#token", "ivo://ivoa.net/sso#tls-with-certificate"


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing that a service does (VOSI 1.1 section 2.1). ``methods`` are the ways to say who is asking."""

    standard: str
    path: str
    methods: tuple[str, ...] = ()


_ABOUT = (
    Capability("ivo://ivoa.net/std/VOSI#capabilities", "capabilities"),
    Capability("ivo://ivoa.net/std/VOSI#availability", "availability"),
)
# The recommendation spells it `gms`; clients look for what all services in operation say.
GMS = (*_ABOUT, Capability("ivo://ivoa.net/std/GMS#search-1.0", "search", (_TOKEN, _CERTIFICATE)))
CRED = (*_ABOUT, Capability("ivo://ivoa.net/std/CDP#proxy-1.0", "generate", (_TOKEN,)))


def capabilities(base: str, offered: Iterable[Capability]) -> str:
    """A service's capabilities. The inner elements have no namespace, as OpenCADC's clients want it."""
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            f'<vosi:capabilities xmlns:vosi="{_VOSI}" xmlns:vs="{_VODATASERVICE}" xmlns:xsi="{_XSI}">',
            *(_capability(base, one) for one in offered),
            "</vosi:capabilities>\n",
        ]
    )


def _capability(base: str, one: Capability) -> str:
    methods = "".join(f"<securityMethod standardID={quoteattr(method)}/>" for method in one.methods)
    return (
        f"  <capability standardID={quoteattr(one.standard)}>"
        '<interface xsi:type="vs:ParamHTTP" role="std">'
        f'<accessURL use="full">{base}/{one.path}</accessURL>{methods}'
        "</interface></capability>"
    )


AVAILABLE = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<vosi:availability xmlns:vosi="http://www.ivoa.net/xml/VOSIAvailability/v1.0">'
    "<vosi:available>true</vosi:available></vosi:availability>\n"
)
"""VOSI 1.1 section 5."""


def registry(services: Iterable[tuple[str, str]]) -> str:
    """The list of identifiers and the addresses of their capabilities."""
    return "".join(f"{identifier} = {base}/capabilities\n" for identifier, base in services)


def names(groups: Iterable[str]) -> str:
    """The answer of ``search`` (GMS 1.0 section 3): one plain name a line."""
    return "".join(f"{group.rpartition('?')[2]}\r\n" for group in groups)
