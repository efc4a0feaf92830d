import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from app.bundle.tensors import Array, Tensors
from app.engine.scheduling.isolation import (
    Outcome,
    RowCountMismatch,
    as_engine_error,
    run_alone,
    run_batch,
    run_isolated,
)
from app.errors import EngineError, InvalidTensor, NonFiniteOutput, SessionFailed

POISON = -1.0


def request(*values: float) -> Tensors:
    return {"x": np.array(values, dtype=np.float32)}


class Doubling:
    """Doubles `x` unless one of its values is bad, and remembers each batch."""

    def __init__(self, *bad: float) -> None:
        self.bad = bad
        self.batches: list[list[float]] = []

    def __call__(self, inputs: Tensors) -> Mapping[str, Array]:
        self.batches.append(inputs["x"].tolist())
        if np.isin(inputs["x"], self.bad).any():
            raise ValueError("a bad value")
        return {"y": inputs["x"] * 2}


def answered(outcome: Outcome, *values: float) -> bool:
    return not isinstance(outcome, EngineError) and outcome["y"].tolist() == list(values)


def most_runs(requests: int) -> int:
    return math.floor(2 * math.log2(requests) + 2)


def test_a_sound_batch_takes_one_run() -> None:
    run = Doubling()

    outcomes = run_isolated(run, [request(1), request(2, 3), request(4)])

    assert run.batches == [[1, 2, 3, 4]]
    assert answered(outcomes[0], 2)
    assert answered(outcomes[1], 4, 6)
    assert answered(outcomes[2], 8)


def test_a_single_request_is_not_copied() -> None:
    seen = []
    inputs = request(1, 2)

    run_batch(lambda joined: seen.append(joined) or {"y": joined["x"]}, [inputs])  # type: ignore[func-returns-value]

    assert seen[0] is inputs


def test_every_input_and_output_is_joined_and_split() -> None:
    def run(inputs: Tensors) -> Mapping[str, Array]:
        return {"sum": inputs["a"] + inputs["b"].sum(axis=1), "b": inputs["b"]}

    requests = [
        {"a": np.array([1.0]), "b": np.array([[1.0, 2.0]])},
        {"a": np.array([2.0, 3.0]), "b": np.array([[3.0, 4.0], [5.0, 6.0]])},
    ]

    first, second = run_batch(run, requests)

    assert (first["sum"].tolist(), first["b"].tolist()) == ([4], [[1, 2]])
    assert (second["sum"].tolist(), second["b"].tolist()) == ([9, 14], [[3, 4], [5, 6]])


@pytest.mark.parametrize("requests", [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 33, 64])
def test_one_poison_at_any_position_fails_alone(requests: int) -> None:
    for position in range(requests):
        run = Doubling(position)

        outcomes = run_isolated(run, [request(value) for value in range(requests)])

        failed = [index for index in range(requests) if isinstance(outcomes[index], EngineError)]
        assert failed == [position]
        assert all(answered(outcomes[v], 2 * v) for v in range(requests) if v != position)
        assert len(run.batches) <= most_runs(requests)


@pytest.mark.parametrize("requests", [2, 3, 5, 6, 8, 16, 33])
@pytest.mark.parametrize("poisons", [2, 3, 5, 33])
def test_many_poisons_stay_within_the_runs(requests: int, poisons: int) -> None:
    bad = np.random.default_rng(requests).permutation(requests)[:poisons].tolist()
    run = Doubling(*bad)

    outcomes = run_isolated(run, [request(value) for value in range(requests)])

    assert len(run.batches) <= most_runs(requests)
    for value, outcome in enumerate(outcomes):
        if value in bad or isinstance(outcome, EngineError):
            assert isinstance(outcome, EngineError)
        else:
            assert answered(outcome, 2 * value)


def test_what_is_unresolved_when_the_runs_are_spent_fails() -> None:
    run = Doubling(*range(0, 16, 2))

    outcomes = run_isolated(run, [request(value) for value in range(16)])

    assert len(run.batches) == most_runs(16)
    failed = {value for value, outcome in enumerate(outcomes) if isinstance(outcome, EngineError)}
    assert failed > set(range(0, 16, 2))
    assert str(outcomes[15]) == "the model failed on this input"


def test_two_poisons_among_many_fail_alone() -> None:
    run = Doubling(0, 1)

    outcomes = run_isolated(run, [request(value) for value in range(32)])

    assert [isinstance(outcome, EngineError) for outcome in outcomes] == [True] * 2 + [False] * 30


def test_each_culprit_gets_its_own_error() -> None:
    def run(inputs: Tensors) -> Mapping[str, Array]:
        for value in inputs["x"]:
            if value < 0:
                raise SessionFailed(f"refused {value:.0f}")
        return {"y": inputs["x"]}

    outcomes = run_isolated(run, [request(-7), request(1), request(2), request(-8)])

    assert [str(outcomes[0]), str(outcomes[3])] == ["refused -7", "refused -8"]


def test_a_fault_that_passes_costs_nobody_an_answer() -> None:
    runs = []

    def run(inputs: Tensors) -> Mapping[str, Array]:
        runs.append(inputs)
        if len(runs) == 1:
            raise OSError("only once")
        return {"y": inputs["x"] * 2}

    outcomes = run_isolated(run, [request(value) for value in range(5)])

    assert all(answered(outcome, 2 * value) for value, outcome in enumerate(outcomes))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x[:-1],
        lambda x: np.concatenate([x, x]),
        lambda x: np.float32(1),
        lambda x: x.reshape(1, -1),
    ],
    ids=["short", "long", "scalar", "transposed"],
)
def test_a_wrong_number_of_rows_fails_all_after_one_run(wrong: Callable[[Array], Any]) -> None:
    runs = []

    def run(inputs: Tensors) -> Mapping[str, Array]:
        runs.append(inputs)
        return {"fine": inputs["x"], "y": np.asarray(wrong(inputs["x"]))}

    outcomes = run_isolated(run, [request(1), request(2, 3), request(4)])

    assert len(runs) == 1
    assert all(isinstance(outcome, RowCountMismatch) for outcome in outcomes)
    assert "output 'y' has shape" in str(outcomes[0])
    assert "for 4 input rows" in str(outcomes[0])


def test_alone_takes_outputs_of_any_leading_size() -> None:
    outcome = run_alone(lambda inputs: {"mean": inputs["x"].mean(keepdims=True)}, request(1, 2, 3))

    assert not isinstance(outcome, EngineError)
    assert outcome["mean"].tolist() == [2]


def test_alone_a_failure_is_an_outcome() -> None:
    outcome = run_alone(Doubling(1), request(1))

    assert isinstance(outcome, SessionFailed)


def test_only_engine_errors_are_shown() -> None:
    own, foreign, request_error = NonFiniteOutput("NaN"), KeyError("secret"), InvalidTensor("no")

    assert as_engine_error(own) is own
    assert str(as_engine_error(foreign)) == "the model failed on this input"
    assert as_engine_error(foreign).__cause__ is foreign
    assert isinstance(as_engine_error(request_error), SessionFailed)
