"""The fake Kubernetes keeps the contract that a real one keeps."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

# Before it is imported, so that its assertions say what they saw.
pytest.register_assert_rewrite("tests.support.kubernetes_contract")

from tests.support.kubernetes_api import FakeKubernetes  # noqa: E402
from tests.support.kubernetes_contract import Cluster, KubernetesContract, fake_cluster  # noqa: E402


class TestFakeKubernetes(KubernetesContract):
    @pytest.fixture
    def kube(self) -> Iterator[FakeKubernetes]:
        with FakeKubernetes() as kube:
            yield kube

    @pytest.fixture
    async def cluster(self, kube: FakeKubernetes, tmp_path: Path) -> AsyncIterator[Cluster]:
        async with fake_cluster(kube, str(kube.kubeconfig(tmp_path / "kubeconfig"))) as cluster:
            yield cluster


def test_no_side_can_change_the_contract() -> None:
    with pytest.raises(TypeError, match=r"Take away: test_a_pod_runs_and_is_ready\."):
        type("Weaker", (KubernetesContract,), {"test_a_pod_runs_and_is_ready": None})
