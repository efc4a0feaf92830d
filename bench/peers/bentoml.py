"""BentoML: a service with adaptive batching; rows in JSON, or pictures as files."""

# mypy: disable-error-code="import-not-found,misc,untyped-decorator,no-any-return,type-arg"
# Its packages are in an environment of its own.

from pathlib import Path
from typing import Annotated

import bentoml
import numpy as np
from bentoml.validators import DType
from numpy.typing import NDArray
from PIL import Image

from bench.peers.given import CORES, MAX_ROWS, MODEL
from bench.runtime import scores, session


@bentoml.service(workers=CORES)
class Scores:
    def __init__(self) -> None:
        self._model = session(MODEL)

    @bentoml.api(batchable=True, max_batch_size=MAX_ROWS)
    def rows(self, x: Annotated[np.ndarray, DType("float32")]) -> np.ndarray:
        return scores(self._model, x)

    @bentoml.api(batchable=True, max_batch_size=MAX_ROWS)
    def pictures(self, images: list[Path]) -> np.ndarray:
        opened: list[NDArray[np.uint8]] = [np.asarray(Image.open(path)) for path in images]
        return scores(self._model, np.stack(opened))
