"""What the benchmarks measure with must itself be right."""

import sys
from pathlib import Path

import psutil
from measure import run

BURN = "import time\nwhile time.process_time() < 0.5: pass\n"


def test_cpu_time_of_a_child_is_counted_to_its_parent(tmp_path: Path) -> None:
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}], check=True)"

    cost = run([sys.executable, "-c", parent], tmp_path / "log", seconds=60)

    assert cost.status == 0
    assert 0.5 <= cost.cpu_s < 1.5


def test_cpu_time_of_a_grandchild_that_outlives_its_parents_is_counted(tmp_path: Path) -> None:
    child = f"import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', {BURN!r}])"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', {child!r}])"

    cost = run([sys.executable, "-S", "-c", parent], tmp_path / "log", seconds=60)

    assert 0.5 <= cost.cpu_s < 1.5


def test_waiting_costs_no_cpu_time(tmp_path: Path) -> None:
    cost = run([sys.executable, "-S", "-c", "import time; time.sleep(0.5)"], tmp_path / "log", seconds=60)

    assert cost.wall_s >= 0.5
    assert cost.cpu_s < 0.3


def test_a_program_over_its_time_is_killed_with_what_it_started(tmp_path: Path) -> None:
    sleeper = "import time; time.sleep(600)"
    parent = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-S', '-c', {sleeper!r}], start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )

    cost = run([sys.executable, "-c", parent], tmp_path / "log", seconds=1)

    assert (cost.status, cost.over) == (None, "time")
    child = int((tmp_path / "log").read_text())
    assert not psutil.pid_exists(child)


def test_a_program_over_its_memory_is_killed(tmp_path: Path) -> None:
    hungry = "import time; block = bytearray(200_000_000); time.sleep(600)"

    cost = run([sys.executable, "-S", "-c", hungry], tmp_path / "log", seconds=60, memory_mb=100)

    assert (cost.status, cost.over) == (None, "memory")
    assert cost.peak_mb > 100


def test_no_file_grows_over_the_size_allowed(tmp_path: Path) -> None:
    greedy = f"open({str(tmp_path / 'big')!r}, 'wb', buffering=0).write(bytes(3 * 2**20))"

    run([sys.executable, "-S", "-c", f"import time; time.sleep(0.2); {greedy}"], tmp_path / "log", 60, file_mb=1)

    assert (tmp_path / "big").stat().st_size == 2**20
