"""Names of emoji in 14 languages: in which language is a short text?"""

import json
from importlib import metadata
from typing import Final

import numpy as np

from training.data.dataset import Dataset
from training.data.penguins import data_file
from training.data.text import text_dataset
from training.tasks import Classification

PACKAGE: Final = "emoji"
LANGUAGES: Final = (
    "ar", "de", "en", "es", "fa", "fr", "id", "it", "ja", "ko", "pt", "ru", "tr", "zh",
)  # fmt: skip
PART: Final = 1
#: Names of the same emoji are translations of each other; with other skins or hair they hardly
#: differ. They are divided together.
BASE: Final = "emoji"
_SKINS: Final = {chr(code) for code in range(0x1F3FB, 0x1F400)}
_NOT_BASE: Final = dict.fromkeys(map(ord, _SKINS | {"\ufe0f"}))


def collect_languages() -> Dataset:
    """Input `text`; labels are language codes; the key `emoji` is what a name is of.

    Emoji with a colour of skin are left out, as their names repeat those without.

    Raises:
        EnvironmentTrouble: the package with the names is not installed.
    """
    texts: list[str] = []
    targets: list[int] = []
    bases: list[str] = []
    for target, language in enumerate(LANGUAGES):
        names = {
            emoji.translate(_NOT_BASE): name.strip(":").replace("_", " ")
            for emoji, name in _names(language).items()
            if _SKINS.isdisjoint(emoji)
        }
        texts += names.values()
        targets += [target] * len(names)
        bases += names
    return text_dataset(
        "text",
        texts,
        np.array(targets, dtype=np.int64),
        Classification(LANGUAGES),
        source=f"names of emoji in the package {PACKAGE} {metadata.version(PACKAGE)}",
        keys={BASE: np.array(bases, dtype=object)},
    )


def _names(language: str) -> dict[str, str]:
    """By emoji, with colons around and underscores between words."""
    if language != "en":
        path = data_file(PACKAGE, f"emoji_{language}.json")
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        return found
    table = json.loads(data_file(PACKAGE, "emoji.json").read_text(encoding="utf-8"))
    # Parts of emoji, such as hair, have no name in other languages.
    return {emoji: about["en"] for emoji, about in table.items() if about["status"] != PART}
