"""Real providers and a real hub for the tests of signing in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio
from jupyterhub.handlers import BaseHandler

from tests.support.oidc_hub import Hub, hub_config, start_hub, stop_hub
from tests.support.oidc_provider import CanailleProvider, EmbeddedProvider, Provider
from tests.support.oidc_stub import StubProvider
from tests.support.ports import free_port

RunHub = Callable[..., Hub]


@pytest.fixture(scope="session")
def hub_port() -> int:
    return free_port()


@pytest.fixture(scope="session")
def callback(hub_port: int) -> str:
    return f"http://127.0.0.1:{hub_port}/hub/oauth_callback"


@pytest.fixture(scope="session")
def iam_server_port() -> int:
    """pytest-iam's own fixture picks ports below 20000."""
    return free_port()


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory, callback: str) -> Iterator[EmbeddedProvider]:
    provider = EmbeddedProvider(tmp_path_factory.mktemp("provider") / "data", free_port(), callback)
    try:
        yield provider.start()
    finally:
        provider.stop()


@pytest.fixture(scope="session")
def canaille(iam_server: Any, callback: str) -> CanailleProvider:
    return CanailleProvider(iam_server, callback)


@pytest.fixture(params=["embedded", "canaille"])
def provider(request: pytest.FixtureRequest) -> Provider:
    """Each of the two providers in turn."""
    found: Provider = request.getfixturevalue(request.param)
    return found


class OurPage(BaseHandler):
    """A page in the place of one of the hub's."""

    def initialize(self, text: str) -> None:
        self.text = text

    def get(self) -> None:
        self.finish(self.text)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_hub(hub_port: int, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hub]:
    """A hub that starts while its provider is down, and has one page of ours."""
    config = hub_config(
        tmp_path_factory.mktemp("hub"),
        hub_port,
        issuer=f"http://127.0.0.1:{free_port()}",
        first_handlers=[(r"/spawn", OurPage, {"text": "our page"})],
    )
    hub = await start_hub(config, hub_port)
    yield hub
    await stop_hub(hub)


@pytest_asyncio.fixture(loop_scope="module")
async def run_hub(one_hub: Hub) -> AsyncIterator[RunHub]:
    """``run_hub(provider, **traits)``: the hub, without people, and with a fresh authenticator."""
    yield one_hub.sign_in_with
    await one_hub.forget_people()


@pytest.fixture
def hub(run_hub: RunHub, provider: Provider) -> Hub:
    return run_hub(provider)


@pytest_asyncio.fixture(loop_scope="module")
async def stub() -> AsyncIterator[StubProvider]:
    provider = StubProvider().start()
    yield provider
    await provider.stop()
