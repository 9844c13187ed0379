"""CARTA's scripts through the gateway, compressed and kept by browsers, beside the same route without that.

Seconds are those of this machine's loopback, where bytes cost little; by a line of 50 Mbit/s they decide.
"""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx

from tests.support import carta
from tests.support.stack import ROOT, Person, Stack, running

LIMIT = 0.3  # part of the bytes that is left
LINE = 50e6 / 8  # bytes in a second


def measure() -> dict[str, Any]:
    """Bytes and seconds of CARTA's large files: as they are, compressed, again, and with their tags."""
    with tempfile.TemporaryDirectory() as folder:
        path = carta.put_on_path(Path(folder) / "bin")
        options = ("--kinds", "carta", "--catalogue", str(ROOT / "demo/catalogue"))
        with patch.dict(os.environ, PATH=path), running(Path(folder) / "data", *options) as stack:
            found = _measured(stack)
    found["limit"] = LIMIT
    found["within the limit"] = found["compressed first"]["bytes"] <= LIMIT * found["as it is"]["bytes"]
    return {"what": "CARTA's files of more than 64 KiB through the gateway", **found}


def _measured(stack: Stack) -> dict[str, Any]:
    person = stack.sign_in("astronomer")
    person.start("look", {"profile": "carta"})
    person.ready("look")
    key, data = next(one for one in _routes(stack).items() if one[1].get("kind") == "carta")
    address = f"http://{key.split('/')[1]}:{stack.port}/session/carta/{data['id']}/"
    files = [
        file.relative_to(carta.frontend())
        for file in sorted(carta.frontend().rglob("*"))
        if file.suffix in (".js", ".wasm", ".css") and file.stat().st_size > 65536
    ]
    _post(stack, key, data | {"compress": False})
    plain = _load(person, address, files, {})
    _post(stack, key, data)
    first = _load(person, address, files, {})
    again = _load(person, address, files, {})
    known = _load(person, address, files, first["tags"])
    rounds = {"as it is": plain, "compressed first": first, "compressed again": again, "asked with tags": known}
    return {name: {k: v for k, v in one.items() if k != "tags"} for name, one in rounds.items()}


def _load(person: Person, address: str, files: list[Path], tags: dict[str, str]) -> dict[str, Any]:
    size, got = 0, {}
    with person.stack.client(headers={"Authorization": f"token {person.token}"}) as client:
        client.get(f"{address}config")
        before = time.monotonic()
        for file in map(str, files):
            headers = {"Accept-Encoding": "gzip"} | ({"If-None-Match": tags[file]} if tags else {})
            with client.stream("GET", address + file, headers=headers) as answer:
                assert answer.status_code == (304 if tags else 200)
                size += sum(map(len, answer.iter_raw()))
                got[file] = answer.headers.get("ETag", "")
        taken = time.monotonic() - before
    line = round(taken + size / LINE, 2)
    return {"bytes": size, "seconds": round(taken, 2), "seconds by 50 Mbit/s": line, "tags": got}


def _routes(stack: Stack) -> dict[str, Any]:
    return {key: one["data"] for key, one in json.loads((stack.data / "routes.json").read_text()).items()}


def _post(stack: Stack, key: str, data: dict[str, Any]) -> None:
    token = json.loads((stack.data / "secrets.json").read_text())["CONFIGPROXY_AUTH_TOKEN"]
    url = f"http://127.0.0.1:{stack.port + 3}/api/routes{key}"
    httpx.post(url, json=data, headers={"Authorization": f"token {token}"}).raise_for_status()
