"""An administrator's API token for embedded mode: narrow, and good for one day."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from canfar_hub.loopback import open_locally
from canfar_hub.problem import Problem
from canfar_spawner.processes import write_private

ACCOUNT = "admin"
LIFETIME = 24 * 3600  # seconds
SCOPES = (
    "list:users",
    "read:users",
    "read:servers",
    "start:servers",
    "delete:servers",
    "delete:users",
    "read:metrics",
)


def write_admin_token(hub_url: str, token: str, path: Path) -> None:
    """Writes a new token of the account `admin` to `path`, which only this account of the machine may read.

    Raises
    ------
    canfar_hub.problem.Problem
        The hub refused.
    """
    wish = {"expires_in": LIFETIME, "scopes": list(SCOPES), "note": "Written by make run ADMIN_TOKEN=1"}
    try:
        made = _post(f"{hub_url}/hub/api/users/{ACCOUNT}/tokens", token, wish)
    except (urllib.error.URLError, ValueError) as error:
        raise Problem(f"The hub gave no administrator's token ({error}).") from None
    write_private(path, f"{made['token']}\n")


def _post(url: str, token: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")  # noqa: S310
    with open_locally(request, timeout=30) as answer:
        text = answer.read()
    made = json.loads(text)
    return made if isinstance(made, dict) else {}
