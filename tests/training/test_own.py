"""A newcomer's road: a file of their own, one command, a served model, answers by its names."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.bundle.signature import CategoryField, NumberField
from tests.api.live import LiveServer
from training.__main__ import main
from training.config import RunConfig
from training.data.penguins import data_file
from training.data.split import group_indices, random_indices, split_dataset
from training.data.table import CATEGORIES, NUMBERS, Collected, TableSource, collect_table
from training.errors import UsageError
from training.own.tables import model_name
from training.runs import fit_own_table

pytestmark = pytest.mark.training

NAMES = {
    "species": "Art",
    "island": "Insel (Ort)",
    "bill_length_mm": "Schnabellänge [mm]",
    "bill_depth_mm": "Schnabel, Tiefe",
    "flipper_length_mm": "flipper length",
    "body_mass_g": "Körper Masse/g",
    "sex": "Geschlecht?",
}


@pytest.fixture(scope="session")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The penguins as their owner has them: other names, blanks and umlauts."""
    path = tmp_path_factory.mktemp("own") / "my birds.csv"
    with data_file("palmerpenguins", "penguins.csv").open(encoding="utf-8") as source:
        rows = list(csv.DictReader(source))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(NAMES.values())
        writer.writerows([row[name] for name in NAMES] for row in rows)
    return path


def collected(path: Path, split: str = "auto", **fields: str) -> Collected:
    return collect_table(TableSource(path, ("Art",), fields=fields), split)


@pytest.fixture(scope="module")
def server(birds: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """What one command published, served."""
    models = tmp_path_factory.mktemp("models")
    settings = ["--set", "epochs=5", "--set", "faster_by=0"]
    data = ["--data", str(birds), "--target", "Art"]
    assert main(["run", *data, "--models", str(models), *settings]) == 0
    log = tmp_path_factory.mktemp("server") / "log"
    with LiveServer(models, log) as running:
        yield running


@pytest.fixture(scope="module")
def rows(birds: Path) -> list[dict[str, str]]:
    """The rows that lack nothing, as the file has them."""
    with birds.open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if "NA" not in row.values()]


def instance(row: dict[str, str]) -> dict[str, str | float]:
    """A row of the file as a client would send it in JSON, without the target."""
    words = ("Insel (Ort)", "Geschlecht?")
    return {k: v if k in words else float(v) for k, v in row.items() if k != "Art"}


@pytest.mark.slow
def test_one_command_makes_a_model_that_answers_by_the_names_of_the_file(
    server: LiveServer, rows: list[dict[str, str]]
):
    instances = [instance(row) for row in rows]

    answer = httpx.post(f"{server.url}/predict", json={"instances": instances}, trust_env=False)

    assert answer.status_code == 200, answer.text
    labels = [prediction["label"] for prediction in answer.json()["predictions"]]
    right = np.mean([label == row["Art"] for label, row in zip(labels, rows, strict=True)])
    assert right > 0.95
    assert answer.json()["model"]["name"] == "my-birds"


@pytest.mark.slow
def test_the_file_itself_and_json_lines_give_the_same_answers(
    server: LiveServer, rows: list[dict[str, str]]
):
    instances = [instance(row) for row in rows[:50]]
    table = io.StringIO()
    writer = csv.DictWriter(table, list(instances[0]))
    writer.writeheader()
    writer.writerows(instances)

    def answers(content: str, media: str) -> object:
        answer = httpx.post(
            f"{server.url}/predict",
            content=content.encode(),
            headers={"Content-Type": media},
            trust_env=False,
        )
        return answer.json()["predictions"]

    wanted = answers(json.dumps({"instances": instances}), "application/json")
    assert answers(table.getvalue(), "text/csv") == wanted
    lines = "\n".join(json.dumps(one) for one in instances)
    assert answers(lines, "application/x-ndjson") == wanted


