"""Pictures named in a table: read with their lines, trained on by one command, and served."""

import base64
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest
from PIL import Image

from app.bundle.features import image_from_bytes
from app.bundle.signature import ImageField
from tests.api.live import LiveServer
from training.__main__ import main
from training.config import RunConfig
from training.data.files import read_table
from training.data.image_column import collect_image_column
from training.data.infer import infer
from training.data.split import split_dataset
from training.data.table import Collected, TableSource
from training.errors import UsageError
from training.own.choice import any_own_run
from training.tasks import Classification, Regression

pytestmark = pytest.mark.training

HEADER = "who,photo,size,breed\n"
PETS = 24
#: So many broken ones are let pass.
LENIENT = RunConfig(broken_share=0.2)


def encoded(picture: Image.Image, form: str = "PNG") -> bytes:
    file = BytesIO()
    picture.save(file, form)
    return file.getvalue()


def grey(value: int) -> bytes:
    return encoded(Image.new("RGB", (20, 10), (value, value, 0)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures, the even ones of cats, and the table that names them; one is far away."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "elsewhere").mkdir()
    lines = []
    for number in range(PETS):
        place = tmp_path / ("elsewhere" if number == 5 else "photos") / f"{number}.png"
        place.write_bytes(grey(number * 10))
        name = place if number == 5 else place.relative_to(tmp_path)
        lines.append(f"p{number // 4},{name},{number}.5,{'cat' if number % 2 else 'dog'}")
    (tmp_path / "labels.csv").write_text(HEADER + "\n".join(lines), encoding="utf-8")
    return tmp_path


def spoilt(folder: Path, *lines: str) -> TableSource:
    """The table with more lines, the first of which is line 26."""
    with (folder / "labels.csv").open("a", encoding="utf-8") as file:
        file.write("".join(f"\n{line}" for line in lines))
    return source_in(folder)


def source_in(folder: Path, target: str = "breed", **fields: str) -> TableSource:
    return TableSource(folder / "labels.csv", (target,), fields=fields)


def collected(source: TableSource, config: RunConfig = LENIENT) -> Collected:
    return collect_image_column(source, "photo", config)


def test_rows_are_what_serving_would_make_of_the_files(folder: Path):
    found = collected(source_in(folder))

    (field,) = found.dataset.fields
    assert isinstance(field, ImageField)
    assert (field.name, field.tensor, field.shape) == ("photo", "image", (10, 20, 3))
    assert found.dataset.task == Classification(("cat", "dog"))
    assert found.dataset.targets.tolist() == [1, 0] * (PETS // 2)
    for number, image in enumerate(found.dataset.inputs["image"]):
        assert np.array_equal(image, image_from_bytes(grey(number * 10), field))
    assert found.notes[1:] == (
        "brought to 10 × 20 pixels in colour",
        (
            "left out, as pictures are learnt from alone: who, size; photo=drop learns from these "
            "instead"
        ),
    )
    assert [(one.name, one.kind) for one in found.columns] == [
        ("who", "drop"), ("photo", "image"), ("size", "drop"),
    ]  # fmt: skip


def test_numbers_are_learnt_from_pictures_too(folder: Path):
    found = collected(source_in(folder, "size"))

    assert found.dataset.task == Regression(description="size")
    assert found.dataset.targets.tolist() == [number + 0.5 for number in range(PETS)]


def test_pictures_that_cannot_be_read_are_told_with_their_lines(folder: Path):
    (folder / "bad.png").write_bytes(grey(0)[:45])
    (folder / "dir.png").mkdir()
    rows = ["x,gone.png,1,cat", "x,bad.png,1,cat", "x,dir.png,1,dog", "x,,1,dog"]
    source = spoilt(folder, *rows)

    found = collected(source)

    assert len(found.dataset.targets) == PETS == len(found.dataset.inputs["image"])
    assert "1 row is left out: no picture in 'photo' (line 29)" in found.notes
    assert (
        "3 rows are left out: unreadable pictures, line 26: gone.png cannot be read: No such file "
        "or directory; line 27: bad.png is not a readable PNG, JPEG or WebP picture; line 28: "
        "dir.png cannot be read: it is not a file (lines 26, 27, 28)"
    ) in found.notes
    with pytest.raises(UsageError, match=r"3 of 27 pictures are unreadable, .*line 26: gone\.png"):
        collected(source, RunConfig())


def test_a_class_whose_pictures_are_all_broken_is_an_error(folder: Path):
    source = spoilt(folder, *[f"x,{n}.png,1,bird" for n in range(3)], "x,photos/1.png,1,bird")

    with pytest.raises(UsageError, match=r"class 'bird' of 'breed' has 1 row \(line 29\)"):
        collected(source)


def test_a_column_of_other_things_is_an_error(folder: Path):
    with pytest.raises(UsageError, match=r"none .* can be read: line 2: p0 cannot be read: No su"):
        collect_image_column(source_in(folder), "who", RunConfig())


@pytest.mark.parametrize("form", ["raw", "hub", "path"])
def test_parquet_holds_bytes_or_paths(folder: Path, form: str):
    table = read_table(folder / "labels.csv").frame
    paths = table["photo"].to_list()
    contents = [(folder / path).read_bytes() for path in paths]
    cells = {
        "raw": contents,
        "hub": [{"bytes": content, "path": "x.png"} for content in contents],
        "path": [{"bytes": None, "path": path} for path in paths],
    }[form]
    pl.DataFrame({"breed": table["breed"], "photo": cells}).write_parquet(folder / "t.parquet")
    source = TableSource(folder / "t.parquet", ("breed",))

    run = any_own_run(source, None, {}).run

    usual = collected(source_in(folder)).dataset
    assert np.array_equal(run.collect().inputs["image"], usual.inputs["image"])
    assert run.collect().targets.tolist() == usual.targets.tolist()
    broken = [None, b"no picture", *contents[2:]]
    table = pl.DataFrame({"breed": table["breed"], "photo": broken})
    table.write_parquet(folder / "t.parquet")
    notes = collect_image_column(source, "photo", LENIENT).notes
    assert "1 row is left out: no picture in 'photo' (line 1)" in notes
    assert any("line 2: the picture is not a readable PNG" in note for note in notes)


def test_picture_files_are_guessed_and_drop_takes_the_others(folder: Path):
    guessed = any_own_run(source_in(folder), None, {})
    others = any_own_run(source_in(folder, photo="drop"), None, {})

    assert [field.name for field in guessed.run.collect().fields] == ["photo"]
    assert guessed.collected.columns[1].why == "pictures, by their names or first bytes"
    assert [field.name for field in others.run.collect().fields] == ["size"]
    table = read_table(folder / "labels.csv")
    assert infer(table, ["photo"], {})[0].kind == "image"
    for file in folder.rglob("*.png"):
        file.unlink()
    assert infer(table, ["photo"], {})[0].kind == "drop"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"size": "number"},
            "field size=number: pictures are learnt from alone; say size=drop",
        ),
        ({"breed": "image"}, "'breed' is the target, and cannot be a field as well"),
        ({"foto": "image"}, r"no column 'foto' \(did you mean 'photo'\?\)"),
        ({"photo": "image", "who": "text"}, "who is text and photo holds pictures; a run is of"),
        ({"photo": "image", "who": "image"}, "one column at most is of kind image"),
    ],
)
def test_kinds_that_make_no_sense(folder: Path, fields: dict[str, str], said: str):
    with pytest.raises(UsageError, match=said):
        any_own_run(source_in(folder, **fields), None, {})


