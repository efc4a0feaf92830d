"""The learning curves as TensorBoard reads them, beside what the terminal shows."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from training.errors import EnvironmentTrouble
from training.progress import Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class LoggedProgress(Progress):
    """Passes everything on, and writes each candidate's curves into a folder of its name."""

    def __init__(self, shown: Progress, folder: Path) -> None:
        self.shown, self.folder = shown, folder
        self._writer: SummaryWriter | None = None
        self._metric = ""
        self._rows_per_s = 0.0

    def stage(self, title: str) -> None:
        self.shown.stage(title)

    def note(self, text: str) -> None:
        self.shown.note(text)

    @contextmanager
    def training(self, candidate: str, epochs: int, metric: str) -> Iterator[None]:
        """Raises EnvironmentTrouble where the package is missing or the folder not writable."""
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

            self._writer = SummaryWriter(str(self.folder / candidate))
        except ImportError:
            raise EnvironmentTrouble(
                "logs need the package tensorboard; install it by: pip install tensorboard"
            ) from None
        except OSError as error:
            raise EnvironmentTrouble(
                f"the folder {self.folder} cannot be written: {error.strerror}"
            ) from None
        self._metric = metric
        try:
            with self.shown.training(candidate, epochs, metric):
                yield
        finally:
            self._writer.close()
            self._writer = None

    def batch(self, epoch: int, share: float, rows_per_s: float) -> None:
        self._rows_per_s = rows_per_s
        self.shown.batch(epoch, share, rows_per_s)

    def epoch(self, epoch: int, train_loss: float, validation_loss: float, metric: float) -> None:
        self.shown.epoch(epoch, train_loss, validation_loss, metric)
        if self._writer is None:
            return
        for tag, value in (
            ("loss/train", train_loss),
            ("loss/validation", validation_loss),
            (f"validation/{self._metric}", metric),
            ("rows_per_s", self._rows_per_s),
        ):
            self._writer.add_scalar(tag, value, epoch)
