"""Handwritten digits of scikit-learn: 1,797 grey pictures of 8 × 8 pixels, values 0–16."""

import numpy as np
from sklearn.datasets import load_digits

from app.bundle.signature import ImageField, TensorSpec
from training.data.dataset import Dataset
from training.tasks import Classification

SOURCE = "scikit-learn load_digits (UCI optical recognition of handwritten digits, test part)"
MAXIMUM = 16


def collect_digits() -> Dataset:
    """Input `image`: uint8 [rows, 8, 8]; labels "0" to "9"."""
    bunch = load_digits()
    images = bunch.images.astype(np.uint8)
    spec = TensorSpec(
        name="image",
        datatype="UINT8",
        shape=("batch", 8, 8),
        description=f"grey values, 0 (background) to {MAXIMUM} (full ink)",
    )
    field = ImageField(
        name="image",
        tensor="image",
        height=8,
        width=8,
        channels=1,
        maximum=MAXIMUM,
        description=(
            "One handwritten digit, light on dark: nested numbers [row][column], "
            "or a PNG, JPEG or WebP file in base64"
        ),
        example=tuple(tuple(row) for row in images[0].tolist()),
    )
    return Dataset(
        source=SOURCE,
        specs=(spec,),
        fields=(field,),
        inputs={"image": images},
        targets=bunch.target.astype(np.int64),
        task=Classification(tuple(str(name) for name in bunch.target_names)),
    )
