"""The reference distribution of each field on the training split, for monitoring drift.

number    edges (ascending; bin i holds edges[i] <= x < edges[i+1], the last one both ends),
          frequencies (share of the present values in each bin), missing_rate
category  frequencies (share of all rows by value; "" is missing), missing_rate
image     the same as number, of `statistic`, the mean of the row's pixels over the maximum
text      the same as number, of `statistic`, the length in bytes
series    the same as number, of `statistic`, the length in steps
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from app.bundle.padding import row_lengths
from app.bundle.signature import CategoryField, ImageField, InputField, IntegerField, NumberField
from app.bundle.tensors import Array, Tensors
from training.export.lengths import is_padded

BINS = 10


def reference_distributions(
    inputs: Tensors, fields: Sequence[InputField]
) -> dict[str, Mapping[str, Any]]:
    """By field name; fields without a distribution that makes sense are left out."""
    found = {field.name: _distribution(inputs[field.tensor], field) for field in fields}
    return {name: described for name, described in found.items() if described}


def _distribution(tensor: Array, field: InputField) -> Mapping[str, Any]:
    rows = {"rows": len(tensor)}
    if isinstance(field, NumberField | IntegerField):
        column = tensor if field.column is None else tensor[:, field.column]
        return {"kind": "number", **rows, **_histogram(column.astype(np.float64))}
    if isinstance(field, CategoryField):
        column = tensor if field.column is None else tensor[:, field.column]
        return {"kind": "category", **rows, **_frequencies(column, field.vocabulary)}
    if isinstance(field, ImageField):
        pixels = tensor.reshape(len(tensor), -1).astype(np.float64) / field.maximum
        return {
            "kind": "image",
            "statistic": "mean_intensity",
            **rows,
            **_histogram(pixels.mean(axis=1)),
        }
    if is_padded(field, tensor):
        lengths = row_lengths(tensor).astype(np.float64)
        return {"kind": field.kind, "statistic": "length", **rows, **_histogram(lengths)}
    return {}


def _histogram(values: Array) -> dict[str, Any]:
    """Bins between deciles, so that each holds about as many rows as any other."""
    present = values[~np.isnan(values)]
    missing_rate = 1 - len(present) / len(values)
    if len(present) == 0:
        return {"edges": [], "frequencies": [], "missing_rate": missing_rate}
    edges = np.unique(np.quantile(present, np.linspace(0, 1, BINS + 1)))
    if len(edges) == 1:
        edges = np.array([edges[0], edges[0]])
    counts, _ = np.histogram(present, bins=edges)
    return {
        "edges": edges.tolist(),
        "frequencies": (counts / len(present)).tolist(),
        "missing_rate": missing_rate,
    }


def _frequencies(values: Array, vocabulary: Sequence[str]) -> dict[str, Any]:
    shares = {word: float(np.mean(values == word)) for word in ("", *vocabulary)}
    return {"frequencies": shares, "missing_rate": shares[""]}
