from wss_data.ledger import Ledger, Supervision, UsedFor

WEIGHTS = Ledger().add("ImageNet weights", Supervision.IMAGE_LEVEL, UsedFor.WEIGHTS)


def test_classification_weights_and_image_labels_are_strictly_image_level():
    assert Ledger().strictly_image_level
    assert WEIGHTS.strictly_image_level


def test_boxes_masks_or_an_unknown_origin_are_not():
    for supervision in (Supervision.BOXES, Supervision.MASKS, Supervision.UNKNOWN):
        assert not WEIGHTS.add("something", supervision, UsedFor.TRAINING).strictly_image_level
        assert not WEIGHTS.add("something", supervision, UsedFor.SELECTION).strictly_image_level


def test_masks_looked_at_for_the_final_score_only_do_not_count():
    assert WEIGHTS.add("val masks", Supervision.MASKS, UsedFor.FINAL_SCORE).strictly_image_level


def test_the_same_entry_is_kept_once():
    assert WEIGHTS.merged_with(WEIGHTS) == WEIGHTS


def test_a_ledger_survives_json_and_its_verdict_cannot_be_typed_in():
    ledger = WEIGHTS.add("saliency network", Supervision.MASKS, UsedFor.COSEGMENTATION)
    value = ledger.to_dict()
    value["strictly_image_level"] = True
    assert Ledger.from_dict(value) == ledger
    assert not Ledger.from_dict(value).strictly_image_level


def test_a_kind_of_supervision_from_elsewhere_reads_as_unknown():
    value = WEIGHTS.to_dict()
    value["entries"][0]["supervision"] = "eye tracking"
    assert Ledger.from_dict(value).entries[0].supervision is Supervision.UNKNOWN
