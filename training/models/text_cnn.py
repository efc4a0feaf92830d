"""Networks for texts as bytes: a linear one on short runs of bytes, and convolutions."""

import torch
from torch import nn

from training.models.masked import MaskedConv, mean_and_highest

BYTES = 256
EMBEDDED = 32
WIDTH = 64
DROPOUT = 0.2
#: Rows of the tables of runs of one, two, … bytes; longer runs share them by chance.
TABLES = (256, 4093, 8191, 16381)


def text_cnn(
    shape: tuple[int, ...],  # noqa: ARG001
    outputs: int,
    *,
    width: int = WIDTH,
    dropout: float = DROPOUT,
) -> nn.Module:
    """int64 [batch, length] -> float32 [batch, outputs]; `shape` does not matter."""
    return _TextCnn(outputs, width, dropout)


def byte_runs(shape: tuple[int, ...], outputs: int) -> nn.Module:  # noqa: ARG001
    """One linear layer on how often each run of one to four bytes is in a text."""
    return _ByteRuns(outputs)


class _TextCnn(nn.Module):
    def __init__(self, outputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BYTES, EMBEDDED)
        self.layers = nn.ModuleList(
            [
                MaskedConv(EMBEDDED, width, kernel=5, stride=2),
                MaskedConv(width, width, kernel=3),
                MaskedConv(width, width, kernel=3, dilation=2),
            ]
        )
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(2 * width, outputs)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        mask = (ids != 0).to(torch.float32).unsqueeze(1)
        values = self.embedding(ids).transpose(1, 2) * mask
        for layer in self.layers:
            values, mask = layer(values, mask)
        answer: torch.Tensor = self.last(self.dropout(mean_and_highest(values, mask)))
        return answer


class _ByteRuns(nn.Module):
    """Averages a row of a table for each run of bytes, which is a linear layer on their shares."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        tables = [nn.Embedding(size, outputs) for size in TABLES]
        for table in tables:
            nn.init.zeros_(table.weight)
        self.tables = nn.ModuleList(tables)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        length = ids.shape[1]
        # A run ends at each byte, and behind the last; before the first there is nothing.
        before = nn.functional.pad(ids, (len(TABLES) - 1, 0))
        ends = (ids != 0) | (before[:, len(TABLES) - 2 : len(TABLES) - 2 + length] != 0)
        mask = ends.to(torch.float32).unsqueeze(2)
        count = mask.sum(dim=1).clamp(min=1)
        answer = self.bias
        runs = torch.zeros_like(ids)
        for back, table in enumerate(self.tables):
            start = len(TABLES) - 1 - back
            runs = runs + before[:, start : start + length] * BYTES**back
            shares = table(runs % table.num_embeddings) * mask
            answer = answer + shares.sum(dim=1) / count
        return answer
