"""Requests written byte by byte, for what well-behaved clients never send."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    rest: bytes


async def send(port: int, data: bytes, *, until_close: bool = True) -> bytes:
    """All that comes back for these bytes, until the server closes or has been silent after our end of file."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        await writer.drain()
        received = b""
        async with asyncio.timeout(20):
            while until_close:
                piece = await reader.read(65536)
                received += piece
                if not piece:
                    return received
            return await reader.readuntil(b"\r\n\r\n")
    except (ConnectionError, asyncio.IncompleteReadError):
        return received
    finally:
        writer.close()


def parse(data: bytes) -> Answer:
    """The first answer in what came back."""
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(first.split(" ")[1]), headers, rest)


def request(
    path: str = "/",
    *,
    method: str = "GET",
    host: str = "localhost",
    headers: tuple[str, ...] = (),
    body: str = "",
) -> bytes:
    """A request of HTTP/1.1 that asks for the connection to be closed."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *headers]
    if not any(line.lower().startswith("connection") for line in headers):
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode("latin-1")
