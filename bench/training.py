"""`python -m bench.training`: pictures a second in training, beside the loop of the tutorials and a
loop that has nothing to do but train.

One network, batch size, optimizer and number of threads for all three. Rounds alternate between
them, so that a machine that changes its speed changes all. Pictures are noise of the size of
Fashion-MNIST's; ours and the tutorial's are shifted by up to a pixel and half of them mirrored.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn
from torch.utils.data import DataLoader, Dataset

from app.bundle.tensors import Array
from training.config import RunConfig
from training.data.dataset import Rows
from training.fit.hardware import MIXED, choose_precision, has_fast_bf16, lay_out
from training.fit.train import make_repeatable, train
from training.models import Predictor, cnn, convnet, head_for
from training.preprocess.tensors import ImagePreprocess
from training.progress import Progress
from training.tasks import Classification

CLASSES: Final = 10
SIDE: Final = 28
SHIFT: Final = 1
#: What the loop of `training.fit.train` shall reach, as a multiple of each.
GOALS: Final = {"tutorial": 2.0, "synthetic": 0.9}
_NETWORKS: Final = {"cnn": cnn, "convnet": convnet}
_DTYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def main() -> None:
    options = _options()
    config = RunConfig(
        epochs=1,
        threads=options.threads,
        batch_size=options.batch,
        shift_pixels=SHIFT,
        flip=True,
        device="cpu",
        precision=options.precision,
    )
    make_repeatable(config)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (options.pictures, SIDE, SIDE), dtype=np.uint8)
    targets = random.integers(0, CLASSES, options.pictures)
    device = torch.device("cpu")
    precision = choose_precision(
        config.precision, "cpu", are_pictures=True, has_bf16=has_fast_bf16(device)
    )
    network = options.network
    rounds: dict[str, Callable[[], float]] = {
        "ours": lambda: ours(predictor(network, images), images, targets, config),
        "tutorial": lambda: tutorial(predictor(network, images).network, images, targets, config),
        "synthetic": lambda: synthetic(
            predictor(network, images).network, len(images), config, _DTYPES[precision]
        ),
    }
    rates: dict[str, list[float]] = {name: [] for name in rounds}
    for number in range(options.rounds + 1):
        for name, measure in rounds.items():
            rate = measure()
            if number > 0:  # the first warms up
                rates[name].append(rate)
    print(json.dumps(_result(rates, precision, options)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument("--pictures", type=int, default=4096, help="of each round, default 4096")
    parser.add_argument("--batch", type=int, default=128, help="rows of a step, default 128")
    parser.add_argument("--threads", type=int, default=2, help="of torch, default 2")
    parser.add_argument("--network", choices=_NETWORKS, default="convnet", help="default convnet")
    parser.add_argument("--precision", choices=("auto", *MIXED), default="auto", help="of ours")
    return parser.parse_args()


def predictor(network: str, images: Array) -> Predictor:
    """A fresh one, the same each time."""
    torch.manual_seed(0)
    preprocess = ImagePreprocess("image", {"image": images}, maximum=255)
    task = Classification(tuple(str(label) for label in range(CLASSES)))
    head = head_for(task, np.zeros(1, dtype=np.int64))
    return Predictor(preprocess, _NETWORKS[network](preprocess.shape, CLASSES), head, task)


def ours(model: Predictor, images: Array, targets: Array, config: RunConfig) -> float:
    """Pictures a second of the loop that `python -m training` runs."""
    rows = Rows({"image": images}, targets, model.task, ())
    held = Rows({"image": images[:CLASSES]}, targets[:CLASSES], model.task, ())
    return train(model, rows, held, config, Progress()).rows_per_s


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """As torchvision's data sets and transforms do it, a picture at a time: padded and cut, perhaps
    mirrored, then a tensor, then normalised."""

    def __init__(self, images: Array, targets: Array) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        padded = ImageOps.expand(Image.fromarray(self.images[index]), border=SHIFT)
        left, top = torch.randint(0, 2 * SHIFT + 1, (2,)).tolist()
        picture = padded.crop((left, top, left + SIDE, top + SIDE))
        if torch.rand(1) < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(picture, copy=True)).unsqueeze(0)
        return (pixels.to(torch.float32).div(255) - 0.5) / 0.5, int(self.targets[index])


def tutorial(network: nn.Module, images: Array, targets: Array, config: RunConfig) -> float:
    """Pictures a second of the loop that tutorials teach: a DataLoader with its defaults."""
    loader = DataLoader(Pictures(images, targets), config.batch_size, shuffle=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate)
    loss_of = nn.CrossEntropyLoss()
    network.train()
    total = 0.0
    started_s = time.perf_counter()
    for pixels, labels in loader:
        optimizer.zero_grad()
        loss = loss_of(network(pixels), labels)
        loss.backward()
        optimizer.step()
        total += loss.item()
    return len(images) / (time.perf_counter() - started_s)


def synthetic(network: nn.Module, count: int, config: RunConfig, dtype: torch.dtype) -> float:
    """Pictures a second over one batch that is there already, in our precision and layout."""
    lay_out(network, torch.channels_last)
    pixels = torch.randn(config.batch_size, 1, SIDE, SIDE)
    pixels = pixels.to(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (config.batch_size,))
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate)
    network.train()
    steps = max(1, count // config.batch_size)
    started_s = time.perf_counter()
    for _ in range(steps):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = nn.functional.cross_entropy(network(pixels), labels)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
    return steps * config.batch_size / (time.perf_counter() - started_s)


def _result(
    rates: dict[str, list[float]], precision: str, options: argparse.Namespace
) -> dict[str, Any]:
    # Of each round, whose measurements are neighbours in time.
    ratios = {
        name: statistics.median(a / b for a, b in zip(rates["ours"], rates[name], strict=True))
        for name in GOALS
    }
    for name, found in rates.items():
        print(f"{name:>10}: {statistics.median(found):7,.0f} pictures/s")
    for name, ratio in ratios.items():
        reached = "reached" if ratio >= GOALS[name] else "missed"
        print(f"ours / {name}: {ratio:.2f} (goal {GOALS[name]:g}, {reached})")
    return {
        "bench": "training",
        "network": options.network,
        "precision": precision,
        "batch_rows": options.batch,
        "threads": options.threads,
        "torch": torch.__version__,
        "pictures_per_s": rates,
        "ratios": ratios,
        "goals": GOALS,
    }


if __name__ == "__main__":
    main()
