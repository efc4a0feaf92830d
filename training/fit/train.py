"""The training loop. Same seed, data, machine and number of threads: same weights, also after an
interruption.

All chance is drawn anew from seed, epoch and step, so a checkpoint need not keep any generator.
"""

import copy
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from accelerate.utils import broadcast
from torch import nn

from training.config import RunConfig
from training.data.dataset import Rows
from training.errors import Diverged
from training.fit.batches import Batch, batches_of
from training.fit.checkpoints import Checkpoint
from training.fit.hardware import lay_out, open_accelerator
from training.fit.interruption import Stop, stop_between_steps
from training.models import Predictor
from training.progress import Progress

#: Rows that are measured at a time: convolutions need memory for every pixel of each.
MEASURED_ROWS: Final = 512


@dataclass(frozen=True)
class Epoch:
    """One point of the learning curves; losses and metric are those of the head."""

    train_loss: float
    validation_loss: float
    validation_metric: float


@dataclass(frozen=True)
class History:
    """The learning curves of one candidate, and the epoch (from 1) whose weights were kept.

    Attributes:
        seconds: of all training, that before an interruption included.
        rows_per_s: rows trained on in a second of training steps.
    """

    epochs: tuple[Epoch, ...]
    best_epoch: int
    seconds: float
    rows_per_s: float = 0.0


#: Told of every epoch, counted from 1; may raise to end the training.
AfterEpoch = Callable[[int, Epoch], None]


def make_repeatable(config: RunConfig) -> None:
    """Set the process-wide switches of torch on which repeatable weights depend."""
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(config.seed)


def train(
    predictor: Predictor,
    train: Rows,
    validation: Rows,
    config: RunConfig,
    progress: Progress,
    *,
    checkpoint: Checkpoint | None = None,
    after_epoch: AfterEpoch | None = None,
) -> History:
    """Fit in place by AdamW under the head's loss; keep the weights of the best validation loss.

    Where several processes were started for it, each trains on its share of every batch.

    Raises:
        Diverged: a loss is not finite.
        UsageError: the hardware lacks the precision, or the checkpoint is of something else.
        EnvironmentTrouble: the checkpoint cannot be written.
        KeyboardInterrupt: asked to stop; what was reached is in the checkpoint.
    """
    with stop_between_steps() as stop:
        loop = _Loop(predictor, train, validation, config, progress)
        loop.checkpoint, loop.stop = checkpoint, stop
        loop.resume()
        while not loop.is_finished:
            epoch = loop.train_epoch()
            if after_epoch is not None:
                after_epoch(loop.stand.epoch - 1, epoch)
        return loop.finish()


