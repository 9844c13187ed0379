"""What the fake Kubernetes offers beyond the contract: faults, outages and pod lives at a test's command."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.kubernetes_api import Behaviour, Crash, FakeKubernetes, Fault, Pull
from tests.support.ports import free_port
from tests.support.stack import ROOT, until

SPACE = "/api/v1/namespaces/sessions"
Object = dict[str, Any]


@pytest.fixture
def kube() -> Iterator[FakeKubernetes]:
    with FakeKubernetes() as kube:
        yield kube


@pytest.fixture
async def http(kube: FakeKubernetes) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(kube.url) as session:
        yield session


def pod(name: str, **spec: Any) -> Object:
    container = {"name": "main", "image": "example.org/a:1"}
    return {"metadata": {"name": name}, "spec": {"containers": [container], **spec}}


def job(name: str, **spec: Any) -> Object:
    template = {"spec": pod("x", restartPolicy="Never")["spec"], "metadata": {"labels": {"of": name}}}
    return {"metadata": {"name": name}, "spec": {"template": template, **spec}}


def secret(name: str) -> Object:
    return {"metadata": {"name": name}}


def status(kube: FakeKubernetes, name: str) -> Object:
    found = kube.get("pods", name)
    return found["status"] if found else {}


def waits_for(kube: FakeKubernetes, name: str) -> str:
    (container,) = status(kube, name).get("containerStatuses") or [{}]
    return str(container.get("state", {}).get("waiting", {}).get("reason", ""))


def is_ready(kube: FakeKubernetes, name: str) -> bool:
    conditions = status(kube, name).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


async def lines(response: aiohttp.ClientResponse) -> list[Object]:
    return [json.loads(line) async for line in response.content]


# ---- faults


async def test_an_answer_is_lost_though_the_creation_took_effect(
    kube: FakeKubernetes, http: aiohttp.ClientSession
) -> None:
    kube.fault(verb="create", resource="secrets", took_effect=True, drop=True)
    with pytest.raises(aiohttp.ClientError):
        await http.post(f"{SPACE}/secrets", json=secret("one"))
    async with http.post(f"{SPACE}/secrets", json=secret("one")) as again:
        assert again.status == 409
    assert kube.count("create", "secrets") == 2


async def test_a_dropped_request_took_no_effect(kube: FakeKubernetes, http: aiohttp.ClientSession) -> None:
    kube.fault(verb="create", resource="secrets", drop=True)
    with pytest.raises(aiohttp.ClientError):
        await http.post(f"{SPACE}/secrets", json=secret("one"))
    assert kube.secrets() == []


async def test_an_answer_that_is_late_comes_when_the_fault_is_healed(
    kube: FakeKubernetes, http: aiohttp.ClientSession
) -> None:
    fault = kube.fault(verb="create", resource="secrets", took_effect=True, delay=3600)
    late = asyncio.create_task(http.post(f"{SPACE}/secrets", json=secret("one")))
    await asyncio.to_thread(until, kube.secrets, "the creation")
    assert not late.done()
    kube.heal(fault)
    assert (await late).status == 201


async def test_a_request_takes_effect_late_although_nobody_waits(
    kube: FakeKubernetes, http: aiohttp.ClientSession
) -> None:
    kube.fault(verb="create", resource="secrets", name="one", delay=3600)
    given_up = asyncio.create_task(http.post(f"{SPACE}/secrets", json=secret("one")))
    await asyncio.to_thread(until, lambda: kube.count("create", "secrets"), "the request")
    given_up.cancel()
    await asyncio.wait([given_up])
    assert kube.secrets() == []
    kube.heal()
    until(kube.secrets, "the creation")


@pytest.mark.parametrize("code", [403, 410, 429, 500, 503])
async def test_a_status_is_answered_as_often_as_told(
    kube: FakeKubernetes, http: aiohttp.ClientSession, code: int
) -> None:
    kube.fault(Fault(verb="list", resource="pods", status=code, retry_after=7, times=2))
    for _ in range(2):
        async with http.get(f"{SPACE}/pods") as answer:
            assert answer.status == code
            assert answer.headers["Retry-After"] == "7"
            assert (await answer.json())["code"] == code
    async with http.get(f"{SPACE}/secrets") as other, http.get(f"{SPACE}/pods") as third:
        assert (other.status, third.status) == (200, 200)


async def test_garbage_is_answered_until_it_is_healed(
    kube: FakeKubernetes, http: aiohttp.ClientSession
) -> None:
    kube.fault(verb="get", garbage=b"<html>", times=None)
    kube.create("secrets", secret("one"))
    for _ in range(3):
        async with http.get(f"{SPACE}/secrets/one") as answer:
            assert await answer.read() == b"<html>"
    kube.heal()
    async with http.get(f"{SPACE}/secrets/one") as answer:
        assert (await answer.json())["metadata"]["name"] == "one"


# ---- watches


async def test_watches_are_dropped_and_see_what_they_missed(
    kube: FakeKubernetes, http: aiohttp.ClientSession
) -> None:
    async with http.get(f"{SPACE}/secrets") as listed:
        version = (await listed.json())["metadata"]["resourceVersion"]
    query = {"watch": "1", "resourceVersion": version}
    async with http.get(f"{SPACE}/secrets", params=query) as watching:
        assert kube.watching("secrets") == 1
        kube.drop_watches()
        with pytest.raises(aiohttp.ClientPayloadError):
            await watching.read()
    kube.create("secrets", secret("one"))
    async with http.get(f"{SPACE}/secrets", params={**query, "timeoutSeconds": "0.1"}) as watching:
        assert [seen["type"] for seen in await lines(watching)] == ["ADDED"]
    until(lambda: kube.watching("secrets") == 0, "no watch open")


@pytest.mark.parametrize("by_status", [False, True])
async def test_who_watches_from_before_a_compaction_is_told(
    kube: FakeKubernetes, http: aiohttp.ClientSession, by_status: bool
) -> None:
    kube.create("secrets", secret("one"))
    kube.compact(by_status=by_status)
    async with http.get(f"{SPACE}/secrets", params={"watch": "1", "resourceVersion": "1"}) as answer:
        if by_status:
            assert answer.status == 410
            found = await answer.json()
        else:
            assert answer.status == 200
            (event,) = await lines(answer)
            assert event["type"] == "ERROR"
            found = event["object"]
    assert (found["code"], found["reason"]) == (410, "Expired")
    async with http.get(f"{SPACE}/secrets") as listed:
        version = (await listed.json())["metadata"]["resourceVersion"]
    query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": "0.1"}
    async with http.get(f"{SPACE}/secrets", params=query) as answer:
        assert await lines(answer) == []


async def test_bookmarks_come_on_demand_and_at_the_end(
    kube: FakeKubernetes, http: aiohttp.ClientSession
) -> None:
    made = kube.create("secrets", secret("one"))
    version = made["metadata"]["resourceVersion"]
    query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": "1", "allowWatchBookmarks": "true"}
    async with http.get(f"{SPACE}/pods", params=query) as watching:
        other = kube.create("secrets", secret("two"))
        kube.bookmark()
        seen = await lines(watching)
    assert [event["type"] for event in seen] == ["BOOKMARK", "BOOKMARK"]
    assert seen[0]["object"]["metadata"]["resourceVersion"] == other["metadata"]["resourceVersion"]
    assert seen[0]["object"]["kind"] == "Pod"


async def test_a_flood_of_events_is_seen(kube: FakeKubernetes, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{SPACE}/events") as listed:
        version = (await listed.json())["metadata"]["resourceVersion"]
    kube.flood(2000)
    query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": "1"}
    async with http.get(f"{SPACE}/events", params=query) as watching:
        seen = await lines(watching)
    assert len(seen) == 2000
    assert seen[-1]["object"]["message"] == "Event 2000 of 2000."


async def test_a_server_that_is_down_keeps_what_it_has(
    kube: FakeKubernetes, http: aiohttp.ClientSession
) -> None:
    kube.create("secrets", secret("one"))
    for _ in range(2):
        async with http.get(f"{SPACE}/secrets", params={"watch": "1"}) as watching:
            kube.down()
            with pytest.raises(aiohttp.ClientPayloadError):
                await watching.read()
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get(f"{SPACE}/secrets")
        kube.up()
        async with http.get(f"{SPACE}/secrets") as answer:
            assert [item["metadata"]["name"] for item in (await answer.json())["items"]] == ["one"]


# ---- pods


def test_a_pod_waits_at_each_step_until_it_behaves_anew(kube: FakeKubernetes) -> None:
    kube.behave("slow", Behaviour(unschedulable="0/1 nodes are available."))
    kube.create("pods", pod("slow"))
    until(lambda: kube.events("slow") == ["FailedScheduling"], "no node")
    kube.behave("slow", Behaviour(pull=Pull(failure="ErrImagePull")))
    until(lambda: waits_for(kube, "slow") == "ErrImagePull", "no image")
    kube.behave("slow", Behaviour(pull=Pull(size=123), ready_seconds=None))
    until(lambda: status(kube, "slow")["phase"] == "Running", "running")
    assert not is_ready(kube, "slow")
    kube.behave("slow", Behaviour())
    until(lambda: is_ready(kube, "slow"), "ready")
    events = kube.all("events")
    assert any(event["message"].endswith("Image size: 123 bytes.") for event in events)
    kube.behave("slow", Behaviour(crash=Crash(code=137, reason="OOMKilled", times=1)))
    until(lambda: status(kube, "slow")["containerStatuses"][0]["restartCount"] == 1, "a restart")
    until(lambda: is_ready(kube, "slow"), "ready again")
    last = status(kube, "slow")["containerStatuses"][0]["lastState"]["terminated"]
    assert last["reason"] == "OOMKilled"


def test_a_node_that_goes_takes_the_readiness_of_its_pods(kube: FakeKubernetes) -> None:
    kube.create("pods", pod("one"))
    until(lambda: is_ready(kube, "one"), "ready")
    kube.node_ready("node-1", False)
    assert not is_ready(kube, "one")
    assert status(kube, "one")["phase"] == "Running"
    assert "NodeNotReady" in kube.events("one")
    kube.delete("pods", "one", grace=1)
    kube.create("pods", pod("two"))
    found = kube.get("pods", "one")
    assert found
    assert "deletionTimestamp" in found["metadata"]
    kube.node_ready("node-1", True)
    until(lambda: kube.get("pods", "one") is None, "the deletion")
    until(lambda: is_ready(kube, "two"), "ready")


def test_a_program_runs_as_long_as_its_pod(kube: FakeKubernetes) -> None:
    running: dict[str, str] = {}

    def serve(pod: Object) -> int | None:
        running[pod["metadata"]["name"]] = pod["status"]["podIP"]
        return 9 if pod["metadata"]["name"] == "dies" else None

    def stopped(pod: Object) -> None:
        del running[pod["metadata"]["name"]]

    kube.behave(lambda pod: True, Behaviour(address="", serve=serve, stopped=stopped))
    for name in ("one", "two"):
        kube.create("pods", pod(name))
        until(lambda name=name: is_ready(kube, name), "ready")
    assert len(set(running.values())) == 2
    assert running == {name: status(kube, name)["podIP"] for name in ("one", "two")}
    kube.delete("pods", "one", grace=0)
    until(lambda: "one" not in running, "the end of one")
    kube.create("pods", pod("dies", restartPolicy="Never"))
    until(lambda: status(kube, "dies")["phase"] == "Failed", "a failure")
    assert status(kube, "dies")["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 9
    assert "dies" not in running


def test_programs_end_with_the_server() -> None:
    ended = threading.Event()
    with FakeKubernetes(behaviour=Behaviour(serve=lambda pod: None, stopped=lambda pod: ended.set())) as kube:
        kube.create("pods", pod("one"))
        until(lambda: is_ready(kube, "one"), "ready")
    assert ended.is_set()


def test_a_quota_that_is_lifted_lets_jobs_go_on(kube: FakeKubernetes) -> None:
    kube.behave("of=later", Behaviour(crash=Crash(code=0)))
    kube.quota()
    kube.create("jobs", job("later"))
    until(lambda: "FailedCreate" in kube.events("later"), "a refusal")
    assert kube.pods() == []
    kube.quota("")
    until(lambda: "Completed" in kube.events("later"), "the end")


def test_a_job_tries_again_up_to_its_limit_and_expires_when_told(kube: FakeKubernetes) -> None:
    kube.behave("of=fails", Behaviour(crash=Crash(code=1)))
    kube.create("jobs", job("fails", backoffLimit=2, ttlSecondsAfterFinished=60))
    kube.create("jobs", job("stays"))
    until(lambda: "BackoffLimitExceeded" in kube.events("fails"), "the end")
    assert sum(pod["metadata"]["labels"]["job-name"] == "fails" for pod in kube.pods()) == 3
    assert kube.expire_jobs() == 1
    assert kube.get("jobs", "fails") is None
    until(lambda: len(kube.pods()) == 1, "its pods gone")


def test_a_pod_that_a_test_declares_over_is_over(kube: FakeKubernetes) -> None:
    ended = threading.Event()
    kube.behave("one", Behaviour(serve=lambda pod: None, stopped=lambda pod: ended.set()))
    kube.create("pods", pod("one"))
    until(lambda: is_ready(kube, "one"), "ready")
    kube.edit("pods", "one", {"status": {"phase": "Failed", "reason": "Evicted"}})
    until(ended.is_set, "the end of its program")
    assert status(kube, "one")["reason"] == "Evicted"
    with pytest.raises(KeyError):
        kube.edit("pods", "none", {})


def test_padded_objects_are_as_large_as_real_ones() -> None:
    with FakeKubernetes(padding=True) as kube:
        kube.create("secrets", secret("one"))
        assert 4000 < len(json.dumps(kube.get("secrets", "one"))) < 7000


def test_it_runs_as_a_process_of_its_own(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "tests.support.kubernetes_api", "--port", str(port)]
    command += ["--pod-seconds", "0.2", "--kubeconfig", str(tmp_path / "kubeconfig")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        url = process.stdout.readline().strip()
        assert url == f"http://127.0.0.1:{port}"
        assert json.loads((tmp_path / "kubeconfig").read_text())["clusters"][0]["cluster"]["server"] == url
        began = time.time()
        counts = asyncio.run(_measure(url))
        made, ready = counts["times"]["one"]
        assert began <= made
        assert ready - made >= 0.2
        assert counts["counts"]["create pods"] == 1
    finally:
        process.terminate()
        assert process.wait(60) == 0


async def _measure(url: str) -> Object:
    async with aiohttp.ClientSession(url) as http:
        await http.post(f"{SPACE}/pods", json=pod("one"))
        times: Object = {}
        while not times:
            async with http.get("/-/times") as answer:
                times = await answer.json()
        async with http.get("/-/counts") as answer:
            return {"times": times, "counts": await answer.json()}
