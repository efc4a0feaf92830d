import numpy as np
import pytest

from training.config import RunConfig
from training.data.dataset import Rows
from training.errors import UsageError
from training.evaluation.floor import check_asked, metric_names
from training.evaluation.names import KNOWN, bar_problem
from training.evaluation.validate import evaluate
from training.tasks import Classification, MultiLabel, Regression, Targets, Task

pytestmark = pytest.mark.training

TASKS: list[tuple[Task, Targets]] = [
    (Classification(("a", "b")), np.array([0, 1, 1])),
    (Classification(("a", "b")), np.array([1, 1, 1])),
    (Classification(("a", "b", "c")), np.array([0, 1, 2])),
    (MultiLabel(("a", "b")), np.array([[0, 1], [1, 1], [1, 0]], dtype=np.float32)),
    (Regression(), np.array([0.5, 1, 2], dtype=np.float32)),
]


def rows(task: Task, targets: Targets) -> Rows:
    return Rows({}, targets, task, ())


@pytest.mark.parametrize(("task", "targets"), TASKS)
def test_names_are_those_of_what_is_measured(task: Task, targets: Targets):
    shape = (len(targets), task.width) if task.labels else (len(targets),)
    answers = np.full(shape, 0.5, dtype=np.float32)

    measured = evaluate(answers, rows(task, targets)).metrics

    assert sorted(metric_names(rows(task, targets))) == sorted(measured)


@pytest.mark.parametrize(("task", "targets"), TASKS)
def test_the_better_end_is_that_of_the_task(task: Task, targets: Targets):
    for metric in (task.chief, task.second):
        good, bad = (">=", "<=") if metric.goal == "highest" else ("<=", ">=")
        assert bar_problem(metric.name, good, 0.5) is None
        assert "better" in str(bar_problem(metric.name, bad, 0.5))
    assert set(metric_names(rows(task, targets))) <= set(KNOWN)


def test_a_gate_of_another_task_is_refused_with_the_nearest():
    config = RunConfig().with_overrides({"gates": "macro_f1>=0.5,micro_f1>=0.5"})

    with pytest.raises(UsageError) as caught:
        check_asked(config, rows(*TASKS[2]))

    assert str(caught.value) == (
        "setting gates: no metric 'micro_f1' in a multiclass classification (did you mean "
        "macro_f1?); there are accuracy, macro_f1, log_loss, expected_calibration_error"
    )
    check_asked(config, rows(*TASKS[3]))
