"""ONNX Runtime as every server here is given it. Imports little: it counts as their memory."""

from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

INPUT: Final = "x"
OUTPUT: Final = "scores"


def session(model: bytes | Path, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def scores(opened: onnxruntime.InferenceSession, rows: NDArray[np.generic]) -> NDArray[np.float32]:
    """Shape [rows, 10]."""
    answer: NDArray[np.float32] = opened.run([OUTPUT], {INPUT: rows})[0]
    return answer
