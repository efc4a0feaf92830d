"""What the trial of a candidate showed. Plain data: it comes from a child and is kept on disk."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from app.bundle.manifest import NumericClass, Precision
from app.engine.proof.plan import Cost
from app.engine.proof.trialjob import TrialJob
from app.engine.providers.candidates import Candidate


class Verdict(BaseModel):
    """Whether a candidate gave the golden answers, and what its runs cost."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    candidate: Candidate
    precision: Precision = "fp32"
    #: The strictest numeric class that was met; None where it was rejected.
    numeric_class: NumericClass | None
    #: Why it was accepted or rejected.
    reason: str
    max_abs_error: Mapping[str, float] = {}
    nodes_by_provider: Mapping[str, int] = {}
    #: Batch sizes at which the golden rows were replayed.
    checked_rows: tuple[int, ...] = ()
    proof_ms: float = 0.0
    costs: tuple[Cost, ...] = ()
    calibration_ms: float = 0.0
    #: Measured with few threads beside other work: good for serving now, not for keeping.
    background: bool = False
    #: It crashed, hung, or could not be tried: that may be otherwise another time.
    passing: bool = False
    #: Not even tried: that says nothing of the candidate.
    tried: bool = True
    #: Comes from an earlier trial.
    kept: bool = False

    @property
    def accepted(self) -> bool:
        return self.numeric_class is not None

    def answers(self, job: TrialJob) -> bool:
        """Whether it is on that job's candidate and graph, with runs that its cores can bear."""
        fits = all(cost.intra_op_threads * cost.instances <= job.cores for cost in self.costs)
        return fits and (self.candidate, self.precision) == (job.candidate, job.precision)
