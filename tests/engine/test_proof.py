"""Which provider serves, and what the plan says of it. Trials run in this process or are told what
to find; those in child processes are in `test_opener.py`."""

import json
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from app.bundle.golden import Golden
from app.bundle.manifest import Batching, Graph, Tolerance
from app.bundle.store import Bundle
from app.engine.proof.child import Cancelled
from app.engine.proof.plan import Plan
from app.engine.proof.planmaking import ProofRequest
from app.engine.proof.prover import Proved, Prover
from app.engine.proof.trialjob import TrialJob
from app.engine.proof.tryouts import ProofOptions
from app.engine.proof.verdict import Verdict
from app.engine.providers.candidates import CPU_PROVIDER, Candidate
from app.engine.providers.ranking import Ranking, Rejection, rank
from app.errors import BundleCorrupt, ProofFailed, SessionFailed
from tests.engine.fakes import (
    CPU,
    CUDA,
    NPU,
    PLUGIN,
    FakeSession,
    Trials,
    as_trial,
    cost,
    opening,
    right_everywhere,
    verdict_of,
)
from tests.support import models
from tests.support.bundles import RECIPES, make_golden
from tests.support.opening import prove, trying_here

BundleOf = Callable[..., Bundle]


def shifted(golden: Golden, row: int, by: float) -> Golden:
    """Golden rows of which one is wrong."""
    y = golden.outputs["y"].copy()
    y[row] += by
    return Golden(golden.inputs, {**golden.outputs, "y": y})


def proved_on_cpu(bundle: Bundle) -> Proved:
    return prove(bundle, rank([CPU]))


@pytest.mark.parametrize("model", ["affine", "conv", "mixer", "poison", "strings"])
def test_every_fixture_model_is_proved_on_the_cpu(model: str, bundle_of: BundleOf) -> None:
    proved = proved_on_cpu(bundle_of(model))

    assert proved.plan.provider == CPU_PROVIDER
    assert proved.plan.numeric_class == "fp32"
    assert proved.plan.rejected == ()
    assert not proved.plan.fallback
    proved.session.close()


def test_the_plan_says_what_was_proved(bundle_of: BundleOf) -> None:
    plan = proved_on_cpu(bundle_of("affine")).plan

    assert plan.provider_requested == ("auto",)
    assert (plan.provider_opened, plan.device, plan.origin) == (CPU_PROVIDER, "cpu", "built-in")
    assert plan.reason == "auto: built-in on the cpu; golden outputs met"
    assert plan.nodes_by_provider == {CPU_PROVIDER: 2}
    assert set(plan.max_abs_error) == {"y", "total"}
    assert max(plan.max_abs_error.values()) < 1e-6
    assert (plan.intra_op_threads, plan.instances) == (1, 1)
    assert (plan.max_rows, plan.inline_rows, plan.checked_rows) == (16, 0, (1, 7, 16))
    assert (plan.precision, plan.costs, plan.source) == ("fp32", (), "measured")
    assert plan.proof_ms > 0


def test_a_plan_survives_json(bundle_of: BundleOf) -> None:
    plan = prove(bundle_of("affine"), rank([CPU], ("cuda",))).plan

    text = plan.model_dump_json()

    assert Plan.model_validate_json(text) == plan
    assert json.loads(text)["rejected"][0]["provider"] == "cuda"


def test_rows_that_mix_are_found_out(bundle_of: BundleOf) -> None:
    claims = Batching(row_independent=True, max_rows=16, checked_rows=(1,))

    with pytest.raises(ProofFailed, match="batch of 1: outputs differ from golden"):
        proved_on_cpu(bundle_of("mixer", batching=claims))


def test_wrong_golden_rows_fail_the_proof(bundle_of: BundleOf) -> None:
    golden = make_golden("affine")
    wrong = Golden(golden.inputs, {**golden.outputs, "y": golden.outputs["y"] + 0.5})

    with pytest.raises(ProofFailed) as failed:
        proved_on_cpu(bundle_of("affine", golden=wrong))

    assert str(failed.value) == (
        "no execution provider gave the golden answers: CPUExecutionProvider on cpu: batch of 1: "
        "outputs differ from golden beyond tolerance: 'y' by 0.5, 'total' by 0"
    )