def test_two_columns_of_pictures_must_be_told_apart(folder: Path):
    table = (folder / "labels.csv").read_text().splitlines()
    (folder / "labels.csv").write_text(
        "\n".join(f"{line},{'thumb' if n == 0 else 'photos/0.png'}" for n, line in enumerate(table))
    )

    with pytest.raises(UsageError, match="columns photo, thumb hold pictures; a run learns from"):
        any_own_run(source_in(folder), None, {})


def test_groups_and_times_divide_pictures(folder: Path):
    by_who = RunConfig(split="group:who")

    found = collected(source_in(folder), by_who)

    assert split_dataset(found.dataset, by_who).test.targets.tolist() in ([1, 0] * 2, [1, 0] * 4)
    assert found.columns[0].why == "it divides the rows"
    by_size = RunConfig(split="time:size")
    latest = split_dataset(collected(source_in(folder), by_size).dataset, by_size).test
    assert latest.inputs["image"][:, 0, 0, 0].tolist() == [190, 200, 210, 220, 230]


def stripes(seed: int, *, upright: bool) -> Image.Image:
    """Grey stripes 3 to 6 pixels wide."""
    random = np.random.default_rng(seed)
    line = 120 + 90 * np.sin(np.arange(24) / random.uniform(0.8, 1.6) + random.uniform(0, 6))
    grid = np.tile(line, (24, 1)) if upright else np.tile(line[:, None], (1, 24))
    return Image.fromarray((grid + random.normal(0, 10, grid.shape)).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """What one command published of classes, and another of numbers; served."""
    root = tmp_path_factory.mktemp("own")
    (root / "photos").mkdir()
    lines = ["nr,the photo,breed,angle"]
    for number in range(160):
        upright = number % 2 == 0
        (root / f"photos/{number}.jpg").write_bytes(
            encoded(stripes(number, upright=upright), "JPEG")
        )
        breed, angle = ("standing", 90.5) if upright else ("lying", 0.5)
        lines.append(f"{number},photos/{number}.jpg,{breed},{angle}")
    lines.append("160,photos/none.jpg,lying,0.5")
    (root / "labels.csv").write_text("\n".join(lines))
    data = ["run", "--data", str(root / "labels.csv"), "--field", "the photo=image"]
    settings = ["--models", str(root / "models"), "--set", "epochs=12", "--set", "variants=none"]
    gates = ["--set", "gates=accuracy>=0.9"]
    assert main([*data, "--target", "breed", *settings, *gates]) == 0
    numbers = ["--target", "angle", "--kind", "regression", "--name", "angles"]
    assert main([*data, *numbers, *settings, "--set", "gates=rmse<=20"]) == 0
    with LiveServer(root / "models", root / "log") as running:
        yield running


@pytest.mark.slow
def test_a_new_picture_is_told_in_the_field_named_as_the_column(server: LiveServer):
    for seed in range(500, 505):
        for label, upright in (("standing", True), ("lying", False)):
            picture = encoded(stripes(seed, upright=upright), "JPEG")
            instance = {"the photo": base64.b64encode(picture).decode()}
            answers = [
                httpx.post(
                    f"{server.url}/models/{model}/predict",
                    json={"instances": [instance]},
                    trust_env=False,
                )
                for model in ("labels", "angles")
            ]

            breed, angle = (answer.json()["predictions"][0] for answer in answers)
            assert breed["label"] == label
            assert abs(angle["value"] - (90.5 if upright else 0.5)) < 45


@pytest.mark.slow
def test_the_file_itself_is_a_request(server: LiveServer):
    answer = httpx.post(
        f"{server.url}/models/labels/predict",
        content=encoded(stripes(700, upright=True), "JPEG"),
        headers={"Content-Type": "image/jpeg"},
        trust_env=False,
    )

    assert answer.json()["predictions"][0]["label"] == "standing"
