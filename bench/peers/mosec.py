"""Mosec: a worker process for each core, batches of requests, JSON or raw bytes."""

# mypy: disable-error-code="import-not-found,misc,untyped-decorator,no-any-return"
# Its packages are in an environment of its own.

from typing import Any

import numpy as np
from mosec import Server, Worker

from bench.peers.given import CORES, FORM, MAX_ROWS, MODEL, WAIT_MS
from bench.peers.rows import answer, decoded, tensor
from bench.runtime import scores, session


class Scores(Worker):
    def __init__(self) -> None:
        self._model = session(MODEL)

    def forward(self, data: list[Any]) -> list[Any]:
        return list(scores(self._model, np.stack(data)))

    def deserialize(self, data: bytes) -> Any:
        if FORM == "json":
            return tensor(super().deserialize(data))
        return decoded(self._model, data, FORM)

    def serialize(self, data: Any) -> bytes:
        return super().serialize(answer(data)) if FORM == "json" else data.tobytes()


if __name__ == "__main__":
    server = Server()
    server.append_worker(Scores, num=CORES, max_batch_size=MAX_ROWS, max_wait_time=WAIT_MS)
    server.run()
