"""Threads of OpenMP that wait: what the packages set before torch is loaded."""

import os
import subprocess
import sys

import pytest


def set_by(import_line: str, **variables: str) -> list[str]:
    """The two variables as a process, and a child of it, find them after the import."""
    child = "import os; print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY'))"
    program = f"{import_line}\nimport subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])\n{child}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment | variables, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("package", ["wss_data", "wss_train", "wss_train.commands.cli", "wss_data.commands.cli"])
def test_waiting_threads_spin_for_microseconds(package):
    assert set_by(f"import {package}") == ["1000 None"] * 2


def test_torch_is_not_loaded_before_that():
    assert set_by("import wss_train, sys; assert 'torch' not in sys.modules") == ["1000 None"] * 2


@pytest.mark.parametrize("variables, found", [
    ({"OMP_WAIT_POLICY": "ACTIVE"}, "None ACTIVE"),
    ({"GOMP_SPINCOUNT": "7"}, "7 None"),
])  # fmt: skip
def test_what_the_user_chose_stays(variables, found):
    assert set_by("import wss_train", **variables) == [found] * 2
