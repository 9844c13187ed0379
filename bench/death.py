"""From a program's death during its start to the progress page's word of it."""

import json
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.support.stack import Person, running, write_catalogue

RUNS = 10
LIMIT = 3.0  # seconds


def measure() -> dict[str, Any]:
    """Seconds until the event that the progress page shows, for programs that die while they start."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with running(place / "data", "--catalogue", str(write_catalogue(place))) as stack:
            person = stack.sign_in("visitor")
            die = stack.data / "arc/home/visitor/die"
            times = [_told(person, f"dying{count}", die) for count in range(RUNS)]
    return {
        "what": "seconds from the death of a starting program to the progress page's event",
        "seconds": [round(t, 2) for t in times],
        "median": round(statistics.median(times), 2),
        "limit": LIMIT,
        "within the limit": max(times) < LIMIT,
    }


def _told(person: Person, server: str, die: Path) -> float:
    start = threading.Thread(target=person.start, args=(server, {"profile": "dies-late"}))
    start.start()
    url = f"{person.stack.url}/hub/api/users/{person.name}/servers/{server}/progress"
    headers = {"Authorization": f"token {person.token}", "Accept": "text/event-stream"}
    while person.server(server).get("pending") != "spawn":
        time.sleep(0.01)
    died = 0.0
    with person.stack.client() as client, client.stream("GET", url, headers=headers) as events:
        for line in events.iter_lines():
            event = json.loads(line[5:]) if line.startswith("data:") else {}
            if "Waiting" in event.get("message", ""):
                died = time.monotonic()  # the program looks for its file every 0.05 s, which counts here
                die.touch()
            if event.get("failed"):
                break
    taken = time.monotonic() - died
    die.unlink()
    start.join()
    return taken
