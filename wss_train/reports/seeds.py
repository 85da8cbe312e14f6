"""The table of ``wss_train.reports.ablation`` over several seeds: one run says little where gains are a point."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wss_data.errors import RecipeError
from wss_data.runtime.files import check_outputs, output_folder
from wss_train.evaluate import Evaluation
from wss_train.recipes import TrainRecipe, as_recipe
from wss_train.reports.ablation import ROWS, Ablation, iou_markdown, iou_text, run_ablation, write_tables
from wss_train.reports.tables import markdown_table

if TYPE_CHECKING:
    from wss_data.store.types import Collection


@dataclass(frozen=True)
class AblationOverSeeds:
    """Several ablations that differ in their seed alone."""

    ablations: dict[int, Ablation]  # seed -> its ablation; two or more
    out: Path  # folder with the table over all and, in ``seed_N``, the one of each

    @property
    def first(self) -> Ablation:
        """The first seed's: classes, data and recipe are the same in all, but for the seed."""
        return next(iter(self.ablations.values()))

    def scores(self, stage: str) -> np.ndarray:
        """IoU of one row, by seed: the mean first, then background and each class.

        Returns:
            In percent; nan for a class in neither truth nor prediction. Shape (S, C + 2), float64.
        """
        found = [ablation.evaluations[stage] for ablation in self.ablations.values()]
        values = [[e.mean_iou, *(np.nan if v is None else v for v in e.per_class().values())] for e in found]
        return 100.0 * np.array(values, np.float64)

    def _cells(self) -> dict[str, list[str]]:
        """Stage -> mean and standard deviation over the seeds, as text."""
        return {
            row.stage: [
                "–" if np.isnan(mean) else f"{mean:.1f} ± {deviation:.1f}"
                for mean, deviation in zip(*_mean_and_deviation(self.scores(row.stage)), strict=True)
            ]
            for row in ROWS
        }

    @property
    def _evaluations(self) -> list[dict[str, Evaluation]]:
        return [ablation.evaluations for ablation in self.ablations.values()]

    def _named(self, values: np.ndarray) -> dict[str, float | None]:
        names = ("mean", "background", *self.first.classes)
        return {n: None if np.isnan(v) else round(float(v), 3) for n, v in zip(names, values, strict=True)}

    def __str__(self) -> str:
        title = f"IoU in percent, mean ± standard deviation over {len(self.ablations)} seeds"
        text = iou_text(title, self.first.classes, self._cells(), self._evaluations)
        return "\n".join([text, *self.first.untaught()])

    def profile(self) -> str:
        """What each stage took with each seed, for a terminal."""
        return "\n\n".join(f"seed {seed}\n{ablation.profile()}" for seed, ablation in self.ablations.items())

    def to_markdown(self) -> str:
        """The table over all seeds, each seed's means, and what stands behind them, as Markdown."""
        counts, seeds = self.first.counts, ", ".join(map(str, self.ablations))
        means = ([row.name, *(f"{value:.1f}" for value in self.scores(row.stage)[:, 0])] for row in ROWS)
        return "\n".join(
            [
                f"# Ablation: {counts['web']} to {counts['target']}, seeds {seeds}",
                "",
                "Intersection over union in percent: mean ± sample standard deviation over the seeds. One confusion "
                "matrix over the whole split for each seed, void ignored. No choice was made by these scores.",
                "",
                *iou_markdown(self.first.classes, self._cells(), self._evaluations),
                "",
                *(f"{line}\n" for line in self.first.untaught()),
                "## Each seed",
                "",
                *markdown_table(["", *(f"seed {seed}" for seed in self.ablations)], means),
                "",
                "Data, costs, supervision and recipe of each: `seed_N/table.md`.",
                "",
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = {}
        for row in ROWS:
            means, deviations = _mean_and_deviation(self.scores(row.stage))
            rows[row.stage] = {"mean": self._named(means), "standard_deviation": self._named(deviations)}
        return {
            "unit": "percent",
            "seeds": list(self.ablations),
            "rows": rows,
            "by_seed": {str(seed): ablation.to_dict() for seed, ablation in self.ablations.items()},
        }


def _mean_and_deviation(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sample standard deviation over the seeds: (S, K) -> (K,) each."""
    return scores.mean(axis=0), scores.std(axis=0, ddof=1)


def run_ablation_over_seeds(
    web: "Collection",
    target: "Collection",
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
        write_tables(out, result.to_markdown(), result.to_dict())
    return result