@pytest.mark.parametrize("max_rows", [1, 2, 16])
def test_every_golden_row_counts_whatever_the_batches_are(
    max_rows: int, bundle_of: BundleOf
) -> None:
    wrong = shifted(make_golden("affine"), row=5, by=0.5)
    batching = Batching(row_independent=True, max_rows=max_rows, checked_rows=(1,))

    with pytest.raises(ProofFailed, match=r"'y' by 0\.5"):
        proved_on_cpu(bundle_of("affine", golden=wrong, batching=batching))


def test_every_golden_row_counts_where_small_batches_pay(bundle_of: BundleOf) -> None:
    """The session that serves is held to all rows, even if it will run them one by one."""
    wrong = shifted(make_golden("affine"), row=5, by=0.5)
    one_by_one = (cost(1, 1.0), cost(16, 100.0))

    def trial(job: TrialJob) -> Verdict:
        return verdict_of(job).model_copy(update={"costs": one_by_one})

    with pytest.raises(ProofFailed, match=r"right in a trial, but here: .*'y' by 0\.5"):
        prove(bundle_of("affine", golden=wrong), rank([CPU]), trial=as_trial(trial), budget_ms=10)


def test_a_wrong_label_fails_the_proof(bundle_of: BundleOf) -> None:
    golden = make_golden("strings")
    pigments = golden.outputs["pigment"].copy()
    pigments[0] = "malachite"
    wrong = Golden(golden.inputs, {**golden.outputs, "pigment": pigments})

    with pytest.raises(ProofFailed, match="output 'pigment' differs from golden in 1 rows"):
        proved_on_cpu(bundle_of("strings", golden=wrong))


def test_another_model_than_the_signature_says_fails_the_proof(bundle_of: BundleOf) -> None:
    with pytest.raises(ProofFailed, match="the graph has input 'index', which the signature lacks"):
        proved_on_cpu(bundle_of("affine", model_data=models.model_bytes("poison")))


def test_a_truncated_model_is_a_broken_bundle(bundle_of: BundleOf) -> None:
    with pytest.raises(BundleCorrupt, match="not a readable ONNX file"):
        proved_on_cpu(bundle_of("affine", model_data=models.model_bytes("affine")[:100]))


def test_an_operator_that_nobody_has_fails_the_proof(bundle_of: BundleOf) -> None:
    unknown = models.model_bytes("affine").replace(b"MatMul", b"MatNul")

    with pytest.raises(ProofFailed, match="on cpu: the model cannot be opened: "):
        proved_on_cpu(bundle_of("affine", model_data=unknown))


def test_a_model_changed_after_publishing_never_opens(bundle_of: BundleOf) -> None:
    bundle = bundle_of("affine")
    path = bundle.path / "model.onnx"
    changed = path.read_bytes().replace(b"MatMul", b"MatNul")
    path.write_bytes(changed)

    with pytest.raises(BundleCorrupt, match="another sha256"):
        proved_on_cpu(bundle)


def test_golden_rows_of_other_tensors_are_a_broken_bundle(bundle_of: BundleOf) -> None:
    with pytest.raises(BundleCorrupt, match="golden inputs are not those of the signature"):
        proved_on_cpu(bundle_of("affine", golden=make_golden("poison")))


def test_golden_rows_of_another_datatype_are_a_broken_bundle(bundle_of: BundleOf) -> None:
    golden = make_golden("affine")
    doubles = {name: array.astype(np.float64) for name, array in golden.outputs.items()}

    with pytest.raises(BundleCorrupt, match="golden outputs are not those of the signature"):
        proved_on_cpu(bundle_of("affine", golden=Golden(golden.inputs, doubles)))


# Choosing among providers


def test_what_is_wrong_does_not_serve_and_why_is_told(bundle_of: BundleOf) -> None:
    wrong = FakeSession({NPU.provider: 3}, error=5.0)
    right = FakeSession({CPU_PROVIDER: 3})
    sessions = {
        CUDA.provider: SessionFailed("out of memory"),
        NPU.provider: wrong,
        CPU_PROVIDER: right,
    }

    plan = prove(
        bundle_of("affine"), rank([CPU, CUDA, NPU]), 2, open_session=opening(sessions)
    ).plan

    assert plan.provider == CPU_PROVIDER
    assert plan.rejected == (
        Rejection(CUDA.provider, "gpu", "out of memory"),
        Rejection(
            NPU.provider,
            "npu",
            "batch of 1: outputs differ from golden beyond tolerance: 'y' by 5, 'total' by 5",
        ),
    )
    assert (plan.intra_op_threads, plan.instances) == (1, 2)
    assert wrong.batches == [1]
    # Closed after its trial, and opened once more to serve.
    assert (wrong.closed, right.closed) == (1, 1)
    # It is warmed up with two runs on each of two threads.
    assert right.batches[-7:] == [1, 7, 16, 16, 16, 16, 16]


