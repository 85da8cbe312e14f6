"""What a training run reports: ``metrics.csv`` and TensorBoard, without double rows after a resume."""

import re
from collections.abc import Sequence
from pathlib import Path

from wss_data.runtime.files import write_text

_ITERATION = re.compile(r"[0-9]{1,12},")
COLUMNS = ("iteration", "loss", "segmentation_loss", "multilabel_loss", "learning_rate", "seconds")
"""Iterations done; eq. 4, eq. 1 and eq. 3 (empty without the branch); rate; mean wall seconds of an iteration."""


class MetricsLog:
    """Writes one row an iteration.

    Args:
        run: The run folder.
        start: Iterations that a resumed run has done; rows beyond them, written after its last checkpoint, are removed.
    """

    def __init__(self, run: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path = run / "metrics.csv"
        write_text(self._path, "\n".join([",".join(COLUMNS), *_rows_up_to(self._path, start)]) + "\n")
        self._file = self._path.open("a", buffering=1)
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1)

    def write(self, iteration: int, losses: Sequence[float], rate: float, seconds: float) -> None:
        """Add a row; see ``COLUMNS``. ``losses``: total, segmentation and, with the branch, multi-label."""
        total, segmentation, multilabel = (*(f"{loss:.6g}" for loss in losses), "")[:3]
        self._file.write(f"{iteration},{total},{segmentation},{multilabel},{rate:.6g},{seconds:.4f}\n")
        values = [*zip(("loss/total", "loss/segmentation", "loss/multilabel"), losses, strict=False)]
        for name, value in (*values, ("learning_rate", rate), ("seconds", seconds)):
            self._board.add_scalar(name, value, iteration)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._board.close()


def _rows_up_to(path: Path, iteration: int) -> list[str]:
    """The whole rows of a metrics file up to an iteration; a last line without its end was cut off by a kill."""
    if not path.is_file() or iteration == 0:
        return []
    lines = path.read_text(errors="replace").split("\n")[1:-1]
    rows = [line for line in lines if line.count(",") == len(COLUMNS) - 1 and _ITERATION.match(line)]
    return [line for line in rows if int(line.split(",")[0]) <= iteration]
