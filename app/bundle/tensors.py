"""Tensor datatypes in Open Inference Protocol terms, and the numpy types that carry them."""

from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

Datatype = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
]

#: An array of any datatype here. BYTES tensors are object arrays of `str`.
Array = NDArray[Any]
#: Named tensors: what a graph takes, or gives.
Tensors = Mapping[str, Array]

NUMPY_DTYPES: Final[Mapping[Datatype, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}

_BY_NUMPY: Final = {dtype: name for name, dtype in NUMPY_DTYPES.items()}


def datatype_of(array: Array) -> Datatype:
    """The protocol's name for an array's dtype (numpy's own string types count as BYTES).

    Raises:
        TypeError: the dtype has no name in the protocol.
    """
    if array.dtype.kind in "US":
        return "BYTES"
    try:
        return _BY_NUMPY[array.dtype]
    except KeyError:
        raise TypeError(f"dtype {array.dtype} has no Open Inference Protocol datatype") from None


def is_float(datatype: Datatype) -> bool:
    return datatype in ("FP16", "FP32", "FP64")


def row_count(tensors: Tensors) -> int:
    """Length of axis 0, which all tensors of a batch share."""
    return int(next(iter(tensors.values())).shape[0])


def take_rows(tensors: Tensors, rows: slice | Array) -> dict[str, Array]:
    """The same rows of every tensor."""
    return {name: array[rows] for name, array in tensors.items()}
