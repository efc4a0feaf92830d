"""How a model runs here: the record that a proof ends in, and that may be kept and shipped."""

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.bundle.manifest import NumericClass, Precision
from app.engine.providers.candidates import DeviceKind, Origin
from app.engine.providers.ranking import Rejection

#: Where a plan comes from: calibrated in this start, before, or on another machine.
Source = Literal["measured", "cache", "shipped"]

_MS: Final = 1e-3


class Cost(BaseModel):
    """What one run costs while `instances` of them go on at the same time."""

    model_config = ConfigDict(frozen=True)

    rows: int = Field(ge=1)
    intra_op_threads: int = Field(ge=1)
    instances: int = Field(ge=1)
    run_ms: float = Field(gt=0)
    #: Not measured, but continued from the largest batch that was.
    extrapolated: bool = False

    @property
    def rows_per_s(self) -> float:
        return self.instances * self.rows / (self.run_ms * _MS)

    @property
    def shape(self) -> tuple[int, int]:
        """Threads × instances."""
        return (self.intra_op_threads, self.instances)


class Plan(BaseModel):
    """How a model runs here, and what was proved of it."""

    model_config = ConfigDict(frozen=True)

    provider_requested: tuple[str, ...]
    #: What the session was opened for.
    provider_opened: str
    #: What runs most nodes of the graph; another one where `provider_opened` claimed few of them.
    provider: str
    device: DeviceKind
    device_name: str
    origin: Origin
    reason: str
    #: Serves only because nothing that was asked for could.
    fallback: bool
    numeric_class: NumericClass
    #: Which of the bundle's graphs runs.
    precision: Precision = "fp32"
    #: Largest |got - want| of each float output on the golden rows.
    max_abs_error: Mapping[str, float]
    #: Graph nodes after optimisation; empty where the runtime does not tell.
    nodes_by_provider: Mapping[str, int]
    rejected: tuple[Rejection, ...]
    intra_op_threads: int = Field(ge=1)
    #: How many runs of this model may go on at once; each takes `intra_op_threads` cores.
    instances: int = Field(default=1, ge=1)
    #: Most rows of one run: what the bundle allows, or less where more do not pay.
    max_rows: int = Field(ge=1)
    #: Runs of at most so many rows are cheaper than handing them to a thread; 0 for none.
    inline_rows: int = Field(default=0, ge=0)
    #: Batch sizes at which the golden rows were replayed.
    checked_rows: tuple[int, ...]
    #: The cost table: run time by batch size, threads and instances.
    costs: tuple[Cost, ...] = ()
    #: Time to open the session and replay the golden rows.
    proof_ms: float
    calibration_ms: float = 0.0
    source: Source = "measured"

    def run_s(self, rows: int) -> float | None:
        """Seconds that a run of `rows` is expected to take; None where nothing was measured."""
        own = sorted(
            (cost for cost in self.costs if cost.shape == (self.intra_op_threads, self.instances)),
            key=lambda cost: cost.rows,
        )
        if not own:
            return None
        above = next((cost for cost in own if cost.rows >= rows), None)
        if above is None:
            return own[-1].run_ms * _MS * rows / own[-1].rows
        below = max((c for c in own if c.rows <= rows), key=lambda c: c.rows, default=above)
        if below.rows == above.rows:
            return above.run_ms * _MS
        share = (rows - below.rows) / (above.rows - below.rows)
        return (below.run_ms + share * (above.run_ms - below.run_ms)) * _MS
