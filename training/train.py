"""The training loop. Same seed, data, machine and number of threads: same weights."""

import copy
import hashlib
import math
import time
from dataclasses import dataclass

import torch
from torch import nn

from training.config import RunConfig
from training.data.dataset import Rows
from training.errors import Diverged
from training.models import Predictor
from training.progress import Progress


@dataclass(frozen=True)
class Epoch:
    """One point of the learning curves; losses and metric are those of the head."""

    train_loss: float
    validation_loss: float
    validation_metric: float


@dataclass(frozen=True)
class History:
    """The learning curves of one candidate, and the epoch (from 1) whose weights were kept."""

    epochs: tuple[Epoch, ...]
    best_epoch: int
    seconds: float


@dataclass(frozen=True)
class Resident:
    """A split held as tensors for the whole run: features and targets, [rows, ...]."""

    features: tuple[torch.Tensor, ...]
    targets: torch.Tensor

    def take(self, index: torch.Tensor) -> "Resident":
        return Resident(tuple(part[index] for part in self.features), self.targets[index])


def make_repeatable(config: RunConfig) -> None:
    """Set the process-wide switches of torch on which repeatable weights depend."""
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(config.seed)


def train(
    predictor: Predictor, train: Rows, validation: Rows, config: RunConfig, progress: Progress
) -> History:
    """Fit in place by AdamW under the head's loss; keep the weights of the best validation loss.

    Raises:
        Diverged: a loss is not finite.
    """
    started = time.monotonic()
    seen = Resident(predictor.preprocess.features(train.inputs), torch.from_numpy(train.targets))
    held = Resident(
        predictor.preprocess.features(validation.inputs), torch.from_numpy(validation.targets)
    )
    steps = config.epochs * math.ceil(len(train) / config.batch_size)
    optimizer = torch.optim.AdamW(
        predictor.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    generator = torch.Generator().manual_seed(config.seed)
    epochs: list[Epoch] = []
    best_loss, best_epoch, best_state = math.inf, 0, predictor.state_dict()
    for number in range(1, config.epochs + 1):
        loss = _train_epoch(
            predictor,
            seen,
            optimizer=optimizer,
            schedule=schedule,
            generator=generator,
            config=config,
        )
        epoch = Epoch(loss, *_measure(predictor, held))
        if not math.isfinite(epoch.train_loss) or not math.isfinite(epoch.validation_loss):
            raise Diverged(f"the loss is not finite in epoch {number}; try a lower learning_rate")
        epochs.append(epoch)
        progress.epoch(number, epoch.train_loss, epoch.validation_loss, epoch.validation_metric)
        if epoch.validation_loss < best_loss:
            best_loss, best_epoch = epoch.validation_loss, number
            best_state = copy.deepcopy(predictor.state_dict())
        elif number - best_epoch >= config.patience:
            break
    predictor.load_state_dict(best_state)
    predictor.eval()
    return History(tuple(epochs), best_epoch, time.monotonic() - started)


def _train_epoch(
    predictor: Predictor,
    seen: Resident,
    *,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    generator: torch.Generator,
    config: RunConfig,
) -> float:
    """One pass in a fresh order; the mean loss of the rows as they were met."""
    predictor.train()
    rows = len(seen.targets)
    total = 0.0
    order = torch.randperm(rows, generator=generator)
    for index in torch.split(order, config.batch_size):
        batch = seen.take(index)
        features = predictor.preprocess.augment(batch.features, config, generator)
        loss = predictor.head.loss(predictor.raw(*features), batch.targets)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        total += loss.item() * len(index)
    return total / rows


@torch.no_grad()
def _measure(predictor: Predictor, held: Resident) -> tuple[float, float]:
    """Loss and metric of a split."""
    predictor.eval()
    raw, head = predictor.raw(*held.features), predictor.head
    return head.loss(raw, held.targets).item(), head.measure(raw, held.targets)


def weights_sha256(module: nn.Module) -> str:
    """Hash of the state dict's names and bytes, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