def test_what_opens_but_cannot_run_does_not_serve(bundle_of: BundleOf) -> None:
    class Failing(FakeSession):
        def run(self, inputs: Any) -> Any:
            raise SessionFailed("the model failed to run: FAIL in MatMul")

    sessions = {CUDA.provider: Failing({CUDA.provider: 3}), CPU_PROVIDER: FakeSession({})}

    plan = prove(bundle_of("affine"), rank([CPU, CUDA]), open_session=opening(sessions)).plan

    assert plan.rejected == (
        Rejection(CUDA.provider, "gpu", "the model failed to run: FAIL in MatMul"),
    )


def test_reduced_arithmetic_is_accepted_and_shown(bundle_of: BundleOf) -> None:
    sessions = {CUDA.provider: FakeSession({CUDA.provider: 3}, error=1e-3)}

    plan = prove(bundle_of("affine"), rank([CUDA]), open_session=opening(sessions)).plan

    assert plan.numeric_class == "reduced"
    assert plan.max_abs_error["y"] == pytest.approx(1e-3, rel=1e-2)
    assert (plan.device, plan.device_name) == ("gpu", "Acme")


def test_a_bundle_without_a_reduced_tolerance_refuses_it(bundle_of: BundleOf) -> None:
    exact = {"fp32": dict.fromkeys(("y", "total"), Tolerance(atol=1e-5, rtol=1e-5))}
    sessions = {CUDA.provider: FakeSession({CUDA.provider: 3}, error=1e-3)}

    with pytest.raises(ProofFailed, match="beyond tolerance"):
        prove(bundle_of("affine", tolerances=exact), rank([CUDA]), open_session=opening(sessions))


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ({CPU_PROVIDER: 3}, "runs no node of this model"),
        ({}, "does not tell which nodes it runs"),
    ],
)
def test_a_provider_that_runs_nothing_does_not_serve(
    nodes: dict[str, int], reason: str, bundle_of: BundleOf
) -> None:
    idle = FakeSession(nodes)

    with pytest.raises(ProofFailed, match=reason):
        prove(bundle_of("affine"), rank([CUDA]), open_session=opening({CUDA.provider: idle}))

    assert idle.closed == 1
    assert idle.batches == []


def test_a_provider_that_runs_few_nodes_is_not_the_active_one(bundle_of: BundleOf) -> None:
    mixed = FakeSession({CPU_PROVIDER: 9, CUDA.provider: 1})
    opened = opening({CUDA.provider: mixed})

    plan = prove(bundle_of("affine"), rank([CUDA]), open_session=opened).plan

    assert (plan.provider_opened, plan.provider) == (CUDA.provider, CPU_PROVIDER)
    assert (plan.device, plan.device_name, plan.origin) == ("cpu", "", "built-in")
    assert plan.nodes_by_provider == {CPU_PROVIDER: 9, CUDA.provider: 1}


def test_of_two_that_run_equally_many_nodes_the_opened_one_is_active(bundle_of: BundleOf) -> None:
    mixed = FakeSession({CPU_PROVIDER: 2, CUDA.provider: 2})
    opened = opening({CUDA.provider: mixed})

    assert prove(bundle_of("affine"), rank([CUDA]), open_session=opened).plan.device == "gpu"


def test_what_was_asked_for_and_absent_is_told(bundle_of: BundleOf) -> None:
    plan = prove(bundle_of("affine"), rank([CPU], ("cuda",))).plan

    assert plan.provider == CPU_PROVIDER
    assert plan.fallback
    assert plan.rejected[0].provider == "cuda"
    assert plan.reason.startswith("last resort behind what was asked for")


def test_strict_fails_instead_of_falling_back(bundle_of: BundleOf) -> None:
    with pytest.raises(ProofFailed, match="cuda is not available here"):
        prove(bundle_of("affine"), rank([CPU], ("cuda",), strict=True))


