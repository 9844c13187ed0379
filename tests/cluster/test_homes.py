"""Homes that the site has made itself: looked at by a Job in the namespace of sessions, as the user."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from canfar_auth.identity import PosixIds
from canfar_site.settings import Site
from canfar_spawner import policy
from canfar_spawner.catalogue import CatalogueFolder
from canfar_spawner.cluster.api import Api, connected
from canfar_spawner.cluster.homes import Homes
from canfar_spawner.request import parse_options
from canfar_spawner.spec import Refused, SessionSpec
from tests.support.cluster import PROVISIONER, Ground, profiles
from tests.support.identities import USERS, identity

pytestmark = pytest.mark.cluster
UID = 23456


async def _nobody(owner: str) -> str:
    raise AssertionError("no token is needed")


def _spec(site: Site, folder: Path) -> SessionSpec:
    (folder / "tests.yaml").write_text(yaml.safe_dump({"profiles": profiles()}))
    person = replace(identity(USERS, name="somebody"), posix=PosixIds(UID, UID))
    found = CatalogueFolder(folder).read()
    options = parse_options({"profile": "notebook"})
    return policy.plan(options, person, site, found, policy.Usage(0), "abcd1234")


async def test_a_home_is_looked_at_in_a_namespace_that_is_restricted(
    cluster: Ground, data: Path, tmp_path: Path
) -> None:
    site = Site.model_validate(
        {
            "contact": "help@example.org",
            "sign_in": {"issuer": "https://iam.example.org", "platform_groups": [USERS]},
            "storage": {"top": "/arc"},
            "cluster": {"volume": {"claim": "data"}, "homes": {"source": "made", "image": PROVISIONER}},
        }
    )
    spec = _spec(site, tmp_path)
    home = data / "arc/home/somebody"
    home.mkdir(parents=True, exist_ok=True)
    home.parent.chmod(0o711)  # which users may pass, and no more
    api = Api(lambda: connected(host="", ssl_ca_cert="", verify_ssl=True))
    with pytest.raises(Refused, match=r"help@example\.org") as refused:  # it is root's
        await Homes(api, site, cluster.sessions, _nobody).ensure(spec)
    assert refused.value.status == 409
    os.chown(home, UID, UID)
    home.chmod(0o700)
    await Homes(api, site, cluster.sessions, _nobody).ensure(spec)
