"""Japanese vowels: 640 utterances of nine men, 12 coefficients of speech, 7 to 29 steps each."""

from typing import Final

import numpy as np

from app.bundle.padding import padded_series
from app.bundle.tensors import Array
from training.data.dataset import Dataset
from training.data.penguins import data_file
from training.data.series import series_dataset
from training.tasks import Classification

SOURCE: Final = "JapaneseVowels (Kudo, Toyama and Shimbo 1999; UCI), in aeon"
PACKAGE: Final = "aeon"
CHANNELS: Final = tuple(f"coefficient_{number}" for number in range(1, 13))
SPEAKERS: Final = tuple(f"speaker_{number}" for number in range(1, 10))


def collect_vowels() -> Dataset:
    """Input `series`; labels are speakers; the test rows are those of the data's own test file.

    Raises:
        EnvironmentTrouble: the package with the data is not installed.
    """
    parts = [read_series(data_file(PACKAGE, f"JapaneseVowels_{one}.ts").read_text(encoding="utf-8"))
             for one in ("TRAIN", "TEST")]  # fmt: skip
    series = [one for part, _ in parts for one in part]
    labels = [label for _, part in parts for label in part]
    apart = np.arange(len(parts[0][0]), len(series), dtype=np.int64)
    return series_dataset(
        "utterance",
        CHANNELS,
        padded_series(series, len(CHANNELS)),
        np.array([int(label) - 1 for label in labels], dtype=np.int64),
        Classification(SPEAKERS),
        source=SOURCE,
        test_rows=apart,
    )


def read_series(text: str) -> tuple[list[Array], list[str]]:
    """Series of a .ts file, each float32 [steps, channels], and their labels.

    A line of data has a list of numbers for each channel and the label, with colons between.
    """
    _, _, data = text.partition("@data\n")
    series, labels = [], []
    for line in data.splitlines():
        *channels, label = line.split(":")
        numbers = [channel.split(",") for channel in channels]
        series.append(np.array(numbers, dtype=np.float32).T)
        labels.append(label.strip())
    return series, labels
