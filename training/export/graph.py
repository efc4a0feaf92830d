"""From a trained model to one ONNX graph that takes raw features and gives labels.

torch or skl2onnx exports the arithmetic; strings on either side of it are look-ups that torch has
no word for, written by hand and merged with it. The result holds nothing of the machine it was made
on.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import onnx
import torch
from onnx import TensorProto, checker, compose, helper

from app.bundle.manifest import Graph
from app.bundle.tensors import Tensors
from training.export.trees import CLASSICAL, export_trees
from training.models import Model, Predictor, Trees
from training.preprocess.tensors import UNKNOWN, Lookup
from training.tasks import BATCH, LABEL, SCORES, Classification

PRODUCER = "modelport"
#: The first version of the operator set whose LabelEncoder is the present one.
CLASSICAL_OPSET = 4
#: Rows of the example that torch traces; 0 and 1 would be taken as constants.
EXAMPLE_ROWS = 3


def export(trained: Model, example: Tensors) -> onnx.ModelProto:
    """Build the graph: look-ups, preprocessing, network and head or trees, label.

    Args:
        example: at least `EXAMPLE_ROWS` rows of the graph's inputs.
    Returns:
        A checked model with inputs as in `example` and the outputs of the task.
    """
    model = export_arithmetic(trained, example)
    lookup = trained.lookup
    if lookup is not None:
        part = lookup_part(lookup, model)
        model = compose.merge_models(part, model, io_map=[(lookup.ids, lookup.ids)])
    task = trained.task
    if isinstance(task, Classification):
        naming = label_part(task, model)
        io_map = [(SCORES, SCORES)]
        model = compose.merge_models(model, naming, io_map=io_map, outputs=[SCORES, LABEL])
    order = [name for name in example if name in {i.name for i in model.graph.input}]
    _order_by_name(model.graph.input, order)
    _order_by_name(model.graph.output, [spec.name for spec in task.specs()])
    clean(model)
    checker.check_model(model, full_check=True)
    return model


def export_arithmetic(trained: Model, example: Tensors) -> onnx.ModelProto:
    """What is between look-ups and label, by what trained it."""
    match trained:
        case Predictor():
            return export_network(trained, example)
        case Trees():
            return export_trees(trained, example, CLASSICAL_OPSET)
        case _:
            raise TypeError(f"no export for {type(trained).__name__}")


def export_network(predictor: Predictor, example: Tensors) -> onnx.ModelProto:
    """The torch part: preprocessing, network and head, with a free batch dimension, and whichever
    others the preprocessor says are free."""
    rows = {name: array[:EXAMPLE_ROWS] for name, array in example.items()}
    preprocess = predictor.eval().preprocess
    features = preprocess.features(rows)
    names = {BATCH, *(dim for axes in preprocess.free.values() for dim in axes.values())}
    # Sizes 0 and 1 are special to torch, which must not keep what it would do for them alone.
    dims = {name: torch.export.Dim(name, min=0 if name == BATCH else 2) for name in names}
    free = [{0: BATCH, **preprocess.free.get(name, {})} for name in preprocess.names]
    with _known_warnings_silenced():
        program = torch.onnx.export(
            predictor,
            features,
            input_names=list(preprocess.names),
            output_names=[predictor.task.answer],
            dynamic_shapes=(
                tuple({axis: dims[name] for axis, name in axes.items()} for axes in free),
            ),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model: onnx.ModelProto = program.model_proto
    _check_free(model, dict(zip(preprocess.names, free, strict=True)))
    return model


def _check_free(model: onnx.ModelProto, free: Mapping[str, Mapping[int, str]]) -> None:
    """Raise RuntimeError where a dim is that of the example: the exporter says nothing of it."""
    for value in model.graph.input:
        for axis, name in free[value.name].items():
            if not value.type.tensor_type.shape.dim[axis].dim_param:
                raise RuntimeError(f"{name} of input {value.name!r} is fixed in the exported graph")


@contextmanager
def _known_warnings_silenced() -> Iterator[None]:
    """Two warnings of the exporter that concern it alone; any other is still heard."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)  # "torchvision is not installed"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning, module="copyreg"
            )
            # Two inputs share the one batch dimension, which is what was asked for.
            warnings.filterwarnings(
                "ignore", r"# The axis name: batch will not be used", UserWarning
            )
            yield
    finally:
        logger.setLevel(level)


