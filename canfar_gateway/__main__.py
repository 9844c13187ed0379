"""The command line: `python -m canfar_gateway`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .connections import allow_many
from .oauth import PublicUrl
from .proxies import TrustedProxies
from .server import InsideHosts, Settings, running

_LEVELS = {"debug": "DEBUG", "info": "INFO", "warn": "WARNING", "warning": "WARNING", "error": "ERROR"}
_SECRETS = {
    "CONFIGPROXY_AUTH_TOKEN": "the token with which the hub uses the gateway's REST API",
    "CANFAR_GATEWAY_TOKEN": "the API token of the hub's service 'gateway'",
}


Read = TypeVar("Read")


class Unusable(Exception):
    """The gateway cannot start; the message is a sentence that says what to do."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="canfar-gateway",
        description="The way in to hub and sessions. Secrets come by the environment: "
        + "; ".join(f"{name} is {meaning}" for name, meaning in _SECRETS.items())
        + ".",
    )
    parser.add_argument("--ip", default="127.0.0.1", help="address for visitors (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port for visitors (default: %(default)s)")
    parser.add_argument("--api-ip", default="127.0.0.1", help="address of the REST API (default: %(default)s)")
    parser.add_argument(
        "--api-port", type=int, default=8001, help="port of the REST API (default: %(default)s)"
    )
    parser.add_argument(
        "--hub-api-url", default="http://127.0.0.1:8081/hub/api", help="the hub's API (default: %(default)s)"
    )
    parser.add_argument(
        "--public-url",
        default="http://localhost:8000",
        help="where visitors reach the hub (default: %(default)s)",
    )
    parser.add_argument(
        "--inside-host",
        action="append",
        default=[],
        metavar="NAME[:PORT]",
        help="a host by which programs of the platform, such as pods, reach the hub's API and nothing else;"
        " may be repeated",
    )
    parser.add_argument(
        "--trusted-proxies",
        default="",
        metavar="NETWORK[,NETWORK]",
        help="networks of the proxies before the gateway, whose X-Forwarded-For names the visitor, such as"
        " 10.0.0.0/24 (default: none)",
    )
    parser.add_argument("--host-routing", action="store_true", help="each user has a host of their own")
    parser.add_argument(
        "--state-file", type=Path, required=True, help="keeps the routes over a restart; mode 0600"
    )
    parser.add_argument("--error-target", default="", help="URL below which the hub draws error pages")
    parser.add_argument(
        "--decision-seconds", type=float, default=30, help="how long a decision holds (default: %(default)s)"
    )
    parser.add_argument(
        "--own-api-url",
        default="",
        metavar="URL",
        help="where the hub reaches the REST API of this very gateway, which tells it so at the start, as"
        " http://10.1.2.3:8001; for pods, whose Service may lead to the one before (default: the hub knows)",
    )
    parser.add_argument(
        "--linger",
        type=float,
        default=0,
        metavar="SECONDS",
        help="how long visitors are still answered after SIGTERM, while another gateway starts beside this one"
        " (default: %(default)s)",
    )
    parser.add_argument("--log-level", choices=_LEVELS, default="info", help="(default: %(default)s)")
    return parser


def _read(parse: Callable[[Any], Read], value: object, sentence: str) -> Read:
    try:
        return parse(value)
    except ValueError:
        raise Unusable(sentence) from None


def _settings(options: argparse.Namespace) -> Settings:
    missing = [name for name in _SECRETS if not os.environ.get(name)]
    if missing:
        raise Unusable(f"Set {missing[0]} in the environment: it is {_SECRETS[missing[0]]}.")
    public = _read(
        PublicUrl.parse,
        options.public_url,
        "--public-url must be a http or https URL, such as https://hub.example.org.",
    )
    proxies = _read(
        TrustedProxies.parse,
        options.trusted_proxies,
        "--trusted-proxies must be networks without host bits, such as 10.0.0.0/24,fd00::/64.",
    )
    inside = _read(
        InsideHosts.parse,
        options.inside_host,
        "--inside-host must be a host's name, such as gateway.example.svc, with or without a port.",
    )
    if any(name == public.host for name, _ in inside.names):
        raise Unusable("--inside-host must not be the host of --public-url, where the hub's pages are.")
    if options.decision_seconds <= 0:
        raise Unusable("--decision-seconds must be more than 0.")
    return Settings(
        ip=options.ip,
        port=options.port,
        api_ip=options.api_ip,
        api_port=options.api_port,
        hub_api_url=options.hub_api_url,
        public=public,
        host_routing=options.host_routing,
        state_file=options.state_file,
        error_target=options.error_target,
        decision_seconds=options.decision_seconds,
        own_api_url=options.own_api_url,
        linger=options.linger,
        trusted_proxies=proxies,
        inside_hosts=inside,
        api_token=os.environ["CONFIGPROXY_AUTH_TOKEN"],
        service_token=os.environ["CANFAR_GATEWAY_TOKEN"],
    )


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        async with running(settings):
            log = logging.getLogger(__package__)
            log.info("The gateway listens at %s:%d.", settings.ip, settings.port)
            if not settings.host_routing:
                log.warning(
                    "All sessions share one origin with the hub: a page of any image can act as its visitor."
                    " Use a host for each user (--host-routing) unless every image is trusted."
                )
            await stop.wait()
    except OSError as error:
        subject = str(error.filename) if error.filename else "--port or --api-port"
        raise Unusable(f"Cannot use {subject}: {error.strerror or error}. Choose another one.") from None


def main(arguments: list[str] | None = None) -> int:
    """Run the gateway until it is told to stop; 0 then, 1 when it cannot start."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=_LEVELS[options.log_level], format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # This one warns of each subprotocol that is not chosen, and some clients put secrets there.
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)
    allow_many()
    try:
        asyncio.run(_serve(_settings(options)))
    except Unusable as error:
        print(f"canfar-gateway: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
