"""What a hub's metrics say, read as Prometheus reads them."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


class Metrics:
    """The answer of `/hub/metrics`."""

    def __init__(self, text: str) -> None:
        self.samples = [one for family in text_string_to_metric_families(text) for one in family.samples]

    def value(self, name: str, **labels: str) -> float | None:
        """The sample of that name and these labels; None if there is none."""
        return next((one.value for one in self.samples if (one.name, one.labels) == (name, labels)), None)

    def since(self, before: Metrics, name: str) -> dict[tuple[str, ...], float]:
        """By how much samples of that name have risen, by the values of their labels in the labels' order."""

        def values(metrics: Metrics) -> dict[tuple[str, ...], float]:
            found = (one for one in metrics.samples if one.name == name)
            return {tuple(one.labels[key] for key in sorted(one.labels)): one.value for one in found}

        old = values(before)
        risen = {key: value - old.get(key, 0) for key, value in values(self).items()}
        return {key: value for key, value in risen.items() if value}

    @property
    def own(self) -> list[tuple[str, dict[str, str]]]:
        """Names and labels of the project's own."""
        return [(one.name, dict(one.labels)) for one in self.samples if one.name.startswith("canfar_")]
