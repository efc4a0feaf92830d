"""One row of a request and its answer, for servers that leave their form to the user."""

import io
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from bench.runtime import OUTPUT

_DTYPES = {"FP32": np.float32, "UINT8": np.uint8}


def tensor(document: Any) -> NDArray[Any]:
    """The only row of an Open Inference Protocol request."""
    given = document["inputs"][0]
    return np.array(given["data"], _DTYPES[given["datatype"]]).reshape(given["shape"][1:])


def answer(row: NDArray[np.float32]) -> dict[str, Any]:
    """Scores of one row as that protocol's response."""
    output = {"name": OUTPUT, "datatype": "FP32", "shape": [1, len(row)], "data": row.tolist()}
    return {"outputs": [output]}


def decoded(model: onnxruntime.InferenceSession, body: bytes, form: str) -> NDArray[Any]:
    """A row from the tensor's bytes, or from a JPEG file."""
    if form == "jpeg":
        return np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))
    takes = model.get_inputs()[0]
    dtype = np.uint8 if takes.type == "tensor(uint8)" else np.float32
    return np.frombuffer(body, dtype).reshape(takes.shape[1:])
