"""What the trial of one candidate finds out, tried in this process."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from app.bundle.manifest import Batching, Manifest
from app.bundle.store import Bundle
from app.engine.proof.trial import proof_sizes, rows_vary, try_out
from app.engine.proof.trialjob import TrialJob
from app.engine.proof.verdict import Verdict
from app.engine.providers.candidates import CPU_PROVIDER, Candidate
from app.errors import SessionFailed
from tests.api.live import PATIENCE_S
from tests.engine.fakes import CPU, CUDA, FakeSession, opening
from tests.support import models
from tests.support.bundles import make_manifest

BundleOf = Callable[..., Bundle]


def job_of(bundle: Bundle, candidate: Candidate = CPU, **changes: Any) -> TrialJob:
    fields: dict[str, Any] = {
        "model_path": bundle.path.parent,
        "version": bundle.manifest.version,
        "digest": bundle.digest,
        "candidate": candidate,
        "cores": 1,
        "budget_ms": 0,
    }
    return TrialJob(**(fields | changes))


@pytest.mark.parametrize("model", ["affine", "conv", "mixer", "poison", "strings"])
def test_every_fixture_model_is_right_on_the_cpu(model: str, bundle_of: BundleOf) -> None:
    verdict = try_out(job_of(bundle_of(model), cores=2, budget_ms=50))

    assert (verdict.accepted, verdict.numeric_class) == (True, "fp32")
    assert verdict.reason == "golden outputs met"
    assert set(verdict.nodes_by_provider) == {CPU_PROVIDER}
    assert verdict.costs
    assert not verdict.passing


def test_it_says_what_it_is_about_to_do(bundle_of: BundleOf) -> None:
    measured: list[str] = []
    unmeasured: list[str] = []

    try_out(job_of(bundle_of("affine"), cores=1, budget_ms=50), tell=measured.append)
    try_out(job_of(bundle_of("conv"), cores=2), tell=unmeasured.append)

    assert measured == [
        "reading the bundle",
        "opening the model",
        "running the first golden rows",
        "measuring what runs cost",
        "running the golden rows",
    ]
    assert unmeasured[-2:] == ["running the golden rows", "running the golden rows 2 at a time"]


@pytest.mark.parametrize("cores", [1, 2])
def test_golden_rows_are_run_at_one_odd_and_most(cores: int, bundle_of: BundleOf) -> None:
    session = FakeSession({CPU_PROVIDER: 3})

    verdict = try_out(job_of(bundle_of("affine"), cores=cores), opening({CPU_PROVIDER: session}))

    assert verdict.checked_rows == (1, 7, 16)
    assert session.batches[:4] == [1, 1, 7, 16]
    assert session.closed == 1


@pytest.mark.parametrize("wrong_rows", [1, 7, 16])
def test_a_wrong_answer_at_any_size_is_a_rejection(wrong_rows: int, bundle_of: BundleOf) -> None:
    class Wrong(FakeSession):
        def run(self, inputs: Any) -> Any:
            self.error = 1.0 if len(inputs["x"]) == wrong_rows else 0.0
            return super().run(inputs)

    session = Wrong({CPU_PROVIDER: 3})

    verdict = try_out(job_of(bundle_of("affine")), opening({CPU_PROVIDER: session}))

    assert not verdict.accepted
    assert verdict.reason.startswith(f"batch of {wrong_rows}: outputs differ from golden")
    assert verdict.max_abs_error["y"] == pytest.approx(1.0)
    assert session.closed == 1


def test_the_less_exact_of_all_sizes_counts(bundle_of: BundleOf) -> None:
    class Rough(FakeSession):
        def run(self, inputs: Any) -> Any:
            self.error = 1e-3 if len(inputs["x"]) == 7 else 0.0
            return super().run(inputs)

    verdict = try_out(
        job_of(bundle_of("affine")), opening({CPU_PROVIDER: Rough({CPU_PROVIDER: 3})})
    )

    assert verdict.numeric_class == "reduced"
    assert verdict.max_abs_error["y"] == pytest.approx(1e-3, rel=1e-2)


def test_answers_that_are_no_numbers_are_a_rejection(bundle_of: BundleOf) -> None:
    session = FakeSession({CPU_PROVIDER: 3}, error=np.nan)

    verdict = try_out(job_of(bundle_of("affine")), opening({CPU_PROVIDER: session}))

    assert not verdict.accepted
    assert verdict.max_abs_error["y"] == np.inf


def test_a_session_that_cannot_bear_threads_is_a_rejection(bundle_of: BundleOf) -> None:
    class Racing(FakeSession):
        """Right one after the other, wrong when four runs are under way."""

        together = threading.Barrier(4)

        def run(self, inputs: Any) -> Any:
            outputs = super().run(inputs)
            if len(self.batches) <= 4:
                return outputs
            self.together.wait(PATIENCE_S)
            return {name: array + 1 for name, array in outputs.items()}

    session = Racing({CPU_PROVIDER: 3})

    verdict = try_out(job_of(bundle_of("affine"), cores=4), opening({CPU_PROVIDER: session}))

    assert not verdict.accepted
    assert verdict.reason.startswith("4 runs at a time: batch of ")


def test_a_failure_in_a_thread_is_a_rejection(bundle_of: BundleOf) -> None:
    class Failing(FakeSession):
        def run(self, inputs: Any) -> Any:
            if len(self.batches) >= 4:
                raise SessionFailed("the model failed to run: FAIL in MatMul")
            return super().run(inputs)

    session = Failing({CPU_PROVIDER: 3})

    verdict = try_out(job_of(bundle_of("affine"), cores=2), opening({CPU_PROVIDER: session}))

    assert (verdict.accepted, verdict.reason) == (False, "the model failed to run: FAIL in MatMul")
    assert session.closed == 1


def test_a_refusal_to_open_is_a_rejection(bundle_of: BundleOf) -> None:
    refusing = opening({CPU_PROVIDER: SessionFailed("the model cannot be opened: NO_MODEL")})

    verdict = try_out(job_of(bundle_of("affine")), refusing)

    assert (verdict.accepted, verdict.reason) == (False, "the model cannot be opened: NO_MODEL")
    assert verdict.checked_rows == ()


def test_a_graph_that_is_not_the_signatures_is_a_rejection(bundle_of: BundleOf) -> None:
    bundle = bundle_of("affine", model_data=models.model_bytes("poison"))

    verdict = try_out(job_of(bundle))

    assert verdict.reason == "the graph has input 'index', which the signature lacks"


def test_nothing_runs_where_no_node_is_claimed(bundle_of: BundleOf) -> None:
    idle = FakeSession({CPU_PROVIDER: 3})

    verdict = try_out(job_of(bundle_of("affine"), CUDA), opening({CUDA.provider: idle}))

    assert verdict.reason == "runs no node of this model"
    assert verdict.nodes_by_provider == {CPU_PROVIDER: 3}
    assert (idle.batches, idle.closed) == ([], 1)


def test_another_digest_is_a_rejection(bundle_of: BundleOf) -> None:
    verdict = try_out(job_of(bundle_of("affine"), digest="0" * 64))

    assert verdict.reason == "the version was replaced while it was being proved"


@pytest.mark.parametrize("version", [2, 99])
def test_a_version_that_is_gone_is_a_rejection(version: int, bundle_of: BundleOf) -> None:
    verdict = try_out(job_of(bundle_of("affine"), version=version))

    assert (verdict.accepted, verdict.reason) == (False, "manifest.json is missing")


def test_what_was_wrong_with_the_files_may_be_right_another_time(bundle_of: BundleOf) -> None:
    """A verdict is kept by digest; another version in its place says nothing of this one."""
    gone = try_out(job_of(bundle_of("affine"), version=2))
    replaced = try_out(job_of(bundle_of("poison"), digest="0" * 64))

    assert (gone.passing, replaced.passing) == (True, True)


def test_sessions_with_more_threads_are_opened_for_measuring_and_closed(
    bundle_of: BundleOf,
) -> None:
    opened: list[int] = []
    sessions: list[FakeSession] = []

    def open_session(model: bytes, candidate: Candidate, threads: int) -> Any:
        opened.append(threads)
        sessions.append(FakeSession({CPU_PROVIDER: 3}))
        return sessions[-1]

    verdict = try_out(job_of(bundle_of("affine"), cores=4, budget_ms=100), open_session)

    assert opened == [1, 4, 2]
    assert [session.closed for session in sessions] == [1, 1, 1]
    assert {cost.shape for cost in verdict.costs} == {(1, 4), (4, 1), (2, 2)}


def test_beside_other_work_one_shape_is_measured(bundle_of: BundleOf) -> None:
    verdict = try_out(job_of(bundle_of("affine"), cores=4, budget_ms=100, background=True))

    assert {cost.shape for cost in verdict.costs} == {(1, 4)}
    assert verdict.background


def test_a_verdict_survives_its_way_from_a_child(bundle_of: BundleOf) -> None:
    verdict = try_out(job_of(bundle_of("conv"), cores=2, budget_ms=50))

    assert Verdict.model_validate(verdict.model_dump(mode="json")) == verdict
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


def test_a_job_survives_its_way_to_a_child(bundle_of: BundleOf) -> None:
    job = job_of(bundle_of("affine"), CUDA, precision="int8", background=True)

    assert TrialJob.model_validate(job.model_dump(mode="json")) == job


# Batch sizes


def manifest_with(independent: bool, max_rows: int) -> Manifest:
    batching = Batching(row_independent=independent, max_rows=max_rows, checked_rows=())
    return make_manifest("m", 1, batching=batching)


@pytest.mark.parametrize(
    ("max_rows", "sizes"), [(1, (1,)), (4, (1, 4)), (7, (1, 7)), (64, (1, 7, 64))]
)
def test_independent_rows_are_replayed_at_one_odd_and_most(
    max_rows: int, sizes: tuple[int, ...]
) -> None:
    assert proof_sizes(manifest_with(True, max_rows), 6, max_rows) == sizes


@pytest.mark.parametrize(("max_rows", "sizes"), [(16, (6,)), (1, (1,))])
def test_dependent_rows_are_replayed_as_they_were_recorded(
    max_rows: int, sizes: tuple[int, ...]
) -> None:
    manifest = manifest_with(False, max_rows)

    assert proof_sizes(manifest, 6, max_rows) == sizes
    assert not rows_vary(manifest)


def test_a_fixed_batch_is_the_only_one() -> None:
    manifest = make_manifest("m", 1)
    fixed = manifest.signature.inputs[0].model_copy(update={"shape": (3, 3)})
    signature = manifest.signature.model_copy(update={"inputs": (fixed,)})
    manifest = manifest.model_copy(update={"signature": signature})

    assert proof_sizes(manifest, 6, 16) == (3,)
    assert not rows_vary(manifest)
