"""The one place in training that opens an ONNX Runtime session.

Run as a file it is the bare check of a bundle: `python -I runtime.py model.onnx golden.npz out.npz`
answers the golden inputs with nothing imported but numpy and ONNX Runtime.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

CHECK_TIMEOUT_S = 120
#: Errors are raised as exceptions; the log would only repeat them.
_LOG_ERRORS_ONLY = 3

#: The same shapes as `app.bundle.golden.Run`, which the bare check does without.
Arrays = Mapping[str, NDArray[Any]]


class SessionTrouble(Exception):
    """ONNX Runtime did not load or run the model; `str` is its own message."""


def open_run(model: bytes | Path) -> Callable[[Arrays], dict[str, NDArray[Any]]]:
    """A session on the CPU with one thread, as a callable from named arrays to named arrays.

    Raises:
        SessionTrouble: the model cannot be loaded.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_ERRORS_ONLY
    try:
        session = ort.InferenceSession(
            model if isinstance(model, bytes) else str(model),
            options,
            providers=["CPUExecutionProvider"],
        )
    except Exception as error:  # the binding's exceptions share no public base
        raise SessionTrouble(str(error)) from error
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> dict[str, NDArray[Any]]:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return run


def answers(
    run: Callable[[Arrays], Mapping[str, NDArray[Any]]], inputs: Arrays, output: str, rows: int
) -> NDArray[Any]:
    """One output of all rows of the inputs, `rows` of them at a time."""
    return run_in_batches(run, inputs, rows)[output]


def run_in_batches(
    run: Callable[[Arrays], Mapping[str, NDArray[Any]]], inputs: Arrays, rows: int
) -> dict[str, NDArray[Any]]:
    """Every output of all rows of the inputs, `rows` of them at a time."""
    total = len(next(iter(inputs.values())))
    parts = [
        run({name: array[start : start + rows] for name, array in inputs.items()})
        for start in range(0, total, rows)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def run_in_child(model: bytes, golden: bytes) -> bytes:
    """Load the files in a fresh process and answer the golden inputs there.

    Args:
        model: model.onnx as it will be published.
        golden: golden.npz as it will be published.
    Returns:
        An .npz archive with the outputs, strings as fixed-width unicode.
    Raises:
        SessionTrouble: the process failed, crashed or hung.
    """
    with tempfile.TemporaryDirectory(prefix="modelport-") as folder:
        model_path, golden_path, answer = (Path(folder) / n for n in ("m.onnx", "g.npz", "o.npz"))
        model_path.write_bytes(model)
        golden_path.write_bytes(golden)
        command = [sys.executable, "-I", __file__, str(model_path), str(golden_path), str(answer)]
        try:
            child = subprocess.run(  # noqa: S603
                command, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise SessionTrouble(f"no answer from a fresh process in {CHECK_TIMEOUT_S} s") from None
        if child.returncode != 0:
            lines = child.stderr.strip().splitlines() or [f"exit status {child.returncode}"]
            raise SessionTrouble(f"a fresh process failed: {lines[-1]}")
        return answer.read_bytes()


def _answer(model_path: Path, golden_path: Path, answer_path: Path) -> None:
    with np.load(golden_path) as golden:
        inputs = {k.removeprefix("input:"): golden[k] for k in golden if k.startswith("input:")}
    # ONNX Runtime takes strings as object arrays.
    inputs = {k: v.astype(object) if v.dtype.kind == "U" else v for k, v in inputs.items()}
    outputs = open_run(model_path)(inputs)
    plain = {k: v.astype(np.str_) if v.dtype == object else v for k, v in outputs.items()}
    np.savez(answer_path, allow_pickle=False, **plain)


if __name__ == "__main__":
    _answer(*(Path(argument) for argument in sys.argv[1:4]))
