"""A dataset from class names alone: what is searched for, what stands in the definition, and what is refused."""

import pytest
import yaml

import wss_data
from wss_data import spec
from wss_data.commands.cli import main
from wss_data.errors import SpecError
from wss_data.retrieval.expectation import expectation
from wss_data.runtime.home import dataset_folder
from wss_data.spec import SourceSpec, read_spec, spec_from_classes

pytestmark = pytest.mark.usefixtures("small_maps")

QUICK = ["--workers", "1"]


@pytest.fixture
def drawn_source(database, monkeypatch):
    """The drawn source in place of the web's."""
    monkeypatch.setattr("wss_data.spec.make.DEFAULT_SOURCES", (SourceSpec("drawn"),))


def test_names_become_classes_in_their_order_and_queries_are_the_words_as_typed():
    made = spec_from_classes(["cat", "traffic  light", "t-shirt"])

    assert made.class_names == ("cat", "traffic_light", "t-shirt")
    assert [one.queries for one in made.classes] == [("cat",), ("traffic light",), ("t-shirt",)]
    assert made.name == "cat-traffic_light-t-shirt"
    assert [(source.name, source.limit) for source in made.sources] == [(s.name, 300) for s in spec.DEFAULT_SOURCES]


def test_queries_are_added_to_the_name_and_those_of_background_find_images_without_a_class():
    made = spec_from_classes(
        ["traffic light", "dog"], queries={"traffic light": ["lights", "lights"], "background": ["sky"]}
    )

    assert made.classes[0].queries == ("traffic light", "lights")
    assert (made.classes[1].queries, made.background) == (("dog",), ("sky",))


def test_a_dataset_of_many_classes_has_a_short_name():
    assert spec_from_classes(list("abcde")).name == "a-b-c-and-2-more"
    assert spec_from_classes(list("abcde"), name="letters").name == "letters"


