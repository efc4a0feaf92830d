import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from training.__main__ import COMPUTED, WIDTH, main
from training.config import RunConfig
from training.order import BUILT_IN
from training.own import images, sequences, tables
from training.runs import RUNS

pytestmark = pytest.mark.training


@pytest.fixture
def models_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the environment names as the model repository."""
    monkeypatch.setenv("MODELPORT_MODELS", str(tmp_path))
    return tmp_path


def test_list_names_every_run(capsys: pytest.CaptureFixture[str]):
    assert main(["list"]) == 0

    said = capsys.readouterr().out
    for run in RUNS:
        assert run.name in said
        assert all(f"gates={bar}" in said for bar in run.config.gates[:1])


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["run", "numbers"], 2, "known are digits, fashion"),
        (["run", "penguin"], 2, "unknown run 'penguin' (did you mean penguins?)"),
        (["run", "penguins", "--set", "speed=9"], 2, "known are seed, threads"),
        (["run", "penguins", "--set", "epoch=3"], 2, "'epoch' (did you mean epochs?)"),
        (["run", "penguins", "--set", "epochs=many"], 2, "epochs=many: input should be a valid"),
        (["run", "penguins", "--set", "epochs"], 2, "key=value"),
        (["run", "penguins", "--models", "/dev/null/models"], 3, "cannot be written"),
        (["run", "penguins", "--set", "gates=acuracy>=0.9"], 2, "(did you mean accuracy?)"),
        (["run", "penguins", "--set", "gates=rmse<=3"], 2, "no metric 'rmse' in a multiclass"),
        (["run", "penguins", "--set", "gates=roc_auc>=0.9"], 2, "there are accuracy, macro_f1, l"),
        (["run", "diamonds", "--set", "gates=r2>=0.5,mape<=3"], 2, "'mape' (did you mean mae?)"),
        (["run", "penguins", "--set", "threshold=f1"], 2, "threshold=f1 is for two classes"),
        (["run", "penguins", "--budget", "0s"], 2, "a time above 0, such as 30s, 10m or 2h"),
    ],
)
def test_trouble_is_one_line_and_a_status(
    arguments: list[str],
    status: int,
    message: str,
    models_variable: Path,
    capsys: pytest.CaptureFixture[str],
):
    assert main(arguments) == status

    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert list(models_variable.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["walk"], ["run", "digits", "--fast"]])
def test_bad_command_line_is_one_line_and_status_two(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def helped(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["run", "--help"])

    assert caught.value.code == 0
    return capsys.readouterr().out


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]):
    said = helped(capsys)

    for word in (*RunConfig.model_fields, "most epochs per candidate (100)", "MODELPORT_MODELS"):
        assert word in said
    for status in ("0    published", "1    rejected", "2    usage", "3    env", "130  interrupted"):
        assert f"\n  {status}" in said


def test_help_fits_a_terminal_of_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "80")

    assert max(map(len, helped(capsys).splitlines())) <= WIDTH


def test_help_says_what_own_data_change(capsys: pytest.CaptureFixture[str]):
    few, many = 20, 10**7
    changed = {*tables.usual_config(few).own(), *images.usual_config(few, 32, 32).own()}
    most, least = (tables.usual_config(rows).epochs for rows in (few, many))
    seen, seldom = (images.usual_config(rows, 32, 32).epochs for rows in (few, many))

    said = " ".join(helped(capsys).split())

    assert changed == set(COMPUTED)
    assert all(f"{name} * " in said for name in changed)
    assert f"epochs are {least} to {most} by the rows of a table" in said
    assert f"{sequences.EPOCHS} at most for texts and series, {seldom} to {seen} by the" in said


def test_built_in_names_are_those_of_the_runs():
    assert tuple(run.name for run in RUNS) == BUILT_IN


@pytest.mark.slow
def test_failed_gate_exits_with_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    settings = ["--set", "gates=accuracy>=1", "--set", "epochs=1", "--set", "threads=1"]

    assert main(["run", "penguins", "--models", str(tmp_path), *settings]) == 1

    assert "gate failed: test accuracy is" in capsys.readouterr().err
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.slow
def test_run_shows_candidates_gates_and_where_the_bundle_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    settings = ["--set", "gates=accuracy>=0.1", "--set", "epochs=2", "--set", "threads=1"]

    assert main(["run", "penguins", "--models", str(tmp_path), *settings]) == 0

    said = capsys.readouterr().out
    for words in ("linear", "mlp", "passed: at least 0.1000", "version 1", "takes over"):
        assert words in said
    assert f"  serve it:  MODELPORT_MODELS={tmp_path} make serve\n" in said
    assert "\x1b" not in said
    assert (tmp_path / "penguins" / "1" / "manifest.json").is_file()


@pytest.mark.slow
def test_interruption_is_one_line_and_status_130(tmp_path: Path):
    child = subprocess.Popen(
        [sys.executable, "-m", "training", "run", "digits", "--models", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert child.stdout is not None
    assert child.stdout.readline().startswith("1. Collect")

    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)

    assert child.returncode == 130
    assert said == "interrupted; nothing was published\n"
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.slow
def test_an_interruption_says_how_to_go_on_where_something_is_kept(tmp_path: Path):
    command = [sys.executable, "-m", "training", "run", "digits", "--models", str(tmp_path)]
    kept = tmp_path / ".checkpoints" / "digits"
    for more, how in (([], "the same command with --resume"), (["--resume"], "the same command")):
        child = subprocess.Popen(
            [*command, *more, "--set", "epochs=1000", "--set", "patience=1000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert child.stdout is not None
        begun = ("   linear: epoch 1,", "   going on in epoch")
        next(line for line in child.stdout if line.startswith(begun))

        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)

        assert child.returncode == 130
        assert said == f"interrupted; nothing was published; {how} goes on from {kept}\n"
        assert [path.name for path in kept.iterdir()] == ["linear.pt"]


def test_nothing_slow_is_imported_before_an_interruption_is_answered():
    program = "import sys, training.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert not {"rich", "pydantic", "numpy", "torch", "app"} & set(done.stdout.split())


HEAVY = {"torch", "polars", "sklearn", "scipy", "onnxruntime", "rich", "PIL"}


BAD_ORDERS = (
    "run --data t.csv --targt y",
    "run penguin",
    "run penguins --set gates=acuracy>=0.9",
    "run penguins --budget 0s",
    "run --data u.csv --target y",
    "run --data t.csv",
    "run --data t.csv --target z",
    "run --data t.csv --target y,z",
    "run --data t.csv --target y --field z=drop",
    "run --data t.csv --target y --field x=int",
    "run --data t.csv --target y --split time:z",
    "run --data t.csv --target y --name a/b",
    "run --config none.toml",
)


def test_a_bad_order_is_answered_before_anything_slow_is_imported(tmp_path: Path):
    (tmp_path / "t.csv").write_text("x,y\n1,2\n")
    program = f"""
