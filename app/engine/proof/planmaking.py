"""From what was asked for and what a trial showed to the plan. Nothing is run here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from app.bundle.manifest import Precision
from app.bundle.operators import operators
from app.bundle.store import Bundle
from app.engine.proof.choosing import Configuration, inline_rows
from app.engine.proof.plan import Plan
from app.engine.proof.trial import proof_sizes, rows_vary
from app.engine.proof.verdict import Verdict
from app.engine.providers.candidates import CPU_PROVIDER, Candidate
from app.engine.providers.ranking import Choice, Ranking, Rejection

WantedPrecision = Literal["fp32", "auto", "int8", "fp16"]

#: How long a run takes may depend on the data where one of these is in the graph.
_CONTROL_FLOW: Final = frozenset({"If", "Loop", "Scan", "SequenceMap"})


@dataclass(frozen=True)
class ProofRequest:
    """What is asked for of one version."""

    bundle: Bundle
    ranking: Ranking
    precision: WantedPrecision = "fp32"
    #: Something is being served meanwhile.
    background: bool = False
    cancelled: Callable[[], bool] = lambda: False

    def graphs(self) -> list[Precision]:
        """Those that the bundle has."""
        return ["fp32", *self.bundle.manifest.variants]

    def tiers(self) -> list[list[Precision]]:
        """Which graphs to try, the wanted ones first; those of one tier compete."""
        if self.precision == "auto":
            return [self.graphs()]
        if self.precision == "fp32" or self.precision not in self.graphs():
            return [["fp32"]]
        return [[self.precision], ["fp32"]]


def make_plan(
    request: ProofRequest,
    choice: Choice,
    verdict: Verdict,
    chosen: Configuration,
    rejected: Sequence[Rejection],
) -> Plan:
    """The plan of a candidate that was accepted."""
    assert verdict.numeric_class is not None  # noqa: S101 (it was accepted)
    candidate = choice.candidate
    most = runs_most(verdict.nodes_by_provider, candidate)
    opened = most == candidate.provider
    alike = runs_alike(request.bundle, verdict)
    return Plan(
        provider_requested=request.ranking.requested,
        provider_opened=candidate.provider,
        provider=most,
        device=candidate.device if opened else "cpu",
        device_name=candidate.device_name if opened else "",
        origin=candidate.origin if opened else "built-in",
        reason="; ".join([choice.reason, *_precision_note(request, verdict), verdict.reason]),
        fallback=choice.fallback,
        numeric_class=verdict.numeric_class,
        precision=verdict.precision,
        max_abs_error=verdict.max_abs_error,
        nodes_by_provider=verdict.nodes_by_provider,
        rejected=tuple(rejected),
        intra_op_threads=chosen.intra_op_threads,
        instances=chosen.instances,
        max_rows=chosen.rows,
        inline_rows=inline_rows(verdict.costs, chosen) if alike else 0,
        checked_rows=proof_sizes(
            request.bundle.manifest, request.bundle.golden().rows, chosen.rows
        ),
        costs=verdict.costs,
        proof_ms=verdict.proof_ms,
        calibration_ms=verdict.calibration_ms,
        source="cache" if verdict.kept else "measured",
    )


def runs_most(nodes: Mapping[str, int], candidate: Candidate) -> str:
    """The provider of most nodes; where two have equally many, the one that was opened."""
    opened = candidate.provider
    return max(nodes, key=lambda provider: (nodes[provider], provider == opened), default=opened)


def runs_alike(bundle: Bundle, verdict: Verdict) -> bool:
    """Whether every run of so many rows takes about as long, and may go on beside others."""
    manifest = bundle.manifest
    if verdict.candidate.provider != CPU_PROVIDER or not rows_vary(manifest):
        return False
    inner = [dim for spec in manifest.signature.inputs for dim in spec.shape[1:]]
    kinds = {op_type for _, op_type in operators(bundle.model(verdict.precision))}
    return all(isinstance(dim, int) for dim in inner) and not kinds & _CONTROL_FLOW


def _precision_note(request: ProofRequest, verdict: Verdict) -> list[str]:
    wanted = request.precision
    if wanted in {"auto", verdict.precision}:
        return []
    if wanted not in request.graphs():
        return [f"fp32, as the bundle has no {wanted} graph"]
    return [f"fp32, as the {wanted} graph was rejected"]
