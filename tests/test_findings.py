"""What is wrong with a class, found without a truth, on masks of 12 x 12 pixels that one can judge by eye."""

import json

import numpy as np
import pytest

from wss_data.imaging.masks import write_mask
from wss_train.commands.cli import main
from wss_train.metrics import ConfusionMatrix
from wss_train.reports.findings import ClassFinding, RunReport, areas, check_findings, findings_of, signals_of

CLASSES = ("cat", "cow", "dog")
CAT, COW, DOG = 1, 2, 3


def square(index: int, side: int = 6) -> np.ndarray:
    """An object in the middle, which touches no border: a quarter of the image."""
    mask, start = np.zeros((12, 12), np.uint8), (12 - side) // 2
    mask[start : start + side, start : start + side] = index
    return mask


def side_by_side(left: int, right: int) -> np.ndarray:
    mask = np.zeros((12, 12), np.uint8)
    mask[3:9, 3:6], mask[3:9, 6:9] = left, right
    return mask


def of_each(count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """``count`` good masks of each class, and their labels."""
    return [square(index) for index in (CAT, COW, DOG) for _ in range(count)], np.repeat(
        np.eye(3, dtype=bool), count, 0
    )


@pytest.fixture
def signals(tmp_path):
    """Signals where all is well but for what is given."""

    def measured(name: str, masks: list[np.ndarray]):
        for i, mask in enumerate(masks):
            write_mask(mask, tmp_path / name / f"{i}.png")
        return areas([tmp_path / name / f"{i}.png" for i in range(len(masks))], 4)

    def of(train=None, labels=None, web=None, web_labels=None, stored=None, seen=()):
        good, good_labels = of_each(12)
        kept, kept_labels = of_each(20)
        web_labels = kept_labels if web_labels is None else web_labels
        return signals_of(
            web_labels.sum(axis=0) if stored is None else stored,
            measured("web", web or kept),
            web_labels,
            measured("train", train or good),
            good_labels if labels is None else labels,
            measured("seen", list(seen)),
        )

    return of


def kinds(signals) -> set[tuple[str, str]]:
    return {(finding.class_name, finding.what) for finding in findings_of(signals, CLASSES)}


def with_cats(masks: list[np.ndarray]) -> list[np.ndarray]:
    """The masks of 12 cats before good ones of the other classes."""
    return [*masks, *of_each(12)[0][12:]]


def test_masks_are_measured_in_what_is_decided(tmp_path):
    mask = np.zeros((12, 12), np.uint8)
    mask[:6] = 255
    mask[6:, :6], mask[11, 11] = CAT, COW
    write_mask(mask, tmp_path / "a.png")
    write_mask(square(DOG, 1), tmp_path / "b.png")
    found = areas([tmp_path / "a.png", tmp_path / "b.png"], 4)
    assert found.tolist() == [[0.5, 1 / 72, 0], [0, 0, 1 / 144]]


def test_nothing_is_found_where_all_classes_are_alike_even_if_all_are_hard(signals):
    assert kinds(signals()) == set()
    good, _ = of_each(12)
    hard = [np.zeros_like(mask) if i % 12 < 4 else mask for i, mask in enumerate(good)]  # a third shows nothing
    assert kinds(signals(hard)) == set()


def test_a_class_that_its_masks_lack_far_more_often_than_others_is_missing(signals):
    (finding,) = findings_of(signals(with_cats([square(0)] * 4 + [square(CAT)] * 8)), CLASSES, "farm", "runs/farm")
    assert (finding.class_name, finding.kind) == ("cat", "missing")
    assert finding.why == "33% of the masks of its images do not show it (the others: 0%)"
    assert "farm" in finding.advice and "runs/farm/pictures/cosegmentation_cat.png" in finding.advice


def test_a_class_of_which_the_masks_show_a_small_part_is_missing_by_the_measure_of_its_own_web_masks(signals):
    small = with_cats([square(CAT, 4)] * 12)
    assert kinds(signals(small)) == {("cat", "missing")}
    web, _ = of_each(20)
    assert kinds(signals(small, web=[square(CAT, 4)] * 20 + web[20:])) == set(), "small on the web, too"


def pairs(both: np.ndarray, count: int = 12) -> tuple[list[np.ndarray], np.ndarray]:
    """Good masks of each class, and ``count`` of images that are labelled with cat and cow."""
    masks, labels = of_each(12)
    return [*masks, *[both] * count], np.vstack([labels, np.tile([[True, True, False]], (count, 1))])


def test_classes_that_are_predicted_together_and_never_labelled_together_are_merged(signals):
    seen = [side_by_side(CAT, COW)] * 12
    assert kinds(signals(seen=seen)) == {("cat", "merged with cow"), ("cow", "merged with cat")}
    masks, labels = pairs(side_by_side(CAT, COW), 100)
    together = signals(masks, labels, seen=seen)
    assert not any("merged" in what for _, what in kinds(together)), "predicted together as they are labelled"


def test_few_images_are_counted_on_the_web_after_the_filter_and_in_the_target(signals):
    web, labels = of_each(60)
    keep = [*range(41, 60), *range(60, 180)]
    found = findings_of(signals(web=[web[i] for i in keep], web_labels=labels[keep], stored=[100, 60, 60]), CLASSES)
    assert [(f.class_name, f.kind) for f in found] == [("cat", "few images")]
    assert "19 kept web images; the others have 60" in found[0].why
    assert "5.3 web images were looked at for each kept (the others: 1.0)" in found[0].why
    assert "queries" in found[0].advice and "verdict WEB --keep" in found[0].advice
    train, labels = of_each(40)
    keep = [*range(38, 120)]  # twenty-fold
    assert kinds(signals([train[i] for i in keep], labels[keep])) == {("cat", "few images")}


def test_a_class_without_any_image_has_few_and_nothing_else_is_known_of_it(signals):
    web, web_labels = of_each(20)
    train, labels = of_each(12)
    nothing = signals(train[12:], labels[12:], web[20:], web_labels[20:])
    (finding,) = findings_of(nothing, CLASSES)
    assert (finding.class_name, finding.kind) == ("cat", "few images")
    assert finding.why.startswith("0 kept web images") and "0 labelled train images" in finding.why
    report = RunReport("web", "target", CLASSES, nothing, (finding,), {})
    assert "| cat | 0 | 0 | – | – | – |" in report.to_markdown()
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["signals"]["cat"]["not_shown"] is None


def test_a_class_that_is_alone_is_measured_by_itself(tmp_path):
    for name, mask in (("good", square(CAT)), ("empty", square(0))):
        write_mask(mask, tmp_path / f"{name}.png")
    good, empty, labels = [tmp_path / "good.png"] * 30, [tmp_path / "empty.png"] * 30, np.ones((30, 1), bool)
    web, seen = areas(good, 2), areas([], 2)
    fine = signals_of([30], web, labels, areas(good, 2), labels, seen)
    assert findings_of(fine, ("cat",)) == []
    (finding,) = findings_of(signals_of([30], web, labels, areas(empty, 2), labels, seen), ("cat",))
    assert finding.kind == "missing"


# ------------------------------------------------------------- against a truth, after the fact


def test_findings_are_checked_by_recall_and_the_largest_confusion():
    matrix = ConfusionMatrix(4)
    matrix.counts[:] = [
        [900, 0, 90, 0],  # background; 90 of its pixels are taken for cow
        [60, 30, 10, 0],  # cat: recall 30 %, mostly lost to background, else to cow
        [0, 0, 50, 0],  # cow: recall 100 %
        [0, 0, 0, 0],  # no dog in the truth
    ]
    findings = [
        ClassFinding("cat", "missing", "", ""),
        ClassFinding("cow", "missing", "", ""),
        ClassFinding("dog", "missing", "", ""),
        ClassFinding("cat", "merged", "", "", "cow"),
        ClassFinding("cow", "merged", "", "", "cat"),
        ClassFinding("cat", "few images", "", ""),
    ]
    checks = check_findings(findings, matrix, CLASSES)
    assert checks["missing"] == (1, 2, 1, 2), "nothing can be said of dogs"
    assert checks["merged"] == (1, 2, None, 2), "cow is confused with no class"
    assert "few images" not in checks
    assert matrix.counts[1, 1] == 30, "the matrix stays as it is"


def test_the_report_keeps_findings_and_their_check_apart(signals):
    found = tuple(findings_of(signals(with_cats([square(0)] * 12)), CLASSES))
    checks = check_findings(found, ConfusionMatrix(4), CLASSES)
    page = RunReport("web", "target", CLASSES, signals(), found, checks).to_markdown()
    findings, truth = page.split("## Checked against the val truth")
    assert "**cat: missing.**" in findings and "missing: 0 of 0 right" in truth
    assert "Checked" not in RunReport("web", "target", CLASSES, signals(), found, {}).to_markdown()


# ------------------------------------------------------------- what is no ablation


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "holds no ablation"),
        ("", "has not ended"),
        ("{}", "is no table of an ablation"),
        ('{"counts": {"web": "w", "target": "t", "classes": {"cat": {"stored": -1}}}}', "stored of cat is -1"),
        ('{"by_seed": {}}', "Name the folder of one, such as"),
    ],
)
def test_what_is_no_finished_ablation_of_one_seed_is_refused_in_one_line(tmp_path, capsys, content, said):
    if content == "":
        (tmp_path / "generator").mkdir()
    elif content is not None:
        (tmp_path / "ablation.json").write_text(content)
    assert main(["report", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1 and not captured.out
    assert not (tmp_path / "report.md").exists()
