"""Measuring on a clock that only the fake session moves."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.proof.calibration import Calibration, batch_sizes, calibrate
from app.engine.proof.plan import Cost
from app.engine.providers.candidates import DeviceKind
from app.errors import SessionFailed

SIZES = (1, 2, 4, 8, 16)

RunMs = Callable[[int, int], float]


def floats(least: float, most: float) -> st.SearchStrategy[float]:
    """Without the numbers next to zero, which a session in this process may have switched off."""
    return st.floats(least, most, allow_subnormal=False)


class Machine:
    """Runs take as long as they are told, on a clock of each thread's own.

    What the thread that measures reads is the time of the busiest thread.
    """

    def __init__(self, run_ms: RunMs) -> None:
        self.run_ms = run_ms
        self.opened: list[int] = []
        self.closed: list[int] = []
        self.runs: list[tuple[int, int]] = []
        self._spent_s: dict[int, float] = {}
        self._own = threading.get_ident()

    def clock(self) -> float:
        me = threading.get_ident()
        if me == self._own:
            return max(self._spent_s.values(), default=0.0)
        return self._spent_s.get(me, 0.0)

    def open(self, threads: int) -> "FakeSession":
        self.opened.append(threads)
        return FakeSession(self, threads)

    def run(self, rows: int, threads: int) -> None:
        self.runs.append((rows, threads))
        me = threading.get_ident()
        self._spent_s[me] = self._spent_s.get(me, 0.0) + self.run_ms(rows, threads) / 1e3


class FakeSession:
    def __init__(self, machine: Machine, threads: int) -> None:
        self._machine = machine
        self._threads = threads

    def run(self, inputs: Any) -> dict[str, Any]:
        self._machine.run(len(inputs["x"]), self._threads)
        return {}

    def close(self) -> None:
        self._machine.closed.append(self._threads)


def rows_of(rows: int) -> dict[str, Any]:
    return {"x": np.zeros((rows, 1), np.float32)}


def measured(
    machine: Machine,
    *,
    sizes: Sequence[int] = SIZES,
    cores: int = 1,
    device: DeviceKind = "cpu",
    budget_s: float = 1000.0,
    background: bool = False,
) -> tuple[Cost, ...]:
    task = Calibration(sizes, cores, device, budget_s, background)
    first: Any = FakeSession(machine, 1)
    open_session: Any = machine.open
    return calibrate(first, open_session, rows_of, task, machine.clock)


def own(costs: Sequence[Cost], *, extrapolated: bool) -> list[int]:
    return [cost.rows for cost in costs if cost.extrapolated is extrapolated]


# What is measured


@pytest.mark.parametrize(
    ("max_rows", "sizes"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (16, SIZES), (20, (1, 2, 4, 8, 16, 20))],
)
def test_batches_double_up_to_the_most(max_rows: int, sizes: tuple[int, ...]) -> None:
    assert batch_sizes(max_rows) == sizes


@given(st.integers(1, 65_536))
def test_batch_sizes_ascend_from_one_to_the_most(max_rows: int) -> None:
    sizes = batch_sizes(max_rows)

    assert (sizes[0], sizes[-1]) == (1, max_rows)
    assert list(sizes) == sorted(set(sizes))


@pytest.mark.parametrize(
    ("cores", "shapes"),
    [
        (1, [(1, 1)]),
        (2, [(1, 2), (2, 1)]),
        (4, [(1, 4), (4, 1), (2, 2)]),
        (6, [(1, 6), (6, 1), (3, 2), (2, 3)]),
        (7, [(1, 7), (7, 1)]),
    ],
)
def test_shapes_use_all_cores_and_most_runs_come_first(
    cores: int, shapes: list[tuple[int, int]]
) -> None:
    task = Calibration(SIZES, cores, "cpu", 1.0)

    assert task.shapes() == shapes


@pytest.mark.parametrize("device", ["gpu", "npu"])
@pytest.mark.parametrize(("cores", "shapes"), [(1, [(1, 1)]), (16, [(1, 1), (1, 2)])])
def test_off_the_cpu_threads_do_not_matter(
    device: DeviceKind, cores: int, shapes: list[tuple[int, int]]
) -> None:
    assert Calibration(SIZES, cores, device, 1.0).shapes() == shapes


@pytest.mark.parametrize("device", ["cpu", "gpu", "npu"])
@pytest.mark.parametrize("cores", [1, 2, 6])
def test_beside_other_work_there_is_one_shape(device: DeviceKind, cores: int) -> None:
    task = Calibration(SIZES, cores, device, 1.0, background=True)

    assert task.shapes() == Calibration(SIZES, cores, device, 1.0).shapes()[:1]


def test_every_size_is_measured_where_more_rows_pay() -> None:
    machine = Machine(lambda rows, threads: 10 + rows)

    costs = measured(machine)

    assert [(c.rows, c.run_ms, c.extrapolated) for c in costs] == [
        (1, 11.0, False),
        (2, 12.0, False),
        (4, 14.0, False),
        (8, 18.0, False),
        (16, 26.0, False),
    ]
    assert {cost.shape for cost in costs} == {(1, 1)}


def test_two_sizes_without_a_gain_end_it() -> None:
    costs = measured(Machine(lambda rows, threads: 3.0 * rows))

    assert own(costs, extrapolated=False) == [1, 2, 4]
    assert own(costs, extrapolated=True) == [8, 16]
    assert [c.run_ms for c in costs] == [3.0, 6.0, 12.0, 24.0, 48.0]


def test_a_gain_of_less_than_five_percent_is_none() -> None:
    # 2 % better for each doubling.
    costs = measured(Machine(lambda rows, threads: rows * 0.98 ** np.log2(rows)))

    assert own(costs, extrapolated=False) == [1, 2, 4]


def test_a_gain_after_one_size_without_goes_on() -> None:
    table = {1: 1.0, 2: 2.0, 4: 2.0, 8: 8.0, 16: 16.0}

    costs = measured(Machine(lambda rows, threads: table[rows]))

    # 4 gains, 8 and 16 do not.
    assert own(costs, extrapolated=True) == []
    assert [c.run_ms for c in costs] == list(table.values())


def test_what_is_not_measured_goes_on_in_proportion_to_the_last() -> None:
    table = {1: 1.0, 2: 4.0, 4: 9.0}

    costs = measured(Machine(lambda rows, threads: table[rows]))

    assert [(c.rows, c.run_ms) for c in costs if c.extrapolated] == [(8, 18.0), (16, 36.0)]


@pytest.mark.parametrize(("run_ms", "runs"), [(100.0, 3), (1.0, 20), (0.001, 200)])
def test_cheap_runs_are_repeated_more_often(run_ms: float, runs: int) -> None:
    machine = Machine(lambda rows, threads: run_ms)

    measured(machine, sizes=(1,))

    assert len(machine.runs) == 1 + runs  # The first run warms up.


def test_what_else_the_machine_does_is_not_counted() -> None:
    runs = iter(range(1000))
    machine = Machine(lambda rows, threads: 50.0 if next(runs) % 2 else 5.0)

    (found,) = measured(machine, sizes=(1,))

    assert found.run_ms == 5.0


def test_the_first_run_is_not_counted() -> None:
    runs = iter(range(1000))
    machine = Machine(lambda rows, threads: 5.0 if next(runs) else 900.0)

    (found,) = measured(machine, sizes=(1,))

    assert found.run_ms == 5.0


def test_a_clock_that_stands_still_is_no_division_by_zero() -> None:
    costs = measured(Machine(lambda rows, threads: 0.0))

    assert all(cost.run_ms > 0 for cost in costs)


# More than one run at a time


def test_every_shape_is_measured_with_its_own_threads() -> None:
    machine = Machine(lambda rows, threads: 12.0 / threads)

    costs = measured(machine, cores=4, sizes=(1,))

    assert [(c.shape, c.run_ms) for c in costs] == [((1, 4), 12.0), ((4, 1), 3.0), ((2, 2), 6.0)]
    # The session that is open already has one thread.
    assert machine.opened == [4, 2]
    assert sorted(machine.closed) == [2, 4]


def test_a_device_is_measured_with_the_open_session() -> None:
    machine = Machine(lambda rows, threads: 1.0)

    costs = measured(machine, cores=16, device="gpu", sizes=(1,))

    assert [cost.shape for cost in costs] == [(1, 1), (1, 2)]
    assert machine.opened == []


def test_no_thread_is_left() -> None:
    before = threading.active_count()

    measured(Machine(lambda rows, threads: 1.0), cores=4)

    assert threading.active_count() == before


# The budget


def test_without_time_the_first_cell_is_measured_all_the_same() -> None:
    machine = Machine(lambda rows, threads: 5.0 * rows)

    costs = measured(machine, cores=2, budget_s=0.0)

    assert own(costs, extrapolated=False) == [1]
    assert [c.run_ms for c in costs] == [5.0, 10.0, 20.0, 40.0, 80.0]
    assert {cost.shape for cost in costs} == {(1, 2)}
    assert {rows for rows, _ in machine.runs} == {1}


def test_a_cell_that_does_not_fit_is_not_begun() -> None:
    # Size 1 takes 4 s, a run to warm up and 3 more; size 2 may take twice that.
    machine = Machine(lambda rows, threads: 1000.0)

    costs = measured(machine, budget_s=11.0)

    assert own(costs, extrapolated=False) == [1]


@given(
    fixed_ms=st.integers(0, 100),
    per_row_ms=floats(0.01, 100),
    budget_s=floats(0, 5),
    max_rows=st.integers(1, 300),
)
def test_the_budget_is_kept_but_for_the_first_cell(
    fixed_ms: float, per_row_ms: float, budget_s: float, max_rows: int
) -> None:
    machine = Machine(lambda rows, threads: fixed_ms + per_row_ms * rows)

    costs = measured(machine, sizes=batch_sizes(max_rows), budget_s=budget_s)

    first_cell_s = 2 * (fixed_ms + per_row_ms) / 1e3
    assert machine.clock() <= max(budget_s, first_cell_s) * 1.001
    assert [c.rows for c in costs] == list(batch_sizes(max_rows))
    assert not costs[0].extrapolated


@given(
    budget_s=floats(0, 2),
    cores=st.integers(1, 8),
    costs_ms=st.lists(floats(0.01, 500), min_size=5, max_size=5),
)
def test_whatever_runs_cost_the_table_is_whole(
    budget_s: float, cores: int, costs_ms: list[float]
) -> None:
    table = dict(zip(SIZES, costs_ms, strict=True))
    machine = Machine(lambda rows, threads: table[rows] / threads)

    costs = measured(machine, cores=cores, budget_s=budget_s)

    shapes = list(dict.fromkeys(cost.shape for cost in costs))
    allowed = Calibration(SIZES, cores, "cpu", 1.0).shapes()
    assert shapes == allowed[: len(shapes)]
    assert all(threads * instances <= cores for threads, instances in shapes)
    for shape in shapes:
        cells = [cost for cost in costs if cost.shape == shape]
        assert [cost.rows for cost in cells] == list(SIZES)
        assert not cells[0].extrapolated


# Failures


def test_a_run_that_fails_ends_it_and_what_was_opened_is_closed() -> None:
    def run_ms(rows: int, threads: int) -> float:
        if threads == 2 and rows == 4:
            raise SessionFailed("the model failed to run: FAIL")
        return 1.0

    machine = Machine(run_ms)
    before = threading.active_count()

    with pytest.raises(SessionFailed, match="failed to run"):
        measured(machine, cores=2)

    assert (machine.opened, machine.closed) == ([2], [2])
    assert threading.active_count() == before


def test_what_is_nearly_the_best_is_measured_again_in_turns() -> None:
    """One size was measured while the machine was busy with something else."""
    slow = {2: 12}

    def run_ms(rows: int, threads: int) -> float:
        if slow.get(rows, 0):
            slow[rows] -= 1
            return 1.1 * rows
        return {1: 1.0, 2: 1.0, 4: 4.0}.get(rows, rows)

    costs = measured(Machine(run_ms), sizes=(1, 2, 4))

    assert {c.rows: c.run_ms for c in costs} == {1: 1.0, 2: 1.0, 4: 4.0}


def test_one_that_is_clearly_the_best_needs_no_second_look() -> None:
    machine = Machine(lambda rows, threads: 100.0)

    measured(machine, sizes=(1, 16))

    assert len(machine.runs) == 2 * (1 + 3)
