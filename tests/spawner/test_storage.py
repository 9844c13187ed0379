"""What of the shared volume is in a session."""

from typing import Any

import pytest

from canfar_site.settings import Site
from canfar_spawner.spec import Mount
from canfar_spawner.storage import mounts
from tests.support.identities import SURVEY, USERS, identity

READERS = "ivo://example.org/gms?readers"
PROJECTS = [
    {"name": "survey-x", "write": [SURVEY], "read": [READERS]},
    {"name": "open", "read": [USERS]},
    {"name": "closed", "write": ["ivo://example.org/gms?others"]},
]


def with_cluster(site: Site, **volume: Any) -> Site:
    document = site.model_dump(mode="json", exclude_defaults=True)
    document["cluster"] = {"volume": {"claim": "data", "projects": PROJECTS, **volume}}
    return Site.model_validate(document)


@pytest.mark.parametrize(
    ("groups", "projects"),
    [
        ([], {}),
        ([USERS], {"open": True}),
        ([USERS, SURVEY], {"survey-x": False, "open": True}),
        ([SURVEY, READERS], {"survey-x": False}),
        ([READERS], {"survey-x": True}),
    ],
)
def test_projects_are_those_that_a_group_opens(
    site: Site, groups: list[str], projects: dict[str, bool]
) -> None:
    home, *others = mounts(identity(*groups), "/arc/home/astronomer", with_cluster(site))
    assert home == Mount("/arc/home/astronomer", "home/astronomer")
    assert {one.path: one.read_only for one in others} == {
        f"/arc/projects/{name}": read_only for name, read_only in projects.items()
    }


def test_a_folder_within_the_volume(site: Site) -> None:
    found = mounts(identity(SURVEY), "/arc/home/a@b.org", with_cluster(site, sub_path="canfar/data"))
    assert [one.sub_path for one in found] == ["canfar/data/home/a@b.org", "canfar/data/projects/survey-x"]


def test_without_a_cluster_nothing_is_mounted(site: Site) -> None:
    assert mounts(identity(SURVEY), "/arc/home/astronomer", site) == ()


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "", "a b", "../home", "a\n"])
def test_a_project_is_one_directory(site: Site, name: str) -> None:
    with pytest.raises(ValueError, match="projects"):
        with_cluster(site, projects=[{"name": name}])


@pytest.mark.parametrize("path", ["/abs", "../up", "a/../b", "a//b", ".", "a/"])
def test_a_folder_is_below_the_volume(site: Site, path: str) -> None:
    with pytest.raises(ValueError, match="sub_path"):
        with_cluster(site, sub_path=path)


def test_a_project_is_named_once(site: Site) -> None:
    with pytest.raises(ValueError, match="twice"):
        with_cluster(site, projects=[PROJECTS[0], PROJECTS[0]])
