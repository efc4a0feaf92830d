"""The loop: interrupted, on several processes, with data that is fetched, in other precisions."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.bundle.tensors import take_rows
from training.config import RunConfig
from training.data.split import Split, split_dataset
from training.errors import EnvironmentTrouble, UsageError
from training.fit.batches import Fetched, Resident, batches_of
from training.fit.checkpoints import Checkpoint
from training.fit.hardware import choose_precision
from training.fit.train import History, learning_rate, make_repeatable, train, weights_sha256
from training.models import Predictor, cnn, head_for
from training.progress import Progress
from training.runs import find_run

pytestmark = pytest.mark.training

KEPT = {"ORT_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}
ROAD = ["-m", "training", "run", "digits", "--set", "gates=accuracy>=0.5"]


def digits(**overrides: object) -> tuple[Predictor, Split, RunConfig]:
    """A fresh CNN, and what it is trained on: 300 rows in 3 epochs where nothing else is said."""
    run = find_run("digits")
    config = run.config.with_overrides({"epochs": 3, **overrides})
    make_repeatable(config)
    whole = run.collect()
    few = replace(whole, inputs=take_rows(whole.inputs, slice(500)), targets=whole.targets[:500])
    split = split_dataset(few, config)
    preprocess = run.fit_preprocess(split.train.inputs)
    task = split.train.task
    head = head_for(task, split.train.targets)
    return Predictor(preprocess, cnn(preprocess.shape, task.width), head, task), split, config


def trained(checkpoint: Checkpoint | None = None, **overrides: object) -> tuple[str, History]:
    predictor, split, config = digits(**overrides)
    history = train(
        predictor, split.train, split.validation, config, Progress(), checkpoint=checkpoint
    )
    return weights_sha256(predictor), history


class Interrupted(Progress):
    """Sends this process a signal in the middle of an epoch."""

    def __init__(self, epoch: int, share: float) -> None:
        self.at = (epoch, share)
        self.is_sent = False

    def batch(self, epoch: int, share: float, rows_per_s: float) -> None:
        if not self.is_sent and (epoch, share) >= self.at:
            self.is_sent = True
            signal.raise_signal(signal.SIGINT)


class InterruptedAfter(Progress):
    """Sends this process a signal when an epoch has been measured."""

    def epoch(self, epoch: int, train_loss: float, validation_loss: float, metric: float) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.fixture
def usual_interruption() -> Iterator[None]:
    """As in a program of its own: what ran in this process before may have left SIGINT deadly."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("usual_interruption")
@pytest.mark.parametrize(("epoch", "share"), [(1, 0.5), (2, 0.1), (2, 1.0), (3, 0.9)])
def test_an_interruption_leaves_a_checkpoint_that_leads_to_the_same_weights(
    tmp_path: Path, epoch: int, share: float
):
    weights, history = trained()
    path = tmp_path / "cnn.pt"
    predictor, split, config = digits()
    with pytest.raises(KeyboardInterrupt):
        train(
            predictor,
            split.train,
            split.validation,
            config,
            Interrupted(epoch, share),
            checkpoint=Checkpoint(path, "same"),
        )

    again, resumed = trained(Checkpoint(path, "same", resume=True))

    assert again == weights
    assert resumed.epochs == history.epochs
    assert resumed.best_epoch == history.best_epoch


@pytest.mark.usefixtures("usual_interruption")
def test_an_interruption_between_epochs_leaves_a_checkpoint_of_all_before(tmp_path: Path):
    path = tmp_path / "cnn.pt"
    predictor, split, config = digits(epochs=2)

    with pytest.raises(KeyboardInterrupt):
        train(
            predictor,
            split.train,
            split.validation,
            config,
            InterruptedAfter(),
            checkpoint=Checkpoint(path, "same"),
        )

    left = Checkpoint(path, "same", resume=True).load()
    assert left is not None
    assert (left["stand"]["epoch"], left["stand"]["step"], len(left["epochs"])) == (2, 0, 1)


def test_a_finished_training_is_not_repeated(tmp_path: Path):
    path = tmp_path / "cnn.pt"
    weights, history = trained(Checkpoint(path, "same"))

    again, resumed = trained(Checkpoint(path, "same", resume=True))

    assert again == weights
    assert resumed.epochs == history.epochs
    assert resumed.rows_per_s == history.rows_per_s  # nothing was trained


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path):
    path = tmp_path / "cnn.pt"
    trained(Checkpoint(path, "these"), epochs=1)

    with pytest.raises(UsageError, match="of other data, settings or versions"):
        trained(Checkpoint(path, "those", resume=True), epochs=1)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path):
    path = tmp_path / "cnn.pt"
    path.write_bytes(b"PK\x03\x04 and no more")

    with pytest.raises(UsageError, match=r"cnn.pt cannot be read"):
        trained(Checkpoint(path, "same", resume=True), epochs=1)


