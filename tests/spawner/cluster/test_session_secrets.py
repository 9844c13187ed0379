"""The Secrets of sessions as a store of credentials, with the renewer that uses them."""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from kubernetes_asyncio.client import ApiClient, Configuration

from canfar_site.settings import Credentials, Site
from canfar_spawner import policy
from canfar_spawner.catalogue import Catalogue
from canfar_spawner.cluster.api import Api
from canfar_spawner.cluster.session_secrets import SessionSecrets
from canfar_spawner.credentials import CERTIFICATE, EXPIRES, TOKEN, Renewer, Running
from canfar_spawner.request import parse_options
from canfar_spawner.spec import SessionSpec
from tests.spawner.cluster.conftest import IDS
from tests.support.credential_source import Clock, Source
from tests.support.identities import USERS, identity
from tests.support.kubernetes_api import FakeKubernetes

OWN = "0123456789abcdef" * 4


@pytest.fixture
async def api(kube: FakeKubernetes) -> AsyncIterator[Api]:
    client = ApiClient(Configuration(host=kube.url))
    yield Api(lambda: client, seconds=5)
    await client.close()


@pytest.fixture
def store(api: Api) -> SessionSecrets:
    return SessionSecrets(api, "sessions")


@pytest.fixture
def spec(site: Site, catalogue: Catalogue) -> SessionSpec:
    person = replace(identity(USERS, name="a@b.org"), posix=IDS)
    return policy.plan(parse_options({"profile": "open"}), person, site, catalogue, policy.Usage(0), "abcd1234")


def data(kube: FakeKubernetes, session: str = "abcd1234") -> dict[str, str]:
    """What a session's Secret holds; empty if there is none."""
    found: dict[str, Any] = kube.get("secrets", f"canfar-{session}") or {}
    return {name: base64.b64decode(text).decode() for name, text in (found.get("data") or {}).items()}


async def test_the_first_credentials_bring_the_whole_secret(
    store: SessionSecrets, spec: SessionSpec, kube: FakeKubernetes
) -> None:
    store.prepare(spec, OWN)
    await store.write("a@b.org", ["abcd1234"], {CERTIFICATE: "pem", TOKEN: None}, IDS)
    found = data(kube)
    assert found.keys() == {CERTIFICATE, "session_secret", "passwd", "group", *spec.files}
    assert (found[CERTIFICATE], found["session_secret"]) == ("pem", OWN)
    await store.make("abcd1234")
    assert kube.count("create", "secrets") == 1


async def test_without_credentials_the_secret_is_made_alone(
    store: SessionSecrets, spec: SessionSpec, kube: FakeKubernetes
) -> None:
    store.prepare(spec, OWN)
    await store.make("abcd1234")
    assert data(kube).keys() == {"session_secret", "passwd", "group", *spec.files}


async def test_a_pull_secret_is_made_given_and_removed_with_the_other(
    store: SessionSecrets, spec: SessionSpec, kube: FakeKubernetes
) -> None:
    store.prepare(spec, OWN, '{"auths": {}}')
    await store.write("a@b.org", ["abcd1234"], {CERTIFICATE: "pem"}, IDS)
    await store.make("abcd1234")
    assert {one["metadata"]["name"] for one in kube.secrets()} == {"canfar-abcd1234", "canfar-abcd1234-pull"}
    assert data(kube).keys() == {CERTIFICATE, "session_secret", "passwd", "group", *spec.files}
    assert await store.read("a@b.org") == ""
    await store.remove("a@b.org", "abcd1234", ())
    assert not kube.secrets()


async def test_a_pull_secret_that_no_session_has_is_swept(
    store: SessionSecrets, spec: SessionSpec, kube: FakeKubernetes, api: Api
) -> None:
    for session in ("abcd1234", "abcd1235"):
        store.prepare(replace(spec, id=session), OWN, '{"auths": {}}')
        await store.make(session)
    await SessionSecrets(api, "sessions").sweep({"a@b.org": ["abcd1234"]})  # as a new hub
    assert {one["metadata"]["name"] for one in kube.secrets()} == {"canfar-abcd1234", "canfar-abcd1234-pull"}


async def test_files_are_replaced_and_removed_in_all_of_the_owners_sessions(
    store: SessionSecrets, spec: SessionSpec, kube: FakeKubernetes
) -> None:
    for session in ("abcd1234", "abcd1235"):
        store.prepare(replace(spec, id=session), OWN)
        await store.write("a@b.org", [session], {CERTIFICATE: "old", TOKEN: "t"}, IDS)
    await store.write("a@b.org", ["abcd1234", "abcd1235"], {CERTIFICATE: "new", TOKEN: None}, IDS)
    for session in ("abcd1234", "abcd1235"):
        found = data(kube, session)
        assert found[CERTIFICATE] == "new"
        assert TOKEN not in found
        assert found["session_secret"] == OWN