def test_strict_does_not_try_another_when_the_first_is_wrong(bundle_of: BundleOf) -> None:
    trials = Trials(wrong={CUDA.provider: "no"})

    with pytest.raises(ProofFailed, match="CUDAExecutionProvider on gpu: no"):
        prove(bundle_of("affine"), rank([CPU, CUDA], ("cuda", "cpu"), strict=True), trial=trials)

    assert trials.tried == [(CUDA.provider, "fp32")]


def test_every_reason_is_told_when_nothing_serves(bundle_of: BundleOf) -> None:
    trials = Trials(wrong={CUDA.provider: "too hot", NPU.provider: "too old", CPU_PROVIDER: "no"})

    with pytest.raises(ProofFailed) as failed:
        prove(bundle_of("affine"), rank([CUDA, NPU, CPU], ("tpu", "auto")), trial=trials)

    assert str(failed.value) == (
        "no execution provider gave the golden answers: tpu is not available here; available: "
        "CUDAExecutionProvider:gpu, AcmeExecutionProvider:npu, CPUExecutionProvider:cpu; "
        "CUDAExecutionProvider on gpu: too hot; AcmeExecutionProvider on npu: too old; "
        "CPUExecutionProvider on cpu: no"
    )


def test_with_no_candidate_the_proof_fails(bundle_of: BundleOf) -> None:
    with pytest.raises(ProofFailed, match="none is here"):
        prove(bundle_of("affine"), Ranking(("auto",), ()))


def test_an_unexpected_error_still_closes_the_session(bundle_of: BundleOf) -> None:
    session = FakeSession({CPU_PROVIDER: 3}, error="not a number")  # type: ignore[arg-type]
    opened = opening({CPU_PROVIDER: session})

    with pytest.raises(ValueError, match="not a number"):
        prove(bundle_of("affine"), rank([CPU]), open_session=opened, trial=Trials())

    assert session.closed == 1


# Among those that are right


def test_the_fastest_serves_and_the_slower_are_told(bundle_of: BundleOf) -> None:
    trials = Trials({CUDA.provider: 9.0, NPU.provider: 2.0, CPU_PROVIDER: 4.0})

    plan = proved_by(trials, bundle_of("affine"), rank([CUDA, NPU, CPU]))

    assert plan.provider == NPU.provider
    assert plan.rejected == (
        Rejection(CPU_PROVIDER, "cpu", "right, but slower"),
        Rejection(CUDA.provider, "gpu", "right, but slower"),
    )


@pytest.mark.parametrize(
    ("npu_ms", "serves"), [(0.97, CUDA.provider), (0.953, CUDA.provider), (0.94, NPU.provider)]
)
def test_rank_counts_where_the_gain_is_small(
    npu_ms: float, serves: str, bundle_of: BundleOf
) -> None:
    trials = Trials({CUDA.provider: 1.0, NPU.provider: npu_ms})

    assert proved_by(trials, bundle_of("affine"), rank([CUDA, NPU])).provider == serves


def test_what_was_asked_for_first_serves_though_it_is_slower(bundle_of: BundleOf) -> None:
    trials = Trials({CPU_PROVIDER: 50.0, CUDA.provider: 1.0, NPU.provider: 1.0})

    plan = proved_by(trials, bundle_of("affine"), rank([CUDA, NPU, CPU], ("cpu", "auto")))

    assert plan.provider == CPU_PROVIDER
    assert (plan.fallback, plan.rejected) == (False, ())
    # The others are not even tried.
    assert trials.tried == [(CPU_PROVIDER, "fp32")]


def test_of_those_that_answer_to_one_name_the_fastest_serves(bundle_of: BundleOf) -> None:
    gpu = Candidate("OpenVINOExecutionProvider", "gpu")
    on_cpu = Candidate("OpenVINOExecutionProvider", "cpu")

    def trial(job: TrialJob) -> Verdict:
        return verdict_of(job, 1.0 if job.candidate.device == "cpu" else 3.0)

    plan = prove(
        bundle_of("affine"),
        rank([CPU, gpu, on_cpu], ("openvino",)),
        trial=as_trial(trial),
        open_session=right_everywhere,
        budget_ms=10,
    ).plan

    assert (plan.provider_opened, plan.device) == ("OpenVINOExecutionProvider", "cpu")
    assert plan.rejected == (Rejection(gpu.provider, "gpu", "right, but slower"),)


def test_the_last_resort_is_not_compared(bundle_of: BundleOf) -> None:
    trials = Trials({PLUGIN.provider: 50.0, CPU_PROVIDER: 1.0})

    plan = proved_by(trials, bundle_of("affine"), rank([PLUGIN, CPU], ("plug",)))

    assert (plan.provider_opened, plan.origin, plan.fallback) == ("plug", "plug-in", False)
    assert trials.tried == [("plug", "fp32")]


