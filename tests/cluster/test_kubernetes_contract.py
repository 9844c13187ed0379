"""A real Kubernetes keeps the contract that the fake one keeps."""

from collections.abc import AsyncIterator

import pytest

# Before it is imported, so that its assertions say what they saw.
pytest.register_assert_rewrite("tests.support.kubernetes_contract")

from tests.support.kubernetes_contract import Cluster, KubernetesContract, real_cluster  # noqa: E402


@pytest.mark.cluster
class TestRealKubernetes(KubernetesContract):
    @pytest.fixture
    async def cluster(self, kubeconfig: str) -> AsyncIterator[Cluster]:
        async with real_cluster(kubeconfig) as cluster:
            yield cluster
