"""Cost tables of this process's models, for versions that are just like the one before.

A new version is mostly the same graph with other weights. Measuring it beside the one that serves
would disturb requests and be disturbed by them, so it takes over the table of the last one.
"""

from dataclasses import dataclass
from typing import Final

from app.bundle.manifest import Precision
from app.engine.proof.plan import Cost
from app.engine.proof.planmaking import ProofRequest
from app.engine.proof.verdict import Verdict
from app.engine.providers.candidates import Candidate

_Key = tuple[object, ...]
#: Files of the same graph with other weights are of about the same size.
_SIZE_SHARE: Final = 0.01


@dataclass(frozen=True)
class _Table:
    """Costs, and what the graph was like that they were measured of."""

    costs: tuple[Cost, ...]
    facts: _Key
    size_bytes: int

    def holds_for(self, facts: _Key, size_bytes: int) -> bool:
        close = abs(size_bytes - self.size_bytes) <= _SIZE_SHARE * self.size_bytes
        return close and facts == self.facts


class Measured:
    """The last table of each model, candidate and graph."""

    def __init__(self) -> None:
        self._tables: dict[_Key, _Table] = {}

    def remember(self, request: ProofRequest, verdict: Verdict) -> None:
        precision = verdict.precision
        key = _key(request, verdict.candidate, precision)
        table = _Table(verdict.costs, _facts(request), _size_bytes(request, precision))
        self._tables[key] = table

    def costs_of(
        self, request: ProofRequest, candidate: Candidate, precision: Precision
    ) -> tuple[Cost, ...]:
        """The table to take over; empty where there is none, or where nothing serves meanwhile."""
        table = self._tables.get(_key(request, candidate, precision))
        if table is None or not request.background:
            return ()
        fits = table.holds_for(_facts(request), _size_bytes(request, precision))
        return table.costs if fits else ()


def _key(request: ProofRequest, candidate: Candidate, precision: Precision) -> _Key:
    place = (candidate.provider, candidate.device, candidate.device_index, candidate.library)
    return (request.bundle.manifest.name, *place, precision)


def _facts(request: ProofRequest) -> _Key:
    manifest = request.bundle.manifest
    tensors = (*manifest.signature.inputs, *manifest.signature.outputs)
    shapes = tuple((spec.name, spec.datatype, spec.shape) for spec in tensors)
    return (shapes, manifest.graph, manifest.batching)


def _size_bytes(request: ProofRequest, precision: Precision) -> int:
    manifest = request.bundle.manifest
    return manifest.files[manifest.model_file(precision)].size_bytes
