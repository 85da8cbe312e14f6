"""What is loaded without torch's compiler does the same, and the compiler is there for those who call it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wss_data.backbones.lean import lean_optimizer


@pytest.mark.parametrize(("name", "more"), [("AdamW", {"weight_decay": 0.1}), ("SGD", {"momentum": 0.9})])
def test_an_optimizer_moves_by_the_bits_of_torchs_own_and_goes_on_from_its_state(name, more):
    ends = []
    for kind in (lean_optimizer(name), getattr(torch.optim, name)):
        torch.manual_seed(0)
        network = torch.nn.Linear(5, 3)
        optimizer = kind(network.parameters(), lr=0.1, **more)
        for iteration in range(6):
            if iteration == 3:
                state = optimizer.state_dict()
                optimizer = kind(network.parameters(), lr=0.1, **more)
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            network(torch.randn(4, 5)).square().sum().backward()
            optimizer.step()
        ends.append(network.weight.detach())
    assert torch.equal(*ends)


TRAINS = """
import sys
from pathlib import Path
import torch
from drawings import TINY, rectangles
from lightning_fabric.wrappers import OptimizedModule
from wss_train.recipes import with_values
from wss_train.training import train

lite = with_values(TINY, {"backbone": "efficientnet_lite0"})
train(rectangles(Path("images")), lite, "run", "generator", progress=False)
print(sorted({"torch._dynamo", "sympy"} & set(sys.modules)), isinstance(torch.nn.Linear(1, 1), OptimizedModule))
print([isinstance(one, OptimizedModule) for one in (torch.nn.Linear(1, 1), torch.compile(torch.nn.Linear(1, 1)))])
"""


def test_a_run_without_the_compiler_loads_none_and_what_it_compiled_is_known_once_it_is_loaded(tmp_path):
    # Fabric is imported first by the package, as in every command.
    code = f"import wss_train.training\n{TRAINS}"
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=here)
    assert done.stdout.splitlines() == ["[] False", "[False, True]"], done.stderr
