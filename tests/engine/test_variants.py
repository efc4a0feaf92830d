"""Graphs of fewer bits: which one runs, by what was asked for and what proves."""

from collections.abc import Callable
from typing import Any

import pytest

from app.bundle.manifest import Tolerance
from app.bundle.store import Bundle
from app.engine.proof.planmaking import WantedPrecision
from app.engine.providers.candidates import CPU_PROVIDER
from app.engine.providers.ranking import Rejection, rank
from app.errors import BundleCorrupt, BundleUnsupported, ProofFailed
from tests.engine.fakes import CPU, CUDA, Trials, right_everywhere
from tests.support import models
from tests.support.bundles import make_golden, make_variants
from tests.support.opening import prove

BundleOf = Callable[..., Bundle]

EXACT = Tolerance(atol=1e-9, rtol=0)


@pytest.fixture
def bundle(bundle_of: BundleOf) -> Bundle:
    """Affine with both variants."""
    return bundle_of(
        "affine",
        graphs={name: models.model_bytes(f"affine_{name}") for name in ("int8", "fp16")},
    )


def test_fp32_leaves_the_variants_alone(bundle: Bundle) -> None:
    trials = Trials({(CPU_PROVIDER, "int8"): 0.1})

    plan = prove(bundle, rank([CPU]), trial=trials, budget_ms=10).plan

    assert plan.precision == "fp32"
    assert trials.tried == [(CPU_PROVIDER, "fp32")]


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_variant_that_proves_is_used(precision: WantedPrecision, bundle: Bundle) -> None:
    proved = prove(bundle, rank([CPU]), precision=precision)

    assert (proved.plan.precision, proved.plan.rejected) == (precision, ())
    assert proved.plan.numeric_class == "reduced"
    # It really is the other graph: fp32 is nearer.
    assert proved.plan.max_abs_error["y"] > 1e-6
    golden = make_golden("affine")
    outputs = proved.session.run(golden.inputs)
    assert outputs["y"] == pytest.approx(golden.outputs["y"], abs=0.1)
    assert (outputs["y"] != golden.outputs["y"]).any()
    proved.session.close()


def test_a_variant_that_is_not_there_is_said(bundle_of: BundleOf) -> None:
    plan = prove(bundle_of("affine"), rank([CPU]), precision="int8").plan

    assert plan.precision == "fp32"
    assert "fp32, as the bundle has no int8 graph" in plan.reason


def test_a_wrong_variant_gives_way_to_fp32_and_why_is_told(bundle_of: BundleOf) -> None:
    wrong = models.model_bytes("affine_int8").replace(b"Add", b"Sub")
    bundle = bundle_of("affine", graphs={"int8": wrong})

    plan = prove(bundle, rank([CPU]), precision="int8").plan

    assert (plan.precision, plan.numeric_class) == ("fp32", "fp32")
    assert "fp32, as the int8 graph was rejected" in plan.reason
    (rejected,) = plan.rejected
    assert rejected.provider == CPU_PROVIDER
    assert rejected.reason.startswith("int8: batch of 1: outputs differ from golden")


def test_a_variant_of_another_signature_gives_way(bundle_of: BundleOf) -> None:
    bundle = bundle_of("affine", graphs={"int8": models.model_bytes("poison")})

    plan = prove(bundle, rank([CPU]), precision="int8").plan

    assert plan.precision == "fp32"
    assert "int8: the graph has input 'index'" in plan.rejected[0].reason


def test_a_variant_right_in_its_trial_but_not_here_gives_way(bundle_of: BundleOf) -> None:
    wrong = models.model_bytes("affine_int8").replace(b"Add", b"Sub")
    bundle = bundle_of("affine", graphs={"int8": wrong})

    plan = prove(bundle, rank([CPU]), trial=Trials(), precision="int8", budget_ms=10).plan

    assert plan.precision == "fp32"
    assert plan.rejected[0].reason.startswith("int8: was right in a trial, but here: batch of 1")


def test_another_provider_may_prove_what_the_first_does_not(bundle: Bundle) -> None:
    trials = Trials(wrong={(CUDA.provider, "int8"): "no int8 kernels"})

    plan = prove(
        bundle,
        rank([CUDA, CPU]),
        trial=trials,
        open_session=right_everywhere,
        precision="int8",
        budget_ms=10,
    ).plan

    assert (plan.provider, plan.precision) == (CPU_PROVIDER, "int8")
    assert plan.rejected == (Rejection(CUDA.provider, "gpu", "int8: no int8 kernels"),)


def test_a_provider_that_was_asked_for_first_serves_fp32_before_another_int8(
    bundle: Bundle,
) -> None:
    trials = Trials(wrong={(CUDA.provider, "int8"): "no int8 kernels"})

    plan = prove(
        bundle,
        rank([CUDA, CPU], ("cuda", "cpu")),
        trial=trials,
        open_session=right_everywhere,
        precision="int8",
    ).plan

    assert (plan.provider, plan.precision) == (CUDA.provider, "fp32")