class Objective(nn.Module):
    """What is minimised as a module, which is what can be spread over processes."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, targets: torch.Tensor, *features: torch.Tensor) -> torch.Tensor:
        return self.predictor.head.loss(self.predictor.raw(*features), targets)


@dataclass
class Stand:
    """How far a training is; with the weights and the optimizer it is all there is to keep.

    Attributes:
        epoch: the one that is going on, from 1.
        step: of it, from 0: the next one.
        loss: sum over the rows of this epoch.
        trained_s: seconds in training steps, during which `trained_rows` rows were met.
    """

    epoch: int = 1
    step: int = 0
    loss: float = 0.0
    best_loss: float = math.inf
    best_epoch: int = 0
    seconds: float = 0.0
    trained_s: float = 0.0
    trained_rows: int = 0


class _Loop:
    """One training: what it works with, and where it stands."""

    def __init__(
        self,
        predictor: Predictor,
        train: Rows,
        validation: Rows,
        config: RunConfig,
        progress: Progress,
    ) -> None:
        self.predictor, self.config, self.progress = predictor, config, progress
        self.rows, self.held_rows = len(train), len(validation)
        self.are_pictures = len(predictor.preprocess.shape) == 3
        self.accelerator = open_accelerator(config, are_pictures=self.are_pictures)
        if self.are_pictures:
            lay_out(predictor.network, torch.channels_last)
        optimizer = torch.optim.AdamW(
            predictor.parameters(), weight_decay=config.weight_decay, fused=True
        )
        self.objective, self.optimizer = self.accelerator.prepare(Objective(predictor), optimizer)
        preprocess, device = predictor.preprocess, self.accelerator.device
        self.seen = batches_of(preprocess, train, device, config.resident_mib)
        self.held = batches_of(preprocess, validation, device, config.resident_mib)
        self.steps = math.ceil(self.rows / config.batch_size)
        self.stand, self.epochs = Stand(), list[Epoch]()
        self.best_state = copy.deepcopy(predictor.state_dict())
        self.checkpoint: Checkpoint | None = None
        self.stop = Stop()
        self._saved_s = self._resumed_s = time.monotonic()

    @property
    def is_finished(self) -> bool:
        stand, config = self.stand, self.config
        done = stand.epoch - 1
        return done >= config.epochs or (done > 0 and done - stand.best_epoch >= config.patience)

    def train_epoch(self) -> Epoch:
        """The rest of the epoch that is going on, and its measures on the validation split."""
        self._train_steps()
        stand = self.stand
        epoch = Epoch(stand.loss / self.rows, *self._measure())
        if not math.isfinite(epoch.train_loss) or not math.isfinite(epoch.validation_loss):
            raise Diverged(
                f"the loss is not finite in epoch {stand.epoch}; try a lower learning_rate"
            )
        self.epochs.append(epoch)
        self.progress.epoch(
            stand.epoch, epoch.train_loss, epoch.validation_loss, epoch.validation_metric
        )
        if epoch.validation_loss < stand.best_loss:
            stand.best_loss, stand.best_epoch = epoch.validation_loss, stand.epoch
            self.best_state = copy.deepcopy(self.predictor.state_dict())
        stand.epoch, stand.step, stand.loss = stand.epoch + 1, 0, 0.0
        self._keep(is_due=self.is_finished or self.stop.is_asked)
        return epoch

    def _train_steps(self) -> None:
        """Every row once, in an order of this epoch's own."""
        config, stand = self.config, self.stand
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        order = torch.randperm(self.rows, generator=_generator(config.seed, stand.epoch))
        batches = [b for b in torch.split(order, config.batch_size) if len(b) >= processes]
        seeds = np.random.SeedSequence((config.seed, stand.epoch, process))
        step_seeds = seeds.generate_state(len(batches), np.uint64).tolist()
        ahead = batches[stand.step :]
        shares = [batch[process::processes] for batch in ahead]
        total = torch.zeros((), dtype=torch.float64)
        started_s = time.monotonic()
        self.objective.train()
        for batch, whole in zip(self.seen.walk(shares), map(len, ahead), strict=True):
            torch.manual_seed(step_seeds[stand.step])
            _set_learning_rate(self.optimizer, self._learning_rate())
            loss = self._step(batch, len(batch.targets) * processes / whole)
            total += loss.to("cpu", torch.float64) * whole
            stand.step += 1
            stand.trained_rows += whole
            now_s = time.monotonic()
            stand.trained_s, started_s = stand.trained_s + now_s - started_s, now_s
            self.progress.batch(stand.epoch, stand.step / len(batches), self._rows_per_s)
            if self._is_due or self.stop.is_asked:
                stand.loss, total = stand.loss + total.item(), torch.zeros_like(total)
                self._keep(is_due=True)
                started_s = time.monotonic()
        stand.loss += total.item()

    def _step(self, batch: Batch, weight: float) -> torch.Tensor:
        """One step of the optimizer; the loss of this process' rows, whose share has `weight`."""
        preprocess, config = self.predictor.preprocess, self.config
        features = preprocess.augment(batch.features, config, torch.default_generator)
        loss: torch.Tensor = self.objective(batch.targets, *features)
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss * weight)
        self.accelerator.clip_grad_norm_(self.predictor.parameters(), config.clip_norm)
        self.optimizer.step()
        return loss.detach()

    def _learning_rate(self) -> float:
        step = (self.stand.epoch - 1) * self.steps + self.stand.step
        return learning_rate(self.config, step, self.config.epochs * self.steps)

    @torch.no_grad()
    def _measure(self) -> tuple[float, float]:
        """Loss and metric of the validation split."""
        self.objective.eval()
        for buffer in self.predictor.buffers():  # running means differ by process
            broadcast(buffer)
        raw, targets = [], []
        with self.accelerator.autocast():
            for batch in self.held.walk(torch.split(torch.arange(self.held_rows), MEASURED_ROWS)):
                raw.append(self.predictor.raw(*batch.features).float())
                targets.append(batch.targets)
        head, all_raw, all_targets = self.predictor.head, torch.cat(raw), torch.cat(targets)
        return head.loss(all_raw, all_targets).item(), head.measure(all_raw, all_targets)

    def finish(self) -> History:
        """Leave the best weights in the predictor, on the CPU, as if nothing had been around it."""
        self.accelerator.free_memory()
        self.predictor.to("cpu")
        lay_out(self.predictor.network, torch.contiguous_format)
        self.predictor.load_state_dict(self.best_state)
        self.predictor.eval()
        return History(tuple(self.epochs), self.stand.best_epoch, self._seconds, self._rows_per_s)

    @property
    def _seconds(self) -> float:
        return self.stand.seconds + time.monotonic() - self._resumed_s

    @property
    def _rows_per_s(self) -> float:
        return self.stand.trained_rows / max(self.stand.trained_s, 1e-9)

    @property
    def _is_due(self) -> bool:
        age_s = time.monotonic() - self._saved_s
        return self.checkpoint is not None and age_s >= self.checkpoint.every_s

    def _keep(self, *, is_due: bool) -> None:
        """Write the checkpoint, if it is due, and stop here if that was asked for."""
        if self.checkpoint is not None and is_due and self.accelerator.is_main_process:
            self.checkpoint.save(self._state())
        if is_due:
            self._saved_s = time.monotonic()
        if self.stop.is_asked:
            self.stop.now()

    def _state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "stand": asdict(self.stand) | {"seconds": self._seconds},
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "weights": self.predictor.state_dict(),
            "best": self.best_state,
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one to go on from."""
        state = None if self.checkpoint is None else self.checkpoint.load()
        if state is None:
            return
        self.stand = Stand(**state["stand"])
        self.epochs = [Epoch(**epoch) for epoch in state["epochs"]]
        self.predictor.load_state_dict(state["weights"])
        self.best_state = state["best"]
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.progress.note(f"going on in epoch {self.stand.epoch}, step {self.stand.step}")


def learning_rate(config: RunConfig, step: int, steps: int) -> float:
    """Of a step, from 0: up to the peak in a straight line, then half a cosine down to nothing."""
    warm = math.ceil(config.warmup_share * steps)
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    return config.learning_rate * (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2


def _set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _generator(seed: int, epoch: int) -> torch.Generator:
    drawn = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(drawn[0]))


def weights_sha256(module: nn.Module) -> str:
    """Hash of the state dict's names and bytes, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
