import pytest

from app.engine.scheduling.forecast import start_s


@pytest.mark.parametrize(
    ("ends_s", "lanes", "width", "work_s", "expected_s"),
    [
        ([], 2, 1, 0, 0),
        ([5], 2, 1, 0, 0),
        ([1, 5], 2, 1, 0, 1),
        ([-3, 5], 2, 1, 0, 0),
        ([1, 5], 2, 1, 2, 3),
        ([1, 5], 2, 1, 4, 5),
        ([1, 5], 2, 1, 10, 8),
        ([], 4, 1, 8, 2),
        ([2], 4, 1, 3, 1),
        ([2], 4, 1, 10, 3),
        ([-1, 2], 2, 1, 1, 1),
    ],
    ids=str,
)
def test_work_is_poured_into_the_lanes_as_they_come_free(
    ends_s: list[float], lanes: int, width: int, work_s: float, expected_s: float
) -> None:
    assert start_s(ends_s, lanes, width, work_s) == expected_s


@pytest.mark.parametrize(
    ("ends_s", "lanes", "width", "expected_s"),
    [([1, 5], 2, 2, 5), ([5], 2, 2, 5), ([5], 3, 2, 0), ([1, 2, 9], 4, 3, 2)],
    ids=str,
)
def test_a_wide_run_waits_for_as_many_lanes(
    ends_s: list[float], lanes: int, width: int, expected_s: float
) -> None:
    assert start_s(ends_s, lanes, width, 0) == expected_s
