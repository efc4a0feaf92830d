"""A file of texts, and one of series: one command each, a served model, right answers."""

import csv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.live import LiveServer
from training.__main__ import main
from training.data.languages import collect_languages
from training.data.vowels import collect_vowels

pytestmark = [pytest.mark.training, pytest.mark.slow]

TONGUES = ("de", "ja", "ru")
QUICK = ("--set", "epochs=4", "--set", "variants=none", "--set", "calibrate=false")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("own")


def write_texts(path: Path) -> None:
    """Names of emoji in three languages; of those the rest is for asking."""
    data = collect_languages()
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["Zeile", "Der Text", "Sprache"])
        for language in TONGUES:
            rows = np.flatnonzero(data.targets == data.task.labels.index(language))[:400]
            for row in data.rows(rows).instances:
                table.writerow([len(row["text"]), row["text"], language])


def write_series(path: Path) -> None:
    """Utterances of three men, a row a step, the last step first."""
    data = collect_vowels()
    rows = data.rows(np.flatnonzero(data.targets < 3))
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["utterance", "frame no", *(f"c {n}" for n in range(12)), "who speaks"])
        for number, (instance, who) in enumerate(zip(rows.instances, rows.expected, strict=True)):
            for step, values in reversed(list(enumerate(instance["utterance"]))):
                table.writerow([f"u{number}", step, *values, who])


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[LiveServer]:
    texts, series, models = folder / "texts.csv", folder / "speech.csv", folder / "models"
    write_texts(texts)
    write_series(series)
    of_texts = ["--data", str(texts), "--target", "Sprache", "--field", "Der Text=text"]
    of_series = ["--data", str(series), "--target", "who speaks", "--field", "utterance=series"]
    where = ["--models", str(models), *QUICK]
    assert main(["run", *of_texts, *where]) == 0
    assert main(["run", *of_series, "--field", "frame no=step", *where]) == 0
    with LiveServer(models, folder / "log") as running:
        yield running


def answers(server: LiveServer, model: str, instances: list[dict[str, Any]]) -> list[str]:
    url = f"{server.url}/models/{model}/predict"
    got = httpx.post(url, json={"instances": instances}, trust_env=False)
    assert got.status_code == 200, got.text
    return [row["label"] for row in got.json()["predictions"]]


def test_a_text_that_was_never_seen_is_told_by_http(server: LiveServer) -> None:
    texts = ["これは私の本です", "Ich möchte bitte ein Bier", "добрый вечер", "お茶" * 300]

    found = answers(server, "texts", [{"Der Text": text} for text in texts])

    assert found == ["ja", "de", "ru", "ja"]
    # The same alone, where it is padded to another length.
    assert [answers(server, "texts", [{"Der Text": text}])[0] for text in texts] == found


def test_requests_of_different_lengths_at_once_are_not_mixed_up(server: LiveServer) -> None:
    texts = ["привет " * (n % 40) if n % 3 else "お茶" * (n % 50 + 1) for n in range(200)]
    url = f"{server.url}/models/texts/predict"
    together = httpx.post(
        url, json={"instances": [{"Der Text": text} for text in texts]}, trust_env=False
    ).json()["predictions"]

    with httpx.Client(trust_env=False) as client, ThreadPoolExecutor(16) as pool:
        alone = list(
            pool.map(
                lambda text: client.post(url, json={"instances": [{"Der Text": text}]}).json(),
                texts,
            )
        )

    for one, other in zip(alone, together, strict=True):
        (row,) = one["predictions"]
        assert row["scores"] == pytest.approx(other["scores"], abs=1e-5)


def test_a_table_of_texts_too(server: LiveServer) -> None:
    table = 'Der Text\n"Straße, lang"\nпривет\n'

    got = httpx.post(
        f"{server.url}/models/texts/predict",
        content=table.encode(),
        headers={"Content-Type": "text/csv", "Accept": "text/csv"},
        trust_env=False,
    )

    assert [line.split(",")[0] for line in got.text.split()[1:]] == ["de", "ru"]


def test_series_of_all_lengths_are_told_by_http(server: LiveServer) -> None:
    data = collect_vowels()
    rows = data.rows(np.flatnonzero(data.targets < 3))
    instances = [{"series": row["utterance"]} for row in rows.instances]

    found = answers(server, "speech", instances)

    right = np.mean([a == b for a, b in zip(found, rows.expected, strict=True)])
    assert right > 0.9
    assert answers(server, "speech", instances[:1]) == found[:1]
