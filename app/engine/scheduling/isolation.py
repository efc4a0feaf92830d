"""Run several requests as one batch, and find the ones that make it fail.

A batch that fails is halved until the requests at fault stand alone. Where one half succeeds, the
other is known to hold the fault and is halved without being run, which keeps one culprit among n
requests within 2·log2(n) + 2 runs. What is still unresolved then fails.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import numpy as np

from app.bundle.tensors import Array, Tensors, row_count
from app.errors import EngineError, SessionFailed

Run = Callable[[Tensors], Mapping[str, Array]]
#: What one request gets: its own output rows, or the error that is its own.
Outcome = Mapping[str, Array] | EngineError


class RowCountMismatch(SessionFailed):
    """The model gave another number of rows than it got; no half of the batch can be trusted."""


def run_isolated(run: Run, requests: Sequence[Tensors]) -> list[Outcome]:
    """Outcome of each request, in order.

    Args:
        run: the model; what it raises is the fault that is searched for.
        requests: inputs of each, all with equal trailing shapes and dtypes.
    """
    search = _Search(run, requests)
    search.settle(0, len(requests), known_bad=False)
    return search.outcomes()


def run_alone(run: Run, inputs: Tensors) -> Outcome:
    """For models whose rows are not independent: one request, outputs of any leading size."""
    try:
        return run(inputs)
    except Exception as error:
        return as_engine_error(error)


def as_engine_error(error: Exception) -> EngineError:
    """What a caller may see of a failed run."""
    if isinstance(error, EngineError):
        return error
    failure = SessionFailed("the model failed on this input")
    failure.__cause__ = error
    return failure


def run_batch(run: Run, requests: Sequence[Tensors]) -> list[Mapping[str, Array]]:
    """Join the rows of `requests`, run once, and split the outputs again.

    Raises:
        RowCountMismatch: an output's axis 0 is not the number of rows that went in.
    """
    rows = [row_count(inputs) for inputs in requests]
    if len(requests) == 1:
        outputs = run(requests[0])
        _check_rows(outputs, rows[0])
        return [outputs]
    outputs = run({name: np.concatenate([r[name] for r in requests]) for name in requests[0]})
    ends = list(accumulate(rows))
    _check_rows(outputs, ends[-1])
    return [
        {name: array[end - count : end] for name, array in outputs.items()}
        for end, count in zip(ends, rows, strict=True)
    ]


def _check_rows(outputs: Mapping[str, Array], rows: int) -> None:
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise RowCountMismatch(
                f"output {name!r} has shape {list(array.shape)} for {rows} input rows"
            )


class _Search:
    def __init__(self, run: Run, requests: Sequence[Tensors]) -> None:
        self._run = run
        self._requests = requests
        self._outcomes: list[Outcome | None] = [None] * len(requests)
        self._runs_left = math.floor(2 * math.log2(len(requests))) + 2
        self._last_error: EngineError = SessionFailed("the model failed")

    def outcomes(self) -> list[Outcome]:
        return [self._last_error if outcome is None else outcome for outcome in self._outcomes]

    def settle(self, start: int, end: int, *, known_bad: bool) -> bool:
        """Settle requests [start, end); says whether all of them succeeded."""
        if not known_bad or end - start == 1:
            if self._runs_left == 0:
                return False
            self._runs_left -= 1
            try:
                self._outcomes[start:end] = run_batch(self._run, self._requests[start:end])
            except RowCountMismatch as error:
                self._outcomes[start:end] = [error] * (end - start)
                return False
            except Exception as error:
                self._last_error = as_engine_error(error)
                if end - start == 1:
                    self._outcomes[start] = self._last_error
                    return False
            else:
                return True
        middle = (start + end) // 2
        left_good = self.settle(start, middle, known_bad=False)
        self.settle(middle, end, known_bad=left_good)
        return False
