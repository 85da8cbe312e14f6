"""What others measured: the numbers of the paper and of the field, as data.

All are mean IoU in percent on PASCAL VOC 2012 with 20 classes and background.
They stand beside our numbers for context; they compare only where the data are
VOC's.
"""

from dataclasses import dataclass

from wss_data.target.sbd import VOC_CLASSES
from wss_train.reports.tables import markdown_table, number

PAPER = "Shen et al., BMVC 2017"


@dataclass(frozen=True)
class PublishedScore:
    """One published mean IoU."""

    method: str  # the method, in its authors' words
    supervision: str  # what it learned from
    val: float | None  # mean IoU on VOC 2012 val in percent, or ``None`` where it is not given
    test: float | None  # the same on VOC 2012 test
    source: str  # where the number stands


TABLE_3 = {"generator": 48.3, "simple_final": 53.3, "multi_label": 55.1, "multi_scale_crf": 56.4}
"""The paper's ablation, Table 3: mean IoU in percent on VOC 2012 val, by the stages of ``reports.ablation``."""

TABLE_1_VAL = (
    85.8, 53.0, 24.0, 69.4, 36.7, 64.3, 81.9, 64.6, 74.5, 11.4, 70.2,
    34.2, 72.7, 66.3, 60.5, 42.3, 45.9, 71.6, 34.7, 66.6, 53.3,
)  # fmt: skip
"""Table 1, the paper's own method: IoU in percent on VOC 2012 val, background first, then ``VOC_CLASSES``."""
TABLE_1_TEST = (
    86.9, 57.9, 26.3, 65.1, 28.3, 63.9, 80.6, 70.7, 68.8, 15.5, 67.1,
    37.3, 74.2, 70.1, 69.9, 45.9, 50.6, 68.0, 43.9, 58.7, 45.4,
)  # fmt: skip
"""The same on VOC 2012 test; their mean is 56.9."""

_TABLE_2 = f"{PAPER}, Table 2"
TABLE_2 = (
    PublishedScore("scribbles", "scribbles", 63.1, None, _TABLE_2),
    PublishedScore("boxes + MCG", "boxes", 62.0, 64.6, _TABLE_2),
    PublishedScore("20 full masks a class", "masks", 62.1, 62.5, _TABLE_2),
    PublishedScore("saliency from boxes", "boxes", 55.7, 56.7, _TABLE_2),
    PublishedScore("MCG", "masks", 54.3, 55.5, _TABLE_2),
    PublishedScore("points", "points", 46.1, None, _TABLE_2),
    PublishedScore("CCNN", "image-level", 35.3, 35.6, _TABLE_2),
    PublishedScore("SEC", "image-level", 50.7, 51.7, _TABLE_2),
    PublishedScore("STC", "image-level", 49.8, 51.2, _TABLE_2),
    PublishedScore("the paper", "image-level", 56.4, 56.9, _TABLE_2),
)
"""Methods by strength of supervision, as the paper compares itself with them."""

_FIELD = "as reported by its authors"
FIELD = (
    PublishedScore("STC", "web images", 49.8, 51.2, _FIELD),
    PublishedScore("WebS-i2", "web images", None, 55.3, _FIELD),
    PublishedScore("the paper", "web images", 56.4, 56.9, _FIELD),
    PublishedScore("Hong et al. 2017", "web video", 58.1, 58.7, _FIELD),
    PublishedScore("WebSeg, web only", "web images", 57.0, None, _FIELD),
    PublishedScore("WebSeg, with VOC labels", "web images and image-level labels", 63.3, None, _FIELD),
    PublishedScore("Bootstrapping (2018)", "web images", None, 63.9, _FIELD),
    PublishedScore("Lee et al. 2019", "web video", 66.5, 67.4, _FIELD),
    PublishedScore("AffinityNet", "image-level", 61.7, 63.7, _FIELD),
    PublishedScore("IRN", "image-level", 63.5, 64.8, _FIELD),
    PublishedScore("SEAM", "image-level", 64.5, 65.7, _FIELD),
    PublishedScore("AdvCAM", "image-level", 68.1, 68.0, _FIELD),
    PublishedScore("BECO", "image-level", 70.9, None, _FIELD),
    PublishedScore("MCTformer", "image-level", 71.9, 71.6, _FIELD),
    PublishedScore("DuPL", "image-level", 72.2, 71.6, _FIELD),
    PublishedScore("CLIP-ES", "image-level, with CLIP", 71.1, 71.4, _FIELD),
    PublishedScore("WeCLIP", "image-level, with CLIP", None, 77.2, _FIELD),
    PublishedScore("ExCEL", "image-level, with CLIP", 78.4, 78.5, _FIELD),
    PublishedScore("DHR", "image-level, with foundation models", 79.6, None, _FIELD),
    PublishedScore("WeCLIP+", "image-level, with CLIP and DINO", None, 83.9, _FIELD),
    PublishedScore("DeepLabv2-R101, COCO init", "masks", 76.7, None, _FIELD),
    PublishedScore("DeepLabv2-R101, COCO init, CRF", "masks", 77.9, None, _FIELD),
)
"""Methods of the field, weakest supervision first."""


def paper_row(classes: tuple[str, ...]) -> list[str]:
    """The paper's own row by class as Markdown, where the classes are VOC's twenty; else what its numbers are for.

    For fewer classes there is no published number: VOC's pixels of the other
    classes would be void, which is an easier task.
    """
    if classes != VOC_CLASSES:
        return ["", "The paper's column is for VOC's twenty classes: context, not a comparison."]
    mean = TABLE_3["multi_scale_crf"]
    return ["| the paper, Table 1, val | " + " | ".join(f"{value:.1f}" for value in (mean, *TABLE_1_VAL, mean)) + " |"]


def context(classes: tuple[str, ...]) -> list[str]:
    """The paper's Table 2 and the field since then, where the classes are VOC's: Markdown lines."""
    if classes != VOC_CLASSES:
        return []
    rows = [
        [each.method, each.supervision, number(each.val, ".1f"), number(each.test, ".1f"), each.source]
        for each in (*TABLE_2, *FIELD)
    ]
    table = markdown_table(["method", "learns from", "val", "test", "where it stands"], rows, "llrrl")
    return ["", "## What others reached on PASCAL VOC 2012", "", *table]
