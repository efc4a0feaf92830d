import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from app.bundle.tensors import take_rows
from tests.training.frames import FIT, numbers_dataset, run_of
from training import pipeline
from training.config import RunConfig
from training.data.dataset import Dataset, Rows
from training.data.penguins import collect_penguins
from training.data.split import Split, split_dataset
from training.errors import Unsuitable
from training.export import runtime
from training.export.graph import export
from training.export.proof import UNSEEN, prove
from training.models import TREES, TreeCandidate, Trees
from training.models.trees import fit_trees, rounded_down, table
from training.progress import Progress
from training.tasks import Classification, MultiLabel

pytestmark = pytest.mark.training

FEW = TREES.tuned({"max_iter": 20})
CONFIG = RunConfig(threads=1)


def grown(dataset: Dataset, candidate: TreeCandidate = FEW, seed: int = 0) -> tuple[Trees, Split]:
    split = split_dataset(dataset, CONFIG)
    preprocess = FIT(split.train.inputs)
    return fit_trees(candidate, preprocess, split, seed=seed, threads=1), split


def penguins() -> Dataset:
    return collect_penguins()


@pytest.mark.parametrize(
    "dataset",
    [
        pytest.param(lambda: numbers_dataset(load_wine, gaps=True), id="three classes"),
        pytest.param(lambda: numbers_dataset(load_breast_cancer, gaps=True), id="two classes"),
        pytest.param(lambda: numbers_dataset(load_diabetes, gaps=True), id="a number"),
        pytest.param(penguins, id="numbers and words"),
    ],
)
def test_graph_of_trees_is_proved_like_any_other(dataset):
    trees, split = grown(dataset())

    model = export(trees, split.test.inputs)
    proof = prove(runtime.open_run(model.SerializeToString()), trees, split.test, CONFIG)

    assert proof.checked_rows == (1, 2, 7, 64)
    assert proof.max_abs_error < 1e-4
    assert {node.op_type for node in model.graph.node} & {"ZipMap"} == set()
    assert [value.name for value in model.graph.output] == [s.name for s in trees.task.specs()]


def test_graph_takes_the_strings_of_a_client():
    trees, split = grown(penguins())
    run = runtime.open_run(export(trees, split.test.inputs).SerializeToString())
    rows = take_rows(split.test.inputs, np.arange(3))
    rows["categories"][1:] = [["", ""], [UNSEEN, "Größe"]]
    rows["numbers"][2] = np.nan

    got, want = run(rows), trees.reference(rows)

    assert got["label"].tolist() == want["label"].tolist()
    np.testing.assert_allclose(got["scores"], want["scores"], atol=1e-6)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("load", [load_wine, load_breast_cancer])
def test_temperature_divides_before_the_softmax_in_the_graph_too(load, temperature: float):
    trees, split = grown(numbers_dataset(load, gaps=True))
    plain = trees.estimator.predict_proba(table(trees.preprocess, split.test.inputs))
    trees.temperature = temperature

    answers = trees.answers(split.test.inputs)
    run = runtime.open_run(export(trees, split.test.inputs).SerializeToString())
    proof = prove(run, trees, split.test, CONFIG)

    warmed = plain ** (1 / temperature)
    np.testing.assert_allclose(answers, warmed / warmed.sum(axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(run(split.test.inputs)["scores"], answers, atol=1e-5)
    assert proof.max_abs_error < 1e-5


def test_same_seed_gives_the_same_trees():
    first, second, other = (
        grown(numbers_dataset(load_wine), FEW.tuned({"max_leaf_nodes": leaves}))[0]
        for leaves in (31, 31, 4)
    )

    assert first.weights_sha256 == second.weights_sha256 != other.weights_sha256
    assert first.parameter_count > other.parameter_count > 0


def test_file_holds_nothing_of_the_converter():
    trees, split = grown(numbers_dataset(load_wine))
    data = export(trees, split.test.inputs).SerializeToString()

    assert onnx.load_from_string(data).producer_name == "modelport"
    for word in (b"skl2onnx", b"sklearn", b"OnnxML", b"site-packages"):
        assert word not in data


def test_thresholds_are_rounded_so_that_no_float32_changes_sides():
    generator = np.random.default_rng(0)
    low = generator.normal(size=1000).astype(np.float32)
    high = np.nextafter(low, np.float32(np.inf), dtype=np.float32)
    middle = (low.astype(np.float64) + high) / 2  # as trees put them between two values

    thresholds = rounded_down(middle)

    assert (thresholds == thresholds.astype(np.float32)).all()
    assert ((low <= thresholds) == (low <= middle)).all()
    assert ((high <= thresholds) == (high <= middle)).all()
    assert (middle.astype(np.float32) != thresholds).any()  # to the nearest would have been wrong


def test_temperature_is_part_of_what_was_learnt():
    trees, _ = grown(numbers_dataset(load_wine))
    before = trees.weights_sha256

    trees.temperature = 2.0

    assert trees.weights_sha256 != before


def test_several_labels_are_left_to_networks():
    dataset = numbers_dataset(load_wine)
    labels = np.eye(3, dtype=np.float32)[dataset.targets]
    rows = Rows(dataset.inputs, labels, MultiLabel(("a", "b", "c")), dataset.fields)

    with pytest.raises(Unsuitable, match="one label only"):
        fit_trees(FEW, FIT(rows.inputs), Split(rows, rows, rows), seed=0, threads=1)


def test_a_class_without_training_rows_is_no_task_for_trees():
    dataset = numbers_dataset(load_wine)
    rows = Rows(dataset.inputs, dataset.targets, Classification(("a", "b", "c", "d")), ())

    with pytest.raises(Unsuitable, match="no row among the training rows"):
        fit_trees(FEW, FIT(rows.inputs), Split(rows, rows, rows), seed=0, threads=1)


@pytest.mark.slow
def test_trees_are_published_with_golden_rows_that_replay(tmp_path: Path):
    run = run_of("wine", numbers_dataset(load_wine, gaps=True), gates="accuracy>=0.85", threads=1)

    outcome = pipeline.travel(run, run.config, tmp_path, Progress())

    assert isinstance(outcome.predictor, Trees)
    provenance = outcome.manifest.provenance
    assert provenance is not None
    assert provenance.weights_sha256 == outcome.predictor.weights_sha256
    with np.load(io.BytesIO(outcome.bundle.read("golden.npz"))) as golden:
        feeds = {k[6:]: golden[k] for k in golden if k.startswith("input:")}
        want = golden["output:scores"]
    got = runtime.open_run(outcome.bundle.model())(feeds)
    np.testing.assert_allclose(got["scores"], want, atol=1e-5)
    calibration = outcome.manifest.quality.calibration
    assert outcome.predictor.temperature == (calibration.temperature if calibration.kept else 1.0)
    page = outcome.bundle.read("report.html").decode()
    assert "The ONNX graph answers as scikit-learn does" in page