def test_what_was_right_in_its_trial_but_is_not_here_gives_way(bundle_of: BundleOf) -> None:
    wrong_here = FakeSession({CUDA.provider: 3}, error=5.0)
    sessions = {
        CUDA.provider: wrong_here,
        NPU.provider: SessionFailed("out of memory"),
        CPU_PROVIDER: FakeSession({CPU_PROVIDER: 3}),
    }
    trials = Trials({CUDA.provider: 1.0, NPU.provider: 2.0, CPU_PROVIDER: 4.0})

    plan = prove(
        bundle_of("affine"),
        rank([CUDA, NPU, CPU]),
        trial=trials,
        open_session=opening(sessions),
        budget_ms=10,
    ).plan

    assert plan.provider == CPU_PROVIDER
    wrong, lost = (rejection.reason for rejection in plan.rejected)
    assert wrong.startswith("was right in a trial, but here: batch of 1: outputs differ from gold")
    assert lost == "was right in a trial, but here: out of memory"
    assert wrong_here.closed == 1


def test_what_runs_no_node_here_gives_way(bundle_of: BundleOf) -> None:
    sessions = {
        CUDA.provider: FakeSession({CPU_PROVIDER: 3}),
        CPU_PROVIDER: FakeSession({CPU_PROVIDER: 3}),
    }

    plan = prove(
        bundle_of("affine"),
        rank([CUDA, CPU]),
        trial=Trials(),
        open_session=opening(sessions),
        budget_ms=10,
    ).plan

    assert plan.provider_opened == CPU_PROVIDER
    assert plan.rejected[0].reason == "was right in a trial, but here: runs no node of this model"


def test_when_all_are_wrong_here_the_proof_fails_with_every_reason(bundle_of: BundleOf) -> None:
    sessions = {
        CUDA.provider: SessionFailed("lost"),
        CPU_PROVIDER: SessionFailed("the model cannot be opened: FAIL"),
    }

    with pytest.raises(ProofFailed) as failed:
        prove(
            bundle_of("affine"),
            rank([CUDA, CPU]),
            trial=Trials(),
            open_session=opening(sessions),
            budget_ms=10,
        )

    assert str(failed.value) == (
        "no execution provider gave the golden answers: "
        "CUDAExecutionProvider on gpu: was right in a trial, but here: lost; "
        "CPUExecutionProvider on cpu: was right in a trial, but here: the model cannot be "
        "opened: FAIL"
    )


def proved_by(trials: Trials, bundle: Bundle, ranking: Ranking, budget_ms: int = 1000) -> Plan:
    return prove(
        bundle, ranking, trial=trials, open_session=right_everywhere, budget_ms=budget_ms
    ).plan


# How much is tried


def test_without_a_budget_the_first_that_is_right_serves(bundle_of: BundleOf) -> None:
    trials = Trials(wrong={CUDA.provider: "no"})

    plan = proved_by(trials, bundle_of("affine"), rank([CUDA, NPU, CPU]), budget_ms=0)

    assert plan.provider == NPU.provider
    assert trials.tried == [(CUDA.provider, "fp32"), (NPU.provider, "fp32")]
    assert [job.budget_ms for job in trials.jobs] == [0, 0]


def test_without_a_budget_what_is_wrong_here_gives_way_to_the_next(bundle_of: BundleOf) -> None:
    sessions = {
        CUDA.provider: SessionFailed("lost"),
        CPU_PROVIDER: FakeSession({CPU_PROVIDER: 3}),
    }

    plan = prove(
        bundle_of("affine"), rank([CUDA, CPU]), trial=Trials(), open_session=opening(sessions)
    ).plan

    assert plan.provider == CPU_PROVIDER


def test_the_budget_is_shared_by_those_that_compete(bundle_of: BundleOf) -> None:
    trials = Trials()

    proved_by(trials, bundle_of("affine"), rank([CUDA, NPU, CPU]), budget_ms=900)

    assert [job.budget_ms for job in trials.jobs] == [300, 300, 300]


def test_a_small_budget_is_still_a_budget(bundle_of: BundleOf) -> None:
    """Split among many, it may be less than a millisecond for each."""
    trials = Trials()

    proved_by(trials, bundle_of("affine"), rank([CUDA, NPU, CPU]), budget_ms=2)

    assert all(job.budget_ms > 0 for job in trials.jobs)


