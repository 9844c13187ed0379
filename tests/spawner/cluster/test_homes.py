"""Homes: whoever makes them, a session starts only in one that is there and its user's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from kubernetes_asyncio.client import ApiClient, Configuration

from canfar_auth.outbound import Unavailable
from canfar_site.settings import Site
from canfar_spawner import policy
from canfar_spawner.catalogue import Catalogue
from canfar_spawner.cluster.api import Api, ApiUnavailable
from canfar_spawner.cluster.homes import Homes
from canfar_spawner.request import parse_options
from canfar_spawner.spec import Refused, SessionSpec
from tests.spawner.cluster.conftest import IDS
from tests.spawner.cluster.test_spawner import until
from tests.support.faults import FaultyServer, Received, Reply, Status
from tests.support.identities import USERS, identity
from tests.support.kubernetes_api import Behaviour, Crash, FakeKubernetes

HOME = "app.kubernetes.io/component=home"


class StorageService(FaultyServer):
    """Makes homes for the holders of a token."""

    status = 201

    def answer(self, request: Received) -> Reply:
        return Reply(self.status if request.token == "a-token" else 401)


@pytest.fixture
def service() -> Iterator[StorageService]:
    with StorageService() as found:
        yield found


def site_with(site: Site, homes: dict[str, Any]) -> Site:
    document = site.model_dump(mode="json", exclude_defaults=True)
    document["cluster"] = {"volume": {"claim": "data", "sub_path": "canfar"}, "homes": homes}
    return Site.model_validate(document)


@pytest.fixture
def spec(site: Site, catalogue: Catalogue) -> SessionSpec:
    person = replace(identity(USERS, name="a@b.org"), posix=IDS)
    cluster = site_with(site, {})
    return policy.plan(
        parse_options({"profile": "open"}), person, cluster, catalogue, policy.Usage(0), "abcd1234"
    )


@pytest.fixture
async def api(kube: FakeKubernetes) -> AsyncIterator[Api]:
    client = ApiClient(Configuration(host=kube.url))
    yield Api(lambda: client)
    await client.close()


async def token(owner: str) -> str:
    return "a-token"


async def no_token(owner: str) -> str:
    raise Unavailable("sign in again")


def jobs(kube: FakeKubernetes) -> list[dict[str, Any]]:
    return [*kube.all("jobs", "sessions"), *kube.all("jobs", "canfar-homes")]


async def test_a_provisioners_job_has_its_own_namespace_and_three_powers(
    site: Site, spec: SessionSpec, kube: FakeKubernetes, api: Api
) -> None:
    kube.create("namespaces", {"metadata": {"name": "canfar-homes"}})
    homes = Homes(api, site_with(site, {"source": "provisioner", "claim": "all"}), "sessions", token)
    await homes.ensure(spec)
    (job,) = kube.all("jobs", "canfar-homes")
    body = job["spec"]["template"]["spec"]
    (container,) = body["containers"]
    assert container["securityContext"]["capabilities"] == {
        "drop": ["ALL"],
        "add": ["CHOWN", "FOWNER", "DAC_OVERRIDE"],
    }
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert body["automountServiceAccountToken"] is False
    assert body["volumes"][0]["persistentVolumeClaim"] == {"claimName": "all"}
    assert container["volumeMounts"][0]["subPath"] == "canfar"
    assert container["args"][0] == "make"
    assert {"--user=a@b.org", "--uid=10001", "--gid=10001", "--homes=home"} <= set(container["args"])
    assert job["spec"]["backoffLimit"] == 0


async def test_looking_is_done_as_the_user_who_cannot_write(
    site: Site, spec: SessionSpec, kube: FakeKubernetes, api: Api
) -> None:
    await Homes(api, site_with(site, {}), "sessions", token).ensure(spec)
    (job,) = kube.all("jobs", "sessions")
    body = job["spec"]["template"]["spec"]
    assert body["securityContext"]["runAsUser"] == 10001
    assert body["securityContext"]["runAsNonRoot"] is True
    assert body["containers"][0]["volumeMounts"][0]["readOnly"] is True
    assert body["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert body["containers"][0]["args"][0] == "check"


@pytest.mark.parametrize("status", [201, 204, 409])
async def test_a_storage_service_makes_a_home_with_the_users_token(
    site: Site, spec: SessionSpec, kube: FakeKubernetes, api: Api, service: StorageService, status: int
) -> None:
    service.status = status
    settings = {"source": "service", "service": f"{service.url}/homes/{{username}}"}
    homes = Homes(api, site_with(site, settings), "sessions", token)
    await homes.ensure(spec)
    await homes.ensure(spec)
    assert [(one.method, one.path, one.token) for one in service.requests] == [
        ("PUT", "/homes/a@b.org", "a-token")
    ]
    assert len(jobs(kube)) == 1  # it is looked at, whatever the service says


async def test_a_storage_service_that_refuses_or_is_down_is_a_refusal(
    site: Site, spec: SessionSpec, kube: FakeKubernetes, api: Api, service: StorageService
) -> None:
    settings = {"source": "service", "service": f"{service.url}/homes/{{username}}"}
    homes = Homes(api, site_with(site, settings), "sessions", token)
    service.status = 403
    with pytest.raises(Refused, match="makes no home for you") as refused:
        await homes.ensure(spec)
    assert refused.value.status == 409
    service.fault = Status(503)
    with pytest.raises(Refused, match="does not answer") as refused:
        await homes.ensure(spec)
    assert refused.value.status == 503
    with pytest.raises(Refused, match="does not answer"):
        await Homes(api, site_with(site, settings), "sessions", no_token).ensure(spec)
    assert not jobs(kube)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (Crash(code=3, message='{"refused": "missing", "sentence": "You have no home yet."}'), "no home yet"),
        (Crash(code=1, message='{"sentence": "There is no space left."}'), "no space left"),
        (Crash(code=1, message="Traceback"), "cannot be looked at"),
        (Crash(code=137, reason="OOMKilled"), "cannot be looked at"),
        (Crash(code=0, message="[]"), "cannot be looked at"),
    ],
)
async def test_a_job_that_fails_is_a_refusal_and_is_tried_again_at_the_next_start(
    site: Site, spec: SessionSpec, kube: FakeKubernetes, api: Api, end: Crash, words: str
) -> None:
    homes = Homes(api, site_with(site, {}), "sessions", token)
    kube.behave(HOME, Behaviour(crash=end))
    with pytest.raises(Refused, match=words) as refused:
        await homes.ensure(spec)
    assert refused.value.status == 409
    kube.behave(HOME, Behaviour(crash=Crash(code=0, message='{"home": "there"}')))
    await homes.ensure(spec)
    assert len(jobs(kube)) == 2


async def test_a_look_holds_no_connection_when_it_is_over(
    site: Site, spec: SessionSpec, kube: FakeKubernetes, api: Api
) -> None:
    await Homes(api, site_with(site, {}), "sessions", token).ensure(spec)
    await until(lambda: kube.watching("jobs") == 0, "the watch over")


async def test_other_numbers_are_another_home(
    site: Site, spec: SessionSpec, kube: FakeKubernetes, api: Api
) -> None:
    homes = Homes(api, site_with(site, {}), "sessions", token)
    await homes.ensure(spec)
    await homes.ensure(replace(spec, ids=replace(IDS, uid=10002)))
    assert len(jobs(kube)) == 2


async def test_an_api_that_is_away_is_for_the_caller(
    site: Site, spec: SessionSpec, kube: FakeKubernetes, api: Api
) -> None:
    kube.down()
    with pytest.raises(ApiUnavailable):
        await Homes(api, site_with(site, {}), "sessions", token).ensure(spec)
    kube.up()


@pytest.mark.parametrize(
    "homes",
    [
        {"source": "service"},
        {"source": "made", "service": "https://storage.example.org/homes/{username}"},
        {"source": "service", "service": "https://storage.example.org/homes"},
        {"source": "service", "service": "ftp://storage.example.org/{username}"},
        {"source": "service", "service": "https://{username}.example.org/"},
    ],
)
def test_settings_that_cannot_be_meant(site: Site, homes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="service"):
        site_with(site, homes)
