"""A kernel of a running notebook, spoken to as JupyterLab does: through the gateway, over a WebSocket."""

from __future__ import annotations

import json
import uuid
from types import TracebackType

from websockets.sync.client import ClientConnection, connect

from tests.support.stack import Person

_PATIENCE = 90  # seconds; how long a cell may take on a busy machine


class Kernel:
    """A new kernel in a person's session; it ends with the block."""

    def __init__(self, person: Person, server: str) -> None:
        self._person = person
        self._base = f"/user/{person.name}/{server}/api/kernels"

    def __enter__(self) -> Kernel:
        made = self._call("POST", "")
        self._path = f"/{made['id']}"
        self._socket = self._connected()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._call("DELETE", self._path)

    def connect_again(self) -> None:
        """Opens the WebSocket anew, as a page does when it was closed."""
        self._socket.close()
        self._socket = self._connected()

    def run(self, code: str) -> str:
        """What a cell prints, stripped; raises with the traceback of a cell that fails."""
        message = uuid.uuid4().hex
        header = {
            "msg_id": message,
            "msg_type": "execute_request",
            "username": "",
            "session": "s",
            "version": "5.3",
        }
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
        request = {
            "header": header,
            "parent_header": {},
            "metadata": {},
            "content": content,
            "channel": "shell",
        }
        self._socket.send(json.dumps(request))
        printed = ""
        while True:
            told = json.loads(self._socket.recv(_PATIENCE))
            if told["parent_header"].get("msg_id") != message:
                continue
            if told["msg_type"] == "stream":
                printed += told["content"]["text"]
            if told["msg_type"] == "error":
                raise AssertionError("\n".join(told["content"]["traceback"]))
            if told["msg_type"] == "status" and told["content"]["execution_state"] == "idle":
                return printed.strip()

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"token {self._person.token}"}

    def _url(self, scheme: str, path: str) -> str:
        place = self._person.stack
        return f"{scheme}{'s' if place.tls else ''}://{place.host_of(self._person.name)}{self._base}{path}"

    def _call(self, method: str, path: str) -> dict[str, str]:
        with self._person.stack.client() as client:
            answer = client.request(method, self._url("http", path), headers=self._headers)
        assert answer.is_success, answer.text
        return dict(answer.json()) if answer.content else {}

    def _connected(self) -> ClientConnection:
        return connect(
            self._url("ws", f"{self._path}/channels"),
            address=self._person.stack.address,
            ssl=self._person.stack.tls,
            additional_headers=self._headers,
            proxy=None,
            max_size=None,
        )