def test_a_candidates_own_time_limit_holds_unless_another_is_set(bundle_of: BundleOf) -> None:
    tensorrt = Candidate("TensorrtExecutionProvider", "gpu")
    own, given = Trials(), Trials()
    request = ProofRequest(bundle_of("affine"), rank([tensorrt, CPU]))

    for trials, limit_s in ((own, None), (given, 7.0)):
        options = ProofOptions(1, budget_ms=2000, trial_timeout_s=limit_s)
        Prover(options, trials, open_session=right_everywhere).prove(request)

    # A second for what each may measure, and some for the run that is under way then.
    assert own.limits_s[0] - own.limits_s[1] == 900.0 - 60.0
    assert own.limits_s[1] > 61.0
    assert given.limits_s[0] == given.limits_s[1] == own.limits_s[1] - 60.0 + 7.0


def test_the_job_says_what_is_asked_for(bundle_of: BundleOf) -> None:
    bundle, trials = bundle_of("affine"), Trials()
    prover = Prover(ProofOptions(3, budget_ms=5), trials, open_session=right_everywhere)

    prover.prove(ProofRequest(bundle, rank([CPU]), background=True))

    assert trials.jobs == [
        TrialJob(
            model_path=bundle.path.parent,
            version=1,
            digest=bundle.digest,
            candidate=CPU,
            cores=3,
            budget_ms=5,
            background=True,
        )
    ]


def test_what_is_cancelled_is_not_tried_any_further(bundle_of: BundleOf) -> None:
    asked: list[TrialJob] = []

    def trial(job: TrialJob) -> Verdict:
        asked.append(job)
        raise Cancelled("is not wanted any longer")

    with pytest.raises(Cancelled):
        prove(bundle_of("affine"), rank([CUDA, CPU]), trial=as_trial(trial))

    assert len(asked) == 1


# What the plan takes from the costs


def test_the_plan_has_the_shape_and_batch_that_pay(bundle_of: BundleOf) -> None:
    costs = (
        cost(1, 1.0, 1, 4),
        cost(16, 8.0, 1, 4),
        cost(1, 0.9, 4, 1),
        cost(16, 1.0, 4, 1),
    )

    def trial(job: TrialJob) -> Verdict:
        return verdict_of(job).model_copy(update={"costs": costs})

    plan = prove(
        bundle_of("affine"),
        rank([CPU]),
        4,
        trial=as_trial(trial),
        open_session=right_everywhere,
        budget_ms=10,
    ).plan

    assert (plan.intra_op_threads, plan.instances, plan.max_rows) == (4, 1, 16)
    assert plan.costs == costs
    assert plan.inline_rows == 0
    assert plan.run_s(1) == pytest.approx(0.9e-3)


def test_a_batch_that_does_not_pay_is_not_made(bundle_of: BundleOf) -> None:
    costs = (cost(1, 0.01), cost(4, 0.02), cost(16, 0.09))

    def trial(job: TrialJob) -> Verdict:
        return verdict_of(job).model_copy(update={"costs": costs})

    plan = prove(bundle_of("affine"), rank([CPU]), trial=as_trial(trial), budget_ms=10).plan

    assert plan.max_rows == 4
    assert plan.inline_rows == 4
    assert max(plan.checked_rows) == 4


@pytest.mark.parametrize("model", ["mixer"])
def test_rows_that_change_each_other_are_not_cut_by_cost(model: str, bundle_of: BundleOf) -> None:
    costs = (cost(1, 0.01), cost(6, 10.0))

    def trial(job: TrialJob) -> Verdict:
        return verdict_of(job).model_copy(update={"costs": costs})

    plan = prove(bundle_of(model), rank([CPU]), trial=as_trial(trial), budget_ms=10).plan

    assert (plan.max_rows, plan.inline_rows, plan.checked_rows) == (16, 0, (6,))


def test_only_the_cpu_runs_on_the_event_loop(bundle_of: BundleOf) -> None:
    plans = [
        proved_by(Trials({c.provider: 0.01}), bundle_of("affine"), rank([c])) for c in (CPU, CUDA)
    ]

    assert [plan.inline_rows for plan in plans] == [16, 0]