@contextmanager
def no_file_above(size_bytes: int) -> Iterator[None]:
    """As on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_does_not_fit_the_disk_leaves_the_one_before(tmp_path: Path):
    small, large = {"weights": torch.ones(2)}, {"weights": torch.zeros(10_000)}
    first, second = (tmp_path / "kept" / run / "cnn.pt" for run in ("one", "two"))
    Checkpoint(first, "same").save(small)

    for path in (first, second):
        with (
            no_file_above(10_000),
            pytest.raises(EnvironmentTrouble, match=r"cnn\.pt cannot be written: File too large"),
        ):
            Checkpoint(path, "same").save(large)

    left = Checkpoint(first, "same", resume=True).load()
    assert left is not None
    assert left["weights"].tolist() == [1, 1]
    there = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")]
    assert sorted(there) == ["kept", "kept/one", "kept/one/cnn.pt"]


def test_what_a_killed_process_left_of_a_checkpoint_is_replaced(tmp_path: Path):
    path = tmp_path / "cnn.pt"
    path.with_suffix(".new").write_bytes(b"PK\x03\x04 and no more")

    Checkpoint(path, "same").save({"epoch": 1})

    assert [one.name for one in tmp_path.iterdir()] == ["cnn.pt"]
    assert Checkpoint(path, "same", resume=True).load() == {"epoch": 1}


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path):
    (tmp_path / "file").touch()

    with pytest.raises(EnvironmentTrouble, match="cannot be written: File exists"):
        trained(Checkpoint(tmp_path / "file" / "cnn.pt", "same"), epochs=1)


def test_batches_that_are_fetched_give_the_weights_of_resident_ones():
    _, split, _ = digits()
    device = torch.device("cpu")
    preprocess = find_run("digits").fit_preprocess(split.train.inputs)
    assert isinstance(batches_of(preprocess, split.train, device, 1), Resident)
    assert isinstance(batches_of(preprocess, split.train, device, 0), Fetched)

    assert trained(resident_mib=1)[0] == trained(resident_mib=0)[0]


def test_fetching_ahead_ends_with_the_training():
    _, split, _ = digits()
    preprocess = find_run("digits").fit_preprocess(split.train.inputs)
    walk = Fetched(preprocess, split.train, torch.device("cpu")).walk(
        torch.arange(len(split.train)).split(10)
    )
    first = next(walk)
    walk.close()

    assert first.targets.tolist() == split.train.targets[:10].tolist()


def test_bf16_reaches_about_the_loss_of_fp32():
    (_, low), (_, full) = (trained(precision=name, epochs=2) for name in ("bf16", "fp32"))

    assert low.epochs != full.epochs
    assert low.epochs[-1].validation_loss == pytest.approx(
        full.epochs[-1].validation_loss, rel=0.05
    )


@pytest.mark.parametrize(
    ("asked", "device", "pictures", "has_bf16", "chosen"),
    [
        ("auto", "cpu", True, True, "bf16"),
        ("auto", "cpu", True, False, "fp32"),
        ("auto", "cpu", False, True, "fp32"),
        ("auto", "cuda", True, True, "bf16"),
        ("auto", "mps", True, True, "fp32"),
        ("fp16", "cuda", False, False, "fp16"),
        ("bf16", "cpu", False, False, "bf16"),
    ],
)
def test_precision_follows_data_and_hardware(
    asked: str, device: str, pictures: bool, has_bf16: bool, chosen: str
):
    assert choose_precision(asked, device, are_pictures=pictures, has_bf16=has_bf16) == chosen


def test_fp16_without_a_gpu_is_refused():
    with pytest.raises(UsageError, match="precision=fp16 needs a GPU, this is cpu"):
        choose_precision("fp16", "cpu", are_pictures=True, has_bf16=True)


def test_the_learning_rate_rises_in_a_line_and_falls_in_a_cosine():
    config = RunConfig(learning_rate=1.0, warmup_share=0.1)

    rates = [learning_rate(config, step, 100) for step in range(100)]

    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.001


def finished(
    models: Path, arguments: Sequence[str], launcher: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, *ROAD, "--models", str(models), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **KEPT}, timeout=300
    )


def manifest(models: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((models / "digits/1/manifest.json").read_bytes())
    return found


@pytest.mark.slow
def test_a_run_that_was_killed_and_resumed_publishes_the_weights_of_an_uninterrupted_one(
    tmp_path: Path,
):
    settings = ["--set", "epochs=40", "--set", "patience=40", "--set", "variants=none"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert finished(whole, settings).returncode == 0
    child = subprocess.Popen(
        [sys.executable, *ROAD, "--models", str(killed), *settings],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **KEPT},
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("   cnn: epoch"):
            break
    deadline = time.monotonic() + 60
    while not (kept := killed / ".checkpoints/digits/cnn.pt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not (killed / "digits").exists()

    done = finished(killed, [*settings, "--resume"])

    assert done.returncode == 0, done.stderr
    assert "going on in epoch" in done.stdout
    one, other = (manifest(models)["provenance"] for models in (whole, killed))
    assert one["weights_sha256"] == other["weights_sha256"]  # type: ignore[index]
    assert not kept.parent.exists()


@pytest.mark.slow
def test_two_processes_train_together_and_one_publishes(tmp_path: Path):
    settings = ["--set", "epochs=10", "--set", "device=cpu", "--set", "variants=none"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert finished(alone, settings).returncode == 0

    done = finished(together, settings, launcher)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Published digits version 1") == 1
    assert done.stdout.count("Train the candidates") == 1
    assert [path.name for path in (together / "digits").iterdir()] == ["1"]
    one, other = (manifest(m)["metrics"]["test"]["accuracy"] for m in (alone, together))  # type: ignore[index]
    assert other == pytest.approx(one, abs=0.02)
