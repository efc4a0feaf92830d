"""Plans in a file: written, read, and obeyed only where they fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.bundle.store import Bundle
from app.engine.proof.plan import Plan
from app.engine.proof.planmaking import ProofRequest, WantedPrecision
from app.engine.proof.plans import load_plans, save_plans
from app.engine.proof.prover import Proved, Prover
from app.engine.proof.trialjob import TrialJob
from app.engine.proof.tryouts import IsCancelled, ProofOptions, TryOut
from app.engine.proof.verdict import Verdict
from app.engine.providers.candidates import CPU_PROVIDER
from app.engine.providers.ranking import Ranking, rank
from app.errors import SessionFailed, SettingsError
from tests.engine.fakes import (
    CPU,
    CUDA,
    PLUGIN,
    FakeSession,
    Trials,
    cost,
    opening,
    right_everywhere,
)
from tests.support import models

BundleOf = Callable[..., Bundle]


def plan_of(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "provider_requested": ("auto",),
        "provider_opened": CPU_PROVIDER,
        "provider": CPU_PROVIDER,
        "device": "cpu",
        "device_name": "Elsewhere",
        "origin": "built-in",
        "reason": "auto: built-in on the cpu; golden outputs met",
        "fallback": False,
        "numeric_class": "fp32",
        "max_abs_error": {"y": 0.0, "total": 0.0},
        "nodes_by_provider": {CPU_PROVIDER: 2},
        "rejected": (),
        "intra_op_threads": 1,
        "instances": 2,
        "max_rows": 8,
        "inline_rows": 4,
        "checked_rows": (1, 7, 8),
        "costs": (cost(1, 0.01, 1, 2), cost(8, 0.05, 1, 2)),
        "proof_ms": 12.0,
        "calibration_ms": 34.0,
    }
    return Plan(**(fields | changes))


ON_PLUGIN: dict[str, Any] = {"provider_opened": PLUGIN.provider, "provider": PLUGIN.provider}


# The file


def test_plans_survive_their_file(tmp_path: Path) -> None:
    plans = {"a" * 64: plan_of(), "b" * 64: plan_of(max_rows=1)}
    path = tmp_path / "plans.json"

    save_plans(path, plans)

    assert load_plans(path) == plans
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    save_plans(path, {"a" * 64: plan_of()})

    save_plans(path, {})

    assert load_plans(path) == {}


@pytest.mark.parametrize("schema_version", ["1.0", "1.99"])
def test_newer_minors_are_read(schema_version: str, tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    document = {"schema_version": schema_version, "plans": {}, "more": 1}
    path.write_text(json.dumps(document))

    assert load_plans(path) == {}


def bad_files() -> dict[str, tuple[bytes, str]]:
    good = json.loads(plan_of().model_dump_json())
    return {
        "empty": (b"", "not valid at document"),
        "no JSON": (b"{", "not valid at document"),
        "no Unicode": (b"\xff\xfe", "not valid at document"),
        "a list": (b"[]", "not valid at document"),
        "nested": (b"[" * 10**5, "not valid at document"),
        "without plans": (b"{}", "not valid at plans: Field required"),
        "another major": (b'{"schema_version": "2.0", "plans": {}}', "not valid at schema_version"),
        "no plan": (b'{"plans": {"abc": 5}}', "not valid at plans.abc"),
        "half a plan": (
            json.dumps({"plans": {"abc": {**good, "max_rows": 0}}}).encode(),
            "not valid at plans.abc.max_rows",
        ),
        "no threads": (
            json.dumps({"plans": {"abc": {**good, "intra_op_threads": 0}}}).encode(),
            "not valid at plans.abc.intra_op_threads",
        ),
        "no device": (
            json.dumps({"plans": {"abc": {**good, "device": "tpu"}}}).encode(),
            "not valid at plans.abc.device",
        ),
        "free runs": (
            json.dumps({"plans": {"abc": {**good, "costs": [{"run_ms": 0}]}}}).encode(),
            "not valid at plans.abc.costs.0",
        ),
    }


@pytest.mark.parametrize("kind", bad_files())
def test_a_bad_file_is_a_settings_error_that_says_where(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    content, message = bad_files()[kind]
    path.write_bytes(content)

    with pytest.raises(SettingsError) as refused:
        load_plans(path)

    assert message in str(refused.value)
    assert str(tmp_path) not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_a_settings_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load_plans(tmp_path / "plans.json")


def test_a_folder_is_a_settings_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        load_plans(tmp_path)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    with path.open("wb") as file:
        file.truncate(2**30)

    with pytest.raises(SettingsError, match="larger than"):
        load_plans(path)


@pytest.mark.parametrize("place", ["nowhere/plans.json", "folder"])
def test_a_place_that_cannot_be_written_is_a_settings_error(place: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    with pytest.raises(SettingsError, match="cannot be written: "):
        save_plans(tmp_path / place, {})

    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


# A shipped plan


def proved(
    bundle: Bundle,
    plan: Plan,
    trials: TryOut,
    ranking: Ranking | None = None,
    *,
    cores: int = 2,
    open_session: Any = right_everywhere,
    precision: WantedPrecision = "fp32",
) -> Proved:
    prover = Prover(
        ProofOptions(cores, 100),
        trials,
        shipped={bundle.digest: plan},
        open_session=open_session,
    )
    return prover.prove(ProofRequest(bundle, ranking or rank([CPU]), precision))


def test_a_shipped_plan_is_obeyed_without_a_trial(bundle_of: BundleOf) -> None:
    trials, shipped = Trials(), plan_of()

    plan = proved(bundle_of("affine"), shipped, trials).plan

    assert trials.jobs == []
    assert plan.source == "shipped"
    assert (plan.intra_op_threads, plan.instances, plan.max_rows) == (1, 2, 8)
    assert (plan.inline_rows, plan.costs) == (4, shipped.costs)


def test_a_shipped_plan_saves_no_proof(bundle_of: BundleOf) -> None:
    session = FakeSession({CPU_PROVIDER: 3})

    proved(bundle_of("affine"), plan_of(), Trials(), open_session=opening({CPU_PROVIDER: session}))

    assert session.batches[:3] == [1, 7, 8]
    assert session.closed == 0


def test_a_shipped_plan_tells_what_was_proved_here(bundle_of: BundleOf) -> None:
    session = FakeSession({CPU_PROVIDER: 5}, error=1e-3)

    plan = proved(
        bundle_of("affine"), plan_of(), Trials(), open_session=opening({CPU_PROVIDER: session})
    ).plan

    assert plan.numeric_class == "reduced"
    assert plan.max_abs_error["y"] == pytest.approx(1e-3, rel=1e-2)
    assert plan.nodes_by_provider == {CPU_PROVIDER: 5}


@pytest.mark.parametrize(
    ("threads", "instances", "cores", "runs"), [(1, 8, 3, 3), (2, 2, 3, 1), (1, 1, 4, 1)]
)
def test_instances_are_as_many_as_fit(
    threads: int, instances: int, cores: int, runs: int, bundle_of: BundleOf
) -> None:
    shipped = plan_of(intra_op_threads=threads, instances=instances)

    plan = proved(bundle_of("affine"), shipped, Trials(), cores=cores).plan

    assert (plan.source, plan.intra_op_threads, plan.instances) == ("shipped", threads, runs)


def test_a_shipped_plan_may_only_lower_the_rows(bundle_of: BundleOf) -> None:
    plan = proved(bundle_of("affine"), plan_of(max_rows=4096, inline_rows=4096), Trials()).plan

    assert plan.max_rows <= 16
    assert plan.inline_rows <= 16


def test_a_shipped_plan_for_what_is_a_last_resort_here_is_one(bundle_of: BundleOf) -> None:
    plan = proved(bundle_of("affine"), plan_of(), Trials(), rank([CPU], ("cuda",))).plan

    assert (plan.source, plan.fallback, plan.provider_requested) == ("shipped", True, ("cuda",))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"provider_opened": CUDA.provider, "provider": CUDA.provider, "device": "gpu"},
            "CUDAExecutionProvider is not among the candidates here",
        ),
        ({"intra_op_threads": 4}, "it wants 4 cores, here are 2"),
        ({"precision": "int8"}, "int8"),
    ],
)
def test_a_plan_that_does_not_fit_is_warned_of_and_left(
    changes: dict[str, Any],
    reason: str,
    bundle_of: BundleOf,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trials = Trials()

    plan = proved(bundle_of("affine"), plan_of(**changes), trials).plan

    assert (plan.source, len(trials.jobs)) == ("measured", 1)
    (warning,) = caplog.records
    assert warning.message == "a shipped plan does not fit"
    assert warning.__dict__["model"] == "affine"
    assert reason in warning.__dict__["reason"]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (FakeSession({PLUGIN.provider: 3}, error=1.0), "batch of 1: outputs differ"),
        (SessionFailed("out of memory"), "out of memory"),
        (FakeSession({CPU_PROVIDER: 3}), "runs no node of this model"),
    ],
)
def test_a_plan_that_is_wrong_here_is_warned_of_and_left(
    broken: Any, reason: str, bundle_of: BundleOf, caplog: pytest.LogCaptureFixture
) -> None:
    sessions = {PLUGIN.provider: broken, CPU_PROVIDER: FakeSession({CPU_PROVIDER: 3})}
    right = Trials()

    def later_wrong(job: TrialJob, timeout_s: float, cancelled: IsCancelled) -> Verdict:
        """The plug-in is right in the trial for the shipped plan, so that it is opened here."""
        wrong = {PLUGIN.provider: "no"} if right.jobs else {}
        right.wrong = wrong
        return right(job, timeout_s, cancelled)

    plan = proved(
        bundle_of("affine"),
        plan_of(**ON_PLUGIN),
        later_wrong,
        rank([CPU, PLUGIN]),
        open_session=opening(sessions),
    ).plan

    assert (plan.source, plan.provider) == ("measured", CPU_PROVIDER)
    assert reason in caplog.records[0].__dict__["reason"]
    if isinstance(broken, FakeSession):
        assert broken.closed == 1


def test_a_shipped_plan_for_a_plug_in_is_tried_apart_but_not_measured(bundle_of: BundleOf) -> None:
    trials, shipped = Trials(), plan_of(**ON_PLUGIN)

    plan = proved(bundle_of("affine"), shipped, trials, rank([CPU, PLUGIN])).plan

    assert (plan.source, plan.provider_opened) == ("shipped", PLUGIN.provider)
    (job,) = trials.jobs
    assert (job.candidate, job.budget_ms, job.costs) == (PLUGIN, 0, shipped.costs)


def test_a_plug_in_that_crashes_apart_is_not_opened_here(
    bundle_of: BundleOf, caplog: pytest.LogCaptureFixture
) -> None:
    crash = "crashed (SIGSEGV) while opening the model"
    sessions: dict[str, Any] = {CPU_PROVIDER: FakeSession({CPU_PROVIDER: 3})}  # or a KeyError
    trials = Trials(wrong={PLUGIN.provider: crash})

    plan = proved(
        bundle_of("affine"),
        plan_of(**ON_PLUGIN),
        trials,
        rank([CPU, PLUGIN]),
        open_session=opening(sessions),
    ).plan

    assert (plan.source, plan.provider) == ("measured", CPU_PROVIDER)
    assert caplog.records[0].__dict__["reason"] == crash


@pytest.mark.parametrize(
    ("wanted", "source"), [("fp32", "measured"), ("auto", "shipped"), ("int8", "shipped")]
)
def test_a_shipped_plan_does_not_overrule_the_precision_that_is_asked_for(
    wanted: WantedPrecision, source: str, bundle_of: BundleOf
) -> None:
    bundle = bundle_of("affine", graphs={"int8": models.model_bytes("affine_int8")})

    plan = proved(bundle, plan_of(precision="int8"), Trials(), precision=wanted).plan

    assert plan.source == source


def test_a_plan_for_another_version_does_not_count(bundle_of: BundleOf) -> None:
    bundle, trials = bundle_of("affine"), Trials()
    prover = Prover(
        ProofOptions(2, 100), trials, shipped={"0" * 64: plan_of()}, open_session=right_everywhere
    )

    plan = prover.prove(ProofRequest(bundle, rank([CPU]))).plan

    assert (plan.source, len(trials.jobs)) == ("measured", 1)


def test_a_plan_may_ship_a_variant(bundle_of: BundleOf) -> None:
    bundle = bundle_of("affine", graphs={"int8": models.model_bytes("affine_int8")})
    prover = Prover(
        ProofOptions(2, 100), Trials(), shipped={bundle.digest: plan_of(precision="int8")}
    )

    proved = prover.prove(ProofRequest(bundle, rank([CPU]), "auto"))

    assert (proved.plan.source, proved.plan.precision) == ("shipped", "int8")
    golden = bundle.golden()
    assert (proved.session.run(golden.inputs)["y"] != golden.outputs["y"]).any()
    proved.session.close()
