"""PyTriton: Triton's front and dynamic batcher before a function in Python."""

# mypy: disable-error-code="import-not-found,misc,untyped-decorator,no-any-return"
# Its packages are in an environment of its own.

from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from bench.peers.given import CORES, MAX_ROWS, MODEL, PORT
from bench.runtime import INPUT, OUTPUT, scores, session


def callables() -> list[Any]:
    """One for each core."""
    made = []
    for _ in range(CORES):
        model = session(MODEL)

        @batch
        def infer(model: Any = model, **inputs: Any) -> dict[str, Any]:
            return {OUTPUT: scores(model, inputs[INPUT])}

        made.append(infer)
    return made


def main() -> None:
    takes = session(MODEL).get_inputs()[0]
    dtype = np.uint8 if takes.type == "tensor(uint8)" else np.float32
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=PORT,
        allow_grpc=False,
        allow_metrics=False,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="m",
            infer_func=callables(),
            inputs=[Tensor(name=INPUT, dtype=dtype, shape=tuple(takes.shape[1:]))],
            outputs=[Tensor(name=OUTPUT, dtype=np.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=MAX_ROWS, batcher=DynamicBatcher()),
        )
        triton.serve()


if __name__ == "__main__":
    main()
