from collections.abc import Iterator
from pathlib import Path

import pytest

from canfar_site.settings import Site
from canfar_spawner.catalogue import Catalogue, Profile
from tests.support.identities import ADMINS, SURVEY, USERS
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


@pytest.fixture
def site() -> Site:
    return Site.model_validate(
        {
            "contact": "help@example.org",
            "public_url": "https://hub.example.org",
            "sign_in": {
                "issuer": "https://login.example.org",
                "platform_groups": [USERS],
                "admin_groups": [ADMINS],
            },
            "storage": {"top": Path("/arc")},
            "kinds": ["notebook", "contributed", "carta", "headless"],
            "limits": {
                "sessions": 2,
                "ceiling": {"cores": 2, "memory": 8},
                "group_ceilings": [{"group": SURVEY, "cores": 4, "memory": 4, "gpus": 1}],
            },
        }
    )


@pytest.fixture
def catalogue() -> Catalogue:
    resources = {"cores": [1, 2, 4, 8], "memory": [2, 8], "gpus": [0, 1]}
    entries = [
        {
            "profile": "open",
            "title": "Open",
            "description": "For all.",
            "kinds": ["notebook"],
            "images": ["example.org/open:2", "example.org/open:1"],
            "resources": resources,
        },
        {
            "profile": "team",
            "title": "Team",
            "description": "For the survey.",
            "kinds": ["notebook", "contributed"],
            "images": ["example.org/team:1"],
            "groups": [SURVEY],
            "resources": resources,
        },
        {
            "profile": "batch",
            "title": "Batch",
            "description": "No page.",
            "kinds": ["headless"],
            "images": ["example.org/batch:1"],
        },
    ]
    return Catalogue(tuple(Profile.model_validate(entry) for entry in entries))
