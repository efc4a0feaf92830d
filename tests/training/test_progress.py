from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.errors import EnvironmentTrouble
from training.fit.curves import LoggedProgress
from training.progress import LineProgress, Pace, Progress

pytestmark = pytest.mark.training


def test_time_left_is_judged_by_what_was_done_since_the_start_or_a_resumption():
    now = [0.0]
    pace = Pace(10, lambda: now[0])
    pace.reach(4.0, 100.0)
    assert pace.left_s is None

    now[0] = 30.0
    pace.reach(6.0, 200.0)

    assert pace.left_s == pytest.approx(60.0)
    assert str(pace) == "200 rows/s, at most 0:01:00 left"


def test_lines_tell_loss_metric_speed_and_time_left():
    console = Console(force_terminal=False, width=200)
    progress = LineProgress(console)

    with console.capture() as said, progress.training("cnn", 2, "accuracy"):
        progress.batch(1, 1.0, 1234.5)
        progress.epoch(1, 0.5, 0.4, 0.9)

    line = said.get()
    assert line.startswith("   cnn: epoch 1, loss 0.500, validation 0.400, accuracy 0.9, 1,2")
    assert "rows/s" in line


def test_curves_are_written_where_tensorboard_looks(tmp_path: Path):
    progress = LoggedProgress(Progress(), tmp_path / "digits")
    with progress.training("cnn", 2, "accuracy"):
        for epoch in (1, 2):
            progress.batch(epoch, 1.0, 100.0 * epoch)
            progress.epoch(epoch, 1.0 / epoch, 0.5 / epoch, 0.5 * epoch)

    read = EventAccumulator(str(tmp_path / "digits/cnn")).Reload()
    curves = {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.scalars.Keys()}
    assert curves == {
        "loss/train": [(1, 1.0), (2, 0.5)],
        "loss/validation": [(1, 0.5), (2, 0.25)],
        "validation/accuracy": [(1, 0.5), (2, 1.0)],
        "rows_per_s": [(1, 100.0), (2, 200.0)],
    }


def test_a_folder_for_logs_that_cannot_be_made_is_an_error(tmp_path: Path):
    (tmp_path / "file").touch()

    with (
        pytest.raises(EnvironmentTrouble, match="cannot be written"),
        LoggedProgress(Progress(), tmp_path / "file").training("cnn", 1, "accuracy"),
    ):
        pass
