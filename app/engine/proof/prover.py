"""Proves a bundle on this machine: of the providers with the golden answers the fastest serves.

Candidates are tried apart (`trial.py`, in a child process); the session that is opened here
afterwards replays the golden rows once more before anybody gets it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from app.bundle.golden import Comparison, replay
from app.bundle.manifest import Precision
from app.bundle.tensors import Tensors
from app.engine.proof.child import Cancelled, NotStarted, run_job
from app.engine.proof.choosing import Configuration, fastest_first
from app.engine.proof.measured import Measured
from app.engine.proof.plan import Plan
from app.engine.proof.planmaking import ProofRequest, make_plan, runs_alike
from app.engine.proof.priority import step_back, stepping_back
from app.engine.proof.trial import OpenSession, TrialJob, configuration_of, proof_sizes, unfit
from app.engine.proof.verdict import Verdict
from app.engine.proof.verdicts import Verdicts
from app.engine.providers.candidates import Candidate, known_device
from app.engine.providers.ranking import Choice, Rejection
from app.engine.session import Session
from app.errors import EngineError, ProofFailed

logger = logging.getLogger(__name__)

IsCancelled = Callable[[], bool]
#: A job and its time limit in seconds to a verdict.
TryOut = Callable[[TrialJob, float, IsCancelled], Verdict]
#: A candidate with one of the bundle's graphs.
Competitor = tuple[Choice, Precision]

#: Besides its budget: opening sessions with other threads, and the run that is under way.
_CALIBRATION_EXTRA_S: Final = 30.0
_WARM_RUNS: Final = 2
#: What is being served goes first, so a trial beside it takes longer.
_BACKGROUND_PATIENCE: Final = 4.0


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


def try_in_child(job: TrialJob, timeout_s: float, cancelled: IsCancelled) -> Verdict:
    """Try a candidate in a child process; one that crashes or hangs is a verdict like any other.

    Raises:
        Cancelled: nobody wants the verdict any longer.
    """
    tried = True
    try:
        return Verdict.model_validate(run_job(job.model_dump(mode="json"), timeout_s, cancelled))
    except Cancelled:
        raise
    except ValidationError:
        reason = "told nonsense instead of a verdict"
    except EngineError as error:
        reason, tried = str(error), not isinstance(error, NotStarted)
    return Verdict(
        candidate=job.candidate,
        precision=job.precision,
        numeric_class=None,
        reason=reason,
        background=job.background,
        passing=True,
        tried=tried,
    )


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
        self._measured = Measured()

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
        search = _Search(request, self)
        proved = search.run()
        if proved is None and search.has_passing_troubles:
            # Nothing else is left, so what went wrong another day is tried again.
            search = _Search(request, self, anew=True)
            proved = search.run()
        if proved is None:
            listed = _listed(search.rejected)
            raise ProofFailed(f"no execution provider gave the golden answers: {listed}")
        return proved

    def remember(self, request: ProofRequest, verdict: Verdict) -> None:
        """Later versions of the same model may be just like this one."""
        self._measured.remember(request, verdict)

    def heats(self, request: ProofRequest) -> list[list[Competitor]]:
        """Who competes with whom, in order: a heat with a winner ends the search.

        Where nothing is measured nobody can be faster, and each stands alone.
        """
        heats = [
            [(choice, precision) for choice in group for precision in tier]
            for group in request.ranking.groups()
            for tier in request.tiers()
        ]
        if self._options.budget_ms:
            return heats
        return [[competitor] for heat in heats for competitor in heat]

    def verdict(
        self, request: ProofRequest, competitor: Competitor, share: int, *, anew: bool
    ) -> Verdict:
        """From what is kept, or by a trial.

        Args:
            share: of how many competitors this is one; they divide the budget.
            anew: try again what failed for reasons that may have passed.
        """
        choice, precision = competitor
        budget_ms = self._options.budget_ms
        job = TrialJob(
            model_path=request.bundle.path.parent,
            version=request.bundle.manifest.version,
            digest=request.bundle.digest,
            candidate=choice.candidate,
            precision=precision,
            cores=self._options.cores,
            budget_ms=max(1, budget_ms // share) if budget_ms else 0,
            background=request.background,
            costs=self._measured.costs_of(request, choice.candidate, precision),
        )
        limit_s = self._limit_s(job)
        kept = self._verdicts
        if kept is None:
            return self._try_out(job, limit_s, request.cancelled)
        with kept.turn(job, limit_s, request.cancelled):
            if request.cancelled():
                raise Cancelled("is not wanted any longer")
            found = kept.find(job)
            if found is not None and not (anew and found.passing):
                return found.model_copy(update={"kept": True})
            found = self._try_out(job, limit_s, request.cancelled)
            kept.keep(job, found)
        return found

    def _limit_s(self, job: TrialJob) -> float:
        limit_s = self._options.trial_timeout_s or known_device(job.candidate).trial_s
        if job.budget_ms:
            limit_s += job.budget_ms / 1e3 + _CALIBRATION_EXTRA_S
        return limit_s * (_BACKGROUND_PATIENCE if job.background else 1.0)

    def configuration(self, request: ProofRequest, verdict: Verdict) -> Configuration:
        return configuration_of(
            request.bundle.manifest, verdict.costs, self._options.cores, verdict.candidate.device
        )

    def fastest_first(self, request: ProofRequest, verdicts: Sequence[Verdict]) -> list[Verdict]:
        max_rows = request.bundle.manifest.batching.max_rows
        return fastest_first(verdicts, self._options.cores, max_rows)

    def open_here(
        self,
        request: ProofRequest,
        candidate: Candidate,
        precision: Precision,
        chosen: Configuration,
    ) -> tuple[Session | None, Comparison]:
        """The session that is to serve, or None; and what the golden rows showed."""
        # A session's own threads would step back with the one that opens it, for good.
        if request.background and chosen.intra_op_threads == 1:
            return stepping_back(lambda: self._open_here(request, candidate, precision, chosen))
        return self._open_here(request, candidate, precision, chosen)

    def _open_here(
        self,
        request: ProofRequest,
        candidate: Candidate,
        precision: Precision,
        chosen: Configuration,
    ) -> tuple[Session | None, Comparison]:
        bundle = request.bundle
        manifest, golden = bundle.manifest.variant(precision), bundle.golden()
        session: Session | None = None
        try:
            model = bundle.model(precision)
            session = self._open_session(model, candidate, chosen.intra_op_threads)
            problem = unfit(session, manifest, candidate)
            sizes = proof_sizes(manifest, golden.rows, chosen.rows)
            found = Comparison(None, problem) if problem else None
            found = found or replay(session.run, golden, manifest, sizes)
            if found.passed:
                _warm_up(session, golden.tiled(chosen.rows).inputs, chosen.instances)
        except EngineError as error:
            found = Comparison(None, str(error))
        except BaseException:
            if session is not None:
                session.close()
            raise
        if session is not None and not found.passed:
            session.close()
            session = None
        return session, found

    def _prove_shipped(self, request: ProofRequest, plan: Plan) -> Proved | None:
        """Obey a plan from elsewhere where it fits; else say why not, and go the usual way."""
        choice, reason = self._fits(request, plan)
        if choice is not None:
            batching = request.bundle.manifest.batching
            chosen = Configuration(
                plan.intra_op_threads,
                min(plan.instances, self._options.cores // plan.intra_op_threads),
                min(plan.max_rows, batching.max_rows),
                None,
            )
            session, found = self.open_here(request, choice.candidate, plan.precision, chosen)
            if session is not None:
                verdict = Verdict(
                    candidate=choice.candidate,
                    precision=plan.precision,
                    numeric_class=found.numeric_class,
                    reason=found.reason,
                    max_abs_error=found.max_abs_error,
                    nodes_by_provider=dict(session.nodes_by_provider),
                    costs=plan.costs,
                )
                made = make_plan(request, choice, verdict, chosen, plan.rejected)
                inline = plan.inline_rows if runs_alike(request.bundle, verdict) else 0
                update = {"source": "shipped", "inline_rows": min(inline, chosen.rows)}
                return Proved(session, made.model_copy(update=update))
            reason = found.reason
        logger.warning(
            "a shipped plan does not fit",
            extra={"model": request.bundle.manifest.name, "reason": reason},
        )
        return None

    def _fits(self, request: ProofRequest, plan: Plan) -> tuple[Choice | None, str]:
        cores = self._options.cores
        if plan.intra_op_threads > cores:
            return None, f"it wants {plan.intra_op_threads} cores, here are {cores}"
        if plan.precision not in request.graphs():
            return None, f"the bundle has no {plan.precision} graph"
        same = [c for c in request.ranking.order if c.candidate.provider == plan.provider_opened]
        if not same:
            return None, f"{plan.provider_opened} is not among the candidates here"
        return min(same, key=lambda choice: choice.candidate.device != plan.device), ""


class _Search:
    """One way through the candidates."""

    def __init__(self, request: ProofRequest, prover: Prover, *, anew: bool = False) -> None:
        self._request = request
        self._prover = prover
        self._anew = anew
        self.rejected: list[Rejection] = list(request.ranking.rejections)
        self.has_passing_troubles = False

    def run(self) -> Proved | None:
        """The winner, open."""
        for heat in self._prover.heats(self._request):
            verdicts = [
                self._prover.verdict(self._request, one, len(heat), anew=self._anew) for one in heat
            ]
            for verdict in verdicts:
                if not verdict.accepted:
                    self.rejected.append(_rejection(verdict, verdict.reason))
                    self.has_passing_troubles |= verdict.kept and verdict.passing
            proved = self._open_fastest([choice for choice, _ in heat], verdicts)
            if proved is not None:
                return proved
        return None

    def _open_fastest(
        self, choices: Sequence[Choice], verdicts: Sequence[Verdict]
    ) -> Proved | None:
        request, prover = self._request, self._prover
        order = prover.fastest_first(request, verdicts)
        for place, verdict in enumerate(order):
            choice = next(c for c in choices if c.candidate == verdict.candidate)
            chosen = prover.configuration(request, verdict)
            session, found = prover.open_here(request, verdict.candidate, verdict.precision, chosen)
            if session is None:
                reason = f"was right in a trial, but here: {found.reason}"
                self.rejected.append(_rejection(verdict, reason))
                continue
            slower = [_rejection(v, "right, but slower") for v in order[place + 1 :]]
            plan = make_plan(request, choice, verdict, chosen, [*self.rejected, *slower])
            prover.remember(request, verdict)
            return Proved(session, plan)
        return None


def _warm_up(session: Session, inputs: Tensors, instances: int) -> None:
    """As many runs at a time as there will be: the first ones make the session ask for memory,
    which would hold up requests."""

    def runs() -> None:
        for _ in range(_WARM_RUNS):
            session.run(inputs)

    with ThreadPoolExecutor(instances, initializer=step_back) as pool:
        for done in [pool.submit(runs) for _ in range(instances)]:
            done.result()


def _rejection(verdict: Verdict, reason: str) -> Rejection:
    prefix = "" if verdict.precision == "fp32" else f"{verdict.precision}: "
    return Rejection(verdict.candidate.provider, verdict.candidate.device, prefix + reason)


def _listed(rejected: Sequence[Rejection]) -> str:
    reasons = [
        f"{r.provider} on {r.device}: {r.reason}" if r.device else f"{r.provider} {r.reason}"
        for r in rejected
    ]
    return "; ".join(reasons) or "none is here"
