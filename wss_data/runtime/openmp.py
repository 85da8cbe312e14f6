"""How the threads of OpenMP, which torch computes with, wait for one another."""

import os


def short_spins() -> None:
    """Let them spin for microseconds before they sleep, unless the user chose otherwise.

    By default libgomp, which torch uses on Linux, lets them spin for milliseconds: beside other work they take the
    processor from the thread that they wait for. On two processors and beside one busy process an iteration of recipe
    ``cpu`` took 3.7 times as long as on a quiet machine, and 2.2 times with these spins; without any, it took 1.1 times
    as long on the quiet machine (``tests/benchmarks/beside_other_work.py``).

    The library reads the variable when it is loaded, and child processes inherit it: a program that imports torch
    before this package sets ``GOMP_SPINCOUNT`` itself.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
