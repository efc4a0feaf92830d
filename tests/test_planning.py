"""`python -m app plan`, by the lines that it prints and the file that it writes."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.bundle.pins import write_pin
from app.bundle.store import open_bundle
from app.engine.proof.plans import load_plans
from app.engine.providers.candidates import CPU_PROVIDER
from app.errors import NothingToServe, SettingsError
from app.planning import plan
from app.settings import Settings
from tests.api.live import run_app
from tests.support import models
from tests.support.bundles import make_bundle


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    make_bundle(root, "affine")
    make_bundle(root, "poison", "poison")
    return root


def settings(repository: Path, **changes: Any) -> Settings:
    quick = {"models": repository, "provider": ("cpu",), "threads": 1, "cache": "off"}
    return Settings(**(quick | {"calibration_budget_ms": 0} | changes))


def damage(repository: Path, name: str) -> None:
    """Publish a version whose graph is another model's."""
    make_bundle(repository, name, "affine", model_data=models.model_bytes("conv"))


def test_every_model_is_described(repository: Path) -> None:
    lines = list(plan(settings(repository)))

    assert [line for line in lines if not line.startswith("  ")] == [
        (
            f"{name} version 1: fp32 on {CPU_PROVIDER} (cpu), 1 at a time × 1 threads, "
            "batches up to 16 rows, on threads"
        )
        for name in ("affine", "poison")
    ]
    assert "  asked for as 'cpu'; golden outputs met (measured: " in lines[1]


def test_costs_are_shown_as_a_table(repository: Path) -> None:
    lines = list(plan(settings(repository, calibration_budget_ms=100), ["affine"]))

    start = lines.index("  threads × instances    rows     ms a run     rows/s")
    rows = [line.split() for line in lines[start + 1 : -1]]
    assert [row[:4] for row in rows] == [["1", "×", "1", str(n)] for n in (1, 2, 4, 8, 16)]
    assert sum("<- chosen" in line for line in lines) == 1
    assert lines[-1].startswith("  chosen: the smallest batch within 5 % of the most rows/s")


def test_the_file_has_a_plan_for_each_version(repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "plans.json"

    lines = list(plan(settings(repository), out=out))

    digests = [open_bundle(repository / name, 1).digest for name in ("affine", "poison")]
    assert sorted(load_plans(out)) == sorted(digests)
    assert lines[-1] == f"2 plans written to {out}; use it by MODELPORT_PLAN={out}"


def test_what_was_written_is_obeyed(repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "plans.json"
    list(plan(settings(repository, calibration_budget_ms=50), ["affine"], out))

    lines = list(plan(settings(repository, plan=out, calibration_budget_ms=50), ["affine"]))

    assert sum("(shipped: " in line for line in lines) == 1


def test_only_what_is_named_is_planned(repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "plans.json"

    list(plan(settings(repository), ["poison"], out))

    assert list(load_plans(out)) == [open_bundle(repository / "poison", 1).digest]


def test_one_plan_is_called_one(repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "plans.json"

    lines = list(plan(settings(repository), ["affine"], out))

    assert lines[-1] == f"1 plan written to {out}; use it by MODELPORT_PLAN={out}"


def test_a_broken_model_leaves_the_file_as_it_was(repository: Path, tmp_path: Path) -> None:
    """The others are shown, but a file that lacks a model would be taken for the whole."""
    damage(repository, "broken")
    out, lines = tmp_path / "plans.json", []
    out.write_text("of yesterday")

    with pytest.raises(NothingToServe) as failed:
        lines.extend(plan(settings(repository), out=out))

    assert out.read_text() == "of yesterday"
    assert sorted(tmp_path.iterdir()) == [repository, out]
    assert [line.split()[0] for line in lines if " version 1: " in line] == ["affine", "poison"]
    assert str(failed.value).endswith(f"; {out} is not written")
    assert [line for line in lines if line.startswith("broken: not proved: no execution provider")]
    assert str(failed.value).startswith("cannot plan broken: no execution provider gave the golden")


def test_a_model_that_is_not_there_is_refused_before_any_work(
    repository: Path, tmp_path: Path
) -> None:
    out = tmp_path / "plans.json"

    with pytest.raises(NothingToServe, match=r"no model 'nowhere' in .*; there: affine, poison"):
        list(plan(settings(repository), ["affine", "nowhere"], out))

    assert not out.exists()


def test_a_repository_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NothingToServe, match="the model repository does not exist"):
        list(plan(settings(tmp_path / "nowhere")))


def test_the_pinned_version_is_planned(repository: Path, tmp_path: Path) -> None:
    make_bundle(repository, "affine")
    write_pin(repository / "affine", 1)
    out = tmp_path / "plans.json"

    lines = list(plan(settings(repository), ["affine"], out))

    assert lines[0].startswith("affine version 1: ")
    assert list(load_plans(out)) == [open_bundle(repository / "affine", 1).digest]


@pytest.mark.parametrize("pin", ['{"version": 99}', "{"])
def test_a_pin_that_cannot_be_followed_is_a_failure(pin: str, repository: Path) -> None:
    (repository / "affine" / "serve.json").write_text(pin)

    with pytest.raises(NothingToServe, match="cannot plan affine: "):
        list(plan(settings(repository), ["affine"]))


def test_a_file_that_cannot_be_written_is_a_failure(repository: Path, tmp_path: Path) -> None:
    folder, inside = tmp_path / "folder", tmp_path / "nowhere" / "plans.json"
    folder.mkdir()
    name = tmp_path / ("n" * 255)  # too long with what is put before it

    for out, problem in (
        (folder, "it is a folder"),
        (Path(), "it is a folder"),
        (inside, f"the folder {inside.parent} does not exist"),
        (name, "the plans cannot be written: File name too long"),
    ):
        with pytest.raises(SettingsError) as failed:
            list(plan(settings(repository), ["affine"], out))
        assert str(failed.value) == f"--out {out}: {problem}"


def test_rejections_are_shown(repository: Path) -> None:
    lines = list(plan(settings(repository, provider=("cuda",)), ["affine"]))

    assert [line for line in lines if line.startswith("  not cuda: is not available here")]


@pytest.mark.slow
def test_the_command_line_says_the_same(repository: Path, tmp_path: Path) -> None:
    damage(repository, "broken")
    out = tmp_path / "plans.json"

    found = run_app("plan", "--out", str(out), models=repository, threads=1)

    assert found.returncode == NothingToServe.exit_status
    assert "affine version 1: fp32 on CPUExecutionProvider" in found.stdout
    line = json.loads(found.stderr)
    assert (line["level"], line["message"]) == ("error", "plan failed")
    assert line["error"].startswith("cannot plan broken: ")
    assert not out.exists()
