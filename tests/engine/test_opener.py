"""Bundles proved by the settings of their models, with the real children and the real cache."""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from app.bundle.store import Bundle
from app.engine.model import Model, ModelLimits
from app.engine.opener import BundleProver, Opener, OpenerOptions, RunRequest
from app.engine.proof.child import Cancelled
from app.engine.proof.plan import Plan
from app.engine.proof.plans import save_plans
from app.engine.providers.candidates import CPU_PROVIDER, Candidate
from app.engine.scheduling.workers import Workers
from app.errors import BundleCorrupt, ProofFailed, SettingsError
from app.opening import opener_options
from app.settings import ModelSettings, Settings
from tests.engine.conftest import HANG_S, on_loop
from tests.support import models
from tests.support.bundles import RECIPES, make_bundle, make_golden

BundleOf = Callable[..., Bundle]

ON_CPU = RunRequest(provider=("cpu",))


class Ignored:
    """An observer that looks away."""

    def batch(self, rows: int, waits_s: Sequence[float], run_s: float) -> None:
        pass


def prover_of(request: RunRequest = ON_CPU, **options: Any) -> BundleProver:
    return BundleProver(OpenerOptions(request, **({"budget_ms": 0} | options)), cores=2)


def plan_of(prover: BundleProver, bundle: Bundle, **how: Any) -> Plan:
    proved = prover.prove(bundle, **how)
    proved.session.close()
    return proved.plan


def test_a_bundle_is_proved_in_a_child_and_again_here(bundle_of: BundleOf) -> None:
    bundle = bundle_of("conv")

    proved = prover_of(budget_ms=3000).prove(bundle)

    golden = bundle.golden()
    assert proved.plan.provider == CPU_PROVIDER
    assert (proved.plan.source, proved.plan.numeric_class) == ("measured", "fp32")
    assert {cost.shape for cost in proved.plan.costs} == {(1, 2), (2, 1)}
    assert (proved.session.run(golden.inputs)["shape"] == golden.outputs["shape"]).all()
    proved.session.close()


def test_wrong_golden_rows_fail_in_the_real_child(bundle_of: BundleOf) -> None:
    golden = make_golden("affine")
    golden.outputs["y"][0] += 0.5

    with pytest.raises(ProofFailed) as failed:
        prover_of().prove(bundle_of("affine", golden=golden))

    assert str(failed.value).startswith(
        "no execution provider gave the golden answers: CPUExecutionProvider on cpu: batch of 1: "
        "outputs differ from golden beyond tolerance: 'y' by 0.5"
    )


def test_files_that_are_not_as_published_are_never_tried(bundle_of: BundleOf) -> None:
    bundle = bundle_of("affine")
    path = bundle.path / "golden.npz"
    path.write_bytes(path.read_bytes()[::-1])

    with pytest.raises(BundleCorrupt, match="another sha256"):
        prover_of().prove(bundle)


def test_what_nobody_wants_is_cancelled(bundle_of: BundleOf) -> None:
    with pytest.raises(Cancelled):
        prover_of().prove(bundle_of("affine"), cancelled=lambda: True)


def test_a_trial_that_takes_too_long_is_a_reason(bundle_of: BundleOf) -> None:
    with pytest.raises(ProofFailed, match=r"on cpu: took longer than 0\.001 s, at last starting"):
        prover_of(trial_timeout_s=0.001).prove(bundle_of("affine"))


# The cache


def test_a_second_start_tries_nothing(tmp_path: Path, bundle_of: BundleOf) -> None:
    bundle, cache = bundle_of("affine"), tmp_path / "cache"

    first = plan_of(prover_of(cache=cache, budget_ms=50), bundle)
    # A trial would not have the time to do anything.
    second = plan_of(prover_of(cache=cache, budget_ms=50, trial_timeout_s=0.001), bundle)

    assert (first.source, second.source) == ("measured", "cache")
    assert second == first.model_copy(update={"source": "cache"})


def test_a_cache_that_cannot_be_used_costs_only_time(tmp_path: Path, bundle_of: BundleOf) -> None:
    file = tmp_path / "file"
    file.touch()

    assert plan_of(prover_of(cache=file), bundle_of("affine")).source == "measured"


# Each by its own settings


def test_a_model_has_settings_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    graphs: Any = {"int8": models.model_bytes("affine_int8")}
    bundles = {
        name: make_bundle(tmp_path, name, graphs=graphs) for name in ("plain", "small", "strict")
    }
    by_model = {
        "small": RunRequest(("nowhere",), precision="int8"),
        "strict": RunRequest(("nowhere", "cpu"), strict=True),
    }

    prover = prover_of(by_model=by_model)

    plain, small = (plan_of(prover, bundles[name]) for name in ("plain", "small"))
    assert (plain.precision, plain.fallback, plain.provider_requested) == ("fp32", False, ("cpu",))
    assert (small.precision, small.fallback) == ("int8", True)
    assert small.provider_requested == ("nowhere",)
    with pytest.raises(ProofFailed, match="nowhere is not available here"):
        prover.prove(bundles["strict"])
    warned = [record.__dict__ for record in caplog.records if "nowhere" in record.problem]  # type: ignore[attr-defined]
    assert [line["model"] for line in warned] == ["small", "strict"]


