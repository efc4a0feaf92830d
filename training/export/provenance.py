"""Where a model came from: hashes, versions and the commit, and nothing of this machine."""

import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from app.bundle.manifest import Provenance
from training.config import RunConfig
from training.data.dataset import Dataset
from training.data.split import Split
from training.models import Model

PACKAGES = (
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "numpy",
    "scikit-learn",
    "skl2onnx",
    "polars",
)
GIT_TIMEOUT_S = 5


def provenance_of(
    run_name: str, dataset: Dataset, split: Split, config: RunConfig, model: Model
) -> Provenance:
    versions = {"python": platform.python_version()}
    return Provenance(
        run=run_name,
        data_sha256=dataset.sha256,
        config_sha256=config.sha256(),
        weights_sha256=model.weights_sha256,
        split_sha256=split.sha256,
        seed=config.seed,
        threads=config.threads,
        versions=versions | {package: metadata.version(package) for package in PACKAGES},
        git_commit=git_commit(Path(__file__)),
        config=config.model_dump(mode="json"),
    )


def git_commit(file: Path) -> str | None:
    """The commit of the repository that tracks this file, "-dirty" added where it has changes.

    None without git, outside a repository, and where the file lies in a foreign one.
    """
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(  # noqa: S603
                [git, "-C", str(file.parent), *arguments],
                capture_output=True,
                text=True,
                timeout=GIT_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    if ask("ls-files", "--error-unmatch", file.name) is None:
        return None
    return ask("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
