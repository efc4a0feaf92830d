"""What is to be tried. Plain data: a child process gets it."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from app.bundle.manifest import Precision
from app.engine.proof.plan import Cost
from app.engine.providers.candidates import Candidate


class TrialJob(BaseModel):
    """One candidate on one version's graph."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    job: Literal["try"] = "try"
    #: Folder of the model, and what lies in it.
    model_path: Path
    version: int
    digest: str
    candidate: Candidate
    precision: Precision = "fp32"
    cores: int
    budget_ms: int
    background: bool = False
    #: Of a version that is just like this one; nothing is measured then.
    costs: tuple[Cost, ...] = ()