def test_nothing_is_measured_that_a_budget_does_not_pay_for(bundle_of: BundleOf) -> None:
    plan = prove(bundle_of("affine"), rank([CPU]), 3).plan

    assert plan.costs == ()
    assert (plan.intra_op_threads, plan.instances, plan.max_rows) == (1, 3, 16)
    assert (plan.inline_rows, plan.calibration_ms) == (0, 0.0)
    assert plan.run_s(1) is None


def test_a_device_gets_few_runs_at_a_time_even_unmeasured(bundle_of: BundleOf) -> None:
    session = FakeSession({CUDA.provider: 3})
    opened = opening({CUDA.provider: session})

    plan = prove(bundle_of("affine"), rank([CUDA]), 64, open_session=opened).plan

    assert plan.instances <= 2


def test_a_real_model_is_measured_and_served_by_its_costs(bundle_of: BundleOf) -> None:
    proved = prove(bundle_of("conv"), rank([CPU]), 2, budget_ms=100)

    plan = proved.plan
    shapes = {cost.shape for cost in plan.costs}
    assert (plan.intra_op_threads, plan.instances) in shapes
    assert shapes <= {(1, 2), (2, 1)}
    assert {c.rows for c in plan.costs} == {1, 2, 4, 8, 16}
    assert plan.max_rows in {c.rows for c in plan.costs}
    assert plan.run_s(1) is not None
    assert plan.calibration_ms > 0
    proved.session.close()


# What changes meanwhile


def test_a_version_that_is_replaced_meanwhile_is_not_proved(bundle_of: BundleOf) -> None:
    bundle = bundle_of("affine")
    shutil.rmtree(bundle.path)
    bundle_of("affine", description="Another one, under the same number.")

    with pytest.raises(ProofFailed, match="the version was replaced while it was being proved"):
        prove_unchecked(bundle)


def test_a_version_that_is_removed_meanwhile_is_not_proved(bundle_of: BundleOf) -> None:
    bundle = bundle_of("affine")
    shutil.rmtree(bundle.path)

    with pytest.raises(ProofFailed, match=r"manifest\.json is missing"):
        prove_unchecked(bundle)


def prove_unchecked(bundle: Bundle) -> Proved:
    """As `prove`, but what the bundle's files are is found out in the trial only."""
    return Prover(ProofOptions(1, budget_ms=0), trying_here()).prove(
        ProofRequest(bundle, rank([CPU]))
    )


# The evidence


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("box", "blob", "stroke"), "has labels that the manifest has not"),
        (models.SHAPES[::-1], "is not the label of the best score"),
    ],
)
def test_labels_that_contradict_the_golden_rows_are_refused(
    bundle_of: BundleOf, labels: tuple[str, ...], message: str
) -> None:
    signature = RECIPES["conv"]().signature
    shape, scores = signature.predictions
    predictions = tuple(p.model_copy(update={"labels": labels}) for p in (shape, scores))
    bundle = bundle_of("conv", signature=signature.model_copy(update={"predictions": predictions}))

    with pytest.raises(BundleCorrupt, match=message):
        prove(bundle, rank([CPU]))


# Versions that are just like the one before


def like_before(bundle_of: BundleOf, background: bool, **other: Any) -> TrialJob:
    """The job of a second version's trial."""
    trials = Trials()
    prover = Prover(ProofOptions(2, 100), trials, open_session=right_everywhere)
    prover.prove(ProofRequest(bundle_of("affine"), rank([CPU])))

    second = ProofRequest(bundle_of("affine", **other), rank([CPU]), background=background)
    prover.prove(second)

    return trials.jobs[-1]


def test_a_version_like_the_one_before_takes_over_its_costs(bundle_of: BundleOf) -> None:
    job = like_before(bundle_of, background=True)

    assert [(cost.rows, cost.run_ms) for cost in job.costs] == [(1, 1.0), (16, 1.0)]


def test_at_a_start_every_version_is_measured(bundle_of: BundleOf) -> None:
    assert like_before(bundle_of, background=False).costs == ()


@pytest.mark.parametrize(
    "other",
    [
        {"batching": Batching(row_independent=True, max_rows=8, checked_rows=(1,))},
        {"graph": Graph(opset=20, ir_version=10, domains=("",), node_count=99)},
    ],
    ids=["batching", "graph"],
)
def test_a_version_of_another_kind_is_measured(other: Any, bundle_of: BundleOf) -> None:
    assert like_before(bundle_of, background=True, **other).costs == ()
