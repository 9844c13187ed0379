"""Proxies before the gateway, such as an Ingress: whose word about the visitor's address counts."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class TrustedProxies:
    """The networks of proxies that say truly who connected to them."""

    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> TrustedProxies:
        """From networks separated by commas. Raises ValueError for what is none."""
        return cls(tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip()))

    def chain(self, peer: str, forwarded: Iterable[str]) -> tuple[str, ...]:
        """The addresses that a request came by, as X-Forwarded-For shall list them; the visitor's is the last.

        Each proxy adds the address that connected to it. So from the end on, entries count as long as a trusted
        proxy wrote them; the first that is of no trusted proxy is the visitor's. What stands before it, the
        visitor may have invented.
        """
        entries = [entry.strip() for line in forwarded for entry in line.split(",") if entry.strip()]
        chain = [*entries, peer]
        while len(chain) > 1 and self._trusts(chain[-1]) and _address(chain[-2]) is not None:
            chain.pop()
        return (*chain[:-1], _plain(chain[-1]))

    def _trusts(self, entry: str) -> bool:
        address = _address(entry)
        return address is not None and any(address in network for network in self.networks)


def _address(entry: str) -> Address | None:
    """The address in an entry, which some proxies write with a port; None for anything else."""
    for text in (entry, entry.rpartition(":")[0]):
        try:
            found = ipaddress.ip_address(text.strip("[]"))
        except ValueError:
            continue
        mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
        return mapped or found
    return None


def _plain(entry: str) -> str:
    """The same address always in the same words, so that limits cannot be passed by a port."""
    address = _address(entry)
    return entry if address is None else str(address)
