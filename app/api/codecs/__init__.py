"""One file a wire format: request bytes to named arrays, and output arrays to response bytes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

from app.bundle.signature import Signature
from app.bundle.tensors import Array, Tensors

#: Header names in lower case.
Headers = Mapping[bytes, bytes]
#: What a served version is called in an answer.
ModelRef = Mapping[str, str | int]
MAX_DEPTH: Final = 100

JSON: Final = b"application/json"
OCTETS: Final = b"application/octet-stream"
NPY: Final = b"application/x-npy"
CSV: Final = b"text/csv"
NDJSON: Final = b"application/x-ndjson"
NO_CONTEXT: Final[Mapping[str, Any]] = MappingProxyType({})
JSON_CONTENT: Final = ((b"content-type", JSON),)


def never() -> bool:
    return False


class Decoded(NamedTuple):
    """A request that fits the signature.

    Attributes:
        inputs: named arrays; where the batch axis exists, axis 0 is `rows` long. They may be
            views of the body, which cannot be written to.
        context: what `encode` needs of the request (its id, the outputs it wants).
        timeout_us: the request's own time limit, where its body names one.
    """

    inputs: Tensors
    rows: int
    context: Mapping[str, Any] = NO_CONTEXT
    timeout_us: int | None = None

    def with_input(self, name: str, array: Array | None) -> "Decoded":
        """The same request with this input alone; None for no input."""
        inputs = {} if array is None else {name: array}
        return Decoded(inputs, self.rows, self.context, self.timeout_us)


class Content(NamedTuple):
    """The body of an answer, and the headers that say what it is."""

    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = JSON_CONTENT


class Codec(Protocol):
    """A wire format bound to one model's signature."""

    def recognise(self, body: bytes, divided_at: int | None) -> Decoded | None:  # noqa: ARG002
        """A request of which all but the numbers is known from one before, None for another.

        What is to be refused is never known: it goes the long way, which says why.

        Args:
            divided_at: as Inference-Header-Content-Length says.
        """
        return None

    def find(self, body: bytes, divided_at: int | None) -> Any:  # noqa: ARG002
        """What is known of a request but for its numbers, None for another; see `oip_known`."""
        return None

    def encode_together(
        self,
        outputs: Mapping[str, Array],  # noqa: ARG002
        known: Any,  # noqa: ARG002
        count: int,  # noqa: ARG002
        model: ModelRef,  # noqa: ARG002
    ) -> Sequence[Content] | None:
        """The answers to `count` known requests that ran together, in their order.

        Returns:
            None where each has to be answered alone, such as one that fails.
        """
        return None

    def parse(self, body: bytes, headers: Headers) -> Any:
        """Bytes to a checked document; quick, on the event loop.

        Raises:
            MalformedBody, ValidationFailed, InvalidTensor, PayloadTooLarge
        """
        ...

    def takes_long(self, document: Any) -> bool:
        """Whether `decode` should run on a worker thread: it decodes pictures, or much text."""
        ...

    def decode(self, document: Any, is_abandoned: Callable[[], bool] = never) -> Decoded:
        """A checked document to arrays. Raises as `parse` does.

        Args:
            is_abandoned: asked between pictures; `Cancelled` is raised where it says so.
        """
        ...

    def encode(self, outputs: Mapping[str, Array], decoded: Decoded, model: ModelRef) -> Content:
        """Output arrays to an answer. It is of its own memory: nothing else sees it.

        Raises:
            NonFiniteOutput: a number that JSON cannot say.
        """
        ...


def accepts(headers: Headers, media_type: bytes) -> bool:
    """Whether the caller names this media type among those that it takes."""
    given = headers.get(b"accept", b"").lower().split(b",")
    return any(one.partition(b";")[0].strip() == media_type for one in given)


def any_signature(_: Signature) -> bool:
    return True


@dataclass(frozen=True, slots=True, eq=False)
class WireFormat:
    """A wire format of a route, before it is bound to a model.

    Attributes:
        media_types: of requests in it, in lower case.
        make_codec: binds it to a signature.
        fits: whether it can say what a model of this signature takes.
        divisible: Inference-Header-Content-Length may divide bodies in it.
    """

    media_types: tuple[bytes, ...]
    make_codec: Callable[[Signature], Codec]
    fits: Callable[[Signature], bool] = any_signature
    divisible: bool = False
