import getpass
import io
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from app.bundle.tensors import take_rows
from training.export import runtime
from training.export.proof import UNSEEN
from training.pipeline import Outcome

pytestmark = pytest.mark.training


def io_of(values: list[onnx.ValueInfoProto]) -> dict[str, tuple[str, list[str | int]]]:
    return {
        value.name: (
            onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type),
            [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
        )
        for value in values
    }


def test_graph_of_digits_takes_pixels_and_gives_labels(digits: Outcome):
    model = onnx.load_from_string(digits.bundle.model())

    assert io_of(model.graph.input) == {"image": ("UINT8", ["batch", 8, 8])}
    assert io_of(model.graph.output) == {
        "label": ("STRING", ["batch"]),
        "scores": ("FLOAT", ["batch", 10]),
    }


def test_graph_of_penguins_takes_raw_strings(penguins: Outcome):
    model = onnx.load_from_string(penguins.bundle.model())

    assert io_of(model.graph.input) == {
        "numbers": ("FLOAT", ["batch", 4]),
        "categories": ("STRING", ["batch", 2]),
    }
    assert list(io_of(model.graph.output)) == ["label", "scores"]


def test_file_holds_no_path_and_nothing_of_the_exporter(outcome: Outcome):
    data = outcome.bundle.model()
    model = onnx.load_from_string(data)

    for word in ("stack_trace", "pkg.torch", "torch", "site-packages", ".py", "/work", "/home"):
        assert word.encode() not in data
    for path in (Path(sys.prefix), Path.cwd(), Path(__file__).parent):
        assert str(path).encode() not in data
    assert f"/{getpass.getuser()}".encode() not in data
    parts = (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer)
    for part in (model, model.graph, *parts):
        assert not part.metadata_props
        assert part.doc_string == ""
    assert (model.producer_name, model.producer_version) == ("modelport", "")
    assert not model.functions


def test_facts_of_the_graph_are_recorded(outcome: Outcome):
    model = onnx.load_from_string(outcome.bundle.model())
    graph = outcome.manifest.graph

    assert {one.domain: one.version for one in model.opset_import} == {
        "": graph.opset,
        "ai.onnx.ml": 4,
    }
    assert len(model.opset_import) == 2
    assert graph.ir_version == model.ir_version
    assert graph.node_count == len(model.graph.node)
    assert graph.domains == ("", "ai.onnx.ml")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100])
def test_graph_equals_pytorch_at_every_batch_size(outcome: Outcome, size: int):
    run = runtime.open_run(outcome.bundle.model())
    batch = take_rows(outcome.test.inputs, np.arange(size) % len(outcome.test))

    got, want = run(batch), outcome.reference(batch)

    assert got["label"].tolist() == want["label"].tolist()
    np.testing.assert_allclose(got["scores"], want["scores"], rtol=1e-4, atol=1e-5)


def test_missing_and_unknown_values_equal_pytorch(penguins: Outcome):
    run = runtime.open_run(penguins.bundle.model())
    nan = np.nan
    rows = {
        "numbers": np.array(
            [[39.1, 18.7, 181, 3750], [nan, 18.7, 181, 3750], [nan] * 4, [39.1, 18.7, 181, 3750]],
            dtype=np.float32,
        ),
        "categories": np.array(
            [["Torgersen", "male"], ["Torgersen", "male"], ["", ""], [UNSEEN, "Größe"]],
            dtype=object,
        ),
    }

    got, want = run(rows), penguins.reference(rows)

    assert got["label"].tolist() == want["label"].tolist()
    np.testing.assert_allclose(got["scores"], want["scores"], rtol=1e-4, atol=1e-5)
    assert np.isfinite(got["scores"]).all()
    assert not np.allclose(got["scores"][0], got["scores"][1], atol=1e-6)


def test_golden_replays_with_nothing_but_onnxruntime(outcome: Outcome):
    with np.load(io.BytesIO((outcome.bundle.path / "golden.npz").read_bytes())) as file:
        golden = dict(file)
    feeds = {k[6:]: v for k, v in golden.items() if k.startswith("input:")}
    feeds = {k: v.astype(object) if v.dtype.kind == "U" else v for k, v in feeds.items()}

    session = ort.InferenceSession(outcome.bundle.path / "model.onnx")
    label, scores = session.run(["label", "scores"], feeds)

    assert label.tolist() == golden["output:label"].tolist()
    np.testing.assert_allclose(scores, golden["output:scores"], rtol=1e-4, atol=1e-5)
