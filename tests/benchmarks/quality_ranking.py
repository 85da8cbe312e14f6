"""Whether suspicious masks are bad ones: the score of ``cosegmentation.quality`` beside the true Jaccard index J.

    python tests/benchmarks/quality_ranking.py FOLDER [--workers 2]

FOLDER holds ``images/<class>/`` and ``masks/<class>/<stem>.png`` (0 and 255). Each class is co-segmented as a group by
the engine ``common``; the masks are looked at for the table, and the score was chosen on two such tables. *Worst
fifth*: mean J of the other images less that of the fifth with the lowest value. *Best half*: mean J of the better half
less that of all, which is what a half taken at random has. *Learned* is a ridge regression of all numbers on J, for
each class learned from the true masks of others: a mark for how far weights could go. The last line sorts by J itself:
nothing can do better.
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wss_data.cosegmentation import make_engine
from wss_data.cosegmentation.base import ImageFiles
from wss_data.cosegmentation.quality import mask_quality, quality_scores
from wss_data.imaging.images import list_images

LONG_SIDE = 340


def rows_of(folder: Path, workers: int) -> list[dict[str, Any]]:
    """Class, measures and true J of every image."""
    engine, rows, spent = make_engine("common"), [], 0.0
    for class_folder in sorted((folder / "images").iterdir()):
        paths = list_images(class_folder)
        images = ImageFiles(paths, LONG_SIDE)
        for position, found in engine.segment_group(images, workers=workers):
            truth_path = folder / "masks" / class_folder.name / f"{paths[position].stem}.png"
            truth = cv2.imread(str(truth_path), cv2.IMREAD_GRAYSCALE) > 127
            size = (truth.shape[1], truth.shape[0])
            mask = cv2.resize(found.mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
            image = images[position]
            start = time.process_time()
            measures = asdict(mask_quality(image, found.mask))
            spent += time.process_time() - start
            known = {name: getattr(found, name) for name in ("confidence", "agreement", "prototype_distance")}
            rows.append(
                {
                    "class": class_folder.name,
                    **measures,
                    **known,
                    "J": (mask & truth).sum() / max((mask | truth).sum(), 1),
                }
            )
    print(f"{len(rows)} images, mean J {np.mean([row['J'] for row in rows]):.3f}; "
          f"measures: {1000 * spent / len(rows):.0f} ms of CPU time an image")  # fmt: skip
    return rows


def learned(rows: list[dict[str, Any]]) -> list[float]:
    """What a regression learned from the true masks of the other classes expects of each mask."""
    names = [name for name in rows[0] if name not in ("class", "J")]
    numbers = np.nan_to_num(np.array([[row[name] for name in names] for row in rows], float))
    classes, truth = [row["class"] for row in rows], [row["J"] for row in rows]
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 4, 12)))
    folds = GroupKFold(min(8, len(set(classes))))
    return list(cross_val_predict(model, numbers, truth, cv=folds, groups=classes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    rows = rows_of(options.folder, options.workers)
    truth = np.array([row["J"] for row in rows])

    def column(name: str, sign: int = 1) -> list[float | None]:
        return [None if row[name] is None else sign * row[name] for row in rows]

    asked_again = [column(name) for name in ("confidence", "agreement", "crf_agreement")]
    contenders = {
        "score": quality_scores(asked_again),
        "confidence": asked_again[0],
        "agreement": asked_again[1],
        "crf_agreement": asked_again[2],
        "prototype_distance, turned": column("prototype_distance", -1),
        "compactness": column("compactness"),
        "colour_contrast": column("colour_contrast"),
        "pieces, turned": column("pieces", -1),
        "border_contact, turned": column("border_contact", -1),
        "learned": learned(rows),
        "J itself": list(truth),
    }
    print("| sorted by | rank correlation with J | worst fifth lower by | best half higher by |\n|---|---:|---:|---:|")
    for name, values in contenders.items():
        numbers = np.array([-np.inf if value is None else value for value in values], float)
        order = np.argsort(numbers, kind="stable")
        fifth, half = len(order) // 5, len(order) // 2
        worst = truth[order[fifth:]].mean() - truth[order[:fifth]].mean()
        best = truth[order[-half:]].mean() - truth.mean()
        print(f"| {name} | {spearmanr(numbers, truth)[0]:+.2f} | {worst:+.3f} | {best:+.3f} |")


if __name__ == "__main__":
    main()
