"""Runs the benchmarks, or those that are named, and writes each one's figures to bench/results/NAME.json."""

import importlib
import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
ALL = ("start", "gateway_start", "launch", "kinds", "death", "refresh", "revoke", "pods", "static")


def main(names: list[str]) -> int:
    """Runs `names`, or all. Returns 1 if a limit is not kept."""
    kept = True
    for name in names or ALL:
        result = importlib.import_module(f"bench.{name}").measure()
        result["machine"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
        result["when"] = datetime.now(UTC).date().isoformat()
        text = json.dumps(result, indent=2)
        print(f"{name}: {text}", flush=True)
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(f"{text}\n")
        kept = kept and result["within the limit"]
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