def test_settings_of_a_model_are_over_those_of_the_service() -> None:
    options = opener_options(
        Settings(
            provider=("cuda", "cpu"),
            precision="auto",
            cache="off",
            calibration_budget_ms=7,
            trial_timeout_s=3,
            per_model={
                "a": ModelSettings(provider=("cpu",)),
                "b": ModelSettings(provider_strict=True, precision="int8"),
                "c": ModelSettings(timeout_ms=5),
            },
        )
    )

    assert options.request == RunRequest(("cuda", "cpu"), precision="auto")
    assert options.by_model == {
        "a": RunRequest(("cpu",), precision="auto"),
        "b": RunRequest(("cuda", "cpu"), strict=True, precision="int8"),
        "c": RunRequest(("cuda", "cpu"), precision="auto"),
    }
    assert (options.budget_ms, options.trial_timeout_s) == (7, 3.0)
    assert (options.cache, options.plans) == (None, None)


# Shipped plans


def test_a_file_of_plans_that_cannot_be_used_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="MODELPORT_PLAN cannot be read"):
        prover_of(plans=tmp_path / "nowhere.json")


def test_a_shipped_plan_needs_no_trial(tmp_path: Path, bundle_of: BundleOf) -> None:
    bundle, path = bundle_of("affine"), tmp_path / "plans.json"
    save_plans(path, {bundle.digest: plan_of(prover_of(budget_ms=50), bundle)})

    plan = plan_of(prover_of(plans=path, trial_timeout_s=0.001), bundle)

    assert plan.source == "shipped"
    assert json.loads(path.read_text())["plans"][bundle.digest]["source"] == "measured"


# A model to call


@on_loop
async def test_an_opened_model_answers(bundle_of: BundleOf) -> None:
    bundle = bundle_of("affine")
    workers = Workers(1, asyncio.get_running_loop())
    opener = await asyncio.to_thread(
        Opener, OpenerOptions(ON_CPU, budget_ms=0), workers, ModelLimits(256, 100)
    )

    model: Model = await asyncio.to_thread(opener.open, bundle, Ignored())

    golden = bundle.golden()
    answer = await model.predict(golden.inputs, golden.rows)
    assert answer["y"] == pytest.approx(golden.outputs["y"], abs=1e-5)
    await model.close(HANG_S)
    workers.close()


# The plug-ins that are installed here


@pytest.mark.parametrize("model", sorted(RECIPES))
def test_with_a_plugin_everything_serves_and_is_right(
    model: str, plugin: Candidate, bundle_of: BundleOf
) -> None:
    """Whatever the plug-in does, be it a crash: it serves, or it is rejected with a reason."""
    bundle = bundle_of(model)

    proved = prover_of(RunRequest((plugin.provider,)), budget_ms=100).prove(bundle)

    plan, golden = proved.plan, bundle.golden()
    outputs = proved.session.run(golden.tiled(plan.checked_rows[-1]).inputs)
    assert set(outputs) == set(golden.outputs)
    if plan.provider_opened == plugin.provider:
        assert plan.nodes_by_provider[plugin.provider] > 0
        assert plan.provider in plan.nodes_by_provider
        assert (plan.origin == "plug-in") == (plan.provider == plugin.provider)
        assert not plan.fallback
    else:
        assert plan.provider_opened == plan.provider == CPU_PROVIDER
        assert plan.fallback
        (rejected,) = plan.rejected
        assert (rejected.provider, rejected.device) == (plugin.provider, plugin.device)
        assert rejected.reason
    proved.session.close()


def test_what_a_plugin_cannot_run_fails_when_strict(plugin: Candidate, bundle_of: BundleOf) -> None:
    prover = prover_of(RunRequest((plugin.provider,), strict=True))

    with pytest.raises(ProofFailed, match="runs no node of this model"):
        prover.prove(bundle_of("strings"))


@pytest.mark.parametrize("model", ["affine", "conv"])
def test_auto_serves_with_whatever_is_installed(
    model: str, plugin: Candidate, bundle_of: BundleOf
) -> None:
    plan = plan_of(prover_of(RunRequest(), budget_ms=200), bundle_of(model))

    considered = {plan.provider_opened, *(rejection.provider for rejection in plan.rejected)}
    assert {plugin.provider, CPU_PROVIDER} <= considered
    assert all(rejection.reason for rejection in plan.rejected)
