"""What `/metrics` says, read by Prometheus' own parser."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Figures:
    """Samples by name and labels."""

    samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    @classmethod
    def of(cls, client: httpx.Client) -> "Figures":
        return cls.of_text(client.get("/metrics").text)

    @classmethod
    def of_text(cls, page: str) -> "Figures":
        families = text_string_to_metric_families(page)
        samples = [sample for family in families for sample in family.samples]
        found = {(s.name, frozenset(s.labels.items())): s.value for s in samples}
        assert len(found) == len(samples), "a series is exposed twice"
        return cls(found)

    def total(self, name: str, **labels: str) -> float:
        """Sum of the series of this name that have these labels."""
        wanted = set(labels.items())
        return sum(v for (n, given), v in self.samples.items() if n == name and wanted <= given)

    def labels(self, name: str) -> list[dict[str, str]]:
        return [dict(given) for n, given in self.samples if n == name]

    def since(self, before: "Figures") -> Callable[..., float]:
        """How much a total has grown."""
        return lambda name, **labels: self.total(name, **labels) - before.total(name, **labels)