async def test_one_that_is_gone_keeps_no_other_from_its_files(
    store: SessionSecrets, spec: SessionSpec, kube: FakeKubernetes
) -> None:
    store.prepare(spec, OWN)
    await store.make("abcd1234")
    await store.write("a@b.org", ["aaaa0000", "abcd1234"], {CERTIFICATE: "pem"}, IDS)
    assert data(kube)[CERTIFICATE] == "pem"
    assert kube.get("secrets", "canfar-aaaa0000") is None


async def test_one_of_an_earlier_start_gives_way(
    store: SessionSecrets, spec: SessionSpec, kube: FakeKubernetes
) -> None:
    store.prepare(spec, "earlier")
    await store.write("a@b.org", ["abcd1234"], {CERTIFICATE: "earlier"}, IDS)
    await store.give_to("abcd1234", "pod", "uid-of-a-pod-that-goes")
    store.prepare(spec, OWN)
    await store.make("abcd1234")
    assert data(kube)["session_secret"] == OWN
    assert CERTIFICATE not in data(kube)
    made = kube.get("secrets", "canfar-abcd1234")
    assert made
    assert "ownerReferences" not in made["metadata"]


async def test_what_belongs_to_no_running_session_is_swept(
    store: SessionSecrets, spec: SessionSpec, kube: FakeKubernetes
) -> None:
    for session in ("abcd1234", "abcd1235", "abcd1236"):
        store.prepare(replace(spec, id=session), OWN)
        await store.make(session)
    kube.create("secrets", {"metadata": {"name": "somebody-elses"}})
    store.prepare(replace(spec, id="abcd1236"), OWN)  # starts just now
    await store.sweep({"a@b.org": ["abcd1234"]})
    left = {secret["metadata"]["name"] for secret in kube.secrets()}
    assert left == {"canfar-abcd1234", "canfar-abcd1236", "somebody-elses"}


async def test_a_new_hub_reads_what_there_is_in_one_list(
    store: SessionSecrets, spec: SessionSpec, kube: FakeKubernetes, api: Api
) -> None:
    for owner, session in (("a@b.org", "abcd1234"), ("first.last", "abcd1235")):
        store.prepare(replace(spec, owner=owner, id=session), OWN)
        await store.write(owner, [session], {EXPIRES: f"of {owner}"}, IDS)
    fresh = SessionSecrets(api, "sessions")
    before = kube.count("list", "secrets")
    assert [await fresh.read(owner) for owner in ("a@b.org", "first.last", "nobody")] == [
        "of a@b.org",
        "of first.last",
        "",
    ]
    assert kube.count("list", "secrets") == before + 1


async def test_a_cluster_that_does_not_answer_is_a_sentence_without_secrets(
    store: SessionSecrets, spec: SessionSpec, kube: FakeKubernetes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store.prepare(spec, OWN)
    kube.down()
    attempts = [
        store.write("a@b.org", ["abcd1234"], {CERTIFICATE: "secret-pem"}, IDS),
        store.remove("a@b.org", "abcd1235", []),
        store.sweep({}),
        store.read("a@b.org"),
    ]
    for attempt in attempts:
        with pytest.raises(OSError, match="the cluster does not take it") as failed:
            await attempt
        assert failed.value.strerror == "the cluster does not take it"
    kube.up()
    assert "secret-pem" not in caplog.text
    assert OWN not in caplog.text


async def test_the_renewer_gives_renews_takes_over_and_removes(
    store: SessionSecrets, spec: SessionSpec, kube: FakeKubernetes, api: Api
) -> None:
    clock = Clock()
    settings = Credentials(cred="https://cred.example.org/generate")
    renewer = Renewer(settings, Source(clock), store, now=clock)
    store.prepare(replace(spec, owner="astronomer"), OWN)
    await renewer.begin("astronomer", "abcd1234", IDS)
    first = data(kube)[CERTIFICATE]
    fresh = Renewer(settings, Source(clock), SessionSecrets(api, "sessions"), now=clock)
    await fresh.adopt({"astronomer": Running(frozenset({"abcd1234"}), IDS)})
    told = fresh.status("astronomer")
    assert told
    assert told.certificate
    assert told.certificate.there
    assert data(kube)[CERTIFICATE] == first
    await fresh.end("astronomer", "abcd1234")
    assert not kube.secrets()
