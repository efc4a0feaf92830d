"""The model repository of the HTTP tests: every kind of field, on the fixture graphs."""

from pathlib import Path
from typing import Any

import numpy as np

from app.bundle.golden import Golden
from app.bundle.signature import (
    CategoryField,
    IntegerField,
    NumberField,
    Signature,
    TensorField,
    TensorPrediction,
    TensorSpec,
    TextField,
)
from tests.support import models
from tests.support.bundles import RECIPES, make_bundle

#: Every model of the repository and the fixture graph that it is made of.
GRAPHS = {
    "affine": "affine",
    "conv": "conv",
    "grid": "conv",
    "mixer": "mixer",
    "notes": "strings",
    "plan-b": "affine",
    "plan.b": "affine",
    "poison": "poison",
    "ranged": "affine",
    "strings": "strings",
    "survey": "strings",
}


def publish_all(root: Path) -> None:
    """Publish the models of `GRAPHS`; `affine` has two versions."""
    signatures = {
        "grid": _with_fields("conv", TensorField(name="pixels", tensor="pixels")),
        "notes": _with_fields("strings", TextField(name="text", tensor="colour", max_length=40)),
        "ranged": _with_fields(
            "affine",
            NumberField(name="a", tensor="x", column=0, minimum=1, unit="cm"),
            IntegerField(name="b", tensor="x", column=1, required=False, nullable=True),
            NumberField(name="c", tensor="x", column=2, minimum=-5, maximum=5),
        ),
        "survey": _with_fields(
            "strings",
            CategoryField(
                name="colour",
                tensor="colour",
                vocabulary=models.COLOURS,
                required=False,
                nullable=True,
            ),
        ),
    }
    for name, graph in GRAPHS.items():
        overrides: dict[str, Any] = {}
        if name in signatures:
            overrides["signature"] = signatures[name]
        make_bundle(root, name, graph, **overrides)
    make_bundle(root, "affine", "affine", description="Second version.")


def _with_fields(graph: str, *fields: Any) -> Signature:
    return RECIPES[graph]().signature.model_copy(update={"fields": fields})


def other_golden() -> Golden:
    """Golden rows that the affine model does not meet."""
    x = np.ones((4, 3), np.float32)
    return Golden({"x": x}, {name: a + 1 for name, a in models.affine({"x": x}).items()})


def lone_signature(datatype: str, *dims: int | str) -> Signature:
    """A signature with one tensor of a datatype, for codecs without a session."""
    shape = ("batch", *dims)
    return Signature(
        inputs=(TensorSpec(name="x", datatype=datatype, shape=shape),),
        outputs=(TensorSpec(name="y", datatype=datatype, shape=shape),),
        fields=(TensorField(name="x", tensor="x"),),
        predictions=(TensorPrediction(name="y", tensor="y"),),
    )
