"""What a run tells the person who waits for it."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

#: Without a terminal, about this many epochs of a candidate are written.
LINES_PER_CANDIDATE = 6


class Progress:
    """Says nothing; the ones below say it somewhere."""

    def stage(self, title: str) -> None:
        """A stage of the road begins."""

    def note(self, text: str) -> None:
        """Something worth knowing happened in this stage."""

    @contextmanager
    def training(self, candidate: str, epochs: int, metric: str) -> Iterator[None]:  # noqa: ARG002
        """A candidate is trained inside; `metric` is what `epoch` tells of."""
        yield

    def epoch(self, epoch: int, train_loss: float, validation_loss: float, metric: float) -> None:
        """An epoch (from 1) ended; the metric is of the validation split."""


class LineProgress(Progress):
    """Plain lines, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._candidate = self._metric = ""
        self._epochs_per_line = 1
        self._stages = 0

    def stage(self, title: str) -> None:
        self._stages += 1
        self.console.print(f"[bold]{self._stages}. {title}[/bold]", highlight=False)

    def note(self, text: str) -> None:
        self.console.print(f"   {text}", highlight=False, soft_wrap=True)

    @contextmanager
    def training(self, candidate: str, epochs: int, metric: str) -> Iterator[None]:
        self._candidate, self._metric = candidate, metric
        self._epochs_per_line = max(1, epochs // LINES_PER_CANDIDATE)
        yield

    def epoch(self, epoch: int, train_loss: float, validation_loss: float, metric: float) -> None:
        if epoch == 1 or epoch % self._epochs_per_line == 0:
            self.note(
                f"{self._candidate}: epoch {epoch}, "
                + self._losses(train_loss, validation_loss, metric)
            )

    def _losses(self, train_loss: float, validation_loss: float, metric: float) -> str:
        losses = f"loss {train_loss:.3f}, validation {validation_loss:.3f}"
        return f"{losses}, {self._metric} {metric:.4g}"


class BarProgress(LineProgress):
    """One bar for each candidate, for a terminal."""

    _bars: Bars

    @contextmanager
    def training(self, candidate: str, epochs: int, metric: str) -> Iterator[None]:
        self._metric = metric
        self._bars = Bars(
            TextColumn("   {task.description:<8}"),
            BarColumn(bar_width=8),
            TextColumn("{task.completed:>3}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[losses]}"),
            console=self.console,
            transient=True,
        )
        with self._bars:
            self._task = self._bars.add_task(candidate, total=epochs, losses="")
            yield

    def epoch(self, epoch: int, train_loss: float, validation_loss: float, metric: float) -> None:
        losses = self._losses(train_loss, validation_loss, metric)
        self._bars.update(self._task, completed=epoch, losses=losses)


def progress_on(console: Console) -> Progress:
    return BarProgress(console) if console.is_terminal else LineProgress(console)
