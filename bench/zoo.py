"""The networks that are served over HTTP in the comparison, and their bundles.

Weights are random: nothing is learnt from the answers, but they are checked.
"""

import io
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image

from app.bundle.golden import Golden, save_golden
from app.bundle.manifest import (
    GOLDEN_FILE,
    MODEL_FILE,
    Batching,
    Graph,
    Manifest,
    Tolerance,
    Variant,
)
from app.bundle.signature import (
    ImageField,
    InputField,
    NumberField,
    ScoresPrediction,
    Signature,
    TensorField,
    TensorSpec,
)
from app.bundle.store import publish
from app.bundle.tensors import Array
from bench.networks import CLASSES, MAX_ROWS, Builder, mobile_layers
from bench.runtime import INPUT, OUTPUT, scores, session

INT8_FILE: Final = "model.int8.onnx"
#: Requests of a case differ: an answer that went to the wrong caller is noticed.
VARIANTS: Final = 8
_FEATURES: Final = 16
_SIDE: Final = 224
_QUALITY: Final = 90
_CALIBRATION_ROWS: Final = 4
_CLOSE: Final = Tolerance(atol=1e-4, rtol=1e-3)
#: What is measured is the speed of the smaller graph; nobody trained it to be right.
_ANYTHING: Final = Tolerance(atol=1.0, rtol=0.0)


@dataclass(frozen=True)
class Network:
    """A graph from the tensor `x` [batch, *row] to `scores`, FP32 [batch, 10]."""

    name: str
    row: tuple[int, ...]
    datatype: str
    graph: Callable[[], bytes]
    fields: tuple[InputField, ...]
    #: Of one row, by its index.
    make: Callable[[int], Array]

    def rows(self, count: int) -> Array:
        return np.stack([self.make(index) for index in range(count)])


def _mlp() -> bytes:
    builder = Builder(np.random.default_rng(0))
    x = builder.node("Relu", builder.dense("x", _FEATURES, 32))
    builder.classify(x, 32)
    return builder.model("x", TensorProto.FLOAT, (_FEATURES,))


def _cnn28() -> bytes:
    builder = Builder(np.random.default_rng(0))
    x = builder.conv("x", 1, 8, kernel=3)
    x = builder.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = builder.conv(x, 8, 16, kernel=3)
    x = builder.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    width = 16 * 7 * 7
    x = builder.node("Relu", builder.dense(builder.node("Flatten", x), width, 64))
    builder.classify(x, 64)
    return builder.model("x", TensorProto.FLOAT, (1, 28, 28))


def _cnn224() -> bytes:
    builder = Builder(np.random.default_rng(0))
    x = builder.node("Cast", "x", to=TensorProto.FLOAT)
    x = builder.node("Div", x, builder.constant(np.float32(255.0)))
    x = builder.node("Transpose", x, perm=[0, 3, 1, 2])
    mobile_layers(builder, x, 3)
    return builder.model("x", TensorProto.UINT8, (_SIDE, _SIDE, 3))


def jpeg(index: int) -> bytes:
    """A 224 × 224 picture with as much detail as a photograph: smooth colours and some noise."""
    rng = np.random.default_rng(index)
    coarse = Image.fromarray(rng.integers(0, 256, (14, 14, 3)).astype(np.uint8))
    smooth = np.asarray(coarse.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), dtype=np.int16)
    noisy = (smooth + rng.integers(-8, 9, smooth.shape)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _decoded(index: int) -> Array:
    return np.asarray(Image.open(io.BytesIO(jpeg(index))), dtype=np.uint8)


def _floats(*row: int) -> Callable[[int], Array]:
    """Numbers of four digits, as measurements and scaled pixels come."""

    def make(index: int) -> Array:
        values = np.random.default_rng(index).random(row)
        return np.round(values, 4).astype(np.float32)

    return make


NETWORKS: Final = {
    network.name: network
    for network in (
        Network(
            "mlp",
            (_FEATURES,),
            "FP32",
            _mlp,
            tuple(
                NumberField(name=f"f{column}", tensor=INPUT, column=column)
                for column in range(_FEATURES)
            ),
            _floats(_FEATURES),
        ),
        Network(
            "cnn28",
            (1, 28, 28),
            "FP32",
            _cnn28,
            (TensorField(name="pixels", tensor=INPUT),),
            _floats(1, 28, 28),
        ),
        Network(
            "cnn224",
            (_SIDE, _SIDE, 3),
            "UINT8",
            _cnn224,
            (ImageField(name="image", tensor=INPUT, height=_SIDE, width=_SIDE, channels=3),),
            _decoded,
        ),
    )
}


def row_by_row(model: bytes | Path, rows: Array) -> Array:
    """The scores of each row alone. Shape [rows, 10]."""
    alone = session(model)
    return np.concatenate([scores(alone, row[None]) for row in rows])


def publish_bundle(root: Path, network: Network, *, with_int8: bool) -> Path:
    """Publish as version 1 of the network's name; gives the bundle's folder."""
    model = network.graph()
    rows = network.rows(VARIANTS)
    golden = save_golden(Golden({INPUT: rows}, {OUTPUT: row_by_row(model, rows)}))
    files = {MODEL_FILE: model, GOLDEN_FILE: golden}
    if with_int8:
        files[INT8_FILE] = _quantized(model, rows)
    nodes = len(onnx.load_model_from_string(model).graph.node)
    bundle = publish(root, network.name, files, lambda v: _manifest(network, v, nodes, with_int8))
    return bundle.path


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, rows: Array) -> None:
        self._rows: Iterator[Array] = iter(rows)

    def get_next(self) -> dict[str, Array] | None:
        row = next(self._rows, None)
        return None if row is None else {INPUT: row[None]}


def _quantized(model: bytes, rows: Array) -> bytes:
    """The graph in static INT8: activations U8, weights S8 by channel."""
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, done = (str(Path(folder) / n) for n in ("a.onnx", "b.onnx", "c.onnx"))
        Path(plain).write_bytes(model)
        quant_pre_process(plain, prepared)
        quantize_static(
            prepared,
            done,
            _Rows(rows[:_CALIBRATION_ROWS]),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return Path(done).read_bytes()


def _manifest(network: Network, version: int, nodes: int, with_int8: bool) -> Manifest:
    int8 = Variant(file=INT8_FILE, tolerances={OUTPUT: _ANYTHING}, agreement=0.0)
    return Manifest(
        name=network.name,
        version=version,
        description="Random weights, for measuring.",
        task="classification",
        created_at=datetime.now(UTC),
        signature=Signature(
            inputs=(
                TensorSpec(name=INPUT, datatype=network.datatype, shape=("batch", *network.row)),
            ),
            outputs=(TensorSpec(name=OUTPUT, datatype="FP32", shape=("batch", CLASSES)),),
            fields=network.fields,
            predictions=(
                ScoresPrediction(
                    name=OUTPUT, tensor=OUTPUT, labels=tuple(str(i) for i in range(CLASSES))
                ),
            ),
        ),
        batching=Batching(row_independent=True, max_rows=MAX_ROWS, checked_rows=(1,)),
        tolerances={"fp32": {OUTPUT: _CLOSE}, "reduced": {OUTPUT: _CLOSE}},
        variants={"int8": int8} if with_int8 else {},
        graph=Graph(opset=20, ir_version=10, domains=("",), node_count=nodes),
    )
