"""Boosted trees as an ONNX graph: from the preprocessor's inputs to the task's answer.

skl2onnx converts the trees themselves. Before them the inputs are joined, as a client's numbers and
categories come apart; labels and maps, which the converter would add, are left out.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import onnx
from onnx import TensorProto, compose, helper, utils
from skl2onnx import to_onnx
from skl2onnx.common._registration import get_converter, register_converter
from skl2onnx.common.data_types import FloatTensorType

from app.bundle.tensors import Array, Tensors
from training.models.trees import Trees, table
from training.tasks import BATCH, Regression

OPSET = 20
IR_VERSION = 10
CLASSICAL = "ai.onnx.ml"
#: The operators of trees are the same in version 3, which the converter knows, as in `export`'s.
CONVERTED_OPSET = 3
#: Scores are made behind the trees, where the temperature is.
OPTIONS = {"zipmap": False, "raw_scores": True}
TABLE = "table"
PREFIX = "trees_"


def export_trees(trees: Trees, example: Tensors, classical_opset: int) -> onnx.ModelProto:
    """The part between look-ups and labels.

    Args:
        example: some rows of the graph's inputs, for types and widths.
        classical_opset: the version of ai.onnx.ml that the part declares.
    """
    model = compose.add_prefix(_converted(trees, table(trees.preprocess, example).shape[1]), PREFIX)
    features = [part.numpy() for part in trees.preprocess.features(example)]
    inputs = list(zip(trees.preprocess.names, features, strict=True))
    _put_before(model.graph, inputs)
    if isinstance(trees.task, Regression):
        _put_behind(model.graph, trees.task.answer, [-1])
    else:
        _put_scores_behind(model.graph, trees)
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(CLASSICAL, classical_opset)]
    return helper.make_model(model.graph, opset_imports=imports, ir_version=IR_VERSION)


def _converted(trees: Trees, width: int) -> onnx.ModelProto:
    """From `TABLE`, float32 [batch, width], to values, or to what becomes scores."""
    is_value = isinstance(trees.task, Regression)
    _register_whole_numbers(type(trees.estimator).__name__)
    model = to_onnx(
        trees.estimator,
        initial_types=[(TABLE, FloatTensorType([None, width]))],
        options=None if is_value else {id(trees.estimator): OPTIONS},
        target_opset={"": OPSET, CLASSICAL: CONVERTED_OPSET},
    )
    wanted = "variable" if is_value else "probabilities"
    return utils.Extractor(model).extract_model([TABLE], [wanted])


class _WholeNumbers:
    """A converter's container whose nodes have 0 and 1 where the converter gives truth values.

    onnx from 1.23 takes those no more as attributes, and skl2onnx 1.20 gives them for leaves.
    """

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, kind: str, *arguments: Any, **attributes: Any) -> None:
        name = "nodes_missing_value_tracks_true"
        if name in attributes:
            attributes[name] = [int(value) for value in attributes[name]]
        self._container.add_node(kind, *arguments, **attributes)


@cache
def _register_whole_numbers(estimator: str) -> None:
    """Have skl2onnx convert estimators of this name by way of `_WholeNumbers`."""
    alias = f"Sklearn{estimator}"
    convert = get_converter(alias)
    register_converter(
        alias,
        lambda scope, operator, container: convert(scope, operator, _WholeNumbers(container)),
        overwrite=True,
        options=convert.get_allowed_options(),
    )


def _put_before(graph: onnx.GraphProto, inputs: Sequence[tuple[str, Array]]) -> None:
    """Cast each input to float32 and join them where the trees' table was expected."""
    del graph.input[:]
    nodes, columns = [], []
    for name, array in inputs:
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        graph.input.append(helper.make_tensor_value_info(name, kind, [BATCH, *array.shape[1:]]))
        columns.append(f"{name}_columns")
        nodes.append(helper.make_node("Cast", [name], [columns[-1]], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Concat", columns, [PREFIX + TABLE], axis=1))
    nodes.extend(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)


def _put_scores_behind(graph: onnx.GraphProto, trees: Trees) -> None:
    """Divide by the temperature and make scores of that.

    Of two classes the runtime gives two columns, of which the second is what the trees say; the
    first class has 0 in its place, as in `Trees.raw`.
    """
    raw, width = graph.output[0].name, trees.task.width
    counting = [0.0, 1.0] if width == 2 else [1.0] * width
    scale = [one / trees.temperature for one in counting]
    if width == 2:
        graph.initializer.append(helper.make_tensor("second_column", TensorProto.INT64, [1], [1]))
        graph.node.append(helper.make_node("Gather", [raw, "second_column"], ["odds"], axis=1))
        raw = "odds"
    graph.initializer.append(helper.make_tensor("scale", TensorProto.FLOAT, [width], scale))
    graph.node.append(helper.make_node("Mul", [raw, "scale"], ["scaled"]))
    graph.node.append(helper.make_node("Softmax", ["scaled"], ["shares"], axis=1))
    graph.output[0].name = "shares"
    _put_behind(graph, trees.task.answer, [-1, width])


def _put_behind(graph: onnx.GraphProto, answer: str, shape: Sequence[int]) -> None:
    """Name the output and give it its shape: the converter's values are [batch, 1]."""
    dims = f"{answer}_shape"
    graph.initializer.append(helper.make_tensor(dims, TensorProto.INT64, [len(shape)], shape))
    graph.node.append(helper.make_node("Reshape", [graph.output[0].name, dims], [answer]))
    del graph.output[:]
    described = helper.make_tensor_value_info(answer, TensorProto.FLOAT, [BATCH, *shape[1:]])
    graph.output.append(described)
