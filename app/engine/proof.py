"""Proves a bundle on this machine: of the providers with the golden answers the fastest serves.

Candidates are tried apart (`app.engine.trial`, in a child process); the session that is opened
here afterwards replays the golden rows once more before anybody gets it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from app.bundle.golden import Comparison, replay
from app.bundle.manifest import Precision
from app.bundle.operators import operators
from app.bundle.store import Bundle
from app.engine.candidates import Candidate, known_device
from app.engine.child import Cancelled, run_job
from app.engine.choosing import Configuration, fastest_first, inline_rows
from app.engine.plan import Plan
from app.engine.ranking import Choice, Ranking, Rejection
from app.engine.session import Session
from app.engine.trial import (
    OpenSession,
    TrialJob,
    configuration_of,
    proof_sizes,
    rows_vary,
    try_out,
    unfit,
)
from app.engine.verdict import Verdict
from app.engine.verdicts import Verdicts
from app.errors import EngineError, ProofFailed

logger = logging.getLogger(__name__)

WantedPrecision = Literal["fp32", "auto", "int8", "fp16"]
IsCancelled = Callable[[], bool]
#: A job and its time limit in seconds to a verdict.
TryOut = Callable[[TrialJob, float, IsCancelled], Verdict]

#: How long a run takes may depend on the data where one of these is in the graph.
_CONTROL_FLOW: Final = frozenset({"If", "Loop", "Scan", "SequenceMap"})
#: Besides its budget: opening sessions with other threads, and the run that is under way.
_CALIBRATION_EXTRA_S: Final = 30.0


@dataclass(frozen=True)
class Proved:
    """An open session that gave the golden answers; whoever gets it closes it."""

    session: Session
    plan: Plan


@dataclass(frozen=True)
class ProofOptions:
    """How much a proof may take.

    Attributes:
        cores: that all runs of a model together may use.
        budget_ms: time to measure a model's costs; 0 for none, then the first that is right serves.
        trial_timeout_s: time for one candidate; None for its own limit.
    """

    cores: int
    budget_ms: int = 1500
    trial_timeout_s: float | None = None


@dataclass(frozen=True)
class ProofRequest:
    """What is asked for of one version."""

    bundle: Bundle
    ranking: Ranking
    precision: WantedPrecision = "fp32"
    #: Something is being served meanwhile.
    background: bool = False
    cancelled: IsCancelled = lambda: False

    def tiers(self) -> list[list[Precision]]:
        """Which graphs to try, the wanted ones first; those of one tier compete."""
        there: list[Precision] = ["fp32", *self.bundle.manifest.variants]
        if self.precision == "auto":
            return [there]
        wanted: list[list[Precision]] = [[self.precision]] if self.precision in there else []
        return wanted if wanted == [["fp32"]] else [*wanted, ["fp32"]]


def try_in_child(job: TrialJob, timeout_s: float, cancelled: IsCancelled) -> Verdict:
    """Try a candidate in a child process; one that crashes or hangs is a verdict like any other.

    Raises:
        Cancelled: nobody wants the verdict any longer.
    """
    try:
        return Verdict.model_validate(run_job(job.model_dump(mode="json"), timeout_s, cancelled))
    except Cancelled:
        raise
    except EngineError as error:
        return Verdict(
            candidate=job.candidate,
            precision=job.precision,
            numeric_class=None,
            reason=str(error),
            background=job.background,
            passing=True,
        )


def try_here(job: TrialJob, timeout_s: float, cancelled: IsCancelled) -> Verdict:  # noqa: ARG001
    """Try a candidate in this process, for hosts of the engine that trust their providers."""
    return try_out(job)


class Prover:
    """Finds the provider that serves a version.

    Args:
        trial: tries one candidate.
        verdicts: where verdicts are kept, or None.
        shipped: plans that were made elsewhere, by digest.
        open_session: opens the session that serves.
    """

    def __init__(
        self,
        options: ProofOptions,
        trial: TryOut = try_in_child,
        verdicts: Verdicts | None = None,
        shipped: Mapping[str, Plan] | None = None,
        open_session: OpenSession = Session.open,
    ) -> None:
        self._options = options
        self._try_out = trial
        self._verdicts = verdicts
        self._shipped = shipped or {}
        self._open_session = open_session

    def prove(self, request: ProofRequest) -> Proved:
        """Try the candidates, group by group; the fastest that is right serves. Blocks.

        Raises:
            BundleError: the bundle's files are not what was published.
            ProofFailed: no candidate was accepted; the message has every reason.
            Cancelled: the request was.
        """
        shipped = self._shipped.get(request.bundle.digest)
        proved = None if shipped is None else self._prove_shipped(request, shipped)
        if proved is not None:
            return proved
        rejected = list(request.ranking.rejections)
        for group in request.ranking.groups():
            for tier in request.tiers():
                verdicts = self._try_all(request, group, tier)
                rejected += [_rejection(v, v.reason) for v in verdicts if not v.accepted]
                proved = self._open_fastest(request, group, verdicts, rejected)
                if proved is not None:
                    return proved
        raise ProofFailed(f"no execution provider gave the golden answers: {_listed(rejected)}")

    def _try_all(
        self, request: ProofRequest, group: Sequence[Choice], tier: Sequence[Precision]
    ) -> list[Verdict]:
        """A verdict on each candidate with each graph; without calibration the first right one
        ends it."""
        budget_ms = self._options.budget_ms // (len(group) * len(tier))
        found: list[Verdict] = []
        for choice in group:
            for precision in tier:
                bundle = request.bundle
                job = TrialJob(
                    model_path=bundle.path.parent,
                    version=bundle.manifest.version,
                    digest=bundle.digest,
                    candidate=choice.candidate,
                    precision=precision,
                    cores=self._options.cores,
                    budget_ms=budget_ms,
                    background=request.background,
                )
                verdict = self._verdict(job, request.cancelled)
                found.append(verdict)
                if verdict.accepted and not self._options.budget_ms:
                    return found
        return found

    def _verdict(self, job: TrialJob, cancelled: IsCancelled) -> Verdict:
        limit_s = self._options.trial_timeout_s or known_device(job.candidate).trial_s
        if job.budget_ms:
            limit_s += job.budget_ms / 1e3 + _CALIBRATION_EXTRA_S
        kept = self._verdicts
        if kept is None:
            return self._try_out(job, limit_s, cancelled)
        with kept.turn(job, limit_s):
            verdict = kept.find(job)
            if verdict is None:
                verdict = self._try_out(job, limit_s, cancelled)
                kept.keep(job, verdict)
            else:
                verdict = verdict.model_copy(update={"kept": True})
        return verdict

    def _open_fastest(
        self,
        request: ProofRequest,
        group: Sequence[Choice],
        verdicts: Sequence[Verdict],
        rejected: list[Rejection],
    ) -> Proved | None:
        manifest = request.bundle.manifest
        order = fastest_first(verdicts, self._options.cores, manifest.batching.max_rows)
        for place, verdict in enumerate(order):
            choice = next(c for c in group if c.candidate == verdict.candidate)
            chosen = configuration_of(manifest, verdict.costs, self._options.cores)
            session, found = self._open_here(
                request.bundle, verdict.candidate, verdict.precision, chosen
            )
            if session is None:
                rejected.append(
                    _rejection(verdict, f"was right in a trial, but here: {found.reason}")
                )
                continue
            slower = [_rejection(v, "right, but slower") for v in order[place + 1 :]]
            plan = _plan(request, choice, verdict, chosen, [*rejected, *slower])
            return Proved(session, plan)
        return None

    def _open_here(
        self, bundle: Bundle, candidate: Candidate, precision: Precision, chosen: Configuration
    ) -> tuple[Session | None, Comparison]:
        """The session that is to serve, or None and why not."""
        manifest, golden = bundle.manifest.variant(precision), bundle.golden()
        session: Session | None = None
        try:
            session = self._open_session(
                bundle.model(precision), candidate, chosen.intra_op_threads
            )
            problem = unfit(session, manifest, candidate)
            sizes = proof_sizes(manifest, golden.rows, chosen.rows)
            found = Comparison(None, problem) if problem else None
            found = found or replay(session.run, golden, manifest, sizes)
        except EngineError as error:
            found = Comparison(None, str(error))
        if found.passed:
            return session, found
        if session is not None:
            session.close()
        return None, found

    def _prove_shipped(self, request: ProofRequest, plan: Plan) -> Proved | None:
        """Obey a plan from elsewhere where it fits; else say why not, and go the usual way."""
        found = Comparison(None, f"{plan.provider_opened} is not among the candidates here")
        cores = self._options.cores
        choices = [c for c in request.ranking.order if c.candidate.provider == plan.provider_opened]
        choices.sort(key=lambda c: c.candidate.device != plan.device)
        if plan.intra_op_threads > cores:
            found = Comparison(None, f"it wants {plan.intra_op_threads} cores, here are {cores}")
        elif choices:
            instances = min(plan.instances, cores // plan.intra_op_threads)
            chosen = Configuration(plan.intra_op_threads, instances, plan.max_rows, None)
            session, found = self._open_here(
                request.bundle, choices[0].candidate, plan.precision, chosen
            )
            if session is not None:
                update = {
                    "source": "shipped",
                    "instances": instances,
                    "provider_requested": request.ranking.requested,
                    "fallback": choices[0].fallback,
                }
                return Proved(session, plan.model_copy(update=update))
        logger.warning(
            "a shipped plan does not fit",
            extra={"model": request.bundle.manifest.name, "reason": found.reason},
        )
        return None


def _plan(
    request: ProofRequest,
    choice: Choice,
    verdict: Verdict,
    chosen: Configuration,
    rejected: Sequence[Rejection],
) -> Plan:
    candidate, nodes = choice.candidate, verdict.nodes_by_provider
    assert verdict.numeric_class is not None  # noqa: S101 (it was accepted)
    # Where two run equally many, the one that was opened.
    most = max(nodes, key=lambda p: (nodes[p], p == candidate.provider), default=candidate.provider)
    opened = most == candidate.provider
    manifest = request.bundle.manifest
    inline = inline_rows(verdict.costs, chosen) if _runs_alike(request.bundle, verdict) else 0
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
        nodes_by_provider=nodes,
        rejected=tuple(rejected),
        intra_op_threads=chosen.intra_op_threads,
        instances=chosen.instances,
        max_rows=chosen.rows,
        inline_rows=inline,
        checked_rows=proof_sizes(manifest, request.bundle.golden().rows, chosen.rows),
        costs=verdict.costs,
        proof_ms=verdict.proof_ms,
        calibration_ms=verdict.calibration_ms,
        source="cache" if verdict.kept else "measured",
    )


def _precision_note(request: ProofRequest, verdict: Verdict) -> list[str]:
    wanted = request.precision
    if wanted in {"auto", verdict.precision}:
        return []
    if wanted not in request.bundle.manifest.variants:
        return [f"fp32, as the bundle has no {wanted} graph"]
    return [f"fp32, as the {wanted} graph was rejected"]


def _runs_alike(bundle: Bundle, verdict: Verdict) -> bool:
    """Whether each run of so many rows takes about as long as any other."""
    manifest = bundle.manifest
    if verdict.candidate.device != "cpu" or not rows_vary(manifest):
        return False
    inner = [dim for spec in manifest.signature.inputs for dim in spec.shape[1:]]
    kinds = {op_type for _, op_type in operators(bundle.model(verdict.precision))}
    return all(isinstance(dim, int) for dim in inner) and not kinds & _CONTROL_FLOW


def _rejection(verdict: Verdict, reason: str) -> Rejection:
    prefix = "" if verdict.precision == "fp32" else f"{verdict.precision}: "
    return Rejection(verdict.candidate.provider, verdict.candidate.device, prefix + reason)


def _listed(rejected: Sequence[Rejection]) -> str:
    reasons = [
        f"{r.provider} on {r.device}: {r.reason}" if r.device else f"{r.provider} {r.reason}"
        for r in rejected
    ]
    return "; ".join(reasons) or "none is here"