def lookup_part(lookup: Lookup, beside: onnx.ModelProto) -> onnx.ModelProto:
    """Strings [batch, columns] to int64 ids of the same shape, one LabelEncoder a column."""
    nodes, initializers, columns = [], [], []
    for column, vocabulary in enumerate(lookup.vocabularies):
        index, text, ids = (f"{lookup.tensor}_{column}_{part}" for part in ("at", "text", "id"))
        initializers.append(helper.make_tensor(index, TensorProto.INT64, [1], [column]))
        nodes.append(helper.make_node("Gather", [lookup.tensor, index], [text], axis=1))
        nodes.append(
            helper.make_node(
                "LabelEncoder",
                [text],
                [ids],
                domain=CLASSICAL,
                keys_strings=list(vocabulary),
                values_int64s=[i + 1 for i in range(len(vocabulary))],
                default_int64=UNKNOWN,
            )
        )
        columns.append(ids)
    nodes.append(helper.make_node("Concat", columns, [lookup.ids], axis=1))
    shape: list[str | int | None] = [BATCH, len(lookup.vocabularies)]
    graph = helper.make_graph(
        nodes,
        "lookup",
        [helper.make_tensor_value_info(lookup.tensor, TensorProto.STRING, shape)],
        [helper.make_tensor_value_info(lookup.ids, TensorProto.INT64, shape)],
        initializers,
    )
    return _part(graph, beside)


def label_part(task: Classification, beside: onnx.ModelProto) -> onnx.ModelProto:
    """Scores float32 [batch, classes] to the name of the chosen class, string [batch]."""
    labels = task.labels
    choosing, constants = _choice(task.threshold)
    nodes = [
        *choosing,
        helper.make_node(
            "LabelEncoder",
            ["label_id"],
            [LABEL],
            domain=CLASSICAL,
            keys_int64s=list(range(len(labels))),
            values_strings=list(labels),
            default_string="",
        ),
    ]
    shape: list[str | int | None] = [BATCH, len(labels)]
    graph = helper.make_graph(
        nodes,
        "naming",
        [helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(LABEL, TensorProto.STRING, [BATCH])],
        constants,
    )
    return _part(graph, beside)


def _choice(threshold: float | None) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """From scores to the class's index `label_id` int64 [batch], and the constants it takes."""
    if threshold is None:
        return [helper.make_node("ArgMax", [SCORES], ["label_id"], axis=1, keepdims=0)], []
    constants = [
        helper.make_tensor("second", TensorProto.INT64, [], [1]),
        helper.make_tensor("threshold", TensorProto.FLOAT, [], [threshold]),
    ]
    nodes = [
        helper.make_node("Gather", [SCORES, "second"], ["second_score"], axis=1),
        helper.make_node("GreaterOrEqual", ["second_score", "threshold"], ["is_second"]),
        helper.make_node("Cast", ["is_second"], ["label_id"], to=TensorProto.INT64),
    ]
    return nodes, constants


def _part(graph: onnx.GraphProto, beside: onnx.ModelProto) -> onnx.ModelProto:
    """A model of the same versions as the one it will be merged with."""
    standard = next(one for one in beside.opset_import if one.domain == "")
    imports = [
        helper.make_opsetid("", standard.version),
        helper.make_opsetid(CLASSICAL, CLASSICAL_OPSET),
    ]
    return helper.make_model(graph, opset_imports=imports, ir_version=beside.ir_version)


def _order_by_name(values: list[onnx.ValueInfoProto], names: Sequence[str]) -> None:
    ordered = sorted(values, key=lambda value: names.index(value.name))
    copies = []
    for value in ordered:
        copy = onnx.ValueInfoProto()
        copy.CopyFrom(value)
        copies.append(copy)
    del values[:]
    values.extend(copies)


def clean(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes for its own debugging: stack traces, paths, versions."""
    model.producer_name, model.producer_version = PRODUCER, ""
    model.doc_string, model.domain = "", ""
    del model.metadata_props[:]
    _clean_graph(model.graph)
    model.graph.name = PRODUCER
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    used = {node.domain for node in model.graph.node}
    versions = {one.domain: one.version for one in model.opset_import if one.domain in used}
    imports = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    del model.opset_import[:]
    model.opset_import.extend(imports)


def _clean_graph(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    del graph.value_info[:]
    for part in (*graph.input, *graph.output, *graph.initializer, *graph.node):
        part.doc_string = ""
        del part.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            attribute.doc_string = ""
            if attribute.HasField("g"):  # to touch an absent one would create it
                _clean_graph(attribute.g)
            for inner in attribute.graphs:
                _clean_graph(inner)


def describe_graph(model: onnx.ModelProto) -> Graph:
    """The facts that the manifest records, read back from the finished file."""
    return Graph(
        opset=next(one.version for one in model.opset_import if one.domain == ""),
        ir_version=model.ir_version,
        domains=tuple(sorted({node.domain for node in model.graph.node})),
        node_count=len(model.graph.node),
    )
