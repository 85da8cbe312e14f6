import pytest
import yaml

from wss_data.errors import SpecError
from wss_data.spec import (
    DEFAULT_SOURCES,
    FilterSpec,
    SourceSpec,
    list_definitions,
    read_spec,
    spec_from_dict,
    spec_from_folder,
)

SMALL = {"name": "zoo", "classes": ["cat", "cow"], "sources": ["drawn"]}


def changed(**values):
    return {**SMALL, **values}


def refused(value) -> str:
    with pytest.raises(SpecError) as caught:
        spec_from_dict(value, "zoo.yaml")
    return str(caught.value)


def test_every_definition_that_comes_with_the_package_can_be_read():
    assert {"drawn", "pascal_voc", "voc_animals"} <= set(list_definitions())
    for name in list_definitions():
        assert read_spec(name).classes[0].index == 1


def test_the_sources_of_a_definition_that_names_none_are_what_the_check_makes_of_their_values():
    checked = tuple(SourceSpec(**vars(source)) for source in DEFAULT_SOURCES)
    assert checked == DEFAULT_SOURCES


def test_pascal_voc_has_the_twenty_classes_in_voc_order():
    names = read_spec("pascal_voc").class_names
    assert len(names) == 20
    assert (names[0], names[7], names[14], names[19]) == ("aeroplane", "cat", "person", "tvmonitor")


def test_the_filter_keeps_20_to_80_percent_unless_the_definition_says_otherwise():
    assert spec_from_dict(SMALL).filters == FilterSpec(0.2, 0.8)


def test_classes_given_as_names_are_numbered_from_one_and_searched_by_name():
    cow = spec_from_dict(SMALL).classes[1]
    assert (cow.index, cow.name, cow.queries) == (2, "cow", ("cow",))


def test_a_definition_survives_the_way_through_plain_values():
    spec = read_spec("voc_animals")
    assert spec_from_dict(spec.to_dict()) == spec


def test_target_mask_classes_named_by_a_definition_become_its_class_names():
    mask_classes = read_spec("voc_animals").target.mask_classes
    assert mask_classes.index("sheep") + 1 == 17


def test_an_unknown_key_is_refused_with_the_known_ones():
    message = refused(changed(colour="red"))
    assert message.startswith("zoo.yaml: there is no option 'colour'") and "longest_side" in message


def test_thresholds_in_the_wrong_order_are_refused_with_their_place():
    assert refused(changed(filters={"min_foreground": 0.9})).startswith("zoo.yaml: filters: min_foreground 0.9 is not")


def test_a_key_that_is_no_text_is_refused_like_an_unknown_one():
    assert refused(changed(download={1: 2})).startswith("zoo.yaml: download: there is no option 1")


@pytest.mark.parametrize("queries", ["", 0, None])
def test_queries_that_are_no_list_are_refused_although_they_are_empty(queries):
    assert "expected a list" in refused(changed(classes=[{"name": "cat", "index": 1, "queries": queries}]))


def test_a_gap_in_the_indices_is_refused_with_found_and_expected():
    message = refused(changed(classes=[{"name": "cat", "index": 1}, {"name": "cow", "index": 3}]))
    assert "class 'cow' has index 3, expected 2" in message


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"classes": []}, "0 classes"),
        ({"classes": ["cat", "cat"]}, "'cat' is listed 2 times"),
        ({"classes": ["background"]}, "'background' cannot be a class"),
        ({"classes": ["../etc"]}, "letters, digits"),
        ({"classes": "cat"}, "expected a list"),
        ({"sources": []}, "sources is empty"),
        ({"sources": [{"name": "drawn", "limit": 0}]}, "limit is 0"),
        ({"filters": {"min_foreground": 20}}, "min_foreground is 20"),
        ({"filters": {"min_foreground": 0.8, "max_foreground": 0.2}}, "not below"),
        ({"longest_side": "big"}, "longest_side is 'big'"),
        ({"target": {"layout": "coco"}}, "layout is 'coco'"),
        ({"name": None}, "name is None"),
        ({"ignore_index": 1}, "ignore_index is 1"),
    ],
)
def test_what_is_wrong_is_named(values, part):
    assert part in refused(changed(**values))


def test_a_definition_that_is_no_mapping_or_no_yaml_is_refused(tmp_path):
    file = tmp_path / "zoo.yaml"
    for text, part in [("- cat\n", "expected a mapping"), ("a: [", "not a readable YAML file")]:
        file.write_text(text)
        with pytest.raises(SpecError, match=part):
            read_spec(file)


def test_an_unknown_definition_is_refused_with_the_known_ones():
    with pytest.raises(SpecError, match=r"no definition 'nothing'.*drawn"):
        read_spec("nothing")


def test_a_definition_file_is_read_from_where_it_is(tmp_path):
    file = tmp_path / "zoo.yaml"
    file.write_text(yaml.safe_dump(SMALL))
    assert read_spec(file) == spec_from_dict(SMALL)


def test_class_folders_become_the_classes_sorted_by_name_hidden_ones_left_out(tmp_path):
    for name in ("dog", "cat", "_noise", ".cache"):
        (tmp_path / name).mkdir()
    assert spec_from_folder(tmp_path, "pets").class_names == ("cat", "dog")


def test_a_folder_without_class_folders_is_refused(tmp_path):
    with pytest.raises(SpecError, match="no class folder found"):
        spec_from_folder(tmp_path, "pets")


def test_an_unknown_class_is_refused_with_the_known_ones():
    with pytest.raises(SpecError, match=r"no class 'dog'. Its classes: cat, cow"):
        spec_from_dict(SMALL).class_index("dog")
