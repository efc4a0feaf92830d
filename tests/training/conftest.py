"""One quick run of each built-in, shared by all tests of this folder."""

from pathlib import Path

import pytest

from training import pipeline
from training.pipeline import Outcome

QUICK_DIGITS = {"epochs": 6, "gates": "accuracy>=0.9", "threads": 1}
QUICK_PENGUINS = {"epochs": 30, "gates": "accuracy>=0.8", "threads": 1}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def digits(models: Path) -> Outcome:
    return pipeline.run("digits", models, QUICK_DIGITS)


@pytest.fixture(scope="session")
def penguins(models: Path) -> Outcome:
    return pipeline.run("penguins", models, QUICK_PENGUINS)


@pytest.fixture(params=["digits", "penguins"])
def outcome(request: pytest.FixtureRequest) -> Outcome:
    """Each built-in run in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Outcome)
    return found
