"""The built-in runs, and what a run is."""

from collections.abc import Callable
from dataclasses import dataclass

from app.bundle.tensors import Tensors
from training.config import Bar, RunConfig
from training.data.dataset import Dataset
from training.data.digits import MAXIMUM, collect_digits
from training.data.penguins import CATEGORIES, collect_penguins
from training.errors import UsageError
from training.models import Candidate, cnn, linear, mlp
from training.preprocess import ImagePreprocess, Lookup, Preprocess, TablePreprocess

LINEAR = Candidate("linear", "one linear layer, the baseline", linear)
MLP = Candidate("mlp", "two hidden layers of 64", mlp)
CNN = Candidate("cnn", "two convolutions of 32 channels and a hidden layer", cnn)


@dataclass(frozen=True)
class Run:
    """What is trained, on what, and how good it must be. The run's name is the model's."""

    name: str
    description: str
    config: RunConfig
    collect: Callable[[], Dataset]
    #: Fits the statistics on the inputs of the training split, and sees no other.
    fit_preprocess: Callable[[Tensors], Preprocess]
    candidates: tuple[Candidate, ...]


def _digits_preprocess(train_inputs: Tensors) -> Preprocess:
    return ImagePreprocess("image", train_inputs, MAXIMUM)


def _penguins_preprocess(train_inputs: Tensors) -> Preprocess:
    vocabularies = tuple(field.vocabulary for field in CATEGORIES)
    lookup = Lookup("categories", "category_ids", vocabularies)
    return TablePreprocess("numbers", lookup, train_inputs)


RUNS = (
    Run(
        name="digits",
        description="Which handwritten digit is in a grey picture of 8 × 8 pixels",
        config=RunConfig(
            epochs=40, patience=15, shift_pixels=1, gates=(Bar(metric="accuracy", minimum=0.97),)
        ),
        collect=collect_digits,
        fit_preprocess=_digits_preprocess,
        candidates=(LINEAR, MLP, CNN),
    ),
    Run(
        name="penguins",
        description="Which species a penguin is, from its measurements; any of them may be missing",
        config=RunConfig(
            epochs=150,
            patience=30,
            batch_size=32,
            missing_rate=0.05,
            gates=(Bar(metric="accuracy", minimum=0.93),),
        ),
        collect=collect_penguins,
        fit_preprocess=_penguins_preprocess,
        candidates=(LINEAR, MLP),
    ),
)


def find_run(name: str) -> Run:
    """The built-in run of this name.

    Raises:
        UsageError: there is none; the message lists those that there are.
    """
    for run in RUNS:
        if run.name == name:
            return run
    raise UsageError(f"unknown run {name!r}; known are {', '.join(run.name for run in RUNS)}")
