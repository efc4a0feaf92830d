import pytest

from app.engine.scheduling.estimate import RunEstimate


def test_nothing_is_expected_while_nothing_is_known() -> None:
    assert RunEstimate().run_s(7) == 0


def test_the_cost_table_is_believed_at_first() -> None:
    estimate = RunEstimate(lambda rows: rows / 100)

    assert [estimate.run_s(rows) for rows in (1, 50, 200)] == [0.01, 0.5, 2]


def test_the_cost_table_is_corrected_by_what_is_seen() -> None:
    estimate = RunEstimate(lambda rows: rows / 100)

    for _ in range(50):
        estimate.observe(1, 0.03)

    assert estimate.run_s(1) == pytest.approx(0.03, rel=0.01)
    assert estimate.run_s(100) == pytest.approx(3, rel=0.01)


def test_one_hiccup_changes_little() -> None:
    estimate = RunEstimate(lambda rows: 0.01)

    estimate.observe(1, 60)

    assert 0.01 < estimate.run_s(1) < 0.03


def test_without_a_table_runs_of_each_size_are_learned() -> None:
    estimate = RunEstimate()

    for _ in range(50):
        estimate.observe(1, 1)
        estimate.observe(64, 4)

    assert estimate.run_s(1) == 1
    assert estimate.run_s(64) == 4
    assert estimate.run_s(100) == 4  # of the same magnitude


def test_what_was_never_seen_follows_the_next_smaller_by_rows_or_else_the_next_larger() -> None:
    estimate = RunEstimate()

    estimate.observe(8, 2)

    assert estimate.run_s(8) == 2
    assert estimate.run_s(32) == 8
    assert estimate.run_s(1) == 2


def test_without_a_table_the_latest_runs_count_most() -> None:
    estimate = RunEstimate()
    estimate.observe(4, 1)

    for _ in range(50):
        estimate.observe(4, 9)

    assert estimate.run_s(4) == pytest.approx(9, rel=0.01)
