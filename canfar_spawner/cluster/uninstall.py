"""Ends every session of a namespace when the platform is removed: `python -m canfar_spawner.cluster.uninstall`.

Nobody else would: pods of sessions belong to nothing that goes with the hub.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from canfar_spawner.cluster import pod
from canfar_spawner.cluster.api import Api, ApiRefused, ApiUnavailable, connected, persistently

_PATIENCE = 240  # seconds in which the API server has to answer


async def end_all(api: Api, namespace: str) -> int:
    """Deletes the pods and Secrets of all sessions; how many pods there were. Raises ``ApiRefused``."""
    counted = {}
    for what in ("pods", "secrets"):
        path = f"/api/v1/namespaces/{namespace}/{what}"
        names = [
            found["metadata"]["name"]
            async for page in api.pages(path, labelSelector=pod.ID)
            for found in page.get("items") or ()
        ]
        for name in names:
            await api.delete(f"{path}/{name}")
        counted[what] = len(names)
    return counted["pods"]


async def _main(namespace: str) -> str:
    api = Api(connected)
    try:
        async with asyncio.timeout(_PATIENCE):
            ended = await persistently(lambda: end_all(api, namespace), lambda error: None)
    except (ApiRefused, ApiUnavailable, TimeoutError) as error:
        sys.exit(f"The sessions in {namespace} were not ended: {error}")
    return f"{ended} sessions in {namespace} were ended."


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Ends every session of a namespace.")
    parser.add_argument("namespace")
    print(asyncio.run(_main(parser.parse_args().namespace)))


if __name__ == "__main__":
    main()
