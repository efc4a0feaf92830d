"""The shape that a request gives its tensor, checked before anything is made of that size."""

import math
from collections.abc import Sequence
from typing import Any

from app.bundle.signature import Dim, TensorSpec
from app.bundle.tensors import NUMPY_DTYPES
from app.errors import InvalidTensor, PayloadTooLarge


def checked_shape(
    value: Any, spec: TensorSpec, where: str, max_rows: int, max_bytes: int
) -> list[int]:
    """The shape, where it fits the signature and the limits.

    Args:
        where: what the shape belongs to, in words.
    Raises:
        InvalidTensor: no list of whole numbers, another rank or another fixed dim, or no rows.
        PayloadTooLarge: too many rows, or bytes.
    """
    if type(value) is not list or not _are_sizes(value):
        raise InvalidTensor(f"{where}: 'shape' must be an array of whole numbers from 0")
    if not _fits(value, spec.shape):
        wanted = ", ".join(str(dim) for dim in spec.shape)
        raise InvalidTensor(f"{where}: shape {value[:16]} does not fit [{wanted}]")
    if not value or value[0] == 0:
        raise InvalidTensor(f"{where}: at least one row is needed")
    if value[0] > max_rows:
        raise PayloadTooLarge(f"{where}: {value[0]} rows, at most {max_rows}")
    # Python's integers do not overflow; NumPy's would, also of an array without values.
    count = math.prod(value) or math.prod(filter(None, value))
    if count * NUMPY_DTYPES[spec.datatype].itemsize > max_bytes:
        raise PayloadTooLarge(f"{where}: shape {value} is larger than a request may be")
    return value


# Plain loops: over so few items they are faster than generators.


def _are_sizes(value: list[Any]) -> bool:
    for size in value:  # noqa: SIM110
        if type(size) is not int or size < 0:
            return False
    return True


def _fits(shape: list[int], dims: Sequence[Dim]) -> bool:
    if len(shape) != len(dims):
        return False
    for size, dim in zip(shape, dims, strict=True):
        if type(dim) is int and size != dim:
            return False
    return True
