"""Every GPU and NPU that ONNX Runtime lists here: right or rejected, and planned as a device is."""

from collections.abc import Callable

import pytest

from app.bundle.store import Bundle
from app.engine.opener import BundleProver, OpenerOptions, RunRequest
from app.engine.proof.trialjob import TrialJob
from app.engine.proof.tryouts import try_in_child
from app.engine.providers.candidates import CPU_PROVIDER, Candidate
from app.errors import ProofFailed
from tests.support.bundles import RECIPES

BundleOf = Callable[..., Bundle]

pytestmark = pytest.mark.gpu

#: Compilers take minutes; a device that needs longer is rejected, which is a verdict too.
TRIAL_S = 300.0
CORES = 4


def requested(accelerator: Candidate, *, strict: bool = False) -> BundleProver:
    name = f"{accelerator.provider}:{accelerator.device}"
    options = OpenerOptions(RunRequest((name,), strict), budget_ms=500, trial_timeout_s=TRIAL_S)
    return BundleProver(options, CORES)


@pytest.mark.parametrize("model", sorted(RECIPES))
def test_a_device_is_right_or_rejected_with_a_reason(
    model: str, accelerator: Candidate, bundle_of: BundleOf
) -> None:
    bundle = bundle_of(model)
    job = TrialJob(
        model_path=bundle.path.parent,
        version=bundle.manifest.version,
        digest=bundle.digest,
        candidate=accelerator,
        cores=CORES,
        budget_ms=500,
    )

    verdict = try_in_child(job, TRIAL_S, lambda: False)

    if not verdict.accepted:
        assert verdict.reason
        assert str(bundle.path) not in verdict.reason
        return
    assert verdict.nodes_by_provider[accelerator.provider] > 0
    # More than two runs at a time do not make a device faster, nor do threads.
    assert {cost.shape for cost in verdict.costs} <= {(1, 1), (1, 2)}
    assert verdict.checked_rows


@pytest.mark.parametrize("model", sorted(RECIPES))
def test_what_serves_is_right(model: str, accelerator: Candidate, bundle_of: BundleOf) -> None:
    bundle = bundle_of(model)

    proved = requested(accelerator).prove(bundle)

    plan, golden = proved.plan, bundle.golden()
    part = golden.tiled(plan.checked_rows[-1])
    outputs = proved.session.run(part.inputs)
    for name, want in part.outputs.items():
        if want.dtype.kind == "f":
            assert outputs[name] == pytest.approx(want, abs=1e-2, rel=1e-2)
        else:
            assert (outputs[name] == want).all()
    if plan.provider == accelerator.provider:
        assert plan.device == accelerator.device
        assert not plan.fallback
        assert (plan.intra_op_threads, plan.inline_rows) == (1, 0)
        assert plan.instances <= 2
        assert plan.max_rows <= bundle.manifest.batching.max_rows
    elif plan.provider_opened == CPU_PROVIDER:
        assert plan.fallback
        assert accelerator.provider in {rejection.provider for rejection in plan.rejected}
    proved.session.close()


def test_a_model_that_runs_on_the_cpu_is_told_as_one(
    accelerator: Candidate, bundle_of: BundleOf
) -> None:
    """No device computes with strings."""
    plan = requested(accelerator).prove(bundle_of("strings")).plan

    assert (plan.provider, plan.device) == (CPU_PROVIDER, "cpu")
    with pytest.raises(ProofFailed, match="runs no node of this model"):
        requested(accelerator, strict=True).prove(bundle_of("strings"))


def test_auto_tries_the_device_first(accelerator: Candidate, bundle_of: BundleOf) -> None:
    prover = BundleProver(OpenerOptions(budget_ms=500, trial_timeout_s=TRIAL_S), CORES)

    plan = prover.prove(bundle_of("conv")).plan

    assert plan.provider_requested == ("auto",)
    considered = {plan.provider_opened, *(rejection.provider for rejection in plan.rejected)}
    assert accelerator.provider in considered
