"""Recognises tensor requests of which all but the numbers is known from one before.

A caller sends the same document again and again, with other numbers in it. Where the bytes before
and behind the numbers are those of a request that was taken, and what is between them is a list of
as many numbers, the request is that one with these numbers, and need not be read otherwise.
"""

import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from app.api.codecs import Decoded
from app.bundle.signature import TensorSpec
from app.bundle.tensors import NUMPY_DTYPES, Array

#: Where the numbers of the only tensor begin.
_DATA: Final = re.compile(rb'"data"\s*:\s*\[')
_MOST_KNOWN: Final = 4
_MOST_BYTES: Final = 4096
_MOST_VALUES: Final = 4096
#: What a list of numbers consists of; neither a word nor a string does.
_OF_NUMBERS: Final = b"0123456789+-.eE, \t\r\n[]"
#: Codes by which values are packed, with their range checked, in this machine's order.
_CODES: Final = {
    np.dtype(name): code
    for name, code in {
        "float32": "f", "float64": "d", "int8": "b", "uint8": "B", "int16": "h", "uint16": "H",
        "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q",
    }.items()
}  # fmt: skip


class Known(NamedTuple):
    """A request but for its numbers.

    Attributes:
        before, behind: what stands around the numbers; of a raw tensor, `before` is its JSON.
        pack: numbers to the bytes of the tensor.
        total_bytes: of the whole body, where the tensor is raw.
        name, shape, dtype: of the only input.
        rest: of the request, behind its inputs.
    """

    before: bytes
    behind: bytes
    pack: Callable[..., bytes]
    total_bytes: int
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    rest: tuple[int, Mapping[str, Any], int | None]

    @property
    def has_time_limit(self) -> bool:
        """Of its own, in the document."""
        return self.rest[2] is not None

    def numbers(self, body: bytes) -> bytes | None:
        """The numbers of a body that begins and ends like this one; None where there are others."""
        # With their brackets; where those overlap there are no numbers.
        between = body[len(self.before) - 1 : len(body) - len(self.behind) + 1]
        if between.translate(None, _OF_NUMBERS):
            return None
        try:
            # Refuses another count, lists in the list, and what does not fit.
            return self.pack(*orjson.loads(between))
        except (orjson.JSONDecodeError, struct.error, OverflowError):
            return None

    def decoded(self, array: Array) -> Decoded:
        return Decoded({self.name: array}, *self.rest)


class KnownRequests:
    """The last few documents of one model's requests. Only models with one input of numbers.

    Args:
        inputs: of the model's signature.
    """

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        self._in_json: list[Known] = []
        self._raw: list[Known] = []
        spec = inputs[0]
        self._name = spec.name
        self._dtype = NUMPY_DTYPES[spec.datatype]
        self._learns = len(inputs) == 1 and self._dtype.kind in "fiu"

    def find(self, body: bytes, divided_at: int | None) -> Known | None:
        """What is known of a body, but for its numbers, which may be wrong.

        Args:
            divided_at: the length of the JSON, where a raw tensor comes behind it.
        """
        if divided_at is None:
            for known in self._in_json:
                if body.startswith(known.before) and body.endswith(known.behind):
                    return known
            return None
        for known in self._raw:
            is_long_enough = len(body) == known.total_bytes and divided_at == len(known.before)
            if is_long_enough and body.startswith(known.before):
                return known
        return None

    def recognise(self, body: bytes, divided_at: int | None) -> Decoded | None:
        """The request, where it is known; None for another, which may well be good."""
        known = self.find(body, divided_at)
        if known is None:
            return None
        if divided_at is not None:
            array = np.frombuffer(body, known.dtype, -1, divided_at)
            if not array.flags.aligned:
                array = array.copy()
            return known.decoded(array.reshape(known.shape))
        numbers = known.numbers(body)
        if numbers is None:
            return None
        return known.decoded(np.ndarray(known.shape, known.dtype, numbers))

    def learn(self, text: bytes, decoded: Decoded, raw_bytes: int | None) -> None:
        """Take note of a request that was taken.

        Args:
            text: its JSON.
            raw_bytes: of all that is behind it, None where the numbers are in the JSON.
        """
        if not self._learns:
            return
        shape = decoded.inputs[self._name].shape
        if raw_bytes is None:
            self._learn_in_json(text, shape, decoded)
        elif len(text) <= _MOST_BYTES and raw_bytes == math.prod(shape) * self._dtype.itemsize:
            known = self._known(text, b"", shape, len(text) + raw_bytes, decoded)
            self._raw = [known, *self._raw][:_MOST_KNOWN]

    def _learn_in_json(self, text: bytes, shape: tuple[int, ...], decoded: Decoded) -> None:
        if self._dtype not in _CODES or not 0 < math.prod(shape) <= _MOST_VALUES:
            return
        found = _DATA.search(text, 0, _MOST_BYTES)
        # Elsewhere the word may be part of a string; and it may be spelt with escapes.
        if found is None or text.count(b'"data"') > 1 or b"\\" in text:
            return
        begins = found.end()
        ends = text.find(b"]", begins)
        if text.find(b"[", begins, ends) >= 0 or len(text) - ends > _MOST_BYTES:
            return  # nested lists
        known = self._known(text[:begins], text[ends:], shape, 0, decoded)
        self._in_json = [known, *self._in_json][:_MOST_KNOWN]

    def _known(
        self, before: bytes, behind: bytes, shape: tuple[int, ...], total_bytes: int, said: Decoded
    ) -> Known:
        code = _CODES.get(self._dtype, "x")  # others are only taken raw
        return Known(
            before,
            behind,
            struct.Struct(f"={math.prod(shape)}{code}").pack,  # "=" checks the range
            total_bytes,
            self._name,
            shape,
            self._dtype,
            (said.rows, said.context, said.timeout_us),
        )
