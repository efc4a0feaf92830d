"""Gets verdicts on candidates: kept ones where they hold, else by a trial in a child process."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from app.bundle.manifest import Precision
from app.engine.proof.child import Cancelled, NotStarted, run_job
from app.engine.proof.measured import Measured
from app.engine.proof.plan import Cost
from app.engine.proof.planmaking import ProofRequest
from app.engine.proof.trialjob import TrialJob
from app.engine.proof.verdict import Verdict
from app.engine.proof.verdicts import Verdicts
from app.engine.providers.candidates import Candidate, known_device
from app.errors import EngineError

IsCancelled = Callable[[], bool]
#: A job and its time limit in seconds to a verdict.
TryOut = Callable[[TrialJob, float, IsCancelled], Verdict]

#: Besides its budget: opening sessions with other threads, and the run that is under way.
_CALIBRATION_EXTRA_S: Final = 30.0
#: What is being served goes first, so a trial beside it takes longer.
_BACKGROUND_PATIENCE: Final = 4.0


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
        told = run_job(job.model_dump(mode="json"), timeout_s, cancelled)
        verdict = Verdict.model_validate(told)
        if verdict.answers(job):
            return verdict
        reason = "told a verdict on something else"
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


class TryOuts:
    """Makes trials, one at a time for all processes that share the kept verdicts."""

    def __init__(self, options: ProofOptions, trial: TryOut, kept: Verdicts | None) -> None:
        self._options = options
        self._try_out = trial
        self._kept = kept
        self._measured = Measured()

    def remember(self, request: ProofRequest, verdict: Verdict) -> None:
        """Later versions of the same model may be just like this one."""
        self._measured.remember(request, verdict)

    def compare(
        self,
        request: ProofRequest,
        candidate: Candidate,
        precision: Precision,
        share: int,
        *,
        anew: bool,
    ) -> Verdict:
        """A verdict with what runs cost, to be compared with others.

        Args:
            share: of how many competitors this is one; they divide the budget.
            anew: try again what failed for reasons that may have passed.
        """
        budget_ms = self._options.budget_ms
        budget_ms = max(1, budget_ms // share) if budget_ms else 0
        costs = self._measured.costs_of(request, candidate, precision)
        return self._verdict(request, candidate, precision, budget_ms, costs, anew=anew)

    def prove(
        self,
        request: ProofRequest,
        candidate: Candidate,
        precision: Precision,
        costs: tuple[Cost, ...],
    ) -> Verdict:
        """A verdict without measuring anything: what runs cost is known."""
        return self._verdict(request, candidate, precision, 0, costs, anew=True)

    def _verdict(
        self,
        request: ProofRequest,
        candidate: Candidate,
        precision: Precision,
        budget_ms: int,
        costs: tuple[Cost, ...],
        *,
        anew: bool,
    ) -> Verdict:
        job = TrialJob(
            model_path=request.bundle.path.parent,
            version=request.bundle.manifest.version,
            digest=request.bundle.digest,
            candidate=candidate,
            precision=precision,
            cores=self._options.cores,
            budget_ms=budget_ms,
            background=request.background,
            costs=costs,
        )
        limit_s = self._limit_s(job)
        kept = self._kept
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
