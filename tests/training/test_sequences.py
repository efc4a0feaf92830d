"""Texts and series: padding changes nothing, in torch and in the graph, at any length."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from app.bundle.padding import padded_series, padded_texts, row_lengths
from app.bundle.signature import SeriesField, TensorSpec, TextField
from app.bundle.tensors import Array
from training.config import RunConfig
from training.data.dataset import Dataset
from training.errors import ProofFailed
from training.export import runtime
from training.export.graph import export
from training.export.lengths import as_short, longer, of_other_lengths
from training.export.proof import prove
from training.models import Predictor, byte_runs, head_for, moments, series_cnn, text_cnn
from training.preprocess.sequences import SeriesPreprocess, TextPreprocess, step_moments
from training.preprocess.tensors import Preprocess
from training.tasks import Classification

pytestmark = pytest.mark.training

LABELS = ("a", "b", "c")
ROWS = 24
RNG = np.random.default_rng(0)
TEXTS = padded_texts(["".join(RNG.choice(list("abcé 日"), n)) for n in RNG.integers(0, 60, ROWS)])
WALKS = padded_series([RNG.normal(3, 2, (n, 2)) for n in RNG.integers(1, 40, ROWS)], 2)
BATCH_OF = {"text": TEXTS, "series": WALKS}
NETWORKS = {"byte_runs": byte_runs, "text_cnn": text_cnn, "moments": moments, "cnn": series_cnn}


def dataset(name: str) -> Dataset:
    array = BATCH_OF[name]
    kind = "UINT8" if name == "text" else "FP32"
    spec = TensorSpec(name=name, datatype=kind, shape=("batch", "length", *array.shape[2:]))
    field = (
        TextField(name="note", tensor=name)
        if name == "text"
        else SeriesField(name="walk", tensor=name, channels=("east", "north"), minimum_length=1)
    )
    targets = np.arange(ROWS) % len(LABELS)
    return Dataset("made up", (spec,), (field,), {name: array}, targets, Classification(LABELS))


def predictor(build: Callable[..., nn.Module]) -> tuple[str, Predictor]:
    torch.manual_seed(0)
    name = "text" if build in (byte_runs, text_cnn) else "series"
    data = dataset(name)
    preprocess: Preprocess = (
        TextPreprocess(name) if name == "text" else SeriesPreprocess(name, data.inputs)
    )
    network = build(preprocess.shape, len(LABELS))
    for weights in network.parameters():
        nn.init.normal_(weights, std=0.1)
    task = Classification(LABELS)
    return name, Predictor(preprocess, network, head_for(task, data.targets), task).eval()


def scores(model: Predictor, array: Array) -> Array:
    """Without the cutting that `answers` does."""
    with torch.no_grad():
        return model(torch.from_numpy(array)).numpy()


@pytest.fixture(scope="module", params=list(NETWORKS))
def exported(request: pytest.FixtureRequest):
    name, model = predictor(NETWORKS[request.param])
    graph = export(model, {name: BATCH_OF[name]})
    return name, model, runtime.open_run(graph.SerializeToString())


@pytest.mark.parametrize("more", [1, 2, 5, 64])
def test_more_padding_changes_no_score(exported, more: int) -> None:
    name, model, run = exported
    array = longer(BATCH_OF[name], more)
    want = scores(model, BATCH_OF[name])

    assert np.ptp(want, axis=0).max() > 1e-3  # else this would show nothing
    np.testing.assert_allclose(scores(model, array), want, atol=1e-6, rtol=0)
    np.testing.assert_allclose(run({name: array})["scores"], want, atol=1e-6, rtol=0)


def test_so_does_no_padding_at_all(exported) -> None:
    name, model, run = exported
    want = scores(model, BATCH_OF[name])
    for row, length in enumerate(row_lengths(BATCH_OF[name])):
        alone = BATCH_OF[name][row : row + 1, :length]

        np.testing.assert_allclose(run({name: alone})["scores"][0], want[row], atol=1e-6, rtol=0)


def test_nothing_at_all_is_answered(exported) -> None:
    name, model, run = exported
    nothing = BATCH_OF[name][:2, :0]

    np.testing.assert_allclose(
        run({name: nothing})["scores"], scores(model, longer(nothing, 5)), atol=1e-6, rtol=0
    )


def test_a_graph_that_heeds_its_padding_is_not_proved() -> None:
    name, model = predictor(text_cnn)
    run = runtime.open_run(export(model, {name: TEXTS}).SerializeToString())

    def careless(inputs):
        outputs = run(inputs)
        shift = inputs[name].shape[1] / 1e4
        return {**outputs, "scores": outputs["scores"] + np.float32(shift)}

    with pytest.raises(ProofFailed, match="parity failed"):
        prove(careless, model, dataset(name).rows(np.arange(ROWS)), RunConfig(max_rows=8))


@pytest.mark.parametrize("build", [byte_runs, series_cnn])
def test_the_proof_holds_and_its_golden_rows_are_short(build: Callable[..., nn.Module]) -> None:
    name, model = predictor(build)
    rows = dataset(name).rows(np.arange(ROWS))
    far = {name: longer(rows.inputs[name], 200)}
    run = runtime.open_run(export(model, far).SerializeToString())

    proof = prove(run, model, rows, RunConfig(max_rows=8, golden_rows=6))

    golden = proof.golden.inputs[name]
    assert proof.max_abs_error < 1e-5
    assert len(golden) == 7
    assert golden.shape[1] <= BATCH_OF[name].shape[1]
    assert row_lengths(golden)[-1] == (0 if name == "text" else 1)


def test_moments_are_of_real_steps_of_these_rows_alone() -> None:
    series = padded_series([[[1.0, 10.0]], [[2.0, 10.0], [6.0, 10.0]]], 2)

    mean, deviation = step_moments(series)
    far, _ = step_moments(longer(series, 50))

    assert mean.tolist() == far.tolist() == [3.0, 10.0]
    assert deviation == pytest.approx([np.std([1.0, 2.0, 6.0]), 0.0])
    prepared = SeriesPreprocess("series", {"series": series})(torch.from_numpy(series)).numpy()
    assert prepared.shape == (2, 3, 9)
    assert prepared[0, 0].tolist() == pytest.approx([-2 / np.std([1, 2, 6]), *[0] * 8])
    assert prepared[:, 2].sum(axis=1).tolist() == [1, 2]


def test_a_training_batch_is_as_long_as_its_longest_row() -> None:
    preprocess = TextPreprocess("text")
    batch = torch.from_numpy(longer(padded_texts(["a" * 40, "b"]), 500))

    (cut,) = preprocess.augment((batch,), RunConfig(), torch.default_generator)

    assert cut.shape == (2, 64)
    assert torch.equal(cut, batch[:, :64])


def test_rows_of_other_lengths() -> None:
    data = dataset("text")

    found = [rows["text"].shape for rows in of_other_lengths(data.inputs, data.fields)]

    lengths = row_lengths(TEXTS)[:8]
    assert found[:8] == [(1, max(1, length)) for length in lengths]
    assert found[8:] == [(ROWS, TEXTS.shape[1] + more) for more in (1, 3, 40)]
    assert as_short({"text": longer(TEXTS, 99)}, data.fields)["text"].shape == TEXTS.shape


def test_a_row_is_shown_as_a_client_sends_it() -> None:
    texts, walks = (dataset(name).rows(np.arange(2)).instances for name in ("text", "series"))

    assert [row["note"].encode() for row in texts] == [bytes(r).rstrip(b"\0") for r in TEXTS[:2]]
    assert [len(row["walk"]) for row in walks] == row_lengths(WALKS)[:2].tolist()
    assert walks[1]["walk"][0] == WALKS[1, 0].tolist()
