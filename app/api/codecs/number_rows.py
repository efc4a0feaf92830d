"""Rows of nothing but numbers, which most tables are: packed, without a look at each column."""

import math
import struct
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from app.bundle.signature import IntegerField, NumberField, Signature
from app.bundle.tensors import NUMPY_DTYPES, Array

#: Datatypes that are packed with their range checked, in this machine's order.
_PACKED = frozenset("fd")


class NumberRows:
    """Makes the only input of a model whose fields are numbers that every row has.

    Attributes:
        name, shape, dtype: of the input that one row makes.
    """

    def __init__(
        self, name: str, shape: tuple[int, ...], dtype: Any, fields: Sequence[str]
    ) -> None:
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self._pack = struct.Struct(f"={len(fields)}{dtype.char}").pack  # "=": checks the range
        # Of one name it would give no tuple.
        self._values = itemgetter(*fields, fields[0])
        self._count = len(fields)

    @classmethod
    def of(cls, signature: Signature) -> "NumberRows | None":
        """None for a model that takes other rows."""
        fields = sorted(signature.fields, key=lambda field: field.column or 0)
        spec, *others = signature.inputs
        row = [dim for dim in spec.shape[1:] if isinstance(dim, int)]
        dtype = NUMPY_DTYPES[spec.datatype]
        fits = (
            not others
            and dtype.char in _PACKED
            and len(row) == len(spec.shape) - 1
            and math.prod(row) == len(fields)
            and [field.column for field in fields] == list(range(len(fields)))
            and all(
                isinstance(field, NumberField | IntegerField)
                and field.required
                and not field.nullable
                for field in fields
            )
        )
        return cls(spec.name, (1, *row), dtype, [f.name for f in fields]) if fits else None

    def pack(self, row: Mapping[str, Any]) -> bytes | None:
        """The bytes of a row that was checked; None where a number does not fit."""
        try:
            return self._pack(*self._values(row)[: self._count])
        except OverflowError:
            return None

    def array(self, rows: Sequence[Mapping[str, Any]]) -> Array | None:
        """The input of rows that were checked; None where a number does not fit."""
        packed = [self.pack(row) for row in rows]
        whole = b"".join([one for one in packed if one is not None])
        shape = (len(rows), *self.shape[1:])
        return None if None in packed else np.ndarray(shape, self.dtype, whole)
