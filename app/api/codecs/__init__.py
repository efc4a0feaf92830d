"""One file a wire format: request bytes to named arrays, and output arrays to response bytes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from app.bundle.tensors import Array, Tensors

#: What a served version is called in an answer.
ModelRef = Mapping[str, str | int]
MAX_DEPTH: Final = 100


def never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Decoded:
    """A request that fits the signature.

    Attributes:
        inputs: named arrays; where the batch axis exists, axis 0 is `rows` long.
        context: what `encode` needs of the request (its id, the outputs it wants).
        timeout_us: the request's own time limit, where its body names one.
    """

    inputs: Tensors
    rows: int
    context: Mapping[str, Any] = field(default_factory=dict)
    timeout_us: int | None = None


class Codec(Protocol):
    """A wire format bound to one model's signature."""

    def parse(self, body: bytes) -> Any:
        """Bytes to a checked document; quick, on the event loop.

        Raises:
            MalformedBody, ValidationFailed, InvalidTensor, PayloadTooLarge
        """
        ...

    def has_pictures(self, document: Any) -> bool:
        """Whether `decode` should run on a worker thread, because it decodes pictures."""
        ...

    def decode(self, document: Any, is_abandoned: Callable[[], bool] = never) -> Decoded:
        """A checked document to arrays. Raises as `parse` does.

        Args:
            is_abandoned: asked between pictures; `Cancelled` is raised where it says so.
        """
        ...

    def encode(self, outputs: Mapping[str, Array], decoded: Decoded, model: ModelRef) -> bytes:
        """Output arrays to a response body.

        Raises:
            NonFiniteOutput: a number that JSON cannot say.
        """
        ...
