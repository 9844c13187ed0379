"""The command line: `canfar-hub demo`, `canfar-hub check` and `canfar-hub image`."""

import argparse
import sys
from pathlib import Path

from canfar_hub import check, demo, image
from canfar_hub.problem import Problem


def main(arguments: list[str] | None = None) -> int:
    """Runs one command. Returns the exit status: 1, after one line on stderr, for what the user can mend."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except Problem as problem:
        print(f"canfar-hub: {problem}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="canfar-hub", description="A JupyterHub distribution for astronomy.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("demo", help="run the hub on this machine, with sample accounts")
    run.add_argument("--port", default="8000", help="port of the hub; the five after it are used, too")
    run.add_argument("--data", type=Path, default=Path("data"), help="folder for users, homes and records")
    run.add_argument("--kinds", default="", help="kinds of session to offer, separated by spaces")
    run.add_argument("--site", type=Path, default=demo.DEMO / "site.yaml", help="site file to start from")
    run.add_argument(
        "--catalogue", type=Path, default=demo.DEMO / "catalogue", help="folder of catalogue files"
    )
    run.add_argument(
        "--admin-token", action="store_true", help="write an administrator's API token to DATA/admin.token"
    )
    run.set_defaults(run=demo.run)

    test = commands.add_parser("check", help="check a site file and its catalogue")
    test.add_argument("site", type=Path, help="the site file")
    test.set_defaults(run=check.run)

    read = commands.add_parser("image", help="write the catalogue entry of an image, from its labels")
    read.add_argument(
        "source",
        metavar="IMAGE",
        help="reference in a registry that is open to everybody; or a file: an OCI layout or archive,"
        " what `docker save` writes, or an image's configuration (.json)",
    )
    read.add_argument("--name", default="", help="reference by which a cluster pulls the image of a file")
    read.set_defaults(run=image.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
