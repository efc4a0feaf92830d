from pathlib import Path

import numpy as np
import pytest

from training.data.files import read_table
from training.data.target import Goal, find_goal
from training.errors import UsageError
from training.tasks import Classification, MultiLabel, Regression

pytestmark = pytest.mark.training


def goal(tmp_path: Path, values: list[object], kind: str = "auto") -> Goal:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["x,y", *(f"{i},{v}" for i, v in enumerate(values))]))
    return find_goal(read_table(path), ("y",), kind)


@pytest.mark.parametrize(
    ("values", "task", "why"),
    [
        (["b", "a", "b"] * 10, Classification(("a", "b")), "'y' holds text, 2 values"),
        (["yes", "no"] * 10, Classification(("no", "yes")), "'y' holds text, 2 values"),
        ([0, 1] * 10, Classification(("0", "1")), "whole numbers, only 2 different ones"),
        ([10, 9, 1] * 10, Classification(("1", "9", "10")), "whole numbers, only 3"),
        ([0.5, 1] * 10, Regression(description="y"), "'y' holds numbers, 2 different ones"),
        (list(range(30)), Regression(description="y"), "'y' holds numbers, 30 different ones"),
    ],
)
def test_the_task_is_decided_by_the_target(
    tmp_path: Path, values: list[object], task: object, why: str
):
    found = goal(tmp_path, values)

    assert found.task == task
    assert why in found.why
    assert len(found.targets) == len(values)


def test_targets_are_as_the_task_holds_them(tmp_path: Path):
    classes = goal(tmp_path, ["b", "a", "b"] * 3).targets
    numbers = goal(tmp_path, [3, 1, 1] * 3, "regression").targets

    assert (classes.tolist()[:3], classes.dtype) == ([1, 0, 1], np.int64)
    assert (numbers.tolist()[:3], numbers.dtype) == ([3, 1, 1], np.float32)


def test_labels_in_one_cell_are_divided(tmp_path: Path):
    found = goal(tmp_path, ["red|green", "", "green", "blue | red"] * 5, "multilabel")

    assert found.task == MultiLabel(("blue", "green", "red"))
    assert found.targets[:4].tolist() == [[0, 1, 1], [0, 0, 0], [0, 1, 0], [1, 0, 1]]
    assert len(found.table.frame) == 20


def test_several_columns_are_a_label_each(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_text("x,a,b\n1,true,0\n2,False,1\n3,,1\n4,TRUE,1\n")

    found = find_goal(read_table(path), ("a", "b"), "auto")

    assert found.task == MultiLabel(("a", "b"))
    assert found.targets.tolist() == [[1, 0], [0, 1], [1, 1]]
    assert str(found.table.left_out[0]) == (
        "1 row is left out: no value in the target columns (line 4)"
    )


def test_rows_without_a_target_are_left_out_and_told(tmp_path: Path):
    found = goal(tmp_path, ["a", "b", "NA", "a", "b", "", "a", "b"])

    assert len(found.targets) == 6
    assert str(found.table.left_out[0]) == (
        "2 rows are left out: no value in the target column 'y' (lines 4, 7)"
    )


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (["a"] * 30, "auto", "has one class only, 'a'"),
        ([5] * 30, "regression", "all values of the target 'y' are 5"),
        ([""] * 30, "auto", "the target column 'y' has no value in any row"),
        (["a"] * 20 + ["b"], "auto", r"class 'b' of 'y' has 1 row \(line 22\); a class needs 3"),
        (["a"] * 20 + ["b"] * 2, "auto", r"class 'b' of 'y' has 2 rows \(lines 22, 23\)"),
        ([1.5, 2.5, "3\0"], "auto", r"'y' holds NUL characters \(line 4\): the file is damaged"),
        ([1.5, 2.5, "inf", 4], "auto", r"1 values of the target .* infinite, such as 'inf' \(line"),
        ([1.5, 2.5, "1e39", 4], "auto", "too large for float32"),
        ([1.5, 2.5, "1e20", 4], "auto", r"or their squares are, such as '1e20' \(line 4\)"),
        ([*range(29), "x"], "auto", r"mixed types: 1 of 30 values are no numbers, such as 'x' "),
        (["a", "b"] * 9, "regression", "18 values of the target column 'y' are no numbers"),
        (["a", "b"] * 9, "multilabel", "no cell of 'y' has several labels"),
        (["a|b", "b|a"] * 9, "multilabel", "all rows have the label 'a'"),
    ],
)
def test_a_target_that_cannot_be_learnt_is_refused(
    tmp_path: Path, values: list[object], kind: str, message: str
):
    with pytest.raises(UsageError, match=message):
        goal(tmp_path, values, kind)
