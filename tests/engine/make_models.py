"""Writes `tests/data/*.onnx`: `python -m tests.engine.make_models` (needs onnx; tests do not).

The files are committed; run this again only to change a model.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from app.bundle.tensors import Array
from tests.support import models

FLOAT, INT64, UINT8, STRING = (
    TensorProto.FLOAT,
    TensorProto.INT64,
    TensorProto.UINT8,
    TensorProto.STRING,
)
ML = "ai.onnx.ml"


def write(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[int | str]]],
    outputs: dict[str, tuple[int, list[int | str]]],
    constants: dict[str, Array],
) -> None:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), n) for n, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20)]
    if any(node.domain == ML for node in nodes):
        opsets.append(helper.make_opsetid(ML, 3))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="modelport")
    onnx.checker.check_model(model, full_check=True)
    models.DATA.mkdir(exist_ok=True)
    (models.DATA / f"{name}.onnx").write_bytes(model.SerializeToString())


def affine() -> None:
    write(
        "affine",
        [
            helper.make_node("MatMul", ["x", "weight"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["y"]),
            helper.make_node("MatMul", ["y", "ones"], ["total"]),
        ],
        {"x": (FLOAT, ["batch", 3])},
        {"y": (FLOAT, ["batch", 2]), "total": (FLOAT, ["batch", 1])},
        {
            "weight": models.AFFINE_WEIGHT,
            "bias": models.AFFINE_BIAS,
            "ones": models.AFFINE_TOTAL,
        },
    )


def affine_int8() -> None:
    """The affine model with its weight in eight bits: off by up to half of `AFFINE_STEP`."""
    write(
        "affine_int8",
        [
            helper.make_node("DequantizeLinear", ["weight", "step"], ["rounded"]),
            helper.make_node("MatMul", ["x", "rounded"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["y"]),
            helper.make_node("MatMul", ["y", "ones"], ["total"]),
        ],
        {"x": (FLOAT, ["batch", 3])},
        {"y": (FLOAT, ["batch", 2]), "total": (FLOAT, ["batch", 1])},
        {
            "weight": np.rint(models.AFFINE_WEIGHT / models.AFFINE_STEP).astype(np.int8),
            "step": models.AFFINE_STEP,
            "bias": models.AFFINE_BIAS,
            "ones": models.AFFINE_TOTAL,
        },
    )


def affine_fp16() -> None:
    """The affine model, computed with 16 bits."""
    write(
        "affine_fp16",
        [
            helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("MatMul", ["half", "weight"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["sum"]),
            helper.make_node("MatMul", ["sum", "ones"], ["sums"]),
            helper.make_node("Cast", ["sum"], ["y"], to=FLOAT),
            helper.make_node("Cast", ["sums"], ["total"], to=FLOAT),
        ],
        {"x": (FLOAT, ["batch", 3])},
        {"y": (FLOAT, ["batch", 2]), "total": (FLOAT, ["batch", 1])},
        {
            "weight": models.AFFINE_WEIGHT.astype(np.float16),
            "bias": models.AFFINE_BIAS.astype(np.float16),
            "ones": models.AFFINE_TOTAL.astype(np.float16),
        },
    )


def mixer() -> None:
    write(
        "mixer",
        [
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ],
        {"x": (FLOAT, ["batch", 3])},
        {"y": (FLOAT, ["batch", 3])},
        {"axes": np.array([0], dtype=np.int64)},
    )


def strings() -> None:
    ids = list(range(len(models.COLOURS)))
    write(
        "strings",
        [
            helper.make_node(
                "LabelEncoder",
                ["colour"],
                ["id"],
                domain=ML,
                keys_strings=list(models.COLOURS),
                values_int64s=ids,
                default_int64=models.UNKNOWN_ID,
            ),
            helper.make_node(
                "LabelEncoder",
                ["id"],
                ["pigment"],
                domain=ML,
                keys_int64s=ids,
                values_strings=list(models.PIGMENTS),
                default_string=models.UNKNOWN_PIGMENT,
            ),
        ],
        {"colour": (STRING, ["batch"])},
        {"pigment": (STRING, ["batch"]), "id": (INT64, ["batch"])},
        {},
    )


def poison() -> None:
    write(
        "poison",
        [helper.make_node("Gather", ["table", "index"], ["y"], axis=0)],
        {"index": (INT64, ["batch"])},
        {"y": (FLOAT, ["batch"])},
        {"table": models.POISON_TABLE},
    )


def conv() -> None:
    write(
        "conv",
        [
            helper.make_node("Cast", ["pixels"], ["floats"], to=FLOAT),
            helper.make_node("Div", ["floats", "maximum"], ["scaled"]),
            helper.make_node("Unsqueeze", ["scaled", "channel_axis"], ["image"]),
            helper.make_node("Conv", ["image", "kernel"], ["maps"], kernel_shape=[3, 3]),
            helper.make_node("Relu", ["maps"], ["positive"]),
            helper.make_node(
                "MaxPool", ["positive"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]
            ),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
            helper.make_node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0),
            helper.make_node(
                "LabelEncoder",
                ["best"],
                ["shape"],
                domain=ML,
                keys_int64s=list(range(len(models.SHAPES))),
                values_strings=list(models.SHAPES),
                default_string="",
            ),
        ],
        {"pixels": (UINT8, ["batch", 8, 8])},
        {"scores": (FLOAT, ["batch", 3]), "shape": (STRING, ["batch"])},
        {
            "maximum": np.array(models.CONV_MAXIMUM, dtype=np.float32),
            "channel_axis": np.array([1], dtype=np.int64),
            "kernel": models.CONV_KERNEL,
            "weight": models.CONV_WEIGHT,
        },
    )


def words() -> None:
    write(
        "words",
        [
            helper.make_node("Cast", ["text"], ["bytes"], to=FLOAT),
            helper.make_node("Sign", ["bytes"], ["is_there"]),
            helper.make_node("ReduceSum", ["is_there", "along"], ["size"], keepdims=0),
            helper.make_node("ReduceSum", ["bytes", "along"], ["total"], keepdims=0),
        ],
        {"text": (UINT8, ["batch", "length"])},
        {"size": (FLOAT, ["batch"]), "total": (FLOAT, ["batch"])},
        {"along": np.array([1], dtype=np.int64)},
    )


def steps() -> None:
    write(
        "steps",
        [
            helper.make_node("IsNaN", ["walk"], ["is_padding"]),
            helper.make_node("Where", ["is_padding", "nothing", "walk"], ["values"]),
            helper.make_node("ReduceSum", ["values", "along"], ["way"], keepdims=0),
        ],
        {"walk": (FLOAT, ["batch", "length", 2])},
        {"way": (FLOAT, ["batch", 2])},
        {"along": np.array([1], dtype=np.int64), "nothing": np.array(0, dtype=np.float32)},
    )


def external() -> None:
    """The affine model with its weight in a file beside it, which no bundle may have."""
    model = onnx.load_from_string(models.model_bytes("affine"))
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    location = weight.external_data.add()
    location.key, location.value = "location", "weights.bin"
    (models.DATA / "external.onnx").write_bytes(model.SerializeToString())


if __name__ == "__main__":
    for build in (
        affine,
        affine_int8,
        affine_fp16,
        mixer,
        strings,
        poison,
        conv,
        words,
        steps,
        external,
    ):
        build()
