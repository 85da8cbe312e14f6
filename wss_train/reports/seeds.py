"""The table of ``wss_train.reports.ablation`` over several seeds: one run says little where gains are a point."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wss_data.errors import RecipeError
from wss_data.runtime.files import check_outputs, output_folder, write_output
from wss_train.recipes import TrainRecipe, as_recipe
from wss_train.reports.ablation import ROWS, Ablation, Row, aligned, iou_rows, partial_means, run_ablation

if TYPE_CHECKING:
    from wss_train.data import Examples


@dataclass(frozen=True)
class AblationOverSeeds:
    """Several ablations that differ in their seed alone.

    Args:
        ablations: Seed -> its ablation; two or more.
        out: Folder with the table over all and, in ``seed_N``, the one of each.
    """

    ablations: dict[int, Ablation]
    out: Path

    @property
    def first(self) -> Ablation:
        """The first seed's: rows, classes, data and recipe are the same in all, but for the seed."""
        return next(iter(self.ablations.values()))

    def scores(self, row: Row) -> np.ndarray:
        """IoU of one row, by seed: the mean first, then background and each class.

        Returns:
            In percent; nan for a class in neither truth nor prediction. Shape (S, C + 2), float64.
        """
        found = [ablation.evaluations[row.stage] for ablation in self.ablations.values()]
        values = [[e.mean_iou, *(np.nan if v is None else v for v in e.per_class().values())] for e in found]
        return 100.0 * np.array(values, np.float64)

    def __str__(self) -> str:
        names = ["mean", "background", *self.first.classes]
        cells = {row.name: _cells(self.scores(row)) for row in ROWS}
        title = f"IoU in percent, mean ± standard deviation over {len(self.ablations)} seeds"
        runs = [ablation.evaluations for ablation in self.ablations.values()]
        return "\n".join([title, *aligned(names, cells), *partial_means(ROWS, runs)])

    def to_markdown(self) -> str:
        """The table over all seeds, each seed's means, and what stands behind them, as Markdown."""
        first = self.first
        seeds = ", ".join(map(str, self.ablations))
        lines = [
            f"# Ablation: {first.counts['web']} to {first.counts['target']}, seeds {seeds}",
            "",
            "Intersection over union in percent: mean ± sample standard deviation over the seeds. One confusion matrix "
            "over the whole split for each seed, void ignored. No choice was made by these scores.",
            "",
            *iou_rows(first.classes, {row: _cells(self.scores(row)) for row in ROWS}),
            *("\n" + line for line in partial_means(ROWS, [a.evaluations for a in self.ablations.values()])),
        ]
        lines += ["", "## Each seed", ""]
        lines += ["| | " + " | ".join(f"seed {seed}" for seed in self.ablations) + " |"]
        lines += ["|---|" + "---:|" * len(self.ablations)]
        for row in ROWS:
            lines.append(f"| {row.name} | " + " | ".join(f"{value:.1f}" for value in self.scores(row)[:, 0]) + " |")
        lines += ["", "Data, costs, supervision and recipe of each: `seed_N/table.md`.", ""]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        names = ["mean", "background", *self.first.classes]
        rows = {}
        for row in ROWS:
            scores = self.scores(row)
            rows[row.stage] = {
                "mean": _numbers(names, scores.mean(axis=0)),
                "standard_deviation": _numbers(names, scores.std(axis=0, ddof=1)),
            }
        return {
            "unit": "percent",
            "seeds": list(self.ablations),
            "rows": rows,
            "by_seed": {str(seed): ablation.to_dict() for seed, ablation in self.ablations.items()},
        }


def run_ablation_over_seeds(
    web: "Examples",
    target: "Examples",
    out: Path | str,
    recipe: TrainRecipe | str = "cpu",
    seeds: Sequence[int] = (0, 1, 2),
    **options: Any,
) -> AblationOverSeeds:
    """Train and score every row of the paper's Table 3 with each of several seeds.

    Args:
        web: Web dataset or view with co-segmentation masks.
        target: Target dataset with the tags ``train`` and ``val``.
        out: Folder for ``table.md``, ``ablation.json`` and, in ``seed_N``, all of each seed. What is done is found
            again when the command is repeated; seeds can be added.
        recipe: Recipe, or the name of a preset; its own seed is not used.
        seeds: Two or more different seeds.
        **options: See ``run_ablation``.

    Returns:
        The table.

    Raises:
        RecipeError: If there are fewer than two seeds, or one comes twice.
        CheckpointError: If ``out`` holds runs of another recipe or other data.
        TrainingDataError: If a dataset cannot teach or score.
    """
    if len(seeds) < 2 or len(set(seeds)) != len(seeds):
        raise RecipeError(f"seeds are {list(seeds)}; two or more different ones are wanted, such as 0,1,2.")
    recipe, out = as_recipe(recipe), Path(out)
    with output_folder(out):
        check_outputs(
            [out / "table.md", out / "ablation.json"],
            proved=any((out / f"seed_{seed}" / "ablation.json").is_file() for seed in seeds),
        )
        ablations = {
            seed: run_ablation(web, target, out / f"seed_{seed}", replace(recipe, seed=seed), **options)
            for seed in seeds
        }
        result = AblationOverSeeds(ablations, out)
        write_output(out / "table.md", result.to_markdown())
        write_output(out / "ablation.json", json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n")
    return result


def _cells(scores: np.ndarray) -> list[str]:
    means, deviations = scores.mean(axis=0), scores.std(axis=0, ddof=1)
    return [
        "–" if np.isnan(mean) else f"{mean:.1f} ± {deviation:.1f}"
        for mean, deviation in zip(means, deviations, strict=True)
    ]


def _numbers(names: list[str], values: np.ndarray) -> dict[str, float | None]:
    return {
        name: None if np.isnan(value) else round(float(value), 3) for name, value in zip(names, values, strict=True)
    }
