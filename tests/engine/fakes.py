"""Sessions that compute the affine model in numpy, and trials that are told what to find."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from app.bundle.manifest import NumericClass, Precision
from app.engine.proof.plan import Cost
from app.engine.proof.trialjob import TrialJob
from app.engine.proof.tryouts import IsCancelled
from app.engine.proof.verdict import Verdict
from app.engine.providers.candidates import CPU_PROVIDER, Candidate
from tests.support import models

CUDA: Final = Candidate("CUDAExecutionProvider", "gpu", "Acme")
NPU: Final = Candidate("AcmeExecutionProvider", "npu")
PLUGIN: Final = Candidate("plug", "cpu", origin="plug-in", device_index=0, library="plug")
CPU: Final = Candidate(CPU_PROVIDER, "cpu")


class FakeSession:
    """Off by `error`; remembers what was done to it."""

    def __init__(self, nodes: Mapping[str, int], error: float = 0.0) -> None:
        self.nodes_by_provider = nodes
        self.error = error
        self.batches: list[int] = []
        self.closed = 0

    def matches(self, signature: Any) -> None:
        return None

    def run(self, inputs: Any) -> dict[str, Any]:
        self.batches.append(len(inputs["x"]))
        return {
            name: array + np.float32(self.error) for name, array in models.affine(inputs).items()
        }

    def close(self) -> None:
        self.closed += 1


def opening(sessions: Mapping[str, Any]) -> Any:
    """An `open_session` that hands out sessions by provider, or raises what it finds there."""

    def open_session(model: bytes, candidate: Candidate, intra_op_threads: int) -> Any:
        found = sessions[candidate.provider]
        if isinstance(found, Exception):
            raise found
        return found

    return open_session


def right_everywhere(model: bytes, candidate: Candidate, intra_op_threads: int) -> Any:
    """An `open_session` whose sessions give the golden answers on every provider."""
    return FakeSession({candidate.provider: 3})


def cost(rows: int, run_ms: float, threads: int = 1, instances: int = 1) -> Cost:
    return Cost(rows=rows, run_ms=run_ms, intra_op_threads=threads, instances=instances)


def verdict_of(
    job: TrialJob,
    run_ms: float | None = 1.0,
    numeric_class: NumericClass | None = "fp32",
    reason: str = "golden outputs met",
) -> Verdict:
    """A verdict on a job, whose runs of any size up to 16 rows take so long."""
    costs = () if run_ms is None else tuple(cost(rows, run_ms) for rows in (1, 16))
    return Verdict(
        candidate=job.candidate,
        precision=job.precision,
        numeric_class=numeric_class,
        reason=reason,
        nodes_by_provider={job.candidate.provider: 3},
        costs=costs if numeric_class else (),
        background=job.background,
    )


@dataclass
class Trials:
    """A trial that finds what it was told; remembers the jobs.

    Attributes:
        costs_ms: of a run, by provider, or by provider and precision; what is not there is 1 ms.
        wrong: reasons for which candidates are rejected, likewise.
    """

    costs_ms: Mapping[Any, float | None] = field(default_factory=dict)
    wrong: Mapping[Any, str] = field(default_factory=dict)
    jobs: list[TrialJob] = field(default_factory=list)
    limits_s: list[float] = field(default_factory=list)

    def __call__(self, job: TrialJob, timeout_s: float, cancelled: IsCancelled) -> Verdict:
        self.jobs.append(job)
        self.limits_s.append(timeout_s)
        keys = ((job.candidate.provider, job.precision), job.candidate.provider)
        for key in keys:
            if key in self.wrong:
                return verdict_of(job, numeric_class=None, reason=self.wrong[key])
        run_ms = next((self.costs_ms[key] for key in keys if key in self.costs_ms), 1.0)
        return verdict_of(job, run_ms)

    @property
    def tried(self) -> list[tuple[str, Precision]]:
        return [(job.candidate.provider, job.precision) for job in self.jobs]


def as_trial(find: Callable[[TrialJob], Verdict]) -> Any:
    """A trial of a function that needs only the job."""
    return lambda job, timeout_s, cancelled: find(job)


def providers_of(rejections: Sequence[Any]) -> list[str]:
    return [rejection.provider for rejection in rejections]
