import re
from dataclasses import replace

import numpy as np
import onnx
import pytest

from app.bundle.golden import replay
from app.bundle.operators import check_operators
from training import pipeline
from training.config import RunConfig
from training.errors import GateFailed, UsageError
from training.evaluation.validate import evaluate
from training.export import quantize, runtime
from training.export.variants import Exported, by_damage, loss_of, make_variants, wanted
from training.pipeline import Outcome
from training.progress import Progress

pytestmark = pytest.mark.training

QUICK = {"epochs": 6, "gates": "accuracy>=0.9", "threads": 1}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Digits with both variants."""
    models = tmp_path_factory.mktemp("variants")
    # A quick run is not good enough for half a point.
    return pipeline.run("digits", models, QUICK | {"variants": "int8,fp16", "variant_drop": 2})


def test_variants_are_published_with_their_evidence(both: Outcome):
    manifest = both.manifest

    assert set(manifest.variants) == {"int8", "fp16"}
    for name, one in manifest.variants.items():
        assert one.file in manifest.files
        check_operators(both.bundle.model(name))
        assert set(one.metrics) == {"validation", "test"}
        assert set(one.speedup) == {"1", "32"}
        assert all(ratio > 0 for ratio in one.speedup.values())
        lost = manifest.metrics["validation"]["accuracy"] - one.metrics["validation"]["accuracy"]
        assert 100 * lost <= both.config.variant_drop
    assert (
        manifest.files["model.int8.onnx"].size_bytes < manifest.files["model.onnx"].size_bytes / 2
    )
    assert manifest.quality.left_out == {}


@pytest.mark.parametrize("name", ["int8", "fp16"])
def test_variant_passes_the_replay_that_serving_makes(both: Outcome, name: str):
    run = runtime.open_run(both.bundle.model(name))

    found = replay(run, both.bundle.golden(), both.manifest.variant(name), sizes=(1, 7, 64))

    assert found.numeric_class == "reduced", found.reason


def test_metrics_of_a_variant_are_those_of_its_file(both: Outcome):
    run = runtime.open_run(both.bundle.model("int8"))
    scores = runtime.answers(run, both.test.inputs, "scores", 64)

    assert both.manifest.variants["int8"].metrics["test"] == evaluate(scores, both.test).metrics


def test_layers_are_in_int8_and_preprocessing_and_scores_are_not(both: Outcome):
    graph = onnx.load_model_from_string(both.bundle.model("int8")).graph
    made_by = {name: node for node in graph.node for name in node.output}

    for node in graph.node:
        source = made_by.get(node.input[0])
        if node.op_type == "Gemm":
            assert source.op_type == "DequantizeLinear"
        if node.op_type in ("Sub", "Div", "Softmax") and source is not None:
            assert source.op_type in ("Cast", "Div", "Sub", "DequantizeLinear")
    kinds = [node.op_type for node in graph.node]
    assert kinds.index("QuantizeLinear") > kinds.index("Unsqueeze")
    assert kinds[-2:] == ["ArgMax", "LabelEncoder"]


def test_fp16_takes_and_gives_what_the_graph_did(both: Outcome):
    plain, small = (
        onnx.load_model_from_string(both.bundle.model(name)).graph for name in ("fp32", "fp16")
    )

    def types(values):
        return [(v.name, v.type.tensor_type.elem_type) for v in values]

    assert types(small.input) == types(plain.input)
    assert types(small.output) == types(plain.output)
    assert any(one.data_type == onnx.TensorProto.FLOAT16 for one in small.initializer)


def test_no_variant_holds_a_path_of_this_machine(both: Outcome):
    for one in both.manifest.variants.values():
        data = both.bundle.read(one.file)
        assert not re.search(rb"/tmp|/home|/root|site-packages", data)


def test_variant_that_loses_too_much_stops_a_run_that_asked_for_it(digits: Outcome):
    config = digits.config.model_copy(update={"variants": "int8", "variant_drop": 0})
    split = replace(
        digits.split,
        validation=replace(digits.split.validation, targets=best_targets(digits)),
        train=replace(digits.split.train, inputs=dark(digits.split.train.inputs)),
    )

    with pytest.raises(GateFailed, match=r"variant int8 loses [0-9.]+ on the validation rows"):
        make_variants(digits.bundle.model(), digits.proof, split, config, Progress())


def best_targets(outcome: Outcome):
    """Truths for which the exported graph is always right."""
    return outcome.predictor.answers(outcome.split.validation.inputs).argmax(axis=1)


def dark(inputs):
    """Pictures by which no range can be measured."""
    return {name: np.zeros_like(array) for name, array in inputs.items()}


def test_quick_model_is_left_alone_unless_asked(penguins: Outcome):
    assert penguins.manifest.variants == {}
    assert "there is little to gain" in penguins.manifest.quality.left_out["int8"]


def test_layer_that_hurts_is_found(digits: Outcome):
    prepared = quantize.prepare(digits.bundle.model())
    exported = Exported(
        prepared, runtime.open_run(prepared), digits.split, digits.config, digits.proof.golden
    )
    layers = quantize.heavy_layers(prepared)
    thin = quantize.thin_layers(prepared)

    found = by_damage(prepared, digits.split.train.inputs, exported, thin, until=float("inf"))

    assert set(found) < set(layers) - set(thin)
    assert len(found) == len(layers) - len(thin) - 1


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        ("none", ()),
        ("auto", ("int8",)),
        ("fp16", ("fp16",)),
        ("int8,fp16", ("int8", "fp16")),
    ],
)
def test_setting_names_the_variants(setting: str, names: tuple[str, ...]):
    assert wanted(RunConfig(variants=setting).variants) == names


def test_unknown_variant_is_refused():
    with pytest.raises(UsageError, match="variants=int4"):
        RunConfig().with_overrides({"variants": "int4"})


def test_loss_is_in_points(digits: Outcome):
    want = np.eye(10, dtype=np.float32)[digits.test.targets]
    got = want.copy()
    got[:18] = np.roll(got[:18], 1, axis=1)

    assert loss_of(digits.test, want, got) == pytest.approx(100 * 18 / len(digits.test))