@pytest.mark.slow
def test_the_document_has_the_columns_and_an_example(server: LiveServer):
    document = httpx.get(f"{server.url}/openapi.json", trust_env=False).json()

    found = [s for s in document["components"]["schemas"].values()
             if "Schnabellänge [mm]" in s.get("properties", {})]  # fmt: skip
    assert found
    assert set(found[0]["properties"]) == set(NAMES.values()) - {"Art"}


def test_fields_are_the_columns_with_gaps_where_the_file_has_gaps(birds: Path):
    dataset = collected(birds).dataset

    assert [field.name for field in dataset.fields] == list(NAMES.values())[1:]
    gaps = {field.name for field in dataset.fields if field.nullable}
    assert gaps == {*list(NAMES.values())[2:6], "Geschlecht?"}
    assert dataset.inputs[NUMBERS].shape == (344, 4)
    assert dataset.inputs[CATEGORIES].shape == (344, 2)
    assert dataset.task.labels == ("Adelie", "Chinstrap", "Gentoo")


def test_the_content_and_the_split_are_hashed_and_repeat(birds: Path):
    one, other = collected(birds).dataset, collected(birds).dataset

    assert one.sha256 == other.sha256
    parts, again = split_dataset(one, RunConfig()), split_dataset(other, RunConfig())
    assert parts.sha256 == again.sha256
    assert parts.sha256 != split_dataset(one, RunConfig(seed=1)).sha256


def many_words(path: Path) -> Path:
    """A table whose vocabularies are not the same in all parts."""
    random = np.random.default_rng(0)
    lines = ["place,size,Art"]
    for row in range(600):
        place = f"place {int(random.exponential(12))}"
        size = "" if row % 7 == 0 else f"{random.normal():.3f}"
        lines.append(f"{place},{size},{'ab'[row % 2]}")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_nothing_is_fitted_on_validation_or_test_rows(tmp_path: Path):
    dataset = collected(many_words(tmp_path / "t.csv")).dataset
    config = RunConfig()
    split = split_dataset(dataset, config)
    before = fit_own_table(split.train.inputs)

    # The same targets, and so the same parts, but other values wherever nothing may be fitted.
    train, *held = random_indices(600, dataset.targets, 0.2, 0.2, seed=0)
    changed = {name: array.copy() for name, array in dataset.inputs.items()}
    assert np.array_equal(changed[CATEGORIES][train], split.train.inputs[CATEGORIES])
    changed[NUMBERS][np.concatenate(held)] = 1e6
    changed[CATEGORIES][np.concatenate(held)] = "nowhere else"
    other = split_dataset(dataclasses.replace(dataset, inputs=changed), config)
    after = fit_own_table(other.train.inputs)

    kept = before.state_dict()
    assert {"median", "mean", "deviation"} <= set(kept)
    assert all((kept[name] == value).all() for name, value in after.state_dict().items())
    assert before.lookup == after.lookup
    assert split.train.fields == other.train.fields
    field = next(one for one in split.train.fields if isinstance(one, CategoryField))
    assert field.vocabulary == before.lookup.vocabularies[0]
    assert "nowhere else" not in field.vocabulary


def test_rare_words_are_unknown_to_model_and_signature(tmp_path: Path):
    dataset = collected(many_words(tmp_path / "t.csv")).dataset
    split = split_dataset(dataset, RunConfig())

    (field,) = (one for one in split.train.fields if isinstance(one, CategoryField))

    words, counts = np.unique(split.train.inputs[CATEGORIES].astype(str), return_counts=True)
    assert field.vocabulary == tuple(words[counts >= 5].tolist())
    assert 3 < len(field.vocabulary) < len(words)
    assert field.accept_unknown


@pytest.mark.parametrize("kept", ["numbers", "categories"])
def test_numbers_or_categories_alone_make_a_model(tmp_path: Path, kept: str):
    drop = {"numbers": {"place": "drop"}, "categories": {"size": "drop"}}[kept]
    dataset = collected(many_words(tmp_path / "t.csv"), **drop).dataset
    preprocess = fit_own_table(dataset.inputs)

    rows = preprocess(*preprocess.features(dataset.inputs))

    assert list(dataset.inputs) == [kept]
    assert tuple(rows.shape) == (600, *preprocess.shape)
    assert rows.isfinite().all()


