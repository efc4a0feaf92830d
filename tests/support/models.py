"""The fixture models of `tests/data/`: what each computes, in numpy.

`tests/engine/make_models.py` wrote the ONNX files with the constants of this file; golden outputs
come from the functions here, never from ONNX Runtime.
"""

from pathlib import Path
from typing import Final

import numpy as np

from app.bundle.tensors import Array, Tensors

DATA: Final = Path(__file__).parent.parent / "data"

AFFINE_WEIGHT: Final = np.array([[0.5, -1.0], [0.25, 2.0], [-0.75, 1.5]], dtype=np.float32)
AFFINE_BIAS: Final = np.array([0.1, -0.2], dtype=np.float32)
AFFINE_TOTAL: Final = np.ones((2, 1), dtype=np.float32)
#: Of the weight in eight bits; no weight is a whole number of steps.
AFFINE_STEP: Final = np.array(2 / 127, dtype=np.float32)

COLOURS: Final = ("blue", "green", "red")
PIGMENTS: Final = ("azurite", "malachite", "vermilion")
UNKNOWN_PIGMENT: Final = "unknown"
UNKNOWN_ID: Final = -1

POISON_TABLE: Final = np.array([10.0, 20.0, 30.0, 40.0], dtype=np.float32)

SHAPES: Final = ("bar", "dot", "line")
CONV_MAXIMUM: Final = 16
#: [out, in, height, width]; small exact fractions of both signs.
CONV_KERNEL: Final = ((np.arange(36) * 7 % 11 - 5) / 8).astype(np.float32).reshape(4, 1, 3, 3)
CONV_WEIGHT: Final = ((np.arange(108) * 5 % 13 - 6) / 16).astype(np.float32).reshape(36, 3)


def model_bytes(model: str) -> bytes:
    return (DATA / f"{model}.onnx").read_bytes()


def affine(inputs: Tensors) -> dict[str, Array]:
    """x FP32 [batch, 3] -> y FP32 [batch, 2] = x·W + b, and total FP32 [batch, 1] = y·1."""
    y = inputs["x"] @ AFFINE_WEIGHT + AFFINE_BIAS
    return {"y": y, "total": y @ AFFINE_TOTAL}


def mixer(inputs: Tensors) -> dict[str, Array]:
    """x FP32 [batch, 3] -> y FP32 [batch, 3], centred over the batch: rows change each other."""
    x = inputs["x"]
    return {"y": x - x.mean(axis=0, keepdims=True)}


def strings(inputs: Tensors) -> dict[str, Array]:
    """colour BYTES [batch] -> pigment BYTES [batch] and id INT64 [batch]."""
    ids = [COLOURS.index(c) if c in COLOURS else UNKNOWN_ID for c in inputs["colour"]]
    pigments = [PIGMENTS[i] if i >= 0 else UNKNOWN_PIGMENT for i in ids]
    return {"pigment": np.array(pigments, dtype=object), "id": np.array(ids, dtype=np.int64)}


def words(inputs: Tensors) -> dict[str, Array]:
    """text UINT8 [batch, length], padded with 0 -> its bytes' number `size` and sum `total`, FP32
    [batch]."""
    text = inputs["text"].astype(np.float32)
    return {"size": np.sign(text).sum(axis=1), "total": text.sum(axis=1)}


def steps(inputs: Tensors) -> dict[str, Array]:
    """walk FP32 [batch, length, 2], padded with NaN -> way FP32 [batch, 2], its sum."""
    return {"way": np.nansum(inputs["walk"], axis=1)}


def poison(inputs: Tensors) -> dict[str, Array]:
    """index INT64 [batch] -> y FP32 [batch]; an index outside -4..3 makes the run fail."""
    return {"y": POISON_TABLE[inputs["index"]]}


def conv(inputs: Tensors) -> dict[str, Array]:
    """pixels UINT8 [batch, 8, 8] -> scores FP32 [batch, 3] and shape BYTES [batch]."""
    scaled = inputs["pixels"].astype(np.float32) / np.float32(CONV_MAXIMUM)
    windows = np.lib.stride_tricks.sliding_window_view(scaled, (3, 3), axis=(1, 2))
    maps = np.maximum(np.einsum("nhwij,oij->nohw", windows, CONV_KERNEL[:, 0]), 0)
    pooled = maps.reshape(len(maps), 4, 3, 2, 3, 2).max(axis=(3, 5))
    logits = pooled.reshape(len(maps), -1) @ CONV_WEIGHT
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores = (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)
    names = [SHAPES[i] for i in scores.argmax(axis=1)]
    return {"scores": scores, "shape": np.array(names, dtype=object)}
