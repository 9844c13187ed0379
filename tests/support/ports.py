"""Ports for the tests' servers."""

import random
import socket

_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens at, never one twice, and none that the kernel hands out by itself."""
    return free_ports(1)


def free_ports(count: int) -> int:
    """The first of `count` ports in a row, each as `free_port` gives them."""
    for _ in range(1000):
        first = random.randint(20_000, 32_000)
        ports = range(first, first + count)
        if _given.isdisjoint(ports) and all(_is_free(port) for port in ports):
            _given.update(ports)
            return first
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    """Whether it can be bound, also without SO_REUSEADDR: so no connection of an ended server lingers there."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
