"""The command line of the embedded provider: ``python -m canfar_hub.identity_provider``."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from canfar_hub.identity_provider.accounts import load_accounts
from canfar_hub.identity_provider.settings import CLIENT_SECRET_VARIABLE, Options, prepare
from canfar_site.yamlfile import FileError


class _CannotStart(Exception):
    """What stands in the way, in one sentence."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; 0 after that, 1 with one line on standard error when it cannot start."""
    arguments = _parse(argv)
    os.umask(0o077)
    try:
        _serve(arguments)
    except (_CannotStart, FileError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m canfar_hub.identity_provider",
        description="A local OpenID Connect provider with sample accounts, for one machine and for trial.",
        epilog=f"The client is canfar-hub, its secret comes from the environment variable "
        f"{CLIENT_SECRET_VARIABLE}, and the issuer is http://IP:PORT.",
    )
    parser.add_argument("--accounts", type=Path, required=True, help="the YAML file of accounts")
    parser.add_argument("--data", type=Path, required=True, help="a folder of its own, for keys and state")
    parser.add_argument("--ip", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--redirect-uri",
        action="append",
        required=True,
        help="where the hub takes sign-ins, http://localhost:8000/hub/oauth_callback; may be repeated",
    )
    return parser.parse_args(argv)


def _serve(arguments: argparse.Namespace) -> None:
    options = _options(arguments)
    if not os.environ.get(CLIENT_SECRET_VARIABLE):
        raise _CannotStart(f"{CLIENT_SECRET_VARIABLE} is not set; put the hub's client secret into it.")
    accounts = load_accounts(arguments.accounts)
    with _listen(options) as listener:
        try:
            prepare(options, accounts, arguments.data)
            # Only here: nanoidp takes half a second to import, and reads its environment as it does.
            from canfar_hub.identity_provider.application import create_app

            app = create_app(options, accounts, arguments.data)
        except (OSError, ValueError) as error:
            raise _CannotStart(
                f"{arguments.data}: This data folder cannot be used ({_reason(error)})."
            ) from None
        server = make_server(
            options.ip, options.port, app, threaded=True, request_handler=_Handler, fd=listener.fileno()
        )
        _stop_on_signals(server)
        sys.stderr.write(f"The local identity provider answers at {options.issuer}.\n")
        server.serve_forever(poll_interval=0.1)


def _options(arguments: argparse.Namespace) -> Options:
    try:
        is_loopback = ip_address(arguments.ip).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise _CannotStart(
            f"{arguments.ip} is not a loopback address; the trial provider listens on 127.0.0.1 or ::1 only."
        )
    if not 0 < arguments.port < 65536:
        raise _CannotStart(f"{arguments.port} is not a port; choose one from 1 to 65535.")
    for uri in arguments.redirect_uri:
        parts = urlsplit(uri)
        if parts.scheme not in ("http", "https") or not parts.netloc or "${" in uri:
            raise _CannotStart(
                f"{uri} is not an address to return to; write http://host:port/hub/oauth_callback."
            )
    return Options(arguments.ip, arguments.port, tuple(arguments.redirect_uri))


def _listen(options: Options) -> socket.socket:
    """The socket first: a taken port is the likeliest fault, and werkzeug would word it at length."""
    family = socket.AF_INET6 if ":" in options.ip else socket.AF_INET
    try:
        return socket.create_server((options.ip, options.port), family=family, backlog=128)
    except OSError as error:
        raise _CannotStart(
            f"Port {options.port} of {options.ip} cannot be had ({_reason(error)}); choose another by --port."
        ) from None


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())


def _stop_on_signals(server: BaseWSGIServer) -> None:
    def stop(*_: Any) -> None:
        # shutdown() waits for serve_forever(), which runs in the thread that this handler interrupts.
        threading.Thread(target=server.shutdown, daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


class _Handler(WSGIRequestHandler):
    """werkzeug's, without access lines: their addresses carry codes and tokens."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing."""

    def version_string(self) -> str:
        """No versions for whoever asks."""
        return "canfar-hub"


if __name__ == "__main__":
    sys.exit(main())
