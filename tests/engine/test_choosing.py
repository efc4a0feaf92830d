"""Which configuration and which candidate serve, as rules that hold for any costs."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bundle.manifest import NumericClass
from app.engine.proof.calibration import Calibration, batch_sizes
from app.engine.proof.choosing import (
    INLINE_BATCH_BELOW_MS,
    INLINE_BELOW_MS,
    INLINE_ROW_BELOW_MS,
    Configuration,
    configuration,
    fastest_first,
    inline_rows,
)
from app.engine.proof.plan import Cost
from app.engine.proof.verdict import Verdict
from app.engine.providers.candidates import Candidate
from tests.engine.fakes import cost

#: Rates this near to each other may fall on either side of the 5 % by rounding.
ROUNDING = 1.000_001


@st.composite
def tables(draw: Any) -> tuple[tuple[Cost, ...], int, int]:
    """A cost table as calibration makes it, with the cores and the most rows that it is for."""
    cores, max_rows = draw(st.integers(1, 8)), draw(st.integers(1, 64))
    shapes = Calibration(batch_sizes(max_rows), cores, "cpu", 1.0).shapes()
    costs = [
        cost(rows, draw(st.integers(1, 100_000)) / 1000, threads, instances)
        for threads, instances in shapes[: draw(st.integers(1, len(shapes)))]
        for rows in batch_sizes(max_rows)
    ]
    return tuple(costs), cores, max_rows


def chosen_cell(costs: Sequence[Cost], found: Configuration) -> Cost:
    (cell,) = [
        c
        for c in costs
        if (*c.shape, c.rows) == (found.intra_op_threads, found.instances, found.rows)
    ]
    return cell


def rates(costs: Sequence[Cost], shape: tuple[int, int]) -> dict[int, float]:
    return {cost.rows: cost.rows_per_s for cost in costs if cost.shape == shape}


# The configuration


@given(tables())
def test_what_is_chosen_was_in_the_table_and_fits(
    table: tuple[tuple[Cost, ...], int, int],
) -> None:
    costs, cores, max_rows = table

    found = configuration(costs, cores, max_rows)

    assert chosen_cell(costs, found).rows_per_s == found.rows_per_s
    assert found.intra_op_threads * found.instances <= cores
    assert found.rows <= max_rows


@given(tables())
def test_the_batch_is_the_smallest_that_is_about_as_good_as_any(
    table: tuple[tuple[Cost, ...], int, int],
) -> None:
    costs, cores, max_rows = table

    found = configuration(costs, cores, max_rows)

    own = rates(costs, (found.intra_op_threads, found.instances))
    best = max(own.values())
    assert own[found.rows] * 1.05 * ROUNDING >= best
    assert all(own[rows] * 1.05 < best * ROUNDING for rows in own if rows < found.rows)


@given(tables())
def test_another_shape_than_the_preferred_must_be_clearly_better(
    table: tuple[tuple[Cost, ...], int, int],
) -> None:
    costs, cores, max_rows = table
    preferred = costs[0].shape

    found = configuration(costs, cores, max_rows)

    own = configuration([c for c in costs if c.shape == preferred], cores, max_rows)
    assert found.rows_per_s is not None
    assert own.rows_per_s is not None
    if (found.intra_op_threads, found.instances) == preferred:
        assert found == own
    else:
        assert found.rows_per_s * ROUNDING > own.rows_per_s * 1.05


@given(tables())
def test_no_shape_is_better_by_more_than_two_small_margins(
    table: tuple[tuple[Cost, ...], int, int],
) -> None:
    """One for its batch being smaller, one for its better place."""
    costs, cores, max_rows = table

    found = configuration(costs, cores, max_rows)

    assert found.rows_per_s is not None
    assert max(c.rows_per_s for c in costs) <= found.rows_per_s * 1.05**2 * ROUNDING


@given(tables(), st.integers(1, 10))
def test_a_faster_machine_changes_no_choice(
    table: tuple[tuple[Cost, ...], int, int], doublings: int
) -> None:
    costs, cores, max_rows = table
    # By a power of two, which is exact.
    faster = [c.model_copy(update={"run_ms": c.run_ms / 2**doublings}) for c in costs]

    before, after = (configuration(c, cores, max_rows) for c in (costs, faster))

    assert (after.intra_op_threads, after.instances, after.rows) == (
        before.intra_op_threads,
        before.instances,
        before.rows,
    )


@given(tables(), st.floats(0.1, 1.0))
def test_what_is_chosen_stays_so_when_it_becomes_faster(
    table: tuple[tuple[Cost, ...], int, int], factor: float
) -> None:
    costs, cores, max_rows = table
    found = configuration(costs, cores, max_rows)
    cell = chosen_cell(costs, found)
    better = cell.model_copy(update={"run_ms": cell.run_ms * factor})

    again = configuration([better if c is cell else c for c in costs], cores, max_rows)

    assert (again.intra_op_threads, again.instances, again.rows) == (
        found.intra_op_threads,
        found.instances,
        found.rows,
    )


@pytest.mark.parametrize(
    ("run_ms", "rows"),
    [
        ({1: 1.0, 2: 2.0, 4: 4.0}, 1),
        ({1: 1.0, 2: 1.0, 4: 1.0}, 4),
        ({1: 1.0, 2: 1.0, 4: 1.95}, 2),
        ({1: 1.0, 2: 1.0, 4: 1.5}, 4),
        ({1: 1.0, 2: 3.0, 4: 8.0}, 1),
        ({1: 1.0, 2: 3.0, 4: 3.0}, 4),
    ],
)
def test_batches_are_as_large_as_pays(run_ms: dict[int, float], rows: int) -> None:
    costs = [cost(size, ms) for size, ms in run_ms.items()]

    assert configuration(costs, 1, 4).rows == rows


@pytest.mark.parametrize(("alone_ms", "shape"), [(0.49, (1, 2)), (0.47, (2, 1))])
def test_more_threads_serve_where_they_are_clearly_faster(
    alone_ms: float, shape: tuple[int, int]
) -> None:
    found = configuration([cost(1, 1.0, 1, 2), cost(1, alone_ms, 2, 1)], 2, 1)

    assert (found.intra_op_threads, found.instances) == shape


def test_unmeasured_all_cores_run_the_largest_batches() -> None:
    assert configuration((), 3, 16) == Configuration(1, 3, 16, None)


# On the event loop


@pytest.mark.parametrize(
    ("run_ms", "rows"),
    [
        ({1: 0.01, 2: 0.02, 4: 0.04}, 4),
        ({1: 0.05, 2: 0.099, 4: 0.2}, 2),
        ({1: 0.05, 2: 0.099, 4: 0.19}, 4),
        ({1: 0.1, 2: 0.2, 4: 0.4}, 0),
        ({1: 0.04, 16: 0.7, 32: 1.1}, 16),
    ],
)
def test_runs_that_cost_less_than_a_thread_are_inline(run_ms: dict[int, float], rows: int) -> None:
    costs = [cost(size, ms) for size, ms in run_ms.items()]

    assert inline_rows(costs, Configuration(1, 1, 32, 1.0)) == rows


def test_only_batches_that_are_made_are_inline() -> None:
    costs = [cost(size, 0.01) for size in (1, 2, 4)]

    assert inline_rows(costs, Configuration(1, 1, 2, 1.0)) == 2


def test_a_run_on_several_threads_is_never_inline() -> None:
    assert inline_rows([cost(1, 0.01, 2, 1)], Configuration(2, 1, 1, 1.0)) == 0


def test_only_the_chosen_shape_counts() -> None:
    assert inline_rows([cost(1, 0.01, 1, 2)], Configuration(1, 1, 1, 1.0)) == 0


@given(tables())
def test_whatever_is_inline_is_cheap(table: tuple[tuple[Cost, ...], int, int]) -> None:
    costs, cores, max_rows = table
    cheap = [c.model_copy(update={"run_ms": c.run_ms / 500}) for c in costs]
    found = configuration(cheap, cores, max_rows)

    limit = inline_rows(cheap, found)

    shape = (found.intra_op_threads, found.instances)
    inline = [c for c in cheap if c.shape == shape and c.rows <= limit]
    assert all(
        c.run_ms < max(INLINE_BELOW_MS, min(c.rows * INLINE_ROW_BELOW_MS, INLINE_BATCH_BELOW_MS))
        for c in inline
    )


# The candidate


def verdict(
    name: str, run_ms: float | None = None, numeric_class: NumericClass | None = "fp32"
) -> Verdict:
    costs = () if run_ms is None else (cost(1, run_ms),)
    return Verdict(
        candidate=Candidate(name, "cpu"), numeric_class=numeric_class, reason="", costs=costs
    )


def order(*verdicts: Verdict) -> str:
    return "".join(v.candidate.provider for v in fastest_first(verdicts, 1, 1))


@pytest.mark.parametrize(
    ("a_ms", "b_ms", "c_ms", "expected"),
    [
        (1.0, 1.0, 1.0, "abc"),
        (3.0, 2.0, 1.0, "cba"),
        (1.0, 0.96, 0.99, "abc"),
        (1.0, 0.94, 0.5, "cba"),
        # b is clearly faster than a, and c only a little faster than b.
        (1.0, 0.9, 0.88, "bca"),
        (None, None, None, "abc"),
        (None, 1.0, None, "bac"),
    ],
)
def test_the_clearly_faster_goes_first(
    a_ms: float | None, b_ms: float | None, c_ms: float | None, expected: str
) -> None:
    assert order(verdict("a", a_ms), verdict("b", b_ms), verdict("c", c_ms)) == expected


def test_the_rejected_have_no_place() -> None:
    assert order(verdict("a", 0.1, None), verdict("b", 1.0, "reduced")) == "b"
    assert order() == ""


@given(st.lists(st.integers(1, 100), max_size=6))
def test_each_accepted_candidate_has_one_place(costs_ms: list[int]) -> None:
    verdicts = [verdict(str(place), ms) for place, ms in enumerate(costs_ms)]

    ordered = fastest_first(verdicts, 1, 1)

    assert sorted(ordered, key=verdicts.index) == verdicts
    if ordered:
        fastest = max(v.costs[0].rows_per_s for v in verdicts)
        assert ordered[0].costs[0].rows_per_s * 1.05 * ROUNDING >= fastest
