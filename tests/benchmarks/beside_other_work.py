"""How much longer training, prediction and co-segmentation take beside one other busy process.

    python tests/benchmarks/beside_other_work.py [--rounds 3] [--policies default,PASSIVE,spin=1000]

Threads of OpenMP that wait for one another spin: beside other work they take the time of the thread that they wait
for. ``OMP_WAIT_POLICY`` says whether they may. Each policy is tried on a quiet machine and beside one process that
never rests, in turns, each time in a process of its own; the medians of wall seconds are shown. ``ours``
is what the packages set by themselves, ``default`` what libgomp takes, ``spin=N`` sets ``GOMP_SPINCOUNT``, ``PASSIVE``
never spins. Run it on a machine that does nothing else.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from unittest import mock

ITERATIONS, IMAGES = 8, 16
QUIET_GOAL, BUSY_GOAL = 1.05, 2.3
BUSY = "while True: pass"


def environment(policy: str) -> dict[str, str]:
    """The variables of a child for a policy."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    if policy == "PASSIVE":
        return variables | {"OMP_WAIT_POLICY": policy}
    spins = {"ours": {}, "default": {"GOMP_SPINCOUNT": "300000"}}
    return variables | (spins[policy] if policy in spins else {"GOMP_SPINCOUNT": policy.removeprefix("spin=")})


def work() -> dict[str, float]:
    """Wall seconds of an iteration of recipe `cpu`, of a mask (three scales, CRF), of a co-segmented image."""
    import wss_data  # before torch, as users do

    assert wss_data
    from training_speed import CLASSES, make_table

    from wss_data.cosegmentation import make_engine
    from wss_data.imaging.images import read_image
    from wss_data.ledger import Ledger
    from wss_train.checkpoints import ModelCard
    from wss_train.data import Batch, TrainingDraws, batches
    from wss_train.engine import loop
    from wss_train.models import build_model
    from wss_train.predict import load_model
    from wss_train.recipes import preset, with_values

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = make_table(folder, IMAGES)
        recipe = with_values(preset("cpu"), {"generator_iterations": ITERATIONS, "weights": "none"})
        model = build_model(recipe, len(CLASSES) + 1, pretrained=False)
        drawn = list(batches(TrainingDraws(table, recipe), recipe.batch, 0, 2, 0))
        seconds: list[float] = []

        def timed(*_: object) -> Iterator[Batch]:
            for number in range(ITERATIONS):
                started = time.perf_counter()
                yield drawn[number % 2]
                seconds.append(time.perf_counter() - started)
            yield drawn[0]

        card = ModelCard("generator", CLASSES, recipe, ITERATIONS, False, Ledger())
        with mock.patch.object(loop, "batches", timed):
            loop.run_loop(loop.Run(table, card, folder / "run", progress=False), model)
        images = [read_image(path) for path in table.image_paths]
        loaded = load_model(folder / "run" / "checkpoints" / f"iteration_{ITERATIONS:06d}")
        loaded.predict(images[:2], crf=True)
        started = time.perf_counter()
        loaded.predict(images, scales=(0.7, 1.0, 1.3), crf=True)
        mask = (time.perf_counter() - started) / IMAGES
        engine = make_engine("common", {})
        started = time.perf_counter()
        list(engine.segment_group(images))
        cosegmented = (time.perf_counter() - started) / IMAGES
        return {"iteration": median(seconds[1:]), "mask": mask, "co-segmented image": cosegmented}


def measured(policy: str, busy: bool) -> dict[str, float]:
    """What a child of this policy measured."""
    other = subprocess.Popen([sys.executable, "-c", BUSY]) if busy else None
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--work"], env=environment(policy), stdout=subprocess.PIPE, text=True, check=True
        )
    finally:
        if other:
            other.kill()
            other.wait()
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    """Measure and print; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind (default: 3)")
    parser.add_argument("--policies", default="ours,default", help="to compare (default: ours,default)")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(work()))
        return 0
    policies = options.policies.split(",")
    runs: dict[tuple[str, bool], list[dict[str, float]]] = {(p, busy): [] for p in policies for busy in (False, True)}
    for _ in range(options.rounds):
        for policy, busy in runs:
            runs[policy, busy].append(measured(policy, busy))
    missed = False
    for what in runs[policies[0], False][0]:
        medians = {key: median(run[what] for run in found) for key, found in runs.items()}
        for policy in policies:
            quiet, busy = medians[policy, False], medians[policy, True]
            ratio = busy / quiet
            print(f"{what:<20}{policy:<10}quiet {quiet:.3f} s, beside one busy process {busy:.3f} s: {ratio:.2f}")
        if {"ours", "default"} <= set(policies):
            slower = medians["ours", False] / medians["default", False]
            times = medians["ours", True] / medians["ours", False]
            missed |= slower > QUIET_GOAL or times > BUSY_GOAL
            print(
                f"{what:<20}ours to default, quiet: {slower:.2f} (goal {QUIET_GOAL}); busy: {times:.2f} ({BUSY_GOAL})"
            )
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
