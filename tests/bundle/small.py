"""The smallest bundle there can be: the store reads neither ONNX nor what the golden rows say."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from app.bundle.golden import Golden, save_golden
from app.bundle.manifest import GOLDEN_FILE, MODEL_FILE, Batching, Graph, Manifest, Tolerance
from app.bundle.signature import (
    LabelPrediction,
    NumberField,
    ScoresPrediction,
    Signature,
    TensorSpec,
)
from app.bundle.store import Bundle, publish

NAME = "small"
LABELS = ("no", "yes")
SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype="FP32", shape=("batch", 1)),),
    outputs=(
        TensorSpec(name="label", datatype="BYTES", shape=("batch",)),
        TensorSpec(name="scores", datatype="FP32", shape=("batch", 2)),
    ),
    fields=(NumberField(name="x", tensor="x", column=0),),
    predictions=(
        LabelPrediction(name="label", tensor="label", labels=LABELS, scores_tensor="scores"),
        ScoresPrediction(name="scores", tensor="scores", labels=LABELS),
    ),
)
GOLDEN = Golden(
    inputs={"x": np.array([[0.0], [0.5], [2.0]], dtype=np.float32)},
    outputs={
        "label": np.array(["no", "yes", "yes"], dtype=object),
        "scores": np.array([[1.0, 0.0], [0.4999, 0.5001], [0.0, 1.0]], dtype=np.float32),
    },
)
FILES = {MODEL_FILE: b"bytes of a model", GOLDEN_FILE: save_golden(GOLDEN)}


def manifest(version: int = 1, name: str = NAME) -> Manifest:
    return Manifest(
        name=name,
        version=version,
        task="classification",
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
        signature=SIGNATURE,
        batching=Batching(row_independent=True, max_rows=8, checked_rows=(1, 2, 8)),
        tolerances={
            "fp32": {"scores": Tolerance(atol=1e-5, rtol=1e-4)},
            "reduced": {"scores": Tolerance(atol=2e-3, rtol=1e-2)},
        },
        graph=Graph(opset=20, ir_version=10, domains=("",), node_count=1),
    )


def publish_small(root: Path, manifest_for: Callable[[int], Manifest] = manifest) -> Bundle:
    return publish(root, NAME, FILES, manifest_for, lambda m: {"card.md": f"v{m.version}".encode()})
