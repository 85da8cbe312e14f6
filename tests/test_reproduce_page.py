"""What docs/how_to/reproduce_the_paper.md tells its reader to type and to expect."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from wss_data.commands.cli import make_parser as data_parser
from wss_data.spec import read_spec
from wss_train.commands.cli import make_parser as train_parser
from wss_train.models import build_model
from wss_train.recipes import preset
from wss_train.reports.published import TABLE_1_TEST, TABLE_1_VAL, TABLE_3, VOC_CLASSES

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "how_to" / "reproduce_the_paper.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
COMMANDS = [line.split(" #")[0].strip() for line in COMMANDS if line.startswith(("wss-data ", "wss-train "))]


def numbers(text: str) -> set[float]:
    return {float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", text)}


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_page_is_understood_as_it_stands(line):
    program, *arguments = shlex.split(line)
    parser = data_parser() if program == "wss-data" else train_parser()
    assert callable(parser.parse_args(arguments).command)


def test_the_page_tells_every_step():
    told = {" ".join(line.split()[:2]) for line in COMMANDS}
    data = ("sources", "build", "import-target", "leaks")
    steps = {
        *(f"wss-data {step}" for step in data),
        *(f"wss-train {s}" for s in ("check", "ablation", "voc-submission")),
    }
    assert steps <= told


def test_its_numbers_of_images_are_those_of_the_recipe():
    paper = preset("paper")
    images = paper.batch * (paper.generator_iterations + 2 * paper.final_iterations)
    assert images == 496_000
    assert {496_000, paper.generator_iterations, paper.final_iterations, paper.crop} <= numbers(PAGE)
    assert set(read_spec("pascal_voc").target.options["expect"].values()) <= numbers(PAGE)


def test_its_search_results_are_those_of_the_definition():
    spec = read_spec("pascal_voc")
    limits = {source.name: source.limit for source in spec.sources}
    keyless = limits["openverse"] + limits["wikimedia"]
    every = sum(limits.values())
    assert {every, every * len(spec.classes), keyless, keyless * len(spec.classes)} <= numbers(PAGE)


def test_its_tables_are_the_papers():
    rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:1] == "|"]
    cells = [row[i : i + 3] for row in rows if len(row) == 9 for i in (0, 3, 6)]
    shown = {name: (float(val), float(test)) for name, val, test in cells if re.fullmatch(r"[\d.]+", val)}
    assert shown.pop("mean") == (56.4, 56.9)
    assert shown == dict(zip(("background", *VOC_CLASSES), zip(TABLE_1_VAL, TABLE_1_TEST, strict=True), strict=True))
    assert set(TABLE_3.values()) <= numbers(PAGE)


def test_its_costs_are_those_of_the_network():
    paper = preset("paper")
    cost = {branch: training_cost(branch, paper.crop) for branch in (False, True)}
    assert [round(cost[branch][0]) for branch in (False, True)] == [326, 354]
    assert [round(cost[branch][1], 1) for branch in (False, True)] == [33.2, 58.5]
    assert [cost[branch][2] for branch in (False, True)] == pytest.approx([392, 433], rel=0.02)
    forward = [inference_cost(round(375 * scale), round(500 * scale)) for scale in paper.scales]
    assert [round(gflop) for gflop in forward] == [108, 219, 370]
    assert abs(sum(forward) - 697) < 1
    assert {326, 354, 33.2, 58.5, 392, 433, 108, 219, 370, 697} <= numbers(PAGE)
    images = paper.batch * paper.generator_iterations, paper.batch * paper.final_iterations
    pflop = images[0] * cost[False][0], images[1] * cost[False][0], images[1] * cost[True][0]
    assert [round(part / 1e6) for part in pflop] == [26, 68, 74]
    assert round(sum(pflop) / (images[0] + 2 * images[1])) == 338


def network(branch: bool):
    """The recipe's network with weights that take no memory and no time."""
    with torch.device("meta"):
        return build_model(preset("paper"), 21, multilabel=branch, pretrained=False)


def training_cost(branch: bool, crop: int) -> tuple[float, float, float]:
    """GFLOP forward and backward of an image, millions of weights, MiB kept for the backward pass."""
    model = network(branch).train()
    weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(torch.empty(1, 3, crop, crop, device="meta"))
        scores = functional.interpolate(output[0], size=(crop, crop), mode="bilinear")
        loss = functional.cross_entropy(scores, torch.zeros(1, crop, crop, dtype=torch.long, device="meta"))
        (loss + output[1].sum() if branch else loss).backward()
    bytes_kept = sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in weights)
    count = sum(weight.numel() for weight in model.parameters())
    return counter.get_total_flops() / 1e9, count / 1e6, bytes_kept / 2**20


def inference_cost(height: int, width: int) -> float:
    """GFLOP of one image forward, with the branch."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(True).eval()(torch.empty(1, 3, height, width, device="meta"))
    return counter.get_total_flops() / 1e9