@pytest.mark.parametrize(
    ("int8_ms", "fp16_ms", "serves"),
    [(0.5, 0.8, "int8"), (0.8, 0.5, "fp16"), (2.0, 2.0, "fp32"), (0.97, 0.97, "fp32")],
)
def test_auto_is_the_fastest_that_proves(
    int8_ms: float, fp16_ms: float, serves: str, bundle: Bundle
) -> None:
    trials = Trials({(CPU_PROVIDER, "int8"): int8_ms, (CPU_PROVIDER, "fp16"): fp16_ms})

    plan = prove(bundle, rank([CPU]), trial=trials, precision="auto", budget_ms=30).plan

    assert plan.precision == serves
    assert {precision for _, precision in trials.tried} == {"fp32", "int8", "fp16"}
    assert sorted(r.reason for r in plan.rejected) == sorted(
        ("" if name == "fp32" else f"{name}: ") + "right, but slower"
        for name in {"fp32", "int8", "fp16"} - {serves}
    )


def test_auto_takes_no_faster_variant_that_is_wrong(bundle: Bundle) -> None:
    trials = Trials(
        {(CPU_PROVIDER, "int8"): 0.1, (CPU_PROVIDER, "fp16"): 0.5},
        wrong={(CPU_PROVIDER, "int8"): "wrong"},
    )

    plan = prove(bundle, rank([CPU]), trial=trials, precision="auto", budget_ms=30).plan

    assert plan.precision == "fp16"
    assert plan.rejected[0] == Rejection(CPU_PROVIDER, "cpu", "int8: wrong")


def test_auto_compares_providers_and_graphs_together(bundle: Bundle) -> None:
    trials = Trials({(CPU_PROVIDER, "int8"): 0.3, CUDA.provider: 0.6})

    plan = prove(
        bundle,
        rank([CUDA, CPU]),
        trial=trials,
        open_session=right_everywhere,
        precision="auto",
        budget_ms=600,
    ).plan

    assert (plan.provider, plan.precision) == (CPU_PROVIDER, "int8")
    assert [job.budget_ms for job in trials.jobs] == [100] * 6


def test_auto_without_measuring_is_what_was_exported(bundle: Bundle) -> None:
    assert prove(bundle, rank([CPU]), precision="auto").plan.precision == "fp32"


# A variant's own bar


def test_a_variant_is_held_to_its_own_tolerance(bundle_of: BundleOf) -> None:
    tight = make_variants(["int8"], tolerances={"y": EXACT, "total": EXACT})
    bundle = bundle_of("affine", graphs={"int8": models.model_bytes("affine_int8")}, variants=tight)

    plan = prove(bundle, rank([CPU]), precision="int8").plan

    assert plan.precision == "fp32"
    assert "int8: batch of 1: outputs differ" in plan.rejected[0].reason


def test_an_output_that_a_variant_has_no_tolerance_for_must_be_equal(bundle_of: BundleOf) -> None:
    loose = make_variants(["int8"], tolerances={"y": Tolerance(atol=1, rtol=1)})
    bundle = bundle_of("affine", graphs={"int8": models.model_bytes("affine_int8")}, variants=loose)

    assert prove(bundle, rank([CPU]), precision="int8").plan.precision == "fp32"


# The files


def test_a_variant_with_a_forbidden_operator_refuses_the_bundle(bundle_of: BundleOf) -> None:
    foreign = models.model_bytes("strings").replace(b"ai.onnx.ml", b"ai.onyx.ml")
    bundle = bundle_of("affine", graphs={"int8": foreign})

    with pytest.raises(BundleUnsupported, match=r"of domain 'ai\.onyx\.ml' is not allowed"):
        prove(bundle, rank([CPU]))


def test_a_variant_that_is_no_graph_refuses_the_bundle(bundle_of: BundleOf) -> None:
    bundle = bundle_of("affine", graphs={"int8": b"\xff\xff\xff no graph"})

    with pytest.raises(BundleCorrupt, match="not a readable ONNX file"):
        prove(bundle, rank([CPU]))


def test_a_variant_that_was_changed_refuses_the_bundle(bundle: Bundle) -> None:
    path = bundle.path / "model.int8.onnx"
    path.write_bytes(path.read_bytes().replace(b"Add", b"Sub"))

    with pytest.raises(BundleCorrupt, match=r"model\.int8\.onnx has another sha256"):
        prove(bundle, rank([CPU]))


def test_a_variant_without_its_file_refuses_the_bundle(bundle_of: BundleOf) -> None:
    bundle = bundle_of("affine", variants=make_variants(["int8"]))

    with pytest.raises(BundleCorrupt, match=r"model\.int8\.onnx is not in the manifest"):
        prove(bundle, rank([CPU]))


def test_nothing_proves_where_fp32_is_wrong_too(bundle_of: BundleOf) -> None:
    graphs: Any = {"int8": models.model_bytes("poison")}
    bundle = bundle_of("affine", graphs=graphs, model_data=models.model_bytes("poison"))

    with pytest.raises(ProofFailed) as failed:
        prove(bundle, rank([CPU]), precision="int8")

    assert "on cpu: int8: the graph has input 'index'" in str(failed.value)
    assert "on cpu: the graph has input 'index'" in str(failed.value)
