"""Tries one candidate on one bundle; `app.engine.proof.in_child` does it in a child process.

    open -> which nodes run where -> golden rows at batch 1 -> cost table -> golden rows at the
    other sizes -> golden rows from several threads at once

The bundle is read anew here: nothing is taken over from the parent but the job.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial, reduce
from typing import Final

from app.bundle.golden import Comparison, Golden, replay, worse
from app.bundle.manifest import Manifest
from app.bundle.store import open_bundle
from app.engine.proof.calibration import Calibration, batch_sizes, calibrate
from app.engine.proof.choosing import Configuration, configuration
from app.engine.proof.plan import Cost
from app.engine.proof.trialjob import TrialJob
from app.engine.proof.verdict import Verdict
from app.engine.providers.candidates import CPU_PROVIDER, Candidate, DeviceKind
from app.engine.session import Session
from app.errors import BundleCorrupt, BundleError, EngineError

OpenSession = Callable[[bytes, Candidate, int], Session]
Tell = Callable[[str], None]

#: A batch that no kernel is tuned for: remainders are where batching goes wrong.
_ODD_ROWS: Final = 7
#: Long enough for hundreds of runs of a small model, of which races show.
_TOGETHER_S: Final = 0.1


def try_out(
    job: TrialJob, open_session: OpenSession = Session.open, tell: Tell = lambda _: None
) -> Verdict:
    """Try the job's candidate; every failure becomes the verdict's reason.

    Args:
        tell: hears what is about to be done.
    """
    started = time.perf_counter()
    trial = _Trial(job, open_session, tell)
    try:
        found = trial.run()
        passing = False
    except (EngineError, BundleError) as error:
        found, passing = Comparison(None, str(error)), True
    elapsed_ms = (time.perf_counter() - started) * 1e3
    return Verdict(
        candidate=job.candidate,
        precision=job.precision,
        numeric_class=found.numeric_class,
        reason=found.reason,
        max_abs_error=found.max_abs_error,
        nodes_by_provider=trial.nodes,
        checked_rows=trial.checked,
        proof_ms=round(elapsed_ms - trial.calibration_ms, 3),
        costs=trial.costs,
        calibration_ms=round(trial.calibration_ms, 3),
        background=job.background,
        passing=passing,
    )


class _Trial:
    """What is learnt on the way stays, also where it ends early."""

    def __init__(self, job: TrialJob, open_session: OpenSession, tell: Tell) -> None:
        self._job = job
        self._open_session = open_session
        self._tell = tell
        self.nodes: Mapping[str, int] = {}
        self.checked: tuple[int, ...] = ()
        self.costs: tuple[Cost, ...] = ()
        self.calibration_ms = 0.0

    def run(self) -> Comparison:
        job = self._job
        self._tell("reading the bundle")
        bundle = open_bundle(job.model_path, job.version)
        if bundle.digest != job.digest:
            raise BundleCorrupt("the version was replaced while it was being proved")
        manifest = bundle.manifest.variant(job.precision)
        model, golden = bundle.model(job.precision), bundle.golden()
        with ExitStack() as stack:
            self._tell("opening the model")
            session = self._open_session(model, job.candidate, 1)
            stack.callback(session.close)
            self.nodes = dict(session.nodes_by_provider)
            problem = unfit(session, manifest, job.candidate)
            if problem is not None:
                return Comparison(None, problem)
            found = self._first_look(session, golden, manifest)
            if not found.passed:
                return found
            if job.costs:
                self.costs = job.costs
            elif job.budget_ms > 0:
                self._tell("measuring what runs cost")
                self._calibrate(session, partial(self._reopen, model), golden, manifest)
            chosen = configuration_of(manifest, self.costs, job.cores, job.candidate.device)
            sizes = proof_sizes(manifest, golden.rows, chosen.rows)
            self._tell("running the golden rows")
            found = replay(session.run, golden, manifest, sizes)
            self.checked = sizes
            if not found.passed or chosen.instances == 1:
                return found
            self._tell(f"running the golden rows {chosen.instances} at a time")
            return worse(found, replay_together(session, golden, manifest, sizes, chosen.instances))

    def _reopen(self, model: bytes, threads: int) -> Session:
        return self._open_session(model, self._job.candidate, threads)

    def _first_look(self, session: Session, golden: Golden, manifest: Manifest) -> Comparison:
        """One small batch, before time is spent on measuring; labels are judged over all rows."""
        self._tell("running the first golden rows")
        size, *_ = proof_sizes(manifest, golden.rows, manifest.batching.max_rows)
        if manifest.agreement < 1:
            manifest = manifest.model_copy(update={"agreement": 0.0})
        self.checked = (size,)
        return replay(session.run, golden.tiled(size), manifest, (size,))

    def _calibrate(
        self,
        session: Session,
        reopen: Callable[[int], Session],
        golden: Golden,
        manifest: Manifest,
    ) -> None:
        started = time.perf_counter()
        job = self._job
        max_rows = manifest.batching.max_rows
        task = Calibration(
            sizes=batch_sizes(max_rows)
            if rows_vary(manifest)
            else proof_sizes(manifest, golden.rows, max_rows),
            cores=job.cores,
            device=job.candidate.device,
            budget_s=job.budget_ms / 1e3,
            background=job.background,
        )
        self.costs = calibrate(session, reopen, lambda rows: golden.tiled(rows).inputs, task)
        self.calibration_ms = (time.perf_counter() - started) * 1e3


def replay_together(
    session: Session, golden: Golden, manifest: Manifest, sizes: Sequence[int], instances: int
) -> Comparison:
    """Replay from several threads at once, again and again: some providers cannot bear that."""
    ends_s = time.perf_counter() + _TOGETHER_S

    def again() -> Comparison:
        found = replay(session.run, golden, manifest, sizes)
        while found.passed and time.perf_counter() < ends_s:
            found = worse(found, replay(session.run, golden, manifest, sizes))
        return found

    with ThreadPoolExecutor(instances) as pool:
        results = [future.result() for future in [pool.submit(again) for _ in range(instances)]]
    worst = reduce(worse, results)
    if worst.passed:
        return worst
    return replace(worst, reason=f"{instances} runs at a time: {worst.reason}")


def rows_vary(manifest: Manifest) -> bool:
    """Whether the number of rows of a run is ours to choose."""
    fixed = any(spec.shape and isinstance(spec.shape[0], int) for spec in manifest.signature.inputs)
    return manifest.batching.row_independent and not fixed


def configuration_of(
    manifest: Manifest, costs: Sequence[Cost], cores: int, device: DeviceKind
) -> Configuration:
    """How runs are made; where the number of rows is not ours to choose, cost limits it not."""
    max_rows = manifest.batching.max_rows
    chosen = configuration(costs, cores, max_rows, device)
    return chosen if rows_vary(manifest) else replace(chosen, rows=max_rows)


def proof_sizes(manifest: Manifest, golden_rows: int, max_rows: int) -> tuple[int, ...]:
    """The batch sizes, in rows, at which golden rows mean something.

    Independent rows may be repeated and cut at will: 1, an odd number, and the most that will
    ever run. Rows that change each other are right only as the one batch that was recorded. A
    graph with a fixed batch runs at no other.
    """
    fixed = [spec.shape[0] for spec in manifest.signature.inputs if spec.shape]
    sizes = {size for size in fixed if isinstance(size, int) and size > 0}
    if sizes:
        return (min(sizes),)
    if not manifest.batching.row_independent:
        return (min(golden_rows, max_rows),)
    return tuple(sorted({1, min(_ODD_ROWS, max_rows), max_rows}))


def unfit(session: Session, manifest: Manifest, candidate: Candidate) -> str | None:
    """Why an open session cannot serve, whatever it answers; None where it can."""
    problem = session.matches(manifest.signature)
    if problem is not None:
        return problem
    # A session lists a provider that it was opened for even where that one runs nothing.
    nodes = session.nodes_by_provider
    if candidate.provider == CPU_PROVIDER or nodes.get(candidate.provider, 0) > 0:
        return None
    return "runs no node of this model" if nodes else "does not tell which nodes it runs"
