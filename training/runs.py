"""The built-in runs, and what a run is."""

from collections.abc import Callable
from dataclasses import dataclass

from app.bundle.tensors import Tensors
from training.config import Bar, RunConfig
from training.data import table
from training.data.dataset import Dataset
from training.data.diamonds import collect_diamonds
from training.data.digits import MAXIMUM, collect_digits
from training.data.fashion_mnist import collect_fashion
from training.data.languages import BASE, collect_languages
from training.data.penguins import CATEGORIES, collect_penguins
from training.data.series import SERIES
from training.data.text import TEXT
from training.data.vowels import collect_vowels
from training.errors import UsageError
from training.models import (
    TREES,
    AnyCandidate,
    Candidate,
    byte_runs,
    cnn,
    convnet,
    linear,
    mlp,
    moments,
    series_cnn,
    text_cnn,
)
from training.models.space import Between, OneOf, Space
from training.preprocess.sequences import SeriesPreprocess, TextPreprocess
from training.preprocess.tensors import (
    ImagePreprocess,
    Lookup,
    Preprocess,
    TablePreprocess,
    fit_table,
)

#: What a search may vary of every network.
TRAINING: Space = {
    "learning_rate": Between(3e-4, 3e-2, log=True),
    "weight_decay": Between(1e-4, 1e-1, log=True),
    "batch_size": OneOf((16, 32, 64, 128, 256)),
}
LINEAR = Candidate("linear", "one linear layer, the baseline", linear, TRAINING)
MLP = Candidate(
    "mlp",
    "two hidden layers of 64",
    mlp,
    {
        **TRAINING,
        "hidden": OneOf((32, 64, 128, 256)),
        "layers": Between(1, 3),
        "dropout": Between(0.0, 0.5),
    },
    {"hidden": 64, "layers": 2, "dropout": 0.2},
)
CNN = Candidate("cnn", "two convolutions of 32 channels and a hidden layer", cnn, TRAINING)
CONVNET = Candidate(
    "convnet",
    "convolutions in stages, as many as the size of the pictures allows",
    convnet,
    TRAINING,
)
BYTE_RUNS = Candidate(
    "byte-runs",
    "a linear layer on runs of one to four bytes",
    byte_runs,
    {"learning_rate": Between(3e-3, 0.3, log=True), "weight_decay": TRAINING["weight_decay"]},
    {"learning_rate": 0.05},
)
_MASKED: Space = {**TRAINING, "width": OneOf((32, 64, 96, 128)), "dropout": Between(0.0, 0.5)}
TEXT_CNN = Candidate("text-cnn", "bytes, then three convolutions along them", text_cnn, _MASKED)
MOMENTS = Candidate(
    "moments",
    "a linear layer on each channel's mean and deviation",
    moments,
    TRAINING,
    {"learning_rate": 0.02},
)
SERIES_CNN = Candidate(
    "series-cnn", "three convolutions along the steps, wider each time", series_cnn, _MASKED
)


@dataclass(frozen=True)
class Run:
    """What is trained, on what, and how good it must be. The run's name is the model's."""

    name: str
    description: str
    config: RunConfig
    collect: Callable[[], Dataset]
    #: Fits the statistics on the inputs of the training split, and sees no other.
    fit_preprocess: Callable[[Tensors], Preprocess]
    candidates: tuple[AnyCandidate, ...]


def _digits_preprocess(train_inputs: Tensors) -> Preprocess:
    return ImagePreprocess("image", train_inputs, MAXIMUM)


def _fashion_preprocess(train_inputs: Tensors) -> Preprocess:
    return ImagePreprocess("image", train_inputs, maximum=255)


def fit_own_table(train_inputs: Tensors) -> Preprocess:
    return fit_table(train_inputs, table.NUMBERS, table.CATEGORIES)


def _penguins_preprocess(train_inputs: Tensors) -> Preprocess:
    vocabularies = tuple(field.vocabulary for field in CATEGORIES)
    lookup = Lookup("categories", "category_ids", vocabularies)
    return TablePreprocess("numbers", lookup, train_inputs)


def fit_text(train_inputs: Tensors) -> Preprocess:  # noqa: ARG001
    """Of the input `text`; there is nothing to fit."""
    return TextPreprocess(TEXT)


def fit_series(train_inputs: Tensors) -> Preprocess:
    """Of the input `series`."""
    return SeriesPreprocess(SERIES, train_inputs)


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
        name="fashion",
        description="Which of ten kinds of clothing is in a grey picture of 28 × 28 pixels",
        config=RunConfig(
            epochs=10,
            patience=4,
            batch_size=128,
            flip=True,
            validation_share=0.1,
            gates=(Bar(metric="accuracy", minimum=0.91),),
        ),
        collect=collect_fashion,
        fit_preprocess=_fashion_preprocess,
        candidates=(LINEAR, CONVNET),
    ),
    Run(
        name="diamonds",
        description="The price of a cut diamond in dollars of 2017",
        config=RunConfig(
            epochs=20,
            patience=6,
            batch_size=512,
            missing_rate=0.01,
            gates=(Bar(metric="rmse", maximum=700),),
        ),
        collect=collect_diamonds,
        fit_preprocess=fit_own_table,
        candidates=(LINEAR, MLP, TREES),
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
    Run(
        name="languages",
        description="In which of 14 languages a short text is",
        config=RunConfig(
            epochs=6,
            patience=2,
            batch_size=128,
            split=f"group:{BASE}",
            # Many names are the same in several languages: all could be told apart in 0.97.
            gates=(Bar(metric="accuracy", minimum=0.87),),
        ),
        collect=collect_languages,
        fit_preprocess=fit_text,
        candidates=(BYTE_RUNS, TEXT_CNN),
    ),
    Run(
        name="vowels",
        description="Which of nine men speaks, from twelve channels of a Japanese vowel",
        config=RunConfig(
            epochs=80,
            patience=20,
            batch_size=32,
            gates=(Bar(metric="accuracy", minimum=0.93),),
        ),
        collect=collect_vowels,
        fit_preprocess=fit_series,
        candidates=(MOMENTS, SERIES_CNN),
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
