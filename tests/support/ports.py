"""Ports for the tests' servers."""

import random
import socket

_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens at, never one twice, and none that the kernel hands out by itself."""
    for _ in range(1000):
        port = random.randint(20_000, 32_000)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.add(port)
            return port
    raise RuntimeError("no free port")
