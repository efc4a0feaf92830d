"""Real bundles of the fixture models, published through the store like any other."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from app.bundle.golden import Golden, save_golden
from app.bundle.manifest import (
    GOLDEN_FILE,
    MODEL_FILE,
    Batching,
    Graph,
    Manifest,
    Tolerance,
    Variant,
    VariantName,
)
from app.bundle.signature import (
    CategoryField,
    ImageField,
    InputField,
    IntegerField,
    LabelPrediction,
    NumberField,
    PredictionField,
    ScoresPrediction,
    Signature,
    TensorPrediction,
    TensorSpec,
    ValuePrediction,
)
from app.bundle.store import Bundle, publish
from app.bundle.tensors import Tensors
from tests.support import models

GOLDEN_ROWS: Final = 6
MAX_ROWS: Final = 16
CREATED_AT: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FP32: Final = Tolerance(atol=1e-5, rtol=1e-5)
REDUCED: Final = Tolerance(atol=1e-2, rtol=1e-2)
#: Of a variant: met by `affine_int8` and `affine_fp16`, which `FP32` refuses.
ROUGH: Final = Tolerance(atol=0.1, rtol=0.01)


@dataclass(frozen=True)
class Recipe:
    """A fixture model: its signature, golden inputs, and what it computes."""

    compute: Callable[[Tensors], Tensors]
    inputs: Tensors
    signature: Signature
    nodes: int
    task: str = "regression"
    domains: tuple[str, ...] = ("",)
    row_independent: bool = True
    float_outputs: tuple[str, ...] = field(default=())


def _numbers(rows: int) -> Tensors:
    return {"x": np.random.default_rng(1).normal(size=(rows, 3)).astype(np.float32)}


def _spec(name: str, datatype: Any, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=("batch", *shape))


def _abc() -> tuple[InputField, ...]:
    return tuple(
        NumberField(name=name, tensor="x", column=column, example=float(column))
        for column, name in enumerate("abc")
    )


def _affine() -> Recipe:
    predictions: tuple[PredictionField, ...] = (
        TensorPrediction(name="y", tensor="y"),
        ValuePrediction(name="total", tensor="total"),
    )
    return Recipe(
        models.affine,
        _numbers(GOLDEN_ROWS),
        Signature(
            inputs=(_spec("x", "FP32", 3),),
            outputs=(_spec("y", "FP32", 2), _spec("total", "FP32", 1)),
            fields=_abc(),
            predictions=predictions,
        ),
        nodes=3,
        float_outputs=("y", "total"),
    )


def _mixer() -> Recipe:
    return Recipe(
        models.mixer,
        _numbers(GOLDEN_ROWS),
        Signature(
            inputs=(_spec("x", "FP32", 3),),
            outputs=(_spec("y", "FP32", 3),),
            fields=_abc(),
            predictions=(TensorPrediction(name="y", tensor="y"),),
        ),
        nodes=2,
        row_independent=False,
        float_outputs=("y",),
    )


def _strings() -> Recipe:
    colours = np.array(["red", "green", "blue", "mauve", "red", ""], dtype=object)
    return Recipe(
        models.strings,
        {"colour": colours},
        Signature(
            inputs=(_spec("colour", "BYTES"),),
            outputs=(_spec("pigment", "BYTES"), _spec("id", "INT64")),
            fields=(
                CategoryField(
                    name="colour",
                    tensor="colour",
                    vocabulary=models.COLOURS,
                    accept_unknown=True,
                    example="red",
                ),
            ),
            predictions=(
                LabelPrediction(
                    name="pigment",
                    tensor="pigment",
                    labels=(*models.PIGMENTS, models.UNKNOWN_PIGMENT),
                ),
                ValuePrediction(name="id", tensor="id"),
            ),
        ),
        nodes=2,
        task="classification",
        domains=("", "ai.onnx.ml"),
    )


def _poison() -> Recipe:
    return Recipe(
        models.poison,
        {"index": np.array([0, 1, 2, 3, -1, -4], dtype=np.int64)},
        Signature(
            inputs=(_spec("index", "INT64"),),
            outputs=(_spec("y", "FP32"),),
            # No range: a request with a bad index reaches the graph, which is the point.
            fields=(IntegerField(name="index", tensor="index", example=1),),
            predictions=(ValuePrediction(name="y", tensor="y"),),
        ),
        nodes=1,
        float_outputs=("y",),
    )


def _conv() -> Recipe:
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, models.CONV_MAXIMUM, (GOLDEN_ROWS, 8, 8), endpoint=True)
    return Recipe(
        models.conv,
        {"pixels": pixels.astype(np.uint8)},
        Signature(
            inputs=(_spec("pixels", "UINT8", 8, 8),),
            outputs=(_spec("scores", "FP32", 3), _spec("shape", "BYTES")),
            fields=(
                ImageField(
                    name="pixels", tensor="pixels", height=8, width=8, maximum=models.CONV_MAXIMUM
                ),
            ),
            predictions=(
                LabelPrediction(
                    name="shape", tensor="shape", labels=models.SHAPES, scores_tensor="scores"
                ),
                ScoresPrediction(name="scores", tensor="scores", labels=models.SHAPES),
            ),
        ),
        nodes=11,
        task="classification",
        domains=("", "ai.onnx.ml"),
        float_outputs=("scores",),
    )


RECIPES: Final[Mapping[str, Callable[[], Recipe]]] = {
    "affine": _affine,
    "mixer": _mixer,
    "strings": _strings,
    "poison": _poison,
    "conv": _conv,
}


def make_golden(model: str = "affine") -> Golden:
    """`GOLDEN_ROWS` rows with outputs computed in numpy."""
    recipe = RECIPES[model]()
    return Golden(recipe.inputs, recipe.compute(recipe.inputs))


def make_manifest(name: str, version: int, model: str = "affine", **overrides: Any) -> Manifest:
    """The manifest of a fixture model; `overrides` replace its attributes."""
    recipe = RECIPES[model]()
    attributes: dict[str, Any] = {
        "name": name,
        "version": version,
        "description": f"Fixture model {model}.",
        "task": recipe.task,
        "created_at": CREATED_AT,
        "signature": recipe.signature,
        "batching": Batching(
            row_independent=recipe.row_independent,
            max_rows=MAX_ROWS,
            checked_rows=(1, 2, GOLDEN_ROWS, MAX_ROWS) if recipe.row_independent else (),
        ),
        "tolerances": {
            "fp32": dict.fromkeys(recipe.float_outputs, FP32),
            "reduced": dict.fromkeys(recipe.float_outputs, REDUCED),
        },
        "graph": Graph(opset=20, ir_version=10, domains=recipe.domains, node_count=recipe.nodes),
    }
    return Manifest(**(attributes | overrides))


def make_bundle(
    root: Path,
    name: str,
    model: str = "affine",
    *,
    model_data: bytes | None = None,
    golden: Golden | None = None,
    graphs: Mapping[VariantName, bytes] | None = None,
    **overrides: Any,
) -> Bundle:
    """Publish the next version of `name` in the repository `root`.

    Args:
        model: a name of `RECIPES` ("affine", "mixer", "strings", "poison", "conv").
        model_data: other bytes than the fixture's ONNX file.
        golden: other golden rows than the correct ones.
        graphs: ONNX files of variants, each held to `ROUGH`.
        overrides: attributes of the manifest to replace.
    """
    files = {
        MODEL_FILE: models.model_bytes(model) if model_data is None else model_data,
        GOLDEN_FILE: save_golden(make_golden(model) if golden is None else golden),
    }
    if graphs:
        files |= {f"model.{precision}.onnx": data for precision, data in graphs.items()}
        overrides = {"variants": make_variants(graphs, model)} | overrides
    return publish(root, name, files, lambda v: make_manifest(name, v, model, **overrides))


def make_variants(
    names: Iterable[VariantName], model: str = "affine", **overrides: Any
) -> dict[VariantName, Variant]:
    """What a manifest says of variants of a fixture model; `overrides` replace attributes."""
    tolerances = dict.fromkeys(RECIPES[model]().float_outputs, ROUGH)
    return {
        name: Variant(**({"file": f"model.{name}.onnx", "tolerances": tolerances} | overrides))
        for name in names
    }
