"""What every peer is told: the model file, the port, the cores, and the rows of a batch."""

import os
from pathlib import Path
from typing import Final

MODEL: Final = Path(os.environ["BENCH_MODEL"])
PORT: Final = int(os.environ["BENCH_PORT"])
CORES: Final = int(os.environ["BENCH_CORES"])
MAX_ROWS: Final = int(os.environ["BENCH_MAX_ROWS"])
#: `json`, `binary` or `jpeg`: where a server must be programmed for one.
FORM: Final = os.environ["BENCH_FORM"]
#: For servers that wait for more requests, the least that all of them can be told.
WAIT_MS: Final = 1
