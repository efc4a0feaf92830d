import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from app.bundle.golden import Golden
from app.bundle.manifest import Batching, Tolerance
from app.bundle.store import Bundle
from app.engine.candidates import CPU_PROVIDER, Candidate
from app.engine.plan import Plan
from app.engine.proof import Proved, batch_sizes, prove
from app.engine.providers import Discovery
from app.engine.ranking import Ranking, Rejection, rank
from app.engine.session import Session
from app.errors import BundleCorrupt, ProofFailed, SessionFailed
from tests.support import models
from tests.support.bundles import RECIPES, make_golden, make_manifest

BundleOf = Callable[..., Bundle]

CUDA = Candidate("CUDAExecutionProvider", "gpu", "Acme")
NPU = Candidate("AcmeExecutionProvider", "npu")
CPU = Candidate(CPU_PROVIDER, "cpu")


class FakeSession:
    """Computes the affine model in numpy, off by `error`, and remembers what was done to it."""

    def __init__(self, nodes: dict[str, int], error: float = 0.0) -> None:
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


def proved_on_cpu(bundle: Bundle) -> Proved:
    return prove(bundle, rank([CPU]), 1)


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
    assert (plan.intra_op_threads, plan.max_rows, plan.checked_rows) == (1, 16, (1, 7, 16))
    assert plan.proof_ms > 0


def test_a_plan_survives_json(bundle_of: BundleOf) -> None:
    plan = prove(bundle_of("affine"), rank([CPU], ("cuda",)), 1).plan

    text = plan.model_dump_json()

    assert Plan.model_validate_json(text) == plan
    assert json.loads(text)["rejected"][0]["provider"] == "cuda"


@pytest.mark.parametrize(
    ("max_rows", "sizes"), [(1, (1,)), (4, (1, 4)), (7, (1, 7)), (64, (1, 7, 64))]
)
def test_independent_rows_are_replayed_at_one_odd_and_most(
    max_rows: int, sizes: tuple[int, ...]
) -> None:
    batching = Batching(row_independent=True, max_rows=max_rows, checked_rows=(1,))

    assert batch_sizes(make_manifest("m", 1, batching=batching), 6) == sizes


@pytest.mark.parametrize(("max_rows", "sizes"), [(16, (6,)), (1, (1,))])
def test_dependent_rows_are_replayed_as_they_were_recorded(
    max_rows: int, sizes: tuple[int, ...]
) -> None:
    batching = Batching(row_independent=False, max_rows=max_rows, checked_rows=())

    assert batch_sizes(make_manifest("m", 1, batching=batching), 6) == sizes


def test_a_fixed_batch_is_the_only_one() -> None:
    manifest = make_manifest("m", 1)
    fixed = manifest.signature.inputs[0].model_copy(update={"shape": (3, 3)})
    signature = manifest.signature.model_copy(update={"inputs": (fixed,)})

    assert batch_sizes(manifest.model_copy(update={"signature": signature}), 6) == (3,)


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


def test_a_truncated_model_fails_the_proof(bundle_of: BundleOf) -> None:
    with pytest.raises(ProofFailed, match="on cpu: the model cannot be opened: "):
        proved_on_cpu(bundle_of("affine", model_data=models.model_bytes("affine")[:100]))


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


def test_the_first_correct_candidate_serves(bundle_of: BundleOf) -> None:
    wrong = FakeSession({NPU.provider: 3}, error=5.0)
    right = FakeSession({CPU_PROVIDER: 3})
    sessions = {
        CUDA.provider: SessionFailed("out of memory"),
        NPU.provider: wrong,
        CPU_PROVIDER: right,
    }

    proved = prove(bundle_of("affine"), rank([CPU, CUDA, NPU]), 2, opening(sessions))

    assert proved.plan.provider == CPU_PROVIDER
    assert proved.plan.rejected == (
        Rejection(CUDA.provider, "gpu", "out of memory"),
        Rejection(
            NPU.provider,
            "npu",
            "batch of 1: outputs differ from golden beyond tolerance: 'y' by 5, 'total' by 5",
        ),
    )
    assert proved.plan.intra_op_threads == 2
    assert (wrong.closed, right.closed) == (1, 0)
    assert right.batches == [1, 7, 16]


def test_reduced_arithmetic_is_accepted_and_shown(bundle_of: BundleOf) -> None:
    sessions = {CUDA.provider: FakeSession({CUDA.provider: 3}, error=1e-3)}

    plan = prove(bundle_of("affine"), rank([CUDA]), 1, opening(sessions)).plan

    assert plan.numeric_class == "reduced"
    assert plan.max_abs_error["y"] == pytest.approx(1e-3, rel=1e-2)
    assert (plan.device, plan.device_name) == ("gpu", "Acme")


