"""Account files of a session with the image's own entries, too, for programs that need those. Pure."""

from __future__ import annotations

from typing import Any

OWN, MERGED = "/run/canfar/accounts", "/run/canfar/merged"
"""Where the init container finds the session's account files, and where it leaves the whole ones."""

# Builtins of a POSIX shell alone, since images need have nothing else. Of the image's entries those stay whose
# name and number the session's files leave free; members of its groups do not, since they would be names here.
SCRIPT = r"""
set -eu
merge() {
  names=: numbers=:
  while IFS=: read -r name _ number _; do
    names=$names$name: numbers=$numbers$number:
  done <"$OWN/$1"
  {
    while IFS= read -r line; do printf '%s\n' "$line"; done <"$OWN/$1"
    if [ -r "$IMAGE/$1" ]; then
      while IFS=: read -r name secret number rest || [ -n "$name" ]; do
        case $names in *:"$name":*) continue ;; esac
        case $numbers in *:"$number":*) continue ;; esac
        case $name in '' | [+-]* | '#'*) continue ;; esac
        case $number in '' | *[!0-9]*) continue ;; esac
        if [ "$1" = group ]; then rest=; fi
        printf '%s:x:%s:%s\n' "$name" "$number" "$rest"
      done <"$IMAGE/$1"
    fi
  } >"$MERGED/$1"
}
merge passwd
merge group
"""


def init_container(image: str, accounts: str, merged: str) -> dict[str, Any]:
    """Writes whole files into the volume `merged`, from those in the volume `accounts` and the image's own."""
    variables = {"OWN": OWN, "IMAGE": "/etc", "MERGED": MERGED}
    return {
        "name": "canfar-accounts",
        "image": image,
        "command": ["/bin/sh", "-c", SCRIPT.replace("$", "$$")],
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "resources": {"requests": {"cpu": "10m", "memory": "16M"}, "limits": {"cpu": "1", "memory": "64M"}},
        "volumeMounts": [
            {"name": accounts, "mountPath": OWN, "readOnly": True},
            {"name": merged, "mountPath": MERGED},
        ],
    }
