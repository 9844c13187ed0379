"""The command line of the embedded services: ``python -m canfar_hub.grid_services``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import ssl
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from canfar_auth.outbound import Outbound
from canfar_auth.x509 import Issued
from canfar_hub.grid_services.application import Services, create_app
from canfar_hub.grid_services.authority import open_authority, write_server
from canfar_hub.identity_provider.accounts import Accounts, load_accounts
from canfar_site.yamlfile import FileError


class _CannotStart(Exception):
    """What stands in the way, in one sentence."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; 0 after that, 1 with one line on standard error when it cannot start."""
    arguments = _parse(argv)
    os.umask(0o077)
    try:
        asyncio.run(_serve(arguments, load_accounts(arguments.accounts)))
    except (_CannotStart, FileError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m canfar_hub.grid_services",
        description="A local group service and a local certificate service, for one machine and for trial.",
    )
    parser.add_argument("--accounts", type=Path, required=True, help="the YAML file of accounts")
    parser.add_argument("--data", type=Path, required=True, help="a folder of its own, for keys")
    parser.add_argument("--publish", type=Path, required=True, help="a folder where sessions find addresses")
    parser.add_argument("--issuer", required=True, help="the provider's issuer, http://127.0.0.1:8001")
    parser.add_argument("--ip", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, required=True, help="for the hub, without encryption")
    parser.add_argument("--tls-port", type=int, required=True, help="for clients, who may have certificates")
    return parser.parse_args(argv)


async def _serve(arguments: argparse.Namespace, accounts: Accounts) -> None:
    if not _is_loopback(arguments.ip):
        raise _CannotStart(f"{arguments.ip} is not a loopback address; the trial services listen on one only.")
    try:
        authority = open_authority(arguments.data)
        context = _tls(authority, write_server(authority, arguments.data))
    except (OSError, ValueError) as error:
        raise _CannotStart(f"{arguments.data}: This data folder cannot be used ({_reason(error)}).") from None
    outbound = Outbound({urlsplit(arguments.issuer).netloc})
    services = Services(
        url=f"https://localhost:{arguments.tls_port}",
        resource=f"ivo://{accounts.authority}/gms",
        groups={name: tuple(accounts.gms_groups_of(name)) for name in accounts.accounts},
        userinfo=f"{arguments.issuer}/userinfo",
        outbound=outbound,
        authority=authority,
    )
    try:
        publish(services, arguments.publish)
    except OSError as error:
        raise _CannotStart(f"{arguments.publish} cannot be written ({_reason(error)}).") from None
    async with AsyncExitStack() as stack:
        stack.push_async_callback(outbound.close)
        # Addresses carry no secrets, but there is nobody who would read a log of them.
        runner = web.AppRunner(create_app(services), access_log=None, shutdown_timeout=2)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await _listen(runner, arguments.ip, arguments.port)
        await _listen(runner, arguments.ip, arguments.tls_port, context)
        sys.stderr.write(f"The local group and certificate services answer at {services.url}.\n")
        await _asked_to_stop()


def _tls(authority: Issued, server: Path) -> ssl.SSLContext:
    """Takes client certificates of the authority, proxies (RFC 3820) too, and asks for none."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=authority.certificate_pem())
    context.load_cert_chain(server)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_ALLOW_PROXY_CERTS
    return context


def publish(services: Services, folder: Path) -> None:
    """Writes for everybody's sessions where the services are, and the authority's certificate."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    authority = folder / "authority.pem"
    addresses = {"gms": services.gms, "cred": services.cred, "authority": str(authority.resolve())}
    for path, text in (
        (authority, services.authority.certificate_pem()),
        (folder / "services.json", json.dumps(addresses, indent=1) + "\n"),
    ):
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text(text)
        fresh.chmod(0o644)
        fresh.replace(path)


async def _listen(runner: web.AppRunner, ip: str, port: int, context: ssl.SSLContext | None = None) -> None:
    try:
        await web.TCPSite(runner, ip, port, ssl_context=context).start()
    except (OSError, OverflowError) as error:
        raise _CannotStart(f"Port {port} of {ip} cannot be had ({_reason(error)}); choose another.") from None


async def _asked_to_stop() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


def _is_loopback(ip: str) -> bool:
    try:
        return ip_address(ip).is_loopback
    except ValueError:
        return False


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
