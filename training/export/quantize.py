"""Graphs with fewer bits, made from the exported one: static INT8, and FP16.

Static means that the ranges of activations are measured beforehand on training rows, so that a
row's answer does not depend on its batch-mates.
"""

import logging
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from app.bundle.tensors import Tensors, row_count, take_rows
from training.export.graph import clean

#: What has weights, and takes nearly all the time.
HEAVY: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
#: What stands between heavy layers and needs no float in between. Softmax and the arithmetic of
#: preprocessing are not among them: 256 steps are too few for scores and for raw features.
LIGHT: Final = frozenset(
    {"Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Add", "Concat", "Reshape"}
    | {"Flatten", "Transpose", "Squeeze", "Unsqueeze"}
)
_CALIBRATION_BATCH: Final = 32


class QuantizeTrouble(Exception):
    """The tools cannot make such a graph; `str` is their own message."""


def prepare(model: bytes) -> bytes:
    """The graph folded and with shapes, as quantization wants it; every node has a name."""
    with _folder() as folder:
        plain, done = folder / "plain.onnx", folder / "done.onnx"
        plain.write_bytes(model)
        # The symbolic shapes of the other tool know no strings; ONNX's own suffice.
        quant_pre_process(str(plain), str(done), skip_symbolic_shape=True)
        prepared = onnx.load(str(done))
    for index, node in enumerate(prepared.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return _bytes(prepared)


def heavy_layers(prepared: bytes) -> tuple[str, ...]:
    """Names of the nodes with weights, in the order in which they run."""
    graph = onnx.load_model_from_string(prepared).graph
    constants = {one.name for one in graph.initializer}
    return tuple(
        node.name
        for node in graph.node
        if node.op_type in HEAVY and any(name in constants for name in node.input)
    )


def thin_layers(prepared: bytes) -> tuple[str, ...]:
    """Names of the convolutions of one channel: so little is computed with each value that INT8
    may take longer (4 times as long was measured)."""
    graph = onnx.load_model_from_string(prepared).graph
    shapes = {one.name: tuple(one.dims) for one in graph.initializer}
    return tuple(
        node.name
        for node in graph.node
        if node.op_type == "Conv"
        and shapes.get(node.input[1], (0, 0))[1] == 1
        and all(a.i == 1 for a in node.attribute if a.name == "group")
    )


def int8(prepared: bytes, rows: Tensors, keep_float: Collection[str] = ()) -> bytes:
    """QDQ with activations in U8, weights in S8 by channel.

    Args:
        prepared: what `prepare` gave.
        rows: of the training split, by which activations are measured.
        keep_float: names of layers that stay as they are.
    """
    plain_nodes = _float_nodes(onnx.load_model_from_string(prepared).graph, keep_float)
    with _folder() as folder:
        plain, done = folder / "plain.onnx", folder / "done.onnx"
        plain.write_bytes(prepared)
        quantize_static(
            str(plain),
            str(done),
            _Rows(rows),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=sorted(HEAVY | LIGHT),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(plain_nodes),
        )
        made = onnx.load(str(done))
    return _finished(made)


def fp16(model: bytes) -> bytes:
    """Weights and arithmetic in FP16; inputs and outputs stay as they are."""
    with _translated():
        made = convert_float_to_float16(onnx.load_model_from_string(model), keep_io_types=True)
    return _finished(made)


def _float_nodes(graph: onnx.GraphProto, kept: Collection[str]) -> set[str]:
    """Names of the nodes that stay in float: all that compute with no result of an INT8 layer.

    That is the preprocessing, and what follows a layer that was kept.
    """
    reached: set[str] = set()
    plain: set[str] = set()
    for node in graph.node:
        heavy = node.op_type in HEAVY and node.name not in kept
        light = node.op_type in LIGHT and any(name in reached for name in node.input)
        if heavy or light:
            reached.update(node.output)
        else:
            plain.add(node.name)
    return plain


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    """Rows of the graph's inputs, some at a time."""

    def __init__(self, rows: Tensors) -> None:
        self._batches: Iterator[Tensors] = (
            take_rows(rows, slice(start, start + _CALIBRATION_BATCH))
            for start in range(0, row_count(rows), _CALIBRATION_BATCH)
        )

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else dict(batch)


def _finished(model: onnx.ModelProto) -> bytes:
    clean(model)
    onnx.checker.check_model(model, full_check=True)
    return _bytes(model)


def _bytes(model: onnx.ModelProto) -> bytes:
    data: bytes = model.SerializeToString(deterministic=True)
    return data


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for tools that know files only, and quiet for those that talk."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory(prefix="modelport-") as folder, _translated():
            yield Path(folder)
    finally:
        root.setLevel(level)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the tools raise whatever comes
        raise QuantizeTrouble(f"{type(error).__name__}: {error}") from error
