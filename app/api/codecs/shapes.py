"""The shape that a request gives its tensor, checked before anything is made of that size."""

import math
from typing import Any

from app.bundle.signature import TensorSpec
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
    if type(value) is not list or not all(type(size) is int and size >= 0 for size in value):
        raise InvalidTensor(f"{where}: 'shape' must be an array of whole numbers from 0")
    fits = len(value) == len(spec.shape) and all(
        size == dim for size, dim in zip(value, spec.shape, strict=True) if isinstance(dim, int)
    )
    if not fits:
        wanted = ", ".join(str(dim) for dim in spec.shape)
        raise InvalidTensor(f"{where}: shape {value[:16]} does not fit [{wanted}]")
    if not value or value[0] == 0:
        raise InvalidTensor(f"{where}: at least one row is needed")
    if value[0] > max_rows:
        raise PayloadTooLarge(f"{where}: {value[0]} rows, at most {max_rows}")
    # Python's integers do not overflow.
    if math.prod(value) * NUMPY_DTYPES[spec.datatype].itemsize > max_bytes:
        raise PayloadTooLarge(f"{where}: shape {value} is larger than a request may be")
    return value
