"""LitServe: batches of requests in a process for each core, with its queue for high rates."""

# mypy: disable-error-code="import-not-found,misc,untyped-decorator,no-any-return"
# Its packages are in an environment of its own.

from typing import Annotated, Any

import litserve
import numpy as np
from fastapi import Body, Response

from bench.peers.given import CORES, FORM, MAX_ROWS, MODEL, PORT, WAIT_MS
from bench.peers.rows import answer, decoded, tensor
from bench.runtime import scores, session

Octets = Annotated[bytes, Body(media_type="application/octet-stream")]


class Scores(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002
        self._model = session(MODEL)

    def batch(self, inputs: list[Any]) -> Any:
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        return scores(self._model, x)

    def unbatch(self, output: Any) -> list[Any]:
        return list(output)


class JsonScores(Scores):
    """Without annotations a request is read as JSON, and so is the answer written."""

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        return tensor(request)

    def encode_response(self, output):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        return answer(output)


class RawScores(Scores):
    def decode_request(self, request: Octets) -> Any:
        return decoded(self._model, request, FORM)

    def encode_response(self, output: Any) -> Response:
        return Response(output.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    kind = JsonScores if FORM == "json" else RawScores
    api = kind(max_batch_size=MAX_ROWS, batch_timeout=WAIT_MS / 1e3)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=CORES, fast_queue=True)
    server.run(port=PORT, log_level="warning", generate_client_file=False)
