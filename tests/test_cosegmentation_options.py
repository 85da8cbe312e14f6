from types import SimpleNamespace

import pytest

from wss_data.cosegmentation import ENGINES, make_engine
from wss_data.cosegmentation.options import check_names, check_values, wanted_positions
from wss_data.errors import CosegmentationError


def test_an_unknown_option_is_named_with_the_known_ones():
    check_names("common", ["a", "b"], ["a", "b", "c"])
    with pytest.raises(CosegmentationError, match=r"method 'common' has no option 'd'\. Known options: a, b"):
        check_names("common", ["a", "d"], ["a", "b"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "count is 0; a whole number from 1 to 9"),
        ({"count": 2.0}, "count is 2.0; a whole number"),
        ({"count": True}, "count is True; a whole number"),
        ({"share": "half"}, "share is 'half'; a number from 0.0 to 1.0"),
        ({"share": float("nan")}, "share is nan"),
        ({"on": 1}, "on is 1; true or false"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_wanted(values, message):
    good = {"count": 9, "share": 1, "on": False}
    check_values(SimpleNamespace(**good), {"count": (1, 9)}, {"share": (0.0, 1.0)}, ["on"])

    with pytest.raises(CosegmentationError, match=message):
        check_values(SimpleNamespace(**good | values), {"count": (1, 9)}, {"share": (0.0, 1.0)}, ["on"])


def test_wanted_positions_are_in_order_and_within_the_group():
    assert wanted_positions([None] * 4, None) == [0, 1, 2, 3]
    assert wanted_positions([None] * 4, [3, 1, 3, 7, -1]) == [1, 3]
    with pytest.raises(CosegmentationError, match="the group is empty"):
        wanted_positions([], None)


def test_every_engine_has_its_name():
    for name in ENGINES:
        options = {"command": "true {images} {masks}"} if name == "external" else {}
        assert make_engine(name, options, allow_programs=name == "external").name == name
