from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import Stack, running, write_catalogue


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The embedded hub with the tests' catalogue, shared by all tests that leave it as they found it."""
    folder = tmp_path_factory.mktemp("hub")
    with running(folder / "data", "--catalogue", str(write_catalogue(folder))) as found:
        yield found


@pytest.fixture(scope="session")
def catalogue_folder(stack: Stack) -> Path:
    """The folder of the hub's catalogue."""
    return stack.data.parent / "catalogue"
