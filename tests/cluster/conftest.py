import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def kubeconfig() -> str:
    """The kubeconfig file of the cluster. Without one these tests fail: they were asked for by their marker."""
    found = os.environ.get("KUBECONFIG", "")
    if not found or not Path(found).is_file():
        pytest.fail(
            f"Set KUBECONFIG to the file of a cluster for tests, which {found!r} is not.", pytrace=False
        )
    return found
