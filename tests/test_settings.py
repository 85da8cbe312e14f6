"""Settings: what is refused, and in which words."""

import pickle
from dataclasses import MISSING, FrozenInstanceError, replace
from typing import Annotated, Literal, TypedDict

import pytest

from wss_data.errors import RecipeError
from wss_data.reading.settings import Rule, only_known, options_of, settings, unchecked


@settings("kettle", RecipeError)
class Kettle:
    litres: Annotated[float, Rule(gt=0, le=3), "What it holds, litres."]
    cups: Annotated[int, Rule(ge=1, le=8), "Cups a day."] = 2
    colour: Literal["red", "blue", "green"] = "red"
    whistles: bool = True
    name: Annotated[str | None, Rule(pattern="^[a-z]+$")] = None
    marks: tuple[Annotated[float, Rule(ge=0)], ...] = (0.5, 1.0)
    size: tuple[int, int] = (10, 20)

    def __post_init__(self) -> None:
        if self.whistles and self.name == "silent":
            raise RecipeError("kettle: a silent one does not whistle. Set whistles to false.")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "kettle: litres is missing, expected a number over 0 and of at most 3."),
        ({"litres": 0}, "kettle: litres is 0, expected a number over 0 and of at most 3."),
        ({"litres": float("nan")}, "kettle: litres is nan, expected a number over 0 and of at most 3."),
        ({"litres": 10**400}, "kettle: litres is 1000"),
        ({"litres": "1"}, "kettle: litres is '1', expected a number over 0"),
        ({"litres": 1, "cups": 9}, "kettle: cups is 9, expected a whole number from 1 to 8."),
        ({"litres": 1, "cups": 2.0}, "kettle: cups is 2.0, expected a whole number from 1 to 8."),
        ({"litres": 1, "cups": True}, "kettle: cups is True, expected a whole number"),
        ({"litres": 1, "cups": None}, "kettle: cups is None, expected a whole number"),
        ({"litres": 1, "colour": "pink"}, "kettle: colour is 'pink', expected red, blue or green."),
        ({"litres": 1, "colour": []}, "kettle: colour is (), expected red, blue or green."),
        ({"litres": 1, "whistles": 1}, "kettle: whistles is 1, expected true or false."),
        ({"litres": 1, "name": 3}, "kettle: name is 3, expected a text, or nothing."),
        ({"litres": 1, "name": "a\n"}, "kettle: name is 'a\\n', expected a text, or nothing."),
        ({"litres": 1, "marks": 3}, "kettle: marks is 3, expected a list, each a number of at least 0."),
        ({"litres": 1, "marks": [1, -1]}, "kettle: marks is -1, expected a list, each a number of at least 0."),
        ({"litres": 1, "size": [1, 2, 3]}, "kettle: size is (1, 2, 3), expected a list of 2: a whole number, a whole"),
        ({"litres": 1, "cup": 3}, "kettle: there is no option 'cup' (is cups meant?). Known options: litres, cups"),
        ({"litres": 1, "x\x1b": 3}, "kettle: there is no option 'x\\x1b'. Known options: litres, cups, colour"),
        ({"litres": 1, "name": "silent"}, "kettle: a silent one does not whistle."),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_found_and_what_is_wanted(values, sentence):
    with pytest.raises(RecipeError) as refused:
        Kettle(**values)
    assert str(refused.value).startswith(sentence)


def test_a_whole_number_serves_as_a_float_and_a_list_as_a_tuple_and_nothing_else_is_converted():
    kettle = Kettle(litres=1, marks=[1, 2], size=[3, 4])
    assert (kettle.litres, kettle.marks, kettle.size) == (1.0, (1.0, 2.0), (3, 4))


def test_a_copy_with_a_change_is_checked_too_and_nothing_can_be_assigned():
    kettle = Kettle(litres=1)
    assert replace(kettle, cups=3) == Kettle(litres=1, cups=3)
    with pytest.raises(RecipeError, match="cups is 0"):
        replace(kettle, cups=0)
    with pytest.raises(FrozenInstanceError):
        kettle.cups = 3


def test_a_copy_of_a_settings_object_from_another_process_is_equal_and_has_the_same_hash():
    kettle = Kettle(litres=1, name="old")
    copied = pickle.loads(pickle.dumps(kettle))
    assert (copied, hash(copied)) == (kettle, hash(kettle))


def test_values_known_to_be_right_are_taken_without_a_check_and_the_rest_are_defaults():
    assert unchecked(Kettle, litres=1.0, cups=3) == Kettle(litres=1, cups=3)
    assert unchecked(Kettle, litres=-1.0, name="silent").litres == -1.0


def test_more_values_than_there_are_settings_are_a_mistake_of_the_program():
    with pytest.raises(TypeError, match="Kettle takes 7 values, 8 were given"):
        Kettle(1, 2, "red", True, None, (), (1, 2), 3)


def test_each_option_says_its_range_default_and_meaning():
    litres, cups, colour, *_ = options_of(Kettle)
    assert litres == ("litres", "a number over 0 and of at most 3", MISSING, "What it holds, litres.")
    assert cups == ("cups", "a whole number from 1 to 8", 2, "Cups a day.")
    assert (colour.expected, colour.default) == ("red, blue or green", "red")


class Options(TypedDict, total=False):
    device: str


def test_a_keyword_argument_that_nobody_knows_is_not_passed_over():
    only_known({"device": "cpu"}, Options)
    with pytest.raises(TypeError, match="unexpected keyword argument 'devise'; known are device"):
        only_known({"devise": "cpu"}, Options)
