"""What is known of each image of a group, waiting for the group: in memory, above a limit in a temporary file."""

import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np


class ArraySpool(AbstractContextManager["ArraySpool"]):
    """Rows of arrays, written once one after the other, then read in any order and as often as one likes."""

    def __init__(self, memory_bytes: int) -> None:
        # More than that goes to a file without a name, which is gone with the process, however that ends.
        # To SpooledTemporaryFile a limit of 0 means none.
        self._file = tempfile.SpooledTemporaryFile(max_size=max(memory_bytes, 1))  # noqa: SIM115  closed in __exit__
        self._rows: list[int] = []

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, arrays: Sequence[np.ndarray]) -> None:
        """Write one row of arrays of any shape and type; raises ``OSError`` if there is no room left."""
        self._rows.append(self._file.seek(0, 2))
        for values in arrays:
            np.save(self._file, values)

    def read(self, row: int, count: int, skip: int = 0) -> list[np.ndarray]:
        """``count`` neighbouring arrays of one row, after the first ``skip``, as they were written."""
        self._file.seek(self._rows[row])
        return [np.load(self._file) for _ in range(skip + count)][skip:]

    def __exit__(self, *_: object) -> None:
        self._file.close()
