from statistics import fmean

import pytest

from wss_train.reports.ablation import ROWS
from wss_train.reports.published import TABLE_1_TEST, TABLE_1_VAL, TABLE_3, VOC_CLASSES, paper_row


def test_the_papers_iou_per_class_average_to_the_means_it_reports():
    assert len(TABLE_1_VAL) == len(TABLE_1_TEST) == 21
    assert fmean(TABLE_1_VAL) == pytest.approx(56.4, abs=0.05)
    assert fmean(TABLE_1_TEST) == pytest.approx(56.9, abs=0.05)


def test_the_last_row_of_table_3_is_the_mean_of_table_1():
    assert TABLE_3["multi_scale_crf"] == 56.4
    assert list(TABLE_3) == [row.stage for row in ROWS if row.stage in TABLE_3]


def test_the_papers_classes_are_those_of_the_definition_that_ships():
    from wss_data.spec import read_spec

    assert read_spec("pascal_voc").class_names == VOC_CLASSES


def test_fewer_classes_have_no_published_score_because_the_task_is_another():
    assert paper_row(("cat", "dog")) == [
        "",
        "The paper's column is for VOC's twenty classes: context, not a comparison.",
    ]
    (row,) = paper_row(VOC_CLASSES)
    cells = dict(zip(("background", *VOC_CLASSES), row.split(" | ")[2:-1], strict=True))
    assert cells["chair"] == "11.4" and cells["background"] == "85.8"