import contextlib, io, sys
from training.__main__ import main
for order in ("--help", "run --help", *{BAD_ORDERS!r}):
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(order.split())
        except SystemExit as end:
            status = end.code
    print(order, status, *({HEAVY!r} & set(sys.modules)))
"""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
    )

    expected = ["--help 0", "run --help 0", *(f"{order} 2" for order in BAD_ORDERS)]
    assert done.stdout.splitlines() == expected


GOOD_ROWS = "".join(f"{i * 7 % 11}.5,{'ab'[i % 2]}\n" for i in range(40))


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", [], "t.csv is empty"),
        ("x,y\n" + GOOD_ROWS, ["--target", "z"], "t.csv has no column 'z'; there are: x, y"),
        ("x,kind\n" + GOOD_ROWS, ["--target", "knid"], "'knid' (did you mean 'kind'?)"),
        ("x,y\n" + GOOD_ROWS, ["--field", "z=drop"], "t.csv has no column 'z'"),
        ("x,y\n" + GOOD_ROWS, ["--set", "gates=rmse<=1"], "no metric 'rmse' in a binary"),
        ("x,x\n" + GOOD_ROWS, [], "columns 1 and 2 are both named 'x'"),
        ("x,y\n" + GOOD_ROWS + "1,c\n", [], "class 'c' of 'y' has 1 row (line 42)"),
        ("x,y\n" + GOOD_ROWS.replace("b", "a"), [], "has one class only, 'a'"),
        ("x,y\n" + GOOD_ROWS.replace("b", ""), [], "has one class only, 'a'"),
        (
            "y,x\n" + GOOD_ROWS + "inf,a\n",
            ["--kind", "regression"],
            "are infinite, such as 'inf' (line 42)",
        ),
        ("x,y\n" + "2.5,a\n3,b\n" * 5, [], "rows with a target; 20 are the least"),
        ("x,y\n" + GOOD_ROWS, ["--field", "x=drop"], "no column is left to predict from (x: as"),
        ("x,y\n" + GOOD_ROWS, ["--split", "group:z"], "has no column 'z'"),
        ("x,y\n" + GOOD_ROWS, ["--split", "sometimes"], "split=sometimes"),
        ("x,y\n" + GOOD_ROWS, ["--name", "a/b"], "no model can be named 'a/b'"),
        ("x,y\n" + GOOD_ROWS, ["--set", "epoch=1"], "did you mean epochs?"),
    ],
)
def test_a_bad_table_is_one_line_status_two_and_nothing_published(
    content: str,
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    data, models = tmp_path / "t.csv", tmp_path / "models"
    data.write_text(content)
    given = ["--data", str(data), "--target", "y", "--models", str(models), *options]

    assert main(["run", *given]) == 2

    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert list(models.rglob("*")) == []


@pytest.mark.slow
def test_a_model_that_learns_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    random = np.random.default_rng(0)
    rows = [f"{random.normal():.3f},{random.normal():.3f}" for _ in range(200)]
    data, models = tmp_path / "t.csv", tmp_path / "models"
    data.write_text("\n".join(["x,y", *rows]))
    given = ["--data", str(data), "--target", "y", "--models", str(models)]

    assert main(["run", *given, "--set", "epochs=2"]) == 1

    said = capsys.readouterr()
    assert "no gates are set: the bars are what one answer to all rows reaches, rmse<=" in said.out
    assert "gate failed: test rmse is" in said.err
    assert list(models.rglob("*")) == []


@pytest.mark.parametrize("command", ["run", "init"])
def test_a_path_that_is_not_there_is_status_two(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "birds.csv").touch()

    assert main([command, "--data", str(tmp_path / "brids.csv"), "--target", "y"]) == 2
    assert "brids.csv does not exist (did you mean birds.csv?)" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_is_status_three(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "t.csv").symlink_to("/proc/self/mem")  # root reads whatever has bytes
    given = ["--data", str(tmp_path / "t.csv"), "--target", "y", "--models", str(tmp_path / "m")]

    assert main(["run", *given]) == 3
    assert "t.csv cannot be read: Input/output error" in capsys.readouterr().err


def test_a_wrong_column_is_found_in_the_first_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = tmp_path / "t.csv"
    data.write_bytes(b"x,y\n" + b"1,\xff\n" * 100)  # a row that is read would be refused

    assert main(["run", "--data", str(data), "--target", "z"]) == 2
    assert "t.csv has no column 'z'; there are: x, y" in capsys.readouterr().err
