"""Texts and series of a user's own: what is taken, what is left out, what is refused."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.bundle.padding import row_lengths
from app.bundle.signature import SeriesField, TextField
from training import pipeline
from training.config import RunConfig
from training.data.languages import BASE, LANGUAGES, collect_languages
from training.data.series import Layout, collect_series
from training.data.split import split_dataset
from training.data.table import TableSource
from training.data.text import collect_text
from training.data.vowels import collect_vowels, read_series
from training.errors import UsageError
from training.own.choice import any_own_run
from training.papers.card import accepts

pytestmark = pytest.mark.training

Rows = list[dict[str, Any]]


def write(path: Path, rows: Rows) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return path


def mails() -> Rows:
    words = {"spam": "win money now", "ham": "see you at noon"}
    return [
        {"nr": n, "mail text": f"{words[kind]} {n}", "kind": kind}
        for n in range(30)
        for kind in words
    ]


def walks() -> Rows:
    """30 walks, those of `up` rise; steps are out of order."""
    rows = [
        {"who": f"w{walk}", "t": step, "height": step if walk % 2 else -step, "left": 1,
         "kind": "up" if walk % 2 else "down"}
        for walk in range(30)
        for step in range(3 + walk % 5)
    ]  # fmt: skip
    return sorted(rows, key=lambda row: (row["t"] * 7 % 5, row["who"]))


def text_source(path: Path, **changes: Any) -> TableSource:
    return TableSource(path, ("kind",), fields={"mail text": "text"}, **changes)


def series_source(path: Path) -> TableSource:
    return TableSource(path, ("kind",), fields={"who": "series", "t": "step"})


WALK = Layout("who", "t")


class TestTexts:
    def test_a_column_becomes_bytes(self, tmp_path: Path) -> None:
        source = text_source(write(tmp_path / "mails.csv", mails()))

        found = collect_text(source, "mail text")

        (field,) = found.dataset.fields
        assert isinstance(field, TextField)
        assert (field.name, field.max_length) == ("mail text", 1_000)
        assert found.dataset.inputs["text"].shape == (60, 32)
        assert found.dataset.rows(np.array([1])).instances == [{"mail text": "see you at noon 0"}]
        assert found.dataset.task.labels == ("ham", "spam")
        assert {one.name: one.kind for one in found.columns} == {"nr": "drop", "mail text": "text"}

    def test_what_is_left_out_is_said_with_its_line(self, tmp_path: Path) -> None:
        rows = mails()
        rows[1]["mail text"] = ""
        rows[3]["mail text"] = "x" * 10_001
        rows[5]["mail text"] = "a\0b"
        rows[7]["kind"] = ""

        found = collect_text(text_source(write(tmp_path / "mails.csv", rows)), "mail text")

        assert len(found.dataset.targets) == 56
        said = [note for note in found.notes if "left out" in note]
        assert said == [
            "1 row is left out: no text in 'mail text' (line 3)",
            "1 row is left out: more than 10,000 characters in 'mail text' (line 5)",
            "1 row is left out: a NUL character in 'mail text' (line 7)",
            "1 row is left out: no value in the target column 'kind' (line 9)",
        ]

    def test_groups_stay_together(self, tmp_path: Path) -> None:
        source = text_source(write(tmp_path / "mails.csv", mails()))

        data = collect_text(source, "mail text", "group:nr").dataset

        assert len(set(data.keys["nr"])) == 30
        split = split_dataset(data, RunConfig(split="group:nr"))
        numbers = [
            {row["mail text"].split()[-1] for row in part.instances}
            for part in (split.train, split.validation, split.test)
        ]
        assert not numbers[0] & numbers[1] | numbers[0] & numbers[2] | numbers[1] & numbers[2]

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"mail": "text"}, "did you mean 'mail text'"),
            ({"kind": "text"}, "is the target"),
            ({"nr": "text", "mail text": "text"}, "one column at most"),
            ({"nr": "series", "mail text": "text"}, "one of them"),
            ({"nr": "step"}, "of no column"),
        ],
    )
    def test_kinds_that_make_no_sense(
        self, tmp_path: Path, fields: dict[str, str], said: str
    ) -> None:
        source = TableSource(write(tmp_path / "mails.csv", mails()), ("kind",), fields=fields)

        with pytest.raises(UsageError, match=said):
            any_own_run(source, None, {})


class TestSeries:
    def test_rows_become_series_in_the_order_of_their_steps(self, tmp_path: Path) -> None:
        source = series_source(write(tmp_path / "walks.csv", walks()))

        found = collect_series(source, WALK)

        (field,) = found.dataset.fields
        assert isinstance(field, SeriesField)
        assert field.channels == ("height", "left")
        lengths = row_lengths(found.dataset.inputs["series"])
        assert sorted(lengths) == sorted(3 + walk % 5 for walk in range(30))
        for row, target in zip(found.dataset.inputs["series"], found.dataset.targets, strict=True):
            steps = row[~np.isnan(row[:, 0])]
            sign = 1 if target else -1
            assert steps[:, 0].tolist() == [sign * step for step in range(len(steps))]
            assert (steps[:, 1] == 1).all()
        assert "30 series of 2 channels" in found.notes

    def test_a_step_without_all_its_numbers_is_left_out(self, tmp_path: Path) -> None:
        rows = walks()
        rows[4]["height"] = ""

        found = collect_series(series_source(write(tmp_path / "walks.csv", rows)), WALK)

        assert "1 row is left out: a step without all its numbers (line 6)" in found.notes
        assert (~np.isnan(found.dataset.inputs["series"][:, :, 0])).sum() == len(rows) - 1

    @pytest.mark.parametrize(
        ("row", "column", "value", "said"),
        [
            (9, "kind", "sideways", "'kind' changes within series"),
            (
                9,
                "height",
                "high",
                "channel 'height' holds what is no finite number, such as 'high'",
            ),
            (9, "height", "1e39", "no finite number, such as '1e39'"),
            (9, "t", "soon", "neither a number nor a date"),
        ],
    )
    def test_what_is_wrong_is_said_with_its_line(
        self, tmp_path: Path, row: int, column: str, value: str, said: str
    ) -> None:
        rows = walks()
        rows[row][column] = value
        # The series of the row is met there for the first time, or later.
        with pytest.raises(UsageError, match=said) as caught:
            collect_series(series_source(write(tmp_path / "walks.csv", rows)), WALK)
        assert "line" in str(caught.value)

    def test_a_step_that_comes_twice(self, tmp_path: Path) -> None:
        rows = [*walks(), walks()[0]]

        with pytest.raises(UsageError, match=f"line {len(rows) + 1}: series 'w0' has step '0' twi"):
            collect_series(series_source(write(tmp_path / "walks.csv", rows)), WALK)

    def test_without_a_step_the_order_is_that_of_the_file(self, tmp_path: Path) -> None:
        rows = [{key: row[key] for key in ("who", "height", "kind")} for row in walks()]
        source = TableSource(write(tmp_path / "walks.csv", rows), ("kind",))

        found = collect_series(source, Layout("who"))

        first = [row["height"] for row in rows if row["who"] == rows[0]["who"]]
        assert found.dataset.rows(np.array([0])).instances == [{"series": [[h] for h in first]}]


def test_names_of_emoji_in_14_languages() -> None:
    data = collect_languages()
    split = split_dataset(data, RunConfig(split=f"group:{BASE}"))

    assert data.task.labels == LANGUAGES
    assert len(data.targets) > 25_000
    assert np.bincount(data.targets).min() > 1_900
    every = data.rows(np.arange(len(data.targets))).instances
    assert {"text": "ice hockey"} in every
    assert {"text": "eishockey"} in every
    assert sum(len(part) for part in (split.train, split.validation, split.test)) == len(every)


def test_vowels_come_with_their_own_test_rows() -> None:
    data = collect_vowels()

    lengths = row_lengths(data.inputs["series"])
    assert (len(lengths), lengths.min(), lengths.max()) == (640, 7, 29)
    assert data.test_rows is not None
    assert len(data.test_rows) == 370
    assert np.bincount(data.targets[:270]).tolist() == [30] * 9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape"), [("vowels", ("batch", "length", 12)), ("languages", ("batch", "length"))]
)
def test_built_in_runs_pass_their_gates(
    name: str, shape: tuple[int | str, ...], tmp_path: Path
) -> None:
    outcome = pipeline.run(name, tmp_path)

    manifest = outcome.manifest
    assert manifest.signature.inputs[0].shape == shape
    assert [gate.metric for gate in manifest.gates] == ["accuracy"]
    assert outcome.evaluations["test"].metrics["accuracy"] >= manifest.gates[0].minimum
    (field,) = manifest.signature.fields
    assert manifest.drift[field.name]["statistic"] == "length"
    assert "steps" in accepts(field) or "characters" in accepts(field)


def test_a_line_of_data_is_channels_and_a_label() -> None:
    series, labels = read_series("@problemName x\n@data\n1,2,3:4,5,6:7\n8:9: 1\n")

    assert [one.tolist() for one in series] == [[[1, 4], [2, 5], [3, 6]], [[8, 9]]]
    assert labels == ["7", "1"]
