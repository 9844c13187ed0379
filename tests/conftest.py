import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import ROOT, Stack, running


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The embedded hub with the tests' catalogue, shared by all tests that leave it as they found it."""
    folder = tmp_path_factory.mktemp("hub")
    catalogue = folder / "catalogue"
    catalogue.mkdir()
    text = (ROOT / "tests/support/catalogue.yaml").read_text()
    text = text.replace("PYTHON", sys.executable).replace("SUPPORT", str(ROOT / "tests/support"))
    (catalogue / "tests.yaml").write_text(text)
    shutil.copy(ROOT / "demo/catalogue/contributed.yaml", catalogue / "marimo.yaml")
    with running(folder / "data", "--catalogue", str(catalogue)) as found:
        yield found


@pytest.fixture(scope="session")
def catalogue_folder(stack: Stack) -> Path:
    """The folder of the hub's catalogue."""
    return stack.data.parent / "catalogue"
