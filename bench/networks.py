"""A depthwise-separable CNN as a published bundle: the kind of network that phones run.

The pixels come as 28 × 28 and are enlarged inside the graph, so that a request is small and what is
measured is the engine. Weights are random: nothing is learnt from the answers.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from app.bundle.golden import Golden, save_golden
from app.bundle.manifest import GOLDEN_FILE, MODEL_FILE, Batching, Graph, Manifest, Tolerance
from app.bundle.signature import ImageField, ScoresPrediction, Signature, TensorSpec
from app.bundle.store import Bundle, publish

SIDE: Final = 28
CLASSES: Final = 10
MAX_ROWS: Final = 64
_GOLDEN_ROWS: Final = 8
#: Channels and stride of each depthwise-separable block: MobileNet v1, arXiv:1704.04861, table 1.
_BLOCKS: Final = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)
_STEM: Final = 32


def depthwise_cnn(enlarge: int = 8, width: float = 1.0) -> bytes:
    """MobileNet v1 as an ONNX file.

    Args:
        enlarge: the network sees pictures of 28 × `enlarge` on each side; 8 gives 224.
        width: share of the channels.
    """
    builder = Builder(np.random.default_rng(0))
    x = builder.node("Cast", "pixels", to=TensorProto.FLOAT)
    x = builder.node("Div", x, builder.constant(np.float32(255.0)))
    x = builder.node("Unsqueeze", x, builder.constant(np.array([1], dtype=np.int64)))
    scales = builder.constant(np.array([1, 1, enlarge, enlarge], dtype=np.float32))
    x = builder.node("Resize", x, "", scales, mode="nearest")
    mobile_layers(builder, x, 1, width)
    return builder.model("pixels", TensorProto.UINT8, (SIDE, SIDE))


def mobile_layers(builder: "Builder", x: str, channels_in: int, width: float = 1.0) -> None:
    """The layers of MobileNet v1, from FP32 [batch, channels, side, side] to `scores`."""
    channels = int(_STEM * width)
    x = builder.conv(x, channels_in, channels, kernel=3, stride=2)
    for full, stride in _BLOCKS:
        wider = int(full * width)
        x = builder.conv(x, channels, channels, kernel=3, stride=stride, groups=channels)
        x = builder.conv(x, channels, wider, kernel=1)
        channels = wider
    x = builder.node("GlobalAveragePool", x)
    builder.classify(builder.node("Flatten", x), channels)


class Builder:
    """A graph under construction: each method adds nodes and gives the name of their output."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def random(self, *shape: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
        fan_in = int(np.prod(shape[1:])) or 1
        weights = self._rng.normal(size=shape) * np.sqrt(2 / fan_in)
        return np.asarray(weights, dtype=np.float32)

    def constant(self, array: object) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def conv(
        self, x: str, channels: int, out: int, *, kernel: int, stride: int = 1, groups: int = 1
    ) -> str:
        weight = self.constant(self.random(out, channels // groups, kernel, kernel))
        pad = kernel // 2
        x = self.node(
            "Conv",
            x,
            weight,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[pad] * 4,
            group=groups,
        )
        return self.node("Relu", x)

    def dense(self, x: str, width: int, out: int) -> str:
        return self.node("MatMul", x, self.constant(self.random(width, out)))

    def classify(self, x: str, width: int) -> None:
        """The last layer: FP32 [batch, width] to the output `scores`."""
        self.node("Softmax", self.dense(x, width, CLASSES), output="scores", axis=1)

    def model(self, input_name: str, datatype: int, row: tuple[int, ...]) -> bytes:
        """An ONNX file that takes [batch, *row] and gives `scores`, FP32 [batch, 10]."""
        graph = helper.make_graph(
            self.nodes,
            "bench",
            [helper.make_tensor_value_info(input_name, datatype, ["batch", *row])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())


def pictures(rows: int, seed: int = 1) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """UINT8 [rows, 28, 28]."""
    return np.random.default_rng(seed).integers(0, 256, (rows, SIDE, SIDE)).astype(np.uint8)


def publish_network(root: Path, name: str, model: bytes) -> Bundle:
    """Publish the network; its golden outputs are what the CPU provider gives row by row."""
    return publish_files(root, name, network_files(model))


def network_files(model: bytes, *, broken: bool = False) -> dict[str, bytes]:
    """The files of a version, but for its manifest.

    Args:
        broken: with golden outputs that nothing gives.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    pixels = pictures(_GOLDEN_ROWS)
    scores = [session.run(["scores"], {"pixels": pixels[i : i + 1]})[0] for i in range(len(pixels))]
    outputs = {"scores": np.concatenate(scores) + np.float32(0.5 if broken else 0.0)}
    return {MODEL_FILE: model, GOLDEN_FILE: save_golden(Golden({"pixels": pixels}, outputs))}


def publish_files(root: Path, name: str, files: dict[str, bytes]) -> Bundle:
    nodes = len(onnx.load_model_from_string(files[MODEL_FILE]).graph.node)
    return publish(root, name, files, lambda version: _manifest(name, version, nodes))


def _manifest(name: str, version: int, nodes: int) -> Manifest:
    close = {"scores": Tolerance(atol=1e-4, rtol=1e-3)}
    return Manifest(
        name=name,
        version=version,
        description="Random weights, for measuring.",
        task="classification",
        created_at=datetime.now(UTC),
        signature=Signature(
            inputs=(TensorSpec(name="pixels", datatype="UINT8", shape=("batch", SIDE, SIDE)),),
            outputs=(TensorSpec(name="scores", datatype="FP32", shape=("batch", CLASSES)),),
            fields=(
                ImageField(name="image", tensor="pixels", height=SIDE, width=SIDE, maximum=255),
            ),
            predictions=(
                ScoresPrediction(
                    name="scores", tensor="scores", labels=tuple(str(i) for i in range(CLASSES))
                ),
            ),
        ),
        batching=Batching(row_independent=True, max_rows=MAX_ROWS, checked_rows=(1,)),
        tolerances={"fp32": close, "reduced": {"scores": Tolerance(atol=1e-2, rtol=1e-2)}},
        graph=Graph(opset=20, ir_version=10, domains=("",), node_count=nodes),
    )
