"""The decision of step 3, image by image, and its counts."""

import pytest

from wss_data.filtering.filters import (
    BY_VERDICT,
    KEPT,
    LOW_CONFIDENCE,
    NO_MASK,
    SCREENING_TAGS,
    TOO_LARGE,
    TOO_SMALL,
    decide,
    filter_report,
    is_left_out,
    retagged,
)
from wss_data.spec import FilterSpec

PAPER = FilterSpec(0.2, 0.8)


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (0.0, TOO_SMALL),
        (0.1999, TOO_SMALL),
        (0.2, KEPT),
        (0.5, KEPT),
        (0.8, KEPT),
        (0.8001, TOO_LARGE),
        (1.0, TOO_LARGE),
    ],
)
def test_the_foreground_fraction_decides_and_both_thresholds_are_kept(ratio, expected):
    assert decide(ratio, None, [], PAPER) == expected


@pytest.mark.parametrize(("confidence", "expected"), [(0.49, LOW_CONFIDENCE), (0.5, KEPT), (0.9, KEPT), (None, KEPT)])
def test_a_mask_that_the_engine_distrusts_is_dropped_and_one_that_nobody_judged_is_not(confidence, expected):
    careful = FilterSpec(0.2, 0.8, min_confidence=0.5)
    assert decide(0.5, None, [], careful, confidence) == expected
    assert decide(0.5, None, [], PAPER, confidence) == KEPT, "the paper has no such threshold"
    assert decide(0.5, "keep", [], careful, confidence) == KEPT
    assert decide(0.1, None, [], careful, confidence) == TOO_SMALL, "the foreground share is asked first"
    assert retagged([LOW_CONFIDENCE], expected) == [expected]


def test_without_a_mask_nothing_is_kept_even_if_a_person_says_so():
    assert decide(None, None, [], PAPER) == NO_MASK
    assert decide(None, "keep", [], PAPER) == NO_MASK


def test_a_verdict_wins_over_the_fraction_and_over_other_reasons():
    assert decide(0.05, "keep", [], PAPER) == KEPT
    assert decide(0.5, "keep", ["dropped:duplicate"], PAPER) == KEPT
    assert decide(0.5, "drop", [], PAPER) == BY_VERDICT


def test_a_reason_found_elsewhere_stands_and_an_earlier_filters_does_not():
    assert decide(0.5, None, ["dropped:duplicate"], PAPER) is None
    assert decide(0.5, None, [TOO_SMALL], PAPER) == KEPT


@pytest.mark.parametrize("tag", SCREENING_TAGS)
def test_an_image_that_screening_left_out_keeps_that_reason_although_it_has_no_mask(tag):
    assert decide(None, None, [tag], PAPER) is None
    assert decide(None, None, [tag, NO_MASK], PAPER) is None, "an earlier filter came first"
    assert decide(None, "keep", [tag], PAPER) == NO_MASK, "wanted, but not co-segmented yet"
    assert decide(0.5, "keep", [tag], PAPER) == KEPT
    assert decide(None, "drop", [tag], PAPER) == BY_VERDICT


def test_filtering_again_takes_away_only_the_filters_own_tags():
    assert retagged(["mine", TOO_SMALL, "dropped:duplicate"], KEPT) == ["mine", "dropped:duplicate", KEPT]
    assert retagged([KEPT, "mine"], None) == ["mine"]


def test_a_dropped_image_teaches_only_if_a_person_kept_it():
    assert is_left_out(["dropped:leak"], None)
    assert not is_left_out(["dropped:leak"], "keep")
    assert not is_left_out(["kept"], None)
    assert is_left_out(["kept"], "drop"), "said since the filter was applied"


def report(ratios, verdicts=None, classes=("cat", "cow"), names=None):
    verdicts = verdicts or [None] * len(ratios)
    names = names or ["cat"] * len(ratios)
    decisions = [decide(r, v, [], PAPER) for r, v in zip(ratios, verdicts, strict=True)]
    return filter_report(classes, names, ratios, decisions, PAPER)


def test_every_image_is_counted_once():
    ratios, verdicts = [0.1, 0.3, 0.9, None, 0.1, 0.5], [None, None, None, None, "keep", "drop"]
    cat, cow = report(ratios, verdicts).classes
    assert (cat.kept, cat.too_small, cat.too_large, cat.no_mask, cat.verdict) == (2, 1, 1, 1, 1)
    assert cat.images == 6
    assert cow.images == 0


def test_the_report_prints_a_table_without_empty_columns():
    text = str(report([0.3, 0.3, 0.9], names=["cat", "cow", "cow"]))
    assert text.splitlines()[0].split() == ["class", "images", "kept", "too", "small", "too", "large"]
    assert text.splitlines()[3].split() == ["all", "3", "2", "0", "1"]


def test_the_report_tells_of_a_confidence_that_was_asked_for():
    careful = FilterSpec(0.2, 0.8, 0.5)
    told = filter_report(["cat"], ["cat"], [0.3], [LOW_CONFIDENCE], careful)
    assert (told.classes[0].low_confidence, told.kept) == (1, 0)
    assert "low confidence" in str(told) and "of the image, confidence of 0.5 or more" in str(told)
    assert "kept by the 20-80 % filter, confidence of 0.5 or more; median foreground 30.0 %" in str(told)


def test_a_class_of_which_nothing_is_kept_is_pointed_at_with_what_its_masks_look_like():
    text = str(report([0.001, 0.001, 0.01, 0.5], names=["cat", "cat", "cat", "cow"]))
    assert "cat: 0 of 3 images kept by the 20-80 % filter; median foreground 0.1 %." in text
    assert "cow: 0 of" not in text
