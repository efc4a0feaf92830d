"""What `make serve` and `make train` train, and when; training and serving are played by a stub."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILT_IN = ["digits", "penguins"]
COPIED = ("Makefile", "deploy", "pyproject.toml", "constraints.txt", "training/data-packages.txt")
#: Stands for the interpreter: notes what it is told, publishes what it is to train, and fails
#: where a file `fail-NAME` says so.
STUB = """\
#!/bin/sh
echo "$* default=${MODELPORT_DEFAULT_MODEL:-}" >>"$LOG"
if [ "$3" = run ]; then
    [ ! -e "fail-$4" ] || exit 1
    [ -e "$MODELPORT_MODELS/.training" ] || exit 9
    mkdir -p "$MODELPORT_MODELS/$4/1"
    : >"$MODELPORT_MODELS/$4/1/manifest.json"
fi
"""


def published(models: Path, *places: str) -> Path:
    for place in places:
        file = models / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    return models


class Project:
    """A copy of what make needs, with the stub where the environment's interpreter would be."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models = root / "models"
        self.log = root / "log"
        for name in COPIED:
            source, target = ROOT / name, root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        python = root / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(STUB)
        python.chmod(0o755)
        for stamp in (".serve", ".train"):
            (root / ".venv" / stamp).touch()

    def call(self, *command: str, **environment: str) -> tuple[int, list[str]]:
        """The exit status of a command, and the runs that were started by it."""
        self.log.write_text("")
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MODELPORT_", "MAKE", "MFLAGS"))
        }
        done = subprocess.run(
            command,
            cwd=self.root,
            env={**kept, "LOG": str(self.log), **environment},
            capture_output=True,
            timeout=60,
        )
        lines = self.log.read_text().splitlines()
        prefix = "-m training run "
        return done.returncode, [
            line.removeprefix(prefix).split()[0] for line in lines if line.startswith(prefix)
        ]

    @property
    def last(self) -> str:
        return self.log.read_text().splitlines()[-1]

    @property
    def is_marked(self) -> bool:
        return (self.models / ".training").exists()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


class TestServe:
    def test_the_first_time_trains_and_serves(self, project: Project) -> None:
        assert project.call("make", "serve") == (0, BUILT_IN)
        assert project.last == "-m app serve default=digits"
        assert not project.is_marked

    def test_the_second_time_trains_nothing(self, project: Project) -> None:
        project.call("make", "serve")

        assert project.call("make", "serve") == (0, [])
        assert project.last == "-m app serve default=digits"

    def test_an_interrupted_first_training_is_finished(self, project: Project) -> None:
        fault = project.root / "fail-penguins"
        fault.touch()
        status, trained = project.call("make", "serve")
        assert (status != 0, trained, project.is_marked) == (True, BUILT_IN, True)
        assert "app serve" not in project.last
        fault.unlink()

        assert project.call("make", "serve") == (0, ["penguins"])
        assert project.last == "-m app serve default=digits"
        assert not project.is_marked

    def test_models_of_the_user_are_left_alone(self, project: Project) -> None:
        published(project.models, "mine/3/manifest.json")

        assert project.call("make", "serve") == (0, [])
        assert project.last == "-m app serve default="

    @pytest.mark.parametrize("how", ["environment", "argument"])
    def test_another_repository_is_served_as_it_is(self, project: Project, how: str) -> None:
        if how == "environment":
            called = project.call("make", "serve", MODELPORT_MODELS="elsewhere")
        else:
            called = project.call("make", "serve", "MODELPORT_MODELS=elsewhere")

        assert called == (0, [])
        assert project.last == "-m app serve default="


class TestTrain:
    def test_it_always_trains_both(self, project: Project) -> None:
        published(project.models, "digits/1/manifest.json", "penguins/1/manifest.json")

        assert project.call("make", "train") == (0, BUILT_IN)
        assert not project.is_marked

    def test_it_follows_the_repository_of_the_environment(self, project: Project) -> None:
        project.call("make", "train", MODELPORT_MODELS="else where")

        assert (project.root / "else where" / "digits" / "1" / "manifest.json").is_file()
        assert not project.models.exists()


class TestTrainOnce:
    """As the training image calls it."""

    def call(self, project: Project, models: Path) -> tuple[int, list[str]]:
        stub = project.root / ".venv" / "bin"
        path = f"{stub}:{os.environ['PATH']}"
        script = "deploy/train-once.sh"
        return project.call(script, *BUILT_IN, PATH=path, MODELPORT_MODELS=str(models))

    @pytest.mark.parametrize("place", ["models", ".x/models", "[a] b"])
    def test_only_what_is_missing(self, project: Project, place: str) -> None:
        models = published(project.root / place, "digits/2/manifest.json")

        assert self.call(project, models) == (0, ["penguins"])
        assert self.call(project, models) == (0, [])

    def test_leftovers_are_no_versions(self, project: Project) -> None:
        models = published(
            project.models, "digits/.tmp-1/manifest.json", "penguins/1.old/manifest.json"
        )

        assert self.call(project, models) == (0, BUILT_IN)


class TestHasModels:
    def has_models(self, models: Path | str) -> bool:
        return (
            subprocess.run(["deploy/has-models.sh", models], cwd=ROOT, timeout=60).returncode == 0
        )

    @pytest.mark.parametrize("place", ["models", ".x/models", "[a] b", "*"])
    def test_a_version(self, tmp_path: Path, place: str) -> None:
        models = published(tmp_path / place, "mine/12/manifest.json")

        assert self.has_models(models)
        assert self.has_models(f"{models}/")

    @pytest.mark.parametrize(
        "place",
        [
            "README",
            "mine/1/model.onnx",
            "mine/.tmp-1f/manifest.json",
            "mine/0/manifest.json",
            "mine/1.old/manifest.json",
            "mine/1/1/manifest.json",
            ".mine/1/manifest.json",
            "mine/manifest.json",
        ],
    )
    def test_nothing_to_serve(self, tmp_path: Path, place: str) -> None:
        assert not self.has_models(published(tmp_path, place))

    def test_no_folder(self, tmp_path: Path) -> None:
        assert not self.has_models(tmp_path / "absent")
