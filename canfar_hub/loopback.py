"""Requests to this machine's own programs."""

import urllib.request
from contextlib import AbstractContextManager
from typing import Any


def open_locally(request: str | urllib.request.Request, timeout: float) -> AbstractContextManager[Any]:
    """As `urllib.request.urlopen`, past any proxy of the machine; `timeout` is in seconds."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    answer: AbstractContextManager[Any] = opener.open(request, timeout=timeout)
    return answer
