"""Proves a bundle on this machine: the first execution provider with the golden answers serves."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from app.bundle.golden import Comparison, Golden, replay
from app.bundle.manifest import Manifest
from app.bundle.signature import LabelPrediction, Signature
from app.bundle.store import Bundle
from app.bundle.tensors import Tensors, datatype_of
from app.engine.candidates import CPU_PROVIDER, Candidate
from app.engine.plan import Plan
from app.engine.ranking import Choice, Ranking, Rejection
from app.engine.session import Session
from app.errors import BundleCorrupt, BundleError, EngineError, ProofFailed

OpenSession = Callable[[bytes, Candidate, int], Session]

#: A batch that no kernel is tuned for: remainders are where batching goes wrong.
_ODD_ROWS: Final = 7


@dataclass(frozen=True)
class Proved:
    """An open session that gave the golden answers; whoever gets it closes it."""

    session: Session
    plan: Plan


@dataclass(frozen=True)
class Trial:
    """What every candidate is tried with."""

    model: bytes
    golden: Golden
    manifest: Manifest
    batch_rows: tuple[int, ...]
    intra_op_threads: int


@dataclass(frozen=True)
class Verdict:
    """What a trial showed. The session is open where the candidate was accepted, else None."""

    candidate: Candidate
    comparison: Comparison
    nodes_by_provider: Mapping[str, int] = field(default_factory=dict)
    proof_ms: float = 0.0
    session: Session | None = field(default=None, compare=False, repr=False)


def prove(
    bundle: Bundle,
    ranking: Ranking,
    intra_op_threads: int,
    open_session: OpenSession = Session.open,
) -> Proved:
    """Try the candidates in order; the first that meets the golden rows serves.

    Raises:
        BundleError: the bundle's files are not what was published, or disagree.
        ProofFailed: no candidate was accepted; the message has every reason.
    """
    golden, manifest = bundle.golden(), bundle.manifest
    _check_golden(golden, manifest.signature)
    _check_labels(golden, manifest)
    trial = Trial(
        bundle.model(), golden, manifest, batch_sizes(manifest, golden.rows), intra_op_threads
    )
    rejected = list(ranking.rejections)
    for choice in ranking.order:
        verdict = try_candidate(trial, choice.candidate, open_session)
        if verdict.session is not None:
            return Proved(verdict.session, _plan(trial, ranking, choice, verdict, rejected))
        rejected.append(
            Rejection(choice.candidate.provider, choice.candidate.device, verdict.comparison.reason)
        )
    reasons = "; ".join(
        f"{r.provider} on {r.device}: {r.reason}" if r.device else f"{r.provider} {r.reason}"
        for r in rejected
    )
    raise ProofFailed(f"no execution provider gave the golden answers: {reasons or 'none is here'}")


def batch_sizes(manifest: Manifest, golden_rows: int) -> tuple[int, ...]:
    """The batch sizes, in rows, at which golden rows mean something.

    Independent rows may be repeated and cut at will: 1, an odd number, and the most that will
    ever run. Rows that change each other are right only as the one batch that was recorded. A
    graph with a fixed batch runs at no other.
    """
    fixed = [spec.shape[0] for spec in manifest.signature.inputs if spec.shape]
    sizes = {size for size in fixed if isinstance(size, int) and size > 0}
    if sizes:
        return (min(sizes),)
    max_rows = manifest.batching.max_rows
    if not manifest.batching.row_independent:
        return (min(golden_rows, max_rows),)
    return tuple(sorted({1, min(_ODD_ROWS, max_rows), max_rows}))


def try_candidate(
    trial: Trial, candidate: Candidate, open_session: OpenSession = Session.open
) -> Verdict:
    """Open the model on one candidate and replay the golden rows; failures become the reason."""
    started = time.perf_counter()
    nodes: Mapping[str, int] = {}
    with ExitStack() as stack:
        try:
            session = open_session(trial.model, candidate, trial.intra_op_threads)
            stack.callback(session.close)
            nodes = dict(session.nodes_by_provider)
            problem = session.matches(trial.manifest.signature) or _idle(candidate, nodes)
            if problem is None:
                found = replay(session.run, trial.golden, trial.manifest, trial.batch_rows)
            else:
                found = Comparison(None, problem)
        except (EngineError, BundleError) as error:
            found = Comparison(None, str(error))
        elapsed_ms = (time.perf_counter() - started) * 1e3
        if not found.passed:
            return Verdict(candidate, found, nodes, elapsed_ms)
        stack.pop_all()  # Accepted: the session stays open.
        return Verdict(candidate, found, nodes, elapsed_ms, session)


def _idle(candidate: Candidate, nodes: Mapping[str, int]) -> str | None:
    """A session lists a provider that it was opened for even where that one runs nothing."""
    if candidate.provider == CPU_PROVIDER or nodes.get(candidate.provider, 0) > 0:
        return None
    return "runs no node of this model" if nodes else "does not tell which nodes it runs"


def _plan(
    trial: Trial,
    ranking: Ranking,
    choice: Choice,
    verdict: Verdict,
    rejected: Sequence[Rejection],
) -> Plan:
    candidate, nodes, found = choice.candidate, verdict.nodes_by_provider, verdict.comparison
    assert found.numeric_class is not None  # noqa: S101
    # Where two run equally many, the one that was opened.
    most = max(nodes, key=lambda p: (nodes[p], p == candidate.provider), default=candidate.provider)
    opened = most == candidate.provider
    return Plan(
        provider_requested=ranking.requested,
        provider_opened=candidate.provider,
        provider=most,
        device=candidate.device if opened else "cpu",
        device_name=candidate.device_name if opened else "",
        origin=candidate.origin if opened else "built-in",
        reason=f"{choice.reason}; {found.reason}",
        fallback=choice.fallback,
        numeric_class=found.numeric_class,
        max_abs_error=found.max_abs_error,
        nodes_by_provider=nodes,
        rejected=tuple(rejected),
        intra_op_threads=trial.intra_op_threads,
        max_rows=trial.manifest.batching.max_rows,
        checked_rows=trial.batch_rows,
        proof_ms=round(verdict.proof_ms, 3),
    )


def _check_golden(golden: Golden, signature: Signature) -> None:
    """Golden tensors must be those of the signature, or no replay could be judged."""
    for side, tensors, specs in (
        ("input", golden.inputs, signature.inputs),
        ("output", golden.outputs, signature.outputs),
    ):
        if _datatypes(tensors) != {spec.name: spec.datatype for spec in specs}:
            raise BundleCorrupt(f"golden {side}s are not those of the signature")


def _check_labels(golden: Golden, manifest: Manifest) -> None:
    """Golden labels must be the names that the manifest gives to the golden scores."""
    for prediction in manifest.signature.predictions:
        if not isinstance(prediction, LabelPrediction):
            continue
        labels = golden.outputs[prediction.tensor].reshape(-1)
        if not set(labels) <= set(prediction.labels):
            raise BundleCorrupt(f"golden {prediction.name!r} has labels that the manifest has not")
        scores = golden.outputs.get(prediction.scores_tensor or "")
        if scores is None or scores.ndim != 2 or scores.shape[1] != len(prediction.labels):
            continue
        named = np.array(prediction.labels, dtype=object)[scores.argmax(axis=1)]
        ranked = np.sort(scores, axis=1)
        clear = ranked[:, -1] - ranked[:, -2] > manifest.tie_margin
        if (named != labels)[clear].any():
            raise BundleCorrupt(f"golden {prediction.name!r} is not the label of the best score")


def _datatypes(tensors: Tensors) -> dict[str, str]:
    try:
        return {name: datatype_of(array) for name, array in tensors.items()}
    except TypeError:
        return {}
