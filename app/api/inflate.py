"""Compressed request bodies, a piece at a time, and never more than may be.

Sources: RFC 1952 (gzip), RFC 1950 (zlib, which HTTP calls deflate), RFC 9110 section 8.4.1.
"""

import zlib
from enum import Enum
from typing import Final

from app.errors import MalformedBody, PayloadTooLarge

_SLICE_BYTES: Final = 64 * 1024


class Encoding(Enum):
    """A content coding; the value is zlib's word for its frame."""

    GZIP = 31
    DEFLATE = 15

    @property
    def word(self) -> str:
        return self.name.lower()


ENCODINGS: Final = {
    b"gzip": Encoding.GZIP,
    b"x-gzip": Encoding.GZIP,
    b"deflate": Encoding.DEFLATE,
}


class Inflater:
    """One compressed body. `step` until `is_done`; each step may be on another thread.

    Args:
        max_bytes: most bytes that it may hold; no more than one beyond is ever decompressed.
    """

    def __init__(self, body: bytes, encoding: Encoding, max_bytes: int) -> None:
        self._rest = memoryview(body)
        self._word = encoding.word
        self._max_bytes = max_bytes
        self._stream = zlib.decompressobj(encoding.value)
        self._pieces: list[bytes] = []
        self.size_bytes = 0

    @property
    def is_done(self) -> bool:
        return self._stream.eof

    def step(self, most_bytes: int) -> None:
        """Decompress up to `most_bytes` more.

        Raises:
            PayloadTooLarge: it holds more than it may.
            MalformedBody: it is damaged, ends too early, or is followed by something.
        """
        ends = min(self.size_bytes + most_bytes, self._max_bytes + 1)
        stream = self._stream
        while not stream.eof and self.size_bytes < ends:
            data = stream.unconsumed_tail or self._next_slice()
            try:
                piece = stream.decompress(data, ends - self.size_bytes)
            except zlib.error:
                raise MalformedBody(f"the body is not valid {self._word} data") from None
            if not piece and not data:
                raise MalformedBody(f"the body ends before its {self._word} data does")
            self.size_bytes += len(piece)
            self._pieces.append(piece)
        if self.size_bytes > self._max_bytes:
            raise PayloadTooLarge(
                f"the body holds more than {self._max_bytes} bytes once decompressed"
            )
        if stream.eof and (stream.unused_data or self._rest):
            raise MalformedBody(
                f"the body goes on after its {self._word} data; send one member and nothing else"
            )

    def _next_slice(self) -> memoryview:
        data, self._rest = self._rest[:_SLICE_BYTES], self._rest[_SLICE_BYTES:]
        return data

    def content(self) -> bytes:
        return b"".join(self._pieces)
