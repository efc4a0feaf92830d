import tomllib
from pathlib import Path

import pytest

from training.__main__ import build_parser, main
from training.data.table import TableSource
from training.errors import UsageError
from training.order import order_of
from training.runfile import RunFile, read_runfile

pytestmark = pytest.mark.training

FILE = """
data = "birds.csv"
target = "Art"
kind = "classification"
name = "birds"

[fields]
"Länge (cm)" = "number"
year = "drop"

[settings]
epochs = 7
split = "group:nest"
gates = ["accuracy>=0.9"]
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    (tmp_path / "birds.csv").write_text("Länge (cm),year,nest,Art,Ort\n", encoding="utf-8")
    return path


def ordered(*arguments: str):
    return order_of(build_parser().parse_args(["run", *arguments]))


def test_a_file_says_what_the_options_say(tmp_path: Path):
    path = written(tmp_path, FILE)

    by_file = ordered("--config", str(path))

    data = str(tmp_path / "birds.csv")
    options = ["--data", data, "--target", "Art", "--kind", "classification", "--name", "birds"]
    fields = ["--field", "Länge (cm)=number", "--field", "year=drop"]
    by_options = ordered(*options, *fields, "--split", "group:nest", "--set", "epochs=7")
    assert by_file.source == by_options.source
    assert by_file.source == TableSource(
        tmp_path / "birds.csv", ("Art",), "classification",
        {"Länge (cm)": "number", "year": "drop"},
    )  # fmt: skip
    assert by_file.name == by_options.name == "birds"
    assert by_file.settings["split"] == by_options.settings["split"]


def test_options_win_over_the_file(tmp_path: Path):
    path = written(tmp_path, FILE)

    found = ordered(
        "--config", str(path), "--target", "Ort", "--name", "other", "--field", "year=number",
        "--set", "epochs=9", "--split", "random",
    )  # fmt: skip

    assert found.source is not None
    assert (found.source.target, found.name) == (("Ort",), "other")
    assert found.source.fields == {"Länge (cm)": "number", "year": "number"}
    assert found.settings == {"epochs": "9", "split": "random", "gates": ["accuracy>=0.9"]}


def test_settings_of_a_file_apply_to_built_in_runs(tmp_path: Path):
    path = written(tmp_path, "[settings]\nepochs = 3\n")

    found = ordered("penguins", "--config", str(path))

    assert (found.built_in, found.source, found.settings) == ("penguins", None, {"epochs": 3})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("traget = 'a'", r"unknown key 'traget' \(did you mean target\?\); known are run, data"),
        ("epochs = 3", r"unknown key 'epochs' \(did you mean settings.epochs\?\)"),
        ("[settings]\nepoch = 3", r"unknown key 'settings.epoch' \(did you mean settings.epochs\?"),
        ("[fields]\nage = 'int'", "fields.age is one of number, category"),
        ("[fields]\nage = 'numbr'", r"drop \(did you mean number\?\)"),
        ("kind = 'guess'", "kind is one of auto, classification"),
        ("data = 3", "data is text in quotes"),
        ("target = [1]", "target is the name of a column, or a list"),
        ("settings = 3", r"settings is a table, \[settings\]"),
        ("data = ", "is not TOML"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path: Path, text: str, message: str):
    with pytest.raises(UsageError, match=message) as caught:
        read_runfile(written(tmp_path, text))

    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(UsageError, match=r"run.tml does not exist \(did you mean run.toml\?\)"):
        read_runfile(written(tmp_path, FILE).with_suffix(".tml"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to train"),
        (["--data", "t.csv"], "needs --target"),
        (["--data", "t.cvs", "--target", "y"], r"does not exist \(did you mean t.csv\?\)"),
        (["--data", "t.csv", "--target", "z"], "t.csv has no column 'z'; there are: x, y"),
        (["--data", "t.csv", "--target", "y", "--field", "X=drop"], "no column 'X'"),
        (["--data", "t.csv", "--target", "y", "--field", "x=numbr"], r"did you mean number\?"),
        (["--data", "t.csv", "--target", "y", "--split", "time:day"], "no column 'day'"),
        (["--data", "t.csv", "--target", "y", "--name", "a/b"], "no model can be named 'a/b'"),
        (["digits", "--data", "t.csv"], "has data of its own"),
        (["digits", "--target", "x"], "are for --data"),
        (["--data", "t.csv", "--target", "y", "--field", "x"], "--field takes column=kind"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("x,y\n1,2\n")

    with pytest.raises(UsageError, match=message):
        ordered(*arguments)


def test_a_column_may_have_a_comma_in_its_name(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_text('x,"a, b",c\n1,2,3\n')

    one, several = (ordered("--data", str(path), "--target", text) for text in ("a, b", "x,c"))

    assert one.source is not None
    assert several.source is not None
    assert (one.source.target, several.source.target) == (("a, b",), ("x", "c"))


def test_init_writes_a_file_that_can_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data, output = tmp_path / "my birds.csv", tmp_path / "conf" / "run.toml"
    data.write_text("Länge,Art\n" + "\n".join(f"{i * 3 % 7},{'ab'[i % 2]}" for i in range(30)))
    output.parent.mkdir()
    options = ["--data", str(data), "--target", "Art", "--output", str(output)]

    assert main(["init", *options, "--target", "Ort"]) == 2
    assert "my birds.csv has no column 'Ort' (did you mean 'Art'?)" in capsys.readouterr().err
    assert main(["init", *options]) == 0
    assert main(["init", *options]) == 2

    assert "run.toml is there already" in capsys.readouterr().err
    text = output.read_text(encoding="utf-8")
    found = read_runfile(output)
    assert found.data is not None
    assert found.data.resolve() == data
    assert found == RunFile(data=found.data, target=("Art",))
    uncommented = text.replace('# "Länge"', '"Länge"')
    assert tomllib.loads(uncommented)["fields"] == {"Länge": "number"}


def test_a_folder_has_its_classes_in_sub_folders(tmp_path: Path):
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    with pytest.raises(UsageError, match="has no sub-folder with pictures"):
        ordered("--data", str(tmp_path / "pets"))
    (tmp_path / "pets" / "cat" / "1.jpg").touch()

    found = ordered("--data", str(tmp_path / "pets"), "--name", "pets")

    assert (found.pictures, found.source, found.name) == (tmp_path / "pets", None, "pets")
    with pytest.raises(UsageError, match="sub-folders are the classes, without --target"):
        ordered("--data", str(tmp_path / "pets"), "--target", "x")