def test_dates_are_left_out_unless_they_are_asked_for(tmp_path: Path):
    lines = [f"1970-01-{row % 28 + 1:02},{row % 5}.5,{'ab'[row % 2]}" for row in range(100)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["day,size,Art", *lines]), encoding="utf-8")

    assert [field.name for field in collected(path).dataset.fields] == ["size"]
    day = collected(path, day="date").dataset.fields[0]
    assert isinstance(day, NumberField)
    assert (day.name, day.unit, day.example) == ("day", "days since 1970-01-01", 0)


def test_a_column_that_gives_the_answer_away_is_named(tmp_path: Path):
    random = np.random.default_rng(0)
    lines = ["code,size,Art"]
    for row in range(300):
        code = row % 3 * 10 + random.uniform()
        lines.append(f"{code:.2f},{random.normal():.2f},{'abc'[row % 3]}")
    path = tmp_path / "t.csv"
    path.write_text("\n".join([*lines, lines[5]]), encoding="utf-8")

    notes = "\n".join(collected(path).notes)

    assert "warning: 'code' alone tells the target (100.0% of it" in notes
    assert "'size' alone" not in notes
    assert "warning: 1 rows are exact copies of earlier ones (line 302)" in notes


def test_rare_classes_are_noticed(tmp_path: Path):
    lines = [f"{row * 7 % 13}.5,{'b' if row % 40 == 0 else 'a'}" for row in range(400)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["size,Art", *lines]), encoding="utf-8")

    assert any("'b' has 10 rows, 'a' 390" in note for note in collected(path).notes)


def test_a_category_of_which_hardly_a_value_is_known_is_noticed(tmp_path: Path):
    lines = [f"v{row},{row * 7 % 13}.5,{'ab'[row % 2]}" for row in range(400)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["code,size,Art", *lines]), encoding="utf-8")

    notes = collected(path, code="category").notes

    assert any("the frequent values of 'code', in 5 rows or more, make up 0.2%" in n for n in notes)
    assert not any("frequent values" in note for note in collected(many_words(path)).notes)


@pytest.mark.parametrize(
    ("name", "wanted"), [("my birds.csv", "my-birds"), ("Käfer 2024!.tsv", "K-fer-2024")]
)
def test_a_model_is_named_like_its_file(name: str, wanted: str):
    assert model_name(TableSource(Path(name), ("x",)), None) == wanted


def test_a_name_that_no_model_can_have_is_refused():
    with pytest.raises(UsageError, match="no model can be named 'a b'"):
        model_name(TableSource(Path("t.csv"), ("x",)), "a b")


def test_groups_and_times_divide_rows_and_are_no_fields(tmp_path: Path):
    path = tmp_path / "t.csv"
    lines = [
        f"nest {row % 30},2024-{row % 12 + 1:02}-01,{row * 7 % 13}.5,{'ab'[row % 2]}"
        for row in range(300)
    ]
    path.write_text("\n".join(["nest,day,size,Art", *lines]), encoding="utf-8")

    by_nest, by_day = collected(path, "group:nest").dataset, collected(path, "time:day").dataset

    assert [field.name for field in by_nest.fields] == ["size"]
    assert [field.name for field in by_day.fields] == ["nest", "size"]
    groups = by_nest.keys["nest"]
    parts = group_indices(groups, 0.2, 0.2, seed=0)
    assert not set(groups[parts[0]].tolist()) & set(groups[parts[2]].tolist())
    split = split_dataset(by_nest, RunConfig(split="group:nest"))
    assert np.array_equal(split.test.targets, by_nest.targets[parts[2]])
    latest = split_dataset(by_day, RunConfig(split="time:day")).test
    assert len(latest) == int((by_day.keys["day"] >= 19997).sum()) == 75
