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
#: Datatypes that are packed as they are: standard sizes, in this machine's order.
_PACKED: Final = frozenset("fd")


class _Frame(NamedTuple):
    """What stands around the numbers, and what it says."""

    before: bytes
    behind: bytes
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pack: Callable[..., bytes]
    #: All of the request but its inputs.
    rest: tuple[int, Mapping[str, Any], int | None]


class _Head(NamedTuple):
    """The JSON before one raw tensor, and what it says."""

    text: bytes
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    total_bytes: int
    decoded: Decoded


class KnownRequests:
    """The last few documents of one model's requests. Only models with one input of numbers.

    Args:
        inputs: of the model's signature.
    """

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        self._frames: list[_Frame] = []
        self._heads: list[_Head] = []
        spec = inputs[0]
        self._spec = spec
        self._dtype = NUMPY_DTYPES[spec.datatype]
        self._learns = len(inputs) == 1 and self._dtype.kind in "fiu"

    def recognise(self, body: bytes, divided_at: int | None) -> Decoded | None:
        """The request, where it is known; None for another, which may well be good.

        Args:
            divided_at: the length of the JSON, where a raw tensor comes behind it.
        """
        if divided_at is None:
            for frame in self._frames:
                if body.startswith(frame.before) and body.endswith(frame.behind):
                    return _fill(frame, body)
            return None
        for head in self._heads:
            is_long_enough = len(body) == head.total_bytes and divided_at == len(head.text)
            if is_long_enough and body.startswith(head.text):
                array = np.frombuffer(body, head.dtype, -1, divided_at)
                if not array.flags.aligned:
                    array = array.copy()
                return head.decoded.with_input(head.name, array.reshape(head.shape))
        return None

    def learn(self, text: bytes, decoded: Decoded, raw_bytes: int | None) -> None:
        """Take note of a request that was taken.

        Args:
            text: its JSON.
            raw_bytes: of all that is behind it, None where the numbers are in the JSON.
        """
        if not self._learns:
            return
        name = self._spec.name
        shape = decoded.inputs[name].shape
        bare = decoded.with_input(name, None)
        if raw_bytes is None and self._dtype.char in _PACKED and math.prod(shape) <= _MOST_VALUES:
            self._learn_frame(text, name, shape, bare)
        elif (
            raw_bytes
            and len(text) <= _MOST_BYTES
            and raw_bytes == math.prod(shape) * self._dtype.itemsize
        ):
            head = _Head(text, name, shape, self._dtype, len(text) + raw_bytes, bare)
            self._heads = [head, *self._heads][:_MOST_KNOWN]

    def _learn_frame(
        self, text: bytes, name: str, shape: tuple[int, ...], decoded: Decoded
    ) -> None:
        found = _DATA.search(text, 0, _MOST_BYTES)
        # Elsewhere the word may be part of a string.
        if found is None or text.count(b'"data"') > 1:
            return
        begins = found.end()
        ends = text.find(b"]", begins)
        if text.find(b"[", begins, ends) >= 0 or len(text) - ends > _MOST_BYTES:
            return  # nested lists
        frame = _Frame(
            text[:begins],
            text[ends:],
            name,
            shape,
            self._dtype,
            struct.Struct(f"{math.prod(shape)}{self._dtype.char}").pack,
            (decoded.rows, decoded.context, decoded.timeout_us),
        )
        self._frames = [frame, *self._frames][:_MOST_KNOWN]


def _fill(frame: _Frame, body: bytes) -> Decoded | None:
    before, behind = frame.before, frame.behind
    # With its brackets; where they overlap there are no numbers.
    between = body[len(before) - 1 : len(body) - len(behind) + 1]
    if between.translate(None, _OF_NUMBERS):
        return None
    try:
        # Refuses another count, and what does not fit.
        packed = frame.pack(*orjson.loads(between))
    except (orjson.JSONDecodeError, struct.error, OverflowError):
        return None
    array: Array = np.ndarray(frame.shape, frame.dtype, packed)
    return Decoded({frame.name: array}, *frame.rest)