def test_a_bundle_without_a_reduced_tolerance_refuses_it(bundle_of: BundleOf) -> None:
    exact = {"fp32": dict.fromkeys(("y", "total"), Tolerance(atol=1e-5, rtol=1e-5))}
    sessions = {CUDA.provider: FakeSession({CUDA.provider: 3}, error=1e-3)}

    with pytest.raises(ProofFailed, match="beyond tolerance"):
        prove(bundle_of("affine", tolerances=exact), rank([CUDA]), 1, opening(sessions))


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
        prove(bundle_of("affine"), rank([CUDA]), 1, opening({CUDA.provider: idle}))

    assert idle.closed == 1
    assert idle.batches == []


def test_a_provider_that_runs_few_nodes_is_not_the_active_one(bundle_of: BundleOf) -> None:
    mixed = FakeSession({CPU_PROVIDER: 9, CUDA.provider: 1})

    plan = prove(bundle_of("affine"), rank([CUDA]), 1, opening({CUDA.provider: mixed})).plan

    assert (plan.provider_opened, plan.provider, plan.device) == (
        CUDA.provider,
        CPU_PROVIDER,
        "cpu",
    )
    assert plan.nodes_by_provider == {CPU_PROVIDER: 9, CUDA.provider: 1}


def test_what_was_asked_for_and_absent_is_told(bundle_of: BundleOf) -> None:
    plan = prove(bundle_of("affine"), rank([CPU], ("cuda",)), 1).plan

    assert plan.provider == CPU_PROVIDER
    assert plan.fallback
    assert plan.rejected[0].provider == "cuda"
    assert plan.reason.startswith("last resort behind what was asked for")


def test_strict_fails_instead_of_falling_back(bundle_of: BundleOf) -> None:
    with pytest.raises(ProofFailed, match="cuda is not available here"):
        prove(bundle_of("affine"), rank([CPU], ("cuda",), strict=True), 1)


def test_with_no_candidate_the_proof_fails(bundle_of: BundleOf) -> None:
    with pytest.raises(ProofFailed, match="none is here"):
        prove(bundle_of("affine"), Ranking(("auto",), ()), 1)


def test_an_unexpected_error_still_closes_the_session(bundle_of: BundleOf) -> None:
    session = FakeSession({CPU_PROVIDER: 3}, error="not a number")  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="not a number"):
        prove(bundle_of("affine"), rank([CPU]), 1, opening({CPU_PROVIDER: session}))

    assert session.closed == 1


# The plug-ins that are installed here


def test_auto_prefers_the_built_in_cpu_to_a_cpu_plugin(
    plugin: Candidate, discovery: Discovery, bundle_of: BundleOf
) -> None:
    if plugin.device != "cpu":
        pytest.skip("not a plug-in on the CPU")
    plan = prove(bundle_of("poison"), rank([plugin, CPU]), 1).plan

    assert plan.provider == CPU_PROVIDER


@pytest.mark.parametrize("model", ["affine", "poison", "conv", "strings", "mixer"])
def test_a_plugin_serves_only_what_it_claims(
    model: str, plugin: Candidate, discovery: Discovery, bundle_of: BundleOf
) -> None:
    ranking = rank(discovery.candidates, (plugin.provider,))
    with_it = Session.open(models.model_bytes(model), plugin, 1)
    claimed = with_it.nodes_by_provider.get(plugin.provider, 0)
    with_it.close()

    plan = prove(bundle_of(model), ranking, 1).plan

    if claimed:
        assert plan.provider_opened == plugin.provider
        assert plan.nodes_by_provider[plugin.provider] == claimed
        assert (plan.rejected, plan.fallback) == ((), False)
    else:
        assert plan.provider_opened == plan.provider == CPU_PROVIDER
        assert plan.rejected == (
            Rejection(plugin.provider, plugin.device, "runs no node of this model"),
        )
        assert plan.fallback


def test_a_plugin_that_claims_nothing_fails_when_strict(
    plugin: Candidate, discovery: Discovery, bundle_of: BundleOf
) -> None:
    ranking = rank(discovery.candidates, (plugin.provider,), strict=True)

    with pytest.raises(ProofFailed, match="runs no node of this model"):
        prove(bundle_of("strings"), ranking, 1)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("box", "blob", "stroke"), "has labels that the manifest has not"),
        (models.SHAPES[::-1], "is not the label of the best score"),
    ],
)
def test_labels_that_contradict_the_golden_rows_are_refused(
    bundle_of: BundleOf, cpu: Candidate, labels: tuple[str, ...], message: str
) -> None:
    signature = RECIPES["conv"]().signature
    shape, scores = signature.predictions
    predictions = tuple(p.model_copy(update={"labels": labels}) for p in (shape, scores))
    bundle = bundle_of("conv", signature=signature.model_copy(update={"predictions": predictions}))

    with pytest.raises(BundleCorrupt, match=message):
        prove(bundle, rank([cpu]), 1)
