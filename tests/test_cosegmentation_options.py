import pytest

from wss_data.cosegmentation import ENGINES, make_engine
from wss_data.cosegmentation.base import wanted_positions
from wss_data.errors import CosegmentationError


def test_wanted_positions_are_in_order_and_within_the_group():
    assert wanted_positions([None] * 4, None) == [0, 1, 2, 3]
    assert wanted_positions([None] * 4, [3, 1, 3, 7, -1]) == [1, 3]
    with pytest.raises(CosegmentationError, match="the group is empty"):
        wanted_positions([], None)


def test_every_engine_has_its_name():
    for name in ENGINES:
        options = {"command": "true {images} {masks}"} if name == "external" else {}
        assert make_engine(name, options, allow_programs=name == "external").name == name


def test_an_option_of_before_is_understood_with_a_warning(caplog):
    engine = make_engine("common", {"teach_folds": 0})
    assert engine.settings.self_training_folds == 0
    assert "teach_folds is called self_training_folds now" in caplog.text
