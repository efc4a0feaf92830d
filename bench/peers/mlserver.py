"""MLServer: a custom runtime with adaptive batching, Open Inference Protocol in JSON."""

# mypy: disable-error-code="import-not-found,misc,untyped-decorator,no-any-return"
# Its packages are in an environment of its own.

import json
import os
import sys
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from bench.peers.given import CORES, MAX_ROWS, MODEL, PORT, WAIT_MS
from bench.runtime import OUTPUT, scores, session


class Scores(MLModel):
    async def load(self) -> bool:
        self._session = session(MODEL)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0])
        output = NumpyCodec.encode_output(OUTPUT, scores(self._session, rows))
        return InferenceResponse(model_name=self.name, outputs=[output])


def main() -> None:
    folder = Path(os.environ["HOME"]) / "model"
    folder.mkdir()
    settings = {
        "debug": False,
        "http_port": PORT,
        "grpc_port": 0,
        "metrics_port": PORT + 1,
        # A process of its own for the model pays only where it has a core of its own.
        "parallel_workers": CORES if CORES > 1 else 0,
    }
    model = {
        "name": "m",
        "implementation": "bench.peers.mlserver.Scores",
        "max_batch_size": MAX_ROWS,
        "max_batch_time": WAIT_MS / 1e3,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    program = str(Path(sys.executable).with_name("mlserver"))
    os.execv(program, [program, "start", str(folder)])


if __name__ == "__main__":
    main()
