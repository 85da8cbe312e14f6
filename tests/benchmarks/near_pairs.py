"""CPU time of finding near copies among hashes, at 1, 4 and 16 times the number: looked up against all with all.

    python tests/benchmarks/near_pairs.py [6000 24000 96000]

Random hashes, a tenth of them copies in which up to six bits differ. Both ways take turns in one process and must
find the same pairs.
"""

import argparse
import statistics
import time

import numpy as np

from wss_data.filtering import duplicates

DISTANCE = 8
"""Bits in which hashes may differ: the default of a definition."""


def hashes_with_copies(count: int) -> np.ndarray:
    """Hashes of ``count`` images, shape (count,), uint64."""
    random = np.random.default_rng(count)
    hashes = random.integers(0, 2**64, count, dtype=np.uint64)
    copies = random.permutation(count)[: count // 10]
    hashes[copies] = hashes[random.integers(0, count, len(copies))]
    for _ in range(6):
        hashes[copies] ^= np.uint64(1) << random.integers(0, 64, len(copies)).astype(np.uint64)
    return hashes


def timed(find: object, hashes: np.ndarray) -> tuple[float, list[tuple[int, ...]]]:
    """CPU seconds of one way of finding pairs, and the pairs."""
    start = time.process_time()
    parts = list(find(hashes, hashes, DISTANCE, True))  # type: ignore[operator]
    cost = time.process_time() - start
    rows = np.concatenate([np.stack(part, axis=1).astype(np.int64) for part in parts])
    return cost, sorted({tuple(row) for row in rows[rows[:, 0] < rows[:, 1]].tolist()})


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("counts", nargs="*", type=int, default=[6000, 24_000, 96_000], help="numbers of hashes")
    print("| hashes | pairs | all with all, CPU s | looked up, CPU s | ratio |\n|---|---|---|---|---|")
    for count in parser.parse_args().counts:
        hashes = hashes_with_copies(count)
        slow, fast = [], []
        for _ in range(3):
            before, wanted = timed(duplicates._compared, hashes)
            after, found = timed(duplicates._looked_up, hashes)
            assert found == wanted, f"{len(found)} pairs where {len(wanted)} are"
            slow.append(before)
            fast.append(after)
        ratio = statistics.median(a / b for a, b in zip(slow, fast, strict=True))
        costs = f"{statistics.median(slow):.3f} | {statistics.median(fast):.3f}"
        print(f"| {count:,} | {len(wanted):,} | {costs} | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    main()