@pytest.mark.parametrize(
    ("classes", "queries", "words"),
    [
        ("cat", None, "expected a list of names"),
        (["cat", 3], None, "expected a list of names"),
        ([], None, "expected a list of names"),
        ([" "], None, "letters a to z"),
        (["../cat"], None, "letters a to z"),
        (["猫"], None, "--query NAME=WORDS"),
        (["cat", "pets.yaml"], None, "is the file of a definition"),
        (["traffic light", "traffic_light"], None, "are one class, traffic_light; give one of them"),
        (["traffic light", "traffic-light"], None, "are one to FiftyOne"),
        (["cat", "Cat"], None, "are one to FiftyOne"),
        (["cat", "cat"], None, "are one class, cat"),
        (["background"], None, "'background' cannot be a class"),
        (["cat"], {"dog": ["puppy"]}, "queries for 'dog', expected one of: cat, background"),
        (["cat"], {"background": ["cat"]}, "its images would teach that the class is background"),
    ],
)
def test_bad_names_are_refused_with_the_name_and_the_way_out(classes, queries, words):
    with pytest.raises(SpecError, match="class names") as caught:
        spec_from_classes(classes, queries=queries)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["voc20", "--classes", "cat"], "take the place of a definition"),
        (["--classes", "cat", "--images", "photos"], "take the place of a definition and of a folder"),
        (["drawn", "--limit", "3"], "go with class names alone"),
        (["--images", "photos", "--query", "cat=kitten"], "go with class names alone"),
        (["drawn", "--name", "mine"], "a name goes with class names or --images"),
        ([], "give class names"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused_in_one_line(arguments, words, capsys):
    assert main(["build", *arguments]) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1


@pytest.mark.parametrize("given", [["--classes", ""], ["--classes", "cat", "--query", "cat"], ["--classes"]])
def test_the_parser_names_the_argument_that_is_wrong(given, capsys):
    with pytest.raises(SystemExit):
        main(["build", *given])
    assert f"argument {given[-2] if len(given) > 1 else '--classes'}: " in capsys.readouterr().err


def test_what_to_expect_counts_the_sources_that_can_be_asked(monkeypatch):
    for name in ("OPENVERSE_CLIENT_ID", "OPENVERSE_CLIENT_SECRET", "WSS_CONTACT"):
        monkeypatch.delenv(name, raising=False)
    both = (SourceSpec("openverse"), SourceSpec("wikimedia"))
    monkeypatch.setattr("wss_data.spec.make.DEFAULT_SOURCES", both)
    pets = spec_from_classes(["cat", "dog"], queries={"dog": ["puppy"]})

    assert "at most 540 images of 2 classes from openverse; about 5 minutes" in expectation(pets, workers=1)
    monkeypatch.setenv("WSS_CONTACT", "you@example.org")
    assert "at most 1,140 images of 2 classes from openverse, wikimedia" in expectation(pets, workers=1)


def test_names_on_the_command_line_build_a_dataset_and_leave_a_definition_to_change(drawn_source, capsys):
    given = ["build", "--classes", "bird", "fish", "--limit", "3", "--name", "typed", *QUICK]
    assert main(given) == 0
    out = capsys.readouterr().out
    file = dataset_folder("typed") / "definition.yaml"
    assert "drawn  ready  at most 3 a class." in out and "at most 6 images of 2 classes from drawn" in out
    assert str(file) in out
    assert read_spec(file) == spec_from_classes(["bird", "fish"], "typed", limit=3)
    assert f"wss-data build {file}" in file.read_text()

    assert main(given) == 0, "the same words again: nothing to do"
    assert "at most 6 images" not in capsys.readouterr().out
    assert main(["build", "--classes", "bird", "fish", "--limit", "4", "--name", "typed", *QUICK]) == 0
    assert len(wss_data.open_dataset("typed")) == 8, "a file that nobody changed follows the words"

    changed = {**yaml.safe_load(file.read_text()), "filters": {"min_foreground": 0.1}}
    file.write_text("# mine\n" + yaml.safe_dump(changed))
    assert main(["build", str(file), *QUICK]) == 0
    capsys.readouterr()
    assert main(given) == 2
    assert "was changed since it was made from class names" in capsys.readouterr().err
    assert file.read_text().startswith("# mine"), "what a person wrote is never replaced"


def test_names_in_python_build_the_same_dataset(drawn_source):
    dataset = wss_data.build(classes=["bird"], limit=2, name="typed-in-python", progress=False, workers=1)

    assert (dataset.name, len(dataset)) == ("typed-in-python", 2)
    assert read_spec(dataset_folder(dataset.name) / "definition.yaml").class_names == ("bird",)


def test_names_that_a_dataset_does_not_have_leave_its_definition_as_it_is(drawn_source, capsys):
    wss_data.build(classes=["bird"], limit=2, name="birds-only", progress=False, workers=1)
    file = dataset_folder("birds-only") / "definition.yaml"
    before = file.read_bytes()

    assert main(["build", "--classes", "bird", "fish", "--name", "birds-only", *QUICK]) == 2
    assert "exists already" in capsys.readouterr().err
    assert file.read_bytes() == before


@pytest.mark.parametrize("changed", [False, True], ids=["as it was made", "changed by a person"])
def test_the_definition_follows_a_rename_and_goes_with_the_files_unless_a_person_changed_it(
    drawn_source, changed, capsys
):
    name = f"born-{changed}".lower()
    wss_data.build(classes=["bird"], limit=2, name=name, progress=False, workers=1)
    if changed:
        (dataset_folder(name) / "definition.yaml").open("a").write("# mine\n")
    assert main(["rename", name, f"{name}-again"]) == 0
    file = dataset_folder(f"{name}-again") / "definition.yaml"

    assert read_spec(file).name == (name if changed else f"{name}-again")
    assert changed or main(["build", "--classes", "bird", "--limit", "2", "--name", f"{name}-again", *QUICK]) == 0
    assert main(["delete", f"{name}-again", "--files"]) == 0
    assert file.exists() is changed
